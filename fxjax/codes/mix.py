"""Mixing two W+ codes row by row, and scoring every way to do it (arXiv:1912.06253, step 3).

A mask has a bit for each free group of rows: 1 takes those rows from the expression code, 0 from
the person's (the paper's alpha is 1 - bit). Rows are applied in order, so masks that agree so far
share the work: the search walks a prefix tree whose leaves are the pictures of all masks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fxjax.losses import shrink
from fxjax.nn.generator import Generator, State
from fxjax.types import Code, Codes, Images

Groups = tuple[tuple[int, ...], ...]
"""Free rows: each group shares one bit. Rows in no group come from the person's code."""

DECIDE = (2, 7)
"""The first and last of the rows that carry an expression, from 8 to 32 px: earlier ones carry the
pose, later ones colours and texture."""

Score = Callable[[Any, Images], Float[Array, "batch scores"]]
"""Scores pictures; the first argument is what else it needs (a pytree, passed through jit)."""


def free_rows(first: int, last: int) -> Groups:
    """One group for each row from `first` to `last`, both included."""
    return tuple((row,) for row in range(first, last + 1))


def mix(person: Code, expression: Code, mask: Bool[Array, " rows"]) -> Code:
    """Rows of `expression` where the mask is set, of `person` elsewhere."""
    return jnp.where(jnp.asarray(mask)[:, None], expression, person)


def check_groups(groups: Groups, rows: int) -> None:
    """ValueError unless each row is in at most one group and exists."""
    flat = [row for group in groups for row in group]
    if not flat or len(set(flat)) < len(flat) or not all(0 <= row < rows for row in flat):
        raise ValueError(
            f"groups {groups}: want rows from 0 to {rows - 1}, each in one group at most"
        )


def masks_of(groups: Groups, rows: int, numbers: Sequence[int]) -> Bool[np.ndarray, "count rows"]:
    """Masks over all rows by number: the first group's bit is the highest."""
    bits = np.zeros((len(numbers), rows), bool)
    for place, group in enumerate(groups):
        shift = len(groups) - 1 - place
        bits[:, list(group)] = ((np.asarray(numbers) >> shift) & 1)[:, None].astype(bool)
    return bits


def _order(groups: Groups) -> list[int]:
    """The groups in the order in which the tree decides their bits: by first row."""
    return sorted(range(len(groups)), key=lambda place: min(groups[place]))


def leaves(groups: Groups) -> Int[np.ndarray, " masks"]:
    """For each mask by number, the place of its leaf in the tree."""
    numbers = np.arange(2 ** len(groups))
    leaf = np.zeros_like(numbers)
    for depth, place in enumerate(_order(groups)):
        bit = (numbers >> (len(groups) - 1 - place)) & 1
        leaf |= bit << (len(groups) - 1 - depth)
    return leaf


def read(generator: Generator, state: State, k: int, size: int | None) -> State:
    """The state before row k; before the last one made small enough for `size` px pictures."""
    if size is None or k < len(generator.rows) - 1:
        return state
    return generator.shrunk(state, lambda x: shrink(x, size))


def pictures(generator: Generator, codes: Codes, size: int | None = None) -> Images:
    """As `synthesize`, then averaged to at most `size` px, which costs less than the full size."""
    state = generator.start(codes.shape[0])
    for k, row in enumerate(generator.rows):
        state = row(read(generator, state, k, size), codes[:, k])
    images = generator.image(state)
    return images if size is None else shrink(images, size)


def score_masks(
    generator: Generator,
    person: Code,
    expression: Code,
    score: Score,
    given: Any,
    *,
    groups: Groups,
    width: int = 64,
    size: int | None = None,
) -> Float[Array, "masks scores"]:
    """Scores the pictures of all 2**len(groups) masks, in the order of `masks_of`.

    Exact: equal to scoring each mask alone, to rounding. Call it inside `jax.jit`; see `subtree`
    for `width` and `size`.
    """
    root = jnp.zeros((), jnp.int32)
    found = subtree(
        generator, person, expression, score, given, root, groups=groups, width=width, size=size
    )
    return found[leaves(groups)]


