"""Trains a StyleGAN2 on a folder or zip of pictures; the same command goes on where it stopped.

    python -m experiments.train_generator --preset=faces64 --data=faces.zip --out=runs/faces64

Each preset sets all flags below its own; flags given override it. --out gets checkpoints, exports
(a model folder for fxjax.load), sample grids, metrics.csv and TensorBoard scalars.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

from experiments import training
from experiments.launch import launch
from fxjax import train_state


def command(preset: str) -> type:
    """The command's flags as a dataclass: `Run`, then `Settings` with the preset's defaults."""
    if preset not in training.PRESETS:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(training.PRESETS)}")
    chosen = training.PRESETS[preset]
    fields: list[tuple[str, Any, Any]] = []
    for cls, default in ((training.Run, None), (train_state.Settings, chosen)):
        hints = get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            value = field.default if default is None else getattr(chosen, field.name)
            fields.append((field.name, hints[field.name], dataclasses.field(default=value)))
    names = Annotated[str, f"settings to start from: {', '.join(training.PRESETS)}"]
    fields.insert(2, ("preset", names, dataclasses.field(default=preset)))
    return dataclasses.make_dataclass("Config", fields, frozen=True)


def chosen_preset(arguments: Sequence[str]) -> str:
    """The value of --preset, which decides the other flags' defaults."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name in ("--preset", "-preset"):
            return value if equals else following or ""
    return "faces128"


def main(config: Any) -> None:
    """Trains with these settings."""

    def part(cls: type) -> Any:
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    training.run(part(training.Run), part(train_state.Settings))


if __name__ == "__main__":
    try:
        flags = command(chosen_preset(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
    launch(flags, main)
