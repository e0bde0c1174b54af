"""Ports for the parity tests: many at once in few processes, and damaged ones."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from densenet_port import formats
from densenet_port.checkpoint import Tensor
from densenet_port.conversion.load import Network, read
from densenet_port.layouts.layout import Layout as Table
from densenet_port.network.contract import Contract
from densenet_port.network.units import Slot
from densenet_port.prove.images import Probe
from densenet_port.prove.recording import PRECISIONS, Side, plan_side, side_of
from densenet_port.prove.worker import run_all


def sides(
    networks: list[Network], probes: list[tuple[Probe, ...]], network: str, backend: str = "tensorflow"
) -> list[Side]:
    """The sides of many networks, with one process for each precision."""
    plans = [plan_side(told, network, backend, seen, seen[0].name) for told, seen in zip(networks, probes, strict=True)]
    runs = {p: run_all([job for plan in plans for job in plan[p]]) for p in PRECISIONS}
    found = []
    for told, seen, plan in zip(networks, probes, plans, strict=True):
        mine = [runs[precision].pop(0) for precision in PRECISIONS for _ in seen]
        found.append(side_of(told, plan, mine, seen[0].name, seen, 0.0))
    return found


def weights_of(told: Network) -> dict[Slot, np.ndarray]:
    """Every tensor of a network, in our axes."""
    return {slot: np.array(array) for slot, array in told.weights.items()}


def written(told: Network, weights: Mapping[Slot, np.ndarray], contract: Contract, path: Path) -> Network:
    """A converted file with these weights and this contract, as if the converter had made the mistake."""
    rules = Table.load("keras").spell(told.architecture)
    record = {**told.checkpoint.record, "contract": contract.to_json()}
    tensors = {
        rule.name: Tensor(
            weights[slot].shape, weights[slot].dtype.name, lambda slot=slot: np.ascontiguousarray(weights[slot])
        )
        for slot, rule in rules.items()
    }
    formats.write(path, tensors, lambda: json.dumps(record).encode())
    return replace(read(path), contract=contract)
