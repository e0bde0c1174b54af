"""ONNX's graph as the chain of steps that a DenseNet is, whatever its values are called and however they lie.

What flows through the network is told by its **pieces**: the values whose channels stand side by side in it, in order.
A step makes one new piece; a Concat puts pieces side by side; an Identity changes nothing. So the map that a dense
layer reads is `(map that entered the block, new channels of layer 1, new channels of layer 2 …)`, whether the graph
joins all of them anew for every layer or one after the other.

How a map lies in memory is told by its **axes**, a letter each: `nchw`, `nhwc`, `nc` behind the mean over the picture;
`1` is an axis that the mean left, `?` stands for axes that cannot be told. A Transpose is no step: it changes the axes
alone, and each step is looked at with the axes of the map that it reads. Those of the picture follow from the first
convolution, which reads `nchw`.

Only what the output depends on counts, in the file's order, which ONNX says is one of execution. Numbers that a graph
works out of a map's size, to reshape it, are not followed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.onnx.axes import axes_behind, common, one_more, reordered
from densenet_port.formats.onnx.constants import evaluate, numbers
from densenet_port.formats.onnx.model import DTYPES, Constant, Given, Model, Node

CHANNELS_SECOND = ("Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_FLOATS = ("float32", "float64", "float16", "bfloat16")  # a cast to one is for graphs of other precision
_LAID_OUT = "com.microsoft.nchwc."  # domain of operators on blocks of channels
_QUANTISED = ("QLinearConv", "ConvInteger", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOST = 4096  # maps side by side; the deepest published network has 65
_SHOWN = 12  # kinds of operators that a message lists
_FEW = 16  # channels that are taken out of a value
_MANY = 6  # pieces of a map, of which a message leaves some out


class Channel(NamedTuple):
    """One channel of a value, taken out of it."""

    of: str
    place: int

    def __str__(self) -> str:
        """`channel 2 of x`."""
        return f"channel {self.place} of {self.of}"


Piece = str | Channel


class Map(NamedTuple):
    """A value that depends on the input: the pieces whose channels stand side by side in it, and its axes."""

    pieces: tuple[Piece, ...]
    axes: str = "nchw"

    def __str__(self) -> str:
        """`(a, b, …, y, z)`: the first and last few."""
        names = [str(piece) for piece in self.pieces]
        return f"({', '.join(names if len(names) < _MANY else [*names[:2], '…', *names[-2:]])})"


class Unknown(NamedTuple):
    """A value that is not followed: a map's size, or what an operator made of constants."""

    op: str

    def __str__(self) -> str:
        """`what Shape gives`."""
        return f"what {self.op} gives"


Value = Constant | Map | Unknown


class Step(NamedTuple):
    """An operation on a map: what it reads, what it gives, and its other inputs (None where one is left out).

    `place` is the map's own among the inputs.
    """

    node: Node
    reads: Map
    gives: Map
    others: tuple[Value | None, ...]
    place: int

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.op


class Steps(NamedTuple):
    """The picture that goes in, the map that it is, the steps, and the map that comes out."""

    given: Given
    first: Map
    steps: list[Step]
    last: Map


def steps(model: Model, output: str) -> Steps:
    """The steps to an output.

    Raises CorruptError for a graph that uses what nothing makes, MisfitError for an output of several inputs or none,
    for a quantised network, and where the first convolution reads a picture whose height and width change places.
    """
    nodes = _live(model, output)
    needed = {name for node in nodes for name in node.inputs}
    inputs = [one for one in model.inputs if one.name in needed]
    if len(inputs) > 1 or not model.inputs:
        names = "".join(f" {one.name!r}" for one in inputs[:_SHOWN])
        raise MisfitError(
            f"{model.path}: {output!r} depends on {len(inputs)} inputs{names}, expected one", hint=summary(model)
        )
    given = (inputs or model.inputs)[0]
    walked = _walked(model, given, "nchw", nodes, output)
    conv = next((step for step in walked.steps if step.op == "Conv"), None)
    if conv is None or conv.reads.axes == "nchw" or sorted(conv.reads.axes) != sorted("nchw"):
        return walked
    axes = reordered("nchw", [conv.reads.axes.index(axis) for axis in "nchw"])
    if axes != "nhwc":
        message = f"{model.path}: {conv.node} reads a picture whose axes are turned to {' '.join(conv.reads.axes)}"
        raise MisfitError(f"{message}, expected n h w c made n c h w, or none turned", hint=summary(model))
    return _walked(model, given, axes, nodes, output)


