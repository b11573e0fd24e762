"""Rendered faces: pairs of one person, in the square of aligned photographs, read by dlib."""

import csv
import zipfile

import cv2
import numpy as np
import pytest

from experiments.making import render_faces, renders
from experiments.making.render_faces import Config
from fxjax.codes import smile_samples
from fxjax.faces import align, detect
from fxjax.training import data

READ = (3, 5, 8, 100)  # people whose faces dlib looks at


@pytest.fixture(scope="module")
def path(shared):
    return shared / "data/ict/ict_facekit.npz"


@pytest.fixture(scope="module")
def model(path):
    return renders.load(path)


@pytest.fixture(scope="module")
def people(model):
    return [renders.pictures(model, 0, person, 128) for person in READ]


def test_same_seed_same_bytes(path, tmp_path):
    def written(name: str, seed: int, count: int) -> bytes:
        config = Config(str(path), dst=str(tmp_path / name), count=count, size=32, seed=seed)
        render_faces.main(config)
        return (tmp_path / name).read_bytes()

    first = written("one.zip", 3, 2)
    assert written("two.zip", 3, 2) == first
    written("three.zip", 4, 1)
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        inside = archive.namelist()
    with (tmp_path / "one.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert inside == [row["file"] for row in rows]
    assert inside[1] == "ict_00000_happiness.jpg"
    assert [(row["person"], row["expression"]) for row in rows] == [
        (person, name) for person in ("ict0", "ict1") for name in ("neutral", "happiness")
    ]
    pictures, _ = data.read_pictures(tmp_path / "one.zip", 32)
    assert pictures.shape == (4, 32, 32, 3)
    other, _ = data.read_pictures(tmp_path / "three.zip", 32)
    assert np.abs(other[0].astype(int) - pictures[1]).mean() > 10


def test_pairs_share_all_but_what_a_smile_moves(model, people):
    for drawn in people:
        change = np.abs(drawn["happiness"].astype(int) - drawn["neutral"]).max(axis=2)
        assert change[:16].mean() < 1, "the hair: skin that it lies on moves a little"
        assert not change[:24, [0, -1]].any(), "the background"
        assert change[75:105, 45:83].mean() > 8, "the mouth"
    made = renders.gestures(model.names, np.random.default_rng(0))
    moved = {n for n, a, b in zip(model.names, *made.values(), strict=True) if a != b}
    assert "mouthSmile_L" in moved
    assert all(name.startswith((*renders.SMILES, "jawOpen")) for name in moved)


def test_dlib_finds_the_smile(people):
    reader = smile_samples.Reader()
    smiles = np.array([[reader(drawn[name]) for name in renders.EXPRESSIONS] for drawn in people])
    assert np.all(smiles[:, 0] < 0.1), smiles
    assert np.all(smiles[:, 1] > smiles[:, 0] + 0.1), smiles
    assert smiles[:, 1].mean() > 0.4, smiles


def test_faces_lie_where_aligned_photographs_have_them(people):
    detector, far = detect.Detector(), []
    for drawn in people:
        large = cv2.resize(drawn["neutral"], (256, 256), interpolation=cv2.INTER_CUBIC)
        (face,) = detector(large)
        square = align.corners(align.ffhq_square(face.landmarks, 256), 256)
        whole = align.corners(np.eye(3), 256)
        far.append(np.linalg.norm(square - whole, axis=1).max() / 256)
    assert max(far) < 0.12, far
    assert np.mean(far) < 0.08, far


def test_teeth_show_in_most_smiles(model):
    """`mouthUpperUp` goes with the smile for seven in ten."""
    rng, place = np.random.default_rng(0), model.names.index("mouthUpperUp_L")
    shown = [renders.gestures(model.names, rng)["happiness"][place] > 0 for _ in range(200)]
    assert 0.6 < np.mean(shown) < 0.8


def test_bad_input_is_said(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no face model"):
        renders.load(tmp_path / "none.npz")
    (tmp_path / "odd.npz").write_bytes(b"odd")
    with pytest.raises(ValueError, match="is no ICT-FaceKit file"):
        renders.load(tmp_path / "odd.npz")
    with pytest.raises(ValueError, match=r"must end in \.zip"):
        render_faces.main(Config(str(path), dst=str(tmp_path / "renders")))
    with pytest.raises(ValueError, match="--count=0"):
        render_faces.main(Config(str(path), dst=str(tmp_path / "a.zip"), count=0))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "odd.npz"]
