"""Training of the network that finds landmarks in drawings (`fxjax.nn.landmarks`).

Everything random follows from the seed and the count of views shown.
"""

import dataclasses
import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8

from fxjax import images
from fxjax.nn.landmarks import Landmarks
from fxjax.training import augment
from fxjax.training.face_features import draw_color, draw_geometry, moved, softened, warmed
from fxjax.types import Images

NOISE = 0.06  # deviation of a view's noise, at most
GREY = 0.15  # share of views without colour
LARGEST = 0.2  # of the side: what covers a part of a view
COVERED = 0.3  # share of views in which something is covered
# What expressions are read from counts more than the jaw.
WEIGHTS = (0.7,) * 17 + (1.5,) * 10 + (1.0,) * 9 + (2.0,) * 32


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained and how; two runs with equal settings and data are equal."""

    size: Annotated[int, "pixels a side of the views: what the network looks at"] = 128
    widths: Annotated[tuple[int, ...], "channels at a quarter, an eighth, a sixteenth"] = (
        48,
        96,
        128,
    )
    batch: Annotated[int, "views per step"] = 32
    kviews: Annotated[float, "thousands of views to train on"] = 160.0
    rate: Annotated[float, "Adam's rate at its highest"] = 0.002
    zoom: Annotated[float, "the closest views show 1 / zoom of the picture's side"] = 1.1
    decay: Annotated[float, "of the weights' average, which is what is kept"] = 0.998
    seed: Annotated[int, "of weights, views and all else"] = 0


class Faces(NamedTuple):
    """Aligned pictures of `Settings.size` pixels with their landmarks, on the device."""

    pictures: UInt8[Array, "count side side 3"]
    landmarks: Float[Array, "count 68 2"]  # pixels


class TrainState(NamedTuple):
    """All that changes in training; `average` is the network that is kept."""

    network: Landmarks
    average: Landmarks
    moments: PyTree
    images: Int[Array, ""]  # views shown
    broken: Int[Array, ""]  # views shown when the loss first was not finite; -1: never


@functools.partial(jax.jit, static_argnums=0)
def fresh(settings: Settings) -> TrainState:
    """The state before the first step."""
    network = Landmarks(settings.size, settings.widths, rngs=nnx.Rngs(params=settings.seed))
    moments = optimizer(settings).init(network)  # pyright: ignore[reportArgumentType]
    count = jnp.zeros((), jnp.int32)
    return TrainState(network, network, moments, count, jnp.full((), -1, jnp.int32))


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """`train_features.warmed`, its slopes clipped."""
    adam = warmed(settings.rate, settings.kviews, settings.batch)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    settings: Settings, state: TrainState, faces: Faces
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step of Adam; `error` is in percent of the distance between the eyes."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    choose, change = jax.random.split(key)
    chosen = jax.random.randint(choose, (settings.batch,), 0, len(faces.pictures))
    views, landmarks = draw_views(settings, faces, chosen, change)
    eyes = jnp.linalg.norm(
        landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1), axis=1
    )[:, None]  # fmt: skip

    def objective(network: Landmarks) -> tuple[Array, Array]:
        far = jnp.sqrt(jnp.sum((network(views) - landmarks) ** 2, axis=2) + 1e-4) / eyes
        return jnp.mean(jnp.asarray(WEIGHTS) * far), jnp.mean(far)

    (loss, error), slopes = jax.value_and_grad(objective, has_aux=True)(state.network)
    updates, moments = optimizer(settings).update(slopes, state.moments)
    network: Landmarks = optax.apply_updates(state.network, updates)  # pyright: ignore
    seen = state.images + settings.batch
    decay = jnp.minimum(settings.decay, state.images / (state.images + 10.0 * settings.batch))
    average = jax.tree.map(lambda a, b: a + (1 - decay) * (b - a), state.average, network)
    broken = jnp.where(jnp.isfinite(loss) | (state.broken >= 0), state.broken, seen)
    metrics = {"loss": loss, "error": 100 * error, "broken": broken.astype(jnp.float32)}
    return TrainState(network, average, moments, seen, broken), metrics


def draw_views(
    settings: Settings, faces: Faces, chosen: Int[Array, " batch"], key: Array
) -> tuple[Images, Float[Array, "batch 68 2"]]:
    """Random views of the chosen pictures, and the landmarks in their pixels.

    Mirrored, turned by up to 15 degrees, shifted, recoloured, blurred, with noise, partly covered.
    """
    batch, side = len(chosen), settings.size
    place, color, soft, noise, gray, cover = jax.random.split(key, 6)
    geometry, mirror = draw_geometry(place, batch, side, settings.zoom)
    views = augment.warp(images.from_uint8(faces.pictures[chosen]), geometry)
    views = softened(augment.recolor(views, draw_color(color, batch)), soft)
    flat = jnp.broadcast_to(jnp.mean(views, axis=3, keepdims=True), views.shape)
    grey = jax.random.bernoulli(gray, GREY, (batch, 1, 1, 1))
    views = _covered(jnp.where(grey, flat, views), cover)
    strength = NOISE * jax.random.uniform(noise, (batch, 1, 1, 1))
    views = views + strength * jax.random.normal(jax.random.fold_in(noise, 1), views.shape)
    middle = (side - 1) / 2
    return views, moved(faces.landmarks[chosen] - middle, geometry, mirror) + middle


def _covered(views: Images, key: Array) -> Images:
    """Some with a rectangle of one colour over a part, as hands, hair and glasses are."""
    batch, side = views.shape[:2]
    often, where, large, color = jax.random.split(key, 4)
    half = side * LARGEST / 2 * jax.random.uniform(large, (2, batch, 1), minval=0.2)
    middle = side * jax.random.uniform(where, (2, batch, 1))
    x, y = (jnp.abs(jnp.arange(side) - middle[k]) < half[k] for k in range(2))
    covered = (y[:, :, None] & x[:, None]) & jax.random.bernoulli(often, COVERED, (batch, 1, 1))
    paint = jax.random.uniform(color, (batch, 1, 1, 3), minval=-1.0)
    return jnp.where(covered[..., None], paint, views)
