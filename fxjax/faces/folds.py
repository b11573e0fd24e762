"""What a move does not explain of a changed expression: folds, and the light in them.

They come from the generator's drawings as a factor of brightness. So they are as strong as the
light on the photo's face is there, keep its colours, and a gray or toned photo stays one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Array, Float, Real

from fxjax import align
from fxjax.align import Landmarks
from fxjax.faces import move

SOFT = 0.005  # of the side: blur of what a drawing of few pixels says
BROAD = 0.08  # of the side: what is broader is light
KEPT = 0.2  # of what is broad
DARK = 0.15  # of the range: dark pixels' factors are noise
MOST = 0.25  # of the factor's logarithm
AROUND = 0.15  # of the face's square: how far from the parts folds are drawn
LIPS = 0.15  # how much of it goes over lips, which have edges of their own

NEAR, FINE = 0.05, 0.006  # of the side: how far skin is around, what is narrower is texture
BRIGHTEST = 1.03  # than the skin around

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Drawn = Float[np.ndarray, "_ _ 3"] | Float[Array, "_ _ 3"]


def factor(
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    own: Landmarks,
    new: Landmarks,
    face: Float[np.ndarray, "size size"],
    parts: Sequence[str],
) -> Float[np.ndarray, "size size"]:
    """What brightness is multiplied by, 1 outside of `face` and away from the parts.

    The drawings in [-1, 1] are laid on the new landmarks by their own, `marks`, all in the pixels
    of `face`.
    """
    size = len(face)
    kept = slice(60)  # without the inner lips, which may overlap where a mouth closes
    laid = [
        np.log(move.seen(_brightness(drawing, size), move.spline(new[kept], at[kept], size)) + DARK)
        for drawing, at in zip((before, after), marks, strict=True)
    ]
    masks = [align.region_masks(points, size, feather=AROUND) for points in (own, new)]
    tight = [align.region_masks(points, size, margin=0.0) for points in (own, new)]
    bare = face * (1.001 - align.union(tight))
    change = laid[1] - laid[0]
    change = change - np.average(change, weights=bare)
    light = _blur(change * bare, BROAD * size) / (_blur(bare, BROAD * size) + 0.05)
    change = _blur(change - (1 - KEPT) * light, SOFT * size)
    near = align.union(masks, parts) * face * (1 - (1 - LIPS) * lips(new, size))
    return np.exp(np.clip(change, -MOST, MOST) * near)


def filled(
    photo: Float[np.ndarray, "tall wide 3"],
    face: Float[np.ndarray, "tall wide 1"],
    factor: Float[np.ndarray, "tall wide"],
    side: float,
) -> Float[np.ndarray, "tall wide"]:
    """The factor, but so that nothing gets brighter than the skin around it.

    What brightens fills a fold; a highlight is the light of another face. `side` is that of the
    face's square in pixels of the photo.
    """
    bright = photo @ LUMA
    around = _blur(bright * face[..., 0], NEAR * side) / (_blur(face[..., 0], NEAR * side) + 1e-3)
    here = np.maximum(_blur(bright, FINE * side), 1.0)
    most = np.maximum(around * np.float32(BRIGHTEST) / here, 1.0)
    return np.minimum(factor, most)


def lips(points: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 on the mouth with its lips, 0 elsewhere, with a soft edge."""
    return _blur(align.filled(points[48:60], size), 0.008 * size)


def _brightness(drawing: Drawn, size: int) -> Float[np.ndarray, "size size"]:
    pixels = (np.clip(np.asarray(drawing, np.float32), -1, 1) + 1) / 2 @ LUMA
    return np.maximum(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_CUBIC), 0)


def _blur(picture: Real[np.ndarray, "tall wide"], sigma: float) -> Float[np.ndarray, "tall wide"]:
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), max(sigma, 0.3))
