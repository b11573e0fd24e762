"""Where labelled faces come from: rated faces, pasted mouths, samples, renders.

Pasted mouths make pairs of one face with and without a smile. They come from a few donors, and a
face gets that of the donor who fits it best, by pose and by the colours around the mouth: what a
face looks like with another expression then follows from the face, so that a network can learn to
draw it sharply, where many donors teach it their blurred mean. Mouths are blended in by Poisson's
equation (`fxjax.faces.paste`); a picture stays if the expression reader finds what it is to be.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from fxjax import assess, load, tables
from fxjax.codes import smile_samples
from fxjax.codes.smile_samples import Limits, Reader, Sample, smile
from fxjax.faces import align, expression, paste
from fxjax.faces.align import Landmarks
from fxjax.labels import training
from fxjax.training import data
from fxjax.types import Photo

# Manipulations that turn a straight face into a smile or back; others show the same 30 again.
SMILING = ("dominant", "outgoing", "trustworthy")
PAIRED = (
    "pairs",
    "pasted",
    "renders",
)  # sources in which one person's pictures differ in expression alone
CLOSED = 0.05  # the most that the jaw of a straight face is open
POSE = 2.0  # how much more it counts than colours, which blending adapts
COLOURS = 3  # last numbers of a fit
GOALS = ("neutral", "happiness")

Fit = Float[np.ndarray, " 5"]
Face = tuple[str, str, Photo]  # name, person, picture


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    data: Annotated[str, "folder or zip of rated faces; empty: none"] = ""
    table: Annotated[str, "its CSV: filename,happy,kind,source_id,attribute"] = ""
    donors: Annotated[
        int, "rated faces of each expression that lend the others their mouths, for pairs; 0: none"
    ] = 8
    receivers: Annotated[int, "samples of the generator that get the donors' mouths too"] = 2000
    renders: Annotated[
        str, "zip of experiments.making.render_faces, its .csv beside it; empty: none"
    ] = ""
    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    samples: Annotated[int, "pictures of the generator that are tried, pairs included"] = 8000
    psi: Annotated[float, "truncation of the samples"] = 0.8
    seed: Annotated[int, "the samples' first seed"] = 0
    dst: Annotated[str, "zip to write; its table goes beside it as .csv"] = "runs/labels.zip"
    size: Annotated[int, "side of the pictures in pixels"] = 128
    most: Annotated[int, "pictures of one source and expression at most"] = 2000
    neutral_most: Annotated[float, "highest rating of happiness that is neutral"] = 35.0
    happy_least: Annotated[float, "lowest rating of happiness that is happiness"] = 65.0
    no_smile: Annotated[float, "largest smile that is read of a straight face"] = 0.08
    smile: Annotated[float, "least smile that is read of a happy one"] = 0.4


def rated(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    """Rated faces and mouths pasted into them: source, whether held back, and sample of each."""
    limits = Limits(config.no_smile, config.smile)
    thresholds = training.Thresholds(config.neutral_most, config.happy_least)
    trained = []
    labels, apart = training.read_labels(config.table, thresholds)
    rows = {row["filename"]: row for row in data.read_table(config.table)}
    pictures, names = data.read_pictures(config.data, config.size)
    data.refuse_repeated(names, f"pictures in {config.data}")
    if missing := [name for name in names if name not in rows]:
        raise ValueError(f"{config.table} lacks {len(missing)} pictures, first {missing[0]}")
    for name, picture in zip(names, pictures, strict=True):
        row, label, source = rows[name], labels[name], "rated"
        person = f"{row.get('kind', '')}{row.get('source_id', name)}"
        if not apart[name]:
            trained.append((name, person, picture))
        if not label and row.get("attribute") in SMILING:
            label, source = limits.name(reader(picture)), "manipulated"
        if label:
            yield source, apart[name], Sample(name, picture, label, person)
    if config.donors:
        wanted = {"donors": config.donors, "receivers": _receivers(config)}
        for each in pasted_pairs(trained, reader, limits, **wanted):
            yield "pasted", False, each


def _receivers(config: Config) -> list[Face]:
    """Samples of the generator after those that `drawn` takes: name, person, picture."""
    if not config.receivers:
        return []
    generator = load(config.model, part="generator")
    first = config.seed + config.samples
    numbers = range(first, first + config.receivers)
    codes = smile_samples.codes(generator, numbers, config.psi)
    pictures = smile_samples.drawn(generator, codes, numbers, config.size)
    return [
        (f"{number}.jpg", f"sample{number}", picture)
        for number, picture in zip(numbers, pictures, strict=True)
    ]


def drawn(config: Config, reader: Reader) -> Iterator[tuple[str, bool, Sample]]:
    """Samples of the generator and pairs of them: source, whether held back, and sample."""
    limits = Limits(config.no_smile, config.smile)
    generator = load(config.model, part="generator")
    wanted = {"count": config.samples, "seed": config.seed, "psi": config.psi, "size": config.size}
    found = smile_samples.labelled(generator, reader, limits, **wanted)
    print(found.summary())
    for each in found.samples:
        yield each.name.partition("_")[0] + "s", training.is_apart(each.person), each


def rendered(config: Config) -> Iterator[tuple[str, bool, Sample]]:
    """Rendered faces: source, whether held back, and sample of each."""
    pictures, names = data.read_pictures(config.renders, config.size)
    table = data.table_of(config.renders)
    rows = {row.get("file"): row for row in tables.read(table)}
    for name, picture in zip(names, pictures, strict=True):
        if not {"expression", "person"} <= rows.get(name, {}).keys():
            raise ValueError(f"{table} has no expression and person of {name}; render again")
        label, person = rows[name]["expression"], rows[name]["person"]
        yield "renders", training.is_apart(person), Sample(name, picture, label, person)


class Seen(NamedTuple):
    """A face, its expression ("": unclear), and what a mouth must fit: pose, then colours."""

    face: Sample
    landmarks: Landmarks
    fit: Fit


def pasted_pairs(
    faces: Sequence[Face],
    reader: Reader,
    limits: Limits,
    *,
    donors: int,
    receivers: Sequence[Face] = (),
) -> list[Sample]:
    """Both pictures of each pair, as `Sample.person`.

    One picture of each person and expression takes part. Where a face has one of the expressions
    itself, its own picture stands for it; `donors` faces of each lend their mouths. `receivers`,
    pictures whose own mouths are not good enough, get both.
    """
    known = _seen(faces, reader, limits)
    if not known:
        return []
    width = np.std([each.fit for each in known], axis=0) + 1e-6
    width[:-COLOURS] /= POSE
    seen, others = (
        [each._replace(fit=each.fit / width) for each in part]
        for part in (known, _seen(receivers, reader, limits))
    )
    others = [each._replace(face=each.face._replace(expression="")) for each in others]
    lenders = {goal: _medoids(seen, goal, donors) for goal in GOALS}
    found = []
    for own in tqdm([*seen, *others], "pasted mouths", disable=None):
        person = f"{own.face.person}of{own.face.expression or 'neither'}"
        both = [_with(own, goal, lenders[goal], reader, limits) for goal in GOALS]
        if all(picture is not None for picture in both):
            found += [
                Sample(f"pasted_{person}_{goal}.jpg", picture, goal, person)
                for goal, picture in zip(GOALS, both, strict=True)
                if picture is not None
            ]
    return found


def _with(
    own: Seen, goal: str, lenders: Sequence[Seen], reader: Reader, limits: Limits
) -> Photo | None:
    """The face with an expression: as it is, or with the mouth that fits; None if that fails."""
    if own.face.expression == goal:
        return own.face.picture
    others = [each for each in lenders if each.face.person != own.face.person]
    if not others:
        return None
    other = min(others, key=lambda each: float(np.linalg.norm(each.fit - own.fit)))
    try:
        mixed = paste.paste(
            own.face.picture, own.landmarks, other.face.picture, other.landmarks, region="mouth"
        )
    except ValueError:  # too small to be pasted
        return None
    return mixed if limits.name(reader(mixed)) == goal else None


def _medoids(seen: Sequence[Seen], goal: str, count: int) -> list[Seen]:
    """Faces of an expression that fit all faces best: each next one is what helps most (greedy)."""
    able = [each for each in seen if each.face.expression == goal]
    if not able:
        return []
    everyone = np.stack([each.fit for each in seen])
    apart = np.stack([np.linalg.norm(everyone - each.fit, axis=1) for each in able])
    chosen: list[int] = []
    nearest = np.full(len(seen), np.inf)
    for _ in range(min(count, len(able))):
        costs = np.minimum(apart, nearest).sum(axis=1)
        costs[chosen] = np.inf
        chosen.append(int(np.argmin(costs)))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    return [able[k] for k in chosen]


def _seen(faces: Sequence[Face], reader: Reader, limits: Limits) -> list[Seen]:
    known, seen, jaw = set(), [], expression.names().index("jawOpen")
    for name, person, picture in tqdm(faces, "landmarks", disable=None):
        landmarks = reader.landmarks(picture)
        if landmarks is None or not align.is_aligned(picture, landmarks):
            continue  # no face, or one that lies on its side, as generators draw a few
        label = limits.name(smile(landmarks))
        if label == "neutral" and float(expression.read(landmarks)[jaw]) > CLOSED:
            label = ""  # no smile, but no straight face either
        if (person, label) in known:
            continue
        known.add((person, label))
        fit = np.concatenate([assess.pose(landmarks), _colours(picture, landmarks)])
        seen.append(Seen(Sample(name, picture, label, person), landmarks, fit))
    return seen


def _colours(picture: Photo, landmarks: Landmarks) -> Float[np.ndarray, " 3"]:
    """The mean around the mouth, within the jaw, in CIE Lab."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    jaw, mouth = (
        (landmarks[each] + 0.5).astype(np.int32) for each in ([*range(4, 13), 33], [*range(48, 60)])
    )
    cv2.fillPoly(mask, [cv2.convexHull(jaw)], (1,))
    cv2.fillPoly(mask, [cv2.convexHull(mouth)], (0,))
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab[mask > 0].mean(axis=0) if mask.any() else np.zeros(3)
