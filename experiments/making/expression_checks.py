"""What the reader of expressions says of pictures it was not trained on, against other judges."""

import collections
import zipfile

import cv2
import numpy as np
from etils import epath

from fxjax import files, metrics, tables
from fxjax.faces import detect, expression
from fxjax.training import data

SMILE = ("mouthSmile_L", "mouthSmile_R")
LABELLED = 80  # pictures of each label that are looked at


def run(weights: expression.Weights, folder: epath.PathLike | None) -> None:
    """Prints the reliabilities, and with a data folder the checks on its pictures."""
    order = np.argsort(-weights.reliability)
    listed = ", ".join(f"{weights.names[i]} {weights.reliability[i]:.2f}" for i in order)
    print(f"reliability (R2 on new faces): {listed}")
    if folder is None:
        return
    rows, values = read_good(folder, "omi/omi_train.csv", "omi/omi_train_landmarks.npz", weights)
    _manipulated(rows, values, weights)
    base = [i for i, row in enumerate(rows) if row["kind"] == "base"]
    smile = _mean(values, weights, SMILE)
    happy = np.array([float(rows[i]["happy"]) for i in base])
    print(
        f"omi: rank correlation of mouthSmile with the rating happy, {len(base)} base faces: "
        f"{metrics.rank_correlation(smile[base], happy):.2f}"
    )
    rows, values = read_good(
        folder, "portraits/portraits.csv", "portraits/portraits_landmarks.npz", weights
    )
    smile = _mean(values, weights, SMILE)
    score = np.array([float(row["smile_score"]) for row in rows])
    print(
        f"portraits: rank correlation of mouthSmile with smile_score, {len(rows)} faces: "
        f"{metrics.rank_correlation(smile, score):.2f}"
    )
    straight = labelled(folder, weights, "neutral", LABELLED)
    for label, names in {"happiness": SMILE, "surprise": ("jawOpen",)}.items():
        values = labelled(folder, weights, label, LABELLED)
        area = area_under(_mean(straight, weights, names), _mean(values, weights, names))
        print(
            f"expressions: {names[0]} tells {len(values)} of {label} from {len(straight)} neutral "
            f"ones, one per person: area under the curve {area:.2f}"
        )


def labelled(
    folder: epath.PathLike, weights: expression.Weights, label: str, count: int
) -> np.ndarray:
    """Coefficients of the first pictures with a label in expressions/, one per person."""
    base, detector, found = files.absolute(folder) / "expressions", detect.Detector(), []
    rows = tables.read(base / "train.csv")
    people = {row["person"]: row for row in rows if row["expression"] == label}
    with (base / "train_128_gray.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        inside = {name.rsplit("/", 1)[-1]: name for name in archive.namelist()}
        for row in sorted(people.values(), key=lambda row: row["file"])[:count]:
            encoded = np.frombuffer(archive.read(inside[row["file"]]), np.uint8)
            picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            if picture is None:
                raise ValueError(f"{base}: {row['file']} is not a picture")
            if faces := detector(picture):
                found.append(detect.choose(faces)[0].landmarks)
    return expression.outputs(np.stack(found), weights)[:, :-2]


def area_under(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`: the area under the ROC curve."""
    above = high[:, None] - low[None]
    return float(np.mean(above > 0) + np.mean(above == 0) / 2)


def read_good(
    folder: epath.PathLike, table: str, points: str, weights: expression.Weights
) -> tuple[list[tables.Row], np.ndarray]:
    """Rows of a table whose landmarks are good, and the coefficients of their faces."""
    base = files.absolute(folder)
    with (base / points).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        good = arrays["check_px"] <= 4 if "check_px" in arrays else arrays["score"] > 0
        found = {
            str(name): face
            for name, face, fine in zip(arrays["filename"], arrays["landmarks"], good, strict=True)
            if fine
        }
    rows = [row for row in data.read_table(base / table) if row["filename"] in found]
    landmarks = np.stack([found[row["filename"]] for row in rows])
    return rows, expression.outputs(landmarks, weights)[:, :-2]


def _mean(values: np.ndarray, weights: expression.Weights, names: tuple[str, ...]) -> np.ndarray:
    return values[:, [weights.names.index(name) for name in names]].mean(axis=1)


def _manipulated(rows: list[tables.Row], values: np.ndarray, weights: expression.Weights) -> None:
    """How attributes change one person's smile, and the whole expression, from level 0 to 2."""
    faces: dict[tuple[str, str], dict[str, np.ndarray]] = collections.defaultdict(dict)
    for row, value in zip(rows, values, strict=True):
        if row["kind"] == "manipulated":
            faces[row["attribute"], row["source_id"]][row["level"]] = value
    print("omi, level 0 to 2: change of mouthSmile (mean, in deviations of the change), and")
    print("of the whole expression (distance of the means from one level to the other)")
    for attribute in sorted({name for name, _ in faces}):
        moved = np.stack(
            [
                levels["2"] - levels["0"]
                for (name, _), levels in faces.items()
                if name == attribute and {"0", "2"} <= levels.keys()
            ]
        )
        smile = _mean(moved, weights, SMILE)
        whole = np.linalg.norm(moved.mean(axis=0) * np.sqrt(weights.reliability))
        each = np.linalg.norm(moved * np.sqrt(weights.reliability), axis=1).mean()
        print(
            f"  {attribute:12} {len(moved)} people: smile {smile.mean():+.3f} "
            f"({smile.mean() / smile.std(ddof=1):+.2f} sd), all {whole:.2f}, each {each:.2f}"
        )
