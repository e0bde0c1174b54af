"""Zip archives, read strictly: where each member's bytes lie, after every length was checked against the file.

The directory stands near the end. Integers are little-endian; sizes and offsets of more than 32 bits stand in an extra
field (number 1) of their entry, and in an end of their own before the usual one:

    entry         PK 1 2, 46 bytes, then name, extra fields and comment
    zip64 end     PK 6 6, 56 bytes, and behind it its locator, PK 6 7, 20 bytes
    end           PK 5 6, 22 bytes, then a comment

An entry gives the offset of the member's own header (PK 3 4, 30 bytes, name, extra fields), behind which its bytes lie,
stored or deflated. An entry has the CRC-32 of what its member holds, which is compared before anything of that is used;
PyTorch can leave them out, which then are all 0. Refused: members without a name, or two of one name, or of another
name in their own header, encryption and other compression, sizes that cannot be, a directory that is not where it
should be.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zipfile import ZipInfo

from densenet_port.errors import CorruptError
from densenet_port.formats.bounds import TENSOR, TENSORS, limit_of
from densenet_port.formats.source import AGAIN, Source

_LOCAL, _HEADER = b"PK\x03\x04", 30  # signature and bytes of a member's own header, before its name
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_FIELD = struct.Struct("<2H")  # number and length of an extra field
_WIDE, _ELSEWHERE = 1, 2**32 - 1  # the extra field of 64-bit numbers, and the mark of a number that stands there
_COMMENT = 65_535  # bytes that may follow the end
_DIRECTORY = 2**23  # bytes of a directory; that of a DenseNet-264 has 100 kB
_ENCRYPTED = 0x2061  # flags: encrypted, a patch, strongly encrypted, its header masked
_UTF8 = 0x0800  # flag: the name is not in the code page of 1981
_STORED, _DEFLATED = 0, 8
_RATIO = 1032  # the best that deflate can do: 1032 bytes out of one
_AT_ONCE = 2**20  # bytes of a member that are read at once to be checked


class Member(NamedTuple):
    """A file in an archive: its name, where its own header begins, the bytes that it takes and that it holds.

    `crc` is the CRC-32 of what it holds, None in an archive without; `start` is where its bytes begin.
    """

    archive: Source
    name: str
    spelled: bytes
    header: int
    packed: int
    size: int
    deflated: bool
    crc: int | None
    start: int = -1

    def open(self) -> Source:
        """What it holds, held to its checksum once; where it is deflated, each look inflates all of it anew.

        Raises CorruptError where it does not lie in the archive, and whoever looks at it where it is not what it was.
        """
        if self.start + self.packed > self.archive.size:
            raise self._error(f"has {self.packed} bytes at byte {self.start}, beyond the file's {self.archive.size}")
        packed = self.archive.part(self.start, self.packed)
        if not self.deflated:
            if self.crc is None:
                return packed
            return Source(packed.path, self.size, self._checked(packed), start=self.start)
        return Source(packed.path, self.size, lambda count, offset: self._inflated(packed)[offset : offset + count])

    def found(self) -> "Member":
        """The member with its `start`. Raises CorruptError where its own header is not there, or is another's."""
        there = self.archive.size - self.header
        head = self.archive.data(self.header, min(there, _HEADER + len(self.spelled))) if there >= _HEADER else b""
        if not head.startswith(_LOCAL):
            raise self._error(f"does not begin at byte {self.header}")
        name, extra = struct.unpack_from("<2H", head, 26)
        if name != len(self.spelled) or head[_HEADER:] != self.spelled:
            raise self._error("is called otherwise in its own header")
        return self._replace(start=self.header + _HEADER + int(name) + int(extra))

    def _checked(self, packed: Source) -> Callable[[int, int], bytes]:
        """What reads stored bytes; when first asked it holds all of them to the checksum."""
        is_known = False

        def read(count: int, offset: int) -> bytes:
            nonlocal is_known
            data = packed.data(offset, count)
            if not is_known:
                self._check(zlib.crc32(data) if count == self.size else _checksum(packed))
                is_known = True
            return data

        return read

    def _check(self, crc: int) -> None:
        """Raise CorruptError for another checksum than its own."""
        if self.crc not in (None, crc):
            raise self._error(f"is damaged: its checksum is {self.crc:08x}, that of its bytes {crc:08x}")

    def _inflated(self, packed: Source) -> bytes:
        """All that it holds, and never more than announced."""
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed.all(), self.size + 1)
        except zlib.error as error:
            raise self._error(f"cannot be inflated: {error}") from error
        if len(data) != self.size:
            raise self._error(
                f"inflates to {'more' if len(data) > self.size else len(data)}, expected {self.size} bytes"
            )
        self._check(zlib.crc32(data))
        return data

    def _error(self, detail: str) -> CorruptError:
        return CorruptError(f"{self.archive.path}: member {self.name!r} of the zip {detail}", hint=AGAIN)


