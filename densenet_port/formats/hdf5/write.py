"""Writing HDF5 without libhdf5: groups, contiguous datasets and attributes of strings, in one pass over the data.

The file is a superblock (version 0), the datasets' bytes in the order given, and then the object headers (version 1),
children before their parents. All addresses follow from the shapes, so nothing is written twice and nothing is kept.
Groups list their members as link messages, which HDF5 reads since 1.8 (2008). The same tree and data give the same
bytes, whatever the clock says. libhdf5 takes three times as long for a DenseNet's many small datasets.

The parts of the format are described in `read`, after the HDF5 File Format Specification 3.0.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from densenet_port.checkpoint import Extent, Tensor
from densenet_port.errors import UsageError
from densenet_port.formats.hdf5 import parts
from densenet_port.formats.hdf5.parts import RECORD
from densenet_port.formats.source import Writable, stored, stored_size, write_tensor

_SUPERBLOCK = 96
_FILL, _GROUP_INFO = 0x05, 0x0A
_COMPACT = struct.pack("<BBHH", 0, 1, 65535, 0)  # libhdf5 keeps links as messages up to this many, if it adds some
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_KEPT = ("float16", "float32", "float64", "bfloat16", *_INTEGERS)


@dataclass(slots=True)
class Group:
    """A group to be written: its attributes (a string or a list of strings) and members (names of tensors, groups)."""

    attributes: dict[str, str | list[str]] = field(default_factory=dict)
    members: dict[str, "Group | str"] = field(default_factory=dict)

    def group(self, *path: str) -> "Group":
        """The group at a path below, made if need be. Raises UsageError where a tensor has that name."""
        group = self
        for name in path:
            below = group.members.setdefault(name, Group())
            if isinstance(below, str):
                raise UsageError(
                    f"{'/'.join(path)} would be a group and {below} a dataset of the same name in the file"
                )
            group = below
        return group


def write(file: Writable, root: Group, tensors: Mapping[str, Tensor], record: Callable[[], bytes]) -> list[Extent]:
    """Write a whole HDF5 file, from its first byte to its last: the tree, and the record as bytes at `RECORD`.

    What comes back is where the tensors lie in what was written. Every tensor is loaded once, in order, and then the
    record. Raises UsageError for a type that has no place in HDF5, MisfitError for a tensor or a record that is not
    what was announced.
    """
    content = Tensor((len(record()),), "uint8", lambda: np.frombuffer(record(), np.uint8))
    tensors = {**tensors, RECORD[0]: content}
    root.group(*RECORD[:-1]).members[RECORD[-1]] = RECORD[0]
    places, end = _places(tensors)
    headers = _Headers(end)
    address = headers.group(root, {name: headers.dataset(tensor, places[name]) for name, tensor in tensors.items()})
    file.write(_superblock(address, headers.end))
    for name, tensor in tensors.items():
        write_tensor(file, name, tensor)
        file.write(bytes(-stored_size(tensor.shape, tensor.dtype) % 8))
    file.write(headers.data)
    return [
        (places[name], stored_size(tensor.shape, tensor.dtype)) for name, tensor in tensors.items() if name != RECORD[0]
    ]


def _places(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], int]:
    """Address of each tensor's bytes, at multiples of eight, and of what comes behind them."""
    places, at = {}, _SUPERBLOCK
    for name, tensor in tensors.items():
        if tensor.dtype not in _KEPT:
            raise UsageError(f"{name}: {tensor.dtype} cannot be written as HDF5", hint=f"known: {', '.join(_KEPT)}")
        places[name] = at
        at += _even(stored_size(tensor.shape, tensor.dtype))
    return places, at


def _superblock(root: int, end: int) -> bytes:
    """Superblock 0: sizes of addresses, two orders of trees that stand nowhere, addresses, the root's entry."""
    undefined = parts.UNDEFINED
    sizes = struct.pack("<5xBBxHHI", 8, 8, 4, 16, 0)
    return parts.SIGNATURE + sizes + struct.pack("<4Q", 0, undefined, end, undefined) + struct.pack("<QQ24x", 0, root)


