"""The one image convention: RGB float32 in [-1, 1], NHWC. Host pictures are RGB uint8."""

import contextlib
import io
import os
import warnings
from typing import Any, overload

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8
from PIL import ExifTags, ImageChops, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL import Image as Pillow

from fxjax import files
from fxjax.types import Photo, Photos

# HEIC and AVIF are here to be refused by name rather than left out in silence.
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".jxl"),
)
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MOST_BYTES, _MOST_PIXELS = 2**30, 120_000_000


@overload
def to_uint8(images: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]: ...
@overload
def to_uint8(images: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]: ...
def to_uint8(
    images: Float[np.ndarray, "*shape"] | Float[Array, "*shape"],
) -> UInt8[np.ndarray, "*shape"] | UInt8[Array, "*shape"]:
    """floor(x * 127.5 + 128) clipped to 0..255, as the official StyleGAN code does.

    Host arrays stay on the host, device arrays on the device.
    """
    if isinstance(images, jax.Array):
        scaled = jnp.floor(images.astype(jnp.float32) * 127.5 + 128)
        return jnp.clip(scaled, 0, 255).astype(jnp.uint8)
    scaled = np.floor(images.astype(np.float32) * np.float32(127.5) + np.float32(128))
    return np.clip(scaled, 0, 255).astype(np.uint8)


@overload
def from_uint8(images: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]: ...
@overload
def from_uint8(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]: ...
def from_uint8(
    images: UInt8[np.ndarray, "*shape"] | UInt8[Array, "*shape"],
) -> Float[np.ndarray, "*shape"] | Float[Array, "*shape"]:
    """0..255 to float32 [-1, 1]; `to_uint8` of the result gives back the same bytes."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def is_gray(picture: UInt8[np.ndarray, "_ _ 3"]) -> bool:
    """Whether all three channels are equal."""
    return bool(np.all(picture == picture[..., :1]))


def gray(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """The picture's luma in all three channels; one that is gray already stays as it is."""
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


Cutout = UInt8[np.ndarray, "_ _ 4"]
"""A picture as its file has it, with alpha: 0 is clear. Colours are not put on anything."""


def read(
    picture: Any, *, range: tuple[float | int, float | int] | None = None
) -> tuple[Photo, Cutout | None]:
    """Any picture as RGB uint8, and, if any of it is clear, with its alpha.

    `picture` is a file's path or its bytes, a picture of Pillow, or an array of NumPy, JAX, PyTorch
    and others: [height, width] gray, or [height, width, channels] with 3 (RGB) or 4 (RGBA), of
    uint8 or uint16, or of floats if `range` says what black and white are, such as (0, 1) or
    (-1, 1). Clear places are put on white. Raises FileNotFoundError, or ValueError with one line
    that says what came and what to do.
    """
    if isinstance(picture, str | os.PathLike):
        return load_layers(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _decoded(bytes(picture), "the picture")
    if isinstance(picture, Pillow.Image):
        return _srgb(ImageOps.exif_transpose(picture))
    pixels = _bytes(_array(picture), range)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2), None
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels), None
    if pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3]), None
    return on_white(np.ascontiguousarray(pixels)), pixels


def _array(picture: Any) -> np.ndarray:
    """An array of [height, width] or [height, width, 1, 3 or 4]. ValueError for others."""
    kind = type(picture).__name__
    try:
        if hasattr(picture, "__array__"):
            array = np.asarray(picture)
        elif hasattr(picture, "__dlpack__"):
            array = np.from_dlpack(picture)
        else:
            raise TypeError("it is no array")
    except (TypeError, RuntimeError, BufferError) as error:
        raise ValueError(
            f"a {kind} is no picture that can be read ({' '.join(str(error).split())[:200]}): give "
            "a path, a file's bytes, a Pillow picture or an array on the host, such as "
            "tensor.detach().cpu()"
        ) from None
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4)):
        return array
    todo = "give [height, width, 3] in RGB"
    if array.ndim == 3 and shape[0] in (1, 3, 4):
        todo = f"its channels seem to come first: {todo}, such as numpy.moveaxis(picture, 0, 2)"
    elif array.ndim == 4:
        todo = f"it seems to be a batch: {todo}, such as pictures[0]"
    raise ValueError(f"an array of shape {list(shape)} is not read as a picture: {todo}")


