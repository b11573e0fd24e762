"""Layers shared by the model families. Weights are stored ready to use (no run-time scaling).

Equalised learning rate (arXiv:1710.10196) multiplies each weight by a constant at run time. Here
converters fold that constant into the stored weight, and the trainer scales each weight's update
by it instead, which is the same for Adam.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fxjax.nn import ops
from fxjax.types import Features, Images

Module = TypeVar("Module", bound=nnx.Module)
PATCH = 4  # pixels a side of the squares that small networks begin with


class Noise(nnx.Variable):
    """A fixed noise image, [height, width] or [batch, height, width]: saved, not trained."""


class Average(nnx.Variable):
    """A running average: saved, not trained by gradients."""


def _normal(rngs: nnx.Rngs, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Normal weights of standard deviation 1 / sqrt(inputs)."""
    inputs = 1
    for size in shape[:-1]:
        inputs *= size
    return rngs.params.normal(tuple(shape), dtype) * jnp.asarray(inputs**-0.5, dtype)


class Dense(nnx.Module):
    """A matrix and a bias; computes in its input's dtype."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_normal(rngs, (inputs, outputs), param_dtype))
        self.bias = nnx.Param(jnp.full((outputs,), bias, param_dtype))

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Maps each row of `x`."""
        return ops.matmul(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


class Conv(nnx.Module):
    """A square kernel and an optional bias."""

    def __init__(
        self,
        channels: int,
        out: int,
        size: int = 3,
        *,
        use_bias: bool = True,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_normal(rngs, (size, size, channels, out), param_dtype))
        self.bias = nnx.Param(jnp.zeros((out,), param_dtype)) if use_bias else None

    def add_bias(self, x: Features) -> Features:
        """Adds the bias, if there is one."""
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)

    def __call__(self, x: Features) -> Features:
        """Convolves at the same size and adds the bias."""
        return self.add_bias(ops.conv(x, self.kernel[...].astype(x.dtype)))


class Mapping(nnx.Module):
    """z and labels -> w (arXiv:1812.04948): normalise, then dense layers with leaky ReLU.

    `gain` follows each activation (1 in StyleGAN1, sqrt(2) in StyleGAN2). With labels, their
    embedding is concatenated to z; both are normalised together, or each alone if
    `normalize_each` (StyleGAN2-ADA). Always float32. `latent` 0 maps labels alone, to their
    normalised embedding if there are no `layers`.
    """

    def __init__(
        self,
        latent: int,
        dim: int,
        *,
        hidden: int | None = None,
        layers: int = 8,
        labels: int = 0,
        embedding: int | None = None,
        gain: float,
        normalize_each: bool = False,
        normalize: bool = True,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        embedding = (latent if embedding is None else embedding) if labels else 0
        hidden = dim if hidden is None else hidden
        widths = [latent + embedding, *[hidden] * (layers - 1), dim][: layers + 1]
        self.embed = (
            Dense(labels, embedding, param_dtype=param_dtype, rngs=rngs) if labels else None
        )
        self.layers = nnx.List(
            Dense(inputs, outputs, param_dtype=param_dtype, rngs=rngs)
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.latent, self.labels, self.gain = latent, labels, gain
        self.normalize, self.normalize_each = normalize, normalize_each

    def __call__(
        self,
        z: Float[Array, "batch latent"],
        labels: Float[Array, "batch labels"] | None = None,
    ) -> Float[Array, "batch dim"]:
        """Maps z [batch, latent] and one-hot labels to w; ValueError if labels are missing."""
        x = z.astype(jnp.float32)
        if self.embed is None:
            if labels is not None and labels.shape[-1]:
                raise ValueError(f"labels {labels.shape} given, but this model takes none")
        else:
            if labels is None or labels.shape[-1] != self.labels:
                found = "none" if labels is None else f"{labels.shape}"
                raise ValueError(
                    f"this model wants one-hot labels of width {self.labels}, got {found}"
                )
            y = self.embed(labels.astype(jnp.float32))
            if self.normalize_each:
                x, y = ops.unit_square(x) if self.latent else x, ops.unit_square(y)
            x = jnp.concatenate([x, y], axis=-1)
        if self.normalize and not (self.normalize_each and self.embed is not None):
            x = ops.unit_square(x)
        for layer in self.layers:
            x = ops.leaky(layer(x), self.gain)
        return x


def default_widths(resolution: int, base: int, most: int) -> tuple[int, ...]:
    """Channels at 4, 8, ... `resolution` px: min(base / size, most)."""
    sizes = [4 << i for i in range(levels(resolution))]
    return tuple(min(base // size, most) for size in sizes)


def levels(resolution: int) -> int:
    """How many sizes from 4 to `resolution`; ValueError unless it is a power of two in 8..1024."""
    if resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"resolution {resolution} is not a power of two from 8 to 1024")
    return resolution.bit_length() - 2


def check_widths(resolution: int, widths: Sequence[int]) -> None:
    """ValueError unless there is one width for each size from 4 px to `resolution`."""
    if len(widths) != levels(resolution):
        raise ValueError(
            f"{resolution} px needs {levels(resolution)} widths (4 px first), got {len(widths)}"
        )


def update_scales(module: Module, mapping_rate: float) -> Module:
    """For each weight the constant by which the equalised learning rate would multiply it.

    Kernels: 1 / sqrt(inputs); biases, noise strengths and the constant: 1; in the mapping all are
    times `mapping_rate`; 0 for what is not trained. Adam sees the gradient of the stored weight
    (times the constant) and its step moves the effective weight by the constant again.
    Source: arXiv:1710.10196, section 4.1.
    """

    def scale(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value = 1.0 if isinstance(variable, nnx.Param) else 0.0
        if path[-1] == "kernel":
            value *= float(np.prod(variable.get_value().shape[:-1])) ** -0.5
        if path[0] == "mapping":
            value *= mapping_rate
        return variable.replace(jnp.asarray(value, jnp.float32))

    graph, state = nnx.split(module)
    return nnx.merge(graph, nnx.map_state(scale, state))


def patches(images: Images, side: int) -> Features:
    """Squares of `side` x `side` pixels as channels."""
    batch, height, width, channels = images.shape
    split = images.reshape(batch, height // side, side, width // side, side, channels)
    split = split.transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(batch, height // side, width // side, side * side * channels)


def halved(conv: Conv, x: Features) -> Features:
    """Half the size by a 4x4 kernel, each output in the middle of its pixels, and a SiLU."""
    kernel = conv.kernel[...].astype(x.dtype)
    return nnx.silu(conv.add_bias(ops.conv(x, kernel, padding=((1, 1), (1, 1)), stride=2)))
