"""The `config.json` of a DenseNet: a Functional model as Keras 3 describes it, with what Keras does not default.

    {"module", "class_name": "Functional", "config": {"name", "layers": […], "input_layers", "output_layers"}}

Each layer names its class, its settings and the layers it reads; these stand as `__keras_tensor__` with a shape, a type
and a history `[layer, 0, 0]`. Initialisers, regularisers and the like are left out, so that versions which spell them
otherwise read the file too; the order of axes and the type are given, because the reader's own settings would decide.

No layer of Keras pads by reflection, which a blur pool needs. `keras.ops.pad` does, and Keras keeps an operation in its
graph like a layer, by its own class: `keras.src.ops.numpy>Pad`. Nothing custom is in the file. Keras 3.10 and before
refuse a name among an operation's settings, which 3.15 writes and does not need; so it stands beside them alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract

_LAST = {"data_format": "channels_last"}


class _Output(NamedTuple):
    """What a layer puts out: the layer's name and the length of the last axis; `flat` without height and width."""

    layer: str
    channels: int
    flat: bool = False


class _Graph:
    """The layers of a model, in order of execution; `names` are those of the weighted ones, by unit."""

    def __init__(self, arch: Architecture, contract: Contract, names: Mapping[str, str]) -> None:
        self.arch = arch
        self.contract = contract
        self.names = names
        self.taken = set(names.values())
        self.layers: list[dict[str, Any]] = []

    def add(self, kind: str, name: str, inputs: Any, output: tuple[int, bool], **settings: Any) -> _Output:
        """Append a layer that reads `inputs`: an output, a list of outputs, or None."""
        nodes = [] if inputs is None else [{"args": [_history(inputs)], "kwargs": {}}]
        config = {"name": name, "dtype": "float32", **settings}
        place = {"module": "keras.layers", "class_name": kind, "registered_name": None}
        self.layers.append({**place, "config": config, "name": name, "inbound_nodes": nodes})
        return _Output(name, *output)

    def plain(self, kind: str, name: str, x: _Output, **settings: Any) -> _Output:
        """Append a layer without weights that keeps the channels."""
        return self.add(kind, self.free(name), x, (x.channels, kind.startswith("Global")), **settings)

    def free(self, name: str) -> str:
        """A name that no weighted layer has."""
        while name in self.taken:
            name += "_"
        return name

    def conv(self, unit: str, x: _Output, *, strides: int = 1, padding: str = "same") -> _Output:
        """Append the convolution of a unit."""
        sizes = self.arch.units[unit].sizes
        settings = {"kernel_size": [sizes["h"], sizes["w"]], "strides": [strides, strides], "padding": padding}
        output = (sizes["o"], False)
        return self.add("Conv2D", self.names[unit], x, output, filters=sizes["o"], use_bias=False, **settings, **_LAST)

    def norm(self, unit: str, x: _Output) -> _Output:
        """Append the norm of a unit and its ReLU: `block1.layer2.norm1` has `block1_layer2_relu1`."""
        settings = {"axis": -1, "epsilon": self.contract.epsilon}
        x = self.add("BatchNormalization", self.names[unit], x, (x.channels, False), **settings)
        return self.plain("ReLU", unit.replace("norm", "relu").replace(".", "_"), x)

    def stem(self, x: _Output) -> _Output:
        """Append the stem; "same" padding is Keras's own rule, "symmetric" needs layers that pad."""
        if self.arch.stem == "cifar":
            return self.conv("stem.conv", x)
        padding = "same" if self.contract.stem_padding == "same" else "valid"
        first, *others = [unit for unit in self.arch.units.values() if unit.name.startswith("stem.conv")]
        if padding == "valid":
            x = self.zeros(f"{first.name.replace('.', '_')}_pad", x, first.sizes["h"] // 2)
        x = self.norm(first.name.replace("conv", "norm"), self.conv(first.name, x, strides=2, padding=padding))
        for unit in others:
            x = self.norm(unit.name.replace("conv", "norm"), self.conv(unit.name, x))
        if self.contract.stem_pool == "blur":
            return self.blur_pool(x)
        x = self.zeros("stem_pool_pad", x, 1) if padding == "valid" else x
        return self.pool("MaxPooling2D", "stem_pool", x, 3, 2, padding)

    def blur_pool(self, x: _Output) -> _Output:
        """Append the stem's blur pool: two averages of two are the binomial filter. Its reflection is an operation."""
        x = self.pool("MaxPooling2D", "stem_pool", self.zeros("stem_pool_pad", x, 1), 3, 1, "valid")
        x = self.reflected("stem_blur_pad", x)
        return self.pool("AveragePooling2D", "stem_blur2", self.pool("AveragePooling2D", "stem_blur1", x, 2, 1), 2, 2)

    def zeros(self, name: str, x: _Output, width: int) -> _Output:
        """Append zeros on every side."""
        return self.plain("ZeroPadding2D", name, x, padding=[[width, width], [width, width]], **_LAST)

    def pool(self, kind: str, name: str, x: _Output, size: int, strides: int, padding: str = "valid") -> _Output:
        """Append a pool over squares."""
        settings = {"pool_size": [size, size], "strides": [strides, strides], "padding": padding}
        return self.plain(kind, name, x, **settings, **_LAST)

    def reflected(self, name: str, x: _Output) -> _Output:
        """Append what `keras.ops.pad` leaves in a graph: one place on every side, mirrored at the border."""
        name = self.free(name)
        config = {"pad_width": [[0, 0], [1, 1], [1, 1], [0, 0]], "mode": "reflect"}
        place = {"module": "keras.src.ops.numpy", "class_name": "Pad", "registered_name": "Pad"}
        nodes = [{"args": [_history(x)], "kwargs": {"constant_values": None}}]
        self.layers.append({**place, "config": config, "name": name, "inbound_nodes": nodes})
        return _Output(name, x.channels)

    def layer(self, name: str, x: _Output) -> _Output:
        """Append a dense layer: old channels first, then the new ones."""
        new = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x))
        if self.arch.bottleneck:
            new = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", new))
        joined = (x.channels + new.channels, False)
        return self.add("Concatenate", self.free(f"{name.replace('.', '_')}_concat"), [x, new], joined, axis=-1)

    def transition(self, name: str, x: _Output) -> _Output:
        """Append a transition, whose pool drops the last row and column of odd sizes, or averages what there is."""
        x = self.conv(f"{name}.conv", self.norm(f"{name}.norm", x))
        padding = "same" if self.contract.pool_rounding == "ceil" else "valid"
        return self.pool("AveragePooling2D", f"{name}_pool", x, 2, 2, padding)

    def head(self, x: _Output) -> _Output:
        """Append the mean over the picture and the dense layer, with the activation of the contract's output."""
        x = self.plain("GlobalAveragePooling2D", "final_pool", x, **_LAST)
        classes = self.arch.units["head.dense"].sizes["o"]
        activation = {"logits": "linear"}.get(self.contract.output, self.contract.output)
        return self.add("Dense", self.names["head.dense"], x, (classes, True), units=classes, activation=activation)


