"""What is wrong with a result.

All from landmarks and pixels, in words. A measure that calls a broken picture good is worth
nothing, so each is set by pictures that were looked at; see docs/transfer.md.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fxjax.faces import align
from fxjax.faces.align import Landmarks
from fxjax.faces.goal import apart, gap, lips, opening, width

WHOLE = "looks whole"
SIDE = 256  # pixels of the crops that are looked at
ASTRAY = 0.08  # of the eyes' distance
CHROMA = 7.5  # of CIELAB
MOVED = 0.08  # of the side
SOFT = 0.6  # of the gradients' energy
ASKEW = 7.0  # degrees
REACHED = 0.2
FADED, PAINTED = 4.5, 4.0  # of CIELAB: lips lose so much of their red to skin, or gain
PALE = 0.45  # and they lose so much of what they had
THIN = 0.68  # of the lips' area that is left
GLARING, FLESH = 40.0, 16.0  # of CIELAB, beside skin; in unchanged photos up to 37 and 15

UPPER = [48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60]
LOWER = [48, 60, 67, 66, 65, 64, 54, 55, 56, 57, 58, 59]

Crop = UInt8[np.ndarray, "256 256 3"]


class Verdict(NamedTuple):
    """Words for people, none if all looks well, and what they were said by."""

    words: tuple[str, ...]
    figures: dict[str, float]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.words

    @property
    def text(self) -> str:
        """One line."""
        return "; ".join(self.words) or WHOLE


def astray(one: Landmarks, other: Landmarks) -> float:
    """How far two landmarkers put a mouth apart, in distances between the first one's eyes."""
    return float(np.linalg.norm((one - other)[48:], axis=1).mean() / align.eye_distance(one))


def judge(
    before: Crop,
    after: Crop,
    own: Landmarks,
    seen: Landmarks | None,
    second: Landmarks,
    theirs: Landmarks,
    parts: tuple[str, ...],
) -> Verdict:
    """What is wrong with a changed face.

    `own` and `seen` are dlib's landmarks in the two crops, `second` another landmarker's in the
    changed one, `theirs` the driver's, of any place and size.
    """
    if seen is None:
        return Verdict(("no face is found any more",), {})
    red = _red(before, own)
    figures = {
        "astray": astray(seen, second),
        "chroma": _chroma(before, after, own, seen),
        "sharpness": _sharpness(before, after, own, seen),
        "askew": abs(_slant(seen) - _slant(own)),
        "reached": _reached(seen, own, theirs, parts),
        "faded": red - _red(after, seen),
        "lips": _area(seen) / max(_area(own), 1e-3),
        **_teeth(after, seen, own, red),
    }
    words = []
    if figures["astray"] > ASTRAY:
        words.append("mouth displaced")
    if figures["chroma"] > CHROMA:
        words.append("skin discoloured")
    if figures["sharpness"] < SOFT:
        words.append("blurred")
    if figures["askew"] > ASKEW:
        words.append("mouth askew")
    if figures["faded"] > max(FADED, PALE * red) or figures["lips"] < THIN:
        words.append("lips lost")
    if figures["faded"] < -PAINTED:
        words.append("lips of another colour")
    if figures["glaring"] > GLARING:
        words.append("teeth do not fit")
    if figures["red"] > FLESH:
        words.append("mouth torn")
    if figures["reached"] < REACHED:
        words.append("expression hardly reached")
    return Verdict(tuple(words), figures)


def lab(crop: Crop) -> Float[np.ndarray, "256 256 3"]:
    """In CIELAB."""
    return cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _skin(own: Landmarks, seen: Landmarks, margin: float = 0.05) -> Float[np.ndarray, "256 256"]:
    """The lower face without lips, and without so much around them."""
    faces = [align.region_masks(points, SIDE, feather=0.02, margin=0.0) for points in (own, seen)]
    tight = align.union([align.region_masks(points, SIDE, margin=margin) for points in (own, seen)])
    lower = np.arange(SIDE)[:, None] > own[30, 1]
    return np.minimum(faces[0].face, faces[1].face) * (1 - tight) * lower


