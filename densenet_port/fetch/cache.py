"""The cache: files that were fetched, each with a record of what it was when it was last hashed.

A file is hashed again before it is used unless size, times of change and inode are those of its record `.NAME.json`,
and were older than SETTLED when it was hashed: what changes a file's bytes changes its ctime, which no program sets
back, but two changes within one tick of the clock look the same. docs/fetch.md says what that notices, and what not.

Where not the whole SHA-256 is known beforehand, the one that first came is taken on trust, and from then on the record
holds the file to it: another file that fits the known part is an error and stays out, until `forget`.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

from densenet_port.errors import CorruptError, DiskError
from densenet_port.fetch.download import Progress, download, ignore_progress
from densenet_port.fetch.http import POLICY, RetryPolicy
from densenet_port.fetch.partial import Digests, Expected, digests_of, disk_errors, note_path, partial_path
from densenet_port.files import whole

SETTLED = 2_000_000_000  # nanoseconds: no file system's clock is coarser than FAT's two seconds
LOCK = 3600.0  # seconds that another process's download of the same file is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a file was when it was hashed: where it came from, its digests in hex, and what the file system said of it.

    `size` is in bytes; `mtime`, `ctime` and `hashed`, the moment before, are in nanoseconds since 1970.
    """

    url: str
    size: int
    sha256: str
    md5: str
    mtime: int
    ctime: int
    inode: int
    hashed: int

    @classmethod
    def of(cls, url: str, digests: Digests, stat: os.stat_result, hashed: int) -> "Record":
        """The record of a file that was hashed."""
        return cls(
            url=url,
            **asdict(digests),
            mtime=stat.st_mtime_ns,
            ctime=stat.st_ctime_ns,
            inode=stat.st_ino,
            hashed=hashed,
        )

    @property
    def digests(self) -> Digests:
        """Size and digests of the file."""
        return Digests(size=self.size, sha256=self.sha256, md5=self.md5)

    def matches(self, stat: os.stat_result) -> bool:
        """Whether size, times of change and inode are those of the record."""
        now = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        return now == (self.size, self.mtime, self.ctime, self.inode)

    def holds(self, path: Path) -> bool:
        """Whether the file is still the one that was hashed, as far as the file system tells. Raises OSError."""
        settled = self.hashed - max(self.mtime, self.ctime) > SETTLED
        return settled and self.matches(path.stat())


