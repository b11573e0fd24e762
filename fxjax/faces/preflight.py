"""What may go wrong with a pair of faces, said before anything is done.

From landmarks, from pixels, and from how sure the network of drawings is of its landmarks. Bounds
are set by portraits that were looked at, and by the same with mouths that were covered; see
docs/transfer.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from fxjax.faces import align, expression
from fxjax.faces.align import Landmarks
from fxjax.faces.goal import gap
from fxjax.faces.verdict import SIDE, Crop, Verdict, astray, lab

MOST_TURN, SAID_TURN, FAR_TURN = 15.0, 30.0, 35.0  # degrees
SMALL = 40  # pixels from ear to ear
WIDE, ASTRAY, FLAT = 0.9, 0.064, 10.0  # in portraits up to .77 and .05, no less than 27
AGAPE = 0.12  # relative gap between lips; over covers dlib sees at most .04
SIDED = 18.0  # of CIELAB, between the cheeks
HAIRY, SHADED = 1.2, 10.0  # of CIELAB: finer detail than the cheeks have, and darker
DARK = 18.0  # of CIELAB: eyes and what is below them, beside cheeks; 16 in the shade, 19 in glasses

COVERED = {"mouth": "seems to be covered", "eyes": "seem to be behind dark glasses"}
"""How it is said of a part that cannot be seen."""


class Look(NamedTuple):
    """One face: its pixels, dlib's landmarks in them and in the photo, and the network's.

    `spread` is how unsure the network is of each landmark, in pixels.
    """

    crop: Crop
    inside: Landmarks
    photo: Landmarks
    second: Landmarks
    spread: Float[np.ndarray, " 68"]


def covered(face: Look) -> float:
    """How likely something is in front of the mouth: above 1 it is taken for covered.

    Landmarks are invented there, but two landmarkers invent other ones and the network is not sure
    of its own, or there are no dark and light places between and on the lips. A mouth that both
    see wide open is no cover, however unsure of its lips they are.
    """
    if min(gap(face.inside), gap(face.second)) > AGAPE:
        return 0.0
    distance = align.eye_distance(face.inside)
    lips = lab(face.crop)[align.filled(face.inside[48:60], SIDE) > 0, 0]
    low, high = np.percentile(lips, [10, 90]) if lips.size else (0.0, 0.0)
    wide = float(face.spread[48:].mean()) / distance / WIDE
    far = astray(face.inside, face.second) / ASTRAY
    return max(math.sqrt(wide * far), FLAT / max(float(high - low), 1e-3))


def shaded(face: Look) -> float:
    """How likely both eyes are behind dark glasses: above 1 they are taken to be.

    Neither in the eyes nor below them anything is as light as the cheeks.
    """
    points, pixels, depths = face.inside, lab(face.crop), []
    distance = align.eye_distance(points)
    for eye, (nose, jaw) in ((points[36:42], (31, 3)), (points[42:48], (35, 13))):
        cheek = np.median(pixels[_disc((points[nose] + points[jaw]) / 2, 0.1 * distance), 0])
        wide = float(np.linalg.norm(eye[3] - eye[0]))
        under = eye.mean(0) + np.array([0, 0.55 * wide])
        below = np.median(pixels[_disc(under, 0.12 * distance), 0])
        inner = pixels[align.filled(eye, SIDE) > 0, 0]
        light = max(below, np.percentile(inner, 90)) if inner.size else below
        depths.append(float(cheek - light))
    return min(depths) / DARK


def unseen(part: str) -> str:
    """Why nothing is done where a part that is to change cannot be seen, after its name."""
    return (
        f"{COVERED[part]}, so the expression there cannot be seen: take another photo, leave the "
        f"{part} out of the parts that change, or go on all the same (--covered)"
    )


def judge(person: Look, driver: Look, parts: Sequence[str] = ("mouth",)) -> Verdict:
    """What may go wrong when these parts of a face change, in words, and what they were said by."""
    turns = [expression.pose(face.photo) for face in (person, driver)]
    apart = float(np.abs(turns[0] - turns[1])[:2].max())
    figures, words = {"apart": apart}, []
    for who, face, turn in (("face", person, turns[0]), ("driver", driver, turns[1])):
        found = _signs(face) | {"turned": float(abs(turn[0])), "covered": covered(face)}
        found["glasses"] = shaded(face)
        figures |= {f"{who}_{name}": value for name, value in found.items()}
        if found["covered"] > 1:
            words.append(f"the {who}'s mouth {COVERED['mouth']}")
        if found["glasses"] > 1 and "eyes" in parts:
            words.append(f"the {who}'s eyes {COVERED['eyes']}")
        if found["turned"] > SAID_TURN:
            words.append(f"the {who} is turned by {found['turned']:.0f} degrees: a guess")
        if found["width"] < SMALL:
            words.append(f"the {who} is {found['width']:.0f} pixels wide: small")
        if found["hairy"] > HAIRY or found["shaded"] > SHADED:
            words.append(f"a beard or a shadow around the {who}'s mouth: its lips are uncertain")
    if figures["face_sided"] > SIDED:
        words.append("the face is lit from one side: folds may look wrong")
    if apart > MOST_TURN:
        words.append(f"the heads are turned apart by {apart:.0f} degrees: teeth may not fit")
    return Verdict(tuple(words), figures)


def _signs(face: Look) -> dict[str, float]:
    """Width in the photo's pixels; light of one side; hair and shadow around the mouth."""
    points, distance = face.inside, align.eye_distance(face.inside)
    pixels = lab(face.crop)
    fine = np.abs(pixels[..., 0] - cv2.GaussianBlur(pixels[..., 0], (0, 0), 2.0))
    cheeks = [_disc((points[a] + points[b]) / 2, 0.1 * distance) for a, b in ((31, 3), (35, 13))]
    chin = _disc(0.55 * points[57] + 0.45 * points[8], 0.12 * distance)
    above = _disc((points[33] + points[51]) / 2, 0.06 * distance)
    light = [float(np.median(pixels[cheek, 0])) for cheek in cheeks]
    rough = np.mean([fine[cheek].mean() for cheek in cheeks])
    return {
        "width": float(np.linalg.norm(face.photo[16] - face.photo[0])),
        "sided": abs(light[0] - light[1]),
        "hairy": float(fine[chin].mean() - rough),
        "shaded": float(np.mean(light) - np.median(pixels[above, 0])),
    }


def _disc(centre: Float[np.ndarray, " 2"], radius: float) -> Bool[np.ndarray, "256 256"]:
    """Pixels of a disc, at least one even if it lies outside."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    place = np.clip(np.rint(centre), 0, SIDE - 1).astype(int)
    cv2.circle(mask, (int(place[0]), int(place[1])), max(1, int(radius)), (1,), -1)
    return mask > 0
