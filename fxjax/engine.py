"""Expression transfer: two photos in, the first with the second's expression out.

Composition only (arXiv:1912.06253): detect, align, invert both faces, rank the masks that mix
their codes row by row, refine the best, draw it, put it back into the first photo. Each step can
be called on its own; `transfer` calls them all.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float

from fxjax import (
    align,
    detect,
    expression,
    images,
    invert,
    losses,
    mix,
    pivotal,
    whiten,
    zoo,
)
from fxjax.codes import refine
from fxjax.faces import goal, model, mouth, reader
from fxjax.nn.generator import Generator, synthesize
from fxjax.nn.vgg16 import VGG16
from fxjax.ranking import Ranking
from fxjax.transfer_types import (
    Located,
    Picture,
    Pixels,
    Progress,
    Settings,
    Transfer,
    unchanged,
)
from fxjax.types import Code, Codes, Images
from fxjax.zoo import load

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3")  # of the inversion's loss
CHUNK = 25  # inversion steps between reports of progress
TUNING_RATE = 1e-3  # of pivotal tuning, before equalising
AT_ONCE = 2**22  # pixels that are inverted or drawn together: 4 faces of 1024 px take 6.4 GiB
FOOLED = 0.07  # of the eyes' distance between two landmarkers of a drawing's mouth


class Engine(Ranking):
    """Models and settings, ready for many transfers.

    `model` and `features` are names of shipped models or model folders; features are those in the
    generator's folder, or else the shipped ones, unless given. `detector` may be shared. Raises
    FileNotFoundError or ValueError for models that are not there or do not fit.
    """

    def __init__(
        self,
        model: epath.PathLike = zoo.DEFAULT,
        features: epath.PathLike | None = None,
        settings: Settings | None = None,
        *,
        detector: detect.Detector | None = None,
    ):
        self.settings = Settings() if settings is None else settings
        self.generator: Any = load(model, part="generator")
        self.features: VGG16 = load(
            zoo.holder(model, "features") if features is None else features, part="features"
        )
        reading = reader.load(model)
        super().__init__(self.generator.resolution, detector, reading, parts=self.settings.parts)
        self.walk = whiten.of(model, self.generator)
        mean = _draw(self.generator, invert.mean_codes(self.generator, 1))
        size = losses.feature_size(self.generator.resolution)
        coarse = losses.balanced(self.features, LAYERS, mean, size=size)
        self.loss = losses.Sum([coarse, losses.Pixels()], (1.0, 1.0))
        self.prepare(mean)

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

    def hidden(self, face: Located) -> bool:
        """Whether the mouth is to change and seems to be covered, and the settings mind that."""
        return "mouth" in self.parts and not self.settings.covered and self.covered(face)

    def check_seen(self, people: Sequence[Located], drivers: Sequence[Located]) -> None:
        """ValueError if one of their mouths is hidden: nothing can be read or drawn there."""
        named = [("face that changes", face) for face in people] + [("driver", f) for f in drivers]
        for who, face in named:
            if self.hidden(face):
                raise ValueError(
                    f"the mouth of the {who} seems to be covered, so its expression cannot be seen:"
                    " take another photo, leave the mouth out of the parts that change, or go on "
                    "all the same (--covered)"
                )

    def wish(self, person: Located, driver: Located) -> goal.Wish:
        """What the driver's photo asks of the person's expression, in the parts that change."""
        return goal.wish(mouth.landmarks(person), mouth.landmarks(driver), self.parts)

    def refined(
        self,
        person: Located,
        driver: Located,
        own: Code,
        starts: Codes,
        tuned: Generator | None = None,
        progress: Progress | None = None,
        steps: int | None = None,
    ) -> refine.Refined:
        """Codes moved from `starts` towards the driver's expression, best first.

        `own` is the person's code; `steps` are the settings' unless given. For the mouth alone:
        eyes and brows are moved by a face model (`fxjax.faces.goal`).
        """
        settings = refine.Settings(steps=self.settings.refine if steps is None else steps)
        generator = self.generator if tuned is None else tuned
        walk = self.walk.of(generator)
        wish = goal.wish(mouth.landmarks(person), mouth.landmarks(driver), ("mouth",))
        way = goal.AMOUNT * self.settings.strength * wish.share * wish.way
        drawn = self.draw(own[None], generator)
        around = 1 - align.union([align.region_masks(person.in_crop(), self.resolution)])
        aim = _aim(
            self.loss,
            self.reader,
            drawn,
            walk.v(own[None]),
            jnp.asarray(around[None], jnp.float32),
            jnp.asarray(way, jnp.float32),
            jnp.asarray(
                expression.shipped().reliability * np.where(wish.counts, 1, goal.REST), jnp.float32
            ),
        )
        move = model.shipped().move(self.marks(drawn[0]), way)
        move = (move - move[expression.ANCHORS].mean(0))[refine.MOUTH]
        aim = aim._replace(
            marks=aim.marks + jnp.asarray(move, jnp.float32),
            lead=jnp.float32(1 / max(float(np.sum(move**2)), 1.0)),
        )
        report = None if progress is None else lambda share: progress("refinement", share)
        found = refine.refine(walk, self.loss, self.reader, aim, walk.v(starts), settings, report)
        order = found.order(settings)
        return refine.Refined(walk.w(found.codes[order]), found.figures[order])

    def apply(
        self,
        person: Located,
        own: Images,
        new: Images,
        driver: Located | None = None,
        *,
        amount: float = 1.0,
        carry: bool = True,
    ) -> tuple[Pixels, Pixels]:
        """The photo with its changed face, and that face as the generator draws it.

        `own` and `new` [1, size, size, 3] are the generator's pictures of the person before and
        after; with a `driver` the expression goes by `amount` of the way to the driver's, by a face
        model where the drawing stops, if it shall `carry` on.
        """
        before, after = np.asarray(own[0]), np.asarray(new[0])
        face = images.to_uint8(after)
        return self.put_back(person, before, after, driver, amount=amount, carry=carry), face

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
        if tuned is None:
            tuned = self.tuned(person, codes[0])
        seconds["tuning"], began = time.monotonic() - began, time.monotonic()
        given = mask if self.settings.mask is None else np.array(self.settings.mask)
        ranked, alike = None, False
        if given is None:
            ranked = self.rank(codes[0], codes[1], (person, driver), progress, tuned)
            alike = ranked is None
            given = np.zeros(codes.shape[1], bool) if ranked is None else ranked.masks[0]
        seconds["masks"], began = time.monotonic() - began, time.monotonic()
        mixed = mix.blended(codes[0], codes[1], jnp.asarray(given), self.settings.strength)
        amount = self.settings.strength if ranked is not None or np.any(given) else 0.0
        tries: list[tuple[str, Code, dict[str, float]]] = [("mixture", mixed, {})]
        if self.settings.refine and amount and "mouth" in self.parts:
            starts = jnp.stack([codes[0], mixed])
            best = self.refined(person, driver, codes[0], starts, tuned, progress)
            # one that the two landmarkers see differently fools the reader
            sound = [self.astray(one) < FOOLED for one in self.draw(best.codes, tuned)]
            found = zip(best.codes, best.named(), sound, strict=True)
            tries = [("refined", code, figures) for code, figures, whole in found if whole] + tries
        seconds["refinement"], began = time.monotonic() - began, time.monotonic()
        if amount:
            tries.append(("face model alone", codes[0], {}))
        own, done = self.draw(codes[:1], tuned), []
        for name, code, figures in tries:
            new = self.draw(code[None], tuned)
            photo, face = self.apply(person, own, new, driver, amount=amount)
            found = self.verdict(person, driver, photo)
            done.append((len(found.words), len(done), name, code, figures, photo, face, found))
            if found.good:
                break
        _, _, name, final, figures, photo, face, found = min(done, key=lambda one: one[:2])
        drawn = jnp.concatenate([codes, mixed[None], final[None]])
        pictures = self.draw(drawn[:3], tuned)
        seconds["put back"] = time.monotonic() - began
        return Transfer(
            photo,
            face,
            person,
            driver,
            images.to_uint8(np.asarray(pictures)),
            np.asarray(drawn),
            given,
            ranked,
            alike,
            figures,
            found,
            self.preflight(person, driver),
            name,
            np.zeros((2, 0), np.float32) if curves is None else curves,
            seconds,
            tuned,
        )

    def unchanged(self, person: Located, driver: Located) -> Transfer:
        """The transfer between faces whose expressions are alike in the parts that change."""
        return unchanged(person, driver, self.preflight(person, driver), self.generator)

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
        self.check_seen(people, drivers)
        found, inverting = time.monotonic() - began, time.monotonic()
        changing = [person for person in people if self.wish(person, drivers[0]).share]
        curves, codes = np.zeros((2, 0), np.float32), jnp.zeros((0, 0, 0))
        if changing:
            inversion = self.encode([*changing, *drivers], progress=progress)
            curves, codes = np.asarray(inversion.losses), inversion.code
        inverted = time.monotonic() - inverting
        results: list[Transfer] = []
        for person in people:
            place = next((i for i, one in enumerate(changing) if one is person), None)
            if results:  # goes on where the last one ended
                person = dataclasses.replace(person, photo=results[-1].image)
            if place is None:
                result = self.unchanged(person, drivers[0])
            else:
                both, losses = codes[jnp.array([place, -1])], curves[[place, -1]]
                result = self.pair(person, drivers[0], both, curves=losses, progress=progress)
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
def _aim(
    loss: Any,
    reading: reader.Reader,
    own: Images,
    code: Codes,
    around: Float[Array, "1 height width"],
    way: Float[Array, " coefficients"],
    counts: Float[Array, " coefficients"],
) -> refine.Aim:
    """What refinement is towards, but for where the mouth's landmarks go."""
    marks = reading.marks(own)
    outputs = reading.outputs(marks)[0]
    wanted = outputs[: len(way)] + way
    place, lead = refine.anchored(marks)[0], jnp.zeros(())
    return refine.Aim(code, outputs, wanted, counts, place, lead, loss.embed(own, around))


@jax.jit
def _draw(generator: Generator, codes: Codes) -> Images:
    return synthesize(generator, codes)


@jax.jit
def _embed(loss: Any, targets: Images) -> Any:
    return loss.embed(targets)
