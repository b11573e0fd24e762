"""The inside of a mouth: a driver's where one opens, nothing where one closes."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from jaxtyping import Float

from fxjax import images
from fxjax.faces import align, expression, move
from fxjax.faces.align import Landmarks
from fxjax.faces.folds import LUMA, Drawn
from fxjax.faces.goal import OPEN, SHUT, TIGHT, closed, closes, gap, opening
from fxjax.transfer_types import Located

MORE = 1.6  # times as open as before: less stretches what is seen already
TURNED = 15.0  # degrees: teeth of a head that is turned farther do not fit
EDGE = 0.004  # of the side
LIGHT = 0.5  # how much the driver's mouth gets of the drawing's brightness
PALE = 0.6  # how much colour the driver's mouth keeps
TINT = 0.25  # how much of the skin's colour teeth take
SHADE, SHADED = 0.35, 0.025  # how much darker the mouth is at the lips; within such a way, relative
TONED, GRAIN = 0.032, 0.02  # in [-1, 1]: so near a curve colours are a tone; of the side: blur
BRIGHTER = 1.15  # than skin
TOOTH = 0.6, 1.1  # brightness beside skin of what in a gray mouth is flesh, and is a tooth
AJAR = 0.16  # relative gap: landmarks see less in mouths that are shut, more in open ones alone
LOOK, SHOWN = 256, 0.15  # pixels at which a mouth is looked at; share of it that is not lips
LIP_LINE = 0.35  # how much darker it is between lips that close
LEFT = 0.4, 0.15  # of its area: a mouth that closes so far is drawn not at all, and wholly
AROUND = 0.15, 0.04  # of the eyes' distance: how far from the lips a drawn mouth goes, and wholly
NEARBY = 0.1  # of the side: within such places a drawing gets the colours of the photo's skin
GLOSS = 1.15  # times as bright as lips are: brighter places of drawn ones are something else
DRAWN_LINE = 0.5  # how much of the line between lips a drawing needs, beside its own


_LOOKED_AT: WeakKeyDictionary[Located, Landmarks] = WeakKeyDictionary()


class Inside(NamedTuple):
    """What is seen between lips, in [-1, 1], and where."""

    colours: Float[np.ndarray, "size size 3"]
    alpha: Float[np.ndarray, "size size"]


def inside(
    crop: Float[np.ndarray, "size size 3"],
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    own: Landmarks,
    new: Landmarks,
    driver: Located | None,
    theirs: Landmarks | None,
    skin: Float[np.ndarray, "size size"],
) -> Inside | None:
    """The inside of a mouth that opens, laid between the new lips; None if it does not open.

    Of a mouth that is open already and opens a little more, its own. Else that of the driver's
    photo if the heads are turned alike, or of the drawing with the driver's detail. A driver whose
    mouth is shut, by the landmarks `theirs` in its photo, shows nothing. `crop` is the person's
    photo, `skin` where it is bare; marks and landmarks are in its pixels.
    """
    size = len(crop)
    if opening(new) <= max(OPEN, opening(own)):
        return None
    if OPEN < opening(own) and opening(new) <= MORE * opening(own):  # its own teeth
        return Inside(move.seen(crop, move.spline(new[60:], own[60:], size)), _alpha(new, size))
    if theirs is not None and (gap(theirs) < SHUT or opening(theirs) < OPEN):
        return None
    alpha = _alpha(new, size)
    drawn = move.seen(_large(after, size), move.spline(new[60:], marks[1][60:], size))
    drawn = drawn + np.average((crop - _large(before, size)).reshape(-1, 3), 0, skin.ravel())
    if driver is None or theirs is None:
        return _toned(Inside(drawn, alpha), crop, own)
    matrix = driver.crop.at(size)
    theirs = align.transform(np.linalg.inv(matrix), theirs)
    photo = align.cut(driver.photo, matrix, size)
    photo = move.seen(photo, move.spline(new[60:], theirs[60:], size))
    turn = np.abs(expression.pose(theirs) - expression.pose(own))[:2]
    shown = opening(marks[1]) > 0.5 * opening(new)  # in the drawing
    if shown and turn.max() > TURNED:
        pixel = size / len(np.asarray(before))
        fine = photo - cv2.GaussianBlur(photo, (0, 0), pixel)
        return _toned(Inside(drawn + 0.7 * fine @ LUMA[:, None], alpha), crop, own)
    photo = _paler(photo)
    if shown:
        here, there = (_bright(each, alpha) for each in (photo, drawn))
        photo = (photo + 1) * np.float32((there / here) ** LIGHT) - 1
    if images.is_gray(driver.photo):
        photo = _flesh(photo, crop, own, skin)
    photo = _lit(_dimmed(photo, crop, alpha, skin), crop, new, skin)
    return _toned(Inside(photo.astype(np.float32), alpha), crop, own)


def landmarks(face: Located) -> Landmarks:
    """A face's landmarks in its photo, with the lips together if its pixels show that they are.

    Landmarks take the lips of a bearded mouth for its inside. What is between the lips of an open
    one is paler or darker than they are: of 46 portraits .21 to .84 of it where teeth are seen, and
    at most .10 elsewhere.
    """
    found = _LOOKED_AT.get(face)
    if found is None:
        found = _LOOKED_AT[face] = _looked_at(face)
    return found


def _looked_at(face: Located) -> Landmarks:
    crop = (align.cut(face.photo, face.crop.at(LOOK), LOOK) + 1) / 2
    points = _at(face, LOOK)
    inner, outer = (align.filled(points[part], LOOK) for part in (slice(60, 68), slice(48, 60)))
    ring = (outer > 0) & (cv2.dilate(inner, np.ones((3, 3), np.uint8)) == 0)
    if not SHUT <= gap(points) <= AJAR or not inner.any() or not ring.any():
        return face.landmarks
    lab = cv2.cvtColor(crop.astype(np.float32), cv2.COLOR_RGB2LAB)
    bright, red = np.moveaxis(lab[inner > 0], 1, 0)[:2]
    (low, least, _), (high, _, _) = np.percentile(lab[ring], [5, 95], axis=0)
    other = (bright < low - 5) | (red < least - 2)
    if images.is_gray(face.photo):
        other |= bright > high + 5
    if np.mean(other) > SHOWN:
        return face.landmarks
    return closed(face.landmarks, TIGHT)


def line(own: Landmarks, new: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """What brightness is multiplied by where the lips of a mouth that closes meet, or else 1."""
    if not closes(own, new):
        return np.ones((size, size), np.float32)
    below, beside = move.slit(new, size)
    thick = 0.012 * align.eye_distance(new)
    ends = align.smooth(1 - beside / (4 * thick))
    return 1 - LIP_LINE * np.exp(-((below / thick) ** 2)) * ends


def shut(
    crop: Float[np.ndarray, "size size 3"],
    before: Drawn,
    after: Drawn,
    marks: Float[np.ndarray, "2 68 2"],
    own: Landmarks,
    new: Landmarks,
    face: Float[np.ndarray, "size size"],
) -> Inside | None:
    """The closed lips and what is around them, where a mouth closes; None if it does not.

    Lips that were drawn apart over teeth, pushed together, are torn, so the drawing's shape and
    light count, in the colours of the photo's lips and skin; finer than its pixels it knows
    nothing. `crop` is the person's photo in a `face`'s pixels, so are marks and landmarks.
    """
    share = _shut(own, new) * _shut(*marks)
    if not share:
        return None
    size, eyes = len(crop), align.eye_distance(new)
    blur = lambda picture, part: cv2.GaussianBlur(picture.astype(np.float32), (0, 0), part * size)
    lips = lambda points: align.filled(points[48:60], size) > 0
    ring = lambda points: lips(points) & (align.filled(points[60:68], size) == 0)
    drawn = move.seen(_large(after, size), move.spline(new, marks[1], size))
    other = crop - move.seen(_large(before, size), move.spline(own, marks[0], size))
    skin = face * (1 - blur(cv2.dilate(lips(own).astype(np.uint8), np.ones((3, 3))), 2 * EDGE))
    drawn = drawn + blur(other * skin[..., None], NEARBY) / (blur(skin, NEARBY) + 1e-3)[..., None]
    if ring(own).any() and ring(new).any():
        was, now = (np.median(picture[ring(points)], 0) + 1
                    for picture, points in ((crop, own), (drawn, new)))  # fmt: skip
        bright = (drawn + 1) @ LUMA / max(float(now @ LUMA), 1e-3)
        red = was * np.minimum(bright, GLOSS)[..., None] - 1
        drawn = drawn + blur(lips(new), 2.5 * EDGE)[..., None] * (red - drawn)
    drawn = (drawn + 1) * (1 - DRAWN_LINE * (1 - line(own, new, size)))[..., None] - 1
    far = cv2.distanceTransform((~lips(new)).astype(np.uint8), cv2.DIST_L2, 5) / eyes
    alpha = share * align.smooth((AROUND[0] - far) / (AROUND[0] - AROUND[1])) * face
    colours = np.clip(drawn, -1, 1).astype(np.float32)
    return _toned(Inside(colours, alpha.astype(np.float32)), crop, own)


def _shut(own: Landmarks, new: Landmarks) -> float:
    """1 if a mouth that was open is shut, 0 if it is not or was never open."""
    if opening(own) < OPEN:
        return 0.0
    least, most = LEFT
    return float(
        align.smooth(np.array([(least - opening(new) / opening(own)) / (least - most)]))[0]
    )


def _alpha(new: Landmarks, size: int) -> Float[np.ndarray, "size size"]:
    """1 between the lips, with a soft edge."""
    between = align.filled(new[60:68], size).astype(np.float32)
    return cv2.GaussianBlur(between, (0, 0), max(EDGE * size, 0.3))


def _bright(
    photo: Float[np.ndarray, "size size 3"], alpha: Float[np.ndarray, "size size"]
) -> float:
    """The brightness of the teeth of a mouth, black 0 and white 2; 1 if nothing is seen."""
    seen = (photo @ LUMA + 1)[alpha > 0.5]
    return max(float(np.percentile(seen, 90)), 0.02) if len(seen) else 1.0


def _dimmed(
    photo: Float[np.ndarray, "size size 3"],
    crop: Float[np.ndarray, "size size 3"],
    alpha: Float[np.ndarray, "size size"],
    skin: Float[np.ndarray, "size size"],
) -> Float[np.ndarray, "size size 3"]:
    """As dark as makes the brightest teeth hardly brighter than the brightest skin around them."""
    bright = lambda picture, where: (picture[where] @ LUMA + 1) / 2
    inside, around = alpha > 0.5, skin > 0.5
    if not inside.any() or not around.any():
        return photo
    high, top = np.percentile(bright(crop, around), 95), np.percentile(bright(photo, inside), 90)
    return (photo + 1) * np.float32(min(1.0, BRIGHTER * high / max(top, 1e-3))) - 1


def _lit(
    photo: Float[np.ndarray, "size size 3"],
    crop: Float[np.ndarray, "size size 3"],
    new: Landmarks,
    skin: Float[np.ndarray, "size size"],
) -> Float[np.ndarray, "size size 3"]:
    """In the light of the skin around: a little of its colour, and darker towards the lips."""
    colour = np.average((crop + 1).reshape(-1, 3), 0, skin.ravel() + 1e-6)
    tint = (colour / max(float(colour @ LUMA), 1e-3)) ** TINT
    far = align.depth(new[60:68], len(crop))
    shade = 1 - SHADE * np.exp(-far / (SHADED * align.eye_distance(new)))
    return (photo + 1) * (tint / (tint @ LUMA)).astype(np.float32) * shade[..., None] - 1


def _flesh(
    photo: Float[np.ndarray, "size size 3"],
    crop: Float[np.ndarray, "size size 3"],
    own: Landmarks,
    skin: Float[np.ndarray, "size size"],
) -> Float[np.ndarray, "size size 3"]:
    """A gray mouth with colours: what is as bright as skin is teeth, the rest as red as lips."""
    lips = align.filled(own[48:60], len(crop)) > 0
    if not lips.any() or not (skin > 0.5).any():
        return photo
    bright, red = (photo + 1) @ LUMA, np.median(crop[lips], 0) + 1
    level = bright / max(float(np.median(bright[skin > 0.5])), 1e-3)
    white = align.smooth((level - TOOTH[0]) / (TOOTH[1] - TOOTH[0]))[..., None]
    tint = red / max(float(red @ LUMA), 1e-3) * (1 - white) + white
    return bright[..., None] * tint.astype(np.float32) - 1


def _paler(photo: Float[np.ndarray, "size size 3"]) -> Float[np.ndarray, "size size 3"]:
    """With less colour: teeth in another light are the first to look wrong."""
    gray = (photo @ LUMA)[..., None]
    return gray + PALE * (photo - gray)


def _toned(found: Inside, crop: Float[np.ndarray, "size size 3"], own: Landmarks) -> Inside:
    """The same in the photo's tone, if its face has but one, such as gray or sepia.

    Then colour follows from brightness on skin, lips and eyes alike: in natural colours lips are
    redder than skin that is as bright, and eyes are bluer. Blurred, so that grain does not count.
    """
    size = len(crop)
    fill = lambda points: align.filled(points, size) > 0
    lips, eyes = fill(own[48:60]), fill(own[36:42]) | fill(own[42:48])
    skin = fill(cv2.convexHull(own.astype(np.float32))[:, 0]) & ~lips & ~eyes
    soft = cv2.GaussianBlur(crop, (0, 0), GRAIN * size)
    colours = [soft[part].astype(np.float64) for part in (skin, lips, eyes) if part.any()]
    face = np.concatenate(colours)
    bright = face @ LUMA
    curves = [np.polynomial.Polynomial.fit(bright, channel, 3) for channel in face.T]
    toned = lambda levels: np.stack([curve(levels) for curve in curves], -1)
    rest = [_chroma(part) - _chroma(toned(part @ LUMA)) for part in colours]
    if max(np.sqrt(np.mean(part**2)) for part in rest) > TONED:
        return found
    levels = np.clip(found.colours @ LUMA, bright.min(), bright.max())
    return Inside(toned(levels).astype(np.float32), found.alpha)


def _chroma(colours: Float[np.ndarray, "pixels 3"]) -> Float[np.ndarray, "pixels 3"]:
    """Colours without their brightness."""
    return colours - (colours @ LUMA)[:, None]


def _at(face: Located, size: int) -> Landmarks:
    return align.transform(np.linalg.inv(face.crop.at(size)), face.landmarks)


def _large(picture: Drawn, size: int) -> Float[np.ndarray, "size size 3"]:
    pixels = np.clip(np.asarray(picture, np.float32), -1, 1)
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_CUBIC)
