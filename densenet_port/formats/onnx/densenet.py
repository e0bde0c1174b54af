"""A DenseNet out of the steps of an ONNX graph: its tensors by unit, and what the graph says of its contract.

From what the steps tell (see `evidence`) follows the graph that is expected. Each of its operations, in order of
execution, takes its steps, which must read what the operation reads, hold tensors of its shapes and do what it does:

    conv          Conv, perhaps behind a Pad of zeros; with a bias only if a norm alone reads it
    norm          see `norms`
    relu          Relu; the last one may be missing, which is noted
    max_pool      MaxPool, perhaps behind a Pad of zeros
    average_pool  AveragePool; to pad as TensorFlow does is to round up
    pad, blur     Pad that reflects; Conv with one binomial filter for each channel
    concat        no step: what the next one reads must have the channels of both maps, in their order
    mean          GlobalAveragePool or ReduceMean; Flatten, Reshape, Squeeze behind it
    dense         Gemm, MatMul and perhaps Add, or Conv 1×1; Flatten, Reshape, Squeeze behind it
    activation    Softmax or Sigmoid; Flatten, Reshape, Squeeze behind it

Epsilon, padding and rounding may be any, but one for the whole network. `epsilon` is the shortest decimal that has the
attribute's float32: exporters write 1e-5 so.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError
from densenet_port.formats.onnx import norms
from densenet_port.formats.onnx.chain import Chain, any_of, attribute
from densenet_port.formats.onnx.constants import axes_of, moved
from densenet_port.formats.onnx.evidence import ACTIVATIONS, HEADS, MEANS, architecture_of, beginning_of, contract_of
from densenet_port.formats.onnx.model import Constant, Model
from densenet_port.formats.onnx.steps import Map, Step, summary
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import IMAGES, Graph, Operation, OperationKind, graph
from densenet_port.network.units import HEAD

_FLAT = ("Flatten", "Reshape", "Squeeze")
_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16


class UnitReading(NamedTuple):
    """A unit, its tensors by part, and the name of the value that it puts out, "" where no value is its alone.

    Parts of a convolution are `weight` (`o i h w`), of the head `weight` (`o i`) and `bias`, of a norm `scale`,
    `shift`, `mean`, `variance`, and `second_scale`, `second_shift` where any norm has a Scale behind it.
    """

    unit: str
    parts: Mapping[str, Constant]
    output: str


class Reading(NamedTuple):
    """What a graph is as a DenseNet: its units in order of execution, what it says of the contract, and notes.

    `facts` are epsilon, stem_padding, stem_pool, pool_rounding, output, where the graph has such a thing, and norms
    ("batchnorm" or "batchnorm+scale"). `derived` says that some norms are worked out, `features` names the last map.
    """

    units: tuple[UnitReading, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    derived: bool
    features: str


def densenet(model: Model) -> Reading:
    """The DenseNet that a model is.

    Raises MisfitError for another network, with the first operation that differs, what it was to be and what it is.
    """
    chain = Chain(model)
    contract = contract_of(chain.steps)
    try:
        architecture = architecture_of(chain.steps)
    except MisfitError as error:
        raise _difference(chain, contract, error) from error
    reader = _Reader(chain, architecture, contract)
    reader.follow()
    return reader.reading()


def _difference(chain: Chain, contract: Contract, error: MisfitError) -> MisfitError:
    """The error for a graph whose kernels no DenseNet has: where its steps leave one that begins with the same."""
    try:
        _Reader(chain, beginning_of(chain.steps), contract).follow()
    except MisfitError as difference:
        return MisfitError(f"{difference.message}; of its kernels: {error.message}", hint=difference.hint)
    return MisfitError(f"{chain.model.path}: no DenseNet: {error.message}", hint=summary(chain.model))


class _Reader:
    """Takes a chain's steps, operation by operation. `maps` gives for each operation what it puts out."""

    def __init__(self, chain: Chain, architecture: Architecture, contract: Contract) -> None:
        """Begin in front of the first step."""
        self.chain, self.contract = chain, contract
        self.network = graph(architecture, contract)
        self.features = _features(self.network)
        self.maps = {IMAGES: chain.x}
        self.biases: dict[str, Constant] = {}  # of convolutions in front of a norm
        self.units: list[UnitReading | norms.Norm] = []
        self.notes: list[str] = []

    def follow(self) -> None:
        """Take all steps. Raises MisfitError for the first that is another, and where any is left over."""
        chain = self.chain
        for operation in self.network.operations.values():
            chain.where = operation.name
            chain.x = self.maps[operation.inputs[0]]
            _STEPS[operation.kind](self, operation)
            self.maps[operation.name] = chain.x
        if self.network.logits != HEAD and chain.next() in MEANS:
            _take_mean(chain)
            self.notes.append("the graph ends in the mean over the picture, without a head")
        if chain.next() or chain.x != chain.last:
            chain.fail(f"the end at {chain.last}", chain.here())

    def reading(self) -> Reading:
        """What was taken. Raises MisfitError where operations differ in what a contract has one of."""
        own = [unit for unit in self.units if isinstance(unit, norms.Norm)]
        facts = self.facts(double=any(norm.double for norm in own))
        if self.chain.training:
            self.notes.append("the graph was exported for training: as it stands it normalises each batch by itself")
        return Reading(
            units=tuple(_settled(unit, facts) for unit in self.units),
            facts=facts,
            notes=(*self.notes, *norms.lost(own)),
            derived=any(norm.derived for norm in own),
            features=self.maps[self.features].pieces[0],
        )

    def facts(self, *, double: bool) -> dict[str, Any]:
        """One value for each fact. Raises MisfitError where the graph has several."""
        facts: dict[str, Any] = {"epsilon": self.contract.epsilon}  # where every norm was folded
        for key, values in self.chain.facts.items():
            if len(values) > 1:
                shown = " and ".join(map(str, sorted(values)))
                message = f"{self.chain.model.path}: its layers differ in {key}: {shown}"
                raise MisfitError(message, hint="ours can only have one")
            (facts[key],) = values
        if any(operation.kind == "max_pool" for operation in self.network.operations.values()):
            facts["stem_pool"] = self.contract.stem_pool
        if self.network.logits == HEAD:
            facts["output"] = self.contract.output
        return {**facts, "norms": "batchnorm+scale" if double else "batchnorm"}

    # -- operations --------------------------------------------------------------------------------------------------

    def conv(self, operation: Operation) -> None:
        """A convolution. A bias that is not zero needs a norm that can take it up."""
        chain, zeros = self.chain, self.chain.zeros()
        step = chain.take("Conv")
        sizes = self.network.units[operation.name].sizes
        weight = chain.constant(step, 0, tuple(sizes[axis] for axis in "oihw"))
        bias = chain.optional(step, 1, (operation.channels,))
        chain.must(step, group=1, strides=[operation.stride] * 2, dilations=[1] * 2)
        chain.padding(step, operation, zeros)
        biased = bias is not None and any_of(bias)
        if [reader.kind for reader in self.network.readers[operation.name]] != ["norm"]:
            if biased:
                chain.fail("no bias", "one that is not zero, and no norm behind it")
        elif bias is not None:
            self.biases[operation.name] = bias
        self.units.append(UnitReading(operation.name, {"weight": weight}, "" if biased else chain.x.pieces[0]))

    def norm(self, operation: Operation) -> None:
        self.units.append(norms.take(self.chain, operation, self.biases.get(operation.inputs[0])))

    def relu(self, operation: Operation) -> None:
        """A ReLU; that of the last map may be missing."""
        if operation.name == self.features and self.chain.next() != "Relu":
            self.notes.append("the graph ends without the last ReLU")
        else:
            self.chain.take("Relu")

    def max_pool(self, operation: Operation) -> None:
        chain, zeros = self.chain, self.chain.zeros()
        step = chain.take("MaxPool")
        chain.must(step, **_window(operation), dilations=[1, 1], ceil_mode=0)
        chain.padding(step, operation, zeros)

    def average_pool(self, operation: Operation) -> None:
        chain = self.chain
        step = chain.take("AveragePool")
        chain.must(step, **_window(operation), pads=[0] * 4, dilations=[1, 1])
        chain.must(step, auto_pad=("NOTSET", "VALID", "SAME_UPPER"))
        up = attribute(step, "ceil_mode") or attribute(step, "auto_pad") == "SAME_UPPER"
        chain.record("pool_rounding", "ceil" if up else "floor")

    def pad(self, _operation: Operation) -> None:
        step = self.chain.take("Pad")
        if self.chain.around(step, "reflect") != [1] * 4:
            self.chain.fail("a Pad of 1 on every side", step.node)

    def blur(self, operation: Operation) -> None:
        chain, channels = self.chain, operation.channels
        step = chain.take("Conv")
        kernel = chain.constant(step, 0, (channels, 1, 3, 3)).tensor
        strides = [operation.stride] * 2
        chain.must(step, group=channels, strides=strides, dilations=[1, 1], pads=[0] * 4, auto_pad="NOTSET")
        if not np.array_equal(kernel.load(), np.broadcast_to(_BINOMIAL, kernel.shape)):
            chain.fail("a binomial filter", step.node)

    def concat(self, operation: Operation) -> None:
        """Maps side by side, which is no step."""
        self.chain.x = Map(tuple(piece for name in operation.inputs for piece in self.maps[name].pieces))

    def mean(self, _operation: Operation) -> None:
        _take_mean(self.chain)

    def dense(self, operation: Operation) -> None:
        chain, sizes = self.chain, self.network.units[operation.name].sizes
        step, shape = chain.take(*HEADS), (sizes["o"],)
        weight, bias = _matrix(chain, step, sizes), chain.optional(step, 1, shape)
        if step.op == "MatMul" and chain.next() == "Add":
            bias = chain.constant(chain.take("Add"), 0, shape)
        shift = bias or norms.filled(weight, 0.0, shape)
        self.units.append(UnitReading(operation.name, {"weight": weight, "bias": shift}, chain.x.pieces[0]))
        _take_flat(chain)

    def activation(self, operation: Operation) -> None:
        self.chain.take(*(op for op, function in ACTIVATIONS.items() if function == operation.function))
        _take_flat(self.chain)


