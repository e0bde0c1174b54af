"""A release published on the Hugging Face Hub, made by way of huggingface_hub (the extra `hub`).

A release is one commit on the default branch, and a tag on it that is set once the Hub says that it has every file with
the size and digest that it has here. So who asks for the tag sees all of a release, or none. Files of earlier releases
stay as they are, or become the new ones of the same names: the earlier tag keeps them. What is there already with the
same digest is not sent again; a tag that stands on other files is a ComparisonError, unless it may be replaced.

The Hub tells the SHA-256 of large files, and of small ones git's own SHA-1 of a blob. Whoever publishes is logged in as
huggingface_hub has it (`hf auth login`, HF_TOKEN).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_port.errors import ComparisonError
from densenet_port.extras import framework
from densenet_port.fetch.download import Progress, ignore_progress
from densenet_port.fetch.hub import Place, explained, place_of
from densenet_port.fetch.manifest import Document
from densenet_port.release.publish import Local, Published, Step, checked, signed

_OWN = (".gitattributes", "README.md")  # of a repository, not of a release


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remote:
    """What the Hub has: the files at the head, None for no repository; and those of the tag, None for no tag."""

    head: Mapping[str, Any] | None
    tagged: Mapping[str, Any] | None


def publish(
    folder: Path,
    repo: str,
    *,
    tag: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    key: Path | None = None,
    progress: Progress = ignore_progress,
) -> Published:
    """Publish the release in a folder, or go on with it; arguments and errors are those of `publish.publish`."""
    place = place_of(f"hf://{repo}")
    manifest = checked(folder, tag)
    if key is not None and not dry_run:
        signed(folder, key)
    local = Local.read(manifest, folder)
    api = framework("huggingface_hub").HfApi()
    with explained(place):
        remote = _remote(api, place, local.tag)
        steps = _plan(local, remote, replace=replace)
        if not dry_run:
            _carry_out(local, api, place, steps, progress)
    strange = sorted((remote.head or {}).keys() - {file.name for file in local.files} - {*_OWN})
    page = f"{api.endpoint}/{place.repo}/tree/{local.tag}"
    return Published(
        repo=place.repo,
        tag=local.tag,
        page=None if dry_run and remote.tagged is None else page,
        dry_run=dry_run,
        steps=tuple(steps),
        notes=(f"left alone on the Hub: {', '.join(strange)}",) if strange else (),
    )


def _remote(api: Any, place: Place, tag: str) -> _Remote:
    """What the Hub has of a repository."""
    missing = framework("huggingface_hub").errors.RepositoryNotFoundError
    try:
        head = _files(api, place, api.repo_info(place.repo).sha)
    except missing:
        return _Remote(head=None, tagged=None)
    is_tagged = any(ref.name == tag for ref in api.list_repo_refs(place.repo).tags)
    return _Remote(head=head, tagged=_files(api, place, tag) if is_tagged else None)


def _files(api: Any, place: Place, revision: str) -> dict[str, Any]:
    """Name → what the Hub says of a file, of those at the top of a revision."""
    entries = api.list_repo_tree(place.repo, revision=revision)
    return {entry.path: entry for entry in entries if hasattr(entry, "size")}  # a folder has none


def _plan(local: Local, remote: _Remote, *, replace: bool) -> list[Step]:
    """What is to be done, in order. Raises ComparisonError for a tag on other files that may not be replaced."""
    if remote.tagged is not None:
        differing = _differing(local, remote.tagged)
        if not differing:
            return [_kept(file) for file in local.files]
        if not replace:
            lines = [f"{name}: {difference}" for name, difference in differing.items()]
            what = f"release {local.tag} has {len(differing)} files that are not those of {local.folder}"
            hint = "pass --replace to move the tag to them, or publish under another tag"
            raise ComparisonError("\n  ".join([what, *lines]), hint=hint)
    steps, differing = [], _differing(local, remote.head or {})
    if remote.head is None:
        steps.append(Step(doing="create", name=local.tag, why="there is no such repository that you may see"))
    for file in local.files:
        if file.name in differing:
            steps.append(Step(doing="upload", name=file.name, why=f"{file.size} bytes"))
        else:
            steps.append(_kept(file))
    if remote.tagged is not None:
        steps.append(Step(doing="delete", name=local.tag, why="the tag stands on other files"))
    return [*steps, Step(doing="publish", name=local.tag)]


def _kept(file: Document) -> Step:
    return Step(doing="keep", name=file.name, why="is there, with the same digest")


def _differing(local: Local, files: Mapping[str, Any]) -> dict[str, str]:
    """Name → how a file on the Hub differs from the one here, of those that do."""
    return {
        file.name: difference
        for file in local.files
        if (difference := _difference(local, file, files[file.name]) if file.name in files else "is missing")
    }


def _difference(local: Local, file: Document, entry: Any) -> str:
    """How a file on the Hub differs from the one here; "" where it does not."""
    if entry.size != file.size:
        return f"{file.size} bytes here, {entry.size} there"
    if entry.lfs is not None:
        there, here, kind = entry.lfs.sha256, file.sha256, "SHA-256"
    else:
        there, here, kind = entry.blob_id, _blob(local.folder / file.name), "git's SHA-1"
    return "" if there == here else f"{kind} {here[:12]}… here, {there[:12]}… there"


def _blob(path: Path) -> str:
    """The name of a file's blob in git: SHA-1 of `blob`, its size and its bytes. Only small files have one there."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _carry_out(local: Local, api: Any, place: Place, steps: Sequence[Step], progress: Progress) -> None:
    """Do what was planned: one commit, compared with what lies here, and then the tag."""
    hub, doings = framework("huggingface_hub"), {step.doing for step in steps}
    if "create" in doings:
        api.create_repo(place.repo, exist_ok=True)
    commit = api.repo_info(place.repo).sha
    names = [step.name for step in steps if step.doing == "upload"]
    total = sum(file.size for file in local.files)
    progress(total - sum(file.size for file in local.files if file.name in names), total)
    if names:
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=local.folder / name) for name in names]
        message = f"Release {local.tag}"
        commit = api.create_commit(place.repo, adds, commit_message=message, parent_commit=commit).oid
    if "publish" not in doings:
        return
    _compare(local, _files(api, place, commit))
    progress(total, total)
    if "delete" in doings:
        api.delete_tag(place.repo, tag=local.tag)
    api.create_tag(place.repo, tag=local.tag, revision=commit, tag_message=f"Release {local.tag}")


def _compare(local: Local, files: Mapping[str, Any]) -> None:
    """Refuse to set a tag on files that are not those that lie here."""
    if differing := _differing(local, files):
        lines = [f"{name}: {difference}" for name, difference in differing.items()]
        what = f"release {local.tag} is not what was sent"
        raise ComparisonError("\n  ".join([what, *lines]), hint="its tag was not set; run it again")
