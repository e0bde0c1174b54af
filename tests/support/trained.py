"""Trained networks for tests of what statistics say: the embedded sample, and real files where they are."""

from functools import cache
from pathlib import Path

import numpy as np

from densenet_port.conversion.load import Network, read
from densenet_port.errors import PortError
from densenet_port.network.inheritance import statistics_of
from densenet_port.network.units import Slot
from tests.support.real import REAL

SAMPLE = Path(__file__).parents[2] / "weights" / "sample" / "digits.pth"
ENDINGS = (".pth", ".tar", ".h5")


@cache
def readable() -> dict[str, Network]:
    """Name → network: the sample, and each real file that can be read, with its head or without."""
    networks = {"digits": read(SAMPLE)}
    for path in sorted(REAL.iterdir()) if REAL else ():
        for no_top in (False, True) if path.name.endswith(ENDINGS) else ():
            try:
                networks.setdefault(path.name, read(path, no_top=no_top))
            except PortError:
                continue
    return networks


def weights_of(network: Network) -> dict[Slot, np.ndarray]:
    """All weights, kept."""
    return {slot: np.asarray(network.weights[slot]) for slot in network.weights}


def statistics(network: Network) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each norm, copies that a test may change."""
    pairs = statistics_of(network.graph, network.weights)
    return {name: (np.array(mean), np.array(variance)) for name, (mean, variance) in pairs.items()}


def swapped(weights: dict[Slot, np.ndarray], one: str, other: str) -> dict[Slot, np.ndarray]:
    """The weights with two units of the same sizes exchanged."""
    names = {one: other, other: one}
    return {slot: weights[Slot(names.get(slot.unit, slot.unit), slot.role)] for slot in weights}


def turned(weights: dict[Slot, np.ndarray], unit: str, one: str, other: str) -> dict[Slot, np.ndarray]:
    """The weights with two vectors of one unit exchanged."""
    changed = dict(weights)
    changed[Slot(unit, one)], changed[Slot(unit, other)] = weights[Slot(unit, other)], weights[Slot(unit, one)]
    return changed
