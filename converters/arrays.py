"""numpy arrays, types and scalars as pickles describe them: checked, then viewed without copies."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.pickles import Builder, Global, Inert, Machine, WeightError, bytes_like, shorten

NUMERIC = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")


class DType(Inert):
    """A numeric numpy type; BUILD gives its byte order."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or not NUMERIC.fullmatch(code):
            what = shorten(code) if isinstance(code, str) else type(code).__name__
            raise WeightError(f"holds an array of type '{what}'; only numeric arrays are read")
        self.dtype = np.dtype(code)

    def build(self, machine: Machine, state: Any) -> None:
        """Takes (version, byte order, None, None, None, ...). WeightError: a structured type."""
        if type(state) is not tuple or any(item is not None for item in state[2:5]):
            raise WeightError("holds an array of a structured type; only numeric arrays are read")
        if state[1] not in ("<", ">", "=", "|"):
            raise WeightError("is damaged: an array type without a byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(Inert):
    """A numpy array; without a `value` until BUILD gives it one."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def build(self, machine: Machine, state: Any) -> None:
        """Takes ([version,] shape, type, is Fortran order, bytes), as numpy pickles it."""
        shape, dtype, fortran, raw = state[-4:]
        self.value = view(machine.encode(raw), dtype, shape, fortran=bool(fortran))


def checked_sizes(sizes: Any) -> tuple[int, ...]:
    """`sizes` if it is a plausible shape or stride: at most 32 integers, 0 to 2**40."""
    if type(sizes) not in (tuple, list) or len(sizes) > 32:
        raise WeightError("is damaged: an array whose shape is not a short tuple of integers")
    if not all(type(size) is int and 0 <= size < 2**40 for size in sizes):
        raise WeightError("is damaged: an array with a negative or absurdly large size")
    return tuple(sizes)


def view(raw: bytes, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray:
    """The array whose bytes are `raw`, without a copy. WeightError: shape and bytes disagree."""
    if not isinstance(dtype, DType):
        raise WeightError("is damaged: an array without a numpy type")
    shape = checked_sizes(shape)
    wanted = math.prod(shape) * dtype.dtype.itemsize
    if wanted != len(raw):
        raise WeightError(
            f"is damaged: an array of shape {shape} needs {wanted} bytes but {len(raw)} are there"
        )
    return np.ndarray(shape, dtype.dtype, raw, order="F" if fortran else "C")


def is_global(value: Any, name: str) -> bool:
    """Whether `value` is the table's entry called `name`."""
    return isinstance(value, Global) and value.name == name


def not_called(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    """The builder of a name that may be mentioned but not called."""
    raise WeightError("calls a class that plain weights only mention; refused")


def make_array(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    """Of numpy: `_reconstruct(ndarray, (0,), b"b")`: BUILD brings the real shape."""
    if not arguments or not is_global(arguments[0], "numpy ndarray"):
        raise WeightError("makes an array of a class that is not numpy.ndarray; refused")
    return Array()


def make_scalar(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    """Of numpy: `scalar(type, bytes)`, as an array without axes."""
    dtype, raw = arguments
    return Array(view(machine.encode(raw), dtype, (), fortran=False))


def make_from_buffer(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    """Of numpy: `_frombuffer(bytes, type, shape, order)` of pickle protocol 5."""
    raw, dtype, shape, order = arguments
    if order not in ("C", "F"):
        raise WeightError("holds an array whose memory order is neither 'C' nor 'F'")
    return Array(view(bytes_like(raw), dtype, shape, fortran=order == "F"))


def make_dtype(machine: Machine, arguments: tuple[Any, ...]) -> DType:
    """Of numpy: `dtype(code, align, copy)`."""
    return DType(arguments[0])


def make_encoded(machine: Machine, arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocols 0 to 2 write bytes."""
    text, codec = arguments
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise WeightError("encodes something that is not latin-1 text; refused")
    return machine.encode(text)


def make_bytes(machine: Machine, arguments: tuple[Any, ...]) -> bytes:
    """`bytes()`: how protocols 0 to 2 write no bytes."""
    if arguments:
        raise WeightError("calls bytes with arguments; refused")
    return b""


def make_dict(machine: Machine, arguments: tuple[Any, ...]) -> dict[str | int, Any]:
    """`OrderedDict()` or `OrderedDict([[key, value], ...])`, as a dict."""
    made: dict[str | int, Any] = {}
    if arguments:
        (pairs,) = arguments
        machine.extend(pairs, [])  # a list, or refused
        machine.spend(len(pairs))
        machine.fill(made, [key for key, _ in pairs], [value for _, value in pairs])
    return made


def make_set(machine: Machine, arguments: tuple[Any, ...]) -> set[str | int]:
    """`set([item, ...])`."""
    made: dict[str | int, Any] = {}
    if arguments:
        (items,) = arguments
        machine.extend(items, [])
        machine.spend(len(items))
        machine.fill(made, items, items)
    return set(made)


def numpy_builders() -> Mapping[str, Builder]:
    """The names that numpy arrays and Python's own containers need, for old and new numpy."""
    found: dict[str, Builder] = {
        "numpy ndarray": not_called,
        "numpy dtype": make_dtype,
        "_codecs encode": make_encoded,
        "collections OrderedDict": make_dict,
    }
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray _reconstruct"] = make_array
        found[f"{core}.multiarray scalar"] = make_scalar
        found[f"{core}.numeric _frombuffer"] = make_from_buffer
    for builtins in ("builtins", "__builtin__"):
        found[f"{builtins} set"] = make_set
        found[f"{builtins} bytes"] = make_bytes
    return found
