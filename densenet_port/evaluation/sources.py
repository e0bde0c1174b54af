"""Where pictures lie: four forms of data set, each with the pictures' names, their labels, and any of them by number.

    folder      as torchvision's ImageFolder: a folder a class, classes and pictures in the order of their names; or a
                folder of pictures alone, without labels
    parquet     as Hugging Face's datasets write them: a column of `{bytes, path}`, or of bytes, and one called `label`
    webdataset  tar files of `key.jpg` (or another ending of pictures) and `key.cls`, a class's number as text
    npz         NumPy's archive of `images`, uint8 `n h w c` or `n h w`, or floats, and `labels`

The order is stated for each: of several files, by their names. A source is made once, by a look at what there is, and
goes to other processes as it is: it holds places, no pictures. What is read of a file is bounded by what a picture may
have.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.extras import framework
from densenet_port.formats import npz
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.source import Source, guarded

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of pictures, in any case: those that torchvision's ImageFolder takes, so that a folder counts as there."""
PICTURE = 2**28  # bytes of a picture as it is stored; the largest that Pillow opens unasked has 537 MB of pixels
_LABEL = 64  # bytes of a text that is a class's number
_PIECE = 16  # rows of a parquet file that are read at a time: they lie in memory together
Stored = Path | bytes | Array  # a picture: its file, a file's bytes, or pixels


# -- folders -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of pictures, in folders of classes or not."""

    root: Path
    names: tuple[str, ...]  # below the root
    sizes: tuple[int, ...]
    own: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    kind: str = "folder"

    @classmethod
    def at(cls, root: Path) -> "Folder":
        """The pictures in a folder. Raises DiskError, and UsageError for a class without any, as torchvision does."""
        try:
            with os.scandir(root) as entries:
                classes = sorted(entry.name for entry in entries if entry.is_dir())
            parts = [cls._below(root / name) for name in classes] or [cls._directly(root)]
            sizes = tuple(path.stat().st_size for part in parts for path in part)
        except OSError as error:
            raise DiskError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
        for name, part in zip(classes, parts, strict=False):
            if not part:
                hint = "every folder counts as a class, in the order of names: move away what is none"
                raise UsageError(f"{root / name}: a folder of a class without pictures", hint=hint)
        names = tuple(path.relative_to(root).as_posix() for part in parts for path in part)
        own = tuple(label for label, part in enumerate(parts) for _ in part) if classes else None
        return cls(root=root, names=names, sizes=sizes, own=own, classes=tuple(classes) or None)

    @staticmethod
    def _below(folder: Path) -> list[Path]:
        """The pictures of a class, however deep, in torchvision's order."""
        walked = sorted(os.walk(folder, followlinks=True))
        return [Path(place, name) for place, _, names in walked for name in sorted(names) if _is_picture(name)]

    @staticmethod
    def _directly(folder: Path) -> list[Path]:
        """The pictures in a folder itself."""
        return sorted((path for path in folder.iterdir() if _is_picture(path.name)), key=lambda path: path.name)

    @property
    def size(self) -> int:
        """How many pictures there are."""
        return len(self.names)

    def name(self, number: int) -> str:
        """Its path below the root."""
        return self.names[number]

    def read(self, start: int, stop: int) -> Iterator[Path]:
        """Their files."""
        return (self.root / name for name in self.names[start:stop])

    def facts(self) -> Any:
        """Names and sizes."""
        return [self.names, self.sizes]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


