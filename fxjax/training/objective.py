"""The StyleGAN2 training objective (arXiv:1912.04958): losses, penalties, mixing, averaging."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, ScalarLike

from fxjax.nn.generator import synthesize, with_random_noise
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.types import Codes, Images

Scores = Float[Array, " batch"]
Module = TypeVar("Module", bound=nnx.Module)


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


def update_scales(module: Module, mapping_rate: float) -> Module:
    """For each weight the constant by which the equalised learning rate would multiply it.

    Kernels: 1 / sqrt(inputs); biases, noise strengths and the constant: 1; in the mapping all are
    times `mapping_rate`; 0 for what is not trained. Adam sees the gradient of the stored weight
    (times the constant) and its step moves the effective weight by the constant again.
    Source: arXiv:1710.10196, section 4.1.
    """

    def scale(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value = 1.0 if isinstance(variable, nnx.Param) else 0.0
        if path[-1] == "kernel":
            value *= float(np.prod(variable.get_value().shape[:-1])) ** -0.5
        if path[0] == "mapping":
            value *= mapping_rate
        return variable.replace(jnp.asarray(value, jnp.float32))

    graph, state = nnx.split(module)
    return nnx.merge(graph, nnx.map_state(scale, state))
