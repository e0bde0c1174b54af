"""The command for many files: batch."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import Printing, app, refuse_stdout, rows
from densenet_port.cli.options import (
    Arch,
    BackendOption,
    ContractWords,
    DimOrdering,
    Dst,
    DstKernels,
    DtypeOption,
    Ending,
    Force,
    IgnoreInheritance,
    KernelsOption,
    NoTop,
    OutputName,
    Ray,
    Src,
    Table,
    Within,
    grouped,
)

if TYPE_CHECKING:
    from densenet_port.batches.run import Batch
    from densenet_port.batches.task import Outcome

NOT_PROVEN = "not proven"


@app.command()
@grouped
def batch(
    source: Annotated[
        list[str],
        typer.Argument(help="Files, folders, patterns in quotes (** for any folders), or manifests (.csv, .jsonl …)."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The folder where results go, and batch.jsonl, which tells of each.")],
    jobs: Annotated[
        int | None, typer.Option(help="Files at a time, each in a process; without it, as many as there are cores.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check each port against its source, as check does.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that the folder has the journal of.")
    ] = False,
    ray: Ray = None,
    src: Src = None,
    arch: Arch = None,
    dst: Dst = "keras",
    ending: Ending = None,
    no_top: NoTop = False,
    dtype: DtypeOption = "float32",
    kernels: KernelsOption = None,
    within: Within = None,
    dst_kernels: DstKernels = None,
    dim_ordering: DimOrdering = None,
    output_name: OutputName = None,
    mapping: Table = None,
    contract: ContractWords,
    ignore_inheritance: IgnoreInheritance = False,
    backend: BackendOption = "tensorflow",
    force: Force = False,
    printing: Printing,
) -> None:
    """Translate many checkpoints, several at a time; exit with the highest code of any.

    One that fails does not stop the others. What was begun and broke off goes on with --resume, no file twice.
    """
    from densenet_port.batches.run import batch as run

    refuse_stdout("--out", out, "name a folder")
    with printing.bar("converting") as progress:
        result = run(
            source,
            out=out,
            ending=ending,
            jobs=jobs,
            check=check,
            resume=resume,
            ray=ray,
            backend=backend,
            src=mapping or src,
            arch=arch,
            dst=dst,
            kernels=kernels,
            within=within,
            dst_kernels=dst_kernels,
            dim_ordering=dim_ordering,
            no_top=no_top,
            output_name=output_name,
            contract=contract.entries,
            ignore_inheritance=ignore_inheritance,
            dtype=dtype,
            force=force,
            progress=progress,
        )
    printing.show(
        "batch", lambda: _json(result), lambda: _text(result), cautions=[*_assumptions(result), *_failures(result)]
    )
    raise typer.Exit(result.exit_code)


def _kind(outcome: "Outcome") -> str | None:
    """Why a file is not done: the kind of its error, or that it is not proven; None where it is."""
    if outcome.error is not None:
        return str(outcome.error["kind"])
    return NOT_PROVEN if outcome.exit_code else None


def _brief(source: str) -> str:
    """A source's path as it is from here, where it lies below."""
    path, here = Path(source), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else source


def _words(outcome: "Outcome") -> str:
    """Why a file is not done, in its first line, without its own name."""
    if outcome.error is not None:
        return str(outcome.error["message"]).partition("\n")[0].removeprefix(f"{outcome.source}: ")
    evidence = outcome.evidence or {}
    return f"{evidence['grade']}: {evidence['says']}"


def _json(result: "Batch") -> dict[str, Any]:
    failed = Counter(filter(None, map(_kind, result.outcomes)))
    return {
        "done": len(result.outcomes) - failed.total(),
        "failed": dict(failed),
        "before": result.before,
        "journal": str(result.journal),
        "files": [outcome.to_json() for outcome in result.outcomes],
    }


def _text(result: "Batch") -> list[Any]:
    """How many files are done, how many failed and by what; and each that failed."""
    kinds = Counter(map(_kind, result.outcomes))
    done = kinds.pop(None, 0)
    counts = [f"{done} of {len(result.outcomes)} files done", *(f"{count} {kind}" for kind, count in kinds.items())]
    if result.before:
        counts.append(f"{result.before} of them by earlier runs")
    lines = [", ".join(counts), f"{result.journal}: a line for each file", *_assumptions(result)]
    failed = [outcome for outcome in result.outcomes if _kind(outcome)]
    parts: list[Any] = ["\n".join(lines)]
    if failed:
        cells = [(_brief(outcome.source), _kind(outcome), _words(outcome)) for outcome in failed]
        parts += ["", rows(("not done", "kind", "why"), cells)]
    return parts


def _assumptions(result: "Batch") -> Iterator[str]:
    """What results rest on that no file tells, and notes; each once, with the number of files."""
    told = Counter(
        line
        for outcome in result.outcomes
        for line in (*([outcome.assumed] if outcome.assumed else []), *(f"note: {note}" for note in outcome.notes))
    )
    return (f"{count} file{'s' if count > 1 else ''}: {line}" for line, count in told.items())


def _failures(result: "Batch") -> Iterator[str]:
    """A line for each file that is not done."""
    return (
        f"{_brief(outcome.source)}: {_kind(outcome)}: {_words(outcome)}"
        for outcome in result.outcomes
        if _kind(outcome)
    )
