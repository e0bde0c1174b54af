"""How the cost of a conversion grows with the size of the file: a 121 in ever larger widths, in as many tensors."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.convert import one
from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import MIB, cpu, peak, user, wall, walls
from benchmarks.networks import Shape, checkpoints

Median = Callable[[Sequence[Sequence[float]]], float]  # of one of the costs' numbers, over all runs

WIDTHS = (32, 64, 107, 144, 176, 210)  # 8 to 304 million parameters
NARROW = (8, 24, 32)
BOUND = 0.1  # of the user seconds: how far a straight line may pass by


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Each width, the tool and the floor in turn."""
    shapes = {str(width): Shape("6-12-24-16", width, 2 * width) for width in (NARROW if plan.quick else WIDTHS)}
    return {"rows": [one(folder, file, plan.runs) for (file,) in checkpoints(folder, shapes).values()]}


def fitted(data: Data, task: str, what: Median = wall) -> tuple[float, float]:
    """Slope and intercept, in seconds a MiB and seconds, of the line with the least squares of relative errors.

    Relative, because a run's scatter grows with its time; minimising sum(((a + b x - y) / y)²) is a linear problem in
    (1/y, x/y).
    """
    points = [(row["bytes"] / MIB, what(row["costs"][task])) for row in data["rows"]]
    ones, sizes = [1 / y for _, y in points], [x / y for x, y in points]
    a, b, c = (sum(p * q for p, q in zip(*pair, strict=True)) for pair in ((ones, ones), (ones, sizes), (sizes, sizes)))
    u, v = sum(ones), sum(sizes)
    return (a * v - b * u) / (a * c - b * b), (c * u - b * v) / (a * c - b * b)


def residuals(data: Data, task: str, what: Median = wall) -> list[float]:
    """How far the line passes by each point, as a share of the point."""
    slope, start = fitted(data, task, what)
    points = [(row["bytes"] / MIB, what(row["costs"][task])) for row in data["rows"]]
    return [(start + slope * x - y) / y for x, y in points]


def render(data: Data) -> str:
    """The section."""
    rows = []
    for row in data["rows"]:
        tool, under = row["costs"]["tool"], row["costs"]["floor"]
        sizes = [f"{row['parameters'] / 1e6:.0f} M", f"{row['bytes'] / MIB:.0f} MiB"]
        figures = [f"{user(tool):.2f} s", walls(tool), f"{cpu(tool):.2f} s", walls(under)]
        memory = [f"{peak(tool):.0f} MiB", f"{row['largest'] / MIB:.0f} MiB"]
        rows.append([*sizes, *figures, *memory])
    columns = ["parameters", "file", "user", "wall", "processor", "floor", "peak", "largest tensor"]
    words = """A 121 of other widths, so that the number of tensors stays the same and only the bytes grow. User is the
        processor's time without the system's: what the tool does itself. Lines: least squares of relative errors."""
    return sections(
        flowed(words),
        table(columns, rows),
        flowed(verdict(data)),
        charts.picture("growth-seconds", "Seconds by the size of the file"),
        charts.picture("growth-memory", "Peak memory by the size of the file"),
    )


def verdict(data: Data) -> str:
    """How far user and wall seconds are from a line, and what follows."""
    linear = "It is linear" if away(data, "tool", user) <= BOUND else "**It is not linear**"
    scatter = max(spread(row["costs"]["tool"]) for row in data["rows"])
    return f"""{linear} in what the tool does itself, {line(data, "tool", user)} of user time (the bound is
        {BOUND:.0%}); by the wall {line(data, "tool", wall)}, where runs of one size scatter by up to {scatter:.0%},
        and the floor {line(data, "floor", wall)}."""


def line(data: Data, task: str, what: Median) -> str:
    """A fitted line in words, and how far it passes by."""
    slope, start = fitted(data, task, what)
    return f"{start:.2f} s and {slope * 1024:.2f} s a GiB, off by at most {away(data, task, what):.1%}"


def away(data: Data, task: str, what: Median) -> float:
    """How far the line passes by the point that it is farthest from, as a share of that."""
    return max(map(abs, residuals(data, task, what)))


def spread(costs: list[list[float]]) -> float:
    """Largest less smallest wall seconds, over their median."""
    seconds = [cost[0] for cost in costs]
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def pictures(data: Data) -> dict[str, str]:
    """Seconds with the fitted line, and memory."""
    sizes = [row["bytes"] / MIB for row in data["rows"]]
    tasks = {"tool": "densenet-port", "floor": "the floor"}
    seconds = {title: [wall(row["costs"][task]) for row in data["rows"]] for task, title in tasks.items()}
    memory = {title: [peak(row["costs"][task]) for row in data["rows"]] for task, title in tasks.items()}
    lines = {title: fitted(data, task) for task, title in tasks.items()}
    return {
        "growth-seconds": charts.points(sizes, seconds, "MiB", "seconds", lines),
        "growth-memory": charts.points(sizes, memory, "MiB", "MiB, peak"),
    }


GROUP = Group("Growth", measured, render, pictures, runs=5)
