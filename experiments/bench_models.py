"""Speed of the generators: forward, and forward with the gradient to the codes.

Full official widths, random weights. Prints a table with GFLOP/s and the share of the best rate
that plain convolutions and matrix products reach on the same machine in the same run.

    python -m experiments.bench_models --sizes=256,1024 --batches=1,4
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fxjax.cli import launch
from fxjax.nn.generator import Generator, synthesize
from fxjax.nn.layers import default_widths
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.runs import bench
from fxjax.types import Codes


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    models: Annotated[tuple[str, ...], "stylegan1, stylegan2"] = ("stylegan1", "stylegan2")
    sizes: Annotated[tuple[int, ...], "picture sizes in pixels"] = (64, 128, 256, 512, 1024)
    batches: Annotated[tuple[int, ...], "pictures at once"] = (1, 4, 8)
    dtype: Annotated[Literal["float32", "bfloat16"], "what the convolutions compute in"] = "float32"
    runs: Annotated[int, "timed runs of each program"] = 5
    largest: Annotated[int, "skip gradients of batch * pixels over this (memory)"] = 4 * 1024 * 1024
    peak: Annotated[float, "the device's peak TFLOP/s if known, for MFU"] = 0.0


def forward(generator: Generator, codes: Codes) -> jax.Array:
    """Synthesis alone."""
    return synthesize(generator, codes)


def gradient(generator: Generator, codes: Codes) -> jax.Array:
    """Synthesis and the gradient of a sum of squares to the codes; the weights are frozen."""
    return jax.grad(lambda c: jnp.sum(jnp.square(synthesize(generator, c))))(codes)


def make(model: str, size: int, dtype: str) -> Any:
    """A generator of official widths and random weights."""
    makers = {"stylegan1": StyleGAN1, "stylegan2": StyleGAN2}
    if model not in makers:
        raise ValueError(f"--models: no {model!r}; there are {', '.join(makers)}")
    widths = default_widths(size, bench.BASES[model], 512)
    return makers[model](size, widths, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))


def main(config: Config) -> None:
    """Measures and prints."""
    machine = bench.machine()
    best, what = bench.ceiling(jnp.dtype(config.dtype), config.runs)
    print(f"{machine}; {config.dtype}; ceiling {best / 1e9:.0f} GFLOP/s ({what})")
    head = ["model", "px", "batch", "pass", "s", "GFLOP", "GFLOP/s", "of ceiling"]
    head += ["compile s", "memory GiB", *(["MFU"] if config.peak else [])]
    print(bench.table(head, []), flush=True)
    for model in config.models:
        for size in config.sizes:
            generator = make(model, size, config.dtype)
            for batch in config.batches:
                codes = jax.random.normal(
                    jax.random.key(0), (batch, len(generator.rows), generator.dim)
                )
                work = bench.flops(forward, generator, codes)
                for name, function in {"forward": forward, "gradient": gradient}.items():
                    # Frozen weights: backward is each layer's input gradient, as much work again.
                    work = 2 * work if name == "gradient" else work
                    if name == "gradient" and batch * size**2 > config.largest:
                        continue
                    timing = bench.measure(function, generator, codes, runs=config.runs)
                    rate = work / timing.median
                    row = [model, size, batch, name, f"{timing.median:.3f}", f"{work / 1e9:.1f}"]
                    row += [f"{rate / 1e9:.0f}", f"{rate / best:.0%}", f"{timing.compilation:.1f}"]
                    row += [f"{timing.memory / 2**30:.2f}"]
                    row += [f"{rate / 1e12 / config.peak:.0%}"] if config.peak else []
                    print("| " + " | ".join(map(str, row)) + " |", flush=True)
    again, what = bench.ceiling(jnp.dtype(config.dtype), config.runs)
    print(f"ceiling measured again: {again / 1e9:.0f} GFLOP/s ({what})")


if __name__ == "__main__":
    launch(Config, main)
