"""Splines, flows and the slit of a mouth, against affine maps and slow twins."""

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax.faces import align, folds, goal, move
from fxjax.faces.detect import Detector

SIZE = 256


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """A face's landmarks in its crop."""
    landmarks = Detector()(skimage.data.astronaut())[0].landmarks
    return align.transform(np.linalg.inv(align.ffhq_square(landmarks, SIZE)), landmarks)


def _grid(size: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(float)


@pytest.mark.parametrize("size", [64, 256, 600])
def test_an_affine_map_is_reproduced(points, size):
    sources = (points + 0.5) * size / SIZE - 0.5
    turn = np.array([[1.1, 0.2], [-0.15, 0.9]])
    values = sources @ turn.T + [3, -5]
    found = move.spline(sources, values, size, smoothing=10.0)
    inner = np.s_[
        size // 16 : -size // 16, size // 16 : -size // 16
    ]  # the grid ends before the edge
    wanted = _grid(size) @ turn.T + [3, -5]
    np.testing.assert_allclose(found[inner], wanted[inner], atol=0.01)


def test_landmarks_arrive(points):
    """A smile: at each new place of a lip lies what was at its old place."""
    new = points.copy()
    new[[48, 54, 60, 64]] += [[-6, -5], [6, -5], [-5, -4], [5, -4]]
    face = move.outline(points, new, SIZE)
    flow = move.flow(points, new, face)
    both = np.where(flow.side[..., None] > 0.5, flow.below, flow.above)
    for number in range(48, 60):
        x, y = np.rint(new[number]).astype(int)
        np.testing.assert_allclose(both[y, x], (new - points)[number], atol=1.0)
    assert not both[face == 0].any()
    assert not both[[0, -1]].any()
    assert (
        np.abs(both[np.rint(points[30, 1]).astype(int), np.rint(points[30, 0]).astype(int)]).max()
        < 0.5
    )


def test_nothing_flows_where_all_stay(points):
    flow = move.flow(points, points.copy(), move.outline(points, points, SIZE))
    assert not any(part.any() for part in flow)


def test_each_side_of_a_closing_mouth_keeps_its_own_lip(points):
    """After a mouth closes no white of its teeth is left, which a single spline would leave."""
    opened = points.copy()
    opened[65:68, 1] += 14
    opened[55:60, 1] += 14
    teeth = np.zeros((SIZE, SIZE), np.float32)
    cv2.fillPoly(teeth, [np.rint(opened[60:68]).astype(np.int32)], (1.0,))
    shut = goal.closed(opened, -0.06)
    face = move.outline(opened, shut, SIZE)
    flow = move.flow(opened, shut, face)
    place = _grid(SIZE).astype(np.float32)
    above, below = (move.seen(teeth[..., None], place - part) for part in (flow.above, flow.below))
    left = above.reshape(SIZE, SIZE) * (1 - flow.side) + below.reshape(SIZE, SIZE) * flow.side
    middle = np.rint((shut[62] + shut[66]) / 2).astype(int)
    column = left[middle[1] - 12 : middle[1] + 13, middle[0]]
    assert teeth.sum() > 300
    assert column.max() < 0.05


def test_corners_of_a_closing_mouth_keep_no_teeth(points):
    """The lower lip's edge is round: between two landmarks there are teeth below the chord."""
    opened = points.copy()
    opened[65:68, 1] += 14
    opened[55:60, 1] += 14
    teeth = np.zeros((SIZE, SIZE), np.float32)
    rounds = [np.array(move._bowed(opened, *corner)) for corner in move._LOWER_CORNERS]
    edge = np.concatenate([opened[60:65], [rounds[1]], opened[65:68], [rounds[0]]])
    cv2.fillPoly(teeth, [np.rint(edge).astype(np.int32)], (1.0,))
    shut = goal.closed(opened, -0.06)
    flow = move.flow(opened, shut, move.outline(opened, shut, SIZE))
    place = _grid(SIZE).astype(np.float32)
    below = move.seen(teeth[..., None], place - flow.below).reshape(SIZE, SIZE) * flow.side
    assert rounds[0][1] > (opened[60] + opened[67])[1] / 2 + 1  # it bows
    for one, other in ((60, 67), (64, 65)):
        x, y = np.rint((shut[one] + shut[other]) / 2).astype(int)
        assert below[y + 2 : y + 12, x].max() < 0.05


def test_the_slit_by_hand():
    points = np.zeros((68, 2))
    points[48], points[54], points[60], points[64] = [20, 40], [60, 40], [22, 40], [58, 40]
    points[[61, 62, 63]] = [[30, 38], [40, 36], [50, 38]]
    points[[67, 66, 65]] = [[30, 42], [40, 48], [50, 42]]
    below, beside = move.slit(points, 80)
    assert below[42, 40] == pytest.approx(0, abs=1e-5)  # between 36 and 48
    assert below[50, 30] == pytest.approx(10, abs=1e-5)
    assert below[30, 5] == pytest.approx(-10, abs=1e-5)
    assert beside[10, 40] == 0
    assert beside[10, 5] == pytest.approx(15)
    assert beside[70, 70] == pytest.approx(10)


def test_seen_is_a_bicubic_look(points):
    """Against a slow twin, at places on OpenCV's grid of 1/32 pixel."""
    rng = np.random.default_rng(0)
    picture = rng.uniform(size=(12, 14, 2)).astype(np.float32)
    place = (rng.integers(3 * 32, 8 * 32, (5, 5, 2)) / 32).astype(np.float32)

    def weight(t: float) -> float:
        a, t = -0.75, abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    found = move.seen(picture, place)
    for i in range(5):
        for j in range(5):
            x, y = place[i, j]
            wanted = np.zeros(2)
            for v in range(int(y) - 1, int(y) + 3):
                for u in range(int(x) - 1, int(x) + 3):
                    wanted += weight(x - u) * weight(y - v) * picture[v, u]
            np.testing.assert_allclose(found[i, j], wanted, atol=1e-4)
    whole = _grid(10).astype(np.float32)
    np.testing.assert_array_equal(move.seen(picture[:10, :10], whole), picture[:10, :10])


def _drawing(points: np.ndarray, level: float = 0.0) -> np.ndarray:
    """Gray skin with a dark mouth, 128 px."""
    picture = np.full((SIZE, SIZE, 3), level, np.float32)
    cv2.fillPoly(picture, [np.rint(points[48:60]).astype(np.int32)], (-0.5, -0.5, -0.5))
    return cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)


