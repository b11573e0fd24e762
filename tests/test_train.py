"""The training objective and step against explicit, slower forms."""

import dataclasses
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trainingruns
from flax import nnx
from processes import run_two
from trainingruns import one_device

import fxjax
from fxjax import checkpoint, cli, sharding
from fxjax.nn import layers
from fxjax.nn.layers import Average, Noise
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.training import gan, gan_run, gan_state, loop

RANDOM = np.random.default_rng(0)
TINY = gan_state.GanSettings(
    resolution=8, width_base=32, width_most=8, dim=8, dtype="float32", batch=8, kimg=1.0,
    r1_every=2, path_every=2, path_kimg=0.0,
)  # fmt: skip


def pictures(count: int, size: int) -> jax.Array:
    return jnp.asarray(RANDOM.uniform(-1, 1, (count, size, size, 3)), jnp.float32)


@pytest.fixture(scope="module")
def nets() -> tuple[StyleGAN2, StyleGAN2Discriminator]:
    return gan_state.networks(TINY)


def test_moves_are_adam_on_equalised_weights(nets):
    """Three steps on the stored weights equal Adam on weights that are scaled at run time."""
    generator, _ = nets
    inputs = {
        name: float(np.prod(array.shape[:-1]))
        for name, array in checkpoint.flatten(generator).items()
    }
    constant = {}
    for name in inputs:
        kind, mapping = name.rsplit("/", 1)[-1], name.startswith("mapping/")
        own = inputs[name] ** -0.5 if kind == "kernel" else 1.0
        constant[name] = own * (0.01 if mapping else 1.0) * (kind not in ("noise", "w_mean"))
    folded = checkpoint.flatten(generator)
    raw = {name: array / constant[name] for name, array in folded.items() if constant[name]}
    adam: Any = optax.adam(0.002, b1=0.0, b2=0.99, eps=1e-8)
    state, module = adam.init(raw), generator
    moments = gan_state.adam(1.0).init(module)
    for _ in range(3):
        slopes = {name: RANDOM.normal(size=a.shape) for name, a in folded.items()}
        slopes = {name: jnp.asarray(slope, jnp.float32) for name, slope in slopes.items()}
        updates, state = adam.update({n: slopes[n] * constant[n] for n in raw}, state, raw)
        raw = {name: array + updates[name] for name, array in raw.items()}
        module, moments = gan_state.moved(
            TINY, module, checkpoint.fill(module, slopes), moments, jnp.float32(0.002), 1.0
        )
    for name, array in checkpoint.flatten(module).items():
        wanted = raw[name] * constant[name] if name in raw else folded[name]
        np.testing.assert_allclose(array, wanted, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(  # the change itself is as good
            array - folded[name], wanted - folded[name], rtol=2e-2, atol=2e-7, err_msg=name
        )


def test_noise_images_and_averages_are_not_trained(nets):
    scales = layers.update_scales(nets[0], 0.01)
    for _, variable in nnx.to_flat_state(nnx.state(scales, (Noise, Average))):
        assert variable.get_value() == 0
    assert scales.const[...] == 1
    assert scales.rows[0].conv.strength[...] == 1


def test_score_pair_keeps_kinds_apart(nets):
    """Scores equal those of each kind alone, though the deviation groups span the batch."""
    real, fake = pictures(8, 8), pictures(8, 8) * 3
    both = gan.score_pair(nets[1], real, fake)
    np.testing.assert_allclose(both[0], nets[1](real), atol=1e-5)
    np.testing.assert_allclose(both[1], nets[1](fake), atol=1e-5)


def test_r1_is_the_squared_jacobian(nets):
    real = pictures(4, 8)
    jacobian = jax.jit(jax.jacrev(nets[1]))(
        real
    )  # of each score to every picture: groups share them
    wanted = np.sum(np.square(np.sum(np.asarray(jacobian), axis=0))) / 4
    assert float(gan.r1_penalty(nets[1], real)) == pytest.approx(wanted, rel=1e-5)
    slopes = jnp.sum(jacobian, axis=0)
    step = 1e-3 * slopes / jnp.linalg.norm(slopes)
    change = float(jnp.sum(nets[1](real + step) - nets[1](real - step)))
    assert change == pytest.approx(2e-3 * float(jnp.linalg.norm(slopes)), rel=2e-2)


def test_path_lengths_are_norms_of_the_jacobian(nets):
    codes = jnp.asarray(RANDOM.normal(size=(3, len(nets[0].rows), 8)), jnp.float32)
    key = jax.random.key(4)
    pull = jax.random.normal(key, (3, 8, 8, 3)) / 8
    found = gan.path_lengths(nets[0], codes, key)
    jacobian = jax.jit(jax.jacrev(lambda codes: gan.synthesize(nets[0], codes)))(codes)
    for i in range(3):
        slopes = np.einsum("hwc,hwcrd->rd", pull[i], jacobian[i, :, :, :, i])
        wanted = np.sqrt(np.mean(np.sum(slopes**2, axis=1)))
        assert float(found[i]) == pytest.approx(wanted, rel=1e-4)


def test_losses_by_hand():
    real, fake = jnp.asarray([0.0, 2.0]), jnp.asarray([-1.0, 1.0])
    log = lambda x: np.log1p(np.exp(x))
    wanted = (log(0) + log(-2)) / 2 + (log(-1) + log(1)) / 2
    assert float(gan.discriminator_loss(real, fake)) == pytest.approx(wanted, rel=1e-6)
    assert float(gan.generator_loss(fake)) == pytest.approx((log(1) + log(-1)) / 2, rel=1e-6)


def test_mixing_swaps_the_later_rows(nets):
    alike = gan.mixed_codes(nets[0], jax.random.key(0), 64, 0.0)
    np.testing.assert_array_equal(alike, jnp.repeat(alike[:, :1], alike.shape[1], axis=1))
    mixed = np.asarray(gan.mixed_codes(nets[0], jax.random.key(0), 256, 1.0))
    changes = np.any(mixed[:, 1:] != mixed[:, :-1], axis=2)
    np.testing.assert_array_equal(changes.sum(axis=1), 1)  # exactly one cut in each
    assert np.all(changes.sum(axis=0) > 20)  # everywhere


def test_average_is_the_explicit_sum(nets):
    value, average = nets[0], nets[0]
    wanted = {name: np.asarray(array) for name, array in checkpoint.flatten(value).items()}
    for i in range(3):
        value = jax.tree.map(lambda a, i=i: a + i + 1, value)
        average = gan.averaged(average, value, 0.75)
        for name, array in checkpoint.flatten(value).items():
            wanted[name] = 0.75 * wanted[name] + 0.25 * np.asarray(array)
    for name, array in checkpoint.flatten(average).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)


