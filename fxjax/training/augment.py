"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676, appendix B).

The paper's pixel moves, geometry and colour, each applied to a picture with probability
`strength`. All moves of a picture compose into one 3x3 matrix and one reflected bilinear gather,
all colour changes into one 4x4 matrix. What is never true of the data leaks into the samples where
few pictures teach the discriminator to forbid it, so `Moves` says how far each goes.
"""

import dataclasses
import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, ScalarLike

from fxjax.nn.ops import EXACT
from fxjax.types import Images


class Transforms(NamedTuple):
    """Per picture: where each output pixel comes from, and the colour matrix.

    `geometry` takes an output position (x, y, 1), in pixels from the centre of the picture, to the
    input position; `color` takes (red, green, blue, 1) to the new colour.
    """

    geometry: Float[Array, "batch 3 3"]
    color: Float[Array, "batch 4 4"]


@dataclasses.dataclass(frozen=True)
class Moves:
    """Which augmentations are drawn, and how far each goes; 0 leaves one out.

    The defaults are for aligned faces, and those of the paper but for what must not leak: turns,
    which laid one sample in forty on its side when they were at will, negatives, and skin of any
    hue. Raises ValueError for a value out of its range.
    """

    rotation: Annotated[
        float, "most degrees that augmentation turns a picture, either way; 360: at will"
    ] = 10.0
    quarter_turns: Annotated[bool, "augment by quarter turns, too"] = False
    shift: Annotated[float, "shifts, share of the side: at most, and a second one's deviation"] = (
        0.125
    )
    scale: Annotated[float, "deviation of enlargement, in powers of 2"] = 0.2
    stretch: Annotated[float, "deviation of stretching, in powers of 2"] = 0.2
    brightness: Annotated[float, "deviation of what is added to colours in [-1, 1]"] = 0.2
    contrast: Annotated[float, "deviation of contrast, in powers of 2"] = 0.5
    negative: Annotated[bool, "augment by mirrored brightness, too"] = False
    hue: Annotated[float, "most degrees that hues are turned, either way; 180: at will"] = 30.0
    saturation: Annotated[float, "deviation of saturation, in powers of 2"] = 1.0

    def __post_init__(self):
        most = {"rotation": 360.0, "hue": 180.0, "shift": 0.5}
        for name in ("rotation", "shift", "scale", "stretch", "brightness", "contrast", "hue",
                     "saturation"):  # fmt: skip
            value, bound = getattr(self, name), most.get(name, 2.0)
            if not 0 <= value <= bound:
                raise ValueError(f"{name} is {value:g}; it goes from 0 to {bound:g}")


EVERYTHING = Moves(rotation=360.0, quarter_turns=True, negative=True, hue=180.0)
"""The paper's own choice."""


def augment(images: Images, key: Array, strength: ScalarLike, moves: Moves) -> Images:
    """Transforms each picture at random; `strength` 0..1, at 0 the pictures stay as they are."""
    return apply(images, draw(key, strength, images.shape[0], images.shape[1], moves))


def apply(images: Images, transforms: Transforms) -> Images:
    """Moves the pixels, then changes the colours."""
    return recolor(warp(images, transforms.geometry), transforms.color)


def warp(images: Images, geometry: Float[Array, "batch 3 3"]) -> Images:
    """Reads each output pixel between four input pixels; the picture goes on mirrored outside."""
    batch, height, width, channels = images.shape
    x, y = (jnp.arange(size) - (size - 1) / 2 for size in (width, height))
    rows = geometry[:, :2, :, None, None]
    u, v = (row[:, 0] * x + row[:, 1] * y[:, None] + row[:, 2] for row in (rows[:, 0], rows[:, 1]))
    left, across = _between(u + (width - 1) / 2, width)
    top, down = _between(v + (height - 1) / 2, height)
    corner = top * width + left
    corners = jnp.stack([corner, corner + 1, corner + width, corner + width + 1], axis=1)
    shares = jnp.stack(
        [
            (1 - down) * (1 - across),
            (1 - down) * across,
            down * (1 - across),
            down * across,
        ],
        axis=1,
    )
    flat = images.reshape(batch, height * width, channels)
    pixels = jax.vmap(lambda picture, index: picture[index])(flat, corners)
    return jnp.sum(pixels * shares[..., None].astype(images.dtype), axis=1)


def recolor(images: Images, color: Float[Array, "batch 4 4"]) -> Images:
    """Applies each picture's affine colour matrix."""
    color = color.astype(images.dtype)[:, None, None]
    mixed = sum(images[..., i : i + 1] * color[..., :3, i] for i in range(3))
    return mixed + color[..., :3, 3]


def adjusted(
    strength: Float[Array, ""],
    sign: Float[Array, ""],
    *,
    target: float,
    images: int,
    most: float,
    per_unit: float,
) -> Float[Array, ""]:
    """The strength after `images` pictures whose discriminator scores had this mean sign.

    Moves by 1 in `per_unit` images towards the target, within 0..`most`. Source: section 3.
    """
    return jnp.clip(strength + jnp.sign(sign - target) * (images / per_unit), 0.0, most)


