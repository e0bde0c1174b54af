"""Weight files by name: from the cache, or downloaded to it, never unverified; and what of them is in the cache.

`weights/registry.toml` names files that others host, each with what is known of it: a SHA-256, the beginning of one, or
an MD5. "imagenet" is a release of this project: its manifest names the default file of an architecture, and every
file's size and SHA-256. Where a release is, the registry says (with the manifest's SHA-256), or DENSENET_PORT_RELEASE
(the URL of a manifest; its own digest is then taken on trust when it first comes). Where neither does, it is the file
of the source that the registry names in its stead, converted on its first use and cached as our own (`converted`).

DENSENET_PORT_MIRROR is the URL of a folder that is asked in place of every host in the registry, by the files' names.
It changes nothing in what they must hash to.

Only files that have a name are listed, verified or removed. Other people's files in the same folder are left alone.
"""

import logging
import os
import shutil
import tomllib
from dataclasses import dataclass, replace
from functools import cache as once
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from densenet_port.errors import CorruptError, DiskError, NetworkError, UsageError, nearest
from densenet_port.fetch import cache, converted
from densenet_port.fetch import manifest as manifests
from densenet_port.fetch.converted import Port
from densenet_port.fetch.download import Progress, ignore_progress
from densenet_port.fetch.manifest import File, Manifest
from densenet_port.fetch.partial import Digests, Expected, digests_of
from densenet_port.files import resource
from densenet_port.network.architecture import Architecture

IMAGENET = "imagenet"  # the source that means a release of this project, or what stands in for one
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
    def expected(self) -> Expected:
        """What to download: from the mirror, if there is one."""
        mirror = _base("DENSENET_PORT_MIRROR")
        return Expected(url=f"{mirror}/{self.name}" if mirror else self.url, sha256=self.sha256, md5=self.md5)

    @property
    def path(self) -> Path:
        """Its place in the cache."""
        return cache.folder() / self.name


