"""Training of the label-driven models: data, step, and the whole command on the preset `smoke`."""

import dataclasses
import functools
import pathlib
import signal

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainingruns
from jax.sharding import NamedSharding, PartitionSpec
from trainingruns import one_device

import fxjax
from fxjax import checkpoint, cli, sharding
from fxjax.labels import networks, training
from fxjax.nn.fader import LiuJin

RANDOM = np.random.default_rng(0)
SMOKE = training.PRESETS["smoke"]
NAMED = dataclasses.replace(SMOKE, expressions="happiness,neutral")
HALF = training.Thresholds(35.0, 65.0)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> pathlib.Path:
    """Drawn faces of 40 people: a mouth that smiles, one that does not, and a table of both."""
    folder = tmp_path_factory.mktemp("faces")
    rows = ["file,person,expression"]
    for i in range(60):
        skin, back = RANDOM.integers(60, 250, (2, 3))
        image = np.full((32, 32, 3), back, np.uint8)
        cv2.circle(image, (16, 16), 13, skin.tolist(), -1)
        for x in (11, 21):
            cv2.circle(image, (x, 12), 2, (20, 20, 20), -1)
        happy = i % 3 == 0
        ends = (0, 180) if happy else (85, 95)
        cv2.ellipse(image, (16, 20), (7, 5 if happy else 1), 0, *ends, (30, 30, 160), 2)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        rows.append(f"{i}.png,who{i % 40},{'happiness' if happy else 'neutral'}")
    (folder.parent / "faces.csv").write_text("\n".join(rows) + "\n")
    return folder


def options(faces: pathlib.Path, out: pathlib.Path) -> training.Run:
    table = str(faces.parent / "faces.csv")
    return training.Run(
        data=str(faces), table=table, out=str(out), report_every=10, sample_kimg=0.2, least=2
    )


def read(faces, table, size=16, channels=3, wanted=(), **changes):
    return training.read_faces(
        faces, table, size, channels, wanted=wanted, thresholds=HALF, **changes
    )


def test_faces_are_read_and_people_held_back(faces):
    trained, held_back = read(faces, faces.parent / "faces.csv")
    assert trained.expressions == ("happiness", "neutral")
    assert len(trained.classes) + len(held_back.classes) == 60
    assert len(held_back.classes) > 0
    assert trained.pictures.shape[1:] == (16, 16, 3)
    weights = trained.weights()
    sums = [weights[trained.classes == k].sum() for k in (0, 1)]
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)  # as often as the other


def test_a_zoom_shows_the_inner_part(faces):
    table = faces.parent / "faces.csv"
    (whole, _), (part, _) = read(faces, table, 32), read(faces, table, 16, zoom=2)
    np.testing.assert_array_equal(part.pictures, whole.pictures[:, 14:30, 8:24])
    with pytest.raises(ValueError, match="a zoom of 3 of 16 px; want one of"):
        read(faces, table, 16, zoom=3)


def test_pictures_of_a_person_stay_together(faces):
    _, apart = training.read_labels(faces.parent / "faces.csv", HALF)
    for i in range(20):
        assert apart[f"{i}.png"] == apart[f"{i + 40}.png"]


def test_ratings_become_expressions(tmp_path, shared):
    labels, apart = training.read_labels(shared / "data/omi/omi_train.csv", HALF)
    assert labels["base_0001.jpg"] == "neutral"  # rated 18.971
    assert labels["base_0002.jpg"] == "happiness"  # 75.771
    assert set(labels.values()) == {"neutral", "happiness", ""}
    assert sum(apart[name] for name, label in labels.items() if label) > 30
    assert not any(label for name, label in labels.items() if name.startswith("manip"))


BAD = {
    "file,expression\n0.png,happiness\n1.png,\n": r"no expression for 1 of 2 files.*1\.png",
    "file,expression\n0.png,happiness\n": r"no expression for 59 of the 60 pictures",
    "file,mood\n0.png,happy\n": r"wants the columns file,expression .* it has file,mood",
    "": "is empty; its first line must name the columns",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_tables_are_refused(faces, tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]):
        read(faces, tmp_path / "t.csv")


def test_bad_wishes_are_refused(faces, tmp_path):
    table = faces.parent / "faces.csv"
    with pytest.raises(ValueError, match=r"no expression 'rage' in .* has happiness, neutral"):
        read(faces, table, wanted=("happiness", "rage"))
    with pytest.raises(ValueError, match="neutral to train on; want two or more"):
        read(faces, table, least=30)
    text = table.read_text() + "gone.png,nobody,anger\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match="has no pictures of anger to train on"):
        read(faces, tmp_path / "t.csv", wanted=("neutral", "anger"))
    with pytest.raises(ValueError, match="in colour, but --channels=1; give --channels=3"):
        read(faces, table, channels=1)
    with pytest.raises(ValueError, match="wanted squares of 24 pixels"):
        read(faces, table, size=24)
    with pytest.raises(FileNotFoundError, match="no table"):
        read(faces, tmp_path / "none.csv")


