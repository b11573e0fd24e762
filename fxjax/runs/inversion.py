"""The inversion run behind `experiments.invert`: its flags, models, starting codes and batches.

Batches are a pure function of the list of faces and the batch size, and both are written down
before the first of them, so that a killed run goes on with the same ones.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import checkpoint, files, load, losses, metrics, sharding, zoo
from fxjax.codes import invert, pivotal, whiten
from fxjax.images import contact_sheet, load_image
from fxjax.nn import encoder as encoders
from fxjax.nn.generator import Generator, drawn
from fxjax.runs import inverted, journal, worklist
from fxjax.runs.descent import Found, Models, Search, Tuner
from fxjax.runs.inverted import Row
from fxjax.runs.worklist import OK, Entry, Options
from fxjax.sharding import halved
from fxjax.types import Codes, Photos

WHITENED = "whitened"
COUNTS = ("batch", "devices", "tries", "noise_pull", "region_weight", "pivotal_steps")  # from 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    images: Annotated[str, "photos: a folder (with all below it), a glob, or a file"]
    out: Annotated[str, "folder for all results"]
    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    features: Annotated[str, "VGG16: a model folder, a shipped model, or none"] = "faces"
    steps: Annotated[int, "optimiser steps per face"] = 500
    rate: Annotated[float, "learning rate"] = 0.05
    optimizer: Annotated[Literal["adam", "sgd", "lbfgs"], "how to search"] = "adam"
    batch: Annotated[int, "faces at once; 0 is what the free memory holds"] = 0
    loss: Annotated[
        Literal["pixels", "perceptual", "both"] | None,
        "what to compare; None is both with --features, else pixels",
    ] = None
    layers: Annotated[tuple[str, ...], "VGG16 layers of the loss"] = ("block3_conv3",)
    feature_size: Annotated[int, "pixels in which features are compared, at most"] = 256
    pixel_weight: Annotated[float, "weight of the pixels in --loss=both"] = 1.0
    start: Annotated[str, "mean, best (of --tries), encoder, or a folder or npz of codes"] = "mean"
    tries: Annotated[int, "random codes that --start=best draws"] = 100
    face: Annotated[str, "largest, all, a number (left to right), or x,y in the photo"] = "largest"
    aligned: Annotated[bool, "the pictures are aligned crops: no detection"] = False
    realign: Annotated[bool, "align even what is recognised as aligned already"] = False
    landmarks: Annotated[str | None, "file of landmarks by photo: 1.png or x/1.png"] = None
    landmark_model: Annotated[str | None, "another dlib 68-point model"] = None
    space: Annotated[str, "w+, w, whitened, or how many first rows move"] = "w+"
    settle: Annotated[float, "share of the steps in which all rows move alike"] = 0.0
    pull: Annotated[float, "weight of the codes' squared distance from the mean"] = 0.0
    noise_pull: Annotated[float, "above 0, noise images move too, held by this weight"] = 0.0
    region_weight: Annotated[float, "how often eyes, brows and mouth count in the loss"] = 1.0
    pivotal_steps: Annotated[int, "then tune the weights for each face; 350 is usual"] = 0
    pivotal_rate: Annotated[float, "learning rate of that"] = pivotal.Settings.rate
    pivotal_locality: Annotated[float, "weight that holds other faces there; 0.1"] = 0.0
    enough: Annotated[float, "stop a face whose loss is below this"] = 0.0
    dtype: Annotated[Literal["float32", "bfloat16"], "what the networks compute in"] = "float32"
    remat: Annotated[bool, "recompute rows in the backward pass: less memory, slower"] = False
    devices: Annotated[int, "how many of this machine's devices to use; 0 is all"] = 0
    strip: Annotated[bool, "also strips/NAME.png: the search at steps 0, 10, 30, 100, ..."] = False
    profile_dir: Annotated[str | None, "write a trace of a few steps there"] = None
    tensorboard: Annotated[bool, "also write scalars for TensorBoard (needs tensorboardX)"] = False
    save_seconds: Annotated[float, "how often a batch in progress is saved"] = 20.0
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


def shas(config: Config) -> dict[str, str]:
    """The sha256 of the models' files, as their cards say."""
    parts = {"generator": config.model, "features": features_of(config)}
    found = {}
    for part, name in parts.items():
        if name is not None:
            card = checkpoint.read_card(zoo.find(name))
            if part not in card["parts"]:
                raise ValueError(f"{name} has no {part}; it has {', '.join(card['parts'])}")
            found[f"{part}_sha256"] = card["parts"][part]["sha256"]
    return found


