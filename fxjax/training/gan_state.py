"""What training of a StyleGAN2 keeps: settings, state, Adam, and exports to use or to go on from.

An export may be gone on from at twice its size: networks grow into larger ones that first do what
the smaller ones did (arXiv:1710.10196, section 2). Not faded in as there: a skip generator's new
layers begin at zero, and the discriminator's begin as the halving of the picture, so nothing that
was learned is lost at the first step.
"""

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8

from fxjax import checkpoint, files
from fxjax.nn.generator import code_statistics
from fxjax.nn.layers import default_widths, update_scales
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.training import augment

Module = TypeVar("Module", bound=nnx.Module)
SLOPES = 1.2  # leaky(x) - leaky(-x) = 1.2 x: a pair of channels carries a value through unbent
ROOT2 = 2**0.5
PAIRS = 6  # channels that carry red, green and blue
Tree = TypeVar("Tree")

COUNTS = ("images", "strength", "path_mean")  # of a state, kept beside the discriminator


@dataclasses.dataclass(frozen=True)
class GanSettings(augment.Moves):
    """What is trained and how; two runs with equal settings and data are equal."""

    resolution: Annotated[int, "side of the pictures, a power of two"] = 128
    width_base: Annotated[int, "channels at a size: min(width_base / size, width_most)"] = 8192
    width_most: Annotated[int, "most channels"] = 256
    dim: Annotated[int, "length of w and of z"] = 512
    mapping_layers: Annotated[int, "dense layers from z to w"] = 2
    dtype: Annotated[
        Literal["float32", "bfloat16"], "of activations; weights, losses and sums are float32"
    ] = "bfloat16"
    batch: Annotated[int, "pictures per step, over all devices; a multiple of 4"] = 64
    kimg: Annotated[float, "thousands of real pictures to train on"] = 1600.0
    rate: Annotated[float, "Adam's rate, before equalising"] = 0.0025
    mapping_rate: Annotated[float, "the mapping learns slower by this factor"] = 0.01
    fall: Annotated[float, "share of the run at whose end the rate has fallen to a fifth"] = 0.15
    r1: Annotated[float, "weight of the gradient penalty on real pictures"] = 0.3
    r1_every: Annotated[int, "steps between gradient penalties"] = 16
    path: Annotated[float, "weight of the path length penalty; 0: none"] = 2.0
    path_every: Annotated[int, "steps between path length penalties"] = 8
    path_kimg: Annotated[float, "thousands of pictures before the first one"] = 300.0
    mixing: Annotated[float, "probability of mixing two styles"] = 0.9
    average_kimg: Annotated[float, "half-life of the weight average, thousands of pictures"] = 20.0
    average_share: Annotated[float, "most half-life as a share of the pictures seen"] = 0.05
    strength: Annotated[float, "probability of each augmentation at the start"] = 0.2
    strength_most: Annotated[float, "its upper bound"] = 0.8
    strength_kimg: Annotated[float, "thousands of pictures in which it moves by 1"] = 200.0
    strength_every: Annotated[int, "steps between its adjustments"] = 4
    sign: Annotated[float, "mean sign of real scores that it is adjusted to"] = 0.6
    mirror: Annotated[bool, "show half of the pictures mirrored"] = True
    seed: Annotated[int, "of weights, data order and all else"] = 0

    def generator(self) -> dict[str, Any]:
        """The generator's architecture: constructor arguments that JSON can hold."""
        return {
            "resolution": self.resolution,
            "widths": default_widths(self.resolution, self.width_base, self.width_most),
            "dim": self.dim,
            "latent": self.dim,
            "mapping_layers": self.mapping_layers,
        }

    def discriminator(self) -> dict[str, Any]:
        """The discriminator's architecture."""
        return {key: self.generator()[key] for key in ("resolution", "widths")}


class TrainState(NamedTuple):
    """All that changes in training. Counts are of real pictures shown."""

    generator: StyleGAN2
    discriminator: StyleGAN2Discriminator
    average: StyleGAN2
    generator_moments: PyTree
    discriminator_moments: PyTree
    path_mean: Float[Array, ""]
    strength: Float[Array, ""]
    sign_sum: Float[Array, ""]
    images: Int[Array, ""]
    total: Float[Array, ""]  # images of the whole run; not compiled in, so that it may change
    broken: Int[Array, ""]  # images seen when a loss first was not finite; -1: never


class Data(NamedTuple):
    """The training pictures, on every device, and how often each is shown relative to others."""

    pictures: UInt8[Array, "count size size 3"]
    weights: Float[Array, " count"]


