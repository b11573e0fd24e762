"""Pictures with clear parts, and photos with several faces: what comes back, and what is said."""

from typing import Any

import numpy as np
import pytest
from expressions import ASTRONAUT, closed
from facemodels import save_models
from PIL import Image

from experiments import transfer
from fxjax.faces import reader
from fxjax.faces.located import Faces
from fxjax.images import cut_out, load_image, load_layers, on_white, save_image
from fxjax.runs import video
from fxjax.training import data

FACE = ASTRONAUT[:256, 96:352]


def cutout(photo: np.ndarray) -> np.ndarray:
    """A photo in a soft disc, with noise hidden where it is clear."""
    rows, columns = np.mgrid[: len(photo), : photo.shape[1]]
    away = np.hypot(rows - len(photo) / 2, columns - photo.shape[1] / 2) / len(photo)
    alpha = np.clip((0.52 - away) * 2000, 0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    return np.dstack([np.where(alpha[..., None] > 0, photo, noise), alpha])


def test_a_cutout_comes_back_as_it_was(tmp_path):
    made = cutout(FACE)
    Image.fromarray(made).save(tmp_path / "a.png")
    photo, read = load_layers(tmp_path / "a.png")
    assert read is not None
    np.testing.assert_array_equal(read, made)
    np.testing.assert_array_equal(photo, load_image(tmp_path / "a.png"))
    assert (photo[made[..., 3] == 0] == 255).all()
    np.testing.assert_array_equal(cut_out(photo, read), made)
    changed = photo.copy()
    changed[100:140, 90:160] //= 2
    back = cut_out(changed, read)
    np.testing.assert_array_equal(back[..., 3], made[..., 3])
    assert np.abs(on_white(back).astype(int) - changed).max() <= 1
    same = (changed == photo).all(2)
    np.testing.assert_array_equal(back[same], made[same])
    for note in (None, "edited"):
        save_image(tmp_path / "b.png", back, note=note)
        again = load_layers(tmp_path / "b.png")[1]
        assert again is not None
        np.testing.assert_array_equal(again, back)
    with pytest.raises(ValueError, match=r"b\.jpg: only \.png keeps what is clear"):
        save_image(tmp_path / "b.jpg", back)


def test_what_is_not_clear_has_no_cutout(tmp_path):
    Image.fromarray(np.dstack([FACE, np.full(FACE.shape[:2], 255, np.uint8)])).save(
        tmp_path / "a.png"
    )
    Image.fromarray(FACE).save(tmp_path / "b.png")
    assert all(load_layers(tmp_path / name)[1] is None for name in ("a.png", "b.png"))
    Image.fromarray(FACE).quantize(16).save(tmp_path / "c.png", transparency=3)
    read = load_layers(tmp_path / "c.png")[1]
    assert read is not None
    assert set(np.unique(read[..., 3])) == {0, 255}
    np.testing.assert_array_equal(cut_out(FACE, None), FACE)


def test_hidden_colours_are_never_trained_on(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(cutout(FACE)).save(tmp_path / "in" / "a.png")
    (picture,), _ = data.read_pictures(tmp_path / "in", 256)
    np.testing.assert_array_equal(picture, load_image(tmp_path / "in" / "a.png"))


def test_the_shared_training_picture(shared):
    folder = shared / "cases" / "training-alpha"
    (picture,), _ = data.read_pictures(folder, 256)
    np.testing.assert_array_equal(picture, load_image(folder / "cut.png"))


def test_a_sticker_and_two_drivers(tmp_path, capsys):
    """The alpha comes back; which of two faces drove is in the line and in the report."""
    save_models(tmp_path)
    made = cutout(FACE)
    Image.fromarray(made).save(tmp_path / "sticker.png")
    small = np.full((256, 200, 3), 120, np.uint8)
    small[40:200, 20:180] = np.asarray(Image.fromarray(FACE).resize((160, 160)))
    save_image(tmp_path / "two.png", np.concatenate([small, closed()[:256, 96:352]], axis=1))
    options: dict[str, Any] = {"model": str(tmp_path / "model"), "features": str(tmp_path / "vgg")}
    transfer.main(
        transfer.Config(
            appearance=str(tmp_path / "sticker.png"),
            expression=str(tmp_path / "two.png"),
            out=str(tmp_path / "out"),
            mask="00010000",
            steps=3,
            tuning=0,
            refine=0,
            compare=False,
            **options,
        )
    )
    result = np.array(Image.open(tmp_path / "out" / "result.png"))
    np.testing.assert_array_equal(result[..., 3], made[..., 3])
    clear = made[..., 3] == 0
    np.testing.assert_array_equal(result[clear], made[clear])
    assert (result != made).any()
    wanted = r"2 faces in the driver&#x27;s: number 1 from the left (from 0), at "
    said = capsys.readouterr().out
    assert f"before: {wanted.replace('&#x27;', chr(39))}" in said
    assert wanted in (tmp_path / "out" / "report.html").read_text()


def test_the_shared_cases(shared):
    faces = Faces(64, None, reader.load("faces"), parts=("mouth",))
    (driver,) = faces.locate(shared / "cases" / "two-faces" / "two.jpg")
    (other,) = faces.locate(shared / "cases" / "two-faces" / "two.jpg", str(1 - driver.number))
    assert (driver.faces, other.faces) == (2, 2)
    assert driver.which("the photo")[0].startswith(f"2 faces in the photo: number {driver.number}")
    (sticker,) = faces.locate(shared / "cases" / "alpha-lost" / "sticker.png")
    assert sticker.which("the photo") == ()
    assert sticker.cutout is not None
    lines = video.several(other, [{"frame": 0}, {"frame": 1, "faces": 2}])
    assert lines[0].startswith("2 faces in the photo: number ")
    assert lines[1].startswith("1 frame has several faces (up to 2), the first is 1: ")
