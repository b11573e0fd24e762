"""The training run behind `experiments.train_generator`: presets, the loop, and its log."""

import collections
import contextlib
import csv
import dataclasses
import functools
import importlib
import importlib.util
import io
import signal
import time
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from fxjax import data, files, images, sharding, snapshot, train, train_state
from fxjax.nn import generator as generators
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.types import Images

PRESETS = {
    "faces128": train_state.Settings(),
    "faces64": train_state.Settings(
        resolution=64, width_base=2048, width_most=128, dim=256, dtype="float32", batch=16,
        kimg=400.0, r1=0.2, path=0.0,
    ),
    "smoke": train_state.Settings(
        resolution=16, width_base=128, width_most=16, dim=16, dtype="float32", batch=8, kimg=0.4,
        r1_every=4, path_every=4, path_kimg=0.2,
    ),
}  # fmt: skip

AHEAD = 4  # steps that may wait in the device's queue
GRID = 32  # pictures in a sample grid, each at psi 1 and at psi 0.7


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the data is, where results go, and how often."""

    data: Annotated[str, "folder or zip of pictures"]
    out: Annotated[str, "folder for checkpoints, exports, sample grids and metrics"]
    weights_csv: Annotated[
        str | None, "table of the pictures: filename and training_weight, or kind and source_id"
    ] = None
    start_from: Annotated[str | None, "exported generator to go on from, with fresh moments"] = None
    start_discriminator: Annotated[
        str | None, "its discriminator.npz (default: ../training/discriminator.npz beside it)"
    ] = None
    report_every: Annotated[int, "steps between lines of progress, at most 100"] = 50
    sample_kimg: Annotated[float, "thousands of pictures between sample grids"] = 5.0
    checkpoint_minutes: Annotated[float, "minutes between checkpoints"] = 5.0
    export_minutes: Annotated[float, "minutes between exports"] = 3.0
    profile_dir: Annotated[str | None, "write a profile of steps 20 to 30 for TensorBoard"] = None


def run(options: Run, settings: train_state.Settings) -> None:
    """Trains until all images are shown, or until SIGTERM or Ctrl-C, and saves.

    Raises ValueError for bad data or settings, or if a loss is not finite; KeyboardInterrupt when
    it was stopped, after saving.
    """
    mesh = sharding.mesh()
    everywhere = NamedSharding(mesh, PartitionSpec())
    pictures = sharding.replicate(_data(options, settings), mesh)
    wanted = jax.eval_shape(lambda: train_state.fresh(settings))
    state = snapshot.restore(_checkpoints(options), settings, wanted, everywhere)
    if state is None:
        state = sharding.replicate(_start(options, settings), mesh)
    began, first = time.monotonic(), int(state.images)
    programs = train.compiled(settings, mesh, state, pictures)
    _say(
        f"compiled in {time.monotonic() - began:.0f} s for {mesh.size} x "
        f"{jax.devices()[0].device_kind}; {len(pictures.weights)} pictures; from image {first}"
    )
    log = Log(options, settings, first)
    with _stop_signals() as stopped:
        state = _loop(options, settings, programs, state, pictures, log, stopped)
    _save(options, settings, state)
    _export(options, settings, state)
    if stopped:
        _say(f"stopped after {int(state.images)} images; the same command goes on from there")
        raise KeyboardInterrupt
    _say(f"finished after {int(state.images)} images")


def _data(options: Run, settings: train_state.Settings) -> train_state.Data:
    """The pictures that may be trained on. ValueError if they are fewer than a batch."""
    pictures, names = data.read_pictures(options.data, settings.resolution)
    weights = np.ones(len(names), np.float32)
    if options.weights_csv:
        weights = data.read_weights(options.weights_csv, names)
    kept = weights > 0
    if kept.sum() < settings.batch:
        raise ValueError(
            f"{options.data} has {kept.sum()} pictures to train on ({len(names) - kept.sum()} are "
            f"held back), fewer than the batch of {settings.batch}; lower --batch"
        )
    return train_state.Data(pictures[kept], weights[kept])  # pyright: ignore[reportArgumentType]


def _start(options: Run, settings: train_state.Settings) -> train_state.TrainState:
    """New networks, or those of an export."""
    if options.start_from is None:
        return train_state.fresh(settings)
    beside = epath.Path(options.start_from).parent / "training" / "discriminator.npz"
    return snapshot.start_from(options.start_from, options.start_discriminator or beside, settings)


def _loop(
    options: Run,
    settings: train_state.Settings,
    programs: train.Programs,
    state: train_state.TrainState,
    pictures: train_state.Data,
    log: "Log",
    stopped: list[int],
) -> train_state.TrainState:
    """Steps until the end or a signal, saving and reporting on the way."""
    batch, total = settings.batch, settings.kimg * 1000
    first = seen = int(state.images)
    waiting: collections.deque[train.Metrics] = collections.deque()
    extra: train.Metrics = {}
    saved = exported = time.monotonic()
    while seen < total and not stopped:
        _profile(options, (seen - first) // batch, state)
        step, seen = seen // batch, seen + batch
        state, metrics = programs.step(state, pictures)
        if settings.r1 and step % settings.r1_every == 0:
            state, more = programs.regularize_discriminator(state, pictures)
            extra = extra | more
        due = step % settings.path_every == 0 and seen > settings.path_kimg * 1000
        if programs.regularize_generator is not None and due:
            state, more = programs.regularize_generator(state, pictures)
            extra = extra | more
        waiting.append(metrics | extra)
        if len(waiting) > AHEAD:  # reading what is AHEAD steps old keeps the device busy
            oldest = jax.block_until_ready(waiting.popleft())
            if step % min(options.report_every, 100) == 0:
                _check(options, settings, int(oldest["broken"]))
                log.write({name: float(value) for name, value in oldest.items()})
        interval = max(batch, int(options.sample_kimg * 1000))
        if seen // interval > (seen - batch) // interval:
            _draw(options, settings, state)
        now = time.monotonic()
        if now - saved > options.checkpoint_minutes * 60:
            _save(options, settings, state)
            saved = time.monotonic()
        if now - exported > options.export_minutes * 60:
            _export(options, settings, state)
            exported = time.monotonic()
    return state


def _check(options: Run, settings: train_state.Settings, broken: int) -> None:
    if broken >= 0:
        raise ValueError(
            f"a loss is not finite from step {broken // settings.batch} (image {broken}); "
            f"{_checkpoints(options)} keeps the last good state; try a lower --rate or another --r1"
        )


def _checkpoints(options: Run) -> str:
    return f"{options.out}/checkpoints"


def _save(options: Run, settings: train_state.Settings, state: train_state.TrainState) -> None:
    """Writes a checkpoint, never one of a broken state."""
    _check(options, settings, int(state.broken))
    if jax.process_index() == 0:
        snapshot.save(_checkpoints(options), settings, state)


def _export(options: Run, settings: train_state.Settings, state: train_state.TrainState) -> None:
    _check(options, settings, int(state.broken))
    if jax.process_index() == 0:
        info = {"data": epath.Path(options.data).name, "settings": dataclasses.asdict(settings)}
        snapshot.export(options.out, settings, state, info)


def _draw(options: Run, settings: train_state.Settings, state: train_state.TrainState) -> None:
    """Saves a grid of the average generator's pictures: fixed z at psi 1, below at psi 0.7."""
    _check(options, settings, int(state.broken))
    if jax.process_index() == 0:
        made = images.to_uint8(np.asarray(_sample(state.average)))
        path = f"{options.out}/samples/{int(state.images):08d}.png"
        images.save_image(path, images.contact_sheet(made, columns=8, gap=2))


