"""Commands that show that files are as they were written: verify, demo."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densenet_port.cli.base import Printing, app
from densenet_port.cli.options import grouped
from densenet_port.errors import PortError

if TYPE_CHECKING:
    from densenet_port.checkpoint import Checkpoint
    from densenet_port.conversion.demo import DemoResult
    from densenet_port.conversion.statistics import Witness
    from densenet_port.prove.checks import Check


@app.command()
@grouped
def verify(
    file: Annotated[Path, typer.Argument(help="A file that densenet-port wrote.")],
    *,
    golden: Annotated[
        Path | None, typer.Option(help="A saved reference; FILE.golden.npz is taken where it is.")
    ] = None,
    printing: Printing,
) -> None:
    """Check a converted file's digests, and its logits against golden ones; no framework."""
    from densenet_port.conversion.convert import verify as verify_digests

    checkpoint = verify_digests(file)
    witness = _witness(checkpoint)
    beside = golden or file.with_name(f"{file.name}.golden.npz")
    checks: list[Check] = []
    if golden or beside.is_file():
        from densenet_port.prove.parity import replay

        checks = replay(file, beside)
    passed = all(check.passed for check in checks)
    printing.show(
        "verify",
        lambda: {
            "file": str(file),
            "tensors": len(checkpoint.tensors),
            "golden": str(beside) if checks else None,
            "passed": passed,
            "statistics": witness.to_json() if witness else None,
            "checks": [asdict(check) for check in checks],
            "manifest": checkpoint.record,
        },
        lambda: _verification_text(checkpoint, witness, checks),
        cautions=_contradictions(witness),
    )
    raise typer.Exit(0 if passed else 1)


def _witness(checkpoint: "Checkpoint") -> "Witness | None":
    """What the file's statistics say; None where it is no network by itself."""
    from densenet_port.conversion.load import read

    try:
        return read(checkpoint, ignore_inheritance=True).witness
    except PortError:
        return None


def _verification_text(checkpoint: "Checkpoint", witness: "Witness | None", checks: Sequence["Check"]) -> str:
    lines = [f"{checkpoint.path}: {len(checkpoint.tensors)} tensors, every digest as written"]
    if witness and witness.line:
        lines += [f"  wiring: {witness.line}", *(f"  {line}" for line in _contradictions(witness))]
    for check in checks:
        verdict = "ok" if check.passed else "FAILED"
        lines.append(f"  {check.name}: {check.measured:.1e}, at most {check.bound:.1e}  {verdict}")
    return "\n".join(lines)


def _contradictions(witness: "Witness | None") -> list[str]:
    """What a file's statistics contradict, a line each."""
    return [f"contradiction: {text}" for text in witness.contradictions] if witness and witness.line else []


@app.command()
@grouped
def demo(*, printing: Printing) -> None:
    """Convert the small trained network that comes with the package, and show that it is still the same."""
    from densenet_port.conversion.demo import demo as run

    result = run()
    printing.show("demo", lambda: asdict(result), lambda: _demo_text(result))


def _demo_text(result: "DemoResult") -> str:
    accuracy = f"{result.accuracy_before:.2%} in PyTorch, {result.accuracy_after:.2%} converted"
    difference = f"{result.relative32:.1e} in float32, {result.relative64:.1e} in float64"
    lines = [
        f"a DenseNet trained on handwritten digits: {result.tensors} tensors, {result.parameters:,} values",
        "converted from torchvision's layout to Keras 3, every digest as written",
        f"accuracy on {result.images} digits that it never saw: {accuracy}",
        f"same answer for {result.agreeing} of {result.images}",
        f"largest logit difference, in deviations of the logits: {difference}",
        f"{result.seconds:.1f} s, no framework",
    ]
    return "\n".join(lines)
