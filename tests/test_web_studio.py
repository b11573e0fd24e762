"""What the page's worker does with a tiny model: looks, transfers, draws again."""

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from expressions import ASTRONAUT, closed
from facemodels import save_models
from PIL import Image

from fxjax.codes import invert
from fxjax.coding import CHUNK
from fxjax.images import load_image, save_image
from fxjax.web.studio import Cancelled, Studio
from fxjax.web.wishes import Wish

WISH = Wish(steps=15, tuning=2, refine=2, strength=0.8)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Any:
    home = tmp_path_factory.mktemp("home")
    save_models(home)
    return home


@pytest.fixture(scope="module")
def studio(home) -> Studio:
    return Studio(str(home / "model"), str(home / "vgg"))


@pytest.fixture
def folder(tmp_path) -> Any:
    face = ASTRONAUT[:256, 96:352]
    save_image(tmp_path / "person.png", (face[:, ::-1] * 0.8).astype(np.uint8))
    save_image(tmp_path / "driver.png", closed()[:256, 96:352])
    return tmp_path


def test_a_transfer_its_masks_and_drawing_again(studio, folder):
    told: list[dict[str, Any]] = []
    assert studio.transfer(folder, WISH, told.append) == {}
    json.dumps(told, allow_nan=False)
    stages = [one["stage"] for one in told if "stage" in one]
    order = list(dict.fromkeys(stages))
    assert order[:4] == ["faces", "inversion", "tuning", "masks"]
    pictures = [one["picture"] for one in told if "picture" in one]
    rounds = math.ceil(WISH.steps / invert.part(WISH.steps, CHUNK))
    assert pictures == ["first"] + ["inversions"] * rounds  # as they come
    done = next(one["done"] for one in told if "done" in one)
    assert (done["width"], done["height"]) == (256, 256)
    masks = next(one["masks"] for one in told if "masks" in one)
    assert masks[0]["rank"] == 1
    assert any(one["front"] for one in masks)
    for one in masks:
        assert load_image(folder / "masks" / f"{one['mask']}.jpg").ndim == 3
    for name in ("result.png", "report.html", "ranking.csv", "codes.npz", "after.jpg"):
        assert (folder / name).exists(), name

    none = studio.draw(folder, WISH, 0, "", 0.0, False)
    unmoved = load_image(folder / "drawn" / f"{none['name']}.jpg").astype(int)
    before = load_image(folder / "before.jpg").astype(int)
    assert np.abs(unmoved - before).mean() < 0.5
    same = studio.draw(folder, WISH, 0, "0" * 8, 1.0, False)
    assert np.abs(load_image(folder / "drawn" / f"{same['name']}.jpg") - before).mean() < 0.5
    some = studio.draw(folder, WISH, 0, "1" * 8, 1.0, True)
    with Image.open(folder / "drawn" / f"{some['name']}.png") as picture:
        assert "Edited" in picture.getexif()[270]
    with pytest.raises(ValueError, match="this model has 8 rows"):
        studio.draw(folder, WISH, 0, "01", 1.0, False)

    first = studio.draw(folder, WISH, 0, "0" * 7 + "1", 1.2, False)["name"]
    kept = load_image(folder / "drawn" / f"{first}.jpg")
    studio.kept.clear()  # as after a restart
    assert studio.draw(folder, WISH, 0, "0" * 7 + "1", 1.2, False)["name"] == first
    again = load_image(folder / "drawn" / f"{first}.jpg")
    assert np.abs(kept.astype(int) - again.astype(int)).max() <= 8


@pytest.mark.slow
def test_of_two_faces_each_is_drawn_again_beside_the_other(studio, tmp_path):
    face = (ASTRONAUT[:256, 96:352] * 0.8).astype(np.uint8)
    save_image(tmp_path / "person.png", np.hstack([face[:, ::-1], face]))
    save_image(tmp_path / "driver.png", closed()[:256, 96:352])
    wish = dataclasses.replace(WISH, face="all")
    told: list[dict[str, Any]] = []
    studio.transfer(tmp_path, wish, told.append)
    assert len(next(one["done"] for one in told if "done" in one)["faces"]) == 2
    assert [one["face"] for one in told if "masks" in one] == [0, 1]
    assert 'href="face1/report.html"' in (tmp_path / "report.html").read_text()
    result = load_image(tmp_path / "result.png").astype(int)
    before = load_image(tmp_path / "person.png").astype(int)
    halves = np.s_[:, :256], np.s_[:, 256:]
    for number, (own, other) in enumerate((halves, halves[::-1])):
        for kept in (True, False):
            name = studio.draw(tmp_path, wish, number, "", 0.0, True)["name"]
            drawn = load_image(tmp_path / f"face{number}" / "drawn" / f"{name}.png").astype(int)
            np.testing.assert_array_equal(drawn[other], result[other])
            assert np.abs(drawn[own] - before[own]).mean() < 0.5
            assert (drawn[own] != result[own]).any()
            if kept:
                studio.kept.clear()  # as after a restart


def test_a_transfer_stops_where_it_is_told(studio, folder):
    def stop(told):
        if told.get("stage") == "inversion":
            raise Cancelled

    with pytest.raises(Cancelled):
        studio.transfer(folder, WISH, stop)
    assert not (folder / "result.png").exists()


def test_a_photo_is_looked_at_and_checked(studio, folder, tmp_path):
    given = tmp_path / "given"
    given.write_bytes((folder / "person.png").read_bytes())
    found = studio.look(given, tmp_path)
    assert (found["width"], found["height"]) == (256, 256)
    ((left, top, right, bottom),) = found["faces"]
    assert 0 <= left < 0.5 < right <= 1
    assert 0 <= top < 0.5 < bottom <= 1
    found = studio.check(tmp_path / "photo.png", folder / "driver.png", WISH)
    assert not found["alike"]
    found = studio.check(tmp_path / "photo.png", tmp_path / "photo.png", WISH)
    assert found["alike"]
    assert "same expression" in found["words"][0]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"<html></html>", "is not a picture"),
        (b"", "is not a picture"),
        (b"\xff\xd8\xff", "picture"),
    ],
)
def test_what_is_no_picture_is_refused(studio, tmp_path, data, line):
    (tmp_path / "given").write_bytes(data)
    with pytest.raises(ValueError, match=line):
        studio.look(tmp_path / "given", tmp_path)
    assert not (tmp_path / "photo.png").exists()


def test_nobody_is_said(studio, tmp_path):
    save_image(tmp_path / "wall.png", np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(ValueError, match="no face was found"):
        studio.look(tmp_path / "wall.png", tmp_path)


def test_pixels_are_counted_before_they_are_decoded(studio, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(bomb)
    assert bomb.stat().st_size < 2**18
    with pytest.raises(ValueError, match="8000 x 8000 pixels are too many"):
        studio.look(bomb, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.png"]


def test_the_process_answers_line_by_line(home, tmp_path):
    save_image(tmp_path / "wall.png", np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "wall.png").rename(tmp_path / "given")
    command = [sys.executable, "-m", "fxjax.web.worker", str(home / "model"), str(home / "vgg")]
    task = json.dumps({"id": 7, "do": "look", "folder": str(tmp_path)})
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(task + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"ready": 8}
        answer = json.loads(process.stdout.readline())
        assert answer["id"] == 7
        assert "no face was found" in answer["wrong"]
        process.stdin.close()
    assert process.returncode == 0
    refused = subprocess.run(
        [*command[:3], str(tmp_path / "nothing")], stdin=subprocess.DEVNULL, capture_output=True
    )
    assert b"refused" in refused.stdout or refused.returncode == 0
