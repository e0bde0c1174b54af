"""What a worker does with one file of a batch: converts it, checks it, and says what became of it.

What it says is an object of plain JSON values, the file's line in the batch's journal (`Outcome`). A file that fails
has its error there, and nothing of it reaches another.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_port.checkpoint import Checkpoint, Tensor, digest
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.opening import is_remote
from densenet_port.conversion.write import Conversion
from densenet_port.errors import DiskError, PortError
from densenet_port.files import file_digest
from densenet_port.formats.record import DIGEST, REST
from densenet_port.layouts.layout import Kernels, Ordering

if TYPE_CHECKING:
    from densenet_port.prove.worker import Processes

INTERNAL, UNFORESEEN = "internal", 70  # kind and exit code of what nobody foresaw
NEW = (DIGEST, REST, "source", "tensors", "companion")  # entries of a record that are complete once a file is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is done with every file: all but the last three are words of `conversion.convert`, for those without own.

    With `check` each port is checked against its source on `backend`. `threads` are those that a conversion has, and
    either side of a check.
    """

    dst: str | Path = "keras"
    src: str | Path | None = None
    arch: str | None = None
    kernels: Kernels | None = None
    within: str | None = None
    output_name: str | None = None
    dst_kernels: Kernels | None = None
    dim_ordering: Ordering | None = None
    no_top: bool = False
    contract: Mapping[str, Any] = field(default_factory=dict)
    ignore_inheritance: bool = False
    dtype: str = "float32"
    force: bool = False
    check: bool = False
    backend: str = "tensorflow"
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file: its path or name, where its result goes, its own words, and the record that an earlier run wrote there.

    Of the record the digest (`Outcome.out_record`).
    """

    source: str
    out: str
    words: Mapping[str, str]
    written: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file.

    `source` and `out` are absolute paths, `words` those of this file alone. `stamp` is the source's size in bytes and
    its last change in nanoseconds since 1970, by which a later run sees that it is another; None for what is no file
    here. `sha256` is the source's digest in hex, `out_record` that of the result's record, which has those of all
    tensors (to hash the file once more would take a batch a tenth longer). `error` has `kind`, `exit_code`, `message`
    and `hint`, or is None; `evidence` has the `grade` of a check, why it is not better, and the reference's name.
    `adopted` says that the result was there already, whole, of this very source and by these settings.
    """

    source: str
    out: str
    words: Mapping[str, str]
    stamp: tuple[int, int] | None = None
    sha256: str | None = None
    layout: str | None = None
    architecture: str | None = None
    assumed: str | None = None
    notes: tuple[str, ...] = ()
    out_record: str | None = None
    adopted: bool = False
    error: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Outcome":
        """The outcome that a line of a journal tells; what this version does not know is left out."""
        known = {entry.name: line[entry.name] for entry in fields(cls) if entry.name in line}
        stamp = known.get("stamp")
        return cls(**{**known, "stamp": tuple(stamp) if stamp else None, "notes": tuple(known.get("notes", ()))})

    def to_json(self) -> dict[str, Any]:
        """The line of a journal."""
        return asdict(self)

    @property
    def exit_code(self) -> int:
        """The code of this file's error; 1 for a port that a check did not prove, else 0."""
        if self.error is not None:
            return int(self.error["exit_code"])
        return 0 if self.evidence is None or self.evidence["grade"] == "proven" else 1


