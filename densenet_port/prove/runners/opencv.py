"""Caffe networks in OpenCV 4, whose dnn module reads them itself: the `.prototxt` and the blobs of the `.caffemodel`.

OpenCV computes float32, whatever a job asks for, and `Run.computed_in` says so. Layers run as they are written: OpenCV
would fold norms into convolutions, and compute 3×3 convolutions by Winograd's algorithm, which rounds otherwise.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.conversion.load import Network, read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.caffe import prototxt
from densenet_port.formats.caffe.graph import Head, graph
from densenet_port.layouts.layout import TensorKey
from densenet_port.prove.runners import last, versions
from densenet_port.prove.worker import Job, Run


def run_opencv(job: Job) -> Run:
    """OpenCV's network of a `.caffemodel`, by the `.prototxt` of the same stem, or by ours where none is there."""
    told, net, digests = _loaded(cast("Path", job.path), job.table)
    layers = {unit: names[-1] for unit, names in _names(told).items() if unit in job.taps}
    layers = {unit: layer for unit, layer in layers.items() if net.getLayerId(layer) >= 0}
    last_layer = net.getUnconnectedOutLayersNames()[0]
    wanted = [last_layer, *layers.values()]
    with _explained(told.checkpoint.path):
        net.setInput(np.ascontiguousarray(job.images.transpose(0, 3, 1, 2)))
        outputs = dict(zip(wanted, net.forward(wanted), strict=True))
    maps = {unit: last(outputs[layer]) for unit, layer in layers.items()}
    return Run(
        logits=_as_logits(told, last(outputs[last_layer])),
        taps={unit: _as_logits(told, found) if unit == "head.dense" else found for unit, found in _own(maps).items()},
        computed_in="float32",
        variables=digests,
        versions={**versions(), "opencv": _cv2().__version__},
    )


@lru_cache(maxsize=1)
def _loaded(path: Path, table: Path | None) -> tuple[Network, Any, dict[str, str]]:
    """A file in our words, as OpenCV's network, and the digests of its blobs; kept for the next job on it."""
    cv2, told = _cv2(), read(path, src=table)
    if told.checkpoint.container != "caffemodel" or any(
        claim.tensor.dtype != "float32" for claim in told.ledger.claims.values()
    ):
        hint = "convert it to such a file (--dst caffe --dtype float32) to have OpenCV run it"
        raise UsageError(f"{path}: OpenCV reads .caffemodel files of float32 alone", hint=hint)
    with TemporaryDirectory(prefix="densenet-port-") as folder, _explained(path):
        net = cv2.dnn.readNetFromCaffe(str(_graph_of(told, Path(folder))), str(path))
        net.enableFusion(False)
        net.enableWinograd(False)
        blobs = {name: net.getLayer(name).blobs for name in net.getLayerNames()}
    digests = {f"{name}#{n}": array_digest(blob) for name, many in blobs.items() for n, blob in enumerate(many)}
    return told, net, digests


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


def _graph_of(told: Network, folder: Path) -> Path:
    """The `.prototxt` beside the file; where none is, one of ours in the folder."""
    found = prototxt.beside(told.checkpoint.path)
    if not found.is_file():
        found = folder / "deploy.prototxt"
        layers = graph(told.architecture, told.contract, _names(told), _head(told))
        found.write_text(prototxt.text(told.architecture, told.contract, layers), encoding="utf-8")
    return found


def _head(told: Network) -> Head:
    """The type of layer that the head's kernel belongs to; a file without head may have either."""
    claim = told.ledger.claims.get(TensorKey("head.dense", "kernel"))
    return "Convolution" if claim is None or claim.axes == "o i 1 1" else "InnerProduct"


def _names(told: Network) -> dict[str, list[str]]:
    """Unit → the layers of its blobs: one, or a norm's BatchNorm and Scale."""
    parts = {"conv": ["kernel"], "dense": ["kernel"], "norm": ["mean", "scale"]}
    return {
        unit.name: [told.ledger.claims[TensorKey(unit.name, part)].name.rpartition("#")[0] for part in parts[unit.kind]]
        for unit in told.architecture.units.values()
    }


def _own(maps: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that are the unit's alone: where transitions round down, ours pool before the convolution."""
    return {
        unit: found
        for unit, found in maps.items()
        if not unit.startswith("transition")
        or found.shape[1:3] == maps.get(unit.replace(".conv", ".norm"), found).shape[1:3]
    }


def _as_logits(told: Network, output: Array) -> Array:
    """The 1×1 map that a convolution makes of the mean, as `n classes`; without a head the last map as it is."""
    return output if told.architecture.classes is None else output.reshape(len(output), -1)
