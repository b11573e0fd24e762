"""Training of the label-driven models, Fader Networks and Liu & Jin's: the compiled step.

The latent discriminator learns to read the expression from the latent; the autoencoder learns to
rebuild its picture from latent and label, and to make the discriminator name a wrong expression
(arXiv:1706.00409, section 3). The weight of that grows from 0 over the first part of the run.
Everything random follows from the seed and the count of pictures seen, so a run that goes on from
a saved state is the run that was never stopped.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from fxjax import checkpoint, images
from fxjax.nn import fader
from fxjax.nn.fader import (
    BatchNorm,
    Classifier,
    Fader,
    LatentDiscriminator,
    LiuJin,
    Moments,
    Patches,
)
from fxjax.types import Features

MODELS: dict[str, type[Fader]] = {"liu_jin": LiuJin, "fader": Fader}
FOCUS = 20.0  # on where a known answer differs from the picture: what the expression changes
STAY = 0.99  # most of batch norm's averages that stays with a step

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """What is trained and how; two runs with equal settings and data are equal."""

    model: Annotated[Literal["liu_jin", "fader"], "which autoencoder"] = "liu_jin"
    size: Annotated[int, "side of the pictures, a power of two"] = 64
    zoom: Annotated[int, "2: from the eyes to the chin, at twice the scale; 1: the whole face"] = 1
    channels: Annotated[int, "3: colour, 1: grey"] = 3
    expressions: Annotated[str, "which, comma-separated; empty: all that the table has"] = ""
    base: Annotated[int, "channels after the first layer; they double with each"] = 32
    most: Annotated[int, "most channels"] = 512
    dtype: Annotated[
        Literal["float32", "bfloat16"], "of activations; weights, norms and losses are float32"
    ] = "float32"
    batch: Annotated[int, "pictures per step, over all devices"] = 32
    kimg: Annotated[float, "thousands of pictures to train on"] = 400.0
    rate: Annotated[float, "Adam's rate"] = 0.0005
    fall: Annotated[float, "share of the run in whose end the rate falls to 0"] = 0.2
    adversary: Annotated[float, "weight of the latent loss when it has grown"] = 0.03
    grow: Annotated[float, "share of the run in which it grows from 0"] = 0.32
    dropout: Annotated[float, "of the latent discriminator"] = 0.3
    paired: Annotated[float, "weight of known answers: a face's pictures of other expressions"] = (
        0.0
    )
    sharpness: Annotated[float, "weight of a discriminator of pictures; 0: there is none"] = 0.0
    classifier: Annotated[bool, "also train a classifier, to measure with"] = True
    mirror: Annotated[bool, "show half of the pictures mirrored"] = True
    seed: Annotated[int, "of weights, data order and all else"] = 0

    def names(self) -> tuple[str, ...]:
        """The expressions, in the order of the labels."""
        return tuple(name for name in self.expressions.split(",") if name)

    def autoencoder(self) -> dict[str, Any]:
        """The autoencoder's architecture: constructor arguments that JSON can hold."""
        return self._layers() | {"zoom": self.zoom}

    def classes(self) -> dict[str, Any]:
        """The classifier's architecture."""
        narrow = {"base": max(1, self.base // 2), "most": max(1, self.most // 4)}
        return self._layers() | narrow

    def _layers(self) -> dict[str, Any]:
        wanted = ("size", "channels", "base", "most")
        return {"expressions": self.names()} | {key: getattr(self, key) for key in wanted}


class TrainState(NamedTuple):
    """All that changes in training, by the networks' names: encoder, decoder, latent, and others.

    Others are `classifier` and `patches`, where the settings want them.
    """

    networks: dict[str, Any]
    moments: dict[str, PyTree]
    images: Int[Array, ""]
    broken: Int[Array, ""]  # pictures seen when a loss first was not finite; -1: never


class Data(NamedTuple):
    """The training pictures on every device, their expressions, and how often each is shown.

    `partners` are the numbers of the pictures that differ in the expression alone, -1 for none.
    """

    pictures: UInt8[Array, "count size size channels"]
    classes: Int[Array, " count"]
    weights: Float[Array, " count"]
    partners: Int[Array, "count expressions"]


Step = Callable[[TrainState, Data], tuple[TrainState, Metrics]]


@functools.partial(jax.jit, static_argnums=0)
def fresh(settings: LabelSettings) -> TrainState:
    """The state before the first step."""
    dtype, names = jnp.dtype(settings.dtype), settings.names()
    rngs = [nnx.Rngs(params=4 * settings.seed + k) for k in range(4)]
    auto = MODELS[settings.model](**settings.autoencoder(), dtype=dtype, rngs=rngs[0])
    networks: dict[str, Any] = {
        "encoder": auto.encoder,
        "decoder": auto.decoder,
        "latent": LatentDiscriminator(
            settings.size, names, kernel=auto.kernel, base=settings.base, most=settings.most,
            dropout=settings.dropout, dtype=dtype, rngs=rngs[1],
        ),
    }  # fmt: skip
    if settings.classifier:
        networks["classifier"] = Classifier(**settings.classes(), dtype=dtype, rngs=rngs[2])
    if settings.sharpness:
        networks["patches"] = Patches(
            settings.channels, base=settings.base, dtype=dtype, rngs=rngs[3]
        )
    return TrainState(
        networks,
        {name: optimizer().init(network) for name, network in networks.items()},
        jnp.zeros((), jnp.int32),
        jnp.full((), -1, jnp.int32),
    )


def grown(settings: LabelSettings, model: Fader) -> TrainState:
    """The state before the first step, with the layers of a trained model that fit.

    They are counted from the latent. A model of half the size, whose --base is twice as large,
    gives all but the outermost, which are new. Raises ValueError for other labels, colours or
    zooms, and if no kernel fits.
    """
    state, taken = fresh(settings), 0
    wanted = settings.names(), settings.channels, settings.zoom, MODELS[settings.model]
    given = tuple(model.expressions), model.channels, model.zoom, type(model)
    deeper = len(state.networks["encoder"].convs) - len(model.encoder.convs)
    networks = dict(state.networks)
    for part, shift in (("encoder", deeper), ("decoder", 0)):
        arrays = checkpoint.flatten(networks[part])
        for name, array in checkpoint.flatten(getattr(model, part)).items():
            kind, number, end = name.split("/")
            place = f"{kind}/{int(number) + shift}/{end}"
            if place in arrays and arrays[place].shape == array.shape:
                arrays[place] = array
                taken += end == "kernel"
        networks[part] = checkpoint.fill(networks[part], arrays)
    if wanted != given or not taken:
        raise ValueError(
            f"cannot start from a {type(model).__name__} of {model.size} px, zoom {model.zoom}, "
            f"{model.channels} channels, for {', '.join(model.expressions)}: {taken} of its "
            "kernels fit; want the same model, --zoom, --channels and expressions, and twice "
            "--base at half --size"
        )
    return state._replace(networks=networks)


def optimizer() -> optax.GradientTransformation:
    """Adam as in Fader Networks, gradients cut at a norm of 5, with a rate of 1."""
    return optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam(b1=0.5))


def rate(settings: LabelSettings, images: Int[Array, ""]) -> Float[Array, ""]:
    """The rate: constant, then falling linearly to 0 over the last `fall` of the run."""
    total = settings.kimg * 1000
    left = (total - images.astype(jnp.float32)) / max(settings.fall * total, 1.0)
    return settings.rate * jnp.clip(left, 0.0, 1.0)


def adversary(settings: LabelSettings, images: Int[Array, ""]) -> Float[Array, ""]:
    """The latent loss's weight: from 0 linearly, constant after the first `grow` of the run."""
    whole = max(settings.grow * settings.kimg * 1000, 1.0)
    return settings.adversary * jnp.clip(images.astype(jnp.float32) / whole, 0.0, 1.0)


def compiled(settings: LabelSettings, mesh: Mesh, state: TrainState, data: Data) -> Step:
    """Compiles the step ahead of time: it consumes the state and returns the next, and metrics.

    The batch is split over the mesh, the state is on every device. Raises ValueError if the batch
    does not divide.
    """
    if settings.batch % mesh.size:
        raise ValueError(
            f"a batch of {settings.batch} cannot be split over {mesh.size} devices; choose a "
            f"multiple of {mesh.size}"
        )
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("batch"))
    jitted = jax.jit(
        functools.partial(train_step, settings, split),
        donate_argnums=0,
        out_shardings=(everywhere, everywhere),
    )
    return jitted.lower(state, data).compile()