class _Headers:
    """The object headers that stand behind the data, from `start` on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def group(self, group: Group, datasets: Mapping[str, int]) -> int:
        """Write a group's header behind those of its members; its address."""
        links = {
            name: datasets[member] if isinstance(member, str) else self.group(member, datasets)
            for name, member in group.members.items()
        }
        messages = [
            (parts.LINK_INFO, struct.pack("<BBQQ", 0, 0, parts.UNDEFINED, parts.UNDEFINED)),
            (_GROUP_INFO, _COMPACT),
        ]
        messages += [(parts.LINK, _link(name, address)) for name, address in links.items()]
        return self._add(messages + [_attribute(name, value) for name, value in group.attributes.items()])

    def dataset(self, tensor: Tensor, place: int) -> int:
        """Write the header of a dataset whose bytes stand at `place`; its address."""
        length = stored_size(tensor.shape, tensor.dtype)
        fill = struct.pack("<BBBBI", 2, 2, 2, 1, 0)  # version 2, allocated late, written if set, the default
        layout = struct.pack("<BBQQ", 3, 1, place if length else parts.UNDEFINED, length)
        messages = [
            (parts.DATASPACE, _dataspace(tensor.shape)),
            (parts.DATATYPE, _number(tensor.dtype)),
            (_FILL, fill),
            (parts.LAYOUT, layout),
        ]
        marks = [_attribute("dtype", "bfloat16")] if tensor.dtype == "bfloat16" else []
        return self._add(messages + marks)

    def _add(self, messages: list[tuple[int, bytes]]) -> int:
        """Append an object header; its address."""
        address = self.end
        body = b"".join(_message(*message) for message in messages)
        self.data += struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body
        return address


@lru_cache(maxsize=1 << 8)  # most datasets say the same of themselves
def _message(kind: int, data: bytes) -> bytes:
    """A message of an object header."""
    return struct.pack("<HHB3x", kind, _even(len(data)), 0) + _padded(data)


def _even(length: int) -> int:
    return -(-length // 8) * 8


def _padded(data: bytes) -> bytes:
    return data.ljust(_even(len(data)), b"\0")


def _link(name: str, address: int) -> bytes:
    """A hard link: version 1, two bytes for the name's length, UTF-8."""
    spelled = name.encode()
    return struct.pack("<BBBH", 1, 0x11, 1, len(spelled)) + spelled + struct.pack("<Q", address)


def _dataspace(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<BB6x{len(shape)}Q", 1, len(shape), *shape)


def _number(dtype: str) -> bytes:
    """A datatype message of version 1 for the numbers of `Tensor.dtype`."""
    if dtype == "bfloat16":
        return struct.pack("<BBBBI", 0x15, 0, 0, 0, 2)  # opaque, as Keras writes it
    kind = stored(dtype)
    size = kind.itemsize
    if kind.kind == "f":
        properties = parts.FLOATS[size]  # the mantissa's highest bit is implied; the sign is the last bit
        return struct.pack("<BBBBIHHBBBBI", 0x11, 0x20, 8 * size - 1, 0, size, *properties)
    return struct.pack("<BBBBIHH", 0x10, 8 * (kind.kind == "i"), 0, 0, size, 0, 8 * size)


def _string(length: int) -> bytes:
    """A datatype message for strings of fixed length, padded with zeros.

    They are called ASCII, as h5py calls Keras's, whatever they hold: h5py 2.7 cannot read what is called UTF-8.
    """
    return struct.pack("<BBBBI", 0x13, 0x01, 0, 0, length)


def _attribute(name: str, value: str | list[str]) -> tuple[int, bytes]:
    """Type and body of an attribute message, version 1."""
    texts = [text.encode() for text in ([value] if isinstance(value, str) else value)]
    length = max([1, *map(len, texts)])
    kind, space = _string(length), _dataspace(() if isinstance(value, str) else (len(texts),))
    spelled = name.encode() + b"\0"
    head = struct.pack("<BxHHH", 1, len(spelled), len(kind), len(space))
    values = b"".join(text.ljust(length, b"\0") for text in texts)
    return parts.ATTRIBUTE, head + _padded(spelled) + _padded(kind) + _padded(space) + values
