"""A changed face made to fit its photo: its place, its detail and the colour of its lips."""

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax import align, detail, detect, tone
from fxjax.detail import SIDE, Source
from fxjax.transfer_types import Located

MOUTH = ("mouth",)


@pytest.fixture(scope="module")
def sharp() -> Source:
    """A real photo, and the blurred picture that a generator of 64 px could make of it."""
    photo = skimage.data.astronaut()
    landmarks = detect.choose(detect.Detector()(photo))[0].landmarks
    crop = align.align(photo, landmarks, 64)
    return Source(Located(photo, landmarks, crop), cv2.GaussianBlur(crop.image, (0, 0), 1.5))


@pytest.fixture(scope="module")
def flat(sharp) -> Source:
    """The same photo without any detail."""
    face = sharp.face
    photo = cv2.GaussianBlur(face.photo, (0, 0), 9)
    soft = align.cut(photo, face.crop.photo_from_crop, 64)
    return Source(Located(photo, face.landmarks, align.Crop(soft, face.crop.photo_from_crop)), soft)


@pytest.fixture(scope="module")
def marks(sharp) -> align.Landmarks:
    """The landmarks in pictures of 64 px."""
    return sharp.face.in_crop()


def inverted(picture) -> np.ndarray:
    """Another picture whose mouth has changed."""
    new = picture.copy()
    new[32:] += 0.9 * np.where(new[32:] > 0, -1, 1)
    return new


def whole(source: Source) -> np.ndarray:
    """The photo's face at the size of the pictures with detail."""
    place = source.face.crop.photo_from_crop @ align.whole_square(64, SIDE)
    return align.cut(source.face.photo, place, SIDE)


def fine(picture) -> np.ndarray:
    """What is finer than a pixel of 64."""
    return picture - cv2.GaussianBlur(picture, (0, 0), SIDE / 64)


def in_mouth(marks) -> np.ndarray:
    """The inside of the mouth's hull, at the size of the pictures with detail."""
    large = np.linalg.inv(align.whole_square(64, SIDE))
    return align.region_masks(align.transform(large, marks), SIDE, feather=0.01).mouth == 1


def far_from_mouth(marks) -> np.ndarray:
    large = np.linalg.inv(align.whole_square(64, SIDE))
    return align.region_masks(align.transform(large, marks), SIDE, feather=0.1).mouth == 0


def test_no_change_is_none(sharp, flat, marks):
    before, after, found = detail.fitted(sharp, sharp.drawn, flat, (marks, marks))
    np.testing.assert_allclose(before, after, atol=1e-5)
    np.testing.assert_allclose(found, marks, atol=1e-6)
    soft = cv2.resize(sharp.drawn, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    truth = whole(sharp)
    assert np.square(before - truth).mean() < 0.5 * np.square(soft - truth).mean()


def test_parts_that_change_get_the_drivers_detail(sharp, flat, marks):
    new = inverted(flat.drawn)
    both = (marks, marks)
    after = detail.fitted(flat, new, sharp, both, parts=MOUTH).after
    alone = detail.fitted(flat, new, flat, both, parts=MOUTH).after
    mouth, away, gained = in_mouth(marks), far_from_mouth(marks), fine(after - alone)
    assert np.abs(gained[away]).mean() < 0.3 * np.abs(gained[mouth]).mean()
    wanted = fine(whole(sharp))[mouth]
    assert np.corrcoef(gained[mouth].ravel(), wanted.ravel())[0, 1] > 0.9


def test_parts_that_change_lose_the_own_detail(sharp, flat, marks):
    new = inverted(sharp.drawn)
    after = detail.fitted(sharp, new, flat, (marks, marks), parts=("brows", "mouth")).after
    plain = detail.fitted(flat, new, flat, (marks, marks), parts=("brows", "mouth")).after
    mouth, away = in_mouth(marks), far_from_mouth(marks)
    kept = np.abs(fine(after - plain))
    assert kept[mouth].mean() < 0.25 * np.abs(fine(whole(sharp)))[mouth].mean()
    assert kept[away].mean() > 0.3 * np.abs(fine(whole(sharp)))[away].mean()


def test_the_new_face_is_laid_on_the_persons_nose_and_eyes(sharp, marks):
    turn = cv2.getRotationMatrix2D((30, 34), 7, 1.06)
    turn[:, 2] += (2, -1.5)
    new = cv2.warpAffine(sharp.drawn, turn, (64, 64), flags=cv2.INTER_CUBIC)
    there = align.transform(np.vstack([turn, [0, 0, 1]]), marks)
    before, after, found = detail.fitted(sharp, new, sharp, (marks, there), parts=MOUTH)
    np.testing.assert_allclose(found, marks, atol=1e-6)
    middle = (slice(48, 208), slice(48, 208))
    moved_by = np.abs(cv2.resize(new, (SIDE, SIDE)) - cv2.resize(sharp.drawn, (SIDE, SIDE)))
    assert np.abs(after - before)[middle].mean() < 0.2 * moved_by[middle].mean()


def test_lips_keep_some_of_their_colour(flat, marks):
    lips = np.zeros((64, 64), np.float32)
    cv2.fillPoly(lips, [np.rint(marks[48:60]).astype(np.int32)], (1.0,))
    change = np.array([0.2, -0.3, -0.3], np.float32)
    new = flat.drawn + lips[..., None] * change
    large = align.transform(np.linalg.inv(align.whole_square(64, SIDE)), marks)
    at = np.zeros((SIDE, SIDE), np.uint8)
    for shape, level in ((large[48:60], 1), (large[60:68], 0)):
        cv2.fillPoly(at, [np.rint(shape).astype(np.int32)], (level,))

    def shift(parts) -> np.ndarray:
        before, after, _ = detail.fitted(flat, new, flat, (marks, marks), parts=parts)
        return np.median((after - before)[at == 1], axis=0)

    assert np.all(np.abs(shift(MOUTH) / change - 0.2) < 0.25)  # the masks are soft, lips thin
    np.testing.assert_allclose(shift(("eyes", "brows")), change, atol=0.02)


def test_teeth_have_the_hue_of_the_drivers(flat, marks):
    tint = np.array([0.5, -0.5, 0.5], np.float32)
    new = flat.drawn + tone.inside(marks, 64)[..., None] * tint
    large = align.transform(np.linalg.inv(align.whole_square(64, SIDE)), marks)
    teeth = tone.inside(large, SIDE) > 0.9

    def hue(parts) -> np.ndarray:
        after = detail.fitted(flat, new, flat, (marks, marks), parts=parts).after
        mean = (after - whole(flat))[teeth].mean(0)
        return mean - mean.mean()

    violet = tint - tint.mean()
    assert np.all(hue(("eyes",)) / violet > 0.6)
    assert np.all(np.abs(hue(MOUTH) / violet) < 0.25)


def test_a_fine_generator_keeps_its_size(sharp, marks):
    large = align.align(sharp.face.photo, sharp.face.landmarks, 512)
    exact = Source(Located(sharp.face.photo, sharp.face.landmarks, large), large.image)
    points = exact.face.in_crop()
    before, after, _ = detail.fitted(exact, large.image, sharp, (points, points))
    assert before.shape == (512, 512, 3)
    np.testing.assert_allclose(before, large.image, atol=1e-5)
    np.testing.assert_allclose(before, after, atol=1e-5)
