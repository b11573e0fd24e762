"""The prefix tree against every mask drawn alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax.codes import mix
from fxjax.losses import shrink
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


@pytest.mark.parametrize("groups", [mix.free_rows(0, 5), ((3, 5), (1, 4), (2,))])
@pytest.mark.parametrize("top", [1, 3])
def test_subtrees_are_parts_of_the_tree(pair: Any, groups: mix.Groups, top: int) -> None:
    model, person, expression = pair
    goal = jnp.ones((16, 16, 3)) * 0.1
    whole = jax.jit(functools.partial(mix.score_masks, score=score, groups=groups))
    part = jax.jit(functools.partial(mix.subtree, score=score, groups=groups, top=top, width=4))
    found = jnp.concatenate(
        [part(model, person, expression, given=goal, prefix=jnp.int32(i)) for i in range(2**top)]
    )
    wanted = whole(model, person, expression, given=goal)
    np.testing.assert_allclose(found[mix.leaves(groups)], wanted, rtol=2e-4, atol=2e-5)


def test_a_wide_tree_in_parts(pair: Any) -> None:
    """Width 16 expands two states at a time."""
    model, person, expression = pair
    goal, groups = jnp.ones((16, 16, 3)) * 0.1, mix.free_rows(0, 5)
    found, wanted = (
        jax.jit(functools.partial(mix.score_masks, score=score, groups=groups, width=width))(
            model, person, expression, given=goal
        )
        for width in (16, 64)
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def loud(model: Any) -> Any:
    """All noise on, and ToRGBs with biases."""
    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    keys = iter(jax.random.split(jax.random.key(7), len(leaves)))
    moved = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape, a.dtype), state)
    return nnx.merge(graph, moved, rest)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_small_pictures_without_the_large_one(pair: Any, size: int) -> None:
    """Pooling before the last row's style is exact."""
    model, person, expression = pair
    model, codes = loud(model), jnp.stack([person, expression])
    wanted = shrink(gen.synthesize(model, codes), size)
    found = jax.jit(mix.pictures, static_argnames="size")(model, codes, size=size)
    assert found.shape == (2, size, size, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    sizes = [
        leaf.shape[1]
        for leaf in jax.tree.leaves(model.shrunk(before_last(model, codes), halved(size)))
    ]
    assert set(sizes) == {size}  # nothing after is any larger


def halved(size: int) -> Any:
    return lambda x: shrink(x, size)


def before_last(model: Any, codes: jax.Array) -> Any:
    state = model.start(codes.shape[0])
    for k, row in enumerate(list(model.rows)[:-1]):
        state = row(state, codes[:, k])
    return state


def test_a_clamp_keeps_the_large_picture() -> None:
    """Clamps bite single pixels, so means come after them."""
    model = StyleGAN2(16, (8, 8, 8), dim=12, latent=12, clamp=0.5, rngs=nnx.Rngs(0))
    codes = jax.random.normal(jax.random.key(1), (2, 6, 12))
    pictures = gen.synthesize(model, codes)
    found = mix.pictures(model, codes, 8)
    np.testing.assert_allclose(found, shrink(pictures, 8), atol=1e-6)
    free = StyleGAN2(16, (8, 8, 8), dim=12, latent=12, rngs=nnx.Rngs(0))
    assert not np.allclose(found, mix.pictures(free, codes, 8), atol=1e-2)


@pytest.mark.parametrize("size", [4, 8])
def test_tree_of_small_pictures(pair: Any, size: int) -> None:
    model, person, expression = pair
    goal, groups = jnp.ones((size, size, 3)) * 0.1, mix.free_rows(0, 5)
    search = jax.jit(
        functools.partial(mix.score_masks, score=score, groups=groups, width=8, size=size)
    )
    masks = mix.masks_of(groups, 6, range(64))
    images = gen.synthesize(model, mix.mixed(person, expression, masks))
    np.testing.assert_allclose(
        search(model, person, expression, given=goal),
        score(goal, shrink(images, size)),
        rtol=2e-4,
        atol=2e-5,
    )


def test_readout() -> None:
    """StyleGAN2's first rows are a generator of smaller pictures."""
    model = StyleGAN2(32, (8, 8, 8, 8), dim=12, latent=12, rngs=nnx.Rngs(0))
    small = model.at(8)
    assert (len(small.rows), small.resolution, len(model.rows)) == (4, 8, 8)
    codes = jax.random.normal(jax.random.key(1), (2, 8, 12))
    state = model.start(2)
    for k in range(4):
        state = model.rows[k](state, codes[:, k])
    np.testing.assert_array_equal(gen.synthesize(small, codes[:, :4]), state.rgb)
    assert model.rows[3].conv is not None
    with pytest.raises(ValueError, match="not of 64 px"):
        model.at(64)


def test_bits() -> None:
    masks = mix.masks_of(((0, 2), (1,)), 4, [0, 1, 2, 3])
    assert masks.astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]]
    person, expression = jnp.zeros((4, 3)), jnp.ones((4, 3))
    mixed = mix.mix(person, expression, jnp.asarray(masks[2]))
    assert mixed[:, 0].tolist() == [1, 0, 1, 0]
    half = mix.blended(person, expression, jnp.asarray(masks[2]), 0.5)
    assert half[:, 0].tolist() == [0.5, 0, 0.5, 0]


def test_the_front() -> None:
    scores = np.array([[3.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    assert mix.pareto(scores).tolist() == [True, True, False, True]
    holes = np.array([[0.0, np.nan], [np.nan, 0.0], [1.0, 1.0], [np.inf, 0.0]])
    assert mix.pareto(holes).tolist() == [False, False, True, False]


def test_amounts_are_exact_at_the_ends() -> None:
    person, expression = jax.random.normal(jax.random.key(0), (2, 3, 4))
    amounts = jnp.array([[0.0, 1.0, 0.0], [1.5, 0.5, 0.0]])
    found = mix.interpolated(person, expression, amounts)
    np.testing.assert_array_equal(found[0, 1], expression[1])
    np.testing.assert_array_equal(found[:, 2], jnp.stack([person[2]] * 2))
    np.testing.assert_allclose(found[1, 0], person[0] + 1.5 * (expression - person)[0], rtol=1e-5)


@pytest.mark.parametrize("groups", [(), ((0,), (0,)), ((9,),)])
def test_bad_groups(pair: Any, groups: mix.Groups) -> None:
    model, person, expression = pair
    with pytest.raises(ValueError, match="rows from 0 to 5"):
        mix.score_masks(model, person, expression, score, jnp.zeros(()), groups=groups)
