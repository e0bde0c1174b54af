"""Ports for the parity tests: many at once in few processes, and damaged ones."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port import formats
from densenet_port.checkpoint import Tensor, array_digest
from densenet_port.conversion.load import Network, read
from densenet_port.formats.record import DIGEST, REST
from densenet_port.layouts.layout import Layout as Table
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.units import Slot
from densenet_port.prove.images import Probe
from densenet_port.prove.job import PRECISIONS
from densenet_port.prove.recording import Recording, Settings, plan
from densenet_port.prove.worker import run_all


def recordings(
    networks: list[Network], probes: list[tuple[Probe, ...]], software: str, backend: str = "tensorflow"
) -> list[Recording]:
    """Recordings of many networks, by one process where one software gives both precisions."""
    settings = Settings(backend=backend)
    plans = [plan(network, software, seen, settings) for network, seen in zip(networks, probes, strict=True)]
    jobs = {p: [job for planned in plans for job in planned.jobs[p]] for p in PRECISIONS}
    if len({job.network for one in jobs.values() for job in one}) == 1:
        together = run_all([job for one in jobs.values() for job in one])
        runs = {p: [together.pop(0) for _ in jobs[p]] for p in PRECISIONS}
    else:
        runs = {p: run_all(jobs[p]) for p in PRECISIONS}
    return [planned.recording([runs[p].pop(0) for p in PRECISIONS for _ in planned.probes], 0.0) for planned in plans]


def weights_of(network: Network) -> dict[Slot, np.ndarray]:
    """Every tensor of a network, in our axes."""
    return {slot: np.array(array) for slot, array in network.weights.items()}


def written(network: Network, weights: Mapping[Slot, np.ndarray], contract: Contract, path: Path) -> Network:
    """A converted file with these weights and this contract, as if the converter had made the mistake."""
    write_ours(path, network.architecture, contract, weights, network.checkpoint.record)
    return replace(read(path), contract=contract)


def write_ours(
    path: Path, architecture: Architecture, contract: Contract, weights: Mapping[Slot, np.ndarray], record: Any = None
) -> Path:
    """A file of our own layout that records its contract and its digests, beside what else it says of itself."""
    specs = Table.load("keras").spell(architecture)
    arrays = {spec.name: np.ascontiguousarray(weights[slot]) for slot, spec in specs.items()}
    kept = {key: value for key, value in (record or {}).items() if key not in ("schema", DIGEST, REST)}
    digests = {name: array_digest(array) for name, array in arrays.items()}
    record = {**kept, "contract": contract.to_json(), "tensors": digests}
    tensors = {name: Tensor(array.shape, array.dtype.name, lambda array=array: array) for name, array in arrays.items()}
    formats.write(path, tensors, lambda: json.dumps(record).encode())
    return path
