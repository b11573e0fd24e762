"""What the converters have in common: the result, and the command line that writes it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from converters.source import Opened, Source, WeightError, open_weights
from fxjax import files
from fxjax.checkpoint import save_model
from fxjax.cli import launch

Arrays = dict[str, np.ndarray]
Part = tuple[dict[str, Any], Arrays]  # architecture (the constructor's arguments), arrays


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


def write(model: Model, opened: Opened, destination: str, *, overwrite: bool) -> None:
    """Writes the model folder; all or nothing."""
    info = {
        "source": {
            "file": opened.path.rsplit("/", 1)[-1],
            "sha256": opened.sha256,
            "format": opened.format,
            "network": model.network,
        },
        "license": model.license,
    }
    save_model(destination, model.kind, model.parts, info, overwrite=overwrite)


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    src: Annotated[str, "weight file: a local path or gs://..."]
    dst: Annotated[str, "folder to write the model to"]
    overwrite: Annotated[bool, "replace an existing --dst, atomically"] = False
    sha256: Annotated[str | None, "refuse the file unless it has this SHA-256"] = None
    network: Annotated[
        str | None, "network to take; default: the averaged one (Gs, G_ema or g_running)"
    ] = None
    resolution: Annotated[
        int | None, "picture size to convert, for files that hold a growing network's every size"
    ] = None


def run(convert: Callable[[Opened, Choice], Model]) -> None:
    """Command line: --src FILE --dst FOLDER; one clear line and exit status 1 on a mistake."""

    def main(config: Config) -> None:
        if not config.overwrite and files.absolute(config.dst).exists():
            raise FileExistsError(f"{config.dst} exists; give --overwrite to replace it")
        opened = open_weights(config.src, sha256=config.sha256)
        model = convert(opened, Choice(config.network, config.resolution))
        write(model, opened, config.dst, overwrite=config.overwrite)
        print(f"{config.src}: {opened.format}, {model.kind}, network {model.network}")
        for name, (_, arrays) in model.parts.items():
            count = sum(array.size for array in arrays.values())
            print(f"  {name}: {len(arrays)} arrays, {count:,} numbers")
        for note in model.notes:
            print(f"  note: {note}")
        print(f"wrote {config.dst}")

    main.__module__ = convert.__module__  # whose docstring --help shows
    launch(Config, main)
