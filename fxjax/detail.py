"""Detail that a generator's picture is too coarse for, taken from the photos themselves.

A generator of few pixels draws a soft mouth. Its photo has what is missing: the person's own photo
where a face stays as it is, the driver's where it changes to the driver's expression.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Float

from fxjax import align
from fxjax.transfer_types import Located

SIDE = 256  # pixels of the pictures with detail, or the generator's own if those are more
STAYS, CHANGES = 0.1, 0.4  # largest change of a channel nearby, of values in [-1, 1]
NEARBY = 0.012  # of the picture's side

Drawn = Float[np.ndarray, "_ _ 3"] | Float[Array, "_ _ 3"]


class Source(NamedTuple):
    """A face in its photo, and how the generator draws it, in [-1, 1]."""

    face: Located
    drawn: Drawn


def added(
    person: Source, new: Drawn, driver: Source
) -> tuple[Float[np.ndarray, "_ _ 3"], Float[np.ndarray, "_ _ 3"]]:
    """The pictures of a person before and after a change, enlarged, with the photos' detail.

    Detail is what the photo has beside the drawn picture, finer than a pixel of the latter. Where
    nothing changes both get the person's; the `new` one gets the driver's where it changes. They
    are of at least 256 pixels, about [-1, 1].
    """
    side = max(SIDE, len(new))
    before, after = _enlarged(person.drawn, side), _enlarged(new, side)
    change = cv2.GaussianBlur(np.abs(after - before).max(axis=2), (0, 0), NEARBY * side)
    moved = align.smooth((change - STAYS) / (CHANGES - STAYS))[..., None]
    own = (1 - moved) * _detail(person, side)
    return before + own, after + own + moved * _detail(driver, side)


def _detail(source: Source, side: int) -> Float[np.ndarray, "side side 3"]:
    size = len(source.drawn)
    place = source.face.crop.photo_from_crop @ align.whole_square(size, side)
    missing = align.cut(source.face.photo, place, side) - _enlarged(source.drawn, side)
    return missing - cv2.GaussianBlur(missing, (0, 0), side / size)


def _enlarged(picture: Drawn, side: int) -> Float[np.ndarray, "side side 3"]:
    pixels = np.clip(np.asarray(picture, np.float32), -1, 1)
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_CUBIC)
