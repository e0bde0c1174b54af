r"""NumPy's `.npz`: a zip of arrays, each a member `<name>.npy`, as `numpy.savez` and `savez_compressed` write them.

    6 bytes     \x93NUMPY
    2 bytes     version, 1.0 to 3.0
    n           the header's length, little-endian: 2 bytes in version 1, else 4
    n bytes     {"descr": type, "fortran_order": whether the first axis changes fastest, "shape": (…)}, a Python literal
    the rest    the elements

What is read: arrays of plain numbers, in the order of the members, under their names. Those of texts and of other types
that no tensor has are left out, with their types in the metadata as `opaque`. Arrays of objects are pickles: they are
not looked into, and a file that holds nothing else is refused. Deflated members are inflated once to be looked at, and
once more when they are read.

What is written is stored, row-major and little-endian, in version 1.0, and `numpy.load` reads it as its own.
densenet-port's record is the last member, `densenet_port.npy`: an array of bytes without axes (`|S<length>`), a JSON
text, and a digest is the archive's comment (see `record`). NumPy has no bfloat16.
"""

import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import ZipFile

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.record import RECORD, UNKNOWN, parse_record
from densenet_port.formats.source import AGAIN, Source, Writable, guarded, native, stored, stored_size, write_tensor
from densenet_port.formats.zip import Member
from densenet_port.network.blueprint import Blueprint

MAGIC = b"\x93NUMPY"
SAVE = "in Python, `numpy.savez(file, **arrays)` with a dict of name → array, and convert that"
_ENDING = ".npy"
_HEAD = 4096  # bytes looked at first: a header has 128 of them
_HEADER_LIMIT = 10_000  # bytes; NumPy's own
_AXES = 32  # NumPy 1's own limit
_PLAIN = re.compile("[<>|=]?(f[248]|[iu][1248]|b1)")  # types of a tensor: plain numbers and truth values
_OBJECT = "|O"
_BYTES = re.compile(r"\|S\d{1,9}")
_RECORD_LIMIT = 1 << 24  # bytes; the record of a DenseNet-264 has 200 kB
_ALIGNED = 64  # a header's bytes are a multiple, as NumPy's are
_TYPE = re.compile(r"""['"]descr['"]\s*:\s*(['"]([^'"]*)['"]|\[)""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L, ]*)\)""")


