"""What the list of its modules says of a state dict: one that holds no tensor may compute something all the same."""

from collections.abc import Iterator, Sequence

from densenet_port.checkpoint import Checkpoint
from densenet_port.layouts.match import Ledger
from densenet_port.network.graph import stem_of
from densenet_port.network.units import HEAD


def reasons(checkpoint: Checkpoint, ledger: Ledger) -> dict[str, str]:
    """Entry of the contract → why it cannot be taken for the software's own; nothing where no modules are listed."""
    modules = checkpoint.metadata.get("modules", ())
    if ledger.holder(next(iter(ledger.architecture.units))) not in modules:
        return {}
    place, head = ledger.place, ledger.holder(HEAD)
    pool = place.prefix + ledger.layout.pool.removeprefix(place.root)
    why = {}
    if stem_of(ledger.architecture.stem).pool and ledger.layout.pool and pool not in modules:
        why["stem_pool"] = f"the state dict lists no module {pool}"
    if head and head in modules and (behind := list(_behind(checkpoint, modules, head))):
        stands, that = ("stands a module", "that") if len(behind) == 1 else ("stand modules", "which")
        why["output"] = f"behind {head} {stands} {', '.join(behind)} {that} the state dict does not describe"
    return why


def _behind(checkpoint: Checkpoint, modules: Sequence[str], head: str) -> Iterator[str]:
    """The modules without tensors that are listed behind the head, in what the head stands in."""
    for name in modules[modules.index(head) + 1 :]:
        around = name.rpartition(".")[0]
        inside = not around or head.startswith(f"{around}.")
        if inside and not any(tensor.startswith(f"{name}.") for tensor in checkpoint.tensors):
            yield name
