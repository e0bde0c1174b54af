"""A client of GitHub's REST API: one token, one host, patience.

- A list comes in pages, the next one named by the `Link` header.
- 403 and 429 are rate limits when `retry-after` is there, `x-ratelimit-remaining` is 0, or the message says so: then
  one waits as long as told, or a minute, then two … Requests that change something come a second apart.
  https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
- What needs a token and has none, or the wrong one, is 401, 403 or, so that nobody learns what is private, 404.

The token goes to the API and to the host that it names for uploads, in a header, and nowhere else: redirects, which a
renamed repository gives, are followed on the same host alone. No message holds the token, whatever a server sends.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from densenet_port.errors import NetworkError, UsageError
from densenet_port.fetch.http import AGENT, POLICY, connection_pool, on_loopback

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

VERSION = "2022-11-28"
TOKEN = re.compile(r"[!-~]+")
NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
PAGES = 100  # of a hundred entries each
HOPS = 3
ANSWER = 16 * 2**20  # bytes of an answer that are read
MINUTE = 60.0
UPLOAD = 300.0  # seconds that an upload may take to be answered
OK, GONE, TAKEN, BROKEN = 300, 404, 422, 500  # below, at, at, from here on
HINTS = {
    401: "GITHUB_TOKEN or GH_TOKEN is not a token that is valid now",
    403: "the token may not do this: it needs the right to write the repository's contents",
    404: "is the repository spelled right, and may the token see it?",
}


class Again(Exception):  # noqa: N818 (what to do next, not an error that anyone is shown)
    """Nobody knows whether a request was carried out: the connection broke, or the server did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a request is tried that broke (`tries`, the pauses double), and how long limits are waited for."""

    tries: int = 5
    pause: float = 1.0
    longest: float = 900.0
    between: float = 1.0  # seconds between requests that change something


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, its headers (their case does not matter), and its JSON, or None."""

    status: int
    headers: Mapping[str, str]
    content: Any

    @property
    def taken(self) -> bool:
        """Whether a name was refused because something else has it."""
        errors = self.content.get("errors") if isinstance(self.content, dict) else None
        codes = [entry.get("code") for entry in errors or [] if isinstance(entry, dict)]
        return self.status == TAKEN and "already_exists" in codes


