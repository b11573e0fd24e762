"""Training of an encoder: photos to codes by the objective of inversions, the generator frozen.

    L(g(e(x)), x) + pull * mean(v^2) + code_weight * mean((v - v_x)^2)

L and the pull are those that transfers invert by, v the whitened code (`fxjax.codes.whiten`). Half
of the pictures are the generator's own, whose v_x is known; of most of its directions no picture
tells, so that term is small. All rows are alike: what e4e (arXiv:2102.02766) holds close is one.
Everything random follows from the seed and the count of pictures seen.
"""

import dataclasses
import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from fxjax import checkpoint, images, losses
from fxjax.codes import invert, whiten
from fxjax.nn.encoder import SmallEncoder
from fxjax.nn.generator import synthesize
from fxjax.training import averaged
from fxjax.training.averaged import TrainState
from fxjax.training.face_features import softened
from fxjax.types import Codes, Images, Photos

NOISE = 0.04  # deviation of a view's noise, at most


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """What is trained and how; two runs with equal settings, data and model are equal."""

    size: Annotated[int, "pixels a side that the encoder looks at; a multiple of 32"] = 128
    widths: Annotated[tuple[int, ...], "channels at a quarter, an eighth, ... of that"] = (
        48, 96, 128, 160,
    )  # fmt: skip
    squeeze: Annotated[int, "channels of the last map"] = 32
    batch: Annotated[int, "pictures per step, half of them the generator's; even"] = 32
    kimg: Annotated[float, "thousands of pictures to train on"] = 600.0
    rate: Annotated[float, "Adam's rate at its highest"] = 0.001
    pull: Annotated[float, "weight of the whitened codes' mean square"] = 0.02
    code_weight: Annotated[float, "weight of the distance to a sample's own whitened code"] = 0.05
    dtype: Annotated[str, "float32 or bfloat16: of activations"] = "bfloat16"
    decay: Annotated[float, "of the weights' average, which is what is kept"] = 0.999
    seed: Annotated[int, "of weights, pictures and all else"] = 0


class Frozen(NamedTuple):
    """What does not change: the whitened generator, and what pictures are compared by."""

    walk: whiten.Whitened
    loss: Any


class Faces(NamedTuple):
    """Aligned pictures at the generator's size, and how often each is shown, on all devices."""

    pictures: UInt8[Array, "count side side 3"]
    weights: Float[Array, " count"]


def frozen(model: str, features: Any, generator: Any) -> Frozen:
    """The parts of a model that an encoder is trained through, and the loss of its inversions."""
    mean = synthesize(generator, invert.mean_codes(generator, 1))
    size = losses.feature_size(generator.resolution)
    loss = losses.inverting(features, losses.INVERTING_LAYERS, mean, size=size)
    return Frozen(whiten.of(model, generator), loss)


def architecture(settings: EncoderSettings, rows: int, dim: int) -> dict[str, Any]:
    """The arguments of `SmallEncoder` that JSON can hold. ValueError for sizes that do not fit."""
    least = 4 << (len(settings.widths) - 1)
    if settings.size % least or settings.size <= 0:
        raise ValueError(
            f"--size={settings.size}: want a multiple of {least} for {len(settings.widths)} widths"
        )
    if settings.batch < 2 or settings.batch % 2:
        raise ValueError(f"--batch={settings.batch}: want an even number, 2 or more")
    if settings.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"--dtype={settings.dtype}: want float32 or bfloat16")
    size = (settings.size, settings.size)
    return {
        "rows": rows, "dim": dim, "widths": settings.widths, "squeeze": settings.squeeze,
        "size": size,
    }  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def fresh(settings: EncoderSettings, rows: int, dim: int) -> TrainState:
    """The state before the first step. The network's w is whitened: `exported` says how it ends."""
    network = SmallEncoder(
        **architecture(settings, rows, dim),
        dtype=jnp.dtype(settings.dtype),
        rngs=nnx.Rngs(params=settings.seed),
    )
    return averaged.fresh(network, _adam(settings))


