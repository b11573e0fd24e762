"""Searches for the best mixture of two codes: all masks, or by gradients.

`exhaustive` scores every mask over a prefix tree. If that was done on small pictures (`case_of`),
`refine` scores the best again exactly. `joint` is the first form of arXiv:1912.06253, which has no
masks. Many pairs: call these for each; the programs are compiled once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fxjax import metrics, sharding
from fxjax.codes import invert, mix
from fxjax.codes.mix import Groups
from fxjax.losses import Weights, shrink
from fxjax.nn.generator import Generator, drawn
from fxjax.score import Goals, Judge, goals, score, weighted
from fxjax.sharding import free_memory, halved, widest
from fxjax.types import Code, Codes, Images

SHARE = 0.5  # of the free memory
COPIES = 3  # of the largest step's arrays that live at once; 1.3 to 1.7 as XLA plans on a CPU
TRACED = 16  # pictures in the program that is measured, so that weights hardly count
MOST = {"cpu": 16}  # states at once where memory would hold more; caches gain nothing then
MOST_ELSEWHERE = 256


class Case(NamedTuple):
    """What is searched: two codes of a generator, and what their mixtures are scored against."""

    generator: Generator
    person: Code
    expression: Code
    goals: Goals


class Refined(NamedTuple):
    """The best masks by exact score, best first: their numbers and scores."""

    numbers: Int[np.ndarray, " count"]
    scores: Float[np.ndarray, "count 2"]
    agreement: float
    """Spearman's rank correlation of the approximate and the exact scores of those."""


def total(scores: Float[np.ndarray, "count 2"], weight: float) -> Float[np.ndarray, " count"]:
    """E + weight * A; less is better."""
    return np.asarray(scores)[:, 0] + weight * np.asarray(scores)[:, 1]


def order(scores: Float[np.ndarray, "count 2"], weight: float) -> Int[np.ndarray, " count"]:
    """Places from the least E + weight * A to the largest; of equal ones the first comes first."""
    return np.argsort(total(scores, weight), kind="stable")


def exhaustive(
    case: Case,
    *,
    groups: Groups,
    width: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "masks 2"]:
    """(E, A) of all 2**len(groups) masks, in the order of `mix.masks_of`; exact, to rounding.

    The tree's top bits are split into subtrees, one for each device of `mesh` in each call of one
    program, whose memory is constant. `width` pictures at once (None: from the free memory; with
    several processes give a number), half as many where memory does not suffice; `progress` is told
    the masks done and all of them.
    """
    mesh = sharding.mesh(jax.local_devices()[:1]) if mesh is None else mesh
    mix.check_groups(groups, len(case.generator.rows))
    if width is None:
        width = fitting_width(case.generator, case.goals, mesh)
    width = min(width, max(2, 2 ** len(groups)))
    top = _top_bits(len(groups), mesh.size, width)
    prefixes = np.arange(2**top, dtype=np.int32)
    given: Any = sharding.replicate(case, mesh)
    found, start = [], 0
    while start < len(prefixes):
        # A mesh with more devices than subtrees are left does the last one again.
        lanes = np.minimum(np.arange(start, start + mesh.size, dtype=np.int32), prefixes[-1])
        lanes = jax.device_put(lanes, NamedSharding(mesh, PartitionSpec("batch")))
        try:
            part = subtrees(*given, lanes, groups=groups, top=top, width=width, mesh=mesh)
            found.extend(np.asarray(part))
        except jax.errors.JaxRuntimeError as error:
            width = halved(width, error, "pictures to score", least=2)
            continue
        start += mesh.size
        if progress is not None:
            done = min(start, len(prefixes))
            progress(done * 2 ** (len(groups) - top), 2 ** len(groups))
    return np.concatenate(found[: len(prefixes)])[mix.leaves(groups)]


@functools.partial(jax.jit, static_argnames=("groups", "top", "width", "mesh"))
def subtrees(
    generator: Generator,
    person: Code,
    expression: Code,
    goals: Goals,
    prefixes: Int[Array, " devices"],
    *,
    groups: Groups,
    top: int,
    width: int,
    mesh: Mesh,
) -> Float[Array, "devices leaves 2"]:
    """Each device scores the masks under its own prefix; all devices know the result."""
    size = goals.judge.size

    def lane(generator: Any, codes: Any, goals: Goals, prefixes: Array) -> Array:
        options: Any = {"groups": groups, "top": top, "width": width, "size": size}
        return mix.subtree(generator, codes[0], codes[1], score, goals, prefixes[0], **options)[
            None
        ]

    everywhere, split = PartitionSpec(), PartitionSpec("batch")
    lanes: Any = jax.shard_map(
        lane, mesh=mesh, in_specs=(everywhere, everywhere, everywhere, split), out_specs=split
    )
    found = lanes(generator, (person, expression), goals, prefixes)
    return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, everywhere))


