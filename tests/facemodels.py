"""A tiny random generator and feature network for tests of whole commands."""

import pathlib
from typing import Any

import jax
from flax import nnx

from fxjax.checkpoint import flatten, save_model
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16

ARCHITECTURE: dict[str, Any] = {
    "resolution": 32, "widths": (8, 8, 8, 8), "dim": 16, "latent": 16, "mapping_layers": 2,
}  # fmt: skip
SCALING: dict[str, Any] = {
    "widths": (4, 4, 4), "mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False,
}  # fmt: skip


def save_models(folder: pathlib.Path, resolution: int = 32) -> None:
    """Writes folder/model (a generator, of 8 rows at 32 px) and folder/vgg (to block 3)."""
    widths = (8,) * (resolution.bit_length() - 2)
    architecture = ARCHITECTURE | {"resolution": resolution, "widths": widths}
    model = StyleGAN2(**architecture, rngs=nnx.Rngs(0))
    draws = jax.random.normal(jax.random.key(1), (256, 16))
    model.w_mean[...] = model.mapping(draws).mean(axis=0)
    features: Any = {"features": (SCALING, flatten(VGG16(**SCALING, rngs=nnx.Rngs(0))))}
    parts: Any = {"generator": (architecture, flatten(model))}
    save_model(folder / "model", "stylegan2", parts | features, {})
    save_model(folder / "vgg", "vgg16", features, {})
