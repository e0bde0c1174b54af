"""MXNet's `.params`: arrays and their names, as `net.save_parameters`, `net.export` and `mx.nd.save` write them.

    8 bytes     0x112
    8 bytes     reserved, 0
    8 bytes     how many arrays, and the arrays
    8 bytes     how many names, as many as arrays or none, and the names: 8 bytes of length, and the text

Integers are little-endian. An array begins with 4 bytes that say its form:

    0xF993FAC9, 0xF993FACA    how it is stored (4 bytes: 0 dense, others sparse), number of axes (4), lengths (8 each)
    0xF993FAC8                number of axes (4), lengths (8 each)
    any other                 is the number of axes; lengths (4 each)

and then the device (4 and 4 bytes), the type (4 bytes, see `_DTYPES`), and the elements, row-major. Without axes there
is nothing more, but for 0xF993FACA, where that is one number.

`net.export` puts `arg:` or `aux:` before a name, and all names of a network begin with its own (`densenet0_`) where the
file has names of blocks: both are left out. Refused: sparse arrays, and lists without names.
https://github.com/apache/mxnet/blob/1.9.1/src/ndarray/ndarray.cc (NDArray::Save, NDArray::Load)
"""

import re
import struct
from functools import partial
from pathlib import Path

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.bounds import TENSORS
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored, stored_size

MAGIC = struct.pack("<2Q", 0x112, 0)
SAVE = "in MXNet, `net.save_parameters(file)`, and convert that"
_DENSE, _DENSE_NUMPY, _FIRST = 0xF993FAC9, 0xF993FACA, 0xF993FAC8
_DTYPES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    8: "int16",
    9: "uint16",
    10: "uint32",
    11: "uint64",
    12: "bfloat16",
}
_AXES = 32
_NAME = 4096  # bytes
_LEAST = 4  # bytes of an array


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins as a list of MXNet's arrays."""
    return head.startswith(MAGIC)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a `.params`, arrays lazy.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, MisfitError for arrays that
    are sparse or have no names.
    """
    source = Source.of_file(path)
    with guarded(path, "MXNet file"):
        place = _Place(source, len(MAGIC))
        arrays = [_array(place, number) for number in range(place.count("arrays", _LEAST))]
        names = [place.text() for _ in range(place.count("names", 8))]
    if arrays and not names:
        raise MisfitError(f"{path}: {len(arrays)} arrays of MXNet without names", hint=SAVE)
    tensors = dict(zip(_bare(names), arrays, strict=False))
    if len(names) != len(arrays) or len(tensors) != len(arrays) or place.at != source.size:
        raise CorruptError(f"{path}: {len(names)} names, {len(tensors)} of them different, for {len(arrays)} arrays")
    return Checkpoint(
        path=path, container="mxnet", tensors={name: tensor for name, tensor in tensors.items() if tensor is not None}
    )


def _bare(names: list[str]) -> list[str]:
    """The names without what `export` and the network's own name put before them."""
    bare = [name.removeprefix("arg:").removeprefix("aux:") for name in names]
    starts = {match[0] if (match := re.match(r"[A-Za-z]+\d*_", name)) else "" for name in bare}
    start = starts.pop() if len(starts) == 1 else ""
    return [name.removeprefix(start) for name in bare]


class _Place:
    """A place in a file, from which numbers and texts are read on."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at = source, at

    def take(self, form: str) -> tuple[int, ...]:
        """Numbers, as `struct` calls them."""
        data = self.source.data(self.at, struct.calcsize(form))
        self.at += len(data)
        return struct.unpack(form, data)

    def count(self, what: str, least: int) -> int:
        """How many follow, of so many bytes at least. Raises CorruptError for more than there can be."""
        (count,) = self.take("<Q")
        if count > min(TENSORS, (self.source.size - self.at) // least):
            raise CorruptError(f"{self.source.path}: {count} {what} cannot be in it", hint=AGAIN)
        return int(count)

    def text(self) -> str:
        """A text behind its length."""
        (length,) = self.take("<Q")
        if length > _NAME:
            raise CorruptError(
                f"{self.source.path}: a name of {length} bytes, at most {_NAME} are expected", hint=AGAIN
            )
        data = self.source.data(self.at, length)
        self.at += length
        return data.decode()


def _array(place: _Place, number: int) -> Tensor | None:
    """An array; None for an empty one. Raises CorruptError for one that cannot be, MisfitError for a sparse one."""
    (form,) = place.take("<I")
    if form in (_DENSE, _DENSE_NUMPY) and place.take("<i") != (0,):
        raise MisfitError(f"{place.source.path}: its array {number} is sparse, which no layer of a DenseNet's is")
    axes = form if form not in (_DENSE, _DENSE_NUMPY, _FIRST) else place.take("<i")[0]
    if not 0 <= axes <= _AXES:
        raise CorruptError(f"{place.source.path}: its array {number} has {axes} axes", hint=AGAIN)
    shape = place.take(f"<{axes}{'I' if form == axes else 'q'}")
    if not axes and form != _DENSE_NUMPY:
        return None
    *_, kind = place.take("<3i")
    if kind not in _DTYPES or min(shape, default=0) < 0:
        raise CorruptError(
            f"{place.source.path}: its array {number} has the shape {shape} and the type {kind}", hint=AGAIN
        )
    start, size = place.at, stored_size(shape, _DTYPES[kind])
    place.source.part(start, size)
    place.at += size
    return Tensor(shape, _DTYPES[kind], partial(_load, place.source, start, shape, _DTYPES[kind]))


def _load(source: Source, start: int, shape: tuple[int, ...], dtype: str) -> Array:
    """The elements in the machine's byte order."""
    with guarded(source.path, "MXNet file"):
        data = source.data(start, stored_size(shape, dtype))
        return native(np.frombuffer(data, stored(dtype)).reshape(shape), dtype)
