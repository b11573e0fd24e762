"""A code moved towards an expression, beside the person who is kept.

    argmin_u E(g(v + u)) + a A(g(v + u)) + p P(g(v + u)) + m M(g(v + u)) + r mean(u^2)

over the whitened offsets u of a few rows. E: how far the expression read of the drawing is from the
wish, 1 for no change; A: the inversion's loss to the person's own drawing outside eyes, brows and
mouth; P: change of pose; M, in the first half: how far the mouth's landmarks are from where a face
model takes them, which leads out of a plateau of E. The reader sees each drawing twice, a little
moved and enlarged and with noise, or it would be fooled. All starts are searched at once, each on
its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fxjax import sharding
from fxjax.codes import invert, mix
from fxjax.faces.expression import ANCHORS, TURN
from fxjax.losses import Embedding, Loss
from fxjax.types import Codes, Images

MOUTH = np.arange(48, 68)
MOVED, ZOOMED, NOISE = 3.0, 0.05, 0.06  # how views differ: pixels of 128, share, deviation
VIEWS = 2
PART = 20  # steps between reports of progress
LAST = 5  # steps over whose figures a search is judged
FIGURES = ("expression", "appearance", "pose", "prior")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search. Hashable: a change compiles anew.

    `first` to `last` are the rows that move; the weights are those of A, P, M and of
    the offsets' mean square.
    """

    steps: int = 60
    rate: float = 0.06
    first: int = mix.DECIDE[0]
    last: int = mix.DECIDE[1]
    appearance: float = 2.0
    pose: float = 0.1
    lead: float = 1.0
    prior: float = 0.1


class Aim(NamedTuple):
    """What is searched for, against the drawing of the person's own code.

    `marks` and `lead` are the landmarks of the mouth that the face model wants, and how much the
    square of each distance counts; in pixels of the drawing.
    """

    own: Codes
    outputs: Float[Array, " outputs"]
    coefficients: Float[Array, " coefficients"]
    counts: Float[Array, " coefficients"]
    marks: Float[Array, "20 2"]
    lead: Float[Array, ""]
    goal: Embedding


class Place(NamedTuple):
    """Where the searches are: offsets, the optimiser's moments, steps done."""

    offsets: Codes
    moments: Any
    step: Int[Array, ""]


class Refined(NamedTuple):
    """Codes of the walk, one for each start, and their E, A, P and mean square at the end."""

    codes: Codes
    figures: Float[np.ndarray, "starts 4"]

    def order(self, settings: Settings) -> Int[np.ndarray, " starts"]:
        """Places of the starts, best first; of equal ones the first."""
        weights = [1.0, settings.appearance, settings.pose, settings.prior]
        return np.argsort(self.figures @ weights, kind="stable")

    def named(self) -> list[dict[str, float]]:
        """Each one's figures by name."""
        return [dict(zip(FIGURES, row, strict=True)) for row in self.figures.tolist()]


def anchored(marks: Float[Array, "batch 68 2"]) -> Float[Array, "batch 20 2"]:
    """Where a mouth is, less nose and eye corners, which do not move with an expression."""
    return marks[:, MOUTH] - marks[:, ANCHORS].mean(axis=1, keepdims=True)


def refine(
    walk: Any,
    loss: Loss,
    reader: Any,
    aim: Aim,
    starts: Codes,
    settings: Settings,
    progress: Callable[[float], None] | None = None,
) -> Refined:
    """Searches from every start, codes of `walk` (`whiten.Whitened`); the aim's `own` is one.

    Only rows `first` to `last` of a start count, the others are the person's.
    """
    free = np.zeros((starts.shape[1], 1), np.float32)
    free[settings.first : settings.last + 1] = 1
    offsets = (starts - aim.own) * free
    place = Place(offsets, _adam(settings).init(offsets), jnp.zeros((), jnp.int32))
    figures = []
    for done in range(0, settings.steps, PART):
        count = min(PART, settings.steps - done)
        models = walk, loss, reader, aim
        place, some = sharding.each(advance, models, (place,), settings, count)
        figures.append(np.asarray(some))
        if progress is not None:
            progress((done + count) / settings.steps)
    last = np.concatenate(figures, axis=1)[:, -LAST:].mean(axis=1)
    return Refined(aim.own + place.offsets * free, last)


def _adam(settings: Settings) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(settings.rate, settings.steps))


@functools.partial(jax.jit, static_argnames=("settings", "count"))
def advance(
    walk: Any,
    loss: Loss,
    reader: Any,
    aim: Aim,
    place: Place,
    settings: Settings,
    count: int,
) -> tuple[Place, Float[Array, "starts count 4"]]:
    """Some steps more, and the figures before each of them."""
    rows, starts = place.offsets.shape[1], place.offsets.shape[0]
    free = jnp.zeros((rows, 1)).at[settings.first : settings.last + 1].set(1.0)
    size = jnp.sum(aim.counts * (aim.coefficients - aim.outputs[: len(aim.counts)]) ** 2)
    goal = jax.tree.map(lambda a: jnp.broadcast_to(a, (starts, *a.shape[1:])), aim.goal)

    def objective(offsets: Codes, step: Array) -> tuple[Array, Array]:
        pictures = invert.draw(walk, aim.own + offsets * free, remat=False)
        marks = reader.marks(_views(pictures, step))
        read = reader.outputs(marks)
        mean = lambda values: jnp.mean(values.reshape(VIEWS, starts), axis=0)
        n = len(aim.counts)
        e = mean(jnp.sum(aim.counts * (read[:, :n] - aim.coefficients) ** 2, axis=1)) / size
        a = loss.distance(loss.embed(pictures), goal)
        p = mean(jnp.sum(((read[:, n:] - aim.outputs[n:]) / TURN) ** 2, axis=1))
        m = mean(jnp.sum((anchored(marks) - aim.marks) ** 2, axis=(1, 2))) * aim.lead
        prior = jnp.sum(jnp.mean((offsets * free) ** 2, axis=2), axis=1) / jnp.sum(free)
        lead = jnp.where(step < settings.steps // 2, settings.lead, 0.0)
        total = e + settings.appearance * a + settings.pose * p + lead * m + settings.prior * prior
        return jnp.sum(total), jnp.stack([e, a, p, prior], axis=1)

    def step(place: Place, _: None) -> tuple[Place, Array]:
        slope, figures = jax.grad(objective, has_aux=True)(place.offsets, place.step)
        updates, moments = _adam(settings).update(slope, place.moments)
        offsets: Any = optax.apply_updates(place.offsets, updates)
        return Place(offsets, moments, place.step + 1), figures

    place, figures = jax.lax.scan(step, place, length=count)
    return place, jnp.swapaxes(figures, 0, 1)


def _views(pictures: Images, step: Array) -> Float[Array, "views _ _ 3"]:
    """Each picture moved, enlarged and with noise, all alike; then all of them in other ways."""
    size = pictures.shape[1]

    def view(key: Array) -> Images:
        where, zoom, noise = jax.random.split(key, 3)
        most = MOVED * size / 128
        scale = 1 + jax.random.uniform(zoom, minval=-ZOOMED, maxval=ZOOMED)
        shift = jax.random.uniform(where, (2,), minval=-most, maxval=most)
        shift = shift + size / 2 * (1 - scale)  # the middle stays
        moved = jax.image.scale_and_translate(
            pictures, pictures.shape, (1, 2), jnp.ones(2) * scale, shift, "linear", antialias=False
        )
        return moved + NOISE * jax.random.normal(noise, pictures.shape[1:])

    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), VIEWS)
    return jnp.concatenate([view(key) for key in keys])
