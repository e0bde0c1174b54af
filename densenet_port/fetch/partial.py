"""A file on its way: what is known of it beforehand, what has come, and how far that proved right.

Bytes go to `.NAME.<random>.part` beside the file's place. `.NAME.<random>.part.json` notes where they come from.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import md5, sha256
from io import FileIO
from pathlib import Path

from densenet_port.errors import DiskError

PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What a file is: its bytes, their SHA-256 in hex, and their MD5 where it was asked for, else ""."""

    size: int
    sha256: str
    md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file to download, and what is known of it beforehand.

    `sha256` is lower-case hex, whole or its beginning; `md5` is whole. `chunks` are the SHA-256 of its pieces of
    `chunk_size` bytes, the last of which may be shorter; they need the `size`.
    """

    url: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""
    chunk_size: int = 0
    chunks: tuple[str, ...] = ()

    def misfit(self, found: Digests) -> str | None:
        """What speaks against a file, or None."""
        if self.size not in (None, found.size):
            return f"expected {self.size} bytes, found {found.size}"
        if not found.sha256.startswith(self.sha256):
            return f"expected a SHA-256 of {self.sha256}{'' if self.pinned else '…'}, found {found.sha256}"
        if self.md5 and found.md5 != self.md5:
            return f"expected an MD5 of {self.md5}, found {found.md5 or 'none'}"
        return None

    @property
    def pinned(self) -> bool:
        """Whether the whole SHA-256 is known."""
        return len(self.sha256) == sha256().digest_size * 2


def leftovers(path: Path) -> list[Path]:
    """What killed processes may have left of a file: unfinished downloads with their notes, and temporary files."""
    name = re.escape(path.name)
    pattern = re.compile(rf"\.{name}\.[a-z0-9_]{{8}}(\.part(\.json)?)?|\.\.{name}\.json\.[a-z0-9_]{{8}}")
    return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))


def digests_of(path: Path, *, with_md5: bool = False) -> Digests:
    """What a file on disk is. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        tally = Tally(with_md5=with_md5)
        while piece := file.read(PIECE):
            tally.add(piece)
    return tally.digests()


class Tally:
    """Bytes counted and hashed."""

    def __init__(self, *, with_md5: bool) -> None:
        """Begin with nothing."""
        self.size, self.sha256 = 0, sha256()
        self.md5 = md5(usedforsecurity=False) if with_md5 else None

    def add(self, piece: bytes | memoryview) -> None:
        """Count bytes that follow the others."""
        self.size += len(piece)
        self.sha256.update(piece)
        if self.md5:
            self.md5.update(piece)

    def digests(self) -> Digests:
        """What the bytes so far are."""
        return Digests(size=self.size, sha256=self.sha256.hexdigest(), md5=self.md5.hexdigest() if self.md5 else "")

    def copy(self) -> "Tally":
        """The same, to go on from twice."""
        twin = Tally(with_md5=False)
        twin.size, twin.sha256, twin.md5 = self.size, self.sha256.copy(), self.md5 and self.md5.copy()
        return twin


class WrongChunk(Exception):  # noqa: N818 (says what came, not that anyone is shown it)
    """A chunk came whose digest is not the one known; the file is cut back to its begin."""

    def __init__(self, number: int) -> None:
        """Keep the chunk's number, from 0."""
        super().__init__(number)
        self.number = number


class Part:
    """An unfinished file: its bytes so far, their digests, and the end of the last chunk that proved right."""

    def __init__(self, file: FileIO, wanted: Wanted) -> None:
        """Take up what the file already holds, as far as it is right."""
        self.file, self.wanted = file, wanted
        self.proven = self.all = Tally(with_md5=bool(wanted.md5))
        self.chunk = sha256()
        self._advance()
        with suppress(WrongChunk):
            while piece := file.read(PIECE):
                self._count(piece)
        if wanted.size is not None and self.size > wanted.size:
            self.restart()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.all.size

    def add(self, piece: bytes) -> None:
        """Append what came. Raises WrongChunk."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self.file.write(rest) :]
        self._count(piece)

    def restart(self) -> None:
        """Drop every byte."""
        self._cut(Tally(with_md5=bool(self.wanted.md5)))

    def _count(self, piece: bytes) -> None:
        """Hash what the file has now, and compare each chunk that is complete with it."""
        rest = memoryview(piece)
        while rest:
            here = rest[: self._room()]
            self.all.add(here)
            self.chunk.update(here)
            rest = rest[len(here) :]
            if self.wanted.chunks and (not self.size % self.wanted.chunk_size or self.size == self.wanted.size):
                self._prove()

    def _room(self) -> int | None:
        """Bytes up to the end of the chunk."""
        return self.wanted.chunk_size - self.size % self.wanted.chunk_size if self.wanted.chunks else None

    def _prove(self) -> None:
        """Compare the chunk that ends here."""
        number = (self.size - 1) // self.wanted.chunk_size
        if self.wanted.chunks[number : number + 1] == (self.chunk.hexdigest(),):
            self._advance()
            return
        self._cut(self.proven)
        raise WrongChunk(number)

    def _advance(self) -> None:
        """Take what is there as proven."""
        self.proven, self.all, self.chunk = self.all, self.all.copy(), sha256()

    def _cut(self, tally: Tally) -> None:
        """Go back to what has been proven, or to nothing."""
        self.proven, self.all, self.chunk = tally, tally.copy(), sha256()
        self.file.truncate(tally.size)
        self.file.seek(tally.size)


def unfinished(path: Path) -> Path | None:
    """The largest unfinished download of a file; the others, and what else was left, are removed."""
    left = leftovers(path)
    parts = [entry for entry in left if entry.suffix == ".part"]
    chosen = max(parts, key=lambda entry: entry.stat().st_size, default=None)
    for entry in left:
        if chosen is None or entry not in {chosen, note_of(chosen)}:
            entry.unlink(missing_ok=True)
    return chosen


def new(path: Path) -> Path:
    """An empty file of a name that nobody else has; unlike mkstemp's, with the rights that the user's files have."""
    place = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    place.touch(exist_ok=False)
    return place


def note_of(part: Path) -> Path:
    """Where the note lies that says where a part's bytes come from."""
    return part.with_name(f"{part.name}.json")


@contextmanager
def opened(place: Path) -> Iterator[FileIO]:
    """The open part; it stays after a failure, for the next download, unless it is empty or the disk refused it."""
    try:
        with place.open("r+b", buffering=0) as file:
            yield file
    except OSError:
        discard(place)
        raise
    except BaseException:
        if not place.stat().st_size:
            discard(place)
        raise


def discard(place: Path) -> None:
    """Remove a part and its note."""
    place.unlink(missing_ok=True)
    note_of(place).unlink(missing_ok=True)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """What the file system refuses, as DiskError."""
    try:
        yield
    except OSError as error:
        hint = "make room or mend its rights, or set DENSENET_PORT_CACHE to another folder"
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}", hint=hint) from error
