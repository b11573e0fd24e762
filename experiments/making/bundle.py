"""The model folder that ships with the package, for `experiments.making.pack_model`."""

import json
import string
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from fxjax import checkpoint, files, load, zoo
from fxjax.codes.seeds import draw, map_seeds, one_hot
from fxjax.faces import detect
from fxjax.images import save_image
from fxjax.nn.generator import code_statistics
from fxjax.training import face_features, feature_run, gan_state, generator_measures
from fxjax.types import Photo

PSI = 0.7  # of the sample pictures
PICTURES = "<!-- samples -->"  # the line of a card at whose place they are shown
TRIES = 200  # seeds that are searched for better samples where those given show no face
# The figures that must not get worse, and whether more is better.
CHIEF = {
    ("inversion", "inversion", "identity"): False,
    ("inversion", "inversion", "landmark_error"): False,
    ("inversion", "inversion", "psnr_original"): True,
    ("detection", "psi_0.7"): True,
    ("distance_identity", "frechet"): False,
}


class Packed(NamedTuple):
    """What goes into the folder: parts as `checkpoint.save_model` takes them, info, the card."""

    kind: str
    parts: dict[str, tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]
    info: dict[str, Any]
    card: str


def read_figures(path: epath.PathLike | None, generator: str) -> dict[str, Any]:
    """What was measured, by a bundle's own card if no file is given.

    ValueError if it is not all there, or was measured of another model.
    """
    card = checkpoint.read_card(zoo.find(generator))
    if path is None:
        if "figures" not in card:
            raise ValueError(f"{generator} has no figures; give --figures, a measures.json")
        return card["figures"]
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no figures {source}; experiments.evaluate_generator makes them")
    try:
        figures = json.loads(source.read_text())
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    if not isinstance(figures, dict) or "sha256" not in figures:
        raise ValueError(f"{source} is no measures.json of experiments.evaluate_generator")
    if missing := ["/".join(path) for path in CHIEF if figure(figures, path) is None]:
        raise ValueError(f"{source} lacks {', '.join(missing)}: measure without leaving these out")
    sha = card["parts"]["generator"]["sha256"]
    if figures["sha256"] != sha:
        raise ValueError(f"{source} was measured of other weights than those in {generator}")
    return figures


