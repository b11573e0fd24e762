"""Official-format files against what the original code computed, through the command lines."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import fxjax
from converters import convert as front
from converters import rosinality1
from converters.convert import Config, write
from converters.source import Choice, Network, Opened, WeightError, open_weights
from converters.verify import Config as VerifyConfig
from converters.verify import Row, verify
from converters.verify import main as verify_main
from fxjax import cli

DATA = pathlib.Path(__file__).resolve().parent / "data"
OWN = [
    "ada_torch_32/network.pkl",
    "rosinality_sg1/g_running_legacy.model",
    "sg1_tf_32_fused/network.pkl",
    "sg2_tf_32/network.pkl",
    "vgg16_narrow/vgg16_narrow_keras_notop_published_names.h5",
]
# What is not in the repository: compared when the folder of all fixtures is there.
SHARED = [
    "ada_torch_64_c3/network.pkl",
    "ada_torch_64_w512/network.pkl",
    "rosinality_sg1/train_step-5.model",
    "sg1_tf_128/network.pkl",
    "sg1_tf_32/network.pkl",
    "sg1_tf_64_w512/network.pkl",
    "sg2_tf_64_w512/network.pkl",
    "vgg16_narrow/vgg16_narrow_keras_notop.h5",
    "vgg16_narrow/vgg16_narrow_torchvision.pth",
    "vgg16_narrow/vgg16_narrow_torchvision_legacy.pth",
]
# Those of which other arrays cannot be reproduced.
SHARED_WITH_OTHER_SKIPS = [
    "e4e_64/e4e_encode.pt",
    "psp_64/iteration_200000_namespace.pt",
    "rosinality_sg2_32_conv/network-snapshot.pt",
    "rosinality_sg2_64/150000.pt",
    "sg2ada_tf_32/network.pkl",
    "sg2ada_tf_64_c3/network.pkl",
]
# Arrays that the averaged networks cannot reproduce, or that are inputs.
SKIPPED = ("Graw", "generator_key", "mean_style", "avgpool", "logits", "reference_")


def converted(source: pathlib.Path, out: pathlib.Path, choice: Choice | None = None) -> None:
    opened = open_weights(str(source))
    write(front.convert(opened, choice or Choice()), opened, str(out), overwrite=False)


def check(source: pathlib.Path, out: pathlib.Path) -> list[Row]:
    converted(source, out)
    rows = list(verify(str(out), str(source.parent)))
    wrong = [row for row in rows if row.passed is False]
    assert not wrong
    whole = json.loads((out / "model.json").read_text())["parts"].keys() != {"generator"}
    for row in rows:
        if row.passed is None:
            expected = any(word in row.name for word in SKIPPED)
            assert expected or (row.name.startswith("d_") and not whole), row
    return rows


@pytest.mark.parametrize("name", OWN)
def test_parity(name: str, tmp_path: pathlib.Path) -> None:
    rows = check(DATA / name, tmp_path / "model")
    assert sum(row.passed is True for row in rows) >= 10


@pytest.mark.parametrize("name", SHARED)
def test_parity_of_shared_fixtures(name: str, shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rows = check(shared / "fixtures" / name, tmp_path / "model")
    assert sum(row.passed is True for row in rows) >= 10


@pytest.mark.parametrize("name", SHARED_WITH_OTHER_SKIPS)
def test_parity_of_more_shared_fixtures(
    name: str, shared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, out = shared / "fixtures" / name, tmp_path / "model"
    converted(source, out)
    rows = list(verify(str(out), str(source.parent)))
    assert not [row for row in rows if row.passed is False]
    skipped = [row.name for row in rows if row.passed is None]
    allowed = ("Graw", "img_g_", "mean_latent", "w_discriminator_scores")
    assert all(any(word in name for word in allowed) for name in skipped)
    assert len(rows) - len(skipped) >= 11
    if "encoder" in json.loads((out / "model.json").read_text())["parts"]:
        encoder, generator = fxjax.load(out, part="encoder"), fxjax.load(out)
        assert encoder.mean.shape == (len(generator.rows), generator.dim)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rosinality_sg2_32_conv/network-snapshot.pt", "network-snapshot_legacy.pt"),
        ("psp_64/best_model.pt", "iteration_200000_namespace.pt"),
    ],
)
def test_both_forms_of_a_file_convert_alike(one: str, other: str, shared: pathlib.Path) -> None:
    path = shared / "fixtures" / one
    models = [
        front.convert(open_weights(str(each)), Choice()) for each in (path, path.with_name(other))
    ]
    assert len(models[0].parts) == 2
    for part, (architecture, arrays) in models[0].parts.items():
        assert models[1].parts[part][0] == architecture
        for name, value in arrays.items():
            np.testing.assert_array_equal(models[1].parts[part][1][name], value)


def test_unaveraged_rosinality_stylegan2(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = shared / "fixtures" / "rosinality_sg2_32_conv"
    converted(folder / "network-snapshot.pt", tmp_path / "raw", Choice(network="g"))
    rows = {row.name: row for row in verify(str(tmp_path / "raw"), str(folder))}
    assert rows["img_g_w_plus_random"].passed is True
    assert rows["img_w_plus_random"].passed is None


@pytest.mark.parametrize(("name", "word"), [("ada_gray.pkl", "gray"), ("ada_rgba.pkl", "RGBA")])
def test_gray_and_rgba_generators_are_refused(
    name: str, word: str, shared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = shared / "cases" / "gray-rgba-generator" / name
    with pytest.raises(WeightError, match=f"draws {word} pictures") as caught:
        converted(source, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_other_channels_of_tensorflow_are_refused() -> None:
    for folder in ("sg2_tf_32", "sg1_tf_32_fused"):
        opened = open_weights(str(DATA / folder / "network.pkl"))
        network = opened.networks["Gs"]
        last = re.compile(r".*/ToRGB(_lod\d)?/(weight|bias)")
        gray = {n: a[..., :1] if last.fullmatch(n) else a for n, a in network.weights.items()}
        other = Network(network.kind, network.options, gray)
        with pytest.raises(WeightError, match="Gs: draws gray pictures"):
            front.convert(opened_with(opened, "Gs", other), Choice())


def test_unaveraged_network(tmp_path: pathlib.Path) -> None:
    converted(DATA / "ada_torch_32/network.pkl", tmp_path / "raw", Choice(network="G"))
    rows = {row.name: row for row in verify(str(tmp_path / "raw"), str(DATA / "ada_torch_32"))}
    assert rows["img_Graw_psi0.7_const"].passed is True
    assert rows["img_ws_random_const"].passed is None


def test_a_wrong_weight_is_found(tmp_path: pathlib.Path) -> None:
    """An instance-norm epsilon of 1e-5 moves pictures by about 1e-3: the bounds must see it."""
    opened = open_weights(str(DATA / "sg1_tf_32_fused/network.pkl"))
    model = front.convert(opened, Choice())
    architecture, _ = model.parts["generator"]
    architecture["epsilon"] = 1e-5
    write(model, opened, str(tmp_path / "model"), overwrite=False)
    rows = verify(str(tmp_path / "model"), str(DATA / "sg1_tf_32_fused"))
    assert [row.name for row in rows if row.passed is False and row.name.startswith("img_")]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_command_lines(tmp_path: pathlib.Path) -> None:
    """Converts, refuses to overwrite, overwrites, verifies, refuses another kind's folder."""
    source, out = str(DATA / "sg2_tf_32/network.pkl"), str(tmp_path / "model")
    done = command("converters.convert", f"--src={source}", f"--dst={out}")
    assert done.returncode == 0, done.stderr
    assert "tf-pickle, stylegan2, network Gs" in done.stdout
    again = command("converters.convert", f"--src={source}", f"--dst={out}")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "--overwrite" in again.stderr
    done = command("converters.convert", f"--src={source}", f"--dst={out}", "--overwrite")
    assert done.returncode == 0, done.stderr
    done = command("converters.verify", f"--model={out}", f"--reference={DATA / 'sg2_tf_32'}")
    assert done.returncode == 0, done.stdout
    assert " 0 failed" in done.stdout
    with pytest.raises(ValueError, match="vgg16"):
        verify_main(VerifyConfig(out, str(DATA / "vgg16_narrow")))
    card = json.loads((tmp_path / "model/model.json").read_text())
    assert card["source"]["file"] == "network.pkl"
    assert len(card["source"]["sha256"]) == 64


