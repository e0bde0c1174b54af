"""ONNX's graph as the chain of steps that a DenseNet is, whatever its values are called.

What flows through the network is told by its **pieces**: the values whose channels stand side by side in it, in order.
A step makes one new piece; a Concat puts pieces side by side; an Identity changes nothing. So the map that a dense
layer reads is `(map that entered the block, new channels of layer 1, new channels of layer 2 …)`, whether the graph
joins all of them anew for every layer or one after the other.

Only what the output depends on counts, in the file's order, which ONNX says is one of execution. Numbers that a graph
works out of a map's size, to reshape it, are not followed.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.onnx.constants import evaluate
from densenet_port.formats.onnx.model import Constant, Model, Node

_UNCHANGED = ("Identity", "Dropout", "Cast", "CastLike")  # of a map; a cast is for graphs of half precision
_QUANTISED = ("QLinearConv", "ConvInteger", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOST = 4096  # maps side by side; the deepest published network has 65
_SHOWN = 12  # kinds of operators that a message lists
_MANY = 6  # pieces of a map, of which a message leaves some out


class Map(NamedTuple):
    """A value that depends on the input: the pieces whose channels stand side by side in it."""

    pieces: tuple[str, ...]

    def __str__(self) -> str:
        """`(a, b, …, y, z)`: the first and last few."""
        names = self.pieces if len(self.pieces) < _MANY else (*self.pieces[:2], "…", *self.pieces[-2:])
        return f"({', '.join(names)})"


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


def steps(model: Model) -> tuple[Map, list[Step], Map]:
    """The map that goes in, the steps, and the map that comes out.

    Raises CorruptError for a graph that uses what nothing makes, MisfitError for one with several inputs or outputs, or
    of a quantised network.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        ends = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise MisfitError(f"{model.path}: a graph with {ends}, expected one of each", hint=summary(model))
    first = Map((model.inputs[0],))
    values: dict[str, Value] = {**model.constants, model.inputs[0]: first}
    taken: list[Step] = []
    for node in _live(model):
        args = [_value(model, values, node, name) for name in node.inputs]
        value = _output(model, node, args)
        if isinstance(value, Step):
            taken.append(value)
        values |= dict.fromkeys(node.outputs[:1], value.gives if isinstance(value, Step) else value)
    last = values.get(model.outputs[0])
    if not isinstance(last, Map):
        raise MisfitError(f"{model.path}: its output does not depend on its input", hint=summary(model))
    return first, taken, last


def summary(model: Model) -> str:
    """What the graph consists of, for messages."""
    counts = Counter(node.op for node in model.nodes)
    shown = [f"{count} {op}" for op, count in counts.most_common(_SHOWN)]
    return f"its graph: {', '.join(shown)}{' …' if len(counts) > _SHOWN else ''}"


def _live(model: Model) -> list[Node]:
    """The nodes that the output depends on, in their order."""
    needed, live = set(model.outputs), list[Node]()
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
    maps = [value for value in args if isinstance(value, Map)]
    if not maps or (node.op == "CastLike" and isinstance(args[0], Constant)):
        return _constant(node, args)
    if node.op == "Shape":
        return Unknown(node.op)
    if node.op == "Concat" and len(maps) == len(args) and node.attributes.get("axis", 1) in (1, -3):
        return Map(_joined(model, node, maps))
    if node.op in _UNCHANGED and args[0] is maps[0]:
        return maps[0]
    place = args.index(maps[0])
    return Step(node, maps[0], Map(node.outputs[:1]), (*args[:place], *args[place + 1 :]), place)


def _joined(model: Model, node: Node, maps: Sequence[Map]) -> tuple[str, ...]:
    """The pieces of maps side by side; their number is bounded, since a graph may double it with every node."""
    if (count := sum(len(value.pieces) for value in maps)) > _MOST:
        raise CorruptError(f"{model.path}: {node} joins {count} maps, no DenseNet more than {_MOST}")
    return tuple(piece for value in maps for piece in value.pieces)


def _constant(node: Node, args: Sequence[Value | None]) -> Value:
    """What a node makes of constants alone."""
    known = [value if isinstance(value, Constant) else None for value in args]
    if any(isinstance(value, Unknown) for value in args):
        return Unknown(node.op)
    return evaluate(node, known) or Unknown(node.op)
