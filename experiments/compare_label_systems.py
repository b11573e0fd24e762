"""Liu & Jin's network beside Fader Networks: both trained on the same data, here, in alternation.

    python -m experiments.compare_label_systems --data=faces.zip --table=faces.csv \
        --images=20000 --out=runs/compare_labels

Writes comparison.csv and comparison.md (each measure, the difference, the paper's claim),
curves.csv (seconds and reconstruction loss of every step), a sample sheet of each model, and all of
it as report.html. Times are of training steps alone, the first of each left out; memory is what the
compiled step needs. --truth and --truth_table (what experiments.making.render_faces writes) add
how near the changed faces come to how they truly look. --generator adds system A (codes mixed by
the best of all masks) on the same held-back faces, each driven by another; faces that dlib does not
find are then left out for all three.
"""

import dataclasses
from typing import Annotated

import numpy as np

from fxjax import files, images, load, metrics
from fxjax.cli import launch
from fxjax.labels import comparison, comparison_report, training
from fxjax.labels.networks import LabelSettings
from fxjax.labels.training import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    data: Annotated[str, "folder or zip of pictures"]
    table: Annotated[str, "CSV: file,expression[,person], or filename,happy (ratings)"]
    out: Annotated[str, "folder for the tables"] = "runs/compare_labels"
    truth: Annotated[str | None, "rendered faces: a zip of the same people's expressions"] = None
    truth_table: Annotated[str | None, "its CSV: file,expression,person"] = None
    generator: Annotated[str | None, "adds system A: a model folder or shipped (faces)"] = None
    features: Annotated[str, "VGG16 of the perceptual distance: a folder or shipped"] = "faces"
    images: Annotated[int, "pictures that each model is trained on"] = 20000
    judge_images: Annotated[int, "pictures for the classifiers that judge"] = 10000
    faces: Annotated[int, "held-back faces that are measured, at most"] = 64
    identity: Annotated[bool, "measure identities with dlib"] = True
    size: Annotated[int, "side of the pictures"] = LabelSettings.size
    channels: Annotated[int, "3: colour, 1: grey"] = LabelSettings.channels
    base: Annotated[int, "channels after the first layer"] = LabelSettings.base
    most: Annotated[int, "most channels"] = LabelSettings.most
    batch: Annotated[int, "pictures per step"] = LabelSettings.batch
    rate: Annotated[float, "Adam's rate"] = LabelSettings.rate
    adversary: Annotated[float, "weight of the latent loss"] = LabelSettings.adversary
    least: Annotated[int, "expressions of fewer pictures are left out"] = Run.least
    seed: Annotated[int, "of weights and data order"] = 0


def main(config: Config) -> None:
    """Reads, trains both, judges both, writes."""
    settings = LabelSettings(
        **{
            name: getattr(config, name)
            for name in ("size", "channels", "base", "most", "batch", "rate", "adversary", "seed")
        }
    )
    options = Run(data=config.data, table=config.table, least=config.least)
    faces, held_back = training.read(options, settings)
    if len(np.unique(held_back.classes)) < len(faces.expressions):
        raise ValueError(
            f"{config.data} has too few people: each expression needs one that is held back"
        )
    named = dataclasses.replace(settings, expressions=",".join(faces.expressions))
    truth = comparison.truth_of(config.truth, config.truth_table, named)
    lpips = metrics.lpips_style(load(config.features, part="features"))
    order = np.random.default_rng(0).permutation(len(held_back.classes))[: config.faces]
    engine, located = None, []
    if config.generator is not None:
        engine = comparison.masks_engine(config.generator, config.size, config.channels)
        places = comparison.located(held_back.pictures[order])
        located = [place for place in places if place is not None]
        order = order[[place is not None for place in places]]
        print(f"{len(located)} of {len(places)} held-back faces are found")
    few = held_back.take(order)
    shown = training.some(few)
    runs = comparison.train_both(settings, faces, config.images)
    steps = max(1, config.judge_images // config.batch)
    judge = comparison.judge_of(faces, settings, steps=steps)
    dlib = comparison.judges() if config.identity else None
    goal = max(float(comparison.smoothed(run.losses)[-1]) for run in runs.values())
    found: dict[str, dict[str, float]] = {}
    sheets = {}
    for name, run in runs.items():
        every = training.changed(run.settings, run.state, few.pictures)
        found[name] = comparison_report.measures(run, goal) | comparison.quality(
            every, few, judge, lpips, dlib
        )
        if truth is not None:
            found[name] |= comparison.nearness(run, truth)
        found[name]["latent leakage"] = comparison.leakage(run, faces, held_back, steps=steps)
        sheets[name] = training.sheet(few.take(shown), every[shown])
    if engine is not None:
        every = comparison.changed_by_masks(engine, located, few)
        found[comparison_report.MASKS] = comparison.quality(every, few, judge, lpips, dlib)
        sheets[comparison_report.MASKS] = training.sheet(few.take(shown), every[shown])
    for name, sheet in sheets.items():
        images.save_image(f"{config.out}/{name.replace(' ', '_')}.png", sheet)
    setting = (
        f"{config.images} pictures each at {config.size} px in batches of {config.batch}, "
        f"{len(faces.expressions)} expressions (chance: {1 / len(faces.expressions):.3f})"
    )
    out = files.absolute(config.out)
    files.write_lines(out / "comparison.csv", comparison_report.as_texts(found))
    files.write(out / "curves.csv", comparison_report.curves(runs).encode())
    text = comparison_report.as_markdown(found, setting)
    files.write(out / "comparison.md", text.encode())
    page = comparison_report.as_page(found, setting, runs, sheets)
    files.write(out / "report.html", page.encode())
    print(text)


if __name__ == "__main__":
    launch(Config, main)
