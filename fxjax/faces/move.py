"""A face's own pixels moved so that its landmarks arrive at new places: thin-plate splines."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from scipy.interpolate import RBFInterpolator

from fxjax.faces import align
from fxjax.faces.align import Landmarks
from fxjax.faces.goal import OPEN, closes, opening

GRID = 128  # points a side at which a spline is computed; it is smooth between them
UNIT = 512.0  # a picture's side in the spline's units, in which its smoothing is given
SMOOTHING = 1.0
SHARP = 0.002  # of the side: how sharp the line between the lips is
BORDER = 0.05  # of the side: where the move fades out before the border
REACH = 0.1  # of the face's square: how far beyond the face's outline the move fades out

_UPPER, _LOWER = [*range(49, 54), 61, 62, 63], [*range(55, 60), 65, 66, 67]

# Neighbours along the inner lips, and three along the outer ones that bow as these do.
_UPPER_CORNERS = (60, 61, 48, 49, 50), (63, 64, 52, 53, 54)
_LOWER_CORNERS = (60, 67, 48, 59, 58), (65, 64, 56, 55, 54)

Map = Float[np.ndarray, "size size 2"]


def spline(
    sources: Float[np.ndarray, "count 2"],
    values: Float[np.ndarray, "count 2"],
    size: int,
    *,
    smoothing: float = SMOOTHING,
) -> Map:
    """A smooth map of a square picture with about these values (in pixels) at these points.

    Affine maps are kept exactly. Source: Bookstein, "Principal warps", 1989.
    """
    unit = UNIT / size
    fitted = RBFInterpolator(
        (sources + 0.5) * unit, values * unit, kernel="thin_plate_spline", smoothing=smoothing
    )
    spots = (np.arange(GRID) + 0.5) * UNIT / GRID
    grid = fitted(np.stack(np.meshgrid(spots, spots), axis=-1).reshape(-1, 2)) / unit
    grid = grid.reshape(GRID, GRID, 2).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)  # keeps affine maps


def outline(own: Landmarks, new: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 in the face before and after, falling to 0 beyond it: nothing changes where it is 0.

    It is 0 on the picture's border too.
    """
    hulls = (
        align.region_masks(points, size, feather=REACH, margin=0.0).face for points in (own, new)
    )
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / size
    frame = align.smooth(edge / BORDER).astype(np.float32)
    return np.maximum(*hulls) * frame * frame[:, None]


class Flow(NamedTuple):
    """How far the pixels of a moved face came, in pixels, once for each side of the mouth."""

    above: Map
    below: Map
    side: Float[np.ndarray, "size size"]
    """0 above the line between the lips, 1 below it."""


def flow(own: Landmarks, new: Landmarks, face: Float[np.ndarray, "size size"]) -> Flow:
    """The move from old to new landmarks; 0 outside of `face`, and everywhere if all stay.

    The landmarks that stay hold what is around them, and so does the picture's border. What is
    above the line between the lips moves without the lower lip and what is below it without the
    upper one, so that a mouth opens, and closes, as a slit does.
    """
    size = len(face)
    if np.array_equal(own, new):
        still = np.zeros((size, size, 2), np.float32)
        return Flow(still, still, np.zeros((size, size), np.float32))
    edge = np.linspace(0, size - 1, 9)
    border = [(a, b) for a in edge for b in (0, size - 1)]
    border = np.array(sorted({*border, *((b, a) for a, b in border)}))

    closing = closes(own, new)

    def without(lip: list[int], corners: tuple[tuple[int, ...], ...]) -> Map:
        kept = np.setdiff1d(np.arange(68), lip)
        ends = [new[kept], border]
        moves = [(new - own)[kept], 0 * border]
        if closing:
            ends += [np.mean([new[[a, b]] for a, b, *_ in corners], axis=1)]
            moves += [ends[-1] - np.stack([_bowed(own, *corner) for corner in corners])]
        return spline(np.concatenate(ends), np.concatenate(moves), size) * face[..., None]

    above, below = without(_LOWER, _UPPER_CORNERS), without(_UPPER, _LOWER_CORNERS)
    down, beside = slit(new, size)
    # Beside the mouth the two go over into each other, the more gently the farther away.
    share = align.smooth((down / (0.5 * beside + 1e-3) + 1) / 2)[..., None]
    both = above * (1 - share) + below * share
    mouth = (beside == 0)[..., None]
    side = align.smooth((down / (SHARP * size) + 1) / 2)
    if opening(new) > OPEN:  # teeth are the upper jaw's
        between = align.filled(new[60:68], size).astype(np.float32)
        side = side * (1 - cv2.GaussianBlur(between, (0, 0), SHARP * size))
    return Flow(np.where(mouth, above, both), np.where(mouth, below, both), side)


def _bowed(
    points: Landmarks, one: int, other: int, first: int, middle: int, last: int
) -> Float[np.ndarray, " 2"]:
    """Where the edge of an open lip is between two inner landmarks: it bows as the outer one."""
    bow = points[middle] - (points[first] + points[last]) / 2
    return (points[one] + points[other]) / 2 + bow


def slit(
    points: Landmarks, size: int
) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "size size"]]:
    """How far each pixel is below the line between the lips, and how far beside its ends."""
    left, right = points[48], points[54]
    length = float(np.linalg.norm(right - left))
    along = (right - left) / max(length, 1e-6)
    down = np.array([-along[1], along[0]])
    line = np.stack([left, points[60], *(points[[61, 62, 63]] + points[[67, 66, 65]]) / 2,
                     points[64], right]) - left  # fmt: skip
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) - left
    across = grid @ along
    knots = np.maximum.accumulate(line @ along)
    below = grid @ down - np.interp(across, knots, line @ down)
    beside = np.maximum(0, np.maximum(-across, across - length))
    return below.astype(np.float32), beside.astype(np.float32)


def seen(
    picture: Float[np.ndarray, "_ _ *channels"], place: Float[np.ndarray, "height width 2"]
) -> Float[np.ndarray, "height width *channels"]:
    """What lies at each place (x, y) of a picture, to 1/32 pixel; mirrored outside."""
    x, y = (np.ascontiguousarray(place[..., k], np.float32) for k in (0, 1))
    found = cv2.remap(
        picture.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return found.reshape(*place.shape[:2], *picture.shape[2:])