def subtree(
    generator: Generator,
    person: Code,
    expression: Code,
    score: Score,
    given: Any,
    prefix: Int[Array, ""],
    *,
    groups: Groups,
    top: int = 0,
    width: int = 64,
    size: int | None = None,
) -> Float[Array, "leaves scores"]:
    """Scores the 2**(len(groups) - top) masks whose first `top` decided bits are those of `prefix`.

    They come in the tree's order (`leaves`). At most `width` states (a power of two) exist at once
    on a level: the tree grows breadth first up to that, then an eighth of the states at a time is
    expanded, all within one program. Pictures are averaged to at most `size` px before `score`;
    where the generator allows it the full-size picture is never made.
    """
    rows = len(generator.rows)
    check_groups(groups, rows)
    if width < 2 or width & (width - 1):
        raise ValueError(f"width {width}: want a power of two, 2 or more")
    group_of = {row: place for place, group in enumerate(groups) for row in group}
    born = {place: depth for depth, place in enumerate(_order(groups))}  # when a bit is decided

    def grow(state: State, taken: Int[Array, " n"], depth: int, k: int) -> tuple[State, Array, int]:
        """Runs row k; twice as many states if its group's bit was open."""
        place = group_of.get(k)
        if place is None:
            styles = jnp.broadcast_to(person[k], (taken.shape[0], person.shape[1]))
            return generator.rows[k](state, styles), taken, depth
        if born[place] == depth < top:
            taken = taken * 2 + ((prefix >> (top - 1 - depth)) & 1)
            depth += 1
        elif born[place] == depth:
            state = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), state)
            taken = jnp.repeat(taken, 2) * 2 + jnp.tile(jnp.arange(2), taken.shape[0])
            depth += 1
        bit = (taken >> (depth - 1 - born[place])) & 1
        styles = jnp.where(bit[:, None] == 1, expression[k], person[k])
        return generator.rows[k](state, styles), taken, depth

    def expand(
        state: State, taken: Int[Array, " n"], depth: int, k: int
    ) -> Float[Array, "leaves scores"]:
        while k < rows:
            opens = k in group_of and born[group_of[k]] == depth >= top
            if opens and 2 * taken.shape[0] > width:
                break
            state, taken, depth = grow(state, taken, depth, k)
            state, k = read(generator, state, k + 1, size), k + 1
        if k == rows:
            images = generator.image(state)
            return score(given, images if size is None else shrink(images, size))

        def branch(one: tuple[State, Array]) -> Float[Array, "leaves scores"]:
            return expand(*one, depth, k)

        part = max(1, width // 8)  # wide enough to keep a device busy, and constant memory
        parts = jax.tree.map(lambda a: a.reshape(-1, part, *a.shape[1:]), (state, taken))
        found = jax.lax.map(branch, parts)
        return found.reshape(-1, found.shape[-1])

    return expand(generator.start(1), jnp.zeros((1,), jnp.int32), 0, 0)


def pareto(scores: Float[np.ndarray, "masks 2"]) -> Bool[np.ndarray, " masks"]:
    """Which masks no other beats in one number without losing in the other (less is better).

    Of equal masks the first counts; one whose scores are not finite is never on the front.
    """
    scores = np.asarray(scores)
    order = np.lexsort((scores[:, 1], scores[:, 0]))
    front = np.zeros(len(scores), bool)
    least = np.inf
    for i in order:
        if scores[i, 1] < least and np.isfinite(scores[i, 0]):
            front[i], least = True, scores[i, 1]
    return front


def blended(
    person: Code,
    expression: Code,
    mask: Bool[Array, " rows"] | Bool[np.ndarray, " rows"],
    strength: float,
) -> Code:
    """The masked rows moved by `strength` (0 to 1.5) from the person's towards the expression's."""
    weight = jnp.where(jnp.asarray(mask), strength, 0.0)
    return interpolated(person, expression, weight[None])[0]


def interpolated(person: Code, expression: Code, amounts: Float[Array, "count rows"]) -> Codes:
    """Codes whose rows are so much of the expression's: 0 is the person's row, 1 the expression's.

    Exact at 0 and 1; more than 1 exaggerates.
    """
    amounts = jnp.asarray(amounts)[:, :, None]
    return (1 - amounts) * person + amounts * expression


def mixed(person: Code, expression: Code, masks: Bool[np.ndarray, "count rows"]) -> Codes:
    """The codes of several masks."""
    return jnp.where(jnp.asarray(masks)[:, :, None], expression[None], person[None])
