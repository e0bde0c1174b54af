"""What of the known files is in the cache: listed, hashed, brought by hand, and thrown away.

Only what has a name (`fetch.known`) is looked at. Other people's files in the same folder are none of our business.
"""

import shutil
from pathlib import Path
from typing import Any

from densenet_port.errors import CorruptError, DiskError
from densenet_port.fetch import cache
from densenet_port.fetch.partial import Digests, digests_of
from densenet_port.fetch.registry import Known, known, release_folders


def held() -> list[Known]:
    """The known files that are there."""
    return [entry for entry in known() if entry.path.is_file()]


def entry_of(path: Path) -> Known:
    """Whose a file in the cache is."""
    return next(entry for entry in known() if entry.path == path)


def told(entry: Known) -> dict[str, Any]:
    """A cached file as JSON: `sha256` as last hashed, null where it never was; `known_by` as in `Known`."""
    record = cache.read(entry.path)
    return {
        "file": entry.path.name,
        "source": entry.source,
        "arch": entry.arch,
        "path": str(entry.path),
        "bytes": entry.path.stat().st_size,
        "sha256": record.digests.sha256 if record else None,
        "known_by": entry.known_by,
        "url": record.url if record else entry.wanted.url,
    }


def verified(entry: Known) -> dict[str, Any]:
    """A cached file as JSON, all of it hashed anew, with its `state` and `fault`."""
    finding = cache.examine(entry.wanted, entry.path)
    return {**told(entry), "state": finding.state, "fault": finding.fault}


def brought(file: Path) -> Known:
    """Copy a file that was brought by hand to its place, whatever it is called; what it is, its digests say.

    Raises DiskError when it cannot be read, CorruptError when no known file has its digests.
    """
    try:
        found = digests_of(file, with_md5=True)
    except OSError as error:
        raise DiskError(f"{file}: cannot be read: {error.strerror}", hint="is the path right?") from error
    for entry in known():
        if entry.known_by != "first use" and entry.wanted.misfit(found) is None:
            cache.bring(file, entry.wanted, entry.path)
            return entry
    raise CorruptError(f"{file}: {_stranger(file, found)}", hint="densenet-port doctor lists what is registered")


def pruned(*, everything: bool) -> list[Path]:
    """Remove what killed downloads left; with `everything`, all that was fetched and what was recorded of it too."""
    entries = known()
    removed = [path for entry in entries for path in cache.tidy(entry.path)]
    for entry in entries if everything else ():
        if entry.path.is_file():
            cache.forget(entry.path)
            removed.append(entry.path)
    for folder in release_folders() if everything else ():
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def _stranger(file: Path, found: Digests) -> str:
    """Why a file is none of the known ones: by its name, if that is known."""
    same = next((entry for entry in known() if entry.path.name == file.name), None)
    misfit = same and same.wanted.misfit(found)
    return misfit or f"no known file has its SHA-256, {found.sha256}"
