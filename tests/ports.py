"""Ports for the parity tests: many at once in few processes, and damaged ones."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from densenet_port import formats
from densenet_port.arch import Contract, Slot
from densenet_port.checkpoint import Tensor
from densenet_port.frameworks import run_all
from densenet_port.gather import Ours, ours
from densenet_port.mapping import Mapping as Table
from densenet_port.probes import Probe
from densenet_port.sides import PRECISIONS, Side, plan_side, side_of


def sides(
    networks: list[Ours], probes: list[tuple[Probe, ...]], network: str, backend: str = "tensorflow"
) -> list[Side]:
    """The sides of many networks, with one process for each precision."""
    plans = [plan_side(told, network, backend, seen, seen[0].name) for told, seen in zip(networks, probes, strict=True)]
    runs = {p: run_all([job for plan in plans for job in plan[p]]) for p in PRECISIONS}
    found = []
    for told, seen, plan in zip(networks, probes, plans, strict=True):
        mine = [runs[precision].pop(0) for precision in PRECISIONS for _ in seen]
        found.append(side_of(told, plan, mine, seen[0].name, seen, 0.0))
    return found


def weights_of(told: Ours) -> dict[Slot, np.ndarray]:
    """Every tensor of a network, in our axes."""
    return {slot: np.array(load()) for slot, load in told.weights.items()}


def written(told: Ours, weights: Mapping[Slot, np.ndarray], contract: Contract, path: Path) -> Ours:
    """A converted file with these weights and this contract, as if the converter had made the mistake."""
    rules = Table.load("keras").spell(told.architecture)
    manifest = {**told.checkpoint.manifest, "contract": contract.to_json()}
    tensors = {
        rule.name: Tensor(
            weights[slot].shape, weights[slot].dtype.name, lambda slot=slot: np.ascontiguousarray(weights[slot])
        )
        for slot, rule in rules.items()
    }
    formats.write(path, tensors, lambda: json.dumps(manifest).encode())
    return replace(ours(path), contract=contract)
