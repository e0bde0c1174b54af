"""A data set: `densenet-port evaluate` beside plain loops of the same frameworks, in images a second."""

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import TOOL, cpu, in_turn, measure, peak, require_command, script, told, walls
from benchmarks.networks import calibrated

FEW, MANY, BATCH = 64, 192, 32
TITLES = {
    "port": "`evaluate PORT`",
    "keras": "a plain Keras loop",
    "both": "`evaluate PORT --against ORIGINAL`",
    "torch": "a plain torch loop",
}
BESIDE = {"port": ("keras",), "both": ("keras", "torch")}  # the loops that do the same work


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Every way on few pictures and on many, in turn: what many take longer is free of starts and of building."""
    require_command("evaluate")
    few, many = (4, 12) if plan.quick else (FEW, MANY)
    source, port = calibrated(folder, "121")["121"], folder / "port.weights.h5"
    measure(TOOL, "convert", source, "--out", port)
    tasks = {}
    for count in (few, many):
        pictures = folder / f"{count} pictures"
        script("pictures", pictures, count)
        evaluate = partial(measure, TOOL, "evaluate", port, "--data", pictures, "--labels", f"{pictures}.txt")
        loop = partial(measure, sys.executable, "-m", "benchmarks.scripts.loop")
        tasks |= {
            f"port {count}": evaluate,
            f"keras {count}": partial(loop, "keras", port, pictures, BATCH, KERAS_BACKEND="tensorflow"),
            f"both {count}": partial(evaluate, "--against", source),
            f"torch {count}": partial(loop, "torch", source, pictures, BATCH),
        }
    for way in () if plan.quick else TITLES:  # a warm-up on the few is enough: what is warmed up are the frameworks
        tasks[f"{way} {few}"]()
    costs = in_turn(tasks, plan.runs, warm=False)
    return {"few": few, "many": many, "costs": costs}


def seconds(data: Data, way: str) -> list[float]:
    """What the many pictures took longer than the few, run by run."""
    pairs = zip(data["costs"][f"{way} {data['many']}"], data["costs"][f"{way} {data['few']}"], strict=True)
    return [many[0] - few[0] for many, few in pairs]


def rate(data: Data, way: str) -> float:
    """Images a second, of the median run."""
    return float((data["many"] - data["few"]) / statistics.median(seconds(data, way)))


def share(data: Data, way: str) -> list[float]:
    """Throughput over that of the plain loops that do the same work, run by run."""
    loops = [sum(each) for each in zip(*(seconds(data, loop) for loop in BESIDE[way]), strict=True)]
    return [loop / own for loop, own in zip(loops, seconds(data, way), strict=True)]


def render(data: Data) -> str:
    """The section."""
    rows = []
    for way, title in TITLES.items():
        costs = data["costs"][f"{way} {data['many']}"]
        beside = told(share(data, way)) if way in BESIDE else ""
        figures = [walls(costs, 1), f"{cpu(costs):.1f} s", f"{peak(costs):.0f} MiB"]
        rows.append([title, f"{rate(data, way):.1f}", beside, *figures])
    words = f"""A 121 on JPEGs of 500 × 375 pixels, Keras on TensorFlow, the original in torchvision. Images a second
        are those of what {data["many"]} pictures take longer than {data["few"]}, so that no start is in them; wall,
        processor and peak are those of the whole command on {data["many"]}. `evaluate` has a process of one thread for
        each core; the loops (`benchmarks/scripts/loop.py`) prepare a batch of {BATCH}, then run it with all cores.
        Against the loops: the throughput over that of the loops that do the same work, where there is an original both
        of them, one after the other. The aim is 0.9."""
    columns = ["way", "images a second", "against the loops", "wall", "processor", "peak"]
    return sections(flowed(words), table(columns, rows), charts.picture("evaluate", "Images a second"))


def pictures(data: Data) -> dict[str, str]:
    """Images a second by way."""
    titles = {**TITLES, "both": "evaluate --against"}
    return {
        "evaluate": charts.bars({titles[way].replace("`", ""): rate(data, way) for way in TITLES}, "images a second")
    }


GROUP = Group("A data set", measured, render, pictures, runs=2)
