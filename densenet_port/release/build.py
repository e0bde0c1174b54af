"""Build a release: convert, check, and lay out what passed.

What is in the folder's `.build/` is no part of the release: a record for each network that is done, with the inputs it
was made from, so that the next build keeps it; and a workspace for each that failed its check, with its report.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from densenet_port.about import __version__
from densenet_port.conversion.load import read
from densenet_port.errors import DiskError, PortError, UsageError
from densenet_port.fetch import manifest
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, File, Manifest
from densenet_port.fetch.partial import digests_of
from densenet_port.fetch.registry import Registered, registered, registry
from densenet_port.files import file_digest, resource
from densenet_port.layouts.layout import Layout as Table
from densenet_port.network.architecture import Architecture
from densenet_port.release.network import (
    CONTAINERS,
    LAYOUT,
    TOOL,
    Network,
    Options,
    Source,
    made,
    remove,
    rendered,
    written,
)

WORK = ".build"
NOTES = "RELEASE_NOTES.md"
TAG = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?")  # of the names that git allows, the plain ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. `manifest` is None when no network passed; then there is no release."""

    folder: Path
    networks: tuple[Network, ...]
    manifest: Manifest | None

    @property
    def passed(self) -> bool:
        """Whether every network that was asked for is in the release."""
        return all(network.passed for network in self.networks)


def build(
    out: Path,
    *,
    src: str,
    archs: Sequence[Architecture],
    checkpoints: Sequence[Path] = (),
    tag: str = f"v{__version__}",
    options: Options | None = None,
    limit: float = 600.0,
    licence: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Built:
    """Convert and check networks, and lay out those that passed as a release in `out`.

    `checkpoints` are the files of `archs`, in the same order; without them the registered ones are taken. `limit` is in
    seconds for each side of a check. `licence` is what the owner of unregistered files says of them. `progress` is told
    networks done and networks in all. Raises UsageError for arguments that do not go together, and what reading,
    converting and checking raise; a check that fails is no error.
    """
    if checkpoints and len(checkpoints) != len(archs):
        hint = "give --checkpoint as often as --arch, in the same order, or not at all"
        raise UsageError(f"{len(archs)} architectures and {len(checkpoints)} checkpoints", hint=hint)
    if not archs or len({arch.name for arch in archs}) < len(archs):
        raise UsageError("a release has at least one architecture, and each once", hint="name each with --arch")
    if not TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} cannot be a release's tag", hint="letters, digits and . _ / + - are taken")
    _folder(out / WORK)
    networks: list[Network] = []
    for arch, checkpoint in zip_longest(archs, checkpoints):
        progress(len(networks), len(archs))
        source = _source(src, arch, checkpoint, licence)
        networks.append(_network(source, out, options or Options(), limit))
    progress(len(archs), len(archs))
    return Built(folder=out, networks=tuple(networks), manifest=_laid_out(networks, out, tag))


# -- sources -----------------------------------------------------------------------------------------------------------


def _source(src: str, arch: Architecture, checkpoint: Path | None, licence: str | None) -> Source:
    """The checkpoint of an architecture, with what is known of it. The file's own classes and channels hold."""
    path = checkpoint or registered(src, arch)
    architecture, entry = read(path, src=src, arch=arch).architecture, registry().get((src, arch.name))
    known = entry is not None and _is_it(entry, path)
    return Source(
        path=path,
        layout=src,
        architecture=architecture,
        sha256=file_digest(path),
        url=entry.url if entry and known else None,
        licence=_licences().get(src) if known else licence,
    )


def _is_it(entry: Registered, path: Path) -> bool:
    """Whether a file is the registered one, as far as anything is known of that."""
    if not (entry.sha256 or entry.md5):
        return False
    return entry.expected.mismatch(digests_of(path, with_md5=bool(entry.md5))) is None


def _licences() -> dict[str, str]:
    """Source → what is known of the licence of its registered weights."""
    table = tomllib.loads((resource("weights") / "licences.toml").read_text(encoding="utf-8"))
    return {source: f"{entry['licence']} ({entry['url']})" for source, entry in table.items()}


