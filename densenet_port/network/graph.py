"""The network as data: what a DenseNet computes, told once.

Source: Huang et al., *Densely Connected Convolutional Networks*, 2017.
`graph` makes of an architecture's numbers and a contract the operations in order of execution. Whatever runs or
writes a network is a lowering of them: `network.numpy`, `network.keras` and `network.torch` here, the graphs of Keras,
ONNX and Caffe files in `formats`; whatever reads one by its graph compares it with them.

A **unit** is an operation that holds weights, by its dotted name, in order of execution:

    stem.conv  stem.norm  block1.layer1.norm1  block1.layer1.conv1  block1.layer1.norm2  block1.layer1.conv2  …
    transition1.norm  transition1.conv  …  final.norm  head.dense

The others are called after what they belong to: `stem.pool`, `block1.layer1.relu1`, `block1.layer1.concat`,
`transition1.pool`, `final.relu`, `final.pool`, `head.softmax`. A dense block concatenates old channels first, then the
new ones. What may stand between the last map and the head's last dense layer is told by `network.head`: its units are
`head.norm1`, `head.dense1` and so on, before `head.dense`.
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import count, islice
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

from densenet_port.network.contract import Activation, Contract, Rounding
from densenet_port.network.head import Head, head_of
from densenet_port.network.units import HEAD, Unit, conv_unit, dense_unit, norm_unit

IMAGES = "images"  # the name of what goes in

OperationKind = Literal[
    "conv",
    "norm",
    "relu",
    "max_pool",
    "average_pool",
    "pad",
    "blur",
    "concat",
    "mean",
    "max",
    "flatten",
    "dense",
    "activation",
]
StemKind = (
    str  # a name in STEMS; or the side of one convolution's kernel, and whether a norm follows: "5x5", "5x5-norm"
)
Padding = int | Literal["same"]


class StemConv(NamedTuple):
    """One convolution of a stem: the side of its kernel, its stride, and by what the stem's channels are divided."""

    kernel: int
    stride: int
    divisor: int = 1


class Stem(NamedTuple):
    """What stands before the first dense block: convolutions, each with norm and ReLU where `norms`, and a pool.

    One convolution is `stem.conv`, several are `stem.conv1`, `stem.conv2` …; norms and ReLUs alike.
    """

    convs: tuple[StemConv, ...]
    norms: bool
    pool: bool

    def names(self, part: str) -> list[str]:
        """The names of a part (`conv`, `norm`, `relu`) of each convolution."""
        several = len(self.convs) > 1
        return [f"stem.{part}{place if several else ''}" for place in range(1, len(self.convs) + 1)]

    @property
    def units(self) -> list[str]:
        """The names of the stem's units, in order of execution."""
        parts = [self.names("conv"), self.names("norm")] if self.norms else [self.names("conv")]
        return [name for names in zip(*parts, strict=True) for name in names]


STEMS: dict[StemKind, Stem] = {
    "imagenet": Stem(convs=(StemConv(7, 2),), norms=True, pool=True),  # the paper's table 1
    "cifar": Stem(convs=(StemConv(3, 1),), norms=False, pool=False),  # the paper's section 4.2
    # torchvision's class with its first convolution replaced, as people train it on small pictures
    "cifar-norm": Stem(convs=(StemConv(3, 1),), norms=True, pool=True),
    # timm 1.0.31, models/densenet.py: its growth rate is half of the stem's channels
    "deep": Stem(convs=(StemConv(3, 2, 2), StemConv(3, 1, 2), StemConv(3, 1)), norms=True, pool=True),
}
_STEM = re.compile(r"([1-9]\d?)x\1(-norm)?")
_WIDE = 7  # the side from which on a kernel usually has a stride of 2


@lru_cache(maxsize=1 << 6)
def stem_of(kind: StemKind) -> Stem:
    """The stem of a kind; one of another size has the stride that its size usually has. Raises KeyError for none."""
    if kind in STEMS:
        return STEMS[kind]
    match = _STEM.fullmatch(kind)
    if match is None or int(match[1]) % 2 == 0:
        raise KeyError(kind)
    side = int(match[1])
    return Stem(convs=(StemConv(side, 1 if side < _WIDE else 2),), norms=bool(match[2]), pool=bool(match[2]))


