"""Publishing on the Hugging Face Hub: one commit, compared, then a tag; again, interrupted, and replaced."""

import json
import sys

import pytest

from densenet_port.cli import app as cli
from densenet_port.errors import ComparisonError, NetworkError, UsageError
from densenet_port.release.hub import publish
from tests.support.hub import WRITER, Hub
from tests.support.releases import copied

REPO, TAG = "octo/weights", "v0.1.0"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub without a repository, and huggingface_hub in this process, logged in to it."""
    with Hub() as server, server.used(monkeypatch, tmp_path, token=WRITER):
        yield server


def doings(published):
    """The steps in short: what was done, and how often."""
    steps = [step.doing for step in published.steps]
    return {doing: steps.count(doing) for doing in dict.fromkeys(steps)}


def test_a_release_is_a_commit_and_a_tag(hub, release):
    """Every byte is there; a second time nothing is done, and nothing is sent."""
    count = len([path for path in release.iterdir() if path.is_file()])
    plan = publish(release, REPO, dry_run=True)
    assert (hub.repos, plan.page) == ({}, None)

    done = publish(release, REPO, tag=TAG)
    hub.log.clear()
    again = publish(release, REPO)

    assert doings(plan) == doings(done) == {"create": 1, "upload": count, "publish": 1}
    assert doings(again) == {"keep": count}
    assert done.page == again.page == f"{hub.url}/{REPO}/tree/{TAG}"
    assert [line for line in hub.log if not line.startswith("GET ")] == []
    _, files = hub.at(REPO, TAG)
    assert files == {path.name: path.read_bytes() for path in release.iterdir() if path.is_file()}


def test_an_interrupted_publication_goes_on(hub, release):
    """The commit was made and the tag was not: the tag is all that is left to do; strangers are left alone."""
    hub.make(REPO)
    hub.commit(REPO, {"README.md": b"mine", "other.txt": b"x"})
    hub.hooks.append(lambda method, path: (500, b"", {}) if "/tag/" in path else None)
    with pytest.raises(NetworkError, match=f"hf://{REPO}: the Hub answers with HTTP 500"):
        publish(release, REPO)
    hub.hooks.clear()

    done = publish(release, REPO)

    assert doings(done).keys() == {"keep", "publish"}
    assert done.notes == ("left alone on the Hub: other.txt",)
    assert len(hub.repos[REPO]["commits"]) == 3


def test_a_tag_on_other_files_stays(hub, release, tmp_path):
    """Unless it may be moved; then the old commit is still there."""
    publish(release, REPO)
    before, files = hub.at(REPO, TAG)
    name = next(name for name in files if name.endswith(".html"))
    hub.repos[REPO]["tags"][TAG] = hub.commit(REPO, {name: b"changed"})

    with pytest.raises(ComparisonError) as caught:
        publish(release, REPO)
    done = publish(release, REPO, replace=True)

    size = (release / name).stat().st_size
    assert caught.value.message == (
        f"release {TAG} has 1 files that are not those of {release}\n  {name}: {size} bytes here, 7 there"
    )
    assert {step.doing for step in done.steps} == {"keep", "upload", "delete", "publish"}
    assert hub.at(REPO, TAG)[1] == files
    assert before in dict(hub.repos[REPO]["commits"])


def test_what_did_not_arrive_gets_no_tag(hub, release):
    """The Hub says that it has another file than was sent."""
    real = type(hub).commit

    def broken(repo, files, tag=None):
        return real(hub, repo, {**files, "SHA256SUMS": b"cut"}, tag)

    hub.make(REPO)
    hub.commit = broken

    with pytest.raises(ComparisonError, match=f"release {TAG} is not what was sent\n  SHA256SUMS: "):
        publish(release, REPO)

    assert hub.repos[REPO]["tags"] == {}


def test_who_may_not_write(hub, release, monkeypatch):
    """Without a token the repository cannot be made, and with none of its own not be changed."""
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    hub.make("octo/theirs")

    for repo, status in ((REPO, 401), ("octo/theirs", 403)):
        with pytest.raises(NetworkError) as caught:
            publish(release, repo)
        assert (caught.value.message, caught.value.hint) == (
            f"hf://{repo}: the Hub answers with HTTP {status}",
            "`hf auth login`, or a token in HF_TOKEN",
        )


def test_a_folder_that_is_not_what_it_says(hub, release, tmp_path):
    """Nothing is asked of the Hub."""
    copy = copied(release, tmp_path)
    (copy / "RELEASE_NOTES.md").write_text("other notes")

    with pytest.raises(ComparisonError, match="is not what its manifest says"):
        publish(copy, REPO)
    with pytest.raises(UsageError, match="is no place on the Hub"):
        publish(release, "weights")
    assert hub.log == []


def test_the_command(hub, release, monkeypatch, capsys):
    """One place or the other."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["densenet-port", "release", "publish", str(release), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code, *capsys.readouterr())

    code, out, _ = run("--hub", REPO, "--json")
    neither = run()

    assert (code, json.loads(out)["page"]) == (0, f"{hub.url}/{REPO}/tree/{TAG}")
    assert neither == (
        2,
        "",
        (
            "error: a release is published in one place\n"
            "  --repo OWNER/NAME for GitHub, --hub OWNER/NAME for the Hugging Face Hub\n"
        ),
    )
