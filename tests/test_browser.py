"""The page in a real browser. A worker without models stands in, so that it takes seconds.

Every request to another place than the page's own is stopped and fails the test.
"""

import base64
import io
import os
import pathlib
import re
import signal
import socket
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from webpages import app_of, picture, plain  # noqa: E402

from fxjax import assess, report, transfer_report  # noqa: E402

SHOTS = os.environ.get("FXJAX_SHOTS")  # a folder for screenshots


class Served:
    """A server in a thread."""

    def __init__(self, home: pathlib.Path, port: int = 0):
        self.home = home
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app_of(home), loop="asyncio", log_level="error", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def served(tmp_path):
    served = Served(tmp_path)
    yield served
    served.stop()


@pytest.fixture
def opened(browser, served):
    """Opens pages, and looks at the end that none asked for anything elsewhere or broke a rule."""
    contexts, elsewhere, wrong = [], [], []

    def route(route):
        if route.request.url.startswith(f"http://127.0.0.1:{served.port}/"):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    def said(message):
        refused = "status of" in message.text or "net::ERR_" in message.text  # as tests provoke
        if message.type == "error" and not refused:
            wrong.append(message.text)

    def new(width: int = 1280, height: int = 900, **options: Any):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.route("**/*", route)
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("#person .samples button")
        return page

    yield new
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert wrong == []


def drop(page, where, *files):
    """Drops files as a hand does: (name, kind, bytes)."""
    page.evaluate(
        """([where, files]) => {
          const carried = new DataTransfer();
          for (const [name, type, text] of files) {
            const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
            carried.items.add(new File([bytes], name, { type }));
          }
          const options = { dataTransfer: carried, bubbles: true, cancelable: true };
          const target = document.querySelector(where);
          target.dispatchEvent(new DragEvent("dragover", options));
          target.dispatchEvent(new DragEvent("drop", options));
        }""",
        [where, [(name, kind, _text(data)) for name, kind, data in files]],
    )


def _text(data: bytes) -> str:

    return base64.b64encode(data).decode()


def photo(data=None, name="a.png", kind="image/png"):
    return name, kind, picture() if data is None else data


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def result(page):
    """Two photos, and the result of them."""
    drop(page, "#person .drop", photo(), photo())
    page.click("#start:enabled")
    page.wait_for_selector("#masks .grid button")


