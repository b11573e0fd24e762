"""Official StyleGAN2 (arXiv:1912.04958) pickles: TensorFlow's, and StyleGAN2-ADA's for PyTorch.

Read without TensorFlow and without torch; both become the same module.
"""

from typing import Any

import numpy as np

from converters.ada import LICENSE, number, row_names, torch_discriminator, torch_generator
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
)
from converters.stylegan1 import RUNTIME, filter_of, mapping, pick, resolution_of

TF_GENERATOR = {
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "architecture": "skip",
    "fused_modconv": ...,
    "mapping_lrmul": ...,
    "normalize_latents": ...,
    "resample_kernel": ...,
    "label_fmaps": ...,
    "conv_clamp": ...,
    "num_fp16_res": ...,  # which blocks computed in half precision; the weights are the same
    "score_max": 1,
    "use_spectral_norm": False,
    "pagan": False,
}
TF_DISCRIMINATOR = {
    "nonlinearity": "lrelu",
    "architecture": ...,
    "mbstd_group_size": ...,
    "mbstd_num_features": ...,
    "resample_kernel": ...,
    "mapping_nonlinearity": "lrelu",
    "mapping_lrmul": ...,
    "freeze_layers": ...,
    "conv_clamp": ...,
    "num_fp16_res": ...,
    "score_max": 1,
    "use_spectral_norm": False,
    "pagan": False,
    "adropout": 0,
}


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
    if "normalize_each" in architecture and not options.get("normalize_latents", True):
        raise WeightError(f"{where}: labels with normalize_latents=False are not supported")
    dim = architecture["dim"]
    put("w_mean", read("dlatent_avg", (dim,)))
    const = read("synthesis/4x4/Const/const", (1, None, 4, 4))
    put("const", const[0].transpose(1, 2, 0))

    def affine(old: str, new: str, channels: int) -> None:
        put(f"{new}/kernel", equalized(read(f"{old}/mod_weight", (dim, channels))))
        put(f"{new}/bias", read(f"{old}/mod_bias", (channels,)) + 1)

    widths, channels, noises = [], 3, 0
    for k, (rgb, conv) in enumerate(row_names(resolution)):
        if rgb is not None:
            old, new = f"synthesis/{rgb}x{rgb}/ToRGB", f"rows/{k}/to_rgb"
            kernel = read(f"{old}/weight", (1, 1, widths[-1], None))
            channels = colours(kernel.shape[-1], where)
            put(f"{new}/conv/kernel", equalized(kernel))
            put(f"{new}/conv/bias", read(f"{old}/bias", (channels,)))
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
        "channels": channels,
        "normalize_latents": bool(options.get("normalize_latents", True)),
        "taps": filter_of(options.get("resample_kernel") or [1, 3, 3, 1], where),
        "clamp": number(options.get("conv_clamp")),
    }
    return reader.part(architecture, ["lod", "synthesis/lod", "mapping/lod"])


def tf_discriminator(network: Network, where: str) -> Part:
    """D_stylegan2, and ADA's D_main; architectures resnet and orig."""
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
    # ADA's default is the whole batch as one group.
    group = options.get("mbstd_group_size", None if network.kind == "D_main" else 4)
    group = None if group is None else int(group)
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
        "deviations": 0 if group in (0, 1) else int(options.get("mbstd_num_features", 1)),
        "last": dense.shape[-1],
        "clamp": number(options.get("conv_clamp")),
    }
    if "LabelEmbed/weight" in read:
        architecture |= tf_projection(reader, score.shape[-1], options.get("mapping_lrmul", 0.1))
    return reader.part(architecture, ["lod"])


def tf_projection(reader: Reader, outputs: int, rate: float) -> dict[str, Any]:
    """ADA's labels in D_main: an embedding, normalised, and none or more dense layers."""
    labels, embedding = embed = reader.read("LabelEmbed/weight", (None, None)).shape
    reader.put("mapping/embed/kernel", equalized(reader.read("LabelEmbed/weight", embed)))
    reader.put("mapping/embed/bias", reader.read("LabelEmbed/bias", (embedding,)))
    layers, width = 0, embedding
    while f"Mapping{layers}/weight" in reader.read:
        kernel = reader.read(f"Mapping{layers}/weight", (width, None))
        width = kernel.shape[1]
        reader.put(f"mapping/layers/{layers}/kernel", equalized(kernel, rate))
        bias = reader.read(f"Mapping{layers}/bias", (width,)) * np.float32(rate)
        reader.put(f"mapping/layers/{layers}/bias", bias)
        layers += 1
    return {
        "labels": labels,
        "projection": outputs,
        "mapping_layers": layers,
        "mapping_hidden": width,
        "embedding": embedding,
    }


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
