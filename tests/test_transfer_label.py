"""A named expression for faces in photos: the library and the command, with a tiny model."""

import csv
import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx
from PIL import Image

from experiments import transfer_label
from fxjax.faces import back
from fxjax.images import load_image, save_image
from fxjax.labels import networks
from fxjax.labels.engine import LabelEngine
from fxjax.labels.training import export

NAMES = "anger,happiness,neutral"
ASTRONAUT = skimage.data.astronaut()


def save_model(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """A model whose last layer hears its labels alone, so that each expression has its colour."""
    settings = networks.LabelSettings(size=16, base=2, most=4, expressions=NAMES, seed=3, **changes)
    state = networks.fresh(settings)
    decoder = state.networks["decoder"]
    last = decoder.convs[len(decoder.convs) - 1].kernel  # the labels' channels are its last
    colours = jnp.asarray([[0.2, -0.2, 0.0], [0.05, 0.1, -0.2], [-0.1, 0.0, 0.1]], jnp.float32)
    colours = colours[:, : settings.channels]
    last[...] = last[...].at[:, :, -decoder.labels :].set(colours)
    export(folder, settings, state, "nothing")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    return save_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def engine(model) -> LabelEngine:
    return LabelEngine(model)


@pytest.fixture(scope="module")
def person(engine):
    return engine.locate(ASTRONAUT)[0]


def test_one_pass_at_the_photos_resolution(engine, person):
    assert engine.expressions == tuple(NAMES.split(","))
    angry, happy = engine.change(person, ["anger", "happiness"])
    assert angry.shape == ASTRONAUT.shape
    changed = np.any(angry != ASTRONAUT, axis=2)
    assert changed.any()
    assert not changed[300:].any()  # the face is in the upper half
    assert np.any(angry != happy)


def test_strength_goes_from_the_own_label_to_the_other(engine, person):
    own = engine.own_label(person)
    assert own.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(engine.change(person, ["anger"], 0.0)[0], ASTRONAUT)
    shipped = LabelEngine("expressions")  # she smiles, and it closes the mouth more and more
    face = shipped.locate(ASTRONAUT)[0]
    photos = [shipped.change(face, ["neutral"], s)[0] for s in (0.0, 0.25, 0.5, 1.0)]
    away = [np.abs(photo.astype(int) - ASTRONAUT).sum() for photo in photos]
    assert away[0] == 0
    assert np.all(np.diff(away) > 0)
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="is not within 0"):
            engine.change(person, ["anger"], bad)


def test_result_is_moved_as_the_drawings_are(engine, person):
    own, label = engine.own_label(person), engine.label("anger")
    before, new = engine.draw(person, [own, label])
    marks = np.stack([engine.marks(before), engine.marks(new)])
    wanted = back.put_back(person, None, before, new, marks)
    np.testing.assert_array_equal(engine.change(person, ["anger"])[0], wanted)
    auto = engine.model
    direct = auto(jnp.asarray(person.crop.image[None]), jnp.asarray(label[None]))
    np.testing.assert_allclose(new, direct[0], atol=1e-5)


def test_a_zoomed_model_draws_the_inner_part(tmp_path):
    zoomed = LabelEngine(save_model(tmp_path / "m", zoom=2))
    face = zoomed.locate(ASTRONAUT)[0]
    assert face.crop.image.shape == (32, 32, 3)
    label = zoomed.label("anger")
    drawn = zoomed.draw(face, [label])[0]
    inner = face.crop.image[None, 14:30, 8:24]
    direct = zoomed.model(jnp.asarray(inner), jnp.asarray(label[None]))[0]
    np.testing.assert_allclose(drawn[14:30, 8:24], direct, atol=1e-5)
    drawn[14:30, 8:24] = face.crop.image[14:30, 8:24]
    np.testing.assert_array_equal(drawn, face.crop.image)
    assert np.any(zoomed.change(face, ["anger"])[0] != ASTRONAUT)


def test_unknown_expressions_are_named(engine):
    with pytest.raises(ValueError, match="no expression 'joy'; this model knows anger, happiness"):
        engine.label("joy")


def test_without_a_classifier_a_face_is_neutral(tmp_path, person):
    plain = LabelEngine(save_model(tmp_path / "m", classifier=False))
    np.testing.assert_array_equal(plain.own_label(person), [0, 0, 1])


