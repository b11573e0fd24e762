"""Inversion: the W+ codes whose pictures come closest to given ones (arXiv:1912.06253, step 2).

    s_I = argmin_s D(g(s), I)

The generator and the loss are frozen. All steps are one `lax.scan`, all images one `vmap` of it:
every image is on its own, whatever else is in the batch. `advance` does some steps and returns the
state; running it twice for 50 steps is the same as once for 100. `run` is what drives it to the
end, with progress, and from where an earlier one was.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fxjax import sharding
from fxjax.losses import Embedding, Loss
from fxjax.nn.generator import Generator
from fxjax.nn.layers import Noise
from fxjax.types import Code, Codes, Images


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search. Hashable: a change compiles anew.

    `optimizer` is a name or an optax optimiser of your own (then `rate` and `warmup` are unused).
    `space`: "w+" moves every row, "w" one style for all rows, a number only the first rows. In the
    first `settle` (a fraction) of the steps all moving rows share one step, the mean of theirs,
    which leads around poor local minima of W+. `pull` weighs the mean squared distance of the rows
    from the mean w. `noise_pull` > 0 also moves the noise images, with StyleGAN2's regulariser
    (arXiv:1912.04958, appendix D) at that weight. `enough` stops an image whose loss fell below it.
    `remat` recomputes rows in the backward pass: less memory, a third more time.
    """

    steps: int = 500
    rate: float = 0.05
    warmup: float = 0.05
    optimizer: Literal["adam", "sgd", "lbfgs"] | optax.GradientTransformationExtraArgs = "adam"
    space: Literal["w", "w+"] | int = "w+"
    settle: float = 0.0
    pull: float = 0.0
    noise_pull: float = 0.0
    enough: float = 0.0
    remat: bool = False


class Place(NamedTuple):
    """Where one search is: what moves, the optimiser's moments, steps done, whether it stopped."""

    moving: Any
    moments: Any
    step: Int[Array, "*batch"]
    stopped: Bool[Array, "*batch"]


class Inversion(NamedTuple):
    """Found codes, and the loss before each step (constant once a search stopped)."""

    code: Codes
    losses: Float[Array, "batch steps"]


def optimizer(settings: Settings) -> optax.GradientTransformationExtraArgs:
    """The optimiser by name: Adam and SGD with linear warm-up and cosine decay to 0."""
    if not isinstance(settings.optimizer, str):
        return optax.with_extra_args_support(settings.optimizer)
    if settings.optimizer == "lbfgs":
        return optax.lbfgs()
    warmup = max(1, round(settings.warmup * settings.steps))
    schedule = optax.warmup_cosine_decay_schedule(
        settings.rate / warmup, settings.rate, warmup, max(settings.steps, warmup + 1)
    )
    makers = {"adam": optax.adam, "sgd": functools.partial(optax.sgd, momentum=0.9)}
    if settings.optimizer not in makers:
        raise ValueError(f"no optimizer {settings.optimizer!r}; there are adam, sgd, lbfgs")
    return optax.with_extra_args_support(makers[settings.optimizer](schedule))


def _free(settings: Settings, rows: int) -> int:
    """How many styles move: 1 for "w", else the number of free rows."""
    if settings.space == "w":
        return 1
    free = rows if settings.space == "w+" else settings.space
    if not isinstance(free, int) or not 0 < free <= rows:
        raise ValueError(f"space {settings.space!r}: want w, w+ or a number of rows up to {rows}")
    return free


def code_of(moving: Any, start: Code, settings: Settings) -> Code:
    """The whole W+ code: moved styles over the start's."""
    styles = moving["styles"]
    if settings.space == "w":
        return jnp.repeat(styles, start.shape[0], axis=0)
    return jnp.concatenate([styles, start[styles.shape[0] :]])


def begin(generator: Generator, start: Codes, settings: Settings) -> Place:
    """The searches' first state, at `start`."""
    free = _free(settings, len(generator.rows))
    make = optimizer(settings)
    noise = None
    if settings.noise_pull:
        noise = jax.tree.leaves(nnx.state(generator, Noise))

    def one(code: Code) -> Place:
        moving = {"styles": code[:free], "noise": noise}
        false = jnp.zeros((), bool)
        return Place(moving, make.init(moving), jnp.zeros((), jnp.int32), false)

    # `advance` donates the place, so nothing in it may be the start's own memory.
    return jax.tree.map(jnp.copy, jax.vmap(one)(start))


