"""Speed of a whole transfer by stage: cold, from a warm compile cache, and once more.

Each of the first two is a process of its own, cold with an empty compile cache and warm with what
the cold one left there; "again" is a second transfer in the warm process. "start" is Python and its
imports, "load" the models. Models are at their defaults; the ceiling is this machine's best rate of
plain convolutions and matrix products in the same run.

    python -m experiments.bench_transfer --appearance=A.jpg --expression=B.jpg
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Annotated

from fxjax import zoo
from fxjax.cli import launch, part_of
from fxjax.engine import Engine
from fxjax.runs import bench, transfer_flags

SAMPLES = ("seed0006", "seed0058")  # of the shipped generator's: two people


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Transfer):
    """Each field is a flag."""

    appearance: Annotated[str, "the photo whose face changes; empty: a shipped sample"] = ""
    expression: Annotated[str, "the photo whose expression it gets; empty: a sample"] = ""
    alone: Annotated[bool, "one process's part: prints its seconds as JSON"] = False


def main(config: Config) -> None:
    """Measures and prints."""
    samples = [str(zoo.samples()[name]) for name in SAMPLES]
    photos = config.appearance or samples[0], config.expression or samples[1]
    if config.alone:
        print(json.dumps(alone(config, *photos)))
        return
    print(bench.machine())
    best = bench.ceilings(("float32",))["float32"]
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = process(config, photos, cache), process(config, photos, cache)
    columns = {"cold s": cold["first"], "warm s": warm["first"], "again s": warm["again"]}
    print("| " + " | ".join(["stage", *columns]) + " |\n" + "| --- " * 4 + "|")
    for stage in dict.fromkeys(stage for seconds in columns.values() for stage in seconds):
        cells = [f"{s[stage]:.2f}" if stage in s else "" for s in columns.values()]
        print(f"| {stage} | " + " | ".join(cells) + " |")
    totals = [f"{sum(seconds.values()):.2f}" for seconds in columns.values()]
    print("| in all | " + " | ".join(totals) + " |")
    again = bench.ceilings(("float32",))["float32"]
    print(f"the ceiling was {best / again:.2f} times as high before as after")


def alone(config: Config, appearance: str, expression: str) -> dict[str, dict[str, float]]:
    """Seconds by stage of a first and a second transfer in this process."""
    began = time.monotonic()
    settings = part_of(config, transfer_flags.Transfer).settings()
    engine = Engine(config.model, config.features, settings)
    found = {"first": {"load": time.monotonic() - began}, "again": {}}
    for seconds in found.values():
        (result,) = engine(appearance, expression)
        seconds.update(result.seconds)
    return found


def process(config: Config, photos: tuple[str, str], cache: str) -> dict[str, dict[str, float]]:
    """The same in a process of its own; its start is what is left of its time."""
    command = [sys.executable, "-m", "experiments.bench_transfer", "--alone"]
    command += [f"--appearance={photos[0]}", f"--expression={photos[1]}"]
    for field in dataclasses.fields(transfer_flags.Transfer):
        value = getattr(config, field.name)
        if value is not None:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            command.append(f"--{field.name}={text}")
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode:
        raise ValueError(f"a transfer ended with exit status {done.returncode}; see above")
    found = json.loads(done.stdout.splitlines()[-1])
    start = took - sum(sum(seconds.values()) for seconds in found.values())
    return {"first": {"start": start, **found["first"]}, "again": found["again"]}


if __name__ == "__main__":
    launch(Config, main)
