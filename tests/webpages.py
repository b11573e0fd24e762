"""A page over the worker for tests, and pictures to give it."""

import io
import os
import pathlib
import sys
from typing import Any

from PIL import Image
from starlette.applications import Starlette

from fxjax.web.app import Page, make
from fxjax.web.jobs import Store
from fxjax.web.worker import Worker

NAMES = ("127.0.0.1", "localhost")
TOKEN = "a token"
WORKER = (sys.executable, str(pathlib.Path(__file__).with_name("webworker.py")))


def app_of(home: pathlib.Path, *, quota: int = 2**30, seconds: float = 60.0) -> Starlette:
    """The application with its folder."""
    store = Store(home, quota)
    store.recover()
    zoo = pathlib.Path(__file__).parent.parent / "fxjax" / "zoo" / "faces256" / "samples"
    page = Page(
        store,
        Worker(WORKER, os.environ),
        model="faces",
        token=TOKEN,
        seconds=seconds,
        samples={path.stem: path for path in sorted(zoo.glob("*.png"))},
    )
    return make(page, NAMES)


def picture(wide: int = 300, high: int = 300, kind: str = "PNG", **options: Any) -> bytes:
    """A file with a gradient in it, so that left is not right."""
    ramp = Image.linear_gradient("L").rotate(90).resize((wide, high))
    photo = Image.merge("RGB", [ramp, ramp, ramp.point(lambda value: 255 - value)])
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(wide: int = 300, high: int = 300) -> bytes:
    """One colour: nobody is there."""
    buffer = io.BytesIO()
    Image.new("RGB", (wide, high), "gray").save(buffer, "PNG")
    return buffer.getvalue()
