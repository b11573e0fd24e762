"""Shows how far a long job is: its step, the share that is done, and the time left."""

import importlib
import importlib.util
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")

DRAWN = 0.5  # seconds between drawings on a terminal
LINE = 5.0  # and between lines where the output is none
LONG = 30.0  # of what takes hours


class Steps:
    """A context to be given as `progress`: it shows the steps that it is told.

    One line that is drawn again on a terminal, a line now and then elsewhere. A thread shows it, so
    that the clock goes on while a program is compiled or nothing is told.
    """

    def __init__(self, stream: TextIO | None = None, every: float | None = None):
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.every = (DRAWN if self.live else LINE) if every is None else every
        self.step, self.share, self.began, self.told = "", 0.0, time.monotonic(), time.monotonic()
        self.note = ""  # shown behind the times
        self.first = (self.began, 0.0)  # when something of the step was done, and how much
        self.lock, self.over = threading.RLock(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        """Itself."""
        self.thread.start()
        return self

    def __exit__(self, *_: object):
        """Clears the line."""
        self.over.set()
        self.thread.join()
        if self.live:
            self._write("\r\x1b[K")

    def __call__(self, step: str, share: float) -> None:
        """A step is done to this share, 0 to 1."""
        with self.lock:
            now, new = time.monotonic(), step != self.step
            if new:
                self.step, self.began = step, now
            if new or not self.first[1]:  # the first part compiles
                self.first = (now, share)
            self.share, self.told = share, now
            if new:
                self._show()

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        with self.lock:
            self._write(f"\r\x1b[K{text}\n" if self.live else f"{text}\n")

    def text(self) -> str:
        """The step, its share, the seconds since it began and about how many are left; the note."""
        with self.lock:
            return f"{self._times()}; {self.note}" if self.note else self._times()

    def _times(self) -> str:
        now = time.monotonic()
        words = f"{self.step}: {self.share:.0%}, {now - self.began:.0f} s"
        since, done = self.told - self.first[0], self.share - self.first[1]
        if not done and self.share:  # one part is all that is known
            since, done = self.told - self.began, self.share
        if not done or self.share >= 1:
            return words
        left = max(0.0, since / done * (1 - self.share) - (now - self.told))
        return f"{words}, about {_clock(left)} left"

    def _run(self) -> None:
        while not self.over.wait(self.every):
            self._show()

    def _show(self) -> None:
        with self.lock:
            if self.step:
                self._write(f"\r\x1b[K{self.text()}" if self.live else f"{self.text()}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class Counted(Steps):
    """Steps of one kind that take long: also how many are done, how many a second, and a loss."""

    def __init__(self, step: str, total: int, unit: str, stream: TextIO | None = None):
        super().__init__(stream)
        self.every = self.every if self.live else LONG
        self.kind, self.total, self.unit = step, total, unit
        self.old, self.fresh, self.start = 0.0, 0.0, time.monotonic()

    def __enter__(self):
        """Itself."""
        super().__enter__()
        if self.total:
            self(self.kind, 0.0)
        return self

    def move(self, count: float, loss: float) -> None:
        """So many more are done (a loss that is not a number: they were by an earlier run)."""
        with self.lock:
            if math.isnan(loss):
                self.old += count
                return
            self.fresh += count
            rate = self.fresh / max(time.monotonic() - self.start, 1e-9)
            self.note = (
                f"{self.old + self.fresh:.1f} of {self.total} {self.unit}, "
                f"{rate:.3g} {self.unit}/s, loss {loss:.4g}"
            )
            self(self.kind, min(1.0, self.fresh / (self.total - self.old)))


def each(
    items: Iterable[Item], step: str, count: int | None = None, shown: Steps | None = None
) -> Iterator[Item]:
    """The items, showing how many are through; `count` is how many where that has no length.

    `shown` are steps of one's own, to say more of an item in their note.
    """
    count = len(items) if count is None and isinstance(items, Sized) else count
    with Steps() if shown is None else shown as told:
        for number, item in enumerate(items):
            told(step, number / count if count else 0.0)
            yield item


def board(
    folder: str,
    instead: str,
    say: Callable[[str], object] = print,
    *,
    first: int | None = None,
) -> Any:
    """A writer of scalars for TensorBoard; None, and a line that says so, without tensorboardX.

    What an earlier run wrote of step `first` and later ones is no longer shown.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        say(f"no scalars for TensorBoard: pip install tensorboardX ({instead})")
        return None
    module = importlib.import_module("tensorboardX")  # optional, and slow to import
    return module.SummaryWriter(folder, purge_step=first)


def _clock(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
