"""What can go wrong on the way: each fault ends in the right bytes or in a typed error, and in no bad file.

The server is on loopback and misbehaves as told; the real hosts are not asked.
"""

import hashlib
import shutil
import ssl
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from densenet_port.errors import DiskError, NetworkError
from densenet_port.fetch import http
from densenet_port.fetch.download import download
from densenet_port.fetch.http import RetryPolicy
from densenet_port.fetch.partial import Expected
from tests.support.hosting import HTML, Answer, Host

BODY = np.random.default_rng(1).bytes(700_000)
MIDDLE = 300_000
DIGEST = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
FAST = RetryPolicy(connect=2, read=0.2, tries=3, backoff=0.01, longest_wait=1)

KNOWN = {  # how much is known beforehand
    "prefix": {"sha256": DIGEST[:8]},
    "md5": {"md5": MD5},
    "whole": {"sha256": DIGEST, "size": len(BODY)},
}
EACH = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
HALF = Answer(cut=MIDDLE)
LAST_CHANGE = {"Last-Modified": "Tue, 24 Nov 2020 10:00:00 GMT"}


def to(place):
    return Answer(status=302, headers={"Location": place})


def fetched(folder, host, known, **options):
    """One download."""
    return download(Expected(url=host.url("w.h5"), **known), folder / "w.h5", **{"policy": FAST, **options})


def state(folder):
    """What the folder holds: the file right or not, and how many unfinished ones."""
    parts = [path for path in folder.iterdir() if path.suffix == ".part"]
    finished = [path.read_bytes() == BODY for path in folder.iterdir() if not path.name.startswith(".")]
    return finished, len(parts)


@EACH
@pytest.mark.parametrize(
    ("answers", "begins"),
    [
        ([], [None]),
        ([HALF], [None, MIDDLE]),
        ([HALF, Answer(cut=1000)], [None, MIDDLE, MIDDLE + 1000]),
        ([Answer(cut=MIDDLE, headers=LAST_CHANGE, etag='W/"1"')], [None, MIDDLE]),
        ([HALF, Answer(etag='"2"')], [None, MIDDLE]),
        ([HALF, Answer(etag='"2"', checks=False)], [None, MIDDLE, None]),
        ([HALF, Answer(ranges=False)], [None, MIDDLE]),
        ([HALF, Answer(status=416)], [None, MIDDLE, None]),
        ([HALF, Answer(status=206, headers={"Content-Range": "none"})], [None, MIDDLE, MIDDLE]),
        ([Answer(status=429), Answer(status=503, headers={"Retry-After": "0"})], [None, None, None]),
        ([Answer(status=503, headers={"Retry-After": "Tue, 24 Nov 2020 10:00:00 GMT"})], [None, None]),
        ([Answer(status=503, headers={"Retry-After": "soon"})], [None, None]),
        ([Answer(dropped=True)], [None, None]),
        ([Answer(pause=9, at=MIDDLE)], [None, MIDDLE]),
        ([to("/elsewhere/w.h5"), to("../w.h5")], [None, None, None]),
        ([Answer(length=None)], [None]),
    ],
    ids=[
        "nothing",
        "cut short",
        "cut short twice",
        "a weak tag and a date",
        "changed between ranges",
        "changed between ranges, If-Range ignored",
        "Range ignored",
        "416",
        "a range that says nothing",
        "429, then 503",
        "503 until a date",
        "503 until some time",
        "dropped before a word",
        "stall",
        "redirects",
        "no length",
    ],
)
def test_a_fault_that_passes_ends_in_the_right_bytes(tmp_path, known, answers, begins):
    """The download goes on where it was, where that is safe, and begins anew where it is not."""
    with Host({"w.h5": BODY}, answers) as host:
        digests = fetched(tmp_path, host, known)

    assert (state(tmp_path), digests.sha256) == (([True], 0), DIGEST)
    assert [request.first for request in host.log] == begins


def test_a_range_is_asked_for_with_its_validator(tmp_path):
    """If-Range names the strong tag of the answer that the bytes came with."""
    with Host({"w.h5": BODY}, [Answer(cut=MIDDLE, etag='"a"'), Answer(etag='"a"')]) as host:
        fetched(tmp_path, host, KNOWN["prefix"])

    assert [(request.first, request.validator) for request in host.log] == [(None, None), (MIDDLE, '"a"')]


