"""Reading training pictures, their weights, and who is held back."""

import csv
import io
import pathlib
import unicodedata
import zipfile

import cv2
import numpy as np
import pytest

from experiments import prepare_omi
from fxjax import files, images
from fxjax.runs import worklist
from fxjax.training import data

RANDOM = np.random.default_rng(0)


def noise(size: int | tuple[int, int], seed: int = 0) -> np.ndarray:
    shape = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def png(size: int | tuple[int, int], seed: int = 0) -> bytes:
    pixels = np.ascontiguousarray(noise(size, seed)[..., ::-1])
    return cv2.imencode(".png", pixels)[1].tobytes()


def pack(path: pathlib.Path, members: dict[str, bytes], **options) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_folder_and_zip_are_alike(tmp_path):
    members = {f"{i}.png": png(16, i) for i in (2, 0, 1)} | {"notes.txt": b"no picture"}
    for name, content in members.items():
        (tmp_path / "folder" / "inner").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / "inner" / name).write_bytes(content)
    packed = pack(tmp_path / "a.zip", members, compression=zipfile.ZIP_DEFLATED)
    for source in (packed, tmp_path / "folder"):
        pictures, names = data.read_pictures(source, 16)
        assert names == data.picture_names(source) == ["0.png", "1.png", "2.png"]
        for picture, name in zip(pictures, names, strict=True):
            np.testing.assert_array_equal(picture, noise(16, int(name[0])))


def test_larger_pictures_are_averaged(tmp_path):
    pictures, _ = data.read_pictures(pack(tmp_path / "a.zip", {"a.png": png(32)}), 8)
    full, _ = data.read_pictures(tmp_path / "a.zip", 32)
    means = full[0].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(pictures[0] - means).max() <= 0.5 + 1e-6


def test_links_lead_in_no_circle(tmp_path):
    """A linked folder counts, each once, in training and in lists of photos alike."""
    folder, inner, away = tmp_path / "in", tmp_path / "in" / "inner", tmp_path / "away"
    for place, name in ((inner, "a.png"), (away, "b.png")):
        place.mkdir(parents=True)
        (place / name).write_bytes(png(16))
    for link, target in ((inner / "up", ".."), (folder / "self", "."), (away / "back", folder)):
        link.symlink_to(target)
    for name in ("one", "two"):
        (inner / name).symlink_to(away)
    assert sorted(data.picture_names(folder)) == ["a.png", "b.png"]
    assert sorted(data.read_pictures(folder, 16)[1]) == ["a.png", "b.png"]
    found, left = worklist.find(str(folder), files.absolute(tmp_path / "out"))
    assert ([path.name for path in found], left) == (["a.png", "b.png"], 0)
    with pytest.raises(ValueError, match=r"\*\* is not read; give the folder"):
        worklist.find(f"{folder}/**/*.png", files.absolute(tmp_path / "out"))


def test_names_cannot_escape(tmp_path):
    """Nothing is unpacked, so names are only names."""
    inside = tmp_path / "inside"
    inside.mkdir()
    pack(inside / "a.zip", {"../../outside.png": png(8), "/absolute.png": png(8)})
    _, names = data.read_pictures(inside / "a.zip", 8)
    assert sorted(names) == ["absolute.png", "outside.png"]
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.zip"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": png(16), "b.png": png(16), "c.png": png(32)}, "2 of 16x16, 1 of 32x32"),
        ({"a.png": png(16), "broken.png": b"\x89PNG nonsense"}, "broken.png is not a picture"),
        ({"empty.png": b""}, "empty.png is not a picture"),
        ({"a.txt": b"text"}, "holds no pictures"),
        ({"a.png": png(48)}, "a.png is 48x48; wanted squares of 16"),
        ({"a.png": png((16, 32))}, "a.png is 32x16; wanted squares of 16"),
        ({"a.png": png(8)}, "a.png is 8x8; wanted squares of 16"),
    ],
)
def test_bad_pictures(tmp_path, members, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.read_pictures(pack(tmp_path / "a.zip", members), 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [lambda path: data.read_pictures(path, 16), data.picture_names])
def test_bad_places(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="no folder or zip"):
        read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        read(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        read(tmp_path / "text.zip")


def test_damaged_member_is_named(tmp_path):
    path = pack(tmp_path / "a.zip", {"good.png": png(16), "victim.png": png(16, 1)})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"IDAT") + 40] ^= 255  # in victim.png's pixels: the checksum fails
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"victim\.png"):
        data.read_pictures(path, 16)


