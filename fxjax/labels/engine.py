"""A named expression for the face in a photo: detect, align, one pass, put back.

The autoencoder's own picture of the face, told its own expression, is what the photo is compared
with, so that the photo gets the difference alone and keeps its detail.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from fxjax import checkpoint, zoo
from fxjax.faces import detect, reader
from fxjax.faces.located import Faces
from fxjax.nn import fader
from fxjax.transfer_types import Located, Pixels, Settings
from fxjax.types import Features

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)

Label = Float[np.ndarray, " expressions"]


class LabelEngine(Faces):
    """A label-driven model, ready for many photos.

    `model` is the name of a shipped model or a model folder; `parts` (of `align.PARTS`) are what
    changes in a photo. Raises FileNotFoundError or ValueError for a model that is not there or is
    of another kind.
    """

    def __init__(
        self,
        model: epath.PathLike,
        *,
        detector: detect.Detector | None = None,
        parts: Sequence[str] = Settings.parts,
    ):
        folder = zoo.find(model)
        held = checkpoint.read_card(folder)["parts"]
        if "autoencoder" not in held:
            raise ValueError(
                f"{folder} is no label-driven model: it has {', '.join(held)} and no autoencoder"
            )
        self.model: Any = zoo.load(folder, part="autoencoder")
        self.classifier: Any = None
        if "classifier" in held:
            self.classifier = zoo.load(folder, part="classifier")
        self._inner = fader.inner(self.model.size, self.model.zoom)
        side = self.model.size * self.model.zoom
        super().__init__(side, detector, reader.load(folder), parts=parts)

    @property
    def expressions(self) -> tuple[str, ...]:
        """The names that the model knows."""
        return self.model.expressions

    def label(self, expression: str) -> Label:
        """1 for that expression, 0 for the others. ValueError for one that is not known."""
        if expression not in self.expressions:
            raise ValueError(
                f"no expression {expression!r}; this model knows {', '.join(self.expressions)}"
            )
        return np.eye(len(self.expressions), dtype=np.float32)[self.expressions.index(expression)]

    def own_label(self, face: Located) -> Label:
        """What the classifier sees in a face, sum 1; without one, neutral, or all alike."""
        if self.classifier is not None:
            return np.asarray(_probabilities(self.classifier, self._input(face)))[0]
        if "neutral" in self.expressions:
            return self.label("neutral")
        return np.full(len(self.expressions), 1 / len(self.expressions), np.float32)

    def draw(
        self, face: Located, labels: Sequence[Label]
    ) -> Float[np.ndarray, "count size size 3"]:
        """The face with each label, [-1, 1], as the model draws it; its encoding is made once.

        Around what the model sees, a face is as it is in the photo.
        """
        latent = _encode(self.model, self._input(face))
        given = jnp.asarray(np.stack([np.asarray(label, np.float32) for label in labels]))
        made = np.asarray(_decode(self.model, jnp.repeat(latent, len(labels), axis=0), given))
        faces = np.repeat(face.crop.image[None], len(labels), axis=0)
        faces[:, *self._inner] = made
        return faces

    def change(
        self, face: Located, expressions: Sequence[str], strength: float = 1.0
    ) -> list[Pixels]:
        """The photo once for each expression. `strength` 0 leaves it as it is, 1 is the label.

        A grey model changes brightness and leaves colours. Raises ValueError for an unknown
        expression or a strength outside 0..1.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"a strength of {strength:g} is not within 0 (none) to 1")
        own = self.own_label(face)
        goals = [own + strength * (self.label(name) - own) for name in expressions]
        before, *after = self.draw(face, [own, *goals])
        return [self._changed(face, before, new) for new in after]

    def _input(self, face: Located) -> Float[Array, "1 size size channels"]:
        picture = face.crop.image[None, *self._inner]
        if self.model.channels == 1:
            picture = np.sum(picture * np.asarray(GREY, np.float32), axis=-1, keepdims=True)
        return jnp.asarray(picture, jnp.float32)

    def _changed(
        self,
        face: Located,
        before: Float[np.ndarray, "size size 3"],
        new: Float[np.ndarray, "size size 3"],
    ) -> Pixels:
        if self.model.channels == 1:  # the crop's colours with the change of brightness
            before, new = face.crop.image, face.crop.image + new - before
        return self.put_back(face, before, new)


@jax.jit
def _encode(model: Any, pictures: Features) -> Features:
    return model.encoder(pictures)


@jax.jit
def _decode(model: Any, latent: Features, labels: Float[Array, "batch labels"]) -> Features:
    return model.decoder(latent, labels)


@jax.jit
def _probabilities(classifier: Any, pictures: Features) -> Float[Array, "batch labels"]:
    return jax.nn.softmax(classifier(pictures))
