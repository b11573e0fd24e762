"""Landmarks moved by a morphable face model, against cameras and coefficients that are known."""

import numpy as np
import pytest
import skimage.data

from experiments.making import expression_faces, pack_face_model
from fxjax.faces import expression, model
from fxjax.faces.detect import Detector


@pytest.fixture(scope="module")
def faces() -> model.FaceModel:
    return model.shipped()


@pytest.fixture(scope="module")
def own() -> np.ndarray:
    return Detector()(skimage.data.astronaut())[0].landmarks


def _number(name: str) -> int:
    return expression.names().index(name)


def test_a_move_is_what_the_camera_sees(faces):
    """The model's own face through an affine camera: each point moves by what its camera says."""
    rng = np.random.default_rng(0)
    camera, shift = rng.normal(size=(3, 2)) * 10, rng.normal(size=2) * 100
    own = faces.neutral @ camera + shift
    coefficients = rng.uniform(0, 1, len(faces.expressions))
    wanted = np.zeros((68, 2))
    for value, offsets in zip(coefficients, faces.expressions, strict=True):
        for point in range(68):
            for axis in range(3):
                wanted[point] += value * offsets[point, axis] * camera[axis]
    np.testing.assert_allclose(faces.move(own, coefficients), wanted, atol=1e-6)
    assert not faces.move(own, np.zeros(len(coefficients))).any()


def test_a_smile_raises_the_corners_of_any_face(faces, own):
    smile = np.zeros(len(faces.expressions))
    smile[[_number("mouthSmile_L"), _number("mouthSmile_R")]] = 1
    move = faces.move(own, smile)
    assert move[48, 0] < -1 < 1 < move[54, 0]  # outwards
    assert move[[48, 54], 1].max() < -1  # and up
    apart = np.linalg.norm(own[36] - own[45])
    assert np.linalg.norm(move[27:31], axis=1).max() < 0.02 * apart  # the nose stays


def test_what_is_missing_is_found(faces, own):
    """An expression that the model can make is reached, as far as the pull lets it be."""
    free = [_number(name) for name in ("jawOpen", "mouthSmile_L", "mouthSmile_R", "mouthPucker")]
    weight = expression.shipped().reliability
    known = np.zeros(len(faces.expressions))
    known[free[0]] = 0.6
    target = expression.read(own + faces.move(own, known))
    found = faces.missing(own, np.zeros((68, 2)), target, weight, free=np.array(free))
    assert not np.delete(found, free).any()
    far = lambda move: np.sum(weight * (expression.read(own + move) - target) ** 2)
    assert far(faces.move(own, found)) < 0.25 * far(np.zeros((68, 2)))
    assert found[free[0]] == max(found)
    again = faces.missing(own, faces.move(own, known), target, weight, free=np.array(free))
    assert np.abs(again).max() < 1e-6  # nothing is missing then


def test_the_shipped_file_is_the_models(faces, shared, tmp_path):
    ict = expression_faces.load(shared / "data/ict/ict_facekit.npz")
    np.testing.assert_allclose(faces.neutral, ict.neutral, atol=1e-5)
    np.testing.assert_allclose(faces.expressions, ict.expression, atol=1e-3)
    config = pack_face_model.Config(
        str(shared / "data/ict/ict_facekit.npz"), str(tmp_path / "x.npz")
    )
    pack_face_model.main(config)
    assert (tmp_path / "x.npz").stat().st_size < 60_000
    np.testing.assert_array_equal(model.load(tmp_path / "x.npz").neutral, faces.neutral)


def test_other_files_are_refused(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="no landmarks of a face model at"):
        model.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="holds no landmarks of a face model"):
        model.load(tmp_path / "text.npz")
    fewer = faces._replace(expressions=faces.expressions[:, :60])
    (tmp_path / "fewer.npz").write_bytes(model.packed(fewer))
    with pytest.raises(ValueError, match="68 points each"):
        model.load(tmp_path / "fewer.npz")
