"""Distances between sets against closed forms and brute force."""

import itertools

import numpy as np
import pytest

from fxjax import frechet

RANDOM = np.random.default_rng(0)


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: sum of squared differences of means and of deviations."""
    a, b = RANDOM.uniform(0.1, 3, (2, 6))
    mean, other = RANDOM.normal(size=(2, 6))
    wanted = np.sum((mean - other) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    turn = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]  # the distance does not depend on axes
    moments = [(turn @ m, turn @ np.diag(c) @ turn.T) for m, c in ((mean, a), (other, b))]
    assert frechet.frechet_of_moments(*moments[0], *moments[1]) == pytest.approx(wanted)


def test_frechet_of_gaussians_that_do_not_commute():
    """In two dimensions trace((C1 C2)^(1/2)) = sqrt(trace(C1 C2) + 2 sqrt(det(C1 C2)))."""
    c1, c2 = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = c1 @ c2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 4.0 + np.trace(c1) + np.trace(c2) - 2 * root
    found = frechet.frechet_of_moments(np.zeros(2), c1, np.array([0.0, 2.0]), c2)
    assert found == pytest.approx(wanted)
    assert not np.allclose(product, product.T)


def test_frechet_of_sets():
    x = RANDOM.normal(size=(50, 5))
    assert frechet.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet.frechet(x, x + np.eye(5)[0] * 3) == pytest.approx(9)
    assert frechet.frechet(x, -2 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        np.trace(np.cov(x.T)), rel=1e-6
    )
    few = RANDOM.normal(size=(3, 5))  # a singular covariance
    assert np.isfinite(frechet.frechet(few, x))


def test_squared_mmd_is_the_mean_over_pairs():
    x, y = RANDOM.normal(size=(4, 3)), RANDOM.normal(1, 1, size=(5, 3))

    def k(a, b):
        return (np.dot(a, b) / 3 + 1) ** 3

    wanted = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    wanted += np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    wanted -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert frechet.squared_mmd(x, y) == pytest.approx(wanted)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    x, y = RANDOM.normal(size=(400, 8)), RANDOM.normal(size=(300, 8))
    same = frechet.kernel_distance(x, y, blocks=50, size=100)
    assert abs(same.distance) < 6 * same.error + 0.02
    # For a shift of the mean by m the linear term of the kernel alone gives 3 |m|^2 / dim.
    moved = frechet.kernel_distance(x, y + 1, blocks=50, size=100)
    assert moved.distance > 3
    assert moved.error < 0.2
    assert frechet.kernel_distance(x, y, blocks=3, size=100) == frechet.kernel_distance(
        x, y, blocks=3, size=100
    )


def test_nearest_is_brute_force():
    x, y = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(7, 4))
    wanted = [min(np.linalg.norm(a - b) for b in y) for a in x]
    np.testing.assert_allclose(frechet.nearest(x, y), wanted)
    assert frechet.nearest(x, x).max() < 1e-6


def test_unlike_sets_are_refused():
    with pytest.raises(ValueError, match="of one width"):
        frechet.frechet(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet.kernel_distance(np.zeros((1, 4)), np.zeros((3, 4)))
