"""The page's addresses, and what it refuses: other names, other sites, large bodies.

Names from outside are looked up, never joined to a path unseen.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import pathlib
import re
import shutil
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fxjax import files
from fxjax.web import wishes
from fxjax.web.jobs import PHOTO, Jobs, Store
from fxjax.web.worker import Refused, Worker

MOST_BYTES = 30 * 2**20  # of a photo's file
SLOW = 120.0  # seconds in which a photo must have come
QUIET = 15.0  # seconds after which a silent stream says that it is there
REPORT = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
"""Of a report, which brings its own style and script: it may do nothing else, as a stranger."""
PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
FILES = re.compile(
    r"(?:before|after|first|inversions|person|driver)\.jpg|(?:result|side_by_side)\.png|"
    r"ranking\.csv|codes\.npz|(?:face\d{1,3}/)?(?:report\.html|masks/[01]{1,64}\.jpg|"
    r"drawn/(?:[01]{1,64}|result)_\d{3}\.(?:jpg|png))"
)
"""Of a result's folder, what may be fetched."""
KINDS = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".csv": "text/csv",
    ".npz": "application/octet-stream",
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
}
TOKEN = "x-token"
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Of every answer that does not bring its own."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Page:
    """Handlers, and what they share."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        *,
        model: str,
        token: str,
        seconds: float,
        samples: Mapping[str, pathlib.Path],
    ):
        self.store, self.worker, self.model, self.token = store, worker, model, token
        self.samples = samples
        self.jobs = Jobs(store, worker, seconds)
        self.reading = asyncio.Semaphore(2)  # photos that are received at a time
        self.drawing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def life(self, app: Starlette) -> AsyncIterator[None]:
        """Loads the models at once, and ends the process with the server."""
        warm = asyncio.create_task(self._warm())
        work = asyncio.create_task(self.jobs.run())
        try:
            yield
        finally:
            warm.cancel()
            work.cancel()
            await asyncio.wait({warm, work})
            await self.worker.close()

    async def _warm(self) -> None:
        with contextlib.suppress(Refused):  # said again to whoever asks for something
            await self.worker.started()

    async def start(self, request: Request) -> Response:
        """What the page needs to know first."""
        return JSONResponse(
            {
                "token": self.token,
                "model": self.model,
                "samples": sorted(self.samples),
                "quick": wishes.QUICK,
                "full": wishes.FULL,
                "most_bytes": MOST_BYTES,
            }
        )

    async def events(self, request: Request) -> Response:
        """Server-sent events: all results, then every change."""

        async def lines() -> AsyncIterator[str]:
            watched = self.jobs.watch()
            following = asyncio.ensure_future(anext(watched))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=QUIET)
                    if not done:
                        yield ": still here\n\n"
                        continue
                    yield f"data: {json.dumps(following.result())}\n\n"
                    following = asyncio.ensure_future(anext(watched))
            finally:
                following.cancel()
                await asyncio.wait({following})
                await watched.aclose()

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def give(self, request: Request) -> Response:
        """Takes a photo, as the body; it is accepted if the worker finds a face in it."""
        self.store.room()
        folder = self.store.new(self.store.photos)
        try:
            async with self.reading:
                body = await asyncio.wait_for(request.body(), SLOW)
            (folder / "given").write_bytes(body)
            return await self._looked(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def sample(self, request: Request) -> Response:
        """Takes one of the faces that come with the generator, as if it had been uploaded."""
        source = self.samples[str((await entries(request)).get("name"))]
        self.store.room()
        folder = self.store.new(self.store.photos)
        shutil.copyfile(source, folder / "given")
        return await self._looked(folder)

    async def _looked(self, folder: pathlib.Path) -> Response:
        try:
            found = await self.worker.quick({"do": "look", "folder": str(folder)})
        except Refused as error:
            shutil.rmtree(folder, ignore_errors=True)
            place = str(folder / "given")
            raise Refused(str(error).replace(place, "this file")) from None
        (folder / "given").unlink()  # with all its metadata
        files.write(folder / PHOTO, json.dumps(found).encode())
        self.store.prune()
        return JSONResponse({"id": folder.name, **found})

    async def check(self, request: Request) -> Response:
        """What will not go well with two photos."""
        asked = await entries(request)
        person, driver = (self.store.photo(asked.get(who)) for who in ("person", "driver"))
        wish = wishes.read(asked.get("wish"))
        task = {"do": "check", "folder": str(person), "driver": str(driver)}
        return JSONResponse(await self.worker.quick(task | {"wish": written(wish)}))

    async def begin(self, request: Request) -> Response:
        """Begins a transfer between two photos."""
        asked = await entries(request)
        photos = {who: self.store.photo(asked.get(who)) for who in ("person", "driver")}
        wish = wishes.read(asked.get("wish"))
        self.jobs.check_room()
        self.store.room()
        folder = self.store.new(self.store.home)
        for who, photo in photos.items():
            shutil.copyfile(photo / "photo.png", folder / f"{who}.png")
            shutil.copyfile(photo / "preview.jpg", folder / f"{who}.jpg")
        state = {
            "id": folder.name,
            "wish": written(wish),
            "command": wish.command(str(folder), self.model),
        }
        self.jobs.add(state)
        return JSONResponse({"id": folder.name}, 201)

    async def cancel(self, request: Request) -> Response:
        """Stops a transfer."""
        self.jobs.cancel(self.store.result(request.path_params["name"]).name)
        return JSONResponse({})

    async def remove(self, request: Request) -> Response:
        """Deletes a result."""
        self.jobs.remove(self.store.result(request.path_params["name"]).name)
        return JSONResponse({})

    async def draw(self, request: Request) -> Response:
        """A mask at a strength, from codes that are kept."""
        folder = self.store.result(request.path_params["name"])
        asked = await entries(request)
        mask, strength = asked.get("mask", ""), asked.get("strength", 1.0)
        if not isinstance(mask, str) or not re.fullmatch(r"[01]{0,64}", mask):
            raise ValueError("mask: want 0s and 1s")
        if type(strength) not in (int, float) or not 0 <= strength <= 1.5:
            raise ValueError("strength: want 0 to 1.5")
        faces, face = self.jobs.states[folder.name].get("faces", []), asked.get("face", 0)
        if type(face) is not int or not 0 <= face < max(1, len(faces)):
            raise ValueError(f"face: want 0 to {max(0, len(faces) - 1)}")
        if not faces or faces[face].get("masks") is None:
            raise Refused("there is nothing to draw again yet")
        self.store.room()
        task = {"do": "draw", "folder": str(folder), "face": face, "mask": mask}
        task |= {"strength": float(strength), "whole": asked.get("whole") is True}
        task |= {"wish": self.jobs.states[folder.name]["wish"]}
        async with self.drawing:
            return JSONResponse(await self.worker.quick(task))

    async def file(self, request: Request) -> Response:
        """A file of a result, of those that are known."""
        name = request.path_params["file"]
        if not FILES.fullmatch(name):
            raise KeyError(name)
        return sent(self.store.result(request.path_params["name"]) / name)

    async def photo(self, request: Request) -> Response:
        """A photo that was given, small."""
        return sent(self.store.photo(request.path_params["name"]) / "preview.jpg")

    async def sample_file(self, request: Request) -> Response:
        """A face that comes with the generator."""
        return sent(self.samples[request.path_params["name"]])

    async def page(self, request: Request) -> Response:
        """The page itself and what it is made of."""
        return sent(pathlib.Path(__file__).parent / "page" / PAGE[request.url.path])

    def routes(self) -> list[Route]:
        """Each address and who answers there."""
        return [
            *(Route(path, self.page) for path in PAGE),
            Route("/samples/{name}.png", self.sample_file),
            Route("/photos/{name}.jpg", self.photo),
            Route("/results/{name}/{file:path}", self.file),
            Route("/api/start", self.start),
            Route("/api/events", self.events),
            Route("/api/photos", self.give, methods=["POST"]),
            Route("/api/samples", self.sample, methods=["POST"]),
            Route("/api/check", self.check, methods=["POST"]),
            Route("/api/results", self.begin, methods=["POST"]),
            Route("/api/results/{name}/cancel", self.cancel, methods=["POST"]),
            Route("/api/results/{name}/draw", self.draw, methods=["POST"]),
            Route("/api/results/{name}", self.remove, methods=["DELETE"]),
        ]


def make(page: Page, names: Collection[str]) -> Starlette:
    """The application, which answers to these host names only."""
    return Starlette(
        routes=page.routes(),
        lifespan=page.life,
        middleware=[Middleware(Guard, names=names, token=page.token, most=MOST_BYTES)],
        exception_handlers={
            Refused: _told(422),
            ValueError: _told(400),
            KeyError: _told(404),
            TimeoutError: _told(408),
            ClientDisconnect: _told(400),
            OSError: _told(507),
        },
    )


def _told(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        lines = {404: "there is no such thing here (any more)", 408: "this came too slowly"}
        line = lines.get(status) or " ".join(str(error).split())
        return JSONResponse({"error": line}, status)

    return answer


async def entries(request: Request) -> dict[str, Any]:
    """The body's JSON object. ValueError for anything else."""
    body = json.loads(await asyncio.wait_for(request.body(), SLOW))
    if not isinstance(body, dict):
        raise ValueError("want a JSON object")
    return body


