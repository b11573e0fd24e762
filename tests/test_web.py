"""The page's server: what it does, and what it refuses. A worker without models stands in."""

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
pytest.importorskip("starlette.testclient", reason="starlette's test client needs httpx2")

from starlette.testclient import TestClient
from webpages import TOKEN, app_of, picture, plain

from fxjax.codes import mix
from fxjax.runs.transfer_flags import read_rows
from fxjax.transfer_types import Settings
from fxjax.web import app as addresses
from fxjax.web import server, wishes
from fxjax.web.app import hostname
from fxjax.web.jobs import WAITING

HERE = "http://127.0.0.1:8017"
OURS = {"origin": HERE, "x-token": TOKEN}


@pytest.fixture
def client(tmp_path):
    with TestClient(app_of(tmp_path), HERE, headers=OURS) as client:
        yield client


def give(client, data=None):
    answer = client.post("/api/photos", content=picture() if data is None else data)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def begin(client, person=None, **wish):
    body = {"person": person or give(client), "driver": give(client), "wish": wish}
    answer = client.post("/api/results", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def state_of(client, tmp_path, name, *statuses):
    """Waits for one of these states."""
    for _ in range(600):
        state = json.loads((tmp_path / name / "state.json").read_text())
        if state["status"] in statuses and (state["status"] == "running" or "stage" not in state):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_two_photos_become_a_result_that_outlives_the_server(client, tmp_path):
    name = begin(client, strength=0.5, parts=["eyes", "mouth"])
    state = state_of(client, tmp_path, name, "done")
    assert state["wish"]["parts"] == ["mouth", "eyes"]
    assert "--strength=0.5" in state["command"]
    assert f"{name}/person.png" in state["command"]
    assert "left" not in state
    for file in ("result.png", "before.jpg", "after.jpg", "first.jpg", "masks/0110.jpg"):
        assert client.get(f"/results/{name}/{file}").status_code == 200, file
    drawn = client.post(f"/api/results/{name}/draw", json={"mask": "0110", "strength": 1.2})
    assert drawn.json() == {"name": "0110_120", "verdict": ["blurred"]}
    assert client.get(f"/results/{name}/drawn/0110_120.jpg").headers["content-type"] == "image/jpeg"
    client.post(f"/api/results/{name}/draw", json={"mask": "", "strength": 0, "whole": True})
    assert client.get(f"/results/{name}/drawn/result_000.png").status_code == 200
    wrong = client.post(f"/api/results/{name}/draw", json={"face": 1})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "face: want 0 to 0")
    with TestClient(app_of(tmp_path), HERE, headers=OURS) as again:
        assert again.get(f"/results/{name}/result.png").status_code == 200
        assert again.delete(f"/api/results/{name}").status_code == 200
        assert again.get(f"/results/{name}/result.png").status_code == 404
    assert not (tmp_path / name).exists()


def test_what_was_going_when_the_server_stopped_says_so(client, tmp_path):
    slow = begin(client, give(client, picture(14, 20)))
    state_of(client, tmp_path, slow, "running")
    client.__exit__(None, None, None)
    app_of(tmp_path)
    state = json.loads((tmp_path / slow / "state.json").read_text())
    assert (state["status"], state["error"]) == ("failed", "the program was stopped")


def test_photos_lose_their_metadata_and_their_names(client, tmp_path):
    exif = Image.Exif()
    exif[270] = "a secret place"
    name = give(client, picture(kind="JPEG", exif=exif))
    folder = tmp_path / "photos" / name
    assert sorted(path.name for path in folder.iterdir()) == [
        "photo.json", "photo.png", "preview.jpg",
    ]  # fmt: skip
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir())
    assert client.get(f"/photos/{name}.jpg").status_code == 200


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"<html><script>alert(1)</script></html>", "is not a picture"),
        (b"", "is not a picture"),
        (picture()[:400], "is not a picture"),
        (picture(kind="GIF"), "is not a picture"),
        (plain(), "no face was found"),
    ],
)
def test_what_is_no_photo_of_a_face_is_refused_and_not_kept(client, tmp_path, data, line):
    answer = client.post("/api/photos", content=data)
    assert answer.status_code == 422
    assert line in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert not list((tmp_path / "photos").iterdir())


def test_a_photo_that_comes_too_slowly_is_let_go(client, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "SLOW", 0.0)
    answer = client.post("/api/photos", content=picture())
    assert answer.status_code == 408
    assert "too slowly" in answer.json()["error"]
    assert not list((tmp_path / "photos").iterdir())


def test_too_many_bytes_are_refused_before_they_are_read(client, tmp_path):
    sent = []

    def body():
        sent.append(1)
        yield b"x"

    length = {"content-length": str(addresses.MOST_BYTES + 1)}
    answer = client.post("/api/photos", content=body(), headers=length)
    assert answer.status_code == 413
    chunked = client.post("/api/photos", content=body())
    assert chunked.status_code == 411
    assert not list((tmp_path / "photos").iterdir())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8017"}, 421),
        ({"host": ""}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"x-token": "another"}, 403),
        ({"x-token": ""}, 403),
    ],
)
def test_other_sites_are_refused(client, tmp_path, headers, status):
    answer = client.post("/api/photos", content=picture(), headers=headers)
    assert answer.status_code == status
    assert not list((tmp_path / "photos").iterdir())


