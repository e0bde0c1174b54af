"""Our own forward pass, on a file of any layout."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.conversion.load import Network, read
from densenet_port.network.numpy import forward
from densenet_port.prove.job import Job, Run
from densenet_port.prove.runners import versions


def run_numpy(job: Job) -> Run:
    """Our own forward pass on the file's weights, by the file's contract."""
    network, digests = _loaded(job.bare())
    return run_network(network, digests, job)


def run_network(network: Network, digests: Mapping[str, str], job: Job) -> Run:
    """Our own forward pass on a network that was read."""
    taps: dict[str, Array] = {}

    def tap(unit: str, output: Array) -> None:
        if unit in job.taps:
            taps[unit] = output

    logits = forward(
        network.architecture,
        network.contract,
        network.weights,
        job.images,
        dtype=np.dtype(job.dtype),
        tap=tap if job.taps else None,
    )
    return Run(logits=logits, taps=taps, computed_in=logits.dtype.name, variables=digests, versions=versions())


@lru_cache(maxsize=1)
def _loaded(job: Job) -> tuple[Network, dict[str, str]]:
    """The job's network, and the digests of its tensors in the run's dtype; kept for the next job on it."""
    network = read_by_table(job)
    return network, {str(slot): array_digest(array.astype(job.dtype)) for slot, array in network.weights.items()}


def read_by_table(job: Job) -> Network:
    """The network in the job's file, by this project's own reader, with the job's contract where it says one.

    Raises as `conversion.load.read` does.
    """
    reading = job.reading
    network = read(
        job.path,
        src=reading.table,
        kernels=reading.kernels,
        within=reading.within,
        no_top=job.architecture is not None and job.architecture.classes is None,
        output_name=reading.output,
        ignore_inheritance=True,  # whoever gave the job has judged it
    )
    return network if job.contract is None else replace(network, contract=job.contract)
