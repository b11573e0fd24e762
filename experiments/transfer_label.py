"""A named expression for the faces in photos, in one pass each.

    python -m experiments.transfer_label --image=photo.jpg --expression=happiness \
        --out=runs/happy

--image takes a photo, a folder, a glob or a .txt list. --expression=all writes every expression
that the model knows and a contact sheet of the face. Writes NAME.png (or NAME_EXPRESSION.png and
NAME_sheet.png) at the photo's own size, and results.csv. Exit status 1 if a photo failed; all
others are done.
"""

import dataclasses
import sys
from typing import Annotated

import numpy as np
from etils import epath

from fxjax import files, steps, transfer_report
from fxjax.cli import launch
from fxjax.faces import align
from fxjax.faces.preflight import COVERED, unseen
from fxjax.images import contact_sheet, cut_out, save_image, to_uint8
from fxjax.labels.engine import LabelEngine
from fxjax.runs import worklist
from fxjax.transfer_types import Located, Pixels, Settings

CELL = 256  # pixels of a face on the contact sheet
GAP = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    image: Annotated[str, "a photo, a folder, a glob or a list of photos"]
    expression: Annotated[str, "which, or all"]
    model: Annotated[str, "label-driven model: a folder or a shipped one"] = "expressions"
    out: Annotated[str, "folder for the results"] = "runs/transfer_label"
    strength: Annotated[float, "how much of it, from 0 (none) to 1"] = 1.0
    face: Annotated[str, "whose: largest, all, a number (left to right), or x,y"] = "largest"
    parts: Annotated[tuple[str, ...], "what changes: some of eyes,brows,mouth"] = Settings.parts
    covered: Annotated[bool, "go on even if a mouth, or eyes that change, seem to be covered"] = (
        False
    )


def main(config: Config) -> None:
    """Changes every photo; a bad one gets its row and does not end the rest."""
    if not 0 <= config.strength <= 1:
        raise ValueError(f"--strength={config.strength:g}: want 0 (none) to 1")
    out = files.absolute(config.out)
    engine = LabelEngine(config.model, parts=config.parts)
    everything = config.expression == "all"
    wanted = engine.expressions if everything else (config.expression,)
    for name in wanted:
        engine.label(name)  # raises for one that is not known, before any work
    found, _ = worklist.find(config.image, out)
    note, rows = transfer_report.note(config.model), []
    names = worklist.photo_names(found)
    for path, name in steps.each(list(zip(found, names, strict=True)), "photos"):
        row = {"photo": str(path), "name": name, "faces": 0, "changed": 0, "status": "ok"}
        try:
            faces, results = _changed(engine, config, path, wanted)
            row |= {"faces": faces[0].faces, "changed": len(faces)}
        except (ValueError, OSError) as error:
            row["status"] = " ".join(str(error).split())
            print(f"{name}: {row['status']}", file=sys.stderr)
        else:
            for expression, photo in zip(wanted, results, strict=True):
                end = f"_{expression}" if everything else ""
                save_image(out / f"{name}{end}.png", cut_out(photo, faces[0].cutout), note=note)
            if everything:
                save_image(out / f"{name}_sheet.png", _sheet(faces, results), note=note)
        rows.append(row)
    files.write_table(out / "results.csv", rows)
    failed = [row for row in rows if row["status"] != "ok"]
    print(f"{len(rows) - len(failed)} of {len(rows)} photos are done; they are in {out}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(rows)} photos failed: {failed[0]['status']}")


def _changed(
    engine: LabelEngine, config: Config, path: epath.Path, wanted: tuple[str, ...]
) -> tuple[list[Located], list[Pixels]]:
    """The faces that change, and the photo with all of them changed, for each expression."""
    chosen = engine.locate(path, config.face)
    if len(chosen) == 1:
        for line in chosen[0].which(path.name):
            print(line)
    hidden = [(face, "" if config.covered else engine.hidden(face)) for face in chosen]
    faces = [face for face, part in hidden if not part]
    for face, part in hidden:
        if part and faces:
            print(f"{path.name}: the {part} of face {face.number} {COVERED[part]}; it stays")
    if not faces:
        raise ValueError(f"{path}: the {hidden[0][1]} of the face {unseen(hidden[0][1])}")
    results = [faces[0].photo] * len(wanted)
    for face in faces:
        for k, expression in enumerate(wanted):
            here = dataclasses.replace(face, photo=results[k])
            results[k] = engine.change(here, [expression], config.strength)[0]
    return faces, results


def _sheet(faces: list[Located], results: list[Pixels]) -> Pixels:
    """A row for each face: as it is, then with each expression, in the order of the names."""
    cells = []
    for face in faces:
        photos = face.photo, *results
        cells += [to_uint8(align.cut(photo, face.crop.at(CELL), CELL)) for photo in photos]
    return contact_sheet(np.stack(cells), columns=1 + len(results), gap=GAP)


if __name__ == "__main__":
    launch(Config, main)
