"""Frames of a video or a folder, in and out, and what is kept of each."""

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from experiments.photos import find
from fxjax import files
from fxjax.engine import Engine
from fxjax.images import load_image
from fxjax.transfer_types import Located
from fxjax.types import Photo

MOST_PIXELS = 120_000_000  # of a frame, as of a photo
FOLDERS = ("codes", "frames")
FILES = ("frames.csv", "result.mp4", "mask.json", "state.json")


class Source:
    """The frames in order. Raises ValueError or FileNotFoundError for what cannot be read."""

    def __init__(self, driver: str, most: int):
        self.path, self.most, self.rate = files.absolute(driver), most, 25.0
        self._paths: list[epath.Path] | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"no video or folder of frames {self.path} (--driver)")
        if self.path.is_dir():
            self._paths = find(driver, self.path / "nowhere")[0][:most]
            self.count = len(self._paths)
            return
        video = self._open()
        self.rate = video.get(cv2.CAP_PROP_FPS) or 25.0
        self.count = min(most, max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT))))
        width, height = (
            video.get(at) for at in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        video.release()
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{self.path} has frames of {width:.0f}x{height:.0f} pixels: too large"
            )

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


def check(out: epath.Path, settings: Mapping[str, Any]) -> None:
    """Begins a folder, or goes on in one of the same settings (else ValueError)."""
    place = out / "state.json"
    kept = {name: value for name, value in settings.items() if name not in ("out", "restart")}
    if settings["restart"]:
        for name in FILES:
            (out / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if (out / name).exists():
                (out / name).rmtree()
    if not place.exists():
        files.write(place, json.dumps(kept).encode())
    elif json.loads(place.read_text()) != json.loads(json.dumps(kept)):
        raise ValueError(
            f"the run in {out} was begun with other settings; give another --out, or --restart"
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


def looked(number: int, count: int, looks: int) -> bool:
    """Whether a frame is one of those that choose the mask."""
    return number % max(1, count // max(1, looks)) == 0


def choose(
    engine: Engine,
    person: Located,
    own: np.ndarray,
    drivers: Mapping[int, tuple[Located | None, np.ndarray]],
) -> Bool[np.ndarray, " rows"]:
    """The mask of the least mean score over the frames that were looked at."""
    if engine.settings.mask is not None:
        return np.array(engine.settings.mask)
    seen = [(face, code) for face, code in drivers.values() if face is not None]
    scores = [
        engine.scores(jnp.asarray(own), jnp.asarray(code), (person, face)) for face, code in seen
    ]
    kept = [one for one in scores if one is not None]
    if not kept:
        return np.zeros(len(own), bool)
    mean = np.mean(kept, axis=0)
    return engine.ranked(mean, engine.order(mean), len(mean)).masks[0]


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
