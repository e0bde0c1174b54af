"""A Keras model's configuration, from Keras 1 to Keras 3: whose it is, and the graph that it is.

A configuration lists layers, each `{"class_name", "config": {"name", …}}`, and models within the model alike. A
Sequential model (a list, or `layers` without calls) runs them one after the other; in any other each layer lists its
calls (`calls`), and the model names what goes in and out, `input_layers` and `output_layers`. What a layer does is in
`layers`, what an operation does in `operations`; nothing of the file runs, so that a Lambda is a Lambda.

Of a model that is called several times the first call's steps stand in the graph, and of a layer within another
(TimeDistributed) its own steps behind the outer one's, for whoever takes the inner network alone. `multi_gpu_model` of
Keras 2 calls a network for slices of a batch and concatenates what comes out: that is the network.

A class with layers and calls that is none of Keras's runs those, and what it does beside is its own; a class without
them has no graph here. As metadata a configuration gives `config`, the names of its `layers`, and `package`:
`kimm>DenseNet121`, a class of one's own, is registered by the package kimm.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError
from densenet_port.file_graph import INPUT, FileGraph, Pair, Step, with_blurs
from densenet_port.formats.keras.calls import Call, Node, Ref, Value, nodes_of, refs_of, replaced
from densenet_port.formats.keras.layers import ALIASES, AUGMENTATION, MAP, TURNED, is_float, other, taken
from densenet_port.formats.keras.operations import operation, taken_operation
from densenet_port.formats.keras.wiring import count_from_0, in_order, split_batches

_MODELS = ("Functional", "Model", "Sequential")
_WRAPPERS = ("TimeDistributed",)
_PACKAGES = ("keras", "tf_keras", "tensorflow", "keras_core")  # whose modules hold Keras's own classes
_STRANGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


# -- metadata ----------------------------------------------------------------------------------------------------------


def metadata_of(model: Any) -> dict[str, Any]:
    """A model's configuration as metadata; what is not as Keras writes it says nothing."""
    metadata = {"config": model} | _package(model)
    layers = list(_layers(model))
    if not layers or layers == [model]:
        return metadata  # a class of its own says nothing of what is in it
    return metadata | {"layers": [str(layer["config"]["name"]) for layer in layers if "name" in layer["config"]]}


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


# -- names -------------------------------------------------------------------------------------------------------------


