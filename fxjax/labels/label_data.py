"""Faces and the names of their expressions, for the label-driven models."""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int, UInt8

from fxjax import files, images, tables
from fxjax.nn import fader
from fxjax.training import data

APART = 20  # one person in so many is never trained on


class Labelled(NamedTuple):
    """Pictures [count, size, size, channels] and the numbers of their expressions.

    Pictures of one pair, whose number is not -1, differ in the expression alone.
    """

    pictures: UInt8[np.ndarray, "count size size channels"]
    classes: Int[np.ndarray, " count"]
    expressions: tuple[str, ...]
    pairs: Int[np.ndarray, " count"]

    def take(self, order: Int[np.ndarray, " some"] | Bool[np.ndarray, " count"]) -> "Labelled":
        """Those of these numbers, or where it is true."""
        arrays = self.pictures[order], self.classes[order], self.pairs[order]
        return Labelled(arrays[0], arrays[1], self.expressions, arrays[2])

    def partners(self) -> Int[np.ndarray, "count expressions"]:
        """For each picture that of its pair with each other expression, or -1."""
        found = np.full((len(self.classes), len(self.expressions)), -1, np.int32)
        members: dict[int, list[int]] = {}
        for k, pair in enumerate(self.pairs.tolist()):
            if pair >= 0:
                members.setdefault(pair, []).append(k)
        for group in members.values():
            for here in group:
                for there in group:
                    if self.classes[here] != self.classes[there]:
                        found[here, self.classes[there]] = there
        return found

    def weights(self) -> Float[np.ndarray, " count"]:
        """How often each picture is shown, so that every expression is as often as any other."""
        counts = np.bincount(self.classes, minlength=len(self.expressions))
        return (1 / counts[self.classes]).astype(np.float32)


class Thresholds(NamedTuple):
    """Ratings of happiness, 0 to 100: at most, and at least; faces between are left out."""

    neutral: float
    happiness: float


def read(
    path: epath.PathLike,
    table: epath.PathLike,
    size: int,
    channels: int,
    *,
    wanted: Sequence[str] = (),
    least: int = 1,
    zoom: int = 1,
    thresholds: Thresholds,
) -> tuple[Labelled, Labelled]:
    """The faces to train on, and those of people held back to measure with.

    `table` is a CSV of `file,expression` (and `person`, whose pictures then stay together, and
    `pair`, for those that differ in the expression alone), or one of `filename,happy` ratings.
    Pictures are `fader.inner` of those in the file, which are `zoom` times as large or more.
    Without `wanted` names, expressions of fewer than `least` pictures are left out. Raises
    ValueError for labels that are missing, names that are unknown, classes without pictures, and
    colour where grey is asked for or the other way round.
    """
    inner = fader.inner(size, zoom)
    labels, apart = read_labels(table, thresholds)
    pictures, names = data.read_pictures(path, size * zoom)
    data.refuse_repeated(names, f"pictures in {path}")
    pictures = pictures[:, *inner]
    if missing := [name for name in names if name not in labels]:
        raise ValueError(
            f"{table} has no expression for {len(missing)} of the {len(names)} pictures in "
            f"{path}, the first is {missing[0]}; add rows for them or take them out"
        )
    counts = collections.Counter(labels[name] for name in names)
    counts.pop("", None)
    known = sorted({label for label in labels.values() if label})
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no expression {unknown[0]!r} in {table}; it has {', '.join(known)}")
    few = [f"{name} ({counts[name]})" for name in known if counts[name] < least]
    chosen = tuple(wanted) or tuple(name for name in known if counts[name] >= least)
    if not wanted and few:
        print(f"left out, with fewer than {least} pictures: {', '.join(few)}", flush=True)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{', '.join(chosen) or 'no expression'} to train on; want two or more different "
            f"ones. {table} has {', '.join(f'{name} ({counts[name]})' for name in known)}"
        )
    grey = all(images.is_gray(picture) for picture in pictures)  # in colour: the first decides
    if (channels == 1) != grey:
        found, other = ("grey", 1) if grey else ("in colour", 3)
        raise ValueError(
            f"the pictures in {path} are {found}, but --channels={channels}; give "
            f"--channels={other} or other pictures"
        )
    number = {name: k for k, name in enumerate(chosen)}
    classes = np.asarray([number.get(labels[name], -1) for name in names], np.int32)
    held = np.asarray([apart[name] for name in names])
    pairs = _pairs(table, names)

    every = Labelled(pictures[..., :channels], classes, chosen, pairs)
    trained = every.take((classes >= 0) & ~held)
    if empty := [name for name, k in number.items() if not np.any(trained.classes == k)]:
        raise ValueError(f"{path} has no pictures of {', '.join(empty)} to train on")
    return trained, every.take((classes >= 0) & held)


def read_labels(
    table: epath.PathLike, thresholds: Thresholds
) -> tuple[dict[str, str], dict[str, bool]]:
    """The expression of each file ("": none is known), and whether its person is held back.

    A column `held_back` (0 or 1) says so itself; else it follows from who is shown.
    """
    source, rows = files.absolute(table), tables.read(table)
    columns: Mapping[str, str] = rows[0] if rows else {}
    file = next((name for name in ("file", "filename") if name in columns), None)
    if file is None or not {"expression", "happy"} & columns.keys():
        raise ValueError(
            f"{source} wants the columns file,expression (or filename,happy: ratings); it has "
            f"{','.join(columns) or 'no rows'}"
        )
    data.refuse_repeated([row.filled(file) for row in rows], f"rows of {source}")
    if "expression" in columns:
        if bare := [row for row in rows if not row["expression"]]:
            what = f"no expression for {len(bare)} of {len(rows)} files, the first is "
            raise bare[0].error("expression", f"{what}{bare[0][file]}; fill them in")
        labels = {row[file]: row["expression"] for row in rows}
    else:
        labels = {row[file]: _rated(row, thresholds) for row in rows}
    if "held_back" in columns:
        if odd := [row for row in rows if row["held_back"] not in ("0", "1")]:
            raise odd[0].error("held_back", f"{odd[0]['held_back']!r}; want 0 or 1")
        apart = [row["held_back"] == "1" for row in rows]
    elif {"kind", "source_id"} <= columns.keys():
        apart = data.held_back_rows(rows)
    else:
        apart = [is_apart(row.get("person") or row[file]) for row in rows]
    return labels, {row[file]: held for row, held in zip(rows, apart, strict=True)}


def _pairs(table: epath.PathLike, names: Sequence[str]) -> Int[np.ndarray, " count"]:
    """Numbers of the pairs that the column `pair` names; -1 where it is empty or not there."""
    rows = {row.get("file") or row.get("filename"): row.get("pair") for row in tables.read(table)}
    number: dict[str, int] = {}
    found = [rows.get(name) for name in names]
    return np.array([number.setdefault(pair, len(number)) if pair else -1 for pair in found])


def _rated(row: tables.Row, thresholds: Thresholds) -> str:
    if not row["happy"]:
        return ""
    value = row.float("happy")
    if value >= thresholds.happiness:
        return "happiness"
    return "neutral" if value <= thresholds.neutral else ""


def is_apart(person: str) -> bool:
    """Whether a person is one of those held back where the table does not say: one in APART."""
    digest = hashlib.sha256(f"held back {person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % APART == 0
