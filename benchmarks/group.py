"""A group of measurements: what measures it into JSON, and what renders that."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Data = Mapping[str, Any]  # as JSON gives it back


class Missing(Exception):  # noqa: N818 (no error: the page says it)
    """What a group measures is not there: a command, a package."""


class Plan(NamedTuple):
    """How much is measured: `runs` of each task, or a try with small networks and few files."""

    runs: int
    quick: bool


class Group(NamedTuple):
    """A section of the page. `measure` and what renders its data share nothing but JSON.

    `render` gives the section's Markdown, `charts` the pictures that it shows (name → SVG), `tables` what stands
    between the group's markers in another document (path → Markdown). `runs` are as many as are due on a quiet
    machine. What is `asked` for only, by its name, measures numbers and not costs, and takes long.
    """

    title: str
    measure: Callable[[Path, Plan], dict[str, Any]]
    render: Callable[[Data], str]
    charts: Callable[[Data], Mapping[str, str]] = lambda _data: {}
    tables: Mapping[str, Callable[[Data], str]] = {}
    runs: int = 5
    asked: bool = False


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def flowed(text: str) -> str:
    """A paragraph in lines of 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def sections(*parts: str) -> str:
    """Paragraphs, tables and pictures, one below the other."""
    return "\n\n".join(part for part in parts if part)
