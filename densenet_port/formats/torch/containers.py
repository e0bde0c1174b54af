"""The containers of PyTorch's checkpoints: where the pickled object is, and where its storages' bytes lie.

Nothing is read here but pickles, headers and lengths. `pth` describes the containers.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any, Literal

from densenet_port.errors import CorruptError, PortError
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.bounds import TENSORS, limit_of
from densenet_port.formats.record import RECORD, parse_record
from densenet_port.formats.source import AGAIN, Source, guarded, stored
from densenet_port.formats.torch import plain
from densenet_port.formats.torch.pickle import Global, Pickled, interpret
from densenet_port.formats.torch.tensors import (
    MAX_AXES,
    STORAGES,
    Storage,
    View,
    make_storage,
    make_view,
    storage_of,
)

Order = Literal["<", ">"]
RECORD_MEMBER = f"{RECORD}.json"
_HEAD = 4096  # bytes that tell a container
_MAGIC = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"119547037146038801333356L")  # in binary protocols, and in text
_PROTOCOL = 1001
_BLOCK = 512  # bytes, to which a tar archive is padded
_MEMBERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a container holds.

    `form` is the container ("zip", "torchscript", "legacy" for a stream, "tar", "pickle"), `tree` the object,
    `storages` key → bytes, fewer than `sizes` says in a stream that is cut short. `outside` holds the tensors that the
    object of a tar knows by an id. `order` is the byte order of every storage, `code` path → text of a program's code,
    and `constants()` the object and the storages of the tensors in that code.
    `has_checksums` is false for a zip that was written without, `pickled` is how many bytes its pickle can have.
    """

    form: str
    tree: Any
    storages: Mapping[str, Source]
    sizes: Mapping[str, int] = field(default_factory=dict)
    outside: Mapping[str, View] = field(default_factory=dict)
    order: Order = "<"
    code: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    constants: Callable[[], tuple[Any, Mapping[str, Source]]] = lambda: ((), {})
    record: Mapping[str, Any] | None = None
    has_checksums: bool = True
    pickled: int = 0


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head`, its first 4 KiB, is PyTorch's; `read` refuses TorchScript."""
    name = zip_archive.first_name(head)
    if not name:
        return _is_stream(head) or _is_tar(head) or plain.is_plain(head)
    if name.endswith("data.pkl"):
        return True  # PyTorch writes it first
    try:
        with guarded(path, "zip"):
            return bool(_roots(zip_archive.members(Source.of_file(path))))
    except PortError:
        return False


def open_container(source: Source) -> Container:
    """What is in a file of PyTorch's. Raises CorruptError or MisfitError."""
    head = source.data(0, min(source.size, _HEAD))
    if zip_archive.first_name(head):
        return _open_zip(source)
    if _is_stream(head):
        return _open_stream(source)
    if _is_tar(head):
        return _open_tar(source)
    if plain.is_plain(head):
        return _open_plain(source)
    raise CorruptError("no checkpoint of PyTorch: neither its zip, nor its stream, nor its tar", hint=AGAIN)


def _is_stream(head: bytes) -> bool:
    return any(magic in head[:32] for magic in _MAGIC)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _open_zip(source: Source) -> Container:
    members = zip_archive.members(source)
    roots = _roots(members)
    if len(roots) != 1:
        raise CorruptError(f"a zip archive with {len(roots)} members `data.pkl`; PyTorch's have one")
    inside = {name.removeprefix(roots[0]): member for name, member in members.items() if name.startswith(roots[0])}
    code = {name.removeprefix("code/"): member for name, member in inside.items() if name.startswith("code/")}
    texts = {name: inside[name].open().all() for name in ("data.pkl", "byteorder", RECORD_MEMBER) if name in inside}
    storages = {name.removeprefix("data/"): member for name, member in inside.items() if name.startswith("data/")}
    return Container(
        form="torchscript" if "constants.pkl" in inside else "zip",
        tree=interpret(texts["data.pkl"]).value,
        storages={key: member.open() for key, member in storages.items()},
        order=_order(texts.get("byteorder", b"little")),
        code={name: _reader(member) for name, member in code.items()},
        constants=partial(_constants, inside),
        record=parse_record(source.path, texts[RECORD_MEMBER]) if RECORD_MEMBER in texts else None,
        has_checksums=inside["data.pkl"].crc is not None,
        pickled=inside["data.pkl"].size,
    )


def _constants(inside: Mapping[str, zip_archive.Member]) -> tuple[Any, Mapping[str, Source]]:
    """The object of the tensors in a program's code, and their storages."""
    if "constants.pkl" not in inside:
        return (), {}
    storages = {
        name.removeprefix("constants/"): member for name, member in inside.items() if name.startswith("constants/")
    }
    tree = interpret(inside["constants.pkl"].open().all()).value
    return tree, {key: member.open() for key, member in storages.items()}


def _reader(member: zip_archive.Member) -> Callable[[], bytes]:
    """A function that reads all of a member."""
    return lambda: member.open().all()


def _roots(members: Iterable[str]) -> list[str]:
    """The folders that hold a `data.pkl`, with their slash; PyTorch's archives have one."""
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
    return [folder for folder in folders if not folder or folder.endswith("/")]


def _order(byteorder: bytes) -> Order:
    if byteorder not in (b"little", b"big"):
        raise CorruptError(f"unknown byte order {byteorder[:20]!r}")
    return "<" if byteorder == b"little" else ">"


def _open_stream(source: Source) -> Container:
    with source.mapped() as data:
        parts = [interpret(data)]
        for _ in range(4):
            parts.append(interpret(data, parts[-1].end))
    _, protocol, _, tree, keys = parts
    if protocol.value != _PROTOCOL:
        raise CorruptError(f"expected a stream of protocol {_PROTOCOL}")
    storages = {storage.key: storage for storage in map(storage_of, tree.persistent) if storage}
    return Container(
        form="legacy",
        tree=tree.value,
        storages=_stream_storages(source, storages, keys),
        sizes={key: storage.size for key, storage in storages.items()},
        pickled=source.size,
    )


def _stream_storages(source: Source, storages: Mapping[str, Storage], keys: Pickled) -> dict[str, Source]:
    """The storages' bytes, which follow the list of their keys."""
    listed = keys.value if isinstance(keys.value, list) and all(isinstance(key, str) for key in keys.value) else []
    if len(listed) != len(storages) or set(listed) != set(storages):
        raise CorruptError("the list of storages does not agree with the tensors", hint=AGAIN)
    parts: dict[str, Source] = {}
    at = keys.end
    for key in listed:
        parts[key] = _counted(source, at, storages[key])
        at += 8 + storages[key].size
    return parts


def _counted(source: Source, at: int, storage: Storage) -> Source:
    """A storage behind its number of elements, which stands at byte `at`; as much of it as the file has."""
    start = at + 8
    if start > source.size:
        return source.part(source.size, 0)
    count = int.from_bytes(source.data(at, 8), "little", signed=True)
    if count * stored(storage.dtype).itemsize != storage.size:
        raise CorruptError(f"storage {storage.key!r}: expected {storage.size} bytes, announced are {count} elements")
    return source.part(start, min(storage.size, source.size - start))


def _open_plain(source: Source) -> Container:
    with source.mapped() as data:
        pickled = interpret(data)
    if pickled.end != source.size:
        raise CorruptError(f"a pickle that ends at byte {pickled.end} of {source.size}", hint=AGAIN)

    def stream(inner: bytes) -> plain.Streamed:
        """What PyTorch's stream of one storage holds."""
        opened = _open_stream(Source.of_bytes(source.path, inner))
        return opened.tree, {key: part.all() for key, part in opened.storages.items()}

    storages = plain.taken_out(pickled.value, stream, limit_of(source.size, 0))
    parts = {key: Source.of_bytes(source.path, data) for key, data in storages.items()}
    return Container(form="pickle", tree=pickled.value, storages=parts)


def _open_tar(source: Source) -> Container:
    members = _tar_members(source)
    if missing := {"storages", "tensors", "pickle"} - set(members):
        hint = "if it holds a checkpoint, unpack it first"
        raise CorruptError(f"a tar archive without {', '.join(sorted(missing))}", hint=hint)
    with source.mapped() as data:
        storages, parts = _tar_storages(source, data, members["storages"])
        outside = _tar_tensors(data, members["tensors"], storages)
        tree = interpret(data, members["pickle"])
    return Container(form="tar", tree=tree.value, storages=parts, outside=outside)


def _tar_members(source: Source) -> dict[str, int]:
    """Name → byte at which a member's data begin."""
    members: dict[str, int] = {}
    at = 0
    left = _MEMBERS
    while (header := _block(source, at)).strip(b"\0"):
        left -= 1
        if not left:
            raise CorruptError(f"a tar archive of more than {_MEMBERS} files; a checkpoint has four")
        digits = header[124:136].strip(b" \0")
        if not re.fullmatch(b"[0-7]+", digits):
            raise CorruptError(f"a broken tar archive at byte {at}", hint=AGAIN)
        members[header[:100].rstrip(b"\0").decode("latin-1").removeprefix("./")] = at + _BLOCK
        at += _BLOCK + -(-int(digits, 8) // _BLOCK) * _BLOCK
    return members


def _block(source: Source, at: int) -> bytes:
    """A header's bytes; fewer at the end."""
    start = min(at, source.size)
    return source.data(start, min(_BLOCK, source.size - start))


def _tar_storages(source: Source, data: bytes | mmap, start: int) -> tuple[dict[str, Storage], dict[str, Source]]:
    """Storages by key, windows on them too, and the bytes of those that are no windows."""
    storages: dict[str, Storage] = {}
    parts: dict[str, Source] = {}
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
        parts[storage.key] = source.part(entry.end + 8, storage.size)
        at = entry.end + 8 + storage.size
    for key, root, offset, length in _windows(interpret(data, at).value):
        if root not in storages:
            raise CorruptError(f"a tar archive with a window on storage {root!r}, which it lacks")
        whole = storages[root]
        elements = whole.size // stored(whole.dtype).itemsize
        storages[key] = make_storage(root, whole.dtype, elements, (key, offset, length))
    return storages, parts


def _windows(value: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(key, key of the storage, offset, length) of each window on a storage."""
    if isinstance(value, list) and len(value) > TENSORS:
        raise CorruptError(f"a tar archive with more than {TENSORS} windows")
    for window in value if isinstance(value, list) else [None]:
        match window:
            case (int(key) | str(key), int(root) | str(root), offset, length):
                yield str(key), str(root), offset, length
            case _:
                raise CorruptError("a tar archive with a window on a storage that is none")


def _tar_tensors(data: bytes | mmap, start: int, storages: Mapping[str, Storage]) -> dict[str, View]:
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
    if not isinstance(value, int) or value > TENSORS:
        raise CorruptError(f"a tar archive that does not say how much it holds, or more than {TENSORS} things")
    return value


def _numbers(data: bytes | mmap, at: int, form: str) -> tuple[int, ...]:
    """Integers at byte `at`, as `struct` spells them."""
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise CorruptError(f"cut short at byte {at}: {error}", hint=AGAIN) from error
