"""Training of a StyleGAN2 (arXiv:1912.04958): its losses and penalties, and the compiled steps.

Everything random follows from the seed and the count of images seen, so a run that goes on from a
saved state is the run that was never stopped: on CPUs bit for bit, on GPUs to rounding, since their
sums have no fixed order.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, ScalarLike

from fxjax import images
from fxjax.nn.generator import synthesize, with_random_noise
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.training import augment
from fxjax.training.gan_state import (
    Data,
    GanSettings,
    TrainState,
    fresh,
    moved_discriminator,
    moved_generator,
    rate,
)
from fxjax.types import Codes, Images

Metrics = dict[str, Float[Array, ""]]
Scores = Float[Array, " batch"]
Module = TypeVar("Module", bound=nnx.Module)


class Programs(NamedTuple):
    """The compiled steps. Each takes (state, data), consumes the state, returns the next.

    A penalty of weight 0 has none.
    """

    step: Callable[[TrainState, Data], tuple[TrainState, Metrics]]
    regularize_discriminator: Callable[[TrainState, Data], tuple[TrainState, Metrics]] | None
    regularize_generator: Callable[[TrainState, Data], tuple[TrainState, Metrics]] | None


def compiled(settings: GanSettings, mesh: Mesh, pictures: int) -> Programs:
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
    settings = dataclasses.replace(settings, kimg=0.0)  # `state.total` has it
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
    settings: GanSettings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """Moves the discriminator, then the generator on the same pictures, then the averages."""
    shown, made, first, second = jax.random.split(_key(settings, state, 0), 4)
    fake, pull_back = jax.vjp(
        lambda generator: _split(generate(generator, made, settings.batch, settings.mixing), split),
        state.generator,
    )
    real = _augmented_reals(settings, split, shown, state, data)
    seen = augment.augment(jax.lax.stop_gradient(fake), first, state.strength, settings)

    def judge(discriminator):
        scores = score_pair(discriminator, real, seen)
        return discriminator_loss(*scores), scores

    (loss, scores), slopes = jax.value_and_grad(judge, has_aux=True)(state.discriminator)
    state = moved_discriminator(settings, state, slopes)

    def convince(fake):
        seen = augment.augment(fake, second, state.strength, settings)
        return generator_loss(state.discriminator(seen))

    loss_generator, slopes = jax.value_and_grad(convince)(fake)
    state = moved_generator(settings, state, pull_back(slopes)[0])

    seen_images = state.images + settings.batch
    half_life = jnp.minimum(settings.average_kimg * 1000, settings.average_share * seen_images)
    decay = 0.5 ** (settings.batch / half_life)
    sign = jnp.mean(jnp.sign(scores[0]))
    strength, sign_sum = _adjusted(settings, state, sign)
    healthy = jnp.isfinite(loss) & jnp.isfinite(loss_generator)
    metrics = {
        "images": seen_images.astype(jnp.float32),
        "loss_generator": loss_generator,
        "loss_discriminator": loss,
        "score_real": jnp.mean(scores[0]),
        "score_fake": jnp.mean(scores[1]),
        "sign": sign,
        "strength": strength,
        "rate": rate(settings, state),
    }
    state = state._replace(
        average=averaged(state.average, state.generator, decay),
        strength=strength,
        sign_sum=sign_sum,
        images=seen_images,
        broken=jnp.where(healthy | (state.broken >= 0), state.broken, seen_images),
    )
    return state, metrics | {"broken": state.broken.astype(jnp.float32)}


def regularize_discriminator(
    settings: GanSettings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """One step down the gradient penalty, weighted for being taken every `r1_every` steps."""
    real = _augmented_reals(settings, split, _key(settings, state, 1), state, data)
    weight = settings.r1 / 2 * settings.r1_every

    def penalty(discriminator):
        value = r1_penalty(discriminator, real)
        return value * weight, value

    slopes, value = jax.grad(penalty, has_aux=True)(state.discriminator)
    return moved_discriminator(settings, state, slopes), {"r1": value}


def regularize_generator(
    settings: GanSettings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """One step down the path length penalty, on half a batch, weighted likewise."""
    del data
    batch = settings.batch // 2
    style, noise, pull = jax.random.split(_key(settings, state, 2), 3)
    weight = settings.path * settings.path_every

    def penalty(generator):
        codes = mixed_codes(generator, style, batch, settings.mixing)
        noisy = with_random_noise(generator, noise, batch)
        lengths = path_lengths(noisy, _split(codes, split), pull)
        now = jnp.mean(lengths)
        before = jnp.where(state.path_mean > 0, state.path_mean, now)  # the first one starts it
        mean = before + 0.01 * (now - before)
        mean = jax.lax.stop_gradient(mean)
        value = jnp.mean(jnp.square(lengths - mean))
        return value * weight, (value, mean)

    slopes, (value, mean) = jax.grad(penalty, has_aux=True)(state.generator)
    state = moved_generator(settings, state, slopes)._replace(path_mean=mean)
    return state, {"path_penalty": value, "path_mean": mean}


def _split(array: Array, split: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(array, split)


def _key(settings: GanSettings, state: TrainState, program: int) -> Array:
    """A key for each program and step, from the seed and the images seen alone."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    return jax.random.fold_in(key, program)


