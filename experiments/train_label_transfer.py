"""Trains a label-driven model; the same command goes on where it stopped.

    python -m experiments.train_label_transfer --preset=label64 --model=liu_jin \
        --data=faces.zip --table=faces.csv --out=runs/liu_jin

--preset, given first, sets all flags below its own. --out gets checkpoints, an export (a model
folder for fxjax.load), sample sheets (each face with every expression) and metrics.csv.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

from experiments import label_training
from experiments.launch import launch
from fxjax.train_labels import Settings


def command(preset: str) -> type:
    """The flags as a dataclass: `Run`, then `Settings` with the preset's defaults."""
    if preset not in label_training.PRESETS:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(label_training.PRESETS)}")
    chosen = label_training.PRESETS[preset]
    hints = get_type_hints(Settings, include_extras=True)
    note = Annotated[str, f"given first, sets the flags below: {', '.join(label_training.PRESETS)}"]
    fields: list[tuple[str, Any, Any]] = [("preset", note, dataclasses.field(default=preset))]
    for field in dataclasses.fields(Settings):
        default = dataclasses.field(default=getattr(chosen, field.name))
        fields.append((field.name, hints[field.name], default))
    return dataclasses.make_dataclass("Config", fields, bases=(label_training.Run,), frozen=True)


def chosen_preset(arguments: Sequence[str]) -> str:
    """The value of a first argument --preset=NAME, which decides the other flags' defaults."""
    name, _, value = (arguments[0] if arguments else "").partition("=")
    return value if name.lstrip("-") == "preset" else "label64"


def main(config: Any) -> None:
    """Trains with these settings."""
    if config.preset != (taken := chosen_preset(sys.argv[1:])):
        raise ValueError(f"--preset={config.preset} must be given first; {taken} was taken")

    def part(cls: type) -> Any:
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    label_training.run(part(label_training.Run), part(Settings))


if __name__ == "__main__":
    try:
        flags = command(chosen_preset(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
    launch(flags, main)
