"""What a batch costs beside single runs: wall and CPU seconds, throughput by processes, peak memory of a worker.

    python benchmarks/batch.py                         200 small files and 200 of a 121's size
    python benchmarks/batch.py --files 40 --arch 121   fewer of one size; single runs are timed for a fifth of them

Files are hard links to one of torchvision's with random weights; results go to a temporary folder of the system's. One
process, two, and single runs take turns, and each figure is the median of the rounds: trust the ratios, on a machine
that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TOOL = [sys.executable, "-m", "densenet_port"]
SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
TICK = 0.02  # seconds between two looks at the processes


class Cost(NamedTuple):
    """A command: wall seconds, CPU seconds with all that it started, and the largest process of its own in MiB."""

    wall: float
    cpu: float
    memory: float


def cost(*words: object) -> Cost:
    """Run the tool to its end; its failure is ours."""
    before, start = os.times(), time.perf_counter()
    peak = 0
    with subprocess.Popen([*TOOL, *map(str, words)], stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, largest(process.pid))
            time.sleep(TICK)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {process.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - start, cpu, peak / 1024)


def largest(driver: int) -> int:
    """The peak of the workers of a process so far, in KiB; 0 without one."""
    peak = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if int(facts["PPid"]) == driver and "VmHWM" in facts:
            peak = max(peak, int(facts["VmHWM"].split()[0]))
    return peak


def compared(arch: str, files: int, rounds: int) -> dict[str, object]:
    """The medians of one size."""
    from tests.support.networks import checkpoint_file

    with tempfile.TemporaryDirectory(prefix="densenet-port-batch-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        source = checkpoint_file(folder, arch, "zip")
        for number in range(files):
            (folder / "in" / f"{number}.pth").hardlink_to(source)
        singles = max(1, files // 5)

        def batch(jobs: int, turn: int) -> Cost:
            return cost("batch", folder / "in", "--out", folder / f"out{jobs}-{turn}", "--jobs", jobs)

        def alone(_jobs: int, turn: int) -> Cost:
            out = folder / f"single{turn}"
            out.mkdir()
            runs = [cost("convert", source, "--out", out / f"{number}.weights.h5") for number in range(singles)]
            return Cost(sum(run.wall for run in runs), sum(run.cpu for run in runs), 0)

        ways: dict[str, tuple[Callable[[int, int], Cost], int, int]] = {
            "1 process": (batch, 1, files),
            "2 processes": (batch, 2, files),
            "single runs": (alone, 0, singles),
        }
        costs: dict[str, list[Cost]] = {way: [] for way in ways}
        for turn in range(rounds):
            for way, (run, jobs, _) in ways.items():
                costs[way].append(run(jobs, turn))
                for left in (*folder.glob("out*"), *folder.glob("single*")):
                    shutil.rmtree(left)
    rate = {way: ways[way][2] / statistics.median(one.wall for one in costs[way]) for way in ways}
    return {
        "arch": arch,
        "files": files,
        "files a second": {way: round(value, 2) for way, value in rate.items()},
        "CPU seconds a file": {
            way: round(statistics.median(one.cpu for one in costs[way]) / ways[way][2], 3) for way in ways
        },
        "two processes over one": round(rate["2 processes"] / rate["1 process"], 2),
        "two processes over single runs": round(rate["2 processes"] / rate["single runs"], 2),
        "one process over single runs": round(rate["1 process"] / rate["single runs"], 2),
        "peak of a worker, MiB": round(max(one.memory for one in costs["2 processes"])),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Print a JSON object for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", action="append")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for arch in chosen.arch or (SMALL, "121"):
        print(json.dumps(compared(arch, chosen.files, chosen.rounds), indent=1), flush=True)


if __name__ == "__main__":
    main()
