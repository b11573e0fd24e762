"""What a page on one's own machine must refuse: other names, other sites, large bodies."""

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        if site not in ("same-origin", "none") and path != "/":
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
