"""Training of the network that finds landmarks in drawings (`fxjax.nn.landmarks`): faces and steps.

Everything random follows from the seed and the count of views shown.
"""

import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from fxjax import files, images
from fxjax.nn.landmarks import Landmarks
from fxjax.training import augment, averaged
from fxjax.training.averaged import TrainState
from fxjax.training.face_features import draw_color, draw_geometry, moved, softened
from fxjax.types import AnyPhoto, Images, Photos

NOISE = 0.06  # deviation of a view's noise, at most
GREY = 0.15  # share of views without colour
LARGEST = 0.2  # of the side: what covers a part of a view
COVERED = 0.3  # share of views in which something is covered
# What expressions are read from counts more than the jaw.
WEIGHTS = (0.7,) * 17 + (1.5,) * 10 + (1.0,) * 9 + (2.0,) * 32
NAMES = ("pictures", "landmarks", "source")  # of the arrays in a file
HELD_BACK = "samples"  # the source whose last pictures are held back
PARTS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48),
         "mouth": range(48, 68)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LandmarkerSettings:
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


class MarkedFaces(NamedTuple):
    """Aligned pictures of `LandmarkerSettings.size` pixels with their landmarks, on the device."""

    pictures: UInt8[Array, "count side side 3"]
    landmarks: Float[Array, "count 68 2"]  # pixels


@functools.partial(jax.jit, static_argnums=0)
def fresh(settings: LandmarkerSettings) -> TrainState:
    """The state before the first step."""
    network = Landmarks(settings.size, settings.widths, rngs=nnx.Rngs(params=settings.seed))
    return averaged.fresh(network, optimizer(settings))


def optimizer(settings: LandmarkerSettings) -> optax.GradientTransformation:
    """What moves the network."""
    return averaged.adam(settings.rate, settings.kviews, settings.batch)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    settings: LandmarkerSettings, state: TrainState, faces: MarkedFaces
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
    state = averaged.moved(settings, state, optimizer(settings), loss, slopes)
    return state, {"loss": loss, "error": 100 * error, "broken": state.broken.astype(jnp.float32)}


def draw_views(
    settings: LandmarkerSettings, faces: MarkedFaces, chosen: Int[Array, " batch"], key: Array
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


def read_faces(
    paths: Sequence[str], size: int, apart: int
) -> tuple[MarkedFaces, Photos, np.ndarray]:
    """Faces to train on; pictures held back, and their landmarks.

    ValueError for files that `experiments.making.landmark_faces` did not write.
    """
    pictures, landmarks, sources = [], [], []
    for path in paths:
        if not files.absolute(path).exists():
            raise FileNotFoundError(
                f"no file at {path}; experiments.making.landmark_faces makes it"
            )
        try:
            with files.absolute(path).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                pictures.append(arrays["pictures"])
                landmarks.append(arrays["landmarks"])
                sources.append(arrays["source"])
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} was not written by experiments.making.landmark_faces: {error}"
            ) from None
    found = np.concatenate(pictures)
    if found.shape[1] != size:
        raise ValueError(f"pictures of {found.shape[1]} px; --size={size} wants as many")
    points = np.concatenate(landmarks).astype(np.float32)
    held = np.flatnonzero(np.concatenate(sources) == HELD_BACK)[-apart:]
    if not 0 < len(held) < len(found):
        raise ValueError(f"{len(held)} {HELD_BACK} to hold back of {len(found)} pictures")
    rest = np.setdiff1d(np.arange(len(found)), held)
    return (
        MarkedFaces(jnp.asarray(found[rest]), jnp.asarray(points[rest])),
        found[held],
        points[held],
    )


@jax.jit
def _found(network: Landmarks, pictures: jax.Array) -> jax.Array:
    return network(images.from_uint8(pictures))


def errors(network: Landmarks, pictures: Photos, wanted: np.ndarray) -> dict[str, float | int]:
    """Mean distances by part and of all, in percent of that between the eyes."""
    parts = [_found(network, jnp.asarray(pictures[k : k + 1])) for k in range(len(pictures))]
    eyes = np.linalg.norm(wanted[:, 36:42].mean(1) - wanted[:, 42:48].mean(1), axis=1)
    far = 100 * np.linalg.norm(np.concatenate(parts) - wanted, axis=2) / eyes[:, None]
    found = {name: float(far[:, list(points)].mean()) for name, points in PARTS.items()}
    return {"all": float(far.mean())} | found


def packed(name: str, seen: Sequence[tuple[AnyPhoto, Float[np.ndarray, "68 2"]]]) -> bytes:
    """Faces of one source with their landmarks, as an npz."""
    pictures = np.stack([picture for picture, _ in seen]) if seen else np.zeros((0, 1, 1, 3))
    points = np.array([landmarks for _, landmarks in seen], np.float32).reshape(-1, 68, 2)
    arrays = (pictures.astype(np.uint8), points, np.array([name] * len(seen), str))
    return files.npz(dict(zip(NAMES, arrays, strict=True)))


def part(place: epath.Path) -> tuple[np.ndarray, ...]:
    """The arrays of such an npz, by `NAMES`."""
    with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in NAMES)