def draw(key: Array, strength: ScalarLike, batch: int, size: int, moves: Moves) -> Transforms:
    """Draws the transformations of `batch` pictures of `size` pixels."""
    strength = jnp.asarray(strength, jnp.float32)
    turning = 1 - jnp.sqrt(1 - strength)  # two rotations in a row make `strength` together
    first, second = jax.random.split(
        key
    )  # two large draws: a small one for each is slow to compile
    uniforms = iter(jax.random.uniform(first, (21, batch)))
    normals = iter(jax.random.normal(second, (7, batch)))

    def gated(value: Array, neutral: float, probability: Array = strength) -> Array:
        return jnp.where(next(uniforms) < probability, value, neutral)

    def uniform(low: float, high: float) -> Array:
        return low + (high - low) * next(uniforms)

    def normal(deviation: float) -> Array:
        return next(normals) * deviation

    def whole(count: int) -> Array:
        return jnp.floor(next(uniforms) * count)

    # Pixel moves and geometry, each as its inverse: output to input.
    flip = gated(1 - 2 * whole(2), 1.0)
    geometry = _scaling(flip, jnp.ones(batch))
    quarter = gated(whole(4) * moves.quarter_turns, 0.0)
    geometry = _then(geometry, _quarter_turn(quarter))
    along = jnp.stack([uniform(-moves.shift, moves.shift) for _ in range(2)])
    shift = gated(jnp.round(along * size), 0.0)
    geometry = _then(geometry, _translation(shift[0], shift[1]))
    scale = gated(jnp.exp2(normal(moves.scale)), 1.0)
    geometry = _then(geometry, _scaling(scale, scale))
    most = math.radians(moves.rotation) / 2  # of each rotation: the angles of both add up
    geometry = _then(geometry, _rotation(gated(uniform(-most, most), 0.0, turning)))
    stretch = gated(jnp.exp2(normal(moves.stretch)), 1.0)
    geometry = _then(geometry, _scaling(stretch, 1 / stretch))
    geometry = _then(geometry, _rotation(gated(uniform(-most, most), 0.0, turning)))
    along = jnp.stack([normal(moves.shift) for _ in range(2)])
    shift = gated(along * size, 0.0)
    geometry = _then(geometry, _translation(shift[0], shift[1]))

    # Colour: each matrix after the ones before it.
    one, zero = jnp.ones(batch), jnp.zeros(batch)
    brightness = gated(normal(moves.brightness), 0.0)
    color = _matrix(
        [one, zero, zero, brightness],
        [zero, one, zero, brightness],
        [zero, zero, one, brightness],
        [zero, zero, zero, one],
    )
    grey = jnp.asarray([3**-0.5] * 3 + [0.0], jnp.float32)
    projection = jnp.outer(grey, grey)  # onto the grey axis
    cross = jnp.zeros((4, 4)).at[:3, :3].set(jnp.cross(jnp.eye(3), -grey[:3]))
    colors, alpha = jnp.diag(jnp.asarray([1.0, 1.0, 1.0, 0.0])), jnp.zeros((4, 4)).at[3, 3].set(1.0)

    def factor(values: Array) -> Array:
        return values[:, None, None]

    contrast = factor(gated(jnp.exp2(normal(moves.contrast)), 1.0))
    color = _then(contrast * colors + alpha, color)
    mirrored = factor(gated(whole(2) * moves.negative, 0.0))
    color = _then(jnp.eye(4) - 2 * projection * mirrored, color)
    turn = math.radians(moves.hue)
    hue = factor(gated(uniform(-turn, turn), 0.0))
    turned = jnp.cos(hue) * colors + jnp.sin(hue) * cross + (1 - jnp.cos(hue)) * projection + alpha
    color = _then(turned, color)
    saturation = factor(gated(jnp.exp2(normal(moves.saturation)), 1.0))
    color = _then(saturation * colors + (1 - saturation) * projection + alpha, color)
    return Transforms(geometry, color)


def _between(position: Array, size: int) -> tuple[Array, Array]:
    """The pixel at or before a position, reflected into 0..size - 1, and the rest, 0..1."""
    period = 2.0 * (size - 1)
    position = jnp.mod(position, period)
    position = jnp.minimum(position, period - position)
    before = jnp.minimum(jnp.floor(position), size - 2.0)
    return before.astype(jnp.int32), position - before


def _matrix(*rows: list[Array]) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _then(second: Array, first: Array) -> Array:
    """The matrix that applies `first`, then `second`."""
    return jnp.matmul(second, first, precision=EXACT)


def _affine(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike, x: Array, y: Array) -> Array:
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    return _matrix([zero + a, zero + b, x], [zero + c, zero + d, y], [zero, zero, one])


def _translation(x: Array, y: Array) -> Array:
    """Moves the picture by (x, y) pixels: the inverse matrix."""
    return _affine(1.0, 0.0, 0.0, 1.0, -x, -y)


def _scaling(x: Array, y: Array) -> Array:
    """Enlarges the picture by (x, y): the inverse matrix."""
    return _affine(1 / x, 0.0, 0.0, 1 / y, jnp.zeros_like(x), jnp.zeros_like(x))


def _rotation(angle: Array) -> Array:
    """Turns the picture by `angle`: the inverse matrix."""
    cosine, sine, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    return _affine(cosine, sine, -sine, cosine, zero, zero)


def _quarter_turn(count: Array) -> Array:
    """`_rotation` by 90 degrees `count` (0..3) times, without rounding."""
    cosine = jnp.where(count == 0, 1.0, jnp.where(count == 2, -1.0, 0.0))
    sine = jnp.where(count == 1, 1.0, jnp.where(count == 3, -1.0, 0.0))
    return _affine(cosine, sine, -sine, cosine, jnp.zeros_like(count), jnp.zeros_like(count))
