"""Merges labelled faces for the label-driven models: rated faces, samples, renders, in one zip.

    python -m experiments.label_faces --data=omi_train_128.zip --table=omi_train.csv \
        --renders=runs/renders.zip --samples=8000 --model=faces --dst=runs/labels.zip

The table beside the zip has `file,expression,person,source,held_back,pair`. Manipulated faces and
samples are named by the smile that the expression reader finds, if it is a clear one.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated

from experiments import label_data, picture_zip, smile_samples
from experiments.launch import launch
from experiments.smile_samples import Limits, Reader, Sample
from fxjax import data, load

# Manipulations that turn a straight face into a smile or back; others show the same 30 again.
SMILING = ("dominant", "outgoing", "trustworthy")
PAIRED = ("pairs", "renders")  # sources in which one person's pictures differ in expression alone


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    data: Annotated[str, "folder or zip of rated faces; empty: none"] = ""
    table: Annotated[str, "its CSV: filename,happy,kind,source_id,attribute"] = ""
    renders: Annotated[str, "zip of experiments.render_faces, its .csv beside it; empty: none"] = ""
    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    samples: Annotated[int, "pictures of the generator that are tried, pairs included"] = 8000
    psi: Annotated[float, "truncation of the samples"] = 0.8
    seed: Annotated[int, "the samples' first seed"] = 0
    dst: Annotated[str, "zip to write; its table goes beside it as .csv"] = "runs/labels.zip"
    size: Annotated[int, "side of the pictures in pixels"] = 128
    most: Annotated[int, "pictures of one source and expression at most"] = 2000
    neutral_most: Annotated[float, "highest rating of happiness that is neutral"] = 35.0
    happy_least: Annotated[float, "lowest rating of happiness that is happiness"] = 65.0
    no_smile: Annotated[float, "largest smile that is read of a straight face"] = 0.08
    smile: Annotated[float, "least smile that is read of a happy one"] = 0.4


def main(config: Config) -> None:
    """Collects, names, packs and counts."""
    if bool(config.data) != bool(config.table):
        raise ValueError("--data and --table go together: give both or none")
    if 0 != config.samples < 40 or config.no_smile >= config.smile:
        raise ValueError(
            f"--samples={config.samples} --no_smile={config.no_smile} --smile={config.smile}: want "
            "0 or at least 40 samples, and less smile for none"
        )
    picture_zip.table_of(config.dst)  # before the work: is it a zip?
    rendered = list(_rendered(config)) if config.renders else []
    reader = Reader()
    rated = list(_rated(config, reader)) if config.data else []
    drawn = list(_drawn(config, reader)) if config.samples else []
    kept, rows = [], []
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for source, apart, found in itertools.chain(rated, drawn, rendered):
        place = source, found.expression
        if counts[place] < config.most:
            counts[place] += 1
            kept.append(found)
            names = {"file": found.name, "expression": found.expression, "person": found.person}
            pair = found.person if source in PAIRED else ""
            rows.append({**names, "source": source, "held_back": str(int(apart)), "pair": pair})
    if not rows:
        raise ValueError("no pictures: give --data and --table, --renders or --samples")
    picture_zip.write(config.dst, (each[:2] for each in kept), rows)
    for (source, name), count in sorted(counts.items()):
        print(f"{source}: {count} {name}")
    held = sum(int(row["held_back"]) for row in rows)
    print(f"wrote {config.dst} and its table: {len(rows)} pictures, {held} held back")


def _rated(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    """Source, whether held back, and sample."""
    limits = Limits(config.no_smile, config.smile)
    thresholds = label_data.Thresholds(config.neutral_most, config.happy_least)
    labels, apart = label_data.read_labels(config.table, thresholds)
    rows = {row["filename"]: row for row in data.read_table(config.table)}
    pictures, names = data.read_pictures(config.data, config.size)
    if missing := [name for name in names if name not in rows]:
        raise ValueError(f"{config.table} lacks {len(missing)} pictures, first {missing[0]}")
    for name, picture in zip(names, pictures, strict=True):
        row, label, source = rows[name], labels[name], "rated"
        if not label and row.get("attribute") in SMILING:
            label, source = limits.name(reader(picture)), "manipulated"
        if label:
            person = f"{row.get('kind', '')}{row.get('source_id', name)}"
            yield source, apart[name], Sample(name, picture, label, person)


def _drawn(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    limits = Limits(config.no_smile, config.smile)
    generator = load(config.model, part="generator")
    wanted = {"count": config.samples, "seed": config.seed, "psi": config.psi, "size": config.size}
    found = smile_samples.labelled(generator, reader, limits, **wanted)
    print(found.summary())
    for each in found.samples:
        yield each.name.partition("_")[0] + "s", label_data.is_apart(each.person), each


def _rendered(config: Config) -> Iterator[tuple[str, bool, Sample]]:
    pictures, names = data.read_pictures(config.renders, config.size)
    table = picture_zip.table_of(config.renders)
    rows = {row.get("file"): row for row in label_data.read_rows(table)}
    for name, picture in zip(names, pictures, strict=True):
        if not {"expression", "person"} <= rows.get(name, {}).keys():
            raise ValueError(f"{table} has no expression and person of {name}; render again")
        label, person = rows[name]["expression"], rows[name]["person"]
        yield "renders", label_data.is_apart(person), Sample(name, picture, label, person)


if __name__ == "__main__":
    launch(Config, main)
