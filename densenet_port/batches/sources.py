"""Which files a batch is of, and where the result of each goes.

A source is a file, a pattern, a folder, a manifest, a registered name, or a place on the Hub:

    pattern     `*`, `?`, `[…]`, and `**` for any folders; what it fits, each file or folder as if it was named
    folder      every file in it, and in the folders in it, that a reader knows by its content or its ending. A folder
                that is one checkpoint (of the Hub, a SavedModel) is one source, and so are the shards of an index;
                companions, parts and whatever begins with a dot are none.
    manifest    .csv and .tsv, whose first line names the columns, .jsonl with an object or a string a line, .txt with a
                path a line. Columns are `source`, `out`, and the words for this one file: `src`, `arch`, `kernels`,
                `within`, `output_name`. Paths are relative to the manifest's own folder.

A result lies below the batch's folder as its source lies below the folder, the manifest's folder, or the part of the
pattern before the first `*`; one that is named by itself lies in it. It has the source's name with another ending.
Where that would be the name of another result, too, all of them keep their whole names before the new ending:
`best.pth.weights.h5` and `best.h5.weights.h5`. Two that still have one place are refused.
"""

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from densenet_port import formats
from densenet_port.conversion.opening import is_remote
from densenet_port.errors import DiskError, PortError, UsageError
from densenet_port.files import stem
from densenet_port.formats import folders
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.tensorflow import saved_model
from densenet_port.network.architecture import Architecture
from densenet_port.strict import Fields

MANIFESTS = (".csv", ".tsv", ".jsonl", ".txt")
WORDS = ("src", "arch", "kernels", "within", "output_name")  # of one file
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")  # of a checkpoint of TensorFlow's, whose index is the source
_STATE = "checkpoint"  # and the text that says which is the latest


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source: its absolute path, or name; its place and perhaps its result's, below a folder; its own words."""

    path: str
    place: PurePosixPath
    out: PurePosixPath | None = None
    words: Mapping[str, str] = field(default_factory=dict)


def listed(names: Sequence[str | PathLike[str]], out: Path, ending: str) -> dict[Path, Source]:
    """Where each result goes, below `out` → its source, in order; one that is named twice is one.

    Raises UsageError where there is none, for a manifest that is none, and for two results of one place or in the place
    of a source; DiskError for what cannot be read.
    """
    _entries.cache_clear()
    out = out.absolute()
    sources = [source for name in names for source in _of(name, out)]
    unique = list({(source.path, source.out, *source.words.items()): source for source in sources}.values())
    if not unique:
        raise UsageError("there is nothing to convert", hint="name files, folders, a manifest, or a pattern in quotes")
    usual = [source.out or source.place.with_name(stem(Path(source.place)) + ending) for source in unique]
    counts = Counter(usual)
    targets: dict[Path, Source] = {}
    for source, name in zip(unique, usual, strict=True):
        alone = source.out is not None or counts[name] == 1
        target = out / (name if alone else source.place.with_name(source.place.name + ending))
        if target in targets:
            message = f"{targets[target].path} and {source.path} would both be written as {target}"
            raise UsageError(message, hint="give each a place of its own: a manifest with the column out")
        targets[target] = source
    if over := next((source for source in unique if Path(source.path) in targets), None):
        raise UsageError(f"{over.path}: a result would take its place", hint="name another --out")
    return targets


def _of(name: str | PathLike[str], out: Path) -> Iterator[Source]:
    """The sources that one name means."""
    text, path = os.fspath(name), Path(name)
    if is_remote(text) or (not os.path.lexists(path) and _is_registered(text)):
        yield Source(path=text, place=PurePosixPath(stem(Path(text))))
    elif path.is_dir():
        yield from _in_folder(path, out)
    elif glob.has_magic(text) and not os.path.lexists(path):
        yield from _of_pattern(text, out)
    elif path.suffix.lower() in MANIFESTS:
        yield from _of_manifest(path)
    else:
        yield _placed(path, path.parent)


def _is_registered(text: str) -> bool:
    from densenet_port.fetch.registry import is_registered  # noqa: PLC0415 (only a name needs the table)

    return is_registered(text)


def _placed(path: Path, root: Path) -> Source:
    """The source at a path, which lies below a root."""
    place = PurePosixPath(path.absolute().relative_to(root.absolute()).as_posix())
    return Source(path=str(path.absolute()), place=place)


# -- folders and patterns ----------------------------------------------------------------------------------------------


def _of_pattern(pattern: str, out: Path) -> Iterator[Source]:
    """What a pattern fits: each folder as a folder, each file that is known, or has the ending that the pattern has."""
    parts = Path(pattern).parts
    root = Path(*parts[: next(number for number, part in enumerate(parts) if glob.has_magic(part))])
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (no hidden ones)
    matches = [match for match in matches if not _is_below(match, out)]
    if not matches:
        raise UsageError(f"{pattern}: no file fits", hint="is the pattern right? ** stands for any folders")
    ending = Path(pattern).suffix.lower()
    for match in matches:
        if match.is_dir():
            yield from (_placed(path, root) for path in _sources_in(match, out))
        elif _is_known(match) or match.suffix.lower() == ending != "":
            whole = _parts(match.parent).get(match.name, match.name)
            if whole is not None:
                yield _placed(match.with_name(whole), root)


