"""How the 68 landmarks of any face move with an expression, by a morphable face model.

For what a generator does not draw. The model is ICT-FaceKit's (Li et al., "Learning Formation of
Physically-Based Face Attributes", CVPR 2020); see fxjax/zoo/expression/card.md. All on the host.
"""

import functools
import io
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files
from fxjax.faces import expression
from fxjax.faces.align import Landmarks

PULL = 0.15  # on the square of each coefficient, of the reader's weighed squares
STEP = 0.05  # of a coefficient: what slopes are taken over


class FaceModel(NamedTuple):
    """Landmarks of a face at rest, and what each expression adds to them, in centimetres.

    x goes to the face's left, y up, z forward; the expressions are those of `expression.names()`.
    """

    neutral: Float[np.ndarray, "68 3"]
    expressions: Float[np.ndarray, "coefficients 68 3"]

    def move(
        self, own: Landmarks, coefficients: Float[np.ndarray, "*batch coefficients"]
    ) -> Float[np.ndarray, "*batch 68 2"]:
        """How far landmarks move in their picture, for a change of the coefficients.

        Seen by an affine camera that is fitted to the nose and the corners of the eyes.
        """
        anchors = self.neutral[expression.ANCHORS]
        anchors = np.concatenate([anchors, np.ones((len(anchors), 1))], axis=1)
        camera = np.linalg.lstsq(anchors, own[expression.ANCHORS], rcond=None)[0][:3]
        return np.tensordot(coefficients, self.expressions, axes=1) @ camera

    def missing(
        self,
        own: Landmarks,
        move: Landmarks,
        target: Float[np.ndarray, " coefficients"],
        weight: Float[np.ndarray, " coefficients"],
        *,
        free: Float[np.ndarray, " free"] | np.ndarray,
        steps: int = 6,
    ) -> Float[np.ndarray, " coefficients"]:
        """Coefficients whose move, beside `move`, brings what is read of a face to `target`.

        Only those numbered by `free` move. `weight` counts the square of each difference; damped
        Gauss-Newton.
        """
        found = np.zeros(len(self.expressions))
        tries = np.zeros((1 + len(free), len(found)))  # the first is where it is
        tries[1 + np.arange(len(free)), free] = STEP
        for _ in range(steps):
            read = expression.read(own + move + self.move(own, found + tries))
            now, *other = np.sqrt(weight) * (read - target)
            slopes = (np.stack(other, axis=1) - now[:, None]) / STEP
            square = slopes.T @ slopes + PULL * np.eye(len(free))
            found[free] -= 0.7 * np.linalg.solve(square, slopes.T @ now + PULL * found[free])
        return found


def load(path: epath.PathLike | None = None) -> FaceModel:
    """The shipped model, or that of a file. Raises FileNotFoundError or ValueError."""
    beside = epath.Path(__file__).parent.parent / "zoo/expression/landmarks.npz"
    source = files.absolute(path or beside)
    if not source.exists():
        raise FileNotFoundError(f"no landmarks of a face model at {source}")
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            found = FaceModel(
                arrays["neutral"].astype(np.float64), arrays["expressions"].astype(np.float64)
            )
    except Exception as error:  # zip and numpy have a dozen kinds of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} holds no landmarks of a face model: {reason}") from None
    shapes = found.neutral.shape, found.expressions.shape
    if names != expression.names() or shapes != ((68, 3), (len(names), 68, 3)):
        raise ValueError(
            f"{source} has {len(names)} expressions of shapes {shapes}; "
            "want those of the reader of expressions, 68 points each"
        )
    return found


def packed(model: FaceModel) -> bytes:
    """The content of a file for `load`; the expressions in half precision (0.001 cm)."""
    arrays = {
        "names": np.array(expression.names()),
        "neutral": model.neutral.astype(np.float32),
        "expressions": model.expressions.astype(np.float16),
    }
    return files.npz(arrays, compressed=True)


@functools.cache
def shipped() -> FaceModel:
    """The model that comes with the package, read once."""
    return load()
