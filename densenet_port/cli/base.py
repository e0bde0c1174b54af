"""What every command stands on: the application, its options, and how a result is printed.

Only this file prints. A command hands over its typed result twice: as a function that gives the JSON object of
`--json`, and as one that gives text, a string or things that rich can draw.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.errors import MisfitError, UsageError

if TYPE_CHECKING:
    from densenet_port.network.architecture import Architecture
    from densenet_port.network.contract import Contract, Input

WIDE = 240  # columns where there is no terminal to ask
KERNELS = ("theano", "tensorflow")
ORDERINGS = ("th", "tf")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Move DenseNet weights between frameworks, and prove that the port is the same network.",
)

# -- options of several commands ---------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Src = Annotated[str | None, typer.Option("--src", help="The checkpoint's layout; found out without it.")]
Table = Annotated[Path | None, typer.Option("--mapping", help="A mapping table of your own, read instead of --src.")]
Arch = Annotated[
    str | None, typer.Option(help="121, 161, 169, 201, 264, 121d, 264d, a CIFAR name or numbers; found out without it.")
]
KernelsOption = Annotated[
    str | None, typer.Option(help="theano or tensorflow: how the checkpoint stores its kernels, where it does not say.")
]
Within = Annotated[
    str | None, typer.Option(help="The name that the network to take stands below, where a file holds several.")
]
OutputName = Annotated[
    str | None, typer.Option(help="The output of an ONNX model that is the network's, where it has several.")
]
Epsilon = Annotated[float | None, typer.Option(help="What norms add to their variance, where the file does not say.")]
StemStride = Annotated[int | None, typer.Option(help="The stride of a stem's only convolution, likewise.")]
HeadPool = Annotated[
    int | None,
    typer.Option(help="The pool before a head that reads every place of the last map; 1 for none."),
]
StemPadding = Annotated[
    str | None, typer.Option(help="symmetric or same: how the stem pads, where the file does not say.")
]
StemPool = Annotated[str | None, typer.Option(help="max, blur or none: the stem's pool, likewise.")]
PoolRounding = Annotated[str | None, typer.Option(help="floor or ceil: how average pools round, likewise.")]
Output = Annotated[
    str | None, typer.Option(help="logits, softmax, sigmoid, relu, tanh or log_softmax: what stands behind the head.")
]
InputOption = Annotated[
    str | None,
    typer.Option("--input", help="How pictures are prepared: order=bgr,scale=1,mean=104/117/124,std=1/1/1."),
]
IgnoreInheritance = Annotated[
    bool,
    typer.Option("--ignore-inheritance", help="Take the file whatever its running statistics say: all of them."),
]
Against = Annotated[Path | None, typer.Option(help="The checkpoint it was made from.")]
Reference = Annotated[
    Path | None, typer.Option(help="A recording of the original (record, --save-reference), in place of the framework.")
]
Backend = Annotated[str, typer.Option(help="What runs the port: tensorflow, torch, jax or numpy.")]
Sizes = Annotated[list[int] | None, typer.Option(help="Pixels of the noise; may be given several times.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let code of the original's file run, such as a class of your own.")
]
Limit = Annotated[float, typer.Option(help="Seconds that each run may take.")]


def contract_words(
    epsilon: float | None,
    stem_stride: int | None,
    stem_padding: str | None,
    stem_pool: str | None,
    pool_rounding: str | None,
    head_pool: int | None,
    output: str | None,
    picture: str | None,
) -> dict[str, Any]:
    """The entries of the contract that the options give. Raises UsageError for an input that is none."""
    words = {
        "epsilon": epsilon,
        "stem_stride": stem_stride,
        "stem_padding": stem_padding,
        "stem_pool": stem_pool,
        "pool_rounding": pool_rounding,
        "head_pool": head_pool,
        "output": output,
        "input": None if picture is None else _picture(picture),
    }
    return {key: value for key, value in words.items() if value is not None}


def _picture(text: str) -> "Input":
    """The input of `order=bgr,scale=1,mean=104/117/124,std=1/1/1`; what is left out is torchvision's."""
    from densenet_port.network.contract import Input

    entries: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in ("order", "scale", "mean", "std"):
            raise UsageError(f"--input {text}: unknown {key!r}", hint="known: order, scale, mean, std")
        try:
            entries[key] = value if key == "order" else tuple(map(float, value.split("/")))
        except ValueError as error:
            raise UsageError(f"--input {text}: {key} cannot be {value!r}") from error
    if "scale" in entries:
        entries["scale"] = entries["scale"][0]
    try:
        return Input(**entries)
    except MisfitError as error:
        raise UsageError(f"--input {text}: {error.message}") from error


def choice(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    """The value of an option, if it is one of those allowed. Raises UsageError otherwise."""
    if value is not None and value not in allowed:
        raise UsageError(f"unknown {option} {value!r}", hint=f"known: {', '.join(allowed)}")
    return value


# -- results -----------------------------------------------------------------------------------------------------------


def show(command: str, as_json: bool, to_json: Callable[[], Mapping[str, Any]], to_text: Callable[[], Any]) -> None:
    """Print a result: as one JSON object with a `schema`, or as its text."""
    if as_json:
        print_json(command, to_json())
        return
    text = to_text()
    if isinstance(text, str):
        sys.stdout.write(text + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for part in text:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part)


def print_json(command: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    schema = {"schema": f"densenet-port/{command}/1"}
    sys.stdout.write(json.dumps({**schema, **content}, default=str, allow_nan=True) + "\n")


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
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr while work lasts; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with typer.progressbar(length=1, label=label, file=sys.stderr) as drawn:

        def progress(done: int, total: int) -> None:
            drawn.length = total or done + 1
            drawn.update(done - drawn.pos)

        yield progress
