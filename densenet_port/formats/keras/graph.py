"""What a Keras model's configuration says of its contract, from Keras 1 to Keras 3.

A configuration lists layers, each `{"class_name", "config": {"name", …}}`, and models within the model alike. Read are
the names of the layers and, where it is plain what they mean:

    epsilon        BatchNormalization layers, if they agree on one
    stem_padding   the first 7×7 convolution and the first max pool: both "same", or both "valid" behind ZeroPadding2D
    output         the activation of the last layer, if that is a Dense or an Activation
    notes          a stem that pads otherwise, a head that takes the maximum over the picture: no contract says it
    package        `kimm>DenseNet121`, a class of one's own, is registered by the package kimm

Keras 1 says `nb_row`, `nb_col` and `border_mode` for `kernel_size` and `padding`.
"""

from collections.abc import Iterator
from typing import Any

OUTPUTS = {"linear": "logits", "softmax": "softmax", "sigmoid": "sigmoid"}
STEM = 7  # rows and columns of its kernel


def metadata_of(model: Any) -> dict[str, Any]:
    """A model's configuration as metadata; what is not as Keras writes it says nothing."""
    layers = list(_layers(model))
    found = {"config": model} | _package(model)
    if not layers or layers == [model]:
        return found  # a class of its own says nothing of what is in it
    norms = [layer["config"] for layer in layers if _is(layer, "BatchNormalization")]
    epsilons = {norm["epsilon"] for norm in norms if isinstance(norm.get("epsilon"), float)}
    epsilon = {"epsilon": epsilons.pop()} if len(epsilons) == 1 else {}
    names = [str(layer["config"]["name"]) for layer in layers if "name" in layer["config"]]
    padding, notes = _padding(layers)
    if any(_is(layer, "GlobalMaxPool") for layer in layers):
        notes += ["its head takes the maximum over the picture (GlobalMaxPooling2D), and every layout the mean"]
    return found | {"layers": names} | epsilon | padding | _output(layers[-1]) | ({"notes": notes} if notes else {})


def _layers(model: Any) -> Iterator[dict[str, Any]]:
    """Every layer that holds no others, those of models within the model too, in the configuration's order."""
    inner = model.get("config") if isinstance(model, dict) else None
    inside = inner.get("layers") if isinstance(inner, dict) else inner
    if isinstance(inside, list):
        for layer in inside:
            yield from _layers(layer)
    elif isinstance(inner, dict) and "class_name" in model:
        yield model


def _package(model: Any) -> dict[str, str]:
    """Who registered the model's class, with hyphens, as packages are called."""
    name = str(model.get("registered_name")) if isinstance(model, dict) else ""
    package, registered, _ = name.partition(">")
    return {"package": package.replace("_", "-")} if registered else {}


def _is(layer: dict[str, Any], kind: str) -> bool:
    """Whether a layer is of a class, or one whose name goes on (`BatchNormalizationV1`)."""
    return str(layer["class_name"]).startswith(kind)


def _padding(layers: list[dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """How the stem pads; nothing without an ImageNet stem, and a note where no contract says it."""
    conv = next((layer["config"] for layer in layers if STEM in _sizes(layer)), None)
    pool = next((layer["config"] for layer in layers if _is(layer, "MaxPooling2D")), None)
    if conv is None or pool is None:
        return {}, []
    ways = [str(part.get("padding", part.get("border_mode"))) for part in (conv, pool)]
    padded = sum(_is(layer, "ZeroPadding2D") for layer in layers) > 1
    if ways == ["same", "same"]:
        return {"stem_padding": "same"}, []
    if ways == ["valid", "valid"] and padded:
        return {"stem_padding": "symmetric"}, []
    return {}, [f"its stem pads its convolution {ways[0]!r} and its pool {ways[1]!r}, which no layout does"]


def _sizes(layer: dict[str, Any]) -> list[int]:
    """Rows and columns of a convolution's kernel."""
    config = layer["config"]
    found = config.get("kernel_size", [config.get("nb_row"), config.get("nb_col")])
    return found if isinstance(found, list) else []


def _output(last: dict[str, Any]) -> dict[str, Any]:
    """What the network puts out."""
    activation = last["config"].get("activation") if last["class_name"] in ("Dense", "Activation") else None
    return {"output": OUTPUTS[activation]} if isinstance(activation, str) and activation in OUTPUTS else {}
