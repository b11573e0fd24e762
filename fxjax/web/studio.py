"""What the worker does for the page: looks at photos, transfers, and draws again from codes.

Photos are checked before they are decoded, and what the page shows is made small.
"""

import collections
import copy
import dataclasses
import math
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from fxjax import assess, files, images, transfer_report
from fxjax.codes import invert, mix
from fxjax.engine import Engine
from fxjax.faces import align
from fxjax.faces.located import Faces
from fxjax.nn.generator import Generator
from fxjax.runs import group
from fxjax.transfer_types import Located, Ranked, Settings, Transfer
from fxjax.types import AnyPhoto, Code, Codes
from fxjax.web.wishes import Wish

MOST_PIXELS = 40_000_000  # of a photo, judged before it is decoded
KEPT = 6  # faces whose codes and weights stay in memory
SHOWN = 12  # best masks with a picture, and as many of the front
Tell = Callable[[dict[str, Any]], None]
SIDE = 1280  # pixels of the long side of what the page shows
NEAR = 320  # of a face alone
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class Cancelled(Exception):
    """The transfer was cancelled."""


class Watched(Engine):
    """An engine that tells each step that it begins, and can be stopped there."""

    tell: Callable[[str, float], None] = staticmethod(lambda stage, share: None)
    show: Callable[[str, AnyPhoto], None] = staticmethod(lambda name, picture: None)

    def watch(self, codes: Codes) -> None:
        """Shows what the generator makes of the faces so far."""
        drawn = images.to_uint8(np.asarray(self.draw(codes)))
        self.show("inversions", images.contact_sheet(drawn[[0, -1]], 2, gap=0))

    def tuned(self, person: Located, code: Code, progress: Any = None) -> Generator:
        """As the engine's, which tells how far it is."""
        return super().tuned(person, code, self.tell if progress is None else progress)


class Kept(NamedTuple):
    """What is needed to draw a result again: faces in the whole photo and in a small one."""

    engine: Watched
    person: Located
    small: tuple[Located, Located]
    driver: Located
    codes: Codes
    generator: Generator