# -- parquet -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Parquet files with a column of pictures, in the order of their rows."""

    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    groups: tuple[tuple[int, int, int], ...]  # of each row group: its file, its number there, its first picture
    size: int
    column: str
    own: tuple[int, ...] | None
    classes: None = None
    kind: str = "parquet"

    @classmethod
    def at(cls, files: Sequence[Path]) -> "Parquet":
        """The pictures in files. Raises DiskError, CorruptError, and UsageError for columns of other kinds."""
        groups, count, columns, labels = [], 0, set(), []
        for number, path in enumerate(files):
            with _opened_parquet(path) as file:
                columns.add(_column(path, file.schema_arrow))
                for group in range(file.num_row_groups):
                    groups.append((number, group, count))
                    count += file.metadata.row_group(group).num_rows
                if "label" in file.schema_arrow.names:
                    labels += file.read(columns=["label"]).column("label").to_pylist()
        if len(columns) > 1 or len(labels) not in (0, count):
            raise UsageError(f"{files[0]} and {len(files) - 1} more: are files of different columns")
        is_labelled = bool(labels) and all(isinstance(label, int) for label in labels)
        return cls(
            files=tuple(files),
            sizes=tuple(path.stat().st_size for path in files),
            groups=tuple(groups),
            size=count,
            column=columns.pop(),
            own=tuple(labels) if is_labelled else None,
        )

    def name(self, number: int) -> str:
        """Its file and the number of its row there."""
        file = next(file for file, _, first in reversed(self.groups) if first <= number)
        first = next(first for other, _, first in self.groups if other == file)
        return f"{self.files[file].name} row {number - first}"

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of their files."""
        ends = [*(first for _, _, first in self.groups[1:]), self.size]
        for (file, group, first), end in zip(self.groups, ends, strict=True):
            low, high = max(start, first), min(stop, end)
            if low < high:
                yield from self._rows(file, group, low - first, high - first)

    def _rows(self, file: int, group: int, start: int, stop: int) -> Iterator[bytes]:
        """The pictures of some rows of a row group, of which no more than is needed is looked at."""
        with _opened_parquet(self.files[file]) as opened:
            place = 0
            for batch in opened.iter_batches(batch_size=_PIECE, row_groups=[group], columns=[self.column]):
                inside = batch.slice(max(0, start - place), max(0, stop - max(start, place)))
                place += batch.num_rows
                for value in inside.column(0).to_pylist():
                    yield _bytes_of(value)
                if place >= stop:
                    return

    def facts(self) -> Any:
        """Names and sizes of the files."""
        return [[path.name for path in self.files], self.sizes, self.groups]


def _opened_parquet(path: Path) -> Any:
    """A parquet file. Raises DiskError and CorruptError."""
    parquet, base = framework("pyarrow.parquet"), framework("pyarrow").lib.ArrowException
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror or error}") from error
    except base as error:
        raise CorruptError(f"{path}: not a parquet file: {str(error).partition(chr(10))[0]}") from error


def _column(path: Path, schema: Any) -> str:
    """The column of pictures. Raises UsageError unless there is one."""
    types = framework("pyarrow.types")
    found = [
        str(entry.name)
        for entry in schema
        if types.is_binary(entry.type)
        or types.is_large_binary(entry.type)
        or (types.is_struct(entry.type) and entry.type.get_field_index("bytes") >= 0)
    ]
    if len(found) != 1:
        hint = f"its columns are {', '.join(schema.names)}"
        raise UsageError(f"{path}: expected one column of pictures, found {len(found)}", hint=hint)
    return found[0]


def _bytes_of(value: Any) -> bytes:
    """The bytes of a cell; none for a picture that is only named there."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""


