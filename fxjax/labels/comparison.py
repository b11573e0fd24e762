"""Both label-driven models on the same data, in alternation, and what is measured of them.

Beside them, on the same faces, system A (codes mixed by masks); and renders of known answers.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float, Int, PyTree
from tqdm import tqdm

from fxjax import assess, images, losses, metrics, sharding, steps, tables, transfer_types
from fxjax.codes import mix
from fxjax.codes.smile_samples import Reader
from fxjax.engine import Engine
from fxjax.faces import detect
from fxjax.faces.align import Crop
from fxjax.labels import networks, training
from fxjax.labels.networks import LabelSettings, TrainState
from fxjax.labels.training import Labelled
from fxjax.nn.fader import Classifier, Fader, LatentDiscriminator, Moments
from fxjax.training import data
from fxjax.transfer_types import Located
from fxjax.types import AnyPhoto, Photos

BLOCK = 5  # steps of one model before it is the other's turn
SMOOTH = 20  # steps over which a reconstruction loss is averaged


class Trained(NamedTuple):
    """A model after training: seconds and reconstruction loss of every step, without the first."""

    settings: LabelSettings
    state: TrainState
    seconds: list[float]
    losses: list[float]
    memory: float
    """MB that the compiled step needs: its arguments and what it works in."""


def train_both(settings: LabelSettings, faces: Labelled, images_each: int) -> dict[str, Trained]:
    """Trains both models, a few steps of each in turn, since a machine's speed drifts.

    Each starts with a step that is not timed. The classifier is left out: it is for measuring.
    """
    settings = dataclasses.replace(
        settings, expressions=",".join(faces.expressions), classifier=False, kimg=images_each / 1000
    )
    mesh = sharding.mesh()
    data = training.on_device(faces, mesh)
    runs: dict[str, tuple[Any, Trained]] = {}
    for name in networks.MODELS:
        own = dataclasses.replace(settings, model=name)
        state = sharding.replicate(networks.fresh(own), mesh)
        step: Any = networks.compiled(own, mesh, state, data)
        plan = step.memory_analysis()
        memory = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / 1e6
        state, found = step(state, data)
        jax.block_until_ready(found)
        runs[name] = step, Trained(own, state, [], [], memory)
    steps = max(1, images_each // settings.batch)
    turns = tqdm(range(0, steps, BLOCK), "both in turn", disable=None)
    for turn, first in enumerate(turns):
        order = list(runs) if turn % 2 == 0 else list(runs)[::-1]
        for name in order:
            step, run = runs[name]
            state = run.state
            for _ in range(min(BLOCK, steps - first)):
                began = time.monotonic()
                state, found = step(state, data)
                run.losses.append(float(found["reconstruction"]))  # waits for the step
                run.seconds.append(time.monotonic() - began)
            runs[name] = step, run._replace(state=state)
    return {name: run for name, (_, run) in runs.items()}


def parameters(module: nnx.Module) -> int:
    """Kernels, biases, gains and shifts; running averages do not count."""
    leaves = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return sum(variable.get_value().size for _, variable in leaves)


def multiply_accumulates(model: Fader) -> int:
    """Of one picture's pass, as it is run, convolutions only; labels count as input channels."""
    total = sum(
        (model.size >> (k + 1)) ** 2 * math.prod(conv.kernel.shape)
        for k, conv in enumerate(model.encoder.convs)
    )
    for k, conv in enumerate(model.decoder.convs):
        inputs, outputs = conv.kernel.shape[2:]
        total += (4 << k) ** 2 * 16 * inputs * outputs
    return total


def smoothed(losses: Sequence[float | int]) -> Float[np.ndarray, " steps"]:
    """The mean of the last few losses at each step."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - SMOOTH, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def seconds_to(run: Trained, loss: float) -> float:
    """Seconds of training until the smoothed reconstruction loss is that low; nan if it never is.

    The first few steps, over which no whole mean is taken, do not count as reaching it.
    """
    reached = np.flatnonzero(smoothed(run.losses) <= loss)
    reached = reached[reached >= min(SMOOTH, len(run.losses)) - 1]
    return float(np.cumsum(run.seconds)[reached[0]]) if len(reached) else math.nan


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _fit_step(
    network: Any, moments: PyTree, inputs: jax.Array, classes: jax.Array, key: jax.Array
) -> tuple[Any, PyTree, Moments]:
    def objective(network):
        found: Moments = []
        if isinstance(network, LatentDiscriminator):
            logits = network(inputs, found, key)
        else:
            logits = network(inputs, found)
        return networks.cross_entropy(logits, classes), found

    slopes, found = jax.grad(objective, has_aux=True)(network)
    network, moments = networks.moved(network, slopes, moments, jnp.float32(1e-3))
    for norm, (mean, square) in zip(networks.norms(network), found, strict=True):
        norm.mean[...] += 0.1 * (mean - norm.mean[...])
        norm.square[...] += 0.1 * (square - norm.square[...])
    return network, moments, found


def fit(
    network: Any,
    inputs: np.ndarray,
    faces: Labelled,
    *,
    steps: int,
    batch: int,
    encoder: Any = None,
) -> Any:
    """A classifier trained afresh on pictures, or on what an `encoder` makes of them.

    Expressions are shown equally often; half of the pictures are mirrored.
    """
    rng = np.random.default_rng(7)
    share = faces.weights() / faces.weights().sum()
    moments = networks.optimizer().init(network)
    encode = jax.jit(lambda encoder, pictures: encoder(pictures))
    for step in range(steps):
        chosen = rng.choice(len(share), batch, p=share)
        shown = images.from_uint8(inputs[chosen])
        if step % 2:
            shown = shown[:, :, ::-1]
        given = jnp.asarray(shown) if encoder is None else encode(encoder, jnp.asarray(shown))
        classes = jnp.asarray(faces.classes[chosen])
        key = jax.random.fold_in(jax.random.key(11), step)
        network, moments, _ = _fit_step(network, moments, given, classes, key)
    return network


def balanced_accuracy(found: np.ndarray, classes: np.ndarray) -> float:
    """The mean of the expressions' own accuracies, so that chance is 1 / expressions."""
    return float(np.mean([np.mean(found[classes == k] == k) for k in np.unique(classes)]))


