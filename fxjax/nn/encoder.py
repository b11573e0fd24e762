"""Photos to codes in one pass: encoders of pSp (arXiv:2008.00951), e4e (arXiv:2102.02766), our own.

An IR-SE-50 body (arXiv:1512.03385, arXiv:1709.01507, arXiv:1801.07698) whose three last sizes are
joined from coarse to fine (arXiv:1612.03144); one head per row of W+ reads one of them. Weights are
frozen: the statistics of batch normalisation are folded into scales, shifts and convolutions.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.images import bilinear, from_uint8
from fxjax.nn import ops
from fxjax.nn.layers import PATCH, Average, Conv, Dense, halved, patches
from fxjax.types import Codes, Features, Images, Photos

UNITS = (3, 4, 14, 3)  # of each width; the first of each halves the picture
COARSE, MIDDLE = 3, 7  # the first row that reads the middle map, the first that reads the fine one


class Norm(nnx.Module):
    """A scale and a shift per channel."""

    def __init__(self, channels: int, *, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.shift = nnx.Param(jnp.zeros((channels,), param_dtype))

    def __call__(self, x: Features) -> Features:
        """Scales and shifts."""
        return x * self.scale[...].astype(x.dtype) + self.shift[...].astype(x.dtype)


class Bent(nnx.Module):
    """Identity above 0, a slope per channel below (arXiv:1502.01852)."""

    def __init__(self, channels: int, *, param_dtype: DTypeLike):
        self.slope = nnx.Param(jnp.full((channels,), 0.25, param_dtype))

    def __call__(self, x: Features) -> Features:
        """Bends."""
        return jnp.where(x > 0, x, x * self.slope[...].astype(x.dtype))


class Unit(nnx.Module):
    """Residual unit with squeeze and excitation; `stride` 2 halves the size.

    Where widths are equal the shortcut keeps every `stride`-th pixel.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        hidden: int,
        stride: int,
        *,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def conv(inputs: int, outputs: int, side: int, use_bias: bool) -> Conv:
            return Conv(
                inputs, outputs, side, use_bias=use_bias, param_dtype=param_dtype, rngs=rngs
            )

        self.norm = Norm(channels, param_dtype=param_dtype)
        self.first, self.bend = conv(channels, out, 3, False), Bent(out, param_dtype=param_dtype)
        self.second = conv(out, out, 3, True)
        self.squeeze, self.excite = conv(out, hidden, 1, False), conv(hidden, out, 1, False)
        self.shortcut = None if channels == out else conv(channels, out, 1, True)
        self.stride = stride

    def __call__(self, x: Features) -> Features:
        """Features at the size of `x`, or half of it."""
        y = self.bend(self.first(self.norm(x)))
        y = _strided(self.second, y, self.stride)
        weight = jax.nn.relu(self.squeeze(jnp.mean(y, axis=(1, 2), keepdims=True)))
        y = y * jax.nn.sigmoid(self.excite(weight))
        x = x[:, :: self.stride, :: self.stride]
        return y + (x if self.shortcut is None else self.shortcut(x))