def _checksum(source: Source) -> int:
    """The CRC-32 of all bytes, some at a time."""
    crc = 0
    for offset in range(0, source.size, _AT_ONCE):
        crc = zlib.crc32(source.data(offset, min(_AT_ONCE, source.size - offset)), crc)
    return crc


def undated(name: str) -> ZipInfo:
    """A member to be written, stored, and without a date: the first that a zip can hold, on every system."""
    entry = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix
    return entry


def first_name(head: bytes) -> str:
    """The name of the member that a file beginning with `head` begins with; "" for what is no zip."""
    if not head.startswith(_LOCAL):
        return ""
    return head[_HEADER : _HEADER + int.from_bytes(head[26:28], "little")].decode(errors="replace")


def members(archive: Source) -> dict[str, Member]:
    """Name → member, in the directory's order, without folders. Raises CorruptError for what no honest zip has.

    Where every checksum is 0 there are none.
    """
    by_name: dict[str, Member] = {}
    inflated = 0
    for member in _entries(archive, _directory(archive)):
        inflated += member.size if member.deflated else 0
        if inflated > limit_of(archive.size) or len(by_name) == TENSORS:
            detail = f"{inflated} bytes of {archive.size}" if len(by_name) < TENSORS else f"more than {TENSORS} members"
            raise CorruptError(f"{archive.path}: a zip would make {detail}", hint="pack it again, without compression")
        if not member.name or "\0" in member.name:
            raise CorruptError(f"{archive.path}: a member of the zip has no name", hint=AGAIN)
        if member.name in by_name:
            raise CorruptError(f"{archive.path}: two members of the zip are called {member.name!r}")
        by_name[member.name] = member
    # A name that only the directory has would hide what is there.
    files = {name: member.found() for name, member in by_name.items() if not name.endswith("/")}
    if any(member.crc for member in files.values()):
        return files
    return {name: member._replace(crc=None) for name, member in files.items()}


def _directory(archive: Source) -> bytes:
    """The directory's bytes."""
    start = max(0, archive.size - _END.size - _COMMENT)
    tail = archive.data(start, archive.size - start)
    at = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
    if at < 0:
        raise CorruptError(f"{archive.path}: a zip without its directory, which is the end of it", hint=AGAIN)
    *_, size, offset, _ = _END.unpack_from(tail, at)
    end = start + at
    if tail[max(0, at - _LOCATOR.size) : at].startswith(b"PK\x06\x07"):
        _, _, end, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        signature, *_, size, offset = _END64.unpack(archive.data(end, _END64.size))
        if signature != b"PK\x06\x06":
            raise CorruptError(f"{archive.path}: a zip whose directory does not end at byte {end}", hint=AGAIN)
    if offset + size != end or size > _DIRECTORY:
        detail = f"{size} bytes at byte {offset}, before its end at {end}"
        raise CorruptError(f"{archive.path}: a zip cannot have a directory of {detail}", hint=AGAIN)
    return archive.data(offset, size)


def _entries(archive: Source, directory: bytes) -> Iterator[Member]:
    """The member of each entry. Raises CorruptError for one that cannot be read, or cannot be."""
    broken = CorruptError(f"{archive.path}: the directory of the zip is broken", hint=AGAIN)
    at = 0
    while at < len(directory):
        place = at + _ENTRY.size
        if directory[at : at + 4] != b"PK\x01\x02" or place > len(directory):
            raise broken
        _, _, _, flags, method, _, _, crc, *numbers = _ENTRY.unpack_from(directory, at)
        packed, size, names, extras, comments, _, _, _, header = numbers
        at = place + names + extras + comments
        if at > len(directory):
            raise broken
        spelled = directory[place : place + names]
        name = spelled.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        size, packed, header = _wide(directory[place + names : at - comments], size, packed, header)
        shown = f"{archive.path}: member {name!r} of the zip"
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            hint = "unpack it and pack it again, without a password"
            raise CorruptError(f"{shown} is encrypted, or compressed by other means than deflate", hint=hint)
        if size > min(_RATIO * packed, limit_of(packed, TENSOR)) if method == _DEFLATED else size != packed:
            raise CorruptError(f"{shown} cannot hold {size} bytes in {packed}", hint=AGAIN)
        deflated = method == _DEFLATED
        yield Member(archive, name, spelled, header, packed, size, deflated, crc)


def _wide(extra: bytes, *values: int) -> list[int]:
    """The sizes and the offset of an entry, those of more than 32 bits from its extra fields."""
    wide: list[int] = []
    while len(extra) > _FIELD.size:
        number, length = _FIELD.unpack_from(extra)
        body, extra = extra[_FIELD.size : _FIELD.size + length], extra[_FIELD.size + length :]
        if number == _WIDE:
            wide = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
    return [wide.pop(0) if value == _ELSEWHERE and wide else value for value in values]
