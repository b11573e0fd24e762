"""Codes that mix: w = mean + L v, where a sample of the generator's w has rms 1 in v.

Searched freely, codes end far from where a generator was trained, and rows of two such codes do not
mix. In v a distance from the mean counts by how rare it is, so that a small pull holds a code where
the generator draws faces. Compare P-space whitening in arXiv:2012.09036.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float

from fxjax import checkpoint, zoo
from fxjax.nn import ops
from fxjax.nn.generator import Generator, State, Statistics
from fxjax.nn.layers import Average
from fxjax.types import Codes, Images

SAMPLES = 8192  # codes whose spread is taken where a model has no statistics
FLOOR = 1e-4  # of the largest variance: directions in which w hardly varies still count


class Whitened(nnx.Module):
    """A generator that reads v instead of w, so that `fxjax.codes.invert` searches v with it.

    `statistics` hold the mean and covariance of w (`fxjax.load(model, part="statistics")`).
    """

    def __init__(self, generator: Generator, statistics: Statistics):
        covariance = np.asarray(statistics.covariance[...], np.float64)
        if covariance.shape != (generator.dim, generator.dim):
            raise ValueError(
                f"statistics of {covariance.shape[0]} numbers, but the generator's codes have "
                f"{generator.dim}: they belong to different models"
            )
        values, vectors = np.linalg.eigh(covariance)
        if not values[-1] > 0:
            raise ValueError(
                "the statistics say that w never varies: this model cannot be whitened"
            )
        deviations = np.sqrt(np.maximum(values, FLOOR * values[-1]))
        self.generator: Any = generator
        self.resolution, self.dim = generator.resolution, generator.dim
        self.latent, self.labels = generator.latent, generator.labels
        self.centre = Average(jnp.asarray(statistics.mean[...], jnp.float32))
        self.spread = Average(jnp.asarray(vectors * deviations, jnp.float32))
        self.gather = Average(jnp.asarray((vectors / deviations).T, jnp.float32))
        self.w_mean = Average(jnp.zeros((generator.dim,), jnp.float32))

    def of(self, generator: Generator) -> "Whitened":
        """The same codes, drawn by another generator, such as a tuned one."""
        other = nnx.merge(*nnx.split(self))
        other.generator = generator
        return other

    def w(self, v: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Codes of the generator itself."""
        return _w(self.centre[...], self.spread[...], v)

    def v(self, w: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """What `w` undoes."""
        return ops.matmul(w - self.centre[...], self.gather[...].T)

    @property
    def mapping(self) -> Callable[..., Float[Array, "batch dim"]]:
        """Maps z and labels to v."""
        return lambda z, labels: self.v(self.generator.mapping(z, labels))

    @property
    def rows(self) -> Sequence[Callable[[State, Float[Array, "batch dim"]], State]]:
        """The generator's rows."""
        place = self.centre[...], self.spread[...]
        return [jax.tree_util.Partial(_apply, *place, row) for row in self.generator.rows]

    def start(self, batch: int) -> State:
        """The state before row 0."""
        return self.generator.start(batch)

    def shrunk(self, state: State, shrink: Callable[[Any], Any]) -> State:
        """See `fxjax.nn.generator.Generator`."""
        return self.generator.shrunk(state, shrink)

    def image(self, state: State) -> Images:
        """The picture after the last row."""
        return self.generator.image(state)


def _w(
    centre: Float[Array, " dim"], spread: Float[Array, "dim dim"], v: Float[Array, "*batch dim"]
) -> Float[Array, "*batch dim"]:
    return centre + ops.matmul(v, spread.T)


def _apply(
    centre: Float[Array, " dim"],
    spread: Float[Array, "dim dim"],
    row: Callable[..., State],
    state: State,
    v: Float[Array, "batch dim"],
) -> State:
    return row(state, _w(centre, spread, v))


def mean_codes(whitened: Whitened, codes: Codes) -> Codes:
    """The v, alike in all rows, of the mean of each code's rows."""
    return jnp.broadcast_to(whitened.v(codes).mean(axis=1, keepdims=True), codes.shape)


def of(model: epath.PathLike, generator: Generator) -> Whitened:
    """The generator of a model, whitened by the statistics that come with it."""
    return Whitened(generator, statistics(model, generator))


def statistics(model: epath.PathLike, generator: Generator) -> Statistics:
    """The mean and covariance of w that come with a model, or else those of random codes."""
    if "statistics" in checkpoint.read_card(zoo.find(model))["parts"]:
        return zoo.load(model, part="statistics")
    z = jax.random.normal(jax.random.key(0), (SAMPLES, generator.latent))
    labels = jnp.zeros((SAMPLES, generator.labels)) if generator.labels else None
    w = jax.jit(lambda generator, *given: generator.mapping(*given))(generator, z, labels)
    found = Statistics(generator.dim)
    found.mean[...] = w.mean(axis=0)
    found.covariance[...] = jnp.cov(w, rowvar=False)
    return found
