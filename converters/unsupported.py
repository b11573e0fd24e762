"""Relatives of StyleGAN whose files are told apart only to say that they are not supported."""

import re
from collections.abc import Sequence

from converters.pickles import WeightError

PROGAN = (
    "is a progressive GAN (ProGAN), which is not supported; StyleGAN1 and StyleGAN2 networks are"
)
ALIAS_FREE = (
    "is a StyleGAN3 alias-free network, which is not supported; "
    "StyleGAN2 pickles of the same repository are"
)
EG3D = "is a 3-D generator (EG3D), which is not supported; StyleGAN1 and StyleGAN2 networks are"
SWAGAN = (
    "is a SWAGAN (StyleGAN2 on wavelets), which is not supported; "
    "StyleGAN2 checkpoints of the same repository are"
)
# What names of arrays give a kind away, in files without classes.
NAMES = {
    r"(^|[./])superresolution[./]|(^|[./])backbone[./](synthesis|mapping)[./]": EG3D,
    r"(^|[./])synthesis[./](L\d+_\d+_\d+|input)[./]|(^|[./])input\.(freqs?|phases?)$": ALIAS_FREE,
    r"(^|\.)(iwt|dwt)\.": SWAGAN,
    r"(^|\.)(progression_\d+|to_rgb_\d+|scaleLayers\.\d+|toRGBLayers\.\d+|rgb_converters\.\d+)\."
    r"|(^|\.)progression\.\d+\.conv\.\d+\.": PROGAN,
}
CLASSES = {  # what pickles name, whether they hold a class's source or not
    b"TriPlaneGenerator": EG3D,
    b"training.volumetric_rendering": EG3D,
    b"training.networks_stylegan3": ALIAS_FREE,
}


def refuse_names(names: Sequence[str]) -> None:
    """WeightError if names of arrays are those of a kind that is not supported."""
    for pattern, line in NAMES.items():
        if any(re.search(pattern, name) for name in names):
            raise WeightError(line)


def relative(data: bytes) -> str | None:
    """The line about a pickle that could not be read, if it is of a known relative."""
    return next((line for name, line in CLASSES.items() if name in data), None)
