"""The results of an inversion: a row for each face, its files, the table and the report."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from fxjax import files, report, steps
from fxjax.images import load_image, save_image
from fxjax.runs import journal
from fxjax.runs.worklist import OK, Entry
from fxjax.types import AnyPhoto

FOLDERS = ("codes", "targets", "reconstructions", "tuned", "curves", "strips")
FILES = ("results.csv", "report.html", "sheet.png")
SHEET = 64  # pairs on the contact sheet
NOTES = {
    "tuned": "drawn by the generator after its weights were fitted to this face",
    "curve": "the loss over the steps of the search, on a logarithmic scale",
    "loss": "what the search made smaller; lower is better, among runs with the same loss",
    "PSNR": "how near the pixels are to the photo's, in dB; higher is better, and 6 more are half "
    "the error",
    "SSIM": "how alike edges and textures are; higher is better, 1 is equal",
    "LPIPS-style": "how far apart the two are for the features of VGG16; lower is better, 0 is "
    "equal",
    "strip": "the search as it went, and the photo at its end",
}


class Row(NamedTuple):
    """A line of results.csv."""

    photo: str
    name: str
    status: str
    loss: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    seconds: float | None = None
    message: str = ""
    loss_tuned: float | None = None
    psnr_tuned: float | None = None
    ssim_tuned: float | None = None
    lpips_tuned: float | None = None


class Progress(steps.Counted):
    """A context that shows this process's share; with `tensorboard` also scalars for that."""

    def __init__(self, out: epath.Path, entries: Sequence[Entry], batch: int, *, tensorboard: bool):
        faces = sum(entry.status == OK for entry in entries)
        mine = range(batch * jax.process_index(), faces, batch * jax.process_count())
        super().__init__("invert", sum(min(batch, faces - first) for first in mine), "images")
        self.board = None
        if tensorboard:
            folder = f"{out}/tensorboard/{jax.process_index()}"
            self.board = steps.board(folder, "curves/*.csv has them too")

    def __exit__(self, *_: object):
        """Clears the line, and closes what TensorBoard reads."""
        super().__exit__()
        if self.board is not None:
            self.board.close()

    def finished(self, row: Row, curve: Sequence[float | int]) -> None:
        """A face is done."""
        if self.board is not None and row.status == OK:
            for step, value in enumerate(curve):
                self.board.add_scalar(f"loss/{row.name}", float(value), step)
            self.board.flush()


def read_rows(out: epath.Path, first: int) -> list[Row] | None:
    """The rows of the batch that begins with this face, or None if it is not done.

    It is done if its rows are there and no code of theirs was taken away.
    """
    saved = journal.read(out, _rows_of(first))
    if saved is None:
        return None
    rows = [Row(*row) for row in saved]
    codes = [out / "codes" / f"{row.name}.npz" for row in rows if row.status == OK]
    return rows if all(code.exists() for code in codes) else None


def write_rows(out: epath.Path, first: int, rows: Sequence[Row]) -> None:
    """Marks a batch as done."""
    journal.write(out, _rows_of(first), rows)


def _rows_of(first: int) -> str:
    return f"rows/{first:07d}"


def all_done(out: epath.Path, entries: Sequence[Entry]) -> bool:
    """Whether every batch of these faces is done."""
    first, count = 0, sum(entry.status == OK for entry in entries)
    while first < count:
        if (rows := read_rows(out, first)) is None:
            return False
        first += len(rows)
    return True


def all_rows(out: epath.Path, entries: Sequence[Entry]) -> list[Row]:
    """A row for every entry, in their order; waits for those of other processes."""
    found: dict[str, Row] = {}
    first, count = 0, sum(entry.status == OK for entry in entries)
    while first < count:
        rows = journal.wait(functools.partial(read_rows, out, first))
        found.update((row.name, row) for row in rows)
        first += len(rows)
    return [
        found[entry.name]
        if entry.status == OK
        else Row(entry.photo, entry.name, entry.status, message=entry.message)
        for entry in entries
    ]


def write_table(out: epath.Path, rows: Sequence[Row]) -> None:
    """Writes results.csv."""
    files.write_lines(out / "results.csv", [Row._fields, *rows], digits=6)


