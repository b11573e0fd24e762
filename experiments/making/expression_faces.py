"""Random faces of ICT-FaceKit as landmarks, such as dlib would find, with their coefficients.

Only the 68 landmark vertices are used. Each face has an identity, an expression made of gestures
that people combine, a pose and a camera; then what tells dlib's points from a mesh's vertices is
imitated: brows that lie lower, a jaw whose points slide along the outline, noise of single points
and of parts. `check` compares what the reader of expressions says of pictures with other judges.
"""

import collections
import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files, metrics, tables
from fxjax.faces import detect, expression
from fxjax.training import data

# How often a gesture is made (both sides of a face count as one), and how far it goes at most.
USUAL = (0.12, 1.0)
GESTURES = {
    "jawOpen": (0.4, 0.8),
    "mouthSmile": (0.35, 1.0),
    "eyeBlink": (0.3, 1.0),
    "eyeSquint": (0.3, 1.0),
    "browDown": (0.25, 1.0),
    "browInnerUp": (0.25, 1.0),
    "browOuterUp": (0.25, 1.0),
    "mouthClose": (0.1, 1.0),  # of jawOpen
    "jawForward": (0.1, 0.6),
    "mouthRollLower": (0.1, 0.7),
    "mouthRollUpper": (0.1, 0.7),
    "jawLeft": (0.05, 0.6),
    "jawRight": (0.05, 0.6),
    "mouthLeft": (0.05, 0.6),
    "mouthRight": (0.05, 0.6),
}
PARTS = (range(0, 17), range(17, 22), range(22, 27), range(27, 36), range(36, 42))
PARTS += (range(42, 48), range(48, 68))
SMILE = ("mouthSmile_L", "mouthSmile_R")
LABELLED = 80  # pictures of each label that are looked at


class LandmarkModel(NamedTuple):
    """The landmark vertices of the morphable face, in centimetres."""

    neutral: Float[np.ndarray, "68 3"]
    identity: Float[np.ndarray, "identities 68 3"]
    expression: Float[np.ndarray, "coefficients 68 3"]
    names: tuple[str, ...]


