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
from densenet_port.layouts.heads import HeadLayer, chained, head_text, keys_of
from densenet_port.layouts.layout import SPLIT, Kernels
from densenet_port.layouts.modules import Grouping, Module, common
from densenet_port.layouts.placement import Sized, Sizes, in_order, sizes_of
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.head import USUAL
from densenet_port.network.units import HEAD

ORDERS = ("o i h w", "h w i o")  # of a file's kernels; which way they are turned is for `scan` to say
MOST_NORMS = 6  # of a head; published ones have three at most
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
    """Unit → module of a head, the order of its kernels' axes, the head in a few words, and its classes."""

    units: dict[str, Module]
    axes: str
    text: str
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
    whole = chains(Counter(size_of(one) for one in convs), spare=1)
    for spare in range(MOST_NORMS):
        networks = [one for chain in whole if (one := _network(groups, order, modules, chain, choices, spare))]
        if networks:
            return [one for one in networks if len(one.body) + spare == len(modules)] or networks
    return []


def _network(
    groups: Grouping, order: str, modules: Sequence[Sized], chain: Chain, choices: Words, spare: int
) -> Network | None:
    """The network of a chain, if all norms but `spare` are its own, and the one kernel that is left is its head."""
    last = [one for one in modules if one.module.kind == "conv" and size_of(one) in chain.left]
    axes = " ".join(axis if axis in "io" else "1" for axis in order.split())
    can_end = not groups.by_name or axes in _dense_orders(groups)
    if last and not (len(last) == 1 and size_of(last[0])[:2] == (1, chain.channels) and can_end):
        return None
    body = [one for one in modules if one not in last]
    norms = sum(one.module.kind == "norm" for one in body) - spare
    counts = Counter(one.sizes for one in body)
    finals = (0,) if spare else (0, 1)  # a norm that is left over is a final norm of another size rather than a head's
    for architecture in [one for final in finals if (one := inferred(chain, norms, final))]:
        sizes = Counter(map(sizes_of, architecture.units.values()))
        if not sizes - counts and (counts - sizes).total() == spare:
            behind = _norms_behind(architecture, body, counts - sizes, groups)
            rest = tuple(one for one in body if one not in behind)
            head = None if choices.no_top else _head(groups, order, chain.channels, behind)
            if last and not choices.no_top:
                head = DenseHead({HEAD: last[0].module}, axes, USUAL, size_of(last[0]).outputs)
            classes, text = (head.classes, head.text) if head else (None, USUAL)
            return Network(order, replace(architecture, classes=classes, head=text), rest, head)
    return None


def _norms_behind(
    architecture: Architecture, body: Sequence[Sized], surplus: Counter[Sizes], groups: Grouping
) -> list[Sized]:
    """The norms of the head: the last in the file, where the others are in order then; or those named as dense layers.

    `surplus` counts those that the body does not have.
    """
    if not surplus:
        return []
    last = _last_of(body, surplus)
    if in_order(architecture.units, [one for one in body if one not in last]):
        return last
    dense = [module.words for module in groups.modules if module.kind == "dense"]
    near = [max((common(one.module.words, words) for words in dense), default=0) for one in body]
    return _last_of([one for _, one in sorted(zip(near, body, strict=True), key=lambda pair: pair[0])], surplus)


def _last_of(modules: Sequence[Sized], surplus: Counter[Sizes]) -> list[Sized]:
    """The last modules of each size."""
    left, chosen = surplus.copy(), []
    for one in reversed(modules):
        if left[one.sizes] > 0:
            left[one.sizes] -= 1
            chosen.append(one)
    return chosen


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


def _head(groups: Grouping, order: str, channels: int, norms: Sequence[Sized]) -> DenseHead | None:
    """The head that dense layers, and norms, make: each reads what the one before puts out."""
    behind = {id(one.module) for one in norms}
    modules = [module for module in groups.modules if module.kind == "dense" or id(module) in behind]
    dense = [module for module in modules if module.kind == "dense"]
    body = [module for module in groups.modules if not any(module is one for one in modules)]
    if not dense or any(_is_within(layer, body) for layer in modules):
        return None
    is_first = order.index("o") < order.index("i")
    for axes in sorted(_dense_orders(groups), key=lambda axes: (axes.index("o") < axes.index("i")) != is_first):
        layers = [layer for module in modules if (layer := _layer(module, axes))]
        chain = chained(layers, channels) if len(layers) == len(modules) else None
        if chain and not _goes_on(chain, body):
            of_name = {module.title: module for module in modules}
            units = {key.unit: of_name[title] for key, (_, title) in keys_of(chain).items()}
            return DenseHead(units, axes, head_text(chain, channels), chain[-1].gives)
    return None


def _goes_on(chain: Sequence[HeadLayer], body: Sequence[Module]) -> bool:
    """Whether a network with a dense layer of its own stands in another one, which goes on behind it."""
    roots = {re.split(f"[{SPLIT}]", module.title)[0] for module in body}
    within = [re.split(f"[{SPLIT}]", layer.name)[0] in roots for layer in chain]
    return within[0] and not all(within)


def _layer(module: Module, axes: str) -> HeadLayer | None:
    """A layer of a head, with a dense kernel's axes in an order; None where its shape is another."""
    if module.kind == "norm":
        return HeadLayer(module.title, "norm", module.shape[0], module.shape[0], module.parts)
    names = axes.split()
    if len(names) != len(module.shape):
        return None
    pairs = list(zip(names, module.shape, strict=True))
    sizes = dict(pairs)
    ones = all(length == 1 for axis, length in pairs if axis == "1")
    return HeadLayer(module.title, "dense", sizes["i"], sizes["o"], module.parts) if ones else None


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
    return bool(whole and whole[0].head and all(module in rest for module in whole[0].head.units.values()))


def _prefixes(groups: Grouping) -> list[str]:
    """What names of several convolutions begin with, up to a dot or a slash, the shortest first; not what all have."""
    convs = [module.title for module in groups.modules if module.kind == "conv"]
    counts = Counter(title[: sign.end()] for title in convs for sign in re.finditer(f"[{SPLIT}]", title))
    several = [prefix for prefix, count in counts.items() if SMALLEST <= count < len(convs)]
    return sorted(several, key=lambda prefix: (len(re.findall(f"[{SPLIT}]", prefix)), prefix))[:MOST_PARTS]


def body_name(architecture: Architecture) -> str:
    """The name of an architecture, whose classes are no matter."""
    return replace(architecture, classes=1000).name
