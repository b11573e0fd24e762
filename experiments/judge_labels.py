"""How well a label-driven model changes photos: the smile that is read, and whose face it is.

    python -m experiments.judge_labels --images=photos --model=expressions --out=runs/judge_labels

Every photo gets every expression; judges.csv has a row for each: the smile of the photo and of the
result (0 to about 1, read from landmarks), dlib's distance of identity (below 0.6 is one person),
and the PSNR outside eyes, brows and mouth. Prints the means by the expression that the model's
classifier sees in the photo.
"""

import dataclasses
from typing import Annotated

import numpy as np

from fxjax import assess, files, steps
from fxjax.cli import launch
from fxjax.codes.smile_samples import smile
from fxjax.labels.engine import LabelEngine
from fxjax.runs import worklist

MEANS = ("smile_before", "smile", "identity", "outside")


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    images: Annotated[str, "a photo, a folder, a glob or a list of photos"]
    model: Annotated[str, "label-driven model: a folder or a shipped one"] = "expressions"
    out: Annotated[str, "folder for the table"] = "runs/judge_labels"


def main(config: Config) -> None:
    """Changes, judges, writes, prints. Photos in which no face is found are named and left out."""
    out = files.absolute(config.out)
    engine = LabelEngine(config.model)
    judges = assess.Judges(engine.detector)
    found, _ = worklist.find(config.images, out)
    rows: list[dict[str, str | float]] = []
    for path, name in steps.each(
        list(zip(found, worklist.photo_names(found), strict=True)), "photos"
    ):
        try:
            face = engine.locate(path)[0]
        except (ValueError, OSError) as error:
            print(f"{name}: {error}")
            continue
        own = engine.expressions[int(np.argmax(engine.own_label(face)))]
        before = judges.see(face.photo, face)
        changed = engine.change(face, engine.expressions)
        for wanted, photo in zip(engine.expressions, changed, strict=True):
            after = judges.see(photo, face)
            if before is None or after is None:
                print(f"{name}: no face is found again ({wanted})")
                continue
            rows.append(
                {
                    "name": name,
                    "from": own,
                    "to": wanted,
                    "smile_before": smile(before.landmarks),
                    "smile": smile(after.landmarks),
                    "identity": float(np.linalg.norm(after.identity - before.identity)),
                    "outside": assess.outside(face, photo),
                }
            )
    if not rows:
        raise ValueError(f"no face was judged in the {len(found)} photos of {config.images}")
    files.write_table(out / "judges.csv", rows)
    print(summary(rows))


def summary(rows: list[dict[str, str | float]]) -> str:
    """The means for each expression before and after, as a table."""
    lines = [f"| from | to | faces | {' | '.join(MEANS)} |", f"|{' --- |' * (3 + len(MEANS))}"]
    for pair in sorted({(str(row["from"]), str(row["to"])) for row in rows}):
        those = [row for row in rows if (row["from"], row["to"]) == pair]
        values = [[v for row in those if np.isfinite(v := float(row[k]))] for k in MEANS]
        means = [np.mean(each) if each else np.nan for each in values]
        shown = " | ".join(f"{mean:.3g}" for mean in means)
        lines.append(f"| {' | '.join(pair)} | {len(those)} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    launch(Config, main)
