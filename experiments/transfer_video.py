"""A photo whose face follows a video (or a folder of frames), with one mask for all frames.

    python -m experiments.transfer_video --appearance=A.jpg --driver=talk.mp4 --out=runs/video

The frames' codes are found one after the other, each from the one before; the mask is the best on
the mean of a few frames with a face. Writes frames/, result.mp4, codes/, and frames.csv. Killed at
any moment, the same command goes on where it was, if the photo, frames and model are still the
same. A frame without a face keeps the expression before it.
"""

import dataclasses
import json
from typing import Annotated

import jax.numpy as jnp
from tqdm import tqdm

from experiments import batch, frames, transfer_files, transfer_flags
from experiments.launch import launch
from fxjax import files, mix, zoo
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.transfer_report import mask_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Transfer):
    """Each field is a flag; `steps` are those of the photo and the first frame."""

    appearance: Annotated[str, "the photo whose face changes"]
    driver: Annotated[str, "a video, or a folder of frames in the order of their names"]
    out: Annotated[str, "folder for the results"] = "runs/video"
    face: Annotated[str, "whose: largest, a number (left to right), or x,y"] = "largest"
    frame_steps: Annotated[int, "inversion steps of each frame after the first"] = 75
    looks: Annotated[int, "frames that choose the mask, spread over all with a face"] = 4
    most: Annotated[int, "frames that are read at most"] = 2000
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


def main(config: Config) -> None:
    """Reads, inverts frame after frame, chooses the mask, draws."""
    out = files.absolute(config.out)
    for name in ("frame_steps", "looks", "most"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name}={getattr(config, name)}: want 1 or more")
    settings = config.settings()
    engine = Engine(config.model, config.features, settings)
    later = Engine(
        config.model,
        config.features,
        dataclasses.replace(settings, steps=config.frame_steps),
        detector=engine.detector,
    )
    source = frames.Source(config.driver, out, config.most)
    person = engine.locate(config.appearance, config.face)[0]
    features = str(config.features or zoo.features_of(config.model))
    made_of = frames.inputs(config.appearance, source, config.model, features)
    frames.check(out, dataclasses.asdict(config), made_of)
    if source.left:
        whole = source.count + source.left
        print(
            f"--most={config.most} leaves out {source.left} of {whole} frames; a larger one fewer"
        )
    own = frames.code(out / "codes" / "person.npz", lambda: engine.encode([person]).code[0])
    rows, code, drivers, driver = [], None, {}, None
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
        drivers[number] = frames.Driver(face.landmarks, code)
        rows.append({"frame": number, "status": batch.OK, "message": ""})
    if driver is None:
        raise ValueError(f"no face was found in any frame of {config.driver}")
    mask = frames.choose(engine, person, own, source, drivers, config.looks)
    print(f"mask {mask_text(mask)}")
    amount = config.strength if mask.any() else 0.0
    pictures, note, last = [], transfer_files.note(config.model), min(drivers)
    tuned = engine.tuned(person, jnp.asarray(own))
    before = engine.draw(jnp.asarray(own)[None], tuned)
    for number, frame in enumerate(tqdm(source, "drawing", source.count, disable=None)):
        if number in drivers:
            last, driver = number, drivers[number].located(frame, engine.resolution)
        other = jnp.asarray(drivers[last].code)
        mixed = mix.blended(jnp.asarray(own), other, jnp.asarray(mask), config.strength)
        drawn = engine.draw(mixed[None], tuned)
        photo, _ = engine.apply(person, before, drawn, driver, amount=amount)
        pictures.append(out / "frames" / f"{number:06d}.png")
        save_image(pictures[-1], photo, note=note)
    for path in set((out / "frames").glob("*.png")) - set(pictures):  # of a longer run
        path.unlink()
    batch.write_rows(out / "frames.csv", rows)
    frames.write_video(out / "result.mp4", pictures, source.rate)
    files.write(out / "mask.json", json.dumps(mask_text(mask)).encode())
    lost = sum(row["status"] != batch.OK for row in rows)
    print(f"{len(rows)} frames, {lost} without a face; watch {out / 'result.mp4'}")


if __name__ == "__main__":
    launch(Config, main)
