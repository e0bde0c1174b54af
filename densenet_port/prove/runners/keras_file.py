"""A whole model that Keras loads from its file, and runs as it is: its own layers, their settings, its own preparation.

Only the type of its numbers is set to the job's, the size of its pictures left open where it can be, and the head's own
activation passed by, so that its logits are seen. A layer's output is what the layer itself gave when the model ran.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.errors import MisfitError
from densenet_port.extras import framework
from densenet_port.network.contract import Input
from densenet_port.network.units import HEAD
from densenet_port.prove.job import Job
from densenet_port.prove.runners import last, pixels
from densenet_port.prove.runners.numpy import read_by_table

FINAL = "final.norm"
_MAP = 4
_SHAPES = ("batch_shape", "batch_input_shape", "input_shape", "build_input_shape")
_FLOATS = r'"(?:mixed_)?(?:float16|bfloat16|float32|float64)"'


class Loaded(NamedTuple):
    """A model of a file: its layers by our units, what was seen of each when it ran last, and how to give it pictures.

    `seen` gives for each layer what it read and what it put out; `first` says that maps have their channels in front,
    and `given_first` that pictures have.
    """

    model: Any
    layers: Mapping[str, Any]
    seen: dict[str, tuple[Any, Any]]
    prepared: Input | None
    first: bool
    given_first: bool
    head: bool


class Answers(NamedTuple):
    """What a model put out: logits `n classes`, or the last map `n h w c`, and unit → output."""

    logits: Array
    taps: dict[str, Array]
    variables: dict[str, Any]


def run_file(job: Job) -> Answers | None:
    """What the model in the job's file answers; None where this Keras does not load it.

    Raises MisfitError where it takes no pictures of that size.
    """
    loaded = _loaded(job.bare())
    if loaded is None or not job.repeated:
        return None if loaded is None else answers_of(loaded, job)
    with _fitting(job):
        logits = _numbers(loaded, _compiled(job.bare()).predict_on_batch(_pictures(job, loaded)))
    return Answers(logits.reshape(len(logits), -1) if loaded.head else logits, {}, {})


def answers_of(loaded: Loaded, job: Job) -> Answers:
    """What a model answers. Raises MisfitError where it takes no pictures of that size."""
    loaded.seen.clear()
    with _fitting(job):
        loaded.model(_pictures(job, loaded), training=False)
    taps = {unit: _numbers(loaded, loaded.seen[layer.name][1]) for unit, layer in loaded.layers.items()}
    logits = taps[HEAD] if loaded.head else _numbers(loaded, _last_map(loaded))
    variables = {variable.path: variable for variable in loaded.model.variables if "float" in str(variable.dtype)}
    return Answers(logits.reshape(len(logits), -1) if loaded.head else logits, taps, variables)


@contextmanager
def _fitting(job: Job) -> Iterator[None]:
    """Turn what Keras says of pictures of a size that a model does not take into MisfitError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        height, width = job.images.shape[1:3]
        message = f"{job.path}: the model takes no pictures of {height} × {width}: {_first_line(error)}"
        raise MisfitError(message, hint="--sizes has those to take") from error


@lru_cache(maxsize=1)
def _compiled(job: Job) -> Any:
    """The model of a job's file as one that puts out its logits alone, or its last map."""
    keras, loaded = framework("keras"), cast("Loaded", _loaded(job))  # who asks has seen that it is there

    class Whole(keras.Model):  # type: ignore[misc,name-defined]
        """The file's model, of which what one layer puts out is given."""

        def __init__(self) -> None:
            """Have the model's variables for its own."""
            super().__init__()
            self.whole = loaded.model

        def call(self, pictures: Any) -> Any:
            """What the head puts out, or the ReLU behind the last norm."""
            self.whole(pictures, training=False)
            return loaded.seen[loaded.layers[HEAD].name][1] if loaded.head else _last_map(loaded)

    return Whole()


