"""Publish a release: draft, upload, compare what the server has with what lies here, and only then make it public.

Every step looks first at what is there, so that an interrupted publication goes on where it stopped: a draft of the
same tag is taken up, a file that is there whole is kept, one that was left unfinished is deleted and uploaded again. A
file that is there and differs is a ComparisonError, and nothing is changed, unless it may be replaced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from densenet_port.errors import ComparisonError, NetworkError, UsageError
from densenet_port.fetch import manifest as manifests
from densenet_port.fetch.download import Progress, ignore_progress
from densenet_port.fetch.http import RetryableError
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, Document, Manifest
from densenet_port.release.build import NOTES
from densenet_port.release.github import GitHub
from densenet_port.release.network import unproven
from densenet_port.release.sign import sign, signed_by
from densenet_port.release.verify import check_bytes

if TYPE_CHECKING:
    from github.GitRelease import GitRelease
    from github.GitReleaseAsset import GitReleaseAsset

NO_DIGEST = "the server tells no digest"
LAST = (SUMS, NAME, SIGNATURE)  # what a downloader begins with comes last


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a publication: what is done, with which file or release, and why."""

    doing: Literal["create", "keep", "upload", "delete", "publish"]
    name: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was done, or in a dry run would be. `page` is the URL of the release, None while it is not public."""

    repo: str
    tag: str
    page: str | None
    dry_run: bool
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What is to be published: the folder, its tag, its files in the order in which they are sent, the page's text."""

    folder: Path
    tag: str
    files: tuple[Document, ...]
    notes: str

    @classmethod
    def read(cls, manifest: Manifest, folder: Path) -> "Local":
        """The files that the manifest lists, then those with which a downloader begins."""
        last = [folder / name for name in LAST if name != SIGNATURE or (folder / name).is_file()]
        files = (*manifest.entries(), *(manifests.document(path) for path in last))
        notes = folder / NOTES
        text = notes.read_text(encoding="utf-8") if notes.is_file() else ""
        return cls(folder=folder, tag=manifest.tag, files=files, notes=text)


def publish(
    folder: Path,
    github: GitHub,
    *,
    tag: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    key: Path | None = None,
    progress: Progress = ignore_progress,
) -> Published:
    """Publish the release in a folder, or go on with it.

    `tag` must be the manifest's. `key` signs the manifest first, unless it is signed by it already. `progress` is
    called with bytes that are there and bytes in all. Raises ComparisonError when the folder is not what its manifest
    says, or the server has other files (`replace` uploads them anew); UsageError without a token; NetworkError when the
    server refuses, does not answer, or in the end does not have what was sent.
    """
    manifest = checked(folder, tag)
    if key is not None and not dry_run:
        signed(folder, key)
    local = Local.read(manifest, folder)
    release, notes = _find(github, local.tag)
    assets = github.assets(release) if release else []
    steps = _plan(local, release, assets, replace=replace)
    if not dry_run:
        release = _carry_out(local, github, release, steps, assets, progress)
    return Published(
        repo=github.repo,
        tag=local.tag,
        page=release.html_url if release and not release.draft else None,
        dry_run=dry_run,
        steps=tuple(steps),
        notes=(*notes, *_strangers(local, assets)),
    )


# -- what lies here ----------------------------------------------------------------------------------------------------


