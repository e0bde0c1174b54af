"""A network's weights put into a model that is there already, in memory.

The model is read as any source is: its names by a layout's table, its contract by its own live graph. What is set is
what a file of that layout would hold, for a network of that contract: another epsilon is absorbed, another padding or
pool refused. Everything is worked out before anything is set.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array, Tensor, live_array
from densenet_port.conversion.load import Network, read
from densenet_port.conversion.opening import KerasModel, TorchModule
from densenet_port.conversion.write import Conversion, absorb_all, target_contract, target_tensor
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.live import live
from densenet_port.layouts.layout import Layout, TensorSpec
from densenet_port.layouts.match import Claim
from densenet_port.layouts.schema import kind_of
from densenet_port.network.contract import COMPUTED
from densenet_port.network.units import Slot

HEAD_ONLY = ("classes", "head")  # numbers of an architecture that are its head's


def assign(
    source: Network, model: TorchModule | KerasModel, *, no_top: bool = False, src: str | PathLike[str] | None = None
) -> Conversion:
    """Set a model's weights to a network's; what was set, what it absorbed, and what its owner should know.

    `no_top` leaves the model's own head alone, `src` says which layout its names are, where several fit. Tensors that
    are no part of the function (counters of batches) stay. Raises UsageError for what is no model; MisfitError for a
    model that cannot be read, that is another network, or that cannot hold the numbers; and nothing is set then.
    """
    held = None if isinstance(model, Mapping) else live(model)
    if held is None:
        hint = "give a torch module or a Keras model; `state(layout)` gives the weights by name"
        raise UsageError(f"weights cannot be put into an object of the class {type(model).__name__}", hint=hint)
    target = read(held.checkpoint, src=src, no_top=no_top, ignore_inheritance=True)
    if no_top:
        source = replace(source, architecture=source.architecture.without_head())
    _require_same_numbers(source, target)
    planned = _planned(source, target)
    _set_all(target.checkpoint.path, held.variables, {name: tensor.load() for name, tensor in planned.tensors.items()})
    return planned


def _require_same_numbers(source: Network, target: Network) -> None:
    """Raise MisfitError unless both are networks of the same numbers."""
    if source.architecture == target.architecture:
        return
    differing = source.architecture.differing(target.architecture)
    shown = ", ".join(f"{key} {both}" for key, both in differing.items())
    hint = "no_top=True leaves the model's own head alone" if differing.keys() <= {*HEAD_ONLY} else None
    paths = f"{source.checkpoint.path} and {target.checkpoint.path}"
    raise MisfitError(f"{paths} are networks of different numbers: expected and found {shown}", hint=hint)


def _planned(source: Network, target: Network) -> Conversion:
    """What is to be set, by the model's own names. Raises MisfitError where it would be another function."""
    path, ledger = target.checkpoint.path, target.ledger
    if ledger.epsilons:
        raise MisfitError(f"{path}: norms of its head have another epsilon than the rest: {', '.join(ledger.epsilons)}")
    if ledger.folded:
        raise MisfitError(f"{path}: its norms were folded into its convolutions: {', '.join(ledger.folded[:3])} …")
    for key in ledger.blank:
        if np.any(source.weights[Slot(key.unit, "bias")]):
            raise MisfitError(f"{path}: has no {key}, and the network's is not zero")
    layout = replace(ledger.layout, name=str(path), contract=target.contract, carried=frozenset())
    contract = target_contract(source, layout)
    first = next(claim for key, claim in ledger.claims.items() if kind_of(key.unit) == "norm")
    replaced, absorbed = absorb_all(source, contract, first.tensor.dtype)
    tensors, orders = {}, layout.channel_order(source.architecture)
    for key, claim in ledger.claims.items():
        order, is_bias = orders.get(key.unit), key.unit in ledger.biases
        load = partial(_load, source, layout, claim, replaced, order, is_bias=is_bias)
        tensors[claim.name] = Tensor(claim.tensor.shape, claim.tensor.dtype, load)
    return Conversion(
        source=source,
        target=ledger.layout,
        contract=contract,
        specs={key: TensorSpec(claim.name, claim.axes) for key, claim in ledger.claims.items()},
        tensors=tensors,
        absorbed=absorbed,
        out=None,
        record={},
        assumption=None,
        notes=tuple(_notes(source, target)),
    )


def _load(
    source: Network,
    layout: Layout,
    claim: Claim,
    replaced: Mapping[Slot, Array],
    order: Array | None,
    *,
    is_bias: bool,
) -> Array:
    """One of the model's tensors; zeros for the bias of a convolution, which the norms behind it have taken up."""
    if is_bias and claim.key.part == "bias":
        return np.zeros(claim.tensor.shape, np.float32)
    try:
        return target_tensor(source, layout, claim.key, claim.axes, claim.tensor.dtype, replaced, order)
    except MisfitError as error:
        raise MisfitError(f"{layout.name}: {error.message}", hint="give the model a wider type first") from error


def _notes(source: Network, target: Network) -> Iterator[str]:
    """What the owner of the model should know."""
    path, layout = target.checkpoint.path, target.layout
    yield from target.checkpoint.metadata.get("notes", ())
    if untold := [key for key in COMPUTED if target.origins.get(key) not in (None, "graph", "record")]:
        yield f"the graph of {path} does not tell {', '.join(untold)}: taken as {layout} has it"
    if source.contract.pool_rounding != target.contract.pool_rounding:
        change = f"{source.contract.pool_rounding} to {target.contract.pool_rounding}"
        yield f"average pools round from {change}: the same for maps of even size, as 224 and 256 pixels give"


def _set_all(path: Path, variables: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Set the framework's own variables; where one refuses, those before it get back what they held."""
    before: dict[str, Array] = {}
    try:
        for name, array in arrays.items():
            before[name] = live_array(variables[name]).copy()
            _set(variables[name], array)
    except Exception as error:
        for name, array in before.items():
            with suppress(Exception):
                _set(variables[name], array)
        says = str(error).partition(chr(10))[0]
        raise MisfitError(f"{path}: {[*before][-1]} cannot be set: {type(error).__name__}: {says}") from error


def _set(variable: Any, array: Array) -> None:
    """Set a variable of torch's or Keras's, in its own type."""
    if not hasattr(variable, "detach"):
        variable.assign(array)
        return
    torch = sys.modules["torch"]
    with torch.no_grad():
        variable.copy_(torch.tensor(array))
