"""ONNX models in ONNX Runtime (float32), and in ONNX's own reference implementation (float64).

ONNX Runtime has no convolution in double on the CPU, so the float64 opinion is that of `onnx.reference`, the operators
in numpy as the ONNX project means them, on a copy of the model in double. That copy is brought to opset 17 by ONNX
itself, because its reference takes the norms of opset 9 and before for training's (onnx 1.23,
op_batch_normalization.py). An `epsilon` of ONNX is a float32, 2.5e-13 from the 1e-5 that is meant; in the double copy
the variances take the rest.

The copy that runs is the file's model with its units' values as outputs and its sizes open: an exporter's graph may be
fixed to the size and batch that it was traced with, so images pass one by one, or as many times each as the batch has
room; an AveragePool over all of a map of the traced size is the mean over the map of any. A graph that was exported for
training is run as for inference.

A graph that prepares its pictures itself is given pixels, from which its own preparation makes the images that are
asked for: `(x · std + mean) · scale`, by the contract that was read, in the file's own order of channels and axes. So a
contract that says another preparation than the graph's is seen in the logits. Pixels that are no whole numbers are
given to a graph of whole ones, too. The preparation is done in double, whatever the network is run in, by the decimals
that its numbers mean: pixels around 100 have no room in a float32 for the noise that the images are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.extras import framework
from densenet_port.formats.decimals import meant
from densenet_port.formats.onnx.densenet import Reading, densenet
from densenet_port.formats.onnx.model import BEFORE, FUSED, read_model
from densenet_port.network.channels import CONCATENATIONS, FLATTENS, channel_order
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.head import USUAL
from densenet_port.network.units import HEAD
from densenet_port.prove.job import Job, Run
from densenet_port.prove.runners import pixels, versions

_PLAIN_NORMS, _OPSET = 14, 17  # the first opset in which a norm says whether it is training's; the one converted to
_QUIET = 3  # ONNX Runtime's severity of errors


class _Ready(NamedTuple):
    """A model that can run: `run(outputs, {input: array})`, its input, its batch and the digests of its tensors."""

    run: Any
    given: str
    batch: int
    variables: dict[str, str]


def run_onnxruntime(job: Job) -> Run:
    """The file's own graph on the images: the head's logits, or without a head the last map after its ReLU."""
    path = job.path
    headless = job.architecture is not None and job.architecture.classes is None
    reading = _reading(path, job.reading.output, body=headless)
    units = {unit.unit: unit for unit in reading.units}
    if unknown := [unit for unit in job.taps if unit not in units]:
        raise UsageError(f"{path}: has no unit {unknown[0]} to look at")
    taps = {unit: units[unit] for unit in job.taps if units[unit].output}
    last = reading.features if headless else ((units[HEAD].output, units[HEAD].axes),)
    names = tuple(dict.fromkeys((*(name for name, _ in last), *(tap.output for tap in taps.values()))))
    with _taken(path):
        ready = _ready(path, job.reading.output, job.dtype, names, job.threads, body=headless)
        pictures = _pictures(reading, job.images).astype("float64" if reading.preparation.nodes else job.dtype)
        outputs = _outputs(ready, names, pictures)
    orders = _orders(reading)
    maps = {
        unit: _ordered(_channels_last(outputs[tap.output], tap.axes), orders.get(unit)) for unit, tap in taps.items()
    }
    answer = outputs[last[0][0]].reshape(len(job.images), -1)
    if headless:
        answer = np.concatenate([_channels_last(outputs[name], axes) for name, axes in last], axis=-1)
        answer = _ordered(np.maximum(answer, 0) if reading.architecture.final_norm else answer, orders.get(""))
    return Run(
        logits=answer,
        taps={unit: answer if unit == HEAD else array for unit, array in maps.items()},
        computed_in=answer.dtype.name,
        variables=ready.variables,
        versions=versions("onnx", "onnxruntime"),
        read_by="file",
    )


@lru_cache(maxsize=1)
def _reading(path: Path, output: str | None, *, body: bool) -> Reading:
    """Which value is which unit's, by the reader's own walk through the graph."""
    return densenet(read_model(path), output, body=body)


def _orders(reading: Reading) -> dict[str, Array]:
    """Norm → the places of its channels in the file, in the graph's order, where they have another; "" the last map."""
    facts, body = reading.facts, replace(reading.architecture, classes=1, head=USUAL)
    how = facts.get("concatenation", CONCATENATIONS[0]), facts.get("flatten", FLATTENS[0])
    numbers = (reading.architecture, body)
    whole, usual = (channel_order(graph(each, Contract()), *how) for each in numbers)
    norms = {unit: order for unit, order in whole.items() if reading.architecture.units[unit].kind == "norm"}
    return {**norms, **({"": usual[HEAD]} if HEAD in usual else {})}