def _walked(model: Model, given: Given, axes: str, nodes: Sequence[Node], output: str) -> Steps:
    """The steps of nodes, with the picture's axes."""
    first = Map((given.name,), axes)
    values: dict[str, Value] = {**model.constants, given.name: first}
    taken: list[Step] = []
    for node in nodes:
        args = [_value(model, values, node, name) for name in node.inputs]
        value = _output(model, node, args)
        if isinstance(value, Step):
            taken.append(value)
        values |= dict.fromkeys(node.outputs[:1], value.gives if isinstance(value, Step) else value)
    last = values.get(output)
    if not isinstance(last, Map):
        raise MisfitError(f"{model.path}: its output does not depend on its input", hint=summary(model))
    return Steps(given, first, taken, last)


def summary(model: Model) -> str:
    """What the graph consists of, for messages."""
    counts = Counter(node.op for node in model.nodes)
    shown = [f"{count} {op}" for op, count in counts.most_common(_SHOWN)]
    return f"its graph: {', '.join(shown)}{' …' if len(counts) > _SHOWN else ''}"


def _live(model: Model, output: str) -> list[Node]:
    """The nodes that an output depends on, in their order."""
    needed, live = {output}, list[Node]()
    for node in reversed(model.nodes):
        if needed & set(node.outputs):
            needed |= {name for name in node.inputs if name}
            live.append(node)
    return live[::-1]


def _value(model: Model, values: dict[str, Value], node: Node, name: str) -> Value | None:
    """An input of a node; None for one that is left out, which has no name."""
    if name and name not in values:
        raise CorruptError(f"{model.path}: {node} reads {name!r}, which nothing before it makes")
    return values[name] if name else None


def _output(model: Model, node: Node, args: Sequence[Value | None]) -> Value | Step:
    """What a node makes of its inputs."""
    if node.op in _QUANTISED:
        hint = "convert the network that it was made from"
        raise MisfitError(f"{model.path}: {node}: the network is quantised, which cannot be undone", hint=hint)
    if node.op.startswith(_LAID_OUT):
        hint = "convert the .onnx that it was made from, or have ONNX Runtime save it at ORT_ENABLE_EXTENDED at most"
        raise MisfitError(f"{model.path}: {node}: ONNX Runtime laid the graph out anew for one processor", hint=hint)
    maps = [value for value in args if isinstance(value, Map)]
    if not maps or (node.op == "CastLike" and isinstance(args[0], Constant)):
        return _constant(node, args)
    if node.op == "Shape":
        return Unknown(node.op)
    moved = _joined(model, node, maps) if len(maps) == len(args) > 1 else _moved(node, maps[0], args)
    if moved is not None:
        return moved
    place = args.index(maps[0])
    others = (*args[:place], *args[place + 1 :])
    axes = axes_behind(node, maps[0].axes, [value if isinstance(value, Constant) else None for value in others])
    return Step(node, maps[0], Map(node.outputs[:1], axes), others, place)


def _joined(model: Model, node: Node, maps: Sequence[Map]) -> Map | None:
    """Maps side by side, or None; their number is bounded, since a graph may double it with every node."""
    if node.op == "CastLike":
        return maps[0]
    axes = common([value.axes for value in maps])
    if node.op != "Concat" or axes is None or not _is_channel(axes, node, 1):
        return None
    if (count := sum(len(value.pieces) for value in maps)) > _MOST:
        raise CorruptError(f"{model.path}: {node} joins {count} maps, no DenseNet more than {_MOST}")
    return Map(tuple(piece for value in maps for piece in value.pieces), axes)


def _is_channel(axes: str, node: Node, usual: int) -> bool:
    """Whether the axis that a node names is that of the channels."""
    axis = node.attributes.get("axis", usual)
    return isinstance(axis, int) and -len(axes) <= axis < len(axes) and axes[axis] == "c"


