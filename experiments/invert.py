"""Photos in, W+ codes out: finds and aligns faces, and searches the codes that draw them.

    python -m experiments.invert --model=models/ffhq --features=models/vgg16 --images=photos \
        --out=runs/invert

Writes codes/NAME.npz, targets/, reconstructions/ and curves/ per face, results.csv with a row for
every face and every refused photo, and report.html; with --pivotal_steps also tuned/NAME.npz, the
face's own weights. Killed at any moment, the same command goes on where it was. Exit status 1 if a
photo failed; everything else is done all the same.
"""

import sys

from fxjax.cli import launch
from fxjax.files import absolute
from fxjax.runs import worklist
from fxjax.runs.inversion import Config, invert_photos


def main(config: Config) -> None:
    """Inverts, and says what failed."""
    out, rows = absolute(config.out), invert_photos(config)
    failed = sum(row.status != worklist.OK for row in rows)
    if rows:
        print(f"{len(rows) - failed} faces are done; open {out / 'report.html'}")
    if failed:
        sys.exit(f"{failed} of {len(rows)} photos and faces failed; {out / 'results.csv'} says why")


if __name__ == "__main__":
    launch(Config, main)