@pytest.mark.parametrize(("known", "second"), [("prefix", None), ("md5", None), ("whole", MIDDLE)])
def test_without_a_validator_only_a_whole_digest_is_gone_on_with(tmp_path, known, second):
    """Two halves of different files could meet eight digits of a SHA-256 on purpose, and an MD5; no whole SHA-256."""
    with Host({"w.h5": BODY}, usual=Answer(etag=None)) as host:
        host.answers = [Answer(cut=MIDDLE, etag=None)]
        fetched(tmp_path, host, KNOWN[known])

    assert (state(tmp_path), [request.first for request in host.log]) == (([True], 0), [None, second])


def test_halves_of_different_files_are_fetched_once_more(tmp_path):
    """What was left is of another file, as only the whole digest shows: from the first byte then, and it is right."""
    (tmp_path / ".w.h5.part").write_bytes(b"?" * MIDDLE)

    with Host({"w.h5": BODY}, usual=Answer(etag=None)) as host:
        fetched(tmp_path, host, KNOWN["whole"])

    assert (state(tmp_path), [request.first for request in host.log]) == (([True], 0), [MIDDLE, None])


def test_a_drip_is_dropped(tmp_path):
    """A few bytes a second keep a connection alive for ever; a second one is quicker."""
    with Host({"w.h5": BODY}, [Answer(drip=100)]) as host:
        fetched(tmp_path, host, KNOWN["prefix"], policy=replace(FAST, deadline=0.2))

    assert (state(tmp_path), len(host.log), host.log[1].first > 0) == (([True], 0), 2, True)


@EACH
def test_a_wrong_file_is_asked_for_again(tmp_path, known):
    """From its first byte: nobody knows where it is wrong."""
    with Host({"w.h5": BODY}, [Answer(flip=MIDDLE)]) as host:
        fetched(tmp_path, host, known)

    assert (state(tmp_path), [request.first for request in host.log]) == (([True], 0), [None, None])


LENGTH = "expected 700000 bytes, the server announces 5"
PAGE = Answer(body=HTML, headers={"Content-Type": "text/html; charset=utf-8"})


@pytest.mark.parametrize(
    ("known", "usual", "message", "requests"),
    [
        ("prefix", Answer(flip=MIDDLE), f"expected a SHA-256 of {DIGEST[:8]}…, found ", 2),
        ("md5", Answer(flip=MIDDLE), f"expected an MD5 of {MD5}, found ", 2),
        ("whole", Answer(flip=MIDDLE), f"expected a SHA-256 of {DIGEST}, found ", 2),
        ("whole", Answer(length=5), LENGTH, 1),
        ("whole", Answer(length=800_000), "expected 700000 bytes, the server announces 800000", 1),
        ("whole", Answer(length=None, body=BODY + b"?"), "expected at most 700000 bytes, found more", 1),
        ("prefix", Answer(cut=1000, etag=None), "cannot be downloaded (", 3),
        ("prefix", Answer(cut=1000, etag=None, length=None), f"expected a SHA-256 of {DIGEST[:8]}…, found ", 2),
        ("whole", Answer(cut=0, length=None), "the connection ended after 0 of 700000 bytes; tried 3 times", 3),
        ("prefix", Answer(body=b""), f"expected a SHA-256 of {DIGEST[:8]}…, found ", 2),
        ("prefix", Answer(length=2 << 30), "expected at most 1073741824 bytes, found more", 1),
        ("prefix", Answer(status=404), "cannot be downloaded (HTTP 404 Not Found)", 1),
        ("prefix", Answer(status=403), "cannot be downloaded (HTTP 403 Forbidden)", 1),
        ("prefix", Answer(status=304), "cannot be downloaded (HTTP 304 Not Modified)", 1),
        ("prefix", Answer(status=503), "cannot be downloaded (HTTP 503 Service Unavailable; tried 3 times)", 3),
        (
            "prefix",
            Answer(status=429, headers={"Retry-After": "99"}),
            "(HTTP 429 Too Many Requests)\n  try again in 99 s",
            1,
        ),
        ("prefix", Answer(status=416), "cannot be downloaded (the server has no bytes there; tried 3 times)", 3),
        ("prefix", Answer(dropped=True), "cannot be downloaded (", 3),
        ("prefix", Answer(pause=9, at=0), "cannot be downloaded (no byte came in time; tried 3 times)", 3),
        ("prefix", PAGE, "expected a weight file, found a web page", 1),
        ("prefix", Answer(headers={"Content-Encoding": "gzip"}), "found it encoded (gzip)", 1),
        ("prefix", to("http://example.org/w.h5"), "leads to http://example.org, which is not https", 1),
        ("prefix", to("file:///etc/hostname"), "leads to file://, which is not https", 1),
        ("prefix", to("/w.h5"), "more than 5 redirects", 6),
        ("prefix", Answer(status=302), "cannot be downloaded (HTTP 302 Found)", 1),
    ],
    ids=[
        "wrong digest",
        "wrong MD5",
        "wrong whole digest",
        "wrong size known, shorter",
        "wrong size known, longer",
        "more than there is",
        "always cut short",
        "cut short without a length",
        "nothing without a length",
        "empty",
        "far too large",
        "404",
        "403",
        "304",
        "503 for ever",
        "429 for long",
        "416 for ever",
        "dropped for ever",
        "stalls for ever",
        "a page with 200",
        "gzip",
        "redirect to http",
        "redirect to a file",
        "redirects in a circle",
        "redirect to nowhere",
    ],
)
def test_a_fault_that_stays_is_an_error(tmp_path, known, usual, message, requests):
    """Typed, in words, after a bounded number of requests, and with no file at the place."""
    with Host({"w.h5": BODY}, usual=usual) as host, pytest.raises(NetworkError) as error:
        fetched(tmp_path, host, KNOWN[known])

    assert message in str(error.value)
    assert (state(tmp_path)[0], len(host.log)) == ([], requests)


