"""Makes the model folder that ships with the package: generator, features, samples, card.

    python -m experiments.making.pack_model --generator=runs/faces128/export \
        --features=runs/features/export --landmarks=runs/landmarks/export \
        --figures=runs/measures/measures.json --dst=fxjax/zoo/faces

--figures is what experiments.evaluate_generator measured of this generator. Where --features or
--landmarks is left out, those of the model `faces` go with it. A bundle that is
already there is replaced only if none of its chief figures gets worse, or with --overwrite.
"""

import dataclasses
from typing import Annotated

from experiments.making import bundle
from fxjax import files
from fxjax.cli import launch
from fxjax.codes.seeds import parse_seeds


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    generator: Annotated[str, "folder of the generator, an export of the trainer"]
    dst: Annotated[str, "folder to make"]
    figures: Annotated[
        str | None, "measures.json of this generator; None: it is a bundle that has them"
    ] = None
    features: Annotated[
        str | None, "folder of the feature network, or a bundle with one, or `random`"
    ] = None
    landmarks: Annotated[str | None, "folder of the landmark network, or a bundle with one"] = None
    encoder: Annotated[str | None, "folder of the encoder of this generator's codes"] = None
    seeds: Annotated[str, "of the sample pictures; dlib must find a face in each"] = "0-7"
    notes: Annotated[str, "what is wrong with the samples that were looked at, for the card"] = ""
    megabytes: Annotated[float, "most that the bundle may take"] = 22.0
    training: Annotated[
        str | None, "folder that gets the discriminator too, for --start_discriminator"
    ] = None
    overwrite: Annotated[bool, "replace even a bundle with better figures"] = False


def main(config: Config) -> None:
    """Packs, checks, writes."""
    figures = bundle.read_figures(config.figures, config.generator)
    target = files.absolute(config.dst)
    if not config.overwrite and (worse := bundle.worse_figures(target, figures)):
        raise ValueError(
            f"{target} has better figures: {'; '.join(worse)}; --overwrite replaces it all the same"
        )
    discriminator = bundle.discriminator(config.generator) if config.training else b""
    others = {part: getattr(config, part) for part in bundle.PARTS}
    packed = bundle.pack(config.generator, others, figures, config.notes)
    size = bundle.write(target, packed, parse_seeds(config.seeds), config.megabytes)
    if config.training:
        files.write(files.absolute(config.training) / "discriminator.npz", discriminator)
    print(f"wrote {target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    launch(Config, main)
