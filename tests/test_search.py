"""Searches against scoring every mask alone: devices, widths, stages, joint."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import spearmanr

from fxjax import losses, sharding
from fxjax import score as scoring
from fxjax.codes import mix, search
from fxjax.nn import generator as gen
from fxjax.nn.stylegan1 import StyleGAN1
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16

GROUPS = mix.free_rows(0, 5)
MASKS = mix.masks_of(GROUPS, 6, range(64))


draw = jax.jit(gen.synthesize)
score = jax.jit(scoring.score)


def network(kind: Any = StyleGAN2, seed: int = 0, size: int = 16) -> Any:
    widths = (8,) * (size.bit_length() - 2)
    return kind(size, widths, dim=12, latent=12, mapping_layers=2, rngs=nnx.Rngs(seed))


def judge_of(identity: float = 0.0) -> scoring.Judge:
    options = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0), "bgr": False}
    features = VGG16((8, 8), **options, rngs=nnx.Rngs(0))
    expression = losses.Sum(
        [losses.Pixels(), losses.Perceptual(features, ("block2_conv2",))], (1.0, 0.1)
    )
    appearance: Any = losses.Gram(features, ("block1_conv1", "block2_conv1"))
    if identity:
        around = losses.Perceptual(features, ("block2_conv2",))
        appearance = scoring.Balanced(
            [appearance, around], (1.0, identity), (1e-6, 1e-6), (False, True)
        )
    return scoring.Judge(expression, appearance)


def task(model: Any, judge: scoring.Judge, seed: int = 1) -> search.Case:
    """Two codes and their goals, with weights on the lower half."""
    rows, size = len(model.rows), model.resolution
    codes = jax.random.normal(jax.random.key(seed), (2, rows, 12))
    images = draw(model, codes)
    weights = jnp.ones((1, size, size)).at[:, size // 2 :].set(3.0)
    goals = scoring.goals(judge, images[:1], images[1:], weights)
    return search.Case(model, codes[0], codes[1], goals)


@pytest.fixture(scope="module")
def judge() -> scoring.Judge:
    return judge_of()


@pytest.fixture(scope="module", params=[StyleGAN1, StyleGAN2])
def case(request: pytest.FixtureRequest, judge: scoring.Judge) -> Any:
    return task(network(request.param), judge)


@pytest.fixture(scope="module")
def skip(judge: scoring.Judge) -> Any:
    """A case of the skip generator, for what has nothing to do with the family."""
    return task(network(), judge)


def alone(case: Any, groups: mix.Groups) -> np.ndarray:
    model, person, expression, goals = case
    rows = len(model.rows)
    masks = mix.masks_of(groups, rows, range(2 ** len(groups)))
    images = draw(model, mix.mixed(person, expression, masks))
    return np.asarray(score(goals, images))


@pytest.mark.parametrize("groups", [GROUPS, ((4, 5), (0, 2), (3,))])
def test_exhaustive_equals_every_mask_alone(case: Any, groups: mix.Groups) -> None:
    told = []
    found = search.exhaustive(case, groups=groups, progress=lambda *count: told.append(count))
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, alone(case, groups), rtol=1e-3, atol=1e-4)
    assert told[-1] == (2 ** len(groups), 2 ** len(groups))
    if groups == GROUPS:
        np.testing.assert_allclose(found[[0, -1]], [[1, 0], [0, 1]], rtol=1e-4, atol=1e-5)


def test_the_tree_is_exact_with_features_around_the_regions(case: Any) -> None:
    """Gram matrices and weighted features in one appearance: as each mask alone, and its ends."""
    model, person, expression, _ = case
    around = jnp.ones((1, 16, 16)).at[:, 8:].set(0.0)
    kept = search.case_of(model, person, expression, judge_of(identity=100.0), 1 - around, around)
    found = search.exhaustive(kept, groups=GROUPS)
    np.testing.assert_allclose(found, alone(kept, GROUPS), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[[0, -1]], [[1, 0], [0, 1]], rtol=1e-4, atol=1e-5)
    plain = search.exhaustive(case, groups=GROUPS)
    assert np.abs(found[1:-1, 1] - plain[1:-1, 1]).max() > 0.01


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 3, 4])
def test_devices_change_nothing(skip: Any, devices: int) -> None:
    """To rounding: each device has its own subtree, and nothing is said between them."""
    one = search.exhaustive(skip, groups=GROUPS, width=8)
    mesh, told = sharding.mesh(jax.devices()[:devices]), []
    many = search.exhaustive(
        skip, groups=GROUPS, width=8, mesh=mesh, progress=lambda *count: told.append(count)
    )
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)
    assert len(told) == -(-(2 ** (devices - 1).bit_length()) // devices)


def test_one_program_for_all_calls_and_pairs(judge: scoring.Judge) -> None:
    model = network(size=32)
    program: Any = search.subtrees
    before, told = program._cache_size(), []
    options: Any = {"groups": mix.free_rows(0, 7), "width": 16}
    mesh = sharding.mesh(jax.devices()[:2])
    for seed in (1, 2):
        case = task(model, judge, seed)
        found = search.exhaustive(
            case, **options, mesh=mesh, progress=lambda *count: told.append(count)
        )
        np.testing.assert_allclose(found[[0, -1]], [[1, 0], [0, 1]], rtol=1e-4, atol=1e-5)
    assert program._cache_size() == before + 1
    assert told == [(128, 256), (256, 256)] * 2


def test_calls() -> None:
    assert [search._top_bits(groups, 1, 16) for groups in (1, 6, 8, 12, 18)] == [0, 0, 2, 6, 12]
    assert [search._top_bits(groups, 1, 256) for groups in (1, 10, 12, 18)] == [0, 0, 2, 8]
    assert [search._top_bits(groups, 8, 16) for groups in (1, 8, 12, 18)] == [1, 3, 6, 12]


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_devices_share_nothing_but_the_scores(skip: Any, devices: int) -> None:
    """One collective in the compiled search, which gathers every device's scores."""
    mesh = sharding.mesh(jax.devices()[:devices])
    given = sharding.replicate(skip, mesh)
    options: Any = {"groups": GROUPS, "top": 2, "width": 4, "mesh": mesh}
    program: Any = search.subtrees
    lanes = sharding.split_batch(np.arange(devices, dtype=np.int32), mesh)
    text = program.lower(*given, lanes, **options).compile().as_text()
    found = re.findall(r"= (\S+) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", text)
    gather = [(shape.split("{")[0], name) for shape, name in found]
    assert gather == ([(f"f32[{devices},16,2]", "all-gather")] if devices > 1 else [])


