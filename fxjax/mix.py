"""Mixing two W+ codes row by row, and scoring every way to do it (arXiv:1912.06253, step 3).

A mask has a bit for each free group of rows: 1 takes those rows from the expression code, 0 from
the person's (the paper's alpha is 1 - bit). Rows are applied in order, so masks that agree so far
share the work: the search walks a prefix tree whose leaves are the pictures of all masks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fxjax.nn.generator import Generator, State
from fxjax.types import Code, Codes, Images

Groups = tuple[tuple[int, ...], ...]
"""Free rows: each group shares one bit. Rows in no group come from the person's code."""

Score = Callable[[Any, Images], Float[Array, "batch scores"]]
"""Scores pictures; the first argument is what else it needs (a pytree, passed through jit)."""


class Ranking(NamedTuple):
    """The best masks, best first, over all rows, and the numbers they were ranked by."""

    masks: Bool[np.ndarray, "count rows"]
    scores: Float[np.ndarray, " count"]


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


def score_masks(
    generator: Generator,
    person: Code,
    expression: Code,
    score: Score,
    given: Any,
    *,
    groups: Groups,
    width: int = 64,
) -> Float[Array, "masks scores"]:
    """Scores the pictures of all 2**len(groups) masks, in the order of `masks_of`.

    At most `width` states (a power of two) exist at once on a level: the tree grows breadth first
    up to that, then each of its states is expanded on its own, one after the other, within one
    program. Exact: equal to scoring each mask alone, to rounding. Call it inside `jax.jit`.
    """
    rows = len(generator.rows)
    check_groups(groups, rows)
    if width < 2 or width & (width - 1):
        raise ValueError(f"width {width}: want a power of two, 2 or more")
    group_of = {row: place for place, group in enumerate(groups) for row in group}
    order = sorted(range(len(groups)), key=lambda place: min(groups[place]))
    born = {place: depth for depth, place in enumerate(order)}  # when a group's bit is decided

    def grow(state: State, taken: Int[Array, " n"], depth: int, k: int) -> tuple[State, Array, int]:
        """Runs row k; twice as many states if its group's bit was open."""
        place = group_of.get(k)
        if place is None:
            styles = jnp.broadcast_to(person[k], (taken.shape[0], person.shape[1]))
            return generator.rows[k](state, styles), taken, depth
        if born[place] == depth:
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
            opens = k in group_of and born[group_of[k]] == depth
            if opens and 2 * taken.shape[0] > width:
                break
            state, taken, depth = grow(state, taken, depth, k)
            k += 1
        if k == rows:
            return score(given, generator.image(state))

        def branch(one: tuple[State, Array]) -> Float[Array, "leaves scores"]:
            state, taken = jax.tree.map(lambda a: a[None], one)
            return expand(state, taken, depth, k)

        found = jax.lax.map(branch, (state, taken))
        return found.reshape(-1, found.shape[-1])

    found = expand(generator.start(1), jnp.zeros((1,), jnp.int32), 0, 0)
    # Leaves come in the order in which bits were decided; `masks_of` counts by group.
    numbers = np.arange(2 ** len(groups))
    leaf = np.zeros_like(numbers)
    for place, depth in born.items():
        bit = (numbers >> (len(groups) - 1 - place)) & 1
        leaf |= bit << (len(groups) - 1 - depth)
    return found[leaf]


def best(scores: Float[np.ndarray, " masks"], groups: Groups, rows: int, count: int) -> Ranking:
    """The `count` masks of the least score, best first; equal ones by number."""
    chosen = np.argsort(np.asarray(scores), kind="stable")[:count]
    return Ranking(masks_of(groups, rows, chosen.tolist()), np.asarray(scores)[chosen])


def pareto(scores: Float[np.ndarray, "masks 2"]) -> Bool[np.ndarray, " masks"]:
    """Which masks no other beats in one number without losing in the other (less is better)."""
    scores = np.asarray(scores)
    order = np.lexsort((scores[:, 1], scores[:, 0]))
    front = np.zeros(len(scores), bool)
    least = np.inf
    for i in order:
        if scores[i, 1] < least:
            front[i], least = True, scores[i, 1]
    return front


def blended(person: Code, expression: Code, mask: Bool[Array, " rows"], strength: float) -> Code:
    """The masked rows moved by `strength` (0 to 1.5) from the person's towards the expression's."""
    weight = jnp.where(jnp.asarray(mask), strength, 0.0)[:, None]
    return person + weight * (expression - person)


def mixed(person: Code, expression: Code, masks: Bool[np.ndarray, "count rows"]) -> Codes:
    """The codes of several masks."""
    return jnp.where(jnp.asarray(masks)[:, :, None], expression[None], person[None])
