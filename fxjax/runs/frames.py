"""Frames of a video or a folder, in and out, and what is kept of each."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files
from fxjax.faces import align
from fxjax.images import load_image
from fxjax.runs import inversion, video
from fxjax.runs.photos import find
from fxjax.transfer_types import Located
from fxjax.types import AnyPhoto

HIGH = 720  # pixels at most of a side-by-side video
FOLDERS = ("codes", "frames")
FILES = ("frames.csv", "result.mp4", "side_by_side.mp4", "state.json")


class Source:
    """The first `most` frames in order; `left` is how many more there are.

    Of a folder, out/frames below it does not count: results go there. Raises ValueError or
    FileNotFoundError for what cannot be read.
    """

    def __init__(self, driver: str, out: epath.Path, most: int):
        self.path, self.most = files.absolute(driver), most
        self._paths: list[epath.Path] | None = None
        self._video: video.Video | None = None
        video.library()  # the result is one, whatever the driver is
        if not self.path.exists():
            raise FileNotFoundError(f"no video or folder of frames {self.path} (--driver)")
        if self.path.is_relative_to(out / "frames"):
            raise ValueError(f"{self.path} is where results are written; give another --out")
        if self.path.is_dir():
            paths, _ = find(driver, out / "frames")
            self._paths, found = paths[:most], len(paths)
        else:
            self._video = video.Video(self.path)
            found = self._video.held
        self.count, self.left = min(most, found), max(0, found - most)

    def lengths(self) -> dict[str, int]:
        """The bytes of the video, or of each frame."""
        if self._paths is None:
            return {self.path.name: self.path.stat().length}
        return {str(path.relative_to(self.path)): path.stat().length for path in self._paths}

    def __iter__(self) -> Iterator[AnyPhoto]:
        """The frames as RGB, as far as they can be read."""
        if self._video is None:
            yield from (load_image(path) for path in self._paths or ())
        else:
            yield from self._video.first(self.count)

    def lost(self) -> str:
        """What a whole iteration did not find of what the video's header promised, or ""."""
        found = self._video
        if found is None:
            return ""
        if found.read >= min(self.most, found.promised):
            first = f"{self.path}: {found.broken} frames before number {found.read} are damaged"
            return f"{first} and left out" if found.broken else ""
        return (
            f"{self.path}: its header promises {found.promised} frames and {found.read} could be "
            f"read: {found.promised - found.held} are missing, {found.held - found.read} damaged"
        )

    def write(self, path: epath.Path, pictures: Iterable[AnyPhoto], note: str) -> None:
        """A picture for each frame of an iteration as a video, at its time and with the sound."""
        found = self._video
        if found is None:
            times, base, rate = list(range(self.count + 1)), 1 / video.USUAL, video.USUAL
            video.write(path, pictures, times, base, rate, note=note)
            return
        options = {"sound": found, "whole": not self.left, "note": note}
        times = list(found.times)
        video.write(path, pictures, times, found.base, found.rate, **options)


def inputs(appearance: str, source: Source, model: str, features: str) -> dict[str, Any]:
    """What a run is made of: the photo's and the frames' bytes, and the sha256 of the models."""
    models = inversion.Config(images=appearance, out="", model=model, features=features)
    sizes = {
        "the photo's bytes": files.absolute(appearance).stat().length,
        "the frames' bytes": source.lengths(),
    }
    return sizes | inversion.shas(models)


def check(out: epath.Path, settings: Mapping[str, Any], made_of: Mapping[str, Any]) -> None:
    """Begins a folder, or goes on in one of the same settings and inputs (else ValueError).

    With `restart` what an earlier run wrote is removed first.
    """
    place = out / "state.json"
    kept = {name: value for name, value in settings.items() if name not in ("out", "restart")}
    kept = json.loads(json.dumps(kept | dict(made_of)))
    if settings["restart"] and place.exists():
        # the state goes last, so that a killed restart can be restarted
        files.remove(out, (*FOLDERS, *FILES))
    if not place.exists():
        if taken := [name for name in FOLDERS if (out / name).exists()]:
            raise ValueError(
                f"{out} has {' and '.join(taken)} that no run of this command wrote; "
                "give another --out"
            )
        files.write(place, json.dumps(kept).encode())
        return
    old = json.loads(place.read_text())
    if changed := [name for name in kept if old.get(name) != kept[name]]:
        raise ValueError(
            f"the run in {out} was begun with other settings or files ({', '.join(changed)}); "
            "give another --out, or --restart"
        )


def several(person: Located, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which faces were taken where there are several, in lines."""
    crowded = [row["frame"] for row in rows if row.get("faces", 1) > 1]
    lines = list(person.which("the photo"))
    if crowded:
        lines.append(
            f"{len(crowded)} frames have several faces, the first is {crowded[0]}: the largest of "
            "each was taken"
        )
    return lines


def code(place: epath.Path, find_code: Callable[[], Any]) -> Float[np.ndarray, "rows dim"]:
    """A saved code, or a new one that is saved."""
    if place.exists():
        with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["ws"]
    found = np.asarray(find_code())
    buffer = io.BytesIO()
    np.savez(buffer, ws=found)
    files.write(place, buffer.getvalue())
    return found


def steadied(faces: Mapping[int, align.Landmarks]) -> dict[int, align.Landmarks]:
    """Landmarks by frame, each the mean of it (counted twice) and of the frames beside it.

    The neighbours are moved onto it by nose and eye corners, so that a head's move stays as it is:
    what goes is the landmarks' own trembling.
    """
    found = {}
    for number, own in faces.items():
        beside = [faces[k] for k in (number - 1, number + 1) if k in faces]
        moved = [align.transform(align.steady(each, own), each) for each in beside]
        found[number] = np.mean([own, own, *moved], axis=0)
    return found


def write_videos(
    out: epath.Path, pictures: Sequence[epath.Path], source: Source, note: str
) -> None:
    """Writes result.mp4, and side_by_side.mp4 with the driver's frames to the left."""
    source.write(out / "result.mp4", (load_image(path) for path in pictures), note)
    pairs = (_beside(*pair) for pair in zip(source, map(load_image, pictures), strict=False))
    source.write(out / "side_by_side.mp4", pairs, note)


def _beside(frame: AnyPhoto, photo: AnyPhoto) -> AnyPhoto:
    """Both at one height, of at most `HIGH` pixels."""
    high = min(len(photo), HIGH)
    sizes = [(max(1, round(each.shape[1] * high / len(each))), high) for each in (frame, photo)]
    tiles = [
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        for each, size in zip((frame, photo), sizes, strict=True)
    ]
    return np.concatenate(tiles, axis=1)
