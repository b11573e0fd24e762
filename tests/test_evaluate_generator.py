"""Measures of generators on small real parts, and the bundle that is packed with them."""

import csv
import json
import pathlib
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainingruns
from flax import nnx

import fxjax
from experiments import evaluate_generator
from experiments.making import bundle, pack_model
from fxjax import checkpoint, images, losses, zoo
from fxjax.cli import parse
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import face_features, gan_state, generator_measures

RANDOM = np.random.default_rng(0)
SHIPPED = str(zoo.find("faces"))
TINY = gan_state.GanSettings(
    resolution=16, width_base=128, width_most=8, dim=8, dtype="float32", batch=8, kimg=1.0
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return trainingruns.exported(TINY, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def generator(model) -> StyleGAN2:
    return fxjax.load(model)


@pytest.fixture(scope="module")
def features():
    return face_features.random_features((4, 4, 6))


@pytest.fixture(scope="module")
def some_faces(shared, tmp_path_factory) -> dict[str, str]:
    """A few of the pictures: 12 to train on (6 of them manipulated) and 4 held back."""
    omi = shared / "data" / "omi"
    weights = generator_measures.data.read_weights(omi / "omi_train.csv", _names(omi))
    names = np.asarray(_names(omi))
    base = np.char.startswith(names, "base")
    groups = [base & (weights > 0), ~base & (weights > 0), base & (weights == 0)]
    chosen = [n for g, count in zip(groups, (6, 6, 4), strict=True) for n in names[g][:count]]
    folder = tmp_path_factory.mktemp("faces")
    with (
        zipfile.ZipFile(omi / "omi_train_128.zip") as source,
        zipfile.ZipFile(folder / "faces.zip", "w") as target,
    ):
        for name in chosen:
            target.writestr(name, source.read(name))
    return {"data": str(folder / "faces.zip"), "weights_csv": str(omi / "omi_train.csv")}


def _names(omi: pathlib.Path) -> list[str]:
    with zipfile.ZipFile(omi / "omi_train_128.zip") as archive:
        return sorted(archive.namelist())


def fake_faces(count: int = 40) -> generator_measures.FaceData:
    pictures = RANDOM.integers(0, 256, (count, 16, 16, 3), np.uint8)
    weights = np.where(np.arange(count) % 4 == 0, 0, np.where(np.arange(count) % 4 == 1, 1, 1 / 6))
    people = [str(k // 8) for k in range(count)]
    names = [f"{k}.png" for k in range(count)]
    return generator_measures.FaceData(
        pictures, pictures, names, weights.astype(np.float32), people
    )


def test_references_follow_the_weights():
    faces = fake_faces(4000)
    chosen = generator_measures.trained_on(faces, 10_000)
    weights = faces.weights[chosen]
    assert len(set(chosen)) == len(chosen)
    assert (weights == 1).sum() == 1000
    assert 333 - 60 < (weights < 1).sum() < 333 + 60
    assert (weights > 0).all()
    assert generator_measures.trained_on(faces, 5) == chosen[:5]


def test_held_back_are_different_people():
    faces = fake_faces(40)
    chosen = generator_measures.held_back(faces, 100)
    assert [faces.people[k] for k in chosen] == ["0", "1", "2", "3", "4"]
    assert (faces.weights[chosen] == 0).all()
    assert generator_measures.held_back(faces, 3) == [chosen[0], chosen[2], chosen[4]]


def test_samples_do_not_depend_on_their_number(generator):
    few, many = (generator_measures.draw(generator, n, 0.7, 3) for n in (5, 20))
    assert (few == many[:5]).all()
    assert many.shape == (20, 16, 16, 3)
    assert (generator_measures.draw(generator, 2, 0.0, 0)[0] == many.dtype.type(0)).mean() < 1
    mean = generator_measures.draw(generator, 2, 0.0, 0)
    assert (mean[0] == mean[1]).all()


def test_path_length_is_its_formula(generator):
    """Against larger steps, where rounding is small; many channels make the distance smooth."""
    features = face_features.random_features((32, 32, 32))
    found = generator_measures.path_length(generator, features, 12, 0)
    judge = generator_measures.metrics.lpips_style(features)
    each = []
    for key in jax.random.split(jax.random.key(0), 12):
        ends, place = jax.random.split(key)
        w = generator.mapping(jax.random.normal(ends, (2, generator.latent)))
        t = float(jax.random.uniform(place))
        pictures = [
            generator_measures.synthesize(
                generator, jnp.tile(w[0] + (w[1] - w[0]) * s, (1, len(generator.rows), 1))
            )
            for s in (t, t + 0.001)
        ]
        embedded = [judge.embed(picture) for picture in pictures]
        each.append(float(judge.distance(*embedded)[0]) / 0.001**2)
    low, high = np.percentile(each, [1, 99])
    kept = [value for value in each if low <= value <= high]
    assert found == pytest.approx(np.mean(kept), rel=0.05)


def test_copies_are_told():
    trained, apart = RANDOM.normal(size=(30, 8)), RANDOM.normal(size=(20, 8))
    same = generator_measures.copies(trained[:10] + 1e-3, trained, apart)
    assert same["ratio"] < 0.01
    fresh = generator_measures.copies(RANDOM.normal(size=(20, 8)), trained, apart)
    assert 0.6 < fresh["ratio"] < 1.6


def test_distances_see_other_pictures(features):
    dark = RANDOM.integers(0, 80, (40, 16, 16, 3), np.uint8)
    light = RANDOM.integers(120, 255, (40, 16, 16, 3), np.uint8)
    embed = lambda pictures: generator_measures.pooled(features, pictures)
    other = generator_measures.distances(embed, embed(light), dark)
    same = generator_measures.distances(embed, embed(dark), dark)
    assert embed(dark).shape == (40, 6)
    assert same["frechet"] == pytest.approx(0, abs=1e-6)
    assert other["frechet"] > 20 * other["frechet_between_halves_of_the_data"]
    assert other["kernel"] > 0


def test_principal_components():
    """As many as there are pictures give these back; the mean alone gives the mean."""
    trained = RANDOM.integers(0, 256, (9, 8, 8, 3), np.uint8)
    whole = generator_measures.principal_components(trained, trained[:3], 100)
    assert np.abs(whole.astype(int) - trained[:3]).max() <= 1
    near = generator_measures.principal_components(trained, trained[:3], 2).astype(int)
    x = trained.reshape(9, -1).astype(float)
    basis = np.linalg.svd(x - x.mean(0))[2][:2]
    wanted = (x[:3] - x.mean(0)) @ basis.T @ basis + x.mean(0)
    assert np.abs(near.reshape(3, -1) - np.clip(wanted, 0, 255)).max() <= 1


def test_untrained_generators_have_their_own_mean(model, generator):
    fresh = generator_measures.untrained(model, 5)
    assert fresh.resolution == generator.resolution
    assert float(jnp.abs(fresh.w_mean[...]).max()) > 0
    w = fresh.mapping(jax.random.normal(jax.random.key(1), (4096, 8)))
    np.testing.assert_allclose(fresh.w_mean[...], w.mean(0), atol=0.1)
    mine, other = (np.asarray(g.const[...]) for g in (generator, fresh))
    assert np.abs(mine - other).max() > 0.1


def test_losses_of_the_inversion(features):
    faces = fake_faces(40)
    kinds = [
        generator_measures.make_loss(
            features, faces, generator_measures.InversionPlan(feature_weight=f, pixel_weight=p)
        )
        for f, p in ((0.0, 1.0), (1.0, 0.0), (0.5, 2.0))
    ]
    assert isinstance(kinds[0], losses.Pixels)
    assert isinstance(kinds[1], losses.Perceptual)
    one, other = (generator_measures.as_images(faces.small[k : k + 1]) for k in (0, 1))
    values = [float(kind.distance(kind.embed(one), kind.embed(other))[0]) for kind in kinds]
    assert values[2] == pytest.approx(0.5 * values[1] + 2 * values[0], rel=1e-5)


def test_reconstructions_come_closer(generator):
    """Odd batches: seven faces, three at a time."""
    targets = generator_measures.draw(generator, 7, 1.0, 9)
    search = generator_measures.InversionPlan(steps=30, batch=3, rate=0.1)
    pictures, curves = generator_measures.reconstruct(generator, losses.Pixels(), targets, search)
    assert pictures.shape == targets.shape
    assert curves.shape == (7, 30)
    assert (curves[:, -1] < 0.5 * curves[:, 0]).all()


@pytest.fixture(scope="module")
def measured(model, some_faces, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("measures")
    flags = some_faces | {"model": model, "out": str(out), "data_size": 128, "samples": 8}
    flags |= {
        "references": 8,
        "copies": 4,
        "detections": 4,
        "paths": 4,
        "inversions": 2,
        "tuning": 4,
    }
    flags |= {"steps": 3, "batch": 2, "components": 5}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    evaluate_generator.main(parse(evaluate_generator.Config, arguments)[0])
    return out


def test_evaluation_end_to_end(measured, model):
    found = json.loads((measured / "measures.json").read_text())
    assert found["features"] == "random"
    assert found["sha256"] == checkpoint.read_card(model)["parts"]["generator"]["sha256"]
    table = found["inversion"]
    assert list(table) == [
        "target",
        "inversion",
        "inversion, tuned",
        "untrained",
        "PCA, 5 components",
    ]
    assert table["target"]["psnr"] is None  # it is the target
    assert table["target"]["psnr_original"] > 15
    assert table["target"]["found"] in (0, 0.5, 1)
    assert 4 * found["detection"]["psi_0.7"] in range(5)
    for name in ("distance_pooled", "distance_identity"):
        assert found[name]["frechet"] > found[name]["frechet_between_halves_of_the_data"]
    assert found["copies"]["samples"] > 0
    assert found["path_length"]["w"] > 0
    assert "/" not in json.dumps(found["settings"])
    rows = dict(csv.reader((measured / "measures.csv").read_text().splitlines()))
    assert float(rows["inversion/inversion/psnr"]) == pytest.approx(table["inversion"]["psnr"])
    sheet = fxjax.images.load_image(measured / "samples.png")
    assert sheet.shape == (8 * 20 - 4, 8 * 20 - 4, 3)
    assert fxjax.images.load_image(measured / "inversions.png").shape == (36, 5 * 20 - 4, 3)


def test_evaluation_needs_held_back_faces(model, some_faces, tmp_path):
    table = tmp_path / "all.csv"
    names = zipfile.ZipFile(some_faces["data"]).namelist()
    table.write_text("\n".join(["filename,training_weight", *(f"{name},1" for name in names)]))
    config = evaluate_generator.Config(model, some_faces["data"], str(table), data_size=128)
    with pytest.raises(ValueError, match="holds no picture back"):
        evaluate_generator.main(config)


class TestBundle:
    """On the tiny model, with figures that an evaluation might have given."""

    @pytest.fixture
    def figures(self, model, tmp_path) -> pathlib.Path:
        sha = checkpoint.read_card(model)["parts"]["generator"]["sha256"]
        row = dict.fromkeys(("psnr", "psnr_original", "identity", "landmark_error", "found"), 0.5)
        path = tmp_path / "measures.json"
        figures = {
            "sha256": sha,
            "inversion": {"target": row, "inversion": row},
            "detection": {"psi_1.0": 0.5, "psi_0.7": 0.5},
            "distance_identity": {"frechet": 0.5, "kernel": None},
            "settings": {"samples": 8},
        }
        path.write_text(json.dumps(figures))
        return path

    @pytest.fixture(autouse=True)
    def _every_picture_shows_a_face(self, request, monkeypatch):
        if "strict" not in request.node.name:
            monkeypatch.setattr(bundle.detect.Detector, "sees", lambda *_: True)

    def config(self, model, figures, tmp_path, *more: str) -> pack_model.Config:
        flags = [f"--generator={model}", "--features=random", f"--figures={figures}"]
        flags += [f"--landmarks={SHIPPED}"]
        flags += [f"--dst={tmp_path / 'zoo' / 'tiny'}", *more]
        return parse(pack_model.Config, flags)[0]

    def test_parts_are_loaded_by_name(self, model, generator, figures, tmp_path, monkeypatch):
        seen = "--notes=Wrong in the samples: eyes that look in two directions, torn hair"
        pack_model.main(self.config(model, figures, tmp_path, seen))
        card = (tmp_path / "zoo" / "tiny" / "card.md").read_text()
        assert "- Wrong in the samples: eyes that look" in card
        shelf = tmp_path / "zoo"
        monkeypatch.setattr(zoo, "_shelf", lambda: fxjax.files.epath.Path(shelf))
        assert zoo.names() == ["tiny"]
        packed = fxjax.load("tiny")
        one, other = checkpoint.flatten(packed), checkpoint.flatten(generator)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-6)
        features = fxjax.load("tiny", part="features")
        assert features.names[-1] == "block3_pool"
        statistics = fxjax.load("tiny", part="statistics")
        np.testing.assert_allclose(statistics.mean[...], generator.w_mean[...], atol=1e-5)
        assert statistics.covariance[...].shape == (8, 8)
        values = np.linalg.eigvalsh(np.asarray(statistics.covariance[...], np.float64))
        assert values.min() > -1e-5
        found, name = generator_measures.load_features(None, "tiny")
        assert name == "tiny"
        assert isinstance(found, type(features))
        for path in (shelf / "tiny" / "samples").iterdir():
            assert fxjax.images.load_image(path).shape == (16, 16, 3)
        assert packed.w_mean[...].tolist() == generator.w_mean[...].tolist()
        again = bundle.pack(
            model,
            {"features": str(shelf / "tiny"), "landmarks": SHIPPED},
            json.loads(figures.read_text()),
        )
        assert again.info["features_training"] == {"trained": False}
        same = again.parts["features"][1]
        for name, array in checkpoint.flatten(features).items():
            np.testing.assert_array_equal(same[name], array)
        names = [path.name for path in sorted((shelf / "tiny" / "samples").iterdir())]
        assert names == [f"seed{k:04d}.png" for k in range(8)]
        card = (shelf / "tiny" / "card.md").read_text()
        assert card.count("](samples/seed000") == 8
        assert str(tmp_path) not in card + (shelf / "tiny" / "model.json").read_text()
        for text in ("CC BY-NC-SA 4.0", "Peterson", "| inversion |", "detection/psi_0.7", "Misuse"):
            assert text in card
        assert "$" not in card
        with pytest.raises(FileNotFoundError, match=r"comes with fxjax.*\(tiny\)"):
            fxjax.load("other")

    def test_samples_are_those_of_the_sample_command(self, model, figures, tmp_path):
        from experiments import sample

        pack_model.main(self.config(model, figures, tmp_path, "--seeds=3,11"))
        sample.main(sample.Config(model, str(tmp_path / "drawn"), seeds="3,11", psi=0.7))
        for name in ("seed0003.png", "seed0011.png"):
            one = fxjax.images.load_image(tmp_path / "zoo" / "tiny" / "samples" / name)
            assert (one == fxjax.images.load_image(tmp_path / "drawn" / name)).all()

    def test_worse_figures_are_refused(self, model, figures, tmp_path):
        pack_model.main(self.config(model, figures, tmp_path))
        target = tmp_path / "zoo" / "tiny"
        worse = json.loads(figures.read_text())
        worse["inversion"]["inversion"]["identity"] = 0.6
        worse["detection"]["psi_0.7"] = 0.9  # one better figure does not outweigh it
        figures.write_text(json.dumps(worse))
        before = (target / "model.json").read_bytes()
        with pytest.raises(ValueError, match=r"identity was 0\.5, is now 0\.6"):
            pack_model.main(self.config(model, figures, tmp_path))
        assert (target / "model.json").read_bytes() == before
        pack_model.main(self.config(model, figures, tmp_path, "--overwrite"))
        assert json.loads((target / "model.json").read_text())["figures"] == worse

    def test_the_discriminator_comes_too(self, model, figures, tmp_path):
        run, kept = tmp_path / "run", tmp_path / "kept"
        shutil.copytree(model, run / "export")
        config = self.config(run / "export", figures, tmp_path, f"--training={kept}")
        with pytest.raises(FileNotFoundError, match="the trainer writes it with its export"):
            pack_model.main(config)
        assert not (tmp_path / "zoo" / "tiny").exists()
        (run / "training").mkdir()
        (run / "training" / "discriminator.npz").write_bytes(b"weights")
        pack_model.main(config)
        assert (kept / "discriminator.npz").read_bytes() == b"weights"

    def test_too_large(self, model, figures, tmp_path):
        with pytest.raises(ValueError, match=r"MB, more than 0\.01"):
            pack_model.main(self.config(model, figures, tmp_path, "--megabytes=0.01"))
        assert not (tmp_path / "zoo" / "tiny").exists()
        assert not (tmp_path / "zoo").exists()  # nor is the folder that was made for it left

    def test_only_figures_of_these_weights(self, model, figures, tmp_path):
        other = json.loads(figures.read_text()) | {"sha256": "0"}
        figures.write_text(json.dumps(other))
        with pytest.raises(ValueError, match="measured of other weights"):
            pack_model.main(self.config(model, figures, tmp_path))
        del other["detection"]
        figures.write_text(json.dumps(other))
        with pytest.raises(ValueError, match=r"lacks detection/psi_0\.7"):
            pack_model.main(self.config(model, figures, tmp_path))
        figures.write_text("{}")
        with pytest.raises(ValueError, match=r"is no measures\.json"):
            pack_model.main(self.config(model, figures, tmp_path))

    def test_no_other_folder_is_replaced(self, model, figures, tmp_path):
        (tmp_path / "zoo" / "tiny").mkdir(parents=True)
        (tmp_path / "zoo" / "tiny" / "diary.txt").write_text("mine")
        with pytest.raises(ValueError, match="not a model folder"):
            pack_model.main(self.config(model, figures, tmp_path, "--overwrite"))
        assert (tmp_path / "zoo" / "tiny" / "diary.txt").exists()

    def test_strict_samples_must_show_faces(self, model, figures, tmp_path):
        """The tiny generator draws noise."""
        with pytest.raises(ValueError, match=r"finds no face in the samples of the seeds \[0, 1\]"):
            pack_model.main(self.config(model, figures, tmp_path, "--seeds=0-1"))


def test_plain_detection(shared):
    detector = bundle.detect.Detector()
    archive = zipfile.ZipFile(shared / "data" / "omi" / "omi_train_128.zip")
    face = images.decode(archive.read("base_0001.jpg"), "base_0001.jpg")
    assert detector.sees(generator_measures.enlarge(face))
    assert not detector.sees(np.full((256, 256, 3), 128, np.uint8))


def test_statistics_of_a_model_without_them(model, tmp_path):
    """A converted model has no part `statistics`: they are computed."""
    card = checkpoint.read_card(model)["parts"]["generator"]
    made = StyleGAN2(**card["architecture"], rngs=nnx.Rngs(0))
    flat = {name: np.asarray(a) for name, a in checkpoint.flatten(made).items()}
    parts = {"generator": (card["architecture"], flat)}
    checkpoint.save_model(tmp_path / "bare", "stylegan2", parts, {})
    figures = {"inversion": {}, "settings": {}}
    packed = bundle.pack(
        str(tmp_path / "bare"), {"features": "random", "landmarks": SHIPPED}, figures
    )
    mean = packed.parts["statistics"][1]["mean"]
    assert np.abs(mean).max() > 0
    np.testing.assert_allclose(packed.parts["generator"][1]["w_mean"], mean, atol=1e-3)
