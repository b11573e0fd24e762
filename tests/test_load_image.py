"""Pictures as people have them: every kind is read right or refused with one line."""

import io
import os
import socket
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from fxjax import images
from fxjax.images import load_image


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A picture without symmetries: smooth colours, so that lossy formats keep them."""
    rows, columns = np.mgrid[:40, :56]
    red, green, blue = 4 * rows + 60, 3 * columns + 40, 255 - 2 * rows - 2 * columns
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def _encode(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""

    def read(data: bytes, name: str = "picture.jpg") -> np.ndarray:
        path = tmp_path / name
        path.write_bytes(data)
        picture = load_image(path)
        assert picture.dtype == np.uint8
        assert picture.shape[2:] == (3,)
        assert picture.flags.c_contiguous
        assert picture.flags.writeable
        return picture

    return read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(read, scene, orientation):
    upright = {  # what a viewer does to the stored pixels, by the EXIF standard
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.swapaxes(0, 1),
        6: np.rot90(scene, -1),
        7: scene[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(scene, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encode(Image.fromarray(scene), "PNG", exif=exif)
    np.testing.assert_array_equal(read(data), upright)
    lossy = read(_encode(Image.fromarray(scene), "JPEG", exif=exif, quality=95, subsampling=0))
    np.testing.assert_allclose(lossy, upright, atol=6)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_put_on_white_and_hidden_colours_stay_hidden(read, scene, kind):
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 51  # a fifth
    whole = Image.fromarray(np.dstack([scene, alpha]))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    picture = read(_encode(whole, kind, **options))
    assert (picture[:10] == 255).all()
    mixed = 255 * 0.8 + scene[10:20] * 0.2
    np.testing.assert_allclose(picture[10:20], mixed, atol=1)
    np.testing.assert_array_equal(picture[20:], scene[20:])


def test_other_transparency(read, scene):
    grey = Image.fromarray(scene[..., 0])
    half = Image.fromarray(np.full(scene.shape[:2], 51, np.uint8))
    picture = read(_encode(Image.merge("LA", (grey, half)), "PNG"))
    np.testing.assert_allclose(picture[..., 1], 255 * 0.8 + scene[..., 0] * 0.2, atol=1)

    flat = np.zeros((4, 4, 3), np.uint8)
    flat[:2] = 200, 10, 30
    picture = read(_encode(Image.fromarray(flat), "PNG", transparency=(200, 10, 30)))
    assert (picture[:2] == 255).all()
    assert (picture[2:] == 0).all()

    colours = Image.fromarray(flat).quantize(2)
    hidden = colours.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        picture = read(_encode(colours, kind, transparency=hidden))
        assert (picture[:2] == 255).all(), kind
        assert (picture[2:] == 0).all(), kind


def _png(depth: int, kind: int, row: bytes, key: bytes) -> bytes:
    """Two pixels beside each other, of which the first has the colour that is clear."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)
    rest = chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest


