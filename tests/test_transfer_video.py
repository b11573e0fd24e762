"""The video command: what a run is made of, which frames choose the mask, and what is left out."""

import json
import shutil
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from expressions import ASTRONAUT, closed
from facemodels import save_models

from experiments import frames, transfer_video
from fxjax import search
from fxjax.engine import Engine
from fxjax.files import absolute
from fxjax.images import load_image, save_image
from fxjax.mix import masks_of

FACE = ASTRONAUT[:256, 96:352]
WALL = np.full((256, 256, 3), 90, np.uint8)
SHUT = closed()[:256, 96:352]
SEEN = [np.ascontiguousarray(photo) for photo in (SHUT[:, ::-1], SHUT // 2, SHUT // 4 * 3)]
MASK = "01100000"


@pytest.fixture
def home(tmp_path) -> Any:
    """Models, a photo, and a folder of three frames."""
    save_models(tmp_path)
    save_image(tmp_path / "ann.png", FACE)
    for number, photo in enumerate(SEEN):
        save_image(tmp_path / "seen" / f"{number}.png", photo)
    return tmp_path


def run(home, **changes: Any) -> None:
    options: dict[str, Any] = {
        "appearance": str(home / "ann.png"), "driver": str(home / "seen"), "out": str(home / "out"),
        "model": str(home / "model"), "features": str(home / "vgg"), "steps": 5, "frame_steps": 2,
        "tuning": 0, **changes,
    }  # fmt: skip
    transfer_video.main(transfer_video.Config(**options))


def motion_jpeg(path, photos) -> str:
    """A video that does not say how many frames it has."""
    kept = [cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes() for photo in photos]
    path.write_bytes(b"".join(kept))
    return str(path)


def drawn(home) -> list[str]:
    return sorted(path.name for path in (home / "out" / "frames").iterdir())


def test_a_run_does_not_go_on_with_other_files(home):
    shutil.copytree(home / "seen", home / "all")
    run(home, mask=MASK)
    save_image(home / "out" / "frames" / "000003.png", WALL)
    run(home, mask=MASK)
    assert drawn(home) == ["000000.png", "000001.png", "000002.png"]

    (home / "seen" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"other settings or files \(the frames' bytes\); give"):
        run(home, mask=MASK)
    shutil.copy(home / "all" / "0.png", home / "seen" / "0.png")
    save_image(home / "ann.png", SEEN[1])
    with pytest.raises(ValueError, match=r"other settings or files \(the photo's bytes\); give"):
        run(home, mask=MASK)
    save_image(home / "ann.png", FACE)
    card = home / "vgg" / "model.json"
    sha = json.loads(card.read_text())["parts"]["features"]["sha256"]
    state = home / "out" / "state.json"
    state.write_text(state.read_text().replace(sha, "0" * 64))
    with pytest.raises(ValueError, match=r"other settings or files \(features_sha256\); give"):
        run(home, mask=MASK)

    (home / "seen" / "0.png").unlink()
    run(home, mask=MASK, restart=True)
    assert drawn(home) == ["000000.png", "000001.png"]


def test_foreign_folders_are_left_alone(home):
    save_image(home / "out" / "frames" / "mine.png", WALL)
    with pytest.raises(ValueError, match="has frames that no run of this command wrote"):
        run(home, restart=True)
    assert drawn(home) == ["mine.png"]
    with pytest.raises(ValueError, match="is where results are written; give another --out"):
        run(home, driver=str(home / "out" / "frames"))
    save_image(home / "seen" / "out" / "frames" / "000000.png", WALL)
    assert frames.Source(str(home / "seen"), absolute(home / "seen" / "out"), 9).count == 3


def test_frames_with_a_face_choose_the_mask(home, monkeypatch, capsys):
    asked, scores = [], Engine.scores

    def counted(engine, person, driver, faces):
        asked.append(faces[1].photo)
        return scores(engine, person, driver, faces)

    monkeypatch.setattr(Engine, "scores", counted)
    video = motion_jpeg(home / "talk.mjpeg", [WALL, WALL, *SEEN, WALL, WALL])
    run(home, driver=video, looks=2, most=6)
    assert "--most=6 leaves out 1 of 7 frames" in capsys.readouterr().out
    assert len(drawn(home)) == 6
    assert len(asked) == 2
    for photo, seen in zip(asked, SEEN[::2], strict=True):  # nearest the middle of each half
        assert np.abs(photo.astype(int) - seen).mean() < 5
    assert (load_image(home / "out" / "frames" / "000000.png") != FACE).any()


def test_no_face_in_any_frame_is_an_error(home):
    video = motion_jpeg(home / "wall.mjpeg", [WALL, WALL])
    with pytest.raises(ValueError, match=r"no face was found in any frame of .*wall\.mjpeg"):
        run(home, driver=video, mask=MASK)
    with pytest.raises(ValueError, match="--looks=0: want 1 or more"):
        run(home, looks=0)


def test_the_mask_is_the_best_in_full(home):
    run(home, readout=16, weight=1.0)
    engine = Engine(str(home / "model"), str(home / "vgg"))
    (person,) = engine.locate(FACE)
    codes = {
        path.stem: jnp.asarray(np.load(path)["ws"]) for path in (home / "out" / "codes").iterdir()
    }
    masks, full = masks_of(tuple((row,) for row in range(6)), 8, list(range(64))), []
    for number, photo in enumerate(SEEN):
        pair = codes["person"], codes[f"{number:06d}"]
        full.append(search.rescore(engine.case(*pair, (person, engine.locate(photo)[0])), masks))
    best = masks[search.order(np.mean(full, axis=0), 1.0)[0]]
    found = json.loads((home / "out" / "mask.json").read_text())
    assert found == "".join(str(int(bit)) for bit in best)
