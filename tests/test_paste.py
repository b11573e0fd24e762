"""Parts of a driver's face pasted into a photo, and the odd photos that this must survive."""

import typing

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax.faces.align import transform
from fxjax.faces.detect import Detector
from fxjax.faces.paste import Region, paste

REGIONS = typing.get_args(Region)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return skimage.data.astronaut()[:256, 96:352].copy()


@pytest.fixture(scope="module")
def landmarks(photo) -> np.ndarray:
    return Detector()(photo)[0].landmarks


def _hull(points: np.ndarray, shape: tuple[int, ...], margin: int) -> np.ndarray:
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [cv2.convexHull(np.rint(points).astype(np.int32))], (1,))
    return cv2.dilate(mask, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0


def _levels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other).max(axis=-1)


@pytest.fixture(scope="module")
def driver(photo, landmarks) -> tuple[np.ndarray, np.ndarray]:
    """The photo turned and larger, with a dark disc on the chin and one where the mouth is."""
    marked = photo.copy()
    place = np.rint(landmarks[[48, 54, 8]].mean(0)).astype(int)
    cv2.circle(marked, tuple(place.tolist()), 4, (10, 10, 10), -1)
    cos, sin = 1.7 * np.cos(0.3), 1.7 * np.sin(0.3)
    matrix = np.array([[cos, -sin, 70], [sin, cos, -60], [0, 0, 1]])
    turned = cv2.warpAffine(marked, matrix[:2], (480, 460), flags=cv2.INTER_CUBIC)
    return turned, transform(matrix, landmarks)


@pytest.mark.parametrize("region", REGIONS)
def test_a_photo_pasted_into_itself_stays(photo, landmarks, region):
    before = photo.copy()
    found = paste(photo, landmarks, photo, landmarks, region=region)
    np.testing.assert_array_equal(photo, before)
    assert found.shape == photo.shape
    assert _levels(found, photo).max() <= 3


@pytest.mark.parametrize("region", REGIONS)
def test_the_part_lands_where_it_belongs(photo, landmarks, driver, region):
    found = paste(photo, landmarks, *driver, region=region)
    middle = landmarks[[48, 54, 8]].mean(0)
    spot = _levels(found, photo) > 60
    assert spot.any()
    where = np.argwhere(spot)[:, ::-1].mean(0)
    np.testing.assert_allclose(where, middle, atol=1.0)
    far = ~_hull(landmarks, photo.shape, 20)
    np.testing.assert_array_equal(found[far], photo[far])
    assert not np.shares_memory(found, photo)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_face_cut_off_by_the_border(photo, landmarks, driver, region, side):
    """The photo ends in the middle of the mouth, or of an eye: what is there is still pasted."""
    x, y = np.rint(landmarks[62]).astype(int)
    top = round(float(landmarks[37, 1]))
    box = {
        "left": (x, 0, 256, 256),
        "right": (0, 0, x, 256),
        "top": (0, top, 256, 256),
        "bottom": (0, 0, 256, y + 2),
    }[side]
    part = photo[box[1] : box[3], box[0] : box[2]]
    moved = landmarks - np.array(box[:2])
    found = paste(part, moved, *driver, region=region)
    assert found.shape == part.shape
    changed = _levels(found, part) > 0
    assert changed.any()
    again = paste(part, moved, part, moved, region=region)
    assert _levels(again, part).max() <= 3
    # and a driver whose picture ends there
    other = paste(photo, landmarks, part, moved, region=region)
    assert _levels(other, photo).max() <= 12


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("scale", [0.12, 0.3, 6.0])
def test_small_and_large_faces(photo, landmarks, driver, region, scale):
    side = round(256 * scale)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(photo, (side, side), interpolation=way)
    moved = (landmarks + 0.5) * scale - 0.5
    found = paste(resized, moved, *driver, region=region)
    assert found.shape == resized.shape
    assert _levels(found, resized).max() > (20 if scale > 0.2 else 2)


def test_a_gray_photo_stays_gray(photo, landmarks, driver):
    gray = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    found = paste(gray, landmarks, *driver, region="mouth")
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    assert (_levels(found, gray) > 40).any()


@pytest.mark.parametrize("region", REGIONS)
def test_what_cannot_be_pasted(photo, landmarks, driver, region):
    for moved in (landmarks + 1000, landmarks - [1000, 0], (landmarks - 80) / 90 + 80):
        with pytest.raises(ValueError, match=r"^the [a-z ]+ cannot be pasted: [^\n]+$"):
            paste(photo, moved, *driver, region=region)
    with pytest.raises(ValueError, match="cannot be pasted: smaller than 4 pixels, or outside"):
        paste(photo, landmarks, driver[0], driver[1] + 5000, region=region)
    for broken in (np.zeros((68, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(ValueError, match=r"^the landmarks do not look like a face"):
            paste(photo, landmarks, driver[0], broken, region=region)
        with pytest.raises(ValueError, match=r"^the landmarks do not look like a face"):
            paste(photo, broken, *driver, region=region)
