"""Files: where those of the package are, their digests, and the one way to write one."""

import hashlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from densenet_port.errors import DiskError

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The folder `mappings` or `weights`: inside an installed package, beside it in a source tree.

    Raises DiskError when the installation lost it.
    """
    for candidate in (PACKAGE / name, PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise DiskError(f"{PACKAGE / name}: not found", hint="reinstall densenet-port: its installation is incomplete")


PIECE = 1 << 23  # bytes hashed at a time


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Read in a few large pieces: beside a busy thread, each piece waits for the interpreter anew.
    """
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                digest.update(piece[:count])
        return digest.hexdigest()
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A unique sibling to write to, synced and renamed to `path` at the end, removed on any failure."""
    with together(path) as (temporary,):
        yield temporary


@contextmanager
def folder(path: Path, last: str) -> Iterator[Path]:
    """A unique sibling folder to write files into; at the end it becomes `path`, and is removed on any failure.

    Where `path` has files already, those of the same names are replaced one by one, the one called `last` in the end,
    whose old one goes before anything else: a process that is killed in between leaves a folder without it. Raises
    DiskError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_strays(path)
        temporary = _sibling(path)
        temporary.mkdir()
        try:
            yield temporary
            files = sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name))
            for file in files:
                _sync(file)
            if path.is_dir() and any(path.iterdir()):
                (path / last).unlink(missing_ok=True)
                for file in files:
                    file.replace(path / file.name)
            else:
                temporary.replace(path)  # an empty folder gives way
        except DiskError as error:  # of whoever wrote into it
            raise DiskError(error.message.replace(str(temporary), str(path)), hint=error.hint) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def together(path: Path, *companions: Path) -> Iterator[tuple[Path, ...]]:
    """Unique siblings to write a file and its companions to; at the end all take their places, on any failure none.

    All are written and synced before the first is renamed. A process that is killed between the renames leaves `path`,
    the old or the new one, without companions: the old ones go first, `path` is replaced in one step, the new ones come
    last. So no new file ever stands beside an old one, and a file alone is read as what it is, where one beside
    another's companion would be read as something else. What else a killed process leaves, the next writer of the
    same file removes. Two writers of one file do not mix its bytes; the last one has it. Raises DiskError.
    """
    places = (path, *companions)
    new: dict[Path, Path] = {}
    try:
        for place in places:
            _remove_strays(place)
            new[place] = _sibling(place)
            new[place].touch(exist_ok=False)
        yield tuple(new.values())
        for temporary in new.values():
            _sync(temporary)
        _bring_in(new)
    except OSError as error:
        names = " and ".join(map(str, places))
        raise DiskError(f"{names}: cannot be written: {error.strerror or error}") from error
    finally:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the file's bytes on the disk before its name is."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _bring_in(new: Mapping[Path, Path]) -> None:
    """Rename each temporary to its place, in the order that `together` tells; a failure is undone."""
    path, *companions = new
    old: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for companion in filter(Path.exists, companions):
            old[companion] = companion.replace(_sibling(companion))
        if companions and path.exists():
            old[path] = _second_name(path)
        for place, temporary in new.items():
            temporary.replace(place)
            placed.append(place)
    except BaseException:
        for place in placed:
            if place not in old:
                place.unlink()
        for place, kept in reversed(old.items()):
            kept.replace(place)
            kept.unlink(missing_ok=True)  # two names of one file stay two when one is renamed to the other
        raise
    for kept in old.values():
        with suppress(OSError):  # the next writer removes it
            kept.unlink()


def _second_name(path: Path) -> Path:
    """Another name for a file; a copy where the file system gives only one."""
    kept = _sibling(path)
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept)
    return kept


# -- names of unfinished files -----------------------------------------------------------------------------------------

STALE = 24 * 3600  # seconds after which nobody writes an unfinished file any more


def _sibling(path: Path) -> Path:
    """A name beside a path that nobody else has: `.<name>.<machine>-<process>-<random>`."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{os.urandom(4).hex()}")


def _machine() -> str:
    """Eight digits for this machine or container; others may write to the same folder.

    Where a system does not tell its name, nobody asks for its processes either (`_is_alive`).
    """
    host = os.uname().nodename if hasattr(os, "uname") else ""
    return f"{zlib.crc32(host.encode()):08x}"


def _remove_strays(path: Path) -> None:
    """Remove what killed processes left beside a path.

    That is whatever `_sibling` named on this machine for a process that is gone, and on any for one that has not
    touched it for a day. A file that somebody is writing stays.
    """
    spelled = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-([0-9]{{1,9}})-[0-9a-f]{{8}}")
    for stray in path.parent.iterdir() if path.parent.is_dir() else ():
        if match := spelled.fullmatch(stray.name):
            gone = match[1] == _machine() and not _is_alive(int(match[2]))
            with suppress(OSError):  # somebody else removed it, or must
                if gone or time.time() - stray.lstat().st_mtime > STALE:
                    shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def _is_alive(process: int) -> bool:
    """Whether a process of this machine runs; taken for granted where asking would be a signal."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
