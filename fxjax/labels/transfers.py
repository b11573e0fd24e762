"""System A on the faces that label-driven models are judged on: each gets another's expression.

It knows no labels: a face's driver is the next held-back face, in order, of the wanted expression.
Pictures are as the generator draws them, without pivotal tuning, as the models' own are compared.
"""

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import images, steps
from fxjax.codes import mix
from fxjax.codes.smile_samples import Reader
from fxjax.engine import Engine
from fxjax.faces.align import Crop
from fxjax.labels.label_data import Labelled
from fxjax.transfer_types import Located, Settings


def engine_of(model: epath.PathLike, size: int, channels: int) -> Engine:
    """The engine for pictures of a size. ValueError if the generator draws others."""
    engine = Engine(model, settings=Settings(tuning=0))
    if (engine.resolution, 3) != (size, channels):
        raise ValueError(
            f"generator {model} draws {engine.resolution} px in colour; --size={size} "
            f"--channels={channels} cannot be compared with it"
        )
    return engine


def located(pictures: np.ndarray) -> list[Located | None]:
    """The faces of aligned pictures; None where the detector finds none, or several."""
    reader, found = Reader(), []
    for picture in pictures:
        landmarks = reader.landmarks(picture)
        crop = Crop(images.from_uint8(picture), np.eye(3))
        found.append(None if landmarks is None else Located(picture, landmarks, crop))
    return found


def changed(
    engine: Engine, faces: list[Located], held_back: Labelled
) -> Float[np.ndarray, "count expressions size size 3"]:
    """Each face as the generator draws it, and with the expression of each of its drivers.

    Raises ValueError if an expression has no face.
    """
    classes, kinds = held_back.classes, range(len(held_back.expressions))
    bare = [held_back.expressions[kind] for kind in kinds if kind not in classes]
    if bare:
        raise ValueError(f"no held-back face shows {', '.join(bare)}, to drive; give more --faces")
    codes = engine.encode(faces).code
    every = []
    for k in steps.each(range(len(faces)), "masks"):
        wanted = []
        for kind in kinds:
            after = np.roll(np.arange(len(faces)), -k)
            driver = int(next(n for n in after if classes[n] == kind))
            mask = np.zeros(codes.shape[1], bool)
            if kind != classes[k]:
                ranked = engine.rank(codes[k], codes[driver], (faces[k], faces[driver]))
                mask = mask if ranked is None else ranked.masks[0]
            wanted.append(mix.mix(codes[k], codes[driver], jnp.asarray(mask)))
        every.append(np.asarray(engine.draw(jnp.stack(wanted))))
    return np.stack(every)
