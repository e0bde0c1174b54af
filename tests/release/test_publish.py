"""Publishing: whatever happens on the way, the same release stands at the end, or an error and nothing public."""

import json
import os
import subprocess
import sys
from itertools import product

import pytest

from densenet_port.errors import ComparisonError, NetworkError, PortError, UsageError
from densenet_port.fetch import manifest
from densenet_port.fetch.http import RetryPolicy
from densenet_port.release import build as building
from densenet_port.release.github import GitHub as Client
from densenet_port.release.publish import publish
from densenet_port.release.verify import verify
from tests.support.github import READER, REPO, WRITER, DropError, GitHub, Reply
from tests.support.releases import FIRST, copied

TAG = "v0.1.0"
CHANGES = {"POST", "PATCH", "DELETE"}


@pytest.fixture(scope="module")
def small(release, tmp_path_factory):
    """A release of few files: one of weights, golden logits, notes; what stands once makes it five."""
    folder = copied(release, tmp_path_factory.mktemp("small"))
    content = json.loads((folder / "manifest.json").read_bytes())
    content["files"] = content["files"][:1]
    content["documents"] = [
        entry for entry in content["documents"] if entry["name"] in (f"{FIRST}.golden.npz", "RELEASE_NOTES.md")
    ]
    content["defaults"] = {content["files"][0]["arch"]: content["files"][0]["name"]}
    building.write_manifest(manifest.parsed(json.dumps(content).encode(), "m"), folder)
    return folder


@pytest.fixture
def server():
    """A GitHub without releases. Every fault that a test plants must have happened."""
    with GitHub() as running:
        yield running
    assert [hook for hook in running.hooks if getattr(hook, "left", None)] == []


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between tries, which are counted and not made."""
    seconds = []
    monkeypatch.setattr("densenet_port.fetch.http.sleep", seconds.append)
    return seconds


def client_of(server, *, repo=REPO, token=WRITER):
    """A client of the server that tries three times."""
    policy = RetryPolicy(tries=3, backoff=0.5, longest_wait=900)
    return Client(repo, api=server.url("api"), token=token, policy=policy)


def published(folder, server, **more):
    """Publish the release in a folder."""
    client = {key: more.pop(key) for key in ("repo", "token") if key in more}
    return publish(folder, client_of(server, **client), **more)


def sent(folder):
    """Name → bytes of what a release's folder has to offer."""
    index = manifest.read(folder / "manifest.json")
    names = [*(entry.name for entry in index.entries()), "manifest.json", "SHA256SUMS"]
    names += ["manifest.json.sig"] * (folder / "manifest.json.sig").exists()
    return {name: (folder / name).read_bytes() for name in names}


def changes(server):
    """The requests that changed something, in order."""
    return [str(request) for request in server.log if request.method in CHANGES]


def once(do, match, moment="before"):
    """A hook that does something at the first request whose text has `match` in it, at that moment."""
    left = [True]

    def hook(request):
        if left and match in f"{request} {request.query}" and request.moment == moment:
            left.clear()
            return do(request) if callable(do) else do
        return None

    hook.left = left
    return hook


def drop(_request):
    raise DropError


# -- the way it goes ---------------------------------------------------------------------------------------------------


def test_a_release_is_published_whole(small, server):
    """A draft, every file, and then it is public; the manifest and the sums come last."""
    done = published(small, server)

    assert server.held(TAG) == (sent(small), True)
    assert [step.doing for step in done.steps] == ["create", *["upload"] * 5, "publish"]
    assert [step.name for step in done.steps][-3:-1] == ["SHA256SUMS", "manifest.json"]
    assert done.page == server.url("web", f"/{REPO}/releases/tag/{TAG}")
    (release,) = server.releases.values()
    assert (release["name"], release["body"]) == (TAG, (small / "RELEASE_NOTES.md").read_text())


def test_nothing_is_public_before_everything_is_there(small, server):
    """Whoever looks in between finds no release."""
    drafts = []
    server.hooks.append(lambda _request: drafts.extend(held["draft"] for held in server.releases.values()))

    published(small, server)

    assert set(drafts[:-1]) == {True}


