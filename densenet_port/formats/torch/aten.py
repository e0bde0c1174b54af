"""Torch's own operations as steps: what programs of torch consist of, in TorchScript and in exported graphs.

Arguments are by the names and defaults of torch's `native_functions.yaml` (2.14). A value is `Map` (what a step puts
out), `Held` (a tensor of the file, by its name), an array (a constant of the program), or a plain number, text or list.
Arithmetic with numbers, one or one for each channel, is how a program prepares its pictures.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.file_graph import AS_IN_TRAINING, INPUT, FileGraph, Pair, Step

Tensors = Mapping[str, Tensor]  # the file's
SIGNATURES = {
    "conv2d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
    "convolution": "input weight bias stride padding dilation transposed output_padding groups",
    "_convolution": "input weight bias stride padding dilation transposed output_padding groups",
    "batch_norm": "input weight bias running_mean running_var training momentum eps",
    "_native_batch_norm_legit_functional": "input weight bias running_mean running_var training momentum eps",
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
    "add": "self other alpha=1",
    "sub": "self other alpha=1",
    "rsub": "self other alpha=1",
    "mul": "self other",
    "div": "self other rounding_mode=None",
    "neg": "self",
    "permute": "self dims",
    "flip": "self dims",
    "index": "self indices",
    "index_select": "self dim index",
    "squeeze": "self dim=None",
    "select": "self dim index",
    "slice": "self dim=0 start=None end=None step=1",
}
_DEFAULTS: dict[str, Any] = {"None": None, "[]": [], "False": False, "True": True}
_NORM = ("weight", "bias", "running_mean", "running_var")
_PICTURE = ([2, 3], [-1, -2], [-2, -1])  # height and width
_LAST = ([-1], [2])  # the last axis of a map that has lost one
PLACES = "torch.flatten of places"  # of a map, whose mean over them is that over the picture
_HALVES = ("torch.mean of rows", PLACES)
_EDGES = (None, 2, 3, -1, -2, [2, 3], [3, 2], [-1, -2], [-2, -1])  # height, width, or both
_CLASSES = (None, 1, -1, [1], [-1])  # the classes' axis, which goes where there is one class
_FIRST_CHANNELS = [0, 3, 1, 2]  # n h w c → n c h w
_COPIES = ("lift_fresh_copy", "lift_fresh", "clone", "detach", "detach_", "alias")  # of numbers
FEW = 64  # numbers of a preparation at most; one for each channel


@dataclass(slots=True, eq=False)
class Map:
    """What a step puts out; `is_shared` where another map has the same memory.

    An operation that works in place (`relu_`) makes the very same map the output of another step, for all who read it
    afterwards.
    """

    step: str
    is_shared: bool = False


class Held(NamedTuple):
    """A tensor of the file; transposed where it is a dense layer's kernel for `addmm`, perhaps in another shape."""

    name: str
    transposed: bool = False
    shape: tuple[int, ...] | None = None


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


def put_out(name: str, taken: Taken, tensors: Tensors, steps: dict[str, Step]) -> Map:
    """What an operation puts out, as a step that is added; of a kind of its own where it is none of a DenseNet's."""
    first = next((value for value in taken.arguments.values() if isinstance(value, Map)), None)
    if taken.in_place and first and first.is_shared:
        raise MisfitError(f"{taken.title} ({name}) works in place on what another operation has kept")
    make = _STEPS.get(taken.title)
    attributes = _in_place_of(taken, first, steps) if first else None
    if attributes is None and make:
        attributes = make(taken.arguments, tensors)
    maps = _maps([*taken.arguments.values()])
    if attributes is None:
        attributes = {"kind": f"torch.{taken.title}", "inputs": maps}  # `mean` over other axes is no mean of ours
    is_training = True in (taken.arguments.get("training"), taken.arguments.get("train"))
    title = f"{taken.title} ({name})" + (f", {AS_IN_TRAINING}" if is_training else "")
    step = Step(name=name, title=title, **{"inputs": maps[:1], **attributes})
    if name in steps:
        raise CorruptError(f"two operations are called {name!r}")
    steps[name] = step
    if taken.in_place and first:
        first.step = name
        return first
    is_view = step.kind in ("identity", "flatten") and taken.title != "clone"
    if first and is_view:
        first.is_shared = True
    return Map(name, is_shared=is_view)


