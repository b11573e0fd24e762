"""The report: well-formed, self-contained, safe with any file name, its pictures those given."""

import base64
import html.parser
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from fxjax.report import (
    Bits,
    Curve,
    Link,
    Picture,
    Shown,
    bars,
    page,
    pairs_sheet,
    table,
    verdicts,
)

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
    assert second[3][0]["data-value"] == "Infinity"  # as the browser's numbers are written
    assert second[0][0]["class"] == "none"


def test_thumbnails_are_the_pictures(text, picture):
    (data,) = re.findall(r"base64,([^\"]+)", text)
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert small.size == (341, 256)
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


def test_facts_come_last(text):
    assert text.index("<table") < text.index("<dl>")


def test_a_picture_is_called_by_its_column_and_row(picture):
    cells = [Picture(picture), Link(EVIL, "faces/a b#1.png")]
    text = table(["result", "pair"], [cells, [Picture(picture), 3]], {"pair": "two photos"})
    names = [attributes["alt"] for tag, attributes in read(text).tags if tag == "img"]
    assert names == [f"result: {EVIL}", "result"]
    assert 'href="faces/a%20b%231.png"' in text
    assert '<th title="two photos">' in text
    assert "<b>pair</b>: two photos" in text


def test_a_mask_is_squares_and_a_text_may_sort_by_a_number():
    text = table(["mask", "change"], [[Bits("0110"), Shown("-43.7 %", -43.7)]])
    squares = [attributes["class"] for tag, attributes in read(text).tags if tag == "rect"]
    assert squares == ["off", "on", "on", "off"]
    assert "<title>0110</title>" in text
    assert 'data-value="-43.7">-43.7 %</td>' in text


def test_the_verdict_counts_the_good_and_names_the_others():
    said = {f"face{k}": "looks whole" for k in range(3)} | {"face3": EVIL}
    text = verdicts(said, "looks whole", "faces")
    assert "3 of 4 faces look whole." in text
    assert "<li>face3: &lt;script&gt;" in text
    assert 'class="verdict bad"' in text
    assert "bad" not in verdicts({"face0": "looks whole"}, "looks whole", "faces")
    many = {f"pair{k}": "blurred" for k in range(9)} | {"one": "looks whole"}
    text = verdicts(many, "looks whole", "results")
    assert "1 of 10 results looks whole." in text
    assert "pair5 and 3 more: blurred" in text
    assert "pair6" not in text


def test_bars_begin_at_zero_and_hold_their_intervals():
    text = bars(["a", "b", "c"], [-1.0, 3.0, math.nan], [math.nan, 1.0, 1.0])
    places = re.findall(r'<([ib]) style="left: ([\d.]+)%; width: ([\d.]+)%"', text)
    assert places == [("i", "0.00", "20.00"), ("i", "20.00", "60.00"), ("b", "60.00", "40.00")]
    assert "-1.000<" in text
    assert "+3.000 \u00b1 1.000<" in text
    assert "not measured" in text


def test_pairs_sheet_puts_counterparts_side_by_side():
    left = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(3)])
    sheet = pairs_sheet(left, left + 5, pairs=2)
    assert sheet.shape == (20, 44, 3)
    assert [int(sheet[4, x, 0]) for x in (4, 16, 28, 40)] == [0, 5, 10, 15]
    assert [int(sheet[16, x, 0]) for x in (4, 16)] == [20, 25]
