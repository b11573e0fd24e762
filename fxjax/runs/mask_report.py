"""The table and the page of a sweep over masks."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fxjax.metrics import interval
from fxjax.report import bars, document, escape
from fxjax.transfer_types import PRESETS

MEASURES = {
    "expression": "change of the expression loss E when the row is the driver's (below 0: good)",
    "appearance": "change of the appearance loss A (0: the face keeps its looks)",
    "gain alone": "expression that the row alone carries over, of 1 for all rows",
    "pose alone": "pose that the row alone carries over, of 1 for all rows",
    "identity alone": "dlib distance that the row alone moves the face",
}


def row_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each row of the generator: mean effects with 95 % intervals, and its share of the best.

    `rows` are the pairs', with effects [rows, 2] and alone [rows, 3].
    """
    effects = np.array([row["effects"] for row in rows], float)
    alone = np.array([row["alone"] for row in rows], float)
    each = np.concatenate([effects, alone], axis=2)
    best = np.array([[bit == "1" for bit in row["mask"]] for row in rows])
    table = []
    for k in range(each.shape[1]):
        line: dict[str, Any] = {"row": k, "in the best mask": float(best[:, k].mean())}
        for place, name in enumerate(MEASURES):
            line[name], line[f"{name} +-"] = interval(each[:, k, place].tolist())
        table.append(line)
    return table


def page(
    rows: Sequence[Mapping[str, Any]],
    effects: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
) -> str:
    """Bars with intervals for each measure, the most frequent best masks, and the presets."""
    parts = []
    labels = [f"row {line['row']}" for line in effects]
    for name, note in MEASURES.items():
        means = [line[name] for line in effects]
        widths = [line[f"{name} +-"] for line in effects]
        parts += [f"<h2>{escape(name)}</h2><p>{escape(note)}</p>", bars(labels, means, widths)]
    shares = [line["in the best mask"] for line in effects]
    parts += ["<h2>Share of pairs whose best mask takes the row</h2>"]
    parts += [bars(labels, shares, [float("nan")] * len(shares))]
    common = collections.Counter(row["mask"] for row in rows).most_common(10)
    items = "".join(f"<li><code>{escape(mask)}</code> {count} pairs</li>" for mask, count in common)
    parts.append(f"<h2>The most frequent best masks</h2><p>Row 0 first.</p><ul>{items}</ul>")
    for name, taken in PRESETS.items():
        ranks = [row[f"rank of {name} rows"] for row in rows if f"rank of {name} rows" in row]
        if not ranks:
            continue
        total = rows[0]["masks"]
        share = np.mean([all(row["mask"][k] == "1" for k in taken) for row in rows])
        parts.append(
            f"<h2>Rows {taken} ({escape(name)})</h2><p>Their mask ranks {np.median(ranks):.0f} of "
            f"{total} (median over pairs); {100 * share:.0f} % of the best masks take both.</p>"
        )
    return document("Which rows carry what", facts, "\n".join(parts))
