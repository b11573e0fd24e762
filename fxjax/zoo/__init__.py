"""Models by name or folder: the package's own weights lie beside this file, one folder each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Sharding
from jax.typing import DTypeLike

from fxjax import checkpoint, files
from fxjax.nn.encoder import Encoder, SmallEncoder
from fxjax.nn.fader import Classifier, Fader, LiuJin
from fxjax.nn.generator import Statistics
from fxjax.nn.landmarks import Landmarks
from fxjax.nn.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from fxjax.nn.vgg16 import VGG16, Heads
from fxjax.sharding import keep_programs

CLASSES: dict[tuple[str, str], Callable[..., nnx.Module]] = {
    ("stylegan1", "generator"): StyleGAN1,
    ("stylegan1", "discriminator"): StyleGAN1Discriminator,
    ("stylegan2", "generator"): StyleGAN2,
    ("stylegan2", "discriminator"): StyleGAN2Discriminator,
    ("stylegan1", "encoder"): SmallEncoder,
    ("stylegan2", "encoder"): Encoder,  # or SmallEncoder, by its arguments
    ("encoder", "encoder"): SmallEncoder,
    ("stylegan1", "statistics"): Statistics,
    ("stylegan2", "statistics"): Statistics,
    ("stylegan1", "features"): VGG16,  # the feature network that was shipped with a generator
    ("stylegan2", "features"): VGG16,
    ("stylegan1", "landmarks"): Landmarks,
    ("stylegan2", "landmarks"): Landmarks,
    ("landmarks", "landmarks"): Landmarks,
    ("vgg16", "features"): VGG16,
    ("lpips", "heads"): Heads,
    ("fader", "autoencoder"): Fader,
    ("liu_jin", "autoencoder"): LiuJin,
    ("fader", "classifier"): Classifier,  # of expressions, trained beside it
    ("liu_jin", "classifier"): Classifier,
}


ENCODER = "encoder"
DEFAULT = "faces"
"""The stable name of the best generator that ships, with its features."""


def names() -> list[str]:
    """The models that come with the package."""
    return sorted(card.parent.name for card in _shelf().glob(f"*/{checkpoint.CARD}"))


def find(name_or_directory: epath.PathLike) -> epath.Path:
    """The folder of a shipped model, or the folder itself; FileNotFoundError for neither.

    Raises ValueError for a URL.
    """
    text = str(name_or_directory)
    folder = files.given(text)
    if folder.exists() or "/" in text or "\\" in text:
        return folder
    if text not in names():
        raise FileNotFoundError(
            f"no model {text!r}: neither a folder nor one that comes with fxjax "
            f"({', '.join(names()) or 'none does'})"
        )
    return _shelf() / text


def samples() -> dict[str, epath.Path]:
    """Faces of 256 px that the shipped generator drew, by name; of no real people."""
    folder = find("faces256") / "samples"
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


def holder(model: epath.PathLike, part: str) -> epath.PathLike:
    """Where features or landmarks are that go with a model: its own, or else the shipped ones."""
    return model if part in checkpoint.read_card(find(model))["parts"] else DEFAULT


def encoder_of(model: epath.PathLike, start: str, generator: Any) -> Any:
    """The encoder where a search for codes of `generator` shall start.

    `start` is "encoder", the model's own, or a folder with one, such as an export of its training;
    None if it is neither. Raises ValueError if there is none, or it is of another generator.
    """
    own = start == ENCODER
    if not own and not (files.given(start) / checkpoint.CARD).exists():
        return None
    place = model if own else start
    parts = checkpoint.read_card(find(place))["parts"]
    if ENCODER not in parts:
        raise ValueError(
            f"start={start}: {place} has no encoder, it has {', '.join(parts)}; converted e4e and "
            "pSp files have one, and experiments.train_encoder trains one"
        )
    shape = parts[ENCODER]["architecture"]
    wanted = {"rows": len(generator.rows), "dim": generator.dim}
    if any(shape.get(name, size) != size for name, size in wanted.items()):
        raise ValueError(
            f"start={start}: an encoder of {shape.get('rows')} rows of {shape.get('dim')}, but the "
            f"generator wants {wanted['rows']} of {wanted['dim']}"
        )
    return load(place, part=ENCODER)


def load(
    name_or_directory: epath.PathLike,
    *,
    part: str | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    sharding: Sharding | None = None,
) -> Any:
    """A model of the zoo by name, or of any model folder (local or gs://).

    `part` is "generator", "discriminator", "encoder", "features", "landmarks", "heads" (of LPIPS),
    "autoencoder" or "classifier"; by default the generator, or else the features, or else the
    first there is.
    `dtype` is what it computes in, `param_dtype` what its weights are kept in. Raises
    FileNotFoundError if there is no such model, ValueError if it is damaged or unknown. What is
    compiled from now on is kept on disk (`fxjax.sharding.keep_programs`).
    """
    keep_programs()
    folder = find(name_or_directory)
    card = checkpoint.read_card(folder)
    kind, parts = card["kind"], card["parts"]
    default = next((name for name in ("generator", "features") if name in parts), next(iter(parts)))
    chosen: str = default if part is None else part
    if chosen not in parts:
        raise ValueError(f"{folder} has no {chosen}; it has {', '.join(parts)}")
    if (kind, chosen) not in CLASSES:
        known = ", ".join(f"{part} of {kind}" for kind, part in CLASSES)
        raise ValueError(f"{folder} is a {chosen} of {kind!r}; this version knows {known}")
    channels = parts[chosen]["architecture"].get("channels", 3)
    if chosen == "generator" and channels != 3:
        raise ValueError(
            f"{folder}: its generator draws pictures of {channels} channels; wanted are 3 (RGB)"
        )
    make = CLASSES[kind, chosen]
    if make is Encoder and "cumulative" not in parts[chosen]["architecture"]:
        make = SmallEncoder
    return checkpoint.restore(
        folder,
        chosen,
        lambda architecture: make(
            **architecture, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0)
        ),
        sharding=sharding,
    )


def _shelf() -> epath.Path:
    return epath.Path(__file__).parent
