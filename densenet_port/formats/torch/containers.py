"""The three containers of PyTorch's checkpoints: where the pickled object is, and where its storages' bytes lie.

Nothing is read here but pickles, headers and lengths; `fetch` gets the bytes of a storage when they are wanted. `pth`
describes the containers.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import SEEK_END, BufferedReader
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.formats.torch.pickle import Global, Persistent, Pickled, interpret
from densenet_port.formats.torch.tensors import (
    MAX_AXES,
    STORAGES,
    STORED,
    Storage,
    View,
    make_storage,
    make_view,
    storage_of,
)

Order = Literal["<", ">"]
RECORD = "densenet_port.json"
ANEW = "fetch or copy the file anew"
_ZIP = b"PK\x03\x04"
_ENCRYPTED = 0x2061  # flags of a zip member: encrypted, a patch, strongly encrypted, its header masked
# what zipfile raises for damaged archives; a version that it does not know is a RuntimeError's subclass
_BAD_ZIP = (BadZipFile, EOFError, OverflowError, RuntimeError, ValueError, struct.error)
_MAX_INFLATED = 2**30  # bytes of one deflated member
_MAX_DEFLATE = 1032  # the best that deflate can do: 1032 bytes out of one
_MAGIC = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"119547037146038801333356L")  # in binary protocols, and in text
_PROTOCOL = 1001
_BLOCK = 512  # bytes, to which a tar archive is padded


class Place(NamedTuple):
    """Where `size` bytes of a file begin, and how many of them are there; `packed` counts them if they are deflated."""

    start: int
    size: int
    found: int
    packed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a container holds: the object, its storages by key, tensors by id (tar only), the storages' byte order."""

    form: str
    tree: Any
    places: Mapping[str, Place]
    outside: Mapping[str, View] = field(default_factory=dict)
    order: Order = "<"
    record: Mapping[str, Any] | None = None


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head`, its first 4 KiB, is PyTorch's; `read` refuses TorchScript."""
    if not head.startswith(_ZIP):
        return _is_stream(head) or _is_tar(head)
    if head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b"data.pkl"):
        return True  # PyTorch writes it first
    try:
        with path.open("rb") as file:
            return bool(_roots(_members(file)))
    except (OSError, PortError):
        return False


def open_file(file: BufferedReader) -> Contents:
    """What is in a file of PyTorch's. Raises CorruptError or MisfitError, without the path."""
    head = file.read(4096)
    if head.startswith(_ZIP):
        return _open_zip(file)
    if _is_stream(head):
        return _open_stream(file)
    if _is_tar(head):
        return _open_tar(file)
    raise CorruptError("no checkpoint of PyTorch: neither its zip, nor its stream, nor its tar", hint=ANEW)


def _is_stream(head: bytes) -> bool:
    return any(magic in head[:32] for magic in _MAGIC)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _open_zip(file: BufferedReader) -> Contents:
    members = _members(file)
    roots = _roots(members)
    if len(roots) != 1:
        raise CorruptError(f"a zip archive with {len(roots)} members `data.pkl`; PyTorch's have one")
    inside = {name.removeprefix(roots[0]): place for name, place in members.items() if name.startswith(roots[0])}
    if "constants.pkl" in inside:
        hint = "in PyTorch, `torch.save(torch.jit.load(file).state_dict(), other)`"
        raise MisfitError("a TorchScript archive: a program with its weights, no checkpoint", hint=hint)
    text = {name: _whole(file, inside[name]) for name in ("data.pkl", "byteorder", RECORD) if name in inside}
    return Contents(
        form="zip",
        tree=interpret(text["data.pkl"]).value,
        places={name.removeprefix("data/"): place for name, place in inside.items() if name.startswith("data/")},
        order=_order(text.get("byteorder", b"little")),
        record=_parsed_record(text[RECORD]) if RECORD in text else None,
    )


def _roots(members: Mapping[str, Place]) -> list[str]:
    """The folders that hold a `data.pkl`, with their slash; PyTorch's archives have one."""
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
    return [folder for folder in folders if not folder or folder.endswith("/")]


def _order(byteorder: bytes) -> Order:
    if byteorder not in (b"little", b"big"):
        raise CorruptError(f"unknown byte order {byteorder[:20]!r}")
    return "<" if byteorder == b"little" else ">"


def _parsed_record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"unreadable record {RECORD}: {error}", hint=ANEW) from error
    if not isinstance(record, dict):
        raise CorruptError(f"unreadable record {RECORD}: no JSON object", hint=ANEW)
    return record


def _members(file: BufferedReader) -> dict[str, Place]:
    """Name → place of every file in a zip archive. Raises CorruptError for what PyTorch would not have written."""
    try:
        with ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except _BAD_ZIP as error:
        raise CorruptError(f"a broken zip archive: {error}", hint=ANEW) from error
    end = file.seek(0, SEEK_END)
    members = {info.filename: _place(file, info, end) for info in infos}
    if len(members) < len(infos):
        raise CorruptError("a zip archive with two members of one name")
    return members


def _place(file: BufferedReader, info: ZipInfo, end: int) -> Place:
    """Where a member's data lie, which only its local header tells."""
    packed = info.compress_size if info.compress_type == ZIP_DEFLATED else None
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise CorruptError(f"member {info.filename!r} is encrypted, or packed in a way that PyTorch cannot read")
    if not _is_honest(info):
        found = f"{info.file_size} bytes out of {info.compress_size}"
        raise CorruptError(f"member {info.filename!r} cannot hold {found}")
    file.seek(info.header_offset if 0 <= info.header_offset < end else end)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(_ZIP):  # noqa: PLR2004 (what was asked for)
        raise CorruptError(f"member {info.filename!r} does not begin at byte {info.header_offset}", hint=ANEW)
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    there = max(0, min(info.compress_size, end - start))
    found = there if packed is None else info.file_size * (there == packed)
    return Place(start, info.file_size, found, packed)


def _is_honest(info: ZipInfo) -> bool:
    if info.compress_type == ZIP_STORED:
        return info.file_size == info.compress_size
    return info.file_size <= min(_MAX_DEFLATE * info.compress_size, _MAX_INFLATED)


def _whole(file: BufferedReader, place: Place) -> bytes:
    return fetch(file, place, 0, place.size).tobytes()


def _open_stream(file: BufferedReader) -> Contents:
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        parts = [interpret(data)]
        for _ in range(4):
            parts.append(interpret(data, parts[-1].end))
    _, protocol, _, tree, keys = parts
    if protocol.value != _PROTOCOL:
        raise CorruptError(f"expected a stream of protocol {_PROTOCOL}")
    return Contents(form="legacy", tree=tree.value, places=_stream_places(file, tree.persistent, keys))


def _stream_places(file: BufferedReader, references: Iterable[Persistent], keys: Pickled) -> dict[str, Place]:
    """The storages that follow the list of their keys; the persistent ids have told how long each is."""
    storages = {storage.key: storage for storage in map(storage_of, references) if storage}
    listed = keys.value if isinstance(keys.value, list) and all(isinstance(key, str) for key in keys.value) else []
    if set(listed) != set(storages):
        raise CorruptError("the list of storages does not agree with the tensors", hint=ANEW)
    places: dict[str, Place] = {}
    at, end = keys.end, file.seek(0, SEEK_END)
    for key in listed:
        places[key] = _counted(file, at, end, storages[key])
        at = places[key].start + places[key].size
    return places


def _counted(file: BufferedReader, at: int, end: int, storage: Storage) -> Place:
    """A storage behind its number of elements, which stands at byte `at` of a file of `end` bytes."""
    file.seek(min(at, end))
    count = int.from_bytes(file.read(8), "little", signed=True)
    start = at + 8
    if start <= end and count * STORED[storage.dtype].itemsize != storage.size:
        raise CorruptError(f"storage {storage.key!r}: expected {storage.size} bytes, announced are {count} elements")
    return Place(start, storage.size, min(storage.size, end - start))


def _open_tar(file: BufferedReader) -> Contents:
    members = _tar_members(file)
    if missing := {"storages", "tensors", "pickle"} - set(members):
        hint = "if it holds a checkpoint, unpack it first"
        raise CorruptError(f"a tar archive without {', '.join(sorted(missing))}", hint=hint)
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        places, storages = _tar_storages(data, members["storages"])
        outside = _tar_tensors(data, members["tensors"], storages)
        tree = interpret(data, members["pickle"])
    return Contents(form="tar", tree=tree.value, places=places, outside=outside)


def _tar_members(file: BufferedReader) -> dict[str, int]:
    """Name → byte at which a member's data begin."""
    members: dict[str, int] = {}
    at = 0
    while (header := _block(file, at)).strip(b"\0"):
        digits = header[124:136].strip(b" \0")
        if not re.fullmatch(b"[0-7]+", digits):
            raise CorruptError(f"a broken tar archive at byte {at}", hint=ANEW)
        members[header[:100].rstrip(b"\0").decode("latin-1").removeprefix("./")] = at + _BLOCK
        at += _BLOCK + -(-int(digits, 8) // _BLOCK) * _BLOCK
    return members


def _block(file: BufferedReader, at: int) -> bytes:
    file.seek(at)
    return file.read(_BLOCK)


def _tar_storages(data: mmap, start: int) -> tuple[dict[str, Place], dict[str, Storage]]:
    """Places and storages by key; windows on storages are storages, too."""
    places: dict[str, Place] = {}
    storages: dict[str, Storage] = {}
    count, at, _ = interpret(data, start)
    for _ in range(_count(count)):
        entry = interpret(data, at)
        match entry.value:
            case (int(key) | str(key), _, Global(_, kind)) if kind in STORAGES:
                (length,) = _numbers(data, entry.end, "<q")
                storage = make_storage(str(key), STORAGES[kind], length, None)
            case _:
                raise CorruptError("a tar archive with a storage that is none")
        storages[storage.key] = storage
        places[storage.key] = Place(
            entry.end + 8, storage.size, storage.size
        )  # what follows shows that it is all there
        at = entry.end + 8 + storage.size
    for key, root, offset, length in _windows(interpret(data, at).value):
        if root not in storages:
            raise CorruptError(f"a tar archive with a window on storage {root!r}, which it lacks")
        whole = storages[root]
        elements = whole.size // STORED[whole.dtype].itemsize
        storages[key] = make_storage(root, whole.dtype, elements, (key, offset, length))
    return places, storages


def _windows(value: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(key, key of the storage, offset, length) of each window on a storage."""
    for window in value if isinstance(value, list) else [None]:
        match window:
            case (int(key) | str(key), int(root) | str(root), offset, length):
                yield str(key), str(root), offset, length
            case _:
                raise CorruptError("a tar archive with a window on a storage that is none")


def _tar_tensors(data: mmap, start: int, storages: Mapping[str, Storage]) -> dict[str, View]:
    """The tensors, by the id that the pickled object knows them by."""
    tensors: dict[str, View] = {}
    count, at, _ = interpret(data, start)
    for _ in range(_count(count)):
        entry = interpret(data, at)
        match entry.value:
            case (int(key) | str(key), int(root) | str(root), _) if str(root) in storages:
                axes = min(max(_numbers(data, entry.end, "<i4x")[0], 0), MAX_AXES + 1)  # one too many is refused
                *sizes, offset = _numbers(data, entry.end + 8, f"<{2 * axes + 1}q")
            case _:
                raise CorruptError("a tar archive with a tensor that is none")
        tensors[str(key)] = make_view(f"tensor {key}", storages[str(root)], None, (offset, sizes[:axes], sizes[axes:]))
        at = entry.end + 8 + 8 * (2 * axes + 1)
    return tensors


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise CorruptError("a tar archive that does not say how much it holds")
    return value


def _numbers(data: mmap, at: int, form: str) -> tuple[int, ...]:
    """Integers at byte `at`, as `struct` spells them."""
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise CorruptError(f"cut short at byte {at}: {error}", hint=ANEW) from error


def fetch(file: BufferedReader, place: Place, first: int, count: int) -> Array:
    """`count` bytes of a place from its byte `first` on; that they are there is checked before memory is taken."""
    if first + count > place.found:
        raise CorruptError(f"cut short: expected {first + count} bytes, found {place.found}", hint=ANEW)
    if place.packed is not None:
        return _inflate(file, place)[first : first + count]
    data = np.empty(count, np.uint8)
    file.seek(place.start + first)
    if (found := file.readinto(data.data)) < count:
        raise CorruptError(f"expected {count} bytes at byte {place.start + first}, found {found}", hint=ANEW)
    return data


def _inflate(file: BufferedReader, place: Place) -> Array:
    """All bytes of a deflated member, never more than announced."""
    file.seek(place.start)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(place.packed), max(place.size, 1))
    except zlib.error as error:
        raise CorruptError(f"broken compression: {error}", hint=ANEW) from error
    if len(data) != place.size:
        raise CorruptError(f"expected {place.size} bytes, inflated {len(data)}", hint=ANEW)
    return np.frombuffer(data, np.uint8)
