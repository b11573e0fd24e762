"""Every kind of report, drawn from rows made by hand: no model runs."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import skimage.data
from etils import epath
from facemodels import ARCHITECTURE
from flax import nnx

from fxjax import assess, transfer_report
from fxjax.faces import align, verdict
from fxjax.images import save_image
from fxjax.labels import comparison_report
from fxjax.labels.comparison import Trained
from fxjax.labels.networks import LabelSettings
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.runs import batch, batch_page, group, inverted, loss_page, loss_sweep
from fxjax.runs.pairs import Pair
from fxjax.runs.worklist import Entry
from fxjax.transfer_types import Located, Ranked, Transfer
from fxjax.types import Photo

ROWS = 18  # of a generator as large as any
FACTS = {"model": "models/of-a-person-who-likes-very-long-names-of-folders", "steps": "500"}
LONG = "a-photo-with-a-very-long-name-of-somebody-from-somewhere-20260101"
UNSURE = "skin discoloured"


def photo(side: int = 900) -> Photo:
    """The astronaut."""
    return cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)


def located(picture: Photo) -> Located:
    """A face in the middle of a photo."""
    size = 128
    place = np.array([[3.0, 0, 100], [0, 3, 50], [0, 0, 1]])
    crop = align.Crop(align.cut(picture, place, size), place)
    return Located(picture, np.full((68, 2), 250.0) + np.arange(136).reshape(68, 2), crop)


def transfer(out: pathlib.Path) -> str:
    """A transfer with all masks of four rows."""
    person, driver = located(photo()), located(photo()[:, ::-1].copy())
    masks = np.array([[int(bit) for bit in f"{k:04b}"] for k in range(16)], bool)
    masks = np.concatenate([masks, np.zeros((16, ROWS - 4), bool)], axis=1)
    one, other = masks.mean(1), 1 - masks.mean(1)
    ranked = Ranked(masks, one, other, one + other, one >= 0, 16)
    drawn = np.stack([align_bytes(person)] * 3)
    generator = StyleGAN2(**ARCHITECTURE, rngs=nnx.Rngs(0))  # never drawn
    found = Transfer(
        255 - person.photo, drawn[0], person, driver, drawn, np.zeros((4, ROWS, 8), np.float32),
        masks[3], ranked, False, {"expression": 0.3, "appearance": 0.1},
        verdict.Verdict((UNSURE,), {}), verdict.Verdict(("the face is small",), {}), "refined",
        np.zeros((2, 1), np.float32), {"inversion": 3.0}, generator,
    )  # fmt: skip
    names = ("result", "copy of the first", "pasted mouth")
    measured = [
        assess.Assessed(name, person.photo, 0.75 - k / 4, 0.2 + k / 4, 0.9, 30.0, 0.1 * k, math.nan)
        for k, name in enumerate(names)
    ]
    draw = lambda masks: np.repeat(driver.crop.image[None], len(masks), axis=0)
    return transfer_report.page(found, measured, draw, FACTS)


def align_bytes(face: Located) -> Photo:
    """The crop of a face as bytes."""
    return np.clip((face.crop.image + 1) * 127.5, 0, 255).astype(np.uint8)


def grouped(out: pathlib.Path) -> str:
    """Three faces of a photo, of which the second has a fault."""
    person = located(photo())
    said = (verdict.WHOLE, UNSURE, verdict.WHOLE)
    done = [
        group.Done(
            {"verdict": text, "gain": 0.5 + k / 8, "identity distance": None if k else 0.3},
            person.photo[:300, :400],
            255 - person.photo[:300, :400],
        )
        for k, text in enumerate(said)
    ]
    group.write(epath.Path(out), person, person, 255 - person.photo, done, FACTS)
    return (out / "report.html").read_text()


def several(out: pathlib.Path, count: int = 4) -> str:
    """A batch of which the second looks wrong and the last one failed."""
    face = located(photo(500))
    place = face.crop.photo_from_crop.tolist()
    paths = [out / f"{LONG}-{k}.png" for k in range(count + 1)]
    for path in paths:
        save_image(path, face.photo)
        save_image(out / "inversion" / "targets" / path.name, align_bytes(face))
    pairs = [
        Pair(epath.Path(a), epath.Path(b), (a.stem, b.stem), f"{a.stem}__{b.stem}")
        for a, b in itertools.pairwise(paths)
    ]
    rows: list[dict[str, Any]] = []
    for k, pair in enumerate(pairs):
        if k == count - 1:
            rows.append({"status": "failed", "message": "no face <b>is</b> found"})
            continue
        save_image(out / "results" / f"{pair.name}.png", 255 - face.photo)
        save_image(out / "faces" / f"{pair.name}.png", photo(256))
        numbers = (0.75 - k / 8, 0.3, 0.9, 33.33, 0.123456, 0.0987654)
        rows.append(
            {"status": "ok", "message": "", "verdict": UNSURE if k == 1 else verdict.WHOLE}
            | {"mask": "0101" + "0" * (ROWS - 4)}
            | {
                f"result: {name}": value
                for name, value in zip(batch.MEASURES, numbers, strict=True)
            }
        )
        for name in ("pasted mouth", "rows (3, 4) (paper)"):
            rows[-1] |= {f"{name}: {field}": numbers[0] / 2 for field in batch.MEASURES}
    entries = {epath.Path(p): Entry(str(p), p.stem, photo_from_crop=place) for p in paths}
    summary = batch.summarize([row for row in rows if row["status"] == "ok"])
    return batch_page.page(epath.Path(out), pairs, rows, summary, FACTS, entries)


def masks(out: pathlib.Path) -> str:
    """Three pairs of 18 rows: row 4 carries the expression, row 1 the pose, row 9 the person."""
    effects, alone = np.full((ROWS, 2), -0.01), np.full((ROWS, 3), 0.05)
    effects[0], effects[4] = math.nan, (-0.4, 0.1)
    alone[4, 0], alone[1, 1], alone[9, 2] = 0.5, 0.6, 0.3
    mask = "".join("1" if row == 4 else "0" for row in range(ROWS))
    other = "".join("1" if row in (4, 6) else "0" for row in range(ROWS))
    rows = [
        {"mask": each, "masks": 4096, "rank of paper rows": 7 + k, "alone": (alone + k / 99)}
        | {"effects": effects + k / 99}
        for k, each in enumerate((mask, mask, other))
    ]
    return batch_page.mask_page(rows, batch.row_table(rows), FACTS)


def inversion(out: pathlib.Path) -> str:
    """Two faces, tuned, with strips, and a refused photo."""
    rows = []
    for k in range(2):
        name, size = f"{LONG}-{k}", 128
        for folder in ("targets", "reconstructions", "tuned"):
            save_image(out / folder / f"{name}.png", photo(size))
        save_image(out / "strips" / f"{name}.png", np.tile(photo(size), (1, 8, 1)))
        (out / "curves").mkdir(exist_ok=True)
        (out / "curves" / f"{name}.csv").write_text("step,loss\n0,1.5\n1,1.1\n2,0.9\n")
        numbers = (0.9 - k / 2, 20.0 + 5 * k, 0.5, 0.1234567, 100.0)
        rows.append(inverted.Row("p", name, "ok", *numbers, "", 0.1, 27.0 + k, 0.7, 0.05))
    rows.append(inverted.Row("q", "q", "no_face", message="no face is found in " + LONG))
    inverted.write_report(epath.Path(out), rows, FACTS)
    return (out / "report.html").read_text()


def losses(out: pathlib.Path) -> str:
    """Four losses on two faces; one of them could not be searched."""
    layers = ["pixels", "block1_conv2", loss_sweep.PAPER, "block5_conv3"]
    results = []
    for k, layer in enumerate(layers):
        for name in ("a", "b"):
            for folder in ("targets", "reconstructions"):
                place = loss_sweep.folder_of(epath.Path(out), layer) / folder / f"{name}.png"
                save_image(place, photo(64))
            if (k, name) == (3, "b"):
                results.append(loss_sweep.Result("p", name, layer, "nonfinite"))
                continue
            apart = 0.6 - k / 10 - (name == "a") / 20
            numbers = (0.5, apart, 0.1), (0.3, 20.0 - k, 0.6, 9.0)
            results.append(loss_sweep.Result("p", name, layer, "ok", *numbers[0], 1, *numbers[1]))
    loss_page.write(epath.Path(out), layers, results, FACTS, "LPIPS-style")
    return (out / "report.html").read_text()


def labels(out: pathlib.Path) -> str:
    """Both models, whose differences have both signs."""
    found = {
        "liu_jin": {"GMAC (256 px, 4 labels)": 2.0, "PSNR": 24.0, "parameters": 7897007},
        "fader": {"GMAC (256 px, 4 labels)": 4.0, "PSNR": 20.0, "parameters": 14032352},
        comparison_report.MASKS: {"PSNR": 30.0},
    }
    settings: Any = dataclasses.replace(LabelSettings(), expressions="neutral,happy")
    state: Any = None
    runs = {
        name: Trained(settings, state, [0.1] * 50, list(np.linspace(2, 0.1, 50)), 9.0)
        for name in ("liu_jin", "fader")
    }
    sheets = {name: np.tile(photo(64), (3, 9, 1)) for name in runs}
    return comparison_report.as_page(found, "faces " + LONG, runs, sheets)


DRAWN: dict[str, Callable[[pathlib.Path], str]] = {
    "transfer": transfer,
    "group": grouped,
    "batch": several,
    "masks": masks,
    "inversion": inversion,
    "losses": losses,
    "labels": labels,
}
KINDS = tuple(DRAWN)


def write(kind: str, out: pathlib.Path) -> pathlib.Path:
    """Writes a page of that kind into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    text = DRAWN[kind](out)
    path = out / "report.html"
    path.write_text(text)
    return path
