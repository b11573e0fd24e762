"""Networks that grow: the enlarged old picture is the new one, and what does not fit is refused."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxjax import checkpoint, cli
from fxjax.nn import ops
from fxjax.nn.generator import synthesize
from fxjax.nn.stylegan2 import StyleGAN2Discriminator
from fxjax.training import gan_run, gan_state

RANDOM = np.random.default_rng(0)
SMALL = gan_state.GanSettings(
    resolution=16, width_base=256, width_most=24, dim=12, dtype="float32", batch=8, kimg=1.0
)
LARGE = dataclasses.replace(SMALL, resolution=32)


def shaken(module):
    """The same module with all its weights moved, biases and strengths too."""
    flat = checkpoint.flatten(module)
    moved = {name: a + 0.2 * RANDOM.normal(size=a.shape) for name, a in flat.items()}
    return checkpoint.fill(module, {n: jnp.asarray(a, jnp.float32) for n, a in moved.items()})


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """What a run of 16 px exports."""
    folder = tmp_path_factory.mktemp("small")
    made, judge = gan_state.networks(SMALL)
    state = gan_state.begin(SMALL, shaken(made), shaken(judge))
    state = state._replace(
        images=jnp.int32(5000), strength=jnp.float32(0.3), path_mean=jnp.float32(0.7)
    )
    gan_state.export(folder, SMALL, state, {})
    return folder / "export"


def start(export, settings=LARGE):
    return gan_state.start_from(export, gan_state.discriminator_of(export), settings)


def codes(settings, rows):
    return jnp.asarray(RANDOM.normal(size=(3, rows, settings.dim)), jnp.float32)


def test_the_first_picture_is_the_enlarged_old_one(export):
    small, state = start(export, SMALL), start(export)
    wide = codes(LARGE, len(state.generator.rows))
    old = synthesize(small.generator, wide[:, : len(small.generator.rows)])
    assert float(jnp.std(old)) > 0.1
    for large in (state.generator, state.average):
        np.testing.assert_array_equal(
            synthesize(large, wide), ops.fir_up(old, (1.0, 3.0, 3.0, 1.0))
        )
    assert state.generator.resolution == 32
    assert len(state.generator.rows) == len(small.generator.rows) + 2


def test_the_first_score_is_that_of_the_halved_picture(export):
    small, state = start(export, SMALL), start(export)
    pictures = jnp.asarray(RANDOM.uniform(-1, 1, (8, 32, 32, 3)), jnp.float32)
    wanted = small.discriminator(ops.fir_down(pictures, (1.0, 3.0, 3.0, 1.0)))
    found = state.discriminator(pictures)
    assert float(jnp.std(wanted)) > 0.01
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(jnp.std(wanted)))


def test_counts_go_on_but_path_lengths_start_anew(export):
    state = start(export)
    assert int(state.images) == 5000
    assert float(state.strength) == pytest.approx(0.3)
    assert float(state.path_mean) == 0
    assert float(start(export, SMALL).path_mean) == pytest.approx(0.7)


def test_every_new_layer_learns(export):
    """Zeros at the start let slopes through to what is new: no weight is stuck."""
    state = start(export)
    wide = codes(LARGE, len(state.generator.rows))
    judged = lambda generator: jnp.mean(state.discriminator(synthesize(generator, wide)))
    slopes = checkpoint.flatten(jax.jit(jax.grad(judged))(state.generator))
    last = len(state.generator.rows) - 1
    assert float(jnp.abs(slopes[f"rows/{last}/to_rgb/conv/kernel"]).max()) > 0
    pictures = jnp.asarray(RANDOM.uniform(-1, 1, (8, 32, 32, 3)), jnp.float32)
    score = lambda judge: jnp.sum(jnp.square(judge(pictures)))
    slopes = checkpoint.flatten(jax.jit(jax.grad(score))(state.discriminator))
    for name in ("from_rgb/kernel", "blocks/2/conv/kernel", "blocks/2/down/kernel",
                 "blocks/2/skip/kernel"):  # fmt: skip
        assert float(jnp.abs(slopes[name]).max()) > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resolution": 64},
            r"is of 16 px; training at 64 px goes on from 64 px or grows from 32 px: "
            r"give --resolution=16 or 32",
        ),
        ({"resolution": 8}, "is of 16 px; training at 8 px goes on from 8 px or grows from 4 px"),
        ({"width_most": 16}, r"has widths \[24, 24, 16\] instead of \[16, 16, 16\]"),
        ({"dim": 16}, "has dim 12 instead of 16, latent 12 instead of 16"),
        ({"width_base": 128}, r"widths \[24, 24, 16\] instead of \[24, 16, 8\]"),
    ],
)
def test_exports_that_do_not_fit_are_refused(export, changes, message):
    with pytest.raises(ValueError, match=message):
        start(export, dataclasses.replace(LARGE, **changes))


def test_a_narrow_discriminator_says_what_growing_takes():
    thin = dataclasses.replace(SMALL, width_base=64)
    (_, judge), (_, large) = (
        gan_state.networks(dataclasses.replace(thin, resolution=size)) for size in (16, 32)
    )
    with pytest.raises(ValueError, match=r"2 channels at 32 px and growing takes 6; raise --width"):
        gan_state.grown_discriminator(judge, large)


def test_a_discriminator_of_other_widths_is_refused(export, tmp_path):
    other = StyleGAN2Discriminator(16, (24, 24, 8), rngs=gan_state.nnx.Rngs(0))
    with np.load(gan_state.discriminator_of(export)) as packed:
        rest = {name: packed[name] for name in gan_state.COUNTS}
    flat = {f"discriminator/{n}": np.asarray(a) for n, a in checkpoint.flatten(other).items()}
    np.savez(tmp_path / "other.npz", **flat, **rest)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="is no discriminator of these settings") as caught:
        gan_state.start_from(export, tmp_path / "other.npz", LARGE)
    assert "\n" not in str(caught.value)


def test_the_command_grows(export, tmp_path, monkeypatch):
    """`--preset=faces256 --start_from` for a few steps, at a size and with widths for a test."""
    preset = gan_run.PRESETS["faces256"]
    assert preset.resolution == 256
    assert preset.generator()["widths"] == (256, 256, 256, 256, 128, 64, 32)
    for index in range(8):
        picture = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    line = ["train_generator", "--preset=faces256", "--resolution=32"]
    line += [f"--data={tmp_path}", f"--start_from={export}", f"--out={tmp_path}/out"]
    line += ["--width_base=256", "--width_most=24", "--dim=12", "--batch=4", "--kimg=5.008"]
    line += ["--path=0", "--r1=0", "--dtype=float32"]
    monkeypatch.setattr("sys.argv", line)
    cli.launch_run(gan_run.run, gan_run.Run, gan_run.PRESETS, "faces128")
    card = checkpoint.read_card(tmp_path / "out" / "export")
    assert card["images"] == 5008
    assert card["settings"]["batch"] == 4
    assert card["parts"]["generator"]["architecture"]["resolution"] == 32
