"""Training of a feature network: a VGG16 trunk that learns what matters in faces.

Tasks on one trunk, each with its own small head that is thrown away at the end: where the 68
landmarks are, how people rated the face, and which views show the same person (supervised
contrastive, arXiv:2004.11362). The trunk trains with batch norm (arXiv:1502.03167), which is
folded into kernels and biases at the end. Everything random follows from the seed and the count
of views shown.
"""

import dataclasses
import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike, UInt8

from fxjax import images, losses
from fxjax.faces.expression import MIRROR
from fxjax.nn import ops
from fxjax.nn.layers import Average, Dense
from fxjax.nn.vgg16 import BLOCKS, VGG16
from fxjax.training import augment
from fxjax.types import Features, Images

EPSILON = 1e-5  # of batch norm
SPREAD = 0.15  # deviation of a landmark from its mean, in half sides of a view
Predictions = dict[str, Float[Array, "batch _"]]


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """What is trained and how; two runs with equal settings and data are equal."""

    widths: Annotated[tuple[int, ...], "channels of the blocks, the last one thrown away"] = (
        64, 128, 256, 256,
    )  # fmt: skip
    size: Annotated[int, "side of the views"] = 64
    batch: Annotated[int, "views per step; two of each face or person"] = 16
    kviews: Annotated[float, "thousands of views to train on"] = 100.0
    rate: Annotated[float, "Adam's rate at its highest"] = 0.002
    zoom: Annotated[float, "the closest views show 1 / zoom of the picture's side"] = 1.6
    embedding: Annotated[int, "length of the contrastive embedding"] = 64
    temperature: Annotated[float, "of the contrastive loss"] = 0.2
    landmark_weight: Annotated[float, "weight of the landmarks' loss"] = 1.0
    rating_weight: Annotated[float, "weight of the ratings' loss"] = 1.0
    person_weight: Annotated[float, "weight of the contrastive loss"] = 0.5
    seed: Annotated[int, "of weights, views and all else"] = 0


class RatedFaces(NamedTuple):
    """Labelled pictures of 2 * `FeatureSettings.size` pixels, on the device."""

    pictures: UInt8[Array, "count side side 3"]
    weights: Float[Array, " count"]  # how often each is shown, relative to others
    people: Int[Array, " count"]
    landmarks: Float[Array, "count 68 2"]  # x, y: pixels from the middle of the picture
    located: Bool[Array, " count"]  # whether the landmarks are to be trusted
    ratings: Float[Array, "count ratings"]  # standardised
    rated: Bool[Array, " count"]


class Network(nnx.Module):
    """The trunk with batch norm, and the heads. The convolutions' biases are the norms'."""

    def __init__(self, settings: FeatureSettings, ratings: int, *, rngs: nnx.Rngs):
        widths = settings.widths
        self.trunk = VGG16(widths, mean=(0.0,) * 3, deviation=(1.0,) * 3, bgr=False, rngs=rngs)
        each = [width for width, n in zip(widths, BLOCKS, strict=False) for _ in range(n)]
        self.gains = nnx.List(nnx.Param(jnp.ones((width,), jnp.float32)) for width in each)
        self.means = nnx.List(Average(jnp.zeros((width,), jnp.float32)) for width in each)
        self.squares = nnx.List(Average(jnp.ones((width,), jnp.float32)) for width in each)
        self.heads = TaskHeads(settings, ratings, rngs=rngs)

    def __call__(self, views: Images) -> tuple[Predictions, list[tuple[Array, Array]]]:
        """The heads' outputs with the batch's own statistics, and these: means and squares."""
        x, gains, found = self.trunk.preprocess(views), iter(self.gains), []
        for block in self.trunk.blocks:
            for conv in block:
                x = ops.conv(x, conv.kernel[...])
                mean, square = (jnp.mean(y, axis=(0, 1, 2)) for y in (x, jnp.square(x)))
                found.append((mean, square))
                scale = next(gains)[...] * _inverse_deviation(mean, square)
                x = jnp.maximum(x * scale + (conv.bias[...] - mean * scale), 0)
            x = ops.max_pool(x)
        return self.heads(x), found


