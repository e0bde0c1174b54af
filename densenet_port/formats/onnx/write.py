"""A DenseNet as an ONNX model: IR 8, opset 17, batch, height and width open, initialisers called as their layout says.

Values and nodes are called after our units: `block1.layer2.conv1` is the output of that convolution. The contract
becomes nodes and attributes: epsilon of every BatchNormalization, `pads` or `auto_pad` SAME_UPPER in the stem,
`ceil_mode` of the average pools, a blur of the stem's pool, Softmax or Sigmoid at the end. A layout whose norms have
six tensors has Mul and Add behind every BatchNormalization, one whose head's kernel is `o i 1 1` a Conv for a head.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from densenet_port.about import __version__
from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.onnx.model import DTYPES, INT64
from densenet_port.formats.protobuf import Later, Part, data, head, integer, integers, message, single, size, text
from densenet_port.formats.source import Writable, stored, write_tensor
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.units import Unit

RECORD = "densenet_port"
_IR, _OPSET = 8, 17
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
_MOST = 2**31 - 1  # bytes that a protobuf may have
_FLOAT, _INT, _STRING, _TENSOR, _INTS = 1, 2, 3, 4, 7  # AttributeProto.AttributeType
_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16
_OUTPUTS = {"softmax": ("Softmax", "probabilities"), "sigmoid": ("Sigmoid", "probabilities")}


def model(
    architecture: Architecture, contract: Contract, tensors: Mapping[str, Tensor], record: Callable[[], bytes]
) -> list[Part]:
    """The parts of the file. Raises UsageError if the tensors are not those of the architecture, or too large."""
    found = _Graph(architecture, contract, tensors)
    output = found.network()
    entry = Later(len(record()), partial(_save_record, record, len(record())))
    graph = message(7, [*found.nodes, text(2, "densenet"), *found.initialisers, *found.ends(output)])
    parts: list[Part] = [
        integer(1, _IR) + text(2, "densenet-port") + text(3, __version__),
        *graph,
        *message(8, [integer(2, _OPSET)]),
        *message(14, [text(1, RECORD), head(2, entry.size), entry]),
    ]
    if (total := size(parts)) > _MOST:
        raise UsageError(f"an ONNX model of {total} bytes: the format ends at {_MOST}", hint="write a narrower --dtype")
    return parts


def _save_record(record: Callable[[], bytes], length: int, file: Writable) -> None:
    """Write the record, which must be as long as was said."""
    complete = record()
    if len(complete) != length:
        raise MisfitError(f"the record grew from {length} to {len(complete)} bytes while the file was written")
    file.write(complete)


class _Graph:
    """Nodes and initialisers, in order of execution; every method that adds a node gives the name of its output."""

    def __init__(self, architecture: Architecture, contract: Contract, tensors: Mapping[str, Tensor]) -> None:
        """See which tensors are whose."""
        self.arch, self.contract = architecture, contract
        self.taken = set(tensors)
        self.units = _by_unit(architecture, tensors)
        kinds = {tensor.dtype for tensor in tensors.values()}
        if len(kinds) != 1 or not kinds <= _KINDS.keys():
            raise UsageError(f"an ONNX model of the types {', '.join(sorted(kinds))}", hint="write all in one type")
        self.dtype = kinds.pop()
        weight = tensors[self.units["head.dense"][0]] if architecture.classes is not None else None
        self.wide = weight is not None and len(weight.shape) == 4  # noqa: PLR2004 (o i 1 1)
        self.nodes: list[Part] = []
        self.initialisers: list[Part] = []
        for name, tensor in tensors.items():
            self.initialisers += _initialiser(name, tensor)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def add(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Append a node."""
        while output in self.taken:
            output += "_"
        self.taken.add(output)
        parts: list[Part] = [*(text(1, name) for name in inputs), text(2, output) + text(3, output) + text(4, op)]
        for name, value in attributes.items():
            parts += message(5, _attribute(name, value))
        self.nodes += message(1, parts)
        return output

    def whole(self, output: str, values: list[int]) -> str:
        """Append a constant of integers."""
        return self.add("Constant", output, value=(INT64, np.array(values, "<i8")))

    def conv(self, unit: str, x: str, *, stride: int = 1) -> str:
        """Append the convolution of a unit."""
        side = self.arch.units[unit].sizes["h"]
        settings = {"kernel_shape": [side, side], "strides": [stride, stride]}
        return self.add("Conv", unit, x, *self.units[unit], **settings, **self.padding(side, stride))

    def padding(self, side: int, stride: int) -> dict[str, Any]:
        """How a window is padded: as the contract says where it has a stride, all around otherwise."""
        same = stride > 1 and self.contract.stem_padding == "same"
        return {"auto_pad": "SAME_UPPER"} if same else {"pads": [side // 2] * 4}

    def norm(self, unit: str, x: str) -> str:
        """Append the norm of a unit, the Scale where its layout has one, and the ReLU."""
        own, scale = self.units[unit][:4], self.units[unit][4:]
        x = self.add("BatchNormalization", unit, x, *own, epsilon=self.contract.epsilon)
        for op, name in zip(("Mul", "Add"), scale, strict=False):
            axes = self.whole(f"{name}.axes", [1, 2])
            x = self.add(op, f"{unit}.{op.lower()}", x, self.add("Unsqueeze", f"{name}.channels", name, axes))
        return self.add("Relu", unit.replace("norm", "relu"), x)

    # -- parts of the network ----------------------------------------------------------------------------------------

    def network(self) -> str:
        """Append all of it, in order of execution."""
        x = self.stem("images")
        for block, count in enumerate(self.arch.layers, start=1):
            for number in range(1, count + 1):
                x = self.layer(f"block{block}.layer{number}", x)
            if block < len(self.arch.layers):
                x = self.transition(f"transition{block}", x)
        x = self.norm("final.norm", x)
        return x if self.arch.classes is None else self.head(x)

    def stem(self, x: str) -> str:
        """Append the stem: one convolution and no pool for CIFAR, one or three with a pool for ImageNet."""
        if self.arch.stem == "cifar":
            return self.conv("stem.conv", x)
        convs = [unit.name for unit in self.arch.units.values() if unit.name.startswith("stem.conv")]
        for place, name in enumerate(convs):
            x = self.norm(name.replace("conv", "norm"), self.conv(name, x, stride=1 if place else 2))
        return self.pool(x)

    def pool(self, x: str) -> str:
        """Append the stem's pool."""
        blurred = self.contract.stem_pool == "blur"
        stride = 1 if blurred else 2
        settings = {"kernel_shape": [3, 3], "strides": [stride, stride]}
        x = self.add("MaxPool", "stem.pool", x, **settings, **self.padding(3, stride))
        return self.blur(x) if blurred else x

    def blur(self, x: str) -> str:
        """Append the binomial filter of stride 2, the border reflected."""
        norms = [unit for unit in self.arch.units.values() if unit.name.startswith("stem.norm")]
        width = norms[-1].sizes["c"]
        kernel = np.broadcast_to(_BINOMIAL, (width, 1, 3, 3)).astype(stored(self.dtype))
        filters = self.add("Constant", "stem.filters", value=(_KINDS[self.dtype], kernel))
        pads = self.whole("stem.pads", [0, 0, 1, 1, 0, 0, 1, 1])
        x = self.add("Pad", "stem.padded", x, pads, mode="reflect")
        return self.add("Conv", "stem.blur", x, filters, kernel_shape=[3, 3], strides=[2, 2], group=width)

    def layer(self, name: str, x: str) -> str:
        """Append a dense layer: old channels first, then the new ones."""
        new = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x))
        if self.arch.bottleneck:
            new = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", new))
        return self.add("Concat", f"{name}.concat", x, new, axis=1)

    def transition(self, name: str, x: str) -> str:
        """Append a transition, whose pool rounds down or up."""
        x = self.conv(f"{name}.conv", self.norm(f"{name}.norm", x))
        up = int(self.contract.pool_rounding == "ceil")
        return self.add("AveragePool", f"{name}.pool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=up)

    def head(self, x: str) -> str:
        """Append the mean over the picture, the dense layer, and what the contract puts behind it."""
        x = self.add("GlobalAveragePool", "final.pool", x)
        weight, bias = self.units["head.dense"]
        if self.wide:
            x = self.add("Flatten", "logits", self.add("Conv", "head.dense", x, weight, bias), axis=1)
        else:
            x = self.add("Gemm", "logits", self.add("Flatten", "final.flat", x, axis=1), weight, bias, transB=1)
        return x if self.contract.output == "logits" else self.add(*_OUTPUTS[self.contract.output], x)

    # -- what goes in and out ----------------------------------------------------------------------------------------

    def ends(self, output: str) -> list[Part]:
        """The graph's input and output."""
        kind = _KINDS[self.dtype]
        given = _value(11, "images", kind, ["n", self.arch.channels, "height", "width"])
        if self.arch.classes is None:
            width = self.arch.units["final.norm"].sizes["c"]
            return [*given, *_value(12, output, kind, ["n", width, "rows", "columns"])]
        return [*given, *_value(12, output, kind, ["n", self.arch.classes])]


def _by_unit(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Unit → names of its tensors. Raises UsageError unless the tensors are those of the units, in order."""
    kinds = [unit.kind for unit in architecture.units.values()]
    norms, rest = kinds.count("norm"), kinds.count("conv") + 2 * kinds.count("dense")
    of_norm = (len(tensors) - rest) // norms
    if of_norm not in (4, 6) or len(tensors) != rest + norms * of_norm:
        expected = f"{rest + 4 * norms} tensors, or {rest + 6 * norms} with a Scale behind every norm"
        raise UsageError(f"an ONNX model of {architecture.name} has {expected}, found {len(tensors)}")
    names = iter(tensors)
    counts = {"conv": 1, "norm": of_norm, "dense": 2}
    units = {unit.name: list(islice(names, counts[unit.kind])) for unit in architecture.units.values()}
    for unit in architecture.units.values():
        _check_shapes(unit, {name: tensors[name].shape for name in units[unit.name]})
    return units


def _check_shapes(unit: Unit, found: Mapping[str, tuple[int, ...]]) -> None:
    """See that tensors are a unit's, with the axes that ONNX's operators take."""
    kernel = tuple(unit.sizes[axis] for axis in {"conv": "oihw", "norm": "c", "dense": "oi"}[unit.kind])
    expected = [kernel] * len(found) if unit.kind == "norm" else [kernel, kernel[:1]][: len(found)]
    shapes = list(found.values())
    if unit.kind == "dense" and shapes[0][2:] == (1, 1):
        shapes[0] = shapes[0][:2]
    if shapes != expected:
        raise UsageError(f"an ONNX model needs {unit.name} of the shapes {expected}, found {dict(found)}")


# -- messages ----------------------------------------------------------------------------------------------------------


def _initialiser(name: str, tensor: Tensor) -> list[Part]:
    """A tensor of the graph, whose elements are written when their turn comes."""
    payload = Later(prod(tensor.shape) * stored(tensor.dtype).itemsize, partial(_save, name, tensor))
    kind = integer(2, _KINDS[tensor.dtype])
    return message(5, [integers(1, tensor.shape), kind, text(8, name), head(9, payload.size), payload])


def _save(name: str, tensor: Tensor, file: Writable) -> None:
    write_tensor(file, name, tensor)


def _attribute(name: str, value: Any) -> list[Part]:
    """An attribute: a float, an integer, a text, integers, or a tensor as type and array."""
    found: list[Part] = [text(1, name)]
    if isinstance(value, float):
        return [*found, single(2, value), integer(20, _FLOAT)]
    if isinstance(value, int):
        return [*found, integer(3, value), integer(20, _INT)]
    if isinstance(value, str):
        return [*found, text(4, value), integer(20, _STRING)]
    if isinstance(value, tuple):
        kind, array = value
        tensor: list[Part] = [integers(1, array.shape), integer(2, kind), data(9, array.tobytes())]
        return [*found, *message(5, tensor), integer(20, _TENSOR)]
    return [*found, integers(8, value), integer(20, _INTS)]


def _value(number: int, name: str, kind: int, sizes: list[int | str]) -> list[Part]:
    """A graph's input or output; sizes that are open have names."""
    axes = [
        part
        for length in sizes
        for part in message(1, [text(2, length) if isinstance(length, str) else integer(1, length)])
    ]
    tensor = message(1, [integer(1, kind), *message(2, axes)])
    return message(number, [text(1, name), *message(2, tensor)])
