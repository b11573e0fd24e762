"""The comparison of the label-driven models: its measures, and the whole command, tiny."""

import csv
import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from facemodels import save_models
from flax import nnx

from experiments import compare_label_systems
from fxjax.codes import mix
from fxjax.images import load_image, save_image
from fxjax.labels import comparison, comparison_report, networks, training
from fxjax.labels.comparison import Trained
from fxjax.labels.training import Labelled
from fxjax.nn.fader import Classifier, Fader, LiuJin

RANDOM = np.random.default_rng(0)
FOUR = ("a", "b", "c", "d")


def test_multiply_accumulates_are_those_of_the_architectures():
    fader = nnx.eval_shape(lambda: Fader(256, FOUR, rngs=nnx.Rngs(0)))
    folded = nnx.eval_shape(lambda: LiuJin(256, FOUR, rngs=nnx.Rngs(0)))
    assert comparison.multiply_accumulates(fader) == pytest.approx(1.278e9, rel=1e-3)
    assert comparison.multiply_accumulates(folded) == pytest.approx(1.002e9, rel=1e-3)
    assert comparison.parameters(folded) == 7_897_007


def run_of(losses: list[float], seconds: float) -> Trained:
    settings = networks.LabelSettings(size=16)
    return Trained(settings, None, [seconds] * len(losses), losses, 1.0)  # pyright: ignore


def test_time_to_a_loss_is_where_the_smoothed_curve_gets():
    losses = list(np.linspace(2, 0, 101))
    assert comparison.smoothed(losses)[50] == pytest.approx(np.mean(losses[31:51]))
    slow, fast = run_of(losses, 2.0), run_of(losses, 1.0)
    wanted = next(k for k in range(19, 101) if np.mean(losses[k - 19 : k + 1]) <= 1.0)
    assert comparison.seconds_to(fast, 1.0) == wanted + 1
    assert comparison.seconds_to(slow, 1.0) == 2 * (wanted + 1)
    assert math.isnan(comparison.seconds_to(slow, 0.01))


def test_balanced_accuracy_weighs_expressions_alike():
    classes = np.array([0] * 9 + [1])
    assert comparison.balanced_accuracy(np.zeros(10), classes) == 0.5
    assert comparison.balanced_accuracy(classes, classes) == 1.0


def bright(count: int) -> Labelled:
    """Pictures whose expression is how bright their lower half is."""
    classes = np.arange(count) % 2
    pictures = RANDOM.integers(0, 128, (count, 16, 16, 3)).astype(np.uint8)
    pictures[:, 8:] += (100 * classes)[:, None, None, None].astype(np.uint8)
    return Labelled(pictures, classes.astype(np.int32), ("dark", "light"), classes - classes - 1)


def test_fresh_classifiers_learn_what_is_there():
    faces = bright(64)
    judge = Classifier(16, faces.expressions, base=4, most=8, rngs=nnx.Rngs(0))
    judge = comparison.fit(judge, faces.pictures, faces, steps=60, batch=16)
    later = bright(40)
    scores = judge(jnp.asarray(later.pictures.astype(np.float32) / 127.5 - 1))
    found = np.asarray(jnp.argmax(scores, axis=1))
    assert comparison.balanced_accuracy(found, later.classes) > 0.9