def _bytes(
    array: np.ndarray, range: tuple[float | int, float | int] | None
) -> UInt8[np.ndarray, "..."]:
    """An array's values as bytes. ValueError for those whose black and white are not known."""
    if not array.size:
        raise ValueError(f"an array of shape {list(array.shape)} holds no pixels")
    if range is None:
        if array.dtype == np.uint8:
            return array
        if array.dtype == np.uint16:
            return (array >> 8).astype(np.uint8)
        low, high = (float(x) for x in (array.min(), array.max()))
        raise ValueError(
            f"pixels of {array.dtype} from {low:g} to {high:g}: give uint8, or say which values "
            "are black and white, such as fxjax.images.read(picture, range=(0, 1))[0]"
        )
    black, white = range
    if not black < white:
        raise ValueError(f"range={range}: want black and white, such as (0, 1) or (-1, 1)")
    values = (array.astype(np.float64) - black) / (white - black)
    if not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):
        low, high = (float(x) for x in (array.min(), array.max()))
        raise ValueError(f"pixels from {low:g} to {high:g} are not within range={range}")
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def load_image(path: epath.PathLike) -> Photo:
    """Reads PNG, JPEG, WebP, GIF, BMP or TIFF as RGB uint8, upright and in sRGB.

    EXIF orientation and colour profiles are applied, transparency is put on white, 16 bits become
    8, and of several frames the first is taken. Raises FileNotFoundError, or ValueError with one
    line: not a picture or no regular file, truncated or broken, over 120 megapixels (judged before
    decoding).
    """
    return load_layers(path)[0]


def load_layers(path: epath.PathLike) -> tuple[Photo, Cutout | None]:
    """A picture as `load_image` reads it, and, if any of it is clear, with its alpha."""
    source = files.absolute(path)
    if not source.exists() or source.is_dir():
        raise FileNotFoundError(f"no picture file at {source}")
    if "://" not in os.fspath(source) and not os.path.isfile(source):
        raise ValueError(f"{source} is a pipe, socket or device; give a picture file")
    if source.stat().length > _MOST_BYTES:
        raise ValueError(f"{source} is too large for a picture: over {_MOST_BYTES >> 20} MiB")
    return _decoded(source.read_bytes(), str(source))


def decode(data: bytes, name: str) -> Photo:
    """A picture file's bytes as `load_image` reads them; `name` is what errors call it."""
    return _decoded(data, name)[0]


