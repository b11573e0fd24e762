"""rosinality's StyleGAN2 layout, by rewriting an official network with known outputs into it."""

import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pytest
import weightfiles as wf

import fxjax
from converters import convert as front
from converters.convert import write
from converters.source import Choice, Model, Opened, WeightError, open_weights
from fxjax.nn import generator as gen

ADA = pathlib.Path(__file__).parent / "data" / "ada_torch_32"
Arrays = dict[str, np.ndarray]


def generator(ada: Mapping[str, np.ndarray], resolution: int = 32) -> Arrays:
    """ADA's generator under rosinality's names and shapes."""
    out: Arrays = {"input.input": ada["synthesis/b4/const"][None]}
    for i in range(8):
        for name in ("weight", "bias"):
            out[f"style.{i + 1}.{name}"] = ada[f"mapping/fc{i}/{name}"]

    def layer(old: str, new: str) -> None:
        out[f"{new}.conv.weight"] = ada[f"{old}/weight"][None]
        for name in ("weight", "bias"):
            out[f"{new}.conv.modulation.{name}"] = ada[f"{old}/affine/{name}"]

    def conv(old: str, new: str, index: int) -> None:
        layer(old, new)
        out[f"{new}.activate.bias"] = ada[f"{old}/bias"]
        out[f"{new}.noise.weight"] = ada[f"{old}/noise_strength"].reshape(1)
        out[f"noises.noise_{index}"] = ada[f"{old}/noise_const"][None, None]

    for level in range(resolution.bit_length() - 2):
        block, rgb = f"synthesis/b{4 << level}", f"to_rgbs.{level - 1}" if level else "to_rgb1"
        if level:
            conv(f"{block}/conv0", f"convs.{2 * level - 2}", 2 * level - 1)
            filter_ = 4 * ada[f"{block}/conv0/resample_filter"]
            out[f"convs.{2 * level - 2}.conv.blur.kernel"] = filter_
            out[f"{rgb}.upsample.kernel"] = filter_
        conv(f"{block}/conv1", f"convs.{2 * level - 1}" if level else "conv1", 2 * level)
        layer(f"{block}/torgb", rgb)
        out[f"{rgb}.bias"] = ada[f"{block}/torgb/bias"].reshape(1, -1, 1, 1)
    return out


def discriminator(ada: Mapping[str, np.ndarray], resolution: int = 32) -> Arrays:
    """ADA's discriminator under rosinality's names."""
    names = {f"b{resolution}/fromrgb/weight": "convs.0.0.weight"}
    names[f"b{resolution}/fromrgb/bias"] = "convs.0.1.bias"
    for n in range(1, resolution.bit_length() - 2):
        old, new = f"b{resolution >> (n - 1)}", f"convs.{n}"
        names[f"{old}/conv0/weight"] = f"{new}.conv1.0.weight"
        names[f"{old}/conv0/bias"] = f"{new}.conv1.1.bias"
        names[f"{old}/conv1/weight"] = f"{new}.conv2.1.weight"
        names[f"{old}/conv1/bias"] = f"{new}.conv2.2.bias"
        names[f"{old}/skip/weight"] = f"{new}.skip.1.weight"
    names |= {"b4/conv/weight": "final_conv.0.weight", "b4/conv/bias": "final_conv.1.bias"}
    for k, old in enumerate(("fc", "out")):
        for name in ("weight", "bias"):
            names[f"b4/{old}/{name}"] = f"final_linear.{k}.{name}"
    return {new: ada[old] for old, new in names.items()}


@pytest.fixture(scope="module")
def layouts() -> dict[str, Arrays]:
    """The networks of a checkpoint by name."""
    networks = open_weights(str(ADA / "network.pkl")).networks
    return {
        "g_ema": generator(networks["G_ema"].weights),
        "g": generator(networks["G"].weights),
        "d": discriminator(networks["D"].weights),
    }


def opened(
    folder: pathlib.Path, networks: Mapping[str, Arrays], more: Arrays | None = None
) -> Opened:
    """A torch zip file of several networks, and of arrays beside them."""
    flat = {f"{name}/{key}": a for name, arrays in networks.items() for key, a in arrays.items()}
    tensors, storages = wf.state_dict(flat | (more or {}))
    value: dict = {name: {} for name in networks}
    for name, tensor in tensors.items():
        whole, slash, key = name.partition("/")
        (value[whole] if slash else value)[key if slash else whole] = tensor
    options = wf.built(wf.new("argparse", "Namespace"), {"size": 32, "arch": "stylegan2"})
    (folder / "weights.pt").write_bytes(wf.torch_zip(value | {"args": options}, storages))
    return open_weights(str(folder / "weights.pt"))


def convert(source: Opened, network: str | None = None) -> Model:
    return front.convert(source, Choice(network=network))


def mapped_w(model: Model, count: int) -> np.ndarray:
    """The w of as many random z, by the converted mapping network."""
    architecture, arrays = model.parts["generator"]
    x = np.random.default_rng(9).standard_normal((count, architecture["latent"]))
    x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    for i in range(architecture["mapping_layers"]):
        layer = f"mapping/layers/{i}"
        x = x @ arrays[f"{layer}/kernel"] + arrays[f"{layer}/bias"]
        x = np.where(x > 0, x, 0.2 * x) * 2**0.5
    return x


