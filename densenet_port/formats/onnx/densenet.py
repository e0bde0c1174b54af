"""A DenseNet out of the steps of an ONNX graph: its tensors by unit, and what the graph says of its contract.

From what the steps tell (see `evidence`) follows the graph that is expected. What stands in front of it is the
picture's preparation (see `preparation`). Each of its operations, in order of execution, takes its steps, which must
read what the operation reads, hold tensors of its shapes and do what it does:

    conv          Conv, perhaps behind a Pad of zeros; with a bias only if a norm alone reads it
    norm          see `norms`
    relu          Relu; without a head the last one may be missing, which is noted
    max_pool      MaxPool, perhaps behind a Pad of zeros
    average_pool  AveragePool; to pad as TensorFlow does is to round up
    pad, blur     Pad that reflects; Conv with one binomial filter for each channel
    concat        no step: what the next one reads must have the channels of both maps, old ones first, or new ones
                  first in all blocks
    mean, max     GlobalAveragePool or ReduceMean, GlobalMaxPool or ReduceMax, or an AveragePool or MaxPool over the
                  whole map where the picture's size is fixed
    flatten       Flatten or Reshape of a map, c h w or h w c
    dense         Gemm, MatMul and perhaps Add, or Conv 1×1
    activation    Softmax, Sigmoid, Relu, Tanh or LogSoftmax

Behind what has no places any more may stand Flatten, Reshape and Squeeze. Epsilon, padding and rounding may be any, but
one for the whole network. `epsilon` is the shortest decimal that has the attribute's float32: exporters write 1e-5 so.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.formats.onnx import norms, preparation
from densenet_port.formats.onnx.axes import UNKNOWN, is_vector, reduced_places
from densenet_port.formats.onnx.chain import Chain, any_of, attribute
from densenet_port.formats.onnx.constants import moved, numbers
from densenet_port.formats.onnx.ending import (
    ACTIVATIONS,
    FLAT,
    HEADS,
    MAXIMA,
    MEANS,
    WINDOWS,
    end_of_body,
    in_order,
    is_mean,
)
from densenet_port.formats.onnx.evidence import beginning_of, network_of, stem_of_steps
from densenet_port.formats.onnx.model import Constant, Model
from densenet_port.formats.onnx.preparation import Preparation
from densenet_port.formats.onnx.steps import Channel, Map, Step, Steps, steps, summary
from densenet_port.network.architecture import Architecture
from densenet_port.network.channels import Concatenation
from densenet_port.network.contract import Contract
from densenet_port.network.graph import IMAGES, Graph, Operation, OperationKind, graph, stem_of
from densenet_port.network.units import HEAD

_BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16
_AXIS_OF_ONE = 13  # the first opset in which a softmax is over one axis; before, over all from it on
_RESIZING = ("stem_padding", "pool_rounding")  # facts on which the sizes of maps depend
_UNPADDED = ("NOTSET", "VALID")
_TRIED = 8  # outputs, or ends of a body, that are tried
_FRONT = (
    "in front of the network are read: Sub, Div, Mul and Add of one number a channel, channels turned round, a Cast, "
    "and a Transpose of n h w c; export the network without the rest"
)


class UnitReading(NamedTuple):
    """A unit, its tensors by part, and the name of the value that it puts out, "" where no value is its alone.

    Parts of a convolution are `weight` (`o i h w`), of the head `weight` (`o i`) and `bias`, of a norm `scale`,
    `shift`, `mean`, `variance`, and `second_scale`, `second_shift` where any norm has a Scale behind it. The value has
    `axes` (see `steps`).
    """

    unit: str
    parts: Mapping[str, Constant]
    output: str
    axes: str


class Reading(NamedTuple):
    """What a graph is as a DenseNet: its units in order of execution, what it says of the contract, and notes.

    `facts` are epsilon, stem_stride (None for the usual one), stem_padding, stem_pool, pool_rounding, head_pool, output
    and input, where the graph has such a thing, norms ("batchnorm" or "batchnorm+scale"), and as `network.channels` has
    them concatenation, where new channels come first, and flatten, where a map is flattened. `derived` says that some
    norms are worked out, `features` are the values, each with its axes, that are the last map side by side, before its
    ReLU or behind it, `pools` those that are pools over the whole map by its size, with the operator for any size,
    `given` is the map that goes in, and `preparation` what is done to it.
    """

    architecture: Architecture
    units: tuple[UnitReading, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    derived: bool
    features: tuple[tuple[str, str], ...]
    pools: Mapping[str, str]
    given: Map
    preparation: Preparation


def densenet(model: Model, output: str | None = None, *, body: bool = False) -> Reading:
    """The DenseNet that a model is; `output` names the one to take where it has several.

    With `body`, whatever stands behind the last map may be no DenseNet's, and is left out then. Raises MisfitError for
    another network, with the first operation that differs, what it was to be and what it is; UsageError for an output
    that is none.
    """
    walked = steps(model, _output(model, output))
    try:
        return _read(model, walked)
    except MisfitError as error:
        without_head = _body(model, walked)
        if body and without_head is not None:
            return without_head
        if without_head is not None:
            hint = f"--no-top leaves the head out, and takes the body, which is a DenseNet's; {summary(model)}"
            raise MisfitError(error.message, hint=hint) from error
        raise


def _output(model: Model, output: str | None) -> str:
    """The output to take. Raises UsageError for one that is none, MisfitError where it has to be named."""
    names = model.outputs
    if output is None and len(names) == 1:
        return names[0]
    if output is None:
        ends = f"a graph with {len(names)} outputs, {', '.join(names[:_TRIED])}: one must be named"
        raise MisfitError(f"{model.path}: {ends}", hint=_named(model) or summary(model))
    if output not in names:
        raise UsageError(f"{model.path}: no output is called {output!r}", hint=f"known: {', '.join(names)}")
    return output


def _named(model: Model) -> str:
    """The outputs to which the graph is a DenseNet, for the hint; those with a head where any has one."""
    readable = {}
    for name in model.outputs[:_TRIED]:
        try:
            readable[name] = "output" in densenet(model, name).facts
        except PortError:
            continue
    names = [name for name, has_head in readable.items() if has_head] or [*readable]
    return " or ".join(f"--output-name {name}" for name in names)


def _read(model: Model, walked: Steps) -> Reading:
    """The DenseNet that steps are. Raises MisfitError."""
    ordered = in_order(walked.steps, end_of_body(walked.steps))
    chain = Chain(model, walked._replace(steps=ordered))
    try:
        architecture, contract = network_of(chain.steps, fixed=_is_fixed(walked))
    except MisfitError as error:
        raise _difference(chain, error) from error
    reader = _Reader(chain, architecture, contract)
    reader.follow()
    return reader.reading()


def _is_fixed(walked: Steps) -> bool:
    """Whether the graph says height and width of its picture."""
    sizes = dict(zip(walked.first.axes, walked.given.shape, strict=False))
    return len(walked.given.shape) == len(walked.first.axes) and all(sizes.get(axis, 0) > 0 for axis in "hw")


def _difference(chain: Chain, error: MisfitError) -> MisfitError:
    """The error for a graph whose kernels no DenseNet has: where its steps leave one that begins with the same."""
    try:
        beginning = beginning_of(chain.steps)
        _Reader(chain, beginning, stem_of_steps(chain.steps, beginning)).follow()
    except MisfitError as difference:
        return MisfitError(f"{difference.message}; of its kernels: {error.message}", hint=difference.hint)
    return MisfitError(f"{chain.model.path}: no DenseNet: {error.message}", hint=summary(chain.model))


def _body(model: Model, walked: Steps) -> Reading | None:
    """The DenseNet that a graph is up to a ReLU, whatever stands behind; None where it is none."""
    for count in [*_bodies(walked.steps)][:_TRIED]:
        begun = walked._replace(steps=walked.steps[:count], last=walked.steps[count - 1].gives)
        try:
            reading = _read(model, begun)
        except MisfitError:
            continue
        left = Counter(step.op for step in walked.steps[count:])
        named = ", ".join(f"{number} {op}" if number > 1 else op for op, number in left.items())
        return reading._replace(notes=(*reading.notes, f"left out by --no-top, behind the last ReLU: {named}"))
    return None


def _bodies(taken: list[Step]) -> Iterator[int]:
    """How many of the steps may be a body, the longest first.

    It ends in a ReLU of a map that all steps behind it come from, and none of them is a dense layer's, which reads
    several maps side by side.
    """
    later = set[str | Channel]()  # what the steps behind read
    for place in reversed(range(len(taken))):
        step = taken[place]
        made = step.gives.pieces[0]
        if step.op == "Relu" and step.gives.axes.count("h") and later <= {made}:
            yield place + 1
        if len(step.reads.pieces) > 1 and "h" in step.reads.axes and step.op not in (*FLAT, *HEADS[:2]):
            return
        later.discard(made)
        for value in (step.reads, *step.others):
            if isinstance(value, Map):
                later |= {piece.of if isinstance(piece, Channel) else piece for piece in value.pieces}


class _Reader:
    """Takes a chain's steps, operation by operation. `maps` gives for each operation what it puts out."""

    def __init__(self, chain: Chain, architecture: Architecture, contract: Contract) -> None:
        """Begin in front of the first step."""
        self.chain, self.architecture, self.contract = chain, architecture, contract
        self.network = graph(architecture, contract)
        self.features = _features(self.network)
        self.preparation = Preparation(None, False, (), ())
        self.maps = {IMAGES: chain.x}
        self.biases: dict[str, Constant] = {}  # of convolutions in front of a norm
        self.units: list[UnitReading | norms.Norm] = []
        self.notes: list[str] = []
        self.pools: dict[str, str] = {}
        self.concatenation: Concatenation | None = None

    def follow(self) -> None:
        """Take all steps. Raises MisfitError for the first that is another, and where any is left over."""
        chain = self.chain
        self.prepare()
        for operation in self.network.operations.values():
            chain.where = operation.name
            chain.x = self.maps[operation.inputs[0]]
            _STEPS[operation.kind](self, operation)
            if self.network.is_flat(operation.name):
                _take_flat(chain, operation.channels)
            self.maps[operation.name] = chain.x
        if self.network.logits != HEAD and chain.next() and is_mean(chain.steps, chain.at):
            self.take_whole("mean")
            _take_flat(chain, self.network.operations[self.features].channels)
            self.notes.append("the graph ends in the mean over the picture, without a head")
        if chain.next() or chain.x.pieces != chain.last.pieces:
            chain.fail(f"the end at {chain.last}", chain.here())

    def prepare(self) -> None:
        """What is done to the picture in front of the first operation."""
        chain, first = self.chain, next(iter(self.network.operations.values()))
        chain.where = f"front of {first.name}"
        self.compare_shape()
        self.preparation = preparation.take(chain, self.network.channels)
        self.maps[IMAGES] = chain.x
        self.notes += self.preparation.notes
        chain.where = first.name
        if chain.next() not in ("", "Pad", "Conv"):
            chain.fail("Conv", chain.here(), _FRONT)

    def compare_shape(self) -> None:
        """See that the picture's shape, where the graph says it, has the channels where its axes have them."""
        shape, axes, count = self.chain.given.shape, self.chain.first.axes, self.network.channels
        if shape and (len(shape) != len(axes) or shape[axes.index("c")] not in (0, count)):
            self.chain.fail(f"a picture {' '.join(axes)} of {count} channels", f"one of the shape {shape}")

    def reading(self) -> Reading:
        """What was taken. Raises MisfitError where operations differ in what a contract has one of."""
        own = [unit for unit in self.units if isinstance(unit, norms.Norm)]
        facts = self.facts(double=any(norm.double for norm in own))
        if self.chain.training or _drops_out(self.chain.model):
            self.notes.append("the graph was exported for training: as it stands it normalises each batch by itself")
        return Reading(
            units=tuple(_settled(unit, facts) for unit in self.units),
            facts=facts,
            notes=(*self.notes, *norms.lost(own)),
            architecture=self.architecture,
            derived=any(norm.derived for norm in own),
            features=self.last_map(),
            pools=self.pools,
            given=self.chain.first,
            preparation=self.preparation,
        )

    def last_map(self) -> tuple[tuple[str, str], ...]:
        """The values that are the last map side by side, each with its axes."""
        axes = {step.gives.pieces[0]: step.gives.axes for step in self.chain.steps}
        return tuple((str(piece), axes[piece]) for piece in self.maps[self.features].pieces)

    def facts(self, *, double: bool) -> dict[str, Any]:
        """One value for each fact. Raises MisfitError where the graph has several."""
        facts: dict[str, Any] = {"epsilon": self.contract.epsilon}  # where every norm was folded
        for key, values in self.chain.facts.items():
            if len(values) > 1:
                shown = " and ".join(map(str, sorted(values)))
                message = f"{self.chain.model.path}: its layers differ in {key}: {shown}"
                raise MisfitError(message, hint="ours can only have one")
            (facts[key],) = values
        if stem_of(self.architecture.stem).pool:
            facts["stem_pool"] = self.contract.stem_pool
        if len(stem_of(self.architecture.stem).convs) == 1:
            facts["stem_stride"] = self.contract.stem_stride
        if self.concatenation == "new-first":
            facts["concatenation"] = self.concatenation
        if any(operation.kind == "flatten" for operation in self.network.operations.values()):
            facts["head_pool"] = self.contract.head_pool
        if self.network.logits == HEAD:
            facts["output"] = self.contract.output
        if self.preparation.input is not None:
            facts["input"] = self.preparation.input.to_json()
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
        elif chain.next() == "Relu":  # the norm was folded, and left a bias of zeros, which the exporter took out
            self.biases[operation.name] = norms.filled(weight, 0.0, (operation.channels,))
        output = "" if biased else step.node.outputs[0]
        self.units.append(UnitReading(operation.name, {"weight": weight}, output, chain.x.axes))

    def norm(self, operation: Operation) -> None:
        """A norm; of axes that cannot be told only in front of a Gemm, which reads no others than n c."""
        chain = self.chain
        matrix = next((step.op for step in chain.steps[chain.at :] if step.op in HEADS), "")
        if chain.x.axes == UNKNOWN and matrix != HEADS[0]:
            chain.fail("a norm of n c", f"{chain.here()} of axes that cannot be told")
        self.units.append(norms.take(self.chain, operation, self.biases.get(operation.inputs[0])))

    def relu(self, operation: Operation) -> None:
        """A ReLU; that of the last map may be missing where no head reads it."""
        if operation.name == self.features and self.chain.next() != "Relu" and self.network.logits != HEAD:
            self.notes.append("the graph ends without the last ReLU")
        else:
            self.chain.take("Relu")

    def max_pool(self, operation: Operation) -> None:
        chain, zeros = self.chain, self.chain.zeros()
        step = chain.take("MaxPool")
        chain.must(step, **_window(operation), dilations=[1, 1], ceil_mode=0)
        chain.padding(step, operation, zeros)

    def average_pool(self, operation: Operation) -> None:
        """An average pool; a place below and right that does not count is what rounding up makes of an odd side."""
        chain = self.chain
        step = chain.take("AveragePool")
        if operation.inputs == (self.features,):
            chain.must(step, **_window(operation), dilations=[1, 1], pads=[0] * 4, auto_pad=_UNPADDED, ceil_mode=0)
            return
        chain.must(step, **_window(operation), dilations=[1, 1], auto_pad=("NOTSET", "VALID", "SAME_UPPER"))
        same = attribute(step, "auto_pad") == "SAME_UPPER"
        over = attribute(step, "auto_pad") == "NOTSET" and attribute(step, "pads") == [0, 0, 1, 1]
        if same or over:
            chain.must(step, count_include_pad=0, ceil_mode=0)
        else:
            chain.must(step, pads=[0] * 4, ceil_mode=(0, 1))
        chain.record("pool_rounding", "ceil" if same or over or attribute(step, "ceil_mode") else "floor")

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
        maps = [self.maps[name] for name in operation.inputs]
        if not self.network.is_flat(operation.name) and self.order_of(*maps) == "new-first":
            maps.reverse()
        self.chain.x = Map(tuple(piece for value in maps for piece in value.pieces), maps[0].axes)

    def order_of(self, old: Map, new: Map) -> Concatenation:
        """The order in which all blocks join their maps: that of the first which is joined."""
        if self.concatenation is None:
            chain = self.chain
            reads = chain.steps[chain.at].reads if chain.next() else chain.last
            self.concatenation = "new-first" if reads.pieces == (*new.pieces, *old.pieces) else "old-first"
        return self.concatenation

    def mean(self, operation: Operation) -> None:
        self.take_whole(operation.kind)

    def take_whole(self, kind: OperationKind) -> None:
        """Take the mean or the maximum over height and width, with or without their axes."""
        chain, ops = self.chain, MEANS if kind == "mean" else MAXIMA
        window = WINDOWS[kind == "max"]
        if chain.next() == window:
            self.take_window_of_all(window, ops[0])
        elif chain.next() == ops[1]:
            _take_reduced(chain, ops[1])
        else:
            chain.take(*ops)

    def take_window_of_all(self, op: str, whole: str) -> None:
        """Take a pool over the whole map, whose size is known where the picture's is fixed."""
        chain = self.chain
        step = chain.take(op)
        sides = self.sides_of(self.features)
        if sides is None:
            what = "mean" if op == WINDOWS[0] else "maximum"
            chain.fail(
                f"the {what} over the map", f"{step.node}, over {attribute(step, 'kernel_shape')} places of any size"
            )
        chain.must(step, kernel_shape=sides, pads=[0] * 4, auto_pad=_UNPADDED, dilations=[1, 1])
        self.pools[step.node.outputs[0]] = whole

    def sides_of(self, name: str) -> list[int] | None:
        """Height and width of what an operation puts out; None where the picture's are open."""
        sizes = dict(zip(self.chain.first.axes, self.chain.given.shape, strict=False))
        sides = [sizes.get(axis, 0) for axis in "hw"]
        if not all(sides) or len(self.chain.given.shape) != len(self.chain.first.axes):
            return None
        known = {key: next(iter(self.chain.facts[key])) for key in _RESIZING if key in self.chain.facts}
        network = graph(self.architecture, replace(self.contract, **known))
        return [network.sides(side)[name] for side in sides]

    def flatten(self, operation: Operation) -> None:
        """A map of a size as a vector: channel by channel, or place by place where the channels are last."""
        chain, side = self.chain, operation.kernel
        step = chain.take(*FLAT[:2])
        order = {"nchw": "c h w", "nhwc": "h w c"}.get(step.reads.axes)
        if order is None:
            chain.fail("n c h w or n h w c to be flattened", f"{step.node} of {' '.join(step.reads.axes)}")
        sides = self.sides_of(operation.inputs[0])
        if sides not in (None, [side, side]):
            chain.fail(f"a map of {side} by {side} to be flattened", f"one of {sides[0]} by {sides[1]}")
        if step.op == "Flatten":
            chain.must(step, axis=(1, 1 - len(step.reads.axes)))
        else:
            _compare_shape(chain, step, operation.channels)
        if side > 1:
            chain.record("flatten", order)

    def dense(self, operation: Operation) -> None:
        chain, sizes = self.chain, self.network.units[operation.name].sizes
        step, shape = chain.take(*HEADS), (sizes["o"],)
        if step.op != "Conv" and step.reads.axes not in ("nc", "?"):
            chain.fail("the head to read n c", f"{step.node}, which reads {' '.join(step.reads.axes)}")
        weight, bias = _matrix(chain, step, sizes), chain.optional(step, 1, shape)
        if step.op == "MatMul" and chain.next() == "Add":
            bias = chain.constant(chain.take("Add"), 0, shape)
        shift = bias or norms.filled(weight, 0.0, shape)
        output = str(chain.x.pieces[0])
        self.units.append(UnitReading(operation.name, {"weight": weight, "bias": shift}, output, chain.x.axes))

    def activation(self, operation: Operation) -> None:
        chain = self.chain
        step = chain.take(*(op for op, function in ACTIVATIONS.items() if function == operation.function))
        if step.op in ("Softmax", "LogSoftmax") and not _is_over_classes(step, chain.model.opset):
            axis = step.node.attributes.get("axis", "not given")
            chain.fail(f"{step.op} over the classes", f"{step.node} of {' '.join(step.reads.axes)}, axis {axis}")


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
    "max": _Reader.mean,
    "flatten": _Reader.flatten,
    "dense": _Reader.dense,
    "activation": _Reader.activation,
}


