"""The inversion command: photos to codes, kill and resume, bad photos, changed settings."""

import csv
import importlib.util
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import cv2
import jax
import numpy as np
import pytest
import skimage.data
from etils import epath
from flax import nnx
from PIL import Image
from processes import run_two

from experiments import invert
from fxjax import files, metrics
from fxjax.checkpoint import flatten, save_model
from fxjax.codes import invert as core
from fxjax.codes import pivotal
from fxjax.faces import align
from fxjax.images import load_image, save_image, to_uint8
from fxjax.nn.generator import codes, synthesize
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.nn.vgg16 import VGG16
from fxjax.runs import descent, inversion, worklist
from fxjax.runs.inversion import Config

ARCHITECTURE: dict[str, Any] = {
    "resolution": 16, "widths": (8, 8, 8), "dim": 16, "latent": 16, "mapping_layers": 2,
}  # fmt: skip


def generator() -> Any:
    model = StyleGAN2(**ARCHITECTURE, rngs=nnx.Rngs(0))
    model.w_mean[...] = model.mapping(jax.random.normal(jax.random.key(1), (256, 16))).mean(axis=0)
    return model


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Any:
    """Models, and three aligned pictures that the generator can draw."""
    home = tmp_path_factory.mktemp("home")
    model = generator()
    save_model(home / "model", "stylegan2", {"generator": (ARCHITECTURE, flatten(model))}, {})
    scaling: dict[str, Any] = {
        "widths": (4, 8), "mean": (0.0,) * 3, "deviation": (1.0,) * 3, "bgr": False,
    }  # fmt: skip
    features = VGG16(**scaling, rngs=nnx.Rngs(0))
    save_model(home / "vgg", "vgg16", {"features": (scaling, flatten(features))}, {})
    made = synthesize(model, codes(model, jax.random.normal(jax.random.key(2), (3, 16))))
    for index, picture in enumerate(np.asarray(to_uint8(made))):
        save_image(home / "aligned" / f"made{index}.png", picture)
    return home


def config(home, out, **changes: Any) -> Config:
    options: dict[str, Any] = {
        "model": str(home / "model"), "images": str(home / "aligned"), "out": str(out),
        "features": "none", "aligned": True, "steps": 20, "batch": 2, "devices": 1, **changes,
    }  # fmt: skip
    return Config(**options)


def table(out) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def found(out) -> dict[str, np.ndarray]:
    result = {}
    for path in sorted((out / "codes").glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            result[path.stem] = arrays["ws"]
    return result


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Any:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    changes = {"features": str(home / "vgg"), "layers": ("block2_conv2",), "loss": "both"}
    invert.main(config(home, out, **changes, strip=True))
    return out


@pytest.fixture(scope="module")
def plain(home, tmp_path_factory) -> Any:
    """A run of 20 steps, two at once, pixels only."""
    out = tmp_path_factory.mktemp("plain") / "out"
    invert.main(config(home, out))
    return out


def test_everything_is_written_and_true(home, whole):
    rows = table(whole)
    assert list(rows) == ["made0", "made1", "made2"]
    for name, row in rows.items():
        assert row["status"] == "ok"
        target, picture = (
            load_image(whole / folder / f"{name}.png") for folder in ("targets", "reconstructions")
        )
        np.testing.assert_array_equal(target, load_image(home / "aligned" / f"{name}.png"))
        with np.load(whole / "codes" / f"{name}.npz", allow_pickle=False) as arrays:
            ws, matrix = arrays["ws"], arrays["photo_from_crop"]
            settings, landmarks = json.loads(str(arrays["settings"])), arrays["landmarks"]
            assert str(arrays["photo"]) == row["photo"] == str(home / "aligned" / f"{name}.png")
        assert ws.dtype == np.float32
        np.testing.assert_array_equal(matrix, np.eye(3))
        assert landmarks.shape == (68, 2)
        assert (settings["steps"], len(settings["generator_sha256"])) == (20, 64)
        drawn = np.asarray(to_uint8(synthesize(generator(), jax.numpy.asarray(ws[None]))))[0]
        assert np.abs(drawn.astype(int) - picture).max() <= 1
        square = np.mean(np.square(target.astype(float) - picture))
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(255**2 / square), rel=1e-4)
        assert float(row["ssim"]) == pytest.approx(metrics.ssim(picture, target), rel=1e-5)
        assert float(row["lpips"]) > 0
        curve = (whole / "curves" / f"{name}.csv").read_text().split()
        losses = [float(line.split(",")[1]) for line in curve[1:]]
        assert len(losses) == 21
        assert losses[-1] < 0.7 * losses[0]
        assert float(row["loss"]) == pytest.approx(losses[-1], rel=1e-5)
        strip = load_image(whole / "strips" / f"{name}.png")
        assert strip.shape == (16, 4 * 20 - 4, 3)  # steps 0, 10, 20, and the target
        np.testing.assert_array_equal(strip[:, 40:56], picture)
        np.testing.assert_array_equal(strip[:, 60:], target)
    report = (whole / "report.html").read_text()
    assert all(name in report for name in rows)
    assert report.count("data:image/jpeg") == 9 + 2  # the first one's slider


