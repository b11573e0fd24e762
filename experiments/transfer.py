"""Two photos in, the first with the expression of the second out, every mask ranked.

    python -m experiments.transfer --appearance=A.jpg --expression=B.jpg --out=runs/transfer

Writes result.png, side_by_side.png, ranking.csv (all masks), codes.npz and report.html. With
several faces (--face=all) each has its own folder, and the last result has all changes.
"""

import dataclasses
import time
from typing import Annotated

from tqdm import tqdm

from experiments import transfer_files
from experiments.launch import launch
from experiments.masks import read_mask, read_rows
from fxjax import assess, files
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.transfer_types import Settings


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    appearance: Annotated[str, "the photo whose face changes"]
    expression: Annotated[str, "the photo whose expression it gets"]
    out: Annotated[str, "folder for the results"] = "runs/transfer"
    model: Annotated[str, "generator: a model folder or the name of a shipped model"] = "faces"
    features: Annotated[str | None, "VGG16 folder; None is what comes with the model"] = None
    face: Annotated[str, "whose: largest, all, a number (left to right), or x,y"] = "largest"
    driver_face: Annotated[str, "whose expression: largest, a number, or x,y"] = "largest"
    steps: Annotated[int, "inversion steps"] = Settings.steps
    rate: Annotated[float, "inversion's learning rate"] = Settings.rate
    pull: Annotated[float, "weight that holds codes near the mean"] = Settings.pull
    rows: Annotated[str, "rows to search: all, or such as 0-2,5,6+7 (+ ties rows)"] = "all"
    keep_pose: Annotated[bool, "leave out the rows up to 8 pixels, which carry the pose"] = False
    weight: Annotated[float, "of the appearance in the score E + weight * A"] = Settings.weight
    strength: Annotated[float, "how much of the expression, 0 to 1.5"] = Settings.strength
    mask: Annotated[str | None, "no search: 0s and 1s, row 0 first; 1 is the expression's"] = None
    score_size: Annotated[int, "pixels at which all masks are scored"] = Settings.score_size
    top: Annotated[int, "also write the results of this many best masks"] = 1
    poisson: Annotated[bool, "blend by gradients rather than by colours"] = False
    compare: Annotated[bool, "measure simpler methods beside the result"] = True


def settings_of(config: Config) -> Settings:
    """The library's settings. ValueError for what is out of range."""
    if not 0 <= config.strength <= 1.5:
        raise ValueError(f"--strength={config.strength}: want 0 (none) to 1.5")
    for name in ("steps", "score_size", "top"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name}={getattr(config, name)}: want 1 or more")
    return Settings(
        steps=config.steps,
        rate=config.rate,
        pull=config.pull,
        rows=read_rows(config.rows),
        keep_pose=config.keep_pose,
        weight=config.weight,
        strength=config.strength,
        mask=read_mask(config.mask),
        score_size=config.score_size,
        poisson=config.poisson,
    )


def main(config: Config) -> None:
    """Loads, transfers, writes."""
    out, began = files.absolute(config.out), time.monotonic()
    engine = Engine(config.model, config.features, settings_of(config))
    with tqdm(total=100, disable=None, bar_format="{desc:<10} {bar} {n:3.0f} %") as bar:

        def show(step: str, share: float) -> None:
            bar.set_description_str(step, refresh=False)
            bar.update(100 * share - bar.n)

        results = engine(
            config.appearance,
            config.expression,
            face=config.face,
            driver_face=config.driver_face,
            progress=show,
        )
    shown = ("model", "steps", "rows", "weight", "strength", "score_size")
    facts = {name: str(getattr(config, name)) for name in shown}
    judges = assess.Judges(engine.detector)
    for index, result in enumerate(results):
        folder = out if len(results) == 1 else out / f"face{index}"
        measured = assess.table(engine, judges, result, compare=config.compare)
        seconds = {**result.seconds, "in all": time.monotonic() - began}
        transfer_files.write(
            folder,
            engine,
            dataclasses.replace(result, seconds=seconds),
            measured,
            facts,
            config.top,
        )
        if result.alike:
            print("the two faces are alike: nothing was changed")
        gain, near = measured[0].gain, measured[0].to_person
        print(f"gain {gain:.2f}, identity distance {near:.2f}; open {folder / 'report.html'}")
    if len(results) > 1:
        save_image(out / "result.png", results[-1].image, note=transfer_files.note(config.model))


if __name__ == "__main__":
    launch(Config, main)
