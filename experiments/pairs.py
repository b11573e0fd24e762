"""Lists pairs of smiling and straight faces that were never trained on, for judging transfers.

    python -m experiments.pairs --table=omi_train.csv --landmarks=omi_train_landmarks.npz \
        --dst=pairs.csv
    python -m experiments.pairs --photos=FOLDER --count=40 --dst=pairs.csv

With --photos it pairs people in a folder by the smile that the expression reader finds. Both
directions of each couple are listed (`appearance`: who is to change, `expression`: whose).
A couple's heads look the same way, so that it differs in expression and not in pose.
"""

import dataclasses
from typing import Annotated

from fxjax import files
from fxjax.cli import launch
from fxjax.runs import pairs as couples


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the faces are listed and which are taken."""

    table: Annotated[str | None, "omi_train.csv, with the column happy"] = None
    landmarks: Annotated[str | None, "omi_train_landmarks.npz"] = None
    photos: Annotated[str | None, "a folder of photos, one person in each, instead"] = None
    dst: Annotated[str, "CSV to write: appearance, expression"] = "pairs.csv"
    count: Annotated[int, "pairs: both directions of half as many couples"] = 60
    straight: Annotated[float, "highest rating happy, 0-100, of a straight face"] = 45.0
    smiling: Annotated[float, "lowest rating happy of a smiling face"] = 65.0


def pairs(config: Config) -> list[tuple[str, str]]:
    """File names (who is to change, whose expression). ValueError if there are not enough."""
    if config.count < 2 or config.count % 2:
        raise ValueError(
            f"{config.count} pairs are not both directions of couples; give an even number"
        )
    if config.photos is not None:
        faces = couples.photographed(config.photos, files.absolute(config.dst))
    elif config.table is None or config.landmarks is None:
        raise ValueError("give --table and --landmarks, or --photos")
    else:
        faces = couples.rated(config.table, config.landmarks, config.straight, config.smiling)
    return couples.coupled(*faces, config.count)


def main(config: Config) -> None:
    """Writes the list."""
    found = pairs(config)
    files.write_lines(config.dst, [("appearance", "expression"), *found])
    print(f"wrote {len(found)} pairs to {config.dst}")


if __name__ == "__main__":
    launch(Config, main)
