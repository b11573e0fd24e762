"""What a converted model makes of the arrays in a folder of references, by their names.

StyleGANs of the official code bases and of rosinality, encoders built on the latter, VGG16.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fxjax
from fxjax.checkpoint import read_card
from fxjax.images import to_uint8
from fxjax.nn import generator as gen
from fxjax.nn.layers import Noise
from fxjax.nn.vgg16 import BLOCKS

Arrays = Mapping[str, np.ndarray]
Result = np.ndarray | jax.Array


class Skip(Exception):
    """Why an array is not compared."""


class Style:
    """A style-based generator and its discriminator, at one size, and the reference arrays."""

    def __init__(self, directory: str, arrays: Arrays, kind: str):
        card = read_card(directory)
        self.kind, self.arrays, self.network = kind, arrays, card["source"]["network"]
        self.generator: Any = fxjax.load(directory)
        has = "discriminator" in card["parts"]
        self.discriminator: Any = fxjax.load(directory, part="discriminator") if has else None
        self.labels = arrays.get("labels", arrays.get("c"))

    @staticmethod
    @jax.jit
    def draw(generator: gen.Generator, codes: jax.Array) -> jax.Array:
        """One compiled synthesis for all references."""
        return gen.synthesize(generator, codes)

    def images(self, codes: np.ndarray, *, noise: bool = True) -> np.ndarray:
        """NCHW pictures of W+ codes."""
        generator = self.generator if noise else gen.without_noise(self.generator)
        return np.asarray(self.draw(generator, jnp.asarray(codes))).transpose(0, 3, 1, 2)

    def wide(self, w: Any) -> np.ndarray:
        """One w per picture, for all rows."""
        return np.repeat(np.asarray(w)[:, None], len(self.generator.rows), axis=1)

    def score(self, images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Discriminator scores of NCHW pictures, [batch, 1]."""
        if self.discriminator is None:
            raise Skip("the model has no discriminator")
        model = (
            self.discriminator.at(images.shape[2])
            if hasattr(self.discriminator, "at")
            else self.discriminator
        )
        given = None if labels is None or not labels.shape[-1] else jnp.asarray(labels)
        return np.asarray(
            jax.jit(type(model).__call__)(model, jnp.asarray(images.transpose(0, 2, 3, 1)), given)
        )[:, None]

    def codes(
        self, psi: float = 1.0, cutoff: int | None = None, count: int | None = None
    ) -> np.ndarray:
        """W+ codes of the reference's z."""
        if self.kind == "stylegan1-tf" and cutoff is None:
            psi = 1.0  # there, no cutoff switches truncation off
        z = jnp.asarray(self.arrays["z"][:count])
        labels = (
            None
            if self.labels is None or not self.labels.shape[-1]
            else jnp.asarray(self.labels[:count])
        )
        return np.asarray(gen.codes(self.generator, z, labels, psi=psi, cutoff=cutoff))

    def compute(self, name: str) -> Result:
        """What the model makes of the reference array `name`; Skip if it cannot say."""
        if not name.startswith("d_") and ("Graw" in name) != (self.network == "G"):
            raise Skip(f"other weights: the model is {self.network}")
        if name in ("dlatent_avg", "w_avg"):
            return self.generator.w_mean[...]
        if name == "w":
            return self.codes()[:, 0]
        if name in ("w_plus", "ws_psi1"):
            return self.codes()
        if name == "w_other_label":  # every label moved on by one class
            labels = np.roll(self.arrays["labels"], 1, axis=1)
            return self.generator.mapping(jnp.asarray(self.arrays["z"]), jnp.asarray(labels))
        if found := re.fullmatch(r"(?:w_plus_trunc|ws)_psi([\d.]+?)(?:_cutoff(\d+))?", name):
            return self.codes(float(found[1]), int(found[2]) if found[2] else None)
        if found := re.fullmatch(
            r"img_(G|Graw)_psi([\d.]+?)(?:_cutoff(\d+))?(_const|_none)?", name
        ):
            which, psi, cutoff, noise = found.groups()
            codes = self.codes(
                float(psi), int(cutoff) if cutoff else None, 1 if which == "Graw" else None
            )
            return self.images(codes, noise=noise != "_none")
        if name.startswith("img_uint8_nhwc_"):
            codes = self.arrays[name.removeprefix("img_uint8_nhwc_")]
            return to_uint8(self.images(codes).transpose(0, 2, 3, 1))
        if found := re.fullmatch(r"img_(\w+?(?:psi[\d.]+)?)(_zero_noise|_const|_none)?", name):
            codes = self.arrays.get(found[1])
            if codes is not None:
                return self.images(codes, noise=found[2] not in ("_zero_noise", "_none"))
        if name in ("d_scores_batch4", "d_logits_batch4"):
            batches = [v for n, v in self.arrays.items() if self.in_batch4(n)]
            images = np.concatenate(batches)[:4]
            labels = (
                None if self.labels is None else np.concatenate([self.labels] * len(batches))[:4]
            )
            return self.score(images, labels)
        if name.startswith(("d_scores_", "d_logits_")):
            return self.score(self.arrays[name.split("_", 2)[2]], self.labels)
        if name.startswith("act_"):
            return self.activation(name.removeprefix("act_"))
        raise Skip("not a name that this check knows")

    def in_batch4(self, name: str) -> bool:
        """Whether a reference is one of the three batches whose first four pictures are scored."""
        noise = "" if self.kind.endswith("-tf") else "_const"
        plain = (
            ("w_plus_random", "w_plus") if self.kind.endswith("-tf") else ("ws_random", "ws_psi1")
        )
        return name in [f"img_{p}{noise}" for p in plain] or bool(
            re.fullmatch(r"img_G_psi[\d.]+?(_cutoff8)?" + noise, name)
        )

    def activation(self, name: str) -> np.ndarray:
        """Features of the first random code after style modulation (1) or after a block (2)."""
        codes = jnp.asarray(
            self.arrays["w_plus_random" if "w_plus_random" in self.arrays else "ws_random"]
        )[:1]
        if found := re.fullmatch(r"(\d+)x\1_(Const|Conv0_up|Conv1|Conv)", name):
            level = int(found[1]).bit_length() - 3
            return _features(self.generator, codes, 2 * level + (found[2] in ("Conv", "Conv1")))
        if found := re.fullmatch(r"b(\d+)_(x|img)", name):
            level = int(found[1]).bit_length() - 3
            state = self.generator.start(1)
            for k in range(2 * level + 1):
                state = self.generator.rows[k](state, codes[:, k])
            if found[2] == "img":
                state = self.generator.rows[2 * level + 1](state, codes[:, 2 * level + 1])
            return np.asarray(state.rgb if found[2] == "img" else state.x).transpose(0, 3, 1, 2)
        raise Skip("not a name that this check knows")