def test_rate_falls_to_a_fifth():
    state = gan_state.begin(TINY, *gan_state.networks(TINY))
    rate = lambda images: float(gan_state.rate(TINY, state._replace(images=jnp.int32(images))))
    assert rate(0) == rate(850) == pytest.approx(0.0025)
    assert rate(925) == pytest.approx(0.0025 * 0.6)
    assert rate(1000) == rate(2000) == pytest.approx(0.0005)


def test_pictures_are_drawn_by_weight():
    pixels = np.repeat(np.arange(4, dtype=np.uint8)[:, None, None, None] * 60, 8, 1)
    pixels = np.broadcast_to(pixels, (4, 8, 8, 3))
    settings = dataclasses.replace(TINY, batch=4096, strength=0.0)
    state = gan_state.begin(settings, *gan_state.networks(TINY))
    pictures = gan_state.Data(jnp.asarray(pixels), jnp.asarray([1.0, 0.0, 1 / 6, 1.0]))
    split = jax.sharding.NamedSharding(one_device(), jax.sharding.PartitionSpec("batch"))
    draw = jax.jit(functools.partial(gan._augmented_reals, settings, split))
    real = draw(jax.random.key(0), state, pictures)
    levels = np.rint((np.asarray(real[:, 0, 0, 0], np.float64) + 1) * 127.5e3) / 1e3
    levels, counts = np.unique(levels, return_counts=True)
    np.testing.assert_array_equal(levels, [0, 120, 180])
    np.testing.assert_allclose(counts / 4096, np.asarray([6, 1, 6]) / 13, atol=0.03)


