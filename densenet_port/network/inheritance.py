"""What a file's running statistics say of its wiring: channels that several norms read have the same statistics.

In a dense block each norm reads the concatenation of the block's input and of what every earlier layer made. The
running mean and variance of a channel are therefore worked out anew in each later norm of the block, from the same map,
with the same momentum, over the same batches: in a file that was trained they are the same bits. Norms that read a
common source are **kin**: those of a dense block, and the transition's or the final norm behind it. What each of them
reads follows from the graph, under either order of concatenation, and one of the two explains a trained file.

Statistics that nobody trained tell nothing: constants are equal anywhere (a number that several channels of a norm have
is none that tells), and random numbers nowhere.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations, takewhile
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densenet_port.checkpoint import Array
from densenet_port.network.channels import Concatenation, channel_order
from densenet_port.network.graph import IMAGES, Graph
from densenet_port.network.units import Slot

Standing = Literal["evidence", "none", "contradiction"]
Pieces = tuple[tuple[str, int], ...]  # what was joined, by the operation that made it, and how many channels
Mask = NDArray[np.bool_]

MOST = 0.5
"""The share of its telling numbers from which on a norm is of the same statistics as another.

Trained kin share all; norms that are no kin share none in float32. In float16, with some 2,000 values between 0.1 and
10, a number is equal by chance once in 500 at most, and half of `LEAST` numbers less than once in 10⁸.
"""
LEAST = 8
"""Telling numbers that two norms must share to be compared at all: see `MOST`."""
CLOSE = 1e-5
"""Of a channel's deviation (mean) or of its variance: what another order of summing in float32 may change.

A sum of 10⁷ numbers in pairs is off by 24 roundings of 6e-8 at most, 1.4e-6; in partial sums a few times that. Two
channels that are no kin are as close in one pair of 10⁵.
"""
EPSILONS = (1e-5, 1.001e-5, 1.1e-5, 2e-5, 1e-3)
"""The epsilons in use: what a converted file may have absorbed and given back is a difference of two."""
PRECISIONS = {2.0**-10: np.float16, 2.0**-23: np.float32}
"""The distance of 1 from the next number → its type."""
FEW = 0.1
"""The share of a norm's numbers up to which a difference of rounding is damage, and above which it is rounding.

Another order of summing changes most numbers (80 of 100 in float32, 64·32·32 values a batch); damage changes a few.
"""


class Dissent(NamedTuple):
    """A norm that has not the numbers of its kin: in which channels of how many, counted from 0 in the file's order.

    `turned` says that its mean is its kin's variance, and its variance its kin's mean.
    """

    norm: str
    kin: str
    channels: tuple[int, ...]
    compared: int
    turned: bool = False

    def __str__(self) -> str:
        """`block2.layer5.norm1: 2 of 132 channels differ from block2.layer4.norm1's: 17, 94`."""
        if self.turned:
            return f"{self.norm}: mean and variance are exchanged: its mean is {self.kin}'s variance"
        count, shown = len(self.channels), ", ".join(map(str, self.channels[:8]))
        if count == self.compared:
            return f"{self.norm}: none of {count} channels has the statistics that {self.kin} has for it"
        verb = "differs" if count == 1 else "differ"
        return f"{self.norm}: {count} of {self.compared} channels {verb} from {self.kin}'s: {shown}" + (
            ", …" if count > len(self.channels[:8]) else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What was compared, and what it says.

    `order` is the order of concatenation that explains the statistics, None where none does. `norms` have kin before
    them; of those `inheriting` have all the statistics of their kin. Of `compared` numbers (a mean and a variance for
    each channel that a kin has read before) `equal` are the same bits or, in `absorbed` norms, variances that differ by
    one constant as an absorbed epsilon's do; `close` differ as rounding does; `chance` would be equal if each number
    stood with another channel. `dissents` contradict the rest. `anew` are norms from which on a block has other
    statistics than before, all of them, as where training went on from there.
    """

    order: Concatenation | None
    norms: int
    inheriting: int
    compared: int
    equal: int
    close: int
    absorbed: int
    chance: float
    dissents: tuple[Dissent, ...]
    anew: tuple[str, ...]

    @property
    def verdict(self) -> Standing:
        """`evidence`, `contradiction` where most numbers inherit and some do not, `none` where nothing tells."""
        if self.order is None:
            return "none"
        return "contradiction" if self.dissents else "evidence"


