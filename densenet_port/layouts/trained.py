"""Modules put in the places of a trained network by its statistics alone, whatever their names and their order.

The norms of a block that read one after the other repeat the running means of the channels before them, bit for bit:
so they are known, and so is the order in which maps are joined. The mean behind an activation follows from a norm's
scale and shift, and what a kernel makes of it is the running mean of the norm behind: so each convolution finds the
norm before it and what comes behind it. Where nothing was trained, nothing is placed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.layouts.modules import Module
from densenet_port.layouts.placement import Candidates, Sized, sizes_of
from densenet_port.network.channels import CONCATENATIONS, Concatenation
from densenet_port.network.moments import rectified, summed_taps
from densenet_port.network.units import Unit

Load = Callable[[Module, str], Array]
"""A module's part in our axes (`h w i o`, `c`)."""

RIGHT = 0.25
"""The residual from which on what a kernel predicts is not the mean that a norm has: twice what right places of trained
networks have at most, 0.12; the nearest wrong place has 0.3 and more in most of them."""
SHARES = np.array([[1, share, share**2] for share in (1, 31 / 32, 15 / 16, 7 / 8, 3 / 4, 1 / 2, 0)], np.float32)
"""The share of places for which a tap at an edge and at a corner of a 3×3 kernel sees the map, on large maps and on
those of 32, 16, 8, 4, 2 places a side and of one."""
SURE = 1.5
"""How many times further off the next best place must be."""


class Placed(NamedTuple):
    """The modules of the units that are known, and the order in which the network joins maps."""

    modules: dict[str, Module]
    concatenation: Concatenation


class _Link(NamedTuple):
    """A convolution between two norms: where it starts, and the mean and deviation (`c`) that it leads to."""

    conv: str
    before: str
    mean: Array
    deviation: Array


def placed_by_statistics(units: Mapping[str, Unit], modules: Sequence[Sized], load: Load) -> Placed | None:
    """The modules of a body's units, as far as statistics tell; None where no norm repeats another's.

    There are as many modules of every size as there are units.
    """
    ways = [_Placing(units, modules, load, order) for order in CONCATENATIONS]
    best = max(ways, key=lambda way: len(way.placed))
    if not best.placed:
        return None
    best.place_convolutions()
    return Placed({unit: one.module for unit, one in best.placed.items()}, best.order)


def open_after(units: Mapping[str, Unit], modules: Sequence[Sized], placed: Mapping[str, Module]) -> Candidates:
    """What stays open behind a placement: each unit without a module, with those that it can be."""
    used = {id(module) for module in placed.values()}
    free = [one for one in modules if id(one.module) not in used]
    still = {
        name: tuple(one.module for one in free if one.sizes == sizes_of(unit))
        for name, unit in units.items()
        if name not in placed
    }
    return Candidates(placed, still)


class _Choice(NamedTuple):
    """A convolution in a place, beside a norm that comes before or behind it there, and the residual."""

    residual: float
    place: str
    conv: Sized
    norm: Sized

    def excludes(self, other: "_Choice") -> bool:
        """Whether one place or one module would be taken twice."""
        return other.place == self.place or other.conv is self.conv or other.norm is self.norm


