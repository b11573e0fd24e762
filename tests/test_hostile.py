"""Hostile weight files: none runs code, none takes the reader down, each ends in one clear line."""

import io
import json
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import weightfiles as wf

import converters.hdf5
from converters import ada, rosinality1, stylegan1
from converters.source import Choice, Reader, WeightError, open_weights

DATA = pathlib.Path(__file__).parent / "data"
SECONDS = 10  # far above what any of these files takes, far below a hang


def line_of(folder: pathlib.Path, data: bytes) -> str | None:
    """The refusal of a file, or None if it opened; anything but a WeightError fails the test."""
    path = folder / "weights"
    path.write_bytes(data)
    start = time.monotonic()
    try:
        open_weights(str(path))
        line = None
    except WeightError as error:
        line = str(error)
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        assert len(line) < 1000
        assert line.isascii()
    assert time.monotonic() - start < SECONDS
    return line


def refusal(folder: pathlib.Path, data: bytes) -> str:
    line = line_of(folder, data)
    assert line is not None
    return line


# Opens many files in a process of its own: the package without the tests' type checks is 20 times
# as fast, and a crash would not be that of the tests. Reads [file, place, bits]: no bits cut the
# file there, others flip them there. Writes [refusal or "", seconds].
OPEN_ALL = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from converters.source import WeightError, open_weights
lines = []
for path, place, bits in json.load(sys.stdin):
    whole = open(path, "rb").read()
    changed = bytearray(whole if bits else whole[:place])
    if bits:
        changed[place] ^= bits
    open(sys.argv[2], "wb").write(changed)
    start = time.monotonic()
    try:
        open_weights(sys.argv[2])
        line = ""
    except WeightError as error:
        line = str(error)
    lines.append([line, time.monotonic() - start])
