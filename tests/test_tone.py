"""The skin's colour carried over to the mouth."""

import numpy as np
import pytest
import skimage.data

from fxjax import align, detect, tone

SIZE = 256


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    photo = skimage.data.astronaut()
    landmarks = detect.choose(detect.Detector()(photo))[0].landmarks
    return align.transform(np.linalg.inv(align.ffhq_square(landmarks, SIZE)), landmarks)


def test_skin_lends_its_colour_and_teeth_only_take_the_brightness(points):
    change = np.zeros((SIZE, SIZE, 3), np.float32)
    change[...] = (0.3, 0.0, -0.15)
    masks = align.region_masks(points, SIZE)
    gap = masks.face * (1 - masks.mouth)
    found = tone.of_skin(np.where(gap[..., None] > 0, change, 5.0), gap, points)
    x, y = np.rint(points[60:68].mean(0)).astype(int)
    np.testing.assert_allclose(found[y, x], [0.05] * 3, atol=0.02)
    lip = np.rint(points[57] + (points[57] - points[51]) * 0.3).astype(int)
    np.testing.assert_allclose(found[lip[1], lip[0]], change[0, 0], atol=0.02)


def test_lips(points):
    lips = tone.lips(points, SIZE)
    assert lips.min() == 0
    assert lips.max() > 0.7
    middle = np.rint((points[[51, 62]].mean(0), points[[57, 66]].mean(0))).astype(int)
    teeth = np.rint(points[60:68].mean(0)).astype(int)
    assert all(lips[y, x] > 0.5 for x, y in middle)
    assert lips[teeth[1], teeth[0]] < 0.3
    assert lips[: SIZE // 2].max() == 0
