"""What training runs share: the loop, its stop signals, exact checkpoints, the log of progress."""

import collections
import contextlib
import dataclasses
import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from fxjax import checkpoint, files, sharding, steps, tables

State = TypeVar("State")
Tree = TypeVar("Tree")

MAY_CHANGE = ("kimg",)  # settings that a run may be continued with: it can be made longer

AHEAD = 4  # steps that may wait in the device's queue
AGREE = 10  # steps after which processes agree whether to stop

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """How often things are done."""

    report_every: Annotated[int, "steps between lines of progress, at most 100"] = 50
    sample_kimg: Annotated[float, "thousands of pictures between sample sheets"] = 20.0
    checkpoint_minutes: Annotated[float, "minutes between checkpoints"] = 5.0
    export_minutes: Annotated[float, "minutes between exports"] = 5.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained, and what is done with its state.

    A state has `images`, the count of what was seen, and `broken`, that count when a loss first was
    not finite, or -1. `step` takes a state and its count, consumes it, and returns the next one and
    metrics, `broken` among them. `draw`, which returns measures that are logged from then on, and
    `export` run in the first process alone, on a state of its own.
    """

    out: str
    settings: Any  # a dataclass with `batch`; only with equal ones does a run go on
    total: float  # of `images`
    step: Callable[[Any, int], tuple[Any, Metrics]]
    draw: Callable[[Any], dict[str, float | int]]
    export: Callable[[Any], None]
    shown: Mapping[str, str]  # the metrics in a line of progress, each with its format
    unit: str = "images"
    cure: str = "try a lower --rate"  # of losses that are not finite

    def check(self, broken: int) -> None:
        """ValueError if a state or metrics of this `broken` are."""
        if broken >= 0:
            raise ValueError(
                f"a loss is not finite from step {broken // self.settings.batch} "
                f"({self.unit[:-1]} {broken}); {checkpoints(self.out)} keeps the last good state; "
                f"{self.cure}"
            )


def checkpoints(out: str) -> str:
    """The folder of a run's checkpoints."""
    return f"{out}/checkpoints"


def begin(
    out: str, settings: Any, fresh: Callable[[], State], start: Callable[[], State], mesh: Mesh
) -> State:
    """The newest checkpoint in `out`, of a state like `fresh()`; `start()` if none is there.

    It is on every device. Raises ValueError if the checkpoint is of other settings, or damaged.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = restore_checkpoint(checkpoints(out), settings, jax.eval_shape(fresh), everywhere)
    return sharding.replicate(start(), mesh) if state is None else state


def loop(job: Job, rhythm: Rhythm, state: Any) -> Any:
    """Steps until the end or a stop signal, reporting, drawing and saving on the way and then.

    Returns the last state. Raises ValueError if a loss is not finite; KeyboardInterrupt when it
    was stopped by SIGTERM or Ctrl-C, after saving.
    """
    seen, batch = int(state.images), job.settings.batch
    log = Log(job, seen)
    waiting: collections.deque[tuple[int, Metrics]] = collections.deque()

    def report(most: int) -> None:
        """Reads metrics until at most `most` steps are waiting."""
        while len(waiting) > most:
            count, metrics = waiting.popleft()
            jax.block_until_ready(metrics)
            if count // batch % min(rhythm.report_every, 100) == 0:
                job.check(int(metrics["broken"]))
                log.write(count, {name: float(value) for name, value in metrics.items()})

    def save() -> None:
        job.check(int(state.broken))
        if jax.process_index() == 0:
            save_checkpoint(checkpoints(job.out), job.settings, state)

    def export() -> None:
        job.check(int(state.broken))
        if jax.process_index() == 0:
            job.export(sharding.own(state))

    interval = max(batch, int(rhythm.sample_kimg * 1000))
    saved = exported = time.monotonic()
    with stop_signals() as stopped:
        while seen < job.total and not _any(stopped, seen // batch):
            state, metrics = job.step(state, seen)
            seen += batch
            waiting.append((seen, metrics))
            report(AHEAD)  # reading what is AHEAD steps old keeps the device busy
            if seen // interval > (seen - batch) // interval:
                job.check(int(state.broken))
                if jax.process_index() == 0:
                    log.extra |= job.draw(sharding.own(state))
            if time.monotonic() - saved > rhythm.checkpoint_minutes * 60:
                save()
                saved = time.monotonic()
            if time.monotonic() - exported > rhythm.export_minutes * 60:
                export()
                exported = time.monotonic()
        report(0)
    save()
    export()
    if seen < job.total:
        say(f"stopped after {seen} {job.unit}; the same command goes on from there")
        raise KeyboardInterrupt
    say(f"finished after {seen} {job.unit}")
    return state


def _any(stopped: list[int], step: int) -> bool:
    """Whether any process got a stop signal; all of them must ask at the same step."""
    if jax.process_count() == 1:
        return bool(stopped)
    return step % AGREE == 0 and bool(np.any(multihost_utils.process_allgather(len(stopped))))


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
    """A line of progress at a time, also in metrics.csv and, if tensorboardX is there, for it."""

    def __init__(self, job: Job, first: int):
        self.path = files.absolute(job.out) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():  # a run that was killed may have logged more than it had saved
            old = tables.read(self.path)
            self.rows = [dict(row) for row in old if row.float(job.unit) <= first]
        self.job, self.last, self.since = job, first, time.monotonic()
        self.extra: dict[
            str, float | int
        ] = {}  # what `Job.draw` measured last, repeated in all rows until it is measured again
        self.board = None
        if jax.process_index():
            return
        folder = f"{job.out}/tensorboard"
        self.board = steps.board(folder, "metrics.csv has them too", say, first=first)

    def write(self, count: int, metrics: dict[str, float | int]) -> None:
        """Logs the metrics of the step after which `count` were seen."""
        if jax.process_index():
            return
        job, now, unit = self.job, time.monotonic(), self.job.unit
        speed = (count - self.last) / max(now - self.since, 1e-6)
        left = max(0.0, (job.total - count) / speed / 60)
        self.last, self.since = count, now
        row = metrics | self.extra | {unit: count, f"{unit}_per_second": speed}
        short = unit.replace("images", "img")
        shown = [form.format(row[name]) for name, form in job.shown.items() if name in row]
        say(
            f"k{short} {count / 1000:.2f} of {job.total / 1000:g}  {speed:.1f} {short}/s  "
            f"{'  '.join(shown)}  left {int(left // 60)}h{int(left % 60):02d}"
        )
        self.rows.append({name: f"{value:.6g}" for name, value in row.items()} | {unit: count})
        files.write_table(self.path, self.rows)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, count)
            self.board.flush()


class Arrays(nnx.Module):
    """The leaves of any tree under their paths' names, as `checkpoint` stores them."""

    def __init__(self, tree: Any):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            setattr(self, jax.tree_util.keystr(path), nnx.Variable(leaf))


