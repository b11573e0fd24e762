"""Flags that the commands of transfer share, and the library's settings made of them."""

import dataclasses
from typing import Annotated

from experiments.masks import read_mask, read_rows
from fxjax.transfer_types import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Of every command that inverts faces and ranks masks."""

    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    features: Annotated[str | None, "VGG16 folder; None is what comes with the model"] = None
    steps: Annotated[int, "inversion steps"] = Settings.steps
    rate: Annotated[float, "inversion's learning rate"] = Settings.rate
    pull: Annotated[float, "weight that holds whitened codes near the mean"] = Settings.pull
    rows: Annotated[str, "rows to search: all, or such as 0-2,5,6+7 (+ ties rows)"] = "all"
    keep_pose: Annotated[bool, "leave out the rows up to 8 pixels, which carry the pose"] = False
    weight: Annotated[float, "of the appearance in the score E + weight * A"] = Settings.weight
    identity_weight: Annotated[
        float, "in the appearance, of features outside the eyes, brows and mouth"
    ] = Settings.identity_weight
    parts: Annotated[tuple[str, ...], "what changes: some of eyes,brows,mouth"] = Settings.parts
    score_size: Annotated[int, "pixels at which all masks are scored"] = Settings.score_size
    readout: Annotated[
        int | None, "score on StyleGAN2's picture of so many pixels, before later rows"
    ] = Settings.readout

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        for name in ("steps", "score_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}={getattr(self, name)}: want 1 or more")
        if self.identity_weight < 0:
            raise ValueError(f"--identity_weight={self.identity_weight}: want 0 (none) or more")
        return Settings(
            steps=self.steps,
            rate=self.rate,
            pull=self.pull,
            rows=read_rows(self.rows),
            keep_pose=self.keep_pose,
            weight=self.weight,
            parts=self.parts,
            score_size=self.score_size,
            readout=self.readout,
            identity_weight=self.identity_weight,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer(Search):
    """Of those that also change photos."""

    strength: Annotated[float, "how much of the expression, 0 to 1.5"] = Settings.strength
    mask: Annotated[str | None, "no search: 0s and 1s, row 0 first; 1 is the expression's"] = None
    tuning: Annotated[int, "steps that fit the weights to the person; 0: none"] = Settings.tuning

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        if not 0 <= self.strength <= 1.5:
            raise ValueError(f"--strength={self.strength}: want 0 (none) to 1.5")
        if self.tuning < 0:
            raise ValueError(f"--tuning={self.tuning}: want 0 (none) or more steps")
        return dataclasses.replace(
            super().settings(),
            strength=self.strength,
            mask=read_mask(self.mask),
            tuning=self.tuning,
        )
