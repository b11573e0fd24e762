"""Expression transfer without any generator: parts of the driver's face pasted into the photo.

The driver is moved onto the photo by what does not move with an expression (nose and eye corners),
and the part is blended in by Poisson's equation (OpenCV's seamlessClone). Baselines for reports.
"""

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fxjax.faces.align import Landmarks, Matrix, eye_distance, resample, steady, transform
from fxjax.images import gray, is_gray
from fxjax.types import Photo

Region = Literal["mouth", "lower_face", "eyes_and_mouth", "whole_face"]

_MOUTH = range(48, 68)
_LEAST = 4  # pixels of a part's width and height: in less there is nothing to blend
_ENOUGH = 64  # OpenCV leaves out three pixels along a part's edge: small parts are enlarged
_EDGE = 4  # and it needs pixels around the part, also at the photo's border
_AROUND = 0.12  # of the distance between the eyes: skin that goes with a part


def paste(
    photo: Photo,
    landmarks: Landmarks,
    driver: UInt8[np.ndarray, "_ _ 3"],
    driver_landmarks: Landmarks,
    *,
    region: Region,
) -> Photo:
    """The photo with the driver's mouth, lower face (within the photo's jaw), or more of the face.

    At the photo's own size; a gray photo stays gray. Parts that reach over a border are cut there.
    Raises ValueError for landmarks that fall together, and if all parts are smaller than 4 pixels
    or outside the photo or the driver's picture.
    """
    if is_gray(photo):
        driver = gray(driver)
    photo_from_driver = steady(driver_landmarks, landmarks)
    moved = transform(photo_from_driver, driver_landmarks)
    apart = eye_distance(landmarks)
    reach = max(_AROUND * float(apart), 1.5)
    mouth = [landmarks[_MOUTH], moved[_MOUTH]]  # the old one is to go, the new one to be seen
    if region == "mouth":
        parts = [mouth]
    elif region == "lower_face":
        parts = [[landmarks[[*range(3, 14), *range(31, 36)]], moved[_MOUTH]]]
    elif region == "whole_face":
        parts = [[landmarks[:27]]]
    else:
        eyes = [[*range(17, 22), *range(36, 42)], [*range(22, 27), *range(42, 48)]]
        parts = [[landmarks[eye], moved[eye]] for eye in eyes] + [mouth]
    result = photo.copy()
    driver_from_photo = np.linalg.inv(photo_from_driver)
    if not sum(_cloned(result, driver, driver_from_photo, part, reach) for part in parts):
        raise ValueError(
            f"the {region.replace('_', ' ')} cannot be pasted: smaller than {_LEAST} pixels, or "
            "outside the photo or the driver's picture"
        )
    return result


def _cloned(
    photo: Photo,
    driver: UInt8[np.ndarray, "_ _ 3"],
    driver_from_photo: Matrix,
    shapes: Sequence[Float[np.ndarray, "_ 2"]],
    reach: float,
) -> bool:
    """Blends the hulls of some points, and what is within reach of them, into the photo itself.

    False if there is nothing to blend.
    """
    height, width = photo.shape[:2]
    points = np.concatenate(list(shapes))
    edge = 3 + int(np.ceil(reach))
    low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int) + 1
    # The window ends at the photo's borders, or wild landmarks would ask for a huge one.
    low, high = np.maximum(low - edge, 0), np.minimum(high + edge, [width, height])
    if np.any(high - low < _LEAST):
        return False
    window = photo[low[1] : high[1], low[0] : high[0]]
    zoom = max(1, math.ceil(_ENOUGH / min(window.shape[:2])))
    wide, tall = ((high - low) * zoom + 2 * _EDGE).tolist()
    corner = low + (0.5 - _EDGE) / zoom - 0.5
    photo_from_under = np.array([[1 / zoom, 0, corner[0]], [0, 1 / zoom, corner[1]], [0, 0, 1]])
    under = _seen(photo, photo_from_under, tall, wide)
    driver_from_under = driver_from_photo @ photo_from_under
    mask = _hulls([(shape - corner) * zoom for shape in shapes], tall, wide, reach * zoom)
    grid = np.indices((tall, wide))[::-1].reshape(2, -1).T.astype(float)
    there = transform(driver_from_under, grid).reshape(tall, wide, 2)
    mask &= ((there >= 0) & (there <= np.array(driver.shape[1::-1]) - 1)).all(axis=-1)
    mask[[0, -1]] = mask[:, [0, -1]] = False
    left, top, across, down = cv2.boundingRect(mask.astype(np.uint8))
    if min(across, down) < _LEAST * zoom:
        return False
    source = _seen(driver, driver_from_under, tall, wide)
    middle = left + across // 2, top + down // 2
    mixed = cv2.seamlessClone(source, under, mask.astype(np.uint8) * 255, middle, cv2.NORMAL_CLONE)
    change = (mixed.astype(np.float32) - under)[_EDGE:-_EDGE, _EDGE:-_EDGE]
    change = cv2.resize(change, window.shape[1::-1], interpolation=cv2.INTER_AREA)
    window[...] = np.clip(np.rint(window + change), 0, 255)
    return True


def _seen(
    picture: UInt8[np.ndarray, "_ _ 3"], picture_from_target: Matrix, tall: int, wide: int
) -> UInt8[np.ndarray, "tall wide 3"]:
    """A picture through a matrix; mirrored outside."""
    levels = resample(picture, picture_from_target, tall, wide)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _hulls(
    shapes: Sequence[Float[np.ndarray, "_ 2"]], tall: int, wide: int, reach: float
) -> Bool[np.ndarray, "tall wide"]:
    """What lies in the hull of each shape, or within reach of it."""
    canvas = np.full((tall, wide), 255, np.uint8)
    for shape in shapes:
        corners = np.rint(np.clip(shape, -(2**14), 2**14)).astype(np.int32)
        cv2.fillPoly(canvas, [cv2.convexHull(corners)], (0,))
    return cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
