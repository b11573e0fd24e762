"""The encoder that is trained here: its network, its training, and searches that start from it."""

import dataclasses
import functools
import pathlib
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainingruns
from expressions import ASTRONAUT
from facemodels import save_models
from flax import nnx

import fxjax
from experiments import train_encoder
from fxjax import Engine, Settings, checkpoint, sharding, zoo
from fxjax.codes import whiten
from fxjax.images import save_image, to_uint8
from fxjax.nn import generator as generators
from fxjax.nn.encoder import SmallEncoder
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import inversion
from fxjax.training import data, encoder, feature_run, gan_state

SMOKE = train_encoder.PRESETS["smoke"]
ROWS, DIM = 6, 16
FRESH = functools.partial(encoder.fresh, SMOKE, ROWS, DIM)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """A small generator whose codes are seen in its pictures, features, and pictures it drew."""
    folder = tmp_path_factory.mktemp("encoder")
    settings = gan_state.GanSettings(
        resolution=16, width_base=128, width_most=16, dim=DIM, dtype="float32", mapping_layers=2
    )
    trainingruns.exported(settings, folder)
    features = VGG16((4, 4, 8), mean=(0, 0, 0), deviation=(1, 1, 1), bgr=False, rngs=nnx.Rngs(0))
    parts = {"features": (feature_run.architecture(features), checkpoint.flatten(features))}
    checkpoint.save_model(folder / "features", "vgg16", parts, {})
    generator = fxjax.load(folder / "export")
    z = jax.random.normal(jax.random.key(3), (20, DIM))
    drawn = generators.synthesize(generator, generators.codes(generator, z))
    for k, picture in enumerate(to_uint8(np.asarray(drawn))):
        save_image(folder / "pictures" / f"{k}.png", picture)
    lines = [f"{k}.png,{float(k > 3)}\n" for k in range(20)]
    (folder / "weights.csv").write_text("filename,training_weight\n" + "".join(lines))
    return folder


def flags(home: pathlib.Path) -> list[str]:
    return [
        f"--data={home / 'pictures'}",
        f"--model={home / 'export'}",
        f"--features={home / 'features'}",
        f"--weights_csv={home / 'weights.csv'}",
    ]


def options(home: pathlib.Path, out: pathlib.Path, **changes: Any) -> train_encoder.Run:
    given = dict(flag[2:].split("=", 1) for flag in flags(home))
    return train_encoder.Run(out=str(out), report_every=10, sample_kimg=0.2, **given, **changes)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> pathlib.Path:
    """A whole run of the preset `smoke`."""
    out = tmp_path_factory.mktemp("whole")
    train_encoder.run(options(home, out), SMOKE)
    return out


def test_training_brings_its_drawings_nearer(whole):
    rows = (whole / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    last = dict(zip(names, rows[-1].split(","), strict=True))
    assert float(last["held_back_loss"]) < 0.9 * float(last["held_back_loss_of_the_mean"])
    assert sorted(path.name for path in (whole / "samples").iterdir()) == [
        "00000200.png", "00000400.png"
    ]  # fmt: skip
    sheet = cv2.imread(str(whole / "samples" / "00000400.png"))
    assert sheet is not None
    assert sheet.shape == (2 * 18 - 2, 4 * 18 - 2, 3)  # the four that are held back, and drawings


def test_the_export_reads_what_the_average_reads(whole, home):
    arrays = trainingruns.saved(whole, SMOKE, FRESH)
    walk = whiten.of(home / "export", fxjax.load(home / "export"))
    made = fxjax.load(whole / "export", part="encoder")
    assert isinstance(made, SmallEncoder)
    own = trainingruns.named(FRESH().average)
    average = jax.tree.unflatten(
        jax.tree.structure(FRESH().average),
        [jnp.asarray(arrays[f".average{name}"]) for name in own],
    )
    pictures = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)), jnp.float32)
    codes = np.asarray(made(pictures))
    assert codes.shape == (3, ROWS, DIM)
    wanted = walk.w(average.dense(average.flat(pictures)))
    np.testing.assert_allclose(codes[:, 0], wanted, rtol=0.02, atol=0.02)  # of float16
    np.testing.assert_array_equal(codes, np.repeat(codes[:, :1], ROWS, axis=1))
    assert np.ptp(codes, axis=0).max() > 0.05
    with pytest.raises(ValueError, match="16 x 8 pixels, this encoder wants 16 x 16"):
        made(pictures[:, :, :8])