def test_a_public_release_is_left_as_it_is(small, server):
    """Again, and nothing is changed; not even a token is needed."""
    published(small, server)
    before = len(changes(server))

    done = published(small, server, token="")

    assert ({step.doing for step in done.steps}, len(changes(server))) == ({"keep"}, before)


def test_a_dry_run_changes_nothing(small, server):
    """It shows what would be done, and why."""
    done = published(small, server, dry_run=True)

    assert ([step.doing for step in done.steps], done.page) == (["create", *["upload"] * 5, "publish"], None)
    assert changes(server) == []


def test_a_draft_is_found_on_a_later_page_and_its_files_too(small):
    """Lists come in pages; other releases and other people's files are left alone."""
    with GitHub(most=2) as server:
        for tag in ("a", "b", TAG, "c", "d", "e"):
            client_of(server).create(tag, "")
        published(small, server, dry_run=True)
        draft = next(held for held in server.releases.values() if held["tag_name"] == TAG)
        client = client_of(server)
        client.upload(client.drafts(TAG)[0], small / "manifest.json")

        done = published(small, server)

        assert (server.held(TAG), draft["draft"]) == ((sent(small), True), False)
        assert [step.name for step in done.steps if step.doing == "keep"] == ["manifest.json"]


def test_of_several_drafts_the_oldest_is_taken(small, server):
    """The others are told."""
    client = client_of(server)
    first, _ = client.create(TAG, ""), client.create(TAG, "")

    done = published(small, server)

    assert (server.releases[first.id]["draft"], done.notes) == (False, (f"1 more drafts of {TAG} are left alone",))


def test_files_of_others_are_told_and_left(small, server, tmp_path):
    """What the manifest does not know stays."""
    stranger = tmp_path / "stranger.txt"
    stranger.write_text("hello")
    client = client_of(server)
    client.upload(client.create(TAG, ""), stranger)

    done = published(small, server)

    assert (done.notes, server.held(TAG)[0]["stranger.txt"]) == (("left alone on the server: stranger.txt",), b"hello")


# -- files that differ -------------------------------------------------------------------------------------------------


@pytest.fixture
def other(small, server):
    """A server with a draft in which one file has other bytes."""
    release = small / f"{FIRST}.weights.h5"
    client = client_of(server)
    draft = client.create(TAG, "")
    client.upload(draft, release)
    (asset,) = server.releases[draft.id]["assets"].values()
    asset["data"] = asset["data"][:-1] + b"?"
    return server


def test_a_file_that_differs_is_never_overwritten(small, other):
    """An error that says how, and nothing changes."""
    before = len(changes(other))

    with pytest.raises(ComparisonError, match="1 files that are not those of") as caught:
        published(small, other)

    assert f"{FIRST}.weights.h5: SHA-256 " in caught.value.message
    assert (len(changes(other)), caught.value.hint.startswith("pass --replace")) == (before, True)


def test_a_file_that_differs_is_replaced_when_told_so(small, other):
    """Deleted, then uploaded."""
    done = published(small, other, replace=True)

    assert ([step.doing for step in done.steps][:2], other.held(TAG)) == (["delete", "upload"], (sent(small), True))


def test_another_size_is_told(small, other):
    """By its bytes."""
    asset = next(iter(next(iter(other.releases.values()))["assets"].values()))
    asset["data"] = b"short"

    with pytest.raises(ComparisonError, match=r"weights\.h5: \d+ bytes here, 5 there"):
        published(small, other)


@pytest.mark.parametrize("same", [True, False])
def test_a_name_that_somebody_took_meanwhile(same, small, server):
    """422: the same bytes are right, whoever was quicker; others are not overwritten."""
    taken = (small / "manifest.json").read_bytes() if same else b"{}"

    def take(_request):
        (release,) = server.releases.values()
        number = next(server.numbers)
        asset = {"id": number, "name": "manifest.json", "state": "uploaded", "content_type": None, "data": taken}
        release["assets"][number] = asset

    server.hooks.append(once(take, "'name': ['manifest.json']"))
    if same:
        published(small, server)
    else:
        with pytest.raises(ComparisonError, match=r"manifest\.json: \d+ bytes here, 2 there"):
            published(small, server)

    held, public = server.held(TAG)
    assert (held["manifest.json"], public) == (taken, same)


