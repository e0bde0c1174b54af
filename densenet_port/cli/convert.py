"""Commands that read and write checkpoints: convert, inspect, diff."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from densenet_port.cli.base import STDOUT, Printing, app, contract_line, numbers, print_text, refuse_stdout, rows
from densenet_port.cli.options import (
    Arch,
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
    Src,
    Table,
    Within,
    grouped,
)
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import sha256, stem

if TYPE_CHECKING:
    from densenet_port.checkpoint import Checkpoint
    from densenet_port.conversion.compare import Difference
    from densenet_port.conversion.load import Network
    from densenet_port.conversion.write import Conversion
    from densenet_port.network.architecture import Architecture

LONG = ("config", "modules")  # entries of a file's metadata that nobody reads as such
FEW = 4  # numbers with gaps that are listed one by one


# -- convert -----------------------------------------------------------------------------------------------------------


@app.command()
@grouped
def convert(
    checkpoint: Annotated[
        list[Path] | None, typer.Argument(help="The file, or several; without one, the registered one.")
    ] = None,
    *,
    src: Src = None,
    arch: Arch = None,
    dst: Dst = "keras",
    out: Annotated[
        str | None,
        typer.Option(
            help="Where to; the ending decides the container, folder/ is timm's or KerasHub's.", metavar="<path>"
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="The folder where each file goes by its own name, with another ending.")
    ] = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    force: Force = False,
    printing: Printing,
) -> None:
    """Translate a checkpoint into another layout, every tensor accounted for; or several, each by itself."""
    from densenet_port.cli import converted
    from densenet_port.conversion.convert import convert as convert_file
    from densenet_port.conversion.convert import ending_of
    from densenet_port.network.architecture import Architecture

    architecture = Architecture.named(arch) if arch else None
    sources = checkpoint or [_registered(src, architecture, printing)]
    _check_places(sources, out, out_dir, ending)
    targets = {out: sources[0]} if out else _targets(sources, out_dir or Path(), ending_of(dst, ending))
    entries = contract.entries

    def convert_one(source: Path, target: str) -> "Conversion":
        with printing.bar("converting") as progress:
            return convert_file(
                source,
                out=None if dry_run else target,
                src=mapping or (src if checkpoint else _layout(src)),
                arch=architecture,
                dst=dst,
                kernels=kernels,
                within=within,
                dst_kernels=dst_kernels,
                dim_ordering=dim_ordering,
                no_top=no_top,
                output_name=output_name,
                contract=entries,
                ignore_inheritance=ignore_inheritance,
                dtype=dtype,
                force=force,
                progress=progress,
            )

    if len(sources) == 1 and out_dir is None:
        converted.one(convert_one, targets, printing)
    else:
        raise typer.Exit(converted.several(convert_one, targets, None if dry_run else out_dir, printing))


def _registered(src: str | None, architecture: "Architecture | None", printing: Printing) -> Path:
    """The registered file for `--src` and `--arch`, when no checkpoint is named."""
    from densenet_port.conversion.load import port
    from densenet_port.fetch.registry import registered

    if src is None or architecture is None:
        raise UsageError("no CHECKPOINT given", hint="name a file; or give --src and --arch to take the registered one")
    with printing.bar("downloading") as progress:
        return registered(src, architecture, port=port, progress=progress)


def _layout(src: str | None) -> str | None:
    """The layout of the files of a registered source, which "imagenet" leaves to the file."""
    from densenet_port.fetch.registry import IMAGENET

    return None if src == IMAGENET else src


def _check_places(sources: Sequence[Path], out: str | None, out_dir: Path | None, ending: str | None) -> None:
    """Refuse places that contradict each other, and stdout. Raises UsageError."""
    if out is None:
        return
    refuse_stdout("--out", out, "name a file; without --out its name is that of the checkpoint, with another ending")
    if len(sources) > 1:
        raise UsageError(f"--out {out}: {len(sources)} files cannot be one", hint="name a folder: --out-dir DIR")
    if out_dir is not None or ending is not None:
        hint = "leave out --out, or --out-dir and --ending"
        raise UsageError(f"--out {out}: says the folder and the ending already", hint=hint)


def _targets(sources: Sequence[Path], folder: Path, ending: str) -> dict[str, Path]:
    """Where each file goes → the file. Raises UsageError for two that would go to one place."""
    targets: dict[str, Path] = {}
    for source in sources:
        target = str(folder / (stem(source) + ending))
        if target in targets:
            hint = "convert one of them by itself, with --out"
            raise UsageError(f"{targets[target]} and {source} would both be written as {target}", hint=hint)
        targets[target] = source
    return targets


# -- inspect -----------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One tensor of a file: its name, the slot that it fills or the rule that ignores it, and what it is."""

    name: str
    slot: str | None
    ignored: str | None
    shape: tuple[int, ...]
    dtype: str
    sha256: str


