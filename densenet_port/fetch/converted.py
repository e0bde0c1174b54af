"""A fetched file in our own layout: made once, when it is first called for, and cached beside the original.

It is used as it lies there while three things hold: the cache's record knows its bytes, the file says that this very
version made it by today's tables, and its source is the one that is called for. Else it is made again, of the original
that the cache keeps, and a line on stderr says why. It takes its place whole, and its record comes after it: what a
killed process left has none, and is made again too.

What converts is handed in, because this room is below the one that can.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from densenet_port import formats
from densenet_port.about import TOOL
from densenet_port.errors import CorruptError, PortError
from densenet_port.fetch import cache
from densenet_port.fetch.partial import Expected, digests_of, disk_errors
from densenet_port.formats.record import differing
from densenet_port.layouts.layout import Layout

Port = Callable[[Path, str, Path], None]  # a file, its layout, and where its network is to be written in ours
ENDING = ".weights.h5"
log = logging.getLogger("densenet_port")


def place(original: Path) -> Path:
    """Where the conversion of a file in the cache lies."""
    return original.with_name(original.stem + ENDING)


def known(original: Expected, path: Path) -> Expected:
    """What a conversion must be: the bytes that were recorded when it was made."""
    record = cache.read(path)
    return Expected(url=original.url, sha256=record.sha256 if record else "")


def obtain(original: Expected, path: Path, layout: str, *, fetch: Callable[[], Path], port: Port) -> Path:
    """The conversion of a file, from its place in the cache, or made there, once for all processes that ask.

    `fetch` gives the original, in `layout`, and is called only where the conversion must be made. Raises what `fetch`
    and `port` raise, and CorruptError when what was written does not read back.
    """
    if _fault(original, path) is None:
        return path
    with cache.locked(path):
        fault = _fault(original, path)
        if fault is None:  # another process made it
            return path
        if path.exists():
            log.warning("%s %s: it is made again", path, fault)
        port(fetch(), layout, path)
        if wrong := differing(formats.as_it_is(path)):
            raise CorruptError(f"{path}: does not read back as it was written\n  {wrong[0]}", hint="is the disk well?")
        with disk_errors(path, "read", "mend its rights"):
            cache.remember(path, original.url, digests_of(path))
    return path


def _fault(original: Expected, path: Path) -> str | None:
    """Why the file that lies there is not to be used, in words that follow its name; None where it is."""
    with disk_errors(path, "read", "mend its rights"):
        if not path.is_file():
            return "is not there"
        record = cache.read(path)
        if record is None:
            return "was not finished"
        is_held = record.holds(path)
    if not is_held and (finding := cache.examine(known(original, path), path)).state != "right":
        return f"is damaged ({finding.fault})"
    return _age(original, path)


def _age(original: Expected, path: Path) -> str | None:
    """How a conversion differs from the one that would be made today, by its own record; None where it does not."""
    try:
        record = formats.read(path).record or {}
        if record["tool"] != TOOL:
            return f"was made by {record['tool']}, and this is {TOOL}"
        for layout, digest in record["mappings"].items():
            if Layout.load(layout).digest != digest:
                return f"was made by another table for {layout}"
        if not record["source"]["sha256"].startswith(original.sha256):
            return f"was made of a file whose SHA-256 is {record['source']['sha256']}"
    except (PortError, KeyError, TypeError, AttributeError):
        return "does not say what it was made of"
    return None
