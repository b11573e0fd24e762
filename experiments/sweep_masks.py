"""Which rows carry expression, pose and appearance: all masks of many pairs.

    python -m experiments.sweep_masks --appearance=people --expression=drivers --out=runs/sweep

Scores every mask of every pair, and draws each row taken alone. Writes rows.csv (the mean effect
of each row with 95 % intervals over pairs), masks.csv (the best mask of every pair and how the
rows 3 and 4, which other work takes, rank among all), report.html, and scores/PAIR.npz. Killed at
any moment, the same command goes on where it was.
"""

import dataclasses
import sys
from typing import Annotated, Any

import jax
import numpy as np

from fxjax import assess, files
from fxjax.cli import launch
from fxjax.codes import mix
from fxjax.engine import Engine
from fxjax.images import to_uint8
from fxjax.runs import batch, batch_page
from fxjax.runs.batch import Known
from fxjax.runs.pairs import Pair, Pairs, read_pairs
from fxjax.runs.worklist import OK
from fxjax.transfer_report import mask_text, row_effects
from fxjax.transfer_types import PRESETS, Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Pairs):
    """Each field is a flag."""

    rows: Annotated[str, "rows to search: all, or such as 0-2,5,6+7 (+ ties rows)"] = "all"


def main(config: Config) -> None:
    """Inverts every photo, scores the pairs, then reports."""
    out = files.absolute(config.out)
    engine = Engine(config.model, config.features, config.settings())
    count = len(engine.generator.rows)
    pairs = read_pairs(config)
    entries = batch.invert_all(config, pairs, engine.generator.resolution)
    judges = assess.Judges(engine.detector)
    alone = np.concatenate([np.zeros((1, count), bool), np.eye(count, dtype=bool)])

    def work(pair: Pair, person: Known, driver: Known, progress: Progress) -> dict[str, Any]:
        codes = batch.codes_of(person, driver)
        ranked = engine.rank(codes[0], codes[1], (person.face, driver.face), progress)
        if ranked is None:
            raise ValueError("the two faces are alike")
        kept = ("masks", "expression", "appearance", "exact")
        arrays = files.npz({name: getattr(ranked, name) for name in kept})
        files.write(out / "scores" / f"{pair.name}.npz", arrays)
        drawn = to_uint8(np.asarray(engine.draw(mix.mixed(codes[0], codes[1], alone))))
        other = to_uint8(np.asarray(engine.draw(codes[1:])))[0]
        row: dict[str, Any] = {"mask": mask_text(ranked.masks[0]), "masks": len(ranked.masks)}
        for name, rows in PRESETS.items():
            same = (ranked.masks == np.isin(np.arange(count), rows)).all(axis=1)
            if same.any():
                row[f"rank of {name} rows"] = int(np.argmax(same)) + 1
        row["effects"] = row_effects(ranked).tolist()
        row["alone"] = assess.moved(judges, drawn[0], other, drawn[1:]).tolist()
        return row

    key = dataclasses.asdict(config) | {"out": None, "restart": None, "batch": None}
    rows = batch.each(out, pairs, entries, key, work)
    if jax.process_index():
        return
    done = [row for row in rows if row["status"] == OK]
    hidden = ("effects", "alone")
    shown = [{name: v for name, v in row.items() if name not in hidden} for row in rows]
    files.write_table(out / "masks.csv", shown, digits=6)
    if done:
        effects = batch.row_table(done)
        files.write_table(out / "rows.csv", effects, digits=6)
        facts = {"pairs": str(len(done)), "model": config.model, "weight": f"{config.weight:g}"}
        html = batch_page.mask_page(done, effects, facts)
        files.write(out / "report.html", html.encode())
        print(f"{len(done)} pairs are done; open {out / 'report.html'}")
    if len(done) < len(rows):
        sys.exit(f"{len(rows) - len(done)} of {len(rows)} pairs failed; see {out / 'masks.csv'}")


if __name__ == "__main__":
    launch(Config, main)
