"""Keras's two HDF5 containers, written. What stands in them is described in `h5`."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from densenet_port.checkpoint import Extent, Tensor
from densenet_port.errors import UsageError
from densenet_port.formats.hdf5 import write as _hdf5
from densenet_port.formats.hdf5.write import Group
from densenet_port.formats.keras.variables import VARIABLES
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.units import Kind

CLASSES: dict[Kind, str] = {"conv": "conv2d", "norm": "batch_normalization", "dense": "dense"}

_RANKS = {  # class → variables and how many axes they have
    "conv2d": {"kernel": 4},
    "batch_normalization": dict.fromkeys(VARIABLES["batch_normalization"], 1),
    "dense": {"kernel": 2, "bias": 1},
}
_ATTRIBUTE_LIMIT = 64_512  # bytes of a list that Keras keeps in one attribute, HDF5's limit less some room
_WRITTEN_AS = "3.0.0"  # Keras 2 takes files without a version for Keras 1's and would transpose kernels; 3 ignores it
_KERAS_1 = frozenset({"W", "running_std"})  # variables that no other Keras has
_NAME_LIMIT = 1024  # bytes of a tensor's name; HDF5 keeps lengths in 16 bits, and the longest names seen have 90


def write_legacy(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,  # noqa: ARG001 (who writes a graph reads it)
) -> list[Extent]:
    """Write a legacy `.h5` of weights, which Keras 1, 2 and 3 load by order or by name; where the tensors lie.

    Tensors are called `<layer>/<variable>`; layers stand in the order of their first tensors. Where the variables are
    Keras 1's, the file is one of Keras 1, which records neither a version nor what convolves: Keras 2 would take it for
    another; else it is of a backend that stores kernels as the record says. Layers without weights are left out,
    because no Keras looks at them. `record()` gives JSON bytes of constant length, complete after the last tensor.
    Raises UsageError for names without a layer, or names that HDF5 cannot hold side by side.
    """
    layers = by_layer(tensors)
    old = any(not _KERAS_1.isdisjoint(variables) for variables in layers.values())
    backend = json.loads(record()).get("kernels", "tensorflow")
    root = Group({} if old else {"backend": backend, "keras_version": _WRITTEN_AS})
    root.attributes |= _split("layer_names", list(layers))
    for layer, variables in layers.items():
        group = root.group(*layer.split("/"))
        weights = {f"{layer}_{variable}" if old else name: name for variable, name in variables.items()}
        group.attributes |= _split("weight_names", list(weights))
        for weight, name in weights.items():
            *parents, last = weight.split("/")
            place = group.group(*parents)
            if place.members.setdefault(last, name) != name:
                raise UsageError(f"{name} would be a group and a dataset of the same name in the file")
    with path.open("wb") as file:
        return _hdf5.write(file, root, tensors, record)


def _split(attribute: str, texts: list[str]) -> dict[str, str | list[str]]:
    """A list as an attribute, or as several where one would be too long, as Keras splits it."""
    width = max(len(text.encode()) for text in texts)
    count = max(1, _ATTRIBUTE_LIMIT // width)
    if len(texts) <= count:
        return {attribute: texts}
    return {f"{attribute}{n}": texts[n * count : (n + 1) * count] for n in range(-(-len(texts) // count))}


def write_weights_h5(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,
) -> list[Extent]:
    """Write a `.weights.h5`, which Keras 3 loads into a Functional model of these layers in this order.

    What comes back is where the tensors lie. Tensors and `record` are as for `write_legacy`. Raises UsageError for
    layers that are no Conv2D without bias, BatchNormalization or Dense.
    """
    tree = weights_tree(tensors, blueprint)
    with path.open("wb") as file:
        return _hdf5.write(file, tree, tensors, record)


def weights_tree(tensors: Mapping[str, Tensor], blueprint: Blueprint | None = None) -> Group:
    """The tree of a `.weights.h5`. Keras 3.0 to 3.5 want the root's `vars`, though it is empty."""
    root, counts = Group(), Counter[tuple[str, ...]]()
    kinds = _kinds(blueprint) if blueprint else {}
    root.group("vars")
    for layer, variables in by_layer(tensors).items():
        *models, name = layer.split("/")
        place = tuple(part for model in models for part in ("layers", model))
        kind = layer_class(layer, {variable: tensors[name] for variable, name in variables.items()}, kinds.get(layer))
        number = counts[*place, kind]
        counts[*place, kind] += 1
        group = root.group(*place, "layers", f"{kind}_{number}" if number else kind, "vars")
        group.attributes["name"] = name
        order = [variable for variable in VARIABLES[kind] if variable in variables]
        group.members |= {str(number): variables[variable] for number, variable in enumerate(order)}
    return root


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Layer → variable → tensor's name, in the order of the tensors. Raises UsageError for names without a layer."""
    layers: dict[str, dict[str, str]] = {}
    for name in tensors:
        layer, _, variable = name.rpartition("/")
        if not {"", "."}.isdisjoint(name.split("/")) or not layer or "\0" in name or len(name.encode()) > _NAME_LIMIT:
            raise UsageError(f"{name!r} cannot be written for Keras", hint="expected names such as stem_conv/kernel")
        layers.setdefault(layer, {})[variable] = name
    return layers


def _kinds(blueprint: Blueprint) -> dict[str, Kind]:
    """Layer → the kind of the unit whose tensors it holds."""
    units = blueprint.graph.units
    parts = ((unit, name) for unit, names in blueprint.tensors.items() for name in names.values())
    return {name.rpartition("/")[0]: units[unit].kind for unit, name in parts}


def layer_class(layer: str, variables: Mapping[str, Tensor], kind: Kind | None = None) -> str:
    """The class of a layer as `.weights.h5` spells it: that of a unit's kind, or the one that has such variables.

    Raises UsageError for variables that are not the class's, or no class's.
    """
    ranks = {name: len(tensor.shape) for name, tensor in variables.items()}
    for name in [CLASSES[kind]] if kind else CLASSES.values():
        if ranks == _RANKS[name]:
            return name
    hint = "expected a Conv2D without bias, a BatchNormalization or a Dense; `.h5` takes any layer"
    raise UsageError(f"{layer} cannot be written as .weights.h5: its variables are {', '.join(ranks)}", hint=hint)
