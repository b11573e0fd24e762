"""Faces with landmarks for `experiments.train_landmarks`: a generator's samples, and pictures.

    python -m experiments.making.landmark_faces --samples=9000 \
        --pictures=omi_train_128.zip,more.zip --dst=runs/landmark_faces.npz

Landmarks are those that dlib finds, looked up five times in the upright crop. Pictures that are not
aligned (renders, photos) are. Faces that dlib does not find are left out, and a line says how many.
Killed at any moment, the same command goes on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from fxjax import files, images, zoo
from fxjax.cli import launch
from fxjax.codes import smile_samples
from fxjax.faces import align, detect
from fxjax.nn.generator import Generator
from fxjax.training import data
from fxjax.training.landmarker import NAMES, packed, part
from fxjax.types import Photo

PSI = (0.7, 0.85, 1.0)  # truncations of the samples, in turn
PART = 256  # pictures that are labelled between saves; a multiple of 32
LOOK, LEAST = 256, 128  # pixels in which dlib looks, and of a picture that it can look at


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    dst: Annotated[str, "npz to write: pictures, landmarks in their pixels, source"]
    model: Annotated[str, "generator of the samples"] = "faces"
    samples: Annotated[int, "how many are drawn; 0: none"] = 9000
    pictures: Annotated[tuple[str, ...], "folders or zips of square pictures"] = ()
    size: Annotated[int, "pixels of a face"] = 128
    seed: Annotated[int, "of the first sample"] = 500_000


def located(
    detector: detect.Detector, picture: Photo, size: int
) -> tuple[Photo, Float[np.ndarray, "68 2"]] | None:
    """The aligned face of a picture and its landmarks, None where dlib finds none."""
    large = cv2.resize(picture, (LOOK, LOOK), interpolation=cv2.INTER_CUBIC)
    found = detector.upright(large)
    if not found:
        return None
    area = lambda points: float(np.prod(np.ptp(points, axis=0)))
    landmarks = max(found, key=area)
    try:
        crop = align.align(large, landmarks, size)
    except ValueError:  # the landmarks give no square
        return None
    landmarks = align.transform(np.linalg.inv(crop.photo_from_crop), landmarks)
    aligned = len(picture) == size and np.allclose(
        crop.photo_from_crop, align.whole_square(LOOK, size), atol=0.01
    )
    return picture if aligned else images.to_uint8(crop.image), landmarks


def main(config: Config) -> None:
    """Draws and reads, finds landmarks, writes."""
    dst = files.absolute(config.dst)
    settings = dataclasses.asdict(config) | {"dst": ""}
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    folder, detector, places = dst.parent / f"{dst.name}.{key}.parts", detect.Detector(), []

    def add(name: str, count: int, read: Callable[[slice], Iterable[Photo]]) -> None:
        """Labels pictures, PART at a time, those that an earlier run did not."""
        mine = [folder / f"{name}_{k:08d}.npz" for k in range(0, count, PART)]
        for k, place in enumerate(tqdm(mine, name, unit=f" x {PART}", disable=None)):
            if not place.exists():
                pictures = read(slice(k * PART, min((k + 1) * PART, count)))
                seen = [located(detector, picture, config.size) for picture in pictures]
                files.write(place, packed(name, [one for one in seen if one is not None]))
        places.extend(mine)
        print(f"{name}: {sum(len(part(place)[1]) for place in mine)} faces of {count}", flush=True)

    for source in config.pictures:
        pictures, _ = data.read_pictures(source, max(config.size, LEAST))
        add(files.absolute(source).stem, len(pictures), lambda some, all=pictures: all[some])
    if config.samples:
        generator = zoo.load(config.model, part="generator")
        numbers = range(config.seed, config.seed + config.samples)
        add("samples", config.samples, lambda some: _drawn(generator, numbers, some, config.size))
    found = [one for place in places if len((one := part(place))[1])]
    if not found:
        raise ValueError("no faces: give --samples or --pictures that show some")
    arrays = [np.concatenate(each) for each in zip(*found, strict=True)]
    files.write(dst, files.npz(dict(zip(NAMES, arrays, strict=True)), compressed=True))
    files.remove(folder.parent, [folder.name])


def _drawn(generator: Generator, numbers: range, some: slice, size: int) -> Iterator[Photo]:
    """Some of the samples, 32 at a time, each 32 with the next truncation."""
    for k in range(some.start, some.stop, 32):
        few = numbers[k : min(k + 32, some.stop)]
        codes = smile_samples.codes(generator, few, PSI[k // 32 % len(PSI)])
        yield from smile_samples.drawn(generator, codes, few, size)


if __name__ == "__main__":
    launch(Config, main)
