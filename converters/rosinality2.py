"""StyleGAN2 checkpoints of rosinality/stylegan2-pytorch, and encoders that were trained with them.

Files of its training and of its conversion from TensorFlow, and generators saved alone. Only
converted ones hold the average w: for others it is the mean of 10,000 mapped z (seed 0), and a
file without noise images gets drawn ones (seed 0).

The encoders are e4e (arXiv:2102.02766) and pSp (arXiv:2008.00951), whose decoder is that StyleGAN2;
`fxjax.load(folder, part="encoder")` gives the encoder. The options that a file keeps say which of
the two it is: the arrays are named and shaped alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converters.ada import row_names, taps_of
from converters.pickles import shorten
from converters.rosinality1 import WIDEST, mean_w
from converters.source import (
    Choice,
    Model,
    Opened,
    Part,
    Reader,
    WeightError,
    colours,
    equalized,
    flattened,
    from_torch,
    listed,
    names_in,
    refuse_wrapped,
    rotated,
)

LARGEST = 1024
RATE = np.float32(0.01)  # of the mapping network's layers
LICENSE = (
    "The weights keep the licence of their publisher; those converted from NVIDIA's are under the "
    "Nvidia Source Code License-NC (non-commercial)."
)
CUMULATIVE = {"Encoder4Editing": True, "GradualStyleEncoder": False}  # whether row 0 is in all rows
STAGES = (0, 3, 7, 21)  # the first unit of each width, of 24
UNITS = 24
ROWS = range(4, 19, 2)  # of generators from 8 to 1024 px
COARSE, MIDDLE = 3, 7  # rows below read the map at 1/16 of the picture, at 1/8
EPSILON = 1e-5  # of batch normalisation
ENCODER_LICENSE = (
    "The weights keep the licences of their publishers and of the generator that they were trained "
    "with; NVIDIA's is under the Nvidia Source Code License-NC (non-commercial)."
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
        raise WeightError(
            f"{opened.path}: no network {name!r} in it; it has {', '.join(found)}: "
            f"give --network={found[0]}"
        )
    if not found and choice.network:
        raise WeightError(f"{opened.path}: one state dict without names; leave --network out")
    weights = bare(tensors[name] if found else tensors)
    refuse_wrapped(weights, "convs.0.conv.modulation.weight", opened.path)
    average = weights.pop("latent_avg", None) if not found else tensors.get("latent_avg")
    parts = {"generator": generator(weights, average, f"{opened.path}: {name}")}
    if found and isinstance(tensors.get("d"), Mapping):
        parts["discriminator"] = discriminator(bare(tensors["d"]), f"{opened.path}: d")
    return Model("stylegan2", parts, name, LICENSE, notes_on(weights, average))


class EncoderLayers(Reader):
    """Reads those code bases' layers; batch normalisation is folded into what it follows."""

    def norm(self, old: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        """BatchNorm2d at inference: scale and shift. WeightError: a variance below 0."""
        names = ("weight", "bias", "running_mean", "running_var")
        gain, bias, mean, variance = (
            self.read(f"{old}.{name}", (width,)).astype(np.float64) for name in names
        )
        if variance.min() < 0:
            raise WeightError(f"{self.read.where}'{old}.running_var' has negative numbers")
        scale = gain / np.sqrt(variance + EPSILON)
        return scale, bias - mean * scale

    def conv(self, old: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Conv2d's kernel, of `shape` (out, in, side)."""
        return from_torch(self.read(f"{old}.weight", (*shape, shape[-1])))

    def normed(self, old: str, norm: str, new: str, shape: tuple[int | None, ...]) -> int:
        """Conv2d without bias, then BatchNorm2d, as a convolution with bias; returns its width."""
        kernel = self.conv(old, shape)
        scale, shift = self.norm(norm, kernel.shape[-1])
        self.put(f"{new}/kernel", kernel * scale)
        self.put(f"{new}/bias", shift)
        return kernel.shape[-1]

    def biased(self, old: str, new: str, shape: tuple[int | None, ...]) -> int:
        """Conv2d with bias; returns its width."""
        kernel = self.conv(old, shape)
        self.put(f"{new}/kernel", kernel)
        self.put(f"{new}/bias", self.read(f"{old}.bias", (kernel.shape[-1],)))
        return kernel.shape[-1]


def unit(reader: EncoderLayers, k: int, channels: int) -> tuple[int, int]:
    """One unit of the body; returns its width, and that between squeeze and excitation."""
    old, new = f"body.{k}.res_layer", f"units/{k}"
    scale, shift = reader.norm(f"{old}.0", channels)
    reader.put(f"{new}/norm/scale", scale)
    reader.put(f"{new}/norm/shift", shift)
    first = reader.conv(f"{old}.1", (None, channels, 3))
    width = first.shape[-1]
    reader.put(f"{new}/first/kernel", first)
    reader.put(f"{new}/bend/slope", reader.read(f"{old}.2.weight", (width,)))
    reader.normed(f"{old}.3", f"{old}.4", f"{new}/second", (width, width, 3))
    squeeze = reader.conv(f"{old}.5.fc1", (None, width, 1))
    reader.put(f"{new}/squeeze/kernel", squeeze)
    reader.put(f"{new}/excite/kernel", reader.conv(f"{old}.5.fc2", (width, squeeze.shape[-1], 1)))
    if width != channels:
        shortcut = f"body.{k}.shortcut_layer"
        shape = (width, channels, 1)
        reader.normed(f"{shortcut}.0", f"{shortcut}.1", f"{new}/shortcut", shape)
    return width, squeeze.shape[-1]


def said(options: Mapping[str, Any], name: str, default: bool) -> bool:
    """A switch among options, which may be texts."""
    return str(options.get(name, default)).lower() == "true"


def encoder(
    weights: Mapping[str, np.ndarray], options: Mapping[str, Any], average: Any, where: str
) -> Part:
    """Encoder4Editing or GradualStyleEncoder; `average` is added to all codes, None is nothing."""
    kind = options.get("encoder_type")
    if kind not in CUMULATIVE:
        found = (
            "the file does not say its encoder_type" if kind is None else f"a {shorten(str(kind))}"
        )
        raise WeightError(
            f"{where}: {found}; only Encoder4Editing (e4e) and GradualStyleEncoder (pSp) are read, "
            "whose arrays look alike"
        )
    reader = EncoderLayers(weights, where)
    entry = reader.read("input_layer.0.weight", (None, None, 3, 3))
    if entry.shape[1] != 3 or said(options, "learn_in_w", False):
        what = "reads" if entry.shape[1] != 3 else "learned single codes, not W+; it reads"
        raise WeightError(
            f"{where}: an encoder that {what} {entry.shape[1]} channels; only those from photos "
            "(RGB) to W+ are supported"
        )
    width = reader.normed("input_layer.0", "input_layer.1", "entry", (None, 3, 3))
    reader.put("bend/slope", reader.read("input_layer.2.weight", (width,)))
    widths, hidden = [], []
    for k in range(UNITS):
        width, inner = unit(reader, k, width)
        if k in STAGES:
            widths.append(width)
            hidden.append(inner)
        elif (width, inner) != (widths[-1], hidden[-1]):
            raise WeightError(f"{where}: body.{k} changes the width; not an IR-SE-50 network")
    last, rows, dim = widths[3], 0, 0
    reader.biased("latlayer1", "middle", (last, widths[2], 1))
    reader.biased("latlayer2", "fine", (last, widths[1], 1))
    while f"styles.{rows}.linear.weight" in reader.read:
        old, new = f"styles.{rows}", f"heads/{rows}"
        kernel = from_torch(reader.read(f"{old}.linear.weight", (dim or None, dim or None)))
        dim = kernel.shape[1]
        for i in range(4 + (rows >= COARSE) + (rows >= MIDDLE)):
            shape = (dim, dim if i else last, 3)
            reader.biased(f"{old}.convs.{2 * i}", f"{new}/convs/{i}", shape)
        reader.put(f"{new}/dense/kernel", equalized(kernel))
        reader.put(f"{new}/dense/bias", reader.read(f"{old}.linear.bias", (dim,)))
        rows += 1
    if rows not in ROWS:
        raise WeightError(f"{where}: {rows} styles where 4, 6, ... 18 belong")
    mean = np.zeros((rows, dim)) if average is None else average_of(average, (rows, dim), where)
    reader.put("mean", mean)
    wide = str(options.get("dataset_type", "")).startswith("cars")  # e4e's are 4 to 3
    architecture = {
        "rows": rows,
        "dim": dim,
        "widths": widths,
        "hidden": hidden,
        "cumulative": CUMULATIVE[kind],
        "size": [192 if wide else 256, 256],
    }
    return reader.part(architecture, ["*.num_batches_tracked"])


def convert_encoder(opened: Opened, choice: Choice) -> Model:
    """A checkpoint of e4e or pSp -> generator and encoder."""
    if choice != Choice():
        raise WeightError(
            f"{opened.path}: holds one encoder with its generator; "
            "leave --network and --resolution out"
        )
    tensors, options = opened.tensors, opened.options
    state = tensors.get("state_dict")
    weights = bare(state if isinstance(state, Mapping) else tensors)
    average = weights.pop("latent_avg", None)
    average = tensors.get("latent_avg", average)
    added = said(options, "start_from_latent_avg", average is not None)
    if added and average is None:
        raise WeightError(f"{opened.path}: lacks latent_avg, which its codes start from")
    for part in ("encoder.", "decoder."):
        if not any(name.startswith(part) for name in weights):
            raise WeightError(
                f"{opened.path}: lacks {part}*, but holds {listed(names_in(tensors)[:2])}, ...; "
                "an e4e or pSp file with both its encoder and its decoder is wanted"
            )
    inside = {
        part: {n.removeprefix(part): w for n, w in weights.items() if n.startswith(part)}
        for part in ("encoder.", "decoder.")
    }
    Reader(weights, opened.path).part({}, ["encoder.*", "decoder.*"])  # nothing else is in it
    where = f"{opened.path}: "
    read = encoder(inside["encoder."], options, average if added else None, f"{where}encoder")
    drawn = generator(inside["decoder."], None, f"{where}decoder")
    rows, dim = 2 * len(drawn[0]["widths"]), drawn[0]["dim"]
    if (read[0]["rows"], read[0]["dim"]) != (rows, dim):
        raise WeightError(
            f"{where}the encoder makes {read[0]['rows']} rows of {read[0]['dim']} where the "
            f"generator reads {rows} of {dim}"
        )
    parts = {"generator": drawn, "encoder": read}
    kind = "e4e" if read[0]["cumulative"] else "pSp"
    notes = [f"the encoder is of {kind}", *notes_on(inside["decoder."], None)]
    return Model("stylegan2", parts, "decoder", ENCODER_LICENSE, notes)
