"""The sweep of losses: equal terms, measures of real faces, who wins, kill and resume, the page."""

import csv
import dataclasses
import html.parser
import io
import math
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx
from PIL import Image

from experiments import sweep_losses
from fxjax import cli, losses, metrics
from fxjax.checkpoint import flatten, save_model
from fxjax.codes import invert as core
from fxjax.faces import align, detect
from fxjax.images import from_uint8, load_image, save_image, to_uint8
from fxjax.nn.generator import codes, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16, Heads
from fxjax.runs import inversion, loss_page, loss_sweep
from fxjax.runs.loss_sweep import MEASURES, PAPER, Config, Judge, Result

SCALING: dict[str, Any] = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False}
SMALL: dict[str, Any] = {
    "resolution": 16, "widths": (8, 8, 8), "dim": 16, "latent": 16, "mapping_layers": 2,
}  # fmt: skip
LARGE = {**SMALL, "resolution": 64, "widths": (8, 8, 8, 8, 8)}  # large enough to see a face in


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A real face, aligned, at 256 pixels."""
    photo = skimage.data.astronaut()
    (found,) = detect.Detector()(photo)
    return to_uint8(align.align(photo, found.landmarks, 256).image)


@pytest.fixture(scope="module")
def home(tmp_path_factory, face) -> Any:
    """Generators of 16 and 64 pixels, features of one and of five blocks, heads, and pictures."""
    home = tmp_path_factory.mktemp("home")
    for name, architecture in {"small": SMALL, "large": LARGE}.items():
        model = StyleGAN2(**architecture, rngs=nnx.Rngs(0))
        save_model(home / name, "stylegan2", {"generator": (architecture, flatten(model))}, {})
    for name, blocks in {"vgg": 1, "deep": 5}.items():
        options = {"widths": (4,) * blocks, **SCALING}
        features = VGG16(**options, rngs=nnx.Rngs(1))
        save_model(home / name, "vgg16", {"features": (options, flatten(features))}, {})
    options = {"layers": metrics.LAYERS, "widths": (4,) * 5, **SCALING}
    heads = Heads(**options, rngs=nnx.Rngs(2))
    save_model(home / "heads", "lpips", {"heads": (options, flatten(heads))}, {})
    for index, picture in enumerate((face, np.ascontiguousarray(face[:, ::-1]))):
        small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX))
        save_image(home / "faces" / f"face{index}.png", small)
    model = StyleGAN2(**SMALL, rngs=nnx.Rngs(0))
    made = synthesize(model, codes(model, jax.random.normal(jax.random.key(2), (2, 16))))
    for index, picture in enumerate(np.asarray(to_uint8(made))):
        save_image(home / "made" / f"made{index}.png", picture)
    return home


def config(home, out, **changes: Any) -> Config:
    options: dict[str, Any] = {
        "model": str(home / "small"), "features": str(home / "vgg"),
        "images": str(home / "made"), "out": str(out), "aligned": True, "steps": 20, "batch": 2,
        "devices": 1, **changes,
    }  # fmt: skip
    return Config(**options)


def large(home, out) -> Config:
    return config(home, out, model=str(home / "large"), images=str(home / "faces"), steps=10)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Any:
    """Two real faces with pixels and all layers that the features have."""
    out = tmp_path_factory.mktemp("whole") / "out"
    sweep_losses.main(large(home, out))
    return out


@pytest.fixture(scope="module")
def plain(home, tmp_path_factory) -> Any:
    """A run on 16 pixels with pixels and one layer."""
    out = tmp_path_factory.mktemp("plain") / "out"
    sweep_losses.main(config(home, out, layers=("block1_conv2",)))
    return out


def table(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def found(out) -> dict[str, np.ndarray]:
    result = {}
    for path in sorted((out / "losses").glob("*/codes/*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            result[f"{path.parent.parent.name}/{path.stem}"] = arrays["ws"]
    return result


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def lines(out) -> list[dict[str, str]]:
    """The table without what the clock says."""
    rows = table(out / "results.csv")
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def counted(monkeypatch) -> list[int]:
    """Counts the optimiser's steps from now on."""
    calls: list[int] = []
    real = core.advance

    def advance(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[6])
        return real(*arguments, **options)

    monkeypatch.setattr(core, "advance", advance)
    return calls