def program_of(steps: Mapping[str, Step], outputs: Sequence[Map]) -> FileGraph:
    """The graph of a program that puts out these maps."""
    count = len(outputs)
    notes = (f"the program puts out {count} values; a DenseNet has one, its head's or its last map",)
    names = tuple(output.step for output in outputs)
    return FileGraph(steps=steps, outputs=names, notes=notes if count > 1 else ())


def _in_place_of(taken: Taken, value: Map, steps: Mapping[str, Step]) -> "Made":
    """What an operation does where it stands: the first order of axes, the last mean, the end of axes of one place."""
    before = steps[value.step].kind if value.step != INPUT else ""
    match taken.title:
        case "permute" if taken.arguments["dims"] == _FIRST_CHANNELS and _is_input(value, steps):
            return {"kind": "identity"}
        case "squeeze" if taken.arguments["dim"] in _EDGES and _has_one_place(value, steps):
            return {"kind": "flatten", "function": "c h w"}
        case "squeeze" if taken.arguments["dim"] in _CLASSES and _is_answer(value, steps):
            return {"kind": "identity"}
        case "mean" if taken.arguments["dim"] in _LAST and before in _HALVES:
            return {"kind": "mean", "inputs": steps[value.step].inputs}
        case "select" if taken.arguments["dim"] in (2, 3) and taken.arguments["index"] == 0:  # -1 may be the channels
            return {"kind": "flatten", "function": "c h w"} if _has_one_place(value, steps) else None
    return None


def made_by(value: Map, steps: Mapping[str, Step], *passing: str) -> Step | None:
    """The step that made a value, but for those of some kinds that only pass it on; None for the pictures."""
    name = value.step
    while name != INPUT and steps[name].kind in passing:
        name = steps[name].inputs[0]
    return None if name == INPUT else steps[name]


def _is_answer(value: Map, steps: Mapping[str, Step]) -> bool:
    """Whether a value is what a dense layer puts out, perhaps behind an activation."""
    step = made_by(value, steps, "identity", "activation")
    return step is not None and step.kind == "dense"


def _has_one_place(value: Map, steps: Mapping[str, Step]) -> bool:
    """Whether a map is a mean or a maximum over height and width, perhaps without these axes."""
    step = made_by(value, steps, "identity", "flatten")
    return step is not None and step.kind in ("mean", "max")


def _is_input(value: Map, steps: Mapping[str, Step]) -> bool:
    """Whether a map is the pictures that go in, or all of them times a number and plus a number."""
    name = value.step
    while name != INPUT:
        step = steps[name]
        if step.kind not in ("identity", "affine") or (len(step.factors), len(step.offsets)) != (1, 1):
            return False
        name = step.inputs[0]
    return True


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


def _holder(tensors: Tensors, *, bias: Any, weight: Any) -> str | None:
    """What holds a kernel, and all of its bias; None where they are two."""
    if not isinstance(weight, Held) or not weight.name.endswith(".weight"):
        return None
    holder = weight.name.removesuffix(".weight")
    expected = Held(f"{holder}.bias") if f"{holder}.bias" in tensors else None
    return holder if bias == expected else None


def _conv(arguments: Arguments, tensors: Tensors) -> Made:
    holder = _holder(tensors, bias=arguments["bias"], weight=arguments["weight"])
    kernel = tensors.get(f"{holder}.weight")
    shape = kernel.shape if kernel else ()
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


def _norm(arguments: Arguments, _tensors: Tensors) -> Made:
    weight = arguments["weight"]
    holder = weight.name.removesuffix(".weight") if isinstance(weight, Held) else ""
    is_plain = all(arguments[role] == Held(f"{holder}.{role}") for role in _NORM)
    if not is_plain or arguments.get("training"):
        return None
    return {"kind": "norm", "holder": holder, "epsilon": float(arguments["eps"])}


def _max_pool(arguments: Arguments, _tensors: Tensors) -> Made:
    return {**_windows(arguments), "kind": "max_pool", "dilation": pair(arguments["dilation"])}


