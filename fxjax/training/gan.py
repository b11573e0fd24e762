"""Training of a StyleGAN2: the compiled steps that take state to state.

Everything random follows from the seed and the count of images seen, so a run that goes on from a
saved state is the run that was never stopped: on CPUs bit for bit, on GPUs to rounding, since their
sums have no fixed order.
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from fxjax import images
from fxjax.nn import ops
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import augment, objective
from fxjax.training.train_state import (
    Data,
    Settings,
    TrainState,
    fresh,
    moved_discriminator,
    moved_generator,
    rate,
)
from fxjax.types import Images

Metrics = dict[str, Float[Array, ""]]


class Programs(NamedTuple):
    """The compiled steps. Each takes (state, data), consumes the state, returns the next.

    A penalty of weight 0 has none.
    """

    step: Callable[[TrainState, Data], tuple[TrainState, Metrics]]
    regularize_discriminator: Callable[[TrainState, Data], tuple[TrainState, Metrics]] | None
    regularize_generator: Callable[[TrainState, Data], tuple[TrainState, Metrics]] | None


def compiled(settings: Settings, mesh: Mesh, pictures: int) -> Programs:
    """Compiles the steps ahead of time, side by side, for that many training pictures.

    The batch is split over the mesh, the state is on every device. Neither needs to be there yet.
    Raises ValueError if the batch does not divide.
    """
    group = 4  # of the discriminator's minibatch deviation
    if settings.batch % group or settings.batch % mesh.size or settings.batch % 2:
        raise ValueError(
            f"a batch of {settings.batch} cannot be split over {mesh.size} devices in groups of "
            f"{group}; choose a multiple of {group} and of {mesh.size}"
        )
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("batch"))
    state = jax.eval_shape(functools.partial(fresh, settings))
    size = settings.resolution
    data: Any = Data(
        jax.ShapeDtypeStruct((pictures, size, size, 3), jnp.uint8),  # pyright: ignore
        jax.ShapeDtypeStruct((pictures,), jnp.float32),  # pyright: ignore
    )
    penalties = [regularize_discriminator] * bool(settings.r1)
    penalties += [regularize_generator] * bool(settings.path)

    def program(function: Callable) -> Callable:
        jitted = jax.jit(
            functools.partial(function, settings, split),
            donate_argnums=0,
            in_shardings=(everywhere, everywhere),
            out_shardings=(everywhere, everywhere),
        )
        return jitted.lower(state, data).compile()

    steps = [train_step, *penalties]
    with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
        made = dict(zip(steps, pool.map(program, steps), strict=True))
    return Programs(
        made[train_step], made.get(regularize_discriminator), made.get(regularize_generator)
    )


def train_step(
    settings: Settings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """Moves the discriminator, then the generator on the same pictures, then the averages."""
    shown, made, first, second = jax.random.split(_key(settings, state, 0), 4)
    fake, pull_back = jax.vjp(
        lambda generator: _split(
            objective.generate(generator, made, settings.batch, settings.mixing), split
        ),
        state.generator,
    )
    real = _augmented_reals(settings, split, shown, state, data)
    seen = augment.augment(jax.lax.stop_gradient(fake), first, state.strength, settings)

    def judge(discriminator):
        scores = objective.score_pair(discriminator, real, seen)
        return objective.discriminator_loss(*scores), scores

    (loss, scores), slopes = jax.value_and_grad(judge, has_aux=True)(state.discriminator)
    state = moved_discriminator(settings, state, slopes)

    def convince(fake):
        seen = augment.augment(fake, second, state.strength, settings)
        return objective.generator_loss(state.discriminator(seen))

    generator_loss, slopes = jax.value_and_grad(convince)(fake)
    state = moved_generator(settings, state, pull_back(slopes)[0])

    seen_images = state.images + settings.batch
    half_life = jnp.minimum(settings.average_kimg * 1000, settings.average_share * seen_images)
    decay = 0.5 ** (settings.batch / half_life)
    sign = jnp.mean(jnp.sign(scores[0]))
    strength, sign_sum = _adjusted(settings, state, sign)
    healthy = jnp.isfinite(loss) & jnp.isfinite(generator_loss)
    metrics = {
        "images": seen_images.astype(jnp.float32),
        "loss_generator": generator_loss,
        "loss_discriminator": loss,
        "score_real": jnp.mean(scores[0]),
        "score_fake": jnp.mean(scores[1]),
        "sign": sign,
        "strength": strength,
        "rate": rate(settings, state),
    }
    state = state._replace(
        average=objective.averaged(state.average, state.generator, decay),
        strength=strength,
        sign_sum=sign_sum,
        images=seen_images,
        broken=jnp.where(healthy | (state.broken >= 0), state.broken, seen_images),
    )
    return state, metrics | {"broken": state.broken.astype(jnp.float32)}


def regularize_discriminator(
    settings: Settings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """One step down the gradient penalty, weighted for being taken every `r1_every` steps."""
    real = _augmented_reals(settings, split, _key(settings, state, 1), state, data)
    weight = settings.r1 / 2 * settings.r1_every

    def penalty(discriminator):
        value = objective.r1_penalty(discriminator, real)
        return value * weight, value

    slopes, value = jax.grad(penalty, has_aux=True)(state.discriminator)
    return moved_discriminator(settings, state, slopes), {"r1": value}


def regularize_generator(
    settings: Settings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """One step down the path length penalty, on half a batch, weighted likewise."""
    del data
    batch = settings.batch // 2
    style, noise, pull = jax.random.split(_key(settings, state, 2), 3)
    weight = settings.path * settings.path_every

    def penalty(generator):
        codes = objective.mixed_codes(generator, style, batch, settings.mixing)
        noisy = objective.with_random_noise(generator, noise, batch)
        lengths = objective.path_lengths(noisy, _split(codes, split), pull)
        now = jnp.mean(lengths)
        before = jnp.where(state.path_mean > 0, state.path_mean, now)  # the first one starts it
        mean = before + 0.01 * (now - before)
        mean = jax.lax.stop_gradient(mean)
        value = jnp.mean(jnp.square(lengths - mean))
        return value * weight, (value, mean)

    slopes, (value, mean) = jax.grad(penalty, has_aux=True)(state.generator)
    state = moved_generator(settings, state, slopes)._replace(path_mean=mean)
    return state, {"path_penalty": value, "path_mean": mean}


@functools.partial(jax.jit, static_argnames="count")
def code_statistics(
    generator: StyleGAN2, count: int = 32768
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Mean and covariance of w over `count` fixed random z."""
    w = generator.mapping(jax.random.normal(jax.random.key(0), (count, generator.latent)))
    mean = jnp.mean(w, axis=0)
    offsets = w - mean
    return mean, jnp.matmul(offsets.T, offsets, precision=ops.EXACT) / count


