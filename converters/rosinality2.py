"""StyleGAN2 checkpoints of the PyTorch re-implementation rosinality/stylegan2-pytorch.

    python -m converters.rosinality2 --src=stylegan2-ffhq-config-f.pt --dst=models/ffhq2

Files of its training and of its conversion from TensorFlow, and generators saved alone. Only
converted ones hold the average w: for others it is the mean of 10,000 mapped z (seed 0), and a
file without noise images gets drawn ones (seed 0).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converters.ada import row_names, taps_of
from converters.command import (
    Choice,
    Model,
    Part,
    Reader,
    colours,
    equalized,
    flattened,
    from_torch,
    rotated,
    run,
)
from converters.rosinality import WIDEST, mean_w
from converters.source import Opened, WeightError

LARGEST = 1024
RATE = np.float32(0.01)  # of the mapping network's layers
LICENSE = (
    "The weights keep the licence of their publisher; those converted from NVIDIA's are under the "
    "Nvidia Source Code License-NC (non-commercial)."
)


class Layers(Reader):
    """Reads that code base's layers."""

    def linear(self, old: str, new: str, rate: float | np.float32 = 1.0) -> tuple[int, int]:
        """EqualLinear; returns (inputs, outputs)."""
        kernel = from_torch(self.read(f"{old}.weight", (None, None)))
        self.put(f"{new}/kernel", equalized(kernel, float(rate)))
        self.put(f"{new}/bias", self.read(f"{old}.bias", (kernel.shape[1],)) * np.float32(rate))
        return kernel.shape[0], kernel.shape[1]

    def conv(self, old: str, new: str, bias: str | None = None) -> np.ndarray:
        """EqualConv2d, with the bias of the activation behind it."""
        kernel = from_torch(self.read(f"{old}.weight", (None, None, None, None)))
        self.put(f"{new}/kernel", equalized(kernel))
        if bias is not None:
            self.put(f"{new}/bias", self.read(f"{bias}.bias", (kernel.shape[-1],)))
        return kernel

    def modulated(self, old: str, new: str, channels: int | None, side: int) -> np.ndarray:
        """ModulatedConv2d: its style goes to the model, its kernel comes back, scaled."""
        stored = self.read(f"{old}.conv.weight", (1, None, channels, side, side))
        self.linear(f"{old}.conv.modulation", f"{new}/affine")
        return equalized(from_torch(stored[0]))


def generator(weights: Mapping[str, np.ndarray], average: np.ndarray | None, where: str) -> Part:
    """Generator's state dict; `average` is the mean of w, [dim] or [1, dim], if it is known."""
    reader = Layers(weights, where)
    read, put = reader.read, reader.put
    count = 0
    while f"to_rgbs.{count}.conv.weight" in read:
        count += 1
    resolution = 4 << count
    if not 8 <= resolution <= LARGEST:
        raise WeightError(
            f"{where}: {count} to_rgbs where 1 to 8 belong, for 8 to {LARGEST} px; "
            "the file is damaged or of another architecture"
        )
    layers, latent, dim = 0, 0, 0
    while f"style.{layers + 1}.weight" in read:
        inputs, dim = reader.linear(f"style.{layers + 1}", f"mapping/layers/{layers}", RATE)
        if max(inputs, dim) > WIDEST:
            raise WeightError(
                f"{where}: mapping layer {layers} maps {inputs} to {dim} numbers where at most "
                f"{WIDEST} belong; the file is damaged or of another architecture"
            )
        latent, layers = latent or inputs, layers + 1
    read.need(["style.1.weight"])
    const = read("input.input", (1, None, 4, 4))
    put("const", const[0].transpose(1, 2, 0))
    widths, channels = [const.shape[1]], 3
    drawn = np.random.default_rng(0)
    for k, (rgb, conv) in enumerate(row_names(resolution)):
        if rgb is not None:
            old = "to_rgb1" if k == 1 else f"to_rgbs.{(k - 3) // 2}"
            new = f"rows/{k}/to_rgb"
            kernel = reader.modulated(old, new, widths[-1], 1)
            channels = colours(kernel.shape[-1], where)
            put(f"{new}/conv/kernel", kernel)
            put(f"{new}/conv/bias", read(f"{old}.bias", (1, channels, 1, 1)).reshape(-1))
        if conv is not None:
            size, role = conv.split("/")
            old, new = "conv1" if k == 0 else f"convs.{k - 1}", f"rows/{k}/conv"
            kernel = reader.modulated(old, new, widths[-1], 3)
            if role == "up":  # those are stored for true convolution
                kernel = rotated(kernel)
                widths.append(kernel.shape[-1])
            put(f"{new}/conv/kernel", kernel)
            put(f"{new}/conv/bias", read(f"{old}.activate.bias", (widths[-1],)))
            put(f"{new}/strength", read(f"{old}.noise.weight", (1,)).reshape(()))
            noise = drawn.standard_normal((int(size), int(size)), np.float32)
            if "noises.noise_0" in read:
                noise = read(f"noises.noise_{k}", (1, 1, *noise.shape))[0, 0]
            put(f"{new}/noise", noise)
    if average is None:
        put("w_mean", mean_w(reader.out, layers, latent, 2**0.5))
    else:
        put("w_mean", average_of(average, (1, dim), where)[0])
    architecture = {
        "resolution": resolution,
        "widths": widths,
        "dim": dim,
        "latent": latent,
        "hidden": reader.out["mapping/layers/0/bias"].shape[0],
        "mapping_layers": layers,
        "channels": channels,
        "taps": taps_of(reader, ".kernel", where),
    }
    return reader.part(architecture)


