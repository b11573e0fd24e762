"""Many pairs of photos: their codes, a folder of results that can go on, and its tables.

Each photo is inverted once, by experiments.invert in <out>/inversion, whatever the number of its
pairs. Each pair is done by one process and leaves a JSON of its row, last of all its files.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import files, images, metrics, steps, zoo
from fxjax.faces import align
from fxjax.losses import INVERTING_LAYERS, feature_size
from fxjax.runs import inversion, inverted, journal, worklist
from fxjax.runs.pairs import Pair, Pairs
from fxjax.runs.worklist import OK, fits_a_line, shown
from fxjax.transfer_types import Located, Progress
from fxjax.types import Codes

FOLDERS = ("state", "results", "faces", "codes", "scores")  # of all commands that take pairs
FILES = ("results.csv", "summary.csv", "masks.csv", "rows.csv", "report.html")
MEASURES = ("gain", "to_person", "to_driver", "outside", "expression_loss", "appearance_loss")
EFFECTS = {
    "expression": "change of the expression loss E when the row is the driver's (below 0: good)",
    "appearance": "change of the appearance loss A (0: the face keeps its looks)",
    "gain alone": "expression that the row alone carries over, of 1 for all rows",
    "pose alone": "pose that the row alone carries over, of 1 for all rows",
    "identity alone": "dlib distance that the row alone moves the face",
}


class Known(NamedTuple):
    """A face and its code."""

    face: Located
    code: np.ndarray


def invert_all(
    config: Pairs, pairs: Sequence[Pair], resolution: int
) -> dict[epath.Path, worklist.Entry]:
    """Inverts every photo of the pairs, in <out>/inversion, as far as it is not done.

    `resolution` is the generator's. Returns each photo's entry: the face, or why there is none.
    """
    out = files.absolute(config.out)
    folder = out / "inversion"
    paths = sorted({path for pair in pairs for path in pair[:2]}, key=str)
    if jax.process_index() == 0:
        if config.restart:
            _forget(out)
        lines = "".join(f"{path}\n" for path in paths if fits_a_line(path))
        files.write(out / "photos.txt", lines.encode())
    own = inversion.Config(
        model=config.model,
        features=str(config.features or zoo.holder(config.model, "features")),
        images=str(out / "photos.txt"),
        out=str(folder),
        loss="both",
        layers=INVERTING_LAYERS,
        feature_size=feature_size(resolution),
        steps=config.steps,
        start=config.start,
        rate=config.rate,
        pull=config.pull,
        space=inversion.WHITENED,
        batch=config.batch,
        face=config.face,
        restart=config.restart,
    )
    inversion.invert_photos(own)  # pairs of photos that failed will say so
    entries = worklist.wait(folder)
    if jax.process_count() > 1:  # each returned when its own share was done
        inverted.all_rows(folder, entries)
    listed = {entry.photo: entry for entry in entries}
    why = "no list can hold its path (line breaks, no UTF-8, below --out): rename or move it"
    return {
        path: listed.get(str(path), worklist.Entry(shown(path), "", "unreadable", why))
        for path in paths
    }


def _forget(out: epath.Path) -> None:
    """Removes the pairs' results, if there are any; experiments.invert removes its own.

    The state goes first: killed meanwhile, no pair is taken as done whose files are gone.
    """
    if journal.begun(out / "inversion"):
        files.remove(out, (*FOLDERS, *FILES))


def known(out: epath.Path, entry: worklist.Entry) -> Known:
    """A face and its code. ValueError if there is none, and why."""
    if entry.status != OK:
        raise ValueError(f"{entry.photo}: {entry.status}: {entry.message}")
    place = _code(out, entry)
    if not place.exists():
        raise ValueError(f"{entry.photo}: its inversion failed")
    with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        code = np.asarray(arrays["ws"], np.float32)
    photo, cutout = images.load_layers(entry.photo)
    matrix = np.array(entry.photo_from_crop)
    target = images.load_image(out / "inversion" / "targets" / f"{entry.name}.png")
    crop = align.Crop(images.from_uint8(target), matrix)
    landmarks, which = np.array(entry.landmarks), (entry.number, entry.faces)
    return Known(Located(photo, landmarks, crop, cutout, *which), code)


def each(
    out: epath.Path,
    pairs: Sequence[Pair],
    entries: Mapping[epath.Path, worklist.Entry],
    key: Mapping[str, Any],
    work: Callable[[Pair, Known, Known, Progress], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Does this process's pairs that are not done; returns all rows once all processes are done.

    `work` writes a pair's files, tells how far it is, and returns its row. A pair that fails has a
    row too, with the reason. Pairs done with another `key` (the settings that matter) or of other
    faces or codes are done again.
    """
    shas = {path: _sha(out, entry) for path, entry in entries.items()}
    marks = {pair: _mark(key, *(shas[path] for path in pair[:2])) for pair in pairs}
    mine = sorted(pairs, key=lambda pair: str(pair.appearance))  # who changes is tuned to once
    mine = mine[jax.process_index() :: jax.process_count()]
    told = steps.Steps()
    for pair in steps.each(mine, "pairs", shown=told):
        if _row(out, pair, marks[pair]) is not None:
            continue
        began = time.monotonic()
        row: dict[str, Any] = {"status": OK, "message": ""}
        try:
            person, driver = (known(out, entries[path]) for path in pair[:2])
            row |= work(pair, person, driver, functools.partial(_tell, told, pair))
        except Exception as error:  # whatever is wrong with a pair costs that pair alone
            row |= {"status": "failed", "message": _said(error)}
        row["seconds"] = round(time.monotonic() - began, 2)
        journal.write(out, _entry(pair), {"mark": marks[pair], "row": row})
    found = []
    for pair in pairs:
        done = journal.wait(functools.partial(_row, out, pair, marks[pair]))
        photos = {"appearance": shown(pair.appearance), "expression": shown(pair.expression)}
        found.append({"pair": pair.name, **photos, **done})
    return found


