"""Reads state dicts: torch files (zip and the older stream) without torch, and .safetensors.

Tensors are views of the files' bytes.
"""

import io
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
from safetensors import deserialize

from converters.arrays import checked_sizes, numpy_builders
from converters.pickles import (
    Builder,
    Global,
    Inert,
    Machine,
    WeightError,
    bytes_like,
    load,
    shorten,
)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ADVICE = (
    "a whole pickled model cannot be read: load it where it was made, save its state_dict() with "
    "torch.save, and convert that file"
)
CODES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",  # widened to float32 when its values are read
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "UntypedStorage": "u1",
}
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # widened to float32 when its values are read
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
# Where names begin with one of these, the file holds several networks, as a checkpoint does.
WHOLES = ("g_ema.", "g_running.", "state_dict.", "G_ema.")


def widened(values: np.ndarray) -> np.ndarray:
    """Numbers of bfloat16, given as uint16, as float32: they are its upper halves."""
    return (values.astype(np.uint32) << 16).view(np.float32)


class Storage(Inert):
    """A flat run of `size` numbers; without `values` until its bytes are known."""

    def __init__(self, kind: str, size: int):
        self.kind = kind
        self.size = size
        self.values: np.ndarray | None = None

    def take(self, raw: bytes, order: str) -> None:
        """Takes the bytes, in byte order `order` ("<" or ">"). WeightError: too few or too many."""
        dtype = np.dtype(order + CODES[self.kind])
        if len(raw) != self.size * dtype.itemsize:
            raise WeightError(
                f"is damaged: a {self.kind} of {self.size} numbers needs "
                f"{self.size * dtype.itemsize} bytes but {len(raw)} are there; get the file again"
            )
        values = np.ndarray((self.size,), dtype, raw)
        self.values = widened(values) if self.kind == "BFloat16Storage" else values


class Tensor(Inert):
    """A strided view of a storage: offset, size and strides count numbers, not bytes."""

    def __init__(self, *layout: Any):
        self.layout = layout

    def build(self, machine: Machine, state: Any) -> None:
        """Takes what torch before 0.4 wrote: a layout, or a parameter's (tensor, ...) state."""
        if type(state) is tuple and len(state) == 4:
            self.layout = state
        elif type(state) is tuple and len(state) == 5 and isinstance(state[0], Tensor):
            self.layout = state[0].layout
        elif type(state) is not tuple or len(state) != 3:  # 3: flags and hooks of a parameter
            raise WeightError("is damaged: a tensor with an unknown state")

    def array(self) -> np.ndarray:
        """The numbers, without a copy. WeightError: the view leaves its storage."""
        if len(self.layout) != 4 or not isinstance(self.layout[0], Storage):
            raise WeightError("is damaged: a tensor without a storage")
        values = self.layout[0].values
        if values is None:
            raise WeightError("is damaged: a tensor whose storage is not in the file")
        (offset,) = checked_sizes([self.layout[1]])
        size, strides = checked_sizes(self.layout[2]), checked_sizes(self.layout[3])
        if len(size) != len(strides):
            raise WeightError("is damaged: a tensor with more sizes than strides, or fewer")
        numbers = math.prod(size)
        last = offset + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
        if numbers > values.size or (numbers and last >= values.size):
            raise WeightError(
                f"is damaged: a tensor of size {size}, strides {strides} and offset {offset} does "
                f"not fit its storage of {values.size} numbers"
            )
        if not numbers:
            return np.zeros(size, values.dtype)
        steps = tuple(stride * values.itemsize for stride in strides)
        return np.ndarray(size, values.dtype, values, offset * values.itemsize, steps)


