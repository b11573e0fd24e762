"""Videos in and out: times, sound, codec, turned and damaged ones."""

import pathlib
import re
import struct
import sys
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest

from fxjax import files
from fxjax.images import load_image, save_image
from fxjax.runs import video

NTSC = Fraction(30000, 1001)


def scene(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth, without symmetries, and brighter from frame to frame."""
    rows, columns = np.mgrid[:height, :width]
    red, green, blue = 2 * rows + 4 * number + 20, 2 * columns + 40, 220 - rows - columns
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def make(
    path: pathlib.Path,
    times: Any = range(12),
    *,
    codec: str = "libx264",
    sound: str | None = None,
    rate: Fraction = NTSC,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> pathlib.Path:
    """A video with a frame at each time, in frames at `rate`, and a tone of the same length."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        heard: Any = container.add_stream(sound, rate=48000) if sound else None
        if heard is not None:
            heard.codec_context.layout = "mono"
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            frame.pts, frame.time_base = time, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None:
            count = int((times[-1] + 1) / rate * 48000)
            wave = (8000 * np.sin(np.arange(count) * 0.06)).astype(np.int16)
            for start in range(0, count, 960):
                some = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 960], format="s16", layout="mono"
                )
                some.sample_rate, some.pts, some.time_base = 48000, start, Fraction(1, 48000)
                container.mux(heard.encode(some))
            container.mux(heard.encode(None))
    return path


def redone(source: pathlib.Path, out: pathlib.Path, most: int = 999) -> video.Source:
    """The frames of a video as the pictures of its result."""
    read = video.Source(str(source), files.absolute(out), most)
    pictures = []
    for number, photo in enumerate(read):
        pictures.append(files.absolute(out) / "frames" / f"{number:06d}.png")
        save_image(pictures[-1], photo)
    video.write_videos(files.absolute(out), pictures, read, "edited")
    return read


