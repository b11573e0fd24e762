"""Faces of photos as an engine gets them, and changed ones put back into their photos."""

import math
import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from fxjax import images
from fxjax.faces import align, back, detect, expression, mouth, preflight, verdict
from fxjax.faces.folds import Drawn
from fxjax.faces.goal import Goal, apart, goal
from fxjax.faces.preflight import Look
from fxjax.faces.reader import Reader
from fxjax.faces.verdict import Verdict
from fxjax.transfer_types import Located, Picture
from fxjax.types import Images, Photo

AGAIN, MOST = 0.8, 0.05  # of what a mouth lacks, how much is added; most, of the eyes' distance
LOOK = 256  # pixels in which dlib looks at a drawing
BLUE = 12  # of 255: how much bluer than red a face is that is not in RGB
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
        self._looks: WeakKeyDictionary[Located, Look] = WeakKeyDictionary()

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
        pixels, cutout = images.read(photo)
        filed = isinstance(photo, str | os.PathLike)
        where = str(photo) if filed else "the photo"
        try:
            faces, found = self.detector(pixels), []
            if not filed:
                _check_colours(pixels, faces)
            for one in detect.choose(faces, face):
                crop = align.align(pixels, one.landmarks, self.resolution)
                # as a picture file would hold it: alone and in a batch a face has the same code
                crop = crop._replace(image=images.from_uint8(images.to_uint8(crop.image)))
                number = next(k for k, each in enumerate(faces) if each is one)
                found.append(Located(pixels, one.landmarks, crop, cutout, number, len(faces)))
            return found
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
        carry: bool = True,
    ) -> Photo:
        """The photo whose own pixels move as the drawings do; see `fxjax.faces.back`.

        A drawing whose landmarks are not where the person's are moves nothing.
        """
        first, second = self.marks(before), self.marks(after)
        size = len(person.crop.image), len(np.asarray(before))
        there = align.transform(align.whole_square(size[1], size[0]), person.in_crop())
        eyes = align.eye_distance(there)
        far = [
            np.linalg.norm(each, axis=1).mean() / eyes for each in (first - there, second - first)
        ]
        if far[0] > ASTRAY or far[1] > 2 * ASTRAY:
            first = second = there
        both = np.stack([first, second])
        options: Any = {"parts": self.parts, "amount": amount, "carry": carry}
        result = back.put_back(person, driver, before, after, both, **options)
        if driver is None or "mouth" not in self.parts or not carry:
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
        if there is None or apart(there, moved.new, ("mouth",)) >= apart(
            seen, moved.new, ("mouth",)
        ):
            return result
        return again

    def preflight(self, person: Located, driver: Located) -> Verdict:
        """What may go wrong with a pair, before anything is done."""
        found = preflight.judge(self._look(person), self._look(driver), self.parts)
        several = person.which("the photo") + driver.which("the driver's")
        return found._replace(words=several + found.words)

    def hidden(self, face: Located) -> str:
        """Which part that is to change seems to be covered, mouth or eyes; empty if none does.

        See `fxjax.faces.preflight`.
        """
        covers = {"mouth": preflight.covered, "eyes": preflight.shaded}
        found = (part for part in covers if part in self.parts)
        return next((part for part in found if covers[part](self._look(face)) > 1), "")

    def _look(self, face: Located) -> Look:
        found = self._looks.get(face)
        if found is None:
            found = self._looks[face] = self._looked(face)
        return found

    def _looked(self, face: Located) -> Look:
        crop = _cut(face, face.photo)
        drawn = jnp.asarray(images.from_uint8(crop))[None]
        second, spread = (np.asarray(each[0], np.float64) for each in _sure(self.reader, drawn))
        inside = self._inside(face, face.landmarks)
        return Look(crop, inside, face.landmarks, second, spread * LOOK)

    def verdict(self, person: Located, driver: Located, photo: Photo) -> Verdict:
        """What is wrong with the person's photo after a change."""
        if np.array_equal(photo, person.photo):
            return Verdict((), {})
        own, seen = (self._seen(person, each) for each in (person.photo, photo))
        if own is None:  # not even before: nothing can be said
            return Verdict((), {})
        before, after = (_cut(person, each) for each in (person.photo, photo))
        return verdict.judge(
            before,
            after,
            own,
            seen,
            self._read(images.from_uint8(after)),
            mouth.landmarks(driver),
            tuple(self.parts),
        )

    def _seen(self, person: Located, photo: Photo) -> align.Landmarks | None:
        """What dlib finds of a changed face, in `LOOK` pixels of the aligned square."""
        found = self.detector.upright(_cut(person, photo))
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
        return verdict.astray(found, read)

    def _read(self, drawn: Drawn) -> align.Landmarks:
        return np.asarray(_marks(self.reader, jnp.asarray(drawn)[None])[0], np.float64)

    def _found(self, drawn: Drawn) -> align.Landmarks | None:
        picture = images.to_uint8(np.asarray(drawn))
        large = cv2.resize(picture, (LOOK, LOOK), interpolation=cv2.INTER_CUBIC)
        found = self.detector.upright(large)
        if not found:
            return None
        return align.transform(align.whole_square(len(picture), LOOK), found[0])


def _check_colours(photo: Photo, faces: Sequence[detect.Face]) -> None:
    """ValueError if every face is far bluer than red: channels in the other order."""
    blue = []
    for face in faces:
        (left, top), (right, bottom) = (
            np.rint(c).astype(int) for c in (face.box[:2], face.box[2:])
        )
        inside = photo[max(top, 0) : bottom + 1, max(left, 0) : right + 1].reshape(-1, 3)
        blue.append(float(np.median(inside[:, 2].astype(int) - inside[:, 0])))
    if blue and min(blue) > BLUE:
        raise ValueError(
            "its faces are bluer than red, as if its channels were BGR (as OpenCV reads files): "
            "give RGB, such as picture[..., ::-1]; a photo in blue light give as a file"
        )


def _cut(person: Located, photo: Photo) -> UInt8[np.ndarray, "size size 3"]:
    """A face's aligned square in a photo of the person, `LOOK` pixels a side."""
    return images.to_uint8(align.cut(photo, person.crop.at(LOOK), LOOK))


def _short(moved: Goal, seen: align.Landmarks) -> align.Landmarks:
    """What a mouth lacks to where it should be, as it is seen; 0 for all else.

    What is seen of moved pixels is not where they were moved to: a landmarker expects whole faces.
    """
    eyes = align.eye_distance(moved.own)
    lack = moved.new - seen
    lack = lack - lack[expression.ANCHORS].mean(0)
    # As a whole, for single points are not seen so exactly: shifted, stretched, and curved.
    x, y = ((moved.new[48:] - moved.new[48:].mean(0)) / eyes).T
    terms = np.stack([np.ones_like(x), x, y, x**2], axis=1)
    smooth = terms @ np.linalg.lstsq(terms, lack[48:], rcond=None)[0]
    found = np.zeros_like(lack)
    found[48:] = np.clip(AGAIN * smooth, -MOST * eyes, MOST * eyes)
    return found


@jax.jit
def _sure(reading: Reader, drawn: Images) -> tuple[Array, Array]:
    return reading.marks(drawn), reading.network.spread(drawn)


@jax.jit
def _marks(reading: Reader, drawn: Images) -> Float[Array, "batch 68 2"]:
    return reading.marks(jnp.clip(drawn, -1, 1))