class Converter:
    """Does what a batch does with one file after the other; tables and modules stay loaded."""

    def __init__(self, settings: Settings) -> None:
        """Keep what is done with each, and the frameworks that check."""
        self._settings = settings
        self._processes: Processes | None = None

    def __call__(self, job: Job) -> dict[str, Any]:
        """What becomes of a file, as a line of the journal."""
        started = time.perf_counter()
        outcome = Outcome(source=job.source, out=job.out, words=job.words, stamp=stamp(job.source))
        try:
            outcome = self._converted(job, outcome)
            if self._settings.check:
                outcome = replace(outcome, evidence=self._evidence(job))
        except Exception as error:  # noqa: BLE001 (a bad file never stops the rest)
            outcome = replace(outcome, error=error_of(error), sha256=outcome.sha256 or _digest(job.source))
        return replace(outcome, seconds=round(time.perf_counter() - started, 3)).to_json()

    def _converted(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome of a conversion, or of one that is found done. Raises as `convert` does."""
        settings, out, force = self._settings, Path(job.out), self._settings.force
        words: dict[str, Any] = {
            **{key: getattr(settings, key) for key in ("dst", "src", "arch", "kernels", "within", "output_name")},
            **{key: getattr(settings, key) for key in ("dst_kernels", "dim_ordering", "no_top", "contract", "dtype")},
            "ignore_inheritance": settings.ignore_inheritance,
            "threads": settings.threads,
            **job.words,
        }
        if out.exists():
            planned, there = convert(job.source, out=None, **words), _whole(out)
            record = (there and there.record) or {}
            if there and _is_as_planned(there, planned):
                return _told(replace(outcome, adopted=True), planned, record)
            force = force or (job.written is not None and job.written == record.get(DIGEST))
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(f"{out.parent}: cannot be made: {error.strerror}") from error
        done = convert(job.source, out=out, force=force, **words)
        return _told(outcome, done, done.record)

    def _evidence(self, job: Job) -> dict[str, Any]:
        """What a check of the port against its source says. Raises as `check` does."""
        from densenet_port.prove.parity import check  # noqa: PLC0415 (only a check pays for it)
        from densenet_port.prove.worker import Processes  # noqa: PLC0415

        settings = self._settings
        self._processes = self._processes or Processes(kept=True)
        words: dict[str, Any] = {key: getattr(settings, key) for key in ("src", "kernels", "within", "output_name")}
        parity = check(
            job.out,
            against=job.source,
            **{**words, **{key: value for key, value in job.words.items() if key in words}},
            contract=settings.contract,
            ignore_inheritance=settings.ignore_inheritance,
            backend=settings.backend,
            threads=settings.threads,
            processes=self._processes,
        )
        failed = ", ".join(check.name for check in parity.checks if not check.passed)
        return {
            "grade": parity.grade,
            "says": parity.undecided or failed or parity.dependence,
            "where": parity.where,
            "reference": parity.sides["reference"]["name"],
        }


def stamp(source: str) -> tuple[int, int] | None:
    """Bytes of a file, or of all in a folder, and the last change in nanoseconds since 1970; None where none is."""
    path = Path(source)
    try:
        stats = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path])]
    except OSError:
        return None
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def error_of(error: Exception) -> dict[str, Any]:
    """An exception as the journal has it; what nobody foresaw has exit code 70."""
    if isinstance(error, MemoryError):
        error = DiskError("there is not enough memory; nothing was left half written")
    elif isinstance(error, OSError):
        error = DiskError(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    if isinstance(error, PortError):
        return {"kind": error.kind, "exit_code": error.exit_code, "message": error.message, "hint": error.hint}
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"kind": INTERNAL, "exit_code": UNFORESEEN, "message": message, "hint": None}


def _told(outcome: Outcome, done: Conversion, record: Mapping[str, Any]) -> Outcome:
    """The outcome with what a conversion tells, and the record of what is written."""
    return replace(
        outcome,
        sha256=record["source"]["sha256"],
        layout=done.source.layout,
        architecture=done.source.architecture.name,
        assumed=done.assumption,
        notes=done.notes,
        out_record=record[DIGEST],
    )


def _whole(out: Path) -> Checkpoint | None:
    """A file of ours in which everything is as it was written; None for any other."""
    try:
        return verify(out)
    except PortError:
        return None


def _is_as_planned(there: Checkpoint, planned: Conversion) -> bool:
    """Whether a file is what the plan would write, from this very source."""
    old, new = dict(there.record or {}), json.loads(json.dumps(planned.record))
    if _rest(old) != _rest(new) or _stored(there.tensors) != _stored(planned.tensors):
        return False
    return bool(old["source"] == {**new["source"], "sha256": digest(planned.source.checkpoint)})


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Each tensor's shape and type."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _rest(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in NEW}


def _digest(source: str) -> str | None:
    """The digest of a file that failed; None where there is none."""
    with suppress(PortError):
        return None if is_remote(source) or not Path(source).is_file() else file_digest(Path(source))
    return None
