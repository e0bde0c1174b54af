"""A network read by its structure: where no table has the names, sizes and neighbourhood tell what each tensor is.

What comes of it is a layout made for one file. Nothing of its contract is known: every entry is an assumption.
"""

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.chain import Chain, Size, chains, furthest
from densenet_port.layouts.dialects import dialects
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, TensorKey
from densenet_port.layouts.match import Ledger, body, match
from densenet_port.layouts.modules import Grouping, Module, common, grouping
from densenet_port.layouts.placement import Candidates, Resolve, Sized, placed, sizes_of
from densenet_port.layouts.scan import Match, Place, Scan, below, scan_of
from densenet_port.layouts.schema import Pattern
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.contract import Contract
from densenet_port.network.units import HEAD, Kind
from densenet_port.strict import Fields

NAME = "structure"
TABLE = Path("structure", "contracts.toml")
ORDERS = ("o i h w", "h w i o")  # of a file's kernels; which way they are turned is for `scan` to say
ROOT = "."  # the word for what stands before no name
FEW = 3  # modules named in a message; and dense layers that may be there by chance
SMALLEST = 4  # convolutions of a network that is looked for beside others: a stem and a few layers
MOST_PARTS = 64  # beginnings of names that are tried as networks
HINT = "only a DenseNet is converted; if it is one, a table of your own names its tensors (--mapping, see docs/add-a-layout.md)"


class Reading(NamedTuple):
    """What a file was read as: its tensors' places, the architecture with its head, and in a line what was taken."""

    scanned: Scan
    architecture: Architecture
    note: str


class Words(NamedTuple):
    """What the user says: the architecture, how kernels are stored, no head; and what decides what stays open."""

    arch: Architecture | None = None
    kernels: Kernels | None = None
    no_top: bool = False
    resolve: Resolve | None = None


class _Network(NamedTuple):
    """A chain that closes under an order of axes: with its modules, those of the body and the head, if there is one."""

    order: str
    architecture: Architecture
    body: tuple[Sized, ...]
    head: "_Head | None"


class _Head(NamedTuple):
    """The dense layer that reads the last map's channels, and the order of its axes."""

    module: Module
    axes: str
    classes: int


def read_by_structure(checkpoint: Checkpoint, choices: Words) -> Reading:
    """The network in a file by its structure. Raises MisfitError that says what it lacks in a DenseNet's words."""
    groups = grouping(checkpoint)
    networks = _networks(groups, choices)
    distinct = list({one.architecture: one for one in networks}.values())
    if not distinct:
        raise refusal(groups, _orders(groups), choices)
    asked = [one for one in distinct if choices.arch in (None, _like(one.architecture, choices.arch))]
    if not asked:
        name = choices.arch.name if choices.arch else ""
        raise MisfitError(f"by its structure a DenseNet {distinct[0].architecture.name}", hint=f"leave out --arch {name}")
    if len(asked) > 1:
        names = [one.architecture.name for one in asked]
        raise MisfitError(
            f"{len(names)} DenseNets have kernels and norms of these sizes: {', '.join(names)}",
            hint=" or ".join(f"--arch {name}" for name in names),
        )
    return _reading(checkpoint, groups, asked[0], choices)


def _like(architecture: Architecture, other: Architecture | None) -> Architecture:
    """An architecture with another's classes and input channels, which a file's own shapes say."""
    return replace(architecture, classes=other.classes, channels=other.channels) if other else architecture


def ledger_of(checkpoint: Checkpoint, choices: Words) -> Ledger:
    """The complete ledger of a file by its structure. Raises MisfitError where a tensor is left over."""
    reading = read_by_structure(checkpoint, choices)
    scanned, architecture = reading.scanned, reading.architecture
    ledger = body(scanned, architecture) if choices.no_top else match(scanned, architecture)
    if ledger.problems:
        raise _beside(ledger)
    return replace(ledger, notes=(reading.note, *ledger.notes))


