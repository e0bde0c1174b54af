"""The support matrix says what tables and evidence say, and every verification card is what it must be."""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from densenet_port.cli import catalogue
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.files import resource
from densenet_port.layouts import cards as support
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.architecture import NAMED, Architecture
from tests.record.cards import genuine, misplaced

ROOT = Path(__file__).parents[2]
CARDS = sorted((resource("mappings") / "cards").glob("*.toml"))
BOUNDS = {"names": 0.0, "float64": 1e-10}  # and float32 by the software's own rounding, but never more than this:
LARGEST32 = 1e-3
CARD = """
layout   = "torchvision"
software = "torchvision"
versions = { torchvision = "0.29.1" }
command  = "python -m tests.record.cards torchvision"
date     = 2026-11-24
system   = "Linux"

[[measured]]
architecture = "121"
what = "written"
dtype = "float64"
figure = 1e-14
bound = 1e-10
passed = true
"""


# -- the matrix ------------------------------------------------------------------------------------------------------


def spells(layout, name):
    """Whether a table can write a network, with the head that is usual there."""
    table = Layout.load(layout)
    try:
        return bool(table.spell(support.headed(table, NAMED[name])))
    except MisfitError:
        return False


def test_a_network_has_a_cell_exactly_where_the_table_can_spell_it():
    found = {(cell.layout, cell.architecture): cell.source is not None for cell in support.matrix()}

    assert found == {(layout, name): spells(layout, name) for layout in layouts() for name in NAMED}


def test_no_cell_claims_more_than_the_evidence():
    """Logits where the card has a figure for that direction, names where a recorded list is, else the table."""
    measured = {(c.stem, row.architecture, row.what) for c in CARDS for row in support.read_card(c).measured}
    named = {(layout, name) for layout in layouts() for name, _ in genuine(layout)}

    for cell in support.matrix():
        place = cell.layout, support.headed(Layout.load(cell.layout), NAMED[cell.architecture]).name
        otherwise = "names" if place in named else "table"
        for level, proof in ((cell.source, "read"), (cell.target, "written")):
            expected = "logits" if (*place, proof) in measured else otherwise
            assert level in (None, expected), (cell, proof)


def test_the_listing_shows_the_matrix():
    """One row a layout, two marks a network; the CIFAR networks as one column by their weakest."""
    levels = {"121": ("logits", "names"), "161": (None, None), "264": ("table", None)}
    cifar = {"cifar-40-12": ("logits", "table"), "cifar-100-12": ("names", "logits"), "cifar-bc-100-12": (None, None)}
    cells = [
        support.Support(layout="x", architecture=name, source=source, target=target)
        for name, (source, target) in {**levels, **cifar}.items()
    ]

    marks = catalogue._marks(cells)

    assert marks == {"121": "●◐", "161": "––", "264": "○–", "cifar": "◐○", "cifar-bc": "––"}


def test_a_listing_without_cards_is_still_one():
    row = catalogue.LayoutRow(Layout.load("keras"), None, [])

    *_, legend = catalogue.layouts_text([row])

    assert all(mark in legend for mark in "●◐○–")


# -- the cards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_is_of_a_layout_that_is_there_and_passed(path):
    """Software and versions are named, the date is past, the command is a script here, all figures within bounds."""
    card = support.read_card(path)

    table = Layout.load(card.layout)
    _, option, module, *_ = card.command.split()
    assert (option, (ROOT / f"{module.replace('.', '/')}.py").is_file()) == ("-m", True)
    assert date(2026, 1, 1) <= card.date <= datetime.now(UTC).date()
    assert [number for number in card.versions.values() if not re.match(r"\d+(\.\d+)*", number)] == []
    assert [row for row in card.measured if not row.passed or row.bound > bound_of(row)] == []
    assert [row for row in card.measured if not support.holds(table, Architecture.named(row.architecture))] == []


def bound_of(row):
    """The largest bound that a figure may have been given."""
    return BOUNDS.get(row.what, BOUNDS.get(row.dtype, LARGEST32))


