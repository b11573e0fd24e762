"""The video command: what a run is made of, what frames do, and what is left out."""

import csv
import json
import shutil
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from expressions import ASTRONAUT, closed
from facemodels import save_models

from experiments import transfer_video
from fxjax.faces import expression
from fxjax.files import absolute
from fxjax.images import load_image, save_image
from fxjax.runs import video

FACE = ASTRONAUT[:256, 96:352]
WALL = np.full((256, 256, 3), 90, np.uint8)
SHUT = closed()[:256, 96:352]
SEEN = [np.ascontiguousarray(photo) for photo in (SHUT[:, ::-1], SHUT // 2, SHUT // 4 * 3)]


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
        "model": str(home / "model"), "features": str(home / "vgg"), "steps": 10, "tuning": 3,
        "refine": 3, "frame_steps": 2, **changes,
    }  # fmt: skip
    transfer_video.main(transfer_video.Config(**options))


def motion_jpeg(path, photos) -> str:
    """A video that does not say how many frames it has."""
    kept = [cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes() for photo in photos]
    path.write_bytes(b"".join(kept))
    return str(path)


def drawn(home) -> list[str]:
    return sorted(path.name for path in (home / "out" / "frames").iterdir())


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_files(home):
    shutil.copytree(home / "seen", home / "all")
    run(home)
    save_image(home / "out" / "frames" / "000003.png", WALL)
    before = {path: path.stat().st_mtime_ns for path in (home / "out" / "codes").iterdir()}
    run(home)
    assert {path: path.stat().st_mtime_ns for path in (home / "out" / "codes").iterdir()} == before
    assert drawn(home) == ["000000.png", "000001.png", "000002.png"]

    with pytest.raises(ValueError, match=r"--strength was 1\.0, is now 0\.5; give"):
        run(home, strength=0.5)
    (home / "seen" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"the frames' bytes was \w+, is now \w+; give"):
        run(home)
    shutil.copy(home / "all" / "0.png", home / "seen" / "0.png")
    save_image(home / "ann.png", SEEN[1])
    with pytest.raises(ValueError, match=r"the photo's bytes was \d+, is now \d+; give"):
        run(home)
    save_image(home / "ann.png", FACE)
    card = home / "vgg" / "model.json"
    sha = json.loads(card.read_text())["parts"]["features"]["sha256"]
    state = home / "out" / "state" / "run.json"
    state.write_text(state.read_text().replace(sha, "0" * 64))
    with pytest.raises(ValueError, match=r"the features_sha256 was 0+, is now \w+; give"):
        run(home)

    (home / "seen" / "0.png").unlink()
    run(home, restart=True)
    assert drawn(home) == ["000000.png", "000001.png"]


def test_foreign_folders_are_left_alone(home):
    save_image(home / "out" / "frames" / "mine.png", WALL)
    with pytest.raises(ValueError, match="has frames that no run of this command wrote"):
        run(home, restart=True)
    assert drawn(home) == ["mine.png"]
    with pytest.raises(ValueError, match="is where results are written; give another --out"):
        run(home, driver=str(home / "out" / "frames"))
    save_image(home / "seen" / "out" / "frames" / "000000.png", WALL)
    assert video.Source(str(home / "seen"), absolute(home / "seen" / "out"), 9).count == 3


def test_frames_with_a_face_drive(home, capsys):
    """Before the first face the photo stays; a frame without one repeats the one before."""
    video = motion_jpeg(home / "talk.mjpeg", [WALL, WALL, *SEEN, WALL, WALL])
    run(home, driver=video, most=6)
    said = capsys.readouterr().out
    assert "--most=6 leaves out 1 of 7 frames" in said
    assert "6 frames, 3 without a face to follow" in said
    assert len(drawn(home)) == 6
    photos = [load_image(home / "out" / "frames" / f"{number:06d}.png") for number in range(6)]
    np.testing.assert_array_equal(photos[0], FACE)
    np.testing.assert_array_equal(photos[1], FACE)
    assert (photos[2] != FACE).any()
    np.testing.assert_array_equal(photos[5], photos[4])
    codes = sorted(path.name for path in (home / "out" / "codes").iterdir())
    assert codes == ["000002.npz", "000003.npz", "000004.npz", "person.npz"]
    with (home / "out" / "frames.csv").open() as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses == ["no_face", "no_face", "ok", "ok", "ok", "no_face"]
    result = cv2.VideoCapture(str(home / "out" / "result.mp4"))
    assert int(result.get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_the_larger_of_two_faces_drives_and_is_told_once(home, capsys, monkeypatch):
    """Beside each other in both frames, the other one at the right and smaller."""
    small = np.full((256, 192, 3), 90, np.uint8)
    small[32:224] = cv2.resize(FACE, (192, 192), interpolation=cv2.INTER_AREA)
    frames = [np.hstack([face, small]) for face in SEEN[:2]]
    video.write(home / "pair.mp4", frames, range(3), Fraction(1, 25), Fraction(25))
    locate, taken = transfer_video.Engine.locate, []

    def watched(*given: Any) -> Any:
        found = locate(*given)
        taken.append((found[0].faces, found[0].landmarks[:, 0].max() < 256))
        return found

    def stopped(*_: Any) -> None:  # what follows is the same for one face
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_video.Engine, "locate", watched)
    monkeypatch.setattr(transfer_video.journal, "code", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(home, driver=str(home / "pair.mp4"))
    assert taken == [(1, True), (2, True), (2, True)]
    said = capsys.readouterr().out
    wanted = "2 frames have several faces (up to 2), the first is 0: the largest of each was taken"
    assert said.count("several faces") == said.count(wanted) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_pictures(home, monkeypatch):
    run(home)
    wanted = [load_image(home / "out" / "frames" / name) for name in drawn(home)]
    save, saved = transfer_video.save_image, []

    def killed(path, photo, *, note=None):
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(path, photo, note=note)

    monkeypatch.setattr(transfer_video, "save_image", killed)
    with pytest.raises(KeyboardInterrupt):
        run(home, out=str(home / "again"))
    run(home, out=str(home / "again"))
    found = [load_image(path) for path in sorted((home / "again" / "frames").iterdir())]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_trembling_landmarks_are_steadied(smiling):
    """What every frame adds of its own falls, a head's move stays."""
    rng = np.random.default_rng(0)
    moves = [smiling + np.array([3.0 * number, 0]) for number in range(8)]
    faces = {number: face + rng.normal(0, 0.5, (68, 2)) for number, face in enumerate(moves)}
    found = video.steadied(faces)
    away = lambda some: np.mean([np.abs(some[k] - moves[k])[48:].mean() for k in range(1, 7)])
    assert away(found) < 0.75 * away(faces)
    lone = video.steadied({3: smiling})
    np.testing.assert_allclose(lone[3], smiling)
    turned = expression.pose(found[4]) - expression.pose(moves[4])
    assert np.abs(turned).max() < 3


def test_a_video_that_cannot_be_read_is_refused(home):
    (home / "talk.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match="cannot be read as a video"):
        run(home, driver=str(home / "talk.mp4"))
    with pytest.raises(FileNotFoundError, match="no video or folder"):
        run(home, driver=str(home / "none.mp4"))


def test_no_face_in_any_frame_is_an_error(home):
    video = motion_jpeg(home / "wall.mjpeg", [WALL, WALL])
    with pytest.raises(ValueError, match=r"no face was found in any frame of .*wall\.mjpeg"):
        run(home, driver=video)
    with pytest.raises(ValueError, match="--frame_steps=0: want 1 or more"):
        run(home, frame_steps=0)
