"""Speed of the search over masks: the prefix tree against drawing every mask alone.

Official widths unless --base says otherwise, random weights, one feature network for both losses
(block3_conv3, and Gram matrices up to there). Both ways score the same masks with the same losses
on pictures of the same size, and the table says how far their scores are apart; the tree's time is
that of one call, a subtree of the search, so its first rows count as often as they do in a search.
The ratio is of one run on one machine. Work counts a shared feature network once.

    python -m experiments.bench_masks --sizes=128 --rows=12 --score_size=64
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from fxjax import losses, score, sharding
from fxjax.cli import launch
from fxjax.codes import mix, search
from fxjax.runs import bench


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    models: Annotated[tuple[str, ...], "stylegan1, stylegan2"] = ("stylegan1", "stylegan2")
    sizes: Annotated[tuple[int, ...], "picture sizes in pixels"] = (128,)
    rows: Annotated[tuple[int, ...], "free rows, counted from row 0"] = (12,)
    score_size: Annotated[int, "pictures are averaged to so many pixels for the losses"] = 256
    width: Annotated[int, "pictures at once; 0: from the free memory"] = 0
    bits: Annotated[int, "free rows below the top ones that one timed call decides"] = 8
    naive: Annotated[int, "masks that the naive way draws, at the end of the subtree"] = 16
    base: Annotated[int, "channels are base / size, at most 512; 0: the official ones"] = 0
    dtypes: Annotated[tuple[str, ...], "what it computes in: float32, bfloat16"] = ("float32",)
    peak: Annotated[float, "the device's peak TFLOP/s if known, for MFU of the tree"] = 0.0
    runs: Annotated[int, "timed runs of each program; the table has their median"] = 3


def main(config: Config) -> None:
    """Measures and prints."""
    head = ["model", "px", "dtype", "scored px", "rows", "width", "tree masks/s", "naive masks/s"]
    head += ["ratio", "work ratio", "tree of ceiling", "naive of ceiling", "apart"]
    head += ["all masks take s", "compile s", "memory GiB"]
    every = itertools.product(config.models, config.sizes, config.rows, config.dtypes)

    def rows(ceilings: dict[str, float]) -> Iterator[tuple[list[str], float]]:
        for model, size, free, dtype in every:
            yield measure(config, model, size, free, dtype, ceilings[dtype])

    bench.show(head, config.dtypes, config.peak, rows)


def measure(
    config: Config, model: str, size: int, rows: int, name: str, best: float
) -> tuple[list[str], float]:
    """One row of the table, and the tree's rate in FLOP/s."""
    features = bench.features(name)
    generator = bench.generator(model, size, name, config.base)
    perceptual = losses.Perceptual(features, size=config.score_size)
    judge = score.Judge(perceptual, losses.Gram(features, size=config.score_size))
    codes = jax.random.normal(jax.random.key(0), (2, len(generator.rows), generator.dim))
    images = jax.jit(mix.pictures)(generator, codes)
    goals = score.goals(judge, images[:1], images[1:])
    # To count work: without the second network, which the compiler finds to be the first.
    cheap = score.Judge(perceptual, losses.Pixels(config.score_size))
    once = score.goals(cheap, images[:1], images[1:])
    width = config.width or search.fitting_width(generator, goals)
    groups, top = mix.free_rows(0, rows - 1), max(0, rows - config.bits)
    mesh = sharding.mesh(jax.devices()[:1])
    last = jnp.full((1,), 2**top - 1, jnp.int32)  # the prefix whose bits are all set

    def tree(generator: Any, goals: Any, codes: Any, prefix: Any) -> Any:
        options: Any = {"groups": groups, "top": top, "width": width, "mesh": mesh}
        return search.subtrees(generator, codes[0], codes[1], goals, prefix, **options)

    numbers = range(2**rows - config.naive, 2**rows)  # the last ones of that subtree
    masks = mix.masks_of(groups, len(generator.rows), numbers)

    def naive(generator: Any, goals: Any, codes: Any) -> Any:
        def some(masks: Any) -> Any:
            mixed = jnp.where(masks[:, :, None], codes[1], codes[0])
            return score.score(goals, mix.pictures(generator, mixed))

        parts = jnp.asarray(masks).reshape(-1, min(width, config.naive), len(generator.rows))
        return jax.lax.map(some, parts).reshape(-1, 2)

    given = (generator, goals, codes)
    timings = [bench.measure(tree, *given, last, runs=config.runs)]
    timings.append(bench.measure(naive, *given, runs=config.runs))
    counts, one = (2 ** (rows - top), config.naive), (generator, once, codes)
    work = (bench.flops(tree, *one, last), bench.flops(naive, *one))
    seconds = [timing.median for timing in timings]
    rates = [counts[i] / seconds[i] for i in (0, 1)]
    shares = [work[i] / seconds[i] / best for i in (0, 1)]
    found = np.asarray(jax.jit(tree)(*given, last))[0, -config.naive :]
    apart = np.max(np.abs(found - np.asarray(jax.jit(naive)(*given))))
    cells = [model, size, name, config.score_size, rows, width]
    cells += [f"{rates[0]:.2f}", f"{rates[1]:.2f}", f"{rates[0] / rates[1]:.2f}"]
    cells += [f"{work[1] / counts[1] / work[0] * counts[0]:.2f}"]
    cells += [f"{shares[0]:.0%}", f"{shares[1]:.0%}", f"{apart:.1e}", f"{2**rows / rates[0]:.0f}"]
    cells += [f"{timings[0].compilation:.1f}", f"{timings[0].memory / 2**30:.2f}"]
    return [str(cell) for cell in cells], work[0] / seconds[0]


if __name__ == "__main__":
    launch(Config, main)
