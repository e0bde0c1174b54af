"""Commands that read and write checkpoints: convert, inspect, diff."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from densenet_port.cli.base import (
    KERNELS,
    ORDERINGS,
    Arch,
    AsJson,
    Epsilon,
    HeadPool,
    IgnoreInheritance,
    InputOption,
    KernelsOption,
    Output,
    OutputName,
    PoolRounding,
    Src,
    StemPadding,
    StemPool,
    StemStride,
    Table,
    Within,
    app,
    bar,
    choice,
    contract_line,
    contract_words,
    numbers,
    rows,
    show,
)
from densenet_port.errors import MisfitError, UsageError

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
def convert(
    checkpoint: Annotated[Path | None, typer.Argument(help="The file; without it, the registered one.")] = None,
    src: Src = None,
    arch: Arch = None,
    dst: Annotated[str, typer.Option(help="The layout to write, or a mapping table of your own (.toml).")] = "keras",
    out: Annotated[Path | None, typer.Option(help="Where to; the ending decides the container.")] = None,
    no_top: Annotated[bool, typer.Option("--no-top", help="Leave the head out.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, float16 or float64.")] = "float32",
    kernels: KernelsOption = None,
    within: Within = None,
    dst_kernels: Annotated[
        str | None, typer.Option(help="theano or tensorflow: how to store the kernels, where the layout has both.")
    ] = None,
    dim_ordering: Annotated[
        str | None, typer.Option(help="th or tf: out channels first or last, where the layout has both.")
    ] = None,
    output_name: OutputName = None,
    mapping: Table = None,
    epsilon: Epsilon = None,
    stem_stride: StemStride = None,
    stem_padding: StemPadding = None,
    stem_pool: StemPool = None,
    pool_rounding: PoolRounding = None,
    head_pool: HeadPool = None,
    output: Output = None,
    picture: InputOption = None,
    ignore_inheritance: IgnoreInheritance = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Translate a checkpoint into another layout, every tensor accounted for."""
    from densenet_port.conversion.convert import convert as convert_file
    from densenet_port.network.architecture import Architecture

    started = perf_counter()
    architecture = Architecture.named(arch) if arch else None
    path = checkpoint or _registered(src, architecture)
    target = out or (None if dry_run else Path(_stem(path) + _default_ending(dst)))
    with bar("converting") as progress:
        done = convert_file(
            path,
            out=None if dry_run else target,
            src=mapping or (src if checkpoint else _layout(src)),
            arch=architecture,
            dst=dst,
            kernels=choice("--kernels", kernels, KERNELS),
            within=within,
            dst_kernels=choice("--dst-kernels", dst_kernels, KERNELS),
            dim_ordering=choice("--dim-ordering", dim_ordering, ORDERINGS),
            no_top=no_top,
            output_name=output_name,
            contract=contract_words(
                epsilon, stem_stride, stem_padding, stem_pool, pool_rounding, head_pool, output, picture
            ),
            ignore_inheritance=ignore_inheritance,
            dtype=dtype,
            force=force,
            progress=progress,
        )
    seconds = perf_counter() - started
    show(
        "convert",
        as_json,
        lambda: {**_conversion_json(done, target), "seconds": round(seconds, 3)},
        lambda: _conversion_text(done, seconds),
    )


def _registered(src: str | None, architecture: "Architecture | None") -> Path:
    """The registered file for `--src` and `--arch`, when no checkpoint is named."""
    from densenet_port.conversion.load import port
    from densenet_port.fetch.registry import registered

    if src is None or architecture is None:
        raise UsageError("no CHECKPOINT given", hint="name a file; or give --src and --arch to take the registered one")
    with bar("downloading") as progress:
        return registered(src, architecture, port=port, progress=progress)


def _layout(src: str | None) -> str | None:
    """The layout of the files of a registered source, which "imagenet" leaves to the file."""
    from densenet_port.fetch.registry import IMAGENET

    return None if src == IMAGENET else src


def _stem(path: Path) -> str:
    """The file's name without the endings of any container."""
    return re.sub(r"(\.(weights\.h5|h5|hdf5|keras|safetensors|pth\.tar|pth|pt|bin|ckpt|tar))+$", "", path.name)


def _default_ending(dst: str) -> str:
    """The ending that a layout is usually written with."""
    from densenet_port.conversion.load import table
    from densenet_port.layouts.layout import Layout

    return Layout.load(table(dst)).containers[0]


