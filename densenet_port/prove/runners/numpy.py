"""Our own forward pass, on a file of any layout."""

from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.conversion.load import Network, read
from densenet_port.layouts.layout import Kernels
from densenet_port.network.numpy import forward
from densenet_port.prove.runners import versions
from densenet_port.prove.worker import Job, Run


def run_numpy(job: Job) -> Run:
    """Our own forward pass on the file's weights, by the file's contract."""
    told, digests = _told_ours(
        cast("Path", job.path), job.table, cast("Kernels | None", job.kernels), job.within, job.dtype
    )
    found: dict[str, Array] = {}

    def tap(unit: str, output: Array) -> None:
        if unit in job.taps:
            found[unit] = output

    dtype = np.dtype(job.dtype)
    logits = forward(
        told.architecture, told.contract, told.weights, job.images, dtype=dtype, tap=tap if job.taps else None
    )
    return Run(logits=logits, taps=found, computed_in=logits.dtype.name, variables=digests, versions=versions())


@lru_cache(maxsize=1)
def _told_ours(
    path: Path, table: Path | None, kernels: Kernels | None, within: str | None, dtype: str
) -> tuple[Network, dict[str, str]]:
    """A file in our words, and the digests of its tensors in the run's dtype; kept for the next job on it."""
    told = read(path, src=table, kernels=kernels, within=within)
    return told, {str(slot): array_digest(array.astype(dtype)) for slot, array in told.weights.items()}
