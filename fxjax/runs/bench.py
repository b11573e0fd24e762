"""What the benchmarks share: timing, counting of multiply-accumulates, the machine's ceiling."""

import dataclasses
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fxjax.nn.layers import default_widths
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16

# (height = width, channels, out) of 3x3 convolutions, and the side of square matrix products.
CONVS = ((32, 512, 512), (64, 256, 256), (128, 128, 128), (256, 64, 64))
MATMULS = (1024, 2048)
# Makers, and the base of the official channels: min(base / size, 512).
MODELS = {"stylegan1": (StyleGAN1, 16384), "stylegan2": (StyleGAN2, 32768)}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds: the median and the least of the runs, and the compilation; bytes of temporaries.

    `cost` is of one run: a loop's body counts once.
    """

    median: float
    least: float
    compilation: float
    memory: int
    cost: "Cost"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, and the bytes that fused operations read and write."""

    flops: float
    bytes: float


def machine() -> str:
    """The device and what drives it, for the head of a table.

    Call it first: it also switches the compilation cache off, since compile times are measured.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else _processor()
    return f"{name}, {os.cpu_count()} cores, jax {jax.__version__}, {device.platform}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            models = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or "unknown processor"


def generator(model: str, size: int, dtype: str, base: int = 0) -> Any:
    """A generator of random weights. Channels: base / size, at most 512; 0: the official ones."""
    if model not in MODELS:
        raise ValueError(f"--models: no {model!r}; there are {', '.join(MODELS)}")
    make, official = MODELS[model]
    widths = default_widths(size, base or official, 512)
    return make(size, widths, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))


def features(dtype: str) -> VGG16:
    """A VGG16 up to block3_conv3, of random weights, that takes pictures as they are."""
    neutral: Any = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False}
    return VGG16((64, 128, 256), **neutral, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))


def measure(function: Callable[..., Any], *arguments: Any, runs: int = 5) -> Timing:
    """Compiles `function`, then times it."""
    lowered = jax.jit(function).lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    compilation = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    memory = (
        0 if analysis is None else analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    )
    return Timing(statistics.median(seconds), min(seconds), compilation, memory, _cost(compiled))


def counted(function: Callable[..., Any], *arguments: Any) -> Cost:
    """What the compiler of this device counts of a program, without running it."""
    return _cost(jax.jit(function).lower(*arguments).compile())


def _cost(compiled: Any) -> Cost:
    found = compiled.cost_analysis() or {}
    return Cost(found.get("flops", 0.0), found.get("bytes accessed", 0.0))


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations (two per multiply-accumulate) of convolutions and products.

    Taps of dilated convolutions that meet inserted zeros are not counted.
    """
    return 2 * _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def _macs(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            total += math.prod(out) * taps // math.prod(equation.params["lhs_dilation"])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += math.prod(out) * math.prod(shape[axis] for axis in contracted)
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        total += times * _macs(inner)
    return total


def ceiling(dtype: Any, runs: int = 5) -> tuple[float, str]:
    """The best rate in FLOP/s that plain 3x3 convolutions and matrix products reach here."""
    rates = []
    for side in MATMULS if jax.devices()[0].platform == "cpu" else (4096, 8192):
        a = jnp.ones((side, side), dtype)
        rates.append((2 * side**3 / measure(jnp.matmul, a, a, runs=runs).least, f"matmul {side}"))
    batch = 1 if jax.devices()[0].platform == "cpu" else 16
    for size, channels, out in CONVS:
        x = jnp.ones((batch, size, size, channels), dtype)
        kernel = jnp.ones((3, 3, channels, out), dtype)
        seconds = measure(_plain, x, kernel, runs=runs).least
        work = 2 * batch * size * size * 9 * channels * out
        rates.append((work / seconds, f"3x3 convolution {size} px {channels}>{out}"))
    return max(rates)


def ceilings(dtypes: Sequence[str], runs: int = 5) -> dict[str, float]:
    """The ceiling in each of these types, also printed. ValueError for another name."""
    found = {}
    for name in dtypes:
        if name not in ("float32", "bfloat16"):
            raise ValueError(f"--dtypes: no {name!r}; there are float32 and bfloat16")
        found[name], what = ceiling(jnp.dtype(name), runs)
        print(f"{name}: ceiling {found[name] / 1e9:.0f} GFLOP/s ({what})", flush=True)
    return found


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def show(
    head: Sequence[str],
    dtypes: Sequence[str],
    peak: float,
    rows: Callable[[dict[str, float]], Iterable[tuple[Sequence[object], float]]],
) -> None:
    """Prints the machine, its ceilings, a Markdown table as its rows come, and the ceilings again.

    `rows` makes, of the ceilings in FLOP/s, each row's cells and its rate in FLOP/s, which the last
    column has as a share of the `peak` in TFLOP/s if that is known (not 0).
    """
    print(machine())
    best = ceilings(dtypes)

    def line(cells: Sequence[object], last: str) -> None:
        print("| " + " | ".join(map(str, [*cells, *([last] if peak else [])])) + " |", flush=True)

    line(head, "MFU")
    line(["---"] * len(head), "---")
    for cells, rate in rows(best):
        line(cells, f"{rate / 1e12 / peak:.0%}" if peak else "")
    ceilings(dtypes)