class _Placing:
    """A placement under one order of concatenation: first the chains of norms, then the convolutions between."""

    def __init__(self, units: Mapping[str, Unit], modules: Sequence[Sized], load: Load, order: Concatenation) -> None:
        self.units, self.modules, self.load, self.order = units, modules, load, order
        self.placed: dict[str, Sized] = {}
        self.arrays: dict[tuple[int, str], Array] = {}
        self._place_chains()

    # -- norms that repeat one another ---------------------------------------------------------------------------------

    def _place_chains(self) -> None:
        """Place the norms that read a block's map, where one chain of norms is as long as the block."""
        norms = [one for one in self.modules if one.sizes[0] == "norm" and self._is_telling(one)]
        means = {self.part(one, "mean").tobytes(): one for one in norms}
        for names in self._blocks():
            sizes = [self.units[name].sizes["c"] for name in names]
            chains = [chain for one in norms if (chain := self._chain(one, sizes, means))]
            if len(chains) == 1 and len(names) > 1:
                self.placed |= dict(zip(names, chains[0], strict=True))

    def _is_telling(self, one: Sized) -> bool:
        """Whether a norm's means are not all alike."""
        mean = self.part(one, "mean")
        return len(mean) > 1 and bool((mean != mean[0]).any())

    def _blocks(self) -> Iterator[list[str]]:
        """For each block the norms that read its map as it grows, in order of execution."""
        for number in range(1, 1 + max(unit.block or 0 for unit in self.units.values())):
            start = f"block{number}.layer"
            first = [name for name in self.units if name.startswith(start) and name.endswith(".norm1")]
            behind = [name for name in (f"transition{number}.norm", "final.norm") if name in self.units]
            yield [*first, *behind[:1]]

    def _chain(self, last: Sized, sizes: Sequence[int], means: Mapping[bytes, Sized]) -> list[Sized]:
        """The norms of these sizes of which each has the means of the one before, the last one given; none if not."""
        chain = [last]
        if last.sizes[1] != sizes[-1]:
            return []
        for before, after in pairwise(reversed(sizes)):
            mean = self.part(chain[0], "mean")
            old = mean[:after] if self.order == "old-first" else mean[before - after :]
            kin = means.get(old.tobytes())
            if kin is None or kin.sizes[1] != after:
                return []
            chain.insert(0, kin)
        return chain

    # -- convolutions --------------------------------------------------------------------------------------------------

    def place_convolutions(self) -> None:
        """Place what is alone of its sizes, then what leads from norm to norm."""
        self._place_alone()
        self._place_narrow()
        self._place_links([link for name in self.units if (link := self._new_channels(name))])
        self._place_links([link for name in self.units if (link := self._transition(name))])
        self._place_alone()

    def _place_alone(self) -> None:
        """Place what is alone of its sizes."""
        for name in self._lacking():
            same = [one for one in self._free() if one.sizes == sizes_of(self.units[name])]
            others = [other for other in self._lacking() if sizes_of(self.units[other]) == sizes_of(self.units[name])]
            if len(same) == len(others) == 1:
                self.placed[name] = same[0]

    def _place_narrow(self) -> None:
        """Place each layer's first convolution and second norm: pairs in which the one predicts the other."""
        layers = [name.removesuffix(".conv2") for name in self.units if re.fullmatch(r"block.*\.conv2", name)]
        free = self._free()
        norms = [one for one in free if any(one.sizes == sizes_of(self.units[f"{layer}.norm2"]) for layer in layers)]
        if not norms:
            return
        stored = np.stack([self.part(one, "mean") for one in norms])
        deviation = np.stack([self._deviation(one) for one in norms])
        choices = []
        for layer in layers:
            start = self.placed.get(f"{layer}.norm1")
            known = self.placed.get(f"{layer}.conv1")
            for conv in (free if known is None else [known]) if start else ():
                if start and conv.sizes == sizes_of(self.units[f"{layer}.conv1"]):
                    off = _residuals(self._predicted(start, conv)[0], stored, deviation)
                    choices += [_Choice(float(one), layer, conv, norm) for one, norm in zip(off, norms, strict=True)]
        for choice in _nearest(choices):
            self.placed[f"{choice.place}.conv1"], self.placed[f"{choice.place}.norm2"] = choice.conv, choice.norm

    def _new_channels(self, conv: str) -> _Link | None:
        """What a layer's last convolution leads to: the channels that the next norm of the block reads anew."""
        layer, _, part = conv.rpartition(".")
        if not layer.startswith("block") or not part.startswith("conv") or conv in self.placed:
            return None
        before = f"{layer}.norm{part.removeprefix('conv')}"
        chain = next((names for names in self._blocks() if f"{layer}.norm1" in names), [])
        after = chain[chain.index(f"{layer}.norm1") + 1 :][:1]
        if not after or after[0] not in self.placed or before not in self.placed:
            return None
        growth = self.units[conv].sizes["o"]
        reader = self.placed[after[0]]
        new = slice(-growth, None) if self.order == "old-first" else slice(growth)
        return _Link(conv, before, self.part(reader, "mean")[new], self._deviation(reader)[new])

    def _transition(self, conv: str) -> _Link | None:
        """What a transition leads to: the channels that its next block begins with."""
        if not conv.startswith("transition") or not conv.endswith(".conv") or conv in self.placed:
            return None
        before = conv.removesuffix("conv") + "norm"
        after = f"block{(self.units[conv].block or 0) + 1}.layer1.norm1"
        if before not in self.placed or after not in self.placed:
            return None
        return _Link(conv, before, self.part(self.placed[after], "mean"), self._deviation(self.placed[after]))

    def _place_links(self, links: Sequence[_Link]) -> None:
        """Place the convolutions of links, each where what it predicts is what the link leads to."""
        blocks: dict[int | None, list[_Link]] = {}
        for link in links:
            blocks.setdefault(self.units[link.conv].block, []).append(link)
        choices = [choice for same in blocks.values() for choice in self._choices(same)]
        for choice in _nearest(choices):
            self.placed[choice.place] = choice.conv

    def _choices(self, links: Sequence[_Link]) -> "list[_Choice]":
        """The residual of each link of a block with each convolution, on maps of the size that explains most."""
        free = [[one for one in self._free() if one.sizes == sizes_of(self.units[link.conv])] for link in links]
        off = [
            np.stack([self._off(link, one) for one in there], axis=1)  # sizes of maps, convolutions
            for link, there in zip(links, free, strict=True)
        ]
        best = int(np.argmin(sum(one.min(axis=1) for one in off)))
        return [
            _Choice(float(residual), link.conv, one, self.placed[link.before])
            for link, there, rows in zip(links, free, off, strict=True)
            for one, residual in zip(there, rows[best if len(rows) > 1 else 0], strict=True)
        ]

    def _off(self, link: _Link, conv: Sized) -> Array:
        """The residual of a link through a convolution, on maps of each size (`n`)."""
        predicted = self._predicted(self.placed[link.before], conv)
        return _residuals(link.mean, predicted, link.deviation)

    def _predicted(self, norm: Sized, conv: Sized) -> Array:
        """The mean behind a norm, a ReLU and a convolution, for each of `SHARES` of places in the map (`n c`)."""
        mean = rectified(self.part(norm, "shift"), self.part(norm, "scale"))
        if (id(conv.module), "taps") not in self.arrays:
            self.arrays[id(conv.module), "taps"] = summed_taps(self.load(conv.module, "kernel").astype(np.float32))
        products = mean @ self.arrays[id(conv.module), "taps"]
        predicted: Array = products if len(products) == 1 else SHARES @ products
        return predicted

    def _deviation(self, norm: Sized) -> Array:
        """The deviation of a norm's channels (`c`)."""
        deviation: Array = np.sqrt(np.maximum(self.part(norm, "variance"), 0)) + np.float32(1e-6)
        return deviation

    def part(self, one: Sized, part: str) -> Array:
        """One of a norm's vectors (`c`, float32)."""
        key = id(one.module), part
        if key not in self.arrays:
            self.arrays[key] = self.load(one.module, part).astype(np.float32)
        return self.arrays[key]

    def _lacking(self) -> list[str]:
        return [name for name in self.units if name not in self.placed]

    def _free(self) -> list[Sized]:
        used = {id(one) for one in self.placed.values()}
        return [one for one in self.modules if id(one) not in used]


def _residuals(mean: Array, others: Array, deviation: Array) -> Array:
    """The residual of a mean (`c`) with each of several others (`n c`), in deviations: `n`."""
    with np.errstate(all="ignore"):
        off: Array = np.median(np.nan_to_num(np.abs(mean - others) / deviation, nan=np.inf), axis=1)
    return off


def _nearest(choices: "Sequence[_Choice]") -> "list[_Choice]":
    """The best of choices: the nearest first, each place and each module once.

    What is not near, or has another way that is nearly as near and still free, is left out.
    """
    chosen = []
    left = sorted(choices, key=lambda choice: choice.residual)
    while left and left[0].residual <= RIGHT:
        best, *left = left
        rivals = [other.residual for other in left if best.excludes(other)]
        if min(rivals, default=np.inf) >= SURE * best.residual:
            chosen.append(best)
            left = [other for other in left if not best.excludes(other)]
    return chosen
