"""What lies in the cache is what was fetched, whoever was killed, raced or tampered on the way."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from densenet_port.errors import CorruptError, DiskError, NetworkError
from densenet_port.fetch import cache
from densenet_port.fetch.http import RetryPolicy
from densenet_port.fetch.partial import Expected
from tests.support.hosting import Answer, Host

PART = 1 << 16  # bytes of a file that are some
BODY = np.random.default_rng(1).bytes(700_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
PINNED = {"sha256": DIGEST, "size": len(BODY)}
FAST = RetryPolicy(connect=2, read=2, tries=2, backoff=0.01)
TWIN = next(  # another file whose SHA-256 begins with the same digit
    body
    for body in (BODY + bytes([number]) for number in range(256))
    if hashlib.sha256(body).hexdigest()[0] == DIGEST[0]
)


@pytest.fixture
def host():
    with Host({"w.h5": BODY}) as running:
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "w.h5"


@pytest.fixture
def settled(monkeypatch):
    """The clock has moved on since everything was written."""
    monkeypatch.setattr(cache, "SETTLED", -(10**12))


def expected(host, **known):
    return Expected(url=host.url("w.h5"), **(known or {"sha256": DIGEST[:8]}))


def obtained(host, path, **known):
    return cache.obtain(expected(host, **known), path, policy=FAST)


def counted(monkeypatch):
    """The files that are hashed from now on."""
    hashed, real = [], cache.digests_of
    monkeypatch.setattr(cache, "digests_of", lambda path, **options: hashed.append(path) or real(path, **options))
    return hashed


def files(path):
    return sorted(entry.name for entry in path.parent.iterdir())


KEYS = ("url", "size", "sha256", "md5", "mtime", "ctime", "inode", "hashed")
ALL = [".w.h5.json", ".w.h5.lock", "w.h5"]


def test_a_file_is_downloaded_once_and_hashed_while_it_comes(host, path, settled, monkeypatch):
    """The second call neither asks nor hashes."""
    hashed = counted(monkeypatch)

    first, second = obtained(host, path), obtained(host, path)

    assert (first, second, path.read_bytes() == BODY) == (path, path, True)
    assert (len(host.log), hashed, files(path)) == (1, [], ALL)


def test_a_record_made_within_a_tick_of_the_clock_is_not_relied_on(host, path, monkeypatch):
    """The file could have been written to since, and look the same."""
    obtained(host, path)
    hashed = counted(monkeypatch)

    obtained(host, path)

    assert (hashed, len(host.log)) == ([path], 1)


def test_a_record_says_what_was_found(host, path):
    """For people, and for the next call."""
    obtained(host, path)

    record, now = json.loads((path.parent / ".w.h5.json").read_text()), path.stat()
    assert time.time_ns() - record.pop("hashed") < 60 * 10**9
    assert record == {
        "url": host.url("w.h5"),
        "size": len(BODY),
        "sha256": DIGEST,
        "md5": "",
        "mtime": now.st_mtime_ns,
        "ctime": now.st_ctime_ns,
        "inode": now.st_ino,
    }


def damaged(path):
    """Written to in place, the times set back."""
    old = path.stat()
    with path.open("r+b") as file:
        file.write(b"?")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def replaced(path):
    """Another file of the same size and times in its place."""
    old, other = path.stat(), path.with_name("other")
    other.write_bytes(BODY[:-1] + b"?")
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    other.replace(path)


def shortened(path):
    """Its end is lost."""
    os.truncate(path, 1000)


@pytest.mark.parametrize("tamper", [damaged, replaced, shortened])
def test_a_tampered_file_is_fetched_again(host, path, settled, tamper):
    """Without a look at its bytes where nothing changed, but whatever changed them is noticed."""
    obtained(host, path)
    time.sleep(0.05)  # the file system's clock ticks every few milliseconds
    tamper(path)

    obtained(host, path)

    assert (path.read_bytes() == BODY, len(host.log), files(path)) == (True, 2, ALL)


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", json.dumps(dict.fromkeys(KEYS, 1)), json.dumps(dict.fromkeys(KEYS, "x")), "\x00"]
)
def test_an_unreadable_record_is_none(host, path, settled, record):
    """The file is hashed, and a new one written."""
    obtained(host, path)
    (path.parent / ".w.h5.json").write_text(record)

    obtained(host, path)

    assert (len(host.log), cache.read(path).digests.sha256) == (1, DIGEST)


def test_a_file_put_there_by_hand_is_hashed(host, path):
    """And fetched where it is another one."""
    path.parent.mkdir()
    path.write_bytes(BODY)
    obtained(host, path)
    right = len(host.log)
    path.write_bytes(b"not it")
    obtained(host, path)

    assert (right, len(host.log), path.read_bytes() == BODY) == (0, 1, True)


def test_a_file_that_changes_while_it_is_hashed_gets_no_record(host, path, monkeypatch):
    """What was hashed is not what lies there now."""
    path.parent.mkdir()
    path.write_bytes(BODY)
    real = cache.digests_of
    monkeypatch.setattr(cache, "digests_of", lambda *words, **more: (real(*words, **more), path.write_bytes(b"?"))[0])

    finding = cache.examine(expected(host), path)

    assert (finding.state, cache.read(path)) == ("right", None)


def test_offline_what_is_there_is_used(host, path, monkeypatch):
    """Nobody is asked; what is damaged is an error, and is not used."""
    obtained(host, path)
    monkeypatch.setenv("DENSENET_PORT_OFFLINE", "1")
    obtained(host, path)
    path.write_bytes(b"not it")

    with pytest.raises(NetworkError, match="DENSENET_PORT_OFFLINE is set"):
        obtained(host, path)

    assert len(host.log) == 1


def test_an_md5_is_compared_and_a_sha256_kept(host, path, settled):
    """A publisher's MD5 shows damage; the SHA-256 of what came is held to from then on."""
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()

    obtained(host, path, md5=md5)
    obtained(host, path, md5=md5)

    digests = cache.read(path).digests
    assert (len(host.log), digests.md5, digests.sha256) == (1, md5, DIGEST)


