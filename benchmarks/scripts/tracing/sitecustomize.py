"""What the processes of a command do when: with this folder first on PYTHONPATH, Python imports this file at its start.

Each span goes into the folder that DENSENET_PORT_TRACE names, as a line of JSON in a file of the process: what it did,
from when to when on the system's clock. Spans are imports of frameworks, the calls in `CALLS`, and the process
itself.
"""

import atexit
import builtins
import importlib
import json
import os
import sys
import time
from functools import wraps
from pathlib import Path

FRAMEWORKS = ("numpy", "torch", "torchvision", "tensorflow", "keras", "jax")
CALLS = {  # module → function → what it does
    "densenet_port.prove.parity": {"read": "read", "make_probes": "pictures", "judge": "judge"},
    "densenet_port.prove.runners": {"runner": "run"},
    "densenet_port.prove.runners.keras": {"_own_network": "build and fill"},
    "densenet_port.prove.runners.torch": {"_filled": "build and fill"},
}
patched: set[str] = set()


def note(label, begun):
    """Write one span down."""
    line = json.dumps({"label": label, "start": begun, "end": time.monotonic(), "pid": os.getpid()})
    with Path(os.environ["DENSENET_PORT_TRACE"], f"{os.getpid()}.jsonl").open("a") as file:
        file.write(f"{line}\n")


def importing(function):
    """An import function whose first import of a framework is a span; patches what has been imported."""

    @wraps(function)
    def imported(name, *rest, **more):
        top, begun = name.partition(".")[0], time.monotonic()
        new = top in FRAMEWORKS and top not in sys.modules
        module = function(name, *rest, **more)
        if new:
            note(f"import {top}", begun)
        for known in CALLS.keys() - patched:
            if known in sys.modules and all(hasattr(sys.modules[known], name) for name in CALLS[known]):
                patched.add(known)
                for called, label in CALLS[known].items():
                    setattr(sys.modules[known], called, spanned(getattr(sys.modules[known], called), label))
        return module

    return imported


def spanned(function, label):
    """A function whose calls are spans; what `runner` gives is a function of a job, which is named by its job."""

    @wraps(function)
    def called(*words, **more):
        begun = time.monotonic()
        result = function(*words, **more)
        if label == "run":
            return lambda job: spanned(result, f"{job.network}: {job.dtype}")(job)
        note(label, begun)
        return result

    return called


if "DENSENET_PORT_TRACE" in os.environ:
    atexit.register(note, "process", time.monotonic())
    builtins.__import__ = importing(builtins.__import__)
    importlib.import_module = importing(importlib.import_module)
