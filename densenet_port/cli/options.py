"""Options that several commands have, each told once: its help, what it may be, and what a shell completes it to.

`grouped` lets a command take several options as one object: a parameter whose type is a group stands for the group's
fields, each of them an option.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import typer

from densenet_port.cli.base import Printing
from densenet_port.errors import MisfitError, UsageError, nearest

if TYPE_CHECKING:
    from densenet_port.network.contract import Input, Resize

# What may be chosen, told here so that no command pays for an import of what takes it
Kernels = Literal["theano", "tensorflow"]
Ordering = Literal["th", "tf"]
Dtype = Literal["float32", "float16", "bfloat16", "float64"]
Backend = Literal["tensorflow", "torch", "jax", "numpy"]
StemPadding = Literal["symmetric", "same"]
StemPool = Literal["max", "blur", "none"]
Rounding = Literal["floor", "ceil"]
Output = Literal["logits", "softmax", "sigmoid", "relu", "tanh", "log_softmax"]


_Made = TypeVar("_Made")


def choice(option: str, literal: Any, text: str) -> Any:
    """An option that is one word of a Literal. Anything else raises UsageError, in our words, when it is parsed."""
    allowed: tuple[str, ...] = get_args(literal)

    def parse(word: str) -> str:
        if word not in allowed:
            hint = f"{nearest(word, allowed)}known: {', '.join(allowed)}"
            raise UsageError(f"unknown {option} {word!r}", hint=hint)
        return word

    metavar = f"[{'|'.join(allowed)}]"
    return typer.Option(option, help=text, metavar=metavar, parser=parse, autocompletion=lambda: list(allowed))


# -- what a shell completes --------------------------------------------------------------------------------------------


def layout_names() -> list[str]:
    """Every layout that has a table."""
    from densenet_port.layouts.layout import layouts

    return list(layouts())


def architecture_names() -> list[str]:
    """Every architecture that has a name."""
    from densenet_port.network.architecture import NAMED

    return list(NAMED)


def registered_names() -> Iterator[str]:
    """Every weight file that is registered by a name."""
    from densenet_port.fetch.registry import registry

    return map("-".join, registry())


# -- options of several commands ---------------------------------------------------------------------------------------

Src = Annotated[
    str | None,
    typer.Option(
        "--src",
        help="The checkpoint's layout; found out without it.",
        metavar="LAYOUT",
        autocompletion=layout_names,
    ),
]
Table = Annotated[Path | None, typer.Option("--mapping", help="A mapping table of your own, read instead of --src.")]
Arch = Annotated[
    str | None,
    typer.Option(
        help="121, 161, 169, 201, 264, 121d, 264d, a CIFAR name or numbers; found out without it.",
        metavar="ARCH",
        autocompletion=architecture_names,
    ),
]
KernelsOption = Annotated[
    Kernels | None, choice("--kernels", Kernels, "How the checkpoint stores its kernels, where it does not say.")
]
Within = Annotated[
    str | None, typer.Option(help="The name that the network to take stands below, where a file holds several.")
]
OutputName = Annotated[
    str | None, typer.Option(help="The output of an ONNX model that is the network's, where it has several.")
]
Dst = Annotated[
    str,
    typer.Option(
        help="The layout to write, or a mapping table of your own (.toml).",
        metavar="LAYOUT",
        autocompletion=layout_names,
    ),
]
Ending = Annotated[
    str | None,
    typer.Option(help="The ending of what goes to a folder, such as .safetensors; without it, the layout's usual one."),
]
NoTop = Annotated[bool, typer.Option("--no-top", help="Leave the head out.")]
DtypeOption = Annotated[Dtype, choice("--dtype", Dtype, "The floating type to write.")]
DstKernels = Annotated[
    Kernels | None, choice("--dst-kernels", Kernels, "How to store the kernels, where the layout has both.")
]
DimOrdering = Annotated[
    Ordering | None,
    choice("--dim-ordering", Ordering, "Out channels first (th) or last (tf), where the layout has both."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
IgnoreInheritance = Annotated[
    bool,
    typer.Option("--ignore-inheritance", help="Take the file whatever its running statistics say: all of them."),
]
Against = Annotated[Path | None, typer.Option(help="The checkpoint it was made from.")]
Reference = Annotated[
    Path | None, typer.Option(help="A recording of the original (record, --save-reference), in place of the framework.")
]
BackendOption = Annotated[Backend, choice("--backend", Backend, "What runs the port.")]
Sizes = Annotated[list[int] | None, typer.Option(help="Pixels of the noise; may be given several times.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let code of the original's file run, such as a class of your own.")
]
Ray = Annotated[str | None, typer.Option("--ray", help="The Ray cluster to work on, as host:port.", metavar="ADDRESS")]
Limit = Annotated[float, typer.Option(help="Seconds that each run may take.")]


class ContractWords(NamedTuple):
    """What the user says of a network's contract, where its file does not: an option for each entry."""

    epsilon: Annotated[
        float | None, typer.Option(help="What norms add to their variance, where the file does not say.")
    ] = None
    stem_stride: Annotated[int | None, typer.Option(help="The stride of a stem's only convolution, likewise.")] = None
    stem_padding: Annotated[
        StemPadding | None, choice("--stem-padding", StemPadding, "How the stem pads, where the file does not say.")
    ] = None
    stem_pool: Annotated[StemPool | None, choice("--stem-pool", StemPool, "The stem's pool, likewise.")] = None
    pool_rounding: Annotated[
        Rounding | None, choice("--pool-rounding", Rounding, "How average pools round, likewise.")
    ] = None
    head_pool: Annotated[
        int | None,
        typer.Option(help="The pool before a head that reads every place of the last map; 1 for none."),
    ] = None
    output: Annotated[Output | None, choice("--output", Output, "What stands behind the head.")] = None
    picture: Annotated[
        str | None,
        typer.Option("--input", help="How pictures are prepared: order=bgr,scale=1,mean=104/117/124,std=1/1/1."),
    ] = None
    resize: Annotated[
        str | None,
        typer.Option(
            "--resize",
            help="How pictures are resized: size=224,crop=0.875,interpolation=bicubic,fit=crop (or squash, border).",
        ),
    ] = None

    @property
    def entries(self) -> dict[str, Any]:
        """The entries of the contract that are given. Raises UsageError for an input or a resizing that is none."""
        given = {key: value for key, value in self._asdict().items() if value is not None}
        if self.picture is not None:
            given["input"] = _input(given.pop("picture"))
        if self.resize is not None:
            given["resize"] = _resize(self.resize)
        return given