def test_every_loss_starts_alike_and_its_numbers_are_true(home, whole):
    rows = table(whole / "results.csv")
    layers = ["pixels", "block1_conv1", "block1_conv2", "block1_pool"]
    assert [(row["layer"], row["name"]) for row in rows] == [
        (layer, name) for layer in layers for name in ("face0", "face1")
    ]
    generator = StyleGAN2(**LARGE, rngs=nnx.Rngs(0))
    features = VGG16((4,), **SCALING, rngs=nnx.Rngs(1))
    start = synthesize(generator, core.mean_codes(generator, 1))
    judge, drawn = metrics.lpips_style(features), []
    for row in rows:
        folder = whole / "losses" / row["layer"]
        target, picture = (
            load_image(folder / kind / f"{row['name']}.png")
            for kind in ("targets", "reconstructions")
        )
        drawn.append(picture)
        np.testing.assert_array_equal(target, load_image(home / "faces" / f"{row['name']}.png"))
        assert float(row["psnr"]) == pytest.approx(metrics.psnr(picture, target), rel=1e-5)
        assert float(row["ssim"]) == pytest.approx(metrics.ssim(picture, target), rel=1e-5)
        one, other = (judge.embed(from_uint8(jnp.asarray(p[None]))) for p in (picture, target))
        assert float(row["lpips"]) == pytest.approx(float(judge.distance(one, other)[0]), rel=1e-4)
        assert row["found"] == "0"  # a random generator draws no face
        assert row["landmarks"] == ""
        assert float(row["identity"]) > 0.3
        goal = from_uint8(jnp.asarray(target[None]))
        if row["layer"] == "pixels":
            begin = float(jnp.mean(jnp.square(start - goal)))
        else:
            a, b = (features(p, [row["layer"]])[row["layer"]] for p in (start, goal))
            begin = float(jnp.mean(jnp.square(a - b)) / jnp.mean(jnp.square(a)))
        curve = (folder / "curves" / f"{row['name']}.csv").read_text().split()[1:]
        values = [float(line.split(",")[1]) for line in curve]
        assert values[0] == pytest.approx(begin, rel=1e-3)
        assert len(values) == 11
        assert values[-1] < values[0]
    assert all(np.any(drawn[0] != other) for other in drawn[2::2])  # losses do matter
    means = {row["layer"]: row for row in table(whole / "layers.csv")}
    assert list(means) == layers
    psnr = [float(row["psnr"]) for row in rows if row["layer"] == "block1_pool"]
    assert float(means["block1_pool"]["psnr"]) == pytest.approx(np.mean(psnr), rel=1e-5)
    half = 12.706 * abs(psnr[0] - psnr[1]) / 2  # Student's t with one degree of freedom
    assert float(means["block1_pool"]["psnr_margin"]) == pytest.approx(half, rel=1e-3)
    assert means["pixels"]["no_face"] == means["pixels"]["faces"] == "2"


def test_adam_takes_the_same_way_whatever_the_loss_is_multiplied_by():
    generator = StyleGAN2(**SMALL, rngs=nnx.Rngs(0))
    features = VGG16((4,), **SCALING, rngs=nnx.Rngs(1))
    targets = synthesize(generator, codes(generator, jax.random.normal(jax.random.key(3), (1, 16))))
    start, ends = core.mean_codes(generator, 1), []
    for scale in (1.0, 100.0):
        loss = losses.Perceptual(features, ("block1_conv2",), (scale,))
        settings = core.Settings(steps=10)
        place = core.begin(generator, start, settings)
        goal = loss.embed(targets)
        place, _ = core.advance(generator, loss, goal, start, place, settings, 10)
        ends.append(np.asarray(core.codes_of(place, start, settings)))
    assert np.abs(ends[0] - np.asarray(start)).max() > 0.1
    np.testing.assert_allclose(ends[0], ends[1], atol=5e-3)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(metrics.lpips_style(VGG16((4,), **SCALING, rngs=nnx.Rngs(0))))


