"""Transfers on a real photo with a tiny random generator: what is chosen, and what changes."""

import concurrent.futures
import dataclasses
import io
import re
from types import SimpleNamespace
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from expressions import ASTRONAUT, closed
from facemodels import save_models
from PIL import Image
from scipy.stats import spearmanr

from fxjax import assess, images, transfer_report
from fxjax.codes import search
from fxjax.codes.mix import mixed
from fxjax.engine import Engine
from fxjax.faces import align
from fxjax.images import load_image, save_image
from fxjax.nn.generator import synthesize
from fxjax.transfer_types import Settings


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(scope="module")
def engine(models) -> Engine:
    return Engine(
        models / "model",
        models / "vgg",
        # as the commands' tests have it, which makes for one program of all
        Settings(steps=10, tuning=0, weight=0.1, refine=3),
    )


def variant(engine: Engine, models, **changes: Any) -> Engine:
    settings = dataclasses.replace(engine.settings, **changes)
    return Engine(models / "model", models / "vgg", settings, detector=engine.detector)


@pytest.fixture(scope="module")
def driver() -> np.ndarray:
    """The same face with closed lips, mirrored and darker: another picture, of another size."""
    return (closed()[:300, ::-1] * 0.7).astype(np.uint8)


@pytest.fixture(scope="module")
def result(engine, driver):
    (found,) = engine(ASTRONAUT, driver)
    return found


def test_all_masks_are_ranked_and_the_best_is_applied(engine, result):
    ranked = result.ranked
    assert ranked is not None
    assert ranked.masks.shape == (256, 8)
    assert len(np.unique(ranked.masks, axis=0)) == 256
    assert (np.diff(ranked.score) >= 0).all()
    np.testing.assert_array_equal(result.mask, ranked.masks[0])
    sums = ranked.expression + engine.settings.weight * ranked.appearance
    np.testing.assert_allclose(ranked.score, sums, rtol=1e-5)
    none, everything = ~ranked.masks.any(axis=1), ranked.masks.all(axis=1)
    # within rounding: the sum of two or four float32 parts, normalised in another program
    assert ranked.expression[none] == pytest.approx(1, abs=3e-5)
    assert ranked.appearance[none] == pytest.approx(0, abs=1e-5)
    assert ranked.expression[everything] == pytest.approx(0, abs=1e-5)
    assert ranked.appearance[everything] == pytest.approx(1, abs=3e-5)
    assert ranked.front[0]  # what no other beats in the sum, none beats in both
    own, other, _, _ = jnp.asarray(result.codes)
    wanted = mixed(own, other, result.mask[None])[0]
    np.testing.assert_allclose(result.codes[2], wanted, atol=1e-6)


