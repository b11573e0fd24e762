"""Trains an encoder, from which inversions and transfers start; the same command goes on.

    python -m experiments.train_encoder --model=faces --data=faces128.zip --weights_csv=faces.csv \
        --out=runs/encoder

--out gets `export` (a folder with the part "encoder", float16, for `--start=FOLDER` and
pack_model), checkpoints, sheets of held-back faces above what is drawn of their codes, metrics.csv
and TensorBoard scalars. --preset=faces is for a GPU (ten minutes), cpu for two cores (hours), smoke
runs through in seconds. --compile_cache=FOLDER makes a second start quick.
"""

import dataclasses
import functools
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import checkpoint, cli, images, load, sharding, zoo
from fxjax.training import data, encoder, loop
from fxjax.training.encoder import EncoderSettings, TrainState

PRESETS = {
    "faces": EncoderSettings(),
    "cpu": EncoderSettings(batch=8, kimg=40.0, dtype="float32"),
    "smoke": EncoderSettings(
        size=16, widths=(4, 8), squeeze=4, batch=8, kimg=0.4, dtype="float32", decay=0.9
    ),
}
JUDGED = 16  # held-back faces that are measured and drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(loop.Rhythm):
    """Where the data is, where results go, and how often."""

    data: Annotated[str, "folder or zip of aligned pictures of the generator's size or more"]
    out: Annotated[str, "folder for checkpoints, the encoder, sheets and metrics.csv"]
    model: Annotated[str, "whose codes are read: a name or a model folder"] = zoo.DEFAULT
    features: Annotated[str | None, "feature network; None: the model's, or else the shipped"] = (
        None
    )
    weights_csv: Annotated[
        str | None, "table of the pictures: filename and training_weight, or kind and source_id"
    ] = None


def run(options: Run, settings: EncoderSettings) -> None:
    """Trains until all pictures are seen or until SIGTERM or Ctrl-C, saves, exports.

    Raises ValueError for bad data or settings, or if the loss is not finite; KeyboardInterrupt
    when it was stopped, after saving.
    """
    mesh = sharding.mesh()
    if settings.batch % (2 * mesh.size):
        raise ValueError(f"--batch={settings.batch}: want a multiple of {2 * mesh.size}")
    holder = zoo.holder(options.model, "features") if options.features is None else options.features
    dtype = jnp.dtype(settings.dtype)
    generator = load(options.model, part="generator", dtype=dtype)
    shape = encoder.architecture(settings, len(generator.rows), generator.dim)
    pictures, names = data.read_pictures(options.data, generator.resolution)
    weights = np.ones(len(names), np.float32)
    if options.weights_csv:
        weights = data.read_weights(options.weights_csv, names)
    held = pictures[weights == 0][:JUDGED]
    held = pictures[:JUDGED] if not len(held) else held  # nothing is held back
    fixed = encoder.frozen(options.model, load(holder, part="features", dtype=dtype), generator)
    shown = weights > 0
    faces = encoder.Faces(pictures[shown], weights[shown])  # pyright: ignore[reportArgumentType]
    fixed, faces = sharding.replicate((fixed, faces), mesh)
    fresh = functools.partial(encoder.fresh, settings, len(generator.rows), generator.dim)
    state = loop.begin(options.out, settings, fresh, fresh, mesh)
    loop.say(f"{shown.sum()} pictures, {len(held)} to measure on; from picture {int(state.images)}")

    own = sharding.own(fixed)  # for what one process does alone

    def measure(state: TrainState) -> tuple[dict[str, float], np.ndarray]:
        return encoder.judge(encoder.exported(state.average, own.walk), own, held)

    def draw(state: TrainState) -> dict[str, float | int]:
        measured, drawings = measure(state)
        both = np.concatenate([held, images.to_uint8(drawings)])
        sheet = images.contact_sheet(both, columns=len(held), gap=2)
        images.save_image(f"{options.out}/samples/{int(state.images):08d}.png", sheet)
        return {f"held_back_{name}": value for name, value in measured.items()}

    def export(state: TrainState) -> None:
        measured, _ = measure(state)
        card = checkpoint.read_card(zoo.find(options.model))
        info = {
            "views": int(state.images),
            "data": epath.Path(options.data).name,
            "settings": dataclasses.asdict(settings),
            "held_back": measured,
            "generator_sha256": card["parts"]["generator"]["sha256"],
        }
        parts = {"encoder": (shape, encoder.halved(state.average, own.walk))}
        checkpoint.save_model(f"{options.out}/export", "encoder", parts, info, overwrite=True)
        loop.say("  ".join(f"{name} {value:.3f}" for name, value in measured.items()))

    job = loop.Job(
        out=options.out,
        settings=settings,
        total=settings.kimg * 1000,
        step=lambda state, _: encoder.train_step(settings, mesh, state, faces, fixed),
        draw=draw,
        export=export,
        shown={"loss": "loss {:.4f}", "photos": "photos {:.4f}", "samples": "samples {:.4f}",
               "held_back_loss": "held back {:.4f}"},
    )  # fmt: skip
    loop.loop(job, options, state)


if __name__ == "__main__":
    cli.launch_run(run, Run, PRESETS, "faces")
