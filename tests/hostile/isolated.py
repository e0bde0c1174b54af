"""A process of its own for each file: what it takes, and whether it comes back."""

import multiprocessing
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.hostile.judge import Verdict, high_water, judged, limit

FORK = multiprocessing.get_context("fork")
PATIENCE = 60  # seconds of the clock that a file may take before its process is stopped


class Apart(NamedTuple):
    """What came of a file in a process of its own, and the bytes that reading it took more than there were."""

    verdict: Verdict
    memory: int


def apart(path: Path, memory: int, read: Callable[[Path], Verdict] = judged) -> Apart:
    """Judge a file in a process that may take `memory` bytes more than it has; a death is the kind "signal"."""

    def judge(pipe: Any) -> None:
        limit(memory)
        before = high_water()
        verdict = read(path)
        pipe.send((tuple(verdict), high_water() - before))

    answer = called(judge)
    if isinstance(answer, int):
        return Apart(Verdict("hang" if answer == -signal.SIGKILL else "signal", PATIENCE, f"ended with {answer}"), 0)
    return Apart(Verdict(*answer[0]), answer[1])


def called(action: Callable[[Any], None], patience: float = PATIENCE) -> Any:
    """What an action sends through its pipe from a process of its own, or that process's exit code."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_quiet, args=(action, sender))
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(patience) else None
    except EOFError:
        answer = None
    if answer is None:
        process.join(0 if receiver.poll(0) else 1)
        process.kill()
    process.join()
    return process.exitcode if answer is None else answer


def _quiet(action: Callable[[Any], None], sender: Any) -> None:
    """Run it without leaving a core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    action(sender)
