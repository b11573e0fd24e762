"""Writing files and folders all or nothing, on local disks and gs:// alike."""

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from etils import epath

_KEPT = ("gs", "s3", "az")  # what epath reads; others are for browsers


def given(path: epath.PathLike) -> epath.Path:
    """A path as it is. Raises ValueError for a URL."""
    text = os.fspath(path)
    kind = re.match(r"data(?=:)|(?:https?|ftps?|file)(?=:/)|[A-Za-z][A-Za-z0-9+.-]+(?=://)", text)
    if kind and kind[0] not in _KEPT:
        raise ValueError(
            f"{text[:200]} is a URL where a file is wanted: download it first and give the file "
            "(gs:// is read as it is)"
        )
    return epath.Path(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The absolute path; `~` is expanded, gs:// stays as it is. Raises ValueError for a URL."""
    found = given(path)
    return found if "://" in os.fspath(found) else found.expanduser().resolve()


def write(path: epath.PathLike, data: bytes) -> None:
    """Writes a file through a temporary sibling, so that a reader never sees half of it.

    Makes the folder. Raises OSError (no space, no permission, a folder of that name).
    """
    target = absolute(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target, "tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_table(path: epath.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows as a CSV; its columns are all that any row has, empty where one lacks it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_lines(path, [names, *([row.get(name, "") for name in names] for row in rows)])


def write_lines(path: epath.PathLike, lines: Iterable[Sequence[object]]) -> None:
    """Writes lines of cells as a CSV, as `write` does; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
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
def new_folder(path: epath.PathLike, *, overwrite: bool = False) -> Iterator[epath.Path]:
    """Yields an empty folder to fill, which becomes `path` when the block ends without an error.

    An existing folder is replaced if `overwrite`, else FileExistsError. After any error, Ctrl-C
    included, an existing folder is as it was and no temporary one is left.
    """
    target = absolute(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; choose another folder or --overwrite it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _sibling(target, "tmp"), _sibling(target, "old")
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
        temporary.rmtree(missing_ok=True)
        raise
    old.rmtree(missing_ok=True)


def _sibling(path: epath.Path, kind: str) -> epath.Path:
    return path.parent / f".{path.name}.{os.getpid()}.{kind}"
