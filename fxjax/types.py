"""Names for the arrays of the project: `Array` on devices, `ndarray` on the host."""

import numpy as np
from jaxtyping import Array, Float, UInt8

Image = Float[Array, "height width 3"]
"""RGB, nominally in [-1, 1] (see fxjax.images)."""

Images = Float[Array, "batch height width 3"]
"""Pictures of one size, as `Image`."""

Features = Float[Array, "batch _ _ _"]
"""Activations [batch, height, width, channels]; sizes are free, since layers change them."""

Code = Float[Array, "rows dim"]
"""One W+ code: one style per row of a generator."""

Codes = Float[Array, "batch rows dim"]
"""W+ codes."""

Photo = UInt8[np.ndarray, "height width 3"]
"""RGB bytes on the host, as read from a file."""

AnyPhoto = UInt8[np.ndarray, "_ _ 3"]
"""One of several photos whose sizes differ: `Photo`'s axes would have to agree with the others'."""

Photos = UInt8[np.ndarray, "batch height width 3"]
"""Photos of one size."""
