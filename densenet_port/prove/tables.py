"""What reports are made of: tables, values as a reader sees them and as JSON has them, and pages that stand alone.

Names come from files that anybody may have written: what could command a terminal, break XML or turn text around is
dropped, and a page escapes the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import array_digest

if TYPE_CHECKING:
    from jinja2 import Environment

UNPRINTABLE = re.compile("[^\t\n -~\u00a0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Table(NamedTuple):
    """Rows under headings, in plain values."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def side_by_side(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """Nested facts of several things, a column for each."""
    flat = {name: _flat(facts) for name, facts in columns.items()}
    keys = dict.fromkeys(chain.from_iterable(flat.values()))
    return Table(title, ("", *flat), [(key, *(facts.get(key) for facts in flat.values())) for key in keys])


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without nesting: {"ledger": {"used": 606}} is {"ledger used": 606}."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        inner = _flat(value) if isinstance(value, Mapping) and value else {"": value}
        flat.update({f"{key} {deeper}".strip(): fact for deeper, fact in inner.items()})
    return flat


def drawn(table: Table) -> Any:
    """A table for the terminal."""
    from rich.table import Table as RichTable  # noqa: PLC0415 (as in `terminal`)
    from rich.text import Text  # noqa: PLC0415

    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in table.headings:
        grid.add_column(Text(shown(heading)), overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(shown(cell), style="bold red" if cell == "FAILED" else "") for cell in row))
    return grid


def templates(*packages: str) -> "Environment":
    """The environment of Jinja's in which the templates of these packages find one another, the first one's first."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (only a page needs it)

    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else shown(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )


# -- values ------------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value as a reader sees it, on one line: numbers short, nothing as a dash, lists with commas, text cleaned."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return _number(float(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{shown(key)} {shown(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return " ".join(clean(value).split())


def clean(text: Any) -> str:
    """Text without what XML forbids, what commands a terminal, and what turns the reading direction around."""
    return UNPRINTABLE.sub("\ufffd", str(text))


def _number(value: float) -> str:
    """Three or four figures: what a distance is worth."""
    if isnan(value):
        return "NaN"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"  # where digits get long


def plain(value: Any) -> Any:
    """A value as strict JSON has it."""
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "dtype": value.dtype.name, "sha256": array_digest(value)}
    value = value.item() if isinstance(value, np.generic) else value
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {clean(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value if value is None or isinstance(value, bool | int | float) else clean(value)