def test_a_killed_run_goes_on_bit_for_bit(whole, home, tmp_path):
    out = tmp_path / "killed"
    trainingruns.kill(["experiments.train_encoder", *flags(home), "--report_every=10"], out)
    train_encoder.run(options(home, out), SMOKE)
    one, other = (trainingruns.saved(folder, SMOKE, FRESH) for folder in (whole, out))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_devices_share_a_batch(home):
    """One step on four devices is that on one, but for the order of sums."""
    generator = fxjax.load(home / "export")
    features = fxjax.load(home / "features")
    fixed = encoder.frozen(str(home / "export"), features, generator)
    pictures, _ = data.read_pictures(home / "pictures", 16)
    found = []
    for mesh in (trainingruns.one_device(), sharding.mesh()):
        faces = encoder.Faces(jnp.asarray(pictures), jnp.ones(20))
        placed = sharding.replicate((faces, fixed), mesh)
        state = sharding.replicate(FRESH(), mesh)
        state, metrics = encoder.train_step(SMOKE, mesh, state, *placed)
        found.append(({k: float(v) for k, v in metrics.items()}, sharding.own(state)))
    for name, value in found[0][0].items():
        assert value == pytest.approx(found[1][0][name], rel=1e-4), name
    for name, one, other in trainingruns.pairs(found[0][1].network, found[1][1].network):
        np.testing.assert_allclose(one, other, atol=2e-4, err_msg=name)


def test_what_does_not_fit_is_refused(home, tmp_path):
    for changes, said in (
        ({"size": 12}, "--size=12: want a multiple of 8 for 2 widths"),
        ({"batch": 6}, "--batch=6: want a multiple of 8"),
        ({"dtype": "float16"}, "--dtype=float16: want float32 or bfloat16"),
    ):
        with pytest.raises(ValueError, match=said):
            train_encoder.run(options(home, tmp_path), dataclasses.replace(SMOKE, **changes))
    assert not (tmp_path / "export").exists()


def test_searches_start_at_its_codes(whole, home, tmp_path):
    generator = fxjax.load(home / "export")
    made = zoo.encoder_of(home / "export", str(whole / "export"), generator)
    photos = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), np.uint8)
    codes = np.asarray(made(jnp.asarray(made.prepared(photos))))
    models: Any = None
    found = inversion.starts(models, str(whole / "export"), 0, made, ["a", "b"], None, photos)
    np.testing.assert_allclose(found, codes, atol=1e-5)
    alone = inversion.starts(models, str(whole / "export"), 0, made, ["b"], None, photos[1:])
    np.testing.assert_array_equal(alone[0], found[1])
    card = checkpoint.read_card(home / "export")["parts"]["generator"]["architecture"]
    shape = checkpoint.read_card(whole / "export")["parts"]["encoder"]["architecture"]
    parts = {name: (own, checkpoint.flatten(module)) for name, own, module in (
        ("generator", card, generator), ("encoder", shape, made)
    )}  # fmt: skip
    checkpoint.save_model(tmp_path / "both", "stylegan2", parts, {})
    packed = zoo.encoder_of(tmp_path / "both", "encoder", generator)
    np.testing.assert_array_equal(packed(jnp.asarray(made.prepared(photos))), codes)
    other: Any = fxjax.load("faces")
    with pytest.raises(ValueError, match="6 rows of 16, but the generator wants 12 of 512"):
        zoo.encoder_of("faces", str(whole / "export"), other)


def test_transfers_start_there(tmp_path):
    """At an encoder's codes, from which a first small step leads nowhere; else at the mean."""
    save_models(tmp_path)
    plain = fxjax.load(tmp_path / "model")
    shape = {"rows": len(plain.rows), "dim": plain.dim}
    shape |= {"widths": (4, 4), "squeeze": 2, "size": (16, 16)}
    made = SmallEncoder(**shape, rngs=nnx.Rngs(0))
    made.dense.bias[...] = jnp.asarray(np.random.default_rng(2).normal(size=plain.dim), jnp.float32)
    parts = {"encoder": (shape, checkpoint.flatten(made))}
    checkpoint.save_model(tmp_path / "own", "encoder", parts, {})
    start = str(tmp_path / "own")
    engine = Engine(tmp_path / "model", tmp_path / "vgg", Settings(steps=1, rate=1e-5, start=start))
    (face,) = engine.locate(ASTRONAUT)
    code = np.asarray(engine.encode([face]).code[0])
    wanted = np.asarray(made(jnp.asarray(made.prepared(to_uint8(face.crop.image)[None]))))[0]
    np.testing.assert_allclose(code, wanted, atol=0.02)
    assert np.abs(wanted - np.asarray(plain.w_mean[...])).max() > 1
    with pytest.raises(ValueError, match="start=middle: want mean, encoder"):
        Engine(tmp_path / "model", tmp_path / "vgg", Settings(start="middle"))
    with pytest.raises(ValueError, match=r"start=encoder: .*model has no encoder"):
        Engine(tmp_path / "model", tmp_path / "vgg", Settings(start="encoder"))
