"""A command line from a frozen dataclass: each field is a flag, and the only place of its default.

    @dataclasses.dataclass(frozen=True)
    class Config:
        out: Annotated[str, "folder for the pictures"]  # no default: must be given
        steps: Annotated[int, "Adam steps per face"] = 500
        noise: Annotated[Literal["const", "none"], "noise images"] = "const"

    if __name__ == "__main__":
        launch(Config, main)

A field is a str, int, float, bool or Literal of strings, one of these `| None`, or a tuple[T, ...],
given as a comma-separated list. `--config=file.json` fills fields by name; flags override it. The
flag --preset of a training run chooses the defaults of its other flags.

`main` is the command `fxjax`, which reaches the project's commands from any folder.
"""

import ast
import contextlib
import dataclasses
import difflib
import errno
import importlib.util
import itertools
import json
import os
import pathlib
import runpy
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
from absl import flags
from etils import epath

from fxjax import files, sharding

Config = TypeVar("Config")  # a frozen dataclass


@dataclasses.dataclass(frozen=True)
class Process:
    """Flags that every command has."""

    config: Annotated[str | None, "JSON file of settings; flags override it"] = None
    coordinator: Annotated[
        str | None, "host:port of process 0 if there are several processes, or auto (TPU pods)"
    ] = None
    num_processes: Annotated[int | None, "how many processes take part"] = None
    process_id: Annotated[int | None, "which of them this is, from 0"] = None
    compile_cache: Annotated[
        str | None,
        "folder for compiled programs, so that a second start takes seconds (default: "
        "$JAX_COMPILATION_CACHE_DIR or the user's cache folder)",
    ] = None
    traceback: Annotated[bool, "show where an error arose (also FXJAX_TRACEBACK=1)"] = False


class Field(NamedTuple):
    """One setting: its type without `| None`, whether None is allowed, its help and default."""

    name: str
    kind: Any
    optional: bool
    note: str
    default: Any  # dataclasses.MISSING if it must be given


HOME = pathlib.Path(__file__).resolve().parent.parent  # where the commands lie too
HIDDEN = {"hdf5"}  # a process of its own for `converters.source`
HELP = {"-h", "-help", "--help"}
FULL = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
GOES_ON = {"state", "checkpoints"}  # folders that a run goes on from
PARSERS = {str: flags.ArgumentParser, int: flags.IntegerParser, float: flags.FloatParser}


def launch(config_class: type[Config], main: Callable[[Config], None]) -> None:
    """Runs `main` on the command line's settings; folder `out`, if any, gets them as config.json.

    Exit status: 0, or 1 after one line for bad settings, ValueError or OSError, or 130 for Ctrl-C.
    Compiled programs are kept in --compile_cache, $JAX_COMPILATION_CACHE_DIR or the user's cache.
    """
    show = os.environ.get("FXJAX_TRACEBACK", "0") != "0"
    try:
        if HELP & set(sys.argv[1:]):
            print(describe(config_class, sys.modules[main.__module__].__doc__ or ""))
            return
        config, process = parse(config_class, sys.argv[1:])
        show = show or process.traceback
        _start(process)
        with _record(config):
            main(config)
    except (ValueError, OSError) as error:
        if show:
            traceback.print_exc()
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    """The command `fxjax NAME --flags`, as `python -m experiments.NAME --flags` in a clone."""
    commands, (name, *rest) = _commands(), sys.argv[1:] or ["--help"]
    if name in HELP:
        print("fxjax COMMAND --flag=value ...; fxjax COMMAND --help lists the flags.\n")
        width = max(map(len, commands))
        for known, path in commands.items():
            doc = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"  {known:{width}}  {doc.partition(chr(10))[0]}")
        return
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        sys.exit(f"error: there is no command {name!r}; {hint}fxjax --help lists all")
    for package in ("experiments", "converters"):  # ours, whatever else has these names
        _import_ours(package)
    sys.argv = [f"fxjax {name}", *rest]
    module = ".".join(commands[name].relative_to(HOME).with_suffix("").parts)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _commands() -> dict[str, pathlib.Path]:
    """The files of all commands by name, those for making the shipped models last."""
    found = {}
    for folder in ("experiments", "converters", "experiments/making"):
        for path in sorted((HOME / folder).glob("*.py")):
            if path.stem in HIDDEN or '\nif __name__ == "__main__":' not in path.read_text():
                continue
            making = "making." if folder == "experiments/making" else ""
            found[f"{making}{path.stem}"] = path
    return found


def _import_ours(package: str) -> None:
    """Imports the package that lies beside this one."""
    folder = HOME / package
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])


@contextlib.contextmanager
def _record(config: Any) -> Iterator[None]:
    """Writes <out>/config.json; takes it back if an error comes before anything else is there.

    On a full disk a new folder goes away with all that is in it, unless a run can go on from that.
    """
    out = getattr(config, "out", None)
    if out is None or jax.process_index() != 0:
        yield
        return
    folder = files.absolute(out)
    fresh = not folder.exists()
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    with files.made(folder):
        files.write(folder / "config.json", text.encode())
        try:
            yield
        except BaseException as error:
            if fresh and (_is_bare(folder) or (_is_full(error) and not _goes_on(folder))):
                folder.rmtree()
            raise


