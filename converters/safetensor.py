"""Reads .safetensors files: a JSON table of names, types and shapes, then the numbers."""

import json
from typing import Any

import numpy as np
from safetensors import deserialize

from converters.pickles import WeightError, shorten

CODES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
# Where names begin with one of these, the file holds several networks, as a checkpoint does.
WHOLES = ("g_ema.", "g_running.", "state_dict.", "G_ema.")


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
        if kind not in CODES:
            raise WeightError(f"holds numbers of type '{shorten(str(kind))}', which are not read")
        values = np.frombuffer(about["data"], CODES[kind])
        if kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
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
