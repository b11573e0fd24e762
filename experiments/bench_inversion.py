"""Speed of inversion: seconds per step of StyleGAN2 and VGG16 to block3_conv3, both at full width.

Random weights. The share is of the best rate that plain convolutions and matrix products reach on
the same machine in the same run. `VGG16 s` is the feature network's own part of a step, measured
beside it: nothing but plain 3x3 convolutions and their gradients. Figures of other machines compare
by the share and by the ratio to VGG16 alone.

    python -m experiments.bench_inversion --sizes=128,256 --batches=1,4
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fxjax.cli import launch
from fxjax.codes import invert
from fxjax.losses import Perceptual
from fxjax.nn.generator import synthesize
from fxjax.nn.layers import default_widths
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import bench


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    sizes: Annotated[tuple[int, ...], "picture sizes in pixels"] = (128, 256, 1024)
    batches: Annotated[tuple[int, ...], "pictures at once"] = (1, 4, 8)
    steps: Annotated[int, "steps of a timed run"] = 5
    runs: Annotated[int, "timed runs; the table has their median"] = 3
    dtype: Annotated[Literal["float32", "bfloat16"], "what the networks compute in"] = "float32"
    base: Annotated[int, "the generator's channels are base / size, at most 512"] = 16384
    remat: Annotated[bool, "recompute rows in the backward pass"] = False
    largest: Annotated[int, "skip batch * pixels over this (memory)"] = 4 * 1024 * 1024


def main(config: Config) -> None:
    """Measures and prints."""
    machine, dtype = bench.machine(), jnp.dtype(config.dtype)
    best, what = bench.ceiling(dtype)
    print(f"{machine}; {config.dtype}; ceiling {best / 1e9:.0f} GFLOP/s ({what})")
    head = ["px", "batch", "s per step", "image-steps/s", "GFLOP", "GFLOP/s", "of ceiling"]
    head += ["VGG16 s", "times VGG16", "compile s", "memory GiB"]
    print(bench.table(head, []), flush=True)
    neutral = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False}
    features = VGG16((64, 128, 256), **neutral, dtype=dtype, rngs=nnx.Rngs(0))
    for size in config.sizes:
        widths = default_widths(size, config.base, 512)
        generator = StyleGAN2(size, widths, dtype=dtype, rngs=nnx.Rngs(0))
        for batch in config.batches:
            if batch * size**2 <= config.largest:
                row = measure(config, generator, features, batch, best)
                print("| " + " | ".join(row) + " |", flush=True)
    again, what = bench.ceiling(dtype)
    print(f"ceiling measured again: {again / 1e9:.0f} GFLOP/s ({what})")


def measure(config: Config, generator: Any, features: Any, batch: int, best: float) -> list[str]:
    """One row of the table."""
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

    # Frozen weights: backward is each layer's input gradient, as much work again.
    work = 2 * bench.flops(forward, generator, loss, start)
    timing = bench.measure(steps, generator, loss, goal, start, place, runs=config.runs)
    seconds = timing.median / config.steps
    pictures = jnp.zeros((batch, generator.resolution, generator.resolution, 3))
    part = bench.measure(alone, loss, goal, pictures, runs=config.runs * 2).median
    return [
        str(generator.resolution),
        str(batch),
        f"{seconds:.3f}",
        f"{batch / seconds:.2f}",
        f"{work / 1e9:.1f}",
        f"{work / seconds / 1e9:.0f}",
        f"{work / seconds / best:.0%}",
        f"{part:.3f}",
        f"{seconds / part:.2f}",
        f"{timing.compilation:.1f}",
        f"{timing.memory / 2**30:.2f}",
    ]


if __name__ == "__main__":
    launch(Config, main)
