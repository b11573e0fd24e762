"""Codes moved towards an expression: what falls, what stays, and that starts are on their own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax import losses
from fxjax.codes import invert, refine, whiten
from fxjax.nn.generator import Statistics
from fxjax.nn.layers import Average
from fxjax.nn.stylegan2 import StyleGAN2

SETTINGS = refine.Settings(steps=40, appearance=0.1, prior=0.01, pose=0.0, lead=0.0)


@pytest.fixture(scope="module")
def walk() -> whiten.Whitened:
    generator = StyleGAN2(32, (8, 8, 8, 8), dim=12, latent=12, mapping_layers=2, rngs=nnx.Rngs(0))
    statistics = Statistics(12)
    statistics.covariance[...] = jnp.diag(jnp.linspace(0.5, 1.5, 12))
    return whiten.Whitened(generator, statistics)


class Reader(nnx.Module):
    """Linear in the coarse picture, in place of the networks that read faces."""

    def __init__(self):
        self.points = Average(jax.random.normal(jax.random.key(3), (4 * 4 * 3, 136)))
        self.numbers = Average(jax.random.normal(jax.random.key(4), (136, 8)) / 136**0.5)

    def marks(self, images: Any) -> Any:
        """68 places."""
        coarse = losses.shrink(images, 4).reshape(len(images), -1)
        return (coarse @ self.points[...]).reshape(-1, 68, 2)

    def outputs(self, marks: Any) -> Any:
        """Six coefficients, yaw and pitch."""
        return marks.reshape(len(marks), -1) @ self.numbers[...]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(scope="module")
def aim(walk, reader) -> refine.Aim:
    """The expression that the drawing of another code has."""
    rows = len(walk.rows)
    own = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 1, 12)), rows, axis=1)
    other = own.at[:, 2:].add(0.7 * jax.random.normal(jax.random.key(1), (1, 1, 12)))
    pictures = invert.draw(walk, jnp.concatenate([own, other]), remat=False)
    marks = reader.marks(pictures)
    outputs, count = reader.outputs(marks), 6
    return refine.Aim(
        own,
        outputs[0],
        outputs[1, :count],
        jnp.ones(count),
        refine.anchored(marks)[1],
        1 / jnp.sum((refine.anchored(marks)[1] - refine.anchored(marks)[0]) ** 2),
        losses.Pixels().embed(pictures[:1]),
    )


def search(walk, reader, aim, starts: Any, **changes: Any) -> refine.Refined:
    settings = dataclasses.replace(SETTINGS, **changes)
    return refine.refine(walk, losses.Pixels(), reader, aim, starts, settings)


def test_the_expression_comes_nearer_and_only_free_rows_move(walk, reader, aim):
    found = search(walk, reader, aim, aim.own)
    assert found.figures[0, 0] < 0.7
    assert found.figures[0, 1] > 0
    moved = np.abs(np.asarray(found.codes - aim.own)).sum(axis=(0, 2)) > 0
    assert moved.tolist() == [2 <= row <= 7 for row in range(len(moved))]
    assert found.named()[0]["expression"] == pytest.approx(found.figures[0, 0])


def test_what_holds_the_person_holds(walk, reader, aim):
    free = search(walk, reader, aim, aim.own, appearance=0.0, prior=0.0)
    held = search(walk, reader, aim, aim.own, appearance=30.0, prior=0.0)
    near = search(walk, reader, aim, aim.own, appearance=0.0, prior=30.0)
    assert held.figures[0, 1] < 0.5 * free.figures[0, 1]
    assert near.figures[0, 3] < 0.5 * free.figures[0, 3]


def test_starts_are_on_their_own_and_the_best_is_first(walk, reader, aim):
    far = aim.own.at[:, 2:].add(0.5)
    both = search(walk, reader, aim, jnp.concatenate([far, aim.own]))
    alone = search(walk, reader, aim, aim.own)
    np.testing.assert_allclose(both.codes[1], alone.codes[0], atol=1e-3)
    np.testing.assert_allclose(both.figures[1], alone.figures[0], atol=1e-3)
    totals = both.figures @ [1, SETTINGS.appearance, SETTINGS.pose, SETTINGS.prior]
    assert both.order(SETTINGS).tolist() == np.argsort(totals).tolist()


def test_parts_of_a_search_are_the_whole(walk, reader, aim, monkeypatch):
    seen: list[float] = []
    settings = dataclasses.replace(SETTINGS, steps=12)
    pixels = losses.Pixels()
    whole = refine.refine(walk, pixels, reader, aim, aim.own, settings)
    monkeypatch.setattr(refine, "PART", 5)
    parts = refine.refine(walk, pixels, reader, aim, aim.own, settings, seen.append)
    np.testing.assert_allclose(parts.codes, whole.codes, atol=1e-5)
    assert seen == pytest.approx([5 / 12, 10 / 12, 1])


def test_the_mouths_places_lead(walk, reader, aim):
    """With the face model's places in the first half, the mouth ends nearer to them."""
    quiet = aim._replace(counts=jnp.zeros_like(aim.counts).at[0].set(1e-3))

    def away(lead: float) -> float:
        found = search(walk, reader, quiet, aim.own, lead=lead, appearance=0.0, steps=20)
        marks = reader.marks(invert.draw(walk, found.codes, remat=False))
        return float(jnp.sum((refine.anchored(marks)[0] - aim.marks) ** 2))

    assert away(5.0) < 0.8 * away(0.0)
