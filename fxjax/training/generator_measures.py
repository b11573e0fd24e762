"""What `experiments.evaluate_generator` measures of samples: distances, copies, detection, paths.

Samples keep the generator's own noise. Judges see pictures enlarged to 256 px (bicubic).
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from fxjax import checkpoint, files, images, losses, metrics, zoo
from fxjax.faces import detect
from fxjax.faces.align import Landmarks
from fxjax.nn.generator import Generator, codes, synthesize
from fxjax.nn.vgg16 import VGG16
from fxjax.training import data, face_features
from fxjax.types import AnyPhoto, Images, Photos

SIDE = 256  # pixels at which dlib and PSNR judge
BATCH = 16  # pictures at once, always, so that a picture does not depend on how many are asked for
POOLED = "block3_conv3"
EPSILON = 1e-4  # of the path length, in t
PLACING = 16  # pictures whose mean landmarks say where faces are


class Faces(NamedTuple):
    """The data: pictures at their own size and at the generator's, and who may be trained on."""

    originals: Photos
    small: Photos
    names: list[str]
    weights: Float[np.ndarray, " count"]  # 0: held back
    people: list[str]


def read_faces(path: epath.PathLike, table: epath.PathLike, size: int, resolution: int) -> Faces:
    """Reads pictures of `size` pixels. ValueError if none is held back, or they are too small."""
    if size < resolution:
        raise ValueError(f"--data_size={size}: the generator makes {resolution} px pictures")
    originals, names = data.read_pictures(path, size)
    weights = data.read_weights(table, names)
    if not (weights == 0).any():
        raise ValueError(f"{table} holds no picture back (weight 0) to invert and compare with")
    people = {r["filename"]: r.get("source_id") or r["filename"] for r in data.read_table(table)}
    small = np.stack([area(picture, resolution) for picture in originals])
    return Faces(originals, small, names, weights, [people[name] for name in names])


def trained_on(faces: Faces, most: int) -> list[int]:
    """Pictures trained on, in proportion to their weights, in a fixed random order."""
    random = np.random.default_rng(0)
    share = faces.weights / faces.weights.max()
    kept = np.flatnonzero(random.uniform(size=len(share)) < share)
    return random.permutation(kept)[:most].tolist()


def held_back(faces: Faces, most: int) -> list[int]:
    """One picture of each person held back, at most `most`, evenly spread."""
    first: dict[str, int] = {}
    for index in np.flatnonzero(faces.weights == 0):
        first.setdefault(faces.people[index], int(index))
    found = list(first.values())
    return [found[k] for k in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]


def load_features(features: str | None, model: str) -> tuple[VGG16, str]:
    """The features by name or folder, or those of the model's folder, or random ones; and a name.

    Random ones (a fixed seed) make figures comparable where there are no others.
    """
    if features is None and "features" in checkpoint.read_card(zoo.find(model))["parts"]:
        features = model
    if features is None or features == "random":
        return face_features.random_features((64, 128, 256)), "random"
    return zoo.load(features, part="features"), "/".join(epath.Path(features).parts[-2:])


def area(picture: AnyPhoto, size: int) -> AnyPhoto:
    """Averaged down by a whole factor."""
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def enlarge(picture: AnyPhoto) -> AnyPhoto:
    """What the judges see."""
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def draw(generator: Generator, count: int, psi: float, seed: int) -> Photos:
    """Samples; the first ones do not depend on how many are asked for."""
    made = []
    for first in range(0, max(count, 1), BATCH):
        key = jax.random.fold_in(jax.random.key(seed), first)
        made.append(np.asarray(_draw(generator, key, psi)))
    return np.concatenate(made)[:count]


@jax.jit
def _draw(generator: Generator, key: Array, psi: Array) -> Array:
    z = jax.random.normal(key, (BATCH, generator.latent))
    return images.to_uint8(synthesize(generator, codes(generator, z, psi=psi)))


def pooled(features: VGG16, pictures: Iterable[AnyPhoto]) -> Float[np.ndarray, "_ _"]:
    """The mean over each picture of the last convolution of block 3."""
    return np.stack([np.asarray(_pooled(features, picture)) for picture in pictures])


@jax.jit
def _pooled(features: VGG16, picture: Array) -> Array:
    found = features(images.from_uint8(picture)[None], (POOLED,))[POOLED]
    return jnp.mean(found.astype(jnp.float32), axis=(0, 1, 2))


