"""StyleGAN networks out of official pickles: TensorFlow's (G, D, Gs) and ADA's dict of modules.

Relatives of StyleGAN are told apart only to say that they are not supported.
"""

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from converters.arrays import Array
from converters.pickles import Builder, Inert, Machine, WeightError, load, shorten
from converters.statedicts import Tensor, make_storage, torch_builders

ADVICE = "get the file from its official page; what is read are StyleGAN1 and StyleGAN2 pickles"
# Positional parameters of the official classes, for the arguments that were not given by name.
PARAMETERS = {
    "Generator": "z_dim c_dim w_dim img_resolution img_channels mapping_kwargs synthesis_kwargs",
    "Discriminator": "c_dim img_resolution img_channels architecture channel_base channel_max "
    "num_fp16_res conv_clamp cmap_dim block_kwargs mapping_kwargs epilogue_kwargs",
}
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


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of a pickle.

    `kind` is TensorFlow's build_func_name ("G_style", "D_basic") or ADA's class ("Generator").
    `options` are the static_kwargs, or the named arguments of the class over those given by
    position (which stay under "args"): Python scalars, text, lists and dicts. `weights` have flat
    names: TensorFlow's own variables, with those of components below "mapping/" or "synthesis/";
    ADA's parameters and buffers, as "synthesis/b4/conv1/weight".
    """

    kind: str
    options: dict[str, Any]
    weights: dict[str, np.ndarray]


class TensorFlowNetwork(Inert):
    """`dnnlib.tflib.network.Network`: its state is kept, the source text in it is not looked at."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}

    def build(self, machine: Machine, state: Any) -> None:
        """Keeps the state."""
        if type(state) is not dict or state.get("version") not in (2, 3, 4, 5):
            raise WeightError("holds a TensorFlow network of an unknown version (2 to 5 are read)")
        self.state = state


class Module(Inert):
    """A module that `torch_utils.persistence` pickled; the source text in it is not looked at."""

    def __init__(self, meta: Any):
        if type(meta) is not dict or meta.get("type") != "class":
            raise WeightError("is damaged: a persistent module without a description")
        self.kind, self.state = meta.get("class_name"), meta.get("state")

    def part(self, name: str) -> dict[Any, Any]:
        """One dict of the module's state. WeightError: not there."""
        found = self.state.get(name) if type(self.state) is dict else None
        if type(found) is not dict:
            raise WeightError(f"is damaged: a module without '{name}'")
        return found


def make_network(machine: Machine, arguments: tuple[Any, ...]) -> TensorFlowNetwork:
    """`dnnlib.tflib.network.Network`, still without its state."""
    return TensorFlowNetwork()


def make_module(machine: Machine, arguments: tuple[Any, ...]) -> Module:
    """`torch_utils.persistence._reconstruct_persistent_obj(meta)`; nothing is reconstructed."""
    (meta,) = arguments
    return Module(meta)


