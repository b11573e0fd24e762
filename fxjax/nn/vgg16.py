"""VGG16 features (arXiv:1409.1556) with their preprocessing, and the heads of LPIPS on them."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fxjax.nn import ops
from fxjax.nn.layers import Conv
from fxjax.types import Features, Images

BLOCKS = (2, 2, 3, 3, 3)
NAMES = tuple(
    f"block{block}_{part}"
    for block, count in enumerate(BLOCKS, start=1)
    for part in [*(f"conv{i}" for i in range(1, count + 1)), "pool"]
)


class VGG16(nnx.Module):
    """Feature layers by their Keras names: block1_conv1 ... block5_pool, after the ReLU.

    "Layer 9" of the literature on inversion is block3_conv3. `widths` are the channels of the
    blocks present (fewer than five: cut off after the last). Preprocessing of [-1, 1] RGB input:
    (x - mean) / deviation per channel in RGB order, then BGR if `bgr`. The numbers belong to the
    weights and travel in model.json. A convolution's output before its ReLU is `<name>_linear`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        *,
        mean: Sequence[float | int],
        deviation: Sequence[float | int],
        bgr: bool,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.mean, self.deviation = tuple(map(float, mean)), tuple(map(float, deviation))
        self.bgr = bgr
        self.dtype = dtype
        channels, blocks = 3, []
        for width, count in zip(widths, BLOCKS, strict=False):
            convs = []
            for _ in range(count):
                convs.append(Conv(channels, width, param_dtype=param_dtype, rngs=rngs))
                channels = width
            blocks.append(nnx.List(convs))
        self.blocks = nnx.List(blocks)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that these weights have."""
        return NAMES[: sum(count + 1 for count in BLOCKS[: len(self.blocks)])]

    def preprocess(self, images: Images) -> Images:
        """[-1, 1] RGB to what the weights were trained on, float32."""
        mean, deviation = (jnp.asarray(v, jnp.float32) for v in (self.mean, self.deviation))
        x = (images.astype(jnp.float32) - mean) / deviation
        return x[..., ::-1] if self.bgr else x

    def __call__(
        self, images: Images, layers: Sequence[str] = ("block3_conv3",)
    ) -> dict[str, Features]:
        """The named layers' outputs for [-1, 1] RGB pictures; computes no further than needed.

        Raises ValueError for a name that these weights do not have.
        """
        linear = {f"{name}_linear" for name in self.names if "conv" in name}
        unknown = [name for name in layers if name not in self.names and name not in linear]
        if unknown or not layers:
            raise ValueError(f"no layer {unknown}; these weights have {', '.join(self.names)}")
        x, found = self.preprocess(images).astype(self.dtype), {}
        for b, block in enumerate(self.blocks, start=1):
            for c, conv in enumerate(block, start=1):
                name = f"block{b}_conv{c}"
                found[f"{name}_linear"] = conv(x)
                found[name] = x = jnp.maximum(found[f"{name}_linear"], jnp.zeros((), x.dtype))
                if all(name in found for name in layers):
                    return {name: found[name] for name in layers}
            x = ops.max_pool(x)
            found[f"block{b}_pool"] = x
            if all(name in found for name in layers):
                break
        return {name: found[name] for name in layers}


class Heads(nnx.Module):
    """One non-negative weight per channel of each of `layers`, whose channels are `widths`.

    They were trained on features with one preprocessing (`mean`, `deviation`, `bgr`, as VGG16
    takes them) and mean something on those alone. Distances are float32: `dtype` does not matter.
    """

    def __init__(
        self,
        layers: Sequence[str],
        widths: Sequence[int],
        *,
        mean: Sequence[float],
        deviation: Sequence[float],
        bgr: bool,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.layers, self.widths = tuple(layers), tuple(widths)
        self.mean, self.deviation, self.bgr = tuple(mean), tuple(deviation), bgr
        self.weights = nnx.List(
            nnx.Param(rngs.params.uniform((width,), param_dtype)) for width in self.widths
        )
