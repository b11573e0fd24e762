"""LPIPS' linear heads for VGG16 (arXiv:1801.03924): the file weights/v0.1/vgg.pth of `lpips`.

python -m converters.lpips --src=vgg.pth --dst=models/lpips
"""

from converters.command import Choice, Model, Reader, run
from converters.source import Opened, WeightError

# The layer that each head weighs, and its channels.
LAYERS = {
    "block1_conv2": 64,
    "block2_conv2": 128,
    "block3_conv3": 256,
    "block4_conv3": 512,
    "block5_conv3": 512,
}
# Of LPIPS' scaling layer, for [-1, 1] RGB: torchvision's ImageNet numbers, exactly.
MEAN = (-0.030, -0.088, -0.188)
DEVIATION = (0.458, 0.448, 0.450)
LICENSE = "LPIPS' weights are BSD-2-Clause (Zhang, Isola, Efros, Shechtman, Wang)."


def convert(opened: Opened, choice: Choice) -> Model:
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
    reader.read.need(f"lin{k}.model.1.weight" for k in range(len(LAYERS)))
    if reader.read("lin1.model.1.weight").shape == (1, 192, 1, 1):
        raise WeightError(_other(where, "AlexNet"))
    for k, width in enumerate(LAYERS.values()):
        name = f"lin{k}.model.1.weight"
        head = reader.read(name, (1, width, 1, 1)).reshape(width)
        if (head < 0).any():
            raise WeightError(
                f"{where}: '{name}' has {int((head < 0).sum())} negative weights of {width}; "
                "LPIPS' own are 0 or more, so the file is damaged or of another training"
            )
        reader.put(f"weights/{k}", head)
    architecture = {
        "layers": list(LAYERS),
        "widths": list(LAYERS.values()),
        "mean": list(MEAN),
        "deviation": list(DEVIATION),
        "bgr": False,
    }
    return Model("lpips", {"heads": reader.part(architecture)}, "heads", LICENSE)


def _other(where: str, network: str) -> str:
    return f"{where}: LPIPS' heads for {network}; take those for VGG16 (weights/v0.1/vgg.pth)"


if __name__ == "__main__":
    run(convert)