def test_width_follows_the_free_memory(skip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, *_, goals = skip
    assert search.fitting_width(model, goals) == search.MOST["cpu"]
    code = jax.ShapeDtypeStruct((16, 6, 12), jnp.float32)
    need = search.widest(search._draw_and_score.trace(model, goals, code).jaxpr) / 16
    assert need >= 16 * 16 * 8 * 4 * 2  # features of the largest size, in and out
    memory = need * search.COPIES * 5 / search.SHARE
    monkeypatch.setattr(search, "free_memory", lambda device, devices: memory)
    assert search.fitting_width(model, goals) == 4
    monkeypatch.setattr(search, "free_memory", lambda device, devices: 1)
    assert search.fitting_width(model, goals) == 2


def full(function: Any, width: Any) -> Any:
    """A program that finds memory for up to 4 pictures at once."""

    def limited(*given: Any, **named: Any) -> Any:
        if width(*given, **named) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return function(*given, **named)

    return limited


def test_half_as_many_pictures_where_memory_ends(skip: Any, monkeypatch: Any) -> None:
    whole = search.exhaustive(skip, groups=GROUPS, width=16)
    again = search.rescore(skip, MASKS[:11], width=16)
    tree = full(search.subtrees, lambda *_, width, **__: width)
    monkeypatch.setattr(search, "subtrees", tree)
    monkeypatch.setattr(
        search, "_score_amounts", full(search._score_amounts, lambda _, amounts: len(amounts))
    )
    found = search.exhaustive(skip, groups=GROUPS, width=16)
    np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(search.rescore(skip, MASKS[:11], width=16), again, atol=1e-4)
    monkeypatch.setattr(search, "subtrees", full(tree, lambda *_, **__: 5))
    with pytest.raises(ValueError, match="not even 2 pictures to score at once fit"):
        search.exhaustive(skip, groups=GROUPS, width=16)


def test_the_hosts_memory_is_not_an_accelerators() -> None:
    quiet = SimpleNamespace(memory_stats=lambda: None, platform="tpu")
    assert sharding.free_memory(quiet, 1) == sharding.UNKNOWN
    told = {"bytes_limit": 80 << 30, "bytes_in_use": 1 << 30}
    said = SimpleNamespace(memory_stats=lambda: told, platform="gpu")
    assert sharding.free_memory(said, 8) == 79 << 30
    host = SimpleNamespace(memory_stats=lambda: None, platform="cpu")
    one, four = (sharding.free_memory(host, devices) for devices in (1, 4))
    assert one == pytest.approx(4 * four, rel=0.2)  # others take memory meanwhile


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(case: Any, platform: str) -> None:
    """The whole program, with nothing that calls back to the host and no grouped convolution."""
    mesh = sharding.mesh(jax.devices()[:2])
    given = sharding.replicate(case, mesh)
    options: Any = {"groups": GROUPS, "top": 1, "width": 4, "mesh": mesh}
    program: Any = search.subtrees
    traced = program.trace(*given, jnp.arange(2, dtype=jnp.int32), **options)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}


