"""Whitened codes: what they draw, what they mean, and that inversion and models know them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from facemodels import ARCHITECTURE, save_models

import fxjax
from fxjax import checkpoint, losses
from fxjax.codes import invert, whiten
from fxjax.nn.generator import Statistics, synthesize


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def whitened(folder) -> whiten.Whitened:
    return whiten.of(folder, fxjax.load(folder))


def _v(count: int, rows: int = 8) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (count, rows, 16))


def test_it_draws_what_the_generator_draws_of_w(whitened):
    v = _v(3)
    wanted = synthesize(whitened.generator, whitened.w(v))
    np.testing.assert_allclose(synthesize(whitened, v), wanted, atol=1e-4)
    np.testing.assert_allclose(invert.draw(whitened, v, remat=True), wanted, atol=1e-4)
    np.testing.assert_allclose(whitened.v(whitened.w(v)), v, atol=1e-3)
    assert not whitened.w_mean[...].any()
    draws = whitened.generator.mapping(jax.random.normal(jax.random.key(7), (8192, 16)), None)
    np.testing.assert_allclose(whitened.w(jnp.zeros(16)), draws.mean(0), atol=0.05)


def test_samples_are_white(whitened):
    z = jax.random.normal(jax.random.key(9), (4096, 16))
    v = np.asarray(whitened.mapping(z, None))
    np.testing.assert_allclose(v.mean(0), 0, atol=0.1)
    variances = np.diag(np.cov(v, rowvar=False))
    assert variances.max() < 1.2  # less than 1 where w hardly varies
    assert np.median(variances) > 0.8


def test_the_covariance_is_what_statistics_say(folder):
    generator = fxjax.load(folder)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(16, 16))
    given = Statistics(16)
    given.covariance[...] = jnp.asarray(root @ root.T, jnp.float32)
    given.mean[...] = jnp.arange(16.0)
    found = whiten.Whitened(generator, given)
    spread = np.asarray(found.w(jnp.eye(16)) - jnp.arange(16.0))
    np.testing.assert_allclose(spread.T @ spread, root @ root.T, atol=2e-3 * (root**2).sum())


def test_statistics_come_with_the_model_or_are_sampled(folder, tmp_path):
    generator = fxjax.load(folder)
    w = generator.mapping(jax.random.normal(jax.random.key(0), (whiten.SAMPLES, 16)), None)
    sampled = whiten.statistics(folder, generator)
    np.testing.assert_allclose(sampled.mean[...], w.mean(0), atol=1e-5)
    np.testing.assert_allclose(
        sampled.covariance[...], np.cov(w, rowvar=False), atol=1e-4 * float(jnp.var(w))
    )
    known = {"mean": np.full(16, 2, np.float32), "covariance": np.eye(16, dtype=np.float32)}
    parts = {
        "generator": (ARCHITECTURE, checkpoint.flatten(generator)),
        "statistics": ({"dim": 16}, known),
    }
    checkpoint.save_model(tmp_path / "m", "stylegan2", parts, {})
    np.testing.assert_array_equal(whiten.statistics(tmp_path / "m", generator).mean[...], 2)


def test_a_pull_holds_codes_near_the_mean(whitened):
    target = synthesize(whitened, 3 * _v(1))
    rms = {}
    for pull in (0.0, 1.0):
        settings = invert.Settings(steps=40, rate=0.1, pull=pull, space="w")
        start = invert.mean_codes(whitened, 1)
        found = invert.invert(whitened, losses.Pixels(), target, start, settings)
        assert found.losses[0, -1] < found.losses[0, 0]
        np.testing.assert_array_equal(found.code[0, 0], found.code[0, -1])
        rms[pull] = float(jnp.sqrt(jnp.mean(jnp.square(found.code))))
    assert rms[1.0] < 0.7 * rms[0.0]


def test_codes_of_one_w_come_back(whitened):
    w = jnp.broadcast_to(whitened.w(_v(2, 1)), (2, 8, 16))
    v = whiten.mean_codes(whitened, w)
    np.testing.assert_allclose(v, jnp.broadcast_to(_v(2, 1), (2, 8, 16)), atol=1e-3)


def test_what_does_not_fit_is_refused(folder):
    generator = fxjax.load(folder)
    with pytest.raises(ValueError, match="they belong to different models"):
        whiten.Whitened(generator, Statistics(8))
    with pytest.raises(ValueError, match="w never varies"):
        whiten.Whitened(generator, Statistics(16))
