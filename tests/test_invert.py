"""Inversion: recovery, independence of images, devices and chunks, NaN, spaces, noise."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fxjax import losses, sharding
from fxjax.codes import invert as core
from fxjax.codes.invert import (
    Inversion,
    Settings,
    advance,
    begin,
    best_random,
    codes_of,
    invert,
    mean_codes,
    part,
    run,
)
from fxjax.nn import generator as gen
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16


def network(kind: Any, size: int = 16, width: int = 16) -> Any:
    """A random generator whose pictures lie about in [-1, 1] and whose mean w is right."""
    widths = (width,) * (size.bit_length() - 2)
    model = kind(size, widths, dim=32, latent=32, mapping_layers=2, rngs=nnx.Rngs(0))
    w = model.mapping(jax.random.normal(jax.random.key(1), (512, 32)))
    model.w_mean[...] = w.mean(axis=0)
    pictures = gen.synthesize(
        model, gen.codes(model, jax.random.normal(jax.random.key(2), (8, 32)))
    )
    scale = 0.5 / float(jnp.std(pictures))
    if kind is StyleGAN1:
        outputs = [model.to_rgb[-1]]
    else:
        outputs = [row.to_rgb.conv for row in model.rows if row.to_rgb is not None]
    for layer in outputs:
        layer.kernel[...] = layer.kernel[...] * scale
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return network(StyleGAN2)


@pytest.fixture(scope="module")
def loss() -> Any:
    options = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "bgr": False}
    features = VGG16((8, 8), **options, rngs=nnx.Rngs(0))
    perceptual = losses.Perceptual(features, ("block2_conv2",))
    return losses.Sum([losses.Pixels(), perceptual], (1.0, 0.1))


def targets(model: Any, count: int = 4) -> jax.Array:
    z = jax.random.normal(jax.random.key(5), (count, 32))
    return gen.synthesize(model, gen.codes(model, z))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    return 10 * jnp.log10(4 / jnp.mean(jnp.square(a - b), axis=(1, 2, 3)))


SHORT = Settings(steps=12)


@pytest.fixture(scope="module")
def short(model: Any, loss: Any) -> Inversion:
    return invert(model, loss, targets(model), mean_codes(model, 4), SHORT)


@pytest.mark.parametrize("size", [16, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [StyleGAN1, StyleGAN2])
def test_recovers_codes(kind: Any, size: int) -> None:
    """At least 35 dB on average within 500 steps; random weights have many local minima."""
    model, pixels = network(kind, size), losses.Pixels()
    wanted = targets(model)
    start = best_random(model, pixels, pixels.embed(wanted), jax.random.key(9), 500)
    found = invert(model, pixels, wanted, start, Settings(steps=500, settle=0.3))
    assert found.losses.shape == (4, 500)
    assert float(jnp.mean(psnr(gen.synthesize(model, found.code), wanted))) >= 35


def test_an_image_alone_is_the_same_as_in_a_batch(model: Any, loss: Any, short: Inversion) -> None:
    """To rounding, which Adam's first steps enlarge: sums may run in another order."""
    wanted = targets(model)
    alone = invert(model, loss, wanted[2:3], mean_codes(model, 1), SHORT)
    np.testing.assert_allclose(alone.code[0], short.code[2], atol=2e-3)
    turned = invert(model, loss, wanted[::-1], mean_codes(model, 4), SHORT)
    np.testing.assert_allclose(turned.code[::-1], short.code, atol=2e-3)


