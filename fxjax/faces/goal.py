"""Where the landmarks of a face go: as a drawing of it moves, and by a face model the rest of it.

`marks` are landmarks of the generator's drawings before and after the change. Distances called
relative are parts of that between the eyes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fxjax.faces import align, expression, model
from fxjax.faces.align import Landmarks

AMOUNT = 1.1  # of the difference between the photos: some of each change is lost on the way
TRIES = np.linspace(0.5, 1.5, 21)  # strengths of the drawing's move
REST = 0.05  # how much coefficients count that are of no part that changes
BUILD = 0.08  # by so much coefficients of eyes and brows differ between people at rest
FROM, TO = 0.2, 0.4  # expressions closer than the first are alike, farther than the last are not
LEAST = 0.3  # reliability of the coefficients that the face model uses
SHUT = 0.06  # relative gap between the lips of a mouth that is shut; dlib sees .02 in a closed one
TIGHT = 0.02
OPEN = 0.02  # relative area between lips: less is no open mouth
OVER = 0.06  # relative: by so much lips that close overlap, or a row of teeth is left

NAMES = {
    "mouth": ("mouth", "jaw", "cheekPuff"),
    "eyes": ("eyeBlink", "eyeSquint", "eyeWide", "cheekSquint"),
    "brows": ("brow",),
}
"""Coefficients of each part, by the beginnings of their names."""

RISE = 0.04  # relative: what is below the face stays, and more would draw it into streaks

_JAW = np.array([0, 0, 0, 0, 0, 0.25, 0.6, 0.9, 1, 0.9, 0.6, 0.25, 0, 0, 0, 0, 0])
NARROW = 0.86  # relative width of a mouth: at rest it is .86 to .92 in ten portraits
LEVEL = -0.02  # relative droop of a mouth's corners that is always allowed
WIDEST = 0.6  # relative gap between lips that a mouth opens to at most
CHIN = 0.7  # of the way from the lower lip to the chin: so much is left of it at least
FULL = 0.95  # of a lip's area: so much is left of it at least
_UPPER, _LOWER = [61, 62, 63], [67, 66, 65]


class Goal(NamedTuple):
    """Landmarks before and after, and how far the change goes (0: nothing to do, to 1)."""

    own: Landmarks
    new: Landmarks
    share: float


def drawn(marks: Float[np.ndarray, "2 68 2"], parts: Sequence[str]) -> Landmarks:
    """How landmarks move from one drawing to the next, without the head's move.

    The jaw's sides stay and its middle moves as a whole: single points of an outline slide.
    """
    move = marks[1] - marks[0]
    move = move - move[expression.ANCHORS].mean(0)
    move[:17] = _JAW[:, None] * move[7:10].mean(0) if "mouth" in parts else 0
    move[27:36] *= 0.3
    for part, where in (
        ("brows", slice(17, 27)),
        ("eyes", slice(36, 48)),
        ("mouth", slice(48, 68)),
    ):
        if part not in parts:
            move[where] = 0
    return move


class Wish(NamedTuple):
    """What a driver's photo asks of a person's coefficients, by `expression.names()`."""

    share: float
    """0: the two expressions are alike, nothing to do; to 1."""
    way: Float[np.ndarray, " coefficients"]
    """What the driver's are more than the person's, without the two people's build."""
    counts: Float[np.ndarray, " coefficients"]
    """1 for what belongs to the parts that change."""


def wish(own: Landmarks, theirs: Landmarks, parts: Sequence[str]) -> Wish:
    """The difference of expression between two faces, of any place and size, in some parts."""
    way, counted = expression.read(theirs) - expression.read(own), counts(parts)
    share = align.smooth(np.array([(apart(own, theirs, parts) - FROM) / (TO - FROM)]))
    build = BUILD * (1 - counts(("mouth",)))
    return Wish(float(share[0]), np.sign(way) * np.maximum(np.abs(way) - build, 0), counted)


def apart(one: Landmarks, other: Landmarks, parts: Sequence[str]) -> float:
    """How far the expressions of two faces are apart in some parts; see `expression.distance`."""
    way = expression.read(other) - expression.read(one)
    return float(np.sqrt(np.sum(expression.shipped().reliability * counts(parts) * way**2)))


