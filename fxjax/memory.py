"""How much memory there is, and how much a program needs at least."""

import math
import pathlib
from typing import Any

UNKNOWN = 4 * 2.0**30  # bytes that a device is taken to have if it does not say


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