def test_on_a_cpu_an_image_is_exactly_the_same_in_any_company(
    model: Any, loss: Any, short: Inversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a search of its own; one that is there twice is searched for once."""
    rows, placed = [], core._placed

    def counted(*args: Any) -> Any:
        rows.append(len(args[3]))
        return placed(*args)

    monkeypatch.setattr(core, "_placed", counted)
    chosen = targets(model)[jnp.array([2, 0, 0, 0])]
    found = invert(model, loss, chosen, mean_codes(model, 4), SHORT)
    assert rows == [1, 1]
    np.testing.assert_array_equal(found.code, short.code[np.array([2, 0, 0, 0])])
    np.testing.assert_array_equal(found.losses, short.losses[np.array([2, 0, 0, 0])])
    alone = invert(model, loss, chosen[:1], mean_codes(model, 1), SHORT)
    np.testing.assert_array_equal(alone.code[0], found.code[0])


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_sharding_changes_nothing(model: Any, loss: Any, short: Inversion, devices: int) -> None:
    mesh = sharding.mesh(jax.devices()[:devices])
    wanted, start = sharding.split_batch((targets(model), mean_codes(model, 4)), mesh)
    models = sharding.replicate((model, loss), mesh)
    found = invert(*models, wanted, start, SHORT)
    assert len(found.code.sharding.device_set) == devices
    np.testing.assert_allclose(found.code, short.code, atol=2e-3)


def test_steps_in_two_parts_are_the_same(model: Any, loss: Any, short: Inversion) -> None:
    start, goal = mean_codes(model, 4), loss.embed(targets(model))
    place = begin(model, start, SHORT)
    curves = []
    for _ in range(2):
        place, curve = advance(model, loss, goal, start, place, SHORT, 6)
        curves.append(curve)
    np.testing.assert_allclose(jnp.concatenate(curves, axis=1), short.losses, rtol=1e-3)
    np.testing.assert_allclose(codes_of(place, start, SHORT), short.code, atol=2e-3)


def test_a_search_of_any_steps_is_one_program(model: Any, loss: Any, short: Inversion) -> None:
    """Also with steps over, in which nothing moves, and from where an earlier one was ended."""
    goal, start = loss.embed(targets(model)), mean_codes(model, 4)
    mesh, settings = sharding.mesh(jax.devices()[:2]), Settings(steps=11)
    walk, measure = sharding.replicate((model, loss), mesh)
    seen: list[Any] = []

    def keep(place: Any, curves: np.ndarray) -> None:
        seen.append((jax.tree.map(np.asarray, place), curves))

    program: Any = advance
    before = program._cache_size()
    options: Any = {"every": part(11, 4), "mesh": mesh, "told": keep}
    given: Any = sharding.split_batch((goal, start), mesh)
    place, curves = run(walk, measure, given[0], given[1], settings, **options)
    assert program._cache_size() == before + 1
    assert [each.shape[1] for _, each in seen] == [4, 8, 11]
    assert place.step.tolist() == [11] * 4
    assert not place.stopped.any()
    again, rest = run(walk, measure, given[0], given[1], settings, **options, begun=seen[1])
    assert program._cache_size() == before + 1
    np.testing.assert_array_equal(rest, curves)
    np.testing.assert_array_equal(again.moving["styles"], place.moving["styles"])
    whole = invert(model, loss, targets(model), start, settings)
    np.testing.assert_allclose(codes_of(place, start, settings), whole.code, atol=2e-3)


def test_parts_leave_next_to_nothing_over() -> None:
    assert [part(steps, 25) for steps in (1, 25, 26, 60, 61, 500)] == [1, 25, 13, 20, 21, 25]


def test_inverting_again_compiles_nothing(model: Any, loss: Any, short: Inversion) -> None:
    programs: list[str] = []
    wanted, start = targets(model), mean_codes(model, 4)
    invert(model, loss, wanted, start, SHORT)
    listen: Any = lambda name, *_, **__: programs.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        invert(model, loss, wanted, start, SHORT)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in programs if "compile" in name]


def test_a_nan_stops_one_image_and_no_other(model: Any, loss: Any, short: Inversion) -> None:
    wanted = targets(model).at[1].set(jnp.nan)
    found = invert(model, loss, wanted, mean_codes(model, 4), SHORT)
    np.testing.assert_array_equal(found.code[1], mean_codes(model, 1)[0])
    assert bool(jnp.all(jnp.isnan(found.losses[1])))
    keep = jnp.array([0, 2, 3])
    np.testing.assert_allclose(found.code[keep], short.code[keep], atol=2e-3)


def test_enough_stops_early(model: Any, loss: Any, short: Inversion) -> None:
    bar = float(short.losses[0, 6])
    found = invert(
        model, loss, targets(model), mean_codes(model, 4), Settings(steps=12, enough=bar)
    )
    curve = np.asarray(found.losses[0])
    assert curve.min() < bar
    assert np.ptp(curve[int(np.argmax(curve < bar)) :]) == 0  # it stays where it is


def test_spaces(model: Any, loss: Any) -> None:
    start, wanted = mean_codes(model, 2), targets(model, 2)
    one = invert(model, loss, wanted, start, Settings(steps=4, space="w")).code
    np.testing.assert_array_equal(one, jnp.repeat(one[:, :1], one.shape[1], axis=1))
    assert not np.allclose(one, start)
    few = invert(model, loss, wanted, start, Settings(steps=4, space=2)).code
    np.testing.assert_array_equal(few[:, 2:], start[:, 2:])
    assert not np.allclose(few[:, :2], start[:, :2])
    with pytest.raises(ValueError, match="rows up to 6"):
        begin(model, start, Settings(steps=4, space=9))


def test_pull_keeps_codes_near_the_mean(model: Any, loss: Any) -> None:
    start, wanted = mean_codes(model, 2), targets(model, 2)
    free = invert(model, loss, wanted, start, Settings(steps=20)).code
    held = invert(model, loss, wanted, start, Settings(steps=20, pull=10.0)).code
    assert float(jnp.std(held - start)) < 0.7 * float(jnp.std(free - start))


@pytest.mark.parametrize("name", ["sgd", "lbfgs", "own"])
def test_optimizers(model: Any, loss: Any, name: Any) -> None:
    rates = {"sgd": 0.5, "lbfgs": 0.0, "own": 0.0}
    optimizer = optax.adam(0.03) if name == "own" else name
    settings = Settings(steps=10, optimizer=optimizer, rate=rates[name])
    found = invert(model, loss, targets(model, 2), mean_codes(model, 2), settings)
    assert bool(jnp.all(found.losses[:, -1] < found.losses[:, 0]))


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_lbfgs_loops_on_each_device_alone(model: Any, loss: Any, devices: int) -> None:
    """With no word between the devices, and the codes of one device."""
    settings, wanted = Settings(steps=6, optimizer="lbfgs"), targets(model)
    alone = invert(model, loss, wanted, mean_codes(model, 4), settings)
    mesh = sharding.mesh(jax.devices()[:devices])
    models = sharding.replicate((model, loss), mesh)
    goal, start = sharding.split_batch((loss.embed(wanted), mean_codes(model, 4)), mesh)
    place = sharding.split_batch(begin(model, start, settings), mesh)
    program = advance.lower(*models, goal, start, place, settings, 6, mesh=mesh).compile()
    text = program.as_text()
    assert text is not None
    assert text.count("while(") >= 2  # the steps', and the line search's
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute", text)
    place, losses = program(*models, goal, start, place)
    assert len(place.moving["styles"].sharding.device_set) == devices
    np.testing.assert_allclose(losses, alone.losses, rtol=2e-3)
    np.testing.assert_allclose(codes_of(place, start, settings), alone.code, atol=2e-3)


def test_noise_moves_only_if_asked(loss: Any) -> None:
    model = network(StyleGAN2)
    for row in model.rows:
        if row.conv is not None:
            row.conv.strength[...] = jnp.asarray(0.1)
    start, goal = mean_codes(model, 1), loss.embed(targets(model, 1))
    settings = Settings(steps=3, noise_pull=1.0)
    place, _ = advance(model, loss, goal, start, begin(model, start, settings), settings, 3)
    noises = place.moving["noise"]
    assert len(noises) == 5
    for noise in noises:
        np.testing.assert_allclose(jnp.std(noise), 1.0, rtol=1e-3)
    assert begin(model, start, SHORT).moving["noise"] is None


def test_recomputing_rows_changes_nothing(model: Any, loss: Any, short: Inversion) -> None:
    settings = Settings(steps=12, remat=True)
    found = invert(model, loss, targets(model), mean_codes(model, 4), settings)
    np.testing.assert_allclose(found.code, short.code, atol=2e-3)


def test_best_random_start_is_no_worse_than_the_mean(model: Any, loss: Any) -> None:
    goal = loss.embed(targets(model))
    start = best_random(model, loss, goal, jax.random.key(0), 20)
    near, far = (
        loss.distance(loss.embed(gen.synthesize(model, codes)), goal)
        for codes in (start, mean_codes(model, 4))
    )
    assert bool(jnp.all(near <= far + 1e-6))
    assert bool(jnp.any(near < far))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(model: Any, loss: Any, platform: str) -> None:
    """The whole program, with nothing that calls back to the host and no grouped convolution."""
    start, goal = mean_codes(model, 2), loss.embed(targets(model, 2))
    place = begin(model, start, SHORT)
    graph, state = nnx.split((model, loss))

    def program(state: Any, goal: Any, start: Any, place: Any) -> Any:
        return advance(*nnx.merge(graph, state), goal, start, place, SHORT, 3)

    lowered = (
        jax.jit(program).trace(state, goal, start, place).lower(lowering_platforms=(platform,))
    )
    text = lowered.as_text()
    assert "callback" not in text
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}
    assert set(re.findall(r"batch_group_count = (\d+)", text)) == {"1"}