class Studio:
    """One warm engine. Transfers go one after the other; the rest may go on beside them."""

    def __init__(self, model: str, features: str | None):
        self.model = model
        self.engine = Watched(model, features)
        self.mean = self.engine.draw(invert.mean_codes(self.engine.generator, 1))
        self.kept: collections.OrderedDict[pathlib.Path, Kept] = collections.OrderedDict()

    def of(self, wish: Wish) -> Watched:
        """The same models with other settings, not yet prepared to rank masks."""
        first, last = mix.DECIDE
        last = min(last, len(self.engine.generator.rows) - 1)
        groups = None if wish.rows == "auto" else mix.free_rows(first, last)
        names = ("parts", "strength", "weight", "steps", "tuning", "refine", "keep_pose", "covered")
        settings = Settings(rows=groups, **{name: getattr(wish, name) for name in names})
        other = copy.copy(self.engine)
        other.settings, other.parts = settings, settings.parts
        return other

    def look(self, source: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
        """Reads a photo, writes its pixels alone into the folder, and says which faces it has.

        ValueError with one line for what is no picture, too large, or has no face.
        """
        check_size(source, MOST_PIXELS)
        photo, cutout = images.load_layers(source)
        faces = self.engine.detector(photo)
        if not faces:
            raise ValueError(
                "no face was found: take a photo in which a face is seen from the front"
            )
        images.save_image(folder / "photo.png", photo if cutout is None else cutout)
        preview(folder / "preview.jpg", photo)
        height, width = photo.shape[:2]
        scale = np.array([width, height, width, height])
        return {
            "width": width,
            "height": height,
            "faces": [rounded(head(face.box) / scale) for face in faces],
        }

    def check(self, person: pathlib.Path, driver: pathlib.Path, wish: Wish) -> dict[str, Any]:
        """What will not go well with two photos: in words, and whether what changes is hidden."""
        engine = self.of(wish)
        people = engine.locate(person, wish.face)
        other = engine.locate(driver, wish.driver_face)[0]
        words = list(dict.fromkeys(w for one in people for w in engine.preflight(one, other).words))
        words = [word for word in words if " faces in " not in word]  # the page shows which
        alike = all(not engine.wish(one, other).share for one in people)
        if alike:
            words = ["both faces have the same expression in what is to change: nothing would"]
        hidden = any(engine.hidden(one) for one in (*people, other))
        return {"words": words, "hidden": hidden, "alike": alike}

    def transfer(self, folder: pathlib.Path, wish: Wish, tell: Tell) -> dict[str, Any]:
        """A whole transfer of person.png and driver.png in the folder, which gets its files."""
        engine = self.of(wish)
        engine.prepare(self.mean)
        engine.tell = lambda stage, share: tell({"stage": stage, "share": share})

        def show(name: str, picture: AnyPhoto) -> None:
            preview(folder / f"{name}.jpg", picture)
            tell({"picture": name})

        engine.show = show
        engine.tell("faces", 0.0)
        person = engine.locate(folder / "person.png", wish.face)
        driver = engine.locate(folder / "driver.png", wish.driver_face)[0]
        preview(folder / "before.jpg", person[0].photo)
        if not any(engine.hidden(one) for one in (*person, driver)):
            show("first", self._first(engine, person, driver))
        results = engine(
            folder / "person.png",
            folder / "driver.png",
            face=wish.face,
            driver_face=wish.driver_face,
            progress=engine.tell,
        )
        engine.tell("writing", 0.0)
        told = self._written(folder, engine, results, wish)
        tell({"done": told})
        for number, result in enumerate(results):
            if result.ranked is None:
                continue
            alone = without(results[-1].image, result.person, result.image)
            codes = jnp.asarray(result.codes)
            place = of_face(folder, number)
            kept = self._keep(place, engine, alone, result.driver, codes, result.generator)
            tell({"masks": self._masks(place, kept, result.ranked), "face": number})
        return {}

    def _first(self, engine: Watched, people: Sequence[Located], driver: Located) -> AnyPhoto:
        """A first result in a second, without any generator: the photo moved by a face model."""
        photo = people[0].photo
        for one in people:
            face = dataclasses.replace(one, photo=photo)
            own = jnp.asarray(one.crop.image[None])
            photo, _ = engine.apply(face, own, own, driver, amount=engine.settings.strength)
        return photo

    def _written(
        self, folder: pathlib.Path, engine: Watched, results: Sequence[Transfer], wish: Wish
    ) -> dict[str, Any]:
        judges = assess.Judges(engine.detector)
        facts = {"model": self.model, **{k: str(v) for k, v in dataclasses.asdict(wish).items()}}
        faces, rows = [], []
        for index, result in enumerate(results):
            measured = assess.table(engine, judges, result, compare=False)
            place = folder if len(results) == 1 else folder / f"face{index}"
            transfer_report.write(files.absolute(place), engine, result, measured, facts, 1)
            faces.append(
                {
                    "verdict": list(result.verdict.words),
                    "kept": result.kept,
                    "drawn": result.drawn,
                    "gain": number(measured[0].gain),
                    "identity": number(measured[0].to_person),
                }
            )
            rows.append(group.row_of(result, measured[0].gain, measured[0].to_person))
        first, last = results[0], results[-1]
        if len(results) > 1:
            near_by = lambda one, photo: group.close(one.person, photo).face.photo
            done = [
                group.Done(row, near_by(one, one.person.photo), near_by(one, one.image))
                for row, one in zip(rows, results, strict=True)
            ]
            where = files.absolute(folder)
            group.write(where, first.person, first.driver, last.image, done, facts)
        preview(folder / "after.jpg", last.image)
        return {
            "faces": faces,
            "warnings": list(last.warnings.words),
            "width": last.image.shape[1],
            "height": last.image.shape[0],
        }

    def _keep(
        self,
        place: pathlib.Path,
        engine: Watched,
        person: Located,
        driver: Located,
        codes: Codes,
        generator: Generator,
    ) -> Kept:
        small = (smaller(person, engine), smaller(driver, engine))
        self.kept[place] = kept = Kept(engine, person, small, driver, codes, generator)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return kept

    def _masks(self, folder: pathlib.Path, kept: Kept, ranked: Ranked) -> list[dict[str, Any]]:
        """The best masks and those of the front, each with a picture of the face put back."""
        places = transfer_report.shown_masks(ranked, SHOWN)
        crops = [near(face, kept.engine) for face in (kept.person, kept.driver)]
        codes = mix.mixed(kept.codes[0], kept.codes[1], ranked.masks[places])
        drawn = kept.engine.draw(jnp.concatenate([kept.codes[:1], codes]), kept.generator)
        found = []
        for place, new in zip(places, drawn[1:], strict=True):
            kept.engine.tell("pictures of masks", len(found) / len(places))
            photo, _ = kept.engine.apply(crops[0], drawn[:1], new[None], crops[1], carry=False)
            mask = transfer_report.mask_text(ranked.masks[place])
            preview(folder / "masks" / f"{mask}.jpg", photo)
            found.append(
                {
                    "mask": mask,
                    "rank": place + 1,
                    "expression": number(ranked.expression[place]),
                    "appearance": number(ranked.appearance[place]),
                    "front": bool(ranked.front[place]),
                }
            )
        return found

    def draw(
        self,
        folder: pathlib.Path,
        wish: Wish,
        face: int,
        mask: str,
        strength: float,
        whole: bool,
    ) -> dict[str, Any]:
        """A mask (or the result's own code, with none) at a strength, from the codes that are kept.

        Of several faces only this one is drawn anew, and the others stay as they became. `whole`
        writes the full photo as a file to keep instead of a picture for the page.
        """
        place = of_face(folder, face)
        kept = self.kept.get(place) or self._again(folder, wish, face)
        own, other, _, final = kept.codes
        if mask and len(mask) != len(own):
            raise ValueError(f"a mask of {len(mask)} bits: this model has {len(own)} rows")
        taken = np.array([bit == "1" for bit in mask]) if mask else np.ones(len(own), bool)
        code = mix.blended(own, other if mask else final, jnp.asarray(taken), strength)
        drawn = kept.engine.draw(jnp.stack([own, code]), kept.generator)
        faces = (kept.person, kept.driver) if whole else kept.small
        photo, _ = kept.engine.apply(
            faces[0], drawn[:1], drawn[1:], faces[1], amount=strength, carry=not mask
        )
        found = kept.engine.verdict(faces[0], faces[1], photo)
        name = f"{mask or 'result'}_{round(100 * strength):03d}"
        if whole:
            note = transfer_report.note(self.model)
            picture = images.cut_out(photo, kept.person.cutout)
            images.save_image(place / "drawn" / f"{name}.png", picture, note=note)
        else:
            preview(place / "drawn" / f"{name}.jpg", photo)
        return {"name": name, "verdict": list(found.words)}

    def _again(self, folder: pathlib.Path, wish: Wish, face: int) -> Kept:
        """A result from its folder: the weights are fitted to the person again."""
        engine = self.of(wish)
        people = engine.locate(folder / "person.png", wish.face)
        driver = engine.locate(folder / "driver.png", wish.driver_face)[0]
        places = [of_face(folder, number) for number in range(len(people))]
        with np.load(places[face] / "codes.npz", allow_pickle=False) as arrays:
            codes = jnp.asarray(arrays["ws"])
        person = people[face]
        tuned = engine.tuned(person, codes[0])
        if len(people) > 1:  # they changed one after the other
            then = [images.load_image(place / "result.png") for place in places]
            before = then[face - 1] if face else person.photo
            person = without(then[-1], dataclasses.replace(person, photo=before), then[face])
        return self._keep(places[face], engine, person, driver, codes, tuned)


def of_face(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the files of one of a result's faces are: of one that is alone, with all others."""
    place = folder / f"face{number}"
    return place if place.is_dir() else folder


def without(photo: AnyPhoto, person: Located, changed: AnyPhoto) -> Located:
    """A face in a photo of which this face's own change, from its photo to `changed`, is undone."""
    own = (changed != person.photo).any(axis=2, keepdims=True)
    return dataclasses.replace(person, photo=np.where(own, person.photo, photo))


def check_size(source: pathlib.Path, most: int) -> None:
    """ValueError for a picture of more than `most` pixels by its header; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(source, formats=KINDS) as picture:
                width, height = picture.size
    except UnidentifiedImageError:
        return  # the reader says what it is instead
    except Exception as error:
        raise ValueError(f"this picture cannot be read: {error}") from None
    if width * height > most:
        raise ValueError(
            f"{width} x {height} pixels are too many: make it smaller ({most // 10**6} million)"
        )


def preview(path: pathlib.Path, photo: AnyPhoto) -> None:
    """Writes a JPEG of at most `SIDE` pixels."""
    scale = SIDE / max(photo.shape[:2])
    images.save_image(path, photo if scale >= 1 else _scaled(photo, scale))


def _scaled(photo: Any, scale: float) -> Any:
    size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def smaller(face: Located, engine: Faces, most: int = SIDE) -> Located:
    """The same face in a smaller copy of the photo; as it is if that is small already."""
    scale = most / max(face.photo.shape[:2])
    if scale >= 1:
        return dataclasses.replace(face, cutout=None)
    photo = _scaled(face.photo, scale)
    place = np.diag([photo.shape[1] / face.photo.shape[1], photo.shape[0] / face.photo.shape[0], 1])
    return _moved(face, photo, place, engine)


def near(face: Located, engine: Faces) -> Located:
    """The face in a copy of its surroundings, so small that many can be drawn."""
    return smaller(group.close(face, face.photo, 0.0).face, engine, NEAR)


def _moved(face: Located, photo: Any, place: align.Matrix, engine: Faces) -> Located:
    landmarks = align.transform(place, face.landmarks)
    crop = align.align(photo, landmarks, engine.resolution)
    return dataclasses.replace(face, photo=photo, landmarks=landmarks, crop=crop, cutout=None)


def head(box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 4"]:
    """A box around a head, of that around its landmarks, which end at the brows."""
    left, top, right, bottom = box
    high = bottom - top
    return np.array(
        [left - 0.05 * high, top - 0.3 * high, right + 0.05 * high, bottom + 0.05 * high]
    )


def rounded(numbers: Float[np.ndarray, " 4"]) -> list[float]:
    """Shares of a photo's sides for JSON, within 0 to 1."""
    return [round(float(number), 4) for number in np.clip(numbers, 0, 1)]


def number(value: float) -> float | None:
    """A number for JSON, which knows no infinities; None for these."""
    return round(float(value), 3) if math.isfinite(value) else None
