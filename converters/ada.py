"""StyleGAN2-ADA (arXiv:2006.06676) networks of PyTorch: the pickles' modules, and state dicts.

The StyleGAN2 pickles of the StyleGAN3 repository are of the same kind.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.pickles import shorten
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
    from_torch,
    refuse_wrapped,
    rotated,
)
from converters.stylegan1 import LONGEST

LICENSE = (
    "The weights keep the licence of their publisher; NVIDIA's official ones are under the "
    "Nvidia Source Code License-NC (non-commercial)."
)
CLAMP = 256  # of every official preset
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
    widths, channels = [], 3
    for k, (rgb, conv) in enumerate(row_names(resolution)):
        if rgb is not None:
            old, new = f"synthesis/b{rgb}/torgb", f"rows/{k}/to_rgb"
            kernel = from_torch(read(f"{old}/weight", (None, widths[-1], 1, 1)))
            channels = colours(kernel.shape[-1], where)
            put(f"{new}/conv/kernel", equalized(kernel))
            put(f"{new}/conv/bias", read(f"{old}/bias", (channels,)))
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
        "channels": channels,
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
    """State dicts, alone or as G_ema, G and D: these do not say what the networks clamp at."""
    tensors, name = opened.tensors, choice.network or "G_ema"
    found = [n for n in ("G_ema", "G") if isinstance(tensors.get(n), Mapping)]
    if choice.resolution is not None or (choice.network and choice.network not in found):
        raise WeightError(
            f"{opened.path}: holds {', '.join(found) or 'one state dict without names'} in one "
            "size; leave --resolution out, and --network or give one of these"
        )
    name = name if name in found or not found else found[0]
    refuse_wrapped(tensors[name] if found else tensors, "synthesis.b4.const", opened.path)
    said = str(opened.options.get("conv_clamp", CLAMP))
    if said.lower() not in ("none", "null") and not said.replace(".", "", 1).isdecimal():
        raise WeightError(f"{opened.path}: conv_clamp is '{shorten(said)}'; want a number or none")
    options = {"conv_clamp": float(said) if said[:1].isdecimal() else None}

    def network(kind: str, weights: Mapping[str, Any]) -> Network:
        return Network(kind, options, {n.replace(".", "/"): w for n, w in weights.items()})

    weights = network("Generator", tensors[name] if found else tensors)
    parts = {"generator": torch_generator(weights, f"{opened.path}: {name}")}
    if isinstance(tensors.get("D"), Mapping):
        critic = network("Discriminator", tensors["D"])
        parts["discriminator"] = torch_discriminator(critic, f"{opened.path}: D")
    notes = []
    if "conv_clamp" not in opened.options:
        notes.append(f"the file does not say its conv_clamp; it is taken as {CLAMP}, as published")
    return Model("stylegan2", parts, name, LICENSE, notes)
