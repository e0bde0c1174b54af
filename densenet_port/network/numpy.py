"""The graph in numpy, float32 or float64: the third opinion beside the two frameworks of a comparison.

Maps are `n h w c` throughout. BLAS does the work: a 1×1 convolution is one matrix product; a 3×3 convolution is one
product with its nine taps side by side, whose results are added shifted (no copy of the input is made, and the border
needs no padding); a convolution with a stride gathers its windows. A dense block fills one buffer of its final width,
old channels first, so that a concatenation copies the new channels alone.

On a busy machine OPENBLAS_NUM_THREADS=1 is the faster setting: threads that wait for each other's turn cost more than
they bring.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Activation, Contract, Rounding
from densenet_port.network.graph import IMAGES, Graph, Operation, OperationKind, Padding, graph
from densenet_port.network.units import ROLES, Slot

Map = NDArray[np.floating[Any]]
Tap = Callable[[str, Map], None]

SAME_TIME = 224 * 224  # pixels that pass through the network together: one picture, or 49 of CIFAR; more gain nothing


def forward(
    architecture: Architecture,
    contract: Contract,
    weights: Mapping[Slot, Array],
    images: Array,
    *,
    dtype: DTypeLike = np.float64,
    tap: Tap | None = None,
) -> Map:
    """Logits `n classes` of images `n h w c`; without a head the last map `n h w c`, after its ReLU.

    As `run` on the graph of the architecture and the contract, whatever the contract puts behind the logits.
    """
    network = graph(architecture, replace(contract, output="logits"))
    return run(network, weights, images, dtype=dtype, tap=tap, title=f"DenseNet {architecture.name}")


def run(
    network: Graph,
    weights: Mapping[Slot, Array],
    images: Array,
    *,
    dtype: DTypeLike = np.float64,
    tap: Tap | None = None,
    title: str = "this network",
) -> Map:
    """What the last operation of a graph puts out for images `n h w c`: `n h w c`, or `n c` behind the mean.

    `weights` gives every slot of the graph's units in our axes; each is asked for once and cast to `dtype` (float32 or
    float64), as the images are, and every operation happens in it. `tap(unit, array)` sees each unit's output as
    `n h w c` in order of execution: a norm's before the ReLU, a convolution's own channels only, the head's logits.
    With a tap all images run together; without, few at a time, so that memory stays bounded. NaN and infinities pass
    through silently. Raises UsageError for images that the network (`title` in the message) cannot take and for another
    dtype, MisfitError for weights that are missing or of another shape.
    """
    images = _checked(network, images, title)
    prepared = cast_weights(network, weights, dtype)
    count = max(len(images), 1)
    step = count if tap else max(1, SAME_TIME // (images.shape[1] * images.shape[2]))
    return np.concatenate([execute(network, prepared, images[at : at + step], tap) for at in range(0, count, step)])


def cast_weights(network: Graph, weights: Mapping[Slot, Array], dtype: DTypeLike) -> dict[Slot, Map]:
    """Every slot of a graph's units, contiguous, in float32 or float64. Errors as in `run`."""
    kind = np.dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise UsageError(f"the forward pass runs in float32 or float64, not in {kind}")
    prepared: dict[Slot, Map] = {}
    for unit in network.units.values():
        for role in ROLES[unit.kind]:
            slot, shape = Slot(unit.name, role), unit.shape(role)
            if slot not in weights:
                raise MisfitError(f"the weights lack {slot}")
            array = np.asarray(weights[slot])
            if array.shape != shape:
                raise MisfitError(f"{slot}: expected shape {shape}, found {array.shape}")
            with np.errstate(all="ignore"):
                prepared[slot] = np.ascontiguousarray(array, kind)
    return prepared


