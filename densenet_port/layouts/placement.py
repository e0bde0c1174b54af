"""Modules put in the places of a network: by their sizes, and where several have one size by their neighbourhood.

A module whose sizes are alone is placed. If the file's order, or the natural order of its names, is that of execution,
it places the rest. Otherwise the modules of one layer stand together, in the names or in the file: groups of modules
that have exactly a layer's sizes are sought, and put where their block is.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from densenet_port.layouts.modules import Module, common
from densenet_port.layouts.schema import skeleton
from densenet_port.network.units import Unit

Sizes = tuple[str | int, ...]  # the kind of a unit, and the lengths of its axes


class Candidates(NamedTuple):
    """What is placed, and what stays open: unit → the modules that it can be."""

    placed: Mapping[str, Module]
    open: Mapping[str, tuple[Module, ...]]


class Sized(NamedTuple):
    """A module with its sizes under the order of axes that its file has."""

    module: Module
    sizes: Sizes


def sizes_of(unit: Unit) -> Sizes:
    """The kind of a unit, and the lengths of its axes."""
    return unit.kind, *unit.sizes.values()


def in_order(units: Mapping[str, Unit], modules: Sequence[Sized]) -> dict[str, Module] | None:
    """The module of each unit, where the file or its names have them in order of execution; None where neither does."""
    return next((whole for order in _orders(modules) if (whole := _in_order(units, order))), None)


def _orders(modules: Sequence[Sized]) -> tuple[Sequence[Sized], Sequence[Sized]]:
    """The order of the file, and that of its names."""
    return modules, sorted(modules, key=lambda one: natural(one.module.title))


def placed(units: Mapping[str, Unit], modules: Sequence[Sized]) -> Candidates:
    """The module of each unit. There are as many of every size as the units have."""
    if whole := in_order(units, modules):
        return Candidates(whole, {})
    orders = _orders(modules)
    ways = [_Placing(units, modules, clusters) for clusters in _clusterings(modules, orders)]
    done = next((way for way in ways if way.complete(orders)), None) or max(ways, key=lambda way: len(way.placed))
    still = {unit: tuple(one.module for one in modules if done.can_be(unit, one)) for unit in done.lacking()}
    return Candidates({unit: one.module for unit, one in done.placed.items()}, still)


def natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts numbers in names by their size."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d{0,18})", name)]


def _in_order(units: Mapping[str, Unit], order: Iterable[Sized]) -> dict[str, Module] | None:
    """The placement in which the modules of every kind stand in order of execution; None where they do not."""
    of_kind: dict[str | int, list[Sized]] = {}
    for one in order:
        of_kind.setdefault(one.sizes[0], []).append(one)
    runs = {kind: iter(of_kind.get(kind, [])) for kind in ("conv", "norm", "dense")}
    whole = {}
    for name, unit in units.items():
        module = next(runs[unit.kind], None)
        if module is None or module.sizes != sizes_of(unit):
            return None
        whole[name] = module.module
    return whole


# -- groups of modules -------------------------------------------------------------------------------------------------


class _Cluster(NamedTuple):
    """Modules that stand together, and for each what tells it apart from the others: a name, or a place."""

    members: tuple[Sized, ...]
    marks: tuple[object, ...]


Signature = tuple[Sizes, ...]  # the sizes of a group's units
Clusters = Callable[[Sequence[Sized], Sequence[Signature]], dict[Signature, list[_Cluster]]]


def _clusterings(modules: Sequence[Sized], orders: Sequence[Sequence[Sized]]) -> Iterator[Clusters]:
    """The ways to find what stands together: in the names, in the file, in the order of names."""
    nodes = _nodes(modules)
    yield partial(_in_names, nodes)
    for order in orders:
        yield partial(_in_windows, order)


def _nodes(modules: Sequence[Sized]) -> dict[tuple[str, ...], list[Sized]]:
    """What names begin with → the modules there."""
    nodes: dict[tuple[str, ...], list[Sized]] = {}
    for one in modules:
        words = one.module.words
        for depth in range(1, len(words) + 1):
            nodes.setdefault(words[:depth], []).append(one)
    return nodes


def _in_names(
    nodes: Mapping[tuple[str, ...], Sequence[Sized]], free: Sequence[Sized], signatures: Sequence[Signature]
) -> dict[Signature, list[_Cluster]]:
    """Modules of exactly the sizes of a group whose names begin alike, as no other module's does."""
    allowed = {id(one) for one in free}
    known = {frozenset(Counter(sizes).items()): sizes for sizes in signatures}
    lengths = set(map(len, signatures))
    clusters: dict[Signature, dict[frozenset[int], _Cluster]] = {sizes: {} for sizes in signatures}
    for words, there in nodes.items():
        if len(there) not in lengths:
            continue
        sizes = known.get(frozenset(Counter(one.sizes for one in there).items()))
        ids = frozenset(map(id, there))
        if sizes and ids <= allowed:
            marks = tuple((one.sizes[0], one.module.words[len(words) :]) for one in there)
            clusters[sizes].setdefault(ids, _Cluster(tuple(there), marks))
    return {sizes: [*there.values()] for sizes, there in clusters.items()}