class Rosinality(Style):
    """The PyTorch re-implementation: sizes by step, noise given, one w for all rows."""

    def at(self, step: int) -> Any:
        """The generator of 4 * 2**step px with the reference's noise."""
        try:
            generator = self.generator.at(4 << step)
        except ValueError as error:
            raise Skip(str(error)) from error
        layers = [generator.first, *(row.layer for row in generator.rows if row.layer is not None)]
        for k, layer in enumerate(layers):
            layer.noise = Noise(jnp.asarray(self.arrays[f"noise{k // 2}"])[:, 0])
        return generator

    def picture(self, step: int, codes: np.ndarray) -> np.ndarray:
        """NCHW pictures of W+ codes at 4 * 2**step px."""
        rows = 2 * (step + 1)
        return np.asarray(self.draw(self.at(step), jnp.asarray(codes[:, :rows]))).transpose(
            0, 3, 1, 2
        )

    def compute(self, name: str) -> Result:
        """See Style.compute."""
        unaveraged = name.endswith("generator_key")
        if not name.startswith("d_") and unaveraged != (self.network == "generator"):
            raise Skip(f"other weights: the model is {self.network}")
        if name in ("w", "w2"):
            z = self.arrays["z" if name == "w" else "z2"]
            return self.generator.mapping(jnp.asarray(z))
        if name == "mean_style":
            raise Skip("an input: the original averages other random z each time")
        if found := re.fullmatch(r"w_trunc([\d.]+)", name):
            mean = jnp.asarray(self.arrays["mean_style"][0])
            return gen.truncate(jnp.asarray(self.arrays["w"])[:, None], mean, float(found[1]))[:, 0]
        if found := re.fullmatch(r"d_step(\d+)", name):
            return self.score(self.arrays[f"img_step{found[1]}"], None)
        if found := re.fullmatch(r"act_progression(\d+)", name):
            level = int(found[1])
            codes = jnp.asarray(self.wide(self.arrays["w"]))[:1]
            generator = self.at(max(level, 1))
            for layer in [
                generator.first,
                *(r.layer for r in generator.rows if r.layer is not None),
            ]:
                layer.noise = Noise(layer.noise[...][:1])
            return _features(generator, codes, 2 * level + 1)
        if found := re.fullmatch(r"img_step(\d+)_mixing_(\d+)_(\d+)", name):
            step, first, last = map(int, found.groups())
            codes, other = (self.wide(self.arrays[w]) for w in ("w", "w2"))
            codes[:, 2 * first : 2 * last + 2] = other[:, 2 * first : 2 * last + 2]
            return self.picture(step, codes)
        if found := re.fullmatch(r"img_step(\d+)(?:_([a-z_]+)([\d.]*))?", name):
            return self.image_of(int(found[1]), found[2] or "", found[3] or "")
        raise Skip("not a name that this check knows")

    def image_of(self, step: int, variant: str, value: str) -> np.ndarray:
        """A picture plain, with truncation, with fade-in (alpha), or of the unaveraged weights."""
        codes = self.wide(self.arrays["w"])
        if variant in ("", "generator_key"):
            if variant:
                codes = self.wide(self.generator.mapping(jnp.asarray(self.arrays["z"])))
            return self.picture(step, codes)
        if variant == "trunc":
            return self.picture(step, self.wide(self.arrays[f"w_trunc{value}"]))
        if variant == "alpha":
            below = self.picture(step - 1, codes).repeat(2, axis=2).repeat(2, axis=3)
            return (1 - float(value)) * below + float(value) * self.picture(step, codes)
        raise Skip("not a name that this check knows")


