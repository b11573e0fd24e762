"""What the page keeps: a folder for every photo and every result, with names that it makes itself.

runs/web/<id>/          a result, as a command's folder, and state.json
runs/web/photos/<id>/   a photo that was given, as pixels alone, and photo.json
"""

import json
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from typing import Any

from fxjax import files

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{12}")
PHOTOS = 40  # of those that were given, how many are kept
GOING = ("waiting", "running")
STATE, PHOTO = "state.json", "photo.json"


class Store:
    """Folders under `home`, together at most `quota` bytes."""

    def __init__(self, home: pathlib.Path, quota: int):
        self.home, self.quota = home, quota
        self.photos = home / "photos"
        self.photos.mkdir(parents=True, exist_ok=True)

    def room(self) -> None:
        """ValueError if nothing more may be kept."""
        used = sum(size(path) for path in self.home.rglob("*"))
        if used >= self.quota:
            raise ValueError(
                f"{used >> 20} MB are kept and {self.quota >> 20} may be: delete some results"
            )

    def new(self, parent: pathlib.Path) -> pathlib.Path:
        """An empty folder with a name that cannot be guessed."""
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(6)}"
        folder.mkdir()
        return folder

    def photo(self, name: Any) -> pathlib.Path:
        """The folder of a photo. KeyError if there is none."""
        return self._found(self.photos, name, PHOTO)

    def result(self, name: Any) -> pathlib.Path:
        """The folder of a result. KeyError if there is none."""
        return self._found(self.home, name, STATE)

    def _found(self, parent: pathlib.Path, name: Any, mark: str) -> pathlib.Path:
        if (
            not isinstance(name, str)
            or not ID.fullmatch(name)
            or not (parent / name / mark).exists()
        ):
            raise KeyError(name)
        return parent / name

    def prune(self) -> None:
        """Removes the oldest photos, and folders of photos that were never read."""
        known = sorted(path for path in self.photos.iterdir() if ID.fullmatch(path.name))
        for path in known[:-PHOTOS]:
            shutil.rmtree(path, ignore_errors=True)

    def states(self) -> Iterator[dict[str, Any]]:
        """What is known of every result, the newest first."""
        for path in sorted(self.home.iterdir(), reverse=True):
            if ID.fullmatch(path.name) and (path / STATE).exists():
                yield read(path / STATE)

    def write(self, state: dict[str, Any]) -> None:
        """Keeps what is known of a result."""
        files.write(self.home / state["id"] / STATE, json.dumps(state).encode())

    def recover(self) -> None:
        """Says of results that were never finished that they were not."""
        for state in list(self.states()):
            if state["status"] in GOING:
                self.write(state | {"status": "failed", "error": "the program was stopped"})
        for path in self.home.iterdir():
            if ID.fullmatch(path.name) and not (path / STATE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def remove(self, folder: pathlib.Path) -> None:
        """Removes a result and all that belongs to it."""
        (folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def read(path: pathlib.Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_bytes())


def size(path: pathlib.Path) -> int:
    """Bytes of a file that may be gone by now; 0 for a folder."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