def _in_windows(
    order: Sequence[Sized], free: Sequence[Sized], signatures: Sequence[Signature]
) -> dict[Signature, list[_Cluster]]:
    """Modules of exactly the sizes of a group that follow one another, from the first on; none is in two."""
    allowed = {id(one) for one in free}
    row = [one for one in order if id(one) in allowed]
    known = {frozenset(Counter(sizes).items()): sizes for sizes in signatures}
    clusters: dict[Signature, list[_Cluster]] = {sizes: [] for sizes in signatures}
    start, width = 0, len(signatures[0])
    while start + width <= len(row):
        window = row[start : start + width]
        if sizes := known.get(frozenset(Counter(one.sizes for one in window).items())):
            clusters[sizes].append(_Cluster(tuple(window), tuple(range(width))))
            start += width
        else:
            start += 1
    return clusters


# -- placing -----------------------------------------------------------------------------------------------------------


class _Placing:
    """A placement in the making: layers first, which have most modules, then what is left."""

    def __init__(self, units: Mapping[str, Unit], modules: Sequence[Sized], clusters: Clusters) -> None:
        self.units = units
        self.modules = modules
        self.clusters = clusters
        self.placed: dict[str, Sized] = {}
        self.groups: dict[str, list[str]] = {}  # a layer, a transition, the stem → its units
        for name in units:
            self.groups.setdefault(name.rpartition(".")[0], []).append(name)

    def complete(self, orders: Sequence[Sequence[Sized]]) -> bool:
        """Whether every unit has its module."""
        several = [group for group, names in self.groups.items() if len(names) > 1]
        for count in sorted({len(self.groups[group]) for group in several}, reverse=True):
            self._place_groups([group for group in several if len(self.groups[group]) == count], orders)
        self._place_alone()
        self._place_beside(lambda one, other: common(one.module.words, other.module.words))
        self._place_by_numbers()
        places = {id(one): place for place, one in enumerate(orders[0])}
        if self._stands_together(places):
            self._place_beside(lambda one, other: int(abs(places[id(one)] - places[id(other)]) == 1))
        return len(self.placed) == len(self.units)

    def lacking(self) -> list[str]:
        """The units without a module."""
        return [unit for unit in self.units if unit not in self.placed]

    def can_be(self, unit: str, one: Sized) -> bool:
        """Whether a module that is not placed has a unit's sizes."""
        return one.sizes == sizes_of(self.units[unit]) and one in self._free()

    def _free(self) -> list[Sized]:
        used = {id(one) for one in self.placed.values()}
        return [one for one in self.modules if id(one) not in used]

    # groups

    def _place_groups(self, groups: Sequence[str], orders: Sequence[Sequence[Sized]]) -> None:
        """Place the groups of which there are as many as there are clusters of their sizes."""
        alike: dict[Signature, list[str]] = {}
        for group in groups:
            alike.setdefault(tuple(sizes_of(self.units[unit]) for unit in self.groups[group]), []).append(group)
        there = self.clusters(self._free(), [*alike])
        options: dict[str, list[_Cluster]] = {}
        for sizes, same in alike.items():
            if 0 < len(there[sizes]) <= len(same):
                options |= dict.fromkeys(same, there[sizes])
        alone = {group for same in alike.values() for group in same if len(same) == 1}
        chosen = {group: clusters[0] for group, clusters in options.items() if group in alone}
        chosen |= _by_kin(options, chosen)
        whole = {group: there for group, there in options.items() if len(there) == [*options.values()].count(there)}
        if not whole.keys() <= chosen.keys():
            chosen |= _by_chunks(whole, {group: one for group, one in chosen.items() if group in whole}, orders)
        self._fill(chosen)

    def _fill(self, chosen: Mapping[str, _Cluster]) -> None:
        """Place the modules of clusters in their groups; those of equal sizes by the marks that they have elsewhere."""
        roles: Counter[tuple[object, str]] = Counter()
        unclear = []
        for group, cluster in chosen.items():
            for name in self.groups[group]:
                same = [place for place, one in enumerate(cluster.members) if one.sizes == sizes_of(self.units[name])]
                if len(same) == 1:
                    self.placed[name] = cluster.members[same[0]]
                    roles[cluster.marks[same[0]], name.rpartition(".")[2]] += 1
                else:
                    unclear.append((name, cluster, same))
        for name, cluster, same in unclear:
            role = name.rpartition(".")[2]
            counts = [roles[cluster.marks[place], role] for place in same]
            if counts.count(0) == len(counts) - 1:
                self.placed[name] = cluster.members[same[counts.index(max(counts))]]

    # what is left

    def _place_alone(self) -> None:
        """Place what is alone of its sizes."""
        free: dict[Sizes, list[Sized]] = {}
        for one in self._free():
            free.setdefault(one.sizes, []).append(one)
        lacking: dict[Sizes, list[str]] = {}
        for name in self.lacking():
            lacking.setdefault(sizes_of(self.units[name]), []).append(name)
        for sizes, names in lacking.items():
            if len(names) == 1 == len(free.get(sizes, [])):
                self.placed[names[0]] = free[sizes][0]

    def _place_beside(self, near: Callable[[Sized, Sized], int]) -> None:
        """Place what is nearest to a module of its group that is placed, in the names or in the file's order."""
        while unit := next(self._beside(near), None):
            self.placed[unit[0]] = unit[1]
            self._place_alone()

    def _stands_together(self, places: Mapping[int, int]) -> bool:
        """Whether the modules of every layer that is placed follow one another in the file."""
        rows = [[self.placed[name] for name in names if name in self.placed] for names in self.groups.values()]
        spans = [sorted(places[id(one)] for one in row) for row in rows if len(row) > 1 and _is_layer(row)]
        return bool(spans) and all(span[-1] - span[0] == len(span) - 1 for span in spans)

    def _place_by_numbers(self) -> None:
        """Place what only differs in a number, as do the names of what it can be, where such numbers count up."""
        alike: dict[tuple[str, Sizes], list[str]] = {}
        for unit in self.lacking():
            alike.setdefault((skeleton(unit), sizes_of(self.units[unit])), []).append(unit)
        free = self._free()
        for (_, sizes), units in alike.items():
            same = sorted((one for one in free if one.sizes == sizes), key=lambda one: natural(one.module.title))
            names = {skeleton(one.module.title) for one in same}
            if len(same) == len(units) and len(names) == 1 and self._counts_up(*names):
                self.placed |= zip(units, same, strict=True)

    def _counts_up(self, name: str) -> bool:
        """Whether the numbers in names of a kind count up in order of execution, as far as their modules are placed."""
        placed = [self.placed[unit].module.title for unit in self.units if unit in self.placed]
        numbers = [natural(title) for title in placed if skeleton(title) == name]
        return numbers == sorted(numbers)

    def _beside(self, near: Callable[[Sized, Sized], int]) -> Iterator[tuple[str, Sized]]:
        """The units with the one module that is nearest to their group, which is nearer to no other group."""
        free = self._free()
        for unit in self.lacking():
            kin = self._kin(unit)
            same = [one for one in free if one.sizes == sizes_of(self.units[unit])]
            scores = [near(one, kin[0]) for one in same] if kin else []
            highest = max(scores, default=0)
            if highest < 1 or scores.count(highest) != 1:
                continue
            best = same[scores.index(highest)]
            others = [other for other in self.lacking() if other != unit]
            rivals = [
                near(best, one)
                for other in others
                if sizes_of(self.units[other]) == best.sizes
                for one in self._kin(other)
            ]
            if max(rivals, default=0) < highest:
                yield unit, best

    def _kin(self, unit: str) -> list[Sized]:
        """The module that is placed before a unit in its group; of the first unit, the one behind."""
        group = self.groups[unit.rpartition(".")[0]]
        place = group.index(unit)
        beside = group[place - 1 : place] if place else group[1:2]
        return [self.placed[name] for name in beside if name in self.placed]


