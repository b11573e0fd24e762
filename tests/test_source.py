"""Reading foreign weight files: every format, against independent readings of the same bytes."""

import hashlib
import io
import json
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import pytest
import weightfiles as wf
from weightfiles import opened, refusal

from converters.arrays import Array, numpy_builders
from converters.pickles import load
from converters.source import Source, WeightError, open_weights

DATA = pathlib.Path(__file__).parent / "data"
VGG = DATA / "vgg16_narrow" / "vgg16_narrow_keras_notop_published_names.h5"


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# --- The official formats -------------------------------------------------------------------------


class Stub:
    """Any class or function of an official pickle, for the standard library's unpickler."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any):
        self.state = state


class Bytes(Stub):
    """A storage: the raw numbers are the tail of its stream."""


class StandardUnpickler(pickle.Unpickler):
    """Of our own fixtures only: makes numpy arrays and stubs."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "collections"):
            return super().find_class(module, name)
        if name == "EasyDict":
            return dict
        return Bytes if name == "_load_from_bytes" else type(name, (Stub,), {})


def standard(path: pathlib.Path) -> Any:
    return StandardUnpickler(io.BytesIO(path.read_bytes())).load()


def tensorflow_arrays(network: Any) -> dict[str, np.ndarray]:
    found = dict(network.state["variables"])
    for prefix, component in network.state["components"].items():
        found |= {f"{prefix}/{k}": v for k, v in tensorflow_arrays(component).items()}
    return found


def torch_arrays(module: Any) -> dict[str, np.ndarray]:
    state = module.arguments[0]["state"]
    found = {}
    for name, item in {**state["_parameters"], **state["_buffers"]}.items():
        if item is None:
            continue
        tensor = item if isinstance(item.arguments[0], Bytes) else item.arguments[0]
        source, offset, size, _, *_ = tensor.arguments
        count = int(np.prod(size))
        assert offset == 0
        raw = source.arguments[0][-4 * count :]
        found[name] = np.frombuffer(raw, np.float32).reshape(size)
    for prefix, child in state["_modules"].items():
        found |= {f"{prefix}/{k}": v for k, v in torch_arrays(child).items()}
    return found