def test_the_first_path_lengths_start_their_mean():
    """From a mean of 0 the penalty would pull all lengths to 0 for thousands of steps."""
    split = jax.sharding.NamedSharding(one_device(), jax.sharding.PartitionSpec("batch"))
    pixels = gan_state.Data(jnp.zeros((1, 8, 8, 3), jnp.uint8), jnp.ones(1))
    step = jax.jit(functools.partial(gan.regularize_generator, TINY, split))
    state, first = step(gan_state.fresh(TINY), pixels)
    assert float(first["path_mean"]) > 0
    codes = gan.mixed_codes(state.generator, jax.random.key(0), 64, 0.9)
    lengths = gan.path_lengths(state.generator, codes, jax.random.key(1))
    np.testing.assert_allclose(first["path_mean"], jnp.mean(lengths), rtol=0.5)
    _, second = step(state, pixels)
    np.testing.assert_allclose(second["path_mean"], first["path_mean"], rtol=0.02)


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="a batch of 6 cannot be split"):
        gan.compiled(dataclasses.replace(TINY, batch=6), one_device(), 8)


# The whole command, on the preset `smoke`.

SMOKE = gan_run.PRESETS["smoke"]


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        color, back = RANDOM.integers(0, 256, (2, 3))
        image = np.full((32, 32, 3), back, np.uint8)
        cv2.circle(image, (16, 16), int(RANDOM.integers(6, 12)), color.tolist(), -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


@pytest.fixture(scope="module")
def once():
    """Lets all runs of this module share their compiled steps: they are of equal shapes."""
    keep: dict[tuple[gan_state.GanSettings, int], gan.Programs] = {}
    compile_steps = gan.compiled

    def compiled(settings, mesh, pictures):
        if (settings, mesh.size) not in keep:
            keep[settings, mesh.size] = compile_steps(settings, mesh, pictures)
        return keep[settings, mesh.size]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan, "compiled", compiled)
        yield


def options(data: pathlib.Path, out: pathlib.Path, **changes) -> gan_run.Run:
    quiet = {"report_every": 10, "sample_kimg": 0.2}
    return gan_run.Run(data=str(data), out=str(out), **(quiet | changes))


