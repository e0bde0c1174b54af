"""The configuration beside a file held against the tensors in it: it speaks of this very network, or it is an error."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.beside import ALONE
from densenet_port.layouts.heads import assumed_of
from densenet_port.layouts.match import Ledger
from densenet_port.network.architecture import Architecture
from densenet_port.network.units import FINAL_NORM, HEAD, Slot

OF_HEAD = ("classes", "head")


def agreed(checkpoint: Checkpoint, ledger: Ledger, *, no_top: bool) -> Ledger:
    """The ledger with what the configuration says of the head, which sizes alone do not tell.

    With `no_top` nothing of the head is compared. Raises MisfitError where the configuration is another network's:
    other numbers, another name of the stem's or the head's module.
    """
    facts: Mapping[str, Any] | None = checkpoint.metadata.get("beside")
    if facts is None:
        return ledger
    numbers = {key: value for key, value in facts["numbers"].items() if not (no_top and key in OF_HEAD)}
    chosen = _with_head(ledger, numbers.get("head"))
    if differing := [*_differing(chosen.architecture, numbers, facts)]:
        said, actual = (", ".join(f"{key} {_shown(pair[at])}" for key, *pair in differing) for at in (0, 1))
        message = f"{facts['file']} says {facts['name']} with {said}, and {checkpoint.path} has {actual}"
        raise MisfitError(message, hint=ALONE)
    units = {"stem": next(iter(ledger.architecture.units)), **({} if no_top else {"head": HEAD})}
    for key, unit in units.items():
        if key in facts["names"] and (holder := ledger.holders.get(unit)) is not None:
            _check_name(checkpoint, facts, key, holder)
    return chosen


def _with_head(ledger: Ledger, head: str | None) -> Ledger:
    """The ledger with another head of the same sizes, where there is one to be told of."""
    own = ledger.architecture
    if head in (None, own.head) or own.classes is None:
        return ledger
    try:
        other = replace(own, head=head)
    except UsageError:
        return ledger
    if other.slots != own.slots:
        return ledger
    assumed = tuple(text for text in ledger.assumed if text not in assumed_of(own.head))
    return replace(ledger, architecture=other, assumed=assumed)


def _differing(
    own: Architecture, numbers: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Key, what the configuration says of it, and what the tensors do, where these are not the same."""
    actual = {"head": own.head, **own.to_json()}
    for key, value in numbers.items():
        if actual[key] != value:
            yield key, value, actual[key]
    channels = own.slots.get(Slot(FINAL_NORM, "scale"), (None,))[0]
    if facts["features"] is not None and channels not in (None, facts["features"]):
        yield "features", facts["features"], channels


def _check_name(checkpoint: Checkpoint, facts: Mapping[str, Any], key: str, holder: str) -> None:
    """Refuse a configuration that calls a module by a name that it does not have in the file."""
    place, value = facts["names"][key]
    names = value if isinstance(value, list) else [value]
    if not any(holder == name or holder.endswith(f".{name}") for name in names):
        what = f"{facts['file']}: {place}: {value!r} is no name in {checkpoint.path}, where it is {holder!r}"
        raise MisfitError(what, hint=ALONE)


def _shown(value: object) -> str:
    return "none" if value is None else "-".join(map(str, value)) if isinstance(value, list) else str(value)
