"""Random faces of ICT-FaceKit as landmarks, such as dlib would find, with their coefficients.

Only the 68 landmark vertices are used. Each face has an identity, an expression made of gestures
that people combine, a pose and a camera; then what tells dlib's points from a mesh's vertices is
imitated: brows that lie lower, a jaw whose points slide along the outline, noise of single points
and of parts.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files

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


class Model(NamedTuple):
    """The landmark vertices of the morphable face, in centimetres."""

    neutral: Float[np.ndarray, "68 3"]
    identity: Float[np.ndarray, "identities 68 3"]
    expression: Float[np.ndarray, "coefficients 68 3"]
    names: tuple[str, ...]


class Faces(NamedTuple):
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


def load(path: epath.PathLike) -> Model:
    """Reads ict_facekit.npz. Raises FileNotFoundError or ValueError."""
    with opened(path) as arrays:
        spots = arrays["landmarks68"]
        named = {
            name: arrays[name][..., spots, :].astype(np.float64)
            for name in ("neutral", "identity_basis", "expression_basis")
        }
        names = tuple(str(name) for name in arrays["expression_names"])
    return Model(named["neutral"], named["identity_basis"], named["expression_basis"], names)


def sample(model: Model, rng: np.random.Generator, count: int) -> Faces:
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
    return Faces(blurred(seen, rng), coefficients, angles)


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
