"""The report: well-formed, self-contained, safe with any file name, its pictures those given."""

import base64
import html.parser
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from fxjax.report import Curve, Picture, page, pairs_sheet

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert(1)</script>\"'&.png"


class Reader(html.parser.HTMLParser):
    """Collects the table; fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[dict[str, str | None], str]]] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open and "svg" not in self.open:
            attributes, text = self.rows[-1][-1]
            self.rows[-1][-1] = attributes, text + data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rows, columns = np.mgrid[:300, :400]
    return np.stack([rows % 256, columns % 256, 255 - rows % 256], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def text(picture) -> str:
    curve = Curve([10 / (1 + step) for step in range(500)])
    rows = [
        [Picture(picture), curve, EVIL, 0.5, 3],
        [None, Curve([math.nan, 1.0, 0.0, math.inf]), "caf\udce9 \u2603", math.inf, -1],
    ]
    return page(f"A {EVIL}", {"model": EVIL}, ["face", "curve", "name", "loss", "n"], iter(rows))


def test_everything_is_escaped(text):
    reader = read(text)
    assert reader.scripts == 1
    assert "<script>alert" not in text
    body = reader.rows[1:]
    assert body[0][2][1] == EVIL
    assert body[1][2][1] == "caf\\udce9 \u2603"
    assert text.encode()  # a name that is not UTF-8 does no harm


def test_nothing_comes_from_outside(text):
    for tag, attributes in read(text).tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/jpeg;base64,"), (tag, value)
    assert "url(" not in text
    assert "@import" not in text
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", text)


def test_numbers_sort_by_value_and_cells_know_their_column(text):
    first, second = read(text).rows[1:]
    assert [attributes["data-label"] for attributes, _ in first] == [
        "face", "curve", "name", "loss", "n",
    ]  # fmt: skip
    assert float(first[3][0]["data-value"] or "") == 0.5
    assert first[4][1] == "3"
    assert second[3][0]["data-value"] == "inf"
    assert second[0][0]["class"] == "none"


def test_thumbnails_are_the_pictures(text, picture):
    (data,) = re.findall(r"base64,([^\"]+)", text)
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert small.size == (256, 192)
    wanted = Image.fromarray(picture).resize(small.size, Image.Resampling.BOX)
    difference = np.asarray(small, float) - np.asarray(wanted, float)
    assert np.abs(difference).mean() < 6


def test_curves_fall_where_losses_fall(text):
    lines = re.findall(r'<polyline points="([^"]*)"', text)
    spots = np.array([[float(n) for n in pair.split(",")] for pair in lines[0].split()])
    assert len(spots) == 150
    assert (np.diff(spots[:, 0]) > 0).all()
    assert (np.diff(spots[:, 1]) >= 0).all()  # down in a picture is up in y
    assert spots.min() >= 0
    assert spots[:, 0].max() <= 150
    assert len(lines[1].split()) == 1  # of four values only one is finite and positive


def test_an_empty_report_is_one_too():
    assert len(read(page("Nothing", {}, ["name"], [])).rows) == 1


def test_pairs_sheet_puts_counterparts_side_by_side():
    left = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(3)])
    sheet = pairs_sheet(left, left + 5, pairs=2)
    assert sheet.shape == (20, 44, 3)
    assert [int(sheet[4, x, 0]) for x in (4, 16, 28, 40)] == [0, 5, 10, 15]
    assert [int(sheet[16, x, 0]) for x in (4, 16)] == [20, 25]