def networks(settings: GanSettings) -> tuple[StyleGAN2, StyleGAN2Discriminator]:
    """New networks with float32 weights."""
    dtype = jnp.dtype(settings.dtype)
    first, second = nnx.Rngs(params=2 * settings.seed), nnx.Rngs(params=2 * settings.seed + 1)
    return (
        StyleGAN2(**settings.generator(), dtype=dtype, rngs=first),
        StyleGAN2Discriminator(**settings.discriminator(), dtype=dtype, rngs=second),
    )


@functools.partial(jax.jit, static_argnums=0)
def fresh(settings: GanSettings) -> TrainState:
    """The state before the first step of new networks."""
    return begin(settings, *networks(settings))


def begin(
    settings: GanSettings, generator: StyleGAN2, discriminator: StyleGAN2Discriminator
) -> TrainState:
    """The state before the first step, with fresh moments."""
    zero = jnp.zeros((), jnp.float32)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        average=jax.tree.map(jnp.copy, generator),  # copied: the steps consume their arguments
        generator_moments=adam(_generator_lag(settings)).init(generator),
        discriminator_moments=adam(_discriminator_lag(settings)).init(discriminator),
        path_mean=zero,
        strength=zero + jnp.float32(settings.strength),
        sign_sum=jnp.copy(zero),
        images=jnp.zeros((), jnp.int32),
        total=jnp.float32(settings.kimg * 1000),
        broken=jnp.full((), -1, jnp.int32),
    )


def rate(settings: GanSettings, state: TrainState) -> Float[Array, ""]:
    """The rate: constant, then falling linearly to a fifth over the last `fall` of the run."""
    left = state.total - state.images.astype(jnp.float32)
    left = left / jnp.maximum(settings.fall * state.total, 1.0)
    return settings.rate * (0.2 + 0.8 * jnp.clip(left, 0.0, 1.0))


def moved_generator(settings: GanSettings, state: TrainState, slopes: StyleGAN2) -> TrainState:
    """The state after an Adam step of the generator."""
    lag, speed = _generator_lag(settings), rate(settings, state)
    moments = state.generator_moments
    generator, moments = moved(settings, state.generator, slopes, moments, speed, lag)
    return state._replace(generator=generator, generator_moments=moments)


def moved_discriminator(
    settings: GanSettings, state: TrainState, slopes: StyleGAN2Discriminator
) -> TrainState:
    """The state after an Adam step of the discriminator."""
    lag, speed = _discriminator_lag(settings), rate(settings, state)
    moments = state.discriminator_moments
    discriminator, moments = moved(settings, state.discriminator, slopes, moments, speed, lag)
    return state._replace(discriminator=discriminator, discriminator_moments=moments)


def moved(
    settings: GanSettings,
    module: Module,
    slopes: Module,
    moments: PyTree,
    rate: Float[Array, ""],
    lag: float,
) -> tuple[Module, PyTree]:
    """One Adam step at the equalised learning rate.

    `lag` is k / (k + 1) where k steps are followed by one of a penalty: it scales the rate and is
    the exponent of Adam's decay (arXiv:1912.04958, appendix B).
    """
    scales = update_scales(module, settings.mapping_rate)
    slopes = jax.tree.map(lambda slope, scale: slope * scale, slopes, scales)
    steps, moments = adam(lag).update(slopes, moments)
    rate = rate * lag
    changed = jax.tree.map(lambda x, step, scale: x - rate * scale * step, module, steps, scales)
    return changed, moments


