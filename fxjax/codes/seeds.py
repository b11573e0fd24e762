"""Random codes by seed and their pictures: neither depends on which others are drawn with it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, ScalarLike, UInt8

from fxjax.images import to_uint8
from fxjax.nn.generator import Generator, codes, synthesize, with_random_noise, without_noise
from fxjax.types import Code, Codes, Photos

BATCH = 4  # always, so that a picture does not depend on how many are asked for


def parse_seeds(text: str) -> list[int]:
    """0-2,20 -> [0, 1, 2, 20]; ValueError unless all are whole numbers below 2**31."""
    seeds = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"seeds {text!r}: {part!r} is neither a number nor a range like 0-15")
        start, stop = int(first), int(last if dash else first)
        if not start <= stop < 2**31:
            raise ValueError(f"seeds {text!r}: {part!r} must rise and stay below 2**31")
        seeds.extend(range(start, stop + 1))
    return seeds


def one_hot(classes: Sequence[int], width: int, count: int) -> Float[Array, "count labels"]:
    """Labels for `count` pictures from one class for all or one for each; width 0 if none.

    Raises ValueError unless the classes are what a model with `width` of them wants.
    """
    if len(classes) not in ((1, count) if width else (0,)):
        wanted = f"1 or {count} of the classes 0 to {width - 1}" if width else "none"
        raise ValueError(f"{len(classes)} labels are given, but this model wants {wanted}")
    if wrong := [label for label in classes if not 0 <= label < width]:
        raise ValueError(f"there is no class {wrong[0]}: this model has 0 to {width - 1}")
    if not width:
        return jnp.zeros((count, 0), jnp.float32)
    return jnp.broadcast_to(jax.nn.one_hot(jnp.array(classes), width), (count, width))


def map_seeds(
    generator: Generator,
    seeds: Sequence[int],
    labels: Float[Array, "count labels"],
    psi: float,
    cutoff: int | None,
) -> Codes:
    """W+ codes; the z of a seed is drawn from `jax.random.key(seed)` alone."""
    found = [_map(generator, s, y, psi, cutoff) for s, y in zip(seeds, labels, strict=True)]
    return jnp.stack(found)


@functools.partial(jax.jit, static_argnums=4)
def _map(
    generator: Generator,
    seed: Int[Array, ""],
    label: Float[Array, " labels"],
    psi: ScalarLike,
    cutoff: int | None,
) -> Code:
    z = jax.random.normal(jax.random.key(seed), (1, generator.latent))
    return codes(generator, z, label[None] if generator.labels else None, psi=psi, cutoff=cutoff)[0]


def draw(generator: Any, ws: Codes, seeds: Sequence[int], noise: str) -> Photos:
    """Pictures of codes; random noise follows from a picture's seed alone."""
    pictures = []
    for start in range(0, len(seeds), BATCH):
        chosen = np.arange(start, start + BATCH).clip(max=len(seeds) - 1)
        batch = _draw(generator, ws[chosen], np.asarray(seeds, np.int32)[chosen], noise)
        pictures.append(np.asarray(batch)[: len(seeds) - start])
    return np.concatenate(pictures)


@functools.partial(jax.jit, static_argnums=3)
def _draw(
    generator: Any, ws: Codes, seeds: Int[Array, " batch"], noise: str
) -> UInt8[Array, "batch height width 3"]:
    if noise != "random":
        chosen = without_noise(generator) if noise == "none" else generator
        return to_uint8(synthesize(chosen, ws))

    def one(code, seed):
        key = jax.random.fold_in(jax.random.key(seed), 1)  # the key itself drew z
        return to_uint8(synthesize(with_random_noise(generator, key, 1), code[None])[0])

    return jax.vmap(one)(ws, seeds)