def prepare(config: Config) -> Search:
    """Loads the models and checks the settings (ValueError)."""
    least = {"steps": 1, "feature_size": 1} | dict.fromkeys(COUNTS, 0)
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise ValueError(f"--{name}={getattr(config, name)}: want {bound} or more")
    if config.aligned and config.region_weight != 1:
        raise ValueError(
            f"--region_weight={config.region_weight} needs landmarks, which --aligned does not "
            "look for; leave one of the two flags out"
        )
    local = jax.local_devices()
    if config.devices > len(local):
        raise ValueError(f"--devices={config.devices}: there are {len(local)} on this machine")
    mesh = sharding.mesh(local[: config.devices or len(local)])
    dtype = jnp.dtype(config.dtype)
    generator, features = load(config.model, part="generator", dtype=dtype), None
    if (name := features_of(config)) is not None:
        features = load(name, part="features", dtype=dtype)
    elif kind_of(config) != "pixels":
        raise ValueError(f"--loss={config.loss} needs --features=DIR, a converted VGG16")
    elif jax.process_index() == 0:
        print("no --features: the loss is pixels alone, and no LPIPS-style distance is measured")
    alike = ("steps", "rate", "optimizer", "settle", "pull", "noise_pull", "enough", "remat")
    given: dict[str, Any] = {name: getattr(config, name) for name in alike}
    settings = invert.Settings(space=space_of(config.space), **given)
    loss = make_loss(generator, features, config)
    judge = None if features is None else metrics.lpips_style(features)
    walk = whiten.of(config.model, generator) if config.space == WHITENED else generator
    models = Models(*sharding.replicate((walk, loss, judge), mesh), mesh)
    encoder = zoo.encoder_of(config.model, config.start, generator)
    return Search(
        models,
        settings,
        functools.partial(starts, models, config.start, config.tries, encoder),
        strip=config.strip,
        save_seconds=config.save_seconds,
        profile_dir=config.profile_dir,
        region_weight=config.region_weight,
    )


def tuner(config: Config, search: Search) -> Tuner | None:
    """The tuner of weights for each face, or None if there shall be none."""
    if not config.pivotal_steps:
        return None
    settings = pivotal.Settings(
        steps=config.pivotal_steps,
        rate=config.pivotal_rate,
        locality=config.pivotal_locality,
        remat=config.remat,
    )
    return Tuner(search, settings, shas(config)["generator_sha256"])


def features_of(config: Config) -> str | None:
    """The feature network's name or folder, if there is to be one."""
    return None if config.features == "none" else config.features


def kind_of(config: Config) -> str:
    """The loss's name."""
    return config.loss or ("pixels" if features_of(config) is None else "both")


def space_of(text: str) -> Any:
    """What moves: w, w+ or a number of rows. Whitened codes are alike in all rows, as w's are."""
    if text in ("w", "w+", WHITENED):
        return text.replace(WHITENED, "w")
    if text.isdecimal():
        return int(text)
    raise ValueError(f"--space={text}: want w+, w, whitened, or a number of rows")


def faces_of(config: Config, search: Search) -> Options:
    """Which faces to take."""
    return Options(
        search.models.generator.resolution,
        config.face,
        config.aligned,
        config.realign,
        config.landmarks,
        config.landmark_model,
    )


def make_loss(generator: Generator, features: Any, config: Config) -> Any:
    """The loss by name; features are divided by their mean square in the generator's mean picture.

    So every layer counts alike, and as much as pixels do. Raises ValueError for unknown layers.
    """
    kind = kind_of(config)
    if kind == "pixels":
        return losses.Pixels()
    mean = drawn(generator, invert.mean_codes(generator, 1), 1)
    weights = (1.0, 0.0 if kind == "perceptual" else config.pixel_weight)
    size = config.feature_size
    return losses.inverting(features, config.layers, mean, size=size, weights=weights)


def check_start(config: Config, search: Search, entries: Sequence[Entry]) -> None:
    """Reads all codes that --start names once: FileNotFoundError or ValueError for a bad one."""
    generator = search.models.generator
    named = config.start in ("mean", "best", zoo.ENCODER)
    if not named and not (files.given(config.start) / checkpoint.CARD).exists():
        for entry in entries:
            if entry.status == OK:
                _given(config.start, entry.name, (len(generator.rows), generator.dim))