def test_rescoring(skip: Any) -> None:
    found = search.rescore(skip, amounts=MASKS[:11], width=4)
    np.testing.assert_allclose(found, alone(skip, GROUPS)[:11], rtol=1e-3, atol=1e-4)
    assert search.rescore(skip, amounts=MASKS[:0], width=4).shape == (0, 2)


@pytest.mark.parametrize("options", [{"size": 8}, {"readout": 16, "size": 16}])
def test_stages(judge: scoring.Judge, options: Any) -> None:
    model = network(size=32)
    _, person, expression, _ = task(model, judge)
    images = draw(model, jnp.stack([person, expression]))
    goals = scoring.goals(judge, images[:1], images[1:])
    rough = search.case_of(model, person, expression, judge, **options)
    scores = search.exhaustive(rough, groups=GROUPS)
    fine = search.Case(model, person, expression, goals)
    found = search.refine(fine, scores, groups=GROUPS, weight=0.5, count=12)
    exact = search.exhaustive(fine, groups=GROUPS)
    assert not np.allclose(scores, exact, atol=1e-2)  # approximate
    np.testing.assert_allclose(scores[0], [1, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores, exact[found.numbers], rtol=1e-3, atol=1e-4)
    values = search.total(found.scores, 0.5)
    assert bool(np.all(np.diff(values) >= 0))
    first = np.argsort(search.total(scores, 0.5), kind="stable")[:12]
    assert set(first) == set(found.numbers)
    wanted: Any = spearmanr(search.total(scores[found.numbers], 0.5), values)
    assert found.agreement == pytest.approx(wanted.statistic, abs=1e-6)


def test_a_readout_has_no_later_rows(judge: scoring.Judge) -> None:
    model = network(size=32)
    _, person, expression, _ = task(model, judge)
    rough = search.case_of(model, person, expression, judge, readout=16)
    with pytest.raises(ValueError, match="rows from 0 to 5"):
        search.exhaustive(rough, groups=((6,),))


def test_joint_moves_towards_both(skip: Any) -> None:
    model, person, _, goals = skip
    code = search.joint(skip, weight=0.5, steps=40)
    assert code.shape == person.shape
    images = draw(model, jnp.stack([person, code]))
    before, after = search.total(np.asarray(score(goals, images)), 0.5)
    assert before == pytest.approx(1, rel=1e-4)
    assert after < 0.9
