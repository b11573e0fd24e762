"""Where the searches of an inversion run start, by --start."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fxjax import checkpoint, files, load, zoo
from fxjax.codes import invert
from fxjax.runs.descent import Models
from fxjax.runs.worklist import OK, Entry
from fxjax.types import Codes, Images, Photos

ENCODER = "encoder"


def encoder(model: str, start: str) -> Any:
    """What `start` "encoder" reads the faces with, else None. ValueError if `model` has none."""
    if start != ENCODER:
        return None
    parts = checkpoint.read_card(zoo.find(model))["parts"]
    if ENCODER not in parts:
        raise ValueError(
            f"--start=encoder: {model} has no encoder, it has {', '.join(parts)}; "
            "converted e4e and pSp files have one"
        )
    return load(model, part=ENCODER)


def codes(
    models: Models,
    start: str,
    tries: int,
    encoder: Any,
    names: Sequence[str],
    goal: Any,
    targets: Photos,
) -> Codes:
    """The codes at which the searches of these faces start."""
    if encoder is not None:
        return _read(encoder, jnp.asarray(encoder.prepared(targets)))
    generator, loss = models.generator, models.loss
    if start == "mean":
        return invert.mean_codes(generator, len(names))
    if start == "best":
        key = jax.random.key(0)  # the same tries for every batch, so that batches do not matter
        return invert.best_random(generator, loss, goal, key, tries)
    shape = len(generator.rows), generator.dim
    return jnp.asarray(np.stack([_given(start, name, shape) for name in names]))


@jax.jit
def _read(encoder: Any, images: Images) -> Codes:
    return encoder(images)


def check(start: str, models: Models, entries: Sequence[Entry]) -> None:
    """Reads all codes that `start` names once. Raises FileNotFoundError or ValueError."""
    if start not in ("mean", "best", ENCODER):
        for entry in entries:
            if entry.status == OK:
                _given(start, entry.name, (len(models.generator.rows), models.generator.dim))


def _given(start: str, name: str, shape: tuple[int, int]) -> np.ndarray:
    """A face's code, from its own file in a folder or from one file for all."""
    path = files.absolute(start)
    path = path / f"{name}.npz" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"no code {path} to start from (--start: mean, best, encoder, file, folder)"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ws = np.asarray(arrays["ws"], np.float32)
    except Exception as error:  # zip and numpy have a dozen kinds of their own
        raise ValueError(f"{path} holds no codes (an array ws): {error}") from None
    if ws.shape != shape or not np.isfinite(ws).all():
        raise ValueError(f"{path} has ws of shape {ws.shape}; this model wants {shape}, finite")
    return ws
