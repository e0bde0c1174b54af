"""A name means one file, the registered one or a release's, from where it should come; or an error says why not."""

import hashlib
import json
import logging
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from densenet_port.conversion.load import port
from densenet_port.errors import CorruptError, NetworkError, UsageError
from densenet_port.fetch import cache
from densenet_port.fetch import registry as fetch
from densenet_port.fetch.manifest import File, Manifest
from densenet_port.network.architecture import NAMED
from tests.support.hosting import Answer, Host

NETWORK = NAMED["121"]
TORCH = "densenet121-a639ec97.pth"
KERAS = "densenet121_weights_tf_dim_ordering_tf_kernels"


def entry(name, data, **options):
    """A weight file of a release."""
    empty = {key: {} for key in ("architecture", "contract", "source", "mappings", "tensors", "parity")}
    facts = {"network": "densenet121-torchvision", "arch": "121", "top": True, "container": ".weights.h5"}
    digest = hashlib.sha256(data).hexdigest()
    known = {"name": name, "size": len(data), "sha256": digest}
    return File(**{**known, **facts, "layout": "keras", "golden": None, **empty, **options})


BODIES = {
    "densenet121-torchvision.weights.h5": b"with its head" * 100,
    "densenet121-torchvision-no-top.weights.h5": b"without its head" * 100,
    "densenet121-torchvision-no-top.safetensors": b"in another container" * 100,
    "densenet169-torchvision.weights.h5": b"another network" * 100,
}
TOP, NO_TOP, OTHER, SECOND = BODIES
MANIFEST = Manifest(
    tag="v1.0",
    tool="densenet-port 0.1.0",
    files=(
        entry(OTHER, BODIES[OTHER], top=False, container=".safetensors"),
        entry(TOP, BODIES[TOP]),
        entry(NO_TOP, BODIES[NO_TOP], top=False),
        entry(SECOND, BODIES[SECOND], network="densenet169-torchvision", arch="169"),
    ),
    documents=(),
    defaults={"121": TOP, "169": SECOND},
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    """A cache of the test's own, and no other settings."""
    for name in ("MIRROR", "RELEASE", "OFFLINE"):
        monkeypatch.delenv(f"DENSENET_PORT_{name}", raising=False)
    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def host(monkeypatch):
    """A server with a release and with files by registered names."""
    with Host({**BODIES, "manifest.json": MANIFEST.to_bytes()}) as running:
        yield running


@pytest.fixture
def mirror(host, monkeypatch):
    """The server stands in for every host, and its files for the registered ones."""
    names = {
        ("torchvision", "121"): TORCH,
        ("keras", "121"): f"{KERAS}.h5",
        ("keras", "121-no-top"): f"{KERAS}_notop.h5",
    }
    host.files |= {name: f"the bytes of {name}".encode() for name in names.values()}
    digest = {name: hashlib.sha256(host.files[name]).hexdigest()[:8] for name in names.values()}
    entries = {key: fetch.Registered(url=f"https://x.org/{n}", sha256=digest[n]) for key, n in names.items()}
    monkeypatch.setattr(fetch, "registry", lambda: entries)
    monkeypatch.setenv("DENSENET_PORT_MIRROR", host.url())
    return host


@pytest.fixture
def published(host, monkeypatch):
    """The server's release is the one in use."""
    monkeypatch.setenv("DENSENET_PORT_RELEASE", host.url("manifest.json"))
    return host


def paths(host):
    return [request.path for request in host.log]


def got(source, architecture=NETWORK):
    return fetch.registered(source, architecture, port=port)


# -- the registry ------------------------------------------------------------------------------------------------------


def source_of(package, *path):
    """The text of an installed package's module; nothing is imported."""
    return Path(find_spec(package).origin).parent.joinpath(*path).read_text(encoding="utf-8")


def test_torchvision_and_the_registry_agree():
    """URLs are those that the installed torchvision names; their digests stand in them."""
    owners = set(re.findall(r'url="(.*)"', source_of("torchvision", "models", "densenet.py")))
    entries = {entry.url: entry.sha256 for (source, _), entry in fetch.registry().items() if source == "torchvision"}

    assert (set(entries), len(entries)) == (owners, 4)
    assert all(f"-{digest}." in url for url, digest in entries.items())


def test_keras_applications_and_the_registry_agree():
    """URLs and MD5 are those that the installed Keras names: the files with a head first, then those without."""
    text = source_of("keras", "src", "applications", "densenet.py")
    (base,), names = re.findall(r'"(https://.*/)"', text), re.findall(r"densenet\d+_weights_\w+\.h5", text)
    names = sorted(dict.fromkeys(names), key=lambda name: "notop" in name)
    owners = dict(zip([base + name for name in names], re.findall(r'file_hash="(\w+)"', text), strict=True))
    entries = {
        entry.url: entry.md5 for (source, _), entry in fetch.registry().items() if source == "keras-applications"
    }

    assert (entries, len(entries)) == (owners, 6)


def test_the_registry_has_one_place_for_each_file():
    """By https, each under a name of its own, each with a digest."""
    entries = fetch.registry()

    assert len({entry.name for entry in entries.values()}) == len(entries) == 16
    assert all(entry.url.startswith("https://") for entry in entries.values())
    assert all(re.fullmatch(r"[0-9a-f]{8}|", entry.sha256) for entry in entries.values())
    assert all(re.fullmatch(r"[0-9a-f]{32}|", entry.md5) and entry.md5 + entry.sha256 for entry in entries.values())


def test_what_is_not_registered_is_said():
    """Never another network's weights for a name."""
    with pytest.raises(UsageError, match="no weight file is registered for torchvision 264") as error:
        got("torchvision", NAMED["264"])

    assert "registered: torchvision-121, " in error.value.hint


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_mirror_is_asked_in_place_of_the_host(mirror):
    """By the file's name alone; the second call asks nobody."""
    first, second = got("torchvision"), got("torchvision")

    assert (first, first.read_bytes()) == (second, mirror.files[TORCH])
    assert (first, paths(mirror)) == (cache.folder() / TORCH, [TORCH])


def test_a_mirror_changes_no_digest(mirror):
    """Wrong bytes from there are wrong bytes."""
    mirror.files[TORCH] = b"not it"

    with pytest.raises(NetworkError, match="expected a SHA-256 of") as error:
        got("torchvision")

    assert f"densenet-port cache import {TORCH}" in error.value.hint
    assert not (cache.folder() / TORCH).exists()


@pytest.mark.parametrize(
    ("source", "head", "name"),
    [
        ("keras", True, f"{KERAS}.h5"),
        ("keras", False, f"{KERAS}_notop.h5"),
        ("torchvision", False, TORCH),
    ],
)
def test_a_network_without_a_head_takes_the_file_without_one(mirror, source, head, name):
    """Where there is one; else a head too many does no harm."""
    assert got(source, NETWORK if head else NETWORK.without_head()).name == name


@pytest.mark.parametrize("name", ["torchvision-121", "keras-121-no-top"])
def test_a_file_has_a_name(mirror, name):
    """As `fetch` takes it."""
    entry = fetch.registry()[tuple(name.split("-", 1))]

    assert fetch.named(name, port=port) == cache.folder() / entry.name


@pytest.mark.parametrize("name", ["torchvision-264", "torchvision-121-no-top", "imagenet", "nonsense", ""])
def test_a_name_that_means_nothing_is_said(mirror, name):
    """With those that mean something."""
    with pytest.raises(UsageError, match=f"no weight file is registered for {name}"):
        fetch.named(name, port=port)

    assert mirror.log == []


@pytest.mark.parametrize("variable", ["DENSENET_PORT_MIRROR", "DENSENET_PORT_RELEASE"])
@pytest.mark.parametrize(
    "url", ["mirror", "file:///srv", "https://", "https://me:secret@x.org/", "https://x.org/?key=secret"]
)
def test_a_setting_that_is_no_folder_is_said(monkeypatch, variable, url):
    """Before anything is asked for, and without its secrets."""
    monkeypatch.setenv(variable, url)

    with pytest.raises(UsageError, match=f"{variable}: expected a URL such as https://host/folder") as error:
        got("imagenet")

    assert "secret" not in str(error.value)


def test_plain_http_is_for_the_loopback(monkeypatch):
    """A mirror elsewhere needs a certificate."""
    monkeypatch.setenv("DENSENET_PORT_MIRROR", "http://mirror.example.org/")

    with pytest.raises(NetworkError, match="http://mirror.example.org/densenet121-a639ec97.pth is not https"):
        got("torchvision")


# -- releases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "name"), [(True, TOP), (False, NO_TOP)])
def test_imagenet_is_the_releases_default(published, head, name):
    """With its head or without, in the default's own container; the second call asks nobody."""
    architecture = NETWORK if head else NETWORK.without_head()

    first, second = got("imagenet", architecture), got("imagenet", architecture)

    assert (first.name, first.read_bytes(), second) == (name, BODIES[name], first)
    assert paths(published) == ["manifest.json", name]


@pytest.mark.parametrize(("name", "file"), [("imagenet-169", SECOND), ("imagenet-121-no-top", NO_TOP)])
def test_imagenet_has_names(published, name, file):
    """As the others do."""
    assert fetch.named(name, port=port).name == file


def test_imagenet_says_what_it_is(published, caplog):
    """Once: which file, of which release, from where."""
    fetch._warn.cache_clear()

    with caplog.at_level(logging.WARNING):
        got("imagenet")
        got("imagenet")

    base = published.url().rstrip("/")
    assert caplog.messages == [f"imagenet 121: {TOP} of release v1.0, {base}"]


def pinned(monkeypatch, url, digest):
    """The registry says where the release is, and what its manifest must hash to."""
    table = {"release": {"manifest": url, "sha256": digest, "instead": "torchvision"}}
    monkeypatch.setattr(fetch, "_table", lambda: table)


def test_a_mirror_may_hold_the_release(host, monkeypatch):
    """Its manifest lies beside its files; where no release is registered, nobody asks for one."""
    pinned(monkeypatch, "https://x.org/manifest.json", hashlib.sha256(MANIFEST.to_bytes()).hexdigest())
    monkeypatch.setenv("DENSENET_PORT_MIRROR", host.url())

    assert (got("imagenet").name, paths(host)) == (TOP, ["manifest.json", TOP])


def test_a_release_without_the_network_has_none(published):
    """And says what it has."""
    with pytest.raises(UsageError, match="release v1.0 has no weights for 201") as error:
        got("imagenet", NAMED["201"])

    assert error.value.hint == "it has: 121, 169; or pass a file of your own"


def test_a_release_is_used_offline_once_it_was_fetched(published, monkeypatch):
    """Nobody is asked for what is there."""
    first = got("imagenet")
    monkeypatch.setenv("DENSENET_PORT_OFFLINE", "1")

    assert (got("imagenet"), len(published.log)) == (first, 2)


def test_a_registered_release_needs_no_setting(host, monkeypatch):
    """As it will be once there is one."""
    pinned(monkeypatch, host.url("manifest.json"), hashlib.sha256(MANIFEST.to_bytes()).hexdigest())

    assert got("imagenet").read_bytes() == BODIES[TOP]


def test_a_manifest_that_was_tampered_with_is_refused(host, monkeypatch):
    """The registry knows its digest, whoever hosts it."""
    pinned(monkeypatch, host.url("manifest.json"), hashlib.sha256(MANIFEST.to_bytes()).hexdigest())
    host.files["manifest.json"] = MANIFEST.to_bytes().replace(b"v1.0", b"v1.1")

    with pytest.raises(NetworkError, match="manifest.json: expected a SHA-256 of"):
        got("imagenet")

    assert list(cache.folder().rglob("manifest.json")) == []


def test_a_cached_manifest_that_was_tampered_with_is_refused(published):
    """Its digest was recorded when it first came."""
    got("imagenet")
    path = next(cache.folder().glob("release-*/manifest.json"))
    path.write_bytes(MANIFEST.to_bytes().replace(b"v1.0", b"v1.1"))

    with pytest.raises(CorruptError, match="manifest.json: expected a SHA-256 of .* as first fetched"):
        got("imagenet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 7}, "expected 7 bytes, the server announces 1300"),
        ({"sha256": "0" * 64}, f"expected a SHA-256 of {'0' * 64}, found "),
    ],
    ids=["size", "digest"],
)
def test_a_manifest_that_its_files_do_not_fit_is_an_error(published, change, message):
    """Whichever of the two is wrong, nothing is loaded."""
    content = json.loads(MANIFEST.to_bytes())
    content["files"][1] |= change
    published.files["manifest.json"] = json.dumps(content).encode()

    with pytest.raises(NetworkError) as error:
        got("imagenet")

    assert message in str(error.value)
    assert list(cache.folder().rglob(TOP)) == []


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b'{"schema": "densenet-port/release/9"}', b"<!doctype html>"]
)
def test_a_manifest_that_is_none_does_not_stay(published, data):
    """An error that names the URL; once the server is mended, so is the release."""
    published.files["manifest.json"] = data
    with pytest.raises(CorruptError, match=r"/manifest\.json: "):
        got("imagenet")
    published.files["manifest.json"] = MANIFEST.to_bytes()

    assert got("imagenet").name == TOP


