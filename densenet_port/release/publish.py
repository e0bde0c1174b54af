"""Publish a release: draft, upload, compare what the server has with what lies here, and only then make it public.

Every step looks first at what is there, so that an interrupted publication goes on where it stopped: a draft of the
same tag is taken up, a file that is there whole is kept, one that was left unfinished is deleted and uploaded again. A
file that is there and differs is a ComparisonError, and nothing is changed, unless it may be replaced.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densenet_port.errors import ComparisonError, NetworkError, UsageError
from densenet_port.fetch import manifest
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, Document, Manifest
from densenet_port.release.build import NOTES
from densenet_port.release.github import Asset, GitHub, Release
from densenet_port.release.rest import Again
from densenet_port.release.sign import sign, signed_by
from densenet_port.release.verify import check_bytes

Doing = Literal["create", "keep", "upload", "delete", "publish"]
LAST = (SUMS, NAME, SIGNATURE)  # what a downloader begins with comes last


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a publication: what is done, with which file or release, and why."""

    doing: Doing
    name: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was done, or in a dry run would be. `page` is where the release is, where it is there yet."""

    repo: str
    tag: str
    page: str | None
    dry_run: bool
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def publish(
    folder: Path,
    github: GitHub,
    *,
    tag: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    key: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Published:
    """Publish the release in a folder, or go on with it.

    `tag` must be the manifest's. `key` signs the manifest first, unless it is signed by it already. `progress` is told
    bytes that are there and bytes in all. Raises ComparisonError when the folder is not what its manifest says, or the
    server has other files (`replace` uploads them anew); UsageError without a token; NetworkError when the server
    refuses, does not answer, or in the end does not have what was sent.
    """
    told = _checked(folder, tag)
    if key is not None and not dry_run:
        _sign(folder, key)
    here = _local(told, folder)
    release, others = _find(github, told.tag)
    there = github.assets(release) if release else []
    steps = _plan(here, told.tag, release, there, replace=replace)
    if not dry_run:
        release = _carry_out(here, github, release, steps, there, progress)
    return Published(
        repo=github.repo,
        tag=told.tag,
        page=release.page if release and not release.draft else None,
        dry_run=dry_run,
        steps=tuple(steps),
        notes=(*others, *_strangers(here, there)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Here:
    """What is to be published: the folder, its files in the order in which they are sent, and the release's text."""

    folder: Path
    files: tuple[Document, ...]
    notes: str


# -- what lies here ----------------------------------------------------------------------------------------------------


def _checked(folder: Path, tag: str | None) -> Manifest:
    """The manifest of a folder that is what it says. Nothing is published that did not pass."""
    told = manifest.read(folder / NAME)
    if tag not in (None, told.tag):
        hint = f"build it again with --tag {tag}: what is built is kept"
        raise UsageError(f"{folder}: is release {told.tag}, not {tag}", hint=hint)
    wrong = [f"{check.name}: {check.says}" for check in check_bytes(told, folder) if not check.passed]
    wrong += [f"{file.name}: no parity was found" for file in told.files if file.parity.get("passed") is not True]
    if wrong or not told.files:
        lines = "\n  ".join([f"{folder}: is not what its manifest says", *(wrong or ["it tells no weight file"])])
        raise ComparisonError(lines, hint="build it again")
    return told


def _local(told: Manifest, folder: Path) -> _Here:
    """What is sent: the files that the manifest tells, then those with which a downloader begins."""
    last = [folder / name for name in LAST if name != SIGNATURE or (folder / name).is_file()]
    files = (*told.entries(), *(manifest.document(path) for path in last))
    notes = folder / NOTES
    return _Here(folder=folder, files=files, notes=notes.read_text(encoding="utf-8") if notes.is_file() else "")


def _sign(folder: Path, key: Path) -> None:
    """Sign the manifest, unless it is signed by this very key: another signature would be another file."""
    if not ((folder / SIGNATURE).is_file() and signed_by(folder / NAME, folder / SIGNATURE, key)):
        sign(folder / NAME, key)


# -- what is there -----------------------------------------------------------------------------------------------------


def _find(github: GitHub, tag: str) -> tuple[Release | None, list[str]]:
    """The release of a tag: the public one, or the oldest draft; and a note on drafts that are in nobody's way."""
    if (release := github.published(tag)) is not None:
        return release, []
    drafts = github.drafts(tag)
    notes = [f"{len(drafts) - 1} more drafts of {tag} are left alone"] if len(drafts) > 1 else []
    return next(iter(drafts), None), notes


def _strangers(here: _Here, there: Sequence[Asset]) -> Iterator[str]:
    names = {file.name for file in here.files}
    if strange := sorted(asset.name for asset in there if asset.name not in names):
        yield f"left alone on the server: {', '.join(strange)}"


