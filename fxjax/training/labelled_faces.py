"""Faces with landmarks, ratings and names of people, for `experiments.train_features`."""

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files
from fxjax.training import data
from fxjax.training.face_features import Faces, Settings

TRUSTED = 4.0  # pixels of 256 by which two landmarkers may differ
LABELS = frozenset(
    "filename source_path source_id kind attribute level training_weight held_back".split()
)


def read(
    path: epath.PathLike, table: epath.PathLike, landmark_file: epath.PathLike, settings: Settings
) -> tuple[Faces, Faces]:
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

    def part(kept: np.ndarray, least: int, what: str) -> Faces:
        if kept.sum() < least:
            raise ValueError(f"{path} has {kept.sum()} pictures {what}; want {least}")
        return Faces(**{name: jnp.asarray(column[kept]) for name, column in columns.items()})

    return part(weights > 0, settings.batch, "to train on"), part(weights == 0, 1, "held back")


def _ratings(
    rows: list[dict[str, str]], trained: np.ndarray
) -> tuple[Float[np.ndarray, "count ratings"], np.ndarray]:
    """Standardised ratings (0 where there is none), and which pictures have them."""
    columns = [name for name in rows[0] if name not in LABELS]
    rated = np.asarray([bool(columns) and all(row[name] for name in columns) for row in rows])
    if not (rated & trained).any():
        print("the table has no ratings: only landmarks and people are learned", flush=True)
        return np.zeros((len(rows), 1), np.float32), np.zeros(len(rows), bool)
    values = np.zeros((len(rows), len(columns)), np.float32)
    values[rated] = [
        [float(row[name]) for name in columns]
        for row, known in zip(rows, rated, strict=True)
        if known
    ]
    known = values[rated & trained]
    scaled = (values - known.mean(0)) / np.maximum(known.std(0), 1e-3)
    return np.where(rated[:, None], scaled, 0).astype(np.float32), rated
