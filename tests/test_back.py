"""A changed expression put back into a photo: what moves, what stays, and what a mouth shows."""

import dataclasses
import zipfile

import cv2
import expressions
import numpy as np
import pytest
from expressions import ASTRONAUT, located, still

from fxjax import images, metrics
from fxjax.faces import align, back, expression, goal, mouth, move
from fxjax.faces import located as faces
from fxjax.faces.detect import Detector
from fxjax.transfer_types import Located


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="module")
def person(detector) -> Located:
    """She smiles with open lips."""
    return located(ASTRONAUT, detector(ASTRONAUT)[0].landmarks)


@pytest.fixture(scope="module")
def straight(person) -> Located:
    """A driver of whom the landmarks alone are seen: lips closed, corners lowered."""
    return dataclasses.replace(person, landmarks=expressions.straightened(person.landmarks))


@pytest.fixture(scope="module")
def closed() -> np.ndarray:
    """Her photo with the mouth shut."""
    return expressions.closed()


def _outline(face: Located, reach: float = 0.0) -> np.ndarray:
    """Where the face is in its photo, `reach` parts of its square wider."""
    points = face.landmarks
    up = points[36:48].mean(0) - points[[48, 54]].mean(0)
    hull = cv2.convexHull(np.rint(np.concatenate([points, points[17:27] + 0.6 * up])).astype(int))
    away = cv2.fillPoly(np.full(face.photo.shape[:2], 255, np.uint8), [hull], (0,))
    side = np.linalg.norm(face.crop.at(1)[:2, 0])
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach * side


def test_where_nothing_moves_the_photo_stays_bit_for_bit(person):
    before, after, marks = still(person)
    for driver in (None, person):
        found = back.put_back(person, driver, before, after, marks)
        np.testing.assert_array_equal(found, ASTRONAUT)
        assert not np.shares_memory(found, ASTRONAUT)


def test_an_amount_of_none_changes_nothing(person, straight):
    found = back.put_back(person, straight, *still(person), amount=0.0)
    np.testing.assert_array_equal(found, ASTRONAUT)


def test_outside_the_face_nothing_changes(person, straight, closed):
    far = ~_outline(person, move.REACH + 0.02)
    assert far.mean() > 0.6
    np.testing.assert_array_equal(closed[far], ASTRONAUT[far])
    eyes = np.rint(person.landmarks[36:48]).astype(int)
    np.testing.assert_allclose(
        closed[eyes[:, 1], eyes[:, 0]].astype(int), ASTRONAUT[eyes[:, 1], eyes[:, 0]], atol=12
    )


def test_a_mouth_closes(detector, person, straight, closed):
    found = detector(closed)[0].landmarks
    assert goal.gap(person.landmarks) > 0.12
    assert goal.gap(found) < 0.05
    assert expression.gain(found, person.landmarks, straight.landmarks) > 0.4
    # No teeth are left: what is between the lips is as red as they are, or dark.
    inner = np.rint(found[[61, 62, 63, 65, 66, 67]]).astype(int)
    lab = cv2.cvtColor(closed, cv2.COLOR_RGB2LAB).astype(int)[inner[:, 1], inner[:, 0]]
    teeth = np.rint(person.landmarks[[61, 62, 63]]).astype(int) + np.array([0, 3])
    white = cv2.cvtColor(ASTRONAUT, cv2.COLOR_RGB2LAB).astype(int)[teeth[:, 1], teeth[:, 0]]
    assert lab[:, 0].max() < white[:, 0].min()


