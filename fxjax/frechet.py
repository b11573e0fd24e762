"""Distances between two sets of embedded pictures: Fréchet and kernel (MMD)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Embedded = Float[np.ndarray, "_ _"]
"""One row per picture; the two sets of a comparison may have different counts."""
Matrix = Float[np.ndarray, "dim dim"]


class Kernel(NamedTuple):
    """A kernel distance and the standard error of its mean over the blocks."""

    distance: float
    error: float


def frechet(x: Embedded, y: Embedded) -> float:
    """Squared Fréchet distance of the two sets as Gaussians (arXiv:1706.08500, equation 6).

    It falls with the number of pictures even between equal distributions, so compare only figures
    of equal counts. Raises ValueError for fewer than 2 rows or unlike widths.
    """
    _check(x, y)
    moments = [(z.mean(0), np.cov(z, rowvar=False, ddof=1)) for z in (_double(x), _double(y))]
    return frechet_of_moments(*moments[0], *moments[1])


def frechet_of_moments(
    mean: Float[np.ndarray, " dim"],
    covariance: Matrix,
    other_mean: Float[np.ndarray, " dim"],
    other_covariance: Matrix,
) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), 0 or more.

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric.
    """
    covariance, other_covariance = np.atleast_2d(covariance), np.atleast_2d(other_covariance)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ other_covariance @ root)
    shared = np.sqrt(np.clip(inner, 0, None)).sum()
    apart = np.sum(np.square(mean - other_mean))
    total = apart + np.trace(covariance) + np.trace(other_covariance) - 2 * shared
    return max(float(total), 0.0)


def kernel_distance(
    x: Embedded, y: Embedded, *, blocks: int = 100, size: int = 1000, seed: int = 0
) -> Kernel:
    """Squared MMD with the kernel (x.y / dim + 1)^3, unbiased (arXiv:1801.01401, section 4).

    The mean over `blocks` random subsets of `size` rows, or of half the rows if that is less. It
    may be a little below 0. Raises ValueError for fewer than 2 rows or unlike widths.
    """
    _check(x, y)
    x, y = _double(x), _double(y)
    size = max(2, min(size, len(x) // 2, len(y) // 2))
    random = np.random.default_rng(seed)
    found = [
        squared_mmd(
            x[random.choice(len(x), size, replace=False)],
            y[random.choice(len(y), size, replace=False)],
        )
        for _ in range(blocks)
    ]
    return Kernel(float(np.mean(found)), float(np.std(found) / np.sqrt(blocks)))


def squared_mmd(x: Embedded, y: Embedded) -> float:
    """The unbiased estimate (Gretton et al. 2012, equation 3) with the cubic kernel."""

    def kernel(a: Embedded, b: Embedded) -> Float[np.ndarray, "rows columns"]:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Embedded) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def nearest(x: Embedded, y: Embedded) -> Float[np.ndarray, " _"]:
    """The Euclidean distance of each row of `x` to the nearest row of `y`."""
    x, y = _double(x), _double(y)
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1) - 2 * x @ y.T
    return np.sqrt(np.clip(squares.min(axis=1), 0, None))


def _check(x: Embedded, y: Embedded) -> None:
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"two sets of at least 2 rows of one width are compared, not {x.shape} and {y.shape}"
        )


def _double(x: Embedded) -> Embedded:
    return np.asarray(x, np.float64)
