"""The cache: files that were fetched, each with a record of what it was when it was last hashed.

`.NAME.json` beside a file keeps its SHA-256 (and MD5 where one was asked for), the URL it came from, its size, times of
change and inode at that moment, and the moment itself. A file is hashed again before it is used unless all of these are
as they were, and were older than SETTLED when it was hashed: what changes a file's bytes changes its ctime, which no
program sets back, but two changes within one tick of the clock look the same.

That notices a file that was written to, replaced or restored, its mtime set back or not. It does not notice what
happens below the file system (a failing disk: `cache verify` hashes everything), nor whoever can write the record too.
On Windows the ctime is the time of creation, so there the mtime alone tells of a change.

Where not the whole SHA-256 is known beforehand, the one that first came is taken on trust, and from then on the record
holds the file to it: another file that fits the known part is an error and stays out, until `forget`.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from densenet_port.errors import CorruptError, DiskError
from densenet_port.fetch.download import Progress, download, silent
from densenet_port.fetch.http import LIMITS, Limits
from densenet_port.fetch.partial import Digests, Wanted, digests_of, leftovers, on_disk
from densenet_port.files import whole

SETTLED = 2_000_000_000  # nanoseconds: no file system's clock is coarser than FAT's two seconds


class Entry(NamedTuple):
    """What the file system says of a file: bytes, times of change in nanoseconds since 1970, inode."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Entry":
        """As it is now. Raises OSError."""
        now = path.stat()
        return cls(now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a file was when it was hashed: its digests in hex, its entry, and the moment before."""

    url: str
    digests: Digests
    entry: Entry
    hashed: int

    def holds(self, path: Path) -> bool:
        """Whether the file is still the one that was hashed, as far as its entry tells."""
        settled = self.hashed - max(self.entry.mtime, self.entry.ctime) > SETTLED
        return settled and Entry.of(path) == self.entry

    def to_json(self) -> dict[str, Any]:
        """The record as it is written."""
        return {"url": self.url, **asdict(self.digests), **self.entry._asdict(), "hashed": self.hashed}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Record":
        """The record that was written. Raises KeyError or TypeError for anything else."""
        digests = Digests(size=int(data["size"]), sha256=str(data["sha256"]), md5=str(data["md5"]))
        entry = Entry(*(int(data[name]) for name in Entry._fields))
        return cls(url=str(data["url"]), digests=digests, entry=entry, hashed=int(data["hashed"]))


def folder() -> Path:
    """The cache folder: `DENSENET_PORT_CACHE`, or the platform's own place."""
    if chosen := os.environ.get("DENSENET_PORT_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path  # noqa: PLC0415 (only a download needs it)

    return user_cache_path("densenet-port")


def obtain(wanted: Wanted, path: Path, *, limits: Limits = LIMITS, progress: Progress = silent) -> Path:
    """The file at its path in the cache, right: as it lies there, or downloaded, once for all processes that ask.

    Raises CorruptError for a file that is not the one first fetched though it fits what is known beforehand, and what
    `download` raises.
    """
    if _is_right(wanted, path):
        return path
    with locked(path, limits):
        if not _is_right(wanted, path):
            found = download(_as_first_fetched(wanted, path), path, limits=limits, progress=progress)
            _record(path, wanted.url, found)
    return path


def bring(source: Path, wanted: Wanted, path: Path, *, limits: Limits = LIMITS) -> Path:
    """Copy a file into the cache that was brought by hand. Raises CorruptError when it is not the one wanted."""
    with locked(path, limits):
        with whole(path) as temporary:
            shutil.copyfile(source, temporary)
            found = digests_of(temporary, with_md5=bool(wanted.md5))
            if misfit := _as_first_fetched(wanted, path).misfit(found):
                raise CorruptError(f"{source}: {misfit}")
        _record(path, wanted.url, found)
    return path


class Finding(NamedTuple):
    """What became of a cached file: it is right, damaged, or another one than was first fetched; and how it differs."""

    state: Literal["right", "damaged", "changed"]
    fault: str


def examine(wanted: Wanted, path: Path) -> Finding:
    """Hash a cached file anew, judge it, and record what is right. Raises DiskError when it cannot be read."""
    moment = time.time_ns()
    with _reading(path):
        entry, found = Entry.of(path), digests_of(path, with_md5=bool(wanted.md5))
    if misfit := wanted.misfit(found):
        return Finding("damaged", misfit)
    if misfit := _as_first_fetched(wanted, path).misfit(found):
        return Finding("changed", misfit)
    _write(path, Record(url=wanted.url, digests=found, entry=entry, hashed=moment))
    return Finding("right", "")


def read(path: Path) -> Record | None:
    """A file's record, if it has one that is readable."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return Record.from_json(json.loads(_beside(path).read_text(encoding="utf-8")))
    return None


def forget(path: Path) -> None:
    """Remove a file and its record."""
    with on_disk(path):
        path.unlink(missing_ok=True)
        _beside(path).unlink(missing_ok=True)


def tidy(path: Path) -> list[Path]:
    """Remove what killed downloads of a file left, and a record without its file; says what. Skips one under way."""
    if not _left(path):
        return []
    with suppress(HeldError), locked(path, replace(LIMITS, lock=0)), on_disk(path):
        left = _left(path)
        for entry in left:
            entry.unlink()
        return left
    return []


class HeldError(DiskError):
    """Another process is at work on the file."""


@contextmanager
def locked(path: Path, limits: Limits = LIMITS) -> Iterator[None]:
    """Alone at work on a file, among processes and threads. The lock is the system's and ends with its holder.

    Its empty file `.NAME.lock` stays: to remove it would let a third process in beside one that waits.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 (only a download needs it)

    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=limits.lock)
        except Timeout as error:
            hint = "wait for it, or end it, and try again"
            raise HeldError(f"{path}: another process has been at it for {limits.lock:.0f} s", hint=hint) from error
    try:
        yield
    finally:
        lock.release()


def _is_right(wanted: Wanted, path: Path) -> bool:
    """Whether the right file is there: by its record, else by its bytes."""
    with _reading(path):
        if not path.is_file():
            return False
        record = read(path)
        if record and record.holds(path) and wanted.misfit(record.digests) is None:
            return True
    finding = examine(wanted, path)
    if finding.state == "changed":
        hint = "if the file was meant to change: `densenet-port cache prune --all` forgets what was first fetched"
        raise CorruptError(f"{path}: {finding.fault}, as first fetched", hint=hint)
    return finding.state == "right"


def _as_first_fetched(wanted: Wanted, path: Path) -> Wanted:
    """What is wanted; where its SHA-256 is not wholly known beforehand, that of the file that was first fetched."""
    record = read(path)
    if record is None or wanted.pinned or not record.digests.sha256.startswith(wanted.sha256):
        return wanted
    return replace(wanted, sha256=record.digests.sha256)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the file system refuses to show, as DiskError."""
    try:
        yield
    except OSError as error:
        hint = "mend its rights, or set DENSENET_PORT_CACHE to another folder"
        raise DiskError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error


def _left(path: Path) -> list[Path]:
    """What is of no more use of a file."""
    if not path.parent.is_dir():
        return []
    alone = _beside(path).exists() and not path.exists()
    return [*leftovers(path), *([_beside(path)] if alone else [])]


def _beside(path: Path) -> Path:
    """Where a file's record lies."""
    return path.with_name(f".{path.name}.json")


def _write(path: Path, record: Record) -> None:
    """Write a file's record, if that can be: in a cache that is only read, files are hashed each time."""
    with suppress(OSError, DiskError):
        if Entry.of(path) == record.entry:
            with whole(_beside(path)) as temporary:
                temporary.write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")
            for entry in leftovers(path):
                if entry.name.startswith(".."):  # of a process that was killed while it wrote one
                    entry.unlink(missing_ok=True)


def _record(path: Path, url: str, found: Digests) -> None:
    """Record a file that was written a moment ago."""
    with suppress(OSError):
        _write(path, Record(url=url, digests=found, entry=Entry.of(path), hashed=time.time_ns()))
