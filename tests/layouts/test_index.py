"""The index of the tables: it is of the tables as they stand, and leaves every table that has a file."""

import json

import pytest

from densenet_port.layouts import identify as identification
from densenet_port.layouts import index
from densenet_port.layouts.cards import holds
from densenet_port.layouts.identify import identify
from densenet_port.layouts.index import Sight
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.architecture import NAMED
from tests.layouts.test_layout import KEYS, recorded, sketch, spelled
from tests.record.index import INDEX, text


def likely(file, final_norm=True):
    """The names of the tables that the index leaves of all."""
    return [table.name for table in Sight(file, layouts()).likely(final_norm=final_norm)]


def test_the_index_is_of_the_tables_as_they_stand():
    """One that was changed or added is read all the same, until `python -m tests.record.index` enters it."""
    assert text() == INDEX.read_text()


@pytest.mark.parametrize("layout", layouts())
def test_a_layout_s_own_files_are_left_to_it(layout):
    """Every network that its software can have, in each of its containers' kinds, behind any prefix."""
    table = Layout.load(layout)
    for arch in (arch for arch in NAMED.values() if holds(table, arch)):
        names = spelled(layout, arch)

        assert layout in likely(sketch(names, **table.when)), arch.name
        if table.units:
            behind = {f"module.net.{name}": shape for name, shape in names.items()}
            assert layout in likely(sketch(behind, **table.when)), arch.name


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.txt")), ids=lambda path: path.stem)
def test_what_identifies_a_recorded_list_is_left(path):
    """The table that all tables together find is among those that the index leaves."""
    file = recorded(path)
    attempts, _ = identification._attempts(file, identification.Words())
    best = identification._preferred(file, [ledger for attempt in attempts if (ledger := attempt.complete)])

    assert {ledger.layout.name for ledger in best} <= set(likely(file, final_norm=file.graph is None))


def test_a_file_of_torchvision_s_leaves_one_of_all_tables():
    """Else the index would be of no use; without a head it may also be torchreid's, whose body has the same names."""
    names = spelled("torchvision", NAMED["121"])
    body = {name: shape for name, shape in names.items() if not name.startswith("classifier.")}

    assert likely(sketch(names)) == ["torchvision"]
    assert likely(sketch(body)) == ["torchreid", "torchvision"]
    assert likely(sketch({**names, "fc.0.weight": (512, 1024)})) == ["torchvision"]


def test_a_file_of_no_table_is_nobody_s():
    """Nor is one that lacks what a table's every file has; but one behind another name is the table's."""
    names = spelled("torchvision", NAMED["121"])
    renamed = {name.replace("denseblock", "stage"): shape for name, shape in names.items()}

    files = [names, {f"net.{name}": shape for name, shape in names.items()}, renamed]
    assert [Sight(sketch(one), layouts()).is_nobody_s for one in files] == [False, False, True]


def test_a_table_that_was_changed_is_read(monkeypatch, tmp_path):
    """An index that is not of the tables as they stand decides nothing."""
    stale = json.loads(INDEX.read_text())
    for entry in stale.values():
        entry |= {"sha256": "0" * 64, "names": [["nothing"]], "when": {}}
    (tmp_path / "index.json").write_text(json.dumps(stale))
    folder = index.resource("mappings")
    for table in folder.glob("*.toml"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    monkeypatch.setattr(index, "resource", lambda _: tmp_path)
    file = sketch(spelled("monai", NAMED["121"]))

    assert "monai" in likely(file)
    assert identify(file).layout.name == "monai"
