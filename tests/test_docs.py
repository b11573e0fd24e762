"""What the pages say: their Python runs, commands and modules exist, links lead somewhere."""

import functools
import importlib
import importlib.util
import json
import pathlib
import re
import runpy
import shlex
import sys

import pytest
import yaml
from PIL import Image

import fxjax
from fxjax import cli, engine, transfer_types, zoo

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
FEW = {"steps": 2, "rows": ((4,), (5,), (6,)), "tuning": 1, "refine": 1}


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two shipped samples as photos; searches are short, with the shipped model."""
    short = functools.partial(transfer_types.Settings, **FEW)
    for module in (transfer_types, engine):
        monkeypatch.setattr(module, "Settings", short)
    for photo, seed in {"person": "seed0035", "driver": "seed0058"}.items():
        sample = Image.open(ROOT / "fxjax" / "zoo" / "faces256" / "samples" / f"{seed}.png")
        sample.save(tmp_path / f"{photo}.jpg", quality=95)
    monkeypatch.chdir(tmp_path)


def slow_if_drawn(path: pathlib.Path):
    """A page or notebook that runs the shipped model compiles its programs, which takes a while."""
    drawn = re.search(r"fxjax\.transfer\(|Engine\(", path.read_text())
    return pytest.param(path, id=name(path), marks=pytest.mark.slow if drawn else ())


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("path", [slow_if_drawn(p) for p in TEXTS if BLOCK.search(p.read_text())])
def test_python_on_pages_runs(path):
    """A page's blocks run in order, as one program."""
    text, names = path.read_text(), {"__name__": "page"}
    for found in BLOCK.finditer(text):
        above = text[: found.start(1)].count("\n")
        exec(compile("\n" * above + found[1], path.name, "exec"), names)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("path", [slow_if_drawn(p) for p in (ROOT / "notebooks").glob("*.ipynb")])
def test_notebooks_run(path):
    cells, names = json.loads(path.read_text())["cells"], {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not kept"
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    film = Image.open(names["film"])  # pyright: ignore[reportArgumentType]
    assert film.n_frames > 4  # pyright: ignore[reportAttributeAccessIssue]


def test_every_command_is_on_its_page():
    named = re.findall(r"<!-- help: ([\w.]+) -->", (ROOT / "docs" / "commands.md").read_text())
    commands = ["converters.convert", "converters.verify"]
    for path in (ROOT / "experiments").rglob("*.py"):
        if re.search(r'^if __name__ == "__main__":', path.read_text(), re.M):
            commands.append(name(path).removesuffix(".py").replace("/", "."))
    assert sorted(named) == sorted(commands)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_names_and_links_on_pages_exist(path):
    text = path.read_text()
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.S | re.M)
    for module in re.findall(r"^::: ([\w.]+)", text, re.M):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            parent, _, attribute = module.rpartition(".")
            assert hasattr(importlib.import_module(parent), attribute), module
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose):
        cards = path.parent == ROOT / "docs" and link.startswith("cards/")
        assert cards or (path.parent / link).exists(), link
    for command in re.findall(r"python -m ((?:experiments|converters)[.\w]*\w)", text):
        assert importlib.util.find_spec(command), command


def told(path: pathlib.Path) -> list[tuple[str, list[str]]]:
    """The commands in a page's shell blocks and sentences: module and flags."""
    text, found = path.read_text(), []
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.S | re.M)
    words = re.findall(
        r"`((?:python3? -m|fxjax) [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    )
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (*lines, *(" ".join(word.split()) for word in words)):
        called = re.search(r"(?:python3? -m |\bfxjax )([\w.]+)((?: .*)?)$", line.split(" #")[0])
        if called:
            module = called[1] if "." in called[1] else f"experiments.{called[1]}"
            flags = [word for word in shlex.split(called[2]) if re.match(r"--\w", word)]
            found.append((module, flags))
    return [one for one in found if one[0].startswith(("experiments.", "converters."))]


@functools.cache
def flags_of(module: str, arguments: tuple[str, ...]) -> str:
    """What a command says of these flags: nothing if it takes them. Nothing is run."""
    classes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "launch", lambda cls, main: classes.append(cls))
        patch.setattr(sys, "argv", [module, *arguments])
        # Not run_module: it would keep bytecode with the tests' hook where other processes read it.
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        runpy.run_path(spec.origin, run_name="__main__")
    try:
        cli.parse(classes[0], arguments)
    except ValueError as error:
        return "" if "must be given" in str(error) else f"{module}: {error}"
    return ""


def test_commands_on_pages_take_their_flags():
    commands = [command for path in TEXTS for command in told(path)]
    assert len(commands) > 40
    assert [line for module, flags in commands if (line := flags_of(module, tuple(flags)))] == []


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fxjax.__version__
    assert f"## {fxjax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("card", sorted((ROOT / "fxjax" / "zoo").glob("*/card.md")), ids=name)
def test_cards_have_the_hubs_head(card):
    _, head, text = re.split(r"^---\n", card.read_text(), maxsplit=2, flags=re.M)
    fields = yaml.safe_load(head)
    assert fields["license"] in ("cc-by-nc-sa-4.0", "mit")
    assert fields["library_name"] == "fxjax"
    assert fields["tags"]
    assert text.lstrip().startswith("# ")
    shipped = card.parent.name
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.M)
    assert (not pictures) == (shipped == "expression")  # a reader, which draws nothing
    assert all((card.parent / picture).is_file() for picture in pictures)
    if shipped in zoo.names():
        assert (fields["license"] == "mit") == ("CC BY" not in text)
