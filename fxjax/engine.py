"""Expression transfer: two photos in, the first with the second's expression out.

Composition only (arXiv:1912.06253): detect, align, invert both faces, rank the masks that mix
their codes row by row, draw the best, put it back into the first photo. Each step can be called on
its own; `transfer` calls them all.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from fxjax import align, detect, images, invert, losses, mix, pivotal, score, search, whiten, zoo
from fxjax.faces.located import Faces
from fxjax.nn.generator import Generator, synthesize
from fxjax.nn.vgg16 import VGG16
from fxjax.transfer_types import Located, Picture, Pixels, Progress, Ranked, Settings, Transfer
from fxjax.types import Code, Codes, Images
from fxjax.zoo import load

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3")  # of the inversion's loss
RESCORED = 64  # masks that are scored again at full size
CHUNK = 25  # inversion steps between reports of progress
TUNING_RATE = 1e-3  # of pivotal tuning, before equalising
AT_ONCE = 2**22  # pixels that are inverted or drawn together: 4 faces of 1024 px take 6.4 GiB
POSE = 3  # rows 0 to 2, up to 8 pixels, carry the pose


class Engine(Faces):
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
        super().__init__(self.generator.resolution, detector, parts=self.settings.parts)
        self.walk = whiten.of(model, self.generator)
        count = len(self.generator.rows)
        if self.settings.mask is not None and len(self.settings.mask) != count:
            raise ValueError(
                f"a mask of {len(self.settings.mask)} bits: this model has {count} rows"
            )
        size = self.settings.score_size
        if size < self.resolution and (size < 1 or self.resolution % size):
            raise ValueError(
                f"a score size of {size} px: pictures of {self.resolution} px are averaged to a "
                "half, a quarter and so on; give one of these"
            )
        searched = self._searched()
        self.groups = mix.free_rows(0, searched - 1)
        if self.settings.rows is not None:
            mix.check_groups(self.settings.rows, searched)
            self.groups = self.settings.rows
        if self.settings.keep_pose:
            self.groups = tuple(group for group in self.groups if min(group) >= POSE)
            if not self.groups:
                raise ValueError(f"keeping the pose leaves no row to search: all are below {POSE}")
        mean = _draw(self.generator, invert.mean_codes(self.generator, 1))
        self.loss = losses.Sum(
            [losses.balanced(self.features, LAYERS, mean), losses.Pixels()], (1.0, 1.0)
        )
        content = losses.balanced(self.features, ("block3_conv3",), mean)
        style: Any = losses.balanced_gram(self.features, mean)
        if self.settings.identity_weight:
            who = losses.Perceptual(self.features, content.layers, content.scales)
            style = score.Kept([style, who], (1.0, self.settings.identity_weight))
        self.judge = score.Judge(content, style)

    @property
    def approximate(self) -> bool:
        """Whether masks are scored on less than the full picture, so that the best are rescored."""
        return self.settings.score_size < self.resolution or self.settings.readout is not None

    def _searched(self) -> int:
        """How many first rows can be searched. ValueError for a readout that is not there."""
        if self.settings.readout is None:
            return len(self.generator.rows)
        if not hasattr(self.generator, "at"):
            raise ValueError(
                f"a readout at {self.settings.readout} px: this generator has no earlier pictures, "
                "as StyleGAN2 does; leave it out"
            )
        return len(self.generator.at(self.settings.readout).rows)

    def encode(
        self,
        faces: Sequence[Located],
        start: Codes | None = None,
        progress: Progress | None = None,
    ) -> invert.Inversion:
        """The codes of aligned faces, all rows alike, from the mean or from given codes.

        Searched in whitened W (`fxjax.whiten`), where rows of two codes mix.
        """
        parts, count = [], len(faces)
        first = invert.mean_codes(self.walk, count)
        if start is not None:
            first = whiten.mean_codes(self.walk, start)
        for some in self._chunks(count):
            size = len(faces[some])
            report = None if progress is None else _part(progress, some.start, size, count)
            parts.append(self._encode(faces[some], first[some], report))
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    def _encode(
        self, faces: Sequence[Located], first: Codes, progress: Progress | None
    ) -> invert.Inversion:
        targets = jnp.asarray(np.stack([face.crop.image for face in faces]))
        settings = invert.Settings(
            steps=self.settings.steps,
            rate=self.settings.rate,
            pull=self.settings.pull,
            space="w",
        )
        goal = _embed(self.loss, targets)
        place = invert.begin(self.walk, first, settings)
        curves = []
        for done in range(0, settings.steps, CHUNK):
            count = min(CHUNK, settings.steps - done)
            place, part = invert.advance(self.walk, self.loss, goal, first, place, settings, count)
            curves.append(part)
            if progress is not None:
                jax.block_until_ready(part)
                progress("inversion", (done + count) / settings.steps)
        codes = self.walk.w(invert.codes_of(place, first, settings))
        return invert.Inversion(codes, jnp.concatenate(curves, axis=1))

    def draw(self, codes: Codes, generator: Generator | None = None) -> Images:
        """The generator's pictures, or those of a `tuned` one, [-1, 1]."""
        chosen = self.generator if generator is None else generator
        return jnp.concatenate([_draw(chosen, codes[some]) for some in self._chunks(len(codes))])

    def _chunks(self, count: int) -> list[slice]:
        """Runs of faces that fit into memory together."""
        size = max(1, AT_ONCE // self.resolution**2)
        return [slice(k, k + size) for k in range(0, count, size)]

    def tuned(self, person: Located, code: Code) -> Generator:
        """A copy of the generator that draws the person better at their code.

        By pivotal tuning (arXiv:2106.05744); without `tuning` steps the generator itself. It serves
        all drivers.
        """
        if not self.settings.tuning:
            return self.generator
        goal = _embed(self.loss, jnp.asarray(person.crop.image[None]))
        settings = pivotal.Settings(steps=self.settings.tuning, rate=TUNING_RATE)
        found = pivotal.tune(self.generator, self.loss, goal, code[None], settings).differences
        return pivotal.apply(self.generator, {name: each[0] for name, each in found.items()})

    def scores(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        progress: Progress | None = None,
    ) -> Float[np.ndarray, "masks 2"] | None:
        """Both losses of all masks at the score's size, by number; None if the two are alike."""
        if np.array_equal(faces[0].crop.image, faces[1].crop.image):
            return None
        size, readout = self.settings.score_size, self.settings.readout
        case = self.case(person, driver, faces, size=size, readout=readout)
        if score.alike(case.goals):
            return None
        return search.exhaustive(
            case,
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

        If the score's size is less than the generator's, or there is a readout, the best 64 are
        scored again in full.
        """
        found = self.scores(person, driver, faces, progress)
        if found is None:
            return None
        order = self.order(found)
        if not self.approximate:
            return self.ranked(found, order, len(found))
        options = {"groups": self.groups, "weight": self.settings.weight, "count": RESCORED}
        best = search.refine(self.case(person, driver, faces), found, **options)
        count, found = len(best.numbers), found.copy()
        found[best.numbers] = best.scores
        ranked = self.ranked(found, np.concatenate([best.numbers, order[count:]]), count)
        return dataclasses.replace(ranked, agreement=best.agreement)

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
        return search.order(found, self.settings.weight)

    def case(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        *,
        size: int | None = None,
        readout: int | None = None,
    ) -> search.Case:
        """What masks are scored against, in full or as `search.case_of` says.

        The expression's loss sees the settings' `parts` of both faces, the features of the
        appearance's what is around the eyes, brows and mouths.
        """
        size = self.resolution if size is None else min(size, self.resolution)
        masks = [align.region_masks(face.in_crop(), self.resolution) for face in faces]
        regions = jnp.asarray(align.union(masks, self.parts)[None], jnp.float32)
        around = None
        if self.settings.identity_weight:
            around = jnp.asarray(1 - align.union(masks)[None], jnp.float32)
        weights = (self.settings.elsewhere + regions, around)
        codes = (person, driver)
        return search.case_of(
            self.generator, *codes, self.judge, *weights, size=size, readout=readout
        )

    def apply(
        self,
        person: Located,
        own: Images,
        new: Images,
        driver: Located | None = None,
        *,
        amount: float = 1.0,
    ) -> tuple[Pixels, Pixels]:
        """The photo with its changed face, and that face as the generator draws it.

        `own` and `new` [1, size, size, 3] are the generator's pictures of the person before and
        after; with a `driver` the expression goes by `amount` of the way to the driver's.
        """
        before, after = np.asarray(own[0]), np.asarray(new[0])
        face = images.to_uint8(after)
        return self.put_back(person, before, after, driver, amount=amount), face

    def pair(
        self,
        person: Located,
        driver: Located,
        codes: Codes,
        *,
        mask: Bool[np.ndarray, " rows"] | None = None,
        tuned: Generator | None = None,
        curves: Float[np.ndarray, "2 steps"] | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        """A transfer between two faces whose codes [2, rows, dim] are known.

        `mask` is applied without a search; `tuned` is the generator for this person if that is
        there already; `curves` are the inversions' losses, to be kept. Where nothing is taken from
        the driver, by a given mask or between photos that are alike, nothing changes.
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
        drawn = jnp.concatenate([codes, mixed[None]])
        if tuned is None:
            tuned = self.tuned(person, codes[0])
        pictures = self.draw(drawn, tuned)
        amount = self.settings.strength if ranked is not None or np.any(given) else 0.0
        photo, face = self.apply(person, pictures[:1], pictures[2:], driver, amount=amount)
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
            tuned,
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

        Their changes add up: each one's `person.photo` is the one before's `image`, and the last
        `image` has them all. Raises ValueError if a photo has no such face or cannot be read.
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
            results.append(dataclasses.replace(result, seconds=seconds))
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


def _part(progress: Progress, first: int, count: int, of: int) -> Progress:
    """Reports the progress of some faces as that of all."""
    return lambda step, share: progress(step, (first + share * count) / of)


@jax.jit
def _draw(generator: Generator, codes: Codes) -> Images:
    return synthesize(generator, codes)


@jax.jit
def _embed(loss: Any, targets: Images) -> Any:
    return loss.embed(targets)
