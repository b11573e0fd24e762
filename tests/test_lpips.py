"""LPIPS heads: the official file's layout becomes a model folder; the formula in plain numpy."""

import json
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import weightfiles
from flax import nnx

import fxjax
from converters import convert as front
from converters.convert import write
from converters.source import Choice, WeightError, open_weights
from fxjax import metrics
from fxjax.checkpoint import flatten
from fxjax.images import from_uint8
from fxjax.nn.vgg16 import VGG16, Heads

WIDTHS = (64, 128, 256, 512, 512)
TORCH = {  # as converters.vgg16 writes it for torchvision's weights
    "mean": tuple(2 * x - 1 for x in (0.485, 0.456, 0.406)),
    "deviation": tuple(2 * x for x in (0.229, 0.224, 0.225)),
    "bgr": False,
}


def heads_file(widths: tuple[int, ...] = WIDTHS, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """What vgg.pth holds: non-negative weights, some of them 0."""
    random = np.random.default_rng(0)
    arrays = {
        f"lin{k}.model.1.weight": np.maximum(random.normal(0.1, 0.2, (1, width, 1, 1)), 0)
        for k, width in enumerate(widths)
    }
    arrays |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def converted(folder, arrays: dict[str, np.ndarray]) -> Any:
    source, out = folder / "vgg.pth", folder / "lpips"
    source.write_bytes(weightfiles.torch_zip(*weightfiles.state_dict(arrays)))
    opened = open_weights(str(source))
    write(front.convert(opened, Choice()), opened, str(out), overwrite=False)
    return out


def test_the_file_becomes_a_model_folder_with_the_same_numbers(tmp_path, root):
    arrays = heads_file()
    source, out = tmp_path / "vgg.pth", tmp_path / "lpips"
    source.write_bytes(weightfiles.torch_stream(*weightfiles.state_dict(arrays)))
    done = subprocess.run(
        [sys.executable, "-m", "converters.convert", f"--src={source}", f"--dst={out}"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "lpips, network heads" in done.stdout
    assert "heads: 5 arrays, 1,472 numbers" in done.stdout
    card = json.loads((out / "model.json").read_text())
    assert card["kind"] == "lpips"
    assert card["parts"]["heads"]["architecture"]["layers"] == list(metrics.LAYERS)
    heads = fxjax.load(out)
    assert isinstance(heads, Heads)
    for k, weights in enumerate(heads.weights):
        wanted = arrays[f"lin{k}.model.1.weight"].ravel()
        np.testing.assert_array_equal(np.asarray(weights[...]), wanted)
    with pytest.raises(ValueError, match="has no features; it has heads"):
        fxjax.load(out, part="features")


def _plain_lpips(features: VGG16, arrays: dict[str, np.ndarray], one: Any, other: Any) -> float:
    """The formula in float64, from LPIPS' own scaling of [-1, 1] pictures on."""
    neutral = VGG16(WIDTHS, mean=(0.0,) * 3, deviation=(1.0,) * 3, bgr=False, rngs=nnx.Rngs(1))
    nnx.update(neutral, nnx.state(features))
    shift = jnp.asarray([-0.030, -0.088, -0.188], jnp.float32)
    scale = jnp.asarray([0.458, 0.448, 0.450], jnp.float32)
    maps = [neutral((x - shift) / scale, metrics.LAYERS) for x in (one, other)]
    total = 0.0
    for k, layer in enumerate(metrics.LAYERS):
        a, b = (np.asarray(found[layer], np.float64)[0] for found in maps)
        a, b = (x / (np.sqrt((x**2).sum(axis=-1, keepdims=True)) + 1e-10) for x in (a, b))
        total += (np.square(a - b) @ arrays[f"lin{k}.model.1.weight"].ravel()).mean()
    return total


def test_the_distance_is_the_formula(tmp_path):
    arrays = heads_file()
    features = VGG16(WIDTHS, **TORCH, rngs=nnx.Rngs(0))
    heads = fxjax.load(converted(tmp_path, arrays))
    photo = skimage.data.astronaut()[60:92, 200:232]
    noise = np.random.default_rng(1).integers(-40, 41, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    one, other = (from_uint8(jnp.asarray(picture[None])) for picture in (photo, noisy))
    judge = metrics.lpips_style(features, heads)
    found = float(judge.distance(judge.embed(one), judge.embed(other))[0])
    wanted = _plain_lpips(features, arrays, one, other)
    assert wanted > 0.01
    assert found == pytest.approx(wanted, rel=1e-4)
    plain = metrics.lpips_style(features)
    assert plain.layers == judge.layers
    assert float(plain.distance(plain.embed(one), plain.embed(other))[0]) > 2 * found


@pytest.mark.parametrize(("arrays", "message"), [
    (heads_file((64, 192, 384, 256, 256)), "heads for AlexNet; take those for VGG16"),
    (heads_file((64, 128, 256, 384, 384, 512, 512)), "heads for SqueezeNet"),
    (heads_file(WIDTHS[:4]), r"lacks 'lin4\.model\.1\.weight'"),
    (heads_file((64, 128, 256, 512, 256)), r"\(1, 256, 1, 1\) where \(1, 512, 1, 1\) belongs"),
    (heads_file(lin2__bias=np.ones(1)), r"also holds 'lin2\.bias'"),
    (heads_file(lin0__model__1__weight=np.full((1, 64, 1, 1), -0.1)),
     r"'lin0\.model\.1\.weight' has 64 negative weights of 64"),
    (heads_file(lin3__model__1__weight=np.full((1, 512, 1, 1), np.nan)), "NaN"),
    (heads_file(lin1__model__1__weight=np.ones((128,))), "where .* belongs"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, arrays, message):
    with pytest.raises(WeightError, match=message):
        converted(tmp_path, arrays)
    assert not (tmp_path / "lpips").exists()


def test_options_of_generators_are_refused(tmp_path):
    source = tmp_path / "vgg.pth"
    source.write_bytes(weightfiles.torch_zip(*weightfiles.state_dict(heads_file())))
    with pytest.raises(WeightError, match="are for generators; leave them out"):
        front.convert(open_weights(str(source)), Choice(resolution=256))


def small_heads(**changes: Any) -> Heads:
    scaling = {**TORCH, "mean": (-0.030, -0.088, -0.188), "deviation": (0.458, 0.448, 0.450)}
    return Heads(metrics.LAYERS, (4,) * 5, **{**scaling, **changes}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("widths", "changes", "message"), [
    ((4,) * 4, {}, "these features have no block5_conv3; convert a whole VGG16"),
    ((4,) * 2, {}, "have no block3_conv3, block4_conv3, block5_conv3"),
    ((4, 4, 4, 4, 5), {}, r"for \(4, 4, 4, 4, 4\) channels, the features have \(4, 4, 4, 4, 5\)"),
    ((4,) * 5, {"bgr": True}, "another preprocessing"),
    ((4,) * 5, {"mean": (0.0,) * 3}, "another preprocessing"),
])  # fmt: skip
def test_features_that_the_heads_do_not_fit_are_refused(widths, changes, message):
    features = VGG16(widths, **{**TORCH, **changes}, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        metrics.lpips_style(features, small_heads())


def test_small_features_and_heads_fit():
    judge = metrics.lpips_style(VGG16((4,) * 5, **TORCH, rngs=nnx.Rngs(0)), small_heads())
    assert judge.layers == metrics.LAYERS
    assert len(flatten(judge)) == 26 + 5