class TaskHeads(nnx.Module):
    """Landmarks, ratings and the contrastive embedding from the last pooling layer."""

    def __init__(self, settings: FeatureSettings, ratings: int, *, rngs: nnx.Rngs):
        width, side = settings.widths[-1], settings.size >> len(settings.widths)
        self.landmarks = Dense(side * side * width, 136, rngs=rngs)
        self.ratings = Dense(width, ratings, rngs=rngs)
        self.person = Dense(width, settings.embedding, rngs=rngs)

    def __call__(self, x: Features) -> Predictions:
        """Standardised landmarks and ratings, and an embedding."""
        pooled = jnp.mean(x, axis=(1, 2))
        return {
            "landmarks": self.landmarks(x.reshape(x.shape[0], -1)),
            "ratings": self.ratings(pooled),
            "person": self.person(pooled),
        }


class TrainState(NamedTuple):
    """All that changes in training."""

    network: Network
    moments: PyTree
    images: Int[Array, ""]  # views shown
    broken: Int[Array, ""]  # views shown when the loss first was not finite; -1: never


@functools.partial(jax.jit, static_argnums=(0, 1))
def fresh(settings: FeatureSettings, ratings: int) -> TrainState:
    """The state before the first step."""
    network = Network(settings, ratings, rngs=nnx.Rngs(params=settings.seed))
    moments = optimizer(settings).init(network)  # pyright: ignore[reportArgumentType]
    return TrainState(network, moments, jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))


def optimizer(settings: FeatureSettings) -> optax.GradientTransformation:
    """Adam with the settings' rate and length, as `warmed` makes it."""
    return warmed(settings.rate, settings.kviews, settings.batch)


def warmed(rate: float, kviews: float, batch: int) -> optax.GradientTransformation:
    """Adam, warmed up over the first twentieth, then falling to 0 with a cosine."""
    steps = max(2, round(kviews * 1000 / batch))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), steps)
    return optax.adam(schedule, b2=0.99)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    settings: FeatureSettings, state: TrainState, faces: RatedFaces
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step of Adam on two views of each of batch / 2 faces."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    choose, change = jax.random.split(key)
    chosen = pairs(faces, choose, settings.batch)
    views, landmarks = draw_views(settings, faces, chosen, change)

    def objective(network: Network) -> tuple[Array, tuple[dict[str, Array], list]]:
        found, statistics = network(views)
        parts = {
            "landmarks": masked_square(found["landmarks"], landmarks, faces.located[chosen]),
            "ratings": masked_square(found["ratings"], faces.ratings[chosen], faces.rated[chosen]),
            "person": contrastive(found["person"], faces.people[chosen], settings.temperature),
        }
        weights = settings.landmark_weight, settings.rating_weight, settings.person_weight
        total = sum(weight * part for weight, part in zip(weights, parts.values(), strict=True))
        return jnp.asarray(total), (parts, statistics)

    (loss, (parts, statistics)), slopes = jax.value_and_grad(objective, has_aux=True)(state.network)
    updates, moments = optimizer(settings).update(slopes, state.moments)
    network: Network = optax.apply_updates(state.network, updates)  # pyright: ignore
    decay = jnp.minimum(0.99, state.images / (state.images + 10.0 * settings.batch))
    for k, (mean, square) in enumerate(statistics):
        network.means[k][...] += (1 - decay) * (mean - network.means[k][...])
        network.squares[k][...] += (1 - decay) * (square - network.squares[k][...])
    seen = state.images + settings.batch
    broken = jnp.where(jnp.isfinite(loss) | (state.broken >= 0), state.broken, seen)
    metrics = {"loss": loss, **parts, "broken": broken.astype(jnp.float32)}
    return TrainState(network, moments, seen, broken), metrics


