"""The command line in this process: what it prints and how it ends, without an interpreter's start for each call."""

import io
import os
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from densenet_port.cli import main

PLAIN = {"NO_COLOR": "1", "COLUMNS": "200"}


class Done(NamedTuple):
    """A call that ended, with the names that `subprocess.run` has for it."""

    returncode: int
    stdout: str
    stderr: str


def called(*words, cwd=".", **environment):
    """One call of the command, in a folder and with variables of its own."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with ExitStack() as stack:
        stack.enter_context(chdir(cwd))
        stack.enter_context(patch.dict(os.environ, {**PLAIN, **environment}))
        stack.enter_context(patch.object(sys, "argv", ["densenet-port", *map(str, words)]))
        stack.enter_context(redirect_stdout(streams[0]))
        stack.enter_context(redirect_stderr(streams[1]))
        code = _code()
    return Done(code, *(stream.buffer.getvalue().decode() for stream in streams))


def _code():
    try:
        main()
    except SystemExit as ended:
        return ended.code
