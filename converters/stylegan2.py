"""Official StyleGAN2 (arXiv:1912.04958) pickles: TensorFlow's, and StyleGAN2-ADA's for PyTorch.

Read without TensorFlow and without torch; both become the same module.

    python -m converters.stylegan2 --src=stylegan2-ffhq-config-f.pkl --dst=models/ffhq2
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.command import (
    Choice,
    Model,
    Part,
    Reader,
    check_options,
    equalized,
    flattened,
    from_torch,
    rotated,
    run,
)
from converters.source import Network, Opened, WeightError
from converters.stylegan1 import LONGEST, RUNTIME, filter_of, mapping, pick, resolution_of

LICENSE = (
    "The weights keep the licence of their publisher; NVIDIA's official ones are under the "
    "Nvidia Source Code License-NC (non-commercial)."
)
TF_GENERATOR = {
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "architecture": "skip",
    "fused_modconv": ...,
    "mapping_lrmul": ...,
    "normalize_latents": ...,
    "resample_kernel": ...,
}
TF_DISCRIMINATOR = {
    "nonlinearity": "lrelu",
    "architecture": ...,
    "mbstd_group_size": ...,
    "mbstd_num_features": ...,
    "resample_kernel": ...,
}
NETWORK = (
    "args",
    "class_name",
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "w_avg_beta",
)
TORCH_SYNTHESIS = {
    "architecture": "skip",
    "activation": "lrelu",
    "kernel_size": 3,
    "use_noise": True,
    "resample_filter": ...,
    "conv_clamp": ...,
}
SPEED = (
    *("channel_base", "channel_max", "num_fp16_res", "use_fp16", "fp16_channels_last"),
    *("fused_modconv_default", "channels_last", "freeze_layers"),
)
FILTERS = {(taps,) * sides for taps in range(1, LONGEST + 1) for sides in (1, 2)}  # shapes
MAPPING = {
    "activation": "lrelu",
    "lr_multiplier": ...,
    "num_layers": ...,
    "embed_features": ...,
    "layer_features": ...,
    "w_avg_beta": ...,
}


def row_names(resolution: int) -> list[tuple[str | None, str | None]]:
    """(ToRGB's block, convolution) of each W+ row, as sizes: ("8", "16/up") for row 3."""
    sizes = [4 << i for i in range(resolution.bit_length() - 2)]
    rows: list[tuple[str | None, str | None]] = []
    for i, size in enumerate(sizes):
        rows.append((None, f"{size}/conv"))
        rows.append((f"{size}", f"{sizes[i + 1]}/up" if i + 1 < len(sizes) else None))
    return rows


def tf_generator(network: Network, where: str) -> Part:
    """G_main: G_mapping and G_synthesis_stylegan2."""
    options = network.options
    check_options(options, TF_GENERATOR, RUNTIME, where)
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put
    resolution = resolution_of(network.weights)
    architecture = {
        "resolution": resolution,
        **mapping(reader, "mapping/", 1.0, options.get("mapping_lrmul", 0.01)),
    }
    dim = architecture["dim"]
    put("w_mean", read("dlatent_avg", (dim,)))
    const = read("synthesis/4x4/Const/const", (1, None, 4, 4))
    put("const", const[0].transpose(1, 2, 0))

    def affine(old: str, new: str, channels: int) -> None:
        put(f"{new}/kernel", equalized(read(f"{old}/mod_weight", (dim, channels))))
        put(f"{new}/bias", read(f"{old}/mod_bias", (channels,)) + 1)

    widths, colours, noises = [], 3, 0
    for k, (rgb, conv) in enumerate(row_names(resolution)):
        if rgb is not None:
            old, new = f"synthesis/{rgb}x{rgb}/ToRGB", f"rows/{k}/to_rgb"
            kernel = read(f"{old}/weight", (1, 1, widths[-1], None))
            colours = kernel.shape[-1]
            put(f"{new}/conv/kernel", equalized(kernel))
            put(f"{new}/conv/bias", read(f"{old}/bias", (colours,)))
            affine(old, f"{new}/affine", widths[-1])
        if conv is not None:
            size, role = conv.split("/")
            layer = "Conv0_up" if role == "up" else "Conv" if size == "4" else "Conv1"
            old, new = f"synthesis/{size}x{size}/{layer}", f"rows/{k}/conv"
            kernel = read(f"{old}/weight", (3, 3, None, None))
            if size == "4" or role == "up":
                widths.append(kernel.shape[-1])
            put(f"{new}/conv/kernel", equalized(kernel))
            put(f"{new}/conv/bias", read(f"{old}/bias", (widths[-1],)))
            put(f"{new}/strength", read(f"{old}/noise_strength", ()))
            shape = (1, 1, int(size), int(size))
            put(f"{new}/noise", read(f"synthesis/noise{noises}", shape)[0, 0])
            affine(old, f"{new}/affine", kernel.shape[2])
            noises += 1
    architecture |= {
        "widths": widths,
        "channels": colours,
        "normalize_latents": bool(options.get("normalize_latents", True)),
        "taps": filter_of(options.get("resample_kernel") or [1, 3, 3, 1], where),
    }
    return reader.part(architecture, ["lod", "synthesis/lod", "mapping/lod"])


def tf_discriminator(network: Network, where: str) -> Part:
    """D_stylegan2, architectures resnet and orig."""
    options = network.options
    check_options(options, TF_DISCRIMINATOR, RUNTIME, where)
    kind = options.get("architecture", "resnet")
    if kind not in ("resnet", "orig"):
        raise WeightError(f"{where}: discriminator architecture {kind!r} is not supported")
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put
    resolution = resolution_of(network.weights)

    def layer(old: str, new: str) -> np.ndarray:
        kernel = read(f"{old}/weight")
        put(f"{new}/kernel", equalized(kernel))
        put(f"{new}/bias", read(f"{old}/bias", (kernel.shape[-1],)))
        return kernel

    rgb = layer(f"{resolution}x{resolution}/FromRGB", "from_rgb")
    widths = []
    for level in range(resolution.bit_length() - 3):
        old, new = f"{8 << level}x{8 << level}", f"blocks/{level}"
        layer(f"{old}/Conv0", f"{new}/conv")
        widths.append(layer(f"{old}/Conv1_down", f"{new}/down").shape[-1])
        if kind == "resnet":
            put(f"{new}/skip/kernel", equalized(read(f"{old}/Skip/weight")))
    widths.append(rgb.shape[-1])
    group = int(options.get("mbstd_group_size", 4))
    layer("4x4/Conv", "conv")
    dense = layer("4x4/Dense0", "dense")
    put("dense/kernel", flattened(reader.out["dense/kernel"], widths[0]))
    score = layer("Output", "score")
    architecture = {
        "resolution": resolution,
        "widths": widths,
        "labels": score.shape[-1] if options.get("label_size", 0) else 0,
        "channels": rgb.shape[2],
        "residual": kind == "resnet",
        "taps": filter_of(options.get("resample_kernel") or [1, 3, 3, 1], where),
        "group": group,
        "deviations": int(options.get("mbstd_num_features", 1)) if group > 1 else 0,
        "last": dense.shape[-1],
    }
    return reader.part(architecture, ["lod"])


def torch_dense(reader: Reader, old: str, new: str, rate: float = 1.0) -> tuple[int, int]:
    """A FullyConnectedLayer; returns (inputs, outputs)."""
    kernel = from_torch(reader.read(f"{old}/weight", (None, None)))
    reader.put(f"{new}/kernel", equalized(kernel, rate))
    outputs = kernel.shape[1]
    bias = reader.read(f"{old}/bias", (outputs,)) if f"{old}/bias" in reader.read else None
    reader.put(f"{new}/bias", np.zeros(outputs) if bias is None else bias * np.float32(rate))
    return kernel.shape[0], outputs


def torch_mapping(
    reader: Reader, prefix: str, options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """A MappingNetwork; returns its part of the architecture."""
    check_options(options, MAPPING, NETWORK, f"{where}: mapping")
    rate = float(options.get("lr_multiplier", 0.01))
    labels = embedding = 0
    if f"{prefix}embed/weight" in reader.read:
        labels, embedding = torch_dense(reader, f"{prefix}embed", "mapping/embed")
    layers, inputs, hidden, width = 0, 0, 0, 0
    while f"{prefix}fc{layers}/weight" in reader.read:
        previous = width
        first, width = torch_dense(reader, f"{prefix}fc{layers}", f"mapping/layers/{layers}", rate)
        inputs, hidden = (inputs or first), previous
        layers += 1
    if not layers:
        raise WeightError(f"{where}: no {prefix}fc0/weight")
    return {
        "dim": width,
        "latent": inputs - embedding,
        "hidden": hidden or width,
        "mapping_layers": layers,
        "labels": labels,
        "embedding": embedding,
    }


def taps_of(reader: Reader, suffix: str, where: str) -> list[float]:
    """The FIR taps from the stored 4x4 (separable) or 1-D filters; all layers must agree."""
    filters = [reader.read(name) for name in reader.weights if name.endswith(suffix)]
    for filter_ in filters:
        if filter_.shape not in FILTERS:
            raise WeightError(
                f"{where}: a resample filter of shape {filter_.shape}; want (n,) or (n, n), n up "
                f"to {LONGEST}: the file is damaged or of another architecture"
            )
    found = {tuple(np.round(f.sum(axis=0) if f.ndim == 2 else f, 7).tolist()): f for f in filters}
    if len(found) > 1:
        raise WeightError(f"{where}: layers use {len(found)} different resample filters")
    for filter_ in found.values():
        if filter_.ndim == 2:
            taps = filter_.sum(axis=0)
            if not np.allclose(np.outer(taps, taps) / taps.sum(), filter_, atol=1e-6):
                raise WeightError(f"{where}: the resample filter is not separable")
        else:
            taps = filter_
        scaled = taps / taps[0] if taps[0] else taps
        return [float(np.round(tap, 6)) for tap in scaled]
    return [1.0, 3.0, 3.0, 1.0]


def number(value: Any) -> float | None:
    """A float, or None kept."""
    return None if value is None else float(value)


def torch_generator(network: Network, where: str) -> Part:
    """ADA's Generator: MappingNetwork and SynthesisNetwork with skip connections."""
    options = dict(network.options)
    synthesis = dict(options.pop("synthesis_kwargs", None) or {})
    mapping_options = dict(options.pop("mapping_kwargs", None) or {})
    synthesis |= {name: value for name, value in options.items() if name not in NETWORK}
    check_options(synthesis, TORCH_SYNTHESIS, SPEED, where)
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put
    sizes = [int(n.split("/")[1][1:]) for n in reader.weights if n.startswith("synthesis/b")]
    if not sizes:
        raise WeightError(f"{where}: no synthesis/b4 ... blocks: not a StyleGAN2 generator")
    resolution = max(sizes)
    architecture = {
        "resolution": resolution,
        **torch_mapping(reader, "mapping/", mapping_options, where),
        "normalize_each": True,
    }
    dim = architecture["dim"]
    put("w_mean", read("mapping/w_avg", (dim,)))
    put("const", read("synthesis/b4/const", (None, 4, 4)).transpose(1, 2, 0))
    widths, colours = [], 3
    for k, (rgb, conv) in enumerate(row_names(resolution)):
        if rgb is not None:
            old, new = f"synthesis/b{rgb}/torgb", f"rows/{k}/to_rgb"
            kernel = from_torch(read(f"{old}/weight", (None, widths[-1], 1, 1)))
            colours = kernel.shape[-1]
            put(f"{new}/conv/kernel", equalized(kernel))
            put(f"{new}/conv/bias", read(f"{old}/bias", (colours,)))
            torch_dense(reader, f"{old}/affine", f"{new}/affine")
        if conv is not None:
            size, role = conv.split("/")
            old = f"synthesis/b{size}/{'conv0' if role == 'up' else 'conv1'}"
            new = f"rows/{k}/conv"
            kernel = from_torch(read(f"{old}/weight", (None, None, 3, 3)))
            if size == "4" or role == "up":
                widths.append(kernel.shape[-1])
            # No constant is folded in: demodulation cancels it. Upsampling kernels are stored for
            # true convolution.
            put(f"{new}/conv/kernel", rotated(kernel) if role == "up" else kernel)
            put(f"{new}/conv/bias", read(f"{old}/bias", (widths[-1],)))
            put(f"{new}/strength", read(f"{old}/noise_strength", ()))
            put(f"{new}/noise", read(f"{old}/noise_const", (int(size), int(size))))
            torch_dense(reader, f"{old}/affine", f"{new}/affine")
    architecture |= {
        "widths": widths,
        "channels": colours,
        "taps": taps_of(reader, "/resample_filter", where),
        "clamp": number(synthesis.get("conv_clamp")),
    }
    return reader.part(architecture)


def torch_discriminator(network: Network, where: str) -> Part:
    """ADA's Discriminator, architectures resnet and orig."""
    options = dict(network.options)
    kind = options.get("architecture", "resnet")
    if kind not in ("resnet", "orig"):
        raise WeightError(f"{where}: discriminator architecture {kind!r} is not supported")
    epilogue = dict(options.pop("epilogue_kwargs", None) or {})
    block = dict(options.pop("block_kwargs", None) or {})
    mapping_options = dict(options.pop("mapping_kwargs", None) or {})
    allowed = {"architecture": ..., "conv_clamp": ..., "cmap_dim": ..., "activation": "lrelu"}
    check_options(options, allowed, (*NETWORK, *SPEED), where)
    check_options(block, {"activation": "lrelu", "resample_filter": ...}, SPEED, where)
    check_options(
        epilogue,
        {"mbstd_group_size": ..., "mbstd_num_channels": ..., "activation": "lrelu"},
        (),
        where,
    )
    reader = Reader(network.weights, where)
    read, put = reader.read, reader.put

    def layer(old: str, new: str) -> np.ndarray:
        kernel = from_torch(read(f"{old}/weight", (None, None, None, None)))
        put(f"{new}/kernel", equalized(kernel))
        if f"{old}/bias" in read:
            put(f"{new}/bias", read(f"{old}/bias", (kernel.shape[-1],)))
        return kernel

    sizes = [int(n.split("/")[0][1:]) for n in reader.weights if n[0] == "b" and n[1].isdigit()]
    if not sizes:
        raise WeightError(f"{where}: no b4 ... blocks: not a StyleGAN2 discriminator")
    resolution = max(sizes)
    rgb = layer(f"b{resolution}/fromrgb", "from_rgb")
    widths = []
    for level in range(resolution.bit_length() - 3):
        old, new = f"b{8 << level}", f"blocks/{level}"
        layer(f"{old}/conv0", f"{new}/conv")
        widths.append(layer(f"{old}/conv1", f"{new}/down").shape[-1])
        if kind == "resnet":
            layer(f"{old}/skip", f"{new}/skip")
    widths.append(rgb.shape[-1])
    conv = layer("b4/conv", "conv")
    _, last = torch_dense(reader, "b4/fc", "dense")
    put("dense/kernel", flattened(reader.out["dense/kernel"], widths[0]))
    _, outputs = torch_dense(reader, "b4/out", "score")
    architecture: dict[str, Any] = {
        "resolution": resolution,
        "widths": widths,
        "channels": rgb.shape[2],
        "residual": kind == "resnet",
        "taps": taps_of(reader, "/resample_filter", where),
        "group": epilogue.get("mbstd_group_size", 4),
        "deviations": conv.shape[2] - widths[0],
        "last": last,
        "clamp": number(options.get("conv_clamp")),
    }
    if any(name.startswith("mapping/") for name in reader.weights):
        found = torch_mapping(reader, "mapping/", mapping_options, where)
        architecture |= {
            "labels": found["labels"],
            "projection": outputs,
            "mapping_layers": found["mapping_layers"],
            "mapping_hidden": found["hidden"],
            "embedding": found["embedding"],
        }
    return reader.part(architecture)


def convert(opened: Opened, choice: Choice) -> Model:
    """A StyleGAN2 pickle of either kind -> generator and discriminator."""
    torch = opened.format == "ada-pickle"
    network, name = pick(opened, choice, "G_ema" if torch else "Gs")
    make_generator, make_discriminator = (
        (torch_generator, torch_discriminator) if torch else (tf_generator, tf_discriminator)
    )
    parts = {"generator": make_generator(network, f"{opened.path}: {name}")}
    if "D" in opened.networks:
        parts["discriminator"] = make_discriminator(opened.networks["D"], f"{opened.path}: D")
    return Model("stylegan2", parts, name, LICENSE)


if __name__ == "__main__":
    run(convert)
