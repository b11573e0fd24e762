"""Flags that the commands of transfer share, and the library's settings made of them."""

import dataclasses
import re
from typing import Annotated

from fxjax.transfer_types import Rows, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion:
    """Flags of every command that inverts faces."""

    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    features: Annotated[str | None, "VGG16 folder; None is what comes with the model"] = None
    steps: Annotated[int, "inversion steps"] = Settings.steps
    start: Annotated[str, "of inversions: mean, encoder (the model's), or a folder with one"] = (
        Settings.start
    )
    rate: Annotated[float, "inversion's learning rate"] = Settings.rate
    pull: Annotated[float, "weight that holds whitened codes near the mean"] = Settings.pull
    parts: Annotated[tuple[str, ...], "what changes: some of eyes,brows,mouth"] = Settings.parts
    covered: Annotated[bool, "go on even if a mouth, or eyes that change, seem to be covered"] = (
        Settings.covered
    )

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        if self.steps < 1:
            raise ValueError(f"--steps={self.steps}: want 1 or more")
        kept = ("steps", "start", "rate", "pull", "parts", "covered")
        return Settings(**{name: getattr(self, name) for name in kept})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Inversion):
    """Flags of commands that rank masks."""

    rows: Annotated[
        str,
        "rows to search: all, or such as 0-2,5,6+7 (+ ties rows); auto is all, but on a CPU, if "
        "they are more than ten, those that decide, 2-7",
    ] = "auto"
    keep_pose: Annotated[bool, "leave out the rows up to 8 pixels, which carry the pose"] = False
    weight: Annotated[float, "of the appearance in the score E + weight * A"] = Settings.weight
    score_size: Annotated[int, "pixels at which all masks are scored"] = Settings.score_size
    readout: Annotated[
        int | None, "score on StyleGAN2's picture of so many pixels, before later rows"
    ] = Settings.readout

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        if self.score_size < 1:
            raise ValueError(f"--score_size={self.score_size}: want 1 or more")
        return dataclasses.replace(
            super().settings(),
            rows=read_rows(self.rows),
            keep_pose=self.keep_pose,
            weight=self.weight,
            score_size=self.score_size,
            readout=self.readout,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing(Inversion):
    """Flags of commands that change photos."""

    strength: Annotated[float, "how much of the expression, 0 to 1.5"] = Settings.strength
    tuning: Annotated[int, "steps that fit the weights to the person; 0: none"] = Settings.tuning
    refine: Annotated[int, "steps that move the code to the expression; 0: none"] = Settings.refine

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        if not 0 <= self.strength <= 1.5:
            raise ValueError(f"--strength={self.strength}: want 0 (none) to 1.5")
        for name in ("tuning", "refine"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}={getattr(self, name)}: want 0 (none) or more steps")
        kept = {name: getattr(self, name) for name in ("strength", "tuning", "refine")}
        return dataclasses.replace(super().settings(), **kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer(Search, Drawing):
    """Flags of commands that rank masks and change photos."""

    mask: Annotated[str | None, "no search: 0s and 1s, row 0 first; 1 is the expression's"] = None

    def settings(self) -> Settings:
        """The library's settings. ValueError for what is out of range."""
        return dataclasses.replace(super().settings(), mask=read_mask(self.mask))


def read_mask(text: str | None) -> tuple[bool, ...] | None:
    """0s and 1s, row 0 first (ValueError for anything else)."""
    if text is None:
        return None
    if not re.fullmatch("[01]+", text):
        raise ValueError(f"--mask={text}: want 0s and 1s, one for each row, row 0 first")
    return tuple(digit == "1" for digit in text)


def read_rows(text: str) -> Rows:
    """Groups of rows from a list such as 0-2,5,6+7, where + ties rows to one bit; None for auto."""
    if text == "auto":
        return None
    if text == "all":
        return "all"
    groups: list[tuple[int, ...]] = []
    for part in text.split(","):
        if span := re.fullmatch(r"(\d+)-(\d+)", part):
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise ValueError(f"--rows={text}: {part} runs backwards; want {last}-{first}")
            groups += [(row,) for row in range(first, last + 1)]
        elif re.fullmatch(r"\d+(\+\d+)*", part):
            groups.append(tuple(int(row) for row in part.split("+")))
        else:
            raise ValueError(f"--rows={text}: want auto, all, or rows such as 0-2,5,6+7")
    return tuple(groups)
