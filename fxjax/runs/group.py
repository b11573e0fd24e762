"""A transfer onto several faces of one photo, one after the other; it goes on after it was killed.

Each face is changed in its own surroundings at the photo's resolution, so that a photo of many
people is neither copied nor written for each of them. What is done is in <out>/state.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import checkpoint, files, images, report, transfer_report, zoo
from fxjax.codes import invert
from fxjax.engine import Engine
from fxjax.faces import verdict
from fxjax.runs import journal
from fxjax.transfer_types import Located, Progress, Transfer, side_by_side
from fxjax.types import Photo

TOGETHER = 8  # faces are inverted at once, and then kept
ROOM = 0.5  # of the aligned square's side: what is taken along on every side of it
HEAD = ("before", "after", "face", "verdict", "gain", "identity distance")
NOTES = {
    "face": "number from the left, from 0; the link leads to its own page",
    "gain": transfer_report.MEASURES["gain"],
    "identity distance": transfer_report.MEASURES["identity to first"],
}


class Close(NamedTuple):
    """A face in a cut-out of its photo, and where that begins (x, y)."""

    face: Located
    corner: tuple[int, int]

    def put(self, photo: Photo, part: Photo) -> Photo:
        """The photo with a changed cut-out in its place."""
        photo, (x, y) = photo.copy(), self.corner
        photo[y : y + len(part), x : x + part.shape[1]] = part
        return photo


def close(face: Located, photo: Photo, room: float = ROOM) -> Close:
    """The face with only its surroundings in a photo of the size of its own."""
    some = face.crop.around(photo, room)
    low = np.array([some[1].start, some[0].start])
    place = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]])
    matrix = place @ face.crop.photo_from_crop
    moved = dataclasses.replace(
        face,
        photo=photo[some].copy(),
        landmarks=face.landmarks - low,
        crop=face.crop._replace(photo_from_crop=matrix),
        cutout=None if face.cutout is None else face.cutout[some],
        number=0,
        faces=1,  # here it is alone, so that nobody says which one was taken
    )
    return Close(moved, (int(low[0]), int(low[1])))


class Done(NamedTuple):
    """A face that was changed or kept: what the page says of it."""

    row: dict[str, Any]
    before: Photo
    after: Photo


def transfer(
    engine: Engine,
    people: Sequence[Located],
    driver: Located,
    out: epath.Path,
    settings: Mapping[str, Any],
    facts: Mapping[str, str],
    work: Callable[[epath.Path, Transfer], dict[str, Any]],
    progress: Progress,
) -> list[Done]:
    """Changes the faces of one photo; writes result.png, side_by_side.png and report.html.

    `work` writes a face's files into its folder and returns its row. Faces that an earlier run with
    equal `settings` (of JSON), photos and models has done are not done again; `facts` are for the
    page. Raises ValueError if no mouth can be seen.
    """
    engine.check_seen(people, [driver])
    key = _key(settings, people[0], driver)
    changing = [one for one in people if not engine.hidden(one) and engine.wish(one, driver).share]
    photo, found = people[0].photo, []
    inversion = _inverted(engine, [*changing, driver], out, key, progress) if changing else None
    for number, person in enumerate(people):
        near = close(person, photo)
        name = f"face{number}"
        saved = journal.read_arrays(out, name, key)
        if saved is None:
            place = next((i for i, one in enumerate(changing) if one is person), None)
            told = _of(progress, number, len(people))
            if place is None or inversion is None:
                hidden = engine.hidden(person)
                result = engine.unchanged(near.face, driver, hidden=hidden)
            else:
                both = jnp.asarray([place, -1])
                curves = np.asarray(inversion.losses)[[place, -1]]
                result = engine.pair(
                    near.face, driver, inversion.code[both], curves=curves, progress=told
                )
            row = work(out / name, result)
            saved = {"after": result.image, "row": np.array(json.dumps(row))}
            journal.write_arrays(out, name, key, saved)
        after = saved["after"]
        found.append(Done(json.loads(str(saved["row"])), near.face.photo, after))
        photo = near.put(photo, after)
    write(out, people[0], driver, photo, found, facts)
    return found


def _key(settings: Mapping[str, Any], person: Located, driver: Located) -> str:
    """What a face's result depends on beside the face."""
    shas = [hashlib.sha256(face.photo.tobytes()).hexdigest() for face in (person, driver)]
    folders = {str(settings.get(name)) for name in ("model", "features", "start")}
    for folder in sorted(
        folders - {"None", "mean", "encoder"}
    ):  # the model's own are in its folder
        parts = checkpoint.read_card(zoo.find(folder))["parts"]
        shas += [part["sha256"] for part in parts.values()]
    text = json.dumps([dict(settings), driver.number, shas], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _inverted(
    engine: Engine, faces: Sequence[Located], out: epath.Path, key: str, progress: Progress
) -> invert.Inversion:
    found = []
    for first in range(0, len(faces), TOGETHER):
        some, name = faces[first : first + TOGETHER], f"codes{first}"
        saved = journal.read_arrays(out, name, key)
        if saved is None:

            def told(step: str, share: float, first: int = first, count: int = len(some)) -> None:
                progress(step, (first + share * count) / len(faces))

            one = engine.encode(some, progress=told)
            saved = {"code": np.asarray(one.code), "losses": np.asarray(one.losses)}
            journal.write_arrays(out, name, key, saved)
        found.append(saved)
    codes, curves = (np.concatenate([one[field] for one in found]) for field in ("code", "losses"))
    return invert.Inversion(jnp.asarray(codes), jnp.asarray(curves))


def _of(progress: Progress, number: int, count: int) -> Progress:
    """Tells a face's steps with its number."""
    return lambda step, share: progress(f"face {number + 1} of {count}: {step}", share)


def row_of(result: Transfer, gain: float, distance: float) -> dict[str, Any]:
    """What is kept and shown of a face; JSON knows no number for what was not measured."""
    known = lambda value: None if math.isnan(value) else round(float(value), 4)
    said = result.kept or result.verdict.text
    return {"verdict": said, "gain": known(gain), "identity distance": known(distance)}


def write(
    out: epath.Path,
    person: Located,
    driver: Located,
    photo: Photo,
    found: Sequence[Done],
    facts: Mapping[str, str],
) -> None:
    """Writes the whole photo with all its changes, and the page of its faces."""
    note = transfer_report.note(facts["model"])
    images.save_image(out / "result.png", images.cut_out(photo, person.cutout), note=note)
    beside = side_by_side(person.photo, driver.photo, photo)
    images.save_image(out / "side_by_side.png", beside, note=note)
    said = {f"face{number}": done.row["verdict"] for number, done in enumerate(found)}
    bad = [text != verdict.WHOLE for text in said.values()]

    def cells() -> Any:
        for number in sorted(range(len(found)), key=lambda k: not bad[k]):  # to be looked at first
            row, pictures = found[number].row, found[number][1:]
            link = report.Link(f"face{number}", f"face{number}/report.html")
            shown = [report.Picture(picture) for picture in pictures]
            yield [*shown, link, row["verdict"], row["gain"], row["identity distance"]]

    above = f'<section class="hero">{report.slider(person.photo, photo)}</section>'
    above += report.verdicts(said, verdict.WHOLE, "faces") + "<h2>The faces</h2>"
    title = f"{len(found)} faces of a photo"
    html = report.page(title, facts, HEAD, cells(), above=above, notes=NOTES)
    files.write(out / "report.html", html.encode())
