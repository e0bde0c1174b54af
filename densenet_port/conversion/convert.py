"""One file into another: read, converted, written, and verified."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint, digest
from densenet_port.conversion.folder import Hashing, Options, check_folder, is_folder, write_folder
from densenet_port.conversion.load import port, read, table
from densenet_port.conversion.opening import opened
from densenet_port.conversion.write import Conversion, Progress, check_place, helper, plan, silent, write_plan
from densenet_port.errors import ComparisonError, UsageError, nearest
from densenet_port.formats.record import differing
from densenet_port.layouts.identify import first_few
from densenet_port.layouts.layout import Kernels, Layout, Ordering
from densenet_port.network.architecture import Architecture


def convert(
    source: str | PathLike[str],
    *,
    out: str | PathLike[str] | None,
    src: str | PathLike[str] | None = None,
    arch: str | Architecture | None = None,
    dst: str | PathLike[str] = "keras",
    kernels: Kernels | None = None,
    within: str | None = None,
    dst_kernels: Kernels | None = None,
    dim_ordering: Ordering | None = None,
    no_top: bool = False,
    output_name: str | None = None,
    contract: Mapping[str, Any] | None = None,
    ignore_inheritance: bool = False,
    dtype: str = "float32",
    force: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Conversion:
    """Convert a checkpoint to another layout and write it to `out`; without `out` only say what would be done.

    `src`, `arch`, `kernels`, `within`, `no_top`, `output_name`, `contract` and `ignore_inheritance` are as in `read`;
    `dst` is a layout's name or a table of the user's own (a path), `dst_kernels` and the rest are as in `write.write`.
    With `threads` 1 everything is done in this one, as is best where every core has a process that converts.
    Where `out` is a folder, or ends in a slash, the folder is written that the layout's software loads by itself (timm
    for torchvision, timm-blur and timm-deep; KerasHub). Raises the errors of both.
    """
    place, target = None if out is None else Path(out), Layout.load(table(dst))
    as_folder = out is not None and is_folder(out)
    if as_folder:
        check_folder(Path(source), place, target, force=force)
    else:
        check_place(Path(source), place, target, dtype, force=force)
    checkpoint = opened(source, port=port, output=output_name, body=no_top)
    with helper(threads) as pool:
        source_digest = pool.submit(digest, checkpoint)
        network = read(
            checkpoint,
            src=src,
            arch=arch,
            kernels=kernels,
            within=within,
            no_top=no_top,
            contract=contract,
            ignore_inheritance=ignore_inheritance,
        )
        options = Options(dtype, dst_kernels, dim_ordering)
        if place and as_folder:
            return write_folder(network, place, target, options, Hashing(source_digest, pool, progress), force=force)
        planned = plan(network, target, *options)
        return write_plan(planned, place, source_digest, pool, progress) if place else planned


def verify(path: str | PathLike[str]) -> Checkpoint:
    """The checkpoint in a file of ours, once every tensor's digest is the one in its record.

    Raises MisfitError for a file that carries none, ComparisonError that names the tensors that differ, CorruptError
    where beside it stands another companion than was written with it.
    """
    checkpoint = formats.with_its_own(opened(path, port=port, reader=formats.as_it_is))
    wrong = differing(checkpoint)
    if wrong:
        lines = "\n".join(f"  {line}" for line in first_few(wrong))
        raise ComparisonError(f"{path}: {len(wrong)} tensors are not the ones that were written\n{lines}")
    return checkpoint


def ending_of(dst: str | PathLike[str], ending: str | None) -> str:
    """The ending that is asked for, or the one that a layout is usually written with. Raises UsageError."""
    layout = Layout.load(table(dst))
    if ending is None:
        return layout.containers[0]
    dotted = f".{ending.lstrip('.')}"
    if dotted not in layout.containers:
        hint = f"{nearest(dotted, layout.containers)}known: {', '.join(layout.containers)}"
        raise UsageError(f"--ending {ending}: {layout.name} does not come as {dotted}", hint=hint)
    return dotted
