"""ONNX's messages, out of a file: a ModelProto, its graph's nodes and its tensors (onnx.proto of ONNX 1.23).

    ModelProto      1 ir_version, 2 producer_name, 3 producer_version, 7 graph, 8 opset_import, 14 metadata_props,
                    25 functions
    GraphProto      1 node, 5 initializer, 11 input, 12 output, 15 sparse_initializer
    NodeProto       1 input, 2 output, 3 name, 4 op_type, 5 attribute, 7 domain
    AttributeProto  1 name, 2 f, 3 i, 4 s, 5 t, 7 floats, 8 ints, 20 type; the rest, graphs say, is not looked into
    TensorProto     1 dims, 2 data_type, 3 segment, 4 float_data, 5 int32_data, 7 int64_data, 8 name, 9 raw_data,
                    10 double_data, 13 external_data, 14 data_location
    ValueInfoProto  1 name, 2 type; TypeProto 1 tensor_type: 1 elem_type, 2 shape: 1 dim: 1 dim_value
    OperatorSetIdProto 1 domain, 2 version; StringStringEntryProto 1 key, 2 value

A tensor's elements stand in `raw_data`, little-endian and row-major; or in the field of their type (`int32_data` has
float16 and bfloat16 as the integers of their bits, and the small integers); or in another file. That one is named
relative to the model's folder and must lie in it, links followed. Only lengths are looked at until a tensor is loaded.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, Tensor
from densenet_port.errors import CorruptError, DiskError, MisfitError
from densenet_port.formats.protobuf import Field, Message
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored

FLOAT, DOUBLE, INT64 = 1, 11, 7
DTYPES = {  # TensorProto.DataType → Tensor.dtype
    FLOAT: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    INT64: "int64",
    9: "bool",
    10: "float16",
    DOUBLE: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_TYPED = {"float32": (4, "<f4"), "float64": (10, "<f8")}  # the fields of fixed size: number, type of the elements
_EXTERNAL = 1  # TensorProto.DataLocation
_INTEGERS = {"int64": 7, "uint32": 11, "uint64": 11}  # the fields of integers, 5 for the rest
_PIECES = 1000  # of a tensor's elements
_LISTS = (6, 7)  # AttributeProto.AttributeType of lists of numbers, which may be empty


class Constant(NamedTuple):
    """A tensor of the graph and the initialiser it is, "" for one that was worked out."""

    tensor: Tensor
    name: str = ""


class Node(NamedTuple):
    """One operation. `op` has its domain before it where that is not ONNX's own (`com.microsoft.FusedConv`).

    `attributes` are numbers, texts, lists of them, Constants, or None for what no DenseNet needs.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        """`Conv '/features/conv0/Conv'`, or by its output where it has no name."""
        return f"{self.op} {self.name or ', '.join(self.outputs)!r}"


class Given(NamedTuple):
    """An input of the graph: its name, the type of its elements ("" where none is said), its sizes (0 where open)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Model(NamedTuple):
    """A model: what made it, the nodes in their order, the initialisers, what goes in, and the names of outputs.

    `beside` has the names of files that hold tensors, and how many bytes each has.
    """

    path: Path
    producer: str
    version: str
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    beside: Mapping[str, int]


FUSED = {"com.microsoft.FusedConv": "Conv", "com.microsoft.FusedGemm": "Gemm"}  # ONNX Runtime's, with an activation
ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")  # of those without parameters
BEFORE = "{} before its activation"  # what a part of such an operator is called, after what the whole puts out


class _Home(NamedTuple):
    """The model's file, and the names of the others that it was found to need."""

    path: Path
    beside: dict[str, int]  # name → bytes


def read_model(path: Path) -> Model:
    """The model in a file.

    Raises DiskError for a file that cannot be read, CorruptError for a broken or hostile one, MisfitError for one with
    functions of its own.
    """
    source = Source.of_file(path)
    fields = Message.of(source).by_number()
    if 7 not in fields:  # graph
        raise CorruptError(f"{path}: an ONNX model without a graph", hint=AGAIN)
    if 25 in fields:  # functions
        hint = "inline them (onnx.inliner.inline_local_functions), or export with optimize=True"
        raise MisfitError(f"{path}: the model has functions of its own, which are not looked into", hint=hint)
    graph = fields[7][-1].message().by_number()
    home = _Home(path, {})
    constants = {name: Constant(tensor, name) for name, tensor in _tensors(home, graph.get(5, ()))}
    return Model(
        path=path,
        producer=_text(fields, 2),
        version=_text(fields, 3),
        opset=_opset(path, fields.get(8, ())),
        nodes=tuple(node for field in graph.get(1, ()) for node in _parts(_node(home, field.message()))),
        constants=constants,
        inputs=tuple(given for given in map(_given, graph.get(11, ())) if given.name not in constants),
        outputs=tuple(map(_value_name, graph.get(12, ()))),
        metadata=dict(map(_pair, fields.get(14, ()))),
        beside=dict(sorted(home.beside.items())),
    )


def _text(fields: Mapping[int, list[Field]], number: int) -> str:
    """A singular text, "" where there is none."""
    return fields[number][-1].text() if number in fields else ""