def _ordered(array: Array, order: Array | None) -> Array:
    """A map or vectors with the channels in the graph's order."""
    return array if order is None else array.take(order, axis=-1)


def _pictures(reading: Reading, images: Array) -> Array:
    """Images `n h w c` as the file's graph takes them: not yet prepared where it does that, with its order of axes."""
    values = images.astype(np.float64)
    if picture := reading.preparation.input:
        values = pixels(images, picture)
    if reading.preparation.turned:
        values = values[..., ::-1]
    return values.transpose(["nhwc".index(axis) for axis in reading.given.axes])


def _channels_last(output: Array, axes: str) -> Array:
    """Maps as `n h w c`; vectors as they are."""
    is_map = output.ndim == len(axes) == len("nhwc")
    return output.transpose([axes.index(axis) for axis in "nhwc"]) if is_map else output


def _outputs(ready: _Ready, names: tuple[str, ...], images: Array) -> dict[str, Array]:
    """Value → what it is for every image."""
    runs = [ready.run([*names], {ready.given: np.repeat(image[None], ready.batch, axis=0)}) for image in images]
    return {name: np.concatenate([np.asarray(run[place])[:1] for run in runs]) for place, name in enumerate(names)}


@lru_cache(maxsize=2)
def _ready(
    path: Path, output: str | None, dtype: str, names: tuple[str, ...], threads: int | None, *, body: bool
) -> _Ready:
    """A model with these outputs, kept for the next job on it."""
    onnx, reading = framework("onnx"), _reading(path, output, body=body)
    proto = onnx.load(path)
    _part(onnx, proto)
    if dtype == "float64":
        proto = _modern(proto)
        _double(onnx, proto, reading)
    batch = _opened(onnx, proto, reading, names)
    if dtype != "float64" and reading.preparation.nodes:
        _prepare_in_double(onnx, proto, reading)
    run = _reference(proto) if dtype == "float64" else _session(proto, threads)
    digests = {tensor.name: array_digest(array) for tensor, array in _tensors(onnx, proto) if array.dtype == dtype}
    return _Ready(run, _given(proto, reading).name, batch, digests)


@contextmanager
def _taken(path: Path) -> Iterator[None]:
    """Turn what ONNX says of a model that it refuses, in errors of many kinds, into MisfitError."""
    try:
        yield
    except PortError:
        raise
    except Exception as error:
        raise MisfitError(f"{path}: ONNX does not take it: {str(error).partition(chr(10))[0]}") from error


def _session(proto: Any, threads: int | None) -> Any:
    """ONNX Runtime on the CPU."""
    runtime = framework("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or 0
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run


def _reference(proto: Any) -> Any:
    """ONNX's own operators in numpy."""
    return framework("onnx.reference").ReferenceEvaluator(proto).run


# -- the copy ----------------------------------------------------------------------------------------------------------


def _part(onnx: Any, proto: Any) -> None:
    """Make ONNX's own operators of those that ONNX Runtime joined with an activation, named as the reader does."""
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        plain, output = FUSED.get(f"{node.domain}.{node.op_type}"), node.output[0] if node.output else ""
        proto.graph.node.append(node)
        if plain:
            first = proto.graph.node[-1]
            activation = next(entry for entry in first.attribute if entry.name == "activation")
            first.attribute.remove(activation)
            first.op_type, first.domain, first.output[0] = plain, "", BEFORE.format(output)
            proto.graph.node.append(onnx.helper.make_node(activation.s.decode(), [first.output[0]], [output]))


def _given(proto: Any, reading: Reading) -> Any:
    """The picture among the inputs; old files list their initialisers there, and tf2onnx what nothing reads."""
    name = str(reading.given.pieces[0])
    return next(value for value in proto.graph.input if value.name == name)


def _opened(onnx: Any, proto: Any, reading: Reading, names: tuple[str, ...]) -> int:
    """Open the sizes, make values outputs and norms those of inference; give the batch that the graph was traced with.

    A fixed batch may stand in a Reshape behind the mean over the picture.
    """
    held = {tensor.name for tensor in proto.graph.initializer}
    given = _given(proto, reading)
    for value in [value for value in proto.graph.input if value.name not in {*held, given.name}]:
        proto.graph.input.remove(value)
    if given.type.tensor_type.elem_type not in _floats(onnx):
        given.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    sizes = given.type.tensor_type.shape.dim
    batch = int(sizes[0].dim_value) or 1
    for size, axis in zip(sizes, reading.given.axes, strict=True):
        if axis != "c":
            size.ClearField("dim_value")
    del proto.graph.value_info[:], proto.graph.output[:]
    kind = given.type.tensor_type.elem_type
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in names)
    for node in proto.graph.node:
        if node.op_type in ("BatchNormalization", "Dropout"):
            del node.output[1:]
            _not_in_training(node)
        if whole := reading.pools.get(node.output[0]):
            node.op_type = whole
            del node.attribute[:]
    return batch