def stem_kind(side: int, *, norms: bool) -> StemKind:
    """The kind of a stem of one convolution, whose kernel has a side; the name of a usual one where it is that."""
    usual = (kind for kind, stem in STEMS.items() if len(stem.convs) == 1)
    for kind in usual:
        if (STEMS[kind].convs[0].kernel, STEMS[kind].norms) == (side, norms):
            return kind
    return f"{side}x{side}{'-norm' if norms else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One step: what it is called, which operations it reads, and how it computes.

    - conv: cross-correlation with `kernel` × `kernel` places, `stride`, zeros around by `padding`; no bias.
    - norm: `(x − mean) / √(variance + epsilon) · scale + shift` for each channel.
    - max_pool, average_pool: over `kernel` × `kernel` places with `stride`. The map of a max pool has no negative
      numbers, so zeros pad it. An average pool's windows begin at the first place; where the last one hangs over the
      edge, `rounding` says whether it is left out ("floor") or averages the places that are there ("ceil").
    - pad: one place around, mirrored at the border, which is not repeated: 1 | 0 1 2 …
    - blur: the binomial filter [1 2 1]/4 along both axes for each channel, with `stride` and no padding.
    - concat: the channels of the first input, then those of the second.
    - mean, max: over height and width; what they give has no places any more.
    - flatten: a map of `kernel` × `kernel` places, row by row, each with all its channels.
    - dense: `x · kernel + bias`. activation: `function` of the classes; a softmax is over all of them.

    `padding` is a number of places on every side, or "same": as many as ⌈size / stride⌉ results need, the smaller half
    in front (TensorFlow's rule). `unit` is there for what holds weights. `channels` are those that come out.
    """

    name: str
    kind: OperationKind
    inputs: tuple[str, ...]
    channels: int
    unit: Unit | None = None
    kernel: int = 1
    stride: int = 1
    padding: Padding = 0
    rounding: Rounding = "floor"
    epsilon: float = 0.0
    function: Activation | None = None

    def side(self, side: int) -> int:
        """Places that come out along an axis on which `side` places go in; 0 or less where there is nothing to do."""
        match self.kind:
            case "flatten":
                return 1 if side == self.kernel else 0
            case "pad":
                return side + 2 if side > 1 else 0  # the first place but one is what is mirrored
            case "conv" | "max_pool" | "average_pool" | "blur" if self.padding == "same":
                return -(-side // self.stride)
            case "conv" | "max_pool" | "average_pool" | "blur":
                room = side + 2 * int(self.padding) - self.kernel
                return (room // self.stride if self.rounding == "floor" else -(-room // self.stride)) + 1
            case _:
                return side


class Numbers(Hashable, Protocol):
    """The numbers from which a graph follows: an Architecture has them and tells what they mean."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Dense layers of each block."""

    @property
    def growth_rate(self) -> int:
        """New channels of each dense layer."""

    @property
    def init_channels(self) -> int:
        """Channels behind the stem."""

    @property
    def bottleneck(self) -> int:
        """Width of the 1×1 convolution in growth rates; 0 for none."""

    @property
    def reduction(self) -> float | tuple[float, ...]:
        """Share of the channels that a transition drops; several where transitions differ, one for each."""

    @property
    def final_norm(self) -> bool:
        """Whether a norm and a ReLU stand behind the last block."""

    @property
    def head(self) -> str:
        """What stands behind the last map, as `network.head` has it."""

    @property
    def stem(self) -> StemKind:
        """Which stem."""

    @property
    def channels(self) -> int:
        """Channels of the images."""

    @property
    def classes(self) -> int | None:
        """Outputs of the head; None without one."""


@dataclass(frozen=True)
class Graph:
    """The operations of one network by name, in order of execution; each reads what stands before it, or the images."""

    channels: int
    operations: Mapping[str, Operation] = field(hash=False)

    @property
    def output(self) -> str:
        """The last operation: logits or what an activation makes of them; without a head the last map."""
        return list(self.operations)[-1]

    @property
    def logits(self) -> str:
        """What is compared: the head's operation, or without a head the last map."""
        return HEAD if HEAD in self.operations else self.output

    @cached_property
    def units(self) -> dict[str, Unit]:
        """Name → unit, in order of execution."""
        return {name: step.unit for name, step in self.operations.items() if step.unit is not None}

    @cached_property
    def readers(self) -> dict[str, tuple[Operation, ...]]:
        """Name → the operations that read it."""
        readers: dict[str, list[Operation]] = {name: [] for name in (IMAGES, *self.operations)}
        for step in self.operations.values():
            for name in step.inputs:
                readers[name].append(step)
        return {name: tuple(steps) for name, steps in readers.items()}

    def sides(self, side: int) -> dict[str, int]:
        """Name → places along one axis, for images that have `side` of them; what is flat has 1."""
        sides = {IMAGES: side}
        for name, step in self.operations.items():
            sides[name] = 1 if self.is_flat(name) else step.side(sides[step.inputs[0]])
        return sides

    def shapes(self, images: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """Name → shape of what an operation puts out, `n h w c` (`n c` behind the mean), for images `n h w c`."""
        number, height, width, _ = images
        rows, columns = self.sides(height), self.sides(width)
        return {
            name: (number, step.channels) if self.is_flat(name) else (number, rows[name], columns[name], step.channels)
            for name, step in self.operations.items()
        }

    def is_flat(self, name: str) -> bool:
        """Whether an operation puts out one number for each channel, without height and width."""
        return name in self._flat

    @cached_property
    def _flat(self) -> frozenset[str]:
        """The operations whose output has no places: from the one that takes them away to the end."""
        flat: set[str] = set()
        for name, step in self.operations.items():
            if step.kind in ("mean", "max", "flatten", "dense") or flat.issuperset(step.inputs):
                flat.add(name)
        return frozenset(flat)

    def takes(self, side: int) -> bool:
        """Whether every operation has a place to work on, for images with `side` places along an axis."""
        return _survives(side, [*self.operations.values()])

    @cached_property
    def smallest_side(self) -> int:
        """The smallest height and width that leave every operation a place: 29 for the original ImageNet networks."""
        resizing = [step for step in self.operations.values() if step.side(1 << 20) != 1 << 20]
        return next(side for side in count(1) if _survives(side, resizing))

    @property
    def fixed_side(self) -> int | None:
        """The height and width of images whose every place a head reads, as many as the strides divide; None for any.

        224 for a head that flattens a map of 7 × 7 places of an ImageNet network.
        """
        flat = next((step for step in self.operations.values() if step.kind == "flatten"), None)
        if flat is None:
            return None
        side = flat.kernel * prod(step.stride for step in self.operations.values())
        return side if self.takes(side) else self.smallest_side

    def edited(self, name: str, **changes: object) -> "Graph":
        """The same network with other attributes in one operation."""
        step = replace(self.operations[name], **changes)  # type: ignore[arg-type]
        return replace(self, operations={**self.operations, name: step})

    def without(self, name: str) -> "Graph":
        """The same network without an operation of one input: what read it reads that input."""
        (source,) = self.operations[name].inputs
        steps = {
            other: replace(step, inputs=tuple(source if read == name else read for read in step.inputs))
            for other, step in self.operations.items()
            if other != name
        }
        return replace(self, operations=steps)


def _survives(side: int, resizing: list[Operation]) -> bool:
    """Whether every operation that changes sizes leaves a place, one after the other."""
    for step in resizing:
        side = step.side(side)
        if side < 1:
            return False
    return True


@lru_cache(maxsize=64)
def graph(numbers: Numbers, contract: Contract) -> Graph:
    """The network of an architecture and a contract."""
    steps = {step.name: step for step in _Builder(numbers, contract).network()}
    return Graph(numbers.channels, steps)


class _Builder:
    """Makes operations one after the other; `last` is the one that the next reads."""

    def __init__(self, numbers: Numbers, contract: Contract) -> None:
        self.numbers = numbers
        self.contract = contract
        self.last = IMAGES
        self.channels = numbers.channels

    def network(self) -> Iterator[Operation]:
        """All of them, in order of execution."""
        yield from self.stem()
        blocks = len(self.numbers.layers)
        for block, layers in enumerate(self.numbers.layers, start=1):
            for layer in range(1, layers + 1):
                yield from self.layer(f"block{block}.layer{layer}")
            if block < blocks:
                yield from self.transition(f"transition{block}", self.reduction(block))
        head = None if self.numbers.classes is None else head_of(self.numbers.head)
        if self.numbers.final_norm:
            steps = self.norm("final.norm")
            yield from islice(steps, 1) if head and head.bare else steps
        if head and self.numbers.classes is not None:
            yield from self.head(head, self.numbers.classes)

    def stem(self) -> Iterator[Operation]:
        """The stem: its convolutions, and its pool."""
        stem = stem_of(self.numbers.stem)
        only = self.contract.stem_stride if len(stem.convs) == 1 else None
        for name, norm, conv in zip(stem.names("conv"), stem.names("norm"), stem.convs, strict=True):
            yield self.conv(name, conv.kernel, self.numbers.init_channels // conv.divisor, only or conv.stride)
            if stem.norms:
                yield from self.norm(norm)
        if stem.pool and self.contract.stem_pool != "none":
            yield from self.stem_pool()

    def stem_pool(self) -> Iterator[Operation]:
        """A 3×3 maximum of stride 2; or of stride 1, and then a blur of stride 2 over the map and its reflection.

        Source of the latter: timm 1.0.31, layers/blur_pool.py, after Zhang, *Making Convolutional Networks
        Shift-Invariant Again*, 2019.
        """
        if self.contract.stem_pool == "max":
            yield self.add("stem.pool", "max_pool", kernel=3, stride=2, padding=self.padding(3))
            return
        yield self.add("stem.pool", "max_pool", kernel=3, padding=1)
        yield self.add("stem.pad", "pad")
        yield self.add("stem.blur", "blur", kernel=3, stride=2)

    def layer(self, name: str) -> Iterator[Operation]:
        """A dense layer: from everything before it in its block, `growth_rate` new channels."""
        before, width = self.last, self.channels
        yield from self.norm(f"{name}.norm1")
        if self.numbers.bottleneck:
            yield self.conv(f"{name}.conv1", 1, self.numbers.bottleneck * self.numbers.growth_rate)
            yield from self.norm(f"{name}.norm2")
            yield self.conv(f"{name}.conv2", 3, self.numbers.growth_rate)
        else:
            yield self.conv(f"{name}.conv1", 3, self.numbers.growth_rate)
        self.channels += width
        yield self.add(f"{name}.concat", "concat", inputs=(before, self.last))

    def reduction(self, block: int) -> float:
        """The reduction of the transition behind a block."""
        reduction = self.numbers.reduction
        return reduction[block - 1] if isinstance(reduction, tuple) else reduction

    def transition(self, name: str, reduction: float) -> Iterator[Operation]:
        """A transition keeps `int(channels · (1 − reduction))` channels, and halves height and width."""
        yield from self.norm(f"{name}.norm")
        yield self.conv(f"{name}.conv", 1, int(self.channels * (1.0 - reduction)))
        rounding = self.contract.pool_rounding
        yield self.add(f"{name}.pool", "average_pool", kernel=2, stride=2, rounding=rounding)

    def head(self, head: Head, classes: int) -> Iterator[Operation]:
        """One vector of the last map, dense layers with what stands between them, and what the contract puts behind."""
        yield from self.vector(head)
        counts: dict[str, int] = {}
        for step in head.steps:
            counts[step.kind] = counts.get(step.kind, 0) + 1
            name = f"head.{step.kind}{counts[step.kind]}"
            if step.kind == "norm":
                unit = norm_unit(name, self.channels)
                yield self.add(name, "norm", unit=unit, epsilon=self.contract.epsilon)
            elif step.kind == "relu":
                yield self.add(name, "relu")
            elif step.kind == "dense":
                yield self.dense(name if step.outputs else HEAD, step.outputs or classes)
            else:
                yield self.add(name, "activation", function=step.kind)
        if self.contract.output != "logits":
            yield self.add(f"head.{self.contract.output}", "activation", function=self.contract.output)

    def vector(self, head: Head) -> Iterator[Operation]:
        """The means over the last map, joined where there are several; or every place of the map."""
        last, channels = self.last, self.channels
        if head.side > 1 or not head.pools:
            side = self.contract.head_pool
            if side > 1:
                yield self.add("final.pool", "average_pool", kernel=side, stride=side)
            self.channels *= head.side**2
            yield self.add("head.flatten", "flatten", kernel=head.side)
            return
        names = ["final.pool"] if len(head.pools) == 1 else [f"final.{kind}" for kind in head.pools]
        for name, kind in zip(names, head.pools, strict=True):
            yield self.add(name, kind, inputs=(last,))
        if len(names) > 1:
            self.channels = channels * len(names)
            yield self.add("final.concat", "concat", inputs=tuple(names))

    def dense(self, name: str, outputs: int) -> Operation:
        """A dense layer."""
        unit = dense_unit(name, self.channels, outputs)
        self.channels = outputs
        return self.add(name, "dense", unit=unit)

    def conv(self, name: str, kernel: int, outputs: int, stride: int = 1) -> Operation:
        """A convolution; with a stride it is padded as the contract says, otherwise so that the map keeps its size."""
        unit = conv_unit(name, kernel, self.channels, outputs)
        self.channels = outputs
        padding = self.padding(kernel) if stride > 1 else kernel // 2
        return self.add(name, "conv", unit=unit, kernel=kernel, stride=stride, padding=padding)

    def padding(self, kernel: int) -> Padding:
        """The contract's rule for what has a stride in the stem."""
        return "same" if self.contract.stem_padding == "same" else kernel // 2

    def norm(self, name: str) -> Iterator[Operation]:
        """A norm and the ReLU behind it."""
        yield self.add(name, "norm", unit=norm_unit(name, self.channels), epsilon=self.contract.epsilon)
        yield self.add(name.replace("norm", "relu"), "relu")

    def add(self, name: str, kind: OperationKind, *, inputs: tuple[str, ...] = (), **attributes: Any) -> Operation:
        """An operation that reads the last one, or others."""
        inputs = inputs or (self.last,)
        self.last = name
        return Operation(name=name, kind=kind, inputs=inputs, channels=self.channels, **attributes)
