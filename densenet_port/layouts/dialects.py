"""Dialects: how software ends the names of a module's tensors, whatever it calls the module; from the tables.

Each distinct `[tensors]` section of `mappings/` is one: the endings, the orders of axes, the fold of the norms.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.schema import Pattern
from densenet_port.network.units import Kind

TOKENS = re.compile(r"[^./_#:]+")


class Ending(NamedTuple):
    """What an ending of a name means: a part of a kind of unit, with so many axes."""

    kind: Kind
    part: str
    axes: int


class Dialect(NamedTuple):
    """One way to end names. `parts` are a norm's in the order of the table, which is that of the software's files.

    `endings` gives for each ending what it can mean, `ignore` the rules of the tables that have the dialect.
    """

    tensors: Mapping[Kind, Mapping[str, Pattern]]
    optional: Mapping[Kind, Mapping[str, Pattern]]
    fold: str | None
    parts: tuple[str, ...]
    endings: Mapping[str, tuple[Ending, ...]]
    ignore: tuple[str, ...]

    def spelled(self, kind: Kind) -> dict[str, tuple[str, ...]]:
        """Part → the words of its usual ending, for a kind: `("running", "mean")`."""
        return {part: words(pattern.names[0].removeprefix("{unit}")) for part, pattern in self.tensors[kind].items()}


def words(name: str) -> tuple[str, ...]:
    """The words of a name: what stands between dots, slashes, underscores and the like."""
    return tuple(TOKENS.findall(name))


@lru_cache(maxsize=1)
def dialects() -> tuple[Dialect, ...]:
    """Every dialect of the tables, those that most of them have first."""
    sections: dict[str, list[Layout]] = {}
    for layout in filter(lambda table: table.tensors["dense"], map(Layout.load, layouts())):  # but for those of bodies
        sections.setdefault(repr((layout.tensors, layout.optional, layout.fold)), []).append(layout)
    ordered = sorted(sections.values(), key=len, reverse=True)
    return tuple(_dialect(tables) for tables in ordered)


def _dialect(tables: list[Layout]) -> Dialect:
    """The dialect that some tables share."""
    first = tables[0]
    endings: dict[str, dict[Ending, None]] = {}
    for kind in first.tensors:
        for part, pattern in first.patterns(kind):
            for name in pattern.names:
                for axes in pattern.axes:
                    ending = Ending(kind, part, len(axes.split()))
                    endings.setdefault(name.removeprefix("{unit}"), {})[ending] = None
    return Dialect(
        tensors=first.tensors,
        optional=first.optional,
        fold=first.fold,
        parts=first.norm_parts,
        endings={ending: tuple(meanings) for ending, meanings in endings.items()},
        ignore=tuple(dict.fromkeys(rule for table in tables for rule in table.ignore)),
    )


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, set[str]]:
    """A last word of an ending → the parts of a norm that it means in some dialect."""
    meanings: dict[str, set[str]] = {}
    for dialect in dialects():
        for part, pattern in dialect.tensors["norm"].items():
            for name in pattern.names:
                meanings.setdefault(words(name)[-1], set()).add(part)
    return meanings


@lru_cache(maxsize=1)
def ignored() -> tuple[str, ...]:
    """Every rule by which a table leaves tensors out."""
    return tuple(dict.fromkeys(rule for dialect in dialects() for rule in dialect.ignore))