def _decoded(data: bytes, name: str) -> tuple[Photo, Cutout | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata does not matter, only pixels do
            picture = Pillow.open(io.BytesIO(data), formats=_FORMATS)
            width, height = picture.size
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{width}x{height} pixels are more than 120 million")
            picture.load()
            if picture.format == "PNG":
                _scale_key(picture, data[24])
            with contextlib.suppress(Exception):  # a broken EXIF block
                ImageOps.exif_transpose(picture, in_place=True)
            return _srgb(picture)
    except UnidentifiedImageError:
        kind = "HEIC or AVIF, not read here" if data[4:8] == b"ftyp" else f"{len(data)} bytes"
        raise ValueError(
            f"{name} is not a picture ({kind}); give a PNG, JPEG, WebP, GIF, BMP or TIFF file"
        ) from None
    except Exception as error:  # broken files raise a dozen kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be read: {reason}") from None


def _scale_key(picture: Pillow.Image, depth: int) -> None:
    """The colour that a PNG says is clear, from the file's bits to those of Pillow's pixels."""
    key = picture.info.get("transparency")
    if picture.mode == "L" and isinstance(key, int) and depth in (2, 4):
        picture.info["transparency"] = key * 255 // (2**depth - 1)
    elif picture.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        picture.info["transparency"] = tuple(part >> 8 for part in key)


def _srgb(picture: Pillow.Image) -> tuple[Photo, Cutout | None]:
    """Any kind of pixels as opaque sRGB, and with their alpha if any is clear."""
    if picture.mode == "F" or (picture.mode == "I" and np.asarray(picture).max() > 65535):
        raise ValueError("its pixels have more than 16 bits; save it with 8")
    if picture.mode.startswith("I"):
        pixels, about = np.asarray(picture).astype(np.uint16), dict(picture.info)
        picture = Pillow.fromarray((pixels >> 8).astype(np.uint8))
        key = about.pop("transparency", None)
        if isinstance(key, int):
            picture.putalpha(Pillow.fromarray(np.where(pixels == key, 0, 255).astype(np.uint8)))
        picture.info |= about  # such as its colour profile
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # Pillow takes every JPEG's inks for Adobe's inverted
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    if picture.info.get("icc_profile"):
        picture = _from_profile(picture, picture.info["icc_profile"])
    colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    if alpha is None or alpha.getextrema()[0] == 255:
        return np.array(colours), None
    cutout = np.dstack([np.array(colours), np.array(alpha)])
    return on_white(cutout), cutout


def on_white(cutout: Cutout) -> Photo:
    """What is seen of a picture with alpha on white."""
    colours, alpha = Pillow.fromarray(cutout[..., :3]), Pillow.fromarray(cutout[..., 3])
    return np.array(Pillow.composite(colours, Pillow.new("RGB", colours.size, "white"), alpha))


def cut_out(photo: Photo, cutout: Cutout | None) -> UInt8[np.ndarray, "_ _ _"]:
    """A changed photo with the alpha that its file had; as it is if that had none.

    What did not change on white is as in the file, and of what did the white is taken out again.
    """
    if cutout is None:
        return photo
    result, share = cutout.copy(), cutout[..., 3:].astype(np.float32) / 255
    changed = np.any(photo != on_white(cutout), axis=2) & (cutout[..., 3] > 0)
    share = share[changed]
    colours = (photo[changed] - 255 * (1 - share)) / share
    result[changed, :3] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return result


def _from_profile(picture: Pillow.Image, profile: bytes) -> Pillow.Image:
    """Colours through their profile; as they are if it is broken or does not fit, as viewers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture
        target = ImageCms.createProfile("sRGB")
        managed = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return managed or picture


def save_image(path: epath.PathLike, image: Photo | Cutout, *, note: str | None = None) -> None:
    """Writes a PNG or JPEG (by the name's ending), all or nothing; makes the folder.

    With a fourth channel, which is alpha, a PNG.

    `note` goes into the file's metadata (ImageDescription), such as that and how it was edited.
    Raises ValueError for another ending, OSError if the file cannot be written.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"cannot save {path}: its name must end in .png, .jpg or .jpeg")
    if image.shape[2] == 4 and ending != ".png":
        raise ValueError(f"cannot save {path}: only .png keeps what is clear")
    if note is None:
        _, data = cv2.imencode(
            ending, np.ascontiguousarray(image[..., [2, 1, 0, 3][: image.shape[2]]])
        )
        files.write(path, data.tobytes())
        return
    exif = Pillow.Exif()
    exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Software] = note, "fxjax"
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", note)
    text.add_text("Software", "fxjax")
    buffer = io.BytesIO()
    if ending == ".png":
        Pillow.fromarray(image).save(buffer, "PNG", exif=exif, pnginfo=text)
    else:
        Pillow.fromarray(image).save(buffer, "JPEG", exif=exif, quality=95, subsampling=0)
    files.write(path, buffer.getvalue())


def contact_sheet(
    images: Photos, columns: int, *, gap: int = 4
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Pictures in rows of `columns`, left to right, on white, `gap` pixels apart."""
    count, height, width, _ = images.shape
    if not count or columns < 1:
        raise ValueError(f"a sheet wants pictures and columns, got {count} and {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    down, across = height + gap, width + gap
    sheet = np.full((rows * down - gap, columns * across - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * down, index % columns * across
        sheet[top : top + height, left : left + width] = image
    return sheet


def bilinear(photo: Photo, height: int, width: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photo at another size by Pillow's bilinear filter, which covers all pixels it leaves out.

    Networks that were trained on such pictures notice other filters.
    """
    picture = Pillow.fromarray(photo)
    return np.asarray(picture.resize((width, height), Pillow.Resampling.BILINEAR))