def test_grey_models_change_brightness_alone(tmp_path):
    grey = LabelEngine(save_model(tmp_path / "m", channels=1))
    face = grey.locate(ASTRONAUT)[0]
    farthest = grey.expressions[int(np.argmin(grey.own_label(face)))]
    photo = grey.change(face, [farthest])[0].astype(int)
    difference = photo - ASTRONAUT
    inside = np.all((photo > 0) & (photo < 255), axis=2)
    assert np.abs(difference).max() > 1  # not rounding alone
    factors = (photo / np.maximum(ASTRONAUT, 1))[inside & (ASTRONAUT.min(axis=2) > 60)]
    assert np.percentile(np.ptp(factors, axis=1), 99) < 0.03  # red, green and blue move together


def test_other_models_are_refused(tmp_path):
    from facemodels import save_models

    save_models(tmp_path)
    with pytest.raises(ValueError, match="is no label-driven model: it has"):
        LabelEngine(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="no model 'nobody'"):
        LabelEngine("nobody")


def config(model, image, out, **changes: Any) -> transfer_label.Config:
    given: dict[str, Any] = {"expression": "happiness"} | changes
    return transfer_label.Config(image=str(image), model=str(model), out=str(out), **given)


def test_command_writes_one_photo(model, tmp_path):
    save_image(tmp_path / "in" / "ann.png", ASTRONAUT)
    transfer_label.main(config(model, tmp_path / "in" / "ann.png", tmp_path / "out"))
    with Image.open(tmp_path / "out" / "ann.png") as picture:
        assert "facial expression changed" in picture.info["Description"]
        assert picture.size == ASTRONAUT.shape[1::-1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ann.png", "results.csv"]


def test_command_makes_a_sheet_of_all(model, tmp_path):
    save_image(tmp_path / "in" / "ann.png", ASTRONAUT)
    save_image(tmp_path / "in" / "wall.png", np.full((128, 128, 3), 90, np.uint8))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 2 photos failed: .*wall\.png"):
        transfer_label.main(config(model, tmp_path / "in", out, expression="all"))
    sheet = load_image(out / "ann_sheet.png")
    assert sheet.shape == (256, 4 * 260 - 4, 3)
    for name in NAMES.split(","):
        assert load_image(out / f"ann_{name}.png").shape == ASTRONAUT.shape
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] == "ok" for row in rows] == [True, False]
    assert rows[0]["faces"] == "1"


def test_command_leaves_covered_faces_and_says_which_it_took(model, smiling, tmp_path, capsys):
    masked = ASTRONAUT.copy()
    (x, y), wide = smiling[48:].mean(0), np.ptp(smiling[48:55, 0])
    axes = int(0.9 * wide), int(0.5 * wide)
    cv2.ellipse(masked, (round(x), round(y)), axes, 0, 0, 360, (120, 170, 200), -1)
    save_image(tmp_path / "both.png", np.hstack([masked, ASTRONAUT]))
    save_image(tmp_path / "masked.png", masked)
    out = tmp_path / "out"
    transfer_label.main(config(model, tmp_path / "both.png", out, face="all"))
    assert "both.png: the mouth of face 0 seems to be covered; it stays" in capsys.readouterr().out
    changed = load_image(out / "both.png") != np.hstack([masked, ASTRONAUT])
    assert not changed[:, :512].any()
    assert changed[:, 512:].any()
    transfer_label.main(config(model, tmp_path / "both.png", out, face="1"))
    assert "2 faces in both.png: number 1 from the left" in capsys.readouterr().out
    with (out / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["faces"], row["changed"]) == ("2", "1")
    with pytest.raises(ValueError, match=r"the mouth of the face seems to be covered, .*--covered"):
        transfer_label.main(config(model, tmp_path / "masked.png", out))
    transfer_label.main(config(model, tmp_path / "masked.png", out, covered=True))


def test_command_names_what_is_wrong(model, tmp_path):
    save_image(tmp_path / "ann.png", ASTRONAUT[:64, :64])
    for changes, reason in (
        ({"expression": "joy"}, "no expression 'joy'; this model knows anger, happiness, neutral"),
        ({"strength": 1.5}, "--strength=1.5: want 0"),
        ({"image": "nowhere.png"}, "no folder or picture"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            transfer_label.main(
                dataclasses.replace(
                    config(model, tmp_path / "ann.png", tmp_path / "out"), **changes
                )
            )
    line = [sys.executable, "-m", "experiments.transfer_label", f"--image={tmp_path}/ann.png"]
    line += [f"--model={model}", "--expression=joy", f"--out={tmp_path}/out"]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no expression 'joy'")
    assert not (tmp_path / "out").exists()


def test_engine_reads_float32_whatever_it_trained_in(tmp_path):
    rough = LabelEngine(save_model(tmp_path / "m", dtype="bfloat16"))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough.model))
    assert nnx.state(rough.model.encoder)
