"""A release's manifest: what each of its files is, and what it must hash to.

`manifest.json` is UTF-8 JSON, one object, `schema` "densenet-port/release/1". Keys may be added to it, and what the
known ones say stays; a reader ignores the others. What is relied on:

- `tag`, `tool`: the release's tag, and what built it (`densenet-port 0.1.0`).
- `files`: the weight files. Each has its `name`, `size` in bytes and `sha256`; `chunks` are the SHA-256 of its pieces
  of `chunk_size` bytes in order (the last may be shorter), so that a broken download resumes at the first wrong piece.
  `network` names what the files of one checkpoint share, `arch` the architecture, `top` says whether the head is in it,
  `container` is its ending, `layout` whose names it has; `architecture`, `contract`, `source`, `mappings` and `tensors`
  repeat what the file says of itself, and add the source's `url` and `licence`, null where they are not known. `parity`
  is what was measured, `golden` the name of the file of logits that `verify` replays, or null.
- `documents`: every other file but the manifest, `SHA256SUMS` and a signature: `name`, `size`, `sha256`.
- `defaults`: architecture → the file that `weights="imagenet"` means.

A name is one that GitHub keeps as it is (letters, digits, `.`, `_`, `-`; no point first or last), so it is no path.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densenet_port.errors import CorruptError, DiskError

NAME = "manifest.json"
SUMS = "SHA256SUMS"
SIGNATURE = "manifest.json.sig"
SCHEMA = "densenet-port/release/1"
CHUNK = 4 * 2**20  # bytes of a piece with a digest of its own
LIMIT = 64 * 2**20  # bytes of a manifest; a file of DenseNet-264 takes 0.2 MB in it

SAFE = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,198}[A-Za-z0-9_-])?")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that comes with a release: its name, its bytes and their SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A weight file of a release; the keys are those of the manifest."""

    name: str
    size: int
    sha256: str
    chunk_size: int
    chunks: tuple[str, ...]
    network: str
    arch: str
    top: bool
    container: str
    layout: str
    architecture: Mapping[str, Any]
    contract: Mapping[str, Any]
    source: Mapping[str, Any]
    mappings: Mapping[str, str]
    tensors: Mapping[str, str]
    parity: Mapping[str, Any]
    golden: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a release holds."""

    tag: str
    tool: str
    files: tuple[File, ...]
    documents: tuple[Document, ...]
    defaults: Mapping[str, str]

    def file(self, name: str) -> File | None:
        """The weight file of a name."""
        return next((file for file in self.files if file.name == name), None)

    def entries(self) -> tuple[Document, ...]:
        """Name, size and digest of every file that the manifest tells of."""
        files = (Document(name=file.name, size=file.size, sha256=file.sha256) for file in self.files)
        return (*files, *self.documents)

    def to_bytes(self) -> bytes:
        """The manifest as it is written: the same manifest gives the same bytes."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False) + "\n").encode()


def read(path: Path) -> Manifest:
    """The manifest in a file. Raises DiskError or CorruptError."""
    try:
        with path.open("rb") as file:
            return parsed(file.read(LIMIT + 1), str(path))
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}", hint="is it the folder of a release?") from error


def parsed(data: bytes, where: str) -> Manifest:
    """The manifest in bytes that came from `where`. Raises CorruptError for anything that it should not say."""
    try:
        content = json.loads(data if len(data) <= LIMIT else b"")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where}: is no manifest of a release: {error}", hint="fetch or copy it again") from error
    told = _Told(where, content)
    if told.value("schema", str) != SCHEMA:
        raise told.wrong("schema", SCHEMA, told.value("schema", str))
    manifest = Manifest(
        tag=told.value("tag", str),
        tool=told.value("tool", str),
        files=tuple(_file(entry) for entry in told.entries("files")),
        documents=tuple(_document(entry) for entry in told.entries("documents")),
        defaults=told.texts("defaults"),
    )
    _agree(manifest, told)
    return manifest


