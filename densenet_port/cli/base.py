"""What every command stands on: the application, and how a result is printed.

Only this file prints. A command hands over its typed result twice: as a function that gives the JSON object of
`--json`, and as one that gives text, a string or things that rich can draw. What `--quiet` must not hide, because the
result rests on it, goes to stderr.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from densenet_port.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from densenet_port.network.architecture import Architecture
    from densenet_port.network.contract import Contract

WIDE = 240  # columns where there is no terminal to ask
STDOUT = "-"  # as the place of a text

Progress = Callable[[int, int], None]

app = typer.Typer(
    pretty_exceptions_enable=False,
    help="Move DenseNet weights between frameworks, and prove that the port is the same network.",
)


def help_of_group(context: typer.Context) -> None:
    """Show what a group of commands has, where it is called without one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# -- results -----------------------------------------------------------------------------------------------------------


class Printing(NamedTuple):
    """How a command prints: the options that every command has (`options.grouped`)."""

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors, --json, and what the result assumes.")
    ] = False

    def show(
        self,
        command: str,
        to_json: Callable[[], Mapping[str, Any]],
        to_text: Callable[[], Any],
        *,
        cautions: Sequence[str] = (),
        file: IO[str] | None = None,
    ) -> None:
        """Print a result: one JSON object with a `schema`, its text on `file` or stdout, or no more than `cautions`."""
        if self.as_json:
            print_json(command, to_json())
        elif self.quiet:
            sys.stderr.writelines(f"{caution}\n" for caution in cautions)
        else:
            _draw(to_text(), file or sys.stdout)

    def bar(self, label: str) -> "AbstractContextManager[Progress]":
        """A progress bar on stderr while work lasts; nothing where that is no terminal, or nobody wants it."""
        return _bar(label) if sys.stderr.isatty() and not self.quiet else nullcontext(_unseen)

    def beside(self, option: str, place: Path | None) -> IO[str]:
        """Where the result goes: to stderr if the option's text goes to stdout. Raises UsageError if both would."""
        if str(place) != STDOUT:
            return sys.stdout
        if self.as_json:
            raise UsageError(f"{option} -: stdout has the object of --json", hint=f"write to a file: {option} FILE")
        return sys.stderr


def print_text(text: str) -> None:
    """Print a text that is a file's whole content on stdout, byte by byte."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def refuse_stdout(option: str, place: Path | str | None, hint: str) -> None:
    """Refuse stdout as the place of what is no single text. Raises UsageError."""
    if str(place) == STDOUT:
        raise UsageError(f"{option} -: only a text can go to stdout", hint=hint)


def _draw(text: Any, file: IO[str]) -> None:
    """Print a string, or strings and things that rich can draw."""
    if isinstance(text, str):
        file.write(text + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False, file=file, width=None if file.isatty() else WIDE)
    for part in text:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part)


def error_json(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    """What went wrong, as an entry of a JSON object."""
    return {"error": {"kind": kind, "message": message, "hint": hint}}


def print_json(command: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    import json

    schema = {"schema": f"densenet-port/{command}/1"}
    sys.stdout.write(json.dumps({**schema, **content}, default=str, allow_nan=True) + "\n")


def print_error(message: str, hint: str | None) -> None:
    """Print what went wrong, and the next step, on stderr."""
    sys.stderr.write(f"error: {message}\n" + (f"  {hint}\n" if hint else ""))


def rows(headings: Sequence[str], cells: Iterable[Sequence[Any]]) -> Any:
    """A table of plain cells, without a box."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in cells:
        grid.add_row(*(Text(str(cell)) for cell in row))
    return grid


def contract_line(architecture: "Architecture", contract: "Contract") -> str:
    """Classes and contract; pools only where they are not the original network's."""
    words = [f"epsilon {contract.epsilon:g}", f"{contract.stem_padding} stem padding"]
    if contract.stem_pool != "max":
        words.append("blur pool" if contract.stem_pool == "blur" else "no pool in the stem")
    if contract.pool_rounding == "ceil":
        words.append("pools round up")
    words.append(f"{contract.input.order} input")
    head = f"{architecture.classes} classes" if architecture.classes else "no head"
    return f"{head}; {', '.join(words)}"


def numbers(architecture: "Architecture") -> dict[str, Any]:
    """An architecture as JSON, with its name."""
    return {"name": architecture.name, **architecture.to_json()}


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr."""
    with typer.progressbar(length=1, label=label, file=sys.stderr) as drawn:

        def progress(done: int, total: int) -> None:
            drawn.length = total or done + 1
            drawn.update(done - drawn.pos)

        yield progress


def _unseen(_done: int, _total: int) -> None:
    """Progress that nobody sees."""
