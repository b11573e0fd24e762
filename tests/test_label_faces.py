"""The merge of labelled faces, and who stays held back in it."""

import csv
import dataclasses

import facemodels
import numpy as np
import pytest

import fxjax
from experiments.making import label_faces, label_sources
from experiments.making.label_faces import Config
from fxjax.codes import smile_samples
from fxjax.codes.smile_samples import Limits
from fxjax.labels import training
from fxjax.training import data

RANDOM = np.random.default_rng(0)
HALF = training.Thresholds(35.0, 65.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rated pictures of 120 people, one manipulated picture without a face, and renders of ten."""
    folder = tmp_path_factory.mktemp("labels")
    rated = [
        {
            "filename": f"base_{k:04d}.jpg",
            "source_id": str(k),
            "kind": "base",
            "attribute": "",
            "happy": str((20, 50, 80)[k % 3]),
        }
        for k in range(120)
    ]
    last = {"filename": "man_1_outgoing_2.jpg", "source_id": "1", "kind": "manipulated"}
    rated.append(last | {"attribute": "outgoing", "happy": ""})
    rendered = [
        {"file": f"ict_{k}_{name}.jpg", "expression": name, "person": f"ict{k}"}
        for k in range(40)
        for name in ("neutral", "happiness")
    ]
    for name, column, rows in (("omi", "filename", rated), ("renders", "file", rendered)):
        noise = RANDOM.integers(0, 255, (len(rows), 16, 16, 3), np.uint8)
        pairs = zip((row[column] for row in rows), noise, strict=True)
        data.write_zip(folder / f"{name}.zip", pairs, rows)
    return folder


def config(folder, dst, **options) -> Config:
    usual = Config(
        data=str(folder / "omi.zip"),
        table=str(folder / "omi.csv"),
        renders=str(folder / "renders.zip"),
        dst=str(dst),
        samples=0,
        receivers=0,
        size=16,
    )
    return dataclasses.replace(usual, **options)


def rows_of(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_merge_keeps_labels_and_who_is_held_back(folder, tmp_path, capsys):
    label_faces.main(config(folder, tmp_path / "all.zip"))
    rows = {row["file"]: row for row in rows_of(tmp_path / "all.csv")}
    rated = rows_of(folder / "omi.csv")
    apart = data.held_back_rows(rated)
    for row, held in zip(rated[:-1], apart[:-1], strict=True):
        label = {"20": "neutral", "50": None, "80": "happiness"}[row["happy"]]
        found = rows.get(row["filename"])
        assert (found and found["expression"]) == label
        assert found is None or found["held_back"] == str(int(held))
    assert "man_1_outgoing_2.jpg" not in rows, "no face in it, so no smile"
    people = {row["person"]: set() for row in rows.values()}
    for row in rows.values():
        people[row["person"]].add(row["held_back"])
    assert all(len(marks) == 1 for marks in people.values())
    assert sum(row["source"] == "renders" for row in rows.values()) == 80
    assert "rated: 40 happiness" in capsys.readouterr().out

    trained, held = training.read_faces(
        tmp_path / "all.zip", tmp_path / "all.csv", 16, 3, thresholds=HALF
    )
    marks = [row["held_back"] for row in rows.values()]
    assert (len(trained.classes), len(held.classes)) == (marks.count("0"), marks.count("1"))
    assert min(marks.count("0"), marks.count("1")) > 0


def test_sources_are_balanced(folder, tmp_path):
    label_faces.main(config(folder, tmp_path / "few.zip", most=7))
    rows = rows_of(tmp_path / "few.csv")
    for source in ("rated", "renders"):
        for name in ("neutral", "happiness"):
            assert sum(r["source"] == source and r["expression"] == name for r in rows) == 7


def test_held_back_column_decides(tmp_path):
    lines = ["file,expression,person,held_back"]
    lines += [f"{k}.png,neutral,same,{k % 2}" for k in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    _, apart = training.read_labels(tmp_path / "a.csv", HALF)
    assert apart == {f"{k}.png": bool(k % 2) for k in range(6)}
    (tmp_path / "a.csv").write_text("\n".join([*lines, "6.png,neutral,same,yes"]) + "\n")
    with pytest.raises(ValueError, match="row 8, column held_back: 'yes'; want 0 or 1"):
        training.read_labels(tmp_path / "a.csv", HALF)
    (tmp_path / "a.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(ValueError, match=r"2 rows of .*a\.csv are named 5\.png"):
        training.read_labels(tmp_path / "a.csv", HALF)


def test_direction_is_that_of_the_smile():
    codes = RANDOM.normal(size=(400, 12))
    true = RANDOM.normal(size=12)
    smiles = codes @ true + RANDOM.normal(0, 0.3, 400)
    way = smile_samples.direction(codes, smiles)
    assert np.corrcoef(way, true)[0, 1] > 0.98
    assert way @ true == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="only 5 samples"):
        smile_samples.direction(codes[:5], smiles[:5])


class Bright(smile_samples.Reader):
    """Takes brightness for a smile, as random networks draw no faces."""

    def __init__(self):
        pass

    def __call__(self, picture):
        return float(picture.mean() / 255)


def test_pairs_are_moved_until_the_reader_agrees(tmp_path):
    facemodels.save_models(tmp_path)
    generator, reader = fxjax.load(str(tmp_path / "model"), part="generator"), Bright()
    every = Limits(0.5, 0.5)
    plain = smile_samples.labelled(generator, reader, every, count=40, seed=0, psi=1.0, size=32)
    spread = [reader(each.picture) for each in plain.samples]
    limits = Limits(*np.quantile(spread, [0.4, 0.6]).tolist())
    found = smile_samples.labelled(generator, reader, limits, count=80, seed=0, psi=1.0, size=32)
    assert (found.drawn, found.tried, found.unseen) == (40, 20, 0)
    single = [each for each in found.samples if each.name.startswith("sample")]
    assert len(single) == found.drawn - found.unclear
    assert all(limits.name(reader(each.picture)) == each.expression for each in found.samples)
    pairs = [each for each in found.samples if each.name.startswith("pair")]
    assert len(pairs) == 2 * found.pairs >= 20
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert one.person == other.person
        assert one.expression != other.expression


def test_bad_input_is_said(folder, tmp_path):
    def check(text: str, error: type[Exception] = ValueError, **options):
        with pytest.raises(error, match=text):
            label_faces.main(config(folder, tmp_path / "a.zip", **options))

    check("--data and --table go together", table="")
    check("no picture", data="", table="", renders="")
    check("no table", FileNotFoundError, table=str(tmp_path / "none.csv"))
    check("no folder or zip", FileNotFoundError, renders=str(tmp_path / "none.zip"))
    check("no folder or zip", FileNotFoundError, data=str(tmp_path / "none.zip"))
    check("--samples=5", samples=5)
    check("less smile for none", no_smile=0.5)
    check("no model 'nobody'", FileNotFoundError, model="nobody", samples=40)
    check("no expression and person of base", renders=str(folder / "omi.zip"))
    with pytest.raises(ValueError, match=r"must end in \.zip"):
        label_faces.main(config(folder, tmp_path / "a"))
    assert not list(tmp_path.iterdir())


def test_pasted_mouths_bring_the_other_expression():
    """Real parts: samples of the shipped generator, some of which smile and some hardly."""
    reader, generator, numbers = smile_samples.Reader(), fxjax.load("faces"), range(32)
    codes = smile_samples.codes(generator, numbers, 0.7)
    drawn = smile_samples.drawn(generator, codes, numbers, 64)
    known = [(f"{n}.png", str(n), picture) for n, picture in zip(numbers, drawn, strict=True)]
    faces, others = known[:24], known[24:]
    smiles = [reader(picture) for _, _, picture in faces]
    limits = Limits(*np.nanquantile(smiles, [0.3, 0.7]).tolist())
    found = label_sources.pasted_pairs(faces, reader, limits, donors=2)
    assert len(found) >= 4
    shown = {name: picture for _, name, picture in known}
    whole = 0
    for pair in zip(found[::2], found[1::2], strict=True):
        assert [each.expression for each in pair] == ["neutral", "happiness"]
        assert len({each.person for each in pair}) == 1
        person, _, own = pair[0].person.partition("of")
        for each in pair:
            assert limits.name(reader(each.picture)) == each.expression
            same = (each.picture == shown[person]).all(axis=-1)
            if each.expression == own:
                whole += 1
                assert same.all()
            else:
                assert 0.5 < same.mean() < 1, "the mouth alone"
    assert whole >= 2

    # those who receive get both mouths, none of theirs is used, and the others' stay as they are
    every = label_sources.pasted_pairs(faces, reader, limits, donors=2, receivers=others)
    for each, alone in zip(every, found, strict=False):
        np.testing.assert_array_equal(each.picture, alone.picture)
    received = every[len(found) :]
    assert received
    for each in received:
        person = each.person.removesuffix("ofneither")
        assert 0.5 < (each.picture == shown[person]).all(axis=-1).mean() < 1
    assert not label_sources.pasted_pairs(faces[:1], reader, limits, donors=2)
    assert not label_sources.pasted_pairs([], reader, limits, donors=2, receivers=others)


def test_few_donors_are_spread_over_all_faces():
    """Greedy medoids: two groups far apart get a donor each, whichever come first."""
    face = smile_samples.Sample("", np.zeros((1, 1, 3), np.uint8), "neutral", "")
    places = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2]
    seen = [
        label_sources.Seen(face._replace(name=str(k)), np.zeros((68, 2)), np.full(5, place))
        for k, place in enumerate(places)
    ]
    for order in (seen, seen[::-1]):
        chosen = label_sources._medoids(order, "neutral", 2)
        assert {each.face.name for each in chosen} <= {"1", "4", "2", "3"}
        assert len({each.fit[0] > 1 for each in chosen}) == 2
    assert len(label_sources._medoids(seen, "neutral", 9)) == 6
    assert not label_sources._medoids(seen, "happiness", 2)