class Judge:
    """dlib: who an aligned picture shows, and where. `place` is where faces usually are."""

    def __init__(self, faces: Faces):
        self.detector, self.identity = detect.Detector(), detect.Identity()
        found = [self.landmarks(picture) for picture in faces.originals[:PLACING]]
        known = [landmarks for landmarks in found if landmarks is not None]
        if not known:
            raise ValueError(f"dlib finds no face in the first {PLACING} pictures of the data")
        self.place = np.mean(known, axis=0)

    def landmarks(self, picture: AnyPhoto) -> Landmarks | None:
        """Landmarks at 256 px of the largest face, or None."""
        found = self.detector(enlarge(picture))
        return detect.choose(found)[0].landmarks if found else None

    def embed(self, pictures: Iterable[AnyPhoto]) -> Float[np.ndarray, "_ 128"]:
        """Who the pictures show, cut at the usual place: bad pictures count as well."""
        found = [self.identity(enlarge(picture), self.place) for picture in pictures]
        return np.stack(found) if found else np.zeros((0, 128))

    def rate(self, pictures: Photos) -> float:
        """The share of pictures in which the plain detector finds a face."""
        return float(np.mean([self.detector.sees(enlarge(picture)) for picture in pictures]))


def distances(
    embed: Callable[[Iterable[AnyPhoto]], Float[np.ndarray, "_ _"]],
    samples: Float[np.ndarray, "_ _"],
    references: Photos,
) -> dict[str, float | int]:
    """Distances of embedded samples to the data, and of the data's halves to each other."""
    known = embed(references)
    half = len(known) // 2
    kernel = metrics.kernel_distance(samples, known)
    floor = metrics.kernel_distance(known[:half], known[half:])
    return {
        "frechet": metrics.frechet(samples, known),
        "frechet_between_halves_of_the_data": metrics.frechet(known[:half], known[half:]),
        "kernel": kernel.distance,
        "kernel_error": kernel.error,
        "kernel_between_halves_of_the_data": floor.distance,
    }


def copies(
    samples: Float[np.ndarray, "_ _"],
    trained: Float[np.ndarray, "_ _"],
    apart: Float[np.ndarray, "_ _"],
) -> dict[str, float | int]:
    """Median distance of samples, and of faces held back, to the nearest face trained on.

    The ratio is well below 1 where samples repeat the data.
    """
    own, other = (float(np.median(metrics.nearest(x, trained))) for x in (samples, apart))
    return {"samples": own, "held_back": other, "ratio": own / other}


def path_length(generator: Generator, features: VGG16, count: int, seed: int) -> float:
    """Perceptual path length in W between random pairs (arXiv:1812.04948, section 4.1).

    The distance is LPIPS-style on these features, so figures compare only for the same features.
    The mean of the middle 98 %, as is usual.
    """
    judge = metrics.lpips_style(features)
    keys = jax.random.split(jax.random.key(seed), count)
    found = np.asarray([float(_path(generator, judge, key)) for key in keys])
    low, high = np.percentile(found, [1, 99])
    return float(found[(found >= low) & (found <= high)].mean())


@jax.jit
def _path(generator: Generator, judge: losses.Normalized, key: Array) -> Array:
    ends, place = jax.random.split(key)
    w = generator.mapping(jax.random.normal(ends, (2, generator.latent)))
    t = jax.random.uniform(place) + jnp.asarray([0.0, EPSILON])
    between = w[0] + (w[1] - w[0]) * t[:, None]
    pair = synthesize(generator, jnp.repeat(between[:, None], len(generator.rows), axis=1))
    embedding = judge.embed(pair)
    first, second = (jax.tree.map(functools.partial(_row, k), embedding) for k in (0, 1))
    return judge.distance(first, second)[0] / EPSILON**2


def _row(k: int, array: Array) -> Array:
    return array[k : k + 1]


def as_images(pictures: Photos | Sequence[AnyPhoto]) -> Images:
    """uint8 to [-1, 1] on the device."""
    return jnp.asarray(images.from_uint8(np.asarray(pictures)))


def columns(pictures: Sequence[Photos]) -> AnyPhoto:
    """A line for each face: the first set's picture of it, then the others'."""
    shown = np.stack(pictures, axis=1)
    return images.contact_sheet(shown.reshape(-1, *shown.shape[2:]), len(pictures))


def write(out: epath.PathLike, found: Mapping[str, Any]) -> None:
    """Writes measures.json and measures.csv, and prints the figures. NaN is written as null."""
    found = _finite(found)
    folder = files.absolute(out)
    files.write(folder / "measures.json", (json.dumps(found, indent=2) + "\n").encode())
    rows = [row for name in found if name != "settings" for row in flat(name, found[name])]
    files.write_lines(folder / "measures.csv", [("measure", "value"), *rows])
    for name, value in rows:
        shown = f"{value:.4g}" if isinstance(value, float | int) else value or "-"
        print(f"{name:56s} {shown}")
    print(f"wrote {folder / 'measures.json'}")


def flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """Nested figures as names with slashes and values."""
    if not isinstance(value, dict):
        return [(name, value)]
    return [row for key in value for row in flat(f"{name}/{key}", value[key])]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
