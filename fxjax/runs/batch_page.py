"""The pages of many pairs: what their transfers came to, and which rows carry what."""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from fxjax import report, transfer_report
from fxjax.faces import align, verdict
from fxjax.images import from_uint8, load_image, to_uint8
from fxjax.runs.batch import EFFECTS, MEASURES
from fxjax.runs.pairs import Pair
from fxjax.runs.worklist import OK, Entry
from fxjax.transfer_types import PRESETS
from fxjax.types import AnyPhoto

WORDS = dict(zip(MEASURES, transfer_report.MEASURES, strict=True))  # of the measures, by field
NOTES = {
    "first": "whose face changes",
    "second": "whose expression it gets",
    "mask": "squares are rows, from coarse to fine; a filled one comes from the second",
    **transfer_report.MEASURES,
}
MEANS = {
    "gain - distance": "gain less the identity distance to the first; higher is better",
    "nearer to first": "share of results that look more like the first than like the second",
    "no face": "share of results in which no face is found",
}
MEANT = ("gain - distance", "nearer to person", "no face")  # their columns in the summary
UNCHANGED = "unchanged"  # two faces of one expression
SIDE = 256  # pixels of a face on the page, as results are judged


def page(
    out: epath.Path,
    pairs: Sequence[Pair],
    rows: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    entries: Mapping[epath.Path, Entry],
) -> str:
    """The best pair, how many look whole, all pairs in a table, and the methods' means.

    `entries` say where in their photos the faces are.
    """
    both = list(zip(pairs, rows, strict=True))
    said = {pair.name: _said(row) for pair, row in both}
    faces = {path: _face(out, path, entry) for path, entry in entries.items() if entry.status == OK}
    above = _hero(out, both, said) + report.verdicts(said, verdict.WHOLE, "results")
    above += "<h2>The pairs</h2>"

    def cells() -> Iterator[list[report.Cell]]:
        good = lambda one: said[one[0].name] in (UNCHANGED, verdict.WHOLE)
        for pair, row in sorted(both, key=good):  # to be looked at first
            pictures: list[report.Cell] = [None] * 3
            name: report.Cell = pair.name
            if row["status"] == OK:
                result = load_image(out / "faces" / f"{pair.name}.png")
                shown = [faces[pair.appearance], faces[pair.expression], result]
                pictures = [report.Picture(picture) for picture in shown]
                name = report.Link(pair.name, f"results/{pair.name}.png")
            mask = report.Bits(row["mask"]) if row.get("mask") else None
            numbers = [row.get(f"result: {field}") for field in MEASURES]
            yield [*pictures, name, said[pair.name], mask, *numbers]

    head = ["first", "second", "result", "pair", "verdict", "mask", *WORDS.values()]
    body = above + report.table(head, cells(), NOTES) + _means(summary)
    return report.document("Expressions transferred", facts, body)


def _said(row: Mapping[str, Any]) -> str:
    if row["status"] != OK:
        return f"{row['status']}: {row['message']}"
    return str(row.get("verdict") or verdict.WHOLE)


def _face(out: epath.Path, path: epath.Path, entry: Entry) -> AnyPhoto:
    """A face as large as its photo gives it; as it was inverted, if the photo is gone."""
    target = load_image(out / "inversion" / "targets" / f"{entry.name}.png")
    try:
        photo = load_image(path)
    except (OSError, ValueError):
        return target
    place = align.Crop(from_uint8(target), np.array(entry.photo_from_crop))
    return to_uint8(align.cut(photo, place.at(SIDE), SIDE))


def _hero(
    out: epath.Path, both: Sequence[tuple[Pair, Mapping[str, Any]]], said: Mapping[str, str]
) -> str:
    """The best of the results that look whole, or else of all, over its photo."""

    def good(one: tuple[Pair, Mapping[str, Any]]) -> tuple[bool, float]:
        pair, row = one
        apart = row.get("result: gain", math.nan) - row.get("result: to_person", math.nan)
        return said[pair.name] == verdict.WHOLE, -math.inf if math.isnan(apart) else apart

    for pair, row in sorted(both, key=good, reverse=True):
        if row["status"] != OK:
            continue
        try:
            before, driver = (load_image(path) for path in pair[:2])
        except (OSError, ValueError):  # the photo is gone
            continue
        after = load_image(out / "results" / f"{pair.name}.png")
        figure = report.image_tag(report.Picture(driver, 520), 260, "expression")
        which = f"{pair.name}, which has the highest gain less identity distance to the first"
        which += " of those that look whole." if said[pair.name] == verdict.WHOLE else "."
        return (
            f'<section class="hero">{report.slider(before, after)}<figure>{figure}'
            "<figcaption>expression</figcaption></figure></section>"
            f'<p class="note">Shown: {report.escape(which)}</p>'
        )
    return ""


