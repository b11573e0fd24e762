"""The run behind `experiments.train_label_transfer`: presets, data, sample sheets, the export."""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int

from fxjax import checkpoint, images, load, metrics, sharding
from fxjax.labels import label_data, networks
from fxjax.labels.label_data import Labelled
from fxjax.labels.networks import Settings, TrainState
from fxjax.training import loop
from fxjax.types import Features

PRESETS = {
    "label128": Settings(size=128, kimg=1600.0, dtype="bfloat16", rate=0.0002),
    "label64": Settings(),
    "smoke": Settings(size=16, base=4, most=8, batch=8, kimg=0.4, adversary=0.1),
}
SHOWN = {
    name: f"{name} {{:.3g}}"
    for name in ("reconstruction", "latent", "leak", "weight", "named", "psnr", "changed")
}
FACES = 12  # held-back faces on a sample sheet
MEASURED = 64  # held-back pictures that measures are taken on while training


@dataclasses.dataclass(frozen=True)
class Run(loop.Rhythm):
    """Where the data is and where results go."""

    data: Annotated[str, "folder or zip of pictures"] = ""
    table: Annotated[str, "CSV: file,expression[,person], or filename,happy (ratings)"] = ""
    out: Annotated[str, "folder for checkpoints, the export, sample sheets and metrics"] = (
        "runs/label_transfer"
    )
    start_from: Annotated[
        str | None, "model to grow from: of half the size and twice the base, or of the same"
    ] = None
    least: Annotated[int, "expressions of fewer pictures are left out, unless named"] = 50
    neutral_most: Annotated[float, "highest rating of happiness that is neutral"] = 35.0
    happy_least: Annotated[float, "lowest rating of happiness that is happiness"] = 65.0


def run(options: Run, settings: Settings) -> TrainState:
    """Trains until all pictures are shown, or until SIGTERM or Ctrl-C, and saves.

    Raises ValueError for bad data or settings, or if a loss is not finite; KeyboardInterrupt when
    it was stopped, after saving.
    """
    trained, held_back = read(options, settings)
    settings = dataclasses.replace(settings, expressions=",".join(trained.expressions))
    mesh = sharding.mesh()
    faces = on_device(trained, mesh)
    fresh = functools.partial(networks.fresh, settings)
    start = functools.partial(_start, options, settings)
    state = loop.begin(options.out, settings, fresh, start, mesh)
    step = networks.compiled(settings, mesh, state, faces)
    counts = np.bincount(trained.classes)
    shares = zip(trained.expressions, counts, strict=True)
    loop.say(
        f"{', '.join(f'{name} ({count})' for name, count in shares)}; {len(held_back.classes)} "
        f"pictures held back; from image {int(state.images)}"
    )
    judged = held_back if len(held_back.classes) else trained

    def draw(state: TrainState) -> dict[str, float | int]:
        path = f"{options.out}/samples/{int(state.images):08d}.png"
        shown = judged.take(some(judged))
        images.save_image(path, sheet(shown, changed(settings, state, shown.pictures)))
        return measured(settings, state, judged)

    def write(state: TrainState) -> None:
        export(f"{options.out}/export", settings, state, epath.Path(options.data).name)

    job = loop.Job(
        out=options.out,
        settings=settings,
        total=settings.kimg * 1000,
        step=lambda state, _: step(state, faces),
        draw=draw,
        export=write,
        shown=SHOWN,
    )
    return loop.loop(job, options, state)


def read(options: Run, settings: Settings) -> tuple[Labelled, Labelled]:
    """The faces to train on and those held back. ValueError for what does not fit."""
    for name in ("data", "table"):
        if not getattr(options, name):
            raise ValueError(f"--{name} must be given (--help lists all flags)")
    if settings.channels not in (1, 3):
        raise ValueError(f"--channels={settings.channels}: want 3 (colour) or 1 (grey)")
    return label_data.read(
        options.data,
        options.table,
        settings.size,
        settings.channels,
        wanted=settings.names(),
        least=options.least,
        zoom=settings.zoom,
        thresholds=label_data.Thresholds(options.neutral_most, options.happy_least),
    )


