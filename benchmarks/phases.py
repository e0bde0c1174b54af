"""Where the time of a conversion goes, phase by phase."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import script
from benchmarks.networks import NAMED, TENFOLD, checkpoints, samples

NETWORKS = {"121": NAMED["121"], **TENFOLD}


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Network → phase → wall and CPU seconds of each run, after one that warms up."""
    rows: dict[str, Any] = {}
    for name, (file,) in (samples(folder) if plan.quick else checkpoints(folder, NETWORKS)).items():
        words = ("convert", file["path"], "--out", folder / "out.weights.h5", "--force")
        taken = [script("phases", *words) for _ in range(plan.runs + 1)][1:]
        rows[name] = {phase: [[round(one, 5) for one in run[phase]] for run in taken] for phase in taken[0]}
    return rows


def render(data: Data) -> str:
    """The section: milliseconds, the longest phase of the first network first."""
    first = next(iter(data.values()))
    columns = [f"{name}, {what}" for name in data for what in ("wall", "CPU")]
    phases = sorted(first, key=lambda phase: -milliseconds(first[phase], 0))
    rows = [
        [phase, *(f"{milliseconds(row[phase], which):.1f} ms" for row in data.values() for which in (0, 1))]
        for phase in phases
    ]
    words = """Each phase without those within it, in the code that a user runs; the start of Python is not among them.
        CPU is that of the main thread: digests are taken beside it, in another."""
    return sections(flowed(words), table(["phase", *columns], rows))


def milliseconds(runs: list[list[float]], which: int) -> float:
    """The median."""
    return 1000 * statistics.median(run[which] for run in runs)


GROUP = Group("Where a conversion's time goes", measured, render, runs=5)
