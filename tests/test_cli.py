"""Command lines: flags, settings files, help, exit statuses."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest

from fxjax.cli import Process, describe, launch, main, parse

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Config:
    out: Annotated[str, "where to write"]
    steps: Annotated[int, "how many steps"] = 500
    rate: Annotated[float, "how fast"] = 0.1
    fast: Annotated[bool, "whether to hurry"] = True
    noise: Annotated[Literal["const", "none"], "which noise"] = "const"
    cutoff: Annotated[int | None, "how many rows"] = None
    sizes: Annotated[tuple[int, ...], "which sizes"] = (1, 2)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Launches `main` on flags from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FXJAX_TRACEBACK", raising=False)

    def call(main, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        launch(Config, main)

    return call


def unreachable(config: Config) -> None:
    raise AssertionError(f"main ran on {config}")


def test_fields_are_flags_with_their_defaults():
    config, process = parse(Config, ["--out=a"])
    assert config == Config("a")
    assert process == Process()


def test_flags_have_the_types_of_their_fields():
    arguments = ["--out", "a", "--steps=7", "--rate=1e-3", "--nofast", "--noise=none"]
    config, _ = parse(Config, [*arguments, "--cutoff=3", "--sizes=8,16,32"])
    assert config == Config("a", 7, 1e-3, False, "none", 3, (8, 16, 32))
    assert parse(Config, ["--out=a", "--sizes="])[0].sizes == ()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--fast=false", False), ("--fast=true", True), ("--fast", True), ("--fast=0", False)],
)
def test_false_is_false(flag, value):
    assert parse(Config, ["--out=a", flag])[0].fast is value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out must be given"),
        (["--out=a", "--step=3"], "Unknown command line flag 'step'. Did you mean: steps"),
        (["--out=a", "--steps=many"], "--steps=many: invalid literal"),
        (["--out=a", "--fast=maybe"], "--fast=maybe: .*Non-boolean"),
        (["--out=a", "--noise=loud"], "--noise=loud: value should be one of <const|none>"),
        (["--out=a", "--sizes=8,big"], "--sizes=.*big.*invalid literal"),
        (["--out=a", "more"], "unexpected more: settings are given as --name=value"),
    ],
)
def test_bad_flags_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        parse(Config, arguments)


def test_a_settings_file_fills_and_flags_override(tmp_path):
    path = tmp_path / "settings.json"
    entries = {"out": "file", "steps": 1, "fast": False, "cutoff": 4, "sizes": [4, 5], "rate": 2}
    path.write_text(json.dumps(entries))
    config, process = parse(Config, [f"--config={path}", "--steps=2", "--out=flag"])
    assert config == Config("flag", 2, 2.0, False, "const", 4, (4, 5))
    assert process.config == str(path)
    # A flag overrides even where it repeats the default.
    assert parse(Config, [f"--config={path}", "--steps=500"])[0].steps == 500


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"step": 1, "x": 2}, "unknown settings step, x; known are out, steps, rate"),
        ({"config": "a"}, "unknown settings config"),
        ({"steps": 1.5}, "--steps=1.5"),
        ({"steps": True}, "--steps=True"),
        ({"steps": None}, "--steps=None"),
        ({"fast": "yes"}, "--fast=yes"),
        ({"sizes": [1.5]}, "--sizes=.*1.5"),
        ({"sizes": 3}, "--sizes=3"),
        ({"noise": "loud"}, "--noise=loud"),
        ([1], "no JSON object"),
    ],
)
def test_bad_settings_files_are_explained(tmp_path, entries: Any, message):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        parse(Config, ["--out=a", f"--config={path}"])


def test_unreadable_settings_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        parse(Config, ["--out=a", f"--config={tmp_path / 'none.json'}"])
    (tmp_path / "half.json").write_text('{"steps":')
    with pytest.raises(ValueError, match=r"half\.json is not JSON"):
        parse(Config, ["--out=a", f"--config={tmp_path / 'half.json'}"])


def test_a_field_needs_its_help():
    bare = dataclasses.make_dataclass("Bare", [("steps", int)])
    with pytest.raises(TypeError, match=r"Bare.steps must be Annotated"):
        parse(bare, [])


def test_the_settings_of_a_run_repeat_it(run, tmp_path):
    seen = []
    run(seen.append, "--out=runs/a", "--sizes=3", "--nofast")
    assert os.listdir(tmp_path / "runs" / "a") == ["config.json"]
    run(seen.append, "--config=runs/a/config.json")
    assert seen == [Config("runs/a", fast=False, sizes=(3,))] * 2


@pytest.mark.parametrize(
    "error", [ValueError("bad\nvalue"), FileNotFoundError("no file"), OSError(28, "No space")]
)
def test_errors_are_one_line(run, capsys, error):
    def main(_: Config) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main, "--out=a")
    assert caught.value.code == "error: " + " ".join(str(error).split())
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        run(main, "--out=a", "--traceback")
    assert "Traceback" in capsys.readouterr().err


def test_the_environment_asks_for_tracebacks(run, capsys, monkeypatch):
    for value, shown in (("1", True), ("0", False)):
        monkeypatch.setenv("FXJAX_TRACEBACK", value)
        with pytest.raises(SystemExit):
            run(unreachable, "--nonsense")
        assert ("Traceback" in capsys.readouterr().err) == shown


def test_bugs_are_not_hidden(run):
    with pytest.raises(AssertionError, match="main ran"):
        run(unreachable, "--out=a")


def test_bad_flags_write_nothing(run, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run(unreachable, "--out=a", "--steps=x")
    assert str(caught.value.code).startswith("error: flag --steps=x")
    with pytest.raises(SystemExit, match="need --coordinator"):
        run(unreachable, "--out=a", "--num_processes=2")
    assert not os.listdir(tmp_path)


def test_a_run_that_fails_at_once_leaves_no_folder(run, tmp_path):
    def main(_: Config) -> None:
        assert (tmp_path / "a" / "config.json").exists()
        raise ValueError("bad input")

    with pytest.raises(SystemExit):
        run(main, "--out=a")
    assert not os.listdir(tmp_path)

    def later(_: Config) -> None:
        (tmp_path / "a" / "result").write_text("half the work")
        raise ValueError("bad input")

    with pytest.raises(SystemExit):
        run(later, "--out=a")
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "result"]


def test_ctrl_c_is_quiet(run, capsys):
    def main(_: Config) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run(main, "--out=a")
    assert caught.value.code == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_flag(run, capsys, flag):
    run(unreachable, flag)
    text = capsys.readouterr().out
    assert text.startswith("Command lines: flags, settings files")
    for field in (*dataclasses.fields(Config), *dataclasses.fields(Process)):
        assert field.name in text
    for part in ("how many steps (default: 500)", "where to write (must be given)", "--[no]fast"):
        assert part in text
    assert "--noise=const|none" in text
    assert "--sizes=int,...\n      which sizes (default: 1,2)" in text


def test_flags_that_must_be_given_come_first():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Late:
        rare: Annotated[int, "seldom"] = 1
        needed: Annotated[str, "always"]
        other: Annotated[int, "seldom"] = 2

    text = describe(Late, "")
    assert text.index("--needed") < text.index("--rare") < text.index("--other")


def test_the_front_door_lists_every_command_with_a_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fxjax", "--help"])
    main()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:]]
    listed = {name for name, line in lines if line}
    files = [*ROOT.glob("experiments/*.py"), ROOT / "converters" / "convert.py"]
    assert len(listed) == len(lines)
    assert listed >= {path.stem for path in files} - {"__init__"}
    assert "making.pack_model" in listed


def test_the_front_door_knows_near_names(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fxjax", "trasnfer", "--help"])
    with pytest.raises(SystemExit, match=r"no command 'trasnfer'; did you mean transfer\?"):
        main()


def test_the_front_door_is_not_led_astray_by_other_packages(tmp_path):
    """A project whose own package has the name of ours."""
    other = tmp_path / "experiments" / "transfer.py"
    other.parent.mkdir()
    (other.parent / "__init__.py").touch()
    other.write_text("print('theirs')")
    done = subprocess.run(
        [sys.executable, "-m", "fxjax", "transfer", "--appearance=A.jpg"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --expression must be given (--help lists all flags)\n"