@lru_cache(maxsize=1)
def _loaded(job: Job) -> Loaded | None:
    """The model of a job's file in its type; None where this Keras does not load it. Kept for the next job on it."""
    keras, network = framework("keras"), read_by_table(job)
    config = json.dumps(network.checkpoint.metadata["config"])
    own = {"Scale": _scale(keras)} if '"Scale"' in config else {}
    keras.backend.clear_session()
    try:
        saved = keras.models.load_model(str(job.path), compile=False, safe_mode=True, custom_objects=own)
        model = _retyped(keras, saved, job.dtype, own)
    except Exception:  # noqa: BLE001 (a file of an older Keras fails in many ways; the class runs in its place)
        return None
    return watched(within(model, job.reading.within), network, first='"channels_first"' in config)


def watched(part: Any, network: Network, *, first: bool) -> Loaded:
    """A model that is the network, each of whose layers is watched from now on; its head gives logits."""
    layers = {unit: _layer(part, holder) for unit, holder in _holders(network).items()}
    seen: dict[str, tuple[Any, Any]] = {}
    for layer in leaves(part):
        layer.call = _seen(layer.call, layer.name, seen)
    if HEAD in layers:
        layers[HEAD].activation = framework("keras").activations.linear
    prepared = network.evidence.facts.get("input") if network.evidence else None
    return Loaded(part, layers, seen, prepared, first, first or _is_turned(part), HEAD in layers)


def _is_turned(model: Any) -> bool:
    """Whether a model puts the channels of its pictures last itself."""
    return any(type(layer).__name__ == "Permute" and layer.input is model.input for layer in model.layers)


def _retyped(keras: Any, model: Any, dtype: str, own: Mapping[str, Any]) -> Any:
    """The same model in a type, for pictures of any size if it can be."""
    config = keras.saving.serialize_keras_object(model)
    return rebuilt(config, dtype, own, lambda again: again.set_weights(model.get_weights()))


def rebuilt(config: Any, dtype: str, own: Mapping[str, Any], fill: Callable[[Any], None]) -> Any:
    """A model of a configuration in a type, for pictures of any size if it can be; `own` are classes that it names.

    Raises ValueError where Keras does not build it, or `fill` does not find what it has weights for.
    """
    keras, text = framework("keras"), json.dumps(config)
    text = re.sub(f'("dtype": |"name": ){_FLOATS}', rf'\1"{dtype}"', text)
    is_last = '"channels_first"' not in text
    for content in [_opened(json.loads(text), dtype)] * is_last + [_opened(json.loads(text), dtype, keep=True)]:
        try:
            again = keras.saving.deserialize_keras_object(content, custom_objects=own, safe_mode=True)
            fill(again)
            _full_numbers(again, dtype)
        except (ValueError, TypeError):
            continue
        return again
    raise ValueError("it cannot be built anew")


def _full_numbers(model: Any, dtype: str) -> None:
    """Give Rescaling layers their numbers in a type; TensorFlow makes float32 of those that are Python's first."""
    for layer in leaves(model):
        if type(layer).__name__ == "Rescaling":
            layer.scale, layer.offset = (np.asarray(number, dtype) for number in (layer.scale, layer.offset))


def _opened(content: Any, dtype: str, *, keep: bool = False) -> Any:
    """A configuration whose pictures have any size, and numbers of the type; without what a model is trained by."""
    if isinstance(content, list):
        return [_opened(part, dtype, keep=keep) for part in content]
    if not isinstance(content, dict):
        return content
    made = {key: _opened(part, dtype, keep=keep) for key, part in content.items() if key != "compile_config"}
    for key in _SHAPES:
        shape = made.get(key)
        if not keep and isinstance(shape, list) and len(shape) == _MAP:
            made[key] = [shape[0], None, None, shape[3]]
    if made.get("class_name") == "InputLayer":
        made["config"]["dtype"] = dtype
    return made


