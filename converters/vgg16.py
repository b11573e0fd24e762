"""VGG16 (arXiv:1409.1556) of torchvision (.pth) and Keras (.h5, both name layouts); LPIPS' heads.

The heads for VGG16 (arXiv:1801.03924) are the file weights/v0.1/vgg.pth of `lpips`.
"""

import numpy as np

from converters.source import Choice, Model, Opened, Reader, WeightError, from_torch
from fxjax.nn.vgg16 import BLOCKS

LICENSE = (
    "The weights keep the licence of their publisher: the original VGG16 of Oxford and its Keras "
    "conversion are CC BY 4.0; torchvision's own training is BSD-3-Clause with ImageNet's terms."
)
# The layer that each head weighs, and its channels.
HEADS = {
    "block1_conv2": 64,
    "block2_conv2": 128,
    "block3_conv3": 256,
    "block4_conv3": 512,
    "block5_conv3": 512,
}
# Of LPIPS' scaling layer, for [-1, 1] RGB: torchvision's ImageNet numbers, exactly.
HEADS_MEAN = (-0.030, -0.088, -0.188)
HEADS_DEVIATION = (0.458, 0.448, 0.450)
HEADS_LICENSE = "LPIPS' weights are BSD-2-Clause (Zhang, Isola, Efros, Shechtman, Wang)."


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


def convert_heads(opened: Opened, choice: Choice) -> Model:
    """The five heads, with the preprocessing of the features that they belong to.

    WeightError for another network's heads, and for a negative weight: training keeps them at 0 or
    above, and with one a difference could count as likeness.
    """
    where = opened.path
    if choice.network or choice.resolution:
        raise WeightError(f"{where}: --network and --resolution are for generators; leave them out")
    if "lin5.model.1.weight" in opened.tensors:
        raise WeightError(_other(where, "SqueezeNet"))
    reader = Reader(opened.tensors, where)
    reader.read.need(f"lin{k}.model.1.weight" for k in range(len(HEADS)))
    if reader.read("lin1.model.1.weight").shape == (1, 192, 1, 1):
        raise WeightError(_other(where, "AlexNet"))
    for k, width in enumerate(HEADS.values()):
        name = f"lin{k}.model.1.weight"
        head = reader.read(name, (1, width, 1, 1)).reshape(width)
        if (head < 0).any():
            raise WeightError(
                f"{where}: '{name}' has {int((head < 0).sum())} negative weights of {width}; "
                "LPIPS' own are 0 or more, so the file is damaged or of another training"
            )
        reader.put(f"weights/{k}", head)
    architecture = {
        "layers": list(HEADS),
        "widths": list(HEADS.values()),
        "mean": list(HEADS_MEAN),
        "deviation": list(HEADS_DEVIATION),
        "bgr": False,
    }
    return Model("lpips", {"heads": reader.part(architecture)}, "heads", HEADS_LICENSE)


def _other(where: str, network: str) -> str:
    return f"{where}: LPIPS' heads for {network}; take those for VGG16 (weights/v0.1/vgg.pth)"
