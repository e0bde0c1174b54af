"""Two checkpoints compared slot by slot, whatever their layouts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
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


def diff(first: Network, second: Network) -> Difference:
    """Two checkpoints compared slot by slot, in our axes and in float64, whatever their layouts."""
    shared = [slot for slot in first.weights if slot in second.weights]
    compared = (_slot_difference(slot, first.weights[slot], second.weights[slot]) for slot in shared)
    differing = [found for found in compared if found]
    old, new = _function_of(first.contract), _function_of(second.contract)
    return Difference(
        first=first,
        second=second,
        differing=tuple(differing),
        only_first=tuple(slot for slot in first.weights if slot not in second.weights),
        only_second=tuple(slot for slot in second.weights if slot not in first.weights),
        identical=len(shared) - len(differing),
        contracts={key: (old[key], new[key]) for key in old if old[key] != new[key]},
    )


def _function_of(contract: Contract) -> dict[str, Any]:
    """The entries of a contract that change the logits."""
    plain = contract.to_json()
    del plain["output"]
    return plain


def _slot_difference(slot: Slot, first: Array, second: Array) -> SlotDifference | None:
    """How far two tensors are apart; None when every number is the same (NaN equals NaN)."""
    if first.shape != second.shape:
        return SlotDifference(slot=slot, absolute=float("inf"), ulps=float("inf"))
    if np.array_equal(first, second, equal_nan=True):
        return None
    apart = np.abs(first.astype(np.float64) - second.astype(np.float64))
    spacing = np.spacing(np.abs(first)).astype(np.float64)
    return SlotDifference(slot=slot, absolute=float(np.max(apart)), ulps=float(np.max(apart / spacing)))
