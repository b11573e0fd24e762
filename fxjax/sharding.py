"""Devices: one mesh axis over all of them, what fits into their memory, their programs kept."""

import concurrent.futures
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fxjax import files

Tree = TypeVar("Tree")
Item = TypeVar("Item")
Result = TypeVar("Result")
_COMPILED: set[int] = set()  # the programs that `each` has called
WORTH = 0.1  # seconds of compiling that are worth a file: small programs are many
UNKNOWN = 4 * 2.0**30  # bytes that a device is taken to have if it does not say


def mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices of all processes, or those given, on one axis, "batch".

    Auto axes: with Explicit ones (the default of `jax.make_mesh`) an input that was left off the
    mesh raises inside scan.
    """
    devices = jax.devices() if devices is None else devices
    axes = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("batch",), axis_types=axes, devices=devices)


def described() -> str:
    """The devices of all processes by name, and what float32 is there."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}, products of float32 not rounded"


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of every array on every device; the values must be equal in all processes."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def own(tree: Tree) -> Tree:
    """This process's copy of replicated arrays, on one device: for what one process does alone."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def padded(array: np.ndarray, count: int) -> np.ndarray:
    """An array of `count` rows, for a program of that shape: those given, then the last again."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


def split_batch(tree: Any, mesh: Mesh) -> Any:
    """Splits the first axis of every array over the devices.

    Each process gives its own rows, and the global batch is all of them in process order.
    Raises ValueError unless the rows divide evenly among this process's devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    devices = len(sharding.addressable_devices)

    def split(array):
        rows = array.shape[0] if array.ndim else 0
        if not rows or rows % devices:
            raise ValueError(
                f"cannot split an array of shape {array.shape} over {devices} devices; "
                f"make its first axis a multiple of {devices}"
            )
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return jax.tree.map(split, tree)


def one_by_one(batch: jax.Array, mesh: Mesh | None = None) -> bool:
    """Whether searches for the rows of `batch` had better be programs of one row (`each`).

    So it is on one CPU: one program leaves cores idle between its convolutions, and what is found
    does not depend on how many are searched for.
    """
    alone = len(batch.sharding.device_set) == 1 and (mesh is None or mesh.size == 1)
    return len(batch) > 1 and alone and next(iter(batch.devices())).platform == "cpu"


def each(
    program: Callable[..., Result], models: Any, rows: Any, *static: Any, mesh: Mesh | None = None
) -> Result:
    """What a jitted `program` of batches gives, where `one_by_one` says so by calls for one row.

    It is called with `models`, a row of every array of `rows` (but scalars), and what is `static`,
    on as many threads as there are cores, but not for rows like the one before (`padded`). The
    first error is raised.
    """
    leaves, tree = jax.tree.flatten(rows)
    batch = next(leaf for leaf in leaves if leaf.ndim)
    if not one_by_one(batch, mesh):
        return program(*models, *rows, *static)
    whole, count = [np.asarray(leaf) for leaf in leaves], len(batch)

    def one(k: int) -> Result:
        rows = [jnp.asarray(leaf[k : k + 1] if leaf.ndim else leaf) for leaf in whole]
        own = jax.tree.unflatten(tree, rows)
        return jax.block_until_ready(program(*models, *own, *static))

    shapes = tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in whole)
    known = hash((program, tree, shapes, jax.tree.structure(models), static))
    first = [] if known in _COMPILED else [one(0)]  # or else each thread would compile it
    _COMPILED.add(known)
    rowwise = [leaf for leaf in whole if leaf.ndim]
    again = [k for k in range(1, count) if all(np.array_equal(a[k], a[k - 1]) for a in rowwise)]
    found = first + beside(one, [k for k in range(len(first), count) if k not in again])
    for k in again:
        found.insert(k, found[k - 1])
    return jax.tree.map(lambda *a: jnp.asarray(np.concatenate(a)) if a[0].ndim else a[0], *found)


def beside(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of each, on as many threads as there are cores. The first error is raised."""
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))


def cores() -> int:
    """How many of the machine's cores this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def free_memory(device: Any, devices: int) -> float:
    """Bytes for each device; on CPUs, the machine's (or the container's) shared among them.

    An accelerator that does not say how much it has is taken to have little (`UNKNOWN`): the
    host's memory is not its own.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    if device.platform != "cpu":
        return UNKNOWN
    free = UNKNOWN
    memory = pathlib.Path("/proc/meminfo")
    if memory.exists():
        lines = dict(line.split(":") for line in memory.read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (group / "memory.current").exists():
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, float(limit) - float((group / "memory.current").read_text()))
    return free / devices


def halved(size: int, error: Exception, what: str, *, least: int = 1) -> int:
    """Half as many at once after a want of memory, but not less than `least`.

    Raises other errors again, and ValueError where `least` were too many; `what` says of what.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    if size <= least:
        raise ValueError(f"not even {size} {what} at once fit into the device's memory") from error
    return max(least, size // 2)


def widest(jaxpr: Any) -> int:
    """Bytes that the largest step of a traced program reads and writes."""
    most = 1
    for equation in jaxpr.eqns:
        arrays = [*equation.invars, *equation.outvars]
        most = max(most, sum(_bytes(array.aval) for array in arrays))
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                most = max(most, widest(inner) if hasattr(inner, "eqns") else 0)
    return most


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def keep_programs(folder: epath.PathLike | None = None) -> None:
    """Keeps compiled programs in a folder, for all later processes too.

    Without one, where jax is told to already (`$JAX_COMPILATION_CACHE_DIR`), or else in the user's
    cache folder. `JAX_ENABLE_COMPILATION_CACHE=false` keeps none.
    """
    if folder is not None:
        chosen = os.fspath(files.absolute(folder))
    elif jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        chosen = str(pathlib.Path(home) / "fxjax" / "jax")
    else:
        return
    jax.config.update("jax_compilation_cache_dir", chosen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)