def test_another_file_that_fits_what_is_known_is_not_the_one_first_fetched(host, path):
    """Eight digits of a SHA-256 can be met on purpose: here it is one, which anyone meets."""
    obtained(host, path, sha256=DIGEST[0])
    path.write_bytes(TWIN)

    with pytest.raises(CorruptError, match=f"expected a SHA-256 of {DIGEST}, found .*, as first fetched"):
        obtained(host, path, sha256=DIGEST[0])

    assert len(host.log) == 1


def test_a_damaged_file_is_replaced_by_the_one_first_fetched_alone(host, path):
    """The host may not slip in another one when it is asked again."""
    obtained(host, path, sha256=DIGEST[0])
    path.write_bytes(b"not it")
    host.files["w.h5"] = TWIN

    with pytest.raises(NetworkError, match=f"expected a SHA-256 of {DIGEST}, found"):
        obtained(host, path, sha256=DIGEST[0])

    assert path.read_bytes() == b"not it"


def test_what_is_forgotten_may_change(host, path):
    """The way out, once one knows that the change was meant."""
    obtained(host, path, sha256=DIGEST[0])
    host.files["w.h5"] = TWIN
    cache.forget(path)

    obtained(host, path, sha256=DIGEST[0])

    assert path.read_bytes() == TWIN


def test_examining_hashes_whatever_the_record_says(host, path, settled):
    """A failing disk changes bytes and no times: the record is made to say so."""
    obtained(host, path)
    damaged(path)
    record = json.loads((path.parent / ".w.h5.json").read_text())
    now = path.stat()
    times = {"mtime": now.st_mtime_ns, "ctime": now.st_ctime_ns, "inode": now.st_ino}
    (path.parent / ".w.h5.json").write_text(json.dumps({**record, "size": now.st_size, **times}))
    obtained(host, path)

    assert (len(host.log), cache.examine(expected(host), path).state) == (1, "damaged")


def test_a_file_is_brought_by_hand(host, path, tmp_path, settled):
    """It is checked, copied, and used without asking."""
    (tmp_path / "download.bin").write_bytes(BODY)

    cache.put(tmp_path / "download.bin", expected(host), path)
    obtained(host, path)

    assert (path.read_bytes() == BODY, host.log, files(path)) == (True, [], ALL)


def test_a_wrong_file_is_not_brought(host, path, tmp_path):
    """Nothing is left of it."""
    (tmp_path / "download.bin").write_bytes(b"not it")

    with pytest.raises(CorruptError, match=f"download.bin: expected a SHA-256 of {DIGEST[:8]}…, found"):
        cache.put(tmp_path / "download.bin", expected(host), path)

    assert files(path) == [".w.h5.lock"]


