"""Faces in a photo: dlib's detector and 68 landmarks, and dlib's identity embedding as a judge.

The model files come from the PyPI package face_recognition_models, which is found but never
imported (its own imports fail with current setuptools). The 68-point model was trained on iBUG
300-W, whose terms exclude commercial use; another one can be given. Nothing here is random.
"""

# pyright: reportAttributeAccessIssue=false
# (dlib comes without stubs)
import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import cv2
import dlib
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from fxjax import files
from fxjax.faces.align import Landmarks, cut, ffhq_square, transform
from fxjax.images import to_uint8
from fxjax.types import Photo

_LANDMARKS = "shape_predictor_68_face_landmarks.dat"
_CONFIRM = "mmod_human_face_detector.dat"
_IDENTITY = "dlib_face_recognition_resnet_model_v1.dat"

_SMALLEST = 16  # pixels: the least side of a picture that is searched
_SURE, _WEAK = 0.5, -0.5  # detector scores: believed if found twice, and not looked at any further
_MOST_DOUBTS = 16  # finds that are looked at per search without being clear, at 0.4 s each
_FIRST_PIXELS, _RETRY_PIXELS = 4096**2, 2048**2  # larger pictures are searched in a smaller copy
_TURNED_PIXELS = 4096**2  # of a turned copy with its corners, which long pictures have large
_CROP = 256  # pixels of the upright crop in which landmarks are looked up again
_LOOK = 200  # pixels of that in which a face is; the detectors' smallest has 80
# The detector's usual box in an FFHQ crop, in parts of the side (mean of 80 faces), and moved.
_BOX = np.array([0.185, 0.289, 0.789, 0.895])
_NUDGES = ((0.0, 0.0), (0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.0, -0.03))


Method = TypeVar("Method", bound=Callable[..., Any])


def _alone(method: Method) -> Method:
    """One thread of each object at a time: dlib's networks crash the process where two meet."""

    @functools.wraps(method)
    def locked(self: Any, *arguments: Any) -> Any:
        with self._lock:
            return method(self, *arguments)

    return locked  # pyright: ignore[reportReturnType]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth to compare by
class Face:
    """One face of a photo, in the photo's pixels (centres at whole numbers)."""

    landmarks: Landmarks
    score: float
    """The detector's; a clear face has 1 to 3, one that was hard to find about 0."""

    @property
    def box(self) -> Float[np.ndarray, " 4"]:
        """Left, top, right and bottom of the landmarks; may reach outside the photo."""
        return np.concatenate([self.landmarks.min(0), self.landmarks.max(0)])


