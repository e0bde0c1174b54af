"""HTTP as far as downloads need it: certificates checked, timeouts, redirects that never leave https; and retries.

Only https is spoken. Plain http is for an address on this machine's loopback that the user named (a mirror, a release
under test), and for redirects from there to there. Proxies are the environment's (`https_proxy`, `no_proxy` …); the
loopback has none. urllib3 does the rest, and is imported when something is asked for.

A failure is one of two: RetryableError, which another try may mend, and NetworkError, which it would not. How often and
after which pause a request is tried again is decided here alone, for downloads and for whatever else asks a server.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from densenet_port.about import __version__
from densenet_port.errors import NetworkError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

T = TypeVar("T")

MAX_REDIRECTS = 5  # in a row
PIECE = 1 << 16  # bytes read at most at a time
ANSWERS = {200, 206, 416}  # the file, a part of it, no such part
NOT_FOUND = 404
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
AGENT = f"densenet-port/{__version__}"


# -- retries -----------------------------------------------------------------------------------------------------------


class RetryableError(Exception):
    """A failure that another try may mend."""

    def __init__(self, reason: str, *, wait: float | None = None, doubling: bool = False) -> None:
        """Keep the reason, as part of a sentence.

        `wait` is the pause that the server asks for, in seconds, which says too that it did not do what it was asked.
        With `doubling` it is twice as long after the second failure in a row, four times after the third.
        """
        super().__init__(reason)
        self.wait, self.doubling = wait, doubling


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long one request may take, and how often one that failed is tried again; in seconds.

    `connect` bounds the time to a connection, `read` the time without a single byte, `deadline` that of a whole answer.
    `tries` counts failures in a row. The pause after the first is `backoff`, then twice that, four times …, or what the
    server asks for; `longest_wait` bounds the sum of what it asks for.
    """

    connect: float = 10.0
    read: float = 30.0
    deadline: float = 3600.0
    tries: int = 4
    backoff: float = 0.5
    longest_wait: float = 60.0


POLICY = RetryPolicy()


class Retries:
    """The failures in a row of one piece of work, and the pauses after them."""

    def __init__(self, policy: RetryPolicy, failure: str, *, hint: str | None = None) -> None:
        """Begin without a failure. `failure` and `hint` are what the error says when there is no further try."""
        self.policy, self.failure, self.hint = policy, failure, hint
        self.count, self.waited = 0, 0.0

    def pause(self, error: RetryableError) -> None:
        """Sleep until the next try. Raises NetworkError when all tries, or the longest wait, are used up."""
        self.count += 1
        factor = 2.0 ** (self.count - 1)
        pause, hint = self.policy.backoff * factor, self.hint
        if error.wait is not None:
            pause = error.wait * (factor if error.doubling else 1)
            self.waited += pause
            hint = f"try again in {pause:.0f} s"
        if self.waited > self.policy.longest_wait:
            raise NetworkError(f"{self.failure} ({error})", hint=hint) from error
        if self.count >= self.policy.tries:
            raise NetworkError(f"{self.failure} ({error}; tried {self.count} times)", hint=hint) from error
        sleep(pause)

    def run(self, work: Callable[[], T]) -> T:
        """The result of some work that may be done twice. Raises NetworkError as `pause` does."""
        while True:
            try:
                return work()
            except RetryableError as error:
                self.pause(error)


# -- requests ----------------------------------------------------------------------------------------------------------


class NotFoundError(NetworkError):
    """The server has nothing there."""


def get(url: str, headers: Mapping[str, str] | None = None, *, policy: RetryPolicy = POLICY) -> "BaseHTTPResponse":
    """The answer to a GET, its body unread and undecoded; the caller closes it.

    Its status is 200, 206 or 416. Raises RetryableError for what may pass, NetworkError for any other answer, for a
    redirect away from https, and for more than MAX_REDIRECTS of them. Messages name `url`, never what it led to: links
    may hold secrets.
    """
    here = check_scheme(url, url)
    for _ in range(MAX_REDIRECTS + 1):
        response = _request(here, url, {"User-Agent": AGENT, "Accept-Encoding": "identity", **(headers or {})}, policy)
        location = response.get_redirect_location()
        if not location:
            _check_status(response, url)
            return response
        response.close()
        here = check_scheme(urljoin(here, location), url)
    raise NetworkError(f"{url}: more than {MAX_REDIRECTS} redirects")


