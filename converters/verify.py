"""Checks a converted model against reference arrays of the original code.

    python -m converters.verify --model FOLDER --reference FOLDER

The reference folder holds `meta.json` (its `kind` says which code computed it) and
`reference*.npz`. Prints a table; exit status 1 if an array differs or none was compared.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np

from converters.references import Encoders, Result, Rosinality, Rosinality2, Skip, Style, Vgg
from fxjax.checkpoint import read_card
from fxjax.cli import launch
from fxjax.files import given

ENCODERS = ("encoder4editing", "pixel2style2pixel")
FAMILIES = {  # a model's kind: how the kinds of references begin that belong to it
    "stylegan1": ("stylegan1", "rosinality-style-based"),
    "stylegan2": ("stylegan2", "rosinality-stylegan2", *ENCODERS),
    "vgg16": ("vgg16",),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared array; `reason` instead of figures where it was skipped or impossible."""

    name: str
    passed: bool | None
    largest: float = np.nan
    rms: float = np.nan
    bound: float = np.nan
    reason: str = ""


def compare(name: str, computed: Result, reference: np.ndarray, kind: str) -> Row:
    """Max abs and rms error against the bounds for this kind of network and array.

    1e-4 (5e-4 for StyleGAN1 layouts from 128 px up) and rms 2e-5; scores 1e-5 * max(1, |score|);
    uint8 one count; VGG16 1e-5 of the layer's largest value; an encoder's features as pictures,
    but relative to their standard deviation.
    """
    computed = np.asarray(computed)
    if computed.shape != reference.shape:
        return Row(
            name, False, reason=f"shape {computed.shape}, the reference has {reference.shape}"
        )
    error = np.abs(computed.astype(np.float64) - reference.astype(np.float64))
    largest, rms = float(error.max(initial=0)), float(np.sqrt(np.mean(error**2)))
    rms_bound = 2e-5
    if reference.dtype == np.uint8:
        bound, rms_bound = 1.0, 1.0
    elif kind.startswith("vgg16"):
        bound = rms_bound = 1e-5 * float(np.abs(reference).max())
    elif kind in ENCODERS and name.startswith("act_"):
        spread = max(1.0, float(reference.std()))
        bound, rms_bound = 1e-4 * spread, 2e-5 * spread
    elif name.startswith("d_"):
        bound = 1e-5 * max(1.0, float(np.abs(reference).max()))
    else:
        big = reference.ndim == 4 and reference.shape[-1] >= 128
        bound = 5e-4 if big and kind.startswith(FAMILIES["stylegan1"]) else 1e-4
    passed = bool(
        np.isfinite(largest) and largest < bound + (reference.dtype == np.uint8) and rms < rms_bound
    )
    return Row(name, passed, largest, rms, bound)


INPUTS = re.compile(
    r"z\d?|labels|c|w_plus_random|ws_random|noise\d+|image_uint8_rgb_hwc|src_image_uint8|x"
)


def verify(model: str, reference: str) -> Iterator[Row]:
    """Compares every array of the folder; ValueError if folder and model do not belong together."""
    folder = given(reference)
    if not (folder / "meta.json").exists():
        raise ValueError(
            f"{reference}: no meta.json; want a folder with meta.json and reference*.npz"
        )
    kind = str(json.loads((folder / "meta.json").read_text()).get("kind", ""))
    own = read_card(model)["kind"]
    if not kind.startswith(FAMILIES.get(own, ())):
        raise ValueError(f"{model} is a {own}, but {reference} holds references of kind {kind!r}")
    files = sorted(
        path for path in folder.iterdir() if re.fullmatch(r"reference.*\.npz", path.name)
    )
    for path in files:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        if own == "vgg16":
            checker: Any = Vgg(model, arrays)
            if checker.model.bgr != ("input_bgr" in arrays):
                yield Row(path.name, None, reason="for weights of the other preprocessing")
                continue
        elif kind in ENCODERS:
            checker = Encoders(model, arrays, kind)
        elif kind.startswith("rosinality"):
            checker = (Rosinality if own == "stylegan1" else Rosinality2)(model, arrays, kind)
        else:
            checker = Style(model, arrays, kind)
        for name, value in arrays.items():
            if not INPUTS.fullmatch(name):
                yield _row(name, checker.compute, value, kind)


def _row(name: str, compute: Callable[[str], Result], value: np.ndarray, kind: str) -> Row:
    try:
        return compare(name, compute(name), value, kind)
    except Skip as skip:
        return Row(name, None, reason=str(skip))
    except (ValueError, TypeError, KeyError) as error:
        return Row(name, False, reason=f"cannot be computed: {error}".splitlines()[0])


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    model: Annotated[str, "folder of a converted model"]
    reference: Annotated[str, "folder with meta.json and reference*.npz"]


def main(config: Config) -> None:
    """Prints the table; ValueError if an array differs or none was compared."""
    rows = []
    print(f"{'array':<36} {'max abs':>9} {'rms':>9} {'bound':>9}")
    for row in verify(config.model, config.reference):
        rows.append(row)
        word = {True: "ok", False: "FAILED", None: "skipped"}[row.passed]
        figures = f"{row.largest:9.2e} {row.rms:9.2e} {row.bound:9.1e} {word}"
        print(f"{row.name:<36} {f'{word}: {row.reason}' if row.reason else figures}", flush=True)
    failed = [row.name for row in rows if row.passed is False]
    compared = sum(row.passed is not None for row in rows)
    print(f"{compared} compared, {len(failed)} failed, {len(rows) - compared} skipped")
    if failed:
        raise ValueError(f"{len(failed)} arrays differ: {', '.join(failed[:5])}")
    if not compared:
        raise ValueError("nothing was compared: no array of the folder is known for this model")


if __name__ == "__main__":
    launch(Config, main)
