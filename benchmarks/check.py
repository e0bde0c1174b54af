"""How far a port is from its original on every backend: what `check` measures, of every published network."""

from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import TOOL, answer, measure
from benchmarks.networks import NAMED, SMALL_SPEC, calibrated

BACKENDS = ("tensorflow", "torch", "jax", "numpy")
EXACT = ("tensorflow", "numpy")  # Keras computes in float64 on TensorFlow alone


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """The worst figures of each network on each backend; the original runs once for all of them."""
    rows: dict[str, Any] = {}
    for name, source in calibrated(folder, *([SMALL_SPEC] if plan.quick else NAMED)).items():
        port, kept = folder / f"{name}.weights.h5", folder / f"{name}.npz"
        measure(TOOL, "convert", source, "--out", port)
        rows[name] = {}
        for backend in ("numpy",) if plan.quick else BACKENDS:
            against = ("--reference", kept) if kept.exists() else ("--against", source, "--save-reference", kept)
            rows[name][backend] = worst(answer(TOOL, "check", port, "--backend", backend, *against, "--json"))
    return rows


def worst(report: dict[str, Any]) -> dict[str, float]:
    """The figures of a check that are furthest off; `check` itself has failed where they exceed their bounds."""
    exact, single = (
        [figure for figure in report["figures"] if figure["precision"] == kind] for kind in ("float64", "float32")
    )
    return {
        "float64": max(figure["largest"] for figure in exact),
        "float32": max(figure["largest"] for figure in single),
        "ratio": max(figure["distance"] / figure["noise"] for figure in single),
        "top1": min(figure["top1"] for figure in single),
    }


def render(data: Data) -> str:
    """The section."""
    backends = [name for name in BACKENDS if all(name in row for row in data.values())]
    exact = [name for name in EXACT if name in backends]
    titles = {"tensorflow": "TensorFlow", "jax": "JAX"}
    columns = [f"float64: {titles.get(name, name)}" for name in exact]
    columns += [f"float32: {titles.get(name, name)}" for name in backends]
    rows = [
        [
            name,
            *(f"{row[backend]['float64']:.1e}" for backend in exact),
            *(f"{row[backend]['float32']:.1e} ({row[backend]['ratio']:.2f}×)" for backend in backends),
        ]
        for name, row in data.items()
    ]
    agree = min(figures["top1"] for row in data.values() for figures in row.values())
    words = f"""The largest difference of any logit, in deviations of the logits; in brackets, the root mean square over
        torchvision's own distance in float32 ([the bound is eight](parity.md#why-eight)). Same best class: {agree:.0%}
        of the images."""
    return sections(flowed(words), table(["network", *columns], rows))


GROUP = Group("What a check measures", measured, render, runs=1)
