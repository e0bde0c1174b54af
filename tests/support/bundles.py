"""TensorFlow's bundles written by hand, after their description: entries as they are wanted, with good checksums."""

import struct

import numpy as np

from densenet_port.formats import protobuf
from densenet_port.formats.tensorflow.crc32c import crc32c, masked

FOOTER = bytes.fromhex("57fb808b247547db")


def entry(array, *, offset=0, dtype=1, shape=None, shard=0, size=None, checksum=None):
    """An entry of an index, for float32 unless `dtype` says otherwise."""
    data = np.ascontiguousarray(array).tobytes()
    axes = [protobuf.message(2, [protobuf.integer(1, length)]) for length in shape or np.shape(array)]
    parts = [
        protobuf.integer(1, dtype),
        *protobuf.message(2, [part for axis in axes for part in axis]),
        protobuf.integer(3, shard),
        protobuf.integer(4, offset),
        protobuf.integer(5, len(data) if size is None else size),
        protobuf.varint(6 << 3 | 5) + struct.pack("<I", masked(crc32c(data)) if checksum is None else checksum),
    ]
    return b"".join(parts)


def table(entries, pack=None):
    """A table of one block of entries, packed by Snappy if `pack` does so."""
    blocks = b""

    def put(content):
        nonlocal blocks
        content = content if pack is None else pack(content)
        handle = protobuf.varint(len(blocks)) + protobuf.varint(len(content))
        content += b"\0" if pack is None else b"\1"
        blocks += content + struct.pack("<I", masked(crc32c(content)))
        return handle

    data = put(block(entries))
    handles = put(block({})), put(block({b"~": data}))
    return blocks + b"".join(handles).ljust(40, b"\0") + FOOTER


def block(entries):
    """A block whose keys are written out, one after the other."""
    written = b""
    for key, value in entries.items():
        written += b"\0" + protobuf.varint(len(key)) + protobuf.varint(len(value)) + key + value
    return written + struct.pack("<2I", 0, 1)


def snappy(data):
    """Packed with pieces of every kind: what repeats is copied, from near and far."""
    packed, at = protobuf.varint(len(data)), 0
    while at < len(data):
        start = data.rfind(data[at : at + 4], 0, at + 3)
        if start < 0 or len(data) - at < 4 or start >= at:
            packed += b"\0" + data[at : at + 1]
            at += 1
            continue
        length = 4
        while at + length < len(data) and data[start + length] == data[at + length] and length < 64:
            length += 1
        offset = at - start
        if length < 12 and offset < 2048:
            packed += bytes([1 | (length - 4) << 2 | offset >> 8 << 5, offset & 255])
        elif offset < 1 << 16 and at % 2:
            packed += bytes([2 | (length - 1) << 2]) + struct.pack("<H", offset)
        else:
            packed += bytes([3 | (length - 1) << 2]) + struct.pack("<I", offset)
        at += length
    return packed


def put(folder, entries, data, shards=1, header=None, pack=None):
    """An index of a header and entries, and a file of data: the path of the index."""
    first = protobuf.integer(1, shards) if header is None else header
    path = folder / "x.index"
    path.write_bytes(table({b"": first, **{key.encode(): value for key, value in entries.items()}}, pack))
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return path
