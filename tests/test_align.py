"""Crops, their matrices and masks, and faces put back into photos."""

import json

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax.faces.align import (
    align,
    corners,
    cut,
    ffhq_square,
    is_aligned,
    region_masks,
    resample,
    transform,
    whole_square,
)
from fxjax.faces.detect import Detector
from fxjax.images import to_uint8


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def _similarity(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def landmarks(astronaut) -> np.ndarray:
    return Detector()(astronaut)[0].landmarks


def _large(astronaut: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face region four times as large, so that it has more pixels than a small crop."""
    photo = cv2.resize(astronaut[:256, 96:352], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 4, photo.shape)
    spots = (landmarks - np.array([96, 0]) + 0.5) * 4 - 0.5
    return np.clip(photo + grain, 0, 255).astype(np.uint8), spots


def test_the_square_by_hand():
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = [100, 80], [140, 80]
    points[48], points[54] = [105, 130], [135, 130]
    # 50 from the eyes to the mouth: a side of 3.6 * 50, its middle 0.1 * 50 below the eyes.
    matrix = ffhq_square(points, 90)
    square = [[30, -5], [210, -5], [210, 175], [30, 175]]
    np.testing.assert_allclose(corners(matrix, 90), square, atol=1e-9)
    np.testing.assert_allclose(transform(matrix, np.zeros((1, 2))), [[31, -4]], atol=1e-9)
    points[36:42], points[42:48] = [90, 80], [150, 80]  # now 4 * 60 between the eyes is more
    assert np.ptp(corners(ffhq_square(points, 64), 64)[:, 0]) == pytest.approx(240)


def test_the_square_moves_with_the_face(landmarks):
    for degrees, scale in ((-170, 0.1), (-40, 3), (25, 0.7), (90, 1)):
        motion = _similarity(degrees, scale, 31, -7)
        moved = ffhq_square(transform(motion, landmarks), 256)
        np.testing.assert_allclose(moved, motion @ ffhq_square(landmarks, 256), atol=1e-9)


def test_landmarks_without_a_face_are_refused():
    for points in (np.zeros((68, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(ValueError, match="do not look like a face"):
            ffhq_square(points, 64)


def test_known_geometry(shared):
    truth = json.loads((shared / "data/photos/composed_truth.json").read_text())
    upright = np.load(shared / "data/omi/omi_train_landmarks.npz")
    rows = {name: row for row, name in enumerate(upright["filename"])}
    assert len(truth) == 2
    for face in (face for faces in truth.values() for face in faces):
        scene_from_face = np.eye(3)
        scene_from_face[:2] = face["matrix_1024_to_scene"]
        points = upright["landmarks"][rows[face["source"]]].astype(float)  # of 256 pixels
        wanted = corners(scene_from_face @ ffhq_square((points + 0.5) * 4 - 0.5, 1024), 1024)
        found = corners(ffhq_square(np.array(face["landmarks68"]), 1024), 1024)
        assert np.abs(found - wanted).max() < 0.02  # both files are rounded, to 0.01 in the scene
        whole = corners(scene_from_face, 1024)
        assert np.linalg.norm(found - whole, axis=1).max() < 0.04 * face["side_px"]


def test_the_square_is_that_of_ffhq(shared):
    """Faces of a generator trained on FFHQ: the square covers their pictures."""
    known = np.load(shared / "data/omi/omi_train_landmarks.npz")
    clear = known["detected"] & (known["check_px"] < 4)
    points = known["landmarks"][clear].astype(float)
    whole = corners(np.eye(3), 256)
    off = [np.linalg.norm(corners(ffhq_square(p, 256), 256) - whole, axis=1).max() for p in points]
    assert np.median(off) < 0.013 * 256
    assert np.percentile(off, 99) < 0.05 * 256
    photo = np.zeros((256, 256, 3), np.uint8)
    assert np.mean([is_aligned(photo, p) for p in points]) > 0.995
    portraits = np.load(shared / "data/portraits/portraits_landmarks.npz")["landmarks"]
    photo = np.zeros((512, 512, 3), np.uint8)
    assert not any(is_aligned(photo, p.astype(float)) for p in portraits)


def test_whole_pixels_are_copied(astronaut):
    shift = _similarity(0, 1, 150, 40)
    crop = cut(astronaut, shift, 128)
    np.testing.assert_array_equal(to_uint8(crop), astronaut[40:168, 150:278])
    turned = cut(astronaut, _similarity(90, 1, 277, 40), 128)
    np.testing.assert_array_equal(to_uint8(turned), np.rot90(astronaut[40:168, 150:278]))


@pytest.mark.parametrize(
    ("scale", "least"),
    [(0.3, 43), (0.7, 43), (1, 43), (1.5, 33.5), (2.2, 33.5), (3.1, 33.5), (5, 33.5)],
)
def test_sampling_against_the_ideal(scale, least):
    """Sums of cosines, of which the ideal sampler keeps those that the smaller grid can hold."""
    random, side = np.random.default_rng(0), 40
    speed = np.exp(random.uniform(np.log(0.002), np.log(0.45), 100))
    angle, phase = random.uniform(0, 2 * np.pi, (2, 100))
    waves = speed * np.stack([np.cos(angle), np.sin(angle)])

    def value(x, y, kept):
        turns = np.einsum("k,...->...k", waves[0], x) + np.einsum("k,...->...k", waves[1], y)
        return (np.cos(2 * np.pi * turns + phase) * kept).sum(-1) * 0.5 / np.sqrt(100)

    y, x = np.mgrid[:260, :260]
    source = value(x, y, 1)[..., None].astype(np.float32)
    matrix = _similarity(20, scale, 0, 0)
    matrix[:2, 2] = 130 - transform(matrix, np.full((1, 2), side / 2))[0]
    v, u = np.mgrid[:side, :side]
    x, y = np.moveaxis(
        transform(matrix, np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)), 1, 0
    )
    kept = np.abs(matrix[:2, :2].T @ waves).max(0) < 0.5
    wanted = value(x, y, kept).reshape(side, side)
    error = (resample(source, matrix, side, side)[..., 0] - wanted)[6:-6, 6:-6]
    assert 10 * np.log10(4 / np.mean(error**2)) > least


def test_nothing_aliases():
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    for scale in (1.9, 2.5, 4.3, 8.0):
        crop = cut(stripes, _similarity(3, scale, 60, 20), 60)
        assert np.abs(crop[4:-4, 4:-4]).max() < 0.1, scale


def test_outside_the_photo(astronaut):
    matrix = _similarity(10, 1.5, -60, -40)
    crop = cut(astronaut, matrix, 200)
    u, v = np.meshgrid(np.arange(200), np.arange(200))
    place = transform(matrix, np.stack([u, v], axis=-1).reshape(-1, 2).astype(float))
    inside = place.min(1).reshape(200, 200) / 300  # parts of the side of 200 * 1.5
    clear = resample(astronaut, matrix, 200, 200) / 127.5 - 1
    deep = inside > 0.06
    assert 0.5 < deep.mean() < 0.9
    np.testing.assert_allclose(crop[deep], np.clip(clear, -1, 1)[deep], atol=1e-5)
    rough = lambda picture, where: np.abs(np.diff(picture, axis=1))[where[:, 1:]].mean()
    assert rough(crop, inside < -0.02) < 0.4 * rough(clear, inside < -0.02)
    assert np.abs(np.diff(crop, axis=0))[inside[1:] < -0.02].max() < 0.1  # no seam at the border
    with pytest.raises(ValueError, match="outside the photo of 512x512"):
        cut(astronaut, _similarity(0, 1, 600, 0), 64)


def test_an_aligned_picture_is_taken_whole(astronaut, landmarks):
    crop = align(astronaut, landmarks, 256)
    assert not is_aligned(astronaut, landmarks)
    assert crop.image.shape == (256, 256, 3)
    assert -1 <= crop.image.min() < -0.9 < 0.9 < crop.image.max() <= 1
    picture = to_uint8(crop.image)
    inside = transform(np.linalg.inv(crop.photo_from_crop), landmarks)
    inside += np.array([3.0, -2.0])  # landmarks found again are never quite the same
    assert is_aligned(picture, inside)
    again = align(picture, inside, 256)
    np.testing.assert_array_equal(again.photo_from_crop, np.eye(3))
    np.testing.assert_array_equal(to_uint8(again.image), picture)
    half = align(picture, inside, 128)
    np.testing.assert_array_equal(half.photo_from_crop, whole_square(256, 128))
    np.testing.assert_allclose(corners(half.photo_from_crop, 128), corners(np.eye(3), 256))
    forced = align(picture, inside, 256, force=True)
    np.testing.assert_allclose(forced.photo_from_crop[:2, 2], [3, -2], atol=1e-6)
    assert not is_aligned(picture[:250], inside)


def test_masks(landmarks):
    points = transform(np.linalg.inv(ffhq_square(landmarks, 256)), landmarks)
    masks = region_masks(points, 256)
    for mask, own in zip(
        masks, (slice(36, 48), slice(17, 27), slice(48, 68), slice(68)), strict=True
    ):
        assert (mask.min(), mask.max()) == (0, 1)
        x, y = np.rint(points[own]).astype(int).T
        assert (mask[y, x] > 0.99).all()
        assert np.abs(np.diff(mask, axis=0)).max() < 0.2  # soft: the feather is 13 pixels
    features = np.max(masks[:3], axis=0)
    assert 0.08 < features.mean() < 0.25 < masks.face.mean() < 0.6
    assert masks.eyes[masks.mouth > 0].max() == 0
    x, y = points[27:36].mean(0).astype(int)
    assert features[y, x] == 0  # the nose is none of them
    assert masks.face[y, x] == 1
    assert (masks.face >= features - 0.02).mean() > 0.99
    small = region_masks((points + 0.5) / 4 - 0.5, 64)
    for mask, less in zip(masks, small, strict=True):
        reduced = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(less, reduced, atol=0.08)
