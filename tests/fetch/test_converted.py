"""What "imagenet" means while no release is published: another's file, converted once, on its first use, for all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from densenet_port.about import TOOL
from densenet_port.conversion import write
from densenet_port.conversion.load import port, read
from densenet_port.errors import NetworkError, UsageError
from densenet_port.fetch import cache, converted
from densenet_port.fetch import registry as fetch
from densenet_port.files import file_digest
from densenet_port.network.architecture import NAMED, Architecture
from tests.support.hosting import Host
from tests.support.networks import checkpoint_file

TINY = "layers=2,growth_rate=4,init_channels=8"  # 1000 classes, as a spec has it that does not say
NETWORK = Architecture.named(TINY)
ORIGINAL, OURS = "tiny-0123abcd.pth", "tiny-0123abcd.weights.h5"
ALL = sorted(
    f"{begin}{name}{end}" for name in (ORIGINAL, OURS) for begin, end in (("", ""), (".", ".json"), (".", ".lock"))
)


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A server in torchvision's place, with a file that torch wrote; a cache of the test's own."""
    for name in ("RELEASE", "OFFLINE"):
        monkeypatch.delenv(f"DENSENET_PORT_{name}", raising=False)
    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path / "cache"))
    fetch._warn.cache_clear()
    with Host({}) as running:
        monkeypatch.setenv("DENSENET_PORT_MIRROR", running.url())
        put_up(running, monkeypatch, tmp_path, seed=0)
        yield running


def put_up(host, monkeypatch, folder, seed):
    """Have the server give a random network's file, and the registry its digest; the file."""
    file = checkpoint_file(folder, TINY, "hosted", seed)
    host.files[ORIGINAL] = file.read_bytes()
    entry = fetch.Registered(url=f"https://example.org/{ORIGINAL}", sha256=file_digest(file)[:8])
    monkeypatch.setattr(fetch, "registry", lambda: {("torchvision", TINY): entry})
    return file


def used(architecture=NETWORK):
    return fetch.registered("imagenet", architecture, port=port)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def same(one, other):
    """Whether two files hold the same weights, to the bit, under one contract."""
    first, second = read(one), read(other)
    return first.contract == second.contract and all(
        np.array_equal(array, second.weights[slot]) for slot, array in first.weights.items()
    )


def test_the_first_use_converts_and_the_second_needs_nobody(host, tmp_path, monkeypatch, caplog):
    """Bit for bit the original's network; one line says what it is. Then neither host nor original is looked at."""
    first, said = used(), [*caplog.messages]
    original = cache.folder() / ORIGINAL
    is_same, record = same(first, original), read(first).checkpoint.record
    original.unlink()
    monkeypatch.setenv("DENSENET_PORT_OFFLINE", "1")

    second = used()

    assert (first, second, is_same) == (cache.folder() / OURS, first, True)
    assert record["source"] == {
        "layout": "torchvision",
        "container": "pth",
        "sha256": hashlib.sha256(host.files[ORIGINAL]).hexdigest(),
    }
    assert said == [f"imagenet {TINY}: torchvision's {ORIGINAL}, as no release is published; cached as {first}"]
    assert (caplog.messages, [request.path for request in host.log]) == (said, [ORIGINAL])


def test_a_name_is_read_by_the_same_rule(host):
    """`read` takes our file, and says where its contract is known from as if it had read the original."""
    network = read(f"imagenet-{TINY}")

    original = read(cache.folder() / ORIGINAL, src="torchvision")
    assert network.checkpoint.path == cache.folder() / OURS
    assert (network.contract, network.origins) == (original.contract, original.origins)


def test_a_file_with_a_head_is_none_without_one(host):
    """What a name says holds; the next step is said."""
    with pytest.raises(UsageError) as error:
        fetch.named(f"imagenet-{TINY}-no-top", port=port)

    assert host.log == []
    assert str(error.value) == (
        f"imagenet-{TINY}-no-top: no release is published, and torchvision's files have their heads\n"
        f"  read imagenet-{TINY}, and leave its head out (--no-top, no_top=True)"
    )


def test_a_network_without_a_set_is_said_before_anyone_is_asked(host):
    with pytest.raises(UsageError) as error:
        used(NAMED["264"])

    assert (str(error.value), host.log) == (
        f"no weights are registered for imagenet 264\n  imagenet has: {TINY}; or pass a file of your own",
        [],
    )


def test_wrong_bytes_are_refused_and_nothing_is_cached(host):
    """Neither the original nor anything made of it."""
    host.files[ORIGINAL] += b"?"

    with pytest.raises(NetworkError, match=f"{ORIGINAL}: expected a SHA-256 of "):
        used()

    assert files(cache.folder()) == [f".{ORIGINAL}.lock", f".{OURS}.lock"]


