"""Networks that Adam trains and whose average is kept: their state, and how a step moves it."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from fxjax.training.face_features import warmed


class AveragedSettings(Protocol):
    """What a run's settings say of its steps."""

    @property
    def batch(self) -> int:
        """Pictures per step."""
        ...

    @property
    def decay(self) -> float:
        """Of the weights' average."""
        ...


class TrainState(NamedTuple):
    """All that changes in training; `average` is the network that is kept."""

    network: Any
    average: Any
    moments: PyTree
    images: Int[Array, ""]  # pictures seen
    broken: Int[Array, ""]  # pictures seen when the loss first was not finite; -1: never


def adam(rate: float, thousands: float, batch: int) -> optax.GradientTransformation:
    """Adam as `face_features.warmed` makes it, its slopes clipped."""
    return optax.chain(optax.clip_by_global_norm(1.0), warmed(rate, thousands, batch))


def fresh(network: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    count = jnp.zeros((), jnp.int32)
    never = jnp.full((), -1, jnp.int32)
    return TrainState(network, network, optimizer.init(network), count, never)


def moved(
    settings: AveragedSettings,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    loss: Float[Array, ""],
    slopes: PyTree,
) -> TrainState:
    """The state after a step along `slopes`; early averages are of fewer steps."""
    updates, moments = optimizer.update(slopes, state.moments)
    network: Any = optax.apply_updates(state.network, updates)
    seen = state.images + settings.batch
    decay = jnp.minimum(settings.decay, state.images / (state.images + 10.0 * settings.batch))
    average = jax.tree.map(lambda a, b: a + (1 - decay) * (b - a), state.average, network)
    broken = jnp.where(jnp.isfinite(loss) | (state.broken >= 0), state.broken, seen)
    return TrainState(network, average, moments, seen, broken)
