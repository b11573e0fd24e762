"""Every kind of report in a real browser: the result first, nothing sideways, sorted tables."""

import io
import os
import pathlib

import numpy as np
import pytest
import reportpages
from PIL import Image

SHOTS = os.environ.get("FXJAX_SHOTS")  # a folder for screenshots
SLIDERS = ("transfer", "group", "batch", "inversion")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, pathlib.Path]:
    home = tmp_path_factory.mktemp("pages")
    return {kind: reportpages.write(kind, home / kind) for kind in reportpages.KINDS}


@pytest.fixture
def opened(browser, drawn):
    """Opens a page, and looks at the end that it asked for nothing and that no script broke."""
    pages, asked, wrong = [], [], []

    def new(kind: str, width: int = 1280):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(drawn[kind].as_uri())
        return page

    yield new
    for page in pages:
        page.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wrong == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", reportpages.KINDS)
def test_nothing_scrolls_sideways_and_the_facts_are_last(opened, kind, width):
    page = opened(kind, width)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{kind}-{width}.png", full_page=True)
    assert page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    boxes = "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
    if (kind, width) != ("inversion", 1280):  # with strips and tuned faces it has 15 columns
        assert page.evaluate(boxes)
    assert page.locator("h2").last.inner_text() == "Run"
    facts = page.locator("h2:last-of-type + dl").bounding_box()["y"]
    assert facts > max(box.bounding_box()["y"] for box in page.locator("table, .bars").all())


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", SLIDERS)
def test_the_result_comes_first_with_a_slider_that_works(opened, kind, width):
    page = opened(kind, width)
    slider, words = page.locator(".slider").bounding_box(), page.locator(".verdict").bounding_box()
    assert slider["y"] + slider["height"] <= words["y"]
    assert words["y"] < page.locator("h2").first.bounding_box()["y"]
    assert slider["width"] >= (576 if width == 1280 else 366)
    if kind == "transfer" and width == 1280:
        assert slider["width"] == 720  # a photo of 900 pixels is as large as the window is high

    def shot() -> np.ndarray:
        data = page.locator(".slider").screenshot()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)

    page.locator(".slider input").focus()
    page.keyboard.press("End")
    before = shot()
    page.keyboard.press("Home")
    if kind != "inversion":  # what was drawn there is the photo itself
        assert np.abs(before - shot()).mean() > 30


def test_verdicts_are_sentences(opened):
    said = {kind: opened(kind).locator(".verdict").inner_text() for kind in SLIDERS}
    assert said == {
        "transfer": "Skin discoloured.",
        "group": "2 of 3 faces look whole.",
        "batch": "2 of 4 results look whole.",
        "inversion": "2 of 3 faces have a code; the others' status says why not.",
    }
    assert "75 % of the way" in opened("transfer").locator(".verdict + p").inner_text()
    assert opened("group").locator("li").all_inner_texts() == ["face1: skin discoloured"]
    page = opened("masks")
    assert "take row 4 (100 %)." in page.locator(".verdict").inner_text()
    told = page.locator(".verdict + p").inner_text()
    assert "row 4 carries the most expression, 0.51" in told
    assert "row 1 carries the most of the pose" in told
    assert "row 9 moves the identity" in told
    assert (
        page.locator(".verdict").bounding_box()["y"]
        < page.locator(".bars").first.bounding_box()["y"]
    )


@pytest.mark.parametrize(
    ("kind", "column", "wanted"),
    [
        ("batch", "gain", ["0.5", "0.625", "0.75", ""]),
        ("group", "gain", ["0.5", "0.625", "0.75"]),
        ("inversion", "loss", ["0.4", "0.9", ""]),
        ("labels", "difference", ["-50.0 %", "-43.7 %", "+20.0 %"]),
    ],
)
def test_tables_sort(opened, kind, column, wanted):
    page = opened(kind)
    page.get_by_role("button", name=column, exact=True).first.click()
    cells = page.locator("table").first.locator(f"[data-label='{column}']")
    assert [text.strip() for text in cells.all_inner_texts()] == wanted


def test_the_tables_of_losses_sort(opened):
    page = opened("losses")
    means = page.locator("table.numbers")
    means.get_by_role("button", name="identity distance").click()
    assert means.locator("tbody th").all_inner_texts()[0] == "block5_conv3"
    faces = page.locator("table.faces")
    faces.get_by_role("button", name="pixels").click()
    assert faces.locator("tbody figcaption").all_inner_texts()[0] == "a"
    faces.get_by_role("button", name="pixels").click()
    assert faces.locator("tbody figcaption").all_inner_texts()[0] == "b"


def test_a_phone_sorts_each_table_by_its_own_choice(opened):
    page = opened("losses", 390)
    page.locator("select").nth(1).select_option("PSNR \N{UPWARDS ARROW}")
    first = page.locator("table.numbers tbody th").all_inner_texts()[0]
    assert first == "block5_conv3"
    assert page.locator("table.words tbody th").all_inner_texts()[0].startswith("identity")


def test_thumbnails_open_large_with_a_name(opened):
    page = opened("batch")
    page.locator("tbody img").nth(2).click()
    large = page.locator("dialog img")
    assert large.get_attribute("alt").startswith("result: a-photo-with")
    assert large.evaluate("image => image.naturalWidth") == 256
    assert large.bounding_box()["width"] >= 600


def test_bars_can_be_read_on_a_phone(opened):
    page = opened("masks", 390)
    sizes = page.locator(".bars dt, .bars dd").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12


def test_a_batch_of_forty_stays_small(tmp_path):
    (tmp_path / "out").mkdir()
    assert len(reportpages.several(tmp_path / "out", 40)) < 3.2e6
