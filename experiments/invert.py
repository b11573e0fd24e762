"""Photos in, W+ codes out: finds and aligns faces, and searches the codes that draw them.

    python -m experiments.invert --model=models/ffhq --features=models/vgg16 --images=photos \
        --out=runs/invert

Writes codes/NAME.npz, targets/, reconstructions/ and curves/ per face, results.csv with a row for
every face and every refused photo, and report.html; with --pivotal_steps also tuned/NAME.npz, the
face's own weights. Killed at any moment, the same command goes on where it was. Exit status 1 if a
photo failed; everything else is done all the same.
"""

import dataclasses
import json
import sys

import jax

from fxjax import sharding
from fxjax.cli import launch
from fxjax.files import absolute
from fxjax.runs import inversion, runfolder, worklist
from fxjax.runs.inversion import Config
from fxjax.runs.progress import Progress


def main(config: Config) -> None:
    """Checks, lists the faces, inverts them, reports."""
    out, chief = absolute(config.out), jax.process_index() == 0
    shas, settings = inversion.shas(config), dataclasses.asdict(config)
    if not config.restart:
        runfolder.check(out, settings, shas)
    search = inversion.prepare(config)
    runfolder.begin(out, settings, shas, restart=config.restart)
    if chief:
        entries = worklist.make(out, config.images, inversion.faces_of(config, search))
    else:
        entries = worklist.wait(out)
    inversion.check_start(config, search, entries)
    tuner = inversion.tuner(config, search)
    count = sum(entry.status == worklist.OK for entry in entries)
    batch = runfolder.agree_batch(out, lambda: config.batch or search.batch(count))
    note = json.dumps(settings | shas | {"batch": batch})
    with Progress(out, entries, batch, tensorboard=config.tensorboard) as progress:
        told = progress.move, progress.finished
        inversion.run(out, entries, search, batch, note, *told, tuner=tuner)
    if not chief:
        return
    rows = runfolder.all_rows(out, entries, patient=jax.process_count() > 1)
    runfolder.write_table(out, rows)
    facts = {name: str(getattr(config, name)) for name in ("model", "steps", "rate", "space")}
    facts |= {"loss": inversion.kind_of(config), "device": sharding.described()}
    runfolder.write_report(out, rows, facts | {"computed in": config.dtype})
    failed = sum(row.status != worklist.OK for row in rows)
    print(f"{len(rows) - failed} faces are done; open {out / 'report.html'}")
    if failed:
        sys.exit(f"{failed} of {len(rows)} photos and faces failed; {out / 'results.csv'} says why")


if __name__ == "__main__":
    launch(Config, main)
