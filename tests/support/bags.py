"""Networks as bags: the same tensors without a name, the modules in any order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import densenet_port as dp
from densenet_port.network.units import ROLES, Slot


def bag_of(path: Path, out: Path, seed: int = 0, **words: object) -> Path:
    """The claimed tensors of a file as an `.npz`, module by module in a random order, called by number."""
    network = dp.read(path, **words)
    tensors = {str(key): claim.tensor.load() for key, claim in network.ledger.claims.items()}
    return bag(tensors, out, seed)


def bag(tensors: dict[str, np.ndarray], out: Path, seed: int = 0) -> Path:
    """Tensors by slot as an `.npz`; those of a unit stay together, in the order in which software saves them."""
    units: dict[str, list[str]] = {}
    for name in tensors:
        units.setdefault(name.rpartition(".")[0], []).append(name)
    order = [*units]
    order = [order[place] for place in np.random.default_rng(seed).permutation(len(order))]
    arrays = [tensors[name] for unit in order for name in _in_order(units[unit])]
    np.savez(out, **{f"t{place:04}": array for place, array in enumerate(arrays)})
    return out


def _in_order(names: Sequence[str]) -> list[str]:
    """The tensors of a unit by their roles."""
    roles = [*ROLES["conv"], *ROLES["norm"], "bias"]
    return sorted(names, key=lambda name: roles.index(name.rpartition(".")[2]))  # type: ignore[arg-type]


def slots_of(network: dp.Network) -> dict[Slot, bytes]:
    """Every tensor of a network, bit by bit."""
    return {slot: array.tobytes() for slot, array in network.weights.items()}
