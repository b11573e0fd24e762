"""What goes into a transfer and what comes out of it."""

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image as Pillow

from fxjax.codes import mix
from fxjax.faces import align
from fxjax.faces.preflight import COVERED
from fxjax.faces.verdict import Verdict
from fxjax.images import Cutout, cut_out, to_uint8
from fxjax.nn.generator import Generator
from fxjax.types import Photo

Pixels = UInt8[np.ndarray, "_ _ 3"]
"""RGB bytes, where one function sees pictures of several sizes."""

Picture = Any
"""What `fxjax.images.read` takes: a file, its bytes, or an array of pixels."""

Progress = Callable[[str, float], None]
"""Called with a step's name and how much of it is done, 0 to 1."""


def silent(step: str, share: float) -> None:
    """Tells nobody."""


Rows = mix.Groups | Literal["all"] | None
"""Groups of rows that a search may take: all rows one by one, or as the device allows (None)."""

PRESETS = {"paper": (3, 4)}  # rows that other work takes from the expression, without a search


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to transfer.

    `rows`: groups of rows that the search may take from the expression, or "all", every row on its
    own (None: all, but on a CPU, if these are more than ten, the six from 8 to 32 pixels);
    `keep_pose` leaves the rows up to 8 pixels, which carry the pose, to the person.
    `weight` is that of the appearance in the score E + weight * A: at 1 or more, taking all rows
    is no better than taking none, so that mixtures win. `strength` moves the chosen rows by 0
    (none) to 1.5 times the way to the expression's. `mask` skips the search.
    `score_size`: the pixels at which all masks are scored; if the generator's are more, the best
    64 are scored again in full. So they are with `readout`, which scores on the picture of so many
    pixels that a StyleGAN2 has after its first rows, and leaves all later rows to the person.
    `refine` steps then move the best mixture's code, and the person's own, towards the expression
    (`fxjax.codes.refine`); 0 leaves the mixture, as in the paper.
    Inversions `start` at the "mean" w, or at what the model's "encoder" or one in a folder reads.
    `pull` weighs the mean square of whitened codes, which holds them where rows mix well. `parts`
    (of eyes, brows, mouth) are what changes in the photo and counts as its expression; `elsewhere`
    is how much the rest of the face counts in the expression's loss, of 1 for these. `tuning` steps
    fit the generator's weights to the person before anything is mixed. `covered` goes on even if a
    mouth, or eyes that change, seem to be behind something, where landmarks are invented.
    """

    steps: int = 40
    start: str = "mean"
    rate: float = 0.12
    pull: float = 0.02
    rows: Rows = None
    keep_pose: bool = False
    weight: float = 1.0
    strength: float = 1.0
    mask: tuple[bool, ...] | None = None
    score_size: int = 32
    refine: int = 40
    readout: int | None = None
    parts: tuple[str, ...] = ("mouth",)
    elsewhere: float = 0.02
    tuning: int = 30
    covered: bool = False

    def __post_init__(self):
        """ValueError for what is out of range, whatever the model."""
        least = dict.fromkeys(("steps", "score_size"), (1, "1"))
        least |= dict.fromkeys(("refine", "tuning"), (0, "0 (none)"))
        least |= dict.fromkeys(("pull", "weight", "elsewhere"), (0, "0"))
        for name, (bound, word) in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name}={getattr(self, name)}: want {word} or more")
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate={self.rate}: want a learning rate above 0, such as 0.12")
        if not 0 <= self.strength <= 1.5:
            raise ValueError(f"strength={self.strength}: want 0 (none) to 1.5")
        if isinstance(self.parts, str):
            raise ValueError(f"parts={self.parts!r}: want a tuple, such as ({self.parts!r},)")
        align.check_parts(self.parts)


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Located:
    """A face in its photo: landmarks in the photo's pixels, and the aligned crop in [-1, 1].

    `cutout` is the photo with its file's alpha, if any of it is clear; `photo` has it on white.
    `faces` are how many were found in the photo, and this one is `number` from the left, from 0.
    """

    photo: Photo
    landmarks: align.Landmarks
    crop: align.Crop
    cutout: Cutout | None = None
    number: int = 0
    faces: int = 1

    def which(self, photo: str) -> tuple[str, ...]:
        """Which face of several this is, in words; none if the photo has one."""
        if self.faces == 1:
            return ()
        x, y = (self.landmarks.min(0) + self.landmarks.max(0)) / 2
        place = f"number {self.number} from the left (from 0), at {x:.0f},{y:.0f}"
        return (f"{self.faces} faces in {photo}: {place} was taken",)

    def in_crop(self) -> align.Landmarks:
        """The landmarks in the crop's pixels."""
        return align.transform(np.linalg.inv(self.crop.photo_from_crop), self.landmarks)


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Masks from best to worst, over all rows (1: the row is the expression's), and their losses.

    `expression` is 1 for the person's own face and 0 for the driver's, `appearance` the other way
    round; `score` = expression + weight * appearance. `front` marks those that no other beats in
    both. The first `exact` were scored at full size. If these are not all, `agreement` is the rank
    correlation (Spearman) of their scores before and in full; otherwise it is not a number. If
    `pushed`, taking nothing scored best though the expressions differ, and the first mask is the
    best of those that go at least half of the way (or the farthest).
    """

    masks: Bool[np.ndarray, "count rows"]
    expression: Float[np.ndarray, " count"]
    appearance: Float[np.ndarray, " count"]
    score: Float[np.ndarray, " count"]
    front: Bool[np.ndarray, " count"]
    exact: int
    agreement: float = math.nan
    pushed: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Transfer:
    """What a transfer found.

    `image` is the photo with its new expression, `face` the generator's new picture, `person` and
    `driver` the faces as found, `reconstructions` what the generator makes of the two. `codes`
    [4, rows, dim] are those of the person, of the driver, their mixture, and that which was drawn:
    the mixture refined, or the mixture. `mask` was applied (1: the row is the driver's); it was
    chosen from `ranked`, None if it was given or if the faces are `alike`: then nothing changes,
    and if that was seen before any search, there are no codes and no reconstructions. `figures`
    are what `fxjax.codes.refine` says of the code, none if it was not refined. `verdict` is what
    is wrong with the image and `warnings` what might have been, before; of several codes the first
    whose image has nothing wrong was drawn, `drawn` says which. `curves` [2, steps] are the
    inversions' losses, `seconds` the time of each step. `generator` drew the faces: it is tuned to
    the person. A face of which a part is `hidden` was left as it is beside others.
    """

    image: Photo
    face: Pixels
    person: Located
    driver: Located
    reconstructions: UInt8[np.ndarray, "pictures _ _ 3"]
    codes: Float[np.ndarray, "codes rows dim"]
    mask: Bool[np.ndarray, " rows"]
    ranked: Ranked | None
    alike: bool
    figures: dict[str, float]
    verdict: Verdict
    warnings: Verdict
    drawn: str
    curves: Float[np.ndarray, "2 steps"]
    seconds: dict[str, float]
    generator: Generator
    hidden: str = ""

    @property
    def kept(self) -> str:
        """Why nothing changed, in a line; empty if something did."""
        if self.hidden:
            return f"the {self.hidden} of this face {COVERED[self.hidden]}: it was left as it is"
        same = "the two faces have the same expression in the parts that change"
        return f"{same}: nothing was changed" if self.alike else ""

    @property
    def picture(self) -> UInt8[np.ndarray, "_ _ _"]:
        """The image to keep: with the alpha of the photo's file, if that had any."""
        return cut_out(self.image, self.person.cutout)

    def side_by_side(self, height: int = 384) -> Photo:
        """The photo, the driver's photo and the result, beside each other on white."""
        return side_by_side(self.person.photo, self.driver.photo, self.image, height)

    def __repr__(self) -> str:
        """One line: a result holds pictures and a network."""
        height, width = self.image.shape[:2]
        said = self.kept or f"{self.drawn}: {self.verdict.text}"
        return f"<Transfer {width}x{height}: {said}>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        Pillow.fromarray(self.side_by_side()).save(buffer, "PNG")
        return buffer.getvalue()


def unchanged(
    person: Located, driver: Located, warnings: Verdict, generator: Generator, *, hidden: str
) -> Transfer:
    """A transfer in which nothing was searched and nothing changes."""
    size, rows = len(person.crop.image), len(generator.rows)
    return Transfer(
        person.photo.copy(),
        to_uint8(person.crop.image),
        person,
        driver,
        np.zeros((0, size, size, 3), np.uint8),
        np.zeros((0, rows, generator.dim), np.float32),
        np.zeros(rows, bool),
        None,
        not hidden,
        {},
        Verdict((), {}),
        warnings,
        "nothing",
        np.zeros((2, 0), np.float32),
        {},
        generator,
        hidden,
    )


def side_by_side(before: Any, driver: Any, after: Any, height: int = 384) -> Photo:
    """A photo, a driver's, and the first one changed, beside each other on white."""
    tiles = [_tile(photo, height) for photo in (before, driver, after)]
    gap = np.full((height, 8, 3), 255, np.uint8)
    return np.concatenate([tiles[0], gap, tiles[1], gap, tiles[2]], axis=1)


def _tile(photo: Pixels, height: int) -> Pixels:
    width = max(1, round(photo.shape[1] * height / photo.shape[0]))
    way = cv2.INTER_AREA if height < photo.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(photo, (width, height), interpolation=way)
