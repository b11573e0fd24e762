"""Products of float32 are float32 on every device: no program of a transfer leaves that open."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expressions import ASTRONAUT
from facemodels import save_models
from jax import lax

from fxjax import sharding
from fxjax.codes import invert, pivotal, search
from fxjax.engine import Engine
from fxjax.nn import ops
from fxjax.transfer_types import Settings

HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return Engine(folder / "model", folder / "vgg", Settings(steps=2))


def products(jaxpr: Any) -> Iterator[tuple[str, Any, Any]]:
    """The name, dtype and precision of every product in a traced program."""
    for equation in jaxpr.eqns:
        if "precision" in equation.params:
            kind = equation.invars[0].aval.dtype
            yield equation.primitive.name, kind, equation.params["precision"]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def check(traced: Any) -> None:
    found = list(products(traced.jaxpr.jaxpr))
    assert {name for name, *_ in found} == {"dot_general", "conv_general_dilated"}
    assert all(dtype == jnp.float32 for _, dtype, _ in found)
    assert {precision for *_, precision in found} == {HIGHEST}


@pytest.fixture(scope="module")
def codes(engine) -> Any:
    return invert.mean_codes(engine.generator, 2).at[1].add(0.5)


def test_inversion_and_tuning(engine, codes):
    goal = engine.loss.embed(engine.draw(codes))
    settings = invert.Settings(steps=2, pull=0.1)
    start = invert.mean_codes(engine.walk, 2)
    place = invert.begin(engine.walk, start, settings)
    check(invert.advance.trace(engine.walk, engine.loss, goal, start, place, settings, 2))
    settings = pivotal.Settings(steps=2)
    place = pivotal._begin(engine.generator, codes[:1], mesh=None)
    given = engine.generator, engine.loss, jax.tree.map(lambda a: a[:1], goal), codes[:1], None
    check(pivotal.advance.trace(*given, place, settings, 2))


def test_masks(engine, codes):
    """With features, Gram matrices, the landmarks' network and the reader of expressions."""
    (face,) = engine.locate(ASTRONAUT)
    mesh = sharding.mesh(jax.devices()[:1])
    case = engine.case(codes[0], codes[1], (face, face))
    options: Any = {"groups": engine.groups, "top": 0, "width": 4, "mesh": mesh}
    check(search.subtrees.trace(*case, np.zeros(1, np.int32), **options))


def test_what_is_asked_for_in_bfloat16_stays_so():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    for size in (1, 3):
        assert ops.conv(x, jnp.ones((size, size, 2, 3), jnp.bfloat16)).dtype == jnp.bfloat16