def _scale(keras: Any) -> Any:
    """The layer of flyyufelix's networks, whose code is in no file."""

    class Scale(keras.layers.Layer):  # type: ignore[misc]
        """Scales and shifts each channel."""

        def __init__(self, axis: int = -1, momentum: float = 0.9, **settings: Any) -> None:
            """Keep the axis of the channels; the momentum says nothing."""
            super().__init__(**settings)
            self.axis, self.momentum = axis, momentum

        def build(self, shape: Any) -> None:
            """Its two variables."""
            self.gamma = self.add_weight(shape=(shape[self.axis],), name=f"{self.name}_gamma")
            self.beta = self.add_weight(shape=(shape[self.axis],), name=f"{self.name}_beta")

        def call(self, x: Any) -> Any:
            """The channels of a map."""
            wide = [1] * len(x.shape)
            wide[self.axis] = -1
            return keras.ops.reshape(self.gamma, wide) * x + keras.ops.reshape(self.beta, wide)

        def get_config(self) -> dict[str, Any]:
            """Its settings."""
            return {**super().get_config(), "axis": self.axis, "momentum": self.momentum}

    return Scale


# -- layers ------------------------------------------------------------------------------------------------------------


def _holders(network: Network) -> dict[str, str]:
    """Unit → the layer that puts out what the unit does: of a norm with a Scale behind it the Scale."""
    holders = network.holders
    return {unit: holders.get(f"{unit}:scale", holder) for unit, holder in holders.items() if ":" not in unit}


def leaves(model: Any) -> Iterator[Any]:
    """The layers that are no models, within models too."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from leaves(layer)
        else:
            yield layer


def within(model: Any, within: str | None) -> Any:
    """The model within a model that `--within` names, by names or by classes as an archive does."""
    for part in (within or "").strip("/").split("/") if within else ():
        inner = [layer for layer in model.layers if hasattr(layer, "layers")]
        named = [layer for layer in inner if layer.name == part]
        model = (named or inner)[0]
    return model


def _layer(model: Any, holder: str) -> Any:
    """The layer of a name. Raises MisfitError unless there is one of it."""
    name = holder.rpartition("/")[2]
    layers = [layer for layer in leaves(model) if layer.name in (name, holder)]
    if len(layers) != 1:
        raise MisfitError(f"the model has {len(layers)} layers called {name}")
    return layers[0]


def _seen(call: Callable[..., Any], name: str, seen: dict[str, tuple[Any, Any]]) -> Callable[..., Any]:
    """A layer's call, of which what it read and put out is kept."""

    def watched(*arguments: Any, **keywords: Any) -> Any:
        made = call(*arguments, **keywords)
        seen[name] = (arguments[0] if arguments else None, made)
        return made

    return watched


def _last_map(loaded: Loaded) -> Any:
    """What the ReLU behind the last norm put out."""
    norm = loaded.seen[loaded.layers[FINAL].name][1]
    behind = [made for read, made in loaded.seen.values() if read is norm]
    if len(behind) != 1:
        raise MisfitError("the model has no layer behind its last norm that could be followed")
    return behind[0]


# -- numbers -----------------------------------------------------------------------------------------------------------


def _pictures(job: Job, loaded: Loaded) -> Any:
    """The job's images as the model takes them: pixels where it prepares them itself."""
    images = job.images
    if loaded.prepared:
        images = pixels(images, loaded.prepared)
        images = images[..., ::-1] if loaded.prepared.order == "bgr" else images
    images = images.astype(job.dtype)
    return images.transpose(0, 3, 1, 2) if loaded.given_first else images


def _numbers(loaded: Loaded, output: Any) -> Array:
    """What a layer put out, channels last."""
    array = np.asarray(framework("keras").ops.convert_to_numpy(output))
    return last(array) if loaded.first else array


def _first_line(error: Exception) -> str:
    """The first line of what Keras says."""
    return (str(error).splitlines() or [""])[0]