json.dump(lines, sys.stdout)
"""


def start(program: str, folder: pathlib.Path, changes: list[tuple[str, int, int]]) -> Callable:
    """Starts OPEN_ALL or FORK_ALL; calling the result waits for its lines."""
    root = str(pathlib.Path(converters.hdf5.__file__).parent.parent)
    given, out = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
    json.dump(changes, given)
    given.seek(0)
    command = [sys.executable, "-c", program, root, str(folder / "changed")]
    process = subprocess.Popen(command, stdin=given, stdout=out)

    def finish() -> list[tuple[str, float]]:
        with given, out:
            assert process.wait() == 0
            out.seek(0)
            return [(line, seconds) for line, seconds in json.load(out)]

    return finish


# --- Files that want to run code ------------------------------------------------------------------

SYSTEM = wf.name("os", "system")
NUMPY = "numpy.core.multiarray"


def live(command: str) -> dict[str, bytes]:
    """Pickles that run a shell command when the standard library reads them, by how they do it."""
    shell = wf.emit((command,))
    python = f"__import__('os').system({command!r})"

    class Reduced:
        def __reduce__(self) -> Any:
            import os

            return os.system, (command,)

    return {
        "os.system": wf.pickled(wf.call("os", "system", command)),
        "posix.system": wf.pickled(wf.call("posix", "system", command)),
        "subprocess": wf.pickled(wf.call("subprocess", "getoutput", command)),
        "protocol 0": f"cos\nsystem\n(S{command!r}\ntR.".encode(),
        "protocol 4": pickle.dumps(Reduced(), 4),
        "eval": wf.pickled(wf.call("builtins", "eval", python)),
        "eval of Python 2": b"\x80\x02" + wf.call("__builtin__", "eval", python) + b".",
        "nested": wf.pickled(wf.call("builtins", "print", wf.call("os", "system", command))),
        "in an argument of numpy": wf.pickled(
            wf.call("numpy", "dtype", shell_call(shell)),
        ),
        "copyreg": wf.pickled(
            wf.call(
                "copyreg",
                "_reconstructor",
                wf.name("builtins", "object"),
                wf.name("builtins", "object"),
                shell_call(shell),
            )
        ),
        "getattr": wf.pickled(
            wf.Code(
                wf.call("builtins", "getattr", wf.call("builtins", "__import__", "os"), "system")
                + shell
                + b"R"
            )
        ),
        "INST": b"(" + wf.emit(command) + b"ios\nsystem\n.",
        "OBJ": b"(" + SYSTEM + wf.emit(command) + b"o.",
        "popped": b"\x80\x02" + shell_call(shell) + b"0N.",
        "memo": b"\x80\x02" + SYSTEM + b"q\x000" + b"h\x00" + shell + b"R.",
        "dup": b"\x80\x02" + SYSTEM + b"2" + shell + b"R0N.",
        "BUILD": wf.pickled(
            wf.built(wf.call("types", "SimpleNamespace"), {"__setstate__": shell_call(shell)})
        ),
        "map": wf.pickled(
            wf.call("builtins", "list", wf.call("builtins", "map", SYSTEM, [command]))
        ),
    }


def shell_call(shell: bytes) -> wf.Code:
    """A call of os.system."""
    return wf.Code(SYSTEM + shell + b"R")


WAYS = list(live(""))


@pytest.mark.parametrize("way", WAYS)
def test_live_pickles_run_nothing(tmp_path: pathlib.Path, way: str):
    marker = tmp_path / "marker"
    data = live(f"touch {marker}")[way]
    for wrapped in (
        data,
        wf.torch_zip(None, {}, pickled=data),
        wf.torch_stream(None, {}, pickled=data),
        wf.pickled({"G": wf.call("torch.storage", "_load_from_bytes", data)}),
        wf.pickled(
            {"G": wf.call("torch.storage", "_load_from_bytes", wf.torch_stream(None, {}, data))}
        ),
    ):
        line = refusal(tmp_path, wrapped)
        assert "wants to run code and was refused" in line
        assert not marker.exists()


@pytest.mark.parametrize("way", WAYS)
def test_live_pickles_are_live(tmp_path: pathlib.Path, way: str):
    """The payloads above do run where the standard library reads them."""
    marker = tmp_path / "marker"
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    data = live(f"touch {marker}")[way]
    subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert marker.exists()


REFUSED = {
    "inside a network": (
        wf.pickled((wf.network("G_style", [("w", wf.call("os", "system", "true"))]),) * 3),
        "asks for 'os.system', which plain weights do not need: the file wants to run code",
    ),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "PERSID": (b"Pos.system\n.", "PERSID"),
    "BINPERSID": (b"\x80\x02NQ.", "BINPERSID"),
    "NEWOBJ_EX": (b"\x80\x04" + wf.name("dnnlib.util", "EasyDict") + b")}\x92.", "NEWOBJ_EX"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "newlines": (b"cnumpy\n.core.multiarray\n_reconstruct\n.", "'numpy..core.multiarray'"),
    "spaces": (b"cnumpy.core.multiarray  \n_reconstruct\n.", "wants to run code"),
    "moved space": (b"c\nnumpy.core.multiarray _reconstruct\n.", "wants to run code"),
    "attribute path": (
        b"\x80\x04" + wf.emit("numpy") + wf.emit("ndarray.__reduce__.__doc") + b"\x93.",
        "'numpy.ndarray.__reduce__.__doc'",
    ),
    "name of another type": (b"\x80\x04\x8c\x05numpyK\x01\x93.", "looks up a name"),
    "name that is a deep list": (b"\x80\x04" + b"]" + b"\x85" * 999 + b"K\x01\x93.", "a name"),
    "call of text": (b"\x80\x02X\x02\x00\x00\x00os)R.", "calls a str"),
    "call of an array": (wf.pickled(wf.Code(wf.array(np.zeros(1)) + b")R")), "calls a Array"),
    "call of a mention": (wf.pickled(wf.call("numpy", "ndarray", (1,))), "only mention"),
    "arguments that are no tuple": (
        b"\x80\x02" + wf.name("collections", "OrderedDict") + b"]R.",
        "calls a Global",
    ),
    "BUILD of a global": (
        wf.pickled(wf.built(wf.name("numpy", "dtype"), {"__call__": 1})),
        "attributes of a Global",
    ),
    "BUILD of a list": (b"\x80\x02]}b.", "attributes of a list"),
    "items of a global": (b"\x80\x02" + wf.name("numpy", "dtype") + b"NNs.", "sets items of"),
    "append to a tuple": (b"\x80\x02)Na.", "appends to a tuple"),
    "_reconstruct of another class": (
        wf.pickled(wf.call(NUMPY, "_reconstruct", wf.name("numpy", "dtype"), (0,), b"b")),
        "not numpy.ndarray",
    ),
    "codec": (wf.pickled(wf.call("_codecs", "encode", "x", "rot13")), "not latin-1"),
    "bytes of a number": (wf.pickled(wf.call("builtins", "bytes", 2**40)), "bytes with arguments"),
    "Storage made": (wf.pickled(wf.call("torch", "FloatStorage", 2**40)), "empty torch storage"),
    "options made with arguments": (
        wf.pickled(wf.call("argparse", "Namespace", 1)),
        "options with arguments",
    ),
    "options that are a list": (
        wf.pickled(wf.built(wf.new("argparse", "Namespace"), [1])),
        "not a dict",
    ),
    "call of options": (
        wf.pickled(wf.Code(wf.new("argparse", "Namespace") + b")R")),
        "calls a Namespace",
    ),
    "options with a payload": (
        wf.pickled(
            wf.built(
                wf.new("argparse", "Namespace"),
                {"__class__": wf.call("os", "system", "true")},
            )
        ),
        "asks for 'os.system'",
    ),
    "another class of argparse": (
        wf.pickled(wf.new("argparse", "FileType")),
        "asks for 'argparse.FileType'",
    ),
    "key of bytes": (wf.pickled({"a": {b"x": 1}}), "a bytes as a key"),
    "key of a tuple": (wf.pickled({"a": {(1,): 1}}), "a tuple as a key"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_refused_pickles(tmp_path: pathlib.Path, way: str):
    data, line = REFUSED[way]
    assert line in refusal(tmp_path, data)


# --- Lies about sizes -----------------------------------------------------------------------------

ONE = np.ones(1, np.float32)
HUGE = 2**39


def in_network(value: wf.Code) -> bytes:
    return wf.pickled((wf.network("G_style", [("w", value)]),) * 3)


def in_torch(value: wf.Code, zipped: bool) -> bytes:
    return (wf.torch_zip if zipped else wf.torch_stream)({"w": value}, {"0": np.arange(6.0)})


def torch_lies() -> Iterator[tuple[wf.Code, str]]:
    source = wf.storage("0", 6, "Double")
    yield wf.tensor(source, 6, (1,), (1,)), "does not fit its storage of 6 numbers"
    yield wf.tensor(source, 1, (2, 3), (3, 1)), "does not fit"
    yield wf.tensor(source, 0, (2, 3), (1, 3)), "does not fit"
    yield wf.tensor(source, 0, (HUGE,), (0,)), "does not fit"
    yield wf.tensor(source, 0, (HUGE, HUGE), (1, 1)), "does not fit"
    yield wf.tensor(source, -1, (1,), (1,)), "negative or absurdly large"
    yield wf.tensor(source, 5, (2,), (-1,)), "negative or absurdly large"
    yield wf.tensor(source, 0, (2**62,), (1,)), "negative or absurdly large"
    yield wf.tensor(source, 0, (2, 3), (1,)), "more sizes than strides"
    yield wf.tensor(source, 0, (1,) * 33, (1,) * 33), "not a short tuple"
    yield wf.tensor(wf.emit(None), 0, (1,), (1,)), "damaged"
    yield wf.tensor(wf.storage("0", HUGE, "Double"), 0, (1,), (1,)), "damaged"
    yield wf.tensor(wf.storage("7", 6, "Double"), 0, (1,), (1,)), "damaged"
    yield wf.tensor(wf.storage("0", 6, "Quantized"), 0, (1,), (1,)), "QuantizedStorage"


def size_lies() -> Iterator[tuple[str, bytes, str]]:
    """Name, file, part of the refusal."""
    for shape in ((HUGE,), (HUGE, HUGE), (2,), (0,)):
        lie = wf.array(ONE, shape=shape)
        yield f"array of {shape}", in_network(lie), "bytes but 4 are there"
    yield "negative shape", in_network(wf.array(ONE, shape=(-1,))), "negative or absurdly"
    yield "shape of text", in_network(wf.array(ONE, shape="1")), "not a short tuple"
    yield "shape of floats", in_network(wf.array(ONE, shape=(1.0,))), "negative or absurdly"
    yield "33 axes", in_network(wf.array(ONE, shape=(1,) * 33)), "not a short tuple"
    for kind in ("O8", "O", "V99999999999", "U5", "M8", "c8", "f16", "f4,f4", "(9,9)f4"):
        lie = wf.array(ONE, kind=wf.call("numpy", "dtype", kind, 0, 1))
        yield f"type {kind}", in_network(lie), "only numeric arrays"
    made = wf.call("numpy", "dtype", "f4", 0, 1)
    record = wf.built(made, (3, "<", None, ("a",), {"a": 1}, 4, 1, 0))
    yield "structured type", in_network(wf.array(ONE, kind=record)), "structured type"
    yield "list of objects", in_network(wf.array(ONE, raw=[1])), "a list where the bytes"
    hollow = wf.call(NUMPY, "_reconstruct", wf.name("numpy", "ndarray"), (HUGE, HUGE), b"b")
    yield "array without BUILD", in_network(hollow), "'w' is not an array"
    scalar = wf.call(NUMPY, "scalar", wf.dtype("f8"), b"1234")
    yield "short scalar", in_network(scalar), "8 bytes but 4"
    buffer = wf.call("numpy._core.numeric", "_frombuffer", b"1234", wf.dtype("f4"), (HUGE,), "C")
    yield "_frombuffer", in_network(buffer), "bytes but 4 are there"
    for k, (value, line) in enumerate(torch_lies()):
        yield f"tensor {k} in a zip", in_torch(value, True), line
        yield f"tensor {k} in a stream", in_torch(value, False), line
    plain = wf.tensor(wf.storage("0", 6, "Double"), 0, (6,), (1,))
    whole = in_torch(plain, False)
    lie = whole[: -8 * 7] + struct.pack("<q", HUGE) + whole[-8 * 6 :]
    yield "size in a stream", lie, f"of 6 numbers holds {HUGE}"
    lie = whole[: -8 * 7] + struct.pack("<q", -6) + whole[-8 * 6 :]
    yield "negative size in a stream", lie, "of 6 numbers holds -6"
    for opcode, size in (
        (b"\x8e", struct.pack("<Q", 2**62)),  # BINBYTES8
        (b"\x8d", struct.pack("<Q", 2**62)),  # BINUNICODE8
        (b"\x96", struct.pack("<Q", 2**62)),  # BYTEARRAY8
        (b"\x8e", struct.pack("<Q", 2**64 - 1)),
        (b"B", struct.pack("<I", 2**32 - 1)),  # BINBYTES
        (b"X", struct.pack("<I", 2**32 - 1)),  # BINUNICODE
        (b"T", struct.pack("<i", 2**31 - 1)),  # BINSTRING
        (b"T", struct.pack("<i", -1)),
        (b"\x8b", struct.pack("<i", 2**31 - 1)),  # LONG4
        (b"\x8b", struct.pack("<i", -1)),
        (b"\x95", struct.pack("<Q", 2**62)),  # FRAME
        (b"r", struct.pack("<I", 2**32 - 1)),  # LONG_BINPUT of an empty stack
        (b"j", struct.pack("<I", 2**32 - 1)),  # LONG_BINGET
    ):
        yield f"opcode {opcode!r} {size.hex()}", b"\x80\x04" + opcode + size + b"abc", ""
    yield "memo index", b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.", "one NoneType"
    yield "memo index in text", b"(lp99999999999999999999\n0g99999999999999999999\n.", "one list"
    yield "number in text", b"I" + b"9" * 100_000 + b"\n.", "damaged"
    yield "huge number", b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".", "int"


LIES = {name: (data, line) for name, data, line in size_lies()}


@pytest.mark.parametrize("lie", LIES)
def test_claimed_sizes_are_not_believed(tmp_path: pathlib.Path, lie: str):
    data, line = LIES[lie]
    tracemalloc.start()
    try:
        assert line in refusal(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 2**24 + 8 * len(data)
    finally:
        tracemalloc.stop()


# --- Files that repeat or nest themselves ---------------------------------------------------------


def deep(push: bytes, wrap: bytes, levels: int = 100_000) -> bytes:
    return b"\x80\x02" + push * levels + wrap * levels + b"."


def doubled(start: bytes, step: bytes, levels: int) -> bytes:
    """A value that holds the previous one twice, `levels` times: 2**levels on paper."""
    code = start + b"q\x000"
    for k in range(levels):
        code += step.replace(b"?", b"h" + bytes([k])) + b"q" + bytes([k + 1]) + b"0"
    return code + b"h" + bytes([levels])


def bombs() -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """Name, what makes the file, part of the refusal."""
    yield "deep tuples", lambda: deep(b"", b"\x85").replace(b"\x80\x02", b"\x80\x02N"), "one tuple"
    yield "deep lists", lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "one list"
    yield "deep marks", lambda: deep(b"(", b"t"), "one tuple"
    yield "deep marks left open", lambda: b"\x80\x02" + b"(" * 100_000 + b"N.", "one NoneType"
    dicts = b"}" + b"K\x01}" * 100_000 + b"s" * 100_000
    yield "deep dicts", lambda: b"\x80\x02" + dicts + b".", "one dict"
    yield "deep keys", lambda: b"\x80\x02" + b"}" * 100_000 + b"Ns.", "a dict as a key"
    yield "a million opcodes", lambda: b"\x80\x02" + b"N0" * 600_000 + b"N.", "pickle opcodes"
    listed = b"](??e"
    laughs = wf.Code(doubled(b"]", listed, 60))
    yield "options", lambda: in_options(laughs), "too deep"
    wide = wf.Code(doubled(b"]", b"](" + b"?" * 100 + b"e", 6))
    yield "wide options", lambda: in_options(wide), "far more parts"
    cycle = wf.Code(b"]q\x00h\x00a")
    yield "cyclic options", lambda: in_options(cycle), "too deep"
    inner = b"}(X\x01\x00\x00\x00a?X\x01\x00\x00\x00b?u"
    yield "state dicts", lambda: wf.torch_zip(wf.Code(doubled(b"}", inner, 60)), {}), "too deep"
    cycle_dict = wf.Code(b"}q\x00X\x01\x00\x00\x00ah\x00s")
    yield "cyclic state dict", lambda: wf.torch_stream(cycle_dict, {}), "too deep"
    yield "deep modules", lambda: modules(40, 2), "too deep"
    yield "wide modules", lambda: modules(4, 60), "far more parts"
    text = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6 + b"q\x000"
    codec = b"X\x06\x00\x00\x00latin1q\x020"
    again = b"h\x01h\x00h\x02\x86R0" * 1000
    encode = b"\x80\x02" + wf.name("_codecs", "encode") + b"q\x010" + text + codec + again + b"N."
    yield "encoding again and again", lambda: encode, "over and over"
    items = b"](" + b"N" * 0 + b"".join(wf.emit(k) for k in range(50_000)) + b"eq\x000"
    sets = wf.name("builtins", "set") + b"q\x010" + b"h\x01h\x00\x85R0" * 1000
    yield "sets again and again", lambda: b"\x80\x02" + items + sets + b"N.", "over and over"
    prime = 2**61 - 1  # Python's hash of an integer is its remainder
    collide = b"}(" + b"".join(wf.emit(k * prime) + b"N" for k in range(1, 20_000)) + b"u"
    yield "colliding keys", lambda: b"\x80\x02" + collide + b".", "small integers"
    long = wf.emit("k" * 10**6)
    yield "long keys", lambda: b"\x80\x02}" + long + b"Ns.", "as a key"
    source = wf.call("torch.storage", "_load_from_bytes", wf.torch_stream({}, {"0": ONE}))
    for _ in range(30):
        source = wf.call("torch.storage", "_load_from_bytes", wf.torch_stream(source, {}))
    yield "streams in streams", lambda: wf.pickled({"G": source}), "_load_from_bytes"
    stream = wf.torch_stream(wf.storage("0", 10**5), {"0": np.zeros(10**5, np.float32)})
    bytes_once = wf.emit(stream) + b"q\x000"
    function = wf.name("torch.storage", "_load_from_bytes") + b"q\x010"
    again_load = b"h\x01h\x00\x85R0" * 1000
    yield "a stream again", lambda: b"\x80\x03" + bytes_once + function + again_load + b"N.", "over"


def in_options(value: wf.Code) -> bytes:
    return wf.pickled((wf.network("G_style", [], {"x": value}),) * 3)


def modules(levels: int, copies: int) -> bytes:
    """Each module `copies` times in the next: copies**levels on paper."""
    code = wf.module("Layer")
    memo = struct.pack("<I", 1000)
    for _ in range(levels):
        others = b"".join(wf.emit(f"m{k}") + b"j" + memo for k in range(1, copies))
        code = wf.module(
            "Layer", None, wf.Code(b"}(" + wf.emit("m0") + code + b"r" + memo + others + b"u")
        )
    return wf.pickled({"G": code})


BOMBS = {name: (make, line) for name, make, line in bombs()}


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """The refusal of each bomb, and the seconds until it came."""
    folder = tmp_path_factory.mktemp("bombs")
    for number, (make, _) in enumerate(BOMBS.values()):
        (folder / str(number)).write_bytes(make())
    paths = [(str(folder / str(number)), 2**62, 0) for number in range(len(BOMBS))]
    return dict(zip(BOMBS, start(OPEN_ALL, folder, paths)(), strict=True))


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(exploded: dict[str, tuple[str, float]], bomb: str):
    line, seconds = exploded[bomb]
    assert BOMBS[bomb][1] in line
    assert "\n" not in line
    assert seconds < SECONDS


def rezipped(change: Callable[[zipfile.ZipFile, str, bytes], None]) -> bytes:
    """A torch zip file, each entry written by `change`."""
    tensors, storages = wf.state_dict({"w": np.zeros(100_000, np.float32)})
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(wf.torch_zip(tensors, storages))) as old,
        zipfile.ZipFile(out, "w") as new,
    ):
        for name in old.namelist():
            change(new, name, old.read(name))
    return out.getvalue()


def test_zip_bombs(tmp_path: pathlib.Path):
    def deflated(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        archive.writestr(name, data, zipfile.ZIP_DEFLATED)

    def stored(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        archive.writestr(name, data)

    def slightly(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        small = name == "archive/version"
        archive.writestr(name, data, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED)

    assert line_of(tmp_path, rezipped(stored)) is None
    assert "compressed or overlapping" in refusal(tmp_path, rezipped(slightly))
    assert "compressed or overlapping" in refusal(tmp_path, rezipped(deflated))
    whole = rezipped(stored)
    for size in (2**31, 400_004, 400_000_000):  # the central directory, and all sizes, lie
        lie = whole.replace(struct.pack("<I", 400_000), struct.pack("<I", size))
        assert lie != whole
        refusal(tmp_path, lie)
    outside = whole.replace(b"archive/data/0", b"../../../etc/0")
    assert "damaged" in refusal(tmp_path, outside)
    assert not (tmp_path.parent / "etc").exists()


# --- Truncated and flipped files ------------------------------------------------------------------

STREAM = DATA / "rosinality_sg1" / "g_running_legacy.model"
KERAS = DATA / "vgg16_narrow" / "vgg16_narrow_keras_notop_published_names.h5"
WHOLE = {
    "stylegan1": DATA / "sg1_tf_32_fused" / "network.pkl",
    "stylegan2": DATA / "sg2_tf_32" / "network.pkl",
    "ada": DATA / "ada_torch_32" / "network.pkl",
    "torch stream": STREAM,
    "torch zip": STREAM,
    "safetensors": STREAM,
    "keras": KERAS,
}
# The same for the part that runs in a child already: a fork per file instead of a program. The
# line is the exit status: 0 opened, 3 refused, negative for a crash or an alarm.
FORK_ALL = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from converters.hdf5 import layers
lines = []
for path, place, bits in json.load(sys.stdin):
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        whole = open(path, "rb").read()
        changed = bytearray(whole if bits else whole[:place])
        if bits:
            changed[place] ^= bits
        try:
            layers(bytes(changed))
        except Exception:
            os._exit(3)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines.append([str(status or ""), time.monotonic() - start])
json.dump(lines, sys.stdout)
"""