class Namespace(Inert):
    """`argparse.Namespace`: the options that a training was started with, as data."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}

    def build(self, machine: Machine, state: Any) -> None:
        """Takes the options. WeightError: not a dict."""
        if type(state) is not dict:
            raise WeightError("is damaged: options that are not a dict")
        self.values = state


def make_namespace(machine: Machine, arguments: tuple[Any, ...]) -> Namespace:
    """`argparse.Namespace()`: BUILD brings the options."""
    if arguments:
        raise WeightError("makes options with arguments; refused")
    return Namespace()


def make_tensor(machine: Machine, arguments: tuple[Any, ...]) -> Tensor:
    """`_rebuild_tensor_v2(storage, offset, size, strides, ...)`; the rest concerns training."""
    return Tensor(*arguments[:4])


def make_parameter(machine: Machine, arguments: tuple[Any, ...]) -> Tensor:
    """`_rebuild_parameter(tensor, ...)`: the tensor."""
    if arguments and not isinstance(arguments[0], Tensor):
        raise WeightError("is damaged: a parameter without a tensor")
    return arguments[0] if arguments else Tensor()


def make_size(machine: Machine, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """`torch.Size((1, 2))`: the tuple."""
    return checked_sizes(arguments[0])


def make_device(machine: Machine, arguments: tuple[Any, ...]) -> None:
    """`torch.device("cuda", 0)`: where the tensors were does not matter."""


def make_storage(machine: Machine, arguments: tuple[Any, ...]) -> Storage:
    """`torch.storage._load_from_bytes(bytes)`: the stream that a pickled storage holds."""
    (raw,) = arguments
    machine.spend(len(bytes_like(raw)))
    storage = read_stream(raw)
    if not isinstance(storage, Storage):
        raise WeightError("is damaged: the bytes of a storage hold something else")
    return storage


def not_called(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    """The builder of storage classes, which persistent ids only mention."""
    raise WeightError("makes an empty torch storage; refused")


def torch_builders() -> Mapping[str, Builder]:
    """The names that a state dict needs."""
    found = dict(numpy_builders())
    found |= {
        "torch._utils _rebuild_tensor": make_tensor,
        "torch._utils _rebuild_tensor_v2": make_tensor,
        "torch._utils _rebuild_parameter": make_parameter,
        "torch._utils _rebuild_parameter_with_state": make_parameter,
        "torch.nn.parameter Parameter": make_parameter,
        "torch Size": make_size,
        "argparse Namespace": make_namespace,
        "torch device": make_device,
        "torch.storage UntypedStorage": not_called,
    }
    for kind in CODES:
        found[f"torch {kind}"] = not_called
        found[f"torch {kind.removesuffix('Storage')}Tensor"] = make_parameter  # torch before 0.2
    return found


def storage_of(identity: Any) -> tuple[Storage, str, Any]:
    """An empty storage, its key and its view, from a persistent id. WeightError: anything else."""
    if type(identity) is tuple and identity[:1] == ("module",):
        raise WeightError(f"holds a whole pickled model; {ADVICE}")
    kind, key, _, size = identity[1:5]  # _: the device that it was on
    name = kind.name.split(" ")[1] if isinstance(kind, Global) else ""
    if identity[0] != "storage" or name not in CODES or not isinstance(key, str):
        raise WeightError("is damaged: a torch storage with an unknown description")
    return Storage(name, *checked_sizes([size])), key, identity[5] if len(identity) > 5 else None


def read_stream(data: bytes) -> Any:
    """The object of a torch file of the older kind (five pickles, then the raw numbers).

    Raises:
        WeightError: not such a file, or one that wants more than a state dict.
        ValueError, KeyError, struct.error, ...: damaged bytes.
    """
    stream = io.BytesIO(data)
    if load(stream, {}, ADVICE) != MAGIC or load(stream, {}, ADVICE) != PROTOCOL:
        raise WeightError("is damaged: not a torch file of protocol 1001; get the file again")
    load(stream, {}, ADVICE)  # the writer's type sizes; the numbers are little-endian always
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []

    def persistent(identity: Any) -> Storage:
        storage, key, part = storage_of(identity)
        storage = storages.setdefault(key, storage)
        if part is None:
            return storage
        offset, size = checked_sizes(part[1:])
        views.append((Storage(storage.kind, size), storage, offset))
        return views[-1][0]

    value = load(stream, torch_builders(), ADVICE, persistent)
    for key in load(stream, {}, ADVICE):
        storage = storages[key]
        (size,) = struct.unpack("<q", stream.read(8))
        if size != storage.size:
            raise WeightError(f"is damaged: a storage of {storage.size} numbers holds {size}")
        storage.take(stream.read(size * np.dtype(CODES[storage.kind]).itemsize), "<")
    for part, whole, offset in views:
        if whole.values is not None and offset + part.size <= whole.size:
            part.values = whole.values[offset : offset + part.size]
    return value


def read_zip(data: bytes) -> Any:
    """The object of a torch zip file. Nothing is extracted, and no entry outgrows the file.

    Raises:
        WeightError: not a torch file, TorchScript, or one that wants more than a state dict.
        BadZipFile, ValueError, KeyError, ...: damaged bytes.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if is_root(name)]
        if len(roots) != 1:
            raise WeightError(
                "is a zip archive but not a torch file; unpack it and convert the file inside"
            )
        root = roots[0]
        if any(name.startswith((f"{root}constants.pkl", f"{root}code/")) for name in entries):
            raise WeightError(
                "is a TorchScript file (it holds a program), which is not supported; "
                "convert the weights that it was scripted from, saved as a state dict"
            )
        wanted = [entry for name, entry in entries.items() if name.startswith(root)]
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in wanted)
        if not stored or sum(entry.file_size for entry in wanted) > len(data):
            raise WeightError(
                "is a zip archive with compressed or overlapping entries, which torch does not "
                "write; refused: save it again with torch.save"
            )
        order = "<"
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") == b"big":
            order = ">"
        storages: dict[tuple[str, str], Storage] = {}

        def persistent(identity: Any) -> Storage:
            storage, key, _ = storage_of(identity)
            if (key, storage.kind) not in storages:
                storage.take(archive.read(f"{root}data/{key}"), order)
                storages[key, storage.kind] = storage
            return storages[key, storage.kind]

        pickled = io.BytesIO(archive.read(f"{root}data.pkl"))
        return load(pickled, torch_builders(), ADVICE, persistent)


