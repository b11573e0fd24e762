"""Encoders of pSp and e4e: against a slow twin that reads the same file; starts of inversion."""

import pathlib
import types
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import weightfiles as wf
from flax import nnx

from converters import rosinality2
from converters.source import Choice, WeightError, open_weights
from fxjax import zoo
from fxjax.checkpoint import fill
from fxjax.images import bilinear
from fxjax.nn.encoder import Encoder
from fxjax.runs import inversion

Arrays = dict[str, np.ndarray]
ROWS, DIM, WIDTHS, HIDDEN = 8, 5, (3, 4, 6, 7), (1, 2, 1, 3)
STARTS = (0, 3, 7, 21)
OPTIONS = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}


def state() -> Arrays:
    """A random encoder's state dict, narrow."""
    random = np.random.default_rng(3)
    out: Arrays = {}

    def conv(name: str, o: int, i: int, side: int, bias: bool = False) -> None:
        out[f"{name}.weight"] = random.normal(size=(o, i, side, side)) * (i * side**2) ** -0.5
        if bias:
            out[f"{name}.bias"] = random.normal(size=o)

    def norm(name: str, width: int) -> None:
        out[f"{name}.weight"] = random.uniform(0.5, 1.5, width)
        out[f"{name}.running_var"] = random.uniform(0.5, 1.5, width)
        out[f"{name}.bias"], out[f"{name}.running_mean"] = random.normal(size=(2, width)) / 3
        out[f"{name}.num_batches_tracked"] = np.array(7)

    conv("input_layer.0", WIDTHS[0], 3, 3)
    norm("input_layer.1", WIDTHS[0])
    out["input_layer.2.weight"] = random.uniform(0, 0.5, WIDTHS[0])
    before = WIDTHS[0]
    for k in range(24):
        stage = sum(k >= start for start in STARTS) - 1
        width, name = WIDTHS[stage], f"body.{k}.res_layer"
        norm(f"{name}.0", before)
        conv(f"{name}.1", width, before, 3)
        out[f"{name}.2.weight"] = random.uniform(0, 0.5, width)
        conv(f"{name}.3", width, width, 3)
        norm(f"{name}.4", width)
        conv(f"{name}.5.fc1", HIDDEN[stage], width, 1)
        conv(f"{name}.5.fc2", width, HIDDEN[stage], 1)
        if width != before:
            conv(f"body.{k}.shortcut_layer.0", width, before, 1)
            norm(f"body.{k}.shortcut_layer.1", width)
        before = width
    conv("latlayer1", WIDTHS[3], WIDTHS[2], 1, True)
    conv("latlayer2", WIDTHS[3], WIDTHS[1], 1, True)
    for row in range(ROWS):
        for i in range(4 + (row >= 3) + (row >= 7)):
            conv(f"styles.{row}.convs.{2 * i}", DIM, DIM if i else WIDTHS[3], 3, True)
        out[f"styles.{row}.linear.weight"] = random.normal(size=(DIM, DIM))
        out[f"styles.{row}.linear.bias"] = random.normal(size=DIM)
    return {n: a.astype(np.float32) if a.ndim else a for n, a in out.items()}