def _input(text: str) -> "Input":
    """The input of `order=bgr,scale=1,mean=104/117/124,std=1/1/1`; what is left out is torchvision's."""
    from densenet_port.network.contract import Input

    return _of_parts("--input", text, Input, {"order": str, "scale": float, "mean": _floats, "std": _floats})


def _resize(text: str) -> "Resize":
    """The resizing of `size=288,crop=0.95,interpolation=bicubic`; `size=192/256` is height and width."""
    from densenet_port.network.contract import Resize

    return _of_parts("--resize", text, Resize, {"size": _sides, "crop": float, "interpolation": str, "fit": str})


def _of_parts(option: str, text: str, make: Callable[..., _Made], kinds: Mapping[str, Callable[[str], Any]]) -> _Made:
    """What entries such as `order=bgr,scale=1` make. Raises UsageError for entries, or values, that there are not."""
    entries: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in kinds:
            raise UsageError(f"{option} {text}: unknown {key!r}", hint=f"known: {', '.join(kinds)}")
        try:
            entries[key] = kinds[key](value)
        except ValueError as error:
            raise UsageError(f"{option} {text}: {key} cannot be {value!r}") from error
    try:
        return make(**entries)
    except MisfitError as error:
        raise UsageError(f"{option} {text}: {error.message}") from error


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split("/")))


def _sides(text: str) -> tuple[int, ...]:
    """Height and width, of one number or of two."""
    sides = tuple(map(int, text.split("/")))
    return sides * 2 if len(sides) == 1 else sides


# -- groups ------------------------------------------------------------------------------------------------------------

GROUPS: tuple[Any, ...] = (ContractWords, Printing)


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A command that takes each field of a group as an option, and hands the group over as one object."""
    signature = inspect.signature(function)
    groups = {p.name: p.annotation for p in signature.parameters.values() if p.annotation in GROUPS}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        group = groups.get(parameter.name)
        parameters += [parameter] if group is None else _fields(group)

    @wraps(function)
    def command(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field: options.pop(field) for field in group._fields if field in options})
        function(**options)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # what Typer reads
    return command


def _fields(group: Any) -> Iterator[inspect.Parameter]:
    """The parameters that a group stands for."""
    for name, annotation in group.__annotations__.items():
        default = group._field_defaults[name]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