def _split(array: Array, split: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(array, split)


def _key(settings: Settings, state: TrainState, program: int) -> Array:
    """A key for each program and step, from the seed and the images seen alone."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    return jax.random.fold_in(key, program)


def _augmented_reals(
    settings: Settings, split: NamedSharding, key: Array, state: TrainState, data: Data
) -> Images:
    """Real pictures drawn by weight, half of them mirrored, then augmented."""
    order, mirror, change = jax.random.split(key, 3)
    share = data.weights / jnp.sum(data.weights)
    chosen = jax.random.choice(order, share.shape[0], (settings.batch,), p=share)
    real = images.from_uint8(data.pictures[_split(chosen, split)])
    if settings.mirror:
        flip = jax.random.bernoulli(mirror, 0.5, (settings.batch,))[:, None, None, None]
        real = jnp.where(flip, real[:, :, ::-1], real)
    return augment.augment(real, change, state.strength, settings)


def _adjusted(
    settings: Settings, state: TrainState, sign: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Augmentation strength and the sum of signs since its last change."""
    every = settings.strength_every
    total = state.sign_sum + sign
    changed = augment.adjusted(
        state.strength,
        total / every,
        target=settings.sign,
        images=settings.batch * every,
        most=settings.strength_most,
        per_unit=settings.strength_kimg * 1000,
    )
    due = (state.images // settings.batch + 1) % every == 0
    return jnp.where(due, changed, state.strength), jnp.where(due, 0.0, total)
