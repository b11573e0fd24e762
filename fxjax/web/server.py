"""Starts the page: an address on this machine, a worker, and a browser if there is one."""

import os
import pathlib
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence

import jax
import uvicorn

from fxjax import zoo
from fxjax.web.app import Page, make
from fxjax.web.jobs import Store
from fxjax.web.worker import Worker

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = ("0.0.0.0", "::", "")


def serve(
    home: pathlib.Path,
    *,
    model: str,
    features: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8017,
    names: Sequence[str] = (),
    minutes: float = 60.0,
    quota: int = 5 * 2**30,
    browser: bool = True,
    say: Callable[[str], None],
) -> None:
    """Serves until it is stopped.

    Results are kept in `home`, `quota` bytes at most; a transfer may take some `minutes`. It
    answers to this machine's own names, to `host` and to `names`. Raises ValueError for a host
    that needs names, OSError for a port that is taken.
    """
    if host in ANY and not names:
        raise ValueError(
            f"--host={host or '(empty)'} listens everywhere: say by which names the page may be "
            "reached, such as --names=lab7.example.org"
        )
    try:
        listening = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port} ({error.strerror}): give another --port"
        ) from None
    store = Store(home, quota)
    store.recover()
    page = Page(
        store,
        worker(model, features),
        model=model,
        token=secrets.token_urlsafe(24),
        seconds=60 * minutes,
        samples=samples(),
    )
    app = make(page, {*LOOPBACK, *names, host} - {*ANY})
    shown = names[0] if host in ANY else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/"
    say(f"fxjax is at {address} (Ctrl-C stops it); results are kept in {home}")
    if host not in LOOPBACK:
        say("anybody who can reach this address sees all photos and results: it has no password")
    if browser and _screen():
        threading.Timer(1.0, webbrowser.open, (address,)).start()
    config = uvicorn.Config(
        app,
        loop="asyncio",  # uvloop forks, which JAX's threads do not survive
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=20,
        limit_concurrency=100,
        h11_max_incomplete_event_size=2**15,
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listening])


def samples() -> dict[str, pathlib.Path]:
    """The faces that come with the package, by name; of no real people."""
    return {name: pathlib.Path(os.fspath(path)) for name, path in zoo.samples().items()}


def worker(model: str, features: str | None) -> Worker:
    """The worker process of these models; it shares this program's cache of compiled ones."""
    environment = dict(os.environ)
    cache = jax.config.values["jax_compilation_cache_dir"]
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    extra = [] if features is None else [features]
    return Worker([sys.executable, "-m", "fxjax.web.worker", model, *extra], environment)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _screen() -> bool:
    """Whether a browser would open a window, rather than take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
