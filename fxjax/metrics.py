"""How alike pictures are, two of them or two sets, and the figures that sum up many.

PSNR and SSIM on the host, where pictures are RGB uint8, so that a metric judges what is saved; an
LPIPS-style distance on the device; Fréchet and kernel (MMD) distances of embedded sets.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from fxjax.losses import Normalized
from fxjax.nn.vgg16 import VGG16, Heads
from fxjax.types import Photo

WINDOW = 7  # pixels: the side of the squares over which SSIM takes its moments
LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
Embedded = Float[np.ndarray, "_ _"]
"""One row per picture; the two sets of a comparison may have different counts."""
Matrix = Float[np.ndarray, "dim dim"]


def psnr(picture: Photo, wanted: Photo) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    square = np.mean(np.square(picture.astype(np.float64) - wanted.astype(np.float64)))
    return math.inf if square == 0 else 10 * math.log10(255**2 / float(square))


def ssim(picture: Photo, wanted: Photo) -> float:
    """Structural similarity (Wang et al. 2004), -1 to 1; 1 for equal pictures.

    Mean over the channels, with uniform 7x7 windows and sample covariances: the defaults of
    scikit-image. Raises ValueError for different sizes or less than 7 pixels.
    """
    if picture.shape != wanted.shape or min(picture.shape[:2]) < WINDOW:
        raise ValueError(
            f"SSIM wants two pictures of one size from {WINDOW}x{WINDOW} pixels, got "
            f"{picture.shape} and {wanted.shape}"
        )
    x, y = picture.astype(np.float64), wanted.astype(np.float64)
    edge = WINDOW // 2

    def mean(values: np.ndarray) -> np.ndarray:
        windows = cv2.boxFilter(values, cv2.CV_64F, (WINDOW, WINDOW))
        return windows[edge:-edge, edge:-edge]

    x_mean, y_mean = mean(x), mean(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    x_variance = sample * (mean(x * x) - x_mean**2)
    y_variance = sample * (mean(y * y) - y_mean**2)
    covariance = sample * (mean(x * y) - x_mean * y_mean)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * x_mean * y_mean + c1) * (2 * covariance + c2)
    bottom = (x_mean**2 + y_mean**2 + c1) * (x_variance + y_variance + c2)
    return float(np.mean(top / bottom))


def lpips_style(features: VGG16, heads: Heads | None = None) -> Normalized:
    """The LPIPS-style distance; with LPIPS' `heads` (on torchvision's features), LPIPS itself.

    Without heads: at the last convolution of each block that the features have, where every channel
    weighs the same, so that its values are not those of LPIPS. With them all five blocks are
    needed. Pictures over 256 px are shrunk first. Raises ValueError if the heads do not fit.
    """
    if heads is None:
        return Normalized(features, [name for name in LAYERS if name in features.names])
    if absent := [name for name in heads.layers if name not in features.names]:
        raise ValueError(
            f"LPIPS' heads weigh {', '.join(heads.layers)}, but these features have no "
            f"{', '.join(absent)}; convert a whole VGG16"
        )
    widths = tuple(block[-1].kernel.shape[-1] for block in features.blocks)
    if widths != heads.widths:
        raise ValueError(
            f"LPIPS' heads are for {heads.widths} channels, the features have {widths}"
        )
    scaling = [*features.mean, *features.deviation], [*heads.mean, *heads.deviation]
    if features.bgr != heads.bgr or not np.allclose(*scaling, atol=1e-6):
        raise ValueError(
            "LPIPS' heads were trained on torchvision's VGG16, and these features have another "
            "preprocessing (Keras'?); convert torchvision's vgg16 .pth file"
        )
    return Normalized(features, heads.layers, [weights[...] for weights in heads.weights])


def rank_correlation(a: Float[np.ndarray, " count"], b: Float[np.ndarray, " count"]) -> float:
    """Spearman's: 1 for the same order, -1 for the opposite; NaN if one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    from scipy.stats import spearmanr  # takes three seconds to import, and is seldom called

    return float(np.asarray(spearmanr(a, b))[0])


def interval(values: Iterable[float | int | None]) -> tuple[float, float]:
    """Mean and the half width of its 95 % interval (Student's t), without what is not a number."""
    kept = np.array([value for value in values if value is not None and math.isfinite(value)])
    if len(kept) < 2:
        return (float(kept.mean()) if len(kept) else math.nan), math.nan
    error = float(kept.std(ddof=1)) / math.sqrt(len(kept))
    return float(kept.mean()), error * float(stdtrit(len(kept) - 1, 0.975))


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
