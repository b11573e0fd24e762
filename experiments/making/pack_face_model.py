"""Writes the landmarks of ICT-FaceKit's neutral face and expressions, as `fxjax.faces.model` reads.

python -m experiments.making.pack_face_model --ict=ict_facekit.npz --dst=landmarks.npz
"""

import dataclasses
from typing import Annotated

from experiments.making import expression_faces
from fxjax import files
from fxjax.cli import launch
from fxjax.faces import expression, model


@dataclasses.dataclass(frozen=True)
class Config:
    """Each field is a flag."""

    ict: Annotated[str, "ict_facekit.npz"]
    dst: Annotated[str, "file to write"] = "landmarks.npz"


def main(config: Config) -> None:
    """Reads, picks, writes."""
    ict = expression_faces.load(config.ict)
    if ict.names != expression.names():
        raise ValueError(f"{config.ict} has other expressions than the reader of expressions")
    content = model.packed(model.FaceModel(ict.neutral, ict.expression))
    files.write(config.dst, content)
    print(f"{len(content):,} bytes")


if __name__ == "__main__":
    launch(Config, main)
