"""Pivotal tuning: a copy of the generator's weights for one picture (arXiv:2106.05744).

The code that inversion found stays; a few hundred Adam steps move the synthesis weights until it
draws the target better, which recovers what no code can say (identity, moles, glasses). The mapping
and the mean w stay, so the codes of other faces keep their meaning. Only the differences of the
weights are kept, in half precision.
"""

import dataclasses
import functools
import io
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fxjax import files
from fxjax.codes import invert
from fxjax.losses import Embedding, Loss
from fxjax.nn.generator import Generator
from fxjax.nn.layers import update_scales
from fxjax.types import Code, Codes, Images

Module = TypeVar("Module", bound=nnx.Module)

TUNED = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("mapping")))
"""The variables that move."""

ADAM = optax.scale_by_adam()
PART = 25  # steps in one call of a program
PARTS = {"cpu": 1}  # there a loop within the program takes half as long again


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to tune. Hashable: a change compiles anew.

    `rate` is Adam's, before equalising (the paper's). `locality` weighs the loss between what the
    tuned and the original weights draw at a code `reach` away from the pivot towards a random one,
    drawn anew in every step: it keeps other faces as they were (the paper's is 0.1, where used).
    """

    steps: int = 350
    rate: float = 3e-4
    locality: float = 0.0
    reach: float = 30.0
    remat: bool = False


class Tuning(NamedTuple):
    """What to add to the weights by name, and the loss before each step."""

    differences: dict[str, Array]
    losses: Float[Array, "*batch steps"]


class Place(NamedTuple):
    """Where the tunings are: moves, Adam's moments, steps done, whether a NaN stopped them.

    The moves are what is added to all weights, as these would be stored at the equalised learning
    rate, one after another: as one array, Adam is a few programs to compile and not hundreds.
    """

    moves: Float[Array, "batch weights"]
    moments: Any
    step: Int[Array, " batch"]
    stopped: Bool[Array, " batch"]


def tune(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    codes: Codes,
    settings: Settings,
    *,
    noise: Sequence[Array | np.ndarray] | None = None,
    mesh: Mesh | None = None,
    told: Callable[[float], None] | None = None,
) -> Tuning:
    """Tunes the weights for each code to draw its goal (what the loss embeds of a target).

    One picture after another, and with a mesh one on each device at a time: weights that differ
    within a batch would make its convolutions grouped ones, which are slow. Each needs four times
    the generator's weights in memory. `noise` are the pictures' own noise images. A picture that
    meets a NaN keeps the weights it had before. `told` is given the share that is done.
    """
    width, inputs, parts = 1 if mesh is None else mesh.size, (goal, codes, noise), []
    one = dataclasses.replace(settings, steps=1)  # how many there are makes no other program
    for first in range(0, len(codes), width):
        some = inputs
        if len(codes) > width:
            some = jax.tree.map(operator.itemgetter(slice(first, first + width)), inputs)
        place, curves = _begin(generator, some[1], mesh=mesh), []
        while (done := sum(curve.shape[1] for curve in curves)) < settings.steps:
            count = min(PARTS.get(jax.default_backend(), PART), settings.steps - done)
            place, curve = advance(generator, loss, *some, place, one, count, mesh=mesh)
            curves.append(curve)
            if told is not None:
                jax.block_until_ready(curve)
                told((first + width * (done + count) / settings.steps) / len(codes))
        losses = jnp.concatenate([jnp.zeros((width, 0)), *curves], axis=1)
        parts.append(Tuning(_end(generator, place, mesh=mesh), losses))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


@functools.partial(jax.jit, static_argnames=("mesh",))
def _begin(generator: Generator, codes: Codes, *, mesh: Mesh | None) -> Place:
    def one(generator: Generator, code: Code) -> Place:
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(generator, TUNED)))
        moves = jnp.zeros((count,), jnp.float32)
        return Place(moves, ADAM.init(moves), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    return _each(one, mesh, (generator,), (codes,))


@functools.partial(
    jax.jit, static_argnames=("settings", "count", "mesh"), donate_argnames=("place",)
)
def advance(
    generator: Generator,
    loss: Loss,
    goal: Embedding,
    codes: Codes,
    noise: Sequence[Array | np.ndarray] | None,
    place: Place,
    settings: Settings,
    count: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[Place, Float[Array, "batch count"]]:
    """Some steps more of one picture, or of one on each device, and the losses before them."""
    one = functools.partial(_advance, settings=settings, count=count)
    return _each(one, mesh, (generator, loss), (goal, codes, noise, place))


def _advance(
    original: Any,
    loss: Loss,
    goal: Embedding,
    code: Code,
    noise: Sequence[Array | np.ndarray] | None,
    place: Place,
    *,
    settings: Settings,
    count: int,
) -> tuple[Place, Float[Array, " count"]]:
    goal = jax.tree.map(lambda a: a[None], goal)
    if noise is not None:
        original = invert.with_noise(original, noise)
    graph, weights, rest = nnx.split(original, TUNED, ...)

    def draw(generator: Generator, code: Code) -> Images:
        return invert.draw(generator, code[None], remat=settings.remat)

    def value_of(parts: list[Array], step: Array) -> Float[Array, ""]:
        tuned = nnx.merge(graph, _moved(weights, _added(original, parts)), rest)
        value = loss.distance(loss.embed(draw(tuned, code)), goal)[0]
        if settings.locality:
            near = _near(original, code, step, settings.reach)
            kept = loss.embed(draw(original, near))
            moved = loss.distance(loss.embed(draw(tuned, near)), kept)[0]
            value = value + settings.locality * moved
        return value

    def step(place: Place, _: None) -> tuple[Place, Float[Array, ""]]:
        parts = _split(original, place.moves)
        value, slopes = jax.value_and_grad(value_of)(parts, place.step)
        slope = jnp.concatenate([each.ravel() for each in slopes])
        steps, moments = ADAM.update(slope, place.moments)
        moves = place.moves - settings.rate * jnp.asarray(steps)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(moves))
        new = Place(moves, moments, place.step + 1, place.stopped | ~finite)
        old = new._replace(moves=place.moves, moments=place.moments)
        return jax.tree.map(lambda a, b: jnp.where(new.stopped, a, b), old, new), value

    if count == 1:  # .44 s at 128 px, where a scan of one takes .72 (a CPU of two cores)
        place, value = step(place, None)
        return place, value[None]
    return jax.lax.scan(step, place, length=count)


@functools.partial(jax.jit, static_argnames=("mesh",))
def _end(generator: Generator, place: Place, *, mesh: Mesh | None) -> dict[str, Array]:
    def one(generator: Generator, place: Place) -> dict[str, Array]:
        added = _added(generator, _split(generator, place.moves))
        return {name: value.astype(jnp.float16) for name, value in added.items()}

    return _each(one, mesh, (generator,), (place,))


@functools.partial(jax.jit, static_argnames=("mesh",))
def pictures(
    generator: Generator,
    codes: Codes,
    differences: Mapping[str, Array],
    *,
    noise: Sequence[Array | np.ndarray] | None = None,
    mesh: Mesh | None = None,
) -> Images:
    """What the tuned weights draw: by the differences as they are kept, so anyone can again.

    With a `mesh` one picture on each device; ValueError for another number of them.
    """
    if mesh is not None and len(codes) != mesh.size:
        raise ValueError(f"{len(codes)} codes on {mesh.size} devices: each draws one")

    def one(generator: Any, code: Code, noise: Any, differences: Any) -> Any:
        if noise is not None:
            generator = invert.with_noise(generator, noise)
        return invert.draw(_applied(generator, differences), code[None], remat=False)[0]

    if mesh is None and len(codes) > 1:
        split = (codes, noise, differences)
        return jax.lax.map(lambda each: one(generator, *each), split)
    return _each(one, mesh, (generator,), (codes, noise, differences))


def _each(one: Callable[..., Any], mesh: Mesh | None, whole: Any, split: Any) -> Any:
    """`one` of each picture, which are in `split`: of the only one, or of one on each device."""

    def lane(whole: Any, split: Any) -> Any:
        found = one(*whole, *jax.tree.map(lambda a: a[0], split))
        return jax.tree.map(lambda a: a[None], found)

    if mesh is None:
        return lane(whole, split)
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("batch")), "check_vma": False}
    lanes = jax.shard_map(lane, mesh=mesh, out_specs=PartitionSpec("batch"), **specs)
    return lanes(whole, split)


def _near(generator: Generator, code: Code, step: Array, reach: float) -> Code:
    """A code `reach` away from the pivot, towards a random w (equation 5 of the paper)."""
    key = jax.random.fold_in(jax.random.key(0), step)
    labels = jnp.zeros((1, generator.labels)) if generator.labels else None
    w = generator.mapping(jax.random.normal(key, (1, generator.latent)), labels)
    way = w - code
    return code + reach * way / (jnp.linalg.norm(way) + 1e-8)


def _split(generator: Generator, moves: Float[Array, " weights"]) -> list[Array]:
    """The moves of each weight."""
    shapes = [value.shape for _, value in _named(nnx.state(generator, TUNED))]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = jnp.split(moves, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _added(generator: Any, parts: Sequence[Array]) -> dict[str, Array]:
    """What is to be added to each weight."""
    scales = _named(nnx.state(update_scales(generator, 0.0), TUNED))
    return {name: scale * part for (name, scale), part in zip(scales, parts, strict=True)}


def _moved(weights: Any, differences: Mapping[str, np.ndarray | Array]) -> Any:
    """The weights with what is added to them, as precise as they were."""

    def moved(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        old = variable.get_value()
        new = old.astype(jnp.float32) + differences["/".join(map(str, path))].astype(jnp.float32)
        return variable.replace(new.astype(old.dtype))

    return nnx.map_state(moved, weights)


def _named(state: Any) -> list[tuple[str, Array]]:
    return [
        ("/".join(map(str, path)), variable.get_value())
        for path, variable in nnx.to_flat_state(state)
    ]


def apply(generator: Module, differences: Mapping[str, np.ndarray | Array]) -> Module:
    """The generator with these differences added to its weights.

    Raises ValueError unless they are exactly those of all its synthesis weights.
    """
    wanted = {name: value.shape for name, value in _named(nnx.state(generator, TUNED))}
    given = {name: array.shape for name, array in differences.items()}
    if wanted != given:
        odd = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
        raise ValueError(
            f"the differences are not of this generator's weights: {len(odd)} do not fit, "
            f"such as {odd[0]}"
        )

    return _applied(generator, dict(differences))


@jax.jit
def _applied(generator: Module, differences: Mapping[str, Array]) -> Module:
    graph, weights, rest = nnx.split(generator, TUNED, ...)
    return nnx.merge(graph, _moved(weights, differences), rest)


def save(
    path: epath.PathLike,
    differences: Mapping[str, np.ndarray],
    code: Float[np.ndarray, "rows dim"],
    generator_sha256: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes one picture's differences, its pivot, the model they belong to, and any facts (JSON).

    The file is an .npz, all or nothing; 1.4 bytes for each weight, measured.
    """
    meta = json.dumps({"generator_sha256": generator_sha256, "facts": dict(facts)})
    arrays: dict[str, Any] = {f"differences/{name}": array for name, array in differences.items()}
    arrays = {"ws": code, "meta": np.array(meta)} | arrays
    files.write(path, files.npz(arrays, compressed=True))


class Tuned(NamedTuple):
    """What `save` wrote."""

    differences: dict[str, Float[np.ndarray, "*_"]]
    code: Float[np.ndarray, "rows dim"]
    generator_sha256: str
    facts: dict[str, Any]


def load(path: epath.PathLike) -> Tuned:
    """Reads what `save` wrote. Raises FileNotFoundError, or ValueError if it is something else."""
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no tuned weights at {source}")
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as arrays:
            meta = json.loads(str(arrays["meta"]))
            differences = {
                name.removeprefix("differences/"): arrays[name]
                for name in arrays.files
                if name.startswith("differences/")
            }
            return Tuned(differences, arrays["ws"], meta["generator_sha256"], meta["facts"])
    except Exception as error:  # zip, numpy and JSON have a dozen kinds of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source} holds no tuned weights: {reason}") from None


def tuned(generator: Module, path: epath.PathLike, *, sha256: str | None = None) -> Module:
    """The generator with the weights of a file that `save` wrote.

    `sha256` is that of the generator's part in its model.json; ValueError if the file was made
    with another one, or does not fit.
    """
    found = load(path)
    if sha256 is not None and sha256 != found.generator_sha256:
        raise ValueError(
            f"{path} was made with generator {found.generator_sha256[:12]}, not {sha256[:12]}"
        )
    return apply(generator, found.differences)
