"""Caffe networks in OpenCV 4, whose dnn module reads them itself: the `.prototxt` and the blobs of the `.caffemodel`.

OpenCV computes float32, whatever a job asks for, and `Run.computed_in` says so. Layers run as they are written: OpenCV
would fold norms into convolutions, and compute 3×3 convolutions by Winograd's algorithm, which rounds otherwise.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.conversion.load import Network
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.caffe import prototxt
from densenet_port.formats.caffe.layers import Head, layer_of, layers
from densenet_port.layouts.layout import TensorKey
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.graph import Graph
from densenet_port.network.units import HEAD
from densenet_port.prove.job import Job, Run
from densenet_port.prove.runners import last, versions
from densenet_port.prove.runners.numpy import read_by_table


def run_opencv(job: Job) -> Run:
    """OpenCV's network of a `.caffemodel`, by the `.prototxt` of the same stem, or by ours where none is there."""
    network, net, digests = _loaded(job.bare())
    tapped = _tapped(_blueprint(network), net, job)
    last_layer = net.getUnconnectedOutLayersNames()[0]
    names = [last_layer, *tapped.values()]
    with _explained(network.checkpoint.path):
        net.setInput(np.ascontiguousarray(job.images.transpose(0, 3, 1, 2)))
        outputs = dict(zip(names, net.forward(names), strict=True))
    maps = _own(_blueprint(network).graph, {unit: last(outputs[layer]) for unit, layer in tapped.items()})
    return Run(
        logits=_as_logits(network, last(outputs[last_layer])),
        taps={unit: _as_logits(network, array) if unit == HEAD else array for unit, array in maps.items()},
        computed_in="float32",
        variables=digests,
        versions={**versions(), "opencv": _cv2().__version__},
        read_by="file" if prototxt.beside(job.path).is_file() else "table",
    )


def _tapped(blueprint: Blueprint, net: Any, job: Job) -> dict[str, str]:
    """Unit → the layer whose output is the unit's, of the units to look at that OpenCV has."""
    tapped = {unit: layer_of(parts.get("scale") or parts["kernel"]) for unit, parts in blueprint.tensors.items()}
    return {unit: layer for unit, layer in tapped.items() if unit in job.taps and net.getLayerId(layer) >= 0}


@lru_cache(maxsize=1)
def _loaded(job: Job) -> tuple[Network, Any, dict[str, str]]:
    """A file as it is read, as OpenCV's network, and the digests of its blobs; kept for the next job on it."""
    cv2, path, network = _cv2(), job.path, read_by_table(job)
    if network.checkpoint.container != "caffemodel" or any(
        claim.tensor.dtype != "float32" for claim in network.ledger.claims.values()
    ):
        hint = "convert it to such a file (--dst caffe --dtype float32) to have OpenCV run it"
        raise UsageError(f"{path}: OpenCV reads .caffemodel files of float32 alone", hint=hint)
    with TemporaryDirectory(prefix="densenet-port-") as folder, _explained(path):
        net = cv2.dnn.readNetFromCaffe(str(_prototxt_of(network, Path(folder))), str(path))
        net.enableFusion(False)
        net.enableWinograd(False)
        blobs = {name: net.getLayer(name).blobs for name in net.getLayerNames()}
    digests = {f"{name}#{n}": array_digest(blob) for name, many in blobs.items() for n, blob in enumerate(many)}
    return network, net, digests


def _cv2() -> Any:
    """OpenCV, which is asked for here alone."""
    try:
        import cv2  # noqa: PLC0415 (a runner's framework)
    except ImportError as error:
        raise UsageError("OpenCV is not installed", hint='pip install "densenet-port[caffe]"') from error
    return cv2


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn OpenCV's own errors into ours."""
    try:
        yield
    except _cv2().error as error:
        beside = prototxt.beside(path)
        hint = f"do {beside.name} and the file go together?" if beside.is_file() else None
        raise MisfitError(f"{path}: OpenCV cannot run it: {error.err}", hint=hint) from error


def _prototxt_of(network: Network, folder: Path) -> Path:
    """The `.prototxt` beside the file; where none is, one of ours in the folder."""
    path = prototxt.beside(network.checkpoint.path)
    if not path.is_file():
        path, blueprint = folder / "deploy.prototxt", _blueprint(network)
        path.write_text(prototxt.text(blueprint, layers(blueprint, _head(network))), encoding="utf-8")
    return path


def _head(network: Network) -> Head:
    """The type of layer that the head's kernel belongs to; a file without head may have either."""
    claim = network.ledger.claims.get(TensorKey(HEAD, "kernel"))
    return "Convolution" if claim is None or claim.axes == "o i 1 1" else "InnerProduct"


def _blueprint(network: Network) -> Blueprint:
    """The network under the names that the file has for it."""
    names: dict[str, str] = {}
    tensors: dict[str, dict[str, str]] = {}
    for place, claim in network.ledger.claims.items():
        names.setdefault(place.unit, claim.unit_name)
        tensors.setdefault(place.unit, {})[place.part] = claim.name
    return Blueprint(architecture=network.architecture, contract=network.contract, layers=names, tensors=tensors)


def _own(graph: Graph, maps: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that are the unit's alone: not those of convolutions that have a pool's stride in the file.

    A convolution of stride 1 keeps the size of what the unit before it puts out.
    """
    before = {unit: source for source, unit in pairwise(graph.units)}
    own: dict[str, Array] = {}
    for unit, array in maps.items():
        step, source = graph.operations[unit], maps.get(before.get(unit, ""), array)
        if step.kind != "conv" or step.stride > 1 or array.shape[1:3] == source.shape[1:3]:
            own[unit] = array
    return own


def _as_logits(network: Network, output: Array) -> Array:
    """The 1×1 map that a convolution makes of the mean, as `n classes`; without a head the last map as it is."""
    return output if network.architecture.classes is None else output.reshape(len(output), -1)
