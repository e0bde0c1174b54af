"""Unfinished files: what they are called, who is at work on them, and when nobody is.

    .<name>.<kernel>-<process>-<random>        on its way to <name>, in the same folder
    .<name>.<kernel>-<process>-<random>.old    what stood at <name> while it and its companions were replaced

Whoever writes an unfinished file holds the system's lock (flock) on it, which ends with the process however that ends,
and which no other process can take for its own, as it could a process's number. So the next writer in the folder asks
for the lock, and removes what is given to it. That answer is true among the processes of one running kernel, whatever
containers they are in; `kernel` tells them from other machines that share the folder, and from the time before a
restart. Where nobody can be asked (another kernel, a file system or a system without such locks, whose files have the
kernel 00000000), a file that nobody has touched for a day is nobody's.

An `.old` file is removed by the next writer of the same place, once that has succeeded: until then it may be the last.
"""

import os
import re
import shutil
import sys
import time
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

ABANDONED = 24 * 3600  # seconds after which nobody writes an unfinished file any more
NOBODY = "0" * 8  # the kernel of files that nobody holds a lock on
LENGTH = 100  # bytes of a name that are kept: file systems allow 255, encrypted ones 143
OLD = ".old"
_SPELLED = re.compile(r"\..+\.([0-9a-f]{8})-[0-9]{1,10}-[0-9a-f]{8}", re.DOTALL)


class Unfinished(NamedTuple):
    """An empty file to write to, or a folder, and the descriptor that holds its lock until `close`."""

    path: Path
    lock: int | None

    def close(self) -> None:
        """Remove it, unless it has got its name, and let go of it. Raises nothing."""
        with suppress(OSError):
            _remove(self.path)
        if self.lock is not None:
            os.close(self.lock)


def begin(place: Path, rights: int) -> Unfinished:
    """A new file beside a place, locked where that is possible; `rights` are less the umask. Raises OSError."""
    path = beside(place, kernel())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, rights)
    held = _hold(descriptor)
    if held and _is_at(path, descriptor):
        return Unfinished(path, descriptor)
    os.close(descriptor)
    if held is None:
        return Unfinished(path.rename(beside(place, NOBODY)), None)
    return begin(place, rights)  # somebody asked for it between the two steps, took it for nobody's, and removes it


def begin_folder(place: Path) -> Unfinished:
    """A new folder beside a place, locked where that is possible. Raises OSError."""
    path = beside(place, kernel())
    path.mkdir()
    if sys.platform == "win32":
        return Unfinished(path, None)
    descriptor = os.open(path, os.O_RDONLY)
    if _hold(descriptor):
        return Unfinished(path, descriptor)
    os.close(descriptor)
    return Unfinished(path.rename(beside(place, NOBODY)), None)


def beside(place: Path, kernel: str = NOBODY) -> Path:
    """A name beside a place that nobody else has."""
    return place.with_name(f".{_short(place.name)}.{kernel}-{os.getpid()}-{os.urandom(4).hex()}")


def remove_strays(folder: Path) -> None:
    """Remove the unfinished files of a folder that nobody is at work on. Raises nothing."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and (match := _SPELLED.fullmatch(entry.name)):
                with suppress(OSError):  # somebody else removed it, or must
                    _remove_stray(folder / entry.name, match[1])


def remove_old(place: Path) -> None:
    """Remove what dead processes kept of what stood at a place. Raises nothing."""
    begin = f".{_short(place.name)}."
    with suppress(OSError), os.scandir(place.parent) as entries:
        for entry in entries:
            if entry.name.startswith(begin) and entry.name.endswith(OLD):
                with suppress(OSError):
                    if _SPELLED.fullmatch(entry.name.removesuffix(OLD)):
                        (place.parent / entry.name).unlink()


@cache
def kernel() -> str:
    """Eight digits for the kernel that runs since this machine was started; for the machine where it does not tell."""
    if sys.platform == "win32":
        return NOBODY
    try:
        running = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        running = os.uname().nodename.encode()
    return f"{zlib.crc32(running) or 1:08x}"


def _remove_stray(stray: Path, its_kernel: str) -> None:
    """Remove an unfinished file that nobody is at work on. Raises OSError."""
    if its_kernel == kernel() != NOBODY:
        access = os.O_RDONLY if stray.is_dir() else os.O_RDWR
        descriptor = os.open(stray, access | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if _hold(descriptor):
                _remove(stray)
        finally:
            os.close(descriptor)
    elif time.time() - stray.lstat().st_mtime > ABANDONED:
        _remove(stray)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; what is not there is no error. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hold(descriptor: int) -> bool | None:
    """Whether the lock of an open file is ours now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file has still its name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _short(name: str) -> str:
    """A name, or its beginning and eight digits for the whole where that would be too long for more beside it."""
    if len(whole := os.fsencode(name)) <= LENGTH:
        return name
    while len(os.fsencode(name)) > LENGTH - 9:
        name = name[:-1]
    return f"{name}~{zlib.crc32(whole):08x}"
