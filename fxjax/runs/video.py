"""Videos and folders of frames, in and out, and what is kept of each frame.

Video files are read and written by PyAV (the extra `video`): frames with their times, sound, and
MP4s for browsers.
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
from fxjax.runs.worklist import find
from fxjax.transfer_types import Located
from fxjax.types import AnyPhoto

MOST_PIXELS = 120_000_000  # of a frame, as of a photo
# What is read: no playlists, which could name other files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,mjpeg,"
    "h264,hevc,m4v,ivf,mxf,dv"
)
COPIED = ("aac", "mp3")  # sound that an MP4 holds and browsers play; other kinds become AAC
USUAL = Fraction(25)  # frames per second where none are said
LACK = 0.5  # seconds that a Matroska file may end early
HIGH = 720  # pixels at most of a side-by-side video
FOLDERS = ("codes", "frames")
FILES = ("frames.csv", "result.mp4", "side_by_side.mp4")


def library() -> Any:
    """PyAV. Raises ValueError if it is not installed."""
    try:
        import av
    except ImportError:
        raise ValueError("videos need PyAV: pip install 'fxjax[video]'") from None
    return av


class Video:
    """A video file: `promised` frames by its header, `held` packets, `rate` per second.

    After an iteration `read` frames were good and `broken` ones were met; `times` are the good
    ones' in units of `base` seconds, from 0, and one more for the end of the last. Raises
    ValueError for what cannot be read.
    """

    def __init__(self, path: epath.Path):
        self.path, self.times, self.read, self.broken = path, list[int](), 0, 0
        with self._open() as (container, stream):
            size = stream.codec_context.width, stream.codec_context.height
            if size[0] * size[1] > MOST_PIXELS:
                raise ValueError(f"{path} has frames of {size[0]}x{size[1]} pixels: too large")
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL)
            self.base: Fraction = stream.time_base or 1 / (512 * self.rate)
            self.start = int((container.start_time or 0) / (self.base * 1_000_000))
            self.has_sound = container.streams.best("audio") is not None
            self.held, hidden, end = 0, 0, Fraction(0)
            for packet in self._packets(container):
                if packet.size and packet.stream.index == stream.index:
                    self.held, hidden = self.held + 1, hidden + packet.is_discard
                if packet.pts is not None and packet.time_base:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            self.promised = max(stream.frames, self.held) - hidden
            self.held -= hidden
            if not stream.frames and "matroska" in container.format.name and container.duration:
                lack = Fraction(container.duration + (container.start_time or 0), 1_000_000) - end
                self.promised += round(lack * self.rate) if lack > LACK else 0

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """The file and its pictures."""
        av, why = library(), "it is no file"
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        if os.path.isfile(self.path):
            try:
                with av.open(os.fspath(self.path), container_options=options) as container:
                    stream = container.streams.best("video")
                    if stream is not None and stream.codec_context is not None:
                        stream.codec_context.thread_count = 1  # a frame's transfer takes far longer
                        yield container, stream
                        return
                    why = "it holds no pictures of a known kind"
            except av.FFmpegError as error:
                why = " ".join(str(error.strerror or error).split())
        raise ValueError(
            f"{self.path} cannot be read as a video ({why}); give another, or a folder of frames"
        )

    def _packets(self, container: Any, *streams: Any) -> Iterator[Any]:
        """The packets of a file, as far as it can be read."""
        with contextlib.suppress(library().FFmpegError):
            yield from container.demux(*streams)

    def first(self, most: int) -> Iterator[AnyPhoto]:
        """So many frames as RGB, upright; what is damaged is left out and not counted in `read`."""
        self.times, self.read, self.broken, step = [], 0, 0, 0
        usual = max(1, round(1 / (self.rate * self.base)))
        with self._open() as (container, stream):
            for frame in self._decoded(container, stream):
                if self.read == most:
                    break
                photo = None if frame.is_corrupt else _upright(frame, stream)
                if photo is None:
                    self.broken += 1
                    continue
                step = frame.duration or usual
                after = self.times[-1] + 1 if self.times else 0
                ticks = after + usual - 1 if frame.pts is None else frame.pts - self.start
                self.times.append(max(after, ticks) if self.times else 0)
                self.read += 1
                yield photo
        if not self.read:
            raise ValueError(f"{self.path} holds no frame that can be read")
        self.times.append(self.times[-1] + step)

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """The frames of those packets that can be decoded."""
        for packet in self._packets(container, stream):
            try:
                found = packet.decode()
            except library().FFmpegError:
                self.broken += 1
                continue
            yield from found

    def sound(self) -> Iterator[Any]:
        """The sound's packets, none of which ends before the pictures begin."""
        with self._open() as (container, _):
            yield from self._packets(container, container.streams.best("audio"))


def _upright(frame: Any, stream: Any) -> AnyPhoto | None:
    """A frame as it is shown: turned as its tag says, with square pixels; None if it cannot be."""
    ratio = stream.codec_context.sample_aspect_ratio
    width = round(frame.width * ratio) if ratio else frame.width
    try:
        size = max(1, width), frame.height
        pixels = frame.reformat(*size, format="rgb24", threads=1).to_ndarray()
    except (ValueError, library().FFmpegError):
        return None
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


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
    crowded = [row["frame"] for row in rows if row.get("faces", 1) > 1]
    lines = list(person.which("the photo"))
    if crowded:
        lines.append(
            f"{len(crowded)} frames have several faces, the first is {crowded[0]}: the largest of "
            "each was taken"
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
