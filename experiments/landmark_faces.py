"""Faces with landmarks for `experiments.train_landmarks`: a generator's samples, and pictures.

    python -m experiments.landmark_faces --samples=9000 --pictures=omi_train_128.zip,more.zip \
        --dst=runs/landmark_faces.npz

Landmarks are those that dlib finds, looked up five times in the upright crop. Pictures that are not
aligned (renders, photos) are. Faces that dlib does not find are left out, and a line says how many.
"""

import dataclasses
import io
from collections.abc import Iterable
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments import smile_samples
from experiments.launch import launch
from fxjax import align, data, detect, files, images, zoo
from fxjax.types import Photo

PSI = (0.7, 0.85, 1.0)  # truncations of the samples, in turn
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
    detector, faces, points, names = detect.Detector(), [], [], []

    def add(name: str, pictures: Iterable[Photo], count: int) -> None:
        bar = tqdm(pictures, name, count, disable=None)
        kept = [one for p in bar if (one := located(detector, p, config.size)) is not None]
        for face, landmarks in kept:
            faces.append(face)
            points.append(landmarks)
            names.append(name)
        print(f"{name}: {len(kept)} faces of {count}", flush=True)

    for source in config.pictures:
        pictures, _ = data.read_pictures(source, max(config.size, LEAST))
        add(files.absolute(source).stem, pictures, len(pictures))
    if config.samples:
        generator = zoo.load(config.model, part="generator")
        numbers = range(config.seed, config.seed + config.samples)
        drawn = (
            picture
            for k in range(0, config.samples, 32)
            for picture in smile_samples.drawn(
                generator,
                smile_samples.codes(generator, numbers[k : k + 32], PSI[k // 32 % len(PSI)]),
                numbers[k : k + 32],
                config.size,
            )
        )
        add("samples", drawn, config.samples)
    if not faces:
        raise ValueError("no faces: give --samples or --pictures that show some")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pictures=np.stack(faces),
        landmarks=np.stack(points).astype(np.float32),
        source=np.array(names),
    )
    files.write(config.dst, buffer.getvalue())


if __name__ == "__main__":
    launch(Config, main)
