"""Where landmarks go, for drawings and drivers whose landmarks are known."""

import cv2
import numpy as np
import pytest

from fxjax.faces import align, expression, goal

MOUTH = ("mouth",)


def _still(points: np.ndarray) -> np.ndarray:
    return np.stack([points, points])


def test_a_heads_move_is_no_expression(smiling):
    marks = np.stack([smiling, smiling + np.array([7, -3])])
    np.testing.assert_allclose(goal.drawn(marks, align.PARTS), 0, atol=1e-9)


def test_only_the_parts_move(smiling):
    rng = np.random.default_rng(0)
    marks = np.stack([smiling, smiling + rng.normal(size=(68, 2))])
    eyes = goal.drawn(marks, ("eyes",))
    assert eyes[36:48].all()
    assert not eyes[:27].any()
    assert not eyes[48:].any()
    mouth = goal.drawn(marks, MOUTH)
    assert mouth[48:].all()
    assert not mouth[17:27].any()
    assert not mouth[[0, 4, 12, 16]].any()  # the jaw's sides
    np.testing.assert_allclose(mouth[5] * 4, mouth[8])  # the chin's move, a quarter of it


def test_without_a_driver_the_drawing_says_all(smiling, straight):
    marks = np.stack([smiling, straight]) * 3  # a drawing of another size is the caller's business
    found = goal.goal(smiling * 3, marks, None, parts=MOUTH)
    np.testing.assert_allclose(found.new[48:], marks[1][48:], atol=1e-9)
    assert found.share == 1
    half = goal.goal(smiling * 3, marks, None, parts=MOUTH, amount=0.5)
    np.testing.assert_allclose(half.new[48:], (marks[0] + marks[1])[48:] / 2, atol=1e-9)


def test_alike_expressions_move_nothing(smiling, straight):
    marks = np.stack([smiling, straight])
    turned = smiling * 1.7 + [40, 9]
    found = goal.goal(smiling, marks, turned, parts=MOUTH)
    assert found.share == 0
    np.testing.assert_array_equal(found.new, smiling)
    none = goal.goal(straight, marks, smiling, parts=MOUTH, amount=0.0)
    np.testing.assert_array_equal(none.new, straight)


def test_a_driver_is_followed_even_if_nothing_is_drawn(smiling, straight):
    for own, theirs in ((straight, smiling), (smiling, straight)):
        found = goal.goal(own, _still(own), theirs * 2 + 5, parts=MOUTH)
        assert expression.gain(found.new, own, theirs) > 0.4
        assert not (found.new - own)[17:48].any()  # nor brows, nose, eyes
        assert not (found.new - own)[[0, 1, 15, 16]].any()


def test_the_drawings_move_gets_the_right_strength(smiling, straight):
    """Drawings that do not go all of the way, or too far, end at much the same place."""
    ends = []
    for share in (0.7, 1.3):
        marks = np.stack([straight, straight + share * (smiling - straight)])
        found = goal.goal(straight, marks, smiling, parts=MOUTH)
        ends.append(expression.gain(found.new, straight, smiling))
    assert min(ends) > 0.8
    assert max(ends) < 1.3


def test_a_shut_driver_shuts_the_mouth(smiling, straight):
    assert goal.gap(smiling) > 0.1
    assert goal.gap(straight) < 0.01
    found = goal.goal(smiling, _still(smiling), straight, parts=MOUTH)
    assert -goal.OVER - 0.01 < goal.gap(found.new) < 0
    brows = goal.goal(smiling, _still(smiling), straight, parts=("brows",))
    np.testing.assert_array_equal(brows.new[48:], smiling[48:])


def test_gaps_and_areas(smiling):
    """Against a polygon's area by OpenCV, for any place, size and turn."""
    eyes = np.linalg.norm(smiling[36:42].mean(0) - smiling[42:48].mean(0))
    area = cv2.contourArea(smiling[60:68].astype(np.float32)) / eyes**2
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    for points in (smiling, smiling @ turn.T * 3 + [5, 90]):
        assert goal.opening(points) == pytest.approx(area, rel=1e-5)
        assert goal.gap(points) == pytest.approx(goal.gap(smiling), rel=1e-6)
    for left in (0.05, 0.0, -0.04):
        assert goal.gap(goal.closed(smiling, left)) == pytest.approx(left, abs=1e-9)
    np.testing.assert_array_equal(goal.closed(smiling, 0.5), smiling)  # it only closes
    assert goal.opening(goal.closed(smiling, -0.1)) == 0


