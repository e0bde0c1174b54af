"""Reading HDF5 without libhdf5: the part of the format that Keras's files use.

libhdf5 hangs or crashes on some files in which a few bits have flipped, and no caller can catch that; this reader
checks every length against the file, follows no link out of it and stops on loops. It is also faster.

As far as we read the HDF5 File Format Specification 3.0; integers are little-endian, addresses have 8 bytes:

    superblock 0, 1     at byte 0: signature, versions, sizes, …; at the end the address of the root's object header
    object header 1     version, messages, references, bytes; then messages: type, bytes, flags, body
    group               message 0x11 (B-tree 1 → symbol nodes, names in a local heap) or messages 0x06 (hard links)
    dataset             messages 0x01 dataspace, 0x03 datatype, 0x08 layout (compact, contiguous, or chunks in a
                        B-tree 1), 0x0B filters (deflate, shuffle, Fletcher's checksum)
    attribute           message 0x0C, versions 1 to 3
    datatypes           integers, IEEE floats, strings of fixed length, strings of variable length (in a global heap),
                        and two opaque bytes, which are Keras's bfloat16 if an attribute `dtype` says so

Refused: soft and external links, data in other files or of virtual datasets. What only `libver="latest"` or
`track_order=True` write (superblock 2 and 3, object header 2, links in fractal heaps), and other filters, are another
form, which `copy` has copied into this one.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np

from densenet_port.checkpoint import Array, Extent, Tensor
from densenet_port.errors import CorruptError
from densenet_port.formats.bounds import limit_of
from densenet_port.formats.hdf5 import parts
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored

T = TypeVar("T")

METADATA = 10 * 2**20  # bytes of structures read from one file: 264 with its optimizer has 6 MB; a loop has no end
CHUNKS = 50_000  # of all datasets; h5py makes 10,000 of DenseNet-264
_WORDS = 2**16  # summed at once: 2¹⁶ words of 2¹⁶, each as often as there are words in 4 GiB, stay below 2⁶⁴
RATIO = 1000  # times the file that compressed datasets may unpack to, within bounds; deflate reaches 1032
_NAME = 4096  # bytes of a member's name; Keras's have fewer than 100
DEPTH = 64  # groups within groups
REPACK = "in h5py, write its datasets anew, in one piece and without compression"
_NEWER = "load the file with the software that wrote it, and save it again"
_TEXT = np.dtype(object)  # strings of variable length
_CONTIGUOUS, _CHUNKED, _VIRTUAL = 1, 2, 3  # layouts; 0 is compact
_LAYOUTS = {(3, 0), (3, 1), (3, 2), (4, 0), (4, 1)}  # versions and layouts that are read


class OtherFormError(CorruptError):
    """A form of HDF5 that this reader does not know, and libhdf5 may: nothing is known to be broken."""

    def __init__(self, message: str, *, hint: str | None = _NEWER) -> None:
        """Keep what was met, and the way around it."""
        super().__init__(message, hint=hint)


class File:
    """An HDF5 file: its bytes, and how much of them its structures and datasets have claimed."""

    def __init__(self, source: Source) -> None:
        """Nothing is claimed yet."""
        self.path = source.path
        self.size = source.size
        self.data = source.data
        self.extent = source.extent
        self.heaps: dict[int, dict[int, bytes]] = {}
        self._read = 0
        self._chunks = 0
        self._claimed = {False: 0, True: 0}

    def structure(self, offset: int, length: int) -> bytes:
        """Bytes that describe the file. Raises CorruptError when there is no end to them."""
        self.spend(length + 64)
        return self.data(offset, length)

    def spend(self, length: int) -> None:
        """Count bytes that are taken once more from structures that were read."""
        self._read += length
        if self._read > METADATA:
            raise CorruptError(f"{self.path}: its structures form a loop or exceed {METADATA} bytes")

    def claim_chunks(self, count: int) -> None:
        """Count the chunks of a dataset. Raises CorruptError where no network has so many."""
        self._chunks += count
        if self._chunks > CHUNKS:
            raise CorruptError(f"{self.path}: its datasets have more than {CHUNKS} chunks", hint=REPACK)

    def claim(self, length: int, *, packed: bool) -> None:
        """Count the bytes of a dataset. Raises CorruptError when all of them could not stand in this file."""
        self._claimed[packed] += length
        limit = min(limit_of(self.size), RATIO * self.size) if packed else self.size
        if self._claimed[packed] > limit:
            raise CorruptError(f"{self.path}: its datasets claim {self._claimed[packed]} bytes, at most {limit} fit")


@dataclass(frozen=True)
class Node:
    """A group or a dataset: its place in the file and the messages of its object header, type and body."""

    file: File
    path: tuple[str, ...]
    messages: tuple[tuple[int, bytes], ...]

    @property
    def name(self) -> str:
        """The path as one writes it."""
        return "/" + "/".join(self.path)

    @cached_property
    def is_dataset(self) -> bool:
        """Whether it has a layout; everything else is a group."""
        return any(kind == parts.LAYOUT for kind, _ in self.messages)

    @cached_property
    def members(self) -> dict[str, int]:
        """Name → address of a group's members, in the file's order (mostly alphabetical); none in a dataset."""
        links = list(_links(self))
        members = dict(links)
        if len(members) != len(links):
            raise CorruptError(f"{self.file.path}: two members of {self.name} have the same name")
        return members

    def member(self, *path: str) -> "Node":
        """What stands in a group under a name, or under a name within a group within it. Raises CorruptError."""
        node = self
        for name in path:
            if name not in node.members:
                raise CorruptError(f"{self.file.path}: {node.name} has no member {name!r}")
            node = _node(self.file, (*node.path, name), node.members[name])
        return node

    def texts(self, name: str) -> list[str] | None:
        """An attribute that is a list of strings; one string is a list of one. None without it."""
        for kind, body in self.messages:
            if kind == parts.ATTRIBUTE and (texts := _attribute(self.file, name.encode(), body)) is not None:
                return texts
        return None

    def tensor(self) -> Tensor:
        """A dataset's shape, type and a way to read it. Raises CorruptError for what cannot be read."""
        dtype, _ = _datatype(self.message(parts.DATATYPE))
        shape = _dataspace(self.message(parts.DATASPACE))
        if dtype.kind not in "iufV" or (dtype.kind == "V" and self.texts("dtype") != ["bfloat16"]):
            raise CorruptError(f"{self.file.path}: {self.name} holds values of type {dtype}, expected numbers")
        name = "bfloat16" if dtype.kind == "V" else dtype.newbyteorder("=").name
        read, path = _reader(self, stored(name) if name == "bfloat16" else dtype, shape), self.file.path

        def load() -> Array:
            with guarded(path, "HDF5"):
                return native(read(), name)

        return Tensor(shape, name, load, extent=_extent(self))

    def message(self, number: int) -> bytes:
        """The body of the first message of a type. Raises CorruptError without one."""
        for kind, body in self.messages:
            if kind == number:
                return body
        raise CorruptError(f"{self.file.path}: {self.name} lacks the message {number:#x} of a dataset")


