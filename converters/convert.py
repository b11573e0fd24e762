"""The front door: recognises a weight file by its content, and converts it.

python -m converters.convert --src FILE --dst FOLDER
"""

from collections.abc import Mapping

from converters import ada, encoders, lpips, rosinality, rosinality2, stylegan1, stylegan2, vgg16
from converters.command import Choice, Model, run
from converters.source import Opened, WeightError
from converters.unsupported import refuse_names


def convert(opened: Opened, choice: Choice) -> Model:
    """Dispatches on what the file holds; WeightError names what was found if it is none of ours."""
    if opened.format == "ada-pickle":
        return stylegan2.convert(opened, choice)
    if opened.format == "tf-pickle":
        kinds = {network.kind for network in opened.networks.values()}
        weights = [name for network in opened.networks.values() for name in network.weights]
        if any(name.endswith("StyleMod/weight") for name in weights):
            return stylegan1.convert(opened, choice)
        if any(name.endswith("mod_weight") for name in weights):
            return stylegan2.convert(opened, choice)
        raise WeightError(
            f"{opened.path}: a TensorFlow pickle of {', '.join(sorted(kinds))} without styles "
            "(a ProGAN?); StyleGAN and StyleGAN2 are supported"
        )
    names = _names(opened.tensors)
    try:
        refuse_names(names)
    except WeightError as error:
        raise WeightError(f"{opened.path}: {error}") from None
    if any(name.endswith("features.0.weight") or "block1_conv1/" in name for name in names):
        return vgg16.convert(opened, choice)
    if "lin0.model.1.weight" in names:
        return lpips.convert(opened, choice)
    if any("generator.progression." in name for name in names):
        return rosinality.convert(opened, choice)
    if any(name.endswith("encoder.input_layer.0.weight") for name in names):
        return encoders.convert(opened, choice)
    if any(name.endswith("convs.0.conv.modulation.weight") for name in names):
        return rosinality2.convert(opened, choice)
    if any(name.endswith("synthesis.b4.const") for name in names):
        return ada.convert(opened, choice)
    raise WeightError(
        f"{opened.path}: a {opened.format} file with {len(names)} arrays ({', '.join(names[:3])}, "
        "...) that are neither VGG16, LPIPS heads nor a StyleGAN known here"
    )


def _names(tensors: Mapping[str, object], prefix: str = "") -> list[str]:
    found = []
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            found += _names(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


if __name__ == "__main__":
    run(convert)
