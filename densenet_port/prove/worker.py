"""The references: networks run by the frameworks themselves, in a process of their own.

Frameworks do not share a process well (TensorFlow before torch crashes, Keras has one backend for good), so `run`
writes a job into a temporary folder, starts `python -m densenet_port.prove.worker FOLDER`, and reads what it left:

    job.json    what to run          job.npz    the images, and weights that are no file's
    run.json    versions, digests    run.npz    logits, and the taps      error.json    or else a PortError

Starting a framework takes longer than running it: `run_all` gives one process several jobs. Runs use the CPU alone
(CUDA_VISIBLE_DEVICES is empty: a graphics card sums in another order, and in fewer bits), and TensorFlow is told to be
quiet. Torch reads a checkpoint with `weights_only=True`, so that no code from it runs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import DiskError, PortError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.keras_input import DataFormat
from densenet_port.network.units import Role, Slot
from densenet_port.prove.runners import RUNNERS, runner

BACKENDS = ("tensorflow", "torch", "jax")
PORT_ERRORS: list[type[PortError]] = [PortError, *PortError.__subclasses__()]
KINDS = {kind.kind: kind for kind in PORT_ERRORS}
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
STEMS = {  # the stems that the networks of torch's family can have
    "torchvision": ("imagenet",),
    "timm": ("imagenet", "deep"),
    "monai": ("imagenet",),
    "torchxrayvision": ("imagenet",),
}
LAST_LINES = 8  # of a dead process's stderr, shown to the user


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one network on images `n h w c`.

    - "torchvision", "timm", "monai", "torchxrayvision": their own DenseNet with the architecture's numbers, in
      evaluation mode, filled strictly with the state dict in `path` (what torch itself loads, or safetensors; whole
      modules by our own reader). `prefix` is what stands before the names in the file, wrapping dictionaries included
      (`state_dict.module.`), `head` the head's name in the file where that is not the software's own (`classifier.0`),
      and `ignored` are the names in the file that are no part of the network.
    - "keras": what `models.load` makes of the converted file `path`; or, with `weights` in our axes, what
      `network.keras.build` makes of `architecture` and `contract`.
    - "keras.applications": Keras's own network of the architecture's name, with its weights from `path`.
    - "opencv": what OpenCV's importer makes of the `.caffemodel` in `path` and the `.prototxt` beside it, in float32.
    - "numpy": this project's forward pass on the file `path`, of the layout that `table` describes (found out without
      it), with kernels stored as `kernels` says, below the name `within` where the file holds several networks.

    Keras runs on `backend`; its network takes images in `data_format` order (they are turned here). Without classes in
    the architecture, or without a head in the file, the last map after its ReLU stands for the logits. `taps` asks for
    more outputs: our unit → the framework's own name of that module or layer. `threads` bounds the frameworks' threads
    (not JAX's); None leaves their defaults. `limit` is in seconds.
    """

    network: str
    images: Array
    path: Path | None = None
    table: Path | None = None
    kernels: str | None = None
    within: str | None = None
    architecture: Architecture | None = None
    contract: Contract | None = None
    weights: Mapping[Slot, Array] | None = None
    prefix: str = ""
    head: str | None = None
    ignored: tuple[str, ...] = ()
    backend: Literal["tensorflow", "torch", "jax"] = "tensorflow"
    dtype: Literal["float32", "float64"] = "float32"
    data_format: DataFormat = "channels_last"
    taps: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    limit: float = 600.0

    @property
    def title(self) -> str:
        """What runs, for messages: `keras on jax in float32`."""
        on = f" on {self.backend}" if self.network.startswith("keras") else ""
        return f"{self.network}{on} in {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a network put out.

    `logits` are `n classes` (a map `n h w c` without a head) and `taps` unit → output, `n h w c`, as the framework gave
    them. `computed_in` is the dtype that the run was really in, whatever its arrays say. `variables` are the digests
    (`checkpoint.array_digest`) of every floating-point variable in the run's dtype, by the framework's name and in its
    axes; for "keras" by our slot, in our axes. `versions` are those of the packages that took part.
    """

    logits: Array
    taps: Mapping[str, Array]
    computed_in: str
    variables: Mapping[str, str]
    versions: Mapping[str, str]


def run(job: Job) -> Run:
    """Run a job in a process of its own.

    Raises UsageError for a job that says too little and for a framework that is not installed, the PortErrors of
    reading the file, MisfitError for weights that do not fit the network, and PortError with the process's last lines
    when it dies or exceeds its limit.
    """
    return run_all([job])[0]


def run_all(jobs: Sequence[Job]) -> list[Run]:
    """Run jobs one after the other in one process, which ends at the first that fails. Errors as in `run`.

    All must run in the same framework, on the same backend and with the same threads; their limits add up.
    """
    if not jobs:
        return []
    for job in jobs:
        _check(job)
    if len({(job.network.partition(".")[0], job.backend, job.threads) for job in jobs}) > 1:
        raise UsageError("jobs that share a process must share framework, backend and threads")
    try:
        with TemporaryDirectory(prefix="densenet-port-") as name:
            return _run_in(Path(name), jobs)
    except OSError as error:
        raise DiskError(f"no reference can run in the temporary folder: {error}") from error


def _run_in(place: Path, jobs: Sequence[Job]) -> list[Run]:
    """Write the jobs into a folder, have them run, and read the results."""
    folders = [place / str(number) for number in range(len(jobs))]
    for job, folder in zip(jobs, folders, strict=True):
        _write_job(job, folder)
    _start(jobs, folders)
    return [_read_run(folder) for folder in folders]


def _check(job: Job) -> None:
    """Refuse a job that cannot be run as given."""
    if job.network not in RUNNERS or job.backend not in BACKENDS or job.dtype not in ("float32", "float64"):
        raise UsageError(f"no reference is {job.title}", hint=f"known: {', '.join(RUNNERS)}; {', '.join(BACKENDS)}")
    if (job.path is None) == (job.weights is None) or (job.weights is not None and job.network != "keras"):
        raise UsageError(f"{job.title} takes a file" + (" or weights, and not both" if job.network == "keras" else ""))
    if job.architecture is None and (job.network not in ("keras", "numpy") or job.weights is not None):
        raise UsageError(f"{job.title} must be told the architecture")
    if job.network in STEMS and job.architecture is not None:
        _check_torch(job.network, job.architecture)


def _check_torch(network: str, numbers: Architecture) -> None:
    """Refuse what a class of torch's family cannot be."""
    halves = numbers.bottleneck and numbers.reduction == 0.5  # noqa: PLR2004 (their half)
    if numbers.stem not in STEMS[network] or not halves:
        hint = f"its networks have a stem of {' or '.join(STEMS[network])}, bottlenecks and a reduction of 0.5"
        raise UsageError(f"{network} has no DenseNet {numbers.name}", hint=hint)
    if network == "timm" and numbers.init_channels != 2 * numbers.growth_rate:
        raise UsageError(f"timm has no DenseNet {numbers.name}", hint="its init_channels are twice the growth_rate")


