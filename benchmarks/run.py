"""Where README's figures come from: whole processes, page cache warm, in turn, medians.

    python benchmarks/run.py                      measure everything, print the tables, write benchmarks/results.json
    python benchmarks/run.py --readme             and put the tables into README.md, between their markers
    python benchmarks/run.py convert --runs 9     one group, more runs

The floor of a conversion is the start of Python with numpy and h5py plus one copy of the written bytes. The machine is
noisy: trust the ratios, which are taken pair by pair within one round.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
ARCHS = ("121", "161", "169", "201")
BACKENDS = ("tensorflow", "torch", "jax", "numpy")
SCRIPTED = ("121", "161")  # those for which the user's script is timed as well: it takes half a minute a run
TOOL = Path(sys.executable).with_name("densenet-port")
MIB = 2**20


class Cost(NamedTuple):
    """One process: wall seconds and peak resident memory in MiB."""

    seconds: float
    memory: float


def measure(command: Sequence[Any], **environment: str) -> Cost:
    """Run a command to its end; its failure is ours."""
    start = time.perf_counter()
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*map(str, command)], stdout=said, stderr=said, env={**inherited, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{said.read().decode()[-2000:]}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def in_turn(tasks: Mapping[str, Callable[[], Cost]], runs: int) -> dict[str, list[Cost]]:
    """Every task once as a warm-up, then all of them in turn, `runs` times."""
    costs: dict[str, list[Cost]] = {name: [] for name in tasks}
    for turn in range(runs + 1):
        for name, task in tasks.items():
            cost = task()
            if turn:
                costs[name].append(cost)
    return costs


def ratio(above: Sequence[Cost], below: Sequence[Cost]) -> float:
    """Median of the ratios of wall times within each round."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(above, below, strict=True))


def seconds(costs: Sequence[Cost]) -> float:
    """Median wall time."""
    return statistics.median(cost.seconds for cost in costs)


def memory(costs: Sequence[Cost]) -> float:
    """Largest peak."""
    return max(cost.memory for cost in costs)


