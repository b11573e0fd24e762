"""What may go wrong with a pair of faces, said before anything is done.

From landmarks, from pixels, and from how sure the network of drawings is of its landmarks. Bounds
are set by portraits that were looked at, and by the same with mouths that were covered; see
docs/transfer.md.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from fxjax.faces import align, expression
from fxjax.faces.align import Landmarks
from fxjax.faces.verdict import SIDE, Crop, Verdict, astray, lab

MOST_TURN, FAR_TURN = 15.0, 35.0  # degrees
SMALL = 40  # pixels from ear to ear
WIDE, ASTRAY, FLAT = 0.9, 0.064, 10.0  # in portraits up to .77 and .05, no less than 27
SIDED = 18.0  # of CIELAB, between the cheeks
HAIRY, SHADED = 1.2, 10.0  # of CIELAB: finer detail than the cheeks have, and darker


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
    of its own, or there are no dark and light places between and on the lips.
    """
    distance = align.eye_distance(face.inside)
    lips = lab(face.crop)[align.filled(face.inside[48:60], SIDE) > 0, 0]
    low, high = np.percentile(lips, [10, 90]) if lips.size else (0.0, 0.0)
    wide = float(face.spread[48:].mean()) / distance / WIDE
    far = astray(face.inside, face.second) / ASTRAY
    return max(math.sqrt(wide * far), FLAT / max(float(high - low), 1e-3))


def judge(person: Look, driver: Look) -> Verdict:
    """What may go wrong, in words, and what they were said by."""
    turns = [expression.pose(face.photo) for face in (person, driver)]
    apart = float(np.abs(turns[0] - turns[1])[:2].max())
    figures, words = {"apart": apart}, []
    for who, face, turn in (("face", person, turns[0]), ("driver", driver, turns[1])):
        found = _signs(face) | {"turned": float(abs(turn[0])), "covered": covered(face)}
        figures |= {f"{who}_{name}": value for name, value in found.items()}
        if found["covered"] > 1:
            words.append(f"the {who}'s mouth seems to be covered")
        if found["turned"] > FAR_TURN:
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
