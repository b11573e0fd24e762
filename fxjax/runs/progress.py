"""How far an inversion is: a bar with images/s and time left, and scalars for TensorBoard."""

import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from fxjax.runs.inverted import Row
from fxjax.runs.worklist import OK, Entry

LINE_SECONDS = 30.0  # between lines where the output is no terminal


class Progress:
    """A context that shows this process's share; off a terminal, a line now and then."""

    def __init__(self, out: epath.Path, entries: Sequence[Entry], batch: int, *, tensorboard: bool):
        faces = sum(entry.status == OK for entry in entries)
        step = batch * jax.process_count()
        mine = range(batch * jax.process_index(), faces, step)
        self.total = sum(min(batch, faces - first) for first in mine)
        self.done, self.began, self.fresh = 0.0, time.monotonic(), 0.0
        self.said = self.began
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} "
        form += "[{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        self.bar = tqdm(
            desc="invert", total=self.total, unit="images", disable=None, bar_format=form
        )
        self.board: Any = None
        if tensorboard:
            self.board = _board(out)

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *_: object):
        """Closes the bar."""
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def move(self, count: float, loss: float) -> None:
        """`count` images' worth of steps are done (not a number: of an earlier run)."""
        self.done += count
        self.bar.update(count)
        if math.isnan(loss):
            return
        self.fresh += count
        self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self.said > LINE_SECONDS:
            self.said = now
            rate = self.fresh / (now - self.began)
            left = (self.total - self.done) / rate / 60 if rate else math.inf
            print(
                f"{self.done:.1f} of {self.total} images, {rate:.3g} images/s, "
                f"{left:.1f} min left, loss {loss:.4g}",
                flush=True,
            )

    def finished(self, row: Row, curve: Sequence[float | int]) -> None:
        """A face is done."""
        if self.board is not None and row.status == OK:
            for step, value in enumerate(curve):
                self.board.add_scalar(f"loss/{row.name}", float(value), step)
            self.board.flush()


def _board(out: epath.Path) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        print("no scalars for TensorBoard: pip install tensorboardX (curves/*.csv has them too)")
        return None
    module = importlib.import_module("tensorboardX")  # optional, and slow to import
    return module.SummaryWriter(f"{out}/tensorboard/{jax.process_index()}")
