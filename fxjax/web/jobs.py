"""Results: the queue before the one worker, and the folders that are kept.

Everybody who watches is told of every change. Folders have names that this module makes itself:

runs/web/<id>/          a result, as a command's folder, and state.json
runs/web/photos/<id>/   a photo that was given, as pixels alone, and photo.json
"""

import asyncio
import collections
import json
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fxjax import files
from fxjax.web.worker import Refused, Worker

WAITING = 8  # transfers that may wait
GRACE = 15.0  # seconds that a cancelled transfer gets to stop by itself
STAGES = {  # about how much of the time each takes
    "faces": 0.04,
    "inversion": 0.28,
    "tuning": 0.20,
    "masks": 0.10,
    "refinement": 0.26,
    "writing": 0.12,
}
PASSING = ("stage", "share", "left")  # of a state, while it is running
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
        used = sum(_size(path) for path in self.home.rglob("*"))
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
                yield _read(path / STATE)

    def write(self, state: dict[str, Any]) -> None:
        """Keeps what is known of a result."""
        files.write(self.home / state["id"] / STATE, json.dumps(state).encode())

    def recover(self) -> None:
        """Marks results that were never finished as failed, and removes folders without a state."""
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


class Jobs:
    """Transfers, one after the other."""

    def __init__(self, store: Store, worker: Worker, most_seconds: float):
        self.store, self.worker, self.most = store, worker, most_seconds
        self.states = {state["id"]: state for state in store.states()}
        self.waiting: collections.deque[str] = collections.deque()
        self.watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        self.more, self.unwanted = asyncio.Event(), asyncio.Event()
        self.running = ""

    def check_room(self) -> None:
        """Refused if too many wait."""
        if len(self.waiting) >= WAITING:
            raise Refused(f"{WAITING} transfers are waiting already: let some finish first")

    def add(self, state: dict[str, Any]) -> None:
        """A transfer whose folder is ready."""
        self.check_room()
        self.waiting.append(state["id"])
        self.change(state | {"status": "waiting", "created": time.time()}, keep=True)
        self.more.set()

    def cancel(self, name: str) -> None:
        """Stops a transfer that waits or runs; nothing if it is over."""
        if name in self.waiting:
            self.waiting.remove(name)
            ended = {"status": "cancelled", "error": "cancelled"}
            self.change(self.states[name] | ended, keep=True)
        elif name == self.running:
            self.unwanted.set()

    def remove(self, name: str) -> None:
        """Deletes a result. Refused while it is going."""
        if name == self.running or self.states[name]["status"] in GOING:
            raise Refused("this is still going: cancel it first")
        self.store.remove(self.store.result(name))
        del self.states[name]
        self._tell({"removed": name})

    def change(self, state: dict[str, Any], *, keep: bool = False) -> None:
        """Tells all watchers of a state; `keep` writes it too."""
        self.states[state["id"]] = state
        if keep:
            self.store.write(state)
        self._tell({"result": state})

    def _tell(self, message: dict[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(message)

    async def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """All states, the newest first, then every change."""
        mine: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.watchers.add(mine)
        try:
            newest = sorted(self.states.values(), key=lambda state: state["id"], reverse=True)
            yield {"results": newest}
            while True:
                yield await mine.get()
        finally:
            self.watchers.discard(mine)

    async def run(self) -> None:
        """Does the waiting transfers until it is cancelled."""
        while True:
            self.more.clear()
            while self.waiting:
                self.running = self.waiting.popleft()
                self.unwanted.clear()
                try:
                    await self._transfer(self.running)
                finally:
                    self.running = ""
            await self.more.wait()

    async def _transfer(self, name: str) -> None:
        """One transfer from its start to its end, whichever that is."""
        fresh = {"status": "running", "stage": "start", "share": 0.0, "pictures": {}}
        self.change(self.states[name] | fresh, keep=True)
        number = next(self.worker.numbers)
        work = asyncio.create_task(self._follow(name, number))
        stop = asyncio.create_task(self.unwanted.wait())
        try:
            await asyncio.wait({work, stop}, timeout=self.most, return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:  # the server ends
            work.cancel()
            stop.cancel()
            await asyncio.wait({work, stop})
            raise
        why = None
        if not work.done():
            late = f"stopped: it took more than {self.most / 60:.0f} minutes"
            why = "cancelled" if stop.done() else late
            await self.worker.cancel(number)
            await asyncio.wait({work}, timeout=GRACE)
        if not work.done():
            self.worker.kill()
            await asyncio.wait({work})
        stop.cancel()
        error = work.exception()
        if error is not None and not isinstance(error, Refused):
            raise error
        state = {key: value for key, value in self.states[name].items() if key not in PASSING}
        if state["status"] != "done" and error is not None:
            status = "cancelled" if why == "cancelled" else "failed"
            state |= {"status": status, "error": why or str(error)}
        self.change(state, keep=True)

    async def _follow(self, name: str, number: int) -> None:
        """Passes on what the worker tells of a transfer."""
        folder = self.store.result(name)
        task = {"do": "transfer", "folder": str(folder), "wish": self.states[name]["wish"]}
        began, most = time.monotonic(), 0.0
        async for message in self.worker.ask(task, number):
            told, state = message.get("told", {}), self.states[name]
            if "stage" in told:
                most = max(most, _share(told["stage"], told["share"]))
                if most == 0:
                    began = time.monotonic()
                gone = time.monotonic() - began
                left = round(gone * (1 - most) / most) if most > 0.1 else None
                stage = {"stage": told["stage"], "share": round(most, 3), "left": left}
                self.change(state | stage)
            elif "picture" in told:
                picture, versions = told["picture"], state["pictures"]
                versions = versions | {picture: versions.get(picture, 0) + 1}
                self.change(state | {"pictures": versions})
            elif "done" in told:
                self.change(state | {"status": "done", **told["done"]}, keep=True)
            elif "masks" in told:
                faces = list(state["faces"])
                faces[told["face"]] = faces[told["face"]] | {"masks": told["masks"]}
                self.change(state | {"faces": faces}, keep=True)


def _share(stage: str, share: float) -> float:
    """The share of a whole transfer that is done when so much of a stage is."""
    before = 0.0
    for name, part in STAGES.items():
        if name == stage:
            return before + part * share
        before += part
    return 1.0


def _read(path: pathlib.Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_bytes())


def _size(path: pathlib.Path) -> int:
    """Bytes of a file that may be gone by now; 0 for a folder."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
