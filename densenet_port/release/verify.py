"""Verify a release: every byte, every tensor, the signature, and the logits, without a framework.

What is wrong is a failed check that says so, and the others go on; only a manifest that cannot be understood ends it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from densenet_port.conversion import convert
from densenet_port.errors import NetworkError, PortError, UsageError
from densenet_port.fetch import manifest
from densenet_port.fetch.download import Progress, download, ignore_progress
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, Document, File, Manifest
from densenet_port.fetch.partial import Expected
from densenet_port.prove import parity
from densenet_port.release.github import GitHub
from densenet_port.release.sign import check_signature

SUM = re.compile(r"([0-9a-f]{64}) [ *](\S+)")
OWN = ("layout", "architecture", "contract", "mappings", "tensors")  # what a file's own manifest says as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One thing that was judged: what it is, whether it holds, and what was found."""

    name: str
    passed: bool
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found of a release. `notes` tell what was not looked at."""

    manifest: Manifest
    checks: tuple[Judged, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(check.passed for check in self.checks)


def verify(place: str, *, key: Path | None = None, progress: Progress = ignore_progress) -> Verified:
    """Verify a release: a folder, the URL of its files, or `OWNER/NAME@TAG` on GitHub, whose files are downloaded.

    `key` is the public key that its signature must be of. `progress` is told files done and files in all. Raises as
    `verify_folder` does, and NetworkError for what cannot be downloaded.
    """
    if Path(place).is_dir():
        return verify_folder(Path(place), key=key)
    with TemporaryDirectory(prefix="densenet-port-") as scratch:
        where = _of_url(place) if "://" in place else _of_tag(place)
        _download_all(where, Path(scratch), progress, signed=key is not None)
        return verify_folder(Path(scratch), key=key)


def _of_url(base: str) -> Callable[[str], str]:
    """Name → URL of a release's files, which lie in one folder of a web server."""
    return lambda name: f"{base.rstrip('/').removesuffix(f'/{NAME}')}/{name}"


def _of_tag(place: str) -> Callable[[str], str]:
    """Name → URL of the files of a published release on GitHub. Raises UsageError for a place that is none."""
    repo, _, tag = place.partition("@")
    if not tag:
        hint = "name a folder, the URL of a release's files, or OWNER/NAME@TAG"
        raise UsageError(f"{place}: is no folder, and no release on GitHub", hint=hint)
    github = GitHub.of_environment(repo)
    if (release := github.published(tag)) is None:
        raise NetworkError(f"{repo} has no published release {tag}", hint="a draft cannot be downloaded")
    assets = {asset.name: asset.download for asset in github.assets(release) if asset.complete}

    def url(name: str) -> str:
        if name not in assets:
            raise NetworkError(f"release {tag} of {repo} has no file {name}", hint="its manifest tells of one")
        return assets[name]

    return url


def _download_all(url: Callable[[str], str], folder: Path, progress: Progress, *, signed: bool) -> None:
    """Every file of a release, as it is there, whatever the manifest says of it: that is judged afterwards."""
    download(Expected(url=url(NAME)), folder / NAME)
    names = [entry.name for entry in manifest.read(folder / NAME).entries()]
    for done, name in enumerate([SUMS, *[SIGNATURE] * signed, *names], start=1):
        download(Expected(url=url(name)), folder / name)
        progress(done, len(names) + 1 + signed)


def verify_folder(folder: Path, *, key: Path | None = None) -> Verified:
    """Verify the release in a folder; `key` is the public key that its signature must be of.

    Raises DiskError or CorruptError when there is no manifest to go by, UsageError for a key that cannot be used.
    """
    told = manifest.read(folder / NAME)
    bytewise = tuple(check_bytes(told, folder))
    right = {check.name for check in bytewise if check.passed}
    checks = (*_signature(folder, key), *bytewise, *_tensors(told, folder, right), *_golden(told, folder, right))
    return Verified(manifest=told, checks=checks, notes=tuple(_notes(told, folder, key)))


def check_bytes(told: Manifest, folder: Path) -> Iterator[Judged]:
    """Size and digest of every file, and the sums beside them."""
    for entry in told.entries():
        yield _document(entry, folder)
    yield _sums(told, folder)


