"""How far two right float32 runs may be apart: the table of docs/parity.md."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, table
from benchmarks.measure import script


def measured(_folder: Path, plan: Plan) -> dict[str, Any]:
    """Ratios of a small network for many seeds, and of a 121 for two."""
    return dict(script("noise", *((2, 0) if plan.quick else (50, 2))))


def ratios(data: Data) -> str:
    """How they are distributed."""
    rows = []
    for network, backends in data.items():
        for backend, values in backends.items():
            top = statistics.quantiles(values, n=20, method="inclusive")[-1]
            rows.append(
                [network, backend, len(values), f"{statistics.median(values):.2f}", f"{top:.2f}", f"{max(values):.2f}"]
            )
    return table(["network", "port", "comparisons", "median", "95 %", "largest"], rows)


def render(data: Data) -> str:
    """The section: the largest, and where the rest stands."""
    largest = max(value for backends in data.values() for values in backends.values() for value in values)
    return (
        f"The port's distance to the float64 truth is at most {largest:.2f} times the reference's own "
        "([why eight is the bound](parity.md#why-eight))."
    )


GROUP = Group("Noise of float32", measured, render, tables={"docs/parity.md": ratios}, runs=1, asked=True)