def _counted_rules(ignored: Mapping[str, str]) -> dict[str, int]:
    """Rule → number of tensors that it lets be ignored."""
    counts: dict[str, int] = {}
    for rule in ignored.values():
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def _conversion_json(done: "Conversion", target: Path | None) -> dict[str, Any]:
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
            "would_be": None if done.out or target is None else str(target),
            "layout": done.target.name,
            "bytes": done.out.stat().st_size if done.out else None,
        },
        "tensors": dict(done.record["tensors"]),
        "notes": list(done.notes),
    }


def _conversion_text(done: "Conversion", seconds: float) -> str:
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
        size = done.out.stat().st_size
        lines.append(f"{done.out}: {done.target.name}, {size:,} bytes, {seconds:.2f} s")
    else:
        lines.append(f"nothing written (--dry-run); it would be {done.target.name}")
    return "\n".join(lines)


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
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    src: Src = None,
    kernels: KernelsOption = None,
    within: Within = None,
    output_name: OutputName = None,
    mapping: Table = None,
    epsilon: Epsilon = None,
    stem_stride: StemStride = None,
    stem_padding: StemPadding = None,
    stem_pool: StemPool = None,
    pool_rounding: PoolRounding = None,
    head_pool: HeadPool = None,
    output: Output = None,
    picture: InputOption = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Also what its running statistics say, question by question.")
    ] = False,
    evidence_picture: Annotated[
        Path | None, typer.Option(help="Draw each unit's mean, as predicted and as stored, into this file (.svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a checkpoint's container, layout, architecture, contract, what its statistics say, and its tensors."""
    from densenet_port import formats
    from densenet_port.conversion.load import read

    checkpoint = formats.read(file, output=output_name)
    word = choice("--kernels", kernels, KERNELS)
    network, misfit = None, None
    try:
        words = contract_words(epsilon, stem_stride, stem_padding, stem_pool, pool_rounding, head_pool, output, picture)
        network = read(
            checkpoint, src=mapping or src, kernels=word, within=within, contract=words, ignore_inheritance=True
        )
    except MisfitError as error:
        misfit = error
    if evidence_picture:
        _draw(network, evidence_picture)
    entries = _entries(checkpoint, network)
    show(
        "inspect",
        as_json,
        lambda: _inspection_json(checkpoint, network, misfit, entries),
        lambda: _inspection_text(checkpoint, network, misfit, entries, evidence=evidence),
    )


def _draw(network: "Network | None", out: Path) -> None:
    """Draw what the moments of a network predict. Raises UsageError where there is nothing to draw."""
    from densenet_port.cli.evidence import picture
    from densenet_port.files import whole

    if network is None or network.witness is None or network.witness.line is None:
        raise UsageError("--evidence-picture: no evidence in its running statistics, and nothing to draw")
    with whole(out) as temporary:
        temporary.write_text(picture(network), encoding="utf-8")


def _entries(checkpoint: "Checkpoint", network: "Network | None") -> list[Entry]:
    """Every tensor of a file, with what became of it."""
    from densenet_port.checkpoint import array_digest

    slots = {claim.name: str(key) for key, claim in network.ledger.claims.items()} if network else {}
    ignored = network.ledger.ignored if network else {}
    return [
        Entry(name, slots.get(name), ignored.get(name), tensor.shape, tensor.dtype, array_digest(tensor.load()))
        for name, tensor in checkpoint.tensors.items()
    ]


def _inspection_json(
    checkpoint: "Checkpoint", network: "Network | None", misfit: MisfitError | None, entries: Sequence[Entry]
) -> dict[str, Any]:
    return {
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
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
    size = checkpoint.path.stat().st_size
    lines = [f"{checkpoint.path}: {checkpoint.container}, {size:,} bytes, {len(entries)} tensors"]
    if network:
        under = f", under {network.ledger.prefix!r}" if network.ledger.prefix else ""
        lines.append(f"{network.layout} {network.architecture.name}{under}")
        lines.append(contract_line(network.architecture, network.contract))
        lines.append(", ".join(f"{entry} by {origin}" for entry, origin in network.origins.items()))
        lines += _wiring(network)
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
        digest = hashlib.sha256("".join(entry.sha256 for entry in group).encode()).hexdigest()
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
def diff(
    first: Annotated[Path, typer.Argument(help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(help="Another one, of any layout.")],
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints of any layouts, tensor by tensor; exit 1 when they differ."""
    from densenet_port.conversion.compare import diff as compare

    difference = compare(first, second)
    show("diff", as_json, lambda: _difference_json(difference), lambda: _difference_text(difference))
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
