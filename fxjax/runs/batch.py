"""Many pairs of photos: which they are, their codes, and a folder of results that can go on.

Each photo is inverted once, by experiments.invert in <out>/inversion, whatever the number of its
pairs. Each pair is done by one process and leaves a JSON of its row, last of all its files.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import files, images, steps, tables, zoo
from fxjax.engine import LAYERS
from fxjax.faces import align
from fxjax.losses import feature_size
from fxjax.runs import inversion, runfolder, transfer_flags, worklist
from fxjax.runs.photos import beside, find, fits_a_line, free_name, photo_names, shown
from fxjax.transfer_types import Located
from fxjax.types import Codes

OK = worklist.OK
FOLDERS = ("state", "results", "faces", "codes", "scores")  # of all commands that take pairs
FILES = ("results.csv", "summary.csv", "masks.csv", "rows.csv", "report.html")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(transfer_flags.Search):
    """Flags of every command that takes many pairs."""

    out: Annotated[str, "folder for all results"]
    appearance: Annotated[str | None, "photos whose faces change: folder, glob, .txt, file"] = None
    expression: Annotated[str | None, "photos that drive: all pairs of the two are taken"] = None
    pairs: Annotated[str | None, "CSV with columns appearance and expression instead"] = None
    face: Annotated[str, "largest, a number (left to right), or x,y: of every photo"] = "largest"
    batch: Annotated[int, "faces inverted at once; 0 is what the free memory holds"] = 0
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


class Pair(NamedTuple):
    """Two photos, their names, and the name of the pair's files."""

    appearance: epath.Path
    expression: epath.Path
    names: tuple[str, str]
    name: str


class Known(NamedTuple):
    """A face and its code."""

    face: Located
    code: np.ndarray


def read_pairs(config: Pairs) -> list[Pair]:
    """The pairs in a fixed order. ValueError for none, or for a table without the columns."""
    if config.face == "all":
        raise ValueError(
            "--face=all: a pair is of one face in each photo; want largest, a number or x,y "
            "(experiments.transfer --face=all changes all faces of a photo)"
        )
    if (config.pairs is None) == (config.appearance is None or config.expression is None):
        raise ValueError("give either --pairs=CSV, or both --appearance and --expression")
    out = files.absolute(config.out)
    if config.pairs is None:
        first, _ = find(str(config.appearance), out)
        second, _ = find(str(config.expression), out)
        both = [(a, b) for a in first for b in second if a != b]
    else:
        both = _table(files.absolute(config.pairs))
    if not both:
        raise ValueError("there is no pair of two different photos")
    paths = sorted({path for pair in both for path in pair}, key=str)
    names = dict(zip(paths, photo_names(paths), strict=True))
    pairs, taken = [], set[str]()
    for a, b in dict.fromkeys(both):
        name = free_name(f"{names[a]}__{names[b]}", taken)  # a, b__c and a__b, c would be alike
        pairs.append(Pair(a, b, (names[a], names[b]), name))
    return pairs


def _table(source: epath.Path) -> list[tuple[epath.Path, epath.Path]]:
    rows = tables.read(source)
    wanted = ("appearance", "expression")
    if rows and not set(wanted) <= rows[0].keys():
        raise ValueError(
            f"{source}: want a CSV whose first line names the columns appearance and expression; "
            f"it names {', '.join(rows[0])}"
        )
    first, second = ([beside(source, row.filled(name)) for row in rows] for name in wanted)
    return list(zip(first, second, strict=True))


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
        layers=LAYERS,
        feature_size=feature_size(resolution),
        steps=config.steps,
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
        runfolder.all_rows(folder, entries, patient=True)
    listed = {entry.photo: entry for entry in entries}
    why = "no list can hold its path (line breaks, no UTF-8, below --out): rename or move it"
    return {
        path: listed.get(str(path), worklist.Entry(shown(path), "", "unreadable", why))
        for path in paths
    }


def _forget(out: epath.Path) -> None:
    """Removes the pairs' results, if there are any; experiments.invert removes its own.

    The state goes first, so that what is killed meanwhile takes no pair without files as done.
    """
    if (out / "inversion" / "state" / "run.json").exists():
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
    work: Callable[[Pair, Known, Known], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Does this process's pairs that are not done; returns all rows once all processes are done.

    `work` writes a pair's files and returns its row. What fails is a row too, with its reason.
    Pairs done with another `key` (the settings that matter) or of other faces or codes are done
    again.
    """
    shas = {path: _sha(out, entry) for path, entry in entries.items()}
    marks = {pair: _mark(key, *(shas[path] for path in pair[:2])) for pair in pairs}
    mine = sorted(pairs, key=lambda pair: str(pair.appearance))  # who changes is tuned to once
    mine = mine[jax.process_index() :: jax.process_count()]
    for pair in steps.each(mine, "pairs"):
        if _row(out, pair, marks[pair]) is not None:
            continue
        began = time.monotonic()
        row: dict[str, Any] = {"status": OK, "message": ""}
        try:
            faces = (known(out, entries[path]) for path in pair[:2])
            row |= work(pair, *faces)
        except Exception as error:  # whatever is wrong with a pair costs that pair alone
            row |= {"status": "failed", "message": _said(error)}
        row["seconds"] = round(time.monotonic() - began, 2)
        text = json.dumps({"mark": marks[pair], "row": row})
        files.write(_place(out, pair), text.encode())
    found = []
    for pair in pairs:
        while (done := _row(out, pair, marks[pair])) is None:
            time.sleep(0.5)  # another process is at it
        photos = {"appearance": shown(pair.appearance), "expression": shown(pair.expression)}
        found.append({"pair": pair.name, **photos, **done})
    return found


def _said(error: Exception) -> str:
    """An error in a line; those that are not written for users with their kind."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, (ValueError, OSError)) and text else type(error).__name__
    return ": ".join(part for part in (kind, text) if part)


def _code(out: epath.Path, entry: worklist.Entry) -> epath.Path:
    return out / "inversion" / "codes" / f"{entry.name}.npz"


def _sha(out: epath.Path, entry: worklist.Entry) -> str:
    """Of a face and its code, if it has one."""
    place = _code(out, entry)
    code = place.read_bytes() if place.exists() else b""
    return hashlib.sha256(repr(entry).encode() + code).hexdigest()


def _mark(key: Mapping[str, Any], *shas: str) -> str:
    text = json.dumps([key, shas], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(out: epath.Path, pair: Pair) -> epath.Path:
    return out / "state" / f"{hashlib.sha256(pair.name.encode()).hexdigest()[:24]}.json"


def _row(out: epath.Path, pair: Pair, mark: str) -> dict[str, Any] | None:
    place = _place(out, pair)
    if not place.exists():
        return None
    saved = json.loads(place.read_text())
    return saved["row"] if saved["mark"] == mark else None


def write_rows(path: epath.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV with every column that a row has."""
    files.write_table(path, [{name: _cell(row[name]) for name in row} for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def codes_of(*faces: Known) -> Codes:
    """Their codes on the device."""
    return jnp.asarray(np.stack([face.code for face in faces]))
