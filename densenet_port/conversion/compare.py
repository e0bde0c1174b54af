"""Two checkpoints compared slot by slot, whatever their layouts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network, read
from densenet_port.conversion.opening import Opens
from densenet_port.network.contract import Contract
from densenet_port.network.units import Slot


@dataclass(frozen=True, kw_only=True)
class SlotDifference:
    """One slot in two files: largest absolute difference, and largest in units of the last place of the first."""

    slot: Slot
    absolute: float
    ulps: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two checkpoints side by side, slot by slot; `contracts` holds the entries that differ, as (first, second)."""

    first: Network
    second: Network
    differing: tuple[SlotDifference, ...]
    only_first: tuple[Slot, ...]
    only_second: tuple[Slot, ...]
    identical: int
    contracts: Mapping[str, tuple[Any, Any]]

    @property
    def same(self) -> bool:
        """Whether every tensor has the same bits and the networks' contracts agree where they change the function."""
        return not (self.differing or self.only_first or self.only_second or self.contracts)


def diff(first: Network | Opens, second: Network | Opens) -> Difference:
    """Two networks, or what `read` takes, compared slot by slot, in our axes and in float64, whatever their layouts.

    Raises as `read` does.
    """
    one, other = (
        network if isinstance(network, Network) else read(network, ignore_inheritance=True)
        for network in (first, second)
    )
    differing: list[SlotDifference] = []
    shared = [slot for slot in one.weights if slot in other.weights]
    for slot in shared:
        difference = _slot_difference(slot, one.weights[slot], other.weights[slot])
        if difference is not None:
            differing.append(difference)
    old, new = _function_of(one.contract), _function_of(other.contract)
    return Difference(
        first=one,
        second=other,
        differing=tuple(differing),
        only_first=tuple(slot for slot in one.weights if slot not in other.weights),
        only_second=tuple(slot for slot in other.weights if slot not in one.weights),
        identical=len(shared) - len(differing),
        contracts={key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)},
    )


def _function_of(contract: Contract) -> dict[str, Any]:
    """The entries of a contract that change the logits of a picture that is prepared for the network."""
    return {key: value for key, value in contract.to_json().items() if key not in ("output", "resize")}


def _slot_difference(slot: Slot, first: Array, second: Array) -> SlotDifference | None:
    """How far two tensors are apart; None when every number is the same (NaN equals NaN)."""
    if first.shape != second.shape:
        return SlotDifference(slot=slot, absolute=float("inf"), ulps=float("inf"))
    if np.array_equal(first, second, equal_nan=True):
        return None
    apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    spacing = np.spacing(np.abs(first)).astype(np.float64)
    return SlotDifference(slot=slot, absolute=float(np.max(apart)), ulps=float(np.max(apart / spacing)))
