"""The network that finds landmarks in drawings, its reader of expressions, and its training."""

import dataclasses
import functools
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainingruns
from expressions import ASTRONAUT
from flax import nnx

import fxjax
from experiments import train_landmarks
from experiments.making import landmark_faces
from fxjax import checkpoint
from fxjax.faces import align, detect, expression, reader
from fxjax.images import save_image
from fxjax.nn.landmarks import Landmarks
from fxjax.training import landmarker as training
from fxjax.training.landmarker import LandmarkerSettings, MarkedFaces

SMOKE = train_landmarks.PRESETS["smoke"]


@pytest.fixture(scope="module")
def shipped() -> reader.Reader:
    return reader.load()


@pytest.fixture(scope="module")
def face() -> tuple[np.ndarray, np.ndarray]:
    """The astronaut's face in 128 px, [-1, 1], and dlib's landmarks in its pixels."""
    (found,) = detect.choose(detect.Detector()(ASTRONAUT))
    crop = align.align(ASTRONAUT, found.landmarks, 128)
    inside = align.transform(np.linalg.inv(crop.photo_from_crop), found.landmarks)
    return crop.image, inside


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    eyes = np.linalg.norm(wanted[36:42].mean(0) - wanted[42:48].mean(0))
    return float(np.linalg.norm(found - wanted, axis=1).mean() / eyes)


def test_it_finds_what_dlib_finds_in_a_real_face(shipped, face):
    picture, wanted = face
    found = np.asarray(shipped.marks(jnp.asarray(picture[None])))[0]
    assert error(found, wanted) < 0.04
    mirrored = np.asarray(shipped.marks(jnp.asarray(picture[None, :, ::-1])))[0]
    turned = (mirrored * [-1, 1] + [127, 0])[expression.MIRROR]
    assert error(turned, wanted) < 0.04
    assert error(found, wanted[expression.MIRROR]) > 0.5


def test_a_larger_picture_is_looked_at_small(shipped, face):
    """Landmarks are in the picture's own pixels, whatever its size."""
    picture, _ = face
    small = np.asarray(shipped.marks(jnp.asarray(picture[None])))[0]
    large = jax.image.resize(jnp.asarray(picture), (256, 256, 3), "cubic")
    found = np.asarray(shipped.marks(large[None]))[0]
    assert error((found + 0.5) / 2 - 0.5, small) < 0.01


def test_the_reader_equals_that_of_the_host(shipped, face):
    marks = np.stack([face[1], face[1] * 1.5 + 7, face[1] @ [[0.9, 0.2], [-0.2, 0.9]]])
    found = shipped.outputs(jnp.asarray(marks, jnp.float32))
    wanted = expression.outputs(marks, expression.shipped())
    np.testing.assert_allclose(found[:, :-2], wanted[:, :-2], atol=2e-4)
    np.testing.assert_allclose(found[:, -2:], wanted[:, -2:], atol=2e-2)


def test_slopes_are_those_of_differences(shipped, face):
    """In float32, along random ways, of landmarks and of all that is read of them."""
    way = jax.random.normal(jax.random.key(0), (128, 128, 3)) * 0.5
    picture, seed = jnp.asarray(face[0]), jax.random.normal(jax.random.key(1), (53,))

    def read(amount: Any) -> Any:
        return jnp.sum(shipped((picture + amount * way)[None])[0, :53] * seed)

    slope, step = float(jax.grad(read)(0.0)), 1e-2
    apart = float(read(step) - read(-step)) / (2 * step)
    assert slope == pytest.approx(apart, rel=0.05, abs=1e-3)


def test_losses_of_expression_and_pose(shipped, face):
    picture = jnp.asarray(face[0][None])
    counts = np.linspace(0, 1, 53)
    loss, pose = reader.Expression(shipped, counts), reader.Pose(shipped)
    both = jnp.concatenate([picture, picture[:, :, ::-1]])
    read = np.asarray(shipped(both))
    goal = jnp.repeat(loss.embed(picture), 2, axis=0)
    found = loss.distance(loss.embed(both), goal)
    wanted = np.sum(counts * (read[1, :53] - read[0, :53]) ** 2)
    np.testing.assert_allclose(found, [0, wanted], rtol=1e-3, atol=1e-5)
    turned = pose.distance(pose.embed(both), jnp.repeat(pose.embed(picture), 2, axis=0))
    wanted = np.sum(((read[1, 53:] - read[0, 53:]) / 5) ** 2)
    np.testing.assert_allclose(turned, [0, wanted], rtol=1e-3, atol=1e-4)


def test_views_carry_their_landmarks():
    """A bright dot where each landmark was is where the view's landmark is."""
    settings = dataclasses.replace(LandmarkerSettings(), size=64)
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[0, 25:28, 19:22] = 255
    faces = MarkedFaces(jnp.asarray(picture), jnp.full((1, 68, 2), jnp.asarray([20.0, 26.0])))
    chosen = jnp.zeros(64, int)
    views, marks = training.draw_views(settings, faces, chosen, jax.random.key(0))
    good = 0
    for view, place in zip(np.asarray(views), np.asarray(marks)[:, 0], strict=True):
        away = np.abs(view - np.median(view, axis=(0, 1))).sum(2)
        spots = np.argwhere(away > 0.6 * away.max())[:, ::-1].mean(0)
        good += np.linalg.norm(spots - place) < 1.5
    assert good > 40  # the others are covered, or covered elsewhere