def test_only_the_face_changes(result):
    assert result.image.shape == ASTRONAUT.shape
    place = result.person.crop.photo_from_crop
    corners = align.corners(place, len(result.person.crop.image)).round().astype(np.int32)
    reach = 4 * int(np.ptp(corners[:, 0])) // 32  # of the kernel that enlarges the crop
    inside = cv2.fillConvexPoly(np.zeros((512, 512), np.uint8), corners, (1,))
    inside = cv2.dilate(inside, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    assert (result.image != ASTRONAUT).any()
    np.testing.assert_array_equal(result.image[~inside], ASTRONAUT[~inside])
    face = align.region_masks(result.person.landmarks, 512, feather=0.1).face > 0
    away = np.abs(result.image.astype(int) - ASTRONAUT)
    assert away[inside & ~face].mean() < 0.1 * away[face].mean()


def test_the_same_photo_twice_gives_it_back(engine):
    (same,) = engine(ASTRONAUT, ASTRONAUT)
    assert same.alike
    assert same.ranked is None
    np.testing.assert_array_equal(same.image, ASTRONAUT)


def test_a_given_mask_skips_the_search(engine, models, driver, result):
    mask = tuple(bool(bit) for bit in result.mask)
    (found,) = variant(engine, models, mask=mask)(ASTRONAUT, driver)
    assert found.ranked is None
    np.testing.assert_array_equal(found.image, result.image)
    with pytest.raises(ValueError, match="a mask of 3 bits: this model has 8 rows"):
        variant(engine, models, mask=(True, False, True))


def test_a_mask_that_is_given_goes_before_that_of_the_settings(engine, models, result):
    other = variant(engine, models, mask=(True,) * 8, refine=0)
    mask = ~result.mask
    found = other.pair(result.person, result.driver, jnp.asarray(result.codes[:2]), mask=mask)
    np.testing.assert_array_equal(found.mask, mask)
    own, driver = jnp.asarray(result.codes[:2])
    np.testing.assert_allclose(found.codes[2], mixed(own, driver, mask[None])[0], atol=1e-6)


def test_each_step_has_its_own_time(engine, result, monkeypatch):
    clock = [0.0]

    def spend(name: str, seconds: float) -> None:
        step = getattr(engine, name)
        taken = lambda *given, **named: clock.append(clock[-1] + seconds) or step(*given, **named)
        monkeypatch.setattr(engine, name, taken)

    monkeypatch.setattr("fxjax.engine.time", SimpleNamespace(monotonic=lambda: clock[-1]))
    for name, seconds in {"tuned": 1000, "rank": 100, "refined": 10, "verdict": 1}.items():
        spend(name, seconds)
    found = engine.pair(result.person, result.driver, jnp.asarray(result.codes[:2]))
    looks = found.seconds.pop("put back")
    assert found.seconds == {"tuning": 1000, "masks": 100, "refinement": 10}
    assert 1 <= looks <= 4  # of each try


def test_codes_are_drawn_once_and_faces_looked_at_once(engine, result, monkeypatch):
    drawn, looked = [], []
    draw, look = engine.draw, engine._looked
    monkeypatch.setattr(engine, "draw", lambda *a: drawn.extend(np.asarray(a[0])) or draw(*a))
    monkeypatch.setattr(engine, "_looked", lambda face: looked.append(face) or look(face))
    person = dataclasses.replace(result.person)
    engine.check_seen([person], [result.driver])
    engine.pair(person, result.driver, jnp.asarray(result.codes[:2]), mask=np.arange(8) > 3)
    assert looked == [person]
    codes = [tuple(code.ravel()) for code in drawn]
    assert codes.pop(2) == codes[0]  # what refinement starts from
    assert len(set(codes)) == len(codes) == 5  # person, mixture, two refined, driver


def test_strength_goes_from_nothing_to_beyond(engine, models, driver, result):
    mask = tuple(bool(bit) for bit in result.mask)
    (none,) = variant(engine, models, mask=mask, strength=0.0)(ASTRONAUT, driver)
    np.testing.assert_array_equal(none.image, ASTRONAUT)
    (more,) = variant(engine, models, mask=mask, strength=1.5)(ASTRONAUT, driver)
    step = np.abs(result.codes[2] - result.codes[0]).sum()
    assert np.abs(more.codes[2] - more.codes[0]).sum() == pytest.approx(1.5 * step, rel=1e-4)


def test_tuned_weights_draw_the_person_better(engine, models, result):
    code = jnp.asarray(result.codes[0])
    goal = engine.loss.embed(jnp.asarray(result.person.crop.image[None]))

    def error(steps: int) -> float:
        generator = variant(engine, models, tuning=steps).tuned(result.person, code)
        drawn = engine.loss.embed(synthesize(generator, code[None]))
        return float(engine.loss.distance(drawn, goal)[0])

    assert error(60) < 0.9 * error(0)


def test_the_pose_can_be_kept(engine, models, driver):
    (found,) = variant(engine, models, keep_pose=True)(ASTRONAUT, driver)
    assert found.ranked is not None
    assert len(found.ranked.masks) == 32
    assert not found.ranked.masks[:, :3].any()


def test_masks_scored_small_are_scored_again_in_full(engine, models, result):
    small = variant(engine, models, score_size=8)
    own, other, _, _ = jnp.asarray(result.codes)
    ranked = small.rank(own, other, (result.person, result.driver))
    assert ranked is not None
    assert ranked.exact == 64
    full = {tuple(mask): i for i, mask in enumerate(result.ranked.masks)}
    places = [full[tuple(mask)] for mask in ranked.masks[:64]]
    np.testing.assert_allclose(ranked.score[:64], result.ranked.score[places], rtol=1e-4)
    assert (np.diff(ranked.score[:64]) >= 0).all()
    assert abs(ranked.score[64:] - result.ranked.score[-192:]).max() > 1e-3  # those are not


def test_a_readout_ranks_early_rows_and_scores_the_best_in_full(engine, models, result):
    early = variant(engine, models, readout=16)
    own, other, _, _ = jnp.asarray(result.codes)
    ranked = early.rank(own, other, (result.person, result.driver))
    assert ranked is not None
    assert ranked.masks.shape == (64, 8)
    assert not ranked.masks[:, 6:].any()  # rows that a picture of 16 px does not have
    assert ranked.exact == 64
    full = {tuple(mask): i for i, mask in enumerate(result.ranked.masks)}
    places = [full[tuple(mask)] for mask in ranked.masks]
    np.testing.assert_allclose(ranked.score, result.ranked.score[places], rtol=1e-4)
    found = early.scores(own, other, (result.person, result.driver))
    assert found is not None
    before = search.total(found, early.settings.weight)[
        ranked.masks[:, :6] @ 2 ** np.arange(6)[::-1]
    ]
    wanted: Any = spearmanr(before, ranked.score)
    assert ranked.agreement == pytest.approx(wanted.statistic, abs=1e-6)
    assert np.isnan(result.ranked.agreement)
    for changes, message in (
        ({"score_size": 5}, "a score size of 5 px: pictures of 32 px are averaged to a half"),
        ({"readout": 64}, "this is a 32 px generator, not of 64 px"),
        ({"readout": 16, "rows": ((6,),)}, "want rows from 0 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            variant(engine, models, **changes)


def test_a_photo_without_a_face_is_named(engine, tmp_path):
    save_image(tmp_path / "wall.png", np.full((200, 300, 3), 120, np.uint8))
    with pytest.raises(ValueError, match=r"wall\.png: no face was found"):
        engine(tmp_path / "wall.png", ASTRONAUT)
    with pytest.raises(ValueError, match="choose one"):
        engine(ASTRONAUT, two_faces(), driver_face="all")


def two_faces() -> np.ndarray:
    return np.concatenate([ASTRONAUT, ASTRONAUT[:, ::-1]], axis=1)


def test_all_faces_of_a_photo_change_together(engine, driver):
    photo = two_faces()
    first, last = engine(photo, (driver * 0.6).astype(np.uint8), face="all")
    changed = (last.image != photo).any(axis=(0, 2))
    assert changed[:512].any()
    assert changed[512:].any()
    assert not (first.image != photo).any(axis=(0, 2))[512:].any()
    np.testing.assert_array_equal(last.person.photo, first.image)
    assert not [word for word in last.warnings.words if "was taken" in word]


def test_of_several_faces_a_covered_one_stays(engine, driver):
    photo = two_faces()
    first, second = engine.locate(photo, "all")
    middle = np.rint(first.landmarks[48:].mean(0)).astype(int).tolist()
    cv2.ellipse(photo, middle, (39, 22), 0, 0, 360, (120, 170, 200), -1)
    assert len(engine.locate(photo, "all")) == 2
    driver = (driver * 0.6).astype(np.uint8)
    first, second = engine(photo, driver, face="all")
    assert first.hidden
    assert first.kept == "the mouth of this face seems to be covered: it was left as it is"
    np.testing.assert_array_equal(first.image, photo)
    assert not second.kept
    changed = (second.image != photo).any(axis=(0, 2))
    assert changed[512:].any()
    assert not changed[:512].any()
    with pytest.raises(ValueError, match="the mouth of the face that changes seems to be covered"):
        engine(photo, driver, face="0")
    with pytest.raises(ValueError, match="the mouth of the driver seems to be covered"):
        engine(ASTRONAUT, photo, driver_face="0")


@pytest.mark.slow
def test_threads_share_an_engine(engine, driver, result):
    """dlib's networks end the process if two threads are in one of them."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: engine(ASTRONAUT, driver)[0], range(4)))
    for each in found:
        np.testing.assert_array_equal(each.person.landmarks, result.person.landmarks)
        np.testing.assert_array_equal(each.image, found[0].image)


def test_a_gray_photo_stays_gray(engine, models, driver, result):
    gray = images.gray(ASTRONAUT)
    (found,) = variant(engine, models, mask=(True,) * 8)(gray, driver)
    assert (found.image != gray).any()
    assert images.is_gray(found.image)
    assert not images.is_gray(result.image)


def test_faces_do_not_depend_on_how_many_are_inverted_at_once(engine, models, result, monkeypatch):
    # Adam's first steps are signs: where a gradient is 0 but for rounding, either is right.
    engine = variant(engine, models, steps=5, rate=1e-3)
    faces, seen = [result.person, result.driver, result.person], []
    together = engine.encode(faces)
    monkeypatch.setattr("fxjax.coding.AT_ONCE", 2 * engine.resolution**2)
    parts = engine.encode(faces, progress=lambda _, share: seen.append(share))
    np.testing.assert_allclose(parts.code, together.code, atol=2e-3)
    np.testing.assert_allclose(parts.losses, together.losses, rtol=1e-3)
    assert (np.diff(seen) > 0).all()
    assert seen[-1] == 1
    whole = np.asarray(engine.draw(together.code))
    monkeypatch.setattr("fxjax.coding.AT_ONCE", 1)
    np.testing.assert_allclose(engine.draw(together.code), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0: want 1 or more"),
        ({"refine": -1}, r"refine=-1: want 0 \(none\) or more"),
        ({"rate": 0.0}, "rate=0.0: want a learning rate above 0"),
        ({"weight": np.nan}, "weight=nan: want 0 or more"),
        ({"strength": 1.6}, r"strength=1.6: want 0 \(none\) to 1.5"),
        ({"parts": ("nose",)}, "want some of eyes, brows, mouth"),
    ],
)
def test_settings_check_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_a_result_shows_itself(result):
    assert re.fullmatch(r"<Transfer 512x512: \w[\w ]+: [^\n]+>", repr(result))
    picture = Image.open(io.BytesIO(result._repr_png_()))
    assert picture.size[1] == 384


def test_row_effects_against_their_definition(result):
    ranked = result.ranked
    effects = transfer_report.row_effects(ranked)
    taken = ranked.masks[:, 5]
    wanted = ranked.appearance[taken].mean() - ranked.appearance[~taken].mean()
    assert effects[5, 1] == pytest.approx(wanted, rel=1e-5)


def test_the_judges_know_the_copy_from_the_driver(engine, models, result):
    judges = assess.Judges(engine.detector)
    short = variant(engine, models, steps=40)
    rows = {row.name: row for row in assess.table(short, judges, result, joint=True)}
    best, drawn = result.ranked, rows.get("mixture, not refined", rows["result"])
    assert drawn.expression_loss == pytest.approx(best.expression[0], rel=1e-4, abs=1e-6)
    assert drawn.appearance_loss == pytest.approx(best.appearance[0], rel=1e-4)
    free = rows["joint optimisation"]
    assert (free.photo != ASTRONAUT).any()
    assert free.expression_loss + free.appearance_loss < 1  # which is the person's
    assert np.isnan(rows["pasted mouth"].expression_loss)
    own = rows["copy of the first"]
    assert own.gain == 0
    assert rows["result"].gain > 0.3
    assert own.to_person == 0
    assert own.outside == np.inf
    assert {"result", "pasted whole face", "pasted mouth", "pasted lower face"} <= rows.keys()
    assert rows["pasted whole face"].to_driver < rows["pasted whole face"].to_person + 0.3


def test_saved_pictures_say_that_they_are_edited(tmp_path):
    for name in ("a.png", "a.jpg"):
        save_image(tmp_path / name, ASTRONAUT, note="Edited: test")
        with Image.open(tmp_path / name) as picture:
            assert picture.getexif()[270] == "Edited: test"
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), ASTRONAUT)
