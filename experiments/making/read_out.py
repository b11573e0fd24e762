"""Makes a smaller generator of a StyleGAN2: its first rows, which draw the same faces.

    python -m experiments.making.read_out --model=runs/faces256/export --dst=runs/faces128

A skip generator sums a picture at each size, so its first rows are a generator of fewer pixels.
What the later rows add to the mean colour goes into the bias of the last ToRGB. The statistics of w
are the same: they come along if the model has them. --discriminator adds one with which training
can go on at that size (`experiments.train_generator --start_from=DST`).
"""

import dataclasses
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Float

from fxjax import checkpoint, load, zoo
from fxjax.cli import launch
from fxjax.losses import shrink
from fxjax.nn.generator import codes, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import gan_state, generator_measures


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    model: Annotated[str, "folder of a StyleGAN2, such as an export of the trainer"]
    dst: Annotated[str, "model folder to make"]
    size: Annotated[int, "pixels of its pictures, fewer than the model's"] = 128
    samples: Annotated[int, "samples over which colours are compared"] = 512
    discriminator: Annotated[
        str | None, "discriminator.npz of an earlier run at --size, to train on with"
    ] = None


def main(config: Config) -> None:
    """Reads, cuts, compares, writes."""
    card = checkpoint.read_card(zoo.find(config.model))
    large = load(config.model, part="generator")
    if not isinstance(large, StyleGAN2) or config.size >= large.resolution:
        raise ValueError(
            f"--size={config.size} of {config.model}, a {card['kind']} of {large.resolution} px: "
            "only a StyleGAN2 has earlier pictures, which are smaller than its last"
        )
    small, wanted = large.at(config.size), []
    for first in range(0, config.samples, generator_measures.BATCH):
        key = jax.random.fold_in(jax.random.key(0), first)
        wanted.append(np.asarray(_difference(large, small, key)))
    flat = checkpoint.flatten(small)
    name = f"rows/{len(small.rows) - 1}/to_rgb/conv/bias"
    small = checkpoint.fill(small, flat | {name: flat[name] + np.mean(wanted, axis=0)})
    halved = checkpoint.halved(small) | {"w_mean": np.asarray(flat["w_mean"])}
    old = card["parts"]["generator"]["architecture"]
    widths = old["widths"][: len(small.rows) // 2]
    new = old | {"resolution": config.size, "widths": widths}
    parts: dict[str, Any] = {"generator": (new, halved)}
    if "statistics" in card["parts"]:
        statistics = checkpoint.flatten(load(config.model, part="statistics"))
        parts["statistics"] = (card["parts"]["statistics"]["architecture"], statistics)
    checkpoint.save_model(
        config.dst,
        card["kind"],
        parts,
        {key: card[key] for key in ("images", "data", "settings") if key in card},
        overwrite=True,
    )
    if config.discriminator:
        gan_state.adopt(config.discriminator, config.dst)
    print(f"wrote {config.dst}")


@jax.jit
def _difference(
    large: StyleGAN2, small: StyleGAN2, key: jax.Array
) -> Float[jax.Array, " channels"]:
    """What the whole picture's mean colours have more than the early one's."""
    z = jax.random.normal(key, (generator_measures.BATCH, large.latent))
    rows = codes(large, z)
    whole, early = synthesize(large, rows), synthesize(small, rows[:, : len(small.rows)])
    return (shrink(whole, small.resolution) - early).mean(axis=(0, 1, 2))


if __name__ == "__main__":
    launch(Config, main)
