"""Expressions from landmarks: a small network reads coefficients that know no pose and no person.

It was trained on random faces of ICT-FaceKit (see fxjax/zoo/expression/card.md), so that no picture
of the same person with a straight face is needed. It sees only where landmarks are: nothing of
cheeks, wrinkles or the eyes' direction. `outputs` takes arrays of the host or of a device, where it
has slopes; all else is on the host.
"""

import functools
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files
from fxjax.nn.ops import EXACT

# Two expressions that are closer are alike. Of 1,746 faces whose landmarks were found at two sizes
# of the picture, 93 % are closer to themselves; of pairs of different people seven in a thousand.
LEAST = 0.25

TURN = 5.0  # degrees of yaw or pitch whose square counts 1 in losses
ANCHORS = np.array([*range(27, 36), 36, 39, 42, 45])  # nose and eye corners: they hardly move
INPUTS = np.array([*range(5, 12), *range(17, 68)])  # the jaw's sides show its outline, not a place
# The points of a mirrored face, in the order of the usual 68.
MIRROR = np.array(
    """
    16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0 26 25 24 23 22 21 20 19 18 17 27 28 29 30 35 34 33 32
    31 45 44 43 42 47 46 39 38 37 36 41 40 54 53 52 51 50 49 48 59 58 57 56 55 64 63 62 61 60 67 66
    65
    """.split(),
    int,
)


class Weights(NamedTuple):
    """A network of two hidden layers, and what is known about its outputs."""

    reference: Float[Any, "anchors 2"]
    mean: Float[Any, " inputs"]
    deviation: Float[Any, " inputs"]
    kernels: tuple[Any, ...]
    biases: tuple[Any, ...]
    names: tuple[str, ...]
    """Of the expression coefficients; after them the network gives yaw and pitch."""
    reliability: Float[Any, " coefficients"]
    """R2 of each coefficient on new faces, 0 to 1."""


def load(path: epath.PathLike | None = None) -> Weights:
    """The shipped weights, or those of a file. Raises FileNotFoundError or ValueError."""
    source = files.absolute(
        path or epath.Path(__file__).parent.parent / "zoo/expression/weights.npz"
    )
    if not source.exists():
        raise FileNotFoundError(f"no weights of an expression reader at {source}")
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as arrays:
            read = lambda name: arrays[name].astype(np.float64)
            names = tuple(str(name) for name in arrays["names"])
            return Weights(
                read("reference"),
                read("mean"),
                read("deviation"),
                tuple(read(f"kernel{layer}") for layer in range(3)),
                tuple(read(f"bias{layer}") for layer in range(3)),
                names,
                read("reliability"),
            )
    except Exception as error:  # zip and numpy have a dozen kinds of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is no expression reader: {reason}") from None


def packed(weights: Weights) -> bytes:
    """The content of a weights file; the kernels in half precision."""
    arrays = {name: getattr(weights, name) for name in ("reference", "mean", "deviation")}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["reliability"] = weights.reliability.astype(np.float32)
    for layer, (kernel, bias) in enumerate(zip(weights.kernels, weights.biases, strict=True)):
        arrays[f"kernel{layer}"] = kernel.astype(np.float16)
        arrays[f"bias{layer}"] = bias.astype(np.float32)
    return files.npz({"names": np.array(weights.names)} | arrays, compressed=True)


@functools.cache
def shipped() -> Weights:
    """The weights that come with the package, read once."""
    return load()


def names() -> tuple[str, ...]:
    """What each coefficient is, as ARKit and ICT-FaceKit name them: `mouthSmile_L`, ..."""
    return shipped().names


def read(landmarks: Float[np.ndarray, "*batch 68 2"]) -> Float[np.ndarray, "*batch coefficients"]:
    """Expression coefficients of faces: 0 is at rest, 1 as far as it goes; noise leaves that range.

    What landmarks do not show stays near its mean. Raises ValueError for points in one place.
    """
    return outputs(landmarks, shipped())[..., :-2]


def pose(landmarks: Float[np.ndarray, "*batch 68 2"]) -> Float[np.ndarray, "*batch 3"]:
    """Yaw (positive: to the picture's right), pitch (up) and roll (clockwise) in degrees."""
    turn = _turn(landmarks, shipped().reference)
    roll = -np.degrees(np.angle(turn))
    return np.concatenate([outputs(landmarks, shipped())[..., -2:], roll[..., None]], axis=-1)


def distance(
    one: Float[np.ndarray, "*batch 68 2"], other: Float[np.ndarray, "*batch 68 2"]
) -> Float[np.ndarray, "*batch"]:
    """How far the expressions of two faces are apart, by landmarks.

    Euclidean, each coefficient's square weighed by its reliability.
    """
    return np.asarray(np.linalg.norm(_weighed(one) - _weighed(other), axis=-1))