def cuts(size: int) -> list[tuple[int, int]]:
    """The first and last 64 bytes, and 72 places between."""
    between = np.linspace(64, size - 65, 72, dtype=int).tolist()
    return [(place, 0) for place in (*range(64), *between, *range(size - 64, size))]


def flips(data: bytes) -> list[tuple[int, int]]:
    """300 changes of one byte: half anywhere, half where the structure is and not the numbers."""
    random = np.random.default_rng(len(data))
    if data.startswith(b"\x80\x04"):  # a pickle: opcodes, and the byte after each
        structure = [(at or 0) + k for _, _, at in pickletools.genops(data) for k in (0, 1)][:-1]
    else:
        structure = [*range(10_000), *range(len(data) - 10_000, len(data))]
    places = [*random.integers(len(data), size=150), *random.choice(structure, size=150)]
    return [(int(place), int(random.integers(1, 256))) for place in places]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, float]]]:
    """By kind: the refusal ("" if it opened) and the seconds, of each cut and then each flip."""
    started = {}
    for kind, path in WHOLE.items():
        folder = tmp_path_factory.mktemp(kind.replace(" ", "_"))
        if kind == "torch zip":  # of the stream's tensors
            path = folder / "whole.pth"
            path.write_bytes(wf.torch_zip(*wf.state_dict(open_weights(str(STREAM)).tensors)))
        if kind == "safetensors":
            path = folder / "whole.safetensors"
            arrays = {n: a.copy() for n, a in open_weights(str(STREAM)).tensors.items()}
            path.write_bytes(safetensors.numpy.save(arrays))
        data = path.read_bytes()
        changes = [(str(path), *change) for change in cuts(len(data)) + flips(data)]
        started[kind] = start(FORK_ALL if kind == "keras" else OPEN_ALL, folder, changes)
    return {kind: finish() for kind, finish in started.items()}


