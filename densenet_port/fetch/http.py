"""HTTP as far as downloads and releases need it: certificates checked, timeouts, redirects that never leave https.

Only https is spoken. Plain http is for an address on this machine's loopback that the user named (a mirror, a release
under test), and for redirects from there to there. Proxies are the environment's (`https_proxy`, `no_proxy` …); the
loopback has none. urllib3 does the rest, and is imported when something is asked for.

A failure is one of two: `Again`, which another try may mend, and NetworkError, which it would not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from densenet_port.about import __version__
from densenet_port.errors import NetworkError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

HOPS = 5  # redirects in a row
PIECE = 1 << 16  # bytes read at most at a time
ANSWERS = {200, 206, 416}  # the file, a part of it, no such part
PASSING = {408, 425, 429, 500, 502, 503, 504}
AGENT = f"densenet-port/{__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a download may take where it does not get on; seconds, but for `slowest` (bytes a second) and counts.

    `stall` is the time without a single byte. Fewer than `slowest` bytes a second over `window` is a drip, and dropped.
    `tries` counts failures in a row; between them it waits `backoff`, twice that, four times …, or what the server
    asks for up to `longest_wait`. `lock` is how long another process's download of the same file is waited for.
    """

    connect: float = 10.0
    stall: float = 30.0
    window: float = 30.0
    slowest: float = 1024.0
    tries: int = 4
    backoff: float = 0.5
    longest_wait: float = 60.0
    lock: float = 3600.0


LIMITS = Limits()


class Again(Exception):  # noqa: N818 (what to do next, not an error that anyone is shown)
    """A failure that another try may mend, after `wait` seconds where the server said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Keep the reason, as part of a sentence, and the wait."""
        super().__init__(reason)
        self.wait = wait


def get(url: str, headers: Mapping[str, str] | None = None, *, limits: Limits = LIMITS) -> "BaseHTTPResponse":
    """The answer to a GET, its body unread and undecoded; the caller closes it.

    Its status is 200, 206 or 416. Raises Again for what may pass, NetworkError for any other answer, for a redirect
    away from https, and for more than HOPS of them. Messages name `url`, never what it led to: links may hold secrets.
    """
    here = _allowed(url, url)
    for _ in range(HOPS + 1):
        response = _ask(here, url, {"User-Agent": AGENT, "Accept-Encoding": "identity", **(headers or {})}, limits)
        place = response.get_redirect_location()
        if not place:
            return _judged(response, url, limits)
        response.close()
        here = _allowed(urljoin(here, place), url)
    raise NetworkError(f"{url}: more than {HOPS} redirects")


def pieces(response: "BaseHTTPResponse", limits: Limits = LIMITS) -> Iterator[bytes]:
    """The body's bytes as they come. Raises Again when the connection breaks, stalls or drips."""
    since, count = monotonic(), 0
    while piece := _piece(response):
        yield piece
        count += len(piece)
        if (passed := monotonic() - since) >= limits.window:
            if count < limits.slowest * passed:
                raise Again(f"{count / passed:.0f} bytes a second, expected at least {limits.slowest:.0f}")
            since, count = monotonic(), 0


def manager(url: str, limits: Limits = LIMITS) -> "PoolManager":
    """A pool of connections for a URL's host, by way of the environment's proxy: no redirects, no retries."""
    from urllib3 import PoolManager, ProxyManager, Timeout, make_headers  # noqa: PLC0415 (only a download needs it)
    from urllib3.util import parse_url  # noqa: PLC0415 (as above)

    settings: dict[str, Any] = {"timeout": Timeout(connect=limits.connect, read=limits.stall), "retries": False}
    proxy = _proxy(urlsplit(url))
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


def _allowed(url: str, first: str) -> str:
    """The URL, if it may be asked for on the way from `first`."""
    parts, origin = urlsplit(url), urlsplit(first)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and on_loopback(parts) and origin.scheme == "http":
        return url
    led = "" if url == first else f" leads to {parts.scheme}://{parts.hostname or ''}, which"
    raise NetworkError(f"{first}{led} is not https", hint="nothing is fetched without encryption")


def _ask(here: str, url: str, headers: Mapping[str, str], limits: Limits) -> "BaseHTTPResponse":
    """One request, one answer, a redirect or not."""
    with _passing(url):
        return manager(here, limits).request("GET", here, headers=headers, redirect=False, preload_content=False)


def _judged(response: "BaseHTTPResponse", url: str, limits: Limits) -> "BaseHTTPResponse":
    """The answer, if it is one; else it is closed, and its status an error."""
    if response.status in ANSWERS:
        return response
    told = f"HTTP {response.status} {response.reason or ''}".rstrip()
    wait = _wait(response)
    response.close()
    if response.status not in PASSING:
        raise NetworkError(f"{url} cannot be downloaded ({told})")
    if wait is not None and wait > limits.longest_wait:
        raise NetworkError(f"{url} cannot be downloaded ({told})", hint=f"the server says: try again in {wait:.0f} s")
    raise Again(told, wait)


def _wait(response: "BaseHTTPResponse") -> float | None:
    """Seconds that the server asks to wait: `Retry-After`, a number or a date."""
    from urllib3 import Retry  # noqa: PLC0415 (only a download needs it)
    from urllib3.exceptions import InvalidHeader  # noqa: PLC0415 (as above)

    asked = response.headers.get("Retry-After")
    try:
        return None if asked is None else Retry().parse_retry_after(asked)
    except InvalidHeader:
        return None


def _piece(response: "BaseHTTPResponse") -> bytes:
    """What has arrived, at least one byte; nothing at the end."""
    with _passing(response.url or ""):
        return response.read1(PIECE, decode_content=False)


@contextmanager
def _passing(url: str) -> Iterator[None]:
    """What urllib3 and the sockets raise, as Again; as NetworkError where no other try would help."""
    from urllib3 import exceptions as of  # noqa: PLC0415 (only a download needs it)

    try:
        yield
    except of.SSLError as error:
        hint = "is the clock right, are certificates installed, does a proxy stand in between?"
        raise NetworkError(f"{url} cannot be downloaded (TLS: {error})", hint=hint) from error
    except (of.LocationParseError, of.ProxySchemeUnknown, of.URLSchemeUnknown) as error:
        raise NetworkError(f"{url} cannot be downloaded ({error})") from error
    except (of.ReadTimeoutError, TimeoutError) as error:
        raise Again("no byte came in time") from error
    except (of.HTTPError, OSError) as error:
        raise Again(str(error)) from error


def _proxy(parts: SplitResult) -> str | None:
    """The environment's proxy for a URL."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 (only a download needs it)

    if on_loopback(parts) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if found is None or "://" in found else f"http://{found}"
