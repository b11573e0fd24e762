"""Makes README's first picture: shipped samples before and after, and the way from one to another.

    python -m experiments.making.showcase --dst=docs/images

people.jpg has each face, and below it the same face with another sample's expression (inset).
strength.webp is an animation: a face from its own expression to the driver's and back.
"""

import dataclasses
import io
from typing import Annotated

import cv2
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fxjax import engine, files, zoo
from fxjax.cli import launch
from fxjax.codes import mix
from fxjax.images import load_image
from fxjax.transfer_types import Settings, Transfer
from fxjax.types import Photo

GAP = 6  # pixels of white between pictures


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    dst: Annotated[str, "folder to write to"] = "docs/images"
    pairs: Annotated[str, "samples of the shipped generator, person<driver, with commas"] = (
        "seed0006<seed0058,seed0035<seed0007,seed0060<seed0007,seed0015<seed0035,seed0050<seed0058"
    )
    size: Annotated[int, "pixels a side of each picture"] = 256
    moving: Annotated[int, "which of the pairs moves, from 0"] = 1
    frames: Annotated[int, "pictures from one end to the other"] = 12


def main(config: Config) -> None:
    """Transfers and writes both pictures."""
    wanted = [pair.partition("<")[::2] for pair in config.pairs.split(",")]
    made = engine.Engine("faces", settings=Settings(rows=mix.free_rows(*mix.DECIDE)))
    columns, film = [], []
    for number, (person, driver) in enumerate(wanted):
        (found,) = made(sample(person), sample(driver))
        print(f"{person} < {driver}: {found.drawn}, {found.verdict.text}")
        columns.append(column(sample(person), found.image, sample(driver), config.size))
        if number == config.moving:
            film = strengths(made, found, config.frames)
    gap = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    row = [part for one in columns for part in (one, gap)][:-1]
    write(config.dst, "people.jpg", [np.concatenate(row, axis=1)])
    write(config.dst, "strength.webp", [large(frame, config.size) for frame in film])


def sample(name: str) -> Photo:
    """A sample of the shipped generator. KeyError if there is none of this name."""
    return load_image(zoo.samples()[name])


def column(before: Photo, after: Photo, driver: Photo, size: int) -> Photo:
    """The face, and below it the changed one with the driver in a corner."""
    upper, lower, inset = large(before, size), large(after, size), large(driver, size // 4)
    lower[-len(inset) - 2 :, : len(inset) + 2] = 255
    lower[-len(inset) :, : len(inset)] = inset
    return np.concatenate([upper, np.full((GAP, size, 3), 255, np.uint8), lower])


def strengths(made: engine.Engine, found: Transfer, count: int) -> list[Photo]:
    """From the person's own expression to the driver's and back."""
    codes, frames = jnp.asarray(found.codes), []
    own = made.draw(codes[:1], found.generator)
    every = jnp.ones(codes.shape[1], bool)
    for strength in np.linspace(0, 1, count):
        code = mix.blended(codes[0], codes[-1], every, float(strength))
        new = made.draw(code[None], found.generator)
        frames.append(made.apply(found.person, own, new, found.driver, amount=strength)[0])
    return frames + frames[-2:0:-1]


def large(picture: Photo, size: int) -> Photo:
    """The picture with so many pixels a side."""
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC)


def write(folder: str, name: str, pictures: list[Photo]) -> None:
    """One picture, or an animation of several."""
    first, *others = [Image.fromarray(picture) for picture in pictures]
    buffer, ending = io.BytesIO(), name.rpartition(".")[2]
    options = {"save_all": True, "append_images": others, "duration": 80, "loop": 0}
    kind = {"jpg": "JPEG", "webp": "WEBP"}[ending]
    first.save(buffer, kind, quality=88, **(options if others else {}))
    files.write(files.absolute(folder) / name, buffer.getvalue())


if __name__ == "__main__":
    launch(Config, main)