def _drops_out(model: Model) -> bool:
    """Whether a Dropout is told to work as in training, by its third input."""
    true = {name for name, constant in model.constants.items() if _is_true(constant)}
    true |= {
        node.outputs[0] for node in model.nodes if node.op == "Constant" and _is_true(node.attributes.get("value"))
    }
    return any(node.op == "Dropout" and not true.isdisjoint(node.inputs[2:]) for node in model.nodes)


def _is_true(constant: Constant | None) -> bool:
    """Whether a constant is a truth value, and true."""
    return isinstance(constant, Constant) and constant.tensor.dtype == "bool" and any_of(constant)


def _features(network: Graph) -> str:
    """The operation that puts out the last map."""
    for operation in network.operations.values():
        if operation.name == "final.pool" or network.is_flat(operation.name):
            return operation.inputs[0]
    return network.output


def _window(operation: Operation) -> dict[str, list[int]]:
    """The attributes of a pool's window."""
    return {"kernel_shape": [operation.kernel] * 2, "strides": [operation.stride] * 2}


def _take_reduced(chain: Chain, op: str) -> None:
    """Take ReduceMeans, or ReduceMaxs, over height and width, both at once or one after the other."""
    gone, what = "", f"the {'mean' if op == MEANS[1] else 'maximum'} over height and width"
    while chain.next() == op and len(gone) < len("hw"):
        step = chain.take(op)
        given = [value if isinstance(value, Constant) else None for value in step.others]
        unclear = any(value is not None and not isinstance(value, Constant) for value in step.others)
        places = UNKNOWN if unclear else reduced_places(step.node, step.reads.axes, given)
        if places not in ("hw", "h", "w") or set(places) & set(gone):
            chain.fail(what, step.node)
        gone += places
    if sorted(gone) != ["h", "w"]:
        chain.fail(what, chain.here())


