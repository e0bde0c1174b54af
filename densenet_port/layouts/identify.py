"""Which layout a file has: its complete ledger under the one table that fits, or an error that shows what does not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import MisfitError, PortError
from densenet_port.layouts.layout import Kernels, Layout, Ledger, Scan, fitted, layouts, ours_axes
from densenet_port.network.architecture import Architecture, infer
from densenet_port.network.units import HEAD

FLOATS = ("float16", "bfloat16", "float32", "float64")


SHOWN = 6  # tensors listed in an error before "and n more"


def identify(
    checkpoint: Checkpoint,
    *,
    src: str | Path | None = None,
    arch: Architecture | None = None,
    kernels: Kernels | None = None,
) -> Ledger:
    """The complete ledger of a file under the one table that fits it. Raises MisfitError that shows what does not."""
    known = (checkpoint.record or {}).get("layout")
    if src is None and known in layouts():
        src = known
    if src is not None:
        return _sole(checkpoint, Layout.load(src), arch, kernels)
    tables = _candidates(checkpoint)
    tried = {table.layout: _try(checkpoint, table, arch, kernels) for table in tables}
    fits = [result for result in tried.values() if isinstance(result, Ledger) and not result.troubles]
    fits = [ledger for ledger in fits if not ledger.mapping.refusal(ledger.architecture)] or fits
    fits = [ledger for ledger in fits if ledger.mapping.layout == checkpoint.metadata.get("package")] or fits
    if len(fits) == 1:
        return _floating(checkpoint, fits[0])
    if fits:
        names = [ledger.mapping.layout for ledger in fits]
        raise MisfitError(
            f"{checkpoint.path}: {len(fits)} layouts fit equally: {', '.join(names)}",
            hint=f"say which one it is with {' or '.join(f'--src {name}' for name in names)}",
        )
    if unsaid := _unsaid(checkpoint, tables, arch, kernels):
        hint = f"every tensor is {unsaid}'s, but the file does not say that it is one: --src {unsaid}, if you know"
        raise MisfitError(_no_layout(checkpoint, tried), hint=hint)
    if near := _nearest(checkpoint, tables, tried, kernels):
        return _sole(checkpoint, near, arch, kernels)
    hints = {getattr(found, "hint", None) for found in tried.values() if found is not None}
    agreed = hints.pop() if len(hints) == 1 else None
    raise MisfitError(_no_layout(checkpoint, tried), hint=agreed or "name the layout with --src to see every misfit")


def _nearest(
    checkpoint: Checkpoint,
    tables: list[Layout],
    tried: Mapping[str, Ledger | PortError | None],
    kernels: Kernels | None,
) -> Layout | None:
    """The one table whose misfits are worth showing in full, if there is one.

    That which would fit without the user's architecture, or the only one that recognises a network, or any name at all.
    """
    own = (_try(checkpoint, table, None, kernels) for table in tables)
    stages = (
        [table for table, found in zip(tables, own, strict=True) if isinstance(found, Ledger) and not found.troubles],
        [table for table in tables if isinstance(tried[table.layout], Ledger)],
        [table for table in tables if tried[table.layout] is not None],
    )
    return next((stage[0] for stage in stages if len(stage) == 1), None)


def _unsaid(
    checkpoint: Checkpoint, tables: list[Layout], arch: Architecture | None, kernels: Kernels | None
) -> str | None:
    """A layout that would fit, did it not ask for a record that the file lacks."""
    others = [table for layout in layouts() if (table := Layout.load(layout)) not in tables]
    tried = ((table.layout, _try(checkpoint, table, arch, kernels)) for table in others)
    return next((name for name, found in tried if isinstance(found, Ledger) and not found.troubles), None)


def _candidates(checkpoint: Checkpoint) -> list[Layout]:
    """The tables that the file may have: those that its own record names, or else all that need no such record."""
    tables = [Layout.load(layout) for layout in layouts()]
    said = [
        table
        for table in tables
        if table.when and all(checkpoint.metadata.get(key) == value for key, value in table.when.items())
    ]
    return said or [table for table in tables if not table.when]


def _try(
    checkpoint: Checkpoint, mapping: Layout, arch: Architecture | None, kernels: Kernels | None
) -> Ledger | PortError | None:
    """The ledger under one table, the error that stopped it, or None where the table recognises nothing."""
    try:
        survey = mapping.survey(checkpoint, kernels)
        return mapping.match(checkpoint, _architecture(survey, arch), survey) if survey.found else None
    except MisfitError as error:
        return error


def _sole(checkpoint: Checkpoint, mapping: Layout, arch: Architecture | None, kernels: Kernels | None) -> Ledger:
    """The complete ledger under a table that is known to be the right one."""
    survey = mapping.survey(checkpoint, kernels)
    if not survey.found:
        shown = "\n".join(f"  {line}" for line in _listed(checkpoint.tensors))
        raise MisfitError(
            f"{checkpoint.path}: nothing in it is named as {mapping.layout} names a DenseNet\n{shown}",
            hint="see `densenet-port inspect` for what is in the file, `densenet-port layouts` for what is known",
        )
    try:
        architecture = _architecture(survey, arch)
    except MisfitError as error:
        raise MisfitError(f"{checkpoint.path}: as {mapping.layout}: {error.message}", hint=error.hint) from error
    ledger = mapping.match(checkpoint, architecture, survey)
    if ledger.troubles:
        message, hint = _trouble(checkpoint, ledger, survey, arch)
        raise MisfitError(message, hint=hint)
    return _floating(checkpoint, ledger)


def _architecture(survey: Scan, arch: Architecture | None) -> Architecture:
    """The architecture asked for, with the file's own classes and channels; or the one its shapes say."""
    if survey.found and not survey.unclaimed and all(entry.place.unit == HEAD for entry in survey.found):
        raise MisfitError(
            f"it holds a head without a network: {', '.join(entry.name for entry in survey.found)}",
            hint="take the file of the whole network; KerasHub's presets keep the body in another one beside it",
        )
    return fitted(arch or infer(survey.kernels), survey)


