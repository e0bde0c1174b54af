"""Which layout a file has: its complete ledger under the one table that fits, or an error that shows what does not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import MisfitError, PortError
from densenet_port.layouts.layout import Kernels, Layout, layouts
from densenet_port.layouts.match import Ledger, Scan, fitted, match, scan
from densenet_port.layouts.symptoms import explained, without_statistics
from densenet_port.network.architecture import Architecture, infer
from densenet_port.network.units import HEAD

FLOATS = ("float16", "bfloat16", "float32", "float64")
SHOWN = 6  # tensors listed in an error before "and n more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A table tried on a file: what it recognises and the ledger, or the error that stopped it.

    There is neither where the table recognises no name.
    """

    layout: Layout
    scanned: Scan | None = None
    ledger: Ledger | None = None
    error: MisfitError | None = None

    @property
    def complete(self) -> Ledger | None:
        """The ledger, if every tensor is accounted for."""
        return self.ledger if self.ledger and not self.ledger.problems else None


def identify(
    checkpoint: Checkpoint,
    *,
    src: str | Path | None = None,
    arch: Architecture | None = None,
    kernels: Kernels | None = None,
) -> Ledger:
    """The complete ledger of a file under the one table that fits it. Raises MisfitError that shows what does not.

    `src` is the layout, or a table of the user's own; without it the one that the file's record names, or else
    the one table that fits.
    `arch` is the architecture; without it the one of the file's shapes. `kernels` is how convolution
    kernels are stored, where the file does not record it.
    """
    try:
        return _identified(checkpoint, src, arch, kernels)
    except MisfitError as error:
        if symptom := explained(checkpoint):
            raise symptom from error
        raise


def _identified(
    checkpoint: Checkpoint, src: str | Path | None, arch: Architecture | None, kernels: Kernels | None
) -> Ledger:
    """As `identify`, whose errors know nothing of what the tensors say of themselves."""
    recorded = (checkpoint.record or {}).get("layout")
    if src is None and recorded in layouts():
        src = recorded
    if src is not None:
        return _closed(_attempt(checkpoint, Layout.load(src), arch, kernels), checkpoint, arch)
    candidates, others = _candidates(checkpoint)
    attempts = [_attempt(checkpoint, layout, arch, kernels) for layout in candidates]
    best = _preferred(checkpoint, [ledger for attempt in attempts if (ledger := attempt.complete)])
    if len(best) == 1:
        return _floating(checkpoint, best[0])
    if best:
        raise _equal(checkpoint, [ledger.layout.name for ledger in best])
    for layout in others:
        if _attempt(checkpoint, layout, arch, kernels).complete:
            raise _unrecorded(checkpoint, attempts, layout.name)
    if nearest := _nearest(attempts, arch):
        return _closed(nearest, checkpoint, arch)
    raise _no_layout(checkpoint, attempts, _agreed_hint(attempts))


# -- trying ------------------------------------------------------------------------------------------------------------


def _candidates(checkpoint: Checkpoint) -> tuple[list[Layout], list[Layout]]:
    """The tables that the file may have, and the others.

    It may have those that its own record names, or else all that need no such record.
    """
    tables = [Layout.load(name) for name in layouts()]
    named = {table.name for table in tables if table.when and _records(checkpoint, table.when)}
    candidates = named or {table.name for table in tables if not table.when}
    return (
        [table for table in tables if table.name in candidates],
        [table for table in tables if table.name not in candidates],
    )


def _records(checkpoint: Checkpoint, entries: Mapping[str, Any]) -> bool:
    """Whether the file's metadata has all of these entries."""
    return all(checkpoint.metadata.get(key) == value for key, value in entries.items())


def _attempt(checkpoint: Checkpoint, layout: Layout, arch: Architecture | None, kernels: Kernels | None) -> Attempt:
    """One table tried on a file."""
    try:
        scanned = scan(layout, checkpoint, kernels)
        if not scanned.matches:
            return Attempt(layout=layout)
        ledger = match(scanned, _architecture(scanned, arch))
    except MisfitError as error:
        return Attempt(layout=layout, error=error)
    return Attempt(layout=layout, scanned=scanned, ledger=ledger)


