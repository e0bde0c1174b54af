"""Commands that prove: check, diagnose, record."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import Printing, app, refuse_stdout
from densenet_port.cli.options import (
    Against,
    BackendOption,
    ContractWords,
    IgnoreInheritance,
    KernelsOption,
    Limit,
    OutputName,
    Reference,
    Sizes,
    Src,
    Table,
    TrustCode,
    Within,
    grouped,
)

if TYPE_CHECKING:
    from densenet_port.prove.parity import Parity
    from densenet_port.prove.recording import Recording


@app.command()
@grouped
def check(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    *,
    against: Against = None,
    reference: Reference = None,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    contract: ContractWords,
    ignore_inheritance: IgnoreInheritance = False,
    backend: BackendOption = "tensorflow",
    size: Sizes = None,
    batch: Annotated[int, typer.Option(help="Images of noise at each size.")] = 2,
    images: Annotated[Path | None, typer.Option(help="A folder of your own pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Limit = 600.0,
    trust_code: TrustCode = False,
    save_reference: Annotated[Path | None, typer.Option(help="Keep the reference's run in this file (.npz).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write JSON, JUnit, Markdown and HTML into this folder.")] = None,
    printing: Printing,
) -> None:
    """Prove that a converted file is the same network; exit 1 unless that is proven."""
    from densenet_port.prove import images as probes
    from densenet_port.prove import parity
    from densenet_port.prove import report as reports

    refuse_stdout("--save-reference", save_reference, "write to a file: --save-reference reference.npz")
    refuse_stdout("--report", report, "name a folder for its four files; --json prints what report.json has")
    result = parity.check(
        converted,
        against=against,
        src=mapping or src,
        kernels=kernels,
        within=within,
        contract=contract.entries,
        output_name=output_name,
        ignore_inheritance=ignore_inheritance,
        reference=reference,
        backend=backend,
        sizes=tuple(size) if size else probes.SIZES,
        batch=batch,
        images=images,
        seed=seed,
        limit=limit,
        save_reference=save_reference,
        trust_code=trust_code,
    )
    if report is not None:
        reports.write(result, report)
    notes = [f"note: {note}" for note in result.notes]
    printing.show("check", lambda: reports.to_json(result), lambda: reports.terminal(result), cautions=notes)
    raise typer.Exit(0 if result.proven else 1)


@app.command()
@grouped
def diagnose(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    *,
    against: Against = None,
    reference: Reference = None,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    contract: ContractWords,
    ignore_inheritance: IgnoreInheritance = False,
    backend: BackendOption = "numpy",
    trust_code: TrustCode = False,
    printing: Printing,
) -> None:
    """Say which known mistake explains a difference, and on which units; exit 1 when there is one."""
    from densenet_port.prove.parity import diagnose as explain

    result = explain(
        converted,
        against=against,
        src=mapping or src,
        kernels=kernels,
        within=within,
        contract=contract.entries,
        output_name=output_name,
        ignore_inheritance=ignore_inheritance,
        reference=reference,
        backend=backend,
        trust_code=trust_code,
    )
    printing.show("diagnose", lambda: _diagnosis_json(result), lambda: _diagnosis_text(result))
    raise typer.Exit(0 if result.passed else 1)


def _diagnosis_json(result: "Parity") -> dict[str, Any]:
    findings = list(result.diagnosis)
    verdict = {"grade": result.grade, "passed": result.passed, "undecided": result.undecided}
    return {**verdict, "where": result.where, "off": result.off, "findings": findings}


def _diagnosis_text(result: "Parity") -> str:
    if result.undecided is not None:
        return f"cannot be judged: {result.undecided}"
    if result.passed:
        same = "the same network: nothing to explain"
        return same if result.proven else f"the numbers agree: nothing to explain\n  not proven: {result.dependence}"
    place = f"first off: {result.where or 'nowhere alone'}, on the side of the {result.off or 'port'}"
    if all(check.passed or check.kind == "preparation" for check in result.checks):
        place = "its logits agree, of pictures that are prepared alike"
    lines = [f"not the same network; {place}"]
    for finding in result.diagnosis:
        lines.append(f"  {finding['mistake']}: {finding['says']}")
    if not result.diagnosis:
        lines.append("  no known mistake explains it")
    return "\n".join(lines)


@app.command()
@grouped
def record(
    factory: Annotated[str, typer.Argument(help="package.module:factory, a class or function without arguments.")],
    *,
    weights: Annotated[Path, typer.Option(help="The checkpoint, whose weights the model gets.")],
    out: Annotated[Path, typer.Option(help="Where to (.npz).")] = Path("reference.npz"),
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    mapping: Table = None,
    contract: ContractWords,
    size: Sizes = None,
    batch: Annotated[int, typer.Option(help="Images of noise at each size.")] = 2,
    images: Annotated[Path | None, typer.Option(help="A folder of your own pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Limit = 600.0,
    printing: Printing,
) -> None:
    """Record what your own class answers, for check --reference: your module is imported and runs."""
    from densenet_port.prove.factory import Words, record_factory

    refuse_stdout("--out", out, "write to a file: --out reference.npz")
    source = mapping or src
    words = Words(
        factory=factory,
        weights=str(weights),
        out=str(out),
        src=None if source is None else str(source),
        kernels=kernels,
        within=within,
        sizes=tuple(size) if size else None,
        batch=batch,
        images=None if images is None else str(images),
        seed=seed,
    )
    recording = record_factory(words, contract=contract.entries, limit=limit)
    printing.show(
        "record",
        lambda: _recording_json(recording, out),
        lambda: _recording_text(recording, out),
        cautions=_recording_notes(recording),
    )


def _recording_json(recording: "Recording", out: Path) -> dict[str, Any]:
    return {
        "path": str(out),
        "bytes": out.stat().st_size,
        "name": recording.metadata["name"],
        "versions": recording.metadata["versions"],
        "read_by": recording.read_by,
        "architecture": recording.metadata["architecture"],
        "source": {key: recording.metadata[key] for key in ("path", "sha256", "layout")},
        "probes": [{"name": probe.name, "images": len(probe.images)} for probe in recording.probes],
        "computed": dict(recording.computed),
        "units": [*recording.taps["float64"]],
        "seconds": round(recording.metadata["seconds"], 3),
    }


def _recording_text(recording: "Recording", out: Path) -> str:
    facts = recording.metadata
    units = f"{len(recording.taps['float64'])} of {len(recording.architecture.units)} units followed"
    lines = [
        f"{out}: recorded from {facts['name']}, {out.stat().st_size:,} bytes, {facts['seconds']:.1f} s",
        f"  {facts['layout']} {recording.architecture.name}, with the weights of {facts['path']}",
        f"  {', '.join(probe.name for probe in recording.probes)}; {units}",
        *(f"  {note}" for note in _recording_notes(recording)),
    ]
    return "\n".join(lines)


def _recording_notes(recording: "Recording") -> list[str]:
    """What whoever checks by a recording must know."""
    computed = recording.computed["float64"]
    if computed == "float64":
        return []
    return [f"note: it computes in {computed}, whatever it is given: a check by it cannot prove a port"]