@pytest.mark.parametrize(
    ("depth", "kind", "row", "key", "other"),
    [
        (1, 0, b"\x80", b"\0\1", [0, 0, 0]),
        (2, 0, b"\x90", b"\0\2", [85, 85, 85]),
        (4, 0, b"\x81", b"\0\x08", [17, 17, 17]),
        (8, 0, b"\x80\7", b"\0\x80", [7, 7, 7]),
        (16, 0, b"\x80\x12\x80\x13", b"\x80\x12", [128, 128, 128]),
        (8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3", [4, 5, 6]),
        (16, 2, b"\1\7\2\7\3\7\4\7\5\7\6\7", b"\1\7\2\7\3\7", [4, 5, 6]),
    ],
)
def test_the_clear_colour_of_every_depth(read, depth, kind, row, key, other):
    data = _png(depth, kind, row, key)
    assert read(data, "a.png").tolist() == [[[255, 255, 255], other]]
    _, cutout = images.read(data)
    assert cutout is not None
    assert cutout[0, :, 3].tolist() == [0, 255]


def test_grey_and_palette(read, scene):
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        picture = read(_encode(Image.fromarray(scene[..., 0]), kind))
        np.testing.assert_array_equal(picture, np.repeat(scene[..., :1], 3, axis=2))
    bits = scene[..., 0] > 128
    picture = read(_encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(picture[..., 1], bits * np.uint8(255))
    colours = Image.fromarray(scene).quantize(64)
    np.testing.assert_array_equal(read(_encode(colours, "PNG")), np.array(colours.convert("RGB")))


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_16_bits_become_8(read, scene, ending):
    deep = scene.astype(np.uint16) * 257  # every byte's exact equal
    colour = cv2.imencode(ending, np.ascontiguousarray(deep[..., ::-1]))[1].tobytes()
    np.testing.assert_array_equal(read(colour), scene)
    grey = cv2.imencode(ending, np.ascontiguousarray(deep[..., 0]))[1].tobytes()
    np.testing.assert_array_equal(read(grey), np.repeat(scene[..., :1], 3, axis=2))


def test_floats_are_refused(read, scene):
    for pixels in (scene[..., 0].astype(np.float32), scene[..., 0].astype(np.int32) << 20):
        with pytest.raises(ValueError, match="more than 16 bits"):
            read(_encode(Image.fromarray(pixels), "TIFF"))


def test_cmyk(read, scene):
    ink = Image.fromarray(255 - scene)
    inks = Image.merge(
        "CMYK", (*ink.split(), Image.new("L", ink.size))
    )  # no black: RGB is 255 - ink
    data = _encode(inks, "JPEG", quality=98)
    assert b"Adobe" in data  # such files hold 255 - ink
    np.testing.assert_allclose(read(data), scene, atol=8)
    data = _encode(ImageChops.invert(inks), "JPEG", quality=98)  # now it holds the inks
    marker = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[marker + 2 : marker + 4])[0]
    data = data[:marker] + data[marker + 2 + length :]  # and says no more that it is Adobe's
    np.testing.assert_allclose(read(data), scene, atol=8)
    np.testing.assert_allclose(read(_encode(inks, "TIFF")), scene, atol=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames(read, kind):
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as picture:
        picture.seek(2)  # it has three
    np.testing.assert_array_equal(read(data), np.array(frames[0]))


def test_colour_profiles(read, scene):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = Image.fromarray(scene)
    np.testing.assert_array_equal(read(_encode(plain, "PNG", icc_profile=profile)), scene)
    # Red and green primaries change places, and the name tells that it is no longer sRGB.
    swapped = profile.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    for kind, tolerance in (("PNG", 2), ("JPEG", 12)):
        picture = read(_encode(plain, kind, icc_profile=swapped.replace(b"sRGB", b"test")))
        np.testing.assert_allclose(picture, scene[..., [1, 0, 2]], atol=tolerance)
    for broken in (b"no profile", profile[:200], swapped[:300]):
        np.testing.assert_array_equal(read(_encode(plain, "PNG", icc_profile=broken)), scene)


def test_sizes(read):
    assert read(_encode(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]
    assert read(_encode(Image.new("L", (30_000, 2), 7), "PNG")).shape == (2, 30_000, 3)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_bombs_are_refused_by_their_header(read, side):
    data = bytearray(_encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    start = time.perf_counter()
    with pytest.raises(ValueError, match="pixels"):
        read(bytes(data))
    assert time.perf_counter() - start < 1


KINDS = {
    "PNG": {},
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "WEBP": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(read, kind, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = _encode(Image.fromarray(noise), kind.split()[0], **KINDS[kind])
    with pytest.raises(
        ValueError, match=r"^\S+picture.jpg (is not a picture|cannot be read)[^\n]*$"
    ):
        read(data[: int(len(data) * part)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"is not a picture \(0 bytes\); give a PNG, JPEG"),
        (b"<!doctype html><html>not found</html>", "is not a picture"),
        (b"\xff\xd8\xff", "is not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
    ],
)
def test_no_pictures(read, data, reason):
    with pytest.raises(ValueError, match=reason):
        read(data)


def test_what_cannot_be_read_to_an_end_is_refused_at_once(tmp_path, scene):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))  # such names must be short
        for path in (*tmp_path.iterdir(), "/dev/zero"):
            with pytest.raises(ValueError, match=r"^\S+ is a pipe, socket or device; give a pic"):
                load_image(path)
    for name in ("here", "there"):
        (tmp_path / name).symlink_to(tmp_path / ("there" if name == "here" else "here"))
    with pytest.raises(FileNotFoundError, match="no picture file at"):
        load_image(tmp_path / "here")


def test_odd_metadata_does_not_matter(read, scene):
    plain = Image.fromarray(scene)
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"):
        np.testing.assert_allclose(read(_encode(plain, "JPEG", exif=exif)), scene, atol=12)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_never_worse_than_a_refusal(read, scene, kind):
    random = np.random.default_rng(1)
    good = _encode(Image.fromarray(scene), kind.split()[0], **KINDS[kind])
    outcomes = set()
    for _ in range(60):
        bad = bytearray(good)
        for place in random.integers(2, len(bad), 4):
            bad[place] = random.integers(256)
        try:
            outcomes.add(read(bytes(bad)).ndim)
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes or kind in ("BMP", "GIF", "JPEG", "JPEG progressive")
