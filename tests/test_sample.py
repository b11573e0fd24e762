"""Pictures from the command line, on a small generator with random weights."""

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import sample
from experiments.sample import Config
from fxjax.checkpoint import flatten, save_model
from fxjax.codes import seeds
from fxjax.images import load_image, to_uint8
from fxjax.nn.generator import codes, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16


def make(labels: int = 0) -> tuple[dict, Any]:
    """A generator whose noise, average and labels all matter."""
    architecture = {
        "resolution": 16,
        "widths": (16, 16, 16),
        "dim": 32,
        "latent": 32,
        "mapping_layers": 2,
        "labels": labels,
    }
    generator = StyleGAN2(**architecture, rngs=nnx.Rngs(0))
    generator.w_mean[...] = jax.random.normal(jax.random.key(1), (32,))
    for row in generator.rows:
        if row.conv is not None:
            row.conv.strength[...] += 0.5
    return architecture, generator


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    architecture, generator = make()
    save_model(folder, "stylegan2", {"generator": (architecture, flatten(generator))}, {})
    return str(folder)


def draw(model: str, out, *, sheet: bool = False, **options) -> dict[str, np.ndarray]:
    """The pictures that the command writes, by name."""
    sample.main(Config(model=model, out=str(out), **options))
    names = [name for name in sorted(os.listdir(out)) if sheet or name.startswith("seed")]
    return {name: load_image(out / name) for name in names}


def test_seeds_are_numbers_and_ranges():
    assert seeds.parse_seeds("0-2, 20,7-7") == [0, 1, 2, 20, 7]
    for text in ("", "a", "3-", "-3", "5-1", "1,,2", "2147483648"):
        with pytest.raises(ValueError, match="seeds"):
            seeds.parse_seeds(text)


def test_a_picture_is_the_truncated_code_of_its_seed(model, tmp_path):
    pictures = draw(model, tmp_path, seeds="3,8", psi=0.6, cutoff=2)
    _, generator = make()
    for seed in (3, 8):
        z = jax.random.normal(jax.random.key(seed), (1, 32))
        wanted = to_uint8(synthesize(generator, codes(generator, z, psi=0.6, cutoff=2)))[0]
        got = pictures[f"seed{seed:04d}.png"]
        assert got.std() > 1
        # Jitted and not may round to neighbouring bytes.
        np.testing.assert_allclose(got.astype(int), np.asarray(wanted, int), atol=1)


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_a_picture_does_not_depend_on_the_others(model, tmp_path, noise):
    alone = draw(model, tmp_path / "alone", seeds="6", noise=noise)
    many = draw(model, tmp_path / "many", seeds="0-6", noise=noise)
    np.testing.assert_array_equal(alone["seed0006.png"], many["seed0006.png"])
    assert len({picture.tobytes() for picture in many.values()}) == 7


def test_noise_changes_the_picture(model, tmp_path):
    pictures = {
        noise: draw(model, tmp_path / noise, seeds="1", noise=noise)["seed0001.png"].tobytes()
        for noise in ("const", "none", "random")
    }
    assert len(set(pictures.values())) == 3


def test_the_sheet_holds_all_pictures_in_order(model, tmp_path):
    pictures = draw(model, tmp_path, seeds="0-4", sheet=True)
    sheet = pictures.pop("sheet.png")
    assert sheet.shape == (36, 56, 3)  # 2 rows of 3, 4 pixels apart
    np.testing.assert_array_equal(sheet[20:36, 20:36], pictures["seed0004.png"])


def test_mixing_grids_take_their_rows_from_the_top(model, tmp_path):
    pictures = draw(model, tmp_path, seeds="0-2", mix="7,9", sheet=True)
    assert {name for name in pictures if name.startswith("mix")} == {
        "mix_coarse.png",
        "mix_middle.png",
    }  # 16 px: there are no fine rows
    _, generator = make()
    own, given = (
        codes(generator, jax.random.normal(jax.random.key(seed), (1, 32)), psi=0.7)
        for seed in (1, 9)
    )
    mixed = own.at[:, :4].set(given[:, :4])
    grid = pictures["mix_coarse.png"]
    assert grid.shape == (4 * 20 - 4, 3 * 20 - 4, 3)
    assert (grid[:16, :16] == 255).all()
    np.testing.assert_array_equal(grid[40:56, :16], pictures["seed0001.png"])
    cell = np.asarray(to_uint8(synthesize(generator, mixed)))[0]
    np.testing.assert_allclose(grid[40:56, 40:56].astype(int), cell.astype(int), atol=1)


def test_rows_can_be_chosen(model, tmp_path):
    pictures = draw(model, tmp_path, seeds="0,1", mix="4", rows=tuple(range(6)), sheet=True)
    grid = pictures["mix_rows.png"]
    for top in (20, 40):  # all rows given: the picture on top, whatever was on the left
        np.testing.assert_array_equal(grid[top : top + 16, 20:], grid[:16, 20:])


def test_labels_choose_the_class(tmp_path):
    architecture, generator = make(labels=3)
    folder = str(tmp_path / "model")
    save_model(folder, "stylegan2", {"generator": (architecture, flatten(generator))}, {})
    one = draw(folder, tmp_path / "one", seeds="5,6", labels=(2,))
    each = draw(folder, tmp_path / "each", seeds="5,6", labels=(0, 2))
    np.testing.assert_array_equal(one["seed0006.png"], each["seed0006.png"])
    assert (one["seed0005.png"] != each["seed0005.png"]).any()
    with pytest.raises(ValueError, match=r"0 labels are given, .* 1 or 2 of the classes 0 to 2"):
        draw(folder, tmp_path / "none", seeds="5,6")
    with pytest.raises(ValueError, match="there is no class 3"):
        draw(folder, tmp_path / "none", seeds="5,6", labels=(3,))


def test_settings_that_the_model_lacks_are_refused_before_drawing(model, tmp_path):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"labels": (0,)}, "1 labels are given, but this model wants none"),
        ({"cutoff": 7}, "cutoff=7: this model has 6 rows"),
        ({"rows": (6,), "mix": "1"}, "no row 6, this model has 0 to 5"),
        ({"mix": "x"}, "seeds 'x'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            draw(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_without_generator_is_refused(tmp_path):
    architecture = {"widths": (4,), "mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False}
    features = VGG16(**architecture, rngs=nnx.Rngs(0))
    save_model(tmp_path / "vgg", "vgg16", {"features": (architecture, flatten(features))}, {})
    with pytest.raises(ValueError, match="has no generator; it has features"):
        draw(str(tmp_path / "vgg"), tmp_path)


def test_the_command_runs_and_keeps_compiled_programs_for_the_user(model, tmp_path, root):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "experiments.sample", f"--model={model}", "--seeds=0"]

    def run(*flags):
        done = subprocess.run(
            [*command, *flags], capture_output=True, text=True, cwd=root, env=environment
        )
        assert (done.returncode, done.stderr) == (0, "")

    run(f"--out={tmp_path / 'out'}")
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "seed0000.png", "sheet.png"]
    assert os.listdir(tmp_path / "cache" / "fxjax" / "jax")
    own, environment["JAX_COMPILATION_CACHE_DIR"] = tmp_path / "own", str(tmp_path / "other")
    run(f"--out={tmp_path / 'again'}", f"--compile_cache={own}")
    programs = {path.name for path in own.glob("*-cache")}
    assert programs
    run(f"--out={tmp_path / 'third'}", f"--compile_cache={own}")
    assert {path.name for path in own.glob("*-cache")} == programs  # read, not made anew
    assert not (tmp_path / "other").exists()