def test_nothing_compared_is_a_failure(tmp_path: pathlib.Path) -> None:
    converted(DATA / "sg2_tf_32/network.pkl", tmp_path / "model")
    empty = tmp_path / "reference"
    empty.mkdir()
    (empty / "meta.json").write_text('{"kind": "stylegan2-tf"}')
    np.savez(empty / "reference.npz", z=np.zeros((1, 48), np.float32), other=np.zeros(3))
    with pytest.raises(ValueError, match="nothing was compared"):
        verify_main(VerifyConfig(str(tmp_path / "model"), str(empty)))


def test_rosinality_at_a_lower_size(tmp_path: pathlib.Path) -> None:
    source = DATA / "rosinality_sg1/g_running_legacy.model"
    converted(source, tmp_path / "model", Choice(resolution=64))
    assert fxjax.load(tmp_path / "model").resolution == 64
    rows = {row.name: row for row in verify(str(tmp_path / "model"), str(source.parent))}
    assert rows["img_step3"].passed is True
    assert rows["w"].passed is True
    with pytest.raises(WeightError, match="holds 8 to 1024 px"):
        converted(source, tmp_path / "other", Choice(resolution=96))


def test_the_mean_code_is_that_of_10_000_at_once() -> None:
    random = np.random.default_rng(1)
    arrays = {f"mapping/layers/{i}/kernel": random.normal(size=(12, 12)) / 3 for i in range(2)}
    arrays |= {f"mapping/layers/{i}/bias": random.normal(size=12) for i in range(2)}
    x = np.random.default_rng(0).standard_normal((10_000, 12), np.float32)
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-8)
    for i in range(2):
        x = x @ arrays[f"mapping/layers/{i}/kernel"] + arrays[f"mapping/layers/{i}/bias"]
        x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(rosinality1.mean_w(arrays, 2, 12), x.mean(axis=0), atol=1e-6)


