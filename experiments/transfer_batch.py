"""Transfers for all pairs of two folders, or for a table of pairs.

    python -m experiments.transfer_batch --appearance=people --expression=drivers --out=runs/batch
    python -m experiments.transfer_batch --pairs=pairs.csv --out=runs/batch

Writes results/PAIR.png, codes/PAIR.npz, results.csv with a row for every pair, summary.csv with
the mean measures of each method, and report.html. Killed at any moment, the same command goes on
where it was. Exit status 1 if a pair failed; all others are done.
"""

import dataclasses
import math
import sys
from typing import Annotated, Any

import jax

from fxjax import assess, files, sharding, transfer_report
from fxjax.cli import launch
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.runs import batch, batch_page, transfer_flags
from fxjax.runs.batch import Known
from fxjax.runs.pairs import Pair, Pairs, read_pairs
from fxjax.runs.worklist import OK
from fxjax.transfer_types import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Transfer, Pairs):
    """Each field is a flag."""

    compare: Annotated[bool, "measure simpler methods beside the results"] = False
    joint: Annotated[bool, "and a code searched freely, which takes as long as inversion"] = False


def main(config: Config) -> None:
    """Inverts every photo, then does the pairs, then reports."""
    out = files.absolute(config.out)
    engine = Engine(config.model, config.features, config.settings())
    pairs = read_pairs(config)
    entries = batch.invert_all(config, pairs, engine.generator.resolution)
    judges = assess.Judges(engine.detector)

    tuned: dict[Any, Any] = {}  # of the last person: their pairs are done one after the other

    def work(pair: Pair, person: Known, driver: Known, progress: Progress) -> dict[str, Any]:
        codes = batch.codes_of(person, driver)
        engine.check_seen([person.face], [driver.face])
        if not engine.wish(person.face, driver.face).share:
            result = engine.unchanged(person.face, driver.face)
        else:
            if pair.appearance not in tuned:
                tuned.clear()
                tuned[pair.appearance] = engine.tuned(person.face, codes[0], progress)
            generator = tuned[pair.appearance]
            faces = person.face, driver.face
            result = engine.pair(*faces, codes, tuned=generator, progress=progress)
        note = transfer_report.note(config.model)
        save_image(out / "results" / f"{pair.name}.png", result.picture, note=note)
        crop = judges.crop(result.image, person.face)
        save_image(out / "faces" / f"{pair.name}.png", crop, note=note)
        arrays = files.npz({"ws": result.codes, "mask": result.mask})
        files.write(out / "codes" / f"{pair.name}.npz", arrays)
        row: dict[str, Any] = {
            "verdict": "unchanged" if result.alike else result.verdict.text,
            "warnings": "; ".join(result.warnings.words),
            "drawn": result.drawn,
            "mask": transfer_report.mask_text(result.mask),
            "alike": int(result.alike),
        }
        row |= {f"verdict_{name}": value for name, value in result.verdict.figures.items()}
        if result.ranked is not None:
            row |= {
                "expression_loss": float(result.ranked.expression[0]),
                "appearance_loss": float(result.ranked.appearance[0]),
                "pushed": int(result.ranked.pushed),
                "rank_correlation": result.ranked.agreement,
            }
        row |= {f"refined_{name}": value for name, value in result.figures.items()}
        progress("comparison", 0.0)
        options = {"compare": config.compare, "joint": config.joint}
        for one in assess.table(engine, judges, result, **options):
            row |= {f"{one.name}: {name}": getattr(one, name) for name in batch.MEASURES}
        return row

    key = dataclasses.asdict(config) | {"out": None, "restart": None, "batch": None}
    rows = batch.each(out, pairs, entries, key, work)
    if jax.process_index():
        return
    files.write_table(out / "results.csv", rows, digits=6)
    summary = batch.summarize([row for row in rows if row["status"] == OK])
    files.write_table(out / "summary.csv", summary, digits=6)
    facts = {"pairs": str(len(rows)), "model": config.model, "weight": f"{config.weight:g}"}
    facts["device"] = sharding.described()
    html = batch_page.page(out, pairs, rows, summary, facts, entries)
    files.write(out / "report.html", html.encode())
    failed = sum(row["status"] != OK for row in rows)
    for line in summary:
        numbers = {k: v for k, v in line.items() if isinstance(v, float) and not math.isnan(v)}
        shown = ", ".join(f"{k} {v:.3f}" for k, v in numbers.items())
        print(f"{line['method']}: {shown}")
    print(f"{len(rows) - failed} pairs are done; open {out / 'report.html'}")
    if failed:
        sys.exit(f"{failed} of {len(rows)} pairs failed; {out / 'results.csv'} says why")


if __name__ == "__main__":
    launch(Config, main)