# -- tar files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tars:
    """WebDataset's shards: tar files in which a picture and its class have one key, in the order of the pictures."""

    files: tuple[Path, ...]
    places: tuple[tuple[int, str, int, int], ...]  # of each picture: its file, its name there, first byte and bytes
    own: tuple[int, ...] | None
    classes: None = None
    kind: str = "webdataset"

    @classmethod
    def at(cls, files: Sequence[Path]) -> "Tars":
        """The pictures in tar files. Raises DiskError, CorruptError, and UsageError for pictures without a label."""
        places: list[tuple[int, str, int, int]] = []
        labels: dict[tuple[int, str], int] = {}
        for number, path in enumerate(files):
            for name, start, size, file in _members(path):
                key, ending = _split(name)
                if ending.endswith(ENDINGS):
                    places.append((number, name, start, size))
                elif ending == ".cls":
                    labels[number, key] = _class_of(path, name, file.read(_LABEL))
        own = [labels.get((file, _split(name)[0])) for file, name, _, _ in places]
        if labels and None in own:
            file, name, _, _ = places[own.index(None)]
            raise UsageError(f"{files[file]}: {name} has no .cls beside it, and others have one")
        known = tuple(label for label in own if label is not None)
        return cls(files=tuple(files), places=tuple(places), own=known or None)

    @property
    def size(self) -> int:
        """How many pictures there are."""
        return len(self.places)

    def name(self, number: int) -> str:
        """Its shard and its name there."""
        file, name, _, _ = self.places[number]
        return f"{self.files[file].name}/{name}"

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of their files."""
        for number, _, place, size in self.places[start:stop]:
            if size > PICTURE:
                yield b""
                continue
            path = self.files[number]
            with guarded(path, "tar file"):
                yield Source.of_file(path).data(place, size)

    def facts(self) -> Any:
        """Names of the shards, names and places in them."""
        return [[path.name for path in self.files], self.places]


def _members(path: Path) -> Iterator[tuple[str, int, int, Any]]:
    """Name, first byte, size and content of each file in a tar file. Raises DiskError and CorruptError."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size, archive.extractfile(member)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        hint = "shards are read where they lie, so they must not be compressed"
        raise CorruptError(f"{path}: not a tar file: {error}", hint=hint) from error


def _split(name: str) -> tuple[str, str]:
    """Key and ending, which begins at the first dot behind the folders, as WebDataset has it."""
    folder, slash, last = name.rpartition("/")
    key, dot, ending = last.partition(".")
    return f"{folder}{slash}{key}", f"{dot}{ending}".lower()


def _class_of(path: Path, name: str, text: bytes) -> int:
    """The number of a class as text. Raises CorruptError for anything else."""
    try:
        return int(text)
    except ValueError as error:
        raise CorruptError(f"{path}: {name} is no class's number: {text[:20]!r}") from error


# -- arrays ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """An `.npz` with `images` and `labels`; `prepared` says that the images are as the network takes them."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    file_size: int
    own: tuple[int, ...] | None
    classes: None = None
    kind: str = "npz"
    prepared: bool = field(default=False)

    @classmethod
    def at(cls, path: Path, *, prepared: bool) -> "Arrays":
        """The pictures in an archive. Raises DiskError, CorruptError, and UsageError for what its arrays do not say."""
        checkpoint = npz.read(path)
        images, labels = checkpoint.tensors.get("images"), checkpoint.tensors.get("labels")
        if images is None:
            hint = f"it has {', '.join(checkpoint.tensors)}; name them images (n h w c) and labels"
            raise UsageError(f"{path}: has no array called images", hint=hint)
        is_float = images.dtype.startswith("float")
        if images.dtype != "uint8" and not is_float:
            raise UsageError(f"{path}: images are {images.dtype}: expected uint8, or floats that are prepared")
        if is_float and not prepared:
            hint = "--prepared takes them as the network's own input; pixels are to be uint8"
            raise UsageError(
                f"{path}: images are {images.dtype}, which are no pixels unless somebody says so", hint=hint
            )
        if prepared and not is_float:
            raise UsageError(
                f"{path}: images are uint8, which no network takes as they are", hint="leave out --prepared"
            )
        if len(images.shape) not in (3, 4) or (prepared and len(images.shape) == 3):  # n h w (c)
            raise UsageError(f"{path}: images have the shape {images.shape}: expected n h w c")
        own = None if labels is None else _whole_numbers(path, labels.load(), images.shape[0])
        size = path.stat().st_size
        return cls(path=path, shape=images.shape, dtype=images.dtype, file_size=size, own=own, prepared=prepared)

    @property
    def size(self) -> int:
        """How many pictures there are."""
        return self.shape[0]

    def name(self, number: int) -> str:
        """Its number."""
        return f"picture {number}"

    def read(self, start: int, stop: int) -> Iterator[Array]:
        """Their pixels `h w c`."""
        rows = _rows(self.path, start, stop)
        return iter(rows if rows.ndim == 4 else rows[..., None])  # n h w c

    def facts(self) -> Any:
        """Shape, type and size of the file."""
        return [self.path.name, self.shape, self.dtype, self.file_size]


