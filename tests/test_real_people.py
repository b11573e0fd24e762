"""The main job on photos of two real people, with the shipped models: minutes, so marked slow."""

import numpy as np
import pytest

from fxjax import assess
from fxjax.engine import Engine
from fxjax.images import load_image
from fxjax.transfer_types import Settings

ROWS = tuple((row,) for row in range(2, 8))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(settings=Settings(steps=60, tuning=30, refine=40, rows=ROWS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("person", "driver", "least"),
    [("david-schweikert", "shelia-jackson-lee", 0.5), ("norma-torres", "christopher-coons", 0.5)],
    ids=["smiles", "straightens"],
)
def test_the_expression_comes_and_the_person_stays(engine, shared, person, driver, least):
    """A face that begins to smile, and one that stops: measured on what is found anew."""
    photo = load_image(shared / f"data/portraits/{person}.jpg")
    (result,) = engine(photo, load_image(shared / f"data/portraits/{driver}.jpg"))
    found = assess.table(engine, assess.Judges(engine.detector), result, compare=False)[0]
    assert result.verdict.good, result.verdict.text
    assert result.verdict.figures["reached"] > least
    assert found.gain > least
    assert found.to_person < 0.45 < found.to_driver
    outside = np.abs(result.image.astype(int) - photo).sum(axis=2) == 0
    assert outside.mean() > 0.5  # the background and all beyond the face


@pytest.mark.slow
def test_pasted_faces_are_called_what_they_are(engine, shared):
    """Another person's lower face on one's own: skin of another colour."""
    pairs = (("rand-paul", "tim-scott"), ("susan-collins", "bennie-thompson"))
    for names in pairs:
        person, driver = (
            engine.locate(load_image(shared / f"data/portraits/{name}.jpg"))[0] for name in names
        )
        photos = dict(assess.pasted(person, driver, ("lower_face",)))
        found = engine.verdict(person, driver, photos["pasted lower face"])
        assert "skin discoloured" in found.words
        assert engine.verdict(person, driver, person.photo).good
