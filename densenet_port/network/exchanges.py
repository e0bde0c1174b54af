"""Which modules of a trained network stand in each other's places, and which belong together, by their moments.

A module that stands where another belongs makes a bad prediction, or is predicted badly; the two that are exchanged are
those that fit when they are put back. `assign` places what shapes leave open.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from densenet_port.checkpoint import Array
from densenet_port.network.graph import Graph
from densenet_port.network.moments import (
    Affine,
    Moments,
    Reading,
    Step,
    median,
    rectified,
    swapped_affine,
    swapped_statistics,
)

STRANGE = 0.15
"""From which residual on one step is bad, where it is `UNUSUAL` too.

Measured over the steps of trained networks: right 0.16 at most through 1×1 convolutions, 0.33 through 3×3 ones."""
UNUSUAL = 5.0
"""How many times the median residual of a network's steps of the same kernel a bad one is. Measured: right 6.3 at most,
and 2 to 4 in most networks; what makes it an exchange is that another place is right for it."""
STRAY = 0.2
"""From which residual on one channel is bad, where it is `OUTLYING` too."""
OUTLYING = 8.0
"""How many times the median of its step's channels a bad one's is."""
BETTER = 3.0
"""How many times smaller a residual must be when two change places. Measured: no two places of a trained network that
are right are both better so."""


class Exchange(NamedTuple):
    """Two modules, vectors or channels that are exchanged: what, of which units, and the residual before and after.

    `steps` are the convolutions whose predictions show it.
    """

    what: str
    units: tuple[str, ...]
    steps: tuple[str, ...]
    before: float
    after: float

    def __str__(self) -> str:
        """`block2.layer3.norm2 and block2.layer5.norm2 are exchanged: residual 0.91 as they stand, 0.02 exchanged`."""
        residuals = f"residual {self.before:.2f} as it is, {self.after:.2f} exchanged"
        if len(self.units) == 1:
            return f"{self.units[0]}: {self.what} are exchanged: {residuals}"
        return f"{self.units[0]} and {self.units[1]}{self.what} are exchanged: {residuals}"


class Assignment(NamedTuple):
    """For each prediction: the place of what belongs to it, the residual, and the next best's residual (`n`)."""

    places: NDArray[np.intp]
    residuals: Array
    next_best: Array

    @property
    def margin(self) -> float:
        """The smallest of all next best residuals over their best; how sure the least sure is."""
        return float(np.min(self.next_best / np.maximum(self.residuals, 1e-9), initial=np.inf))


def assign(predicted: Array, stored: Array, deviation: Array) -> Assignment:
    """Which of several stored means belongs to which prediction, each to one: the nearest pairs first.

    `predicted` is `n c`, `stored` and its `deviation` are `m c` with m ≥ n: the channels' means behind n convolutions,
    and those that m norms, or pieces of norms, have for the channels that they read.
    """
    costs = residuals(predicted, stored, deviation)
    places = np.full(len(predicted), -1)
    open_costs = costs.copy()
    for _ in range(len(predicted)):
        row, column = np.unravel_index(np.argmin(open_costs), costs.shape)
        places[row] = column
        open_costs[row], open_costs[:, column] = np.inf, np.inf
    best = costs[np.arange(len(costs)), places]
    others = costs.copy()
    others[np.arange(len(costs)), places] = np.inf
    return Assignment(places, best, others.min(axis=1))


def residuals(predicted: Array, stored: Array, deviation: Array) -> Array:
    """The residual of each prediction (`n c`) with each of the stored means (`m c`): `n m`."""
    with np.errstate(all="ignore"):
        off = np.abs(predicted[:, None] - stored[None]) / deviation[None]
        costs: Array = np.median(np.nan_to_num(off, nan=np.inf), axis=2)
    return costs


def exchanged(moments: Moments) -> tuple[Exchange, ...]:
    """The modules, vectors and channels of a network whose predictions are bad, and good when they change places.

    Its statistics must be trained ones. A norm that stands behind a concatenation is left to inheritance.
    """
    with np.errstate(all="ignore"):
        places = [_Place(moments, step) for step in moments.steps if _is_inner(moments.network, step)]
        strange = _strange(places)
        pairs = [one for two in combinations(strange, 2) for one in _pair(*two)]
        alone = [one for place in strange for one in place.vectors()]
        channels = [one for place in places if place not in strange for one in place.channels()]
    return tuple(_distinct(sorted(pairs + alone, key=lambda one: one.after)) + channels)


