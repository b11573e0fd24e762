"""Inversion of held-back faces for `experiments.evaluate_generator`, beside what must be beaten."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from fxjax import checkpoint, images, losses, metrics, zoo
from fxjax.codes import invert, pivotal
from fxjax.faces.align import Landmarks, eye_distance
from fxjax.nn.generator import Generator, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16
from fxjax.training import gan
from fxjax.training.generator_measures import Faces, Judge, as_images, enlarge
from fxjax.types import Photos

TUNED = "inversion"  # the maker that is also tuned


@dataclasses.dataclass(frozen=True)
class Search:
    """How the faces are inverted."""

    steps: int = 300
    rate: float = 0.15
    layers: tuple[str, ...] = ("block1_conv2", "block2_conv2", "block3_conv3")
    feature_weight: float = 1.0
    pixel_weight: float = 1.0
    batch: int = 8
    tuning: int = 0
    noise_pull: float = 1.0


@dataclasses.dataclass(frozen=True)
class Quality:
    """Means over the faces, judged at 256 px (bicubic); not a number where nothing was measured.

    `psnr` is in dB to the target at the generator's resolution, `psnr_original` to the original.
    `identity` is dlib's distance to the original, `landmark_error` the mean distance of the
    landmarks relative to the distance between the eyes, both over the faces that dlib `found`.
    """

    psnr: float
    psnr_original: float
    identity: float
    landmark_error: float
    found: float


def make_loss(features: VGG16, faces: Faces, search: Search) -> Any:
    """Pixels and features, each layer by its mean square over 16 pictures trained on."""
    if not search.feature_weight:
        return losses.Pixels()
    some = np.flatnonzero(faces.weights > 0)[:16]
    scaled = losses.balanced(features, search.layers, as_images(faces.small[some]))
    if not search.pixel_weight:
        return scaled
    return losses.Sum([scaled, losses.Pixels()], (search.feature_weight, search.pixel_weight))


def reconstruct(
    generator: Generator, loss: Any, targets: Photos, search: Search
) -> tuple[Photos, Float[np.ndarray, "faces steps"]]:
    """The inversions' pictures and losses; codes start at the mean w.

    With `tuning` steps noise images move too, and then the weights (pivotal tuning).
    """
    pull = search.noise_pull if search.tuning else 0.0
    settings = invert.Settings(steps=search.steps, rate=search.rate, noise_pull=pull)
    pictures, curves = [], []
    for first in range(0, len(targets), search.batch):
        part = targets[first : first + search.batch]
        short = search.batch - len(part)  # always one shape: it is compiled once
        padded = as_images(np.concatenate([part, np.repeat(part[-1:], short, axis=0)]))
        start = invert.mean_codes(generator, search.batch)
        goal = invert.embedded(loss, padded)
        place, curve = invert.run(generator, loss, goal, start, settings)
        codes, noise = invert.codes_of(place, start, settings), invert.noise_of(place)
        if search.tuning:
            tuned = pivotal.tune(
                generator, loss, goal, codes, pivotal.Settings(steps=search.tuning), noise=noise
            )
            drawn, curve = tuned.images, jnp.concatenate([curve, tuned.losses], axis=1)
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
    mean, _ = gan.code_statistics(generator, 4096)
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


def look(judge: Judge, faces: Faces, chosen: Sequence[int]) -> Wanted:
    """The chosen faces of which dlib finds the original. ValueError if there is none."""
    kept, originals, landmarks, identities = [], [], [], []
    for index in chosen:
        original = enlarge(faces.originals[index])
        found = judge.landmarks(original)
        if found is not None:
            kept.append(index)
            originals.append(original)
            landmarks.append(found)
            identities.append(judge.identity(original, found))
    if not kept:
        raise ValueError("dlib finds none of the faces that are held back")
    return Wanted(faces.small[kept], originals, landmarks, identities)


def assess(judge: Judge, wanted: Wanted, pictures: Photos) -> Quality:
    """How close pictures come to the originals."""
    psnrs, to_originals, identities, errors = [], [], [], []
    for k, picture in enumerate(pictures):
        seen, truth = enlarge(picture), wanted.landmarks[k]
        psnrs.append(metrics.psnr(seen, enlarge(wanted.targets[k])))
        to_originals.append(metrics.psnr(seen, wanted.originals[k]))
        found = judge.landmarks(picture)
        if found is not None:
            identity = judge.identity(seen, found)
            identities.append(float(np.linalg.norm(identity - wanted.identities[k])))
            eyes = eye_distance(truth)
            errors.append(float(np.linalg.norm(found - truth, axis=1).mean() / eyes))
    return Quality(
        _mean(psnrs),
        _mean(to_originals),
        _mean(identities),
        _mean(errors),
        len(errors) / len(pictures),
    )


def compare(
    judge: Judge,
    faces: Faces,
    chosen: Sequence[int],
    makers: dict[str, Any],
    loss: Any,
    search: Search,
    components: int,
) -> tuple[dict[str, dict[str, float | int]], dict[str, Photos]]:
    """Every maker's inversions, PCA (if `components`) and the targets themselves."""
    wanted = look(judge, faces, chosen)
    pictures: dict[str, Photos] = {"target": wanted.targets}
    for name, generator in makers.items():
        plain = dataclasses.replace(search, tuning=0)
        pictures[name], _ = reconstruct(generator, loss, wanted.targets, plain)
        if search.tuning and name == TUNED:
            pictures[f"{name}, tuned"], _ = reconstruct(generator, loss, wanted.targets, search)
    if components:
        trained = faces.small[faces.weights > 0]
        count = min(components, len(trained) - 1)
        pictures[f"PCA, {count} components"] = principal_components(trained, wanted.targets, count)
    table = {n: dataclasses.asdict(assess(judge, wanted, made)) for n, made in pictures.items()}
    return table, pictures


def _mean(values: Sequence[float | int]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