def _document(entry: Document, folder: Path) -> Judged:
    try:
        found = manifest.document(folder / entry.name)
    except PortError as error:
        return Judged(name=entry.name, passed=False, says=error.message)
    if found.size != entry.size:
        return Judged(name=entry.name, passed=False, says=f"expected {entry.size} bytes, found {found.size}")
    says = f"expected SHA-256 {entry.sha256[:12]}…, found {found.sha256[:12]}…"
    return Judged(name=entry.name, passed=found == entry, says=f"SHA-256 {found.sha256}" if found == entry else says)


def _sums(told: Manifest, folder: Path) -> Judged:
    """Whether `SHA256SUMS` says of every file, and of the manifest, what is so."""
    expected = {entry.name: entry.sha256 for entry in told.entries()}
    try:
        expected[NAME] = manifest.document(folder / NAME).sha256
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, PortError) as error:
        return Judged(name=SUMS, passed=False, says=f"cannot be read: {error}")
    found = [SUM.fullmatch(line) for line in lines]
    if None in found:
        return Judged(name=SUMS, passed=False, says=f"line {found.index(None) + 1} is no sum")
    sums = {match[2]: match[1] for match in found if match}
    wrong = sorted(name for name in sums.keys() | expected.keys() if sums.get(name) != expected.get(name))
    if wrong or len(sums) != len(lines):
        return Judged(name=SUMS, passed=False, says=f"other than the manifest: {', '.join(wrong) or 'a name twice'}")
    return Judged(name=SUMS, passed=True, says=f"{len(sums)} files, as the manifest tells them")


def _signature(folder: Path, key: Path | None) -> Iterator[Judged]:
    """The manifest's signature, where a key says whose it must be."""
    if key is None:
        return
    if not (folder / SIGNATURE).is_file():
        yield Judged(name=SIGNATURE, passed=False, says="is missing: the release is not signed")
        return
    try:
        check_signature(folder / NAME, folder / SIGNATURE, key)
    except PortError as error:
        if error.kind == "usage":
            raise
        yield Judged(name=SIGNATURE, passed=False, says=error.message)
    else:
        yield Judged(name=SIGNATURE, passed=True, says=f"signs the manifest, by the key {key.name}")


def _tensors(told: Manifest, folder: Path, right: set[str]) -> Iterator[Judged]:
    """The digest of every tensor, and whether a file says of itself what the manifest says of it."""
    if not told.files:
        yield Judged(name=NAME, passed=False, says="tells no weight file")
    for file in told.files:
        if file.name in right:
            fault = _fault(file, folder)
            says = fault or f"{len(file.tensors)} tensors, every digest as written"
            yield Judged(name=f"{file.name}, tensors", passed=fault is None, says=says)


def _fault(file: File, folder: Path) -> str | None:
    """What is wrong with a file, or with what is said of it."""
    try:
        own = convert.verify(folder / file.name).record or {}
    except PortError as error:
        return error.message
    apart = [key for key in OWN if own.get(key) != getattr(file, key)]
    apart += ["source"] * (not own.get("source", {}).items() <= file.source.items())
    if apart:
        return f"the file and the manifest do not tell the same {', '.join(apart)}"
    return None if file.parity.get("passed") is True else "the manifest does not say that its parity was found"


def _golden(told: Manifest, folder: Path, right: set[str]) -> Iterator[Judged]:
    """The reference's logits, replayed in numpy; once for files of the same tensors."""
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for file in told.files:
        if file.golden is None or not {file.name, file.golden} <= right:
            continue
        key = (file.golden, frozenset(file.tensors.items()))
        if key not in seen:
            seen.add(key)
            yield from _replayed(file, file.golden, folder)


def _replayed(file: File, golden: str, folder: Path) -> Iterator[Judged]:
    try:
        checks = parity.replay(folder / file.name, folder / golden)
    except PortError as error:
        yield Judged(name=f"{file.name}, golden", passed=False, says=error.message)
        return
    for check in checks:
        says = f"{check.measured:.1e}, at most {check.bound:.1e}; {check.says}"
        yield Judged(name=f"{file.name}, {check.name}", passed=check.passed, says=says)


def _notes(told: Manifest, folder: Path, key: Path | None) -> Iterator[str]:
    """What was not looked at."""
    known = {entry.name for entry in told.entries()} | {NAME, SUMS, SIGNATURE}
    if strangers := sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in known):
        yield f"not part of the release: {', '.join(strangers)}"
    if key is None:
        signed = (folder / SIGNATURE).is_file()
        yield f"{SIGNATURE} was not checked: no key was given" if signed else "the release is not signed"
