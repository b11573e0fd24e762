"""The run behind `experiments.train_features`: faces with labels, presets, and the export."""

import dataclasses
import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import checkpoint, files, images, sharding, tables
from fxjax.nn.vgg16 import VGG16
from fxjax.training import data, face_features, loop
from fxjax.training.face_features import FeatureSettings, RatedFaces, TrainState
from fxjax.types import Images

PRESETS = {
    "faces": FeatureSettings(),
    "smoke": FeatureSettings(widths=(4, 4, 8, 8), size=16, batch=8, kviews=0.16, embedding=8),
}
SCALING = 128  # pictures whose mean squares the features are scaled by
JUDGED = 256  # held-back pictures on which the tasks are measured, at most
TRUSTED = 4.0  # pixels of 256 by which two landmarkers may differ
LABELS = frozenset(
    "filename source_path source_id kind attribute level training_weight held_back".split()
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the data is, where results go, and how often."""

    data: Annotated[str, "folder or zip of pictures, twice as large as the views"]
    table: Annotated[str, "CSV: filename, kind, source_id, and a column for each rating"]
    landmarks: Annotated[str, "npz: filename, landmarks (256 px coordinates), check_px"]
    out: Annotated[str, "folder for checkpoints, the model and metrics.csv"]
    report_every: Annotated[int, "steps between lines of progress, at most 100"] = 50
    save_minutes: Annotated[float, "minutes between checkpoints"] = 3.0


@dataclasses.dataclass(frozen=True)
class Kept(FeatureSettings):
    """The settings that a checkpoint must have: there are as many ratings as in the table."""

    ratings: int = 0


def run(options: Run, settings: FeatureSettings) -> None:
    """Trains until all views are shown or until SIGTERM or Ctrl-C, saves, exports the features.

    Raises ValueError for bad data or settings, or if the loss is not finite; KeyboardInterrupt
    when it was stopped, after saving.
    """
    if settings.batch % 2 or settings.size % (1 << len(settings.widths)):
        raise ValueError(
            f"--batch={settings.batch} must be even and --size={settings.size} a multiple of "
            f"{1 << len(settings.widths)}, which {len(settings.widths)} blocks halve it by"
        )
    faces, held_back = read_faces(options.data, options.table, options.landmarks, settings)
    ratings = faces.ratings.shape[1]
    kept = Kept(**dataclasses.asdict(settings), ratings=ratings)
    fresh = functools.partial(face_features.fresh, settings, ratings)
    mesh = sharding.mesh(jax.devices()[:1])
    state = loop.begin(options.out, kept, fresh, fresh, mesh)
    loop.say(f"{len(faces.weights)} pictures; from view {int(state.images)}")
    job = loop.Job(
        out=options.out,
        settings=kept,
        total=settings.kviews * 1000,
        step=lambda state, _: face_features.train_step(settings, state, faces),
        draw=lambda _: {},
        export=lambda state: export(options, settings, state, faces, held_back),
        shown={name: f"{name} {{:.3f}}" for name in ("landmarks", "ratings", "person")},
        unit="views",
    )
    rhythm = loop.Rhythm(
        options.report_every, checkpoint_minutes=options.save_minutes, export_minutes=math.inf
    )
    loop.loop(job, rhythm, state)


def export(
    options: Run,
    settings: FeatureSettings,
    state: TrainState,
    faces: RatedFaces,
    held_back: RatedFaces,
) -> None:
    """Writes the folded, scaled features without the last block, and how well they learned."""
    measured = judge(settings, state, faces, held_back)
    loop.say("  ".join(f"{name} {value:.4g}" for name, value in measured.items()))
    info = {
        "views": int(state.images),
        "data": epath.Path(options.data).name,
        "settings": dataclasses.asdict(settings),
        "held_back": measured,
    }
    trunk = face_features.cut(face_features.folded(state.network), len(settings.widths) - 1)
    write_features(f"{options.out}/export", trunk, _whole(faces, SCALING), info)


def write_features(out: epath.PathLike, trunk: VGG16, pictures: Images, info: dict) -> None:
    """Writes a model folder of features that are scaled to unit mean square, in float16."""
    trunk, squares = face_features.unit_squares(trunk, pictures)
    flat = checkpoint.halved(trunk)
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
    settings: FeatureSettings, state: TrainState, faces: RatedFaces, held_back: RatedFaces
) -> dict[str, float | int]:
    """The tasks on whole held-back pictures, with the folded trunk.

    `landmark_error` is relative to the distance between the eyes' outer corners,
    `rating_correlation` the mean over the ratings.
    """
    trunk, heads = face_features.folded(state.network), state.network.heads
    last = trunk.names[-1]
    predict = jax.jit(lambda trunk, heads, views: heads(trunk(views, (last,))[last]))
    count = min(JUDGED, len(held_back.weights))
    views = _whole(held_back, count)
    parts = [predict(trunk, heads, views[k : k + 1]) for k in range(count)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    face = np.asarray(face_features.mean_face(faces)) * settings.size
    guessed = found["landmarks"].reshape(count, 68, 2) * face_features.SPREAD * settings.size
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


def _whole(faces: RatedFaces, count: int) -> Images:
    """The first unchanged pictures at the size of the views."""
    pictures = images.from_uint8(faces.pictures[:count])
    return face_features.losses.shrink(pictures, faces.pictures.shape[1] // 2)


def read_faces(
    path: epath.PathLike,
    table: epath.PathLike,
    landmark_file: epath.PathLike,
    settings: FeatureSettings,
) -> tuple[RatedFaces, RatedFaces]:
    """The faces to train on, and those held back. ValueError if labels are missing."""
    pictures, names = data.read_pictures(path, 2 * settings.size)
    weights = data.read_weights(table, names)
    rows = {row["filename"]: row for row in data.read_table(table)}
    source = files.absolute(landmark_file)
    if not source.exists():
        raise FileNotFoundError(f"no landmark file at {source}")
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            places = {name: k for k, name in enumerate(arrays["filename"].tolist())}
            landmarks, check = arrays["landmarks"], arrays["check_px"]
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{source} lacks filename, landmarks or check_px: {error}") from None
    if missing := [name for name in names if name not in places]:
        raise ValueError(f"{source} lacks {len(missing)} pictures, the first is {missing[0]}")
    chosen = [places[name] for name in names]
    ratings, rated = _ratings([rows[name] for name in names], weights > 0)
    people = {rows[name]["kind"] + rows[name]["source_id"] for name in names}
    number = {person: k for k, person in enumerate(sorted(people))}
    side = 2 * settings.size
    columns = {
        "pictures": pictures,
        "weights": weights,
        "people": np.asarray(
            [number[rows[name]["kind"] + rows[name]["source_id"]] for name in names], np.int32
        ),
        # pixel centres at whole numbers, so the middle of 256 pixels is at 127.5
        "landmarks": ((landmarks[chosen] - 127.5) * (side / 256)).astype(np.float32),
        "located": check[chosen] <= TRUSTED,
        "ratings": ratings,
        "rated": rated,
    }

    def part(kept: np.ndarray, least: int, what: str) -> RatedFaces:
        if kept.sum() < least:
            raise ValueError(f"{path} has {kept.sum()} pictures {what}; want {least}")
        return RatedFaces(**{name: jnp.asarray(column[kept]) for name, column in columns.items()})

    return part(weights > 0, settings.batch, "to train on"), part(weights == 0, 1, "held back")


def _ratings(
    rows: list[tables.Row], trained: np.ndarray
) -> tuple[Float[np.ndarray, "count ratings"], np.ndarray]:
    """Standardised ratings (0 where there is none), and which pictures have them."""
    columns = [name for name in rows[0] if name not in LABELS]
    rated = np.asarray([bool(columns) and all(row[name] for name in columns) for row in rows])
    if not (rated & trained).any():
        print("the table has no ratings: only landmarks and people are learned", flush=True)
        return np.zeros((len(rows), 1), np.float32), np.zeros(len(rows), bool)
    values = np.zeros((len(rows), len(columns)), np.float32)
    values[rated] = [
        [row.float(name) for name in columns]
        for row, known in zip(rows, rated, strict=True)
        if known
    ]
    known = values[rated & trained]
    scaled = (values - known.mean(0)) / np.maximum(known.std(0), 1e-3)
    return np.where(rated[:, None], scaled, 0).astype(np.float32), rated