def average_of(stored: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """`latent_avg`, a vector or several rows, as rows of `shape`. WeightError: another shape."""
    read = Reader({"latent_avg": stored}, where).read("latent_avg")
    rows = read[None] if read.ndim == 1 else read
    if rows.ndim != 2 or rows.shape[0] not in (1, shape[0]) or rows.shape[1] != shape[1]:
        raise WeightError(f"{where}: latent_avg has shape {read.shape} where {shape} belongs")
    return np.broadcast_to(rows, shape)


def discriminator(weights: Mapping[str, np.ndarray], where: str) -> Part:
    """Discriminator's state dict. Its lists run from the largest size down."""
    reader = Layers(weights, where)
    count = 0
    while f"convs.{count + 1}.conv1.0.weight" in reader.read:
        count += 1
    if not 1 <= count <= 8:
        raise WeightError(f"{where}: {count} blocks where 1 to 8 belong, for 8 to {LARGEST} px")
    rgb = reader.conv("convs.0.0", "from_rgb", "convs.0.1")
    widths = [rgb.shape[-1]]
    for level in reversed(range(count)):
        old, new = f"convs.{count - level}", f"blocks/{level}"
        reader.conv(f"{old}.conv1.0", f"{new}/conv", f"{old}.conv1.1")
        down = reader.conv(f"{old}.conv2.1", f"{new}/down", f"{old}.conv2.2")
        reader.conv(f"{old}.skip.1", f"{new}/skip")
        widths.insert(0, down.shape[-1])
    conv = reader.conv("final_conv.0", "conv", "final_conv.1")
    _, last = reader.linear("final_linear.0", "dense")
    reader.put("dense/kernel", flattened(reader.out["dense/kernel"], widths[0]))
    reader.linear("final_linear.1", "score")
    architecture = {
        "resolution": 4 << count,
        "widths": widths,
        "channels": rgb.shape[2],
        "taps": taps_of(reader, ".kernel", where),
        "group": 4,
        "deviations": conv.shape[2] - widths[0],
        "last": last,
    }
    return reader.part(architecture)


def bare(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the `module.` that training on several devices puts before names."""
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def notes_on(weights: Mapping[str, Any], average: object) -> Sequence[str]:
    """What the user should know about what a generator's file lacks."""
    notes = []
    if average is None:
        notes.append("the file holds no average w; it is the mean of 10,000 mapped z")
    if not any(name.startswith("noises.") for name in weights):
        notes.append("the file holds no noise images; they were drawn (seed 0)")
    return notes


def convert(opened: Opened, choice: Choice) -> Model:
    """A checkpoint with g_ema, or a generator's state dict alone."""
    tensors, name = opened.tensors, choice.network or "g_ema"
    found = [n for n in ("g_ema", "g") if isinstance(tensors.get(n), Mapping)]
    if choice.resolution is not None:
        raise WeightError(
            f"{opened.path}: --resolution is for files that hold every size; leave it out"
        )
    if found and name not in found:
        raise WeightError(f"{opened.path}: no network {name!r} in it; it has {', '.join(found)}")
    if not found and choice.network:
        raise WeightError(f"{opened.path}: one state dict without names; leave --network out")
    weights = bare(tensors[name] if found else tensors)
    average = weights.pop("latent_avg", None) if not found else tensors.get("latent_avg")
    parts = {"generator": generator(weights, average, f"{opened.path}: {name}")}
    if found and isinstance(tensors.get("d"), Mapping):
        parts["discriminator"] = discriminator(bare(tensors["d"]), f"{opened.path}: d")
    return Model("stylegan2", parts, name, LICENSE, notes_on(weights, average))


if __name__ == "__main__":
    run(convert)