def counts(parts: Sequence[str]) -> Float[np.ndarray, " coefficients"]:
    """1 for the coefficients of these parts, 0 for the others."""
    return np.array([float(_in(name, parts)) for name in expression.names()])


def goal(
    own: Landmarks,
    marks: Float[np.ndarray, "2 68 2"],
    theirs: Landmarks | None,
    *,
    parts: Sequence[str],
    amount: float = 1.0,
    carry: bool = True,
) -> Goal:
    """Where a face's landmarks go if its drawing moves as `marks` do, all in its pixels.

    With the landmarks of a driver, of any place and size, the move is as strong as brings the
    expression (`faces.expression`) by `amount` of the way to the driver's; if it shall `carry` on,
    a face model adds what the drawing does not reach, and moves eyes and brows alone. A mouth
    closes where the driver's is shut. Nothing moves if the two are alike in these parts.
    """
    move = drawn(marks, parts)
    if theirs is None:
        return Goal(own, own + amount * move, 1.0)
    share, way, counted = wish(own, theirs, parts)
    if not share or not amount:
        return Goal(own, own, 0.0)
    reliability = expression.shipped().reliability
    target = expression.read(own) + np.where(way > 0, AMOUNT, 1.0) * amount * way
    weight = reliability * np.where(counted, 1, REST)
    if carry:
        move[17:27] = move[36:48] = 0
    move = move * _strength(own, move, target, weight)
    if carry:
        faces = model.shipped()
        free = np.flatnonzero((counted > 0) & (reliability > LEAST))
        added = faces.move(own, faces.missing(own, move, target, weight, free=free))
        move = move + only(added, parts)
    new = own + share * move
    if "mouth" in parts and gap(theirs) < SHUT:
        left = max(0.0, gap(theirs) - TIGHT) - min(OVER, 0.3 * gap(own))
        new = closed(new, left) if share == 1 else new + share * (closed(new, left) - new)
    if "mouth" in parts:
        new = _wide(new, min(width(own), width(theirs), NARROW))
        new = _level(new, max(droop(own), droop(theirs), LEVEL))
        new = _full(own, new)
        new = _carried(own, _less_open(own, new))
    return Goal(own, _held(own, new), share)


def width(points: Landmarks) -> float:
    """How far the corners of the mouth are apart, relative."""
    return float(np.linalg.norm(points[54] - points[48])) / align.eye_distance(points)


def droop(points: Landmarks) -> float:
    """How far the corners of the mouth are below the middle between the lips, relative."""
    down, eyes = _down(points)
    return float((points[[48, 54]].mean(0) - points[[62, 66]].mean(0)) @ down) / eyes


def _level(points: Landmarks, most: float) -> Landmarks:
    """The same with corners of the mouth that droop so far, relative, if they would farther."""
    down, eyes = _down(points)
    across = points[54] - points[48]
    beside = (points[48:] - points[[48, 54]].mean(0)) @ across / (across @ across) * 2
    new = points.copy()
    new[48:] -= max(0.0, droop(points) - most) * eyes * np.outer(beside**2, down)
    return new


def lips(points: Landmarks) -> tuple[float, float]:
    """How high the upper and the lower lip are in the middle, relative; to where they meet."""
    down, eyes = _down(points)
    upper, lower = points[_UPPER], points[_LOWER]
    over = np.minimum((lower - upper) @ down, 0) / 2  # where they overlap, half of it is seen
    high = (upper - points[50:53]) @ down + over
    low = (points[[58, 57, 56]] - lower) @ down + over
    return float(high.mean()) / eyes, float(low.mean()) / eyes


def _full(own: Landmarks, new: Landmarks) -> Landmarks:
    """The same with lips as high as keep their area, which gets no less as a mouth narrows."""
    down, eyes = _down(new)
    least = FULL * np.array(lips(own)) * width(own) / width(new)
    upper, lower = np.maximum(least - lips(new), 0) * eyes
    full = new.copy()
    full[49:54] -= upper * np.outer([0.5, 1, 1, 1, 0.5], down)
    full[55:60] += lower * np.outer([0.5, 1, 1, 1, 0.5], down)
    return full


