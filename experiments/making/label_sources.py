"""Where labelled faces come from: rated faces, pasted mouths, samples, renders."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

from experiments.making import pasted_faces
from fxjax import load, tables
from fxjax.codes import smile_samples
from fxjax.codes.smile_samples import Limits, Reader, Sample
from fxjax.labels import label_data
from fxjax.training import data

# Manipulations that turn a straight face into a smile or back; others show the same 30 again.
SMILING = ("dominant", "outgoing", "trustworthy")
PAIRED = (
    "pairs",
    "pasted",
    "renders",
)  # sources in which one person's pictures differ in expression alone


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    data: Annotated[str, "folder or zip of rated faces; empty: none"] = ""
    table: Annotated[str, "its CSV: filename,happy,kind,source_id,attribute"] = ""
    donors: Annotated[
        int, "rated faces of each expression that lend the others their mouths, for pairs; 0: none"
    ] = 8
    receivers: Annotated[int, "samples of the generator that get the donors' mouths too"] = 2000
    renders: Annotated[
        str, "zip of experiments.making.render_faces, its .csv beside it; empty: none"
    ] = ""
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


def rated(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    """Source, whether held back, and sample, of rated faces and mouths pasted into them."""
    limits = Limits(config.no_smile, config.smile)
    thresholds = label_data.Thresholds(config.neutral_most, config.happy_least)
    trained = []
    labels, apart = label_data.read_labels(config.table, thresholds)
    rows = {row["filename"]: row for row in data.read_table(config.table)}
    pictures, names = data.read_pictures(config.data, config.size)
    data.refuse_repeated(names, f"pictures in {config.data}")
    if missing := [name for name in names if name not in rows]:
        raise ValueError(f"{config.table} lacks {len(missing)} pictures, first {missing[0]}")
    for name, picture in zip(names, pictures, strict=True):
        row, label, source = rows[name], labels[name], "rated"
        person = f"{row.get('kind', '')}{row.get('source_id', name)}"
        if not apart[name]:
            trained.append((name, person, picture))
        if not label and row.get("attribute") in SMILING:
            label, source = limits.name(reader(picture)), "manipulated"
        if label:
            yield source, apart[name], Sample(name, picture, label, person)
    if config.donors:
        wanted = {"donors": config.donors, "receivers": _receivers(config)}
        for each in pasted_faces.pairs(trained, reader, limits, **wanted):
            yield "pasted", False, each


def _receivers(config: Config) -> list[pasted_faces.Face]:
    """Samples of the generator after those that `drawn` takes: name, person, picture."""
    if not config.receivers:
        return []
    generator = load(config.model, part="generator")
    first = config.seed + config.samples
    numbers = range(first, first + config.receivers)
    codes = smile_samples.codes(generator, numbers, config.psi)
    pictures = smile_samples.drawn(generator, codes, numbers, config.size)
    return [
        (f"{number}.jpg", f"sample{number}", picture)
        for number, picture in zip(numbers, pictures, strict=True)
    ]


def drawn(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    """The same for samples of the generator and pairs of them."""
    limits = Limits(config.no_smile, config.smile)
    generator = load(config.model, part="generator")
    wanted = {"count": config.samples, "seed": config.seed, "psi": config.psi, "size": config.size}
    found = smile_samples.labelled(generator, reader, limits, **wanted)
    print(found.summary())
    for each in found.samples:
        yield each.name.partition("_")[0] + "s", label_data.is_apart(each.person), each


def rendered(config: Config) -> Iterator[tuple[str, bool, Sample]]:
    """The same for renders."""
    pictures, names = data.read_pictures(config.renders, config.size)
    table = data.table_of(config.renders)
    rows = {row.get("file"): row for row in tables.read(table)}
    for name, picture in zip(names, pictures, strict=True):
        if not {"expression", "person"} <= rows.get(name, {}).keys():
            raise ValueError(f"{table} has no expression and person of {name}; render again")
        label, person = rows[name]["expression"], rows[name]["person"]
        yield "renders", label_data.is_apart(person), Sample(name, picture, label, person)
