"""What is said of a pair before, and of changed faces after: faults made one at a time."""

import cv2
import numpy as np
import pytest
from expressions import ASTRONAUT

from fxjax import align, detect, images
from fxjax.faces import verdict


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


def test_what_may_go_wrong_is_said_before(smiling, straight):
    alike = verdict.preflight(straight, smiling, 200.0, 200.0)
    assert alike.good
    small = verdict.preflight(straight, smiling, 30.0, 200.0)
    assert small.words == ("the face is 30 pixels wide: small",)
    turned, eyes = smiling.copy(), np.linalg.norm(smiling[36:42].mean(0) - smiling[42:48].mean(0))
    turned[27:36, 0] += 0.6 * eyes  # a nose far to one side, and the mouth with it
    turned[48:, 0] += 0.36 * eyes
    found = verdict.preflight(straight, turned, 200.0, 200.0)
    assert [word.startswith("the heads are turned apart by 1") for word in found.words] == [True]
    assert verdict.width(straight) == pytest.approx(np.linalg.norm(straight[16] - straight[0]))