def train_step(
    settings: LabelSettings, split: NamedSharding, state: TrainState, data: Data
) -> tuple[TrainState, Metrics]:
    """Moves the latent discriminator, then the autoencoder against it, then the others."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.images)
    shown, dropped, other = jax.random.split(key, 3)
    chosen, mirrored = _chosen(settings, split, shown, data)
    real, classes = _pictures(data, chosen, mirrored), data.classes[chosen]
    count = len(settings.names())
    labels = jax.nn.one_hot(classes, count)
    wrong = (classes + jax.random.randint(other, classes.shape, 1, max(count, 2))) % count
    partners = data.partners[chosen, wrong]
    networks, slopes, metrics = state.networks, {}, {}
    statistics: dict[str, Moments] = {}

    def encode(encoder):
        found: Moments = []
        return encoder(real, found), found

    latent, pull_back, statistics["encoder"] = jax.vjp(encode, networks["encoder"], has_aux=True)

    def read(judge):
        found: Moments = []
        logits = judge(jax.lax.stop_gradient(latent), found, dropped)
        return cross_entropy(logits, classes), (found, accuracy(logits, classes))

    (loss, (statistics["latent"], hit)), slope = jax.value_and_grad(read, has_aux=True)(
        networks["latent"]
    )
    metrics |= {"latent": loss, "leak": hit}
    speed = rate(settings, state.images)
    judge, moments = moved(networks["latent"], slope, state.moments["latent"], speed)
    ahead = {"latent": (judge, moments)}
    weight = adversary(settings, state.images)

    def rebuild(decoder, latent):
        found: Moments = []
        made = decoder(latent, labels, found)
        parts = {"reconstruction": jnp.mean(jnp.square(made - real))}
        parts["fooling"] = cross_entropy(judge(latent, []), wrong)
        total = parts["reconstruction"] + weight * parts["fooling"]
        changed = made
        if settings.sharpness or settings.paired:
            changed = decoder(latent, jax.nn.one_hot(wrong, count), [])
        if settings.paired:
            known = (partners >= 0).astype(jnp.float32)
            answers = _pictures(data, jnp.maximum(partners, 0), mirrored)
            differ = jnp.mean(jnp.abs(answers - real), axis=-1, keepdims=True)
            errors = (1 + FOCUS * differ) * jnp.abs(changed - answers)
            errors = jnp.mean(errors, axis=(1, 2, 3))
            parts["paired"] = jnp.sum(known * errors) / jnp.maximum(jnp.sum(known), 1)
            total += settings.paired * parts["paired"]
        if settings.sharpness:
            parts["sharp"] = jnp.mean(jax.nn.softplus(-networks["patches"](changed)))
            total += settings.sharpness * parts["sharp"]
        return total, (found, parts, changed)

    (loss, (found, parts, changed)), (slopes["decoder"], back) = jax.value_and_grad(
        rebuild, argnums=(0, 1), has_aux=True
    )(networks["decoder"], latent)
    slopes["encoder"] = pull_back(back)[0]
    statistics["decoder"] = found
    metrics |= {"loss": loss, **parts, "weight": weight, "rate": speed}

    if settings.classifier:

        def classify(classifier):
            found: Moments = []
            logits = classifier(real, found)
            return cross_entropy(logits, classes), (found, accuracy(logits, classes))

        (_, (statistics["classifier"], metrics["named"])), slopes["classifier"] = (
            jax.value_and_grad(classify, has_aux=True)(networks["classifier"])
        )
    if settings.sharpness:

        def tell(patches):
            both = patches(jnp.concatenate([real, jax.lax.stop_gradient(changed)]))
            genuine, made = jnp.split(both, 2)
            return jnp.mean(jax.nn.softplus(-genuine)) + jnp.mean(jax.nn.softplus(made))

        metrics["patches"], slopes["patches"] = jax.value_and_grad(tell)(networks["patches"])

    results = ahead | {
        name: moved(networks[name], slope, state.moments[name], speed)
        for name, slope in slopes.items()
    }
    seen = state.images + settings.batch
    stay = jnp.minimum(STAY, state.images / (state.images + 10.0 * settings.batch))
    for name, found in statistics.items():
        for norm, (mean, square) in zip(norms(results[name][0]), found, strict=True):
            norm.mean[...] += (1 - stay) * (mean - norm.mean[...])
            norm.square[...] += (1 - stay) * (square - norm.square[...])
    healthy = jnp.isfinite(loss) & jnp.isfinite(metrics["latent"])
    broken = jnp.where(healthy | (state.broken >= 0), state.broken, seen)
    metrics |= {"images": seen.astype(jnp.float32), "broken": broken.astype(jnp.float32)}
    return TrainState(
        {name: results[name][0] for name in networks},
        {name: results[name][1] for name in networks},
        seen,
        broken,
    ), {name: value.astype(jnp.float32) for name, value in metrics.items()}


def cross_entropy(logits: fader.Logits, classes: Int[Array, " batch"]) -> Float[Array, ""]:
    """Mean of minus the log of what is given to the right class."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=1)
    return -jnp.mean(chosen)


