"""The run behind `experiments.train_features`: labelled data, presets, the loop, the export."""

import csv
import dataclasses
import io
import signal
import time
from typing import Annotated, Any

import jax
import numpy as np
from etils import epath

from experiments import labelled_faces
from fxjax import checkpoint, files, images, snapshot, train_features
from fxjax.nn.vgg16 import VGG16
from fxjax.train_features import Faces, Settings, TrainState
from fxjax.types import Images

PRESETS = {
    "faces": Settings(),
    "smoke": Settings(widths=(4, 4, 8, 8), size=16, batch=8, kviews=0.16, embedding=8),
}
SCALING = 128  # pictures whose mean squares the features are scaled by
JUDGED = 256  # held-back pictures on which the tasks are measured, at most


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the data is, where results go, and how often."""

    data: Annotated[str, "folder or zip of pictures, twice as large as the views"]
    table: Annotated[str, "CSV: filename, kind, source_id, and a column for each rating"]
    landmarks: Annotated[str, "npz: filename, landmarks (256 px coordinates), check_px"]
    out: Annotated[str, "folder for the checkpoint, the model and metrics.csv"]
    report_every: Annotated[int, "steps between lines of progress"] = 50
    save_minutes: Annotated[float, "minutes between checkpoints"] = 3.0


def run(options: Run, settings: Settings) -> None:
    """Trains until all views are shown or until SIGTERM or Ctrl-C, saves, exports the features.

    Raises ValueError for bad data or settings, or if the loss is not finite; KeyboardInterrupt
    when it was stopped, after saving.
    """
    if settings.batch % 2 or settings.size % (1 << len(settings.widths)):
        raise ValueError(
            f"--batch={settings.batch} must be even and --size={settings.size} a multiple of "
            f"{1 << len(settings.widths)}, which {len(settings.widths)} blocks halve it by"
        )
    faces, held_back = labelled_faces.read(options.data, options.table, options.landmarks, settings)
    ratings = faces.ratings.shape[1]
    state = restore(options.out, settings, ratings)
    if state is None:
        state = train_features.fresh(settings, ratings)
    print(f"{len(faces.weights)} pictures; from view {int(state.views)}", flush=True)
    stopped: list[int] = []
    signals = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(number, lambda number, _: stopped.append(number)) for number in signals]
    try:
        state = _loop(options, settings, state, faces, stopped)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    save(options.out, settings, state)
    export(options, settings, state, faces, held_back)
    if stopped:
        print(f"stopped after {int(state.views)} views; the same command goes on from there")
        raise KeyboardInterrupt
    print(f"finished after {int(state.views)} views")


def _loop(
    options: Run, settings: Settings, state: TrainState, faces: Faces, stopped: list[int]
) -> TrainState:
    total, log = settings.kviews * 1000, Log(options.out, int(state.views))
    seen, waiting = int(state.views), []
    saved = since = time.monotonic()
    last = seen
    while seen < total and not stopped:
        state, metrics = train_features.train_step(settings, state, faces)
        waiting.append(metrics)
        seen += settings.batch
        if seen // settings.batch % options.report_every:
            continue
        row = {name: float(np.mean([m[name] for m in waiting])) for name in metrics}
        row |= {"views": seen, "broken": float(metrics["broken"])}
        waiting.clear()
        now = time.monotonic()
        speed, last, since = (seen - last) / (now - since), seen, now
        _check(settings, int(row.pop("broken")))
        log.write(row | {"views_per_second": speed}, total)
        if now - saved > options.save_minutes * 60:
            save(options.out, settings, state)
            saved = now
    return state


def _check(settings: Settings, broken: int) -> None:
    if broken >= 0:
        raise ValueError(
            f"the loss is not finite from step {broken // settings.batch}; the checkpoint keeps "
            "the last good state; try a lower --rate"
        )


def save(out: epath.PathLike, settings: Settings, state: TrainState) -> None:
    """Replaces the checkpoint, never by a broken state."""
    _check(settings, int(state.broken))
    flat = checkpoint.flatten(snapshot.Arrays(state))
    ratings = {"ratings": state.network.heads.ratings.bias.shape[0]}
    checkpoint.save_model(
        files.absolute(out) / "checkpoint",
        "feature training",
        {"state": (dataclasses.asdict(settings) | ratings, flat)},
        {"views": int(state.views)},
        overwrite=True,
    )


def restore(out: epath.PathLike, settings: Settings, ratings: int) -> TrainState | None:
    """The state that was saved, or None. ValueError if it is of other settings, or damaged."""
    folder = files.absolute(out) / "checkpoint"
    if not folder.exists():
        return None
    saved = checkpoint.read_card(folder)["parts"].get("state", {}).get("architecture", {})
    wanted: dict[str, Any] = dataclasses.asdict(settings) | {"ratings": ratings}
    wanted["widths"] = list(wanted["widths"])
    differ = [
        f"{name} {saved.get(name)} instead of {wanted.get(name)}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differ:
        raise ValueError(f"{folder} has {', '.join(differ)}; give the same or another --out")
    state = jax.eval_shape(lambda: train_features.fresh(settings, ratings))
    arrays = checkpoint.restore(folder, "state", lambda _: snapshot.Arrays(state))
    flat = checkpoint.flatten(arrays)
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    return tree.unflatten([flat[jax.tree_util.keystr(path)] for path, _ in paths])


def export(
    options: Run, settings: Settings, state: TrainState, faces: Faces, held_back: Faces
) -> None:
    """Writes the folded, scaled features without the last block, and how well they learned."""
    measured = judge(settings, state, faces, held_back)
    print("  ".join(f"{name} {value:.4g}" for name, value in measured.items()), flush=True)
    info = {
        "views": int(state.views),
        "data": epath.Path(options.data).name,
        "settings": dataclasses.asdict(settings),
        "held_back": measured,
    }
    trunk = train_features.cut(train_features.folded(state.network), len(settings.widths) - 1)
    write_features(f"{options.out}/export", trunk, _whole(faces, SCALING), info)


def write_features(out: epath.PathLike, trunk: VGG16, pictures: Images, info: dict) -> None:
    """Writes a model folder of features that are scaled to unit mean square, in float16."""
    trunk, squares = train_features.unit_squares(trunk, pictures)
    flat = {
        name: np.asarray(array).astype(np.float16)
        for name, array in checkpoint.flatten(trunk).items()
    }
    info = info | {"mean_square_before_scaling": squares}
    checkpoint.save_model(
        out, "vgg16", {"features": (architecture(trunk), flat)}, info, overwrite=True
    )


def architecture(trunk: VGG16) -> dict[str, Any]:
    """What makes such a network: constructor arguments that JSON can hold."""
    return {
        "widths": [block[0].kernel.shape[-1] for block in trunk.blocks],
        "mean": trunk.mean,
        "deviation": trunk.deviation,
        "bgr": trunk.bgr,
    }


def judge(
    settings: Settings, state: TrainState, faces: Faces, held_back: Faces
) -> dict[str, float]:
    """The tasks on whole held-back pictures, with the folded trunk.

    `landmark_error` is relative to the distance between the eyes' outer corners,
    `rating_correlation` the mean over the ratings.
    """
    trunk, heads = train_features.folded(state.network), state.network.heads
    last = trunk.names[-1]
    predict = jax.jit(lambda trunk, heads, views: heads(trunk(views, (last,))[last]))
    count = min(JUDGED, len(held_back.weights))
    views = _whole(held_back, count)
    parts = [predict(trunk, heads, views[k : k + 1]) for k in range(count)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    face = np.asarray(train_features.mean_face(faces)) * settings.size
    guessed = found["landmarks"].reshape(count, 68, 2) * train_features.SPREAD * settings.size
    wanted = np.asarray(held_back.landmarks[:count])
    eyes = np.linalg.norm(wanted[:, 36] - wanted[:, 45], axis=1)
    errors = np.linalg.norm(guessed + face - wanted, axis=2).mean(1) / eyes
    known = np.asarray(held_back.located[:count])
    rated = np.asarray(held_back.rated[:count])
    measured = {"landmark_error": float(errors[known].mean())} if known.any() else {}
    if rated.sum() > 2:
        guesses, truth = found["ratings"][rated], np.asarray(held_back.ratings[:count])[rated]
        each = [np.corrcoef(a, b)[0, 1] for a, b in zip(guesses.T, truth.T, strict=True)]
        measured["rating_correlation"] = float(np.mean(each))
    return measured


def _whole(faces: Faces, count: int) -> Images:
    """The first unchanged pictures at the size of the views."""
    pictures = images.from_uint8(faces.pictures[:count])
    return train_features.losses.shrink(pictures, faces.pictures.shape[1] // 2)


class Log:
    """A line of progress at a time, also in metrics.csv."""

    def __init__(self, out: epath.PathLike, first: int):
        self.path = files.absolute(out) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():  # a run that was killed may have logged more than it had saved
            old = csv.DictReader(io.StringIO(self.path.read_text()))
            self.rows = [dict(row) for row in old if float(row["views"]) <= first]

    def write(self, row: dict[str, float], total: float) -> None:
        """Logs one step; "views" in it counts the views."""
        left = (total - row["views"]) / row["views_per_second"] / 60
        parts = "  ".join(f"{name} {row[name]:.3f}" for name in ("landmarks", "ratings", "person"))
        print(
            f"kviews {row['views'] / 1000:.2f} of {total / 1000:g}  "
            f"{row['views_per_second']:.1f} views/s  {parts}  left {left:.0f} min",
            flush=True,
        )
        self.rows.append({name: f"{value:.6g}" for name, value in row.items()})
        self.rows[-1]["views"] = int(row["views"])
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write(self.path, text.getvalue().encode())
