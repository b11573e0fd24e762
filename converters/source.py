"""The front door to foreign weight files: opens any known kind by its content, and runs none of it.

`open_weights` gives plain arrays and options; a converter reads them through a `Reader`, whose
`Source` checks each array and knows what was left unread, and makes a `Model` of them.
"""

import dataclasses
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from converters.hdf5 import KerasError, read_keras
from converters.networks import Network, read_networks
from converters.pickles import WeightError, shorten
from converters.statedicts import (
    is_safetensors,
    options_of,
    read_safetensors,
    read_stream,
    read_zip,
    state_dicts,
)
from fxjax import files

TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the opcode that pushes torch's magic number
STARTS = {  # what other files begin with, and what to do about them
    b"\x1f\x8b": "is gzip-compressed; unpack it and convert the file inside",
    b"BZh": "is bzip2-compressed; unpack it and convert the file inside",
    b"\xfd7zXZ": "is xz-compressed; unpack it and convert the file inside",
    b"7z\xbc\xaf": "is a 7z archive; unpack it and convert the file inside",
    b"Rar!": "is a RAR archive; unpack it and convert the file inside",
    b"\x93NUMPY": "is a numpy array, not a weight file",
    b"version https://git-lfs": "is a git-lfs pointer, not the file; fetch it with `git lfs pull`",
}
Arrays = dict[str, np.ndarray]
Part = tuple[dict[str, Any], Arrays]  # architecture (the constructor's arguments), arrays


@dataclasses.dataclass(frozen=True)
class Opened:
    """A weight file, read.

    `format` is "tf-pickle", "ada-pickle", "torch", "safetensors" or "keras-h5". `networks` are
    those of a pickle: G, D, Gs of TensorFlow's, and those present of G, D, G_ema of ADA's.
    `tensors` are torch's, in the nested dicts of the file, or Keras', as {"layer/kernel": array}.
    `options` are what a training was started with, if a torch file says so, or a safetensors
    file's texts.
    """

    path: str
    sha256: str
    format: str
    networks: dict[str, Network]
    tensors: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def open_weights(path: str, *, sha256: str | None = None) -> Opened:
    """Reads a weight file of any known kind, told by its content; local or gs://.

    Raises:
        WeightError: the file is absent, damaged, of no known kind, wants to run code, or is not
            the one whose `sha256` was given. Nothing else is raised, whatever the bytes.
    """
    try:
        place = files.given(path)
    except ValueError as error:  # it names the path
        raise WeightError(str(error)) from None
    try:
        data = place.read_bytes()
    except Exception as error:  # those who read buckets raise kinds of their own
        reason = getattr(error, "strerror", None) or shorten(str(error))
        raise WeightError(f"{path}: cannot be read ({reason}); check the path") from error
    try:
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256.strip().lower():
            raise WeightError(f"has sha256 {digest}, not {shorten(sha256)}; get the file again")
        return parse(path, digest, data)
    except (WeightError, KerasError) as error:
        raise WeightError(f"{path}: {error}") from error
    except Exception as error:  # hostile bytes raise every kind; all of them mean damage
        raise WeightError(
            f"{path}: is damaged or cut short ({type(error).__name__}: {shorten(str(error))}); "
            "get the file again"
        ) from error


def parse(path: str, digest: str, data: bytes) -> Opened:
    """Opens the bytes of a file by what they begin with. WeightError: of no known kind."""
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not data:
        raise WeightError("is empty; get the file again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        raise WeightError(
            "is a web page, so the download failed; open its address in a browser and save the file"
        )
    for start, line in STARTS.items():
        if data.startswith(start):
            raise WeightError(line)
    if data[257:262] == b"ustar":
        raise WeightError("is a tar archive; unpack it and convert the file inside")
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        return Opened(path, digest, "keras-h5", {}, dict(read_keras(data)))
    if is_safetensors(data):
        return Opened(path, digest, "safetensors", {}, *read_safetensors(data))
    stream = data.startswith(TORCH_MAGIC, 2) or data.startswith(TORCH_MAGIC, 11)  # with a frame
    if stream or data.startswith(b"PK"):
        value = read_stream(data) if stream else read_zip(data)
        return Opened(path, digest, "torch", {}, state_dicts(value), options_of(value))
    if data[:1] in b"\x80(]}lcdiIVS":  # what a pickle of any protocol begins with
        kind, networks = read_networks(data)
        return Opened(path, digest, kind, networks, {})
    raise WeightError(
        f"is not a weight file of a known kind (it begins with {data[:8]!r}); "
        "StyleGAN pickles, torch, .safetensors and Keras .h5 files are read"
    )


