"""Objects in memory as checkpoints: torch modules, Keras models, and mappings of names to arrays.

An object is read as its file would be, by the readers of such files: a name is what a file of it has for a tensor, and
the graph is that of the object as it stands. No framework is imported for it: whoever holds an object of theirs has
done so. Arrays are looked at when they are asked for, and cannot be written to; a model that is trained meanwhile gives
what it holds then.

**Torch.** A module is written down as its pickle has it: the dotted name of its class, and its attributes, of which
those count that `torch.modules` and `torch.graph` read. Nothing of its class runs. A TorchScript module is saved into
memory by torch, and read as its file; a module of `torch.fx` has its graph itself (`torch.traced`). Dicts, lists and
tuples are looked into, a module among them is read like that.

**Keras.** A layer's variables are called `<models around it, by class>/<layer>/<variable>`, as in a `.keras`; those of
its training (metrics, random states) are left out. `to_json` gives the configuration that a `.keras` has. A class that
is a Functional model under another constructor (KerasHub's, kimm's) lists no layers there; then the graph between its
inputs and outputs is taken, as Keras itself describes it, and where its `call` is Keras's own, nothing beside it runs.

**Mappings.** Values are arrays of any library's: what has `shape` and `dtype`, `__array__` or `__dlpack__`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import LIVE, LIVE_KERAS, Checkpoint, Tensor, is_array, live_tensor
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.source import Source, located

_PLAIN = (bool, int, float, str, bytes, type(None))
_PARTS = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LEFT_OUT = "_non_persistent_buffers_set"
_TRACED = "torch.fx.graph_module"  # whose classes are made for one module each
_KERAS = ("keras", "tf_keras", "keras_core")  # packages of Keras's own classes
TRAINING = (
    "norms of the module are in training mode: the network is the one that answers in evaluation mode, by the "
    "statistics that they hold"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """An object's checkpoint, and name → the framework's own variable behind each of its tensors.

    `faithful` are the classes of Keras models in it that are none of Keras's, and run their layers alone.
    """

    checkpoint: Checkpoint
    variables: Mapping[str, Any]
    faithful: frozenset[str] = frozenset()


def live(thing: object) -> Live | None:
    """What an object in memory holds; None for one of no kind that is known.

    Raises UsageError for one that holds nothing, MisfitError for one that cannot be read.
    """
    if is_keras(thing):
        return _keras(thing)
    if is_torch(thing) or isinstance(thing, Mapping):
        return _tree(thing)
    return None


def is_torch(thing: object) -> bool:
    """Whether something is a torch module; Keras's models on torch are Keras's."""
    torch: Any = sys.modules.get("torch")
    return hasattr(torch, "nn") and isinstance(thing, torch.nn.Module) and not is_keras(thing)


def is_keras(thing: object) -> bool:
    """Whether something is a model of Keras's."""
    return any(kind.__name__ == "Model" and _is_kerass(kind) for kind in type(thing).__mro__)