_STEPS: dict[OperationKind, Callable[[_Reader, Operation], None]] = {
    "conv": _Reader.conv,
    "norm": _Reader.norm,
    "relu": _Reader.relu,
    "max_pool": _Reader.max_pool,
    "average_pool": _Reader.average_pool,
    "pad": _Reader.pad,
    "blur": _Reader.blur,
    "concat": _Reader.concat,
    "mean": _Reader.mean,
    "dense": _Reader.dense,
    "activation": _Reader.activation,
}


def _features(network: Graph) -> str:
    """The operation that puts out the last map."""
    means = [operation for operation in network.operations.values() if operation.kind == "mean"]
    return means[-1].inputs[0] if means else network.output


def _window(operation: Operation) -> dict[str, list[int]]:
    """The attributes of a pool's window."""
    return {"kernel_shape": [operation.kernel] * 2, "strides": [operation.stride] * 2}


def _take_mean(chain: Chain) -> None:
    """Take the mean over height and width, with or without their axes."""
    step = chain.take(*MEANS)
    if step.op == "ReduceMean":
        given = [None, *(value if isinstance(value, Constant) else None for value in step.others)]
        if sorted(axis % 4 for axis in axes_of(step.node, given) or ()) != [2, 3]:
            chain.fail("the mean over height and width", step.node)
    _take_flat(chain)


