"""Theirs → ours: which layout a file has, and its tensors in our axes.

Every tensor is claimed once or ignored by a rule, every slot is filled once; whatever is left says so in the error.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from densenet_port import formats
from densenet_port.checkpoint import Array, Checkpoint
from densenet_port.errors import UsageError
from densenet_port.layouts.identify import first_few, identify
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, Ledger, TensorKey, ours_axes
from densenet_port.layouts.transform import FOLDS, folded, move
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.units import HEAD, Slot


class Weights(Mapping[Slot, Array]):
    """Slot → its tensor in our axes, read from the checkpoint each time that it is asked for and not kept."""

    def __init__(self, readers: Mapping[Slot, Callable[[], Array]]) -> None:
        """Keep how each slot's tensor is read."""
        self._readers = readers

    def __getitem__(self, slot: Slot) -> Array:
        """The tensor: the stored type (bfloat16 widened to float32), or float64 where a fold needs it."""
        return self._readers[slot]()

    def __contains__(self, slot: object) -> bool:
        """Whether there is such a slot; nothing is read."""
        return slot in self._readers

    def __iter__(self) -> Iterator[Slot]:
        """The slots in order of execution."""
        return iter(self._readers)

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._readers)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A checkpoint told in our words.

    `weights` gives each slot's tensor in our axes (`h w i o`, `i o`, `c`) and the stored type (bfloat16 widened to
    float32), or in float64 where a fold computed it and the stored type cannot hold it; each look reads it anew.
    `contract` is the file's own record where it has one, the layout's otherwise. `within` is what the names of this
    network begin with, where somebody had to say.
    """

    checkpoint: Checkpoint
    ledger: Ledger
    architecture: Architecture
    contract: Contract
    weights: Mapping[Slot, Array]
    within: str | None = None

    @property
    def layout(self) -> str:
        """The layout the file has."""
        return self.ledger.mapping.layout


def read(
    file: Path | Checkpoint,
    *,
    src: str | Path | None = None,
    arch: Architecture | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    no_top: bool = False,
) -> Network:
    """The checkpoint in a file, or one that is open already, in our words.

    `src` is a layout's name or a table of the user's own; without it the tables are asked which of them fits. Without
    `arch` the shapes say. `kernels` says how convolution kernels are stored where the file does not record it: as a
    true convolution has them ("theano"), or as a correlation ("tensorflow"). `within` is what stands before the names
    of the network to take (`state_dict_ema`), where a file holds several; all else is ignored then. Raises MisfitError
    when anything is left over, missing or of another shape.
    """
    checkpoint = formats.read(file) if isinstance(file, Path) else file
    if kernels not in (None, "theano", "tensorflow"):
        raise UsageError(f"unknown --kernels {kernels!r}", hint="known: theano, tensorflow")
    chosen = checkpoint if within is None else _part(checkpoint, within)
    ledger = identify(chosen, src=src, arch=arch, kernels=kernels)
    if kernels and kernels != (ledger.kernels or "tensorflow"):
        raise UsageError(f"{ledger.mapping.layout} never stores kernels as {kernels} does", hint="leave out --kernels")
    if no_top:
        ledger = _without_head(ledger)
    if within is not None:
        outside = {name: f"--within {within}" for name in checkpoint.tensors if name not in chosen.tensors}
        ledger = replace(ledger, ignored={**ledger.ignored, **outside})
    return Network(
        checkpoint=checkpoint,
        ledger=ledger,
        architecture=ledger.architecture,
        contract=_contract_of(checkpoint, ledger.mapping),
        weights=Weights({slot: _reader(ledger, slot) for slot in ledger.filled}),
        within=within,
    )


def _part(checkpoint: Checkpoint, within: str) -> Checkpoint:
    """The checkpoint with only the tensors below a name."""
    starts = tuple(within.rstrip(SPLIT) + sign for sign in SPLIT)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(starts)}
    if not tensors:
        tops = dict.fromkeys(re.split(f"[{SPLIT}]", name)[0] for name in checkpoint.tensors)
        raise UsageError(
            f"{checkpoint.path}: no tensor's name begins with {starts[0]!r} or {starts[1]!r}",
            hint=f"its names begin with {', '.join(first_few([*tops]))}",
        )
    return replace(checkpoint, tensors=tensors)


def _without_head(ledger: Ledger) -> Ledger:
    """The ledger of the body, with the head's tensors ignored by the user's word."""
    head = {claim.name: "--no-top" for place, claim in ledger.claims.items() if place.unit == HEAD}
    return replace(
        ledger,
        architecture=ledger.architecture.without_head(),
        claims={place: claim for place, claim in ledger.claims.items() if place.unit != HEAD},
        ignored={**ledger.ignored, **head},
    )


def _reader(ledger: Ledger, slot: Slot) -> Callable[[], Array]:
    """A function that reads one slot's tensor in our axes, folded from its parts where the layout has several."""
    parts = [_part_reader(ledger, TensorKey(slot.unit, part)) for part in ledger.parts(slot)]
    if len(parts) == 1:
        return parts[0]
    assert ledger.mapping.fold is not None  # noqa: S101 (only a fold has parts)
    made = FOLDS[ledger.mapping.fold].made[slot.role]
    return lambda: folded(made, [part() for part in parts])


def _part_reader(ledger: Ledger, place: TensorKey) -> Callable[[], Array]:
    """A function that reads one part in our axes."""
    claim, axes = ledger.claims[place], ours_axes(ledger.mapping, ledger.architecture, place)
    return lambda: move(claim.tensor.load(), claim.axes, axes)


RECORDED = {  # what a file's own graph may say of the contract
    "epsilon": float,
    "stem_padding": str,
    "stem_pool": str,
    "pool_rounding": str,
    "output": str,
}


def _contract_of(checkpoint: Checkpoint, mapping: Layout) -> Contract:
    """What the file records of itself, else what its layout says."""
    if checkpoint.record and "contract" in checkpoint.record:
        return Contract.from_json(checkpoint.record["contract"])
    said = {key: kind(checkpoint.metadata[key]) for key, kind in RECORDED.items() if key in checkpoint.metadata}
    return replace(mapping.contract, **cast("Any", said))


# -- saying what is wrong ----------------------------------------------------------------------------------------------
