"""The commands of transfer: one pair, many pairs (kill and resume), and sweeps."""

import csv
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
from etils import epath
from expressions import ASTRONAUT, closed
from facemodels import save_models
from PIL import Image
from processes import run_two

from experiments import sweep_masks, transfer, transfer_batch
from fxjax import files
from fxjax.engine import Engine
from fxjax.images import from_uint8, load_image, save_image
from fxjax.runs import batch
from fxjax.runs.pairs import read_pairs
from fxjax.runs.transfer_flags import read_mask, read_rows
from fxjax.transfer_types import Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Any:
    """Models, two people, and two drivers of which one shows nobody."""
    home = tmp_path_factory.mktemp("home")
    save_models(home)
    face = ASTRONAUT[:256, 96:352]
    save_image(home / "people" / "ann.png", face)
    save_image(home / "people" / "bob.jpg", (face[:, ::-1] * 0.8).astype(np.uint8))
    save_image(home / "drivers" / "cat.png", (closed()[:256, 96:352] * 0.6).astype(np.uint8))
    save_image(home / "drivers" / "wall.png", np.full((128, 128, 3), 90, np.uint8))
    return home


def models(home) -> dict[str, Any]:
    """Flags of transfers with a tiny model."""
    return {"tuning": 3, "refine": 3, **searched(home)}


def searched(home) -> dict[str, Any]:
    return {"model": str(home / "model"), "features": str(home / "vgg"), "steps": 10}