def _strange(places: "list[_Place]") -> "list[_Place]":
    """The steps whose residual is bad, and far from usual among those of their kernel."""
    strange = []
    for kernel in sorted({place.kernel for place in places}):
        same = [place for place in places if place.kernel == kernel]
        limit = max(STRANGE, UNUSUAL * median(np.array([place.residual for place in same])))
        strange += [place for place in same if place.residual >= limit]
    return strange


def _is_inner(network: Graph, step: Step) -> bool:
    """Whether a step leads from a norm through a convolution to another, without a pool."""
    return step.operations == ("relu", "conv") and step.before in network.operations


def _distinct(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The best explanation of each step, the best first; what explains two steps is told once."""
    explained: set[str] = set()
    told: list[Exchange] = []
    for one in exchanges:
        if not explained.issuperset(one.steps):
            explained.update(one.steps)
            told.append(one)
    return told


class _Place:
    """A step with what its ends and its kernel say, and how well they go together."""

    def __init__(self, moments: Moments, step: Step) -> None:
        self.moments = moments
        self.step = step
        self.start = moments.norm(step.before)
        self.end = moments.norm(step.norm).part(step.start, step.stop)
        self.kernel = moments.network.operations[step.source].kernel
        self.predicted = moments.summed(step, moments.predicted(step, Reading()), moments.side)
        self.residual = _off(self.predicted, self.end)

    def through(self, start: Affine, step: Step) -> Array:
        """The mean behind the kernel of a step, from a norm, on the map of this step."""
        mean = rectified(start.shift, start.scale)
        return self.moments.summed(self.step, self.moments.products(step, mean[None])[:, 0], self.moments.side)

    def vectors(self) -> Iterator[Exchange]:
        """Vectors of the norms at its ends that are exchanged; one that reads more is left to inheritance."""
        end = _off(self.predicted, swapped_statistics(self.end))
        if _is_better(self.residual, end) and len(self.end.mean) == len(self.moments.norm(self.step.norm).mean):
            yield self.exchange("mean and variance", self.step.norm, self.residual, end)
        start = _off(self.through(swapped_affine(self.start), self.step), self.end)
        if _is_better(self.residual, start):
            yield self.exchange("scale and shift", self.step.before, self.residual, start)

    def channels(self) -> Iterator[Exchange]:
        """Pairs of channels that are exchanged."""
        off = np.abs(self.predicted - self.end.mean) / self.end.deviation
        strays = np.flatnonzero(off >= max(STRAY, OUTLYING * median(off)))
        for one, other in combinations(strays, 2):
            pair, turned = np.array([one, other]), np.array([other, one])
            after = np.max(np.abs(self.predicted[pair] - self.end.mean[turned]) / self.end.deviation[turned])
            if _is_better(float(off[pair].min()), float(after)):
                what = f"channels {self.step.start + one} and {self.step.start + other}"
                yield self.exchange(what, self.step.norm, float(off[pair].min()), float(after))

    def exchange(self, what: str, unit: str, before: float, after: float) -> Exchange:
        """An exchange within one norm."""
        return Exchange(what, (unit,), (self.step.source,), before, after)


def _off(predicted: Array, end: Affine) -> float:
    """The residual of a prediction; infinite where it is no number."""
    off = np.abs(predicted - end.mean) / end.deviation
    return median(np.where(np.isnan(off), np.inf, off))


def _is_better(before: float, after: float) -> bool:
    """Whether an exchange makes a bad residual good."""
    return isfinite(after) and after * BETTER <= before


def _pair(one: _Place, other: _Place) -> Iterator[Exchange]:
    """What two strange steps of the same sizes have exchanged."""
    if one.kernel != other.kernel or len(one.predicted) != len(other.predicted):
        return
    before, steps = min(one.residual, other.residual), (one.step.source, other.step.source)
    ends = max(_off(one.predicted, other.end), _off(other.predicted, one.end))
    if _is_better(before, ends):
        is_whole = one.kernel == 1  # a norm behind a 3×3 convolution reads more than that
        names = (one.step.norm, other.step.norm) if is_whole else steps
        yield Exchange("" if is_whole else " with the norms before them", names, steps, before, ends)
    if len(one.start.shift) == len(other.start.shift):
        kernels = max(
            _off(one.through(one.start, other.step), one.end), _off(other.through(other.start, one.step), other.end)
        )
        if _is_better(before, kernels):
            yield Exchange("", steps, steps, before, kernels)
