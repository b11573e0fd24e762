"""Converts a weight file to a model folder; what it holds is told by its content.

python -m converters.convert --src FILE --dst FOLDER
"""

import dataclasses
from typing import Annotated

from converters import ada, rosinality1, rosinality2, stylegan1, stylegan2, vgg16
from converters.networks import refuse_names
from converters.source import Choice, Model, Opened, WeightError, names_in, open_weights
from fxjax import files
from fxjax.checkpoint import save_model
from fxjax.cli import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    src: Annotated[str, "weight file: a local path or gs://..."]
    dst: Annotated[str, "folder to write the model to"]
    overwrite: Annotated[bool, "replace an existing --dst, atomically"] = False
    sha256: Annotated[str | None, "refuse the file unless it has this SHA-256"] = None
    network: Annotated[
        str | None, "network to take; default: the averaged one (Gs, G_ema or g_running)"
    ] = None
    resolution: Annotated[
        int | None, "picture size to convert, for files that hold a growing network's every size"
    ] = None


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
    names = names_in(opened.tensors)
    try:
        refuse_names(names)
    except WeightError as error:
        raise WeightError(f"{opened.path}: {error}") from None
    if any(name.endswith("features.0.weight") or "block1_conv1/" in name for name in names):
        return vgg16.convert(opened, choice)
    if "lin0.model.1.weight" in names:
        return vgg16.convert_heads(opened, choice)
    if any("generator.progression." in name for name in names):
        return rosinality1.convert(opened, choice)
    if any(name.endswith("encoder.input_layer.0.weight") for name in names):
        return rosinality2.convert_encoder(opened, choice)
    if any(name.endswith("convs.0.conv.modulation.weight") for name in names):
        return rosinality2.convert(opened, choice)
    if any(name.endswith("synthesis.b4.const") for name in names):
        return ada.convert(opened, choice)
    raise WeightError(
        f"{opened.path}: a {opened.format} file with {len(names)} arrays ({', '.join(names[:3])}, "
        "...) that are neither VGG16, LPIPS heads nor a StyleGAN known here"
    )


def write(model: Model, opened: Opened, destination: str, *, overwrite: bool) -> None:
    """Writes the model folder; all or nothing."""
    info = {
        "source": {
            "file": opened.path.rsplit("/", 1)[-1],
            "sha256": opened.sha256,
            "format": opened.format,
            "network": model.network,
        },
        "license": model.license,
    }
    save_model(destination, model.kind, model.parts, info, overwrite=overwrite)


def main(config: Config) -> None:
    """Reads, converts, writes, and says what was found."""
    if not config.overwrite and files.absolute(config.dst).exists():
        raise FileExistsError(f"{config.dst} exists; give --overwrite to replace it")
    opened = open_weights(config.src, sha256=config.sha256)
    model = convert(opened, Choice(config.network, config.resolution))
    write(model, opened, config.dst, overwrite=config.overwrite)
    print(f"{config.src}: {opened.format}, {model.kind}, network {model.network}")
    for name, (_, arrays) in model.parts.items():
        count = sum(array.size for array in arrays.values())
        print(f"  {name}: {len(arrays)} arrays, {count:,} numbers")
    for note in model.notes:
        print(f"  note: {note}")
    print(f"wrote {config.dst}")


if __name__ == "__main__":
    launch(Config, main)