def test_a_file_that_changes_all_the_time_is_an_error(tmp_path):
    """Each answer brings much, and each range is of another file: going to and fro is no progress."""
    answers = [Answer(cut=1_200_000, etag=f'"{number}"', checks=False) for number in range(20)]

    with (
        Host({"w.h5": BODY * 10}, answers) as host,
        pytest.raises(NetworkError, match="the file changed on the server"),
    ):
        fetched(tmp_path, host, {"sha256": "0"})

    assert (state(tmp_path)[0], len(host.log)) == ([], 4)


def test_losses_after_much_has_come_are_no_failures_in_a_row(tmp_path):
    """A line that breaks every few megabytes still brings the file."""
    body = BODY * 10
    known = {"sha256": hashlib.sha256(body).hexdigest()}
    with Host({"w.h5": body}, usual=Answer(cut=1_200_000)) as host:
        fetched(tmp_path, host, known)

    assert ((tmp_path / "w.h5").read_bytes() == body, len(host.log)) == (True, 6)


def test_an_interrupted_download_is_gone_on_with(tmp_path):
    """What failed left its bytes and their origin; the next call asks for the rest."""
    with Host({"w.h5": BODY}, [HALF, Answer(status=404)]) as host:
        with pytest.raises(NetworkError):
            fetched(tmp_path, host, KNOWN["prefix"])
        between = state(tmp_path)
        fetched(tmp_path, host, KNOWN["prefix"])

    assert (between, state(tmp_path)) == (([], 1), ([True], 0))
    assert [(request.first, request.validator) for request in host.log] == [
        (None, None),
        (MIDDLE, '"1"'),
        (MIDDLE, '"1"'),
    ]


@EACH
def test_bytes_that_are_left_are_not_trusted(tmp_path, known):
    """What lies there of another file costs a request, never a wrong file."""
    left = tmp_path / ".w.h5.part"
    left.write_bytes(BODY[:MIDDLE] + b"something else")

    with Host({"w.h5": BODY}) as host:
        fetched(tmp_path, host, known)

    assert (state(tmp_path), host.log[0].first in (None, MIDDLE + 14)) == (([True], 0), True)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "{}",
        '{"url": "URL", "validator": 1}',
        '{"url": "URL", "validator": "a\\r\\nX-Header: b"}',
        '{"url": "URL", "validator": "\\u20ac"}',
        '{"url": "URL", "validator": "\\"1\\"", "total": "many"}',
        '{"url": "https://example.org/w.h5", "validator": "\\"1\\""}',
    ],
)
def test_a_note_that_makes_no_sense_is_none(tmp_path, note):
    """A part whose origin is not known is not gone on with."""
    with Host({"w.h5": BODY}) as host:
        (tmp_path / ".w.h5.part").write_bytes(BODY[:MIDDLE])
        (tmp_path / ".w.h5.part.json").write_text(note.replace("URL", host.url("w.h5")))
        fetched(tmp_path, host, KNOWN["prefix"])

    assert (state(tmp_path), [request.first for request in host.log]) == (([True], 0), [None])


@pytest.mark.parametrize("left", [BODY, BODY + b"more"], ids=["whole", "longer"])
def test_a_finished_part_needs_no_more_than_a_look(tmp_path, left):
    """Killed between the last byte and the renaming: nothing is asked for again but what is not proven."""
    (tmp_path / ".w.h5.part").write_bytes(left)

    with Host({"w.h5": BODY}) as host:
        fetched(tmp_path, host, KNOWN["whole"])

    assert (state(tmp_path), len(host.log) <= 1) == (([True], 0), True)