def _average_pool(arguments: Arguments, _tensors: Tensors) -> Made:
    return None if arguments["divisor_override"] is not None else {**_windows(arguments), "kind": "average_pool"}


def _windows(arguments: Arguments) -> dict[str, Any]:
    kernel = pair(arguments["kernel_size"])
    return {
        "kernel": kernel,
        "stride": pair(arguments["stride"]) if arguments["stride"] else kernel,
        "padding": pair(arguments["padding"]) * 2,
        "rounding": "ceil" if arguments["ceil_mode"] else "floor",
    }


def _adaptive(kind: str) -> Callable[[Arguments, Tensors], Made]:
    return lambda arguments, _: {"kind": kind} if arguments["output_size"] in (1, [1], [1, 1]) else None


def _mean(arguments: Arguments, _tensors: Tensors) -> Made:
    """The mean over height and width, or over the width of a map, whose rows' mean may follow."""
    if arguments["dim"] in _PICTURE:
        return {"kind": "mean"}
    is_half = arguments["dim"] in ([-1], [3]) and not arguments["keepdim"]
    return {"kind": _HALVES[0]} if is_half else None


def _over_picture(kind: str) -> Callable[[Arguments, Tensors], Made]:
    return lambda arguments, _: {"kind": kind} if arguments["dim"] in _PICTURE else None


def _cat(arguments: Arguments, _tensors: Tensors) -> Made:
    maps = _maps([arguments["tensors"]])
    return {"kind": "concat", "inputs": maps} if maps and arguments["dim"] in (1, -3) else None


def _flatten(arguments: Arguments, _tensors: Tensors) -> Made:
    is_flat = (arguments["start_dim"], arguments["end_dim"]) in ((1, -1), (1, 3))
    if not is_flat and arguments["start_dim"] == 2 and arguments["end_dim"] in (-1, 3):  # height and width
        return {"kind": PLACES}
    return {"kind": "flatten", "function": "c h w"} if is_flat else None


def _linear(arguments: Arguments, tensors: Tensors) -> Made:
    holder = _holder(tensors, bias=arguments["bias"], weight=arguments["weight"])
    return None if holder is None else {"kind": "dense", "holder": holder}


def _addmm(arguments: Arguments, tensors: Tensors) -> Made:
    kernel = arguments["mat2"]
    if not isinstance(kernel, Held) or not kernel.transposed or (arguments["beta"], arguments["alpha"]) != (1, 1):
        return None
    return _linear({"weight": Held(kernel.name), "bias": arguments["self"]}, tensors)


def _dropout(arguments: Arguments, _tensors: Tensors) -> Made:
    return {"kind": "identity"} if arguments["train"] is False else None


def _softmax(function: str) -> Callable[[Arguments, Tensors], Made]:
    return lambda arguments, _: {"kind": "activation", "function": function} if arguments["dim"] in (1, -1) else None


def _arithmetic(operation: str) -> Callable[[Arguments, Tensors], Made]:
    """A map and numbers, one or one for each channel, added, subtracted, multiplied or divided."""

    def make(arguments: Arguments, tensors: Tensors) -> Made:
        one, other = arguments["self"], arguments["other"]
        numbers = numbers_of(other if isinstance(one, Map) else one, tensors)
        if numbers is None or arguments.get("rounding_mode") is not None:
            return None
        array, held = numbers
        alpha = arguments.get("alpha", 1)
        if not isinstance(alpha, int | float):
            return None
        factors, offsets = np.ones_like(array), np.zeros_like(array)
        is_first = isinstance(one, Map)
        if operation == "mul":
            factors = array
        elif operation == "div" and is_first and array.all():
            factors = 1 / array
        elif operation == "add":
            factors, offsets = (factors, alpha * array) if is_first else (alpha * factors, array)
        elif operation in ("sub", "rsub"):  # rsub takes the first from the second
            is_minuend = is_first == (operation == "sub")
            factors, offsets = (factors, -alpha * array) if is_minuend else (-alpha * factors, array)
        else:
            return None
        return {"kind": "affine", "factors": tuple(factors.tolist()), "offsets": tuple(offsets.tolist()), "held": held}

    return make