def _start(options: Run, settings: Settings) -> TrainState:
    """New networks, or with the layers of a model that was trained before."""
    if options.start_from is None:
        return networks.fresh(settings)
    return networks.grown(settings, load(options.start_from, part="autoencoder"))


def on_device(faces: Labelled, mesh: Mesh) -> networks.Data:
    """The training data on every device, expressions equally often."""
    arrays: Any = (faces.pictures, faces.classes, faces.weights(), faces.partners())
    return sharding.replicate(networks.Data(*arrays), mesh)


def export(folder: epath.PathLike, settings: Settings, state: TrainState, data: str) -> None:
    """Writes a model folder for fxjax.load: the autoencoder, and the classifier if there is one."""
    auto = checkpoint.halved(networks.autoencoder(settings, state))
    parts: dict[str, Any] = {"autoencoder": (settings.autoencoder(), auto)}
    if settings.classifier:
        flat = checkpoint.halved(state.networks["classifier"])
        parts["classifier"] = (settings.classes(), flat)
    info = {"images": int(state.images), "data": data, "settings": dataclasses.asdict(settings)}
    checkpoint.save_model(folder, settings.model, parts, info, overwrite=True)


def changed(settings: Settings, state: TrainState, pictures: np.ndarray) -> np.ndarray:
    """Pictures [count, ...] with every expression: [count, expressions, ...], in [-1, 1]."""
    count = len(settings.names())
    auto = networks.autoencoder(settings, state)
    latent = _encode(auto, jnp.asarray(images.from_uint8(pictures)))
    every = [
        np.asarray(_decode(auto, latent, jnp.tile(jnp.eye(count)[k : k + 1], (len(pictures), 1))))
        for k in range(count)
    ]
    return np.stack(every, axis=1)


def measured(settings: Settings, state: TrainState, faces: Labelled) -> dict[str, float | int]:
    """PSNR of held-back faces rebuilt, and how often the classifier names the wanted expression."""
    pictures, classes = faces.pictures[:MEASURED], faces.classes[:MEASURED]
    every = changed(settings, state, pictures)
    own = images.to_uint8(every[np.arange(len(classes)), classes])
    values = [metrics.psnr(a, b) for a, b in zip(own, pictures, strict=True)]
    found = {"psnr": float(np.mean(values))}
    if settings.classifier:
        flat = jnp.asarray(every.reshape(-1, *every.shape[2:]))
        names = np.asarray(_name(state.networks["classifier"], flat)).reshape(every.shape[:2])
        wanted = np.arange(every.shape[1])[None] == names
        other = np.arange(every.shape[1])[None] != classes[:, None]
        found["changed"] = float(wanted[other].mean())
    return found


def sheet(
    faces: Labelled, every: Float[np.ndarray, "count expressions size size channels"]
) -> np.ndarray:
    """A row for each face: itself, then what `every` has of it with each expression, in [-1, 1]."""
    rows = np.concatenate([faces.pictures[:, None], images.to_uint8(every)], axis=1)
    flat = np.repeat(rows, 3 // rows.shape[-1], axis=-1).reshape(-1, *rows.shape[2:4], 3)
    return images.contact_sheet(flat, columns=rows.shape[1], gap=2)


def some(faces: Labelled) -> Int[np.ndarray, " few"]:
    """Numbers of a few faces of all expressions."""
    order = np.argsort(faces.classes, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(FACES, len(order))).astype(int)]


@jax.jit
def _encode(auto: Any, pictures: Features) -> Features:
    return auto.encoder(pictures)


@jax.jit
def _decode(auto: Any, latent: Features, labels: jax.Array) -> Features:
    return auto.decoder(latent, labels)


@jax.jit
def _name(classifier: Any, pictures: Features) -> jax.Array:
    return jnp.argmax(classifier(pictures), axis=-1)