def test_bytes_that_were_changed_on_the_way_are_never_public(small, server):
    """The server's own digest says so, at once or at the end; the draft stays one."""

    def change(_request):
        asset = next(asset for held in server.releases.values() for asset in held["assets"].values())
        asset["data"] = b"?" + asset["data"][1:]

    server.hooks.append(once(change, "SHA256SUMS", "after"))

    with pytest.raises(ComparisonError, match="is not what was sent\n  .*SHA-256"):
        published(small, server)

    assert [held["draft"] for held in server.releases.values()] == [True]


@pytest.mark.parametrize(("late", "error"), [(1, None), (99, "the server tells no digest")])
def test_a_digest_may_come_late_but_must_come(late, error, small, server):
    """It is asked for again a few times; without it nothing can be compared."""
    plain, left = server.asset_json, [late * 5]

    def without(release, asset):
        left[0] -= 1
        return {**plain(release, asset), **({"digest": None} if left[0] >= 0 else {})}

    server.asset_json = without
    if error is None:
        published(small, server)
    else:
        with pytest.raises(ComparisonError, match=error):
            published(small, server)

    assert server.held(TAG) == (sent(small), error is None)


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", f"{FIRST}.weights.h5", "RELEASE_NOTES.md"])
def test_a_folder_that_is_not_what_its_manifest_says_is_not_published(name, small, server, tmp_path):
    """Nothing is even asked for."""
    copy = copied(small, tmp_path)
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")

    with pytest.raises(ComparisonError, match="is not what its manifest says"):
        published(copy, server)

    assert server.log == []


def test_what_did_not_pass_is_not_published(small, server, tmp_path):
    """A manifest without parity, or without files."""
    copy = copied(small, tmp_path)
    content = json.loads((copy / "manifest.json").read_bytes())
    content["files"][0]["parity"]["passed"] = False
    building.write_manifest(manifest.parsed(json.dumps(content).encode(), "m"), copy)
    with pytest.raises(ComparisonError, match="graded 'proven', passed False: a release takes 'proven' alone"):
        published(copy, server)
    content.update(files=[], defaults={})
    building.write_manifest(manifest.parsed(json.dumps(content).encode(), "m"), copy)
    with pytest.raises(ComparisonError, match="it lists no weight file"):
        published(copy, server)


def test_another_tag_than_the_manifest_s_is_refused(small, server):
    """A release says itself which it is."""
    with pytest.raises(UsageError, match=r"is release v0\.1\.0, not v9"):
        published(small, server, tag="v9")


# -- what breaks -------------------------------------------------------------------------------------------------------

STEPS = (f"POST /repos/{REPO}/releases {{", "weights.h5", "manifest.json", f"PATCH /repos/{REPO}/releases/")
BROKEN = Reply(502, b"<html>Bad Gateway</html>")


@pytest.mark.parametrize(("step", "moment"), list(product(STEPS, ("before", "after"))))
@pytest.mark.parametrize("fault", [drop, BROKEN], ids=["dropped", "502"])
def test_a_step_that_breaks_is_done_again(step, moment, fault, small, server):
    """Not carried out, or carried out and not answered: one draft, every file once, and public."""
    server.hooks.append(once(fault, step, moment))

    published(small, server)

    assert server.held(TAG) == (sent(small), True)


@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_that_breaks_off_leaves_nothing(times, small, server):
    """What is left in state `starter` is deleted, and the file sent again."""
    for _ in range(times):
        server.hooks.append(once(drop, "weights.h5", "begun"))

    published(small, server)

    deleted = [change for change in changes(server) if change.startswith("DELETE")]
    assert (server.held(TAG), len(deleted)) == ((sent(small), True), times)


@pytest.mark.parametrize("match", ["GET /repos", *STEPS])
def test_what_breaks_for_ever_is_an_error_that_can_be_gone_on_from(match, small, server, pauses):
    """After a few tries, each pause twice the last; the next run ends in the same release."""
    server.hooks.append(lambda request: drop(request) if match in f"{request} {request.query}" else None)

    with pytest.raises(NetworkError, match="tried 3 times") as caught:
        published(small, server)
    server.hooks.clear()
    published(small, server)

    assert (pauses, caught.value.hint) == ([0.5, 1.0], "run it again: it goes on")
    assert server.held(TAG) == (sent(small), True)


