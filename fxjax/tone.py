"""The colour of a face's skin, carried over to its mouth; lips and teeth have their own."""

import cv2
import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "68 2"]
SOFT = 0.006  # of a picture's side: the edge of the masks
FEW = 128  # pixels are enough for something so smooth


def of_skin(
    values: Float[np.ndarray, "size size 3"],
    weight: Float[np.ndarray, "size size"],
    landmarks: Points,
) -> Float[np.ndarray, "size size 3"]:
    """Local averages of the values where they have weight, carried into the gaps between.

    Inside the mouth of these landmarks only in brightness: teeth have no colour of skin.
    """
    found = _spread(values, weight)
    teeth = inside(landmarks, len(values))[..., None]
    return found + teeth * (found.mean(axis=2, keepdims=True) - found)


def lips(landmarks: Points, size: int) -> Float[np.ndarray, "size size"]:
    """1 on the lips and 0 elsewhere, with a soft edge."""
    outer, inner = (_filled(landmarks[part], size) for part in (slice(48, 60), slice(60, 68)))
    return _soft(np.maximum(outer - inner, 0))


def inside(landmarks: Points, size: int) -> Float[np.ndarray, "size size"]:
    """1 between the lips and 0 elsewhere, with a soft edge."""
    return _soft(_filled(landmarks[60:68], size))


def _filled(points: Float[np.ndarray, "_ 2"], size: int) -> Float[np.ndarray, "size size"]:
    mask = np.zeros((size, size), np.float32)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], (1.0,))
    return mask


def _soft(mask: Float[np.ndarray, "size size"]) -> Float[np.ndarray, "size size"]:
    return cv2.GaussianBlur(mask, (0, 0), max(SOFT * len(mask), 0.3))


def _spread(
    values: Float[np.ndarray, "size size 3"], weight: Float[np.ndarray, "size size"]
) -> Float[np.ndarray, "size size 3"]:
    size = len(values)
    few = min(size, FEW)
    small = np.dstack([values * weight[..., None], weight]).astype(np.float32)
    small = cv2.resize(small, (few, few), interpolation=cv2.INTER_AREA)
    small[..., 3] += 1e-6
    small = cv2.GaussianBlur(small, (0, 0), 0.05 * few)
    means = np.asarray(small[..., :3] / small[..., 3:], np.float32)
    return cv2.resize(means, (size, size), interpolation=cv2.INTER_CUBIC)
