"""A network's contract, entry by entry, and where each entry is known from.

The file's own graph comes first, then what is recorded beside the weights, then the user's word, then the layout's
software; where none of them tells, an entry is what such files usually have: an assumption.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast, get_args

from densenet_port.checkpoint import Checkpoint
from densenet_port.conversion.modules import reasons
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.beside import ALONE
from densenet_port.layouts.front import normalised
from densenet_port.layouts.layout import Layout
from densenet_port.layouts.match import Ledger
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import ENTRIES, WORDS, Contract, Input, Origin, Resize, StemPadding
from densenet_port.network.follow import Evidence
from densenet_port.network.graph import graph, stem_of
from densenet_port.network.head import head_of

TYPES: dict[str, Callable[[Any], object]] = {  # what a file's own graph may say of the contract
    "epsilon": float,
    "stem_stride": lambda stride: None if stride is None else int(stride),
    "stem_padding": str,
    "stem_pool": str,
    "pool_rounding": str,
    "head_pool": int,
    "output": str,
    "input": Input.from_json,
}


class Known(NamedTuple):
    """A contract, and entry → where it is known from."""

    contract: Contract
    origins: Mapping[str, Origin]


def known(checkpoint: Checkpoint, ledger: Ledger, evidence: Evidence | None, words: Mapping[str, Any] | None) -> Known:
    """The contract of a file's network.

    `evidence` is what the file's own graph says, `words` are the entries that the user knows. Raises UsageError where a
    word contradicts the graph or a record, or is no entry's; MisfitError where graph and record disagree, or the graph
    has what no contract says.
    """
    by_graph = {key: kind(checkpoint.metadata[key]) for key, kind in TYPES.items() if key in checkpoint.metadata}
    by_graph |= evidence.facts if evidence else {}
    if head_of(ledger.architecture.head).pools:  # then a pool in front is over the whole map
        by_graph.pop("head_pool", None)
    recorded = _recorded(checkpoint)
    contract, origins = recorded or _usual(checkpoint, ledger)
    contract = _agreeing(checkpoint, ledger.architecture, contract, by_graph)
    if recorded is None:  # a graph of densenet-port's has an assumption like anything else
        origins = {**origins, **dict.fromkeys(by_graph, "graph"), **_outside(evidence)}
        contract, origins = _resized(ledger, contract, origins)
    contract, origins = _by_beside(checkpoint, contract, origins, by_graph)
    contract, origins = _corrected(checkpoint, contract, origins, words or {})
    relevant = {*entries_of(ledger.architecture, contract), *(["resize"] if contract.resize else [])}
    return Known(contract, {key: origins[key] for key in WORDS if key in relevant})


def entries_of(architecture: Architecture, contract: Contract) -> Iterator[str]:
    """The entries of a network's contract that say something of it.

    A stem without a stride pads alike in any way, one block has no pool behind it, and only a head that reads every
    place of the last map has one in front.
    """
    stem = stem_of(architecture.stem)
    symmetric, same = (graph(architecture, replace(contract, stem_padding=way)) for way in get_args(StemPadding))
    says = {
        "stem_stride": len(stem.convs) == 1,
        "stem_padding": symmetric != same,
        "stem_pool": stem.pool,
        "pool_rounding": len(architecture.layers) > 1,
        "head_pool": not head_of(architecture.head).pools,
    }
    return (key for key in ENTRIES if says.get(key, True))


def _recorded(checkpoint: Checkpoint) -> Known | None:
    """What a file of densenet-port's records of itself; None where it records none."""
    record = checkpoint.record or {}
    if "contract" not in record:
        return None
    origins: dict[str, Origin] = dict.fromkeys(WORDS, "record")
    return Known(Contract.from_json(record["contract"]), origins | record.get("origins", {}))


def _usual(checkpoint: Checkpoint, ledger: Ledger) -> Known:
    """What the layout's software has; an assumption where nothing in the file points to that software.

    A network of another number of classes than the software's own was trained by somebody else, who had the choice
    of its pictures and its output. So had whoever put a module behind the head, or took the stem's pool out.
    """
    layout, classes = ledger.layout, ledger.architecture.classes
    contract, origins = layout.contract, _origins_of(layout)
    if classes not in (None, layout.classes):
        origins["input"] = "assumed"
        origins["output"] = origins["output"] if contract.output == "logits" else "assumed"
    if picture := normalised(checkpoint, ledger.ignored, ledger.architecture.channels):
        contract, origins["input"] = replace(contract, input=picture), "assumed"
    if classes == 1 and contract.output == "softmax":  # which would be 1 whatever the picture
        contract, origins["output"] = replace(contract, output="logits"), "assumed"
    if ledger.assumed:
        origins["head_pool"] = "assumed"
    why = reasons(checkpoint, ledger)
    origins |= dict.fromkeys(why, "assumed")
    stem = ledger.architecture.stem
    if stem not in layout.only.get("stem", ("imagenet", "cifar", "deep")):  # somebody put another in
        contract = replace(contract, stem_stride=None)
        origins["stem_stride"] = origins["stem_pool"] = "assumed"
        contract = contract if stem_of(stem).convs[0].stride > 1 else replace(contract, stem_pool="none")
    if "stem_pool" in why:
        contract, origins["stem_pool"] = replace(contract, stem_pool="none"), "assumed"
    return Known(contract, origins)