def open_root(source: Source, use: Callable[[Node], T]) -> T:
    """What `use` makes of the root group.

    Where the file is of a form that this reader does not know, `use` is called again with the root of a plain copy.
    Raises CorruptError for what is no HDF5 file, is broken or hostile, and what `use` raises.
    """
    try:
        return use(root(source))
    except OtherFormError:
        from densenet_port.formats.hdf5.copy import plain_copy  # noqa: PLC0415 (few files need it)

        return use(root(plain_copy(source)))


def root(source: Source) -> Node:
    """The root group. Raises CorruptError for what is no HDF5 file, OtherFormError for one of another form."""
    file = File(source)
    block = file.structure(0, 9)
    if block[:8] != parts.SIGNATURE:
        raise CorruptError(f"{file.path}: no HDF5, which begins otherwise")
    if block[8] > 1:
        raise OtherFormError(f"{file.path}: HDF5 superblock {block[8]}, expected 0 or 1")
    base, _, end, _, _, address = struct.unpack("<6Q", file.structure(24 + 4 * block[8], 48))
    if file.structure(13, 2) != b"\x08\x08" or base:
        raise OtherFormError(f"{file.path}: HDF5 addresses of other than 8 bytes, or not from the file's start")
    if end > file.size:
        raise CorruptError(f"{file.path}: {file.size} bytes, expected {end}", hint=AGAIN)
    return _node(file, (), address)


def _node(file: File, path: tuple[str, ...], address: int) -> Node:
    """The object whose header stands at an address."""
    if len(path) > DEPTH:
        raise CorruptError(f"{file.path}: groups stand in groups more than {DEPTH} deep")
    node = Node(file, path, tuple(_messages(file, "/" + "/".join(path), address)))
    for kind, body in node.messages:
        if kind == parts.EXTERNAL:
            raise CorruptError(f"{file.path}: the data of {node.name} stand in another file, which is refused")
        if kind == parts.ATTRIBUTE_INFO and struct.unpack_from("<Q", body, 2 + 2 * (body[1] & 1))[0] != parts.UNDEFINED:
            raise OtherFormError(f"{file.path}: attributes of {node.name} stand in a heap")
    return node


