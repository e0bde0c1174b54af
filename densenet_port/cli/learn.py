"""The command that writes the table of a file which no table of ours reads: learn."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import STDOUT, Printing, app, numbers, print_text
from densenet_port.cli.options import ContractWords, KernelsOption, OutputName, Within, grouped
from densenet_port.files import stem

if TYPE_CHECKING:
    from densenet_port.conversion.learn import Learned


@app.command()
@grouped
def learn(
    file: Annotated[Path, typer.Argument(help="A checkpoint whose names no table of ours has.")],
    *,
    out: Annotated[
        Path, typer.Option(help="Where the table goes (.toml; - is stdout); its layout is called as the file.")
    ],
    kernels: KernelsOption = None,
    within: Within = None,
    no_top: Annotated[bool, typer.Option("--no-top", help="Leave the head out: a table of bodies.")] = False,
    output_name: OutputName = None,
    contract: ContractWords,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing table, and learn from a file that a table reads.")
    ] = False,
    printing: Printing,
) -> None:
    """Write the mapping table of a file, with what is proven and what is assumed in its comments."""
    from densenet_port.conversion.learn import learn as learn_from

    rest = printing.beside("--out", out)
    with TemporaryDirectory() as folder:
        place = Path(folder, f"{stem(file)}.toml") if str(out) == STDOUT else out
        learned = learn_from(
            file,
            out=place,
            kernels=kernels,
            within=within,
            no_top=no_top,
            output_name=output_name,
            contract=contract.entries,
            force=force,
        )
        if str(out) == STDOUT:
            print_text(place.read_text(encoding="utf-8"))
    assumed = [f"ASSUMED: {text}" for text in learned.assumed]
    printing.show("learn", lambda: _json(learned), lambda: _text(learned, out), cautions=assumed, file=rest)


def _json(learned: "Learned") -> dict[str, Any]:
    network, layout = learned.network, learned.layout
    return {
        "file": str(network.checkpoint.path),
        "table": str(learned.out),
        "layout": layout.name,
        "architecture": numbers(network.architecture),
        "contract": network.contract.to_json(),
        "origins": dict(network.origins),
        "first": dict(layout.first_numbers),
        "units": {unit: patterns[0] for unit, patterns in layout.units.items()},
        "outside": learned.outside,
        "proven": list(learned.proven),
        "stated": list(learned.stated),
        "assumed": list(learned.assumed),
        "statistics": network.witness.to_json() if network.witness else None,
    }


def _text(learned: "Learned", out: Path) -> str:
    """Where the table is, what of it is proven and what is assumed, and the next step."""
    network, path = learned.network, learned.network.checkpoint.path
    lines = [f"{path}: {network.layout} {network.architecture.name} ({network.checkpoint.container})"]
    if learned.outside:
        lines.append(f"  its names stand behind {learned.outside!r} in the file, and without it in the table")
    lines += [f"  proven: {text}" for text in learned.proven]
    lines += [f"  stated: {text}" for text in learned.stated]
    lines += [f"  ASSUMED: {text}" for text in learned.assumed]
    if str(out) == STDOUT:
        name = learned.layout.name
        lines.append(f"stdout: the table of the layout {name}; keep it as {name}.toml, for --mapping {name}.toml")
    else:
        lines.append(f"{out}: the table of the layout {learned.layout.name}, for --mapping {out}")
    if learned.assumed:
        lines.append("look up in the network's own code what is assumed, and take it out of the table's `assumed`")
    return "\n".join(lines)
