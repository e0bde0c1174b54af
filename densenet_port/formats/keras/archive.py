"""Keras 3's `.keras`: a zip of `metadata.json`, `config.json` and `model.weights.h5`, perhaps of `assets/`.

`metadata.json` names the version of Keras; `config.json` describes the model and lists its layers in the order by which
`model.weights.h5` (see `h5`) numbers those of a class: the second BatchNormalization is `batch_normalization_1`.
So layers have their names even where `model.weights.h5` does not give them, and tensors come in the config's order.
Keras stores the members without compression; deflated ones are read as well, within bounds.

What is written loads in Keras 3.4 and later with `keras.models.load_model`: a Functional model with the few settings
that Keras does not default, which makes it more portable than what Keras itself writes. densenet-port's record is in
`model.weights.h5`, and a digest is the archive's comment (see `record`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from densenet_port.checkpoint import Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, UsageError
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.hdf5 import write as _hdf5_write
from densenet_port.formats.hdf5.read import Node, open_root
from densenet_port.formats.keras import graph as _keras_graph
from densenet_port.formats.keras import h5 as keras_h5
from densenet_port.formats.keras.config import functional
from densenet_port.formats.keras.h5_write import by_layer, weights_tree
from densenet_port.formats.record import UNKNOWN
from densenet_port.formats.source import Source, guarded
from densenet_port.formats.zip import Member
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.units import ROLES

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"

_TEXT_LIMIT = 64 * 2**20  # bytes of a JSON member; the config of DenseNet-264 has 1 MB
_SAVED = {"keras_version": "3.15.1", "date_saved": "1980-01-01@00:00:00"}  # whose form the config has; no clock


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins with a zip member of one of the names that Keras gives."""
    name = zip_archive.first_name(head)
    return name in (METADATA, CONFIG, WEIGHTS) or name.startswith("assets/")


def read(path: Path) -> Checkpoint:
    """The checkpoint in a `.keras` archive.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, hostile, or lacks a member.
    """
    source = Source.of_file(path)
    with guarded(path, "Keras archive"):
        members = zip_archive.members(source)
        config = _json(_member(source, members, CONFIG))
        saved = _json(members[METADATA]) if METADATA in members else {}
        weights = _weights(_member(source, members, WEIGHTS))
        return open_root(weights, partial(_checkpoint, path, config, saved))


def _checkpoint(path: Path, config: Any, saved: Any, root: Node) -> Checkpoint:
    """The checkpoint of a configuration, what was saved of its making, and the root group of the weights."""
    named = dict(_named(config, ()))
    objects = sorted(keras_h5.weighted(root), key=_Order(named))
    spelled = keras_h5.spell(path, objects, named or keras_h5.stored_names(objects))
    tensors, graph = _keras_graph.of_file(path, config, spelled, by_class=True)
    return Checkpoint(
        path=path,
        container="keras",
        tensors=tensors,
        metadata=({"keras_version": saved["keras_version"]} if "keras_version" in saved else {})
        | {"kernels": "tensorflow"}
        | _keras_graph.metadata_of(config),
        record=keras_h5.record_of(root),
        graph=graph,
    )


def _member(source: Source, members: Mapping[str, Member], name: str) -> Member:
    """A member. Raises CorruptError if it is missing."""
    if name not in members:
        raise CorruptError(f"{source.path}: no {name} in it", hint=f"it holds {', '.join(members) or 'nothing'}")
    return members[name]


def _weights(member: Member) -> Source:
    """The bytes of a member, inflated once where it is deflated."""
    source = member.open()
    return Source.of_bytes(source.path, source.all()) if member.deflated else source


def _json(member: Member) -> Any:
    """The content of a JSON member."""
    if member.size > _TEXT_LIMIT:
        detail = f"{member.name} has {member.size} bytes, at most {_TEXT_LIMIT} are expected"
        raise CorruptError(f"{member.archive.path}: {detail}")
    return parsed_json(f"{member.archive.path}: {member.name}", member.open().all())


def _named(model: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path in the weights and name of each layer of a model's configuration, in its order, models within it too."""
    outer = tuple(part for part in place if part != "layers")
    layers = model["config"].get("layers", [])
    for layer, part in zip(layers, _keras_graph.class_numbers(layers), strict=True):
        path = (*place, "layers", part)
        yield path, "/".join((*outer, _keras_graph.name_of(layer)))
        yield from _named(layer, path)


class _Order:
    """Sorts what has weights by the place of its layer in the configuration; what is no layer comes last."""

    def __init__(self, named: Mapping[tuple[str, ...], str]) -> None:
        self.places = {path: place for place, path in enumerate(named)}

    def __call__(self, item: keras_h5.Weighted) -> int:
        return self.places.get(item.path, len(self.places))


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,
) -> list[Extent]:
    """Write a `.keras` archive of the network that the blueprint describes; where the tensors lie.

    Tensors are called `<layer>/<variable>` and stand in order of execution. `record()` gives JSON bytes of constant
    length, complete after the last tensor. Raises UsageError without a blueprint, and for tensors that are not the
    blueprint's.
    """
    if blueprint is None:
        hint = "pass a blueprint, or choose .weights.h5, which holds weights alone"
        raise UsageError("a .keras holds a graph, and nothing says which network the tensors are of", hint=hint)
    _check(blueprint, tensors)
    config, tree = functional(blueprint), weights_tree(tensors, blueprint)
    with path.open("wb") as file, ZipFile(file, "w") as archive:
        archive.writestr(zip_archive.undated(METADATA), json.dumps(_SAVED))
        archive.writestr(zip_archive.undated(CONFIG), json.dumps(config))
        with archive.open(zip_archive.undated(WEIGHTS), "w", force_zip64=True) as member:
            start = file.tell()
            extents = _hdf5_write.write(member, tree, tensors, record)
        archive.comment = UNKNOWN.encode()
    return [(start + first, length) for first, length in extents]


def _check(blueprint: Blueprint, tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless the tensors are those of the blueprint's units, in order, and name layers of Keras 3."""
    network = f"a .keras of {blueprint.architecture.name}"
    layers = by_layer(tensors)
    if len(layers) != len(blueprint.layers):
        raise UsageError(f"{network} has {len(blueprint.layers)} layers with weights, found {len(layers)}")
    for unit, (layer, variables) in zip(blueprint.graph.units.values(), layers.items(), strict=True):
        expected = {blueprint.tensors[unit.name].get(role): unit.shape(role) for role in ROLES[unit.kind]}
        shapes = {name: tensors[name].shape for name in variables.values()}
        if (layer, shapes) != (blueprint.layers[unit.name], expected):
            raise UsageError(f"{network} needs {_listed(expected)} for {unit.name}, found {_listed(shapes)}")
        if "/" in layer:
            raise UsageError(
                f"{layer!r} cannot name a layer of Keras 3", hint="choose a layout whose names have no '/'"
            )


def _listed(shapes: Mapping[str | None, tuple[int, ...]] | Mapping[str, tuple[int, ...]]) -> str:
    """Names with shapes, for a message: `stem_conv/kernel (7, 7, 3, 64)`."""
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