def _messages(file: File, name: str, address: int) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of the object header at an address, wherever it goes on."""
    start = file.structure(address, 16)
    version, length = struct.unpack("<B7xI4x", start)
    if start.startswith(b"OHDR"):
        raise OtherFormError(f"{file.path}: {name} has an object header of version 2, expected 1")
    if version != 1:
        raise CorruptError(f"{file.path}: {name} has no object header of version 1", hint=AGAIN)
    blocks = [(address + 16, length)]
    for offset, count in blocks:
        for kind, body in _split(file, file.structure(offset, count)):
            if kind == parts.CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", body))
            elif kind:
                yield kind, body


def _split(file: File, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message in a block of an object header."""
    place = 0
    while place + 8 <= len(block):
        kind, size, flags = struct.unpack_from("<HHB", block, place)
        body = block[place + 8 : place + 8 + size]
        if len(body) != size:
            raise ValueError(f"message {kind:#x} of an object header is cut off")
        if flags & 2 and kind:
            raise OtherFormError(f"{file.path}: message {kind:#x} of an object header stands elsewhere")
        yield kind, body
        place += 8 + size


def _links(node: Node) -> Iterator[tuple[str, int]]:
    """Name and address of the object header, for each member of a group."""
    for kind, body in node.messages:
        if kind == parts.SYMBOL_TABLE:
            yield from _symbols(node.file, *struct.unpack_from("<QQ", body))
        elif kind == parts.LINK:
            yield _link(node.file, body)
        elif kind == parts.LINK_INFO and struct.unpack_from("<Q", body, 2 + 8 * (body[1] & 1))[0] != parts.UNDEFINED:
            raise OtherFormError(f"{node.file.path}: members of {node.name} stand in a heap")


