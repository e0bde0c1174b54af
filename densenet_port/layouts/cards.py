"""What is supported, and what of it was verified: layout × architecture × direction, from tables and from cards.

The tables say what can be read and written. A **card** says what was measured, with the software that owns a layout, on
full-size networks with random weights. `mappings/cards/<layout>.toml` is written by `tests/record/cards.py` and travels
with the package:

    layout    = "…"
    software  = "…"          # what the layout was measured against
    versions  = { … = "…" }  # of everything that took part
    command   = "…"          # what measures it again
    date      = 2026-11-24
    system    = "…"

    [[measured]]
    architecture = "121"
    what         = "written" # see `WHAT`
    dtype        = "float64"
    figure       = 1e-14
    bound        = 1e-10
    passed       = true

Logits are compared by their largest difference, in deviations of the logits. A layout without a card, and whatever its
card does not name, follows from the table alone.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

from densenet_port.errors import CorruptError
from densenet_port.files import resource
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.schema import generic
from densenet_port.network.architecture import NAMED, Architecture

Direction = Literal["source", "target"]
Level = Literal["logits", "names", "table"]

WHAT = {
    "names": "tensors of the software's own network that the table does not place, and places that it lacks",
    "read": "logits: what we read from a file of the layout, against the software on that file",
    "written": "logits: the software on a file that we wrote, against the network whose weights they are",
}
PROOF: dict[Direction, str] = {"source": "read", "target": "written"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One figure of a card: `passed` is `figure <= bound`."""

    architecture: str
    what: str
    dtype: str
    figure: float
    bound: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """What was measured of one layout, with what, when, and where."""

    layout: str
    software: str
    versions: Mapping[str, str]
    command: str
    date: date
    system: str
    measured: tuple[Measured, ...]


@dataclass(frozen=True, kw_only=True)
class Support:
    """One layout and one architecture: what verifies each direction, or None where it is not possible."""

    layout: str
    architecture: str
    source: Level | None
    target: Level | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def matrix() -> Iterator[Support]:
    """Every layout with every architecture that has a name."""
    for layout in layouts():
        table, card = Layout.load(layout), card_of(layout)
        for name, architecture in NAMED.items():
            held = holds(table, architecture)
            source = _level(card, name, "source") if held else None
            target = _level(card, name, "target") if held and table.containers else None
            yield Support(layout=layout, architecture=name, source=source, target=target)


def holds(table: Layout, architecture: Architecture) -> bool:
    """Whether a layout has a place for every unit of an architecture, and can be of its numbers."""
    named = not table.units or all(generic(unit)[0] in table.units for unit in architecture.units)
    return named and table.refusal(architecture) is None


def _level(card: Card | None, architecture: str, direction: Direction) -> Level:
    """The best evidence there is."""
    passed = {row.what for row in card.measured if row.architecture == architecture and row.passed} if card else set()
    return "logits" if PROOF[direction] in passed else "names" if "names" in passed else "table"


def card_of(layout: str) -> Card | None:
    """The card of a layout; None where nothing was measured."""
    path = resource("mappings") / "cards" / f"{layout}.toml"
    return read_card(path) if path.is_file() else None


def read_card(path: Path) -> Card:
    """The card in a file. Raises CorruptError for anything that is not exactly one."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_measured(row) for row in plain["measured"])
        card = Card(**{**plain, "measured": rows})
        _check(card, path.stem)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"{path}: no verification card: {error}") from error
    return card


def _measured(row: Mapping[str, Any]) -> Measured:
    """One row, whose verdict must be what its figure says."""
    found = Measured(**row)
    if found.what not in WHAT or found.architecture not in NAMED or found.dtype not in ("float32", "float64"):
        raise ValueError(f"unknown kind of measurement: {found}")
    if found.passed != (found.figure <= found.bound):
        raise ValueError(f"the verdict is not what the figure says: {found}")
    return found


def _check(card: Card, layout: str) -> None:
    """Refuse a card of another layout, with empty words or without figures."""
    if card.layout != layout or type(card.date) is not date or not card.measured:
        raise ValueError(f"not of {layout}, not dated, or without figures")
    empty = [entry.name for entry in fields(card) if not getattr(card, entry.name)]
    if empty or not all(isinstance(number, str) for number in card.versions.values()):
        raise ValueError(f"nothing is said of {', '.join(empty) or 'a version'}")
