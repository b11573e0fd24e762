"""The image convention, picture files, sheets, and the splitting of batches over devices."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.io
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image as Pillow

from fxjax import images, sharding
from fxjax.images import contact_sheet, from_uint8, load_image, save_image, to_uint8


def test_every_byte_survives_the_round_trip():
    bytes_ = np.arange(256, dtype=np.uint8).reshape(16, 16)
    floats = from_uint8(bytes_)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(floats), bytes_)
    np.testing.assert_array_equal(to_uint8(from_uint8(jnp.asarray(bytes_))), bytes_)


def test_to_uint8_is_the_official_formula():
    values = np.array([-3, -1, -1 / 255, 0, 0.5, 0.999, 1, 7], np.float32)
    wanted = np.array([0, 0, 127, 128, 191, 255, 255, 255])
    np.testing.assert_array_equal(to_uint8(values), wanted)
    on_device = to_uint8(jnp.asarray(values))
    assert isinstance(on_device, jax.Array)
    np.testing.assert_array_equal(on_device, wanted)
    np.testing.assert_array_equal(to_uint8(jnp.asarray([0.5], jnp.bfloat16)), [191])


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_files_are_rgb(tmp_path, ending):
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 30  # orange; blue if the order is wrong
    path = tmp_path / "new" / f"picture.{ending}"
    save_image(path, picture)
    for read in (load_image(path), skimage.io.imread(path)):
        np.testing.assert_allclose(read, picture, atol=0 if ending == "png" else 8)
    assert os.listdir(path.parent) == [path.name]


def test_unreadable_pictures_name_the_file(tmp_path):
    (tmp_path / "text.png").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        with pytest.raises(ValueError, match=f"{name} is not a picture"):
            load_image(tmp_path / name)
    for name in ("none.png", ""):
        with pytest.raises(FileNotFoundError, match="no picture file at"):
            load_image(tmp_path / name)


def test_saving_checks_the_ending(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png"):
        save_image(tmp_path / "picture.gif", np.zeros((2, 2, 3), np.uint8))
    assert not os.listdir(tmp_path)


def test_contact_sheet_places_pictures():
    pictures = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(pictures, 2, gap=1)
    assert sheet.shape == (5, 7, 3)
    assert (sheet[:2, :3] == 10).all()
    assert (sheet[:2, 4:] == 20).all()
    assert (sheet[3:, :3] == 30).all()
    assert (sheet[2] == 255).all()
    assert (sheet[3:, 3:] == 255).all()
    assert contact_sheet(pictures, 9, gap=1).shape == (2, 11, 3)
    with pytest.raises(ValueError, match="got 3 and 0"):
        contact_sheet(pictures, 0)


def test_batches_are_split_and_weights_replicated():
    mesh = sharding.mesh()
    assert mesh.size == 4
    batch = sharding.split_batch({"x": np.arange(24).reshape(8, 3)}, mesh)["x"]
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 3)] * 4
    np.testing.assert_array_equal(batch, np.arange(24).reshape(8, 3))
    weights = sharding.replicate({"w": jnp.ones(3)}, mesh)["w"]
    assert weights.sharding == NamedSharding(mesh, PartitionSpec())
    with pytest.raises(ValueError, match="multiple of 4"):
        sharding.split_batch(np.zeros((6, 3)), mesh)
    with pytest.raises(ValueError, match="multiple of 4"):
        sharding.split_batch(np.zeros(()), mesh)


def test_a_scan_takes_inputs_that_are_off_the_mesh():
    batch = sharding.split_batch(np.ones((4, 2), np.float32), sharding.mesh())

    def step(carry, x):
        return carry + batch * x, None

    total, _ = jax.lax.scan(step, jnp.zeros_like(batch), jnp.arange(3, dtype=jnp.float32))
    np.testing.assert_array_equal(total, np.full((4, 2), 3.0))


def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_one_gate_for_pictures(tmp_path) -> None:
    """A picture is the same whatever holds it."""
    pixels = scene()
    images.save_image(tmp_path / "a.png", pixels)
    data = (tmp_path / "a.png").read_bytes()
    deep = pixels.astype(np.uint16) * 257

    class Tensor:
        """As PyTorch's: no array, but one can be had."""

        def __dlpack__(self, **options: Any) -> Any:
            return pixels.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return pixels.__dlpack_device__()

    opaque = np.dstack([pixels, np.full((6, 9), 255, np.uint8)])
    same = [str(tmp_path / "a.png"), tmp_path / "a.png", data, Pillow.fromarray(pixels), pixels]
    for each in (*same, jnp.asarray(pixels), Tensor(), deep, opaque, pixels[:, ::-1][:, ::-1]):
        found, cutout = images.read(each)
        np.testing.assert_array_equal(found, pixels)
        assert cutout is None
    for low, high in ((0, 1), (-1, 1)):
        given = jnp.asarray(pixels / 255 * (high - low) + low, jnp.float32)
        np.testing.assert_array_equal(images.read(given, range=(low, high))[0], pixels)
    for gray in (pixels[..., 0], pixels[..., :1]):
        np.testing.assert_array_equal(images.read(gray)[0], np.dstack([pixels[..., 0]] * 3))
    clear = opaque.copy()
    clear[:3, ..., 3] = 0
    found, cutout = images.read(clear)
    assert (found[:3] == 255).all()
    np.testing.assert_array_equal(found[3:], pixels[3:])
    np.testing.assert_array_equal(cutout, clear)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.moveaxis(scene(), 2, 0), r"shape \[3, 6, 9\] .*channels seem to come first.*moveaxis"),
        (scene()[None], r"shape \[1, 6, 9, 3\] .*a batch.*pictures\[0\]"),
        (scene()[..., :2], r"shape \[6, 9, 2\] is not read as a picture"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\] holds no pixels"),
        (scene() / 255, r"pixels of float64 from 0.* to .*: .*range=\(0, 1\)"),
        (scene().astype(np.int64), "pixels of int64 from"),
        (None, "a NoneType is no picture"),
        ({"image": 1}, "a dict is no picture"),
        (b"GIF89", "is not a picture"),
    ],
)
def test_what_is_misread_is_one_line(picture: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        images.read(picture)
    assert "\n" not in str(error.value)


def test_ranges_are_kept() -> None:
    for values in (scene() * 1.0, np.full((4, 4, 3), np.nan)):
        with pytest.raises(ValueError, match=r"not within range=\(0, 1\)"):
            images.read(values, range=(0, 1))
    with pytest.raises(ValueError, match="want black and white"):
        images.read(scene() / 255, range=(1, 0))
