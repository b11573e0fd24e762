"""How alike two pictures are: PSNR and SSIM on the host, an LPIPS-style distance on the device.

Pictures on the host are RGB uint8, so that a metric judges what is saved.
"""

import math

import cv2
import numpy as np

from fxjax.losses import Normalized
from fxjax.nn.vgg16 import VGG16
from fxjax.types import Photo

WINDOW = 7  # pixels: the side of the squares over which SSIM takes its moments
LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")


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


def lpips_style(features: VGG16) -> Normalized:
    """The LPIPS-style distance at the last convolution of each block that these weights have.

    Every channel weighs the same, so its values are not those of LPIPS with its trained heads.
    """
    return Normalized(features, [name for name in LAYERS if name in features.names])