def name_of(thing: Any) -> str:
    """`package.module.Class` of a model, or a function's own name; what is of a class of Keras's has a name itself."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    if named.__module__.startswith("keras."):
        return f"keras.{named.__name__} {thing.name}"
    return f"{named.__module__}.{named.__qualname__}"


# -- torch, and mappings -----------------------------------------------------------------------------------------------


def _tree(thing: Any) -> Live:
    """A module, or a mapping of whatever holds tensors."""
    from densenet_port.formats.torch.walk import Walk  # noqa: PLC0415 (files of other kinds need none of it)

    path = Path(name_of(thing) if is_torch(thing) else "a state dict")
    if is_torch(thing) and _is_program(thing):
        return Live(checkpoint=_program(path, thing), variables=dict(thing.state_dict(keep_vars=True)))
    variables: dict[str, Any] = {}
    with located(path):
        walk = Walk(_Written().value(thing), partial(_take, variables))
    if not walk.tensors:
        raise UsageError(f"{path}: holds no arrays", hint="a state dict is a mapping of names to arrays")
    notes = {"notes": [TRAINING]} if is_torch(thing) and _trains(thing) else {}
    checkpoint = Checkpoint(
        path=path,
        container=LIVE,
        tensors=walk.tensors,
        metadata={"form": "object", **walk.metadata(), **walk.of_modules(), **notes},
        graph=walk.graph(path, thing if type(thing).__module__ == _TRACED else None),
    )
    return Live(checkpoint=checkpoint, variables=variables)


def _trains(module: Any) -> bool:
    """Whether a part of a module that holds statistics takes those of the batch as it stands."""
    parts = sys.modules["torch"].nn.Module.modules(module)
    return any(part.training and vars(part)["_buffers"].get("running_mean") is not None for part in parts)


def _take(variables: dict[str, Any], name: str, leaf: Any) -> Tensor | None:
    """The tensor that a leaf is, which is kept by its name; None for anything else."""
    if not is_array(leaf):
        return None
    variables[name] = leaf
    return live_tensor(name, leaf)


def _is_program(module: Any) -> bool:
    """Whether a module is TorchScript's, whose parts are not Python's."""
    return isinstance(module, sys.modules["torch"].jit.ScriptModule)


def _program(path: Path, module: Any) -> Checkpoint:
    """A TorchScript module, as torch saves it."""
    from densenet_port.formats.torch import pth  # noqa: PLC0415 (as above)

    saved = BytesIO()
    sys.modules["torch"].jit.save(module, saved)
    return pth.of_source(Source.of_bytes(path, saved.getvalue()))


class _Written:
    """Writes objects down in the words of `torch.pickle`; each once, however often it is met."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        from densenet_port.formats.torch.pickle import DICT, Call, Global  # noqa: PLC0415 (as above)

        self.call, self.dict, self.name = Call, DICT, Global
        self.known: dict[int, Any] = {}

    def value(self, thing: Any) -> Any:
        """Anything: what holds others as a list, a tuple or a call, arrays and plain values as they are."""
        if isinstance(thing, _PLAIN):
            return thing
        if id(thing) in self.known:
            return self.known[id(thing)]
        if is_torch(thing):
            return self.module(thing)
        if isinstance(thing, Mapping):
            return self.mapping(thing)
        if isinstance(thing, list | tuple):
            items = self.known[id(thing)] = []
            items.extend(map(self.value, thing))
            return items
        return thing if is_array(thing) else self.named(thing)

    def mapping(self, thing: Mapping[Any, Any]) -> Any:
        """A dict; of a state dict with the list of its modules."""
        written = self.known[id(thing)] = self.call(self.dict)
        written.pairs = [(key, self.value(value)) for key, value in thing.items()]
        listed = getattr(thing, "_metadata", None)
        if isinstance(listed, Mapping):
            names = self.call(self.dict, pairs=[(name, None) for name in listed])
            written.state = self.call(self.dict, pairs=[("_metadata", names)])
        return written

    def module(self, module: Any) -> Any:
        """A module: its class, and what it has. A compiled one and torch's graph modules are made by a call."""
        kind = type(module)
        written = self.known[id(module)] = self.call(self.name(kind.__module__, kind.__qualname__))
        if kind.__module__ == "torch._dynamo.eval_frame":
            written.args = (self.value(vars(module)["_modules"]["_orig_mod"]),)
            return written
        body = self.call(self.dict, pairs=[(key, self.attribute(key, own)) for key, own in vars(module).items()])
        if kind.__module__ == _TRACED:
            written.args = (body,)
        else:
            written.state = body
        return written

    def attribute(self, key: str, own: Any) -> Any:
        """What a module has under a key: parts are looked into, settings are plain, anything else is but named."""
        if key in _PARTS:
            return self.value(own)
        if key in _HOOKS:
            return self.call(self.dict, pairs=[(number, self.named(hook)) for number, hook in own.items()])
        if key == _LEFT_OUT:
            return self.call(self.name("builtins", "set"), (sorted(own),))
        if isinstance(own, list | tuple) and all(isinstance(part, _PLAIN) for part in own):
            return [*own] if isinstance(own, list) else tuple(own)
        return own if isinstance(own, _PLAIN) else self.named(own)

    def named(self, thing: Any) -> Any:
        """The name of what something is; nothing of it is looked at."""
        return self.name(type(thing).__module__, type(thing).__qualname__)


# -- Keras -------------------------------------------------------------------------------------------------------------


def _keras(model: Any) -> Live:
    """A Keras model."""
    from densenet_port.formats.keras import graph as keras_graph  # noqa: PLC0415 (files of other kinds need none of it)

    path = Path(name_of(model))
    variables = dict(_variables(path, model, ()))
    if not variables:
        raise UsageError(f"{path}: has no weights", hint="build the model first: give it an input shape, or call it")
    reading = _Reading(path)
    config = reading.config(model)
    faithful = frozenset(reading.faithful)
    with located(path):
        tensors, graph = keras_graph.of_file(
            path,
            config,
            {name: live_tensor(name, variable) for name, variable in variables.items()},
            by_class=True,
            faithful=faithful,
        )
    notes = {"notes": reading.notes} if reading.notes else {}
    checkpoint = Checkpoint(
        path=path,
        container=LIVE_KERAS,
        tensors=tensors,
        metadata={"kernels": "tensorflow", **keras_graph.metadata_of(config), **notes},
        graph=graph,
    )
    return Live(checkpoint=checkpoint, variables=variables, faithful=faithful)


