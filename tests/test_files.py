"""Files and folders appear whole or not at all, on disks and on buckets."""

import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from fxjax import checkpoint, files, tables
from fxjax.images import load_image, save_image


class Bucket(MemoryFileSystem):
    """gs:// paths in memory."""

    protocol = ("gs", "gcs")
    store = {}  # noqa: RUF012  (fsspec's own way)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path, monkeypatch) -> epath.Path:
    """An empty folder."""
    if request.param == "disk":
        return epath.Path(tmp_path)
    monkeypatch.setattr("etils.epath.backend.fsspec_backend.fs", lambda _: Bucket())
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")  # there, as gcsfs may not be
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = ["", "/bucket"]
    return epath.Path("gs://bucket")


def contents(folder: epath.Path) -> dict[str, str]:
    """All files by their path from `folder`."""
    return {str(p)[len(str(folder)) + 1 :]: p.read_text() for p in checkpoint._files(folder)}


def fill(folder: epath.Path, text: str) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "array").write_text(text)
    (folder / "card").write_text(text)


def test_paths_are_absolute_but_buckets_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")
    assert str(files.absolute("a/b")) == str(tmp_path / "a" / "b")
    assert str(files.absolute("~/a")) == str(pathlib.Path.home() / "a")
    assert str(files.absolute("gs://bucket/a")) == "gs://bucket/a"


def test_files_are_written_and_replaced(place):
    for text in (b"one", b"two"):
        files.write(place / "new" / "file", text)
    assert contents(place) == {"new/file": "two"}


def test_pictures_go_anywhere(place):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_image(place / "picture.png", picture)
    np.testing.assert_array_equal(load_image(place / "picture.png"), picture)


def test_a_new_folder_appears_whole_and_is_replaced_whole(place):
    with files.new_folder(place / "model") as folder:
        fill(folder, "one")
        assert not (place / "model").exists()
    assert contents(place) == {"model/part/array": "one", "model/card": "one"}
    with pytest.raises(FileExistsError, match="exists already"), files.new_folder(place / "model"):
        raise AssertionError("the block ran")
    with files.new_folder(place / "model", overwrite=True) as folder:
        (folder / "card").write_text("two")
    assert contents(place) == {"model/card": "two"}


def test_a_bucket_gets_the_marker_last_and_loses_it_first(place, monkeypatch):
    """In a bucket a killed process leaves a folder that is not taken for a whole one."""
    if "://" not in str(place):
        pytest.skip("disks rename folders")
    with files.new_folder(place / "model", marker="card") as folder:
        fill(folder, "one")
    order: list[str] = []
    write = files.write

    def die(path: epath.Path, data: bytes) -> None:
        order.append(path.name)
        if path.name == "card":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write", die)

    def replace() -> None:
        with files.new_folder(place / "model", overwrite=True, marker="card") as folder:
            fill(folder, "two")

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert order == ["array", "card"]
    assert contents(place) == {"model/part/array": "two"}


def test_what_killed_processes_left_is_swept(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    gone = {name: files._sibling(folder / name, "tmp") for name in ("a.png", "late")}
    old = files._sibling(folder / "model", "old")
    monkeypatch.undo()
    alive = files._sibling(folder / "b.png", "tmp")
    for path in (*gone.values(), alive):
        path.write_text("half")
    old.mkdir()
    fill(old, "old")
    before = time.time() - 2 * files._LEFT
    for path in (gone["a.png"], alive, old):
        os.utime(path, (before, before))
    files.write(folder / "c.png", b"new")
    assert {path.name for path in folder.iterdir()} == {
        "c.png", "model", alive.name, gone["late"].name,
    }  # fmt: skip
    assert (folder / "model" / "card").read_text() == "old"


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    """A container that starts again gives its process the same number."""
    place = epath.Path(tmp_path)
    left = files._sibling(place / "model", "tmp")
    left.mkdir(parents=True)
    fill(left, "half")
    with files.new_folder(place / "model") as folder:
        (folder / "card").write_text("whole")
    assert contents(place) == {"model/card": "whole"}


def test_only_what_is_named_is_removed(place):
    fill(place, "old")
    files.write(place / "kept", b"new")
    files.remove(place, ("part", "card", "absent"))
    assert contents(place) == {"kept": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(place, error):
    with files.new_folder(place / "model") as folder:
        fill(folder, "one")
    before = contents(place)

    def fail(name: str) -> None:
        with files.new_folder(place / name, overwrite=True) as folder:
            fill(folder, "two")
            raise error

    for name in ("model", "other"):
        with pytest.raises(error):
            fail(name)
        assert contents(place) == before


def test_digests_see_names_and_contents(place):
    seen = set()
    for name, text in (("a", "1"), ("a", "2"), ("b", "2"), ("sub/b", "2")):
        with files.new_folder(place / "model", overwrite=True) as folder:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        seen.add(checkpoint._digest(place / "model"))
    assert len(seen) == 4


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = files.absolute(tmp_path / "file")
    files.write(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "replace", full)
        with pytest.raises(OSError, match="No space left"):
            files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_table_has_every_column_that_a_row_has(place):
    files.write_table(place / "table.csv", [{"a": 1}, {"a": "x,y", "b": 2.5}])
    assert (place / "table.csv").read_text() == 'a,b\n1,\n"x,y",2.5\n'
    assert tables.read(place / "table.csv") == [{"a": "1", "b": ""}, {"a": "x,y", "b": "2.5"}]


def test_digits_round_fractions_alone_and_leave_cells_of_no_number_empty(place):
    rows = [{"a": 1234567, "b": 2 / 3, "c": math.nan}, {"a": "x", "b": math.inf, "c": None}]
    files.write_table(place / "table.csv", rows, digits=6)
    assert (place / "table.csv").read_text() == "a,b,c\n1234567,0.666667,\nx,inf,\n"
    files.write_table(place / "table.csv", [{"b": 2 / 3}])
    assert (place / "table.csv").read_text() == f"b\n{2 / 3!r}\n"