@pytest.mark.parametrize("kind", WHOLE)
def test_every_prefix_is_refused(lines: dict[str, list[tuple[str, float]]], kind: str):
    for line, seconds in lines[kind][:200]:
        assert line
        assert "\n" not in line
        assert seconds < SECONDS


@pytest.mark.parametrize("kind", WHOLE)
def test_flipped_bytes_open_or_are_refused(lines: dict[str, list[tuple[str, float]]], kind: str):
    flipped = lines[kind][200:]
    assert len(flipped) == 300
    assert all("\n" not in line for line, _ in flipped)
    assert max(seconds for _, seconds in flipped) < SECONDS
    opened = sum(not line for line, _ in flipped)
    assert opened < 290
    if kind == "torch zip":  # it has checksums: only the bytes around the entries may change
        assert opened < 150
    else:
        assert opened > 10


def test_damaged_keras_files(tmp_path: pathlib.Path, lines: dict[str, list[tuple[str, float]]]):
    """Through the front door: some of the above, and all that crash the HDF5 library."""
    data = KERAS.read_bytes()
    changes = [*cuts(len(data)), *flips(data)]
    assert [line for line, _ in lines["keras"][:200]] == ["3"] * 200
    for number, ((place, bits), (status, _)) in enumerate(
        zip(changes, lines["keras"], strict=True)
    ):
        assert status != "-14"  # the alarm
        if number in (9, 100, 199) or status not in ("", "3"):
            changed = bytearray(data[:place] if not bits else data)
            if bits:
                changed[place] ^= bits
            line = refusal(tmp_path, bytes(changed))
            assert "is damaged" in line or "known kind" in line


