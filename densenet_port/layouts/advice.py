"""What works for a file that does not fit as it stands: found by trying, so that a hint is a way and no guess."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from densenet_port.checkpoint import Checkpoint
from densenet_port.layouts.identify import Words, fitting
from densenet_port.layouts.layout import SPLIT, Layout
from densenet_port.layouts.scan import below, places
from densenet_port.network.units import HEAD

MOST = 4  # networks of a file that are tried


class Way(NamedTuple):
    """Options with which a network is read, and whether it has its head."""

    options: str
    whole: bool

    def __str__(self) -> str:
        """`--within net takes the network there`."""
        there = " there" if "--within" in self.options else ""
        return f"{self.options} takes the {'network' if self.whole else 'body'}{there}"


def advice(checkpoint: Checkpoint, words: Words, tables: Sequence[Layout]) -> str | None:
    """The options that make a network of the file, in a line; None where none does.

    `tables` are those that recognise something in it.
    """
    headless = words._replace(no_top=True)
    body = [] if words.no_top or not fitting(checkpoint, headless, tables) else [Way("--no-top", whole=False)]
    parts = [way for name in _names(checkpoint, tables) if (way := _within(checkpoint, name, words, tables))]
    ways = [*body, *(way for way in parts if way.whole or not body)]
    return "; ".join(map(str, ways)) or None


def _names(checkpoint: Checkpoint, tables: Sequence[Layout]) -> list[str]:
    """What stands before the names of each network."""
    prefixes = [place.prefix.rstrip(SPLIT) for table in tables for place in places(table, checkpoint)]
    return [name for name in dict.fromkeys(prefixes) if name][:MOST]


def _within(checkpoint: Checkpoint, name: str, words: Words, tables: Sequence[Layout]) -> Way | None:
    """How to take the network below a name: with its head, which may stand further out, or else its body."""
    bodies: list[Way] = []
    for outer in _outwards(name):
        part = below(checkpoint, outer)
        if len(part.tensors) < len(checkpoint.tensors) and (ledger := fitting(part, words, tables)):
            way = Way(f"--within {outer}", whole=HEAD in ledger.architecture.units)
            if way.whole:
                return way
            bodies.append(way)
    if bodies or words.no_top:
        return bodies[0] if bodies else None
    part = below(checkpoint, name)
    alone = fitting(part, words._replace(no_top=True), tables)
    return Way(f"--within {name} --no-top", whole=False) if alone else None


def _outwards(name: str) -> Iterator[str]:
    """A name, and those of what it stands in, from the innermost on."""
    while name:
        yield name
        name = re.sub(r"(^|[./])[^./]*$", "", name)
