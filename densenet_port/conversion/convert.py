"""One file into another: read, converted, written, and verified."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint, digest
from densenet_port.conversion.load import read, table
from densenet_port.conversion.write import Conversion, Progress, check_place, plan, silent, write_plan
from densenet_port.errors import ComparisonError
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
    progress: Progress = silent,
) -> Conversion:
    """Convert a checkpoint to another layout and write it to `out`; without `out` only say what would be done.

    `src`, `arch`, `kernels`, `within`, `no_top`, `output_name`, `contract` and `ignore_inheritance` are as in `read`;
    `dst` is a layout's name or a table of the user's own (a path), `dst_kernels` and the rest are as in `write.write`.
    Raises the errors of both.
    """
    path, place, target = Path(source), None if out is None else Path(out), Layout.load(table(dst))
    check_place(path, place, target, dtype, force=force)
    with ThreadPoolExecutor(1) as pool:  # hashing lets the interpreter go on
        checkpoint = formats.read(path, output=output_name, body=no_top)
        source_digest = pool.submit(digest, checkpoint)
        network = read(
            checkpoint,
            src=src,
            arch=arch,
            kernels=kernels,
            within=within,
            no_top=no_top,
            output_name=output_name,
            contract=contract,
            ignore_inheritance=ignore_inheritance,
        )
        planned = plan(network, target, dtype, dst_kernels, dim_ordering)
        return write_plan(planned, place, source_digest, pool, progress) if place else planned


def verify(path: str | PathLike[str]) -> Checkpoint:
    """The checkpoint in a file of ours, once every tensor's digest is the one in its record.

    Raises MisfitError for a file that carries none, ComparisonError that names the tensors that differ, CorruptError
    where beside it stands another companion than was written with it.
    """
    path = Path(path)
    checkpoint = formats.with_its_own(formats.as_it_is(path))
    wrong = differing(checkpoint)
    if wrong:
        lines = "\n".join(f"  {line}" for line in first_few(wrong))
        raise ComparisonError(f"{path}: {len(wrong)} tensors are not the ones that were written\n{lines}")
    return checkpoint
