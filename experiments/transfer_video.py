"""A photo whose face follows a video (or a folder of frames), with one mask for all frames.

    python -m experiments.transfer_video --appearance=A.jpg --driver=talk.mp4 --out=runs/video

The frames' codes are found one after the other, each from the one before; the mask is the best on
the mean of a few frames. Writes frames/, result.mp4, codes/, and frames.csv. Killed at any moment,
the same command goes on where it was. A frame without a face keeps the expression before it.
"""

import dataclasses
import json
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import batch, frames, transfer_files, transfer_flags
from experiments.launch import launch
from fxjax import align, files, mix
from fxjax.detail import Source
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.transfer_report import mask_text
from fxjax.transfer_types import Located


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Transfer):
    """Each field is a flag; `steps` are those of the photo and the first frame."""

    appearance: Annotated[str, "the photo whose face changes"]
    driver: Annotated[str, "a video, or a folder of frames in the order of their names"]
    out: Annotated[str, "folder for the results"] = "runs/video"
    face: Annotated[str, "whose: largest, a number (left to right), or x,y"] = "largest"
    frame_steps: Annotated[int, "inversion steps of each frame after the first"] = 75
    looks: Annotated[int, "frames that choose the mask, spread over all"] = 4
    most: Annotated[int, "frames that are read at most"] = 2000
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


def main(config: Config) -> None:
    """Reads, inverts frame after frame, chooses the mask, draws."""
    out = files.absolute(config.out)
    settings = config.settings()
    engine = Engine(config.model, config.features, settings)
    later = Engine(
        config.model,
        config.features,
        dataclasses.replace(settings, steps=config.frame_steps),
        detector=engine.detector,
    )
    source = frames.Source(config.driver, config.most)
    person = engine.locate(config.appearance, config.face)[0]
    frames.check(out, dataclasses.asdict(config))
    own = frames.code(out / "codes" / "person.npz", lambda: engine.encode([person]).code[0])
    rows, code, drivers, marks, driver = [], None, {}, {}, None
    for number, photo in enumerate(tqdm(source, "frames", source.count, disable=None)):
        place = out / "codes" / f"{number:06d}.npz"
        try:
            face = engine.locate(photo)[0]
        except ValueError as error:
            rows.append({"frame": number, "status": "no_face", "message": str(error)})
            continue
        search = engine if code is None else later
        start = None if code is None else jnp.asarray(code)[None]
        code = frames.code(place, lambda s=search, f=face, c=start: s.encode([f], c).code[0])
        driver = face if driver is None else driver  # of the first frame that has one
        marks[number] = face.landmarks
        drivers[number] = (
            face if frames.looked(number, source.count, config.looks) else None,
            code,
        )
        rows.append({"frame": number, "status": batch.OK, "message": ""})
    if driver is None:
        raise ValueError(f"no face was found in any frame of {config.driver}")
    mask = frames.choose(engine, person, own, drivers)
    print(f"mask {mask_text(mask)}")
    pictures, note, last = [], transfer_files.note(config.model), min(drivers)
    tuned = engine.tuned([person], jnp.asarray(own)[None])
    before = engine.draw(jnp.asarray(own)[None], tuned)
    for number, frame in enumerate(tqdm(source, "drawing", source.count, disable=None)):
        if number in drivers:
            last, crop = number, align.align(frame, marks[number], engine.resolution)
            driver = Located(frame, marks[number], crop)
        other = jnp.asarray(drivers[last][1])
        mixed = mix.blended(jnp.asarray(own), other, jnp.asarray(mask), config.strength)
        drawn = engine.draw(jnp.stack([mixed, other]), tuned)
        photo, _ = engine.apply(person, before, drawn[:1], Source(driver, np.asarray(drawn[1])))
        pictures.append(out / "frames" / f"{number:06d}.png")
        save_image(pictures[-1], photo, note=note)
    batch.write_rows(out / "frames.csv", rows)
    frames.write_video(out / "result.mp4", pictures, source.rate)
    files.write(out / "mask.json", json.dumps(mask_text(mask)).encode())
    lost = sum(row["status"] != batch.OK for row in rows)
    print(f"{len(rows)} frames, {lost} without a face; watch {out / 'result.mp4'}")


if __name__ == "__main__":
    launch(Config, main)