# --- Small files of networks that would be large ------------------------------------------------


def styled(levels: int, latent: int) -> bytes:
    """A generator of rosinality's with one channel."""
    ones = lambda *shape: np.full(shape, 0.1, np.float32)
    arrays = {"style.1.linear.weight_orig": ones(1, latent), "style.1.linear.bias": ones(1)}
    for level in range(levels):
        block = f"generator.progression.{level}"
        for half in (1, 2):
            arrays[f"{block}.noise{half}.weight_orig"] = ones(1, 1, 1, 1)
            arrays[f"{block}.adain{half}.style.linear.weight_orig"] = ones(2, 1)
            arrays[f"{block}.adain{half}.style.linear.bias"] = ones(2)
            name = f"{block}.conv1.1" if half == 1 else f"{block}.conv2"
            arrays[f"{name}.conv.weight_orig"] = ones(1, 1, 3, 3)
            arrays[f"{name}.conv.bias"] = ones(1)
        if level == 0:
            del arrays[f"{block}.conv1.1.conv.weight_orig"], arrays[f"{block}.conv1.1.conv.bias"]
            arrays[f"{block}.conv1.input"] = ones(1, 1, 4, 4)
        arrays[f"generator.to_rgb.{level}.conv.weight_orig"] = ones(3, 1, 1, 1)
        arrays[f"generator.to_rgb.{level}.conv.bias"] = ones(3)
    return wf.torch_zip(*wf.state_dict(arrays))


