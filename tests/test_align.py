"""Crops, their matrices and masks, and faces put back into photos."""

import json
import zipfile

import cv2
import numpy as np
import pytest
import skimage.data

from fxjax.align import (
    _clone,
    align,
    blend,
    corners,
    cut,
    ffhq_square,
    is_aligned,
    region_masks,
    resample,
    transform,
    whole_square,
)
from fxjax.detect import Detector
from fxjax.images import from_uint8, load_image, to_uint8


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


@pytest.mark.parametrize("poisson", [False, True])
def test_no_change_gives_the_photo(astronaut, landmarks, poisson):
    crop = align(astronaut, landmarks, 256)
    rough = np.random.default_rng(0).normal(crop.image, 0.3).astype(np.float32)
    result = blend(astronaut, rough, rough, crop.photo_from_crop, landmarks, poisson=poisson)
    np.testing.assert_array_equal(result, astronaut)
    assert not np.shares_memory(result, astronaut)


def _smile(size: int, points: np.ndarray) -> np.ndarray:
    """A change of the mouth and the eyes and of nothing else, in crop coordinates."""
    change = np.zeros((size, size, 3), np.float32)
    for own in (slice(48, 60), slice(36, 42), slice(42, 48)):
        hull = cv2.convexHull(np.rint(points[own]).astype(np.int32))
        cv2.fillPoly(change, [hull], (0.9, 0.5, -0.4))
    return change


def test_only_the_chosen_parts_change(astronaut, landmarks):
    crop = align(astronaut, landmarks, 256)
    points = transform(np.linalg.inv(crop.photo_from_crop), landmarks)
    new = crop.image + _smile(256, points)
    put = lambda parts: blend(
        astronaut, new, crop.image, crop.photo_from_crop, landmarks, parts=parts
    )
    whole, mouth, eyes = put(("eyes", "brows", "mouth")), put(("mouth",)), put(("eyes",))
    (left, top), (right, bottom) = landmarks[36:48].min(0) - 3, landmarks[36:48].max(0) + 3
    near_eyes = np.s_[int(top) : int(bottom), int(left) : int(right)]
    np.testing.assert_array_equal(mouth[near_eyes], astronaut[near_eyes])
    assert np.abs(eyes[near_eyes].astype(int) - astronaut[near_eyes]).mean() > 5
    (left, top), (right, bottom) = landmarks[48:60].min(0), landmarks[48:60].max(0)
    lips = np.s_[int(top) : int(bottom), int(left) : int(right)]
    np.testing.assert_array_equal(eyes[lips], astronaut[lips])
    assert np.abs(mouth[lips].astype(int) - astronaut[lips]).mean() > 20
    np.testing.assert_allclose(mouth[lips].astype(int), whole[lips], atol=12)
    for parts in ((), ("nose",)):
        with pytest.raises(ValueError, match="want some of eyes, brows, mouth"):
            put(parts)


def test_skin_around_the_parts_changes_less(astronaut, landmarks):
    crop = align(astronaut, landmarks, 256)
    points = transform(np.linalg.inv(crop.photo_from_crop), landmarks)
    below = (points[8] + points[57]) / 2  # between the chin and the lower lip
    change = np.zeros((256, 256), np.float32)
    cv2.circle(change, np.rint(below).astype(int).tolist(), 4, (1.0,), -1)
    cv2.fillPoly(change, [np.rint(points[48:60]).astype(np.int32)], (1.0,))
    new = crop.image - 0.4 * cv2.GaussianBlur(change, (0, 0), 1)[..., None]
    place = crop.photo_from_crop
    put = lambda skin: blend(
        astronaut, new, crop.image, place, landmarks, parts=("mouth",), skin=skin, keep_tone=False
    )
    less, none = (np.abs(put(skin).astype(float) - astronaut) for skin in (0.4, 0.0))
    whole = np.abs(put(1.0).astype(float) - astronaut)
    x, y = np.rint(transform(place, below[None])[0]).astype(int)
    spot, lips = np.s_[y - 2 : y + 3, x - 2 : x + 3], np.rint(landmarks[51:58].mean(0)).astype(int)
    mouth = np.s_[lips[1] - 1 : lips[1] + 2, lips[0] - 3 : lips[0] + 4]
    assert whole[spot].mean() > 15
    np.testing.assert_allclose(less[spot].mean() / whole[spot].mean(), 0.4, atol=0.1)
    assert none[spot].max() <= 2
    np.testing.assert_allclose(none[mouth].mean(), whole[mouth].mean(), rtol=0.1)