def _rows(path: Path, start: int, stop: int) -> Array:
    """Some of the images: of stored ones no more than these are read, deflated ones are inflated once and kept."""
    with guarded(path, "NumPy archive"):
        member = _member(path)
        if member.deflated:
            return _inflated(path)[start:stop]
        content = member.open() if member.crc is None else member.archive.part(member.start, member.size)
        header = npz.read_header(member.name, content)
        shape, dtype = (stop - start, *header.shape[1:]), np.dtype(header.type)
        if header.order == "F":
            return _inflated(path)[start:stop]
        length = prod(shape[1:]) * dtype.itemsize
        return np.ndarray(shape, dtype, content.data(header.start + start * length, (stop - start) * length))


@lru_cache(maxsize=1)
def _member(path: Path) -> zip_archive.Member:
    """The member that has the images."""
    return zip_archive.members(Source.of_file(path))["images.npy"]


@lru_cache(maxsize=1)
def _inflated(path: Path) -> Array:
    """All images."""
    return npz.read(path).tensors["images"].load()


def _whole_numbers(path: Path, labels: Array, count: int) -> tuple[int, ...]:
    """Labels as whole numbers, one for each picture. Raises UsageError."""
    flat = labels.reshape(-1)
    if labels.dtype.kind not in "iu" or len(flat) != count:
        hint = "the number of a class, one for each picture"
        raise UsageError(f"{path}: labels are {labels.dtype} of shape {labels.shape} for {count} images", hint=hint)
    return tuple(flat.tolist())


# -- which it is -------------------------------------------------------------------------------------------------------


Pictures = Folder | Parquet | Tars | Arrays
"""Pictures that are numbered from 0, and what is known of them without a look at one.

`kind` is the form, `size` how many there are, `own` the label of each where the source has any, `classes` their names
where it has names for them. `name(number)` is what a picture is called, `read(start, stop)` gives pictures from one
number up to another, and raises DiskError and CorruptError for a file of many pictures; `facts()` is what is the same
for the same data set wherever it lies, as plain JSON values.
"""


def find(place: str, *, prepared: bool) -> Pictures:
    """The pictures at a path, or at all that a pattern (`shards/*.tar`) matches.

    Raises UsageError for what is no data set, and as the forms do.
    """
    paths = _matching(place)
    if prepared and not all(path.suffix == ".npz" for path in paths):
        raise UsageError(f"{place}: --prepared is for arrays in an .npz")
    if len(paths) == 1 and paths[0].is_dir():
        return Folder.at(paths[0])
    endings = {path.suffix.lower() for path in paths}
    if endings == {".parquet"}:
        return Parquet.at(paths)
    if endings == {".tar"}:
        return Tars.at(paths)
    if endings == {".npz"} and len(paths) == 1:
        return Arrays.at(paths[0], prepared=prepared)
    hint = "a folder of pictures, .parquet files, .tar shards of WebDataset, or one .npz; unpack what is compressed"
    raise UsageError(f"{place}: no data set of a kind that is known", hint=hint)


def _matching(place: str) -> list[Path]:
    """The path, or the paths that a pattern matches; of a folder of parquet or tar files, those. Raises DiskError."""
    path = Path(place).absolute()
    if path.is_dir():
        names = sorted(path.iterdir(), key=lambda file: file.name)
        files = [file for file in names if file.suffix.lower() in (".parquet", ".tar")]
        return files or [path]
    if path.exists():
        return [path]
    anchor = Path(path.anchor)
    paths = sorted(anchor.glob(str(path.relative_to(anchor)))) if set(place) & set("*?[") else []
    if not paths:
        raise DiskError(f"{place}: cannot be read: No such file or directory")
    return paths
