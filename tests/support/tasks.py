"""Tasks for the tests of `densenet_port.work`: what a worker makes of an item, and how one may end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from densenet_port.errors import UsageError


class Task:
    """Does what an item says: a number is doubled; a word is how to fail."""

    def __init__(self, refused=False, folder=None):
        if refused:
            raise UsageError("no such table", hint="name another")
        self.done = 0
        self.folder = folder

    def __call__(self, item):
        """Do an item."""
        self.done += 1
        if self.folder:
            Path(self.folder, f"{item}-{os.getpid()}").touch()
        if isinstance(item, int):
            return {"item": item, "twice": 2 * item, "process": os.getpid(), "done": self.done}
        sys.stdout.write("to stdout, which is not for printing\n")
        sys.stdout.flush()
        return getattr(self, item.partition(" ")[0])(item)

    def kill(self, _item):
        """As the system does where memory ends."""
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self, _item):
        """As a library may."""
        sys.stderr.write("first\nno more of this\n")
        sys.exit(3)

    def slow(self, _item):
        """Longer than others."""
        time.sleep(1)
        return {}

    def raises(self, _item):
        """What nobody foresaw."""
        raise ValueError("not\nso")

    def settings(self, _item):
        """What the process sees."""
        return {"threads": os.environ.get("OPENBLAS_NUM_THREADS"), "folder": os.environ["TMPDIR"]}

    def sleep(self, item):
        """Say which processes are there, in a file, and sleep on."""
        _, folder, seconds = item.split()
        child = subprocess.Popen(["sleep", seconds])
        Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
        time.sleep(float(seconds))
        return {}


class Ends:
    """What cannot even be made."""

    def __init__(self):
        sys.exit("it is not there")