def _by_beside(
    checkpoint: Checkpoint, contract: Contract, origins: Mapping[str, Origin], by_graph: Mapping[str, Any]
) -> Known:
    """The contract with what a configuration beside the weights says of it.

    Raises MisfitError where the graph says another thing, or a record that does not only assume it.
    """
    facts = checkpoint.metadata.get("beside")
    if facts is None:
        return Known(contract, origins)
    kinds, own = {**TYPES, "resize": Resize.from_json}, bool(checkpoint.record and "contract" in checkpoint.record)
    entries = {key: kinds[key](value) for key, value in facts["contract"].items()}
    for key, value in entries.items():
        is_known = own and origins.get(key, "assumed") not in ("assumed", "software")
        known_now = by_graph.get(key, getattr(contract, key) if is_known else value)
        if not _same(known_now, value):
            whose = "graph" if key in by_graph else "record"
            message = f"{facts['file']} says the {key} {_shown(value)}, the {whose} of {checkpoint.path} {known_now}"
            raise MisfitError(message, hint=ALONE)
    if not own and "input" in entries:  # then a size would be told, too, or is none that we have words for
        contract = replace(contract, resize=None)
    return Known(replace(contract, **cast("Any", entries)), {**origins, **dict.fromkeys(entries, "record")})


def _resized(ledger: Ledger, contract: Contract, origins: Mapping[str, Origin]) -> Known:
    """The contract with the resizing that a table says, where that is of this network's pictures.

    A software's is, where its input is too: whoever prepared other values had the choice of the size as well.
    """
    layout, classes = ledger.layout, ledger.architecture.classes
    is_known = origins["input"] == "software" if layout.is_own else classes in (None, layout.classes)
    if contract.resize is None or not is_known:
        return Known(replace(contract, resize=None), origins)
    return Known(contract, {**origins, "resize": "software" if layout.is_own else "user"})


def _origins_of(layout: Layout) -> dict[str, Origin]:
    """Entry → where a table knows it from: its software, the user whose own table it is, or nowhere, as it says itself.

    What a layout carries from file to file has no usual value, and layers without names are nobody's.
    """
    if not layout.is_own:
        return {key: "assumed" if key in layout.assumed else "user" for key in ENTRIES}
    named = bool(layout.units) and layout.has_software
    return {
        key: "software" if named and (key == "input" or key not in layout.carried) else "assumed" for key in ENTRIES
    } | {key: "assumed" for key in ENTRIES if key in layout.assumed}


def _outside(evidence: Evidence | None) -> dict[str, Origin]:
    """What somebody's code that is not in the file may do: around the network, and wherever else it stands."""
    if not evidence or not evidence.assumed:
        return {}
    return {key: "assumed" for key in ENTRIES if key in ("input", "output") or key not in evidence.facts}


def _agreeing(
    checkpoint: Checkpoint, numbers: Architecture, contract: Contract, by_graph: Mapping[str, Any]
) -> Contract:
    """The contract with what the graph says. Raises MisfitError where a record says another thing."""
    try:
        by_its_graph = replace(contract, **cast("Any", dict(by_graph)))
    except MisfitError as error:
        raise MisfitError(f"{checkpoint.path}: {error.message}", hint="its graph says so; repair it there") from error
    if not (checkpoint.record and "contract" in checkpoint.record):
        return by_its_graph
    for key, value in by_graph.items():
        recorded = getattr(contract, key)
        if not _same(recorded, value) and _matters(numbers, contract, by_its_graph, key):
            hint = "the graph was changed after it was written; take the record out of the file to have it read"
            raise MisfitError(f"{checkpoint.path}: its graph has the {key} {value}, its record {recorded}", hint=hint)
    return contract


def _matters(numbers: Architecture, contract: Contract, other: Contract, key: str) -> bool:
    """Whether another value of an entry makes another function: a stem without a stride has no padding to choose."""
    if key == "input":
        return True
    changed = replace(contract, **cast("Any", {key: getattr(other, key)}))
    return graph(numbers, changed).operations != graph(numbers, contract).operations


def _same(recorded: object, value: object) -> bool:
    """Whether two values of an entry are one; a graph may keep an epsilon in float32."""
    if isinstance(recorded, float) and isinstance(value, float):
        return abs(recorded - value) <= 1e-6 * abs(recorded)  # a float32 is within 6e-8 of what is meant
    return recorded == value


def _corrected(
    checkpoint: Checkpoint, contract: Contract, origins: Mapping[str, Origin], words: Mapping[str, Any]
) -> Known:
    """The contract with the user's words in place of what nothing but a software or an assumption told."""
    for key, value in words.items():
        if key not in WORDS:
            raise UsageError(f"a contract has no entry {key!r}", hint=f"known: {', '.join(WORDS)}")
        if not _is_free(key, origins) and not _same(getattr(contract, key), value):
            raise UsageError(
                f"{checkpoint.path}: the {key} is {_shown(getattr(contract, key))} by the file's own {origins[key]}, "
                f"and {_shown(value)} by your word",
                hint=f"leave --{key.replace('_', '-')} out: the file knows what it is",
            )
    try:
        corrected = replace(contract, **cast("Any", dict(words)))
    except MisfitError as error:
        raise UsageError(error.message) from error
    changed: dict[str, Origin] = {key: "user" for key in words if _is_free(key, origins)}
    return Known(corrected, {**origins, **changed})


def _is_free(key: str, origins: Mapping[str, Origin]) -> bool:
    """Whether a user's word may be another than what is known: resizing is no part of the function."""
    return key == "resize" or origins[key] not in ("graph", "record")


def _shown(value: object) -> str:
    """A value of an entry, for a message."""
    return f"{value:g}" if isinstance(value, float) else str(value)
