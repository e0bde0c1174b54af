"""One file, downloaded whole and right or not at all.

What arrives goes to `.NAME.part` beside the file's place and is renamed once everything that is known of it holds: its
size, its SHA-256 or the beginning of one, its MD5. `.NAME.part.json` keeps where the bytes come from: URL, validator (a
strong ETag, else Last-Modified) and length.

A broken or killed download leaves both, and the next goes on from there with Range and If-Range, if a validator proves
that the server still has the same file, or if the whole SHA-256 is known: then a file of two halves is noticed at its
end. A whole file that is wrong is fetched once more, from its first byte. Only one process may download a file at a
time: `cache.obtain` sees to that.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_port.errors import DiskError, NetworkError
from densenet_port.fetch import http
from densenet_port.fetch.http import POLICY, Retries, RetryableError, RetryPolicy
from densenet_port.fetch.partial import Digests, Expected, HashedFile, disk_errors, note_path, opened, partial_path

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Progress = Callable[[int, int], None]  # bytes done, bytes in all or 0

LARGEST = 1 << 30  # bytes of a file whose size is not known: no DenseNet has more
PROGRESS = 1 << 20  # bytes after which a lost connection is no failure in a row
MISMATCHES = 2  # times that the whole file may come wrong before it is an error
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
OFFLINE = ("DENSENET_PORT_OFFLINE", "HF_HUB_OFFLINE")
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


def ignore_progress(_done: int, _total: int) -> None:
    """Show no progress: what is called with bytes done and bytes in all where nobody asked to be."""


def offline() -> str | None:
    """The variable that forbids downloads, DENSENET_PORT_OFFLINE or Hugging Face's own; None where neither does."""
    for name in OFFLINE:
        if os.environ.get(name, "").lower() not in {"", "0", "off", "no", "false"}:
            return name
    return None


