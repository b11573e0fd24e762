"""Pairs of one face with and without a smile, made by pasting the mouth of another face.

A mouth comes from a face that looks the same way and has alike colours around it, is blended in by
Poisson's equation (`fxjax.paste`), and stays if the expression reader then finds what it is to be.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments.smile_samples import Limits, Reader, Sample, smile
from fxjax import assess, expression, paste
from fxjax.align import Landmarks
from fxjax.types import Photo

CLOSED = 0.05  # the most that the jaw of a straight face is open


class Seen(NamedTuple):
    """A face, its expression, and what a mouth must fit: pose, then colours, in usual widths."""

    face: Sample
    landmarks: Landmarks
    fit: Float[np.ndarray, " 5"]


def pairs(
    faces: Sequence[tuple[str, str, Photo]], reader: Reader, limits: Limits, *, donors: int
) -> list[Sample]:
    """Both pictures of each pair, as `Sample.person`, for named pictures of people (name, person).

    One picture of each person and expression takes part: each gets the mouths of up to `donors`
    others that have the other expression.
    """
    seen = _seen(faces, reader, limits)
    found = []
    for own in tqdm(seen, "pasted mouths", disable=None):
        others = [each for each in seen if each.face.expression != own.face.expression]
        others.sort(key=lambda each: float(np.linalg.norm(each.fit - own.fit)))
        for number, other in enumerate(others[:donors]):
            marks, goal = own.landmarks, other.face.expression
            try:
                mixed = paste.paste(
                    own.face.picture, marks, other.face.picture, other.landmarks, region="mouth"
                )
            except ValueError:
                continue  # too small to be pasted
            if limits.name(reader(mixed)) == goal:
                person = f"{own.face.person}with{number}"
                name = f"pasted_{person}_{own.face.expression}"
                found += [
                    own.face._replace(name=f"{name}.jpg", person=person),
                    Sample(f"{name}_{goal}.jpg", mixed, goal, person),
                ]
    return found


def _seen(faces: Sequence[tuple[str, str, Photo]], reader: Reader, limits: Limits) -> list[Seen]:
    known, seen, jaw = set(), [], expression.names().index("jawOpen")
    for name, person, picture in tqdm(faces, "landmarks", disable=None):
        landmarks = reader.landmarks(picture)
        label = "" if landmarks is None else limits.name(smile(landmarks))
        if landmarks is None or not label or (person, label) in known:
            continue
        if label == "neutral" and float(expression.read(landmarks)[jaw]) > CLOSED:
            continue  # no smile, but no straight face either
        known.add((person, label))
        fit = np.concatenate([assess.pose(landmarks), _colours(picture, landmarks)])
        seen.append(Seen(Sample(name, picture, label, person), landmarks, fit))
    if not seen:
        return []
    width = np.std([each.fit for each in seen], axis=0) + 1e-6
    return [each._replace(fit=each.fit / width) for each in seen]


def _colours(picture: Photo, landmarks: Landmarks) -> Float[np.ndarray, " 3"]:
    """The mean around the mouth, within the jaw, in CIE Lab."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    jaw, mouth = (
        (landmarks[each] + 0.5).astype(np.int32) for each in ([*range(4, 13), 33], [*range(48, 60)])
    )
    cv2.fillPoly(mask, [cv2.convexHull(jaw)], (1,))
    cv2.fillPoly(mask, [cv2.convexHull(mouth)], (0,))
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab[mask > 0].mean(axis=0) if mask.any() else np.zeros(3)
