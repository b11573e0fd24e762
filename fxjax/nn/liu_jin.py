"""The label-driven network of Liu & Jin (Computer Science 46(6A):250-253, 2019), as read here.

An encoder of 3x3 kernels to a shallow space, a discriminator of the expression there, and a decoder
of nearest upsampling and 3x3 convolutions to whose feature maps those of the label are added. The
paper gives no table of layers; Fader's topology with 3x3 kernels has the 43.7 % fewer parameters
that it reports.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fxjax.nn import fader, ops
from fxjax.nn.fader import Labels
from fxjax.nn.layers import Conv
from fxjax.types import Features


class Decoder(fader.Decoder):
    """Nearest upsampling and 3x3 convolutions, folded; the labels' feature maps are added."""

    def double(self, x: Features, labels: Labels, conv: Conv) -> Features:
        """A layer without its norm: the same as with the labels appended to the input."""
        inputs, told = jnp.split(conv.kernel[...], [x.shape[-1]], axis=2)
        y = conv.add_bias(ops.nearest_up_conv(x, inputs.astype(x.dtype)))
        return y + label_maps(labels, told, y.shape[1]).astype(y.dtype)


class LiuJin(fader.Fader):
    """The autoencoder. `expressions` names the labels, in their order."""

    decoder_class = Decoder
    kernel = 3
    use_bias = True


def label_maps(
    labels: Labels, kernel: Float[Array, "3 3 labels out"], size: int
) -> Float[Array, "batch size size out"]:
    """What a 3x3 convolution with zeros around makes of constant label channels.

    All pixels of the inside are alike, so are those of each edge: nine values are found and spread.
    """
    labels, kernel = labels.astype(jnp.float32), kernel.astype(jnp.float32)
    taps = jnp.einsum("bl,ijlo->bijo", labels, kernel, precision=ops.EXACT)
    # at the first, an inner and the last place: which of three taps lie inside
    inside = jnp.asarray([[0, 1, 1], [1, 1, 1], [1, 1, 0]], jnp.float32)
    places = jnp.asarray([0] + [1] * (size - 2) + [2])
    spread = inside[places]
    return jnp.einsum("hi,wj,bijo->bhwo", spread, spread, taps, precision=ops.EXACT)