@pytest.fixture(scope="module")
def whole_run(pictures_folder, once, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("whole")
    gan_run.run(options(pictures_folder, out), SMOKE)
    return out


def saved(out: pathlib.Path) -> dict[str, np.ndarray]:
    return trainingruns.saved(out, SMOKE, lambda: gan_state.fresh(SMOKE))


def test_smoke_trains(whole_run):
    arrays = saved(whole_run)
    assert arrays[".images"] == 400
    assert arrays[".broken"] == -1
    start = trainingruns.named(gan_state.fresh(SMOKE))
    moved = [
        np.abs(arrays[name] - array).max()
        for name, array in start.items()
        if name.endswith("kernel.value")
    ]
    assert len(moved) > 30
    assert min(moved) > 0
    rows = (whole_run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 5
    names = rows[0].split(",")
    assert {"images", "loss_generator", "loss_discriminator", "strength", "r1"} <= set(names)
    for row in rows[1:]:
        values = dict(zip(names, row.split(","), strict=True))
        assert all(np.isfinite(float(value)) for value in values.values() if value)
    assert sorted(p.name for p in (whole_run / "samples").iterdir()) == [
        "00000200.png", "00000400.png"
    ]  # fmt: skip
    sheet = cv2.imread(str(whole_run / "samples" / "00000400.png"))
    assert sheet is not None
    assert sheet.shape == (8 * 18 - 2, 8 * 18 - 2, 3)


def test_export_is_the_average_and_goes_on(whole_run, pictures_folder, once, tmp_path):
    generator = fxjax.load(whole_run / "export")
    arrays = saved(whole_run)
    kept = checkpoint.flatten(generator)
    average = {k: v for k, v in arrays.items() if k.startswith(".average")}
    np.testing.assert_allclose(
        kept["const"], next(v for k, v in average.items() if "const" in k), rtol=1e-3, atol=1e-6
    )
    z = jax.random.normal(jax.random.key(9), (4096, SMOKE.dim))
    w = np.asarray(generator.mapping(z))
    np.testing.assert_allclose(generator.w_mean[...], w.mean(axis=0), atol=0.1 * w.std())
    packed = np.load(whole_run / "training" / "discriminator.npz", allow_pickle=False)
    assert packed["discriminator/score/kernel"].dtype == np.float16
    assert packed["images"] == 400
    state = gan_state.start_from(
        whole_run / "export", whole_run / "training" / "discriminator.npz", SMOKE
    )
    assert int(state.images) == 400
    assert float(state.strength) == arrays[".strength"]
    assert float(state.path_mean) == arrays[".path_mean"] > 0
    assert not np.any(state.generator.w_mean[...])
    longer = dataclasses.replace(SMOKE, kimg=0.408)
    again = options(pictures_folder, tmp_path / "b", start_from=str(whole_run / "export"))
    with pytest.MonkeyPatch.context() as patch:
        steps = gan.compiled(SMOKE, sharding.mesh(), 24)
        patch.setattr(gan, "compiled", lambda *_: steps)
        gan_run.run(again, longer)
    assert (tmp_path / "b" / "checkpoints" / "0000000408").exists()


def test_killed_run_goes_on_bit_for_bit(whole_run, pictures_folder, once, tmp_path):
    """SIGKILL in the middle, then the same command: every array equals the unbroken run's."""
    out = tmp_path / "killed"
    trainingruns.kill(["experiments.train_generator", f"--data={pictures_folder}"], out)
    gan_run.run(options(pictures_folder, out), SMOKE)
    for name, array, wanted in trainingruns.pairs(saved(out), saved(whole_run)):
        np.testing.assert_array_equal(array, wanted, err_msg=name)


def test_four_devices_are_one_device(once):
    """Three steps with both penalties, split over four devices and whole."""
    pixels = RANDOM.integers(0, 256, (24, 16, 16, 3), np.uint8)
    ends = []
    for mesh in (one_device(), sharding.mesh()):
        weights = np.linspace(0, 1, 24, dtype=np.float32)
        pictures = sharding.replicate(gan_state.Data(pixels, weights), mesh)  # pyright: ignore
        state = sharding.replicate(gan_state.fresh(SMOKE), mesh)
        programs = gan.compiled(SMOKE, mesh, 24)
        assert programs.regularize_discriminator is not None
        assert programs.regularize_generator is not None
        for _ in range(3):
            state, metrics = programs.step(state, pictures)
            state, _ = programs.regularize_discriminator(state, pictures)
            state, _ = programs.regularize_generator(state, pictures)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, metrics)))
        assert int(state.images) == 24
        ends.append(jax.tree.map(np.asarray, (state, metrics)))
    for path, one, four in trainingruns.pairs(*ends):
        # Adam divides a weight's slope by its size, so where that is nearly 0 rounding shows.
        np.testing.assert_allclose(four, one, rtol=2e-3, atol=2e-4, err_msg=path)


def test_stop_signal_saves_first(pictures_folder, once, tmp_path, monkeypatch):
    draw = gan_run._draw
    monkeypatch.setattr(
        gan_run, "_draw", lambda *given: (draw(*given), os.kill(os.getpid(), signal.SIGTERM))[0]
    )
    with pytest.raises(KeyboardInterrupt):
        gan_run.run(options(pictures_folder, tmp_path / "a"), SMOKE)
    (stopped,) = (tmp_path / "a" / "checkpoints").iterdir()
    assert stopped.name == "0000000200"
    assert (tmp_path / "a" / "export" / "model.json").exists()


