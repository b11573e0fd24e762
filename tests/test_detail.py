"""Detail of photos in pictures that are too coarse for it."""

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax import align, detail, detect
from fxjax.detail import SIDE, Source
from fxjax.transfer_types import Located


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


def fine(picture) -> np.ndarray:
    """What is finer than a pixel of 64."""
    return picture - cv2.GaussianBlur(picture, (0, 0), SIDE / 64)


def test_no_change_is_none(sharp, flat):
    before, after = detail.added(sharp, sharp.drawn, flat)
    np.testing.assert_array_equal(before, after)
    truth = align.cut(
        sharp.face.photo, sharp.face.crop.photo_from_crop @ align.whole_square(64, SIDE), SIDE
    )
    soft = cv2.resize(sharp.drawn, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    assert np.square(before - truth).mean() < 0.5 * np.square(soft - truth).mean()


def test_what_changes_gets_the_drivers_detail(sharp, flat):
    new = flat.drawn.copy()
    new[32:] += 0.9 * np.where(new[32:] > 0, -1, 1)  # the lower half changes
    before, after = detail.added(flat, new, sharp)
    alone = detail.added(flat, new, flat)[1]
    upper, lower = slice(0, SIDE // 2 - 16), slice(SIDE // 2 + 16, None)
    np.testing.assert_array_equal(after[upper], before[upper])
    np.testing.assert_array_equal(after[upper], alone[upper])
    gained = fine(after - alone)[lower]
    place = sharp.face.crop.photo_from_crop @ align.whole_square(64, SIDE)
    wanted = fine(align.cut(sharp.face.photo, place, SIDE))[lower]
    assert np.corrcoef(gained.ravel(), wanted.ravel())[0, 1] > 0.9


def test_what_changes_loses_the_own_detail(sharp, flat):
    new = sharp.drawn.copy()
    new[32:] += 0.9 * np.where(new[32:] > 0, -1, 1)
    after = detail.added(sharp, new, flat)[1]
    large = cv2.resize(np.clip(new, -1, 1), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    changed, kept = slice(SIDE // 2 + 16, None), slice(0, SIDE // 2 - 16)
    assert np.abs(after - large)[changed].mean() < 0.1 * np.abs(after - large)[kept].mean()


def test_a_fine_generator_keeps_its_size(sharp):
    large = align.align(sharp.face.photo, sharp.face.landmarks, 512)
    fine = Source(Located(sharp.face.photo, sharp.face.landmarks, large), large.image)
    before, after = detail.added(fine, large.image, sharp)
    assert before.shape == (512, 512, 3)
    np.testing.assert_allclose(before, large.image, atol=1e-5)
    np.testing.assert_array_equal(before, after)
