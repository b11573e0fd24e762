"""The same for the PyTorch re-implementation of StyleGAN2 and for the encoders built upon it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fxjax
from converters.references import Arrays, Result, Skip, Style
from fxjax.checkpoint import read_card
from fxjax.nn import generator as gen


class Rosinality2(Style):
    """StyleGAN2 of rosinality: one w for all rows unless it says so, the stored noise."""

    def wide(self, w: Any) -> np.ndarray:
        """One w per picture, for all rows."""
        return np.repeat(np.asarray(w)[:, None], len(self.generator.rows), axis=1)

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
            return run(self.encoder, self.inputs) + self.encoder.mean[...]
        if name == "codes_raw":
            return run(self.encoder, self.inputs)
        if name == "codes_raw_stage0":  # before the other heads were trained
            first = run(self.encoder, self.inputs[:1])[:, :1]
            return jnp.repeat(first, len(self.encoder.heads), axis=1)
        if name == "codes_raw_rows32to224":
            return run(self.encoder, self.inputs[:1, 32:224])
        if name == "img":  # through both networks
            codes = run(self.encoder, self.inputs) + self.encoder.mean[...]
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
def run(encoder: Any, inputs: jax.Array) -> jax.Array:
    """The codes of NHWC pictures, without the mean."""
    return encoder.offsets(inputs)


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """NCHW pictures at `side` px: means of blocks, or each pixel repeated."""
    size = images.shape[2]
    if size <= side:
        return images.repeat(side // size, axis=2).repeat(side // size, axis=3)
    block = size // side
    return images.reshape(*images.shape[:2], side, block, side, block).mean(axis=(3, 5))
