"""Run a command of densenet-port and say where its time went, phase by phase.

    python -m benchmarks.scripts.phases convert FILE --out OUT …

The phases are told by the functions in `PHASES`, which are timed in the very code that a user runs; what a function
spends in another of them counts there. Prints JSON: phase → seconds by the wall, and of the main thread's CPU (digests
are taken beside it, in another).
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

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


def main(words: list[str]) -> None:
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


if __name__ == "__main__":
    main(sys.argv[1:])
