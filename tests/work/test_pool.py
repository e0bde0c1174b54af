"""The pool: every item comes back once, whatever its process does, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from densenet_port.errors import PortError, UsageError
from densenet_port.work.pool import run
from tests.support.tasks import Ends, Task

ROOT = Path(__file__).parents[2]


def by_item(items, **settings):
    """Item → what became of it; each comes once."""
    done = list(run(items, Task, **settings))
    assert sorted(map(str, (one.item for one in done))) == sorted(map(str, items))
    return {one.item: one for one in done}


def gone(pid):
    """Whether a process ends within seconds."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_each_item_is_done_once_by_workers_that_stay():
    """Two processes, other ones than this, that make their callable once."""
    done = by_item(range(20), jobs=2)

    assert {item: one.result["twice"] for item, one in done.items()} == {item: 2 * item for item in range(20)}
    counts = {}
    for one in done.values():
        counts.setdefault(one.result["process"], []).append(one.result["done"])
    assert os.getpid() not in counts
    assert len(counts) <= 2
    assert all(sorted(numbers) == [*range(1, len(numbers) + 1)] for numbers in counts.values())


def test_a_worker_that_dies_loses_its_item_alone():
    """By a signal, by leaving; one that raises stays."""
    items = [1, "kill", 2, "leave", 3, "raises", 4]

    done = by_item(items, jobs=1)

    assert {item: one.lost for item, one in done.items() if one.lost} == {
        "kill": "its process was ended by signal 9 (out of memory?): to stdout, which is not for printing",
        "leave": "its process ended with exit code 3: no more of this",
        "raises": "ValueError: not so",
    }
    processes = [done[item].result["process"] for item in (1, 2, 3, 4)]
    assert len(set(processes)) == 3
    assert processes[2] == processes[3]


def test_what_cannot_be_made_is_an_error_of_ours():
    with pytest.raises(UsageError, match="no such table\n  name another"):
        list(run([1, 2], partial(Task, refused=True), jobs=2))
    with pytest.raises(PortError, match="^a worker process ended with exit code 1: it is not there$"):
        list(run([1], Ends, jobs=1))


def test_threads_are_bounded_and_temporary_files_have_their_folder():
    """Before a library is imported; the folder goes."""
    result = by_item(["settings"], jobs=1, threads=3)["settings"].result

    assert result["threads"] == "3"
    assert not Path(result["folder"]).exists()


def test_nothing_is_started_for_no_items():
    assert list(run([], Ends, jobs=2)) == []


def test_few_items_are_taken_before_results_are(tmp_path):
    """Two for each worker: whoever is slow with the results holds the work back, and whoever stops ends it."""
    results = run(range(10), partial(Task, folder=str(tmp_path)), jobs=2)

    next(results)
    time.sleep(0.5)
    results.close()

    assert len(list(tmp_path.iterdir())) <= 1 + 2 * 2


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_who_started_it(tmp_path, end):
    """Interrupted, or killed: neither the worker nor what it started is there any more."""
    script = (
        "import signal, sys; from densenet_port.work.pool import run; from tests.support.tasks import Task\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a background job's children ignore
        "list(run([f'sleep {sys.argv[1]} 60'], Task, jobs=1))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as driver:
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            time.sleep(0.05)
        driver.send_signal(end)
        driver.wait(10)

    assert driver.returncode == -end
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
