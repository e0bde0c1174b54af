"""Protocol Buffers' wire format, without a schema: fields out of a file, and fields into one.

A message is fields one after another: a tag, then a value. Varints have seven bits a byte, the lowest first, and the
top bit of every byte but the last is set; they hold 64 bits, negative numbers as two's complement in ten bytes.

    tag         varint of number · 8 + wire type; numbers are 1 … 2²⁹ − 1
    VARINT 0    a varint: integers, booleans, enumerations
    I64    1    8 bytes, little-endian: double, fixed64
    LEN    2    a varint n and n bytes: text, bytes, a message, or "packed" numbers one after another without tags
    SGROUP 3    fields up to the EGROUP 4 of the same number: obsolete, read over
    I32    5    4 bytes, little-endian: float, fixed32

A repeated field may be packed, unpacked, or both at once, and a singular field given twice counts as given last
(https://protobuf.dev/programming-guides/encoding/). What a reader does not know it passes over.

Reading is lazy: only tags and lengths are looked at, so that a file costs its structure and not its payload. Every
length is checked against what surrounds it before memory is taken. Fixed-size numbers that stand unpacked in a row come
as one field. Refused: messages nested deeper than 64, more than 131,072 fields in one file, which bounds the time.

    for field in Message.of(Source.of_file(path)):
        if field.number == 100: layer = field.message()

Writing gives bytes; a payload too large to hold twice is a `Later`, which is written when its turn comes:

    write(file, message(100, [text(1, "conv1"), *message(7, [head(5, 4 * n), Later(4 * n, save)])]))
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, Extent
from densenet_port.errors import CorruptError
from densenet_port.formats.source import AGAIN, Source, Writable

VARINT, I64, LEN, SGROUP, EGROUP, I32 = range(6)
WIDTHS = {I64: 8, I32: 4}  # bytes of the fixed-size types
DEPTH = 64  # messages within messages; Caffe and ONNX have fewer than ten
MOST = 1 << 17  # fields in one file, runs of fixed-size numbers counted once
SHORT = 1 << 20  # bytes that `Field.data` gives without another limit: names and small things
_LONGEST = 10  # bytes of a varint
_WINDOW = 512  # bytes read at a time while looking for tags
_RUN = 1 << 20  # bytes looked at together for a run of fixed-size numbers


class Budget(NamedTuple):
    """What the messages of one file may still take: how deep this one is, and a counter of the fields of all."""

    depth: int
    fields: "count[int]"


class Field(NamedTuple):
    """One field of a message: its number, wire type and, for VARINT, its value as unsigned 64 bits.

    `size` bytes at `start` of the message are what stands behind the tag: the bytes of LEN; for I32 and I64 the whole
    run of that field, tags between the numbers included.
    """

    number: int
    wire: int
    value: int
    within: Source
    start: int
    size: int
    budget: Budget

    @property
    def payload(self) -> Source:
        """What stands behind the tag, to be read when asked for."""
        return self.within.part(self.start, self.size)

    @property
    def integer(self) -> int:
        """The value of a VARINT as a signed 64-bit number. Raises CorruptError for another wire type."""
        self._must_be(VARINT)
        return self.value - (1 << 64) if self.value >> 63 else self.value

    def message(self) -> "Message":
        """A LEN's bytes as a message. Raises CorruptError for another wire type, or one that lies too deep."""
        self._must_be(LEN)
        if self.budget.depth >= DEPTH:
            raise CorruptError(f"{self.within.path}: messages nested more than {DEPTH} deep")
        return Message(self.payload, self.budget._replace(depth=self.budget.depth + 1))

    def data(self, limit: int = SHORT) -> bytes:
        """A LEN's bytes. Raises CorruptError for another wire type, or more bytes than `limit`."""
        self._must_be(LEN)
        if self.size > limit:
            length = f"field {self.number} has {self.size} bytes"
            raise CorruptError(f"{self.within.path}: {length}, at most {limit} are expected")
        return self.within.data(self.start, self.size)

    def text(self) -> str:
        """A LEN's bytes as UTF-8. Raises CorruptError if they are none."""
        try:
            return self.data().decode()
        except UnicodeDecodeError as error:
            raise CorruptError(f"{self.within.path}: field {self.number} is no text: {error}") from error

    def integers(self) -> Iterator[int]:
        """The signed 64-bit numbers of a VARINT, or of packed varints. Raises CorruptError for anything else."""
        if self.wire == VARINT:
            yield self.integer
            return
        data, at = self.data(), 0
        while at < len(data):
            value, at = _varint(data, at, self.within)
            yield value - (1 << 64) if value >> 63 else value

    def number_count(self, dtype: str) -> int:
        """How many numbers of a fixed-size type, "<f4" say, this holds, packed or in a run.

        Raises CorruptError for a wire type that holds none, or bytes that are no multiple of the type's size.
        """
        width = np.dtype(dtype).itemsize
        if WIDTHS.get(self.wire) == width:
            return (self.size - width) // (width + self._tag_size) + 1
        self._must_be(LEN)
        if self.size % width:
            length = f"field {self.number} has {self.size} bytes"
            raise CorruptError(f"{self.within.path}: {length}, expected a multiple of {width}")
        return self.size // width

    def numbers(self, dtype: str) -> Array:
        """The numbers of a fixed-size little-endian type, read now. Raises as `number_count`."""
        number, data = self.number_count(dtype), self.within.data(self.start, self.size)
        if self.wire == LEN:
            return np.frombuffer(data, dtype)
        first = np.dtype([("value", dtype), ("tag", f"V{self._tag_size}")])
        return np.frombuffer(data + bytes(self._tag_size), first, number)["value"]

    @property
    def _tag_size(self) -> int:
        return len(varint(self.number << 3))

    def _must_be(self, wire: int) -> None:
        if self.wire != wire:
            actual = f"field {self.number} has the wire type {self.wire}"
            raise CorruptError(f"{self.within.path}: {actual}, expected {wire}")


