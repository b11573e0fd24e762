"""What training runs share: the loop, its stop signals, and the log of its progress."""

import collections
import contextlib
import csv
import dataclasses
import io
import signal
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
from etils import epath

from fxjax import files

AHEAD = 4  # steps that may wait in the device's queue

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """How often things are done."""

    report_every: Annotated[int, "steps between lines of progress, at most 100"] = 50
    sample_kimg: Annotated[float, "thousands of pictures between sample sheets"] = 5.0
    checkpoint_minutes: Annotated[float, "minutes between checkpoints"] = 5.0
    export_minutes: Annotated[float, "minutes between exports"] = 5.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What is done with a state, which has `images`, a count of pictures.

    `step` consumes the state and returns the next one and metrics, `images` and `broken` (pictures
    seen when a loss first was not finite, or -1) among them. `check` raises if it is broken.
    """

    step: Callable[[Any], tuple[Any, Metrics]]
    check: Callable[[int], None]
    draw: Callable[[Any], None]
    save: Callable[[Any], None]
    export: Callable[[Any], None]


def loop(
    job: Job, rhythm: Rhythm, state: Any, *, batch: int, total: float, log: "Log"
) -> tuple[Any, bool]:
    """Steps until `total` pictures or a stop signal, reporting, drawing and saving on the way.

    Returns the last state, which is not saved yet, and whether it was stopped.
    """
    seen = int(state.images)
    waiting: collections.deque[Metrics] = collections.deque()
    saved = exported = time.monotonic()
    with stop_signals() as stopped:
        while seen < total and not stopped:
            state, metrics = job.step(state)
            step, seen = seen // batch, seen + batch
            waiting.append(metrics)
            if len(waiting) > AHEAD:  # reading what is AHEAD steps old keeps the device busy
                oldest = jax.block_until_ready(waiting.popleft())
                if step % min(rhythm.report_every, 100) == 0:
                    job.check(int(oldest["broken"]))
                    log.write({name: float(value) for name, value in oldest.items()})
            interval = max(batch, int(rhythm.sample_kimg * 1000))
            if seen // interval > (seen - batch) // interval:
                job.draw(state)
            if time.monotonic() - saved > rhythm.checkpoint_minutes * 60:
                job.save(state)
                saved = time.monotonic()
            if time.monotonic() - exported > rhythm.export_minutes * 60:
                job.export(state)
                exported = time.monotonic()
        return state, bool(stopped)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: caught.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """Prints a line, from the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


class Log:
    """A line of progress at a time, also in metrics.csv. `shown` are the metrics in the line."""

    def __init__(self, out: epath.PathLike, total: float, first: int, shown: tuple[str, ...]):
        self.path = files.absolute(out) / "metrics.csv"
        self.rows: list[dict[str, float | str]] = []
        if self.path.exists():  # a run that was killed may have logged more than it had saved
            old = csv.DictReader(io.StringIO(self.path.read_text()))
            self.rows = [dict(row) for row in old if float(row["images"]) <= first]
        self.total, self.last, self.since = total, first, time.monotonic()
        self.shown = shown
        self.extra: dict[str, float] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Measures of now and then: they go into the rows from now on."""
        self.extra |= metrics

    def write(self, metrics: dict[str, float]) -> None:
        """Logs the metrics of one step; "images" in them counts the pictures."""
        if jax.process_index():
            return
        now, count = time.monotonic(), int(metrics["images"])
        speed = (count - self.last) / max(now - self.since, 1e-6)
        left = (self.total - count) / speed / 60 if speed > 0 else 0.0
        self.last, self.since = count, now
        row = metrics | self.extra | {"images_per_second": speed}
        parts = [f"{name} {row[name]:.3g}" for name in self.shown if name in row]
        print(
            f"kimg {count / 1000:.2f} of {self.total / 1000:g}  {speed:.1f} img/s  "
            f"{'  '.join(parts)}  left {int(left // 60)}h{int(left % 60):02d}",
            flush=True,
        )
        self.rows.append({name: f"{value:.6g}" for name, value in row.items()})
        self.rows[-1]["images"] = count
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write(self.path, text.getvalue().encode())
