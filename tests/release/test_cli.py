"""`release build`, `verify` and `publish` as scripts and CI see them."""

import json
import sys

import pytest

from densenet_port.cli import app as cli
from densenet_port.release import build as building
from densenet_port.release import network as networks
from tests.support.github import WRITER, GitHub
from tests.support.releases import FIRST, SPECS, copied, sources


@pytest.fixture
def run(monkeypatch, capsys):
    """One call of the command in this process: exit code, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["densenet-port", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def words(release, tmp_path):
    """A build of a network that is kept, because it was built before."""
    copy = copied(release, tmp_path)
    source = sources(release.parent, SPECS[0])[0]
    return ["release", "build", "--out", copy, "--arch", SPECS[0], "--checkpoint", source, "--backend", "numpy"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The few sizes of the tests stand for those that a build has by itself."""
    monkeypatch.setattr(
        networks.Options.__init__, "__kwdefaults__", {**networks.Options.__init__.__kwdefaults__, "sizes": ()}
    )


def test_build_says_what_it_did(words, run):
    """A line for each network, and the release."""
    assert run(*words) == (0, f"{FIRST}: kept, 4 files\n{words[3]}: release v0.1.0\n", "")


def test_build_as_json(words, run):
    """One object, with every file."""
    code, out, _ = run(*words, "--tag", "v2", "--json")

    result = json.loads(out)
    assert (code, result["schema"], result["passed"], result["tag"]) == (0, "densenet-port/release-build/1", True, "v2")
    assert [(network["kept"], len(network["files"])) for network in result["networks"]] == [(True, 4)]


def test_a_failed_check_is_exit_code_one(words, run, monkeypatch):
    """Which network, which checks, and where its report is."""
    failed = networks.BuiltNetwork(name=FIRST, arch=SPECS[0], failed=("float64, noise 64",), report=words[3])
    monkeypatch.setattr(building, "convert_and_check", lambda *_: failed)

    code, out, _ = run(*words, "--size", "65")

    assert (code, out.splitlines()) == (
        1,
        [
            f"{FIRST}: FAILED its check, and is not in the release; see {words[3]}",
            "  float64, noise 64",
            f"{words[3]}: no release",
        ],
    )


def test_verify_says_what_it_judged(release, run):
    """Every check, and what was not looked at."""
    code, out, _ = run("release", "verify", release)

    lines = out.splitlines()
    counts = f"8 weight files, {len(lines) - 2} checks"
    assert (code, lines[0]) == (0, f"{release}: release v0.1.0, {counts}, every check passed")
    assert [line for line in lines[1:-1] if not line.endswith("  ok")] == []
    assert lines[-1] == "note: the release is not signed"


def test_a_release_that_is_not_what_it_was_is_exit_code_one(release, run, tmp_path):
    """With what was found, for a script too."""
    copy = copied(release, tmp_path)
    (copy / "RELEASE_NOTES.md").write_text("other notes")

    code, out, _ = run("release", "verify", copy, "--json")

    result = json.loads(out)
    assert (code, result["schema"], result["passed"]) == (1, "densenet-port/release-verify/1", False)
    assert [check["name"] for check in result["checks"] if not check["passed"]] == ["RELEASE_NOTES.md"]


@pytest.mark.parametrize(
    ("place", "code", "kind"),
    [
        ("nowhere", 2, "usage"),
        ("octo/we?ights@v1", 2, "usage"),
        ("http://127.0.0.1:9/x", 5, "network"),
        (".", 6, "disk"),
    ],
)
def test_what_cannot_be_verified_has_its_exit_code(place, code, kind, run, monkeypatch, tmp_path):
    """Usage, network, disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densenet_port.fetch.http.sleep", lambda _seconds: None)

    ended, out, _ = run("release", "verify", place, "--json")

    assert (ended, json.loads(out)["error"]["kind"]) == (code, kind)


def test_publish_shows_its_plan_and_then_its_page(release, run, monkeypatch):
    """A dry run, the run, and the run again."""
    with GitHub() as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url("api"))
        monkeypatch.setenv("GH_TOKEN", WRITER)
        monkeypatch.delenv("GITHUB_TOKEN", raising=False)
        words = ("release", "publish", release, "--repo", "octo/weights", "--tag", "v0.1.0")
        plan = run(*words, "--dry-run")
        done = run(*words)
        again = run(*words, "--json")

    result = json.loads(again[1])
    assert [plan[0], done[0], again[0]] == [0, 0, 0]
    assert plan[1].splitlines()[0] == "  create v0.1.0: there is no release of this tag"
    assert plan[1].splitlines()[-1] == "octo/weights v0.1.0: would be done (--dry-run)"
    assert done[1].splitlines()[-1] == f"octo/weights v0.1.0: done: {result['page']}"
    assert (result["schema"], {step["doing"] for step in result["steps"]}) == (
        "densenet-port/release-publish/1",
        {"keep"},
    )
