"""Our own forward pass, on a file of any layout."""

from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import numpy as np

from densenet_port.arch import Slot
from densenet_port.checkpoint import Array, array_digest
from densenet_port.forward import forward
from densenet_port.frameworks import Job, Run
from densenet_port.gather import Ours, ours
from densenet_port.mapping import Kernels
from densenet_port.runners import versions


def run_numpy(job: Job) -> Run:
    """Our own forward pass on the file's weights, by the file's contract."""
    told, digests = _told_ours(
        cast("Path", job.path), job.table, cast("Kernels | None", job.kernels), job.within, job.dtype
    )
    found: dict[str, Array] = {}

    def tap(unit: str, output: Array) -> None:
        if unit in job.taps:
            found[unit] = output

    weights = partial(_loaded_slot, told)
    dtype = np.dtype(job.dtype)
    logits = forward(told.architecture, told.contract, weights, job.images, dtype=dtype, tap=tap if job.taps else None)
    return Run(logits=logits, taps=found, computed_in=logits.dtype.name, variables=digests, versions=versions())


@lru_cache(maxsize=1)
def _told_ours(
    path: Path, table: Path | None, kernels: Kernels | None, within: str | None, dtype: str
) -> tuple[Ours, dict[str, str]]:
    """A file in our words, and the digests of its tensors in the run's dtype; kept for the next job on it."""
    told = ours(path, src=table, kernels=kernels, within=within)
    return told, {str(slot): array_digest(load().astype(dtype)) for slot, load in told.weights.items()}


def _loaded_slot(told: Ours, slot: Slot) -> Array:
    return told.weights[slot]()