@pytest.mark.parametrize("layout", layouts())
def test_names_are_counted_for_the_lists_that_are_recorded(layout):
    """The card has each list once, and counting again gives the same."""
    table, card = Layout.load(layout), support.card_of(layout)
    counted = {name: misplaced(table, path, name) for name, path in genuine(layout)}

    listed = {row.architecture: row.figure for row in card.measured if row.what == "names"} if card else {}

    assert listed == counted


NETWORKS = ", ".join(NAMED)
ROW = "{'architecture': '121', 'what': 'written', 'dtype': 'float64', 'figure': 1e-14, "  # as far as an error shows it
FAULTS = [
    ('layout   = "torchvision"', 'layout   = "keras"', "layout: expected one of torchvision, found 'keras'"),
    ("2026-11-24", '"2026-11-24"', "date: expected a date, found '2026-11-24'"),
    ('software = "torchvision"', 'software = ""', "software: expected some text, found none"),
    ('{ torchvision = "0.29.1" }', "{}", "versions: expected at least one, found none"),
    ('"0.29.1"', "0.29", "versions.torchvision: expected a string, found 0.29"),
    (
        "figure = 1e-14",
        "figure = 1e-9",
        "measured[0].passed: expected the verdict on 1e-09 with the bound 1e-10, found True",
    ),
    (
        "figure = 1e-14",
        "figure = nan",
        "measured[0].passed: expected the verdict on nan with the bound 1e-10, found True",
    ),
    ("figure = 1e-14", 'figure = "0"', "measured[0].figure: expected an integer or a float, found '0'"),
    ('"121"', '"122"', f"measured[0].architecture: expected one of {NETWORKS}, found '122'"),
    ('"written"', '"cosine"', "measured[0].what: expected one of names, read, written, found 'cosine'"),
    ('"float64"', '"float16"', "measured[0].dtype: expected one of float32, float64, found 'float16'"),
    (
        "system ",
        "sistem ",
        "unknown key 'sistem' (known: command, date, layout, measured, software, system, versions)",
    ),
    (
        "bound = 1e-10",
        "limit = 1e-10",
        "unknown key 'measured[0].limit' (known: architecture, bound, dtype, figure, passed, what)",
    ),
    ("bound = 1e-10", "", "missing key 'measured[0].bound'"),
    ("[[measured]]", "[measured]", f"measured: expected a list, found {ROW}"),
    ("[[measured]]", "[[measured", "Expected ']]' at the end of an array declaration (at line 9, column 11)"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS, ids=[f"{new[:20]}" for _, new, _ in FAULTS])
def test_a_card_that_is_not_exactly_one_is_refused(tmp_path, old, new, message):
    path = tmp_path / "torchvision.toml"
    assert old in CARD
    path.write_text(CARD.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(CorruptError) as error:
        support.read_card(path)

    assert error.value.message == f"{path}: no verification card: {message}"


def test_a_card_without_figures_is_refused(tmp_path):
    path = tmp_path / "torchvision.toml"
    path.write_text(CARD.partition("[[measured]]")[0] + "measured = []\n", encoding="utf-8")

    with pytest.raises(CorruptError) as error:
        support.read_card(path)

    assert error.value.message == f"{path}: no verification card: measured: expected at least one figure, found none"


def test_a_card_is_read_as_written(tmp_path):
    path = tmp_path / "torchvision.toml"
    path.write_text(CARD, encoding="utf-8")

    card = support.read_card(path)

    row = support.Measured(architecture="121", what="written", dtype="float64", figure=1e-14, bound=1e-10, passed=True)
    assert (card.layout, card.date, card.versions, card.measured) == (
        "torchvision",
        date(2026, 11, 24),
        {"torchvision": "0.29.1"},
        (row,),
    )


def test_the_object_for_scripts_has_the_matrix_and_the_cards(capsys):
    from densenet_port.cli.catalogue import layouts as command

    command(as_json=True)

    rows = json.loads(capsys.readouterr().out)["layouts"]
    cells = {(row["layout"], name): levels for row in rows for name, levels in row["support"].items()}
    assert cells == {(cell.layout, cell.architecture): [cell.source, cell.target] for cell in support.matrix()}
    assert [row["layout"] for row in rows if row["card"]] == sorted(path.stem for path in CARDS)
