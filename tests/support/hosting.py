"""A web server on loopback that does what it is told, and what went wrong in the wild: one `Answer` a request.

    with Host({"w.h5": data}) as host:
        host.answers = [Answer(status=503), Answer(cut=1000)]   # in this order; then it behaves
        download(Expected(url=host.url("w.h5")), …)
        host.log                                                # what was asked for

A well-behaved answer knows Range, If-Range, ETag and Content-Length.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!doctype html><title>Sign in</title>"


@dataclass(frozen=True)
class Answer:
    """One answer. A well-behaved one, where nothing is said.

    `cut` sends so many bytes of the body and drops the connection; `pause` waits so many seconds before the byte that
    `at` names; `drip` sends so many bytes each hundredth of a second; `flip` sends another byte at that place of the
    file; `length` announces another length, None no length at all; `dropped` says nothing at all.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    ranges: bool = True
    etag: str | None = '"1"'
    checks: bool = True  # whether If-Range is looked at
    length: int | str | None = "right"
    cut: int | None = None
    pause: float = 0.0
    at: int = 0
    drip: int | None = None
    flip: int | None = None
    dropped: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked for: path, first byte of the range or None, If-Range."""

    path: str
    first: int | None
    validator: str | None


class Host:
    """A server, its files (path → bytes), its answers to come and its log."""

    def __init__(self, files, answers=(), *, usual=None):
        self.files, self.answers, self.usual = dict(files), list(answers), usual or Answer()
        self.log, self.lock, self.closing = [], threading.Lock(), threading.Event()

    def __enter__(self):
        self.server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def url(self, name=""):
        """Where a file is."""
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def next_answer(self, request):
        """Note a request, and take its answer."""
        with self.lock:
            self.log.append(request)
            return self.answers.pop(0) if self.answers else self.usual


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, host, *args):
        self.host = host
        super().__init__(*args)

    def do_GET(self):
        """Answer as told."""
        path = self.path.lstrip("/")
        span = self.headers.get("Range")
        first = int(span.removeprefix("bytes=").removesuffix("-")) if span else None
        answer = self.host.next_answer(Request(path, first, self.headers.get("If-Range")))
        self.close_connection = True
        if not answer.dropped:
            self.respond(answer, path, first)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def respond(self, answer, path, first):
        """Head, then body."""
        whole = answer.body if answer.body is not None else self.host.files.get(path)
        first = self.first_byte(answer, first)
        status = answer.status or (404 if whole is None else 206 if first else 200)
        if status == 206 and first >= len(whole):
            status = 416
        body = (whole or b"")[first:] if status in (200, 206) or answer.body else b""
        self.send_response(status)
        headers = (
            {}
            if answer.length is None
            else {"Content-Length": len(body) if answer.length == "right" else answer.length}
        )
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(whole) - 1}/{len(whole)}"
        if answer.etag:
            headers["ETag"] = answer.etag
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.send(answer, body, first)

    def first_byte(self, answer, first):
        """Where to begin: at the range's begin if there is one, it is minded, and the file is still the same."""
        validator = self.headers.get("If-Range")
        if first is None or not answer.ranges or (answer.checks and validator and validator != answer.etag):
            return 0
        return first

    def send(self, answer, body, first):
        """The body, with what is to go wrong in it."""
        if answer.flip is not None and first <= answer.flip < first + len(body):
            at = answer.flip - first
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        body = body if answer.cut is None else body[: answer.cut]
        if answer.drip:
            for begin in range(0, len(body), answer.drip):
                self.wfile.write(body[begin : begin + answer.drip])
                self.host.closing.wait(0.01)
            return
        self.wfile.write(body[: answer.at])
        self.host.closing.wait(answer.pause)
        self.wfile.write(body[answer.at :])

    def log_message(self, *args):
        """Keep the test's output quiet."""