def _chroma(before: Crop, after: Crop, own: Landmarks, seen: Landmarks) -> float:
    """The largest change of colour of the lower face's skin, over 3 % of the side.

    To the nearest colour that was there before, as skin moves, by up to `MOVED`, and hair with it.
    """
    skin = _skin(own, seen, 0.08)[..., None]
    blur = lambda a: cv2.GaussianBlur(a.astype(np.float32), (0, 0), 0.015 * SIDE)
    weight = blur(skin[..., 0])[..., None]
    was, now = (
        blur(lab(each)[..., 1:] * skin) / np.maximum(weight, 0.05) for each in (before, after)
    )
    steps = np.rint(np.linspace(-MOVED, MOVED, 7) * SIDE).astype(int)
    near = np.full((SIDE, SIDE), np.inf)
    for x, y in itertools.product(steps, steps):
        there = np.roll(was, (y, x), axis=(0, 1))
        far = np.where(np.roll(weight, (y, x), axis=(0, 1)) > 0.3, np.abs(now - there), np.inf)
        near = np.minimum(near, np.linalg.norm(far, axis=2))
    return float(np.percentile(near[weight[..., 0] > 0.3], 99))


def _sharpness(before: Crop, after: Crop, own: Landmarks, seen: Landmarks) -> float:
    """Energy of fine gradients in the mouth's surroundings, after over before."""
    skin = _skin(own, seen)

    def energy(crop: Crop) -> float:
        bright = lab(crop)[..., 0]
        fine = bright - cv2.GaussianBlur(bright, (0, 0), 2.0)
        return float(np.average(np.abs(fine), weights=skin + 1e-6))

    return energy(after) / max(energy(before), 1e-3)


def _slant(points: Landmarks) -> float:
    """Degrees between the mouth's line and the eyes'."""
    mouth, eyes = points[54] - points[48], points[42:48].mean(0) - points[36:42].mean(0)
    return float(np.degrees(np.arctan2(*mouth[::-1]) - np.arctan2(*eyes[::-1])))


def _reached(seen: Landmarks, own: Landmarks, theirs: Landmarks, parts: tuple[str, ...]) -> float:
    """1 less the distance of the parts' coefficients to the driver's over the person's."""
    return 1 - apart(seen, theirs, parts) / max(apart(own, theirs, parts), 0.2)


def _red(crop: Crop, points: Landmarks) -> float:
    """How much redder lips are than the skin around them, on average of both lips; 0 if unseen."""
    red, skin = lab(crop)[..., 1], _skin(points, points) > 0.5
    lips = [align.filled(points[lip], SIDE) > 0 for lip in (UPPER, LOWER)]
    if not skin.any() or not all(lip.any() for lip in lips):
        return 0.0
    return float(np.mean([red[lip].mean() for lip in lips]) - np.median(red[skin]))


def _area(points: Landmarks) -> float:
    """The area of both lips, in squares of the distance between the eyes."""
    return sum(lips(points)) * width(points)


def _teeth(after: Crop, seen: Landmarks, own: Landmarks, lips: float) -> dict[str, float]:
    """How much brighter than skin, and redder than skin and lips, is what an open mouth shows.

    0 where none is open. Red lips, so much redder than skin, that are taken for the inside of a
    mouth are no torn one.
    """
    if gap(seen) < 0.05 or opening(seen) < 0.02:
        return {"glaring": 0.0, "red": 0.0}
    inside = align.filled(seen[60:68], SIDE)
    pixels, skin = lab(after), _skin(own, seen) > 0.5
    if not inside.any() or not skin.any():
        return {"glaring": 0.0, "red": 0.0}
    bright = pixels[inside > 0]
    teeth = bright[bright[:, 0] >= np.percentile(bright[:, 0], 60)].mean(0)
    around = pixels[skin]
    high = np.percentile(around[:, 0], 75)
    return {
        "glaring": float(teeth[0] - high),
        "red": float(teeth[1] - np.median(around[:, 1]) - max(lips, 0)),
    }
