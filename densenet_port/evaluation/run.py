"""An evaluation: a data set's batches, done by processes here or on a cluster, and what became of them all.

A batch is a fixed part of the data set, so many pictures from a fixed one on, and a network gets it as one array of a
fixed size; each side computes with a fixed number of threads. So the statistics do not depend on how many processes
there are, on which machine a batch was done, or in which order: `statistics` adds without rounding. What they do depend
on is the head of the journal, by which an evaluation that broke off goes on.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast

from densenet_port.about import __version__
from densenet_port.conversion.load import Network, read
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.evaluation.data import DataSet, open_data
from densenet_port.evaluation.sides import Batch, Evaluator, Side, side_of
from densenet_port.evaluation.statistics import SideName, Statistics, total
from densenet_port.extras import BACKENDS, SOFTWARE
from densenet_port.layouts.layout import Kernels
from densenet_port.network.contract import Resize
from densenet_port.prove.job import title
from densenet_port.prove.recording import file_metadata
from densenet_port.prove.reference import Reference, dependence, reference_of
from densenet_port.prove.worker import KINDS
from densenet_port.work import cluster, pool
from densenet_port.work.journal import Journal

BATCH = 32
ROUNDS = 3  # in which a batch may be lost, with the process that it was in
SCHEMA = "densenet-port/evaluation/1"


class Progress(Protocol):
    """What is told how many batches of how many are done."""

    def __call__(self, done: int, total: int, /) -> None:
        """Note it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a data set says of a port, and of its original where there is one.

    `data` is the data set, `statistics` what was counted, `port` and `original` describe the sides: file, software, how
    its pictures came to it, and `ran`, every set of versions that took part. `settings` are those that statistics
    depend on; `seconds`, and `done`, a number of pictures, are of this run, which may have gone on with another's.
    `dependence` says why the agreement of the two sides is no proof, None where it is evidence.
    """

    data: DataSet
    statistics: Statistics
    port: Mapping[str, Any]
    original: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    dependence: str | None
    done: int
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether every picture was read, and answered by every side."""
        return not self.statistics.unread and not self.statistics.unanswered


