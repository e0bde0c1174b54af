"""The command that runs networks on a data set: evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from densenet_port.cli.base import Printing, app, refuse_stdout
from densenet_port.cli.options import (
    Against,
    BackendOption,
    ContractWords,
    IgnoreInheritance,
    KernelsOption,
    OutputName,
    Ray,
    Src,
    Table,
    TrustCode,
    Within,
    grouped,
    registered_names,
)


@app.command()
@grouped
def evaluate(
    port: Annotated[
        str,
        typer.Argument(help="A network's file, such as a port, or a registered name.", autocompletion=registered_names),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            help="Pictures: a folder, .parquet files, .tar shards or one .npz; a pattern in quotes for several."
        ),
    ],
    against: Against = None,
    labels: Annotated[
        str | None, typer.Option(help="A file of labels, or 'none' to leave them out.", metavar="FILE|none")
    ] = None,
    prepared: Annotated[
        bool, typer.Option("--prepared", help="Take the floats of an .npz as they are: somebody prepared them.")
    ] = False,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    contract: ContractWords,
    ignore_inheritance: IgnoreInheritance = False,
    backend: BackendOption = "tensorflow",
    batch: Annotated[int, typer.Option(help="Pictures that a network gets at a time.")] = 32,
    jobs: Annotated[
        int | None, typer.Option(help="Processes side by side; as many as there are cores for, without it.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of a network; its last bits depend on them.")] = 1,
    ray: Ray = None,
    journal: Annotated[Path | None, typer.Option(help="Keep what is done in this file, batch by batch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the journal that is there.")] = False,
    trust_code: TrustCode = False,
    report: Annotated[Path | None, typer.Option(help="Write JSON and one HTML page into this folder.")] = None,
    printing: Printing,
) -> None:
    """Run a network on a data set, beside its original: accuracy, agreement, flips; exit 1 if a picture is missing."""
    from densenet_port.errors import UsageError
    from densenet_port.evaluation import report as reports
    from densenet_port.evaluation import run

    refuse_stdout("--report", report, "name a folder for its two files; --json prints what evaluation.json has")
    refuse_stdout("--journal", journal, "name a file")
    if resume and journal is None:
        raise UsageError("--resume goes on with a journal", hint="name it: --journal FILE")
    with printing.bar("evaluate") as progress:
        result = run.evaluate(
            port,
            against=against,
            data=data,
            labels=labels,
            prepared=prepared,
            src=mapping or src,
            kernels=kernels,
            within=within,
            contract=contract.entries,
            output_name=output_name,
            ignore_inheritance=ignore_inheritance,
            backend=backend,
            batch=batch,
            jobs=jobs,
            threads=threads,
            ray=ray,
            journal=journal,
            resume=resume,
            trust_code=trust_code,
            progress=progress,
        )
    if report is not None:
        reports.write(result, report)
    printing.show(
        "evaluate",
        lambda: reports.to_json(result),
        lambda: reports.terminal(result),
        cautions=reports.cautions(result),
    )
    raise typer.Exit(0 if result.is_whole else 1)