@pytest.mark.parametrize("folder", ["sg1_tf_32_fused", "sg2_tf_32"])
def test_tensorflow_pickle_as_the_standard_library_reads_it(folder: str):
    path = DATA / folder / "network.pkl"
    ours = open_weights(str(path))
    meta = json.loads((path.parent / "meta.json").read_text())
    assert (ours.format, list(ours.networks), ours.tensors) == ("tf-pickle", ["G", "D", "Gs"], {})
    assert ours.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for network, twin in zip(ours.networks.values(), standard(path), strict=True):
        arrays = tensorflow_arrays(twin)
        assert network.kind == twin.state["build_func_name"]
        assert list(network.weights) == list(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(network.weights[name], value, strict=False)
            assert network.weights[name].shape == np.shape(value)
    assert ours.networks["Gs"].options == meta["g_kwargs"]
    assert ours.networks["D"].options == meta["d_kwargs"]
    reference = np.load(path.parent / "reference.npz")
    np.testing.assert_array_equal(
        ours.networks["Gs"].weights["dlatent_avg"], reference["dlatent_avg"]
    )


def test_ada_pickle_as_the_standard_library_reads_it():
    path = DATA / "ada_torch_32" / "network.pkl"
    ours, twins = open_weights(str(path)), standard(path)
    assert (ours.format, list(ours.networks), ours.tensors) == (
        "ada-pickle",
        ["G", "D", "G_ema"],
        {},
    )
    for key, network in ours.networks.items():
        arrays = torch_arrays(twins[key])
        assert sorted(network.weights) == sorted(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(network.weights[name], value, strict=True)
    generator, reference = ours.networks["G_ema"], np.load(path.parent / "reference.npz")
    assert generator.kind == "Generator"
    assert ours.networks["D"].kind == "Discriminator"
    assert generator.weights["synthesis/b4/conv1/weight"].shape == (32, 32, 3, 3)
    assert generator.options["z_dim"] == 48
    assert generator.options["args"] == []
    assert generator.options["synthesis_kwargs"]["conv_clamp"] == 256
    np.testing.assert_array_equal(generator.weights["mapping/w_avg"], reference["w_avg"])


def test_rosinality_stream():
    ours = open_weights(str(DATA / "rosinality_sg1" / "g_running_legacy.model"))
    assert (ours.format, len(ours.tensors), ours.networks) == ("torch", 139, {})
    assert ours.tensors["generator.progression.0.conv1.input"].shape == (1, 24, 4, 4)
    assert all(np.isfinite(v).all() and v.dtype == np.float32 for v in ours.tensors.values())


def arrays_in(tensors: Mapping[str, Any]) -> int:
    return sum(arrays_in(t) if isinstance(t, Mapping) else 1 for t in tensors.values())


def test_every_shared_fixture_opens(shared: pathlib.Path):
    kinds = {}
    for path in sorted(shared.glob("fixtures/*/*")):
        if path.suffix not in (".npz", ".json"):
            ours = open_weights(str(path))
            kinds[path.name] = ours
            arrays = sum(len(n.weights) for n in ours.networks.values()) + arrays_in(ours.tensors)
            assert arrays > 2, path
    whole = kinds["train_step-5.model"].tensors["g_running"]  # zip
    for name, value in kinds["g_running_legacy.model"].tensors.items():  # stream
        np.testing.assert_array_equal(whole[name], value)
    new = kinds["vgg16_narrow_torchvision.pth"].tensors
    for name, value in kinds["vgg16_narrow_torchvision_legacy.pth"].tensors.items():
        np.testing.assert_array_equal(new[name], value)
    old = kinds["vgg16_narrow_keras_notop_published_names.h5"].tensors
    for name, value in kinds["vgg16_narrow_keras_notop.h5"].tensors.items():
        np.testing.assert_array_equal(old[name], value)
    np.testing.assert_array_equal(
        old["block5_conv3/kernel"], new["features.28.weight"].transpose(2, 3, 1, 0)
    )


# --- Pickled arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        numbers(2, 3, 4),
        np.asfortranarray(numbers(3, 5)),
        numbers(4).astype(">f8"),
        np.arange(-3, 3, dtype=np.int16),
        np.array([[True, False]]),
        np.zeros((0, 3), np.float16),
        np.float32(1.5),
        np.array(2, np.int64),
    ],
    ids=lambda v: f"{v.dtype.str}{v.shape}",
)
def test_numpy_arrays_of_every_protocol(value: Any, protocol: int):
    stream = io.BytesIO(pickle.dumps({"x": value}, protocol))
    found = load(stream, numpy_builders(), "")["x"]
    assert isinstance(found, Array)
    assert found.value is not None
    assert found.value.dtype == value.dtype
    np.testing.assert_array_equal(found.value, value, strict=False)
    assert found.value.shape == value.shape


def test_containers_of_every_protocol():
    value = {"a": [1, -2, 2**40, 1.5, None, True], "b": ("ä", (), (1,)), "c": {"x", "y"}, 3: {}}
    for protocol in range(6):
        assert load(io.BytesIO(pickle.dumps(value, protocol)), numpy_builders(), "") == value


def test_array_written_by_python_2():
    """Protocols 0 and 2 of Python 2: raw bytes in STRING and SHORT_BINSTRING."""
    value = np.array([1.0, -2.5, 3e10], "<f4")
    quoted = repr(value.tobytes())[1:].encode()
    for raw in (b"S" + quoted + b"\n", b"U\x0c" + value.tobytes()):
        code = wf.array(value, raw=wf.Code(raw))
        found = load(io.BytesIO(b"\x80\x02" + code + b"."), numpy_builders(), "")
        np.testing.assert_array_equal(found.value, value, strict=True)


