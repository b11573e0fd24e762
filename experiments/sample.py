"""Draws pictures from a generator: one PNG per seed, a contact sheet, style-mixing grids.

Examples:
    python -m experiments.sample --model=models/ffhq --seeds=0-15 --psi=0.7 --out=runs/sample
    python -m experiments.sample --model=models/ffhq --seeds=0-3 --mix=100-105 --out=runs/mix
"""

import dataclasses
import math
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np

from fxjax import load
from fxjax.cli import launch
from fxjax.codes.seeds import draw, map_seeds, one_hot, parse_seeds
from fxjax.files import absolute
from fxjax.images import contact_sheet, save_image
from fxjax.types import Photo, Photos

# 4-8 px: pose and shape; 16-32 px: features; 64 px and up: colours (arXiv:1812.04948, figure 3).
SETS = {"coarse": range(4), "middle": range(4, 8), "fine": range(8, 18)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    model: Annotated[str, "model folder, or the name of a model that comes with fxjax"]
    out: Annotated[str, "folder for the pictures and config.json"] = "runs/sample"
    seeds: Annotated[str, "which random codes, such as 0-15,20"] = "0-15"
    psi: Annotated[float, "truncation: 1 as trained, 0 the mean picture"] = 0.7
    cutoff: Annotated[int | None, "truncate only this many first rows; None is all"] = None
    labels: Annotated[tuple[int, ...], "classes (conditional models): one, or one per seed"] = ()
    noise: Annotated[Literal["const", "none", "random"], "noise images in the generator"] = "const"
    mix: Annotated[str, "seeds of pictures whose rows go into those of --seeds, as grids"] = ""
    rows: Annotated[tuple[int, ...], "the rows for --mix; () is coarse, middle and fine"] = ()


def main(config: Config) -> None:
    """Loads the generator, draws, saves."""
    generator = load(config.model, part="generator")
    count, out = len(generator.rows), absolute(config.out)
    if config.cutoff is not None and not 0 <= config.cutoff <= count:
        raise ValueError(f"--cutoff={config.cutoff}: this model has {count} rows")
    if wrong := [row for row in config.rows if not 0 <= row < count]:
        raise ValueError(f"--rows: there is no row {wrong[0]}, this model has 0 to {count - 1}")
    seeds, others = parse_seeds(config.seeds), parse_seeds(config.mix) if config.mix else []
    labels = one_hot(config.labels, generator.labels, len(seeds))
    own = map_seeds(generator, seeds, labels, config.psi, config.cutoff)
    pictures = draw(generator, own, seeds, config.noise)
    for seed, picture in zip(seeds, pictures, strict=True):
        save_image(out / f"seed{seed:04d}.png", picture)
    save_image(out / "sheet.png", contact_sheet(pictures, math.ceil(math.sqrt(len(seeds)))))
    print(f"wrote {len(seeds)} pictures and {out / 'sheet.png'}")
    if not others:
        return
    labels = jnp.repeat(labels[:1], len(others), axis=0)
    given = map_seeds(generator, others, labels, config.psi, config.cutoff)
    top = draw(generator, given, others, config.noise)
    for name, rows in ({"rows": config.rows} if config.rows else SETS).items():
        mask = np.isin(np.arange(count), rows)
        if not mask.any():
            continue  # a small model ends before the fine rows
        mixed = jnp.where(mask[:, None], given[None], own[:, None]).reshape(-1, *own.shape[1:])
        cells = draw(generator, mixed, [seed for seed in seeds for _ in others], config.noise)
        save_image(out / f"mix_{name}.png", grid(cells, top, pictures))
        print(f"wrote {out / f'mix_{name}.png'}: rows {np.flatnonzero(mask)} from the top pictures")


def grid(cells: Photos, top: Photos, left: Photos) -> Photo:
    """Cells in rows, under the pictures that gave rows and beside those that took them."""
    lines = [np.full_like(left[:1], 255), top]
    for index, row in enumerate(cells.reshape(len(left), *top.shape)):
        lines += [left[index : index + 1], row]
    return contact_sheet(np.concatenate(lines), len(top) + 1)


if __name__ == "__main__":
    launch(Config, main)