def _integer(fields: Mapping[int, list[Field]], number: int, default: int) -> int:
    """A singular integer."""
    return fields[number][-1].integer if number in fields else default


def _integers(fields: Iterable[Field]) -> tuple[int, ...]:
    """A repeated integer, packed or not."""
    return tuple(value for field in fields for value in field.integers())


def _pair(field: Field) -> tuple[str, str]:
    """Key and value."""
    fields = field.message().by_number()
    value = fields[2][-1].data(limit=1 << 26).decode() if 2 in fields else ""  # value
    return _text(fields, 1), value


def _value_name(field: Field) -> str:
    return _text(field.message().by_number(), 1)


def _given(field: Field) -> Given:
    """An input; what its type does not say is left open."""
    fields = field.message().by_number()
    kind = fields[2][-1].message().by_number() if 2 in fields else {}
    tensor = kind[1][-1].message().by_number() if 1 in kind else {}
    shape = tensor[2][-1].message().by_number().get(1, []) if 2 in tensor else []
    sizes = tuple(_integer(size.message().by_number(), 1, 0) for size in shape)
    return Given(_text(fields, 1), DTYPES.get(_integer(tensor, 1, 0), ""), sizes)


def _opset(path: Path, imports: Iterable[Field]) -> int:
    """The version of ONNX's own operators."""
    for field in imports:
        entry = field.message().by_number()
        if _text(entry, 1) in ("", "ai.onnx"):
            return _integer(entry, 2, 1)
    raise MisfitError(f"{path}: uses none of ONNX's own operators")


# -- nodes -------------------------------------------------------------------------------------------------------------


def _node(home: _Home, message: Message) -> Node:
    fields = message.by_number()
    domain = _text(fields, 7)
    attributes = (field.message().by_number() for field in fields.get(5, ()))
    return Node(
        op=_text(fields, 4) if domain in ("", "ai.onnx") else f"{domain}.{_text(fields, 4)}",
        name=_text(fields, 3),
        inputs=tuple(field.text() for field in fields.get(1, ())),
        outputs=tuple(field.text() for field in fields.get(2, ())),
        attributes={_text(entry, 1): _attribute(home, entry) for entry in attributes},
    )


def _parts(node: Node) -> list[Node]:
    """A node as ONNX's own operators: two where ONNX Runtime made one of an operator and what follows it alone."""
    op, activation = FUSED.get(node.op), node.attributes.get("activation")
    if op is None or activation not in ACTIVATIONS or len(node.inputs) > 3 or len(node.outputs) != 1:
        return [node]
    between = BEFORE.format(node.outputs[0])
    return [
        node._replace(op=op, outputs=(between,)),
        node._replace(op=activation, inputs=(between,), attributes={}),
    ]


def _attribute(home: _Home, fields: Mapping[int, list[Field]]) -> Any:
    """The value of an attribute, whichever of its fields is there; None for what no DenseNet needs."""
    if 5 in fields:  # t
        return Constant(_tensor(home, fields[5][-1])[1])
    empty: list[int] | None = [] if _integer(fields, 20, 0) in _LISTS else None
    return next((read(fields[number]) for number, read in _VALUES.items() if number in fields), empty)


_VALUES: dict[int, Callable[[list[Field]], Any]] = {  # number of an attribute's field → its value
    2: lambda fields: float(fields[-1].numbers("<f4")[-1]),
    3: lambda fields: fields[-1].integer,
    4: lambda fields: fields[-1].data().decode(errors="replace"),
    7: lambda fields: [float(value) for run in fields for value in run.numbers("<f4")],
    8: lambda fields: list(_integers(fields)),
}


# -- tensors -----------------------------------------------------------------------------------------------------------


