"""Models as folders: one Orbax checkpoint of named arrays per part, and a readable model.json.

Nothing but arrays and JSON is ever read back, and every part's files are checked against the
sha256 in model.json first, so a damaged file is an error instead of a wrong picture.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array

from fxjax import files

FORMAT = 1
CARD = "model.json"

Module = TypeVar("Module", bound=nnx.Module)


class Damaged(ValueError):
    """The files of a model folder are not those that were written."""


def flatten(module: nnx.Module) -> dict[str, Array]:
    """All variables of a module by path, such as "rows/3/conv/kernel"."""
    state = nnx.to_flat_state(nnx.state(module))
    return {"/".join(map(str, path)): variable.get_value() for path, variable in state}


def halved(module: nnx.Module) -> dict[str, np.ndarray]:
    """A module's arrays by name in float16, as models are shipped."""
    return {name: np.asarray(a).astype(np.float16) for name, a in flatten(module).items()}


def fill(
    module: Module,
    flat: Mapping[str, np.ndarray | Array],
    *,
    sharding: Sharding | None = None,
) -> Module:
    """A copy of `module` (it may be abstract) that holds the arrays of `flat` in its own dtypes.

    Raises ValueError listing every name that is missing, left over, or of another shape.
    """
    graph, state = nnx.split(module)
    wanted = {"/".join(map(str, path)): (path, old) for path, old in nnx.to_flat_state(state)}
    wrong = [f"missing {name}" for name in wanted if name not in flat]
    wrong += [f"left over {name}" for name in flat if name not in wanted]
    wrong += [
        f"{name} is {flat[name].shape}, wanted {old.shape}"
        for name, (_, old) in wanted.items()
        if name in flat and flat[name].shape != old.shape
    ]
    if wrong:
        raise ValueError(f"the arrays do not fit {type(module).__name__}: {'; '.join(wrong)}")
    filled = []
    for name, (path, old) in wanted.items():
        array = jax.device_put(flat[name].astype(old.dtype), sharding)
        filled.append((path, old.replace(array)))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def save_model(
    directory: epath.PathLike,
    kind: str,
    parts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, np.ndarray | Array]]],
    info: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a model folder, all or nothing. Called by one process only.

    `parts` maps a part's name ("generator", "discriminator", "features") to its architecture (the
    JSON-able arguments of its constructor) and its arrays by name; `info` is added to model.json.
    Raises FileExistsError if the folder exists and not `overwrite`; ValueError if it is not a model
    folder, which is never replaced; OSError if it cannot be written (an old folder is then intact).
    """
    target = files.absolute(directory)
    host = {
        name: {key: np.asarray(array) for key, array in flat.items()}
        for name, (_, flat) in parts.items()
    }
    cards: dict[str, dict[str, Any]] = {
        name: {"architecture": dict(architecture)} for name, (architecture, _) in parts.items()
    }
    card = {"format": FORMAT, "kind": kind, "parts": cards}
    if taken := sorted(card.keys() & info.keys()):
        raise ValueError(f"info must not set {', '.join(taken)}: save_model does")
    card |= info
    json.dumps(card)  # raises before anything is written
    if not parts or any(not flat for flat in host.values()):
        raise ValueError(f"nothing to save in {target}: no parts, or a part without arrays")
    empty = [f"{name}/{key}" for name in host for key, a in host[name].items() if not a.size]
    if empty:
        raise ValueError(f"arrays without elements cannot be saved: {', '.join(empty)}")
    if overwrite and target.exists() and not (target / CARD).exists():
        raise ValueError(f"{target} is not a model folder (no {CARD}), so it is not replaced")
    try:
        with files.new_folder(target, overwrite=overwrite, marker=CARD) as folder:
            for name, flat in host.items():
                with _checkpointer() as checkpointer:
                    checkpointer.save(folder / name, args=ocp.args.PyTreeSave(flat))
                # Orbax looks on gs:// for this file, and writes this machine's path into it
                (folder / name / "commit_success.txt").write_text("committed\n")
                cards[name]["sha256"] = _digest(folder / name)
            (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
    except FileExistsError:
        raise
    except Exception as error:  # Orbax and tensorstore raise many kinds when a disk is full
        reason = error.strerror if isinstance(error, OSError) and error.errno else None
        raise OSError(f"could not write {target}: {reason or _first_line(error)}") from error


def read_card(directory: epath.PathLike) -> dict[str, Any]:
    """The model.json of a model folder.

    Raises FileNotFoundError if there is no such folder, ValueError if it is not a model folder of
    this format.
    """
    folder = files.absolute(directory)
    if not folder.exists():
        raise FileNotFoundError(f"no model folder {folder}")
    if not (folder / CARD).exists():
        raise ValueError(f"{folder} is not a model folder: it has no {CARD}")
    try:
        card = json.loads((folder / CARD).read_bytes())  # in any of JSON's encodings
    except ValueError as error:
        raise Damaged(f"{folder / CARD} is not JSON ({error}); convert it again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise ValueError(
            f"{folder / CARD} has format {found!r}, this version reads {FORMAT}; "
            "convert the model again or update fxjax"
        )
    parts = card.get("parts")
    if not isinstance(card.get("kind"), str) or not isinstance(parts, dict) or not parts:
        raise ValueError(f"{folder / CARD} lacks a kind or parts; convert the model again")
    for name, part in parts.items():
        if not isinstance(part, dict) or not {"architecture", "sha256"} <= part.keys():
            raise ValueError(f"{folder / CARD}: part {name} lacks its architecture or sha256")
    return card


def restore(
    directory: epath.PathLike,
    part: str,
    make: Callable[[dict[str, Any]], Module],
    *,
    sharding: Sharding | None = None,
) -> Module:
    """One part of a model folder as the module that `make(architecture)` builds.

    `make` runs abstractly, so no weights are drawn. Arrays are cast to the module's dtypes.
    Raises ValueError if the folder does not hold the part, is damaged, or does not fit the module.
    """
    folder = files.absolute(directory)
    parts = read_card(folder)["parts"]
    if part not in parts:
        raise ValueError(f"{folder} has no {part}; it has {', '.join(parts)}")
    if not (folder / part).exists() or _digest(folder / part) != parts[part]["sha256"]:
        raise Damaged(
            f"{folder / part} is damaged or incomplete: its files differ from the sha256 in "
            f"{CARD}; convert or copy the model again"
        )
    flat = _read(folder / part)
    architecture = {key: _frozen(value) for key, value in parts[part]["architecture"].items()}
    try:
        return fill(nnx.eval_shape(lambda: make(architecture)), flat, sharding=sharding)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / part}: {error}") from error


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    """Orbax without barriers (whichever process calls, it alone reads or writes) and quiet.

    Orbax logs a traceback from each of its threads before it raises; the raised one line is enough.
    """
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"fxjax{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
            yield checkpointer
    finally:
        logger.setLevel(level)


def _read(folder: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of an Orbax checkpoint on the host; ValueError if Orbax cannot read it."""
    try:
        with _checkpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
            if metadata is None:
                raise ValueError("it has no metadata")
            wanted = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in metadata.tree}
            return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=wanted))
    except Exception as error:  # its kinds of errors are not documented
        raise Damaged(f"Orbax cannot read {folder}: {_first_line(error)}") from error


def _digest(folder: epath.Path) -> str:
    """The sha256 over the names and contents of all files below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():  # etils' own walk loses the gs://
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _frozen(value: Any) -> Any:
    """JSON lists as tuples, as constructors want them."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
