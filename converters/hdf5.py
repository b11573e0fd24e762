"""Reads Keras .h5 weights in a short-lived process of its own.

The HDF5 library is C code that was not written for hostile files. `read_keras` therefore starts
this file as a program, gives it the bytes on standard input under limits on memory and time, and
takes the arrays as an .npz on standard output: a crash or an endless loop there becomes one clear
line here. The child opens the bytes as a file image, so it needs no path; every link on the way to
an array must be a hard one, and virtual or external storage is refused, so no path in the file is
ever followed; HDF5's loading of filter plug-ins is switched off.
"""

import contextlib
import io
import math
import os
import subprocess
import sys
from typing import Any

import h5py
import numpy as np
from h5py import h5f, h5l  # pyright: ignore[reportAttributeAccessIssue]

SECONDS = 120
REFUSED = 3  # the child's exit status when its standard error is one clear line


class KerasError(ValueError):
    """One line that says what is wrong with the file."""


def read_keras(data: bytes) -> dict[str, np.ndarray]:
    """{"layer/kernel": array, "layer/bias": array, ...} of a Keras weight file's bytes.

    Raises:
        KerasError: not a Keras file of a known layout, damaged, or not safe to read.
    """
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__]  # -P: this folder's modules shadow nothing
    try:
        child = subprocess.run(
            command, input=data, capture_output=True, env=environment, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KerasError(f"is damaged: reading it took over {SECONDS} s; get it again") from error
    if child.returncode == REFUSED:
        raise KerasError(child.stderr.decode("ascii", "replace").strip().splitlines()[-1])
    if child.returncode:
        raise KerasError(
            f"is damaged: the HDF5 library failed on it (status {child.returncode}); get it again"
        )
    with np.load(io.BytesIO(child.stdout), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def layers(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a Keras file, read in this process (the child's). KerasError: see there."""
    with h5py.File(h5f.open_file_image(data)) as file:
        group = file
        if "layer_names" not in file.attrs and file.id.links.exists(b"model_weights"):
            group = descend(file, "model_weights")  # saved by model.save()
        if "layer_names" not in group.attrs:
            raise KerasError(
                "is an HDF5 file without Keras' layer_names; "
                "save the weights with Keras 2, or tf_keras, as .h5"
            )
        found: dict[str, np.ndarray] = {}
        room = 2 * len(data) + 2**20
        for layer in names(group, "layer_names"):
            inside = descend(group, layer)
            weights = names(inside, "weight_names")
            short = [short_name(layer, name) for name in weights]
            for name, key in zip(weights, short, strict=True):
                if short.count(key) > 1:  # a model inside the model: its own layer names
                    key = name.removesuffix(":0")
                array = read(descend(inside, name), name, room)
                room -= array.nbytes
                found[key] = array
    if not found:
        raise KerasError("holds no weights")
    return found


def names(group: Any, attribute: str) -> list[str]:
    """The texts of an attribute such as layer_names."""
    if attribute not in group.attrs:
        raise KerasError(f"is damaged: a group without {attribute}")
    values = np.asarray(group.attrs[attribute]).ravel()[:10_000].tolist()
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def descend(group: Any, path: str) -> Any:
    """What lies at `path` in a group, by hard links only. KerasError: absent, or another link."""
    for step in path.split("/"):
        name = step.encode("utf-8")
        links = group.id.links if isinstance(group, h5py.Group) and step not in ("", ".") else None
        if links is None or not links.exists(name):  # h5py's own `in` and get() follow links
            raise KerasError(f"is damaged: it lists {shown(path)} but does not hold it")
        if links.get_info(name).type != h5l.TYPE_HARD:
            raise KerasError(f"reaches {shown(path)} by a link to somewhere else; refused")
        group = group[step]
    return group


def short_name(layer: str, weight: str) -> str:
    """The plain name of a weight: both "x/kernel:0" and "x_W_1:0" of layer x are "x/kernel"."""
    word = weight.split("/")[-1].split(":")[0].removeprefix(f"{layer}_")
    old = {"W": "kernel", "b": "bias"}
    return f"{layer}/{old.get(word.split('_')[0], word)}"


def read(dataset: Any, name: str, room: int) -> np.ndarray:
    """One array of floats of at most `room` bytes that lies in the file itself."""
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise KerasError(f"keeps {shown(name)} outside of the file; refused")
    if dataset.dtype.kind != "f" or dataset.shape is None or dataset.dtype.itemsize > 8:
        raise KerasError(
            f"holds {shown(name)} as {shown(str(dataset.dtype))}; floating point is read"
        )
    if math.prod(dataset.shape) * dataset.dtype.itemsize > room:
        raise KerasError(f"is damaged: {shown(name)} of shape {dataset.shape} outgrows the file")
    if dataset.id.get_storage_size() == 0 and dataset.size:
        raise KerasError(f"is damaged: {shown(name)} has a shape but no data")
    return dataset[()]


def shown(text: str) -> str:
    """A name out of the file, fit for a message."""
    return ascii(text[:80])


def main() -> None:
    """Standard input to standard output; exit status 3 and one line if the file is refused."""
    data = sys.stdin.buffer.read()
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has this limit
        import resource

        most = 2**32 + 8 * len(data)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        arrays = layers(data)
    except KerasError as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)
    except Exception as error:  # the library raises every kind; all of them mean damage
        reason = ascii(str(error)[:120])[1:-1]
        sys.stderr.write(f"is damaged: {type(error).__name__}: {reason}; get it again")
        sys.exit(REFUSED)
    np.savez(sys.stdout.buffer, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