def test_outputs_of_the_original(layouts: dict[str, Arrays], tmp_path: pathlib.Path):
    reference = np.load(ADA / "reference.npz")
    source = opened(tmp_path, layouts, {"latent_avg": reference["w_avg"]})
    assert source.options == {"size": 32, "arch": "stylegan2"}
    model = convert(source)
    assert (model.network, list(model.notes)) == ("g_ema", [])
    write(model, source, str(tmp_path / "model"), overwrite=False)
    network = fxjax.load(tmp_path / "model")
    z = jnp.asarray(reference["z"])
    ws = gen.codes(network, z, None, psi=0.7)
    np.testing.assert_allclose(ws, reference["ws_psi0.7"], atol=1e-5)
    codes = jnp.asarray(reference["ws_random"])
    found = np.asarray(gen.synthesize(network, codes)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, reference["img_ws_random_const"], atol=2e-5)
    critic = fxjax.load(tmp_path / "model", part="discriminator")
    scores = critic(jnp.asarray(reference["img_ws_random_const"].transpose(0, 2, 3, 1)))
    logits = reference["d_logits_img_ws_random_const"][:, 0]
    np.testing.assert_allclose(scores, logits, atol=2e-5)


def test_the_average_or_the_other_network(layouts: dict[str, Arrays], tmp_path: pathlib.Path):
    source = opened(tmp_path, layouts)
    average, other = convert(source), convert(source, "g")
    assert "10,000 mapped z" in average.notes[0]
    arrays, others = average.parts["generator"][1], other.parts["generator"][1]
    assert not np.allclose(arrays["const"], others["const"])
    mapped = mapped_w(average, 2_000)
    np.testing.assert_allclose(arrays["w_mean"], mapped.mean(axis=0), atol=0.3 * mapped.std())
    with pytest.raises(WeightError, match="no network 'G' in it; it has g_ema, g"):
        convert(source, "G")
    with pytest.raises(WeightError, match="leave it out"):
        front.convert(source, Choice(resolution=32))


def test_prefixes_and_absent_noise(layouts: dict[str, Arrays], tmp_path: pathlib.Path):
    """Training on several devices prefixes names; early files have no noise images."""
    whole = convert(opened(tmp_path, layouts)).parts["generator"][1]
    kept = {n: a for n, a in layouts["g_ema"].items() if not n.startswith("noises.")}
    model = convert(opened(tmp_path, {"g_ema": {f"module.{n}": a for n, a in kept.items()}}))
    assert "drawn" in model.notes[1]
    found = model.parts["generator"][1]
    assert found.keys() == whole.keys()
    for name, value in found.items():
        assert np.array_equal(value, whole[name]) != name.endswith("/noise")


def test_the_other_network_alone_is_said(layouts: dict[str, Arrays], tmp_path: pathlib.Path):
    source = opened(tmp_path, {"g": layouts["g"], "d": layouts["d"]})
    with pytest.raises(WeightError, match=r"no network 'g_ema' in it; it has g: give --network=g$"):
        convert(source)
    assert convert(source, "g").network == "g"


@pytest.mark.parametrize(
    ("around", "line"),
    [
        ("state_dict/", "under 'state_dict.', but"),
        ("state_dict/generator.", "under 'state_dict.generator.', but"),
        ("generator.", "under 'generator.', but"),
        ("g_ema/generator.", "under 'generator.', but"),
        ("decoder.", r"under 'decoder.' \(an e4e or pSp file without its encoder\?\), but"),
        ("state_dict/decoder.", r"under 'state_dict.decoder.' \(an e4e"),
    ],
)
def test_a_generator_that_lies_deeper(
    layouts: dict[str, Arrays], tmp_path: pathlib.Path, around: str, line: str
):
    """Where it lies and what to do; not that the file is damaged."""
    whole, slash, prefix = around.rpartition("/")
    changed = {f"{prefix}{name}": value for name, value in layouts["g_ema"].items()}
    source = opened(tmp_path, {whole: changed} if slash else {}, None if slash else changed)
    with pytest.raises(WeightError, match=line) as caught:
        convert(source)
    assert "state_dict()" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "line"),
    [
        ("convs.1.conv.weight", (1, 32, 31, 3, 3), r"'convs.1.conv.weight' has shape"),
        ("to_rgbs.1.bias", None, "lacks 'to_rgbs.1.bias'"),
        ("to_rgbs.0.conv.weight", None, "0 to_rgbs where 1 to 8 belong"),
        ("noises.noise_2", (1, 1, 4, 4), "'noises.noise_2' has shape"),
        ("convs.9.conv.weight", (1,), "also holds 'convs.9.conv.weight'"),
        ("to_rgbs.0.iwt.ll", (2, 2), "SWAGAN"),
        ("style.1.weight", (64, 5000), "mapping layer 0 maps 5000 to 64"),
        ("latent_avg", (7,), r"latent_avg has shape \(7,\) where \(1, 64\)"),
    ],
)
def test_wrong_files(
    layouts: dict[str, Arrays], tmp_path: pathlib.Path, name: str, shape: tuple | None, line: str
):
    changed = dict(layouts["g_ema"])
    changed.pop(name, None)
    if shape is not None:
        changed[name] = np.zeros(shape, np.float32)
    tensors, storages = wf.state_dict(changed)  # a state dict alone
    (tmp_path / "weights.pt").write_bytes(wf.torch_stream(tensors, storages))
    with pytest.raises(WeightError, match=line):
        convert(open_weights(str(tmp_path / "weights.pt")))


def test_gray_and_rgba(layouts: dict[str, Arrays], tmp_path: pathlib.Path):
    for channels, word in ((1, "gray"), (4, "RGBA"), (2, "2-channel")):
        changed = dict(layouts["g_ema"])
        for name in ("to_rgb1", "to_rgbs.0", "to_rgbs.1", "to_rgbs.2"):
            for part in ("conv.weight", "bias"):
                changed[f"{name}.{part}"] = np.repeat(
                    changed[f"{name}.{part}"][:, :1], channels, axis=1
                )
        with pytest.raises(WeightError, match=f"draws {word} pictures"):
            convert(opened(tmp_path, {"g_ema": changed}))