def _beside(ledger: Ledger) -> MisfitError:
    """The error for a network beside which there is more."""
    shown = [f"{name} {tensor.shape}" for name, tensor in ledger.unclaimed.items()]
    more = f" and {len(shown) - FEW} more" if len(shown) > FEW else ""
    part = "body" if HEAD not in ledger.architecture.units else "network"
    wrong = [f"{one.key} expected {one.expected}, found {one.actual} ({one.name})" for one in ledger.wrong_shapes]
    return MisfitError(
        f"a DenseNet {ledger.architecture.name} by its structure; beside its {part}\n  "
        f"{', '.join(shown[:FEW] or wrong[:1])}{more}",
        hint="--no-top takes the body",
    )


def _networks(groups: Grouping, choices: Words) -> list[_Network]:
    """The networks that all convolutions and norms make, under each order of axes."""
    return [one for order in _orders(groups) for one in _closing(groups, order, choices)]


def _orders(groups: Grouping) -> list[str]:
    """The orders of axes that the file's kernels may have."""
    kernels = groups.dialect.tensors["conv"]["kernel"].axes
    known = {axes.replace("-", "") for axes in kernels} if groups.by_name else set(ORDERS)
    return [order for order in ORDERS if order in known]


# -- numbers -----------------------------------------------------------------------------------------------------------


def _closing(groups: Grouping, order: str, choices: Words) -> list[_Network]:
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


def _network(
    groups: Grouping, order: str, modules: Sequence[Sized], chain: Chain, choices: Words
) -> _Network | None:
    """The network of a chain, if the norms are its own, and the one kernel that is left is its head."""
    last = [one for one in modules if one.module.kind == "conv" and size_of(one) in chain.left]
    axes = " ".join(axis if axis in "io" else "1" for axis in order.split())
    if last and not (len(last) == 1 and size_of(last[0])[:2] == (1, chain.channels) and axes in _dense_orders(groups)):
        return None
    body = [one for one in modules if one not in last]
    norms = sum(one.module.kind == "norm" for one in body)
    try:
        architecture = _architecture(chain, norms)
    except MisfitError:
        return None
    if Counter(sizes_of(unit) for unit in architecture.units.values()) != Counter(one.sizes for one in body):
        return None
    if last:
        head = _Head(last[0].module, axes, size_of(last[0]).outputs)
    else:
        head = None if choices.no_top else _head(groups, order, chain.channels)
    classes = head.classes if head else None
    return _Network(order, replace(architecture, classes=classes), tuple(body), head)


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


def _architecture(chain: Chain, norms: int) -> Architecture:
    """The architecture of a chain, without a head."""
    sizes = [{"h": size.side, "w": size.side, "i": size.inputs, "o": size.outputs} for size in chain.kernels]
    names = name_in_order([*sizes])
    return infer(dict(zip(names, sizes, strict=True)), norms)


def _head(groups: Grouping, order: str, channels: int) -> _Head | None:
    """The one dense layer, if it reads the channels of the last map."""
    layers = [module for module in groups.modules if module.kind == "dense"]
    if len(layers) != 1 or _is_within(layers[0], groups.modules):
        return None
    usual = sorted(_dense_orders(groups), key=lambda axes: (axes.index("o") < axes.index("i")) != (order.index("o") < order.index("i")))
    for axes in usual:
        sizes = dict(zip(axes.split(), layers[0].shape, strict=False))
        ones = all(length == 1 for axis, length in zip(axes.split(), layers[0].shape, strict=False) if axis == "1")
        if len(axes.split()) == len(layers[0].shape) and ones and sizes["i"] == channels:
            return _Head(layers[0], axes, sizes["o"])
    return None


def _dense_orders(groups: Grouping) -> list[str]:
    """The orders of axes that a dense layer's kernel may have."""
    known = [groups.dialect] if groups.by_name else dialects()
    return [*dict.fromkeys(axes for dialect in known for axes in dialect.tensors["dense"]["kernel"].axes)]


def _is_within(layer: Module, modules: Sequence[Module]) -> bool:
    """Whether a layer stands within a part of the body: its name begins with more than all names of the body do."""
    names = [re.split(f"[{SPLIT}]", module.title) for module in modules if module.kind != "dense"]
    shared = len(commonprefix(names))
    return any(common(name, re.split(f"[{SPLIT}]", layer.title)) > shared for name in names)