def _augmented_reals(
    settings: GanSettings, split: NamedSharding, key: Array, state: TrainState, data: Data
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
    settings: GanSettings, state: TrainState, sign: Float[Array, ""]
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


def discriminator_loss(real: Scores, fake: Scores) -> Float[Array, ""]:
    """Logistic loss: real pictures should score high, generated ones low. Mean over the batch."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def generator_loss(fake: Scores) -> Float[Array, ""]:
    """Non-saturating logistic loss: generated pictures should score high. Mean over the batch."""
    return jnp.mean(jax.nn.softplus(-fake))


def score_pair(
    discriminator: StyleGAN2Discriminator, real: Images, fake: Images
) -> tuple[Scores, Scores]:
    """Scores both halves in one pass in which no minibatch-deviation group holds both kinds.

    The discriminator puts image i of a batch of n into group i mod (n / group), so each run of
    n / group images is filled half with real and half with generated ones.
    """
    count, group = real.shape[0], discriminator.group or real.shape[0]
    group = min(group, count)

    def runs(images: Images) -> Array:
        return images.reshape(group, count // group, *images.shape[1:])

    both = jnp.concatenate([runs(real), runs(fake)], axis=1)
    scores = discriminator(both.reshape(2 * count, *real.shape[1:]))
    scores = scores.reshape(group, 2, count // group)
    return scores[:, 0].reshape(count), scores[:, 1].reshape(count)


def r1_penalty(discriminator: StyleGAN2Discriminator, real: Images) -> Float[Array, ""]:
    """Mean squared norm of the scores' gradient at `real` (arXiv:1801.04406, equation 9).

    `real` are the pictures as the discriminator sees them, augmented already.
    """
    slopes = jax.grad(lambda images: jnp.sum(discriminator(images)))(jax.lax.stop_gradient(real))
    return jnp.mean(jnp.sum(jnp.square(slopes.astype(jnp.float32)), axis=(1, 2, 3)))


def path_lengths(generator: StyleGAN2, codes: Codes, key: Array) -> Scores:
    """Norm of a random picture's pull on the codes, averaged over rows (equation 4)."""

    def brightness(codes: Codes) -> Float[Array, ""]:
        images = synthesize(generator, codes)
        pull = jax.random.normal(key, images.shape) * (images.shape[1] * images.shape[2]) ** -0.5
        return jnp.sum(images * pull)

    slopes = jax.grad(brightness)(codes)
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(slopes), axis=2), axis=1) + 1e-8)


def mixed_codes(generator: StyleGAN2, key: Array, batch: int, mixing: float) -> Codes:
    """Codes of random z; with probability `mixing`, later rows are of another z."""
    rows = len(generator.rows)
    draw, cut, choice = jax.random.split(key, 3)
    w = generator.mapping(jax.random.normal(draw, (2 * batch, generator.latent)))
    first, second = w[:batch, None], w[batch:, None]
    start = jax.random.randint(cut, (batch,), 1, rows)
    start = jnp.where(jax.random.uniform(choice, (batch,)) < mixing, start, rows)
    return jnp.where(jnp.arange(rows)[None, :, None] < start[:, None, None], first, second)


def generate(generator: StyleGAN2, key: Array, batch: int, mixing: float) -> Images:
    """Pictures of random mixed codes with fresh noise, as in training."""
    style, noise = jax.random.split(key)
    noisy = with_random_noise(generator, noise, batch)
    return synthesize(noisy, mixed_codes(generator, style, batch, mixing))


def averaged(average: Module, module: Module, decay: ScalarLike) -> Module:
    """One step of the running average of all weights: decay 0 copies `module`."""
    return jax.tree.map(lambda a, b: b + (a - b) * decay, average, module)