def is_root(name: str) -> bool:
    """Whether a zip entry is the pickle of a torch file."""
    return name == "data.pkl" or name.endswith("/data.pkl")


def state_dicts(value: Any) -> dict[str, Any]:
    """The tensors of a checkpoint in their nested dicts; numbers, lists and text are dropped.

    Raises:
        WeightError: no dict of tensors (the line says what it is), or nested too deep.
    """
    found = nested(value, 0, count()) if type(value) is dict else {}
    if not found:
        raise WeightError(
            "holds no dict of tensors; save a model's state_dict() with torch.save and convert that"
        )
    return found


def options_of(value: Any) -> dict[str, Any]:
    """The numbers and texts among a checkpoint's "opts" or "args", a dict or a Namespace."""
    found = [value.get(name) for name in ("opts", "args")] if type(value) is dict else []
    for options in found:
        options = options.values if isinstance(options, Namespace) else options
        if type(options) is dict:
            kept = (bool, int, float, str, type(None))
            return {k: v for k, v in options.items() if type(k) is str and type(v) in kept}
    return {}


def nested(value: dict[Any, Any], depth: int, visited: Iterator[int]) -> dict[str, Any]:
    """The tensors of one dict, and of the dicts in it."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if depth > 8 or next(visited) > 200_000:
            raise WeightError("nests its dicts too deep, or holds too many; not a state dict")
        if not isinstance(key, str):  # an optimizer's numbered states
            continue
        if isinstance(item, Tensor):
            found[key] = item.array()
        elif type(item) is dict and (inner := nested(item, depth + 1, visited)):
            found[key] = inner
    return found


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins like one: the table's length, below 2**40, and the table."""
    return data[5:9] == b"\0\0\0{"


def read_safetensors(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays, in dicts by network where there are several, and the texts about them.

    Raises:
        WeightError: types of numbers that are not read.
        SafetensorError, ValueError, ...: damaged bytes.
    """
    arrays: dict[str, Any] = {}
    for name, about in deserialize(data):
        kind = about["dtype"]
        if kind not in TYPES:
            raise WeightError(f"holds numbers of type '{shorten(str(kind))}', which are not read")
        values = np.frombuffer(about["data"], TYPES[kind])
        values = widened(values) if kind == "BF16" else values
        arrays[name] = values.reshape(about["shape"])
    size = int.from_bytes(data[:8], "little")
    texts = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    if not arrays:
        raise WeightError("holds no arrays")
    if not any(name.startswith(WHOLES) for name in arrays):
        return arrays, texts
    nested: dict[str, Any] = {}
    for name, value in arrays.items():
        whole, dot, rest = name.partition(".")
        inside = nested.setdefault(whole, {}) if dot else nested
        if not isinstance(inside, dict) or (not dot and whole in nested):
            raise WeightError(f"is damaged: '{shorten(whole)}' is both an array and a network")
        inside[rest if dot else whole] = value
    return nested, texts
