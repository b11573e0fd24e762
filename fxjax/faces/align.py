"""Landmarks to an FFHQ-like crop and its matrix, and where the parts of a face are (OpenCV).

Coordinates are (x, y) with pixel centres at whole numbers, so a picture of width w spans
-0.5..w-0.5. `photo_from_crop` maps a crop's homogeneous coordinates to the photo's. Landmarks are
the usual 68 points: 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from fxjax.types import Photo

Landmarks = Float[np.ndarray, "68 2"]
Matrix = Float[np.ndarray, "3 3"]

PARTS = ("eyes", "brows", "mouth")
"""What moves with an expression."""

_STEADY = [*range(27, 36), 36, 39, 42, 45]  # nose and eye corners
_FADE = 0.05  # of the crop's side: how far inside the photo its border begins to blur
_BLUR = 0.02  # of the crop's side: the blur itself, as in FFHQ


class Crop(NamedTuple):
    """An upright square face in [-1, 1], and where it lies in the photo."""

    image: Float[np.ndarray, "size size 3"]
    photo_from_crop: Matrix

    def at(self, size: int) -> Matrix:
        """`photo_from_crop` of the same square in `size` pixels."""
        return self.photo_from_crop @ whole_square(len(self.image), size)

    def around(self, photo: Photo, room: float = 0.0) -> tuple[slice, slice]:
        """Rows and columns of a photo that hold the square, and `room` of its side beyond."""
        corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * len(self.image) - 0.5
        square = transform(self.photo_from_crop, corners)
        beyond = room * np.linalg.norm(square[1] - square[0])
        limit = np.array(photo.shape[1::-1])
        low = np.clip(np.floor(square.min(0) - beyond), 0, limit - 1).astype(int)
        high = np.clip(np.ceil(square.max(0) + beyond), low + 1, limit).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


class Masks(NamedTuple):
    """Soft masks in 0..1: one on the region, falling to zero over the feather around it."""

    eyes: Float[np.ndarray, "size size"]
    brows: Float[np.ndarray, "size size"]
    mouth: Float[np.ndarray, "size size"]
    face: Float[np.ndarray, "size size"]
    """The hull of all landmarks and the forehead."""


def eye_distance(landmarks: Landmarks) -> float:
    """The distance between the eyes' middles, in the landmarks' unit."""
    return float(np.linalg.norm(landmarks[36:42].mean(0) - landmarks[42:48].mean(0)))


def filled(
    polygon: Float[np.ndarray, "_ 2"], wide: int, tall: int | None = None
) -> UInt8[np.ndarray, "_ _"]:
    """1 inside of a polygon of pixels, 0 elsewhere; a square without `tall`."""
    mask = np.zeros((wide if tall is None else tall, wide), np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32)], (1,))
    return mask


def ffhq_square(landmarks: Landmarks, size: int) -> Matrix:
    """`photo_from_crop` of the FFHQ data set's oriented square around the eyes and the mouth.

    Raises ValueError if the landmarks fall together. Source: arXiv:1710.10196, appendix C, with
    eye centres as the means of six landmarks and the mouth as the mean of its corners.
    """
    right_eye, left_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes, mouth = (right_eye + left_eye) / 2, (landmarks[48] + landmarks[54]) / 2
    across, down = left_eye - right_eye, mouth - eyes
    x = across + np.array([down[1], -down[0]])  # the eyes' line and the face's axis vote alike
    side = max(4.0 * math.hypot(*across), 3.6 * math.hypot(*down))
    if not (math.isfinite(side) and side > 0 and math.hypot(*x) > 1e-3 * side):
        raise ValueError("the landmarks do not look like a face: eyes and mouth give no square")
    x = x / math.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    matrix = np.eye(3)
    matrix[:2, 0], matrix[:2, 1] = x * side / size, y * side / size
    matrix[:2, 2] = centre - (x + y) * side * (size - 1) / (2 * size)
    return matrix


def whole_square(side: int, size: int) -> Matrix:
    """`photo_from_crop` of a whole square picture of that side."""
    scale = side / size
    return np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1.0]])


def corners(photo_from_crop: Matrix, size: int) -> Float[np.ndarray, "4 2"]:
    """A crop's outer corners in the photo: top left, top right, bottom right, bottom left."""
    low, high = -0.5, size - 0.5
    return transform(
        photo_from_crop, np.array([[low, low], [high, low], [high, high], [low, high]])
    )