def inherit(network: Graph, statistics: Mapping[str, tuple[Array, Array]]) -> Inheritance:
    """How far the norms of a network have the statistics of their kin, under the order that explains more of them.

    `statistics` gives norm → running mean and variance (`c`, float, as the file has them and in the file's order);
    norms that are not given are left out.
    """
    old_first = _look(network, statistics, "old-first")
    if old_first.order and old_first.inheriting == old_first.norms:
        return old_first
    new_first = _look(network, statistics, "new-first")
    return max(old_first, new_first, key=lambda one: (one.order is not None, one.equal + one.close))


def statistics_of(network: Graph, weights: Mapping[Slot, Array]) -> dict[str, tuple[Array, Array]]:
    """The mean and the variance of each norm of a network, by its unit."""
    norms = [unit.name for unit in network.units.values() if unit.kind == "norm"]
    return {name: (weights[Slot(name, "mean")], weights[Slot(name, "variance")]) for name in norms}


def sources(network: Graph) -> dict[str, Pieces]:
    """Operation → the pieces that it puts out, old channels first; but for a concatenation it is its own piece."""
    carried: dict[str, Pieces] = {IMAGES: ((IMAGES, network.channels),)}
    for name, step in network.operations.items():
        joined = tuple(piece for read in step.inputs for piece in carried[read])
        carried[name] = joined if step.kind == "concat" else ((name, step.channels),)
    return carried


def _look(network: Graph, statistics: Mapping[str, tuple[Array, Array]], order: Concatenation) -> Inheritance:
    """What one order of concatenation makes of the statistics."""
    families = _families(network, statistics, order)
    pairs = [pair for family in families for pair in family.kin()]
    is_evidence = any(len(group) > 1 for family in families for group in family.groups)
    return Inheritance(
        order=order if is_evidence else None,
        norms=len(pairs),
        inheriting=sum(bool(pair.close.all()) for pair in pairs),
        compared=sum(pair.equal.size for pair in pairs),
        equal=sum(int(pair.equal.sum()) for pair in pairs),
        close=sum(int((pair.close & ~pair.equal).sum()) for pair in pairs),
        absorbed=sum(pair.is_absorbed for pair in pairs),
        chance=sum(pair.chance for pair in pairs),
        dissents=tuple(dissent for family in families for dissent in family.dissents()),
        anew=tuple(name for family in families for name in family.anew()),
    )


def _families(network: Graph, statistics: Mapping[str, tuple[Array, Array]], order: Concatenation) -> "list[_Family]":
    """The norms, by the source that they read first."""
    carried, columns = sources(network), channel_order(network, order, "h w c")
    families: dict[str, list[_Norm]] = {}
    for name, values in statistics.items():
        pieces = carried[network.operations[name].inputs[0]]
        norm = _Norm(name, pieces, values, columns.get(name))
        families.setdefault(pieces[0][0], []).append(norm)
    return [_Family(norms) for norms in families.values()]


