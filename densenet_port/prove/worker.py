"""Networks run by the software that owns them, in a process of its own.

Frameworks do not share a process well (TensorFlow before torch crashes, Keras has one backend for good), so `run`
writes a job into a temporary folder, starts `python -m densenet_port.prove.worker FOLDER`, and reads what it left:

    job.json    what to run          job.npy    the images
    run.json    versions, digests    run.npz    logits, and the taps      error.json    or else a PortError

Starting a framework takes longer than running it: `run_all` gives one process several jobs, and `Processes` begins
one that imports Keras before it is known what to run, and keeps those that many checks need. Runs use the CPU alone
(CUDA_VISIBLE_DEVICES is empty: a graphics card sums in another order, and in fewer bits), and TensorFlow is told to be
quiet. Torch reads a checkpoint with `weights_only=True`, so that no code from it runs.
"""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any, Self

import numpy as np

from densenet_port.errors import DiskError, PortError, UsageError
from densenet_port.extras import SOFTWARE, framework
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.prove.job import Job, Reading, Run
from densenet_port.prove.runners import runner
from densenet_port.work import pool

Process = subprocess.Popen[bytes]
PORT_ERRORS: list[type[PortError]] = [PortError, *PortError.__subclasses__()]
KINDS = {kind.kind: kind for kind in PORT_ERRORS}
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
NAME = "densenet_port.prove.worker"  # of this module, when it is run
KERAS = "--keras"  # what tells it to import that at once
LIMIT = 600.0  # seconds that a run may take
ERROR = "error.json"  # in a job's folder, where it failed
SLOW = "give it longer, or fewer or smaller images"
LAST_LINES = 8  # of a dead process's stderr, shown to the user


def run(job: Job, *, limit: float = LIMIT) -> Run:
    """Run a job in a process of its own; `limit` is in seconds.

    Raises UsageError for a job that says too little and for software that is not installed, the PortErrors of reading
    the file, MisfitError for weights that do not fit the network, and PortError with the process's last lines when it
    dies or exceeds its limit.
    """
    return run_all([job], limit=limit)[0]


class Processes:
    """The processes that jobs run in: one that imports Keras while its jobs are still to come, or those that are kept.

    Without `kept` a process ends with the jobs of one `run_all`. With it, it waits for more of the same software,
    backend, threads and environment. What is left of them at the end of the context, or of this object, is killed.
    """

    def __init__(self, *, kept: bool = False) -> None:
        """Start none yet."""
        self._is_kept = kept
        self._begun: dict[object, Process] = {}
        self._kept: defaultdict[object, list[pool.Process]] = defaultdict(list)

    def __enter__(self) -> Self:
        """These."""
        return self

    def __exit__(self, *_: object) -> None:
        """End those that nobody took."""
        while self._begun:
            _kill(self._begun.popitem()[1])
        for process in chain.from_iterable(self._kept.values()):
            _end(process)
        self._kept.clear()

    def __del__(self) -> None:
        """End them where there was no context."""
        self.__exit__()

    def begin(self, backend: str, threads: int | None = None) -> None:
        """Have a process import Keras; where they are kept, the next check has one that did."""
        if not self._is_kept:
            surroundings = environment(backend, threads)
            self._begun[_key("keras", surroundings)] = _process(NAME, [KERAS], surroundings)

    def run(self, jobs: Sequence[Job], folders: Sequence[Path], limit: float) -> None:
        """Run the jobs in the folders, with `limit` seconds for each. Errors as in `run_all`."""
        surroundings, title = environment(jobs[0].backend, jobs[0].threads), jobs[0].title
        key = _key(jobs[0].network, surroundings)
        if not self._is_kept:
            process = self._begun.pop(key, None) or _process(NAME, [], surroundings)
            finish(process, folders, title, limit * len(jobs))
            return
        if self._kept[key]:
            kept = self._kept[key].pop()
        else:
            kept = pool.Process(surroundings)
            _ask(kept, _Folders(), title, limit)
        for folder in folders:
            _ask(kept, folder, title, limit)
            if (folder / ERROR).exists():
                break
        self._kept[key].append(kept)


