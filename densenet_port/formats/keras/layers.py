"""What the layers of Keras do when a network answers, as steps; what is not known here is a step of another kind.

Settings are read in the words of each Keras: `kernel_size` was `nb_row` and `nb_col`, `padding` was `border_mode`,
`strides` `subsample`, `data_format` `dim_ordering`. A setting that a step has no place for makes it another kind, whose
title names the setting.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from densenet_port.file_graph import INPUT, Pair, Step
from densenet_port.formats.keras.calls import Call, Value

FUNCTIONS = ("softmax", "sigmoid", "tanh", "log_softmax")
CHANNELS_FIRST = "c h w"  # the order in which a flattening reads a map
MAP = 4  # axes of a map: the picture's number, height, width and channels
TURNED = "turned"  # the kind of a step that puts the channels of a map in front
SMALLEST = 1e-7  # Keras's own epsilon, below which Normalization divides by it

AUGMENTATION = frozenset(  # what changes pictures in training alone
    f"Random{name}"
    for name in (
        *("Brightness", "ColorDegeneration", "ColorJitter", "Contrast", "ElasticTransform", "Erasing", "Flip"),
        *("GaussianBlur", "Grayscale", "Height", "Hue", "Invert", "Perspective", "Posterization", "Rotation"),
        *("Saturation", "Sharpness", "Shear", "Translation", "Width", "Zoom"),
    )
) | {"AugMix", "CutMix", "MixUp", "RandAugment"}
_RANDOM = AUGMENTATION | {
    *("Dropout", "SpatialDropout2D", "SpatialDropout1D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
}
_JOINING = ("Concatenate", "Merge")
IDENTITIES = _RANDOM | {"ActivityRegularization", "Identity"}
_FLOATS = frozenset(("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"))


class Taken(NamedTuple):
    """The steps that a call is, in order, and what the last puts out."""

    steps: tuple[Step, ...]
    value: Value


def taken(call: Call) -> Taken:
    """The steps of a call of a layer of Keras's."""
    maker = identity if call.kind in IDENTITIES else _MAKERS.get(call.kind)
    if maker is None or (len(call.inputs) != 1 and call.kind not in _JOINING) or not call.inputs:
        return other(call)
    if not is_float(call.config.get("dtype")):
        return other(call, f"in {dtype_of(call.config.get('dtype'))}")
    for key, setting in call.keywords.items():
        parts = setting if isinstance(setting, list) else [setting]
        if key != "training" and any(part not in (None, False) for part in parts):
            return other(call, f"called with {key}")
    if call.training and call.kind in _RANDOM | {"BatchNormalization"}:
        return other(call, "called with training=True")
    if call.config.get("quantization_config") is not None:
        return other(call, "with quantised weights")
    return maker(call)


def other(call: Call, setting: str = "") -> Taken:
    """A step of another kind than any network's, named with the setting that makes it so."""
    title = f"{call.title} ({setting})" if setting else call.title
    step = Step(
        name=call.name, kind=f"layer {call.kind}", inputs=tuple(value.step for value in call.inputs), title=title
    )
    return Taken((step,), Value(call.name, None, is_map=False))


def one(call: Call, kind: str, value: Value | None = None, **attributes: Any) -> Taken:
    """A step of one input; what comes out is as what went in, unless a `value` says otherwise."""
    (read,) = call.inputs
    step = Step(name=call.name, kind=kind, inputs=(read.step,), title=call.title, **attributes)
    return Taken((step,), (value or read._replace(channels=None))._replace(step=call.name))


def identity(call: Call) -> Taken:
    """What lets everything pass."""
    return one(call, "identity", call.inputs[0])


def affine(call: Call, factors: tuple[float, ...], offsets: tuple[float, ...]) -> Taken:
    """Times factors plus offsets: numbers, or as many as the pictures have channels."""
    (read,) = call.inputs
    widths = {len(numbers) for numbers in (factors, offsets)} - {1}
    if widths - {read.channels}:
        return other(call, f"of {max(widths)} numbers for {read.channels or 'unknown'} channels")
    return one(call, "affine", read, factors=factors, offsets=offsets)


