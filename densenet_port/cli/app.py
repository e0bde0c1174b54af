"""The command line as a whole: runs a command, and ends with the code that its result has.

Errors go to stderr as `error: …`; with `--json` they are an object on stdout. What nobody foresaw is an error of one
line, too, with exit code 70 (EX_SOFTWARE of BSD's sysexits.h); `--traceback` shows where it came from.
"""

import errno
import gc
import os
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from densenet_port.about import __version__
from densenet_port.cli.base import app, error_json, help_of_group, print_error, print_json
from densenet_port.errors import DiskError, PortError

COMMANDS = {  # module → its commands; only the module of the command that runs is imported
    "convert": ("convert", "inspect", "diff"),
    "batch": ("batch",),
    "learn": ("learn",),
    "predict": ("predict",),
    "prove": ("check", "diagnose", "record"),
    "evaluate": ("evaluate",),
    "verify": ("verify", "demo"),
    "catalogue": ("layouts", "archs", "doctor"),
    "release": ("release",),
    "weights": ("fetch", "cache"),
}
NAME = "densenet-port"  # however it was started: what a shell completes has this name
UNFORESEEN = 70
GARBAGE = 50_000  # new objects before Python looks for cycles: what a conversion makes lasts, and has hardly any
LACKS = [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM]
NO_MEMORY = ("can't start new thread", "error return without exception set")  # the second: CPython 3.11, for a frame
TRACEBACK = "--traceback"
REPORT = "this is a fault of densenet-port's: please report it, with the command and what --traceback shows"
# Typer brings a Click of its own since 0.16, and had the real one before
ClickError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[  # noqa: ARG001 (`main` takes it out of the command line, wherever it stands)
        bool, typer.Option(TRACEBACK, help="Show where an unforeseen error came from.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit
    help_of_group(context)


def main() -> None:
    """Run the command line and exit with the code that its result has."""
    words = [word for word in sys.argv[1:] if word != TRACEBACK]
    command = _command(words)
    if command in (*COMMANDS["convert"], *COMMANDS["batch"], *COMMANDS["learn"]):
        # They multiply no matrices, and the threads that numpy's BLAS would start spin before they sleep
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        gc.set_threshold(GARBAGE)
    try:
        _open_streams()
        register(command)
        code = app(words, prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
    except PortError as error:
        code = _fail(error.kind, error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", "interrupted; nothing was left half written", None, 130)
    except BrokenPipeError:
        code = 141
    except Exception as error:  # noqa: BLE001 (no traceback reaches a user unasked)
        if lack := _lack(error):
            code = _fail(DiskError.kind, lack, None, DiskError.exit_code)
        else:
            code = _usage(error) if isinstance(error, ClickError) else _unforeseen(error)
    _close_streams()
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Where a stream was closed before the start, what is written to it goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)


def _close_streams() -> None:
    """Drop what a stream does not take: at the end of the process it would be an error of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _lack(error: Exception) -> str | None:
    """What the machine lacks, where that is what an exception says."""
    if isinstance(error, MemoryError) or str(error) in NO_MEMORY:
        return "there is not enough memory; nothing was left half written"
    if isinstance(error, OSError) and error.errno in LACKS:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


def _command(words: list[str]) -> str | None:
    """The first word that is no option."""
    return next((word for word in words if not word.startswith("-")), None)


def register(command: str | None) -> None:
    """Make a command known to the application; all of them where there is none of that name."""
    modules = [module for module, commands in COMMANDS.items() if command in commands]
    for module in modules or COMMANDS:
        import_module(f"densenet_port.cli.{module}")


def _usage(error: Exception) -> int:
    """A command that cannot be carried out as it was typed."""
    from densenet_port.cli.usage import explained

    usage = explained(error)
    return _fail(usage.kind, usage.message, usage.hint, usage.exit_code)


def _unforeseen(error: Exception) -> int:
    """An exception that is no error of ours: in one line, or with its traceback where that was asked for."""
    if TRACEBACK in sys.argv[1:]:
        sys.stderr.write("".join(traceback.format_exception(error)))
    text = " ".join(str(error).split())
    return _fail("internal", f"{type(error).__name__}: {text}" if text else type(error).__name__, REPORT, UNFORESEEN)


def _fail(kind: str, message: str, hint: str | None, code: int) -> int:
    """Print what went wrong, as JSON where that is asked for and stdout takes it, else on stderr; and give the code."""
    try:
        if "--json" in sys.argv[1:]:
            print_json("error", error_json(kind, message, hint))
            sys.stdout.flush()
            return code
    except OSError:
        pass
    with suppress(OSError):  # nobody hears it; the code says it all the same
        print_error(message, hint)
    return code
