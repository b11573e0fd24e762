"""Which photos are meant, and a name for each that no other has."""

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from fxjax import files, tables
from fxjax.images import ENDINGS


def find(images: str, out: epath.Path) -> tuple[list[epath.Path], int]:
    """The sorted pictures of a folder (with all below it), a glob, a list or a single file.

    A list is a .txt file with a path in each line (see `beside`).

    In a folder those count whose names end as pictures' do; the second result is how many files do
    not. Hidden files and what lies below `out` are left out. Raises ValueError if none is left.
    """
    source = files.absolute(images)
    left = 0
    if source.is_dir():
        found = list(_below(source))
        kept = [path for path in found if path.suffix.lower() in ENDINGS]
        left = len(found) - len(kept)
    elif source.exists() or not any(mark in images for mark in "*?["):
        if not source.exists():
            raise FileNotFoundError(f"no folder or picture {source} (--images)")
        kept = _listed(source) if source.suffix == ".txt" else [source]
    else:
        parts = source.parts
        first = next(i for i, part in enumerate(parts) if any(mark in part for mark in "*?["))
        base = files.absolute(os.path.join(*parts[:first]))
        matches = base.glob("/".join(parts[first:])) if base.is_dir() else ()
        kept = [path for path in matches if not path.is_dir() and not path.name.startswith(".")]
    inside = f"{out}/"
    kept = sorted({path for path in kept if not str(path).startswith(inside)}, key=str)
    if not kept:
        raise ValueError(f"no pictures at {source} (--images); {left} other files are there")
    return kept, left


def _listed(source: epath.Path) -> list[epath.Path]:
    try:
        lines = tables.text(source).splitlines()
    except ValueError as error:
        raise ValueError(f"{error} (a list of paths is wanted)") from None
    return [beside(source, line.strip()) for line in lines if line.strip()]


def beside(source: epath.Path, text: str) -> epath.Path:
    """The path that a line of a list or table means: relative to the file's folder, or whole.

    Backslashes part folders, and accents may be written in two ways, where no file is found else.
    """
    if "://" in text:
        return files.given(text)
    forms = [text, text.replace("\\", "/")]
    forms += [unicodedata.normalize(way, forms[-1]) for way in ("NFC", "NFD")]
    found = [source.parent / form for form in dict.fromkeys(forms)]
    return next((path for path in found if len(found) > 1 and os.path.lexists(path)), found[0])


def fits_a_line(path: epath.Path) -> bool:
    """Whether a list can hold the path: no line break, UTF-8, no space at its ends."""
    text = str(path)
    return text.encode(errors="ignore").decode().strip().splitlines() == [text]


def shown(path: epath.Path) -> str:
    """The path as text that any file can hold."""
    return str(path).encode(errors="backslashreplace").decode()


def _below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif not os.path.islink(path):  # a link could lead in a circle
            try:
                yield from _below(path)
            except OSError:
                yield path / "unreadable.png"  # no such file, so that the folder gets its row


def photo_names(paths: Sequence[epath.Path]) -> list[str]:
    """A name for each photo that no other has, on any file system: its stem if that will do.

    Else with its ending, else with its folders, else with a number.
    """
    folders = [str(path.parent).split("/") for path in paths]
    levels = zip(*folders, strict=False)  # as far as all go
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    relative = ["/".join(str(path).split("/")[shared:]) for path in paths]
    forms: tuple[Callable[[str], str], ...] = (
        lambda text: os.path.splitext(os.path.basename(text))[0],
        lambda text: "_".join(os.path.basename(text).rsplit(".", 1)),
        lambda text: os.path.splitext(text)[0],
        lambda text: "_".join(text.rsplit(".", 1)),
    )
    options = [[_plain(form(text)) for form in forms] for text in relative]
    names: list[str | None] = [None] * len(paths)
    for level in range(len(forms)):
        counts: dict[str, int] = {}
        for index, option in enumerate(options):
            key = (names[index] or option[level]).casefold()
            counts[key] = counts.get(key, 0) + 1
        for index, option in enumerate(options):
            if names[index] is None and counts[option[level].casefold()] == 1:
                names[index] = option[level]
    taken = {name.casefold() for name in names if name is not None}
    return [
        name if name is not None else free_name(option[-1], taken)
        for name, option in zip(names, options, strict=True)
    ]


def _plain(text: str) -> str:
    """Letters, digits and a few signs, so that it is a file name everywhere."""
    kept = re.sub(r"[^\w.()+-]", "_", unicodedata.normalize("NFC", text)).strip("._")
    return kept.encode()[:150].decode(errors="ignore") or "photo"


def free_name(name: str, taken: set[str]) -> str:
    """The name, or with the least number from 2 that nobody has; takes it."""
    found, number = name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found.casefold())
    return found
