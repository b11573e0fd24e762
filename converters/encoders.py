"""Checkpoints of e4e (arXiv:2102.02766) and pSp (arXiv:2008.00951): an encoder and its generator.

    python -m converters.encoders --src=e4e_ffhq_encode.pt --dst=models/e4e

The decoder is rosinality's StyleGAN2 and becomes the generator; `fxjax.load(folder,
part="encoder")` gives the encoder. The options that the file keeps say which of the two it is: the
arrays are named and shaped alike.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.command import Choice, Model, Part, Reader, equalized, from_torch, run
from converters.pickles import shorten
from converters.rosinality2 import average_of, bare, generator, notes_on
from converters.source import Opened, WeightError

CUMULATIVE = {"Encoder4Editing": True, "GradualStyleEncoder": False}  # whether row 0 is in all rows
STAGES = (0, 3, 7, 21)  # the first unit of each width, of 24
UNITS = 24
ROWS = range(4, 19, 2)  # of generators from 8 to 1024 px
COARSE, MIDDLE = 3, 7  # rows below read the map at 1/16 of the picture, at 1/8
EPSILON = 1e-5
LICENSE = (
    "The weights keep the licences of their publishers and of the generator that they were trained "
    "with; NVIDIA's is under the Nvidia Source Code License-NC (non-commercial)."
)


class Layers(Reader):
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


def unit(reader: Layers, k: int, channels: int) -> tuple[int, int]:
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
    reader = Layers(weights, where)
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


def convert(opened: Opened, choice: Choice) -> Model:
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
    return Model("stylegan2", parts, "decoder", LICENSE, notes)


if __name__ == "__main__":
    run(convert)