def folder() -> Path:
    """The cache folder: `DENSENET_PORT_CACHE`, or the platform's own place."""
    if chosen := os.environ.get("DENSENET_PORT_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path  # noqa: PLC0415 (only a download needs it)

    return user_cache_path("densenet-port")


def obtain(
    expected: Expected, path: Path, *, policy: RetryPolicy = POLICY, progress: Progress = ignore_progress
) -> Path:
    """The file at its path in the cache, right: as it lies there, or downloaded, once for all processes that ask.

    Raises CorruptError for a file that is not the one first fetched though it fits what is known beforehand, and what
    `download` raises.
    """
    if _is_right(expected, path):
        return path
    with locked(path):
        if not _is_right(expected, path):
            digests = download(_as_first_fetched(expected, path), path, policy=policy, progress=progress)
            remember(path, expected.url, digests)
    return path


def put(source: Path, expected: Expected, path: Path) -> None:
    """Copy a file into the cache. Raises CorruptError when it is not the expected one."""
    with locked(path):
        with whole(path) as temporary:
            shutil.copyfile(source, temporary)
            digests = digests_of(temporary, with_md5=bool(expected.md5))
            if mismatch := _as_first_fetched(expected, path).mismatch(digests):
                raise CorruptError(f"{source}: {mismatch}")
        remember(path, expected.url, digests)


class Finding(NamedTuple):
    """What became of a cached file: it is right, damaged, or another one than was first fetched; and how it differs."""

    state: Literal["right", "damaged", "changed"]
    fault: str


def examine(expected: Expected, path: Path) -> Finding:
    """Hash a cached file anew, judge it, and record what is right. Raises DiskError when it cannot be read."""
    moment = time.time_ns()
    with disk_errors(path, "read", "mend its rights"):
        stat, digests = path.stat(), digests_of(path, with_md5=bool(expected.md5))
    if mismatch := expected.mismatch(digests):
        return Finding("damaged", mismatch)
    if mismatch := _as_first_fetched(expected, path).mismatch(digests):
        return Finding("changed", mismatch)
    _write(path, Record.of(expected.url, digests, stat, moment))
    return Finding("right", "")


def read(path: Path) -> Record | None:
    """A file's record; None where there is none that is readable."""
    with suppress(OSError, ValueError, TypeError):
        record = Record(**json.loads(_record_path(path).read_text(encoding="utf-8")))
        if all(type(getattr(record, field.name)) is field.type for field in fields(record)):
            return record
    return None


def remember(path: Path, url: str, digests: Digests) -> None:
    """Record a file that was written, or hashed, a moment ago."""
    with suppress(OSError):
        _write(path, Record.of(url, digests, path.stat(), time.time_ns()))


def forget(path: Path) -> None:
    """Remove a file and its record."""
    with disk_errors(path):
        path.unlink(missing_ok=True)
        _record_path(path).unlink(missing_ok=True)


def remove_leftovers(path: Path) -> list[Path]:
    """Remove what killed downloads of a file left, and a record without its file; their paths.

    Nothing is removed while a download of the file is under way.
    """
    if not _leftovers(path):
        return []
    with suppress(HeldError), locked(path, timeout=0), disk_errors(path):
        left = _leftovers(path)
        for entry in left:
            entry.unlink()
        return left
    return []


class HeldError(DiskError):
    """Another process is at work on the file."""


@contextmanager
def locked(path: Path, *, timeout: float | None = None) -> Iterator[None]:
    """Alone at work on a file, among processes and threads. The lock is the system's and ends with its holder.

    `timeout` is in seconds, LOCK where it is None; then HeldError is raised. The lock's empty file `.NAME.lock` stays:
    to remove it would let a third process in beside one that waits.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 (only a download needs it)

    seconds = LOCK if timeout is None else timeout
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=seconds)
        except Timeout as error:
            hint = "wait for it, or end it, and try again"
            raise HeldError(f"{path}: another process has been at it for {seconds:.0f} s", hint=hint) from error
    try:
        yield
    finally:
        lock.release()


def _is_right(expected: Expected, path: Path) -> bool:
    """Whether the right file is there: by its record, else by its bytes."""
    with disk_errors(path, "read", "mend its rights"):
        if not path.is_file():
            return False
        record = read(path)
        if record and record.holds(path) and expected.mismatch(record.digests) is None:
            return True
    finding = examine(expected, path)
    if finding.state == "changed":
        hint = "if the file was meant to change: `densenet-port cache prune --all` forgets what was first fetched"
        raise CorruptError(f"{path}: {finding.fault}, as first fetched", hint=hint)
    return finding.state == "right"


def _as_first_fetched(expected: Expected, path: Path) -> Expected:
    """What is expected; where its SHA-256 is not wholly known, with that of the file that was first fetched."""
    record = read(path)
    if record is None or expected.pinned or not record.sha256.startswith(expected.sha256):
        return expected
    return replace(expected, sha256=record.sha256)


def _leftovers(path: Path) -> list[Path]:
    """What is of no more use of a file: unfinished downloads, temporary files, and a record whose file is gone."""
    if not path.parent.is_dir():
        return []
    left = [*_temporaries(path), *_temporaries(_record_path(path))]
    left += [entry for entry in (partial_path(path), note_path(path)) if entry.exists()]
    if _record_path(path).exists() and not path.exists():
        left.append(_record_path(path))
    return left


def _temporaries(path: Path) -> list[Path]:
    """What a process that was killed while it wrote a file left beside it."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}(-[0-9]{{1,9}}-[0-9a-f]{{8}})?")
    return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))


def _record_path(path: Path) -> Path:
    """Where a file's record lies."""
    return path.with_name(f".{path.name}.json")


def _write(path: Path, record: Record) -> None:
    """Write a file's record, unless the file changed since; in a cache that is only read, it is hashed each time."""
    with suppress(OSError, DiskError):
        if not record.matches(path.stat()):
            return
        with whole(_record_path(path)) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
