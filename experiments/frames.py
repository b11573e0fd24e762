"""Frames of a video or a folder, in and out, and what is kept of each."""

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float

from experiments import inversion
from experiments.photos import find
from fxjax import align, files
from fxjax.images import load_image
from fxjax.types import Photo

MOST_PIXELS = 120_000_000  # of a frame, as of a photo
FOLDERS = ("codes", "frames")
FILES = ("frames.csv", "result.mp4", "state.json")


class Source:
    """The first `most` frames in order; `left` is how many more there are.

    Of a folder, out/frames below it does not count: results go there. Raises ValueError or
    FileNotFoundError for what cannot be read.
    """

    def __init__(self, driver: str, out: epath.Path, most: int):
        self.path, self.most, self.rate = files.absolute(driver), most, 25.0
        self._paths: list[epath.Path] | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"no video or folder of frames {self.path} (--driver)")
        if self.path.is_relative_to(out / "frames"):
            raise ValueError(f"{self.path} is where results are written; give another --out")
        if self.path.is_dir():
            paths, _ = find(driver, out / "frames")
            self._paths, found = paths[:most], len(paths)
        else:
            found = self._measure()
        self.count, self.left = min(most, found), max(0, found - most)

    def _measure(self) -> int:
        """Notes a video's rate; how many frames it says that it has, or else how many it has."""
        video = self._open()
        width, height = (
            video.get(at) for at in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{self.path} has frames of {width:.0f}x{height:.0f} pixels: too large"
            )
        self.rate = video.get(cv2.CAP_PROP_FPS) or self.rate
        found = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if found < 1:  # as browsers record
            found = sum(1 for _ in iter(video.grab, False))
        video.release()
        return found

    def lengths(self) -> dict[str, int]:
        """The bytes of the video, or of each frame."""
        if self._paths is None:
            return {self.path.name: self.path.stat().length}
        return {str(path.relative_to(self.path)): path.stat().length for path in self._paths}

    def _open(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(os.fspath(self.path)) if os.path.isfile(self.path) else None
        if video is None or not video.isOpened():
            raise ValueError(
                f"{self.path} cannot be read as a video; give another, or a folder of frames"
            )
        return video

    def __iter__(self) -> Iterator[Photo]:
        """The frames as RGB."""
        if self._paths is not None:
            yield from (load_image(path) for path in self._paths)
            return
        video, number = self._open(), 0
        try:
            while number < self.most:
                good, frame = video.read()
                if not good:
                    break
                number += 1
                yield np.ascontiguousarray(frame[..., ::-1])
        finally:
            video.release()
        if not number:
            raise ValueError(f"{self.path} holds no frame that can be read")


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


def write_video(path: epath.Path, pictures: Sequence[epath.Path], rate: float) -> None:
    """Pictures of one size as an MP4 file."""
    height, width = load_image(pictures[0]).shape[:2]
    even = (width - width % 2, height - height % 2)  # the codec wants even sides
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "result.mp4")
        kind = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(name, kind, rate, even)
        for picture in pictures:
            frame = load_image(picture)[: even[1], : even[0], ::-1]
            writer.write(np.ascontiguousarray(frame))
        writer.release()
        with open(name, "rb") as file:
            files.write(path, file.read())