def _is_layer(row: Sequence[Sized]) -> bool:
    """Whether the modules of a group have a norm and a convolution, as layers and transitions do."""
    return len({one.sizes[0] for one in row}) > 1


def _block(group: str) -> str:
    return group.partition(".")[0]


def _by_kin(options: Mapping[str, Sequence[_Cluster]], chosen: Mapping[str, _Cluster]) -> dict[str, _Cluster]:
    """The groups of one size in several blocks, each with the cluster whose names are most like its own block's.

    What is placed helps to place the next; the last cluster of a size is the last group's.
    """
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for group, cluster in chosen.items():
        blocks.setdefault(_block(group), []).append(_words(cluster))
    more: dict[str, _Cluster] = {}
    alike = {id(there): (there, [one for one in options if options[one] is there]) for there in options.values()}
    progress = True
    while progress:
        progress = False
        for clusters, groups in alike.values():
            open_groups = [group for group in groups if group not in chosen and group not in more]
            free = [one for one in clusters if all(one is not more.get(group) for group in groups)]
            is_last = len(clusters) == len(groups) and len(open_groups) == 1 == len(free)
            clear = [(open_groups[0], free[0])] if is_last else _clear(open_groups, free, blocks)
            for group, cluster in clear:
                more[group] = cluster
                blocks.setdefault(_block(group), []).append(_words(cluster))
                progress = True
    return more