def _floating(checkpoint: Checkpoint, ledger: Ledger) -> Ledger:
    """The same ledger, if every tensor it claims holds floating-point numbers."""
    wrong = [claim for claim in ledger.claims.values() if claim.tensor.dtype not in FLOATS]
    if wrong:
        raise MisfitError(
            f"{checkpoint.path}: {wrong[0].name} is {wrong[0].tensor.dtype}, expected one of {', '.join(FLOATS)}",
            hint="a quantised network has other layers; convert the one it was made from",
        )
    return ledger


def _trouble(checkpoint: Checkpoint, ledger: Ledger, survey: Scan, arch: Architecture | None) -> tuple[str, str]:
    """Message and next step for a ledger that does not close."""
    table = f"mappings/{ledger.mapping.path.name}"
    if ledger.unclaimed and ledger.troubles == len(ledger.unclaimed):
        head = f"{checkpoint.path}: no line of {table} claims {_count(ledger.unclaimed, 'tensor')}"
        lines, hint = _listed(ledger.unclaimed), "name them under [units], or under `ignore` if they may be dropped"
    elif arch is not None and (better := _better(checkpoint, ledger, survey)):
        head = f"{checkpoint.path} does not fit --arch {ledger.architecture.name}"
        lines = [*list(_misfits(ledger))[:3]]
        hint = f"{ledger.troubles} tensors differ or are unknown; every shape fits --arch {better.name}"
    else:
        network = f"{ledger.mapping.layout} {ledger.architecture.name}"
        head = f"{checkpoint.path}: {_count(range(ledger.troubles), 'misfit')} as {network}"
        lines, hint = (
            list(first_few(list(_misfits(ledger)))),
            f"{ledger.fitting} of {len(ledger.mapping.places(ledger.architecture))} tensors fit",
        )
    return "\n  ".join([head, *lines]), hint


def _better(checkpoint: Checkpoint, ledger: Ledger, survey: Scan) -> Architecture | None:
    """The architecture that the file's shapes say, if that one fits whole."""
    try:
        other = fitted(infer(survey.kernels), survey)
        return None if ledger.mapping.match(checkpoint, other, survey).troubles else other
    except PortError:
        return None


def _misfits(ledger: Ledger) -> Iterator[str]:
    """A line for each tensor in the way."""
    for wrong in ledger.misshapen:
        yield f"{wrong.place}  expected {wrong.expected}, found {wrong.found}  ({wrong.name})"
    for place, name in ledger.missing.items():
        unit, axes = ledger.architecture.units[place.unit], ours_axes(ledger.mapping, ledger.architecture, place)
        shape = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes.split())
        yield f"{place}  is missing  (expected {name}, our shape {shape})"
    for place, names in ledger.doubled.items():
        yield f"{place}  could be any of {', '.join(names)}"
    for line in _listed(ledger.unclaimed):
        yield f"{line}  is claimed by no line of mappings/{ledger.mapping.path.name}"


def _listed(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes, the first few."""
    return list(first_few([f"{name} {tensor.shape}" for name, tensor in tensors.items()]))


def first_few(lines: list[str]) -> Iterator[str]:
    """The lines that an error shows, and how many more there are."""
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more"


def _count(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _no_layout(checkpoint: Checkpoint, tried: Mapping[str, Ledger | PortError | None]) -> str:
    """The message that shows each candidate and what keeps it from fitting."""
    lines = [f"{checkpoint.path}: no layout fits its {_count(checkpoint.tensors, 'tensor')}"]
    for layout, result in sorted(tried.items(), key=lambda item: getattr(item[1], "troubles", 10**9)):
        if result is None:
            lines.append(f"{layout}: recognises none of its names")
        elif isinstance(result, Ledger):
            first = next(_misfits(result))
            lines.append(f"{layout}: {_count(range(result.troubles), 'misfit')}; {first}")
        else:
            lines.append(f"{layout}: {result.message}")
    return "\n  ".join(lines)
