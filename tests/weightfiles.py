"""Writes small weight files of the foreign formats, opcode by opcode, for the readers' tests."""

import io
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from converters.source import Opened, WeightError, open_weights


class Code(bytes):
    """Opcodes that push one value."""


def emit(value: Any) -> Code:
    """The opcodes that push `value` (protocol 3 at most); `Code` is taken as it is."""
    match value:
        case Code():
            return value
        case None:
            return Code(b"N")
        case bool():
            return Code(b"\x88" if value else b"\x89")
        case int() if abs(value) < 2**31:
            return Code(b"J" + struct.pack("<i", value))
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return Code(b"\x8a" + bytes([len(raw)]) + raw)
        case float():
            return Code(b"G" + struct.pack(">d", value))
        case str():
            return Code(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
        case bytes():
            return Code(b"B" + struct.pack("<I", len(value)) + value)
        case tuple():
            return Code(b"(" + b"".join(map(emit, value)) + b"t")
        case list():
            return Code(b"](" + b"".join(map(emit, value)) + b"e")
        case dict():
            pairs = b"".join(emit(k) + emit(v) for k, v in value.items())
            return Code(b"}(" + pairs + b"u")
        case np.ndarray():
            return array(value)
    raise TypeError(type(value))


def name(module: str, attribute: str) -> Code:
    """GLOBAL."""
    return Code(f"c{module}\n{attribute}\n".encode())


def call(module: str, attribute: str, *arguments: Any) -> Code:
    """GLOBAL, arguments, REDUCE."""
    return Code(name(module, attribute) + emit(arguments) + b"R")


def new(module: str, attribute: str, *arguments: Any) -> Code:
    """GLOBAL, arguments, NEWOBJ."""
    return Code(name(module, attribute) + emit(arguments) + b"\x81")


def built(target: Code, state: Any) -> Code:
    """A value and its state, BUILD."""
    return Code(target + emit(state) + b"b")


def dtype(code: str, order: str = "<") -> Code:
    """A numpy type as numpy pickles it."""
    state = (3, order, None, None, None, -1, -1, 0)
    return built(call("numpy", "dtype", code, 0, 1), state)


def array(value: np.ndarray, *, shape: Any = None, raw: Any = None, kind: Any = None) -> Code:
    """A numpy array as numpy 1 pickles it; the keywords tell lies."""
    made = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"b")
    shape = value.shape if shape is None else shape
    kind = dtype(value.dtype.str[1:]) if kind is None else kind
    raw = value.tobytes() if raw is None else raw
    return built(made, (1, shape, kind, False, raw))


def pickled(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x03" + emit(value) + b"."


def network(function: str, variables: Any, options: Any = None, components: Any = None) -> Code:
    """A TensorFlow network."""
    state = {
        "version": 4,
        "name": function,
        "static_kwargs": {} if options is None else options,
        "components": {} if components is None else components,
        "build_module_src": "raise SystemExit",
        "build_func_name": function,
        "variables": variables,
    }
    return built(new("dnnlib.tflib.network", "Network"), state)


def module(
    kind: str, tensors: Any = None, modules: Any = None, options: Any = None, **state: Any
) -> Code:
    """A module of an ADA pickle."""
    state = {
        "_parameters": {} if tensors is None else tensors,
        "_buffers": {},
        "_modules": {} if modules is None else modules,
        "_init_args": (),
        "_init_kwargs": {} if options is None else options,
        **state,
    }
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": kind}
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", {**meta, "state": state})


KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u1": "Byte", "b1": "Bool"}


def storage(key: str, size: int, kind: str = "Float", place: str = "cpu") -> Code:
    """A torch storage by its persistent id."""
    return Code(emit(("storage", name("torch", f"{kind}Storage"), key, place, size)) + b"Q")


def tensor(source: Code, offset: int, size: tuple[int, ...], strides: tuple[int, ...]) -> Code:
    """A torch tensor."""
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", source, offset, size, strides, False, hooks)


def plain_tensor(key: str, value: np.ndarray) -> Code:
    """A contiguous torch tensor with a storage of its own."""
    strides = tuple(step // value.itemsize for step in np.zeros(value.shape, value.dtype).strides)
    return tensor(storage(key, value.size, KINDS[value.dtype.str[1:]]), 0, value.shape, strides)


def torch_stream(
    value: Any, storages: Mapping[str, np.ndarray], pickled: bytes | None = None
) -> bytes:
    """A torch file of the older kind; `pickled` stands in for the pickle of `value`."""
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = [0x1950A86A20F9469CFC6C, 1001, sizes, value, list(storages)]
    parts = [b"\x80\x02" + emit(part) + b"." for part in head]
    out = b"".join([*parts[:3], parts[3] if pickled is None else pickled, parts[4]])
    for numbers in storages.values():
        out += struct.pack("<q", numbers.size) + numbers.tobytes()
    return out


def torch_zip(
    value: Any,
    storages: Mapping[str, np.ndarray],
    order: str = "little",
    pickled: bytes | None = None,
) -> bytes:
    """A torch zip file; `pickled` stands in for the pickle of `value`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickled or b"\x80\x02" + emit(value) + b".")
        archive.writestr("archive/byteorder", order)
        for key, numbers in storages.items():
            archive.writestr(f"archive/data/{key}", numbers.tobytes())
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def state_dict(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Code], dict[str, np.ndarray]]:
    """What `torch_stream` and `torch_zip` take, for arrays by name."""
    storages = {str(k): value.ravel() for k, value in enumerate(arrays.values())}
    tensors = {n: plain_tensor(str(k), value) for k, (n, value) in enumerate(arrays.items())}
    return tensors, storages


def opened(folder: pathlib.Path, data: bytes) -> Opened:
    """What is read of a file of these bytes, written into the folder."""
    (folder / "weights").write_bytes(data)
    return open_weights(str(folder / "weights"))


def refusal(folder: pathlib.Path, data: bytes) -> str:
    """The line with which a file of these bytes is refused: short, with its name first."""
    with pytest.raises(WeightError) as caught:
        opened(folder, data)
    line = str(caught.value)
    assert line.startswith(str(folder / "weights"))
    assert "\n" not in line
    assert len(line) < 1000
    return line
