"""What works for a file that does not fit as it stands: found by trying, so that a hint is a way and no guess."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import MisfitError
from densenet_port.layouts.identify import Words, fitting
from densenet_port.layouts.layout import SPLIT, Layout
from densenet_port.layouts.match import Ledger
from densenet_port.layouts.scan import ROOT, places
from densenet_port.layouts.structure import within
from densenet_port.network.follow import follow
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
    body = [] if words.no_top or not _taken(checkpoint, "", headless, tables) else [Way("--no-top", whole=False)]
    parts = [way for name in _names(checkpoint, tables) if (way := _within(checkpoint, name, words, tables))]
    ways = [*body, *(way for way in parts if way.whole or not body)]
    return "; ".join(map(str, ways)) or None


def _names(checkpoint: Checkpoint, tables: Sequence[Layout]) -> list[str]:
    """What stands before the names of each network."""
    prefixes = [place.prefix.rstrip(SPLIT) for table in tables for place in places(table, checkpoint)]
    several = len(set(prefixes)) > 1
    return [name or ROOT for name in dict.fromkeys(prefixes) if name or several][:MOST]


def _within(checkpoint: Checkpoint, name: str, words: Words, tables: Sequence[Layout]) -> Way | None:
    """How to take the network below a name: with its head, which may stand further out, or else its body."""
    bodies: list[Way] = []
    for outer in _outwards(name):
        part = within(checkpoint, outer)
        if len(part.tensors) < len(checkpoint.tensors) and (ledger := _taken(part, outer, words, tables)):
            way = Way(f"--within {outer}", whole=HEAD in ledger.architecture.units)
            if way.whole:
                return way
            bodies.append(way)
    if bodies or words.no_top:
        return bodies[0] if bodies else None
    part = within(checkpoint, name)
    alone = _taken(part, name, words._replace(no_top=True), tables)
    return Way(f"--within {name} --no-top", whole=False) if alone else None


def _taken(checkpoint: Checkpoint, within: str, words: Words, tables: Sequence[Layout]) -> Ledger | None:
    """The ledger of a network that a table fits, and the file's own graph, if it has one; None where there is none."""
    ledger = fitting(checkpoint, words, tables)
    if ledger is None or checkpoint.graph is None:
        return ledger
    source = checkpoint.graph().below(within) if within else checkpoint.graph()
    try:
        follow(source, ledger.architecture, ledger.holders, no_top=words.no_top)
    except MisfitError:
        return None
    return ledger


def _outwards(name: str) -> Iterator[str]:
    """A name, and those of what it stands in, from the innermost on."""
    if name == ROOT:
        yield name
        return
    while name:
        yield name
        name = re.sub(r"(^|[./])[^./]*$", "", name)
