"""The summary and the page of many transfers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from fxjax import metrics, report
from fxjax.faces import verdict
from fxjax.images import load_image
from fxjax.runs.batch import OK, Pair

MEASURES = ("gain", "to_person", "to_driver", "outside", "expression_loss", "appearance_loss")


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each method: the mean measures, and how often it stays nearer to the person."""
    names = dict.fromkeys(k[: -len(": gain")] for row in rows for k in row if k.endswith(": gain"))
    found = []
    for name in names:
        line: dict[str, Any] = {"method": name, "pairs": len(rows)}
        for measure in MEASURES:
            values = [row[f"{name}: {measure}"] for row in rows if f"{name}: {measure}" in row]
            line[measure], line[f"{measure} +-"] = metrics.interval(values)
        own = np.array([row.get(f"{name}: to_person", math.nan) for row in rows])
        other = np.array([row.get(f"{name}: to_driver", math.nan) for row in rows])
        seen = np.isfinite(own)
        line["nearer to person"] = float((own < other)[seen].mean()) if seen.any() else math.nan
        line["no face"] = float((~seen).mean())
        line["gain - distance"] = line["gain"] - line["to_person"]
        found.append(line)
    return found


def page(
    out: epath.Path,
    pairs: Sequence[Pair],
    rows: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
) -> str:
    """A table of all pairs that sorts by any column."""
    head = ["appearance", "expression", "result", "pair", "status", "verdict", "mask", *MEASURES]

    def cells() -> Iterator[list[report.Cell]]:
        good = lambda both: both[1].get("verdict") in (None, "unchanged", verdict.WHOLE)
        for pair, row in sorted(zip(pairs, rows, strict=True), key=good):  # to be looked at first
            pictures: list[report.Cell] = [None] * 3
            if row["status"] == OK:
                faces = [out / "inversion" / "targets" / f"{name}.png" for name in pair.names]
                faces = [*faces, out / "faces" / f"{pair.name}.png"]
                pictures = [report.Picture(load_image(face)) for face in faces]
            numbers = [row.get(f"result: {name}") for name in MEASURES]
            status = f"{row['status']}: {row['message']}" if row["message"] else row["status"]
            yield [
                *pictures, pair.name, status, row.get("verdict"), row.get("mask"), *numbers
            ]  # fmt: skip

    means = {
        line["method"]: f"gain {line['gain']:.2f}, distance {line['to_person']:.2f}, "
        f"difference {line['gain - distance']:.2f}"
        for line in summary
    }
    return report.page("Expressions transferred", {**facts, **means}, head, cells())
