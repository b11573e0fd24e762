"""What a mask is scored by: how far its picture is from the expression and from the person.

    E(m) = De(g(m), g(s2)) / De(g(s1), g(s2)),    A(m) = Da(g(m), g(s1)) / Da(g(s2), g(s1))

g(s1) and g(s2) are the reconstructions of the person and of who shows the expression. Taking
nothing from the expression's code scores (1, 0), taking all of it (0, 1); less is better.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fxjax.losses import Embedding, Loss, Weights, shrink
from fxjax.types import Images

SAME = 1e-6
"""Distances below this are none: the two photos are the same."""


class Judge(nnx.Module):
    """Two losses as one argument: the expression's, and the appearance's.

    A feature network that serves several losses runs once per picture in a compiled program.
    """

    def __init__(self, expression: Loss, appearance: Loss):
        self.expression: Any = expression
        self.appearance: Any = appearance
        networks = [getattr(part, "features", part) for part in _parts(self)]
        self.firsts = tuple(
            next(j for j, other in enumerate(networks) if other is network) for network in networks
        )

    @property
    def size(self) -> int | None:
        """The largest picture that the losses look at, in px; None if one does not say."""
        parts = _parts(self)
        return max(part.size for part in parts) if all(hasattr(p, "size") for p in parts) else None

    def at(self, size: int) -> "Judge":
        """The same losses on pictures of at most `size` px; one that has a `least` on no less."""
        if self.size is None:
            raise ValueError("a loss without `size` cannot be taken at another size")
        judge = self._copy()
        for part in _parts(judge):
            part.size = min(part.size, max(size, getattr(part, "least", 0)))
        return judge

    def embed(self, images: Images) -> tuple[Embedding, Embedding]:
        """What the two losses see in pictures."""
        if self.size is not None:
            images = shrink(images, self.size)
        tied = self._copy()
        return tied.expression.embed(images), tied.appearance.embed(images)

    def _copy(self) -> "Judge":
        """As self; as a jit argument a network in two losses came apart and is made one again."""
        judge = nnx.merge(*nnx.split(self))
        parts = _parts(judge)
        for part, first in zip(parts, judge.firsts, strict=True):
            if part is not parts[first] and hasattr(part, "features"):
                part.features = parts[first].features
        return judge


class Balanced(nnx.Module):
    """A weighted sum of losses that count alike between two pictures, whatever their units.

    Each is divided by its distance between them, or by its floor if that is less: what hardly
    differs between the two shall not count by its noise. Losses that are not `placed` (all are by
    default) see the whole picture, whatever is weighed: a Gram matrix of weighed pixels is far from
    that of the same whole picture.
    """

    def __init__(
        self,
        losses: Sequence[Any],
        factors: Sequence[float],
        floors: Sequence[float],
        placed: Sequence[bool] | None = None,
    ):
        self.losses, self.factors, self.floors = nnx.List(losses), tuple(factors), tuple(floors)
        self.placed = (True,) * len(self.losses) if placed is None else tuple(placed)

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """What each of the losses embeds; of a goal `balance` sets the scales."""
        parts = [
            loss.embed(images, weights if placed else None)
            for loss, placed in zip(self.losses, self.placed, strict=True)
        ]
        scales = jnp.asarray(self.factors, jnp.float32)
        return {"parts": parts, "scales": jnp.tile(scales, (len(images), 1))}

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """The goal's scales times the losses' distances."""
        return jnp.sum(goal["scales"] * self._distances(embedding, goal), axis=1)

    def balance(self, goal: Embedding, far: Embedding) -> Embedding:
        """The goal with scales by which each loss is its factor at most for the other picture."""
        apart = jnp.maximum(self._distances(far, goal), jnp.asarray(self.floors, jnp.float32))
        return {**goal, "scales": jnp.asarray(self.factors, jnp.float32) / apart}

    def _distances(self, embedding: Embedding, goal: Embedding) -> Float[Array, "batch losses"]:
        pairs = zip(self.losses, embedding["parts"], goal["parts"], strict=True)
        return jnp.stack([loss.distance(a, b) for loss, a, b in pairs], axis=1)


class Goals(NamedTuple):
    """What the masks of one pair are scored against."""

    judge: Judge
    expression: Embedding
    appearance: Embedding
    expression_norm: Float[Array, ""]
    appearance_norm: Float[Array, ""]


def goals(
    judge: Judge,
    person: Images,
    expression: Images,
    weights: Weights | None = None,
    appearance_weights: Weights | None = None,
) -> Goals:
    """Embeds the two reconstructions [1, height, width, 3] and takes their distances.

    `weights` [1, height, width] stress regions (eyes, brows, mouth) in the expression's distance,
    `appearance_weights` others in the appearance's.
    """
    for name, images in {"person": person, "expression": expression}.items():
        if images.shape[0] != 1:
            raise ValueError(f"the {name} is {images.shape[0]} pictures; goals are of one pair")
    return Goals(judge, *_goals(judge, person, expression, weights, appearance_weights))


@jax.jit
def _goals(
    judge: Judge,
    person: Images,
    expression: Images,
    weights: Weights | None,
    appearance_weights: Weights | None,
) -> Any:
    near, _ = judge.embed(person)
    _, far = judge.embed(expression)
    aim = judge.expression.embed(expression, weights)
    own = judge.appearance.embed(person, appearance_weights)
    if isinstance(judge.expression, Balanced):
        aim = judge.expression.balance(aim, near)
    if isinstance(judge.appearance, Balanced):
        own = judge.appearance.balance(own, far)
    return (
        aim,
        own,
        judge.expression.distance(near, aim)[0],
        judge.appearance.distance(far, own)[0],
    )


def alike(goals: Goals) -> bool:
    """Whether the photos are the same to one of the losses: nothing can be transferred."""
    return bool(min(float(goals.expression_norm), float(goals.appearance_norm)) < SAME)


def score(goals: Goals, images: Images) -> Float[Array, "batch 2"]:
    """(E, A) of each picture, to be called inside `jax.jit`; 0 for the same photo twice."""
    batch = images.shape[0]
    wide = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (batch, *a.shape[1:])), (goals.expression, goals.appearance)
    )
    losses = (goals.judge.expression, goals.judge.appearance)
    found = zip(losses, goals.judge.embed(images), wide, strict=True)
    distances = [loss.distance(embedding, goal) for loss, embedding, goal in found]
    norms = jnp.stack([goals.expression_norm, goals.appearance_norm])
    return jnp.stack(distances, axis=1) / jnp.maximum(norms, SAME)


class Weighted(nnx.Module):
    """E + weight * A as one loss; `weighted` makes its goal."""

    def __init__(self, judge: Judge):
        self.judge = judge

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """What both losses see; the weights are in the goal."""
        return self.judge.embed(images)

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """The weighted sum of the normalised distances."""
        expression = self.judge.expression.distance(embedding[0], goal["expression"])
        appearance = self.judge.appearance.distance(embedding[1], goal["appearance"])
        return expression * goal["factors"][:, 0] + appearance * goal["factors"][:, 1]


def weighted(goals: Goals, weight: float) -> tuple[Weighted, Embedding]:
    """E + weight * A as a loss to search a code with, and its goal (a batch of one)."""
    norms = jnp.stack([goals.expression_norm, goals.appearance_norm])
    factors = jnp.asarray([1.0, weight], jnp.float32) / jnp.maximum(norms, SAME)
    goal = {"expression": goals.expression, "appearance": goals.appearance}
    return Weighted(goals.judge), {**goal, "factors": factors[None]}


def _parts(loss: Any) -> list[Any]:
    """The losses in a judge or a sum of losses, in order."""
    inner = [loss.expression, loss.appearance] if isinstance(loss, Judge) else None
    inner = getattr(loss, "losses", None) if inner is None else inner
    return [loss] if inner is None else [part for one in inner for part in _parts(one)]
