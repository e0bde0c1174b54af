"""Operations in a Keras model's graph that are no layers: Keras 3's `keras.ops`, tf.keras's calls of TensorFlow.

keras.src.ops.numpy   TrueDivide        Keras 3; settings in its configuration, the rest among the arguments
TFOpLambda            math.truediv      tf.keras from 2.4 on, under `function`; SlicingOpLambda likewise
TensorFlowOpLayer     RealDiv           tf.keras from 2.0 to 2.3, a `node_def` and numbered `constants`
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from densenet_port.file_graph import Step
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.keras.calls import Call, Value
from densenet_port.formats.keras.layers import (
    FUNCTIONS,
    MAP,
    Taken,
    affine,
    concat,
    identity,
    is_along_channels,
    is_float,
    numbers_of,
    one,
    other,
    reshape,
)

CHANNEL = "channel"  # the kind of a step that takes one channel out

_NAMES = {  # every spelling → the operation
    **dict.fromkeys(("truedivide", "divide", "truediv", "realdiv", "div"), "divide"),
    **dict.fromkeys(("subtract", "sub"), "subtract"),
    **dict.fromkeys(("multiply", "mul"), "multiply"),
    **dict.fromkeys(("add", "addv2", "biasadd", "bias_add"), "add"),
    **dict.fromkeys(("negative", "neg"), "negative"),
    **dict.fromkeys(("cast", "identity", "stopgradient", "stop_gradient"), "cast"),
    **dict.fromkeys(("flip", "reverse", "reversev2"), "flip"),
    **dict.fromkeys(("getitem", "stridedslice"), "getitem"),
    **dict.fromkeys(("mean", "reduce_mean"), "mean"),
    **dict.fromkeys(("max", "amax", "reduce_max"), "max"),
    **dict.fromkeys(("concatenate", "concat", "concatv2"), "concatenate"),
    **dict.fromkeys(("logsoftmax", "log_softmax"), "log_softmax"),
    **{name: name for name in ("stack", "relu", "softmax", "sigmoid", "tanh", "pad", "reshape", "squeeze")},
}
_SECOND = ("y", "x2", "bias", "value")  # what the other number of an operation may be called


def operation(layer: dict[str, Any]) -> str | None:
    """The name of the operation that a layer of the configuration is, as its software spells it; None for a layer."""
    kind, module, config = str(layer["class_name"]), str(layer.get("module")), layer["config"]
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return str(config["function"])
    if kind in ("TensorFlowOpLayer", "AddV2TensorFlowOpLayer"):
        return str(_definition(config)["op"])
    is_bare = "module" not in layer and "trainable" not in config and kind.lower() in _NAMES
    return kind if is_bare or module.startswith(("keras.src.ops.", "keras.ops")) else None


def taken_operation(call: Call, steps: dict[str, Step]) -> Taken:
    """The steps of a call of an operation; `steps` are those before it."""
    if call.config.get("node_def"):
        call = _with_constants(call)
    name = _NAMES.get(call.kind.rpartition(".")[2].lower().replace("depth_", ""), "")
    if name in _ARITHMETIC:
        return _arithmetic(call, name)
    if name == "stack":
        return _stack(call, steps)
    if name in ("sigmoid", "softmax", "tanh", "log_softmax"):
        return _function(call, name)
    maker = _MAKERS.get(name)
    if maker is None or not call.inputs or (name != "concatenate" and len(call.inputs) != 1):
        return other(call)
    return maker(call)


def _definition(config: dict[str, Any]) -> dict[str, Any]:
    """A `node_def`, which is JSON, as text or not."""
    definition = config["node_def"]
    parsed: dict[str, Any] = parsed_json("a node_def", definition) if isinstance(definition, str) else definition
    return parsed


def _with_constants(call: Call) -> Call:
    """A call of tf.keras 2.0 to 2.3 with its constants among the arguments, by their numbers."""
    arguments: list[Any] = list(call.inputs)
    for place, constant in sorted((int(key), value) for key, value in call.config.get("constants", {}).items()):
        arguments.insert(place, constant)
    return replace(call, arguments=arguments)


def _setting(call: Call, name: str, place: int) -> Any:
    """A setting: in the configuration, by its name, or among the arguments."""
    if name in call.config:
        return call.config[name]
    return call.keywords.get(name, call.arguments[place] if place < len(call.arguments) else None)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def _arithmetic(call: Call, name: str) -> Taken:
    """A number, or one for each channel, and what is read; either may stand first."""
    named = [call.keywords[key] for key in _SECOND if key in call.keywords]
    operands = [*call.arguments, *named]
    if len(call.inputs) != 1 or len(operands) > 2:
        return other(call)
    if name == "negative":
        return affine(call, (-1.0,), (0.0,)) if len(operands) == 1 else other(call)
    if len(operands) != 2:
        return other(call)
    is_behind = isinstance(operands[0], Value)
    is_front = call.keywords.get("data_format") in ("NCHW", "channels_first")
    constant = operands[1] if is_behind else operands[0]
    numbers = numbers_of(constant, first=call.first and not is_front)
    if isinstance(constant, str | bool) or numbers is None or is_front > call.first:
        return other(call, "with other numbers than one for each channel")
    made = _ARITHMETIC[name](numbers, is_behind)
    return affine(call, *made) if made else other(call, "by zero or of a number")


_Numbers = tuple[float, ...]


def _divide(numbers: _Numbers, is_behind: bool) -> tuple[_Numbers, _Numbers] | None:
    return (tuple(1 / number for number in numbers), (0.0,)) if is_behind and 0 not in numbers else None


def _subtract(numbers: _Numbers, is_behind: bool) -> tuple[_Numbers, _Numbers]:
    return ((1.0,), tuple(-number for number in numbers)) if is_behind else ((-1.0,), numbers)


def _multiply(numbers: _Numbers, _is_behind: bool) -> tuple[_Numbers, _Numbers]:
    return numbers, (0.0,)


def _add(numbers: _Numbers, _is_behind: bool) -> tuple[_Numbers, _Numbers]:
    return (1.0,), numbers


_ARITHMETIC: dict[str, Callable[..., tuple[_Numbers, _Numbers] | None]] = {
    "divide": _divide,
    "subtract": _subtract,
    "multiply": _multiply,
    "add": _add,
    "negative": _multiply,
}


# -- the rest ----------------------------------------------------------------------------------------------------------


def _cast(call: Call) -> Taken:
    dtype = _setting(call, "dtype", 1)
    return identity(call) if is_float(dtype) else other(call, f"to {dtype}")


def _flip(call: Call) -> Taken:
    axis = _setting(call, "axis", 1)
    (read,) = call.inputs
    return one(call, "reverse", read) if is_along_channels(axis, read, first=call.first) else other(call)


def _getitem(call: Call) -> Taken:
    """The channels in the opposite order, or one of them."""
    (read,) = call.inputs
    index = _for_all_axes(_setting(call, "slice_spec", 1))
    if read.rank != MAP or index is None:
        return other(call)
    channels = index.pop(1 if call.first else MAP - 1)
    if any(part != slice(None) for part in index):
        return other(call)
    if channels == slice(None, None, -1):
        return one(call, "reverse", read)
    if isinstance(channels, int):
        return one(call, CHANNEL, Value("", MAP - 1, is_map=False), groups=channels)
    return other(call)


def _for_all_axes(index: Any) -> list[Any] | None:
    """An index of a map with a part for each axis; None for one that has more."""
    parts = index if isinstance(index, list) else [index]
    place = parts.index(...) if ... in parts else len(parts)
    before, behind = parts[:place], parts[place + 1 :]
    missing = MAP - len(before) - len(behind)
    return [*before, *[slice(None)] * missing, *behind] if missing >= 0 else None


def _stack(call: Call, steps: dict[str, Step]) -> Taken:
    """Single channels put together in the opposite order."""
    parts = [steps[value.step] for value in call.inputs if value.step in steps]
    reads = {part.inputs[0] for part in parts if part.kind == CHANNEL}
    axis = _setting(call, "axis", 1)
    order = [part.groups for part in parts]
    is_last = axis in ((1, -3) if call.first else (-1, 3))
    if len(parts) != 3 or len(reads) != 1 or any(p.kind != CHANNEL for p in parts) or order != [2, 1, 0] or not is_last:
        return other(call)
    step = Step(name=call.name, kind="reverse", inputs=(reads.pop(),), title=call.title)
    return Taken((step,), Value(call.name, MAP, is_map=True, channels=3))


def _function(call: Call, function: str) -> Taken:
    if len(call.inputs) != 1:
        return other(call)
    (read,) = call.inputs
    axis = _setting(call, "axis", 1)
    is_wide = function in ("softmax", "log_softmax")
    if function not in FUNCTIONS or (is_wide and (read.rank is None or axis not in (None, -1, read.rank - 1))):
        return other(call, f"axis {axis}")
    return one(call, "activation", function=function)


def _relu(call: Call) -> Taken:
    return one(call, "relu")


def _over_picture(kind: str) -> Callable[[Call], Taken]:
    """The mean or the maximum over height and width."""

    def make(call: Call) -> Taken:
        (read,) = call.inputs
        axes = _setting(call, "axis", 1)
        places = {2, 3} if call.first else {1, 2}
        is_list = isinstance(axes, list) and read.rank == MAP and all(isinstance(axis, int) for axis in axes)
        if not is_list or {axis % MAP for axis in axes} != places or _setting(call, "initial", 3) is not None:
            return other(call, f"axis {axes}")
        keeps = bool(_setting(call, "keepdims", 2))
        return one(call, kind, Value("", MAP if keeps else 2, is_map=False))

    return make


def _concatenate(call: Call) -> Taken:
    return concat(call, _setting(call, "axis", 1))


def _pad(call: Call) -> Taken:
    """Zeros around, or one place around, mirrored."""
    widths = _setting(call, "paddings", 1) or _setting(call, "pad_width", 1)
    mode = str(_setting(call, "mode", 2) or "constant").lower()
    outer = [[0, 0], [0, 0]]
    if not (isinstance(widths, list) and len(widths) == MAP):
        return other(call)
    rest, rows, columns = (
        ([widths[0], widths[1]], *widths[2:]) if call.first else ([widths[0], widths[3]], *widths[1:3])
    )
    if rest != outer or _setting(call, "constant_values", 3) not in (None, 0):
        return other(call)
    padding = (rows[0], columns[0], rows[1], columns[1])
    if mode == "constant":
        return one(call, "zeros", padding=padding)
    return one(call, "pad") if mode == "reflect" and padding == (1, 1, 1, 1) else other(call, mode)


def _reshape(call: Call) -> Taken:
    """Another shape; the first of its numbers is that of the pictures."""
    shape = next((made for key in ("newshape", "shape") if (made := _setting(call, key, 1)) is not None), None)
    return reshape(call, shape[1:] if isinstance(shape, list) and shape[:1] in ([-1], [None]) else None)


def _squeeze(call: Call) -> Taken:
    (read,) = call.inputs
    if read.is_map or read.rank is None or call.first:
        return other(call)
    axes = _setting(call, "axis", 1)
    listed = axes if isinstance(axes, list) else [axes]
    if not all(isinstance(axis, int) and 0 < axis % read.rank < read.rank - 1 for axis in listed):
        return other(call, f"axis {axes}")
    return one(call, "flatten", Value("", read.rank - len(listed), is_map=False))


_MAKERS: dict[str, Callable[[Call], Taken]] = {
    "cast": _cast,
    "concatenate": _concatenate,
    "flip": _flip,
    "getitem": _getitem,
    "max": _over_picture("max"),
    "mean": _over_picture("mean"),
    "pad": _pad,
    "relu": _relu,
    "reshape": _reshape,
    "squeeze": _squeeze,
}
