"""PSNR and SSIM against scikit-image, and the LPIPS-style distance against a plain sum."""

import itertools
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

RANDOM = np.random.default_rng(0)


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


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: sum of squared differences of means and of deviations."""
    a, b = RANDOM.uniform(0.1, 3, (2, 6))
    mean, other = RANDOM.normal(size=(2, 6))
    wanted = np.sum((mean - other) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    turn = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]  # the distance does not depend on axes
    moments = [(turn @ m, turn @ np.diag(c) @ turn.T) for m, c in ((mean, a), (other, b))]
    assert metrics.frechet_of_moments(*moments[0], *moments[1]) == pytest.approx(wanted)


def test_frechet_of_gaussians_that_do_not_commute():
    """In two dimensions trace((C1 C2)^(1/2)) = sqrt(trace(C1 C2) + 2 sqrt(det(C1 C2)))."""
    c1, c2 = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = c1 @ c2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 4.0 + np.trace(c1) + np.trace(c2) - 2 * root
    found = metrics.frechet_of_moments(np.zeros(2), c1, np.array([0.0, 2.0]), c2)
    assert found == pytest.approx(wanted)
    assert not np.allclose(product, product.T)


def test_frechet_of_sets():
    x = RANDOM.normal(size=(50, 5))
    assert metrics.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(x, x + np.eye(5)[0] * 3) == pytest.approx(9)
    assert metrics.frechet(x, -2 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        np.trace(np.cov(x.T)), rel=1e-6
    )
    few = RANDOM.normal(size=(3, 5))  # a singular covariance
    assert np.isfinite(metrics.frechet(few, x))


def test_squared_mmd_is_the_mean_over_pairs():
    x, y = RANDOM.normal(size=(4, 3)), RANDOM.normal(1, 1, size=(5, 3))

    def k(a, b):
        return (np.dot(a, b) / 3 + 1) ** 3

    wanted = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    wanted += np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    wanted -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert metrics.squared_mmd(x, y) == pytest.approx(wanted)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    x, y = RANDOM.normal(size=(400, 8)), RANDOM.normal(size=(300, 8))
    same = metrics.kernel_distance(x, y, blocks=50, size=100)
    assert abs(same.distance) < 6 * same.error + 0.02
    # For a shift of the mean by m the linear term of the kernel alone gives 3 |m|^2 / dim.
    moved = metrics.kernel_distance(x, y + 1, blocks=50, size=100)
    assert moved.distance > 3
    assert moved.error < 0.2
    assert metrics.kernel_distance(x, y, blocks=3, size=100) == metrics.kernel_distance(
        x, y, blocks=3, size=100
    )


def test_nearest_is_brute_force():
    x, y = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(7, 4))
    wanted = [min(np.linalg.norm(a - b) for b in y) for a in x]
    np.testing.assert_allclose(metrics.nearest(x, y), wanted)
    assert metrics.nearest(x, x).max() < 1e-6


def test_unlike_sets_are_refused():
    with pytest.raises(ValueError, match="of one width"):
        metrics.frechet(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="at least 2 rows"):
        metrics.kernel_distance(np.zeros((1, 4)), np.zeros((3, 4)))