class _Norm:
    """A norm's statistics (`2 c`, mean and variance, float64) with old channels first."""

    def __init__(self, name: str, pieces: Pieces, statistics: tuple[Array, Array], columns: Array | None) -> None:
        self.name = name
        self.pieces = pieces
        self.columns = np.arange(len(statistics[0])) if columns is None else columns
        self.precision = _precision(np.asarray(statistics[1]))
        with np.errstate(invalid="ignore"):  # a signalling NaN is a number like any other here
            self.values = np.stack([np.asarray(one, np.float64)[self.columns] for one in statistics])
        self.bits = self.values.view(np.int64)

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """How many channels have a number (`2 c`)."""
        return np.stack([_counts(row) for row in self.bits])

    def shared(self, other: "_Norm") -> int:
        """How many channels both read, from the first on."""
        count = min(len(self.pieces), len(other.pieces))
        if self.pieces[:count] == other.pieces[:count]:
            return min(len(self.columns), len(other.columns))
        alike = takewhile(lambda both: both[0] == both[1], zip(self.pieces, other.pieces, strict=False))
        return sum(piece[1] for piece, _ in alike)


class _Pair:
    """Two norms, number by number (`2 c` of the channels that both read)."""

    def __init__(self, one: _Norm, other: _Norm) -> None:
        self.one, self.other = one, other
        self.width = width = one.shared(other)
        before, after = one.values[:, :width], other.values[:, :width]
        self.equal: Mask = one.bits[:, :width] == other.bits[:, :width]
        self.kept: Mask = self.equal
        self.close: Mask = self.equal
        self.is_absorbed = False
        if not self.equal.all() and _near_mean([*before], [*after]).sum() >= MOST * width:
            with np.errstate(all="ignore"):  # what is infinite is near nothing
                self._look_closer(before, after, max(one.precision, other.precision))

    def _look_closer(self, before: Array, after: Array, precision: float) -> None:
        """Tell an absorbed epsilon, and rounding, from other differences."""
        added, is_shifted = _shift(before[1], after[1], precision)
        if self.equal[1].sum() < MOST * self.width <= is_shifted.sum():
            self.equal[1], self.is_absorbed = is_shifted, True
        self.kept = np.stack([self.equal[0], self.equal[1] | _is_given_back(before[1], after[1], precision)])
        is_near = np.abs(after[1] - before[1] - added) <= CLOSE * before[1]
        self.close = self.kept | np.stack([_near_mean([*before], [*after]), is_near])

    def same(self, *, strict: bool) -> Mask:
        """Which numbers are the same: the same bits, or but for rounding."""
        return self.kept if strict else self.close

    @property
    def is_kin(self) -> bool:
        """Whether most numbers that tell, those that no other channel has, are the same."""
        if self.close.sum() < LEAST:
            return False
        telling = (self.one.counts[:, : self.width] == 1) & (self.other.counts[:, : self.width] == 1)
        count = int(telling.sum())
        return count >= LEAST and int((self.close & telling).sum()) >= MOST * count

    @property
    def chance(self) -> float:
        """How many numbers would be equal if each stood with another channel of the earlier norm."""
        counts = self.one.counts
        return float(((counts[:, : self.width] - 1) / max(counts.shape[1] - 1, 1)).sum())