def _take_flat(chain: Chain) -> None:
    """Take steps that take axes of length one away."""
    while chain.next() in _FLAT:
        chain.must(chain.take(*_FLAT), axis=1)


def _matrix(chain: Chain, step: Step, sizes: Mapping[str, int]) -> Constant:
    """The head's weight, `o i`, in any of ONNX's ways to write it."""
    shape = (sizes["o"], sizes["i"])
    if step.op == "Conv":
        chain.must(step, group=1, strides=[1, 1], pads=[0] * 4, auto_pad=("NOTSET", "VALID"))
        return moved(chain.constant(step, 0, (*shape, 1, 1)), shape)
    chain.must(step, alpha=1.0, beta=1.0, transA=0, transB=(0, 1))
    if attribute(step, "transB"):
        return chain.constant(step, 0, shape)
    tensor = chain.constant(step, 0, shape[::-1]).tensor
    return Constant(Tensor(shape, tensor.dtype, lambda: tensor.load().T))


def _settled(unit: UnitReading | norms.Norm, facts: Mapping[str, Any]) -> UnitReading:
    """A unit whose tensors are all known, once the epsilon is."""
    if isinstance(unit, UnitReading):
        return unit
    double = facts["norms"] == "batchnorm+scale"
    return UnitReading(unit.unit, norms.parts(unit, facts["epsilon"], double=double), unit.output)
