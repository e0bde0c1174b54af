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
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Literal

from densenet_port.errors import CorruptError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.schema import generic
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.strict import Fields

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
    """One figure of a card: `passed` is `figure <= bound`. An architecture without a name is its numbers."""

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


def matrix() -> Iterator[Support]:
    """Every layout with every architecture that has a name, with the head that is usual there."""
    for layout in layouts():
        table, card = Layout.load(layout), card_of(layout)
        for name, body in NAMED.items():
            architecture = headed(table, body)
            held = holds(table, architecture)
            source = _level(card, architecture.name, "source") if held else None
            target = _level(card, architecture.name, "target") if held and table.containers else None
            yield Support(layout=layout, architecture=name, source=source, target=target)


def headed(table: Layout, architecture: Architecture) -> Architecture:
    """The architecture with the layout's usual head, the first that its table allows."""
    return replace(architecture, head=table.only.get("head", (architecture.head,))[0])


def holds(table: Layout, architecture: Architecture) -> bool:
    """Whether a layout has a place for every unit of an architecture, and can be of its numbers."""
    named = not table.units or all({unit, generic(unit)[0]} & table.units.keys() for unit in architecture.units)
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
    place = f"{path}: no verification card"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{place}: {error}") from error
    card = Fields(place, content, CorruptError)
    card.check_keys(entry.name for entry in fields(Card))
    rows = card.entries("measured")
    if not rows:
        raise card.wrong("measured", "at least one figure", "none")
    return Card(
        layout=card.one_of("layout", [path.stem]),
        software=_some_text(card, "software"),
        versions=_versions(card),
        command=_some_text(card, "command"),
        date=card.value("date", date),
        system=_some_text(card, "system"),
        measured=tuple(_measured(row) for row in rows),
    )


def _some_text(card: Fields, key: str) -> str:
    """A string that is not empty."""
    text = card.text(key)
    if not text:
        raise card.wrong(key, "some text", "none")
    return text


def _versions(card: Fields) -> dict[str, str]:
    """Software → its version, of one at least."""
    versions = card.text_map("versions")
    if not versions:
        raise card.wrong("versions", "at least one", "none")
    return versions


def _measured(row: Fields) -> Measured:
    """One row, whose verdict must follow from its figure."""
    row.check_keys(entry.name for entry in fields(Measured))
    measured = Measured(
        architecture=_architecture(row),
        what=row.one_of("what", WHAT),
        dtype=row.one_of("dtype", ("float32", "float64")),
        figure=row.number("figure"),
        bound=row.number("bound"),
        passed=row.value("passed", bool),
    )
    if measured.passed != (measured.figure <= measured.bound):
        verdict = f"{measured.figure} with the bound {measured.bound}"
        raise row.wrong("passed", f"the verdict on {verdict}", measured.passed)
    return measured


def _architecture(row: Fields) -> str:
    """The name of an architecture, or its numbers where it has none."""
    text = row.text("architecture")
    with suppress(UsageError):
        return Architecture.named(text).name if "=" in text else row.one_of("architecture", NAMED)
    return row.one_of("architecture", NAMED)