# -- between the two processes -----------------------------------------------------------------------------------------


def _write_job(job: Job, folder: Path) -> None:
    """Leave a job in the folder, which is made."""
    folder.mkdir()
    plain = {name: getattr(job, name) for name in Job.__slots__ if name not in ("images", "weights")}
    plain["path"] = str(job.path.absolute()) if job.path else None
    plain["table"] = str(job.table.absolute()) if job.table else None
    plain["taps"] = dict(job.taps)
    plain["architecture"] = job.architecture.to_json() if job.architecture else None
    plain["contract"] = job.contract.to_json() if job.contract else None
    arrays: dict[str, Any] = {str(slot): array for slot, array in (job.weights or {}).items()}
    (folder / "job.json").write_text(json.dumps(plain), encoding="utf-8")
    np.savez(folder / "job.npz", images=job.images, **arrays)


def _read_job(folder: Path) -> Job:
    """The job in the folder."""
    plain = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "job.npz", allow_pickle=False) as arrays:
        images = arrays["images"]
        weights = {_slot(name): arrays[name] for name in arrays.files if name != "images"}
    plain["path"] = Path(plain["path"]) if plain["path"] else None
    plain["table"] = Path(plain["table"]) if plain["table"] else None
    plain["ignored"] = tuple(plain["ignored"])
    plain["architecture"] = Architecture.from_json(plain["architecture"]) if plain["architecture"] else None
    plain["contract"] = Contract.from_json(plain["contract"]) if plain["contract"] else None
    return Job(**plain, images=images, weights=weights or None)


def _slot(text: str) -> Slot:
    """The slot that `str` spelled."""
    unit, _, role = text.rpartition(".")
    return Slot(unit, cast("Role", role))


def _write_run(result: Run, folder: Path) -> None:
    """Leave a result in the folder."""
    plain = {name: getattr(result, name) for name in ("computed_in", "variables", "versions")}
    (folder / "run.json").write_text(json.dumps(plain), encoding="utf-8")
    taps: dict[str, Any] = dict(result.taps)
    np.savez(folder / "run.npz", logits=result.logits, **taps)


def _read_run(folder: Path) -> Run:
    """The result in the folder, or the error that was left in its place."""
    if (folder / "error.json").exists():
        error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        raise KINDS[error["kind"]](error["message"], hint=error["hint"])
    with np.load(folder / "run.npz", allow_pickle=False) as arrays:
        taps = {name: arrays[name] for name in arrays.files if name != "logits"}
        logits = arrays["logits"]
    return Run(**json.loads((folder / "run.json").read_text(encoding="utf-8")), logits=logits, taps=taps)


def _start(jobs: Sequence[Job], folders: Sequence[Path]) -> None:
    """Run the worker to its end."""
    command = [sys.executable, "-P", "-m", "densenet_port.prove.worker", *map(str, folders)]
    limit, title = sum(job.limit for job in jobs), jobs[0].title
    try:
        done = subprocess.run(  # noqa: S603 (this very package, on folders of our own)
            command, env=_environment(jobs[0]), capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        hint = "give it longer, or fewer or smaller images"
        raise PortError(_told(f"{title} took longer than {limit:g} s", error.stderr), hint=hint) from error
    if done.returncode:
        how = f"exit code {done.returncode}" if done.returncode > 0 else signal.strsignal(-done.returncode)
        raise PortError(_told(f"{title} ended with {how}", done.stderr))


def _environment(job: Job) -> dict[str, str]:
    """What the worker's process sees: this one's environment and packages, one backend, and the CPU alone."""
    threads = {} if job.threads is None else dict.fromkeys(THREADS, str(job.threads))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "KERAS_BACKEND": job.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        **threads,
    }


def _told(what: str, stderr: bytes | None) -> str:
    """What happened, and the last lines that the process wrote."""
    lines = (stderr or b"").decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    return "\n  ".join([what, *lines])


# -- the worker --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the jobs in the folders that the command line names, and leave each result there, to the first that fails."""
    for name in sys.argv[1:]:
        folder = Path(name)
        job = _read_job(folder)
        try:
            _write_run(runner(job.network)(job), folder)
        except PortError as error:
            plain = {"kind": error.kind, "message": error.message, "hint": error.hint}
            (folder / "error.json").write_text(json.dumps(plain), encoding="utf-8")
            break


if __name__ == "__main__":
    main()
