"""Couples of straight and smiling people whose heads are turned alike, for `experiments.pairs`."""

import collections
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from fxjax import files, images, steps
from fxjax.codes import smile_samples
from fxjax.faces import detect, expression
from fxjax.runs.photos import find
from fxjax.training import data

WORST_CHECK = 4.0  # pixels between two landmarkers: above it the landmarks are not to be trusted
MOST_TURN = 12.0  # degrees of yaw and pitch between the two heads
MOST_USES = 2  # couples in which one face takes part
STRAIGHT, SMILING = 0.3, 0.6  # what the reader says of photos


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
