"""Classes of modules whose forward is known: `mappings/modules/torch.toml`, which says what its parts mean."""

import tomllib
from typing import Literal, cast

from densenet_port.files import resource

Leaf = Literal[
    "conv", "norm", "relu", "max_pool", "average_pool", "adaptive_mean", "adaptive_max", "fast_mean", "fast_max",
    "dense", "flatten", "view", "zeros", "mirror", "blur", "softmax", "sigmoid", "tanh", "log_softmax", "identity",
    "normalize",
]  # fmt: skip

_KNOWN = tomllib.loads((resource("mappings") / "modules" / "torch.toml").read_text(encoding="utf-8"))
# Class → the one step that it is.
LEAVES: dict[str, Leaf] = {name: cast("Leaf", leaf) for leaf, names in _KNOWN["leaves"].items() for name in names}
# Class → the parts that it runs; those that each read what it reads, and are joined; and those of dense layers, which
# have exactly one of several lists of parts.
FORWARDS: dict[str, tuple[str, ...]] = {name: tuple(parts.split()) for name, parts in _KNOWN["forwards"].items()}
JOINS: dict[str, tuple[str, ...]] = {name: tuple(parts.split()) for name, parts in _KNOWN["joins"].items()}
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    name: tuple(tuple(parts.split()) for parts in lists) for name, lists in _KNOWN["layers"].items()
}

# Methods that these forwards call: one that stands among an object's own attributes is called in the class's place.
METHODS = frozenset(
    (
        *("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_conv_forward"),
        *("_check_input_dim", "bn_function", "bottleneck_fn", "any_requires_grad", "items", "values", "children"),
        *("named_children", "features2", "forward_features", "forward_head", "call_checkpoint_bottleneck"),
    )
)

# Packages whose classes have no code of the user's: one that is not listed above is another operation.
LIBRARIES = ("torch", "torchvision", "timm", "monai", "torchxrayvision")
