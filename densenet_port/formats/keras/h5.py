"""Keras's two HDF5 containers, read; `h5_write` writes them. Both spell a tensor `<layer>/<variable>`.

**Legacy `.h5`** (Keras 1 to 3, weights or a whole model). The root, or its group `model_weights` in a whole model, has
the attribute `layer_names`; each layer is a group of that name (`conv1/conv` is a group in a group) with the attribute
`weight_names`, whose entries are paths of datasets below it:

    conv1/conv    conv1/conv/kernel:0    Keras 2 and tf.keras, dataset /conv1/conv/conv1/conv/kernel:0
    conv1         conv1_W                Keras 1 on Theano, dataset /conv1/conv1_W
    conv1         conv1_W_1:0            Keras 1 on TensorFlow, the second variable of that name in its graph
    scale         scale/scale_gamma:0    Keras 2, a layer that calls its variables as Keras 1 did
    conv1_conv    kernel                 Keras 3.0 to 3.2
    conv1_conv    conv1_conv/kernel      Keras 3.3 and later

The variable is the last part without `:0`; where it begins with the layer's name and `_`, what follows, without the
number that makes it unique in a graph (`W`, `gamma`). It is all of the path where two of a layer would be called the
same. Lists of names are strings of fixed or variable length, or an empty list of floats; a long list is split into
`layer_names0`, `layer_names1` … The order is that of the lists. Beside them `keras_version` and `backend`, which is
what convolves: Theano truly, the others by correlation; and what pads: Theano's "same" is "half", alike on both sides,
where TensorFlow's pads even sizes on one side more. Keras 1 writes neither, but the version at the root of a whole
model, whose groups stand in `model_weights` beside `model_config`, a JSON text; the weights of the optimizer stand
elsewhere and are not read.

Keras 1 calls a norm's variance `running_std`. Up to 1.0.5, and on Theano in 1.0.6, it was a deviation; Keras 1.0.7 on
Theano adds epsilon to the deviation. From 1.0.8 on, inference is that of Keras 2 and 3. Only whole models tell the
version, and they exist since 1.0.7.

**`.weights.h5`** (Keras 3). A tree of objects by the names of their classes, each with its variables by number in a
group `vars`: `layers/conv2d/vars/0`, `layers/conv2d_1/vars/0` …, a model within the model
`layers/functional/layers/conv2d/vars/0`, the optimizer `optimizer/vars/0` (tf.keras 2.12 and 2.13 say
`_layer_checkpoint_dependencies` for `layers`). Since Keras 3.6 `vars` has the layer's name as its attribute `name`.
Layers are numbered class by class in the model's order; the number is the name where no `name` is given. In a model of
somebody's own class they are called as its attributes: `fc/vars/0`. Some classes fix their variables' names, the
others' have their numbers.

densenet-port's record is the dataset `/densenet_port/vars/0`, a JSON text as bytes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.hdf5.parts import RECORD, SIGNATURE
from densenet_port.formats.hdf5.read import Node, open_root
from densenet_port.formats.keras import graph as _keras_graph
from densenet_port.formats.keras.variables import VARIABLES
from densenet_port.formats.record import parse_record
from densenet_port.formats.source import Source, guarded

_LISTS = ("layers", "_layer_checkpoint_dependencies")
_THEANO = {"kernels": "theano", "stem_padding": "symmetric"}  # whatever its layers say
_VARIANCES_SINCE = (1, 0, 8)  # the first Keras whose `running_std` is a variance, and used like one, on both backends


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head` is HDF5."""
    return head.startswith(SIGNATURE)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a legacy `.h5` or a `.weights.h5`, told apart by content.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, hostile, or holds no weights.
    """
    source = Source.of_file(path)
    with guarded(path, "HDF5"):
        return open_root(source, partial(_checkpoint, path))


def _checkpoint(path: Path, root: Node) -> Checkpoint:
    """The checkpoint below the root group."""
    group = root.member("model_weights") if "model_weights" in root.members else root
    if (layers := names(group, "layer_names")) is not None:
        return _legacy(path, root, group, layers)
    objects = _as_made(weighted(root))
    given = stored_names(objects)
    return Checkpoint(
        path=path,
        container="weights-h5",
        tensors=spell(path, objects, given),
        metadata={"named": bool(given), "kernels": "tensorflow"},
        record=record_of(root),
    )


def _legacy(path: Path, root: Node, group: Node, layers: list[str]) -> Checkpoint:
    """The checkpoint of a legacy file whose layers stand in `group`."""
    tensors: dict[str, Tensor] = {}
    weightless = False
    for layer in layers:
        weights = dict(_layer(group.member(*layer.split("/")), layer))
        weightless |= not weights
        if twice := weights.keys() & tensors.keys():
            raise CorruptError(f"{path}: two tensors are called {min(twice)}")
        tensors |= weights
    metadata = ({"layers": layers} if weightless else {}) | _metadata(root, group)
    record = record_of(root)
    if any(name.endswith("/running_std") for name in tensors) and record is None:
        notes = [*metadata.get("notes", []), *_of_keras_1(path, metadata.get("keras_version"))]
        metadata |= {"notes": notes} if notes else {}
    is_theano = metadata.get("backend") == "theano"
    tensors, graph = _keras_graph.of_file(path, metadata.get("config"), tensors, theano=is_theano)
    return Checkpoint(path=path, container="keras-h5", tensors=tensors, metadata=metadata, record=record, graph=graph)


def _layer(group: Node, layer: str) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each weight of a legacy layer."""
    weights = names(group, "weight_names")
    if weights is None:
        raise CorruptError(f"{group.file.path}: layer {layer!r} has no list of its weights")
    paths = [weight.removesuffix(":0") for weight in weights]
    own = [variable_name(path, layer) for path in paths]
    for name, weight in zip(own if len(set(own)) == len(own) else paths, weights, strict=True):
        yield f"{layer}/{name}", group.member(*weight.split("/")).tensor()


