"""What a training run leaves on disk: exact checkpoints, and small exports to use or go on from."""

import dataclasses
import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Sharding

from fxjax import checkpoint, files
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import gan, growth, train_state
from fxjax.training.train_state import Settings, TrainState

Tree = TypeVar("Tree")

COUNTS = ("images", "strength", "path_mean")  # of a state, kept beside the discriminator
MAY_CHANGE = ("kimg",)  # settings that a run may be continued with: it can be made longer


class Arrays(nnx.Module):
    """The leaves of any tree under their paths' names, as `checkpoint` stores them."""

    def __init__(self, tree: Any):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            setattr(self, jax.tree_util.keystr(path), nnx.Variable(leaf))


def save(folder: epath.PathLike, settings: Any, state: Any) -> epath.Path:
    """Adds a checkpoint, named by the images seen, all or nothing; keeps the one before it too.

    Of any state that counts its `images`, and any dataclass of settings that JSON can hold.
    """
    images = int(state.images)
    target = files.absolute(folder) / f"{images:010d}"
    checkpoint.save_model(
        target,
        "training",
        {"state": (dataclasses.asdict(settings), checkpoint.flatten(Arrays(state)))},
        {"images": images},
        overwrite=True,
    )
    for old in _checkpoints(folder)[:-2]:
        old.rmtree()
    return target


def restore(
    folder: epath.PathLike,
    settings: Any,
    state: Tree,
    sharding: Sharding,
) -> Tree | None:
    """The newest checkpoint as a state like `state` (which may be abstract); None if none is there.

    Of a damaged one a warning says so, and the one before it is taken. Raises ValueError if it is
    of other settings, or if all are damaged.
    """
    found = _checkpoints(folder)
    for newest in reversed(found):
        try:
            saved = checkpoint.read_card(newest)
            _check_settings(newest, saved, settings)
            arrays = checkpoint.restore(newest, "state", lambda _: Arrays(state), sharding=sharding)
        except checkpoint.Damaged as error:
            if newest == found[0]:
                raise
            warnings.warn(f"{error}; going on from the checkpoint before it", stacklevel=2)
            continue
        flat = checkpoint.flatten(arrays)
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        return tree.unflatten([flat[jax.tree_util.keystr(path)] for path, _ in paths])
    return None


def _check_settings(newest: epath.Path, card: Mapping[str, Any], settings: Any) -> None:
    saved = card["parts"].get("state", {}).get("architecture", {})
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))  # as saved: tuples are lists
    differ = [
        f"{name} {saved.get(name)} instead of {wanted.get(name)}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name) and name not in MAY_CHANGE
    ]
    if differ:
        raise ValueError(
            f"{newest} was trained with {', '.join(differ)}; give the same or another --out"
        )


def export(
    folder: epath.PathLike,
    settings: Settings,
    state: TrainState,
    info: Mapping[str, Any],
) -> None:
    """Writes the averaged generator as a model folder, and beside it what training goes on from.

    `folder`/export holds the generator in float16 with its mean w, and mean and covariance of w as
    the part "statistics"; `folder`/training/discriminator.npz the discriminator in float16, the
    images seen, the augmentation strength and the mean path length. Both are replaced whole.
    """
    folder = files.absolute(folder)
    mean, covariance = gan.code_statistics(state.average)
    flat = checkpoint.halved(state.average) | {"w_mean": np.asarray(mean)}
    statistics = {"mean": np.asarray(mean), "covariance": np.asarray(covariance)}
    rest = checkpoint.halved(state.discriminator)
    rest = {f"discriminator/{name}": array for name, array in rest.items()}
    rest |= {name: np.asarray(getattr(state, name)) for name in COUNTS}
    packed = io.BytesIO()
    np.savez(packed, **rest)  # pyright: ignore[reportArgumentType]
    checkpoint.save_model(
        folder / "export",
        "stylegan2",
        {
            "generator": (settings.generator(), flat),
            "statistics": ({"dim": settings.dim}, statistics),
        },
        {"images": int(state.images), **info},
        overwrite=True,
    )
    files.write(discriminator_of(folder / "export"), packed.getvalue())


