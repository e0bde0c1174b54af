"""Verify a release: every byte, every tensor, the signature, and the logits, without a framework.

What is wrong is a failed check that says so, and the others go on; only a manifest that cannot be understood ends it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from densenet_port.conversion import convert
from densenet_port.errors import NetworkError, PortError, UsageError
from densenet_port.fetch import manifest as manifests
from densenet_port.fetch.download import Progress, download, ignore_progress
from densenet_port.fetch.http import NotFoundError
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, Document, File, Manifest
from densenet_port.fetch.partial import Expected
from densenet_port.prove import parity
from densenet_port.release.github import check_repo
from densenet_port.release.network import unproven
from densenet_port.release.sign import check_signature

SERVER = "https://github.com"
SUM = re.compile(r"([0-9a-f]{64}) [ *](\S+)")
SAME = ("layout", "architecture", "contract", "mappings", "tensors")  # what a file's own record says as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was judged: what it is, whether it holds, and the figures or the fault."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The verdict on a release. `notes` say what was not looked at."""

    manifest: Manifest
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(check.passed for check in self.checks)


def verify(place: str, *, key: Path | None = None, progress: Progress = ignore_progress) -> Verified:
    """Verify a release: a folder, the URL of its files, or `OWNER/NAME@TAG` on GitHub, whose files are downloaded.

    `key` is the public key that its signature must be of. `progress` is called with files done and files in all. Raises
    as `verify_folder` does, and NetworkError for what cannot be downloaded.
    """
    if Path(place).is_dir():
        return verify_folder(Path(place), key=key)
    with TemporaryDirectory(prefix="densenet-port-") as scratch:
        _download_all(_base(place), Path(scratch), progress, signed=key is not None)
        return verify_folder(Path(scratch), key=key)


def verify_folder(folder: Path, *, key: Path | None = None) -> Verified:
    """Verify the release in a folder; `key` is the public key that its signature must be of.

    Raises DiskError or CorruptError when there is no manifest to go by, UsageError for a key that cannot be used.
    """
    manifest = manifests.read(folder / NAME)
    checks = [*check_bytes(manifest, folder)]
    intact = {check.name for check in checks if check.passed}
    signature = _check_signature(folder, key)
    checks = [*signature, *checks, *_check_tensors(manifest, folder, intact), *_check_logits(manifest, folder, intact)]
    return Verified(manifest=manifest, checks=tuple(checks), notes=tuple(_notes(manifest, folder, key)))


# -- downloads ---------------------------------------------------------------------------------------------------------


def _base(place: str) -> str:
    """The URL of the folder that a release's files are in. Raises UsageError for a place that is none.

    On GitHub that is the permanent one of a tag, which takes no token and knows no rate limit.
    """
    if "://" in place:
        return place.rstrip("/").removesuffix(f"/{NAME}")
    repo, _, tag = place.partition("@")
    if not tag:
        hint = "name a folder, the URL of a release's files, or OWNER/NAME@TAG"
        raise UsageError(f"{place}: is no folder, and no release on GitHub", hint=hint)
    server = os.environ.get("GITHUB_SERVER_URL") or SERVER
    return f"{server.rstrip('/')}/{check_repo(repo)}/releases/download/{quote(tag, safe='')}"


def _download_all(base: str, folder: Path, progress: Progress, *, signed: bool) -> None:
    """Every file of a release, as it is there, whatever the manifest says of it: that is judged afterwards."""
    try:
        download(Expected(url=f"{base}/{NAME}"), folder / NAME)
    except NotFoundError as error:
        hint = "is a release published there? A draft, or one of a private repository, cannot be downloaded"
        raise NetworkError(error.message, hint=hint) from error
    names = [SUMS, *[SIGNATURE] * signed, *(entry.name for entry in manifests.read(folder / NAME).entries())]
    for done, name in enumerate(names, start=1):
        download(Expected(url=f"{base}/{name}"), folder / name)
        progress(done, len(names))


# -- bytes -------------------------------------------------------------------------------------------------------------


def check_bytes(manifest: Manifest, folder: Path) -> Iterator[Check]:
    """Size and digest of every file, and the sums beside them."""
    for entry in manifest.entries():
        yield _check_file(entry, folder)
    yield _check_sums(manifest, folder)


