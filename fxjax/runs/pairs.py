"""Which pairs of photos: those that a command was given, or couples found among many people.

A couple is a straight and a smiling person whose heads are turned alike.
"""

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from etils import epath

from fxjax import files, images, steps, tables
from fxjax.codes import smile_samples
from fxjax.faces import detect, expression
from fxjax.runs import transfer_flags
from fxjax.runs.worklist import beside, find, free_name, photo_names
from fxjax.training import data

WORST_CHECK = 4.0  # pixels between two landmarkers: above it the landmarks are not to be trusted
MOST_TURN = 12.0  # degrees of yaw and pitch between the two heads
MOST_USES = 2  # couples in which one face takes part
STRAIGHT, SMILING = 0.3, 0.6  # what the reader says of photos


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


class Candidate(NamedTuple):
    """A face that may be taken: its file, its person, yaw and pitch in degrees."""

    filename: str
    person: str
    pose: np.ndarray


def rated(
    table: str, landmarks: str, straight: float, smiling: float
) -> tuple[list[Candidate], list[Candidate]]:
    """Straight and smiling faces of a table: only held-back base faces with good landmarks.

    Raises ValueError if the table rates no `happy`.
    """
    rows = data.read_table(table)
    if not {"kind", "source_id", "happy"} <= rows[0].keys():
        raise ValueError(f"{table} lacks kind, source_id or happy; give the rated table")
    weights = data.read_weights(table, [row["filename"] for row in rows])
    points = _trusted(landmarks)
    glum, glad = [], []
    for row, weight in zip(rows, weights, strict=True):
        if weight or row["kind"] != "base" or row["filename"] not in points:
            continue
        turn = expression.pose(points[row["filename"]])[:2]
        candidate = Candidate(row["filename"], row["source_id"], turn)
        happy = row.float("happy")
        if happy <= straight:
            glum.append(candidate)
        elif happy >= smiling:
            glad.append(candidate)
    return glum, glad


def photographed(folder: str, target: epath.Path) -> tuple[list[Candidate], list[Candidate]]:
    """Straight and smiling faces of photos, whose names are as seen from the table's folder."""
    paths, _ = find(folder, target.parent / "none")
    detector, glum, glad = detect.Detector(), [], []
    for path in steps.each(paths, "photos"):
        try:
            (face,) = detect.choose(detector(images.load_image(path)))
        except ValueError as error:
            print(f"{path}: {error}; left out")
            continue
        name = os.path.relpath(path, target.parent)
        candidate = Candidate(name, path.name, expression.pose(face.landmarks)[:2])
        smile = smile_samples.smile(face.landmarks)
        if smile <= STRAIGHT:
            glum.append(candidate)
        elif smile >= SMILING:
            glad.append(candidate)
    return glum, glad


def coupled(
    glum: Sequence[Candidate], glad: Sequence[Candidate], count: int
) -> list[tuple[str, str]]:
    """File names (who is to change, whose expression), both directions of each couple.

    Couples whose heads differ least in pose come first; always the same for the same faces. Raises
    ValueError if there are not enough.
    """
    apart = {
        (one, other): float(np.abs(glum[one].pose - glad[other].pose).max())
        for one in range(len(glum))
        for other in range(len(glad))
        if glum[one].person != glad[other].person
    }
    uses, found = collections.Counter(), []
    for (one, other), turn in sorted(apart.items(), key=lambda item: (item[1], item[0])):
        names = glum[one].filename, glad[other].filename
        if turn <= MOST_TURN and max(uses[name] for name in names) < MOST_USES:
            uses.update(names)
            found += [names, names[::-1]]
        if len(found) == count:
            return found
    raise ValueError(
        f"only {len(found)} pairs among {len(glum)} straight and {len(glad)} smiling faces; "
        "lower --count or --smiling, or raise --straight"
    )


def _trusted(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Landmarks by file name, where a second landmarker agrees."""
    source = files.absolute(path)
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = zip(arrays["filename"], arrays["landmarks"], arrays["check_px"], strict=True)
            return {str(name): face for name, face, error in found if error <= WORST_CHECK}
    except FileNotFoundError:
        raise
    except Exception as error:  # zip and numpy have a dozen kinds of their own
        raise ValueError(f"{source} holds no checked landmarks: {error}") from None
