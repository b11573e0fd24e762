"""Merges labelled faces for the label-driven models into one zip.

They are rated faces, pairs of them and of pasted mouths, samples of a generator, and renders.

    python -m experiments.making.label_faces --data=omi_train_128.zip --table=omi_train.csv \
        --renders=runs/renders.zip --samples=8000 --model=faces --dst=runs/labels.zip

The table beside the zip has `file,expression,person,source,held_back,pair`. Manipulated faces and
samples are named by the smile that the expression reader finds, if it is a clear one.
"""

import collections
import itertools

from experiments.making import label_sources
from experiments.making.label_sources import Config
from fxjax.cli import launch
from fxjax.codes.smile_samples import Reader
from fxjax.training import data


def main(config: Config) -> None:
    """Collects, names, packs and counts."""
    if bool(config.data) != bool(config.table):
        raise ValueError("--data and --table go together: give both or none")
    if 0 != config.samples < 40 or config.no_smile >= config.smile:
        raise ValueError(
            f"--samples={config.samples} --no_smile={config.no_smile} --smile={config.smile}: want "
            "0 or at least 40 samples, and less smile for none"
        )
    data.table_of(config.dst)  # before the work: is it a zip?
    rendered = list(label_sources.rendered(config)) if config.renders else []
    reader = Reader()
    rated = list(label_sources.rated(config, reader)) if config.data else []
    drawn = list(label_sources.drawn(config, reader)) if config.samples else []
    kept, rows = [], []
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for source, apart, found in itertools.chain(rated, drawn, rendered):
        place = source, found.expression
        if counts[place] < config.most:
            counts[place] += 1
            kept.append(found)
            names = {"file": found.name, "expression": found.expression, "person": found.person}
            pair = found.person if source in label_sources.PAIRED else ""
            rows.append({**names, "source": source, "held_back": str(int(apart)), "pair": pair})
    if not rows:
        raise ValueError("no pictures: give --data and --table, --renders or --samples")
    data.write_zip(config.dst, (each[:2] for each in kept), rows)
    for (source, name), count in sorted(counts.items()):
        print(f"{source}: {count} {name}")
    held = sum(int(row["held_back"]) for row in rows)
    print(f"wrote {config.dst} and its table: {len(rows)} pictures, {held} held back")


if __name__ == "__main__":
    launch(Config, main)