def test_folds_are_what_drawings_differ_by(points):
    face = move.outline(points, points, SIZE)
    marks, parts = np.stack([points, points]), ("mouth",)
    plain = _drawing(points)
    same = folds.folds(plain, plain, marks, points, points, face, parts).factor
    np.testing.assert_array_equal(same, np.ones((SIZE, SIZE), np.float32))

    fold = np.rint((points[33] + points[48]) / 2).astype(int) - np.array([12, 0])
    reach, creased = np.array([0, 8]), cv2.resize(plain, (SIZE, SIZE))
    cv2.line(creased, (fold - reach).tolist(), (fold + reach).tolist(), (-0.4,) * 3, 3)
    creased = cv2.resize(creased, (128, 128), interpolation=cv2.INTER_AREA)
    found = folds.folds(plain, creased, marks, points, points, face, parts).factor
    assert found[fold[1], fold[0]] < 0.9
    assert (
        np.abs(found[points[19:25, 1].astype(int), points[19:25, 0].astype(int)] - 1).max() < 0.01
    )
    assert (found[face == 0] == 1).all()

    brighter = folds.folds(plain, _drawing(points, 0.2), marks, points, points, face, parts).factor
    bare = face * (1 - align.union([align.region_masks(points, SIZE, margin=0.06)]))
    assert np.average(np.abs(brighter - 1), weights=bare) < 0.02  # other light is no fold


def test_nothing_gets_brighter_than_the_skin_around_it():
    """A fold is filled, up to the skin; a highlight is not drawn; what gets darker does."""
    photo = np.full((200, 200, 3), 120, np.float32)
    photo[98:102, 40:160] = 80  # a fold
    face, lighter = np.ones((200, 200, 1), np.float32), np.full((200, 200), 1.3, np.float32)
    found = folds.filled(photo, face, lighter, 200.0)
    assert found[20, 100] == pytest.approx(folds.BRIGHTEST, abs=0.02)
    assert found[100, 100] > 1.2
    np.testing.assert_allclose(found[100, 60:140] * 80, 120 * folds.BRIGHTEST, rtol=0.25)
    darker = np.full((200, 200), 0.8, np.float32)
    np.testing.assert_array_equal(folds.filled(photo, face, darker, 200.0), darker)


