"""A photo whose face follows a video (or a folder of frames).

    python -m experiments.transfer_video --appearance=A.jpg --driver=talk.mp4 --out=runs/video

The person is inverted and tuned once. The frames' landmarks drive: each frame's code is refined
from the one before. Writes frames/, result.mp4 and side_by_side.mp4 with the video's sound and
times, codes/, and frames.csv. Killed at any moment, the same command goes on where it was, if the
photo, frames and model are still the same. A frame without a face, or whose face is turned away or
covered, keeps the expression before it.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from fxjax import files, transfer_report
from fxjax import steps as shown
from fxjax.cli import launch
from fxjax.engine import Engine
from fxjax.faces import align, expression
from fxjax.faces.preflight import COVERED, FAR_TURN
from fxjax.images import save_image
from fxjax.runs import journal, transfer_flags, video
from fxjax.runs.worklist import OK
from fxjax.transfer_types import Located


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(transfer_flags.Drawing):
    """Each field is a flag; `refine` are the steps of the first frame."""

    appearance: Annotated[str, "the photo whose face changes"]
    driver: Annotated[str, "a video, or a folder of frames in the order of their names"]
    out: Annotated[str, "folder for the results"] = "runs/video"
    face: Annotated[str, "whose: largest, a number (left to right), or x,y"] = "largest"
    frame_steps: Annotated[int, "refinement steps of each frame after the first"] = 15
    most: Annotated[int, "frames that are read at most"] = 2000
    restart: Annotated[bool, "remove an earlier run's results in --out and begin anew"] = False


def main(config: Config) -> None:
    """Inverts and tunes the person, finds the frames' faces, then follows them."""
    out = files.absolute(config.out)
    for name in ("frame_steps", "most", "refine"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name}={getattr(config, name)}: want 1 or more")
    engine = Engine(config.model, config.features, config.settings())
    source = video.Source(config.driver, out, config.most)
    person = engine.locate(config.appearance, config.face)[0]
    engine.check_seen([person], [])
    video.begin(out, dataclasses.asdict(config), source)
    if source.left:
        whole = source.count + source.left
        print(
            f"--most={config.most} leaves out {source.left} of {whole} frames; a larger one fewer"
        )
    rows, found = [], {}
    for number, photo in enumerate(shown.each(source, "faces", source.count)):
        row = {"frame": number, "status": OK, "message": ""}
        try:
            face = engine.locate(photo)[0]
            row["faces"] = face.faces
            yaw = float(expression.pose(face.landmarks)[0])
            if abs(yaw) > FAR_TURN:
                row |= {"status": "turned", "message": f"turned by {yaw:.0f} degrees"}
            elif part := engine.hidden(face):
                row |= {"status": "covered", "message": f"its {part} {COVERED[part]}"}
            else:
                found[number] = face.landmarks
        except ValueError as error:
            row |= {"status": "no_face", "message": str(error)}
        rows.append(row)
    for line in filter(None, [source.lost(), *video.several(person, rows)]):
        print(line)
    if not found:
        raise ValueError(
            f"no face was found in any frame of {config.driver} that is turned by at most "
            f"{FAR_TURN:.0f} degrees and in which what changes is in view"
        )
    place = out / "codes" / "person.npz"
    own = jnp.asarray(journal.code(place, lambda: engine.encode([person]).code[0]))
    tuned, found = engine.tuned(person, own), video.steadied(found)
    before, code, pictures = engine.draw(own[None], tuned), own, []
    note, driver = transfer_report.note(config.model), None
    for number, frame in enumerate(shown.each(source, "frames", source.count)):
        photo = person.photo
        if number in found:
            crop = align.align(frame, found[number], engine.resolution)
            driver = Located(frame, found[number], crop)
            place, steps = out / "codes" / f"{number:06d}.npz", config.frame_steps
            steps = steps if code is not own else config.refine

            def follow(driver: Located = driver, code=code, steps: int = steps) -> np.ndarray:
                if not engine.wish(person, driver).share:
                    return np.asarray(own)
                best = engine.refined(person, driver, own, code[None], tuned, steps=steps)
                return np.asarray(best.codes[0])

            code = jnp.asarray(journal.code(place, follow))
        if driver is not None:
            drawn, strength = engine.draw(code[None], tuned), config.strength
            photo, _ = engine.apply(person, before, drawn, driver, amount=strength)
        pictures.append(out / "frames" / f"{number:06d}.png")
        save_image(pictures[-1], photo, note=note)
    for path in set((out / "frames").glob("*.png")) - set(pictures):  # of a longer run
        path.unlink()
    files.write_table(out / "frames.csv", rows, digits=6)
    video.write_videos(out, pictures, source, note)
    lost = sum(row["status"] != OK for row in rows)
    print(f"{len(rows)} frames, {lost} without a face to follow; watch {out / 'result.mp4'}")


if __name__ == "__main__":
    launch(Config, main)