def test_a_chin_rises_no_farther_than_the_skin_below_it_stretches(smiling, straight):
    """And drops as far as it is drawn to."""
    eyes = align.eye_distance(smiling)
    for drop in (-0.5, 0.5):
        marks = np.stack([smiling, smiling])
        marks[1, 7:10, 1] += drop * eyes
        found = goal.goal(smiling, marks, straight, parts=MOUTH, carry=False)
        moved = (found.new - smiling)[8, 1] / eyes
        assert moved > 0.2 if drop > 0 else moved == pytest.approx(-goal.RISE, abs=0.02)


def _shouting(points: np.ndarray, wide: float) -> np.ndarray:
    """The lower lip so far down, in distances between the eyes; the jaw stays."""
    new = points.copy()
    new[[65, 66, 67, 55, 56, 57, 58, 59], 1] += wide * align.eye_distance(points)
    return new


@pytest.mark.parametrize("wide", [0.3, 0.5, 1.2])
def test_a_jaw_goes_down_with_the_lower_lip(straight, wide):
    """And a mouth opens no wider than mouths can, with the shape that it would have had."""
    driver = _shouting(straight, wide)
    marks = np.stack([straight, driver])
    found = goal.goal(straight, marks, driver, parts=MOUTH, carry=False)
    below = lambda points: points[8, 1] - points[[56, 57, 58], 1].mean()
    assert below(found.new) >= goal.CHIN * below(straight) - 0.2  # her head is tilted a little
    assert goal.gap(found.new) <= goal.WIDEST + 1e-6
    assert goal.gap(found.new) > min(0.2, wide / 2)
    np.testing.assert_array_equal(found.new[[0, 16]], straight[[0, 16]])


def test_a_mouth_gets_no_narrower_than_at_rest(smiling, straight):
    """Unless it was, or the driver's is: lips that are pursed."""
    middle = smiling[[48, 54]].mean(0)
    far = smiling.copy()
    far[48:] = middle + (smiling[48:] - middle) * np.array([0.5, 1])
    marks = np.stack([smiling, far])
    free = goal.goal(smiling, marks, None, parts=MOUTH)
    found = goal.goal(smiling, marks, straight, parts=MOUTH, carry=False)
    assert goal.width(free.new) < goal.NARROW - 0.1
    wide = min(goal.NARROW, goal.width(straight), goal.width(smiling))
    assert goal.width(found.new) == pytest.approx(wide, abs=0.01)
    pursed = straight.copy()
    pursed[48:] = middle + (straight[48:] - straight[[48, 54]].mean(0)) * np.array([0.5, 1])
    narrow = goal.goal(smiling, marks, pursed, parts=MOUTH, carry=False)
    assert goal.width(narrow.new) < wide - 0.05


def test_the_corners_of_a_mouth_droop_no_farther_than_one_of_the_two(smiling, straight):
    sad = smiling.copy()
    sad[[48, 54, 60, 64]] += np.array([0, 0.3 * align.eye_distance(smiling)])
    marks = np.stack([smiling, sad])
    assert goal.droop(goal.goal(smiling, marks, None, parts=MOUTH).new) > goal.droop(straight) + 0.1
    found = goal.goal(smiling, marks, straight, parts=MOUTH, carry=False)
    most = max(goal.droop(smiling), goal.droop(straight), goal.LEVEL)
    assert goal.droop(found.new) <= most + 1e-6


def test_lips_keep_their_area(smiling, straight):
    """Where a drawing has hardly any when a mouth closes; lips that are full are left alone."""
    thin = straight.copy()
    middle = straight[60:68].mean(0)
    thin[48:60] = middle + (thin[48:60] - middle) * np.array([1, 0.2])
    marks = np.stack([smiling, thin])
    area = lambda points: np.array(goal.lips(points)) * goal.width(points)
    free = goal.goal(smiling, marks, None, parts=MOUTH)
    assert (area(free.new) < 0.5 * area(smiling)).all()
    found = goal.goal(smiling, marks, thin, parts=MOUTH, carry=False)
    np.testing.assert_allclose(area(found.new), goal.FULL * area(smiling), rtol=0.02)
    full = straight.copy()
    full[48:60] = middle + (full[48:60] - middle) * np.array([1, 2.5])
    found = goal.goal(smiling, np.stack([smiling, full]), full, parts=MOUTH, carry=False)
    assert (area(found.new) > goal.FULL * area(smiling) + 0.01).all()


def test_of_lips_that_overlap_each_shows_its_part(straight):
    """They meet in the middle of what overlaps."""
    over = straight.copy()
    eyes = align.eye_distance(straight)
    over[[61, 62, 63], 1] += 0.02 * eyes
    over[[65, 66, 67], 1] -= 0.02 * eyes
    np.testing.assert_allclose(goal.lips(over), goal.lips(straight), atol=0.003)