def sent(place: pathlib.Path) -> Response:
    """A file of a known kind. KeyError if it is not there."""
    if not place.is_file():
        raise KeyError(place.name)
    report = {"content-security-policy": REPORT} if place.name == "report.html" else {}
    return FileResponse(place, media_type=KINDS[place.suffix], headers=report)


def written(wish: wishes.Wish) -> dict[str, Any]:
    """A wish as JSON has it."""
    return {**dataclasses.asdict(wish), "parts": list(wish.parts)}


class Guard:
    """Refuses a request before anything of its body is read, and adds headers to every answer.

    `names` are the hosts under which the page may be reached: a name that was pointed here by
    another site is not one. What changes anything must come from the page itself, with its
    `token`, and say how many bytes it brings, at most `most`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], token: str, most: int):
        self.app, self.names, self.token, self.most = app, frozenset(names), token, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "content-security-policy": POLICY}.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope["method"], scope["path"], Headers(scope=scope))
        app = self.app
        if refused is not None:
            status, line = refused
            app = JSONResponse({"error": line}, status, {"connection": "close"})
        await app(scope, receive, answer)

    def _refused(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None for what may go on."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if hostname(host) not in self.names:
            return 421, "this page does not answer to that name: use the address that was printed"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "another site asked for this"
        site = headers.get("sec-fetch-site", "same-origin")
        # A report opens as a stranger, and so do the links in it.
        followed = headers.get("sec-fetch-mode") == "navigate" and path.endswith("/report.html")
        if site not in ("same-origin", "none") and path != "/" and not followed:
            return 403, "another site asked for this"
        if method in ("GET", "HEAD"):
            return None
        if origin is None:
            return 403, "a change must come from the page (no Origin was sent)"
        if not hmac.compare_digest(headers.get(TOKEN, "").encode(), self.token.encode()):
            return 403, "the page is from before the last start: load it again"
        size = headers.get("content-length", "0")  # without either there is no body
        if "transfer-encoding" in headers or not size.isdecimal():
            return 411, "say how many bytes are sent (Content-Length)"
        if int(size) > self.most:
            return 413, f"{int(size) >> 20} MB are too many: at most {self.most >> 20} MB"
        return None


def hostname(host: str) -> str:
    """The name in a Host header, without its port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
