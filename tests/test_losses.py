"""Losses against plain numpy, and their independence of the batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax import losses
from fxjax.nn.vgg16 import VGG16

RANDOM = np.random.default_rng(0)


def pictures(batch: int, size: int = 16) -> jax.Array:
    return jnp.asarray(RANDOM.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def features() -> VGG16:
    options = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "bgr": False}
    return VGG16((6, 8, 10), **options, rngs=nnx.Rngs(0))


@pytest.fixture(params=["pixels", "perceptual", "gram", "normalized", "sum"])
def loss(request: pytest.FixtureRequest, features: VGG16) -> Any:
    layers = ("block1_conv2", "block2_conv2")
    perceptual = losses.Perceptual(features, layers, (2.0, 0.5))
    return {
        "pixels": losses.Pixels(),
        "perceptual": perceptual,
        "gram": losses.Gram(features, layers),
        "normalized": losses.Normalized(features, layers, [jnp.ones(6), jnp.ones(8)]),
        "sum": losses.Sum([losses.Pixels(), perceptual], (0.3, 2.0)),
    }[request.param]


def test_zero_for_equal_positive_otherwise_and_per_image(loss: Any) -> None:
    assert isinstance(loss, losses.Loss)
    a, b = pictures(3), pictures(3)
    goal = loss.embed(b)
    np.testing.assert_allclose(loss.distance(goal, goal), jnp.zeros(3), atol=1e-12)
    together = loss.distance(loss.embed(a), goal)
    assert together.shape == (3,)
    assert bool(jnp.all(together > 0))
    for i in range(3):
        alone = loss.distance(loss.embed(a[i : i + 1]), loss.embed(b[i : i + 1]))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5)


def test_passes_jit_as_an_argument(loss: Any) -> None:
    a, b = pictures(2), pictures(2)
    fast = jax.jit(lambda loss, a, b: loss.distance(loss.embed(a), loss.embed(b)))(loss, a, b)
    np.testing.assert_allclose(fast, loss.distance(loss.embed(a), loss.embed(b)), rtol=1e-4)


def test_weights_leave_out_what_they_do_not_cover(features: VGG16) -> None:
    a, b = pictures(2), pictures(2)
    half = jnp.concatenate([jnp.ones((2, 16, 8)), jnp.zeros((2, 16, 8))], axis=2)
    loss = losses.Pixels()
    found = loss.distance(loss.embed(a), loss.embed(b, half))
    wanted = np.square(np.asarray(a - b))[:, :, :8].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    gram = losses.Gram(features, ("block1_conv1",))
    changed = a.at[:, :, 9:].set(0.0)  # beyond the reach of a 3x3 kernel
    np.testing.assert_allclose(
        gram.embed(changed, half)["x"][0], gram.embed(a, half)["x"][0], rtol=1e-5
    )


def test_formulas(features: VGG16) -> None:
    a, b = pictures(1), pictures(1)
    x, y = (np.asarray(features(p, ["block2_conv2"])["block2_conv2"])[0] for p in (a, b))
    layers = ("block2_conv2",)

    def measure(loss: Any) -> float:
        return float(loss.distance(loss.embed(a), loss.embed(b))[0])

    np.testing.assert_allclose(
        measure(losses.Perceptual(features, layers)), np.mean((x - y) ** 2), rtol=1e-4
    )
    flat = [v.reshape(-1, v.shape[-1]) for v in (x, y)]
    grams = [v.T @ v / len(v) for v in flat]
    np.testing.assert_allclose(
        measure(losses.Gram(features, layers)), np.mean((grams[0] - grams[1]) ** 2), rtol=1e-4
    )
    unit = [v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10) for v in (x, y)]
    np.testing.assert_allclose(
        measure(losses.Normalized(features, layers)),
        np.mean(np.sum((unit[0] - unit[1]) ** 2, axis=-1)),
        rtol=1e-4,
    )


def test_shrinking_is_by_area() -> None:
    a = pictures(1, 32)
    slow = np.asarray(a).reshape(1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(losses.shrink(a, 8), slow, atol=1e-6)
    np.testing.assert_array_equal(losses.shrink(a, 256), a)
    with pytest.raises(ValueError, match="cannot be averaged"):
        losses.shrink(a, 12)


def test_what_inversions_are_by_leaves_out_what_weighs_nothing(features: VGG16) -> None:
    images = pictures(2)
    make = lambda *weights: losses.inverting(features, ("block1_conv2",), images, weights=weights)
    assert isinstance(make(0.0, 1.0), losses.Pixels)
    alone, both = make(1.0, 0.0), make(2.0, 3.0)
    far = lambda loss: loss.distance(loss.embed(images[:1]), loss.embed(images[1:]))
    pixels = losses.Pixels()
    np.testing.assert_allclose(far(both), 2 * far(alone) + 3 * far(pixels), rtol=1e-5)
    with pytest.raises(ValueError, match="nothing is left"):
        make(0.0, 0.0)