def _key(software: str, surroundings: Mapping[str, str]) -> tuple[object, ...]:
    """What jobs have in common that can share a process."""
    return SOFTWARE[software].on_keras or software.partition(".")[0], frozenset(surroundings.items())


def run_all(jobs: Sequence[Job], *, limit: float = LIMIT, processes: Processes | None = None) -> list[Run]:
    """Run jobs one after the other in one process, to the first that fails. Errors as in `run`.

    All must run in the same framework, on the same backend and with the same threads; `limit` is in seconds for each.
    The process is one of the `processes`, where such are given.
    """
    if not jobs:
        return []
    for job in jobs:
        job.require_runnable()
    if len({(job.network.partition(".")[0], job.backend, job.threads) for job in jobs}) > 1:
        raise UsageError("jobs that share a process must share framework, backend and threads")
    try:
        with TemporaryDirectory(prefix="densenet-port-") as name:
            folders = [Path(name, str(number)) for number in range(len(jobs))]
            for job, folder in zip(jobs, folders, strict=True):
                _write_job(job, folder)
            (processes or Processes()).run(jobs, folders, limit)
            return [_read_run(folder) for folder in folders]
    except OSError as error:
        raise DiskError(f"no reference can run in the temporary folder: {error}") from error


# -- between the two processes -----------------------------------------------------------------------------------------


def _write_job(job: Job, folder: Path) -> None:
    """Leave a job in the folder, which is made."""
    folder.mkdir()
    reading = {**asdict(job.reading), "table": str(job.reading.table.absolute()) if job.reading.table else None}
    plain = {
        **{name: getattr(job, name) for name in Job.__slots__ if name != "images"},
        "path": str(job.path.absolute()),
        "reading": reading,
        "taps": dict(job.taps),
        "architecture": job.architecture.to_json() if job.architecture else None,
        "contract": job.contract.to_json() if job.contract else None,
    }
    (folder / "job.json").write_text(json.dumps(plain), encoding="utf-8")
    np.save(folder / "job.npy", job.images)


def _read_job(folder: Path) -> Job:
    """The job in the folder."""
    plain = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    reading = plain["reading"]
    reading["table"] = Path(reading["table"]) if reading["table"] else None
    reading["ignored"] = tuple(reading["ignored"])
    plain["reading"] = Reading(**reading)
    plain["path"] = Path(plain["path"])
    plain["architecture"] = Architecture.from_json(plain["architecture"]) if plain["architecture"] else None
    plain["contract"] = Contract.from_json(plain["contract"]) if plain["contract"] else None
    return Job(**plain, images=np.load(folder / "job.npy", allow_pickle=False))


def _write_run(result: Run, folder: Path) -> None:
    """Leave a result in the folder."""
    plain = {name: getattr(result, name) for name in ("computed_in", "variables", "versions", "read_by")}
    (folder / "run.json").write_text(json.dumps(plain), encoding="utf-8")
    taps: dict[str, Any] = dict(result.taps)
    np.savez(folder / "run.npz", logits=result.logits, **taps)


def _read_run(folder: Path) -> Run:
    """The result in the folder, or the error that was left in its place."""
    raise_left(folder)
    with np.load(folder / "run.npz", allow_pickle=False) as arrays:
        taps = {name: arrays[name] for name in arrays.files if name != "logits"}
        logits = arrays["logits"]
    return Run(**json.loads((folder / "run.json").read_text(encoding="utf-8")), logits=logits, taps=taps)


def raise_left(folder: Path) -> None:
    """Raise the error that a process left in the folder, if it left one."""
    if (folder / ERROR).exists():
        error = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        raise KINDS[error["kind"]](error["message"], hint=error["hint"])


def leave_error(error: PortError, folder: Path) -> None:
    """Leave an error in the folder, for the process that waits."""
    plain = {"kind": error.kind, "message": error.message, "hint": error.hint}
    (folder / ERROR).write_text(json.dumps(plain), encoding="utf-8")


