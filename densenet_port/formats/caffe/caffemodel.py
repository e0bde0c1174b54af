"""Caffe's `.caffemodel`: a NetParameter of BVLC's `caffe.proto` in Protocol Buffers' wire format, blobs and all.

    NetParameter      1 name, 2 layers (V1LayerParameter, old), 3 input, 4 input_dim, 8 input_shape, 100 layer
    LayerParameter    1 name, 2 type, 3 bottom, 4 top, 7 blobs, and the settings, of which we read
                      106 convolution_param, 121 pooling_param, 139 batch_norm_param
    V1LayerParameter  2 bottom, 3 top, 4 name, 5 type (a number), 6 blobs, 19 pooling_param
    BlobProto         1 to 4 num, channels, height, width; 5 data, 6 diff, 7 shape, 8 double_data, 9 double_diff
    BlobShape         1 dim

A blob is called `<layer>#<n>`, n from 0. Layers without blobs (Split, ReLU, …) are passed over, and so are diffs. Where
any of the four old sizes is given the shape is those four, 1×1×1×N for a vector; else it is `shape`, as stored here
both. Numbers are `double_data` if there are any, else `data`; packed, unpacked or in several pieces. Files have more
than 64 MiB, which Caffe's own reader must be told. What each blob means is for the table; Caffe itself finds blobs by
the layer's name too.

The graph in the file tells epsilon, the average pools' rounding, the stem's stride and pool, and the pool in front of a
flattened map, unless a `.prototxt` of the same stem stands beside
it, by which Caffe would run the network. A BatchNorm without epsilon has 1e-5. A pool's field 13 cannot be understood
(see `prototxt`), so a graph that gives it tells no rounding.

densenet-port's record is the field 536870121 of the NetParameter, a JSON text: Caffe and OpenCV pass over it. With
every `.caffemodel` that is written goes a `.prototxt`, and the same graph stands in the file.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, PortError, UsageError
from densenet_port.formats import protobuf as wire
from densenet_port.formats.caffe import prototxt
from densenet_port.formats.caffe.layers import BLOBS, Layer, Value, layer_of, layers
from densenet_port.formats.protobuf import LEN, VARINT, Field, Later, Message, Part
from densenet_port.formats.record import parse_record
from densenet_port.formats.source import AGAIN, Source, Writable, guarded, native, write_tensor
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.units import Unit

RECORD = 536_870_121
LAYERS, LAYER = 2, 100
_SCALARS = {
    (1, LEN),
    (3, LEN),
    (4, LEN),
    (4, VARINT),
    (5, VARINT),
    (6, LEN),
    (7, VARINT),
    (8, LEN),
}  # of a NetParameter
_FEW = 1000  # fields before the first layer
_PIECES = 1000  # of a blob's numbers; writers have one
_AXES = 32  # of a blob; Caffe's own limit
_RECORD_LIMIT = 1 << 26  # bytes; that of DenseNet-264 has 200 kB
_DATA, _SHAPE, _DOUBLE = 5, 7, 8
_EPS, _ROUNDING, _METHODS = 3, 13, ("MAX", "AVE")
_WINDOW = ("kernel_size", "stride")


class _Numbers(NamedTuple):
    """The field numbers of a layer, which differ in the two forms; a type is a text in the new one.

    The blob that it makes has the number behind that of those which it reads.
    """

    name: int
    bottom: int
    blobs: int
    pooling: int


FORMS = {LAYERS: _Numbers(4, 2, 6, 19), LAYER: _Numbers(1, 3, 7, 121)}
KIND, CONV, NORM = 2, 106, 139  # of the new form: the old one has no BatchNorm
SETTINGS: dict[str, tuple[int, dict[str, int]]] = {  # type → number of its settings, and of each
    "Convolution": (CONV, {"num_output": 1, "bias_term": 2, "pad": 3, "kernel_size": 4, "stride": 6}),
    "Pooling": (121, {"pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "global_pooling": 12}),
    "BatchNorm": (NORM, {"use_global_stats": 1, "eps": _EPS}),
    "Scale": (142, {"bias_term": 4}),
    "Reshape": (133, {"shape": 1}),
}


# -- reading -----------------------------------------------------------------------------------------------------------


def sniff(path: Path, _head: bytes) -> bool:
    """Whether a file begins as a NetParameter: fields that it has or may get, then a layer with a name."""
    fields = Message.of(Source.of_file(path))
    try:
        for _, field in zip(range(_FEW), fields, strict=False):
            if field.number in FORMS and field.wire == LEN:
                names = [inner for inner in field.message() if inner.number == FORMS[field.number].name]
                return bool(names) and bool(names[-1].text())
            if field.number < LAYER and (field.number, field.wire) not in _SCALARS:
                return False
    except PortError:
        return False
    return False


def read(path: Path) -> Checkpoint:
    """The checkpoint in a `.caffemodel`.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, MisfitError for a graph whose
    norms or pools do not agree.
    """
    with guarded(path, "caffemodel"):
        net = Message.of(Source.of_file(path)).by_number()
        layers = [_Read.of(FORMS[number], field) for number in FORMS for field in net.get(number, [])]
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            for number, blob in enumerate(layer.blobs):
                name = f"{layer.name}#{number}"
                if name in tensors:
                    raise CorruptError(f"{path}: two layers with blobs are called {layer.name!r}")
                tensors[name] = _tensor(name, blob)
        return Checkpoint(
            path=path,
            container="caffemodel",
            tensors=tensors,
            metadata=_metadata(path, layers),
            record=parse_record(path, net[RECORD][-1].data(_RECORD_LIMIT)) if RECORD in net else None,
        )


class _Read(NamedTuple):
    """What we take of a layer: its name, its blobs, and what it says of the network."""

    name: str
    blobs: list[Message]
    seen: prototxt.Seen

    @classmethod
    def of(cls, numbers: _Numbers, field: Field) -> "_Read":
        """A layer of either form."""
        fields = field.message().by_number()
        name = fields[numbers.name][-1].text() if numbers.name in fields else ""
        kind = fields[KIND][-1].text().lower() if numbers is FORMS[LAYER] and KIND in fields else ""
        pool = _merged(fields.get(numbers.pooling, []))
        seen = prototxt.Seen(
            kind=kind,
            bottoms=tuple(field.text() for field in fields.get(numbers.bottom, [])),
            top=fields[numbers.bottom + 1][-1].text() if numbers.bottom + 1 in fields else "",
            epsilon=_epsilon(_merged(fields.get(NORM, []))) if kind == "batchnorm" else None,
            pool=_pool(pool) if pool else None,
            window=_window(_merged(fields.get(CONV, []))) if kind == "convolution" else (0, 0),
        )
        return cls(name=name, blobs=[blob.message() for blob in fields.get(numbers.blobs, [])], seen=seen)


def _merged(fields: list[Field]) -> dict[int, Field]:
    """Number → the last field of it, in a message that may stand in several pieces."""
    return {field.number: field for part in fields for field in part.message()}


def _epsilon(settings: Mapping[int, Field]) -> float:
    """The epsilon, as the shortest decimal of its 32 bits: people write 1e-5."""
    if _EPS not in settings:
        return prototxt.EPSILON
    return float(str(settings[_EPS].numbers("<f4")[-1]))


def _window(settings: Mapping[int, Field]) -> tuple[int, int]:
    """The side of a convolution's kernel and its stride; 0 and 0 where it says no side."""
    own = SETTINGS["Convolution"][1]
    sides, strides = ([*settings[own[key]].integers()] if own[key] in settings else [] for key in _WINDOW)
    return (sides[0], strides[0] if strides else 1) if sides else (0, 0)


