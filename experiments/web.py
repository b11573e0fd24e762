"""The page: two photos in, the first with the expression of the second out, in a browser.

    python -m experiments.web

Prints its address, on this machine only, and opens a browser if there is one. Every result is a
folder in --home, as experiments.transfer writes it. Needs `pip install '.[web]'` in a clone.
"""

import dataclasses
import importlib.util
import pathlib
from typing import Annotated

from fxjax import files
from fxjax.cli import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    home: Annotated[str, "folder in which photos and results are kept"] = "runs/web"
    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    features: Annotated[str | None, "VGG16 folder; None is what comes with the model"] = None
    host: Annotated[str, "where to listen; others than this machine reach 0.0.0.0"] = "127.0.0.1"
    port: Annotated[int, "the address's port; 0 takes a free one"] = 8017
    names: Annotated[tuple[str, ...], "further host names by which the page may be reached"] = ()
    minutes: Annotated[float, "how long a transfer may take"] = 60.0
    quota_gb: Annotated[float, "how much may be kept, in GB"] = 5.0
    browser: Annotated[bool, "open the page in a browser"] = True


def main(config: Config) -> None:
    """Serves until it is stopped."""
    if missing := [m for m in ("starlette", "uvicorn") if importlib.util.find_spec(m) is None]:
        raise ValueError(f"the page needs {' and '.join(missing)}: pip install '.[web]' in a clone")
    from fxjax.web.server import serve  # only now: an extra of the package

    if not 0 <= config.port < 2**16:
        raise ValueError(f"--port={config.port}: want 0 to 65535")
    if config.minutes <= 0 or config.quota_gb <= 0:
        raise ValueError("--minutes and --quota_gb: want more than 0")
    serve(
        pathlib.Path(files.absolute(config.home)),
        model=config.model,
        features=config.features,
        host=config.host,
        port=config.port,
        names=config.names,
        minutes=config.minutes,
        quota=int(config.quota_gb * 2**30),
        browser=config.browser,
        say=print,
    )


if __name__ == "__main__":
    launch(Config, main)
