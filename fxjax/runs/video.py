"""Videos and folders of frames, in and out, and what is kept of each frame.

Written are MP4s for browsers, by PyAV (the extra `video`).
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from etils import epath

from fxjax import files, zoo
from fxjax.faces import align
from fxjax.images import load_image
from fxjax.runs import inversion, journal
from fxjax.runs.video_file import USUAL, Video, library
from fxjax.runs.worklist import find
from fxjax.transfer_types import Located
from fxjax.types import AnyPhoto

COPIED = ("aac", "mp3")  # sound that an MP4 holds and browsers play; other kinds become AAC
HIGH = 720  # pixels at most of a side-by-side video
FOLDERS = ("codes", "frames")
FILES = ("frames.csv", "result.mp4", "side_by_side.mp4")


def write(
    path: epath.PathLike,
    pictures: Iterable[AnyPhoto],
    times: Sequence[int],
    base: Fraction,
    rate: Fraction,
    *,
    sound: Video | None = None,
    whole: bool = True,
    note: str = "",
) -> None:
    """Pictures of one size as an MP4 file that browsers play (H.264, yuv420p), all or nothing.

    Each is shown from its time until the next, in units of `base` seconds; `times` has one more,
    for the end. Odd sides lose a pixel. `sound` goes along, up to the end if not `whole`; AAC and
    MP3 as they are, other kinds as AAC. Raises OSError, ValueError without PyAV.
    """
    av = library()
    with files.local(path) as name:
        try:
            with av.open(name, "w", format="mp4", options={"movflags": "faststart"}) as container:
                container.metadata["comment"] = note
                _fill(container, pictures, times, base, rate, sound, whole)
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, os.fspath(path)) from error
            raise OSError(f"{path}: {error}") from error


def _fill(
    container: Any,
    pictures: Iterable[AnyPhoto],
    times: Sequence[int],
    base: Fraction,
    rate: Fraction,
    sound: Video | None,
    whole: bool,
) -> None:
    av = library()
    # without B-frames an MP4 says the true length of a variable rate
    stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "bf": "0"})
    stream.pix_fmt, stream.time_base, stream.codec_context.time_base = "yuv420p", base, base
    for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
        setattr(stream.codec_context, name, 1)  # BT.709, and 16 to 235
    stream.codec_context.thread_count = 1
    heard = None
    if sound is not None and sound.has_sound:
        heard = _heard(container, sound, None if whole else times[-1] * base)
        next(heard)  # adds its stream before anything is written
    shown = {time: after - time for time, after in itertools.pairwise(times)}

    def put(frame: Any) -> None:
        for packet in stream.encode(frame):
            packet.duration = shown.get(packet.pts, 1)
            container.mux(packet)

    for number, (time, picture) in enumerate(zip(times, pictures, strict=False)):
        even = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]
        if not number:
            stream.height, stream.width = even.shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)
        frame.pts, frame.time_base = time, base
        put(frame)
        if heard is not None:
            heard.send(time * base)
    put(None)
    if heard is not None:
        heard.send(None)


def _heard(
    container: Any, sound: Video, most: Fraction | None
) -> Generator[None, Fraction | None, None]:
    """Adds the sound to a file, each time up to the time that is sent; None is the end."""
    av = library()
    packets = sound.sound()
    first = next(packets, None)
    if first is None:
        while True:
            yield
    source = first.stream
    copied = source.codec_context.name.startswith(COPIED)
    if copied:
        target = container.add_stream_from_template(source)
    else:
        target = container.add_stream("aac", rate=source.codec_context.sample_rate)
        target.codec_context.layout = "stereo" if source.codec_context.channels > 1 else "mono"
    start, goal = sound.start * sound.base, (yield)
    packet: Any = first
    while packet is not None:
        if packet.pts is not None and packet.time_base:
            while goal is not None and packet.pts * packet.time_base - start > goal:
                goal = yield
            if most is not None and packet.pts * packet.time_base - start >= most:
                break
        _put_sound(container, target, packet, start, copied, av)
        packet = next(packets, None)
    if not copied:
        container.mux(target.encode(None))
    while True:
        yield


def _put_sound(
    container: Any, target: Any, packet: Any, start: Fraction, copied: bool, av: Any
) -> None:
    if copied:
        if packet.size and packet.dts is not None:
            shift = round(start / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target
            container.mux(packet)
        return
    with contextlib.suppress(av.error.InvalidDataError):
        for frame in packet.decode():
            frame.pts = frame.pts and frame.pts - round(start / frame.time_base)
            container.mux(target.encode(frame))


class Source:
    """The first `most` frames in order; `left` is how many more there are.

    Of a folder, out/frames below it does not count: results go there. Raises ValueError or
    FileNotFoundError for what cannot be read.
    """

    def __init__(self, driver: str, out: epath.Path, most: int):
        self.path, self.most = files.absolute(driver), most
        self._paths: list[epath.Path] | None = None
        self._video: Video | None = None
        library()  # the result is one, whatever the driver is
        if not self.path.exists():
            raise FileNotFoundError(f"no video or folder of frames {self.path} (--driver)")
        if self.path.is_relative_to(out / "frames"):
            raise ValueError(f"{self.path} is where results are written; give another --out")
        if self.path.is_dir():
            paths, _ = find(driver, out / "frames")
            self._paths, found = paths[:most], len(paths)
        else:
            self._video = Video(self.path)
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
        """What a whole iteration could not read of the video, as far as is known, or ""."""
        found = self._video
        said = found and found.lost(whole=not self.left or found.read < self.count)
        return f"{self.path}: {said}" if said else ""

    def write(self, path: epath.Path, pictures: Iterable[AnyPhoto], note: str) -> None:
        """A picture for each frame of an iteration as a video, at its time and with the sound."""
        video = self._video
        if video is None:
            times, base, rate = list(range(self.count + 1)), 1 / USUAL, USUAL
        else:
            times, base, rate = list(video.times), video.base, video.rate
        write(path, pictures, times, base, rate, sound=video, whole=not self.left, note=note)


def begin(out: epath.Path, settings: Mapping[str, Any], source: Source) -> None:
    """Begins a folder, or goes on in one of the same settings, photo, frames and models.

    With `restart` what an earlier run wrote is removed first. Raises ValueError for others.
    """
    model, restart = settings["model"], settings["restart"]
    features = str(settings["features"] or zoo.holder(model, "features"))
    models = inversion.Config(images="", out="", model=model, features=features)
    lengths = json.dumps(source.lengths()).encode()
    made_of = {
        "photo's bytes": str(files.absolute(settings["appearance"]).stat().length),
        "frames' bytes": hashlib.sha256(lengths).hexdigest(),
    } | inversion.shas(models)
    if not journal.begun(out) and (taken := [name for name in FOLDERS if (out / name).exists()]):
        raise ValueError(
            f"{out} has {' and '.join(taken)} that no run of this command wrote; give another --out"
        )
    if not restart:
        journal.check(out, settings, made_of)
    journal.begin(out, settings, made_of, results=(*FILES, *FOLDERS) if restart else ())


def several(person: Located, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which faces were taken where there are several, in lines."""
    crowded = {row["frame"]: row["faces"] for row in rows if row.get("faces", 1) > 1}
    lines = list(person.which("the photo"))
    if crowded:
        frames = "1 frame has" if len(crowded) == 1 else f"{len(crowded)} frames have"
        lines.append(
            f"{frames} several faces (up to {max(crowded.values())}), the first "
            f"is {min(crowded)}: the largest of each was taken"
        )
    return lines


def steadied(faces: Mapping[int, align.Landmarks]) -> dict[int, align.Landmarks]:
    """Landmarks by frame, each the mean of it (counted twice) and of the frames beside it.

    The neighbours are moved onto it by nose and eye corners: so the landmarks tremble less, and
    the head still moves as it did.
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
    """A frame and a photo beside each other at one height, of at most `HIGH` pixels."""
    high = min(len(photo), HIGH)
    sizes = [(max(1, round(each.shape[1] * high / len(each))), high) for each in (frame, photo)]
    tiles = [
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        for each, size in zip((frame, photo), sizes, strict=True)
    ]
    return np.concatenate(tiles, axis=1)
