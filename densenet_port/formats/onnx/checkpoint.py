"""ONNX: a graph of operators, with its weights, as one protobuf (`model` has the messages).

A model is read by following its graph, because names say little: exporters fold norms into convolutions under the
kernel's own name, merge equal tensors, and number what is left. It must be the graph that a DenseNet of its kernels has
(see `densenet`); every other is refused, with what differs. Tensors are called after our units, in order of execution:

    stem.conv.weight  block1.layer2.conv1.weight     o i h w
    stem.norm.scale  .shift  .mean  .variance        c; .second_scale and .second_shift where a Scale follows
    head.dense1.weight  .bias  head.norm1.scale …     of what stands before the head's last dense layer
    head.dense.weight  .bias                         o i; o

`metadata` has producer, version and opset; the `architecture`; epsilon, stem_stride, stem_padding, stem_pool,
pool_rounding, head_pool, output and input as the graph has them; concatenation and flatten, the order of channels;
`norms` ("batchnorm", "batchnorm+scale"); `fold` where tensors are worked out of several; `notes`; and `output_name`,
the output that was asked for where a graph has several.

A file without any node, of tensors alone, has them under its own names.

What is written runs anywhere (see `write`). densenet-port's record is the entry `densenet_port` of the model's
metadata_props.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats import protobuf
from densenet_port.formats.onnx.densenet import Reading, densenet
from densenet_port.formats.onnx.model import Model, read_model
from densenet_port.formats.onnx.write import model
from densenet_port.formats.record import RECORD, parse_record
from densenet_port.formats.source import guarded
from densenet_port.network.blueprint import Blueprint

_FOLD = "conv+batchnorm"  # what is recorded of a conversion whose source had norms worked out
_VERSIONS = range(1, 64)  # of the IR, which is the first field; 13 is the newest
_NEXT = {2, 3, 4, 5, 6, 7, 8, 14}  # fields of a model that may come second


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins with ir_version, a small number, and another field of a ModelProto.

    A second field 2 that is a message is a SavedModel's, or Core ML's; a producer's name begins with a letter.
    """
    if len(head) < 3 or head[0] != 1 << 3 or head[1] not in _VERSIONS or head[2] >> 3 not in _NEXT:
        return False
    return not re.match(rb"\x12[\x80-\xff]*[\x00-\x7f]\n", head[2:])


def read(path: Path, output: str | None = None, *, body: bool = False) -> Checkpoint:
    """The checkpoint in an ONNX model; `output` and `body` are as in `densenet`.

    Raises DiskError for a file that cannot be read, or whose external data cannot, CorruptError for one that is broken
    or hostile, MisfitError for a graph that is no DenseNet's, or not the one that its record tells of, UsageError for
    an output that is none.
    """
    with guarded(path, "ONNX model"):
        source = read_model(path)
        if not source.nodes:  # tensors alone
            tensors = {name: _of_file(path, constant.tensor) for name, constant in source.constants.items()}
            beside = sum(source.beside.values())
            return Checkpoint(path=path, container="onnx", tensors=tensors, metadata=_origin(source), beside=beside)
        reading = densenet(source, output, body=body)
        record = parse_record(path, source.metadata[RECORD]) if RECORD in source.metadata else None
        _compare(path, reading.facts, record)
        return Checkpoint(
            path=path,
            container="onnx",
            tensors={
                f"{unit.unit}.{part}": _of_file(path, constant.tensor)
                for unit in reading.units
                for part, constant in unit.parts.items()
            },
            metadata=_metadata(source, reading, output),
            record=record,
            beside=sum(source.beside.values()),
        )


def _of_file(path: Path, tensor: Tensor) -> Tensor:
    """A tensor of a file, whose errors name it."""
    return replace(tensor, load=partial(_load, path, tensor))


def _load(path: Path, tensor: Tensor) -> Array:
    """A tensor's elements. Raises CorruptError where they cannot be what the graph says."""
    with guarded(path, "ONNX model"):
        array = tensor.load()
        if array.shape != tensor.shape:
            raise CorruptError(f"{path}: a tensor of the shape {array.shape}, expected {tensor.shape}")
        return array


def _compare(path: Path, facts: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
    """See that a record's contract is the graph's. Raises MisfitError for a graph that was changed under it."""
    recorded = (record or {}).get("contract") or {}
    for key in sorted(facts.keys() & recorded.keys()):
        if key in ("input", "stem_stride"):  # which are compared with the rest of the contract
            continue
        kind = np.float32 if key == "epsilon" else str  # an attribute is a float32
        if kind(recorded[key]) != kind(facts[key]):
            hint = "the graph was changed after it was written; take the record out of metadata_props to have it read"
            raise MisfitError(f"{path}: its graph has the {key} {facts[key]}, its record {recorded[key]}", hint=hint)


def _origin(source: Model) -> dict[str, Any]:
    """What made a model."""
    return {"producer": source.producer, "version": source.version, "opset": source.opset}


def _metadata(source: Model, reading: Reading, output: str | None) -> dict[str, Any]:
    """What the model and its graph say of themselves."""
    where = next(iter(source.beside)) if len(source.beside) == 1 else f"{len(source.beside)} files"
    beside = [f"tensors stand in {where} beside the model, which its digest does not cover"] if source.beside else []
    return {
        **_origin(source),
        "architecture": reading.architecture.to_json(),
        **reading.facts,
        "notes": [*reading.notes, *beside],
        **({"fold": _FOLD} if reading.derived else {}),
        **({"output_name": output} if output is not None else {}),
    }


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,
) -> list[Extent]:
    """Write the network of a blueprint, its tensors in their order, which is that of execution; where they lie.

    `record()` gives JSON bytes of constant length, complete after the last tensor. Raises UsageError without a
    blueprint, and if the tensors are not the blueprint's.
    """
    if blueprint is None:
        raise UsageError("an ONNX model holds the network's graph, which follows from a blueprint, and none is given")
    parts = model(blueprint, tensors, record)
    with path.open("wb") as file:
        return protobuf.write(file, parts)[:-1]  # the last is the record