def transform(matrix: Matrix, points: Float[np.ndarray, "count 2"]) -> Float[np.ndarray, "count 2"]:
    """Moves points by an affine matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def steady(source: Landmarks, target: Landmarks) -> Matrix:
    """`target_from_source`: the least squares shift, turn and scale of what does not move.

    That is the nose and the corners of the eyes, whatever the expression. Raises ValueError if
    they fall together.
    """
    points, wanted = (each[_STEADY] @ np.array([1, 1j]) for each in (source, target))
    centred = points - points.mean()
    size = np.sum(np.abs(centred) ** 2)
    factor = np.sum(centred.conj() * (wanted - wanted.mean())) / size if size > 1e-6 else 0j
    if not (np.isfinite(factor) and abs(factor) > 1e-6):
        raise ValueError("the landmarks do not look like a face: nose and eyes fall together")
    shift = wanted.mean() - factor * points.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag], [0, 0, 1]]
    )


def is_aligned(photo: Photo, landmarks: Landmarks, *, tolerance: float = 0.07) -> bool:
    """Whether the photo is such a crop already: the face's square covers all of it.

    `tolerance` is the largest distance between their corners, as a part of the side; of 1,746
    aligned synthetic faces 99.7 % are within, of 40 portraits none.
    """
    height, width = photo.shape[:2]
    if height != width:
        return False
    found = corners(ffhq_square(landmarks, width), width)
    distance = np.linalg.norm(found - corners(np.eye(3), width), axis=1).max()
    return bool(distance <= tolerance * width)


def align(photo: Photo, landmarks: Landmarks, size: int, *, force: bool = False) -> Crop:
    """The face as FFHQ shows it, `size` pixels square.

    A photo that is such a crop already is taken whole, unless `force`. Outside the photo the crop
    mirrors it, blurred and fading to its median colour. Raises ValueError for landmarks that give
    no square or one that misses the photo.
    """
    if not force and is_aligned(photo, landmarks):
        matrix = whole_square(photo.shape[1], size)
    else:
        matrix = ffhq_square(landmarks, size)
    return Crop(cut(photo, matrix, size), matrix)


def cut(photo: Photo, photo_from_crop: Matrix, size: int) -> Float[np.ndarray, "size size 3"]:
    """The crop at a known place; see `align`."""
    height, width = photo.shape[:2]
    outside = _outside(photo_from_crop, size, width, height)
    if outside.min() >= 0:
        raise ValueError(f"the face's square lies outside the photo of {width}x{height} pixels")
    crop = resample(photo, photo_from_crop, size, size)
    if outside.max() > 0:
        soft = cv2.GaussianBlur(crop, (0, 0), max(_BLUR * size, 0.5))
        fade = min(_FADE, float(outside.max()))  # so that a little outside matters little
        crop += (soft - crop) * np.clip(1 + outside / fade, 0, 1)[..., None]
        median = np.median(crop[outside < 0], axis=0)
        crop += (median - crop) * np.clip(outside / 0.3, 0, 1)[..., None]
    return np.clip(crop / np.float32(127.5) - 1, -1, 1)


def _outside(matrix: Matrix, size: int, width: int, height: int) -> Float[np.ndarray, "size size"]:
    """How far each crop pixel is outside the photo (inside: negative), in parts of the crop."""
    u, v = np.arange(size)[None, :], np.arange(size)[:, None]
    x = matrix[0, 0] * u + matrix[0, 1] * v + matrix[0, 2]
    y = matrix[1, 0] * u + matrix[1, 1] * v + matrix[1, 2]
    beyond = np.maximum(
        np.maximum(-0.5 - x, x - width + 0.5), np.maximum(-0.5 - y, y - height + 0.5)
    )
    return (beyond / (size * _scale(matrix))).astype(np.float32)


def _scale(matrix: Matrix) -> float:
    return math.sqrt(abs(np.linalg.det(matrix[:2, :2])))


def resample(
    picture: UInt8[np.ndarray, "_ _ channels"] | Float[np.ndarray, "_ _ channels"],
    picture_from_target: Matrix,
    height: int,
    width: int,
    *,
    border: int = cv2.BORDER_REFLECT_101,
) -> Float[np.ndarray, "height width channels"]:
    """`picture` seen through an affine matrix, with Lanczos kernels; mirrored outside.

    A picture that gets smaller is shrunk by area to at least twice the wanted scale, sampled there
    at twice the wanted size, and halved, so that nothing aliases.
    """
    scale = _scale(picture_from_target)
    ends = np.array([[-1, -1], [width, -1], [width, height], [-1, height]], float)
    margin = 6 * max(scale, 1.0) + 1  # what the kernels reach
    left, top, right, bottom = _bounds(transform(picture_from_target, ends), margin, picture)
    patch = picture[top:bottom, left:right]
    matrix = _shift(-left, -top) @ picture_from_target
    if scale >= 4:
        tall, wide = patch.shape[:2]
        short, slim = (max(1, round(length / (scale // 2))) for length in (tall, wide))
        patch = cv2.resize(patch, (slim, short), interpolation=cv2.INTER_AREA)
        patch = patch.reshape(short, slim, -1)  # OpenCV drops a single channel's axis
        matrix = _zoom(slim / wide, short / tall) @ matrix
    patch = patch.astype(np.float32)
    if scale <= 1:
        return _warp(patch, matrix, height, width, border)
    fine = _warp(patch, matrix @ _zoom(0.5, 0.5), 2 * height, 2 * width, border)
    halves = [
        Pillow.fromarray(channel).resize((width, height), Pillow.Resampling.LANCZOS)
        for channel in np.ascontiguousarray(np.moveaxis(fine, 2, 0))
    ]
    return np.stack([np.asarray(half) for half in halves], axis=2)


def _bounds(
    points: Float[np.ndarray, "count 2"], margin: float, picture: np.ndarray
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the picture's part around points; at least one pixel."""
    limit = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(points.min(0) - margin), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin), low + 1, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _warp(
    patch: Float[np.ndarray, "_ _ channels"], matrix: Matrix, height: int, width: int, border: int
) -> Float[np.ndarray, "height width channels"]:
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(patch, matrix[:2], (width, height), flags=flags, borderMode=border)
    return warped.reshape(height, width, -1)