def test_a_manifest_names_no_path(published):
    """A name that leaves the cache's folder is no name."""
    published.files["manifest.json"] = MANIFEST.to_bytes().replace(TOP.encode(), b"../../.ssh/authorized_keys")

    with pytest.raises(CorruptError, match="name: expected letters"):
        got("imagenet")


def test_a_cached_manifest_names_no_path(published, tmp_path):
    """What it names outside the cache is neither known nor removed with it."""
    got("imagenet")
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    manifest = next(cache.folder().glob("release-*/manifest.json"))
    manifest.write_bytes(MANIFEST.to_bytes().replace(TOP.encode(), str(outside).encode()))

    known = {entry.path for entry in fetch.known()}
    fetch.prune(everything=True)

    assert (outside in known, outside.read_bytes()) == (False, b"mine")


def test_a_page_in_place_of_the_manifest_is_said(published):
    """A network that wants a login first."""
    published.answers = [Answer(body=b"<html>", headers={"Content-Type": "text/html"})]

    with pytest.raises(NetworkError, match="found a web page"):
        got("imagenet")


# -- what is known -----------------------------------------------------------------------------------------------------


def test_every_file_of_a_release_is_known(published):
    """The registry's, the manifest and what it names, each with its place."""
    got("imagenet")

    held = {known.path.name: (known.source, known.arch) for known in fetch.known()}

    assert held[TORCH] == ("torchvision", "121")
    assert held["manifest.json"] == ("release v1.0", "manifest")
    assert {held[name] for name in (TOP, NO_TOP, SECOND)} == {
        ("release v1.0", "121"),
        ("release v1.0", "121-no-top"),
        ("release v1.0", "169"),
    }


def test_a_damaged_manifest_is_known_alone(published):
    """So that it can be said and removed."""
    got("imagenet")
    next(cache.folder().glob("release-*/manifest.json")).write_bytes(b"{")

    assert [known.path.name for known in fetch.known() if known.source == "release"] == ["manifest.json"]
