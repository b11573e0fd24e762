"""The house rules that a reader of the code relies on, checked on its syntax trees."""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import fxjax

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("fxjax", "converters", "experiments")

# Imports point down only: from a line to itself or to lines above it. A room stands for its files.
LEVELS = [
    "fxjax.types fxjax.files fxjax.tables fxjax.images fxjax.sharding fxjax.cli fxjax.steps",
    "fxjax.nn.ops",
    "fxjax.nn.layers fxjax.nn.generator fxjax.checkpoint",
    "fxjax.nn",
    "fxjax.zoo fxjax",
    "fxjax.losses fxjax.score fxjax.metrics fxjax.report fxjax.report_look",
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


def test_heavy_dependencies_stay_home():
    faults = []
    for name in SOURCES:
        for target in _imports(name):
            homes = HOMES.get(target.partition(".")[0])
            if homes is not None and not name.startswith(homes):
                faults.append(f"{name} imports {target}, which belongs in {homes}")
    assert not faults


def test_no_code_from_data():
    faults = []
    for name in SOURCES:
        for node in ast.walk(_tree(name)):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call in ("eval", "exec", "compile", "__import__") or call.endswith("pickle.load"):
                faults.append(f"{name} calls {call}")
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    faults.append(f"{name} reads pickles")
    assert not faults


def test_conventions():
    faults = [f"{name}: call it what it is" for name in SOURCES if "utils" in name]
    for name in SOURCES:
        for node in ast.walk(_tree(name)):
            if isinstance(node, ast.Global):
                faults.append(f"{name} has a global")
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                faults.append(f"{name} imports from __future__")
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
                faults.append(f"{name}.{node.name} takes **{node.args.kwarg.arg}")
    assert not faults


def test_no_work_at_import():
    faults = []
    for name in SOURCES:
        if not name.startswith("fxjax"):
            continue
        for node in _tree(name).body:
            line = ast.unparse(node)
            if isinstance(node, ast.Expr):  # a docstring, or how to differentiate a function
                allowed = isinstance(node.value, ast.Constant) or ".defvjp(" in line
            else:
                allowed = not isinstance(node, ast.For | ast.While | ast.With | ast.Try)
            if not allowed:
                faults.append(f"{name} runs {line}")
    assert not faults


def test_files_are_short():
    faults = []
    for name, path in SOURCES.items():
        text, package = path.read_text(), name.partition(".")[0]
        is_command = package == "experiments" and '\nif __name__ == "__main__":' in text
        most = LONGEST_COMMAND if is_command else LONGEST[package]
        if (count := len(text.splitlines())) > most:
            faults.append(f"{name} has {count} lines, at most {most} are wanted")
    assert not faults


def test_experiments_are_commands():
    """What has no flags is the library's, or a tool for making the shipped models."""
    assert not [
        name
        for name, path in SOURCES.items()
        if name.startswith("experiments.")
        and not name.startswith(MAKING)
        and '\nif __name__ == "__main__":' not in path.read_text()
    ]


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


def test_public_names_are_there():
    assert set(fxjax.__all__) == set(dir(fxjax))
    assert [name for name in fxjax.__all__ if getattr(fxjax, name, None) is None] == []
    assert fxjax.align.align
    assert fxjax.Engine.__module__ == "fxjax.engine"


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
        if path.is_file()
        and "__pycache__" not in path.parts  # compiled where it runs, never shipped
        and re.search(rb"/(?:[w]ork|[r]oot|[t]mp|[h]ome)/\w", path.read_bytes())
    ]
    assert not found


def test_no_trace_of_a_workplace():
    # Written with classes of one letter, so that this file does not match itself.
    traces = r"/[w]ork/|/[r]oot/|/[t]mp/|/[h]ome/[a-z]|\b[i]ssue #?\d|\b[a]gents?\b|[t]his session"
    faults = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in _texts()
        if (found := re.search(traces, path.read_text()))
    ]
    assert not faults
