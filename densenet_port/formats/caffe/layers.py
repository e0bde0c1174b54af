"""A DenseNet as Caffe runs it: layers in order, each with the blobs it reads and the one it makes.

A lowering of the network's graph:

    conv                    Convolution without bias
    norm                    BatchNorm with its epsilon, and in place a Scale with a bias
    relu                    ReLU in place
    max_pool, average_pool  Pooling by MAX or AVE
    concat, mean, max       Concat; Pooling over the whole map by AVE or MAX, n c 1 1
    flatten                 Reshape to n c 1 1, channel by channel; Flatten in front of an InnerProduct
    dense                   Convolution of 1×1, as the published networks have it, or InnerProduct; with a bias
    activation              Softmax, Sigmoid, ReLU or TanH; behind the head nothing: a Caffe graph ends in the logits
    pad, blur               Caffe has no such layer; nor has it a softmax's logarithm, or TensorFlow's padding

Caffe rounds a pool's size up and adds a window that hangs over the edge. Whether it can be told to round down depends
on whose Caffe it is: BVLC's (since 2018) has `round_mode: FLOOR`, which OpenCV cannot read; forks and OpenCV have
`ceil_mode: false`, which BVLC's cannot read. So rounding down is done by layers that leave nothing to round, for maps
of every size:

- a 3×3 max pool of stride 2 and padding 1 is a 2×2 max pool of stride 1, and one of stride 2 and padding 1:
  max(x₂ᵢ₋₁, x₂ᵢ, x₂ᵢ₊₁) = max(max(x₂ᵢ₋₁, x₂ᵢ), max(x₂ᵢ, x₂ᵢ₊₁)); Caffe drops a window that begins in the padding;
- a 2×2 average pool of stride 2 behind a 1×1 convolution is one of stride 1 before it, and the convolution has the
  stride of 2, which is always rounded down. Both are linear, so their order does not matter.

Where the contract says "ceil", an average pool is as Caffe has it by itself. So is the pool in front of a flattened
map: of a map that it does not divide Caffe makes one place more, which the layer behind refuses by its size. Source of
the sizes: BVLC Caffe, pooling_layer.cpp and conv_layer.cpp.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, NoReturn

from densenet_port.errors import UsageError
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.graph import IMAGES, Graph, Operation, OperationKind
from densenet_port.network.units import HEAD, Kind

Value = int | bool | float | str | tuple[int, ...]  # a str is an enumeration's word, numbers are a shape
Head = Literal["Convolution", "InnerProduct"]

SIZE = 224  # pixels of the input that a graph is written with; a program may reshape it
INPUT = "data"  # the blob that goes in
BLOBS: dict[Kind, tuple[tuple[str, ...], ...]] = {  # kind of unit → the parts that are the blobs of each of its layers
    "conv": (("kernel",),),
    "norm": (("mean", "variance", "factor"), ("scale", "shift")),
    "dense": (("kernel", "bias"),),
}


_FUNCTIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "relu": "ReLU", "tanh": "TanH"}
_VECTOR = (0, -1, 1, 1)  # of a Reshape: as many pictures, and all of a picture as channels


class Layer(NamedTuple):
    """One layer: its name, type, the blobs it reads, the blob it makes (its own name's, or in place), its settings.

    `settings` are of the parameter message that goes with the type, in caffe.proto's words.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    settings: Mapping[str, Value]


def layers(blueprint: Blueprint, head: Head = "Convolution") -> list[Layer]:
    """The layers behind the blob `data`, in order of execution; without a head they end in the last ReLU.

    `head` is the type of the head's dense layers. The blueprint's tensors are called `<layer>#<n>`, and layers with
    blobs so. Raises UsageError for a network that Caffe's layers cannot be.
    """
    for step in blueprint.graph.operations.values():
        _check(step)
    lowering = _Lowering(blueprint, head)
    for step in _without_rounding(blueprint.graph):
        bottoms = [lowering.tops[name] for name in step.inputs]
        lowering.tops[step.name] = _LAYERS[step.kind](lowering, step, *bottoms)
    return lowering.layers


def layer_of(blob: str) -> str:
    """The layer of a blob: its name without the number."""
    return blob.rpartition("#")[0]


def _check(step: Operation) -> None:
    """Refuse an operation that Caffe has no layers for."""
    if step.kind not in _LAYERS:
        _refuse(step, f"a {step.kind}")
    if step.padding == "same":
        _refuse(step, "TensorFlow's padding")
    if step.function not in (None, *_FUNCTIONS) and not _is_end(step):
        _refuse(step, f"a {step.function}")


def _is_end(step: Operation) -> bool:
    """Whether an activation stands behind the head, which Caffe's graphs leave out."""
    return step.inputs == (HEAD,)


def _without_rounding(network: Graph) -> list[Operation]:
    """Operations of the same function in which Caffe has nothing to round down. Raises UsageError for other pools."""
    steps: list[Operation] = []
    moved: dict[str, str] = {}  # a pool that stands before its convolution now → the convolution, which readers read
    for original in network.operations.values():
        step = replace(original, inputs=tuple(moved.get(name, name) for name in original.inputs))
        if step.kind == "max_pool" and step.stride > 1:
            steps += _two_pools(step)
        elif step.kind == "average_pool" and step.rounding == "floor" and not is_flattened(network, step):
            steps += _pool_first(step, steps.pop())
            moved[step.name] = steps[-1].name
        else:
            steps.append(step)
    return steps


def is_flattened(network: Graph, step: Operation) -> bool:
    """Whether every place of what an operation puts out is read by the head."""
    return any(reader.kind == "flatten" for reader in network.readers[step.name])


def _two_pools(pool: Operation) -> tuple[Operation, Operation]:
    """A 3×3 max pool of stride 2 as two of 2×2."""
    if (pool.kernel, pool.stride, pool.padding) != (3, 2, 1):
        _refuse(pool, "a max pool that rounds down")
    pairs = replace(pool, name=pool.name.replace("pool", "pairs"), kernel=2, stride=1, padding=0)
    return pairs, replace(pool, inputs=(pairs.name,), kernel=2)


def _pool_first(pool: Operation, conv: Operation) -> tuple[Operation, Operation]:
    """An average pool and the 1×1 convolution before it, the other way round."""
    unit = conv.unit
    if unit is None or (conv.name, conv.kind, conv.kernel, conv.stride) != (*pool.inputs, "conv", 1, 1):
        _refuse(pool, "an average pool that rounds down")
    first = replace(pool, inputs=conv.inputs, channels=unit.sizes["i"], stride=1)
    return first, replace(conv, inputs=(pool.name,), stride=pool.stride)


def _refuse(step: Operation, kind: str) -> NoReturn:
    """Raise UsageError for an operation that Caffe does not have."""
    raise UsageError(f"no Caffe graph is made of a network with {kind} ({step.name})", hint="choose another --dst")


class _Lowering:
    """The layers so far; `tops` gives for each operation the blob that it makes."""

    def __init__(self, blueprint: Blueprint, head: Head) -> None:
        """Begin without layers."""
        self.units = blueprint.tensors
        self.head = head
        self.taken = {INPUT} | {layer_of(blob) for parts in self.units.values() for blob in parts.values()}
        self.layers: list[Layer] = []
        self.tops = {IMAGES: INPUT}

    def add(self, name: str, kind: str, *bottoms: str, top: str | None = None, **settings: Value) -> str:
        """Append a layer; gives the blob it makes."""
        self.layers.append(Layer(name, kind, bottoms, top or name, settings))
        return top or name

    def plain(self, name: str, kind: str, *bottoms: str, top: str | None = None, **settings: Value) -> str:
        """Append a layer without weights under a name that no weighted one has."""
        while name in self.taken:
            name += "_"
        return self.add(name, kind, *bottoms, top=top, **settings)

    # -- operations --------------------------------------------------------------------------------------------------

    def conv(self, step: Operation, x: str) -> str:
        return self.add(
            layer_of(self.units[step.name]["kernel"]),
            "Convolution",
            x,
            num_output=step.channels,
            bias_term=False,
            pad=step.padding,
            kernel_size=step.kernel,
            stride=step.stride,
        )

    def norm(self, step: Operation, x: str) -> str:
        statistics, affine = (layer_of(self.units[step.name][parts[0]]) for parts in BLOBS["norm"])
        x = self.add(statistics, "BatchNorm", x, use_global_stats=True, eps=step.epsilon)
        return self.add(affine, "Scale", x, top=x, bias_term=True)

    def relu(self, step: Operation, x: str) -> str:
        return self.plain(step.name, "ReLU", x, top=x)

    def pool(self, step: Operation, x: str) -> str:
        method = "MAX" if step.kind == "max_pool" else "AVE"
        size, stride, pad = step.kernel, step.stride, step.padding
        return self.plain(step.name, "Pooling", x, pool=method, kernel_size=size, stride=stride, pad=pad)

    def concat(self, step: Operation, *maps: str) -> str:
        return self.plain(step.name, "Concat", *maps)

    def mean(self, step: Operation, x: str) -> str:
        return self.plain(step.name, "Pooling", x, pool="AVE", global_pooling=True)

    def max(self, step: Operation, x: str) -> str:
        return self.plain(step.name, "Pooling", x, pool="MAX", global_pooling=True)

    def flatten(self, step: Operation, x: str) -> str:
        if self.head == "InnerProduct":
            return self.plain(step.name, "Flatten", x)
        return self.plain(step.name, "Reshape", x, shape=_VECTOR)

    def dense(self, step: Operation, x: str) -> str:
        name, outputs = layer_of(self.units[step.name]["kernel"]), step.channels
        if self.head == "InnerProduct":
            return self.add(name, self.head, x, num_output=outputs, bias_term=True)
        return self.add(name, self.head, x, num_output=outputs, bias_term=True, kernel_size=1)

    def activation(self, step: Operation, x: str) -> str:
        return x if _is_end(step) else self.plain(step.name, _FUNCTIONS[step.function or ""], x)


_LAYERS: dict[OperationKind, Callable[..., str]] = {  # a method of `_Lowering`, the operation, the bottoms → its top
    "conv": _Lowering.conv,
    "norm": _Lowering.norm,
    "relu": _Lowering.relu,
    "max_pool": _Lowering.pool,
    "average_pool": _Lowering.pool,
    "concat": _Lowering.concat,
    "mean": _Lowering.mean,
    "max": _Lowering.max,
    "flatten": _Lowering.flatten,
    "dense": _Lowering.dense,
    "activation": _Lowering.activation,
}
