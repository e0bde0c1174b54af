"""Build a release: convert, check, and lay out what passed.

What is in the folder's `.build/` is no part of the release: a record for each network that is done, with the inputs it
was made from, so that the next build keeps it; and a workspace for each that failed its check, with its report.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from densenet_port.about import TOOL, __version__
from densenet_port.conversion.load import port, read
from densenet_port.errors import DiskError, PortError, UsageError
from densenet_port.fetch import manifest as manifests
from densenet_port.fetch.download import Progress, ignore_progress
from densenet_port.fetch.manifest import NAME, SIGNATURE, SUMS, File, Manifest
from densenet_port.fetch.partial import digests_of
from densenet_port.fetch.registry import Registered, registered, registry
from densenet_port.files import file_digest, resource
from densenet_port.layouts.layout import Layout as Table
from densenet_port.network.architecture import Architecture
from densenet_port.release.network import (
    CONTAINERS,
    LAYOUT,
    BuiltNetwork,
    Options,
    Source,
    convert_and_check,
    remove,
    render,
    unproven,
    write_text,
)

WORK = ".build"
NOTES = "RELEASE_NOTES.md"
TAG = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?")  # of the names that git allows, the plain ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. `manifest` is None when no network passed; then there is no release."""

    folder: Path
    networks: tuple[BuiltNetwork, ...]
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
    progress: Progress = ignore_progress,
) -> Built:
    """Convert and check networks, and lay out those that passed as a release in `out`.

    `checkpoints` are the files of `archs`, in the same order; without them the registered ones are taken. `limit` is in
    seconds for each side of a check. `licence` is what the owner of unregistered files says of them. `progress` is
    called with networks done and networks in all. Raises UsageError for arguments that do not go together, and what
    reading, converting and checking raise; a check that fails is no error.
    """
    if checkpoints and len(checkpoints) != len(archs):
        hint = "give --checkpoint as often as --arch, in the same order, or not at all"
        raise UsageError(f"{len(archs)} architectures and {len(checkpoints)} checkpoints", hint=hint)
    if not archs or len({arch.name for arch in archs}) < len(archs):
        raise UsageError("a release has at least one architecture, and each once", hint="name each with --arch")
    if not TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} cannot be a release's tag", hint="letters, digits and . _ / + - are taken")
    _make_folder(out / WORK)
    networks: list[BuiltNetwork] = []
    for arch, checkpoint in zip_longest(archs, checkpoints):
        progress(len(networks), len(archs))
        source = _source(src, arch, checkpoint, licence)
        networks.append(_keep_or_build(source, out, options or Options(), limit))
    progress(len(archs), len(archs))
    return Built(folder=out, networks=tuple(networks), manifest=_lay_out(networks, out, tag))


# -- sources -----------------------------------------------------------------------------------------------------------


def _source(src: str, arch: Architecture, checkpoint: Path | None, licence: str | None) -> Source:
    """The checkpoint of an architecture, with what is known of it. The file's own classes and channels hold."""
    path = checkpoint or registered(src, arch, port=port)
    architecture, entry = read(path, src=src, arch=arch).architecture, registry().get((src, arch.name))
    known = entry is not None and _is_registered(entry, path)
    return Source(
        path=path,
        layout=src,
        architecture=architecture,
        sha256=file_digest(path),
        url=entry.url if entry and known else None,
        licence=_licences().get(src) if known else licence,
    )


def _is_registered(entry: Registered, path: Path) -> bool:
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
    return {
        "tool": TOOL,
        "source": {"sha256": source.sha256, "url": source.url, "licence": source.licence},
        "mappings": {layout: Table.load(layout).digest for layout in (source.layout, LAYOUT)},
        "check": options.to_json(),
    }


# -- one network -------------------------------------------------------------------------------------------------------


def _keep_or_build(source: Source, out: Path, options: Options, limit: float) -> BuiltNetwork:
    """The network as it was built before from the same inputs, or built now."""
    inputs, record = _inputs(source, options), out / WORK / f"{source.network}.json"
    if kept := _kept(record, inputs, source, out):
        return kept
    _forget(record, out)
    work = record.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    network = convert_and_check(source, _make_folder(work), options, limit)
    if network.passed:
        _settle(network, inputs, record, out)
    return network


def _kept(record: Path, inputs: Mapping[str, Any], source: Source, out: Path) -> BuiltNetwork | None:
    """The network of a record; None where it was made from other inputs, is not proven, or a file has changed."""
    try:
        if json.loads(record.read_bytes())["inputs"] != inputs:
            return None
        manifest = manifests.read(record)
        if any(manifests.document(out / entry.name) != entry for entry in manifest.entries()):
            return None
        if any(unproven(file.parity) for file in manifest.files):
            return None
    except (OSError, ValueError, KeyError, TypeError, PortError):
        return None
    files, documents, arch = manifest.files, manifest.documents, source.architecture.name
    return BuiltNetwork(name=source.network, arch=arch, kept=True, files=files, documents=documents)


def _forget(record: Path, out: Path) -> None:
    """Remove a record that holds no more, and the files that it lists."""
    try:
        stale = [out / entry.name for entry in manifests.read(record).entries()]
    except PortError:
        stale = []
    remove(record, *stale)


def _make_folder(place: Path) -> Path:
    """A folder, made where it is missing. Raises DiskError."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{place}: cannot be made: {error.strerror}", hint="name another folder with --out") from error
    return place


def _settle(network: BuiltNetwork, inputs: Mapping[str, Any], record: Path, out: Path) -> None:
    """Move a network's files from the workspace to their place; the record of it comes last."""
    manifest = Manifest(tag="", tool=TOOL, files=network.files, documents=network.documents, defaults={})
    work = record.with_suffix("")
    try:
        for entry in manifest.entries():
            (work / entry.name).replace(out / entry.name)
        shutil.rmtree(work)
    except OSError as error:
        raise DiskError(f"{work}: cannot be moved to {out}: {error.strerror}") from error
    write_text(record, json.dumps({"inputs": inputs, **json.loads(manifest.to_bytes())}))


# -- the release -------------------------------------------------------------------------------------------------------


def _lay_out(networks: Sequence[BuiltNetwork], out: Path, tag: str) -> Manifest | None:
    """Write what stands once in a release: notes, manifest, sums. Without a network that passed there is none."""
    passed = [network for network in networks if network.passed]
    if not passed:
        remove(out / NAME, out / SUMS, out / SIGNATURE, out / NOTES)
        return None
    files = tuple(file for network in passed for file in network.files)
    notes = write_text(out / NOTES, render("release_notes.md", tag=tag, networks=passed, tool=TOOL))
    documents = (*(document for network in passed for document in network.documents), manifests.document(notes))
    defaults = {file.arch: file.name for file in files if file.container == CONTAINERS[0] and _is_standard(file)}
    manifest = Manifest(tag=tag, tool=TOOL, files=files, documents=documents, defaults=defaults)
    write_manifest(manifest, out)
    return manifest


def _is_standard(file: File) -> bool:
    """Whether a file is the network of its architecture's name, with the head and the input that the name implies."""
    return dict(file.architecture) == Architecture.named(file.arch).to_json()


def write_manifest(manifest: Manifest, out: Path) -> None:
    """Write manifest and sums. A signature of another manifest is removed, one of the same stays."""
    path, content = out / NAME, manifest.to_bytes()
    if not path.is_file() or path.read_bytes() != content:
        remove(out / SIGNATURE)
        write_text(path, content.decode())
    sums = {entry.name: entry.sha256 for entry in (*manifest.entries(), manifests.document(path))}
    write_text(out / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
