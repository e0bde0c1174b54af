"""The `config.json` of a DenseNet: a Functional model as Keras 3 describes it, with what Keras does not default.

    {"module", "class_name": "Functional", "config": {"name", "layers": […], "input_layers", "output_layers"}}

Each layer names its class, its settings and the layers it reads; these stand as `__keras_tensor__` with a shape, a type
and a history `[layer, 0, 0]`. Initialisers, regularisers and the like are left out, so that versions which spell them
otherwise read the file too; the order of axes and the type are given, because the reader's own settings would decide.

The layers are those of `network.keras_layers`; an activation behind the head stands in the head's Dense. The one
operation among them, `keras.ops.pad`, is in Keras's graph by its own class, `keras.src.ops.numpy>Pad`: nothing custom
is in the file. Keras 3.10 and before refuse a name among an operation's settings, which 3.15 writes and does not need;
so it stands beside them alone.
"""

from collections.abc import Mapping
from typing import Any

from densenet_port.network.blueprint import Blueprint
from densenet_port.network.graph import IMAGES
from densenet_port.network.keras_layers import PAD, LayerSpec, lower


def functional(blueprint: Blueprint) -> dict[str, Any]:
    """The configuration of a network under a layout's names; without a head it ends in the last ReLU."""
    layers = _layers(blueprint)
    names = _names(blueprint, list(layers))
    entries = [_entry(layer, layers, names) for layer in layers.values()]
    ends = {"input_layers": [names[IMAGES], 0, 0], "output_layers": [entries[-1]["name"], 0, 0]}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {"name": "densenet", "trainable": True, "layers": entries, **ends},
        "registered_name": "Functional",
    }


def _layers(blueprint: Blueprint) -> dict[str, LayerSpec]:
    """Name → layer, the input first; what would stand behind the head is the head's own activation."""
    network = blueprint.graph
    end = network.operations[network.output]
    if end.kind == "activation":
        network = network.without(end.name)
    shape = {"batch_shape": [None, network.fixed_side, network.fixed_side, network.channels]}
    images = LayerSpec("InputLayer", IMAGES, shape, (), network.channels, flat=False)
    layers = {layer.name: layer for layer in (images, *lower(network))}
    if end.kind == "activation":
        layers[network.output].settings["activation"] = end.function
    return layers


def _names(blueprint: Blueprint, layers: list[str]) -> dict[str, str]:
    """What each layer is called: a unit's as the layout has it, any other by a name that no unit's has."""
    taken = set(blueprint.layers.values())
    names = {}
    for layer in layers:
        name = "input_layer" if layer == IMAGES else layer.replace(".", "_")
        while name in taken:
            name += "_"
        names[layer] = blueprint.layers.get(layer, name)
    return names


def _entry(layer: LayerSpec, layers: Mapping[str, LayerSpec], names: Mapping[str, str]) -> dict[str, Any]:
    """A layer of the configuration."""
    name, settings = names[layer.name], layer.settings
    is_pad = layer.kind == PAD
    inputs: list[Any] = [_history(layers[read], names[read]) for read in layer.inputs]
    arguments = [inputs] if len(inputs) > 1 else inputs
    nodes = [{"args": arguments, "kwargs": {"constant_values": None} if is_pad else {}}]
    return {
        "module": "keras.src.ops.numpy" if is_pad else "keras.layers",
        "class_name": layer.kind,
        "registered_name": PAD if is_pad else None,
        "config": settings if is_pad else {"name": name, "dtype": "float32", **settings},
        "name": name,
        "inbound_nodes": nodes if inputs else [],
    }


def _history(layer: LayerSpec, name: str) -> dict[str, Any]:
    """What a layer puts out, as another's argument."""
    shape = [None, layer.channels] if layer.flat else [None, None, None, layer.channels]
    config = {"shape": shape, "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
