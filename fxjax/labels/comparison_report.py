"""The comparison of both label-driven models as tables."""

import math
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from fxjax.labels import comparison, networks
from fxjax.labels.comparison import Trained
from fxjax.report import Picture, Shown, document, escape, image_tag, table, verdict
from fxjax.types import AnyPhoto

# The paper's claims against Fader Networks.
CLAIMS = {"parameters": "-43.7 %", "time": "-36 %", "quality": "better"}
BETTER = {
    "PSNR": 1,
    "SSIM": 1,
    "LPIPS-style distance": -1,
    "expression accuracy": 1,
    "identity distance": -1,
    "PSNR to the truth": 1,
}
"""Measures of quality: 1 where more is better, -1 where less is."""
HEAD = ("measure", "Liu & Jin", "Fader", "difference", "the paper's claim")
MASKS = "system A"  # the column of codes that are mixed by masks, if it was measured

Measures = Mapping[str, Mapping[str, float | int]]


def measures(run: Trained, goal: float) -> dict[str, float | int]:
    """What needs no picture. `goal` is the reconstruction loss that both reached."""
    auto = networks.autoencoder(run.settings, run.state)
    names = run.settings.names()
    published: Any = nnx.eval_shape(lambda: type(auto)(256, ("a", "b", "c", "d"), rngs=nnx.Rngs(0)))
    count = len(run.seconds) * run.settings.batch
    return {
        "parameters (256 px, 4 labels)": comparison.parameters(published),
        "GMAC (256 px, 4 labels)": comparison.multiply_accumulates(published) / 1e9,
        f"parameters ({run.settings.size} px, {len(names)} labels)": comparison.parameters(auto),
        f"GMAC ({run.settings.size} px)": comparison.multiply_accumulates(auto) / 1e9,
        "seconds per 1,000 images": sum(run.seconds) / count * 1000,
        "median seconds per 1,000 images": float(np.median(run.seconds)) / run.settings.batch * 1e3,
        "reconstruction loss at the end": float(comparison.smoothed(run.losses)[-1]),
        f"seconds to a reconstruction loss of {goal:.4g}": comparison.seconds_to(run, goal),
        "MB that a step needs": run.memory,
    }


def claim_of(measure: str) -> str:
    """What the paper says of it, or nothing."""
    if measure.startswith("parameters (256"):
        return CLAIMS["parameters"]
    if "seconds" in measure:
        return CLAIMS["time"]
    return CLAIMS["quality"] if measure in BETTER else ""


def as_rows(found: Measures) -> tuple[list[str], list[list[str | Shown]]]:
    """The head, and a row for each measure: its name, both values, their difference, the claim.

    If system A was measured, its values are a further column.
    """
    more = [MASKS] if MASKS in found else []
    rows: list[list[str | Shown]] = []
    for measure, one in found["liu_jin"].items():
        other = found["fader"][measure]
        change = 100 * (one / other - 1) if other else math.nan
        rows.append([measure, _number(one), _number(other)])
        rows[-1] += [Shown(f"{change:+.1f} %", change) if other else "", claim_of(measure)]
        for name in more:
            value = found[name].get(measure)
            rows[-1].append("" if value is None else _number(value))
    return [*HEAD, *more], rows


def in_words(found: Measures) -> str:
    """What Liu & Jin's model needs beside Fader Networks', and in what it is better."""
    one, other = found["liu_jin"], found["fader"]
    costs = {"parameters (256": "of the parameters", "seconds per": "of the time to train"}
    needs = [
        f"{100 * one[name] / other[name]:.0f} % {words}"
        for start, words in costs.items()
        for name in one
        if name.startswith(start) and other[name]
    ]
    ways = {name: sign for name, sign in BETTER.items() if name in one and name in other}
    better = [name for name, sign in ways.items() if sign * (one[name] - other[name]) > 0]
    parts = [f"needs {' and '.join(needs)}"] if needs else []
    if ways:
        which = f": {', '.join(better)}" if better else ""
        parts.append(f"is better in {len(better)} of {len(ways)} measures of quality{which}")
    return f"Liu & Jin's model {' and '.join(parts)}."