def _is_bare(folder: epath.Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["config.json"]


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and any(line in str(error) for line in FULL)


def _goes_on(folder: epath.Path) -> bool:
    """Whether a folder, or one in it, holds what a run goes on from."""
    return any(
        path.is_dir() and (path.name in GOES_ON or _goes_on(path)) for path in folder.iterdir()
    )


def parse(config_class: type[Config], arguments: Sequence[str]) -> tuple[Config, Process]:
    """Settings from command-line arguments and the file that --config names.

    Raises ValueError for a flag or an entry of the file that is unknown, of the wrong type or
    missing, and FileNotFoundError if there is no such file.
    """
    make: Any = config_class
    own, common = _fields(make), _fields(Process)
    values = flags.FlagValues()  # not absl's global ones: each call starts afresh
    for field in own + common:
        _define(values, field)
    try:
        rest = values(["", *arguments])[1:]
        if rest:
            raise ValueError(f"unexpected {' '.join(rest)}: settings are given as --name=value")
        if values["config"].value:
            _fill_from_file(values, own, values["config"].value)
    except flags.Error as error:
        raise ValueError(f"{error} (--help lists all flags)") from error
    missing = [
        f"--{field.name}"
        for field in own
        if field.default is dataclasses.MISSING and not values[field.name].present
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given (--help lists all flags)")
    return (
        make(**{field.name: _value(values, field) for field in own}),
        Process(**{field.name: _value(values, field) for field in common}),
    )


def part_of(config: Any, cls: type[Config]) -> Config:
    """The settings of `cls` as the fields of the same names in `config` have them."""
    make: Any = cls
    return make(**{field.name: getattr(config, field.name) for field in dataclasses.fields(make)})


def preset_flags(options: type, presets: Mapping[str, Any], preset: str) -> type:
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
        config_class = preset_flags(options, presets, chosen_preset(sys.argv[1:], default))
    except ValueError as error:
        sys.exit(f"error: {error}")

    def main(config: Any) -> None:
        run(part_of(config, options), part_of(config, settings))

    main.__module__ = "__main__"  # whose docstring --help shows
    launch(config_class, main)


def describe(config_class: Any, doc: str) -> str:
    """The text of --help: `doc`, then each flag with its default, those without one first."""
    lines = [doc.strip(), ""]
    for title, cls in {"Settings": config_class, "Every command has": Process}.items():
        lines.append(f"{title}:")
        required_first = sorted(_fields(cls), key=lambda f: f.default is not dataclasses.MISSING)
        for field in required_first:
            if field.kind is bool:
                form = f"--[no]{field.name}"
            elif get_origin(field.kind) is Literal:
                form = f"--{field.name}={'|'.join(get_args(field.kind))}"
            elif get_origin(field.kind) is tuple:
                form = f"--{field.name}={get_args(field.kind)[0].__name__},..."
            else:
                form = f"--{field.name}={field.kind.__name__}"
            default = field.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            default = "empty" if default == "" else default
            end = "must be given" if default is dataclasses.MISSING else f"default: {default}"
            lines.append(f"  {form}\n      {field.note} ({end})")
        lines.append("")
    return "\n".join(lines).rstrip()


def _start(process: Process) -> None:
    """Points the compilation cache at a folder and joins the other processes."""
    sharding.keep_programs(process.compile_cache)
    if process.coordinator is not None:
        address = None if process.coordinator == "auto" else process.coordinator
        jax.distributed.initialize(address, process.num_processes, process.process_id)
    elif process.num_processes is not None or process.process_id is not None:
        raise ValueError("--num_processes and --process_id need --coordinator=host:port")


def _fields(cls: Any) -> list[Field]:
    """The settings of a dataclass whose fields are all Annotated[type, "help"]."""
    hints, found = get_type_hints(cls, include_extras=True), []
    for field in dataclasses.fields(cls):
        if get_origin(hints[field.name]) is not Annotated:
            raise TypeError(f'{cls.__name__}.{field.name} must be Annotated[type, "help"]')
        kind, note = get_args(hints[field.name])
        optional = get_origin(kind) in (Union, types.UnionType)
        if optional:
            (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
        found.append(Field(field.name, kind, optional, note, field.default))
    return found


def _define(values: flags.FlagValues, field: Field) -> None:
    name, kind, _, note, default = field
    default = None if default is dataclasses.MISSING else default
    if kind is bool:
        flags.DEFINE_boolean(name, default, note, flag_values=values)
    elif get_origin(kind) is Literal:
        flags.DEFINE_enum(name, default, get_args(kind), note, flag_values=values)
    elif get_origin(kind) is tuple:
        default = None if default is None else [str(part) for part in default]
        flags.DEFINE_list(name, default, note, flag_values=values)
    else:
        flags.DEFINE(PARSERS[kind](), name, default, note, flag_values=values)


def _fill_from_file(values: flags.FlagValues, own: Sequence[Field], path: str) -> None:
    """Sets the flags that the command line did not give from a JSON object."""
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no settings file {source} (--config)")
    try:
        entries = json.loads(source.read_bytes())  # in any of JSON's encodings
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    known = {field.name: field for field in own}
    if not isinstance(entries, dict):
        raise ValueError(f"{source} holds no JSON object of settings")
    if unknown := sorted(entries.keys() - known.keys()):
        raise ValueError(
            f"{source} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}"
        )
    for name, entry in entries.items():
        if values[name].present:
            continue
        if entry is None and known[name].optional:
            values[name].value = None
        else:
            values[name].parse(entry)


def _value(values: flags.FlagValues, field: Field) -> Any:
    value = values[field.name].value
    if get_origin(field.kind) is not tuple or value is None:
        return value
    parser = PARSERS[get_args(field.kind)[0]]()
    try:
        return tuple(parser.parse(part) for part in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"flag --{field.name}={value}: {error}") from error
