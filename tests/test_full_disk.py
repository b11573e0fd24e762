"""Full disks and folders that cannot be written: one line with the path, and nothing left."""

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import facemodels
import numpy as np
import pytest

from converters import convert
from fxjax import checkpoint, cli, files
from fxjax.images import save_image
from fxjax.training import data

NOISE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)

LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # bytes of any file
runpy.run_module("experiments.sample", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(params=["patched", "real"])
def full(request, tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
    """A folder on a disk with 64 KiB, or on one that says that it is full."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "patched":

        def write_bytes(self, data) -> int:
            with self.open("wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(files.absolute(place)), "write_bytes", write_bytes)
        yield place
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("a/b/x.png", lambda path: save_image(path, NOISE)),
        ("a/x.png", lambda path: save_image(path, NOISE, note="edited")),
        ("a/x.zip", lambda path: data.write_zip(path, [("0.jpg", NOISE)], [])),
    ],
)
def test_a_file_is_named_and_nothing_is_left(full, name, use):
    with pytest.raises(OSError, match="No space left on device") as caught:
        use(full / name)
    assert str(full / name) in str(caught.value)
    assert not os.listdir(full)


def test_a_filled_folder_is_all_or_nothing(full):
    (full / "old").write_text("old")
    for name in ("new", "."):

        def fill(name: str = name) -> None:
            with files.filled(full / name) as place:
                (place / "old").write_text("new")
                save_image(place / "inner" / "x.png", NOISE)

        with pytest.raises(OSError, match="No space left on device") as caught:
            fill()
        assert str(files.absolute(full / name) / "inner" / "x.png") in str(caught.value)
        assert os.listdir(full) == ["old"]
        assert (full / "old").read_text() == "old"


def test_a_filled_folder_keeps_others(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("kept", "inner/kept", "inner/old"):
        (tmp_path / name).write_text("old")
    with files.filled(tmp_path) as place:
        files.write(place / "inner" / "old", b"new")
        files.write(place / "first", b"new")
    found = {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"kept": "old", "old": "new", "first": "new"}
    assert sorted(os.listdir(tmp_path)) == ["first", "inner", "kept"]


def test_a_model_folder_is_named_and_nothing_is_left(full, request):
    if "patched" in request.node.name:
        pytest.skip("Orbax writes by itself")
    weights = {"generator": ({}, {"w": np.random.default_rng(0).normal(size=(99, 999))})}
    with pytest.raises(OSError, match=f"could not write {full / 'model'}") as caught:
        checkpoint.save_model(full / "model", "stylegan2", weights, {})
    assert "\n" not in str(caught.value)
    assert not os.listdir(full)


@dataclasses.dataclass(frozen=True)
class Config:
    out: Annotated[str, "a folder"]


def test_a_command_ends_with_one_line(full, monkeypatch):
    monkeypatch.setattr("sys.argv", ["command", f"--out={full / 'out'}"])
    with pytest.raises(SystemExit) as caught:
        cli.launch(Config, lambda config: save_image(f"{config.out}/x.png", NOISE))
    assert str(caught.value.code).startswith("error: ")
    assert "No space left on device" in str(caught.value.code)
    assert str(full / "out") in str(caught.value.code)
    assert not os.listdir(full)


def test_a_real_command_takes_its_folder_away(tmp_path, root):
    """Its pictures are small enough, the sheet of them is not; a folder of before stays."""
    facemodels.save_models(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("mine")

    def sample(out: str) -> str:
        flags = [f"--model={tmp_path / 'model'}", "--seeds=0-8", f"--out={tmp_path / out}"]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, *flags],
            cwd=root,
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        return done.stderr

    assert sample("a/b").endswith(f"error: [Errno 27] File too large: '{tmp_path}/a/b/sheet.png'\n")
    assert sorted(os.listdir(tmp_path)) == ["mine", "model", "vgg"]
    sample("mine")
    assert {"note", "config.json", "seed0000.png"} <= set(os.listdir(tmp_path / "mine"))
    assert (tmp_path / "mine" / "note").read_text() == "mine"


@pytest.mark.parametrize("place", ["state", "inversion/state", "checkpoints"])
def test_what_a_run_goes_on_from_stays(tmp_path, monkeypatch, place):
    def main(config: Config) -> None:
        files.write(f"{config.out}/{place}/done", b"much")
        raise OSError(28, "No space left on device", config.out)

    monkeypatch.setattr("sys.argv", ["command", f"--out={tmp_path / 'out'}"])
    with pytest.raises(SystemExit, match="No space left"):
        cli.launch(Config, main)
    assert (tmp_path / "out" / place / "done").read_bytes() == b"much"


@pytest.mark.parametrize("out", ["file/out", "/proc/out"])
def test_a_place_that_takes_no_folder_is_named(tmp_path, monkeypatch, out):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("sys.argv", ["command", f"--out={tmp_path / out}"])
    with pytest.raises(SystemExit, match=r"error: .*(Not a directory|No such file).*out"):
        cli.launch(Config, lambda config: save_image(f"{config.out}/x.png", NOISE))
    with pytest.raises(OSError, match=r"file|out"), files.new_folder(tmp_path / out):
        raise AssertionError("the block ran")
    assert os.listdir(tmp_path) == ["file"]


def test_a_read_only_folder_is_named(tmp_path, root, monkeypatch):
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    if os.access(place, os.W_OK):  # as root, whom only the disk itself can stop
        bind = ["mount", "--bind", str(place), str(place)]
        lock = ["mount", "-o", "remount,bind,ro", str(place)]
        if any(subprocess.run(step, capture_output=True).returncode for step in (bind, lock)):
            pytest.skip("no right to make a folder read-only")
    try:
        with pytest.raises(OSError, match="locked"):
            save_image(place / "new" / "x.png", NOISE)
        with pytest.raises(OSError, match="locked"), files.filled(place / "new"):
            raise AssertionError("the block ran")
        with pytest.raises(OSError, match=rf"{place}/x.png'$"):
            save_image(place / "x.png", NOISE)
        source = root / "tests" / "data" / "ada_torch_32" / "network.pkl"
        flags = [f"--src={source}", f"--dst={place / 'model'}"]
        monkeypatch.setattr("sys.argv", ["command", *flags])
        with pytest.raises(SystemExit, match=rf"^error: could not write {place}/model: [\w -]+$"):
            cli.launch(convert.Config, convert.main)
        assert not os.listdir(place)
    finally:
        subprocess.run(["umount", str(place)], capture_output=True)