def discriminator_of(model: epath.PathLike) -> epath.Path:
    """Where `export` writes the discriminator of the generator in the folder `model`."""
    return files.absolute(model).parent / "training" / "discriminator.npz"


def start_from(
    model: epath.PathLike, discriminator: epath.PathLike, settings: Settings
) -> TrainState:
    """A state that goes on from an export of the settings' size or half of it, with fresh moments.

    `model` is the generator's folder, `discriminator` the file that `export` wrote beside it.
    Networks of half the size grow (see `fxjax.training.growth`); path lengths then start anew.
    Raises ValueError if they do not fit the settings or each other.
    """
    before = _exported(model, settings)
    made, judge = train_state.networks(before)
    made = checkpoint.restore(model, "generator", lambda _: made)
    source = files.absolute(discriminator)
    if not source.exists():
        raise FileNotFoundError(
            f"no {source} to go on from; --start_discriminator names the file that was exported"
        )
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as packed:
            rest = dict(packed)
        counts = {name: rest.pop(name) for name in COUNTS}
        flat = {name.removeprefix("discriminator/"): array for name, array in rest.items()}
        judge = checkpoint.fill(judge, flat)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} is no discriminator of these settings: {error}") from error
    shown = checkpoint.read_card(model).get("images")
    if shown != counts["images"]:
        raise ValueError(
            f"{source} saw {counts['images']} pictures and the generator {model} {shown}: they are "
            "not of one export, and a discriminator that lags behind teaches nothing for long"
        )
    if before.resolution < settings.resolution:
        larger = train_state.networks(settings)
        made, judge = growth.generator(made, larger[0]), growth.discriminator(judge, larger[1])
        counts["path_mean"] = np.zeros_like(counts["path_mean"])
    state = train_state.begin(settings, without_mean(made), judge)
    kept = {name: jnp.asarray(counts[name], getattr(state, name).dtype) for name in COUNTS}
    return state._replace(**kept)


def _exported(model: epath.PathLike, settings: Settings) -> Settings:
    """The settings at the export's own size. ValueError unless it can be gone on from."""
    card, size = checkpoint.read_card(model), settings.resolution
    saved = card["parts"].get("generator", {}).get("architecture", {})
    if card["kind"] != "stylegan2" or not saved:
        raise ValueError(f"{model} holds no StyleGAN2 generator to go on from")
    own = saved.get("resolution")
    if own not in (size, size // 2):
        raise ValueError(
            f"{model} is of {own} px; training at {size} px goes on from {size} px or grows from "
            f"{size // 2} px: give --resolution={own} or {2 * own}"
        )
    before = dataclasses.replace(settings, resolution=own)
    wanted = json.loads(json.dumps(before.generator()))
    differ = [f"{name} {saved.get(name)} instead of {wanted[name]}" for name in wanted
              if saved.get(name) != wanted[name]]  # fmt: skip
    if differ:
        raise ValueError(
            f"{model} has {', '.join(differ)}; --width_base, --width_most, --dim and "
            "--mapping_layers must be those that it was trained with"
        )
    return before


def without_mean(generator: StyleGAN2) -> StyleGAN2:
    """The same generator with a zero mean w: in training it is not kept, exports compute it."""
    generator = jax.tree.map(lambda array: array, generator)
    generator.w_mean[...] = jnp.zeros_like(generator.w_mean[...])
    return generator


def _checkpoints(folder: epath.PathLike) -> list[epath.Path]:
    """Complete checkpoints, oldest first."""
    source = files.absolute(folder)
    if not source.exists():
        return []
    found = [path for path in source.iterdir() if path.name.isdigit()]
    return sorted(path for path in found if (path / checkpoint.CARD).exists())
