"""A part of the page on reliability."""

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A title, what measures it at a scale (1 for all of it) into JSON, and what renders that as Markdown."""

    title: str
    measure: Callable[[float], dict[str, Any]]
    render: Callable[[dict[str, Any]], str]


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |", *lines])


def flowed(text: str) -> str:
    """A paragraph in lines of 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120)
