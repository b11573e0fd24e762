"""Where a generator's styles lie."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fxjax.nn.layers import Average


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
