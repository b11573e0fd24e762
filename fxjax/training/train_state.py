"""What training keeps: settings, state, and Adam at the equalised learning rate."""

import dataclasses
import functools
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8

from fxjax.nn.layers import default_widths
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.training import augment, objective

Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Settings(augment.Moves):
    """What is trained and how; two runs with equal settings and data are equal."""

    resolution: Annotated[int, "side of the pictures, a power of two"] = 128
    width_base: Annotated[int, "channels at a size: min(width_base / size, width_most)"] = 8192
    width_most: Annotated[int, "most channels"] = 256
    dim: Annotated[int, "length of w and of z"] = 512
    mapping_layers: Annotated[int, "dense layers from z to w"] = 2
    dtype: Annotated[
        Literal["float32", "bfloat16"], "of activations; weights, losses and sums are float32"
    ] = "bfloat16"
    batch: Annotated[int, "pictures per step, over all devices; a multiple of 4"] = 64
    kimg: Annotated[float, "thousands of real pictures to train on"] = 1600.0
    rate: Annotated[float, "Adam's rate, before equalising"] = 0.0025
    mapping_rate: Annotated[float, "the mapping learns slower by this factor"] = 0.01
    fall: Annotated[float, "share of the run at whose end the rate has fallen to a fifth"] = 0.15
    r1: Annotated[float, "weight of the gradient penalty on real pictures"] = 0.3
    r1_every: Annotated[int, "steps between gradient penalties"] = 16
    path: Annotated[float, "weight of the path length penalty; 0: none"] = 2.0
    path_every: Annotated[int, "steps between path length penalties"] = 8
    path_kimg: Annotated[float, "thousands of pictures before the first one"] = 300.0
    mixing: Annotated[float, "probability of mixing two styles"] = 0.9
    average_kimg: Annotated[float, "half-life of the weight average, thousands of pictures"] = 20.0
    average_share: Annotated[float, "most half-life as a share of the pictures seen"] = 0.05
    strength: Annotated[float, "probability of each augmentation at the start"] = 0.2
    strength_most: Annotated[float, "its upper bound"] = 0.8
    strength_kimg: Annotated[float, "thousands of pictures in which it moves by 1"] = 200.0
    strength_every: Annotated[int, "steps between its adjustments"] = 4
    sign: Annotated[float, "mean sign of real scores that it is adjusted to"] = 0.6
    mirror: Annotated[bool, "show half of the pictures mirrored"] = True
    seed: Annotated[int, "of weights, data order and all else"] = 0

    def generator(self) -> dict[str, Any]:
        """The generator's architecture: constructor arguments that JSON can hold."""
        return {
            "resolution": self.resolution,
            "widths": default_widths(self.resolution, self.width_base, self.width_most),
            "dim": self.dim,
            "latent": self.dim,
            "mapping_layers": self.mapping_layers,
        }

    def discriminator(self) -> dict[str, Any]:
        """The discriminator's architecture."""
        return {key: self.generator()[key] for key in ("resolution", "widths")}


class TrainState(NamedTuple):
    """All that changes in training. Counts are of real pictures shown."""

    generator: StyleGAN2
    discriminator: StyleGAN2Discriminator
    average: StyleGAN2
    generator_moments: PyTree
    discriminator_moments: PyTree
    path_mean: Float[Array, ""]
    strength: Float[Array, ""]
    sign_sum: Float[Array, ""]
    images: Int[Array, ""]
    broken: Int[Array, ""]  # images seen when a loss first was not finite; -1: never


class Data(NamedTuple):
    """The training pictures, on every device, and how often each is shown relative to others."""

    pictures: UInt8[Array, "count size size 3"]
    weights: Float[Array, " count"]


def networks(settings: Settings) -> tuple[StyleGAN2, StyleGAN2Discriminator]:
    """New networks with float32 weights."""
    dtype = jnp.dtype(settings.dtype)
    first, second = nnx.Rngs(params=2 * settings.seed), nnx.Rngs(params=2 * settings.seed + 1)
    return (
        StyleGAN2(**settings.generator(), dtype=dtype, rngs=first),
        StyleGAN2Discriminator(**settings.discriminator(), dtype=dtype, rngs=second),
    )


@functools.partial(jax.jit, static_argnums=0)
def fresh(settings: Settings) -> TrainState:
    """The state before the first step of new networks."""
    return begin(settings, *networks(settings))


def begin(
    settings: Settings, generator: StyleGAN2, discriminator: StyleGAN2Discriminator
) -> TrainState:
    """The state before the first step, with fresh moments."""
    zero = jnp.zeros((), jnp.float32)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        average=jax.tree.map(jnp.copy, generator),  # copied: the steps consume their arguments
        generator_moments=adam(_generator_lag(settings)).init(generator),
        discriminator_moments=adam(_discriminator_lag(settings)).init(discriminator),
        path_mean=zero,
        strength=zero + jnp.float32(settings.strength),
        sign_sum=jnp.copy(zero),
        images=jnp.zeros((), jnp.int32),
        broken=jnp.full((), -1, jnp.int32),
    )


def rate(settings: Settings, state: TrainState) -> Float[Array, ""]:
    """The rate: constant, then falling linearly to a fifth over the last `fall` of the run."""
    total = settings.kimg * 1000
    left = (total - state.images.astype(jnp.float32)) / max(settings.fall * total, 1.0)
    return settings.rate * (0.2 + 0.8 * jnp.clip(left, 0.0, 1.0))


def moved_generator(settings: Settings, state: TrainState, slopes: StyleGAN2) -> TrainState:
    """The state after an Adam step of the generator."""
    lag, speed = _generator_lag(settings), rate(settings, state)
    moments = state.generator_moments
    generator, moments = moved(settings, state.generator, slopes, moments, speed, lag)
    return state._replace(generator=generator, generator_moments=moments)


def moved_discriminator(
    settings: Settings, state: TrainState, slopes: StyleGAN2Discriminator
) -> TrainState:
    """The state after an Adam step of the discriminator."""
    lag, speed = _discriminator_lag(settings), rate(settings, state)
    moments = state.discriminator_moments
    discriminator, moments = moved(settings, state.discriminator, slopes, moments, speed, lag)
    return state._replace(discriminator=discriminator, discriminator_moments=moments)


def moved(
    settings: Settings,
    module: Module,
    slopes: Module,
    moments: PyTree,
    rate: Float[Array, ""],
    lag: float,
) -> tuple[Module, PyTree]:
    """One Adam step at the equalised learning rate.

    `lag` is k / (k + 1) where k steps are followed by one of a penalty: it scales the rate and is
    the exponent of Adam's decay (arXiv:1912.04958, appendix B).
    """
    scales = objective.update_scales(module, settings.mapping_rate)
    slopes = jax.tree.map(lambda slope, scale: slope * scale, slopes, scales)
    steps, moments = adam(lag).update(slopes, moments)
    rate = rate * lag
    changed = jax.tree.map(lambda x, step, scale: x - rate * scale * step, module, steps, scales)
    return changed, moments


def adam(lag: float) -> Any:
    """Adam with b1 = 0, which then needs no first moment (optax documents this equality)."""
    return optax.scale_by_rms(0.99**lag, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


def _generator_lag(settings: Settings) -> float:
    return settings.path_every / (settings.path_every + 1) if settings.path else 1.0


def _discriminator_lag(settings: Settings) -> float:
    return settings.r1_every / (settings.r1_every + 1) if settings.r1 else 1.0
