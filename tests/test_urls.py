"""Web addresses where files are wanted: one line that says what to do."""

import dataclasses
from typing import Annotated

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from converters import convert, source
from experiments import prepare_omi, sample, transfer_batch, transfer_video
from fxjax import cli, files, tables, zoo
from fxjax.faces import detect
from fxjax.images import load_image, save_image
from fxjax.runs import pairs, video, worklist
from fxjax.training import data

URL = "https://example.org/a.jpg"


@pytest.mark.parametrize(
    "use",
    [
        load_image,
        tables.read,
        data.picture_names,
        detect.load_landmarks,
        detect.Detector,
        zoo.load,
        source.open_weights,
        lambda url: worklist.find(url, files.absolute("out")),
        lambda url: video.Source(url, files.absolute("out"), 9),
        lambda url: save_image(url, load_image(url)),
        lambda url: files.write(url, b""),
        lambda url: files.new_folder(url).__enter__(),
        lambda url: pairs.read_pairs(transfer_batch.Config(out="out", pairs=url)),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        *(URL, URL.replace("//", "/"), URL.upper(), "file:///a.jpg", "data:image/png,A"),
        *(f" {URL}", f'"{URL}"', f"\t{URL.replace('//', '/')}", f"blob:{URL}", "./a://b"),
    ],
)
def test_urls_are_refused_in_one_line(tmp_path, monkeypatch, use, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is a URL where a file is wanted: download it") as caught:
        use(url)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_urls_in_lists_and_tables(tmp_path):
    (tmp_path / "list.txt").write_text(f"{URL}\n")
    with pytest.raises(ValueError, match="is a URL where a file is wanted"):
        worklist.find(str(tmp_path / "list.txt"), tmp_path)


def test_buckets_and_odd_names_are_no_urls(monkeypatch):
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")
    for name in ("gs://bucket/a", "C:/a.jpg", "a:b.jpg", "httpx/a"):
        assert str(files.given(name)) == name
    assert str(files.absolute("gs://bucket/a")) == "gs://bucket/a"


def test_a_command_says_one_line(monkeypatch, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        photo: Annotated[str, "a photo"]
        out: Annotated[str, "a folder"]

    monkeypatch.setattr("sys.argv", ["command", f"--photo={URL}", f"--out={tmp_path / 'out'}"])
    used = []
    with pytest.raises(SystemExit, match=r"error: https://example\.org/a\.jpg is a URL"):
        cli.launch(Config, lambda config: used.append(load_image(config.photo)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["gs://b/m", "s3://b/m", "az://b/m"])
@pytest.mark.parametrize(
    ("config", "main", "flags"),
    [
        (sample.Config, sample.main, ["--model={}"]),
        (transfer_video.Config, transfer_video.main, ["--appearance=a.jpg", "--driver={}"]),
        (convert.Config, convert.main, ["--src={}", "--dst=model"]),
        (prepare_omi.Config, prepare_omi.main, ["--omi={}"]),
    ],
)
def test_a_bucket_that_cannot_be_read(tmp_path, monkeypatch, config, main, flags, url):
    """What to install, or to download first; nothing is written."""
    monkeypatch.chdir(tmp_path)
    scheme = url.partition("://")[0]
    monkeypatch.setitem(files.BUCKETS, scheme, "no_such_package")
    monkeypatch.setattr("sys.argv", ["command", *(flag.format(url) for flag in flags)])
    line = f"error: {url} is in a bucket, which needs no_such_package: pip install no_such_package"
    with pytest.raises(SystemExit, match=f"^{line}, or download it first") as caught:
        cli.launch(config, main)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["command", *(flag.format(f" {url}") for flag in flags)])
    with pytest.raises(SystemExit, match=f"^error: ' {url}' has spaces or quotes around it"):
        cli.launch(config, main)


def test_a_video_must_be_a_file_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("etils.epath.backend.fsspec_backend.fs", lambda _: MemoryFileSystem())
    monkeypatch.setitem(files.BUCKETS, "gs", "fsspec")
    files.absolute("gs://b/talk.mp4").write_bytes(b"a video")
    with pytest.raises(ValueError, match=r"cannot be read as a video \(it is no file on this mach"):
        video.Source("gs://b/talk.mp4", files.absolute(tmp_path), 9)