@app.command()
@grouped
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    *,
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    contract: ContractWords,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Also what its running statistics say, question by question.")
    ] = False,
    evidence_picture: Annotated[
        Path | None,
        typer.Option(help="Draw each unit's mean, as predicted and as stored, into this file (.svg; - is stdout)."),
    ] = None,
    printing: Printing,
) -> None:
    """Show a checkpoint's container, layout, architecture, contract, what its statistics say, and its tensors."""
    from densenet_port.conversion.load import port, read
    from densenet_port.conversion.opening import opened

    file_of_text = printing.beside("--evidence-picture", evidence_picture)
    checkpoint = opened(file, port=port, output=output_name)
    network, misfit = None, None
    try:
        network = read(
            checkpoint,
            src=mapping or src,
            kernels=kernels,
            within=within,
            contract=contract.entries,
            ignore_inheritance=True,
        )
    except MisfitError as error:
        misfit = error
    if evidence_picture:
        _draw(network, evidence_picture)
    entries = _entries(checkpoint, network)
    printing.show(
        "inspect",
        lambda: _inspection_json(checkpoint, network, misfit, entries),
        lambda: _inspection_text(checkpoint, network, misfit, entries, evidence=evidence),
        file=file_of_text,
    )


def _draw(network: "Network | None", out: Path) -> None:
    """Draw what the moments of a network predict. Raises UsageError where there is nothing to draw."""
    from densenet_port.cli.evidence import picture
    from densenet_port.files import whole

    if network is None or network.witness is None or network.witness.line is None:
        raise UsageError("--evidence-picture: no evidence in its running statistics, and nothing to draw")
    drawn = picture(network)
    if str(out) == STDOUT:
        print_text(drawn)
        return
    with whole(out) as temporary:
        temporary.write_text(drawn, encoding="utf-8")


def _entries(checkpoint: "Checkpoint", network: "Network | None") -> list[Entry]:
    """Every tensor of a file, with what became of it."""
    from densenet_port.checkpoint import array_digest

    slots = {claim.name: str(key) for key, claim in network.ledger.claims.items()} if network else {}
    ignored = network.ledger.ignored if network else {}
    return [
        Entry(name, slots.get(name), ignored.get(name), tensor.shape, tensor.dtype, array_digest(tensor.load()))
        for name, tensor in checkpoint.tensors.items()
    ]


def _bytes(checkpoint: "Checkpoint") -> int:
    """Bytes of the files that a checkpoint is made of."""
    return sum(part.stat().st_size for part in checkpoint.parts or (checkpoint.path,))


def _inspection_json(
    checkpoint: "Checkpoint", network: "Network | None", misfit: MisfitError | None, entries: Sequence[Entry]
) -> dict[str, Any]:
    return {
        "file": str(checkpoint.path),
        "bytes": _bytes(checkpoint),
        "container": checkpoint.container,
        "layout": network.layout if network else None,
        "prefix": network.ledger.prefix if network else None,
        "architecture": numbers(network.architecture) if network else None,
        "contract": network.contract.to_json() if network else None,
        "origins": dict(network.origins) if network else None,
        "statistics": network.witness.to_json() if network and network.witness else None,
        "misfit": {"message": misfit.message, "hint": misfit.hint} if misfit else None,
        "metadata": {key: value for key, value in checkpoint.metadata.items() if key not in LONG},
        "written_by": (checkpoint.record or {}).get("tool"),
        "tensors": [{**entry._asdict(), "shape": list(entry.shape)} for entry in entries],
    }


def _inspection_text(
    checkpoint: "Checkpoint",
    network: "Network | None",
    misfit: MisfitError | None,
    entries: Sequence[Entry],
    *,
    evidence: bool,
) -> list[Any]:
    """What the file is, and its tensors, alike ones in one row."""
    lines = [f"{checkpoint.path}: {checkpoint.container}, {_bytes(checkpoint):,} bytes, {len(entries)} tensors"]
    if network:
        under = f", under {network.ledger.prefix!r}" if network.ledger.prefix else ""
        lines.append(f"{network.layout} {network.architecture.name}{under}")
        lines.append(contract_line(network.architecture, network.contract))
        lines.append(", ".join(f"{entry} by {origin}" for entry, origin in network.origins.items()))
        lines += [*_wiring(network), *(f"note: {note}" for note in checkpoint.metadata.get("notes", ()))]
    elif misfit:
        lines += [misfit.message, *([misfit.hint] if misfit.hint else [])]
    if writer := (checkpoint.record or {}).get("tool"):
        lines.append(f"written by {writer}")
    parts: list[Any] = ["\n".join(lines), ""]
    if evidence and network and network.witness:
        from densenet_port.cli.evidence import tables

        parts += tables(network.witness)
    used = [entry for entry in entries if entry.slot]
    rest = [entry for entry in entries if not entry.slot]
    if used:
        parts.append(rows(("ours", "theirs", "tensors", "dtype", "shape", "digest"), _collapsed(used)))
    if rest:
        title = "left over" if used else "tensors"
        parts += ["", rows((title, "rule", "tensors", "dtype", "shape", "digest"), _collapsed(rest))]
    return parts


