"""Registered weight files: from the cache, or downloaded, never unverified.

A file is registered in `weights/registry.toml` with its URL and the beginning of its SHA-256. It reaches its place in
the cache only once that matches.
"""

import os
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from densenet_port.arch import Architecture
from densenet_port.checkpoint import file_digest
from densenet_port.data import folder
from densenet_port.errors import DiskError, NetworkError, UsageError

TIMEOUT = 30.0  # seconds without a byte
PIECE = 1 << 18  # bytes read at a time


class Registered(NamedTuple):
    """A known weight file: where it is hosted, and how its SHA-256 begins (lower-case hex)."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def registry() -> dict[tuple[str, str], Registered]:
    """(source, architecture's name) → known file."""
    table = tomllib.loads((folder("weights") / "registry.toml").read_text(encoding="utf-8"))
    return {(source, arch): Registered(**entry) for source, files in table.items() for arch, entry in files.items()}


def cache() -> Path:
    """The cache folder: `DENSENET_PORT_CACHE`, or the platform's own place."""
    if chosen := os.environ.get("DENSENET_PORT_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path  # noqa: PLC0415 (only a download needs it)

    return user_cache_path("densenet-port")


def registered(
    source: str, architecture: Architecture, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Path:
    """The registered file of a source and an architecture, from the cache or downloaded to it.

    `progress` is told bytes done and bytes in all. Raises UsageError when none is registered, NetworkError when it does
    not arrive whole and right, DiskError when the cache cannot be written.
    """
    known = registry()
    entry = known.get((source, architecture.name))
    if entry is None:
        names = ", ".join(f"{where} {arch}" for where, arch in known)
        raise UsageError(
            f"no weight file is registered for {source} {architecture.name}",
            hint=f"registered: {names}; or pass a file of your own",
        )
    path = cache() / entry.name
    if path.is_file() and file_digest(path).startswith(entry.sha256):
        return path
    _download(entry, path, progress)
    return path


def _download(entry: Registered, path: Path, progress: Callable[[int, int], None]) -> None:
    """Bring a file to its place by way of a temporary sibling, once its digest is right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}", hint="set DENSENET_PORT_CACHE") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _receive(entry, file.write, progress)
            file.flush()
            os.fsync(file.fileno())
        if not (found := file_digest(temporary)).startswith(entry.sha256):
            raise NetworkError(f"{entry.url}: expected a SHA-256 of {entry.sha256}…, found {found}", hint="try again")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _receive(entry: Registered, write: Callable[[bytes], int], progress: Callable[[int, int], None]) -> None:
    """Read a URL to its end, piece by piece."""
    from http.client import HTTPException  # noqa: PLC0415 (only a download needs it)
    from urllib.request import Request, urlopen  # noqa: PLC0415 (only a download needs it)

    request = Request(entry.url, headers={"User-Agent": "densenet-port"})  # noqa: S310 (https, from our registry)
    try:
        with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 (https, from our registry)
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while piece := answer.read(PIECE):
                _store(entry, piece, write)
                done += len(piece)
                progress(done, total)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NetworkError(
            f"{entry.url} cannot be downloaded ({reason})",
            hint=f"pass the file: densenet-port convert {entry.name}; or put it into {cache()}",
        ) from error
    if total and done != total:
        raise NetworkError(f"{entry.url}: expected {total} bytes, received {done}", hint="try again")


def _store(entry: Registered, piece: bytes, write: Callable[[bytes], int]) -> None:
    """Write a piece, so that a full disk is not taken for a lost connection."""
    try:
        write(piece)
    except OSError as error:
        raise DiskError(f"{cache() / entry.name}: cannot be written: {error.strerror}") from error