def numbers_of(constant: Any, *, first: bool) -> tuple[float, ...] | None:
    """A constant as finite numbers for the channels, or one for all; None where it has other axes, or is none."""
    try:
        array = np.asarray(constant, np.float64)
    except (TypeError, ValueError):
        return None
    channels = array.ndim - (3 if first else 1)
    if not np.isfinite(array).all():  # as None is not
        return None
    if array.size == 1:
        return (float(array.reshape(())),)
    if channels < 0 or array.ndim > MAP or array.size != array.shape[channels]:
        return None
    return tuple(map(float, array.reshape(-1)))


def channel_axis(value: Value, *, first: bool) -> int | None:
    """Which axis has the channels; None where it is not known."""
    if value.rank is None:
        return None
    return 1 if first and value.rank == MAP else value.rank - 1


def is_along_channels(axis: Any, value: Value, *, first: bool) -> bool:
    """Whether an axis is that of the channels, counted from either end."""
    place = channel_axis(value, first=first)
    (number,) = axis if isinstance(axis, list) and len(axis) == 1 else (axis,)
    return place is not None and value.rank is not None and number in (place, place - value.rank)


def dtype_of(policy: Any) -> str:
    """The name of a layer's type, or policy of types."""
    if isinstance(policy, dict):
        return str((policy.get("config") or {}).get("name") or policy.get("class_name"))
    return str(policy)


def is_float(policy: Any) -> bool:
    """Whether a layer computes in floating point; it does unless it says otherwise."""
    return policy is None or dtype_of(policy) in _FLOATS


# -- settings ----------------------------------------------------------------------------------------------------------


def _pair(setting: Any) -> Pair:
    """A number, or one for height and one for width."""
    pair = setting if isinstance(setting, list) else [setting, setting]
    height, width = pair
    if not (isinstance(height, int) and isinstance(width, int)):
        raise TypeError(f"expected whole numbers, found {pair}")
    return height, width


def _in_other_order(call: Call) -> str:
    """A setting by which a layer takes another axis for the channels than the rest of the network; "" without one."""
    order = call.config.get("data_format") or call.config.get("dim_ordering")
    channels = {"channels_first": True, "th": True, "channels_last": False, "tf": False}
    if order in (None, "default") or channels.get(order) == call.first:
        return ""
    return str(order)


