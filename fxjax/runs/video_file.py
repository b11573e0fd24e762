"""A video file as it is read: frames with their times, sound, and what could not be read of it."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from etils import epath

from fxjax.types import AnyPhoto

MOST_PIXELS = 120_000_000  # of a frame, as of a photo
# What is read: no playlists, which could name other files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,mjpeg,"
    "h264,hevc,m4v,ivf,mxf,dv"
)
USUAL = Fraction(25)  # frames per second where none are said
LONG = "matroska", "flv", "mxf"  # whose header says how long it is, if not how many frames
LACK = 0.5  # seconds that such a file may end early
REST = 0.05  # of a file's bytes, which may come behind its last frame


def library() -> Any:
    """PyAV. Raises ValueError if it is not installed."""
    try:
        import av
    except ImportError:
        raise ValueError("videos need PyAV: pip install 'fxjax[video]'") from None
    return av


class Video:
    """A video file: `promised` frames by its header (0: it says none), `held` packets, `rate`.

    After an iteration `read` frames were good and `broken` ones were met; `times` are the good
    ones' in units of `base` seconds, from 0, and one more for the end of the last. Raises
    ValueError for what cannot be read.
    """

    def __init__(self, path: epath.Path):
        self.path, self.times, self.read, self.broken = path, list[int](), 0, 0
        self._shown: list[tuple[int, int]] = []  # from when and how long each frame is, as it says
        with self._open() as (container, stream):
            size = stream.codec_context.width, stream.codec_context.height
            if size[0] * size[1] > MOST_PIXELS:
                raise ValueError(f"{path} has frames of {size[0]}x{size[1]} pixels: too large")
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL)
            self.base: Fraction = stream.time_base or 1 / (512 * self.rate)
            self.start = int((container.start_time or 0) / (self.base * 1_000_000))
            self.has_sound = container.streams.best("audio") is not None
            self.held, hidden, places = 0, 0, 0
            end, self._until, used = Fraction(0), 0, 0  # seconds of all, ticks of pictures, bytes
            for packet in self._packets(container):
                after = (packet.pts or 0) + (packet.duration or 0)
                end = max(end, after * (packet.time_base or 0))
                used = max(used, (packet.pos or 0) + packet.size)
                if packet.size and packet.stream.index == stream.index:
                    self.held, hidden = self.held + 1, hidden + packet.is_discard
                    places = max(places, 1 + (packet.dts or 0))
                    self._until = max(self._until, 0 if packet.is_discard else after - self.start)
            kind, promised = container.format.name, stream.frames
            if kind == "avi":  # counts empty places, too: there the frame before stays
                promised -= max(0, places - self.held)
            self.promised = promised - hidden if promised >= self.held else 0
            self.held -= hidden
            lack = Fraction(container.duration or 0, 1_000_000) - end
            self._lack = float(lack) if kind.startswith(LONG) and lack > LACK else 0.0
            rest = 1 - used / path.stat().length
            self._rest = rest if kind.startswith("mov") and rest > REST else 0.0

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """The file and its pictures."""
        av, why = library(), "it is no file on this machine"
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
        # IndexError: what is damaged looks like one more stream
        with contextlib.suppress(library().FFmpegError, IndexError):
            yield from container.demux(*streams)

    def first(self, most: int) -> Iterator[AnyPhoto]:
        """So many frames as RGB, upright; what is damaged is left out and not counted in `read`."""
        self.times, self._shown, self.read, self.broken, step = [], [], 0, 0, 0
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
                self._shown.append((ticks, frame.duration or 0))
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

    def lost(self, *, whole: bool) -> str:
        """What an iteration (to the end, if `whole`) did not find, as far as is known, or ""."""
        less = self.promised - self.read
        if whole and less > 0:
            missing = min(less, self.promised - self.held)
            return (
                f"its header promises {self.promised} frames and {self.read} could be read: "
                f"{missing} are missing, {less - missing} damaged"
            )
        found = [] if self.promised else self._holes(whole)
        first = f"{self.read} frames could be read"
        first += f", {self.broken} damaged" if self.broken else ""
        return "; ".join([first, *found]) if self.broken or found else ""

    def _holes(self, whole: bool) -> list[str]:
        """Where time passes without frames. At a variable rate only a lack at the end is seen."""
        times, lengths = np.array(self._shown, np.int64).T
        steps, tick = np.diff(times), float(self.base)
        usual = float(np.median(steps)) if len(steps) else 0.0
        more = np.where(steps == lengths[:-1], 0, steps - usual)  # a length that is said is meant
        odd = np.abs(more) > usual / 4
        steady = usual > 0 and odd.sum() <= len(steps) / 20
        told = []

        def tell(seconds: float, what: str) -> None:
            count = round(seconds / (usual * tick)) if steady else 0
            about = f" (about {count} frame{'s' * (count != 1)})" if steady else ""
            told.append(f"{seconds:.{1 if seconds >= 1 else 2}f} s {what}{about}")

        net = float(more[odd].sum())  # times that tremble cancel out
        if steady and net > 0.8 * usual:
            holes = np.flatnonzero(more > 0.8 * usual)
            where = f"at {(times[holes[0]] + usual) * tick:.1f} s"
            where = where if len(holes) == 1 else f"in several places, the first {where}"
            tell(net * tick, f"seem to be missing {where}")
        tail = self._until - int(times[-1]) - max(usual, int(lengths[-1]))
        tail = (tail if tail > 0.8 * usual else 0) * tick + self._lack
        if whole and tail > 0:
            tell(tail, "are missing at the end")
        if whole and self._rest:
            told.append(f"nothing could be read in the last {self._rest:.0%} of the file")
        return told

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
