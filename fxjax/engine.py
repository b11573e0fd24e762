"""Expression transfer: two photos in, the first with the second's expression out.

Composition only (arXiv:1912.06253): detect, align, invert both faces, rank the masks that mix
their codes row by row, draw the best, put it back into the first photo. Each step can be called on
its own; `transfer` calls them all.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from fxjax import align, detect, images, invert, losses, mix, score, search, zoo
from fxjax.nn.generator import Generator, synthesize
from fxjax.nn.vgg16 import VGG16
from fxjax.transfer_types import Located, Picture, Pixels, Progress, Ranked, Settings, Transfer
from fxjax.types import Code, Codes, Images
from fxjax.zoo import load

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3")  # of the inversion's loss
RESCORED = 64  # masks that are scored again at full size
CHUNK = 25  # inversion steps between reports of progress
POSE = 3  # rows 0 to 2, up to 8 pixels, carry the pose


class Engine:
    """Models and settings, ready for many transfers.

    `model` and `features` are names of shipped models or model folders; features are those in the
    generator's folder, or else the shipped ones, unless given. `detector` may be shared. Raises
    FileNotFoundError or ValueError for models that are not there or do not fit.
    """

    def __init__(
        self,
        model: epath.PathLike = "faces",
        features: epath.PathLike | None = None,
        settings: Settings | None = None,
        *,
        detector: detect.Detector | None = None,
    ):
        self.settings = Settings() if settings is None else settings
        self.generator: Any = load(model, part="generator")
        self.features: VGG16 = load(
            zoo.features_of(model) if features is None else features, part="features"
        )
        self._detector = detector
        count = len(self.generator.rows)
        if self.settings.mask is not None and len(self.settings.mask) != count:
            raise ValueError(
                f"a mask of {len(self.settings.mask)} bits: this model has {count} rows"
            )
        self.groups = mix.free_rows(0, count - 1)
        if self.settings.rows is not None:
            mix.check_groups(self.settings.rows, count)
            self.groups = self.settings.rows
        if self.settings.keep_pose:
            self.groups = tuple(group for group in self.groups if min(group) >= POSE)
            if not self.groups:
                raise ValueError(f"keeping the pose leaves no row to search: all are below {POSE}")
        mean = _draw(self.generator, invert.mean_codes(self.generator, 1))
        self.loss = losses.Sum(
            [losses.balanced(self.features, LAYERS, mean), losses.Pixels()], (1.0, 1.0)
        )
        self.judge = score.Judge(
            losses.balanced(self.features, ("block3_conv3",), mean),
            losses.balanced_gram(self.features, mean),
        )

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
            faces = detect.choose(self.detector(pixels), face)
            return [
                Located(pixels, f.landmarks, align.align(pixels, f.landmarks, self.resolution))
                for f in faces
            ]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    @property
    def resolution(self) -> int:
        """The side of the generator's pictures in pixels."""
        return self.generator.resolution

    def encode(
        self,
        faces: Sequence[Located],
        start: Codes | None = None,
        progress: Progress | None = None,
    ) -> invert.Inversion:
        """The W+ codes of aligned faces, from the mean or from given codes, all in one batch."""
        targets = jnp.asarray(np.stack([face.crop.image for face in faces]))
        settings = invert.Settings(
            steps=self.settings.steps, rate=self.settings.rate, pull=self.settings.pull
        )
        first = invert.mean_codes(self.generator, len(faces)) if start is None else start
        goal = _embed(self.loss, targets)
        place = invert.begin(self.generator, first, settings)
        curves = []
        for done in range(0, settings.steps, CHUNK):
            count = min(CHUNK, settings.steps - done)
            place, part = invert.advance(
                self.generator, self.loss, goal, first, place, settings, count
            )
            curves.append(part)
            if progress is not None:
                jax.block_until_ready(part)
                progress("inversion", (done + count) / settings.steps)
        codes = invert.codes_of(place, first, settings)
        return invert.Inversion(codes, jnp.concatenate(curves, axis=1))

    def draw(self, codes: Codes) -> Images:
        """The generator's pictures, [-1, 1]."""
        return _draw(self.generator, codes)

    def scores(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        progress: Progress | None = None,
    ) -> Float[np.ndarray, "masks 2"] | None:
        """Both losses of all masks at the score's size, by number; None if the two are alike."""
        goals = self._goals(self.settings.score_size, person, driver, faces)
        if score.alike(goals):
            return None
        return search.exhaustive(
            self.generator,
            person,
            driver,
            goals,
            groups=self.groups,
            progress=None if progress is None else lambda done, of: progress("masks", done / of),
        )

    def rank(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        progress: Progress | None = None,
    ) -> Ranked | None:
        """All masks of a pair of codes, best first; None if their pictures are alike.

        If the score's size is less than the generator's, the best 64 are scored again in full.
        """
        found = self.scores(person, driver, faces, progress)
        if found is None:
            return None
        exact = len(found)
        if self.settings.score_size < self.resolution:
            exact = min(RESCORED, len(found))
            best, rest = np.split(self.order(found), [exact])
            masks = mix.masks_of(self.groups, len(person), best.tolist())
            goals = self._goals(self.resolution, person, driver, faces)
            again = search.rescore(self.generator, person, driver, goals, masks)
            found = found.copy()
            found[best] = again
            return self.ranked(found, np.concatenate([best[self.order(again)], rest]), exact)
        return self.ranked(found, self.order(found), exact)

    def ranked(
        self, found: Float[np.ndarray, "masks 2"], order: Int[np.ndarray, " masks"], exact: int
    ) -> Ranked:
        """Losses of all masks by number, put into an order."""
        rows = len(self.generator.rows)
        best = found[order]
        return Ranked(
            mix.masks_of(self.groups, rows, order.tolist()),
            best[:, 0],
            best[:, 1],
            search.total(best, self.settings.weight),
            mix.pareto(found)[order],
            exact,
        )

    def order(self, found: Float[np.ndarray, "masks 2"]) -> Int[np.ndarray, " masks"]:
        """Numbers of masks from the least score E + weight * A to the largest."""
        return np.argsort(search.total(found, self.settings.weight), kind="stable")

    def _goals(
        self, size: int, person: Code, driver: Code, faces: tuple[Located, Located]
    ) -> score.Goals:
        pictures = self.draw(jnp.stack([person, driver]))
        judge = self.judge.at(min(size, self.resolution))
        return score.goals(judge, pictures[:1], pictures[1:], self._regions(faces))

    def _regions(self, faces: tuple[Located, Located]) -> losses.Weights:
        """What of a picture counts as its expression: the eyes, brows and mouths of both."""
        parts = [
            np.max(align.region_masks(face.in_crop(), self.resolution)[:3], axis=0)
            for face in faces
        ]
        weights = self.settings.elsewhere + np.max(parts, axis=0)
        return jnp.asarray(weights[None], jnp.float32)

    def apply(self, person: Located, own: Images, new: Images) -> tuple[Pixels, Pixels]:
        """The photo with its changed face, and that face as the generator draws it.

        `own` and `new` [1, size, size, 3] are the generator's pictures of the person before and
        after.
        """
        face = images.to_uint8(np.asarray(new[0]))
        marks = person.landmarks[None]
        try:
            side = 256
            large = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
            found = detect.choose(self.detector(large))[0].landmarks
            back = person.crop.photo_from_crop @ align.whole_square(self.resolution, side)
            marks = np.stack([person.landmarks, align.transform(back, found)])
        except ValueError:
            pass  # no face is found in it: the person's own landmarks will do
        photo = align.blend(
            person.photo,
            np.asarray(new[0]),
            np.asarray(own[0]),
            person.crop.photo_from_crop,
            marks,
            poisson=self.settings.poisson,
        )
        return photo, face

    def pair(
        self,
        person: Located,
        driver: Located,
        codes: Codes,
        *,
        mask: Bool[np.ndarray, " rows"] | None = None,
        curves: Float[np.ndarray, "2 steps"] | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        """A transfer between two faces whose codes [2, rows, dim] are known.

        `mask` is applied without a search; `curves` are the inversions' losses, to be kept.
        """
        seconds, began = {}, time.monotonic()
        given = mask if self.settings.mask is None else np.array(self.settings.mask)
        ranked, alike = None, False
        if given is None:
            ranked = self.rank(codes[0], codes[1], (person, driver), progress)
            alike = ranked is None
            given = np.zeros(codes.shape[1], bool) if ranked is None else ranked.masks[0]
        seconds["masks"], began = time.monotonic() - began, time.monotonic()
        mixed = mix.blended(codes[0], codes[1], jnp.asarray(given), self.settings.strength)
        pictures = self.draw(jnp.concatenate([codes, mixed[None]]))
        photo, face = self.apply(person, pictures[:1], pictures[2:])
        seconds["put back"] = time.monotonic() - began
        return Transfer(
            photo,
            face,
            person,
            driver,
            images.to_uint8(np.asarray(pictures[:2])),
            np.concatenate([np.asarray(codes), np.asarray(mixed)[None]]),
            given,
            ranked,
            alike,
            np.zeros((2, 0), np.float32) if curves is None else curves,
            seconds,
        )

    def __call__(
        self,
        appearance: Picture,
        expression: Picture,
        *,
        face: str = "largest",
        driver_face: str = "largest",
        progress: Progress | None = None,
    ) -> list[Transfer]:
        """A transfer for each chosen face of `appearance`.

        Their changes add up: the last one's `image` has them all. Raises ValueError if a photo
        has no such face or cannot be read.
        """
        began = time.monotonic()
        people = self.locate(appearance, face)
        drivers = self.locate(expression, driver_face)
        if len(drivers) != 1:
            raise ValueError(f"{len(drivers)} faces are chosen to drive; choose one")
        found, inverting = time.monotonic() - began, time.monotonic()
        faces = [*people, *drivers]
        inversion = self.encode(faces, progress=progress)
        losses = np.asarray(inversion.losses)
        inverted = time.monotonic() - inverting
        results: list[Transfer] = []
        for i, person in enumerate(people):
            if results:  # goes on where the last one ended
                person = dataclasses.replace(person, photo=results[-1].image)
            both = inversion.code[jnp.array([i, -1])]
            result = self.pair(person, drivers[0], both, curves=losses[[i, -1]], progress=progress)
            seconds = {"faces": found, "inversion": inverted} | result.seconds
            results.append(
                dataclasses.replace(
                    result,
                    person=dataclasses.replace(person, photo=people[i].photo),
                    seconds=seconds,
                )
            )
        return results


def transfer(
    appearance: Picture,
    expression: Picture,
    model: epath.PathLike = "faces",
    *,
    features: epath.PathLike | None = None,
    face: str = "largest",
    settings: Settings | None = None,
) -> Transfer:
    """The photo `appearance` with the expression of the photo `expression`.

    Both are RGB uint8 [height, width, 3] of any size, or files. Of the first, the `face` is
    changed ("all" changes all, and the last one's result is returned). For many pairs make an
    `Engine` once. Raises ValueError if no face is found, FileNotFoundError for a missing file.
    """
    return Engine(model, features, settings)(appearance, expression, face=face)[-1]


@jax.jit
def _draw(generator: Generator, codes: Codes) -> Images:
    return synthesize(generator, codes)


@jax.jit
def _embed(loss: Any, targets: Images) -> Any:
    return loss.embed(targets)
