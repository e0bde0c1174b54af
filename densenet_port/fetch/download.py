"""One file, downloaded whole and right or not at all.

What arrives goes to `.NAME.<random>.part` beside the file's place and is renamed once everything that is known of it
holds: its size, its SHA-256 or the beginning of one, its MD5, and the SHA-256 of each chunk. A chunk that arrives wrong
is asked for again. `.NAME.<random>.part.json` keeps where the bytes come from: URL, validator (a strong ETag, else
Last-Modified) and length.

A broken or killed download leaves both, and the next goes on from there with Range and If-Range: what is there is
hashed again, and cut back to the last chunk that is right. Without chunks it goes on only where a validator proves that
the server still has the same file. Only one process may download a file at a time: `cache.obtain` sees to that.
"""

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_port.errors import DiskError, NetworkError
from densenet_port.fetch import http as web
from densenet_port.fetch.http import LIMITS, Again, Limits
from densenet_port.fetch.partial import Digests, Part, Wanted, WrongChunk, new, note_of, on_disk, opened, unfinished

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Progress = Callable[[int, int], None]  # bytes done, bytes in all or 0

LARGEST = 1 << 30  # bytes of a file whose size is not known: no DenseNet has more
ENOUGH = 1 << 20  # bytes after which a lost connection is no failure in a row
WRONG = 2  # times that the same chunk, or the whole file, may come wrong before it is an error
WHOLE = -1  # in place of a chunk's number
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
OFFLINE = ("DENSENET_PORT_OFFLINE", "HF_HUB_OFFLINE")


def silent(_done: int, _total: int) -> None:
    """Tell nobody."""


def offline() -> str | None:
    """The variable that forbids downloads, if one does: DENSENET_PORT_OFFLINE, or Hugging Face's own."""
    return next(
        (name for name in OFFLINE if os.environ.get(name, "").lower() not in {"", "0", "off", "no", "false"}), None
    )


def download(wanted: Wanted, path: Path, *, limits: Limits = LIMITS, progress: Progress = silent) -> Digests:
    """Bring a file to its path, whatever stands there, and say what it is.

    `progress` is told bytes done and bytes in all, 0 where the server does not say. Raises NetworkError when it does
    not arrive whole and right, DiskError when it cannot be written; then nothing new stands at `path`.
    """
    if variable := offline():
        raise NetworkError(f"{wanted.url} is not downloaded: {variable} is set", hint=f"unset {variable}, or bring it")
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = unfinished(path) or new(path)
        with opened(place) as file:
            transfer = _Transfer(wanted, Part(file, wanted), note_of(place), limits, progress)
            found = transfer.run()
            os.fsync(file.fileno())
        note_of(place).unlink(missing_ok=True)
        place.replace(path)
    return found


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the bytes of a part come from: URL, validator or "", and the whole file's length if it was told."""

    url: str
    validator: str = ""
    total: int | None = None

    @property
    def plausible(self) -> bool:
        """Whether a note that was read says what a note can say."""
        text = isinstance(self.validator, str) and self.validator.isascii() and self.validator.isprintable()
        return text and (self.total is None or type(self.total) is int)


