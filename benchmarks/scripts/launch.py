"""Run a command and say what it cost, with all that it started, whether it waited for that or not.

    python -I -S benchmarks/scripts/launch.py RESULT COMMAND…

A process of its own, because the system counts the memory that a child shares before it becomes another program: this
one is small. It adopts orphans (Linux), such as workers that outlive the command, and their costs are counted, while
the wall time ends with the command. Writes JSON into RESULT: exit code, wall and processor seconds, those of the
processor in user mode alone, and the peak of the largest process in KiB.
"""

import ctypes
import json
import os
import sys
import time

ADOPT = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
PATIENCE = 30  # seconds that orphans have to end


def main(result: str, *command: str) -> None:
    """Run it to its end, then wait for what is left of it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    usages = [usage]
    while time.perf_counter() - start - wall < PATIENCE:
        try:
            ended, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if ended:
            usages.append(usage)
        else:
            time.sleep(0.01)
    cost = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "user": sum(usage.ru_utime for usage in usages),
        "peak": max(usage.ru_maxrss for usage in usages),
    }
    with open(result, "w", encoding="utf-8") as file:  # noqa: PTH123 (a small process imports little)
        json.dump(cost, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
