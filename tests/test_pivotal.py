"""Pivotal tuning: what moves, how far, independence of batches, files, and programs."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax import losses, sharding
from fxjax.checkpoint import flatten
from fxjax.codes import invert, pivotal
from fxjax.nn.generator import synthesize
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16

SHORT = pivotal.Settings(steps=20, rate=3e-3)


def network(kind: Any) -> Any:
    return kind(16, (8, 8, 8), dim=16, latent=16, mapping_layers=2, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model() -> Any:
    return network(StyleGAN2)


@pytest.fixture(scope="module")
def loss() -> Any:
    options = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "bgr": False}
    features = VGG16((8, 8), **options, rngs=nnx.Rngs(0))
    perceptual = losses.Perceptual(features, ("block2_conv2",))
    return losses.Sum([losses.Pixels(), perceptual], (1.0, 0.1))


@pytest.fixture(scope="module")
def targets() -> jax.Array:
    """Pictures that no code draws: smooth, and unlike random weights' ones."""
    return jnp.tanh(jax.image.resize(jax.random.normal(jax.random.key(3), (3, 4, 4, 3)),
                                     (3, 16, 16, 3), "cubic"))  # fmt: skip


@pytest.fixture(scope="module")
def codes(model: Any) -> jax.Array:
    shape = (3, len(model.rows), model.dim)
    return jax.random.normal(jax.random.key(4), shape) * 0.3


@pytest.fixture(scope="module")
def tuning(model: Any, loss: Any, targets: Any, codes: Any) -> pivotal.Tuning:
    return pivotal.tune(model, loss, loss.embed(targets), codes, SHORT)


def of(tuning: pivotal.Tuning, index: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(array[index]) for name, array in tuning.differences.items()}


def drawn(model: Any, tuning: pivotal.Tuning, codes: jax.Array) -> jax.Array:
    return pivotal.pictures(model, codes, tuning.differences)


@pytest.mark.parametrize("kind", [StyleGAN1, StyleGAN2])
def test_synthesis_weights_come_to_draw_the_target(kind, loss, targets, codes):
    model = network(kind)
    settings = pivotal.Settings(steps=60, rate=1e-2)
    found = pivotal.tune(model, loss, loss.embed(targets[:1]), codes[:1], settings)
    square = lambda images: float(jnp.mean(jnp.square(images - targets[:1])))
    assert square(drawn(model, found, codes[:1])) < 0.2 * square(synthesize(model, codes[:1]))
    moved = flatten(pivotal.apply(model, of(found, 0)))
    for name, before in flatten(model).items():
        param = not name.startswith(("mapping", "w_mean")) and not name.endswith("noise")
        assert param == (name in found.differences), name
        # A strength or a style of a dead channel may have no gradient; kernels all have one.
        if not param or name.endswith("conv/kernel"):
            assert param == (not np.array_equal(moved[name], before)), name


def test_the_first_step_is_the_rate_at_the_equalised_learning_rate(model, loss, targets, codes):
    settings = pivotal.Settings(steps=1, rate=1e-3)
    found = pivotal.tune(model, loss, loss.embed(targets[:1]), codes[:1], settings)
    steps = of(found, 0)
    kernel = np.abs(steps["rows/2/conv/conv/kernel"].astype(float))
    np.testing.assert_allclose(kernel.max(), 1e-3 / np.sqrt(9 * 8), rtol=1e-2)
    np.testing.assert_allclose(np.median(kernel), kernel.max(), rtol=1e-2)
    np.testing.assert_allclose(np.abs(steps["const"]).max(), 1e-3, rtol=1e-2)


def test_progress_is_told_over_all_pictures(model, loss, targets, codes):
    told: list[float] = []
    settings = pivotal.Settings(steps=3, rate=1e-3)
    pivotal.tune(model, loss, loss.embed(targets[:2]), codes[:2], settings, told=told.append)
    np.testing.assert_allclose(told, np.arange(1, 7) / 6)


def test_steps_in_one_program_or_in_several_are_the_same(model, loss, targets, codes, monkeypatch):
    one = pivotal.tune(model, loss, loss.embed(targets[:1]), codes[:1], SHORT)
    monkeypatch.setattr(pivotal, "PARTS", {})
    monkeypatch.setattr(pivotal, "PART", 8)  # the last part is shorter
    other = pivotal.tune(model, loss, loss.embed(targets[:1]), codes[:1], SHORT)
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-4)
    first, second = (drawn(model, each, codes[:1]) for each in (one, other))
    np.testing.assert_allclose(second, first, atol=1e-3)


def test_a_picture_does_not_depend_on_its_batch(model, loss, targets, codes, tuning):
    """To rounding, which Adam's first steps enlarge."""
    alone = pivotal.tune(model, loss, loss.embed(targets[1:2]), codes[1:2], SHORT)
    np.testing.assert_allclose(alone.losses[0], tuning.losses[1], rtol=1e-3)
    for name, array in of(alone, 0).items():
        np.testing.assert_allclose(array, of(tuning, 1)[name], atol=2e-3, err_msg=name)


