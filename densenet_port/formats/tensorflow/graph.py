"""The graph of a SavedModel's program: what its signature computes, operation by operation.

The signature is `serving_default`, or the only one; it must have one input and one output. Calls of functions are
followed into the function. What is computed of variables and constants alone is a vector (see `vectors`); what is
computed of the pictures is a step of `file_graph`. Of one input and one output:

    Conv2D, MaxPool, AvgPool       `strides`, `ksize` (1, height, width, 1), `padding`: SAME, VALID or EXPLICIT
    FusedBatchNorm, V2, V3         scale, shift, mean, variance; `epsilon` (1e-4), `is_training` (true where left out)
    Mul and Add of vectors         a norm that is written out, or a preparation of pictures where they are numbers
    MatMul, BiasAdd                a dense layer; a bias is for the tensors to tell
    Pad, Mean, Max, ConcatV2       their second (last) input is a constant: zeros around, axes
    Reshape, Squeeze, ReverseV2, StridedSlice, Identity, Cast, and activations by their names

Any other operation is a step of its own name, which no network has. Not followed, and said so: programs that choose
their way as they run, and those that read variables under other names than the file's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from densenet_port.checkpoint import Tensor
from densenet_port.file_graph import INPUT, FileGraph, Pair, Step
from densenet_port.formats.decimals import meant
from densenet_port.formats.tensorflow.program import Node, Program, Signature
from densenet_port.formats.tensorflow.vectors import CONSTANT, VARIABLE, Vector, combined, norm_of

USUAL = "serving_default"
_INITIAL = "__saved_model_init_op"
_MOST = 200_000  # nodes that are followed: a function can call another one twice, and so on
_DEPTH = 32  # of calls
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
_SAME = ("Identity", "StopGradient", "PreventGradient", "ReadVariableOp", "CheckNumerics", "Snapshot")
_BRANCHES = ("Switch", "Merge", "If", "StatelessIf", "While", "StatelessWhile", "Enter", "PlaceholderWithDefault")
_RESHAPING = ("Reshape", "ExpandDims", "Squeeze", "Cast")  # which leave a vector what it is
_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_FACTOR = "Mul"  # the kind of a step that multiplies by variables
_FLOATS = (1, 2, 14, 19)  # TensorFlow's numbers of floating types
_LAST = 3  # the axis of the channels of a map


class NotFollowedError(Exception):
    """What keeps a program from being followed, in words."""


class Value(NamedTuple):
    """What a step puts out."""

    step: str


Result = Value | Vector


def graph_of(program: Program, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> FileGraph:
    """The graph of a program whose variables are a file's tensors; `names` gives those of the keys of its bundle.

    Raises NotFollowedError for what is not followed, LookupError for a program that is broken.
    """
    signature = _signature(program)
    (entered,), (left,) = signature.inputs.values(), signature.outputs.values()
    variables = {node: names[key] for node, key in program.keys().items() if key in names}
    importer = _Importer(program, tensors, variables)
    start = entered.name.partition(":")[0]
    (result,) = importer.run(program.nodes, {start: Value(INPUT)}, [left.name], ())
    if not isinstance(result, Value):
        raise NotFollowedError("its output does not depend on its input")
    shape = entered.shape
    sides: tuple[Any, ...] = shape[1:3] if shape and len(shape) == _LAST + 1 else ()
    size: Pair | None = (sides[0], sides[1]) if sides and None not in sides else None
    return FileGraph(steps=_reached(importer.steps, result.step), outputs=(result.step,), size=size)


def _signature(program: Program) -> Signature:
    """The way to call the program."""
    ways = {name: way for name, way in program.signatures.items() if name != _INITIAL}
    way = ways.get(USUAL) or (next(iter(ways.values())) if len(ways) == 1 else None)
    if way is None:
        raise NotFollowedError(f"it has no signature {USUAL}, but {', '.join(sorted(ways)) or 'none'}")
    if len(way.inputs) != 1 or len(way.outputs) != 1:
        raise NotFollowedError(f"its signature has {len(way.inputs)} inputs and {len(way.outputs)} outputs")
    return way


def _reached(steps: Mapping[str, Step], output: str) -> dict[str, Step]:
    """The steps that an output depends on, in their order."""
    pending, reached = [output], set[str]()
    while pending:
        name = pending.pop()
        if name in steps and name not in reached:
            reached.add(name)
            pending.extend(steps[name].inputs)
    return {name: step for name, step in steps.items() if name in reached}


class _Importer:
    """Makes steps of nodes. `factors` are the vectors that steps multiply by, `variables` names of nodes' tensors."""

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], variables: Mapping[str, str]) -> None:
        """Begin without steps."""
        self.program, self.tensors, self.variables = program, tensors, variables
        self.steps: dict[str, Step] = {}
        self.factors: dict[str, Vector] = {}
        self.left = _MOST

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def run(
        self, nodes: Mapping[str, Node], given: Mapping[str, Result], wanted: list[str], place: tuple[str, ...]
    ) -> list[Result]:
        """What the wanted inputs are in a graph or a function, whose arguments are given; `place` are the calls."""
        values: dict[str, list[Result]] = {name: [value] for name, value in given.items()}
        pending, begun = [name.partition(":")[0] for name in wanted], set[str]()
        while pending:
            name = pending[-1]
            if name in values:
                pending.pop()
                continue
            node = nodes[name]
            missing = [read for read in (one.partition(":")[0] for one in node.inputs) if read not in values]
            if missing and name in begun:
                raise NotFollowedError(f"{node.operation} {name} reads what it gives")
            if missing:
                begun.add(name)
                pending += missing
            else:
                values[name] = self.node(node, [_read(values, one) for one in node.inputs], place)
        return [_read(values, one) for one in wanted]

    def node(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> list[Result]:
        """What a node puts out."""
        self.left -= 1
        if self.left < 0 or len(place) > _DEPTH:
            raise NotFollowedError(f"more than {_MOST} operations, or calls more than {_DEPTH} deep")
        if node.operation in _BRANCHES:
            raise NotFollowedError(f"it chooses its way as it runs ({node.operation} {node.name})")
        if node.operation in _CALLS:
            function = self.program.function(node.function())
            given = dict(zip(function.arguments, inputs, strict=True))
            return self.run(function.nodes, given, [*function.results], (*place, node.name))
        if node.operation in _SAME:
            return [inputs[0]]
        if not any(isinstance(read, Value) for read in inputs):
            return [self.vector(node, tuple(read for read in inputs if isinstance(read, Vector)))]
        return [_STEPS.get(node.operation, _Importer.other)(self, node, inputs, place)]

    def vector(self, node: Node, parts: tuple[Vector, ...]) -> Vector:
        """What a node makes of vectors, or of nothing."""
        if node.operation in _VARIABLES:
            return self.variable(self.variables.get(node.name) or node.text("shared_name") or node.name)
        if node.operation == "Const":
            constant = node.constant()
            return Vector("unknown") if constant is None else Vector(CONSTANT, (), "", *constant)
        return parts[0] if parts and node.operation in _RESHAPING else combined(node.operation, parts)

    def variable(self, name: str) -> Vector:
        """A variable. Raises NotFollowedError for one that the file has under another name, or not at all."""
        if name not in self.tensors:
            raise NotFollowedError(f"its variable {name} is under another name among its tensors")
        return Vector(VARIABLE, name=name)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def add(self, node: Node, kind: str, read: Result, place: tuple[str, ...], **attributes: Any) -> Value:
        """A step that reads another one's result."""
        inputs = (read.step,) if isinstance(read, Value) else ()
        return self.keep(node, kind, inputs, place, **attributes)

    def keep(self, node: Node, kind: str, inputs: tuple[str, ...], place: tuple[str, ...], **attributes: Any) -> Value:
        """A step of a node."""
        name = "/".join((*place, node.name))
        title = f"{node.operation} {node.name}"
        self.steps[name] = Step(name=name, kind=kind, inputs=inputs, title=title, **attributes)
        return Value(name)

    def other(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """An operation that no DenseNet has."""
        read = tuple(one.step for one in inputs if isinstance(one, Value))
        return self.keep(node, node.operation, read, place)

    def conv(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A convolution by a variable."""
        kernel = inputs[1]
        window = _window(node, _sides(node.integers("strides")))
        if not isinstance(kernel, Vector) or kernel.operation != VARIABLE or window is None:
            return self.other(node, inputs, place)
        height, width = self.tensors[kernel.name].shape[:2]
        shapes = {"kernel": (height, width), "dilation": _sides(node.integers("dilations", (1, 1, 1, 1)))}
        return self.add(node, "conv", inputs[0], place, holder=_holder(kernel.name), **shapes, **window)

    def pool(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A maximum or an average over windows."""
        window = _window(node, _sides(node.integers("strides")))
        if window is None:
            return self.other(node, inputs, place)
        kind = "max_pool" if node.operation == "MaxPool" else "average_pool"
        return self.add(node, kind, inputs[0], place, kernel=_sides(node.integers("ksize")), **window)

    def norm(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A batch normalisation by stored statistics."""
        names = [read.name for read in inputs[1:5] if isinstance(read, Vector) and read.operation == VARIABLE]
        holders = {_holder(name) for name in names}
        if node.number("is_training", 1) or not _is_last(node) or len(names) != len(inputs[1:]) or len(holders) != 1:
            return self.other(node, inputs, place)
        epsilon = node.real("epsilon", 1e-4)
        return self.add(node, "norm", inputs[0], place, holder=holders.pop(), epsilon=epsilon)

    def dense(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A dense layer by a variable."""
        kernel = inputs[1]
        turned = node.number("transpose_a") or node.number("transpose_b")
        if not isinstance(kernel, Vector) or kernel.operation != VARIABLE or turned:
            return self.other(node, inputs, place)
        return self.add(node, "dense", inputs[0], place, holder=_holder(kernel.name))

    def times(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A factor for each channel: numbers of a preparation, or what a norm begins with."""
        read, factor = _map_and_vector(inputs)
        if factor is None or read is None:
            return self.other(node, inputs, place)
        if numbers := _numbers(factor, factor=True):
            return self.add(node, "affine", read, place, factors=numbers)
        value = self.add(node, _FACTOR, read, place)
        self.factors[value.step] = factor
        return value

    def divided(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A preparation that divides."""
        numbers = _numbers(inputs[1])
        if not numbers or not isinstance(inputs[0], Value) or 0.0 in numbers:
            return self.other(node, inputs, place)
        return self.add(node, "affine", inputs[0], place, factors=tuple(1 / number for number in numbers))

    def plus(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """An offset for each channel: numbers of a preparation, the end of a norm, or a bias."""
        read, offset = _map_and_vector(inputs)
        if offset is None or read is None or (node.operation == "Sub" and read is not inputs[0]):
            return self.other(node, inputs, place)
        if numbers := _numbers(offset):
            sign = -1 if node.operation == "Sub" else 1
            return self.add(node, "affine", read, place, offsets=tuple(sign * number for number in numbers))
        if node.operation == "Sub" or not _is_last(node):
            return self.other(node, inputs, place)
        before = self.steps.get(read.step)
        if before and before.kind in ("conv", "dense") and offset.operation == VARIABLE:
            return read if _holder(offset.name) == before.holder else self.other(node, inputs, place)
        norm = norm_of(self.factors[read.step], offset) if read.step in self.factors else None
        holders = {_holder(name) for name in norm.variables.values()} if norm else set()
        if norm is None or before is None or len(holders) != 1:
            return self.other(node, inputs, place)
        return self.keep(node, "norm", before.inputs, place, holder=holders.pop(), epsilon=norm.epsilon)

    def joined(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """Maps, one behind the other along the channels."""
        *maps, axis = inputs
        read = tuple(one.step for one in maps if isinstance(one, Value))
        if len(read) != len(maps) or _numbers(axis) not in ((-1,), (_LAST,)):
            return self.other(node, inputs, place)
        return self.keep(node, "concat", read, place)

    def zeros(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """Zeros around a map."""
        around = [int(number) for number in _numbers(inputs[1])]
        if len(around) != 8 or any((*around[:2], *around[6:])) or (len(inputs) > 2 and _numbers(inputs[2]) != (0,)):
            return self.other(node, inputs, place)
        above, below, left, right = around[2:6]
        return self.add(node, "zeros", inputs[0], place, padding=(above, left, below, right))

    def over(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """The mean or the maximum over height and width."""
        axes = {int(axis) % (_LAST + 1) for axis in _numbers(inputs[1])}
        if axes != {1, 2}:
            return self.other(node, inputs, place)
        return self.add(node, node.operation.lower(), inputs[0], place)

    def reshaped(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """All places of a map in a row, each with its channels; another shape is another thing."""
        is_flat = len(_numbers(inputs[1])) == 2
        return self.add(node, "flatten" if is_flat else node.operation, inputs[0], place)

    def squeezed(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A map of one place without height and width."""
        return self.add(node, "flatten", inputs[0], place)

    def reversed(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """The channels in the opposite order."""
        is_channels = _numbers(inputs[1]) in ((-1,), (_LAST,))
        return self.add(node, "reverse" if is_channels else node.operation, inputs[0], place)

    def sliced(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """`[..., ::-1]` is the channels in the opposite order; another slice is another thing."""
        whole = all(node.number(mask) & 2 for mask in ("begin_mask", "end_mask"))
        is_reversed = whole and node.number("ellipsis_mask") == 1 and _numbers(inputs[3])[1:] == (-1,)
        return self.add(node, "reverse" if is_reversed else node.operation, inputs[0], place)

    def cast(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """Numbers of another type."""
        kind = "identity" if node.number("DstT") in _FLOATS else node.operation
        return self.add(node, kind, inputs[0], place)

    def relu(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """A rectifier."""
        return self.add(node, "relu", inputs[0], place)

    def activation(self, node: Node, inputs: list[Result], place: tuple[str, ...]) -> Value:
        """An activation over all classes, or of each."""
        return self.add(node, "activation", inputs[0], place, function=_ACTIVATIONS[node.operation])


_Maker = Callable[[_Importer, Node, list[Result], tuple[str, ...]], Value]
_STEPS: dict[str, _Maker] = {
    "Conv2D": _Importer.conv,
    "MaxPool": _Importer.pool,
    "AvgPool": _Importer.pool,
    "MatMul": _Importer.dense,
    "Mul": _Importer.times,
    "RealDiv": _Importer.divided,
    "Div": _Importer.divided,
    "ConcatV2": _Importer.joined,
    "Pad": _Importer.zeros,
    "PadV2": _Importer.zeros,
    "Reshape": _Importer.reshaped,
    "Squeeze": _Importer.squeezed,
    "ReverseV2": _Importer.reversed,
    "StridedSlice": _Importer.sliced,
    "Cast": _Importer.cast,
    "Relu": _Importer.relu,
    **dict.fromkeys(("Add", "AddV2", "BiasAdd", "Sub"), _Importer.plus),
    **dict.fromkeys(("Mean", "Max"), _Importer.over),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _Importer.norm),
    **dict.fromkeys(_ACTIVATIONS, _Importer.activation),
}


# -- inputs and attributes ---------------------------------------------------------------------------------------------


def _read(values: Mapping[str, list[Result]], name: str) -> Result:
    """What an input is. Raises NotFollowedError for a further result of an operation."""
    node, *rest = name.split(":")
    number = int(rest[-1]) if rest else 0
    if len(rest) > 1 and rest[0].startswith(("batch_", "reserve_")):  # the other results of a normalisation
        raise NotFollowedError(f"it reads {name}")
    if number >= len(values[node]):
        raise NotFollowedError(f"it reads {name}, a further result")
    return values[node][number]


def _map_and_vector(inputs: list[Result]) -> tuple[Value | None, Vector | None]:
    """A map and a vector, whichever stands first; no vector where both are maps."""
    maps = [read for read in inputs if isinstance(read, Value)]
    vectors = [read for read in inputs if isinstance(read, Vector)]
    return (maps[0], vectors[0]) if len(maps) == len(vectors) == 1 else (None, None)


def _numbers(read: Result, *, factor: bool = False) -> tuple[float, ...]:
    """The numbers of a constant, row-major, as they are meant; nothing for anything else."""
    if not isinstance(read, Vector) or read.operation != CONSTANT:
        return ()
    return tuple(meant(number, factor=factor) for number in read.values)


def _holder(variable: str) -> str:
    """What the names of a layer's tensors begin with."""
    return variable.rpartition("/")[0]


def _is_last(node: Node) -> bool:
    """Whether channels stand last."""
    return node.text("data_format", "NHWC") == "NHWC"


def _sides(values: tuple[int, ...]) -> Pair:
    """Height and width of a list for batch, height, width and channels."""
    return (values[1], values[2]) if len(values) == _LAST + 1 and values[0] == values[3] == 1 else (0, 0)


def _window(node: Node, stride: Pair) -> dict[str, Any] | None:
    """Stride and padding of a window; None where channels do not stand last."""
    if not _is_last(node):
        return None
    way = node.text("padding")
    if way == "EXPLICIT":
        around = node.integers("explicit_paddings")
        if len(around) != 8 or any((*around[:2], *around[6:])):
            return None
        above, below, left, right = around[2:6]
        return {"stride": stride, "padding": (above, left, below, right)}
    return {"stride": stride, "padding": "same" if way == "SAME" else (0, 0, 0, 0)}