def _adam(settings: EncoderSettings) -> optax.GradientTransformation:
    return averaged.adam(settings.rate, settings.kimg, settings.batch)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(
    settings: EncoderSettings, mesh: Mesh, state: TrainState, faces: Faces, fixed: Frozen
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step of Adam on half a batch of photos and half a batch of samples.

    The batch is split over the mesh.
    """
    split = NamedSharding(mesh, PartitionSpec("batch"))
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    choose, mirror, make, soft, noise = jax.random.split(key, 5)
    half, walk = settings.batch // 2, fixed.walk
    chosen = jax.random.categorical(choose, jnp.log(faces.weights), shape=(half,))
    real = images.from_uint8(faces.pictures[chosen])
    flip = jax.random.bernoulli(mirror, 0.5, (half, 1, 1, 1))
    real = jnp.where(flip, real[:, :, ::-1], real)
    known = walk.v(walk.generator.mapping(jax.random.normal(make, (half, walk.latent)), None))
    sampled = jnp.clip(_drawn(walk, known, split), -1, 1)
    targets = jax.lax.with_sharding_constraint(jnp.concatenate([real, sampled]), split)
    goal = fixed.loss.embed(targets)
    views = softened(_seen(targets, settings.size), soft)
    each = jax.random.fold_in(noise, 1)
    strength = NOISE * jax.random.uniform(noise, (settings.batch, 1, 1, 1))
    views = views + strength * jax.random.normal(each, views.shape)

    def objective(network: SmallEncoder) -> tuple[Array, tuple[Array, Array]]:
        v = network.dense(network.flat(views))
        value = fixed.loss.distance(fixed.loss.embed(_drawn(walk, v, split)), goal)
        code = jnp.mean((v[half:] - known) ** 2)
        total = jnp.mean(value) + settings.pull * jnp.mean(v**2) + settings.code_weight * code
        return total, (jnp.mean(value[:half]), jnp.mean(value[half:]))

    (loss, parts), slopes = jax.value_and_grad(objective, has_aux=True)(state.network)
    state = averaged.moved(settings, state, _adam(settings), loss, slopes)
    metrics = {"loss": loss, "photos": parts[0], "samples": parts[1]}
    return state, metrics | {"broken": state.broken.astype(jnp.float32)}


def _drawn(walk: whiten.Whitened, v: Float[Array, "batch dim"], split: NamedSharding) -> Images:
    codes = jnp.repeat(walk.w(v)[:, None], len(walk.generator.rows), axis=1)
    return synthesize(walk.generator, jax.lax.with_sharding_constraint(codes, split))


def _seen(pictures: Images, size: int) -> Images:
    """Pictures in the pixels that an encoder looks at."""
    if pictures.shape[1] == size:
        return pictures
    shape = (len(pictures), size, size, pictures.shape[3])
    return jax.image.resize(pictures, shape, "linear", antialias=True)


def exported(network: SmallEncoder, walk: whiten.Whitened) -> SmallEncoder:
    """The same encoder, whose last matrix gives w itself: w = mean + L v."""
    own = jax.tree.map(lambda array: array, network)
    kernel, bias = (
        np.asarray(each[...], np.float64) for each in (own.dense.kernel, own.dense.bias)
    )
    spread = np.asarray(walk.spread[...], np.float64)
    own.dense.kernel[...] = jnp.asarray(kernel @ spread.T, jnp.float32)
    own.dense.bias[...] = jnp.asarray(bias @ spread.T + walk.centre[...], jnp.float32)
    return own


def halved(network: SmallEncoder, walk: whiten.Whitened) -> dict[str, np.ndarray]:
    """What is stored: the weights that `exported` makes, in float16."""
    return checkpoint.halved(exported(network, walk))


def judge(
    network: SmallEncoder, fixed: Frozen, photos: Photos
) -> tuple[dict[str, float], Float[np.ndarray, "count side side 3"]]:
    """Losses of photos as inversions have them, from the encoder and from the mean w; drawings.

    `network` is an `exported` one.
    """
    found, drawings = [], []
    for photo in photos:
        goal, value, drawing = _judged(network, fixed, jnp.asarray(photo)[None])
        found.append((float(value), float(goal)))
        drawings.append(np.asarray(drawing[0]))
    mean = np.mean(found, axis=0)
    return {"loss": float(mean[0]), "loss_of_the_mean": float(mean[1])}, np.stack(drawings)


@jax.jit
def _judged(
    network: SmallEncoder, fixed: Frozen, photo: UInt8[Array, "1 side side 3"]
) -> tuple[Array, Array, Images]:
    target = images.from_uint8(photo)
    goal, walk = fixed.loss.embed(target), fixed.walk
    codes: Codes = network(_seen(target, network.size[0]))
    both = jnp.concatenate([invert.mean_codes(walk.generator, 1), codes])
    drawings = synthesize(walk.generator, both)
    goals = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), goal)
    mean, value = fixed.loss.distance(fixed.loss.embed(drawings), goals)
    return mean, value, drawings[1:]
