"""StyleGAN checkpoints of the PyTorch re-implementation rosinality/style-based-gan-pytorch.

They hold every size up to 1024 px whatever was trained, no noise images and no average w: the
converter draws the noise (one image per size, used twice, seed 0) and leaves the average at the
mean of 10,000 mapped z.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.source import (
    Choice,
    Model,
    Opened,
    Part,
    Reader,
    WeightError,
    colours,
    fan_in,
    from_torch,
    refuse_wrapped,
    rotated,
)

LEVELS = 9  # sizes from 4 to 1024 px
WIDEST = 4096  # numbers in z, w and between
LICENSE = (
    "The weights keep the licence of their publisher and of the faces they were trained on; "
    "the re-implementation's published FFHQ weights are for non-commercial use."
)


def _scaled(kernel: np.ndarray) -> np.ndarray:
    """He's constant, sqrt(2 / inputs), that every layer there multiplies in at run time."""
    return kernel * np.float32(np.sqrt(2 / fan_in(kernel)))


class Layers(Reader):
    """Reads that code base's layers."""

    def linear(self, old: str, new: str) -> np.ndarray:
        """EqualLinear."""
        kernel = _scaled(from_torch(self.read(f"{old}.linear.weight_orig", (None, None))))
        self.put(f"{new}/kernel", kernel)
        self.put(f"{new}/bias", self.read(f"{old}.linear.bias", (kernel.shape[1],)))
        return kernel

    def conv(self, old: str, new: str) -> np.ndarray:
        """EqualConv2d."""
        kernel = _scaled(from_torch(self.read(f"{old}.conv.weight_orig", (None, None, None, None))))
        self.put(f"{new}/kernel", kernel)
        self.put(f"{new}/bias", self.read(f"{old}.conv.bias", (kernel.shape[-1],)))
        return kernel


def generator(weights: Mapping[str, np.ndarray], resolution: int | None, where: str) -> Part:
    """StyledGenerator's state dict, all sizes up to `resolution`."""
    reader = Layers(weights, where)
    read, put = reader.read, reader.put
    count = 0
    while f"generator.progression.{count}.noise1.weight_orig" in read:
        count += 1
    if count < 2:
        raise WeightError(f"{where}: no generator.progression.*: not a StyledGenerator")
    if count > LEVELS:
        raise WeightError(
            f"{where}: {count} sizes where at most {LEVELS} belong, 4 to 1024 px; "
            "the file is damaged or of another architecture"
        )
    found = 4 << (count - 1)
    resolution = found if resolution is None else resolution
    if resolution not in [4 << i for i in range(1, count)]:
        raise WeightError(f"{where}: --resolution={resolution}, but it holds 8 to {found} px")
    levels = resolution.bit_length() - 2

    dense, latent, dim = 0, 0, 0
    while f"style.{2 * dense + 1}.linear.weight_orig" in read:
        kernel = reader.linear(f"style.{2 * dense + 1}", f"mapping/layers/{dense}")
        if max(kernel.shape) > WIDEST:
            raise WeightError(
                f"{where}: mapping layer {dense} has shape {kernel.shape} where at most {WIDEST} "
                "numbers go in and out; the file is damaged or of another architecture"
            )
        latent, dim = latent or kernel.shape[0], kernel.shape[1]
        dense += 1
    widths: list[int] = []
    random = np.random.default_rng(0)
    for level in range(levels):
        size, block = 4 << level, f"generator.progression.{level}"
        noise = random.standard_normal((size, size), np.float32)
        for half in (0, 1):
            k = 2 * level + half
            new = "first" if k == 0 else f"rows/{k - 1}/layer"
            if k == 0:
                const = read(f"{block}.conv1.input", (1, None, 4, 4))
                put("const", const[0].transpose(1, 2, 0))
                width = const.shape[1]
            elif half == 0 and f"{block}.conv1.0.weight" in read:  # fused, as in FusedUpsample
                kernel = read(f"{block}.conv1.0.weight", (widths[-1], None, 3, 3))
                kernel = rotated(_scaled(kernel.transpose(2, 3, 0, 1))) / 4
                width = kernel.shape[-1]
                put(f"{new}/conv/kernel", kernel)
                put(f"{new}/bias", read(f"{block}.conv1.0.bias", (width,)))
            else:
                kernel = reader.conv(f"{block}.conv1.1" if half == 0 else f"{block}.conv2", new)
                put(f"{new}/conv/kernel", reader.out.pop(f"{new}/kernel"))
                width = kernel.shape[-1]
            if half == 0:
                widths.append(width)
            put(f"{new}/noise", noise)
            strength = read(f"{block}.noise{half + 1}.weight_orig", (1, width, 1, 1)).reshape(-1)
            put(f"{new}/strength", strength * np.float32(np.sqrt(2 / width)))
            reader.linear(f"{block}.adain{half + 1}.style", f"rows/{k}/style")
        reader.conv(f"generator.to_rgb.{level}", f"to_rgb/{level}")
    architecture = {
        "resolution": resolution,
        "widths": widths,
        "dim": dim,
        "latent": latent,
        "hidden": dim,
        "mapping_layers": dense,
        "channels": colours(reader.out["to_rgb/0/bias"].shape[0], where),
        "bias_first": True,
        "epsilon": 1e-5,
        "all_levels": True,
    }
    put("w_mean", mean_w(reader.out, dense, latent))
    above = [f"generator.progression.{level}.*" for level in range(levels, count)]
    above += [f"generator.to_rgb.{level}.*" for level in range(levels, count)]
    blurs = ["generator.progression.*.conv1.*.weight", "generator.progression.*.weight_flip"]
    return reader.part(architecture, [*above, *blurs])