@dataclass(slots=True, kw_only=True)
class Rest:
    """The API at `api`; `token` may be "" where nothing is changed."""

    api: str
    token: str = field(default="", repr=False)
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep
    changed: float = field(default=float("-inf"), init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a token or an address that no request should be made with."""
        if self.token and not TOKEN.fullmatch(self.token):
            raise UsageError("the token in GITHUB_TOKEN or GH_TOKEN holds blanks or other characters that no token has")
        self.api = allowed(self.api, "GITHUB_API_URL").rstrip("/")

    def pages(self, path: str) -> Iterator[Any]:
        """The entries of a list, page by page."""
        here = f"{self.api}/{path}?per_page=100"
        for _ in range(PAGES):
            answer = self.get(here)
            if answer.status == GONE:
                raise self.refused(answer, place(here))
            if not isinstance(answer.content, list):
                raise _strange(here)
            yield from answer.content
            following = NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            here = self._same_host(here, following[1])

    def get(self, url: str) -> Answer:
        """The answer to a GET; one of status 404 is an answer too."""
        return self.retried(lambda: self._ask("GET", url, None))

    def change(self, method: str, url: str, body: Any = None) -> Answer:
        """The answer to a request that changes something, not too soon after the last one.

        `body` is a file's path, or what becomes JSON. An answer of status 404, or of a taken name, is one too. Raises
        Again when nobody knows whether it was carried out, NetworkError when it was refused.
        """
        if not self.token:
            hint = "set GITHUB_TOKEN or GH_TOKEN to a token that may write the repository's contents"
            raise UsageError("a release cannot be changed without a token", hint=hint)
        early = self.changed + self.patience.between - time.monotonic()
        if early > 0 and not on_loopback(urlsplit(url)):
            self.sleep(early)
        try:
            return self._ask(method, url, body)
        finally:
            self.changed = time.monotonic()

    def retried(self, ask: Callable[[], Answer]) -> Answer:
        """What another try gives where one broke, a few times; for what may be carried out twice."""
        for number in range(self.patience.tries):
            try:
                return ask()
            except Again as error:
                told = str(error)
                self.sleep(self.patience.pause * 2**number)
        raise NetworkError(f"{told} (tried {self.patience.tries} times)", hint="run it again: it goes on")

    def refused(self, answer: Answer, what: str) -> NetworkError:
        """The error for an answer that was not meant: the server's own words, and what to do."""
        return NetworkError(f"{what}: {self._told(answer)}", hint=HINTS.get(answer.status))

    def _ask(self, method: str, url: str, body: Any) -> Answer:
        """One answer. Rate limits are waited for."""
        waited, number = 0.0, 0
        while (wait := _limit(answer := self._followed(method, url, body), number)) is not None:
            waited, number = waited + wait, number + 1
            if waited > self.patience.longest or number > self.patience.tries:
                told = f"{place(url)}: rate limit: {self._told(answer)}"
                raise NetworkError(told, hint=f"run it again in {wait:.0f} s: it goes on")
            self.sleep(wait)
        if answer.status >= BROKEN:
            raise Again(f"{place(url)}: {self._told(answer)}")
        if answer.status < OK or answer.status == GONE or answer.taken:
            return answer
        raise self.refused(answer, f"{method} {place(url)}")

    def _followed(self, method: str, url: str, body: Any) -> Answer:
        """The answer at the end of redirects."""
        here = url
        for _ in range(HOPS + 1):
            answer = self._once(method, here, body)
            again = answer.status in (307, 308) or (answer.status in (301, 302) and method == "GET")
            if not again or "Location" not in answer.headers:
                return answer
            here = self._same_host(here, urljoin(here, answer.headers["Location"]))
        raise NetworkError(f"{place(url)}: more than {HOPS} redirects")

    def _same_host(self, here: str, there: str) -> str:
        """Another URL of the same host: the token goes to no other."""
        if urlsplit(there)[:2] != urlsplit(here)[:2]:
            raise NetworkError(f"{place(here)} leads to another host, {self._clean(place(there))}")
        return there

    def _once(self, method: str, url: str, body: Any) -> Answer:
        """One request, one answer."""
        from urllib3 import Timeout  # noqa: PLC0415 (only a release needs it)
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 (as above)

        timeout = Timeout(connect=POLICY.connect, read=UPLOAD if isinstance(body, Path) else POLICY.read)
        headers = {"User-Agent": AGENT, "Accept": "application/vnd.github+json", "X-GitHub-Api-Version": VERSION}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with _sent(body, headers) as content:
            try:
                response = connection_pool(url).request(
                    method, url, body=content, headers=headers, redirect=False, timeout=timeout, preload_content=False
                )
                return _read(response, url)
            except HTTPError as error:
                raise Again(self._clean(f"{place(url)}: {error}")) from None

    def _told(self, answer: Answer) -> str:
        """The server's own words, cleaned."""
        content = answer.content if isinstance(answer.content, dict) else {}
        errors: list[Any] = content["errors"] if isinstance(content.get("errors"), list) else []
        words = [entry.get("message") or entry.get("code") for entry in errors if isinstance(entry, dict)]
        return self._clean(
            ": ".join(str(word) for word in (f"HTTP {answer.status}", content.get("message"), *words) if word)
        )

    def _clean(self, text: str) -> str:
        """A text without the token, on one line, without what could command a terminal."""
        hidden = text.replace(self.token, "***") if self.token else text
        return "".join(sign if sign.isprintable() else " " for sign in hidden)[:300]


def allowed(url: str, name: str) -> str:
    """The URL, if a token may go there: https, or http on loopback. Raises UsageError."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username or not (parts.scheme == "https" or _plain(parts)):
        raise UsageError(f"{name} is {place(url)}: expected https, or http on loopback")
    return url


def _plain(parts: SplitResult) -> bool:
    return parts.scheme == "http" and on_loopback(parts)


def place(url: str) -> str:
    """Host and path of a URL, for messages: a query or a login may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _sent(body: Any, headers: dict[str, str]) -> AbstractContextManager[Any]:
    """What is sent, open: a file, JSON, or nothing; the headers that tell it are added."""
    if isinstance(body, Path):
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(body.stat().st_size)}
        return body.open("rb")
    if body is None:
        return nullcontext()
    headers["Content-Type"] = "application/json"
    return nullcontext(json.dumps(body).encode())


def _read(response: "BaseHTTPResponse", url: str) -> Answer:
    """Status, headers and JSON of an answer; a failure may come as a page for people."""
    try:
        data = response.read(ANSWER)
    finally:
        response.close()
    try:
        return Answer(response.status, response.headers, json.loads(data) if data else None)
    except ValueError:
        if response.status < OK:
            raise _strange(url) from None
        return Answer(response.status, response.headers, None)


def _limit(answer: Answer, before: int) -> float | None:
    """Seconds to wait for a rate limit, `before` of which came before it; None where an answer is no such thing."""
    if answer.status not in (403, 429):
        return None
    asked, reset = (answer.headers.get(name, "") for name in ("retry-after", "x-ratelimit-reset"))
    if asked.isdecimal():
        return float(asked)
    if answer.headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(float(reset) - time.time(), 0) + 1
    message = str(answer.content.get("message", "")) if isinstance(answer.content, dict) else ""
    return MINUTE * 2**before if answer.status == 429 or "rate limit" in message.lower() else None  # noqa: PLR2004


def _strange(url: str) -> NetworkError:
    return NetworkError(f"{place(url)}: does not answer as GitHub's API does", hint="is GITHUB_API_URL right?")
