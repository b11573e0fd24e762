"""Speed of inversion: seconds per step of StyleGANs and VGG16 to block3_conv3, at full width.

Random weights. The share is of the best rate that plain convolutions and matrix products reach on
the same machine in the same run. `VGG16 s` is the feature network's own part of a step, measured
beside it: nothing but plain 3x3 convolutions and their gradients. Figures of other machines compare
by the share and by the ratio to VGG16 alone. GB are what a step reads and writes by its compiler's
count, FLOP/B its operations for each byte.

    python -m experiments.bench_inversion --sizes=128,256 --batches=1,4 --dtypes=float32,bfloat16
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from fxjax.cli import launch
from fxjax.codes import invert
from fxjax.losses import Perceptual
from fxjax.nn.generator import synthesize
from fxjax.runs import bench


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    models: Annotated[tuple[str, ...], "stylegan1, stylegan2"] = ("stylegan1", "stylegan2")
    sizes: Annotated[tuple[int, ...], "picture sizes in pixels"] = (128, 256, 1024)
    batches: Annotated[tuple[int, ...], "pictures at once"] = (1, 4, 8)
    steps: Annotated[int, "steps of a timed run"] = 5
    runs: Annotated[int, "timed runs; the table has their median"] = 3
    dtypes: Annotated[tuple[str, ...], "what it computes in: float32, bfloat16"] = ("float32",)
    base: Annotated[int, "the generator's channels are base / size, at most 512"] = 16384
    remat: Annotated[bool, "recompute rows in the backward pass"] = False
    peak: Annotated[float, "the device's peak TFLOP/s if known, for MFU"] = 0.0
    largest: Annotated[int, "skip batch * pixels over this (memory)"] = 4 * 1024 * 1024


def main(config: Config) -> None:
    """Measures and prints."""
    head = ["model", "px", "dtype", "batch", "s per step", "image-steps/s", "GFLOP", "GFLOP/s"]
    head += ["of ceiling", "VGG16 s", "times VGG16", "compile s", "memory GiB", "GB", "FLOP/B"]
    bench.show(head, config.dtypes, config.peak, functools.partial(measured, config))


def measured(config: Config, ceilings: dict[str, float]) -> Iterator[tuple[list[object], float]]:
    """The rows of the table."""
    for model, size, dtype in itertools.product(config.models, config.sizes, config.dtypes):
        features = bench.features(dtype)
        generator = bench.generator(model, size, dtype, config.base)
        for batch in config.batches:
            if batch * size**2 <= config.largest:
                cells, rate = measure(config, generator, features, batch, ceilings[dtype])
                yield [model, size, dtype, batch, *cells], rate


def measure(
    config: Config, generator: Any, features: Any, batch: int, best: float
) -> tuple[list[str], float]:
    """The figures of one row, and its rate."""
    loss = Perceptual(features)
    settings = invert.Settings(steps=config.steps, remat=config.remat)
    start = invert.mean_codes(generator, batch)
    z = jax.random.normal(jax.random.key(0), start.shape)
    goal = jax.jit(lambda g, f, codes: f.embed(synthesize(g, codes)))(generator, loss, z)
    place = invert.begin(generator, start, settings)

    def steps(generator: Any, loss: Any, goal: Any, start: Any, place: Any) -> Any:
        return invert.advance(generator, loss, goal, start, place, settings, config.steps)

    def forward(generator: Any, loss: Any, codes: Any) -> Any:
        return loss.embed(synthesize(generator, codes))

    def alone(loss: Any, goal: Any, pictures: Any) -> Any:
        return jax.grad(lambda x: jnp.sum(loss.distance(loss.embed(x), goal)))(pictures)

    def step(generator: Any, loss: Any, goal: Any, codes: Any) -> Any:
        def value(codes: Any) -> Any:
            return jnp.sum(loss.distance(forward(generator, loss, codes), goal))

        return jax.value_and_grad(value)(codes)

    # Frozen weights: backward is each layer's input gradient, as much work again.
    work = 2 * bench.flops(forward, generator, loss, start)
    timing = bench.measure(steps, generator, loss, goal, start, place, runs=config.runs)
    seconds = timing.median / config.steps
    pictures = jnp.zeros((batch, generator.resolution, generator.resolution, 3))
    moved = bench.counted(step, generator, loss, goal, start).bytes
    part = bench.measure(alone, loss, goal, pictures, runs=config.runs * 2).median
    rate = work / seconds
    cells = [f"{seconds:.3f}", f"{batch / seconds:.2f}", f"{work / 1e9:.1f}", f"{rate / 1e9:.0f}"]
    cells += [f"{rate / best:.0%}", f"{part:.3f}", f"{seconds / part:.2f}"]
    cells += [f"{timing.compilation:.1f}", f"{timing.memory / 2**30:.2f}"]
    return [*cells, f"{moved / 1e9:.2f}", f"{work / max(moved, 1):.0f}"], rate


if __name__ == "__main__":
    launch(Config, main)
