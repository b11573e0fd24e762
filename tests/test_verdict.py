"""What is said of a pair before, and of changed faces after: faults made one at a time."""

import cv2
import numpy as np
import pytest
from expressions import ASTRONAUT

from fxjax import images
from fxjax.faces import align, detect, preflight, reader, verdict
from fxjax.faces.located import Faces


@pytest.fixture(scope="module")
def face() -> tuple[np.ndarray, np.ndarray]:
    """The astronaut in 256 px, and her landmarks there."""
    (found,) = detect.choose(detect.Detector()(ASTRONAUT))
    crop = align.align(ASTRONAUT, found.landmarks, 256)
    points = align.transform(np.linalg.inv(crop.photo_from_crop), found.landmarks)
    return images.to_uint8(crop.image), points


def judged(face, after=None, seen=None, second=None, theirs=None) -> verdict.Verdict:
    before, own = face
    after = before if after is None else after
    seen = own if seen is None else seen
    second = seen if second is None else second
    theirs = seen if theirs is None else theirs
    return verdict.judge(before, after, own, seen, second, theirs, ("mouth",))


def closed(points: np.ndarray) -> np.ndarray:
    new = points.copy()
    middle = (new[[61, 62, 63]] + new[[67, 66, 65]]) / 2
    new[[61, 62, 63]] = new[[67, 66, 65]] = middle
    return new


def test_a_face_that_reached_the_expression_looks_whole(face, smiling, straight):
    moved = verdict.judge(face[0], face[0], straight, smiling, smiling, smiling, ("mouth",))
    assert "expression hardly reached" not in moved.words
    still = verdict.judge(face[0], face[0], straight, straight, straight, smiling, ("mouth",))
    assert still.words == ("expression hardly reached",)
    assert still.figures["reached"] == pytest.approx(0)
    assert still.text == "expression hardly reached"
    assert verdict.Verdict((), {}).text == "looks whole"
    assert verdict.Verdict((), {}).good


def test_faults_are_named(face):
    before, own = face
    jaw = np.zeros((256, 256), np.float32)
    cv2.fillConvexPoly(jaw, cv2.convexHull(own[3:14].round().astype(np.int32)), (1.0,))
    jaw = cv2.GaussianBlur(jaw, (0, 0), 3)[..., None]
    green = np.clip(before + jaw * np.array([-35, 25, 10]), 0, 255).astype(np.uint8)
    soft = cv2.GaussianBlur(before, (0, 0), 4)
    faults = {
        "skin discoloured": judged(face, green),
        "blurred": judged(face, soft),
        "mouth displaced": judged(face, second=own + (np.arange(68) > 47)[:, None] * [0, 8]),
    }
    turned, angle = own.copy(), np.radians(12)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned[48:] = (own[48:] - own[48:].mean(0)) @ turn + own[48:].mean(0)
    faults["mouth askew"] = judged(face, seen=turned)
    for word, found in faults.items():
        assert word in found.words, (word, found)
    whole = judged(face).words
    assert not {"skin discoloured", "blurred", "mouth displaced", "mouth askew"} & set(whole)
    assert verdict.judge(before, before, own, None, own, own, ("mouth",)).words == (
        "no face is found any more",
    )


@pytest.mark.parametrize(("paint", "word"), [((190, 60, 60), "mouth torn"),
                                             ((255, 255, 255), "teeth do not fit")])  # fmt: skip
def test_what_shows_between_lips_is_looked_at(face, paint, word):
    before, own = face
    dark = (before * 0.7).astype(np.uint8)
    after = dark.copy()
    cv2.fillPoly(after, [own[60:68].round().astype(np.int32)], paint)
    found = verdict.judge(dark, after, own, own, own, own, ("mouth",))
    assert word in found.words
    assert word not in verdict.judge(dark, dark, own, own, own, own, ("mouth",)).words


@pytest.fixture(scope="module")
def engine() -> Faces:
    return Faces(128, None, reader.load(), parts=("mouth",))


def test_pictures_in_bgr_are_one_line(engine):
    with pytest.raises(ValueError, match=r"channels were BGR .*picture\[\.\.\., ::-1\]"):
        engine.locate(ASTRONAUT[..., ::-1])