def test_leftovers_are_removed_and_no_more(host, path):
    """Unfinished downloads, a record whose file is gone; other people's files stay."""
    path.parent.mkdir()
    temporary = ["..w.h5.json.abcdefgh", ".w.h5.0123abcd-4567-89abcdef", ".w.h5.abcdefgh"]
    left = [*temporary, ".w.h5.json", ".w.h5.part", ".w.h5.part.json"]
    for name in (*left, ".w.h5.of.mine", "notes.part", ".other.part"):
        (path.parent / name).touch()

    removed = cache.remove_leftovers(path)

    assert sorted(entry.name for entry in removed) == left
    assert files(path) == [".other.part", ".w.h5.lock", ".w.h5.of.mine", "notes.part"]


def test_a_download_under_way_is_no_leftover(host, path):
    """Its lock says so."""
    with cache.locked(path):
        (path.parent / ".w.h5.part").touch()

        assert cache.remove_leftovers(path) == []

    assert files(path) == [".w.h5.lock", ".w.h5.part"]


def test_a_lock_is_not_waited_for_for_ever(host, path, monkeypatch):
    """Whoever holds it may hang."""
    monkeypatch.setattr(cache, "LOCK", 0.1)
    with cache.locked(path), pytest.raises(DiskError, match="another process has been at it for 0 s"):
        cache.obtain(expected(host), path)

    assert host.log == []


# -- processes ---------------------------------------------------------------------------------------------------------


def lives(kind, host, path):
    """What `lives.py` tells of such processes."""
    path.parent.mkdir()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.lives", kind, path.parent],
        input=json.dumps({"url": host.url().rstrip("/"), **PINNED}),
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def begins(host):
    """Path → the first byte of each request for it."""
    firsts = {}
    for request in host.log:
        firsts.setdefault(request.path, []).append(request.first or 0)
    return firsts


def test_a_process_killed_at_any_step_leaves_what_the_next_can_use(path):
    """From the folder's making to the record's renaming: right bytes, none asked for twice, nothing left."""
    with Host({f"{step}.h5": BODY for step in range(300)}) as host:
        results = lives("steps", host, path)

    asked = begins(host)
    lost = [kept - begin for step, (_, kept, *_) in enumerate(results, start=1) for begin in asked[f"{step}.h5"][1:]]
    assert [first for first, *_ in results] == [-9] * (len(results) - 1) + [0]
    assert {(second, *left) for *_, second, left in results} == {(0, *ALL)}
    assert (len(results) > 30, len(lost) > 10, set(lost)) == (True, True, {0})


def test_fifty_killed_processes_still_bring_the_file(path):
    """Killed at any moment; each goes on from what the one before left."""
    slow = [Answer(drip=1_500)] * 50  # too slow to be done before the fifty are dead
    with Host({f"{life}.h5": BODY for life in [*range(50), "last"]}, slow) as host:
        results = lives("moments", host, path)

    left = [0, *results["left"]]
    lost = [left[int(name[:-3])] - first for name, [first] in begins(host).items() if name != "last.h5"]
    assert (results["last"], results["files"], path.read_bytes() == BODY) == (0, ALL, True)
    assert (len(lost) > 20, left[-1] > PART, set(lost)) == (True, True, {0})


def test_eight_processes_on_a_cold_cache_download_once(host, path):
    """One downloads, seven wait and use what came."""
    host.answers = [Answer(pause=0.2, at=PART)]

    codes = lives("together", host, path)

    assert (codes, len(host.log), path.read_bytes() == BODY, files(path)) == ([0] * 8, 1, True, ALL)


def test_a_dead_holder_of_the_lock_is_survived(host, path):
    """One of those who wait goes on with what it left."""
    host.answers = [Answer(pause=9, at=3 * PART)]

    codes = lives("heirs", host, path)

    assert (codes, [request.first for request in host.log]) == ([-9] + [0] * 7, [None, 3 * PART])
    assert (path.read_bytes() == BODY, files(path)) == (True, ALL)


def test_a_cache_without_rights_is_read_and_not_written(host, path):
    """A file that is there is hashed each time; one that is not is an error of the disk."""
    codes, left = lives("readonly", host, path)

    assert (codes, left, len(host.log)) == ([0, 0], [".w.h5.lock", "w.h5"], 1)