@pytest.mark.parametrize("missing", ["origin", "x-token"])
def test_a_change_needs_an_origin_and_the_token(client, missing):
    del client.headers[missing]
    assert client.post("/api/samples", json={"name": "seed0035"}).status_code == 403


def test_reading_needs_a_known_name_and_no_other_site(client):
    del client.headers["x-token"]
    assert client.get("/api/start").status_code == 200
    assert client.get("/api/start", headers={"host": "evil.example"}).status_code == 421
    foreign = {"origin": "http://evil.example"}
    assert client.get("/api/start", headers=foreign).status_code == 403
    assert client.get("/api/start", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_names_in_hosts():
    assert hostname("127.0.0.1:8017") == "127.0.0.1"
    assert hostname("[::1]:8017") == "::1"
    assert hostname("Localhost") == "localhost"
    assert hostname("a@localhost:1") == "localhost"
    assert hostname("") == ""


@pytest.mark.parametrize(
    "path",
    [
        "/results/../photos/{photo}/photo.png",
        "/results/{name}/state.json",
        "/results/{name}/../{name}/state.json",
        "/results/{name}/masks/..%2f..%2fstate.json",
        "/results/photos/{photo}/photo.png",
        "/results/%2e%2e/result.png",
        "/photos/..%2f{name}.jpg",
        "/samples/..%2Fmodel.jpg",
        "/samples/card.md",
        "/page.py",
        "/../app.py",
        "/results/{name}/given",
    ],
)
def test_files_that_are_not_for_the_page_are_not_there(client, tmp_path, path):
    name = begin(client)
    state_of(client, tmp_path, name, "done")
    photo = next((tmp_path / "photos").iterdir()).name
    assert client.get(path.format(name=name, photo=photo)).status_code == 404


def test_every_answer_has_the_headers(client, tmp_path):
    name = begin(client)
    state_of(client, tmp_path, name, "done")
    paths = ("/", "/page.js", "/page.css", "/icon.svg", "/api/start", "/nothing")
    for path in (*paths, "/samples/seed0035.png", f"/results/{name}/after.jpg"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    report = client.get(f"/results/{name}/report.html").headers["content-security-policy"]
    assert report.startswith("sandbox allow-scripts; default-src 'none'")
    assert client.post("/api/photos", headers={"host": "x"}).headers["x-content-type-options"]


def test_the_page_names_nothing_outside(client):
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        assert "innerHTML" not in text
    page = client.get("/").text
    assert " style=" not in page
    assert " on" not in page.replace(" on ", " ").replace(" one ", " ").replace(" or ", " ")


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        ({"model": "/etc/passwd"}, "unknown settings: model"),
        ({"steps": 0}, "steps: want 1 to 1000"),
        ({"steps": 10**9}, "steps: want 1 to 1000"),
        ({"steps": True}, "steps: want int"),
        ({"strength": 2}, "strength: want 0.0 to 1.5"),
        ({"strength": "1"}, "strength: want float"),
        ({"parts": ["nose"]}, "choose what changes"),
        ({"parts": []}, "choose what changes"),
        ({"face": "x"}, "face: want the number"),
        ({"driver_face": "all"}, "driver_face: want the number"),
        ({"face": "../../x"}, "face: want the number"),
        ({"covered": 1}, "covered: want bool"),
    ],
)
def test_wishes_out_of_range_are_refused(client, wish, line):
    photo = give(client)
    body = {"person": photo, "driver": photo, "wish": wish}
    for path in ("/api/results", "/api/check"):
        answer = client.post(path, json=body)
        assert answer.status_code == 400
        assert line in answer.json()["error"]


def test_numbers_that_json_should_not_have_are_refused(client):
    photo = give(client)
    text = json.dumps({"person": photo, "driver": photo, "wish": {"strength": float("nan")}})
    answer = client.post("/api/results", content=text)
    assert answer.status_code == 400


def test_a_wish_as_a_command():
    assert wishes.QUICK["rows"] == "{}-{}".format(*mix.DECIDE)
    wish = wishes.read({"quick": False, "covered": True, "face": "all", "strength": 1})
    assert (wish.steps, wish.rows, wish.strength) == (40, "auto", 1.0)
    assert read_rows(wish.rows) is Settings.rows  # full is what the command does
    for name in ("steps", "tuning", "refine"):
        assert getattr(wish, name) == getattr(Settings, name), name
    line = wish.command("runs/o'clock", "faces")
    assert line.startswith("python -m experiments.transfer '--appearance=") is False
    assert "--appearance='runs/o'\\''clock/person.png'" in line
    assert line.endswith("--covered")


