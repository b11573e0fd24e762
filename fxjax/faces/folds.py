"""What a move does not explain of a changed expression: folds, and the light in them.

They come from the generator's drawings as a factor of brightness. So they are as strong as the
light on the photo's face is there, keep its colours, and a gray or toned photo stays one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Float, Real

from fxjax.faces import align, move
from fxjax.faces.align import Landmarks
from fxjax.faces.goal import closes

SOFT = 0.005  # of the side: blur of what a drawing of few pixels says
BROAD = 0.08  # of the side: what is broader is light
KEPT = 0.2  # of what is broad
DARK = 0.15  # of the range: dark pixels' factors are noise
MOST = 0.25  # of the factor's logarithm
AROUND = 0.15  # of the face's square: how far from the parts folds are drawn
LIPS = 0.15  # how much of it goes over lips, which have edges of their own
NEAR, FINE = 0.05, 0.006  # of the side: how far skin is around, what is narrower is texture
BRIGHTEST = 1.03  # than the skin around

FAR = 0.25  # of the face's square: how far from the parts folds go
AREA = 0.03  # of the side: within such places two drawings' folds are compared
FAINT = 0.02  # of the logarithm of brightness: folds that are fainter count as none
THIN = 0.003  # of the side: what is narrower stays where folds go

WIDE, LONG = 0.012, 0.03  # of the side: dark lines of a smile are narrower, and longer
FINEST = 0.002  # of the side: what is narrower is a hair
FAINTEST, CLEAR = 0.02, 0.06  # by so much darker (logarithm) than beside it: none, and more: a line
BLACK = 0.04  # of the range: darker pixels' logarithms are noise
DIRECTIONS = 12  # in which lines are sought
FAR_SEEN = 0.14  # of the side: nothing that is farther from a place tells what it becomes
ASIDE = 0.04  # of the side: so far from a line is the skin whose texture it gets
NARROWER = 0.03, 0.12  # of the eyes' distance: a smile goes if a mouth narrows so much and more
CORNER = 0.08  # of the distance between the eyes: the dark of a mouth's corner is within

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Drawn = Float[np.ndarray, "_ _ 3"] | Float[Array, "_ _ 3"]


class Folds(NamedTuple):
    """What the drawings say of a change's folds."""

    factor: Float[np.ndarray, "size size"]
    """What brightness is multiplied by, 1 outside of the face and away from the parts."""
    eased: Float[np.ndarray, "size size"]
    """How much of the photo's own folds goes, 0 to 1; see `ease`."""
    creased: Float[np.ndarray, "size size"]
    """How much of the lines beside a smile that goes does, 0 to 1; see `without_lines`."""


def folds(
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    own: Landmarks,
    new: Landmarks,
    face: Float[np.ndarray, "size size"],
    parts: Sequence[str],
) -> Folds:
    """What comes and what goes, from two drawings of a `face`.

    The drawings in [-1, 1] are laid on the new landmarks by their own, `marks`, all in the pixels
    of `face`.
    """
    size = len(face)
    kept = slice(60)  # without the inner lips, which may overlap where a mouth closes
    laid = [
        np.log(move.seen(_brightness(drawing, size), move.spline(new[kept], at[kept], size)) + DARK)
        for drawing, at in zip((before, after), marks, strict=True)
    ]
    tight = [align.region_masks(points, size, margin=0.0) for points in (own, new)]
    bare = face * (1.001 - align.union(tight))
    around = lambda picture, far: _around(picture, bare, far * size, 0.05)
    change = laid[1] - laid[0]
    change = change - np.average(change, weights=bare)
    change = _blur(change - (1 - KEPT) * around(change, BROAD), SOFT * size)
    strong = [around((each - around(each, BROAD)) ** 2, AREA) + FAINT**2 for each in laid]
    mouth, nose = lips(new, size), _blur(_filled_hull(new[27:36], size), 0.02 * size)
    free = (1 - mouth) * (1 - nose)
    eased = np.clip(1 - strong[1] / strong[0], 0, 1) * free
    eased = eased * _near(own, new, size, parts, FAR)
    if "mouth" in parts and closes(own, new):
        eased = np.maximum(eased, corners(new, size))
    eased = eased * face
    near = _near(own, new, size, parts, AROUND) * face * (1 - (1 - LIPS) * mouth)
    creased = np.zeros_like(eased)
    if "mouth" in parts and (goes := _smile_goes(own, new)):
        creased = goes * _creases(new, size) * free * face
    return Folds(np.exp(np.clip(change * (1 - eased), -MOST, MOST) * near), eased, creased)


def ease(
    photo: Float[np.ndarray, "tall wide 3"],
    skin: Float[np.ndarray, "tall wide"],
    eased: Float[np.ndarray, "tall wide"],
    side: float,
) -> Float[np.ndarray, "tall wide 3"]:
    """What colours are multiplied by where folds of the photo go.

    A drawing of few pixels knows that a fold goes, not where it is to a pixel: the photo's own are
    brought to the brightness around them, and what is finer, its texture, stays. `skin` is 1 on it;
    `side` is that of the face's square in pixels.
    """
    bright = np.log(np.maximum(photo, 0) / 255 + DARK)
    band = _blur(bright, THIN * side) - _around(bright, skin + 1e-3, BROAD * side, 0.0)
    return np.exp(-eased[..., None] * band)


