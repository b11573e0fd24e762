"""Trains the network that finds landmarks in drawings; the same command goes on where it stopped.

    python -m experiments.making.landmark_faces --samples=9000 --pictures=A.zip --dst=runs/faces.npz
    python -m experiments.train_landmarks --faces=runs/faces.npz --out=runs/landmarks

--out gets `export` (a model folder with the part "landmarks", float16), checkpoints, metrics.csv
and TensorBoard scalars. --preset=smoke makes all else tiny: it runs through in seconds.
"""

import dataclasses
import functools
from typing import Annotated

import jax

from fxjax import checkpoint, cli, sharding
from fxjax.training import landmarker, loop
from fxjax.training.landmarker import LandmarkerSettings, TrainState

PRESETS = {
    "faces": LandmarkerSettings(),
    "smoke": LandmarkerSettings(size=32, widths=(4, 8, 8), batch=4, kviews=0.04),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the data is, where results go, and how often."""

    faces: Annotated[tuple[str, ...], "npz files of experiments.making.landmark_faces"]
    out: Annotated[str, "folder for checkpoints, the model and metrics.csv"]
    apart: Annotated[int, "samples held back to measure on"] = 300
    report_every: Annotated[int, "steps between lines of progress, at most 100"] = 50
    save_minutes: Annotated[float, "minutes between checkpoints"] = 3.0
    export_minutes: Annotated[float, "minutes between exports"] = 10.0


def run(options: Run, settings: LandmarkerSettings) -> None:
    """Trains until all views are shown or until SIGTERM or Ctrl-C, saves, exports.

    Raises ValueError for bad data or settings, or if the loss is not finite; KeyboardInterrupt
    when it was stopped, after saving.
    """
    if settings.size % 16:
        raise ValueError(f"--size={settings.size}: want a multiple of 16")
    faces, held, wanted = landmarker.read_faces(options.faces, settings.size, options.apart)
    mesh = sharding.mesh(jax.devices()[:1])
    fresh = functools.partial(landmarker.fresh, settings)
    state = loop.begin(options.out, settings, fresh, fresh, mesh)
    loop.say(f"{len(faces.pictures)} pictures; from view {int(state.images)}")

    def export(state: TrainState) -> None:
        measured = landmarker.errors(state.average, held, wanted)
        lines = "  ".join(f"{name} {value:.2f}" for name, value in measured.items())
        loop.say(f"{len(held)} samples held back, % of the distance between the eyes: {lines}")
        info = {"views": int(state.images), "settings": dataclasses.asdict(settings)}
        flat = checkpoint.halved(state.average)
        parts = {"landmarks": ({"size": settings.size, "widths": settings.widths}, flat)}
        info |= {"held_back": measured}
        checkpoint.save_model(f"{options.out}/export", "landmarks", parts, info, overwrite=True)

    job = loop.Job(
        out=options.out,
        settings=settings,
        total=settings.kviews * 1000,
        step=lambda state, _: landmarker.train_step(settings, state, faces),
        draw=lambda _: {},
        export=export,
        shown={"loss": "loss {:.4f}", "error": "error {:.2f} %"},
        unit="views",
    )
    rhythm = loop.Rhythm(options.report_every, 1e9, options.save_minutes, options.export_minutes)
    loop.loop(job, rhythm, state)


if __name__ == "__main__":
    cli.launch_run(run, Run, PRESETS, "faces")