def kills(monkeypatch, number, moment):
    """Let the client die at its change of that number, before or after it was carried out."""
    plain, left = Client._change, [number]

    def change(self, *words):
        left[0] -= 1
        if left[0] == 0 and moment == "before":
            raise KeyboardInterrupt
        answer = plain(self, *words)
        if left[0] == 0:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(Client, "_change", change)


@pytest.mark.parametrize(("number", "moment"), list(product(range(1, 8), ("before", "after"))))
def test_a_publication_that_ends_at_any_step_goes_on(number, moment, small, server, monkeypatch):
    """Create, five uploads, publish: the second run ends in the same release, with every file sent once."""
    with monkeypatch.context() as patch:
        kills(patch, number, moment)
        with pytest.raises(KeyboardInterrupt):
            published(small, server)

    published(small, server)

    assert (server.held(TAG), len(changes(server))) == ((sent(small), True), 7)


def test_a_process_that_is_killed_at_every_step_ends_in_the_same_release(small, server):
    """SIGKILL at every change, before, in the midst of and after it, each time once; then it is public and whole."""
    done, running = set(), []

    def kill(request):
        step = f"{request} {request.query} {request.moment}"
        if request.method in CHANGES and step not in done:
            done.add(step)
            running[0].kill()
            running[0].wait()
            drop(request)

    server.hooks.append(kill)
    command = [sys.executable, "-m", "densenet_port", "release", "publish", str(small), "--repo", REPO]
    environment = {**os.environ, "GITHUB_API_URL": server.url("api"), "GH_TOKEN": WRITER, "GITHUB_TOKEN": ""}
    codes = []
    while not codes or codes[-1] != 0:
        running[:] = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)]
        codes.append(running[0].wait(60))
        assert len(codes) < 60

    assert (server.held(TAG), len(server.releases)) == ((sent(small), True), 1)
    assert set(codes[:-1]) == {-9}
    assert len(codes) == 1 + len(done) > 20


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        (Reply(429, {"message": "secondary"}, {"Retry-After": "7"}), 7),
        (Reply(403, {"message": "You have exceeded a secondary rate limit."}, {"Retry-After": "9"}), 9),
        (Reply(403, {"message": "You have exceeded a secondary rate limit."}), 60),
        (Reply(429, None), 60),
    ],
    ids=["429", "403 with a time", "403 with a word", "429 without a word"],
)
@pytest.mark.parametrize("match", ["GET /repos", "weights.h5"])
def test_a_limit_is_waited_for(match, reply, pause, small, server, pauses):
    """As long as told, else a minute; then it goes on."""
    server.hooks.append(once(reply, match))

    published(small, server)

    assert (server.held(TAG), pauses) == ((sent(small), True), [pause])


def test_nothing_is_asked_between_a_limit_and_its_pause(small, server, pauses):
    """Not even whether what was refused is there all the same."""
    server.hooks.append(lambda request: pauses.append(str(request)) if request.moment == "before" else None)
    server.hooks.append(once(Reply(429, None, {"Retry-After": "7"}), "weights.h5"))

    published(small, server)

    upload = next(entry for entry in pauses if "POST" in str(entry) and "assets" in str(entry))
    assert pauses[pauses.index(7) - 1 : pauses.index(7) + 2] == [upload, 7, upload]


def test_the_primary_limit_is_waited_for_until_it_is_reset(small, server, monkeypatch, pauses):
    """`x-ratelimit-remaining` is 0, `x-ratelimit-reset` says when."""
    monkeypatch.setattr("densenet_port.release.github.time", lambda: 1000.0)
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1100"}
    server.hooks.append(once(Reply(403, {"message": "API rate limit exceeded"}, headers), "GET /repos"))

    published(small, server)

    assert pauses == [101]


def test_a_limit_that_lasts_is_waited_for_longer_each_time_and_not_for_ever(small, server, pauses):
    """A minute, two; at the third refusal an error that says when to come back."""
    server.hooks.append(lambda _request: Reply(403, {"message": "You have exceeded a secondary rate limit"}))

    with pytest.raises(NetworkError, match="rate limit: HTTP 403: You have exceeded") as caught:
        published(small, server)

    assert (pauses, caught.value.hint) == ([60, 120], "try again in 240 s")