def _in_folder(folder: Path, out: Path) -> Iterator[Source]:
    """What is in a folder, which has its own name where it is one checkpoint itself."""
    for path in _sources_in(folder, out):
        yield _placed(path, folder.absolute().parent if path == folder else folder)


def _sources_in(folder: Path, out: Path) -> Iterator[Path]:
    """The checkpoints in a folder: itself where it is one, its files, and what is in the folders in it."""
    if saved_model.takes(folder):
        yield folder
        return
    entries = _entries(folder)
    files = [entry for entry in entries if entry.is_file()]
    parts = {*_parts(folder)}
    if whole := folders.weights_in(folder, [file.name for file in files]):
        yield folder
        parts |= {*whole, *folders.WEIGHTS}
    yield from (file for file in files if file.name not in parts and _is_known(file))
    for inner in entries:
        if inner.is_dir() and not _is_below(inner, out):
            yield from _sources_in(inner, out)


@lru_cache(maxsize=1)
def _entries(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in order. Raises DiskError."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DiskError(f"{folder}: cannot be read: {error.strerror}", hint="is the path right?") from error


def _parts(folder: Path) -> dict[str, str | None]:
    """File that is a part of a checkpoint → the file that stands for that checkpoint; None for a text beside it."""
    parts: dict[str, str | None] = {}
    for name in (entry.name for entry in _entries(folder)):
        if match := _DATA.search(name):
            parts[name] = f"{name[: match.start()]}.index"
        elif name == _STATE:
            parts[name] = None
        elif _is_index(folder / name):
            with suppress(PortError):  # whoever reads it says so
                parts |= dict.fromkeys(folders.shards(folder / name).values(), name)
    return parts


def _is_index(path: Path) -> bool:
    """Whether a file is an index of shards."""
    if not path.name.endswith(folders.INDEX):
        return False
    with suppress(OSError), path.open("rb") as file:
        return folders.sniff(file.read(formats.HEAD))
    return False


def _is_known(path: Path) -> bool:
    return formats.knows(path) or _is_index(path)


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or in it."""
    return path.absolute().is_relative_to(folder)


# -- manifests ---------------------------------------------------------------------------------------------------------


def _of_manifest(path: Path) -> Iterator[Source]:
    """The sources that a manifest lists."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}", hint="is the path right?") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text in UTF-8, as a manifest is") from error
    for number, row in _rows(path, text):
        yield _of_row(path, number, row)


def _rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of a line → what it says by column. Raises UsageError for a line that is none of the manifest's kind."""
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(text.splitlines(), delimiter="," if kind == ".csv" else "\t", strict=True)
        try:
            for values in reader:
                if None in values or None in values.values():
                    raise UsageError(f"{path}: line {reader.line_num}: expected {len(reader.fieldnames or ())} values")
                yield reader.line_num, {key.strip(): value for key, value in values.items() if value.strip()}
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}") from error
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row: Any = line.strip()
        if kind == ".jsonl":
            try:
                row = parsed_json(f"{path}: line {number}", line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}: line {number}: is no JSON: {error}") from error
        yield number, {"source": row} if isinstance(row, str) else row


def _of_row(manifest: Path, number: int, row: Mapping[str, Any]) -> Source:
    """The source that a line of a manifest lists. Raises UsageError for a line that says something else."""
    fields = Fields(f"{manifest}: line {number}", row, UsageError)
    optional = ("out", *WORDS)
    fields.check_keys(("source", *optional), optional=optional)
    texts = {key: fields.text(key) for key in row}
    if "arch" in texts:
        Architecture.named(texts["arch"])
    source = texts["source"]
    if is_remote(source) or (not os.path.lexists(manifest.parent / source) and _is_registered(source)):
        path, place = source, PurePosixPath(stem(Path(source)))
    else:
        path = str((manifest.parent / source).absolute())
        place = PurePosixPath(source if _is_inner(source) else Path(source).name)
    out = texts.get("out")
    if out is not None and not _is_inner(out):
        raise UsageError(f"{fields.document}: out: {out!r} is not below --out", hint="give a path relative to it")
    words = {key: texts[key] for key in WORDS if key in texts}
    return Source(path=path, place=place, out=PurePosixPath(out) if out else None, words=words)


def _is_inner(path: str) -> bool:
    """Whether a relative path leads below where it begins."""
    plain = PurePosixPath(path)
    return not plain.is_absolute() and ".." not in plain.parts and bool(plain.parts)