def _agree(manifest: Manifest, told: "_Told") -> None:
    """Every name once, and nothing named that is not there."""
    names = [entry.name for entry in manifest.entries()]
    if twice := sorted({name for name in names if names.count(name) > 1} | ({NAME, SUMS, SIGNATURE} & set(names))):
        raise told.wrong("files", "every file once", f"{twice[0]} twice")
    golden = [file.golden for file in manifest.files if file.golden is not None]
    if strange := [name for name in golden if name not in {entry.name for entry in manifest.documents}]:
        raise told.wrong("documents", f"an entry for {strange[0]}", "none")
    for arch, name in manifest.defaults.items():
        if (file := manifest.file(name)) is None or file.arch != arch:
            raise told.wrong("defaults", f"a file of architecture {arch}", name)


def _document(told: "_Told") -> Document:
    return Document(name=told.name(), size=told.count("size"), sha256=told.digest("sha256"))


def _file(told: "_Told") -> File:
    chunks = told.value("chunks", list)
    size, chunk_size = told.count("size"), told.count("chunk_size", least=1)
    if not all(isinstance(chunk, str) and DIGEST.fullmatch(chunk) for chunk in chunks):
        raise told.wrong("chunks", "SHA-256 digests", chunks)
    if len(chunks) != -(-size // chunk_size):
        raise told.wrong("chunks", f"{-(-size // chunk_size)} of {chunk_size} bytes", f"{len(chunks)}")
    return File(
        name=told.name(),
        size=size,
        sha256=told.digest("sha256"),
        chunk_size=chunk_size,
        chunks=tuple(chunks),
        top=told.value("top", bool),
        network=told.value("network", str),
        arch=told.value("arch", str),
        container=told.value("container", str),
        layout=told.value("layout", str),
        architecture=told.value("architecture", dict),
        contract=told.value("contract", dict),
        source=told.value("source", dict),
        mappings=told.texts("mappings"),
        tensors=told.texts("tensors"),
        parity=told.value("parity", dict),
        golden=told.value("golden", str, type(None)),
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """An object of the manifest, and where it stands, for messages."""

    where: str
    content: Any

    def wrong(self, key: str, expected: str, found: Any) -> CorruptError:
        """The error for a value that may not stand there."""
        return CorruptError(f"{self.where}: {key}: expected {expected}, found {str(found)[:80]}")

    def value(self, key: str, *kinds: type) -> Any:
        """The value of a key, of one of the types."""
        if not isinstance(self.content, dict):
            raise CorruptError(f"{self.where}: expected an object, found {type(self.content).__name__}")
        if key not in self.content:
            raise CorruptError(f"{self.where}: no {key!r} in it")
        found = self.content[key]
        if type(found) not in kinds:
            raise self.wrong(key, " or ".join(kind.__name__ for kind in kinds), found)
        return found

    def entries(self, key: str) -> "list[_Told]":
        """The objects in a list."""
        entries = self.value(key, list)
        return [_Told(f"{self.where}: {key}[{number}]", entry) for number, entry in enumerate(entries)]

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are texts."""
        found: dict[str, str] = self.value(key, dict)
        if strange := [value for value in found.values() if not isinstance(value, str)]:
            raise self.wrong(key, "texts", strange[0])
        return found

    def count(self, key: str, *, least: int = 0) -> int:
        """A whole number."""
        found: int = self.value(key, int)
        if found < least:
            raise self.wrong(key, f"at least {least}", found)
        return found

    def digest(self, key: str) -> str:
        """A SHA-256 in lower-case hex."""
        found: str = self.value(key, str)
        if not DIGEST.fullmatch(found):
            raise self.wrong(key, "64 hex digits", found)
        return found

    def name(self) -> str:
        """A file's name, which is no path."""
        found: str = self.value("name", str)
        if not SAFE.fullmatch(found):
            raise self.wrong("name", "letters, digits, '.', '_' and '-'", found)
        return found


# -- digests -----------------------------------------------------------------------------------------------------------


def digests(path: Path, chunk_size: int = CHUNK) -> tuple[int, str, tuple[str, ...]]:
    """Size, SHA-256 and the SHA-256 of every piece of a file, in one pass. Raises DiskError."""
    whole, chunks, size = hashlib.sha256(), [], 0
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(chunk_size):
                whole.update(piece)
                chunks.append(hashlib.sha256(piece).hexdigest())
                size += len(piece)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    return size, whole.hexdigest(), tuple(chunks)


def document(path: Path) -> Document:
    """The entry of a file that lies in a folder."""
    size, sha256, _ = digests(path)
    return Document(name=path.name, size=size, sha256=sha256)
