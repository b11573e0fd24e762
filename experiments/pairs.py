"""Lists pairs of smiling and straight faces that were never trained on, for judging transfers.

    python -m experiments.pairs --table=omi_train.csv --landmarks=omi_train_landmarks.npz \
        --dst=pairs.csv

Both directions of each couple are listed (`appearance`: who is to change, `expression`: whose).
A couple's heads look the same way, so that it differs in expression and not in pose.
"""

import collections
import dataclasses
from typing import Annotated, NamedTuple

import numpy as np
from etils import epath

from experiments.launch import launch
from fxjax import data, expression, files

WORST_CHECK = 4.0  # pixels between two landmarkers: above it the landmarks are not to be trusted
MOST_TURN = 8.0  # degrees of yaw and pitch between the two heads
MOST_USES = 2  # couples in which one face takes part


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the faces are listed and which are taken."""

    table: Annotated[str, "omi_train.csv, with the column happy"]
    landmarks: Annotated[str, "omi_train_landmarks.npz"]
    dst: Annotated[str, "CSV to write: appearance, expression"] = "pairs.csv"
    count: Annotated[int, "pairs: both directions of half as many couples"] = 60
    straight: Annotated[float, "highest rating happy, 0-100, of a straight face"] = 45.0
    smiling: Annotated[float, "lowest rating happy of a smiling face"] = 65.0


class Candidate(NamedTuple):
    """A face that may be taken: its file, its person, yaw and pitch in degrees."""

    filename: str
    person: str
    pose: np.ndarray


def pairs(config: Config) -> list[tuple[str, str]]:
    """File names (who is to change, whose expression): always the same ones for the same tables.

    Only held-back base faces with good landmarks; couples whose heads differ least in pose come
    first. Raises ValueError if the table rates no `happy`, or there are not enough such couples.
    """
    rows = data.read_table(config.table)
    if not {"kind", "source_id", "happy"} <= rows[0].keys():
        raise ValueError(f"{config.table} lacks kind, source_id or happy; give the rated table")
    if config.count < 2 or config.count % 2:
        raise ValueError(
            f"{config.count} pairs are not both directions of couples; give an even number"
        )
    weights = data.read_weights(config.table, [row["filename"] for row in rows])
    points = _trusted(config.landmarks)
    glum, glad = [], []
    for row, weight in zip(rows, weights, strict=True):
        if weight or row["kind"] != "base" or row["filename"] not in points:
            continue
        turn = expression.pose(points[row["filename"]])[:2]
        candidate = Candidate(row["filename"], row["source_id"], turn)
        if float(row["happy"]) <= config.straight:
            glum.append(candidate)
        elif float(row["happy"]) >= config.smiling:
            glad.append(candidate)
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
        if len(found) == config.count:
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


def main(config: Config) -> None:
    """Writes the list."""
    found = pairs(config)
    files.write_lines(config.dst, [("appearance", "expression"), *found])
    print(f"wrote {len(found)} pairs to {config.dst}")


if __name__ == "__main__":
    launch(Config, main)
