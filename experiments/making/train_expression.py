"""Trains the reader of expressions on random faces of ICT-FaceKit, in about two CPU minutes.

    python -m experiments.making.train_expression --ict=ict_facekit.npz --dst=weights.npz --data=DIR

With --data (folders omi, portraits and expressions) it is then checked on pictures it never saw.
"""

import dataclasses
import functools
import itertools
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.making import expression_faces
from fxjax import files
from fxjax.cli import launch
from fxjax.faces import expression

Parameters = list[tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and where from."""

    ict: Annotated[str, "ict_facekit.npz"]
    dst: Annotated[str, "weights to write"] = "expression.npz"
    data: Annotated[str | None, "folder with omi, portraits and expressions to check on"] = None
    steps: Annotated[int, "Adam steps; 0 checks the weights that are there"] = 8000
    batch: Annotated[int, "faces per step, all of them new"] = 512
    width: Annotated[int, "units of each of the two hidden layers"] = 192
    rate: Annotated[float, "Adam's rate at the start, falling to 0"] = 0.002
    seed: Annotated[int, "of the faces and the first weights"] = 0


def outputs(parameters: Parameters, x: Float[Array, "batch _"]) -> Float[Array, "batch _"]:
    """The network on standardised inputs."""
    for kernel, bias in parameters[:-1]:
        x = jax.nn.silu(x @ kernel + bias)
    return x @ parameters[-1][0] + parameters[-1][1]


def fit(model: expression_faces.LandmarkModel, config: Config) -> expression.Weights:
    """Least squares on coefficients, yaw and pitch, each in units of its deviation."""
    rng = np.random.default_rng(config.seed)
    rest = model.neutral[:, :2] * [1, -1]
    rest = (rest + rest[expression.MIRROR] * [-1, 1]) / 2  # equal on both sides but for rounding
    reference = rest[expression.ANCHORS]
    eyes = model.neutral[36:42].mean(0) - model.neutral[42:48].mean(0)
    reference = (reference - reference.mean(0)) / np.linalg.norm(eyes)

    def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
        faces = expression_faces.sample(model, rng, count)
        points = expression.normalized(faces.landmarks, reference)
        wanted = np.concatenate([faces.coefficients, faces.angles], axis=1)
        return expression.features(points), wanted

    x, y = batch(20_000)
    (mean, deviation), (middle, spread) = ((v.mean(0), v.std(0)) for v in (x, y))
    widths = [x.shape[1], config.width, config.width, y.shape[1]]
    parameters: Parameters = [
        (
            jnp.asarray(rng.standard_normal((n, m)) * n**-0.5, jnp.float32),
            jnp.zeros(m, jnp.float32),
        )
        for n, m in itertools.pairwise(widths)
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    moments = optimizer.init(parameters)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, moments, x, y):
        objective = lambda parameters: jnp.mean((outputs(parameters, x) - y) ** 2)
        value, gradient = jax.value_and_grad(objective)(parameters)
        updates, moments = optimizer.update(gradient, moments, parameters)
        return optax.apply_updates(parameters, updates), moments, value

    begun = time.monotonic()
    for index in range(config.steps):
        x, y = batch(config.batch)
        x, y = ((x - mean) / deviation).astype(np.float32), ((y - middle) / spread)
        parameters, moments, value = step(parameters, moments, x, y.astype(np.float32))
        if index % 1000 == 999:
            seconds = time.monotonic() - begun
            print(f"step {index + 1}: unexplained {float(value):.3f}, {seconds:.0f} s")
    kernels = [np.asarray(kernel, np.float64) for kernel, _ in parameters]
    biases = [np.asarray(bias, np.float64) for _, bias in parameters]
    kernels[-1], biases[-1] = kernels[-1] * spread, biases[-1] * spread + middle
    blank = np.ones(len(model.names))
    weights = expression.Weights(
        reference, mean, deviation, tuple(kernels), tuple(biases), model.names, blank
    )
    faces = expression_faces.sample(model, rng, 20_000)  # new ones
    wanted = np.concatenate([faces.coefficients, faces.angles], axis=1)
    error = np.mean((expression.outputs(faces.landmarks, weights) - wanted) ** 2, axis=0)
    yaw, pitch = np.sqrt(error[-2:])
    print(f"yaw and pitch of new faces: {yaw:.1f} and {pitch:.1f} degrees off")
    explained = 1 - error[:-2] / faces.coefficients.var(axis=0)
    return weights._replace(reliability=np.clip(explained, 0, 1))


def main(config: Config) -> None:
    """Trains, writes and checks."""
    if config.steps:
        weights = fit(expression_faces.load(config.ict), config)
        files.write(config.dst, expression.packed(weights))
    weights = expression.load(config.dst)
    expression_faces.check(weights, config.data)


if __name__ == "__main__":
    launch(Config, main)