class _Family:
    """The norms that read one source, in order of execution, in groups that have the same statistics."""

    def __init__(self, norms: list[_Norm]) -> None:
        self.norms = norms
        self.pairs: dict[tuple[int, int], _Pair] = {}
        self.groups: list[list[int]] = []
        for place in range(len(norms)):
            kin = (group for group in self._comparable(place) if self.pair(group[-1], place).is_kin)
            group = next(kin, None)
            if group is None:
                self.groups.append(group := [])
            group.append(place)

    def _comparable(self, place: int) -> Iterator[list[int]]:
        """The groups whose statistics a norm may have, the latest first.

        Trained norms are mostly of the latest. Those that nobody trained are of none, and are ruled out all at once.
        """
        yield from self.groups[-1:]
        if len(self.groups) > 1:
            may_be = self._may_be_kin(place)
            yield from (group for group in reversed(self.groups[:-1]) if may_be[group[-1]])

    def _may_be_kin(self, place: int) -> Mask:
        """Which of the norms before one it can be kin of, as `_Pair` has it: enough equal numbers, or near means."""
        norm = self.norms[place]
        others = self._table[:place, :, : norm.values.shape[1]]
        equal = (others.view(np.int64) == norm.bits).sum((1, 2))
        near = _near_mean([others[:, 0], others[:, 1]], [*norm.values]).sum(1)
        widths = np.array([other.shared(norm) for other in self.norms[:place]])
        mask: Mask = (equal >= LEAST) | (near >= MOST * widths)
        return mask

    @cached_property
    def _table(self) -> Array:
        """The statistics of all norms (`n 2 c`), NaN beyond the channels that one has."""
        table = np.full((len(self.norms), 2, max(norm.values.shape[1] for norm in self.norms)), np.nan)
        for row, norm in zip(table, self.norms, strict=True):
            row[:, : norm.values.shape[1]] = norm.values
        return table

    def pair(self, one: int, other: int) -> _Pair:
        """Two of the norms."""
        key = (min(one, other), max(one, other))
        if key not in self.pairs:
            self.pairs[key] = _Pair(self.norms[key[0]], self.norms[key[1]])
        return self.pairs[key]

    def kin(self) -> list[_Pair]:
        """Each norm but the first with the one before it: of its own group, if there is one."""
        before = {after: one for group in self.groups for one, after in pairwise(group)}
        return [self.pair(before.get(place, place - 1), place) for place in range(1, len(self.norms))]

    def anew(self) -> Iterator[str]:
        """The first norms of groups that stand behind all of the group before them."""
        for group, after in pairwise(self.groups):
            is_behind = max(len(group), len(after)) > 1 and group[-1] < after[0] and not self._host(after)
            is_other = not self.pair(group[-1], after[0]).close.all()  # few bits leave the same numbers no telling ones
            if is_behind and is_other and not (self._turned(group) or self._turned(after)):
                yield self.norms[after[0]].name

    def dissents(self) -> Iterator[Dissent]:
        """The norms that have not the statistics of those around them, and the numbers that are not their kin's."""
        for group in self.groups:
            if turned := self._turned(group):
                yield turned
            elif host := self._host(group):
                for place in group:
                    before = max(other for other in host if other < place)
                    yield self._dissent(place, before, range(self.pair(before, place).width))
            yield from self._single(group)

    def _turned(self, group: list[int]) -> Dissent | None:
        """A norm alone whose mean and variance are those of the norm beside it, exchanged; None where it is not so."""
        place = group[0]
        for beside in (place - 1, place + 1) if len(group) == 1 else ():
            if 0 <= beside < len(self.norms):
                one, other = self.norms[place], self.norms[beside]
                width = one.shared(other)
                telling = (one.counts[::-1, :width] == 1) & (other.counts[:, :width] == 1)
                same = telling & (one.bits[::-1, :width] == other.bits[:, :width])
                if same.sum() >= max(LEAST, MOST * telling.sum()):
                    return Dissent(one.name, other.name, tuple(range(width)), width, turned=True)
        return None

    def _host(self, group: list[int]) -> list[int] | None:
        """The larger group among whose norms all of a group stand; None without one."""
        around = (other for other in self.groups if other[0] < group[0] and group[-1] < other[-1])
        return next((other for other in around if len(other) > len(group)), None)

    def _single(self, group: list[int]) -> Iterator[Dissent]:
        """The norms of a group that have single numbers which are not their kin's."""
        strict = self._is_strict(group)
        strays: dict[int, tuple[set[int], list[int]]] = {}
        for row, column in self._torn(group, strict=strict):
            readers = [place for place in group if column < self.norms[place].values.shape[1]]
            classes = self._classes(readers, row, column, strict=strict)
            usual = max(classes, key=len)
            for place in set(readers) - set(usual):
                channels, kin = strays.setdefault(place, (set(), usual))
                channels.add(column)
                kin[:] = [other for other in kin if other in usual] or usual
        for place, (channels, kin) in sorted(strays.items()):
            near = min(kin, key=lambda other: (other > place, abs(other - place)))
            yield self._dissent(place, near, channels)

    def _is_strict(self, group: list[int]) -> bool:
        """Whether numbers of a group must be the same bits: not where more than a few differ as rounding does."""
        pairs = [self.pair(*two) for two in pairwise(group)]
        rounded = sum(int((pair.close & ~pair.equal).sum()) for pair in pairs)
        return rounded <= FEW * sum(pair.equal.size for pair in pairs)

    def _torn(self, group: list[int], *, strict: bool) -> list[tuple[int, int]]:
        """Where, by row and column, one norm of a group differs from the next."""
        places: set[tuple[int, int]] = set()
        for two in pairwise(group):
            same = self.pair(*two).same(strict=strict)
            places.update((int(row), int(column)) for row, column in np.argwhere(~same))
        return sorted(places)

    def _classes(self, readers: list[int], row: int, column: int, *, strict: bool) -> list[list[int]]:
        """Norms, in classes that have the same number."""
        classes: list[list[int]] = []
        for place in readers:
            same = (one for one in classes if self.pair(one[0], place).same(strict=strict)[row, column])
            kin = next(same, None)
            if kin is None:
                classes.append(kin := [])
            kin.append(place)
        return classes

    def _dissent(self, place: int, near: int, channels: Collection[int]) -> Dissent:
        """The words for a norm's channels, in the file's order."""
        norm, pair = self.norms[place], self.pair(near, place)
        numbers = sorted(int(norm.columns[channel]) for channel in channels)
        return Dissent(norm.name, self.norms[near].name, tuple(numbers), pair.width)


