"""Official StyleGAN (arXiv:1812.04948) TensorFlow pickles, read without TensorFlow."""

from typing import Any

import numpy as np

from converters.source import (
    Choice,
    Model,
    Network,
    Opened,
    Part,
    Reader,
    WeightError,
    check_options,
    colours,
    equalized,
    flattened,
    rotated,
)

LONGEST = 16  # taps of a filter
ROOT2 = 2**0.5
LICENSE = (
    "The weights keep the licence of their publisher; NVIDIA's official ones are "
    "CC BY-NC 4.0 (non-commercial)."
)
# Options that act only while training or on which picture is drawn, not on what a layer computes.
RUNTIME = (
    *("is_training", "is_validation", "is_template_graph", "return_dlatents", "structure"),
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val"),
    *("dlatent_avg_beta", "style_mixing_prob", "randomize_noise", "force_clean_graph", "dtype"),
    *("dlatent_broadcast", "mapping_func", "synthesis_func", "fmap_decay", "name", "func_name"),
    *("fmap_base", "fmap_max", "fmap_min", "resolution", "num_channels", "label_size"),
    *("latent_size", "dlatent_size", "mapping_fmaps", "mapping_layers", "components"),
)
SYNTHESIS = {
    "use_wscale": True,
    "use_noise": True,
    "use_styles": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "mapping_use_wscale": True,
    "const_input_layer": True,
    "mapping_lrmul": ...,
    "normalize_latents": ...,
    "blur_filter": ...,
    "fused_scale": ...,
}
DISCRIMINATOR = {
    "use_wscale": True,
    "nonlinearity": "lrelu",
    "mbstd_group_size": ...,
    "mbstd_num_features": ...,
    "blur_filter": ...,
    "fused_scale": ...,
}


def pick(opened: Opened, choice: Choice, average: str) -> tuple[Network, str]:
    """The generator asked for, by default the averaged one; WeightError if it is not there."""
    name = choice.network or average
    if name not in opened.networks:
        raise WeightError(
            f"{opened.path}: no network {name!r} in it; it has {', '.join(opened.networks)}: "
            "choose one of the generators with --network"
        )
    if choice.resolution is not None:
        raise WeightError(
            f"{opened.path}: --resolution is for files that hold every size; leave it out"
        )
    return opened.networks[name], name