def numbers_of(value: Any, tensors: Tensors) -> tuple[Array, tuple[str, ...]] | None:
    """The numbers that a value is, one or one for each channel of `n c h w` (float64), and which tensors they are.

    None for anything else.
    """
    held = (value.name,) if isinstance(value, Held) else ()
    if isinstance(value, Held):
        tensor = tensors.get(value.name)
        if tensor is None or not 0 < prod(tensor.shape) <= FEW:
            return None
        value = tensor.load().reshape(value.shape or tensor.shape)
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray):
        return None
    array = np.asarray(value)
    if array.dtype == np.float32:  # people write 0.485
        array = np.array([float(str(number)) for number in array.reshape(-1)]).reshape(array.shape)
    array = array.astype(np.float64)
    is_by_channel = array.ndim in (3, 4) and array.shape[-2:] == (1, 1) and array.shape[0] in (1, array.size)
    if not (array.size == 1 or (is_by_channel and array.size == array.shape[-3])) or not np.isfinite(array).all():
        return None
    return array.reshape(-1), held


def is_rounding(value: Any, kinds: Iterable[Any], floats: Collection[int]) -> bool:
    """Whether a cast of a value to a type (its number is among `kinds`) keeps its numbers, or rounds them at most."""
    is_whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return is_whole or all(kind in floats for kind in kinds if type(kind) is int)


def aside(operation: str, values: list[Any], tensors: Tensors) -> Any:
    """Few numbers, a constant or a tensor of the file, as an operation leaves or shapes them; None for any other."""
    match values:
        case [np.ndarray() as array, *rest]:
            value, shape = array, array.shape
        case [Held(name) as value, *rest] if name in tensors:
            shape = value.shape or tensors[name].shape
        case _:
            return None
    if operation in _COPIES:
        return value
    if prod(shape) > FEW:
        return None
    numbers = np.zeros(shape, bool)
    try:
        match operation, rest:
            case "view" | "reshape", [list() as sizes]:
                shape = numbers.reshape(sizes).shape
            case "unsqueeze", [int(axis)]:
                shape = np.expand_dims(numbers, axis).shape
            case "slice", _ if _slice(take("slice", values, {}).arguments, tensors):
                pass
            case _:
                return None
    except (TypeError, ValueError):
        return None
    return value.reshape(shape) if isinstance(value, np.ndarray) else value._replace(shape=shape)


def _turned(axis: str) -> Callable[[Arguments, Tensors], Made]:
    """The channels in another order: the opposite one, or their own."""

    def make(arguments: Arguments, _tensors: Tensors) -> Made:
        chosen = arguments[axis]
        if axis == "dims":
            return {"kind": "reverse"} if chosen in ([1], [-3]) else None
        if axis == "indices":
            is_channels = isinstance(chosen, list) and len(chosen) == 2 and chosen[0] is None  # n c
            chosen = chosen[1] if is_channels else None
        elif arguments["dim"] not in (1, -3):
            return None
        order = chosen.tolist() if isinstance(chosen, np.ndarray) else None
        if not isinstance(order, list) or sorted(order) != list(range(len(order))):
            return None
        if order == sorted(order):
            return {"kind": "identity"}
        return {"kind": "reverse"} if order == sorted(order, reverse=True) else None

    return make


def _slice(arguments: Arguments, _tensors: Tensors) -> Made:
    """All of an axis."""
    is_whole = arguments["start"] in (None, 0) and arguments["step"] == 1
    end = arguments["end"]
    return {"kind": "identity"} if is_whole and (end is None or end == 2**63 - 1) else None


def _plain(kind: str, **attributes: Any) -> Callable[[Arguments, Tensors], Made]:
    return lambda _arguments, _names: {"kind": kind, **attributes}


_STEPS: dict[str, Callable[[Arguments, Tensors], Made]] = {
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
    "mean": _mean,
    "amax": _over_picture("max"),
    "cat": _cat,
    **{operation: _arithmetic(operation) for operation in ("add", "sub", "rsub", "mul", "div")},
    "neg": _plain("affine", factors=(-1.0,)),
    "flip": _turned("dims"),
    "index": _turned("indices"),
    "index_select": _turned("index"),
    "slice": _slice,
    "flatten": _flatten,
    "linear": _linear,
    "addmm": _addmm,
}