@dataclass(frozen=True, slots=True)
class Message:
    """A message in a file: iterating gives its fields in their order."""

    source: Source
    budget: Budget

    @classmethod
    def of(cls, source: Source) -> "Message":
        """The message that a whole file, or bytes in memory, is."""
        return cls(source, Budget(0, count(1)))

    def __iter__(self) -> Iterator[Field]:
        """Each field in turn, groups left out. Raises CorruptError where the bytes are no message."""
        groups: list[int] = []
        look = _Window(self.source)
        at = 0
        while at < self.source.size:
            if next(self.budget.fields) > MOST:
                raise CorruptError(f"{self.source.path}: more than {MOST} fields")
            begin = at
            tag, at = look.varint(at)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29 or wire > I32:
                raise CorruptError(f"{self.source.path}: a field of number {number} and wire type {wire}")
            if wire in (SGROUP, EGROUP):
                self._nest(groups, number, wire)
                continue
            value, at, size = self._extent(look, begin, at, wire)
            if size > self.source.size - at:
                raise self.source.beyond(at, size)
            if not groups:
                yield Field(number, wire, value, self.source, at, size, self.budget)
            at += size
        if groups:
            raise CorruptError(f"{self.source.path}: the group of field {groups[-1]} has no end")

    def by_number(self) -> dict[int, list[Field]]:
        """Number → fields, each in their order."""
        fields: dict[int, list[Field]] = {}
        for field in self:
            fields.setdefault(field.number, []).append(field)
        return fields

    def _nest(self, groups: list[int], number: int, wire: int) -> None:
        """Enter a group, or leave the one that was entered last."""
        if wire == SGROUP:
            groups.append(number)
        elif not groups or groups.pop() != number:
            raise CorruptError(f"{self.source.path}: the group of field {number} ends without a beginning")
        if len(groups) > DEPTH:
            raise CorruptError(f"{self.source.path}: groups nested more than {DEPTH} deep")

    def _extent(self, look: "_Window", begin: int, at: int, wire: int) -> tuple[int, int, int]:
        """Value, start and size of what follows a tag that stands from `begin` to `at`."""
        if wire == VARINT:
            value, end = look.varint(at)
            return value, at, end - at
        if wire == LEN:
            size, at = look.varint(at)
            return 0, at, size
        return 0, at, look.run(begin, at, WIDTHS[wire]) - at


