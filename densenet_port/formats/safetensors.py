"""safetensors: a JSON header and the tensors behind it.

    8 bytes     n, the header's length, little-endian, at most 100 MB
    n bytes     {name: {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {text: text}}
    the rest    the tensors, row-major, little-endian, without gaps; offsets count from the end of the header

Read without the `safetensors` library, which keeps the whole file mapped and needs another package for bfloat16. The
order is that of the data. Refused: names given twice, overlaps, gaps, types that numpy does not have.

densenet-port's record is the entry `densenet_port` of `__metadata__`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import MEANING, Array, Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats.bounds import AXES, parsed_json
from densenet_port.formats.record import RECORD, parse_record
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored, stored_size, write_tensor
from densenet_port.network.blueprint import Blueprint

DTYPES = {  # the header's words → numpy's
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_HEADER_LIMIT = 100_000_000  # bytes; the format's own
_METADATA = "__metadata__"
_WORDS = {name: word for word, name in DTYPES.items()}


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file begins with a length that fits into it and a JSON object."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= min(_HEADER_LIMIT, path.stat().st_size - 8)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a safetensors file.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken.
    """
    source = Source.of_file(path)
    with guarded(path, "safetensors"):
        length = int.from_bytes(source.data(0, 8), "little")
        if length > _HEADER_LIMIT:
            raise CorruptError(f"{path}: a header of {length} bytes, at most {_HEADER_LIMIT} are allowed")
        header = parsed_json(f"{path}: its header", source.data(8, length), _unique)
        metadata = header.pop(_METADATA, {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise CorruptError(f"{path}: {_METADATA} holds more than texts")
        record = parse_record(path, metadata.pop(RECORD)) if RECORD in metadata else None
        tensors = dict(_tensors(source, header, 8 + length))
    texts = {key: text for key, text in metadata.items() if key not in MEANING}  # anybody's words
    return Checkpoint(path=path, container="safetensors", tensors=tensors, metadata=texts, record=record)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that it gives twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name is given twice")
    return content


def _tensors(source: Source, header: Mapping[str, Any], start: int) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each entry, in the order of the data, which follow each other to the end of the file."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CorruptError(
                f"{source.path}: {name} has the type {entry['dtype']}", hint=f"known: {', '.join(DTYPES)}"
            )
        if len(shape) > AXES or not all(type(size) is int and size >= 0 for size in (begin, end, *shape)):
            raise CorruptError(f"{source.path}: {name} has the shape {list(shape[:AXES])} at {begin} to {end}")
        if begin != at or end - begin != stored_size(shape, dtype):
            expected = f"{stored_size(shape, dtype)} bytes from {at}"
            raise CorruptError(f"{source.path}: {name} stands at {begin} to {end}, expected {expected}")
        extent = source.extent(start + begin, end - begin)
        yield name, Tensor(shape, dtype, _load(source, start + begin, shape, dtype), extent=extent)
        at = end
    if start + at != source.size:
        raise CorruptError(f"{source.path}: {source.size} bytes, expected {start + at}", hint=AGAIN)


def _load(source: Source, offset: int, shape: tuple[int, ...], dtype: str) -> Callable[[], Array]:
    """How to read one tensor."""

    def load() -> Array:
        with guarded(source.path, "safetensors"):
            data = source.data(offset, stored_size(shape, dtype))
            return native(np.frombuffer(data, stored(dtype)).reshape(shape), dtype)

    return load


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,  # noqa: ARG001 (who writes a graph reads it)
) -> list[Extent]:
    """Write tensors in their order, row-major, with the record in the header; where the tensors lie.

    `record()` gives JSON bytes of constant length, complete after the last tensor. Raises UsageError for a type that
    safetensors does not have, or names that its header cannot hold.
    """
    entries = _entries(tensors)
    head = _header(entries, record())
    with path.open("wb") as file:
        file.write(head)
        for name, tensor in tensors.items():
            write_tensor(file, name, tensor)
        extent = len(head), file.tell() - len(head)
        file.seek(0)
        if file.write(complete := _header(entries, record())) != len(head):
            raise MisfitError(f"{path}: the header grew from {len(head)} to {len(complete)} bytes while it was written")
    return [extent]


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the header says of each tensor."""
    entries: dict[str, Any] = {}
    at = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _WORDS or name == _METADATA:
            hint = f"known: {', '.join(_WORDS)}"
            raise UsageError(f"{name}: {tensor.dtype} cannot be written as safetensors", hint=hint)
        end = at + stored_size(tensor.shape, tensor.dtype)
        entries[name] = {"dtype": _WORDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    return entries


def _header(entries: Mapping[str, Any], record: bytes) -> bytes:
    """The file up to the tensors, padded with spaces so that they begin at a multiple of eight."""
    content = {_METADATA: {RECORD: record.decode()}} | dict(entries)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
