"""Speed of the generators: forward, and forward with the gradient to the codes.

Full official widths, random weights. Prints a table with GFLOP/s and the share of the best rate
that plain convolutions and matrix products reach on the same machine in the same run. GB are what
the compiled program reads and writes by its compiler's count, FLOP/B its operations for each byte.

    python -m experiments.bench_models --sizes=256,1024 --batches=1,4 --dtypes=float32,bfloat16
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp

from fxjax.cli import launch
from fxjax.nn.generator import Generator, synthesize
from fxjax.runs import bench
from fxjax.types import Codes


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    models: Annotated[tuple[str, ...], "stylegan1, stylegan2"] = ("stylegan1", "stylegan2")
    sizes: Annotated[tuple[int, ...], "picture sizes in pixels"] = (64, 128, 256, 512, 1024)
    batches: Annotated[tuple[int, ...], "pictures at once"] = (1, 4, 8)
    dtypes: Annotated[tuple[str, ...], "what it computes in: float32, bfloat16"] = ("float32",)
    runs: Annotated[int, "timed runs of each program"] = 5
    largest: Annotated[int, "skip gradients of batch * pixels over this (memory)"] = 4 * 1024 * 1024
    peak: Annotated[float, "the device's peak TFLOP/s if known, for MFU"] = 0.0


def forward(generator: Generator, codes: Codes) -> jax.Array:
    """Synthesis alone."""
    return synthesize(generator, codes)


def gradient(generator: Generator, codes: Codes) -> jax.Array:
    """Synthesis and the gradient of a sum of squares to the codes; the weights are frozen."""
    return jax.grad(lambda c: jnp.sum(jnp.square(synthesize(generator, c))))(codes)


def main(config: Config) -> None:
    """Measures and prints."""
    head = ["model", "px", "dtype", "batch", "pass", "s", "GFLOP", "GFLOP/s", "of ceiling"]
    head += ["compile s", "memory GiB", "GB", "FLOP/B"]
    bench.show(head, config.dtypes, config.peak, functools.partial(measured, config))


def measured(config: Config, ceilings: dict[str, float]) -> Iterator[tuple[list[object], float]]:
    """The rows of the table."""
    every = itertools.product(config.models, config.sizes, config.dtypes, config.batches)
    for model, size, dtype, batch in every:
        generator = bench.generator(model, size, dtype)
        codes = jax.random.normal(jax.random.key(0), (batch, len(generator.rows), generator.dim))
        work = bench.flops(forward, generator, codes)
        for name, function in {"forward": forward, "gradient": gradient}.items():
            # Frozen weights: backward is each layer's input gradient, as much work again.
            work = 2 * work if name == "gradient" else work
            if name == "gradient" and batch * size**2 > config.largest:
                continue
            timing = bench.measure(function, generator, codes, runs=config.runs)
            rate, moved = work / timing.median, timing.cost.bytes
            row = [model, size, dtype, batch, name, f"{timing.median:.3f}", f"{work / 1e9:.1f}"]
            row += [f"{rate / 1e9:.0f}", f"{rate / ceilings[dtype]:.0%}"]
            row += [f"{timing.compilation:.1f}", f"{timing.memory / 2**30:.2f}"]
            yield [*row, f"{moved / 1e9:.2f}", f"{work / max(moved, 1):.0f}"], rate


if __name__ == "__main__":
    launch(Config, main)