def _clear(
    groups: Sequence[str], clusters: Sequence[_Cluster], blocks: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[tuple[str, _Cluster]]:
    """The groups for which one cluster is clearly the best, which is no other group's as much.

    Where there are fewer clusters than groups, something must be known of the block of each.
    """
    scores = {
        group: [
            max((common(_words(one), words) for words in blocks.get(_block(group), ())), default=-1) for one in clusters
        ]
        for group in groups
    }
    clear = []
    for group, values in scores.items() if clusters else ():
        best = max(values)
        place = values.index(best)
        rivals = [there[place] for other, there in scores.items() if other != group]
        known = len(clusters) >= len(groups) or min(rivals, default=0) >= 0
        if values.count(best) == 1 and all(rival < best for rival in rivals) and known:
            clear.append((group, clusters[place]))
    return clear


def _words(cluster: _Cluster) -> tuple[str, ...]:
    """What the names of a cluster's modules begin with."""
    first, *others = (one.module.words for one in cluster.members)
    return first[: min((common(first, other) for other in others), default=len(first))]


def _by_chunks(
    options: Mapping[str, Sequence[_Cluster]], chosen: Mapping[str, _Cluster], orders: Sequence[Sequence[Sized]]
) -> dict[str, _Cluster]:
    """The groups of all blocks, where clusters stand block by block in an order that agrees with those `chosen`."""
    distinct = {id(cluster): cluster for clusters in options.values() for cluster in clusters}
    blocks: dict[str, list[str]] = {}
    for group in options:
        blocks.setdefault(_block(group), []).append(group)
    for order in orders:
        places = {id(one): place for place, one in enumerate(order)}
        row = sorted(distinct.values(), key=lambda cluster: min(places[id(one)] for one in cluster.members))
        whole: dict[str, _Cluster] = {}
        for groups in blocks.values():
            part, row = row[: len(groups)], row[len(groups) :]
            for group in groups:
                mine = [cluster for cluster in part if any(cluster is one for one in options[group])]
                if len(mine) == 1:
                    whole[group] = mine[0]
        agree = all(whole.get(group) is cluster for group, cluster in chosen.items())
        if len(whole) == len(options) and agree:
            return whole
    return {}