def _wiring(network: "Network") -> list[str]:
    """What a network's statistics say of its wiring, and what they contradict."""
    if network.witness is None:
        return []
    wiring = network.witness.line or "no evidence: its running statistics are nobody's training's, or of too few norms"
    return [f"wiring: {wiring}", *(f"contradiction: {text}" for text in network.witness.contradictions)]


def _collapsed(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """Rows of tensors that differ in their running numbers only, in the order of their first."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.slot:
            name = re.sub(r"(block|layer|transition)\d+", r"\1#", entry.slot)
        else:
            name = re.sub(r"\d+", "#", entry.name)
        groups.setdefault((name, str(entry.ignored), entry.dtype), []).append(entry)
    return [_collapsed_row(group) for group in groups.values()]


def _collapsed_row(group: Sequence[Entry]) -> tuple[Any, ...]:
    first = group[0]
    digest = first.sha256
    if len(group) > 1:
        digest = sha256("".join(entry.sha256 for entry in group).encode())
    names = _ranges([entry.name for entry in group])
    shape = " ".join(_range(sizes) for sizes in zip(*(entry.shape for entry in group), strict=False)) or "scalar"
    if first.slot:
        leading = _ranges([str(entry.slot) for entry in group]), names
    else:
        leading = names, first.ignored or "no line claims it"
    return (*leading, len(group), first.dtype, shape, digest[:12])


def _ranges(names: Sequence[str]) -> str:
    """Names alike but for their numbers, as one: `block{1…4}.layer{1…24}.norm1`."""
    split = [re.split(r"(\d+)", name) for name in names]
    if len({len(parts) for parts in split}) > 1:
        return f"{names[0]} …"
    columns = zip(*split, strict=True)
    return "".join(_range([int(p) for p in column]) if column[0].isdigit() else column[0] for column in columns)


def _range(values: Sequence[int]) -> str:
    """One number, or several as `{1…4}`, or a few with gaps as `{1,3}`."""
    distinct = sorted(set(values))
    if len(distinct) == 1:
        return str(distinct[0])
    if len(distinct) > FEW or distinct[-1] - distinct[0] == len(distinct) - 1:
        return f"{{{distinct[0]}…{distinct[-1]}}}"
    return f"{{{','.join(map(str, distinct))}}}"


# -- diff --------------------------------------------------------------------------------------------------------------


@app.command()
@grouped
def diff(
    first: Annotated[Path, typer.Argument(help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(help="Another one, of any layout.")],
    *,
    printing: Printing,
) -> None:
    """Compare two checkpoints of any layouts, tensor by tensor; exit 1 when they differ."""
    from densenet_port.conversion.compare import diff as compare

    difference = compare(first, second)
    printing.show("diff", lambda: _difference_json(difference), lambda: _difference_text(difference))
    raise typer.Exit(0 if difference.same else 1)


def _difference_json(difference: "Difference") -> dict[str, Any]:
    return {
        "same": difference.same,
        "files": [str(network.checkpoint.path) for network in (difference.first, difference.second)],
        "layouts": [difference.first.layout, difference.second.layout],
        "identical": difference.identical,
        "differing": [{"slot": str(d.slot), "absolute": d.absolute, "ulps": d.ulps} for d in difference.differing],
        "only": [[str(slot) for slot in slots] for slots in (difference.only_first, difference.only_second)],
        "contracts": {key: list(pair) for key, pair in difference.contracts.items()},
    }


def _difference_text(difference: "Difference") -> list[Any]:
    first, second = difference.first, difference.second
    lines = [
        f"{first.checkpoint.path} ({first.layout}) and {second.checkpoint.path} ({second.layout})",
        f"{difference.identical} tensors identical, {len(difference.differing)} differ",
    ]
    lines += [f"{key}: {old} and {new}" for key, (old, new) in difference.contracts.items()]
    lines += [f"only in {first.checkpoint.path}: {slot}" for slot in difference.only_first]
    lines += [f"only in {second.checkpoint.path}: {slot}" for slot in difference.only_second]
    parts: list[Any] = ["\n".join(lines)]
    if difference.differing:
        worst = sorted(difference.differing, key=lambda row: -row.ulps)
        cells = [(row.slot, f"{row.absolute:.3g}", f"{row.ulps:.3g}") for row in worst]
        parts += ["", rows(("slot", "largest difference", "in ULP"), cells)]
    return parts