def test_folds_forgive_a_move(points):
    """A mouth that is drawn elsewhere is no fold, as its landmarks say that it moved."""
    there = points.copy()
    there[48:] += [0, 4]
    face = move.outline(points, there, SIZE)
    pictures = _drawing(points), _drawing(there)
    told, untold = (
        folds.folds(*pictures, np.stack([points, new]), points, new, face, ("mouth",)).factor
        for new in (there, points)
    )
    assert np.abs(told - 1).mean() < 0.4 * np.abs(untold - 1).mean()


def test_a_fold_that_goes_is_eased_where_the_photo_has_it(points):
    """The drawing says that there is none any more; the photo's own lies some pixels beside."""
    face, marks = move.outline(points, points, SIZE), np.stack([points, points])
    plain = _drawing(points)
    fold = np.rint((points[33] + points[48]) / 2).astype(int) - np.array([12, 0])
    reach, creased = np.array([0, 12]), cv2.resize(plain, (SIZE, SIZE))
    cv2.line(creased, (fold - reach).tolist(), (fold + reach).tolist(), (-0.4,) * 3, 3)
    creased = cv2.resize(creased, (128, 128), interpolation=cv2.INTER_AREA)
    found = folds.folds(creased, plain, marks, points, points, face, ("mouth",))
    assert found.eased[fold[1], fold[0]] > 0.7
    assert found.eased[face == 0].max() == 0
    comes = folds.folds(plain, creased, marks, points, points, face, ("mouth",)).eased
    assert comes[fold[1], fold[0]] < 0.01

    rng = np.random.default_rng(0)
    texture = rng.normal(0, 4, (SIZE, SIZE, 1)).astype(np.float32)
    photo = np.full((SIZE, SIZE, 3), (150, 120, 100), np.float32)
    beside = fold + np.array([4, 0])
    cv2.line(photo, (beside - reach).tolist(), (beside + reach).tolist(), (90, 60, 50), 4)
    eased = photo + texture
    eased = eased * folds.ease(eased, face, found.eased, float(SIZE))
    here = eased[beside[1] - 6 : beside[1] + 7, beside[0]].mean(0)
    assert ((np.array([150, 120, 100]) - here) < 0.65 * np.array([60, 60, 50])).all()
    fine = eased - cv2.GaussianBlur(eased, (0, 0), 1.0)
    spot = np.s_[fold[1] - 5 : fold[1] + 6, fold[0] - 8 : fold[0] - 3]
    before = texture - cv2.GaussianBlur(texture, (0, 0), 1.0)[..., None]
    assert np.std(fine[spot]) > 0.7 * np.std(before[spot])  # pores stay
    still = folds.ease(photo, face, np.zeros_like(face), float(SIZE))
    np.testing.assert_array_equal(still, np.ones_like(photo))


def test_lines_beside_a_smile_go_with_it(points):
    """A narrower mouth takes the dark line from nose to cheek along; dots and outline stay."""
    new, eyes = points.copy(), align.eye_distance(points)
    new[[48, 60]] += [0.1 * eyes, 0]
    new[[54, 64]] -= [0.1 * eyes, 0]
    face, plain = move.outline(points, new, SIZE), _drawing(points)
    found = [
        folds.folds(plain, plain, np.stack([points, there]), points, there, face, ("mouth",))
        for there in (points, new)
    ]
    assert not found[0].creased.any()
    creased = found[1].creased
    assert not creased[face == 0].any()
    jaw = np.rint(points[[4, 8, 12]]).astype(int)
    assert creased[jaw[:, 1], jaw[:, 0]].max() < 0.01  # a jaw's outline is no fold

    y, x = np.unravel_index(np.argmax(creased), creased.shape)
    assert creased[y, x] > 0.9
    skin = np.array([150, 120, 100], np.float32)
    photo = np.full((SIZE, SIZE, 3), skin, np.float32)
    dots = [(x - 6, y - 8), (x + 7, y + 2)]
    for dot in dots:
        photo[dot[1], dot[0]] = 60
    cv2.line(photo, (int(x), int(y) - 14), (int(x), int(y) + 14), (110, 60, 40), 2)
    after = folds.without_lines(photo, face, creased, float(SIZE))
    np.testing.assert_allclose(after[y - 1 : y + 2, x], np.tile(skin, (3, 1)), atol=8)
    for dot in dots:
        assert (after[dot[1], dot[0]] < 80).all()
    np.testing.assert_array_equal(after[creased == 0], photo[creased == 0])
    everywhere = creased.copy()  # what is far away makes no difference
    everywhere[[0, -1], [0, -1]] = 1e-6
    whole = folds.without_lines(photo, face, everywhere, float(SIZE))
    np.testing.assert_allclose(whole[creased > 0], after[creased > 0], atol=1e-3)