def test_grey_pictures_want_a_grey_model(tmp_path):
    folder = tmp_path / "grey"
    folder.mkdir()
    for i in range(8):
        cv2.imwrite(str(folder / f"{i}.png"), RANDOM.integers(0, 256, (16, 16), np.uint8))
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["file,expression", *rows]))
    with pytest.raises(ValueError, match="are grey, but --channels=3; give --channels=1"):
        read(folder, tmp_path / "t.csv")
    trained, held_back = read(folder, tmp_path / "t.csv", channels=1)
    assert trained.pictures.shape[1:] == (16, 16, 1)
    assert len(held_back.classes) + len(trained.classes) == 8


# The step.


def data(count: int = 24, channels: int = 3) -> networks.Data:
    pixels = RANDOM.integers(0, 256, (count, 16, 16, channels), np.uint8)
    classes = (np.arange(count) % 2).astype(np.int32)
    no_partners = jnp.full((count, 2), -1)
    return networks.Data(jnp.asarray(pixels), jnp.asarray(classes), jnp.ones(count), no_partners)


def test_expressions_are_drawn_by_weight():
    classes = jnp.asarray([0] * 9 + [1], jnp.int32)
    faces = data(10)._replace(classes=classes, weights=jnp.asarray([1 / 9] * 9 + [1.0]))
    settings = dataclasses.replace(NAMED, batch=4096)
    split = NamedSharding(one_device(), PartitionSpec("batch"))
    draw = jax.jit(lambda key: networks._chosen(settings, split, key, faces))
    chosen, mirrored = draw(jax.random.key(0))
    assert jnp.mean(faces.classes[chosen]) == pytest.approx(0.5, abs=0.03)
    assert jnp.mean(mirrored) == pytest.approx(0.5, abs=0.03)
    pictures = networks._pictures(faces, chosen[:8], mirrored[:8])
    for picture, number, turned in zip(pictures, chosen, mirrored, strict=False):
        wanted = fxjax.images.from_uint8(faces.pictures[number])
        np.testing.assert_array_equal(picture, wanted[:, ::-1] if turned else wanted)


def test_partners_are_the_same_pair_with_another_expression():
    pairs = np.array([0, -1, 0, 1, 1, 1])
    classes = np.array([0, 0, 1, 1, 0, 2], np.int32)
    faces = training.Labelled(np.zeros((6, 1, 1, 3), np.uint8), classes, ("a", "b", "c"), pairs)
    assert faces.partners().tolist() == [
        [-1, 2, -1], [-1, -1, -1], [0, -1, -1], [4, -1, 5], [-1, 3, 5], [4, 3, -1]
    ]  # fmt: skip


def test_pairs_are_read_from_the_table(faces, tmp_path):
    lines = (faces.parent / "faces.csv").read_text().split()
    known = [f"{line},{'p' + str(k % 30) if k < 30 else ''}" for k, line in enumerate(lines[1:])]
    (tmp_path / "t.csv").write_text("\n".join([lines[0] + ",pair", *known]))
    trained, _ = read(faces, tmp_path / "t.csv")
    assert 0 < np.sum(trained.pairs >= 0) <= 30
    assert np.sum(read(faces, faces.parent / "faces.csv")[0].pairs >= 0) == 0


def test_known_answers_teach_the_change():
    """Pictures whose brightness is the expression, with a little noise that nobody can know."""
    faces = data(24)
    bright = faces.pictures[::2] // 8
    pixels = jnp.stack([bright, bright + 120], axis=1).reshape(-1, *bright.shape[1:])
    partners = np.full((24, 2), -1)
    partners[::2, 1], partners[1::2, 0] = np.arange(1, 24, 2), np.arange(0, 24, 2)
    faces = faces._replace(pictures=pixels, partners=jnp.asarray(partners))
    settings = dataclasses.replace(NAMED, paired=1.0, rate=0.005, kimg=4.0, classifier=False)
    state = networks.fresh(settings)
    step = networks.compiled(settings, one_device(), state, faces)
    errors = []
    for _ in range(60):
        state, metrics = step(state, faces)
        errors.append(float(metrics["paired"]))
    assert np.mean(errors[-5:]) < 0.3 * np.mean(errors[:5])


