"""Expression transfer: two photos in, the first with the second's expression out.

Composition only (arXiv:1912.06253): detect, align, invert both faces, rank the masks that mix
their codes row by row, refine the best, draw it, put it back into the first photo. Each step can
be called on its own; `transfer` calls them all.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from fxjax import images, losses, sharding, zoo
from fxjax.codes import invert, mix, whiten
from fxjax.coding import Coding
from fxjax.faces import detect, goal, mouth, reader
from fxjax.faces.preflight import unseen
from fxjax.nn.generator import Generator
from fxjax.nn.vgg16 import VGG16
from fxjax.ranking import Ranking
from fxjax.transfer_types import (
    Located,
    Picture,
    Pixels,
    Progress,
    Settings,
    Transfer,
    silent,
    unchanged,
)
from fxjax.types import Code, Codes, Images
from fxjax.zoo import load

FOOLED = 0.07  # of the eyes' distance between two landmarkers of a drawing's mouth


class Engine(Coding, Ranking):
    """Models and settings, ready for many transfers.

    `model` and `features` are names of shipped models or model folders; features are those in the
    generator's folder, or else the shipped ones, unless given. `detector` may be shared. Faces and
    masks are shared among the devices of `mesh` (`fxjax.sharding.mesh`; by default one). Raises
    FileNotFoundError or ValueError for models that are not there or do not fit.
    """

    def __init__(
        self,
        model: epath.PathLike = zoo.DEFAULT,
        features: epath.PathLike | None = None,
        settings: Settings | None = None,
        *,
        detector: detect.Detector | None = None,
        mesh: Mesh | None = None,
    ):
        self.settings = Settings() if settings is None else settings
        self.mesh = sharding.mesh(jax.local_devices()[:1]) if mesh is None else mesh
        self.generator: Any = load(model, part="generator")
        self.features: VGG16 = load(
            zoo.holder(model, "features") if features is None else features, part="features"
        )
        reading = reader.load(model)
        super().__init__(self.generator.resolution, detector, reading, parts=self.settings.parts)
        self.walk = whiten.of(model, self.generator)
        start = self.settings.start
        self.encoder = zoo.encoder_of(model, start, self.generator)
        if self.encoder is None and start != "mean":
            raise ValueError(
                f"start={start}: want mean, encoder (the model's own), or a folder with an encoder"
            )
        mean = self.draw(invert.mean_codes(self.generator, 1))
        size = losses.feature_size(self.generator.resolution)
        self.loss = losses.inverting(self.features, losses.INVERTING_LAYERS, mean, size=size)
        self.prepare(mean)

    def hidden(self, face: Located) -> str:
        """Which part that is to change seems to be covered, if the settings mind that."""
        return "" if self.settings.covered else super().hidden(face)

    def driver(self, photo: Picture, face: str = "largest") -> Located:
        """The one face that drives. ValueError if there is none, or if several are chosen."""
        drivers = self.locate(photo, face)
        if len(drivers) != 1:
            raise ValueError(f"{len(drivers)} faces are chosen to drive; choose one")
        return drivers[0]

    def check_seen(self, people: Sequence[Located], drivers: Sequence[Located]) -> None:
        """ValueError if a part that is to change is hidden in a driver, or in all people.

        Nothing can be read or drawn there.
        """
        parts = [self.hidden(person) for person in people]
        who, part = ("face that changes", parts[0]) if parts and all(parts) else ("", "")
        driving = next(filter(None, map(self.hidden, drivers)), "")
        if driving:
            who, part = "driver", driving
        if who:
            raise ValueError(f"the {part} of the {who} {unseen(part)}")

    def wish(self, person: Located, driver: Located) -> goal.Wish:
        """What the driver's photo asks of the person's expression, in the parts that change."""
        return goal.wish(mouth.landmarks(person), mouth.landmarks(driver), self.parts)

    def apply(
        self,
        person: Located,
        own: Images,
        new: Images,
        driver: Located | None = None,
        *,
        amount: float = 1.0,
        carry: bool = True,
    ) -> tuple[Pixels, Pixels]:
        """The photo with its changed face, and that face as the generator draws it.

        `own` and `new` [1, size, size, 3] are the generator's pictures of the person before and
        after; with a `driver` the expression goes by `amount` of the way to the driver's, by a face
        model where the drawing stops, if it shall `carry` on.
        """
        before, after = np.asarray(own[0]), np.asarray(new[0])
        face = images.to_uint8(after)
        return self.put_back(person, before, after, driver, amount=amount, carry=carry), face

    def pair(
        self,
        person: Located,
        driver: Located,
        codes: Codes,
        *,
        mask: Bool[np.ndarray, " rows"] | None = None,
        tuned: Generator | None = None,
        curves: Float[np.ndarray, "2 steps"] | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        """A transfer between two faces whose codes [2, rows, dim] are known.

        `mask` is applied without a search, before the settings' own; `tuned` is the generator for
        this person if that is there already; `curves` are the inversions' losses, to be kept. Where
        nothing is taken from the driver, by a given mask or between photos that are alike, nothing
        changes.
        """
        progress = silent if progress is None else progress
        seconds, began = {}, time.monotonic()
        if tuned is None:
            tuned = self.tuned(person, codes[0], progress)
        seconds["tuning"], began = time.monotonic() - began, time.monotonic()
        given = mask
        if given is None and self.settings.mask is not None:
            given = np.array(self.settings.mask)
        ranked, alike = None, False
        if given is None:
            progress("masks", 0.0)
            ranked = self.rank(codes[0], codes[1], (person, driver), progress, tuned)
            alike = ranked is None
            given = np.zeros(codes.shape[1], bool) if ranked is None else ranked.masks[0]
        seconds["masks"], began = time.monotonic() - began, time.monotonic()
        mixed = mix.blended(codes[0], codes[1], jnp.asarray(given), self.settings.strength)
        amount = self.settings.strength if ranked is not None or np.any(given) else 0.0
        own, plain = self.draw(jnp.stack([codes[0], mixed]), tuned)[:, None]
        tries: list[tuple[str, Code, Images, dict[str, float]]] = [("mixture", mixed, plain, {})]
        if self.settings.refine and amount and "mouth" in self.parts:
            progress("refinement", 0.0)
            starts = jnp.stack([codes[0], mixed])
            best = self.refined(person, driver, codes[0], starts, tuned, progress)
            found = zip(
                best.codes, self.draw(best.codes, tuned)[:, None], best.named(), strict=True
            )
            # one that the two landmarkers see differently fools the reader
            sound = [one for one in found if self.astray(one[1][0]) < FOOLED]
            tries = [("refined", *one) for one in sound] + tries
        seconds["refinement"], began = time.monotonic() - began, time.monotonic()
        if amount:
            tries.append(("face model alone", codes[0], own, {}))
        done = []
        for name, code, new, figures in tries:
            progress("put back", len(done) / len(tries))
            photo, face = self.apply(person, own, new, driver, amount=amount)
            found = self.verdict(person, driver, photo)
            done.append((len(found.words), len(done), name, code, figures, photo, face, found))
            if found.good:
                break
        _, _, name, final, figures, photo, face, found = min(done, key=lambda one: one[:2])
        drawn = jnp.concatenate([codes, mixed[None], final[None]])
        pictures = jnp.concatenate([own, self.draw(codes[1:], tuned), plain])
        seconds["put back"] = time.monotonic() - began
        return Transfer(
            photo,
            face,
            person,
            driver,
            images.to_uint8(np.asarray(pictures)),
            np.asarray(drawn),
            given,
            ranked,
            alike,
            figures,
            found,
            self.preflight(person, driver),
            name,
            np.zeros((2, 0), np.float32) if curves is None else curves,
            seconds,
            tuned,
        )

    def unchanged(self, person: Located, driver: Located, *, hidden: str = "") -> Transfer:
        """The transfer to a face that stays: expressions are alike, or a part is hidden."""
        warnings = self.preflight(person, driver)
        return unchanged(person, driver, warnings, self.generator, hidden=hidden)

    def __call__(
        self,
        appearance: Picture,
        expression: Picture,
        *,
        face: str = "largest",
        driver_face: str = "largest",
        progress: Progress | None = None,
    ) -> list[Transfer]:
        """A transfer for each chosen face of `appearance`.

        Their changes add up: each one's `person.photo` is the one before's `image`, and the last
        `image` has them all. Of several faces, those in which a part is hidden stay as they are.
        Raises ValueError if a photo has no such face or cannot be read.
        """
        progress = silent if progress is None else progress
        progress("faces", 0.0)
        began = time.monotonic()
        people, driver = self.locate(appearance, face), self.driver(expression, driver_face)
        self.check_seen(people, [driver])
        if len(people) > 1:  # nobody says which one was taken
            people = [dataclasses.replace(person, faces=1) for person in people]
        found, inverting = time.monotonic() - began, time.monotonic()
        changing = [
            person
            for person in people
            if not self.hidden(person) and self.wish(person, driver).share
        ]
        curves, codes = np.zeros((2, 0), np.float32), jnp.zeros((0, 0, 0))
        if changing:
            progress("inversion", 0.0)
            inversion = self.encode([*changing, driver], progress=progress)
            curves, codes = np.asarray(inversion.losses), inversion.code
        inverted = time.monotonic() - inverting
        results: list[Transfer] = []
        for person in people:
            place = next((i for i, one in enumerate(changing) if one is person), None)
            hidden = self.hidden(person)
            if results:  # goes on where the last one ended
                person = dataclasses.replace(person, photo=results[-1].image)
            if place is None:
                result = self.unchanged(person, driver, hidden=hidden)
            else:
                both, losses = codes[jnp.array([place, -1])], curves[[place, -1]]
                result = self.pair(person, driver, both, curves=losses, progress=progress)
            seconds = {"faces": found, "inversion": inverted} | result.seconds
            results.append(dataclasses.replace(result, seconds=seconds))
        return results


def transfer(
    appearance: Picture,
    expression: Picture,
    model: epath.PathLike = "faces",
    *,
    features: epath.PathLike | None = None,
    face: str = "largest",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """The photo `appearance` with the expression of the photo `expression`.

    Both are whatever `fxjax.images.read` takes, of any size. Of the first, the `face` is
    changed ("all" changes all, and the last one's result is returned). For many pairs make an
    `Engine` once. Raises ValueError if no face is found, FileNotFoundError for a missing file.
    """
    engine = Engine(model, features, settings)
    return engine(appearance, expression, face=face, progress=progress)[-1]
