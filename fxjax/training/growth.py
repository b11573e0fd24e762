"""Networks of twice the size that first do what the smaller ones did (arXiv:1710.10196, section 2).

Not faded in as there: a skip generator's new layers begin at zero, and the discriminator's begin as
the halving of the picture, so nothing that was learned is lost at the first step.
"""

import jax.numpy as jnp

from fxjax import checkpoint
from fxjax.nn.stylegan2 import StyleGAN2, StyleGAN2Discriminator

SLOPES = 1.2  # leaky(x) - leaky(-x) = 1.2 x: a pair of channels carries a value through unbent
ROOT2 = 2**0.5
PAIRS = 6  # channels that carry red, green and blue


def generator(small: StyleGAN2, large: StyleGAN2) -> StyleGAN2:
    """`large`, of twice the size, drawing the picture of `small` enlarged by its FIR filter.

    All of `small` is kept; of `large` stay the new convolutions and noise. The new ToRGB starts at
    zero. ValueError if their other layers do not agree.
    """
    last = f"rows/{len(large.rows) - 1}/to_rgb/conv"
    flat = checkpoint.flatten(large)
    flat |= checkpoint.flatten(small)
    flat |= {
        f"{last}/{name}": jnp.zeros_like(flat[f"{last}/{name}"]) for name in ("kernel", "bias")
    }
    return checkpoint.fill(large, flat)


def discriminator(
    small: StyleGAN2Discriminator, large: StyleGAN2Discriminator
) -> StyleGAN2Discriminator:
    """`large`, residual and of twice the size, scoring a picture as `small` scores it halved.

    The new block carries the colours to its end in six channels, halves them, and does there what
    the first layer of `small` did; its skip starts at zero, its other channels as in `large`.
    ValueError if it is narrower than that, or other layers do not agree.
    """
    flat, old = checkpoint.flatten(large), checkpoint.flatten(small)
    channels = flat["from_rgb/kernel"].shape[-1]
    if channels < PAIRS:
        raise ValueError(
            f"the discriminator would have {channels} channels at {large.resolution} px and "
            f"growing takes {PAIRS}; raise --width_base"
        )
    first = {name: old.pop(f"from_rgb/{name}") for name in ("kernel", "bias")}
    block = f"blocks/{len(large.blocks) - 1}"
    signs = jnp.kron(jnp.eye(3), jnp.asarray([[1.0, -1.0]]))  # [3, 6]: each colour and its opposite
    carried = jnp.pad(signs, [(0, 0), (0, channels - PAIRS)])
    read = carried.T / (SLOPES * ROOT2)  # colours from the activated pairs

    kernel = flat["from_rgb/kernel"]
    flat["from_rgb/kernel"] = kernel.at[0, 0, :, :PAIRS].set(signs)
    kernel = flat[f"{block}/conv/kernel"].at[..., :PAIRS].set(0.0)
    flat[f"{block}/conv/kernel"] = kernel.at[1, 1, :, :PAIRS].set(read @ signs)
    kernel = jnp.zeros_like(flat[f"{block}/down/kernel"])
    # The block ends in the sum of its branches times sqrt(1/2).
    flat[f"{block}/down/kernel"] = kernel.at[1, 1].set(read @ first["kernel"][0, 0] * ROOT2)
    flat[f"{block}/down/bias"] = first["bias"] * ROOT2
    flat[f"{block}/skip/kernel"] = jnp.zeros_like(flat[f"{block}/skip/kernel"])
    return checkpoint.fill(large, flat | old)
