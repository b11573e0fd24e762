"""The comparison of both label-driven models as tables."""

import csv
import io
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments import label_comparison
from experiments.label_comparison import Trained
from fxjax import train_labels

# The paper's claims against Fader Networks.
CLAIMS = {"parameters": "-43.7 %", "time": "-36 %", "quality": "better"}
HEAD = ("measure", "Liu & Jin", "Fader", "difference", "the paper's claim")

Measures = Mapping[str, Mapping[str, float]]


def measures(run: Trained, goal: float) -> dict[str, float]:
    """What needs no picture. `goal` is the reconstruction loss that both rlabel_comparison."""
    auto = train_labels.autoencoder(run.settings, run.state)
    names = run.settings.names()
    published: Any = nnx.eval_shape(lambda: type(auto)(256, ("a", "b", "c", "d"), rngs=nnx.Rngs(0)))
    count = len(run.seconds) * run.settings.batch
    return {
        "parameters (256 px, 4 labels)": label_comparison.parameters(published),
        "GMAC (256 px, 4 labels)": label_comparison.multiply_accumulates(published) / 1e9,
        f"parameters ({run.settings.size} px, {len(names)} labels)": label_comparison.parameters(
            auto
        ),
        f"GMAC ({run.settings.size} px)": label_comparison.multiply_accumulates(auto) / 1e9,
        "seconds per 1,000 images": sum(run.seconds) / count * 1000,
        "median seconds per 1,000 images": float(np.median(run.seconds)) / run.settings.batch * 1e3,
        "reconstruction loss at the end": float(label_comparison.smoothed(run.losses)[-1]),
        f"seconds to a reconstruction loss of {goal:.4g}": label_comparison.seconds_to(run, goal),
        "MB that a step needs": run.memory,
    }


def claim_of(measure: str) -> str:
    """What the paper says of it, or nothing."""
    if measure.startswith("parameters (256"):
        return CLAIMS["parameters"]
    if "seconds" in measure:
        return CLAIMS["time"]
    quality = ("PSNR", "SSIM", "expression accuracy", "identity distance")
    return CLAIMS["quality"] if measure in quality else ""


def as_rows(found: Measures) -> list[list[str]]:
    """A row for each measure: its name, both values, their difference, the claim."""
    rows = []
    for measure, one in found["liu_jin"].items():
        other = found["fader"][measure]
        change = f"{100 * (one / other - 1):+.1f} %" if other else ""
        shown = [f"{value:.0f}" if value >= 1e5 else f"{value:.4g}" for value in (one, other)]
        rows.append([measure, *shown, change, claim_of(measure)])
    return rows


def as_csv(found: Measures) -> str:
    """The table for programs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEAD, *as_rows(found)])
    return text.getvalue()


def as_markdown(found: Measures, setting: str) -> str:
    """The table for people, under a line on how and where it was measured."""
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    lines = [
        f"Trained on {setting}, on {devices} ({platform.machine()}, {platform.system()}).\n",
        f"| {' | '.join(HEAD)} |",
        "| --- | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row)} |" for row in as_rows(found)),
    ]
    return "\n".join(lines) + "\n"


def curves(runs: Mapping[str, Trained]) -> str:
    """Seconds and reconstruction loss of every step, as CSV."""
    lines = ["step," + ",".join(f"{name}_seconds,{name}_loss" for name in runs)]
    steps = len(next(iter(runs.values())).seconds)
    for step in range(steps):
        parts = [f"{run.seconds[step]:.6f},{run.losses[step]:.6g}" for run in runs.values()]
        lines.append(",".join([str(step), *parts]))
    return "\n".join(lines) + "\n"
