"""What the label-driven models should have drawn: rendered faces exist with every expression."""

import math
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from fxjax import images, metrics, tables
from fxjax.labels import label_data, training
from fxjax.labels.comparison import Trained
from fxjax.labels.networks import Settings
from fxjax.training import data
from fxjax.types import Photos


class Truth(NamedTuple):
    """Faces, the expressions to give them, and how each then looks."""

    before: Photos
    wanted: Int[np.ndarray, " count"]
    after: Photos


def given(
    path: epath.PathLike | None, table: epath.PathLike | None, settings: Settings
) -> Truth | None:
    """What `read` finds, if both are given. ValueError for one of them alone."""
    if (path is None) != (table is None):
        raise ValueError("--truth and --truth_table go together; give both or neither")
    return None if path is None or table is None else read(path, table, settings)


def read(
    path: epath.PathLike, table: epath.PathLike, settings: Settings, *, most: int = 200
) -> Truth:
    """Pairs of pictures that differ in the expression alone, of people who were held back.

    `table` is a CSV of `file,expression,person`, as `experiments.making.render_faces` writes it.
    Raises ValueError if no held-back person has two of the expressions.
    """
    pictures, names = data.read_pictures(path, settings.size)
    rows = {row.filled("file"): row for row in tables.read(table)}
    number = {name: k for k, name in enumerate(settings.names())}
    people: dict[str, dict[int, int]] = {}
    for k, name in enumerate(names):
        row = rows.get(name, {})
        person, kind = row.get("person") or "", number.get(row.get("expression") or "")
        if person and kind is not None and label_data.is_apart(person):
            people.setdefault(person, {})[kind] = k
    pairs = [
        (here, kind, there)
        for person in sorted(people)
        for own, here in people[person].items()
        for kind, there in people[person].items()
        if kind != own
    ][:most]
    if not pairs:
        raise ValueError(
            f"{table} lists no held-back person with two of {', '.join(settings.names())}; give "
            "more people (one in twenty is held back)"
        )
    before, wanted, after = (np.array(column) for column in zip(*pairs, strict=True))
    shown = pictures[..., : settings.channels]
    return Truth(shown[before], wanted, shown[after])


def measured(run: Trained, truth: Truth) -> dict[str, float | int]:
    """PSNR in dB of the changed faces to how they truly look, and that of leaving them as they are.

    The means are over faces; a face that is equal to its wanted one is left out.
    """
    every = images.to_uint8(training.changed(run.settings, run.state, truth.before))
    made = every[np.arange(len(every)), truth.wanted]

    def mean(pictures: Photos) -> float:
        values = [metrics.psnr(a, b) for a, b in zip(pictures, truth.after, strict=True)]
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else math.nan

    return {"PSNR to the truth": mean(made), "PSNR to the truth, unchanged": mean(truth.before)}
