"""Fader Networks (arXiv:1706.00409): an autoencoder whose decoder is told the expression.

A discriminator on the latent learns to read the expression there, and the encoder to hide it, so
that the decoder has to take it from its labels. Layers = log2(size) - 2: the latent is 4x4.
Parameters are kernels, biases, and batch norm's gains and shifts; its running averages are not
counted. A network called with a list `found` normalises by the batch's own statistics and appends
them there; without, by the averages.

Beside them the network of Liu & Jin (Computer Science 46(6A):250-253, 2019), as read here: an
encoder of 3x3 kernels, and a decoder of nearest upsampling and 3x3 convolutions to whose feature
maps those of the label are added. The paper gives no table of layers; Fader's topology with 3x3
kernels has the 43.7 % fewer parameters that it reports.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.nn import ops
from fxjax.nn.layers import Average, Conv, Dense, levels
from fxjax.types import Features

Moments = list[tuple[Float[Array, " width"], Float[Array, " width"]]]
Labels = Float[Array, "batch labels"]
Logits = Float[Array, "batch labels"]

EDGE = ((1, 1), (1, 1))
EPSILON = 1e-5  # of batch norm
ZOOMS = (1, 2, 4)
SMALL = 4  # side of maps that are convolved as a matrix product


class BatchNorm(nnx.Module):
    """Batch norm (arXiv:1502.03167), in float32. The averages are of x and of its square."""

    def __init__(self, width: int, *, param_dtype: DTypeLike = jnp.float32):
        self.gain = nnx.Param(jnp.ones((width,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))
        self.mean = Average(jnp.zeros((width,), jnp.float32))
        self.square = Average(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Features, found: Moments | None = None) -> Features:
        """Normalises each channel, by the batch's statistics if these are asked for."""
        wide = x.astype(jnp.float32)
        mean, square = self.mean[...], self.square[...]
        if found is not None:
            mean, square = (jnp.mean(y, axis=(0, 1, 2)) for y in (wide, jnp.square(wide)))
            found.append((mean, square))
        variance = jnp.maximum(square - jnp.square(mean), 0)
        scale = self.gain[...].astype(jnp.float32) * lax.rsqrt(variance + EPSILON)
        return (wide * scale + (self.bias[...] - mean * scale)).astype(x.dtype)