def _architecture(scanned: Scan, arch: Architecture | None) -> Architecture:
    """The architecture asked for, with the file's own classes and channels; or the one its shapes say."""
    if not scanned.unclaimed and all(match.key.unit == HEAD for match in scanned.matches):
        raise MisfitError(
            f"it holds a head without a network: {', '.join(match.name for match in scanned.matches)}",
            hint="take the file of the whole network; KerasHub's presets keep the body in another one beside it",
        )
    return fitted(arch or infer(scanned.kernel_sizes, scanned.norm_count), scanned)


# -- deciding ----------------------------------------------------------------------------------------------------------


def _preferred(checkpoint: Checkpoint, ledgers: Sequence[Ledger]) -> list[Ledger]:
    """Those of the highest rank: the layout's software can have the network, and then the file's record prefers it."""
    ranks = [
        (
            ledger.layout.refusal(ledger.architecture) is None,
            bool(ledger.layout.prefer) and _records(checkpoint, ledger.layout.prefer),
        )
        for ledger in ledgers
    ]
    highest = max(ranks, default=None)
    return [ledger for ledger, rank in zip(ledgers, ranks, strict=True) if rank == highest]


def _nearest(attempts: Sequence[Attempt], arch: Architecture | None) -> Attempt | None:
    """The one attempt whose misfits are worth showing in full, if there is one.

    That which would fit without the user's architecture, or the only one that recognises a network, or any name at all.
    """
    stages = (
        [attempt for attempt in attempts if arch and _inferred(attempt)],
        [attempt for attempt in attempts if attempt.ledger],
        [attempt for attempt in attempts if attempt.ledger or attempt.error],
    )
    return next((stage[0] for stage in stages if len(stage) == 1), None)


def _inferred(attempt: Attempt) -> Architecture | None:
    """The architecture that the file's shapes say, if that one fits whole."""
    if attempt.scanned is None:
        return None
    try:
        architecture = _architecture(attempt.scanned, None)
    except PortError:
        return None
    return None if match(attempt.scanned, architecture).problems else architecture


def _closed(attempt: Attempt, checkpoint: Checkpoint, arch: Architecture | None) -> Ledger:
    """The ledger under a table that is known to be the right one. Raises MisfitError with what is in its way."""
    name, error, ledger = attempt.layout.name, attempt.error, attempt.ledger
    if error:
        raise MisfitError(f"{checkpoint.path}: as {name}: {error.message}", hint=error.hint) from error
    if ledger is None:
        shown = "\n".join(f"  {line}" for line in _listed(checkpoint.tensors))
        raise MisfitError(
            f"{checkpoint.path}: nothing in it is named as {name} names a DenseNet\n{shown}",
            hint="see `densenet-port inspect` for what is in the file, `densenet-port layouts` for what is known",
        )
    if ledger.problems:
        raise _misfit(checkpoint, ledger, _inferred(attempt) if arch else None)
    return _floating(checkpoint, ledger)


def _floating(checkpoint: Checkpoint, ledger: Ledger) -> Ledger:
    """The same ledger, if every tensor it claims holds floating-point numbers."""
    for claim in ledger.claims.values():
        if claim.tensor.dtype not in FLOATS:
            raise MisfitError(
                f"{checkpoint.path}: {claim.name} is {claim.tensor.dtype}, expected one of {', '.join(FLOATS)}",
                hint="a quantised network has other layers; convert the one it was made from",
            )
    return ledger


# -- errors ------------------------------------------------------------------------------------------------------------


def _equal(checkpoint: Checkpoint, names: Sequence[str]) -> MisfitError:
    """The error for a file that several layouts fit."""
    return MisfitError(
        f"{checkpoint.path}: {len(names)} layouts fit equally: {', '.join(names)}",
        hint=f"say which one it is with {' or '.join(f'--src {name}' for name in names)}",
    )