class Vgg:
    """VGG16 features against the reference of the same preprocessing."""

    def __init__(self, directory: str, arrays: Arrays):
        self.model: Any = fxjax.load(directory)
        self.arrays = arrays
        picture = arrays["image_uint8_rgb_hwc"].astype(np.float32) / 127.5 - 1
        self.images = jnp.asarray(picture)[None]

    def compute(self, name: str) -> Result:
        """Features in the reference's layout: NCHW for torchvision, NHWC for Keras."""
        if name in ("input", "input_bgr"):
            out = self.model.preprocess(self.images)
        elif name in self.model.names:
            out = self.model(self.images, [name])[name]
        elif name.startswith("features."):
            own = _torch_layers()[int(name.split(".")[1])]
            out = self.model(self.images, [own])[own]
        elif name in ("avgpool", "logits"):
            raise Skip("the classifier is not converted")
        else:
            raise Skip("not a name that this check knows")
        return np.asarray(out) if self.model.bgr else np.asarray(out).transpose(0, 3, 1, 2)


def _torch_layers() -> list[str]:
    """This module's layer for each index of torchvision's `features`."""
    names = []
    for block, count in enumerate(BLOCKS, start=1):
        for i in range(1, count + 1):
            names += [f"block{block}_conv{i}_linear", f"block{block}_conv{i}"]
        names.append(f"block{block}_pool")
    return names


def _features(generator: Any, codes: jax.Array, row: int) -> np.ndarray:
    """StyleGAN1 features after the style of `row`, NCHW."""
    state = generator.start(codes.shape[0])
    for k in range(row):
        state = generator.rows[k](state, codes[:, k])
    return np.asarray(generator.rows[row].modulate(state, codes[:, row])).transpose(0, 3, 1, 2)


