"""Releases on GitHub, as far as they need to be read and made: https://docs.github.com/rest/releases.

- A draft has no page and no tag of its own: `releases/tags/TAG` does not find it, only the list does, and only for who
  may push.
- Assets are uploaded to another host, which the release names (`upload_url`). The answer tells `size`, `state` and
  `digest` ("sha256:…"). A name that is taken is refused with 422 and the code `already_exists`. An upload that broke
  down may leave an asset in state `starter`, which holds the name and can be deleted.
- A name with other characters than `manifest` allows would be changed.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from densenet_port.errors import DiskError, NetworkError, UsageError
from densenet_port.release.rest import GONE, Answer, Rest, allowed, place

API = "https://api.github.com"
REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file of a release, as the server tells it. `sha256` is None where it tells no digest."""

    id: int
    name: str
    size: int
    sha256: str | None
    complete: bool
    download: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release, as the server tells it."""

    id: int
    tag: str
    draft: bool
    page: str
    upload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHub:
    """The releases of one repository. Every call raises NetworkError for what a server refuses or does not answer."""

    repo: str
    rest: Rest

    def __post_init__(self) -> None:
        """Refuse what is no repository."""
        if not REPO.fullmatch(self.repo) or self.repo.endswith(("/.", "/..")):
            raise UsageError(f"{self.repo!r} is no repository", hint="name it as OWNER/NAME")

    @classmethod
    def of_environment(cls, repo: str) -> "GitHub":
        """With the token of GITHUB_TOKEN or GH_TOKEN, at GITHUB_API_URL."""
        token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or ""
        return cls(repo=repo, rest=Rest(api=os.environ.get("GITHUB_API_URL") or API, token=token))

    def published(self, tag: str) -> Release | None:
        """The published release of a tag."""
        answer = self.rest.get(self._url(f"releases/tags/{quote(tag, safe='')}"))
        return None if answer.status == GONE else _release(answer.content)

    def drafts(self, tag: str) -> list[Release]:
        """The drafts of a tag, oldest first; there should be one at most."""
        found = (_release(entry) for entry in self.rest.pages(f"repos/{self.repo}/releases"))
        return sorted((release for release in found if release.draft and release.tag == tag), key=lambda held: held.id)

    def assets(self, release: Release) -> list[Asset]:
        """The files of a release, complete or not."""
        return [_asset(entry) for entry in self.rest.pages(f"repos/{self.repo}/releases/{release.id}/assets")]

    def create(self, tag: str, notes: str) -> Release:
        """Make a draft. Raises Again when nobody knows whether it was made."""
        body = {"tag_name": tag, "name": tag, "body": notes, "draft": True}
        return _release(self._found(self.rest.change("POST", self._url("releases"), body)).content)

    def upload(self, release: Release, path: Path) -> Asset | None:
        """Upload a file under its name; None when that is taken. Raises Again when nobody knows whether it arrived."""
        url = f"{allowed(release.upload.partition('{')[0], 'upload_url')}?name={quote(path.name)}"
        try:
            answer = self.rest.change("POST", url, path)
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
        return None if answer.taken else _asset(self._found(answer).content)

    def delete(self, asset: Asset) -> None:
        """Delete a file; one that is gone already is gone."""
        self.rest.retried(lambda: self.rest.change("DELETE", self._url(f"releases/assets/{asset.id}")))

    def publish(self, release: Release, notes: str) -> Release:
        """Make a draft public."""
        body = {"tag_name": release.tag, "name": release.tag, "body": notes, "draft": False}
        url = self._url(f"releases/{release.id}")
        return _release(self._found(self.rest.retried(lambda: self.rest.change("PATCH", url, body))).content)

    def _url(self, path: str) -> str:
        return f"{self.rest.api}/repos/{self.repo}/{path}"

    def _found(self, answer: Answer) -> Answer:
        """The answer, unless it says that there is no such place."""
        if answer.status == GONE or answer.taken:
            raise self.rest.refused(answer, f"{place(self.rest.api)}/repos/{self.repo}")
        return answer


def _release(content: Any) -> Release:
    """A release from JSON."""
    told = _Told("a release", content)
    return Release(
        id=told.value("id", int),
        tag=told.value("tag_name", str),
        draft=told.value("draft", bool),
        page=told.value("html_url", str),
        upload=told.value("upload_url", str),
    )


def _asset(content: Any) -> Asset:
    """An asset from JSON."""
    told = _Told("an asset", content)
    digest = content.get("digest") if isinstance(content, dict) else None
    kind, _, sha256 = str(digest or "").partition(":")
    return Asset(
        id=told.value("id", int),
        name=told.value("name", str),
        size=told.value("size", int),
        sha256=sha256 if kind == "sha256" else None,
        complete=told.value("state", str) == "uploaded",
        download=told.value("browser_download_url", str),
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """An object of an answer."""

    what: str
    content: Any

    def value(self, key: str, kind: type) -> Any:
        """A value of a type."""
        found = self.content.get(key) if isinstance(self.content, dict) else None
        if type(found) is not kind:
            raise NetworkError(f"the server tells {self.what} without its {key}", hint="is GITHUB_API_URL right?")
        return found
