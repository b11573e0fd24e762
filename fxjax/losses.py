"""Distances between pictures, per image. A loss embeds pictures, and measures embeddings.

`embed` is the costly half: a target is embedded once. `distance` never mixes images, so a result
does not depend on what else is in its batch. The same object serves as loss, score and metric.
Pictures are [-1, 1] RGB; those over 256 px are shrunk by area first.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fxjax.nn.ops import EXACT
from fxjax.nn.vgg16 import VGG16
from fxjax.types import Features, Images

Weights = Float[Array, "batch height width"]
GRAM_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1")
INVERTING_LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3")  # of transfers' inversions
FEATURE_SIZE = 256  # pixels in which features are compared, at most

Embedding = Any
"""What `embed` returns: arrays whose first axis is the image."""


@runtime_checkable
class Loss(Protocol):
    """Embeds pictures, and measures how far two embeddings are apart."""

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """What `distance` compares; `weights` (of a target) stress regions of the picture."""
        ...

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """One number per image, 0 if equal; the weights are the goal's."""
        ...


def shrink(
    x: Float[Array, "batch h w *channels"], size: int
) -> Float[Array, "batch _ _ *channels"]:
    """Averages blocks of pixels until the larger side is at most `size`."""
    factor = -(-max(x.shape[1], x.shape[2]) // size)
    if factor == 1:
        return x
    batch, height, width, *rest = x.shape
    if height % factor or width % factor:
        raise ValueError(f"pictures of {height}x{width} px cannot be averaged to {size} px")
    blocks = x.reshape(batch, height // factor, factor, width // factor, factor, *rest)
    return jnp.mean(blocks, axis=(2, 4))


def _mean(square: Features, weights: Weights | None) -> Float[Array, " batch"]:
    """Weighted mean over pixels, plain mean over channels."""
    if weights is None:
        return jnp.mean(square, axis=(1, 2, 3))
    map_ = shrink(weights, square.shape[1])
    total = jnp.sum(map_, axis=(1, 2)) + 1e-8
    return jnp.sum(jnp.mean(square, axis=3) * map_, axis=(1, 2)) / total


class Pixels(nnx.Module):
    """Mean squared difference of pixels at `size` px or less (0: none there, 4: black to white)."""

    def __init__(self, size: int = 256):
        self.size = size

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """The pictures, shrunk."""
        return {"x": shrink(images.astype(jnp.float32), self.size), "weights": weights}

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """Mean over pixels and channels."""
        return _mean(jnp.square(embedding["x"] - goal["x"]), goal["weights"])


class Perceptual(nnx.Module):
    """Mean squared difference of VGG16 features, averaged over `layers` (arXiv:1603.08155).

    The default is block3_conv3, what the literature on inversion calls layer 9. Each layer's
    distance is divided by `scales` (such as its mean square over faces; default 1).
    """

    def __init__(
        self,
        features: VGG16,
        layers: Sequence[str] = ("block3_conv3",),
        scales: Sequence[float] | None = None,
        size: int = 256,
    ):
        self.features, self.layers, self.size = features, tuple(layers), size
        self.scales = (1.0,) * len(self.layers) if scales is None else tuple(scales)

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """The layers' activations."""
        found = self.features(shrink(images, self.size), self.layers)
        return {"x": [found[name] for name in self.layers], "weights": weights}

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """Mean over pixels and channels of each layer, then over the layers."""
        parts = [
            _mean(jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)), goal["weights"])
            / scale
            for a, b, scale in zip(embedding["x"], goal["x"], self.scales, strict=True)
        ]
        return functools.reduce(jnp.add, parts) / len(parts)