def gain(
    result: Float[np.ndarray, "*batch 68 2"],
    person: Float[np.ndarray, "*batch 68 2"],
    driver: Float[np.ndarray, "*batch 68 2"],
) -> Float[np.ndarray, "*batch"]:
    """How far the result's expression went from the person's (0) to the driver's (1).

    The projection on the way between them, so it can be below 0 and above 1. Not a number where
    person and driver are alike (closer than LEAST).
    """
    start, end = _weighed(person), _weighed(driver)
    way = end - start
    square = np.sum(way**2, axis=-1)
    covered = np.sum((_weighed(result) - start) * way, axis=-1)
    return np.where(square < LEAST**2, np.nan, covered / np.maximum(square, LEAST**2))


def normalized(
    landmarks: Float[Any, "*batch 68 2"], reference: Float[Any, "anchors 2"]
) -> Float[Any, "*batch 68 2"]:
    """The points moved, turned and scaled so that nose and eye corners fit the reference best.

    Raises ValueError if those points fall together or are not finite (on the host alone).
    """
    xp = landmarks.__array_namespace__()
    turned = (_complex(landmarks) - _middle(landmarks)) * _turn(landmarks, reference)[..., None]
    moved = turned + _complex(reference).mean()
    return xp.stack([moved.real, moved.imag], axis=-1)


def _turn(landmarks: Any, reference: Any) -> Any:
    """The complex factor (scale and turn) of the least squares fit."""
    xp = landmarks.__array_namespace__()
    points = _complex(landmarks[..., ANCHORS, :]) - _middle(landmarks)
    wanted = _complex(reference) - _complex(reference).mean()
    size = xp.sum(xp.real(points * xp.conj(points)), axis=-1)
    if xp is np and (not np.all(np.isfinite(landmarks)) or np.any(size < 1e-9)):
        raise ValueError(
            "the landmarks do not look like a face: they fall together or are not finite"
        )
    return xp.sum(xp.conj(points) * wanted, axis=-1) / size


def _complex(points: Any) -> Any:
    if isinstance(points, np.ndarray):
        points = points.astype(np.float64)
    return points[..., 0] + 1j * points[..., 1]


def _middle(landmarks: Any) -> Any:
    return _complex(landmarks[..., ANCHORS, :]).mean(axis=-1, keepdims=True)


def _weighed(landmarks: np.ndarray) -> np.ndarray:
    return read(landmarks) * np.sqrt(shipped().reliability)


def outputs(landmarks: Float[Any, "*batch 68 2"], weights: Weights) -> Float[Any, "*batch outputs"]:
    """Coefficients, yaw and pitch: the mean of what a face and its mirror image give."""
    xp = landmarks.__array_namespace__()
    points = normalized(landmarks, weights.reference)
    seen = network(features(points), weights)
    there = network(features(points[..., MIRROR, :] * xp.asarray([-1.0, 1.0])), weights)
    count = len(weights.names)
    order = np.array([weights.names.index(opposite(name)) for name in weights.names])
    swapped = [there[..., order], -there[..., count : count + 1], there[..., count + 1 :]]
    return (seen + xp.concatenate(swapped, axis=-1)) / 2


def features(normalized: Float[Any, "*batch 68 2"]) -> Float[Any, "*batch inputs"]:
    """What the network sees of normalised landmarks."""
    chosen = normalized[..., INPUTS, :]
    return chosen.reshape(*chosen.shape[:-2], -1)


def network(inputs: Float[Any, "*batch inputs"], weights: Weights) -> Float[Any, "*batch outputs"]:
    """Coefficients, yaw and pitch."""
    xp = inputs.__array_namespace__()
    exact = functools.partial(jnp.matmul, precision=EXACT)
    matmul = exact if isinstance(inputs, jax.Array) else np.matmul
    x = (inputs - weights.mean) / weights.deviation
    for kernel, bias in zip(weights.kernels[:-1], weights.biases[:-1], strict=True):
        x = matmul(x, kernel) + bias
        x = x / (1 + xp.exp(-xp.clip(x, -50, 50)))  # silu
    return matmul(x, weights.kernels[-1]) + weights.biases[-1]


def opposite(name: str) -> str:
    """The coefficient's name on the other side."""
    for one, other in (("_L", "_R"), ("_R", "_L"), ("Left", "Right"), ("Right", "Left")):
        if name.endswith(one):
            return name.removesuffix(one) + other
    return name