def invert_photos(config: Config) -> list[Row]:
    """Lists the faces, inverts those that are not done yet, and writes the table and the report.

    Returns a row for every face and every refused photo; none but in the first process.
    """
    out, chief = files.absolute(config.out), jax.process_index() == 0
    sums, settings = shas(config), dataclasses.asdict(config)
    own = (*inverted.FILES, *inverted.FOLDERS)
    if not config.restart:
        journal.check(out, settings, sums)
    search = prepare(config)
    journal.begin(out, settings, sums, results=own if config.restart else ())
    if chief:
        entries = worklist.make(out, config.images, faces_of(config, search))
    else:
        entries = worklist.wait(out)
    check_start(config, search, entries)
    tuning = tuner(config, search)
    count = sum(entry.status == worklist.OK for entry in entries)
    batch = journal.agree(out, "batch", lambda: config.batch or search.batch(count))
    note = json.dumps(settings | sums | {"batch": batch})
    with inverted.Progress(out, entries, batch, tensorboard=config.tensorboard) as progress:
        told = progress.move, progress.finished
        run(out, entries, search, batch, note, *told, tuner=tuning)
    if not chief:
        return []
    rows = inverted.all_rows(out, entries)
    inverted.write_table(out, rows)
    facts = {name: str(getattr(config, name)) for name in ("model", "steps", "rate", "space")}
    facts |= {"loss": kind_of(config), "device": sharding.described()}
    inverted.write_report(out, rows, facts | {"computed in": config.dtype})
    return rows


def run(
    out: epath.Path,
    entries: Sequence[Entry],
    search: Search,
    batch: int,
    settings: str,
    progress: Callable[[float, float], None],
    finished: Callable[[Row, Sequence[float | int]], None],
    *,
    tuner: Tuner | None = None,
) -> None:
    """Does this process's share of the batches, in memory that does not grow with their number."""
    faces = [entry for entry in entries if entry.status == OK]
    enough = search.settings.enough
    me, processes = jax.process_index(), jax.process_count()
    devices = search.models.mesh.size
    kept_size, kept_place = f"size{me}", f"place{me}"
    size = journal.read(out, kept_size) or batch
    for unit in range(me * batch, len(faces), processes * batch):
        first, end = unit, min(unit + batch, len(faces))
        while first < end:
            rows = inverted.read_rows(out, first)
            if rows is not None:
                progress(len(rows), math.nan)
                first += len(rows)
                continue
            part = faces[first : min(first + size, end)]
            padded = part + [part[-1]] * (devices * math.ceil(size / devices) - len(part))
            targets = np.stack([load_image(out / "targets" / f"{e.name}.png") for e in padded])
            told = functools.partial(_tell, progress, len(part))
            try:
                found = search.run(part, targets, (out, kept_place), told)
            except jax.errors.JaxRuntimeError as error:
                what = "pictures (--remat or --dtype=bfloat16 take less)"
                size = halved(size, error, what, least=devices)
                print(f"out of memory; going on with {size} pictures at once", flush=True)
                journal.write(out, kept_size, size)
                continue
            rows = [
                _write(out, part, i, found, targets[i], settings, enough) for i in range(len(part))
            ]
            if tuner is not None:
                rows = tuner(out, part, rows, found, targets)
            for row, curve in zip(rows, found.curves, strict=False):
                finished(row, curve)
            inverted.write_rows(out, first, rows)
            journal.drop_arrays(out, kept_place)
            first += len(part)


def _tell(progress: Callable[[float, float], None], count: int, share: float, loss: float) -> None:
    progress(count * share, loss)


def _write(
    out: epath.Path,
    part: Sequence[Entry],
    i: int,
    found: Found,
    target: Any,
    settings: str,
    enough: float,
) -> Row:
    """One face's files and row."""
    entry, seconds = part[i], round(found.seconds / len(part), 3)
    curve = found.curves[i]
    finite = np.isfinite(curve)
    if not finite.all() or (found.stopped[i] and curve[-2] >= enough):
        where = "" if finite.all() else f" from step {int(np.argmin(finite))}"
        message = f"the loss or its gradient was not finite{where}; try a lower --rate"
        return Row(entry.photo, entry.name, "nonfinite", seconds=seconds, message=message)
    pictures = {"reconstructions": found.pictures[i]}
    if found.strips:
        strip = np.stack([step[i] for step in found.strips])
        pictures["strips"] = contact_sheet(strip, len(strip))
    noise = [each[i] for each in found.noise or ()]
    inverted.write_face(out, entry, found.codes[i], settings, curve.tolist(), pictures, noise)
    return Row(
        entry.photo,
        entry.name,
        OK,
        float(found.distances[i]),
        metrics.psnr(found.pictures[i], target),
        metrics.ssim(found.pictures[i], target),
        None if found.lpips is None else float(found.lpips[i]),
        seconds,
    )


def starts(
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
        return encoders.read(encoder, targets)
    generator, loss = models.generator, models.loss
    if start == "mean":
        return invert.mean_codes(generator, len(names))
    if start == "best":
        key = jax.random.key(0)  # the same tries for every batch, so that batches do not matter
        return invert.best_random(generator, loss, goal, key, tries)
    shape = len(generator.rows), generator.dim
    return jnp.asarray(np.stack([_given(start, name, shape) for name in names]))


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
