"""A `.pth` of torchvision to `.weights.h5`: densenet-port beside the least that such a process can cost."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import MIB, TOOL, Cost, cpu, in_turn, measure, peak, ratios, told, walls
from benchmarks.networks import NAMED, TENFOLD, File, checkpoints, samples

BESIDE = 32  # MiB that a conversion may take beside the floor and the largest tensor


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Each network, the tool and the floor in turn."""
    files = samples(folder) if plan.quick else checkpoints(folder, {**NAMED, **TENFOLD})
    return {name: one(folder, file, plan.runs) for name, (file,) in files.items()}


def one(folder: Path, file: File, runs: int) -> dict[str, Any]:
    """One network's file: its sizes in bytes, and the costs of a conversion and of the floor."""
    source, out = Path(file["path"]), folder / "out.weights.h5"
    tasks = {
        "tool": partial(tool, source, out),
        "with --src": partial(tool, source, out, "--src", "torchvision"),
        "floor": partial(floor, out, folder / "copy"),
    }
    sizes = {"parameters": file["parameters"], "largest": file["largest"], "bytes": source.stat().st_size}
    return {**sizes, "costs": in_turn(tasks, runs)}


def tool(source: Path, out: Path, *words: str) -> Cost:
    """One conversion, to a file that is not there."""
    out.unlink(missing_ok=True)
    return measure(TOOL, "convert", source, "--out", out, *words)


def floor(written: Path, copy: Path) -> Cost:
    """The start of Python with numpy and h5py, plus one copy of the written bytes, to a file that is not there."""
    copy.unlink(missing_ok=True)
    start = measure(sys.executable, "-c", "import numpy, h5py")
    begun, before = time.perf_counter(), os.times()
    shutil.copyfile(written, copy)
    wall, after = time.perf_counter() - begun, os.times()
    user = after.user - before.user
    return Cost(start.wall + wall, start.cpu + user + after.system - before.system, start.peak, start.user + user)


def bound(row: Mapping[str, Any]) -> float:
    """The most that a conversion should take, in MiB."""
    return float(peak(row["costs"]["floor"]) + row["largest"] / MIB + BESIDE)


def render(data: Data) -> str:
    """The section."""
    rows = []
    for name, row in data.items():
        costs = row["costs"]
        rows.append(
            [
                f"{name}, {row['parameters'] / 1e6:.1f} M, {row['bytes'] / MIB:.0f} MiB",
                walls(costs["tool"]),
                f"{cpu(costs['tool']):.2f} s",
                walls(costs["floor"]),
                told(ratios(costs["tool"], costs["floor"])),
                told(ratios(costs["with --src"], costs["floor"])),
                f"{peak(costs['tool']):.0f} MiB",
                f"{bound(row):.0f} MiB",
            ]
        )
    words = f"""`densenet-port convert X.pth --out X.weights.h5`, whole processes. The floor is a process `python -c
        "import numpy, h5py"` plus one copy of the written bytes, which need not reach the disk, while what the tool
        writes must. Both write a file that is not there yet. Aims: 1.5 times the floor, 1.4 where `--src` says the
        layout, and a peak (the last column) of the floor's, the largest tensor and {BESIDE} MiB."""
    columns = ["network", "wall", "processor", "floor", "times the floor", "with `--src`", "peak", "aim of the peak"]
    return sections(flowed(words), table(columns, rows))


GROUP = Group("One file", measured, render, runs=9)