def _tensors(home: _Home, initialisers: Iterable[Field]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each initialiser. Raises CorruptError for a name given twice."""
    seen = set[str]()
    for field in initialisers:
        name, tensor = _tensor(home, field)
        if name in seen:
            raise CorruptError(f"{home.path}: two initialisers are called {name!r}")
        seen.add(name)
        yield name, tensor


def _tensor(home: _Home, field: Field) -> tuple[str, Tensor]:
    """Name and tensor of a TensorProto."""
    fields = field.message().by_number()
    name, kind = _text(fields, 8), _integer(fields, 2, 0)
    shape = _integers(fields.get(1, ()))
    if kind not in DTYPES or 3 in fields:  # segment
        hint = "a quantised network has other types; convert the one it was made from"
        raise MisfitError(f"{home.path}: {name or 'a tensor'} has the data type {kind}", hint=hint)
    if any(size < 0 for size in shape):
        raise CorruptError(f"{home.path}: {name or 'a tensor'} has the shape {shape}")
    dtype = DTYPES[kind]
    raw = fields[9][-1].payload if 9 in fields and _integer(fields, 14, 0) != _EXTERNAL else None
    extent = raw.extent(0, raw.size) if raw else None
    return name, Tensor(shape, dtype, _loader(home, name, dtype, shape, fields), extent=extent)


def _loader(
    home: _Home, name: str, dtype: str, shape: tuple[int, ...], fields: Mapping[int, list[Field]]
) -> Callable[[], Array]:
    """How to read the elements, wherever they stand. Raises CorruptError if they are not as many as the shape says."""
    size = prod(shape) * stored(dtype).itemsize
    if _integer(fields, 14, 0) == _EXTERNAL:
        data = _outside(home, name, dict(map(_pair, fields.get(13, ()))), size)
    elif 9 in fields:  # raw_data
        payload = fields[9][-1].payload
        _counted(home.path, name, payload.size, size, "bytes")
        data = partial(payload.data, 0, size)
    else:
        return _typed(home.path, name, dtype, shape, fields)
    return lambda: native(np.frombuffer(data(), stored(dtype)).reshape(shape), dtype)


def _typed(
    path: Path, name: str, dtype: str, shape: tuple[int, ...], fields: Mapping[int, list[Field]]
) -> Callable[[], Array]:
    """How to read the elements that stand in the field of their type. Raises CorruptError for too few or too many."""
    if dtype in _TYPED:
        number, kind = _TYPED[dtype]
        runs = fields.get(number, [])
        _few(path, name, runs)
        _counted(path, name, sum(run.number_count(kind) for run in runs), prod(shape), "elements")
        return lambda: native(_joined([run.numbers(kind) for run in runs], kind).reshape(shape), dtype)
    runs = fields.get(_INTEGERS.get(dtype, 5), [])
    _few(path, name, runs)
    return lambda: _from_integers(path, name, dtype, shape, runs)


def _few(path: Path, name: str, runs: list[Field]) -> None:
    """Refuse elements in very many pieces; writers have one, or a varint for each of a few integers."""
    if len(runs) > _PIECES:
        raise CorruptError(f"{path}: {name or 'a tensor'} stands in more than {_PIECES} pieces")


def _joined(runs: list[Array], kind: str) -> Array:
    return np.concatenate(runs) if runs else np.empty(0, kind)


def _from_integers(path: Path, name: str, dtype: str, shape: tuple[int, ...], runs: list[Field]) -> Array:
    """Elements that stand as varints; those of the half types are their bits."""
    with guarded(path, "ONNX tensor"):
        values = np.concatenate([_varints(run) for run in runs]) if runs else np.empty(0, np.uint64)
        _counted(path, name, len(values), prod(shape), "elements")
        if dtype in ("float16", "bfloat16"):
            return native(values.astype("<u2").view(stored(dtype)).reshape(shape), dtype)
        return values.view(np.int64).astype(dtype).reshape(shape)


def _varints(run: Field) -> Array:
    """Packed varints as uint64, all at once."""
    if run.wire == 0:
        return np.array([run.value], np.uint64)
    data = np.frombuffer(run.data(limit=run.payload.size), np.uint8)
    ends = np.flatnonzero(data < 128)  # the top bit says that more follows
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - starts + 1 if len(ends) else ends
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1 or lengths.max() > 10):  # 64 bits
        raise ValueError("a number has no end")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        values[longer] |= (data[starts[longer] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
    return values


def _counted(path: Path, name: str, count: int, expected: int, what: str) -> None:
    if count != expected:
        raise CorruptError(f"{path}: {name or 'a tensor'} has {count} {what}, expected {expected}")


# -- external data -----------------------------------------------------------------------------------------------------


def _outside(home: _Home, name: str, entries: Mapping[str, str], size: int) -> Callable[[], bytes]:
    """How to read a tensor's bytes in another file: `entries` has its location, and perhaps offset and length."""
    location = entries.get("location", "")
    file = _beside(home.path, location)
    offset, length = (_number(home.path, name, entries, key, usual) for key, usual in (("offset", 0), ("length", size)))
    _counted(home.path, name, length, size, f"bytes in {location}")
    held = home.beside[location] = file.stat().st_size
    if offset + size > held:
        raise CorruptError(f"{home.path}: {name} ends at {offset + size} of {location}, which has {held} bytes")
    return lambda: Source.of_file(file).data(offset, size)


def _number(path: Path, name: str, entries: Mapping[str, str], key: str, usual: int) -> int:
    """A number of bytes that stands as text."""
    text = entries.get(key, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 20):  # digits of 64 bits
        raise CorruptError(f"{path}: {name} has the {key} {text!r} in its external data")
    return int(text)


def _beside(path: Path, location: str) -> Path:
    """The file of that name in the model's own folder. Raises CorruptError for one that lies elsewhere, DiskError."""
    parts = PureWindowsPath(location)  # which knows `/` and `\\`, and drives
    if not location or parts.anchor or ".." in parts.parts or "\0" in location:
        hint = "only a file in the model's own folder is read"
        raise CorruptError(f"{path}: its external data are said to be in {location!r}", hint=hint)
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        hint = "copy both files, not links to them, into one folder"
        raise CorruptError(f"{path}: its external data, {location}, are a link out of the folder", hint=hint)
    if not file.is_file():
        hint = "copy it into the model's folder: the weights are in it"
        raise DiskError(f"{path}: its external data, {location}, are missing or no file", hint=hint)
    return file
