"""A DenseNet as an ONNX model: IR 8, opset 17, batch, height and width open, initialisers called as their layout says.

A lowering of the network's graph. Each operation becomes nodes, whose values are called after it
(`block1.layer2.conv1` is the output of that convolution):

    conv, max_pool      Conv without bias, MaxPool; `pads`, or `auto_pad` SAME_UPPER where the padding is "same"
    norm                BatchNormalization with its epsilon; Mul and Add behind it where the layout has a Scale
    relu, concat        Relu, Concat of channels
    average_pool        AveragePool, which rounds by `ceil_mode`
    pad, blur           with the blur that reads it a pad is one Pad that reflects, then a Conv of a filter a channel
    mean, max           GlobalAveragePool, GlobalMaxPool; behind it a Flatten, where a norm, a matrix or a softmax reads
    flatten             Flatten: channel by channel
    dense               Gemm, the last one `logits`; Conv and Flatten where the usual head's kernel is `o i 1 1`
    activation          Softmax, Sigmoid, Relu, Tanh or LogSoftmax, the last one `probabilities`
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np

from densenet_port.about import __version__
from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.onnx.model import DTYPES, INT64
from densenet_port.formats.protobuf import Later, Part, data, head, integer, integers, message, single, size, text
from densenet_port.formats.record import RECORD
from densenet_port.formats.source import Writable, stored, write_tensor
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.contract import Activation
from densenet_port.network.graph import IMAGES, Operation, OperationKind
from densenet_port.network.head import USUAL
from densenet_port.network.units import HEAD, ROLES, Unit

_IR, _OPSET = 8, 17
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
_MOST = 2**31 - 1  # bytes that a protobuf may have
_FLOAT, _INT, _STRING, _TENSOR, _INTS = 1, 2, 3, 4, 7  # AttributeProto.AttributeType
_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16
_SCALE = ("second_scale", "second_shift")  # parts of a norm that has a Scale behind it
_ACTIVATIONS: dict[Activation, str] = {
    "softmax": "Softmax",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "tanh": "Tanh",
    "log_softmax": "LogSoftmax",
}


def model(blueprint: Blueprint, tensors: Mapping[str, Tensor], record: Callable[[], bytes]) -> list[Part]:
    """The parts of the file. Raises UsageError unless the tensors are the blueprint's, or if they are too large."""
    lowering = _Lowering(blueprint, tensors)
    lowering.lower()
    initialisers = [part for name, tensor in tensors.items() for part in _initialiser(name, tensor)]
    entry = Later(len(record()), partial(_save_record, record, len(record())))
    graph = message(7, [*lowering.nodes, text(2, "densenet"), *initialisers, *lowering.ends()])
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


