"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958): skip generator, discriminator.

One module serves the official TensorFlow weights and those of StyleGAN2-ADA (arXiv:2006.06676).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.nn import ops
from fxjax.nn.layers import Average, Conv, Dense, Mapping, Noise, check_widths, levels
from fxjax.types import Features, Images

ROOT2 = 2**0.5


class State(NamedTuple):
    """Features, and the picture so far at their size or half of it (None before a ToRGB)."""

    x: Features
    rgb: Float[Array, "batch height width channels"] | None


def _clamped(x: Features, clamp: float | None) -> Features:
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


class StyledConv(nnx.Module):
    """Modulated 3x3 convolution, fixed noise, bias, leaky ReLU times sqrt(2), clamp."""

    def __init__(
        self,
        channels: int,
        out: int,
        dim: int,
        size: int,
        *,
        up: bool,
        taps: Sequence[float],
        clamp: float | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.affine = Dense(dim, channels, bias=1.0, param_dtype=param_dtype, rngs=rngs)
        self.conv = Conv(channels, out, param_dtype=param_dtype, rngs=rngs)
        self.strength = nnx.Param(jnp.zeros((), param_dtype))
        self.noise = Noise(rngs.params.normal((size, size), param_dtype))
        self.taps, self.clamp = tuple(taps) if up else None, clamp

    def __call__(self, x: Features, w: Float[Array, "batch dim"]) -> Features:
        """Styles `x` with one W+ row; doubles its size if built with `up`."""
        style = self.affine(w.astype(jnp.float32))
        y = ops.modulated_conv(x, self.conv.kernel[...], style, up=self.taps)
        noise = self.noise[...].astype(jnp.float32) * self.strength[...].astype(jnp.float32)
        y = self.conv.add_bias(y + noise[..., None].astype(y.dtype))
        return _clamped(ops.leaky(y, ROOT2), self.clamp)


class ToRGB(nnx.Module):
    """Modulated 1x1 convolution without demodulation, bias, clamp."""

    def __init__(
        self,
        channels: int,
        out: int,
        dim: int,
        *,
        clamp: float | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.affine = Dense(dim, channels, bias=1.0, param_dtype=param_dtype, rngs=rngs)
        self.conv = Conv(channels, out, 1, param_dtype=param_dtype, rngs=rngs)
        self.clamp = clamp

    def __call__(self, x: Features, w: Float[Array, "batch dim"]) -> Features:
        """A float32 picture at the size of `x`."""
        style = self.affine(w.astype(jnp.float32))
        x = (x * style[:, None, None, :]).astype(x.dtype)
        return _clamped(self.conv(x).astype(jnp.float32), self.clamp)


class Row(nnx.Module):
    """The layers that read one W+ row: ToRGB of a block (odd rows), then a convolution."""

    def __init__(self, to_rgb: ToRGB | None, conv: StyledConv | None, taps: Sequence[float]):
        self.to_rgb, self.conv, self.taps = to_rgb, conv, tuple(taps)

    def __call__(self, state: State, w: Float[Array, "batch dim"]) -> State:
        """Applies one W+ row."""
        x, rgb = state
        if self.to_rgb is not None:
            y = self.to_rgb(x, w)
            rgb = y if rgb is None else self.enlarged(rgb, x) + y
        return State(x if self.conv is None else self.conv(x, w), rgb)

    def enlarged(self, rgb: Features, x: Features) -> Features:
        """The picture so far at the size of `x`."""
        return rgb if rgb.shape[1] == x.shape[1] else ops.fir_up(rgb, self.taps)


class StyleGAN2(nnx.Module):
    """Skip generator. `widths` are the channels at 4, 8, ... px; W+ has two rows per size.

    Row 0 is the 4x4 convolution; odd rows close a block with its ToRGB and open the next; even
    rows are the block's second convolution; the last row is the final ToRGB.
    """

    def __init__(
        self,
        resolution: int,
        widths: Sequence[int],
        *,
        dim: int = 512,
        latent: int = 512,
        hidden: int | None = None,
        mapping_layers: int = 8,
        labels: int = 0,
        embedding: int | None = None,
        normalize_latents: bool = True,
        normalize_each: bool = False,
        channels: int = 3,
        taps: Sequence[float] = (1.0, 3.0, 3.0, 1.0),
        clamp: float | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_widths(resolution, widths)
        self.resolution, self.dim, self.latent, self.labels = resolution, dim, latent, labels
        self.dtype = dtype
        self.mapping = Mapping(
            latent,
            dim,
            hidden=hidden,
            layers=mapping_layers,
            labels=labels,
            embedding=embedding,
            gain=ROOT2,
            normalize=normalize_latents,
            normalize_each=normalize_each,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.w_mean = Average(jnp.zeros((dim,), param_dtype))
        self.const = nnx.Param(rngs.params.normal((4, 4, widths[0]), param_dtype))

        def row(k: int) -> Row:
            level = k // 2  # of the ToRGB in odd rows, of the convolution in even rows
            to_rgb = conv = None
            if k % 2:
                to_rgb = ToRGB(
                    widths[level], channels, dim, clamp=clamp, param_dtype=param_dtype, rngs=rngs
                )
            opens = level + k % 2
            if opens < len(widths):
                up = bool(k % 2)
                conv = StyledConv(
                    widths[level] if up else widths[opens],
                    widths[opens],
                    dim,
                    4 << opens,
                    up=up,
                    taps=taps,
                    clamp=clamp,
                    param_dtype=param_dtype,
                    rngs=rngs,
                )
            return Row(to_rgb, conv, taps)

        self.rows = nnx.List(row(k) for k in range(2 * len(widths)))

    def start(self, batch: int) -> State:
        """The learned constant."""
        const = self.const[...].astype(self.dtype)
        return State(jnp.repeat(const[None], batch, axis=0), None)

    def at(self, resolution: int) -> "StyleGAN2":
        """The first rows as a generator of fewer pixels, whose picture is the skip sum so far.

        It lacks what the later ToRGBs add. ValueError unless the network has that size.
        """
        count = levels(resolution)
        if resolution > self.resolution:
            raise ValueError(f"this is a {self.resolution} px generator, not of {resolution} px")
        small = nnx.merge(*nnx.split(self))
        small.rows = nnx.List(list(small.rows)[: 2 * count])
        small.rows[-1].conv = None
        small.resolution = resolution
        return small

    def shrunk(self, state: State, shrink: Callable[[Features], Features]) -> State:
        """The state before the last row, for smaller pictures, unless ToRGB clamps its output."""
        last = self.rows[-1]
        if last.to_rgb is None or last.to_rgb.clamp is not None or state.rgb is None:
            return state
        return State(shrink(state.x), shrink(last.enlarged(state.rgb, state.x)))

    def image(self, state: State) -> Images:
        """The sum of the skips, float32."""
        assert state.rgb is not None
        return state.rgb


class Block(nnx.Module):
    """Discriminator block: two convolutions and a halving; `residual` adds a 1x1 skip."""

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        residual: bool,
        taps: Sequence[float],
        clamp: float | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(channels, channels, param_dtype=param_dtype, rngs=rngs)
        self.down = Conv(channels, out, param_dtype=param_dtype, rngs=rngs)
        self.skip = (
            Conv(channels, out, 1, use_bias=False, param_dtype=param_dtype, rngs=rngs)
            if residual
            else None
        )
        self.taps, self.clamp = tuple(taps), clamp

    def __call__(self, x: Features) -> Features:
        """Features at half the size."""
        y = _clamped(ops.leaky(self.conv(x), ROOT2), self.clamp)
        kernel = self.down.kernel[...].astype(y.dtype)
        excess = len(self.taps) - 2 + kernel.shape[0] - 1
        y = ops.fir(y, self.taps, pad=((excess + 1) // 2, excess // 2))
        y = ops.conv(y, kernel, padding=[(0, 0), (0, 0)], stride=2)
        y = _clamped(ops.leaky(self.down.add_bias(y), ROOT2), self.clamp)
        if self.skip is None:
            return y
        return (y + self.skip(ops.fir_down(x, self.taps))) * jnp.asarray(0.5**0.5, y.dtype)


class StyleGAN2Discriminator(nnx.Module):
    """Discriminator, residual or plain (`residual` False), `widths` at 4, 8, ... px.

    With labels, the score is either the output of the picture's class (TensorFlow), or, if
    `projection` is set, the product of that many features with mapped labels (ADA).
    """

    def __init__(
        self,
        resolution: int,
        widths: Sequence[int],
        *,
        labels: int = 0,
        channels: int = 3,
        residual: bool = True,
        taps: Sequence[float] = (1.0, 3.0, 3.0, 1.0),
        group: int | None = 4,
        deviations: int = 1,
        last: int | None = None,
        clamp: float | None = None,
        projection: int = 0,
        mapping_layers: int = 8,
        mapping_hidden: int | None = None,
        embedding: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_widths(resolution, widths)
        self.resolution, self.labels, self.dtype = resolution, labels, dtype
        self.group, self.deviations, self.clamp = group, deviations, clamp
        self.from_rgb = Conv(channels, widths[-1], 1, param_dtype=param_dtype, rngs=rngs)
        # blocks[0] takes 8 px to 4 px, blocks[i] takes 8 << i px to half that.
        self.blocks = nnx.List(
            Block(
                widths[i + 1],
                widths[i],
                residual=residual,
                taps=taps,
                clamp=clamp,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for i in range(len(widths) - 1)
        )
        width = widths[0]
        last = width if last is None else last
        self.conv = Conv(width + deviations, width, param_dtype=param_dtype, rngs=rngs)
        self.dense = Dense(16 * width, last, param_dtype=param_dtype, rngs=rngs)
        outputs = projection or max(labels, 1)
        self.score = Dense(last, outputs, param_dtype=param_dtype, rngs=rngs)
        self.mapping = (
            Mapping(
                0,
                projection,
                hidden=mapping_hidden,
                layers=mapping_layers,
                labels=labels,
                embedding=projection if embedding is None else embedding,
                gain=ROOT2,
                normalize_each=True,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            if projection
            else None
        )

    def __call__(
        self, images: Images, labels: Float[Array, "batch labels"] | None = None
    ) -> Float[Array, " batch"]:
        """Scores (logits: higher is more real). The last block runs in float32."""
        x = self.from_rgb(images.astype(self.dtype))
        x = _clamped(ops.leaky(x, ROOT2), self.clamp)
        for block in reversed(self.blocks):
            x = block(x)
        x = ops.minibatch_deviation(x.astype(jnp.float32), self.group, self.deviations)
        x = _clamped(ops.leaky(self.conv(x), ROOT2), self.clamp)
        x = self.score(ops.leaky(self.dense(x.reshape(x.shape[0], -1)), ROOT2))
        if self.mapping is None:
            return ops.class_score(x, labels)
        y = self.mapping(jnp.zeros((x.shape[0], 0), jnp.float32), labels)
        return jnp.sum(x * y, axis=-1) * (y.shape[-1] ** -0.5)
