"""The inversions behind `experiments.sweep_losses`: its flags, its losses, and one loss's run."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from fxjax import files
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import inversion, runfolder
from fxjax.runs.progress import Progress
from fxjax.runs.worklist import OK, Entry

PIXELS = "pixels"
Default = inversion.Config  # has the only place of its defaults


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag. Adam alone is offered: other optimisers feel a loss's scale."""

    model: Annotated[str, "generator: a model folder or the name of a model of fxjax"]
    features: Annotated[str, "VGG16 model folder"]
    images: Annotated[str, "photos: a folder (with all below it), a glob, or a file"]
    out: Annotated[str, "folder for all results"]
    layers: Annotated[tuple[str, ...], "VGG16 layers to try; empty is all there are"] = ()
    heads: Annotated[str | None, "model folder of LPIPS heads; else all channels count alike"] = (
        None
    )
    steps: Annotated[int, "Adam steps per face"] = Default.steps
    rate: Annotated[float, "learning rate"] = Default.rate
    batch: Annotated[int, "faces at once; 0 is what the free memory holds"] = Default.batch
    start: Annotated[str, "mean, codes.npz, or a folder of NAME.npz"] = "mean"
    face: Annotated[str, "largest, all, a number (left to right), or x,y"] = Default.face
    aligned: Annotated[bool, "the pictures are aligned crops"] = Default.aligned
    realign: Annotated[bool, "align even what is recognised as aligned"] = Default.realign
    landmarks: Annotated[str | None, "file of landmarks to cut faces out by"] = Default.landmarks
    landmark_model: Annotated[str | None, "another dlib 68-point model"] = Default.landmark_model
    settle: Annotated[float, "share of the steps in which all rows move alike"] = Default.settle
    dtype: Annotated[Literal["float32", "bfloat16"], "for the networks"] = Default.dtype
    remat: Annotated[bool, "recompute rows in the backward pass: less memory"] = Default.remat
    devices: Annotated[int, "how many of this machine's devices; 0 is all"] = Default.devices
    save_seconds: Annotated[float, "how often a batch in progress is saved"] = Default.save_seconds
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


def losses(features: VGG16, layers: Sequence[str], size: int) -> list[str]:
    """Pixels, then the layers in the network's order.

    Raises ValueError for unknown layers, and those that have no pixels for pictures of `size`.
    """
    chosen = [name for name in dict.fromkeys(layers or features.names) if name != PIXELS]
    picture = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps = jax.eval_shape(lambda x: features(x, chosen), picture) if chosen else {}
    if empty := [name for name in chosen if not maps[name].size]:
        raise ValueError(
            f"pictures of {size} px are too small for {', '.join(empty)}; give other --layers"
        )
    place = {name: index for index, name in enumerate(features.names)}
    return [PIXELS, *sorted(chosen, key=lambda name: place[name.removesuffix("_linear")])]


def inversion_of(config: Config, name: str) -> inversion.Config:
    """The inversion with one loss.

    The losses meet on equal terms: the same start, steps and rate; and `inversion` divides a layer
    by its mean square in the generator's mean picture, so that a distance is a share of what there
    is. Adam's steps do not change with a loss's scale while gradients are far above its eps, 1e-8,
    and this keeps them there for layers whose magnitudes differ by orders.
    """
    if config.start == "best":
        raise ValueError("--start=best: the best start depends on the loss; give mean or codes")
    fields = [field.name for field in dataclasses.fields(inversion.Config)]
    shared = {field: getattr(config, field) for field in fields if hasattr(config, field)}
    own: dict[str, Any] = {"loss": "pixels", "layers": Default.layers}
    if name != PIXELS:
        own = {"loss": "perceptual", "layers": (name,)}
    return inversion.Config(**{**shared, **own, "restart": False})


def folder_of(out: epath.Path, name: str) -> epath.Path:
    """Where a loss's results are: a folder like that of `experiments.invert`."""
    return out / "losses" / name


def clear(out: epath.Path) -> None:
    """Removes what an earlier sweep left in `out`, if there was one."""
    if (out / "state" / "run.json").exists():
        (out / "layers.csv").unlink(missing_ok=True)
        (out / "losses").rmtree(missing_ok=True)


def invert(
    config: Config,
    name: str,
    out: epath.Path,
    entries: Sequence[Entry],
    batch: int,
    shas: Mapping[str, str],
) -> list[runfolder.Row]:
    """Inverts the faces with one loss, as far as that is not done, and returns all their rows.

    With several processes each does its share, and only the first waits for and has the rows.
    """
    folder, chief = folder_of(out, name), jax.process_index() == 0
    faces = [entry for entry in entries if entry.status == OK]
    if (folder / "report.html").exists() and (rows := _done(folder, faces)) is not None:
        return rows
    single = inversion_of(config, name)
    for entry in faces:
        path = folder / "targets" / f"{entry.name}.png"
        if not path.exists():
            files.write(path, (out / "targets" / path.name).read_bytes())
    search = inversion.prepare(single)
    note = json.dumps({**dataclasses.asdict(single), **shas, "batch": batch})
    with Progress(folder, faces, batch, tensorboard=False) as progress:
        inversion.run(folder, faces, search, batch, note, progress.move, progress.finished)
    if not chief:
        return []
    rows = runfolder.all_rows(folder, faces, patient=jax.process_count() > 1)
    runfolder.write_table(folder, rows)
    runfolder.write_report(folder, rows, {"loss": name})
    return rows


def _done(folder: epath.Path, faces: Sequence[Entry]) -> list[runfolder.Row] | None:
    try:
        return runfolder.all_rows(folder, faces, patient=False)
    except RuntimeError:
        return None
