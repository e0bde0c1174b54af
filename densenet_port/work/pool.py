"""Items done by worker processes of this machine, which are started once and stay warm.

Each worker is `python -m densenet_port.work.worker`: no fork of this process, which may have started a framework or a
thread that no fork survives, and no second import of the caller's script, as `multiprocessing` would make. Between the
two go pickles of our own, each with its length before it: first what makes the worker's callable, then an item, what
became of it, and the next item. A worker ends, with all that it started, when its stdin does: however this process
ends, no worker outlives it.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Lock
from typing import IO, Any, Generic, TypeVar, cast

from densenet_port.errors import PortError
from densenet_port.work.worker import receive, send

Item = TypeVar("Item")
Task = Callable[[Item], dict[str, Any]]

AHEAD = 2  # items for each worker that are taken before results are, so that none waits for whoever keeps those
STARTS = 3  # of a worker that ends before it is ready
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclass(frozen=True, slots=True)
class Done(Generic[Item]):
    """What became of an item: its result; or None, and in `lost` how it was lost."""

    item: Item
    result: dict[str, Any] | None
    lost: str | None


def run(
    items: Sequence[Item], make: Callable[[], Task[Item]], *, jobs: int, threads: int | None = None
) -> Iterator[Done[Item]]:
    """Do items in `jobs` processes, one at a time in each; every item comes back once, in the order they are done.

    `make` is called once in each process, and what it makes with each item; both are pickled, as the results are.
    `threads` bounds the threads of each process's numerical libraries. An item is lost where the callable raises, or
    where its process ends: another process takes its place, and no other item notices. Workers end when the iterator
    does, whatever ended it. Raises the PortError that `make` raises, and PortError where no worker can be started.
    """
    todo = iter(items)
    jobs = min(jobs, len(items))
    if not jobs:
        return
    with TemporaryDirectory(prefix="densenet-port-") as folder:
        workers = [_Worker(make, _environment(threads, folder)) for _ in range(jobs)]
        free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in workers:
            free.put(worker)

        def do(item: Item) -> Done[Item]:
            worker = free.get()
            try:
                return worker.do(item)
            finally:
                free.put(worker)

        waiting = ThreadPoolExecutor(jobs)
        running = {waiting.submit(do, item) for item in islice(todo, AHEAD * jobs)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running |= {waiting.submit(do, item) for item in islice(todo, 1)}
                    yield future.result()
        finally:
            for worker in workers:
                worker.end()
            waiting.shutdown(cancel_futures=True)
            for worker in workers:
                worker.close()


def _environment(threads: int | None, folder: str) -> dict[str, str]:
    """What a worker sees: this process's environment and packages, and a folder for temporary files that will go."""
    bounds = {} if threads is None else dict.fromkeys(THREADS, str(threads))
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": folder, **bounds}


class _Worker:
    """A process that does one item at a time: started when there is one, and again where it ended."""

    def __init__(self, make: Callable[[], Any], environment: Mapping[str, str]) -> None:
        """Keep what makes the callable, and what the process sees."""
        self._make = pickle.dumps(make)
        self._environment = environment
        self._process: Process | None = None
        self._is_over = False
        self._lock = Lock()  # `end` comes from another thread

    def do(self, item: Item) -> Done[Item]:
        """What becomes of an item. Raises what `make` raises, and PortError where no process can be started."""
        process = self._process or self._ready()
        try:
            result, lost = process.ask(pickle.dumps(item))
        except (OSError, EOFError):
            self._process, result, lost = None, None, f"its process {process.ended()}"
        return Done(item, result, lost)

    def end(self) -> None:
        """End the process, and start no other: a thread that waits for its answer goes on."""
        with self._lock:
            self._is_over = True
            if self._process:
                self._process.kill()

    def close(self) -> None:
        """Let go of the process, once no thread waits for it any more."""
        if self._process:
            self._process.ended()

    def _ready(self) -> "Process":
        """A process that has made its callable."""
        words = "was not started"
        for _ in range(STARTS):
            with self._lock:
                if self._is_over:
                    break
                self._process = process = Process(self._environment)
            try:
                _, error = process.ask(self._make)
            except (OSError, EOFError):
                self._process, words = None, process.ended()
                continue
            if error is not None:
                raise error
            return process
        raise PortError(f"a worker process {words}")


class Process:
    """A process of `densenet_port.work.worker`, and what is said between it and us."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it, in a session of its own: an interrupt at the terminal is for whoever started it."""
        command = [sys.executable, "-P", "-m", "densenet_port.work.worker"]
        self._printed = TemporaryFile()  # noqa: SIM115 (`ended` closes it)
        self._process = subprocess.Popen(  # noqa: S603 (this very package)
            command, env=environment, stdin=PIPE, stdout=PIPE, stderr=self._printed, start_new_session=True
        )
        self._questions, self._answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def ask(self, message: bytes) -> Any:
        """What it answers to a message. Raises OSError or EOFError where it has ended."""
        send(self._questions, message)
        return pickle.loads(receive(self._answers))  # noqa: S301 (of our own worker)

    def kill(self) -> None:
        """End it, with all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def ended(self) -> str:
        """How it ended, and the last line that it printed; nothing that it started is left, and nothing open."""
        code = self._process.wait()
        self.kill()
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        for file in (self._printed, self._questions, self._answers):
            with suppress(OSError):
                file.close()
        printed = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
        if code < 0:
            memory = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"was ended by signal {-code}{memory}{printed}"
        return f"ended with exit code {code}{printed}"