@functools.partial(
    jax.jit, static_argnames=("settings", "steps", "mesh"), donate_argnames=("place",)
)
def advance(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    start: Codes,
    place: Place,
    settings: Settings,
    steps: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[Place, Float[Array, "batch steps"]]:
    """Does `steps` more steps of every search; returns the loss before each of them.

    After the settings' steps nothing moves. With a mesh, over whose axis "batch" the images lie,
    each device runs its own loops. L-BFGS
    needs that: how often its line search loops depends on the images, and without it all devices
    would ask each other before every turn.
    """

    def every(generator: Generator, loss: Loss, *images: Any) -> Any:
        one = functools.partial(_advance, generator, loss, settings=settings, steps=steps)
        if len(images[1]) == 1:  # as the vmapped one, which takes longer to trace
            found = one(*jax.tree.map(lambda a: a[0], images))
            return jax.tree.map(lambda a: a[None], found)
        return jax.vmap(one)(*images)

    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec("batch")
        every = jax.shard_map(
            every,
            mesh=mesh,
            in_specs=(whole, whole, split, split, split),
            out_specs=split,
            check_vma=False,  # a scan's carry begins with constants, which are the same everywhere
        )
    return every(generator, loss, goal, start, place)


def _advance(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    start: Code,
    place: Place,
    *,
    settings: Settings,
    steps: int,
) -> tuple[Place, Float[Array, " steps"]]:
    goal = jax.tree.map(lambda a: a[None], goal)
    make = optimizer(settings)
    mean = generator.w_mean[...].astype(jnp.float32)

    def objective(moving: Any) -> Float[Array, ""]:
        code = code_of(moving, start, settings)
        network = generator if moving["noise"] is None else with_noise(generator, moving["noise"])
        images = draw(network, code[None], remat=settings.remat)
        value = loss.distance(loss.embed(images), goal)[0]
        if settings.pull:
            value = value + settings.pull * jnp.mean(jnp.square(code - mean))
        if moving["noise"] is not None:
            value = value + settings.noise_pull * _correlation(moving["noise"])
        return value

    def step(place: Place, _: None) -> tuple[Place, Float[Array, ""]]:
        value, gradient = jax.value_and_grad(objective)(place.moving)
        if settings.settle:
            shared = jnp.mean(gradient["styles"], axis=0, keepdims=True)
            settling = place.step < settings.settle * settings.steps
            gradient["styles"] = jnp.where(settling, shared, gradient["styles"])
        updates, moments = make.update(
            gradient, place.moments, place.moving, value=value, grad=gradient, value_fn=objective
        )
        moving: Any = optax.apply_updates(place.moving, updates)
        if moving["noise"] is not None:
            moving["noise"] = [_standard(noise) for noise in moving["noise"]]
        finite = jnp.isfinite(value)
        for leaf in jax.tree.leaves(moving):
            finite &= jnp.all(jnp.isfinite(leaf))
        # A search that met a NaN, or is good enough, keeps its place; the others go on.
        over = place.step >= settings.steps
        stopped = place.stopped | (~over & (~finite | (value < settings.enough)))
        new = Place(moving, moments, place.step + 1, stopped)
        kept = place._replace(stopped=stopped)
        return jax.tree.map(lambda a, b: jnp.where(stopped | over, a, b), kept, new), value

    return jax.lax.scan(step, place, length=steps)


def run(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    start: Codes,
    settings: Settings,
    *,
    every: int | None = None,
    mesh: Mesh | None = None,
    begun: tuple[Place, Float[np.ndarray, "batch done"]] | None = None,
    told: Callable[[Place, Float[np.ndarray, "batch done"]], None] | None = None,
) -> tuple[Place, Float[np.ndarray, "batch steps"]]:
    """Every search to its end: its state, and the loss before each step.

    In calls of one program of `every` steps (None: all), after each of which `told` is given the
    state and the losses so far; with these, `begun`, a search goes on that was ended in between.
    On a CPU every search is a program of its own, beside others.
    """
    count = settings.steps if every is None else every
    none = np.zeros((len(start), 0), np.float32)
    place, curves = begun or (begin(generator, start, settings), none)
    while (done := curves.shape[1]) < settings.steps:
        models, searches, static = (generator, loss), (goal, start, place), (settings, count, mesh)
        place, new = sharding.each(_placed, models, searches, *static, mesh=mesh)
        new = np.asarray(new)[:, : settings.steps - done]
        curves = np.concatenate([curves, new], axis=1)
        if told is not None:
            told(place, curves)
    return place, curves


def _placed(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    start: Codes,
    place: Place,
    settings: Settings,
    steps: int,
    mesh: Mesh | None,
) -> tuple[Place, Float[Array, "batch steps"]]:
    """As `advance`, with all always in the same places: else each call would be another program."""
    if mesh is not None:
        start, place = jax.device_put((start, place), NamedSharding(mesh, PartitionSpec("batch")))
    return advance(generator, loss, goal, start, place, settings, steps, mesh=mesh)


def part(steps: int, most: int) -> int:
    """How many steps, `most` or fewer, go into all with next to none left over."""
    return math.ceil(steps / math.ceil(steps / most))


def invert(
    generator: Generator,
    loss: Loss,
    targets: Images,
    start: Codes,
    settings: Settings | None = None,
    *,
    weights: Float[Array, "batch height width"] | None = None,
) -> Inversion:
    """Moves W+ codes from `start` until their pictures embed close to `targets`' ([-1, 1]).

    `weights` stress regions of the targets. To spread the work over devices, place `targets` and
    `start` with fxjax.sharding.split_batch and the models with replicate.
    """
    settings = Settings() if settings is None else settings
    goal = embedded(loss, targets, weights)
    place, losses = run(generator, loss, goal, start, settings)
    return Inversion(codes_of(place, start, settings), jnp.asarray(losses))


def embedded(
    loss: Loss, targets: Images, weights: Float[Array, "batch height width"] | None = None
) -> Embedding:
    """What the loss compares pictures to."""
    return sharding.each(_embedded, (loss,), (targets, weights))


@jax.jit
def _embedded(
    loss: Loss, targets: Images, weights: Float[Array, "batch height width"] | None
) -> Embedding:
    return loss.embed(targets, weights)


def codes_of(place: Place, start: Codes, settings: Settings) -> Codes:
    """The searches' present W+ codes."""
    return jax.vmap(lambda moving, code: code_of(moving, code, settings))(place.moving, start)


def noise_of(place: Place) -> list[Float[Array, "batch height width"]] | None:
    """The searches' present noise images, which `with_noise` puts in; None if they do not move."""
    return place.moving["noise"]


def mean_codes(generator: Generator, batch: int) -> Codes:
    """The mean w in every row: where inversion starts by default."""
    mean = generator.w_mean[...].astype(jnp.float32)
    return jnp.tile(mean, (batch, len(generator.rows), 1))


@functools.partial(jax.jit, static_argnames=("count",))
def best_random(generator: Generator, loss: Loss, goal: Embedding, key: Array, count: int) -> Codes:
    """For each goal the best of the mean and `count` random codes (the same for all goals)."""
    z = jax.random.normal(key, (count, generator.latent))
    labels = jnp.zeros((count, generator.labels)) if generator.labels else None
    w = jnp.concatenate([generator.w_mean[...][None], generator.mapping(z, labels)])
    tries = jnp.repeat(w[:, None], len(generator.rows), axis=1)

    def distances(code: Code) -> Float[Array, " batch"]:
        batch = jax.tree.leaves(goal)[0].shape[0]
        embedding = loss.embed(draw(generator, code[None], remat=False))
        wide = jax.tree.map(lambda a: jnp.repeat(a, batch, axis=0), embedding)
        return loss.distance(wide, goal)

    return tries[jnp.argmin(jax.lax.map(distances, tries), axis=0)]


def draw(generator: Generator, codes: Codes, *, remat: bool) -> Images:
    """As fxjax.nn.generator.synthesize, with rows recomputed in the backward pass if `remat`."""
    state = generator.start(codes.shape[0])
    for k, row in enumerate(generator.rows):
        apply: Callable[..., Any] = jax.checkpoint(_apply) if remat else _apply
        state = apply(row, state, codes[:, k])
    return generator.image(state)


def _apply(row: Callable[..., Any], state: Any, w: Float[Array, "batch dim"]) -> Any:
    return row(state, w)


def with_noise(generator: Any, noise: Sequence[Array | np.ndarray]) -> Any:
    """The generator with these noise images, [height, width] or one of each for every picture."""
    graph, old, rest = nnx.split(generator, Noise, ...)
    fresh = jax.tree.unflatten(jax.tree.structure(old), list(noise))
    return nnx.merge(graph, fresh, rest)


def _standard(noise: Float[Array, "height width"]) -> Float[Array, "height width"]:
    """Zero mean and unit variance."""
    noise = noise - jnp.mean(noise)
    return noise * jax.lax.rsqrt(jnp.mean(jnp.square(noise)) + 1e-12)


def _correlation(noises: list[Array]) -> Float[Array, ""]:
    """Squared correlation of each noise image with its neighbours, at every size down to 8 px."""
    total = jnp.zeros((), jnp.float32)
    for noise in noises:
        while True:
            for axis in (0, 1):
                total += jnp.square(jnp.mean(noise * jnp.roll(noise, 1, axis=axis)))
            if noise.shape[0] <= 8:
                break
            height, width = noise.shape
            # The mean of four independent unit normals has deviation 1/2.
            noise = 2 * noise.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return total