def _pool(settings: Mapping[int, Field]) -> prototxt.Pool:
    """A pool; its rounding is Caffe's own unless the field that could say another is there."""
    numbers = {number: field.integer for number, field in settings.items() if field.wire == VARINT}
    return prototxt.Pool(
        method=_METHODS[numbers.get(1, 0)] if numbers.get(1, 0) in (0, 1) else "",
        kernel=numbers.get(2) or numbers.get(5) or 0,
        stride=numbers.get(3) or numbers.get(7) or 1,
        whole=bool(numbers.get(12)),
        rounding=None if _ROUNDING in numbers else "ceil",
    )


def _metadata(path: Path, layers: list[_Read]) -> dict[str, Any]:
    """What the graph says of the contract: the one beside the file, or else its own."""
    if prototxt.beside(path).is_file():
        return prototxt.read(prototxt.beside(path))
    return prototxt.described(path, [layer.seen for layer in layers])


def _tensor(name: str, blob: Message) -> Tensor:
    """A blob's shape, type and a way to read it. Raises CorruptError where its numbers do not fill its shape."""
    fields, path = blob.by_number(), blob.source.path
    shape = _shape(fields)
    doubles, singles = fields.get(_DOUBLE, []), fields.get(_DATA, [])
    if len(doubles) + len(singles) > _PIECES:
        raise CorruptError(f"{path}: {name} stands in more than {_PIECES} pieces")
    dtype, pieces = ("<f8", doubles) if _count(doubles, "<f8") else ("<f4", singles)
    count = _count(pieces, dtype)
    if len(shape) > _AXES or min(shape, default=0) < 0 or prod(shape) != count:
        shown = " x ".join(map(str, shape[:_AXES])) or "one number"
        raise CorruptError(f"{path}: {name} is {shown}, and holds {count} numbers", hint=AGAIN)
    payload = pieces[0].payload if [piece.wire for piece in pieces] == [LEN] else None
    extent = payload.extent(0, payload.size) if payload else None
    return Tensor(shape, np.dtype(dtype).name, partial(_load, path, pieces, dtype, shape), extent=extent)