def download(
    expected: Expected, path: Path, *, policy: RetryPolicy = POLICY, progress: Progress = ignore_progress
) -> Digests:
    """Bring a file to its path, whatever stands there; its size and digests.

    `progress` is called with bytes done and bytes in all, 0 where the server does not say. Raises NetworkError when the
    file does not arrive whole and right, DiskError when it cannot be written; then nothing new stands at `path`.
    """
    if variable := offline():
        raise NetworkError(f"{expected.url} is not downloaded: {variable} is set", hint=f"unset {variable}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened(path) as file:
            partial = HashedFile(file, with_md5=bool(expected.md5))
            digests = _Transfer(expected, partial, note_path(path), policy, progress).run()
            os.fsync(file.fileno())
        note_path(path).unlink(missing_ok=True)
        partial_path(path).replace(path)
    return digests


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the bytes of a partial file come from: URL, validator or "", and the whole file's length if it is known."""

    url: str
    validator: str = ""
    total: int | None = None

    @property
    def plausible(self) -> bool:
        """Whether a note that was read says what a note can say."""
        text = isinstance(self.validator, str) and self.validator.isascii() and self.validator.isprintable()
        return text and (self.total is None or type(self.total) is int)


class _Transfer:
    """The requests that complete a partial file."""

    def __init__(
        self, expected: Expected, partial: HashedFile, note: Path, policy: RetryPolicy, progress: Progress
    ) -> None:
        self.expected, self.partial, self.note = expected, partial, note
        self.policy, self.progress = policy, progress
        self.origin = self._read_note()
        self.mismatches = 0  # times that the whole file came wrong
        if expected.size is not None and partial.size > expected.size:
            partial.restart()

    def run(self) -> Digests:
        """Ask until everything is there and right, or until it is no use."""
        retries, reached = self._retries(), self.partial.size
        while (digests := self._complete()) is None:
            try:
                self._request()
            except RetryableError as error:
                if self.partial.size - reached >= PROGRESS:
                    retries = self._retries()
                else:
                    retries.pause(error)
                reached = max(reached, self.partial.size)
        return digests

    def _retries(self) -> Retries:
        return Retries(self.policy, f"{self.expected.url} cannot be downloaded")

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, where they are known or the server said so."""
        return self.origin.total if self.expected.size is None else self.expected.size

    def _complete(self) -> Digests | None:
        """Size and digests of the file, once it is there and right; a whole file that is wrong is dropped, once."""
        if self.partial.size != self.total:
            return None
        digests = self.partial.digests()
        mismatch = self.expected.mismatch(digests)
        if mismatch is None:
            return digests
        self._restart()
        self.mismatches += 1
        if self.mismatches >= MISMATCHES:
            hint = "what is hosted there is not the file that was meant"
            raise NetworkError(f"{self.expected.url}: {mismatch}", hint=hint)
        return None

    def _request(self) -> None:
        """One request, and what comes of it."""
        if not (self.expected.pinned or self.origin.validator):
            self.partial.restart()
        start = self.partial.size
        with closing(http.get(self.expected.url, self._headers(start), policy=self.policy)) as response:
            self._accept(response, start)
            for piece in http.pieces(response, self.policy):
                self._refuse_more(self.partial.size + len(piece))
                self.partial.append(piece)
                self.progress(self.partial.size, self.total or 0)
        if self.total is not None and self.partial.size < self.total:
            raise RetryableError(f"the connection ended after {self.partial.size} of {self.total} bytes")
        self.origin = replace(self.origin, total=self.partial.size)  # where no length was announced, it is this

    def _headers(self, start: int) -> dict[str, str]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self.origin.validator:
            headers["If-Range"] = self.origin.validator
        return headers

    def _accept(self, response: "BaseHTTPResponse", start: int) -> None:
        """Look at an answer before its body: whether it is the file, which part of it, and whether its length fits."""
        if response.status == RANGE_NOT_SATISFIABLE:  # the file is shorter than what is here
            self._start_over("the server has no bytes there")
        self._refuse_other_content(response.headers)
        first, total = _span(response)
        validator = _validator(response.headers)
        if first not in (0, start):
            raise NetworkError(f"{self.expected.url}: expected bytes from {start} on, found from {first} on")
        if first and self.origin.validator not in ("", validator):
            self._start_over("the file changed on the server")
        if start and not first:
            self.partial.restart()
        if total is not None:
            self._refuse_length(total)
        self._remember(_Origin(self.expected.url, validator, total))

    def _refuse_other_content(self, headers: Mapping[str, str]) -> None:
        """Neither a compressed body, whose bytes are other ones, nor a page for people."""
        if (encoding := headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise NetworkError(f"{self.expected.url}: expected the file as it is, found it encoded ({encoding})")
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            hint = "does this network want a login first?"
            raise NetworkError(f"{self.expected.url}: expected a weight file, found a web page", hint=hint)

    def _refuse_length(self, total: int) -> None:
        """Compare the announced length with what is known, and with the disk's room, before the first byte."""
        if self.expected.size not in (None, total):
            message = f"expected {self.expected.size} bytes, the server announces {total}"
            raise NetworkError(f"{self.expected.url}: {message}")
        self._refuse_more(total)
        missing, free = total - self.partial.size, shutil.disk_usage(self.note.parent).free
        if missing > free:
            hint = "make room, or set DENSENET_PORT_CACHE to another folder"
            raise DiskError(f"{self.note.parent}: {missing} bytes are to come, {free} are free", hint=hint)

    def _refuse_more(self, size: int) -> None:
        most = LARGEST if self.expected.size is None else self.expected.size
        if size > most:
            raise NetworkError(f"{self.expected.url}: expected at most {most} bytes, found more")

    def _start_over(self, reason: str) -> None:
        self._restart()
        raise RetryableError(reason)

    def _restart(self) -> None:
        """Drop the bytes, and where they came from."""
        self.partial.restart()
        self._remember(_Origin(self.expected.url))

    def _remember(self, origin: _Origin) -> None:
        if origin != self.origin:
            self.note.write_text(json.dumps(asdict(origin)), encoding="utf-8")
        self.origin = origin

    def _read_note(self) -> _Origin:
        """Where the bytes come from as the note has it, if it is readable and of the same URL."""
        with suppress(OSError, ValueError, TypeError):
            origin = _Origin(**json.loads(self.note.read_text(encoding="utf-8")))
            if origin.url == self.expected.url and origin.plausible:
                return origin
        return _Origin(self.expected.url)


def _span(response: "BaseHTTPResponse") -> tuple[int, int | None]:
    """The first byte that an answer brings, and how many the whole file has; None where it does not say."""
    headers = response.headers
    if response.status == PARTIAL_CONTENT:
        match = RANGE.fullmatch(headers.get("Content-Range", ""))
        if not match:
            raise RetryableError(f"a partial answer without its range ({headers.get('Content-Range')})")
        return int(match[1]), int(match[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and "Transfer-Encoding" not in headers else None


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range may name: a strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
