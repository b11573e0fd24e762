"""Faces with landmarks as `experiments.making.landmark_faces` writes them, and errors on them."""

import io
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files, images
from fxjax.nn.landmarks import Landmarks
from fxjax.training.landmarker import Faces
from fxjax.types import AnyPhoto, Photos

NAMES = ("pictures", "landmarks", "source")  # of the arrays in a file
HELD_BACK = "samples"  # the source whose last pictures are held back
PARTS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48),
         "mouth": range(48, 68)}  # fmt: skip


def read(paths: Sequence[str], size: int, apart: int) -> tuple[Faces, Photos, np.ndarray]:
    """Faces to train on; pictures held back and their landmarks. ValueError for other files."""
    pictures, landmarks, sources = [], [], []
    for path in paths:
        if not files.absolute(path).exists():
            raise FileNotFoundError(
                f"no file at {path}; experiments.making.landmark_faces makes it"
            )
        try:
            with files.absolute(path).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                pictures.append(arrays["pictures"])
                landmarks.append(arrays["landmarks"])
                sources.append(arrays["source"])
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} was not written by experiments.making.landmark_faces: {error}"
            ) from None
    found = np.concatenate(pictures)
    if found.shape[1] != size:
        raise ValueError(f"pictures of {found.shape[1]} px; --size={size} wants as many")
    points = np.concatenate(landmarks).astype(np.float32)
    held = np.flatnonzero(np.concatenate(sources) == HELD_BACK)[-apart:]
    if not 0 < len(held) < len(found):
        raise ValueError(f"{len(held)} {HELD_BACK} to hold back of {len(found)} pictures")
    rest = np.setdiff1d(np.arange(len(found)), held)
    return Faces(jnp.asarray(found[rest]), jnp.asarray(points[rest])), found[held], points[held]


@jax.jit
def _found(network: Landmarks, pictures: jax.Array) -> jax.Array:
    return network(images.from_uint8(pictures))


def errors(network: Landmarks, pictures: Photos, wanted: np.ndarray) -> dict[str, float | int]:
    """Mean distances by part and of all, in percent of that between the eyes."""
    parts = [_found(network, jnp.asarray(pictures[k : k + 1])) for k in range(len(pictures))]
    eyes = np.linalg.norm(wanted[:, 36:42].mean(1) - wanted[:, 42:48].mean(1), axis=1)
    far = 100 * np.linalg.norm(np.concatenate(parts) - wanted, axis=2) / eyes[:, None]
    found = {name: float(far[:, list(points)].mean()) for name, points in PARTS.items()}
    return {"all": float(far.mean())} | found


def packed(name: str, seen: Sequence[tuple[AnyPhoto, Float[np.ndarray, "68 2"]]]) -> bytes:
    """Faces of one source with their landmarks, as an npz."""
    buffer = io.BytesIO()
    pictures = np.stack([picture for picture, _ in seen]) if seen else np.zeros((0, 1, 1, 3))
    points = np.array([landmarks for _, landmarks in seen], np.float32).reshape(-1, 68, 2)
    arrays = (pictures.astype(np.uint8), points, np.array([name] * len(seen), str))
    np.savez(buffer, **dict(zip(NAMES, arrays, strict=True)))
    return buffer.getvalue()


def part(place: epath.Path) -> tuple[np.ndarray, ...]:
    """The arrays of such an npz, by `NAMES`."""
    with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in NAMES)
