"""The networks that the modules of a file make: architectures whose every convolution and norm is there.

The kernels give chains (`chain`), a chain an architecture; that must have as many norms of every length as the file.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from densenet_port.errors import MisfitError
from densenet_port.layouts.chain import Chain, Size, chains
from densenet_port.layouts.dialects import dialects
from densenet_port.layouts.layout import SPLIT, Kernels
from densenet_port.layouts.modules import Grouping, Module, common
from densenet_port.layouts.placement import Sized, sizes_of
from densenet_port.network.architecture import Architecture, infer, name_in_order

ORDERS = ("o i h w", "h w i o")  # of a file's kernels; which way they are turned is for `scan` to say
SMALLEST = 4  # convolutions of a network that is looked for beside others: a stem and a few layers
MOST_PARTS = 64  # beginnings of names that are tried as networks


class Words(NamedTuple):
    """What the user says: the architecture, how kernels are stored, no head."""

    arch: Architecture | None = None
    kernels: Kernels | None = None
    no_top: bool = False


class Network(NamedTuple):
    """A chain that closes under an order of axes: with its modules, those of the body and the head, if there is one."""

    order: str
    architecture: Architecture
    body: tuple[Sized, ...]
    head: "DenseHead | None"


class DenseHead(NamedTuple):
    """The dense layer that reads the last map's channels, and the order of its axes."""

    module: Module
    axes: str
    classes: int


def closed(groups: Grouping, choices: Words) -> list[Network]:
    """The networks that all convolutions and norms make, under each order of axes."""
    return [one for order in orders_of(groups) for one in _closing(groups, order, choices)]


def orders_of(groups: Grouping) -> list[str]:
    """The orders of axes that the file's kernels may have."""
    kernels = groups.dialect.tensors["conv"]["kernel"].axes
    known = {axes.replace("-", "") for axes in kernels} if groups.by_name else set(ORDERS)
    return [order for order in ORDERS if order in known]


def _closing(groups: Grouping, order: str, choices: Words) -> list[Network]:
    """The networks whose every convolution and norm is there, and nothing else, under an order of axes."""
    modules = sized(groups, order)
    convs = [one for one in modules if one.module.kind == "conv"]
    if not convs or len(convs) < sum(module.kind == "conv" for module in groups.modules):
        return []
    networks = []
    for chain in chains(Counter(size_of(one) for one in convs), spare=0 if choices.no_top else 1):
        if network := _network(groups, order, modules, chain, choices):
            networks.append(network)
    whole = [one for one in networks if len(one.body) == len(modules)]
    return whole or networks


def _network(groups: Grouping, order: str, modules: Sequence[Sized], chain: Chain, choices: Words) -> Network | None:
    """The network of a chain, if the norms are its own, and the one kernel that is left is its head."""
    last = [one for one in modules if one.module.kind == "conv" and size_of(one) in chain.left]
    axes = " ".join(axis if axis in "io" else "1" for axis in order.split())
    if last and not (len(last) == 1 and size_of(last[0])[:2] == (1, chain.channels) and axes in _dense_orders(groups)):
        return None
    body = [one for one in modules if one not in last]
    norms = sum(one.module.kind == "norm" for one in body)
    sizes = Counter(one.sizes for one in body)
    options = [one for final in (0, 1) if (one := inferred(chain, norms, final))]
    architecture = next((one for one in options if Counter(map(sizes_of, one.units.values())) == sizes), None)
    if architecture is None:
        return None
    head = None if choices.no_top else _head(groups, order, chain.channels)
    if last:
        head = DenseHead(last[0].module, axes, size_of(last[0]).outputs)
    classes = head.classes if head else None
    return Network(order, replace(architecture, classes=classes), tuple(body), head)


def sized(groups: Grouping, order: str) -> list[Sized]:
    """The convolutions and norms with their sizes under an order of axes, without kernels higher than wide."""
    modules = []
    for module in groups.modules:
        if module.kind == "norm":
            modules.append(Sized(module, ("norm", *module.shape)))
        elif module.kind == "conv":
            sizes = dict(zip(order.split(), module.shape, strict=True))
            if sizes["h"] == sizes["w"]:
                modules.append(Sized(module, ("conv", *(sizes[axis] for axis in "hwio"))))
    return modules


