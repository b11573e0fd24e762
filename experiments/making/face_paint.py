"""Colours, light and backgrounds of rendered faces: random, and painted by place in the mean face.

Colours are linear light in 0..1 unless said otherwise; lengths are centimetres.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

# Skin from light to dark, hair, irises: 8-bit sRGB.
SKINS = ((242, 203, 180), (230, 180, 148), (208, 152, 114), (176, 118, 80), (132, 84, 55))
SKINS += ((88, 58, 42),)
HAIRS = ((24, 19, 17), (45, 32, 26), (78, 52, 36), (112, 78, 50), (168, 130, 84), (105, 50, 28))
HAIRS += ((150, 146, 142),)
IRISES = ((70, 42, 24), (92, 60, 34), (84, 98, 70), (88, 116, 142), (50, 32, 22))


class Person(NamedTuple):
    """All that stays the same when the expression changes, but shape and camera."""

    skin: Float[np.ndarray, " 3"]
    lips: Float[np.ndarray, " 3"]
    hair: Float[np.ndarray, " 3"]
    iris: Float[np.ndarray, " 3"]
    brow: float
    """Strength of the brows, 0 to 1."""
    brow_width: float
    beard: float
    blush: float
    hairline: float
    """Height of the hair on the forehead; out of reach for bald heads."""
    volume: float
    """Thickness of the hair."""
    waves: Float[np.ndarray, "waves 4"]
    """Directions and phases of the patterns on skin and hair."""
    key: Float[np.ndarray, " 3"]
    """Direction of the main light, from the face."""
    strengths: Float[np.ndarray, " 3"]
    """Of the main light, the light from all around and the gloss."""
    tint: Float[np.ndarray, " 3"]
    backdrop: Float[np.ndarray, "5 3"]
    """8-bit sRGB of the background's corners and of its blots."""
    blots: Float[np.ndarray, "4 3"]
    long: float
    """Half width of the hair behind the head, as a part of the picture; 0: none."""
    blur: float
    noise: float


class Paint(NamedTuple):
    """Colours of vertices, and how much of the hair each carries, 0 to 1."""

    albedo: Float[np.ndarray, "vertices 3"]
    hair: Float[np.ndarray, " vertices"]


class Light(NamedTuple):
    """What falls on vertices."""

    diffuse: Float[np.ndarray, "vertices 3"]
    gloss: Float[np.ndarray, " vertices"]


