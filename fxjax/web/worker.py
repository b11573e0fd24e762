"""The worker: a process of its own, which decodes photos and computes.

    python -m fxjax.web.worker MODEL [FEATURES]

Lines of JSON come in on stdin and go out on stdout: tasks with a number, and for each `told` any
number of times, then `ok` or `wrong`. It ends when stdin does.
"""

import contextlib
import json
import os
import pathlib
import queue
import sys
import threading
import traceback
from typing import Any, TextIO

from fxjax.web import studio, wishes

QUICK = ("look", "check", "draw")


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
    lines = Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what libraries print is not for the page
    tasks: dict[bool, queue.SimpleQueue[dict[str, Any]]] = {
        True: queue.SimpleQueue(),
        False: queue.SimpleQueue(),
    }
    unwanted: set[int] = set()
    threading.Thread(target=_receive, args=(tasks, unwanted), daemon=True).start()
    try:
        desk = studio.Studio(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
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
            tasks[task["do"] in QUICK].put(task)
    os._exit(0)  # whoever asked is gone


def _serve(
    desk: studio.Studio,
    tasks: queue.SimpleQueue[dict[str, Any]],
    lines: Lines,
    unwanted: set[int],
) -> None:
    while True:
        task = tasks.get()
        number = task["id"]

        def tell(told: dict[str, Any], number: int = number) -> None:
            if number in unwanted:
                raise studio.Cancelled
            lines.write({"id": number, "told": told})

        try:
            if number in unwanted:
                raise studio.Cancelled
            lines.write({"id": number, "ok": _done(desk, task, tell)})
        except studio.Cancelled:
            lines.write({"id": number, "wrong": "cancelled"})
        except (ValueError, OSError) as error:
            lines.write({"id": number, "wrong": " ".join(str(error).split())})
        except Exception as error:
            traceback.print_exc()
            lines.write({"id": number, "wrong": f"a fault in the program: {error!r}"[:300]})
        unwanted.discard(number)


def _done(desk: studio.Studio, task: dict[str, Any], tell: studio.Tell) -> dict[str, Any]:
    folder = pathlib.Path(task["folder"])
    if task["do"] == "look":
        return desk.look(folder / "given", folder)
    wish = wishes.read(task["wish"])
    if task["do"] == "check":
        return desk.check(folder / "photo.png", pathlib.Path(task["driver"]) / "photo.png", wish)
    if task["do"] == "draw":
        return desk.draw(folder, wish, task["mask"], task["strength"], task["whole"])
    return desk.transfer(folder, wish, tell)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