def test_a_limit_of_hours_is_not_waited_for(small, server, pauses):
    """Nobody sits before a terminal that long."""
    server.hooks.append(lambda _request: Reply(429, None, {"Retry-After": "7200"}))

    with pytest.raises(NetworkError) as caught:
        published(small, server)

    assert (pauses, caught.value.hint) == ([], "try again in 7200 s")


# -- rights, and the token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "private", "error", "message", "hint"),
    [
        ("", False, UsageError, "cannot be changed without a token", "set GITHUB_TOKEN or GH_TOKEN"),
        ("ghp_expired", False, NetworkError, "HTTP 401: Bad credentials", "is not a token that is valid now"),
        (READER, False, NetworkError, "HTTP 403: Resource not accessible", "the right to write"),
        ("", True, NetworkError, "HTTP 404: Not Found", "may the token see it?"),
    ],
    ids=["none", "expired", "reader", "private"],
)
def test_without_the_right_nothing_is_published(token, private, error, message, hint, small):
    """What is missing is said."""
    with GitHub(private=private) as server:
        with pytest.raises(error, match=message) as caught:
            published(small, server, token=token)

        assert (hint in caught.value.hint, server.releases) == (True, {})


def test_a_repository_that_is_not_there_is_said(small, server):
    """Missing, or hidden from this token."""
    with pytest.raises(NetworkError) as caught:
        published(small, server, repo="octo/nothing")

    assert caught.value.message == "octo/nothing: the repository cannot be read: HTTP 404: Not Found"
    assert caught.value.hint == "is the repository spelled right, and may the token see it?"


def chain(error):
    """Everything that an error and those behind it would show."""
    while error is not None:
        yield f"{error} {error!r} {error.args} {getattr(error, 'hint', '')}"
        error = error.__cause__ or error.__context__


ECHOES = [
    Reply(403, {"message": f"no: {WRITER}", "errors": [{"message": f"Bearer {WRITER}"}]}),
    Reply(500, {"message": WRITER}),
    Reply(200, f"<html>{WRITER}".encode()),
    Reply(307, None, {"Location": f"http://127.0.0.2:1/{WRITER}"}),
    Reply(429, {"message": WRITER}, {"Retry-After": "9999"}),
]


@pytest.mark.parametrize("reply", [*ECHOES, None], ids=["403", "500", "page", "redirect", "limit", "dropped"])
def test_no_error_shows_the_token(reply, small, server):
    """Not even where a server sends it back; nor does the client when it is shown."""
    server.hooks.append(lambda request: reply or drop(request))
    client = client_of(server)

    with pytest.raises(PortError) as caught:
        publish(small, client)

    assert [text for text in [*chain(caught.value), repr(client), str(client)] if WRITER in text] == []


@pytest.mark.parametrize("token", ["ghp_0123\n", "ghp 0123", "ghp_ö0123", "\x1b[2J"])
def test_what_is_no_token_is_refused_unseen(token, server):
    """A line too many would be shown by the HTTP library; so it never gets that far."""
    with pytest.raises(UsageError, match="holds blanks or other characters") as caught:
        client_of(server, token=token)

    assert token.strip() not in str(caught.value)


@pytest.mark.parametrize("variable", ["GITHUB_TOKEN", "GH_TOKEN"])
def test_the_command_never_shows_the_token(variable, small, server):
    """On success and on failure, as text and as JSON."""
    environment = {**os.environ, "GITHUB_TOKEN": "", "GITHUB_API_URL": server.url("api"), variable: WRITER}
    command = [sys.executable, "-m", "densenet_port", "release", "publish", str(small), "--repo", REPO]
    done = [subprocess.run(command, env=environment, capture_output=True, text=True, check=False)]
    server.hooks.append(lambda _request: ECHOES[0])
    done += [subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)]

    assert [run.returncode for run in done] == [0, 5]
    assert "***" in json.loads(done[1].stdout)["error"]["message"]
    assert [run for run in done if WRITER in run.stdout + run.stderr] == []


