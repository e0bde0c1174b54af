"""Many files: `densenet-port batch` with one job and with two, beside as many single runs."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import (
    MIB,
    TOOL,
    Cost,
    Failed,
    cpu,
    in_turn,
    measure,
    peak,
    ratios,
    require_command,
    told,
    wall,
    walls,
)
from benchmarks.networks import NAMED, checkpoints, samples

FILES, FEW = 200, 4
WAYS = {"singles": "single runs of `convert`", "one job": "`batch --jobs 1`", "two jobs": "`batch --jobs 2`"}


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """All files by each way in turn; a first few are the warm-up."""
    require_command("batch")
    written = samples(folder, FEW) if plan.quick else checkpoints(folder, {"121": NAMED["121"]}, FILES)
    files = [Path(file["path"]) for each in written.values() for file in each]
    tasks = {
        "singles": partial(singles, folder, files),
        "one job": partial(batch, folder, files, 1),
        "two jobs": partial(batch, folder, files, 2),
    }
    for task in (singles, partial(batch, jobs=1), partial(batch, jobs=2)):
        task(folder, files[:2])
    costs = in_turn(tasks, plan.runs, warm=False)
    return {"files": len(files), "bytes": files[0].stat().st_size, "costs": costs}


def emptied(folder: Path) -> Path:
    """A folder for what is written, without what was written before."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return out


def singles(folder: Path, files: list[Path]) -> Cost:
    """One process after the other."""
    out = emptied(folder)
    costs = [measure(TOOL, "convert", file, "--out", out / f"{file.stem}.weights.h5") for file in files]
    return Cost(sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs), max(cost.peak for cost in costs))


def batch(folder: Path, files: list[Path], jobs: int) -> Cost:
    """One command for all of them. Raises Failed where a file was not written."""
    out = emptied(folder)
    cost = measure(TOOL, "batch", *files, "--out", out, "--jobs", jobs)
    written = len([*out.rglob("*.weights.h5")])
    if written != len(files):
        raise Failed(f"{written} of {len(files)} files were written")
    return cost


def render(data: Data) -> str:
    """The section."""
    costs, rows = data["costs"], []
    for way, title in WAYS.items():
        rows.append(
            [
                title,
                walls(costs[way], 1),
                f"{cpu(costs[way]):.1f} s",
                f"{data['files'] / wall(costs[way]):.1f}",
                f"{peak(costs[way]):.0f} MiB",
                told(ratios(costs["singles"], costs[way])),
                told(ratios(costs["one job"], costs[way])),
            ]
        )
    words = f"""{data["files"]} files of {data["bytes"] / MIB:.1f} MiB, each with other numbers, `.pth` → `.weights.h5`.
        The peak is that of the largest process. Aims for two jobs: 3 times the throughput of single runs, 1.7 times
        that of one job."""
    columns = ["way", "wall", "processor", "files a second", "peak", "throughput: single runs = 1", "one job = 1"]
    return sections(flowed(words), table(columns, rows), charts.picture("batch", "Files a second"))


def pictures(data: Data) -> dict[str, str]:
    """Files a second by way."""
    rates = {title.replace("`", ""): data["files"] / wall(data["costs"][way]) for way, title in WAYS.items()}
    return {"batch": charts.bars(rates, "files a second")}


GROUP = Group("Many files", measured, render, pictures, runs=2)
