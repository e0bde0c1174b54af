"""A side of a check that is an object in memory: it runs as it is, in this process; or by its state, in another one.

A torch module answers in this process, and so does a Keras model on TensorFlow: a copy in each precision, evaluating,
of which its own framework makes every number. The logits are those of its head, whatever activation stands behind it.
On torch and JAX Keras computes in float32 alone: there a port's float64 evidence is numpy's, on what the model holds,
and an original runs by its state: Keras saves it, and a process with TensorFlow loads it. A mapping runs by its state,
too: its arrays are put into a file, from which the software that owns their layout fills its own class.
"""

import copy
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from densenet_port.checkpoint import array_digest
from densenet_port.conversion.load import Network
from densenet_port.conversion.opening import Object
from densenet_port.extras import BACKENDS, SOFTWARE, framework
from densenet_port.formats.live import Live, is_keras, is_torch, live, name_of
from densenet_port.network.units import HEAD
from densenet_port.prove.images import Probe
from densenet_port.prove.job import PRECISIONS, Job, Precision, Reading, Run
from densenet_port.prove.live import OURS, Kind, explained, is_ours, packages_of, policy
from densenet_port.prove.recording import Plan, Recording, Settings, file_metadata, run_by, run_port, run_reference
from densenet_port.prove.reference import Reference
from densenet_port.prove.runners import keras as keras_runner
from densenet_port.prove.runners import keras_file, numpy, torch_whole
from densenet_port.prove.runners.torch import tapped

Ask = Callable[[Job], Run]
_COMPILED = "_orig_mod"  # torch's name of the module in a compiled one


def is_here(thing: object, network: Network, *, is_port: bool) -> bool:
    """Whether an object answers in this process."""
    if is_keras(thing):
        can_tell = is_port or framework("keras").backend.backend() == "tensorflow"
        return can_tell and network.checkpoint.graph is not None
    return is_torch(thing)


def reference(thing: Object | None, source: Network, probes: tuple[Probe, ...], settings: Settings) -> Recording:
    """The original's answers: those of the object that it was read of, or as `run_reference` has them of a file."""
    if thing is None:
        return run_reference(source, probes, settings)
    if is_here(thing, source, is_port=False):
        recording = _recorded(thing, source, probes)
    else:
        with _stored(thing, source) as stored:
            recording = _as_read((run_reference if is_keras(thing) else _by_arrays)(stored, probes, settings), source)
    if not _is_ours(thing):
        return recording
    return replace(recording, metadata={**recording.metadata, "read_by": "table", "because": OURS})


def _is_ours(thing: object) -> bool:
    """Whether an object is a model that this project built."""
    return (is_keras(thing) and is_ours(thing, "keras")) or (is_torch(thing) and is_ours(thing, "torch"))


def port(thing: Object | None, network: Network, probes: tuple[Probe, ...], settings: Settings) -> Recording:
    """The port's answers, as above; `settings.backend` is for what is no model."""
    if thing is None:
        return run_port(network, probes, settings)
    if is_here(thing, network, is_port=True):
        return _recorded(thing, network, probes)
    with _stored(thing, network) as stored:
        return _as_read(run_port(stored, probes, settings), network)


def _as_read(recording: Recording, network: Network) -> Recording:
    """A recording of a network's state, as one of the object that it was read of."""
    return replace(recording, metadata={**recording.metadata, **file_metadata(network)})


# -- in another process ------------------------------------------------------------------------------------------------


@contextmanager
def _stored(thing: Any, network: Network) -> Iterator[Network]:
    """The network with what it holds in a file, for as long as it lasts. Raises UsageError where Keras saves none."""
    with TemporaryDirectory(prefix="densenet-port-") as name:
        folder, whole = Path(name), network.checkpoint
        if not is_keras(thing):
            path = folder / "arrays.npz"
            _save(network, path)
            yield replace(network, checkpoint=replace(whole, path=path, container="npz"))
            return
        ending = "keras" if whole.graph else "weights.h5"
        path = folder / f"model.{ending}"
        with explained(f"Keras does not save {whole.path}"):
            thing.save(path) if whole.graph else thing.save_weights(path)
        yield replace(network, checkpoint=replace(whole, path=path, container=ending.replace(".", "-")))


def _save(network: Network, path: Path) -> None:
    """Write all tensors of a checkpoint, by name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, tensor in network.checkpoint.tensors.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(tensor.load()), allow_pickle=False)


def _by_arrays(source: Network, probes: tuple[Probe, ...], settings: Settings) -> Recording:
    """A mapping by the software that owns its layout; by numpy where that is Keras's, which loads files of its own."""
    software = SOFTWARE[source.ledger.layout.reference]
    if not software.on_keras:
        return run_reference(source, probes, settings)
    because = f"{software.name} loads its own files, and not arrays in memory: give the model itself, or its file"
    return run_by(source, Reference("numpy", because), probes, replace(settings, backend="tensorflow"))


# -- in this process ---------------------------------------------------------------------------------------------------