def execute(network: Graph, weights: Mapping[Slot, Map], images: Array, tap: Tap | None = None) -> Map:
    """One pass of all images together, in the dtype of the weights, which are taken as they are.

    A map is dropped when the last operation that reads it has run.
    """
    dtype = next(iter(weights.values())).dtype
    values: dict[str, Map] = {IMAGES: images.astype(dtype, copy=False)}
    unread = {name: len(readers) for name, readers in network.readers.items()}
    buffers = _Buffers(network)
    with np.errstate(all="ignore"):
        for name, step in network.operations.items():
            inputs = [values[read] for read in step.inputs]
            if step.kind == "concat":
                values[name] = buffers.join(step, *inputs)
            elif step.kind == "relu" and _is_owned(network, step.inputs[0]):
                values[name] = np.maximum(inputs[0], 0, out=inputs[0])
            else:
                values[name] = apply(step, weights, inputs[0])
            if tap and step.unit:
                tap(name, values[name].copy())  # a ReLU may work in place
            for read in step.inputs:
                unread[read] -= 1
                if not unread[read]:
                    del values[read]
    return values[network.output]


def evaluate(network: Graph, name: str, known: Mapping[str, Map], weights: Mapping[Slot, Map]) -> Map:
    """What one operation puts out, worked out from the outputs that are known and no further back.

    `known` holds arrays by operation, the images under `IMAGES`; `weights` are asked for only where a unit's output is
    not known. Raises KeyError that names what is needed and not there.
    """
    if name in known or name == IMAGES:
        return known[name]
    step = network.operations[name]
    inputs = [evaluate(network, read, known, weights) for read in _joined(network, step, known)]
    return np.concatenate(inputs, axis=-1) if step.kind == "concat" else apply(step, weights, inputs[0])


def _joined(network: Graph, step: Operation, known: Mapping[str, Map]) -> Iterator[str]:
    """What an operation reads; a concatenation, in place of another that is not known, what that one joins."""
    for name in step.inputs:
        source = network.operations.get(name)
        if step.kind == "concat" and name not in known and source and source.kind == "concat":
            yield from _joined(network, source, known)
        else:
            yield name


def _is_owned(network: Graph, name: str) -> bool:
    """Whether an operation's output is an array of its own that one other operation reads."""
    made_anew = name != IMAGES and network.operations[name].kind in ("norm", "conv", "dense")
    return made_anew and len(network.readers[name]) == 1


class _Buffers:
    """The maps of dense blocks: each concatenation is a view of one array, which has room for those that follow."""

    def __init__(self, network: Graph) -> None:
        self.network = network
        self.filled: dict[str, Map] = {}  # the latest concatenation of a block → its whole array

    def join(self, step: Operation, before: Map, new: Map) -> Map:
        """The channels of `before`, then the new ones."""
        width = before.shape[-1]
        whole = self.filled.pop(step.inputs[0], None)
        if whole is None:
            whole = np.empty((*before.shape[:-1], self._final_width(step)), before.dtype)
            whole[..., :width] = before
        whole[..., width : step.channels] = new
        self.filled[step.name] = whole
        return whole[..., : step.channels]

    def _final_width(self, step: Operation) -> int:
        """The channels of the last concatenation that takes this one up."""
        following = (other for other in self.network.readers[step.name] if other.kind == "concat")
        while (after := next(following, None)) is not None:
            step = after
            following = (other for other in self.network.readers[step.name] if other.kind == "concat")
        return step.channels


def apply(step: Operation, weights: Mapping[Slot, Map], x: Map) -> Map:
    """One operation of one input."""
    return _OPERATIONS[step.kind](step, weights, x)


def _conv(step: Operation, weights: Mapping[Slot, Map], x: Map) -> Map:
    kernel = weights[Slot(step.name, "kernel")]
    same_size = step.stride == 1 and step.padding == step.kernel // 2
    return convolved(x, kernel) if same_size else strided(x, kernel, step.stride, step.padding)


def _norm(step: Operation, weights: Mapping[Slot, Map], x: Map) -> Map:
    scale, shift, mean, variance = (weights[Slot(step.name, role)] for role in ROLES["norm"])
    return normalised(x, scale, shift, mean, variance, step.epsilon)