def _misfit(checkpoint: Checkpoint, ledger: Ledger, inferred: Architecture | None) -> MisfitError:
    """The error for a ledger that does not close; `inferred` is another architecture with which it would."""
    if error := without_statistics(checkpoint, ledger):
        return error
    path, table, misfits = checkpoint.path, f"mappings/{ledger.layout.path.name}", list(_misfits(ledger))
    if ledger.problems == len(ledger.unclaimed):
        message = f"{path}: no line of {table} claims {_count(ledger.problems, 'tensor')}"
        lines = _listed(ledger.unclaimed)
        hint = "name them under [units], or under `ignore` if they may be dropped"
    elif inferred:
        message = f"{path} does not fit --arch {ledger.architecture.name}"
        lines = misfits[:3]
        hint = f"{ledger.problems} tensors differ or are unknown; every shape fits --arch {inferred.name}"
    else:
        network = f"{ledger.layout.name} {ledger.architecture.name}"
        message = f"{path}: {_count(ledger.problems, 'misfit')} as {network}"
        lines = list(first_few(misfits))
        hint = f"{ledger.fit_count} of {len(ledger.layout.keys(ledger.architecture))} tensors fit"
    return MisfitError("\n  ".join([message, *lines]), hint=hint)


def _misfits(ledger: Ledger) -> Iterator[str]:
    """A line for each tensor in the way."""
    for wrong in ledger.wrong_shapes:
        yield f"{wrong.key}  expected {wrong.expected}, found {wrong.actual}  ({wrong.name})"
    for key, name in ledger.missing.items():
        unit, axes = ledger.architecture.units[key.unit], ledger.layout.canonical_axes(key)
        shape = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes.split())
        yield f"{key}  is missing  (expected {name}, our shape {shape})"
    for key, names in ledger.ambiguous.items():
        yield f"{key}  could be any of {', '.join(names)}"
    for line in _listed(ledger.unclaimed):
        yield f"{line}  is claimed by no line of mappings/{ledger.layout.path.name}"


def _unrecorded(checkpoint: Checkpoint, attempts: Sequence[Attempt], name: str) -> MisfitError:
    """The error for a file that would fit a layout, did it not lack the record that the layout asks for."""
    hint = f"every tensor is {name}'s, but the file does not say that it is one: --src {name}, if you know"
    return _no_layout(checkpoint, attempts, hint)


def _agreed_hint(attempts: Sequence[Attempt]) -> str:
    """The hint that all attempts share which recognise anything, or the general one."""
    hints = {attempt.error.hint if attempt.error else None for attempt in attempts if attempt.ledger or attempt.error}
    agreed = hints.pop() if len(hints) == 1 else None
    return agreed or "name the layout with --src to see every misfit"


def _no_layout(checkpoint: Checkpoint, attempts: Sequence[Attempt], hint: str) -> MisfitError:
    """The error that shows each candidate and what keeps it from fitting, those with a ledger first."""
    message = f"{checkpoint.path}: no layout fits its {_count(len(checkpoint.tensors), 'tensor')}"
    nearest_first = sorted(attempts, key=lambda attempt: attempt.ledger.problems if attempt.ledger else 10**9)
    obstacles = [f"{attempt.layout.name}: {_obstacle(attempt)}" for attempt in nearest_first]
    return MisfitError("\n  ".join([message, *obstacles]), hint=hint)


def _obstacle(attempt: Attempt) -> str:
    """What keeps a table from fitting, in a line."""
    if attempt.error:
        return attempt.error.message
    if attempt.ledger:
        return f"{_count(attempt.ledger.problems, 'misfit')}; {next(_misfits(attempt.ledger))}"
    return "recognises none of its names"


def _listed(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes, the first few."""
    return list(first_few([f"{name} {tensor.shape}" for name, tensor in tensors.items()]))


def first_few(lines: list[str]) -> Iterator[str]:
    """The lines that an error shows, and how many more there are."""
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more"


def _count(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