@pytest.mark.slow
def test_two_processes_stop_when_one_is_told_to(pictures_folder, tmp_path, root):
    out = tmp_path / "two"
    command = [sys.executable, "-m", "experiments.train_generator", f"--data={pictures_folder}"]
    command += [
        "--preset=smoke",
        "--resolution=8",
        "--kimg=200",
        f"--out={out}",
        "--sample_kimg=.1",
    ]

    def stop_the_other(processes):
        deadline = time.monotonic() + 200
        while not list(out.glob("samples/*.png")) and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), "a process ended"
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)

    statuses, texts = run_two(command, root, seconds=100, meanwhile=stop_the_other)
    assert statuses == [130, 130], "\n".join(texts)
    (stopped,) = (out / "checkpoints").iterdir()
    assert 100 <= int(stopped.name) < 200_000
    assert f"stopped after {int(stopped.name)} images" in texts[0]
    assert (out / "export" / "model.json").exists()


def test_an_older_discriminator_is_refused(whole_run, tmp_path):
    with np.load(whole_run / "training" / "discriminator.npz") as packed:
        older = dict(packed) | {"images": np.int32(200)}
    np.savez(tmp_path / "older.npz", **older)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"saw 200 pictures and the generator .* 400: they are"):
        gan_state.start_from(whole_run / "export", tmp_path / "older.npz", SMOKE)


def test_broken_loss_stops_and_keeps_the_good(whole_run, pictures_folder, once, tmp_path):
    out = tmp_path / "broken"
    shutil.copytree(whole_run / "checkpoints", out / "checkpoints")
    state = gan_state.fresh(SMOKE)
    state.generator.const[...] = jnp.full_like(state.generator.const[...], jnp.nan)
    state = state._replace(images=jnp.int32(160))
    shutil.rmtree(out / "checkpoints" / "0000000400")
    loop.save_checkpoint(out / "checkpoints", SMOKE, state)
    with pytest.raises(ValueError, match=r"not finite from step 21 \(image 168\)"):
        gan_run.run(options(pictures_folder, out), SMOKE)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["0000000160"]


def test_another_runs_checkpoint_is_refused(whole_run, pictures_folder):
    other = dataclasses.replace(SMOKE, r1=7.0)
    with pytest.raises(ValueError, match=r"was trained with r1 0\.3 instead of 7\.0"):
        gan_run.run(options(pictures_folder, whole_run), other)
    wider = dataclasses.replace(SMOKE, width_most=8)
    with pytest.raises(ValueError, match="width_most 16 instead of 8"):
        gan_run.run(options(pictures_folder, whole_run), wider)


def test_fewer_pictures_than_the_batch(pictures_folder, tmp_path):
    with pytest.raises(ValueError, match=r"has 24 pictures to train on .* batch of 32"):
        gan_run.run(options(pictures_folder, tmp_path), dataclasses.replace(SMOKE, batch=32))


def test_bad_command_lines_end_in_one_line(tmp_path, root):
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["--preset=faces32", "--data=a", "--out=b"], "no preset 'faces32'"),
        (
            ["--preset=smoke", f"--data={tmp_path / 'empty'}", f"--out={tmp_path / 'b'}"],
            "no pictures",
        ),
    ]:
        line = [sys.executable, "-m", "experiments.train_generator", *arguments]
        done = subprocess.run(line, cwd=root, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "b").exists()


def test_presets_set_the_flags():
    chosen = functools.partial(cli.chosen_preset, default="faces128")
    assert chosen(["--out=a", "--preset", "faces64"]) == "faces64"
    assert chosen(["--preset=smoke"]) == "smoke"
    assert chosen([]) == "faces128"
    for name, preset in gan_run.PRESETS.items():
        flags = cli.preset_flags(gan_run.Run, gan_run.PRESETS, name)
        defaults = {f.name: f.default for f in dataclasses.fields(flags)}
        assert defaults["preset"] == name
        assert dataclasses.asdict(preset).items() <= defaults.items()
