"""A model's own answers to the standard probes, recorded: what anybody's class says, to check a port by.

    import densenet_port as dp
    dp.record(model, "reference.npz", source="checkpoint.pth")
    dp.check("port.weights.h5", reference="reference.npz")

The checkpoint says what the probes must be (channels, how pictures are prepared) and which module is which unit. The
logits, and the activations, are the model's own.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network, read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.live import name_of
from densenet_port.layouts.layout import Kernels
from densenet_port.network.contract import Activation
from densenet_port.network.graph import graph
from densenet_port.network.numpy import forward, run
from densenet_port.prove.checks import GROSS, PROBABILITIES, is_probabilities
from densenet_port.prove.figures import largest
from densenet_port.prove.images import BATCH, FOLLOWED, SIZES, Probe, make_probes
from densenet_port.prove.job import PRECISIONS, Precision
from densenet_port.prove.live import (
    Kind,
    Model,
    asker,
    explained,
    fixed_side,
    kind_of,
    logits_of,
    packages_of,
    require_weights,
    state_of,
)
from densenet_port.prove.recording import Recording, file_metadata

SMALL = (32,)  # pixels that a network without a strided stem is made for; its class may pool a map of that size alone


def record(
    model: Model,
    path: str | PathLike[str],
    *,
    source: str | PathLike[str] | None = None,
    src: str | PathLike[str] | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    contract: Mapping[str, Any] | None = None,
    sizes: tuple[int, ...] | None = None,
    batch: int = BATCH,
    images: str | PathLike[str] | None = None,
    seed: int = 0,
) -> Recording:
    """Record a model's own answers to the standard probes, for `check(port, reference=path)`; what was recorded.

    `model` is a torch module (given images `n c h w`), a Keras model, or a callable: images `n h w c` → logits
    `n classes`, arrays of numpy, in float64 and in float32. It must give logits: without the activation behind them. A
    module or a Keras model is copied into each precision, and stays as it is. `source` is the checkpoint whose weights
    it has, and `src`, `kernels`, `within` and `contract` are what `read` cannot find out of it; without it a torch
    module's own tensors are recognised, or a Keras model. `sizes` are of the noise, in pixels: the fixed size of a
    Keras model, 32 for a network without a strided stem, else those of `check`. `batch`, `images` and `seed` are as in
    `check`.

    Raises UsageError for what cannot be recorded, a network of this project's above all, and for what the model raises;
    MisfitError where it has other weights than `source`, or puts out no logits; and what reading and writing raise.
    """
    started = time.perf_counter()
    kind = kind_of(model)
    network = _source(model, kind, source, src=src, kernels=kernels, within=within, contract=contract)
    require_weights(model, kind, network)
    probes = _probes(model, kind, network, sizes, batch, images, seed)
    recording = _recorded(model, kind, network, probes)
    _require_logits(recording, network)
    seconds = time.perf_counter() - started
    recording = replace(recording, metadata={**recording.metadata, "seconds": seconds})
    recording.save(Path(path))
    return recording


def _source(model: Model, kind: Kind, source: str | PathLike[str] | None, **how: Any) -> Network:
    """The network in the checkpoint, or in the model itself."""
    if source is not None:
        return read(source, **how)
    if kind == "torch":
        return read(state_of(model), **how)
    if kind == "keras":
        return read(model, **how)
    hint = "name the checkpoint whose weights it has: source=FILE"
    raise UsageError(f"{name_of(model)} does not say what network it is", hint=hint)


def _probes(
    model: Model,
    kind: Kind,
    network: Network,
    sizes: tuple[int, ...] | None,
    batch: int,
    images: str | PathLike[str] | None,
    seed: int,
) -> tuple[Probe, ...]:
    """The standard probes, of sizes that the model takes."""
    strided = next(iter(network.graph.operations.values())).stride > 1
    side = fixed_side(model, kind)
    sizes = sizes or (SMALL if not strided else SIZES)
    if side is not None:
        sizes = (side,)
    followed = FOLLOWED if strided and side is None else min(sizes)
    folder = None if images is None else Path(images)
    return make_probes(network, sizes, batch, folder, seed, followed=followed)


def _recorded(model: Model, kind: Kind, network: Network, probes: tuple[Probe, ...]) -> Recording:
    """The model's answers in both precisions, one copy of it at a time."""
    logits: dict[tuple[Precision, str], Array] = {}
    taps: dict[Precision, Mapping[str, Array]] = {}
    for precision in PRECISIONS:
        ask = asker(model, kind, network, precision, taps=True)
        for probe in probes:
            with explained(f"{name_of(model)} fails on images of shape {probe.images.shape} in {precision}"):
                output, activations = ask(probe.images)
            logits[precision, probe.name] = logits_of(output, model, kind, network)
            if probe is probes[0]:
                taps[precision] = _fitting(activations, network, probe)
    return Recording(
        architecture=network.architecture,
        contract=network.contract,
        probes=probes,
        logits={key: array.astype(key[0]) for key, array in logits.items()},
        taps={p: {unit: array.astype(p) for unit, array in outputs.items()} for p, outputs in taps.items()},
        computed=_computed(logits),
        metadata=_metadata(model, kind, network),
    )


def _fitting(activations: Mapping[str, Array], network: Network, probe: Probe) -> dict[str, Array]:
    """The activations that have the shape of their unit's output; what has another is something else."""
    shapes = graph(network.architecture, network.contract).shapes(probe.images.shape)
    return {unit: activations[unit] for unit in activations if activations[unit].shape == shapes[unit]}


def _computed(logits: Mapping[tuple[Precision, str], Array]) -> dict[Precision, str]:
    """Precision → what the answers were really computed in: numbers that are float32's own are no float64 ones."""
    names = [name for precision, name in logits if precision == "float64"]
    exact = [logits["float64", name] for name in names]
    same = all(np.array_equal(array, logits["float32", name]) for array, name in zip(exact, names, strict=True))
    least = min((array.dtype for array in exact), key=lambda dtype: dtype.itemsize)
    return {"float64": "float32" if same and least == np.float64 else least.name, "float32": "float32"}


def _metadata(model: Model, kind: Kind, network: Network) -> dict[str, Any]:
    """What ran, and the checkpoint that it was recorded for."""
    packages = packages_of(kind)
    package = {"torch": "torch", "keras": "keras", "callable": "numpy"}[kind]
    title = f"{name_of(model)} ({package} {packages[package]})" if kind != "callable" else name_of(model)
    return {
        "name": title,
        "float64": title,
        "versions": packages,
        "read_by": "model",
        **file_metadata(network),
    }


def _require_logits(recording: Recording, network: Network) -> None:
    """Raise MisfitError for a model that puts out what an activation makes of its logits.

    This project's forward pass guesses which; nothing of it goes into the recording.
    """
    hint = "record the model without its last activation: a check compares logits"
    name, followed = recording.metadata["name"], recording.followed
    answer = recording.logits["float64", followed.name]
    if is_probabilities(answer):
        raise MisfitError(f"{name}: {PROBABILITIES}", hint=hint)
    if network.architecture.classes is None:
        return
    logits = forward(network.architecture, network.contract, network.weights, followed.images)
    if largest(answer, logits) <= GROSS:
        return
    for function in get_args(Activation):
        behind = graph(network.architecture, replace(network.contract, output=function))
        if largest(answer, run(behind, network.weights, followed.images)) <= GROSS:
            raise MisfitError(f"{name} puts out the {function} of its logits", hint=hint)
