"""A network read by its structure: where no table has the names, sizes and neighbourhood tell what each tensor is.

What comes of it is a layout made for one file. Nothing of its contract is known: every entry is an assumption.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from densenet_port.checkpoint import Array, Checkpoint
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import resource, sha256
from densenet_port.layouts.closing import Network, Words, body_name, closed, networks_in, orders_of
from densenet_port.layouts.dialects import ignored
from densenet_port.layouts.heads import CONVOLVED, OLD_FIRST
from densenet_port.layouts.layout import SPLIT, STRUCTURE, Layout, TensorKey, structure_path
from densenet_port.layouts.match import Ledger, body, match
from densenet_port.layouts.modules import Grouping, Module, grouping
from densenet_port.layouts.placement import Candidates, in_order, placed
from densenet_port.layouts.scan import ROOT, Match, Place, Scan, below, scan_of
from densenet_port.layouts.schema import Pattern
from densenet_port.layouts.transform import move
from densenet_port.network.architecture import Architecture
from densenet_port.network.channels import CONCATENATIONS, FLATTENS
from densenet_port.network.contract import Contract
from densenet_port.network.units import HEAD, Kind
from densenet_port.strict import Fields

TABLE = Path("structure", "contracts.toml")
FEW = 3  # modules named in a message


class Reading(NamedTuple):
    """What a file was read as: its tensors' places, the architecture with its head, in a line what was taken for what.

    `assumed` are words for what neither sizes nor names tell.
    """

    scanned: Scan
    architecture: Architecture
    note: str
    assumed: tuple[str, ...]


def read_by_structure(checkpoint: Checkpoint, choices: Words) -> Reading:
    """The network in a file by its structure. Raises MisfitError that says what it lacks in a DenseNet's words."""
    groups = grouping(checkpoint)
    networks = closed(groups, choices)
    distinct = list({one.architecture: one for one in networks}.values())
    if not distinct:
        from densenet_port.layouts.breaks import refusal  # noqa: PLC0415 (only what is none needs it)

        raise refusal(groups, orders_of(groups), choices)
    asked = [one for one in distinct if choices.arch in (None, _like(one.architecture, choices.arch))]
    if not asked:
        name = choices.arch.name if choices.arch else ""
        raise MisfitError(
            f"by structure a DenseNet {body_name(distinct[0].architecture)}", hint=f"leave out --arch {name}"
        )
    likely = _likely(asked)
    if len(likely) > 1:
        names = [body_name(one.architecture) for one in likely]
        raise MisfitError(
            f"{len(names)} DenseNets have kernels and norms of these sizes: {', '.join(names)}",
            hint=" or ".join(f"--arch {name}" for name in names),
        )
    return _reading(checkpoint, groups, likely[0], choices)


def _likely(networks: Sequence[Network]) -> Sequence[Network]:
    """Of several networks of the same sizes those whose modules stand in order; else those of one reduction."""
    ordered = [one for one in networks if in_order(one.architecture.without_head().units, one.body)]
    plain = [one for one in networks if not isinstance(one.architecture.reduction, tuple)]
    return networks if len(networks) == 1 else ordered or plain or networks


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
    return replace(ledger, notes=(reading.note, *ledger.notes), assumed=(*ledger.assumed, *reading.assumed))


def _beside(ledger: Ledger) -> MisfitError:
    """The error for a network beside which there is more."""
    shown = [f"{name} {tensor.shape}" for name, tensor in ledger.unclaimed.items()]
    more = f" and {len(shown) - FEW} more" if len(shown) > FEW else ""
    part, name = ("network" if HEAD in ledger.architecture.units else "body"), body_name(ledger.architecture)
    wrong = [f"{one.key} expected {one.expected}, found {one.actual} ({one.name})" for one in ledger.wrong_shapes]
    return MisfitError(
        f"by structure a DenseNet {name}; beside its {part}\n  {', '.join(shown[:FEW] or wrong[:1])}{more}",
        hint="--no-top takes the body",
    )


# -- the layout of one file --------------------------------------------------------------------------------------------


def _reading(checkpoint: Checkpoint, groups: Grouping, network: Network, choices: Words) -> Reading:
    """The places of all tensors, under a layout made for this file. Raises MisfitError where some stay open."""
    units = network.architecture.without_head().units
    candidates = placed(units, network.body)
    if candidates.open:
        candidates = _by_statistics(checkpoint, network, candidates)
    if candidates.open:
        raise _open(network.architecture, candidates)
    modules = dict(candidates.placed)
    if network.head:
        modules |= network.head.units
    prefix = _prefix([name for module in modules.values() for name in module.parts.values()])
    matches = [
        Match(TensorKey(unit, part), name, modules[unit].name[len(prefix) :])
        for unit in network.architecture.units
        for part, name in modules[unit].parts.items()
    ]
    layout = _layout(checkpoint, groups, network, matches)
    scanned = scan_of(layout, checkpoint, Place(prefix), matches, choices.kernels)
    is_convolved = network.head is not None and "1" in network.head.axes.split()
    assumed = (OLD_FIRST, *([CONVOLVED] if is_convolved else []), *([groups.assumption] if groups.assumption else []))
    return Reading(scanned, network.architecture, _note(network, modules), assumed)


