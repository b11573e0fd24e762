"""A changed face made to fit its photo: its place, and what the generator's drawings lack.

A generator of few pixels draws a soft mouth, and a small one in wrong colours. The photos have what
is missing: the person's own where a face stays as it is, the driver's in the parts that change to
the driver's expression.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Float

from fxjax import align, tone
from fxjax.align import Landmarks, Matrix
from fxjax.transfer_types import Located

SIDE = 256  # pixels of the pictures with detail, or the generator's own if those are more
STAYS, CHANGES = 0.1, 0.4  # largest change of the parts, of values in [-1, 1]
NEARBY = 0.012  # of the picture's side: the blur of the change
RING = 0.1  # of the face's square: the skin around the mouth that lips are compared with

Drawn = Float[np.ndarray, "_ _ 3"] | Float[Array, "_ _ 3"]


class Source(NamedTuple):
    """A face in its photo, and how the generator draws it, in [-1, 1]."""

    face: Located
    drawn: Drawn


class Fitted(NamedTuple):
    """A face before and after a change, of at least 256 pixels, about [-1, 1].

    `landmarks` are those of the changed face, in pixels of the person's crop.
    """

    before: Float[np.ndarray, "side side 3"]
    after: Float[np.ndarray, "side side 3"]
    landmarks: Landmarks


def fitted(
    person: Source,
    new: Drawn,
    driver: Source,
    landmarks: tuple[Landmarks, Landmarks],
    *,
    parts: Sequence[str] = align.PARTS,
) -> Fitted:
    """A changed face on the place of the person's, both with what the drawings lack.

    `landmarks` are those found in the pictures before and after, in their pixels: what does not
    move with an expression (nose and eye corners) is laid on the person's. A photo less its drawing
    is what that lacks. What is finer than a pixel is added to both, the person's, but the driver's
    in the `parts` if they change; what is coarser is the driver's after a change of the parts. Lips
    keep their mean colour, relative to the skin; teeth have the hue of the driver's.
    """
    size, side = len(new), max(SIDE, len(new))
    large = np.linalg.inv(align.whole_square(size, side))
    own, found = (align.transform(large, points) for points in landmarks)
    place = align.steady(found, own)
    found = align.transform(place, found)
    before = _enlarged(person.drawn, side)
    after = _moved(_enlarged(new, side), place)

    change = cv2.GaussianBlur(np.abs(after - before).max(axis=2), (0, 0), NEARBY * side)
    tight = {"feather": 0.025, "margin": 0.0}
    masks = [align.region_masks(points, side, **tight) for points in (own, found)]
    mask = align.union(masks, parts)
    most = np.max(change * mask, keepdims=True)
    share = align.smooth((most - STAYS) / (CHANGES - STAYS))[..., None]
    mask = mask[..., None] * share

    other, photo = align.transform(large, driver.face.in_crop()), _photo(driver, side)
    theirs = align.steady(other, own)
    coarse, fine = _missing(person, _photo(person, side))
    other_coarse, other_fine = (_moved(each, theirs) for each in _missing(driver, photo))
    before = before + coarse
    after = after + coarse + share * (other_coarse - coarse)
    if "mouth" in parts:
        lips = _lips_change(before, own, after, found)
        after = after + mask * (lips + _teeth_change(photo, other, after, found))
    kept = (1 - mask) * fine
    before, after = before + kept, after + kept + mask * other_fine
    return Fitted(before, after, align.transform(np.linalg.inv(large), found))


def _lips_change(
    before: Float[np.ndarray, "side side 3"],
    own: Landmarks,
    after: Float[np.ndarray, "side side 3"],
    found: Landmarks,
) -> Float[np.ndarray, "side side 3"]:
    """What gives the changed lips the person's colour, relative to the skin around them."""
    redder, lips = [], np.zeros(after.shape[:2], np.float32)
    for picture, points in ((before, own), (after, found)):
        lips, skin = tone.lips(points, len(picture)), _skin(points, len(picture))
        if min(lips.sum(), skin.sum()) < 1:
            return np.zeros_like(after)
        redder.append(_mean(picture, lips) - _mean(picture, skin))
    return lips[..., None] * (redder[0] - redder[1]).astype(np.float32)


def _teeth_change(
    photo: Float[np.ndarray, "side side 3"],
    other: Landmarks,
    after: Float[np.ndarray, "side side 3"],
    found: Landmarks,
) -> Float[np.ndarray, "side side 3"]:
    """What gives the inside of the changed mouth the hue that the driver's has in the photo.

    A mix of codes can draw it in neither's colours.
    """
    theirs, inside = (tone.inside(points, len(after)) for points in (other, found))
    if min(theirs.sum(), inside.sum()) < 1:
        return np.zeros_like(after)
    shift = _mean(photo, theirs) - _mean(after, inside)
    return inside[..., None] * (shift - shift.mean()).astype(np.float32)


def _mean(
    picture: Float[np.ndarray, "side side 3"], weight: Float[np.ndarray, "side side"]
) -> Float[np.ndarray, "3"]:
    return np.average(picture, axis=(0, 1), weights=weight)


def _skin(points: Landmarks, side: int) -> Float[np.ndarray, "side side"]:
    wide, near = (align.region_masks(points, side, feather=each).mouth for each in (RING, 0.02))
    return wide * (1 - near)


def _photo(source: Source, side: int) -> Float[np.ndarray, "side side 3"]:
    return align.cut(source.face.photo, source.face.crop.at(side), side)


def _missing(
    source: Source, photo: Float[np.ndarray, "side side 3"]
) -> tuple[Float[np.ndarray, "side side 3"], Float[np.ndarray, "side side 3"]]:
    """What the drawing lacks of the photo: what its pixels could show, and what is finer."""
    side = len(photo)
    missing = photo - _enlarged(source.drawn, side)
    coarse = cv2.GaussianBlur(missing, (0, 0), side / len(source.drawn))
    return coarse, missing - coarse


def _enlarged(picture: Drawn, side: int) -> Float[np.ndarray, "side side 3"]:
    pixels = np.clip(np.asarray(picture, np.float32), -1, 1)
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_CUBIC)


def _moved(
    picture: Float[np.ndarray, "side side 3"], place: Matrix
) -> Float[np.ndarray, "side side 3"]:
    size = picture.shape[1::-1]
    return cv2.warpAffine(
        picture, place[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