# -- groups ------------------------------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> dict[str, Path]:
    """Torchvision checkpoints with random weights, written by torch, in a process of its own.

    This one must stay small: the system counts the memory that a child shares before it becomes another program.
    """
    write = "import sys; from pathlib import Path; from tests.support.networks import checkpoint_file; "
    write += "[print(checkpoint_file(Path(sys.argv[1]), arch, 'zip')) for arch in sys.argv[2:]]"
    command = [sys.executable, "-c", write, str(folder), *ARCHS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return {arch: Path(line) for arch, line in zip(ARCHS, told.stdout.splitlines(), strict=True)}


def convert(folder: Path, runs: int, _backends: Sequence[str]) -> dict[str, Any]:
    """A `.pth` of torchvision to `.weights.h5`: densenet-port, the floor, and a user's script on two backends."""
    files, rows, out = checkpoints(folder), {}, folder / "out.weights.h5"
    for arch, source in files.items():

        def floor() -> Cost:
            start = measure([sys.executable, "-c", "import numpy, h5py"])
            copying = time.perf_counter()
            shutil.copyfile(out, folder / "copy")
            return Cost(start.seconds + time.perf_counter() - copying, start.memory)

        tool = partial(measure, [TOOL, "convert", source, "--out", out, "--force"])
        fast = in_turn({"tool": tool, "floor": floor}, runs)
        rows[arch] = {
            "bytes": source.stat().st_size,
            "tool_seconds": seconds(fast["tool"]),
            "tool_mib": memory(fast["tool"]),
            "floor_seconds": seconds(fast["floor"]),
            "times_floor": ratio(fast["tool"], fast["floor"]),
        }
        if arch in SCRIPTED:
            naive = [sys.executable, ROOT / "benchmarks" / "naive.py", arch, source, folder / "naive.weights.h5"]
            rows[arch] |= scripted(tool, naive, scripted_runs(runs))
    return rows


def scripted_runs(runs: int) -> int:
    """How often the user's script runs, which takes some twenty times as long as the tool."""
    return max(2, runs // 3)


def scripted(tool: Callable[[], Cost], naive: Sequence[Any], runs: int) -> dict[str, float]:
    """The user's script on two backends, beside the tool."""
    slow = in_turn(
        {
            "tool": tool,
            "tensorflow": partial(measure, naive, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3"),
            "torch": partial(measure, naive, KERAS_BACKEND="torch"),
        },
        runs,
    )
    return {
        f"{name}_{what}": value
        for name in ("tensorflow", "torch")
        for what, value in (
            ("seconds", seconds(slow[name])),
            ("mib", memory(slow[name])),
            ("speedup", ratio(slow[name], slow["tool"])),
        )
    }


def convert_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The conversions as Markdown."""
    lines = [
        "| `.pth` → `.weights.h5` | densenet-port | times the floor | a script, TensorFlow | a script, PyTorch |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arch, row in rows.items():
        cells = [f"{row['tool_seconds']:.2f} s, {row['tool_mib']:.0f} MiB", f"{row['times_floor']:.2f}"]
        cells += [
            f"{row[f'{name}_seconds']:.1f} s, {row[f'{name}_mib']:.0f} MiB ({row[f'{name}_speedup']:.0f}×)"
            if f"{name}_seconds" in row
            else "–"
            for name in ("tensorflow", "torch")
        ]
        lines.append(f"| {arch}, {row['bytes'] / MIB:.0f} MiB | {' | '.join(cells)} |")
    return "\n".join(lines)


def check(folder: Path, _runs: int, backends: Sequence[str]) -> dict[str, Any]:
    """`check` of every network against torch's file on every backend, and what it costs for 121."""
    rows: dict[str, Any] = {}
    for arch, source in checkpoints(folder).items():
        port, saved = folder / f"{arch}.weights.h5", folder / f"{arch}.npz"
        measure([TOOL, "convert", source, "--out", port])
        against, kept = ["--against", source, "--save-reference", saved], ["--reference", saved]
        rows[arch] = {
            backend: checked([TOOL, "check", port, "--backend", backend, *(kept if saved.exists() else against)])
            for backend in backends
        }
    return rows


def checked(command: Sequence[Any]) -> dict[str, float]:
    """The worst figures of a check that passed."""
    start = time.perf_counter()
    done = subprocess.run([*map(str, command), "--json"], capture_output=True, text=True, check=False)
    data = json.loads(done.stdout)
    if not data["passed"]:
        sys.exit(f"{' '.join(map(str, command))} did not pass")
    kinds = {kind: [f for f in data["figures"] if f["precision"] == kind] for kind in ("float64", "float32")}
    return {
        "float64": max(figure["largest"] for figure in kinds["float64"]),
        "float32": max(figure["largest"] for figure in kinds["float32"]),
        "ratio": max(figure["distance"] / figure["noise"] for figure in kinds["float32"]),
        "top1": min(figure["top1"] for figure in kinds["float32"]),
        "seconds": time.perf_counter() - start,
    }


def check_table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The checks as Markdown: in float64 the backends that compute in it, in float32 all of them."""
    lines = [
        "| network | float64: TensorFlow | numpy | float32: TensorFlow | torch | JAX | numpy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arch, row in rows.items():
        exact = [f"{row[backend]['float64']:.1e}" for backend in ("tensorflow", "numpy")]
        single = [f"{row[backend]['float32']:.1e} ({row[backend]['ratio']:.2f}×)" for backend in BACKENDS]
        lines.append(f"| {arch} | {' | '.join((*exact, *single))} |")
    agree = min(figures["top1"] for row in rows.values() for figures in row.values())
    told = (
        "Largest difference of any logit in deviations of the logits; in brackets, RMS over torchvision's own float32."
    )
    return "\n".join((*lines, "", f"{told} Same best class: {agree:.0%} of the images."))


def sides(folder: Path, runs: int, _backends: Sequence[str]) -> dict[str, Any]:
    """What a check of 121 costs beside its slower side alone, and `verify` with golden logits."""
    source, port = checkpoints(folder)["121"], folder / "121.weights.h5"
    measure([TOOL, "convert", source, "--out", port, "--force"])
    golden = folder / "121.weights.h5.golden.npz"
    measure([TOOL, "check", port, "--against", source, "--size", "64", "--save-reference", golden])
    alone = "from pathlib import Path; import sys; from densenet_port.conversion.load import read; "
    alone += "from densenet_port.prove import images, recording; port, source = map(read, map(Path, sys.argv[1:])); "
    alone += "seen = images.make_probes(source, images.SIZES, 2, None, 0); "
    ends = {"reference": "recording.run_reference(source, seen)"}
    ends["port"] = "recording.run_port(port, seen)"
    tasks: dict[str, Callable[[], Cost]] = {
        name: lambda end=end: measure([sys.executable, "-c", alone + end, port, source]) for name, end in ends.items()
    }
    tasks["check"] = lambda: measure([TOOL, "check", port, "--against", source])
    tasks["verify"] = lambda: measure([TOOL, "verify", port])
    costs = in_turn(tasks, runs)
    slower = max(("reference", "port"), key=lambda name: seconds(costs[name]))
    found = {name: seconds(many) for name, many in costs.items()}
    return {**found, "times_slower": ratio(costs["check"], costs[slower])}


def sides_table(row: Mapping[str, float]) -> str:
    """The costs as Markdown."""
    cells = [f"{row[name]:.1f} s" for name in ("reference", "port", "check")]
    return "\n".join(
        (
            "| 121, TensorFlow | torchvision alone | Keras alone | check | times the slower side | golden `verify` |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| both precisions | {' | '.join(cells)} | {row['times_slower']:.2f} | {row['verify']:.1f} s |",
        )
    )


GROUPS = {"convert": (convert, convert_table), "check": (check, check_table), "sides": (sides, sides_table)}


# -- the whole ---------------------------------------------------------------------------------------------------------


def machine() -> str:
    """What it was run on, for the line under a table."""
    packages = []
    for name in ("numpy", "h5py", "torch", "keras", "tensorflow", "tensorflow-cpu", "jax"):
        try:
            packages.append(f"{name} {version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return (
        f"{os.cpu_count()} {platform.machine()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(packages)}, {datetime.now(UTC).date()}"
    )


def into(path: Path, name: str, text: str) -> None:
    """Replace what stands between a table's markers in a document."""
    old = path.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(old):
        sys.exit(f"{path} has no markers for {name}")
    path.write_text(marked.sub(lambda found: f"{found[1]}{text}\n{found[2]}", old), encoding="utf-8")


def main() -> None:
    """Measure the groups asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=BACKENDS, help="of the checks")
    parser.add_argument("--readme", action="store_true")
    given = parser.parse_args()
    path = ROOT / "benchmarks" / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in given.groups or GROUPS:
        run, table = GROUPS[name]
        runs = 1 if name == "check" else given.runs  # a check's figures are numbers, not times
        with tempfile.TemporaryDirectory() as folder:
            rows = run(Path(folder), runs, given.backends)
        results[name] = {"machine": machine(), "runs": runs, "rows": rows}
        path.write_text(json.dumps(results, indent=1) + "\n")
        told = f"{runs} run{'s' if runs > 1 else ''}"
        told += f", {scripted_runs(runs)} of the scripts" if name == "convert" else ""
        text = f"{table(rows)}\n\n{results[name]['machine']}; {told}."
        print(text)
        if given.readme:
            into(ROOT / "README.md", name, text)


if __name__ == "__main__":
    main()
