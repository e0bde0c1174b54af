"""LevelDB's table, in which TensorFlow keeps the index of a checkpoint: keys and values, sorted by key.

    footer      the last 48 bytes: the handles of two blocks (of filters, which is not read, and the index), padded
                with zeros to 40 bytes, then 57 fb 80 8b 24 75 47 db
    handle      offset and size of a block, two varints
    block       `size` bytes, then one that says how they are packed (0 not at all, 1 Snappy), then the masked CRC-32C
                of both, 4 bytes, little-endian

A block, unpacked, is entries, then the offsets of some of them, 4 bytes each, and their number, 4 bytes. An entry is
three varints, a and b and n, then b bytes of the key, whose first a bytes are those of the key before, then n bytes of
the value. In the index each value is the handle of a block, whose keys are not above the entry's.

Snappy: a varint, the unpacked length, then pieces, each a byte whose lower two bits say its kind:

    0   length − 1 in the upper six bits, or 60 … 63 for 1 … 4 bytes that follow with it; then the bytes themselves
    1   a copy: length − 4 in three bits, the upper three bits of the offset; one byte with the others
    2   a copy: length − 1 in six bits; two bytes of offset
    3   a copy: length − 1 in six bits; four bytes of offset

An offset counts backwards from the end of what is unpacked; a copy may run into what it writes.
https://github.com/google/leveldb/blob/main/doc/table_format.md
https://github.com/google/snappy/blob/main/format_description.txt
"""

import struct
from collections.abc import Iterator

from densenet_port.errors import CorruptError
from densenet_port.formats.bounds import TENSORS
from densenet_port.formats.source import AGAIN, Source
from densenet_port.formats.tensorflow.crc32c import crc32c, masked

MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48  # bytes
_TRAILER = 5  # bytes behind a block
_PLAIN, _SNAPPY = 0, 1
_MOST = 1 << 21  # bytes of a table, and of all its blocks, packed or not: a DenseNet-264's index has 150 kB
_KEY = 4096  # bytes of a key; Keras's have fewer than 200
_LONGEST = 10  # bytes of a varint


def is_table(source: Source) -> bool:
    """Whether a file ends as a table does."""
    return source.size >= _FOOTER and source.data(source.size - len(MAGIC), len(MAGIC)) == MAGIC


def entries(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each entry, in order. Raises CorruptError for what is no table, or a broken one."""
    if not is_table(source) or source.size > _MOST:
        raise CorruptError(f"{source.path}: does not end as the index of a TensorFlow checkpoint does", hint=AGAIN)
    footer = source.data(source.size - _FOOTER, _FOOTER)
    _, _, at = _handle(source, footer, 0)
    offset, size, _ = _handle(source, footer, at)
    budget, before, count, unpacked = source.size, b"", 0, 0
    for _, value in _entries(source, _block(source, offset, size)):
        offset, size, _ = _handle(source, value, 0)
        budget -= size + _TRAILER
        if budget < 0:
            raise _broken(source, "its blocks overlap")
        block = _block(source, offset, size)
        if (unpacked := unpacked + len(block)) > _MOST:
            raise _broken(source, f"blocks of more than {_MOST} bytes")
        for key, content in _entries(source, block):
            if (count := count + 1) > TENSORS:
                raise _broken(source, f"more than {TENSORS} entries")
            if before and key <= before:
                raise _broken(source, "its keys are not in order")
            yield key, content
            before = key


def _block(source: Source, offset: int, size: int) -> bytes:
    """The entries of a block, unpacked and checked."""
    if size > _MOST:
        raise _broken(source, f"a block of {size} bytes, at most {_MOST} are expected")
    data = source.data(offset, size + _TRAILER)
    packing, checksum = data[size], int.from_bytes(data[size + 1 :], "little")
    if masked(crc32c(data[: size + 1])) != checksum:
        raise _broken(source, f"the block at byte {offset} is not what its checksum says")
    if packing not in (_PLAIN, _SNAPPY):
        raise _broken(source, f"the block at byte {offset} is packed in the unknown way {packing}")
    return _unpacked(source, data[:size]) if packing == _SNAPPY else data[:size]


def _entries(source: Source, block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each entry of a block."""
    (count,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (count + 1)
    if end < 0:
        raise _broken(source, "a block of more offsets than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(source, block, at)
        own, at = _varint(source, block, at)
        length, at = _varint(source, block, at)
        if shared > len(key) or at + own + length > end:
            raise _broken(source, "an entry reaches beyond its block")
        if shared + own > _KEY:
            raise _broken(source, f"a key of {shared + own} bytes, at most {_KEY} are expected")
        key = key[:shared] + block[at : at + own]
        at += own + length
        yield key, block[at - length : at]


def _handle(source: Source, data: bytes, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the place behind its handle."""
    offset, at = _varint(source, data, at)
    size, at = _varint(source, data, at)
    return offset, size, at


def _varint(source: Source, data: bytes, at: int) -> tuple[int, int]:
    """The varint at a place, and the place behind it."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 127) << 7 * place
        if byte < 128:  # the top bit says that more follows
            return value, at + place + 1
    raise _broken(source, "a number has no end")


def _broken(source: Source, detail: str) -> CorruptError:
    return CorruptError(f"{source.path}: broken index of a TensorFlow checkpoint: {detail}", hint=AGAIN)


# -- Snappy ------------------------------------------------------------------------------------------------------------


def _unpacked(source: Source, data: bytes) -> bytes:
    """What Snappy packed. Raises CorruptError where that is none, or of another length than it says."""
    length, at = _varint(source, data, 0)
    if length > _MOST:
        raise _broken(source, f"a block that unpacks to {length} bytes, at most {_MOST} are expected")
    out = bytearray()
    while at < len(data) and len(out) <= length:
        tag, at = data[at], at + 1
        if tag & 3:
            count, offset, at = _copy(data, tag, at)
            if not 0 < offset <= len(out):
                raise _broken(source, "Snappy copies what is not there")
            for _ in range(-(-count // offset)):
                out += out[len(out) - offset : len(out) - offset + min(offset, count)]
                count -= offset
        else:
            count, at = _literal(data, tag, at)
            out += data[at : at + count]
            at += count
    if len(out) != length or at > len(data):
        raise _broken(source, f"Snappy unpacks to {len(out)} bytes, expected {length}")
    return bytes(out)


def _literal(data: bytes, tag: int, at: int) -> tuple[int, int]:
    """How many bytes follow as they are, and from where."""
    count, more = tag >> 2, (tag >> 2) - 59
    if more <= 0:
        return count + 1, at
    return int.from_bytes(data[at : at + more], "little") + 1, at + more


def _copy(data: bytes, tag: int, at: int) -> tuple[int, int, int]:
    """How many bytes are copied from how far back, and the place behind."""
    if tag & 3 == 1:
        return (tag >> 2 & 7) + 4, tag >> 5 << 8 | int.from_bytes(data[at : at + 1], "little"), at + 1
    width = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, int.from_bytes(data[at : at + width], "little"), at + width