class Detector:
    """Finds faces: `Detector()(photo)`. Loads 100 MB once. Threads wait for each other.

    `landmark_model` is another dlib shape predictor file with the usual 68 points. Raises
    FileNotFoundError, or ValueError if the file is not such a model.
    """

    def __init__(self, landmark_model: epath.PathLike | None = None):
        path = files.absolute(landmark_model or model_file(_LANDMARKS))
        if not path.exists() or path.is_dir():
            raise FileNotFoundError(f"no landmark model at {path}")
        self._lock = threading.RLock()
        self._boxes = dlib.get_frontal_face_detector()
        try:
            self._points = dlib.shape_predictor(os.fspath(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is not a dlib shape predictor: {_line(error)}") from None
        blank = np.zeros((64, 64, 3), np.uint8)
        count = self._points(blank, dlib.rectangle(8, 8, 56, 56)).num_parts
        if count != 68:
            raise ValueError(f"{path} gives {count} landmarks; the usual 68 are wanted")

    @functools.cached_property
    def _confirm(self):
        return dlib.cnn_face_detection_model_v1(os.fspath(model_file(_CONFIRM)))

    @_alone
    def __call__(self, photo: Photo) -> list[Face]:
        """All faces from left to right; an empty list if there is none.

        Where an upright search finds nothing, an enlarged copy is searched for small faces (of
        about 20 pixels and more) and turned ones for tilted faces. A face counts if it is found
        again in its own upright crop, or if a convolutional detector sees it there. On one core
        0.7 s for 10 megapixels and 0.1 s for each face; a few seconds where there is none. Raises
        ValueError for a picture too small to hold a face.
        """
        height, width = photo.shape[:2]
        if min(height, width) < _SMALLEST:
            raise ValueError(
                f"a picture of {width}x{height} pixels is too small to hold a face; "
                f"give one of at least {_SMALLEST}x{_SMALLEST}"
            )
        zoom = min(1.0, math.sqrt(_FIRST_PIXELS / (height * width)))
        found = self._search(photo, zoom, 0, _WEAK)
        most = math.sqrt(_RETRY_PIXELS / (height * width))
        turns = [
            (
                min(1.0, most, math.sqrt(_TURNED_PIXELS / _turned_area(width, height, degrees))),
                degrees,
            )
            for degrees in (40, 320, 80, 280, 120, 240, 160, 200)
        ]
        for again, degrees in [(min(2.0, most), 0), *turns, (min(4.0, most), 0)]:
            if not found and (degrees or again > zoom):
                found = self._search(photo, again, degrees, 0.0)
        return sorted(found, key=lambda face: (face.box[0] + face.box[2], face.box[1]))

    @_alone
    def sees(self, photo: Photo) -> bool:
        """Whether the plain search for upright faces finds any: 7 ms at 256 px, no second look."""
        return len(self._boxes(photo, 0)) > 0

    @_alone
    def glance(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of the upright faces of the plain search: 10 ms at 256 px, no second look."""
        return [_array(self._points(photo, box)) for box in self._boxes(photo, 0)]

    @_alone
    def upright(self, photo: Photo) -> list[Landmarks]:
        """As a call finds them, of the upright faces of the plain search: 50 ms, no second look."""
        return [self._refine(photo, rough) for rough in self.glance(photo)]

    def _search(self, photo: Photo, zoom: float, degrees: int, least: float) -> list[Face]:
        """Faces that are about upright in a zoomed and turned copy, with at least that score."""
        copy, photo_from_copy = _copy(photo, zoom, degrees)
        boxes, scores, _ = self._boxes.run(copy, 0, least)
        kept, doubts = [], 0
        for score, box in sorted(zip(scores, boxes, strict=True), key=lambda find: -find[0]):
            rough = transform(photo_from_copy, _array(self._points(copy, box)))
            landmarks = self._clear(photo, rough) if score >= _SURE else None
            if landmarks is None:
                doubts += 1
                if doubts > _MOST_DOUBTS:
                    break
                middle = np.array([[box.left() + box.right(), box.top() + box.bottom()]]) / 2
                side = 2.5 * float(box.width() * np.linalg.norm(photo_from_copy[:2, 0]))
                around = _square(transform(photo_from_copy, middle)[0], side, 0, _LOOK)
                landmarks = self._doubtful(photo, rough, around)
            if landmarks is not None and all(_overlap(landmarks, f.landmarks) < 0.5 for f in kept):
                kept.append(Face(landmarks, float(score)))
        return kept

    def _clear(self, photo: Photo, rough: Landmarks) -> Landmarks | None:
        """Better landmarks if the face is found again in its own crop, and upright there."""
        try:
            landmarks = self._refine(photo, rough)
            score, turn, _ = self._turned(photo, ffhq_square(landmarks, _LOOK), (0, 40, -40))
        except ValueError:
            return None
        return landmarks if score >= _SURE and turn == 0 else None

    def _doubtful(
        self, photo: Photo, rough: Landmarks, photo_from_around: Float[np.ndarray, "3 3"]
    ) -> Landmarks | None:
        """Better landmarks if a convolutional detector also sees a face in their crop.

        A face that is tilted far can be found where upright ones are searched, and then the rough
        landmarks are wrong: its surroundings are turned until they look most like a face.
        """
        try:
            _, _, better = self._turned(photo, photo_from_around, range(0, 360, 40))
            landmarks = self._refine(photo, rough if better is None else better)
            around = ffhq_square(landmarks, _LOOK)
            _, turn, better = self._turned(photo, around, (0, 40, -40))
            if turn and better is not None:
                landmarks = self._refine(photo, better)
            return landmarks if self._is_face(photo, landmarks) else None
        except ValueError:  # the landmarks give no square or one outside the photo
            return None

    def _turned(
        self, photo: Photo, photo_from_crop: Float[np.ndarray, "3 3"], turns: Iterable[int]
    ) -> tuple[float, int, Landmarks | None]:
        """Score, turn in degrees and rough landmarks of the turned crop that shows a face best."""
        best = -math.inf, 0, None
        for degrees in turns:
            turned = _square(np.full(2, (_LOOK - 1) / 2), float(_LOOK), degrees, _LOOK)
            matrix = photo_from_crop @ turned
            crop = to_uint8(cut(photo, matrix, _LOOK))
            boxes, scores, _ = self._boxes.run(crop, 0, _WEAK)
            for score, box in zip(scores, boxes, strict=True):
                spot = box.center()
                away = max(abs(spot.x / _LOOK - 0.5), abs(spot.y / _LOOK - 0.5))
                if score > best[0] and away < 0.2:
                    best = score, degrees, transform(matrix, _array(self._points(crop, box)))
        return best

    def _refine(self, photo: Photo, rough: Landmarks) -> Landmarks:
        """Looks landmarks up again in upright crops of one size, the last time five times.

        dlib's points are whole pixels, and poor where a face is tilted: this takes the mean error
        of the crop's corners from 2.0 to 0.6 % of its side.
        """
        landmarks = rough
        for nudges in (_NUDGES[:1], _NUDGES[:1], _NUDGES):
            matrix = ffhq_square(landmarks, _CROP)
            crop = to_uint8(cut(photo, matrix, _CROP))
            looks = []
            for x, y in nudges:
                box = np.rint((_BOX + np.array([x, y, x, y])) * _CROP).astype(int)
                looks.append(_array(self._points(crop, dlib.rectangle(*box.tolist()))))
            landmarks = transform(matrix, np.mean(looks, axis=0))
        return landmarks if _overlap(landmarks, rough) > 0.2 else rough

    def _is_face(self, photo: Photo, landmarks: Landmarks) -> bool:
        """Whether a convolutional detector sees a face of the right size and place in the crop.

        On 62 faces it is sure by 1.0 to 1.1, and puts their middle at 0.31 to 0.66 across and 0.47
        to 0.6 down the crop and their width at 0.48 to 0.69 of its side.
        """
        crop = to_uint8(cut(photo, ffhq_square(landmarks, _LOOK), _LOOK))
        boxes = [find.rect for find in self._confirm(crop, 0) if find.confidence > 0.8]
        return any(
            abs(box.center().x / _LOOK - 0.5) < 0.2
            and abs(box.center().y / _LOOK - 0.54) < 0.12
            and 0.45 < box.width() / _LOOK < 0.8
            for box in boxes
        )


class Identity:
    """Embeds who a face is: `Identity()(photo, landmarks)`. A judge for metrics, never a loss."""

    def __init__(self):
        self._lock = threading.RLock()
        self._embed = dlib.face_recognition_model_v1(os.fspath(model_file(_IDENTITY)))

    @_alone
    def __call__(self, photo: Photo, landmarks: Landmarks) -> Float[np.ndarray, " 128"]:
        """An embedding; by dlib's authors, two below a distance of 0.6 are one person."""
        size = 256  # of it, dlib takes the middle 150 pixels
        matrix = ffhq_square(landmarks, size)
        crop = to_uint8(cut(photo, matrix, size))
        spots = np.rint(transform(np.linalg.inv(matrix), landmarks)).astype(int).tolist()
        shape = dlib.full_object_detection(
            dlib.rectangle(0, 0, size, size), [dlib.point(x, y) for x, y in spots]
        )
        return np.array(self._embed.compute_face_descriptor(crop, shape))


def choose(faces: Sequence[Face], which: str = "largest") -> list[Face]:
    """The faces meant by `largest`, `all`, a number from 0 (left to right), or a place `x,y`.

    Raises ValueError if there is no such face, and says where the faces are.
    """
    if not faces:
        raise ValueError("no face was found")
    if which == "all":
        return list(faces)
    if which == "largest":
        area = lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])
        return [max(faces, key=area)]
    middles = [(face.box[:2] + face.box[2:]) / 2 for face in faces]
    places = ", ".join(f"{i} at {x:.0f},{y:.0f}" for i, (x, y) in enumerate(middles))
    found = f"{len(faces)} found: {places}"
    number = r"-?\d+(?:\.\d+)?"
    if re.fullmatch(r"\d+", which):
        if int(which) >= len(faces):
            raise ValueError(f"there is no face {which}; {found}")
        return [faces[int(which)]]
    if not re.fullmatch(rf"{number},{number}", which):
        raise ValueError(f"face {which!r} is none of largest, all, a number or x,y; {found}")
    place = np.array([float(part) for part in which.split(",")])
    near = [  # within a head's reach, whose middle is that of the face
        (float(np.linalg.norm(middle - place)), index)
        for index, (face, middle) in enumerate(zip(faces, middles, strict=True))
        if np.linalg.norm(middle - place) <= np.max(face.box[2:] - face.box[:2])
    ]
    if not near:
        raise ValueError(f"there is no face at {which}; {found}")
    return [faces[min(near)[1]]]


def load_landmarks(path: epath.PathLike) -> dict[str, list[Landmarks]]:
    """Landmarks that a user gives instead of detection: picture name -> its faces.

    An .npz file with `filename` (faces,) and `landmarks` (faces, 68, 2), or a .json file
    `{name: [face, ...]}` where a face is 68 pairs [x, y]. Raises FileNotFoundError or ValueError.
    """
    source = files.absolute(path)
    if not source.exists() or source.is_dir():
        raise FileNotFoundError(f"no landmark file at {source}")
    found: dict[str, list[Landmarks]] = {}
    try:
        if source.suffix.lower() == ".json":
            named = json.loads(source.read_bytes())  # in any of JSON's encodings
            pairs = [(name, face) for name, each in named.items() for face in each]
        else:
            with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                pairs = list(zip(arrays["filename"], arrays["landmarks"], strict=True))
        for name, face in pairs:
            points = np.asarray(face, np.float64)
            if points.shape != (68, 2) or not np.isfinite(points).all():
                raise ValueError(f"{name} has a face of shape {points.shape}, not 68 finite pairs")
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.setdefault(text, []).append(points)
    except Exception as error:  # zip, JSON and numpy have a dozen kinds of their own
        raise ValueError(f"{source} holds no landmarks: {_line(error)}") from None
    return found


def given(landmarks: Landmarks) -> Face:
    """A face whose landmarks were given; its score is 0."""
    return Face(landmarks, 0.0)


def model_file(name: str) -> pathlib.Path:
    """A file of the package face_recognition_models. Raises FileNotFoundError."""
    package = importlib.util.find_spec("face_recognition_models")
    for folder in (package and package.submodule_search_locations) or ():
        path = pathlib.Path(folder) / "models" / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name} is missing; pip install face_recognition_models")


