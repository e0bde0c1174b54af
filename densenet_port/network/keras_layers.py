"""The graph in Keras's layers, as data: what the builder makes and what a `.keras` file's configuration lists.

Most operations are one layer. Where a convolution or a max pool has zeros around, a ZeroPadding2D stands in front,
unless Keras's "same" means as many; "same" itself is the rule of TensorFlow, and an average pool of Keras rounds up
with it. Two averages of two are a blur. No layer of Keras pads by reflection; `keras.ops.pad` does, and Keras keeps an
operation in its graph like a layer.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from densenet_port.network.graph import IMAGES, Graph, Operation, Padding

PAD = "Pad"  # `keras.ops.pad`: the one kind that is no layer

_LAST = {"data_format": "channels_last"}
_FLAT: dict[str, str] = {"mean": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D", "flatten": "Flatten"}


class LayerSpec(NamedTuple):
    """One layer: its class in `keras.layers`, its settings as JSON values, the layers it reads and what it puts out.

    `name` is that of the operation, or of a part of it (`stem.conv.pad`, `stem.blur1`); a layer may read the images.
    `channels` come out, as `n h w c`, or as `n c` where `flat`.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    channels: int
    flat: bool


class _Part(NamedTuple):
    """One of the layers that an operation is."""

    kind: str
    name: str
    settings: dict[str, Any]


def lower(network: Graph) -> Iterator[LayerSpec]:
    """The layers of a network, in order of execution."""
    last = {IMAGES: IMAGES}  # operation → the layer that puts out what it does
    for step in network.operations.values():
        inputs = tuple(last[read] for read in step.inputs)
        *before, own = _parts(network, step)
        for part in before:
            yield LayerSpec(*part, inputs, _channels(network, step.inputs[0]), flat=False)
            inputs = (part.name,)
        yield LayerSpec(*own, inputs, step.channels, flat=network.is_flat(step.name))
        last[step.name] = own.name


def _channels(network: Graph, name: str) -> int:
    """The channels that an operation puts out, or the images have."""
    return network.channels if name == IMAGES else network.operations[name].channels


def _parts(network: Graph, step: Operation) -> Iterator[_Part]:
    """The layers that an operation is, in order; the last one puts out what it does."""
    match step.kind:
        case "conv":
            yield from _conv(step)
        case "norm":
            yield _Part("BatchNormalization", step.name, {"axis": -1, "epsilon": step.epsilon})
        case "relu":
            yield _Part("ReLU", step.name, {})
        case "max_pool" | "average_pool" | "blur":
            yield from _pools(step)
        case "pad":
            (reader,) = network.readers[step.name]
            yield _Part(PAD, f"{reader.name}.pad", {"pad_width": [[0, 0], [1, 1], [1, 1], [0, 0]], "mode": "reflect"})
        case "concat":
            yield _Part("Concatenate", step.name, {"axis": -1})
        case "mean" | "max" | "flatten":
            yield _Part(_FLAT[step.kind], step.name, {**_LAST})
        case "dense":
            yield _Part("Dense", step.name, {"units": step.channels, "activation": "linear"})
        case "activation":
            yield _Part("Activation", step.name, {"activation": step.function})


def _conv(step: Operation) -> Iterator[_Part]:
    """A convolution, perhaps behind zeros."""
    padding: Padding = "same" if step.stride == 1 and step.padding == step.kernel // 2 else step.padding
    yield from _zeros(step, padding)
    settings = {"filters": step.channels, "use_bias": False, **_windows("kernel_size", step.kernel, step.stride)}
    yield _Part("Conv2D", step.name, {**settings, "padding": _rule(padding), **_LAST})


def _pools(step: Operation) -> Iterator[_Part]:
    """A maximum, perhaps behind zeros; an average; a blur."""
    if step.kind == "max_pool":
        yield from _zeros(step, step.padding)
        yield _pool("MaxPooling2D", step.name, step.kernel, step.stride, _rule(step.padding))
    elif step.kind == "average_pool":
        rule = "same" if step.rounding == "ceil" else "valid"
        yield _pool("AveragePooling2D", step.name, step.kernel, step.stride, rule)
    else:
        yield _pool("AveragePooling2D", f"{step.name}1", 2, 1, "valid")
        yield _pool("AveragePooling2D", f"{step.name}2", 2, step.stride, "valid")


def _zeros(step: Operation, padding: Padding) -> Iterator[_Part]:
    """Zeros in front of an operation, if it has a number of them around."""
    if padding not in (0, "same"):
        width = [padding, padding]
        yield _Part("ZeroPadding2D", f"{step.name}.pad", {"padding": [width, width], **_LAST})


def _rule(padding: Padding) -> str:
    """How a layer pads behind the zeros that stand in front of it."""
    return "same" if padding == "same" else "valid"


def _pool(kind: str, name: str, size: int, stride: int, padding: str) -> _Part:
    """A pool over squares."""
    return _Part(kind, name, {**_windows("pool_size", size, stride), "padding": padding, **_LAST})


def _windows(size: str, side: int, stride: int) -> dict[str, Any]:
    """Squares and how far apart they are."""
    return {size: [side, side], "strides": [stride, stride]}
