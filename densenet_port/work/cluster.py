"""Items done by the machines of a Ray cluster, as `pool` has them done by the processes of one.

Each worker is an actor that is made once and stays warm. densenet-port is installed on every node, in one version, and
files have the same paths on all of them. These are plain actors, where Ray Data has pools of its own: those give each
result as it comes, too, and do a lost node's items again; but without end, so that an item that ends its process is
done for ever, and a cluster without nodes is waited for.
"""

import os
import pickle
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from densenet_port.about import TOOL
from densenet_port.errors import NetworkError, PortError, UsageError
from densenet_port.extras import framework
from densenet_port.work.pool import THREADS, Done, Item, Task
from densenet_port.work.worker import answer

TRIES = 3  # of an item whose worker is lost, and of workers in a row that cannot begin
PATIENCE = 180.0  # seconds within which some worker must be at work; Ray takes a minute to see that a node is dead
REACHED = 10.0  # seconds within which its address must answer
TICK = 1.0  # seconds after which it is looked whether one is


def run(
    items: Sequence[Item],
    make: Callable[[], Task[Item]],
    *,
    address: str,
    jobs: int | None = None,
    cpus: float = 1,
    patience: float = PATIENCE,
) -> Iterator[Done[Item]]:
    """Do items on the cluster at `address` (host:port, ray://host:port, auto), one at a time in each worker.

    There are `jobs` workers, or as many as fit; each has `cpus`, and as many threads in its numerical libraries. `make`
    is called once in each, and what it makes with each item; both are pickled, as the results are. Every item comes
    back once, in the order they are done. One whose worker is lost, with its node or alone, is done by another; it is
    lost itself where that happens three times, or where the callable raises. Raises UsageError where Ray is not
    installed, or a node has another version of this package; NetworkError for a cluster that cannot be reached, or
    whose nodes are lost, or that has no worker at work for `patience` seconds; the PortError that `make` raises, and
    PortError where no worker can begin.
    """
    if not items:
        return
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what a lost node logged is not for stdout
    ray = framework("ray")
    with ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, address)
            stack.callback(ray.shutdown)
        crew = _Crew(ray, make, cpus)
        stack.callback(crew.end)
        for _ in range(min(jobs or _room(ray, cpus), len(items))):
            crew.enlist()
        try:
            yield from _results(crew, items, patience)
        except ray.exceptions.RayError as error:
            raise NetworkError(f"the Ray cluster at {address} is lost: {_last_line(error)}") from error


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster. Raises NetworkError, with one line of what Ray says."""
    try:
        if place := re.fullmatch(r"(?:ray://)?([^:/]+|\[[^]]+\]):([0-9]+)", address):
            socket.create_connection((place[1].strip("[]"), int(place[2])), REACHED).close()  # Ray tries for minutes
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        hint = "start one with `ray start --head`, and name its address, such as host:6379"
        raise NetworkError(f"there is no Ray cluster at {address}: {_last_line(error)}", hint=hint) from error


def _room(ray: Any, cpus: float) -> int:
    """How many workers the nodes have room for, at least one."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(int(resources.get("CPU", 0) / cpus) for resources in alive))


def _results(crew: "_Crew", items: Sequence[Item], patience: float) -> Iterator[Done[Item]]:
    """What becomes of the items."""
    todo, losses = deque(range(len(items))), Counter[int]()
    left, at_work = len(items), time.monotonic()
    while left:
        for number, outcome in crew.news():
            if outcome is None:
                losses[number] += 1
                if losses[number] < TRIES:
                    todo.appendleft(number)
                    continue
            result, lost = outcome or (None, f"its worker was lost {TRIES} times (out of memory?)")
            left -= 1
            crew.give(todo, items)
            yield Done(items[number], result, lost)
        crew.give(todo, items)
        if crew.is_at_work:
            at_work = time.monotonic()
        elif time.monotonic() - at_work > patience:
            hint = "are its nodes up, and their CPUs free? `ray status` says so"
            raise NetworkError(f"no node of the Ray cluster took a worker for {patience:g} s", hint=hint)


class _Crew:
    """The workers on a cluster: those that are being made, that are free, and that are at work."""

    def __init__(self, ray: Any, make: Callable[[], Task[Any]], cpus: float) -> None:
        """Keep what makes the callable of each, and what it has of its node."""
        self._ray = ray
        self._make = pickle.dumps(make)
        self._threads = dict.fromkeys(THREADS, str(max(1, int(cpus))))
        self._actor = ray.remote(num_cpus=cpus, max_restarts=0, max_task_retries=0)(_Actor)
        self._made: dict[Any, Any] = {}  # task → worker
        self._busy: dict[Any, tuple[Any, int]] = {}  # task → worker, number of its item
        self._free: list[Any] = []
        self._failures = 0

    @property
    def is_at_work(self) -> bool:
        """Whether any item is being done."""
        return bool(self._busy)

    def enlist(self) -> None:
        """Have a worker made where there is room, now or later."""
        worker = self._actor.remote()
        self._made[worker.begin.remote(TOOL, self._threads, self._make)] = worker

    def give(self, todo: deque[int], items: Sequence[Any]) -> None:
        """Give items to those that are free."""
        while todo and self._free:
            worker, number = self._free.pop(), todo.popleft()
            self._busy[worker.do.remote(items[number])] = worker, number

    def news(self) -> Iterator[tuple[int, tuple[dict[str, Any] | None, str | None] | None]]:
        """Items that have ended, by number: result and how it was lost, or None where the worker was lost.

        Waits for no longer than a tick. Raises what the making of a worker raises.
        """
        for task in self._ray.wait([*self._made, *self._busy], timeout=TICK)[0]:
            worker, number = self._busy.pop(task, (self._made.pop(task, None), None))
            try:
                outcome = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._ray.kill(worker)
                self._failures += number is None
                if self._failures == TRIES:
                    raise PortError(f"no worker can begin on the Ray cluster: {_last_line(error)}") from error
                self.enlist()
                outcome = None
            else:
                self._free.append(worker)
            if number is not None:
                yield number, outcome
            elif isinstance(outcome, PortError):
                raise outcome
            elif outcome is not None:
                self._failures = 0

    def end(self) -> None:
        """End all workers."""
        for worker in (*self._made.values(), *self._free, *(worker for worker, _ in self._busy.values())):
            self._ray.kill(worker)


class _Actor:
    """A worker."""

    def begin(self, tool: str, threads: dict[str, str], make: bytes) -> PortError | bool:
        """Make the callable, with bounded threads, from its pickle; the error that this raises, or True."""
        if tool != TOOL:
            hint = "install the same version on every node"
            return UsageError(f"a node of the Ray cluster has {TOOL}, and not {tool}", hint=hint)
        os.environ.update(threads)  # before numpy is imported
        try:
            self._task = pickle.loads(make)()  # noqa: S301 (of whoever started this worker)
        except PortError as error:
            return error
        return True

    def do(self, item: Any) -> tuple[dict[str, Any] | None, str | None]:
        """The result of an item, or how it was lost."""
        return answer(self._task, item)


def _last_line(error: Exception) -> str:
    """The last line of what an exception says: Ray has its traceback before it."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
