"""What a check costs beside its sides alone, and where its time goes."""

import json
import os
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import MIB, SCRIPTS, TOOL, Failed, cpu, in_turn, measure, peak, ratios, told, wall, walls
from benchmarks.networks import SMALL_SPEC, calibrated

TITLES = {
    "reference": "the original alone, torchvision",
    "port": "the port alone, Keras on TensorFlow",
    "check": "`check`: both, and the verdict",
    "reference kept": "`check --reference`: the original recorded before",
    "verify": "`verify` with golden logits: numpy alone",
}
Phase = tuple[str, float, float]
SHORTEST = 0.02  # seconds of a span that the table and the picture show


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Each side alone, both, and the two ways without the original's software, in turn; then one check in spans."""
    source = next(iter(calibrated(folder, SMALL_SPEC if plan.quick else "121").values()))
    port, kept = folder / "port.weights.h5", folder / "kept.npz"
    measure(TOOL, "convert", source, "--out", port)
    checked = (TOOL, "check", port, "--against", source)
    measure(*checked, "--size", "64", "--save-reference", f"{port}.golden.npz")
    measure(*checked, "--save-reference", kept)
    alone = partial(measure, sys.executable, "-m", "benchmarks.scripts.alone")
    tasks = {
        "reference": partial(alone, "reference", port, source),
        "port": partial(alone, "port", port, source),
        "check": partial(measure, *checked),
        "reference kept": partial(measure, TOOL, "check", port, "--reference", kept),
        "verify": partial(measure, TOOL, "verify", port),
    }
    costs = in_turn(tasks, plan.runs, warm=not plan.quick)
    return {"bytes": source.stat().st_size, "costs": costs, "spans": spans(folder / "trace", checked)}


def spans(folder: Path, command: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What the processes of a check did when: label, start and end in seconds since the first began.

    Raises Failed where no run of a network is among them: what is traced has moved.
    """
    folder.mkdir()
    path = os.pathsep.join((str(SCRIPTS / "tracing"), os.environ.get("PYTHONPATH", "")))
    measure(*command, PYTHONPATH=path, DENSENET_PORT_TRACE=str(folder))
    traced = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
    runs = {span["pid"]: span["label"].partition(":")[0] for span in traced if ": float" in span["label"]}
    if not runs:
        raise Failed(f"no network's run was traced: {SCRIPTS / 'tracing' / 'sitecustomize.py'} names what has moved")
    begun = min(span["start"] for span in traced)
    found = [
        {
            "process": runs.get(span["pid"], "check"),
            "label": span["label"].removeprefix(f"{runs.get(span['pid'])}: "),
            "start": round(span["start"] - begun, 3),
            "end": round(span["end"] - begun, 3),
        }
        for span in traced
        if span["end"] - span["start"] >= SHORTEST
    ]
    return sorted(found, key=lambda span: (span["start"], -span["end"]))


def phases(data: Data) -> dict[str, list[Phase]]:
    """Process → its phases in order: label, start, end.

    What lies within an import belongs to it; what lies within a run or the building is cut out of it, so that both are
    seen. Phases of one label that follow each other are one.
    """
    processes: dict[str, list[Phase]] = {}
    for span in data["spans"]:
        row = processes.setdefault(span["process"], [])
        if span["label"] != "process":
            row.append((span["label"], span["start"], span["end"]))
    return {process: merged(innermost(row)) for process, row in processes.items()}


def innermost(spans: list[Phase]) -> list[Phase]:
    """Between any two edges the span that began last, of those that do not lie within an import."""
    shown = []
    for number, (label, start, end) in enumerate(spans):
        outer = [span for span in spans[:number] if span[0].startswith("import ")]
        if not any(begun <= start and end <= ended for _, begun, ended in outer):
            shown.append((label, start, end))
    edges = sorted({edge for _, *both in shown for edge in both})
    rows = []
    for start, end in pairwise(edges):
        if around := [span for span in shown if span[1] <= start and end <= span[2]]:
            rows.append((max(around, key=lambda span: (span[1], -span[2]))[0], start, end))
    return rows


def merged(rows: list[Phase]) -> list[Phase]:
    """Phases that show, those of one label that follow each other as one."""
    phases: list[Phase] = []
    for label, start, end in rows:
        if end - start < SHORTEST:
            continue
        begun = phases.pop()[1] if phases and phases[-1][0] == label else start
        phases.append((label, begun, end))
    return phases


def whole(data: Data, process: str) -> tuple[float, float]:
    """When a process began and ended."""
    mine = [span for span in data["spans"] if span["process"] == process]
    return min(span["start"] for span in mine), max(span["end"] for span in mine)


def render(data: Data) -> str:
    """The section."""
    costs = data["costs"]
    slower = max(("reference", "port"), key=lambda name: wall(costs[name]))
    rows = [
        [
            title,
            walls(costs[name], 1),
            f"{cpu(costs[name]):.1f} s",
            f"{peak(costs[name]):.0f} MiB",
            told(ratios(costs[name], costs[slower])),
        ]
        for name, title in TITLES.items()
    ]
    words = f"""A port of a network of {data["bytes"] / MIB:.0f} MiB, checked in both precisions on the images of a
        check without options. Each side alone is a process that reads both files and has one of them run. The peak is
        that of the largest process. The aim for a 121 is 9 s on two cores."""
    return sections(
        flowed(words),
        table(["what", "wall", "processor", "peak", "times the slower side"], rows),
        flowed(
            f"""Where the time of one check goes, {whole(data, "check")[1]:.1f} s with the tracing: seconds of each
            process by phase. Frameworks are imported where they are first asked for. The rest is the start of Python,
            our own imports, and what lies between; of the check's own process also the wait for the others.
            {ending(data)}"""
        ),
        profile(data),
        charts.picture("sides", "What each process of a check does when"),
    )


def ending(data: Data) -> str:
    """How long the check waited for processes that had nothing left to do."""
    lasts = [whole(data, process)[1] for process in phases(data) if process != "check"]
    judged = [start for label, start, _ in phases(data)["check"] if label == "judge"]
    if not lasts or not judged:
        return ""
    return (
        f"From the last line of the last of them to the verdict, while it is torn down, {judged[0] - max(lasts):.1f} s."
    )


def profile(data: Data) -> str:
    """Seconds of each process by phase."""
    processes = phases(data)
    labels = list(dict.fromkeys(label for row in processes.values() for label, _, _ in row))
    rows = []
    for process, row in processes.items():
        begun, ended = whole(data, process)
        seconds = [sum(end - start for name, start, end in row if name == label) for label in labels]
        cells = [f"{value:.2f}" if value else "" for value in (*seconds, ended - begun - sum(seconds))]
        rows.append([process, *cells, f"{ended - begun:.2f}"])
    return table(["process", *labels, "rest", "all"], rows)


def pictures(data: Data) -> dict[str, str]:
    """Each process over time."""
    rows = [(process, whole(data, process), row) for process, row in phases(data).items()]
    return {"sides": charts.timeline(rows, "seconds since the start of the check")}


GROUP = Group("A check", measured, render, pictures, runs=3)
