"""Torch's own operations as steps: what programs of torch consist of, in TorchScript and in exported graphs.

Arguments are by the names and defaults of torch's `native_functions.yaml` (2.14). A value is `Map` (what a step puts
out), `Held` (a tensor of the file, by its name), or a plain number, text or list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.file_graph import Pair, Step

Shapes = Mapping[str, tuple[int, ...]]  # the file's tensors
SIGNATURES = {
    "conv2d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
    "convolution": "input weight bias stride padding dilation transposed output_padding groups",
    "_convolution": "input weight bias stride padding dilation transposed output_padding groups",
    "batch_norm": "input weight bias running_mean running_var training momentum eps",
    "_native_batch_norm_legit_no_training": "input weight bias running_mean running_var momentum eps",
    "relu": "self",
    "max_pool2d": "self kernel_size stride=[] padding=0 dilation=1 ceil_mode=False",
    "max_pool2d_with_indices": "self kernel_size stride=[] padding=0 dilation=1 ceil_mode=False",
    "avg_pool2d": "self kernel_size stride=[] padding=0 ceil_mode=False count_include_pad=True divisor_override=None",
    "adaptive_avg_pool2d": "self output_size",
    "_adaptive_avg_pool2d": "self output_size",
    "adaptive_max_pool2d": "self output_size",
    "mean": "self dim=None keepdim=False",
    "amax": "self dim=[] keepdim=False",
    "cat": "tensors dim=0",
    "flatten": "self start_dim=0 end_dim=-1",
    "linear": "input weight bias=None",
    "addmm": "self mat1 mat2 beta=1 alpha=1",
    "sigmoid": "self",
    "tanh": "self",
    "softmax": "self dim",
    "_softmax": "self dim",
    "log_softmax": "self dim",
    "_log_softmax": "self dim",
    "dropout": "input p train",
    "feature_dropout": "input p train",
    "clone": "self",
    "alias": "self",
    "detach": "self",
    "contiguous": "self",
}
_DEFAULTS: dict[str, Any] = {"None": None, "[]": [], "False": False, "True": True}
_NORM = ("weight", "bias", "running_mean", "running_var")
_PICTURE = ([2, 3], [-1, -2], [-2, -1])  # height and width


@dataclass(slots=True, eq=False)
class Map:
    """What a step puts out; `is_shared` where another map has the same memory.

    An operation that works in place (`relu_`) makes the very same map the output of another step, for all who read it
    afterwards.
    """

    step: str
    is_shared: bool = False


class Held(NamedTuple):
    """A tensor of the file; transposed where it is a dense layer's kernel for `addmm`."""

    name: str
    transposed: bool = False


class Taken(NamedTuple):
    """An operation's name, without the mark of one that works in place, and its arguments by name."""

    title: str
    arguments: Mapping[str, Any]
    in_place: bool


def take(operation: str, positional: list[Any], named: Mapping[str, Any]) -> Taken:
    """The arguments of an operation; of one that is not known, by their places."""
    in_place = operation.endswith("_") and not operation.endswith("__")
    plain = operation[:-1] if in_place else operation
    arguments: dict[str, Any] = {}
    for place, spelled in enumerate(SIGNATURES.get(plain, "").split()):
        name, _, default = spelled.partition("=")
        value = _DEFAULTS[default] if default in _DEFAULTS else int(default) if default else None
        arguments[name] = positional[place] if place < len(positional) else named.get(name, value)
    if not arguments:
        arguments = {**{str(place): value for place, value in enumerate(positional)}, **named}
    return Taken(plain, arguments, in_place)


def put_out(name: str, taken: Taken, shapes: Shapes, steps: dict[str, Step]) -> Map:
    """What an operation puts out, as a step that is added; of a kind of its own where it is none of a DenseNet's."""
    first = next((value for value in taken.arguments.values() if isinstance(value, Map)), None)
    if taken.in_place and first and first.is_shared:
        raise MisfitError(f"{taken.title} ({name}) works in place on what another operation has kept")
    make = _STEPS.get(taken.title)
    attributes = make(taken.arguments, shapes) if make else None
    maps = _maps([*taken.arguments.values()])
    if attributes is None:
        attributes = {"kind": taken.title, "inputs": maps}
    step = Step(name=name, title=f"{taken.title} ({name})", **{"inputs": maps[:1], **attributes})
    if name in steps:
        raise CorruptError(f"two operations are called {name!r}")
    steps[name] = step
    if taken.in_place and first:
        first.step = name
        return first
    is_view = step.kind in ("identity", "flatten")
    if first and is_view:
        first.is_shared = True
    return Map(name, is_shared=is_view)


def _maps(values: list[Any]) -> tuple[str, ...]:
    """The steps among values and lists of values."""
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return tuple(part.step for part in flat if isinstance(part, Map))


def pair(value: Any) -> Pair:
    """A number for height and width, or one for both. Raises CorruptError."""
    match value:
        case int(number) | [int(number)]:
            return number, number
        case [int(height), int(width)]:
            return height, width
    raise CorruptError(f"an operation of torch with {value!r} for height and width")


