"""Memory of a long inversion run: does it grow with the number of pictures?

Inverts many small random pictures with a small random generator, as experiments.invert does, and
prints the process's resident memory and the programs compiled so far every hundred pictures.

    python -m experiments.bench_memory --count=2000
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from flax import nnx

from fxjax.checkpoint import flatten, save_model
from fxjax.cli import launch
from fxjax.files import absolute
from fxjax.images import save_image
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.runs import bench, inversion, worklist
from fxjax.runs.inverted import Row

ARCHITECTURE: dict[str, Any] = {
    "resolution": 32, "widths": (8, 8, 8, 8), "dim": 32, "latent": 32, "mapping_layers": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    count: Annotated[int, "pictures"] = 2000
    batch: Annotated[int, "pictures at once"] = 8
    steps: Annotated[int, "optimiser steps per picture"] = 10
    every: Annotated[int, "pictures between lines"] = 100


class Counter:
    """Prints a line now and then."""

    def __init__(self, every: int):
        self.every, self.compiled, self.lines = every, 0, []
        self.done = 0

    def timed(self, name: str) -> None:
        """Called after each thing that jax times."""
        self.compiled += name.endswith("backend_compile_duration")

    def finished(self, row: Row, curve: Sequence[float]) -> None:
        """Called after each picture."""
        self.done += 1
        if self.done % self.every == 0:
            self.lines.append((self.done, resident(), self.compiled))
            print("| {} | {:.1f} | {} |".format(*self.lines[-1]), flush=True)


def resident() -> float:
    """MiB of memory that this process holds (Linux)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def main(config: Config) -> None:
    """Makes the pictures and the model in a temporary folder, inverts, and prints."""
    counter = Counter(config.every)
    listener = lambda event, duration_secs, **_: counter.timed(event)
    jax.monitoring.register_event_duration_secs_listener(listener)
    with tempfile.TemporaryDirectory() as name:
        home = absolute(name)
        model = StyleGAN2(**ARCHITECTURE, rngs=nnx.Rngs(0))
        parts = {"generator": (ARCHITECTURE, flatten(model))}
        save_model(home / "model", "stylegan2", parts, {})
        random = np.random.default_rng(0)
        for index in range(config.count):
            picture = random.integers(0, 256, (32, 32, 3), np.uint8)
            save_image(home / "photos" / f"{index:06d}.png", picture)
        settings = inversion.Config(
            model=str(home / "model"),
            images=str(home / "photos"),
            out=str(home / "out"),
            aligned=True,
            steps=config.steps,
            batch=config.batch,
            devices=1,
        )
        search = inversion.prepare(settings)
        out = absolute(settings.out)
        entries = worklist.make(out, settings.images, inversion.faces_of(settings, search))
        print(f"{bench.machine()}; {config.count} pictures, {config.batch} at once")
        print("| pictures | resident MiB | programs compiled |\n| --- | --- | --- |")
        skip = lambda count, loss: None
        inversion.run(out, entries, search, config.batch, "{}", skip, counter.finished)
    after = counter.lines[len(counter.lines) // 10 :]
    growth = (after[-1][1] - after[0][1]) / max(after[-1][0] - after[0][0], 1)
    print(
        f"from picture {after[0][0]} to {after[-1][0]}: {1024 * growth:.1f} KiB per picture, "
        f"{after[-1][2] - after[0][2]} programs compiled"
    )


if __name__ == "__main__":
    launch(Config, main)