def size_of(one: Sized) -> Size:
    """A convolution's side and channels."""
    _, side, _, inputs, outputs = one.sizes
    return Size(int(side), int(inputs), int(outputs))


def inferred(chain: Chain, norms: int, lacking: int = 0) -> Architecture | None:
    """The architecture of a chain, without a head; `lacking` the final norm, or not. None where no numbers say it."""
    sizes = [{"h": size.side, "w": size.side, "i": size.inputs, "o": size.outputs} for size in chain.kernels]
    try:
        architecture = infer(dict(zip(name_in_order([*sizes]), sizes, strict=True)), norms + lacking)
    except MisfitError:
        return None
    return replace(architecture, final_norm=not lacking)


def _head(groups: Grouping, order: str, channels: int) -> DenseHead | None:
    """The one dense layer, if it reads the channels of the last map."""
    layers = [module for module in groups.modules if module.kind == "dense"]
    if len(layers) != 1 or _is_within(layers[0], groups.modules):
        return None
    usual = sorted(
        _dense_orders(groups),
        key=lambda axes: (axes.index("o") < axes.index("i")) != (order.index("o") < order.index("i")),
    )
    for axes in usual:
        sizes = dict(zip(axes.split(), layers[0].shape, strict=False))
        ones = all(length == 1 for axis, length in zip(axes.split(), layers[0].shape, strict=False) if axis == "1")
        if len(axes.split()) == len(layers[0].shape) and ones and sizes["i"] == channels:
            return DenseHead(layers[0], axes, sizes["o"])
    return None


def _dense_orders(groups: Grouping) -> list[str]:
    """The orders of axes that a dense layer's kernel may have."""
    known = [groups.dialect] if groups.by_name else dialects()
    return [*dict.fromkeys(axes for dialect in known for axes in dialect.tensors["dense"]["kernel"].axes)]


def _is_within(layer: Module, modules: Sequence[Module]) -> bool:
    """Whether a layer stands within a part of the body: its name begins with more than all names of the body do."""
    names = [re.split(f"[{SPLIT}]", module.title) for module in modules if module.kind != "dense"]
    shared = min(common(names[0], name) for name in names)
    return any(common(name, re.split(f"[{SPLIT}]", layer.title)) > shared for name in names)


# -- several networks --------------------------------------------------------------------------------------------------


def networks_in(groups: Grouping, choices: Words) -> dict[str, Architecture]:
    """What stands before the names of each network that closes by itself → its architecture; "" for the root's."""
    parts: dict[str, Architecture] = {}
    for prefix in _prefixes(groups):
        if not prefix.startswith(tuple(parts)):
            inside = tuple(module for module in groups.modules if module.title.startswith(prefix))
            if networks := closed(groups._replace(modules=inside), choices):
                parts[prefix] = networks[0].architecture
    rest = tuple(module for module in groups.modules if not module.title.startswith(tuple(parts)))
    if parts and (networks := closed(groups._replace(modules=rest), choices)):
        parts[""] = networks[0].architecture
    elif rest and all(module.kind == "dense" for module in rest):
        parts = {"" if _has_head(groups, prefix, rest) else prefix: numbers for prefix, numbers in parts.items()}
    return parts


def _has_head(groups: Grouping, prefix: str, rest: Sequence[Module]) -> bool:
    """Whether the body below a name has its head beside it, at the root."""
    inside = [module for module in groups.modules if module.title.startswith(prefix)]
    whole = closed(groups._replace(modules=(*inside, *rest)), Words())
    return bool(whole and whole[0].head and whole[0].head.module in rest)


def _prefixes(groups: Grouping) -> list[str]:
    """What names of several convolutions begin with, up to a dot or a slash, the shortest first; not what all have."""
    convs = [module.title for module in groups.modules if module.kind == "conv"]
    counts = Counter(title[: sign.end()] for title in convs for sign in re.finditer(f"[{SPLIT}]", title))
    several = [prefix for prefix, count in counts.items() if SMALLEST <= count < len(convs)]
    return sorted(several, key=lambda prefix: (len(re.findall(f"[{SPLIT}]", prefix)), prefix))[:MOST_PARTS]


def body_name(architecture: Architecture) -> str:
    """The name of an architecture, whose classes are no matter."""
    return replace(architecture, classes=1000).name
