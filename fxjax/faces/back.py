"""A changed expression put back into the photo: its own pixels move as the drawings do.

Stubble, wrinkles and lipstick stay the person's, as sharp as the photo. Folds that the move does
not explain come from the drawings, and so do lips that close over teeth; the inside of a mouth that
opens from the driver's photo.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from fxjax import images
from fxjax.faces import align, folds, mouth, move
from fxjax.faces.folds import Drawn
from fxjax.faces.goal import Goal, goal
from fxjax.transfer_types import Located
from fxjax.types import Photo

FINER = 0.006  # of the side: what is finer, a drawing does not know
MOSTLY = 90  # percent of the skin around a mouth
LEAST, MOST = 256, 1024  # pixels a side at which flow and folds are computed; both are smooth


def put_back(
    person: Located,
    driver: Located | None,
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    *,
    parts: Sequence[str] = ("mouth",),
    amount: float = 1.0,
    nudge: Float[np.ndarray, "68 2"] | None = None,
    carry: bool = True,
) -> Photo:
    """The photo with the expression changed from the drawing `before` to `after`, in [-1, 1].

    `marks` are their landmarks, in their pixels; `parts` (of `align.PARTS`) are what moves. With a
    `driver` the expression goes by `amount` of the way to the driver's, beyond the drawing if it
    shall `carry` on; see `fxjax.faces.goal`. A `nudge` is added to where landmarks go, in sides of
    the aligned face. Outside of the face the photo stays as it is, bit for bit, and so it does
    where nothing moves.
    """
    align.check_parts(parts)
    drawn = len(np.asarray(before))
    side = float(np.linalg.norm(person.crop.at(1)[:2, 0]))
    size = int(np.clip(round(side), LEAST, MOST))
    matrix = person.crop.at(size)
    own = align.transform(np.linalg.inv(matrix), mouth.landmarks(person))
    theirs = None if driver is None else mouth.landmarks(driver)
    marks = (marks + 0.5) * (size / drawn) - 0.5
    found = goal(own, marks, theirs, parts=parts, amount=amount, carry=carry)
    if not found.share:
        return person.photo.copy()
    if nudge is not None:
        found = found._replace(new=found.new + nudge * size)
    layers = _layers(person, driver, theirs, before, after, marks, found, size, parts)
    return _applied(person, layers, matrix, side)


def _layers(
    person: Located,
    driver: Located | None,
    theirs: align.Landmarks | None,
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    found: Goal,
    size: int,
    parts: Sequence[str],
) -> Float[np.ndarray, "size size 18"]:
    """All that changes the photo; 0 where nothing changes, but for side and skin.

    Face, the flow's two sides (2 each) and which, brightness less 1, the mouth's inside (opacity,
    and colours times that), how much of the photo's folds goes, where it is skin, how much of a
    smile's lines goes, and a mouth that closes (as its inside).
    """
    own, new = found.own, found.new
    face = move.outline(own, new, size)
    flow = move.flow(own, new, face)
    drawn = folds.folds(before, after, marks, own, new, face, parts)
    factor = 1 + found.share * (drawn.factor - 1)
    inside = shut = None
    line = np.ones((size, size), np.float32)
    if "mouth" in parts:
        crop = align.cut(person.photo, person.crop.at(size), size)
        tight = [align.region_masks(points, size, margin=0.0) for points in (own, new)]
        skin = face * (1.001 - align.union(tight))
        inside = mouth.inside(crop, before, after, marks, own, new, driver, theirs, skin)
        shut = mouth.shut(crop, before, after, marks, own, new, face)
        line = mouth.line(own, new, size)
    closed = _opaque(shut, size)
    factor = factor * (1 + (line - 1) * face * (1 - closed[..., 0]))
    eased, creased = found.share * drawn.eased, found.share * drawn.creased
    bare = face * (1 - folds.lips(new, size))
    return np.dstack(
        [face, *flow, factor - 1, _opaque(inside, size), eased, bare, creased, closed]
    ).astype(np.float32)


def _opaque(found: mouth.Inside | None, size: int) -> Float[np.ndarray, "size size 4"]:
    """How opaque it is, and its colours in 0 to 255 times that."""
    if found is None:
        return np.zeros((size, size, 4), np.float32)
    alpha = found.alpha[..., None]
    return np.concatenate([alpha, (found.colours + 1) * np.float32(127.5) * alpha], axis=2)


def _detail(
    photo: Float[np.ndarray, "tall wide 3"], near: Float[np.ndarray, "tall wide"], side: float
) -> Float[np.ndarray, "tall wide 3"]:
    """What a drawing lacks of a moved photo: what is finer, and no stronger than on skin `near`.

    Stronger are edges of lips and teeth, which are elsewhere in the drawing.
    """
    fine = photo - cv2.GaussianBlur(photo, (0, 0), FINER * side)
    most = np.percentile(np.abs(fine[near > 0.1]), MOSTLY) if np.any(near > 0.1) else 0.0
    return np.clip(fine, -most, most)


def _applied(
    person: Located, layers: Float[np.ndarray, "size size 18"], matrix: align.Matrix, side: float
) -> Photo:
    """The photo with the layers, whose pixels `matrix` maps to the photo's, `side` of them."""
    photo, result = person.photo, person.photo.copy()
    used = np.argwhere(layers[..., 0] > 0)[:, ::-1]
    (left, top), (right, bottom) = used.min(0) - 1, used.max(0) + 1
    ends = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    ends = align.transform(matrix, ends)
    limit = np.array(photo.shape[1::-1])
    low = np.clip(np.floor(ends.min(0)), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(ends.max(0)) + 1, low + 1, limit).astype(int)
    wide, tall = (high - low).tolist()
    window_from_photo = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]])
    place = np.linalg.inv(window_from_photo @ matrix)
    layers = _resampled(layers, place, tall, wide)
    face, under, factor, alpha = (layers[..., k : k + 1] for k in (0, 5, 6, 7))
    turn = matrix[:2, :2].T.astype(np.float32)
    above, below = layers[..., 1:3] @ turn, layers[..., 3:5] @ turn

    margin = 8 + math.ceil(max(float(np.abs(flow).max()) for flow in (above, below)))
    first = np.maximum(low - margin, 0)
    last = np.minimum(high + margin, limit)
    source = photo[first[1] : last[1], first[0] : last[0]].astype(np.float32)
    here = np.stack(np.meshgrid(np.arange(wide), np.arange(tall)), axis=-1) + (low - first)
    moved = move.seen(source, here - below) * under
    moved += move.seen(source, here - above) * (1 - under)
    moved = folds.without_lines(moved, layers[..., 12], layers[..., 13], side)
    factor = folds.filled(moved, face, 1 + factor[..., 0], side)[..., None]
    factor = factor * folds.ease(moved, layers[..., 12], layers[..., 11], side)
    changed = moved * factor * (1 - alpha) + layers[..., 8:11]
    if layers[..., 14].any():
        shut = layers[..., 14:15]
        fine = _detail(changed, layers[..., 12] * shut[..., 0], side)
        changed = changed * (1 - shut) + layers[..., 15:18] + shut * fine
    window = result[low[1] : high[1], low[0] : high[0]]
    within = face[..., 0] > 0
    window[within] = np.clip(np.rint(changed[within]), 0, 255).astype(np.uint8)
    return images.gray(result) if images.is_gray(photo) else result


def _resampled(
    layers: Float[np.ndarray, "size size 18"], place: align.Matrix, tall: int, wide: int
) -> Float[np.ndarray, "tall wide 18"]:
    """The layers seen through `place`, 0 wherever the face's is."""
    scale = math.sqrt(abs(np.linalg.det(place[:2, :2])))
    flags, found = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, []
    for layer in np.moveaxis(layers, 2, 0):
        if not layer.any():  # half of them, in most photos
            found.append(np.zeros((tall, wide), np.float32))
            continue
        if scale > 1:  # fewer pixels than it has
            layer = cv2.GaussianBlur(layer, (0, 0), 0.4 * scale)
        found.append(cv2.warpAffine(layer, place[:2], (wide, tall), flags=flags))
    return np.stack(found, axis=2)
