"""How good a transfer is, beside simple methods: copies, simple mixes and pasted mouths.

Everything is judged in the photo, at 256 pixels around the face, by a reader of expressions and by
dlib's identity network; neither takes part in making the pictures.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fxjax import images, metrics, sharding
from fxjax.codes import mix, search
from fxjax.engine import Engine
from fxjax.faces import align, detect, expression, paste
from fxjax.transfer_types import PRESETS, Located, Pixels, Transfer
from fxjax.types import Code, Photo, Photos

SIDE = 256  # pixels of the crop in which all pictures are judged
LEAST_TURN = 0.05  # of `pose`: below it two faces look the same way


@dataclasses.dataclass(frozen=True)
class Assessed:
    """A picture and its measures; what cannot be measured (no face is found) is not a number.

    `gain`: how far the expression went from the person's (0) to the driver's (1). `to_person` and
    `to_driver`: dlib's distances of identity (below 0.6 is one person). `outside`: PSNR in dB to
    the photo outside the eyes, brows and mouth. `expression_loss` and `appearance_loss` are E and
    A, by which masks are ranked, of the generator's picture, if there is one.
    """

    name: str
    photo: Photo
    gain: float = math.nan
    to_person: float = math.nan
    to_driver: float = math.nan
    outside: float = math.nan
    expression_loss: float = math.nan
    appearance_loss: float = math.nan


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the judges see of a face: landmarks in its crop, and who it is."""

    landmarks: align.Landmarks
    identity: np.ndarray


class Judges:
    """The detector and the identity network. Not for several threads at a time."""

    def __init__(self, detector: detect.Detector):
        self.detector, self.identity = detector, detect.Identity()

    def see(self, photo: Photo, face: Located) -> Seen | None:
        """The face at that place in a photo, or None if none is found there."""
        return self._seen(self.crop(photo, face))

    def look(self, picture: Photo) -> Seen | None:
        """The face of an aligned picture, or None if none is found."""
        large = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        return self._seen(large)

    def _seen(self, crop: Photo) -> Seen | None:
        found = self.detector(crop)
        if not found:
            return None
        middle = np.full(2, SIDE / 2)
        near = min(found, key=lambda f: float(np.linalg.norm(f.landmarks.mean(0) - middle)))
        return Seen(near.landmarks, self.identity(crop, near.landmarks))

    def crop(self, photo: Pixels, face: Located) -> Pixels:
        """The aligned square around a face, at the judges' size."""
        return images.to_uint8(align.cut(photo, face.crop.at(SIDE), SIDE))


def assess(
    judges: Judges,
    person: Located,
    driver: Located,
    pictures: Sequence[tuple[str, Photo]],
) -> list[Assessed]:
    """Measures changed copies of the person's photo."""
    own, other = judges.see(person.photo, person), judges.see(driver.photo, driver)
    found = []
    for name, photo in pictures:
        result = Assessed(name, photo, outside=outside(person, photo))
        seen = judges.see(photo, person)
        if seen is not None and own is not None and other is not None:
            gain = expression.gain(seen.landmarks, own.landmarks, other.landmarks)
            result = dataclasses.replace(
                result,
                gain=float(gain),
                to_person=float(np.linalg.norm(seen.identity - own.identity)),
                to_driver=float(np.linalg.norm(seen.identity - other.identity)),
            )
        found.append(result)
    return found


def outside(person: Located, photo: Photo) -> float:
    """PSNR in dB to the person's photo outside the dilated eyes, brows and mouth."""
    size = len(person.crop.image)
    changed = align.union([align.region_masks(person.in_crop(), size)])[..., None]
    place = np.linalg.inv(person.crop.photo_from_crop)
    height, width = photo.shape[:2]
    inside = align.resample(changed, place, height, width, border=0)[..., 0] > 0.01
    if inside.all():
        return math.nan
    return metrics.psnr(photo[~inside][None], person.photo[~inside][None])


def mixtures(
    engine: Engine, result: Transfer, strengths: Sequence[float] = (0.5,)
) -> dict[str, Code]:
    """Codes by simpler means: the rows that other work takes, and interpolation."""
    own, other = jnp.asarray(result.codes[0]), jnp.asarray(result.codes[1])
    rows, found = len(own), {}
    for name, preset in PRESETS.items():
        mask = np.isin(np.arange(rows), preset)
        found[f"rows {preset} ({name})"] = mix.mix(own, other, jnp.asarray(mask))
    everything = jnp.ones(rows, bool)
    found["all rows"] = other
    for strength in strengths:
        found[f"interpolation {strength:g}"] = mix.blended(own, other, everything, strength)
    return found


