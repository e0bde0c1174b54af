"""A journal: a file of JSON lines that says what was done, by which a run that broke off goes on.

The first line is the head: what is done, and by which settings. Each further line is an entry, an object, which is on
the disk before `append` returns. A run that is killed leaves all of its lines whole but the last, which has no end
then and is cut off by the next run. Whoever has a journal open has the system's lock on `.NAME.lock` beside it, which
ends with its process; the empty file stays.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.formats.bounds import parsed_json
from densenet_port.strict import Fields

LINE = 2**26  # bytes of a line; one of a batch has some hundreds
DIFFERENT = "give the settings it was begun with, or name another place"


class Journal:
    """A journal that is open: `entries` are those that were there, in order; it is to be closed, best by `with`."""

    def __init__(self, path: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        """Begin a journal with a head of plain JSON values, or with `resume` go on with the one that is there.

        Its folder is made where it is missing. Raises UsageError for a journal that is there already without `resume`,
        and for one of another head; DiskError where another run has it open, or it cannot be written; CorruptError,
        with the line's number, for one that is damaged before its end.
        """
        self.path = path
        with ExitStack() as stack, _disk_errors(path):
            stack.enter_context(_locked(path))
            if path.exists() and not resume:
                hint = "pass --resume to go on with it, or name another place"
                raise UsageError(f"{path}: is there already, of a run that may not be done", hint=hint)
            self._file = stack.enter_context(path.open("ab+", buffering=0))
            lines, size = _read(path, self._file)
            if lines:
                _require_same(path, lines[0], json.loads(json.dumps(head)))
            self._file.truncate(size)
            self.entries = lines[1:]
            if not lines:
                self.append(head)
            self._open = stack.pop_all()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry of plain JSON values as one line, and have it on the disk. Raises DiskError."""
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        with _disk_errors(self.path):
            if self._file.write(line) < len(line):
                self._file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system raises into DiskError."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with a journal. Raises DiskError where another run has it, or where there are no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DiskError(
            f"{path}: another run is at work on it", hint="wait for it, or end it, and try again"
        ) from error
    except NotImplementedError as error:
        raise DiskError(f"{path}: cannot be locked: {error}", hint="name a place on another file system") from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path, file: FileIO) -> tuple[list[dict[str, Any]], int]:
    """The lines of a journal that have an end, and how many bytes they take."""
    objects, size = [], 0
    for number, line in enumerate(_lines(path, file), 1):
        where = f"{path}: line {number}"
        try:
            content = parsed_json(where, line)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{where} is damaged: {error}", hint="name another place, and begin anew") from error
        objects.append(dict(Fields(where, content, CorruptError).content))
        size += len(line)
    return objects, size


def _lines(path: Path, file: FileIO) -> Iterator[bytes]:
    """The lines that have an end."""
    with open(file.fileno(), "rb", closefd=False) as buffered:
        buffered.seek(0)
        while (line := buffered.readline(LINE)).endswith(b"\n"):
            yield line
        if len(line) == LINE:
            raise CorruptError(f"{path}: a line has more than {LINE} bytes", hint="name another place, and begin anew")


def _require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse a journal of other settings, and say in what they differ."""
    before, now = dict(_flat(old)), dict(_flat(new))
    different = [
        f"{key} was {_shown(before, key)} and is {_shown(now, key)}"
        for key in dict.fromkeys((*before, *now))
        if _shown(before, key) != _shown(now, key)
    ]
    if different:
        raise UsageError(f"{path}: is of other settings: {'; '.join(different)}", hint=DIFFERENT)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of an object by its place: `settings.dst`."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not there"