def start(module: str, folders: Sequence[Path], title: str, surroundings: Mapping[str, str], limit: float) -> None:
    """Run a module of this package on the folders of its command line, to its end, as `finish` has it."""
    finish(_process(module, [*map(str, folders)], surroundings), [], title, limit)


def _process(module: str, arguments: Sequence[str], surroundings: Mapping[str, str]) -> Process:
    """A process that runs a module of this package, and may still be told folders."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 (this very package, on folders of our own)
        command, env=dict(surroundings), stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe
    )


def finish(process: Process, folders: Sequence[Path], title: str, limit: float) -> None:
    """Tell a process its folders, a line each, and wait for its end; `title` is for messages.

    Raises PortError with the process's last lines where it dies, or exceeds its limit of seconds.
    """
    try:
        _, said = process.communicate("".join(f"{folder}\n" for folder in folders).encode(), timeout=limit)
    except subprocess.TimeoutExpired as error:
        message = _with_last_lines(f"{title} took longer than {limit:g} s", _kill(process))
        raise PortError(message, hint=SLOW) from error
    except BaseException:
        _kill(process)
        raise
    if process.returncode:
        code = process.returncode
        end = f"exit code {code}" if code > 0 else signal.strsignal(-code)
        raise PortError(_with_last_lines(f"{title} ended with {end}", said))


def _ask(process: pool.Process, message: object, title: str, limit: float) -> None:
    """Have a process that is kept do what a message says; where it does not, it is ended. Raises as `finish` does."""
    clock = Timer(limit, process.kill)
    clock.start()
    begun = time.monotonic()
    try:
        _, lost = process.ask(pickle.dumps(message))
    except (OSError, EOFError) as error:
        ended = process.ended()
        if time.monotonic() - begun >= limit:
            raise PortError(f"{title} took longer than {limit:g} s", hint=SLOW) from error
        raise PortError(f"{title} {ended}") from error
    except BaseException:
        _end(process)
        raise
    finally:
        clock.cancel()
    if lost is not None:
        _end(process)
        raise PortError(f"{title}: {lost}")


def _end(process: pool.Process) -> None:
    """End a process that is kept."""
    process.kill()
    process.ended()


def _kill(process: Process) -> bytes:
    """End a process; what it wrote to stderr."""
    process.kill()
    return process.communicate()[1] or b""


def environment(backend: str, threads: int | None = None) -> dict[str, str]:
    """What such a process sees: this one's environment and packages, one backend of Keras's, and the CPU alone."""
    bounds = {} if threads is None else dict.fromkeys(THREADS, str(threads))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        **bounds,
    }


def _with_last_lines(message: str, stderr: bytes | None) -> str:
    """What happened, and the last lines that the process wrote."""
    lines = (stderr or b"").decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    return "\n  ".join([message, *lines])


# -- the worker --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the jobs in the folders that stdin names, a line each, and leave the results there, to the first that fails.

    With `--keras` Keras is imported meanwhile; where it cannot be, the job that needs it says so.
    """
    if KERAS in sys.argv[1:]:
        with suppress(UsageError):
            framework("keras")
    for line in sys.stdin:
        folder = Path(line.removesuffix("\n"))
        _run_in(folder)
        if (folder / ERROR).exists():
            break


def _run_in(folder: Path) -> None:
    """Run the job in a folder, and leave there what came of it."""
    job = _read_job(folder)
    try:
        _write_run(runner(job.network)(job), folder)
    except PortError as error:
        leave_error(error, folder)


class _Folders:
    """What makes the function of a process that is kept: it runs the jobs in folders as they come."""

    def __call__(self) -> Callable[[Path], dict[str, Any]]:
        """The function, which drops what the checks before left, and looks through no framework for it."""
        gc.disable()
        checks = set[Path]()

        def run(folder: Path) -> dict[str, Any]:
            if folder.parent not in checks:
                gc.collect()
            _run_in(folder)
            if not checks:
                gc.freeze()
            checks.add(folder.parent)
            return {}

        return run


if __name__ == "__main__":
    gc.disable()  # a framework's objects live as long as the process, and looking through them takes a second
    main()
    os._exit(0)  # what it leaves is in the folders; a framework takes another second to take itself apart
