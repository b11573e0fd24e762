"""The worker: a process of its own, which decodes photos and computes, and how it is asked.

    python -m fxjax.web.worker MODEL [FEATURES]

`Worker` is what the server has of it: started when needed, and again after it was killed. Lines of
JSON go to its stdin and come from its stdout: tasks with a number, and for each `told` any number
of times, then `ok` or `wrong`. It ends when stdin does.
"""

import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import queue
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from fxjax.web import wishes

if TYPE_CHECKING:
    from fxjax.web.studio import Studio, Tell

START, QUICK = 600.0, 120.0  # seconds that a start and a small task may take
LINE = 2**22  # bytes of a message, at most
SMALL = ("look", "check", "draw")


class Refused(Exception):
    """Something that cannot be done, in one line."""


class Process:
    """One run of the worker's process; whoever waits for an answer is told when it ends."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.answers: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self.reading.done()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        why = "the worker was stopped (killed, or out of memory): start again"
        try:
            while line := await self.process.stdout.readline():
                message = json.loads(line)
                if "ready" in message:
                    self.ready.set_result(message["ready"])
                elif "refused" in message:
                    why = str(message["refused"])
                elif message["id"] in self.answers:
                    self.answers[message["id"]].put_nowait(message)
        except ValueError:
            why = "the worker said something that is no message"
            self.kill()
        await self.process.wait()
        if not self.ready.done():
            self.ready.set_exception(Refused(why))
            self.ready.exception()  # perhaps nobody waits for it
        for waiting in self.answers.values():
            waiting.put_nowait({"wrong": why})

    async def send(self, task: dict[str, Any]) -> None:
        """Sends one line; if the process has ended, `_read` says so to whoever waits."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            await self.process.stdin.drain()

    def kill(self) -> None:
        """Ends it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Worker:
    """Asks the process, and starts it if there is none."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self.command, self.environment = command, environment
        self.life: Process | None = None
        self.numbers = itertools.count()
        self.one = asyncio.Lock()

    async def started(self) -> Process:
        """The process, when its models are loaded. Refused if they cannot be."""
        async with self.one:
            if self.life is None or not self.life.alive:
                self.life = Process(
                    await asyncio.create_subprocess_exec(
                        *self.command,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        env=dict(self.environment),
                        start_new_session=True,  # Ctrl-C is for the server, which stops it
                        limit=LINE,
                    )
                )
            life = self.life
        try:
            await asyncio.wait_for(asyncio.shield(life.ready), START)
        except TimeoutError:
            life.kill()
            raise Refused("the models took too long to load") from None
        return life

    async def ask(self, task: dict[str, Any], number: int) -> AsyncIterator[dict[str, Any]]:
        """Sends a task and yields what it tells, then its answer. Refused if it went wrong."""
        life = await self.started()
        life.answers[number] = answers = asyncio.Queue()
        try:
            await life.send(task | {"id": number})
            while life.alive or not answers.empty():
                message = await answers.get()
                if "wrong" in message:
                    raise Refused(str(message["wrong"]))
                yield message
                if "ok" in message:
                    return
            raise Refused("the worker was stopped: start again")
        finally:
            del life.answers[number]

    async def quick(self, task: dict[str, Any]) -> dict[str, Any]:
        """A small task's answer; one that takes too long ends the process."""
        await self.started()

        async def last() -> dict[str, Any]:
            async for message in self.ask(task, next(self.numbers)):
                if "ok" in message:
                    return message["ok"]
            raise Refused("the worker gave no answer")

        try:
            return await asyncio.wait_for(last(), QUICK)
        except TimeoutError:
            self.kill()
            raise Refused("this took too long and was stopped") from None

    async def cancel(self, number: int) -> None:
        """Asks to stop a task."""
        if self.life is not None:
            await self.life.send({"do": "cancel", "id": number})

    def kill(self) -> None:
        """Ends the process, if there is one."""
        if self.life is not None:
            self.life.kill()

    async def close(self) -> None:
        """Ends the process and waits until it is gone."""
        if self.life is not None:
            self.life.kill()
            await self.life.reading
            assert self.life.process.stdin is not None
            self.life.process.stdin.close()


class Lines:
    """What goes out, one line at a time."""

    def __init__(self, stream: TextIO):
        self.stream, self.one = stream, threading.Lock()

    def write(self, message: dict[str, Any]) -> None:
        """Sends a line at once."""
        with self.one:
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()


def main() -> None:
    """Serves tasks until stdin ends."""
    from fxjax.web.studio import Studio  # its models: not for the server's process

    lines = Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what libraries print is not for the page
    tasks: dict[bool, queue.SimpleQueue[dict[str, Any]]] = {
        True: queue.SimpleQueue(),
        False: queue.SimpleQueue(),
    }
    unwanted: set[int] = set()
    threading.Thread(target=_receive, args=(tasks, unwanted), daemon=True).start()
    try:
        desk = Studio(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    except (ValueError, OSError) as error:
        lines.write({"refused": " ".join(str(error).split())})
        return
    lines.write({"ready": len(desk.engine.generator.rows)})
    threading.Thread(target=_serve, args=(desk, tasks[True], lines, unwanted), daemon=True).start()
    _serve(desk, tasks[False], lines, unwanted)


def _receive(tasks: dict[bool, queue.SimpleQueue[dict[str, Any]]], unwanted: set[int]) -> None:
    for line in sys.stdin:
        task = json.loads(line)
        if task["do"] == "cancel":
            unwanted.add(task["id"])
        else:
            tasks[task["do"] in SMALL].put(task)
    os._exit(0)  # whoever asked is gone


def _serve(
    desk: "Studio",
    tasks: queue.SimpleQueue[dict[str, Any]],
    lines: Lines,
    unwanted: set[int],
) -> None:
    from fxjax.web.studio import Cancelled

    while True:
        task = tasks.get()
        number = task["id"]

        def tell(told: dict[str, Any], number: int = number) -> None:
            if number in unwanted:
                raise Cancelled
            lines.write({"id": number, "told": told})

        try:
            if number in unwanted:
                raise Cancelled
            lines.write({"id": number, "ok": _done(desk, task, tell)})
        except Cancelled:
            lines.write({"id": number, "wrong": "cancelled"})
        except (ValueError, OSError) as error:
            lines.write({"id": number, "wrong": " ".join(str(error).split())})
        except Exception as error:
            traceback.print_exc()
            lines.write({"id": number, "wrong": f"a fault in the program: {error!r}"[:300]})
        unwanted.discard(number)


def _done(desk: "Studio", task: dict[str, Any], tell: "Tell") -> dict[str, Any]:
    folder = pathlib.Path(task["folder"])
    if task["do"] == "look":
        return desk.look(folder / "given", folder)
    wish = wishes.read(task["wish"])
    if task["do"] == "check":
        return desk.check(folder / "photo.png", pathlib.Path(task["driver"]) / "photo.png", wish)
    if task["do"] == "draw":
        return desk.draw(folder, wish, task["face"], task["mask"], task["strength"], task["whole"])
    return desk.transfer(folder, wish, tell)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