def mean_w(
    arrays: Mapping[str, np.ndarray], layers: int, latent: int, gain: float = 1.0
) -> np.ndarray:
    """The mean of 10,000 mapped z (seed 0), as that code base computes it when it truncates.

    `gain` follows each activation, as in fxjax.nn.layers.Mapping.
    """
    random, means = np.random.default_rng(0), []
    for _ in range(20):
        x = random.standard_normal((500, latent), np.float32)
        x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-8)
        for i in range(layers):
            x = x @ arrays[f"mapping/layers/{i}/kernel"] + arrays[f"mapping/layers/{i}/bias"]
            x = np.maximum(x, 0.2 * x) * np.float32(gain)
        means.append(x.mean(axis=0))
    return np.mean(means, axis=0)


def discriminator(weights: Mapping[str, np.ndarray], resolution: int, where: str) -> Part:
    """Discriminator's state dict, all sizes up to `resolution`. Its lists run from 1024 px down."""
    reader = Layers(weights, where)
    read, put = reader.read, reader.put
    count = 0
    while f"progression.{count}.conv1.0.conv.weight_orig" in read:
        count += 1
    levels = resolution.bit_length() - 2
    if count < levels:
        raise WeightError(f"{where}: {count} sizes, but {resolution} px needs {levels}")
    widths: list[int] = []
    activated = f"from_rgb.{count - 1}.0.conv.bias" in read
    last = f"progression.{count - 1}"
    conv = reader.conv(f"{last}.conv1.0", "conv")
    widths.append(conv.shape[-1])
    kernel = _scaled(from_torch(read(f"{last}.conv2.0.conv.weight_orig", (None, widths[0], 4, 4))))
    put("dense/kernel", kernel.reshape(-1, kernel.shape[-1]))
    put("dense/bias", read(f"{last}.conv2.0.conv.bias", (kernel.shape[-1],)))
    reader.linear("linear", "score")
    for level in range(1, levels):
        old, new = f"progression.{count - 1 - level}", f"blocks/{level - 1}"
        widths.append(reader.conv(f"{old}.conv1.0", f"{new}/0").shape[2])
        if f"{old}.conv2.1.weight" in read:  # fused, as in FusedDownsample
            down = _scaled(from_torch(read(f"{old}.conv2.1.weight", (None, None, 3, 3))))
            put(f"{new}/1/kernel", down)
            put(f"{new}/1/bias", read(f"{old}.conv2.1.bias", (down.shape[-1],)))
        else:
            reader.conv(f"{old}.conv2.1", f"{new}/1")
    for level in range(levels):
        rgb = f"from_rgb.{count - 1 - level}"
        reader.conv(f"{rgb}.0" if activated else rgb, f"from_rgb/{level}")
    architecture: dict[str, Any] = {
        "resolution": resolution,
        "widths": widths,
        "channels": reader.out["from_rgb/0/kernel"].shape[2],
        "group": None,
        "last": kernel.shape[-1],
        "activate_rgb": activated,
        "narrow_first": True,
        "all_levels": True,
    }
    above = [f"{name}.{i}.*" for i in range(count - levels) for name in ("progression", "from_rgb")]
    blurs = ["progression.*.conv2.0.weight", "progression.*.conv2.0.weight_flip"]
    return reader.part(architecture, [*above, *blurs])


def convert(opened: Opened, choice: Choice) -> Model:
    """A training checkpoint, or the averaged generator's state dict alone."""
    tensors = opened.tensors
    whole = [n for n in ("g_running", "generator") if isinstance(tensors.get(n), Mapping)]
    name = choice.network or "g_running"
    if whole and name not in whole:
        raise WeightError(
            f"{opened.path}: no network {name!r} in it; it has {', '.join(whole)}: "
            f"give --network={whole[0]}"
        )
    if not whole and choice.network:
        raise WeightError(f"{opened.path}: one state dict without names; leave --network out")
    weights = tensors[name] if whole else tensors
    refuse_wrapped(weights, "generator.progression.0.conv1.input", opened.path)
    part = generator(weights, choice.resolution, f"{opened.path}: {name}")
    parts = {"generator": part}
    resolution = part[0]["resolution"]
    if whole and isinstance(tensors.get("discriminator"), Mapping):
        where = f"{opened.path}: discriminator"
        parts["discriminator"] = discriminator(tensors["discriminator"], resolution, where)
    notes = []
    if choice.resolution is None:
        notes.append(
            f"the file holds every size up to {resolution} px whatever was trained; if the "
            "training stopped lower, convert again with --resolution"
        )
    return Model("stylegan1", parts, name, LICENSE, notes)
