"""The one image convention: RGB float32 in [-1, 1], NHWC. Host pictures are RGB uint8."""

import os
from typing import overload

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from fxjax import files
from fxjax.types import Photo, Photos


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


def load_image(path: epath.PathLike) -> Photo:
    """Reads any format OpenCV knows as RGB uint8, turned upright by its EXIF orientation.

    Raises FileNotFoundError, or ValueError if it is not a picture.
    """
    source = files.absolute(path)
    if not source.exists() or source.is_dir():
        raise FileNotFoundError(f"no picture file at {source}")
    data = np.frombuffer(source.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise ValueError(f"{source} is not a picture ({data.size} bytes); give a PNG or JPEG file")
    return np.ascontiguousarray(picture[..., ::-1])


def save_image(path: epath.PathLike, image: Photo) -> None:
    """Writes a PNG or JPEG (by the name's ending), all or nothing; makes the folder.

    Raises ValueError for another ending, OSError if the file cannot be written.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"cannot save {path}: its name must end in .png, .jpg or .jpeg")
    _, data = cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]))
    files.write(path, data.tobytes())


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
