"""StyleGAN (Karras et al. 2018, arXiv:1812.04948): generator and discriminator.

Serves the official TensorFlow weights and those of the PyTorch re-implementation whose
convolution bias comes before blur and noise (`bias_first`), whose instance norm has another
epsilon, and which keeps a ToRGB at every size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.nn import ops
from fxjax.nn.layers import Average, Conv, Dense, Mapping, Noise, check_widths, levels
from fxjax.types import Features, Images


class Layer(nnx.Module):
    """Convolution (none at the constant), noise, bias, leaky ReLU, instance norm; no style yet."""

    def __init__(
        self,
        channels: int,
        out: int,
        size: int,
        *,
        convolve: bool,
        up: bool,
        use_bias: bool,
        bias_first: bool,
        taps: Sequence[float],
        epsilon: float,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = (
            Conv(channels, out, use_bias=False, param_dtype=param_dtype, rngs=rngs)
            if convolve
            else None
        )
        self.bias = nnx.Param(jnp.zeros((out,), param_dtype)) if use_bias else None
        self.strength = nnx.Param(jnp.zeros((out,), param_dtype))
        self.noise = Noise(rngs.params.normal((size, size), param_dtype))
        self.up, self.bias_first, self.taps, self.epsilon = up, bias_first, tuple(taps), epsilon

    def __call__(self, x: Features) -> Features:
        """Normalised float32 features; twice the size where built with `up`."""
        bias = None if self.bias is None else self.bias[...].astype(jnp.float32)
        if self.conv is not None:
            kernel = self.conv.kernel[...].astype(x.dtype)
            x = ops.nearest_up_conv(x, kernel) if self.up else ops.conv(x, kernel)
        x = x.astype(jnp.float32)
        if self.bias_first and bias is not None:
            x = x + bias
        if self.up:
            x = ops.fir(x, self.taps, pad=(len(self.taps) // 2, (len(self.taps) - 1) // 2))
        strength = self.strength[...].astype(jnp.float32)
        x = x + self.noise[...].astype(jnp.float32)[..., None] * strength
        if not self.bias_first and bias is not None:
            x = x + bias
        return ops.instance_norm(ops.leaky(x), self.epsilon)


class Row(nnx.Module):
    """Style k, then layer k + 1; the last row is the style alone."""

    def __init__(
        self,
        dim: int,
        channels: int,
        layer: Layer | None,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.style = Dense(dim, 2 * channels, param_dtype=param_dtype, rngs=rngs)
        self.style.bias = nnx.Param(
            jnp.concatenate([jnp.ones(channels, param_dtype), jnp.zeros(channels, param_dtype)])
        )
        self.layer, self.dtype = layer, dtype

    def modulate(self, x: Features, w: Float[Array, "batch dim"]) -> Features:
        """Scales and shifts the channels of `x` (AdaIN without its norm, which came before)."""
        style = self.style(w.astype(jnp.float32))[:, None, None, :]
        scale, shift = jnp.split(style, 2, axis=-1)
        return x * scale + shift

    def __call__(self, x: Features, w: Float[Array, "batch dim"]) -> Features:
        """Applies one W+ row."""
        x = self.modulate(x, w)
        return x if self.layer is None else self.layer(x.astype(self.dtype))


class StyleGAN1(nnx.Module):
    """Generator. `widths` are the channels at 4, 8, ... px; 2 rows of W+ for each size.

    Convolutions run in `dtype`, all between them in float32. `to_rgb` holds the one of the full
    size, or with `all_levels` those of every size, so that `at` can read smaller pictures off a
    network grown progressively.
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
        normalize_latents: bool = True,
        channels: int = 3,
        taps: Sequence[float] = (1.0, 2.0, 1.0),
        bias_first: bool = False,
        epsilon: float = 1e-8,
        all_levels: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_widths(resolution, widths)
        self.resolution, self.dim, self.latent, self.labels = resolution, dim, latent, labels
        self.all_levels, self.dtype = all_levels, dtype
        self.mapping = Mapping(
            latent,
            dim,
            hidden=hidden,
            layers=mapping_layers,
            labels=labels,
            gain=1.0,
            normalize=normalize_latents,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.w_mean = Average(jnp.zeros((dim,), param_dtype))
        self.const = nnx.Param(jnp.ones((4, 4, widths[0]), param_dtype))

        def layer(k: int) -> Layer | None:
            level = k // 2
            if level == len(widths):
                return None
            up = k % 2 == 0 and k > 0
            return Layer(
                widths[level - 1] if up else widths[level],
                widths[level],
                4 << level,
                convolve=k > 0,
                up=up,
                use_bias=k > 0 or not bias_first,
                bias_first=bias_first,
                taps=taps,
                epsilon=epsilon,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.first = layer(0)
        self.rows = nnx.List(
            Row(dim, widths[k // 2], layer(k + 1), dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for k in range(2 * len(widths))
        )
        self.to_rgb = nnx.List(
            Conv(width, channels, 1, param_dtype=param_dtype, rngs=rngs)
            for width in (widths if all_levels else widths[-1:])
        )

    def start(self, batch: int) -> Features:
        """The constant through layer 0, which reads no style."""
        const = self.const[...].astype(jnp.float32)
        first = self.first
        assert first is not None
        # Noise may differ from picture to picture, so the batch is made before the layer.
        return first(jnp.repeat(const[None], batch, axis=0))

    def at(self, resolution: int) -> "StyleGAN1":
        """The same weights as a generator of fewer pixels; ValueError if it has no ToRGB there."""
        count = levels(resolution)
        if not (self.all_levels and resolution <= self.resolution):
            if resolution == self.resolution:
                return self
            raise ValueError(
                f"this {self.resolution} px generator keeps no ToRGB at {resolution} px"
            )
        small = nnx.merge(*nnx.split(self))
        small.rows = nnx.List(list(small.rows)[: 2 * count])
        small.rows[-1].layer = None
        small.to_rgb = nnx.List(list(small.to_rgb)[:count])
        small.resolution = resolution
        return small

    def shrunk(self, state: Features, shrink: Callable[[Features], Features]) -> Features:
        """The state before the last row, for smaller pictures: its style and ToRGB are linear."""
        return shrink(state)

    def image(self, state: Features) -> Images:
        """ToRGB: a 1x1 convolution without style."""
        return self.to_rgb[-1](state).astype(jnp.float32)


class StyleGAN1Discriminator(nnx.Module):
    """Discriminator of one picture size; `widths` at 4, 8, ... px as in the generator.

    `activate_rgb` puts the leaky ReLU after FromRGB; `narrow_first` changes the width in a block's
    first convolution instead of its second; `group` is the minibatch-deviation group
    (None: the whole batch). With labels, the score is the output of the picture's class.
    """

    def __init__(
        self,
        resolution: int,
        widths: Sequence[int],
        *,
        labels: int = 0,
        channels: int = 3,
        taps: Sequence[float] = (1.0, 2.0, 1.0),
        group: int | None = 4,
        deviations: int = 1,
        last: int | None = None,
        activate_rgb: bool = True,
        narrow_first: bool = False,
        all_levels: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_widths(resolution, widths)
        self.resolution, self.labels, self.all_levels, self.dtype = (
            resolution,
            labels,
            all_levels,
            dtype,
        )
        self.taps, self.group, self.deviations = tuple(taps), group, deviations
        self.activate_rgb = activate_rgb
        self.from_rgb = nnx.List(
            Conv(channels, width, 1, param_dtype=param_dtype, rngs=rngs)
            for width in (widths if all_levels else widths[-1:])
        )

        def pair(first: int, second: int) -> Any:
            middle = second if narrow_first else first
            return nnx.List(
                [
                    Conv(first, middle, param_dtype=param_dtype, rngs=rngs),
                    Conv(middle, second, param_dtype=param_dtype, rngs=rngs),
                ]
            )

        # blocks[0] works at 8 px: block i takes 8 << i px to half that.
        self.blocks = nnx.List(pair(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        width = widths[0]
        last = width if last is None else last
        self.conv = Conv(width + deviations, width, param_dtype=param_dtype, rngs=rngs)
        self.dense = Dense(16 * width, last, param_dtype=param_dtype, rngs=rngs)
        self.score = Dense(last, max(labels, 1), param_dtype=param_dtype, rngs=rngs)

    def at(self, resolution: int) -> "StyleGAN1Discriminator":
        """The same weights for smaller pictures; ValueError if there is no FromRGB for them."""
        count = levels(resolution)
        if not (self.all_levels and resolution <= self.resolution):
            if resolution == self.resolution:
                return self
            raise ValueError(
                f"this {self.resolution} px discriminator keeps no FromRGB at {resolution} px"
            )
        small = nnx.merge(*nnx.split(self))
        small.blocks = nnx.List(list(small.blocks)[: count - 1])
        small.from_rgb = nnx.List(list(small.from_rgb)[:count])
        small.resolution = resolution
        return small

    def __call__(
        self, images: Images, labels: Float[Array, "batch labels"] | None = None
    ) -> Float[Array, " batch"]:
        """Scores (logits: higher is more real) of pictures at the full resolution."""
        x = self.from_rgb[-1](images.astype(self.dtype))
        x = ops.leaky(x) if self.activate_rgb else x
        for block in reversed(self.blocks):
            x = ops.leaky(block[0](x))
            x = ops.fir(x, self.taps, pad=(len(self.taps) // 2, (len(self.taps) - 1) // 2))
            x = ops.conv_mean_down(x, block[1].kernel[...].astype(x.dtype))
            x = ops.leaky(block[1].add_bias(x))
        x = ops.minibatch_deviation(x.astype(jnp.float32), self.group, self.deviations)
        x = ops.leaky(self.conv(x))
        x = ops.leaky(self.dense(x.reshape(x.shape[0], -1)))
        return ops.class_score(self.score(x), labels)
