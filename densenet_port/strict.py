"""Strict reading of tables and JSON: every value is exactly what it must be, or the error says where and what it is.

    mapping.toml: contract.epsilon: expected a float, found 'small'
    https://host/manifest.json: files[3].size: expected an integer, found True
    mapping.toml: unknown key 'contract.momentum' (known: epsilon, input, output, stem_padding)
    manifest.json: missing key 'files[3].size'

Types are compared exactly: `True` is no integer, and 1 is no float.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

from densenet_port.errors import PortError

KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a float",
    bool: "true or false",
    date: "a date",
    type(None): "null",
}
SHOWN = 80  # characters of a value that an error quotes


class Fields:
    """An object of a document: the keys of a TOML table or of a JSON object, read one by one.

    `document` is the file or URL, `path` the object's place in it (`contract`, `files[3]`; empty for the whole).
    `error` makes the error from its message: a class of error, or one with a hint.
    """

    __slots__ = ("content", "document", "error", "path")

    def __init__(
        self, document: str, content: Mapping[str, Any], error: Callable[[str], PortError], path: str = ""
    ) -> None:
        """Refuse what is no object."""
        if not isinstance(content, dict):
            place = f"{document}: {path}" if path else document
            raise error(f"{place}: expected {KINDS[dict]}, found {quoted(content)}")
        self.document = document
        self.content = content
        self.error = error
        self.path = path

    def place(self, key: str) -> str:
        """Where a key stands in the document: `contract.epsilon`."""
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, expected: str, found: object) -> PortError:
        """The error for the value of a key; `found` is shown as it is."""
        return self.error(f"{self.document}: {self.place(key)}: expected {expected}, found {str(found)[:SHOWN]}")

    def check_keys(self, known: Iterable[str], *, optional: Iterable[str] = ()) -> None:
        """Refuse a key that is not known, and the lack of one that is not optional."""
        known = sorted(known)
        for key in self.content:
            if key not in known:
                message = f"unknown key {self.place(key)!r} (known: {', '.join(known)})"
                raise self.error(f"{self.document}: {message}")
        for key in known:
            if key not in optional:
                self.raw(key)

    def raw(self, key: str) -> Any:
        """The value of a key that must be there, of whatever type."""
        if key not in self.content:
            raise self.error(f"{self.document}: missing key {self.place(key)!r}")
        return self.content[key]

    def value(self, key: str, *kinds: type) -> Any:
        """The value of a key, of exactly one of the types."""
        return self._exactly(key, self.raw(key), kinds)

    def values(self, key: str, *kinds: type) -> tuple[Any, ...]:
        """The entries of a list, each of exactly one of the types."""
        return tuple(self._exactly(place, item, kinds) for place, item in self._numbered(key))

    def text(self, key: str) -> str:
        """A string."""
        text: str = self.value(key, str)
        return text

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; or one string, as the only one."""
        if isinstance(self.raw(key), list):
            return self.values(key, str)
        if isinstance(self.raw(key), str):
            return (self.text(key),)
        raise self.wrong(key, "a string or a list of strings", quoted(self.raw(key)))

    def text_map(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        inner = self.fields(key)
        return {name: inner.text(name) for name in inner.content}

    def number(self, key: str) -> float:
        """An integer or a float."""
        number: float = self.value(key, int, float)
        return number

    def one_of(self, key: str, allowed: Iterable[str]) -> str:
        """One of the allowed strings."""
        value = self.raw(key)
        if value not in (allowed := tuple(allowed)):
            raise self.wrong(key, f"one of {', '.join(allowed)}", quoted(value))
        return str(value)

    def fields(self, key: str) -> "Fields":
        """An object within this one."""
        return Fields(self.document, self.raw(key), self.error, self.place(key))

    def entries(self, key: str) -> "list[Fields]":
        """The objects in a list."""
        return [Fields(self.document, item, self.error, self.place(name)) for name, item in self._numbered(key)]

    def _exactly(self, key: str, value: Any, kinds: Iterable[type]) -> Any:
        """The value, if it is of exactly one of the types."""
        if type(value) not in kinds:
            raise self.wrong(key, " or ".join(KINDS[kind] for kind in kinds), quoted(value))
        return value

    def _numbered(self, key: str) -> list[tuple[str, Any]]:
        """The entries of a list with their places: `key[0]`, `key[1]` and so on."""
        return [(f"{key}[{number}]", item) for number, item in enumerate(self.value(key, list))]


def quoted(value: object) -> str:
    """A value as an error shows it."""
    return repr(value)[:SHOWN]