def linear(colour: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """8-bit sRGB as linear light, 0 to 1."""
    return (colour / 255) ** 2.2


def person(rng: np.random.Generator) -> Person:
    """A random person, light and background."""
    tone = rng.random() ** 1.8 * (len(SKINS) - 1)
    steps = np.arange(len(SKINS))
    skin = np.array([np.interp(tone, steps, channel) for channel in np.array(SKINS, float).T])
    skin = linear(skin * rng.normal(1, [0.015, 0.02, 0.03]))
    hair = np.array(HAIRS[rng.integers(2 if tone > 3 else len(HAIRS))], float)
    hair = linear(hair * rng.uniform(0.8, 1.2))
    iris = linear(np.array(IRISES[0 if tone > 3 else rng.integers(len(IRISES))], float))
    rouge = rng.uniform(0.15, 1.0)
    lips = skin * (1 - rouge * np.array([0.28, 0.62, 0.5]))
    around, above = np.radians([rng.normal(0, 35), rng.uniform(5, 55)])
    key = np.array([np.sin(around) * np.cos(above), np.sin(above), np.cos(around) * np.cos(above)])
    ambient = rng.uniform(0.35, 0.65)
    warm = rng.normal(0, 0.05)
    ground = rng.uniform(15, 225) * (1 + rng.normal(0, 0.08, 3))
    backdrop = ground + rng.normal(0, 30, (5, 1)) + rng.normal(0, rng.uniform(1, 18), (5, 3))
    bearded = rng.random() < 0.3
    hairless = rng.random() < 0.08
    return Person(
        skin=skin,
        lips=lips,
        hair=hair,
        iris=iris,
        brow=rng.uniform(0.65, 0.97),
        brow_width=rng.uniform(0.32, 0.6),
        beard=bearded * rng.uniform(0.2, 0.8),
        blush=rng.uniform(0, 0.35),
        hairline=99.0 if hairless else rng.uniform(8.0, 10.5),
        volume=0.0 if hairless else rng.uniform(0.4, 1.6),
        waves=np.concatenate([rng.normal(0, 1, (24, 3)), rng.uniform(0, 6.3, (24, 1))], axis=1),
        key=key,
        strengths=np.array([rng.uniform(1.15, 1.45) - ambient * 0.7, ambient, rng.uniform(0, 0.2)]),
        tint=np.array([1 + warm, 1.0, 1 - warm]),
        backdrop=np.clip(backdrop, 0, 255),
        blots=rng.random((4, 3)),
        long=0.0 if bearded or hairless or rng.random() < 0.4 else rng.uniform(0.3, 0.42),
        blur=rng.uniform(0.3, 0.7),
        noise=rng.uniform(0.5, 3.0),
    )


def paint(
    mean: Float[np.ndarray, "vertices 3"], spots: Int[np.ndarray, " 68"], look: Person
) -> Paint:
    """The person's colours on the vertices of the mean face."""
    x, y, z = mean.T
    marks = mean[spots]
    front = smooth((z - 3) / 2)
    albedo = np.repeat(look.skin[None], len(mean), axis=0)
    albedo *= 1 + 0.07 * pattern(mean, look.waves[:12], 0.9)[:, None]
    cheeks = sum(np.exp(-((x - s * 4.3) ** 2 + (y + 0.3) ** 2) / 5) for s in (-1, 1))
    cheeks = cheeks + 0.7 * np.exp(-(x**2 + (y - 0.2) ** 2) / 1.5)
    albedo *= 1 - look.blush * (cheeks * front)[:, None] * np.array([0.1, 0.42, 0.38])
    around_eyes = sum(np.exp(-((x - s * 3.1) ** 2 / 4 + (y - 3.3) ** 2 / 1.1)) for s in (-1, 1))
    albedo *= 1 - 0.16 * (around_eyes * front)[:, None]
    lips = inside(mean, marks[48:60], 0.12) * front
    albedo += lips[:, None] * (look.lips - albedo)
    strands = 1 + 0.3 * pattern(mean * [1, 0.4, 0.5], look.waves, 3.0)
    hair = look.hair * np.clip(strands, 0.5, 1.6)[:, None]
    for line in (marks[17:22], marks[26:21:-1]):
        brow = near_line(mean, line - [0, 0.85, 0], look.brow_width) * smooth((z - 6) / 1)
        albedo += (look.brow * brow)[:, None] * (0.8 * hair + 0.05 * look.skin - albedo)
    lids = sum(near_line(mean, marks[part], 0.11) for part in (slice(36, 40), slice(42, 46)))
    albedo *= 1 - 0.75 * np.clip(lids, 0, 1)[:, None]
    jaw = smooth((-1.3 - y + 0.02 * x**2 + 0.55 * np.clip(np.abs(x) - 5.3, 0, 2)) / 1.0)
    beard = jaw * smooth((y + 9) / 1.5) * (1 - inside(mean, marks[48:60], 0.25))
    beard = beard * smooth((z - 3.3) / 1.5) * look.beard
    albedo += (beard * np.clip(0.85 + 0.15 * pattern(mean, look.waves, 5.0), 0, 1))[:, None] * (
        hair - albedo
    )
    scalp = grown(mean, look)
    albedo += scalp[:, None] * (hair - albedo)
    return Paint(albedo.astype(np.float32), scalp.astype(np.float32))


def grown(mean: Float[np.ndarray, "vertices 3"], look: Person) -> Float[np.ndarray, " vertices"]:
    """Where hair grows: above a line over the forehead and the ears, and behind these."""
    x, y, z = mean.T
    uneven = 0.2 * pattern(mean, look.waves[:12], 1.2)
    line = look.hairline + uneven - 0.035 * x**2
    front = smooth((y - line) / 1.2)
    above_ears = smooth((y - 4.2) / 1.2) * smooth((3.4 + uneven - z) / 1.2)
    behind = smooth((-2.8 - z) / 1.0) * smooth((y + 8) / 2)
    if look.hairline > 50:
        return np.zeros(len(mean))
    return np.maximum(np.maximum(front, above_ears), behind)


def colours(
    triangles: Int[np.ndarray, "triangles 3"],
    parts: dict[str, np.ndarray],
    points: Float[np.ndarray, "vertices 3"],
    paint: Paint,
    look: Person,
) -> tuple[Float[np.ndarray, "triangles 3"], Float[np.ndarray, " triangles"]]:
    """Colour and gloss of each triangle; `parts` says which triangles are inside the head."""
    found = paint.albedo[triangles].mean(1)
    shine = np.where(paint.hair[triangles].mean(1) > 0.5, 0.4, 1.0)
    z = points[triangles].mean(1)[:, 2]
    front = points[:, 2].max() - 1.9  # about the lips
    depth = np.clip(1.05 - (front - z) / 4.5, 0.04, 1)[:, None]  # less light in the mouth
    plain = np.ones_like(depth)
    inner = {
        "Mouth socket": np.array([0.35, 0.1, 0.09]) * depth**2,
        "Gums and tongue": np.array([0.5, 0.16, 0.15]) * depth,
        "Teeth": np.array([0.86, 0.8, 0.68]) * depth,
        "Eye socket": 0.35 * look.skin * plain,
        "Eyeball": np.array([0.62, 0.58, 0.56]) * plain,
        "iris": look.iris * plain,
        "pupil": np.full(3, 0.006) * plain,
    }
    for name, colour in inner.items():
        found[parts[name]] = colour[parts[name]]
        shine[parts[name]] = 1.5 if name in ("Teeth", "Eyeball", "iris", "pupil") else 0.3
    return found, shine


def shaded(
    upright: Float[np.ndarray, "vertices 3"], hollow: Float[np.ndarray, " vertices"], look: Person
) -> Light:
    """Light on vertices whose normals are as the camera sees them (+z towards it)."""
    main, ambient, gloss = look.strengths
    towards = (upright @ look.key + 0.25) / 1.25  # light goes round edges, as on skin
    key = np.clip(towards, 0, 1) ** 1.2
    reddish = np.array([1.0, 0.93, 0.9]) ** (1 - key[:, None])
    around = 0.8 + 0.2 * upright[:, 1] + 0.15 * (upright[:, 2] - 1)
    dim = np.clip(1 - 2.2 * np.clip(hollow, -0.08, 0.4), 0.25, 1.12)[:, None]
    diffuse = dim * (main * key[:, None] * reddish * look.tint + (ambient * around)[:, None])
    half = look.key + np.array([0, 0, 1.0])
    spot = np.clip(upright @ (half / np.linalg.norm(half)), 0, 1) ** 24
    return Light(diffuse, gloss * spot * dim[:, 0])


def background(look: Person, side: int) -> Float[np.ndarray, "side side 3"]:
    """Soft colours, and long hair; 8-bit sRGB."""
    corners = look.backdrop[:4].reshape(2, 2, 3).astype(np.float32)
    canvas = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
    for x, y, radius in look.blots:
        centre = (int(x * side), int(y * side))
        cv2.circle(canvas, centre, int((0.05 + 0.3 * radius) * side), look.backdrop[4].tolist(), -1)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.08 * side)
    if look.long:
        colour = 255 * np.clip(look.hair * 0.5, 0, 1) ** (1 / 2.2)
        mask = np.zeros((side, side), np.float32)
        centre, axes = (side // 2, int(0.52 * side)), (int(look.long * side), int(0.62 * side))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, (1.0,), -1)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.01 * side)[..., None]
        across = np.arange(side) / side * 60
        pace = 0.4 + np.abs(look.waves[:6, 0])
        streaks = np.sin(across[:, None] * pace + look.waves[:6, 3]).sum(axis=1)
        canvas += mask * (colour * (1 + 0.06 * streaks[:, None]) - canvas)
    return canvas.astype(np.float32)


def pattern(
    points: Float[np.ndarray, "count 3"], waves: Float[np.ndarray, "waves 4"], frequency: float
) -> Float[np.ndarray, " count"]:
    """A smooth random pattern of about unit deviation."""
    phases = frequency * points @ waves[:, :3].T + waves[:, 3]
    return np.sin(phases).sum(1) * (2 / len(waves)) ** 0.5


def smooth(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """0 below 0, 1 above 1, and a curve without corners between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def inside(
    points: Float[np.ndarray, "count 3"], outline: Float[np.ndarray, "corners 3"], edge: float
) -> Float[np.ndarray, " count"]:
    """1 within a closed outline seen from the front, falling to 0 at `edge` beyond it."""
    shape = outline[:, :2].astype(np.float32)
    found = np.full(len(points), -1.0)
    low, high = shape.min(0) - edge, shape.max(0) + edge
    close = np.flatnonzero(((points[:, :2] > low) & (points[:, :2] < high)).all(1))
    for k in close:
        place = (float(points[k, 0]), float(points[k, 1]))
        found[k] = cv2.pointPolygonTest(shape, place, True)
    return smooth(1 + found / edge)


def near_line(
    points: Float[np.ndarray, "count 3"], line: Float[np.ndarray, "corners 3"], reach: float
) -> Float[np.ndarray, " count"]:
    """1 on a line seen from the front, falling to 0 at `reach`; the line's end is thinner."""
    best = np.full(len(points), np.inf)
    for k, (start, end) in enumerate(zip(line[:-1, :2], line[1:, :2], strict=True)):
        way = end - start
        part = np.clip((points[:, :2] - start) @ way / (way @ way), 0, 1)
        away = np.linalg.norm(points[:, :2] - start - part[:, None] * way, axis=1)
        thin = 0.55 + 0.45 * np.clip((k + part) / 2, 0, 1)
        best = np.minimum(best, away / thin)
    return smooth((1 - best / reach) * 2)
