"""Faces of photos as an engine gets them, and changed ones put back into their photos."""

from collections.abc import Sequence

import cv2
import numpy as np

from fxjax import align, detect, images
from fxjax.faces import back
from fxjax.faces.folds import Drawn
from fxjax.transfer_types import Located, Picture
from fxjax.types import Photo

SIDE = 256  # pixels at which a drawing is looked at for its landmarks


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
    ):
        align.check_parts(parts)
        self.resolution, self.parts = resolution, parts
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

        A drawing in which no face is found moves nothing.
        """
        first = self.marks(before)
        second = None if first is None else self.marks(after)
        if first is None or second is None:
            size = len(person.crop.image), len(np.asarray(before))
            place = align.whole_square(size[1], size[0])
            first = second = align.transform(place, person.in_crop())
        both = np.stack([first, second])
        return back.put_back(person, driver, before, after, both, parts=self.parts, amount=amount)

    def marks(self, drawn: Drawn) -> align.Landmarks | None:
        """The landmarks of a drawn face in its pixels, None if none is found there."""
        picture = images.to_uint8(np.asarray(drawn))
        large = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        try:
            found = detect.choose(self.detector(large))[0].landmarks
        except ValueError:
            return None
        return align.transform(align.whole_square(len(picture), SIDE), found)
