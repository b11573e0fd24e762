"""The image convention, picture files, sheets, and the splitting of batches over devices."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.io
from jax.sharding import NamedSharding, PartitionSpec

from fxjax import sharding
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
