"""Scores of masks: the ends, independence of images, one feature network for two losses."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax import losses
from fxjax import score as scoring
from fxjax.nn.vgg16 import VGG16


def network(seed: int = 0) -> VGG16:
    options = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "bgr": False}
    return VGG16((8, 8), **options, rngs=nnx.Rngs(seed))


def two(first: Any, second: Any, size: int = 256) -> scoring.Judge:
    expression = losses.Sum(
        [losses.Pixels(size), losses.Perceptual(first, ("block2_conv2",), size=size)], (1.0, 0.1)
    )
    return scoring.Judge(expression, losses.Gram(second, ("block1_conv1",), size=size))


@pytest.fixture(scope="module")
def judge() -> scoring.Judge:
    features = network()
    return two(features, features)


def pictures(count: int = 4) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (count, 16, 16, 3), jnp.float32, -1.0, 1.0)


score = jax.jit(scoring.score)


def weighted_goals(judge: scoring.Judge, images: jax.Array) -> scoring.Goals:
    weights = jnp.ones((1, 16, 16)).at[:, 8:].set(3.0)
    return scoring.goals(judge, images[:1], images[1:2], weights)


def test_the_ends(judge: scoring.Judge) -> None:
    images = pictures()
    for goals in (
        scoring.goals(judge, images[:1], images[1:2]),
        weighted_goals(judge, images),
        scoring.goals(judge, images[:1], images[1:2], None, jnp.ones((1, 16, 16)).at[:, 8:].set(3)),
    ):
        assert not scoring.alike(goals)
        found = score(goals, images)
        np.testing.assert_allclose(found[0, 0], 1, rtol=1e-5)
        np.testing.assert_allclose(found[1, 0], 0, atol=1e-6)
        assert bool(jnp.all(found[2:] > 0.1))
    # Without weights for the appearance, Gram matrices of the same picture are the same.
    found = score(weighted_goals(judge, images), images)
    np.testing.assert_allclose(found[:2], [[1, 0], [0, 1]], rtol=1e-5, atol=1e-6)


def test_weights_stress_a_region(judge: scoring.Judge) -> None:
    images = pictures()
    below, above = images[0].at[8:].set(images[1, 8:]), images[0].at[:8].set(images[1, :8])
    found = score(weighted_goals(judge, images), jnp.stack([below, above]))
    assert float(found[0, 0]) < 0.5 < float(found[1, 0])


def test_parts_of_a_loss_count_alike_whatever_their_units() -> None:
    """Each is 1 times its share for the other picture, if it differs by its floor or more."""
    images, features = pictures(), network()
    style, pixels = losses.Gram(features, ("block1_conv1",)), losses.Pixels()
    around = jnp.ones((1, 16, 16)).at[:, 8:].set(0.0)
    shares, placed = (0.3, 0.7), (False, True)
    both = scoring.Balanced([style, pixels], shares, (1e-6, 1e-6), placed)
    goals = scoring.goals(scoring.Judge(pixels, both), images[:1], images[1:2], None, around)
    np.testing.assert_allclose(score(goals, images)[:2, 1], [0, 1], rtol=1e-5, atol=1e-6)
    own = [style.embed(images[:1]), pixels.embed(images[:1], around)]
    parts = list(zip((style, pixels), own, strict=True))
    far, third = (
        np.array([loss.distance(loss.embed(images[k : k + 1]), goal)[0] for loss, goal in parts])
        for k in (1, 2)
    )
    assert float(score(goals, images[2:3])[0, 1]) == pytest.approx(shares @ (third / far), rel=1e-4)
    high = scoring.Balanced([style, pixels], shares, (1e-6, 1e3), placed)
    goals = scoring.goals(scoring.Judge(pixels, high), images[:1], images[1:2], None, around)
    assert float(score(goals, images)[2, 1]) == pytest.approx(third[0] / far[0], rel=0.02)


def test_an_image_is_on_its_own(judge: scoring.Judge) -> None:
    images = pictures(5)
    goals = weighted_goals(judge, images)
    found = score(goals, images)
    np.testing.assert_allclose(score(goals, images[3:4])[0], found[3], rtol=1e-5)
    broken = score(goals, images.at[2].set(jnp.nan))
    assert bool(jnp.all(jnp.isnan(broken[2])))
    keep = jnp.array([0, 1, 3, 4])
    np.testing.assert_allclose(broken[keep], found[keep], rtol=1e-5, atol=1e-6)


def test_alike(judge: scoring.Judge) -> None:
    images = pictures()
    goals = scoring.goals(judge, images[:1], images[:1])
    assert scoring.alike(goals)
    assert bool(jnp.all(jnp.isfinite(score(goals, images))))
    with pytest.raises(ValueError, match="one pair"):
        scoring.goals(judge, images, images)


def test_sizes(judge: scoring.Judge) -> None:
    assert judge.size == 256
    small = judge.at(8)
    assert (small.size, judge.size) == (8, 256)
    images = pictures()
    found = score(scoring.goals(small, images[:1], images[1:2]), images)
    shrunk = losses.shrink(images, 8)
    wanted = score(scoring.goals(judge, shrunk[:1], shrunk[1:2]), shrunk)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert scoring.Judge(losses.Pixels(4), losses.Pixels(8)).size == 8
    pixels = losses.Pixels()
    assert scoring.Judge(pixels, pixels).at(8).size == 8


def test_a_feature_network_in_two_losses_runs_once() -> None:
    """XLA sees that the two runs are the same one."""
    images, features = pictures(), network()

    def convolutions(judge: scoring.Judge) -> int:
        goals = scoring.goals(judge, images[:1], images[1:2])
        text = score.lower(goals, images).compile().as_text()
        assert text is not None
        return len(re.findall(r" convolution\(", text))

    assert convolutions(two(features, features)) == 4
    assert convolutions(two(network(0), network(1))) == 5
    results = [
        score(scoring.goals(judge, images[:1], images[1:2]), images)
        for judge in (two(features, features), two(network(0), network(0)))
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
