"""Files in .safetensors: read as torch files are, and converted where the layout is known."""

import json
import pathlib
import struct
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from weightfiles import opened, refusal

from converters import convert as front
from converters.source import Choice, Model, WeightError, open_weights

DATA = pathlib.Path(__file__).parent / "data"
ONES = np.ones((2, 3), np.float32)


def written(table: dict[str, Any], numbers: bytes) -> bytes:
    """A file whose table may lie."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def converted(folder: pathlib.Path, arrays: dict[str, np.ndarray], **texts: str) -> Model:
    return front.convert(opened(folder, save(arrays, metadata=texts)), Choice())


def test_every_kind_of_number(tmp_path: pathlib.Path):
    arrays = {
        code: np.arange(6).reshape(2, 3).astype(code)
        for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")
    }
    ours = opened(tmp_path, save(arrays, metadata={"format": "pt"}))
    assert (ours.format, ours.networks, ours.options) == ("safetensors", {}, {"format": "pt"})
    for name, value in arrays.items():
        np.testing.assert_array_equal(ours.tensors[name], value, strict=True)
    halves = np.array([0x3F80, 0xC000], "<u2").tobytes()  # bfloat16: 1 and -2
    table = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    found = opened(tmp_path, written(table, halves)).tensors["x"]
    np.testing.assert_array_equal(found, np.array([1, -2], np.float32), strict=True)


def test_networks_by_their_prefix(tmp_path: pathlib.Path):
    whole = {"g_ema.a.b": ONES, "d.a": ONES, "latent_avg": ONES}
    tensors = opened(tmp_path, save(whole)).tensors
    assert list(tensors["g_ema"]) == ["a.b"]
    assert tensors["latent_avg"].shape == (2, 3)
    assert list(opened(tmp_path, save({"a.b": ONES})).tensors) == ["a.b"]
    assert "both an array and a network" in refusal(
        tmp_path, save({"d": ONES, "d.a": ONES, "g_ema.a": ONES})
    )


def test_damaged_files(tmp_path: pathlib.Path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    lies: list[dict[str, Any]] = [
        entry | {"shape": [2**40, 2**40]},
        entry | {"shape": [3]},
        entry | {"data_offsets": [8, 0]},
        entry | {"data_offsets": [0, 2**40]},
        entry | {"shape": [-1]},
        entry | {"dtype": "O"},
        entry | {"dtype": "F8_E4M3", "shape": [8]},
    ]
    for lie in lies:
        line = refusal(tmp_path, written({"x": lie}, bytes(8)))
        assert "damaged" in line or "not read" in line
    assert "holds no arrays" in refusal(tmp_path, written({}, b""))
    deep = b"{" + b'"a":{' * 20_000
    assert "damaged" in refusal(tmp_path, struct.pack("<Q", len(deep)) + deep)


def test_known_layouts_convert_as_their_torch_files(tmp_path: pathlib.Path):
    source = open_weights(str(DATA / "rosinality_sg1" / "g_running_legacy.model"))
    wanted = front.convert(source, Choice()).parts["generator"]
    found = converted(tmp_path, {n: a.copy() for n, a in source.tensors.items()})
    assert found.parts["generator"][0] == wanted[0]
    for name, value in wanted[1].items():
        np.testing.assert_array_equal(found.parts["generator"][1][name], value)


def test_state_dicts_of_ada(tmp_path: pathlib.Path):
    networks = open_weights(str(DATA / "ada_torch_32" / "network.pkl"))
    wanted = front.convert(networks, Choice()).parts
    flat = {
        f"{name}.{key.replace('/', '.')}": np.array(value)
        for name in ("G_ema", "D")
        for key, value in networks.networks[name].weights.items()
    }
    model = converted(tmp_path, flat)
    assert "conv_clamp" in model.notes[0]
    for part, (architecture, arrays) in wanted.items():
        assert model.parts[part][0] == architecture
        for name, value in arrays.items():
            np.testing.assert_array_equal(model.parts[part][1][name], value)
    alone = {n.removeprefix("G_ema."): a for n, a in flat.items() if n.startswith("G_ema.")}
    model = converted(tmp_path, alone, conv_clamp="None")
    assert model.parts["generator"][0]["clamp"] is None
    with pytest.raises(WeightError, match="conv_clamp is 'much'"):
        converted(tmp_path, alone, conv_clamp="much")
    gray = {n: a[:1] if n.endswith(("torgb.weight", "torgb.bias")) else a for n, a in alone.items()}
    with pytest.raises(WeightError, match="draws gray pictures"):
        converted(tmp_path, gray)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["synthesis.L0_36_512.weight"], "StyleGAN3 alias-free"),
        (["synthesis.input.freqs", "synthesis.L0_36_1024.bias"], "StyleGAN3 alias-free"),
        (["backbone.synthesis.b4.const", "superresolution.block0.conv0.weight"], "EG3D"),
        (["progression.0.conv.0.conv.weight_orig", "to_rgb.0.conv.weight_orig"], "ProGAN"),
        (["scaleLayers.0.0.module.weight"], "ProGAN"),
        (["to_rgbs.0.iwt.ll", "convs.0.conv.modulation.weight"], "SWAGAN"),
        (["model.diffusion_model.weight"], "neither VGG16, LPIPS heads nor a StyleGAN"),
    ],
)
def test_relatives_are_named(tmp_path: pathlib.Path, names: list[str], word: str):
    with pytest.raises(WeightError, match=word) as caught:
        converted(tmp_path, dict.fromkeys(names, ONES))
    assert str(caught.value).startswith(str(tmp_path))
