"""Transfers onto several faces of one photo: one page, one result, and runs that go on."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from expressions import ASTRONAUT, closed, located
from facemodels import SCALING, save_models
from flax import nnx

from experiments import transfer
from fxjax import Engine
from fxjax.checkpoint import flatten, save_model
from fxjax.images import load_image, save_image
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import group

ROOM = 40  # pixels of wall around the two of them


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """Models, a photo of two people beside a wall, and a driver."""
    home = tmp_path_factory.mktemp("group")
    save_models(home)
    face = ASTRONAUT[:280, 80:368]
    both = np.concatenate([face, (face[:, ::-1] * 0.8).astype(np.uint8)], axis=1)
    wall = np.full((320, both.shape[1] + 300, 3), 90, np.uint8)
    wall[ROOM:, 300:] = both
    save_image(home / "both.png", wall)
    save_image(home / "driver.png", (closed()[:256, 96:352] * 0.6).astype(np.uint8))
    return home


def config(home: pathlib.Path, out: pathlib.Path) -> transfer.Config:
    return transfer.Config(
        appearance=str(home / "both.png"),
        expression=str(home / "driver.png"),
        model=str(home / "model"),
        features=str(home / "vgg"),
        steps=10,
        tuning=3,
        refine=3,
        face="all",
        compare=False,
        out=str(out),
    )


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    transfer.main(config(home, out))
    return out


def test_the_photo_is_that_of_the_library(whole, home):
    """Each face is changed in its surroundings alone, which makes no difference."""
    engine = Engine(home / "model", home / "vgg", config(home, whole).settings())
    _, last = engine(home / "both.png", home / "driver.png", face="all")
    result, photo = load_image(whole / "result.png"), load_image(home / "both.png")
    np.testing.assert_array_equal(result, last.image)
    changed = (result != photo).any(axis=(0, 2))
    assert changed[300:588].any()
    assert changed[588:].any()
    assert not changed[:300].any()


def test_each_face_has_its_surroundings_and_all_are_on_one_page(whole, home):
    page = (whole / "report.html").read_text()
    assert "2 faces of a photo" in page
    assert " of 2 faces look" in page
    assert page.count('class="slider"') == 1
    for number in range(2):
        assert f'<a href="face{number}/report.html">' in page
        assert (whole / f"face{number}" / "report.html").exists()
        part = load_image(whole / f"face{number}" / "result.png")
        assert part.shape[1] < 600  # of 876
        assert "was taken" not in (whole / f"face{number}" / "report.html").read_text()
    assert (whole / "side_by_side.png").exists()
    assert "://" not in page


def test_what_is_done_is_not_done_again(whole, home, monkeypatch, capsys):
    result = load_image(whole / "result.png")
    (whole / "result.png").unlink()
    monkeypatch.setattr(Engine, "encode", None)
    monkeypatch.setattr(Engine, "pair", None)
    transfer.main(config(home, whole))
    np.testing.assert_array_equal(load_image(whole / "result.png"), result)
    assert "2 faces; open" in capsys.readouterr().out
    changed = dataclasses.replace(config(home, whole), strength=0.5)
    with pytest.raises(TypeError):  # other settings are another result
        transfer.main(changed)


def test_other_features_in_the_same_folder_are_another_result(tmp_path):
    save_models(tmp_path)
    face = located(ASTRONAUT, np.random.default_rng(0).uniform(100, 300, (68, 2)))
    settings = {
        "model": str(tmp_path / "model"),
        "features": str(tmp_path / "vgg"),
        "start": "mean",
    }
    before = group._key(settings, face, face)
    assert group._key(settings, face, face) == before
    other = {"features": (SCALING, flatten(VGG16(**SCALING, rngs=nnx.Rngs(1))))}
    shutil.rmtree(tmp_path / "vgg")
    save_model(tmp_path / "vgg", "vgg16", other, {})
    assert group._key(settings, face, face) != before


@pytest.mark.slow
def test_a_killed_run_goes_on(whole, home, tmp_path):
    out, given = tmp_path / "out", dataclasses.asdict(config(home, tmp_path / "out"))
    line = [sys.executable, "-m", "experiments.transfer", "--nocompare"]
    line += [
        f"--{name}={given[name]}"
        for name in ("appearance", "expression", "model", "features", "steps", "tuning", "refine",
                     "face", "out")
    ]  # fmt: skip
    root = pathlib.Path(__file__).parent.parent
    process = subprocess.Popen(line, cwd=root, env=os.environ)
    first, deadline = out / "state" / "face0.npz", time.monotonic() + 300
    while not first.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "report.html").exists()
    written = first.stat().st_mtime_ns
    transfer.main(config(home, out))
    assert first.stat().st_mtime_ns == written
    np.testing.assert_array_equal(load_image(out / "result.png"), load_image(whole / "result.png"))


def test_one_face_drives_them_all(home, tmp_path):
    several = dataclasses.replace(
        config(home, tmp_path / "out"), expression=str(home / "both.png"), driver_face="all"
    )
    with pytest.raises(ValueError, match="2 faces are chosen to drive; choose one"):
        transfer.main(several)
    assert not (tmp_path / "out").exists()


def test_a_cut_out_is_put_where_it_was(home):
    engine: Any = Engine(home / "model", home / "vgg", config(home, home).settings())
    photo = load_image(home / "both.png")
    for face in engine.locate(home / "both.png", "all"):
        near = group.close(face, photo)
        x, y = near.corner
        height, width = near.face.photo.shape[:2]
        np.testing.assert_array_equal(near.face.photo, photo[y : y + height, x : x + width])
        np.testing.assert_array_equal(near.face.landmarks + np.array(near.corner), face.landmarks)
        np.testing.assert_allclose(near.face.in_crop(), face.in_crop(), atol=1e-6)
        np.testing.assert_array_equal(near.put(photo, near.face.photo), photo)
