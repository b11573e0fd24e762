"""The house rules that a reader of the code relies on, checked on its syntax trees."""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("fxjax", "converters", "experiments")

# Imports point down only: from a line to itself or to lines above it. A room stands for its files.
LEVELS = [
    "fxjax.types fxjax.files fxjax.tables fxjax.frechet fxjax.images fxjax.sharding fxjax.memory "
    "fxjax.cli",
    "fxjax.nn.ops",
    "fxjax.nn.layers fxjax.nn.generator fxjax.nn.statistics fxjax.checkpoint",
    "fxjax.nn",
    "fxjax.zoo fxjax",
    "fxjax.losses fxjax.score fxjax.metrics fxjax.report fxjax.training.objective",
    "fxjax.faces fxjax.codes fxjax.transfer_types",
    "fxjax.ranking fxjax.coding",
    "fxjax.engine",
    "fxjax.assess",
    "fxjax.transfer_report",
    "fxjax.training fxjax.labels fxjax.runs",
    "fxjax.web",
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names.split()}
MODELS = LEVEL["fxjax.zoo"]  # converters see so far
MAKING = ("experiments.making",)  # how shipped models are made: commands and what they share

# Each heavy dependency lives in few places.
HOMES = {
    "dlib": ("fxjax.faces.detect",),
    "orbax": ("fxjax.checkpoint",),
    "optax": ("fxjax.codes", "fxjax.training", "fxjax.labels", "experiments.making"),
    "absl": ("fxjax.cli", "experiments"),
    "av": ("fxjax.runs.video",),
    "starlette": ("fxjax.web",),
    "uvicorn": ("fxjax.web",),
    "h5py": ("converters",),
    "safetensors": ("converters",),
    "torch": ("converters",),
    "pickle": (),
    "tensorflow": (),
    "face_recognition_models": (),
}
LONGEST = {"fxjax": 400, "converters": 400, "experiments": 300}
LONGEST_COMMAND = 120  # of experiments: read from top to bottom


def _name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


@functools.cache
def _tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text())


def _imports(name: str) -> set[str]:
    """The modules that a module imports, names imported from packages resolved to modules.

    Imports that only type checkers see do not count.
    """
    found, unseen = set(), set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            unseen |= set(ast.walk(node))
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in SOURCES else str(node.module))
    return found


def _level(name: str) -> int:
    """The level of a module: its own, or that of the nearest room it is in."""
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    return LEVEL.get(name, len(LEVELS))


def test_imports_point_down():
    """Experiments see fxjax, converters the models, and no command another command."""
    faults = []
    for name in SOURCES:
        package = name.partition(".")[0]
        making = name.startswith("experiments.making")
        for target in _imports(name):
            if target.partition(".")[0] not in PACKAGES:
                continue
            if package == "experiments":
                allowed = target.startswith("fxjax") or (making and target.startswith(MAKING))
            elif package == "converters":
                allowed = target.startswith("converters") or _level(target) <= MODELS
            else:
                allowed = target.startswith("fxjax") and _level(target) <= _level(name)
            if not allowed:
                faults.append(f"{name} imports {target}")
    assert not faults


@pytest.mark.parametrize("name", SOURCES)
def test_heavy_dependencies_stay_home(name):
    for target in _imports(name):
        homes = HOMES.get(target.partition(".")[0])
        at_home = homes is None or name.startswith(homes)
        assert at_home, f"{name} imports {target}, which belongs in {homes}"


@pytest.mark.parametrize("name", SOURCES)
def test_no_code_from_data(name):
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in ("eval", "exec", "compile", "__import__"), f"{name} calls {call}"
            assert not call.endswith("pickle.load"), f"{name} calls {call}"
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert ast.unparse(keyword.value) == "False", f"{name} reads pickles"


@pytest.mark.parametrize("name", SOURCES)
def test_conventions(name):
    assert "utils" not in name
    for node in ast.walk(_tree(name)):
        assert not isinstance(node, ast.Global), f"{name} has a global"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__", f"{name} imports from __future__"
        if isinstance(node, ast.FunctionDef):
            assert node.args.kwarg is None, f"{name}.{node.name} takes **{node.args.kwarg}"


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("fxjax")])
def test_no_work_at_import(name):
    for node in _tree(name).body:
        if isinstance(node, ast.Expr):
            line = ast.unparse(node)  # a docstring, or what says how to differentiate a function
            allowed = isinstance(node.value, ast.Constant) or ".defvjp(" in line
            assert allowed, f"{name} runs {line}"
        else:
            assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), ast.unparse(node)


@pytest.mark.parametrize("name", SOURCES)
def test_files_are_short(name):
    text, package = SOURCES[name].read_text(), name.partition(".")[0]
    is_command = package == "experiments" and '\nif __name__ == "__main__":' in text
    assert len(text.splitlines()) <= (LONGEST_COMMAND if is_command else LONGEST[package])


def test_fixtures_are_small():
    files = [path for path in (ROOT / "tests" / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6 * 2**20


def test_import_is_light():
    code = (
        "import sys, fxjax, jax\n"
        "jax.config.update('jax_num_cpu_devices', 3)  # raises once jax has started\n"
        "assert jax.device_count() == 3\n"
        "heavy = {'torch', 'tensorflow', 'dlib', 'h5py', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def _texts() -> list[pathlib.Path]:
    """The repository's own text files."""
    kept = [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / ".gitignore", ROOT / "pyproject.toml"]
    for folder in (*PACKAGES, "tests", "docs"):
        paths = (ROOT / folder).rglob("*")
        kept += [path for path in paths if path.suffix in (".py", ".md", ".toml")]
    return kept + list(ROOT.glob("*.md"))


def test_no_path_of_a_machine_in_shipped_files():
    """Checkpoints, pictures and tables too: tools like to write down where they ran."""
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("fxjax/zoo", "training", "docs", "tests/data")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and re.search(rb"/(?:[w]ork|[r]oot|[t]mp|[h]ome)/\w", path.read_bytes())
    ]
    assert not found


@pytest.mark.parametrize("path", _texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_trace_of_a_workplace(path):
    # Written with classes of one letter, so that this file does not match itself.
    traces = r"/[w]ork/|/[r]oot/|/[t]mp/|/[h]ome/[a-z]|\b[i]ssue #?\d|\b[a]gents?\b|[t]his session"
    found = re.search(traces, path.read_text())
    assert found is None, f"{path.name}: {found[0] if found else ''}"