def variable_name(path: str, layer: str) -> str:
    """What a weight is called within its layer: `conv1_W_1` of `conv1` is its `W`."""
    last, start = path.rpartition("/")[2], layer.rpartition("/")[2] + "_"
    return re.sub(r"_\d+$", "", last.removeprefix(start)) if last.startswith(start) else last


def _of_keras_1(path: Path, version: str | None) -> list[str]:
    """What must be said of a file with norms of Keras 1. Raises MisfitError for a version that computes otherwise."""
    if version is None:
        taken = "running_std is taken as the variance, which it is since 1.0.8 (2016)"
        return [f"a file of Keras 1 that records no version: {taken}"]
    numbers = tuple(int(number) for number in re.findall(r"[0-9]{1,9}", version)[:3])
    if numbers < _VARIANCES_SINCE:
        since = ".".join(map(str, _VARIANCES_SINCE))
        raise MisfitError(
            f"{path}: written by Keras {version}, whose norms compute otherwise than those of {since} and later",
            hint=f"its running_std is no variance to take over; estimate the statistics anew in Keras {since} or later",
        )
    return []


def names(group: Node, attribute: str) -> list[str] | None:
    """A list of names in an attribute, or in several that are numbered from 0; None without either."""
    whole = group.texts(attribute)
    if whole is not None:
        return whole
    parts: list[list[str]] = []
    while (part := group.texts(f"{attribute}{len(parts)}")) is not None:
        parts.append(part)
    return [name for part in parts for name in part] if parts else None


def _metadata(root: Node, group: Node) -> dict[str, Any]:
    """What a legacy file says of itself."""
    metadata: dict[str, Any] = {"form": "legacy weights" if group is root else "whole model"}
    for key in ("keras_version", "backend"):
        if values := group.texts(key) or root.texts(key):
            metadata[key] = values[0]
    if texts := root.texts("model_config"):
        metadata |= _keras_graph.metadata_of(parsed_json(f"{root.file.path}: its model_config", texts[0]))
    if "backend" in metadata:
        metadata |= _THEANO if metadata["backend"] == "theano" else {"kernels": "tensorflow"}
    return metadata


def record_of(root: Node) -> dict[str, Any] | None:
    """What densenet-port wrote into the file, None if it did not. Raises CorruptError for another thing."""
    if RECORD[0] not in root.members:
        return None
    return parse_record(root.file.path, root.member(*RECORD).tensor().load().tobytes())