class Header(NamedTuple):
    """What stands before the elements of an array: how it is stored, and at which byte they begin."""

    shape: tuple[int, ...]
    type: str
    order: Literal["C", "F"]
    start: int


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins with a zip member that is an array."""
    return zip_archive.first_name(head).endswith(_ENDING)


def read(path: Path) -> Checkpoint:
    """The checkpoint in an `.npz`, arrays lazy.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, MisfitError for one that holds
    no arrays of numbers.
    """
    source = Source.of_file(path)
    tensors: dict[str, Tensor] = {}
    opaque: dict[str, str] = {}
    record = None
    with guarded(path, "NumPy archive"):
        for name, member in zip_archive.members(source).items():
            header = read_header(name, member.open())
            if _PLAIN.fullmatch(header.type):
                tensors[name.removesuffix(_ENDING)] = _tensor(path, member, header)
            elif name == RECORD + _ENDING and _BYTES.fullmatch(header.type) and not header.shape:
                record = _record(path, member, header)
            else:
                opaque[name.removesuffix(_ENDING)] = header.type
    if not tensors:
        raise MisfitError(f"{path}: {_explain_no_tensors(opaque)}", hint=SAVE)
    metadata = {"opaque": opaque} if opaque else {}
    return Checkpoint(path=path, container="npz", tensors=tensors, metadata=metadata, record=record)


def _record(path: Path, member: Member, header: Header) -> dict[str, Any]:
    """What densenet-port wrote into the file. Raises CorruptError for another thing."""
    size = member.size - header.start
    if size > _RECORD_LIMIT:
        raise CorruptError(f"{path}: its record has {size} bytes, at most {_RECORD_LIMIT} are expected", hint=AGAIN)
    return parse_record(path, member.open().data(header.start, size))


def _explain_no_tensors(opaque: Mapping[str, str]) -> str:
    pickled = _OBJECT in opaque.values()
    return f"a NumPy archive of {'pickled objects, which are not run' if pickled else 'no arrays of numbers'}"


def read_header(name: str, source: Source) -> Header:
    """The header of an array. Raises CorruptError for what is none, ValueError for one that says nothing."""
    head = source.data(0, min(source.size, _HEAD))
    if not head.startswith(MAGIC):
        raise CorruptError(f"{source.path}: {name} does not begin as an array of NumPy does", hint=AGAIN)
    form = "<H" if head[6] == 1 else "<I"
    (length,), begin = struct.unpack_from(form, head, 8), 8 + struct.calcsize(form)
    if length > _HEADER_LIMIT:
        raise CorruptError(
            f"{source.path}: {name} has a header of {length} bytes, at most {_HEADER_LIMIT} are expected"
        )
    text = source.data(begin, length).decode("latin-1")
    kind, order, shape = _TYPE.search(text), _ORDER.search(text), _SHAPE.search(text)
    if not kind or not order or not shape:
        raise CorruptError(f"{source.path}: {name} has the header {text[:80]!r}")
    sizes = tuple(int(size.strip(" L")) for size in shape[1].split(",") if size.strip())
    return Header(sizes, kind[2] or "structured", "F" if order[1] == "True" else "C", begin + length)


def _tensor(path: Path, member: Member, header: Header) -> Tensor:
    """The array, if its elements are all there. Raises CorruptError."""
    kind = np.dtype(header.type)
    size, there = prod(header.shape) * kind.itemsize, member.size - header.start
    if size != there or len(header.shape) > _AXES:
        expected = f"of the shape {header.shape} has {there} bytes, expected {size}"
        raise CorruptError(f"{path}: {member.name} {expected}", hint=AGAIN)
    extent = member.open().extent(header.start, size)
    return Tensor(header.shape, kind.name, partial(_load, path, member, header), extent=extent)


def _load(path: Path, member: Member, header: Header) -> Array:
    """The elements in the machine's byte order."""
    with guarded(path, f"NumPy archive at {member.name}"):
        kind = np.dtype(header.type)
        data = member.open().data(header.start, prod(header.shape) * kind.itemsize)
        return native(np.ndarray(header.shape, kind, data, order=header.order), kind.name)


# -- writing -----------------------------------------------------------------------------------------------------------


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,  # noqa: ARG001 (who writes a graph reads it)
) -> list[Extent]:
    """Write tensors in their order, row-major, and the record behind them; where the tensors lie.

    `record()` gives JSON bytes, complete after the last tensor. Raises UsageError for a type that NumPy does not have,
    and for a tensor that is called as the record is.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == "bfloat16":
            raise UsageError(f"{name}: NumPy has no bfloat16", hint="choose .safetensors, or another --dtype")
        if name == RECORD:
            raise UsageError(f"a tensor is called {name}, as the record in an .npz is", hint="choose .safetensors")
    extents = []
    with path.open("wb") as file, ZipFile(file, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(zip_archive.undated(name + _ENDING), "w", force_zip64=True) as member:
                _write_header(member, stored(tensor.dtype).str, tensor.shape)
                extents.append((file.tell(), stored_size(tensor.shape, tensor.dtype)))
                write_tensor(member, name, tensor)
        text = record()
        with archive.open(zip_archive.undated(RECORD + _ENDING), "w", force_zip64=True) as member:
            _write_header(member, f"|S{len(text)}", ())
            member.write(text)
        archive.comment = UNKNOWN.encode()
    return extents


def _write_header(file: Writable, kind: str, shape: tuple[int, ...]) -> None:
    """What stands before the elements of an array, padded with spaces, with a line's end behind them."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(MAGIC) + 4 + len(text) + 1) % _ALIGNED) + b"\n"
    file.write(MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text)