Arguments = Mapping[str, Any]
Made = dict[str, Any] | None


def _holder(shapes: Shapes, *, bias: Any, weight: Any) -> str | None:
    """What holds a kernel, and all of its bias; None where they are two."""
    if not isinstance(weight, Held) or not weight.name.endswith(".weight"):
        return None
    holder = weight.name.removesuffix(".weight")
    expected = Held(f"{holder}.bias") if f"{holder}.bias" in shapes else None
    return holder if bias == expected else None


def _conv(arguments: Arguments, shapes: Shapes) -> Made:
    holder = _holder(shapes, bias=arguments["bias"], weight=arguments["weight"])
    shape = shapes.get(f"{holder}.weight", ())
    if len(shape) != 4 or arguments.get("transposed") or isinstance(arguments["padding"], str):  # o i h w
        return None
    return {
        "kind": "conv",
        "holder": holder,
        "kernel": (shape[2], shape[3]),
        "stride": pair(arguments["stride"]),
        "padding": pair(arguments["padding"]) * 2,
        "dilation": pair(arguments["dilation"]),
        "groups": arguments["groups"],
    }


def _norm(arguments: Arguments, _shapes: Shapes) -> Made:
    weight = arguments["weight"]
    holder = weight.name.removesuffix(".weight") if isinstance(weight, Held) else ""
    is_plain = all(arguments[role] == Held(f"{holder}.{role}") for role in _NORM)
    if not is_plain or arguments.get("training"):
        return None
    return {"kind": "norm", "holder": holder, "epsilon": float(arguments["eps"])}


def _max_pool(arguments: Arguments, _shapes: Shapes) -> Made:
    return {**_windows(arguments), "kind": "max_pool", "dilation": pair(arguments["dilation"])}


def _average_pool(arguments: Arguments, _shapes: Shapes) -> Made:
    return None if arguments["divisor_override"] is not None else {**_windows(arguments), "kind": "average_pool"}


def _windows(arguments: Arguments) -> dict[str, Any]:
    kernel = pair(arguments["kernel_size"])
    return {
        "kernel": kernel,
        "stride": pair(arguments["stride"]) if arguments["stride"] else kernel,
        "padding": pair(arguments["padding"]) * 2,
        "rounding": "ceil" if arguments["ceil_mode"] else "floor",
    }


def _adaptive(kind: str) -> Callable[[Arguments, Shapes], Made]:
    return lambda arguments, _: {"kind": kind} if arguments["output_size"] in (1, [1], [1, 1]) else None


def _over_picture(kind: str) -> Callable[[Arguments, Shapes], Made]:
    return lambda arguments, _: {"kind": kind} if arguments["dim"] in _PICTURE else None


def _cat(arguments: Arguments, _shapes: Shapes) -> Made:
    maps = _maps([arguments["tensors"]])
    return {"kind": "concat", "inputs": maps} if maps and arguments["dim"] in (1, -3) else None


def _flatten(arguments: Arguments, _shapes: Shapes) -> Made:
    is_flat = (arguments["start_dim"], arguments["end_dim"]) in ((1, -1), (1, 3))
    return {"kind": "flatten", "function": "c h w"} if is_flat else None


def _linear(arguments: Arguments, shapes: Shapes) -> Made:
    holder = _holder(shapes, bias=arguments["bias"], weight=arguments["weight"])
    return None if holder is None else {"kind": "dense", "holder": holder}


def _addmm(arguments: Arguments, shapes: Shapes) -> Made:
    kernel = arguments["mat2"]
    if not isinstance(kernel, Held) or not kernel.transposed or (arguments["beta"], arguments["alpha"]) != (1, 1):
        return None
    return _linear({"weight": Held(kernel.name), "bias": arguments["self"]}, shapes)


def _dropout(arguments: Arguments, _shapes: Shapes) -> Made:
    return {"kind": "identity"} if arguments["train"] is False else None


def _softmax(function: str) -> Callable[[Arguments, Shapes], Made]:
    return lambda arguments, _: {"kind": "activation", "function": function} if arguments["dim"] in (1, -1) else None


def _plain(kind: str, **attributes: Any) -> Callable[[Arguments, Shapes], Made]:
    return lambda _arguments, _names: {"kind": kind, **attributes}


_STEPS: dict[str, Callable[[Arguments, Shapes], Made]] = {
    **dict.fromkeys(("conv2d", "convolution", "_convolution"), _conv),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _norm),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices"), _max_pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive("mean")),
    "adaptive_max_pool2d": _adaptive("max"),
    **dict.fromkeys(("softmax", "_softmax"), _softmax("softmax")),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax("log_softmax")),
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
    **dict.fromkeys(("clone", "alias", "detach", "contiguous"), _plain("identity")),
    "relu": _plain("relu"),
    "sigmoid": _plain("activation", function="sigmoid"),
    "tanh": _plain("activation", function="tanh"),
    "avg_pool2d": _average_pool,
    "mean": _over_picture("mean"),
    "amax": _over_picture("max"),
    "cat": _cat,
    "flatten": _flatten,
    "linear": _linear,
    "addmm": _addmm,
}
