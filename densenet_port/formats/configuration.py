"""The configuration beside weights, read by its software's form (`beside`) into facts of a network."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from densenet_port.errors import MisfitError, PortError
from densenet_port.formats.beside import ALONE, Form, document
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Input, Order, Resize, input_of
from densenet_port.strict import quoted

T = TypeVar("T")

NUMBERS = ("layers", "growth_rate", "init_channels", "bottleneck", "reduction", "stem")


class Reading:
    """One configuration, read by its form; `notes` gathers what is not kept of it."""

    def __init__(self, form: Form, folder: Path, content: Mapping[str, Any], *, has_head: bool) -> None:
        """Keep the first file's content, and read the others; `has_head` says whether the weights have a head's."""
        self.form, self.folder, self.notes = form, folder, list[str]()
        self.has_head = has_head
        others = [name for name in form.files[1:] if (folder / name).is_file()]
        self.documents = {form.files[0]: content, **{name: document(folder / name) for name in others}}
        self.name = self.text("name")
        self._check_arguments()

    @property
    def path(self) -> Path:
        """The first file."""
        return self.folder / self.form.files[0]

    def wrong(self, place: str, expected: str, value: object) -> PortError:
        """The error for what stands at a place."""
        file, _, key = place.rpartition(":")
        path = self.folder / (file or self.form.files[0])
        return MisfitError(f"{path}: {key}: expected {expected}, found {quoted(value)}", hint=ALONE)

    # -- values --------------------------------------------------------------------------------------------------------

    def at(self, place: str) -> Any:
        """What stands at a place; None for nothing."""
        file, _, keys = place.rpartition(":")
        value: Any = self.documents.get(file or self.form.files[0])
        for key in keys.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def place(self, word: str) -> str:
        """The place that tells a word, or the first that could."""
        places = self.form.tells.get(word, ("",))
        return next((place for place in places if self.at(place) is not None), places[0])

    def value(self, word: str) -> Any:
        """What is told of a word; the software's default where nothing is, None where there is none."""
        told = self.at(self.place(word))
        return self.form.defaults.get(word) if told is None else told

    def is_told(self, *words: str) -> bool:
        """Whether any of the words is told."""
        return any(self.at(self.place(word)) is not None for word in words)

    def text(self, word: str) -> str:
        """A word that is a text."""
        if not isinstance(value := self.value(word), str):
            raise self.wrong(self.place(word), "a text", value)
        return value

    def count(self, word: str) -> int | None:
        """A word that is a whole number from 0 on; None where it is not told."""
        value = self.value(word)
        if value is not None and not (type(value) is int and value >= 0):
            raise self.wrong(self.place(word), "a whole number", value)
        return value

    def numbers(self, word: str, count: int | None = None) -> tuple[Any, ...] | None:
        """A word that is a list of numbers, or one that stands for all; None where it is not told."""
        value = self.value(word)
        if value is None:
            return None
        values = tuple(value) if isinstance(value, list) else (value,)
        expected = "numbers" if count is None else f"{count} numbers" if count > 1 else "one number"
        if not values or any(type(number) not in (int, float) for number in values):
            raise self.wrong(self.place(word), expected, value)
        if count is not None and len(values) not in (1, count):
            raise self.wrong(self.place(word), f"{expected}, one for each channel", value)
        return values * count if count is not None and len(values) == 1 else values

    def ours(self, word: str) -> str | None:
        """Our word for a value; None where it is not told, or is nothing that we have a word for."""
        value = self.value(word)
        known = self.form.words[word]
        key = str(value).lower() if isinstance(value, bool) else value
        return known.get(key) if isinstance(key, str) else None

    # -- facts ---------------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> str | None:
        """The pool of the stem, where the network's name tells it."""
        pool: str | None = self._network().get("stem_pool")
        return pool

    def facts(self) -> dict[str, Any]:
        """What is understood, as plain values."""
        numbers = dict(self._architecture())
        contract: dict[str, Any] = {"stem_pool": self.pool} if self.pool else {}
        channels = numbers.get("channels")
        if picture := self._input(channels):
            contract["input"] = picture.to_json()
        if resize := self._resize():
            contract["resize"] = resize.to_json()
        if self.has_head and (output := self._chosen("output")):
            contract["output"] = output
        keys = {"stem": "stem_name", "head": "head_name"}
        names = {unit: (self.place(word), self.value(word)) for unit, word in keys.items() if self.value(word)}
        return {
            "file": str(self.path),
            "software": self.form.software,
            "name": self.name,
            "numbers": numbers,
            "contract": contract,
            "features": self.count("features"),
            "names": {unit: [place, value] for unit, (place, value) in names.items()},
        }

    def labels(self) -> list[str] | None:
        """A name for each class, in their order; None where there are none. Raises MisfitError for another number."""
        value, classes = self.value("labels"), self.count("classes")
        if isinstance(value, dict):  # number of the class → name
            value = [value.get(str(number)) for number in range(classes if classes is not None else len(value))]
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(self.place("labels"), "a name for each class", value)
        if classes is not None and len(value) != classes:
            raise self.wrong(self.place("labels"), f"{classes} names, one for each class", f"{len(value)} names")
        return value

    def _network(self) -> Mapping[str, Any]:
        """What the name of the network stands for. Raises MisfitError for one that is no DenseNet of the software's."""
        if self.name not in self.form.networks:
            raise self.wrong(self.place("name"), f"one of {', '.join(self.form.networks)}", self.name)
        return self.form.networks[self.name]

    def _architecture(self) -> Iterator[tuple[str, Any]]:
        """The numbers of the architecture that are told, as JSON has them."""
        network = dict(self._network())
        numbers = dict.fromkeys(NUMBERS)
        if "arch" in network:
            numbers |= {key: Architecture.named(network["arch"]).to_json()[key] for key in NUMBERS}
        numbers |= {key: value for key, value in network.items() if key in NUMBERS}
        layers, compression = self.numbers("layers"), self.value("compression")
        told = {
            "layers": list(layers) if layers else None,
            "growth_rate": self.count("growth_rate"),
            "bottleneck": self.count("bottleneck"),
            "stem": self._chosen("stem"),
            "reduction": None if compression is None else round(1 - self._number("compression"), 9),
        }
        numbers |= {key: value for key, value in told.items() if value is not None}
        if self.form.widths and numbers["growth_rate"]:
            numbers["init_channels"] = self.form.widths * numbers["growth_rate"]
        yield from ((key, value) for key, value in numbers.items() if value is not None)
        if (channels := self._channels()) is not None:
            yield "channels", channels
        if self.has_head and (classes := self.count("classes")) is not None:
            yield "classes", classes or None
            if classes and (head := self._chosen("head")):
                yield "head", head

    def _channels(self) -> int | None:
        """The channels of a picture: told alone, or first or last in a shape; None where they are not told."""
        if self.is_told("channels"):
            return self.count("channels")
        picture, shape = self.value("picture"), self.value("shape")
        for word, sizes, place in (("picture", picture, 0), ("shape", shape, -1)):
            if sizes is not None:
                if not isinstance(sizes, list) or len(sizes) != 3 or type(sizes[place]) is not int:
                    raise self.wrong(self.place(word), "three sizes, one of them the channels", sizes)
                return int(sizes[place])
        return None

    def _input(self, channels: int | None) -> Input | None:
        """How the values of a picture are prepared; None where nothing is said of it."""
        count = channels or 3
        order: Order = "grey" if count == 1 else "rgb"
        if self.is_told("mean", "std"):
            mean, std = self.numbers("mean", count), self.numbers("std", count)
            scale = self.form.scale or 1.0
            return self._valid("std", lambda: Input(order=order, scale=scale, mean=mean or (), std=std or ()))
        if self.is_told("factor", "offset"):
            factors, offsets = self.numbers("factor", count), self.numbers("offset", count)
            pairs = factors or (1.0,) * count, offsets or (0.0,) * count
            return self._valid("factor", lambda: input_of(*pairs, order))
        return None

    def _resize(self) -> Resize | None:
        """How pictures are brought to a size; None where it is not said, or not in a way that we have words for."""
        size = self._size()
        if size is None:
            return None
        crop, fit, interpolation = self._number("crop", 1.0), self.ours("fit"), self.ours("interpolation")
        self._valid("crop", lambda: Resize(size=size, crop=crop))
        reason = None
        if fit is None or interpolation is None:
            word = "interpolation" if fit else "fit"
            reason = f"{self.place(word)} is {self.value(word)!r}"
        elif self.value("antialias") is False:
            reason = "it resizes without antialiasing"
        elif size[0] != size[1] or (fit == "squash" and crop != 1):
            reason = f"{size[0]} by {size[1]} pixels, cut to {crop:g}"
        if reason:
            self.notes.append(f"{self.path}: how it resizes pictures is not kept: {reason}")
            return None
        known: Any = {"fit": fit, "interpolation": interpolation}
        return Resize(size=size, crop=crop, **known)

    def _size(self) -> tuple[int, int] | None:
        """Height and width; None where they are not said."""
        picture, size = self.value("picture"), self.value("size")
        sizes, word = (picture[1:], "picture") if isinstance(picture, list) else (size, "size")
        if sizes is None:
            return None
        if not isinstance(sizes, list) or len(sizes) != 2 or any(type(n) is not int or n < 1 for n in sizes):
            raise self.wrong(self.place(word), "height and width in pixels", picture or size)
        return sizes[0], sizes[1]

    def _number(self, word: str, default: float | None = None) -> float:
        """A word that is one number."""
        value = self.value(word)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float):
            raise self.wrong(self.place(word), "a number", value)
        return float(value)

    def _chosen(self, word: str) -> str | None:
        """Our word for a value; None where it is not told. Raises MisfitError for one that we have no word for."""
        if word not in self.form.tells or self.value(word) is None:
            return None
        if (ours := self.ours(word)) is None:
            known = ", ".join(map(repr, self.form.words[word]))
            raise self.wrong(self.place(word), f"one of {known}", self.value(word))
        return ours

    def _valid(self, word: str, make: Callable[[], T]) -> T:
        """What is made of a word's value; an error that comes of it names the file and the key."""
        try:
            return make()
        except (MisfitError, OverflowError) as error:
            what = str(error).rpartition("expected ")[2].partition(", found")[0]
            raise self.wrong(self.place(word), what, self.value(word)) from error

    def _check_arguments(self) -> None:
        """Refuse arguments of the class that nobody knows, or that make another network of it."""
        form = self.form
        arguments = self.at(form.strict) or {}
        if not isinstance(arguments, dict):
            raise self.wrong(form.strict, "an object", arguments)
        places = {*form.usual, *(place for places in form.tells.values() for place in places)}
        places |= {f"{form.strict}.{key}" for key in form.harmless}
        for key in arguments:
            if f"{form.strict}.{key}" not in places:
                raise MisfitError(f"{self.path}: {form.strict}.{key}: nobody here knows what it does", hint=ALONE)
        for place, values in form.usual.items():
            value = self.at(place)
            if value is not None and value not in values:
                raise self.wrong(place, " or ".join(map(repr, values)), value)