def _drawn_shut(person: Located, closed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawings of her as she is, and with closed lips that are too green."""
    shut = expressions.straightened(person.landmarks)
    after = align.align(closed, person.landmarks, 128).image.copy()
    lips = align.filled(person.in_crop()[48:60], 128) > 0
    after[lips] += np.array([-0.2, 0.3, -0.1], np.float32)
    marks = align.transform(np.linalg.inv(person.crop.photo_from_crop), shut)
    return person.crop.image, after, np.stack([person.in_crop(), marks])


def test_lips_that_close_are_drawn_in_the_photos_colours(detector, person, straight, closed):
    before, after, marks = _drawn_shut(person, closed)
    found = back.put_back(person, straight, before, after, marks)
    far = ~_outline(person, move.REACH + 0.02)
    np.testing.assert_array_equal(found[far], ASTRONAUT[far])
    seen = detector(found)[0].landmarks
    assert goal.gap(seen) < 0.05

    def red(photo: np.ndarray, points: np.ndarray) -> float:
        """How red lips are, in CIELAB."""
        fill = lambda part: align.filled(part, 512) > 0
        lips = fill(points[48:60]) & ~fill(points[60:68])
        return float(np.median(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB)[lips][:, 1]))

    assert red(found, seen) == pytest.approx(red(ASTRONAUT, person.landmarks), abs=4)
    gray = images.gray(ASTRONAUT)
    assert images.is_gray(
        back.put_back(located(gray, person.landmarks), straight, before, after, marks)
    )


def test_drawn_lips_come_as_a_mouth_closes(person, closed):
    """Without a step, as frames of a video need it; a drawing that stays open gives none."""
    before, after, marks = _drawn_shut(person, closed)
    crop, face = person.crop.image, np.ones((128, 128), np.float32)
    own, new = marks

    def opaque(share: float, drawn: float = 1.0) -> float:
        middle = own + share * (new - own)
        both = np.stack([own, own + drawn * (new - own)])
        found = mouth.shut(crop, before, after, both, own, middle, face)
        return 0.0 if found is None else float(found.alpha.max())

    ways = [opaque(share) for share in np.linspace(0, 1, 41)]
    assert ways[:20] == [0.0] * 20
    assert ways[-1] == pytest.approx(1.0)
    assert (np.diff(ways) >= 0).all()
    assert np.diff(ways).max() < 0.2
    assert opaque(1.0, drawn=0.3) == 0
    assert opaque(0.0) == 0


def test_a_mouth_opens_onto_the_drivers_teeth(detector, person, closed):
    shut = located(closed, detector(closed)[0].landmarks)
    found = back.put_back(shut, person, *still(shut))
    marks = detector(found)[0].landmarks
    assert goal.gap(marks) > 0.08
    assert expression.gain(marks, shut.landmarks, person.landmarks) > 0.4
    hole = np.zeros(found.shape[:2], np.uint8)
    cv2.fillPoly(hole, [np.rint(marks[60:68]).astype(int)], (1,))
    lips = cv2.fillPoly(np.zeros_like(hole), [np.rint(marks[48:60]).astype(int)], (1,)) - hole
    bright, red, _ = np.moveaxis(cv2.cvtColor(found, cv2.COLOR_RGB2LAB).astype(int), 2, 0)
    assert bright[hole > 0].mean() > bright[lips == 1].mean() + 10
    assert red[hole > 0].mean() < red[lips == 1].mean()


def test_a_driver_with_shut_lips_gives_no_teeth(detector, person, straight, closed):
    """Even if the drawing's mouth opens wide."""
    shut = located(closed, detector(closed)[0].landmarks)
    drawn = align.align(ASTRONAUT, shut.landmarks, 128)
    opened = align.transform(np.linalg.inv(drawn.photo_from_crop), person.landmarks)
    lower = straight.landmarks.copy()
    lower[[48, 54]] += [[8, 8], [-8, 8]]  # another expression than hers, or nothing would move
    driver = dataclasses.replace(straight, landmarks=lower)
    marks = np.stack([shut.in_crop(), opened])
    found = back.put_back(shut, driver, shut.crop.image, drawn.image, marks)
    assert (found != closed).any()
    seen = located(found, detector(found)[0].landmarks)
    assert goal.gap(mouth.landmarks(seen)) < goal.SHUT  # by its pixels


def test_gray_and_toned_photos_keep_their_tone(detector, person, straight, closed):
    gray = images.gray(closed)
    sepia = np.clip(gray * np.array([1.0, 0.8, 0.55]) + [0, 10, 20], 0, 255).astype(np.uint8)
    marks = detector(closed)[0].landmarks
    for photo in (gray, sepia):
        face = located(photo, marks)
        found = back.put_back(face, person, *still(face))
        assert (found != photo).any()
        curves = [np.polynomial.Polynomial.fit(photo[..., 0].ravel(), photo[..., k].ravel(), 1)
                  for k in (1, 2)]  # fmt: skip
        inside = _outline(face)
        for k, curve in zip((1, 2), curves, strict=True):
            rest = np.abs(found[..., k][inside] - curve(found[..., 0][inside]))
            assert np.percentile(rest, 99.5) < 6
        if photo is gray:
            assert images.is_gray(found)


@pytest.mark.parametrize("kind", ["grain", "apart", "before colours", "nearly gray", "brown grain"])
def test_tones_that_are_not_clean_are_kept_too(detector, person, closed, kind):
    """As photos have them: grain, channels that do not meet, gray people on a coloured ground."""
    marks, gray = detector(closed)[0].landmarks, images.gray(closed)
    grain = np.random.default_rng(0).normal(0, 8, closed.shape)
    brown = gray * np.array([1.0, 0.8, 0.55]) + [0, 10, 20]
    around = _outline(located(closed, marks))
    wide = cv2.dilate(around.astype(np.uint8), np.ones((31, 31)))[..., None]
    photo = {
        "grain": gray + grain,
        "apart": np.concatenate([np.roll(gray[..., :1], 1, axis=1), gray[..., 1:]], axis=2),
        "before colours": np.where(wide > 0, gray, closed),
        "nearly gray": gray + np.array([3.0, 0.0, -4.0]),
        "brown grain": brown + grain,
    }[kind]  # fmt: skip
    photo = np.clip(np.rint(photo), 0, 255).astype(np.uint8)
    face = located(photo, marks)
    found = back.put_back(face, person, *still(face))
    hole = np.zeros(found.shape[:2], np.uint8)
    cv2.fillPoly(hole, [np.rint(detector(found)[0].landmarks[60:68]).astype(int)], (1,))
    own, new = (cv2.cvtColor(each, cv2.COLOR_RGB2LAB).astype(float) for each in (photo, found))
    skin = own[around > 0][:, 1:].mean(0)
    assert np.linalg.norm(new[hole > 0][:, 1:].mean(0) - skin) < 4


def test_a_gray_driver_gives_teeth_with_the_persons_colours(detector, person, closed):
    shut = located(closed, detector(closed)[0].landmarks)
    driver = dataclasses.replace(person, photo=images.gray(ASTRONAUT))
    found = back.put_back(shut, driver, *still(shut))
    hole = np.zeros(found.shape[:2], np.uint8)
    cv2.fillPoly(hole, [np.rint(detector(found)[0].landmarks[60:68]).astype(int)], (1,))
    red, _, blue = found[hole > 0].mean(0)
    assert red > blue + 5  # as all of this photo is


def test_a_bearded_mouth_is_no_open_one(person, straight, closed):
    """Landmarks that take lips for what is between them: pixels say that there is none."""
    assert mouth.landmarks(person) is person.landmarks
    wrong = person.landmarks.copy()
    wrong[60:68] = wrong[60:68] * [1, 0.4] + [0, 0.6 * wrong[60:68, 1].mean()]
    wrong[[61, 62, 63], 1] -= 1.5
    wrong[[65, 66, 67], 1] += 1.5
    fooled = located(closed, wrong)
    assert goal.SHUT < goal.gap(wrong) < mouth.AJAR
    assert goal.gap(mouth.landmarks(fooled)) < 0.03


def test_a_wide_open_mouth_is_open_whatever_its_pixels_say(person, closed):
    """A gray shout is dark all over, as lips in a shadow are."""
    wide = person.landmarks.copy()
    wide[[65, 66, 67], 1] += 0.2 * align.eye_distance(wide)
    face = located(np.full_like(closed, 90), wide)
    assert goal.gap(wide) > mouth.AJAR
    assert mouth.landmarks(face) is face.landmarks
    ajar = person.landmarks.copy()
    ajar[[65, 66, 67]] = ajar[[63, 62, 61]]
    ajar[[65, 66, 67], 1] += 0.1 * align.eye_distance(wide)
    assert goal.gap(mouth.landmarks(located(np.full_like(closed, 90), ajar))) < goal.SHUT


def test_the_inside_of_a_gray_mouth_is_dark_red_and_its_teeth_are_white(detector, person, closed):
    """Though the drawing's mouth is all teeth: their brightness is not the whole mouth's."""
    shut = located(closed, detector(closed)[0].landmarks)
    gray = images.gray(ASTRONAUT).copy()
    hole = align.filled(person.landmarks[60:68], 512) > 0
    rows = np.flatnonzero(hole.any(axis=1))
    lower = hole & (np.arange(512)[:, None] > rows.mean())
    gray[lower] = 25
    driver = dataclasses.replace(person, photo=gray)
    drawn = person.crop.image
    marks = np.stack([shut.in_crop(), person.in_crop()])
    found = back.put_back(shut, driver, shut.crop.image, drawn, marks)
    points = detector(found)[0].landmarks
    inner = align.filled(points[60:68], 512) > 0
    inside = found[inner].astype(float)
    bright = inside @ np.array([0.299, 0.587, 0.114])
    dark, light = (
        inside[bright < np.percentile(bright, 20)],
        inside[bright > np.percentile(bright, 80)],
    )
    assert dark.mean() < 0.45 * light.mean()
    assert dark[:, 0].mean() / dark[:, 2].mean() > 1.2  # red
    assert light[:, 0].mean() / light[:, 2].mean() < dark[:, 0].mean() / dark[:, 2].mean()


def test_the_photos_own_detail_moves(detector, person, straight):
    """Grain that no drawing has, on a photo four times as large, is as strong after the move."""
    large = cv2.resize(ASTRONAUT[:256, 96:352], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 6, (1024, 1024, 1))
    photo = np.clip(large + grain, 0, 255).astype(np.uint8)
    place = lambda points: (points - np.array([96, 0]) + 0.5) * 4 - 0.5
    face = located(photo, place(person.landmarks))
    driver = located(photo, place(straight.landmarks))
    found = back.put_back(face, driver, *still(face))
    x, y = np.rint((face.landmarks[57] + face.landmarks[8]) / 2).astype(int)  # the chin
    spot = np.s_[y - 30 : y + 30, x - 60 : x + 60]
    fine = lambda p: (p[spot] - cv2.GaussianBlur(p[spot].astype(np.float32), (0, 0), 2)).std()
    assert np.abs(found[spot].astype(int) - photo[spot]).mean() > 2
    assert fine(found) > 0.75 * fine(photo)


def test_faces_at_the_border(person, straight):
    x, y = person.landmarks[30].astype(int).tolist()
    for left, top, right, bottom in (
        (x - 4, 0, 512, 512),
        (0, y - 4, 512, 512),
        (0, 0, x + 4, 512),
        (0, 0, 512, y + 20),
    ):
        photo = np.ascontiguousarray(ASTRONAUT[top:bottom, left:right])
        face = located(photo, person.landmarks - np.array([left, top]))
        driver = located(photo, straight.landmarks - np.array([left, top]))
        found = back.put_back(face, driver, *still(face))
        assert found.shape == photo.shape
        changed = np.abs(found.astype(int) - photo).max(axis=2) > 20
        assert 0.0005 < changed.mean() < 0.2


def test_parts_are_checked(person):
    for parts in ((), ("nose",)):
        with pytest.raises(ValueError, match="want some of eyes, brows, mouth"):
            back.put_back(person, None, *still(person), parts=parts)


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
    turn = 2 * np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    photo_from_crop = np.eye(3)
    photo_from_crop[:2] = np.column_stack([turn, [100, 330]])
    look = lambda picture: align.resample(picture, np.linalg.inv(photo_from_crop), 900, 900)
    grain = np.random.default_rng(0).normal(0, 5, (900, 900, 3))
    scene = np.clip(look(serious) + grain, 0, 255).astype(np.uint8)
    own, other = (align.transform(photo_from_crop, points[name]) for name in names)
    face = Located(scene, own, align.Crop(images.from_uint8(serious), photo_from_crop))
    driver = located(np.clip(look(smiling), 0, 255).astype(np.uint8), other)
    soft = [
        images.from_uint8(cv2.resize(each, (128, 128), interpolation=cv2.INTER_AREA))
        for each in (serious, smiling)
    ]
    marks = np.stack([(points[name] + 0.5) / 2 - 0.5 for name in names])
    mask = align.resample(
        align.region_masks(points[names[1]], 256).mouth[..., None],
        np.linalg.inv(photo_from_crop), 900, 900, border=cv2.BORDER_CONSTANT,
    )[..., 0] > 0.9  # fmt: skip
    psnr = lambda one: metrics.psnr(one[mask][None], driver.photo[mask][None])
    for who in (None, driver):
        result = back.put_back(face, who, soft[0], soft[1], marks)
        assert psnr(result) > psnr(scene) + 3


def test_a_mouth_that_opens_a_little_more_shows_its_own_teeth(person):
    """Stretched to the new lips, as the driver's would be; farther open it shows the driver's."""
    size = 256
    own = align.transform(np.linalg.inv(person.crop.at(size)), person.landmarks)
    crop = align.cut(person.photo, person.crop.at(size), size)
    drawing = np.zeros((128, 128, 3), np.float32)
    driver = dataclasses.replace(person, photo=np.full_like(person.photo, (0, 0, 255)))
    skin = np.ones((size, size), np.float32)

    def inside(wider: float) -> mouth.Inside | None:
        new = own.copy()
        new[[67, 66, 65, *range(55, 60)], 1] += wider
        marks = np.stack([own, new])
        args = (crop, drawing, drawing, marks, own, new, driver, driver.landmarks, skin)
        return mouth.inside(*args)

    assert inside(0.0) is None
    wider = 0.2 * float(np.mean((own[65:68] - own[[63, 62, 61]])[:, 1]))
    little, far = inside(wider), inside(8 * wider)
    assert little is not None
    assert far is not None
    between, teeth = little.alpha > 0.9, align.filled(own[60:68], size).astype(np.float32)
    assert np.abs(little.colours[between]).mean() > 0.1
    np.testing.assert_allclose(
        little.colours[between].mean(0),
        crop[cv2.GaussianBlur(teeth, (0, 0), mouth.EDGE * size) > 0.9].mean(0),
        atol=0.1,
    )
    blue = far.colours[far.alpha > 0.9].mean(0)
    assert blue[2] > blue[0] + 0.3


def test_what_a_mouth_lacks_is_added_as_a_whole(straight):
    """A shift that is seen is answered in full, single points that lie beside are not."""
    points = straight.landmarks
    moved = goal.Goal(points, points, 1.0)
    eyes, rest = align.eye_distance(points), faces.AGAIN
    there = points.copy()
    there[48:] -= 0.02 * eyes
    found = faces._short(moved, there)
    np.testing.assert_allclose(found[48:], rest * 0.02 * eyes, rtol=1e-6)
    assert not found[:48].any()
    beside = points.copy()
    beside[62] += [0, 0.05 * eyes]
    found = np.abs(faces._short(moved, beside))
    assert 0 < found.max() < 0.3 * rest * 0.05 * eyes
