"""The linear heads of LPIPS (arXiv:1801.03924): how much each channel of VGG16 counts."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class Heads(nnx.Module):
    """One non-negative weight per channel of each of `layers`, whose channels are `widths`.

    They were trained on features with one preprocessing (`mean`, `deviation`, `bgr`, as VGG16
    takes them) and mean something on those alone. Distances are float32: `dtype` does not matter.
    """

    def __init__(
        self,
        layers: Sequence[str],
        widths: Sequence[int],
        *,
        mean: Sequence[float],
        deviation: Sequence[float],
        bgr: bool,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.layers, self.widths = tuple(layers), tuple(widths)
        self.mean, self.deviation, self.bgr = tuple(mean), tuple(deviation), bgr
        self.weights = nnx.List(
            nnx.Param(rngs.params.uniform((width,), param_dtype)) for width in self.widths
        )
