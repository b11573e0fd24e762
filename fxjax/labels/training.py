"""The run behind `experiments.train_label_transfer`: faces, presets, sheets, the export."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt8

from fxjax import checkpoint, files, images, load, metrics, sharding, tables
from fxjax.labels import networks
from fxjax.labels.networks import LabelSettings, TrainState
from fxjax.nn import fader
from fxjax.training import data, loop
from fxjax.types import Features

PRESETS = {
    "label128": LabelSettings(size=128, kimg=1600.0, dtype="bfloat16", rate=0.0002),
    "label64": LabelSettings(),
    "smoke": LabelSettings(size=16, base=4, most=8, batch=8, kimg=0.4, adversary=0.1),
}
SHOWN = {
    name: f"{name} {{:.3g}}"
    for name in ("reconstruction", "latent", "leak", "weight", "named", "psnr", "changed")
}
FACES = 12  # held-back faces on a sample sheet
MEASURED = 64  # held-back pictures that measures are taken on while training
APART = 20  # one person in so many is never trained on


class Labelled(NamedTuple):
    """Pictures [count, size, size, channels] and the numbers of their expressions.

    Pictures of one pair, whose number is not -1, differ in the expression alone.
    """

    pictures: UInt8[np.ndarray, "count size size channels"]
    classes: Int[np.ndarray, " count"]
    expressions: tuple[str, ...]
    pairs: Int[np.ndarray, " count"]

    def take(self, order: Int[np.ndarray, " some"] | Bool[np.ndarray, " count"]) -> "Labelled":
        """Those of these numbers, or where it is true."""
        arrays = self.pictures[order], self.classes[order], self.pairs[order]
        return Labelled(arrays[0], arrays[1], self.expressions, arrays[2])

    def partners(self) -> Int[np.ndarray, "count expressions"]:
        """For each picture that of its pair with each other expression, or -1."""
        found = np.full((len(self.classes), len(self.expressions)), -1, np.int32)
        members: dict[int, list[int]] = {}
        for k, pair in enumerate(self.pairs.tolist()):
            if pair >= 0:
                members.setdefault(pair, []).append(k)
        for group in members.values():
            for here in group:
                for there in group:
                    if self.classes[here] != self.classes[there]:
                        found[here, self.classes[there]] = there
        return found

    def weights(self) -> Float[np.ndarray, " count"]:
        """How often each picture is shown, so that every expression is as often as any other."""
        counts = np.bincount(self.classes, minlength=len(self.expressions))
        return (1 / counts[self.classes]).astype(np.float32)


class Thresholds(NamedTuple):
    """Ratings of happiness, 0 to 100: at most, and at least; faces between are left out."""

    neutral: float
    happiness: float


def read_faces(
    path: epath.PathLike,
    table: epath.PathLike,
    size: int,
    channels: int,
    *,
    wanted: Sequence[str] = (),
    least: int = 1,
    zoom: int = 1,
    thresholds: Thresholds,
) -> tuple[Labelled, Labelled]:
    """The faces to train on, and those of people held back to measure with.

    `table` is a CSV of `file,expression` (and `person`, whose pictures then stay together, and
    `pair`, for those that differ in the expression alone), or one of `filename,happy` ratings.
    Pictures are `fader.inner` of those in the file, which are `zoom` times as large or more.
    Without `wanted` names, expressions of fewer than `least` pictures are left out. Raises
    ValueError for labels that are missing, names that are unknown, classes without pictures, and
    colour where grey is asked for or the other way round.
    """
    inner = fader.inner(size, zoom)
    labels, apart = read_labels(table, thresholds)
    pictures, names = data.read_pictures(path, size * zoom)
    data.refuse_repeated(names, f"pictures in {path}")
    pictures = pictures[:, *inner]
    if missing := [name for name in names if name not in labels]:
        raise ValueError(
            f"{table} has no expression for {len(missing)} of the {len(names)} pictures in "
            f"{path}, the first is {missing[0]}; add rows for them or take them out"
        )
    counts = collections.Counter(labels[name] for name in names)
    counts.pop("", None)
    known = sorted({label for label in labels.values() if label})
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no expression {unknown[0]!r} in {table}; it has {', '.join(known)}")
    few = [f"{name} ({counts[name]})" for name in known if counts[name] < least]
    chosen = tuple(wanted) or tuple(name for name in known if counts[name] >= least)
    if not wanted and few:
        print(f"left out, with fewer than {least} pictures: {', '.join(few)}", flush=True)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{', '.join(chosen) or 'no expression'} to train on; want two or more different "
            f"ones. {table} has {', '.join(f'{name} ({counts[name]})' for name in known)}"
        )
    grey = all(images.is_gray(picture) for picture in pictures)  # in colour: the first decides
    if (channels == 1) != grey:
        found, other = ("grey", 1) if grey else ("in colour", 3)
        raise ValueError(
            f"the pictures in {path} are {found}, but --channels={channels}; give "
            f"--channels={other} or other pictures"
        )
    number = {name: k for k, name in enumerate(chosen)}
    classes = np.asarray([number.get(labels[name], -1) for name in names], np.int32)
    held = np.asarray([apart[name] for name in names])
    pairs = _pairs(table, names)

    every = Labelled(pictures[..., :channels], classes, chosen, pairs)
    trained = every.take((classes >= 0) & ~held)
    if empty := [name for name, k in number.items() if not np.any(trained.classes == k)]:
        raise ValueError(f"{path} has no pictures of {', '.join(empty)} to train on")
    return trained, every.take((classes >= 0) & held)


def read_labels(
    table: epath.PathLike, thresholds: Thresholds
) -> tuple[dict[str, str], dict[str, bool]]:
    """The expression of each file ("": none is known), and whether its person is held back.

    A column `held_back` (0 or 1) says so itself; else it follows from who is shown.
    """
    source, rows = files.absolute(table), tables.read(table)
    columns: Mapping[str, str] = rows[0] if rows else {}
    file = next((name for name in ("file", "filename") if name in columns), None)
    if file is None or not {"expression", "happy"} & columns.keys():
        raise ValueError(
            f"{source} wants the columns file,expression (or filename,happy: ratings); it has "
            f"{','.join(columns) or 'no rows'}"
        )
    data.refuse_repeated([row.filled(file) for row in rows], f"rows of {source}")
    if "expression" in columns:
        if bare := [row for row in rows if not row["expression"]]:
            what = f"no expression for {len(bare)} of {len(rows)} files, the first is "
            raise bare[0].error("expression", f"{what}{bare[0][file]}; fill them in")
        labels = {row[file]: row["expression"] for row in rows}
    else:
        labels = {row[file]: _rated(row, thresholds) for row in rows}
    if "held_back" in columns:
        if odd := [row for row in rows if row["held_back"] not in ("0", "1")]:
            raise odd[0].error("held_back", f"{odd[0]['held_back']!r}; want 0 or 1")
        apart = [row["held_back"] == "1" for row in rows]
    elif {"kind", "source_id"} <= columns.keys():
        apart = data.held_back_rows(rows)
    else:
        apart = [is_apart(row.get("person") or row[file]) for row in rows]
    return labels, {row[file]: held for row, held in zip(rows, apart, strict=True)}


def _pairs(table: epath.PathLike, names: Sequence[str]) -> Int[np.ndarray, " count"]:
    """Numbers of the pairs that the column `pair` names; -1 where it is empty or not there."""
    rows = {row.get("file") or row.get("filename"): row.get("pair") for row in tables.read(table)}
    number: dict[str, int] = {}
    found = [rows.get(name) for name in names]
    return np.array([number.setdefault(pair, len(number)) if pair else -1 for pair in found])


def _rated(row: tables.Row, thresholds: Thresholds) -> str:
    if not row["happy"]:
        return ""
    value = row.float("happy")
    if value >= thresholds.happiness:
        return "happiness"
    return "neutral" if value <= thresholds.neutral else ""


def is_apart(person: str) -> bool:
    """Whether a person is one of those held back where the table does not say: one in APART."""
    digest = hashlib.sha256(f"held back {person}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % APART == 0


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


def run(options: Run, settings: LabelSettings) -> TrainState:
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


def read(options: Run, settings: LabelSettings) -> tuple[Labelled, Labelled]:
    """The faces to train on and those held back. ValueError for what does not fit."""
    for name in ("data", "table"):
        if not getattr(options, name):
            raise ValueError(f"--{name} must be given (--help lists all flags)")
    if settings.channels not in (1, 3):
        raise ValueError(f"--channels={settings.channels}: want 3 (colour) or 1 (grey)")
    return read_faces(
        options.data,
        options.table,
        settings.size,
        settings.channels,
        wanted=settings.names(),
        least=options.least,
        zoom=settings.zoom,
        thresholds=Thresholds(options.neutral_most, options.happy_least),
    )


def _start(options: Run, settings: LabelSettings) -> TrainState:
    """New networks, or with the layers of a model that was trained before."""
    if options.start_from is None:
        return networks.fresh(settings)
    return networks.grown(settings, load(options.start_from, part="autoencoder"))


def on_device(faces: Labelled, mesh: Mesh) -> networks.Data:
    """The training data on every device, expressions equally often."""
    arrays: Any = (faces.pictures, faces.classes, faces.weights(), faces.partners())
    return sharding.replicate(networks.Data(*arrays), mesh)


def export(folder: epath.PathLike, settings: LabelSettings, state: TrainState, data: str) -> None:
    """Writes a model folder for fxjax.load: the autoencoder, and the classifier if there is one."""
    auto = checkpoint.halved(networks.autoencoder(settings, state))
    parts: dict[str, Any] = {"autoencoder": (settings.autoencoder(), auto)}
    if settings.classifier:
        flat = checkpoint.halved(state.networks["classifier"])
        parts["classifier"] = (settings.classes(), flat)
    info = {"images": int(state.images), "data": data, "settings": dataclasses.asdict(settings)}
    checkpoint.save_model(folder, settings.model, parts, info, overwrite=True)


def changed(settings: LabelSettings, state: TrainState, pictures: np.ndarray) -> np.ndarray:
    """Pictures [count, ...] with every expression: [count, expressions, ...], in [-1, 1]."""
    count = len(settings.names())
    auto = networks.autoencoder(settings, state)
    latent = _encode(auto, jnp.asarray(images.from_uint8(pictures)))
    every = [
        np.asarray(_decode(auto, latent, jnp.tile(jnp.eye(count)[k : k + 1], (len(pictures), 1))))
        for k in range(count)
    ]
    return np.stack(every, axis=1)


def measured(settings: LabelSettings, state: TrainState, faces: Labelled) -> dict[str, float | int]:
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