def test_command_writes_the_table(tmp_path, capsys):
    rows = ["file,person,expression"]
    faces = bright(60)
    for k, (picture, kind) in enumerate(zip(faces.pictures, faces.classes, strict=True)):
        save_image(tmp_path / "faces" / f"{k}.png", picture)
        rows.append(f"{k}.png,{'someone' if kind else 'who'}{k % 40},{faces.expressions[kind]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    pairs = [f"{k}.png,p{k // 2},{faces.expressions[k % 2]}" for k in range(60)]
    (tmp_path / "truth.csv").write_text("\n".join(["file,person,expression", *pairs]))
    config = compare_label_systems.Config(
        data=str(tmp_path / "faces"), table=str(tmp_path / "t.csv"), out=str(tmp_path / "out"),
        images=320, judge_images=80, size=16, base=2, most=4, batch=8, least=1, identity=False,
        truth=str(tmp_path / "faces"), truth_table=str(tmp_path / "truth.csv"),
    )  # fmt: skip
    compare_label_systems.main(config)
    with (tmp_path / "out" / "comparison.csv").open() as file:
        table = {row["measure"]: row for row in csv.DictReader(file)}
    whole = table["parameters (256 px, 4 labels)"]
    assert (whole["Liu & Jin"], whole["Fader"]) == ("7897007", "14032352")
    assert (whole["difference"], whole["the paper's claim"]) == ("-43.7 %", "-43.7 %")
    for name in ("PSNR", "SSIM", "expression accuracy", "latent leakage", "MB that a step needs",
                 "LPIPS-style distance", "PSNR to the truth"):  # fmt: skip
        assert np.isfinite(float(table[name]["Fader"])), name
    assert float(table["seconds per 1,000 images"]["Fader"]) > 0
    assert table["seconds per 1,000 images"]["the paper's claim"] == "-36 %"
    curves = (tmp_path / "out" / "curves.csv").read_text().splitlines()
    assert curves[0] == "step,liu_jin_seconds,liu_jin_loss,fader_seconds,fader_loss"
    assert len(curves) == 41
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out
    assert "| parameters (256 px, 4 labels) | 7897007 | 14032352 | -43.7 % | -43.7 % |" in text
    for name in ("fader", "liu_jin"):
        assert (tmp_path / "out" / f"{name}.png").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == page.count("<polyline") == 2
    assert "PSNR to the truth, unchanged" in page


def test_truth_is_what_differs_in_the_expression_alone(tmp_path):
    faces = bright(80)
    rows = ["file,person,expression"]
    for k, picture in enumerate(faces.pictures):
        save_image(tmp_path / "faces" / f"{k:02}.png", picture)
        rows.append(f"{k:02}.png,p{k // 2},{faces.expressions[k % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    settings = networks.LabelSettings(size=16, expressions="dark,light")
    truth = comparison.read_truth(tmp_path / "faces", tmp_path / "t.csv", settings)
    apart = [k for k in range(40) if training.is_apart(f"p{k}")]
    assert len(truth.wanted) == 2 * len(apart) > 0
    for before, kind, after in zip(*truth, strict=True):
        here, there = (
            [np.array_equal(p, x) for p in faces.pictures].index(True) for x in (before, after)
        )
        assert here != there
        assert here // 2 == there // 2
        assert here // 2 in apart
        assert there % 2 == kind
    other = networks.LabelSettings(size=16, expressions="dark,blue")
    with pytest.raises(ValueError, match="no held-back person with two of dark, blue"):
        comparison.read_truth(tmp_path / "faces", tmp_path / "t.csv", other)


def test_claims_stand_beside_their_measures():
    assert comparison_report.claim_of("seconds to a reconstruction loss of 0.1") == "-36 %"
    assert comparison_report.claim_of("PSNR") == "better"
    assert comparison_report.claim_of("latent leakage") == ""


def test_the_comparison_in_words():
    """A distance is better where it is less; what was not measured is not counted."""
    found = {
        "liu_jin": {"parameters (256 px, 4 labels)": 3, "PSNR": 20.0, "identity distance": 0.5},
        "fader": {"parameters (256 px, 4 labels)": 4, "PSNR": 21.0, "identity distance": 0.6},
    }
    assert comparison_report.in_words(found) == (
        "Liu & Jin's model needs 75 % of the parameters "
        "and is better in 1 of 2 measures of quality: identity distance."
    )


def test_system_a_takes_the_drivers_expression_on_the_same_faces(root, tmp_path):
    """With a tiny generator, and samples of the shipped one, of which some smile."""
    save_models(tmp_path, resolution=128)
    names = sorted((root / "fxjax" / "zoo" / "faces" / "samples").glob("*.png"))[:3]
    samples = np.stack([load_image(name) for name in names])
    noise = RANDOM.integers(0, 255, samples[:1].shape, np.uint8)
    places = comparison.located(np.concatenate([samples, noise]))
    assert [place is None for place in places] == [False] * 3 + [True]
    found = [place for place in places if place is not None]
    held = Labelled(samples, np.array([0, 1, 1]), ("first", "second"), np.full(3, -1))
    engine = comparison.masks_engine(tmp_path / "model", 128, 3)
    engine.settings = dataclasses.replace(engine.settings, steps=4, rows=((3,),))
    engine.groups = ((3,),)
    every = comparison.changed_by_masks(engine, found, held)
    assert every.shape == (3, 2, 128, 128, 3)
    codes = engine.encode(found).code
    plain = np.asarray(engine.draw(codes))
    for k, kind in enumerate(held.classes):
        np.testing.assert_allclose(every[k, kind], plain[k], atol=1e-4)
        driver = (1, 0, 0)[k]  # the next one of the other expression
        mixed = mix.mix(codes[k], codes[driver], jnp.arange(len(codes[0])) == 3)
        both = np.asarray(engine.draw(jnp.stack([codes[k], mixed])))
        nearest = min(np.abs(every[k, 1 - kind] - picture).max() for picture in both)
        assert nearest < 1e-4
    with pytest.raises(ValueError, match="no held-back face shows second, to drive"):
        comparison.changed_by_masks(engine, found[:1], held.take(np.array([0])))
    with pytest.raises(ValueError, match="draws 128 px in colour; --size=32"):
        comparison.masks_engine(tmp_path / "model", 32, 3)
    head, rows = comparison_report.as_rows({"liu_jin": {"PSNR": 2.0}, "fader": {"PSNR": 1.0}})
    assert head == list(comparison_report.HEAD)
    assert rows == [["PSNR", ("2", 2.0), ("1", 1.0), ("+100.0 %", 100.0), "better"]]
    third = {
        "liu_jin": {"GMAC": 2.0},
        "fader": {"GMAC": 4.0},
        comparison_report.MASKS: {"PSNR": 3.0},
    }
    (row,) = comparison_report.as_rows(third)[1]
    assert row == ["GMAC", ("2", 2.0), ("4", 4.0), ("-50.0 %", -50.0), "", ""]
