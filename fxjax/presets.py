"""The command line of a training run: its flag --preset chooses the defaults of its settings."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

from fxjax.cli import launch, part_of


def command(options: type, presets: Mapping[str, Any], preset: str) -> type:
    """The flags as a dataclass: `options`, then settings with the preset's defaults.

    Raises ValueError for a preset that is not there.
    """
    if preset not in presets:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(presets)}")
    settings = type(presets[preset])
    hints = get_type_hints(options, include_extras=True)
    fields: list[tuple[str, Any, Any]] = [
        (field.name, hints[field.name], dataclasses.field(default=field.default))
        for field in dataclasses.fields(options)
    ]
    fields.sort(key=lambda field: field[2].default is not dataclasses.MISSING)  # must be given
    note = Annotated[str, f"sets the flags below: {', '.join(presets)}"]
    fields.append(("preset", note, dataclasses.field(default=preset)))
    hints = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        default = dataclasses.field(default=getattr(presets[preset], field.name))
        fields.append((field.name, hints[field.name], default))
    return dataclasses.make_dataclass("Config", fields, frozen=True)


def chosen_preset(arguments: Sequence[str], default: str) -> str:
    """The value of --preset, which decides the other flags' defaults."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name in ("--preset", "-preset"):
            return value if equals else following or ""
    return default


def launch_run(
    run: Callable[[Any, Any], object], options: type, presets: Mapping[str, Any], default: str
) -> None:
    """Calls `run` with the options and settings that the command line gives, as `launch` does."""
    settings = type(presets[default])
    try:
        flags = command(options, presets, chosen_preset(sys.argv[1:], default))
    except ValueError as error:
        sys.exit(f"error: {error}")

    def main(config: Any) -> None:
        run(part_of(config, options), part_of(config, settings))

    main.__module__ = "__main__"  # whose docstring --help shows
    launch(flags, main)
