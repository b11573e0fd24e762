"""The journal of a run, in <out>/state: what it was begun with, and what of it is done.

Every command of many photos goes on by it after it was killed. Each entry is written all or
nothing, and after the files that it stands for.
"""

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Float

from fxjax import files

# Settings that do not change what is found.
FREE = set("out restart model features devices profile_dir tensorboard save_seconds".split())
BEGUN = "run"
Found = TypeVar("Found")


def check(out: epath.Path, settings: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
    """Refuses to go on with other settings than those that the run was begun with (ValueError).

    `made_of` names what else must be the same, such as the sha256 of models.
    """
    old = read(out, BEGUN)
    if old is None:
        return
    new = json.loads(json.dumps(dict(settings)))
    changes = [
        f"--{name} was {old['settings'][name]}, is now {new[name]}"
        for name in new
        if name not in FREE and name in old["settings"] and old["settings"][name] != new[name]
    ]
    for name in sorted(old["models"].keys() | made_of.keys()):
        was, now = (each.get(name, "none")[:12] for each in (old["models"], made_of))
        if was != now:
            changes.append(f"the {name} was {was}, is now {now}")
    if changes:
        if jax.process_index() == 0:  # config.json has the refused ones by now
            files.write(out / "config.json", _text(old["settings"]))
        raise ValueError(
            f"the run in {out} was begun with other settings: {'; '.join(changes)}; "
            "give them as they were, another --out, or --restart to begin anew"
        )
    if old["devices"] != jax.local_device_count():
        print(
            f"this run was begun on {old['devices']} devices, now there are "
            f"{jax.local_device_count()}: codes are the same only up to rounding"
        )


def begin(
    out: epath.Path,
    settings: Mapping[str, Any],
    made_of: Mapping[str, str],
    *,
    results: Iterable[str] = (),
) -> None:
    """Process 0 writes down the settings; the named `results` of an earlier run go first.

    Only what a run writes is to be named, and it is removed only where there was one.
    """
    if jax.process_index() == 0:
        if begun(out) and (gone := tuple(results)):
            # the state goes last, so that a killed restart can be restarted
            files.remove(out, (*gone, "state"))
        if not begun(out):
            devices = jax.local_device_count()
            record = {"settings": dict(settings), "models": dict(made_of), "devices": devices}
            files.write(_place(out, BEGUN), _text(record))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("begun")


def begun(out: epath.Path) -> bool:
    """Whether a run was begun in this folder."""
    return _place(out, BEGUN).exists()


def read(out: epath.Path, name: str) -> Any:
    """An entry, or None if there is none."""
    place = _place(out, name)
    return json.loads(place.read_text()) if place.exists() else None


def write(out: epath.Path, name: str, value: Any) -> None:
    """Writes an entry, which JSON must be able to hold."""
    files.write(_place(out, name), json.dumps(value).encode())


def wait(find: Callable[[], Found | None]) -> Found:
    """What `find` finds once another process has written it; RuntimeError if there is none."""
    while (found := find()) is None:
        if jax.process_count() == 1:
            raise RuntimeError("an entry of the journal is missing that no other process can write")
        time.sleep(0.5)
    return found


def agree(out: epath.Path, name: str, choose: Callable[[], Any]) -> Any:
    """A value that process 0 chooses once for all processes, and that a run keeps."""
    if jax.process_index() == 0 and read(out, name) is None:
        write(out, name, choose())
    return wait(lambda: read(out, name))


def write_arrays(out: epath.Path, name: str, key: str, arrays: Mapping[str, Any]) -> None:
    """Writes arrays that belong to `key`."""
    files.write(_place(out, name, "npz"), files.npz({"key": np.array(key), **arrays}))


def read_arrays(out: epath.Path, name: str, key: str) -> dict[str, np.ndarray] | None:
    """Arrays that were written, or None if there are none of this key."""
    place = _place(out, name, "npz")
    if not place.exists():
        return None
    with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays) if str(arrays["key"]) == key else None


def drop_arrays(out: epath.Path, name: str) -> None:
    """Removes arrays that are needed no more."""
    _place(out, name, "npz").unlink(missing_ok=True)


def code(place: epath.Path, find_code: Callable[[], Any]) -> Float[np.ndarray, "rows dim"]:
    """The code that the file `place` holds, or a new one, which goes there."""
    if place.exists():
        with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["ws"]
    found = np.asarray(find_code())
    files.write(place, files.npz({"ws": found}))
    return found


def _place(out: epath.Path, name: str, ending: str = "json") -> epath.Path:
    return out / "state" / f"{name}.{ending}"


def _text(record: Any) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()
