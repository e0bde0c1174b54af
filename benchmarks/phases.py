"""Where the time of a conversion goes: a `.pth` of torchvision's to `.weights.h5`, phase by phase, for several sizes.

    python benchmarks/phases.py [--runs 9] [--src torchvision] [ARCH …]

Each run is a process of its own, the files are in the page cache. The phases are told by the functions in `PHASES`,
which are timed in the very code that a user runs; what a function spends in another of them counts there. CPU is that
of the main thread: digests are taken beside it, in another. The rows are milliseconds, the least of all runs, which
on a busy machine is nearest to what the work takes. The floor is what any program pays that uses numpy and h5py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

ARCHS = ("121", "161", "201", "layers=6-12-24-16,growth_rate=104,init_channels=208")  # the last has ten times the 121
PHASES = {  # phase → the function, as the caller knows it
    "open the container": ("densenet_port.conversion.convert", "opened"),
    "identify the layout": ("densenet_port.conversion.load", "identify"),
    "what else is known of the function": ("densenet_port.conversion.load", "known"),
    "statistics: wiring": ("densenet_port.conversion.load", "wired"),
    "statistics: function": ("densenet_port.conversion.load", "heard"),
    "read, the rest": ("densenet_port.conversion.convert", "read"),
    "plan": ("densenet_port.conversion.convert", "plan"),
    "wait for the disk": ("densenet_port.files", "_settle"),
    "rename": ("densenet_port.files", "_bring_in"),
    "load, turn and write": ("densenet_port.conversion.convert", "write_plan"),
    "convert, the rest": ("densenet_port.conversion.convert", "convert"),
}
IMPORTS = (
    "cli.app",
    "cli.convert",
    "cli.converted",
    "conversion.convert",
    "formats.torch.pth",
    "formats.keras.h5_write",
)
FLOOR = "import numpy, h5py"


class Clock:
    """Seconds by phase, without those of phases within: wall time, and the main thread's CPU."""

    def __init__(self) -> None:
        """Nothing is timed yet."""
        self.spent: dict[str, list[float]] = {}
        self.within: list[list[float]] = []

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for a phase."""

        def run(*arguments: Any, **named: Any) -> Any:
            begun, inner = (time.perf_counter(), time.thread_time()), [0.0, 0.0]
            self.within.append(inner)
            try:
                return function(*arguments, **named)
            finally:
                self.within.pop()
                whole = time.perf_counter() - begun[0], time.thread_time() - begun[1]
                row = self.spent.setdefault(phase, [0.0, 0.0])
                for place, seconds in enumerate(whole):
                    row[place] += seconds - inner[place]
                    if self.within:
                        self.within[-1][place] += seconds

        return run


def child(words: list[str]) -> None:
    """Run a command in this process, and print what its phases took as JSON."""
    clock = Clock()
    clock.timed("imports", lambda: [import_module(f"densenet_port.{name}") for name in IMPORTS])()
    for phase, (module, name) in PHASES.items():
        holder = import_module(module)
        setattr(holder, name, clock.timed(phase, getattr(holder, name)))
    app = import_module("densenet_port.cli.app")
    sys.argv = ["densenet-port", *words]
    try:
        with redirect_stdout(StringIO()):
            clock.timed("command line", app.main)()
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps(clock.spent))


def floor(copied: Path) -> dict[str, list[float]]:
    """What the floor takes: a process with numpy and h5py, and a copy of the written bytes."""
    code = f"import shutil, time, sys; {FLOOR}; begun = time.perf_counter(), time.process_time(); "
    code += "shutil.copyfile(sys.argv[1], sys.argv[1] + '.copy'); "
    code += "print(begun[1], time.perf_counter() - begun[0], time.process_time() - begun[1])"
    begun = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code, copied], capture_output=True, text=True, check=True).stdout
    whole = time.perf_counter() - begun
    start, wall, copy = map(float, said.split())
    return {"floor: start, numpy, h5py": [whole - wall, start], "floor: copy": [wall, copy]}


def measured(arch: str, runs: int, more: list[str], folder: Path) -> dict[str, list[float]]:
    """Phase → the least wall and CPU seconds of all runs."""
    from tests.support.networks import checkpoint_file

    source, out = checkpoint_file(folder, arch, "zip"), folder / "out.weights.h5"
    command = [sys.executable, __file__, "--child", "convert", str(source), "--out", str(out), "--force", *more]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    rows: dict[str, list[list[float]]] = {}
    for _ in range(runs + 1):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        for phase, seconds in {**json.loads(done.stdout), **floor(out)}.items():
            rows.setdefault(phase, []).append(seconds)
    return {phase: [min(column) for column in zip(*several[1:], strict=True)] for phase, several in rows.items()}


def main() -> None:
    """Print a table for each network."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=ARCHS)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--src")
    given = parser.parse_args()
    more = ["--src", given.src] if given.src else []
    for arch in given.archs:
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(arch, given.runs, more, Path(folder))
        print(f"\n{arch}\n{'phase':38} {'wall':>7} {'CPU':>7}")
        for phase, (wall, cpu) in sorted(rows.items(), key=lambda row: -row[1][1]):
            print(f"{phase:38} {1000 * wall:7.1f} {1000 * cpu:7.1f}")
        own = [row for phase, row in rows.items() if not phase.startswith("floor")]
        print(f"{'together':38} {1000 * sum(row[0] for row in own):7.1f} {1000 * sum(row[1] for row in own):7.1f}")


if __name__ == "__main__":
    main()