def _wide(points: Landmarks, least: float) -> Landmarks:
    """The same with a mouth that is so wide, relative, if it would be narrower."""
    across = points[54] - points[48]
    more = max(0.0, least * align.eye_distance(points) / np.linalg.norm(across) - 1)
    new, along = points.copy(), across / np.linalg.norm(across)
    new[48:] += more * np.outer((points[48:] - points[[48, 54]].mean(0)) @ along, along)
    return new


def _less_open(own: Landmarks, new: Landmarks) -> Landmarks:
    """The same, or less of the mouth's move if it would open wider than a mouth can."""
    before, after = gap(own), gap(new)
    if after <= max(WIDEST, before):
        return new
    share = (max(WIDEST, before) - before) / (after - before)
    return np.concatenate([new[:48], own[48:] + share * (new - own)[48:]])


def _carried(own: Landmarks, new: Landmarks) -> Landmarks:
    """The same with a jaw that goes down with the lower lip, which it carries."""
    down, _ = _down(own)
    below = lambda points: float((points[8] - points[[56, 57, 58]].mean(0)) @ down)
    lacks = max(0.0, CHIN * below(own) - below(new))
    return np.concatenate([new[:17] + lacks * np.outer(_JAW, down), new[17:]])


def _held(own: Landmarks, new: Landmarks) -> Landmarks:
    """The same with a chin that rises so far only as the skin below it can stretch."""
    down, eyes = _down(own)
    over = np.maximum((own - new)[:17] @ down - RISE * eyes, 0)
    return np.concatenate([new[:17] + over[:, None] * down, new[17:]])


def only(move: Landmarks, parts: Sequence[str]) -> Landmarks:
    """A move of the points of some parts, and of the jaw with the mouth; the others stay."""
    found = np.zeros_like(move)
    if "mouth" in parts:
        found[48:] = move[48:]
        found[:17] = move[:17] * (_JAW > 0)[:, None]
    if "eyes" in parts:
        found[36:48] = move[36:48]
    if "brows" in parts:
        found[17:27] = move[17:27]
    return found


def gap(points: Landmarks) -> float:
    """How far the lips are apart, relative; below 0 if they overlap."""
    down, eyes = _down(points)
    return float(np.mean((points[_LOWER] - points[_UPPER]) @ down)) / eyes


def opening(points: Landmarks) -> float:
    """The area between the lips, in squares of the distance between the eyes."""
    x, y = points[60:68].T
    area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2  # of overlapping lips: below 0
    return max(float(area), 0.0) / align.eye_distance(points) ** 2


def closes(own: Landmarks, new: Landmarks) -> bool:
    """Whether a mouth that is open closes, or nearly so."""
    return opening(own) >= OPEN and opening(new) <= 0.5 * opening(own)


def closed(points: Landmarks, left: float) -> Landmarks:
    """The landmarks with the lips brought together to a gap, relative, if they are farther apart.

    The lower lip does two thirds of the way; the outer lips follow.
    """
    down, eyes = _down(points)
    way = np.maximum((points[_LOWER] - points[_UPPER]) @ down - left * eyes, 0)[:, None] * down
    new, middle = points.copy(), way.mean(0)
    new[_UPPER] += 0.35 * way
    new[_LOWER] -= 0.65 * way
    new[49:54] += np.outer([0.1, 0.3, 0.35, 0.3, 0.1], middle)
    new[55:60] -= np.outer([0.15, 0.5, 0.6, 0.5, 0.15], middle)
    return new


def _down(points: Landmarks) -> tuple[Float[np.ndarray, " 2"], float]:
    """The direction down a face, and the distance between its eyes."""
    across, eyes = points[42:48].mean(0) - points[36:42].mean(0), align.eye_distance(points)
    return np.array([-across[1], across[0]]) / eyes, eyes


def _in(name: str, parts: Sequence[str]) -> bool:
    return any(name.startswith(NAMES[part]) for part in parts)


def _strength(
    own: Landmarks,
    move: Landmarks,
    target: Float[np.ndarray, " coefficients"],
    weight: Float[np.ndarray, " coefficients"],
) -> float:
    """How much of a move brings the expression closest to the target."""
    read = expression.read(own + TRIES[:, None, None] * move)
    return float(TRIES[np.argmin(np.sum(weight * (read - target) ** 2, axis=1))])