def _counts(row: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each number of a row, how often it is there."""
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    repeats: NDArray[np.intp] = counts[inverse]
    return repeats


def _near_mean(before: Sequence[Array], after: Sequence[Array]) -> Mask:
    """Which means differ by no more than rounding does, of the deviation or of themselves, given mean and variance."""
    with np.errstate(all="ignore"):
        size = np.maximum(np.sqrt(before[1]), np.abs(before[0]))
        near: Mask = np.abs(after[0] - before[0]) <= CLOSE * size
    return near


def _precision(values: Array) -> float:
    """The distance of 1 from the next number of the type that values were stored in; bfloat16 is widened to float32."""
    if values.dtype == np.float32 and not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any():
        return 2.0**-7
    return float(np.finfo(values.dtype).eps)


def _ulp(values: Array, precision: float) -> Array:
    """The distance of values from the next larger number of a type."""
    exponents = np.frexp(np.where(np.isfinite(values), values, 0))[1]
    distance: Array = np.ldexp(precision, exponents - 1)
    return distance


def _shift(before: Array, after: Array, precision: float) -> tuple[float, Mask]:
    """The constant by which variances (`c`) differ, and which of them differ by that alone, but for its rounding.

    Rounding changes a variance by half an ULP where the constant was added. The constant is taken from the quarter of
    smallest variances, whose median is off by half an ULP of the largest of them at most.
    """
    with np.errstate(all="ignore"):
        change, larger = after - before, np.maximum(before, after)
        small = np.argsort(larger)[: -(-len(larger) // 4)]
        added = np.median(change[small])
        bound = (_ulp(larger, precision) + _ulp(larger[small], precision).max()) / 2
        return float(added), np.abs(change - added) <= bound


def _is_given_back(before: Array, after: Array, precision: float) -> Mask:
    """Which variances (`c`) differ as those do that absorbed an epsilon and gave it back, rounded twice; all or none.

    Where adding the change of epsilon carries a variance over a power of two, its last bit is lost.
    """
    kind = np.dtype(PRECISIONS.get(precision, np.float64))
    narrow = before.astype(kind), after.astype(kind)
    for source, target in permutations(EPSILONS, 2):
        for one, other in (narrow, narrow[::-1]):
            back = (one + np.float64(source - target)).astype(kind) - np.float64(source - target)
            if np.array_equal(back.astype(kind), other):
                return np.ones(len(before), np.bool_)
    return np.zeros(len(before), np.bool_)