def _take_flat(chain: Chain, count: int) -> None:
    """Take steps that take axes of length one away from so many channels."""
    while chain.next() in FLAT and chain.steps[chain.at].reads.pieces == chain.x.pieces:
        step = chain.take(*FLAT)
        if step.op == "Flatten":
            chain.must(step, axis=(1, 1 - len(step.reads.axes)))
        if not is_vector(step.reads.axes) and step.reads.axes != UNKNOWN:
            chain.fail("n c to be left", f"{step.node} of {' '.join(step.reads.axes)}")
        if step.op == "Squeeze" and step.gives.axes == UNKNOWN:
            chain.fail("n c to be left", step.node)
        if step.op == "Reshape":
            _compare_shape(chain, step, count)


def _compare_shape(chain: Chain, step: Step, count: int) -> None:
    """See that a Reshape keeps the channels together, where its shape is not worked out."""
    given = step.others[0] if step.others else None
    shape = step.node.attributes.get("shape") or (numbers(given, step.node) if isinstance(given, Constant) else None)
    if shape is not None and (step.gives.axes == UNKNOWN or shape[1] not in (-1, 0, count)):
        chain.fail(f"a Reshape to n {count}", f"{step.node} to {shape}")


def _is_over_classes(step: Step, opset: int) -> bool:
    """Whether a softmax is over the classes alone, whose axis has no others behind it but ones."""
    axes = step.reads.axes
    axis = step.node.attributes.get("axis", 1 if opset < _AXIS_OF_ONE else -1)
    if UNKNOWN in axes or not -len(axes) <= axis < len(axes):
        return False
    axis %= len(axes)
    if opset >= _AXIS_OF_ONE:
        return axes[axis] == "c"
    return axes[axis:].strip("1") == "c" and "c" not in axes[:axis]


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
    return UnitReading(unit.unit, norms.parts(unit, facts["epsilon"], double=double), unit.output, unit.axes)
