"""Changed configurations of Keras 3: every setting of a layer, a layer taken out, put in, or reading another one."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

ACTIVATIONS = (
    "relu",
    "linear",
    "sigmoid",
    "tanh",
    "softmax",
    "log_softmax",
    "silu",
    "gelu",
    "elu",
    "relu6",
    "leaky_relu",
)
WINDOWS = ([1, 1], [2, 2], [3, 3], [2, 1], [4, 4])
SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Conv2D": {
        "strides": WINDOWS,
        "padding": ("same", "valid"),
        "dilation_rate": ([2, 2], [1, 2]),
        "groups": (2, 4),
        "data_format": ("channels_first",),
        "activation": ACTIVATIONS,
        "use_bias": (True,),
        "kernel_size": ([1, 1], [3, 3], [5, 5]),
    },
    "BatchNormalization": {
        "axis": (1, 2, 3),
        "epsilon": (1e-3, 1e-2, 1.001e-5),
        "scale": (False,),
        "center": (False,),
        "momentum": (0.5,),
    },
    "ReLU": {"max_value": (6.0, 1.0), "negative_slope": (0.1,), "threshold": (0.2,)},
    "MaxPooling2D": {"pool_size": WINDOWS, "strides": (*WINDOWS, None), "padding": ("same", "valid")},
    "AveragePooling2D": {"pool_size": WINDOWS, "strides": (*WINDOWS, None), "padding": ("same", "valid")},
    "ZeroPadding2D": {"padding": (0, 1, 2, 3, [[1, 2], [1, 1]], [[3, 3], [2, 3]], [1, 2])},
    "Concatenate": {"axis": (1, 2, 3)},
    "GlobalAveragePooling2D": {"keepdims": (True,), "data_format": ("channels_first",)},
    "Dense": {"activation": ACTIVATIONS, "use_bias": (False,)},
    "Rescaling": {"scale": (1 / 255, 2.0, [0.1, 0.2, 0.3]), "offset": (0.0, 0.5, [-1.0, -2.0, -3.0])},
    "Dropout": {"rate": (0.9,)},
    "RandomZoom": {"height_factor": (0.5,)},
}
CLASSES = {  # a class → others that take its settings, or have their own
    "ReLU": ("LeakyReLU", "ELU", "PReLU", "Softmax", "Identity"),
    "MaxPooling2D": ("AveragePooling2D",),
    "AveragePooling2D": ("MaxPooling2D",),
    "GlobalAveragePooling2D": ("GlobalMaxPooling2D", "Flatten"),
    "Concatenate": ("Add", "Maximum", "Average"),
    "BatchNormalization": ("LayerNormalization", "Identity"),
    "Rescaling": ("Identity",),
    "Dropout": ("GaussianNoise", "Identity"),
}
OWN = {"GaussianNoise": {"stddev": 0.1}}  # settings that a class cannot do without
IDENTITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Dropout": ("Dropout", {"rate": 0.5}),
    "SpatialDropout2D": ("SpatialDropout2D", {"rate": 0.5}),
    "GaussianNoise": ("GaussianNoise", {"stddev": 0.5}),
    "GaussianDropout": ("GaussianDropout", {"rate": 0.5}),
    "AlphaDropout": ("AlphaDropout", {"rate": 0.5}),
    "ActivityRegularization": ("ActivityRegularization", {"l1": 0.1}),
    "Activation linear": ("Activation", {"activation": "linear"}),
    "RandomFlip": ("RandomFlip", {}),
    "RandomRotation": ("RandomRotation", {"factor": 0.1}),
    "RandomContrast": ("RandomContrast", {"factor": 0.1}),
    "Identity": ("Identity", {}),
}
FLAT = (
    "Dropout",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "Activation linear",
    "Identity",
)  # of vectors too
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LeakyReLU": ("LeakyReLU", {"negative_slope": 0.2}),
    "ReLU": ("ReLU", {}),
    "ReLU6": ("ReLU", {"max_value": 6.0}),
    "ELU": ("ELU", {}),
    "Softmax": ("Softmax", {}),
    "Activation silu": ("Activation", {"activation": "silu"}),
    "Activation sigmoid": ("Activation", {"activation": "sigmoid"}),
    "Activation relu": ("Activation", {"activation": "relu"}),
    "Rescaling": ("Rescaling", {"scale": 2.0}),
    "Rescaling and offset": ("Rescaling", {"scale": 1.0, "offset": 0.5}),
    "Normalization": ("Normalization", {"axis": None, "mean": 0.3, "variance": 4.0}),
    "UnitNormalization": ("UnitNormalization", {"axis": -1}),
    "AveragePooling2D": ("AveragePooling2D", {"pool_size": [3, 3], "strides": [1, 1], "padding": "same"}),
    "MaxPooling2D": ("MaxPooling2D", {"pool_size": [3, 3], "strides": [1, 1], "padding": "same"}),
    "ZeroPadding2D": ("ZeroPadding2D", {"padding": [[1, 1], [1, 1]]}),
    "Cropping2D": ("Cropping2D", {"cropping": [[1, 1], [1, 1]]}),
    "UpSampling2D": ("UpSampling2D", {}),
    "Permute": ("Permute", {"dims": [2, 1, 3]}),
    "CenterCrop": ("CenterCrop", {"height": 8, "width": 8}),
    "Resizing": ("Resizing", {"height": 40, "width": 40}),
    "Masking": ("Masking", {}),
    "GlobalAveragePooling2D": ("GlobalAveragePooling2D", {"keepdims": True}),
    "Flatten": ("Flatten", {}),
    "Lambda": ("Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wAA", "defaults": None}}}),
    "of one's own": ("Attention2D", {}),
}
ELLIPSIS = {"class_name": "__ellipsis__", "config": {}}
BACKWARDS = {"start": None, "stop": None, "step": -1}
WHOLE = {"start": None, "stop": None, "step": None}
THREE = {"class_name": "__numpy__", "config": {"value": [2.0, 3.0, 4.0], "dtype": "float32"}}
OPERATIONS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "Multiply": ("Multiply", {}, [2.0]),
    "Multiply by channel": ("Multiply", {}, [THREE]),
    "Add": ("Add", {}, [0.5]),
    "Subtract": ("Subtract", {}, [0.5]),
    "TrueDivide": ("TrueDivide", {}, [2.0]),
    "Negative": ("Negative", {}, []),
    "Flip": ("Flip", {"axis": -1}, []),
    "Flip of rows": ("Flip", {"axis": 1}, []),
    "GetItem": ("GetItem", {}, [[ELLIPSIS, {"class_name": "__slice__", "config": BACKWARDS}]]),
    "GetItem of columns": (
        *("GetItem", {}),
        [[ELLIPSIS, {"class_name": "__slice__", "config": BACKWARDS}, {"class_name": "__slice__", "config": WHOLE}]],
    ),
    "Pad": ("Pad", {"pad_width": [[0, 0], [1, 1], [1, 1], [0, 0]], "mode": "constant"}, []),
    "Pad mirrored": ("Pad", {"pad_width": [[0, 0], [1, 1], [1, 1], [0, 0]], "mode": "reflect"}, []),
    "Absolute": ("Absolute", {}, []),
    "Relu": ("Relu", {}, []),
    "Mean": ("Mean", {"axis": [1, 2], "keepdims": True}, []),
    "Cast": ("Cast", {"dtype": "float32"}, []),
    "Cast to whole numbers": ("Cast", {"dtype": "int32"}, []),
}
_MODULES = {"Relu": "keras.src.ops.nn", "Cast": "keras.src.ops.core"}


def variants(model: dict[str, Any], share: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was changed, and the configuration; the model itself is left as it is.

    Of what can be put in, one of `share` kinds is, another at each place.
    """
    for place in _places(model):
        yield from _settings(model, place)
        if "input_layers" in _at(model, place)["config"]:
            yield from _additions(model, place, share)
            yield from _wiring(model, place)