def _plan(here: _Here, tag: str, release: Release | None, there: Sequence[Asset], *, replace: bool) -> list[Step]:
    """What is to be done, in order. Raises ComparisonError for files that differ and may not be replaced."""
    assets, differing = {asset.name: asset for asset in there}, []
    steps = [Step(doing="create", name=tag, why="there is no release of this tag")] if release is None else []
    for file in here.files:
        asset = assets.get(file.name)
        fault = asset and _fault(file, asset)
        if asset is not None and fault is None:
            steps.append(Step(doing="keep", name=file.name, why="is there, with the same digest"))
            continue
        if asset is not None and asset.complete:
            differing.append(f"{file.name}: {fault}")
        if asset is not None:
            steps.append(Step(doing="delete", name=file.name, why=str(fault)))
        steps.append(Step(doing="upload", name=file.name, why=f"{file.size} bytes"))
    if differing and not replace:
        lines = [f"release {tag} has {len(differing)} files that are not those of {here.folder}", *differing]
        hint = "pass --replace to upload them anew, or publish under another tag"
        raise ComparisonError("\n  ".join(lines), hint=hint)
    return steps if release and not release.draft else [*steps, Step(doing="publish", name=tag)]


def _fault(file: Document, asset: Asset) -> str | None:
    """How a file on the server differs from the one here."""
    if not asset.complete:
        return "an upload was left unfinished"
    if asset.size != file.size:
        return f"{file.size} bytes here, {asset.size} there"
    if asset.sha256 is None:
        return "the server tells no digest"
    same = asset.sha256 == file.sha256
    return None if same else f"SHA-256 {file.sha256[:12]}… here, {asset.sha256[:12]}… there"


# -- what is done ------------------------------------------------------------------------------------------------------


def _carry_out(
    here: _Here,
    github: GitHub,
    release: Release | None,
    steps: Sequence[Step],
    there: Sequence[Asset],
    progress: Callable[[int, int], None],
) -> Release:
    """Do what was planned, and compare before anything is made public."""
    assets, files = {asset.name: asset for asset in there}, {file.name: file for file in here.files}
    done, total = 0, sum(file.size for file in here.files)
    held = release or _create(github, steps[0].name, here.notes)
    for step in steps:
        if step.doing == "delete":
            github.delete(assets[step.name])
        elif step.doing == "upload":
            _upload(here, github, held, files[step.name])
        if step.doing in ("keep", "upload"):
            done += files[step.name].size
            progress(done, total)
    _compare(here, github, held)
    if not held.draft:
        return held
    public = github.publish(held, here.notes)
    if public.draft:
        raise NetworkError(f"release {held.tag} is still a draft", hint="run it again: it goes on")
    return public


def _create(github: GitHub, tag: str, notes: str) -> Release:
    """A new draft; the one that is there, where a request broke and was carried out all the same."""
    for _ in _tries(github):
        try:
            return github.create(tag, notes)
        except Again as error:
            told = str(error)
        if drafts := github.drafts(tag):
            return drafts[0]
    raise NetworkError(f"{told} (tried {github.rest.patience.tries} times)", hint="run it again: it goes on")


def _upload(here: _Here, github: GitHub, release: Release, file: Document) -> None:
    """Send a file until the server has it. What a broken request left of it is deleted first."""
    told = "the name is taken"
    for _ in _tries(github):
        asset = None
        try:
            asset = github.upload(release, here.folder / file.name)
        except Again as error:
            told = str(error)
        asset = asset or next((held for held in github.assets(release) if held.name == file.name), None)
        if asset is not None and asset.complete:
            if (asset.size, asset.sha256 or file.sha256) != (file.size, file.sha256):
                raise ComparisonError(f"{file.name}: {_fault(file, asset)}", hint="run it again with --replace")
            return
        if asset is not None:
            github.delete(asset)
    tried = f"tried {github.rest.patience.tries} times"
    raise NetworkError(f"{file.name} cannot be uploaded ({told}; {tried})", hint="run it again: it goes on")


def _tries(github: GitHub) -> Iterator[int]:
    """Numbers of tries, with pauses between them that double."""
    patience = github.rest.patience
    for number in range(patience.tries):
        if number:
            github.rest.sleep(patience.pause * 2 ** (number - 1))
        yield number


def _compare(here: _Here, github: GitHub, release: Release) -> None:
    """Whether the server tells of every file the size and digest that it has here; digests may come a little late."""
    wrong: list[str] = []
    for _ in _tries(github):
        there = {asset.name: asset for asset in github.assets(release)}
        wrong = [line for file in here.files if (line := _difference(file, there.get(file.name)))]
        if all(there[file.name].sha256 for file in here.files if file.name in there):
            break
    if wrong:
        lines = [f"release {release.tag} is not what was sent", *wrong]
        raise ComparisonError("\n  ".join(lines), hint="it was not made public; run it again with --replace")


def _difference(file: Document, asset: Asset | None) -> str:
    """A line on a file that the server does not have as it is here; "" where it does."""
    fault = "is missing" if asset is None else _fault(file, asset)
    return f"{file.name}: {fault}" if fault else ""