def _copy(
    photo: Photo, zoom: float, degrees: int
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Float[np.ndarray, "3 3"]]:
    """The photo resized and turned about its middle, and `photo_from_copy`."""
    height, width = photo.shape[:2]
    if zoom != 1:
        size = max(1, round(width * zoom)), max(1, round(height * zoom))
        way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
        photo = cv2.resize(photo, size, interpolation=way)
    tall, wide = photo.shape[:2]
    scale = np.array([width / wide, height / tall])
    photo_from_copy = np.diag([*scale, 1.0])
    photo_from_copy[:2, 2] = (scale - 1) / 2
    if not degrees:
        return np.ascontiguousarray(photo), photo_from_copy
    turn = _rotation(degrees)
    side = np.ceil(np.abs(turn[:2, :2]) @ [wide, tall]).astype(int)
    turn[:2, 2] = (np.array([wide, tall]) - 1) / 2 - turn[:2, :2] @ ((side - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        photo, turn[:2], tuple(side.tolist()), flags=flags
    ), photo_from_copy @ turn


def _turned_area(width: int, height: int, degrees: int) -> float:
    """Pixels of the upright rectangle around a turned one."""
    return float(np.prod(np.abs(_rotation(degrees)[:2, :2]) @ [width, height]))


def _square(
    middle: Float[np.ndarray, " 2"], side: float, degrees: int, size: int
) -> Float[np.ndarray, "3 3"]:
    """`photo_from_crop` of a turned square."""
    matrix = _rotation(degrees)
    matrix[:2, :2] *= side / size
    matrix[:2, 2] = middle - matrix[:2, :2] @ np.full(2, (size - 1) / 2)
    return matrix


def _rotation(degrees: int) -> Float[np.ndarray, "3 3"]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def _array(shape: dlib.full_object_detection) -> Landmarks:
    return np.array([(point.x, point.y) for point in shape.parts()], np.float64)


def _overlap(one: Landmarks, other: Landmarks) -> float:
    """Shared area of two sets' extents over their joint area."""
    low, high = np.maximum(one.min(0), other.min(0)), np.minimum(one.max(0), other.max(0))
    shared = np.maximum(high - low, 0).prod()
    return float(shared / (np.ptp(one, axis=0).prod() + np.ptp(other, axis=0).prod() - shared))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
