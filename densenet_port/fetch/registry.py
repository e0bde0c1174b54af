"""Weight files by name: from the cache, or downloaded to it, never unverified.

`weights/registry.toml` names files that others host, each with what is known of it: a SHA-256, the beginning of one, or
an MD5. "imagenet" is a release of ours: its manifest names the default file of an architecture, and every file's size
and SHA-256. Where a release is, the registry says (with the manifest's SHA-256), or DENSENET_PORT_RELEASE (the URL of a
manifest; its own digest is then taken on trust when it first comes).

DENSENET_PORT_MIRROR is the URL of a folder that is asked in place of every host in the registry, by the files' names.
It changes nothing in what they must hash to.
"""

import logging
import os
import tomllib
from dataclasses import dataclass, replace
from functools import cache as once
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from densenet_port.errors import CorruptError, NetworkError, UsageError
from densenet_port.fetch import manifest as manifests
from densenet_port.fetch.cache import folder as cache
from densenet_port.fetch.cache import forget, obtain, read
from densenet_port.fetch.download import Progress, silent
from densenet_port.fetch.http import LIMITS, Limits
from densenet_port.fetch.manifest import File, Manifest
from densenet_port.fetch.partial import Wanted
from densenet_port.files import resource
from densenet_port.network.architecture import Architecture

__all__ = [
    "IMAGENET",
    "Known",
    "Registered",
    "Release",
    "cache",
    "known",
    "named",
    "registered",
    "registry",
    "release",
    "release_folders",
]

