"""A sweep of losses: the same faces inverted with each, their measures, means, and who wins.

Behind `experiments.sweep_losses`: its flags, its losses, and one loss's run.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import files, metrics
from fxjax.faces import detect
from fxjax.faces.align import Landmarks, eye_distance
from fxjax.images import from_uint8, load_image
from fxjax.losses import Normalized
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import inversion, inverted
from fxjax.runs.worklist import OK, Entry
from fxjax.types import AnyPhoto

PAPER = "block3_conv3"  # the layer of arXiv:1912.06253
ENOUGH = 0.9  # of the faces that others measure: a loss must not win by the few easy ones
PIXELS = "pixels"
Default = inversion.Config  # has the only place of its defaults


class Result(NamedTuple):
    """A line of results.csv: one face and one loss, or a refused photo (no loss).

    `identity` is dlib's distance, and `landmarks` the mean distance of the 68 points in parts of
    the distance between the eyes' centres. `found` is 1 if a face is found in the reconstruction.
    Where the detector finds none in the target itself, these three are empty; where it finds none
    in the reconstruction, `landmarks` is, and `identity` is taken at the target's landmarks, so
    that no loss gains by losing faces.
    """

    photo: str
    name: str
    layer: str
    status: str
    loss: float | None = None
    identity: float | None = None
    landmarks: float | None = None
    found: int | None = None
    lpips: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    message: str = ""


class Measure(NamedTuple):
    """A field of `Result` that losses compete in."""

    field: str
    title: str
    more: bool
    digits: int


MEASURES = (
    Measure("identity", "identity distance", False, 3),
    Measure("landmarks", "landmark error", False, 3),
    Measure("lpips", "LPIPS-style", False, 3),
    Measure("psnr", "PSNR", True, 2),
    Measure("ssim", "SSIM", True, 3),
)


class Mean(NamedTuple):
    """A mean and half of its 95 % interval (Student's t; None for a single number)."""

    value: float
    margin: float | None
    count: int


class Verdict(NamedTuple):
    """Who wins, and how the paper's layer does.

    `lead` is by how much PAPER is better than `rival` (the winner, or the next if it wins) over the
    faces that both have, and None if PAPER does not compete or nobody else does.
    """

    winner: str
    rival: str | None
    lead: Mean | None

    @property
    def clear(self) -> bool:
        """Whether the interval of the lead leaves out 0."""
        lead = self.lead
        return lead is not None and lead.margin is not None and abs(lead.value) > lead.margin


class Judge:
    """Measures reconstructions by what is saved of them; loads dlib's models when first needed."""

    def __init__(self, distance: Normalized, landmark_model: str | None = None):
        self.distance, self.landmark_model = distance, landmark_model
        self.targets: dict[str, tuple[Landmarks, np.ndarray] | None] = {}  # found once per face

    @functools.cached_property
    def _detector(self) -> detect.Detector:
        return detect.Detector(self.landmark_model)

    @functools.cached_property
    def _identity(self) -> detect.Identity:
        return detect.Identity()

    def __call__(
        self, name: str, target: AnyPhoto, picture: AnyPhoto
    ) -> dict[str, float | int | None]:
        """The measures of one face that an inversion's row lacks; `name` is the target's."""
        lpips = _distance(self.distance, jnp.asarray(picture[None]), jnp.asarray(target[None]))
        found: dict[str, float | int | None] = {"lpips": float(lpips)}
        if name not in self.targets:
            places = self._landmarks(target)
            own = max(places, key=lambda points: float(np.ptp(points, axis=0).prod()), default=None)
            self.targets[name] = None if own is None else (own, self._identity(target, own))
        known = self.targets[name]
        if known is None:
            return {**found, "identity": None, "landmarks": None, "found": None}
        wanted, who = known
        apart = lambda points: float(np.linalg.norm(points - wanted, axis=1).mean())
        places = sorted(self._landmarks(picture), key=apart)
        eyes = eye_distance(wanted)
        there = self._identity(picture, places[0] if places else wanted)
        return {
            **found,
            "identity": float(np.linalg.norm(there - who)),
            "landmarks": apart(places[0]) / eyes if places else None,
            "found": int(bool(places)),
        }

    def _landmarks(self, picture: AnyPhoto) -> list[Landmarks]:
        try:
            return [face.landmarks for face in self._detector(picture)]
        except ValueError:  # too small to hold a face
            return []


@jax.jit
def _distance(distance: Any, pictures: Any, targets: Any) -> Any:
    embedded = (distance.embed(from_uint8(images)) for images in (pictures, targets))
    return distance.distance(*embedded)[0]


def refused(entries: Sequence[Entry]) -> list[Result]:
    """Lines of the photos and faces that are not inverted."""
    return [
        Result(entry.photo, entry.name, "", entry.status, message=entry.message)
        for entry in entries
        if entry.status != OK
    ]


def measure(
    judge: Judge, layer: str, folder: epath.Path, rows: Sequence[inverted.Row]
) -> list[Result]:
    """One loss's lines. A face's measures are kept in measures/NAME.json and not taken again."""
    results = []
    for row in rows:
        shared = Result(row.photo, row.name, layer, row.status, row.loss, message=row.message)
        shared = shared._replace(psnr=row.psnr, ssim=row.ssim, seconds=row.seconds)
        if row.status == OK:
            place = folder / "measures" / f"{row.name}.json"
            if not place.exists():
                pictures = [
                    load_image(folder / kind / f"{row.name}.png")
                    for kind in ("targets", "reconstructions")
                ]
                files.write(place, json.dumps(judge(row.name, *pictures)).encode())
            shared = shared._replace(**json.loads(place.read_text()))
        results.append(shared)
    return results


def mean(values: Sequence[float | int]) -> Mean | None:
    """The mean with its 95 % interval; None of nothing."""
    count = len(values)
    if not count:
        return None
    if count == 1 or not np.isfinite(values).all():
        return Mean(float(np.mean(values)), None, count)
    value, margin = metrics.interval(values)
    return Mean(value, margin, count)


def by_face(results: Sequence[Result], layer: str, field: str) -> dict[str, float | int]:
    """One loss's measured numbers."""
    of_layer = [result for result in results if result.layer == layer]
    numbers = {result.name: getattr(result, field) for result in of_layer}
    return {name: float(number) for name, number in numbers.items() if number is not None}


def lost(results: Sequence[Result], layer: str) -> int:
    """In how many reconstructions no face is found, of targets in which one is."""
    return sum(result.layer == layer and result.found == 0 for result in results)


def verdict(results: Sequence[Result], layers: Sequence[str], measure: Measure) -> Verdict | None:
    """Who wins a measure by its mean; None if there are no numbers."""
    numbers = {layer: by_face(results, layer, measure.field) for layer in layers}
    least = ENOUGH * max((len(each) for each in numbers.values()), default=0)
    means = {
        layer: float(np.mean(list(each.values())))
        for layer, each in numbers.items()
        if each and len(each) >= least
    }
    order = sorted(means, key=lambda layer: means[layer], reverse=measure.more)
    if not order:
        return None
    rival = order[0] if order[0] != PAPER else next(iter(order[1:]), None)
    if PAPER not in means or rival is None:
        return Verdict(order[0], None, None)
    sign = 1 if measure.more else -1
    both = numbers[PAPER].keys() & numbers[rival].keys()
    leads = [sign * (numbers[PAPER][name] - numbers[rival][name]) for name in sorted(both)]
    return Verdict(order[0], rival, mean(leads))


def write_tables(out: epath.Path, layers: Sequence[str], results: Sequence[Result]) -> None:
    """Writes results.csv and layers.csv."""
    files.write_lines(out / "results.csv", [Result._fields, *results], digits=6)
    head = ["layer", "faces", "no_face"]
    for measure in MEASURES:
        head += [measure.field, f"{measure.field}_margin"]
    lines: list[Sequence[Any]] = [head]
    for layer in layers:
        done = sum(result.layer == layer and result.status == OK for result in results)
        cells: list[Any] = [layer, done, lost(results, layer)]
        for measure in MEASURES:
            found = mean(list(by_face(results, layer, measure.field).values()))
            cells += [None, None] if found is None else [found.value, found.margin]
        lines.append(cells)
    files.write_lines(out / "layers.csv", lines, digits=6)


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


def invert(
    config: Config,
    name: str,
    out: epath.Path,
    entries: Sequence[Entry],
    batch: int,
    shas: Mapping[str, str],
) -> list[inverted.Row]:
    """Inverts the faces with one loss, as far as that is not done, and returns all their rows.

    With several processes each does its share, and only the first waits for and has the rows.
    """
    folder, chief = folder_of(out, name), jax.process_index() == 0
    faces = [entry for entry in entries if entry.status == OK]
    if (folder / "report.html").exists() and inverted.all_done(folder, faces):
        return inverted.all_rows(folder, faces)
    single = inversion_of(config, name)
    for entry in faces:
        path = folder / "targets" / f"{entry.name}.png"
        if not path.exists():
            files.write(path, (out / "targets" / path.name).read_bytes())
    search = inversion.prepare(single)
    note = json.dumps({**dataclasses.asdict(single), **shas, "batch": batch})
    with inverted.Progress(folder, faces, batch, tensorboard=False) as progress:
        inversion.run(folder, faces, search, batch, note, progress.move, progress.finished)
    if not chief:
        return []
    rows = inverted.all_rows(folder, faces)
    inverted.write_table(folder, rows)
    inverted.write_report(folder, rows, {"loss": name})
    return rows