def twin(weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The heads' outputs [batch, rows, dim] of NCHW pictures, slowly, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def conv(name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        kernel = w[f"{name}.weight"]
        side = kernel.shape[-1]
        pad = side // 2
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        height, width = ((n - side) // stride + 1 for n in x.shape[2:])
        out = np.zeros((len(x), len(kernel), height, width))
        for r in range(side):
            for c in range(side):
                part = x[:, :, r : r + height * stride : stride, c : c + width * stride : stride]
                out += np.einsum("oi,bihw->bohw", kernel[:, :, r, c], part[:, :, :height, :width])
        return out + w.get(f"{name}.bias", np.zeros(len(kernel)))[:, None, None]

    def wide(name: str) -> np.ndarray:
        return w[name][:, None, None]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - wide(f"{name}.running_mean")) / np.sqrt(wide(f"{name}.running_var") + 1e-5)
        return x * wide(f"{name}.weight") + wide(f"{name}.bias")

    def bend(name: str, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + wide(f"{name}.weight") * np.minimum(x, 0)

    def up(x: np.ndarray, like: np.ndarray) -> np.ndarray:
        for axis in (2, 3):
            place = np.linspace(0, x.shape[axis] - 1, like.shape[axis])
            line = lambda values, place=place: np.interp(place, np.arange(len(values)), values)
            x = np.apply_along_axis(line, axis, x)
        return x

    x, kept = bend("input_layer.2", norm("input_layer.1", conv("input_layer.0", x))), []
    for k in range(24):
        name, stride = f"body.{k}.res_layer", 1 + (k in STARTS)
        y = bend(f"{name}.2", conv(f"{name}.1", norm(f"{name}.0", x)))
        y = norm(f"{name}.4", conv(f"{name}.3", y, stride))
        gate = np.maximum(conv(f"{name}.5.fc1", y.mean((2, 3), keepdims=True)), 0)
        y = y / (1 + np.exp(-conv(f"{name}.5.fc2", gate)))
        short = f"body.{k}.shortcut_layer"
        if f"{short}.0.weight" in w:
            x = norm(f"{short}.1", conv(f"{short}.0", x, stride)) + y
        else:
            x = x[:, :, ::stride, ::stride] + y
        if k in (6, 20, 23):
            kept.append(x)
    middle = up(kept[2], kept[1]) + conv("latlayer1", kept[1])
    fine = up(middle, kept[0]) + conv("latlayer2", kept[0])
    rows = []
    for row in range(ROWS):
        y = kept[2] if row < 3 else middle if row < 7 else fine
        for i in range(4 + (row >= 3) + (row >= 7)):
            y = conv(f"styles.{row}.convs.{2 * i}", y, 2)
            y = np.where(y > 0, y, 0.01 * y)
        linear = w[f"styles.{row}.linear.weight"] / np.sqrt(DIM)
        rows.append(y[:, :, 0, 0] @ linear.T + w[f"styles.{row}.linear.bias"])
    return np.stack(rows, axis=1)


def network(weights: Arrays, options: Mapping[str, Any], average: Any = None) -> Encoder:
    architecture, arrays = rosinality2.encoder(weights, options, average, "file")
    return fill(nnx.eval_shape(lambda: Encoder(**architecture, rngs=nnx.Rngs(0))), arrays)


def test_both_kinds_equal_their_twin():
    weights = state()
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    wanted = twin(weights, pictures)
    inputs = jnp.asarray(pictures.transpose(0, 2, 3, 1))
    found = np.asarray(network(weights, {"encoder_type": "GradualStyleEncoder"}).offsets(inputs))
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    wanted[:, 1:] += wanted[:, :1]
    average = np.random.default_rng(1).normal(size=DIM).astype(np.float32)
    e4e = network(weights, OPTIONS, average)
    np.testing.assert_allclose(e4e.offsets(inputs), wanted, atol=2e-5)
    np.testing.assert_array_equal(e4e.mean[...], np.tile(average, (ROWS, 1)))
    with pytest.raises(ValueError, match="64 x 64 pixels, this encoder wants 256 x 256"):
        e4e(inputs)
    with pytest.raises(ValueError, match="about 256 x 256"):
        e4e.heads[0](jnp.zeros((1, 32, 32, WIDTHS[3])))


def test_cars_are_wider_than_high():
    wide = network(state(), OPTIONS | {"dataset_type": "cars_encode"})
    assert wide.prepared(np.zeros((1, 30, 40, 3), np.uint8)).shape == (1, 192, 256, 3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "does not say its encoder_type"),
        ({"encoder_type": "BackboneEncoderUsingLastLayerIntoW"}, "a BackboneEncoderUsingLast"),
        (OPTIONS | {"learn_in_w": True}, "single codes"),
    ],
)
def test_other_encoders_are_refused(options: dict, line: str):
    with pytest.raises(WeightError, match=line):
        network(state(), options)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("input_layer.0.weight", np.zeros((3, 6, 3, 3)), "reads 6 channels"),
        ("body.5.res_layer.4.running_var", np.full(4, -1.0), "negative numbers"),
        ("body.23.res_layer.2.weight", None, "lacks 'body.23.res_layer.2.weight'"),
        ("body.24.res_layer.2.weight", np.zeros(3), "also holds 'body.24"),
        ("styles.7.linear.weight", None, "7 styles where"),
        ("latlayer1.weight", np.zeros((7, 4, 1, 1)), "'latlayer1.weight' has shape"),
        (
            "body.1.res_layer.5.fc1.weight",
            np.zeros((2, 3, 1, 1)),
            "'body.1.res_layer.5.fc2.weight'",
        ),
    ],
)
def test_wrong_files_are_refused(name: str, value: np.ndarray | None, line: str):
    weights = state()
    weights.pop(name, None)
    if value is not None:
        weights[name] = value.astype(np.float32)
    with pytest.raises(WeightError, match=line):
        network(weights, OPTIONS)