def told(path: pathlib.Path) -> dict[str, Any]:
    """Codec, pixel format, times of the frames and the end, and the sound's codec and seconds."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        found: dict[str, Any] = {"codec": stream.codec_context.name, "pixels": stream.pix_fmt}
        found |= {"rate": stream.average_rate, "length": float(stream.duration * stream.time_base)}
        found["times"] = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
        found["note"] = container.metadata.get("comment")
    with av.open(str(path)) as container:
        best: Any = container.streams.best("audio")
        if best is not None:
            found["sound"] = best.codec_context.name
            heard: list[Any] = list(container.decode(best))
            found["seconds"] = sum(frame.samples / frame.sample_rate for frame in heard)
            found["loud"] = max(float(np.abs(frame.to_ndarray()).max()) for frame in heard)
    return found


def is_for_browsers(path: pathlib.Path) -> None:
    found, content = told(path), path.read_bytes()
    assert (found["codec"], found["pixels"]) == ("h264", "yuv420p")
    assert content.index(b"moov") < content.index(b"mdat")
    assert found["note"] == "edited"


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [("a.mp4", "libx264", "aac"), ("a.webm", "libvpx", "libopus"), ("a.avi", "mjpeg", "pcm_s16le")],
)
def test_sound_codec_rate_and_times_stay(tmp_path, name, codec, sound):
    source = make(tmp_path / name, range(30), codec=codec, sound=sound)
    assert redone(source, tmp_path / "out").lost() == ""
    for each in ("result", "side_by_side"):
        path = tmp_path / "out" / f"{each}.mp4"
        is_for_browsers(path)
        found = told(path)
        assert found["sound"] == "aac"
        assert found["seconds"] == pytest.approx(30 / float(NTSC), abs=0.05)
        assert found["loud"] > 0.1
        assert found["length"] == pytest.approx(30 / float(NTSC), abs=0.002)
        np.testing.assert_allclose(found["times"], np.arange(30) / float(NTSC), atol=0.002)
    assert load_image(tmp_path / "out" / "frames" / "000003.png").shape == (48, 64, 3)
    with av.open(str(tmp_path / "out" / "side_by_side.mp4")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape == (48, 128, 3)
    np.testing.assert_allclose(first[:, :64], scene(0), atol=12)
    np.testing.assert_allclose(first[:, 64:], scene(0), atol=12)


def test_variable_rates_keep_their_times(tmp_path):
    uneven = [0, 1, 2, 3, 7, 8, 12, 20]
    source = make(tmp_path / "a.mp4", uneven, rate=Fraction(24), sound="aac")
    redone(source, tmp_path / "out")
    found = told(tmp_path / "out" / "result.mp4")
    np.testing.assert_allclose(found["times"], np.array(uneven) / 24, atol=1e-3)
    assert found["length"] == pytest.approx(21 / 24, abs=1e-3)


def test_what_most_leaves_out_is_not_heard(tmp_path):
    source = make(tmp_path / "a.mp4", range(60), sound="aac")
    assert redone(source, tmp_path / "out", most=15).lost() == ""
    found = told(tmp_path / "out" / "result.mp4")
    assert len(found["times"]) == 15
    assert found["seconds"] == pytest.approx(15 / float(NTSC), abs=0.06)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_videos_are_upright(tmp_path, degrees):
    source = make(tmp_path / "a.mp4", options={"bf": "0"})
    content = bytearray(source.read_bytes())
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = matrix
    source.write_bytes(content)
    wanted = np.rot90(scene(0), -degrees // 90)
    (photo,) = video.Video(files.absolute(source)).first(1)
    np.testing.assert_allclose(photo, wanted, atol=12)
    redone(source, tmp_path / "out")
    good, again = cv2.VideoCapture(str(tmp_path / "out" / "result.mp4")).read()
    assert good
    np.testing.assert_allclose(again[..., ::-1], wanted, atol=16)


def test_a_cut_video_says_how_much_is_missing(tmp_path):
    options, layout = {"g": "1"}, {"movflags": "faststart"}
    source = make(tmp_path / "a.mp4", range(30), options=options, container_options=layout)
    content = source.read_bytes()
    source.write_bytes(content[: (content.index(b"mdat") + len(content)) // 2])
    read = redone(source, tmp_path / "out")
    count = len(told(tmp_path / "out" / "result.mp4")["times"])
    assert 0 < count < 30
    assert f"a.mp4: its header promises 30 frames and {count} could be read: " in read.lost()
    source.write_bytes(content[: content.index(b"moov") + 9])
    with pytest.raises(ValueError, match=r"cannot be read as a video \(") as caught:
        video.Source(str(source), files.absolute(tmp_path / "out"), 9)
    assert "\n" not in str(caught.value)


def read_whole(path: pathlib.Path) -> tuple[int, str]:
    """How many frames could be read, and what is said of the others."""
    source = video.Source(str(path), files.absolute(path.parent / "out"), 999)
    return sum(1 for _ in source), source.lost()


def damaged(path: pathlib.Path, *, gone: bool) -> pathlib.Path:
    """A fifth of a file zeroed, or cut out, from its middle on."""
    content = path.read_bytes()
    half, fifth = len(content) // 2, len(content) // 5
    path.write_bytes(content[:half] + bytes(0 if gone else fifth) + content[half + fifth :])
    return path


UNCOUNTED = [  # whose header says no number of frames
    ("a.mkv", "libx264", {}),
    ("a.webm", "libvpx", {"deadline": "realtime"}),
    ("a.flv", "libx264", {}),
    ("a.ts", "libx264", {}),
    ("a.mpg", "mpeg2video", {}),
]
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(("name", "codec", "options"), UNCOUNTED)
def test_a_hole_in_the_middle_is_told(tmp_path, name, codec, options, gone):
    source = make(
        tmp_path / name, range(100), codec=codec, rate=Fraction(25), options={"g": "10", **options},
        container_options={"cluster_time_limit": "300"} if name.endswith(("mkv", "webm")) else {},
    )  # fmt: skip
    count, line = read_whole(damaged(source, gone=gone))
    found = re.search(r" s seem to be missing .*\(about (\d+) frames?\)", line)
    assert 50 < count < 100
    assert "promises" not in line
    assert f"{name}: {count} frames could be read" in line
    assert found
    assert int(found[1]) == pytest.approx(100 - count, abs=1)


def test_a_damaged_flv_with_sound_keeps_its_good_frames(tmp_path):
    """A picture that has become sound of another kind looks like one more stream."""
    source = make(tmp_path / "a.flv", range(100), rate=Fraction(25), sound="aac")
    content, place, pictures = bytearray(source.read_bytes()), 13, []
    while place < len(content):  # kind, three bytes of length, seven more, data, the length again
        pictures += [place] if content[place] == 9 else []
        place += 15 + int.from_bytes(content[place + 1 : place + 4], "big")
    content[pictures[50]] = 8
    source.write_bytes(content)
    read = redone(source, tmp_path / "out")
    assert "seem to be missing" in read.lost()
    with av.open(str(tmp_path / "out" / "result.mp4")) as container:
        assert 50 < container.streams.video[0].frames < 100


def test_fragments_that_cannot_be_read_are_told(tmp_path):
    source = make(tmp_path / "a.mp4", range(60), options={"g": "10"}, container_options=FRAGMENTS)
    content = bytearray(source.read_bytes())
    place = content.index(b"moof", len(content) // 2) - 4
    content[place : place + 100] = bytes(100)
    source.write_bytes(content)
    count, line = read_whole(source)
    assert 10 < count < 50
    last = f"{1 - place / len(content):.0%}"
    assert f"a.mp4: {count} frames could be read; nothing could be read in the last {last}" in line


@pytest.mark.parametrize("name", ["a.mkv", "a.flv"])
def test_a_cut_recording_without_a_count_is_noticed(tmp_path, name):
    source = make(tmp_path / name, range(60), options={"g": "5"})
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    count, line = read_whole(source)
    found = re.search(r"(\d\.\d+) s are missing at the end \(about (\d+) frames\)", line)
    assert found
    assert count < 50
    assert float(found[1]) == pytest.approx((60 - count) / float(NTSC), abs=0.1)
    assert int(found[2]) == pytest.approx(60 - count, abs=3)


UNEVEN = [int(time) for time in np.cumsum(np.random.default_rng(0).integers(1, 5, 60))]
PAUSE = [*range(30), *range(50, 80)]  # said by the frame before it: it lasts so long


INTACT = [
    ("a.mp4", "libx264", {"bf": "3"}, {}),
    ("a.mp4", "libx264", {"bf": "3"}, FRAGMENTS),
    ("a.mkv", "libx264", {"bf": "3"}, {}),
    ("a.flv", "libx264", {"bf": "3"}, {}),
    ("a.ts", "libx264", {"bf": "3"}, {}),
    ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}, {}),
    ("a.avi", "mpeg4", {"bf": "2"}, {}),
    ("a.avi", "mpeg4", {}, {}),
    ("a.wmv", "wmv2", {}, {}),
]


@pytest.mark.parametrize(
    ("name", "codec", "options", "layout", "times"),
    [
        ("a.mpg", "mpeg2video", {"bf": "2"}, {}, range(60)),  # whose rate is one
        *[(*kind, range(60)) for kind in INTACT],
        *[(*kind, UNEVEN) for kind in INTACT],
    ],
)
def test_intact_videos_raise_no_alarm(tmp_path, name, codec, options, layout, times):
    sound = "aac" if codec in ("libx264", "mpeg4") else None
    source = make(
        tmp_path / name, times, codec=codec, options=options, container_options=layout, sound=sound,
        rate=Fraction(25),
    )  # fmt: skip
    assert read_whole(source) == (60, "")


@pytest.mark.parametrize("layout", [{}, FRAGMENTS])
def test_a_pause_that_the_file_means_is_no_hole(tmp_path, layout):
    options = {"bf": "0"}
    source = make(tmp_path / "a.mp4", PAUSE, options=options, container_options=layout)
    assert read_whole(source) == (60, "")


def test_a_broken_middle_is_counted(tmp_path):
    source = make(tmp_path / "a.mp4", range(30))
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos]
    content = bytearray(source.read_bytes())
    for place, size in packets[10:13]:
        content[place + 5 : place + size] = b"\xff" * (size - 5)
    source.write_bytes(content)
    read = redone(source, tmp_path / "out")
    assert "promises 30 frames and 27 could be read: 0 are missing, 3 damaged" in read.lost()
    found = told(tmp_path / "out" / "result.mp4")
    assert len(found["times"]) == 27
    assert found["length"] == pytest.approx(
        30 / float(NTSC), abs=0.01
    )  # the frame before stays longer


def test_playlists_and_sound_alone_are_no_videos(tmp_path):
    make(tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nb.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "c.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    for name in ("a.mp4", "c.mp4"):
        with pytest.raises(ValueError, match="cannot be read as a video"):
            video.Video(files.absolute(tmp_path / name))


def test_without_pyav_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"videos need PyAV: pip install 'fxjax\[video\]'"):
        video.Source(str(tmp_path), files.absolute(tmp_path / "out"), 9)


def test_shared_videos(shared, tmp_path):
    source = shared / "cases" / "video-sound-codec" / "v_audio.mp4"
    redone(source, tmp_path / "a")
    was, found = told(source), told(tmp_path / "a" / "result.mp4")
    assert (found["sound"], found["seconds"]) == (was["sound"], was["seconds"])
    assert (found["times"], found["length"]) == (was["times"], was["length"])
    source = shared / "cases" / "video-vfr" / "v_vfr.mp4"
    redone(source, tmp_path / "b")
    was, found = told(source), told(tmp_path / "b" / "result.mp4")
    assert found["times"] == was["times"]
    assert found["length"] == pytest.approx(0.875, abs=1e-3)
