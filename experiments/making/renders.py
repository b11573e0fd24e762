"""Random faces of ICT-FaceKit as pictures: the same person, light and camera in any expression.

A painter's algorithm: shaded triangles from back to front with OpenCV, at twice the size. The
model has no colours and no hair, so skin, lips, brows, beard and hair are painted on its vertices
by where they lie in the mean face. Lengths are centimetres; +x is the subject's left, +y up, +z
forward.
"""

from typing import NamedTuple

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from experiments.making import expression_faces, face_paint
from experiments.making.face_paint import Person
from fxjax.faces import align
from fxjax.types import Photo

EXPRESSIONS = ("neutral", "happiness")
INNER = ("Mouth socket", "Gums and tongue", "Teeth", "Eye socket", "Eyeball", "iris", "pupil")
HIDDEN = ("Lacrimal fluid", "Eye blend", "Eye occlusion", "Eyelashes")
ZOOM = 2  # times the picture's size, in which it is drawn
SHIFT = 4  # bits of OpenCV's fractions of a pixel
QUIET = 0.35  # how far other gestures go, of what people do
SMILES = ("mouthSmile", "cheekSquint", "eyeSquint", "mouthUpperUp", "mouthLowerDown")
# What would hide a smile or show one in a straight face.
STILL = (*SMILES, "mouthFrown", "mouthStretch", "mouthDimple", "mouthPress", "mouthFunnel")
STILL += ("mouthPucker", "cheekPuff", "jawOpen", "mouthClose", "eyeBlink")


class FaceMesh(NamedTuple):
    """The morphable face; hidden parts' triangles are left out."""

    neutral: Float[np.ndarray, "vertices 3"]
    identity: Float[np.ndarray, "identities vertices 3"]
    expression: Float[np.ndarray, "coefficients vertices 3"]
    names: tuple[str, ...]
    triangles: Int[np.ndarray, "triangles 3"]
    parts: dict[str, np.ndarray]
    """Which triangles are of what is inside the head: teeth, eyeballs, `iris`, `pupil`, ..."""
    spots: Int[np.ndarray, " 68"]


class Camera(NamedTuple):
    """Where the head is, for both expressions."""

    turn: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, " 3"]
    away: float
    crop_from_view: Float[np.ndarray, "3 3"]
    """For a crop of one pixel, whose edges are at -0.5 and 0.5."""


def load(path: epath.PathLike) -> FaceMesh:
    """Reads ict_facekit.npz. Raises FileNotFoundError or ValueError."""
    with expression_faces.opened(path) as arrays:
        triangles = arrays["triangles"]
        parts = {name: np.zeros(len(triangles), bool) for name in (*INNER, "hidden")}
        for name, (first, last) in zip(
            arrays["region_names"], arrays["region_triangles"], strict=True
        ):
            part = next((part for part in INNER if str(name).startswith(part)), "hidden")
            parts[part][first:last] = part in INNER or str(name).startswith(HIDDEN)
        for part in ("iris", "pupil"):
            parts[part][arrays[f"{part}_paint_triangles"]] = True
        drawn = ~parts.pop("hidden")
        return FaceMesh(
            arrays["neutral"].astype(np.float32),
            arrays["identity_basis"].astype(np.float32),
            arrays["expression_basis"].astype(np.float32),
            tuple(str(name) for name in arrays["expression_names"]),
            triangles[drawn],
            {part: chosen[drawn] for part, chosen in parts.items()},
            arrays["landmarks68"],
        )


def pictures(model: FaceMesh, seed: int, person: int, size: int) -> dict[str, Photo]:
    """One random person with each expression; the same for the same seed and number."""
    rng = np.random.default_rng([seed, person])
    people = np.clip(rng.standard_normal(len(model.identity)), -2, 2) * 0.8
    shape = model.neutral + np.tensordot(people.astype(np.float32), model.identity, axes=1)
    made = gestures(model.names, rng)
    look = face_paint.person(rng)
    still = shape + np.tensordot(made["neutral"], model.expression, axes=1)
    camera = placed(still[model.spots], rng)
    paint = face_paint.paint(model.neutral, model.spots, look)
    behind = face_paint.background(look, ZOOM * size)
    grain = rng.standard_normal((size, size, 3)).astype(np.float32)
    found = {}
    for name in EXPRESSIONS:
        points = shape + np.tensordot(made[name], model.expression, axes=1)
        drawn = draw(model, points, paint, look, camera, behind)
        small = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(small, (0, 0), look.blur * size / 128)
        found[name] = np.clip(np.rint(soft + look.noise * grain), 0, 255).astype(np.uint8)
    return found