def test_another_file_s_unfinished_download_is_left(tmp_path):
    """It is none of this one's business."""
    (tmp_path / ".w.h5.bak.part").write_bytes(b"?")

    with Host({"w.h5": BODY}) as host:
        fetched(tmp_path, host, KNOWN["whole"])

    assert [request.first for request in host.log] == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".w.h5.bak.part", "w.h5"]


def test_what_is_known_of_the_size_is_enough_for_a_full_disk(tmp_path, monkeypatch):
    """Before a byte is written."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))

    with Host({"w.h5": BODY}) as host, pytest.raises(DiskError, match="700000 bytes are to come, 1000 are free"):
        fetched(tmp_path, host, KNOWN["prefix"])

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_not_taken_for_a_lost_connection(tmp_path):
    """The system refuses the byte after the limit, as a full disk does: an error, and no half file stays."""
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from tests.fetch.test_download import *; import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, MIDDLE))\n"
        "with Host({'w.h5': BODY}) as host:\n"
        "    try: fetched(Path(sys.argv[1]), host, KNOWN['whole'])\n"
        "    except DiskError as error: print(len(host.log), error.message)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, tmp_path, root], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == (f"1 {tmp_path / 'w.h5'}: cannot be written: File too large\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """With the way out."""
    (tmp_path / "file").write_text("in the way")

    with Host({"w.h5": BODY}) as host, pytest.raises(DiskError, match="set DENSENET_PORT_CACHE"):
        fetched(tmp_path / "file" / "cache", host, KNOWN["prefix"])

    assert host.log == []


@pytest.mark.parametrize("variable", ["DENSENET_PORT_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "yes", "ON"])
def test_offline_means_that_nobody_is_asked(tmp_path, monkeypatch, variable, value):
    """Our own switch, and the one that people have set already."""
    monkeypatch.setenv(variable, value)

    with Host({"w.h5": BODY}) as host, pytest.raises(NetworkError, match=f"is not downloaded: {variable} is set"):
        fetched(tmp_path, host, KNOWN["prefix"])

    assert host.log == []


@pytest.mark.parametrize("value", ["0", "false", ""])
def test_a_switch_that_is_off_is_off(tmp_path, monkeypatch, value):
    """As Hugging Face reads it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", value)

    with Host({"w.h5": BODY}) as host:
        fetched(tmp_path, host, KNOWN["prefix"])

    assert state(tmp_path) == ([True], 0)


def test_progress_is_shown(tmp_path):
    """Bytes done and bytes in all, from where it goes on."""
    calls = []
    with Host({"w.h5": BODY}, [HALF]) as host:
        fetched(tmp_path, host, KNOWN["prefix"], progress=lambda done, total: calls.append((done, total)))

    assert (calls == sorted(calls), calls[-1]) == (True, (len(BODY), len(BODY)))


@pytest.mark.parametrize(
    "url", ["http://example.org/w.h5", "ftp://example.org/w.h5", "file:///etc/hostname", "/etc/hostname", "https:///w"]
)
def test_only_https_is_spoken(tmp_path, url):
    """Plain http goes no further than this machine."""
    with pytest.raises(NetworkError, match="is not https"):
        download(Expected(url=url, sha256=DIGEST), tmp_path / "w.h5")

    assert list(tmp_path.iterdir()) == []


def test_https_is_never_left_for_the_loopback():
    """A host out there does not make this machine ask itself."""
    with pytest.raises(NetworkError, match="leads to http://127.0.0.1, which is not https"):
        http.check_scheme("http://127.0.0.1/secret", "https://example.org/w.h5")


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    """An error at once: another try would not help."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parent.parent / "data" / "nobody.pem")
    with Host({"w.h5": BODY}) as host:
        host.server.socket = context.wrap_socket(host.server.socket, server_side=True, do_handshake_on_connect=False)
        expected = Expected(url=host.url("w.h5").replace("http:", "https:"), sha256=DIGEST)
        with pytest.raises(NetworkError, match=r"TLS: .*certificate"):
            download(expected, tmp_path / "w.h5", policy=FAST)

    assert (host.log, list(tmp_path.iterdir())) == ([], [])


def test_the_environments_proxy_is_asked(tmp_path, monkeypatch):
    """By its name and login; the loopback and what no_proxy names need none."""
    monkeypatch.setenv("https_proxy", "me:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.net")

    asked = partial(http.connection_pool, policy=FAST)
    proxies = [asked(f"{base}/w").proxy for base in ("https://example.org", "https://example.net", "https://[::1]")]

    assert [proxy and (proxy.host, proxy.port) for proxy in proxies] == [("127.0.0.1", 9), None, None]
    assert asked("https://example.org").proxy_headers == {"proxy-authorization": "Basic bWU6c2VjcmV0"}