def _recorded(model: Any, network: Network, probes: tuple[Probe, ...]) -> Recording:
    """The model's answers in both precisions, one copy of it at a time."""
    started = time.perf_counter()
    kind: Kind = "keras" if is_keras(model) else "torch"
    jobs = {
        dtype: [_job(model, network, probe, dtype, follow=probe is probes[0]) for probe in probes]
        for dtype in PRECISIONS
    }
    runs = []
    for dtype in PRECISIONS:
        ask = _asker(model, network, dtype)
        for job in jobs[dtype]:
            with explained(f"{name_of(model)} fails on images of shape {job.images.shape} in {dtype}"):
                runs.append(ask(job))
    recording = Plan(network=network, probes=probes, jobs=jobs).recording(runs, time.perf_counter() - started)
    packages = packages_of(kind)
    title = f"{name_of(model)} ({kind} {packages[kind]})"
    exact = title if _is_exact(model) else "numpy"
    told = {"name": title, "float64": exact, "versions": packages, "read_by": "model", "in_process": True}
    return replace(recording, metadata={**recording.metadata, **told})


def _is_exact(model: Any) -> bool:
    """Whether a model computes in float64."""
    return is_torch(model) or framework("keras").backend.backend() == "tensorflow"


def _job(model: Any, network: Network, probe: Probe, dtype: Precision, *, follow: bool) -> Job:
    """What a model is asked."""
    ledger, units = network.ledger, network.architecture.units
    names = {unit: f"{ledger.prefix}{ledger.unit_name(unit)}" for unit in units}
    last = HEAD if HEAD in units else [*units][-1]
    return Job(
        network="keras" if is_keras(model) else "torchvision",
        images=probe.images,
        path=network.checkpoint.path,
        reading=Reading(
            within=network.within,
            module=_COMPILED if _is_compiled(model) else "",
            last=names[last],
            prepares=network.origins.get("input") == "graph",
        ),
        architecture=network.architecture,
        contract=network.contract,
        backend=framework("keras").backend.backend() if is_keras(model) else BACKENDS[0],
        dtype=dtype,
        taps=names if follow else {},
        whole=True,
        trust=True,  # it is the user's own code, which runs here already
    )


def _asker(model: Any, network: Network, dtype: Precision) -> Ask:
    """A function that asks a copy of a model in a precision; numpy in its place where it has no float64."""
    if is_torch(model):
        return _torch_asker(model, network, dtype)
    if dtype == "float64" and not _is_exact(model):
        digests = {str(slot): array_digest(array.astype(dtype)) for slot, array in network.weights.items()}
        return partial(numpy.run_network, network, digests)
    return _keras_asker(model, network, dtype)


def _torch_asker(model: Any, network: Network, dtype: Precision) -> Ask:
    """Asks a copy of a torch module, evaluating, on the CPU; of a compiled one that which it was made of."""
    torch = framework("torch")
    with explained(f"{network.checkpoint.path} cannot be copied"):
        module = copy.deepcopy(model.get_submodule(_COMPILED) if _is_compiled(model) else model)
        module = module.to("cpu", getattr(torch, dtype)).eval()
    if network.within:
        module = module.get_submodule(network.within.strip("."))
    digests = torch_whole.digests_of(module)
    return lambda job: torch_whole.run_module(module, digests, job, tapped, ("torch",))


def _is_compiled(model: Any) -> bool:
    """Whether a model is what torch.compile makes of a module."""
    return type(model).__module__ == "torch._dynamo.eval_frame"


def _keras_asker(model: Any, network: Network, dtype: Precision) -> Ask:
    """Asks a copy of a Keras model, which Keras builds of the model's own layers' settings."""
    held = live(model)
    assert held is not None  # noqa: S101 (the network was read of it)
    with policy(dtype), explained(f"{network.checkpoint.path} cannot be copied"):
        config = _configuration(model, held, network)
        again = keras_file.rebuilt(config, dtype, _classes(model), partial(_fill, held.variables))
    part = keras_file.within(again, network.within)
    loaded = keras_file.watched(part, network, first='"channels_first"' in str(config).replace("'", '"'))

    def ask(job: Job) -> Run:
        with policy(dtype):
            return keras_runner.run_of(keras_file.answers_of(loaded, job), job)

    return ask


def _configuration(model: Any, held: Live, network: Network) -> Any:
    """What a copy is built of: the layers alone where nothing else runs, else the model's own class."""
    if network.evidence and network.evidence.assumed:
        return framework("keras").saving.serialize_keras_object(model)
    return _buildable(held.checkpoint.metadata["config"], held.faithful)


def _buildable(config: Any, faithful: frozenset[str]) -> Any:
    """A configuration in which a class that runs its layers alone is Keras's own of such models."""
    if isinstance(config, list):
        return [_buildable(part, faithful) for part in config]
    if not isinstance(config, Mapping):
        return config
    made = {key: _buildable(part, faithful) for key, part in config.items()}
    if made.get("class_name") in faithful:
        made |= {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"}
        made.pop("build_config", None)
    return made


def _classes(model: Any) -> dict[str, Any]:
    """The classes of layers that are none of Keras's, by name."""
    kinds = {type(layer) for layer in keras_file.leaves(model)}
    return {kind.__name__: kind for kind in kinds if kind.__module__.partition(".")[0] != "keras"}


def _fill(variables: Mapping[str, Any], again: Any) -> None:
    """Give a copy what the model holds. Raises ValueError where it has other variables."""
    held = live(again)
    own = held.variables if held else {}
    if own.keys() != variables.keys():
        raise ValueError("a copy has other variables")
    for name, variable in own.items():
        variable.assign(np.asarray(variables[name], np.float64))