def _relu(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return np.maximum(x, 0)


def _max_pool(step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return maxima(padded(x, step.kernel, step.stride, step.padding), step.kernel, step.stride)


def _average_pool(step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return halved(x, step.rounding) if (step.kernel, step.stride) == (2, 2) else averages(x, step.kernel)


def _pad(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")


def _blur(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return blurred(x)


def _mean(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    pooled: Map = x.mean(axis=(1, 2))
    return pooled


def _max(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    largest: Map = x.max(axis=(1, 2))
    return largest


def _flatten(_step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    return x.reshape(len(x), -1)


def _dense(step: Operation, weights: Mapping[Slot, Map], x: Map) -> Map:
    result: Map = x @ weights[Slot(step.name, "kernel")] + weights[Slot(step.name, "bias")]
    return result


def _activation(step: Operation, _weights: Mapping[Slot, Map], x: Map) -> Map:
    assert step.function is not None  # noqa: S101 (an activation has one)
    activated: Map = _ACTIVATIONS[step.function](x)
    return activated


def _softmax(x: Map) -> Map:
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    softmax: Map = raised / raised.sum(axis=1, keepdims=True)
    return softmax


def _log_softmax(x: Map) -> Map:
    below = x - x.max(axis=1, keepdims=True)
    logarithms: Map = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    return logarithms


_ACTIVATIONS: dict[Activation, Callable[[Map], Map]] = {
    "softmax": _softmax,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "log_softmax": _log_softmax,
}


def activated(logits: Map, function: Activation) -> Map:
    """What an activation makes of logits `n classes`."""
    with np.errstate(over="ignore"):  # the sigmoid of a very negative number is zero
        return _ACTIVATIONS[function](logits)


_OPERATIONS: dict[OperationKind, Callable[[Operation, Mapping[Slot, Map], Map], Map]] = {
    "conv": _conv,
    "norm": _norm,
    "relu": _relu,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "pad": _pad,
    "blur": _blur,
    "mean": _mean,
    "max": _max,
    "flatten": _flatten,
    "dense": _dense,
    "activation": _activation,
}


def normalised(x: Map, scale: Map, shift: Map, mean: Map, variance: Map, epsilon: float) -> Map:
    """`(x − mean) / √(variance + epsilon) · scale + shift`, each `c` against the last axis, as one product and one sum.

    The frameworks fold the four numbers into two in the same way (inference mode of Ioffe and Szegedy, 2015).
    """
    factor = scale / np.sqrt(variance + x.dtype.type(epsilon))
    result: Map = x * factor
    result += shift - mean * factor
    return result


def convolved(x: Map, kernel: Map) -> Map:
    """Cross-correlation of stride 1 with a kernel `h w i o` of odd sizes, zeros around, so that height and width stay.

    All taps are one product `(n·h·w, i) @ (i, taps·o)`; each tap's result then goes where its shift puts it.
    """
    height, width, inputs, outputs = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    products = (x.reshape(-1, inputs) @ taps).reshape(*x.shape[:3], height, width, outputs)
    result: Map = products[..., height // 2, width // 2, :].copy()
    for i, j in product(range(height), range(width)):
        if (i, j) != (height // 2, width // 2):
            to_rows, from_rows = _overlap(x.shape[1], i - height // 2)
            to_columns, from_columns = _overlap(x.shape[2], j - width // 2)
            result[:, to_rows, to_columns] += products[:, from_rows, from_columns, i, j]
    return result


def strided(x: Map, kernel: Map, stride: int, padding: Padding) -> Map:
    """Cross-correlation with a kernel `h w i o` and a stride, zeros around; image by image."""
    height, width, _, outputs = kernel.shape
    around = padded(x, height, stride, padding)
    windows = np.lib.stride_tricks.sliding_window_view(around, (height, width), axis=(1, 2))[:, ::stride, ::stride]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # n, places, h w i
    result = np.empty((*windows.shape[:3], outputs), x.dtype)
    for image, out in zip(windows, result, strict=True):
        out[...] = (image.reshape(out.shape[0] * out.shape[1], -1) @ kernel.reshape(-1, outputs)).reshape(out.shape)
    return result


def maxima(x: Map, kernel: int, stride: int) -> Map:
    """The largest number of every `kernel` × `kernel` places, no padding."""
    rows, columns = ((size - kernel) // stride + 1 for size in x.shape[1:3])
    tall = np.maximum.reduce([x[:, i : i + stride * (rows - 1) + 1 : stride] for i in range(kernel)])
    last = stride * (columns - 1) + 1
    result: Map = np.maximum.reduce([tall[:, :, j : j + last : stride] for j in range(kernel)])
    return result


def blurred(x: Map) -> Map:
    """[1 2 1]/4 along both axes with stride 2, no padding."""
    half, quarter = x.dtype.type(0.5), x.dtype.type(0.25)
    tall = (x[:, :-2:2] + x[:, 2::2]) * quarter + x[:, 1:-1:2] * half
    result: Map = (tall[:, :, :-2:2] + tall[:, :, 2::2]) * quarter + tall[:, :, 1:-1:2] * half
    return result


def halved(x: Map, rounding: Rounding) -> Map:
    """The 2×2 average pool of stride 2.

    At an odd size "floor" drops the last row or column, and "ceil" averages what there is of it (BVLC Caffe,
    pooling_layer.cpp: the divisor counts places within the map).
    """
    if rounding == "ceil":  # a row that is averaged with itself is the average of what there is
        x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), "edge")
    rows, columns = (size // 2 * 2 for size in x.shape[1:3])
    tall = x[:, 0:rows:2] + x[:, 1:rows:2]
    result: Map = (tall[:, :, 0:columns:2] + tall[:, :, 1:columns:2]) * x.dtype.type(0.25)
    return result


def averages(x: Map, side: int) -> Map:
    """The average of every `side` × `side` places; what is left over at the edge is dropped."""
    rows, columns = (size // side for size in x.shape[1:3])
    tiles = x[:, : rows * side, : columns * side].reshape(len(x), rows, side, columns, side, x.shape[3])
    result: Map = tiles.mean(axis=(2, 4))
    return result


def padded(x: Map, kernel: int, stride: int, padding: Padding) -> Map:
    """The map with zeros around it, as an operation's `padding` says."""
    around = []
    for size in x.shape[1:3]:
        if padding == "same":
            needed = max(0, stride * (-(-size // stride) - 1) + kernel - size)
            around.append((needed // 2, needed - needed // 2))
        else:
            around.append((padding, padding))
    return np.pad(x, ((0, 0), *around, (0, 0)))


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Where results go and where they come from, along one axis of `size`, when place p reads place p + shift."""
    return slice(max(0, -shift), max(0, size - max(0, shift))), slice(max(0, shift), max(0, size - max(0, -shift)))


def _checked(network: Graph, images: Array, title: str) -> Array:
    """Images that the network can take, as an array."""
    images = np.asarray(images)
    least = network.smallest_side
    if images.ndim != 4 or images.shape[-1] != network.channels:  # n h w c
        expected = f"the axes n h w c with c={network.channels}"
        raise UsageError(f"images must have {expected}, found shape {images.shape}")
    if min(images.shape[1:3]) < least:
        size = f"{images.shape[1]} by {images.shape[2]} pixels"
        raise UsageError(f"images of {size} are too small: {title} needs {least} by {least}")
    if not all(map(network.takes, images.shape[1:3])):
        size = f"{images.shape[1]} by {images.shape[2]} pixels"
        fitting = f"the head of {title} reads every place of its map: {least} by {least} pixels fit"
        raise UsageError(f"images of {size} do not fit: {fitting}")
    return images