def _floats(onnx: Any) -> tuple[int, ...]:
    """ONNX's types of floating point that models have."""
    proto = onnx.TensorProto
    return proto.FLOAT, proto.FLOAT16, proto.BFLOAT16, proto.DOUBLE


def _not_in_training(node: Any) -> None:
    """A norm or Dropout as for inference."""
    for attribute in node.attribute:
        if attribute.name == "training_mode":
            attribute.i = 0
    if node.op_type == "Dropout":
        del node.input[1:]


def _modern(proto: Any) -> Any:
    """The model in an opset whose norms the reference takes as ONNX Runtime does."""
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= _PLAIN_NORMS:
        return proto
    return framework("onnx.version_converter").convert_version(proto, _OPSET)


def _tensors(onnx: Any, proto: Any) -> Iterator[tuple[Any, Array]]:
    """Every initialiser with its array."""
    return ((tensor, onnx.numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer)


def _double(onnx: Any, proto: Any, reading: Reading) -> None:
    """Turn a model into double: initialisers, constants, casts, what goes in; and put the rest of decimals right."""
    _widen(onnx, proto, _preparing(proto, reading), lambda _name: True)
    _given(proto, reading).type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    _put_epsilons_right(onnx, proto)


def _widen(onnx: Any, proto: Any, front: Mapping[str, bool], chosen: Callable[[str], bool]) -> None:
    """Turn the constants and casts of the chosen values into double; `front` has those that prepare the picture."""
    floats = _floats(onnx)[:-1]
    for tensor, array in list(_tensors(onnx, proto)):
        if tensor.data_type in floats and chosen(tensor.name):
            tensor.CopyFrom(onnx.numpy_helper.from_array(_wide(array, front.get(tensor.name)), tensor.name))
    for node in proto.graph.node:
        if not chosen(node.output[0]):
            continue
        factor = front.get(node.output[0])
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in floats:
                wide = _wide(onnx.numpy_helper.to_array(attribute.t), factor)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(wide))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                wide = _wide(np.array(onnx.helper.get_attribute_value(attribute), np.float32), factor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(wide)))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in floats:
                attribute.i = onnx.TensorProto.DOUBLE


def _prepare_in_double(onnx: Any, proto: Any, reading: Reading) -> None:
    """Turn what prepares the picture into double, with a cast behind it."""
    kind, front = _given(proto, reading).type.tensor_type.elem_type, _preparing(proto, reading)
    _widen(onnx, proto, front, front.__contains__)
    nodes, last = list(proto.graph.node), reading.preparation.nodes[-1]
    del proto.graph.node[:]
    for node in nodes:
        proto.graph.node.append(node)
        if last in node.output:
            proto.graph.node[-1].output[0] = f"{last}.double"
            proto.graph.node.append(onnx.helper.make_node("Cast", [f"{last}.double"], [last], to=kind))
    _given(proto, reading).type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _preparing(proto: Any, reading: Reading) -> dict[str, bool]:
    """The constants by which the graph prepares its picture → whether each is a factor."""
    makers = {output: node for node in proto.graph.node for output in node.output}
    front: dict[str, bool] = {}
    for name in reading.preparation.nodes:
        waiting = [*makers[name].input]
        while waiting:
            value = waiting.pop()
            front[value] = makers[name].op_type == "Mul"
            if value in makers and value not in reading.preparation.nodes:
                waiting += makers[value].input
    return front


def _wide(array: Array, factor: bool | None) -> Array:
    """An array in double; the numbers of a preparation as the decimals that are meant."""
    if factor is None:
        return array.astype(np.float64)
    return np.array([meant(number, factor=factor) for number in array.reshape(-1)], np.float64).reshape(array.shape)


def _put_epsilons_right(onnx: Any, proto: Any) -> None:
    """Add to every variance what its norm's epsilon, a float32, lacks of the decimal that is meant."""
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type == "BatchNormalization":
            given = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
            rest = np.float64(str(np.float32(given))) - np.float64(np.float32(given))
            name = f"densenet_port.{number}"
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(rest), f"{name}.rest"))
            proto.graph.node.append(onnx.helper.make_node("Add", [node.input[4], f"{name}.rest"], [f"{name}.variance"]))
            node.input[4] = f"{name}.variance"
        proto.graph.node.append(node)