def test_new_numpy_names(tmp_path: pathlib.Path):
    """numpy 2 writes numpy._core, numpy 1 numpy.core; both are read on either."""
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        scalar = wf.call(module, "scalar", wf.dtype("f8"), np.float64(0.5).tobytes())
        net = wf.network("G_main", [("lod", scalar)], {"beta": scalar})
        ours = opened(tmp_path, wf.pickled((net, net, net)))
        assert ours.networks["Gs"].options == {"beta": 0.5}
        assert ours.networks["Gs"].weights["lod"].shape == ()


def test_tensorflow_components_and_options(tmp_path: pathlib.Path):
    weight = numbers(2, 3)
    mapping = wf.network("G_mapping", [("Dense0/weight", weight)])
    options = {"a": [1, (2, 3)], "b": wf.call("dnnlib.util", "EasyDict"), "c": None}
    top = wf.network("G_style", [("lod", numbers())], options, {"mapping": mapping})
    gs = opened(tmp_path, wf.pickled((top, top, top))).networks["Gs"]
    assert gs.options == {"a": [1, [2, 3]], "b": {}, "c": None}
    assert list(gs.weights) == ["lod", "mapping/Dense0/weight"]
    np.testing.assert_array_equal(gs.weights["mapping/Dense0/weight"], weight)


def test_ada_positional_arguments(tmp_path: pathlib.Path):
    mapping = wf.module("MappingNetwork")
    state = {"_init_args": (512, 0, 256), "_init_kwargs": {"w_dim": 128, "img_resolution": 64}}
    generator = wf.module("Generator", None, {"mapping": mapping}, **state)
    ours = opened(tmp_path, wf.pickled({"G": None, "G_ema": generator}))
    assert list(ours.networks) == ["G_ema"]
    options = ours.networks["G_ema"].options
    assert (options["z_dim"], options["c_dim"], options["w_dim"]) == (512, 0, 128)
    assert options["img_resolution"] == 64
    assert options["args"] == [512, 0, 256]


# --- torch ----------------------------------------------------------------------------------------