def no_sideways(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_dropped_photos_become_a_result_that_is_there_after_a_reload(opened, served):
    page = opened()
    shot(page, "1280-first")
    drop(page, "#person .drop", photo(picture(600, 400)), photo(name="b.png"))
    page.wait_for_selector("#driver .box")
    assert page.locator("#person .box").count() == 2
    page.click("#person .box >> nth=1")
    assert page.get_attribute("#person .box >> nth=1", "aria-pressed") == "true"
    assert page.get_attribute("#person .box >> nth=0", "aria-pressed") == "false"
    page.wait_for_selector("#warnings li >> text=The face is small")
    shot(page, "1280-given")
    page.reload()
    page.wait_for_selector("#person .box")
    assert page.get_attribute("#person .box >> nth=1", "aria-pressed") == "true"
    page.evaluate(
        """() => {
          const bar = document.querySelector("#share"), seen = (window.shares = []);
          new MutationObserver(() => seen.push(bar.value)).observe(bar, { attributes: true });
        }"""
    )
    page.click("#start:enabled")
    page.wait_for_selector("#looks img")
    page.wait_for_selector("#looks img[src$='/inversions.jpg?2']", state="attached")
    shot(page, "1280-running")
    page.wait_for_selector("#masks .grid button")
    shares = page.evaluate("window.shares")
    assert shares == sorted(shares)
    assert len(set(shares)) > 3
    assert "Still the same person" in page.inner_text("#verdict")
    width = page.locator("#after").evaluate(
        "image => image.decode().then(() => image.naturalWidth)"
    )
    assert width == 600
    shot(page, "1280-result")
    address = page.url
    page.reload()
    page.wait_for_selector("#masks .grid button")
    assert page.url == address
    assert "--face=1" in page.text_content("#command")
    with page.expect_download() as loaded:
        page.click("#download")
    assert loaded.value.path().read_bytes()[:4] == b"\x89PNG"
    with page.expect_popup() as report:
        page.click("#report")
    sync.expect(report.value).to_have_title("A report")


def test_a_result_outlives_a_restart_and_can_be_deleted(opened, served, tmp_path):
    page = opened()
    result(page)
    port = served.port
    served.stop()
    again = Served(tmp_path, port)
    served.server, served.thread, served.socket = again.server, again.thread, again.socket
    page.wait_for_timeout(500)
    page.click("#masks .grid button >> nth=1")  # with the token of the one before
    page.wait_for_selector("#verdict >> text=Blurred")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#history .delete")
    page.wait_for_selector("#history", state="hidden")
    page.wait_for_selector("#ask")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_masks_the_front_and_the_strength_are_drawn_at_once(opened):
    page = opened()
    result(page)
    after = lambda: page.get_attribute("#after", "src")
    assert after().endswith("after.jpg")
    page.click("#masks .grid button >> nth=1")
    page.wait_for_selector("#after[src*='drawn/0010_100.jpg']")
    assert page.inner_text("#which").startswith("Shown: rows 2 from the second face")
    page.fill("#amount", "40")
    page.wait_for_selector("#after[src*='drawn/0010_040.jpg']")
    page.fill("#front", "3")
    page.wait_for_selector("#after[src*='drawn/1111_040.jpg']")
    assert page.get_attribute("[data-mask='1111']", "aria-pressed") == "true"
    shot(page, "1280-mask")
    with page.expect_download() as loaded:
        page.click("#download")
    assert loaded.value.suggested_filename.endswith("1111_040.png")
    page.click("#back")
    assert after().endswith("after.jpg")
    page.fill("#divide", "80")
    shown = page.evaluate("getComputedStyle(document.querySelector('#before')).clipPath")
    assert "20%" in shown
    page.click("summary >> text=command line")
    page.click("#copy")


def test_of_all_faces_each_has_its_mixes(opened):
    page = opened()
    drop(page, "#person .drop", photo(picture(450, 300)), photo())
    page.click("#person [data-face=all]")
    assert page.locator("#person .box[aria-pressed=true]").count() == 2
    page.click("#start:enabled")
    page.wait_for_selector("#whose button:enabled >> nth=1")
    source = lambda: page.get_attribute("#masks .grid img >> nth=0", "src")
    assert source().endswith("/face0/masks/0110.jpg")
    page.click("#whose button >> nth=1")
    assert page.get_attribute("#whose button >> nth=1", "aria-pressed") == "true"
    assert source().endswith("/face1/masks/0110.jpg")
    page.click("#masks .grid button >> nth=1")
    page.wait_for_selector("#after[src*='/face1/drawn/0010_100.jpg']")
    with page.expect_download() as loaded:
        page.click("#download")
    assert loaded.value.path().read_bytes()[:4] == b"\x89PNG"
    page.click("#whose button >> nth=0")
    assert page.get_attribute("#after", "src").endswith("after.jpg")
    shot(page, "1280-all")
    with page.expect_popup() as report:
        page.click("#report")
    report.value.click("text=face1")
    sync.expect(report.value).to_have_url(re.compile("/face1/report.html$"))
    sync.expect(report.value).to_have_title("A report")


def test_a_photo_is_pasted(opened):
    page = opened()
    page.evaluate(
        """text => {
          const carried = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
          carried.items.add(new File([bytes], "image.png", { type: "image/png" }));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried }));
        }""",
        _text(picture()),
    )
    page.wait_for_selector("#person .box")
    assert page.locator("#driver .box").count() == 0


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (photo(plain()), "No face was found"),
        (photo(picture(kind="JPEG")[:500], "cut.jpg", "image/jpeg"), "is not a picture"),
        (photo(b"<html><script>alert(1)</script>", "page.jpg", "image/jpeg"), "is not a picture"),
    ],
    ids=["nobody", "cut", "html"],
)
def test_what_is_no_photo_of_a_face_is_said_beside_it(opened, file, line):
    page = opened()
    page.set_input_files("#person input", {"name": file[0], "mimeType": file[1], "buffer": file[2]})
    page.wait_for_selector("#person .wrong:not([hidden])")
    assert line.lower() in page.inner_text("#person .wrong").lower()
    assert page.is_disabled("#start")
    drop(page, "#person", photo())
    page.wait_for_selector("#person .box")
    assert page.is_hidden("#person .wrong")


