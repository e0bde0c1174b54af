"""TensorFlow's tensor bundle: an index, `<prefix>.index`, and the tensors' bytes in shards beside it.

The index is a table (see `table`) of protobufs. The empty key has the header, any other is a tensor's:

    header      1 number of shards, 2 endianness (0 little, 1 big), 3 version (2 the oldest reader that may read it)
    entry       1 dtype, 2 shape (2 axes, each 1 its length; 3 is set where it is not known), 3 shard, 4 offset,
                5 size in bytes, 6 masked CRC-32C (fixed32), 7 slices of the tensor, which are entries of their own,
                under keys that begin with a zero byte

Shard k of n is `<prefix>.data-0000k-of-0000n`; a tensor stands there row-major. A text (dtype 7) is the lengths of its
strings as varints, the masked checksum of these lengths (of 4 bytes each, little-endian) in 4 bytes, and the strings.
The checksum of an entry is that of its bytes; that of a text has the lengths as 4 bytes each. It is compared each time
that a tensor is read.

Refused: big-endian bundles, tensors in slices (what a partitioned variable becomes), and versions that are not known.
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from densenet_port.checkpoint import Array, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.protobuf import Field, Message
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored, stored_size
from densenet_port.formats.tensorflow.crc32c import crc32c, masked
from densenet_port.formats.tensorflow.table import entries

INDEX = ".index"
CONTAINER = "TensorFlow checkpoint"
_DTYPES = {  # TensorFlow's numbers → numpy's words
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_TEXT = 7
_SLICE = b"\0"
_VERSION = 1  # of bundles, the newest there is
_SHARDS = 10_000  # five digits, and fewer than anybody has
_TEXT_LIMIT = 1 << 26  # bytes; the object graph of a DenseNet-264 has 300 kB
_AXES = 32  # NumPy 1's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an index says of a tensor."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An index that was read, and the shards beside it; `entries` are by key, in the order of the index."""

    index: Path
    shards: tuple[Source, ...]
    entries: Mapping[str, Entry]

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the bundle is made of."""
        return (self.index, *(shard.path for shard in self.shards))

    def tensors(self) -> dict[str, Tensor]:
        """Key → tensor of all that are numbers; each is checked against its checksum when it is loaded."""
        return {key: self._tensor(key) for key, entry in self.entries.items() if entry.dtype in _DTYPES}

    def others(self) -> dict[str, str]:
        """Key → what it is, of all that are no numbers."""
        words = {_TEXT: "text"}
        return {
            key: words.get(entry.dtype, f"TensorFlow's type {entry.dtype}")
            for key, entry in self.entries.items()
            if entry.dtype not in _DTYPES
        }

    def content(self, key: str) -> object:
        """What is equal for tensors that are the same."""
        entry = self.entries[key]
        return (entry.dtype, entry.shape, entry.checksum)

    def text(self, key: str) -> bytes:
        """The one string of a text. Raises CorruptError for anything else."""
        entry = self.entries[key]
        if entry.dtype != _TEXT or entry.shape != () or entry.size > _TEXT_LIMIT:
            raise CorruptError(f"{self.index}: {key} is no text of at most {_TEXT_LIMIT} bytes", hint=AGAIN)
        data = self.shards[entry.shard].data(entry.offset, entry.size)
        start = next((place + 1 for place, byte in enumerate(data[:10]) if byte < 128), 10)  # behind the varint
        checksum, string = data[start : start + 4], data[start + 4 :]
        length = len(string).to_bytes(4, "little")
        if masked(crc32c(string, crc32c(checksum, crc32c(length)))) != entry.checksum:
            raise _changed(self.shards[entry.shard], key, entry)
        return string

    def _tensor(self, key: str) -> Tensor:
        """A tensor of numbers, if its size is that of its shape. Raises CorruptError."""
        entry, dtype = self.entries[key], _DTYPES[self.entries[key].dtype]
        expected = stored_size(entry.shape, dtype)
        if entry.size != expected:
            raise CorruptError(
                f"{self.index}: {key} of the shape {entry.shape} has {entry.size} bytes, expected {expected}",
                hint=AGAIN,
            )
        return Tensor(entry.shape, dtype, partial(_load, self.shards[entry.shard], key, entry, dtype))


def _load(shard: Source, key: str, entry: Entry, dtype: str) -> Array:
    """The elements. Raises CorruptError where they are not those that were written."""
    with guarded(shard.path, CONTAINER):
        data = shard.data(entry.offset, entry.size)
        if masked(crc32c(data)) != entry.checksum:
            raise _changed(shard, key, entry)
        return native(np.frombuffer(data, stored(dtype)).reshape(entry.shape), dtype)


def _changed(shard: Source, key: str, entry: Entry) -> CorruptError:
    """The error for bytes that are not those that were written."""
    place = f"{entry.size} bytes at {entry.offset}"
    return CorruptError(f"{shard.path}: {key} ({place}) is not what its checksum says", hint=AGAIN)


# -- the index ---------------------------------------------------------------------------------------------------------


def read(index: Path) -> Bundle:
    """The bundle of an index.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken or not there, MisfitError for
    what is not read.
    """
    source = Source.of_file(index)
    content = dict(entries(source))
    shards = _shards(index, _header(source, content.pop(b"", b"")))
    named = {key.decode(): value for key, value in content.items() if not key.startswith(_SLICE)}
    known = {key: _entry(source, key, value) for key, value in named.items()}
    for key, entry in known.items():
        if not 0 <= entry.shard < len(shards):
            raise CorruptError(f"{index}: {key} stands in data file {entry.shard} of {len(shards)}", hint=AGAIN)
        shards[entry.shard].part(entry.offset, entry.size)
    return Bundle(index=index, shards=shards, entries=known)


def _shards(index: Path, count: int) -> tuple[Source, ...]:
    """The files with the tensors. Raises CorruptError where one is missing."""
    prefix = index.name.removesuffix(INDEX)
    paths = [index.with_name(f"{prefix}.data-{shard:05d}-of-{count:05d}") for shard in range(count)]
    if missing := [path for path in paths if not path.is_file()]:
        of = f"its tensors stand in {count} file{'s' if count > 1 else ''} beside it"
        raise CorruptError(
            f"{index}: {of}, and {missing[0].name} is not there", hint="copy all files of the checkpoint"
        )
    return tuple(Source.of_file(path) for path in paths)


def _header(source: Source, data: bytes) -> int:
    """How many shards there are. Raises CorruptError without a header, MisfitError for a bundle that is not read."""
    fields = _fields(source, data)
    count, order = (fields[number][-1].integer if number in fields else 0 for number in (1, 2))
    version = fields[3][-1].message().by_number() if 3 in fields else {}
    oldest = version[2][-1].integer if 2 in version else 0
    if not 0 < count <= _SHARDS:
        raise CorruptError(f"{source.path}: a TensorFlow checkpoint of {count} data files", hint=AGAIN)
    if order or oldest > _VERSION:
        what = "written on a big-endian machine" if order else f"of version {oldest}, at most {_VERSION} is read"
        raise MisfitError(f"{source.path}: a TensorFlow checkpoint {what}", hint=_again(source.path))
    return count


def _entry(source: Source, key: str, data: bytes) -> Entry:
    """An entry of a tensor. Raises CorruptError for what cannot be one, MisfitError for a tensor in slices."""
    fields = _fields(source, data)
    if 7 in fields:
        hint = _again(source.path)
        raise MisfitError(
            f"{source.path}: {key} is in {len(fields[7])} slices, as a partitioned variable is", hint=hint
        )
    numbers = {number: fields[number][-1].integer if number in fields else 0 for number in (1, 3, 4, 5)}
    shape = _shape(fields[2][-1]) if 2 in fields else ()
    if len(shape) > _AXES or min((*shape, *numbers.values())) < 0:
        raise CorruptError(f"{source.path}: {key} has the shape {shape[:_AXES]}", hint=AGAIN)
    return Entry(
        dtype=numbers[1],
        shape=shape,
        shard=numbers[3],
        offset=numbers[4],
        size=numbers[5],
        checksum=int(fields[6][-1].numbers("<u4")[-1]) if 6 in fields else 0,
    )


def _shape(field: Field) -> tuple[int, ...]:
    """The lengths of the axes; −1 where one is not known, which no tensor has."""
    fields = field.message().by_number()
    axes = [axis.message().by_number() for axis in fields.get(2, [])]
    return (-1,) if 3 in fields else tuple(axis[1][-1].integer if 1 in axis else 0 for axis in axes)


def _fields(source: Source, data: bytes) -> dict[int, list[Field]]:
    """The fields of a small message of the index."""
    return Message.of(Source.of_bytes(source.path, data)).by_number()


def _again(index: Path) -> str:
    """How TensorFlow reads what we do not."""
    prefix = str(index).removesuffix(INDEX)
    return (
        f"in Python, `import tensorflow as tf, numpy as np; r = tf.train.load_checkpoint({prefix!r}); "
        f"np.savez({prefix + '.npz'!r}, **{{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}})`, then "
        "convert that"
    )