@dataclass(frozen=True, slots=True)
class Weighted:
    """An object of a `.weights.h5` that has variables: its path without `vars`, its given name, and its datasets."""

    path: tuple[str, ...]
    name: str | None
    variables: Mapping[str, Node]

    @property
    def in_model(self) -> bool:
        """Whether it is a part of the network, and not of its training."""
        return self.path[:1] != ("optimizer",)

    @property
    def is_listed(self) -> bool:
        """Whether it is one of a model's layers, called as their class; and no attribute of somebody's own class."""
        return len(self.path) > 1 and self.path[-2] in _LISTS

    @property
    def parents(self) -> tuple[str, ...]:
        """The objects it stands in, without the lists that hold them."""
        return tuple(name for name in self.path[:-1] if name not in _LISTS)


def weighted(root: Node) -> list[Weighted]:
    """The objects with variables in a `.weights.h5`, those of a class by number. Raises CorruptError without any."""
    objects = list(_walk(root))
    if not objects:
        hint = "weights are saved by model.save_weights() or model.save()"
        raise CorruptError(f"{root.file.path}: HDF5, but holds no Keras weights", hint=hint)
    return objects


def _walk(group: Node) -> Iterator[Weighted]:
    """Everything below a group that has datasets, in the order of names, numbers by value."""
    datasets = {}
    for name in sorted(group.members, key=_by_number):
        node = group.member(name)
        if node.is_dataset:
            datasets[name] = node
        elif node.path != RECORD[:1]:
            yield from _walk(node)
    if datasets:
        *parents, last = group.path or ("",)
        path = tuple(parents) if last == "vars" and parents else group.path
        yield Weighted(path, next(iter(group.texts("name") or []), None), datasets)


def _as_made(objects: list[Weighted]) -> list[Weighted]:
    """The objects, those of somebody's own class in the order in which they were made, which Keras's names tell.

    Attributes stand in the order of their names, which is nobody's.
    """
    layers = [item for item in objects if item.in_model]
    if all(item.is_listed for item in layers) or not all(_class_variables(item.name or "") for item in layers):
        return objects
    return sorted(objects, key=lambda item: _by_number(item.name or ""))


def _by_number(name: str) -> tuple[str, int]:
    """Sort `conv2d`, `conv2d_1`, `conv2d_2`, `conv2d_10` in that order, and so `0`, `1`, `10`."""
    match = re.fullmatch(r"(.*?)_?(\d{1,9})", name)
    return (match[1], int(match[2])) if match else (name, -1)


def stored_names(objects: list[Weighted]) -> dict[tuple[str, ...], str]:
    """Path → the layer's name, if every layer of the model has one and they differ; else nothing."""
    given = {item.path: "/".join((*item.parents, item.name)) for item in objects if item.in_model and item.name}
    layers = [item for item in objects if item.in_model]
    return given if len(set(given.values())) == len(layers) else {}


def spell(path: Path, objects: list[Weighted], given: Mapping[tuple[str, ...], str]) -> dict[str, Tensor]:
    """Name → tensor; layers are called as `given` says, by path, or else as their group.

    Raises CorruptError if two tensors would have the same name.
    """
    tensors: dict[str, Tensor] = {}
    for item in objects:
        layer = given.get(item.path, "/".join((*item.parents, *item.path[-1:])))
        for variable, node in zip(_variables(item), item.variables.values(), strict=True):
            name = f"{layer}/{variable}".lstrip("/")
            if name in tensors:
                raise CorruptError(f"{path}: two tensors are called {name}")
            tensors[name] = node.tensor()
    return tensors


def _variables(item: Weighted) -> list[str]:
    """Names of an object's variables: its class's if their number fits, else as they stand.

    An attribute of somebody's own class is called as that has it, and its class as Keras names a layer by itself.
    """
    own = item.path[-1] if item.path else ""
    known = _class_variables(own) or (() if item.is_listed else _class_variables(item.name or ""))
    count = len(item.variables)
    fits = count == len(known) or (count == 1 and known[1:] == ("bias",))
    return (
        list(known[:count]) if fits and list(item.variables) == [str(n) for n in range(count)] else list(item.variables)
    )


def _class_variables(name: str) -> tuple[str, ...]:
    """The variables of the class that a name is, perhaps with a number."""
    return VARIABLES.get(re.sub(r"_\d+$", "", name), ())
