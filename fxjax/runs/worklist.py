"""The faces of a folder of photos: found, named, cut out and listed before anything is inverted.

The list is a pure function of the photos and the settings. It is saved as it grows, so that a
killed run goes on where it was, and every photo has an entry: its faces, or why it was refused.
"""

import dataclasses
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float
from tqdm import tqdm

from fxjax import files
from fxjax.faces import align, detect
from fxjax.images import load_image, save_image, to_uint8
from fxjax.runs.photos import find, free_name, photo_names, shown
from fxjax.types import AnyPhoto

OK = "ok"
SAVE_SECONDS = 20.0
LEAST = 16  # pixels: the least side of an aligned picture, as of one that is searched for faces


@dataclasses.dataclass(frozen=True)
class Options:
    """Which faces to take, and how to cut them out."""

    size: int
    face: str = "largest"
    aligned: bool = False
    realign: bool = False
    landmarks: str | None = None
    landmark_model: str | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One face to invert, or one refused photo (or face)."""

    photo: str
    name: str
    status: str = OK
    message: str = ""
    landmarks: list[list[float | int]] | None = None
    photo_from_crop: list[list[float | int]] | None = None
    number: int = 0
    faces: int = 1


class Refused(Exception):
    """Why a photo, or a face in it, cannot be used."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


def make(out: epath.Path, images: str, options: Options) -> list[Entry]:
    """All entries, from <out>/state/worklist.json as far as it goes; writes targets/NAME.png.

    Raises ValueError if the photos are not those that the list was begun with.
    """
    if options.aligned and options.realign:
        raise ValueError("--aligned and --realign exclude each other")
    if not re.fullmatch(r"largest|all|\d+|\d+(\.\d+)?,\d+(\.\d+)?", options.face):
        raise ValueError(f"--face={options.face}: want largest, all, a number from 0, or x,y")
    paths, left = find(images, out)
    if left:
        print(f"{left} files in {images} are not pictures by their names and are left out")
    photos = [[str(path), _length(path)] for path in paths]
    place = out / "state" / "worklist.json"
    entries, done = [], 0
    if place.exists():
        saved = json.loads(place.read_text())
        _compare(saved["photos"], photos)
        entries, done = [Entry(**entry) for entry in saved["entries"]], saved["done"]
    if done == len(paths):
        return entries

    def save(count: int) -> None:
        listed = [dataclasses.asdict(entry) for entry in entries]
        text = json.dumps({"photos": photos, "done": count, "entries": listed})
        files.write(place, text.encode())

    names, cutter, last = photo_names(paths), Cutter(options, paths), time.monotonic()
    taken = {name.casefold() for name in names} | {entry.name.casefold() for entry in entries}
    bar = tqdm(paths[done:], "faces", len(paths), initial=done, unit="photo", disable=None)
    for index, path in enumerate(bar, start=done):
        entries += _entries(out, path, names[index], taken, cutter)
        if time.monotonic() - last > SAVE_SECONDS:
            save(index + 1)
            last = time.monotonic()
    save(len(paths))
    return entries


def wait(out: epath.Path) -> list[Entry]:
    """The entries once another process has listed them all."""
    place = out / "state" / "worklist.json"
    while True:
        if place.exists():
            saved = json.loads(place.read_text())
            if saved["done"] == len(saved["photos"]):
                return [Entry(**entry) for entry in saved["entries"]]
        time.sleep(0.5)


def region_weights(
    entries: Sequence[Entry], size: int, factor: float
) -> Float[np.ndarray, "batch size size"] | None:
    """`factor` on each face's eyes, brows and mouth and 1 elsewhere; None if it is 1.

    A face without landmarks has 1 everywhere.
    """
    if factor == 1:
        return None
    weights = np.ones((len(entries), size, size), np.float32)
    for weight, entry in zip(weights, entries, strict=True):
        if entry.landmarks is not None:
            crop_from_photo = np.linalg.inv(np.array(entry.photo_from_crop))
            points = align.transform(crop_from_photo, np.array(entry.landmarks))
            weight += (factor - 1) * align.union([align.region_masks(points, size)])
    return weights


def _length(path: epath.Path) -> int:
    try:
        return path.stat().length
    except OSError:
        return -1


def _compare(old: list[list], new: list[list]) -> None:
    if old == new:
        return
    was, now = {path: length for path, length in old}, {path: length for path, length in new}
    gone, more = sorted(was.keys() - now.keys()), sorted(now.keys() - was.keys())
    changed = sorted(path for path in was.keys() & now.keys() if was[path] != now[path])
    example = (gone + more + changed)[0]
    raise ValueError(
        f"the photos are not those that this run was begun with: {len(more)} new, {len(gone)} "
        f"gone, {len(changed)} changed, such as {example}; give another --out, or --restart"
    )


