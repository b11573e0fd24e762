"""Measures a generator against its data: samples, copies, and inversion of held-back faces.

    python -m experiments.evaluate_generator --model=runs/faces128/export --data=omi_train_256.zip \
        --weights_csv=omi_train.csv --out=runs/measures

--out gets measures.json and measures.csv, samples.png and inversions.png. A count of 0 leaves a
measure out; --samples=300 --detections=100 --references=300 --inversions=8 takes a few minutes.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np
from etils import epath

from fxjax import checkpoint, files, load, zoo
from fxjax.cli import launch, part_of
from fxjax.images import contact_sheet, save_image
from fxjax.training import generator_measures as measures


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    model: Annotated[str, "generator: a model folder or the name of a model of fxjax"]
    data: Annotated[str, "folder or zip of the pictures it was trained on"]
    weights_csv: Annotated[str, "table of these: a weight of 0 means held back"]
    out: Annotated[str, "folder for the results"] = "runs/measures"
    features: Annotated[str | None, "VGG16 model or `random` (default: the model's own)"] = None
    data_size: Annotated[int, "side of the pictures in --data; judges see them so"] = 256
    samples: Annotated[int, "samples for the distances"] = 10_000
    references: Annotated[int, "pictures of the data for the distances and copies, at most"] = 5000
    copies: Annotated[int, "samples that are searched for in the data"] = 1000
    detections: Annotated[int, "samples in which faces are sought, for each psi"] = 1000
    paths: Annotated[int, "pairs for the path length"] = 1000
    inversions: Annotated[int, "held-back people to invert"] = 24
    steps: Annotated[int, "Adam steps per inversion"] = 300
    rate: Annotated[float, "its rate"] = 0.15
    layers: Annotated[tuple[str, ...], "feature layers of its loss"] = measures.InversionPlan.layers
    feature_weight: Annotated[float, "their weight in its loss"] = 1.0
    pixel_weight: Annotated[float, "the pixels' weight in its loss"] = 1.0
    tuning: Annotated[int, "steps of pivotal tuning, for a second row (0: there is none)"] = 350
    noise_pull: Annotated[float, "weight that holds the noise images of that row"] = 1.0
    batch: Annotated[int, "faces inverted at once"] = 8
    baselines: Annotated[bool, "also invert with untrained weights, and by PCA"] = True
    components: Annotated[int, "components of PCA"] = 800
    seed: Annotated[int, "of the samples"] = 0


def main(config: Config) -> None:
    """Measures, saves, prints."""
    generator = load(config.model, part="generator")
    features, name = measures.load_features(config.features, config.model)
    resolution, out = generator.resolution, files.absolute(config.out)
    faces = measures.read_faces(config.data, config.weights_csv, config.data_size, resolution)
    judge = measures.DlibJudge(faces)
    sha = checkpoint.read_card(zoo.find(config.model))["parts"]["generator"]["sha256"]
    found: dict[str, Any] = {"sha256": sha, "features": name, "resolution": resolution}
    sheet = [measures.draw(generator, 32, psi, config.seed) for psi in (1.0, 0.7)]
    save_image(out / "samples.png", contact_sheet(np.concatenate(sheet), 8))

    count = max(config.samples, config.copies)
    samples = measures.draw(generator, count, 1.0, config.seed)
    print(f"who {count} samples show: about {count * 0.1 / 60:.1f} CPU-minutes", flush=True)
    identities = judge.embed(samples)
    references = faces.small[measures.trained_on(faces, config.references)]
    if config.samples:
        print(f"distances of {config.samples} samples to {len(references)} pictures", flush=True)
        chosen = samples[: config.samples]
        embed = lambda pictures: measures.pooled(features, pictures)
        found["distance_pooled"] = measures.distances(embed, embed(chosen), references)
        chosen = identities[: config.samples]
        found["distance_identity"] = measures.distances(judge.embed, chosen, references)
    if config.copies:
        print(f"copies among {config.copies} samples", flush=True)
        trained = judge.embed(faces.small[faces.weights > 0][: config.references])
        apart = judge.embed(faces.small[measures.held_back(faces, 1000)])
        found["copies"] = measures.copies(identities[: config.copies], trained, apart)
    if config.detections:
        print(f"faces in {config.detections} samples", flush=True)
        found["detection"] = {
            f"psi_{psi}": judge.rate(measures.draw(generator, config.detections, psi, config.seed))
            for psi in (1.0, 0.7)
        }
    if config.paths:
        length = measures.path_length(generator, features, config.paths, config.seed)
        found["path_length"] = {"w": length}
    if config.inversions:
        print(f"inverting {config.inversions} held-back faces", flush=True)
        plan = part_of(config, measures.InversionPlan)
        makers = {measures.TUNED: generator}
        if config.baselines:
            makers["untrained"] = measures.untrained(config.model, config.seed)
        found["inversion"], pictures = measures.compare(
            judge,
            faces,
            measures.held_back(faces, config.inversions),
            makers,
            measures.make_loss(features, faces, plan),
            plan,
            config.components if config.baselines else 0,
        )
        shown = np.stack(list(pictures.values()), axis=1)  # a line for each face
        shown = contact_sheet(shown.reshape(-1, *shown.shape[2:]), len(pictures))
        save_image(out / "inversions.png", shown)
    # Not where files lay: the figures may be published.
    places = {"out", "model", "features"}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in places}
    settings |= {k: epath.Path(settings[k]).name for k in ("data", "weights_csv")}
    measures.write(out, found | {"settings": settings})


if __name__ == "__main__":
    launch(Config, main)