def look(face, points=None) -> preflight.Look:
    crop, inside = face
    points = inside if points is None else points
    return preflight.Look(crop, inside, points, inside, np.full(68, 1.0))


def test_what_may_go_wrong_is_said_before(face, smiling, straight):
    eyes = align.eye_distance(smiling)
    wide = 200 / np.linalg.norm(straight[16] - straight[0])
    own, driver = straight * wide, smiling * wide
    assert preflight.judge(look(face, own), look(face, driver)).good
    small = preflight.judge(look(face, own * 0.15), look(face, driver))
    assert small.words == ("the face is 30 pixels wide: small",)
    turned = smiling.copy()
    turned[27:36, 0] += 0.6 * eyes  # a nose far to one side, and the mouth with it
    turned[48:, 0] += 0.36 * eyes
    found = preflight.judge(look(face, own), look(face, turned * wide))
    assert [word.startswith("the heads are turned apart by 1") for word in found.words] == [True]


def test_light_from_a_side_and_beards_are_said(face):
    crop, inside = face
    shade = np.linspace(1.5, 0.5, 256)[None, :, None]
    lit = np.clip(crop * shade, 0, 255).astype(np.uint8)
    found = preflight.judge(look((lit, inside)), look(face))
    assert found.words == ("the face is lit from one side: folds may look wrong",)
    hair = np.random.default_rng(0).normal(0, 40, (256, 256, 1))
    low = (np.arange(256) > inside[57, 1])[:, None, None]
    bearded = np.clip(crop + hair * low, 0, 255).astype(np.uint8)
    found = preflight.judge(look(face), look((bearded, inside)))
    assert [word.startswith("a beard or a shadow around the driver") for word in found.words] == [
        True
    ]


@pytest.mark.parametrize("cover", ["mask", "hand", "microphone"])
def test_a_covered_mouth_is_seen(engine, cover):
    """As what covers it comes in the way, not as what: flat, of skin, dark and speckled."""
    photo = ASTRONAUT.copy()
    (person,) = engine.locate(photo)
    assert not engine.hidden(person)
    mouth, wide = person.landmarks[48:].mean(0), np.ptp(person.landmarks[48:55, 0])
    shape = np.zeros(photo.shape[:2], np.uint8)
    cv2.ellipse(
        shape, np.rint(mouth).astype(int).tolist(), (int(0.9 * wide), int(0.5 * wide)),
        0, 0, 360, (1,), -1,
    )  # fmt: skip
    x, y = np.rint(person.landmarks[27] - [0, 0.9 * wide]).astype(int)
    skin = cv2.resize(photo[y - 12 : y + 12, x - 12 : x + 12], photo.shape[1::-1])
    dark = np.random.default_rng(0).integers(20, 60, photo.shape, np.uint8)
    fills = {"mask": np.full_like(photo, (120, 170, 200)), "hand": skin, "microphone": dark}
    photo[shape > 0] = fills[cover][shape > 0]
    (hidden,) = engine.locate(photo)
    assert engine.hidden(hidden)
    words = engine.preflight(person, hidden).words
    assert "the driver's mouth seems to be covered" in words


def test_a_shout_is_no_cover(face):
    """Neither landmarker is sure of lips that are far apart, but both see that they are."""
    crop, inside = face
    unsure = np.full(68, 0.6 * align.eye_distance(inside))
    shouting, other = inside.copy(), inside.copy()
    shouting[[55, 56, 57, 58, 59, 65, 66, 67], 1] += 0.4 * align.eye_distance(inside)
    other[[55, 56, 57, 58, 59, 65, 66, 67], 1] += 0.2 * align.eye_distance(inside)
    seen = lambda one, two: preflight.covered(preflight.Look(crop, one, one, two, unsure))
    assert seen(shouting, other) == 0
    shut = inside.copy()
    shut[[65, 66, 67]] = shut[[63, 62, 61]]
    assert seen(shouting, shut) > 1
    assert seen(shut, other) > 1


