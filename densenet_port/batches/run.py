"""A batch: many files converted, on this machine or a cluster, each of them once, however often the run breaks off.

The journal in the batch's folder says of each file what became of it. A result that is there and not in the journal (a
run was killed between the two) is adopted where it is of that very source, by these settings, and whole: results are
the same bytes whenever they are written, so nothing is lost by it. A file that is bad is not tried again unless it has
changed; what the machine, the network or a way of calling was to blame for is.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_port.about import TOOL
from densenet_port.batches.sources import Source, listed
from densenet_port.batches.task import Converter, Job, Outcome, Settings, stamp
from densenet_port.conversion.convert import ending_of
from densenet_port.conversion.load import table
from densenet_port.conversion.write import Progress, silent
from densenet_port.errors import ComparisonError, CorruptError, DiskError, MisfitError, UsageError
from densenet_port.layouts.layout import Kernels, Layout, Ordering
from densenet_port.network.architecture import Architecture
from densenet_port.work.journal import Journal
from densenet_port.work.pool import Done

JOURNAL = "batch.jsonl"
SCHEMA = "densenet-port/batch/1"
LOST = "lost"  # the kind of error of a file whose worker ended; its exit code is that of the machine's
FINAL = (MisfitError.kind, CorruptError.kind, ComparisonError.kind)  # of what is the file's own fault
APART = ("force", "threads")  # settings that change no result


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What became of each file, in the order of the sources; `before` are those that an earlier run had done."""

    outcomes: tuple[Outcome, ...]
    before: int
    journal: Path

    @property
    def exit_code(self) -> int:
        """The highest of the files' codes: 0 where all are done, and proven where that was asked."""
        return max((outcome.exit_code for outcome in self.outcomes), default=0)


def batch(
    sources: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    ending: str | None = None,
    jobs: int | None = None,
    check: bool = False,
    resume: bool = False,
    ray: str | None = None,
    backend: str = "tensorflow",
    src: str | PathLike[str] | None = None,
    arch: str | None = None,
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
) -> Batch:
    """Convert many files into the folder `out`; one that fails stops no other, and `batch.jsonl` there tells of all.

    `sources` are files, folders, patterns, manifests and whatever else `convert` takes (`batches.sources` says which
    files, and where each result goes); `ending` is the results', without it the layout's usual one. `jobs` processes do
    one file at a time, as many as there are cores without it; on the Ray cluster at the address `ray` as many as fit.
    With `check` each port is checked against its source on `backend`. With `resume` the run that `out` has the journal
    of goes on: what is done stays, bad files too unless they changed, and the rest is done. The other words are as in
    `convert`, for every file that a manifest has no own for. Raises UsageError for what no file can be done with, and
    for a journal of other settings; DiskError where the journal is another run's, or cannot be written.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one process is needed")
    settings = Settings(
        dst=_absolute(dst),
        src=None if src is None else _absolute(src),
        arch=None if arch is None else Architecture.named(arch).spec,
        kernels=kernels,
        within=within,
        output_name=output_name,
        dst_kernels=dst_kernels,
        dim_ordering=dim_ordering,
        no_top=no_top,
        contract=dict(contract or {}),
        ignore_inheritance=ignore_inheritance,
        dtype=dtype,
        force=force,
        check=check,
        backend=backend,
        threads=1 if ray else max(1, cores // (jobs or cores)),
    )
    last = ending_of(dst, ending)
    named = [sources] if isinstance(sources, str | PathLike) else sources
    targets = listed(named, Path(out), last)
    with Journal(Path(out) / JOURNAL, _head(settings, last), resume=resume) as journal:
        outcomes = {key: old for key, old in _latest(journal.entries).items() if key in map(str, targets)}
        todo = [job for job in _jobs(targets, outcomes) if not _is_final(outcomes.get(job.out), job)]
        before = len(targets) - len(todo)
        progress(before, len(targets))
        for number, done in enumerate(_done(todo, settings, jobs if ray else jobs or cores, ray), before + 1):
            outcome = Outcome.from_json(done.result) if done.result else _lost(done)
            journal.append(outcome.to_json())
            outcomes[outcome.out] = outcome
            progress(number, len(targets))
    return Batch(outcomes=tuple(outcomes[str(out)] for out in targets), before=before, journal=journal.path)


def _absolute(layout: str | PathLike[str]) -> str | Path:
    """A layout's name, or the absolute path of a table."""
    place = table(layout)
    return place.absolute() if isinstance(place, Path) else place


def _head(settings: Settings, ending: str) -> dict[str, Any]:
    """The head of the journal: what every result depends on."""
    words = {key: value for key, value in asdict(settings).items() if key not in APART}
    words["contract"] = {
        key: value.to_json() if hasattr(value, "to_json") else value for key, value in settings.contract.items()
    }
    tables = {str(name): Layout.load(name).digest for name in (settings.dst, settings.src) if isinstance(name, Path)}
    words |= {key: str(words[key]) for key in ("dst", "src") if isinstance(words[key], Path)}
    return {"schema": SCHEMA, "tool": TOOL, "settings": {**words, "ending": ending}, "tables": tables}


def _latest(entries: Sequence[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Result → what became of it in the end. Raises CorruptError for a line that tells of none."""
    try:
        return {entry["out"]: Outcome.from_json(entry) for entry in entries}
    except (KeyError, TypeError) as error:
        hint = "name another --out, and begin anew"
        raise CorruptError(f"{JOURNAL}: a line tells of no file: {error}", hint=hint) from error


def _jobs(targets: Mapping[Path, Source], outcomes: Mapping[str, Outcome]) -> Iterator[Job]:
    """What is to be done, with what an earlier run wrote."""
    for out, source in targets.items():
        written = outcomes[str(out)].out_record if str(out) in outcomes else None
        yield Job(source=source.path, out=str(out), words=source.words, written=written)


def _is_final(old: Outcome | None, job: Job) -> bool:
    """Whether nothing is left to do: the same file is done, and its result there, or it is bad."""
    if old is None or (old.source, old.words) != (job.source, job.words) or old.stamp != stamp(job.source):
        return False
    return old.error["kind"] in FINAL if old.error else Path(job.out).exists()


def _done(todo: Sequence[Job], settings: Settings, jobs: int | None, ray: str | None) -> Iterator[Done[Job]]:
    """What becomes of each file, as it is done."""
    make = partial(Converter, settings)
    if ray is not None:
        from densenet_port.work import cluster  # noqa: PLC0415 (only a cluster needs it)

        return cluster.run(todo, make, address=ray, jobs=jobs)
    from densenet_port.work import pool  # noqa: PLC0415 (as the other)

    return pool.run(todo, make, jobs=jobs or 1, threads=1)


def _lost(done: Done[Job]) -> Outcome:
    """The outcome of a file whose worker was lost."""
    job, error = done.item, {"kind": LOST, "exit_code": DiskError.exit_code, "message": done.lost, "hint": None}
    return Outcome(source=job.source, out=job.out, words=job.words, stamp=stamp(job.source), error=error)
