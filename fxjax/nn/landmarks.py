"""A small network that finds the 68 landmarks of an aligned face, so that losses can use them.

Heat maps at a quarter of the picture's size whose mean place is a landmark's (integral regression,
arXiv:1711.08229); coarse features are enlarged and joined to finer ones (arXiv:1505.04597).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.nn import ops
from fxjax.nn.layers import PATCH, Conv, halved, patches
from fxjax.types import Features, Images

POINTS = 68


class Landmarks(nnx.Module):
    """Finds landmarks in pictures of any size, which it looks at in `size` pixels.

    `widths` are the channels at a quarter, an eighth and a sixteenth of that.
    """

    def __init__(
        self,
        size: int = 128,
        widths: Sequence[int] = (48, 96, 128),
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.size, self.dtype = size, dtype
        conv = lambda channels, out, side=3: Conv(
            channels, out, side, param_dtype=param_dtype, rngs=rngs
        )
        fine, middle, coarse = widths
        self.patches = conv(3 * PATCH**2, fine, 1)
        self.fine = conv(fine, fine)
        self.down = nnx.List([conv(fine, middle, 4), conv(middle, coarse, 4)])
        self.deep = nnx.List([conv(coarse, coarse) for _ in range(4)])
        self.join = conv(coarse + middle, middle, 1)
        self.up = conv(middle, middle)
        self.maps = conv(middle + fine, POINTS, 1)

    def __call__(self, images: Images) -> Float[Array, "batch 68 2"]:
        """Landmarks (x, y) in the pictures' own pixels, whose centres are at whole numbers."""
        return _middle(self.heat(images)) * images.shape[1] - 0.5

    def spread(self, images: Images) -> Float[Array, "batch 68"]:
        """The deviation of where each landmark may be, in sides of the picture.

        Of what is covered the network knows only where it should be, and its map is wide.
        """
        heat = self.heat(images)
        square = _middle(heat, 2) - _middle(heat) ** 2
        return jnp.sqrt(jnp.maximum(jnp.sum(square, axis=-1), 0))

    def heat(self, images: Images) -> Float[Array, "batch side side 68"]:
        """A map for each landmark, whose softmax is where it may be."""
        batch, side = images.shape[:2]
        if side != self.size:
            shape = (batch, self.size, self.size, 3)
            images = jax.image.resize(images, shape, "linear", antialias=True)
        x = jax.nn.silu(self.patches(patches(images.astype(self.dtype), PATCH)))
        fine = x + jax.nn.silu(self.fine(x))
        middle = halved(self.down[0], fine)
        x = halved(self.down[1], middle)
        for first, second in zip(self.deep[::2], self.deep[1::2], strict=True):
            x = x + second(jax.nn.silu(first(x)))
        x = jax.nn.silu(self.join(jnp.concatenate([_doubled(x), middle], axis=-1)))
        x = x + jax.nn.silu(self.up(x))
        maps = self.maps(jnp.concatenate([_doubled(x), fine], axis=-1))
        return maps.astype(jnp.float32)


def _doubled(x: Features) -> Features:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _middle(
    maps: Float[Array, "batch side side points"], power: int = 1
) -> Float[Array, "batch points 2"]:
    """The mean place (x, y) under each map's softmax, 0 to 1 in the picture, or of its powers."""
    batch, side, _, points = maps.shape
    share = jax.nn.softmax(maps.reshape(batch, side * side, points), axis=1)
    share = share.reshape(batch, side, side, points)
    spots = ((jnp.arange(side, dtype=jnp.float32) + 0.5) / side) ** power
    x = jnp.einsum("byxp,x->bp", share, spots, precision=ops.EXACT)
    y = jnp.einsum("byxp,y->bp", share, spots, precision=ops.EXACT)
    return jnp.stack([x, y], axis=-1)
