"""Two photos in, the first with the expression of the second out, every mask ranked.

    python -m experiments.transfer --appearance=A.jpg --expression=B.jpg --out=runs/transfer

Writes result.png, side_by_side.png, ranking.csv (all masks), codes.npz and report.html. With
several faces (--face=all) each has its own folder, and the last result has all changes.
"""

import dataclasses
import math
import time
from typing import Annotated

from fxjax import assess, files, sharding, transfer_report
from fxjax.cli import launch
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.runs import transfer_flags
from fxjax.steps import Steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Transfer):
    """Each field is a flag."""

    appearance: Annotated[str, "the photo whose face changes"]
    expression: Annotated[str, "the photo whose expression it gets"]
    out: Annotated[str, "folder for the results"] = "runs/transfer"
    face: Annotated[str, "whose: largest, all, a number (left to right), or x,y"] = "largest"
    driver_face: Annotated[str, "whose expression: largest, a number, or x,y"] = "largest"
    top: Annotated[int, "also write the results of this many best masks"] = 1
    compare: Annotated[bool, "measure simpler methods beside the result"] = True
    joint: Annotated[bool, "and a code searched freely, which takes as long as inversion"] = False


def main(config: Config) -> None:
    """Loads, transfers, writes."""
    out, began = files.absolute(config.out), time.monotonic()
    if config.top < 1:
        raise ValueError(f"--top={config.top}: want 1 or more")
    if config.top > 1 and config.mask:
        raise ValueError("--top is of ranked masks, but --mask gives the one; leave one out")
    with Steps() as progress:
        progress("models", 0.0)
        engine = Engine(config.model, config.features, config.settings())
        if engine.saved:
            progress.say(engine.saved)
        faces = {"face": config.face, "driver_face": config.driver_face}
        results = engine(config.appearance, config.expression, **faces, progress=progress)
        judges, tables = assess.Judges(engine.detector), []
        for result in results:
            progress("comparison", len(tables) / len(results))
            compared = {"compare": config.compare, "joint": config.joint}
            tables.append(assess.table(engine, judges, result, **compared))
    shown = ["model", "steps", "rows", "weight", "strength", "score_size", "tuning", "refine"]
    shown += ["readout"] if config.readout else []
    facts = {name: str(getattr(config, name)) for name in shown}
    facts["device"] = sharding.described()
    if engine.saved:
        facts["masks"] = engine.saved
    for index, (result, measured) in enumerate(zip(results, tables, strict=True)):
        folder = out if len(results) == 1 else out / f"face{index}"
        seconds = {**result.seconds, "in all": time.monotonic() - began}
        transfer_report.write(
            folder,
            engine,
            dataclasses.replace(result, seconds=seconds),
            measured,
            facts,
            config.top,
        )
        for word in result.warnings.words:
            print(f"before: {word}")
        print(result.kept or f"{result.verdict.text} ({result.drawn})")
        if result.ranked is not None and result.ranked.pushed:
            print("by the score nothing should be taken; applied the best mask that goes half way")
        if result.ranked is not None and not math.isnan(result.ranked.agreement):
            print(f"rank correlation before and in full: {result.ranked.agreement:.2f}")
        gain, near = measured[0].gain, measured[0].to_person
        print(f"gain {gain:.2f}, identity distance {near:.2f}; open {folder / 'report.html'}")
    if len(results) > 1:
        save_image(out / "result.png", results[-1].picture, note=transfer_report.note(config.model))


if __name__ == "__main__":
    launch(Config, main)
