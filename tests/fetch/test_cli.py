"""The cache as people see it: `fetch` and `cache`, in a process of its own, against a server on loopback."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from densenet_port.conversion.compare import diff
from densenet_port.conversion.load import read
from tests.cli.test_app import run
from tests.conftest import SMALL
from tests.fetch.test_registry import BODIES, MANIFEST, NO_TOP, TOP, entry
from tests.support.hosting import Host

TORCH = "densenet121-a639ec97.pth"


@pytest.fixture
def host():
    with Host({**BODIES, "manifest.json": MANIFEST.to_bytes()}) as running:
        yield running


@pytest.fixture
def call(host, tmp_path):
    """A call with the server's release, and a cache of the test's own."""

    def calling(*words, **environment):
        settings = {"DENSENET_PORT_RELEASE": host.url(), "DENSENET_PORT_CACHE": str(tmp_path / "cache")}
        return run(*words, cwd=tmp_path, **{**settings, **environment})

    return calling


def data(done):
    return json.loads(done.stdout)


def test_fetch_prints_the_path(call, tmp_path):
    """On stdout alone, for scripts; which weights they are stands on stderr."""
    done = call("fetch", "imagenet-121")

    path = Path(done.stdout.strip())
    assert (done.returncode, path.name, path.read_bytes()) == (0, TOP, BODIES[TOP])
    assert path.is_relative_to(tmp_path / "cache")
    assert done.stderr.startswith(f"imagenet 121: {TOP} of release v1.0, http://127.0.0.1:")


def test_fetch_tells_scripts_what_it_is(call, host):
    """And what it was known by."""
    result = data(call("fetch", "imagenet-121-no-top", "--json"))

    file = MANIFEST.file(NO_TOP)
    path = Path(result.pop("path"))
    assert (path.name, path.exists()) == (NO_TOP, True)
    assert result == {
        "schema": "densenet-port/fetch/1",
        "name": "imagenet-121-no-top",
        "file": NO_TOP,
        "source": "release v1.0",
        "arch": "121-no-top",
        "bytes": file.size,
        "sha256": file.sha256,
        "known_by": "sha256",
        "url": host.url(NO_TOP),
    }


@pytest.mark.parametrize(
    ("name", "environment", "code", "kind", "message"),
    [
        ("nonsense-121", {}, 2, "usage", "no weight file is registered for nonsense-121"),
        ("imagenet-201", {}, 2, "usage", "release v1.0 has no weights for 201"),
        ("imagenet-264", {"DENSENET_PORT_RELEASE": ""}, 2, "usage", "no weights are registered for imagenet 264"),
        ("imagenet-121", {"DENSENET_PORT_RELEASE": "http://x.org"}, 5, "network", "is not https"),
        ("imagenet-121", {"DENSENET_PORT_OFFLINE": "1"}, 5, "network", "DENSENET_PORT_OFFLINE is set"),
        ("imagenet-121", {"DENSENET_PORT_CACHE": "file/cache"}, 6, "disk", "Not a directory"),
    ],
)
def test_each_failure_has_its_code_and_words(call, tmp_path, name, environment, code, kind, message):
    """Nothing is printed that could be taken for a path."""
    (tmp_path / "file").write_text("in the way")

    done = call("fetch", name, "--json", **environment)

    error = data(done)["error"]
    assert (done.returncode, error["kind"], message in error["message"]) == (code, kind, True)


def test_a_corrupt_manifest_has_its_code(call, host):
    """Exit 4."""
    host.files["manifest.json"] = b"{}"

    assert call("fetch", "imagenet-121").returncode == 4


def test_convert_takes_what_imagenet_means(call, host, small, tmp_path):
    """Without a checkpoint; "imagenet" is a source and no layout, which the file tells."""
    ours = read(small).write(tmp_path / "ours.weights.h5").out
    host.files["ours.weights.h5"] = ours.read_bytes()
    file = entry("ours.weights.h5", ours.read_bytes(), arch=SMALL)
    host.files["manifest.json"] = replace(MANIFEST, files=(file,), defaults={SMALL: file.name}).to_bytes()

    done = call("convert", "--src", "imagenet", "--arch", SMALL, "--out", "mine.safetensors")

    assert (done.returncode, diff(small, tmp_path / "mine.safetensors").same) == (0, True)


def test_the_cache_is_listed(call, host):
    """What is there, whose it is and what it is known by."""
    call("fetch", "imagenet-121")

    plain, result = call("cache", "list"), data(call("cache", "list", "--json"))

    assert [(e["file"], e["source"], e["arch"], e["known_by"]) for e in result["files"]] == [
        ("manifest.json", "release v1.0", "manifest", "first use"),
        (TOP, "release v1.0", "121", "sha256"),
    ]
    assert [line.split()[0] for line in plain.stdout.splitlines()] == [result["folder"], "file", "manifest.json", TOP]


def test_an_empty_cache_is_listed(call):
    """No folder need be there."""
    assert data(call("cache", "list", "--json"))["files"] == []


def test_the_cache_is_verified(call, tmp_path):
    """Exit 0 while everything is right, 4 once something is not; nothing is removed."""
    call("fetch", "imagenet-121")
    before = call("cache", "verify")
    path = next((tmp_path / "cache").rglob(TOP))
    path.write_bytes(b"?" * path.stat().st_size)

    after = call("cache", "verify", "--json")

    assert (before.returncode, after.returncode, path.exists()) == (0, 4, True)
    assert [(e["file"], e["state"]) for e in data(after)["files"]] == [("manifest.json", "right"), (TOP, "damaged")]


def test_a_file_brought_by_hand_is_known_by_its_digest(call, tmp_path, host):
    """Whatever it is called; nobody is asked for it again."""
    call("fetch", "imagenet-169")
    (tmp_path / "download (1).h5").write_bytes(BODIES[TOP])

    brought = call("cache", "import", "download (1).h5")
    fetched = call("fetch", "imagenet-121")

    assert (brought.returncode, brought.stdout, fetched.returncode) == (0, fetched.stdout, 0)
    assert TOP not in [request.path for request in host.log]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("strange.h5", 4, "strange.h5: no known file has its SHA-256, "),
        (TORCH, 4, f"{TORCH}: expected a SHA-256 of a639ec97…, found "),
        ("absent.h5", 6, "absent.h5: cannot be read: No such file or directory"),
    ],
)
def test_a_strange_file_is_not_imported(call, tmp_path, name, code, message):
    """An error that says how it differs, where its name says what it should be."""
    if code == 4:
        (tmp_path / name).write_bytes(b"not it")

    done = call("cache", "import", name)

    assert (done.returncode, done.stderr.startswith(f"error: {message}")) == (code, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != name] == []


def test_pruning_keeps_what_is_whole(call, tmp_path):
    """Only what broken downloads left goes."""
    path = Path(call("fetch", "imagenet-121").stdout.strip())
    left = path.with_name(f".{TOP}.part")
    left.touch()

    done = data(call("cache", "prune", "--json"))

    assert (done["removed"], left.exists(), path.exists()) == ([str(left)], False, True)
    assert call("cache", "prune").stdout == "nothing to remove\n"


def test_pruning_everything_keeps_what_is_not_ours(call, tmp_path):
    """What was fetched goes, with its records; other files stay."""
    path = Path(call("fetch", "imagenet-121").stdout.strip())
    (tmp_path / "cache" / "release-notes").mkdir()
    (tmp_path / "cache" / "release-notes" / "mine.txt").touch()

    done = data(call("cache", "prune", "--all", "--json"))

    assert sorted(done["removed"]) == sorted([str(path), str(path.with_name("manifest.json"))])
    assert [entry.name for entry in (tmp_path / "cache").rglob("*")] == ["release-notes", "mine.txt"]