def feature_size(resolution: int) -> int:
    """In how many pixels features of a generator's pictures are compared with those of a photo.

    Half as many: a quarter of the network's work, and inversions as good (docs/transfer.md).
    """
    return min(FEATURE_SIZE, max(resolution // 2, 32))


def balanced(features: VGG16, layers: Sequence[str], images: Images, size: int = 256) -> Perceptual:
    """`Perceptual` with each layer divided by its mean square over `images`.

    So every layer counts alike, and about as much as pixels do. KeyError for unknown layers.
    """
    found = _embedded(Perceptual(features, layers, size=size), images)
    return Perceptual(features, layers, _mean_squares(found), size)


def inverting(
    features: VGG16,
    layers: Sequence[str],
    images: Images,
    *,
    size: int = 256,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Any:
    """What inversions are by: `balanced` features and pixels, by their weights; 0 leaves one out.

    Raises ValueError if both are 0, KeyError for unknown layers.
    """
    if not any(weights):
        raise ValueError("features and pixels both weigh 0: nothing is left to invert by")
    if not weights[0]:
        return Pixels()
    perceptual = balanced(features, layers, images, size)
    return Sum([perceptual, Pixels()], weights) if weights[1] else perceptual


def balanced_gram(
    features: VGG16, images: Images, layers: Sequence[str] = GRAM_LAYERS, size: int = 256
) -> "Gram":
    """`Gram` with each layer divided by its mean square over `images`."""
    found = _embedded(Gram(features, layers, size=size), images)
    return Gram(features, layers, _mean_squares(found), size)


@jax.jit
def _embedded(loss: Any, images: Images) -> list[Array]:
    return loss.embed(images)["x"]


def _mean_squares(found: Sequence[Array]) -> list[float]:
    squares = [float(jnp.mean(jnp.square(x.astype(jnp.float32)))) for x in found]
    return [square if square > 0 else 1.0 for square in squares]


class Gram(nnx.Module):
    """Mean squared difference of Gram matrices of VGG16 features (arXiv:1508.06576, eq. 3-5).

    The Gram matrix is divided by the number of pixels, so that sizes compare; `weights` of a
    target weigh its pixels. Each layer is divided by `scales`.
    """

    def __init__(
        self,
        features: VGG16,
        layers: Sequence[str] = GRAM_LAYERS,
        scales: Sequence[float] | None = None,
        size: int = 256,
    ):
        self.features, self.layers, self.size = features, tuple(layers), size
        self.scales = (1.0,) * len(self.layers) if scales is None else tuple(scales)

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """[batch, channels, channels] for each layer."""
        found = self.features(shrink(images, self.size), self.layers)
        return {"x": [_gram(found[name], weights) for name in self.layers]}

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """Mean over the entries of each matrix, then over the layers."""
        parts = [
            jnp.mean(jnp.square(a - b), axis=(1, 2)) / scale
            for a, b, scale in zip(embedding["x"], goal["x"], self.scales, strict=True)
        ]
        return functools.reduce(jnp.add, parts) / len(parts)


def _gram(x: Features, weights: Weights | None) -> Float[Array, "batch channels channels"]:
    batch, height, width, channels = x.shape
    x = x.astype(jnp.float32).reshape(batch, height * width, channels)
    if weights is None:
        return jnp.einsum("bpi,bpj->bij", x, x, precision=EXACT) / (height * width)
    map_ = shrink(weights, height).reshape(batch, height * width)
    total = jnp.sum(map_, axis=1)[:, None, None] + 1e-8
    return jnp.einsum("bp,bpi,bpj->bij", map_, x, x, precision=EXACT) / total


class Normalized(nnx.Module):
    """LPIPS-style distance (arXiv:1801.03924, eq. 1): channel-normalised features, many layers.

    With `heads` (one non-negative weight per channel for each layer) it is LPIPS with those linear
    heads; without, every channel weighs the same, 1.
    """

    def __init__(
        self,
        features: VGG16,
        layers: Sequence[str],
        heads: Sequence[Float[Array, " channels"]] | None = None,
        size: int = 256,
    ):
        self.features, self.layers, self.size = features, tuple(layers), size
        self.heads = None if heads is None else nnx.List(nnx.Param(head) for head in heads)

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """Activations divided by their norm over the channels."""
        found = self.features(shrink(images, self.size), self.layers)
        return {"x": [_unit(found[name]) for name in self.layers], "weights": weights}

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """Sum over channels, mean over pixels, sum over layers."""
        total = jnp.zeros((), jnp.float32)
        for i, (a, b) in enumerate(zip(embedding["x"], goal["x"], strict=True)):
            square = jnp.square(a - b)
            if self.heads is not None:
                square = square * self.heads[i][...]
            total = total + _mean(square, goal["weights"]) * a.shape[-1]
        return total


def _unit(x: Features) -> Features:
    x = x.astype(jnp.float32)
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20) + 1e-10)


class Sum(nnx.Module):
    """A weighted sum of losses."""

    def __init__(self, losses: Sequence[Any], factors: Sequence[float]):
        self.losses, self.factors = nnx.List(losses), tuple(factors)

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """What each of the losses embeds."""
        return [loss.embed(images, weights) for loss in self.losses]

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """The factors times the losses' distances."""
        parts = [
            loss.distance(a, b) * factor
            for loss, a, b, factor in zip(self.losses, embedding, goal, self.factors, strict=True)
        ]
        return functools.reduce(jnp.add, parts)
