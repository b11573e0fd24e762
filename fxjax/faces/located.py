"""Faces of photos as an engine gets them, and changed ones put back into their photos."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fxjax import align, detect, expression, images
from fxjax.faces import back, mouth, verdict
from fxjax.faces.folds import Drawn
from fxjax.faces.goal import Goal, counts, goal
from fxjax.faces.reader import Reader
from fxjax.faces.verdict import Verdict
from fxjax.transfer_types import Located, Picture
from fxjax.types import Images, Photo

AGAIN, MOST = 0.8, 0.05  # of what a mouth lacks, how much is added; most, of the eyes' distance
LOOK = 256  # pixels in which dlib looks at a drawing
ASTRAY = 0.2  # of the eyes' distance, on average: a drawing's landmarks are not the photo's


class Faces:
    """What engines share. `resolution`: pixels of an aligned face; `detector` may be shared.

    `reader` finds the landmarks of drawings.
    `parts` of a face (of `align.PARTS`) are what changes in a photo; ValueError for others.
    """

    def __init__(
        self,
        resolution: int,
        detector: detect.Detector | None,
        reader: Reader,
        *,
        parts: Sequence[str],
    ):
        align.check_parts(parts)
        self.resolution, self.parts, self.reader = resolution, parts, reader
        self._detector = detector

    @property
    def detector(self) -> detect.Detector:
        """The face detector, loaded when first needed."""
        if self._detector is None:
            self._detector = detect.Detector()
        return self._detector

    def locate(self, photo: Picture, face: str = "largest") -> list[Located]:
        """The chosen faces of a photo, aligned; see `detect.choose` for `face`.

        Raises ValueError if there is none.
        """
        pixels = photo if isinstance(photo, np.ndarray) else images.load_image(photo)
        where = "the photo" if isinstance(photo, np.ndarray) else str(photo)
        try:
            return [
                Located(pixels, f.landmarks, align.align(pixels, f.landmarks, self.resolution))
                for f in detect.choose(self.detector(pixels), face)
            ]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def put_back(
        self,
        person: Located,
        before: Drawn,
        after: Drawn,
        driver: Located | None = None,
        *,
        amount: float = 1.0,
    ) -> Photo:
        """The photo whose own pixels move as the drawings do; see `fxjax.faces.back`.

        A drawing whose landmarks are not where the person's are moves nothing.
        """
        first, second = self.marks(before), self.marks(after)
        size = len(person.crop.image), len(np.asarray(before))
        there = align.transform(align.whole_square(size[1], size[0]), person.in_crop())
        eyes = np.linalg.norm(there[36:42].mean(0) - there[42:48].mean(0))
        far = [
            np.linalg.norm(each, axis=1).mean() / eyes for each in (first - there, second - first)
        ]
        if far[0] > ASTRAY or far[1] > 2 * ASTRAY:
            first = second = there
        both = np.stack([first, second])
        options: Any = {"parts": self.parts, "amount": amount}
        result = back.put_back(person, driver, before, after, both, **options)
        if driver is None or "mouth" not in self.parts:
            return result
        moved = goal(
            self._inside(person, mouth.landmarks(person)),
            (both + 0.5) * (LOOK / size[1]) - 0.5,
            mouth.landmarks(driver),
            **options,
        )
        seen = self._seen(person, result)
        if not moved.share or seen is None:
            return result
        nudge = _short(moved, seen) / LOOK
        again = back.put_back(person, driver, before, after, both, nudge=nudge, **options)
        there = self._seen(person, again)
        if there is None or _apart(there, moved.new) >= _apart(seen, moved.new):
            return result
        return again

    def preflight(self, person: Located, driver: Located) -> Verdict:
        """What may go wrong with a pair, before anything is done."""
        return verdict.preflight(
            person.landmarks,
            driver.landmarks,
            verdict.width(person.landmarks),
            verdict.width(driver.landmarks),
        )

    def verdict(self, person: Located, driver: Located, photo: Photo) -> Verdict:
        """What is wrong with the person's photo after a change."""
        if np.array_equal(photo, person.photo):
            return Verdict((), {})
        before, after = (
            images.to_uint8(align.cut(each, person.crop.at(LOOK), LOOK))
            for each in (person.photo, photo)
        )
        own, seen = (self.detector.upright(crop) for crop in (before, after))
        if not own:  # not even before: nothing can be said
            return Verdict((), {})
        second = self._read(images.from_uint8(after))
        return verdict.judge(
            before,
            after,
            own[0],
            seen[0] if seen else None,
            second,
            mouth.landmarks(driver),
            tuple(self.parts),
        )

    def _seen(self, person: Located, photo: Photo) -> align.Landmarks | None:
        """What dlib finds of a changed face, in `LOOK` pixels of the aligned square."""
        crop = images.to_uint8(align.cut(photo, person.crop.at(LOOK), LOOK))
        found = self.detector.upright(crop)
        return found[0] if found else None

    def _inside(self, face: Located, landmarks: align.Landmarks) -> align.Landmarks:
        return align.transform(np.linalg.inv(face.crop.at(LOOK)), landmarks)

    def marks(self, drawn: Drawn) -> align.Landmarks:
        """The landmarks of a drawn face in its pixels: dlib's, or the reader's if it finds none."""
        found = self._found(drawn)
        return self._read(drawn) if found is None else found

    def astray(self, drawn: Drawn) -> float:
        """How far the two landmarkers put the mouth apart, in distances between the eyes.

        A drawing that fools the reader shows in it; infinite where dlib finds no face.
        """
        found, read = self._found(drawn), self._read(drawn)
        if found is None:
            return math.inf
        eyes = np.linalg.norm(found[36:42].mean(0) - found[42:48].mean(0))
        return float(np.linalg.norm((found - read)[48:], axis=1).mean() / eyes)

    def _read(self, drawn: Drawn) -> align.Landmarks:
        return np.asarray(_marks(self.reader, jnp.asarray(drawn)[None])[0], np.float64)

    def _found(self, drawn: Drawn) -> align.Landmarks | None:
        picture = images.to_uint8(np.asarray(drawn))
        large = cv2.resize(picture, (LOOK, LOOK), interpolation=cv2.INTER_CUBIC)
        found = self.detector.upright(large)
        if not found:
            return None
        return align.transform(align.whole_square(len(picture), LOOK), found[0])


def _short(moved: Goal, seen: align.Landmarks) -> align.Landmarks:
    """What a mouth lacks to where it should be, as it is seen; 0 for all else.

    What is seen of moved pixels is not where they were moved to: a landmarker expects whole faces.
    """
    eyes = np.linalg.norm(moved.own[36:42].mean(0) - moved.own[42:48].mean(0))
    lack = moved.new - seen
    lack = lack - lack[expression.ANCHORS].mean(0)
    found = np.zeros_like(lack)
    found[48:] = np.clip(AGAIN * lack[48:], -MOST * eyes, MOST * eyes)
    return found


def _apart(one: align.Landmarks, other: align.Landmarks) -> float:
    """How far the expressions of two mouths are apart."""
    weight = np.sqrt(counts(("mouth",)) * expression.shipped().reliability)
    return float(np.linalg.norm(weight * (expression.read(one) - expression.read(other))))


@jax.jit
def _marks(reading: Reader, drawn: Images) -> Float[Array, "batch 68 2"]:
    return reading.marks(jnp.clip(drawn, -1, 1))
