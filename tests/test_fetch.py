"""Registered files arrive whole and right, or not at all. The server is on loopback; the real hosts are not asked."""

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from densenet_port import fetch
from densenet_port.arch import NAMED
from densenet_port.errors import DiskError, NetworkError, UsageError

BODY = np.random.default_rng(1).bytes(700_000)
DIGEST = hashlib.sha256(BODY).hexdigest()[:8]


class Handler(BaseHTTPRequestHandler):
    """Serves BODY, cut short where the test says so, and counts the requests."""

    def __init__(self, log, cut, *args):
        self.log, self.cut = log, cut
        super().__init__(*args)

    def do_GET(self):
        """Answer one request."""
        self.log.append(self.path)
        self.send_response(200 if self.path == "/w.pth" else 404)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: self.cut])

    def log_message(self, *args):
        """Keep the test's output quiet."""


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Start a server, register its file for torchvision 121, and give its log."""
    servers = []

    def start(*, cut=None, path="/w.pth", digest=DIGEST):
        log = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, log, cut))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}{path}"
        monkeypatch.setattr(fetch, "registry", lambda: {("torchvision", "121"): fetch.Registered(url, digest)})
        return log

    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path / "cache"))
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_registered_file_is_downloaded_once(host, tmp_path):
    """The second call takes the cache's."""
    log, seen = host(), []

    first = fetch.registered("torchvision", NAMED["121"], progress=lambda done, total: seen.append((done, total)))
    second = fetch.registered("torchvision", NAMED["121"])

    assert (first.read_bytes() == BODY, second, log, seen[-1]) == (True, first, ["/w.pth"], (len(BODY), len(BODY)))
    assert files(tmp_path / "cache") == ["w.pth"]


def test_a_damaged_cache_is_fetched_again(host):
    """A file in the cache is hashed before it is used."""
    log = host()
    path = fetch.registered("torchvision", NAMED["121"])
    path.write_bytes(BODY[:-1] + b"?")

    assert (fetch.registered("torchvision", NAMED["121"]).read_bytes() == BODY, len(log)) == (True, 2)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"digest": "00000000"}, "expected a SHA-256 of 00000000…"),
        ({"cut": 1000}, "IncompleteRead|expected 700000 bytes, received 1000"),
        ({"path": "/nothing.pth"}, "cannot be downloaded"),
    ],
    ids=["digest", "cut short", "404"],
)
def test_a_bad_download_leaves_nothing(host, tmp_path, fault, message):
    """Wrong bytes, too few, or none: an error, and an empty cache."""
    host(**fault)

    with pytest.raises(NetworkError, match=message):
        fetch.registered("torchvision", NAMED["121"])

    assert files(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_said(host, tmp_path, monkeypatch):
    """The way out is named."""
    host()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(DiskError, match="set DENSENET_PORT_CACHE"):
        fetch.registered("torchvision", NAMED["121"])


def test_what_is_not_registered_is_said(monkeypatch):
    """Never another network's weights for a name."""
    with pytest.raises(UsageError, match="no weight file is registered for torchvision 264"):
        fetch.registered("torchvision", NAMED["264"])


def test_torchvision_and_the_registry_agree():
    """URLs and digests are those that the installed torchvision names."""
    from torchvision.models import densenet

    entries = {
        arch: getattr(densenet, f"DenseNet{arch}_Weights").IMAGENET1K_V1.url for arch in ("121", "161", "169", "201")
    }

    assert {arch: entry.url for (_, arch), entry in fetch.registry().items()} == entries
    assert all(f"-{entry.sha256}." in entry.url for entry in fetch.registry().values())
