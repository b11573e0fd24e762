"""Facial expression transfer with style-based generators, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from fxjax.zoo import load

if TYPE_CHECKING:
    from fxjax.codes import invert, mix, pivotal, search, whiten
    from fxjax.codes.mix import score_masks
    from fxjax.engine import Engine, transfer
    from fxjax.faces import align, detect, expression, paste
    from fxjax.faces.back import put_back
    from fxjax.nn.generator import synthesize
    from fxjax.transfer_types import Settings

__version__ = "0.2.0"
__all__ = [
    "Engine",
    "Settings",
    "__version__",
    "align",
    "detect",
    "expression",
    "invert",
    "load",
    "mix",
    "paste",
    "pivotal",
    "put_back",
    "score_masks",
    "search",
    "synthesize",
    "transfer",
    "whiten",
]

MODULES = {
    "fxjax.faces": ("align", "detect", "expression", "paste"),
    "fxjax.codes": ("invert", "mix", "pivotal", "search", "whiten"),
}
"""Public modules by the room that they live in."""

NAMES = {
    "Engine": "fxjax.engine",
    "Settings": "fxjax.transfer_types",
    "put_back": "fxjax.faces.back",
    "score_masks": "fxjax.codes.mix",
    "synthesize": "fxjax.nn.generator",
    "transfer": "fxjax.engine",
}
"""Public names by their module."""


def __getattr__(name: str) -> Any:
    """The public names, found when first asked for: most need dlib, which training does without."""
    for room, modules in MODULES.items():
        if name in modules:
            return importlib.import_module(f"{room}.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