def class_numbers(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an archive calls each of a model's layers: by class, and number among those of it: `conv2d_1`."""
    counts = Counter[str]()
    names = []
    for layer in layers:
        kind = _snake(str(layer["class_name"]))
        names.append(f"{kind}_{counts[kind]}" if counts[kind] else kind)
        counts[kind] += 1
    return names


def _snake(name: str) -> str:
    """A class's name as Keras spells it in paths: `BatchNormalization` → `batch_normalization`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def name_of(layer: Mapping[str, Any]) -> str:
    """A layer's name."""
    return str(layer["config"].get("name") or layer["name"])


def layers_of(model: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The layers of a model's configuration; None for a layer, or a class that does not list any."""
    inner = model.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    return layers if isinstance(layers, list) and layers else None


# -- the graph ---------------------------------------------------------------------------------------------------------


class Origin(NamedTuple):
    """What a configuration came with: its file, the layers that have tensors there, and tensors that are numbers of it.

    `by_class` says that layers within models are called by their class, as in an archive; `theano` that Theano pads.
    `faithful` are classes of models that are none of Keras's and do nothing beside what their layers do.
    """

    path: Path
    holders: frozenset[str]
    statistics: Mapping[str, Tensor]
    by_class: bool
    theano: bool = False
    faithful: frozenset[str] = frozenset()


def of_file(
    path: Path,
    model: Any,
    tensors: Mapping[str, Tensor],
    *,
    by_class: bool = False,
    theano: bool = False,
    faithful: frozenset[str] = frozenset(),
) -> tuple[dict[str, Tensor], Callable[[], FileGraph] | None]:
    """A file's tensors without those that are numbers of its graph, and what reads the graph, where it has one.

    The numbers of a graph are mean, variance and count of its Normalization layers.
    """
    if not has_graph(model):
        return dict(tensors), None
    layers = {str(layer["config"].get("name")) for layer in _layers(model) if layer["class_name"] == "Normalization"}
    numbers = {name for name in tensors if name.split("/")[-2] in layers}
    origin = Origin(
        path=path,
        holders=frozenset(name.rpartition("/")[0] for name in tensors),
        statistics={name: tensors[name] for name in numbers},
        by_class=by_class,
        theano=theano,
        faithful=faithful,
    )
    weights = {name: tensor for name, tensor in tensors.items() if name not in numbers}
    return weights, partial(file_graph, model, origin)


def file_graph(model: Any, origin: Origin) -> FileGraph:
    """The graph of a model's configuration. Raises MisfitError for a configuration that cannot be followed."""
    try:
        importer = _Importer(origin, first=_is_first(model))
        outputs = importer.model(model, (), None, training=False)
    except _STRANGE as error:
        message = f"{origin.path}: its configuration cannot be followed: {type(error).__name__}: {error}"
        raise MisfitError(message, hint="save the weights alone; what they do not tell is then assumed") from error
    return FileGraph(
        steps=with_blurs(_turned_back(importer.steps)),
        outputs=tuple(value.step for value in outputs),
        size=importer.size,
        notes=_several(outputs),
        assumed=tuple(f"what {name} does beside its layers" for name in importer.custom),
    )


def _several(outputs: list[Value]) -> tuple[str, ...]:
    """What is to be said of a model of more outputs than a network has."""
    if len(outputs) == 1:
        return ()
    names = ", ".join(value.step for value in outputs)
    return (f"the model has {len(outputs)} outputs, {names}; a DenseNet has one",)


def has_graph(model: Any) -> bool:
    """Whether a configuration is that of a model that lists its layers, with their calls where it is no list."""
    layers = layers_of(model) if isinstance(model, dict) else None
    return layers is not None and all(isinstance(layer, dict) and "class_name" in layer for layer in layers)


def _is_first(model: Any) -> bool:
    """Whether channels stand in front, by the first layer that says so."""
    for layer in _layers(model):
        order = layer["config"].get("data_format") or layer["config"].get("dim_ordering")
        if order in ("channels_first", "th", "channels_last", "tf"):
            return order in ("channels_first", "th")
    return False


class _Importer:
    """Makes steps of layers, call by call; `custom` are classes of models that are none of Keras's."""

    def __init__(self, origin: Origin, *, first: bool) -> None:
        """Begin without steps."""
        self.origin, self.first = origin, first
        self.steps: dict[str, Step] = {}
        self.size: Pair | None = None
        self.custom: list[str] = []

    # -- models --------------------------------------------------------------------------------------------------------

    def model(
        self, model: Mapping[str, Any], place: tuple[str, ...], inputs: list[Value] | None, *, training: bool
    ) -> list[Value]:
        """What a model puts out; `place` are the models that it stands in, `inputs` None for the outermost."""
        kind, layers = str(model["class_name"]), layers_of(model) or []
        if (not _is_keras(model) or kind not in _MODELS) and kind not in self.origin.faithful:
            self.custom.append(str(model.get("registered_name") or kind))
        config = model["config"]
        if isinstance(config, dict) and "input_layers" in config and "output_layers" in config:
            return self.functional(config, layers, place, inputs, training=training)
        if kind != "Sequential" or (inputs and len(inputs) != 1):
            raise ValueError(f"{kind} {'/'.join(place)} without calls of its layers")
        return self.sequential(layers, place, inputs, training=training)

    def sequential(
        self, layers: list[dict[str, Any]], place: tuple[str, ...], inputs: list[Value] | None, *, training: bool
    ) -> list[Value]:
        """What the last of layers puts out, each of which reads the one before."""
        if inputs is None and layers[0]["class_name"] != "InputLayer":
            shape = layers[0]["config"]
            inputs = [] if layers_of(layers[0]) else [self.entered(shape, Value(INPUT, None, is_map=False))]
        values = inputs or []
        for layer, part in zip(layers, self.parts(layers), strict=True):
            if layer["class_name"] == "InputLayer":
                values = [self.input(layer, place, values[0] if values else None, is_first=True)]
            elif not values and layers_of(layer):
                values = self.model(layer, (*place, part), None, training=training)
            else:
                node = Node.of([Ref("", 0, 0)], {})
                values = self.layer(layer, place, part, node, {Ref("", 0, 0): values[0]}, 0, training=training)
        return values

    def functional(
        self,
        config: Mapping[str, Any],
        layers: list[dict[str, Any]],
        place: tuple[str, ...],
        inputs: list[Value] | None,
        *,
        training: bool,
    ) -> list[Value]:
        """What a model puts out whose layers list their calls."""
        named = {name_of(layer): layer for layer in layers}
        parts = dict(zip(named, self.parts(layers), strict=True))
        nodes = {name: nodes_of(layer, named) for name, layer in named.items()}
        outputs = refs_of(config["output_layers"])
        count_from_0(nodes, outputs)
        passed = split_batches(named, nodes)
        values = self.inputs(named, refs_of(config["input_layers"]), place, inputs)
        for name, call in in_order(nodes, values):
            node = nodes[name][call]
            if name in passed:
                values[Ref(name, call, 0)] = values[node.refs[0]]
                continue
            made = self.layer(named[name], place, parts[name], node, values, call, training=training)
            values |= {Ref(name, call, number): value for number, value in enumerate(made)}
        return [values[ref] for ref in outputs]

    def inputs(
        self, named: Mapping[str, Any], refs: list[Ref], place: tuple[str, ...], inputs: list[Value] | None
    ) -> dict[Ref, Value]:
        """What the input layers put out; of several of the outermost model one has the pictures."""
        maps = [ref for ref in refs if len(_shape(named[ref.layer]["config"]) or ()) == MAP]
        pictures = (maps or refs)[0]
        read: list[Value | None] = [*inputs] if inputs else [None] * len(refs)
        return {
            ref._replace(call=0, output=0): self.input(named[ref.layer], place, value, is_first=ref == pictures)
            for ref, value in zip(refs, read, strict=True)
        }

    def input(self, layer: Mapping[str, Any], place: tuple[str, ...], value: Value | None, *, is_first: bool) -> Value:
        """What goes in through an input layer: `value`, or the pictures, or another input of the outermost model."""
        config, name = layer["config"], "/".join((*place, name_of(layer)))
        dtype = config.get("dtype", config.get("input_dtype"))
        if value is None and not is_first:
            self.add(Step(name=name, kind="another input", inputs=(), title=f"another input, {name}"))
            return Value(name, len(_shape(config) or ()), is_map=False)
        entered = self.entered(config, value or Value(INPUT, None, is_map=False))
        if is_float(dtype):
            return entered
        kind = "affine" if value is None else "whole numbers"  # pixels are whole numbers; what is prepared is not
        self.add(Step(name=name, kind=kind, inputs=(entered.step,), title=f"input {name} of {dtype}"))
        return entered._replace(step=name)

    def entered(self, config: Mapping[str, Any], value: Value) -> Value:
        """What goes in, with the shape that a configuration gives to it."""
        shape = _shape(config)
        if shape is None:
            return value
        is_map = len(shape) == MAP
        sides = (shape[2:] if self.first else shape[1:3]) if is_map else ()
        channels = (shape[1] if self.first else shape[3]) if is_map else None
        if value.step == INPUT and self.size is None and sides:
            height, width = sides
            self.size = (height, width) if height and width else None
        return value._replace(rank=len(shape), is_map=is_map, channels=channels or value.channels)

    # -- layers --------------------------------------------------------------------------------------------------------

    def layer(
        self,
        layer: dict[str, Any],
        place: tuple[str, ...],
        part: str,
        node: Node,
        values: Mapping[Ref, Value],
        number: int,
        *,
        training: bool,
    ) -> list[Value]:
        """What a call of a layer puts out."""
        call = self.call(layer, place, node, values, number, training=training)
        if layers_of(layer) is not None and layer["class_name"] not in _WRAPPERS:
            if number:  # the steps of a model stand in the graph once
                return self.take(other(call, f"called {number + 1} times"))
            strange = [key for key, setting in node.keywords.items() if key != "training" and setting is not None]
            if strange:
                return self.take(other(call, f"called with {strange[0]}"))
            return self.model(layer, (*place, part), call.inputs, training=call.training)
        if (inner := layer["config"].get("layer")) and layer["class_name"] in _WRAPPERS:
            return self.wrapped(call, inner, (*place, part), training=call.training)
        if call.kind == "Permute":  # the sides of what goes in are others
            self.size = None
        if operation(layer) is not None:
            return self.take(taken_operation(call, self.steps))
        return self.take(taken(call) if _is_keras(layer) or call.kind == "Scale" else other(call))

    def call(
        self,
        layer: dict[str, Any],
        place: tuple[str, ...],
        node: Node,
        values: Mapping[Ref, Value],
        number: int,
        *,
        training: bool,
    ) -> Call:
        """A call with what it reads; a layer's second one is called `relu:1`."""
        kind, name = str(layer["class_name"]), "/".join((*place, name_of(layer)))
        holder = self.holder(place, name_of(layer))
        keywords: dict[str, Any] = replaced(node.keywords, values)
        by_itself = node.is_told and kind in AUGMENTATION  # Keras 3 writes their own training=True as if it were meant
        return Call(
            kind=operation(layer) or ALIASES.get(kind, kind),
            name=f"{name}:{number}" if number else name,
            holder=holder,
            config=layer["config"],
            arguments=replaced(node.arguments, values),
            inputs=[values[ref] for ref in node.refs],
            keywords=keywords,
            first=self.first,
            theano=self.origin.theano,
            training=training or (bool(keywords.get("training")) and not by_itself),
            constants=self.statistics(holder),
        )

    def wrapped(self, call: Call, inner: dict[str, Any], place: tuple[str, ...], *, training: bool) -> list[Value]:
        """What a layer puts out that calls another one in its own way."""
        outer = self.take(other(call))
        if layers_of(inner) is None:
            return outer
        return self.model(inner, place, outer, training=training)

    def take(self, made: tuple[tuple[Step, ...], Value]) -> list[Value]:
        """Keep steps."""
        steps, value = made
        for step in steps:
            self.add(step)
        return [value]

    def add(self, step: Step) -> None:
        """Keep a step. Raises ValueError where its name is taken."""
        if step.name in self.steps or step.name == INPUT:
            raise ValueError(f"two layers are called {step.name}")
        self.steps[step.name] = step

    def parts(self, layers: list[dict[str, Any]]) -> list[str]:
        """What stands before the names within each layer."""
        return class_numbers(layers) if self.origin.by_class else [name_of(layer) for layer in layers]

    def holder(self, place: tuple[str, ...], name: str) -> str:
        """What the names of a layer's tensors begin with: its path; a legacy file leaves models in the middle out."""
        spellings = ["/".join((*place, name)), "/".join((*place[:1], name))]
        return next((spelling for spelling in spellings if spelling in self.origin.holders), spellings[0])

    def statistics(self, holder: str) -> dict[str, Any]:
        """The numbers of a Normalization layer, which some files name and others count."""
        tensors = {name: tensor for name, tensor in self.origin.statistics.items() if name.startswith(holder + "/")}
        keys = {"0": "mean", "1": "variance"}
        return {keys.get(key := name.rpartition("/")[2], key): tensor.load() for name, tensor in tensors.items()}


def _is_keras(layer: Mapping[str, Any]) -> bool:
    """Whether a class is Keras's own, as far as a configuration says whose it is."""
    module = str(layer.get("module") or "keras").partition(".")[0]
    return module in _PACKAGES and ">" not in f"{layer.get('registered_name')}{layer['class_name']}"


def _shape(config: Mapping[str, Any]) -> list[int | None] | None:
    """The shape of what goes in, with the number of pictures."""
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    return shape if isinstance(shape, list) else None


def _turned_back(steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps, where one that puts the channels in front changes nothing but the order of what comes out."""
    read = {name for step in steps.values() for name in step.inputs}
    return {
        name: replace(step, kind="identity") if step.kind == TURNED and name not in read else step
        for name, step in steps.items()
    }