def write_report(out: epath.Path, rows: Sequence[Row], facts: Mapping[str, str]) -> None:
    """Writes report.html, and sheet.png with the first faces' targets and reconstructions."""
    good = [row for row in rows if row.status == OK]
    strips = any((out / "strips" / f"{row.name}.png").exists() for row in good[:1])
    tuned = any(row.psnr_tuned is not None for row in good)
    head = ["target", "reconstruction", *(["tuned"] if tuned else []), "curve"]
    head += [*(["strip"] if strips else []), "name", "status", "loss", "PSNR", "SSIM"]
    head += ["LPIPS-style", "seconds"]
    head += ["PSNR tuned", "SSIM tuned", "LPIPS-style tuned"] if tuned else []
    cells = _cells(out, rows, strips, tuned)
    above = _summary(out, rows) + "<h2>The faces</h2>"
    notes = {name: note for name, note in NOTES.items() if name in head}
    text = report.page("Photos in, codes out", facts, head, cells, above=above, notes=notes)
    files.write(out / "report.html", text.encode())
    if good:
        shown = good[:SHEET]
        targets = np.stack([_picture(out, "targets", row) for row in shown])
        found = np.stack([_picture(out, "reconstructions", row) for row in shown])
        save_image(out / "sheet.png", report.pairs_sheet(targets, found))


def _summary(out: epath.Path, rows: Sequence[Row]) -> str:
    """The first face beside what was drawn of it, and in words what came of all."""
    good = [row for row in rows if row.status == OK]
    told = report.verdict(
        f"{len(good)} of {len(rows)} faces have a code"
        + ("." if len(good) == len(rows) else "; the others' status says why not."),
        len(good) == len(rows),
    )
    if not good:
        return told
    tuned = good[0].psnr_tuned is not None
    drawn = ("tuned", "tuned reconstruction") if tuned else ("reconstructions", "reconstruction")
    photo, picture = (_picture(out, folder, good[0]) for folder in ("targets", drawn[0]))
    hero = report.slider(photo, picture, names=("photo", drawn[1]))
    means = {
        "loss": [row.loss for row in good],
        "PSNR": [row.psnr for row in good],
        "SSIM": [row.ssim for row in good],
        "LPIPS-style distance": [row.lpips for row in good],
        "PSNR tuned": [row.psnr_tuned for row in good],
    }
    said = []
    for name, values in means.items():
        known = [value for value in values if value is not None]
        if known:
            said.append(f"{name} {np.mean(known):.4g}" + " dB" * name.startswith("PSNR"))
    words = f"On average: {', '.join(said)}."
    shown = report.escape(f"Shown: {good[0].name}, the first face.")
    return (
        f'<section class="hero">{hero}</section><p class="note">{shown}</p>'
        f"{told}<p>{report.escape(words)}</p>"
    )


def _cells(
    out: epath.Path, rows: Sequence[Row], strips: bool, tuned: bool
) -> Iterator[list[report.Cell]]:
    for row in rows:
        shown: list[report.Cell] = [None, None, *([None] if tuned else []), None]
        shown += [None] if strips else []
        if row.status == OK:
            shown[0] = report.Picture(_picture(out, "targets", row))
            shown[1] = report.Picture(_picture(out, "reconstructions", row))
            if row.psnr_tuned is not None:
                shown[2] = report.Picture(_picture(out, "tuned", row))
            shown[2 + tuned] = report.Curve(_curve(out / "curves" / f"{row.name}.csv"))
            if strips:
                shown[-1] = report.Picture(_picture(out, "strips", row))
        scores = [row.loss, row.psnr, row.ssim, row.lpips, row.seconds]
        scores += [row.psnr_tuned, row.ssim_tuned, row.lpips_tuned] if tuned else []
        status = f"{row.status}: {row.message}" if row.message else row.status
        yield [*shown, row.name, status, *scores]


def _picture(out: epath.Path, folder: str, row: Row) -> AnyPhoto:
    return load_image(out / folder / f"{row.name}.png")


def _curve(path: epath.Path) -> list[float]:
    return [float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]]


def write_face(
    out: epath.Path,
    entry: Entry,
    ws: np.ndarray,
    settings: str,
    curve: Sequence[float | int],
    pictures: Mapping[str, AnyPhoto],
    noise: Sequence[np.ndarray] = (),
) -> None:
    """Writes one face's pictures (folder -> picture), curve, and code, the code last.

    `noise` are its own noise images, kept as noise0, noise1, ... for `invert.with_noise`.
    """
    for folder, picture in pictures.items():
        save_image(out / folder / f"{entry.name}.png", picture)
    lines = ["step,loss", *(f"{step},{value:.7g}" for step, value in enumerate(curve))]
    files.write(out / "curves" / f"{entry.name}.csv", ("\n".join(lines) + "\n").encode())
    unknown = np.full((68, 2), math.nan)
    landmarks = unknown if entry.landmarks is None else np.array(entry.landmarks)
    arrays = {
        "ws": ws.astype(np.float32),
        "photo_from_crop": np.array(entry.photo_from_crop),
        "landmarks": landmarks,
        "photo": np.array(entry.photo),
        "settings": np.array(settings),
    } | {f"noise{index}": image for index, image in enumerate(noise)}
    files.write(out / "codes" / f"{entry.name}.npz", files.npz(arrays))
