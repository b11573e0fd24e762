"""A second expression of the astronaut, who smiles: her photo with the lips closed."""

import dataclasses
import functools

import numpy as np
import skimage.data

from fxjax.faces import align, back
from fxjax.faces.detect import Detector
from fxjax.transfer_types import Located

ASTRONAUT = skimage.data.astronaut()


def located(photo: np.ndarray, landmarks: np.ndarray, size: int = 128) -> Located:
    """A face whose landmarks are known."""
    return Located(photo, landmarks, align.align(photo, landmarks, size))


def still(face: Located) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawings that show a face as it is, before and after, and their landmarks."""
    return face.crop.image, face.crop.image, np.stack([face.in_crop(), face.in_crop()])


def straightened(landmarks: np.ndarray) -> np.ndarray:
    """Her landmarks with the mouth's corners lowered and the lips closed."""
    points = landmarks.copy()
    points[[48, 54, 60, 64]] += [[6, 4], [-6, 4], [6, 4], [-6, 4]]
    points[60:68, 1] = points[60:68, 1].mean()
    return points


@functools.cache
def closed() -> np.ndarray:
    """Her photo with the mouth shut: made by moving it as `straightened` says."""
    person = located(ASTRONAUT, Detector()(ASTRONAUT)[0].landmarks)
    driver = dataclasses.replace(person, landmarks=straightened(person.landmarks))
    photo = back.put_back(person, driver, *still(person))
    photo.flags.writeable = False
    return photo