def checked(folder: Path, tag: str | None) -> Manifest:
    """The manifest of a folder that is what it says. Nothing is published that did not pass."""
    manifest = manifests.read(folder / NAME)
    if tag not in (None, manifest.tag):
        hint = f"build it again with --tag {tag}: what is built is kept"
        raise UsageError(f"{folder}: is release {manifest.tag}, not {tag}", hint=hint)
    problems = [f"{check.name}: {check.detail}" for check in check_bytes(manifest, folder) if not check.passed]
    reasons = {file.name: unproven(file.parity) for file in manifest.files}
    problems += [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if not manifest.files:
        problems.append("it lists no weight file")
    if problems:
        lines = "\n  ".join([f"{folder}: is not what its manifest says", *problems])
        raise ComparisonError(lines, hint="build it again")
    return manifest


def signed(folder: Path, key: Path) -> None:
    """Sign the manifest, unless it is signed by this very key: another signature would be another file."""
    if not ((folder / SIGNATURE).is_file() and signed_by(folder / NAME, folder / SIGNATURE, key)):
        sign(folder / NAME, key)


# -- what is there -----------------------------------------------------------------------------------------------------


def _find(github: GitHub, tag: str) -> "tuple[GitRelease | None, list[str]]":
    """The release of a tag: the public one, or the oldest draft; and a note on drafts that are in nobody's way."""
    if release := github.published(tag):
        return release, []
    drafts = github.drafts(tag)
    notes = [f"{len(drafts) - 1} more drafts of {tag} are left alone"] if len(drafts) > 1 else []
    return (drafts[0] if drafts else None), notes


def _strangers(local: Local, assets: "Sequence[GitReleaseAsset]") -> Iterator[str]:
    """A note on files of the release that are not of the folder."""
    names = {file.name for file in local.files}
    if strange := sorted(asset.name for asset in assets if asset.name not in names):
        yield f"left alone on the server: {', '.join(strange)}"


def _plan(
    local: Local, release: "GitRelease | None", assets: "Sequence[GitReleaseAsset]", *, replace: bool
) -> list[Step]:
    """What is to be done, in order. Raises ComparisonError for files that differ and may not be replaced."""
    there, steps, differing = {asset.name: asset for asset in assets}, [], []
    if release is None:
        steps.append(Step(doing="create", name=local.tag, why="there is no release of this tag"))
    for file in local.files:
        asset = there.get(file.name)
        if asset is not None:
            difference = _difference(file, asset)
            if not difference:
                steps.append(Step(doing="keep", name=file.name, why="is there, with the same digest"))
                continue
            if asset.state == "uploaded":
                differing.append(f"{file.name}: {difference}")
            steps.append(Step(doing="delete", name=file.name, why=difference))
        steps.append(Step(doing="upload", name=file.name, why=f"{file.size} bytes"))
    if differing and not replace:
        lines = [f"release {local.tag} has {len(differing)} files that are not those of {local.folder}", *differing]
        hint = "pass --replace to upload them anew, or publish under another tag"
        raise ComparisonError("\n  ".join(lines), hint=hint)
    if release is None or release.draft:
        steps.append(Step(doing="publish", name=local.tag))
    return steps


def _difference(file: Document, asset: "GitReleaseAsset | None") -> str:
    """How a file on the server differs from the one here; "" where it does not."""
    if asset is None:
        return "is missing"
    if asset.state != "uploaded":
        return "an upload was left unfinished"
    if asset.size != file.size:
        return f"{file.size} bytes here, {asset.size} there"
    kind, _, sha256 = (asset.digest or "").partition(":")
    if kind != "sha256":
        return NO_DIGEST
    return "" if sha256 == file.sha256 else f"SHA-256 {file.sha256[:12]}… here, {sha256[:12]}… there"


# -- what is done ------------------------------------------------------------------------------------------------------


def _carry_out(
    local: Local,
    github: GitHub,
    release: "GitRelease | None",
    steps: Sequence[Step],
    assets: "Sequence[GitReleaseAsset]",
    progress: Progress,
) -> "GitRelease":
    """Do what was planned, and compare before anything is made public."""
    there, files = {asset.name: asset for asset in assets}, {file.name: file for file in local.files}
    done, total = 0, sum(file.size for file in local.files)
    release = release or github.create(local.tag, local.notes)
    for step in steps:
        if step.doing == "delete":
            github.delete(there[step.name])
        elif step.doing == "upload":
            _upload(local, github, release, files[step.name])
        if step.doing in ("keep", "upload"):
            done += files[step.name].size
            progress(done, total)
    _compare(local, github, release)
    if not release.draft:
        return release
    public = github.publish(release, local.notes)
    if public.draft:
        raise NetworkError(f"release {local.tag} is still a draft", hint="run it again: it goes on")
    return public


def _upload(local: Local, github: GitHub, release: "GitRelease", file: Document) -> None:
    """Send a file, and compare what the server has then; a digest that it does not tell yet is compared at the end."""
    asset = github.upload(release, local.folder / file.name)
    difference = _difference(file, asset)
    if difference not in ("", NO_DIGEST):
        raise ComparisonError(f"{file.name}: {difference}", hint="run it again with --replace")


def _compare(local: Local, github: GitHub, release: "GitRelease") -> None:
    """Whether the server has every file with the size and digest that it has here; digests may come a little late."""
    retries = github.retries("the files cannot be compared")
    while True:
        there = {asset.name: asset for asset in github.assets(release)}
        differences = {file.name: _difference(file, there.get(file.name)) for file in local.files}
        if NO_DIGEST not in differences.values():
            break
        try:
            retries.pause(RetryableError(NO_DIGEST))
        except NetworkError:
            break
    problems = [f"{name}: {difference}" for name, difference in differences.items() if difference]
    if problems:
        lines = [f"release {local.tag} is not what was sent", *problems]
        raise ComparisonError("\n  ".join(lines), hint="it was not made public; run it again with --replace")