def _tell(told: steps.Steps, pair: Pair, step: str, share: float) -> None:
    told.note = f"{pair.name}: {step} {share:.0%}"


def _said(error: Exception) -> str:
    """An error in a line; one that is not written for users begins with its class."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, (ValueError, OSError)) and text else type(error).__name__
    return ": ".join(part for part in (kind, text) if part)


def _code(out: epath.Path, entry: worklist.Entry) -> epath.Path:
    return out / "inversion" / "codes" / f"{entry.name}.npz"


def _sha(out: epath.Path, entry: worklist.Entry) -> str:
    """The sha256 of a face and of its code, if it has one."""
    place = _code(out, entry)
    code = place.read_bytes() if place.exists() else b""
    return hashlib.sha256(repr(entry).encode() + code).hexdigest()


def _mark(key: Mapping[str, Any], *shas: str) -> str:
    text = json.dumps([key, shas], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(pair: Pair) -> str:
    return hashlib.sha256(pair.name.encode()).hexdigest()[:24]


def _row(out: epath.Path, pair: Pair, mark: str) -> dict[str, Any] | None:
    saved = journal.read(out, _entry(pair))
    return saved["row"] if saved is not None and saved["mark"] == mark else None


def codes_of(*faces: Known) -> Codes:
    """The faces' codes, on the device."""
    return jnp.asarray(np.stack([face.code for face in faces]))


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each method: the mean measures, and how often it stays nearer to the person."""
    names = dict.fromkeys(k[: -len(": gain")] for row in rows for k in row if k.endswith(": gain"))
    found = []
    for name in names:
        line: dict[str, Any] = {"method": name, "pairs": len(rows)}
        for measure in MEASURES:
            values = [row[f"{name}: {measure}"] for row in rows if f"{name}: {measure}" in row]
            line[measure], line[f"{measure} +-"] = metrics.interval(values)
        own = np.array([row.get(f"{name}: to_person", math.nan) for row in rows])
        other = np.array([row.get(f"{name}: to_driver", math.nan) for row in rows])
        seen = np.isfinite(own)
        line["nearer to person"] = float((own < other)[seen].mean()) if seen.any() else math.nan
        line["no face"] = float((~seen).mean())
        line["gain - distance"] = line["gain"] - line["to_person"]
        found.append(line)
    return found


def row_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each row of the generator: mean effects with 95 % intervals, and its share of the best.

    `rows` are the pairs', with effects [rows, 2] and alone [rows, 3].
    """
    effects = np.array([row["effects"] for row in rows], float)
    alone = np.array([row["alone"] for row in rows], float)
    each = np.concatenate([effects, alone], axis=2)
    best = np.array([[bit == "1" for bit in row["mask"]] for row in rows])
    table = []
    for k in range(each.shape[1]):
        line: dict[str, Any] = {"row": k, "in the best mask": float(best[:, k].mean())}
        for place, name in enumerate(EFFECTS):
            line[name], line[f"{name} +-"] = metrics.interval(each[:, k, place].tolist())
        table.append(line)
    return table
