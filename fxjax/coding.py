"""Faces as codes of a generator: inverted, drawn, tuned to, and moved towards an expression."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fxjax.codes import invert, pivotal, refine, whiten
from fxjax.faces import align, expression, goal, model, mouth, reader
from fxjax.faces.located import Faces
from fxjax.nn.generator import Generator, synthesize
from fxjax.transfer_types import Located, Progress, Settings
from fxjax.types import Code, Codes, Images

CHUNK = 25  # inversion steps between reports of progress
TUNING_RATE = 1e-3  # of pivotal tuning, before equalising
AT_ONCE = 2**22  # pixels that are inverted or drawn together: 4 faces of 1024 px take 6.4 GiB


class Coding(Faces):
    """What an engine knows of codes. It has a `generator`, its `walk`, a `loss` and `settings`."""

    generator: Any
    walk: Any
    loss: Any
    settings: Settings

    def encode(
        self,
        faces: Sequence[Located],
        start: Codes | None = None,
        progress: Progress | None = None,
    ) -> invert.Inversion:
        """The codes of aligned faces, all rows alike, from the mean or from given codes.

        Searched in whitened W (`fxjax.codes.whiten`), where rows of two codes mix.
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
