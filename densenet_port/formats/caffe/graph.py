"""The graph of a DenseNet as Caffe runs it: layers in order, each with the blobs it reads and the one it makes.

Caffe rounds a pool's size up and adds a window that hangs over the edge. Whether it can be told to round down depends
on whose Caffe it is: BVLC's (since 2018) has `round_mode: FLOOR`, which OpenCV cannot read; forks and OpenCV have
`ceil_mode: false`, which BVLC's cannot read. So rounding down is done by layers that leave nothing to round, for maps
of every size:

- the stem's 3×3 max pool of stride 2 and padding 1 is a 2×2 max pool of stride 1, and one of stride 2 and padding 1:
  max(x₂ᵢ₋₁, x₂ᵢ, x₂ᵢ₊₁) = max(max(x₂ᵢ₋₁, x₂ᵢ), max(x₂ᵢ, x₂ᵢ₊₁)); Caffe drops a window that begins in the padding;
- a transition's 2×2 average pool of stride 2 behind its 1×1 convolution is one of stride 1 before it, and the
  convolution has the stride of 2, which is always rounded down. Both are linear, so their order does not matter.

Where the contract says "ceil", the transition is as Caffe has it by itself. Source of the sizes: BVLC Caffe,
pooling_layer.cpp and conv_layer.cpp.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from densenet_port.errors import UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract

Value = int | bool | float | str  # a str is an enumeration's word
Head = Literal["Convolution", "InnerProduct"]
Names = Mapping[
    str, Sequence[str]
]  # unit → its layers: a convolution's or the head's one; a norm's BatchNorm and Scale

SIZE = 224  # pixels of the input that a graph is written with; a program may reshape it


class Layer(NamedTuple):
    """One layer: its name, type, the blobs it reads, the blob it makes (its own name's, or in place), its settings.

    `settings` are of the parameter message that goes with the type, in caffe.proto's words.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    settings: Mapping[str, Value]


class _Graph:
    """The layers so far; `taken` are the names that weighted layers have."""

    def __init__(self, arch: Architecture, contract: Contract, names: Names) -> None:
        self.arch = arch
        self.contract = contract
        self.names = names
        self.taken = {name for layers in names.values() for name in layers} | {"data"}
        self.layers: list[Layer] = []

    def add(self, name: str, kind: str, *bottoms: str, top: str | None = None, **settings: Value) -> str:
        """Append a layer; gives the blob it makes."""
        self.layers.append(Layer(name, kind, bottoms, top or name, settings))
        return top or name

    def plain(self, name: str, kind: str, *bottoms: str, top: str | None = None, **settings: Value) -> str:
        """Append a layer without weights under a name that no weighted one has."""
        while name in self.taken:
            name += "_"
        return self.add(name, kind, *bottoms, top=top, **settings)

    def conv(self, unit: str, x: str, stride: int = 1) -> str:
        """Append a unit's convolution; zeros around it keep the size."""
        (name,), sizes = self.names[unit], self.arch.units[unit].sizes
        size = sizes["h"]
        self.layers.append(
            Layer(
                name,
                "Convolution",
                (x,),
                name,
                {"num_output": sizes["o"], "bias_term": False, "pad": size // 2, "kernel_size": size, "stride": stride},
            )
        )
        return name

    def norm(self, unit: str, x: str) -> str:
        """Append a unit's two layers and the ReLU, the latter two in place."""
        statistics, affine = self.names[unit]
        x = self.add(statistics, "BatchNorm", x, use_global_stats=True, eps=self.contract.epsilon)
        self.add(affine, "Scale", x, top=x, bias_term=True)
        return self.plain(unit.replace("norm", "relu"), "ReLU", x, top=x)

    def pool(self, name: str, method: str, x: str, stride: int, pad: int = 0) -> str:
        """Append a 2×2 pool."""
        return self.plain(name, "Pooling", x, pool=method, kernel_size=2, stride=stride, pad=pad)

    def stem(self, x: str) -> str:
        """Append the stem, whose pool rounds down."""
        x = self.norm("stem.norm", self.conv("stem.conv", x, stride=2))
        return self.pool("stem.pool", "MAX", self.pool("stem.pairs", "MAX", x, 1), 2, pad=1)

    def layer(self, unit: str, x: str) -> str:
        """Append a dense layer: old channels first, then the new ones."""
        new = self.conv(f"{unit}.conv1", self.norm(f"{unit}.norm1", x))
        if self.arch.bottleneck:
            new = self.conv(f"{unit}.conv2", self.norm(f"{unit}.norm2", new))
        return self.plain(f"{unit}.concat", "Concat", x, new)

    def transition(self, unit: str, x: str) -> str:
        """Append a transition, which rounds as the contract says."""
        x = self.norm(f"{unit}.norm", x)
        if self.contract.pool_rounding == "ceil":
            return self.pool(f"{unit}.pool", "AVE", self.conv(f"{unit}.conv", x), 2)
        return self.conv(f"{unit}.conv", self.pool(f"{unit}.pool", "AVE", x, 1), stride=2)

    def head(self, kind: Head, x: str) -> str:
        """Append the mean over the picture and the head, with a bias."""
        x = self.plain("final.pool", "Pooling", x, pool="AVE", global_pooling=True)
        (name,), classes = self.names["head.dense"], self.arch.units["head.dense"].sizes["o"]
        if kind == "Convolution":
            return self.add(name, kind, x, num_output=classes, bias_term=True, kernel_size=1)
        return self.add(name, kind, x, num_output=classes, bias_term=True)


def graph(arch: Architecture, contract: Contract, names: Names, head: Head = "Convolution") -> list[Layer]:
    """The layers behind the blob `data`, in order of execution; without a head they end in the last ReLU.

    `head` is the type of the last layer: a 1×1 convolution, as the published networks have, or a matrix. Raises
    UsageError for a network that Caffe's layers cannot be.
    """
    if arch.stem != "imagenet" or (contract.stem_padding, contract.stem_pool) != ("symmetric", "max"):
        stem = f"the {arch.stem} stem, {contract.stem_padding} padding and the pool {contract.stem_pool!r}"
        raise UsageError(f"no Caffe graph is made of a network with {stem}", hint="choose another --dst")
    made = _Graph(arch, contract, names)
    x = made.stem("data")
    for block, count in enumerate(arch.layers, start=1):
        for number in range(1, count + 1):
            x = made.layer(f"block{block}.layer{number}", x)
        if block < len(arch.layers):
            x = made.transition(f"transition{block}", x)
    x = made.norm("final.norm", x)
    if arch.classes is not None:
        made.head(head, x)
    return made.layers
