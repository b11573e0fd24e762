"""Every fast operation against its slow, obvious twin."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fxjax.nn import ops

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def correlate(x: np.ndarray, kernel: np.ndarray, pad: tuple[int, int]) -> np.ndarray:
    """Float64 correlation, one tap at a time."""
    x = np.pad(x.astype(np.float64), [(0, 0), pad, pad, (0, 0)])
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out += x[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
    return out


def spread(x: np.ndarray) -> np.ndarray:
    """Zero insertion: doubles the size."""
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    out[:, ::2, ::2] = x
    return out


def filtered(x: np.ndarray, taps: list[float], pad: tuple[int, int], gain: float) -> np.ndarray:
    """True convolution with the outer product of `taps`, channel by channel."""
    taps_ = np.asarray(taps, np.float64)[::-1] / sum(taps)
    kernel = np.outer(taps_, taps_) * gain
    x = np.pad(x.astype(np.float64), [(0, 0), pad, pad, (0, 0)])
    reach = len(taps)
    height, width = x.shape[1] - reach + 1, x.shape[2] - reach + 1
    out = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i in range(reach):
        for j in range(reach):
            out += x[:, i : i + height, j : j + width] * kernel[i, j]
    return out


def close(fast: jax.Array, slow: np.ndarray) -> None:
    assert fast.shape == slow.shape
    np.testing.assert_allclose(fast, slow, atol=2e-5 * max(1, np.abs(slow).max()))


@pytest.mark.parametrize("size", [1, 3])
def test_conv_keeps_the_size(size: int) -> None:
    x, kernel = draw(2, 6, 5, 4), draw(size, size, 4, 3)
    close(
        ops.conv(jnp.asarray(x), jnp.asarray(kernel)), correlate(x, kernel, (size // 2, size // 2))
    )


def test_nearest_up_conv_is_upsample_then_conv() -> None:
    x, kernel = draw(2, 5, 5, 4), draw(3, 3, 4, 3)
    slow = correlate(x.repeat(2, axis=1).repeat(2, axis=2), kernel, (1, 1))
    close(ops.nearest_up_conv(jnp.asarray(x), jnp.asarray(kernel)), slow)


def test_conv_mean_down_is_conv_then_mean() -> None:
    x, kernel = draw(2, 8, 8, 4), draw(3, 3, 4, 3)
    slow = correlate(x, kernel, (1, 1)).reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    close(ops.conv_mean_down(jnp.asarray(x), jnp.asarray(kernel)), slow)


@pytest.mark.parametrize(
    "taps",
    [[1.0, 3.0, 3.0, 1.0], [1.0, 2.0, 1.0], [1.0, 4.0, 2.0, 3.0], [1.0, 2.0, 4.0, 4.0, 2.0, 1.0]],
)
def test_fir_up_and_down(taps: list[float]) -> None:
    x = draw(2, 6, 6, 3)
    excess = len(taps) - 2
    pad = ((excess + 1) // 2 + 1, excess // 2)
    close(ops.fir_up(jnp.asarray(x), taps), filtered(spread(x), taps, pad, 4.0))
    pad = ((excess + 1) // 2, excess // 2)
    close(ops.fir_down(jnp.asarray(x), taps), filtered(x, taps, pad, 1.0)[:, ::2, ::2])


@pytest.mark.parametrize("up", [None, (1.0, 3.0, 3.0, 1.0)])
def test_modulated_conv_is_a_kernel_per_sample(up: tuple[float, ...] | None) -> None:
    x, kernel, style = draw(3, 6, 6, 4), draw(3, 3, 4, 5), draw(3, 4)
    outs = []
    for i in range(3):
        own = kernel * style[i][None, None, :, None]
        own = own / np.sqrt(np.sum(own**2, axis=(0, 1, 2)) + 1e-8)
        if up is None:
            outs.append(correlate(x[i : i + 1], own, (1, 1)))
        else:
            wide = spread(x[i : i + 1])[:, :-1, :-1]
            outs.append(filtered(correlate(wide, own, (2, 2)), list(up), (1, 1), 4.0))
    fast = ops.modulated_conv(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(style), up=up)
    close(fast, np.concatenate(outs))


def test_instance_norm_and_bfloat16() -> None:
    x = draw(2, 4, 4, 3) * 5 + 2
    slow = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-8)
    close(ops.instance_norm(jnp.asarray(x), 1e-8), slow)
    half = ops.instance_norm(jnp.asarray(x, jnp.bfloat16), 1e-8)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(("group", "features"), [(2, 1), (None, 1), (4, 2)])
def test_minibatch_deviation_group_by_group(group: int | None, features: int) -> None:
    x = draw(4, 3, 3, 4)
    size = group or 4
    groups = 4 // size
    fast = ops.minibatch_deviation(jnp.asarray(x), group, features)
    for i in range(4):
        members = x[i % groups :: groups]
        deviation = np.sqrt(members.var(axis=0) + 1e-8)
        for feature, part in enumerate(np.split(deviation, features, axis=-1)):
            np.testing.assert_allclose(fast[i, :, :, 4 + feature], part.mean(), rtol=1e-5)


def test_minibatch_deviation_refuses_a_split_group() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ops.minibatch_deviation(jnp.zeros((6, 2, 2, 1)), 4)


def test_max_pool_matches_reduce_window() -> None:
    x = jnp.asarray(draw(1, 7, 6, 3))

    def slow(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(ops.max_pool(x), slow(x))
    slopes = [jax.grad(lambda x, f=f: jnp.sum(f(x) ** 3))(x) for f in (ops.max_pool, slow)]
    np.testing.assert_array_equal(*slopes)


def adjoint_fits(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> None:
    """<f(x), y> = <x, f'(y)> for a linear function, and the adjoint's own derivative is f."""
    point = jnp.asarray(x)
    out, pull = jax.vjp(function, point)
    y = jnp.asarray(draw(*out.shape))
    np.testing.assert_allclose(jnp.vdot(out, y), jnp.vdot(point, pull(y)[0]), rtol=1e-4)
    again = jax.vjp(lambda v: pull(v)[0], y)[1](point)[0]
    close(again, np.asarray(out, np.float64))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_fir_gradient(stride: int, size: int) -> None:
    for pad in ((2, 1), (0, 0), (1, 1)):
        adjoint_fits(
            lambda v, pad=pad: ops.fir(v, [1.0, 4.0, 2.0, 3.0], pad=pad, gain=4.0, stride=stride),
            draw(2, size, size, 3),
        )


def test_nearest_up_conv_gradients() -> None:
    x, kernel = jnp.asarray(draw(2, 5, 6, 4)), jnp.asarray(draw(3, 3, 4, 3))

    def naive(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel)

    adjoint_fits(lambda v: ops.nearest_up_conv(v, kernel), draw(2, 5, 6, 4))
    y = jnp.asarray(draw(2, 10, 12, 3))
    for fast, slow in zip(
        jax.vjp(ops.nearest_up_conv, x, kernel)[1](y), jax.vjp(naive, x, kernel)[1](y), strict=True
    ):
        close(fast, np.asarray(slow, np.float64))


@pytest.mark.parametrize(
    ("size", "kernel", "pad", "stride", "dilation"),
    [
        (9, 3, (1, 1), 1, 1),
        (17, 3, (1, 1), 1, 1),  # large enough for the form that goes image by image
        (17, 3, (0, 0), 2, 1),
        (36, 3, (0, 0), 2, 1),  # the last row and column are not read
        (16, 3, (2, 2), 1, 2),
        (34, 4, (1, 1), 2, 1),
        (17, 4, (2, 2), 1, 2),
        (5, 2, (1, 1), 1, 1),
    ],
)
def test_conv_adjoints_are_those_of_xla(
    size: int, kernel: int, pad: tuple[int, int], stride: int, dilation: int
) -> None:
    """First derivatives, and the second ones that gradient penalties take."""
    x, weights = jnp.asarray(draw(2, size, size, 5)), jnp.asarray(draw(kernel, kernel, 5, 3))

    def plain(x: jax.Array, weights: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, weights, (stride, stride), [pad, pad], lhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def fast(x: jax.Array, weights: jax.Array) -> jax.Array:
        return ops.conv(x, weights, padding=[pad, pad], stride=stride, dilation=dilation)

    cotangent = jnp.asarray(draw(*plain(x, weights).shape))

    def derivatives(function) -> list[jax.Array]:
        first = lambda x, weights: jax.vjp(function, x, weights)[1](cotangent)
        squares = lambda x, weights: sum(jnp.sum(slope**2) for slope in first(x, weights))
        return [*first(x, weights), *jax.grad(squares, argnums=(0, 1))(x, weights)]

    for quick, slow in zip(derivatives(fast), derivatives(plain), strict=True):
        close(quick, np.asarray(slow))


def spread_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return ops.conv(x, kernel, padding=[(2, 2), (2, 2)], dilation=2)


@pytest.mark.parametrize("side", [3, 4])  # StyleGAN2's upsampling; another transposed convolution
def test_the_form_for_cuda_is_the_same_convolution(
    monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Values and gradients of first and second order, with the kernel turned twice or as it is."""
    x, kernel = jnp.asarray(draw(2, 6, 7, 5)), jnp.asarray(draw(side, side, 5, 3))
    cotangent = jnp.asarray(draw(*spread_conv(x, kernel).shape))

    def program() -> jax.stages.Lowered:
        def first(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
            return jax.vjp(spread_conv, x, kernel)[1](cotangent)

        def squares(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(first(x, kernel)[0] ** 2) + jnp.sum(first(x, kernel)[1] ** 2)

        def everything(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
            second = jax.grad(squares, argnums=(0, 1))(x, kernel)
            return [spread_conv(x, kernel), *first(x, kernel), *second]

        return jax.jit(everything).lower(x, kernel)

    plain = program()
    assert "optimization_barrier" not in plain.as_text()
    choose = lambda *given, default, cuda=None, cpu=None: (cuda or cpu or default)(*given)
    monkeypatch.setattr(lax, "platform_dependent", choose)
    turned = program()
    assert "optimization_barrier" in turned.as_text()
    for one, other in zip(turned.compile()(x, kernel), plain.compile()(x, kernel), strict=True):
        close(one, np.asarray(other))


def kernels(function: Callable[..., Any], platform: str, *given: jax.Array) -> list[str]:
    """What makes the kernel of each dilated convolution of a program, lowered for a platform."""
    program = jax.jit(function).trace(*given).lower(lowering_platforms=(platform,))
    module: Any = program.compiler_ir("stablehlo")
    functions = {each.attributes["sym_name"].value: each for each in module.body.operations}
    made = []

    def maker(value: Any) -> str:
        operation = value.owner
        if not hasattr(operation, "regions"):
            return "argument"
        if operation.name == "stablehlo.case":
            inside = operation
        elif operation.name == "func.call":
            inside = functions[operation.attributes["callee"].value]
        else:
            return operation.name
        return maker(list(inside.regions[0].blocks[0].operations)[-1].operands[0])

    def walk(operation: Any) -> None:
        if operation.name == "stablehlo.convolution":
            spread = "lhs_dilation" in operation.attributes
            if spread and max(operation.attributes["lhs_dilation"]) > 1:
                made.append(maker(operation.operands[1]))
        for region in operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    walk(inner.operation)

    walk(module.operation)
    return made


def up(x: jax.Array, kernel: jax.Array, style: jax.Array) -> jax.Array:
    return ops.modulated_conv(x, kernel, style, up=(1.0, 3.0, 3.0, 1.0))


def one_by_one(x: jax.Array, kernel: jax.Array, style: jax.Array) -> jax.Array:
    return jax.vmap(lambda x, style: up(x[None], kernel, style[None])[0])(x, style)


def on_a_mesh(
    x: jax.Array, kernel: jax.Array, style: jax.Array, *, check_vma: bool = True
) -> jax.Array:
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")
    lanes: Any = jax.shard_map(
        up, mesh=mesh, in_specs=(split, whole, split), out_specs=split, check_vma=check_vma
    )
    return lanes(x, kernel, style)


def slope(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    return jax.grad(lambda *given: jnp.sum(function(*given) ** 2), argnums=(0, 1, 2))


@pytest.mark.parametrize(
    "function",
    [
        up,
        one_by_one,
        on_a_mesh,
        slope(up),
        slope(jax.checkpoint(up)),
        slope(functools.partial(on_a_mesh, check_vma=False)),
    ],
)
def test_only_cuda_turns_the_kernels_of_dilated_convolutions(function: Any) -> None:
    """XLA makes cuDNN's backward-data convolution of those whose kernel is a reverse."""
    given = [jnp.asarray(draw(*shape)) for shape in ((4, 8, 8, 5), (3, 3, 5, 3), (4, 5))]
    found = kernels(function, "cuda", *given)
    assert found
    assert set(found) == {"stablehlo.reverse"}
    for platform in ("cpu", "tpu"):
        found = kernels(function, platform, *given)
        assert found
        assert "stablehlo.reverse" not in found


@pytest.mark.parametrize("function", [one_by_one, on_a_mesh])
def test_upsampling_batched_and_on_a_mesh(function: Any) -> None:
    given = [jnp.asarray(draw(*shape)) for shape in ((4, 8, 8, 5), (3, 3, 5, 3), (4, 5))]
    close(jax.jit(function)(*given), np.asarray(up(*given)))


def test_a_strided_convolution_goes_backwards_as_cudnn_does() -> None:
    """The discriminator's: its input's gradient is a dilated convolution."""

    def down(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(ops.conv(x, kernel, padding=[(0, 0), (0, 0)], stride=2) ** 2)

    given = [jnp.asarray(draw(*shape)) for shape in ((2, 9, 9, 5), (3, 3, 5, 3))]
    assert kernels(jax.grad(down), "cuda", *given) == ["stablehlo.reverse"]