def test_the_judge_sees_what_changed_in_a_real_face(judge, face):
    own = judge("own", face, face)
    assert (own["identity"], own["landmarks"], own["found"], own["lpips"]) == (0.0, 0.0, 1, 0.0)
    moved = judge("own", face, np.roll(face, 8, axis=1))
    (points,) = (found.landmarks for found in detect.Detector()(face))
    eyes = np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0))
    assert moved["landmarks"] == pytest.approx(8 / eyes, rel=0.2)
    assert moved["identity"] < 0.2
    none = judge("own", face, np.full_like(face, 128))
    assert (none["landmarks"], none["found"]) == (None, 0)
    assert none["identity"] > 0.5
    assert none["lpips"] > moved["lpips"] > 0
    blank = judge("blank", np.full_like(face, 128), face)
    assert (blank["identity"], blank["landmarks"], blank["found"]) == (None, None, None)


def test_the_judge_tells_persons_apart(judge, face, shared):
    photo = load_image(shared / "data" / "portraits" / "grace-meng.jpg")
    other = to_uint8(align.align(photo, detect.Detector()(photo)[0].landmarks, 256).image)
    numbers = judge("own", face, other)
    assert numbers["found"] == 1
    assert numbers["identity"] > 0.6
    assert 0.01 < numbers["landmarks"] < 0.5


def test_means_and_their_intervals():
    assert loss_sweep.mean([]) is None
    assert loss_sweep.mean([3.0]) == (3.0, None, 1)
    two = loss_sweep.mean([1.0, 2.0, 3.0])
    assert two is not None
    assert two == pytest.approx((2.0, 4.30265 / math.sqrt(3), 3), rel=1e-5)
    endless = loss_sweep.mean([math.inf, 30.0])
    assert endless == (math.inf, None, 2)


def results(numbers: dict[str, list[float | None]], field: str) -> list[Result]:
    found = []
    for layer, values in numbers.items():
        for index, value in enumerate(values):
            line = Result("photo.png", f"face{index}", layer, "ok")
            found.append(line._replace(**{field: value}))
    return found


@pytest.mark.parametrize(("field", "numbers", "winner", "answer"), [
    ("identity", {"pixels": [0.5, 0.6, 0.7], PAPER: [0.4, 0.5, 0.61]}, PAPER,
     "yes, by 0.097 \N{PLUS-MINUS SIGN} 0.014 before pixels"),
    ("psnr", {"pixels": [20.0, 21.0], PAPER: [15.0, 16.1], "block1_pool": [17.0, 17.0]}, "pixels",
     "no, pixels is better by 4.95 \N{PLUS-MINUS SIGN} 0.64"),
    ("ssim", {"pixels": [0.5, 0.6], PAPER: [0.6, 0.55]}, PAPER,
     "yes, by 0.025 \N{PLUS-MINUS SIGN} 0.953 before pixels, which is no clear difference"),
    # Of the easiest face alone nobody wins.
    ("landmarks", {"pixels": [0.1, 0.2], PAPER: [0.3, 0.2], "block5_pool": [0.01, None]}, "pixels",
     "no, pixels is better by 0.100 \N{PLUS-MINUS SIGN} 1.271, which is no clear difference"),
    ("landmarks", {"pixels": [0.1, 0.2], PAPER: [None, 0.1]}, "pixels",
     "not in this run, or measured on too few faces"),
    ("lpips", {PAPER: [0.5]}, PAPER, "nothing to compare"),
    ("lpips", {"pixels": [0.5], PAPER: [0.4]}, PAPER,
     "yes, by 0.100 before pixels, which is no clear difference"),
    ("lpips", {"pixels": [None], PAPER: [None]}, None, "not measured"),
])  # fmt: skip
def test_verdicts(field, numbers, winner, answer):
    (measure,) = (measure for measure in MEASURES if measure.field == field)
    verdict = loss_sweep.verdict(results(numbers, field), list(numbers), measure)
    assert (None if verdict is None else verdict.winner) == winner
    assert loss_page.sentence(verdict, measure) == answer