@pytest.fixture(scope="module")
def faces(tmp_path_factory, shared) -> str:
    """Some labelled faces, as `experiments.making.landmark_faces` writes them."""
    folder = tmp_path_factory.mktemp("faces")
    for number, name in enumerate(("adriano-espaillat", "alma-adams", "betty-mccollum")):
        save_image(folder / "in" / f"{number}.png", fxjax.images.load_image(
            shared / f"data/portraits/{name}.jpg"
        ))  # fmt: skip
    path = str(folder / "faces.npz")
    config = landmark_faces.Config(
        path, samples=6, pictures=(str(folder / "in"),), size=32, model="faces"
    )
    landmark_faces.main(config)
    return path


def test_faces_are_labelled(faces, shared):
    arrays = np.load(faces)
    assert arrays["pictures"].shape[1:] == (32, 32, 3)
    assert arrays["source"].tolist()[:3] == ["in"] * 3
    assert arrays["source"].tolist()[3:].count("samples") >= 5
    points = arrays["landmarks"]
    assert points.shape == (len(arrays["pictures"]), 68, 2)
    eyes = points[:, 36:48].mean(1)
    np.testing.assert_allclose(eyes, np.full_like(eyes, 15.5), atol=2.5)  # aligned
    with pytest.raises(ValueError, match="no faces: give --samples or --pictures"):
        landmark_faces.main(landmark_faces.Config(faces + "2", samples=0))


def test_labelling_goes_on_after_a_kill(tmp_path, monkeypatch):
    """Parts that were written are not looked at again, and the result is that of one run."""
    monkeypatch.setattr(landmark_faces, "PART", 2)
    looked, whole = [], landmark_faces.located
    for number in range(6):
        save_image(tmp_path / "in" / f"{number}.png", np.roll(ASTRONAUT[:256, 96:352], number, 1))

    def counted(most, detector, picture, size):
        if len(looked) == most:
            raise KeyboardInterrupt
        looked.append(picture)
        return whole(detector, picture, size)

    def run(name: str, most: int) -> None:
        monkeypatch.setattr(landmark_faces, "located", functools.partial(counted, most))
        paths = {"dst": str(tmp_path / name), "pictures": (str(tmp_path / "in"),)}
        landmark_faces.main(landmark_faces.Config(**paths, samples=0, size=128))

    with pytest.raises(KeyboardInterrupt):
        run("a.npz", 5)
    assert not (tmp_path / "a.npz").exists()
    run("a.npz", 7)  # two of the last part, of which one was lost
    assert len(looked) == 7
    run("b.npz", 13)
    one, other = (np.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    for name in ("pictures", "landmarks", "source"):
        np.testing.assert_array_equal(one[name], other[name])
    assert len(one["source"]) >= 5
    assert not list(tmp_path.glob("*.parts"))


def test_a_run_learns_stops_goes_on_and_exports(faces, tmp_path, monkeypatch, capsys):
    """Stopped in between and gone on with, a run ends with the same bits."""
    whole = train_landmarks.Run((faces,), str(tmp_path / "one"), apart=3, report_every=5)
    train_landmarks.run(whole, SMOKE)
    said = capsys.readouterr().out
    assert "finished after 40 views" in said
    assert "3 samples held back, % of the distance between the eyes: all " in said
    network = fxjax.load(f"{whole.out}/export", part="landmarks")
    assert network(jnp.zeros((2, 32, 32, 3))).shape == (2, 68, 2)
    step, steps = training.train_step, []

    def interrupted(*arguments):
        steps.append(0)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", interrupted)
    parts = dataclasses.replace(whole, out=str(tmp_path / "two"))
    with pytest.raises(KeyboardInterrupt):
        train_landmarks.run(parts, SMOKE)
    assert "stopped after 16 views" in capsys.readouterr().out
    train_landmarks.run(parts, SMOKE)
    fresh = functools.partial(training.fresh, SMOKE)
    one, other = (trainingruns.saved(out, SMOKE, fresh) for out in (whole.out, parts.out))
    for name, array, again in trainingruns.pairs(one, other):
        np.testing.assert_array_equal(array, again, err_msg=name)


def test_wrong_files_are_said(faces, tmp_path):
    (tmp_path / "odd.npz").write_bytes(b"no arrays")
    run = train_landmarks.Run((str(tmp_path / "odd.npz"),), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="was not written by experiments"):
        train_landmarks.run(run, SMOKE)
    run = dataclasses.replace(run, faces=(faces,))
    with pytest.raises(ValueError, match="pictures of 32 px; --size=64 wants as many"):
        train_landmarks.run(run, dataclasses.replace(SMOKE, size=64))
    with pytest.raises(ValueError, match="want a multiple of 16"):
        train_landmarks.run(run, dataclasses.replace(SMOKE, size=20))
    with pytest.raises(FileNotFoundError, match="no file at"):
        train_landmarks.run(dataclasses.replace(run, faces=(faces + "3",)), SMOKE)


def test_a_few_steps_learn():
    """On one dot per picture that every landmark sits on, the error falls to a third."""
    rng = np.random.default_rng(0)
    places = rng.uniform(8, 24, (16, 2))
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    dots = np.exp(-np.sum((grid[None] - places[:, None, None]) ** 2, -1) / 8)
    pictures = (np.repeat(dots[..., None], 3, 3) * 255).astype(np.uint8)
    marks = np.repeat(places[:, None], 68, 1) + np.linspace(0, 8, 68)[None, :, None] * [1, 0]
    faces = MarkedFaces(jnp.asarray(pictures), jnp.asarray(marks, jnp.float32))
    settings = dataclasses.replace(SMOKE, widths=(8, 16, 16), batch=16, kviews=2.4, rate=0.005)
    state, losses = training.fresh(settings), []
    for _ in range(150):
        state, metrics = training.train_step(settings, state, faces)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_the_part_is_small():
    network = Landmarks(rngs=nnx.Rngs(0))
    flat = checkpoint.flatten(network)
    assert sum(array.size for array in flat.values()) * 2 < 3e6
