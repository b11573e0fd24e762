"""Facial expression transfer with style-based generators, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from fxjax.zoo import load

if TYPE_CHECKING:
    from fxjax.engine import transfer

__version__ = "0.2.0"
__all__ = ["__version__", "load", "transfer"]


def __getattr__(name: str) -> Any:
    """`fxjax.transfer`, found when first asked for: it needs dlib, which training does without."""
    if name == "transfer":
        return importlib.import_module("fxjax.engine").transfer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
