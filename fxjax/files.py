"""Writing files and folders all or nothing, on local disks and gs:// alike."""

import contextlib
import csv
import functools
import importlib.util
import io
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

_LEFT = 600  # seconds after which what a dead process was writing is removed
# What epath reads, and the package that it needs for it; other addresses are for browsers.
BUCKETS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
_URL = r"data:|(?:https?|ftps?|file):/"


def given(path: epath.PathLike) -> epath.Path:
    """A path as it is. Raises ValueError for a URL, and for a bucket that cannot be read here."""
    text = os.fspath(path)
    bare = text.strip(" \t\r\n'\"<>")  # what comes along when addresses are copied
    scheme, remote, _ = text.partition("://")
    if remote and scheme in BUCKETS:
        needs = BUCKETS[scheme]
        if not any(map(importlib.util.find_spec, (needs, "tensorflow"))):  # epath takes either
            raise ValueError(
                f"{text[:200]} is in a bucket, which needs {needs}: pip install {needs}, or "
                "download it first and give the file"
            )
    elif bare.partition("://")[0] in BUCKETS and bare != text:
        raise ValueError(f"{text[:200]!r} has spaces or quotes around it; leave them out")
    elif remote or re.match(_URL, bare, re.IGNORECASE):
        raise ValueError(
            f"{bare[:200]} is a URL where a file is wanted: download it first and give the file "
            "(gs:// is read as it is)"
        )
    return epath.Path(path)


def first_time(folder: epath.Path, seen: set[str]) -> bool:
    """Whether a folder is not among those `seen` yet, under any name; it is from now on.

    What walks through folders asks this of each, since links may lead in a circle.
    """
    place = os.fspath(folder) if _bucket(folder) else os.path.realpath(folder)
    new = place not in seen
    seen.add(place)
    return new


def absolute(path: epath.PathLike) -> epath.Path:
    """The absolute path; `~` is expanded, gs:// stays as it is. Raises ValueError for a URL."""
    found = given(path)
    return found if "://" in os.fspath(found) else found.expanduser().resolve()


def write(path: epath.PathLike, data: bytes) -> None:
    """Writes a file through a temporary sibling, so that a reader never sees half of it.

    Makes the folder. Raises OSError that names the file (no space, no permission, a folder of that
    name); then nothing new is left.
    """
    target = absolute(path)
    if _bucket(target):  # where objects appear whole by themselves
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return
    with local(target) as name:
        epath.Path(name).write_bytes(data)


@contextlib.contextmanager
def local(path: epath.PathLike) -> Iterator[str]:
    """Yields a name on a local disk to write to, whose file becomes `path` after the block.

    For libraries that write files by themselves; all or nothing, as `write`.
    """
    target = absolute(path)
    if _bucket(target):
        with tempfile.TemporaryDirectory() as folder:
            name = os.path.join(folder, target.name)
            yield name
            write(target, epath.Path(name).read_bytes())
        return
    temporary = _sibling(target, "tmp")
    with made(target.parent), _naming(target, temporary):
        try:
            yield os.fspath(temporary)
            temporary.replace(target)
        except BaseException:
            _away(temporary)
            raise


