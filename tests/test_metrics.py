"""PSNR and SSIM against scikit-image, and the LPIPS-style distance against a plain sum."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import skimage.metrics
from flax import nnx

from fxjax import metrics
from fxjax.images import from_uint8
from fxjax.nn.vgg16 import VGG16


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """A real photo and its noisy, darker and shifted versions, one of odd size, one of 7 pixels."""
    photo = skimage.data.astronaut()[:200, 100:301]
    noise = np.random.default_rng(0).integers(-20, 21, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    shifted = np.roll(photo, 3, axis=1)
    return [
        (photo, noisy),
        (photo, photo // 2),
        (photo, shifted),
        (np.zeros_like(photo), np.full_like(photo, 255)),
        (photo[50:57, 60:67], noisy[50:57, 60:67]),
    ]


def test_psnr_is_that_of_scikit_image(pairs):
    for one, other in pairs:
        expected = skimage.metrics.peak_signal_noise_ratio(one, other)
        assert metrics.psnr(one, other) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr(pairs[0][0], pairs[0][0]) == math.inf


def test_ssim_is_that_of_scikit_image(pairs):
    for one, other in pairs:
        expected = skimage.metrics.structural_similarity(one, other, channel_axis=2)
        assert metrics.ssim(one, other) == pytest.approx(expected, abs=1e-9)
    assert metrics.ssim(pairs[0][0], pairs[0][0]) == pytest.approx(1)


def test_ssim_refuses_what_it_cannot_compare(pairs):
    small = pairs[0][0][:, :6]
    with pytest.raises(ValueError, match="two pictures of one size from 7x7 pixels"):
        metrics.ssim(small, small)


def test_lpips_style_takes_the_last_convolutions_of_the_blocks_there_are(pairs):
    neutral = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False}
    features = VGG16((4, 8), **neutral, rngs=nnx.Rngs(0))
    judge = metrics.lpips_style(features)
    assert judge.layers == ("block1_conv2", "block2_conv2")
    one, other = (from_uint8(jnp.asarray(picture[None, :64, :64])) for picture in pairs[0])
    expected = 0.0
    for layer in judge.layers:
        a, b = (np.asarray(features(x, [layer])[layer], np.float64) for x in (one, other))
        a, b = (x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10) for x in (a, b))
        expected += np.square(a - b).sum(axis=-1).mean()
    assert expected > 0.01
    found = judge.distance(judge.embed(one), judge.embed(other))
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_rank_correlation():
    values = np.array([3.0, 1.0, 2.0, 10.0])
    assert metrics.rank_correlation(values, values**3) == pytest.approx(1)
    assert metrics.rank_correlation(values, -values) == pytest.approx(-1)
    tied = metrics.rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied == pytest.approx(0.9487, abs=1e-4)
    assert np.isnan(metrics.rank_correlation(values, np.ones(4)))


def test_intervals_are_students():
    mean, half = metrics.interval([1.0, 2.0, 3.0, math.nan])
    assert mean == 2
    assert half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # t of 2 degrees of freedom
    assert math.isnan(metrics.interval([1.0])[1])
    assert math.isnan(metrics.interval([])[0])