def gestures(
    names: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Float[np.ndarray, " coefficients"]]:
    """Coefficients of a straight face with a few small gestures, and of it with a smile."""
    amounts = expression_faces.expressions(names, rng, 1)[0] * QUIET
    quiet = dict(zip(names, amounts.tolist(), strict=True))
    for name in names:
        if name.startswith(STILL):
            quiet[name] = 0.0
    blink = 0.25 * rng.random()
    for side in "LR":
        quiet[f"eyeBlink_{side}"] = blink * (1 - quiet[f"eyeWide_{side}"])
    happy = dict(quiet)
    smile, cheek, squint = rng.uniform(0.7, 1.0), rng.uniform(0.2, 0.9), rng.uniform(0, 0.5)
    toothy = rng.random() < 0.7
    upper, lower = toothy * rng.uniform(0.2, 0.7), toothy * rng.uniform(0, 0.5)
    for base, amount in zip(SMILES, (smile, cheek, squint, upper, lower), strict=True):
        for side in "LR":
            happy[f"{base}_{side}"] = min(1.0, amount * rng.uniform(0.92, 1.0))
    happy["jawOpen"] = rng.uniform(0.02, 0.3) if toothy else 0.0
    quiet["jawOpen"] = rng.uniform(0, 0.08) * (rng.random() < 0.3)
    return {
        expression: np.array([drawn[name] for name in names], np.float32)
        for expression, drawn in (("neutral", quiet), ("happiness", happy))
    }


def placed(landmarks: Float[np.ndarray, "68 3"], rng: np.random.Generator) -> Camera:
    """A camera that sees the head slightly turned, in about the square of aligned photographs."""
    yaw, pitch, roll = np.radians(rng.normal(0, [10, 5, 1.5]).clip([-25, -12, -4], [25, 12, 4]))
    turn = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0]
    turn = cv2.Rodrigues(np.array([-pitch, 0.0, 0.0]))[0] @ turn
    camera = Camera(turn, landmarks.mean(axis=0), np.exp(rng.uniform(4.1, 5.3)), np.eye(3))
    square = align.ffhq_square(seen(landmarks, camera)[0].astype(np.float64), 1)
    cos, sin = np.cos(roll), np.sin(roll)
    wobble = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    wobble[:2] *= rng.uniform(1.03, 1.13)  # no dlib finds this face as long as its mesh is
    wobble[:2, 2] = rng.normal(0, 0.012, 2)
    return camera._replace(crop_from_view=wobble @ np.linalg.inv(square))


def seen(
    points: Float[np.ndarray, "count 3"], camera: Camera
) -> tuple[Float[np.ndarray, "count 2"], Float[np.ndarray, " count"]]:
    """Where points are in the picture (x right, y down), and how near."""
    moved = (points - camera.centre) @ camera.turn.T
    view = moved[:, :2] * [1, -1] / (1 - moved[:, 2:] / camera.away)
    return align.transform(camera.crop_from_view, view), moved[:, 2]


def draw(
    model: FaceMesh,
    points: Float[np.ndarray, "vertices 3"],
    paint: face_paint.Paint,
    look: Person,
    camera: Camera,
    behind: Float[np.ndarray, "side side 3"],
) -> Float[np.ndarray, "side side 3"]:
    """The face before its background, 0 to 255."""
    side = len(behind)
    flat = normals(points, model.triangles)
    points = points + flat * (paint.hair * look.volume)[:, None]
    upright = normals(points, model.triangles)
    hollow = hollows(points, upright, model.triangles)
    places, near = seen(points, camera)
    places = (places + 0.5) * side - 0.5
    light = face_paint.shaded(upright @ camera.turn.T.astype(np.float32), hollow, look)
    colours, shine = face_paint.colours(model.triangles, model.parts, points, paint, look)
    corners = places[model.triangles]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    facing = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] < 0  # y is down
    inside = (corners.max(1) > -1).all(1) & (corners.min(1) < side).all(1)
    chosen = np.flatnonzero(facing & inside)
    chosen = chosen[np.argsort(near[model.triangles[chosen]].mean(1), kind="stable")]
    lit = light.diffuse[model.triangles[chosen]].mean(1) * colours[chosen]
    lit += light.gloss[model.triangles[chosen]].mean(1)[:, None] * shine[chosen][:, None]
    values = 255 * np.clip(lit, 0, 1) ** (1 / 2.2)
    canvas = behind.copy()
    shapes = np.rint(corners[chosen] * (1 << SHIFT)).astype(np.int32)
    for shape, value in zip(shapes, values.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, shape, value, cv2.LINE_8, SHIFT)
    return canvas


def normals(
    points: Float[np.ndarray, "vertices 3"], triangles: Int[np.ndarray, "triangles 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Outward unit normals of vertices: means of their triangles', weighed by area."""
    corners = points[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = _gathered(np.repeat(faces, 3, axis=0), triangles.ravel(), len(points))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


def hollows(
    points: Float[np.ndarray, "vertices 3"],
    upright: Float[np.ndarray, "vertices 3"],
    triangles: Int[np.ndarray, "triangles 3"],
) -> Float[np.ndarray, " vertices"]:
    """How far each vertex lies below the smoothed surface, in centimetres."""
    ends = triangles.ravel()
    starts = np.roll(triangles, 1, axis=1).ravel()
    counts = np.maximum(np.bincount(ends, minlength=len(points)), 1)[:, None]
    smooth = points
    for _ in range(12):
        smooth = _gathered(smooth[starts], ends, len(points)) / counts
    return np.sum((smooth - points) * upright, axis=1)


def _gathered(
    values: Float[np.ndarray, "entries 3"], places: Int[np.ndarray, " entries"], count: int
) -> Float[np.ndarray, "count 3"]:
    return np.stack(
        [np.bincount(places, values[:, k], minlength=count) for k in range(3)], axis=1
    ).astype(np.float32)
