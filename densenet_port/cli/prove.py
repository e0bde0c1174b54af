"""Commands that prove: check, diagnose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import (
    KERNELS,
    Against,
    AsJson,
    Backend,
    KernelsOption,
    Limit,
    OutputName,
    Reference,
    Sizes,
    Src,
    Table,
    Within,
    app,
    choice,
    show,
)

if TYPE_CHECKING:
    from densenet_port.prove.parity import Parity


@app.command()
def check(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    against: Against = None,
    reference: Reference = None,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    backend: Backend = "tensorflow",
    size: Sizes = None,
    batch: Annotated[int, typer.Option(help="Images of noise at each size.")] = 2,
    images: Annotated[Path | None, typer.Option(help="A folder of your own pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Limit = 600.0,
    save_reference: Annotated[Path | None, typer.Option(help="Keep the reference's run in this file (.npz).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write JSON, JUnit, Markdown and HTML into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a converted file is the same network; exit 1 when it is not, or not proven."""
    from densenet_port.prove import images as probes
    from densenet_port.prove import parity
    from densenet_port.prove import report as reports

    result = parity.check(
        converted,
        against=against,
        src=mapping or src,
        kernels=choice("--kernels", kernels, KERNELS),
        within=within,
        output_name=output_name,
        reference=reference,
        backend=backend,
        sizes=tuple(size) if size else probes.SIZES,
        batch=batch,
        images=images,
        seed=seed,
        limit=limit,
        save_reference=save_reference,
    )
    if report is not None:
        reports.write(result, report)
    show("check", as_json, lambda: reports.to_json(result), lambda: reports.terminal(result))
    raise typer.Exit(0 if result.proven else 1)


@app.command()
def diagnose(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    against: Against = None,
    reference: Reference = None,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    backend: Backend = "numpy",
    as_json: AsJson = False,
) -> None:
    """Say which known mistake explains a difference, and on which units; exit 1 when there is one."""
    from densenet_port.prove.parity import diagnose as explain

    result = explain(
        converted,
        against=against,
        src=mapping or src,
        kernels=choice("--kernels", kernels, KERNELS),
        within=within,
        output_name=output_name,
        reference=reference,
        backend=backend,
    )
    show("diagnose", as_json, lambda: _diagnosis_json(result), lambda: _diagnosis_text(result))
    raise typer.Exit(0 if result.passed else 1)


def _diagnosis_json(result: "Parity") -> dict[str, Any]:
    findings = list(result.diagnosis)
    return {"passed": result.passed, "where": result.where, "off": result.off, "findings": findings}


def _diagnosis_text(result: "Parity") -> str:
    if result.passed:
        return "the same network: nothing to explain"
    place = f"first off: {result.where or 'nowhere alone'}, on the side of the {result.off or 'port'}"
    lines = [f"not the same network; {place}"]
    for finding in result.diagnosis:
        lines.append(f"  {finding['mistake']}: {finding['says']}")
    if not result.diagnosis:
        lines.append("  no known mistake explains it")
    return "\n".join(lines)