def test_a_finished_run_does_nothing_again_and_redoes_what_is_gone(
    home, whole, tmp_path, monkeypatch
):
    shutil.copytree(whole, tmp_path / "out")
    out, before, calls = tmp_path / "out", found(whole), []
    record = json.loads((whole / "state" / "run.json").read_text())["settings"]
    settings = Config(**{**record, "layers": tuple(record["layers"]), "out": str(out)})
    monkeypatch.setattr(core, "advance", _counted(core.advance, calls))
    invert.main(settings)
    assert not calls
    (out / "codes" / "made2.npz").unlink()  # the second batch, which is one face and its padding
    invert.main(settings)
    assert sum(calls) == 20
    equal(found(out), before)


def _counted(function: Any, calls: list[int]) -> Any:
    def advance(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[-1])
        return function(*arguments, **options)

    return advance


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": 30}, "--steps was 20, is now 30"),
    ({"rate": 0.1}, "--rate was 0.05, is now 0.1"),
    ({"features": "none", "loss": None}, "features_sha256 was [0-9a-f]{12}, is now none"),
])  # fmt: skip
def test_changed_settings_are_refused(home, whole, changes, message):
    record = json.loads((whole / "state" / "run.json").read_text())["settings"]
    settings = Config(**{**record, "layers": tuple(record["layers"]), **changes})
    with pytest.raises(ValueError, match=message):
        invert.main(settings)
    assert json.loads((whole / "config.json").read_text()) == record


def test_restart_begins_anew_and_keeps_what_is_not_its_own(home, plain, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    (out / "notes.txt").write_text("mine")
    first = found(out)
    invert.main(config(home, out, steps=10, restart=True))
    assert (out / "notes.txt").read_text() == "mine"
    assert not np.array_equal(found(out)["made0"], first["made0"])
    assert len((out / "curves" / "made0.csv").read_text().split()) == 12


def test_changed_photos_are_refused(home, tmp_path):
    folder = tmp_path / "photos"
    picture = load_image(home / "aligned" / "made0.png")
    save_image(folder / "a.png", picture)
    invert.main(config(home, tmp_path / "out", images=str(folder), steps=10))
    save_image(folder / "b.png", picture)
    with pytest.raises(ValueError, match=r"1 new, 0 gone, 0 changed, such as .*b\.png"):
        invert.main(config(home, tmp_path / "out", images=str(folder), steps=10))


def test_killed_runs_go_on_and_end_alike_bit_for_bit(home, tmp_path, root, monkeypatch):
    steps = 3000
    killed, calls = tmp_path / "killed", []
    settings = config(home, killed, steps=steps, save_seconds=0.0)
    flags = [f"--{name}={getattr(settings, name)}" for name in (
        "model", "features", "images", "out", "aligned", "steps", "batch", "devices",
        "save_seconds",
    )]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.invert", *flags],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        limit = time.monotonic() + 240
        state = killed / "state" / "place0.npz"
        while not state.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.02)  # longer, and a busy machine may see the batch end
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert state.exists()
    assert len(found(killed)) < 3
    undisturbed = tmp_path / "undisturbed"
    invert.main(config(home, undisturbed, steps=steps))
    monkeypatch.setattr(core, "advance", _counted(core.advance, calls))
    invert.main(settings)
    assert 0 < sum(calls) < 3 * steps  # of three faces: it went on from the middle of a batch
    equal(found(killed), found(undisturbed))
    left = {path.name for path in (killed / "state").iterdir()}
    # killed while it wrote: a hidden file, which a later start sweeps away (test_files.py)
    left = {name for name in left if not (name.startswith(".place0.") and name.endswith(".tmp"))}
    assert left == {"batch.json", "rows", "run.json", "worklist.json"}