@pytest.mark.slow
def test_killed_runs_go_on_and_end_alike_bit_for_bit(home, tmp_path, root, monkeypatch):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    steps, layers = 1000, ("block1_conv2", "block1_conv1")
    settings = config(home, killed, steps=steps, layers=layers, save_seconds=0.0)
    flags = [f"--{name}={getattr(settings, name)}" for name in (
        "model", "features", "images", "out", "aligned", "steps", "batch", "devices",
        "save_seconds",
    )]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep_losses", *flags, f"--layers={','.join(layers)}"],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        state = killed / "losses" / "block1_conv1" / "state" / "place0.npz"  # the second of three
        limit = time.monotonic() + 200
        while not state.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert state.exists()
    assert sorted(found(killed)) == ["pixels/made0", "pixels/made1"]
    assert not (killed / "report.html").exists()
    sweep_losses.main(config(home, undisturbed, steps=steps, layers=layers))
    calls = counted(monkeypatch)
    sweep_losses.main(settings)
    # of two faces each: the second loss from its middle on, and the third
    assert 2 * steps < sum(calls) < 4 * steps
    equal(found(killed), found(undisturbed))
    assert len(found(killed)) == 6
    assert lines(killed) == lines(undisturbed)


def test_nothing_is_done_twice_and_layers_can_be_added(home, plain, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    before, first = lines(out), found(out)
    calls, judged = counted(monkeypatch), []
    real = Judge.__call__
    monkeypatch.setattr(
        Judge, "__call__", lambda self, *given: judged.append(given[0]) or real(self, *given)
    )
    settings = config(home, out, layers=("block1_conv2",))
    sweep_losses.main(settings)
    assert not calls
    assert not judged
    assert lines(out) == before
    (out / "losses" / "pixels" / "measures" / "made1.json").unlink()
    sweep_losses.main(settings)
    assert not calls
    assert judged == ["made1"]
    assert lines(out) == before
    sweep_losses.main(config(home, out, layers=("block1_conv2", "block1_pool")))
    assert sum(calls) == 2 * 20  # of two faces
    assert judged == ["made1", "made0", "made1"]
    assert lines(out)[:4] == before
    equal({name: found(out)[name] for name in first}, first)


def test_changed_settings_are_refused_and_restart_begins_anew(home, plain, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    (out / "notes.txt").write_text("mine")
    changed = config(home, out, layers=("block1_conv2",), steps=10)
    with pytest.raises(ValueError, match="--steps was 20, is now 10"):
        sweep_losses.main(changed)
    equal(found(out), found(plain))
    sweep_losses.main(dataclasses.replace(changed, restart=True, layers=("block1_conv1",)))
    assert sorted(found(out)) == [
        f"{layer}/made{index}" for layer in ("block1_conv1", "pixels") for index in (0, 1)
    ]
    assert (out / "notes.txt").read_text() == "mine"
    curve = (out / "losses" / "pixels" / "curves" / "made0.csv").read_text()
    assert len(curve.split()) == 12


def test_a_refused_photo_has_its_row_and_the_status_tells(home, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    save_image(folder / "good.png", load_image(home / "made" / "made0.png"))
    (folder / "<b>bad.png").write_bytes(b"")
    settings = config(home, out, images=str(folder), layers=("block1_conv1",), batch=0, steps=10)
    with pytest.raises(SystemExit, match=r"1 photos or searches failed; .*results\.csv"):
        sweep_losses.main(settings)
    rows = table(out / "results.csv")
    assert [(row["layer"], row["status"]) for row in rows] == [
        ("", "unreadable"), ("pixels", "ok"), ("block1_conv1", "ok"),
    ]  # fmt: skip
    assert rows[0]["message"]
    (folder / "good.png").unlink()
    with pytest.raises(SystemExit, match="1 photos or searches failed"):
        sweep_losses.main(dataclasses.replace(settings, out=str(tmp_path / "none")))
    assert [row["faces"] for row in table(tmp_path / "none" / "layers.csv")] == ["0", "0"]


def test_searches_that_fail_have_their_rows(home, tmp_path):
    with pytest.raises(SystemExit, match="4 photos or searches failed"):
        sweep_losses.main(config(home, tmp_path, rate=1e30, layers=("block1_conv1",)))
    assert {row["status"] for row in table(tmp_path / "results.csv")} == {"nonfinite"}
    assert "nonfinite" in (tmp_path / "report.html").read_text()


def test_lpips_heads_are_used(home, tmp_path):
    deep = {"features": str(home / "deep"), "layers": ("block3_conv3", "pixels", "block1_conv1")}
    settings = config(home, tmp_path / "out", heads=str(home / "heads"), steps=10, **deep)
    sweep_losses.main(settings)
    features = VGG16((4,) * 5, **SCALING, rngs=nnx.Rngs(1))
    heads = Heads(metrics.LAYERS, (4,) * 5, **SCALING, rngs=nnx.Rngs(2))
    judge = metrics.lpips_style(features, heads)
    rows = table(tmp_path / "out" / "results.csv")
    assert list(dict.fromkeys(row["layer"] for row in rows)) == [
        "pixels", "block1_conv1", "block3_conv3",
    ]  # fmt: skip
    for row in rows:
        folder = tmp_path / "out" / "losses" / row["layer"]
        one, other = (
            judge.embed(from_uint8(jnp.asarray(load_image(path)[None])))
            for path in (
                folder / kind / f"{row['name']}.png" for kind in ("targets", "reconstructions")
            )
        )
        assert float(row["lpips"]) == pytest.approx(float(judge.distance(one, other)[0]), rel=1e-4)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "LPIPS \N{DOWNWARDS ARROW}" in report
    with pytest.raises(ValueError, match=r"the heads_sha256 was [0-9a-f]{12}, is now none"):
        sweep_losses.main(dataclasses.replace(settings, heads=None))


@pytest.mark.parametrize(("changes", "error"), [
    ({"start": "best"}, "--start=best: the best start depends on the loss"),
    ({"layers": ("block1_conv1", "conv9")}, r"no layer \['conv9'\]; these weights have block1_"),
    ({"images": "nowhere"}, "no folder or picture .*nowhere"),
    ({"steps": 0}, "--steps=0: want 1 or more"),
    ({"features": "none"}, "no model folder .*none"),
    ({"heads": "heads"}, "these features have no block2_conv2"),
    ({"features": "deep", "layers": ("block5_conv3", "block5_pool")},
     "pictures of 16 px are too small for block5_pool; give other --layers"),
])  # fmt: skip
def test_bad_settings_are_one_line(home, tmp_path, changes, error):
    folders = {name: str(home / changes[name]) for name in ("features", "heads") if name in changes}
    changes = {**changes, **folders}
    with pytest.raises((ValueError, OSError), match=error):
        sweep_losses.main(config(home, tmp_path, **changes))
    assert not (tmp_path / "losses").exists()


def test_defaults_are_those_of_the_inversion(home, tmp_path):
    needed = ["--model=m", "--features=f", "--images=i", "--out=o"]
    given, _ = cli.parse(Config, needed)
    assert given == Config("m", "f", "i", "o")
    assert given.layers == ()
    single = loss_sweep.inversion_of(given, "block2_conv1")
    assert single.layers == ("block2_conv1",)
    standard = inversion.Config("i", "o", model="m", features="f", loss="perceptual")
    assert dataclasses.replace(single, layers=standard.layers) == standard


class Page(html.parser.HTMLParser):
    """Tags that must be closed are, and what they hold."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_holds_all_it_shows(whole):
    text = (whole / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert page.counts["table"] == 3
    assert page.counts["img"] == 2 * 5  # the faces' targets and four reconstructions each
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "default-src 'none'" in text
    assert "url(" not in text


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_opens_in_a_browser(whole, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 4000})
    page.goto((whole / "report.html").as_uri())
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    page.close()
    assert picture.shape == (4000, width, 3)
    margin = picture[:, -8:]
    assert (margin == margin[0, 0]).all()  # nothing runs out of the window
    colours = np.ptp(picture.astype(int), axis=2)
    assert (colours > 40).sum() > 1000  # the faces are there