FORMATS = {"zip": wf.torch_zip, "stream": wf.torch_stream}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_torch_state_dict(tmp_path: pathlib.Path, write: Any):
    arrays = {
        "a.weight": numbers(4, 3, 2),
        "a.half": numbers(3).astype(np.float16),
        "a.double": numbers(2).astype(np.float64),
        "a.count": np.array(7),
        "a.mask": np.array([True, False]),
        "a.empty": numbers(0, 3),
    }
    tensors, storages = wf.state_dict(arrays)
    value = {"epoch": 3, "model": tensors, "optimizer": {"state": {0: tensors}, "groups": [1]}}
    ours = opened(tmp_path, write(value, storages))
    assert ours.format == "torch"
    assert list(ours.tensors) == ["model"]
    for name, value in arrays.items():
        np.testing.assert_array_equal(ours.tensors["model"][name], value, strict=True)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_torch_views_share_a_storage(tmp_path: pathlib.Path, write: Any):
    values = np.arange(24, dtype=np.float32)
    source = wf.storage("0", 24, place="cuda:3")
    state = {
        "part": wf.tensor(source, 4, (2, 3), (3, 1)),
        "transposed": wf.tensor(source, 0, (4, 6), (1, 4)),
        "scalar": wf.tensor(source, 23, (), ()),
        "expanded": wf.tensor(source, 5, (3, 2), (0, 1)),
    }
    ours = opened(tmp_path, write(state, {"0": values})).tensors
    np.testing.assert_array_equal(ours["part"], values[4:10].reshape(2, 3))
    np.testing.assert_array_equal(ours["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(ours["expanded"], [[5, 6]] * 3)
    assert ours["scalar"] == 23


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_torch_bfloat16(tmp_path: pathlib.Path, write: Any):
    bits = np.array([0x3F80, 0xC000, 0x3E20], np.uint16)  # 1, -2, 0.15625
    state = {"x": wf.tensor(wf.storage("0", 3, "BFloat16"), 0, (3,), (1,))}
    found = opened(tmp_path, write(state, {"0": bits})).tensors["x"]
    np.testing.assert_array_equal(found, np.array([1, -2, 0.15625], np.float32), strict=True)


def test_torch_zip_of_a_big_endian_machine(tmp_path: pathlib.Path):
    values = numbers(5)
    tensors, _ = wf.state_dict({"x": values})
    ours = opened(tmp_path, wf.torch_zip(tensors, {"0": values.astype(">f4")}, "big"))
    np.testing.assert_array_equal(ours.tensors["x"], values)


def test_torch_parameters_of_every_age(tmp_path: pathlib.Path):
    values = numbers(2, 3)
    plain = wf.plain_tensor("0", values)
    new = wf.call(
        "torch._utils", "_rebuild_parameter", plain, True, wf.call("collections", "OrderedDict")
    )
    layout = (wf.storage("0", 6), 0, (2, 3), (3, 1))
    old = wf.call("torch._utils", "_rebuild_tensor", *layout)
    older = wf.built(wf.new("torch", "FloatTensor"), layout)
    named = wf.built(wf.call("torch.nn.parameter", "Parameter", old), (True, False, None))
    oldest = wf.built(wf.new("torch.nn.parameter", "Parameter"), (older, True, False, None, None))
    state = {"new": new, "old": old, "older": older, "named": named, "oldest": oldest}
    metadata = wf.built(wf.call("collections", "OrderedDict", [["new", new]]), {"_metadata": {}})
    for value, names in ((state, list(state)), (metadata, ["new"])):
        tensors = opened(tmp_path, wf.torch_stream(value, {"0": values.ravel()})).tensors
        assert list(tensors) == names
        for name in names:
            np.testing.assert_array_equal(tensors[name], values)


def test_options_are_data(tmp_path: pathlib.Path):
    """The numbers and texts of a Namespace or a dict; whatever else is in it is left there."""
    tensors, storages = wf.state_dict({"x": numbers(2)})
    kept = {"size": 64, "rate": 0.5, "name": "e4e", "mixing": True, "none": None}
    options = kept | {"steps": [1, 2], "weights": tensors["x"], 3: 4}
    namespace = wf.built(wf.new("argparse", "Namespace"), options)
    for value in (options, namespace, wf.built(wf.call("argparse", "Namespace"), options)):
        for write in FORMATS.values():
            data = write({"state_dict": tensors, "opts": value}, storages)
            ours = opened(tmp_path, data)
            assert ours.options == kept
            np.testing.assert_array_equal(ours.tensors["state_dict"]["x"], numbers(2))
    assert opened(tmp_path, wf.torch_zip(tensors, storages)).options == {}
    assert opened(tmp_path, wf.torch_zip({**tensors, "args": namespace}, storages)).options == kept


def test_torch_storage_views(tmp_path: pathlib.Path):
    identity = ("storage", wf.name("torch", "FloatStorage"), "0", "cpu", 6, ("1", 2, 3))
    part = wf.Code(wf.emit(identity) + b"Q")
    data = wf.torch_stream({"x": wf.tensor(part, 0, (3,), (1,))}, {"0": np.arange(6, dtype="f4")})
    np.testing.assert_array_equal(opened(tmp_path, data).tensors["x"], [2, 3, 4])


# --- Keras ----------------------------------------------------------------------------------------


def keras(arrays: dict[str, dict[str, np.ndarray]], group: str = "") -> bytes:
    """A Keras file: {layer: {weight name: array}}, below `group`."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        top = file.create_group(group) if group else file
        top.attrs["layer_names"] = [name.encode() for name in arrays]
        for layer, weights in arrays.items():
            inside = top.create_group(layer)
            inside.attrs["weight_names"] = np.array([n.encode() for n in weights], "S40")
            for name, value in weights.items():
                inside.create_dataset(name, data=value)
    return out.getvalue()


def test_published_keras_names():
    ours = open_weights(str(VGG))
    assert ours.format == "keras-h5"
    assert len(ours.tensors) == 26
    with h5py.File(VGG) as file:
        for name, value in ours.tensors.items():
            layer, kind = name.split("/")
            twin = file[f"{layer}/{layer}_{'W' if kind == 'kernel' else 'b'}_1:0"]
            np.testing.assert_array_equal(value, twin, strict=True)


@pytest.mark.parametrize("pattern", ["{0}/{1}:0", "{0}_1/{1}:0", "{0}_{2}_1:0", "{0}_{2}", "{1}"])
@pytest.mark.parametrize("group", ["", "model_weights"])
def test_keras_names_are_made_equal(tmp_path: pathlib.Path, pattern: str, group: str):
    kernel, bias = numbers(3, 3, 1, 2), numbers(2)
    names = [
        pattern.format("block1_conv1", "kernel", "W"),
        pattern.format("block1_conv1", "bias", "b"),
    ]
    data = keras(
        {"input_1": {}, "block1_conv1": dict(zip(names, (kernel, bias), strict=True))}, group
    )
    found = opened(tmp_path, data).tensors
    assert list(found) == ["block1_conv1/kernel", "block1_conv1/bias"]
    np.testing.assert_array_equal(found["block1_conv1/kernel"], kernel, strict=True)


def test_keras_model_inside_a_model(tmp_path: pathlib.Path):
    inner = {f"block1_conv{k}/{kind}:0": numbers(k) for k in (1, 2) for kind in ("kernel", "bias")}
    found = opened(tmp_path, keras({"vgg16": inner})).tensors
    assert sorted(found) == sorted(name.removesuffix(":0") for name in inner)


# --- Source ---------------------------------------------------------------------------------------


def test_source_reads_float32_and_knows_what_is_left():
    weights = {
        "a": np.arange(6, dtype=">f8").reshape(3, 2).T,
        "b": np.ones(1, np.float16),
        "lod": np.array(0),
    }
    read = Source(weights, "file.pkl")
    assert "a" in read
    assert "c" not in read
    assert read("a").dtype == np.float32
    assert read("a").flags.c_contiguous
    np.testing.assert_array_equal(read("a", (2, None)), weights["a"])
    with pytest.raises(WeightError, match=r"file.pkl: also holds 'b', 'lod', which"):
        read.done()
    read("b")
    read.done(ignore=["lo*"])


@pytest.mark.parametrize(
    ("name", "shape", "line"),
    [
        ("c", None, r"lacks 'c'"),
        ("a", (3, 2), r"'a' has shape \(2, 3\) where \(3, 2\) belongs"),
        ("a", (2, 3, 1), r"'a' has shape \(2, 3\)"),
        ("nan", None, r"'nan' holds NaN or infinity in 1 of 2 numbers"),
        ("inf", None, r"'inf' holds NaN or infinity in 1 of 1 numbers"),
        ("large", None, r"'large' holds NaN or infinity"),
    ],
)
def test_source_refuses(name: str, shape: Any, line: str):
    weights = {
        "a": numbers(2, 3),
        "nan": np.array([0, np.nan], np.float32),
        "inf": np.array([-np.inf], np.float32),
        "large": np.array(1e300),
    }
    with pytest.raises(WeightError, match=line):
        Source(weights)(name, shape)


def test_source_lists_all_absent_names():
    with pytest.raises(WeightError, match="lacks 'x', 'y'"):
        Source({"a": numbers(1)}).need(["x", "a", "y"])


# --- Wrong files ----------------------------------------------------------------------------------


def test_sha256(tmp_path: pathlib.Path):
    path = DATA / "sg1_tf_32_fused" / "network.pkl"
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_weights(str(path), sha256=right.upper()).sha256 == right
    (tmp_path / "bad.pkl").write_bytes(b"not even a pickle")
    with pytest.raises(WeightError, match="has sha256 .*, not " + right):
        open_weights(str(tmp_path / "bad.pkl"), sha256=right)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n <!DOCTYPE html><title>Quota exceeded", "is a web page"),
        (b"<html><body>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
        (b"\x1f\x8b\x08\x00", "gzip-compressed; unpack"),
        (b"BZh91AY", "bzip2-compressed; unpack"),
        (b"\x00" * 257 + b"ustar\x0000", "tar archive; unpack"),
        (b"\x93NUMPY\x01\x00", "is a numpy array"),
        (b"\x08\x00\x00\x00weights", "not a weight file of a known kind"),
        (b"PK\x05\x06" + bytes(18), "zip archive but not a torch file; unpack"),
        (b"\x80\x04K\x01.", "is a pickle of one int, not of StyleGAN networks"),
        (b"\x80", "is damaged or cut short"),
        (b"\x89HDF\r\n\x1a\n", "is damaged"),
    ],
)
def test_other_files(tmp_path: pathlib.Path, data: bytes, line: str):
    assert line in refusal(tmp_path, data)


def test_absent_file_and_folder(tmp_path: pathlib.Path):
    for path in (tmp_path / "absent.pkl", tmp_path):
        with pytest.raises(WeightError, match="cannot be read"):
            open_weights(str(path))


def test_unsupported_relatives(tmp_path: pathlib.Path):
    progan = wf.built(wf.new("tfutil", "Network"), {"version": 2})
    assert "ProGAN" in refusal(tmp_path, wf.pickled((progan,) * 3))
    assert "ProGAN" in refusal(tmp_path, wf.pickled((wf.network("G_paper", []),) * 3))
    for state in ({"layer_names": ["L0_36_512"]}, {"_modules": {"L0_36_512": wf.module("Layer")}}):
        synthesis = wf.module("SynthesisNetwork", **state)
        generator = wf.module("Generator", None, {"synthesis": synthesis})
        assert "StyleGAN3 alias-free" in refusal(tmp_path, wf.pickled({"G_ema": generator}))
    planes = wf.module("TriPlaneGenerator", None, {"backbone": wf.module("Generator", {"w": 1})})
    unread = wf.new("training.volumetric_rendering.renderer", "ImportanceRenderer")
    for generator in (planes, wf.module("TriPlaneGenerator", None, {"renderer": unread})):
        assert "EG3D" in refusal(tmp_path, wf.pickled({"G_ema": generator}))
    lone = refusal(tmp_path, wf.pickled(wf.network("lpips_network", [])))
    assert "one network 'lpips_network'" in lone
    assert "unknown version" in refusal(
        tmp_path, wf.pickled(wf.built(wf.new("dnnlib.tflib.network", "Network"), {"version": 9}))
    )


def test_torch_files_that_are_not_state_dicts(tmp_path: pathlib.Path):
    model = wf.new("torchvision.models.vgg", "VGG")
    module = wf.Code(wf.emit(("module", wf.name("torch", "Size"), "vgg.py", "source")) + b"Q")
    for write in FORMATS.values():
        line = refusal(tmp_path, write(model, {}))
        assert "'torchvision.models.vgg.VGG'" in line
        assert "save its state_dict()" in line
        assert "whole pickled model" in refusal(tmp_path, write(module, {}))
        assert "holds no dict of tensors" in refusal(tmp_path, write({"epoch": 1}, {}))
        lone = wf.plain_tensor("0", numbers(2))
        assert "holds no dict of tensors" in refusal(tmp_path, write(lone, {"0": numbers(2)}))


def test_torchscript(tmp_path: pathlib.Path):
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("vgg16/data.pkl", "vgg16/constants.pkl", "vgg16/code/__torch__.py"):
            archive.writestr(name, b"x" * 100)
    assert "TorchScript" in refusal(tmp_path, script.getvalue())


def test_damaged_networks(tmp_path: pathlib.Path):
    broken = {
        "not an array": wf.network("G_style", [("w", "text")]),
        "there twice": wf.network("G_style", [("w", numbers(1))] * 2),
        "without its options": wf.network("G_style", [], [1]),
        "an option 'x' that is a bytes": wf.network("G_style", [], {"x": b"1"}),
        "nested too deep": wf.network("G_style", None),
        "not a network": wf.network("G_style", [], None, {"mapping": 1}),
    }
    for line, net in broken.items():
        assert line in refusal(tmp_path, wf.pickled((net, net, net)))
    assert "(G, D, Gs)" in refusal(tmp_path, wf.pickled((wf.network("G", []),)))
    generator = wf.module("Generator", {"w": 1})
    assert "'w' is not an array" in refusal(tmp_path, wf.pickled({"G": generator}))
    assert "unknown kind" in refusal(tmp_path, wf.pickled({"G": wf.module("G", None, {"m": 1})}))


def test_keras_files_without_weights(tmp_path: pathlib.Path):
    assert "without Keras' layer_names" in refusal(tmp_path, keras_with(lambda file: None))
    assert "holds no weights" in refusal(tmp_path, keras({"input_1": {}}))

    def integers(file: h5py.File) -> None:
        layer(file).create_dataset("w", data=np.arange(3))

    assert "floating point" in refusal(tmp_path, keras_with(integers))


def layer(file: h5py.File) -> h5py.Group:
    """The group of a layer that lists one weight "w"."""
    file.attrs["layer_names"] = [b"a"]
    group = file.create_group("a")
    group.attrs["weight_names"] = [b"w"]
    return group


def keras_with(fill: Any) -> bytes:
    """An HDF5 file that `fill` wrote."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        fill(file)
    return out.getvalue()


def test_keras_never_leaves_the_file(tmp_path: pathlib.Path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["w"] = numbers(3)
    (tmp_path / "secret.raw").write_bytes(numbers(3).tobytes())

    def external_link(file: h5py.File) -> None:
        layer(file)["w"] = h5py.ExternalLink(str(secret), "w")

    def external_layer(file: h5py.File) -> None:
        layer(file)
        del file["a"]
        file["a"] = h5py.ExternalLink(str(secret), "/")

    def soft_link(file: h5py.File) -> None:
        layer(file)["w"] = h5py.SoftLink("/elsewhere")
        file["elsewhere"] = h5py.ExternalLink(str(secret), "w")

    def external_storage(file: h5py.File) -> None:
        layer(file).create_dataset(
            "w", (3,), "f4", external=[(str(tmp_path / "secret.raw"), 0, 12)]
        )

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "w", (3,))
        layer(file).create_virtual_dataset("w", layout)

    def huge(file: h5py.File) -> None:
        layer(file).create_dataset("w", (2**38,), "f4", chunks=(2**10,), fillvalue=1)

    def unwritten(file: h5py.File) -> None:
        layer(file).create_dataset("w", (3,), "f4", chunks=(3,), fillvalue=1)

    lines = {
        external_link: "a link to somewhere else",
        external_layer: "a link to somewhere else",
        soft_link: "a link to somewhere else",
        external_storage: "outside of the file",
        virtual: "outside of the file",
        huge: "outgrows the file",
        unwritten: "no data",
        layer: "does not hold it",
    }
    for fill, line in lines.items():
        assert line in refusal(tmp_path, keras_with(fill)), fill


def test_a_crash_of_the_hdf5_library_is_one_line(tmp_path: pathlib.Path, monkeypatch: Any):
    script = tmp_path / "crash.py"
    script.write_text("import os; os.abort()")
    monkeypatch.setattr("converters.hdf5.__file__", str(script))
    assert "the HDF5 library failed on it (status -6)" in refusal(tmp_path, VGG.read_bytes())
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr("converters.hdf5.SECONDS", 0.2)
    assert "reading it took over 0.2 s" in refusal(tmp_path, VGG.read_bytes())
