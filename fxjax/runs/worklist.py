"""Which photos are meant, and their faces: found, named, cut out and listed before all else.

The list of faces is a pure function of the photos and the settings. It is saved as it grows, so
that a killed run goes on where it was, and every photo has an entry: its faces, or why it was
refused.
"""

import dataclasses
import itertools
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files, steps, tables
from fxjax.faces import align, detect
from fxjax.images import ENDINGS, load_image, save_image, to_uint8
from fxjax.runs import journal
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
    entries, done = [], 0
    if (saved := journal.read(out, "worklist")) is not None:
        _compare(saved["photos"], photos)
        entries, done = [Entry(**entry) for entry in saved["entries"]], saved["done"]
    if done == len(paths):
        return entries

    def save(count: int) -> None:
        listed = [dataclasses.asdict(entry) for entry in entries]
        journal.write(out, "worklist", {"photos": photos, "done": count, "entries": listed})

    names, cutter, last = photo_names(paths), Cutter(options, paths), time.monotonic()
    taken = {name.casefold() for name in names} | {entry.name.casefold() for entry in entries}
    for index, path in enumerate(steps.each(paths[done:], "faces"), start=done):
        entries += _entries(out, path, names[index], taken, cutter)
        if time.monotonic() - last > SAVE_SECONDS:
            save(index + 1)
            last = time.monotonic()
    save(len(paths))
    return entries


def wait(out: epath.Path) -> list[Entry]:
    """The entries once another process has listed them all."""

    def whole() -> list[Entry] | None:
        saved = journal.read(out, "worklist")
        if saved is None or saved["done"] < len(saved["photos"]):
            return None
        return [Entry(**entry) for entry in saved["entries"]]

    return journal.wait(whole)


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
    """A photo's entries. Whatever is wrong with a photo costs that photo alone."""
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


def find(images: str, out: epath.Path) -> tuple[list[epath.Path], int]:
    """The sorted pictures of a folder (with all below it), a glob, a list or a single file.

    A list is a .txt file with a path in each line (see `beside`).

    In a folder those count whose names end as pictures' do; the second result is how many files do
    not. Hidden files and what lies below `out` are left out. Raises ValueError if none is left.
    """
    source = files.absolute(images)
    left = 0
    if source.is_dir():
        found = list(_below(source))
        kept = [path for path in found if path.suffix.lower() in ENDINGS]
        left = len(found) - len(kept)
    elif source.exists() or not any(mark in images for mark in "*?["):
        if not source.exists():
            raise FileNotFoundError(f"no folder or picture {source} (--images)")
        kept = _listed(source) if source.suffix.lower() == ".txt" else [source]
    elif "**" in images:
        raise ValueError(f"{images}: ** is not read; give the folder, which is searched to the end")
    else:
        parts = source.parts
        first = next(i for i, part in enumerate(parts) if any(mark in part for mark in "*?["))
        base = files.absolute(os.path.join(*parts[:first]))
        matches = base.glob("/".join(parts[first:])) if base.is_dir() else ()
        kept = [path for path in matches if not path.is_dir() and not path.name.startswith(".")]
    inside = f"{out}/"
    kept = sorted({path for path in kept if not str(path).startswith(inside)}, key=str)
    if not kept:
        raise ValueError(f"no pictures at {source} (--images); {left} other files are there")
    return kept, left


def _listed(source: epath.Path) -> list[epath.Path]:
    try:
        lines = tables.text(source).splitlines()
    except ValueError as error:
        raise ValueError(f"{error} (a list of paths is wanted)") from None
    return [beside(source, line.strip()) for line in lines if line.strip()]


def beside(source: epath.Path, text: str) -> epath.Path:
    """The path that a line of a list or table means: relative to the file's folder, or whole.

    Where no such file is found, backslashes part folders, and accents are tried in both Unicode
    forms.
    """
    if "://" in text:
        return files.given(text)
    forms = [text, text.replace("\\", "/")]
    forms += [unicodedata.normalize(way, forms[-1]) for way in ("NFC", "NFD")]
    found = [source.parent / form for form in dict.fromkeys(forms)]
    return next((path for path in found if len(found) > 1 and os.path.lexists(path)), found[0])


def fits_a_line(path: epath.Path) -> bool:
    """Whether a list can hold the path: no line break, UTF-8, no space at its ends."""
    text = str(path)
    return text.encode(errors="ignore").decode().strip().splitlines() == [text]


def shown(path: epath.Path) -> str:
    """The path as text that any file can hold."""
    return str(path).encode(errors="backslashreplace").decode()


def _below(folder: epath.Path, seen: set[str] | None = None) -> Iterator[epath.Path]:
    seen = set() if seen is None else seen
    if not files.first_time(folder, seen):
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        else:
            try:
                yield from _below(path, seen)
            except OSError:
                yield path / "unreadable.png"  # no such file, so that the folder gets its row


def photo_names(paths: Sequence[epath.Path]) -> list[str]:
    """A name for each photo that no other has, on any file system: its stem if that will do.

    Else with its ending, else with its folders, else with a number.
    """
    folders = [str(path.parent).split("/") for path in paths]
    levels = zip(*folders, strict=False)  # as far as all go
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    relative = ["/".join(str(path).split("/")[shared:]) for path in paths]
    forms: tuple[Callable[[str], str], ...] = (
        lambda text: os.path.splitext(os.path.basename(text))[0],
        lambda text: "_".join(os.path.basename(text).rsplit(".", 1)),
        lambda text: os.path.splitext(text)[0],
        lambda text: "_".join(text.rsplit(".", 1)),
    )
    options = [[_plain(form(text)) for form in forms] for text in relative]
    names: list[str | None] = [None] * len(paths)
    for level in range(len(forms)):
        counts: dict[str, int] = {}
        for index, option in enumerate(options):
            key = (names[index] or option[level]).casefold()
            counts[key] = counts.get(key, 0) + 1
        for index, option in enumerate(options):
            if names[index] is None and counts[option[level].casefold()] == 1:
                names[index] = option[level]
    taken = {name.casefold() for name in names if name is not None}
    return [
        name if name is not None else free_name(option[-1], taken)
        for name, option in zip(names, options, strict=True)
    ]


def _plain(text: str) -> str:
    """Letters, digits and a few signs, so that it is a file name everywhere."""
    kept = re.sub(r"[^\w.()+-]", "_", unicodedata.normalize("NFC", text)).strip("._")
    return kept.encode()[:150].decode(errors="ignore") or "photo"


def free_name(name: str, taken: set[str]) -> str:
    """The name, with the least number from 2 added if it is in `taken`; adds it to these."""
    found, number = name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found.casefold())
    return found
