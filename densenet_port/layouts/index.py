"""Which tables can have a file at all: told by the names of its tensors, before any table is read.

`mappings/index.json` has for each table the names that are in every file of it. A table that misses one need not be
read and tried. The index decides nothing else, and an entry counts only where it has the digest of the table as it
stands: a table that is new or changed is read. `python -m tests.record.index` writes it.

    sha256   of the table's file
    when     what a file must record of itself
    names    for each tensor that every network of the table has its names, the stem's first kernel first; one of each
             must be there, and before all of them stands the same
    final    the same of the final norm, where names alone tell that there is one
    heads    the same of the layers in every head of a table that has none but its own; a file has all, or none
    running  names of kernels by running number (`#`), one of which will do instead, and in which containers
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from densenet_port.checkpoint import Checkpoint
from densenet_port.files import resource, sha256
from densenet_port.layouts.layout import Layout
from densenet_port.layouts.schema import FIRST_CONVS, generic, kind_of, numbered, skeleton
from densenet_port.network.architecture import Architecture
from densenet_port.network.graph import STEMS
from densenet_port.network.head import USUAL
from densenet_port.network.units import FINAL_NORM, is_head

_FIRST_PARTS = {"norm": "scale", "dense": "kernel"}  # a head's; whoever has no bias has these
FIRST_LAYER = ("block1.layer1.norm1", "block1.layer1.conv1")  # units of every network


class Sight:
    """What the names of a file say of the tables."""

    def __init__(self, checkpoint: Checkpoint, tables: Iterable[str]) -> None:
        """Read the index."""
        index = json.loads((resource("mappings") / "index.json").read_bytes())
        self._checkpoint = checkpoint
        self._entries = {name: _current(name, index.get(name)) for name in tables}
        self._skeletons = {skeleton(name) for name in checkpoint.tensors}

    def likely(self, *, final_norm: bool) -> list[Layout]:
        """The tables that can have the file by its record and its names: no other accounts for all of its tensors.

        `final_norm` says that nothing but names can tell of a network without one.
        """
        entries = self._entries
        recorded = [name for name, one in entries.items() if one["when"] and self._checkpoint.records(one["when"])]
        candidates = recorded or [name for name, entry in entries.items() if not entry["when"]]
        return [Layout.load(name) for name in candidates if self._can_have(entries[name], final_norm=final_norm)]

    @property
    def is_nobody_s(self) -> bool:
        """Whether no table can have the file by its names, whatever it records."""
        return not any(self._can_have(entry, final_norm=False) for entry in self._entries.values())

    def _can_have(self, entry: Mapping[str, Any], *, final_norm: bool) -> bool:
        names = self._checkpoint.tensors.keys()
        named = _has_names(entry, names, final_norm=final_norm) and _has_its_head(entry, names)
        return named or _runs(entry, self._skeletons, self._checkpoint.container)


def _current(name: str, entry: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A table's entry in the index, if it is of the table as it stands; or else the table's own."""
    is_current = entry is not None and entry["sha256"] == table_digest(name)
    return entry if entry is not None and is_current else entry_of(Layout.load(name))


def table_digest(name: str) -> str:
    """SHA-256 of a table's file, in hex."""
    return sha256((resource("mappings") / f"{name}.toml").read_bytes())


def _has_names(entry: Mapping[str, Any], names: Collection[str], *, final_norm: bool) -> bool:
    """Whether the names have what a table needs that calls its units by names."""
    if not entry["names"]:
        return False
    needed = entry["names"] + (entry["final"] if final_norm else [])
    prefixes = {name.removesuffix(end) for end in needed[0] for name in names if name.endswith(end)}
    return any(all(any(prefix + end in names for end in ends) for ends in needed) for prefix in prefixes)


def _has_its_head(entry: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether the names have a head of the table's, or no part of one."""
    found = [any(name.endswith(tuple(ends)) for name in names) for ends in entry["heads"]]
    return all(found) or not any(found)


def _runs(entry: Mapping[str, Any], skeletons: Collection[str], container: str) -> bool:
    """Whether a kernel has a running number as the table has it."""
    running = entry["running"]
    return container in (running["containers"] or [container]) and any(name in skeletons for name in running["names"])


# -- writing -----------------------------------------------------------------------------------------------------------


def entry_of(layout: Layout) -> dict[str, Any]:
    """What the index says of a table, but for its digest."""
    never_bare = not layout.general and layout.only.get("final_norm") != (False,)
    kernels = [name for unit in FIRST_CONVS if unit in layout.units for name in _names(layout, unit, "kernel")]
    return {
        "when": dict(layout.when),
        "names": [kernels, *_every(layout, [*_stem_units(layout), *FIRST_LAYER])] if layout.units else [],
        "final": _every(layout, [FINAL_NORM]) if layout.units and never_bare else [],
        "heads": [_names(layout, unit, _FIRST_PARTS[kind_of(unit)]) for unit in _own_head(layout)],
        "running": {"names": _running_kernels(layout), "containers": [*layout.running_containers]},
    }


def _stem_units(layout: Layout) -> list[str]:
    """The units that the stem of every network of the table has."""
    stems = [stem.units for stem in STEMS.values() if stem.names("conv")[0] in layout.units]
    return [unit for unit in stems[0] if all(unit in units for units in stems)]


def _own_head(layout: Layout) -> list[str]:
    """The units that every head of the table has, where the usual head is none of them."""
    heads = [text.replace("*", "1") for text in layout.only.get("head", (USUAL,))]
    if USUAL in heads or not layout.units:
        return []
    own = [replace(Architecture.named("121"), head=head).units for head in heads]
    return [unit for unit in own[0] if is_head(unit) and all(unit in units for units in own)]


def _every(layout: Layout, units: Iterable[str]) -> list[list[str]]:
    """The names of each tensor of these units, but for those that have other numbers of the network in them."""
    names = [_names(layout, unit, part) for unit in units for part in layout.tensors[kind_of(unit)]]
    return [several for several in names if several]


def _names(layout: Layout, unit: str, part: str) -> list[str]:
    """All names of a tensor, without what begins all names of the body; none where one has a number of layers in it."""
    unnumbered, numbers = generic(unit)
    spelled = {key: number - 1 + layout.first_numbers.get(key, 1) for key, number in numbers.items()}
    try:
        patterns = layout.units[unit if unit in layout.units else unnumbered]
        layers = [numbered(pattern, spelled) for pattern in patterns]
    except KeyError:
        return []
    names = layout.tensors[kind_of(unit)][part].names
    return [name.format(unit=layer.removeprefix(layout.root)) for layer in layers for name in names]


def _running_kernels(layout: Layout) -> list[str]:
    """The names of convolutions' kernels by running number."""
    patterns = layout.running_names.get("conv", ())
    layers = [pattern.replace("{_n}", number) for pattern in patterns for number in ("", "_0")]
    kernels = layout.tensors["conv"]["kernel"].names
    return sorted({skeleton(kernel.format(unit=layer)) for layer in layers for kernel in kernels})
