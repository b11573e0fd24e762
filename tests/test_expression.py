"""The reader of expressions: what must not matter to it, what must, and the pairs for judging."""

import csv
import dataclasses

import numpy as np
import pytest

from experiments import pairs
from experiments.making import expression_faces, train_expression
from fxjax import metrics
from fxjax.faces import expression
from fxjax.training import data


@pytest.fixture(scope="module")
def model(shared) -> expression_faces.LandmarkModel:
    return expression_faces.load(shared / "data/ict/ict_facekit.npz")


def _value(landmarks: np.ndarray, *names: str) -> np.ndarray:
    return expression.read(landmarks)[..., [expression.names().index(n) for n in names]].mean(-1)


def test_size_turn_and_place_do_not_matter(smiling):
    turn = np.exp(1j * np.radians(30))
    spun = (smiling @ [1, 1j]) * 2.5 * turn + 40
    other = np.stack([spun.real, spun.imag], axis=-1)
    np.testing.assert_allclose(expression.read(other), expression.read(smiling), atol=1e-9)
    gone = expression.pose(other) - expression.pose(smiling)
    np.testing.assert_allclose(gone, [0, 0, 30], atol=1e-6)


def test_a_mirrored_face_swaps_the_sides(smiling):
    lopsided = smiling.copy()
    lopsided[[48, 60]] += [8, 6]  # the right corner of the mouth
    mirrored = lopsided[expression.MIRROR] * [-1, 1] + [300, 0]
    own, other = expression.read(lopsided), expression.read(mirrored)
    names = expression.names()
    for one, opposite in (
        ("mouthSmile_L", "mouthSmile_R"),
        ("eyeBlink_R", "eyeBlink_L"),
        ("jawLeft", "jawRight"),
        ("mouthPucker", "mouthPucker"),
    ):
        assert own[names.index(one)] == pytest.approx(other[names.index(opposite)], abs=1e-9)
    assert own[names.index("mouthSmile_L")] > own[names.index("mouthSmile_R")] + 0.1
    turned = expression.pose(np.stack([lopsided, mirrored]))
    np.testing.assert_allclose(turned[0] * [-1, 1, -1], turned[1], atol=1e-6)


def test_a_smile_is_seen(smiling, straight):
    both = "mouthSmile_L", "mouthSmile_R"
    assert _value(smiling, *both) > _value(straight, *both) + 0.3


def test_distance_and_gain(smiling, straight):
    assert expression.distance(smiling, smiling) == 0
    apart = expression.distance(smiling, straight)
    assert apart == pytest.approx(expression.distance(straight, smiling))
    assert apart > 2 * expression.LEAST
    assert expression.gain(straight, straight, smiling) == 0
    assert expression.gain(smiling, straight, smiling) == pytest.approx(1)
    assert expression.gain(straight, smiling, straight) == pytest.approx(1)
    half = (smiling + straight) / 2
    assert 0.2 < float(expression.gain(half, straight, smiling)) < 0.8
    assert np.isnan(expression.gain(half, smiling, smiling))
    several = expression.gain(
        np.stack([straight, half]), np.stack([straight] * 2), np.stack([smiling] * 2)
    )
    assert several.shape == (2,)
    assert several[1] == pytest.approx(expression.gain(half, straight, smiling))


