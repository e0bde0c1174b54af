"""A data set: pictures and their labels, which are numbers of the network's classes.

Labels are the source's own, or those of a text file, one picture or class a line:

    7                    a number alone: the pictures in their order, whatever labels they had
    cat.jpg 7            a picture's name and its number, where the source has no labels
    n01440764 0          a class's folder, or its number in the source, and its number in the network

Both parts may stand with a comma, a tab or blanks between them, and a first line of two words may be a heading. What
does not name every picture, or every class that has pictures, is an error; so is a number that the network has no class
for.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, DiskError, PortError, UsageError
from densenet_port.evaluation.sources import PICTURE, Arrays, Pictures, find
from densenet_port.evaluation.statistics import Unread
from densenet_port.extras import framework
from densenet_port.files import sha256
from densenet_port.network.pictures import decoded

NONE = "none"  # in place of a file of labels: those of the source are not looked at
_FILE = 2**26  # bytes of a file of labels; one line of a million pictures has some 40
_LINES = "a number a line, for the pictures in their order; or a name and a number"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Pictures, and the label of each; None where there are none. `place` is where they are, for messages."""

    place: str
    pictures: Pictures
    labels: tuple[int, ...] | None

    @property
    def prepared(self) -> bool:
        """Whether the pictures are as the network takes them."""
        return isinstance(self.pictures, Arrays) and self.pictures.prepared

    def read(self, start: int, stop: int, channels: int) -> Iterator[Array | Unread]:
        """Pictures `h w c` by their numbers, or why one cannot be read.

        Raises UsageError where Pillow is missing, DiskError and CorruptError for a file of many pictures.
        """
        for number, stored in enumerate(self.pictures.read(start, stop), start):
            if self.prepared:
                yield stored  # type: ignore[misc] # an npz has arrays
                continue
            try:
                if isinstance(stored, Path) and stored.stat().st_size > PICTURE:
                    yield Unread(number, f"more than {PICTURE} bytes")
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow's, of what it then reads all the same
                    yield next(decoded(stored, channels))
            except (PortError, OSError) as error:
                yield Unread(number, _why(error))

    def facts(self) -> dict[str, Any]:
        """What says that it is the same data set: how many pictures, and digests of their names, sizes and labels."""
        labels = {} if self.labels is None else {"labels": _digest(self.labels)}
        return {
            "kind": self.pictures.kind,
            "pictures": self.pictures.size,
            "prepared": self.prepared,
            "sha256": _digest(self.pictures.facts()),
            **labels,
        }


def _why(error: PortError | OSError) -> str:
    """Why a picture cannot be read, without its place, which stands beside it."""
    text = error.message if isinstance(error, PortError) else f"cannot be read: {error.strerror}"
    return text[text.find("cannot be read") :] if "cannot be read" in text else text


def _digest(content: Any) -> str:
    return sha256(json.dumps(content).encode())


def open_data(place: str, labels: str | Path | None, classes: int, *, prepared: bool = False) -> DataSet:
    """The data set at a path or pattern, with labels of so many classes: its own, or those of a file.

    `labels` may be `NONE`. Raises UsageError for labels that do not fit the pictures or the network, and what reading
    raises.
    """
    if not prepared:
        framework("PIL.Image")
    pictures = find(place, prepared=prepared)
    if pictures.size == 0:
        raise UsageError(f"{place}: holds no pictures")
    numbers = pictures.own
    if str(labels) == NONE:
        numbers = None
    elif labels is not None:
        numbers = _labelled(pictures, Path(labels))
    elif pictures.classes is not None and len(pictures.classes) != classes:
        message = f"{place}: has folders of {len(pictures.classes)} classes, the network has {classes} classes"
        hint = "--labels FILE with lines of a folder's name and its class's number; --labels none leaves labels out"
        raise UsageError(message, hint=hint)
    for number, label in enumerate(numbers or ()):
        if not 0 <= label < classes:
            message = f"{pictures.name(number)}: has the label {label}, the network's classes are 0 to {classes - 1}"
            hint = "are they numbered from 1? --labels FILE renames them, a line each; --labels none leaves labels out"
            raise UsageError(message, hint=hint)
    return DataSet(place=place, pictures=pictures, labels=numbers)


# -- files of labels ---------------------------------------------------------------------------------------------------


def _labelled(pictures: Pictures, path: Path) -> tuple[int, ...]:
    """The label of each picture by a file. Raises UsageError for one that does not fit."""
    names, numbers = _lines(path)
    if names is None:
        if len(numbers) != pictures.size:
            message = f"{path}: has {len(numbers)} labels, there are {pictures.size} pictures"
            raise UsageError(message, hint=f"{path.name} has {_LINES}")
        return tuple(numbers)
    by_name = dict(zip(names, numbers, strict=True))
    if len(by_name) != len(names):
        raise UsageError(f"{path}: names {next(name for name in names if names.count(name) > 1)} twice")
    return tuple(_renamed(pictures, number, by_name, path) for number in range(pictures.size))


def _renamed(pictures: Pictures, number: int, by_name: Mapping[str, int], path: Path) -> int:
    """A picture's label by its name, or by that of its class. Raises UsageError where the file has neither."""
    if pictures.own is None:
        name = pictures.name(number)
        keys: Sequence[str] = (name, PurePosixPath(name).name)
    else:
        label = pictures.own[number]
        keys = (str(label),) if pictures.classes is None else (pictures.classes[label],)
    for key in keys:
        if key in by_name:
            return by_name[key]
    kind = "the picture" if pictures.own is None else "the class"
    raise UsageError(f"{path}: has no line for {kind} {keys[0]}", hint=f"{path.name} has {_LINES}")


def _lines(path: Path) -> tuple[list[str] | None, list[int]]:
    """The names in a file of labels, None where it has numbers alone; and the numbers. Raises UsageError."""
    try:
        if path.stat().st_size > _FILE:
            raise CorruptError(f"{path}: more than {_FILE} bytes, which no file of labels has")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: not a text in UTF-8: {error}") from error
    rows = [(place, _parts(line)) for place, line in enumerate(text.splitlines(), 1) if line.strip()]
    if rows and len(rows[0][1]) == 2 and not _is_number(rows[0][1][1]):
        rows = rows[1:]  # a heading
    widths = {len(parts) for _, parts in rows}
    if widths not in ({1}, {2}):
        raise UsageError(f"{path}: expected {_LINES}", hint="every line has as many parts as the first")
    for place, parts in rows:
        if not _is_number(parts[-1]):
            raise UsageError(f"{path}: line {place}: expected a class's number, found {parts[-1]!r}")
    numbers = [int(parts[-1]) for _, parts in rows]
    return ([parts[0] for _, parts in rows] if widths == {2} else None), numbers


def _parts(line: str) -> list[str]:
    """A line's number, or name and number: the last comma, tab or blank stands between them."""
    line = line.strip()
    if "," in line:
        return [part.strip().strip('"') for part in line.rsplit(",", 1)]
    return line.rsplit(None, 1)


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and word.isascii()