class Encoder(nnx.Module):
    """Convolutions of stride 2 down to 4x4; widths double from `base` up to `most`."""

    def __init__(
        self,
        size: int,
        channels: int,
        *,
        kernel: int,
        base: int = 32,
        most: int = 512,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        each = widths(size, base, most)
        self.convs = nnx.List(
            Conv(inputs, outputs, kernel, param_dtype=param_dtype, rngs=rngs)
            for inputs, outputs in itertools.pairwise((channels, *each))
        )
        self.norms = nnx.List(BatchNorm(width, param_dtype=param_dtype) for width in each[1:])
        self.dtype = dtype

    def __call__(self, pictures: Features, found: Moments | None = None) -> Features:
        """Pictures in [-1, 1] to the 4x4 latent."""
        x = pictures.astype(self.dtype)
        for k, conv in enumerate(self.convs):
            x = halved(x, conv)
            x = ops.leaky(self.norms[k - 1](x, found) if k else x)
        return x


class Decoder(nnx.Module):
    """Layers that double the size, each with a kernel for its input and the labels together.

    The labels count as constant channels after those of the input. `double` is the models' own.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        labels: int,
        *,
        kernel: int,
        use_bias: bool,
        base: int = 32,
        most: int = 512,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        each = (*widths(size, base, most)[::-1], channels)
        self.convs = nnx.List(
            Conv(
                inputs + labels, outputs, kernel, use_bias=use_bias, param_dtype=param_dtype,
                rngs=rngs,
            )
            for inputs, outputs in itertools.pairwise(each)
        )  # fmt: skip
        self.norms = nnx.List(BatchNorm(width, param_dtype=param_dtype) for width in each[1:-1])
        self.labels, self.dtype = labels, dtype

    def __call__(self, latent: Features, labels: Labels, found: Moments | None = None) -> Features:
        """The latent as a picture in [-1, 1], float32. ValueError for labels that do not fit."""
        if labels.shape[-1] != self.labels:
            raise ValueError(
                f"{labels.shape[-1]} labels given; this model knows {self.labels} expressions"
            )
        x = latent.astype(self.dtype)
        for k, conv in enumerate(self.convs):
            x = self.double(x, labels, conv)
            if k < len(self.norms):
                x = jax.nn.relu(self.norms[k](x, found))
        return jnp.tanh(x.astype(jnp.float32))

    def double(self, x: Features, labels: Labels, conv: Conv) -> Features:
        """A layer without its norm: transposed 4x4 convolution, the labels appended as channels."""
        maps = labels.astype(x.dtype)[:, None, None, :]
        maps = jnp.broadcast_to(maps, (*x.shape[:3], self.labels))
        x = jnp.concatenate([x, maps], axis=-1)
        return conv.add_bias(ops.transposed_conv(x, conv.kernel[...].astype(x.dtype)))


class Fader(nnx.Module):
    """The autoencoder. `expressions` names the labels, in their order.

    `size` is that of its pictures, which are the `inner` part of an aligned face at `size * zoom`.
    """

    decoder_class = Decoder
    kernel = 4
    use_bias = False  # in the decoder

    def __init__(
        self,
        size: int,
        expressions: Sequence[str],
        *,
        channels: int = 3,
        base: int = 32,
        most: int = 512,
        zoom: int = 1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.size, self.channels, self.expressions = size, channels, tuple(expressions)
        self.zoom = zoom
        self.encoder = Encoder(
            size, channels, kernel=self.kernel, base=base, most=most, dtype=dtype,
            param_dtype=param_dtype, rngs=rngs,
        )  # fmt: skip
        self.decoder = self.decoder_class(
            size, channels, len(self.expressions), kernel=self.kernel, use_bias=self.use_bias,
            base=base, most=most, dtype=dtype, param_dtype=param_dtype, rngs=rngs,
        )  # fmt: skip

    def __call__(self, pictures: Features, labels: Labels) -> Features:
        """The pictures with other expressions; one label for each expression, 0 to 1, sum 1."""
        if pictures.shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"pictures of {pictures.shape[2]}x{pictures.shape[1]}x{pictures.shape[3]} given; "
                f"this model takes {self.size}x{self.size}x{self.channels} "
                f"({'grey' if self.channels == 1 else 'colour'})"
            )
        return self.decoder(self.encoder(pictures), labels)


class LatentDiscriminator(nnx.Module):
    """Reads the expression from the 4x4 latent: two convolutions of stride 2, two dense layers."""

    def __init__(
        self,
        size: int,
        expressions: Sequence[str],
        *,
        kernel: int = 4,
        base: int = 32,
        most: int = 512,
        dropout: float = 0.3,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        each = widths(4 * size, base, most)[-3:]  # the encoder's, gone on to 1x1
        self.convs = nnx.List(
            Conv(inputs, outputs, kernel, param_dtype=param_dtype, rngs=rngs)
            for inputs, outputs in itertools.pairwise(each)
        )
        self.norms = nnx.List(BatchNorm(width, param_dtype=param_dtype) for width in each[1:])
        self.hidden = Dense(each[-1], most, param_dtype=param_dtype, rngs=rngs)
        self.score = Dense(most, len(expressions), param_dtype=param_dtype, rngs=rngs)
        self.dropout, self.dtype = dropout, dtype

    def __call__(
        self, latent: Features, found: Moments | None = None, key: Array | None = None
    ) -> Logits:
        """Logits of the expressions; a `key` drops activations, as in training."""
        x = latent.astype(self.dtype)
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = ops.leaky(norm(halved(x, conv), found))
            if key is not None and self.dropout:
                kept = jax.random.bernoulli(jax.random.fold_in(key, k), 1 - self.dropout, x.shape)
                x = jnp.where(kept, x / (1 - self.dropout), jnp.zeros((), x.dtype))
        x = ops.leaky(self.hidden(x[:, 0, 0].astype(jnp.float32)))
        return self.score(x)


class Classifier(nnx.Module):
    """Names the expression of a picture. For measuring and for a photo's own label, no loss."""

    def __init__(
        self,
        size: int,
        expressions: Sequence[str],
        *,
        channels: int = 3,
        base: int = 16,
        most: int = 128,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.expressions = tuple(expressions)
        self.encoder = Encoder(
            size, channels, kernel=3, base=base, most=most, dtype=dtype, param_dtype=param_dtype,
            rngs=rngs,
        )  # fmt: skip
        width = widths(size, base, most)[-1]
        self.score = Dense(16 * width, len(self.expressions), param_dtype=param_dtype, rngs=rngs)

    def __call__(self, pictures: Features, found: Moments | None = None) -> Logits:
        """Logits of the expressions."""
        x = self.encoder(pictures, found).astype(jnp.float32)
        return self.score(x.reshape(x.shape[0], -1))


class Patches(nnx.Module):
    """Tells real pictures from made ones, patch by patch: for sharpness, if it is wanted."""

    def __init__(
        self,
        channels: int,
        *,
        base: int = 32,
        layers: int = 3,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        each = (channels, *(base << k for k in range(layers)))
        self.convs = nnx.List(
            Conv(inputs, outputs, 4, param_dtype=param_dtype, rngs=rngs)
            for inputs, outputs in itertools.pairwise(each)
        )
        self.score = Conv(each[-1], 1, 1, param_dtype=param_dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(self, pictures: Features) -> Features:
        """One score for each patch, high where it looks real."""
        x = pictures.astype(self.dtype)
        for conv in self.convs:
            x = ops.leaky(halved(x, conv))
        return self.score(x).astype(jnp.float32)


def inner(size: int, zoom: int) -> tuple[slice, slice]:
    """Rows and columns, `size` of each, that a network sees of an aligned face at `size * zoom`.

    All for a zoom of 1, from the eyes to the chin for 2, the mouth for 4; ValueError for others.
    """
    if zoom not in ZOOMS or size % 8:
        raise ValueError(f"a zoom of {zoom} of {size} px; want one of {ZOOMS}, of 8 px or more")
    left, top = (zoom - 1) * size // 2, (zoom - 1) * size * 7 // 8
    return slice(top, top + size), slice(left, left + size)


def halved(x: Features, conv: Conv) -> Features:
    """A 3x3 or 4x4 convolution of stride 2, and its bias."""
    kernel = conv.kernel[...].astype(x.dtype)
    if x.shape[1] <= SMALL:
        return conv.add_bias(_halved_by_matrix(x, kernel))
    return conv.add_bias(ops.conv(x, kernel, padding=EDGE, stride=2))


def _halved_by_matrix(x: Features, kernel: Float[Array, "rows rows channels out"]) -> Features:
    """The same as one matrix product without the taps that meet only zeros.

    XLA's CPU takes 10 times longer for convolutions of such small maps with many channels.
    """
    size, channels, out = x.shape[1], *kernel.shape[2:]
    starts = range(-1, size - 1, 2)
    taps = [i for i in range(len(kernel)) if any(0 <= start + i < size for start in starts)]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + size : 2, j : j + size : 2] for i in taps for j in taps]
    kept = kernel[taps[0] : taps[-1] + 1, taps[0] : taps[-1] + 1]
    flat = kept.reshape(len(parts) * channels, out)
    return ops.matmul(jnp.concatenate(parts, axis=-1), flat)


def widths(size: int, base: int, most: int) -> tuple[int, ...]:
    """Channels after each halving, down to 4x4; ValueError for a size that is no power of two."""
    return tuple(min(base << k, most) for k in range(levels(size) - 1))


class LiuJinDecoder(Decoder):
    """Nearest upsampling and 3x3 convolutions, folded; the labels' feature maps are added."""

    def double(self, x: Features, labels: Labels, conv: Conv) -> Features:
        """A layer without its norm: the same as with the labels appended to the input."""
        inputs, told = jnp.split(conv.kernel[...], [x.shape[-1]], axis=2)
        y = conv.add_bias(ops.nearest_up_conv(x, inputs.astype(x.dtype)))
        return y + label_maps(labels, told, y.shape[1]).astype(y.dtype)


class LiuJin(Fader):
    """Liu & Jin's autoencoder. `expressions` names the labels, in their order."""

    decoder_class = LiuJinDecoder
    kernel = 3
    use_bias = True


def label_maps(
    labels: Labels, kernel: Float[Array, "3 3 labels out"], size: int
) -> Float[Array, "batch size size out"]:
    """What a 3x3 convolution with zeros around makes of constant label channels.

    All pixels of the inside are alike, so are those of each edge: nine values are found and spread.
    """
    labels, kernel = labels.astype(jnp.float32), kernel.astype(jnp.float32)
    taps = jnp.einsum("bl,ijlo->bijo", labels, kernel, precision=ops.EXACT)
    # at the first, an inner and the last place: which of three taps lie inside
    inside = jnp.asarray([[0, 1, 1], [1, 1, 1], [1, 1, 0]], jnp.float32)
    places = jnp.asarray([0] + [1] * (size - 2) + [2])
    spread = inside[places]
    return jnp.einsum("hi,wj,bijo->bhwo", spread, spread, taps, precision=ops.EXACT)
