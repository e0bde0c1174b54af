"""TensorFlow's programs as a SavedModel keeps them: nodes, functions and signatures, out of protobufs.

    SavedModel    1 schema version, 2 meta graphs; the first is read
    meta graph    1 (4 tags), 2 graph, 3 saver (3 the node that restores), 5 signatures (map: 1 name, 2 signature)
    signature     1 inputs and 2 outputs (maps: 1 name, 2 tensor); tensor: 1 its name in the graph, 3 shape
    graph         1 nodes, 2 library; library: 1 functions
    function      1 signature (1 name, 2 arguments, 3 results, each 1 name), 3 nodes, 4 what each result is (map)
    node          1 name, 2 operation, 3 inputs, 5 attributes (map: 1 name, 2 value)
    value         1 list (3 integers), 2 text, 3 integer, 4 float, 5 truth, 6 type, 8 tensor, 10 function (1 name)
    tensor        1 type, 2 shape (2 axes: 1 length), 4 bytes, or 5 floats, 6 doubles, 7 integers, 8 texts, 10 long
                  integers; one number stands for all

An input is `node` or `node:number` in a graph, `node:result:number` or the name of an argument in a function, and what
begins with `^` is waited for and not read. An attribute that has its usual value may be left out.

The node that restores calls a function with a file's name and all variables. In it, RestoreV2 reads tensors of the
bundle, whose keys are a constant of texts, and AssignVariableOp puts the k-th result into the variable that is an
argument.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.decimals import meant
from densenet_port.formats.protobuf import LEN, Field, Message
from densenet_port.formats.source import AGAIN, Source

LIMIT = 1 << 27  # bytes of a program: that of a DenseNet-264 has some ten million
CONSTANT_LIMIT = 1 << 16  # bytes of a constant that is looked at: paddings, axes, a number for each channel
_FLOAT, _DOUBLE, _INT32, _INT64 = 1, 2, 3, 9
_STORED = {_FLOAT: "<f4", _DOUBLE: "<f8", _INT32: "<i4", _INT64: "<i8"}


@dataclass(frozen=True)
class Node:
    """An operation: its inputs in order, and its attributes, which are read when they are asked for."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    entries: Sequence[Field]

    @cached_property
    def attributes(self) -> Mapping[str, Field]:
        """Name → value."""
        return dict(_map(self.entries))

    def integers(self, key: str, usual: Sequence[int] = ()) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        values = self._value(key).get(1, [])
        return tuple(number for field in values for number in _integers(field.message(), 3)) if values else (*usual,)

    def number(self, key: str, usual: int = 0) -> int:
        """An attribute that is an integer, a truth value or a type."""
        value = self._value(key)
        return next((value[place][-1].integer for place in (3, 5, 6) if place in value), usual)

    def real(self, key: str, usual: float) -> float:
        """An attribute that is a float: the shortest decimal number that it is nearest to."""
        value = self._value(key)
        return meant(value[4][-1].numbers("<f4")[-1], factor=False) if 4 in value else usual

    def text(self, key: str, usual: str = "") -> str:
        """An attribute that is a text."""
        value = self._value(key)
        return value[2][-1].text() if 2 in value else usual

    def function(self) -> str:
        """The name of the function that a call calls."""
        return self._value("f")[10][-1].message().by_number()[1][-1].text()

    def constant(self) -> "Constant | None":
        """The value of a constant; None for one that is not of plain numbers, or large."""
        return _constant(self._value("value")[8][-1])

    def texts(self) -> list[str]:
        """The texts of a constant."""
        return [field.text() for field in self._value("value")[8][-1].message() if field.number == 8]

    def _value(self, key: str) -> dict[int, list[Field]]:
        return self.attributes[key].message().by_number() if key in self.attributes else {}


class Constant(NamedTuple):
    """Numbers, row-major, and their shape."""

    values: tuple[np.generic, ...]
    shape: tuple[int, ...]


class Function(NamedTuple):
    """A function: the names of its arguments, its nodes by name, and the inputs that its results are."""

    arguments: tuple[str, ...]
    nodes: Mapping[str, Node]
    results: tuple[str, ...]


class Tensor(NamedTuple):
    """An end of a program: its name in the graph, and its shape, None where a length or all of it is not known."""

    name: str
    shape: tuple[int | None, ...] | None


