"""Tables as spreadsheets of all systems save them: read, or refused with row and column."""

import dataclasses
import unicodedata

import numpy as np
import pytest

from experiments import transfer_batch
from fxjax import tables
from fxjax.runs import pairs, worklist
from fxjax.training import data

LINES = "filename,training_weight\n0.png,1\n1.png,0.5\n2.png,0\n"
NAMES = ["0.png", "1.png", "2.png"]
GERMAN = LINES.replace(".5", "-5").replace(",", ";").replace("-", ",")


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        LINES.encode("utf-8-sig"),
        LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\r").encode(),
        LINES.encode("utf-16"),
        b"\xfe\xff" + LINES.encode("utf-16-be"),
        LINES.replace(",", "\t").encode("utf-16"),
        LINES.encode("utf-32"),
        GERMAN.encode("utf-8-sig"),
        ("sep=;\r\n" + GERMAN).encode(),
        ("SEP=;\r" + GERMAN.replace("\n", "\r")).encode(),
        ('"sep=;"\n' + GERMAN).encode("utf-8-sig"),
        ('\r\n"Sep=;";\r\n\r\n' + GERMAN).encode(),
        ("sep=\t\n" + LINES.replace(",", "\t")).encode(),
        ("sep=|\n" + LINES.replace(",", "|")).encode(),
        ("\n \n\n" + GERMAN).encode(),
        (";;;\r\n;\r\n" + GERMAN.replace("\n", "\r\n")).encode(),
        GERMAN.replace(";", "\t").encode(),
        LINES.replace("0.5", '"0.5"').encode(),
        (LINES + ",\n\n , \n").encode(),
        LINES.replace(",", " , ").encode(),
        LINES.replace("\n", ",,\n").encode(),
        LINES.replace("0.png", '"0.png"').encode(),
    ],
)
def test_every_spreadsheets_csv_is_read(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert data.read_weights(path, NAMES).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"filename,training_weight\n0.png,1\n\n1.png,\n", "row 4, column training_weight: the c"),
        (b"filename,training_weight\n,1\n", "row 2, column filename: the cell is blank"),
        (b"filename,training_weight\n0.png,much\n", "row 2, column training_weight: 'much' is no"),
        (b"filename,training_weight\n0.png,-1\n", "row 2, column training_weight: a weight of -1"),
        (b"filename,training_weight\n0.png,nan\n", "row 2, column training_weight: a weight of n"),
        (b"filename,training_weight\na,b.png,1\n", "row 2, column 3: '1' is beyond the 2 columns"),
        (
            b"filename;training_weight\n0.png;1,000\n",
            "row 2, column training_weight: '1,000' may be",
        ),
        (
            b"sep=;\nfilename;training_weight\n\n0.png;-12,345\n",
            "row 4, column training_weight: '-12",
        ),
        (b"filename\ttraining_weight\n0.png\t1,000,000\n", "'1,000,000' is no number; write it li"),
        (b"filename;training_weight\n0.png;1.000,5\n", "'1.000,5' is no number; write it like 12"),
        (b'filename,training_weight\n0.png,"1,5"\n', "'1,5' is no number; write it like 1234.5"),
        (b"file;weight\n0.png;1\n", "has no column filename; its first line names file, weight"),
        (b"filename,weight\n", "has no rows below its first line, which names filename, weight"),
        (b"", "is empty; its first line must name the columns"),
        (b"\n ;\n", "is empty; its first line must name the columns"),
        (b"filename,filename\n0.png,1\n", "row 1, column filename: 2 columns have this name"),
        (b"filename,training_weight\n0.png,1\n\xe9.png,1\n", "row 3, column 1: it is not UTF-8"),
        (b"filename,training_weight\n0.png,\xe9\n", "row 2, column 2: it is not UTF-8"),
        (LINES.encode("utf-16")[:-1], "it is not UTF-16; save it as CSV UTF-8"),
        (LINES.encode("utf-16-le"), "row 1 holds zero bytes"),
        (b"PK\x03\x04" + bytes(40), "is a workbook or an archive; save it as CSV UTF-8"),
        (b"filename,kind,source_id\n0.png,bse,1\n", "row 2, column kind: unknown kind 'bse'"),
        (b"filename,training_weight\n0.png," + b"1" * 200000, "row 2 is no CSV: field larger"),
    ],
)
def test_what_is_wrong_is_found_by_row_and_column(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.csv") as caught:
        data.read_weights(path, ["0.png"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shared_tables(shared, tmp_path):
    folder = shared / "cases" / "excel-csv"
    assert data.read_weights(folder / "bom.csv", NAMES).tolist() == [1, 1, 1]
    assert data.read_weights(folder / "semi.csv", NAMES[:1]).tolist() == [1]
    with pytest.raises(ValueError, match=r"blank\.csv: row 3, column training_weight: the cell is"):
        data.read_weights(folder / "blank.csv", NAMES)
    config = transfer_batch.Config(pairs=str(folder / "pairs_bom.csv"), out=str(tmp_path))
    (pair,) = pairs.read_pairs(config)
    assert [path.name for path in pair[:2]] == ["ann.jpg", "two.jpg"]


def test_pairs_of_other_systems(tmp_path):
    accent = unicodedata.normalize("NFD", "é.png")
    (tmp_path / "people").mkdir()
    for name in ("ann.png", accent):
        (tmp_path / "people" / name).write_bytes(b"")
    table = tmp_path / "pairs.csv"
    lines = "appearance;expression\r\npeople\\ann.png;people\\é.png\r\n"
    table.write_bytes(lines.encode("utf-16"))
    config = transfer_batch.Config(pairs=str(table), out=str(tmp_path / "out"))
    (pair,) = pairs.read_pairs(config)
    assert all(path.exists() for path in pair[:2])
    table.write_text("appearance,expression\na.png,\n")
    with pytest.raises(
        ValueError, match=r"pairs\.csv: row 2, column expression: the cell is blank"
    ):
        pairs.read_pairs(config)
    (tmp_path / "list.txt").write_bytes("people\\ann.png\r\n".encode("utf-16"))
    config = dataclasses.replace(config, pairs=None)
    (tmp_path / "LIST.TXT").write_bytes((tmp_path / "list.txt").read_bytes())
    for name in ("list.txt", "LIST.TXT"):
        found, _ = worklist.find(str(tmp_path / name), tmp_path / "out")
        assert [path.name for path in found] == ["ann.png"]


def test_rows_know_where_they_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,\n')
    first, second = tables.read(path)
    assert first == {"a": "1", "b": "x\ny"}
    assert (first.number, second.number, second["b"]) == (2, 4, "")
    assert np.isclose(first.float("a"), 1)
    with pytest.raises(ValueError, match="no column c; it has a, b"):
        first.filled("c")
    with pytest.raises(FileNotFoundError, match="no table"):
        tables.read(tmp_path)


def test_decimal_commas(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a;b;c;d\n1,5;-0,125;1234,567;12,34\n")
    (row,) = tables.read(path)
    assert [row.float(name) for name in "abcd"] == [1.5, -0.125, 1234.567, 12.34]
