"""A DenseNet's layers out of the steps of an ONNX graph, and what the graph says of its contract.

The steps must be those of a DenseNet, each reading what the one before it gives:

    stem        Conv 7×7, norm, Relu, MaxPool; in a deep stem three Convs 3×3, norms and Relus, and a blur behind the
                MaxPool: Pad that reflects, Conv of one binomial filter a channel; for CIFAR Conv 3×3 alone
    layer       norm, Relu, Conv 1×1, norm, Relu, Conv 3×3; without bottleneck norm, Relu, Conv 3×3
    transition  norm, Relu, Conv 1×1, AveragePool
    end         norm, Relu; with a head the mean over the picture, then Gemm, or MatMul and Add, or Conv 1×1, and
                perhaps Softmax or Sigmoid

and a layer's norm must read everything before it in its block, old channels first. What may stand for a norm, see
`_onnx_norms`. `epsilon` is the shortest decimal that has the attribute's float32: exporters write 1e-5 so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError
from densenet_port.formats.onnx import norms
from densenet_port.formats.onnx.chain import Chain, any_of, attribute, shown
from densenet_port.formats.onnx.constants import axes_of, moved
from densenet_port.formats.onnx.graph import Map, Step
from densenet_port.formats.onnx.model import Constant, Model

_EPSILON = 1e-5  # what is taken where every norm was folded
_NORM = ("BatchNormalization", "Mul", "Add", "Relu")
_MEAN = ("GlobalAveragePool", "ReduceMean")
_FLAT = ("Flatten", "Reshape", "Squeeze")
_OUTPUTS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16
_TRAINING = "training_mode"


class Layer(NamedTuple):
    """A unit, its tensors by part, and the name of the value that it puts out, "" where no value is its alone.

    Parts of a convolution are `weight` (`o i h w`), of the head `weight` (`o i`) and `bias`, of a norm `scale`,
    `shift`, `mean`, `variance`, and `second_scale`, `second_shift` where any norm has a Scale behind it.
    """

    unit: str
    parts: Mapping[str, Constant]
    output: str


class Network(NamedTuple):
    """A DenseNet: its layers in order of execution, what the graph says of the contract, and what is to be noted.

    `facts` are epsilon, stem_padding, stem_pool, pool_rounding, output, where the graph has such a thing, and norms
    ("batchnorm" or "batchnorm+scale"). `worked` says that some norms are worked out, `features` is the last map's name.
    """

    layers: tuple[Layer, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    worked: bool
    features: str


def densenet(model: Model) -> Network:
    """The DenseNet that a model is. Raises MisfitError, which says what was found, for every other."""
    return _Network(Chain(model)).read()


class _Network:
    """A DenseNet while it is read: its layers so far, and what is to be noted."""

    def __init__(self, chain: Chain) -> None:
        """Begin in front of the first step."""
        self.chain = chain
        self.layers: list[Layer | norms.Norm] = []
        self.notes: list[str] = []

    def read(self) -> Network:
        """All of it."""
        self.stem()
        self.blocks()
        features = self.chain.x.pieces[0]
        self.head()
        found = [layer for layer in self.layers if isinstance(layer, norms.Norm)]
        facts = self.facts(double=any(norm.double for norm in found))
        notes = [*self.notes, *norms.lost(found)]
        layers = tuple(map(self.settled(facts), self.layers))
        return Network(layers, facts, tuple(notes), any(norm.worked for norm in found), features)

    def facts(self, *, double: bool) -> dict[str, Any]:
        """One value for each fact. Raises MisfitError where the graph says several."""
        said = {key: found for key, found in self.chain.facts.items() if key != _TRAINING}
        for key, found in said.items():
            if len(found) > 1:
                values = " and ".join(map(str, sorted(found)))
                raise MisfitError(
                    f"{self.chain.model.path}: its layers differ in {key}: {values}", hint="ours can only have one"
                )
        if 1 in self.chain.facts.get(_TRAINING, ()):
            self.notes.append("the graph was exported for training: as it stands it normalises each batch by itself")
        only = {key: next(iter(found)) for key, found in said.items()}
        return {"epsilon": _EPSILON, **only, "norms": "batchnorm+scale" if double else "batchnorm"}

    def settled(self, facts: Mapping[str, Any]) -> Callable[[Layer | norms.Norm], Layer]:
        """How a layer becomes one whose tensors are all known, once the epsilon is."""

        def settle(layer: Layer | norms.Norm) -> Layer:
            if isinstance(layer, Layer):
                return layer
            double = facts["norms"] == "batchnorm+scale"
            parts = norms.parts(self.chain, layer, facts["epsilon"], double=double)
            return Layer(layer.unit, parts, layer.output)

        return settle

    # -- units -------------------------------------------------------------------------------------------------------

    def conv(self, unit: str, sizes: Sequence[int], stride: int = 1) -> tuple[int, Constant | None]:
        """A convolution: the size of its kernel, and a bias that is not zero."""
        chain, chain.where = self.chain, unit
        around = chain.padded()
        step = chain.take("Conv")
        weight, bias = chain.constant(step, 0, 4), chain.optional(step, 1, 1)
        size = weight.tensor.shape[-1]
        if weight.tensor.shape[2] != size or size not in sizes:
            kernels = " or ".join(f"{size}x{size}" for size in sizes)
            chain.fail(f"a kernel of {kernels}", f"{step.node} of the shape {weight.tensor.shape}")
        chain.must(step, group=1, strides=[stride] * 2, dilations=[1] * 2)
        chain.padding(step, size, stride, around)
        biased = bias is not None and any_of(bias)
        self.layers.append(Layer(unit, {"weight": weight}, "" if biased else chain.x.pieces[0]))
        return size, bias

    def norm(self, unit: str, bias: Constant | None = None) -> None:
        """A norm."""
        self.layers.append(norms.take(self.chain, unit, bias))

    def relu(self) -> None:
        """The ReLU behind a norm."""
        self.chain.take("Relu")

    def plain(self, bias: Constant | None) -> None:
        """See that a convolution without a norm behind it has no bias, or one of zeros."""
        if bias is not None and any_of(bias):
            self.chain.fail("no bias", "one that is not zero, and no norm behind it")

    # -- parts of the network ----------------------------------------------------------------------------------------

    def stem(self) -> None:
        """The stem, which the first convolution tells."""
        first = next((step for step in self.chain.steps if step.op == "Conv"), None)
        weight = first.others[0] if first else None
        size = weight.tensor.shape[-1:] if isinstance(weight, Constant) else ()
        if first and size == (3,) and attribute(first, "strides") == [1, 1]:
            self.plain(self.conv("stem.conv", [3])[1])
            return
        for place, stride in ((1, 2), (2, 1), (3, 1)) if size == (3,) else (("", 2),):
            self.norm(f"stem.norm{place}", self.conv(f"stem.conv{place}", [3 if place else 7], stride)[1])
            self.relu()
        self.chain.where = "the stem's pool"
        self.pool()

    def pool(self) -> None:
        """The stem's pool, perhaps with a blur."""
        chain = self.chain
        around = chain.padded()
        step = chain.take("MaxPool")
        blurred = attribute(step, "strides") == [1, 1]
        stride = 1 if blurred else 2
        chain.must(step, kernel_shape=[3, 3], strides=[stride] * 2, dilations=[1, 1], ceil_mode=0)
        chain.padding(step, 3, stride, around)
        chain.record("stem_pool", "blur" if blurred else "max")
        if blurred:
            self.blur()

    def blur(self) -> None:
        """The binomial filter of stride 2 of a blurring pool."""
        chain = self.chain
        pad = chain.take("Pad")
        if chain.around(pad, "reflect") != [1] * 4:
            chain.fail("a Pad of 1 on every side", pad.node)
        step = chain.take("Conv")
        kernel = chain.constant(step, 0, 4).tensor
        chain.must(step, group=kernel.shape[0], strides=[2, 2], dilations=[1, 1], pads=[0] * 4, auto_pad="NOTSET")
        if kernel.shape[1:] != (1, 3, 3) or not np.array_equal(kernel.load(), np.broadcast_to(_BINOMIAL, kernel.shape)):
            chain.fail("a binomial filter", step.node)

    def blocks(self) -> None:
        """All dense blocks and transitions, and the last norm."""
        block = 1
        while self.block(f"block{block}") == "transition":
            self.transition(f"transition{block}")
            block += 1
        self.norm("final.norm")
        if self.chain.next() == "Relu":
            self.relu()
        else:
            self.notes.append("the graph ends without the last ReLU")

    def block(self, name: str) -> str:
        """The layers of a dense block, and what stands behind it."""
        layer = 0
        while (ahead := self.ahead()) == "layer":
            layer += 1
            self.layer(f"{name}.layer{layer}")
        if not layer:
            self.chain.where = name
            self.chain.fail("a dense layer", self.chain.here())
        return ahead

    def ahead(self) -> str:
        """What stands behind the next norm: the rest of a "layer", of a "transition", or the "end"."""
        offset = 0
        while self.chain.next(offset) in _NORM:
            offset += 1
        if self.chain.next(offset) != "Conv":
            return "end"
        return "transition" if self.chain.next(offset + 1) == "AveragePool" else "layer"

    def layer(self, name: str) -> None:
        """A dense layer: its own channels come last in the map behind it."""
        before = self.chain.x
        self.norm(f"{name}.norm1")
        self.relu()
        size, bias = self.conv(f"{name}.conv1", [1, 3])
        if size == 1:
            self.norm(f"{name}.norm2", bias)
            self.relu()
            _, bias = self.conv(f"{name}.conv2", [3])
        self.plain(bias)
        self.chain.x = Map(before.pieces + self.chain.x.pieces)

    def transition(self, name: str) -> None:
        """A transition, whose pool rounds down or up; to pad as TensorFlow does is to round up."""
        self.norm(f"{name}.norm")
        self.relu()
        self.plain(self.conv(f"{name}.conv", [1])[1])
        chain, chain.where = self.chain, f"the pool of {name}"
        step = chain.take("AveragePool")
        chain.must(step, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, dilations=[1, 1])
        chain.must(step, auto_pad=("NOTSET", "VALID", "SAME_UPPER"))
        up = attribute(step, "ceil_mode") or attribute(step, "auto_pad") == "SAME_UPPER"
        chain.record("pool_rounding", "ceil" if up else "floor")

    def head(self) -> None:
        """The mean over the picture and what stands behind it."""
        chain, chain.where = self.chain, "head.dense"
        if chain.next():
            self.mean()
            if chain.next():
                self.dense()
            else:
                self.notes.append("the graph ends in the mean over the picture, without a head")
        if chain.next() or chain.x != chain.last:
            chain.fail(f"the end at {shown(chain.last)}", chain.here())

    def mean(self) -> None:
        """The mean over height and width, with or without their axes."""
        chain = self.chain
        step = chain.take(*_MEAN)
        if step.op == "ReduceMean":
            given = [None, *(value if isinstance(value, Constant) else None for value in step.others)]
            if sorted(axis % 4 for axis in axes_of(step.node, given) or ()) != [2, 3]:
                chain.fail("the mean over height and width", step.node)
        self.flat()

    def flat(self) -> None:
        """Steps that take axes of length one away."""
        while self.chain.next() in _FLAT:
            self.chain.must(self.chain.take(*_FLAT), axis=1)

    def dense(self) -> None:
        """The head, in any of ONNX's ways to write it, and the activation behind it."""
        chain = self.chain
        step = chain.take("Gemm", "MatMul", "Conv")
        weight, bias = self.matrix(step), chain.optional(step, 1, 1)
        if step.op == "MatMul" and chain.next() == "Add":
            bias = chain.constant(chain.take("Add"), 0, 1)
        shift = bias or norms.filled(weight, 0.0, weight.tensor.shape[:1])
        self.layers.append(Layer("head.dense", {"weight": weight, "bias": shift}, chain.x.pieces[0]))
        self.flat()
        chain.record("output", _OUTPUTS[chain.take(*_OUTPUTS).op] if chain.next() in _OUTPUTS else "logits")
        self.flat()

    def matrix(self, step: Step) -> Constant:
        """The head's weight, `o i`."""
        chain = self.chain
        if step.op == "Conv":
            weight = chain.constant(step, 0, 4)
            chain.must(step, group=1, strides=[1, 1], pads=[0] * 4, auto_pad=("NOTSET", "VALID"))
            if weight.tensor.shape[2:] != (1, 1):
                chain.fail("a kernel of 1x1", f"{step.node} of the shape {weight.tensor.shape}")
            return moved(weight, weight.tensor.shape[:2])
        weight = chain.constant(step, 0, 2)
        chain.must(step, alpha=1.0, beta=1.0, transA=0, transB=(0, 1))
        return weight if attribute(step, "transB") else _turned(weight)


def _turned(constant: Constant) -> Constant:
    """A matrix with its axes exchanged."""
    tensor = constant.tensor
    return Constant(Tensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.load().T))