def opened_with(source: Opened, name: str, network: Network) -> Opened:
    return Opened(source.path, source.sha256, source.format, {**source.networks, name: network}, {})


def test_wrong_missing_and_extra_weights_are_named() -> None:
    opened = open_weights(str(DATA / "sg2_tf_32/network.pkl"))
    network = opened.networks["Gs"]

    def convert(**weights: np.ndarray | None) -> None:
        changed = {**network.weights, **weights}
        kept = {key: value for key, value in changed.items() if value is not None}
        other = Network(network.kind, network.options, kept)
        front.convert(opened_with(opened, "Gs", other), Choice())

    bias = network.weights["synthesis/8x8/Conv1/bias"]
    with pytest.raises(WeightError, match="synthesis/8x8/Conv1/bias"):
        convert(**{"synthesis/8x8/Conv1/bias": None})
    with pytest.raises(WeightError, match="synthesis/8x8/Conv9/bias"):
        convert(**{"synthesis/8x8/Conv9/bias": bias})
    with pytest.raises(WeightError, match="synthesis/8x8/Conv1/bias"):
        convert(**{"synthesis/8x8/Conv1/bias": bias[:-1]})
    with pytest.raises(WeightError, match=r"Conv1/bias.*(NaN|finite)"):
        convert(**{"synthesis/8x8/Conv1/bias": bias * np.nan})


@pytest.mark.parametrize(
    ("option", "value"), [("architecture", "resnet"), ("nonlinearity", "relu"), ("surprise", 1)]
)
def test_unknown_options_are_refused(option: str, value: object) -> None:
    opened = open_weights(str(DATA / "sg2_tf_32/network.pkl"))
    network = opened.networks["Gs"]
    other = Network(network.kind, {**network.options, option: value}, network.weights)
    with pytest.raises(WeightError, match=option):
        front.convert(opened_with(opened, "Gs", other), Choice())


def test_absent_network_lists_what_there_is() -> None:
    opened = open_weights(str(DATA / "sg2_tf_32/network.pkl"))
    with pytest.raises(WeightError, match="G, D, Gs"):
        front.convert(opened, Choice(network="G_ema"))


def test_every_setting_is_explained() -> None:
    assert "--sha256" in cli.describe(Config, front.__doc__ or "")
