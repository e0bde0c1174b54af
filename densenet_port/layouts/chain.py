"""The numbers of a DenseNet from its kernels' sizes alone, in whatever order they stand.

The k-th dense layer of a block reads what the block reads and k − 1 growth rates more; a transition reads what the
block's last layer leaves. So the kernels chain, from the stem's on. All chains are tried that use every kernel.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from densenet_port.network.graph import STEMS

MOST = 20_000  # layers that are tried in all: files that were made to take long are left
MOST_WAYS = 16  # ways to build layers that are tried, by the number of kernels; a DenseNet's own leads by far
MOST_BLOCKS = 100  # blocks of a network; published ones have five at most


class Size(NamedTuple):
    """A kernel's: places along a side, channels read and put out."""

    side: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        """`3×3, 64 to 32 channels`."""
        return f"{self.side}×{self.side}, {self.inputs} to {self.outputs} channels"


class Chain(NamedTuple):
    """Kernels in order of execution, what is left of those given, and how many dense layers each block has.

    `channels` are those that the last layer leaves, `growth` those that each adds; `width` is that of the 1×1
    convolutions, 0 without them.
    """

    kernels: tuple[Size, ...]
    left: Mapping[Size, int]
    layers: tuple[int, ...]
    channels: int
    growth: int
    width: int

    @property
    def depth(self) -> int:
        """How many dense layers it has."""
        return sum(self.layers)


class _Way(NamedTuple):
    """How layers are built: the growth rate, and the width of the 1×1 convolution, 0 without one."""

    growth: int
    width: int

    def layer(self, channels: int) -> tuple[Size, ...]:
        """The kernels of a layer that reads so many channels."""
        if self.width:
            return Size(1, channels, self.width), Size(3, self.width, self.growth)
        return (Size(3, channels, self.growth),)

    def has(self, size: Size) -> bool:
        """Whether a wide kernel can be a layer's."""
        return size.side == 3 and size.outputs == self.growth and self.width in (0, size.inputs)


def chains(kernels: Counter[Size], spare: int = 0) -> list[Chain]:
    """The chains of dense layers that kernels make behind a stem and that leave no more than `spare` of them."""
    search = _Search(kernels, spare)
    seen: dict[tuple[Size, ...], Chain] = {}
    stems = list(_stems(kernels))
    longest = max(map(len, stems), default=0)
    for way in _ways(kernels):
        others = Counter({size: number for size, number in kernels.items() if size.side > 1 and not way.has(size)})
        if others.total() <= spare + longest:
            for stem in stems:
                if (others - Counter(stem)).total() <= spare:
                    seen |= {one.kernels: one for one in search.chains(stem, way)}
    return sorted(seen.values(), key=lambda one: sum(one.left.values()))


def furthest(kernels: Counter[Size]) -> Chain | None:
    """The chain that takes most kernels, whatever is left: where a network stops being a DenseNet; None without any.

    It begins with a kernel that reads as few channels as any, as pictures have.
    """
    search = _Search(kernels, kernels.total())
    fewest = min((size.inputs for size in kernels), default=0)
    best: Chain | None = None
    for stem in _stems(kernels):
        for way in _ways(kernels) if stem[0].inputs == fewest else ():
            for one in search.chains(stem, way):
                if best is None or len(one.kernels) > len(best.kernels):
                    best = one
    return best


def _stems(kernels: Counter[Size]) -> Iterator[tuple[Size, ...]]:
    """What may be a stem: a kernel wider than 1×1, or several that read one another as those of a stem do."""
    for size in kernels:
        if size.side > 1 and size.side % 2:
            yield (size,)
    for stem in STEMS.values():
        if len(stem.convs) > 1:
            yield from _several(kernels, [conv.kernel for conv in stem.convs])


def _several(kernels: Counter[Size], sides: list[int], before: tuple[Size, ...] = ()) -> Iterator[tuple[Size, ...]]:
    """Kernels of these sides that read one another, the first more than it reads."""
    if len(before) == len(sides):
        yield before
        return
    for size in kernels:
        follows = size.inputs == before[-1].outputs if before else size.inputs < size.outputs
        if size.side == sides[len(before)] and follows and kernels[size] > before.count(size):
            yield from _several(kernels, sides, (*before, size))


def _ways(kernels: Counter[Size]) -> Iterator[_Way]:
    """How the layers may be built: those of which there are most first."""
    spatial = Counter({size: number for size, number in kernels.items() if size.side == 3})
    growths: Counter[int] = Counter()
    for size, number in spatial.items():
        growths[size.outputs] += number
    for size, _ in spatial.most_common(MOST_WAYS):
        yield _Way(size.outputs, size.inputs)
    for growth, _ in growths.most_common(MOST_WAYS):
        yield _Way(growth, 0)


_Path = tuple[tuple[Size, ...], ...]


class _Search:
    """Blocks one after the other, depth first. `rest` are the kernels not yet taken, `tried` the layers that were."""

    def __init__(self, kernels: Counter[Size], spare: int) -> None:
        self.rest = dict(kernels)
        self.left = kernels.total()
        self.spare = spare
        self.tried = 0
        self.narrow: dict[int, list[Size]] = {}  # what can be a transition behind so many channels
        for size in kernels:
            if size.side == 1 and size.outputs <= size.inputs:
                self.narrow.setdefault(size.inputs, []).append(size)

    def chains(self, stem: tuple[Size, ...], way: _Way) -> Iterator[Chain]:
        """The chains behind a stem whose layers are built in one way."""
        if self._take(stem):
            yield from self._blocks(way, stem[-1].outputs, (stem,), ())
            self._give_back(stem)

    def _blocks(self, way: _Way, channels: int, before: _Path, layers: tuple[int, ...]) -> Iterator[Chain]:
        """The chains that go on behind `before`, from a new block on: the longest block first, then shorter ones."""
        block: list[tuple[Size, ...]] = []
        while self.tried < MOST and self._take(layer := way.layer(channels)):
            self.tried += 1
            block.append(layer)
            channels += way.growth
        if block and self.left <= self.spare:
            yield self._chain(way, (*before, *block), (*layers, len(block)), channels)
        for count in range(len(block), 0, -1):
            for size in self.narrow.get(channels, ()):
                goes_on = len(layers) < MOST_BLOCKS and self.rest.get(way.layer(size.outputs)[0])
                if goes_on and self._take((size,)):
                    path = (*before, *block[:count], (size,))
                    yield from self._blocks(way, size.outputs, path, (*layers, count))
                    self._give_back((size,))
            self._give_back(block[count - 1])
            channels -= way.growth

    def _chain(self, way: _Way, path: _Path, layers: tuple[int, ...], channels: int) -> Chain:
        """The chain of some kernels; the rest is left."""
        left = {size: number for size, number in self.rest.items() if number}
        return Chain(tuple(chain.from_iterable(path)), left, layers, channels, way.growth, way.width)

    def _take(self, sizes: tuple[Size, ...]) -> bool:
        """Take kernels, if all of them are there."""
        for place, size in enumerate(sizes):
            if not self.rest.get(size):
                self._give_back(sizes[:place])
                return False
            self.rest[size] -= 1
            self.left -= 1
        return True

    def _give_back(self, sizes: tuple[Size, ...]) -> None:
        for size in sizes:
            self.rest[size] += 1
            self.left += 1