@functools.partial(jax.jit)
def _sample(generator: StyleGAN2) -> Images:
    z = jax.random.normal(jax.random.key(1), (GRID, generator.latent))
    w = generator.mapping(z)
    mean, _ = train.code_statistics(generator, 4096)
    both = jnp.concatenate([w, mean + (w - mean) * 0.7])
    wide = jnp.repeat(both[:, None], len(generator.rows), axis=1)
    return generators.synthesize(generator, wide)


def _profile(options: Run, step: int, state: train_state.TrainState) -> None:
    if options.profile_dir and step in (20, 30):
        jax.block_until_ready(state)
        jax.profiler.start_trace(options.profile_dir) if step == 20 else jax.profiler.stop_trace()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
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


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


class Log:
    """A line of progress at a time, also in metrics.csv and, if tensorboardX is there, for it."""

    def __init__(self, options: Run, settings: train_state.Settings, first: int):
        self.path = files.absolute(options.out) / "metrics.csv"
        self.rows: list[dict[str, float | str]] = []
        if self.path.exists():  # a run that was killed may have logged more than it had saved
            old = csv.DictReader(io.StringIO(self.path.read_text()))
            self.rows = [dict(row) for row in old if float(row["images"]) <= first]
        self.total, self.last, self.since = settings.kimg * 1000, first, time.monotonic()
        self.board = None
        if jax.process_index():
            return
        if importlib.util.find_spec("tensorboardX") is None:
            _say("no tensorboardX here: scalars go to metrics.csv alone")
        else:
            writer = importlib.import_module("tensorboardX").SummaryWriter  # slow to import
            self.board = writer(f"{options.out}/tensorboard", purge_step=first)

    def write(self, metrics: dict[str, float]) -> None:
        """Logs the metrics of one step; "images" in them counts the pictures."""
        if jax.process_index():
            return
        now, count = time.monotonic(), int(metrics["images"])
        speed = (count - self.last) / max(now - self.since, 1e-6)
        left = (self.total - count) / speed / 60 if speed > 0 else float("inf")
        self.last, self.since = count, now
        row = metrics | {"images_per_second": speed}
        print(
            f"kimg {count / 1000:.2f} of {self.total / 1000:g}  {speed:.1f} img/s  "
            f"G {row['loss_generator']:.3f}  D {row['loss_discriminator']:.3f}  "
            f"real {row['score_real']:+.2f}  fake {row['score_fake']:+.2f}  "
            f"r1 {row.get('r1', float('nan')):.3g}  augment {row['strength']:.3f}  "
            f"left {int(left // 60)}h{int(left % 60):02d}"
            if left < 1e6
            else "starting",
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
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, count)
            self.board.flush()
