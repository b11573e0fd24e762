"""What every generator has in common: the row contract, and what follows from it alone.

Row k of a generator reads row k of W+ and nothing else. `start` makes the first state, each row
takes a state and one code row to the next state, `image` reads the picture off the last. Codes
that agree on their first rows share those states, which the search over masks lives on.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, ScalarLike

from fxjax.nn import ops
from fxjax.nn.layers import Average, Noise
from fxjax.types import Codes, Images

State = Any
Module = TypeVar("Module", bound=nnx.Module)


@runtime_checkable
class Generator(Protocol):
    """A style-based generator, frozen or trained."""

    resolution: int
    dim: int
    latent: int
    labels: int

    @property
    def mapping(self) -> Callable[..., Float[Array, "batch dim"]]:
        """Maps z and labels to w."""
        ...

    @property
    def w_mean(self) -> Average:
        """The mean of w, where truncation ends and inversion starts."""
        ...

    @property
    def rows(self) -> Sequence[Callable[[State, Float[Array, "batch dim"]], State]]:
        """What reads each W+ row."""
        ...

    def start(self, batch: int) -> State:
        """The state before row 0."""
        ...

    def shrunk(self, state: State, shrink: Callable[[Any], Any]) -> State:
        """The state before the last row, from which that row and `image` make shrunk pictures.

        Equal to `shrink` of the full-size picture, which is never made; `shrink` takes means of
        pixels. A generator whose last row is not linear per pixel returns `state` as it is.
        """
        ...

    def image(self, state: State) -> Images:
        """The float32 picture, nominally in [-1, 1], after the last row."""
        ...


def synthesize(generator: Generator, codes: Codes) -> Images:
    """Runs all rows: W+ codes to float32 pictures, nominally in [-1, 1]."""
    if codes.shape[1] != len(generator.rows):
        raise ValueError(
            f"codes have {codes.shape[1]} rows but the generator has {len(generator.rows)}; "
            "broadcast a single W code with jnp.repeat(w[:, None], rows, axis=1)"
        )
    state = generator.start(codes.shape[0])
    for k, row in enumerate(generator.rows):
        state = row(state, codes[:, k])
    return generator.image(state)


@jax.jit
def _synthesize(generator: Generator, codes: Codes) -> Images:
    return synthesize(generator, codes)


def drawn(generator: Generator, codes: Codes, most: int) -> Images:
    """As `synthesize`, compiled, at most so many together.

    On a CPU one by one: that is as fast there, and one program draws any number.
    """
    most = 1 if jax.default_backend() == "cpu" else most
    parts = [_synthesize(generator, codes[k : k + most]) for k in range(0, len(codes), most)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def truncate(
    codes: Codes, mean: Float[Array, " dim"], psi: ScalarLike, cutoff: int | None = None
) -> Codes:
    """Moves the first `cutoff` rows (None: all) towards the mean: psi 1 keeps them, 0 is the mean.

    Source: arXiv:1812.04948, appendix B. The official StyleGAN1 default is psi 0.7, cutoff 8.
    """
    count = codes.shape[1] if cutoff is None else cutoff
    weight = jnp.where(jnp.arange(codes.shape[1]) < count, psi, 1.0).astype(codes.dtype)
    return mean + (codes - mean) * weight[:, None]


def codes(
    generator: Generator,
    z: Float[Array, "batch latent"],
    labels: Float[Array, "batch labels"] | None = None,
    *,
    psi: ScalarLike = 1.0,
    cutoff: int | None = None,
) -> Codes:
    """Maps z (standard normal) and labels to truncated W+ codes with all rows alike."""
    w = generator.mapping(z, labels)
    wide = jnp.repeat(w[:, None], len(generator.rows), axis=1)
    return truncate(wide, generator.w_mean[...].astype(wide.dtype), psi, cutoff)


def without_noise(generator: Module) -> Module:
    """The same generator with its noise images set to zero."""
    return _renoise(generator, lambda _, noise: jnp.zeros_like(noise))


def with_random_noise(generator: Module, key: Array, batch: int) -> Module:
    """The same generator with fresh normal noise for each of `batch` pictures."""

    def draw(index: int, noise: Array) -> Array:
        shape = (batch, *noise.shape[-2:])
        return jax.random.normal(jax.random.fold_in(key, index), shape, noise.dtype)

    return _renoise(generator, draw)


def _renoise(generator: Module, make: Callable[[int, Array], Array]) -> Module:
    graph, noise, rest = nnx.split(generator, Noise, ...)
    leaves, tree = jax.tree.flatten(noise)
    fresh = jax.tree.unflatten(tree, [make(i, leaf) for i, leaf in enumerate(leaves)])
    return nnx.merge(graph, fresh, rest)


class Statistics(nnx.Module):
    """The mean [dim] and covariance [dim, dim] of w, kept in float32 whatever is asked for."""

    def __init__(
        self,
        dim: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        del dtype, param_dtype, rngs  # what `fxjax.load` gives every part
        self.mean = Average(jnp.zeros((dim,), jnp.float32))
        self.covariance = Average(jnp.zeros((dim, dim), jnp.float32))


@functools.partial(jax.jit, static_argnames="count")
def code_statistics(
    generator: Generator, count: int = 32768
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Mean and covariance of w over `count` fixed random z."""
    w = generator.mapping(jax.random.normal(jax.random.key(0), (count, generator.latent)))
    mean = jnp.mean(w, axis=0)
    offsets = w - mean
    return mean, jnp.matmul(offsets.T, offsets, precision=ops.EXACT) / count
