"""A worker for tests of the page: the same lines, without models. It needs a tenth of a second.

A photo's face is its middle; a gray photo has none. Photos of 13 pixels end it, of 14 are slow.
"""

import json
import os
import pathlib
import sys
import threading
import time

from PIL import Image

unwanted = set()
lock = threading.Lock()


def say(message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def look(folder):
    try:
        with Image.open(folder / "given", formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > 40_000_000:
                raise ValueError("too many pixels")
            photo = picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"{folder / 'given'} is not a picture ({type(error).__name__})") from None
    if photo.width == 13:
        sys.exit(1)
    if len(photo.getcolors(2) or ()) == 1:
        raise ValueError("no face was found")
    photo.save(folder / "photo.png")
    photo.save(folder / "preview.jpg")
    faces = [[0.3, 0.2, 0.7, 0.8]]
    if photo.width > 400:
        faces = [[0.1, 0.2, 0.4, 0.8], [0.6, 0.3, 0.8, 0.7]]
    return {"width": photo.width, "height": photo.height, "faces": faces}


def transfer(folder, number, wish):
    with Image.open(folder / "person.png") as picture:
        photo = picture.convert("RGB")
    photo.save(folder / "before.jpg")
    after = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    seconds = {14: 60, 600: 3}.get(photo.width, 0.5)
    for stage in ("faces", "inversion", "tuning", "masks", "refinement", "writing"):
        for step in range(5):
            if number in unwanted:
                raise ValueError("cancelled")
            say({"id": number, "told": {"stage": stage, "share": step / 5}})
            time.sleep(seconds / 30)
        if stage == "faces":
            after.save(folder / "first.jpg")
            say({"id": number, "told": {"picture": "first"}})
        if stage == "inversion":
            for _ in range(2):
                after.save(folder / "inversions.jpg")
                say({"id": number, "told": {"picture": "inversions"}})
    after.save(folder / "after.jpg")
    after.save(folder / "result.png")
    after.save(folder / "side_by_side.png")
    count = 2 if wish["face"] == "all" else 1
    report = "<!doctype html><title>A report</title>"
    for index in range(count) if count > 1 else ():
        (folder / f"face{index}").mkdir()
        (folder / f"face{index}" / "report.html").write_text(report)
        report += f"<a href=face{index}/report.html>face{index}</a>"
    (folder / "report.html").write_text(report)
    face = {"verdict": [], "kept": "", "drawn": "mixture", "gain": 0.6, "identity": 0.3}
    done = {"faces": [face] * count, "warnings": [], "width": photo.width, "height": photo.height}
    say({"id": number, "told": {"done": done}})
    for index in range(count):
        place = folder / f"face{index}" if count > 1 else folder
        (place / "masks").mkdir()
        masks = []
        for rank, mask in enumerate(("0110", "0010", "1111", "0000"), start=1):
            after.save(place / "masks" / f"{mask}.jpg")
            losses = {"expression": 1 - mask.count("1") / 4, "appearance": mask.count("1") / 4}
            masks.append({"mask": mask, "rank": rank, "front": True, **losses})
        say({"id": number, "told": {"masks": masks, "face": index}})
    return {}


def draw(folder, task):
    place = folder / f"face{task['face']}" if task["wish"]["face"] == "all" else folder
    (place / "drawn").mkdir(exist_ok=True)
    name = f"{task['mask'] or 'result'}_{round(100 * task['strength']):03d}"
    with Image.open(folder / "after.jpg") as picture:
        picture.save(place / "drawn" / f"{name}.{'png' if task['whole'] else 'jpg'}")
    return {"name": name, "verdict": ["blurred"]}


def done(task):
    folder = pathlib.Path(task["folder"])
    if task["do"] == "look":
        return look(folder)
    if task["do"] == "check":
        return {"words": ["the face is small"], "hidden": False, "alike": False}
    if task["do"] == "draw":
        return draw(folder, task)
    return transfer(folder, task["id"], task["wish"])


def serve(task):
    try:
        say({"id": task["id"], "ok": done(task)})
    except ValueError as error:
        say({"id": task["id"], "wrong": str(error)})


def main():

    say({"ready": 4})
    for line in sys.stdin:
        task = json.loads(line)
        if task["do"] == "cancel":
            unwanted.add(task["id"])
        elif task["do"] == "transfer":
            threading.Thread(target=serve, args=(task,), daemon=True).start()
        else:
            try:
                serve(task)
            except SystemExit:
                os._exit(1)


if __name__ == "__main__":
    main()