def pasted(
    person: Located, driver: Located, regions: Sequence[paste.Region] = ("mouth", "lower_face")
) -> list[tuple[str, Photo]]:
    """Photos without any generator: parts of the driver's face, pasted."""
    found = []
    for region in regions:
        try:
            photo = paste.paste(
                person.photo, person.landmarks, driver.photo, driver.landmarks, region=region
            )
        except ValueError:
            continue  # that region lies outside a photo
        found.append((f"pasted {region.replace('_', ' ')}", photo))
    return found


def table(
    engine: Engine,
    judges: Judges,
    result: Transfer,
    *,
    compare: bool = True,
    joint: bool = False,
) -> list[Assessed]:
    """The result, both copies and, with `compare`, simpler methods.

    All pictures of a generator are drawn by the one that was tuned to the person. `joint` adds a
    code that was searched freely for the least E + weight * A, with as many steps as an inversion
    has, unless the two faces are alike.
    """
    person, driver = result.person, result.driver
    pictures = [
        ("result", result.image),
        ("copy of the first", person.photo),
        *pasted(person, driver, ("whole_face",)),
    ]
    if not len(result.codes):  # nothing was searched
        found = assess(judges, person, driver, pictures)
        return found + assess(judges, person, driver, pasted(person, driver) if compare else [])
    own, other, mixed, final = map(jnp.asarray, result.codes)
    case = engine.case(own, other, (person, driver), generator=result.generator)
    codes = mixtures(engine, result) if compare else {}
    if compare and result.drawn in ("refined", "face model alone"):
        codes = {"mixture, not refined": mixed, **codes}
    if joint and not result.alike:
        settings = engine.settings
        codes["joint optimisation"] = search.joint(
            case, weight=settings.weight, steps=settings.steps
        )
    drawn = engine.draw(jnp.stack([own, final, *codes.values()]), result.generator)
    wanted = [(name, new[None], True) for name, new in zip(codes, drawn[2:], strict=True)]
    if compare:
        wanted += [("drawing alone", drawn[1:2], False), ("face model alone", drawn[:1], True)]

    def applied(one: tuple[str, Any, bool]) -> tuple[str, Photo]:
        name, new, carry = one
        return name, engine.apply(person, drawn[:1], new, driver, carry=carry)[0]

    pictures += sharding.beside(applied, wanted)
    if compare:
        pictures += pasted(person, driver)
    found = {one.name: one for one in assess(judges, person, driver, pictures)}
    if not result.alike:
        codes = {"result": final, **codes}
        scores = search.score_codes(case, jnp.stack(list(codes.values())))
        for name, (e, a) in zip(codes, scores.tolist(), strict=True):
            found[name] = dataclasses.replace(found[name], expression_loss=e, appearance_loss=a)
    return list(found.values())


def moved(
    judges: Judges, person: Photo, driver: Photo, pictures: Photos
) -> Float[np.ndarray, "pictures 3"]:
    """How far aligned faces went from the person's towards the driver's.

    Columns: gain in expression, the same for the pose (1: all of the way), and dlib's distance of
    identity to the person. Not a number where no face is found, or where the two agree.
    """
    found = np.full((len(pictures), 3), math.nan)
    first, second = judges.look(person), judges.look(driver)
    if first is None or second is None:
        return found
    start, end = pose(first.landmarks), pose(second.landmarks)
    far = float(np.sum(np.square(end - start)))
    for i, picture in enumerate(pictures):
        seen = judges.look(picture)
        if seen is None:
            continue
        found[i, 0] = expression.gain(seen.landmarks, first.landmarks, second.landmarks)
        if far > LEAST_TURN**2:
            found[i, 1] = (pose(seen.landmarks) - start) @ (end - start) / far
        found[i, 2] = np.linalg.norm(seen.identity - first.identity)
    return found


def pose(landmarks: align.Landmarks) -> Float[np.ndarray, " 2"]:
    """How far the nose's tip is off the middle, across and down, in distances between the eyes.

    It grows with the head's turn and nod, about 1 for 60 degrees.
    """
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    across = left - right
    down = np.array([-across[1], across[0]])
    tip = landmarks[30] - (right + left) / 2
    return np.array([tip @ across, tip @ down]) / float(across @ across)