class SampledFaces(NamedTuple):
    """Landmarks in units of the distance between the eyes, and what made them."""

    landmarks: Float[np.ndarray, "count 68 2"]
    coefficients: Float[np.ndarray, "count coefficients"]
    angles: Float[np.ndarray, "count 2"]
    """Yaw (positive: to the picture's right) and pitch (up) in degrees."""


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of ict_facekit.npz by name, for as long as they are read.

    Raises FileNotFoundError; ValueError if reading them in the block fails.
    """
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no face model at {source}; give ict_facekit.npz")
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # zip and numpy have a dozen kinds of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is no ICT-FaceKit file: {reason}") from None


def load(path: epath.PathLike) -> LandmarkModel:
    """Reads ict_facekit.npz. Raises FileNotFoundError or ValueError."""
    with opened(path) as arrays:
        spots = arrays["landmarks68"]
        neutral, identity, moves = (
            arrays[name][..., spots, :].astype(np.float64)
            for name in ("neutral", "identity_basis", "expression_basis")
        )
        names = tuple(str(name) for name in arrays["expression_names"])
    return LandmarkModel(neutral, identity, moves, names)


def sample(model: LandmarkModel, rng: np.random.Generator, count: int) -> SampledFaces:
    """Random faces as dlib might see them."""
    spread = rng.uniform(0.8, 1.4, (count, 1))
    people = rng.standard_normal((count, len(model.identity))) * spread
    coefficients = expressions(model.names, rng, count)
    points = np.repeat(model.neutral[None], count, axis=0)
    points += np.tensordot(people, model.identity, axes=1)
    points += np.tensordot(coefficients, model.expression, axes=1)
    width = np.ptp(model.neutral[:, 0])
    points[:, 17:27, 1] -= width * rng.uniform(0.03, 0.08, (count, 1))  # where dlib puts brows
    angles = np.stack([_angles(rng, count, 35), _angles(rng, count, 20)], axis=1)
    seen = project(points, angles, np.exp(rng.uniform(np.log(40), np.log(300), count)))
    eyes = seen[:, 36:42].mean(1) - seen[:, 42:48].mean(1)
    seen /= np.linalg.norm(eyes, axis=1)[:, None, None]
    return SampledFaces(blurred(seen, rng), coefficients, angles)


def expressions(
    names: tuple[str, ...], rng: np.random.Generator, count: int
) -> Float[np.ndarray, "count coefficients"]:
    """Random expressions in 0..1: few gestures at a time, most of them alike on both sides."""
    drawn: dict[str, np.ndarray] = {}
    crooked = rng.random(count) < 0.2
    for base in sorted({name.removesuffix("_L").removesuffix("_R") for name in names}):
        often, most = GESTURES.get(base, USUAL)
        amount = most * rng.random(count) * (rng.random(count) < often)
        for name in (base, f"{base}_L", f"{base}_R"):
            one_sided = np.where(crooked, rng.random(count), rng.uniform(0.9, 1, count))
            drawn[name] = amount * (one_sided if name != base else 1.0)
    drawn["jawOpen"] *= rng.random(count)  # mostly a little
    toothy = (rng.random(count) < 0.6) * (drawn["mouthSmile_L"] + drawn["mouthSmile_R"]) / 2
    most = {"mouthUpperUp": 0.7, "mouthLowerDown": 0.7, "cheekSquint": 1.0, "eyeSquint": 0.6}
    for base, share in most.items():  # what comes with a smile that shows teeth
        extra = share * toothy * rng.random(count)
        for side in "LR":
            drawn[f"{base}_{side}"] = np.maximum(drawn[f"{base}_{side}"], extra)
    drawn["mouthClose"] *= drawn["jawOpen"]
    for one, other in (("jawLeft", "jawRight"), ("mouthLeft", "mouthRight")):
        drawn[other] *= drawn[one] == 0
    across, up = rng.uniform(-1, 1, (2, count)) * (rng.random(count) < 0.4)
    for side, sign in (("L", 1), ("R", -1)):  # the eyes look the same way
        drawn[f"eyeLookOut_{side}"] = np.maximum(sign * across, 0)
        drawn[f"eyeLookIn_{side}"] = np.maximum(-sign * across, 0)
        drawn[f"eyeLookUp_{side}"] = np.maximum(up, 0)
        drawn[f"eyeLookDown_{side}"] = np.maximum(-up, 0)
        drawn[f"eyeWide_{side}"] *= drawn[f"eyeBlink_{side}"] == 0
    return np.stack([drawn[name] for name in names], axis=1)


def project(
    points: Float[np.ndarray, "count 68 3"],
    angles: Float[np.ndarray, "count 2"],
    away: Float[np.ndarray, " count"],
) -> Float[np.ndarray, "count 68 2"]:
    """The picture of heads turned by yaw and pitch, from a camera so many centimetres away.

    x to the right, y down. The face's +x is the subject's left, which is the picture's right.
    """
    centred = points - points.mean(axis=1, keepdims=True)
    sin_yaw, sin_pitch = np.sin(np.radians(angles)).T
    cos_yaw, cos_pitch = np.cos(np.radians(angles)).T
    nodding = np.zeros((len(points), 3, 3))
    nodding[:, 0, 0], nodding[:, 1, 1], nodding[:, 1, 2] = 1, cos_pitch, sin_pitch
    nodding[:, 2, 1], nodding[:, 2, 2] = -sin_pitch, cos_pitch
    turning = np.zeros((len(points), 3, 3))
    turning[:, 0, 0], turning[:, 0, 2], turning[:, 1, 1] = cos_yaw, sin_yaw, 1
    turning[:, 2, 0], turning[:, 2, 2] = -sin_yaw, cos_yaw
    moved = centred @ np.swapaxes(nodding @ turning, 1, 2)
    depth = 1 - moved[..., 2:] / away[:, None, None]
    return moved[..., :2] * np.array([1, -1]) / depth


def blurred(
    seen: Float[np.ndarray, "count 68 2"], rng: np.random.Generator
) -> Float[np.ndarray, "count 68 2"]:
    """Landmarks as a detector gives them, where the eyes are 1 apart."""
    count = len(seen)
    points = seen.copy()
    places = np.arange(17) + rng.normal(0, 0.4, (count, 1)) + rng.normal(0, 0.2, (count, 17))
    low = np.clip(np.floor(places), 0, 15).astype(int)
    part = (places - low)[..., None]
    rows = np.arange(count)[:, None]
    points[:, :17] = seen[rows, low] * (1 - part) + seen[rows, low + 1] * part
    points[:, :17, 1] += rng.uniform(0, 0.12, (count, 1))  # dlib's chin is the outline's lowest
    for above, below in ((61, 67), (62, 66), (63, 65)):  # lips that cross look closed
        crossed = np.maximum(points[:, above, 1] - points[:, below, 1], 0) / 2
        points[:, above, 1] -= crossed
        points[:, below, 1] += crossed
    for part_of in PARTS:
        points[:, list(part_of)] += rng.normal(0, 0.01, (count, 1, 2))
    points += rng.normal(0, 1, points.shape) * rng.uniform(0.01, 0.025, (count, 1, 1))
    return points


def _angles(rng: np.random.Generator, count: int, most: int) -> Float[np.ndarray, " count"]:
    """Half of them anywhere up to `most` degrees either way, half of them small."""
    wide = rng.random(count) < 0.5
    return np.where(wide, rng.uniform(-most, most, count), rng.normal(0, most / 5, count))


def check(weights: expression.Weights, folder: epath.PathLike | None) -> None:
    """Prints the reliabilities, and with a data folder the checks on its pictures."""
    order = np.argsort(-weights.reliability)
    listed = ", ".join(f"{weights.names[i]} {weights.reliability[i]:.2f}" for i in order)
    print(f"reliability (R2 on new faces): {listed}")
    if folder is None:
        return
    rows, values = read_good(folder, "omi/omi_train.csv", "omi/omi_train_landmarks.npz", weights)
    _manipulated(rows, values, weights)
    base = [i for i, row in enumerate(rows) if row["kind"] == "base"]
    smile = _mean(values, weights, SMILE)
    happy = np.array([rows[i].float("happy") for i in base])
    print(
        f"omi: rank correlation of mouthSmile with the rating happy, {len(base)} base faces: "
        f"{metrics.rank_correlation(smile[base], happy):.2f}"
    )
    rows, values = read_good(
        folder, "portraits/portraits.csv", "portraits/portraits_landmarks.npz", weights
    )
    smile = _mean(values, weights, SMILE)
    score = np.array([row.float("smile_score") for row in rows])
    print(
        f"portraits: rank correlation of mouthSmile with smile_score, {len(rows)} faces: "
        f"{metrics.rank_correlation(smile, score):.2f}"
    )
    straight = labelled(folder, weights, "neutral", LABELLED)
    for label, names in {"happiness": SMILE, "surprise": ("jawOpen",)}.items():
        values = labelled(folder, weights, label, LABELLED)
        area = area_under(_mean(straight, weights, names), _mean(values, weights, names))
        print(
            f"expressions: {names[0]} tells {len(values)} of {label} from {len(straight)} neutral "
            f"ones, one per person: area under the curve {area:.2f}"
        )


def labelled(
    folder: epath.PathLike, weights: expression.Weights, label: str, count: int
) -> np.ndarray:
    """Coefficients of the first pictures with a label in expressions/, one per person."""
    base, detector, found = files.absolute(folder) / "expressions", detect.Detector(), []
    rows = tables.read(base / "train.csv")
    people = {row["person"]: row for row in rows if row["expression"] == label}
    with (base / "train_128_gray.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        inside = {name.rsplit("/", 1)[-1]: name for name in archive.namelist()}
        for row in sorted(people.values(), key=lambda row: row["file"])[:count]:
            encoded = np.frombuffer(archive.read(inside[row["file"]]), np.uint8)
            picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            if picture is None:
                raise ValueError(f"{base}: {row['file']} is not a picture")
            if faces := detector(picture):
                found.append(detect.choose(faces)[0].landmarks)
    return expression.outputs(np.stack(found), weights)[:, :-2]


def area_under(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`: the area under the ROC curve."""
    above = high[:, None] - low[None]
    return float(np.mean(above > 0) + np.mean(above == 0) / 2)


