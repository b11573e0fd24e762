"""What `experiments.evaluate_generator` measures: samples, and inversion of held-back faces.

Samples keep the generator's own noise. Judges see pictures enlarged to 256 px (bicubic).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, UInt8

from fxjax import checkpoint, files, images, losses, metrics, sharding, zoo
from fxjax.codes import invert, pivotal
from fxjax.faces import detect
from fxjax.faces.align import Landmarks, eye_distance
from fxjax.nn.generator import Generator, code_statistics, codes, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16
from fxjax.training import data, face_features
from fxjax.types import AnyPhoto, Images, Photos

SIDE = 256  # pixels at which dlib and PSNR judge
BATCH = 16  # pictures at once, always, so that a picture does not depend on how many are asked for
POOLED = "block3_conv3"
EPSILON = 1e-4  # of the path length, in t
PLACING = 16  # pictures whose mean landmarks say where faces are
TUNED = "inversion"  # the row of the generator itself, which alone gets a second, tuned row


class FaceData(NamedTuple):
    """The data: pictures at their own size and at the generator's, and who may be trained on."""

    originals: Photos
    small: Photos
    names: list[str]
    weights: Float[np.ndarray, " count"]  # 0: held back
    people: list[str]


def read_faces(path: epath.PathLike, table: epath.PathLike, size: int, resolution: int) -> FaceData:
    """Reads pictures of `size` pixels. ValueError if none is held back, or they are too small."""
    if size < resolution:
        raise ValueError(f"--data_size={size}: the generator makes {resolution} px pictures")
    originals, names = data.read_pictures(path, size)
    weights = data.read_weights(table, names)
    if not (weights == 0).any():
        raise ValueError(f"{table} holds no picture back (weight 0) to invert and compare with")
    people = {r["filename"]: r.get("source_id") or r["filename"] for r in data.read_table(table)}
    small = np.stack(
        [
            cv2.resize(picture, (resolution,) * 2, interpolation=cv2.INTER_AREA)
            for picture in originals
        ]
    )
    return FaceData(originals, small, names, weights, [people[name] for name in names])


def trained_on(faces: FaceData, most: int) -> list[int]:
    """Pictures trained on, in proportion to their weights, in a fixed random order."""
    random = np.random.default_rng(0)
    share = faces.weights / faces.weights.max()
    kept = np.flatnonzero(random.uniform(size=len(share)) < share)
    return random.permutation(kept)[:most].tolist()


def held_back(faces: FaceData, most: int) -> list[int]:
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


class DlibJudge:
    """dlib's landmarks and identities of aligned pictures. `place`: the data's mean landmarks."""

    def __init__(self, faces: FaceData):
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
    first, second = (jax.tree.map(lambda x, k=k: x[k : k + 1], embedding) for k in (0, 1))
    return judge.distance(first, second)[0] / EPSILON**2


def as_images(pictures: Photos | Sequence[AnyPhoto]) -> Images:
    """uint8 to [-1, 1] on the device."""
    return jnp.asarray(images.from_uint8(np.asarray(pictures)))


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


@dataclasses.dataclass(frozen=True)
class InversionPlan:
    """How the faces are inverted."""

    steps: int = 300
    rate: float = 0.15
    layers: tuple[str, ...] = ("block1_conv2", "block2_conv2", "block3_conv3")
    feature_weight: float = 1.0
    pixel_weight: float = 1.0
    batch: int = 8
    tuning: int = 0
    noise_pull: float = 1.0


def make_loss(features: VGG16, faces: FaceData, plan: InversionPlan) -> Any:
    """Pixels and features, each layer by its mean square over 16 pictures trained on."""
    some = as_images(faces.small[np.flatnonzero(faces.weights > 0)[:16]])
    weights = (plan.feature_weight, plan.pixel_weight)
    return losses.inverting(features, plan.layers, some, weights=weights)


def reconstruct(
    generator: Generator, loss: Any, targets: Photos, plan: InversionPlan
) -> tuple[Photos, Float[np.ndarray, "faces steps"]]:
    """The inversions' pictures and losses; codes start at the mean w.

    With `tuning` steps noise images move too, and then the weights (pivotal tuning).
    """
    pull = plan.noise_pull if plan.tuning else 0.0
    settings = invert.Settings(steps=plan.steps, rate=plan.rate, noise_pull=pull)
    pictures, curves = [], []
    for first in range(0, len(targets), plan.batch):
        part = targets[first : first + plan.batch]
        padded = as_images(sharding.padded(part, plan.batch))  # one shape: it is compiled once
        start = invert.mean_codes(generator, plan.batch)
        goal = invert.embedded(loss, padded)
        place, curve = invert.run(generator, loss, goal, start, settings)
        codes, noise = invert.codes_of(place, start, settings), invert.noise_of(place)
        if plan.tuning:
            tuned = pivotal.tune(
                generator, loss, goal, codes, pivotal.Settings(steps=plan.tuning), noise=noise
            )
            drawn = pivotal.pictures(generator, codes, tuned.differences, noise=noise)
            curve = jnp.concatenate([curve, tuned.losses], axis=1)
        else:
            drawn = jax.jit(synthesize)(generator, codes)
        pictures.append(np.asarray(images.to_uint8(drawn))[: len(part)])
        curves.append(np.asarray(curve)[: len(part)])
    return np.concatenate(pictures), np.concatenate(curves)