def _shape(blob: Mapping[int, list[Field]]) -> tuple[int, ...]:
    """The four old sizes where any is given, 0 for the others; else the new ones."""
    if any(number in blob for number in (1, 2, 3, 4)):
        return tuple(blob[number][-1].integer if number in blob else 0 for number in (1, 2, 3, 4))
    dims = [field for part in blob.get(_SHAPE, []) for field in part.message() if field.number == 1]
    return tuple(length for field in dims for length in field.integers())


def _count(pieces: list[Field], dtype: str) -> int:
    return sum(piece.number_count(dtype) for piece in pieces)


def _load(path: Path, pieces: list[Field], dtype: str, shape: tuple[int, ...]) -> Array:
    """A blob's numbers."""
    with guarded(path, "caffemodel"):
        parts = [piece.numbers(dtype) for piece in pieces]
        whole = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])
        return native(whole.reshape(shape), np.dtype(dtype).name)


# -- writing -----------------------------------------------------------------------------------------------------------


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,
) -> list[Extent]:
    """Write the network of a blueprint, its blobs in `data`, or in `double_data` if they are float64.

    What comes back is where the blobs lie. Tensors are called `<layer>#<n>`. `record()` gives JSON bytes, complete
    after the last tensor. Raises UsageError without a blueprint, and if the tensors are not the blueprint's, or of a
    type that Caffe does not have.
    """
    if blueprint is None:
        raise UsageError("a .caffemodel holds the network's graph, which follows from a blueprint, and none is given")
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORED:
            raise UsageError(f"{name}: Caffe has no {tensor.dtype}", hint="choose --dtype float32 or float64")
    blueprint.check("a .caffemodel", tensors, _shapes)
    blobs, extents = _blobs(blueprint), []
    with path.open("wb") as file:
        file.write(wire.text(1, f"DenseNet-{blueprint.architecture.name}"))
        for layer in layers(blueprint):
            own = {name: tensors[name] for name in blobs.get(layer.name, ())}
            extents += wire.write(file, wire.message(LAYER, list(_layer(layer, own))))
        file.write(wire.data(RECORD, record()))
    return extents


def companion(blueprint: Blueprint) -> bytes:
    """The `.prototxt` that goes with a network's file. Raises UsageError for what Caffe's layers cannot be."""
    return prototxt.text(blueprint, layers(blueprint)).encode()


def _blobs(blueprint: Blueprint) -> dict[str, list[str]]:
    """Layer → the names of its blobs, in their order. Raises UsageError for a name that is not that of its place."""
    blobs: dict[str, list[str]] = {}
    for unit in blueprint.graph.units.values():
        for parts in BLOBS[unit.kind]:
            names = [blueprint.tensors[unit.name][part] for part in parts]
            layer = layer_of(names[0])
            for number, name in enumerate(names):
                if not layer or name != f"{layer}#{number}":
                    raise UsageError(f"{name!r} cannot name a blob", hint=f"expected {layer or '<layer>'}#{number}")
            blobs[layer] = names
    return blobs


def _shapes(unit: Unit) -> dict[str, tuple[int, ...]]:
    """Part → shape of a unit's blobs."""
    sizes = unit.sizes
    if unit.kind == "norm":
        return {part: (1,) if part == "factor" else (sizes["c"],) for parts in BLOBS["norm"] for part in parts}
    if unit.kind == "dense":
        return {"kernel": (sizes["o"], sizes["i"], 1, 1), "bias": (sizes["o"],)}
    return {"kernel": (sizes["o"], sizes["i"], sizes["h"], sizes["w"])}


_STORED = {"float32": (_DATA, 4), "float64": (_DOUBLE, 8)}  # type → field of a BlobProto, and bytes of a number


def _layer(layer: Layer, blobs: Mapping[str, Tensor]) -> Iterator[Part]:
    """The fields of a layer."""
    yield wire.text(1, layer.name) + wire.text(KIND, layer.kind)
    yield b"".join(wire.text(3, bottom) for bottom in layer.bottoms) + wire.text(4, layer.top)
    for name, tensor in blobs.items():
        number, width = _STORED[tensor.dtype]
        count = width * prod(tensor.shape)
        save = partial(_save, name, tensor)
        shape = wire.data(_SHAPE, wire.integers(1, tensor.shape))
        yield from wire.message(7, [wire.head(number, count), Later(count, save), shape])
    if layer.settings:
        number, inner = SETTINGS[layer.kind]
        yield wire.data(number, b"".join(_setting(inner[name], value) for name, value in layer.settings.items()))


def _save(name: str, tensor: Tensor, file: Writable) -> None:
    """Write a blob's numbers."""
    write_tensor(file, name, tensor)


def _setting(number: int, value: Value) -> bytes:
    """One setting of a layer."""
    if isinstance(value, tuple):
        return wire.data(number, wire.integers(1, value))
    if isinstance(value, float):
        return wire.single(number, value)
    return wire.integer(number, _METHODS.index(value) if isinstance(value, str) else value)