def pairs(faces: RatedFaces, key: Array, batch: int) -> Int[Array, " batch"]:
    """Pictures by weight, and after them as many of the same people (or the same pictures)."""
    first, second = jax.random.split(key)
    odds = jnp.log(faces.weights)
    chosen = jax.random.categorical(first, odds, shape=(batch // 2,))
    same = faces.people[chosen][:, None] == faces.people
    partners = jax.random.categorical(second, jnp.where(same, odds, -jnp.inf))
    return jnp.concatenate([chosen, partners])


def draw_views(
    settings: FeatureSettings, faces: RatedFaces, chosen: Int[Array, " batch"], key: Array
) -> tuple[Images, Float[Array, "batch 136"]]:
    """Random views of the chosen pictures, and their standardised landmarks.

    Mirrored, turned by up to 15 degrees, cropped, recoloured, blurred.
    """
    batch, side = len(chosen), 2 * settings.size
    place, color, soft = jax.random.split(key, 3)
    geometry, mirror = draw_geometry(place, batch, side, settings.zoom)
    views = augment.warp(images.from_uint8(faces.pictures[chosen]), geometry)
    views = losses.shrink(views, settings.size)  # two samples per pixel each way: no aliasing
    views = softened(augment.recolor(views, draw_color(color, batch)), soft)
    placed = moved(faces.landmarks[chosen], geometry, mirror)
    return views, standard_landmarks(faces, placed / (side / 2))


def draw_geometry(
    key: Array, batch: int, side: int, zoom: float
) -> tuple[Float[Array, "batch 3 3"], Bool[Array, " batch"]]:
    """Matrices for `augment.warp`, turned by up to 15 degrees, and which of them mirror."""
    keys = jax.random.split(key, 5)

    def uniform(index: int, low: ScalarLike, high: ScalarLike) -> Float[Array, " batch"]:
        return jax.random.uniform(keys[index], (batch,), minval=low, maxval=high)

    mirror = jax.random.bernoulli(keys[0], 0.5, (batch,))
    angle = uniform(1, -jnp.pi / 12, jnp.pi / 12)
    scale = jnp.exp(uniform(2, -jnp.log(zoom), 0.1))
    room = jnp.maximum(1 - scale, 0.05)  # a close view may look anywhere in the picture
    x, y = (uniform(k, -1, 1) * room * side / 2 * 0.7 for k in (3, 4))
    sign, zero, one = jnp.where(mirror, -1.0, 1.0), jnp.zeros(batch), jnp.ones(batch)
    cosine, sine = scale * jnp.cos(angle), scale * jnp.sin(angle)
    rows = [[sign * cosine, -sign * sine, x], [sine, cosine, y], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2), mirror


def moved(
    landmarks: Float[Array, "batch 68 2"],
    geometry: Float[Array, "batch 3 3"],
    mirror: Bool[Array, " batch"],
) -> Float[Array, "batch 68 2"]:
    """Landmarks of warped pictures; before and after in pixels from the middle."""
    landmarks = jnp.where(mirror[:, None, None], landmarks[:, MIRROR], landmarks)
    back = jnp.linalg.inv(geometry)
    return jnp.einsum("bij,bkj->bki", back[:, :2, :2], landmarks) + back[:, None, :2, 2]


def softened(views: Images, key: Array) -> Images:
    """Half of the pictures blurred, more or less."""
    softness = jnp.maximum(jax.random.uniform(key, (len(views),), minval=-1.0, maxval=1.0), 0)
    change = ops.fir(views, (1.0, 4.0, 6.0, 4.0, 1.0), pad=(2, 2)) - views
    return views + softness[:, None, None, None] * change


def draw_color(key: Array, batch: int) -> Float[Array, "batch 4 4"]:
    """Random brightness, contrast and saturation, a little of each and of colour casts."""
    normals = jax.random.normal(key, (6, batch))
    contrast, saturation = jnp.exp2(0.3 * normals[0]), jnp.exp2(0.5 * normals[1])
    grey = jnp.full((3, 3), 1 / 3, jnp.float32)
    linear = contrast[:, None, None] * (saturation[:, None, None] * (jnp.eye(3) - grey) + grey)
    offset = (0.15 * normals[2] + 0.05 * normals[3:]).T
    top = jnp.concatenate([linear, offset[:, :, None]], axis=2)
    bottom = jnp.tile(jnp.asarray([0.0, 0, 0, 1], jnp.float32), (batch, 1, 1))
    return jnp.concatenate([top, bottom], axis=1)


def standard_landmarks(
    faces: RatedFaces, landmarks: Float[Array, "batch 68 2"]
) -> Float[Array, "batch 136"]:
    """Landmarks in half sides of a view less the mean face, over `SPREAD`."""
    return ((landmarks - mean_face(faces)) / SPREAD).reshape(len(landmarks), 136)


def mean_face(faces: RatedFaces) -> Float[Array, "68 2"]:
    """The mean landmarks of the unchanged pictures, in half sides."""
    known = faces.located[:, None, None]
    return jnp.sum(faces.landmarks * known, axis=0) / jnp.sum(known) / (faces.pictures.shape[1] / 2)


def masked_square(
    found: Float[Array, "batch n"], wanted: Float[Array, "batch n"], known: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Mean squared difference over the rows that are known; 0 if none is."""
    each = jnp.mean(jnp.square(found - wanted), axis=1)
    return jnp.sum(jnp.where(known, each, 0)) / jnp.maximum(jnp.sum(known), 1)


def contrastive(
    embedding: Float[Array, "batch n"], people: Int[Array, " batch"], temperature: float
) -> Float[Array, ""]:
    """How far views of one person are from telling themselves apart from others.

    Supervised contrastive loss, equation 2 of arXiv:2004.11362. Every person must be there twice.
    """
    norms = jnp.sum(jnp.square(embedding), axis=1, keepdims=True)
    unit = embedding * jax.lax.rsqrt(norms + 1e-8)
    other = ~jnp.eye(len(people), dtype=bool)
    alike = unit @ unit.T / temperature
    shares = alike - jax.nn.logsumexp(jnp.where(other, alike, -jnp.inf), axis=1, keepdims=True)
    same = other & (people[:, None] == people)
    return -jnp.mean(jnp.sum(jnp.where(same, shares, 0), axis=1) / jnp.sum(same, axis=1))


def folded(network: Network) -> VGG16:
    """The trunk alone, with the averages of batch norm in its kernels and biases."""
    trunk = jax.tree.map(lambda array: array, network.trunk)
    for k, conv in enumerate(convolutions(trunk)):
        mean = network.means[k][...]
        scale = network.gains[k][...] * _inverse_deviation(mean, network.squares[k][...])
        conv.kernel[...] = conv.kernel[...] * scale
        conv.bias[...] = conv.bias[...] - mean * scale
    return trunk


def convolutions(trunk: VGG16) -> list[Any]:
    """All of them, in order; each is a `Conv` with a bias."""
    return [conv for block in trunk.blocks for conv in block]


def cut(trunk: VGG16, blocks: int) -> VGG16:
    """The same network with only its first blocks."""
    trunk = jax.tree.map(lambda array: array, trunk)
    trunk.blocks = nnx.List(trunk.blocks[:blocks])
    return trunk


def unit_squares(trunk: VGG16, pictures: Images) -> tuple[VGG16, dict[str, float]]:
    """The same features, scaled so that each layer's mean square over `pictures` is 1.

    Also the mean squares before. A positive scale passes through ReLU and pooling, so it is
    taken back by the next layer's kernel. Raises ValueError if a layer is dead.
    """
    names = [name for name in trunk.names if "conv" in name]
    found = jax.jit(_mean_squares, static_argnums=2)(trunk, pictures, tuple(names))
    squares = dict(zip(names, map(float, found), strict=True))
    if dead := [name for name, square in squares.items() if not 0 < square < float("inf")]:
        raise ValueError(f"the layers {', '.join(dead)} show nothing on these pictures")
    trunk = jax.tree.map(lambda array: array, trunk)
    before = 1.0
    for conv, square in zip(convolutions(trunk), squares.values(), strict=True):
        scale = square**-0.5
        conv.kernel[...] = conv.kernel[...] * (scale / before)
        conv.bias[...] = conv.bias[...] * scale
        before = scale
    return trunk, squares


def random_features(widths: tuple[int, ...], seed: int = 0) -> VGG16:
    """Random features (arXiv:1502.01852) to compare with: kernels of variance 2 / inputs."""
    trunk = VGG16(
        widths, mean=(0.0,) * 3, deviation=(1.0,) * 3, bgr=False, rngs=nnx.Rngs(params=seed)
    )
    for conv in convolutions(trunk):
        conv.kernel[...] = conv.kernel[...] * 2**0.5  # drawn with variance 1 / inputs
    return trunk


def _mean_squares(trunk: VGG16, pictures: Images, names: tuple[str, ...]) -> list[Array]:
    def one(picture: Array) -> list[Array]:
        layers = trunk(picture[None], names)
        return [jnp.mean(jnp.square(layers[name])) for name in names]

    return [jnp.mean(each) for each in jax.lax.map(one, pictures)]


def _inverse_deviation(mean: Array, square: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + EPSILON)
