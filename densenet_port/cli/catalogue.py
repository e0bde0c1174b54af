"""Commands that say what is known and what is installed: layouts, archs, doctor."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from densenet_port.about import __version__
from densenet_port.cli.base import Printing, app, rows
from densenet_port.cli.options import grouped
from densenet_port.extras import EXTRAS

if TYPE_CHECKING:
    from densenet_port.layouts.cards import Card, Support
    from densenet_port.layouts.layout import Layout

LEVELS = {"logits": "●", "names": "◐", "table": "○", None: "–"}  # the best evidence first
LEGEND = (
    "Each network twice, as source and as target. ● its logits agree with those of the layout's own software, or of a\n"
    "stand-in (the card in --json says which, and how far they agree); ◐ the names of its tensors are recorded from\n"
    "that software; ○ by the table alone; – not possible."
)
CORE = ("numpy", "h5py", "typer", "rich", "jinja2", "platformdirs", "urllib3", "filelock")


# -- layouts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayoutRow:
    """A layout, its verification card, and what is possible with each named architecture."""

    table: "Layout"
    card: "Card | None"
    support: "Sequence[Support]"

    @property
    def carries_contract(self) -> bool:
        """Whether a file of the layout keeps the contract of its source."""
        from densenet_port.network.contract import Contract

        return self.table.carried >= Contract().to_json().keys()


@app.command()
@grouped
def layouts(*, printing: Printing) -> None:
    """List the layouts that have a table, the networks each can hold, and what verifies it."""
    from densenet_port.layouts import cards
    from densenet_port.layouts.layout import Layout

    cells = list(cards.matrix())
    listed = [
        LayoutRow(Layout.load(name), cards.card_of(name), [cell for cell in cells if cell.layout == name])
        for name in dict.fromkeys(cell.layout for cell in cells)
    ]
    printing.show("layouts", lambda: {"layouts": list(map(_layout_json, listed))}, lambda: layouts_text(listed))


def _layout_json(row: LayoutRow) -> dict[str, Any]:
    table = row.table
    return {
        "layout": table.name,
        "about": table.about,
        "writes": list(table.containers),
        "contract": "the source's" if row.carries_contract else table.contract.to_json(),
        "carried": sorted(table.carried),
        "reference": table.reference,
        "support": {cell.architecture: [cell.source, cell.target] for cell in row.support},
        "card": asdict(row.card) if row.card else None,
        "sha256": table.digest,
    }


def layouts_text(listed: Sequence[LayoutRow]) -> list[Any]:
    """The layouts, and the networks that each can hold."""
    about, marks = [], []
    for row in listed:
        table = row.table
        contract = f"{table.contract.epsilon:g}, {table.contract.stem_padding}"
        if row.carries_contract:
            contract = "the source's"
        about.append((table.name, ", ".join(table.containers), contract, table.about))
        measured = f"{row.card.software}, {row.card.date}" if row.card else "–"
        marks.append((table.name, *_marks(row.support).values(), measured))
    return [
        rows(("layout", "written as", "epsilon, stem padding", "what it is"), about),
        "",
        rows(("layout", *_marks(listed[0].support), "measured with"), marks),
        "",
        LEGEND,
    ]


def _marks(support: "Sequence[Support]") -> dict[str, str]:
    """Architecture, or family of CIFAR networks → the marks of its weakest member, as a source and as a target."""
    order = list(LEVELS)
    families: dict[str, list[Support]] = {}
    for cell in support:
        family = re.sub(r"^(cifar(-bc)?)-\d.*", r"\1", cell.architecture)
        families.setdefault(family, []).append(cell)
    marks = {}
    for family, cells in families.items():
        source = max((cell.source for cell in cells), key=order.index)
        target = max((cell.target for cell in cells), key=order.index)
        marks[family] = LEVELS[source] + LEVELS[target]
    return marks


# -- archs -------------------------------------------------------------------------------------------------------------


@app.command()
@grouped
def archs(*, printing: Printing) -> None:
    """List the architectures that have a name."""
    printing.show("archs", _archs_json, _archs_text)


def _archs_json() -> dict[str, Any]:
    from densenet_port.network.architecture import NAMED

    listed = [
        {
            "arch": name,
            "depth": arch.depth,
            "trainable": arch.trainable,
            "statistics": arch.statistics,
            "tensors": len(arch.slots),
            "classes": arch.classes,
            "numbers": arch.to_json(),
            "spec": arch.spec,
        }
        for name, arch in NAMED.items()
    ]
    return {"archs": listed}


def _archs_text() -> list[Any]:
    from densenet_port.network.architecture import NAMED

    cells = [
        (name, "-".join(map(str, arch.layers)), arch.growth_rate, f"{arch.trainable:,}", len(arch.slots))
        for name, arch in NAMED.items()
    ]
    return [rows(("arch", "layers per block", "growth rate", "trainable values", "tensors"), cells)]


# -- doctor ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """What is installed, and where things are."""

    version: str
    python: str
    core: Mapping[str, str | None]
    extras: Mapping[str, Mapping[str, str | None]]
    mappings: str
    layouts: Sequence[str]
    registered: Sequence[str]
    cache: str


@app.command()
@grouped
def doctor(*, printing: Printing) -> None:
    """Say what is installed, and where things are."""
    from densenet_port.fetch.cache import folder
    from densenet_port.fetch.registry import registry
    from densenet_port.files import resource
    from densenet_port.layouts.layout import Layout
    from densenet_port.layouts.layout import layouts as known

    health = Health(
        version=__version__,
        python=sys.version.split()[0],
        core=_versions(*CORE),
        extras={extra: _versions(*names) for extra, names in EXTRAS.items()},
        mappings=str(resource("mappings")),
        layouts=[Layout.load(name).name for name in known()],
        registered=[f"{source} {arch}" for source, arch in registry()],
        cache=str(folder()),
    )
    printing.show("doctor", lambda: asdict(health), lambda: _doctor_text(health))


def _versions(*names: str) -> dict[str, str | None]:
    """Distribution → installed version, or None; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _doctor_text(health: Health) -> list[Any]:
    cells = [("densenet-port", health.version), ("Python", health.python), ("core", _listed(health.core))]
    cells += [(f"extra {extra}", _listed(versions)) for extra, versions in health.extras.items()]
    cells += [("mappings", health.mappings), ("layouts", ", ".join(health.layouts))]
    cells += [("registered", ", ".join(health.registered)), ("cache", health.cache)]
    return [rows(("", ""), cells)]


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
