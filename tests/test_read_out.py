"""A smaller generator of a larger one's first rows."""

import dataclasses

import jax
import numpy as np
import pytest
import trainingruns

import fxjax
from experiments.making import read_out
from fxjax import checkpoint
from fxjax.nn import generator as generators
from fxjax.training import gan_state

LARGE = gan_state.GanSettings(
    resolution=32, width_base=256, width_most=8, dim=8, dtype="float32", batch=8, kimg=1.0
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return trainingruns.exported(LARGE, tmp_path_factory.mktemp("run"))


def test_its_pictures_are_the_earlier_ones_in_the_larger_ones_colours(model, tmp_path):
    dst = str(tmp_path / "small")
    read_out.main(read_out.Config(model, dst, size=16, samples=16))
    large, small = fxjax.load(model), fxjax.load(dst)
    assert (small.resolution, len(small.rows)) == (16, 6)
    np.testing.assert_array_equal(small.w_mean[...], large.w_mean[...])
    kept, given = (fxjax.load(folder, part="statistics") for folder in (dst, model))
    np.testing.assert_array_equal(kept.covariance[...], given.covariance[...])
    np.testing.assert_array_equal(kept.mean[...], given.mean[...])
    z = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (16, 8))  # those compared
    codes = generators.codes(large, z)
    whole = np.asarray(generators.synthesize(large, codes))
    early = np.asarray(generators.synthesize(large.at(16), codes[:, :6]))
    made = np.asarray(generators.synthesize(small, codes[:, :6]))
    shift = made - early
    assert np.ptp(shift, axis=(0, 1, 2)).max() < 2e-3  # one number for each colour, in float16
    means = [pictures.mean((0, 1, 2)) for pictures in (whole, early, made)]
    np.testing.assert_allclose(means[2], means[0], atol=2e-3)
    assert abs(means[1] - means[0]).max() > 0.02  # there was something to do


def test_training_goes_on_with_a_discriminator_of_that_size(model, tmp_path):
    smaller = dataclasses.replace(LARGE, resolution=16)
    earlier = trainingruns.exported(smaller, tmp_path / "earlier")
    dst = str(tmp_path / "run" / "export")
    judge = str(gan_state.discriminator_of(earlier))
    read_out.main(read_out.Config(model, dst, size=16, samples=16, discriminator=judge))
    start = gan_state.start_from(dst, gan_state.discriminator_of(dst), smaller)
    assert int(start.images) == checkpoint.read_card(model)["images"]
    assert float(start.path_mean) == 0
    given = gan_state.start_from(earlier, judge, smaller).discriminator
    jax.tree.map(np.testing.assert_array_equal, start.discriminator, given)


def test_a_size_that_is_not_smaller_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"--size=32 of .*, a stylegan2 of 32 px"):
        read_out.main(read_out.Config(model, str(tmp_path / "small"), size=32))
    assert not (tmp_path / "small").exists()