def resolution_of(names: Any) -> int:
    """The largest RxR prefix among variable names."""
    sizes = [
        int(part[: len(part) // 2])
        for name in names
        for part in name.split("/")[:2]
        if "x" in part and part[: len(part) // 2].isdigit()
    ]
    if not sizes:
        raise WeightError("no 4x4/... layers in this network: not a StyleGAN of a known layout")
    return max(sizes)


def mapping(reader: Reader, prefix: str, gain: float, rate: float) -> dict[str, Any]:
    """Reads a TensorFlow mapping network; returns the architecture's part of it.

    LabelConcat of StyleGAN1 and 2 is normalised together with z, LabelEmbed of ADA by itself.
    """
    read, layers = reader.read, 0
    latent = None
    labels = embedded = 0
    if f"{prefix}LabelConcat/weight" in read:
        embedding = read(f"{prefix}LabelConcat/weight", (None, None))
        labels = embedding.shape[0]
        reader.put("mapping/embed/kernel", embedding)
        reader.put("mapping/embed/bias", np.zeros(embedding.shape[1]))
        latent = embedding.shape[1]
    elif f"{prefix}LabelEmbed/weight" in read:
        embedding = read(f"{prefix}LabelEmbed/weight", (None, None))
        labels, embedded = embedding.shape
        reader.put("mapping/embed/kernel", equalized(embedding))
        reader.put("mapping/embed/bias", read(f"{prefix}LabelEmbed/bias", (embedded,)))
    hidden = width = 0
    while f"{prefix}Dense{layers}/weight" in read:
        kernel = read(f"{prefix}Dense{layers}/weight", (None, None))
        hidden, width = width, kernel.shape[1]
        if latent is None:
            latent = kernel.shape[0] - embedded
        reader.put(f"mapping/layers/{layers}/kernel", equalized(kernel, gain * rate))
        bias = read(f"{prefix}Dense{layers}/bias", (width,))
        reader.put(f"mapping/layers/{layers}/bias", bias * np.float32(rate))
        layers += 1
    if not layers:
        raise WeightError("no mapping/Dense0/weight in this network")
    found = {
        "dim": width,
        "latent": latent,
        "hidden": hidden or width,
        "mapping_layers": layers,
        "labels": labels,
    }
    return found | ({"embedding": embedded, "normalize_each": True} if embedded else {})


def filter_of(taps: Any, where: str) -> list[float]:
    """The taps of a blur that the options give. WeightError unless they are 1 to 16 numbers."""
    numbers = isinstance(taps, list | tuple) and all(isinstance(tap, int | float) for tap in taps)
    if not numbers or not 1 <= len(taps) <= LONGEST:
        found = f"{len(taps)}" if numbers else "other"
        raise WeightError(
            f"{where}: a filter of {found} taps; want 1 to {LONGEST} numbers: the file is damaged "
            "or of another architecture"
        )
    return [float(tap) for tap in taps]


def is_fused(option: Any, size: int) -> bool:
    """Whether the up- or downscaling at `size` (the larger side) used the fused kernel."""
    return bool(size >= 128) if option == "auto" else bool(option)


def generator(network: Network, where: str) -> Part:
    """G_style: mapping and synthesis."""
    options = network.options
    check_options(options, SYNTHESIS, RUNTIME, where)
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put
    resolution = resolution_of(network.weights)
    architecture = {
        "resolution": resolution,
        **mapping(reader, "mapping/", ROOT2, options.get("mapping_lrmul", 0.01)),
    }
    dim = architecture["dim"]
    put("w_mean", read("dlatent_avg", (dim,)))
    const = read("synthesis/4x4/Const/const", (1, None, 4, 4))
    put("const", const[0].transpose(1, 2, 0))
    widths = []
    for k in range(2 * (resolution.bit_length() - 2)):
        size = 4 << (k // 2)
        name = (
            ("Const" if size == 4 else "Conv0_up")
            if k % 2 == 0
            else "Conv"
            if size == 4
            else "Conv1"
        )
        old = f"synthesis/{size}x{size}/{name}"
        new = "first" if k == 0 else f"rows/{k - 1}/layer"
        bias = read(f"{old}/bias", (None,))
        width = bias.shape[0]
        if k % 2 == 0:
            widths.append(width)
        put(f"{new}/bias", bias)
        put(f"{new}/strength", read(f"{old}/Noise/weight", (width,)))
        put(f"{new}/noise", read(f"synthesis/noise{k}", (1, 1, size, size))[0, 0])
        if k:
            kernel = equalized(read(f"{old}/weight", (3, 3, None, width)), ROOT2)
            fused = k % 2 == 0 and is_fused(options.get("fused_scale", "auto"), size)
            put(f"{new}/conv/kernel", rotated(kernel) if fused else kernel)
        style = read(f"{old}/StyleMod/weight", (dim, 2 * width))
        put(f"rows/{k}/style/kernel", equalized(style))
        shift = read(f"{old}/StyleMod/bias", (2 * width,))
        put(f"rows/{k}/style/bias", shift + np.repeat([1.0, 0.0], width))  # used as (scale + 1)
    kernel = read("synthesis/ToRGB_lod0/weight", (1, 1, widths[-1], None))
    put("to_rgb/0/kernel", equalized(kernel))
    put("to_rgb/0/bias", read("synthesis/ToRGB_lod0/bias", (kernel.shape[-1],)))
    architecture |= {
        "widths": widths,
        "channels": colours(kernel.shape[-1], where),
        "normalize_latents": bool(options.get("normalize_latents", True)),
        "taps": filter_of(options.get("blur_filter", [1, 2, 1]) or [1], where),
    }
    # ToRGB of lower sizes are leftovers of progressive growing; lod is the training's position.
    return reader.part(
        architecture, ["synthesis/ToRGB_lod*", "lod", "synthesis/lod", "mapping/lod"]
    )


def discriminator(network: Network, where: str) -> Part:
    """D_basic."""
    options = network.options
    check_options(options, DISCRIMINATOR, RUNTIME, where)
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put
    resolution = resolution_of(network.weights)

    def layer(old: str, new: str, gain: float = ROOT2) -> np.ndarray:
        kernel = read(f"{old}/weight", None)
        put(f"{new}/kernel", equalized(kernel, gain))
        put(f"{new}/bias", read(f"{old}/bias", (kernel.shape[-1],)))
        return kernel

    rgb = layer("FromRGB_lod0", "from_rgb/0")
    widths = []
    for level in range(resolution.bit_length() - 3):
        size = 8 << level
        kernel = layer(f"{size}x{size}/Conv0", f"blocks/{level}/0")
        widths.append(layer(f"{size}x{size}/Conv1_down", f"blocks/{level}/1").shape[-1])
    widths.append(kernel.shape[2])
    deviations = int(options.get("mbstd_num_features", 1))
    group = int(options.get("mbstd_group_size", 4))
    if group <= 1:
        deviations = 0
    layer("4x4/Conv", "conv")
    dense = layer("4x4/Dense0", "dense")
    reader.put("dense/kernel", flattened(reader.out["dense/kernel"], widths[0]))
    score = layer("4x4/Dense1", "score", 1.0)
    labels = score.shape[-1] if options.get("label_size", 0) else 0
    architecture = {
        "resolution": resolution,
        "widths": widths,
        "labels": labels,
        "channels": rgb.shape[2],
        "taps": filter_of(options.get("blur_filter", [1, 2, 1]) or [1], where),
        "group": group,
        "deviations": deviations,
        "last": dense.shape[-1],
    }
    return reader.part(architecture, ["FromRGB_lod*", "lod"])


def convert(opened: Opened, choice: Choice) -> Model:
    """A StyleGAN pickle -> generator and discriminator."""
    network, name = pick(opened, choice, "Gs")
    parts = {"generator": generator(network, f"{opened.path}: {name}")}
    if "D" in opened.networks:
        parts["discriminator"] = discriminator(opened.networks["D"], f"{opened.path}: D")
    return Model("stylegan1", parts, name, LICENSE)