def test_bomb_is_refused(tmp_path):
    bomb = {"bomb.png": bytes(data.LARGEST + 1)}
    path = pack(tmp_path / "a.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1e6
    with pytest.raises(ValueError, match=r"bomb\.png unpacks to more than 64 MiB"):
        data.read_pictures(path, 16)


def table(path: pathlib.Path, rows: list[dict[str, str]]) -> pathlib.Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def test_weights_by_kind_and_by_column(tmp_path):
    rows = prepare_omi.table()
    names = [row["filename"] for row in rows]
    kept = ("filename", "kind", "source_id")
    plain = table(tmp_path / "a.csv", [{k: row[k] for k in kept} | {"weight": ""} for row in rows])
    by_kind = data.read_weights(plain, names)
    np.testing.assert_allclose(
        data.read_weights(table(tmp_path / "b.csv", rows), names), by_kind, rtol=1e-5
    )
    # A body's weight is a rated attribute of these faces and no training weight.
    assert dict(zip(*np.unique(np.round(by_kind, 4), return_counts=True), strict=True)) == {
        np.float32(0): 100 + 90,
        np.round(np.float32(1 / 6), 4): 27 * 30,
        np.float32(1): 784,
    }


def test_bad_tables(tmp_path):
    listed = table(tmp_path / "a.csv", [{"filename": "a.png", "training_weight": "1"}])
    with pytest.raises(ValueError, match=r"lacks 1 of the pictures, the first is b\.png"):
        data.read_weights(listed, ["a.png", "b.png"])
    with pytest.raises(ValueError, match="neither"):
        data.read_weights(table(tmp_path / "b.csv", [{"filename": "a.png"}]), ["a.png"])
    with pytest.raises(ValueError, match="no column filename"):
        data.read_weights(table(tmp_path / "c.csv", [{"name": "a.png"}]), ["a.png"])
    nothing = table(tmp_path / "d.csv", [{"filename": "a.png", "training_weight": "0"}])
    with pytest.raises(ValueError, match="some above 0"):
        data.read_weights(nothing, ["a.png"])
    with pytest.raises(ValueError, match=r"2 pictures are named a\.png; a table finds pictures by"):
        data.read_weights(listed, ["a.png", "a.png"])
    twice = [{"filename": "a.png", "training_weight": weight} for weight in "01"]
    with pytest.raises(ValueError, match=r"2 rows of .*e\.csv are named a\.png"):
        data.read_weights(table(tmp_path / "e.csv", twice), ["a.png"])


def test_held_back_people_are_always_the_same():
    ids = [str(i) for i in range(300)]
    chosen = data.held_back(ids, 100)
    assert len(chosen) == 100
    assert data.held_back(ids[::-1] * 2, 100) == chosen
    # Another set of people keeps its members' order, so most stay the same.
    assert len(data.held_back(ids[:290], 100) & chosen) >= 90
    assert sorted(chosen, key=int)[:5] == ["0", "4", "5", "8", "9"]


def test_omi_table_is_the_published_training_set(shared):
    rows = data.read_table(shared / "data" / "omi" / "omi_train.csv")
    for row, wanted in zip(prepare_omi.table(), rows, strict=True):
        for name in ("filename", "source_path", "source_id", "kind"):
            assert row[name] == wanted[name]


def test_omi_zip(tmp_path, monkeypatch):
    """The whole command on a few made pictures in the repository's layout."""
    rows = [row for row in prepare_omi.table() if row["source_id"] in ("1", "2", "1263")][:5]
    monkeypatch.setattr(prepare_omi, "table", lambda: rows)
    for row in rows:
        path = tmp_path / "omi" / row["source_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = cv2.GaussianBlur(RANDOM.uniform(0, 255, (64, 64, 3)), (0, 0), 6)
        images.save_image(path, smooth.astype(np.uint8))
    config = prepare_omi.Config(omi=str(tmp_path / "omi"), dst=str(tmp_path / "a.zip"), size=16)
    prepare_omi.main(config)
    pictures, names = data.read_pictures(tmp_path / "a.zip", 16)
    assert names == [row["filename"] for row in rows]
    weights = data.read_weights(tmp_path / "a.csv", names)
    assert set(np.round(weights, 3)) <= {
        np.float32(0),
        np.float32(1),
        np.round(np.float32(1 / 6), 3),
    }
    original = images.load_image(tmp_path / "omi" / rows[0]["source_path"])
    means = original.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(pictures[0] - means).mean() < 3  # of smooth pictures, any good filter's result


def test_reduction_keeps_levels_and_smooth_waves():
    flat = np.full((64, 64, 3), (10, 128, 250), np.uint8)
    np.testing.assert_array_equal(prepare_omi.smaller(flat, 16), flat[:16, :16])
    wave = lambda count: 127.5 + 100 * np.sin((np.arange(count) + 0.5) / count * 4 * np.pi)
    image = np.repeat(np.round(wave(128))[:, None, None], 128, axis=1).repeat(3, axis=2)
    out = prepare_omi.smaller(image.astype(np.uint8), 32)
    np.testing.assert_allclose(out[4:-4, 16, 0], wave(32)[4:-4], atol=3)


def test_zips_and_folders_of_other_systems(tmp_path):
    """What a Mac or Windows puts beside pictures is no picture; names are those of the tables."""
    mac = {
        "faces/": b"",
        "faces/0.png": png(16),
        "__MACOSX/faces/._0.png": bytes(24),
        "faces/.DS_Store": bytes(1),
        unicodedata.normalize("NFD", "faces/é.png"): png(16, 1),
        "faces/._1.png": bytes(24),
    }
    windows = {"faces\\0.png": png(16), "faces\\é.png": png(16, 1), "faces\\Thumbs.db": bytes(9)}
    packed = pack(tmp_path / "mac.zip", mac)
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:  # macOS writes UTF-8 and does not say so
        places = [member.header_offset + 6 for member in archive.infolist()]
    start = content.index(b"PK\x01\x02")
    while content[start : start + 4] == b"PK\x01\x02":
        places.append(start + 8)
        start += 46 + sum(int.from_bytes(content[start + k :][:2], "little") for k in (28, 30, 32))
    for place in places:
        content[place + 1] &= ~8
    (tmp_path / "bare.zip").write_bytes(content)
    (tmp_path / "folder").mkdir()
    for name, some in mac.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if some:
            path.write_bytes(some)
    sources = ("mac.zip", "bare.zip", "folder", pack(tmp_path / "windows.zip", windows).name)
    for source in sources:
        pictures, names = data.read_pictures(tmp_path / source, 16)
        assert names == data.picture_names(tmp_path / source) == ["0.png", "é.png"]
        np.testing.assert_array_equal(pictures[1], noise(16, 1))


def test_the_shared_zip_of_a_mac(shared):
    pictures, names = data.read_pictures(shared / "cases" / "mac-zip" / "mac.zip", 64)
    assert names == ["0.png", "1.png", "2.png"]
    assert len(pictures) == 3