def test_photos_of_a_real_face_are_found_and_aligned(home, tmp_path):
    astronaut = skimage.data.astronaut()
    folder, out = tmp_path / "photos", tmp_path / "out"
    save_image(folder / "one" / "astronaut.png", astronaut)
    save_image(folder / "two" / "Astronaut.jpg", astronaut[:, ::-1])
    save_image(folder / "empty.png", np.full((64, 64, 3), 90, np.uint8))
    settings = config(home, out, images=str(folder), aligned=False, steps=10)
    with pytest.raises(SystemExit, match=r"1 of 3 photos and faces failed; .*results\.csv"):
        invert.main(settings)
    rows = table(out)
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {"empty": "no_face", "astronaut_png": "ok", "Astronaut_jpg": "ok"}
    with np.load(out / "codes" / "astronaut_png.npz", allow_pickle=False) as arrays:
        matrix, landmarks = arrays["photo_from_crop"], arrays["landmarks"]
    assert np.isfinite(landmarks).all()
    crop = align.align(astronaut, landmarks, 16)
    np.testing.assert_allclose(matrix, crop.photo_from_crop)
    target = load_image(out / "targets" / "astronaut_png.png")
    np.testing.assert_array_equal(target, to_uint8(crop.image))


def _bad_files() -> dict[str, bytes]:
    """Files called pictures that are not, or not good ones."""
    photo = Image.fromarray(skimage.data.astronaut())

    def encode(kind: str, picture: Image.Image = photo) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind)
        return file.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    whole = {kind: encode(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    found = {f"half_{kind}.{kind.lower()}": data[: len(data) // 2] for kind, data in whole.items()}
    found |= {f"head_{kind}.{kind.lower()}": data[:20] for kind, data in whole.items()}
    noise = np.random.default_rng(0).bytes(5000)
    found |= {f"noise{ending}": noise for ending in worklist.ENDINGS[:10]}
    bomb = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    found |= {
        "empty.png": b"",
        "empty.jpg": b"",
        "text.png": b"not a picture\n",
        "page.jpg": b"<html><body>404</body></html>",
        "bomb.png": signature + chunk(b"IHDR", bomb) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "heic.heic": b"\0\0\0\x18ftypheic" + noise,
        "zip.png": b"PK\x03\x04" + noise,
        "wide.png": encode("PNG", photo.resize((40, 20))),
        "dot.png": encode("PNG", photo.resize((1, 1))),
        "line.png": encode("PNG", photo.resize((1, 3000))),
        "<img src=x onerror=alert(1)>.png": b"",
        "-rf.png": b"",
        "new\nline.png": b"",
    }
    return found


def test_bad_photos_get_their_rows_and_good_ones_get_done(home, tmp_path, monkeypatch):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    bad = _bad_files()
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")  # a name that is not UTF-8
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "circle").symlink_to(folder)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not meant")
    for name in ("made0", "made1"):
        save_image(folder / f"{name}.png", load_image(home / "aligned" / f"{name}.png"))
    with pytest.raises(SystemExit) as stop:
        invert.main(config(home, out, images=str(folder), steps=10))
    total = len(bad) + 5
    assert total - 2 >= 30
    assert str(stop.value).startswith(f"{total - 2} of {total} photos and faces failed")
    rows = list(table(out).values())
    assert len(rows) == total
    assert [row["name"] for row in rows if row["status"] == "ok"] == ["made0", "made1"]
    assert sorted(found(out)) == ["made0", "made1"]
    by_photo = {os.path.basename(row["photo"]): row for row in rows}
    assert by_photo["wide.png"]["status"] == "not_square"
    assert by_photo["dot.png"]["status"] == "too_small"
    assert by_photo["gone.png"]["status"] == by_photo["pipe.png"]["status"] == "unreadable"
    assert all(row["message"] for row in rows if row["status"] != "ok")
    report = (out / "report.html").read_text()
    assert "<img src=x" not in report


def test_a_face_that_meets_no_number_gets_a_row(home, tmp_path):
    with pytest.raises(SystemExit, match="3 of 3"):
        invert.main(config(home, tmp_path, rate=1e30))
    for row in table(tmp_path).values():
        assert (row["status"], row["loss"]) == ("nonfinite", "")
        assert "lower --rate" in row["message"]
    assert not found(tmp_path)


def test_out_of_memory_halves_the_batch_and_says_so(home, whole, tmp_path, monkeypatch, capsys):
    def run(*arguments: Any, **options: Any) -> Any:
        if arguments[3].shape[0] > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return real(*arguments, **options)

    real = core.run
    monkeypatch.setattr(core, "run", run)
    invert.main(config(home, tmp_path / "out", batch=4))
    said = capsys.readouterr().out
    assert "out of memory; going on with 2 pictures at once" in said
    assert "out of memory; going on with 1 pictures at once" in said
    assert json.loads((tmp_path / "out" / "state" / "size0.json").read_text()) == 1
    assert [row["status"] for row in table(tmp_path / "out").values()] == ["ok"] * 3
    monkeypatch.setattr(core, "run", real)
    invert.main(config(home, tmp_path / "one", batch=1))
    equal(found(tmp_path / "out"), found(tmp_path / "one"))


def test_batches_and_devices_change_nothing_but_rounding(home, plain, tmp_path):
    invert.main(config(home, tmp_path / "two", batch=0, devices=2))
    assert json.loads((tmp_path / "two" / "state" / "batch.json").read_text()) in (2, 4)
    one, two = found(plain), found(tmp_path / "two")
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=5e-3)


def test_nothing_is_compiled_after_the_first_batch(home, tmp_path):
    settings = config(home, tmp_path / "out", rate=0.0517)  # a program that no other test has
    runner = inversion.prepare(settings)
    advance: Any = core.advance
    begun = advance._cache_size()
    sizes = []
    for _ in range(3):
        targets = np.zeros((2, 16, 16, 3), np.uint8)
        entry = descent.Entry("photo.png", "photo")
        runner.run([entry], targets, (tmp_path, "place"), lambda share, loss: None)
        sizes.append(advance._cache_size() - begun)
    assert sizes == [1, 1, 1]


def test_starts(home, whole, plain, tmp_path):
    first = found(whole)
    name = "made1"
    near = tmp_path / "near"
    invert.main(config(home, near, start=str(whole / "codes"), steps=1, rate=1e-9))
    equal({n: np.round(c, 5) for n, c in found(near).items()},
          {n: np.round(c, 5) for n, c in first.items()})  # fmt: skip
    one = tmp_path / "one"
    invert.main(config(home, one, start=str(whole / "codes" / f"{name}.npz"), steps=1, rate=1e-9))
    np.testing.assert_allclose(found(one)["made2"], first[name], atol=1e-5)
    invert.main(config(home, tmp_path / "best", start="best", tries=30, steps=1, rate=1e-9))
    best, mean = (
        [
            float((out / "curves" / f"made{i}.csv").read_text().split()[1].split(",")[1])
            for i in range(3)
        ]
        for out in (tmp_path / "best", plain)
    )
    assert all(near <= far for near, far in zip(best, mean, strict=True))
    assert sum(best) < sum(mean)  # not all are best begun from the mean
    with pytest.raises(FileNotFoundError, match=r"no code .*nothing"):
        invert.main(config(home, tmp_path / "no", start=str(tmp_path / "nothing")))


@pytest.mark.parametrize(("changes", "error"), [
    ({"steps": 0}, "--steps=0: want 1 or more"),
    ({"space": "x"}, "--space=x: want"),
    ({"space": "99"}, "space 99: want w, w\\+ or a number of rows up to 6"),
    ({"devices": 99}, "--devices=99: there are 4"),
    ({"region_weight": -1.0}, "--region_weight=-1.0: want 0 or more"),
    ({"pivotal_steps": -1}, "--pivotal_steps=-1: want 0 or more"),
    ({"loss": "perceptual"}, "needs --features"),
    ({"face": "left"}, "--face=left: want"),
    ({"images": "nowhere"}, "no folder or picture .*nowhere"),
    ({"realign": True}, "exclude each other"),
    ({"region_weight": 2.0}, "--region_weight=2.0 needs landmarks, which --aligned"),
])  # fmt: skip
def test_bad_settings_are_one_line(home, tmp_path, changes, error):
    with pytest.raises((ValueError, OSError), match=error):
        invert.main(config(home, tmp_path, **changes))
    assert not (tmp_path / "codes").exists()


def test_names_are_those_of_the_photos_and_never_collide(tmp_path):
    names = ["a.png", "b.png", "b.jpg", "x/c.png", "y/c.png", "x y/d*.png", "x/B_png.gif", "z/.png"]
    paths = [epath.Path(tmp_path / name) for name in names]
    assert worklist.photo_names(paths) == ["a", "b", "b_jpg", "x_c", "y_c", "d", "B_png", "png"]
    paths = [epath.Path(f"{tmp_path}/{name}.png") for name in ("e?", "e*", "E_", "e" * 250)]
    found = worklist.photo_names(paths)
    assert len({name.casefold() for name in found}) == 4
    assert max(map(len, found)) <= 150


def test_two_processes_share_the_batches(home, tmp_path, root):
    out = tmp_path / "out"
    settings = config(home, out, batch=1)
    flags = [f"--{name}={getattr(settings, name)}" for name in (
        "model", "features", "images", "out", "aligned", "steps", "batch", "devices",
    )]  # fmt: skip
    command = [sys.executable, "-m", "experiments.invert", *flags]
    statuses, texts = run_two(command, root, seconds=200)
    assert statuses == [0, 0], "\n".join(texts)
    assert [row["status"] for row in table(out).values()] == ["ok"] * 3
    invert.main(config(home, tmp_path / "alone", batch=1))
    equal(found(out), found(tmp_path / "alone"))


def tuned_files(out) -> dict[str, dict[str, np.ndarray]]:
    return {path.stem: pivotal.load(path).differences for path in (out / "tuned").glob("*.npz")}


def test_pivotal_tuning_goes_on_after_a_kill_and_ends_alike(home, tmp_path, root, monkeypatch):
    changes: dict[str, Any] = {"batch": 3, "pivotal_steps": 400, "pivotal_rate": 1e-3}
    killed, whole, calls = tmp_path / "killed", tmp_path / "whole", []
    settings = config(home, killed, **changes)
    flags = [f"--{name}={getattr(settings, name)}" for name in (
        "model", "features", "images", "out", "aligned", "steps", "batch", "devices",
        "pivotal_steps", "pivotal_rate",
    )]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.invert", *flags],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        limit = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < limit:
            if (killed / "tuned" / "made0.npz").exists():
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = len(tuned_files(killed))
    assert 0 < done < 3
    assert not (killed / "results.csv").exists()
    invert.main(config(home, whole, **changes))
    real: Any = pivotal.tune
    monkeypatch.setattr(pivotal, "tune", lambda *a, **o: calls.append(1) or real(*a, **o))
    invert.main(settings)
    assert len(calls) == 3 - done
    equal(found(killed), found(whole))
    for name, weights in tuned_files(whole).items():
        equal(tuned_files(killed)[name], weights)
    again, rows = table(killed), table(whole)
    for name, row in rows.items():
        assert float(row["psnr_tuned"]) > float(row["psnr"]) + 1
        assert float(row["loss_tuned"]) < float(row["loss"])
        assert again[name]["psnr_tuned"] == row["psnr_tuned"]
        picture = load_image(whole / "tuned" / f"{name}.png")
        target = load_image(whole / "targets" / f"{name}.png")
        assert metrics.psnr(picture, target) == pytest.approx(float(row["psnr_tuned"]), rel=1e-4)
        sha = json.loads((home / "model" / "model.json").read_text())["parts"]["generator"][
            "sha256"
        ]
        model = pivotal.tuned(generator(), whole / "tuned" / f"{name}.npz", sha256=sha)
        drawn = to_uint8(synthesize(model, jax.numpy.asarray(found(whole)[name][None])))
        assert np.abs(np.asarray(drawn)[0].astype(int) - picture).max() <= 1
    report = (whole / "report.html").read_text()
    assert "PSNR tuned" in report
    assert report.count("data:image/jpeg") == 9 + 2  # the first one's slider


def face_points() -> np.ndarray:
    """68 landmarks of an upright face whose FFHQ square is 0..64."""
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = np.full((68, 2), 32.0)
    points[:17] = [32, 32] + 22 * np.stack([-np.cos(a := np.linspace(0, np.pi, 17)), np.sin(a)], 1)
    for place, x in ((17, 24), (22, 40)):
        points[place : place + 5] = np.stack([np.linspace(x - 4, x + 4, 5), np.full(5, 22.0)], 1)
    for place, x in ((36, 24), (42, 40)):
        points[place : place + 6] = [x, 28] + [3, 2] * ring[::2]
    points[48:60] = [32, 45] + [6, 3] * np.roll(ring, 6, axis=0)
    points[60:] = [32, 45] + [4, 1] * np.roll(ring, 4, axis=0)[:8]
    return points


def test_regions_weigh_more_if_asked(home, tmp_path):
    points = 2 * face_points()
    matrix = align.ffhq_square(points, 64)
    entries = [worklist.Entry("a", "a", landmarks=points.tolist(), photo_from_crop=matrix.tolist()),
               worklist.Entry("b", "b")]  # fmt: skip
    weights: Any = worklist.region_weights(entries, 64, 5.0)
    inside = np.rint(align.transform(np.linalg.inv(matrix), points)).astype(int)
    for place in (38, 44, 19, 24, 51, 57):  # eyes, brows, lips
        assert weights[0, inside[place, 1], inside[place, 0]] == pytest.approx(5, abs=0.2)
    assert weights[0, 0, 0] == weights[0, inside[8, 1], inside[8, 0]] == 1
    assert (weights[1] == 1).all()
    assert worklist.region_weights(entries, 64, 1.0) is None

    photo = cv2.resize(skimage.data.astronaut()[:256, 96:352], (128, 128))
    save_image(tmp_path / "photos" / "a.png", photo)
    (tmp_path / "points.json").write_text(json.dumps({"a.png": [points.tolist()]}))
    errors = []
    for weight in (1.0, 50.0):
        out = tmp_path / str(weight)
        invert.main(config(
            home, out, images=str(tmp_path / "photos"), aligned=False, steps=60, batch=1,
            landmarks=str(tmp_path / "points.json"), region_weight=weight,
        ))  # fmt: skip
        target, picture = (
            load_image(out / folder / "a.png").astype(float)
            for folder in ("targets", "reconstructions")
        )
        entry = worklist.wait(out)[0]
        region = worklist.region_weights([entry], 16, 2.0)[0] - 1  # pyright: ignore
        errors.append(np.sum(region * np.square(target - picture).mean(axis=2)) / region.sum())
    assert errors[1] < 0.95 * errors[0]


def test_given_landmarks_are_found_by_folder_and_name(tmp_path):
    paths = [epath.Path(tmp_path / name) for name in ("x/1.png", "y/1.png", "2.png", "3.png")]
    one, two, three = ([np.full((68, 2), float(value))] for value in range(3))
    named = {"x/1.png": one, "1.png": two, "2.png": three}
    found = worklist.given_landmarks(named, paths)
    assert found == {paths[0]: one, paths[1]: two, paths[2]: three}
    for path in paths[:2]:
        save_image(path, np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "points.json").write_text(json.dumps({"1.png": [face_points().tolist()]}))
    options = worklist.Options(16, landmarks=str(tmp_path / "points.json"))
    with pytest.raises(ValueError, match=r"--landmarks: 1\.png may be .*x/1\.png or .*y/1\.png"):
        worklist.make(epath.Path(tmp_path / "out"), str(tmp_path), options)


def test_lists_hold_buckets_and_names_that_are_odd(tmp_path, monkeypatch):
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")  # there, as gcsfs may not be
    source = epath.Path(tmp_path / "photos.txt")
    source.write_text(f"a.png\n  gs://bucket/a b.png\n\n{tmp_path}/é\u202f.png\r\n")
    found, _ = worklist.find(str(source), epath.Path(tmp_path / "out"))
    assert {str(path) for path in found} == {
        f"{tmp_path}/a.png", "gs://bucket/a b.png", f"{tmp_path}/é\u202f.png",
    }  # fmt: skip
    assert all(worklist.fits_a_line(path) for path in found)
    for name in ("a\nb.png", "a\u2028b.png", os.fsdecode(b"caf\xe9.png")):
        assert not worklist.fits_a_line(epath.Path(tmp_path / name))


def test_moved_noise_images_are_kept_and_draw_the_picture_again(home, tmp_path):
    model = generator()
    for row in model.rows:
        if row.conv is not None:
            row.conv.strength[...] = jax.numpy.asarray(0.2)
    save_model(tmp_path / "m", "stylegan2", {"generator": (ARCHITECTURE, flatten(model))}, {})
    changes: dict[str, Any] = {"model": str(tmp_path / "m"), "noise_pull": 0.01, "strip": True}
    invert.main(config(home, tmp_path / "out", **changes, pivotal_steps=5))
    with np.load(tmp_path / "out" / "codes" / "made1.npz", allow_pickle=False) as arrays:
        ws = arrays["ws"]
        noise = [arrays[f"noise{index}"] for index in range(5)]
        assert "noise5" not in arrays
    own = jax.tree.leaves(nnx.state(model, core.Noise))
    for image, before in zip(noise, own, strict=True):
        assert image.shape == before.shape
        assert np.std(image) == pytest.approx(1, rel=1e-3)
        assert np.abs(image - before).max() > 0.05
    picture = load_image(tmp_path / "out" / "reconstructions" / "made1.png").astype(int)
    code = jax.numpy.asarray(ws[None])
    drawn = to_uint8(synthesize(core.with_noise(model, noise), code))
    assert np.abs(np.asarray(drawn)[0] - picture).max() <= 1
    assert np.abs(np.asarray(to_uint8(synthesize(model, code)))[0] - picture).max() > 1


def test_lbfgs_on_two_devices(home, tmp_path):
    """That its codes are those of one device is tested with fxjax.codes.invert.advance."""
    settings = config(home, tmp_path, optimizer="lbfgs", steps=5, devices=2)
    runner = inversion.prepare(settings)
    assert (runner.models.mesh.size, runner.settings.optimizer) == (2, "lbfgs")
    invert.main(settings)
    for index in range(3):
        curve = (tmp_path / "curves" / f"made{index}.csv").read_text().split()[1:]
        losses = [float(line.split(",")[1]) for line in curve]
        assert losses[-1] < 0.5 * losses[0]


def test_bfloat16_is_near_float32(home, plain, tmp_path):
    invert.main(config(home, tmp_path / "out", dtype="bfloat16"))
    half, single = table(tmp_path / "out"), table(plain)
    for name, row in half.items():
        assert float(row["psnr"]) == pytest.approx(float(single[name]["psnr"]), abs=1.0)
    for name, code in found(tmp_path / "out").items():
        assert code.dtype == np.float32
        moved = np.std(found(plain)[name] - generator().w_mean[...])
        assert 0 < np.std(code - found(plain)[name]) < 0.3 * moved


def test_a_trace_is_written_once(home, tmp_path):
    trace = tmp_path / "trace"
    invert.main(config(home, tmp_path / "out", profile_dir=str(trace)))
    assert len(list(trace.rglob("*.xplane.pb"))) == 1


def test_tensorboard_gets_scalars(home, tmp_path):
    pytest.importorskip("tensorboardX")
    invert.main(config(home, tmp_path / "out", steps=10, tensorboard=True))
    (events,) = (tmp_path / "out" / "tensorboard" / "0").iterdir()
    for name in ("made0", "made1", "made2"):
        assert events.read_bytes().count(f"loss/{name}".encode()) == 11


def test_without_tensorboard_a_line_says_what_to_install(home, tmp_path, monkeypatch, capsys):
    real: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else real(name)
    )
    invert.main(config(home, tmp_path / "out", steps=10, tensorboard=True))
    assert "pip install tensorboardX" in capsys.readouterr().out
    assert not (tmp_path / "out" / "tensorboard").exists()
    assert len(table(tmp_path / "out")) == 3
