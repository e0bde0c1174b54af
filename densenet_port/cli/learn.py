"""The command that writes the table of a file which no table of ours reads: learn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import (
    KERNELS,
    AsJson,
    Epsilon,
    HeadPool,
    InputOption,
    KernelsOption,
    Output,
    OutputName,
    PoolRounding,
    StemPadding,
    StemPool,
    StemStride,
    Within,
    app,
    choice,
    contract_words,
    numbers,
    show,
)

if TYPE_CHECKING:
    from densenet_port.conversion.learn import Learned


@app.command()
def learn(
    file: Annotated[Path, typer.Argument(help="A checkpoint whose names no table of ours has.")],
    out: Annotated[Path, typer.Option(help="Where the table goes (.toml); its layout is called as the file.")],
    kernels: KernelsOption = None,
    within: Within = None,
    no_top: Annotated[bool, typer.Option("--no-top", help="Leave the head out: a table of bodies.")] = False,
    output_name: OutputName = None,
    epsilon: Epsilon = None,
    stem_stride: StemStride = None,
    stem_padding: StemPadding = None,
    stem_pool: StemPool = None,
    pool_rounding: PoolRounding = None,
    head_pool: HeadPool = None,
    output: Output = None,
    picture: InputOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing table, and learn from a file that a table reads.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the mapping table of a file, with what is proven and what is assumed in its comments."""
    from densenet_port.conversion.learn import learn as learn_from

    learned = learn_from(
        file,
        out=out,
        kernels=choice("--kernels", kernels, KERNELS),
        within=within,
        no_top=no_top,
        output_name=output_name,
        contract=contract_words(
            epsilon, stem_stride, stem_padding, stem_pool, pool_rounding, head_pool, output, picture
        ),
        force=force,
    )
    show("learn", as_json, lambda: _json(learned), lambda: _text(learned))


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


def _text(learned: "Learned") -> str:
    """Where the table is, what of it is proven and what is assumed, and the next step."""
    network, path = learned.network, learned.network.checkpoint.path
    lines = [f"{path}: {network.layout} {network.architecture.name} ({network.checkpoint.container})"]
    if learned.outside:
        lines.append(f"  its names stand behind {learned.outside!r} in the file, and without it in the table")
    lines += [f"  proven: {text}" for text in learned.proven]
    lines += [f"  stated: {text}" for text in learned.stated]
    lines += [f"  ASSUMED: {text}" for text in learned.assumed]
    lines.append(f"{learned.out}: the table of the layout {learned.layout.name}, for --mapping {learned.out}")
    if learned.assumed:
        lines.append("look up in the network's own code what is assumed, and take it out of the table's `assumed`")
    return "\n".join(lines)
