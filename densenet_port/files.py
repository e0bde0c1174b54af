"""Files: where those of the package are, their digests, and the one way to write one."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the file's bytes on the disk before its name is."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """The process's mask, which a temporary file does not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
