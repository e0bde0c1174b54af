"""Why the modules of a file make no DenseNet: where the chain of convolutions breaks, in a DenseNet's words."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from densenet_port.errors import MisfitError
from densenet_port.layouts.chain import Chain, Size, chains, furthest
from densenet_port.layouts.closing import Words, body_name, inferred, networks_in, size_of, sized
from densenet_port.layouts.layout import SPLIT
from densenet_port.layouts.modules import Grouping
from densenet_port.layouts.placement import Sized, sizes_of
from densenet_port.layouts.scan import ROOT
from densenet_port.network.architecture import Architecture

CHANCE = 3  # dense layers: fewer may be there by chance
WIDE = (2, 3)  # sides of kernels with which some replace a transition's convolution and pool
HINT = (
    "only a DenseNet is converted; if it is one, a table of your own names its tensors "
    "(--mapping, see docs/add-a-layout.md)"
)


def refusal(groups: Grouping, orders: Sequence[str], choices: Words) -> MisfitError:
    """Why the modules make no DenseNet: the first thing that is amiss, in at most two lines, and the next step."""
    parts = networks_in(groups, choices)
    if len(parts) > 1:
        listed = ", ".join(f"{prefix or ROOT!r} ({body_name(architecture)})" for prefix, architecture in parts.items())
        ways = " or ".join(f"--within {prefix.rstrip(SPLIT) or ROOT}" for prefix in parts)
        return MisfitError(f"{len(parts)} networks in one file, under {listed}", hint=f"say which one to take: {ways}")
    if len(parts) == 1:
        ((prefix, architecture),) = parts.items()
        return MisfitError(
            f"beside a DenseNet {body_name(architecture)} under {prefix!r} stand convolutions that are none of its",
            hint=f"--within {prefix.rstrip(SPLIT)} takes the network there",
        )
    convs = [module for module in groups.modules if module.kind == "conv"]
    if not convs:
        return MisfitError(_tally(groups), hint=HINT)
    best = max((_furthest(sized(groups, order)) for order in orders), key=lambda way: way.depth)
    return MisfitError(best.message, hint=HINT)


class _Failure(NamedTuple):
    """How many dense layers there are, and what stops them."""

    depth: int
    message: str


def _furthest(modules: Sequence[Sized]) -> _Failure:
    """How far the convolutions are a DenseNet's under an order of axes, and what stops them."""
    convs = [one for one in modules if one.module.kind == "conv"]
    kernels = Counter(size_of(one) for one in convs)
    norms = [one for one in modules if one.module.kind == "norm"]
    if closed := [one for chain in chains(kernels) if (one := inferred(chain, len(norms)))]:
        return _Failure(len(convs), min((_other_norms(norms, one) for one in closed), key=len))
    chain = furthest(kernels)
    if chain is None or chain.depth < CHANCE:
        count = chain.depth if chain else 0
        layer = f" ({_named(convs, chain.kernels[-1])})" if chain else ""
        return _Failure(
            count,
            f"no chain of convolutions that each add the same number of channels: among its {len(convs)} the longest "
            f"is {count} layer{'' if count == 1 else 's'}{layer}",
        )
    if chain.left:
        return _Failure(chain.depth, _broken(convs, chain))
    return _Failure(chain.depth, "its convolutions chain, but no numbers of a DenseNet give their sizes")


def _named(convs: Sequence[Sized], size: Size) -> str:
    """The first convolution of a size."""
    return next(one.module.title for one in convs if size_of(one) == size)


def _broken(convs: Sequence[Sized], chain: Chain) -> str:
    """Where a chain breaks, and on what."""
    channels, place = chain.channels, f"block{len(chain.layers)}.layer{chain.layers[-1]}"
    read = {channels, *(size.inputs for size in chain.kernels)}
    for size in chain.left:
        if _is_of_a_layer(size, chain):
            expected = size._replace(outputs=chain.growth)
            return f"{_named(convs, size)} is no dense layer's as the others are: expected {expected}, found {size}"
        if size.side in WIDE and size.inputs in read and size.outputs < size.inputs and size.outputs != chain.growth:
            name = _named(convs, size)
            return f"its transition {name} has a {size.side}×{size.side} kernel, expected 1×1 ({size.inputs} channels)"
    last = max(place for place, one in enumerate(convs) if size_of(one) == chain.kernels[-1])
    left = [one for one in [*convs[last:], *convs[:last]] if size_of(one) in chain.left]
    return (
        f"its convolutions chain as a DenseNet's up to {place}, which leaves {channels} channels\n  "
        f"expected a convolution that reads {channels}, or none; found {left[0].module.title} ({size_of(left[0])})"
        + (f" and {len(left) - 1} more" if len(left) > 1 else "")
    )


def _is_of_a_layer(size: Size, chain: Chain) -> bool:
    """Whether a kernel would be a layer's with a bottleneck, did it not add another number of channels."""
    return size.side == WIDE[-1] and size.inputs == chain.width and size.outputs != chain.growth


def _other_norms(norms: Sequence[Sized], architecture: Architecture) -> str:
    """What is amiss with the norms of a network whose convolutions are a DenseNet's."""
    units = [unit for unit in architecture.units.values() if unit.kind == "norm"]
    there, due = Counter(one.sizes for one in norms), Counter(map(sizes_of, units))
    start = f"its convolutions are those of a DenseNet {body_name(architecture)}, its norms are not: "
    count = f"expected {len(units)}, found {len(norms)}"
    if missing := due - there:
        unit = next(unit for unit in units if sizes_of(unit) in missing)
        return f"{start}{count}\n  there is none for {unit.name}, of {unit.sizes['c']} channels"
    one = next((one for one in norms if one.sizes in there - due), None)
    return f"{start}{count}" + (f"\n  {one.module.title}, of {one.sizes[1]} channels, has no place" if one else "")


def _tally(groups: Grouping) -> str:
    """What there is of a file without convolutions."""
    kinds = Counter(module.kind for module in groups.modules)
    counts = {"norm": kinds["norm"], "dense layer": kinds["dense"], "other tensor": len(groups.left)}
    listed = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items())
    return f"it has no convolutions: {listed}" if any(counts.values()) else "it has no tensors"