def save_checkpoint(folder: epath.PathLike, settings: Any, state: Any) -> epath.Path:
    """Adds a checkpoint, named by the images seen, all or nothing; keeps the one before it too.

    Of any state that counts its `images`, and any dataclass of settings that JSON can hold.
    """
    images = int(state.images)
    target = files.absolute(folder) / f"{images:010d}"
    checkpoint.save_model(
        target,
        "training",
        {"state": (dataclasses.asdict(settings), checkpoint.flatten(Arrays(state)))},
        {"images": images},
        overwrite=True,
    )
    for old in _whole(folder)[:-2]:
        old.rmtree()
    return target


def restore_checkpoint(
    folder: epath.PathLike,
    settings: Any,
    state: Tree,
    sharding: Sharding,
) -> Tree | None:
    """The newest checkpoint as a state like `state` (which may be abstract); None if none is there.

    Of a damaged one a warning says so, and the one before it is taken. Raises ValueError if it is
    of other settings, or if all are damaged.
    """
    found = _whole(folder)
    for newest in reversed(found):
        try:
            saved = checkpoint.read_card(newest)
            _check_settings(newest, saved, settings)
            arrays = checkpoint.restore(newest, "state", lambda _: Arrays(state), sharding=sharding)
        except checkpoint.Damaged as error:
            if newest == found[0]:
                raise
            warnings.warn(f"{error}; going on from the checkpoint before it", stacklevel=2)
            continue
        flat = checkpoint.flatten(arrays)
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        return tree.unflatten([flat[jax.tree_util.keystr(path)] for path, _ in paths])
    return None


def _check_settings(newest: epath.Path, card: Mapping[str, Any], settings: Any) -> None:
    saved = card["parts"].get("state", {}).get("architecture", {})
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))  # as saved: tuples are lists
    differ = [
        f"{name} {saved.get(name)} instead of {wanted.get(name)}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name) and name not in MAY_CHANGE
    ]
    if differ:
        raise ValueError(
            f"{newest} was trained with {', '.join(differ)}; give the same or another --out"
        )


def _whole(folder: epath.PathLike) -> list[epath.Path]:
    """Complete checkpoints, oldest first."""
    source = files.absolute(folder)
    if not source.exists():
        return []
    found = [path for path in source.iterdir() if path.name.isdigit()]
    return sorted(path for path in found if (path / checkpoint.CARD).exists())
