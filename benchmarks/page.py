"""What results.json says, in words: docs/benchmarks.md with its pictures, and the tables of other documents.

Nothing is measured here, and the same results give the same files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import batch, check, convert, evaluate, faults, growth, live, noise, others, phases, sides
from benchmarks.group import Data, Group, table
from benchmarks.measure import LOADED, MIB, peak, ratios, told, wall
from benchmarks.others import WAYS

Results = Mapping[str, Data]
GROUPS: dict[str, Group] = {
    "convert": convert.GROUP,
    "phases": phases.GROUP,
    "others": others.GROUP,
    "growth": growth.GROUP,
    "batch": batch.GROUP,
    "sides": sides.GROUP,
    "evaluate": evaluate.GROUP,
    "live": live.GROUP,
    "check": check.GROUP,
    "noise": noise.GROUP,
    "faults": faults.GROUP,
}
HEAD = """# What it costs

Measured by `make bench`, which writes this page, its pictures and README's tables from
[results.json](../benchmarks/results.json); `python -m benchmarks GROUP …` measures one group alone, `--quick` is a try.

Every figure is of whole processes on one machine and the same files, which the page cache holds. Ways that are compared
run in turn, after a warm-up. Times are medians, with the smallest and the largest in brackets; ratios are taken within
each round, and theirs is the median. Processor is user and system time of a process and its children, the peak the
largest resident memory of any one process. Trust the ratios: another machine has other seconds.
"""


def written(results: Results) -> dict[str, str]:
    """Path in `docs` → content: the page and its pictures."""
    parts, files = [HEAD], {}
    for name, group in GROUPS.items():
        if name not in results:
            parts.append(f"## {group.title}\n\nNot measured yet.\n")
            continue
        result = results[name]
        if "missing" in result:
            parts.append(f"## {group.title}\n\nNot measured: {result['missing']}\n")
            continue
        parts.append(f"## {group.title}\n\n{group.render(result['data'])}\n\n{circumstances(result)}\n")
        files |= {f"benchmarks/{picture}.svg": drawn for picture, drawn in group.charts(result["data"]).items()}
    return {"benchmarks.md": "\n".join(parts), **files}


def circumstances(result: Data) -> str:
    """On what, when, how often, and what else the machine did."""
    machine, load = result["machine"], result["load"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    threads = (
        ", ".join(f"{name}={number}" for name, number in machine["threads"].items())
        or "threads as the libraries choose"
    )
    runs = f"{result['runs']} run{'' if result['runs'] == 1 else 's'}" + (", a try" if result["quick"] else "")
    line = f"{runs}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, {versions}; {threads}; "
    line += f"{machine['date']}, {load['seconds']:.0f} s, load before {load['load']:.2f}"
    if "others" in load:
        line += f", {load['others']:.1%} of the processors' time was others'"
        if load["others"] > LOADED:
            line = f"**On a loaded machine.** {line}"
    return f"<sub>{line}.</sub>"


def fill(document: Path, name: str, content: str) -> None:
    """Replace what stands between a table's markers. Raises ValueError where there are none."""
    old = document.read_text(encoding="utf-8")
    filled = between(name).sub(lambda found: f"{found[1]}{content}\n{found[2]}", old)
    if not between(name).search(old):
        raise ValueError(f"{document} has no markers for {name}")
    document.write_text(filled, encoding="utf-8")


def between(name: str) -> re.Pattern[str]:
    """A table with its markers."""
    return re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)


def tables(results: Results) -> dict[str, dict[str, str]]:
    """Document → name → what stands between its markers."""
    filled: dict[str, dict[str, str]] = {}
    for name, group in GROUPS.items():
        if "data" not in results.get(name, {}):
            continue
        for document, render in group.tables.items():
            content = f"{render(results[name]['data'])}\n\n{circumstances(results[name])}"
            filled.setdefault(document, {})[name] = content
    if all("data" in results.get(name, {}) for name in ("convert", "others")):
        filled.setdefault("README.md", {})["convert"] = short(results)
    return filled


def short(results: Results) -> str:
    """README's table: a conversion beside the floor and other ways."""
    ways = [way for way in WAYS if way != "tool"]
    rows = []
    for name, row in results["convert"]["data"].items():
        costs, other = row["costs"], results["others"]["data"][name]["costs"]
        own = f"{wall(costs['tool']):.2f} s, {peak(costs['tool']):.0f} MiB"
        cells = [
            f"{wall(other[way]):.1f} s, {peak(other[way]):.0f} MiB ({told(ratios(other[way], other['tool'])[:1], 0)}×)"
            if way in other
            else "–"
            for way in ways
        ]
        rows.append([f"{name}, {row['bytes'] / MIB:.0f} MiB", own, told(ratios(costs["tool"], costs["floor"])), *cells])
    columns = ["`.pth` → `.weights.h5`", "densenet-port", "times the floor", *(WAYS[way] for way in ways)]
    return f"{table(columns, rows)}\n\n{circumstances(results['convert'])}"


def write(results: Results, folder: Path) -> None:
    """Write the page and its pictures into a folder."""
    for name, content in written(results).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def write_tables(results: Results, root: Path) -> None:
    """Fill the tables of the repository's documents."""
    for document, contents in tables(results).items():
        for name, content in contents.items():
            fill(root / document, name, content)


def merge(results: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    """Put a group's result in the place of the last, in the order of the page."""
    results[name] = result
    for known in [known for known in GROUPS if known in results]:
        results[known] = results.pop(known)
