"""Frameworks that are started once: each run of a test that needs one is a fork of a process that has imported it.

Starting a framework takes several seconds, what a test runs in it a fraction of one. A fork begins as a new process
would: the framework is imported and has done nothing. What starts such a process, and how it ends, is tested with
processes that are really started.

    python -m tests.support.warm MODULE …    imports them, then reads a request a line from stdin: see `_answer`
"""

import atexit
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile

ROOT = Path(__file__).parents[2]
KEPT = 3  # processes at a time, for their memory
OF_A_PROCESS = ("KERAS_BACKEND", "PYTHONPATH")  # what of an environment is settled when a framework is imported
RUNNERS = "densenet_port.prove.runners."
KERAS = ("keras", f"{RUNNERS}keras")
TORCH = ("torchvision.models.densenet", f"{RUNNERS}torch")

_running = {}  # imports and environment → process, the last used last


def run(module, arguments, environment, imports, limit=None, given=""):
    """Run a module as `python -m` would, in a process that has imported others: exit code, and what it printed.

    `given` is what it reads from stdin.
    """
    with NamedTemporaryFile() as printed:
        request = {
            "module": module,
            "arguments": [*map(str, arguments)],
            "environment": dict(environment),
            "folder": str(Path.cwd()),
            "printed": printed.name,
            "limit": limit,
            "given": given,
        }
        process = _process(imports, environment)
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return code, printed.read()


def keras(module, *arguments, backend="tensorflow"):
    """Run a script that uses Keras, and fail where it does: what it printed."""
    from densenet_port.prove.worker import environment

    code, printed = run(module, arguments, environment(backend), KERAS)
    assert code == 0, printed.decode()
    return printed.decode()


def _process(imports, environment):
    """The process that has imported these, which is started if none has."""
    threads = {name: value for name, value in environment.items() if name.endswith("_NUM_THREADS")}
    key = (*imports, *(environment.get(name) for name in OF_A_PROCESS), *threads.items())
    process = _running.pop(key, None)
    if process is None or process.poll() is not None:
        command = [sys.executable, "-m", "tests.support.warm", *imports]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=dict(environment), cwd=ROOT, text=True, **pipes)
    _running[key] = process
    while len(_running) > KEPT:
        stop(next(iter(_running)))
    return process


def stop(key):
    """End a process, which has nothing to do."""
    process = _running.pop(key)
    process.stdin.close()
    process.wait()
    process.stdout.close()


@atexit.register
def stop_all():
    """End all processes."""
    for key in list(_running):
        stop(key)


class Worker:
    """Stands in for `subprocess` where a worker is started: a fork of a process that has its framework."""

    TimeoutExpired, PIPE, DEVNULL = subprocess.TimeoutExpired, subprocess.PIPE, subprocess.DEVNULL

    class Popen:
        """As `subprocess.Popen`, for what is asked of it; nothing runs before it is known on what."""

        def __init__(self, command, *, env, **pipes):
            self.command, self.env, self.pipes = command, env, pipes
            self.returncode = self.process = None
            self.is_killed = False

        def communicate(self, given=b"", timeout=None):
            """What it wrote, once it has run on what it is given."""
            if self.is_killed:
                return self.process.communicate() if self.process else (None, b"")
            module, *arguments = self.command[self.command.index("-m") + 1 :]
            folders = [word for word in arguments if not word.startswith("-")] or given.decode().splitlines()
            imports = _imports(Path(folders[0]) / "job.json")
            if imports is None:
                self.process = subprocess.Popen(self.command, env=self.env, **self.pipes)
                said = self.process.communicate(given, timeout)
                self.returncode = self.process.returncode
                return said
            self.returncode, printed = run(module, arguments, self.env, imports, timeout, given.decode())
            if self.returncode == -signal.SIGALRM:
                raise subprocess.TimeoutExpired(self.command, timeout, stderr=printed)
            return None, printed

        def kill(self):
            """End it."""
            self.is_killed = True
            if self.process:
                self.process.kill()


def _imports(job):
    """What a job's software has imported, None for what starts as fast as a fork of it."""
    if (job.parent / "words.json").exists():  # somebody's own module, of torch in the tests
        return TORCH
    if not job.exists():
        return None
    software = json.loads(job.read_text(encoding="utf-8"))["network"]
    if software.startswith("keras"):
        return KERAS
    if software in ("torchvision", "timm"):
        return TORCH if software == "torchvision" else ("timm.models.densenet", f"{RUNNERS}torch")
    if software == "onnxruntime":
        return ("onnx.reference", software, f"{RUNNERS}onnxruntime")
    return None


# -- the process -------------------------------------------------------------------------------------------------------


def main():
    """Import what the command line names, and answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        answers.write(f"{_answer(**json.loads(line))}\n")
        answers.flush()
    os._exit(0)  # frameworks take their time to leave


def _answer(module, arguments, environment, folder, printed, limit, given):
    """The exit code of a fork that runs a module; minus a signal's number, SIGALRM's where it exceeds its limit."""
    child = os.fork()
    if child == 0:
        sys.stdin = io.StringIO(given)
        os._exit(_run(module, arguments, environment, folder, printed))
    ends = None if limit is None else time.monotonic() + limit
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if ends is not None and time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(0.01)


def _run(module, arguments, environment, folder, printed):
    """Run a module in this process, as if it had been started for it; the exit code."""
    file = os.open(printed, os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (as the interpreter would)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