def _shift(x: float | int, y: float | int) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _zoom(x: float, y: float) -> Matrix:
    """Resizing by a factor, which keeps the outer edges of pixels in place."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def region_masks(
    landmarks: Landmarks, size: int, *, feather: float = 0.05, margin: float = 0.02
) -> Masks:
    """Where the eyes, brows, mouth and face are in a picture of `size` pixels square.

    `landmarks` are in its coordinates; `feather` and the `margin` before it are parts of the face's
    FFHQ square.
    """
    zoom = max(1, 512 // size)  # small masks are drawn larger, so that their edges are smooth
    points = (landmarks + 0.5) * zoom - 0.5
    unit = _scale(ffhq_square(points, 1))
    up = points[36:48].mean(0) - points[[48, 54]].mean(0)
    forehead = points[17:27] + 0.6 * up

    def soft(*shapes: Float[np.ndarray, "_ 2"]) -> Float[np.ndarray, "size size"]:
        canvas = np.full((size * zoom, size * zoom), 255, np.uint8)
        for shape in shapes:
            hull = cv2.convexHull(np.rint(shape).astype(np.int32))
            cv2.fillPoly(canvas, [hull], (0,))
        away = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / unit
        mask = smooth(1 - (away - margin) / max(feather, 1e-6)).astype(np.float32)
        return mask if zoom == 1 else cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)

    return Masks(
        eyes=soft(points[36:42], points[42:48]),
        brows=soft(points[17:22], points[22:27]),
        mouth=soft(points[48:68]),
        face=soft(np.concatenate([points[:27], forehead])),
    )


def check_parts(parts: Sequence[str]) -> None:
    """ValueError unless these are parts of a face that move with an expression."""
    if not parts or set(parts) - set(PARTS):
        found = ", ".join(parts) or "none"
        raise ValueError(f"parts of a face: {found}; want some of {', '.join(PARTS)}")


def union(masks: Iterable[Masks], parts: Sequence[str] = PARTS) -> Float[np.ndarray, "size size"]:
    """Where any of the parts is in any of the masks. ValueError for none, or an unknown one."""
    check_parts(parts)
    return np.max([getattr(mask, part) for mask in masks for part in parts], axis=0)


def depth(outline: Float[np.ndarray, "_ 2"], size: int) -> Float[np.ndarray, "size size"]:
    """How many pixels each place within an outline is from outside of it; 0 there."""
    return cv2.distanceTransform(filled(outline, size), cv2.DIST_L2, 5)


def smooth(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """0 below 0, 1 above 1, and a curve without corners between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
