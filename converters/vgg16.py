"""VGG16 (arXiv:1409.1556): torchvision .pth (zip and legacy) and Keras .h5 (both name layouts).

python -m converters.vgg16 --src=vgg16-397923af.pth --dst=models/vgg16
"""

import numpy as np

from converters.command import Choice, Model, Reader, from_torch, run
from converters.source import Opened, WeightError
from fxjax.nn.vgg16 import BLOCKS

LICENSE = (
    "The weights keep the licence of their publisher: the original VGG16 of Oxford and its Keras "
    "conversion are CC BY 4.0; torchvision's own training is BSD-3-Clause with ImageNet's terms."
)


def _names(torch: bool) -> list[tuple[int, int, str]]:
    """(block, convolution, name in the file) in order."""
    found, index = [], 0
    for block, count in enumerate(BLOCKS):
        for i in range(count):
            name = f"features.{index}" if torch else f"block{block + 1}_conv{i + 1}"
            found.append((block, i, name))
            index += 2  # the convolution and its ReLU
        index += 1  # the pool
    return found


def convert(opened: Opened, choice: Choice) -> Model:
    """VGG16 weights -> features, with the preprocessing that belongs to them.

    torchvision: RGB in [0, 1], ImageNet mean and deviation. Keras: BGR in 0..255 minus the mean.
    Numbers are converted to act on [-1, 1] RGB.
    """
    if choice.network or choice.resolution:
        raise WeightError(
            f"{opened.path}: --network and --resolution are for generators; leave them out"
        )
    torch = opened.format == "torch"
    reader = Reader(opened.tensors, opened.path)
    widths: list[int] = []
    channels = 3
    for block, i, name in _names(torch):
        if torch:
            kernel = from_torch(reader.read(f"{name}.weight", (None, channels, 3, 3)))
        else:
            kernel = reader.read(f"{name}/kernel", (3, 3, channels, None))
        channels = kernel.shape[-1]
        bias = reader.read(f"{name}.bias" if torch else f"{name}/bias", (channels,))
        reader.put(f"blocks/{block}/{i}/kernel", kernel)
        reader.put(f"blocks/{block}/{i}/bias", bias)
        if i == 0:
            widths.append(channels)
    if torch:
        mean = 2 * np.array([0.485, 0.456, 0.406]) - 1
        deviation = 2 * np.array([0.229, 0.224, 0.225])
    else:
        mean = np.array([123.68, 116.779, 103.939]) / 127.5 - 1
        deviation = np.full(3, 1 / 127.5)
    architecture = {
        "widths": widths,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "bgr": not torch,
    }
    # The classifier is not part of the features.
    part = reader.part(architecture, ["classifier.*", "fc*/*", "predictions/*"])
    return Model("vgg16", {"features": part}, "features", LICENSE)


if __name__ == "__main__":
    run(convert)