def _symbols(file: File, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """Name and address of each entry of a symbol table."""
    signature, size, start = struct.unpack("<4s4xQ8xQ", file.structure(heap, 32))
    if signature != b"HEAP":
        raise ValueError(f"no local heap at {heap}")
    names = file.structure(start, size)
    for _, leaf in _leaves(file, tree, 0, 8):
        signature, count = struct.unpack("<4s2xH", file.structure(leaf, 8))
        if signature != b"SNOD":
            raise ValueError(f"no symbol node at {leaf}")
        for name, address, cache in struct.iter_unpack("<QQI20x", file.structure(leaf + 8, 40 * count)):
            end = names.index(b"\0", name, name + _NAME)
            file.spend(end - name)
            spelled = names[name:end].decode()
            if cache == 2:  # the specification's mark of a symbolic link
                raise _refused_link(file, spelled, "soft")
            yield spelled, address


def _link(file: File, body: bytes) -> tuple[str, int]:
    """Name and address of a link message. Raises CorruptError for links that are not hard."""
    flags, place, kind = body[1], 2, 0
    if flags & 8:
        kind, place = body[2], 3
    place += 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    start = place + width
    end = start + int.from_bytes(body[place:start], "little")
    name = body[start:end].decode()
    if kind:
        raise _refused_link(file, name, "soft" if kind == 1 else "external")
    return name, struct.unpack_from("<Q", body, end)[0]


def _refused_link(file: File, name: str, kind: str) -> CorruptError:
    return CorruptError(f"{file.path}: {name!r} is a link of kind {kind!r}, which is refused")


def _leaves(file: File, address: int, kind: int, key: int, level: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Key and address of each leaf under a node of a B-tree 1, whose keys have `key` bytes."""
    signature, sort, depth, used = struct.unpack("<4sBBH", file.structure(address, 8))
    if signature != b"TREE" or sort != kind or (level is not None and depth != level):
        raise ValueError(f"no node of a B-tree at {address}")
    body = file.structure(address + 24, used * (key + 8))
    for place in range(0, len(body), key + 8):
        (child,) = struct.unpack_from("<Q", body, place + key)
        if depth:
            yield from _leaves(file, child, kind, key, depth - 1)
        else:
            yield body[place : place + key], child


def _dataspace(body: bytes) -> tuple[int, ...]:
    """Lengths of the axes; () for one value, (0,) for none."""
    version, rank, _, kind = body[:4]
    if version not in (1, 2):
        raise ValueError(f"dataspace {version}, expected 1 or 2")
    if version == 2 and kind == 2:  # the specification's mark of no value
        return (0,)
    return struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)


def _datatype(body: bytes) -> tuple[np.dtype, int]:
    """The type as stored and the bytes of one value. Raises ValueError for a type that no weights have."""
    kind, flags, size = body[0] & 15, body[1], int.from_bytes(body[4:8], "little")
    order = ">" if flags & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8) and struct.unpack_from("<HH", body, 8) == (0, 8 * size):
        return np.dtype(f"{order}{'i' if flags & 8 else 'u'}{size}"), size
    if kind == 1 and not flags & 64 and struct.unpack_from("<HHBBBBI", body, 8) == parts.FLOATS.get(size):
        return np.dtype(f"{order}f{size}"), size
    if kind == 3 and size:  # the specification's number of strings
        return np.dtype(f"S{size}"), size
    if (kind, size) == (5, 2):
        return np.dtype("V2"), size
    if (kind, flags & 15, size) == (9, 1, 16):
        return _TEXT, size
    raise ValueError(f"datatype of class {kind} and {size} bytes, which no weights have")


def _attribute(file: File, name: bytes, body: bytes) -> list[str] | None:
    """The strings of an attribute message, None if it has another name."""
    version, sizes = body[0], struct.unpack_from("<HHH", body, 2)
    if version not in (1, 2, 3):
        raise ValueError(f"attribute {version}, expected 1, 2 or 3")
    place = 8 + (version == 3)  # version 3 says how the name is encoded
    parts = []
    for size in sizes:
        parts.append(body[place : place + size])
        place += -(-size // 8) * 8 if version == 1 else size
    if parts[0].rstrip(b"\0") != name:
        return None
    (dtype, size), shape = _datatype(parts[1]), _dataspace(parts[2])
    values = body[place : place + prod(shape) * size]
    if len(values) != prod(shape) * size or len(shape) > 1:
        raise ValueError(f"attribute {name.decode()} is cut off or has several axes")
    return _strings(file, dtype, size, values)


def _strings(file: File, dtype: np.dtype, size: int, values: bytes) -> list[str]:
    """The strings among an attribute's bytes; Keras writes an empty list as no floats."""
    if dtype == _TEXT:
        texts = [_shared(file, length, *entry) for length, *entry in struct.iter_unpack("<IQI", values)]
    elif dtype.kind == "S" or not values:
        texts = [values[place : place + size] for place in range(0, len(values), size)]
    else:
        raise ValueError(f"an attribute holds {dtype}, expected strings")
    return [text.split(b"\0", 1)[0].decode() for text in texts]


def _shared(file: File, length: int, address: int, index: int) -> bytes:
    """A text in a global heap, which may be that of others too."""
    text = _heap(file, address, index)
    file.spend(min(length, len(text)))
    return text[:length]


def _heap(file: File, address: int, index: int) -> bytes:
    """One object of a global heap."""
    if address not in file.heaps:
        signature, size = struct.unpack("<4s4xQ", file.structure(address, 16))
        if signature != b"GCOL":
            raise ValueError(f"no global heap at {address}")
        file.heaps[address] = dict(_collection(file.structure(address + 16, max(size, 16) - 16)))
    return file.heaps[address][index]


def _collection(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of each object in a collection of a global heap; index 0 is the free space at its end."""
    place = 0
    while place + 16 <= len(block):
        index, size = struct.unpack_from("<H6xQ", block, place)
        if not index:
            return
        yield index, block[place + 16 : place + 16 + size]
        place += 16 + -(-size // 8) * 8


def _reader(node: Node, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], Array]:
    """How to read a dataset's array, after all the checks that need no data."""
    file, layout, length = node.file, node.message(parts.LAYOUT), prod(shape) * dtype.itemsize
    version, kind = layout[:2]
    if kind == _VIRTUAL:
        raise CorruptError(f"{file.path}: the data of {node.name} stand in other files, which is refused")
    if (version, kind) not in _LAYOUTS:
        raise OtherFormError(f"{file.path}: {node.name} has layout {version}.{kind}")
    if kind == _CHUNKED:
        return _chunked(node, dtype, shape)
    file.claim(length, packed=False)
    if not length:
        return lambda: np.empty(shape, dtype)
    if kind == 0:
        values = layout[4 : 4 + length]
        return lambda: np.frombuffer(values, dtype).reshape(shape)
    address, stored = struct.unpack_from("<QQ", layout, 2)
    if stored != length or address > file.size - length:
        raise CorruptError(f"{file.path}: {node.name} has {stored} bytes at {address}, expected {length}")
    return lambda: np.frombuffer(file.data(address, length), dtype).reshape(shape)


def _extent(node: Node) -> Extent | None:
    """Where a contiguous dataset lies in the file."""
    _, kind, address, length = struct.unpack_from("<BBQQ", node.message(parts.LAYOUT).ljust(18, b"\0"))
    return node.file.extent(address, length) if kind == _CONTIGUOUS and length else None


class _Chunk(NamedTuple):
    """Where a chunk stands, its bytes, the filters left out, and its first index on each axis."""

    address: int
    size: int
    skipped: int
    start: tuple[int, ...]


def _chunked(node: Node, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], Array]:
    """How to read a dataset of chunks."""
    file, layout = node.file, node.message(parts.LAYOUT)
    rank = layout[2]
    tree, *sides = struct.unpack_from(f"<Q{rank}I", layout, 3)
    chunk = tuple(sides[:-1])
    starts = [range(0, length, side) for length, side in zip(shape, chunk, strict=True)]
    file.claim(prod(map(len, starts)) * prod(chunk) * dtype.itemsize, packed=True)
    file.claim_chunks(prod(map(len, starts)))
    leaves = _leaves(file, tree, 1, 8 + 8 * rank) if all(shape) else iter(())
    chunks = [_chunk(at, key, rank - 1) for key, at in leaves]
    file.claim(sum(part.size for part in chunks), packed=False)
    if len(chunks) != prod(map(len, starts)) or sorted(part.start for part in chunks) != list(product(*starts)):
        raise CorruptError(f"{file.path}: {node.name} lacks some of its chunks")
    filters = _filters(next((body for kind, body in node.messages if kind == parts.FILTERS), b"\2\0"))
    if not set(filters) <= set(_UNDO):
        known = "known are deflate (1), shuffle (2) and Fletcher's checksum (3)"
        raise OtherFormError(f"{file.path}: {node.name} has the filters {filters}, {known}")

    def read() -> Array:
        array = np.empty(shape, dtype)
        for part in chunks:
            values = _unpack(file.data(part.address, part.size), filters, part.skipped, dtype.itemsize, prod(chunk))
            place = tuple(slice(start, start + side) for start, side in zip(part.start, chunk, strict=True))
            target = array[place]
            target[...] = np.frombuffer(values, dtype).reshape(chunk)[tuple(map(slice, target.shape))]
        return array

    return read


def _chunk(address: int, key: bytes, rank: int) -> _Chunk:
    size, skipped, *start = struct.unpack_from(f"<II{rank}Q", key)
    return _Chunk(address, size, skipped, tuple(start))


def _filters(body: bytes) -> list[int]:
    """Numbers of the filters that were applied to each chunk, in order."""
    version, count = body[:2]
    place, numbers = 8 if version == 1 else 2, []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", body, place)
        named = version == 1 or number >= 256  # where the specification's own filters end
        name = struct.unpack_from("<H", body, place + 2)[0] if named else 0
        values = struct.unpack_from("<H", body, place + (6 if named else 4))[0]
        place += (8 if named else 6) + name + 4 * values + (4 * (values % 2) if version == 1 else 0)
        numbers.append(number)
    return numbers


def _unpack(data: bytes, filters: list[int], skipped: int, size: int, count: int) -> bytes:
    """The bytes of a chunk of `count` values of `size` bytes, its filters undone."""
    for place, number in reversed(list(enumerate(filters))):
        if not skipped >> place & 1:
            data = _UNDO[number](data, size, size * count)
    return data


def _without_checksum(data: bytes) -> bytes:
    """A chunk without the checksum at its end, Fletcher's of 32 bits, which must be that of the rest.

    Of the chunk's big-endian words of 16 bits, a last odd byte filled up with zeros, it has the sum and above that the
    sum of all sums on the way, both modulo 65,535. Source: `H5_checksum_fletcher32` in libhdf5's H5checksum.c. What
    HDF5 1.6.2 wrote on little-endian machines has the bytes of each half exchanged, as `H5Z__filter_fletcher32` says.
    """
    body, end = data[:-4], data[-4:]
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.uint64)
    low, high, after = 0, 0, len(words)
    for start in range(0, len(words), _WORDS):
        part = words[start : start + _WORDS]
        low += int(part.sum())
        high += int((part * (after - np.arange(len(part))).astype(np.uint64)).sum())
        after -= len(part)
    sums = [low % 65_535, high % 65_535]
    if not any([half % 65_535 for half in struct.unpack(form, end)] == sums for form in ("<2H", ">2H")):
        raise ValueError("a chunk has not the checksum that was written behind it")
    return body


# Deflate may have a checksum behind its input, so that four bytes more are let through.
_UNDO: dict[int, Callable[[bytes, int, int], bytes]] = {
    1: lambda data, _, length: zlib.decompressobj().decompress(data, length + 4),
    2: lambda data, size, _: np.frombuffer(data, np.uint8).reshape(size, -1).T.tobytes(),
    3: lambda data, _, __: _without_checksum(data),
}