def functional(arch: Architecture, contract: Contract, names: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of a network; `names` gives the layer of each unit. Without head it ends in the last ReLU."""
    graph = _Graph(arch, contract, names)
    shape = [None, None, None, arch.channels]
    x = first = graph.add("InputLayer", graph.free("input_layer"), None, (arch.channels, False), batch_shape=shape)
    x = graph.stem(x)
    for block, count in enumerate(arch.layers, start=1):
        for number in range(1, count + 1):
            x = graph.layer(f"block{block}.layer{number}", x)
        if block < len(arch.layers):
            x = graph.transition(f"transition{block}", x)
    x = graph.norm("final.norm", x)
    if arch.classes is not None:
        x = graph.head(x)
    ends = {"input_layers": [first.layer, 0, 0], "output_layers": [x.layer, 0, 0]}
    config = {"name": "densenet", "trainable": True, "layers": graph.layers, **ends}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": config,
        "registered_name": "Functional",
    }


def _history(inputs: _Output | list[_Output]) -> Any:
    """An output, or a list of them, as a layer's argument."""
    if isinstance(inputs, list):
        return [_history(item) for item in inputs]
    shape = [None, inputs.channels] if inputs.flat else [None, None, None, inputs.channels]
    config = {"shape": shape, "dtype": "float32", "keras_history": [inputs.layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