def _check_file(expected: Document, folder: Path) -> Check:
    """Whether a file has the size and digest that the manifest says."""
    try:
        actual = manifests.document(folder / expected.name)
    except PortError as error:
        return Check(name=expected.name, passed=False, detail=error.message)
    detail = f"SHA-256 {actual.sha256}"
    if actual.size != expected.size:
        detail = f"expected {expected.size} bytes, found {actual.size}"
    elif actual != expected:
        detail = f"expected SHA-256 {expected.sha256[:12]}…, found {actual.sha256[:12]}…"
    return Check(name=expected.name, passed=actual == expected, detail=detail)


def _check_sums(manifest: Manifest, folder: Path) -> Check:
    """Whether `SHA256SUMS` says of every file, and of the manifest, what is so."""
    expected = {entry.name: entry.sha256 for entry in manifest.entries()}
    try:
        expected[NAME] = manifests.document(folder / NAME).sha256
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, PortError) as error:
        return Check(name=SUMS, passed=False, detail=f"cannot be read: {error}")
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = SUM.fullmatch(line)
        if match is None:
            return Check(name=SUMS, passed=False, detail=f"line {number} is no sum")
        sums[match[2]] = match[1]
    wrong = sorted(name for name in sums.keys() | expected.keys() if sums.get(name) != expected.get(name))
    if wrong or len(sums) != len(lines):
        detail = f"other than the manifest: {', '.join(wrong) or 'a name twice'}"
        return Check(name=SUMS, passed=False, detail=detail)
    return Check(name=SUMS, passed=True, detail=f"{len(sums)} files, as the manifest lists them")


def _check_signature(folder: Path, key: Path | None) -> Iterator[Check]:
    """The manifest's signature, where a key says whose it must be."""
    if key is None:
        return
    if not (folder / SIGNATURE).is_file():
        yield Check(name=SIGNATURE, passed=False, detail="is missing: the release is not signed")
        return
    try:
        check_signature(folder / NAME, folder / SIGNATURE, key)
    except PortError as error:
        if error.kind == "usage":
            raise
        yield Check(name=SIGNATURE, passed=False, detail=error.message)
    else:
        yield Check(name=SIGNATURE, passed=True, detail=f"signs the manifest, by the key {key.name}")


# -- weights -----------------------------------------------------------------------------------------------------------


def _check_tensors(manifest: Manifest, folder: Path, intact: set[str]) -> Iterator[Check]:
    """The digest of every tensor, and whether a file's record agrees with the manifest; of files that are intact."""
    if not manifest.files:
        yield Check(name=NAME, passed=False, detail="lists no weight file")
    for file in manifest.files:
        if file.name in intact:
            fault = _fault(file, folder)
            detail = fault or f"{len(file.tensors)} tensors, every digest as written"
            yield Check(name=f"{file.name}, tensors", passed=fault is None, detail=detail)


def _fault(file: File, folder: Path) -> str | None:
    """What is wrong with a file, or with what the manifest says of it; None where nothing is."""
    try:
        record = convert.verify(folder / file.name).record or {}
    except PortError as error:
        return error.message
    differing = [key for key in SAME if record.get(key) != getattr(file, key)]
    if not record.get("source", {}).items() <= file.source.items():
        differing.append("source")
    if differing:
        return f"the file's record and the manifest do not have the same {', '.join(differing)}"
    return unproven(file.parity)


def _check_logits(manifest: Manifest, folder: Path, intact: set[str]) -> Iterator[Check]:
    """The reference's logits, replayed in numpy; once for files of the same tensors."""
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for file in manifest.files:
        if file.golden is None or not {file.name, file.golden} <= intact:
            continue
        tensors = (file.golden, frozenset(file.tensors.items()))
        if tensors not in seen:
            seen.add(tensors)
            yield from _replay(file, file.golden, folder)


def _replay(file: File, golden: str, folder: Path) -> Iterator[Check]:
    """The checks of a file against the logits in another one."""
    try:
        checks = parity.replay(folder / file.name, folder / golden)
    except PortError as error:
        yield Check(name=f"{file.name}, golden", passed=False, detail=error.message)
        return
    for check in checks:
        detail = f"{check.measured:.1e}, at most {check.bound:.1e}; {check.says}"
        yield Check(name=f"{file.name}, {check.name}", passed=check.passed, detail=detail)


def _notes(manifest: Manifest, folder: Path, key: Path | None) -> Iterator[str]:
    """What was not looked at."""
    names = {entry.name for entry in manifest.entries()} | {NAME, SUMS, SIGNATURE}
    if strangers := sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in names):
        yield f"not part of the release: {', '.join(strangers)}"
    if key is None:
        signed = (folder / SIGNATURE).is_file()
        yield f"{SIGNATURE} was not checked: no key was given" if signed else "the release is not signed"