def test_schedules():
    weight = lambda images: float(networks.adversary(NAMED, jnp.int32(images)))
    assert weight(0) == 0
    assert weight(64) == pytest.approx(0.05)  # halfway through the first 0.32 of 400 pictures
    assert weight(128) == weight(400) == pytest.approx(0.1)
    rate = lambda images: float(networks.rate(NAMED, jnp.int32(images)))
    assert rate(0) == rate(320) == pytest.approx(0.0005)
    assert rate(360) == pytest.approx(0.00025)
    assert rate(400) == 0


def test_moves_are_adam_and_leave_averages_alone():
    state = networks.fresh(NAMED)
    latent = state.networks["latent"]
    slopes = jax.tree.map(lambda a: jnp.full_like(a, 1e-3), latent)
    moved, _ = networks.moved(latent, slopes, state.moments["latent"], jnp.float32(0.01))
    change = moved.score.kernel[...] - latent.score.kernel[...]
    np.testing.assert_allclose(change, -0.01, rtol=1e-3)  # Adam's first step is the rate


@pytest.mark.parametrize("model", ["liu_jin", "fader"])
def test_step_learns_only_its_own_part(model):
    """The weights that move, the averages that follow, and the losses that are told."""
    settings = dataclasses.replace(NAMED, model=model, sharpness=0.1)
    state, faces = networks.fresh(settings), data()
    assert set(state.networks) == {"encoder", "decoder", "latent", "classifier", "patches"}
    before = {k: checkpoint.flatten(jax.tree.map(jnp.copy, n)) for k, n in state.networks.items()}
    step = networks.compiled(settings, one_device(), state, faces)
    state, metrics = step(state, faces)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, metrics)))
    assert int(state.images) == 8
    assert int(state.broken) == -1
    for part, network in state.networks.items():
        for name, array in checkpoint.flatten(network).items():
            if name.startswith("label"):
                continue
            assert np.abs(array - before[part][name]).max() > 0, f"{part}/{name}"
    for _ in range(3):
        state, metrics = step(state, faces)
    assert type(networks.autoencoder(settings, state)) is networks.MODELS[model]
    names = {"reconstruction", "latent", "leak", "fooling", "sharp", "patches", "named"}
    assert names <= metrics.keys()
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_rebuilding_gets_better():
    """A hundred steps on eight pictures halve the loss."""
    settings = dataclasses.replace(NAMED, kimg=0.8, rate=0.002, mirror=False, classifier=False)
    state, faces = networks.fresh(settings), data(8)
    smooth = np.stack([cv2.GaussianBlur(np.asarray(p), (0, 0), 4) for p in faces.pictures])
    faces = faces._replace(pictures=jnp.asarray(smooth))
    step = networks.compiled(settings, one_device(), state, faces)
    losses = []
    for _ in range(100):
        state, metrics = step(state, faces)
        losses.append(float(metrics["reconstruction"]))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_four_devices_are_one_device():
    """A step, split over four devices and whole: batch norm sees the whole batch."""
    ends, faces = [], data()
    settings = dataclasses.replace(NAMED, dropout=0.0)
    for mesh in (one_device(), sharding.mesh()):
        state = sharding.replicate(networks.fresh(settings), mesh)
        here = sharding.replicate(faces, mesh)
        step = networks.compiled(settings, mesh, state, here)
        state, metrics = step(state, here)
        ends.append(jax.tree.map(np.asarray, (state.networks, state.moments, metrics)))
    for path, one, four in trainingruns.pairs(*ends):
        # Adam's first step is the rate times the slope's sign, so slopes (its moments) are compared
        # instead of weights; what is 0 but for rounding differs by that.
        if ".norms" in path or not path.startswith("[0]"):
            np.testing.assert_allclose(four, one, rtol=2e-3, atol=2e-6, err_msg=path)


def test_a_larger_model_grows_from_a_smaller_one():
    """All layers but the outermost are the smaller model's, to the bit."""
    small = dataclasses.replace(NAMED, size=32, seed=5)
    large = dataclasses.replace(NAMED, size=64, base=2)
    old = networks.autoencoder(small, networks.fresh(small))
    grown, plain = networks.grown(large, old), networks.fresh(large)

    def kernels(part) -> list[np.ndarray]:
        return [np.asarray(conv.kernel[...]) for conv in part.convs]

    before, new = kernels(old.encoder), kernels(grown.networks["encoder"])
    untrained = kernels(plain.networks["encoder"])
    assert len(new) == len(before) + 1 == 4
    for one, other in zip(new, [*untrained[:2], *before[1:]], strict=True):
        np.testing.assert_array_equal(one, other)
    before, new = kernels(old.decoder), kernels(grown.networks["decoder"])
    untrained = kernels(plain.networks["decoder"])
    for one, other in zip(new, [*before[:-1], *untrained[-2:]], strict=True):
        np.testing.assert_array_equal(one, other)

    with pytest.raises(ValueError, match="cannot start from a LiuJin of 32 px, zoom 1"):
        networks.grown(dataclasses.replace(large, zoom=2), old)
    with pytest.raises(ValueError, match="0 of its kernels fit"):
        networks.grown(dataclasses.replace(large, base=16, most=16), old)