def figure(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """One of the figures; None if it was not measured."""
    value: Any = figures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def worse_figures(target: epath.Path, figures: Mapping[str, Any]) -> list[str]:
    """The chief figures that are worse than those of the bundle at `target`, if there is one."""
    if not target.exists():
        return []
    old, found = checkpoint.read_card(target).get("figures", {}), []
    for path, more in CHIEF.items():
        was, now = figure(old, path), figure(figures, path)
        if was is not None and (now is None or (now < was if more else now > was)):
            found.append(f"{'/'.join(path)} was {was:.4g}, is now {now:.4g}")
    return found


def pack(
    generator: str,
    others: Mapping[str, str | None],
    figures: dict[str, Any],
    notes: str = "",
) -> Packed:
    """Reads the parts, halves them, and writes the card. ValueError if a part is missing.

    `others` are folders of the other `PARTS`; without features or landmarks those of `faces` go
    with it. `notes` says what is wrong with the samples that were looked at.
    """
    source = checkpoint.read_card(zoo.find(generator))
    made = load(generator, part="generator")
    if "statistics" in source["parts"]:
        statistics = checkpoint.flatten(load(generator, part="statistics"))
    else:
        mean, covariance = code_statistics(made)
        statistics = {"mean": mean, "covariance": covariance}
        made.w_mean[...] = mean
    parts: dict[str, Any] = {
        "generator": (
            source["parts"]["generator"]["architecture"],
            checkpoint.halved(made) | {"w_mean": np.asarray(made.w_mean[...])},
        ),
        "statistics": (
            {"dim": made.dim},
            {name: np.asarray(array) for name, array in statistics.items()},
        ),
    }
    info = {
        "licence": "CC BY-NC-SA 4.0",
        "images": source.get("images"),
        "settings": source.get("settings"),
        "figures": figures,
    }
    if others.get("features") == "random":
        network = face_features.random_features((64, 128, 256))
        pictures = generator_measures.draw(made, feature_run.SCALING, 1.0, 0)
        network, _ = face_features.unit_squares(network, generator_measures.as_images(pictures))
        parts["features"] = (feature_run.architecture(network), checkpoint.halved(network))
        info["features_training"] = {"trained": False}
    for part in PARTS:
        if part not in parts and (folder := others.get(part)) is not None:
            parts[part], info[f"{part}_training"] = _other(folder, part)
    trained = info.get("encoder_training", {}).get("generator_sha256")
    if trained not in (None, source["parts"]["generator"]["sha256"]):
        raise ValueError(f"{others['encoder']} was trained with another generator than {generator}")
    return Packed(source["kind"], parts, info, card_text(info, made.resolution, notes))


def _other(model: str, part: str) -> tuple[Any, dict[str, Any]]:
    """A part of an export or of a bundle, halved, and how it was trained."""
    card = checkpoint.read_card(zoo.find(model))
    made = load(model, part=part)
    kept = ("views", "settings", "held_back", "generator_sha256")
    own = {key: card[key] for key in kept if key in card}
    architecture = card["parts"][part]["architecture"]
    return (architecture, checkpoint.halved(made)), card.get(f"{part}_training", own)


def discriminator(generator: str) -> bytes:
    """The file that the trainer exported with this generator. FileNotFoundError if it is gone."""
    beside = gan_state.discriminator_of(generator)
    if not beside.exists():
        raise FileNotFoundError(f"no {beside}; the trainer writes it with its export")
    return beside.read_bytes()


def samples(generator: epath.PathLike, seeds: Sequence[int]) -> dict[str, Photo]:
    """Pictures by file name. ValueError, with seeds to take instead, if one shows no face."""
    made, detector = load(generator, part="generator"), detect.Detector()

    def pictures(seeds: Sequence[int]) -> list[Photo]:
        labels = one_hot((), made.labels, len(seeds))
        return list(draw(made, map_seeds(made, seeds, labels, PSI, None), seeds, "const"))

    def faces(seeds: Sequence[int]) -> list[int]:
        shown = [generator_measures.enlarge(picture) for picture in pictures(seeds)]
        return [s for s, picture in zip(seeds, shown, strict=True) if detector.sees(picture)]

    if bad := sorted(set(seeds) - set(faces(seeds))):
        good = ",".join(map(str, faces(range(TRIES))[: len(seeds)]))
        raise ValueError(
            f"dlib finds no face in the samples of the seeds {bad}; of the first {TRIES} seeds, "
            f"--seeds={good or 'none'} have one"
        )
    return {f"seed{s:04d}.png": p for s, p in zip(seeds, pictures(seeds), strict=True)}


def write(target: epath.Path, packed: Packed, seeds: Sequence[int], most: float) -> int:
    """Writes the folder and its samples, all or nothing, and returns its bytes.

    ValueError if it takes more than `most` megabytes, or `target` is something else, or dlib finds
    no face in a sample.
    """
    if target.exists():
        checkpoint.read_card(target)  # raises unless it is a model folder
    with files.new_folder(target, overwrite=True) as folder:
        folder.rmdir()  # save_model makes it, complete
        checkpoint.save_model(folder, packed.kind, packed.parts, packed.info)
        drawn = samples(folder, seeds)
        for name, picture in drawn.items():
            save_image(folder / "samples" / name, picture)
        shown = "\n".join(f"![A face that it drew](samples/{name})" for name in drawn)
        files.write(folder / "card.md", packed.card.replace(PICTURES, shown).encode())
        size = _size(folder)
        if size > most * 1e6:
            raise ValueError(f"the bundle would take {size / 1e6:.1f} MB, more than {most:g}")
    return size


def _size(folder: epath.Path) -> int:
    return sum(_size(path) if path.is_dir() else path.stat().length for path in folder.iterdir())


def card_text(info: Mapping[str, Any], resolution: int, notes: str) -> str:
    """The model card, from the template beside this file."""
    figures = info["figures"]
    lines = ["| measure | value |", "| --- | --- |"]
    for name in figures:
        if name not in ("settings", "model", "sha256", "inversion", "resolution", "features"):
            lines += [
                f"| {key} | {_number(value)} |"
                for key, value in generator_measures.flat(name, figures[name])
            ]
    table = [
        "| picture | PSNR | PSNR to the original | dlib distance | landmark error | found |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in figures["inversion"].items():
        table.append(f"| {name} | {' | '.join(_number(value) for value in row.values())} |")
    settings, parts, recipes = info["settings"] or {}, [], []
    for part, (what, recipe) in PARTS.items():
        if trained := info.get(f"{part}_training"):
            parts.append(what)
            recipes.append(recipe(trained))
    template = (epath.Path(__file__).parent / "card_template.md").read_text()
    return string.Template(template).substitute(
        resolution=resolution,
        notes=textwrap.fill(
            f"- {notes or 'Nobody wrote down what is wrong with its samples.'}",
            width=100,
            subsequent_indent="  ",
        ),
        kimg=f"{(info['images'] or 0) / 1000:.1f}",
        settings=", ".join(f"{key} {value}" for key, value in settings.items()),
        parts="\n".join(parts or [NO_PARTS]),
        recipes="\n\n".join(recipes),
        measures="\n".join(lines),
        inversions="\n".join(table),
        counts=", ".join(f"{key} {value}" for key, value in figures["settings"].items()),
    )


def _features_text(trained: Mapping[str, Any]) -> str:
    if "views" not in trained:
        return "Features: random weights (He), not trained."
    held_back = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" for name, value in trained["held_back"].items()
    )
    return (
        f"Features: `experiments.train_features`, {trained['views'] / 1000:.1f} thousand views; "
        f"on faces\nheld back: {held_back}. Tasks: 68\nlandmarks, 34 ratings, and which views "
        "show the same person. The ratings are impressions and\nstereotypes of raters, not facts "
        "about anyone; what predicts them is not part of this folder.\ndlib took no part in "
        "training these, it only judges."
    )


def _landmarks_text(trained: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {value:.2f}" for name, value in trained["held_back"].items())
    return (
        f"Landmarks: `experiments.train_landmarks`, {trained['views'] / 1000:.1f} thousand views; "
        f"on samples\nheld back, in percent of the distance between the eyes: {found}.\n"
        "It learned the points that dlib finds (whose model was trained on iBUG 300-W, whose terms "
        "exclude\ncommercial use) in samples of a generator, in the pictures above, and in gray "
        "news photographs\n(muxspace/facial_expressions). The expressions that are read of its "
        "points guide transfers; they\nare judged by dlib's points in the result."
    )


def _encoder_text(trained: Mapping[str, Any]) -> str:
    found = trained["held_back"]
    return (
        f"Encoder: `experiments.train_encoder`, {trained['views'] / 1000:.1f} thousand pictures; "
        f"on faces held\nback the inversion's loss is {found['loss']:.3f} at its codes and "
        f"{found['loss_of_the_mean']:.3f} at the mean."
    )


PARTS = {
    "features": (
        "- `features`: the layout of VGG16 up to the third convolution of block 3 (pooling after "
        "it), for\n  perceptual losses on faces; every layer has a mean square of 1 over faces.",
        _features_text,
    ),
    "landmarks": (
        "- `landmarks`: a network that finds the 68 landmarks in drawings, so that losses can use "
        "them.",
        _landmarks_text,
    ),
    "encoder": (
        "- `encoder`: reads codes off aligned faces in one pass, where inversions can start.",
        _encoder_text,
    ),
}
NO_PARTS = "- no features and no landmarks: those of the model `faces` go with it."


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
