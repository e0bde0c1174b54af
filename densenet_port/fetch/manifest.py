"""A release's manifest: what each of its files is, and what it must hash to.

`manifest.json` is UTF-8 JSON, one object, `schema` "densenet-port/release/1"; docs/release.md says what each key means.
Keys may be added to it, and what the known ones say stays; a reader ignores the others, such as the digests of pieces
(`chunk_size`, `chunks`) that early manifests have. A name is one that GitHub keeps as it is (letters, digits, `.`, `_`,
`-`; no point first or last), so it is no path.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densenet_port.errors import CorruptError, DiskError
from densenet_port.files import file_digest
from densenet_port.formats.bounds import parsed_json
from densenet_port.strict import Fields

NAME = "manifest.json"
SUMS = "SHA256SUMS"
SIGNATURE = "manifest.json.sig"
SCHEMA = "densenet-port/release/1"
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
    """A weight file of a release; the keys are those of the manifest.

    `network` names what the files of one checkpoint share, `top` says whether the head is in it, `container` is its
    ending. `layout` to `tensors` repeat the file's own record, and add the source's `url` and `licence`, None where
    they are not known. `parity` is what was measured, `golden` the name of the file of logits that `verify` replays.
    """

    name: str
    size: int
    sha256: str
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
    """What a release holds: its tag, what built it, its files, and architecture → the file that "imagenet" means."""

    tag: str
    tool: str
    files: tuple[File, ...]
    documents: tuple[Document, ...]
    defaults: Mapping[str, str]

    def file(self, name: str) -> File | None:
        """The weight file of a name."""
        return next((file for file in self.files if file.name == name), None)

    def entries(self) -> tuple[Document, ...]:
        """Name, size and digest of every file that the manifest lists."""
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
        content = parsed_json(f"{where}:", data if len(data) <= LIMIT else b"")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where}: is no manifest of a release: {error}", hint="fetch or copy it again") from error
    fields = Fields(where, content, CorruptError)
    if fields.text("schema") != SCHEMA:
        raise fields.wrong("schema", SCHEMA, fields.text("schema"))
    manifest = Manifest(
        tag=fields.text("tag"),
        tool=fields.text("tool"),
        files=tuple(_file(entry) for entry in fields.entries("files")),
        documents=tuple(_document(entry) for entry in fields.entries("documents")),
        defaults=fields.text_map("defaults"),
    )
    _check_names(manifest, fields)
    return manifest


def document(path: Path) -> Document:
    """The entry of a file that lies in a folder. Raises DiskError."""
    sha256 = file_digest(path)
    return Document(name=path.name, size=path.stat().st_size, sha256=sha256)


def _check_names(manifest: Manifest, fields: Fields) -> None:
    """Every name stands once, and nothing is named that is not there. Raises CorruptError."""
    names = [NAME, SUMS, SIGNATURE, *(entry.name for entry in manifest.entries())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise fields.wrong("files", "every file once", f"{twice[0]} twice")
    documents = {entry.name for entry in manifest.documents}
    for file in manifest.files:
        if file.golden is not None and file.golden not in documents:
            raise fields.wrong("documents", f"an entry for {file.golden}", "none")
    for arch, name in manifest.defaults.items():
        if (default := manifest.file(name)) is None or default.arch != arch:
            raise fields.wrong("defaults", f"a file of architecture {arch}", name)


def _document(fields: Fields) -> Document:
    return Document(
        name=_matching(fields, "name", SAFE, "letters, digits, '.', '_' and '-'"),
        size=_size(fields),
        sha256=_matching(fields, "sha256", DIGEST, "64 hex digits"),
    )


def _file(fields: Fields) -> File:
    return File(
        **asdict(_document(fields)),
        top=fields.value("top", bool),
        network=fields.text("network"),
        arch=fields.text("arch"),
        container=fields.text("container"),
        layout=fields.text("layout"),
        architecture=fields.value("architecture", dict),
        contract=fields.value("contract", dict),
        source=fields.value("source", dict),
        mappings=fields.text_map("mappings"),
        tensors=fields.text_map("tensors"),
        parity=fields.value("parity", dict),
        golden=fields.value("golden", str, type(None)),
    )


def _size(fields: Fields) -> int:
    """A file's bytes."""
    size: int = fields.value("size", int)
    if size < 0:
        raise fields.wrong("size", "at least 0", size)
    return size


def _matching(fields: Fields, key: str, pattern: re.Pattern[str], expected: str) -> str:
    """A string of a form."""
    text = fields.text(key)
    if not pattern.fullmatch(text):
        raise fields.wrong(key, expected, text)
    return text