def test_a_bomb_is_refused(opened):

    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    page = opened()
    drop(page, "#driver .drop", photo(buffer.getvalue()))
    page.wait_for_selector("#driver .wrong >> text=Too many pixels")


def test_a_hostile_name_is_only_a_name(opened, served):
    page = opened()
    name = '../../<img src=x onerror="document.title=1">\u202e.png'
    drop(page, "#person .drop", photo(name=name), photo(name="/etc/passwd"))
    page.click("#start:enabled")
    page.wait_for_selector("#masks .grid button")
    assert "onerror" not in page.content()
    assert not [path for path in served.home.rglob("*") if not re.fullmatch(r"[\w.-]+", path.name)]


def test_a_link_is_not_fetched(opened):
    page = opened()
    page.evaluate(
        """() => {
          const carried = new DataTransfer();
          carried.setData("text/uri-list", "http://example.org/a.png");
          const options = { dataTransfer: carried, bubbles: true, cancelable: true };
          document.querySelector("#person .drop").dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    page.wait_for_selector("#alert >> text=That was no file")


def test_two_tabs_see_the_same(opened):
    first, second = opened(), opened()
    drop(first, "#person .drop", photo(picture(14, 20)), photo())
    first.click("#start:enabled")
    second.wait_for_selector("#history li >> text=Running")
    second.click("#history li button")
    second.wait_for_selector("#running")
    result(fresh(opened()))  # waits behind it
    first.wait_for_selector("#ended >> text=Cancelled")


def fresh(page):
    """Cancels what runs, so that the next one does."""
    page.wait_for_selector("#history li >> text=Running")
    page.click("#history li button")
    page.click("#cancel")
    page.wait_for_selector("#ended >> text=Cancelled")
    page.click("#ended button")
    page.wait_for_selector("#ask")
    return page


def test_a_killed_worker_is_said_and_the_next_one_works(opened, served):
    page = opened()
    drop(page, "#person .drop", photo(picture(14, 20)), photo())
    page.click("#start:enabled")
    page.wait_for_selector("#share[value]")
    worker = next(
        route.endpoint.__self__
        for route in served.server.config.app.routes
        if route.path == "/api/start"
    ).worker
    os.kill(worker.life.process.pid, signal.SIGKILL)
    page.wait_for_selector("#ended >> text=The worker was stopped")
    shot(page, "1280-failed")
    result(opened())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(opened, scheme):
    page = opened(390, 844, color_scheme=scheme, device_scale_factor=2)
    no_sideways(page)
    shot(page, f"390-{scheme}-first")
    page.click("#person .samples button >> nth=0")
    page.click("#driver .samples button >> nth=1")
    page.click("summary >> text=Advanced")
    page.wait_for_selector("#start:enabled")
    no_sideways(page)
    shot(page, f"390-{scheme}-given")
    page.click("#start")
    page.wait_for_selector("#looks img")
    page.wait_for_selector("#looks img[src$='/inversions.jpg?2']", state="attached")
    no_sideways(page)
    page.wait_for_selector("#masks .grid button")
    page.click("summary >> text=command line")
    no_sideways(page)
    shot(page, f"390-{scheme}-result")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", colour))) > 384
    assert light == (scheme == "light")


def test_dark_on_a_desk(opened):
    page = opened(color_scheme="dark")
    result(page)
    shot(page, "1280-dark-result")


def test_the_keyboard_alone_is_enough(opened):
    page = opened()

    def walk(selector):
        """Tabs until that is reached; it must be seen that it is."""
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    walk("#person .samples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#person .box")
    walk("#driver .samples button")
    page.keyboard.press("Space")
    page.wait_for_selector("#driver .box")
    walk("#strength")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#strength-shown") == "95 %"
    walk("#parts input[value=eyes]")
    page.keyboard.press("Space")
    assert page.is_checked("#parts input[value=eyes]")
    page.wait_for_selector("#start:enabled")
    walk("#start")
    page.keyboard.press("Enter")
    page.wait_for_selector("#masks .grid button")
    page.evaluate("document.activeElement.blur()")
    walk("#divide")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#divide") == "51"
    outline = page.evaluate("getComputedStyle(document.querySelector('#compare')).outlineStyle")
    assert outline == "solid"
    walk("#masks .grid button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#verdict >> text=Blurred")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_compares_and_enlarges(browser, tmp_path, width):
    """With keys alone; nothing scrolls sideways, and nothing is asked for from outside."""
    before, after = np.zeros((300, 400, 3), np.uint8), np.full((300, 400, 3), 255, np.uint8)
    small = report.image_tag(report.Picture(after, 96))
    body = f"{report.slider(before, after)}<figure>{small}<figcaption>a face</figcaption></figure>"
    (tmp_path / "report.html").write_text(report.document("A report", {}, body))
    context = browser.new_context(viewport={"width": width, "height": 800})
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())

    def brightness() -> float:
        shot = page.locator(".slider").screenshot()
        return float(np.asarray(Image.open(io.BytesIO(shot)).convert("L")).mean())

    half = brightness()
    page.locator(".slider input").focus()
    page.keyboard.press("End")
    full = brightness()
    page.keyboard.press("Home")
    assert full < half - 60 < brightness() - 120  # all of the dark one, half, all of the other
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Enlarge a face").press("Enter")
    large = page.locator("dialog img")
    assert large.is_visible()
    assert large.bounding_box()["width"] > 2 * page.locator("figure img").bounding_box()["width"]
    page.keyboard.press("Escape")
    assert not large.is_visible()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wrong == []
    context.close()


def test_the_table_of_methods_sorts(browser, tmp_path):
    """By numbers, not by their texts; what is not a number comes last."""
    photo, nan = np.zeros((20, 20, 3), np.uint8), float("nan")
    numbers = {"result": (0.9, 0.3, nan), "pasted": (-0.05, 0.4, 9.5), "kept": (nan, 0.0, 10.0)}
    methods = [
        assess.Assessed(name, photo, gain, near, 0.5, float("inf"), e, nan)
        for name, (gain, near, e) in numbers.items()
    ]
    (tmp_path / "report.html").write_text(
        report.document(
            "A report", {}, transfer_report.measures(methods), style=transfer_report.STYLE
        )
    )
    page, wrong = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())

    def shown(column: str) -> list[str]:
        page.get_by_role("button", name=column, exact=True).click()
        return page.locator("tbody th").all_inner_texts()

    assert page.locator("tbody th").all_inner_texts() == ["result", "pasted", "kept"]
    assert shown("gain") == ["pasted", "result", "kept"]
    assert shown("gain") == ["result", "pasted", "kept"]
    assert shown("identity to first") == ["kept", "result", "pasted"]
    assert shown("E") == ["pasted", "kept", "result"]
    assert shown("picture") == ["kept", "pasted", "result"]
    assert page.evaluate(
        "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    assert wrong == []
    page.close()