def _means(summary: Sequence[Mapping[str, Any]]) -> str:
    """What each method reached, on average over the pairs, with 95 % intervals."""
    if not summary:
        return ""

    def cells() -> Iterator[list[report.Cell]]:
        for line in summary:
            row: list[report.Cell] = [str(line["method"])]
            for field in MEASURES:
                mean, width = line[field], line[f"{field} +-"]
                text = f"{mean:.2f}" + (f" \N{PLUS-MINUS SIGN} {width:.2f}" if width > 0 else "")
                row.append(None if math.isnan(mean) else report.Shown(text, mean))
            row += [None if math.isnan(line[name]) else float(line[name]) for name in MEANT]
            yield row

    head = ["method", *WORDS.values(), *MEANS]
    note = f"<p>Over {summary[0]['pairs']} pairs, with 95 % intervals.</p>"
    return f"<h2>The methods, on average</h2>{note}{report.table(head, cells(), MEANS)}"


def mask_page(
    rows: Sequence[Mapping[str, Any]],
    effects: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
) -> str:
    """Which rows win, bars with intervals for each measure, and the most frequent best masks."""
    parts = [answer(effects, len(rows))]
    for name, taken in PRESETS.items():
        ranks = [row[f"rank of {name} rows"] for row in rows if f"rank of {name} rows" in row]
        if not ranks:
            continue
        total = rows[0]["masks"]
        share = np.mean([all(row["mask"][k] == "1" for k in taken) for row in rows])
        parts.append(
            f"<p>Rows {taken} ({name}): their mask ranks {np.median(ranks):.0f} of "
            f"{total} (median over pairs); {100 * share:.0f} % of the best masks take both.</p>"
        )
    labels = [f"row {line['row']}" for line in effects]
    shares = [line["in the best mask"] for line in effects]
    nothing = [math.nan] * len(shares)
    charts = [_chart("in the best mask", "share of pairs whose best mask takes the row")]
    charts[0] += report.bars(labels, shares, nothing)
    for name, note in EFFECTS.items():
        means = [line[name] for line in effects]
        widths = [line[f"{name} +-"] for line in effects]
        charts.append(_chart(name, note) + report.bars(labels, means, widths))
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    parts.append(f'<section class="charts">{figures}</section>')
    common = collections.Counter(row["mask"] for row in rows).most_common(10)
    items = "".join(
        f"<li>{report.bits(mask)} <code>{mask}</code> {count} pairs</li>" for mask, count in common
    )
    parts.append(
        "<h2>The most frequent best masks</h2><p>Squares are rows, row 0 first; a filled one, or a "
        f"1, is the driver's.</p><ul>{items}</ul>"
    )
    return report.document("Which rows carry what", facts, "\n".join(parts))


def _chart(name: str, note: str) -> str:
    return f"<h2>{report.escape(name)}</h2><p>{report.escape(note)}</p>"


def answer(effects: Sequence[Mapping[str, Any]], pairs: int) -> str:
    """In words: which rows the best masks take, and which row carries the most of what."""
    share = lambda line: line["in the best mask"]
    order = sorted(effects, key=share, reverse=True)
    winners = [line for line in order if share(line) >= 0.5] or order[:1]
    named = ", ".join(f"{line['row']} ({100 * share(line):.0f} %)" for line in winners)
    plural = "s" if len(winners) > 1 else ""
    text = f"The best masks of {pairs} pairs most often take row{plural} {named}."
    parts = [report.verdict(text)]
    told = {
        "gain alone": "carries the most expression, {:.2f} of what all rows carry",
        "pose alone": "carries the most of the pose, {:.2f} of what all rows carry",
        "identity alone": "moves the identity the farthest, by a distance of {:.2f}",
    }
    found = []
    for name, words in told.items():
        known = [line for line in effects if math.isfinite(line[name])]
        if known:
            most = max(known, key=lambda line: line[name])
            found.append(f"row {most['row']} {words.format(most[name])}")
    parts += [f"<p>Taken alone, {'; '.join(found)}.</p>"] if found else []
    return "".join(parts)
