"""Data parallelism: one mesh axis over all devices, weights replicated, batches split."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


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
