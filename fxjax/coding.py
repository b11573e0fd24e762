"""Faces as codes of a generator: inverted, drawn, tuned to, and moved towards an expression."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fxjax import images, sharding
from fxjax.codes import invert, pivotal, refine, whiten
from fxjax.faces import align, expression, goal, model, mouth, reader
from fxjax.faces.located import Faces
from fxjax.nn import encoder as encoders
from fxjax.nn.generator import Generator, drawn
from fxjax.transfer_types import Located, Progress, Settings, silent
from fxjax.types import Code, Codes, Images

CHUNK = 10  # inversion steps between reports of progress
TUNING_RATE = 3e-3  # of pivotal tuning, before equalising
AT_ONCE = 2**22  # pixels that are inverted or drawn together: 4 faces of 1024 px take 6.4 GiB


class Coding(Faces):
    """What an engine knows of codes. It has a `generator`, its `walk`, a `loss` and `settings`.

    Faces are inverted on all devices of its `mesh`, from what its `encoder` reads if it has one.
    """

    mesh: Mesh
    generator: Any
    walk: Any
    loss: Any
    encoder: Any
    settings: Settings

    def watch(self, codes: Codes) -> None:
        """Is given the codes of faces that are being inverted, every few steps; nobody looks."""

    def encode(
        self,
        faces: Sequence[Located],
        start: Codes | None = None,
        progress: Progress | None = None,
    ) -> invert.Inversion:
        """The codes of aligned faces, all rows alike, from given codes or where the settings say.

        Searched in whitened W (`fxjax.codes.whiten`), where rows of two codes mix.
        """
        count = len(faces)
        if start is None and self.encoder is not None:
            photos = np.stack([images.to_uint8(face.crop.image) for face in faces])
            start = encoders.read(self.encoder, photos)
        elif start is None:
            start = invert.mean_codes(self.generator, count)
        first, parts, done = whiten.mean_codes(self.walk, start), [], 0
        size = self._at_once() * self.mesh.size
        if sharding.one_by_one(first, self.mesh):  # as many as go side by side: progress is told
            size = min(size, sharding.cores())
        while done < count:
            some = slice(done, min(done + size, count))
            told = None if progress is None else _part(progress, done, some.stop - done, count)
            try:
                parts.append(self._encode(faces[some], first[some], told))
            except jax.errors.JaxRuntimeError as error:
                size = sharding.halved(size, error, "faces to invert", least=self.mesh.size)
                continue
            done = some.stop
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    def _encode(
        self, faces: Sequence[Located], first: Codes, progress: Progress | None
    ) -> invert.Inversion:
        targets = np.stack([face.crop.image for face in faces])
        settings = invert.Settings(
            steps=self.settings.steps,
            rate=self.settings.rate,
            pull=self.settings.pull,
            space="w",
        )
        walk, loss, mesh = *self._spread, self.mesh
        count = len(faces)
        full = count + -count % mesh.size  # so many that the devices share evenly
        both = [sharding.padded(np.asarray(each), full) for each in (targets, first)]
        targets, first = sharding.split_batch(both, mesh)

        def found(place: invert.Place) -> Codes:
            return walk.w(invert.codes_of(place, first, settings))[:count]

        def told(place: invert.Place, curves: np.ndarray) -> None:
            if progress is not None:
                progress("inversion", curves.shape[1] / settings.steps)
            self.watch(found(place))

        place, curves = invert.run(
            walk,
            loss,
            invert.embedded(loss, targets),
            first,
            settings,
            every=invert.part(settings.steps, CHUNK),
            mesh=mesh,
            told=told,
        )
        codes = jnp.asarray(np.asarray(found(place)))
        return invert.Inversion(codes, jnp.asarray(curves[:count]))

    @functools.cached_property
    def _spread(self) -> tuple[Any, Any]:
        """What inverts, on all devices."""
        return sharding.replicate((self.walk, self.loss), self.mesh)

    def draw(self, codes: Codes, generator: Generator | None = None) -> Images:
        """The generator's pictures, or those of a `tuned` one, [-1, 1]."""
        chosen = self.generator if generator is None else generator
        return drawn(chosen, codes, self._at_once())

    def _at_once(self) -> int:
        return max(1, AT_ONCE // self.resolution**2)

    def tuned(self, person: Located, code: Code, progress: Progress | None = None) -> Generator:
        """A copy of the generator that draws the person better at their code.

        By pivotal tuning (arXiv:2106.05744); without `tuning` steps the generator itself. It serves
        all drivers.
        """
        if not self.settings.tuning:
            return self.generator
        told = functools.partial(silent if progress is None else progress, "tuning")
        told(0.0)
        goal = invert.embedded(self.loss, jnp.asarray(person.crop.image[None]))
        settings = pivotal.Settings(steps=self.settings.tuning, rate=TUNING_RATE)
        tuning = pivotal.tune(self.generator, self.loss, goal, code[None], settings, told=told)
        moved = {name: each[0] for name, each in tuning.differences.items()}
        return pivotal.apply(self.generator, moved)

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
        picture = self.draw(own[None], generator)
        around = 1 - align.union([align.region_masks(person.in_crop(), self.resolution)])
        aim = _aim(
            self.loss,
            self.reader,
            picture,
            walk.v(own[None]),
            jnp.asarray(around[None], jnp.float32),
            jnp.asarray(way, jnp.float32),
            jnp.asarray(
                expression.shipped().reliability * np.where(wish.counts, 1, goal.REST), jnp.float32
            ),
        )
        move = model.shipped().move(self.marks(picture[0]), way)
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