def test_points_that_are_no_face():
    for points in (np.ones((68, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(ValueError, match=r"^the landmarks do not look like a face: [^\n]+$"):
            expression.read(points)


def test_weights_files(tmp_path):
    shipped = expression.shipped()
    assert len(shipped.names) == len(set(shipped.names)) == 53
    assert 0 <= shipped.reliability.min() < shipped.reliability.max() <= 1
    packed = expression.packed(shipped)
    assert len(packed) < 2**20
    path = tmp_path / "weights.npz"
    path.write_bytes(packed)
    again = expression.load(path)
    np.testing.assert_array_equal(again.kernels[1], shipped.kernels[1])
    assert again.names == shipped.names
    with pytest.raises(FileNotFoundError, match="no weights of an expression reader at"):
        expression.load(tmp_path / "none.npz")
    path.write_bytes(packed[:1000])
    with pytest.raises(ValueError, match=r"^\S+weights.npz is no expression reader: [^\n]+$"):
        expression.load(path)


def test_new_faces_are_read_as_reliably_as_the_weights_say(model):
    faces = expression_faces.sample(model, np.random.default_rng(123), 4000)
    error = np.mean((expression.read(faces.landmarks) - faces.coefficients) ** 2, axis=0)
    explained = np.clip(1 - error / faces.coefficients.var(axis=0), 0, 1)
    assert np.abs(explained - expression.shipped().reliability).max() < 0.1
    seen = dict(zip(model.names, explained, strict=True))
    assert min(seen["mouthSmile_L"], seen["jawOpen"], seen["eyeBlink_R"]) > 0.7
    off = expression.pose(faces.landmarks)[:, :2] - faces.angles
    assert np.sqrt(np.mean(off**2, axis=0)).max() < 3.5


def test_pose_and_person_matter_little(model):
    rng = np.random.default_rng(5)
    people = np.tensordot(rng.standard_normal((50, len(model.identity))), model.identity, axes=1)
    smile = model.expression[[model.names.index(f"mouthSmile_{side}") for side in "LR"]].sum(0)
    away = np.full(50, 80.0)

    def seen(strength: float, yaw: float) -> np.ndarray:
        points = model.neutral + people + strength * smile
        points[:, 17:27, 1] -= 0.055 * np.ptp(model.neutral[:, 0])
        landmarks = expression_faces.project(points, np.tile([yaw, 0.0], (50, 1)), away)
        return _value(landmarks, "mouthSmile_L", "mouthSmile_R")

    assert seen(0.0, 0.0).mean() == pytest.approx(0, abs=0.15)
    for yaw in (-25.0, 25.0):
        assert (seen(0.8, yaw) - seen(0.0, yaw)).mean() == pytest.approx(0.8, abs=0.2)
        assert np.abs(seen(0.8, yaw) - seen(0.8, 0.0)).mean() < 0.12
    assert seen(0.8, 0.0).std() < 0.2


def test_manipulated_faces(shared):
    """`outgoing` makes people smile, `age` does not; nor does either need a straight picture."""
    rows, values = expression_faces.read_good(
        shared / "data", "omi/omi_train.csv", "omi/omi_train_landmarks.npz", expression.shipped()
    )
    smile = dict(
        zip(
            [row["filename"] for row in rows],
            values[:, [expression.names().index(f"mouthSmile_{side}") for side in "LR"]].mean(1),
            strict=True,
        )
    )

    def moved(attribute: str) -> np.ndarray:
        ends = [
            (name, name.replace("_0.jpg", "_2.jpg"))
            for name in smile
            if name.endswith(f"_{attribute}_0.jpg")
        ]
        return np.array([smile[high] - smile[low] for low, high in ends if high in smile])

    outgoing, age = moved("outgoing"), moved("age")
    assert len(outgoing) > 25
    assert outgoing.mean() > 0.4
    assert np.mean(outgoing > 0) > 0.9
    assert abs(age.mean()) < 0.1
    base = [row for row in rows if row["kind"] == "base"]
    rated = np.array([float(row["happy"]) for row in base])
    read = np.array([smile[row["filename"]] for row in base])
    assert metrics.rank_correlation(read, rated) > 0.8


def test_training(shared, tmp_path, capsys):
    path = tmp_path / "weights.npz"
    config = train_expression.Config(
        ict=str(shared / "data/ict/ict_facekit.npz"),
        dst=str(path),
        steps=150,
        batch=128,
        width=32,
    )
    train_expression.main(config)
    trained = expression.load(path)
    assert trained.names == expression.names()
    assert trained.reliability[trained.names.index("mouthSmile_L")] > 0.5
    assert "reliability" in capsys.readouterr().out


def test_pairs(shared, tmp_path):
    omi = shared / "data/omi"
    config = pairs.Config(
        table=str(omi / "omi_train.csv"),
        landmarks=str(omi / "omi_train_landmarks.npz"),
        dst=str(tmp_path / "pairs.csv"),
    )
    found = pairs.pairs(config)
    assert len(found) == len(set(found)) == 60
    assert {(b, a) for a, b in found} == set(found)
    rows = {row["filename"]: row for row in data.read_table(omi / "omi_train.csv")}
    weights = data.read_weights(omi / "omi_train.csv", list(rows))
    allowed = {name for name, weight in zip(rows, weights, strict=True) if weight == 0}
    with np.load(omi / "omi_train_landmarks.npz") as arrays:
        trusted = set(arrays["filename"][arrays["check_px"] <= 4].tolist())
    for a, b in found:
        assert {a, b} <= allowed & trusted
        assert rows[a]["source_id"] != rows[b]["source_id"]
        happy = sorted(float(rows[name]["happy"]) for name in (a, b))
        assert happy[0] <= 45
        assert happy[1] >= 65
    pairs.main(config)
    with open(config.dst) as file:
        written = list(csv.DictReader(file))
    assert [(row["appearance"], row["expression"]) for row in written] == found
    with pytest.raises(ValueError, match=r"^only \d+ pairs among \d+ straight and \d+ smiling"):
        pairs.pairs(dataclasses.replace(config, count=600))
    with pytest.raises(ValueError, match="give an even number"):
        pairs.pairs(dataclasses.replace(config, count=7))


def test_pairs_of_photos(shared, tmp_path):
    folder = shared / "data/portraits"
    config = pairs.Config(photos=str(folder), dst=str(tmp_path / "pairs.csv"), count=8)
    found = pairs.pairs(config)
    assert len(set(found)) == 8
    assert {(b, a) for a, b in found} == set(found)
    assert all((tmp_path / name).samefile(folder / (tmp_path / name).name) for name, _ in found)
    with np.load(folder / "portraits_landmarks.npz") as arrays:
        points = dict(zip(arrays["filename"].tolist(), arrays["landmarks"], strict=True))
    both = "mouthSmile_L", "mouthSmile_R"
    for pair in found:
        smiles = sorted(_value(points[name.rsplit("/", 1)[1]], *both) for name in pair)
        assert smiles[0] < 0.4 < smiles[1]
    with pytest.raises(ValueError, match="give --table and --landmarks, or --photos"):
        pairs.pairs(pairs.Config())