class _Window:
    """The few bytes around a place in a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.start, self.bytes = 0, b""

    def see(self, at: int, length: int) -> bytes:
        """Bytes from `at`, as many as `length` or as there are."""
        length = min(length, self.source.size - at)
        if at < self.start or at + length > self.start + len(self.bytes):
            self.start, self.bytes = at, self.source.data(at, min(max(length, _WINDOW), self.source.size - at))
        return self.bytes[at - self.start : at - self.start + length]

    def varint(self, at: int) -> tuple[int, int]:
        """The varint at a place, and the place behind it."""
        inside = at - self.start
        if 0 <= inside < len(self.bytes) and (byte := self.bytes[inside]) < 128:  # most have one byte
            return byte, at + 1
        value, size = _varint(self.see(at, _LONGEST), 0, self.source)
        return value, at + size

    def run(self, begin: int, at: int, width: int) -> int:
        """Where the last of the fixed-size values ends that follow each other under the tag from `begin` to `at`."""
        tag, step = self.see(begin, at - begin), at - begin + width
        end = begin + step
        if len(tag) > 1 and not tag[-1]:  # longer than it need be, and so not what `Field.numbers` would count with
            return end
        while self.see(end, len(tag)) == tag and end + step <= self.source.size:
            rows = min(_RUN, self.source.size - end) // step
            block = np.frombuffer(self.source.data(end, rows * step), np.uint8).reshape(rows, step)
            same = (block[:, : len(tag)] == np.frombuffer(tag, np.uint8)).all(axis=1)
            end += step * (rows if same.all() else int(np.argmin(same)))
        return end


def _varint(data: bytes, at: int, source: Source) -> tuple[int, int]:
    """The varint at a place in bytes, 64 bits of it, and the place behind it; `source` is for messages."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 127) << 7 * place
        if byte < 128:  # the top bit says that more follows
            return value & (1 << 64) - 1, at + place + 1
    raise CorruptError(f"{source.path}: a number has no end", hint=AGAIN)


# -- writing -----------------------------------------------------------------------------------------------------------


class Later(NamedTuple):
    """A payload that is made when it is written: its size in bytes, and what writes exactly so many."""

    size: int
    save: Callable[[Writable], object]


Part = bytes | Later


def varint(value: int) -> bytes:
    """A number of 64 bits, signed or unsigned, as a varint."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 127:  # seven bits a byte
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def integer(number: int, value: int) -> bytes:
    """A field that is an integer, a boolean or an enumeration."""
    return varint(number << 3 | VARINT) + varint(value)


def single(number: int, value: float) -> bytes:
    """A field that is one float."""
    return varint(number << 3 | I32) + struct.pack("<f", value)


def head(number: int, size: int) -> bytes:
    """Tag and length of a field whose `size` bytes follow."""
    return varint(number << 3 | LEN) + varint(size)


def data(number: int, value: bytes) -> bytes:
    """A field that is bytes."""
    return head(number, len(value)) + value


def text(number: int, value: str) -> bytes:
    """A field that is text."""
    return data(number, value.encode())


def integers(number: int, values: Iterable[int]) -> bytes:
    """A field that is integers, packed."""
    return data(number, b"".join(map(varint, values)))


def size(parts: Iterable[Part]) -> int:
    """Bytes of parts."""
    return sum(part.size if isinstance(part, Later) else len(part) for part in parts)


def message(number: int, parts: Sequence[Part]) -> list[Part]:
    """A field that is a message of these fields."""
    return [head(number, size(parts)), *parts]


def write(file: BinaryIO, parts: Iterable[Part]) -> list[Extent]:
    """Write parts one after another; where those lie that were made when they were written."""
    extents = []
    for part in parts:
        if isinstance(part, Later):
            extents.append((file.tell(), part.size))
            part.save(file)
        else:
            file.write(part)
    return extents