def evaluate(
    port: str | PathLike[str],
    against: str | PathLike[str] | None = None,
    *,
    data: str | PathLike[str],
    labels: str | PathLike[str] | None = None,
    prepared: bool = False,
    src: str | PathLike[str] | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    contract: Mapping[str, Any] | None = None,
    output_name: str | None = None,
    ignore_inheritance: bool = False,
    backend: str = "tensorflow",
    batch: int = BATCH,
    jobs: int | None = None,
    threads: int = 1,
    ray: str | None = None,
    journal: str | PathLike[str] | None = None,
    resume: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """A network, and its original beside it, on a data set.

    `data` is a folder of pictures, parquet files, shards of WebDataset or an `.npz`, by a path or a pattern
    (`evaluation.sources`); `labels` a file of them, or "none" for no labels (`evaluation.data`); `prepared` takes the
    floats of an `.npz` as they are. The port runs on `backend` where it is Keras's (tensorflow, torch, jax), by its
    own software where that is another's (ONNX Runtime, torch), or by "numpy"; the original in its own software, as in
    `check`. `src`, `kernels`, `within`, `contract`, `output_name` and `ignore_inheritance` are the user's word on
    `against`, or without it on the port; `contract`'s `resize` is for both. `batch` pictures are a batch, `threads` are
    those of each network, `jobs` processes do batches side by side: as many as there are cores for their threads, where
    nothing is said. `ray` is the address of a cluster that does them in place of this machine. `journal` is a file in
    which every batch is kept, `resume` goes on with the one that is there. Raises UsageError for what does not go
    together, MisfitError for sides of different classes, and what reading and running raise.
    """
    started = time.perf_counter()
    words = dict(contract or {})
    resize: Resize | None = words.pop("resize", None)
    how: dict[str, Any] = {
        "src": src,
        "kernels": kernels,
        "within": within,
        "contract": words,
        "output_name": output_name,
        "ignore_inheritance": ignore_inheritance,
    }
    networks = _read(port, against, how)
    classes = _classes(networks)
    _require_counts(batch=batch, threads=threads, jobs=jobs)
    pictures = open_data(str(data), None if labels is None else str(labels), classes, prepared=prepared)
    sides = _sides(networks, backend, resize, threads=threads, trust=trust_code)
    settings = {"batch": batch, "threads": threads, "version": __version__}
    described = {name: _described(side, pictures) for name, side in sides.items()}
    head: dict[str, Any] = {"schema": SCHEMA, **settings, "data": pictures.facts()}
    for name, side in sides.items():
        head[name] = _head(side, described[name])
    batches = [(start, min(start + batch, pictures.pictures.size)) for start in range(0, pictures.pictures.size, batch)]
    with Journal(Path(journal), head, resume=resume) if journal is not None else nullcontext() as book:
        results: list[dict[str, Any]] = [*book.entries] if book else []
        known = {tuple(entry["batch"]) for entry in results}
        todo = [one for one in batches if one not in known]
        for result in _done(todo, _evaluator(pictures, sides, batch), jobs=jobs, threads=threads, ray=ray):
            if book:
                book.append(result)
            results.append(result)
            if progress:
                progress(len(results), len(batches))
    for name, facts in described.items():
        facts["ran"] = _ran(results, name)
    return Evaluation(
        data=pictures,
        statistics=total([Statistics.from_json(result["statistics"]) for result in results]),
        port=described["port"],
        original=described.get("original"),
        settings=settings,
        dependence=_dependence(described.get("original")),
        done=sum(stop - start for start, stop in todo),
        seconds=time.perf_counter() - started,
    )


# -- what is evaluated -------------------------------------------------------------------------------------------------


def _read(
    port: str | PathLike[str], against: str | PathLike[str] | None, how: Mapping[str, Any]
) -> dict[SideName, Network]:
    """The networks; `how` is the user's word on the original, or on the port where that is alone."""
    if against is None:
        return {"port": read(port, **how)}
    return {"port": read(port, ignore_inheritance=True), "original": read(against, **how)}  # its answers are judged


def _classes(networks: Mapping[SideName, Network]) -> int:
    """How many classes there are. Raises UsageError for fewer than two, MisfitError where the sides differ."""
    counts = {side: network.architecture.classes for side, network in networks.items()}
    for side, count in counts.items():
        if count is None or count < 2:
            path = networks[side].checkpoint.path
            number = "no head" if count is None else "one class"
            hint = "what is judged is the likeliest of several classes; `check` compares any two networks"
            raise UsageError(f"{path}: has {number}, and puts out no classes to choose from", hint=hint)
    if len({*counts.values()}) > 1:
        message = f"the port has {counts['port']} classes, the original {counts['original']}"
        raise MisfitError(message, hint="compare a port with the very checkpoint it was made from")
    channels = {network.architecture.channels for network in networks.values()}
    if len(channels) > 1:
        raise MisfitError("the port and the original take pictures of different numbers of channels")
    return cast("int", counts["port"])


def _require_counts(**counts: int | None) -> None:
    """Refuse what is no count. Raises UsageError."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"--{name} must be at least 1, found {count}")


def _sides(
    networks: Mapping[SideName, Network], backend: str, resize: Resize | None, *, threads: int, trust: bool
) -> dict[SideName, Side]:
    """What runs each network. Raises UsageError for a backend that there is not."""
    if backend not in ("numpy", *BACKENDS):
        raise UsageError(f"unknown --backend {backend!r}", hint=f"known: {', '.join(('numpy', *BACKENDS))}")
    port, original = networks["port"], networks.get("original")
    by = Reference("numpy") if backend == "numpy" else reference_of(port)
    on = backend if backend in BACKENDS else "tensorflow"
    make = partial(side_of, resize=resize, threads=threads)
    sides: dict[SideName, Side] = {"port": make(port, by, backend=on, other=original, trust=False)}
    if original is not None:
        reference = reference_of(original, trust=trust)
        sides["original"] = make(original, reference, backend="tensorflow", other=port, trust=trust)
    return sides


def _evaluator(data: DataSet, sides: Mapping[SideName, Side], batch: int) -> Evaluator:
    """What the worker processes do."""
    port = sides["port"].network
    means = {side.network.contract.output for side in sides.values()}
    return Evaluator(
        data=data,
        jobs={name: side.job for name, side in sides.items()},
        resizes={name: side.resize for name, side in sides.items()},
        inputs={name: side.preparation for name, side in sides.items()},
        channels=port.architecture.channels,
        batch=batch,
        calibrated=means <= {"logits", "softmax", "log_softmax"},
    )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- how it is done ----------------------------------------------------------------------------------------------------


def _done(
    batches: Sequence[Batch], evaluator: Evaluator, *, jobs: int | None, threads: int, ray: str | None
) -> Iterator[dict[str, Any]]:
    """What became of each batch, in any order; one that was lost with its process is done again.

    Raises what stopped a side, and PortError for batches that are lost again and again.
    """
    for _ in range(ROUNDS):
        lost: dict[Batch, str] = {}
        for done in _run(batches, evaluator, jobs=jobs, threads=threads, ray=ray):
            if done.result is None:
                lost[done.item] = str(done.lost)
                continue
            if "error" in done.result:
                kind, message, hint = done.result["error"]
                raise KINDS[kind](message, hint=hint)
            yield {"batch": list(done.item), **done.result}
        if not lost:
            return
        batches = [*lost]
    message = f"batches that could not be done, {ROUNDS} times: {len(lost)}; {next(iter(lost.values()))}"
    raise PortError(message, hint="with --journal FILE, --resume goes on with those that are missing")


def _run(
    batches: Sequence[Batch], evaluator: Evaluator, *, jobs: int | None, threads: int, ray: str | None
) -> Iterator[pool.Done[Batch]]:
    """The batches, by processes here or on a cluster."""
    if ray is None:
        return pool.run(batches, evaluator, jobs=jobs or max(1, _cores() // threads), threads=threads)
    return cluster.run(batches, evaluator, address=ray, jobs=jobs, cpus=threads)


# -- what is said of it ------------------------------------------------------------------------------------------------


def _head(side: Side, described: Mapping[str, Any]) -> dict[str, Any]:
    """What a side's answers depend on."""
    software = SOFTWARE[side.job.network]
    packages = (*software.packages, *([side.job.backend] if software.on_keras else []))
    told = ("name", "sha256", "layout", "contract", "resize")
    return {
        **{key: described[key] for key in told if key in described},
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    """A package's version, None where it is not here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _described(side: Side, data: DataSet) -> dict[str, Any]:
    """A side, for the result."""
    resize = {} if data.prepared else {"resize": side.resize.to_json(), "resize_origin": side.resize_origin}
    return {
        "name": title(side.job.network, side.job.backend),
        **({"because": side.because} if side.because else {}),
        **file_metadata(side.network),
        **resize,
    }


def _ran(results: Sequence[Mapping[str, Any]], side: SideName) -> list[dict[str, Any]]:
    """Every set of versions that took part, of this and of earlier runs."""
    every: list[dict[str, Any]] = []
    for result in results:
        ran = result["ran"].get(side)
        if ran is not None and ran not in every:
            every.append(ran)
    return sorted(every, key=str)


def _dependence(original: Mapping[str, Any] | None) -> str | None:
    """Why the sides' agreement is no proof: the original was read by the port's own table."""
    if original is None or all(ran["read_by"] != "table" for ran in original["ran"]):
        return None
    return dependence(original)