def without_lines(
    photo: Float[np.ndarray, "tall wide 3"],
    skin: Float[np.ndarray, "tall wide"],
    creased: Float[np.ndarray, "tall wide"],
    side: float,
) -> Float[np.ndarray, "tall wide 3"]:
    """The photo with dark lines of the skin in the colours beside them where it is `creased`."""
    if not creased.any():
        return photo
    found, (tall, wide), reach = photo.copy(), creased.shape, round(FAR_SEEN * side) + 1
    rows, columns = (np.flatnonzero(creased.any(axis=axis)) for axis in (1, 0))
    near = np.s_[  # lines are costly to find
        max(rows[0] - reach, 0) : min(rows[-1] + reach + 1, tall),
        max(columns[0] - reach, 0) : min(columns[-1] + reach + 1, wide),
    ]
    photo, skin, creased = photo[near], skin[near], creased[near]
    line = _lines(photo, side)
    beside = _around(photo, (1.001 - line) * (skin + 1e-3), WIDE * side, 0.0)
    texture = (photo - _blur(photo, THIN * side)) * (1 - line)[..., None]
    aside = np.roll(texture, round(ASIDE * side), axis=1)
    found[near] = photo + (creased * line)[..., None] * (beside + aside - photo)
    return found


def _lines(photo: Float[np.ndarray, "tall wide 3"], side: float) -> Float[np.ndarray, "tall wide"]:
    """1 on dark lines, 0 elsewhere; dots, as of stubble, are none."""
    bright = np.log(np.maximum(photo @ LUMA, 0) / 255 + BLACK)
    valley = _blur(bright, WIDE * side) - _blur(bright, FINEST * side)
    length = round(LONG * side / 2)
    found = np.zeros_like(valley)
    for angle in np.arange(DIRECTIONS) * (np.pi / DIRECTIONS):
        along = np.rint(length * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
        cv2.line(kernel, (length - along).tolist(), (length + along).tolist(), 1.0)
        mean = cv2.filter2D(valley, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
        found = np.maximum(found, np.minimum(mean, valley))
    line = align.smooth((found - FAINTEST) / CLEAR).astype(np.float32)
    wider = cv2.dilate(line, np.ones((2 * round(FINEST * side) + 1,) * 2, np.uint8))
    return _blur(wider, FINEST * side)


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
    around = _around(bright, face[..., 0], NEAR * side, 1e-3)
    here = np.maximum(_blur(bright, FINE * side), 1.0)
    most = np.maximum(around * np.float32(BRIGHTEST) / here, 1.0)
    return np.minimum(factor, most)


def lips(points: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 on the mouth with its lips, 0 elsewhere, with a soft edge."""
    return _blur(align.filled(points[48:60], size), 0.008 * size)


def _brightness(drawing: Drawn, size: int) -> Float[np.ndarray, "size size"]:
    pixels = (np.clip(np.asarray(drawing, np.float32), -1, 1) + 1) / 2 @ LUMA
    return np.maximum(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_CUBIC), 0)


def _near(
    own: Landmarks, new: Landmarks, size: int, parts: Sequence[str], far: float
) -> Float[np.ndarray, "size size"]:
    return align.union([align.region_masks(p, size, feather=far) for p in (own, new)], parts)


def _filled_hull(points: Float[np.ndarray, "_ 2"], size: int) -> Real[np.ndarray, "size size"]:
    return align.filled(cv2.convexHull(points.astype(np.float32))[:, 0], size)


def _smile_goes(own: Landmarks, new: Landmarks) -> float:
    """How much of a smile goes, 0 to 1, by how much narrower the mouth gets."""
    wide = [np.linalg.norm(points[54] - points[48]) for points in (own, new)]
    less = (wide[0] - wide[1]) / align.eye_distance(own)
    return float(align.smooth(np.array([(less - NARROWER[0]) / NARROWER[1]]))[0])


def _creases(points: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 along the folds of a smile, from the nose's wings past the mouth's corners, soft."""
    across = (points[54] - points[48]) / np.linalg.norm(points[54] - points[48])
    down, eyes = np.array([-across[1], across[0]]), align.eye_distance(points)
    lines = np.zeros((size, size), np.uint8)
    for wing, corner, out in ((31, 48, -across), (35, 54, across)):
        beside = points[corner] + 0.2 * eyes * out
        line = np.stack([points[wing] + 0.08 * eyes * out, beside, beside + 0.35 * eyes * down])
        cv2.polylines(lines, [np.rint(line).astype(np.int32)], False, 1, 1)
    far = cv2.distanceTransform(1 - lines, cv2.DIST_L2, 5) / eyes
    # an outline of a face is a dark line, too
    inner = align.smooth(align.depth(points[:17], size) / (0.12 * eyes) - 1)
    return (align.smooth(2 - far / 0.12) * inner).astype(np.float32)


def corners(points: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 at the corners of a mouth, falling to 0 around them."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    far = [np.linalg.norm(grid - points[k], axis=2) for k in (48, 54)]
    reach = CORNER * align.eye_distance(points)
    return align.smooth(2 - np.minimum(*far) / reach).astype(np.float32)


def _around(
    picture: Real[np.ndarray, "tall wide *channels"],
    weight: Real[np.ndarray, "tall wide"],
    sigma: float,
    least: float,
) -> Float[np.ndarray, "tall wide *channels"]:
    """The weighted mean around each place; near 0 where the weights are below `least`."""
    shape = (*weight.shape, *[1] * (picture.ndim - 2))
    return _blur(picture * weight.reshape(shape), sigma) / (
        _blur(weight, sigma).reshape(shape) + np.float32(least)
    )


def _blur(
    picture: Real[np.ndarray, "tall wide *channels"], sigma: float
) -> Float[np.ndarray, "tall wide *channels"]:
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), max(sigma, 0.3))