def _moved(node: Node, value: Map, args: Sequence[Value | None]) -> Map | None:
    """The same numbers as they stand in the map that a node makes of one; None for a node that works something out."""
    if args[0] is not value:
        return None
    others = [other if isinstance(other, Constant) else None for other in args[1:]]
    move = _MOVES.get(node.op)
    return move(node, value, others) if move else None


def _same(node: Node, value: Map, others: Sequence[Constant | None]) -> Map | None:
    """The map itself behind an Identity, a Concat of one, a cast to floats, or a Pad of nothing."""
    if node.op in ("Cast", "CastLike"):
        like = others[0].tensor.dtype if others and others[0] else DTYPES.get(node.attributes.get("to", 0))
        return value if like in _FLOATS else None
    return value if node.op != "Pad" or _is_nothing(node, others) else None


def _is_nothing(node: Node, others: Sequence[Constant | None]) -> bool:
    """Whether a Pad puts nothing around."""
    pads = node.attributes.get("pads")
    if pads is None and others and others[0] is not None:
        pads = numbers(others[0], node)
    return pads is not None and not any(pads)


def _turned(node: Node, value: Map, _others: Sequence[Constant | None]) -> Map | None:
    """A map whose axes are turned; None where it has other axes than are turned."""
    order = node.attributes.get("perm") or list(range(len(value.axes)))[::-1]
    if sorted(order) != list(range(len(value.axes))) or "?" in value.axes:
        return None
    return Map(value.pieces, reordered(value.axes, order))


def _with_channel(node: Node, value: Map, others: Sequence[Constant | None]) -> Map | None:
    """A map of one channel with an axis for it again, or a vector with axes of length one."""
    axes = one_more(node, value.axes, others)
    return None if axes is None else Map(value.pieces, axes)


def _taken(node: Node, value: Map, others: Sequence[Constant | None]) -> Map | None:
    """Some channels of a value, in any order, as pieces of their own; None for what is taken otherwise."""
    if len(value.pieces) != 1 or not isinstance(piece := value.pieces[0], str):
        return None
    if any(other is None or prod(other.tensor.shape) > _FEW for other in others):
        return None
    known = [numbers(other, node) for other in others]
    if node.op == "Gather":
        (places,), alone = known, others[0] is not None and not others[0].tensor.shape
        if not _is_channel(value.axes, node, 0) or min(places, default=-1) < 0:
            return None
        axes = value.axes.replace("c", "") if alone else value.axes
        return Map(tuple(Channel(piece, place) for place in places), axes)
    before_opset_10 = [node.attributes.get(key, []) for key in ("starts", "ends", "axes")]
    places = _sliced(value.axes, known or before_opset_10)
    return Map(tuple(Channel(piece, place) for place in places), value.axes) if places else None


def _sliced(axes: str, bounds: Sequence[list[int]]) -> list[int]:
    """The channels that a Slice of its one axis takes, in its order; none where it does not say which those are.

    Starts, ends, axes, steps. How many channels there are is not known here: a picture has three, or one.
    """
    if len(bounds) not in (3, 4) or any(len(each) != 1 for each in bounds):
        return []
    (start,), (end,), (axis,) = bounds[:3]
    step = bounds[3][0] if len(bounds) > 3 else 1
    if not -len(axes) <= axis < len(axes) or axes[axis] != "c":
        return []
    if step == -1 and (start == -1 or start > 1) and end < -3:
        return [2, 1, 0]
    return [start] if step == 1 and start >= 0 and end == start + 1 else []


_MOVES: dict[str, Callable[[Node, Map, Sequence[Constant | None]], Map | None]] = {
    "Identity": _same,
    "Dropout": _same,
    "Concat": _same,
    "Cast": _same,
    "CastLike": _same,
    "Pad": _same,
    "Transpose": _turned,
    "Unsqueeze": _with_channel,
    "Slice": _taken,
    "Gather": _taken,
}


def _constant(node: Node, args: Sequence[Value | None]) -> Value:
    """What a node makes of constants alone."""
    known = [value if isinstance(value, Constant) else None for value in args]
    if any(isinstance(value, Unknown) for value in args):
        return Unknown(node.op)
    return evaluate(node, known) or Unknown(node.op)
