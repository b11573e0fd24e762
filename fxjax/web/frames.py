"""Pictures for the page: checked before they are decoded, made small, cut out around a face."""

import dataclasses
import math
import pathlib
import warnings
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from fxjax import images
from fxjax.faces import align
from fxjax.faces.located import Faces
from fxjax.transfer_types import Located
from fxjax.types import AnyPhoto

SIDE = 1280  # pixels of the long side of what the page shows
NEAR = 320  # of a face alone
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def check(source: pathlib.Path, most: int) -> None:
    """ValueError for what has more pixels than that by its header; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(source, formats=KINDS) as picture:
                width, height = picture.size
    except UnidentifiedImageError:
        return  # the reader says what it is instead
    except Exception as error:
        raise ValueError(f"this picture cannot be read: {error}") from None
    if width * height > most:
        raise ValueError(
            f"{width} x {height} pixels are too many: make it smaller ({most // 10**6} million)"
        )


def preview(path: pathlib.Path, photo: AnyPhoto) -> None:
    """Writes a JPEG of at most `SIDE` pixels."""
    scale = SIDE / max(photo.shape[:2])
    images.save_image(path, photo if scale >= 1 else _scaled(photo, scale))


def _scaled(photo: Any, scale: float) -> Any:
    size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def smaller(face: Located, engine: Faces, most: int = SIDE) -> Located:
    """The same face in a smaller copy of the photo; as it is if that is small already."""
    scale = most / max(face.photo.shape[:2])
    if scale >= 1:
        return dataclasses.replace(face, cutout=None)
    photo = _scaled(face.photo, scale)
    place = np.diag([photo.shape[1] / face.photo.shape[1], photo.shape[0] / face.photo.shape[0], 1])
    return _moved(face, photo, place, engine)


def near(face: Located, engine: Faces) -> Located:
    """The face in a copy of its surroundings, small enough to draw many."""
    corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * len(face.crop.image) - 0.5
    square = align.transform(face.crop.photo_from_crop, corners)
    limit = np.array(face.photo.shape[1::-1])
    low = np.clip(np.floor(square.min(0)), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(square.max(0)), low + 1, limit).astype(int)
    photo = face.photo[low[1] : high[1], low[0] : high[0]].copy()
    place = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]])
    return smaller(_moved(face, photo, place, engine), engine, NEAR)


def _moved(face: Located, photo: Any, place: align.Matrix, engine: Faces) -> Located:
    landmarks = align.transform(place, face.landmarks)
    crop = align.align(photo, landmarks, engine.resolution)
    return dataclasses.replace(face, photo=photo, landmarks=landmarks, crop=crop, cutout=None)


def head(box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 4"]:
    """A box around a head, of that around its landmarks, which end at the brows."""
    left, top, right, bottom = box
    high = bottom - top
    return np.array(
        [left - 0.05 * high, top - 0.3 * high, right + 0.05 * high, bottom + 0.05 * high]
    )


def rounded(numbers: Float[np.ndarray, " 4"]) -> list[float]:
    """For JSON, within 0 to 1."""
    return [round(float(number), 4) for number in np.clip(numbers, 0, 1)]


def number(value: float) -> float | None:
    """For JSON, which knows no infinities."""
    return round(float(value), 3) if math.isfinite(value) else None