def test_batches_that_do_not_divide_are_refused():
    settings, faces = dataclasses.replace(NAMED, batch=6), data()
    with pytest.raises(ValueError, match="a batch of 6 cannot be split over 4 devices"):
        networks.compiled(settings, sharding.mesh(), networks.fresh(settings), faces)


# The whole command.


@pytest.fixture(scope="module")
def whole_run(faces, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("whole")
    training.run(options(faces, out), SMOKE)
    return out


def saved(out: pathlib.Path) -> dict[str, np.ndarray]:
    return trainingruns.saved(out, NAMED, lambda: networks.fresh(NAMED))


def test_smoke_trains(whole_run):
    assert saved(whole_run)[".images"] == 400
    rows = (whole_run / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    assert {"images", "reconstruction", "leak", "named", "psnr", "changed"} <= set(names)
    assert len(rows) == 1 + 5
    found = sorted(path.name for path in (whole_run / "samples").iterdir())
    assert found == ["00000200.png", "00000400.png"]
    sheet = cv2.imread(str(whole_run / "samples" / "00000400.png"))
    assert sheet is not None
    assert sheet.shape[1] == 3 * 18 - 2  # the face, then both expressions


def test_export_is_the_trained_network(whole_run):
    auto = fxjax.load(whole_run / "export")
    assert isinstance(auto, LiuJin)
    assert auto.expressions == ("happiness", "neutral")
    arrays = saved(whole_run)
    first = (k for k in arrays if k.startswith(".networks['encoder']") and "kernel" in k)
    wanted = arrays[next(first)]
    kept = checkpoint.flatten(auto.encoder)["convs/0/kernel"]
    np.testing.assert_allclose(kept, wanted, rtol=1e-3, atol=1e-6)
    picture = jnp.asarray(RANDOM.uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    assert auto(picture, jnp.eye(2)[:1]).shape == (1, 16, 16, 3)
    classifier = fxjax.load(whole_run / "export", part="classifier")
    assert classifier(picture).shape == (1, 2)


def test_killed_run_goes_on_bit_for_bit(whole_run, faces, tmp_path):
    """SIGKILL in the middle, then the same command: every array equals the unbroken run's."""
    out = tmp_path / "killed"
    line = ["experiments.train_label_transfer", f"--data={faces}", "--least=2", "--model=liu_jin"]
    trainingruns.kill([*line, f"--table={faces.parent / 'faces.csv'}"], out)
    training.run(options(faces, out), SMOKE)
    for name, array, wanted in trainingruns.pairs(saved(out), saved(whole_run)):
        np.testing.assert_array_equal(array, wanted, err_msg=name)


def test_other_settings_do_not_go_on(whole_run, faces):
    other = dataclasses.replace(SMOKE, rate=0.1)
    with pytest.raises(ValueError, match=r"was trained with rate 0\.0005 instead of 0\.1"):
        training.run(options(faces, whole_run), other)


def test_broken_losses_end_the_run(faces, tmp_path):
    wild = dataclasses.replace(SMOKE, rate=1e30)
    with pytest.raises(ValueError, match="a loss is not finite from step"):
        training.run(options(faces, tmp_path), wild)
    assert not (tmp_path / "checkpoints").exists()


def test_signals_stop_and_save(faces, tmp_path, monkeypatch):
    compiled = networks.compiled

    def interrupted(*given):
        step = compiled(*given)

        def stepped(state, faces):
            if int(state.images) == 80:
                signal.raise_signal(signal.SIGTERM)
            return step(state, faces)

        return stepped

    monkeypatch.setattr(networks, "compiled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.run(options(faces, tmp_path), SMOKE)
    assert saved(tmp_path)[".images"] == 88
    assert (tmp_path / "export" / "model.json").exists()


def test_presets_are_flags():
    assert cli.chosen_preset(["--preset=smoke", "--model=fader"], "label64") == "smoke"
    assert cli.chosen_preset(["--model=fader"], "label64") == "label64"
    command = functools.partial(cli.preset_flags, training.Run, training.PRESETS)
    fields = {field.name: field.default for field in dataclasses.fields(command("label128"))}
    assert fields["size"] == 128
    assert fields["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="no preset 'faces'; there are label128, label64, smoke"):
        command("faces")
