"""Makes the training zip and its table from a clone of github.com/jcpeterson/omi.

    python -m experiments.prepare_omi --omi=omi --dst=omi_train_128.zip --size=128

The pictures are synthetic (CC BY-NC-SA 4.0: so is what is trained on them). Faces that the
project keeps for testing are left out; the table beside the zip (omi_train_128.csv) has
`training_weight` 0 for the people who are held back from training (`held_back` 1).
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from fxjax import files, images
from fxjax.cli import launch
from fxjax.training import data
from fxjax.types import AnyPhoto, Photo

BASE = range(1, 1005)
# Base faces that are kept for testing, and the manipulated faces that are not.
KEPT_APART = frozenset(
    int(number)
    for number in """
    13 17 23 26 29 31 38 39 45 50 55 56 59 75 79 83 85 93 95 100 102 108 115 120 153 157 159 163
    177 198 204 264 276 283 286 287 294 306 312 338 343 374 394 395 408 413 426 432 441 446 453 458
    462 467 480 495 510 516 521 522 525 527 528 538 542 548 552 557 559 567 570 576 586 594 609 617
    626 631 640 641 650 655 667 674 675 687 694 695 703 709 715 720 721 724 737 738 743 747 768 772
    789 790 813 815 820 830 841 845 854 867 886 899 923 949 951 952 955 978 984 991
    """.split()
)
MANIPULATED = tuple(
    """
    1263 1264 1270 1273 1281 1284 1285 1287 1297 1298 1302 1308 1309 1317 1320 1328 1329 1340 1369
    1380 1381 1383 1384 1385 1399 1408 1425 1437 1448 1450
    """.split()
)
ATTRIBUTES = "age attractive dominant familiar gender memorable outgoing smart trustworthy weight"


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the pictures are and what is made of them."""

    omi: Annotated[str, "a clone of the OMI repository"]
    dst: Annotated[str, "zip to write; the table goes beside it as .csv"] = "omi_train_128.zip"
    size: Annotated[int, "side of the pictures in pixels"] = 128


def table() -> list[dict[str, str]]:
    """A row for each picture, in the order of the zip."""
    rows = [
        {
            "filename": f"base_{number:04d}.jpg",
            "source_path": f"images/{number}.jpg",
            "source_id": str(number),
            "kind": "base",
        }
        for number in BASE
        if number not in KEPT_APART
    ]
    rows += [
        {
            "filename": f"man_{number}_{attribute}_{level}.jpg",
            "source_path": f"validation_images/artificial/{number}_{attribute}_{level}.jpg",
            "source_id": number,
            "kind": "manipulated",
        }
        for number in MANIPULATED
        for attribute in ATTRIBUTES.split()
        for level in range(3)
    ]
    for row, apart in zip(rows, data.held_back_rows(rows), strict=True):
        row["held_back"] = str(int(apart))
        row["training_weight"] = f"{0 if apart else data.KIND_WEIGHTS[row['kind']]:.6g}"
    return rows


def smaller(picture: Photo, size: int) -> Photo:
    """A square picture resized with a Lanczos filter that widens with the reduction."""
    inputs = picture.shape[0]
    scale = inputs / size
    middles = (np.arange(size) + 0.5) * scale
    distances = (np.arange(inputs) + 0.5 - middles[:, None]) / scale
    weights = np.where(abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    mixed = np.einsum("ya,abc,xb->yxc", weights, picture, weights, optimize=True)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def main(config: Config) -> None:
    """Writes the zip and the table."""
    rows = table()
    data.table_of(config.dst)  # a bad name is refused before the work

    omi = files.absolute(config.omi)

    def pictures() -> Iterator[tuple[str, AnyPhoto]]:
        for row in rows:
            picture = images.load_image(omi / row["source_path"])
            if picture.shape[0] != picture.shape[1] or picture.shape[0] < config.size:
                raise ValueError(f"{row['source_path']} is {picture.shape}, no square to reduce")
            yield row["filename"], smaller(picture, config.size)

    data.write_zip(config.dst, pictures(), rows)
    apart = sum(row["held_back"] == "1" for row in rows)
    print(f"wrote {config.dst} and its table: {len(rows)} pictures, {apart} of them held back")


if __name__ == "__main__":
    launch(Config, main)