def as_texts(found: Measures) -> list[list[str]]:
    """The head and the rows as texts."""
    head, rows = as_rows(found)
    return [
        head,
        *([cell if isinstance(cell, str) else cell.text for cell in row] for row in rows),
    ]


def as_markdown(found: Measures, setting: str) -> str:
    """The table for people, under a line on how and where it was measured."""
    first, *other = (f"| {' | '.join(row)} |" for row in as_texts(found))
    rule = "| --- | ---: | ---: | ---: | --- |" + (" ---: |" if MASKS in found else "")
    lines = [f"Trained on {setting}, on {_machine()}.\n", first, rule, *other]
    return "\n".join(lines) + "\n"


def as_page(
    found: Measures, setting: str, runs: Mapping[str, Trained], sheets: Mapping[str, AnyPhoto]
) -> str:
    """The table, the reconstruction losses over time, and faces changed by both models."""
    curves, seconds = [], max(sum(run.seconds) for run in runs.values())
    low, high = (
        math.log(pick(float(pick(comparison.smoothed(run.losses))) for run in runs.values()))
        for pick in (min, max)
    )
    for name, run in runs.items():
        across = np.cumsum(run.seconds) / seconds
        up = (np.log(comparison.smoothed(run.losses)) - low) / max(high - low, 1e-9)
        shown = np.unique(np.linspace(0, len(across) - 1, 200).astype(int))
        points = " ".join(f"{40 + 480 * across[k]:.1f},{190 - 170 * up[k]:.1f}" for k in shown)
        dash = ' stroke-dasharray="5 4"' if name == "fader" else ""
        curves.append(f'<polyline points="{points}"{dash}/>')
    ends = f"{math.exp(high):.3g}", f"{math.exp(low):.3g}"
    plot = (
        '<svg class="chart" width="560" height="220" viewBox="0 0 560 220" role="img">'
        f"{''.join(curves)}"
        f'<text x="0" y="20">{ends[0]}</text><text x="0" y="193">{ends[1]}</text>'
        f'<text x="520" y="212" text-anchor="end">{seconds:.0f} s</text></svg>'
    )
    head, rows = as_rows(found)
    pictures = "".join(
        f"<h2>{escape(name)}</h2><p>Held-back faces: as they are, then as "
        f"{escape(', '.join(runs['fader'].settings.names()))}.</p>"
        f"{image_tag(Picture(sheet, len(sheet)), len(sheet), name, sheet.shape[1])}"
        for name, sheet in sheets.items()
    )
    body = (
        f"{verdict(in_words(found))}<p>Trained on {escape(setting)}.</p>{table(head, rows)}"
        "<h2>Reconstruction loss over seconds of training</h2>"
        f"<p>Liu &amp; Jin: solid; Fader: dashed.</p>{plot}{pictures}"
    )
    return document("Liu & Jin beside Fader Networks", {"device": _machine()}, body)


def _number(value: float | int) -> Shown:
    return Shown(f"{value:.0f}" if value >= 1e5 else f"{value:.4g}", value)


def _machine() -> str:
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{devices} ({platform.machine()}, {platform.system()})"


def curves(runs: Mapping[str, Trained]) -> str:
    """Seconds and reconstruction loss of every step, as CSV."""
    lines = ["step," + ",".join(f"{name}_seconds,{name}_loss" for name in runs)]
    steps = len(next(iter(runs.values())).seconds)
    for step in range(steps):
        parts = [f"{run.seconds[step]:.6f},{run.losses[step]:.6g}" for run in runs.values()]
        lines.append(",".join([str(step), *parts]))
    return "\n".join(lines) + "\n"