@pytest.mark.parametrize("size", [128, 256, 1024])
def test_a_change_stays_where_it_is(astronaut, landmarks, size):
    photo, spots = _large(astronaut, landmarks)
    crop = align(photo, spots, size)
    # A poor generator: soft, and off in its colours.
    soft = cv2.GaussianBlur(crop.image, (0, 0), 0.01 * size) * 0.9
    soft += np.array([0.1, 0, -0.1], np.float32)
    points = transform(np.linalg.inv(crop.photo_from_crop), spots)
    change = _smile(size, points)
    result = blend(photo, soft + change, soft, crop.photo_from_crop, spots)

    mask = np.zeros(photo.shape[:2], np.uint8)
    for own in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 68)):
        cv2.fillPoly(mask, [cv2.convexHull(np.rint(spots[own]).astype(np.int32))], (1,))
    side = size * np.linalg.norm(crop.photo_from_crop[:2, 0])
    near = cv2.dilate(mask, np.ones((2 * round(0.03 * side) + 1,) * 2, np.uint8)) > 0
    x, y = spots[:17].T
    box = np.s_[int(spots[:, 1].min()) : int(y.max()), int(x.min()) : int(x.max())]
    assert _psnr(result[box][~near[box]], photo[box][~near[box]]) > 40
    far = cv2.dilate(mask, np.ones((2 * round(0.1 * side) + 1,) * 2, np.uint8)) > 0
    assert np.abs(result[~far].astype(int) - photo[~far]).max() <= 1
    # The lips have changed by what was asked, at the level of the photo and not of `soft`.
    mouth = np.zeros(photo.shape[:2], np.uint8)
    cv2.fillPoly(mouth, [cv2.convexHull(np.rint(spots[48:60]).astype(np.int32))], (1,))
    inside = np.zeros_like(mouth)
    cv2.fillPoly(inside, [np.rint(spots[60:68]).astype(np.int32)], (1,))
    around = np.ones((2 * round(0.008 * side) + 1,) * 2, np.uint8)
    lips = (cv2.erode(mouth, around) > 0) & (cv2.dilate(inside, around) == 0)
    wanted = np.clip(photo[lips] + 127.5 * np.array([0.9, 0.5, -0.4]), 0, 255).mean(0)
    np.testing.assert_allclose(result[lips].mean(0), wanted, atol=15)
    assert np.abs(result[lips].mean(0) - photo[lips].mean(0)).max() > 40


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_no_seam_and_nothing_outside_the_crop(landmarks, scale):
    """A difference over the whole crop, on a flat photo: its border must be soft."""
    size = 256
    points = transform(np.linalg.inv(ffhq_square(landmarks, size)), landmarks)
    points = (points - 128) * 1.6 + 128  # the face fills the crop and more
    photo_from_crop = _similarity(15, scale, 300, 200)
    spots = transform(photo_from_crop, points)
    photo = np.full((1800, 1600, 3), 90, np.uint8)
    old, new = (np.full((size, size, 3), level, np.float32) for level in (0.0, 0.1))
    result = blend(photo, new, old, photo_from_crop, spots, keep_tone=False).astype(int) - 90
    kept = blend(photo, new, old, photo_from_crop, spots)
    np.testing.assert_array_equal(kept, photo)  # another tone is no expression
    assert result.max() == 13  # 0.1 * 127.5
    assert result.min() >= 0
    assert np.abs(np.diff(result, axis=0)).max() <= max(
        1, np.ceil(13 * 1.6 / (0.05 * size * scale))
    )
    y, x = np.nonzero(result.any(axis=2))
    inside = transform(np.linalg.inv(photo_from_crop), np.stack([x, y], axis=1).astype(float))
    assert inside.min() > -1
    assert inside.max() < size


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("keep", [True, False], ids=["difference", "whole"])
def test_a_face_at_the_border(astronaut, landmarks, keep, poisson):
    x, y = landmarks[30].astype(int).tolist()
    for left, top, right, bottom in (
        (x - 4, 0, 512, 512),
        (0, y - 4, 512, 512),
        (0, 0, x + 4, 512),
        (0, 0, 512, y + 4),
    ):
        photo = np.ascontiguousarray(astronaut[top:bottom, left:right])
        spots = landmarks - np.array([left, top])
        crop = align(photo, spots, 128)
        points = transform(np.linalg.inv(crop.photo_from_crop), spots)
        new = crop.image + _smile(128, points)
        old = crop.image if keep else None
        result = blend(photo, new, old, crop.photo_from_crop, spots, poisson=poisson)
        assert result.shape == photo.shape
        changed = np.abs(result.astype(int) - photo).max(axis=2) > 20
        assert 0.0005 < changed.mean() < 0.2


