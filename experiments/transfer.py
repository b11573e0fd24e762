"""Two photos in, the first with the expression of the second out, every mask ranked.

    python -m experiments.transfer --appearance=A.jpg --expression=B.jpg --out=runs/transfer

Writes result.png, side_by_side.png, ranking.csv (all masks), codes.npz and report.html. With
several faces (--face=all) each has its own folder with these of its surroundings, and result.png
and report.html are of all; killed, the same command goes on with the faces that are left.
"""

import dataclasses
import math
import time
from typing import Annotated, Any

from etils import epath

from fxjax import assess, files, sharding, transfer_report
from fxjax.cli import launch
from fxjax.engine import Engine
from fxjax.runs import group, transfer_flags
from fxjax.steps import Steps
from fxjax.transfer_types import Transfer


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
    lines: list[str] = []
    with Steps() as progress:
        progress("models", 0.0)
        engine = Engine(config.model, config.features, config.settings())
        if engine.saved:
            progress.say(engine.saved)
        judges, facts = assess.Judges(engine.detector), facts_of(config, engine)

        def work(folder: epath.Path, result: Transfer) -> dict[str, Any]:
            """Measures a face, writes its files, and returns what is said of it."""
            progress("comparison", 0.0)
            compared = {"compare": config.compare, "joint": config.joint}
            measured = assess.table(engine, judges, result, **compared)
            seconds = {**result.seconds, "in all": time.monotonic() - began}
            result = dataclasses.replace(result, seconds=seconds)
            transfer_report.write(folder, engine, result, measured, facts, config.top)
            gain, near = measured[0].gain, measured[0].to_person
            where = folder / "report.html"
            lines.extend(said(result))
            lines.append(f"gain {gain:.2f}, identity distance {near:.2f}; open {where}")
            return group.row_of(result, gain, near)

        people = engine.locate(config.appearance, "all") if config.face == "all" else []
        if len(people) > 1:
            driver = engine.driver(config.expression, config.driver_face)
            kept = dataclasses.asdict(config)
            del kept["appearance"], kept["expression"], kept["out"]
            group.transfer(engine, people, driver, out, kept, facts, work, progress)
            lines.append(f"{len(people)} faces; open {out / 'report.html'}")
        else:
            faces = {"face": config.face, "driver_face": config.driver_face}
            (result,) = engine(config.appearance, config.expression, **faces, progress=progress)
            work(out, result)
    print("\n".join(lines))


def facts_of(config: Config, engine: Engine) -> dict[str, str]:
    """What a report says of its run."""
    shown = ["model", "steps", "rows", "weight", "strength", "score_size", "tuning", "refine"]
    shown += ["readout"] if config.readout else []
    facts = {name: str(getattr(config, name)) for name in shown}
    facts["device"] = sharding.described()
    return facts | ({"masks": engine.saved} if engine.saved else {})


def said(result: Transfer) -> list[str]:
    """What there is to say of a face, in lines."""
    lines = [f"before: {word}" for word in result.warnings.words]
    lines.append(result.kept or f"{result.verdict.text} ({result.drawn})")
    if result.ranked is not None and result.ranked.pushed:
        lines.append(
            "by the score nothing should be taken; applied the best mask that goes half way"
        )
    if result.ranked is not None and not math.isnan(result.ranked.agreement):
        lines.append(f"rank correlation before and in full: {result.ranked.agreement:.2f}")
    return lines


if __name__ == "__main__":
    launch(Config, main)
