"""Facial expression transfer with style-based generators, in JAX."""

from fxjax.zoo import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]