def test_poisson_keeps_place_and_surroundings(astronaut, landmarks):
    photo, spots = _large(astronaut, landmarks)
    crop = align(photo, spots, 256)
    change = _smile(256, transform(np.linalg.inv(crop.photo_from_crop), spots))
    place = crop.photo_from_crop, spots
    plain = blend(photo, crop.image + change, crop.image, *place)
    cloned = blend(photo, crop.image + change, crop.image, *place, poisson=True)
    assert _psnr(cloned, plain) > 30
    assert (cloned != plain).any()
    # Shifted by a pixel it would agree better with a shifted picture.
    same = _psnr(cloned[2:-2, 2:-2], plain[2:-2, 2:-2])
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        assert same > _psnr(cloned[2:-2, 2:-2], np.roll(plain, (y, x), (0, 1))[2:-2, 2:-2])


def test_poisson_of_few_pixels_and_at_borders():
    """A picture cloned into itself stays as it is, wherever the mask lies."""
    photo = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    for height, width, top, left in (
        (1, 1, 20, 20), (2, 9, 20, 20), (9, 2, 20, 20), (3, 3, 0, 0), (3, 3, 47, 47), (1, 9, 49, 3),
        (21, 21, 0, 10), (20, 21, 10, 29), (21, 20, 30, 0), (50, 50, 0, 0),
    ):  # fmt: skip
        mask = np.zeros((50, 50), bool)
        mask[top : top + height, left : left + width] = True
        np.testing.assert_allclose(_clone(photo, photo, mask).astype(int), photo, atol=2)


def test_blend_takes_several_landmarks_and_checks_shapes(astronaut, landmarks):
    crop = align(astronaut, landmarks, 64)
    new = np.clip(crop.image + 0.5, -1, 1)
    lower = landmarks + np.array([0, 20])
    one, two = (
        blend(astronaut, new, crop.image, crop.photo_from_crop, points)
        for points in (landmarks, np.stack([landmarks, lower]))
    )
    assert (two != astronaut).sum() > 1.1 * (one != astronaut).sum()
    with pytest.raises(ValueError, match="are not equal squares"):
        blend(astronaut, new, crop.image[:32, :32], crop.photo_from_crop, landmarks)


def test_expressions_of_real_size(shared):
    """A generated smile goes onto the same generated person, tilted and with grain."""
    folder = shared / "data/omi"
    known = np.load(folder / "omi_train_landmarks.npz")
    points = dict(zip(known["filename"], known["landmarks"].astype(float), strict=True))
    names = [f"man_1263_outgoing_{level}.jpg" for level in (0, 2)]
    with zipfile.ZipFile(folder / "omi_train_256.zip") as faces:
        entry = {name.rpartition("/")[2]: name for name in faces.namelist()}
        data = [np.frombuffer(faces.read(entry[name]), np.uint8) for name in names]
    serious, smiling = (cv2.imdecode(each, cv2.IMREAD_COLOR_RGB) for each in data)
    assert serious is not None
    assert smiling is not None
    photo_from_crop = _similarity(-25, 2, 100, 330)
    scene = resample(serious, np.linalg.inv(photo_from_crop), 900, 900)
    grain = np.random.default_rng(0).normal(0, 5, scene.shape)
    scene = np.clip(scene + grain, 0, 255).astype(np.uint8)
    soft = lambda picture: from_uint8(cv2.GaussianBlur(picture, (0, 0), 1.0))
    sets = transform(photo_from_crop, np.concatenate([points[name] for name in names]))
    result = blend(scene, soft(smiling), soft(serious), photo_from_crop, sets.reshape(2, 68, 2))
    wanted = resample(smiling, np.linalg.inv(photo_from_crop), 900, 900)
    mask = region_masks(points[names[1]], 256).mouth[..., None]
    mouth = resample(mask, np.linalg.inv(photo_from_crop), 900, 900, border=cv2.BORDER_CONSTANT)
    mouth = mouth[..., 0] > 0.9
    assert _psnr(result[mouth], wanted[mouth]) > _psnr(scene[mouth], wanted[mouth]) + 6


def test_shared_photos_go_out_and_back(shared):
    photo = load_image(shared / "data/photos/composed_edge_rotated.jpg")
    truth = json.loads((shared / "data/photos/composed_truth.json").read_text())
    spots = np.array(truth["composed_edge_rotated.jpg"][0]["landmarks68"])
    crop = align(photo, spots, 1024)  # finer than the photo: the whole face survives the way back
    result = blend(photo, crop.image, None, crop.photo_from_crop, spots)
    assert (result != photo).any()
    assert _psnr(result, photo) > 40
