"""Draws random faces of ICT-FaceKit, each with a straight face and with a smile.

    python -m experiments.making.render_faces --model=ict_facekit.npz \
        --dst=runs/renders.zip --count=600

Both pictures of a person share pose, light, camera, colours and background, so that each is the
exact answer to changing the other. The table beside the zip has `file,expression,person`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

from tqdm import tqdm

from experiments.making import renders
from fxjax.cli import launch
from fxjax.training import data
from fxjax.types import AnyPhoto


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    model: Annotated[str, "ict_facekit.npz"]
    dst: Annotated[str, "zip to write; its table goes beside it as .csv"] = "runs/renders.zip"
    count: Annotated[int, "people, each with every expression"] = 600
    size: Annotated[int, "side of the pictures in pixels"] = 128
    seed: Annotated[int, "the same seed gives the same bytes"] = 0


def main(config: Config) -> None:
    """Draws and packs."""
    if config.count < 1 or config.size < 16 or config.seed < 0:
        raise ValueError(
            f"--count={config.count} --size={config.size} --seed={config.seed}: want at least one "
            "person, 16 pixels and a seed of 0 or more"
        )
    data.table_of(config.dst)  # before the work: is it a zip?
    model, rows = renders.load(config.model), []

    def drawn() -> Iterator[tuple[str, AnyPhoto]]:
        for person in tqdm(range(config.count), "drawing", unit="person", disable=None):
            found = renders.pictures(model, config.seed, person, config.size)
            for expression, picture in found.items():
                name = f"ict_{person:05d}_{expression}.jpg"
                yield name, picture
                rows.append({"file": name, "expression": expression, "person": f"ict{person}"})

    data.write_zip(config.dst, drawn(), rows)
    print(f"wrote {config.dst} and its table: {config.count} people, {len(rows)} pictures")


if __name__ == "__main__":
    launch(Config, main)