class Head(nnx.Module):
    """Halves a map down to one pixel, and maps that to one row of W+."""

    def __init__(
        self, channels: int, dim: int, count: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.convs = nnx.List(
            Conv(channels if k == 0 else dim, dim, param_dtype=param_dtype, rngs=rngs)
            for k in range(count)
        )
        self.dense = Dense(dim, dim, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "batch dim"]:
        """One row. ValueError if pictures have a size that does not end in one pixel."""
        for conv in self.convs:
            x = jax.nn.leaky_relu(_strided(conv, x, 2), 0.01)
        if x.shape[1:3] != (1, 1):
            raise ValueError("this encoder wants pictures of about 256 x 256 pixels")
        return self.dense(x[:, 0, 0].astype(jnp.float32))


class Encoder(nnx.Module):
    """Reads pictures of `size` (height, width) as W+ codes of a generator.

    `widths` are the body's channels, `hidden` those between squeeze and excitation. With
    `cumulative` (e4e) each row is the first head's plus its own. `mean` is added to all codes.
    """

    def __init__(
        self,
        rows: int,
        dim: int = 512,
        widths: Sequence[int] = (64, 128, 256, 512),
        hidden: Sequence[int] = (4, 8, 16, 32),
        *,
        cumulative: bool,
        size: Sequence[int] = (256, 256),
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.cumulative, self.size, self.dtype = cumulative, tuple(size), dtype
        conv = lambda channels, out, side: Conv(
            channels, out, side, param_dtype=param_dtype, rngs=rngs
        )
        self.entry, self.bend = conv(3, widths[0], 3), Bent(widths[0], param_dtype=param_dtype)
        shapes = []
        for before, width, inner, count in zip(
            (widths[0], *widths), widths, hidden, UNITS, strict=False
        ):
            shapes += [(before, width, inner, 2), *[(width, width, inner, 1)] * (count - 1)]
        self.units = nnx.List(Unit(*shape, param_dtype=param_dtype, rngs=rngs) for shape in shapes)
        self.middle, self.fine = conv(widths[2], widths[3], 1), conv(widths[1], widths[3], 1)
        self.heads = nnx.List(
            Head(
                widths[3],
                dim,
                4 + (row >= COARSE) + (row >= MIDDLE),
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for row in range(rows)
        )
        self.mean = Average(jnp.zeros((rows, dim), param_dtype))

    def __call__(self, images: Images) -> Codes:
        """W+ codes (float32) of aligned faces of this encoder's `size`, in [-1, 1]."""
        _check_size(images, self.size)
        return self.offsets(images) + self.mean[...].astype(jnp.float32)

    def prepared(self, photos: Photos) -> Float[np.ndarray, "batch _ _ 3"]:
        """Aligned crops of any size as this encoder was trained to see them."""
        return _prepared(photos, self.size)

    def offsets(self, images: Images) -> Codes:
        """The codes before `mean` is added."""
        _, _, coarse, middle, fine = self.maps(images)
        found = [
            head(coarse if row < COARSE else middle if row < MIDDLE else fine)
            for row, head in enumerate(self.heads)
        ]
        if self.cumulative:
            found[1:] = [found[0] + each for each in found[1:]]
        return jnp.stack(found, axis=1)

    def maps(self, images: Images) -> tuple[Features, Features, Features, Features, Features]:
        """The body's maps at 1/4, 1/8, 1/16 of the size, and those joined at 1/8 and at 1/4."""
        x, kept = self.bend(self.entry(images.astype(self.dtype))), []
        ends = list(itertools.accumulate(UNITS))[1:]
        for k, unit in enumerate(self.units, start=1):
            x = unit(x)
            if k in ends:
                kept.append(x)
        first, second, third = kept
        middle = _enlarged(third, second) + self.middle(second)
        return first, second, third, middle, _enlarged(middle, first) + self.fine(first)


def _prepared(photos: Photos, size: tuple[int, ...]) -> Float[np.ndarray, "batch _ _ 3"]:
    return from_uint8(np.stack([bilinear(photo, *size) for photo in photos]))


def _check_size(images: Images, size: tuple[int, ...]) -> None:
    if images.shape[1:3] != size:
        raise ValueError(
            f"pictures have {images.shape[1]} x {images.shape[2]} pixels, this encoder wants "
            f"{size[0]} x {size[1]}: see its `prepared`"
        )


def _strided(conv: Conv, x: Features, stride: int) -> Features:
    """A 3x3 convolution around every `stride`-th pixel from the first."""
    kernel = conv.kernel[...].astype(x.dtype)
    return conv.add_bias(ops.conv(x, kernel, padding=[(1, 1), (1, 1)], stride=stride))


def _enlarged(x: Features, like: Features) -> Features:
    """`x` at the size of `like`, linearly between pixels, the corners' centres staying corners."""
    for axis in (1, 2):
        many, count = like.shape[axis], x.shape[axis]
        place = np.arange(many) * (count - 1) / max(many - 1, 1)
        low = np.minimum(place.astype(int), max(count - 2, 0))
        high = np.minimum(low + 1, count - 1)
        share = (place - low).reshape((-1, 1) if axis == 2 else (-1, 1, 1))
        weight = jnp.asarray(share, x.dtype)
        x = jnp.take(x, low, axis=axis) * (1 - weight) + jnp.take(x, high, axis=axis) * weight
    return x


class SmallEncoder(nnx.Module):
    """Reads pictures of `size` pixels a side as codes with all rows alike; quick on a CPU.

    `widths` are the channels at a quarter of the size, an eighth, and so on; `squeeze` those of
    the last map, which one matrix takes to w. Trained by `fxjax.training.encoder`.
    """

    def __init__(
        self,
        rows: int,
        dim: int = 512,
        widths: Sequence[int] = (48, 96, 128, 160),
        squeeze: int = 32,
        *,
        size: Sequence[int] = (128, 128),
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.rows, self.size, self.dtype = rows, tuple(size), dtype
        conv = lambda channels, out, side: Conv(
            channels, out, side, param_dtype=param_dtype, rngs=rngs
        )
        self.entry = conv(3 * PATCH**2, widths[0], 1)
        self.downs = nnx.List(
            conv(before, width, 4) for before, width in itertools.pairwise(widths)
        )
        self.deep = nnx.List(
            nnx.List([conv(width, width, 3), conv(width, width, 3)]) for width in widths
        )
        self.squeeze = conv(widths[-1], squeeze, 1)
        height, width = (side // PATCH >> len(self.downs) for side in self.size)
        self.dense = Dense(height * width * squeeze, dim, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, images: Images) -> Codes:
        """W+ codes (float32) of aligned faces of this encoder's `size`, in [-1, 1].

        ValueError for pictures of another size.
        """
        _check_size(images, self.size)
        w = self.dense(self.flat(images))
        return jnp.repeat(w[:, None], self.rows, axis=1)

    def flat(self, images: Images) -> Float[Array, "batch features"]:
        """What the last matrix reads (float32)."""
        x = patches(images.astype(self.dtype), PATCH)
        x = jax.nn.silu(self.entry(x))
        for k, (first, second) in enumerate(self.deep):
            if k:
                x = halved(self.downs[k - 1], x)
            x = x + second(jax.nn.silu(first(jax.nn.silu(x)))) * 0.5
        x = jax.nn.silu(self.squeeze(jax.nn.silu(x)))
        return x.astype(jnp.float32).reshape(len(x), -1)

    def prepared(self, photos: Photos) -> Float[np.ndarray, "batch _ _ 3"]:
        """Aligned crops of any size as this encoder was trained to see them."""
        return _prepared(photos, self.size)


def read(encoder: Any, photos: Photos) -> Codes:
    """The codes of aligned crops of any size, read one by one: none depends on the others."""
    pictures = jnp.asarray(encoder.prepared(photos))
    return jnp.concatenate([_read(encoder, pictures[k : k + 1]) for k in range(len(pictures))])


@jax.jit
def _read(encoder: Any, images: Images) -> Codes:
    return encoder(images)