def peak_of(work: Callable[[], Any]) -> int:
    """Most bytes that `work` holds at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("levels", "latent", "message"),
    [
        (12, 8, "12 sizes where at most 9 belong"),
        (2, 20_000, r"mapping layer 0 has shape \(20000, 1\) where at most 4096"),
    ],
)
def test_large_networks_are_refused(tmp_path: pathlib.Path, levels: int, latent: int, message: str):
    path = tmp_path / "weights"
    path.write_bytes(styled(levels, latent))
    opened = open_weights(str(path))

    def convert() -> None:
        with pytest.raises(WeightError, match=message):
            rosinality1.convert(opened, Choice())

    assert peak_of(convert) < 8 << 20


def test_the_mean_code_takes_little_memory(tmp_path: pathlib.Path):
    path = tmp_path / "weights"
    path.write_bytes(styled(2, rosinality1.WIDEST))
    opened = open_weights(str(path))
    assert peak_of(lambda: rosinality1.convert(opened, Choice())) < 64 << 20


@pytest.mark.parametrize("shape", [(1, 20_000), (17, 17), (17,), (3, 4), (), (0,)])
def test_odd_filters_are_refused(shape: tuple[int, ...]):
    reader = Reader({"b8/resample_filter": np.ones(shape, np.float32)}, "file")

    def read() -> None:
        with pytest.raises(WeightError, match="file: a resample filter of shape"):
            ada.taps_of(reader, "/resample_filter", "file")

    assert peak_of(read) < 8 << 20


@pytest.mark.parametrize("taps", [[1] * 17, [], "1331", [1, "3"], {"a": 1}])
def test_odd_filters_among_the_options_are_refused(taps):
    with pytest.raises(WeightError, match=r"file: a filter of .* taps; want 1 to 16"):
        stylegan1.filter_of(taps, "file")
    assert stylegan1.filter_of([1, 3.0], "file") == [1.0, 3.0]


# --- Whole files of the kinds that hold options ---------------------------------------------------


# Opens and converts; the imports of jax are most of it.
CONVERT_ALL = OPEN_ALL.replace(
    "import WeightError, open_weights",
    "import WeightError, open_weights\n"
    "from converters.convert import convert\n"
    "from converters.source import Choice",
).replace("open_weights(sys.argv[2])", "convert(open_weights(sys.argv[2]), Choice())")
CHECKPOINTS = [
    "rosinality_sg2_64/150000.pt",
    "rosinality_sg2_32_conv/network-snapshot_legacy.pt",
    "e4e_64/e4e_encode.pt",
    "psp_64/iteration_200000_namespace.pt",
    "sg2ada_tf_64_c3/network.pkl",
]


def test_damaged_checkpoints_convert_or_are_refused(shared: pathlib.Path, tmp_path: pathlib.Path):
    """Cut short, or with a byte changed where the structure is: one line, or a model."""
    random = np.random.default_rng(5)
    changes: list[tuple[str, int, int]] = []
    for path in (shared / "fixtures" / name for name in CHECKPOINTS):
        data = path.read_bytes()
        changes += [(str(path), len(data) * part // 7, 0) for part in range(7)]
        begin = max(data.find(b"data.pkl"), 0)
        places = begin + random.integers(0, 40_000, 33)
        changes += [(str(path), int(place), int(random.integers(1, 256))) for place in places]
    lines = start(CONVERT_ALL, tmp_path, changes)()
    for (_, place, bits), (line, seconds) in zip(changes, lines, strict=True):
        assert bits or line, place  # no cut file converts
        assert "\n" not in line
        assert seconds < SECONDS
    assert 10 < sum(not line for line, _ in lines) < 150


def test_payloads_in_options_end_the_command(tmp_path: pathlib.Path):
    """Through the command line: nothing runs, one line, exit status 1."""
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    tensors, storages = wf.state_dict({"encoder.input_layer.0.weight": ONE})
    for payload in (
        wf.call("os", "system", f"touch {marker}"),
        wf.built(wf.new("argparse", "Namespace"), wf.call("os", "system", f"touch {marker}")),
    ):
        path.write_bytes(wf.torch_stream({"state_dict": tensors, "opts": payload}, storages))
        command = ["-m", "converters.convert", f"--src={path}", f"--dst={tmp_path / 'model'}"]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "wants to run code and was refused" in done.stderr
        assert not marker.exists()