def _inputs(source: Source, options: Options) -> dict[str, Any]:
    """Everything that a network's files follow from, as JSON gives it back."""
    told = {"sha256": source.sha256, "url": source.url, "licence": source.licence}
    tables = {layout: Table.load(layout).digest for layout in (source.layout, LAYOUT)}
    check = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
    return {"tool": TOOL, "source": told, "mappings": tables, "check": check}


# -- one network -------------------------------------------------------------------------------------------------------


def _network(source: Source, out: Path, options: Options, limit: float) -> Network:
    """The network as it was built before from the same inputs, or built now."""
    inputs, record = _inputs(source, options), out / WORK / f"{source.network}.json"
    if kept := _kept(record, inputs, source, out):
        return kept
    _forget(record, out)
    network = made(source, _workspace(out / WORK / source.network), options, limit)
    if network.passed:
        _settle(network, inputs, record, out)
    return network


def _kept(record: Path, inputs: Mapping[str, Any], source: Source, out: Path) -> Network | None:
    """The network that a record tells, if it was made from the same inputs and every file is still what it was."""
    try:
        if json.loads(record.read_bytes())["inputs"] != inputs:
            return None
        told = manifest.read(record)
        if any(manifest.document(out / entry.name) != entry for entry in told.entries()):
            return None
    except (OSError, ValueError, KeyError, TypeError, PortError):
        return None
    name, arch = source.network, source.architecture.name
    return Network(name=name, arch=arch, kept=True, files=told.files, documents=told.documents)


def _forget(record: Path, out: Path) -> None:
    """Remove a record that holds no more, and the files that it tells."""
    try:
        stale = [out / entry.name for entry in manifest.read(record).entries()]
    except PortError:
        stale = []
    remove(record, *stale)


def _workspace(place: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(place, ignore_errors=True)
    return _folder(place)


def _folder(place: Path) -> Path:
    """A folder, made where it is missing."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{place}: cannot be made: {error.strerror}", hint="name another folder with --out") from error
    return place


def _settle(network: Network, inputs: Mapping[str, Any], record: Path, out: Path) -> None:
    """Move a network's files from the workspace to their place; the record of it comes last."""
    told = Manifest(tag="", tool=TOOL, files=network.files, documents=network.documents, defaults={})
    work = record.with_suffix("")
    try:
        for entry in told.entries():
            (work / entry.name).replace(out / entry.name)
        shutil.rmtree(work)
    except OSError as error:
        raise DiskError(f"{work}: cannot be moved to {out}: {error.strerror}") from error
    written(record, json.dumps({"inputs": inputs, **json.loads(told.to_bytes())}))


# -- the release -------------------------------------------------------------------------------------------------------


def _laid_out(networks: Sequence[Network], out: Path, tag: str) -> Manifest | None:
    """Write what stands once in a release: notes, manifest, sums. Without a network that passed there is none."""
    passed = [network for network in networks if network.passed]
    if not passed:
        remove(out / NAME, out / SUMS, out / SIGNATURE, out / NOTES)
        return None
    files = tuple(file for network in passed for file in network.files)
    notes = written(out / NOTES, rendered("release_notes.md", tag=tag, networks=passed, tool=TOOL))
    others = tuple(document for network in passed for document in network.documents)
    told = Manifest(
        tag=tag,
        tool=TOOL,
        files=files,
        documents=(*others, manifest.document(notes)),
        defaults={file.arch: file.name for file in files if file.container == CONTAINERS[0] and _by_the_book(file)},
    )
    _write_manifest(told, out)
    return told


def _by_the_book(file: File) -> bool:
    """Whether a file is the network of its architecture's name, with the head and the input that the name implies."""
    return dict(file.architecture) == Architecture.named(file.arch).to_json()


def _write_manifest(told: Manifest, out: Path) -> None:
    """Write manifest and sums. A signature of another manifest is removed, one of the same stays."""
    place, content = out / NAME, told.to_bytes()
    if not place.is_file() or place.read_bytes() != content:
        remove(out / SIGNATURE)
        written(place, content.decode())
    sums = {entry.name: entry.sha256 for entry in (*told.entries(), manifest.document(place))}
    written(out / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