def _variables(path: Path, model: Any, place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Name and variable of all that models hold, in the order of their layers."""
    for layer, part in zip(model.layers, _parts(model), strict=True):
        inner = layer if is_keras(layer) else getattr(layer, "layer", None)  # what a wrapper calls
        if is_keras(inner):
            yield from _variables(path, inner, (*place, part))
            continue
        if replaced := {"call", "__call__"} & vars(layer).keys():
            raise MisfitError(
                f"{path}: the {min(replaced)} of layer {layer.name} was replaced by code that is not its class's",
                hint="read its weights alone: give a mapping of names to arrays",
            )
        names = [_variable(variable, layer.name) for variable in layer.weights]
        is_apart = len({*names}) == len(names)
        for name, variable in zip(names, layer.weights, strict=True):
            own = name if is_apart else str(getattr(variable, "path", variable.name))
            yield "/".join((*place, layer.name, own)), variable


def _parts(model: Any) -> list[str]:
    """What an archive calls each of a model's layers."""
    from densenet_port.formats.keras.graph import class_numbers  # noqa: PLC0415 (as above)

    return class_numbers([{"class_name": type(layer).__name__} for layer in model.layers])


def _variable(variable: Any, layer: str) -> str:
    """What a variable is called within its layer."""
    from densenet_port.formats.keras.h5 import variable_name  # noqa: PLC0415 (as above)

    return variable_name(str(variable.name).removesuffix(":0"), layer)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the configuration of a model is had: what is to be said of it, and classes that run their layers alone."""

    path: Path
    notes: list[str] = field(default_factory=list)
    faithful: list[str] = field(default_factory=list)

    def config(self, model: Any) -> dict[str, Any]:
        """The configuration of a model, and of those within it; an empty one where Keras gives none."""
        try:
            config: dict[str, Any] = json.loads(model.to_json())
            inner = config["config"] if _lists_layers(config) else self.plain(model)
        except NotImplementedError:  # as Keras says it of a class that is all code
            config, inner = {}, {}
        except Exception as error:  # noqa: BLE001 (a class of somebody's own may raise anything)
            says = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self.notes.append(f"the graph of {self.path} cannot be had ({says}): what weights do not tell is assumed")
            return {}
        if not _is_kerass(type(model)) and _calls_its_layers(model):
            self.faithful.append(str(config["class_name"]))
        if not inner.get("layers"):
            self.notes.append(f"the class of {self.path} does not tell its graph: what weights do not tell is assumed")
            return config
        layers = {layer.name: layer for layer in model.layers}
        for entry in inner.get("layers", ()):
            own = layers.get(entry["config"].get("name", entry.get("name")))
            if is_keras(own):
                entry["config"] = self.config(own).get("config", entry["config"])
        return {**config, "config": inner}

    def plain(self, model: Any) -> dict[str, Any]:
        """What Keras says of a model between its inputs and outputs, whatever its class; else of its class."""
        functional = next((kind for kind in type(model).__mro__ if _is_functional(kind)), None)
        if functional is None:
            return dict(json.loads(model.to_json())["config"])
        again = functional(model.input, model.output, name=model.name)
        return dict(json.loads(again.to_json())["config"])


def _lists_layers(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has the layers of its model."""
    inner = config.get("config")
    return isinstance(inner, dict) and bool(inner.get("layers"))


def _is_functional(kind: type) -> bool:
    """Whether a class is Keras's of models that are graphs."""
    return kind.__name__ == "Functional" and _is_kerass(kind)


def _is_kerass(kind: type) -> bool:
    """Whether a class is one of Keras's own."""
    return kind.__module__.partition(".")[0] in _KERAS


def _calls_its_layers(model: Any) -> bool:
    """Whether what runs when a model is called is Keras's own code, and not its class's."""
    return not {"call", "__call__"} & vars(model).keys() and all(
        _is_kerass(next(kind for kind in type(model).__mro__ if name in vars(kind))) for name in ("call", "__call__")
    )