def _padding(call: Call, kernel: Pair) -> tuple[int, int, int, int] | Literal["same"] | None:
    """How a window is padded; None for a rule that steps do not have."""
    rule = str(call.config.get("padding", call.config.get("border_mode", "valid"))).lower()
    if rule == "valid":
        return (0, 0, 0, 0)
    if rule != "same":
        return None
    if not call.theano:
        return "same"
    height, width = (side // 2 for side in kernel)
    alike = call.kind == "Conv2D" or (call.kind == "MaxPooling2D" and kernel == (3, 3))
    return (height, width, height, width) if alike and all(side % 2 for side in kernel) else None


# -- layers ------------------------------------------------------------------------------------------------------------


def _conv(call: Call) -> Taken:
    config = call.config
    kernel = _pair(config["kernel_size"]) if "kernel_size" in config else (config["nb_row"], config["nb_col"])
    dilation = _pair(config.get("dilation_rate", 1))
    padding = _padding(call, kernel)
    if order := _in_other_order(call):
        return other(call, order)
    if padding is None or (call.theano and dilation != (1, 1)):
        return other(call, f"padded {config.get('padding', config.get('border_mode'))}")
    stride, groups = _pair(config.get("strides", config.get("subsample", 1))), config.get("groups", 1)
    windows = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _activated(call, one(call, "conv", holder=call.holder, **windows))


def _dense(call: Call) -> Taken:
    return _activated(call, one(call, "dense", holder=call.holder))


def _activated(call: Call, done: Taken) -> Taken:
    """A layer with the activation that it has within."""
    function, shown = _function(call.config.get("activation"))
    if function == "linear":
        return done
    name = f"{call.name}:activation"
    kind = {"relu": "relu", "": f"activation {shown}"}.get(function, "activation")
    title = f"{shown} of {call.title}"
    step = Step(name=name, kind=kind, inputs=(call.name,), title=title, function=function)
    return Taken((*done.steps, step), done.value._replace(step=name))


def _function(activation: Any) -> tuple[str, str]:
    """The function of a setting, "" where it is none that steps have, and what a message calls it."""
    if activation is None:
        return "linear", "linear"
    if isinstance(activation, str):
        return (activation if activation in ("linear", "relu", *FUNCTIONS) else ""), activation
    config, kind = activation.get("config"), str(activation.get("class_name"))
    if kind == "ReLU" and isinstance(config, dict):
        return ("" if _changed_relu(config) else "relu"), kind
    if kind == "function" and str(activation.get("module")).startswith("keras."):
        return _function(config)
    return "", str(config) if kind == "function" else kind


def _activation(call: Call) -> Taken:
    function, shown = _function(call.config.get("activation"))
    if not function:
        return other(call, shown)
    if function == "linear":
        return identity(call)
    return one(call, "relu") if function == "relu" else one(call, "activation", function=function)


def _relu(call: Call) -> Taken:
    return other(call, changed) if (changed := _changed_relu(call.config)) else one(call, "relu")


def _changed_relu(config: Any) -> str:
    """The setting that makes a ReLU another function, "" where none does."""
    for key in ("max_value", "negative_slope", "threshold", "alpha"):
        if config.get(key) not in (None, 0) or (key == "max_value" and config.get(key) is not None):
            return f"{key} {config[key]:g}"
    return ""


def _softmax(call: Call) -> Taken:
    (read,) = call.inputs
    axis = call.config.get("axis", -1)
    if read.rank is None or axis not in (-1, read.rank - 1):
        return other(call, f"axis {axis}")
    return one(call, "activation", function="softmax")


def _norm(call: Call) -> Taken:
    (read,) = call.inputs
    axis, mode = call.config.get("axis", -1), call.config.get("mode", 0)
    if not is_along_channels(axis, read, first=call.first):
        return other(call, f"axis {axis}")
    if mode != 0:
        return other(call, f"mode {mode}")
    return one(call, "norm", holder=call.holder, epsilon=float(call.config.get("epsilon", 1e-3)))


def _scale(call: Call) -> Taken:
    """The layer that flyyufelix's networks have behind each norm, a class of their own."""
    axis = call.config.get("axis", -1)
    if not is_along_channels(axis, call.inputs[0], first=call.first):
        return other(call, f"axis {axis}")
    return one(call, "scale", holder=call.holder)


def _pool(call: Call) -> Taken:
    config = call.config
    kernel = _pair(config.get("pool_size", 2))
    padding = _padding(call, kernel)
    if order := _in_other_order(call):
        return other(call, order)
    if padding is None:
        return other(call, f"padded {config.get('padding', config.get('border_mode'))}")
    stride = kernel if config.get("strides") is None else _pair(config["strides"])
    kind = "max_pool" if call.kind == "MaxPooling2D" else "average_pool"
    return one(call, kind, kernel=kernel, stride=stride, padding=padding)


def _over_picture(kind: str) -> Callable[[Call], Taken]:
    """A mean or a maximum over height and width."""

    def make(call: Call) -> Taken:
        if order := _in_other_order(call):
            return other(call, order)
        keeps = bool(call.config.get("keepdims", False))
        return one(call, kind, Value("", MAP if keeps else 2, is_map=False))

    return make


def _zeros(call: Call) -> Taken:
    if order := _in_other_order(call):
        return other(call, order)
    padding = call.config["padding"]
    if isinstance(padding, dict):  # of Keras 1
        sides = [padding.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
    elif isinstance(padding, list) and len(padding) == MAP:  # of Keras 1 as well
        sides = padding
    else:
        height, width = padding if isinstance(padding, list) else (padding, padding)
        sides = [*_pair(height), *_pair(width)]
    above, below, left, right = sides
    return one(call, "zeros", padding=(above, left, below, right))


def _concat(call: Call) -> Taken:
    axis = call.config.get("axis", call.config.get("concat_axis", -1))
    return concat(call, axis)


def concat(call: Call, axis: Any) -> Taken:
    """What several maps are joined to along the channels."""
    if not all(is_along_channels(axis, value, first=call.first) for value in call.inputs):
        return other(call, f"axis {axis}")
    step = Step(name=call.name, kind="concat", inputs=tuple(v.step for v in call.inputs), title=call.title)
    return Taken((step,), call.inputs[0]._replace(step=call.name, channels=None))


def _merge(call: Call) -> Taken:
    mode = call.config.get("mode")
    return _concat(call) if mode == "concat" else other(call, f"mode {mode}")


def _flatten(call: Call) -> Taken:
    """Channels last; where they stand in front, the layer puts them last first, since it has a setting for it."""
    is_turned = not call.first or "data_format" in call.config
    return one(call, "flatten", Value("", 2, is_map=False), function="" if is_turned else CHANNELS_FIRST)


def _reshape(call: Call) -> Taken:
    return reshape(call, call.config.get("target_shape"))


def reshape(call: Call, target: Any) -> Taken:
    """Another shape, without the pictures' number: no more than a flattening, where only one axis is not 1."""
    (read,) = call.inputs
    is_list = isinstance(target, list) and bool(target) and all(isinstance(side, int) for side in target)
    if not is_list or any(side != 1 for side in target[:-1]) or (read.is_map and len(target) > 1):
        return other(call, f"to {target}")
    order = CHANNELS_FIRST if call.first else ""
    return one(call, "flatten", Value("", len(target) + 1, is_map=False), function=order)


def _permute(call: Call) -> Taken:
    """What puts the channels of the pictures last, where the network has them there; or in front, at its end."""
    (read,) = call.inputs
    turn = call.config.get("dims")
    if turn == [2, 3, 1] and read.step == INPUT and not call.first:
        return one(call, "identity", read._replace(channels=None))
    if turn == [3, 1, 2] and read.is_map and not call.first:
        return one(call, TURNED, Value("", None, is_map=False))
    return other(call, f"to {turn}")


def _rescaling(call: Call) -> Taken:
    factors, offsets = (_stated(call, key) for key in ("scale", "offset"))
    if factors is None or offsets is None:
        return other(call, "of other numbers than one for each channel")
    return affine(call, factors, offsets)


def _stated(call: Call, key: str) -> tuple[float, ...] | None:
    """Numbers of a setting; those for the channels go along the last axis, wherever a network has its channels."""
    constant = call.config.get(key, 0.0)
    if isinstance(constant, dict):
        constant = (constant.get("config") or {}).get("value")
    numbers = numbers_of(constant, first=False)
    return None if numbers and len(numbers) > 1 and call.first else numbers


def _normalization(call: Call) -> Taken:
    """(x − mean) / √variance, of numbers that are settings, or tensors of the file."""
    config, (read,) = call.config, call.inputs
    axis = config.get("axis", -1)
    if axis not in (None, []) and not is_along_channels(axis, read, first=call.first):
        return other(call, f"axis {axis}")
    if config.get("invert"):
        return other(call, "invert")
    stored = [call.constants.get(key) for key in ("mean", "variance")]
    mean, variance = (
        numbers_of(config[key] if config.get(key) is not None else constant, first=False)
        for key, constant in zip(("mean", "variance"), stored, strict=True)
    )
    if mean is None or variance is None:
        return other(call, "without its statistics")
    factors = tuple(1 / max(number**0.5, SMALLEST) for number in variance)
    spread = factors * len(mean) if len(factors) == 1 else factors
    means = mean * len(spread) if len(mean) == 1 else mean
    return affine(call, factors, tuple(-one * other for one, other in zip(means, spread, strict=True)))


_MAKERS: dict[str, Callable[[Call], Taken]] = {
    "Activation": _activation,
    "AveragePooling2D": _pool,
    "BatchNormalization": _norm,
    "Concatenate": _concat,
    "Conv2D": _conv,
    "Dense": _dense,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _over_picture("mean"),
    "GlobalMaxPooling2D": _over_picture("max"),
    "MaxPooling2D": _pool,
    "Merge": _merge,
    "Normalization": _normalization,
    "Permute": _permute,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Scale": _scale,
    "Softmax": _softmax,
    "ZeroPadding2D": _zeros,
}
ALIASES = {
    "AvgPool2D": "AveragePooling2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Convolution2D": "Conv2D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "MaxPool2D": "MaxPooling2D",
    "SyncBatchNormalization": "BatchNormalization",
}
