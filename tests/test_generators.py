"""The row contract, dtypes, compilation and batches, on every model family."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax.nn import generator as gen
from fxjax.nn.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.nn.vgg16 import VGG16

WIDTHS = (16, 16, 12, 8)
SHIFT = {"mean": (0.1, 0.0, -0.1), "deviation": (0.5, 0.4, 0.6)}
MAKERS = {
    "stylegan1": lambda **options: StyleGAN1(
        32, WIDTHS, dim=24, latent=20, rngs=nnx.Rngs(0), **options
    ),
    "stylegan1_first": lambda **options: StyleGAN1(
        32, WIDTHS, dim=24, latent=20, bias_first=True, epsilon=1e-5, rngs=nnx.Rngs(0), **options
    ),
    "stylegan2": lambda **options: StyleGAN2(
        32, WIDTHS, dim=24, latent=20, clamp=256.0, rngs=nnx.Rngs(0), **options
    ),
    "stylegan2_labels": lambda **options: StyleGAN2(
        32, WIDTHS, dim=24, latent=20, labels=3, normalize_each=True, rngs=nnx.Rngs(0), **options
    ),
}


def shaken(module: Any) -> Any:
    """All weights moved off their initial constants (noise strengths are 0 at first)."""
    leaves, tree = jax.tree.flatten(module)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.fixture(params=MAKERS)
def generator(request: pytest.FixtureRequest) -> Any:
    return shaken(MAKERS[request.param]())


def random_codes(generator: Any, batch: int) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (batch, len(generator.rows), generator.dim))


def test_follows_the_protocol(generator: Any) -> None:
    assert isinstance(generator, gen.Generator)
    assert len(generator.rows) == 8
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(generator))


def test_jitted_batched_and_alone_are_equal(generator: Any) -> None:
    codes = random_codes(generator, 5)
    eager = gen.synthesize(generator, codes)
    assert eager.shape == (5, 32, 32, 3)
    assert eager.dtype == jnp.float32
    synthesize = jax.jit(gen.synthesize)
    np.testing.assert_allclose(synthesize(generator, codes), eager, atol=1e-4)
    alone = jnp.concatenate([synthesize(generator, codes[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, eager, atol=1e-4)


def test_row_k_reads_row_k_alone(generator: Any) -> None:
    """States after row k are the same whatever the later rows hold, and differ if row k does."""
    codes = random_codes(generator, 2)
    states = [generator.start(2)]
    for k, row in enumerate(generator.rows):
        states.append(row(states[-1], codes[:, k]))
        other = row(states[-2], codes[:, k] + 1)
        same = jax.tree.map(lambda a, b: np.allclose(a, b), states[-1], other)
        assert not all(jax.tree.leaves(same))
    np.testing.assert_array_equal(generator.image(states[-1]), gen.synthesize(generator, codes))


def test_gradients_reach_every_row(generator: Any) -> None:
    codes = random_codes(generator, 1)
    gradient = jax.grad(lambda c: jnp.sum(jnp.square(gen.synthesize(generator, c))))(codes)
    assert bool(jnp.all(jnp.max(jnp.abs(gradient), axis=-1) > 0))
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("name", MAKERS)
def test_bfloat16_stays_close(name: str) -> None:
    whole = shaken(MAKERS[name]())
    half = MAKERS[name](dtype=jnp.bfloat16)
    half = nnx.merge(nnx.split(half)[0], nnx.split(whole)[1])
    codes = random_codes(whole, 4)
    exact, rough = gen.synthesize(whole, codes), gen.synthesize(half, codes)
    assert rough.dtype == jnp.float32
    rms = jnp.sqrt(jnp.mean(jnp.square(exact - rough)) / jnp.mean(jnp.square(exact)))
    assert 0 < rms <= 2e-2


def test_param_dtype_is_kept_apart() -> None:
    half = MAKERS["stylegan2"](param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    assert gen.synthesize(half, random_codes(half, 1)).dtype == jnp.float32


def test_mapping_truncation_and_labels() -> None:
    generator = shaken(MAKERS["stylegan2_labels"]())
    z = jax.random.normal(jax.random.key(3), (4, 20))
    labels = jax.nn.one_hot(jnp.array([0, 1, 2, 0]), 3)
    full = gen.codes(generator, z, labels)
    assert full.shape == (4, 8, 24)
    np.testing.assert_allclose(gen.codes(generator, z, labels, psi=1.0), full)
    mean = generator.w_mean[...]
    np.testing.assert_allclose(
        gen.codes(generator, z, labels, psi=0.0)[:, 0], jnp.tile(mean, (4, 1)), atol=1e-6
    )
    cut = gen.codes(generator, z, labels, psi=0.5, cutoff=3)
    np.testing.assert_array_equal(cut[:, 3:], full[:, 3:])
    np.testing.assert_allclose(cut[:, :3], (full[:, :3] + mean) / 2, atol=1e-6)
    other = gen.codes(generator, z, jnp.roll(labels, 1, axis=0))
    assert not np.allclose(other[1], full[1])
    with pytest.raises(ValueError, match="labels of width 3"):
        generator.mapping(z)
    with pytest.raises(ValueError, match="takes none"):
        MAKERS["stylegan2"]().mapping(z, labels)


def test_wrong_number_of_rows_says_what_to_do(generator: Any) -> None:
    with pytest.raises(ValueError, match="broadcast a single W code"):
        gen.synthesize(generator, jnp.zeros((1, 5, 24)))


def test_noise_const_none_random(generator: Any) -> None:
    codes = random_codes(generator, 2)
    const = gen.synthesize(generator, codes)
    none = gen.synthesize(gen.without_noise(generator), codes)
    fresh = gen.with_random_noise(generator, jax.random.key(0), 2)
    twins = gen.synthesize(fresh, jnp.tile(codes[:1], (2, 1, 1)))
    assert not np.allclose(const, none)
    assert not np.allclose(twins[0], twins[1])
    np.testing.assert_array_equal(gen.synthesize(generator, codes), const)  # left as it was


def test_smaller_sizes_of_a_growing_network() -> None:
    large = shaken(StyleGAN1(32, WIDTHS, dim=24, latent=20, all_levels=True, rngs=nnx.Rngs(0)))
    small = large.at(16)
    codes = random_codes(large, 2)
    state = large.start(2)
    for k in range(5):
        state = large.rows[k](state, codes[:, k])
    state = large.rows[5].modulate(state, codes[:, 5])
    np.testing.assert_allclose(
        gen.synthesize(small, codes[:, :6]), large.to_rgb[2](state), atol=1e-6
    )
    assert len(large.rows) == 8
    assert large.rows[5].layer is not None
    with pytest.raises(ValueError, match="no ToRGB at 16 px"):
        MAKERS["stylegan1"]().at(16)
    judge = StyleGAN1Discriminator(32, WIDTHS, all_levels=True, rngs=nnx.Rngs(0))
    assert judge.at(16)(jnp.zeros((4, 16, 16, 3))).shape == (4,)


DISCRIMINATORS = {
    "stylegan1": lambda: StyleGAN1Discriminator(32, WIDTHS, rngs=nnx.Rngs(0)),
    "stylegan1_labels": lambda: StyleGAN1Discriminator(32, WIDTHS, labels=3, rngs=nnx.Rngs(0)),
    "residual": lambda: StyleGAN2Discriminator(32, WIDTHS, rngs=nnx.Rngs(0)),
    "plain": lambda: StyleGAN2Discriminator(32, WIDTHS, residual=False, rngs=nnx.Rngs(0)),
    "projection": lambda: StyleGAN2Discriminator(
        32, WIDTHS, labels=3, projection=16, rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_score_groups_apart(name: str) -> None:
    """Eight pictures are two groups of four: image i is in group i mod 2."""
    judge = shaken(DISCRIMINATORS[name]())
    images = jax.random.normal(jax.random.key(4), (8, 32, 32, 3))
    labels = jax.nn.one_hot(jnp.arange(8) % 3, 3) if judge.labels else None
    scores = judge(images, labels)
    assert scores.shape == (8,)
    even = judge(images[::2], None if labels is None else labels[::2])
    np.testing.assert_allclose(scores[::2], even, atol=1e-5)


def lowered(function: Any, *arguments: Any) -> str:
    return jax.jit(function).lower(*arguments).as_text()


def test_no_grouped_convolution(generator: Any) -> None:
    """A kernel per sample would be one; XLA runs those slowly. Gradients to the codes included."""
    codes = random_codes(generator, 3)

    def value(model: Any, c: jax.Array) -> jax.Array:
        return jnp.sum(gen.synthesize(model, c))

    texts = [lowered(jax.grad(value, argnums=1), generator, codes)]
    many = jax.vmap(jax.grad(lambda c, m: value(m, c[None])), in_axes=(0, None))
    texts.append(lowered(many, codes, generator))
    for text in texts:
        groups = re.findall(r"(?:feature|batch)_group_count = (\d+)", text)
        assert groups
        assert set(groups) == {"1"}


def features(**options: Any) -> VGG16:
    return VGG16((8, 8, 12), **SHIFT, bgr=True, rngs=nnx.Rngs(0), **options)


def test_vgg_layers_and_preprocessing() -> None:
    model = features()
    images = jax.random.uniform(jax.random.key(5), (5, 24, 20, 3), minval=-1, maxval=1)
    out = model(images, ["block1_pool", "block3_conv3", "block2_conv1_linear"])
    assert out["block3_conv3"].shape == (5, 6, 5, 12)
    assert float(out["block2_conv1_linear"].min()) < 0 <= float(out["block3_conv3"].min())
    slow = ((images - jnp.array([0.1, 0.0, -0.1])) / jnp.array([0.5, 0.4, 0.6]))[..., ::-1]
    np.testing.assert_allclose(model.preprocess(images), slow, rtol=1e-6)
    alone = model(images[2:3])["block3_conv3"]
    np.testing.assert_allclose(alone[0], out["block3_conv3"][2], atol=1e-5)
    half = features(dtype=jnp.bfloat16)(images)["block3_conv3"]
    assert half.dtype == jnp.bfloat16
    exact = out["block3_conv3"]
    assert jnp.sqrt(jnp.mean((half - exact) ** 2) / jnp.mean(exact**2)) <= 2e-2
    with pytest.raises(ValueError, match="block3_conv3"):
        model(images, ["block4_conv1"])
    with pytest.raises(ValueError, match="block1_pool_linear"):
        model(images, ["block1_pool_linear"])


def test_vgg_computes_no_further_than_needed() -> None:
    images = jnp.zeros((1, 16, 16, 3))
    count = lowered(lambda m, x: m(x, ["block1_conv2"]), features(), images).count(
        "stablehlo.convolution"
    )
    assert count == 2


def test_sizes_must_fit() -> None:
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2(48, WIDTHS, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="needs 4 widths"):
        StyleGAN2(32, (8, 8), rngs=nnx.Rngs(0))