@contextlib.contextmanager
def filled(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields an empty folder to fill, whose files go to the folder `path` after the block.

    They replace files of the same names there, others stay. After any error nothing has changed;
    OSError names the folder.
    """
    target = absolute(path)
    temporary = _sibling(target / "new", "tmp")
    with made(target), _naming(target, temporary):
        try:
            temporary.mkdir()
            yield temporary
            _move(temporary, target)
        finally:
            _away(temporary)


def _move(source: epath.Path, target: epath.Path) -> None:
    for path in source.iterdir():
        if path.is_dir():
            (target / path.name).mkdir(exist_ok=True)
            _move(path, target / path.name)
        else:
            path.replace(target / path.name)


@contextlib.contextmanager
def made(folder: epath.Path) -> Iterator[None]:
    """Makes a folder; after an error those that were made and are empty are removed again."""
    chain = () if _bucket(folder) else (folder, *folder.parents)
    new = [each for each in chain if not os.path.lexists(each)]
    try:
        with _naming(folder, folder):
            folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        yield
    except BaseException:
        for each in new:
            with contextlib.suppress(OSError):
                os.rmdir(each)
        raise


@contextlib.contextmanager
def _naming(path: epath.Path, temporary: epath.Path) -> Iterator[None]:
    """Errors of the system name the path, not what is written in its stead, nor nothing at all.

    Those of a full disk name nothing.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        named = os.fspath(path if error.filename is None else str(error.filename))
        name = named.replace(os.fspath(temporary), os.fspath(path))
        raise OSError(error.errno, os.strerror(error.errno), name) from error


def _away(path: epath.Path) -> None:
    """Removes a file or folder that may not be there, whatever the disk says."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)


def npz(arrays: Mapping[str, Any], *, compressed: bool = False) -> bytes:
    """The content of an .npz with these arrays, by name."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def write_table(
    path: epath.PathLike, rows: Sequence[Mapping[str, object]], digits: int | None = None
) -> None:
    """Writes rows as a CSV; its columns are all that any row has, empty where one lacks it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_lines(path, [names, *([row.get(name, "") for name in names] for row in rows)], digits)


def write_lines(
    path: epath.PathLike, lines: Iterable[Sequence[object]], digits: int | None = None
) -> None:
    """Writes lines of cells as a CSV, as `write` does; None is an empty cell.

    With `digits`, fractions have so many, and what is not a number is empty too.
    """

    def cell(value: object) -> object:
        if digits is None or not isinstance(value, float):
            return value
        return "" if math.isnan(value) else f"{value:.{digits}g}"

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(cell, line) for line in lines)
    write(path, text.getvalue().encode())


def remove(folder: epath.Path, names: Iterable[str]) -> None:
    """Removes files and folders of these names, in this order; some may not be there."""
    for name in names:
        path = folder / name
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(
    path: epath.PathLike, *, overwrite: bool = False, marker: str | None = None
) -> Iterator[epath.Path]:
    """Yields an empty folder to fill, which becomes `path` when the block ends without an error.

    An existing folder is replaced if `overwrite`, else FileExistsError. After any error, Ctrl-C
    included, an existing folder is as it was and no temporary one is left. In a bucket no folder
    appears at once: the file `marker` goes first and comes last, and what lacks it is not whole.
    """
    target = absolute(path)
    _sweep(target.parent)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; choose another folder or --overwrite it")
    if _bucket(target):
        with tempfile.TemporaryDirectory() as folder:
            yield epath.Path(folder)
            _upload(epath.Path(folder), target, marker)
        return
    temporary, old = _sibling(target, "tmp"), _sibling(target, "old")
    with made(target.parent), _naming(target, temporary):
        try:
            temporary.rmtree(missing_ok=True)  # of a killed process that had the same number
            temporary.mkdir()
            yield temporary
            if target.exists():
                target.rename(old)
            temporary.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            _away(temporary)
            raise
    old.rmtree(missing_ok=True)


def _bucket(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def _upload(folder: epath.Path, target: epath.Path, marker: str | None) -> None:
    if marker is not None:
        (target / marker).unlink(missing_ok=True)
    if target.exists():
        target.rmtree()
    names = [name for name in _names(folder) if name != marker]
    for name in [*names, *([] if marker is None else [marker])]:
        write(target / name, (folder / name).read_bytes())


def _names(folder: epath.Path, before: str = "") -> Iterator[str]:
    """All files below a folder, by their paths from there."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _names(path, f"{before}{path.name}/")
        else:
            yield before + path.name


def _sibling(path: epath.Path, kind: str) -> epath.Path:
    return path.parent / f".{path.name}.{os.getpid()}@{platform.node()}.{kind}"


@functools.cache  # once for each folder
def _sweep(folder: epath.Path) -> None:
    """Removes what killed processes of this machine left, and puts back folders they had moved."""
    if _bucket(folder) or not folder.exists():
        return
    left = re.compile(rf"\.(.+)\.(\d+)@{re.escape(platform.node())}\.(tmp|old)")
    for path in list(folder.iterdir()):
        match = left.fullmatch(path.name)
        if match is None or _alive(int(match[2])):
            continue
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - path.stat().mtime < _LEFT:
                continue
            if match[3] == "old" and not (folder / match[1]).exists():
                path.rename(folder / match[1])
            else:
                _away(path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
