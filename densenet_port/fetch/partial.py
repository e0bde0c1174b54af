"""A file on its way: what is expected of it, the bytes that have come, and where they lie.

Bytes go to `.NAME.part` beside the file's place. `.NAME.part.json` notes where they come from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
class Expected:
    """A file to download, and what is known of it beforehand.

    `size` is in bytes; `sha256` is lower-case hex, whole or its beginning; `md5` is whole.
    """

    url: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""

    def mismatch(self, actual: Digests) -> str | None:
        """How a file differs from the expected one, in a sentence; None where it does not."""
        if self.size not in (None, actual.size):
            return f"expected {self.size} bytes, found {actual.size}"
        if not actual.sha256.startswith(self.sha256):
            return f"expected a SHA-256 of {self.sha256}{'' if self.pinned else '…'}, found {actual.sha256}"
        if self.md5 and actual.md5 != self.md5:
            return f"expected an MD5 of {self.md5}, found {actual.md5 or 'none'}"
        return None

    @property
    def pinned(self) -> bool:
        """Whether the whole SHA-256 is known."""
        return len(self.sha256) == sha256().digest_size * 2


class HashedFile:
    """An open file whose bytes are counted and hashed: those that it holds, and those that are appended."""

    def __init__(self, file: FileIO, *, with_md5: bool) -> None:
        """Hash what the file holds from where it stands."""
        self.file, self.with_md5 = file, with_md5
        self._begin()
        while piece := file.read(PIECE):
            self._count(piece)

    def append(self, piece: bytes) -> None:
        """Write and hash bytes that follow the others."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self.file.write(rest) :]
        self._count(piece)

    def restart(self) -> None:
        """Drop every byte."""
        self.file.truncate(0)
        self.file.seek(0)
        self._begin()

    def digests(self) -> Digests:
        """Size and digests of the bytes so far."""
        return Digests(size=self.size, sha256=self.sha256.hexdigest(), md5=self.md5.hexdigest() if self.md5 else "")

    def _begin(self) -> None:
        """Nothing is counted yet."""
        self.size, self.sha256 = 0, sha256()
        self.md5 = md5(usedforsecurity=False) if self.with_md5 else None

    def _count(self, piece: bytes) -> None:
        """Count and hash bytes that follow the others."""
        self.size += len(piece)
        self.sha256.update(piece)
        if self.md5:
            self.md5.update(piece)


def digests_of(path: Path, *, with_md5: bool = False) -> Digests:
    """Size and digests of a file on disk. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return HashedFile(file, with_md5=with_md5).digests()


# -- on disk -----------------------------------------------------------------------------------------------------------


def partial_path(path: Path) -> Path:
    """Where the bytes of an unfinished download lie."""
    return path.with_name(f".{path.name}.part")


def note_path(path: Path) -> Path:
    """Where the note lies that says where they come from."""
    return path.with_name(f".{path.name}.part.json")


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """The unfinished download of a file, open, made where it is missing.

    After a failure it stays for the next download, unless it is empty or the disk refused it.
    """
    try:
        partial_path(path).touch()
        with partial_path(path).open("r+b", buffering=0) as file:
            yield file
    except OSError:
        discard(path)
        raise
    except BaseException:
        if not partial_path(path).stat().st_size:
            discard(path)
        raise


def discard(path: Path) -> None:
    """Remove the unfinished download of a file, and its note."""
    partial_path(path).unlink(missing_ok=True)
    note_path(path).unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path, refused: str = "written", remedy: str = "make room or mend its rights") -> Iterator[None]:
    """Turn what the file system refuses into DiskError."""
    try:
        yield
    except OSError as error:
        hint = f"{remedy}, or set DENSENET_PORT_CACHE to another folder"
        raise DiskError(f"{path}: cannot be {refused}: {error.strerror or error}", hint=hint) from error
