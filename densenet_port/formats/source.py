"""Bytes of checkpoints in and out: parts of a file by offset, and one tensor after another to a file."""

import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from io import FileIO
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from densenet_port.checkpoint import Array, Extent, Tensor
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError

AGAIN = "fetch or copy the file again"
_BROKEN = (
    struct.error,
    zlib.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


@contextmanager
def guarded(path: Path, container: str) -> Iterator[None]:
    """Turn what a broken file or disk raises into errors of ours; `container` is for the message.

    CorruptError for a file that is broken, DiskError for a disk, MisfitError for a tensor that memory cannot hold.
    """
    try:
        yield
    except PortError:
        raise
    except MemoryError as error:
        hint = "its tensors are read one by one; the largest must fit"
        raise MisfitError(f"{path}: a tensor of the {container} needs more memory than there is", hint=hint) from error
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except _BROKEN as error:
        raise CorruptError(f"{path}: broken {container}: {type(error).__name__}: {error}", hint=AGAIN) from error


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Give errors the path that they lack: who interprets a pickle knows nothing of files."""
    try:
        yield
    except PortError as error:
        if str(path) in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


class Source:
    """A file, or a part of it, or bytes in memory, to be read by offset; `size` is in bytes, `path` for messages.

    `start` is where it begins in the file of the path; None for what is not in it as it is.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        pread: Callable[[int, int], bytes],
        *,
        start: int | None = None,
        file: FileIO | None = None,
    ) -> None:
        """Keep `pread(length, offset)`, which may give fewer bytes at the end, and the file if this is all of one."""
        self.path = path
        self.size = size
        self.start = start
        self._pread = pread
        self._file = file

    @classmethod
    def of_file(cls, path: Path, *, called: Path | None = None) -> "Source":
        """Read from a file, which is open as long as anything uses it; messages say `called`. Raises DiskError."""
        try:
            file = path.open("rb", buffering=0)
            size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror}", hint="is the path right?") from error
        source = cls(called or path, size, partial(_read_at, file, Lock()), start=None if called else 0, file=file)
        weakref.finalize(source, file.close)
        return source

    @classmethod
    def of_bytes(cls, path: Path, data: bytes) -> "Source":
        """Read from memory."""
        return cls(path, len(data), lambda count, offset: data[offset : offset + count])

    def part(self, start: int, size: int) -> "Source":
        """Read from a part of this. Raises CorruptError if it reaches beyond."""
        if not 0 <= start <= start + size <= self.size:
            raise self.beyond(start, size)
        begin = None if self.start is None else self.start + start
        return Source(self.path, size, lambda count, offset: self._pread(count, start + offset), start=begin)

    def extent(self, offset: int, length: int) -> Extent | None:
        """Where these bytes lie in the file; None where they do not lie there as they are."""
        return None if self.start is None else (self.start + offset, length)

    def data(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises CorruptError outside of the file, OSError for a broken disk."""
        if not 0 <= offset <= offset + length <= self.size:
            raise self.beyond(offset, length)
        data = self._pread(length, offset)
        if len(data) != length:
            raise self.beyond(offset, length)
        return data

    def all(self) -> bytes:
        """All bytes. Raises as `data`."""
        return self.data(0, self.size)

    @contextmanager
    def mapped(self) -> Iterator[bytes | mmap]:
        """All bytes of a file as one buffer that takes no memory, to be parsed now and not to be kept."""
        if self._file is None:
            yield self.all()
        else:
            with mmap(self._file.fileno(), 0, access=ACCESS_READ) as data:
                yield data

    def beyond(self, offset: int, length: int) -> CorruptError:
        """What is raised for bytes outside of this."""
        return CorruptError(f"{self.path}: {length} bytes at {offset} reach beyond the file's {self.size}", hint=AGAIN)


def _read_at(file: FileIO, lock: Lock, length: int, offset: int) -> bytes:
    """Bytes of a file; one call of the system gives at most 2 GiB of them."""
    with lock:
        file.seek(offset)
        data = file.read(length)
        while len(data) < length and (more := file.read(length - len(data))):
            data += more
    return data


class Writable(Protocol):
    """Where bytes go: a file, or a member of an archive."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Write all of the bytes."""


@lru_cache(maxsize=32)
def stored(dtype: str) -> np.dtype[np.generic]:
    """How elements of `Tensor.dtype` stand in a file: little-endian, bfloat16 as the upper half of a float32."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


def stored_size(shape: tuple[int, ...], dtype: str) -> int:
    """How many bytes an array of a shape and a `Tensor.dtype` takes in a file."""
    return prod(shape) * stored(dtype).itemsize


def native(array: Array, dtype: str) -> Array:
    """Elements as stored → an array of this machine's `dtype`; bfloat16 becomes float32."""
    if dtype == "bfloat16":
        bits = array.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write_tensor(file: Writable, name: str, tensor: Tensor) -> None:
    """Load a tensor and write its elements, row-major and little-endian, in `Tensor.dtype`.

    Raises MisfitError if the array has another shape or type than the tensor says, or would lose bits as bfloat16:
    the file's head is written by then, and would be wrong.
    """
    array = tensor.load()
    dtype = np.dtype("float32" if tensor.dtype == "bfloat16" else tensor.dtype)
    if array.shape != tensor.shape or array.dtype != dtype:
        loaded = f"{array.dtype} {array.shape}"
        raise MisfitError(f"{name}: expected {tensor.dtype} {tensor.shape}, found {loaded} when it was loaded")
    if tensor.dtype == "bfloat16":
        array = _halved(name, array)
    array = np.ascontiguousarray(array.astype(stored(tensor.dtype), copy=False))
    file.write(array.reshape(-1).view(np.uint8).data)


def _halved(name: str, array: Array) -> Array:
    """The upper halves of float32 values whose lower halves are zero."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise MisfitError(f"{name}: is to be written as bfloat16 but has values that bfloat16 cannot hold")
    return (bits >> 16).astype(np.uint16)