# -- the layout of one file --------------------------------------------------------------------------------------------


def _reading(checkpoint: Checkpoint, groups: Grouping, network: _Network, choices: Words) -> Reading:
    """The places of all tensors, under a layout made for this file. Raises MisfitError where some stay open."""
    candidates = placed(network.architecture.without_head().units, network.body)
    modules = dict(candidates.placed)
    if candidates.open and choices.resolve:
        modules |= choices.resolve(candidates)
        candidates = candidates._replace(open={one: there for one, there in candidates.open.items() if one not in modules})
    if candidates.open:
        raise _open(network.architecture, candidates)
    if network.head:
        modules[HEAD] = network.head.module
    prefix = _prefix([name for module in modules.values() for name in module.parts.values()])
    matches = [
        Match(TensorKey(unit, part), name, modules[unit].name[len(prefix) :])
        for unit in network.architecture.units
        for part, name in modules[unit].parts.items()
    ]
    layout = _layout(checkpoint, groups, network, matches)
    scanned = scan_of(layout, checkpoint, Place(prefix), matches, choices.kernels)
    return Reading(scanned, network.architecture, _note(groups, network, modules))


def _open(architecture: Architecture, candidates: Candidates) -> MisfitError:
    """The error for a network whose modules are all there, and of which some could stand in several places."""
    unit, modules = next(iter(candidates.open.items()))
    names = ", ".join(module.title for module in modules[:FEW]) + (" …" if len(modules) > FEW else "")
    return MisfitError(
        f"it has the modules of a DenseNet {architecture.name}, and of {len(candidates.open)} of "
        f"{len(architecture.units)} places it stays open which is which\n  {unit} could be {names}",
        hint="neither names nor order tell: a table of your own does (--mapping, see docs/add-a-layout.md)",
    )


def _prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot or a slash."""
    start = commonprefix(names)
    return start[: max(start.rfind(sign) for sign in SPLIT) + 1]


def _layout(checkpoint: Checkpoint, groups: Grouping, network: _Network, matches: Sequence[Match]) -> Layout:
    """The layout that the file has: its endings and orders of axes, and an assumed contract."""
    family = _family(checkpoint.container)
    dialect = groups.dialect
    stored = dialect.tensors["conv"]["kernel"].axes if groups.by_name else family.texts("kernels")
    axes: dict[tuple[Kind, str], tuple[str, ...]] = {
        ("conv", "kernel"): tuple(one for one in stored if one.replace("-", "") == network.order),
        ("dense", "kernel"): (network.head.axes,) if network.head else dialect.tensors["dense"]["kernel"].axes,
    }
    tensors = {
        kind: {
            part: Pattern(pattern.names if groups.by_name else (f"{{unit}}.{part}",), axes.get((kind, part), pattern.axes))
            for part, pattern in parts.items()
        }
        for kind, parts in dialect.tensors.items()
    }
    listed = "\n".join(f"{match.key} {match.name}" for match in matches)
    return Layout(
        path=resource("mappings") / NAME,
        digest=hashlib.sha256(listed.encode()).hexdigest(),
        name=NAME,
        about="a file read by its structure",
        containers=(),
        reference="numpy",
        first_numbers={},
        ignore=tuple(dict.fromkeys(rule for one in dialects() for rule in one.ignore)),
        only={},
        when={},
        prefer={},
        classes=0,
        pool="",
        body_prefix="",
        contract=Contract.from_json(family.fields("contract").content),
        carried=frozenset(["input"]),
        units={},
        exceptions={},
        running_names={},
        running_containers=(),
        tensors=tensors,
        optional={"conv": {"bias": Pattern(("{unit}.bias",), ("o",))}, "norm": {}, "dense": {}},
        norm_parts=dialect.parts,
        fold=dialect.fold,
    )


def _family(container: str) -> Fields:
    """What networks that come in a container usually are. Raises UsageError for a table that is none."""
    path = resource("mappings") / TABLE
    table = Fields(str(path), tomllib.loads(path.read_text("utf-8")), UsageError)
    sections = [table.fields(name) for name in table.content]
    for section in sections:
        section.check_keys(["containers", "kernels", "contract"])
        if container in section.texts("containers"):
            return section
    return sections[-1]


def _note(groups: Grouping, network: _Network, modules: Mapping[str, Module]) -> str:
    """What was taken for what, in a line."""
    units = list(network.architecture.units)
    first, last = modules[units[0]].title, modules[units[-1]].title
    assumed = f"; assumed: {groups.assumption}" if groups.assumption else ""
    return (
        f"read by structure: no table has its names; {len(modules)} modules from {first} ({units[0]}) to {last} "
        f"({units[-1]}) are placed by sizes and neighbourhood{assumed}"
    )


# -- several networks --------------------------------------------------------------------------------------------------


def networks_in(groups: Grouping, choices: Words) -> dict[str, Architecture]:
    """What stands before the names of each network that closes by itself → its architecture; "" for the root's."""
    closed: dict[str, Architecture] = {}
    for prefix in _prefixes(groups):
        if not prefix.startswith(tuple(closed)):
            inside = tuple(module for module in groups.modules if module.title.startswith(prefix))
            if networks := _networks(groups._replace(modules=inside), choices):
                closed[prefix] = networks[0].architecture
    rest = tuple(module for module in groups.modules if not module.title.startswith(tuple(closed)))
    if closed and (networks := _networks(groups._replace(modules=rest), choices)):
        closed[""] = networks[0].architecture
    return closed