def test_offline_the_error_says_what_to_bring_and_then_it_works(host, tmp_path, monkeypatch):
    """URL, name, place, command; the file that was brought is converted without a network."""
    monkeypatch.setenv("DENSENET_PORT_OFFLINE", "1")
    with pytest.raises(NetworkError) as error:
        used()
    (tmp_path / "brought.bin").write_bytes(host.files[ORIGINAL])

    fetch.import_file(tmp_path / "brought.bin")

    assert str(error.value) == (
        f"{host.url(ORIGINAL)} is not downloaded: DENSENET_PORT_OFFLINE is set\n"
        "  unset DENSENET_PORT_OFFLINE; or bring the file: "
        f"`densenet-port cache import {ORIGINAL}` copies it to {cache.folder() / ORIGINAL}; "
        "or pass its path in place of the name"
    )
    assert (same(used(), cache.folder() / ORIGINAL), host.log) == (True, [])


def damaged(path, monkeypatch):
    """A byte is another one."""
    digest = file_digest(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    return f"is damaged (expected a SHA-256 of {digest}, found {file_digest(path)})"


def unfinished(path, monkeypatch):
    """Whoever made it died before it was recorded."""
    path.with_name(f".{path.name}.json").unlink()
    return "was not finished"


def older(path, monkeypatch):
    """Another version made it, and knew no better."""
    cache.forget(path)
    with monkeypatch.context() as before:
        before.setattr(write, "TOOL", "densenet-port 0.0.9")
        used()
    return f"was made by densenet-port 0.0.9, and this is {TOOL}"


def of_other_tables(path, monkeypatch):
    """A name in a table was corrected since."""
    monkeypatch.setattr(converted, "Layout", SimpleNamespace(load=lambda _: SimpleNamespace(digest="0" * 64)))
    return "was made by another table for torchvision"


@pytest.mark.parametrize("change", [damaged, unfinished, older, of_other_tables])
def test_what_is_not_right_any_more_is_made_again(host, change, monkeypatch, caplog):
    """Of the original in the cache, without a network; a line says why. No wrong number is ever used."""
    path = used()
    right = path.read_bytes()
    fault = change(path, monkeypatch)
    monkeypatch.setenv("DENSENET_PORT_OFFLINE", "1")
    caplog.clear()

    again = used()

    assert (again, again.read_bytes() == right, files(path.parent)) == (path, True, ALL)
    assert caplog.messages == [f"{path} {fault}: it is made again"]


def test_another_file_in_the_registry_is_another_conversion(host, tmp_path, monkeypatch, caplog):
    """Under the same name: what was made of the old one is not taken for it."""
    old = file_digest(cache.folder() / used().with_suffix("").with_suffix(".pth").name)
    new = put_up(host, monkeypatch, tmp_path, seed=1)

    assert same(used(), new)
    assert caplog.messages[-1].endswith(f"{OURS} was made of a file whose SHA-256 is {old}: it is made again")


def test_the_cache_knows_both_files(host):
    """They are listed, verified and removed together."""
    path = used()
    known = [(entry.source, entry.arch, entry.path.name, entry.known_by) for entry in fetch.listed()]
    states = [cache.examine(entry.expected, entry.path).state for entry in fetch.listed()]
    path.write_bytes(b"not it")
    after = [cache.examine(entry.expected, entry.path).state for entry in fetch.listed()]

    removed = fetch.prune(everything=True)

    assert known == [("torchvision", TINY, ORIGINAL, "sha256-prefix"), ("imagenet", TINY, OURS, "sha256")]
    assert (states, after) == (["right", "right"], ["right", "damaged"])
    assert (removed, files(path.parent)) == (
        [path.with_name(ORIGINAL), path],
        [f".{ORIGINAL}.lock", f".{OURS}.lock"],
    )


# -- processes ---------------------------------------------------------------------------------------------------------


def lives(kind, host, folder):
    """What `first_lives.py` tells of such processes."""
    original, out = folder / "original.pth", folder / "out.weights.h5"
    original.write_bytes(host.files[ORIGINAL])
    port(original, "torchvision", out)
    known = {"url": host.url(ORIGINAL), "sha256": file_digest(original)[:8], "arch": TINY, "port": file_digest(out)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.first_lives", kind, cache.folder()],
        input=json.dumps(known),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_eight_processes_on_a_cold_cache_download_and_convert_once(host, tmp_path):
    """Each has the right file."""
    codes = lives("together", host, tmp_path)

    assert (codes, len(host.log), files(cache.folder())) == ([0] * 8, 1, ALL)


def test_a_process_killed_at_any_step_leaves_what_the_next_can_use(host, tmp_path):
    """Between the folder's making and the last record: the next one has the right file, and nothing else is left."""
    results = lives("steps", host, tmp_path)

    assert [first for first, *_ in results] == [-9] * (len(results) - 1) + [0]
    assert {(second, *left) for _, second, left in results} == {(0, *ALL)}
    assert len(results) > 20