IMAGENET = "imagenet"  # the source that means a release of ours
NO_TOP = "-no-top"  # ends an architecture's name where the file has no head
log = logging.getLogger("densenet_port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A file that someone hosts, and what is known of it: its SHA-256, the beginning of it, or its MD5, in hex."""

    url: str
    sha256: str = ""
    md5: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def wanted(self) -> Wanted:
        """What to download: from the mirror, if there is one."""
        base = _base("DENSENET_PORT_MIRROR")
        return Wanted(url=f"{base}/{self.name}" if base else self.url, sha256=self.sha256, md5=self.md5)

    @property
    def path(self) -> Path:
        """Its place in the cache."""
        return cache() / self.name


@dataclass(frozen=True, slots=True)
class Release:
    """A release in use: its manifest, the URL of the folder that its files are in, and their place in the cache."""

    manifest: Manifest
    base: str
    folder: Path

    def default(self, architecture: Architecture) -> File:
        """The file that an architecture means, without its head where there is one. Raises UsageError."""
        found = self.manifest.file(self.manifest.defaults.get(architecture.name, ""))
        if found is None:
            held = ", ".join(self.manifest.defaults) or "none"
            hint = f"it has: {held}; or pass a file of your own"
            raise UsageError(f"release {self.manifest.tag} has no weights for {architecture.name}", hint=hint)
        same = [f for f in self.manifest.files if (f.network, f.container) == (found.network, found.container)]
        return next((file for file in same if not file.top and architecture.classes is None), found)

    def wanted(self, file: File) -> Wanted:
        """What to download for one of its files."""
        url = f"{self.base}/{file.name}"
        return Wanted(
            url=url, size=file.size, sha256=file.sha256, chunk_size=file.chunk_size, chunks=tuple(file.chunks)
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A file that has a place in the cache: whose it is, for which architecture, and what it must be."""

    source: str
    arch: str
    wanted: Wanted
    path: Path

    @property
    def known_by(self) -> str:
        """What its bytes are compared with beforehand; a file is held to its whole SHA-256 once it was fetched."""
        if self.wanted.pinned:
            return "sha256"
        return "md5" if self.wanted.md5 else "sha256-prefix" if self.wanted.sha256 else "first use"


def registry() -> dict[tuple[str, str], Registered]:
    """(source, architecture's name, with `-no-top` where the file has no head) → file that someone hosts."""
    return {
        (source, arch): Registered(**entry)
        for source, files in _table().items()
        if source != "release"
        for arch, entry in files.items()
    }


def registered(
    source: str, architecture: Architecture, *, limits: Limits = LIMITS, progress: Progress = silent
) -> Path:
    """The file of a source and an architecture, from the cache or downloaded to it.

    For an architecture without a head that is the file without one, where there is one. `progress` is told bytes done
    and bytes in all. Raises UsageError when there is none, and what `cache.obtain` raises.
    """
    if source == IMAGENET:
        return _from_release(architecture, limits, progress)
    files = registry()
    ends = (NO_TOP, "") if architecture.classes is None else ("",)
    entry = next((files[key] for end in ends if (key := (source, architecture.name + end)) in files), None)
    if entry is None:
        raise _unknown(f"{source} {architecture.name}")
    return _obtained(entry.wanted, entry.path, limits, progress)


def named(name: str, *, limits: Limits = LIMITS, progress: Progress = silent) -> Path:
    """The file of a name such as `torchvision-121`, `keras-applications-121-no-top` or `imagenet-121`.

    Raises UsageError for a name that means nothing, and what `registered` raises.
    """
    entry = {"-".join(key): found for key, found in registry().items()}.get(name)
    if entry is not None:
        return _obtained(entry.wanted, entry.path, limits, progress)
    body = name.removesuffix(NO_TOP)
    source, _, arch = body.rpartition("-")
    if source != IMAGENET:
        raise _unknown(name)
    architecture = Architecture.named(arch)
    return registered(
        IMAGENET, architecture if body == name else architecture.without_head(), limits=limits, progress=progress
    )


def is_registered(name: str) -> bool:
    """Whether a name means a registered file, or may mean a file of a release; nothing is downloaded."""
    source, _, _ = name.removesuffix(NO_TOP).rpartition("-")
    return source == IMAGENET or name in {"-".join(key) for key in registry()}


def release(*, limits: Limits = LIMITS) -> Release:
    """The release that "imagenet" means; its manifest comes from the cache, or is downloaded.

    Raises UsageError where none is published, CorruptError for a manifest that is none, and what `cache.obtain` raises.
    """
    url, digest = _published()
    place = cache() / f"release-{sha256(f'{url} {digest}'.encode()).hexdigest()[:12]}"
    return _opened(obtain(Wanted(url=url, sha256=digest), place / manifests.NAME, limits=limits), url)


def known() -> list[Known]:
    """Every file that has a name: those of the registry, and those of the releases whose manifests are in the cache."""
    found = [Known(source, arch, entry.wanted, entry.path) for (source, arch), entry in registry().items()]
    for place in release_folders():
        found += _of_release(place / manifests.NAME) if (place / manifests.NAME).is_file() else []
    return found


def release_folders() -> list[Path]:
    """The folders of releases in the cache."""
    return sorted(cache().glob(f"release-{'[0-9a-f]' * 12}"))


def _of_release(path: Path) -> list[Known]:
    """A cached manifest and the files that it names; the manifest alone where it is damaged."""
    record = read(path)
    url = record.url if record else ""
    found = [Known("release", "manifest", Wanted(url=url), path)]
    try:
        held = Release(manifests.read(path), url.rpartition("/")[0], path.parent)
    except CorruptError:
        return found
    source = f"release {held.manifest.tag}"
    files = [Known(source, _arch(file), held.wanted(file), path.parent / file.name) for file in held.manifest.files]
    return [replace(found[0], source=source), *files]


def _arch(file: File) -> str:
    return file.arch if file.top else file.arch + NO_TOP


def _from_release(architecture: Architecture, limits: Limits, progress: Progress) -> Path:
    held = release(limits=limits)
    file = held.default(architecture)
    _tell(f"{IMAGENET} {architecture.name}: {file.name} of release {held.manifest.tag}, {held.base}")
    return _obtained(held.wanted(file), held.folder / file.name, limits, progress)


@once
def _tell(line: str) -> None:
    """Say once in a process which weights "imagenet" means; a warning, because a log shows no less by itself."""
    log.warning(line)


def _opened(path: Path, url: str) -> Release:
    """The release of a manifest in the cache; one that cannot be read does not stay there."""
    try:
        return Release(manifests.read(path), url.rpartition("/")[0], path.parent)
    except CorruptError as error:
        forget(path)
        raise CorruptError(f"{url}: {error.message}", hint=error.hint) from error


def _published() -> tuple[str, str]:
    """Where the release's manifest is, and its SHA-256, "" where it is not known."""
    if chosen := _base("DENSENET_PORT_RELEASE"):
        return chosen if chosen.endswith(".json") else f"{chosen}/{manifests.NAME}", ""
    ours: dict[str, str] = _table()["release"]
    if mirror := _base("DENSENET_PORT_MIRROR"):
        return f"{mirror}/{manifests.NAME}", ours.get("sha256", "")
    if "manifest" not in ours:
        hint = "set DENSENET_PORT_RELEASE to the URL of a release's manifest.json, or name a source: torchvision"
        raise UsageError("no release of converted weights is published yet", hint=hint)
    return ours["manifest"], ours["sha256"]


def _base(variable: str) -> str:
    """The URL in an environment variable, without a slash at its end; "" where it is not set. Raises UsageError."""
    url = os.environ.get(variable, "").rstrip("/")
    parts = urlsplit(url)
    if url and (parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.query):
        raise UsageError(f"{variable}: expected a URL such as https://host/folder, without a login or a query")
    return url


def _obtained(wanted: Wanted, path: Path, limits: Limits, progress: Progress) -> Path:
    """The cached file, or an error that says how to do without the network."""
    try:
        return obtain(wanted, path, limits=limits, progress=progress)
    except NetworkError as error:
        hint = f"pass the file: densenet-port convert {path.name}; or bring it: densenet-port cache import {path.name}"
        raise NetworkError(error.message, hint=f"{error.hint}; or {hint}" if error.hint else hint) from error


def _unknown(name: str) -> UsageError:
    known = ", ".join([*("-".join(key) for key in registry()), f"{IMAGENET}-…"])
    hint = f"registered: {known}; or pass a file of your own"
    return UsageError(f"no weight file is registered for {name}", hint=hint)


def _table() -> dict[str, Any]:
    """The registry as it is written."""
    return tomllib.loads((resource("weights") / "registry.toml").read_text(encoding="utf-8"))
