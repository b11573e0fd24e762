"""Training of the feature network: views and labels, losses, batch norm folded, resume, export."""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import signal
import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainingruns

import fxjax
from fxjax import checkpoint, cli
from fxjax.faces.expression import MIRROR
from fxjax.training import face_features, feature_run
from fxjax.training.face_features import FeatureSettings, RatedFaces

RANDOM = np.random.default_rng(0)
TINY = FeatureSettings(widths=(4, 4, 6, 6), size=16, batch=8, kviews=0.08, embedding=5)


def tiny_faces(count: int = 12, ratings: int = 3) -> RatedFaces:
    side = 2 * TINY.size
    coarse = RANDOM.integers(0, 256, (count, 3, 3, 3), np.uint8)
    patterns = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return RatedFaces(
        jnp.asarray(np.stack([patterns[k // 2] for k in range(count)])),
        jnp.ones((count,), jnp.float32),
        jnp.arange(count, dtype=jnp.int32) // 2,
        jnp.asarray(RANDOM.uniform(-8, 8, (count, 68, 2)), jnp.float32),
        jnp.arange(count) > 0,
        jnp.asarray(RANDOM.normal(size=(count, ratings)), jnp.float32),
        jnp.arange(count) < count - 1,
    )


@pytest.fixture(scope="module")
def faces() -> RatedFaces:
    return tiny_faces()


@pytest.fixture(scope="module")
def state(faces):
    """After a few steps, so that the averages are not where they began."""
    state = face_features.fresh(TINY, 3)
    for _ in range(3):
        state, _ = face_features.train_step(TINY, state, faces)
    return state


def test_mirrored_landmarks():
    mirrored = MIRROR
    assert sorted(mirrored) == list(range(68))
    assert (mirrored[mirrored] == np.arange(68)).all()
    middle = {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}
    assert set(np.flatnonzero(mirrored == np.arange(68))) == middle


def test_mirrored_landmarks_of_real_faces(shared):
    """The mean face is nearly its own mirror image, which only the right order keeps."""
    with np.load(shared / "data" / "omi" / "omi_train_landmarks.npz") as arrays:
        mean = arrays["landmarks"].mean(0) - 127.5
    np.testing.assert_allclose(mean[MIRROR] * [-1, 1], mean, atol=4)


def test_views_carry_their_landmarks():
    """A bright dot where each landmark was is where the view's landmark is."""
    settings = dataclasses.replace(TINY, size=64, batch=32)
    pictures, landmarks = np.zeros((1, 128, 128, 3), np.uint8), np.zeros((1, 68, 2), np.float32)
    pictures[0, 52:56, 40:44] = 255  # rows 52-55, columns 40-43: centre (41.5, 53.5)
    landmarks[0, :, :] = [41.5 - 63.5, 53.5 - 63.5]
    one = jnp.ones((1,), bool)
    faces = RatedFaces(
        jnp.asarray(pictures),
        jnp.ones((1,), jnp.float32),
        jnp.zeros((1,), jnp.int32),
        jnp.asarray(landmarks),
        one,
        jnp.zeros((1, 1), jnp.float32),
        one,
    )
    chosen = jnp.zeros((32,), jnp.int32)
    views, found = face_features.draw_views(settings, faces, chosen, jax.random.key(3))
    placed = np.asarray(found).reshape(32, 68, 2)[:, 0] * face_features.SPREAD
    placed = (placed + np.asarray(face_features.mean_face(faces))[0]) * 32 + 31.5
    inside = 0
    for view, (x, y) in zip(np.asarray(views), placed, strict=True):
        level = view.sum(-1) - np.median(view.sum(-1))
        if not (4 < x < 60 and 4 < y < 60):
            continue
        weights = np.where(level > level.max() / 2, level, 0)
        rows, columns = np.indices(weights.shape)
        spot = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        if np.abs(spot - [x, y]).max() < 0.7:
            inside += 1
        else:  # reflected at the border, the dot may be there twice
            y0, x0 = round(float(y)), round(float(x))
            assert level[y0, x0] > level.max() / 2
    assert inside > 16
    assert len(np.unique(placed.round(2), axis=0)) == 32


def test_pairs_are_of_one_person(faces):
    chosen = np.asarray(face_features.pairs(faces, jax.random.key(0), 200))
    people = np.asarray(faces.people)[chosen]
    assert (people[:100] == people[100:]).all()
    assert (chosen[:100] != chosen[100:]).any()  # the partner may be another picture
    rare = faces._replace(weights=faces.weights.at[0].set(0))
    assert 0 not in np.asarray(face_features.pairs(rare, jax.random.key(0), 200))


def test_contrastive_is_its_formula():
    embedding, people = RANDOM.normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 0])
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    # person 2 is there once, which `pairs` never does
    kept = [0, 1, 3, 4, 5]
    wanted = 0.0
    for i in kept:
        others = [j for j in kept if j != i]
        bottom = sum(np.exp(unit[i] @ unit[j] / 0.3) for j in others)
        same = [j for j in others if people[j] == people[i]]
        wanted -= np.mean([np.log(np.exp(unit[i] @ unit[p] / 0.3) / bottom) for p in same]) / 5
    found = face_features.contrastive(
        jnp.asarray(embedding[kept], jnp.float32), jnp.asarray(people[kept], jnp.int32), 0.3
    )
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_unknown_labels_do_not_count():
    found, wanted = RANDOM.normal(size=(2, 4, 5)).astype(np.float32)
    known = np.array([True, False, True, False])
    value = face_features.masked_square(*map(jnp.asarray, (found, wanted, known)))
    assert float(value) == pytest.approx(np.square(found - wanted)[known].mean(), rel=1e-5)
    none = face_features.masked_square(*map(jnp.asarray, (found, wanted, known & False)))
    assert float(none) == 0


def test_folding_equals_batch_norm(state):
    """With the batch's own statistics as averages, the folded trunk gives the same outputs."""
    views = jnp.asarray(RANDOM.uniform(-1, 1, (6, 16, 16, 3)), jnp.float32)
    network = jax.tree.map(lambda array: array, state.network)
    wanted, statistics = network(views)
    for k, (mean, square) in enumerate(statistics):
        network.means[k][...], network.squares[k][...] = mean, square
    trunk = face_features.folded(network)
    last = trunk.names[-1]
    found = network.heads(trunk(views, (last,))[last])
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-5)


def test_averages_follow_the_statistics(state, faces):
    assert all(float(jnp.abs(mean[...]).max()) > 0 for mean in state.network.means)
    for mean, square in zip(state.network.means, state.network.squares, strict=True):
        assert (square[...] + 1e-6 >= jnp.square(mean[...])).all()


def test_unit_squares_only_scale(state):
    """Each layer becomes the old one times a constant, with mean square 1 on these pictures."""
    trunk = face_features.folded(state.network)
    pictures = jnp.asarray(RANDOM.uniform(-1, 1, (5, 16, 16, 3)), jnp.float32)
    scaled, squares = face_features.unit_squares(trunk, pictures)
    names = [name for name in trunk.names if "conv" in name]
    assert list(squares) == names
    before, after = trunk(pictures, names), scaled(pictures, names)
    for name in names:
        np.testing.assert_allclose(after[name], before[name] * squares[name] ** -0.5, atol=1e-4)
        assert float(jnp.mean(jnp.square(after[name]))) == pytest.approx(1, rel=1e-4)
    for conv in face_features.convolutions(trunk):
        conv.kernel[...], conv.bias[...] = conv.kernel[...] * 0, conv.bias[...] * 0
    with pytest.raises(ValueError, match=r"block1_conv1.*show nothing"):
        face_features.unit_squares(trunk, pictures)


def test_random_features_keep_the_square():
    """He's variance keeps the mean square of what enters from layer to layer."""
    trunk = face_features.random_features((64, 64, 64))
    pictures = jnp.asarray(RANDOM.normal(size=(4, 32, 32, 3)), jnp.float32)
    layers = trunk(pictures, ("block1_conv1_linear", "block1_conv2", "block3_conv3"))
    inner = layers["block1_conv1_linear"][:, 4:-4, 4:-4]
    assert float(jnp.mean(jnp.square(inner))) == pytest.approx(2, rel=0.15)
    assert 0.1 < float(jnp.mean(jnp.square(layers["block3_conv3"]))) < 10


def test_training_learns_and_repeats(faces):
    """On a dozen faces the losses fall, and a second run gives the same weights."""
    settings = dataclasses.replace(TINY, widths=(8, 8, 12, 12), kviews=2.4, rate=0.01)
    runs, parts = [], []
    for steps in (300, 20):
        state = face_features.fresh(settings, 3)
        for step in range(steps):
            state, metrics = face_features.train_step(settings, state, faces)
            parts.append([float(metrics[name]) for name in ("landmarks", "ratings", "person")])
            if step == 19:
                runs.append(jax.tree.map(np.asarray, checkpoint.flatten(state.network)))
    first, last = np.mean(parts[:10], axis=0), np.mean(parts[290:300], axis=0)
    assert (last < 0.9 * first).all(), (first, last)
    assert parts[:20] == parts[300:]
    assert all((runs[0][name] == runs[1][name]).all() for name in runs[0])
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """40 noisy pictures with the table and landmarks that belong to them."""
    names = [f"base_{k:04d}.jpg" for k in range(130)]
    rows, places = [], RANDOM.uniform(60, 200, (len(names), 68, 2)).astype(np.float32)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for k, name in enumerate(names):
            picture = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
            archive.writestr(name, cv2.imencode(".png", picture)[1].tobytes())
            rows.append({"filename": name, "source_id": str(k), "kind": "base", "happy": str(k)})
    with (tmp_path / "faces.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    np.savez(
        tmp_path / "landmarks.npz",
        filename=np.asarray(names),
        landmarks=places,
        check_px=np.linspace(0, 8, len(names)),
    )
    return {
        "data": str(tmp_path / "faces.zip"),
        "table": str(tmp_path / "faces.csv"),
        "landmarks": str(tmp_path / "landmarks.npz"),
        "out": str(tmp_path / "run"),
    }


SMOKE = feature_run.PRESETS["smoke"]


def read(files: dict[str, str]) -> tuple[RatedFaces, RatedFaces]:
    return feature_run.read_faces(files["data"], files["table"], files["landmarks"], SMOKE)


def test_faces_are_read_and_split(files):
    faces, apart = read(files)
    assert (len(faces.weights), len(apart.weights)) == (30, 100)
    assert faces.pictures.shape[1:] == (32, 32, 3)
    known = np.asarray(faces.ratings)
    assert abs(known.mean()) < 1e-5  # standardised over those trained on
    assert known.std() == pytest.approx(1, rel=1e-4)
    assert 0 < np.asarray(faces.located).mean() < 1
    assert float(jnp.abs(faces.landmarks).max()) <= 72.5 / 8 + 1e-3  # 256 px to 32 px


def test_smoke_run_exports_and_resumes(files, monkeypatch, capsys):
    """Stopped in between and gone on with, a run ends with the same bits."""
    whole = feature_run.Run(**files, report_every=5)
    feature_run.run(whole, SMOKE)
    assert "finished after 160 views" in capsys.readouterr().out
    features = fxjax.load(f"{whole.out}/export")
    assert features.names[-1] == "block3_pool"
    faces, _ = read(files)
    pictures = feature_run._whole(faces, 30)
    found = features(pictures, ("block1_conv1", "block3_conv3"))
    for layer in found.values():  # float16 storage
        assert float(jnp.mean(jnp.square(layer))) == pytest.approx(1, rel=0.02)
    card = json.loads(pathlib.Path(whole.out, "export", "model.json").read_text())
    assert card["views"] == 160
    assert card["held_back"]["landmark_error"] > 0

    parts = dataclasses.replace(whole, out=files["out"] + "2")
    step, steps = face_features.train_step, []

    def interrupted(*arguments):
        steps.append(0)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(face_features, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feature_run.run(parts, SMOKE)
    assert "stopped after 56 views" in capsys.readouterr().out
    feature_run.run(parts, SMOKE)
    assert len(steps) == 20
    kept = feature_run.Kept(**dataclasses.asdict(SMOKE), ratings=1)
    fresh = functools.partial(face_features.fresh, SMOKE, 1)
    one, other = (trainingruns.saved(out, kept, fresh) for out in (whole.out, parts.out))
    for name, array, again in trainingruns.pairs(one, other):
        np.testing.assert_array_equal(array, again, err_msg=name)
    text = pathlib.Path(parts.out, "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["views"] for row in rows] == ["40", "80", "120", "160"]

    other_settings = dataclasses.replace(SMOKE, rate=0.5)
    with pytest.raises(ValueError, match=r"rate 0\.002 instead of 0\.5"):
        feature_run.run(whole, other_settings)


def test_a_broken_loss_stops_and_keeps_the_checkpoint(files):
    run = feature_run.Run(**files, report_every=5)
    wild = dataclasses.replace(SMOKE, rating_weight=float("nan"))
    with pytest.raises(ValueError, match="not finite from step 1"):
        feature_run.run(run, wild)
    assert not pathlib.Path(run.out, "checkpoints").exists()
    assert not pathlib.Path(run.out, "export").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks": "nowhere.npz"}, "no landmark file"),
        ({"data": "nowhere.zip"}, "no folder or zip"),
    ],
)
def test_missing_files(files, change, message):
    with pytest.raises(FileNotFoundError, match=message):
        feature_run.run(feature_run.Run(**(files | change)), SMOKE)


def test_bad_settings(files):
    with pytest.raises(ValueError, match="must be even"):
        feature_run.run(feature_run.Run(**files), dataclasses.replace(SMOKE, batch=7))
    with np.load(files["landmarks"]) as arrays:
        short = {name: arrays[name][:20] for name in arrays}
    np.savez(files["landmarks"], **short)
    with pytest.raises(ValueError, match="lacks 110 pictures, the first is base_0020"):
        feature_run.run(feature_run.Run(**files), SMOKE)


def test_a_table_without_ratings(files, capsys):
    """As experiments.prepare_omi writes it."""
    rows = list(csv.DictReader(pathlib.Path(files["table"]).read_text().splitlines()))
    lines = ["filename,source_id,kind,held_back,training_weight"]
    lines += [
        f"{r['filename']},{r['source_id']},base,{k % 2},{1 - k % 2}" for k, r in enumerate(rows)
    ]
    pathlib.Path(files["table"]).write_text("\n".join(lines))
    feature_run.run(feature_run.Run(**files), SMOKE)
    assert "no ratings" in capsys.readouterr().out
    card = json.loads(pathlib.Path(files["out"], "export", "model.json").read_text())
    assert list(card["held_back"]) == ["landmark_error"]


def test_presets():
    assert cli.chosen_preset(["--preset=smoke", "--out=x"], "faces") == "smoke"
    assert cli.chosen_preset(["--out=x"], "faces") == "faces"
    command = functools.partial(cli.preset_flags, feature_run.Run, feature_run.PRESETS)
    fields = {field.name: field.default for field in dataclasses.fields(command("smoke"))}
    assert fields["widths"] == SMOKE.widths
    assert fields["preset"] == "smoke"
    with pytest.raises(ValueError, match="no preset 'x'; there are faces, smoke"):
        command("x")
