"""Costs of whole processes: wall, processor and memory, in turn, and what can be said of several runs."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.group import Missing

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(__file__).parent / "scripts"
TOOL = Path(sys.executable).with_name("densenet-port")
MIB = 2**20
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
PACKAGES = ("numpy", "h5py", "torch", "torchvision", "timm", "keras", "tensorflow", "tensorflow-cpu", "jax")
LOADED = 0.05  # of all cores: what other processes took while a group was measured, from which on the page says so


class Cost(NamedTuple):
    """A process with its children: wall and processor seconds, the peak of its largest process in MiB.

    `user` are the processor's seconds in user mode: what a program does itself, without what the system does for it.
    """

    wall: float
    cpu: float
    peak: float
    user: float = 0.0


Costs = Sequence[Cost]  # as JSON: a list of their numbers each


class Failed(Exception):  # noqa: N818 (it says which process did)
    """A process that should have succeeded."""


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a measured process: this one's, with bytecode that is kept, and this clone's packages."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")])), **more}


def measure(*command: Any, **environment: str) -> Cost:
    """Run a command to its end (`scripts/launch.py`). Raises Failed, with its last words."""
    words = [*map(str, command)]
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile() as result:
        launched = [sys.executable, "-I", "-S", SCRIPTS / "launch.py", result.name, *words]
        subprocess.run(launched, stdout=said, stderr=said, env=surroundings(**environment), check=True)
        cost = json.load(result)
        if cost["code"]:
            said.seek(0)
            raise Failed(f"{' '.join(words)} ended with {cost['code']}:\n{said.read().decode()[-2000:]}")
    return Cost(cost["wall"], cost["cpu"], cost["peak"] / 1024, cost["user"])


def script(name: str, *words: Any, **environment: str) -> Any:
    """The JSON that a script of `scripts/` prints as its last line. Raises Failed."""
    return answer(sys.executable, "-m", f"benchmarks.scripts.{name}", *words, **environment)


def answer(*command: Any, **environment: str) -> Any:
    """The JSON that a command prints as its last line. Raises Failed."""
    words = [*map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, env=surroundings(**environment), cwd=ROOT, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def require_command(name: str) -> None:
    """Raises Missing where densenet-port has no such command."""
    done = subprocess.run([TOOL, name, "--help"], capture_output=True, env=surroundings(), check=False)
    if done.returncode:
        raise Missing(f"This version has no command `densenet-port {name}`.")


def in_turn(tasks: Mapping[str, Callable[[], Cost]], runs: int, *, warm: bool = True) -> dict[str, list[Cost]]:
    """All tasks in turn, `runs` times, after each once as a warm-up. Run n of one stands beside run n of another."""
    costs: dict[str, list[Cost]] = {name: [] for name in tasks}
    for turn in range(-1 if warm else 0, runs):
        for name, task in tasks.items():
            cost = task()
            if turn >= 0:
                costs[name].append(Cost(*(round(value, 4) for value in cost)))
    return costs


# -- what several runs say ---------------------------------------------------------------------------------------------


def wall(costs: Sequence[Sequence[float]]) -> float:
    """Median of the wall seconds."""
    return statistics.median(cost[0] for cost in costs)


def cpu(costs: Sequence[Sequence[float]]) -> float:
    """Median of the processor seconds."""
    return statistics.median(cost[1] for cost in costs)


def user(costs: Sequence[Sequence[float]]) -> float:
    """Median of the processor's seconds in user mode."""
    return statistics.median(cost[3] for cost in costs)


def peak(costs: Sequence[Sequence[float]]) -> float:
    """The largest peak, in MiB."""
    return max(cost[2] for cost in costs)


def ratios(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> list[float]:
    """Wall seconds over wall seconds, run by run."""
    return [a[0] / b[0] for a, b in zip(above, below, strict=True)]


def told(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """Median, and in brackets the smallest and the largest."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit} ({low}–{high})" if len(values) > 1 else f"{middle}{unit}"


def walls(costs: Sequence[Sequence[float]], digits: int = 2) -> str:
    """The wall seconds in words."""
    return told([cost[0] for cost in costs], digits, " s")


# -- where and when ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What it is measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "date": str(datetime.now(UTC).date()),
    }


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """What the machine did meanwhile: the load average before, the seconds it took, and the share others had of it.

    That share is the processors' time that neither this process nor its children took, of all that there was; only
    Linux says it.
    """
    seen: dict[str, float] = {"load": round(os.getloadavg()[0], 2)}
    start, busy, own = time.perf_counter(), _busy(), _own()
    yield seen
    elapsed = time.perf_counter() - start
    seen["seconds"] = round(elapsed, 1)
    if busy is not None:
        others = (_busy() or 0.0) - busy - (_own() - own)
        seen["others"] = round(max(0.0, others / ((os.cpu_count() or 1) * elapsed)), 3)


def _busy() -> float | None:
    """Seconds that all processors together were not idle (proc_stat(5)), or None."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 (no file, a question to the system)
            user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
