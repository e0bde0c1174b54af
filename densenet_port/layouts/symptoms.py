"""What the tensors of a checkpoint say of themselves where no layout fits them: quantised, pruned, optimisers' state.

The signs stand in `mappings/foreign/tensors.toml`; that a network's norms lack their statistics is a ledger's to say.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.match import Ledger
from densenet_port.layouts.schema import kind_of
from densenet_port.network.units import ROLES
from densenet_port.strict import Fields

TABLE = Path("foreign", "tensors.toml")
STATISTICS = ("mean", "variance")
_SIGNS = ("some", "each", "only", "beside", "dtypes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """What a checkpoint is, the next step, and the sign by which it is told."""

    what: str
    hint: str
    some: tuple[str, ...] = ()
    each: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    axes: int = 0

    def names(self, checkpoint: Checkpoint) -> list[str]:
        """The names that show it; none where it is not so."""
        if self.beside:
            return [name for name in checkpoint.metadata.get("values", ()) if _fits(name, self.beside)]
        if self.dtypes:
            tensors = checkpoint.tensors.items()
            return [name for name, tensor in tensors if len(tensor.shape) > 1 and tensor.dtype in self.dtypes]
        if self.axes:
            return _kernels(checkpoint, self.axes)
        names = list(checkpoint.tensors)
        shown = [name for name in names if _fits(name, (*self.some, *self.each, *self.only))]
        missing = [pattern for pattern in self.each if not any(fnmatchcase(name, pattern) for name in names)]
        return [] if missing or (self.only and len(shown) < len(names)) else shown


def _kernels(checkpoint: Checkpoint, axes: int) -> list[str]:
    """The tensors of so many axes, where they are the convolutions' kernels: none has the four of pictures."""
    names = [name for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == axes]
    pictures = any(len(tensor.shape) == 4 for tensor in checkpoint.tensors.values())  # o i h w
    return [] if pictures else names


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def symptoms() -> Iterator[Symptom]:
    """Every symptom of the table. Raises UsageError for a table that is none."""
    path = resource("mappings") / TABLE
    table = Fields(str(path), tomllib.loads(path.read_text("utf-8")), UsageError)
    for name in table.content:
        entry = table.fields(name)
        entry.check_keys(["what", "hint", "axes", *_SIGNS], optional=["axes", *_SIGNS])
        signs = {sign: entry.texts(sign) for sign in _SIGNS if sign in entry.content}
        axes = entry.value("axes", int) if "axes" in entry.content else 0
        yield Symptom(what=entry.text("what"), hint=entry.text("hint"), axes=axes, **signs)


def explained(checkpoint: Checkpoint) -> MisfitError | None:
    """The error that says what a checkpoint is by its own tensors; None where they say nothing."""
    for symptom in symptoms():
        if names := symptom.names(checkpoint):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return MisfitError(f"{checkpoint.path}: {symptom.what} ({names[0]}{more})", hint=symptom.hint)
    return None


def without_statistics(checkpoint: Checkpoint, ledger: Ledger) -> MisfitError | None:
    """The error for a network all of whose norms lack mean and variance, or everything; None for any other."""
    norms = [unit for unit in ledger.architecture.units if kind_of(unit) == "norm"]
    missing = {(key.unit, key.part) for key in ledger.missing}
    if not norms or ledger.problems != len(missing):
        return None
    anew = "measure every input anew, which no layout's DenseNet does: nothing converts it"
    if missing == {(unit, role) for unit in norms for role in STATISTICS}:
        what = "have scale and shift, and no mean or variance"
        hint = (
            "if the file holds a network's parameters without its buffers, save `model.state_dict()`; if the norms are "
            f"GroupNorm, InstanceNorm or LayerNorm, or BatchNorm with track_running_stats=False, they {anew}"
        )
    elif missing == {(unit, role) for unit in norms for role in ROLES["norm"]}:
        what = f"have no tensors at all, as {ledger.layout.name} {ledger.architecture.name}"
        hint = f"if they are InstanceNorm without parameters, they {anew}"
    else:
        return None
    return MisfitError(f"{checkpoint.path}: its {len(norms)} norms {what}", hint=hint)