def adam(lag: float) -> Any:
    """Adam with b1 = 0, which then needs no first moment (optax documents this equality)."""
    return optax.scale_by_rms(0.99**lag, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


def _generator_lag(settings: GanSettings) -> float:
    return settings.path_every / (settings.path_every + 1) if settings.path else 1.0


def _discriminator_lag(settings: GanSettings) -> float:
    return settings.r1_every / (settings.r1_every + 1) if settings.r1 else 1.0


def grown_generator(small: StyleGAN2, large: StyleGAN2) -> StyleGAN2:
    """`large`, of twice the size, drawing the picture of `small` enlarged by its FIR filter.

    All of `small` is kept; of `large` stay the new convolutions and noise. The new ToRGB starts at
    zero. ValueError if their other layers do not agree.
    """
    last = f"rows/{len(large.rows) - 1}/to_rgb/conv"
    flat = checkpoint.flatten(large)
    flat |= checkpoint.flatten(small)
    flat |= {
        f"{last}/{name}": jnp.zeros_like(flat[f"{last}/{name}"]) for name in ("kernel", "bias")
    }
    return checkpoint.fill(large, flat)


def grown_discriminator(
    small: StyleGAN2Discriminator, large: StyleGAN2Discriminator
) -> StyleGAN2Discriminator:
    """`large`, residual and of twice the size, scoring a picture as `small` scores it halved.

    The new block carries the colours to its end in six channels, halves them, and does there what
    the first layer of `small` did; its skip starts at zero, its other channels as in `large`.
    ValueError if it is narrower than that, or other layers do not agree.
    """
    flat, old = checkpoint.flatten(large), checkpoint.flatten(small)
    channels = flat["from_rgb/kernel"].shape[-1]
    if channels < PAIRS:
        raise ValueError(
            f"the discriminator would have {channels} channels at {large.resolution} px and "
            f"growing takes {PAIRS}; raise --width_base"
        )
    first = {name: old.pop(f"from_rgb/{name}") for name in ("kernel", "bias")}
    block = f"blocks/{len(large.blocks) - 1}"
    signs = jnp.kron(jnp.eye(3), jnp.asarray([[1.0, -1.0]]))  # [3, 6]: each colour and its opposite
    carried = jnp.pad(signs, [(0, 0), (0, channels - PAIRS)])
    read = carried.T / (SLOPES * ROOT2)  # colours from the activated pairs

    kernel = flat["from_rgb/kernel"]
    flat["from_rgb/kernel"] = kernel.at[0, 0, :, :PAIRS].set(signs)
    kernel = flat[f"{block}/conv/kernel"].at[..., :PAIRS].set(0.0)
    flat[f"{block}/conv/kernel"] = kernel.at[1, 1, :, :PAIRS].set(read @ signs)
    kernel = jnp.zeros_like(flat[f"{block}/down/kernel"])
    # The block ends in the sum of its branches times sqrt(1/2).
    flat[f"{block}/down/kernel"] = kernel.at[1, 1].set(read @ first["kernel"][0, 0] * ROOT2)
    flat[f"{block}/down/bias"] = first["bias"] * ROOT2
    flat[f"{block}/skip/kernel"] = jnp.zeros_like(flat[f"{block}/skip/kernel"])
    return checkpoint.fill(large, flat | old)


def export(
    folder: epath.PathLike,
    settings: GanSettings,
    state: TrainState,
    info: Mapping[str, Any],
) -> None:
    """Writes the averaged generator as a model folder, and beside it what training goes on from.

    `folder`/export holds the generator in float16 with its mean w, and mean and covariance of w as
    the part "statistics"; `folder`/training/discriminator.npz the discriminator in float16, the
    images seen, the augmentation strength and the mean path length. Both are replaced whole.
    """
    folder = files.absolute(folder)
    mean, covariance = code_statistics(state.average)
    flat = checkpoint.halved(state.average) | {"w_mean": np.asarray(mean)}
    statistics = {"mean": np.asarray(mean), "covariance": np.asarray(covariance)}
    rest = checkpoint.halved(state.discriminator)
    rest = {f"discriminator/{name}": array for name, array in rest.items()}
    rest |= {name: np.asarray(getattr(state, name)) for name in COUNTS}
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
    files.write(discriminator_of(folder / "export"), files.npz(rest))


def adopt(discriminator: epath.PathLike, model: epath.PathLike) -> None:
    """Copies a discriminator of an earlier run beside the generator in the folder `model`.

    It is counted as having seen the generator's pictures; path lengths start anew. It lags behind
    at first, which is for a run that starts with more augmentation, not for going on.
    """
    with np.load(
        io.BytesIO(files.absolute(discriminator).read_bytes()), allow_pickle=False
    ) as packed:
        rest = dict(packed)
    if any(name not in rest for name in COUNTS):
        raise ValueError(f"{discriminator} is no discriminator.npz of experiments.train_generator")
    rest["images"] = np.asarray(checkpoint.read_card(model)["images"], rest["images"].dtype)
    rest["path_mean"] = np.zeros_like(rest["path_mean"])
    files.write(discriminator_of(model), files.npz(rest))


def discriminator_of(model: epath.PathLike) -> epath.Path:
    """Where `export` writes the discriminator of the generator in the folder `model`."""
    return files.absolute(model).parent / "training" / "discriminator.npz"


def start_from(
    model: epath.PathLike, discriminator: epath.PathLike, settings: GanSettings
) -> TrainState:
    """A state that goes on from an export of the settings' size or half of it, with fresh moments.

    `model` is the generator's folder, `discriminator` the file that `export` wrote beside it.
    Networks of half the size grow (`grown_generator`), and path lengths then start anew.
    Raises ValueError if they do not fit the settings or each other.
    """
    before = _exported(model, settings)
    made, judge = networks(before)
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
        larger = networks(settings)
        made, judge = grown_generator(made, larger[0]), grown_discriminator(judge, larger[1])
        counts["path_mean"] = np.zeros_like(counts["path_mean"])
    state = begin(settings, without_mean(made), judge)
    kept = {name: jnp.asarray(counts[name], getattr(state, name).dtype) for name in COUNTS}
    return state._replace(**kept)


def _exported(model: epath.PathLike, settings: GanSettings) -> GanSettings:
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