def untrained(model: str, seed: int) -> StyleGAN2:
    """A new StyleGAN2 of the model's architecture, with its own mean w. ValueError for others."""
    card = checkpoint.read_card(zoo.find(model))
    if card["kind"] != "stylegan2":
        raise ValueError(f"{model} is of kind {card['kind']}: give --nobaselines")
    architecture = card["parts"]["generator"]["architecture"]
    generator = StyleGAN2(**architecture, rngs=nnx.Rngs(params=seed))
    mean, _ = code_statistics(generator, 4096)
    generator.w_mean[...] = mean
    return generator


def principal_components(
    trained: UInt8[np.ndarray, "trained height width 3"], targets: Photos, count: int
) -> Photos:
    """The targets' projections on the mean and first components of the pictures.

    Computed from the pictures' products, so its cost is the cube of their number.
    """
    x = trained.reshape(len(trained), -1).astype(np.float32)
    mean = x.mean(0)
    x -= mean
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = np.argsort(-values)[: min(count, len(trained) - 1)]
    basis = vectors[:, kept].T @ x / np.sqrt(np.maximum(values[kept], 1e-6))[:, None]
    offsets = targets.reshape(len(targets), -1).astype(np.float32) - mean
    made = (offsets @ basis.T) @ basis + mean
    return np.clip(np.rint(made), 0, 255).astype(np.uint8).reshape(targets.shape)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The held-back faces as the judges see them."""

    targets: Photos
    originals: list[np.ndarray]
    landmarks: list[Landmarks]
    identities: list[np.ndarray]


def look(judge: DlibJudge, faces: FaceData, chosen: Sequence[int]) -> Wanted:
    """The chosen faces of which dlib finds the original. ValueError if there is none."""
    seen = []
    for index in chosen:
        original = enlarge(faces.originals[index])
        if (found := judge.landmarks(original)) is not None:
            seen.append((index, original, found, judge.identity(original, found)))
    if not seen:
        raise ValueError("dlib finds none of the faces that are held back")
    kept, originals, landmarks, identities = map(list, zip(*seen, strict=True))
    return Wanted(faces.small[kept], originals, landmarks, identities)


def assess(judge: DlibJudge, wanted: Wanted, pictures: Photos) -> dict[str, float | int]:
    """How close pictures come to the originals: means, not a number where nothing was measured.

    `psnr` is in dB to the target at the generator's resolution, `psnr_original` to the original.
    `identity` is dlib's distance to the original, `landmark_error` the mean distance of the
    landmarks relative to the distance between the eyes, both over the faces that dlib `found`.
    """
    psnrs, to_originals, identities, errors = [], [], [], []
    for k, picture in enumerate(pictures):
        seen, truth = enlarge(picture), wanted.landmarks[k]
        psnrs.append(metrics.psnr(seen, enlarge(wanted.targets[k])))
        to_originals.append(metrics.psnr(seen, wanted.originals[k]))
        found = judge.landmarks(picture)
        if found is not None:
            identity = judge.identity(seen, found)
            identities.append(float(np.linalg.norm(identity - wanted.identities[k])))
            errors.append(float(np.linalg.norm(found - truth, axis=1).mean() / eye_distance(truth)))
    columns = {"psnr": psnrs, "psnr_original": to_originals}
    columns |= {"identity": identities, "landmark_error": errors}
    means = {name: metrics.interval(values)[0] for name, values in columns.items()}
    return means | {"found": len(errors) / len(pictures)}


def compare(
    judge: DlibJudge,
    faces: FaceData,
    chosen: Sequence[int],
    makers: dict[str, Any],
    loss: Any,
    plan: InversionPlan,
    components: int,
) -> tuple[dict[str, dict[str, float | int]], dict[str, Photos]]:
    """Figures and pictures of the targets, each maker's inversions, and PCA (if `components`)."""
    wanted = look(judge, faces, chosen)
    pictures: dict[str, Photos] = {"target": wanted.targets}
    for name, generator in makers.items():
        plain = dataclasses.replace(plan, tuning=0)
        pictures[name], _ = reconstruct(generator, loss, wanted.targets, plain)
        if plan.tuning and name == TUNED:
            pictures[f"{name}, tuned"], _ = reconstruct(generator, loss, wanted.targets, plan)
    if components:
        trained = faces.small[faces.weights > 0]
        count = min(components, len(trained) - 1)
        pictures[f"PCA, {count} components"] = principal_components(trained, wanted.targets, count)
    table = {n: assess(judge, wanted, made) for n, made in pictures.items()}
    return table, pictures


def _mean(values: Sequence[float | int]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
