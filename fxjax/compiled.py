"""Compiled programs kept on disk: what took minutes to compile once takes seconds afterwards."""

import os
import pathlib

import jax
from etils import epath

from fxjax import files


def keep(folder: epath.PathLike | None = None) -> None:
    """Keeps compiled programs in a folder, for all later processes too.

    Without one, where jax is told to already (`$JAX_COMPILATION_CACHE_DIR`), or else in the user's
    cache folder. `JAX_ENABLE_COMPILATION_CACHE=false` keeps none.
    """
    if folder is not None:
        chosen = os.fspath(files.absolute(folder))
    elif jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        chosen = str(pathlib.Path(home) / "fxjax" / "jax")
    else:
        return
    jax.config.update("jax_compilation_cache_dir", chosen)