def test_whole_files_are_checked(tmp_path: pathlib.Path):
    """The checkpoint around the encoder: its average, its decoder, nothing unknown."""
    weights = {f"encoder.{name}": value for name, value in state().items()}
    tensors, storages = wf.state_dict(weights)

    def refused(value: dict) -> str:
        path = tmp_path / "weights.pt"
        path.write_bytes(wf.torch_stream(value, storages))
        with pytest.raises(WeightError) as caught:
            rosinality2.convert_encoder(open_weights(str(path)), Choice())
        return str(caught.value)

    opts = wf.built(wf.new("argparse", "Namespace"), OPTIONS)
    assert "lacks latent_avg" in refused({"state_dict": tensors, "opts": opts})
    opts = OPTIONS | {"start_from_latent_avg": False}
    alone = refused({"state_dict": tensors, "opts": opts})
    assert "lacks decoder.*, but holds 'state_dict.encoder.input_layer.0.weight', " in alone
    assert "both its encoder and its decoder" in alone
    deeper = refused({"model": {"net": tensors}, "opts": opts})
    assert "lacks encoder.*, but holds 'model.net.encoder.input_layer.0.weight', " in deeper
    more = tensors | {"other.weight": tensors["encoder.latlayer1.bias"]}
    more["decoder.input.input"] = tensors["encoder.latlayer1.bias"]
    assert "also holds 'other.weight'" in refused({"state_dict": more, "opts": opts})


class Reader(nnx.Module):
    """Stands for an encoder."""

    def prepared(self, photos: np.ndarray) -> np.ndarray:
        return photos[:, ::2].astype(np.float32)

    def __call__(self, images: jnp.ndarray) -> jnp.ndarray:
        return images[..., 0]


def test_searches_start_at_its_codes():
    photos = np.random.default_rng(2).integers(0, 256, (2, 8, 5, 3), np.uint8)
    models: Any = types.SimpleNamespace(generator=None, loss=None)
    found = inversion.starts(models, "encoder", 0, Reader(), ["a", "b"], None, photos)
    np.testing.assert_array_equal(found, photos[:, ::2, :, 0])
    shape: Any = types.SimpleNamespace(rows=range(12), dim=512)
    assert zoo.encoder_of("faces", "mean", shape) is None
    with pytest.raises(ValueError, match="faces has no encoder, it has generator"):
        zoo.encoder_of("faces", "encoder", shape)


def test_photos_are_shrunk_as_in_training(shared: pathlib.Path):
    for kind in ("e4e_64", "psp_64"):
        arrays = np.load(shared / "fixtures" / kind / "reference.npz")
        small = bilinear(arrays["src_image_uint8"], 256, 256).astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(small.transpose(2, 0, 1), arrays["x"][0], atol=1e-6)