class Signature(NamedTuple):
    """A way to call a program."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class Program:
    """The first meta graph of a SavedModel; functions are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Look through the graph's nodes, and for the functions' names. Raises CorruptError for what is none."""
        source = Source.of_file(path)
        if source.size > LIMIT:
            raise MisfitError(f"{path}: a program of {source.size:,} bytes, at most {LIMIT:,} are read")
        whole = Message.of(Source.of_bytes(path, source.all()))
        graphs = [field for field in whole if field.number == 2]  # meta_graphs
        if not graphs:
            raise CorruptError(f"{path}: a SavedModel without a graph", hint=AGAIN)
        meta = graphs[0].message().by_number()
        graph = meta[2][-1].message().by_number() if 2 in meta else {}
        self.nodes = _nodes(graph.get(1, []))
        saver = meta[3][-1].message().by_number() if 3 in meta else {}
        self._restore = saver[3][-1].text().partition(":")[0] if 3 in saver else ""
        self.signatures = dict(map(_signature, meta.get(5, [])))
        library = graph[2][-1].message() if 2 in graph else ()
        self._functions = {_function_name(field): field for field in library if field.number == 1}

    def function(self, name: str) -> Function:
        """A function of the library."""
        fields = self._functions[name].message().by_number()
        signature = fields[1][-1].message().by_number()
        arguments, results = (
            tuple(argument.message().by_number()[1][-1].text() for argument in signature.get(number, []))
            for number in (2, 3)
        )
        returned = dict(_map(fields.get(4, [])))
        return Function(arguments, _nodes(fields.get(3, [])), tuple(returned[name].text() for name in results))

    def keys(self) -> dict[str, str]:
        """Node of a variable → key of its tensor in the bundle, as the program itself restores it."""
        call = self.nodes.get(self._restore)
        if call is None or "f" not in call.attributes:
            return {}
        function = self.function(call.function())
        variables = dict(zip(function.arguments, call.inputs, strict=True))
        keys, texts = {}, dict[str, list[str]]()
        for node in function.nodes.values():
            if node.operation == "AssignVariableOp":
                variable, value = node.inputs
                read, place = _source(function.nodes, value)
                names = read.inputs[1].partition(":")[0]
                texts[names] = texts.get(names) or function.nodes[names].texts()
                keys[variables[variable].partition(":")[0]] = texts[names][place]
        return keys


def _source(nodes: Mapping[str, Node], name: str) -> tuple[Node, int]:
    """The node that gives a value, behind those that pass it on, and which of its results it is."""
    for _ in nodes:
        node, _, place = name.partition(":")
        if nodes[node].operation != "Identity":
            return nodes[node], int(place.rpartition(":")[2] or 0)
        (name,) = nodes[node].inputs
    raise ValueError(f"{name} is passed on in a circle")


def _function_name(field: Field) -> str:
    return _first(_first(field.message(), 1).message(), 1).text()


def _first(message: Message, number: int) -> Field:
    """The first field of a number; nothing behind it is looked at. Raises LookupError."""
    for field in message:
        if field.number == number:
            return field
    raise LookupError(f"no field {number}")


def _nodes(fields: Sequence[Field]) -> dict[str, Node]:
    """Nodes by name."""
    nodes = {}
    for field in fields:
        parts = field.message().by_number()
        name = parts[1][-1].text()
        operation = parts[2][-1].text() if 2 in parts else ""
        inputs = tuple(read for part in parts.get(3, []) if not (read := part.text()).startswith("^"))
        nodes[name] = Node(name, operation, inputs, parts.get(5, []))
    return nodes


def _map(fields: Sequence[Field]) -> Iterator[tuple[str, Field]]:
    """Key and value of each entry of a map; an empty value is left out."""
    for field in fields:
        parts = field.message().by_number()
        if 2 in parts:
            yield parts[1][-1].text() if 1 in parts else "", parts[2][-1]


def _signature(field: Field) -> tuple[str, Signature]:
    """Name and content of a signature."""
    parts = field.message().by_number()
    content = parts[2][-1].message().by_number() if 2 in parts else {}
    ends = [{key: _tensor(value) for key, value in _map(content.get(number, []))} for number in (1, 2)]
    return parts[1][-1].text(), Signature(*ends)


def _tensor(field: Field) -> Tensor:
    """An end of a program."""
    parts = field.message().by_number()
    name = parts[1][-1].text() if 1 in parts else ""
    shape = parts[3][-1].message().by_number() if 3 in parts else {3: []}
    if 3 in shape:
        return Tensor(name, None)
    lengths = [_length(axis) for axis in shape.get(2, [])]
    return Tensor(name, tuple(length if length >= 0 else None for length in lengths))


def _length(axis: Field) -> int:
    """The length of an axis."""
    parts = axis.message().by_number()
    return parts[1][-1].integer if 1 in parts else 0


def _integers(message: Message, number: int) -> Iterator[int]:
    """The integers of a repeated field."""
    for field in message:
        if field.number == number:
            yield from field.integers()


def _constant(field: Field) -> Constant | None:
    """The numbers of a tensor."""
    parts = field.message().by_number()
    kind = parts[1][-1].integer if 1 in parts else 0
    shape = tuple(_length(axis) for axis in parts[2][-1].message().by_number().get(2, [])) if 2 in parts else ()
    if kind not in _STORED or min(shape, default=0) < 0 or 8 * int(np.prod(shape, dtype=object)) > CONSTANT_LIMIT:
        return None
    count = int(np.prod(shape, dtype=object))
    if 4 in parts:
        numbers = [*np.frombuffer(parts[4][-1].data(CONSTANT_LIMIT), _STORED[kind])]
    else:
        numbers = [number for place in (5, 6, 7, 10) for one in parts.get(place, []) for number in _numbers(one, kind)]
    if len(numbers) < count:
        numbers += [numbers[-1] if numbers else np.dtype(_STORED[kind]).type(0)] * (count - len(numbers))
    return Constant(tuple(numbers), shape) if len(numbers) == count else None


def _numbers(field: Field, kind: int) -> list[np.generic]:
    """The numbers of a field of a tensor."""
    if kind in (_FLOAT, _DOUBLE):
        return [*field.numbers(_STORED[kind])]
    return [*map(np.int64, field.integers())] if field.wire != LEN or field.payload.size <= CONSTANT_LIMIT else []