def _top_bits(groups: int, devices: int, width: int) -> int:
    """Bits that are split over calls: four times as many masks in each as are drawn at once.

    Each call runs the first rows again, which cost little next to its leaves; between calls it is
    told how far the search is.
    """
    wanted = max(groups - math.ceil(math.log2(4 * width)), math.ceil(math.log2(devices)))
    return min(groups, max(0, wanted))


def fitting_width(generator: Generator, goals: Goals, mesh: Mesh | None = None) -> int:
    """How many pictures at once fit into a device's free memory: a power of two, 2 or more."""
    device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    devices = 1 if mesh is None else len(mesh.local_devices)
    code = jax.ShapeDtypeStruct((TRACED, len(generator.rows), generator.dim), jnp.float32)
    jaxpr = _draw_and_score.trace(generator, goals, code).jaxpr
    fits = SHARE * free_memory(device, devices) / (COPIES * widest(jaxpr.jaxpr) / TRACED)
    most = MOST.get(device.platform, MOST_ELSEWHERE)
    return 2 ** max(1, math.floor(math.log2(max(min(most, fits), 1))))


@jax.jit
def _draw_and_score(
    generator: Generator, goals: Goals, codes: Float[Array, "batch rows dim"]
) -> Float[Array, "batch 2"]:
    return score(goals, mix.pictures(generator, codes, goals.judge.size))


def score_codes(case: Case, codes: Codes) -> Float[np.ndarray, "batch 2"]:
    """(E, A) of any codes, all scored at once."""
    return np.asarray(_score(case.goals, drawn(case.generator, codes, len(codes))))


@jax.jit
def _score(goals: Goals, images: Images) -> Float[Array, "batch 2"]:
    return score(goals, images)


@jax.jit
def _score_amounts(case: Case, amounts: Float[Array, "batch rows"]) -> Float[Array, "batch 2"]:
    codes = mix.interpolated(case.person, case.expression, amounts)
    return _draw_and_score(case.generator, case.goals, codes)


def rescore(
    case: Case,
    amounts: Float[np.ndarray, "count rows"] | Bool[np.ndarray, "count rows"],
    *,
    width: int | None = None,
) -> Float[np.ndarray, "count 2"]:
    """(E, A) of single masks, or of how much of each row is the expression's; each drawn alone."""
    width = fitting_width(case.generator, case.goals) if width is None else width
    amounts = np.asarray(amounts, np.float32)
    found, start = [np.zeros((0, 2), np.float32)], 0
    while start < len(amounts):
        some = amounts[start : start + width]
        padded = sharding.padded(some, width)
        try:
            part = np.asarray(_score_amounts(case, jnp.asarray(padded)))
        except jax.errors.JaxRuntimeError as error:
            width = halved(width, error, "pictures to score", least=2)
            continue
        found.append(part[: len(some)])
        start += len(some)
    return np.concatenate(found)


def case_of(
    generator: Any,
    person: Code,
    expression: Code,
    judge: Judge,
    weights: Weights | None = None,
    appearance_weights: Weights | None = None,
    *,
    size: int | None = None,
    readout: int | None = None,
) -> Case:
    """A case with goals of the generator's own pictures; see `fxjax.score.goals` for weights.

    `size` averages pictures to so many px for the losses. `readout` (StyleGAN2) stops at the skip
    picture of that size, so no row after it can be free. Both are approximate: `refine` what is
    found with them.
    """
    if readout is not None:
        generator = generator.at(readout)
    codes = jnp.stack([person, expression])[:, : len(generator.rows)]
    images = drawn(generator, codes, len(codes))
    judge = judge if size is None else judge.at(size)
    side = images.shape[1]
    maps = [w if w is None else shrink(w, side) for w in (weights, appearance_weights)]
    return Case(generator, codes[0], codes[1], goals(judge, images[:1], images[1:], *maps))


def refine(
    case: Case, scores: Float[np.ndarray, "masks 2"], *, groups: Groups, weight: float, count: int
) -> Refined:
    """Scores the `count` best of all masks again, each drawn alone, as `case` has it."""
    numbers = order(scores, weight)[:count]
    masks = mix.masks_of(groups, len(case.generator.rows), numbers.tolist())
    exact = rescore(case, masks)
    best = order(exact, weight)
    agreement = metrics.rank_correlation(total(scores[numbers], weight), total(exact, weight))
    return Refined(numbers[best], exact[best], agreement)


def joint(case: Case, *, weight: float, steps: int = 300, rate: float = 0.05) -> Code:
    """argmin_s E(s) + weight * A(s) over free codes, by Adam from the person's code.

    The paper's first form, which leaves artefacts; the goals may be of the photos themselves.
    """
    loss, goal = weighted(case.goals, weight)
    settings = invert.Settings(steps=steps, rate=rate)
    start = case.person[None]
    place, _ = invert.run(case.generator, loss, goal, start, settings)
    return invert.codes_of(place, start, settings)[0]