def _by_statistics(checkpoint: Checkpoint, network: Network, candidates: Candidates) -> Candidates:
    """The placement that the statistics of a trained network tell; the one that is there where they tell nothing."""
    from densenet_port.layouts.trained import open_after, placed_by_statistics  # noqa: PLC0415 (few files need it)

    def load(module: Module, part: str) -> Array:
        axes = network.order if part == "kernel" else "c"
        return move(checkpoint.tensors[module.parts[part]].load(), axes, "h w i o" if part == "kernel" else "c")

    units = network.architecture.without_head().units
    modules = placed_by_statistics(units, network.body, load)
    return candidates if modules is None else open_after(units, network.body, modules.modules)


def _open(architecture: Architecture, candidates: Candidates) -> MisfitError:
    """The error for a network whose modules are all there, and of which some could stand in several places."""
    unit, modules = next(iter(candidates.open.items()))
    names = ", ".join(module.title for module in modules[:FEW]) + (" …" if len(modules) > FEW else "")
    return MisfitError(
        f"it has the modules of a DenseNet {body_name(architecture)}, and of {len(candidates.open)} of "
        f"{len(architecture.units)} places it stays open which is which\n  {unit} could be {names}",
        hint="neither names nor order tell: a table of your own does (--mapping, see docs/add-a-layout.md)",
    )


def _prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot or a slash."""
    start = names[0]
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    return start[: max(start.rfind(sign) for sign in SPLIT) + 1]


def _layout(checkpoint: Checkpoint, groups: Grouping, network: Network, matches: Sequence[Match]) -> Layout:
    """The layout that the file has: its endings and orders of axes, and an assumed contract."""
    family = section_of(TABLE, checkpoint.container, "containers", ("kernels", "contract"))
    dialect = groups.dialect
    stored = dialect.tensors["conv"]["kernel"].axes if groups.by_name else family.texts("kernels")
    axes: dict[tuple[Kind, str], tuple[str, ...]] = {
        ("conv", "kernel"): tuple(one for one in stored if one.replace("-", "") == network.order),
        ("dense", "kernel"): (network.head.axes,) if network.head else dialect.tensors["dense"]["kernel"].axes,
    }
    tensors = {
        kind: {
            part: Pattern(
                pattern.names if groups.by_name else (f"{{unit}}.{part}",), axes.get((kind, part), pattern.axes)
            )
            for part, pattern in parts.items()
        }
        for kind, parts in dialect.tensors.items()
    }
    listed = "\n".join(f"{match.key} {match.name}" for match in matches)
    return Layout(
        path=structure_path(),
        digest=sha256(listed.encode()),
        name=STRUCTURE,
        about="a file read by its structure",
        containers=(),
        reference="numpy",
        first_numbers={},
        ignore=ignored(),
        only={},
        when={},
        prefer={},
        classes=0,
        pool="",
        general=True,
        concatenation=CONCATENATIONS[0],
        flatten=FLATTENS[0],
        body_prefix="",
        contract=Contract.from_json(family.fields("contract").content),
        carried=frozenset(["input"]),
        units={match.key.unit: (re.sub(r"([{}])", r"\1\1", match.unit_name),) for match in matches},
        exceptions={match.key.unit: {} for match in matches},
        running_names={},
        running_containers=(),
        tensors=tensors,
        optional={"conv": {"bias": Pattern(("{unit}.bias",), ("o",))}, "norm": {}, "dense": {}},
        norm_parts=dialect.parts,
        fold=dialect.fold,
    )


def section_of(table: Path, container: str, listed: str, others: tuple[str, ...]) -> Fields:
    """The first section of a table of `mappings/` that lists a container under the key `listed`, else the last.

    `others` are the other keys of a section. Raises UsageError for a table that is none.
    """
    path = resource("mappings") / table
    content = Fields(str(path), tomllib.loads(path.read_text("utf-8")), UsageError)
    sections = [content.fields(name) for name in content.content]
    for section in sections:
        section.check_keys([listed, *others])
    return next((section for section in sections if container in section.texts(listed)), sections[-1])


def _note(network: Network, modules: Mapping[str, Module]) -> str:
    """What was taken for what, in a line."""
    units = list(network.architecture.units)
    first, last = modules[units[0]].title, modules[units[-1]].title
    return (
        f"read by structure: {len(modules)} modules, from {first} (taken for {units[0]}) to {last} ({units[-1]}), are "
        "placed by their sizes and what they stand beside"
    )


# -- one of several networks -------------------------------------------------------------------------------------------


def within(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint with only the tensors below a name; for `.` those of the root, beside which others stand."""
    if name != ROOT:
        return below(checkpoint, name)
    others = _copies(checkpoint) or {prefix for prefix in networks_in(grouping(checkpoint), Words()) if prefix}
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