def pieces(response: "BaseHTTPResponse", policy: RetryPolicy = POLICY) -> Iterator[bytes]:
    """The body's bytes as they come. Raises RetryableError when the connection breaks, stalls or takes too long."""
    end = monotonic() + policy.deadline
    while piece := _read_piece(response):
        yield piece
        if monotonic() > end:
            raise RetryableError(f"it takes longer than {policy.deadline:.0f} s")


def connection_pool(url: str, policy: RetryPolicy = POLICY) -> "PoolManager":
    """A pool of connections for a URL's host, by way of the environment's proxy: no redirects, no retries."""
    from urllib3 import PoolManager, ProxyManager, Timeout, make_headers  # noqa: PLC0415 (only a download needs it)
    from urllib3.util import parse_url  # noqa: PLC0415 (as above)

    settings: dict[str, Any] = {"timeout": Timeout(connect=policy.connect, read=policy.read), "retries": False}
    proxy = _environment_proxy(urlsplit(url))
    if proxy is None:
        return PoolManager(**settings)
    login = parse_url(proxy).auth
    return ProxyManager(proxy, proxy_headers=make_headers(proxy_basic_auth=login) if login else None, **settings)


def on_loopback(parts: SplitResult) -> bool:
    """Whether a URL's host is this machine itself."""
    host = parts.hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_scheme(url: str, first: str) -> str:
    """The URL, if it may be asked for on the way from `first`: https, or http on loopback. Raises NetworkError."""
    parts, origin = urlsplit(url), urlsplit(first)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and on_loopback(parts) and origin.scheme == "http":
        return url
    led = "" if url == first else f" leads to {parts.scheme}://{parts.hostname or ''}, which"
    raise NetworkError(f"{first}{led} is not https", hint="nothing is fetched without encryption")


def _request(here: str, url: str, headers: Mapping[str, str], policy: RetryPolicy) -> "BaseHTTPResponse":
    """One request, one answer, a redirect or not."""
    with _transport_errors(url):
        pool = connection_pool(here, policy)
        return pool.request("GET", here, headers=headers, redirect=False, preload_content=False)


def _check_status(response: "BaseHTTPResponse", url: str) -> None:
    """Close an answer that is no file, and raise what its status means."""
    if response.status in ANSWERS:
        return
    status = f"HTTP {response.status} {response.reason or ''}".rstrip()
    wait = _retry_after(response)
    response.close()
    if response.status == NOT_FOUND:
        raise NotFoundError(f"{url} cannot be downloaded ({status})")
    if response.status not in TRANSIENT:
        raise NetworkError(f"{url} cannot be downloaded ({status})")
    raise RetryableError(status, wait=wait)


def _retry_after(response: "BaseHTTPResponse") -> float | None:
    """Seconds that the server asks to wait: `Retry-After`, a number or a date; None where it does not say."""
    from urllib3 import Retry  # noqa: PLC0415 (only a download needs it)
    from urllib3.exceptions import InvalidHeader  # noqa: PLC0415 (as above)

    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _read_piece(response: "BaseHTTPResponse") -> bytes:
    """What has arrived, at least one byte; nothing at the end."""
    with _transport_errors(response.url or ""):
        return response.read1(PIECE, decode_content=False)


@contextmanager
def _transport_errors(url: str) -> Iterator[None]:
    """Turn what urllib3 and the sockets raise into RetryableError, or NetworkError where no other try would help."""
    from urllib3 import exceptions  # noqa: PLC0415 (only a download needs it)

    try:
        yield
    except exceptions.SSLError as error:
        hint = "is the clock right, are certificates installed, does a proxy stand in between?"
        raise NetworkError(f"{url} cannot be downloaded (TLS: {error})", hint=hint) from error
    except (exceptions.LocationParseError, exceptions.ProxySchemeUnknown, exceptions.URLSchemeUnknown) as error:
        raise NetworkError(f"{url} cannot be downloaded ({error})") from error
    except (exceptions.ReadTimeoutError, TimeoutError) as error:
        raise RetryableError("no byte came in time") from error
    except (exceptions.HTTPError, OSError) as error:
        raise RetryableError(str(error)) from error


def _environment_proxy(parts: SplitResult) -> str | None:
    """The environment's proxy for a URL; None where it has none."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 (only a download needs it)

    if on_loopback(parts) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