class Source:
    """The arrays of one network, read by name and checked; knows what was left unread.

    `where` is put into error messages: the file, or the network in it.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], where: str = ""):
        self.weights = weights
        self.where = f"{where}: " if where else ""
        self.unread = set(weights)

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def __call__(self, name: str, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
        """The array `name` as float32; None in `shape` is any size.

        Raises:
            WeightError: no such array, another shape, or numbers that float32 cannot hold.
        """
        self.need([name])
        stored = self.weights[name]
        self.unread.discard(name)
        if not isinstance(stored, np.ndarray):
            raise WeightError(f"{self.where}'{name}' is a {type(stored).__name__}, not an array")
        if shape is not None and (
            len(shape) != stored.ndim
            or any(want not in (None, size) for want, size in zip(shape, stored.shape, strict=True))
        ):
            wanted = tuple("any" if size is None else size for size in shape)
            raise WeightError(
                f"{self.where}'{name}' has shape {stored.shape} where {wanted} belongs; "
                "the file is damaged or of another architecture"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(stored, np.float32, order="C")
        if not np.isfinite(array).all():
            bad = array.size - int(np.isfinite(array).sum())
            raise WeightError(
                f"{self.where}'{name}' holds NaN or infinity in {bad} of {array.size} numbers; "
                "the training diverged or the file is damaged: use another snapshot"
            )
        return array

    def need(self, names: Iterable[str]) -> None:
        """Nothing if all `names` are there. WeightError: lists those that are not."""
        absent = [name for name in names if name not in self.weights]
        if absent:
            raise WeightError(
                f"{self.where}lacks {listed(absent)}; "
                "the file is of another architecture, or not whole"
            )

    def done(self, ignore: Iterable[str] = ()) -> None:
        """Ends the reading; `ignore` are fnmatch patterns. WeightError: lists what was not read."""
        patterns = tuple(ignore)
        left = [n for n in self.unread if not any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        if left:
            raise WeightError(
                f"{self.where}also holds {listed(sorted(left))}, which this converter does not "
                "know; the file is of another architecture"
            )


def listed(names: list[str]) -> str:
    """Names for a message, each quoted, all on one line."""
    return ", ".join(f"'{shorten(name)}'" for name in names)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to take out of a file that holds several networks or sizes; None is the default."""

    network: str | None = None
    resolution: int | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """A converted model: parts by name, and lines for the user about what was found."""

    kind: str
    parts: Mapping[str, Part]
    network: str
    license: str
    notes: Sequence[str] = ()


def names_in(tensors: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The names of all arrays, those in nested dicts behind those of the dicts."""
    found = []
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            found += names_in(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def refuse_wrapped(weights: Mapping[str, Any], mark: str, path: str) -> None:
    """WeightError if generators lie deeper in a file than they are read; each has `mark`."""
    around = [name.removesuffix(mark) for name in names_in(weights) if name.endswith(mark)]
    if around and "" not in around:
        halved = " (an e4e or pSp file without its encoder?)" if "decoder" in around[0] else ""
        raise WeightError(
            f"{path}: holds a generator under '{shorten(around[0])}'{halved}, but it is read from "
            "the file's own networks or from a state dict alone; save that generator's "
            "state_dict() with torch.save and convert that file"
        )


class Reader:
    """Reads one network into the layouts of fxjax.nn, and gathers what it read."""

    def __init__(self, weights: Mapping[str, np.ndarray], where: str):
        self.read, self.weights, self.out = Source(weights, where), weights, Arrays()

    def put(self, name: str, value: np.ndarray) -> None:
        """Adds an array under the model's name, as contiguous float32."""
        self.out[name] = np.array(value, np.float32, order="C")

    def part(self, architecture: dict[str, Any], ignore: Sequence[str] = ()) -> Part:
        """The finished part; WeightError if the file holds weights that nobody read."""
        self.read.done(ignore=ignore)
        return architecture, self.out


def fan_in(kernel: np.ndarray) -> int:
    """Inputs per output of a kernel whose last axis is the output."""
    return int(np.prod(kernel.shape[:-1]))


def equalized(kernel: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """Folds the equalised learning rate's constant, gain / sqrt(inputs), into the weight."""
    return kernel * np.float32(gain / np.sqrt(fan_in(kernel)))


def from_torch(kernel: np.ndarray) -> np.ndarray:
    """(out, in[, height, width]) to ([height, width,] in, out)."""
    return kernel.transpose(*range(2, kernel.ndim), 1, 0)


def rotated(kernel: np.ndarray) -> np.ndarray:
    """The kernel turned by 180 degrees."""
    return kernel[::-1, ::-1]


def flattened(matrix: np.ndarray, channels: int) -> np.ndarray:
    """Reorders the inputs of a dense layer after a 4x4 map from C, H, W to H, W, C."""
    inputs, outputs = matrix.shape
    if inputs != channels * 16:
        raise WeightError(
            f"a dense layer after {channels} maps of 4x4 wants {channels * 16} inputs, got {inputs}"
        )
    return matrix.reshape(channels, 4, 4, outputs).transpose(1, 2, 0, 3).reshape(inputs, outputs)


def check_options(
    options: Mapping[str, Any], known: Mapping[str, Any], ignored: Sequence[str], where: str
) -> None:
    """WeightError for an option that is not in `ignored` and differs from its value in `known`.

    A value of `...` in `known` allows anything (the converter reads it).
    """
    for name, value in options.items():
        if name in ignored or (name in known and known[name] is ...):
            continue
        if name not in known:
            raise WeightError(
                f"{where}: option {name}={value!r} is unknown and may change the result"
            )
        if value != known[name]:
            raise WeightError(
                f"{where}: option {name}={value!r} is not supported (only {known[name]!r})"
            )


def colours(channels: int, where: str) -> int:
    """`channels` of a generator's pictures if they are 3. WeightError: gray, RGBA or others."""
    if channels != 3:
        kind = {1: "gray", 4: "RGBA"}.get(channels, f"{channels}-channel")
        raise WeightError(f"{where}: draws {kind} pictures; only generators of RGB are supported")
    return channels