def test_a_renamed_repository_is_followed_on_the_same_host(small, server):
    """Its old name leads to the new one once; whatever is changed is changed under that."""
    moved = Reply(301, None, {"Location": server.url("api", "/repositories/7")})
    server.hooks.append(lambda request: moved if request.path == "/repos/octo/old" else None)

    published(small, server, repo="octo/old")

    assert server.held(TAG) == (sent(small), True)
    assert [str(request) for request in server.log if "octo/old" in request.path] == ["GET /repos/octo/old"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("match", ["GET /repos", *STEPS], ids=["read", "create", "weights", "manifest", "publish"])
def test_a_redirect_takes_no_token_to_another_host(match, status, small, server):
    """It is an error, whether the name of the host or only its port is another one."""
    for place in (server.url("objects", "/1"), "http://127.0.0.2:1/"):
        server.hooks[:] = [once(Reply(status, None, {"Location": place}), match)]
        with pytest.raises(NetworkError):
            published(small, server)

    assert [request for request in server.log if request.host == "objects"] == []


def test_the_page_that_comes_next_takes_no_token_to_another_host(small, server):
    """Pages are asked for by their number, whatever a Link header says."""
    away = Reply(200, [], {"Link": f'<{server.url("objects", "/1")}>; rel="next"'})
    server.hooks.append(once(away, "releases {'per_page'"))

    published(small, server)

    assert [request for request in server.log if request.host == "objects"] == []


@pytest.mark.parametrize("answer", ["release_json", "asset_json"])
def test_the_address_of_a_release_or_a_file_is_of_the_api_s_host(answer, small, server):
    """Whatever else an answer says, nothing is asked of it."""
    plain = getattr(server, answer)
    setattr(server, answer, lambda *entry: {**plain(*entry), "url": server.url("objects", "/1")})

    with pytest.raises(NetworkError, match="leads to another host, http://127.0.0.1:"):
        published(small, server)

    assert [request for request in server.log if request.host == "objects"] == []


@pytest.mark.parametrize("url", ["http://uploads.example.org/x{?name}", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_uploads_go_to_https_or_to_loopback(url, small, server):
    """The API names the host; it does not name any."""
    plain = server.release_json
    server.release_json = lambda release: {**plain(release), "upload_url": url}

    with pytest.raises(UsageError, match="upload_url is .*: expected https, or http on loopback"):
        published(small, server)


@pytest.mark.parametrize("api", ["http://api.github.com", "ftp://127.0.0.1", "https://user:pass@host", "nonsense"])
def test_an_api_without_encryption_is_refused(api, monkeypatch):
    """Before a token is sent there."""
    monkeypatch.setenv("GITHUB_API_URL", api)

    with pytest.raises(UsageError, match="GITHUB_API_URL is .*: expected https, or http on loopback") as caught:
        Client.of_environment(REPO)

    assert "pass" not in caught.value.message


@pytest.mark.parametrize("repo", ["weights", "octo/", "octo/..", "octo/a/b", "octo/a?b", "-octo/a", ""])
def test_what_is_no_repository_is_refused(repo):
    """Before it becomes part of a URL."""
    with pytest.raises(UsageError, match="is no repository"):
        Client.of_environment(repo)


STRANGE = "octo/weights: {} cannot be read: it does not answer as GitHub's API does ({})"
IMMUTABLE = {"message": "Validation Failed", "errors": [{"message": "Cannot upload assets to an immutable release."}]}
REFUSAL = "HTTP 422: Validation Failed: Cannot upload assets to an immutable release."


@pytest.mark.parametrize(
    ("match", "reply", "message"),
    [
        ("GET /repos", Reply(200, b"<html>"), STRANGE.format("the repository", "Repository without id")),
        ("GET /repos", Reply(200, {"message": "hi"}), STRANGE.format("the repository", "Repository without id")),
        ("tags", Reply(200, {"message": "hi"}), STRANGE.format(f"release {TAG}", "GitRelease without id")),
        ("tags", Reply(200, {"id": "x"}), STRANGE.format(f"release {TAG}", "('x', <class 'int'>, None)")),
        ("weights.h5", Reply(422, IMMUTABLE), f"octo/weights: {FIRST}.weights.h5 cannot be uploaded: {REFUSAL}"),
    ],
    ids=["page", "no repository", "no release", "another type", "immutable"],
)
def test_an_answer_that_was_not_meant_is_said(match, reply, message, small, server):
    """In the server's words, or that it has none."""
    server.hooks.append(once(reply, match))

    with pytest.raises(NetworkError) as caught:
        published(small, server)

    assert caught.value.message == message


def test_without_the_library_the_way_to_it_is_said(monkeypatch):
    """It is optional, and wanted for publishing alone."""
    monkeypatch.setitem(sys.modules, "github", None)

    with pytest.raises(UsageError, match="github cannot be imported") as caught:
        Client(REPO)

    assert caught.value.hint == 'pip install "densenet-port[publish]"'


# -- signed, and verified where it is ----------------------------------------------------------------------------------


def test_a_signature_is_made_once_and_published(small, server, keys, tmp_path):
    """A second run keeps it, because another one would be another file; another key makes another."""
    copy = copied(small, tmp_path)
    private, public, other, _ = keys
    published(copy, server, key=private)
    before = (copy / "manifest.json.sig").read_bytes()

    done = published(copy, server, key=private)

    assert ({step.doing for step in done.steps}, server.held(TAG)) == ({"keep"}, (sent(copy), True))
    assert (copy / "manifest.json.sig").read_bytes() == before
    assert verify(server.base(TAG), key=public).passed
    with pytest.raises(ComparisonError, match=r"manifest\.json\.sig: SHA-256"):
        published(copy, server, key=other)


@pytest.mark.parametrize("how", ["url", "manifest's url", "tag"])
def test_a_published_release_is_verified_where_it_is(how, small, server, monkeypatch):
    """By the URL of its files, or by its name on GitHub; without a token, and without what publishing needs."""
    published(small, server)
    monkeypatch.setitem(sys.modules, "github", None)
    server.log.clear()
    monkeypatch.setenv("GITHUB_SERVER_URL", server.url("web"))
    monkeypatch.setenv("GITHUB_TOKEN", READER)
    place = {"url": server.base(TAG), "manifest's url": f"{server.base(TAG)}/manifest.json", "tag": f"{REPO}@{TAG}"}

    verdict = verify(place[how])

    assert (verdict.passed, len(verdict.checks)) == (True, len(verify(str(small)).checks))
    assert {request.token for request in server.log} == {None}


def test_a_release_that_was_tampered_with_on_the_server_is_found(small, server):
    """A turned bit in what is downloaded."""
    published(small, server)
    for held in server.releases.values():
        for asset in held["assets"].values():
            if asset["name"].endswith(".h5"):
                asset["data"] = asset["data"][:-1] + bytes([asset["data"][-1] ^ 1])

    verdict = verify(server.base(TAG))

    assert [check.name for check in verdict.checks if not check.passed] == [f"{FIRST}.weights.h5"]


def test_a_link_that_expires_in_the_middle_is_asked_for_again(small):
    """The download goes on from where it was, by a new link."""
    with GitHub(lifetime=0.5) as server:
        published(small, server)
        server.hooks.append(once(drop, "GET /", "after"))

        verdict = verify(server.base(TAG))

        assert verdict.passed


def test_a_draft_and_a_release_that_is_not_there_cannot_be_verified(small, server, monkeypatch):
    """Neither has a page."""
    monkeypatch.setenv("GITHUB_SERVER_URL", server.url("web"))
    client_of(server).create(TAG, "")

    with pytest.raises(
        NetworkError, match=rf"/{REPO}/releases/download/{TAG}/manifest\.json cannot be downloaded"
    ) as caught:
        verify(f"{REPO}@{TAG}")
    assert caught.value.hint == (
        "is a release published there? A draft, or one of a private repository, cannot be downloaded"
    )


def test_a_release_that_lost_a_file_is_found(small, server, monkeypatch):
    """The manifest tells of it, the server does not have it."""
    monkeypatch.setenv("GITHUB_SERVER_URL", server.url("web"))
    published(small, server)
    (release,) = server.releases.values()
    release["assets"] = {n: a for n, a in release["assets"].items() if not a["name"].endswith(".npz")}

    with pytest.raises(NetworkError, match=r"golden\.npz cannot be downloaded \(HTTP 404 Not Found\)"):
        verify(f"{REPO}@{TAG}")


def test_a_place_that_is_none_is_said(tmp_path):
    """No folder, no URL, no tag."""
    with pytest.raises(UsageError, match="is no folder, and no release on GitHub"):
        verify(str(tmp_path / "nowhere"))
