"""Files: where those of the package are, their digests, and the one way to write one."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from densenet_port import strays
from densenet_port.errors import DiskError
from densenet_port.strays import Unfinished

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


def sha256(data: bytes | memoryview) -> str:
    """The SHA-256 of bytes, in hex. Raises MemoryError where OpenSSL lacks memory."""
    return sha256_of([data])


def sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    """The SHA-256 of bytes that come in pieces, in hex. Raises MemoryError where OpenSSL lacks memory.

    Python has a ValueError of no reason for that, or a SystemError.
    """
    try:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()
    except (ValueError, SystemError) as error:
        raise MemoryError from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Read in a few large pieces: beside a busy thread, each piece waits for the interpreter anew.
    """
    piece = memoryview(bytearray(PIECE))
    try:
        with path.open("rb", buffering=0) as file:
            return sha256_of(piece[:count] for count in iter(partial(file.readinto, piece), 0))
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error


def stem(path: Path) -> str:
    """The name of a file without the endings of any container, of a folder, or of a repository of the Hub."""
    name = re.sub(r"^hf:/+[^/]+/([^/@]+).*", r"\1", path.as_posix()).rpartition("/")[2]
    return re.sub(r"(\.(weights\.h5|h5|hdf5|keras|safetensors|pth\.tar|pth|pt|bin|ckpt|tar))+$", "", name)


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
        strays.remove_strays(path.parent)
        unfinished = strays.begin_folder(path)
        temporary = unfinished.path
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
            unfinished.close()
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_into(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files, name → content, into a folder, made where it is missing: name → path.

    Each appears whole or not at all. Raises DiskError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be made: {error.strerror}", hint="name another folder") from error
    for name, content in contents.items():
        with whole(folder / name) as temporary:
            temporary.write_bytes(content)
    return {name: folder / name for name in contents}


@contextmanager
def together(path: Path, *companions: Path) -> Iterator[tuple[Path, ...]]:
    """Unique siblings to write a file and its companions to; at the end all take their places, on any failure none.

    All are written and synced before the first is renamed. A process that is killed between the renames leaves `path`,
    the old or the new one, without companions: the old ones go first, `path` is replaced in one step, the new ones come
    last. So no new file ever stands beside an old one, and a file alone is read as what it is, where one beside
    another's companion would be read as something else. What else a killed process leaves, the next writer in the same
    folder removes (`strays`). Two writers of one file do not mix its bytes; the last one has it.

    What is replaced keeps its permissions, a new file has those of the umask. A link is written through, to the place
    that it points at. Raises DiskError, before anything is written for a place that no file can have.
    """
    names = " and ".join(map(str, (path, *companions)))
    new: dict[Path, Unfinished] = {}
    try:
        for place in map(_end_of_links, (path, *companions)):
            strays.remove_strays(place.parent)
            new[place] = strays.begin(place, 0o666 if _rights(place) is None else 0o600)
        yield tuple(unfinished.path for unfinished in new.values())
        for place, unfinished in new.items():
            _settle(unfinished.path, _rights(place))
        _bring_in({place: unfinished.path for place, unfinished in new.items()})
    except OSError as error:
        raise DiskError(f"{names}: cannot be written: {error.strerror or error}") from error
    finally:
        for unfinished in new.values():
            unfinished.close()


def _end_of_links(path: Path) -> Path:
    """The place that a path leads to. Raises DiskError where something stands that is no file, OSError for a circle."""
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if place.exists() and not place.is_file():
        kind = "a directory" if place.is_dir() else "a device, a pipe or a socket"
        raise DiskError(f"{path}: cannot be written: is {kind}", hint="name a file")
    return place


def _rights(place: Path) -> int | None:
    """The permissions of the file that is to be replaced; None where there is none."""
    try:
        return place.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def _settle(path: Path, rights: int | None) -> None:
    """Have the file's bytes on the disk before its name is, and its permissions what they were."""
    _sync(path)
    if rights is not None:
        path.chmod(rights)


def _sync(path: Path) -> None:
    """Have the file's bytes on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _bring_in(new: Mapping[Path, Path]) -> None:
    """Rename each temporary to its place, in the order that `together` tells; a failure is undone."""
    path, *companions = new
    old: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for companion in filter(Path.exists, companions):
            old[companion] = companion.replace(_kept(companion))
        if companions and path.exists():
            old[path] = _second_name(path)
        for place, temporary in new.items():
            temporary.replace(place)
            placed.append(place)
    except BaseException:
        _undo(placed, old)
        raise
    for place in new if companions else ():
        strays.remove_old(place)


def _undo(placed: Sequence[Path], old: Mapping[Path, Path]) -> None:
    """Take away what was placed, and put back what stood there. Raises DiskError that says where it lies otherwise."""
    lost: list[str] = []
    for place in placed:
        if place not in old:
            with suppress(OSError):
                place.unlink()
    for place, kept in reversed(list(old.items())):
        try:
            kept.replace(place)
            kept.unlink(missing_ok=True)  # two names of one file stay two when one is renamed to the other
        except OSError as error:
            lost.append(f"{place}: cannot be put back: {error.strerror}; what stood there is in {kept}")
    if lost:
        raise DiskError("\n".join(lost), hint="rename it once the disk allows")


def _kept(place: Path) -> Path:
    """A name for what stood at a place, until the new one is there."""
    return place.with_name(strays.beside(place).name + strays.OLD)


def _second_name(path: Path) -> Path:
    """Another name for a file; a copy where the file system gives only one."""
    kept = _kept(path)
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept)
    return kept
