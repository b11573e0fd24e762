"""What the tests of training runs share: saved states, one device, and a run that is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

from fxjax.training import gan_state, loop

ROOT = pathlib.Path(__file__).resolve().parent.parent


def one_device() -> Mesh:
    """A mesh of the first device alone."""
    return jax.make_mesh((1,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:1])


def exported(settings: gan_state.GanSettings, folder: pathlib.Path) -> str:
    """The model folder of a generator that was never trained."""
    gan_state.export(folder, settings, gan_state.fresh(settings), {})
    return str(folder / "export")


def named(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree under their paths' names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def pairs(one: Any, other: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The leaves of two trees of the same structure, and their names."""
    left, right = named(one), named(other)
    assert left.keys() == right.keys()
    return ((name, array, right[name]) for name, array in left.items())


def saved(
    out: pathlib.Path | str, settings: Any, fresh: Callable[[], Any]
) -> dict[str, np.ndarray]:
    """The newest checkpoint of the run in `out`, of a state like `fresh()`."""
    one = SingleDeviceSharding(jax.devices()[0])
    folder = pathlib.Path(out, "checkpoints")
    found = loop.restore_checkpoint(folder, settings, jax.eval_shape(fresh), one)
    assert found is not None
    return named(found)


def kill(arguments: list[str], out: pathlib.Path) -> None:
    """Runs a command on preset `smoke` into `out`; SIGKILL after 48 of its 400 images."""
    line = [sys.executable, "-m", *arguments]
    line += [f"--out={out}", "--preset=smoke", "--checkpoint_minutes=0"]
    process = subprocess.Popen(line, cwd=ROOT, env=os.environ)
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "0000000048" / "model.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit()]
    assert 48 <= max(steps) < 400