def make_easy_dict(machine: Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`dnnlib.util.EasyDict()`, as a dict."""
    return {}


def refuse_progan(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    """The network class of the progressive GAN repositories."""
    raise WeightError(PROGAN)


def refuse_alias_free(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    """A class of StyleGAN3 that was pickled without its source text."""
    raise WeightError(ALIAS_FREE)


def read_networks(data: bytes) -> tuple[str, dict[str, Network]]:
    """("tf-pickle" or "ada-pickle", networks) of an official StyleGAN pickle.

    Raises:
        WeightError: something else, or a file that wants to run code.
        ValueError, IndexError, ...: damaged bytes.
    """
    builders: dict[str, Builder] = {
        **torch_builders(),
        "torch.storage _load_from_bytes": make_storage,
        "torch_utils.persistence _reconstruct_persistent_obj": make_module,
        "dnnlib.tflib.network Network": make_network,
        "dnnlib.util EasyDict": make_easy_dict,
        "tfutil Network": refuse_progan,
        "network Network": refuse_progan,
        "training.networks_stylegan3 Generator": refuse_alias_free,
    }
    try:
        value = load(io.BytesIO(data), builders, ADVICE)
    except WeightError:
        if line := relative(data):
            raise WeightError(line) from None
        raise
    if isinstance(value, tuple | list) and any(isinstance(v, TensorFlowNetwork) for v in value):
        if len(value) != 3 or not all(isinstance(v, TensorFlowNetwork) for v in value):
            raise WeightError(f"holds {len(value)} things where (G, D, Gs) belong; {ADVICE}")
        nodes = count()
        return "tf-pickle", {
            name: from_tensorflow(net, nodes)
            for name, net in zip(("G", "D", "Gs"), value, strict=True)
        }
    if type(value) is dict:
        modules = {name: value.get(name) for name in ("G", "D", "G_ema")}
        modules = {name: m for name, m in modules.items() if isinstance(m, Module)}
        if modules:
            nodes = count()
            return "ada-pickle", {name: from_ada(m, nodes) for name, m in modules.items()}
    what = f"one {type(value).__name__}"
    if isinstance(value, TensorFlowNetwork):
        what = f"one network '{shorten(str_of(value.state.get('build_func_name')))}'"
    raise WeightError(f"is a pickle of {what}, not of StyleGAN networks; {ADVICE}")


def from_tensorflow(network: TensorFlowNetwork, nodes: Iterator[int]) -> Network:
    """One TensorFlow network with its components. WeightError: ProGAN, or damaged."""
    state = network.state
    kind = str_of(state.get("build_func_name"))
    if kind in ("G_paper", "D_paper"):
        raise WeightError(PROGAN)
    weights: dict[str, np.ndarray] = {}
    gather_variables(network, "", weights, nodes)
    return Network(kind, options_of(state.get("static_kwargs"), nodes), weights)


def gather_variables(
    network: TensorFlowNetwork, prefix: str, weights: dict[str, np.ndarray], nodes: Iterator[int]
) -> None:
    """Adds a network's variables and those of its components to `weights`."""
    variables, components = network.state.get("variables"), network.state.get("components", {})
    if type(variables) is not list or type(components) is not dict or prefix.count("/") > 4:
        raise WeightError("is damaged: a network without variables, or nested too deep")
    for name, array in variables:
        add(weights, f"{prefix}{str_of(name)}", array, nodes)
    for name, component in components.items():
        tick(nodes)
        if not isinstance(component, TensorFlowNetwork):
            raise WeightError("is damaged: a component that is not a network")
        gather_variables(component, f"{prefix}{str_of(name)}/", weights, nodes)


def from_ada(module: Module, nodes: Iterator[int]) -> Network:
    """One ADA module with its submodules. WeightError: StyleGAN3, or damaged."""
    kind = str_of(module.kind)
    refuse_stylegan3(module)
    if line := relative(kind.encode()):
        raise WeightError(line)
    state = module.state if type(module.state) is dict else {}
    arguments = options_of({"args": list(state.get("_init_args") or ())}, nodes)
    names = PARAMETERS.get(kind, "").split()
    options = dict(zip(names, arguments["args"], strict=False))
    options |= arguments | options_of(state.get("_init_kwargs"), nodes)
    weights: dict[str, np.ndarray] = {}
    gather_tensors(module, "", weights, nodes)
    refuse_names(list(weights))
    return Network(kind, options, weights)


def refuse_stylegan3(module: Module) -> None:
    """WeightError if a generator's synthesis network has the layers of the alias-free kind."""
    for part in [module, *module.part("_modules").values()]:
        if isinstance(part, Module) and type(part.state) is dict:
            names = part.part("_modules")
            layers = [name for name in names if re.fullmatch(r"L\d+_\d+_\d+", str(name))]
            if layers or "layer_names" in part.state:
                raise WeightError(ALIAS_FREE)


def gather_tensors(
    module: Module, prefix: str, weights: dict[str, np.ndarray], nodes: Iterator[int]
) -> None:
    """Adds a module's parameters and buffers, and those of its submodules, to `weights`."""
    for part in ("_parameters", "_buffers"):
        for name, tensor in module.part(part).items():
            add(weights, f"{prefix}{str_of(name)}", tensor, nodes)
    for name, child in module.part("_modules").items():
        tick(nodes)
        if not isinstance(child, Module) or prefix.count("/") > 8:
            raise WeightError("is damaged: a submodule of an unknown kind, or nested too deep")
        gather_tensors(child, f"{prefix}{str_of(name)}/", weights, nodes)


def add(weights: dict[str, np.ndarray], name: str, value: Any, nodes: Iterator[int]) -> None:
    """Adds one array; None (an absent bias) is left out. WeightError: no array, or there twice."""
    tick(nodes)
    array = value.array() if isinstance(value, Tensor) else None
    if isinstance(value, Array):
        array = value.value
    if value is not None and (array is None or name in weights):
        raise WeightError(f"is damaged: '{shorten(name)}' is not an array, or is there twice")
    if array is not None:
        weights[name] = array


def tick(nodes: Iterator[int]) -> None:
    """Counts one thing walked over. WeightError: too many, as when a file repeats itself."""
    if next(nodes) > 100_000:
        raise WeightError("holds far more parts than a StyleGAN network; refused")


def options_of(value: Any, nodes: Iterator[int]) -> dict[str, Any]:
    """A dict of options. WeightError: not a dict, or one that holds more than plain values."""
    if type(value) is not dict:
        raise WeightError("is damaged: a network without its options")
    return {str_of(name): plain(item, str_of(name), 0, nodes) for name, item in value.items()}


def plain(value: Any, name: str, depth: int, nodes: Iterator[int]) -> Any:
    """An option as Python scalars, text, lists and dicts. WeightError: anything else."""
    tick(nodes)
    if depth > 8:
        raise WeightError(f"nests the option '{shorten(name)}' too deep")
    if isinstance(value, Array) and value.value is not None and value.value.ndim == 0:
        value = value.value.item()
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, list | tuple):
        return [plain(item, name, depth + 1, nodes) for item in value]
    if type(value) is dict:
        return {str_of(k): plain(item, name, depth + 1, nodes) for k, item in value.items()}
    raise WeightError(f"has an option '{shorten(name)}' that is a {type(value).__name__}")


def str_of(value: Any) -> str:
    """`value` if it is short text. WeightError otherwise."""
    if not isinstance(value, str) or len(value) > 256:
        raise WeightError(f"is damaged: a {type(value).__name__} where a name belongs")
    return value


def refuse_names(names: Sequence[str]) -> None:
    """WeightError if names of arrays are those of a kind that is not supported."""
    for pattern, line in NAMES.items():
        if any(re.search(pattern, name) for name in names):
            raise WeightError(line)


def relative(data: bytes) -> str | None:
    """The line about a pickle that could not be read, if it is of a known relative."""
    return next((line for name, line in CLASSES.items() if name in data), None)
