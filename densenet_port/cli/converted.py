"""How conversions are told, one or several in one call: of several, one that fails does not stop the others."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from densenet_port.cli.base import Printing, contract_line, error_json, numbers, print_error
from densenet_port.conversion.write import Conversion
from densenet_port.errors import DiskError, PortError

Convert = Callable[[Path, str], Conversion]  # of a file to where it goes; raises PortError


class Outcome(NamedTuple):
    """What became of one of several files: its conversion, or why there is none."""

    source: Path
    target: str
    seconds: float
    done: Conversion | None
    error: PortError | None


def one(convert: Convert, targets: Mapping[str, Path], printing: Printing) -> None:
    """Convert a file to its target, and print what became of it."""
    [(target, source)] = targets.items()
    started = perf_counter()
    done = convert(source, target)
    _show(done, target, perf_counter() - started, printing)


def several(convert: Convert, targets: Mapping[str, Path], folder: Path | None, printing: Printing) -> int:
    """Convert each file to its target, in a folder that is made where it is missing; gives the exit code.

    `targets` are where the files go → the files. Each is told when it is done. The exit code is that of the first
    failure.
    """
    _make(folder)
    outcomes: list[Outcome] = []
    for target, source in targets.items():
        outcomes.append(_outcome(convert, source, target))
        if not printing.as_json:
            _tell(outcomes[-1], printing)
    printing.show("convert-several", lambda: _outcomes_json(outcomes), lambda: _summary(outcomes))
    return next((outcome.error.exit_code for outcome in outcomes if outcome.error), 0)


def _make(folder: Path | None) -> None:
    """Make the folder that files go to, if it is missing."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be made: {error.strerror}", hint="name another folder") from error


def _outcome(convert: Convert, source: Path, target: str) -> Outcome:
    """What becomes of a file, whatever it is."""
    started = perf_counter()
    try:
        done = convert(source, target)
    except PortError as error:
        return Outcome(source, target, perf_counter() - started, None, error)
    return Outcome(source, target, perf_counter() - started, done, None)


def _tell(outcome: Outcome, printing: Printing) -> None:
    """Print what became of one file of several."""
    if outcome.error:
        print_error(outcome.error.message, outcome.error.hint)
    elif outcome.done:
        _show(outcome.done, outcome.target, outcome.seconds, printing)


def _show(done: Conversion, target: str, seconds: float, printing: Printing) -> None:
    """Print a conversion."""
    cautions = [*([done.assumption] if done.assumption else []), *(f"note: {note}" for note in done.notes)]
    printing.show(
        "convert",
        lambda: {**_json(done, target), "seconds": round(seconds, 3)},
        lambda: _text(done, seconds),
        cautions=[f"{done.source.checkpoint.path}: {caution}" for caution in cautions],
    )


def _summary(outcomes: Sequence[Outcome]) -> str:
    """How many files were converted, and which were not."""
    failed = [str(outcome.source) for outcome in outcomes if outcome.error]
    line = f"{len(outcomes) - len(failed)} of {len(outcomes)} files converted"
    return f"{line}; not: {', '.join(failed)}" if failed else line


def _outcomes_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every file's object, in order: as that of a single conversion, or with its `error`."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    files = [_outcome_json(outcome) for outcome in outcomes]
    return {"converted": len(outcomes) - failed, "failed": failed, "files": files}


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    seconds = round(outcome.seconds, 3)
    if outcome.done:
        return {**_json(outcome.done, outcome.target), "seconds": seconds}
    error = outcome.error
    return {
        "source": {"path": str(outcome.source)},
        "target": {"path": None, "would_be": outcome.target},
        **(error_json(error.kind, error.message, error.hint) if error else {}),
        "seconds": seconds,
    }


# -- one conversion ----------------------------------------------------------------------------------------------------


def _counted_rules(ignored: Mapping[str, str]) -> dict[str, int]:
    """Rule → number of tensors that it lets be ignored."""
    counts: dict[str, int] = {}
    for rule in ignored.values():
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def _size(out: Path) -> int:
    """The bytes of a file, or of those in a folder."""
    return sum(file.stat().st_size for file in (out.iterdir() if out.is_dir() else [out]))


def _json(done: Conversion, target: str) -> dict[str, Any]:
    source, ledger = done.source, done.source.ledger
    return {
        "source": {
            "path": str(source.checkpoint.path),
            "container": source.checkpoint.container,
            "layout": source.layout,
            "prefix": ledger.prefix,
            "sha256": done.record["source"]["sha256"] or None,
        },
        "architecture": numbers(source.architecture),
        "contract": done.contract.to_json(),
        "origins": dict(source.origins),
        "assumed": done.assumption,
        "ledger": {
            "used": len(ledger.claims),
            "ignored": _counted_rules(ledger.ignored),
            "filled": len(ledger.filled),
            "slots": len(source.architecture.slots),
        },
        "absorbed": done.absorbed,
        "statistics": source.witness.to_json() if source.witness else None,
        "target": {
            "path": str(done.out) if done.out else None,
            "would_be": None if done.out else target,
            "layout": done.target.name,
            "bytes": _size(done.out) if done.out else None,
        },
        "tensors": dict(done.record["tensors"]),
        "notes": list(done.notes),
    }


def _text(done: Conversion, seconds: float) -> str:
    source, ledger = done.source, done.source.ledger
    ignored = "".join(f", {count} ignored by {rule!r}" for rule, count in _counted_rules(ledger.ignored).items())
    container = source.checkpoint.container + (f", under {ledger.prefix!r}" if ledger.prefix else "")
    slots = len(source.architecture.slots)
    lines = [
        f"{source.checkpoint.path}: {source.layout} {source.architecture.name} ({container})",
        f"  {len(ledger.claims)} tensors used{ignored}; {len(ledger.filled)} of {slots} slots filled",
        f"  {contract_line(source.architecture, done.contract)}",
    ]
    if done.absorbed:
        lines.append(
            f"  epsilon {done.absorbed['from']:g} became {done.absorbed['to']:g}: taken up by the variance, "
            f"in {len(done.absorbed['scale'])} norms by the scale"
        )
    if source.witness and source.witness.line:
        lines.append(f"  wiring: {source.witness.line}")
    if done.assumption:
        lines.append(f"  {done.assumption}")
    lines += [f"  note: {note}" for note in done.notes]
    if done.out:
        size = _size(done.out)
        lines.append(f"{done.out}: {done.target.name}, {size:,} bytes, {seconds:.2f} s")
    else:
        lines.append(f"nothing written (--dry-run); it would be {done.target.name}")
    return "\n".join(lines)