@pytest.mark.parametrize("what", ["person", "driver"])
@pytest.mark.parametrize("name", ["x", "../photos", None, 3, "20200101-000000-0123456789ab"])
def test_photos_that_were_not_given_are_not_there(client, what, name):
    photo = give(client)
    body = {"person": photo, "driver": photo} | {what: name}
    assert client.post("/api/results", json=body).status_code == 404


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '"x"'])
def test_bodies_that_are_no_objects_are_refused(client, body):
    assert client.post("/api/results", content=body).status_code == 400


def test_cancel_stops_what_runs_and_what_waits(client, tmp_path):
    slow = give(client, picture(14, 20))
    first, second = begin(client, slow), begin(client, slow)
    state_of(client, tmp_path, first, "running")
    assert client.delete(f"/api/results/{first}").status_code == 422
    client.post(f"/api/results/{second}/cancel", json={})
    assert state_of(client, tmp_path, second, "cancelled")["error"] == "cancelled"
    client.post(f"/api/results/{first}/cancel", json={})
    state_of(client, tmp_path, first, "cancelled")
    assert client.delete(f"/api/results/{first}").status_code == 200
    third = begin(client)
    state_of(client, tmp_path, third, "done")


def test_a_full_queue_is_said(client):
    slow, driver = give(client, picture(14, 20)), give(client)
    body = {"person": slow, "driver": driver, "wish": {}}
    answers = [client.post("/api/results", json=body).status_code for _ in range(WAITING + 2)]
    assert answers[:WAITING] == [201] * WAITING
    assert answers[-1] == 422


def test_a_worker_that_is_killed_is_said_and_started_again(client, tmp_path):
    name = begin(client, give(client, picture(14, 20)))
    state_of(client, tmp_path, name, "running")
    answer = client.post("/api/photos", content=picture(13, 20))  # which ends it
    assert answer.status_code == 422
    assert "the worker was stopped" in answer.json()["error"]
    assert "the worker was stopped" in state_of(client, tmp_path, name, "failed")["error"]
    state_of(client, tmp_path, begin(client), "done")


def test_what_takes_too_long_is_stopped(tmp_path):
    with TestClient(app_of(tmp_path, seconds=1.0), HERE, headers=OURS) as client:
        name = begin(client, give(client, picture(14, 20)))
        assert "it took more than" in state_of(client, tmp_path, name, "failed")["error"]


def test_a_full_quota_is_said(tmp_path):
    with TestClient(app_of(tmp_path, quota=2000), HERE, headers=OURS) as client:
        give(client)
        answer = client.post("/api/photos", content=picture())
        assert answer.status_code == 400
        assert "delete some results" in answer.json()["error"]


def test_samples_are_given_by_name(client):
    names = client.get("/api/start").json()["samples"]
    assert names
    assert client.get(f"/samples/{names[0]}.png").headers["content-type"] == "image/png"
    found = client.post("/api/samples", json={"name": names[0]}).json()
    with Image.open(io.BytesIO(client.get(f"/photos/{found['id']}.jpg").content)) as preview:
        assert preview.size == (found["width"], found["height"])
    assert client.post("/api/samples", json={"name": "../card"}).status_code == 404


def test_watchers_see_every_state_then_changes(tmp_path):
    app = app_of(tmp_path)
    routes: Any = app.routes
    jobs = next(one for one in routes if one.path == "/api/events").endpoint.__self__.jobs

    async def watch():
        watched = jobs.watch()
        seen = [await anext(watched)]
        jobs.change({"id": "20200101-000000-0123456789ab", "status": "running"})
        seen.append(await anext(watched))
        await watched.aclose()
        return seen, jobs.watchers

    seen, left = asyncio.run(watch())
    assert [set(message) for message in seen] == [{"results"}, {"result"}]
    assert not left


@pytest.fixture
def running(tmp_path, root):
    """The command, as it is started, with the folder of its results; its first line."""
    command = [sys.executable, "-m", "experiments.web", f"--home={tmp_path}", "--nobrowser"]
    command += ["--port=0", "--model=nothing"]  # whose absence is said when something is asked
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stdout.close()


def test_the_command_prints_its_address_and_answers_there(running, tmp_path):
    said = re.fullmatch(r"fxjax is at (\S+) \(.*\); results are kept in (.+)\n", running)
    assert said is not None
    address, home = said.groups()
    assert home == str(tmp_path)
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as page:
        assert b"Drop a photo here" in page.read()
    with urllib.request.urlopen(f"{address}api/start") as started:
        assert json.load(started)["model"] == "nothing"


def test_a_host_that_listens_everywhere_needs_names(tmp_path):
    with pytest.raises(ValueError, match="say by which names the page may be reached"):
        server.serve(tmp_path, model="faces", host="0.0.0.0", say=print)


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} .*give another --port"):
            server.serve(tmp_path, model="faces", port=port, say=print)