@dataclass(frozen=True, slots=True)
class Release:
    """A release in use: its manifest, the URL of the folder that its files are in, and their place in the cache."""

    manifest: Manifest
    base: str
    folder: Path

    def default(self, architecture: Architecture) -> File:
        """The file that an architecture means, without its head where there is one. Raises UsageError."""
        default = self.manifest.file(self.manifest.defaults.get(architecture.name, ""))
        if default is None:
            names = ", ".join(self.manifest.defaults) or "none"
            message = f"release {self.manifest.tag} has no weights for {architecture.name}"
            raise UsageError(message, hint=f"it has: {names}; or pass a file of your own")
        if architecture.classes is not None:
            return default
        for file in self.manifest.files:
            if (file.network, file.container, file.top) == (default.network, default.container, False):
                return file
        return default

    def expected(self, file: File) -> Expected:
        """What to download for one of its files."""
        return Expected(url=f"{self.base}/{file.name}", size=file.size, sha256=file.sha256)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that has a place in the cache: whose it is, for which architecture, and what it must be."""

    source: str
    arch: str
    expected: Expected
    path: Path

    @property
    def known_by(self) -> str:
        """What its bytes are compared with beforehand; a file is held to its whole SHA-256 once it was fetched."""
        if self.expected.pinned:
            return "sha256"
        if self.expected.md5:
            return "md5"
        return "sha256-prefix" if self.expected.sha256 else "first use"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """A file in the cache, as the command line prints it.

    `bytes` is its size, `sha256` its digest in hex as last hashed, None where it never was; `known_by` is KnownFile's.
    """

    file: str
    source: str
    arch: str
    path: str
    bytes: int
    sha256: str | None
    known_by: str
    url: str


# -- files by name -----------------------------------------------------------------------------------------------------


def registry() -> dict[tuple[str, str], Registered]:
    """(source, architecture's name, with `-no-top` where the file has no head) → file that someone hosts."""
    return {
        (source, arch): Registered(**entry)
        for source, files in _table().items()
        if source != "release"
        for arch, entry in files.items()
    }


def registered(source: str, architecture: Architecture, *, port: Port, progress: Progress = ignore_progress) -> Path:
    """The file of a source and an architecture, from the cache or downloaded to it.

    For an architecture without a head that is the file without one, where there is one. `port` converts what stands in
    for a release (`conversion.load.port`); `progress` is called with bytes done and bytes in all. Raises UsageError
    when there is no such file, and what `cache.obtain` and `port` raise.
    """
    if source == IMAGENET:
        return _converted(architecture, port, progress) if stand_in() else _from_release(architecture, progress)
    files = registry()
    entry = files.get((source, architecture.name))
    if architecture.classes is None:
        entry = files.get((source, architecture.name + NO_TOP), entry)
    if entry is None:
        raise _unknown(f"{source} {architecture.name}")
    return _obtain(entry.expected, entry.path, progress)


def named(name: str, *, port: Port, progress: Progress = ignore_progress) -> Path:
    """The file of a name such as `torchvision-121`, `keras-applications-121-no-top` or `imagenet-121`.

    `port` and `progress` are as in `registered`. Raises UsageError for a name that means nothing, and what that raises.
    """
    for (source, arch), entry in registry().items():
        if name == f"{source}-{arch}":
            return _obtain(entry.expected, entry.path, progress)
    body = name.removesuffix(NO_TOP)
    source, _, arch = body.rpartition("-")
    if source != IMAGENET:
        raise _unknown(name)
    architecture = Architecture.named(arch)
    if body == name:
        return registered(IMAGENET, architecture, port=port, progress=progress)
    if other := stand_in():
        hint = f"read {body}, and leave its head out (--no-top, no_top=True)"
        raise UsageError(f"{name}: no release is published, and {other}'s files have their heads", hint=hint)
    return registered(IMAGENET, architecture.without_head(), port=port, progress=progress)


def is_registered(name: str) -> bool:
    """Whether a name means a registered file, or may mean a file of a release; nothing is downloaded."""
    source, _, _ = name.removesuffix(NO_TOP).rpartition("-")
    return source == IMAGENET or name in {"-".join(key) for key in registry()}


def stand_in() -> str | None:
    """The source, which is a layout's name too, whose files "imagenet" means; None where it means a release."""
    if _base("DENSENET_PORT_RELEASE"):
        return None
    table = _table()["release"]
    return None if "manifest" in table else str(table["instead"])


def release() -> Release:
    """The release that "imagenet" means; its manifest comes from the cache, or is downloaded.

    Raises CorruptError for a manifest that is none, and what `cache.obtain` raises.
    """
    url, digest = _manifest_url()
    folder = cache.folder() / f"release-{sha256(f'{url} {digest}'.encode()).hexdigest()[:12]}"
    path = cache.obtain(Expected(url=url, sha256=digest), folder / manifests.NAME)
    try:
        return _read_release(path, url)
    except CorruptError as error:
        cache.forget(path)  # what cannot be read does not stay
        raise CorruptError(f"{url}: {error.message}", hint=error.hint) from error


def known() -> list[KnownFile]:
    """Every file that has a name: the registry's, their conversions, and those of releases with a cached manifest."""
    entries = registry()
    files = [KnownFile(source, arch, entry.expected, entry.path) for (source, arch), entry in entries.items()]
    for (source, arch), entry in entries.items():
        if source == _table()["release"].get("instead"):
            path = converted.place(entry.path)
            files.append(KnownFile(IMAGENET, arch, converted.known(entry.expected, path), path))
    for folder in _release_folders():
        if (folder / manifests.NAME).is_file():
            files += _of_release(folder / manifests.NAME)
    return files


# -- the cache ---------------------------------------------------------------------------------------------------------


def listed() -> list[KnownFile]:
    """The known files that are in the cache."""
    return [entry for entry in known() if entry.path.is_file()]


def known_file(path: Path) -> KnownFile:
    """The known file of a path in the cache."""
    return next(entry for entry in known() if entry.path == path)


def described(entry: KnownFile) -> CachedFile:
    """What is known of a file that is in the cache."""
    record = cache.read(entry.path)
    return CachedFile(
        file=entry.path.name,
        source=entry.source,
        arch=entry.arch,
        path=str(entry.path),
        bytes=entry.path.stat().st_size,
        sha256=record.sha256 if record else None,
        known_by=entry.known_by,
        url=record.url if record else entry.expected.url,
    )


def import_file(file: Path) -> KnownFile:
    """Copy a file that was brought by hand to its place in the cache; which of the known ones it is, its digests say.

    Raises DiskError when it cannot be read, CorruptError when no known file has its digests.
    """
    try:
        digests = digests_of(file, with_md5=True)
    except OSError as error:
        raise DiskError(f"{file}: cannot be read: {error.strerror}", hint="is the path right?") from error
    entries = known()
    for entry in entries:
        if entry.known_by != "first use" and entry.expected.mismatch(digests) is None:
            cache.put(file, entry.expected, entry.path)
            return entry
    raise CorruptError(
        f"{file}: {_why_unknown(file, digests, entries)}", hint="densenet-port doctor lists what is registered"
    )


def prune(*, everything: bool) -> list[Path]:
    """Remove what killed downloads left; with `everything`, all that was fetched and its records too. The paths."""
    entries = known()
    removed = [path for entry in entries for path in cache.remove_leftovers(entry.path)]
    if not everything:
        return removed
    for entry in entries:
        if entry.path.is_file():
            cache.forget(entry.path)
            removed.append(entry.path)
    for folder in _release_folders():
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def _why_unknown(file: Path, digests: Digests, entries: list[KnownFile]) -> str:
    """Why a file is none of the known ones: how it differs from the one of its name, where there is one."""
    for entry in entries:
        if entry.path.name == file.name and (mismatch := entry.expected.mismatch(digests)):
            return mismatch
    return f"no known file has its SHA-256, {digests.sha256}"


# -- releases ----------------------------------------------------------------------------------------------------------


def _release_folders() -> list[Path]:
    """The folders of releases in the cache."""
    return sorted(cache.folder().glob(f"release-{'[0-9a-f]' * 12}"))


def _of_release(path: Path) -> list[KnownFile]:
    """A cached manifest and the files that it names; the manifest alone where it is damaged."""
    record = cache.read(path)
    url = record.url if record else ""
    index = KnownFile("release", "manifest", Expected(url=url), path)
    try:
        held = _read_release(path, url)
    except CorruptError:
        return [index]
    files = [replace(index, source=f"release {held.manifest.tag}")]
    for file in held.manifest.files:
        arch = file.arch if file.top else file.arch + NO_TOP
        files.append(KnownFile(files[0].source, arch, held.expected(file), held.folder / file.name))
    return files


def _read_release(path: Path, url: str) -> Release:
    """The release of a manifest in the cache that came from a URL. Raises CorruptError."""
    return Release(manifests.read(path), url.rpartition("/")[0], path.parent)


def _converted(architecture: Architecture, port: Port, progress: Progress) -> Path:
    """Our file of an architecture's weights by the source that stands in for a release; which that is, stderr says."""
    source, files = str(stand_in()), registry()
    entry = files.get((source, architecture.name))
    if entry is None:
        names = ", ".join(arch for name, arch in files if name == source)
        message = f"no weights are registered for {IMAGENET} {architecture.name}"
        raise UsageError(message, hint=f"{IMAGENET} has: {names}; or pass a file of your own")
    path = converted.obtain(
        entry.expected,
        converted.place(entry.path),
        source,
        fetch=lambda: _obtain(entry.expected, entry.path, progress),
        port=port,
    )
    _warn(f"{IMAGENET} {architecture.name}: {source}'s {entry.name}, as no release is published; cached as {path}")
    return path


def _from_release(architecture: Architecture, progress: Progress) -> Path:
    """The default file of an architecture, which is named on stderr."""
    held = release()
    file = held.default(architecture)
    _warn(f"{IMAGENET} {architecture.name}: {file.name} of release {held.manifest.tag}, {held.base}")
    return _obtain(held.expected(file), held.folder / file.name, progress)


@once
def _warn(line: str) -> None:
    """Say once in a process which weights "imagenet" means; a warning, because a log shows no less by itself."""
    log.warning(line)


def _manifest_url() -> tuple[str, str]:
    """Where the release's manifest is, and its SHA-256, "" where it is not known; `stand_in` says if there is one."""
    if chosen := _base("DENSENET_PORT_RELEASE"):
        return chosen if chosen.endswith(".json") else f"{chosen}/{manifests.NAME}", ""
    entry: dict[str, str] = _table()["release"]
    mirror = _base("DENSENET_PORT_MIRROR")
    return f"{mirror}/{manifests.NAME}" if mirror else entry["manifest"], entry["sha256"]


def _base(variable: str) -> str:
    """The URL in an environment variable, without a slash at its end; "" where it is not set. Raises UsageError."""
    url = os.environ.get(variable, "").rstrip("/")
    parts = urlsplit(url)
    if url and (parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.query):
        raise UsageError(f"{variable}: expected a URL such as https://host/folder, without a login or a query")
    return url


def _obtain(expected: Expected, path: Path, progress: Progress) -> Path:
    """The cached file, or an error that says how to do without the network."""
    try:
        return cache.obtain(expected, path, progress=progress)
    except NetworkError as error:
        brought = f"bring the file: `densenet-port cache import {path.name}` copies it to {path}"
        hint = f"{brought}; or pass its path in place of the name"
        raise NetworkError(error.message, hint=f"{error.hint}; or {hint}" if error.hint else hint) from error


def _unknown(name: str) -> UsageError:
    """The error for a name that means nothing."""
    names = ["-".join(key) for key in registry()]
    hint = f"{nearest(name, names)}registered: {', '.join(names)}, {IMAGENET}-…; or pass a file of your own"
    return UsageError(f"no weight file is registered for {name}", hint=hint)


def _table() -> dict[str, Any]:
    """The registry as it is written."""
    return tomllib.loads((resource("weights") / "registry.toml").read_text(encoding="utf-8"))