def _places(model: dict[str, Any], place: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where models stand in a model, itself first: numbers of layers."""
    yield place
    for number, layer in enumerate(model["config"]["layers"]):
        if "layers" in layer["config"]:
            yield from _places(layer, (*place, number))


def _at(model: dict[str, Any], place: tuple[int, ...]) -> dict[str, Any]:
    for number in place:
        model = model["config"]["layers"][number]
    return model


def _copy(model: dict[str, Any], place: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A copy of a model, and of the model at a place in it."""
    copy = deepcopy(model)
    return copy, _at(copy, place)["config"]


def _settings(model: dict[str, Any], place: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each setting of each layer with each other value, and each layer of each other class."""
    for number, layer in enumerate(_at(model, place)["config"]["layers"]):
        name, kind = layer["config"]["name"], layer["class_name"]
        for key, values in SETTINGS.get(kind, {}).items():
            for value in values:
                if layer["config"].get(key) != value:
                    copy, config = _copy(model, place)
                    config["layers"][number]["config"][key] = value
                    yield f"{name}: {key} {value}", copy
        for other in CLASSES.get(kind, ()):
            copy, config = _copy(model, place)
            own = OWN.get(other, {})
            config["layers"][number] |= {"class_name": other, "config": {"name": name, **own}}
            yield f"{name}: {other} for {kind}", copy


def _additions(model: dict[str, Any], place: tuple[int, ...], share: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Layers and operations behind each layer."""
    for number, layer in enumerate(_at(model, place)["config"]["layers"]):
        name, shape = layer["config"]["name"], _shape(_at(model, place)["config"], layer["config"]["name"])
        for turn, (title, (kind, settings)) in enumerate((IDENTITIES | LAYERS).items()):
            if (turn + number) % share == 0 and (len(shape) == 4 or title in FLAT or title in LAYERS):
                added = {"class_name": kind, "module": "keras.layers", "config": {"name": "planted", **settings}}
                yield f"{title} behind {name}", _added(model, place, number, added)
        for turn, (title, (kind, settings, arguments)) in enumerate(OPERATIONS.items()):
            if (turn + number) % share:
                continue
            module = _MODULES.get(kind, "keras.src.ops.numpy")
            added = {"class_name": kind, "module": module, "config": {"name": "planted", **settings}}
            yield f"{title} behind {name}", _added(model, place, number, added, arguments)
        dropout = {"class_name": "Dropout", "module": "keras.layers", "config": {"name": "planted", "rate": 0.5}}
        yield f"Dropout in training behind {name}", _added(model, place, number, dropout, training=True)


def _added(
    model: dict[str, Any],
    place: tuple[int, ...],
    number: int,
    added: dict[str, Any],
    arguments: Any = (),
    **keywords: Any,
) -> dict[str, Any]:
    """A copy in which everything that read a layer reads another one behind it."""
    copy, config = _copy(model, place)
    name = config["layers"][number]["config"]["name"]
    read = _tensor(name, _shape(config, name), _call(config, name))
    _moved(config, name, lambda history: ["planted", 0, 0])
    node = {"args": [read, *deepcopy(list(arguments))], "kwargs": keywords}
    layer = {"registered_name": None, "name": "planted", **deepcopy(added), "inbound_nodes": [node]}
    config["layers"].insert(number + 1, layer)
    return copy


def _wiring(model: dict[str, Any], place: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each layer taken out; reading another map of the same shape; what is joined turned round; another output."""
    layers = _at(model, place)["config"]["layers"]
    for number, layer in enumerate(layers):
        name = layer["config"]["name"]
        reads = [*_histories(layer["inbound_nodes"])]
        if len(reads) == 1:
            copy, config = _copy(model, place)
            history = reads[0]["keras_history"]
            _moved(config, name, lambda _, history=history: list(history))
            del config["layers"][number]
            yield f"{name} taken out", copy
        for place_in, read in enumerate(reads):
            for other in layers[:number]:
                other_name = other["config"]["name"]
                shape = _shape(_at(model, place)["config"], other_name)
                if other_name != read["keras_history"][0] and shape == read["shape"]:
                    copy, config = _copy(model, place)
                    changed = [*_histories(config["layers"][number]["inbound_nodes"])][place_in]
                    changed["keras_history"] = [other_name, _call(config, other_name), 0]
                    yield f"{name} reads {other_name}", copy
        if len(reads) > 1:
            copy, config = _copy(model, place)
            config["layers"][number]["inbound_nodes"][0]["args"][0].reverse()
            yield f"{name} turned round", copy
        if layer["class_name"] in ("BatchNormalization", "Functional"):
            copy, config = _copy(model, place)
            config["layers"][number]["inbound_nodes"][0]["kwargs"] = {"training": True}
            yield f"{name} in training", copy
        copy, config = _copy(model, place)
        config["output_layers"] = [[name, _call(config, name), 0]]
        yield f"{name} put out", copy


def _histories(content: Any) -> Iterator[dict[str, Any]]:
    """What nodes read: shape, type and history."""
    if isinstance(content, dict) and content.get("class_name") == "__keras_tensor__":
        yield content["config"]
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _histories(part)


def _moved(config: dict[str, Any], name: str, move: Any) -> None:
    """Let what reads a layer read something else."""
    for layer in config["layers"]:
        for read in _histories(layer["inbound_nodes"]):
            if read["keras_history"][0] == name:
                read["keras_history"] = move(read["keras_history"])
    ends = config["output_layers"]
    listed = ends if isinstance(ends[0], list) else [ends]
    for end in listed:
        if end[0] == name:
            end[:] = move(end)


def _shape(config: dict[str, Any], name: str) -> list[int | None]:
    """The shape of what a layer puts out, where another reads it; of a vector for the last."""
    for layer in config["layers"]:
        for read in _histories(layer["inbound_nodes"]):
            if read["keras_history"][0] == name:
                return list(read["shape"])
    return [None, 7]


def _call(config: dict[str, Any], name: str) -> int:
    """The number of a layer's call, as the configuration counts."""
    for layer in config["layers"]:
        for read in _histories(layer["inbound_nodes"]):
            if read["keras_history"][0] == name:
                return int(read["keras_history"][1])
    return 0


def _tensor(name: str, shape: list[int | None], call: int) -> dict[str, Any]:
    """What a layer puts out, as an argument."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": shape, "dtype": "float32", "keras_history": [name, call, 0]},
    }