def rows_of(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_pair(home, tmp_path, capsys):
    config = transfer.Config(
        appearance=str(home / "people" / "ann.png"),
        expression=str(home / "drivers" / "cat.png"),
        out=str(tmp_path / "out"),
        top=3,
        joint=True,
        **models(home),
    )
    transfer.main(config)
    out = tmp_path / "out"
    assert "report.html" in capsys.readouterr().out
    with Image.open(out / "result.png") as picture:
        assert picture.size == (256, 256)
        assert "Edited" in picture.getexif()[270]
    assert (out / "side_by_side.png").exists()
    assert not (load_image(out / "result_2.png") == load_image(out / "result_3.png")).all()
    ranking = rows_of(out / "ranking.csv")
    assert len(ranking) == 256
    assert len({row["mask"] for row in ranking}) == 256
    scores = [float(row["score"]) for row in ranking]
    assert scores == sorted(scores)
    assert {row["pareto"] for row in ranking} == {"0", "1"}
    with np.load(out / "codes.npz", allow_pickle=False) as arrays:
        assert arrays["ws"].shape == (4, 8, 16)
        assert "".join(str(int(bit)) for bit in arrays["mask"]) == ranking[0]["mask"]
    page = (out / "report.html").read_text()
    assert "://" not in page
    assert page.index("result") < page.index("pasted mouth")
    order = ('class="slider"', 'class="verdict', "The best of 256 masks", "Measures", "<h2>Run")
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert "joint optimisation" in page


def test_a_readout_reports_its_rank_correlation(home, tmp_path, capsys):
    transfer.main(
        transfer.Config(
            appearance=str(home / "people" / "ann.png"),
            expression=str(home / "drivers" / "cat.png"),
            out=str(tmp_path / "out"),
            readout=16,
            compare=False,
            **models(home),
        )
    )
    told = re.search(r"rank correlation before and in full: (-?\d\.\d\d)", capsys.readouterr().out)
    assert told is not None
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"the rank correlation of the two is {told[1]}." in page
    assert "joint optimisation" not in page
    assert len(rows_of(tmp_path / "out" / "ranking.csv")) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expression": "{home}/drivers/wall.png"}, "wall.png: no face was found"),
        ({"appearance": "{home}/nobody.png"}, "no picture file at"),
        ({"mask": "0110"}, "a mask of 4 bits: this model has 8 rows"),
        ({"mask": "01x"}, "--mask=01x: want 0s and 1s"),
        ({"rows": "2-4,3"}, "each in one group at most"),
        ({"rows": "a"}, "--rows=a: want auto, all, or rows"),
        ({"rows": "0,7-3"}, "--rows=0,7-3: 7-3 runs backwards; want 3-7"),
        ({"strength": 2.0}, "--strength=2.0: want 0"),
        ({"tuning": -1}, "--tuning=-1: want 0 (none) or more steps"),
        ({"refine": -1}, "--refine=-1: want 0 (none) or more steps"),
        ({"readout": 24}, "24"),
        ({"readout": 64}, "a 32 px generator, not of 64 px"),
        ({"parts": ("nose",)}, "parts of a face: nose; want some of eyes, brows, mouth"),
        ({"face": "7"}, "7"),
        ({"model": "nothing"}, "no model 'nothing'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(home, tmp_path, changes, message):
    changed = {k: v.format(home=home) if isinstance(v, str) else v for k, v in changes.items()}
    options: dict[str, Any] = {
        "appearance": str(home / "people" / "ann.png"),
        "expression": str(home / "drivers" / "cat.png"),
        "out": str(tmp_path / "out"),
        **models(home),
        **changed,
    }
    with pytest.raises((ValueError, OSError), match=None) as error:
        transfer.main(transfer.Config(**options))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_rows_and_masks_as_written():
    assert read_rows("auto") is None
    assert read_rows("all") == "all"
    assert read_rows("0-2,5,6+7") == ((0,), (1,), (2,), (5,), (6, 7))
    assert read_mask(None) is None
    assert read_mask("0110") == (False, True, True, False)


def batch_config(home, out, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "appearance": str(home / "people"), "expression": str(home / "drivers"), "out": str(out),
        "batch": 4, **models(home), **changes,
    }  # fmt: skip
    return transfer_batch.Config(**options)


@pytest.fixture(scope="module")
def done(home, tmp_path_factory) -> Any:
    out = tmp_path_factory.mktemp("batch") / "out"
    with pytest.raises(SystemExit, match=r"2 of 4 pairs failed"):
        transfer_batch.main(batch_config(home, out))
    return out


@pytest.fixture(scope="module")
def mixed(home, tmp_path_factory) -> Any:
    """The same without tuning and refinement, as in the paper."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    with pytest.raises(SystemExit, match=r"2 of 4 pairs failed"):
        transfer_batch.main(batch_config(home, out, tuning=0, refine=0))
    return out


def test_a_pair_alone_has_the_codes_that_it_has_in_a_batch(home, done):
    """To rounding, which the steps of inversion enlarge."""
    engine = Engine(home / "model", home / "vgg", Settings(steps=10))
    photos = home / "people" / "ann.png", home / "drivers" / "cat.png"
    faces = [engine.locate(photo)[0] for photo in photos]
    alone = np.asarray(engine.encode(faces).code)
    np.testing.assert_allclose(alone, codes_of(done / "codes" / "ann__cat.npz")[:2], atol=2e-3)
    for face, name in zip(faces, ("ann", "cat"), strict=True):
        target = load_image(done / "inversion" / "targets" / f"{name}.png")
        np.testing.assert_array_equal(face.crop.image, from_uint8(target))


def test_a_batch_goes_on_past_a_bad_photo(done):
    rows = {row["pair"]: row for row in rows_of(done / "results.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "ann__cat": "ok", "ann__wall": "failed", "bob__cat": "ok", "bob__wall": "failed",
    }  # fmt: skip
    assert "no face" in rows["ann__wall"]["message"]
    assert {path.stem for path in (done / "results").iterdir()} == {"ann__cat", "bob__cat"}
    (summary,) = (row for row in rows_of(done / "summary.csv") if row["method"] == "result")
    assert summary["pairs"] == "2"
    page = (done / "report.html").read_text()
    assert "ann__wall" in page
    assert " of 4 results look" in page
    assert 'href="results/ann__cat.png"' in page


def test_whatever_one_pair_throws_costs_that_pair(tmp_path, monkeypatch):
    paths = [epath.Path(tmp_path / f"{name}.png") for name in "abcde"]
    pairs = [batch.Pair(path, paths[0], (path.stem, "a"), path.stem) for path in paths[1:]]
    thrown: dict[str, BaseException] = {
        "b": cv2.error("resize", "!ssize.empty()", "f", "f.cpp", 1),
        "c": FileNotFoundError(2, "No such file or directory", "c.png"),
        "d": ZeroDivisionError(),
    }

    def work(pair: batch.Pair, *_: Any) -> dict[str, Any]:
        if pair.name in thrown:
            raise thrown[pair.name]
        return {"done": 1}

    entries: Any = dict.fromkeys(paths)
    monkeypatch.setattr(batch, "known", lambda *_: None)
    monkeypatch.setattr(batch, "_sha", lambda *_: "")
    rows = {row["pair"]: row for row in batch.each(tmp_path / "out", pairs, entries, {}, work)}
    assert [rows[name]["status"] for name in "bcde"] == ["failed", "failed", "failed", "ok"]
    assert "ssize.empty()" in rows["b"]["message"]
    assert rows["c"]["message"] == "[Errno 2] No such file or directory: 'c.png'"
    assert rows["d"]["message"] == "ZeroDivisionError"
    thrown["b"] = KeyboardInterrupt()  # is not a pair's
    with pytest.raises(KeyboardInterrupt):
        batch.each(tmp_path / "again", pairs, entries, {}, work)


def command_of(config: transfer_batch.Config) -> list[str]:
    flags = (dataclasses.asdict(config) | {"parts": ",".join(config.parts)}).items()
    given = [f"--{name}={value}" for name, value in flags if value is not None]
    return [sys.executable, "-m", "experiments.transfer_batch", *given]


def same_results(done, out) -> None:
    assert len(list((done / "results").iterdir())) == 2
    for path in (done / "codes").glob("*.npz"):
        with np.load(path) as one, np.load(out / "codes" / path.name) as other:
            np.testing.assert_array_equal(one["ws"], other["ws"])
    for path in (done / "results").iterdir():
        np.testing.assert_array_equal(load_image(path), load_image(out / "results" / path.name))


@pytest.mark.slow
def test_a_killed_batch_goes_on_to_the_same_results(home, mixed, tmp_path):
    out = tmp_path / "out"
    config = batch_config(home, out, tuning=0, refine=0)
    with subprocess.Popen(command_of(config), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not list((out / "state").glob("*.json")):
            time.sleep(0.01)
            assert process.poll() is None, "it ended before a pair was done"
        process.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in (out / "codes").glob("*.npz")}
    assert 0 < len(before) < 2 or len(list((out / "state").glob("*.json"))) < 4
    with pytest.raises(SystemExit, match="2 of 4 pairs failed"):
        transfer_batch.main(config)
    same_results(mixed, out)
    for path in before:
        assert path.stat().st_mtime_ns == before[path]


@pytest.mark.slow
def test_two_processes_write_what_one_does(home, mixed, tmp_path, root):
    out = tmp_path / "out"
    command = command_of(batch_config(home, out, tuning=0, refine=0))
    statuses, texts = run_two(command, root, seconds=240)
    assert statuses == [1, 0], "\n".join(texts)
    assert "2 of 4 pairs failed" in texts[0]
    same_results(mixed, out)
    one, two = (rows_of(folder / "results.csv") for folder in (mixed, out))
    for first, second in zip(one, two, strict=True):
        assert first | {"seconds": ""} == second | {"seconds": ""}


def codes_of(path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["ws"]


@pytest.mark.slow
def test_pairs_of_replaced_photos_and_codes_are_done_again(home, tmp_path):
    shutil.copytree(home / "drivers", tmp_path / "drivers")
    out, drivers = tmp_path / "out", tmp_path / "drivers"
    options = {"appearance": str(home / "people" / "ann.png"), "expression": str(drivers)}
    config = batch_config(home, out, **options | {"tuning": 0, "refine": 0})

    def statuses(*, restart: bool) -> dict[str, str]:
        with pytest.raises(SystemExit, match="1 of 2 pairs failed"):
            transfer_batch.main(dataclasses.replace(config, restart=restart))
        return {row["pair"]: row["status"] for row in rows_of(out / "results.csv")}

    assert statuses(restart=False) == {"ann__cat": "ok", "ann__wall": "failed"}
    (out / "notes.txt").write_text("mine")
    cat, wall = (load_image(drivers / f"{name}.png") for name in ("cat", "wall"))
    save_image(drivers / "cat.png", wall)
    save_image(drivers / "wall.png", cat[:, ::-1])
    assert statuses(restart=True) == {"ann__cat": "failed", "ann__wall": "ok"}
    for folder in ("results", "faces", "codes"):  # and nothing of before
        assert [path.stem for path in (out / folder).iterdir()] == ["ann__wall"]
    assert (out / "notes.txt").read_text() == "mine"
    code = out / "inversion" / "codes" / "wall.npz"
    np.testing.assert_array_equal(codes_of(out / "codes" / "ann__wall.npz")[1], codes_of(code))
    np.savez(code, ws=codes_of(code) * np.float32(1.01))
    assert statuses(restart=False) == {"ann__cat": "failed", "ann__wall": "ok"}
    np.testing.assert_array_equal(codes_of(out / "codes" / "ann__wall.npz")[1], codes_of(code))


def test_photos_with_odd_names_cost_their_own_pairs(home, tmp_path):
    people = tmp_path / "people"
    shutil.copytree(home / "people", people)
    for name in ("new\nline.png", os.fsdecode(b"caf\xe9.png")):
        shutil.copy(home / "people" / "ann.png", people / name)
    (people / "link.png").symlink_to(people / "ann.png")
    options = {"appearance": str(people), "expression": str(home / "drivers" / "cat.png")}
    config = batch_config(home, tmp_path / "out", **options)
    pairs = read_pairs(config)
    entries = batch.invert_all(config, pairs, 32)
    rows = batch.each(tmp_path / "out", pairs, entries, {}, lambda *_: {})
    files.write_table(tmp_path / "out" / "rows.csv", rows, digits=6)
    assert {row["pair"]: row["status"] for row in rows_of(tmp_path / "out" / "rows.csv")} == {
        "ann__cat": "ok", "bob__cat": "ok", "link__cat": "ok",
        "new_line__cat": "failed", "caf__cat": "failed",
    }  # fmt: skip
    messages = [row["message"] for row in rows if row["status"] == "failed"]
    assert len(messages) == 2
    assert all("no list can hold its path" in line and "\n" not in line for line in messages)


def test_pairs_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")  # there, as gcsfs may not be
    table = tmp_path / "pairs.csv"
    table.write_text(
        "appearance,expression\na.png,b__c.png\na__b.png,c.png\ngs://bucket/d.png,a.png\n"
    )
    config = transfer_batch.Config(pairs=str(table), out=str(tmp_path / "out"))
    pairs = read_pairs(config)
    assert [pair.name for pair in pairs] == ["a__b__c", "a__b__c-2", "d__a"]
    assert str(pairs[2].appearance) == "gs://bucket/d.png"


def test_a_table_of_pairs(home, tmp_path):
    shutil.copytree(home / "people", tmp_path / "people")
    table = tmp_path / "pairs.csv"
    table.write_text("appearance,expression\npeople/ann.png,people/bob.jpg\n")
    config = batch_config(home, tmp_path / "out", appearance=None, expression=None)
    (pair,) = read_pairs(dataclasses.replace(config, pairs=str(table)))
    assert pair.name == "ann__bob"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns appearance and expression"):
        read_pairs(dataclasses.replace(config, pairs=str(table)))
    with pytest.raises(ValueError, match="give either --pairs"):
        read_pairs(config)
    with pytest.raises(ValueError, match="--face=all: a pair is of one face"):
        read_pairs(dataclasses.replace(config, pairs=str(table), face="all"))


def test_a_sweep_of_masks(home, tmp_path):
    out = tmp_path / "out"
    people = str(home / "people")
    config = sweep_masks.Config(
        appearance=people, expression=people, out=str(out), rows="2-4,5+6", **searched(home)
    )
    sweep_masks.main(config)
    rows = rows_of(out / "rows.csv")
    assert len(rows) == 8
    assert rows[1]["expression"] == ""  # it was not searched
    with np.load(out / "scores" / "ann__bob.npz") as arrays:
        taken, losses = arrays["masks"][:, 2], arrays["expression"]
        first = losses[taken].mean() - losses[~taken].mean()
    with np.load(out / "scores" / "bob__ann.npz") as arrays:
        taken, losses = arrays["masks"][:, 2], arrays["expression"]
        second = losses[taken].mean() - losses[~taken].mean()
    assert float(rows[2]["expression"]) == pytest.approx((first + second) / 2, rel=1e-3)
    masks = {row["pair"]: row["mask"] for row in rows_of(out / "masks.csv")}
    assert all(mask[0] == mask[1] == mask[7] == "0" for mask in masks.values())
    assert all(mask[5] == mask[6] for mask in masks.values())
    page = (out / "report.html").read_text()
    assert "Which rows carry what" in page
    assert " of 16 (median over pairs)" in page  # two rows are tied
    assert page.index("The best masks of 2 pairs") < page.index('class="bars"')
