"""Releases on GitHub, made by way of PyGithub (the extra `publish`): https://docs.github.com/rest/releases.

- A draft has no page and no tag of its own: it is found in the list of releases alone, and only by who may push.
- Assets are uploaded to another host, which the release names (`upload_url`). The answer tells `size`, `state` and
  `digest` ("sha256:…"). A name that is taken is refused with 422 and the code `already_exists`. An upload that broke
  down may leave an asset in state `starter`, which holds the name and can be deleted.
- 403 and 429 are rate limits when `retry-after` is there, `x-ratelimit-remaining` is 0, or the message says so: then
  one waits as long as told, or a minute, then two … Requests that change something come a second apart.
  https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api

PyGithub's own retries are off: `Retries` decides. The token goes to the API and to the host that it names for uploads,
in a header, and nowhere else: redirects are followed on the API's own host alone, and a URL that an answer names is
compared with it. No message holds the token, whatever a server sends.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from densenet_port.errors import DiskError, NetworkError, UsageError
from densenet_port.extras import framework
from densenet_port.fetch.http import AGENT, NotFoundError, Retries, RetryableError, RetryPolicy, on_loopback

if TYPE_CHECKING:
    from github import Github
    from github.GitRelease import GitRelease
    from github.GitReleaseAsset import GitReleaseAsset
    from github.PaginatedList import PaginatedList
    from github.Repository import Repository

T = TypeVar("T")
Entry = TypeVar("Entry", bound="Repository | GitRelease | GitReleaseAsset")

API = "https://api.github.com"
REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")
TOKEN = re.compile(r"[!-~]+")
POLICY = RetryPolicy(tries=5, backoff=1.0, longest_wait=900.0)
PAGES = 100  # of a hundred entries each
BETWEEN = 1.0  # seconds between requests that change something
UPLOAD = 300  # seconds that an upload may take to be answered
MINUTE = 60.0
FORBIDDEN, NOT_FOUND, TAKEN, TOO_MANY, BROKEN = 403, 404, 422, 429, 500
HINTS = {
    401: "GITHUB_TOKEN or GH_TOKEN is not a token that is valid now",
    403: "the token may not do this: it needs the right to write the repository's contents",
    404: "is the repository spelled right, and may the token see it?",
}
ODD = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)  # what PyGithub raises for odd answers
RELEASE = ("id", "tag_name", "draft", "prerelease", "html_url", "upload_url", "url")  # what is needed of a release
ASSET = ("id", "name", "size", "state", "url")  # and of an asset


def check_repo(repo: str) -> str:
    """The repository, if it is one: OWNER/NAME. Raises UsageError."""
    if not REPO.fullmatch(repo) or repo.endswith(("/.", "/..")):
        raise UsageError(f"{repo!r} is no repository", hint="name it as OWNER/NAME")
    return repo


def check_url(url: str, name: str) -> str:
    """The URL, if a token may go there: https, or http on loopback. Raises UsageError."""
    parts = urlsplit(url)
    encrypted = parts.scheme == "https" or (parts.scheme == "http" and on_loopback(parts))
    if not encrypted or not parts.hostname or parts.username:
        raise UsageError(f"{name} is {_place(url)}: expected https, or http on loopback")
    return url


class GitHub:
    """The releases of one repository. Its methods raise NetworkError for what a server refuses or does not answer."""

    def __init__(self, repo: str, *, api: str = API, token: str = "", policy: RetryPolicy = POLICY) -> None:
        """`token` may be empty where nothing is changed. Raises UsageError for what no request should be made with."""
        if token and not TOKEN.fullmatch(token):
            raise UsageError("the token in GITHUB_TOKEN or GH_TOKEN holds blanks or other characters that no token has")
        self.repo, self.api, self.token, self.policy = check_repo(repo), check_url(api, "the API"), token, policy
        self.pygithub, self.transport = framework("github"), framework("requests")
        self.client: Github = self.pygithub.Github(
            auth=self.pygithub.Auth.Token(token) if token else None,
            base_url=api,
            user_agent=AGENT,
            timeout=int(policy.read),
            per_page=100,
            retry=None,
            seconds_between_requests=None,
            seconds_between_writes=None if on_loopback(urlsplit(api)) else BETWEEN,
        )
        self._repository: Repository | None = None

    @classmethod
    def of_environment(cls, repo: str) -> "GitHub":
        """With the token of GITHUB_TOKEN or GH_TOKEN, at GITHUB_API_URL."""
        api = check_url(os.environ.get("GITHUB_API_URL") or API, "GITHUB_API_URL").rstrip("/")
        token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or ""
        return cls(repo, api=api, token=token)

    def published(self, tag: str) -> "GitRelease | None":
        """The published release of a tag; None where there is none."""
        repository = self.repository()
        try:
            return self._read(f"release {tag}", lambda: self._checked(repository.get_release(tag), RELEASE))
        except NotFoundError:
            return None

    def drafts(self, tag: str) -> "list[GitRelease]":
        """The drafts of a tag, oldest first; there should be one at most."""
        pages = self.repository().get_releases()
        releases: list[GitRelease] = self._read("its releases", lambda: self._all(pages, RELEASE))
        drafts = [release for release in releases if release.draft and release.tag_name == tag]
        return sorted(drafts, key=lambda release: release.id)

    def assets(self, release: "GitRelease") -> "list[GitReleaseAsset]":
        """The files of a release, complete or not."""
        pages = release.get_assets()
        return self._read(f"the files of release {release.tag_name}", lambda: self._all(pages, ASSET))

    def create(self, tag: str, notes: str) -> "GitRelease":
        """Make a draft; the one that is there, where a request broke and was carried out all the same."""
        retries = self.retries(f"release {tag} cannot be created")
        make = partial(self.repository().create_git_release, tag, tag, notes, draft=True)

        def attempt() -> "GitRelease":
            try:
                return self._change(retries, lambda: self._checked(make(), RELEASE))
            except RetryableError as error:
                if error.wait is None and (drafts := self.drafts(tag)):
                    return drafts[0]
                raise

        return retries.run(attempt)

    def upload(self, release: "GitRelease", path: Path) -> "GitReleaseAsset":
        """Upload a file until the server has one of its name, and give that: another one, where the name was taken.

        What a broken request left of it is deleted first.
        """
        retries = self.retries(f"{path.name} cannot be uploaded")

        def attempt() -> "GitReleaseAsset":
            try:
                if asset := self._change(retries, lambda: self._send(release, path)):
                    return asset
                problem = RetryableError("the name is taken")
            except RetryableError as error:
                if error.wait is not None:
                    raise
                problem = error
            for asset in self.assets(release):
                if asset.name == path.name and asset.state == "uploaded":
                    return asset
                if asset.name == path.name:
                    self.delete(asset)
            raise problem

        return retries.run(attempt)

    def delete(self, asset: "GitReleaseAsset") -> None:
        """Delete a file; one that is gone already is gone."""
        retries = self.retries(f"{asset.name} cannot be deleted")
        with suppress(NotFoundError):
            retries.run(lambda: self._change(retries, asset.delete_asset))

    def publish(self, release: "GitRelease", notes: str) -> "GitRelease":
        """Make a draft public."""
        retries = self.retries(f"release {release.tag_name} cannot be made public")
        update = partial(release.update_release, release.tag_name, notes, prerelease=release.prerelease)
        return retries.run(lambda: self._change(retries, lambda: self._checked(update(), RELEASE)))

    def retries(self, failure: str) -> Retries:
        """The tries of one piece of work, which may be done twice; and what its errors say."""
        return Retries(self.policy, f"{self.repo}: {failure}", hint="run it again: it goes on")

    # -- requests ------------------------------------------------------------------------------------------------------

    def repository(self) -> "Repository":
        """The repository, asked for once: a renamed one is used by its new name, because only reading is redirected."""
        if self._repository is None:
            self._repository = self._read(
                "the repository", lambda: self._checked(self.client.get_repo(self.repo), ("id", "url"))
            )
        return self._repository

    def _read(self, name: str, work: Callable[[], T]) -> T:
        """The result of requests that change nothing."""
        retries = self.retries(f"{name} cannot be read")
        return retries.run(lambda: self._ask(retries.failure, work))

    def _all(self, pages: "PaginatedList[Any]", needed: tuple[str, ...]) -> list[Any]:
        """The entries of a list, its pages asked for by number: so no answer names the host of the next one."""
        entries: list[Any] = []
        for number in range(PAGES):
            page = pages.get_page(number)
            if not page:
                break
            entries += [self._checked(entry, needed) for entry in page]
        return entries

    def _change(self, retries: Retries, work: Callable[[], T]) -> T:
        """The result of a request that changes something. Raises UsageError without a token."""
        if not self.token:
            hint = "set GITHUB_TOKEN or GH_TOKEN to a token that may write the repository's contents"
            raise UsageError("a release cannot be changed without a token", hint=hint)
        return self._ask(retries.failure, work)

    def _send(self, release: "GitRelease", path: Path) -> "GitReleaseAsset | None":
        """Upload a file, over a connection that is made here, because PyGithub's to another host have no timeout.

        None where the name is taken.
        """
        url = check_url(release.upload_url.partition("{")[0], "upload_url")
        parts, kinds = urlsplit(url), self.pygithub.Requester
        kind = kinds.HTTPSRequestsConnectionClass if parts.scheme == "https" else kinds.HTTPRequestsConnectionClass
        connection = kind(parts.hostname, parts.port, timeout=UPLOAD)
        query, headers = {"name": path.name}, {"Content-Type": "application/octet-stream"}
        requester = self.client.requester
        try:
            with closing(connection), path.open("rb") as file:
                answer = requester.requestMemoryBlobAndCheck("POST", url, query, headers, file, connection)
        except self.pygithub.GithubException as error:
            if error.status == TAKEN and "already_exists" in [entry.get("code") for entry in _errors(error.data)]:
                return None
            raise
        asset: GitReleaseAsset = self.pygithub.GitReleaseAsset.GitReleaseAsset(requester, *answer, completed=True)
        return self._checked(asset, ASSET)

    def _ask(self, failure: str, work: Callable[[], T]) -> T:
        """The result of requests, whose errors become RetryableError, which another try may mend, or NetworkError."""
        problem: Exception
        try:
            return work()
        except self.pygithub.GithubException as error:
            problem = self._refusal(failure, error)
        except self.transport.RequestException as error:
            problem = RetryableError(self._clean(str(error)))
        except OSError as error:
            problem = DiskError(f"{error.filename}: cannot be read: {error.strerror}")
        except (self.pygithub.BadAttributeException, *ODD) as error:
            message = f"{failure}: it does not answer as GitHub's API does ({self._clean(str(error))})"
            problem = NetworkError(message, hint="is GITHUB_API_URL right?")
        raise problem  # here, because what is chained to an error is shown with it, and may hold the token

    def _refusal(self, failure: str, error: Any) -> Exception:
        """What a status that is no success means."""
        words = self._clean(": ".join([f"HTTP {error.status}", *_words(error.data)]))
        if limit := _rate_limit(error.status, error.headers or {}, words):
            return limit
        if error.status >= BROKEN:
            return RetryableError(words)
        kind = NotFoundError if error.status == NOT_FOUND else NetworkError
        return kind(f"{failure}: {words}", hint=HINTS.get(error.status))

    def _checked(self, entry: Entry, needed: tuple[str, ...]) -> Entry:
        """An object of PyGithub's that has what is needed of it, and whose URL is of the API's host.

        Raises ValueError for another one, NetworkError for another host: the token goes to no other.
        """
        for name in needed:
            if getattr(entry, name) is None:
                raise ValueError(f"{type(entry).__name__} without {name}")
        if urlsplit(entry.url)[:2] != urlsplit(self.api)[:2]:
            raise NetworkError(f"{_place(self.api)} leads to another host, {self._clean(_place(entry.url))}")
        return entry

    def _clean(self, text: str) -> str:
        """A text without the token, on one line, without what could command a terminal."""
        hidden = text.replace(self.token, "***") if self.token else text
        return "".join(character if character.isprintable() else " " for character in hidden)[:300]


def _place(url: str) -> str:
    """Host and path of a URL, for messages: a query or a login may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _errors(data: Any) -> list[dict[str, Any]]:
    """The single errors that an answer lists."""
    errors = data.get("errors") if isinstance(data, dict) else None
    return [entry for entry in errors if isinstance(entry, dict)] if isinstance(errors, list) else []


def _words(data: Any) -> list[str]:
    """What an answer says of its failure, in the server's own words."""
    message = data.get("message") if isinstance(data, dict) else None
    words = [message, *(entry.get("message") or entry.get("code") for entry in _errors(data))]
    return [str(word) for word in words if word]


def _rate_limit(status: int, headers: Mapping[str, str], words: str) -> RetryableError | None:
    """The wait that a refusal asks for: as long as told, or a minute, then two …; None where it is no rate limit."""
    if status not in (FORBIDDEN, TOO_MANY):
        return None
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    reason = f"rate limit: {words}"
    if after.isdecimal():
        return RetryableError(reason, wait=float(after))
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return RetryableError(reason, wait=max(float(reset) - time(), 0) + 1)
    if status == TOO_MANY or "rate limit" in words.lower():
        return RetryableError(reason, wait=MINUTE, doubling=True)
    return None