def accuracy(logits: fader.Logits, classes: Int[Array, " batch"]) -> Float[Array, ""]:
    """Share of the rows whose largest logit is the right class's."""
    return jnp.mean((jnp.argmax(logits, axis=1) == classes).astype(jnp.float32))


def autoencoder(settings: LabelSettings, state: TrainState) -> Fader:
    """The trained autoencoder, to be called with pictures and labels."""
    flat = {
        f"{part}/{name}": array
        for part in ("encoder", "decoder")
        for name, array in checkpoint.flatten(state.networks[part]).items()
    }
    cls, dtype = MODELS[settings.model], jnp.dtype(settings.dtype)
    made = nnx.eval_shape(lambda: cls(**settings.autoencoder(), dtype=dtype, rngs=nnx.Rngs(0)))
    return checkpoint.fill(made, flat)


def norms(network: nnx.Module) -> list[BatchNorm]:
    """Batch norms in the order of their use: those of an encoder inside are a network's only."""
    holder: Any = network.encoder if isinstance(network, Classifier) else network
    return list(holder.norms)


def moved(
    network: Any, slopes: PyTree, moments: PyTree, rate: Float[Array, ""]
) -> tuple[Any, PyTree]:
    """A network after a step of Adam. What is not trained has slopes of 0 and stays."""
    updates, moments = optimizer().update(slopes, moments)
    return jax.tree.map(lambda x, step: x - rate * step, network, updates), moments


def _chosen(
    settings: LabelSettings, split: NamedSharding, key: Array, data: Data
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """Numbers of pictures drawn by weight, and which of them are mirrored: about half."""
    order, mirror = jax.random.split(key)
    share = data.weights / jnp.sum(data.weights)
    chosen = jax.random.choice(order, share.shape[0], (settings.batch,), p=share)
    mirrored = jax.random.bernoulli(mirror, 0.5, (settings.batch,)) & settings.mirror
    return jax.lax.with_sharding_constraint(chosen, split), mirrored


def _pictures(
    data: Data, chosen: Int[Array, " batch"], mirrored: Bool[Array, " batch"]
) -> Features:
    real = images.from_uint8(data.pictures[chosen])
    return jnp.where(mirrored[:, None, None, None], real[:, :, ::-1], real)