class _Transfer:
    """The requests that complete a part."""

    def __init__(self, wanted: Wanted, part: Part, note: Path, limits: Limits, progress: Progress) -> None:
        self.wanted, self.part, self.note, self.limits, self.progress = wanted, part, note, limits, progress
        self.origin = self._noted()
        self.wrong: Counter[int] = Counter()  # chunk → times that it came wrong

    def run(self) -> Digests:
        """Ask until everything is there and right, or until it is no use."""
        failures, most = 0, self.part.size
        while (found := self._done()) is None:
            try:
                self._once()
            except WrongChunk as error:
                self._mend(error.number, self._about(error.number))
            except Again as error:
                failures = 0 if self.part.size - most >= ENOUGH else failures + 1
                most = max(most, self.part.size)
                self._wait(error, failures)
        return found

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, where they are known or were told."""
        return self.origin.total if self.wanted.size is None else self.wanted.size

    def _done(self) -> Digests | None:
        """What the file is, when it is all there; a whole file that is wrong is asked for again."""
        if self.part.size != self.total:
            return None
        found = self.part.all.digests()
        if (misfit := self.wanted.misfit(found)) is None:
            return found
        self._restart()
        self._mend(WHOLE, misfit)
        return None

    def _mend(self, number: int, fault: str) -> None:
        """Once more, but not for ever."""
        self.wrong[number] += 1
        if self.wrong[number] >= WRONG:
            raise NetworkError(
                f"{self.wanted.url}: {fault}", hint="what is hosted there is not the file that was meant"
            )

    def _about(self, number: int) -> str:
        first = number * self.wanted.chunk_size
        last = min(first + self.wanted.chunk_size, self.wanted.size or 0) - 1
        return f"bytes {first} to {last} do not hash to what is known of them"

    def _wait(self, error: Again, failures: int) -> None:
        """Before the next try; after the last one, an error."""
        if failures >= self.limits.tries:
            told = f"{self.wanted.url} cannot be downloaded ({error}; tried {failures} times)"
            raise NetworkError(told) from error
        backoff = self.limits.backoff * 2 ** max(failures - 1, 0) * random.uniform(0.5, 1)  # noqa: S311 (no secret)
        time.sleep(backoff if error.wait is None else error.wait)

    def _once(self) -> None:
        """One request, and what comes of it."""
        start = self._start()
        with closing(web.get(self.wanted.url, self._headers(start), limits=self.limits)) as response:
            self._accept(response, start)
            for piece in web.pieces(response, self.limits):
                self._refuse_more(self.part.size + len(piece))
                self.part.add(piece)
                self.progress(self.part.size, self.total or 0)
        self._ended()

    def _start(self) -> int:
        """The byte to go on from: the end of the part where the server can be told which file it is of, else 0."""
        if not (self.wanted.chunks or self.origin.validator):
            self.part.restart()
        return self.part.size

    def _headers(self, start: int) -> dict[str, str]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self.origin.validator:
            headers["If-Range"] = self.origin.validator
        return headers

    def _accept(self, response: "BaseHTTPResponse", start: int) -> None:
        """Look at an answer before its body: whether it is the file, which part of it, and whether its length fits."""
        if response.status == 416:  # noqa: PLR2004 (range not satisfiable: the file is shorter than the part)
            self._forget("the server has no bytes there")
        self._refuse_strangers(response.headers)
        first, total = _span(response)
        validator = _validator(response.headers)
        if first not in (0, start):
            raise NetworkError(f"{self.wanted.url}: expected bytes from {start} on, found from {first} on")
        if first and self.origin.validator not in ("", validator):
            self._forget("the file changed on the server")
        if start and not first:
            self.part.restart()
        self._refuse_misfit(total)
        self._remember(_Origin(self.wanted.url, validator, total))

    def _refuse_strangers(self, headers: Mapping[str, str]) -> None:
        """Neither a compressed body, whose bytes are other ones, nor a page for people."""
        if (encoding := headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise NetworkError(f"{self.wanted.url}: expected the file as it is, found it encoded ({encoding})")
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            raise NetworkError(
                f"{self.wanted.url}: expected a weight file, found a web page",
                hint="does this network want a login first?",
            )

    def _refuse_misfit(self, total: int | None) -> None:
        """Known sizes are compared before the first byte, and so is the disk's room."""
        if total is None:
            return
        if self.wanted.size not in (None, total):
            raise NetworkError(f"{self.wanted.url}: expected {self.wanted.size} bytes, the server announces {total}")
        self._refuse_more(total)
        missing, free = total - self.part.size, shutil.disk_usage(self.note.parent).free
        if missing > free:
            hint = "make room, or set DENSENET_PORT_CACHE to another folder"
            raise DiskError(f"{self.note.parent}: {missing} bytes are to come, {free} are free", hint=hint)

    def _refuse_more(self, size: int) -> None:
        most = LARGEST if self.wanted.size is None else self.wanted.size
        if size > most:
            raise NetworkError(f"{self.wanted.url}: expected at most {most} bytes, found more")

    def _ended(self) -> None:
        """Compare the body's end with the file's; where no length was told, they are the same."""
        if self.total is not None and self.part.size < self.total:
            raise Again(f"the connection ended after {self.part.size} of {self.total} bytes")
        self.origin = replace(self.origin, total=self.part.size)

    def _forget(self, reason: str) -> None:
        self._restart()
        raise Again(reason)

    def _restart(self) -> None:
        """Drop the bytes, and where they came from."""
        self.part.restart()
        self._remember(_Origin(self.wanted.url))

    def _remember(self, origin: _Origin) -> None:
        if origin != self.origin:
            self.note.write_text(json.dumps(asdict(origin)), encoding="utf-8")
        self.origin = origin

    def _noted(self) -> _Origin:
        """The note, if it is readable and of the same URL."""
        with suppress(OSError, ValueError, TypeError):
            origin = _Origin(**json.loads(self.note.read_text(encoding="utf-8")))
            if origin.url == self.wanted.url and origin.plausible:
                return origin
        return _Origin(self.wanted.url)


def _span(response: "BaseHTTPResponse") -> tuple[int, int | None]:
    """The first byte that an answer brings, and how many the whole file has, if it says so."""
    headers = response.headers
    if response.status == 206:  # noqa: PLR2004 (partial content)
        found = RANGE.fullmatch(headers.get("Content-Range", ""))
        if not found:
            raise Again(f"a partial answer without its range ({headers.get('Content-Range')})")
        return int(found[1]), int(found[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and "Transfer-Encoding" not in headers else None


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range may name: a strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