def test_the_shared_covered_driver_is_seen(engine, shared):
    (driver,) = engine.locate(shared / "cases" / "occluded-driver" / "mask.jpg")
    assert engine.hidden(driver) == "mouth"


def test_dark_glasses_hide_eyes_that_are_to_change(engine, smiling):
    """As they are, and half clear; tinted light they hide nothing."""
    seeing = Faces(128, None, engine.reader, parts=("mouth", "eyes", "brows"))
    (person,) = seeing.locate(ASTRONAUT)
    assert seeing.hidden(person) == ""
    distance = align.eye_distance(smiling)
    shape = np.zeros(ASTRONAUT.shape[:2], np.uint8)
    for eye in (smiling[36:42], smiling[42:48]):
        x, y = np.rint(eye.mean(0) + np.array([0, 0.08 * distance])).astype(int)
        axes = int(0.42 * distance), int(0.32 * distance)
        cv2.ellipse(shape, (int(x), int(y)), axes, 0, 0, 360, (1,), -1)
    for clear, said in ((0.0, "eyes"), (0.3, "eyes"), (0.9, "")):
        tinted = (ASTRONAUT * clear + np.array([30, 25, 25]) * (1 - clear)).astype(np.uint8)
        photo = np.where(shape[..., None] > 0, tinted, ASTRONAUT)
        (worn,) = seeing.locate(photo)
        assert seeing.hidden(worn) == said
        words = seeing.preflight(person, worn).words
        assert ("the driver's eyes seem to be behind dark glasses" in words) == bool(said)
        (plain,) = engine.locate(photo)  # whose eyes stay
        assert engine.hidden(plain) == ""
        assert not [word for word in engine.preflight(plain, plain).words if "glasses" in word]


def test_lips_that_are_lost_or_painted_are_seen(face):
    """Lips in the skin's colour, and lips much redder than before."""
    before, own = face
    lips = np.zeros((256, 256), np.float32)
    for part in (verdict.UPPER, verdict.LOWER):
        cv2.fillPoly(lips, [own[part].round().astype(np.int32)], (1.0,))
    lips = cv2.GaussianBlur(lips, (0, 0), 1.0)[..., None]
    skin = np.median(before[verdict._skin(own, own) > 0.5], axis=0)
    skinned = (before * (1 - lips) + skin * lips).astype(np.uint8)
    redder = np.clip(before + lips * np.array([25, -25, -10]), 0, 255).astype(np.uint8)
    lost, painted, whole = (judged(face, after).words for after in (skinned, redder, before))
    assert "lips lost" in lost
    assert "lips of another colour" in painted
    assert not {"lips lost", "lips of another colour"} & set(whole)


def test_skin_and_hair_that_move_are_no_other_colour(face):
    """A patch of another colour on a chin that rises."""
    before, own = face
    drawn = []
    for up in (0, 6):
        photo = before.copy()
        middle = 0.3 * own[57] + 0.7 * own[8] - [0, up]
        box = np.array([[-9, -9], [9, -9], [9, 9], [-9, 9]])
        cv2.fillPoly(photo, [(middle + box).round().astype(np.int32)], (90, 130, 120))
        drawn.append(photo)
    found = verdict.judge(drawn[0], drawn[1], own, own, own, own, ("mouth",))
    assert "skin discoloured" not in found.words
    assert (
        "skin discoloured" in verdict.judge(before, drawn[1], own, own, own, own, ("mouth",)).words
    )


def test_lips_that_got_thin_are_seen(face):
    """By their area: lips are as high as they were where a mouth is as wide."""
    own = face[1]
    thin = own.copy()
    for inner, outer in ((slice(61, 64), slice(50, 53)), ([67, 66, 65], [58, 57, 56])):
        thin[outer] = own[inner] + 0.5 * (own[outer] - own[inner])
    assert judged(face).figures["lips"] == pytest.approx(1)
    found = judged(face, seen=thin)
    assert found.figures["lips"] == pytest.approx(0.5, abs=0.02)
    assert "lips lost" in found.words
    wide = own.copy()
    wide[48:] = own[51] + (own[48:] - own[51]) * [1.3, 0.8]  # a smile draws lips out
    assert "lips lost" not in judged(face, seen=wide).words