def judge_of(faces: Labelled, settings: LabelSettings, *, steps: int) -> Classifier:
    """A classifier that neither model was trained with: other weights, other batches."""
    make = Classifier(
        settings.size, faces.expressions, channels=settings.channels, base=max(settings.base, 2),
        most=max(settings.most // 2, 2), rngs=nnx.Rngs(1001),
    )  # fmt: skip
    return fit(make, faces.pictures, faces, steps=steps, batch=settings.batch)


def leakage(run: Trained, faces: Labelled, held_back: Labelled, *, steps: int) -> float:
    """Balanced accuracy on held-back faces of a fresh classifier of the latent; chance is best."""
    settings, encoder = run.settings, run.state.networks["encoder"]
    spy = LatentDiscriminator(
        settings.size, faces.expressions, kernel=4, base=settings.base, most=settings.most,
        rngs=nnx.Rngs(1002),
    )  # fmt: skip
    spy = fit(spy, faces.pictures, faces, steps=steps, batch=settings.batch, encoder=encoder)
    look = jax.jit(lambda spy, encoder, x: jnp.argmax(spy(encoder(x)), axis=-1))
    found = look(spy, encoder, jnp.asarray(images.from_uint8(held_back.pictures)))
    return balanced_accuracy(np.asarray(found), held_back.classes)


def quality(
    every: Float[np.ndarray, "count expressions size size channels"],
    held_back: Labelled,
    judge: Classifier,
    lpips: losses.Normalized,
    identity: assess.Judges | None,
) -> dict[str, float | int]:
    """Measures of held-back faces rebuilt, and changed to every other expression, in [-1, 1].

    `lpips` compares them in features; `identity` is dlib's distance between a face and its changed
    self (below 0.6 is one person), over those in which a face is found; its share is `faces found`.
    """
    every = images.to_uint8(every)
    count, kinds = every.shape[:2]
    own = every[np.arange(count), held_back.classes]
    pairs = [(_colour(a), _colour(b)) for a, b in zip(own, held_back.pictures, strict=True)]
    other = np.arange(kinds)[None] != held_back.classes[:, None]
    name = jax.jit(lambda judge, x: jnp.argmax(judge(x), axis=-1))
    flat = images.from_uint8(every.reshape(-1, *every.shape[2:]))
    named = np.asarray(name(judge, jnp.asarray(flat))).reshape(count, kinds)
    found = {
        "PSNR": float(np.mean([metrics.psnr(a, b) for a, b in pairs])),
        "SSIM": float(np.mean([metrics.ssim(a, b) for a, b in pairs])),
        "LPIPS-style distance": _apart(lpips, *zip(*pairs, strict=True)),
        "expression accuracy": float((named == np.arange(kinds))[other].mean()),
    }
    if identity is None:
        return found
    distances, looked = [], 0
    for k in range(count):
        before = identity.look(_colour(held_back.pictures[k]))
        if before is None:
            continue
        for kind in np.flatnonzero(other[k]):
            looked += 1
            after = identity.look(_colour(every[k, kind]))
            if after is not None:
                distances.append(np.linalg.norm(after.identity - before.identity))
    found["identity distance"] = float(np.mean(distances)) if distances else math.nan
    found["faces found"] = len(distances) / looked if looked else math.nan
    return found


def _apart(lpips: losses.Normalized, made: Sequence[AnyPhoto], wanted: Sequence[AnyPhoto]) -> float:
    """The mean distance of pictures in features."""
    look = jax.jit(lambda lpips, picture: lpips.embed(picture))
    each = [
        lpips.distance(*(look(lpips, jnp.asarray(images.from_uint8(x[None]))) for x in pair))
        for pair in zip(made, wanted, strict=True)
    ]
    return float(np.mean(each))


def judges() -> assess.Judges:
    """The detector and the identity network of dlib."""
    return assess.Judges(detect.Detector())


def _colour(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture, 3 // picture.shape[-1], axis=-1)


class Truth(NamedTuple):
    """Faces, the expressions to give them, and how each then looks."""

    before: Photos
    wanted: Int[np.ndarray, " count"]
    after: Photos


def truth_of(
    path: epath.PathLike | None, table: epath.PathLike | None, settings: LabelSettings
) -> Truth | None:
    """What `read_truth` finds, if both are given. ValueError for one of them alone."""
    if (path is None) != (table is None):
        raise ValueError("--truth and --truth_table go together; give both or neither")
    return None if path is None or table is None else read_truth(path, table, settings)


def read_truth(
    path: epath.PathLike, table: epath.PathLike, settings: LabelSettings, *, most: int = 200
) -> Truth:
    """Pairs of pictures that differ in the expression alone, of people who were held back.

    `table` is a CSV of `file,expression,person`, as `experiments.making.render_faces` writes it.
    Raises ValueError if no held-back person has two of the expressions.
    """
    pictures, names = data.read_pictures(path, settings.size)
    rows = {row.filled("file"): row for row in tables.read(table)}
    number = {name: k for k, name in enumerate(settings.names())}
    people: dict[str, dict[int, int]] = {}
    for k, name in enumerate(names):
        row = rows.get(name, {})
        person, kind = row.get("person") or "", number.get(row.get("expression") or "")
        if person and kind is not None and training.is_apart(person):
            people.setdefault(person, {})[kind] = k
    pairs = [
        (here, kind, there)
        for person in sorted(people)
        for own, here in people[person].items()
        for kind, there in people[person].items()
        if kind != own
    ][:most]
    if not pairs:
        raise ValueError(
            f"{table} lists no held-back person with two of {', '.join(settings.names())}; give "
            "more people (one in twenty is held back)"
        )
    before, wanted, after = (np.array(column) for column in zip(*pairs, strict=True))
    shown = pictures[..., : settings.channels]
    return Truth(shown[before], wanted, shown[after])


def nearness(run: Trained, truth: Truth) -> dict[str, float | int]:
    """PSNR in dB to the rendered answer: of the changed faces, and of the faces left unchanged.

    The means are over faces; a face that is equal to its wanted one is left out.
    """
    every = images.to_uint8(training.changed(run.settings, run.state, truth.before))
    made = every[np.arange(len(every)), truth.wanted]

    def mean(pictures: Photos) -> float:
        values = [metrics.psnr(a, b) for a, b in zip(pictures, truth.after, strict=True)]
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else math.nan

    return {"PSNR to the truth": mean(made), "PSNR to the truth, unchanged": mean(truth.before)}


def masks_engine(model: epath.PathLike, size: int, channels: int) -> Engine:
    """The engine for pictures of a size. ValueError if the generator draws others."""
    engine = Engine(model, settings=transfer_types.Settings(tuning=0))
    if (engine.resolution, 3) != (size, channels):
        raise ValueError(
            f"generator {model} draws {engine.resolution} px in colour; --size={size} "
            f"--channels={channels} cannot be compared with it"
        )
    return engine


def located(pictures: np.ndarray) -> list[Located | None]:
    """The faces of aligned pictures; None where the detector finds none, or several."""
    reader, found = Reader(), []
    for picture in pictures:
        landmarks = reader.landmarks(picture)
        crop = Crop(images.from_uint8(picture), np.eye(3))
        found.append(None if landmarks is None else Located(picture, landmarks, crop))
    return found


def changed_by_masks(
    engine: Engine, faces: list[Located], held_back: Labelled
) -> Float[np.ndarray, "count expressions size size 3"]:
    """System A: each face as the generator draws it, and with the expression of its drivers.

    It knows no labels: a face's driver is the next held-back face, in order, of the wanted
    expression. Without pivotal tuning, as the label-driven models' own pictures are compared.

    Raises ValueError if an expression has no face.
    """
    classes, kinds = held_back.classes, range(len(held_back.expressions))
    bare = [held_back.expressions[kind] for kind in kinds if kind not in classes]
    if bare:
        raise ValueError(f"no held-back face shows {', '.join(bare)}, to drive; give more --faces")
    codes = engine.encode(faces).code
    every = []
    for k in steps.each(range(len(faces)), "masks"):
        wanted = []
        for kind in kinds:
            after = np.roll(np.arange(len(faces)), -k)
            driver = int(next(n for n in after if classes[n] == kind))
            mask = np.zeros(codes.shape[1], bool)
            if kind != classes[k]:
                ranked = engine.rank(codes[k], codes[driver], (faces[k], faces[driver]))
                mask = mask if ranked is None else ranked.masks[0]
            wanted.append(mix.mix(codes[k], codes[driver], jnp.asarray(mask)))
        every.append(np.asarray(engine.draw(jnp.stack(wanted))))
    return np.stack(every)
