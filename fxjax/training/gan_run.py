"""The training run behind `experiments.train_generator`: presets, the step, and what it draws."""

import concurrent.futures
import dataclasses
import functools
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import images, sharding
from fxjax.nn import generator as generators
from fxjax.nn.generator import code_statistics
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import data, gan, gan_state, loop
from fxjax.types import Images

PRESETS = {
    "faces128": gan_state.GanSettings(),
    "faces256": gan_state.GanSettings(resolution=256, r1=1.0),  # a third more work per picture
    "faces64": gan_state.GanSettings(
        resolution=64, width_base=2048, width_most=128, dim=256, dtype="float32", batch=16,
        kimg=400.0, r1=0.2, path=0.0,
    ),
    "smoke": gan_state.GanSettings(
        resolution=16, width_base=128, width_most=16, dim=16, dtype="float32", batch=8, kimg=0.4,
        r1_every=4, path_every=4, path_kimg=0.2,
    ),
}  # fmt: skip

GRID = 32  # pictures in a sample grid, each at psi 1 and at psi 0.7
SHOWN = {
    "loss_generator": "G {:.3f}",
    "loss_discriminator": "D {:.3f}",
    "score_real": "real {:+.2f}",
    "score_fake": "fake {:+.2f}",
    "r1": "r1 {:.3g}",
    "strength": "augment {:.3f}",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(loop.Rhythm):
    """Where the data is, where results go, and how often."""

    data: Annotated[str, "folder or zip of pictures"]
    out: Annotated[str, "folder for checkpoints, exports, sample grids and metrics"]
    weights_csv: Annotated[
        str | None, "table of the pictures: filename and training_weight, or kind and source_id"
    ] = None
    start_from: Annotated[str | None, "exported generator to go on from, with fresh moments"] = None
    start_discriminator: Annotated[
        str | None, "its discriminator.npz (default: ../training/discriminator.npz beside it)"
    ] = None
    export_minutes: Annotated[float, "minutes between exports"] = 3.0
    profile_dir: Annotated[str | None, "write a profile of steps 20 to 30 for TensorBoard"] = None


def run(options: Run, settings: gan_state.GanSettings) -> None:
    """Trains until all images are shown, or until SIGTERM or Ctrl-C, and saves.

    Raises ValueError for bad data or settings, or if a loss is not finite; KeyboardInterrupt when
    it was stopped, after saving.
    """
    mesh, began = sharding.mesh(), time.monotonic()
    weights = _weights(options, settings)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    compiling = pool.submit(gan.compiled, settings, mesh, int(np.sum(weights > 0)))
    pool.shutdown(wait=False)  # a fault of the data is told while this goes on
    pictures = sharding.replicate(_data(options, settings, weights), mesh)
    fresh = functools.partial(gan_state.fresh, settings)
    start = functools.partial(_start, options, settings)
    state = loop.begin(options.out, settings, fresh, start, mesh)
    total = sharding.replicate(jnp.float32(settings.kimg * 1000), mesh)
    state = state._replace(total=total)  # a run may be made longer
    first, loaded = int(state.images), time.monotonic() - began
    programs = compiling.result()
    loop.say(
        f"pictures and networks after {loaded:.0f} s, compiled beside it in "
        f"{time.monotonic() - began:.0f} s for {mesh.size} x "
        f"{jax.devices()[0].device_kind}; {len(pictures.weights)} pictures; from image {first}"
    )
    extra: gan.Metrics = {}

    def step(state: gan_state.TrainState, seen: int) -> tuple[Any, gan.Metrics]:
        _profile(options, (seen - first) // settings.batch, state)
        index, seen = seen // settings.batch, seen + settings.batch
        state, metrics = programs.step(state, pictures)
        due = index % settings.r1_every == 0
        if programs.regularize_discriminator is not None and due:
            state, more = programs.regularize_discriminator(state, pictures)
            extra.update(more)
        due = index % settings.path_every == 0 and seen > settings.path_kimg * 1000
        if programs.regularize_generator is not None and due:
            state, more = programs.regularize_generator(state, pictures)
            extra.update(more)
        return state, metrics | extra

    job = loop.Job(
        out=options.out,
        settings=settings,
        total=settings.kimg * 1000,
        step=step,
        draw=lambda state: _draw(options, state),
        export=lambda state: _export(options, settings, state),
        shown=SHOWN,
        cure="try a lower --rate or another --r1",
    )
    loop.loop(job, options, state)


def _weights(options: Run, settings: gan_state.GanSettings) -> Float[np.ndarray, " count"]:
    """How often each picture is shown. ValueError if too few are shown for a batch."""
    names = data.picture_names(options.data)
    weights = np.ones(len(names), np.float32)
    if options.weights_csv:
        weights = data.read_weights(options.weights_csv, names)
    if np.sum(weights > 0) < settings.batch:
        raise ValueError(
            f"{options.data} has {np.sum(weights > 0)} pictures to train on "
            f"({np.sum(weights == 0)} are held back), fewer than the batch of {settings.batch}; "
            "lower --batch"
        )
    return weights


def _data(
    options: Run, settings: gan_state.GanSettings, weights: Float[np.ndarray, " count"]
) -> gan_state.Data:
    """The pictures that are shown at all."""
    pictures, _ = data.read_pictures(options.data, settings.resolution)
    kept = weights > 0
    return gan_state.Data(pictures[kept], weights[kept])  # pyright: ignore[reportArgumentType]


def _start(options: Run, settings: gan_state.GanSettings) -> gan_state.TrainState:
    """New networks, or those of an export."""
    if options.start_from is None:
        return gan_state.fresh(settings)
    beside = options.start_discriminator or gan_state.discriminator_of(options.start_from)
    return gan_state.start_from(options.start_from, beside, settings)


def _export(options: Run, settings: gan_state.GanSettings, state: gan_state.TrainState) -> None:
    info = {"data": epath.Path(options.data).name, "settings": dataclasses.asdict(settings)}
    gan_state.export(options.out, settings, state, info)


def _draw(options: Run, state: gan_state.TrainState) -> dict[str, float | int]:
    """Saves a grid of the average generator's pictures: fixed z at psi 1, below at psi 0.7."""
    made = images.to_uint8(np.asarray(_sample(state.average)))
    path = f"{options.out}/samples/{int(state.images):08d}.png"
    images.save_image(path, images.contact_sheet(made, columns=8, gap=2))
    return {}


@functools.partial(jax.jit)
def _sample(generator: StyleGAN2) -> Images:
    z = jax.random.normal(jax.random.key(1), (GRID, generator.latent))
    w = generator.mapping(z)
    mean, _ = code_statistics(generator, 4096)
    both = jnp.concatenate([w, mean + (w - mean) * 0.7])
    wide = jnp.repeat(both[:, None], len(generator.rows), axis=1)
    return generators.synthesize(generator, wide)


def _profile(options: Run, step: int, state: gan_state.TrainState) -> None:
    if options.profile_dir and step in (20, 30):
        jax.block_until_ready(state)
        jax.profiler.start_trace(options.profile_dir) if step == 20 else jax.profiler.stop_trace()