def read_good(
    folder: epath.PathLike, table: str, points: str, weights: expression.Weights
) -> tuple[list[tables.Row], np.ndarray]:
    """Rows of a table whose landmarks are good, and the coefficients of their faces."""
    base = files.absolute(folder)
    with (base / points).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        good = arrays["check_px"] <= 4 if "check_px" in arrays else arrays["score"] > 0
        found = {
            str(name): face
            for name, face, fine in zip(arrays["filename"], arrays["landmarks"], good, strict=True)
            if fine
        }
    rows = [row for row in data.read_table(base / table) if row["filename"] in found]
    landmarks = np.stack([found[row["filename"]] for row in rows])
    return rows, expression.outputs(landmarks, weights)[:, :-2]


def _mean(values: np.ndarray, weights: expression.Weights, names: tuple[str, ...]) -> np.ndarray:
    return values[:, [weights.names.index(name) for name in names]].mean(axis=1)


def _manipulated(rows: list[tables.Row], values: np.ndarray, weights: expression.Weights) -> None:
    """How attributes change one person's smile, and the whole expression, from level 0 to 2."""
    faces: dict[tuple[str, str], dict[str, np.ndarray]] = collections.defaultdict(dict)
    for row, value in zip(rows, values, strict=True):
        if row["kind"] == "manipulated":
            faces[row["attribute"], row["source_id"]][row["level"]] = value
    print("omi, level 0 to 2: change of mouthSmile (mean, in deviations of the change), and")
    print("of the whole expression (distance of the means from one level to the other)")
    for attribute in sorted({name for name, _ in faces}):
        moved = np.stack(
            [
                levels["2"] - levels["0"]
                for (name, _), levels in faces.items()
                if name == attribute and {"0", "2"} <= levels.keys()
            ]
        )
        smile = _mean(moved, weights, SMILE)
        whole = np.linalg.norm(moved.mean(axis=0) * np.sqrt(weights.reliability))
        each = np.linalg.norm(moved * np.sqrt(weights.reliability), axis=1).mean()
        print(
            f"  {attribute:12} {len(moved)} people: smile {smile.mean():+.3f} "
            f"({smile.mean() / smile.std(ddof=1):+.2f} sd), all {whole:.2f}, each {each:.2f}"
        )