class _Lowering:
    """The nodes of a graph; `values` gives for each operation the name of what its last node puts out."""

    def __init__(self, blueprint: Blueprint, tensors: Mapping[str, Tensor]) -> None:
        """Begin without nodes. Raises UsageError unless the tensors are the blueprint's, of one type."""
        self.network, self.units = blueprint.graph, blueprint.tensors
        kernel = tensors.get(self.units.get(HEAD, {}).get("kernel", ""))
        self.wide = blueprint.architecture.head == USUAL and kernel is not None and len(kernel.shape) == 4  # o i 1 1
        blueprint.check("an ONNX model", tensors, self.shapes)
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) != 1 or not dtypes <= _KINDS.keys():
            raise UsageError(f"an ONNX model of the types {', '.join(sorted(dtypes))}", hint="write all in one type")
        self.dtype = dtypes.pop()
        self.taken = set(tensors)
        self.nodes: list[Part] = []
        self.values = {IMAGES: IMAGES}
        self.flat: dict[str, str] = {}  # a value n c 1 1 → the same without places

    def shapes(self, unit: Unit) -> dict[str, tuple[int, ...]]:
        """Part → shape of a unit's tensors, with the axes that ONNX's operators take."""
        sizes = unit.sizes
        if unit.kind == "norm":
            scale = _SCALE if "second_scale" in self.units[unit.name] else ()
            return dict.fromkeys((*ROLES["norm"], *scale), (sizes["c"],))
        if unit.kind == "conv":
            return {"kernel": (sizes["o"], sizes["i"], sizes["h"], sizes["w"])}
        places = (1, 1) if self.wide and unit.name == HEAD else ()
        return {"kernel": (sizes["o"], sizes["i"], *places), "bias": (sizes["o"],)}

    def lower(self) -> None:
        """Append the nodes of all operations, in order of execution."""
        for step in self.network.operations.values():
            inputs = [self.values[name] for name in step.inputs]
            self.values[step.name] = _NODES[step.kind](self, step, *inputs)

    def ends(self) -> list[Part]:
        """The graph's input and output, with open sizes by name."""
        kind, output = _KINDS[self.dtype], self.network.output
        places: list[int | str] = [] if self.network.is_flat(output) else ["rows", "columns"]
        return [
            *_value(11, IMAGES, kind, ["n", self.network.channels, "height", "width"]),
            *_value(12, self.values[output], kind, ["n", self.network.operations[output].channels, *places]),
        ]

    def add(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; gives the name of its output, which no tensor or other output has."""
        while output in self.taken:
            output += "_"
        self.taken.add(output)
        parts: list[Part] = [*(text(1, name) for name in inputs), text(2, output) + text(3, output) + text(4, op)]
        for name, value in attributes.items():
            parts += message(5, _attribute(name, value))
        self.nodes += message(1, parts)
        return output

    def integers(self, output: str, values: list[int]) -> str:
        """Append a constant of integers."""
        return self.add("Constant", output, value=(INT64, np.array(values, "<i8")))

    def vector(self, x: str) -> str:
        """A value without places: behind a mean or a maximum, whose axes of length one go."""
        if x in self.flat and not self.flat[x]:
            self.flat[x] = self.add("Flatten", "final.flat", x, axis=1)
        return self.flat.get(x, x)

    # -- operations --------------------------------------------------------------------------------------------------

    def conv(self, step: Operation, x: str) -> str:
        return self.add("Conv", step.name, x, self.units[step.name]["kernel"], **_window(step))

    def norm(self, step: Operation, x: str) -> str:
        """A norm, and the Scale where the layout has one: vectors that a node gives the axes of a map."""
        parts, x = self.units[step.name], self.vector(x)
        x = self.add("BatchNormalization", step.name, x, *(parts[role] for role in ROLES["norm"]), epsilon=step.epsilon)
        for op, part in zip(("Mul", "Add"), _SCALE, strict=True):
            if name := parts.get(part):
                x = self.add(op, f"{step.name}.{op.lower()}", x, self.spread(step, name))
        return x

    def spread(self, step: Operation, name: str) -> str:
        """A vector with the axes of what it is for: `c 1 1` for a map, `c` for what has no places."""
        if self.network.is_flat(step.name):
            return name
        return self.add("Unsqueeze", f"{name}.channels", name, self.integers(f"{name}.axes", [1, 2]))

    def relu(self, step: Operation, x: str) -> str:
        return self.add("Relu", step.name, self.vector(x))

    def max_pool(self, step: Operation, x: str) -> str:
        return self.add("MaxPool", step.name, x, **_window(step))

    def average_pool(self, step: Operation, x: str) -> str:
        up = int(step.rounding == "ceil")
        return self.add("AveragePool", step.name, x, **_sizes(step), ceil_mode=up)

    def pad(self, _step: Operation, x: str) -> str:
        """Nothing yet: the blur that reads it is written with its pad."""
        return x

    def blur(self, step: Operation, x: str) -> str:
        """The border reflected, then a binomial filter for each channel."""
        kernel = np.broadcast_to(_BINOMIAL, (step.channels, 1, 3, 3)).astype(stored(self.dtype))
        filters = self.add("Constant", "stem.filters", value=(_KINDS[self.dtype], kernel))
        pads = self.integers("stem.pads", [0, 0, 1, 1, 0, 0, 1, 1])
        x = self.add("Pad", "stem.padded", x, pads, mode="reflect")
        return self.add("Conv", step.name, x, filters, **_sizes(step), group=step.channels)

    def concat(self, step: Operation, *maps: str) -> str:
        return self.add("Concat", step.name, *map(self.vector, maps), axis=1)

    def mean(self, step: Operation, x: str) -> str:
        return self.reduced("GlobalAveragePool", step, x)

    def max(self, step: Operation, x: str) -> str:
        return self.reduced("GlobalMaxPool", step, x)

    def reduced(self, op: str, step: Operation, x: str) -> str:
        """One number for each channel, `n c 1 1`."""
        x = self.add(op, step.name, x)
        self.flat[x] = ""
        return x

    def flatten(self, step: Operation, x: str) -> str:
        return self.add("Flatten", step.name, x, axis=1)

    def dense(self, step: Operation, x: str) -> str:
        kernel, bias = (self.units[step.name][role] for role in ROLES["dense"])
        if self.wide:
            return self.add("Flatten", "logits", self.add("Conv", step.name, x, kernel, bias), axis=1)
        name = "logits" if step.name == HEAD else step.name
        return self.add("Gemm", name, self.vector(x), kernel, bias, transB=1)

    def activation(self, step: Operation, x: str) -> str:
        assert step.function is not None  # noqa: S101 (an activation has one)
        name = "probabilities" if step.name == self.network.output else step.name
        return self.add(_ACTIVATIONS[step.function], name, self.vector(x))


_NODES: dict[OperationKind, Callable[..., str]] = {  # a method of `_Lowering`, the operation, its inputs → its output
    "conv": _Lowering.conv,
    "norm": _Lowering.norm,
    "relu": _Lowering.relu,
    "max_pool": _Lowering.max_pool,
    "average_pool": _Lowering.average_pool,
    "pad": _Lowering.pad,
    "blur": _Lowering.blur,
    "concat": _Lowering.concat,
    "mean": _Lowering.mean,
    "max": _Lowering.max,
    "flatten": _Lowering.flatten,
    "dense": _Lowering.dense,
    "activation": _Lowering.activation,
}


def _sizes(step: Operation) -> dict[str, list[int]]:
    """The attributes of a window's size and stride."""
    return {"kernel_shape": [step.kernel] * 2, "strides": [step.stride] * 2}


def _window(step: Operation) -> dict[str, Any]:
    """The attributes of a window: size, stride and padding."""
    padding = {"auto_pad": "SAME_UPPER"} if step.padding == "same" else {"pads": [step.padding] * 4}
    return {**_sizes(step), **padding}


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
    fields: list[Part] = [text(1, name)]
    if isinstance(value, float):
        return [*fields, single(2, value), integer(20, _FLOAT)]
    if isinstance(value, int):
        return [*fields, integer(3, value), integer(20, _INT)]
    if isinstance(value, str):
        return [*fields, text(4, value), integer(20, _STRING)]
    if isinstance(value, tuple):
        kind, array = value
        tensor: list[Part] = [integers(1, array.shape), integer(2, kind), data(9, array.tobytes())]
        return [*fields, *message(5, tensor), integer(20, _TENSOR)]
    return [*fields, integers(8, value), integer(20, _INTS)]


def _value(number: int, name: str, kind: int, sizes: list[int | str]) -> list[Part]:
    """A graph's input or output; sizes that are open have names."""
    axes = [
        part
        for length in sizes
        for part in message(1, [text(2, length) if isinstance(length, str) else integer(1, length)])
    ]
    tensor = message(1, [integer(1, kind), *message(2, axes)])
    return message(number, [text(1, name), *message(2, tensor)])
