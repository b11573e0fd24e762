"""Masks ranked by what they change and what they leave (arXiv:1912.06253, step 3)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from fxjax import losses, score
from fxjax.codes import mix, search
from fxjax.faces import align, expression, goal, reader
from fxjax.faces.located import Faces
from fxjax.nn.generator import Generator
from fxjax.nn.vgg16 import VGG16
from fxjax.transfer_types import Located, Progress, Ranked, Settings
from fxjax.types import Code, Images

MOST_MASKS = {"cpu": 2**10}  # if all rows have more, those that decide are searched: 18 have 2**18
RESCORED = 64  # masks that are scored again at full size
POSE = 3  # rows 0 to 2, up to 8 pixels, carry the pose
HALF = 0.5  # of the way that is left, E, of a mask that moves at least half of the way
CHANGING = (0.5, 0.5)  # shares in E of what parts look like, and of the expression read of them
STAYING = (0.3, 0.3, 0.2, 0.2)  # shares in A of features, texture, colours, pose
LEAST = (1e-6, 1e-6, 1e-6, 1.0)  # of A: heads turned apart by less than 5 degrees are turned alike
PLACED = (True, False, True, False)  # which of A's see eyes, brows and mouth left out
LEAST_E = (1e-6, 0.04)  # of E: expressions that are closer are alike, by `fxjax.faces.goal.FROM`


class Ranking(Faces):
    """What an engine knows of masks. It has a `generator`, `features`, `settings` and a `mesh`."""

    mesh: Mesh
    generator: Any
    features: VGG16
    settings: Settings

    def prepare(self, mean: Images) -> None:
        """Which rows are searched, and by what; `mean` is the generator's mean picture.

        Raises ValueError for settings that do not fit the model.
        """
        count = len(self.generator.rows)
        if self.settings.mask is not None and len(self.settings.mask) != count:
            raise ValueError(
                f"a mask of {len(self.settings.mask)} bits: this model has {count} rows"
            )
        size = self.settings.score_size
        if size < self.resolution and (size < 1 or self.resolution % size):
            raise ValueError(
                f"a score size of {size} px: pictures of {self.resolution} px are averaged to a "
                "half, a quarter and so on; give one of these"
            )
        searched = self._searched()
        self.groups = mix.free_rows(0, searched - 1)
        if self._few:
            self.groups = mix.free_rows(*mix.DECIDE)
        elif isinstance(self.settings.rows, tuple):
            mix.check_groups(self.settings.rows, searched)
            self.groups = self.settings.rows
        if self.settings.keep_pose:
            self.groups = tuple(group for group in self.groups if min(group) >= POSE)
            if not self.groups:
                raise ValueError(f"keeping the pose leaves no row to search: all are below {POSE}")
        self.judge = self._judge(mean)

    def _judge(self, mean: Images) -> score.Judge:
        """What masks are ranked by; see `case`."""
        size = losses.feature_size(self.generator.resolution)
        content = losses.balanced(self.features, ("block3_conv3",), mean, size=size)
        counts = goal.counts(self.parts) * expression.shipped().reliability
        changing = score.Balanced(
            [content, reader.Expression(self.reader, counts)], CHANGING, LEAST_E
        )
        who = losses.Perceptual(self.features, content.layers, content.scales, size)
        texture: Any = losses.balanced_gram(self.features, mean, size=size)
        staying = [who, texture, losses.Pixels(), reader.Pose(self.reader)]
        return score.Judge(changing, score.Balanced(staying, STAYING, LEAST, PLACED))

    @property
    def _few(self) -> bool:
        """Whether only the rows that decide are searched, as all would take too long here."""
        masks = 2 ** self._searched()
        return self.settings.rows is None and masks > MOST_MASKS.get(jax.default_backend(), masks)

    @property
    def saved(self) -> str:
        """What the search leaves out that it could try, in words; nothing if it tries all."""
        if self.settings.mask is not None or not self._few:
            return ""
        first, last = mix.DECIDE
        return (
            f"{2 ** len(self.groups):,} of {2 ** self._searched():,} masks are tried, as this is a "
            f"CPU: rows {first} to {last} decide, the others stay the person's; rows=all tries all"
        )

    @property
    def approximate(self) -> bool:
        """Whether masks are scored on less than the full picture, so that the best are rescored.

        If they are no more than are scored again anyway, all are scored in full at once.
        """
        small = self.settings.score_size < self.resolution and 2 ** len(self.groups) > RESCORED
        return small or self.settings.readout is not None

    def _searched(self) -> int:
        """How many first rows can be searched. ValueError for a readout that is not there."""
        if self.settings.readout is None:
            return len(self.generator.rows)
        if not hasattr(self.generator, "at"):
            raise ValueError(
                f"a readout at {self.settings.readout} px: this generator has no earlier pictures, "
                "as StyleGAN2 does; leave it out"
            )
        return len(self.generator.at(self.settings.readout).rows)

    def scores(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        progress: Progress | None = None,
        generator: Generator | None = None,
    ) -> Float[np.ndarray, "masks 2"] | None:
        """Both losses of all masks at the score's size, by number; None if the two are alike.

        `generator` is the one tuned to the person, if there is one.
        """
        if np.array_equal(faces[0].crop.image, faces[1].crop.image):
            return None
        readout = self.settings.readout
        size = self.settings.score_size if self.approximate else None
        case = self.case(person, driver, faces, size=size, readout=readout, generator=generator)
        if score.alike(case.goals):
            return None
        return search.exhaustive(
            case,
            groups=self.groups,
            mesh=self.mesh,
            progress=None if progress is None else lambda done, of: progress("masks", done / of),
        )

    def rank(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        progress: Progress | None = None,
        generator: Generator | None = None,
    ) -> Ranked | None:
        """All masks of a pair of codes, best first; None if their pictures are alike.

        If the score's size is less than the generator's, or there is a readout, the best 64 are
        scored again in full.
        """
        found = self.scores(person, driver, faces, progress, generator)
        if found is None:
            return None
        order = self.order(found)
        if not self.approximate:
            return self.ranked(found, order, len(found))
        options = {"groups": self.groups, "weight": self.settings.weight, "count": RESCORED}
        best = search.refine(
            self.case(person, driver, faces, generator=generator), found, **options
        )
        count, found = len(best.numbers), found.copy()
        found[best.numbers] = best.scores
        ranked = self.ranked(found, np.concatenate([best.numbers, order[count:]]), count)
        return dataclasses.replace(ranked, agreement=best.agreement)

    def ranked(
        self, found: Float[np.ndarray, "masks 2"], order: Int[np.ndarray, " masks"], exact: int
    ) -> Ranked:
        """Losses of all masks by number, put into an order; one that moves enough comes first."""
        rows = len(self.generator.rows)
        order, pushed = _moving(found, order)
        best = found[order]
        return Ranked(
            mix.masks_of(self.groups, rows, order.tolist()),
            best[:, 0],
            best[:, 1],
            search.total(best, self.settings.weight),
            mix.pareto(found)[order],
            exact,
            pushed=pushed,
        )

    def order(self, found: Float[np.ndarray, "masks 2"]) -> Int[np.ndarray, " masks"]:
        """Numbers of masks from the least score E + weight * A to the largest."""
        return search.order(found, self.settings.weight)

    def case(
        self,
        person: Code,
        driver: Code,
        faces: tuple[Located, Located],
        *,
        size: int | None = None,
        readout: int | None = None,
        generator: Generator | None = None,
    ) -> search.Case:
        """What masks are scored against, in full or as `search.case_of` says.

        The expression's loss sees what the settings' `parts` of both faces look like, and the
        expression that is read of them. The appearance's sees features, texture and colours around
        eyes, brows and mouths, and how the head is turned. `generator` may be a tuned one.
        """
        size = self.resolution if size is None else min(size, self.resolution)
        masks = [align.region_masks(face.in_crop(), self.resolution) for face in faces]
        regions = jnp.asarray(align.union(masks, self.parts)[None], jnp.float32)
        around = jnp.asarray(1 - align.union(masks)[None], jnp.float32)
        weights = (self.settings.elsewhere + regions, around)
        chosen = self.generator if generator is None else generator
        return search.case_of(
            chosen, person, driver, self.judge, *weights, size=size, readout=readout
        )


def _moving(
    found: Float[np.ndarray, "masks 2"], order: Int[np.ndarray, " masks"]
) -> tuple[Int[np.ndarray, " masks"], bool]:
    """The order, and whether a mask that moves was put first as taking nothing (mask 0) was best.

    That is the best by score of those with E up to a half; without any, that of the least E.
    """
    if order[0] != 0 or len(order) < 2:
        return order, False
    enough = order[found[order, 0] <= HALF]
    first = enough[0] if len(enough) else order[1:][np.argmin(found[order[1:], 0])]
    return np.concatenate([[first], order[order != first]]), True
