"""What is read of a drawing, with slopes: landmarks, expression, pose. And losses of these."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fxjax import zoo
from fxjax.faces import expression
from fxjax.losses import Embedding, Weights
from fxjax.nn.landmarks import Landmarks
from fxjax.nn.layers import Average
from fxjax.types import Images


class Reader(nnx.Module):
    """The network that finds landmarks, and the reader of expressions on what it finds."""

    def __init__(self, network: Landmarks, weights: expression.Weights):
        kept = lambda array: Average(jnp.asarray(array, jnp.float32))
        self.network: Any = network
        self.names = weights.names
        self.arrays = nnx.List([kept(a) for a in (weights.reference, *weights[1:3])])
        self.kernels = nnx.List([kept(kernel) for kernel in weights.kernels])
        self.biases = nnx.List([kept(bias) for bias in weights.biases])
        self.reliability = kept(weights.reliability)

    def marks(self, images: Images) -> Float[Array, "batch 68 2"]:
        """Landmarks in the pictures' own pixels."""
        return self.network(images)

    def outputs(self, marks: Float[Array, "batch 68 2"]) -> Float[Array, "batch outputs"]:
        """Expression coefficients, yaw and pitch in degrees."""
        reference, mean, deviation = (array[...] for array in self.arrays)
        weights = expression.Weights(
            reference,
            mean,
            deviation,
            tuple(kernel[...] for kernel in self.kernels),
            tuple(bias[...] for bias in self.biases),
            self.names,
            self.reliability[...],
        )
        return expression.outputs(marks, weights)

    def __call__(self, images: Images) -> Float[Array, "batch outputs"]:
        """The same of pictures."""
        return self.outputs(self.marks(images))


def load(model: Any = zoo.DEFAULT) -> Reader:
    """The reader of a model folder's landmarks, or of the shipped ones."""
    network = zoo.load(zoo.holder(model, "landmarks"), part="landmarks")
    return Reader(network, expression.shipped())


class Expression(nnx.Module):
    """Squared difference of expression coefficients, each counted as told."""

    def __init__(self, features: Reader, counts: Float[Any, " coefficients"]):
        self.features: Any = features
        self.counts = Average(jnp.asarray(counts, jnp.float32))
        self.size = self.least = features.network.size  # smaller pictures have no landmarks

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """The coefficients; weights of places have no say."""
        return self.features(images)[:, : len(self.features.names)]

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """The sum of weighed squares."""
        return jnp.sum(self.counts[...] * (embedding - goal) ** 2, axis=1)


class Pose(nnx.Module):
    """Squared difference of yaw and pitch, in units of `expression.TURN`."""

    def __init__(self, features: Reader):
        self.features: Any = features
        self.size = self.least = features.network.size

    def embed(self, images: Images, weights: Weights | None = None) -> Embedding:
        """Yaw and pitch; weights of places have no say."""
        return self.features(images)[:, len(self.features.names) :]

    def distance(self, embedding: Embedding, goal: Embedding) -> Float[Array, " batch"]:
        """The sum of squares."""
        return jnp.sum(((embedding - goal) / expression.TURN) ** 2, axis=1)
