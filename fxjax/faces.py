"""Faces of photos as an engine gets them, and changed ones put back into their photos."""

from collections.abc import Sequence

import cv2
import numpy as np

from fxjax import align, detail, detect, images
from fxjax.transfer_types import Located, Picture, Pixels

SIDE = 256  # pixels at which a changed face is looked at for its new landmarks


class Faces:
    """What engines share. `resolution`: pixels of an aligned face; `detector` may be shared.

    `parts` of a face (of `align.PARTS`) are what changes in a photo; ValueError for others.
    """

    def __init__(
        self,
        resolution: int,
        detector: detect.Detector | None,
        *,
        parts: Sequence[str],
        poisson: bool,
        skin: float = 1.0,
    ):
        align.check_parts(parts)
        self.resolution, self.parts = resolution, parts
        self.poisson, self.skin = poisson, skin
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
        before: detail.Drawn,
        new: detail.Drawn,
        driver: detail.Source | None = None,
    ) -> Pixels:
        """The photo with the difference from `before` to `new`, both in [-1, 1], in its face.

        With a `driver`, the new face is laid on the person's, and both photos lend what these
        pictures lack (`fxjax.detail`). A gray photo stays gray.
        """
        marks, found = [person.landmarks], self._found(new)
        if found is not None:  # or else the person's own landmarks will do
            if driver is not None:
                first = self._found(before)
                both = (person.in_crop() if first is None else first, found)
                source = detail.Source(person, before)
                before, new, found = detail.fitted(source, new, driver, both, parts=self.parts)
            marks.append(align.transform(person.crop.photo_from_crop, found))
        changed = align.blend(
            person.photo,
            new,
            before,
            person.crop.at(len(new)),
            np.stack(marks),
            parts=self.parts,
            skin=self.skin,
            poisson=self.poisson,
        )
        return images.gray(changed) if images.is_gray(person.photo) else changed

    def _found(self, drawn: detail.Drawn) -> align.Landmarks | None:
        """The landmarks of a drawn face in its pixels, None if none is found there."""
        picture = images.to_uint8(np.asarray(drawn))
        large = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        try:
            found = detect.choose(self.detector(large))[0].landmarks
        except ValueError:
            return None
        return align.transform(align.whole_square(len(picture), SIDE), found)
