"""The prefix tree against every mask drawn alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax import mix
from fxjax.nn import generator as gen
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2


def score(goal: jax.Array, images: jax.Array) -> jax.Array:
    """Two numbers per picture."""
    near = jnp.mean(jnp.square(images - goal), axis=(1, 2, 3))
    return jnp.stack([near, jnp.mean(images, axis=(1, 2, 3))], axis=1)


@pytest.fixture(params=[StyleGAN1, StyleGAN2])
def pair(request: pytest.FixtureRequest) -> Any:
    model = request.param(16, (8, 8, 8), dim=12, latent=12, mapping_layers=2, rngs=nnx.Rngs(0))
    codes = jax.random.normal(jax.random.key(1), (2, 6, 12))
    return model, codes[0], codes[1]


@pytest.mark.parametrize("width", [2, 4, 64])
@pytest.mark.parametrize(
    "groups",
    [mix.free_rows(0, 5), ((1,), (3,), (4,)), ((0, 4), (2,), (1, 5)), ((3, 5), (1, 4))],
)
def test_tree_equals_every_mask_alone(pair: Any, groups: mix.Groups, width: int) -> None:
    model, person, expression = pair
    goal = jnp.ones((16, 16, 3)) * 0.1
    search = jax.jit(functools.partial(mix.score_masks, score=score, groups=groups, width=width))
    tree = search(model, person, expression, given=goal)
    masks = mix.masks_of(groups, 6, range(2 ** len(groups)))
    assert tree.shape == (len(masks), 2)
    naive = score(goal, gen.synthesize(model, mix.mixed(person, expression, masks)))
    np.testing.assert_allclose(tree, naive, rtol=2e-4, atol=2e-5)
    assert len(np.unique(np.asarray(tree[:, 0]))) == len(masks)


def test_bits() -> None:
    masks = mix.masks_of(((0, 2), (1,)), 4, [0, 1, 2, 3])
    assert masks.astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]]
    person, expression = jnp.zeros((4, 3)), jnp.ones((4, 3))
    mixed = mix.mix(person, expression, jnp.asarray(masks[2]))
    assert mixed[:, 0].tolist() == [1, 0, 1, 0]
    half = mix.blended(person, expression, jnp.asarray(masks[2]), 0.5)
    assert half[:, 0].tolist() == [0.5, 0, 0.5, 0]


def test_ranking_and_front() -> None:
    scores = np.array([[3.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    assert mix.pareto(scores).tolist() == [True, True, False, True]
    ranking = mix.best(scores.sum(axis=1), mix.free_rows(0, 1), 2, 3)
    assert ranking.scores.tolist() == [2.0, 3.0, 3.0]
    assert ranking.masks.astype(int).tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("groups", [(), ((0,), (0,)), ((9,),)])
def test_bad_groups(pair: Any, groups: mix.Groups) -> None:
    model, person, expression = pair
    with pytest.raises(ValueError, match="rows from 0 to 5"):
        mix.score_masks(model, person, expression, score, jnp.zeros(()), groups=groups)