def given_landmarks(
    named: Mapping[str, list[align.Landmarks]], paths: Sequence[epath.Path]
) -> dict[epath.Path, list[align.Landmarks]]:
    """Each photo's landmarks: those under the longest end of its path, such as x/1.png or 1.png.

    Raises ValueError if two photos share a name.
    """
    owners: dict[str, epath.Path] = {}
    for path in paths:
        parts = str(path).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((end for end in ends if end in named), None)
        if name in owners:
            raise ValueError(
                f"--landmarks: {name} may be {owners[name]} or {path}; "
                "name them with their folders there, such as x/1.png"
            )
        if name is not None:
            owners[name] = path
    return {path: named[name] for name, path in owners.items()}


class Cutter:
    """Finds and cuts out faces; the detector is loaded when first needed."""

    def __init__(self, options: Options, paths: Sequence[epath.Path]):
        self.options = options
        self._detector: detect.Detector | None = None
        self._given = (
            None
            if options.landmarks is None
            else given_landmarks(detect.load_landmarks(options.landmarks), paths)
        )
        if options.landmark_model is not None and not options.aligned and self._given is None:
            self._detector = detect.Detector(options.landmark_model)  # a bad file ends it all now

    def faces(self, photo: AnyPhoto, path: epath.Path) -> tuple[list[tuple[int, detect.Face]], int]:
        """The chosen faces with their numbers, and how many there are. Raises Refused."""
        if self._given is not None:
            found = [detect.given(points) for points in self._given.get(path, [])]
            if not found:
                raise Refused("no_face", f"no landmarks are given for {path.name}")
        else:
            self._detector = self._detector or detect.Detector()
            try:
                found = self._detector(photo)
            except ValueError as error:
                raise Refused("too_small", str(error)) from error
            if not found:
                raise Refused("no_face", "no face was found")
        try:
            chosen = detect.choose(found, self.options.face)
            numbers = {id(face): number for number, face in enumerate(found)}
            return [(numbers[id(face)], face) for face in chosen], len(found)
        except ValueError as error:
            raise Refused("no_such_face", str(error)) from error

    def cut(self, photo: AnyPhoto, landmarks: align.Landmarks) -> align.Crop:
        """One face's crop. Raises Refused."""
        try:
            return align.align(photo, landmarks, self.options.size, force=self.options.realign)
        except ValueError as error:
            raise Refused("bad_face", str(error)) from error

    def whole(self, photo: AnyPhoto) -> align.Crop:
        """A picture that is said to be aligned. Raises Refused."""
        height, width = photo.shape[:2]
        if height != width:
            raise Refused("not_square", f"{width}x{height} pixels; --aligned wants square pictures")
        if width < LEAST and width < self.options.size:
            raise Refused("too_small", f"{width}x{width} pixels are too few for a face")
        matrix = align.whole_square(width, self.options.size)
        return align.Crop(align.cut(photo, matrix, self.options.size), matrix)


def _entries(
    out: epath.Path, path: epath.Path, name: str, taken: set[str], cutter: Cutter
) -> Iterable[Entry]:
    """A photo's entries. Whatever is wrong with it stays with it."""
    photo_path, found = shown(path), list[Entry]()
    try:
        try:
            photo = load_image(path)
        except (ValueError, OSError) as error:
            raise Refused("unreadable", _line(error).replace(f"{path} ", "")) from error
        if cutter.options.aligned:
            crop = cutter.whole(photo)
            save_image(out / "targets" / f"{name}.png", to_uint8(crop.image))
            return [Entry(photo_path, name, photo_from_crop=crop.photo_from_crop.tolist())]
        faces, count = cutter.faces(photo, path)
        for index, (number, face) in enumerate(faces):
            own = name if len(faces) == 1 else free_name(f"{name}_face{index}", taken)
            try:
                crop = cutter.cut(photo, face.landmarks)
            except Refused as error:
                found.append(Entry(photo_path, own, error.status, _line(error)))
                continue
            save_image(out / "targets" / f"{own}.png", to_uint8(crop.image))
            places = face.landmarks.astype(np.float64).tolist()
            matrix = crop.photo_from_crop.tolist()
            found.append(Entry(photo_path, own, OK, "", places, matrix, number, count))
    except Refused as error:
        found.append(Entry(photo_path, name, error.status, _line(error)))
    except OSError:
        raise  # of the models or the results, not of the photo
    except Exception as error:  # libraries for pictures raise anything on odd ones
        found.append(Entry(photo_path, name, "failed", f"{type(error).__name__}: {_line(error)}"))
    return found


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode(errors="backslashreplace").decode()