class Rosinality2(Style):
    """StyleGAN2 of rosinality: one w for all rows unless it says so, the stored noise."""

    def mapped(self, name: str = "z") -> np.ndarray:
        """The w of a reference's z."""
        return np.asarray(self.generator.mapping(jnp.asarray(self.arrays[name])))

    def truncated(self, psi: float) -> np.ndarray:
        """The reference's w, moved towards the reference's mean."""
        mean = self.arrays.get("latent_avg", self.arrays.get("mean_latent"))
        if mean is None:
            raise Skip("no mean of w to truncate with")
        w = jnp.asarray(self.arrays["w"])[:, None]
        return np.asarray(gen.truncate(w, jnp.asarray(mean.reshape(-1)), psi))[:, 0]

    def compute(self, name: str) -> Result:
        """See Style.compute."""
        if not name.startswith("d_") and ("img_g_" in name) != (self.network == "g"):
            raise Skip(f"other weights: the model is {self.network}")
        if name == "latent_avg":
            return self.generator.w_mean[...]
        if name == "mean_latent":
            raise Skip("an input: the original averages other random z each time")
        if name in ("w", "w2"):
            return self.mapped("z" if name == "w" else "z2")
        if found := re.fullmatch(r"w_trunc([\d.]+)", name):
            return self.truncated(float(found[1]))
        if found := re.fullmatch(r"img_(?:g_)?(.+?)(_zero_noise)?", name):
            codes = self.codes_of(found[1])
            codes = codes[:1] if self.network == "g" else codes
            return self.images(codes, noise=not found[2])
        if found := re.fullmatch(r"d_scores_(batch4|batch1|img_w_plus_random)", name):
            images = self.arrays["img_w_plus_random"]
            if found[1] == "batch4":
                images = np.concatenate([images, self.arrays["img_z"]])
            return self.score(images[:1] if found[1] == "batch1" else images[:4], None)
        if found := re.fullmatch(r"act_(conv1|convs\.\d+)|skip_(\d+)", name):
            return self.state(found[1], found[2])
        raise Skip("not a name that this check knows")

    def codes_of(self, name: str) -> np.ndarray:
        """W+ codes of what a picture's name says it was drawn from."""
        if name == "w_plus_random":
            return self.arrays[name]
        if name in ("z", "input_code_z"):
            return self.wide(self.mapped())
        if name == "w":
            return self.wide(self.arrays["w"])
        if found := re.fullmatch(r"z_trunc([\d.]+)", name):
            return self.wide(self.truncated(float(found[1])))
        if found := re.fullmatch(r"mix_z_z2_inject(\d+)", name):
            codes, second = self.wide(self.mapped()), self.wide(self.mapped("z2"))
            codes[:, int(found[1]) :] = second[:, int(found[1]) :]
            return codes
        raise Skip("not a name that this check knows")

    def state(self, conv: str | None, size: str | None) -> np.ndarray:
        """Features behind a convolution, or the picture so far at a size, of the first code."""
        codes = jnp.asarray(self.arrays["w_plus_random"])[:1]
        state = self.generator.start(1)
        if size is not None:
            last = 2 * (int(size).bit_length() - 3) + 1
        else:
            last = 0 if conv == "conv1" else int(str(conv).split(".")[1]) + 1
        for k in range(last + 1):
            state = self.generator.rows[k](state, codes[:, k])
        return np.asarray(state.x if size is None else state.rgb).transpose(0, 3, 1, 2)


class Encoders(Rosinality2):
    """E4e and pSp: an encoder, and the decoder it was trained with."""

    def __init__(self, directory: str, arrays: Arrays, kind: str):
        super().__init__(directory, arrays, kind)
        if "encoder" not in read_card(directory)["parts"]:
            raise ValueError(f"{directory} has no encoder, which {kind} references are of")
        self.encoder: Any = fxjax.load(directory, part="encoder")
        self.inputs = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))

    def compute(self, name: str) -> Result:
        """See Style.compute."""
        if name == "latent_avg":
            return self.encoder.mean[...]
        if name == "codes":
            return _encode(self.encoder, self.inputs) + self.encoder.mean[...]
        if name == "codes_raw":
            return _encode(self.encoder, self.inputs)
        if name == "codes_raw_stage0":  # before the other heads were trained
            first = _encode(self.encoder, self.inputs[:1])[:, :1]
            return jnp.repeat(first, len(self.encoder.heads), axis=1)
        if name == "codes_raw_rows32to224":
            return _encode(self.encoder, self.inputs[:1, 32:224])
        if name == "img":  # through both networks
            codes = _encode(self.encoder, self.inputs) + self.encoder.mean[...]
            return self.images(np.asarray(codes))
        if name == "img_face_pool":
            return pooled(self.images(self.arrays["codes"][:1]), 256)
        if name == "img_input_code_z":
            return self.images(self.codes_of("input_code_z"))
        if found := re.fullmatch(r"act_(body\.0|c1|c2|c3|p2|p1)", name):
            return np.asarray(self.features()[found[1]]).transpose(0, 3, 1, 2)
        if name == "w_discriminator_scores":
            raise Skip("the discriminator of codes is not converted")
        raise Skip("not a name that this check knows")

    def features(self) -> dict[str, jax.Array]:
        """The first picture's maps by the references' names."""
        first = self.inputs[:1]
        maps: Sequence[jax.Array] = jax.jit(type(self.encoder).maps)(self.encoder, first)
        found = dict(zip(("c1", "c2", "c3", "p2", "p1"), maps, strict=True))
        return found | {
            "body.0": self.encoder.units[0](self.encoder.bend(self.encoder.entry(first)))
        }


@jax.jit
def _encode(encoder: Any, inputs: jax.Array) -> jax.Array:
    """The codes of NHWC pictures, without the mean."""
    return encoder.offsets(inputs)


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """NCHW pictures at `side` px: means of blocks, or each pixel repeated."""
    size = images.shape[2]
    if size <= side:
        return images.repeat(side // size, axis=2).repeat(side // size, axis=3)
    block = size // side
    return images.reshape(*images.shape[:2], side, block, side, block).mean(axis=(3, 5))