def test_devices_change_nothing(model, loss, targets, codes, tuning):
    mesh = sharding.mesh(jax.devices()[:3])
    models = sharding.replicate((model, loss), mesh)
    goal, split = sharding.split_batch((loss.embed(targets), codes), mesh)
    found = pivotal.tune(*models, goal, split, SHORT, mesh=mesh)
    pictures = pivotal.pictures(models[0], split, found.differences, mesh=mesh)
    assert len(pictures.sharding.device_set) == 3
    with pytest.raises(ValueError, match="2 codes on 3 devices"):
        pivotal.pictures(models[0], codes[:2], found.differences, mesh=mesh)
    np.testing.assert_allclose(found.losses, tuning.losses, rtol=1e-3)
    np.testing.assert_allclose(pictures, drawn(model, tuning, codes), atol=5e-3)
    place = pivotal._begin(models[0], split, mesh=mesh)
    steps = pivotal.advance.lower(*models, goal, split, None, place, SHORT, 5, mesh=mesh)
    text = steps.compile().as_text() or ""
    assert "while" in text
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective", text)


def test_a_nan_stops_one_picture_and_no_other(model, loss, targets, codes, tuning):
    goal = loss.embed(targets.at[1].set(jnp.nan))
    found = pivotal.tune(model, loss, goal, codes, SHORT)
    assert not any(array.any() for array in of(found, 1).values())
    assert bool(jnp.isnan(found.losses[1]).all())
    np.testing.assert_array_equal(found.losses[::2], tuning.losses[::2])


def test_locality_keeps_other_faces(model, loss, targets, codes, tuning):
    settings = pivotal.Settings(steps=20, rate=3e-3, locality=3.0, reach=2.0)
    held = pivotal.tune(model, loss, loss.embed(targets[:1]), codes[:1], settings)
    key = jax.random.key(7)
    others = codes[:1] + 0.5 * jax.random.normal(key, (8, *codes.shape[1:]))
    before = synthesize(model, others)

    def change(found: pivotal.Tuning) -> float:
        after = synthesize(pivotal.apply(model, of(found, 0)), others)
        return float(jnp.mean(jnp.square(after - before)))

    assert change(held) < 0.7 * change(tuning)
    assert float(jnp.mean(jnp.square(drawn(model, held, codes[:1]) - targets[:1]))) < float(
        jnp.mean(jnp.square(synthesize(model, codes[:1]) - targets[:1]))
    )


def test_own_noise_images_are_drawn_with(loss, targets, codes):
    model = network(StyleGAN2)
    for row in model.rows:
        if row.conv is not None:
            row.conv.strength[...] = jnp.asarray(0.1)
    noise = [
        jax.random.normal(jax.random.key(i), (2, *leaf.shape))
        for i, leaf in enumerate(jax.tree.leaves(nnx.state(model, invert.Noise)))
    ]
    settings = pivotal.Settings(steps=1, rate=0.0)
    goal = loss.embed(targets[:2])
    found = pivotal.tune(model, loss, goal, codes[:2], settings, noise=noise)
    wanted = synthesize(invert.with_noise(model, noise), codes[:2])
    pictures = pivotal.pictures(model, codes[:2], found.differences, noise=noise)
    np.testing.assert_allclose(pictures, wanted, atol=1e-4)
    assert float(jnp.abs(wanted - synthesize(model, codes[:2])).max()) > 0.01


def test_files_draw_the_same_again(model, tuning, codes, tmp_path):
    path = tmp_path / "deep" / "face.npz"
    pivotal.save(path, of(tuning, 0), np.asarray(codes[0]), "ab12", {"psnr": 30.5})
    again = pivotal.tuned(model, path, sha256="ab12")
    np.testing.assert_allclose(
        synthesize(again, codes[:1])[0], drawn(model, tuning, codes)[0], atol=1e-5
    )
    old = pivotal.load(path)
    assert (old.generator_sha256, old.facts) == ("ab12", {"psnr": 30.5})
    np.testing.assert_array_equal(old.code, codes[0])
    weights = sum(array.size for array in old.differences.values())
    assert path.stat().st_size < 2 * weights + 300 * len(old.differences) + 2000
    assert {array.dtype for array in old.differences.values()} == {np.dtype(np.float16)}


def test_files_that_do_not_fit_are_refused(model, tuning, codes, tmp_path):
    path = tmp_path / "face.npz"
    pivotal.save(path, of(tuning, 0), np.asarray(codes[0]), "ab12", {})
    with pytest.raises(ValueError, match=r"face\.npz was made with generator ab12, not cd34"):
        pivotal.tuned(model, path, sha256="cd34")
    with pytest.raises(ValueError, match=r"differences are not .*: \d+ do not fit, such as "):
        pivotal.tuned(network(StyleGAN1), path)
    with pytest.raises(FileNotFoundError, match="no tuned weights at"):
        pivotal.load(tmp_path / "none.npz")
    for data in (b"", b"PK\x03\x04 nothing", json.dumps({}).encode()):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^\S+face\.npz holds no tuned weights: [^\n]+$"):
            pivotal.load(path)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(model, loss, targets, codes, platform):
    """Nothing calls back to the host, and one picture at a time leaves convolutions whole."""
    goal = loss.embed(targets)
    graph, state = nnx.split((model, loss))

    place = pivotal._begin(model, codes[:1], mesh=None)

    def program(state: Any, goal: Any, codes: Any, place: Any) -> Any:
        return pivotal.advance(*nnx.merge(graph, state), goal, codes, None, place, SHORT, 5)

    one = jax.tree.map(lambda a: a[:1], (goal, codes))
    traced = jax.jit(program).trace(state, *one, place)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}
    assert set(re.findall(r"batch_group_count = (\d+)", text)) == {"1"}