def _prefixes(groups: Grouping) -> list[str]:
    """What names of several convolutions begin with, up to a dot or a slash, the shortest first; not what all have."""
    convs = [module.title for module in groups.modules if module.kind == "conv"]
    counts = Counter(title[: sign.end()] for title in convs for sign in re.finditer(f"[{SPLIT}]", title))
    several = [prefix for prefix, count in counts.items() if SMALLEST <= count < len(convs)]
    return sorted(several, key=lambda prefix: (len(re.findall(f"[{SPLIT}]", prefix)), prefix))[:MOST_PARTS]


def within(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint with only the tensors below a name; for `.` those of the root, beside which others stand."""
    if name != ROOT:
        return below(checkpoint, name)
    groups = grouping(checkpoint)
    others = {prefix for prefix in networks_in(groups, Words()) if prefix} | _copies(checkpoint)
    tensors = {key: tensor for key, tensor in checkpoint.tensors.items() if not key.startswith(tuple(others))}
    return replace(checkpoint, tensors=tensors)


def _copies(checkpoint: Checkpoint) -> set[str]:
    """What stands before names that most of are there without it too: a network's average beside it."""
    names = set(checkpoint.tensors)
    tops: dict[str, list[str]] = {}
    for name in names:
        if sign := re.search(f"[{SPLIT}]", name):
            tops.setdefault(name[: sign.end()], []).append(name[sign.end() :])
    return {top for top, bare in tops.items() if 2 * sum(name in names for name in bare) > len(bare)}


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusal(groups: Grouping, orders: Sequence[str], choices: Words) -> MisfitError:
    """Why the modules make no DenseNet: the first thing that is amiss, in at most two lines, and the next step."""
    parts = networks_in(groups, choices)
    if len(parts) > 1:
        listed = ", ".join(f"{prefix or ROOT!r} ({architecture.name})" for prefix, architecture in parts.items())
        ways = " or ".join(f"--within {prefix.rstrip(SPLIT) or ROOT}" for prefix in parts)
        return MisfitError(f"{len(parts)} networks in one file, under {listed}", hint=f"say which one to take: {ways}")
    if len(parts) == 1:
        (prefix, architecture), = parts.items()
        return MisfitError(
            f"beside a DenseNet {architecture.name} under {prefix!r} stand convolutions that are none of its",
            hint=f"--within {prefix.rstrip(SPLIT)} takes the network there",
        )
    convs = [module for module in groups.modules if module.kind == "conv"]
    if not convs:
        return MisfitError(f"it has no convolutions: {_tally(groups)}", hint=HINT)
    best = max((_furthest(sized(groups, order), order) for order in orders), key=lambda way: way.depth)
    return MisfitError(best.message, hint=HINT)


class _Failure(NamedTuple):
    """How many dense layers there are, and what stops them."""

    depth: int
    message: str


def _furthest(modules: Sequence[Sized], order: str) -> _Failure:
    """How far the convolutions are a DenseNet's under an order of axes, and what stops them."""
    convs = [one for one in modules if one.module.kind == "conv"]
    kernels = Counter(size_of(one) for one in convs)
    norms = [one for one in modules if one.module.kind == "norm"]
    if closed := [one for chain in chains(kernels) if (one := _inferred(chain, len(norms)))]:
        return _Failure(len(convs), min((_other_norms(norms, one) for one in closed), key=len))
    chain = furthest(kernels)
    if chain is None or chain.depth < FEW:
        count = chain.depth if chain else 0
        layer = f" ({_named(convs, chain.kernels[-1])})" if chain else ""
        return _Failure(
            count,
            f"no chain of convolutions that each add the same number of channels: among its {len(convs)} the longest "
            f"is {count} layer{'' if count == 1 else 's'}{layer}",
        )
    if chain.left:
        return _Failure(chain.depth, _broken(convs, chain))
    return _Failure(chain.depth, f"no single reduction explains transitions of {_transitions(chain)}")


def _named(convs: Sequence[Sized], size: Size) -> str:
    """The first convolution of a size."""
    return next(one.module.title for one in convs if size_of(one) == size)


def _broken(convs: Sequence[Sized], chain: Chain) -> str:
    """Where a chain breaks, and on what."""
    channels, place = chain.channels, f"block{len(chain.layers)}.layer{chain.layers[-1]}"
    reads = [size for size in chain.left if size.inputs == channels]
    narrow = [size for size in reads if size.side > 1 and size.outputs < channels]
    if narrow:
        side = narrow[0].side
        name = _named(convs, narrow[0])
        return f"its transition {name} has a {side}×{side} kernel, expected 1×1 behind {channels} channels"
    last = max(place for place, one in enumerate(convs) if size_of(one) == chain.kernels[-1])
    left = [one for one in convs[last:] + convs[:last] if size_of(one) in chain.left]
    return (
        f"its convolutions chain as a DenseNet's up to {place}, which leaves {channels} channels\n  "
        f"expected a convolution that reads {channels}, or none; found {left[0].module.title} ({size_of(left[0])})"
        + (f" and {len(left) - 1} more" if len(left) > 1 else "")
    )


def _other_norms(modules: Sequence[Sized], chain: Chain) -> str:
    """What is amiss with the norms of a network whose convolutions are a DenseNet's."""
    norms = [one for one in modules if one.module.kind == "norm"]
    try:
        architecture = _architecture(chain, len(norms))
    except MisfitError as error:
        return error.message
    units = [unit for unit in architecture.units.values() if unit.kind == "norm"]
    there, due = Counter(one.sizes for one in norms), Counter(map(sizes_of, units))
    missing, surplus = due - there, there - due
    start = f"its convolutions are those of a DenseNet {architecture.name}, its norms are not: "
    count = f"expected {len(units)}, found {len(norms)}"
    if missing:
        unit = next(unit for unit in units if sizes_of(unit) in missing)
        return f"{start}{count}\n  {unit.name}, of {unit.sizes['c']} channels, is the first that none can be"
    one = next((one for one in norms if one.sizes in surplus), None)
    return f"{start}{count}" + (f"\n  {one.module.title}, of {one.sizes[1]} channels, has no place" if one else "")


def _tally(groups: Grouping) -> str:
    """How many modules of each kind there are, and other tensors."""
    kinds = Counter(module.kind for module in groups.modules)
    return f"{kinds['norm']} norms, {kinds['dense']} dense layers, {len(groups.left)} other tensors"
