"""Pure operations of style-based networks. Images are NHWC, kernels HWIO.

Each fast form equals a slow, obvious one (zero insertion, nearest upsampling, a kernel per
sample); the tests compare them. Nothing here lowers to a grouped convolution.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fxjax.types import Features

Padding = Sequence[tuple[int, int]]

EXACT = lax.Precision.HIGHEST
"""Products of float32 are float32 on every device, where GPUs and TPUs would round to 10 or 8 bits:
codes, scores and pictures are compared and kept. Networks in bfloat16 are as fast as ever."""


def matmul(
    x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """The matrix product in the arrays' own precision."""
    return jnp.matmul(x, matrix, precision=EXACT)


def conv(
    x: Features,
    kernel: Float[Array, "rows columns channels out"],
    *,
    padding: Padding | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Features:
    """Correlates `x` with `kernel`; the default padding keeps the size, `dilation` spreads `x`."""
    if kernel.shape[:2] == (1, 1) and stride == dilation == 1:
        return matmul(x, kernel[0, 0])
    if padding is None:
        padding = [(size // 2, size - 1 - size // 2) for size in kernel.shape[:2]]
    pairs = tuple((before, after) for before, after in padding)
    out: Any = _conv(x, kernel, pairs, stride, dilation)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(
    x: Features,
    kernel: Float[Array, "rows columns channels out"],
    padding: tuple[tuple[int, int], ...],
    stride: int,
    dilation: int,
) -> Features:
    """`conv`, with its adjoints spelled out.

    XLA's CPU takes the kernel's gradient of a dilated convolution in a naive loop, 30 to 80 times
    slower than this form, and that of a large one 2 to 3 times slower.
    """
    if dilation > 1:
        kernel = lax.platform_dependent(kernel, cuda=_turned_twice, default=lambda same: same)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=EXACT,
    )


def _turned_twice(
    kernel: Float[Array, "rows columns channels out"],
) -> Float[Array, "rows columns channels out"]:
    """The kernel itself, as the reverse of another.

    XLA takes cuDNN's backward-data kernel for a dilated convolution only if it sees a reverse, and
    else convolves the inserted zeros: 0.88 ms in place of 0.27 for 128 to 64 channels on an H200.
    The barrier keeps the two from cancelling.
    """
    return lax.rev(lax.optimization_barrier(lax.rev(kernel, (0, 1))), (0, 1))


def _conv_backward(
    padding: tuple[tuple[int, int], ...],
    stride: int,
    dilation: int,
    saved: tuple[Features, Array],
    cotangent: Features,
) -> tuple[Features, Array]:
    """Adjoints with respect to the input, again a `_conv`, and to the kernel."""
    x, kernel = saved
    sizes = kernel.shape[:2]
    mirrored = [size - 1 - before for size, (before, _) in zip(sizes, padding, strict=True)]
    spans = [  # of the spread input, less that of the spread cotangent
        (x.shape[i] - 1) * dilation - (cotangent.shape[i] - 1) * stride for i in (1, 2)
    ]
    back = tuple((mirrored[i], spans[i] + sizes[i] - 1 - mirrored[i]) for i in (0, 1))
    turned = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    slope: Any = _conv(cotangent, turned, back, dilation, stride)
    if dilation == 1:
        return slope, _correlation(x, cotangent, sizes, [p[0] for p in padding], stride)
    # A dilated convolution is the adjoint of a strided one: input and cotangent change places.
    turned = _correlation(cotangent, x, sizes, mirrored, dilation)
    return slope, jnp.flip(turned, (0, 1)).transpose(0, 1, 3, 2)


def _correlation(
    x: Features, y: Features, sizes: Sequence[int], before: Sequence[int], stride: int
) -> Float[Array, "rows columns channels out"]:
    """For tap i: the sum over images and positions p of x[p * stride + i - before] y[p]."""
    padding = [
        (before[i], sizes[i] + (y.shape[i + 1] - 1) * stride - x.shape[i + 1] - before[i])
        for i in (0, 1)
    ]

    def correlate(x, y, numbers):
        spread: Any = {"rhs_dilation": (stride, stride), "dimension_numbers": numbers}
        return lax.conv_general_dilated(x, y, (1, 1), padding, precision=EXACT, **spread)

    def whole(x, y):
        numbers = lax.ConvDimensionNumbers((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
        return correlate(x, y, numbers)

    def one_by_one(x, y):  # several times faster on XLA's CPU for large images
        def add(total, pair):
            one, other = pair
            part = correlate(
                one.transpose(2, 0, 1)[..., None], other[:, :, None], ("NHWC", "HWIO", "NHWC")
            )
            return total + part, None

        total = jnp.zeros((x.shape[3], *sizes, y.shape[3]), x.dtype)
        return lax.scan(add, total, (x, y))[0].transpose(1, 2, 0, 3)

    if x.shape[1] * x.shape[2] < 1024:
        return whole(x, y)
    return lax.platform_dependent(x, y, cpu=one_by_one, default=whole)


_conv.defvjp(
    lambda x, kernel, padding, stride, dilation: (
        _conv(x, kernel, padding, stride, dilation),
        (x, kernel),
    ),
    _conv_backward,
)


def _box(kernel: Float[Array, "3 3 channels out"]) -> Float[Array, "4 4 channels out"]:
    """The 3x3 kernel convolved with a 2x2 box of ones."""
    wide = jnp.pad(kernel, [(0, 1), (0, 1), (0, 0), (0, 0)])
    wide = wide + jnp.roll(wide, 1, axis=0)
    return wide + jnp.roll(wide, 1, axis=1)


def nearest_up_conv(x: Features, kernel: Float[Array, "3 3 channels out"]) -> Features:
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution, without the enlarged input.

    16 multiplications per input pixel where the naive form needs 36.
    """
    return transposed_conv(x, _box(kernel))


@jax.custom_vjp
def transposed_conv(x: Features, kernel: Float[Array, "4 4 channels out"]) -> Features:
    """The transposed 4x4 convolution of stride 2 that doubles the size.

    Forward it is one dense 2x2 convolution that makes the four pixels of each block, backward the
    stride-2 convolution of the dilated form: on a CPU each is the faster of the two (1.3 to 2
    times).
    """
    phases = jnp.stack(
        [jnp.stack([kernel[i::2, j::2] for j in (0, 1)], axis=-2) for i in (0, 1)], axis=-3
    )
    channels, out = kernel.shape[2:]
    y = conv(x, phases.reshape(2, 2, channels, 4 * out), padding=[(1, 1), (1, 1)])
    batch, height, width = x.shape[:3]
    y = y.reshape(batch, height + 1, width + 1, 2, 2, out)
    rows = [
        jnp.stack([y[:, i : i + height, j : j + width, i, j] for j in (0, 1)], axis=3)
        for i in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, out)


def dilated_conv(x: Features, kernel: Float[Array, "4 4 channels out"]) -> Features:
    """`transposed_conv` with zeros between the pixels."""
    return conv(x, kernel, padding=[(2, 2), (2, 2)], dilation=2)


transposed_conv.defvjp(
    lambda x, kernel: (transposed_conv(x, kernel), (x, kernel)),
    lambda saved, cotangent: jax.vjp(dilated_conv, *saved)[1](cotangent),
)


def conv_mean_down(x: Features, kernel: Float[Array, "3 3 channels out"]) -> Features:
    """A 3x3 convolution, then the mean of 2x2 blocks, as one 4x4 convolution of stride 2."""
    return conv(
        x, _box(kernel) * jnp.asarray(0.25, kernel.dtype), padding=[(1, 1), (1, 1)], stride=2
    )


def _slice(x: Features, axis: int, start: int, count: int, stride: int = 1) -> Features:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _pad(x: Features, axes: Sequence[int], before: int, after: int) -> Features:
    widths = [(before, after, 0) if axis in axes else (0, 0, 0) for axis in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def _normal(taps: Sequence[float]) -> list[float]:
    return [float(tap) / float(sum(taps)) for tap in taps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _filter(x: Features, weights: tuple[float, ...], pad: tuple[int, int], stride: int) -> Features:
    """Correlates rows, then columns with `weights`."""
    x = _pad(x, (1, 2), *pad)
    for axis in (1, 2):
        count = (x.shape[axis] - len(weights)) // stride + 1
        parts = [_slice(x, axis, i, count, stride) * weight for i, weight in enumerate(weights)]
        x = functools.reduce(jnp.add, parts)
    return x


def _filter_backward(
    weights: tuple[float, ...],
    pad: tuple[int, int],
    stride: int,
    size: tuple[int, ...],
    cotangent: Features,
) -> tuple[Features]:
    """The adjoint is a filter as well; XLA's own, of slices, pads and adds, is slower."""
    if stride > 1:  # zeros between, and for the pixels at the end that no window reached
        rest = [(n + sum(pad) - len(weights)) % stride for n in size[1:3]]
        widths = [(0, 0, 0), *((0, r, stride - 1) for r in rest), (0, 0, 0)]
        cotangent = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), widths)
    reach = len(weights) - 1
    return (_filter(cotangent, weights[::-1], (reach - pad[0], reach - pad[1]), 1),)


_filter.defvjp(
    lambda x, weights, pad, stride: (_filter(x, weights, pad, stride), x.shape), _filter_backward
)


def fir(
    x: Features, taps: Sequence[float], *, pad: tuple[int, int], gain: float = 1.0, stride: int = 1
) -> Features:
    """Filters rows and columns with `taps` (scaled to sum 1, then by `gain` in all), zero padded.

    True convolution: an asymmetric filter is applied flipped, as the official filters are.
    """
    return _filter(x, tuple(tap * gain**0.5 for tap in _normal(taps)[::-1]), pad, stride)


def fir_up(x: Features, taps: Sequence[float]) -> Features:
    """Doubles the size by zero insertion and the FIR filter `taps` (gain 4), phase by phase."""
    weights = [tap * 2 for tap in _normal(taps)[::-1]]
    before = (len(weights) + 1) // 2  # (2, 1) for four taps
    for axis in (1, 2):
        size, reach, phases = x.shape[axis], len(weights), []
        padded = _pad(x, (axis,), reach, reach)
        for phase in (0, 1):  # output 2i + phase reads input i + (phase + tap - before) / 2
            chosen = [t for t in range(reach) if (phase + t - before) % 2 == 0]
            parts = [
                _slice(padded, axis, reach + (phase + t - before) // 2, size) * weights[t]
                for t in chosen
            ]
            phases.append(functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(x))
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack(phases, axis=axis + 1).reshape(shape)
    return x


def fir_down(x: Features, taps: Sequence[float]) -> Features:
    """Halves the size: FIR filter `taps`, then every second pixel."""
    excess = len(taps) - 2
    return fir(x, taps, pad=((excess + 1) // 2, excess // 2), stride=2)


def modulated_conv(
    x: Features,
    kernel: Float[Array, "rows columns channels out"],
    style: Float[Array, "batch channels"],
    *,
    up: Sequence[float] | None = None,
) -> Features:
    """StyleGAN2's modulated and demodulated convolution (arXiv:1912.04958, equations 1 and 3).

    Scales the activations by the style, convolves with the shared kernel, scales by
    1 / sqrt(sum of squares + 1e-8): no kernel per sample, so siblings in a batch are one plain
    convolution. In the dtype of `x`, but for the sums of squares, which are float32. `up` doubles
    the size, with that FIR filter after the stride-2 transposed convolution.
    """
    energy = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=(0, 1))
    power = jnp.square(style.astype(jnp.float32))
    demodulation = lax.rsqrt(matmul(power, energy) + 1e-8)
    kernel = kernel.astype(x.dtype)
    x = (x * style.astype(jnp.float32)[:, None, None, :]).astype(x.dtype)
    if up is None:
        x = conv(x, kernel)
    else:
        reach = kernel.shape[0] - 1
        x = conv(x, kernel, padding=[(reach, reach)] * 2, dilation=2)
        excess = len(up) - 2 - reach  # size 2n + 1 after a 3x3 kernel; the filter brings it to 2n
        x = fir(x, up, pad=((excess + 1) // 2 + 1, excess // 2 + 1), gain=4.0)
    return x * demodulation.astype(x.dtype)[:, None, None, :]


def instance_norm(x: Features, epsilon: float) -> Features:
    """Zero mean and unit biased variance per image and channel, computed in float32.

    Rows are averaged before columns: short sums round less than one long one.
    """
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(jnp.mean(wide, axis=2, keepdims=True), axis=1, keepdims=True)
    variance = jnp.mean(jnp.mean(jnp.square(wide), axis=2, keepdims=True), axis=1, keepdims=True)
    return (wide * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def unit_square(x: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Scales each row to unit mean square (1e-8 under the root)."""
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def leaky(x: Array, gain: float = 1.0) -> Array:
    """Leaky ReLU of slope 0.2, times `gain`."""
    return jax.nn.leaky_relu(x, 0.2) * jnp.asarray(gain, x.dtype)


def minibatch_deviation(x: Features, group: int | None, features: int = 1) -> Features:
    """Appends `features` channels: the standard deviation over groups of images (arXiv:1710.10196).

    Image i is in group i mod (batch / group); None takes the whole batch as one group. Raises
    ValueError if the batch is not divisible.
    """
    if not features:
        return x
    batch, height, width, channels = x.shape
    group = batch if group is None else min(group, batch)
    if batch % group:
        raise ValueError(
            f"a batch of {batch} cannot be split into minibatch-deviation groups of {group}; "
            f"use a multiple of {group}"
        )
    y = x.astype(jnp.float32).reshape(group, -1, height, width, features, channels // features)
    deviation = jnp.sqrt(jnp.var(y, axis=0) + 1e-8)
    level = jnp.mean(deviation, axis=(1, 2, 4))[:, None, None, :]
    level = jnp.tile(level, (group, height, width, 1)).astype(x.dtype)
    return jnp.concatenate([x, level], axis=-1)


def max_pool(x: Features) -> Features:
    """Maximum of 2x2 blocks; an odd last row or column is dropped.

    By pairs: the gradient of `jnp.max` divides by how many equal the maximum, which can be none
    where XLA computes the input once more and rounds otherwise.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = jnp.maximum(x[:, :height:2], x[:, 1:height:2])
    return jnp.maximum(x[:, :, :width:2], x[:, :, 1:width:2])


def class_score(
    scores: Float[Array, "batch classes"], labels: Float[Array, "batch labels"] | None
) -> Float[Array, " batch"]:
    """The one score, or with labels the score of the picture's own class."""
    if scores.shape[-1] == 1 and (labels is None or labels.shape[-1] <= 1):
        return scores[:, 0]
    if labels is None or labels.shape[-1] != scores.shape[-1]:
        found = "none" if labels is None else f"{labels.shape}"
        raise ValueError(
            f"this discriminator wants labels of width {scores.shape[-1]}, got {found}"
        )
    return jnp.sum(scores * labels.astype(scores.dtype), axis=-1)
