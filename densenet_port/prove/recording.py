"""The two sides of a comparison: what a network answers to the probes in both precisions; run, saved and read again."""

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.errors import CorruptError, DiskError, MisfitError, UsageError
from densenet_port.files import file_digest, whole
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.prove.images import Probe
from densenet_port.prove.runners import RUNNERS
from densenet_port.prove.worker import STEMS, Job, Run, run_all

SAVED = "densenet-port/reference/1"
SINGLE = ("opencv",)  # networks whose software computes float32 alone
OWN_READER = ("numpy", "keras")  # networks whose weights are read by this project's tables

Precision = Literal["float32", "float64"]
PRECISIONS: tuple[Precision, ...] = ("float64", "float32")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One network's answers, which can be saved and used in place of the framework.

    `logits` are (precision, probe) → `n classes`; `taps` precision → unit → `n h w c`, on the probe named `tapped`.
    `computed` says for each precision what the run was really computed in. `told` describes the implementation (name,
    versions, seconds) and the file (path, layout, digest).
    """

    architecture: Architecture
    contract: Contract
    probes: tuple[Probe, ...]
    tapped: str
    logits: Mapping[tuple[Precision, str], Array]
    taps: Mapping[Precision, Mapping[str, Array]]
    computed: Mapping[str, str]
    told: Mapping[str, Any]

    @property
    def independent(self) -> bool:
        """Whether the software that ran read the file with its own code, and not by this project's tables."""
        return independent(self.told["name"])


def independent(name: str) -> bool:
    """Whether an implementation, by the name that results give it, reads a file with its own code."""
    network = name.partition(" ")[0]  # of `keras on jax`
    return network in RUNNERS and network not in OWN_READER


# -- running -----------------------------------------------------------------------------------------------------------


def run_reference(
    source: Network, probes: tuple[Probe, ...], *, limit: float = 600.0, threads: int | None = None
) -> Side:
    """The original network in the framework that owns its layout; in numpy where no framework does.

    Where numpy computes the float64 evidence for it, numpy's own float32 distance to that goes along, as the measure of
    how far the framework's float32 may be from it.
    """
    side = _run_side(source, source.ledger.layout.reference, "tensorflow", probes, probes[0].name, limit, threads)
    return side if side.told["float64"] == side.told["name"] else _with_rounding(source, side)


def _with_rounding(source: Network, side: Side) -> Side:
    """The side with the float32 distance of numpy's forward pass for each probe, root mean square in deviations."""
    found = {}
    for probe in side.probes:
        rough = forward(source.architecture, source.contract, source.weights, probe.images, dtype=np.float32)
        found[probe.name] = rms(rough, side.logits["float64", probe.name])
    return replace(side, told={**side.told, "rounding": found})


def rms(found: Array, truth: Array) -> float:
    """Root mean square of the difference in deviations of the truth."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean((found.astype(np.float64) - truth) ** 2)) / np.std(truth))


def run_port(
    port: Network,
    backend: str,
    probes: tuple[Probe, ...],
    tapped: str,
    limit: float = 600.0,
    threads: int | None = None,
) -> Side:
    """The converted network: its layout's framework, on `backend` where that is Keras, or numpy."""
    if backend not in ("numpy", "tensorflow", "torch", "jax"):
        raise UsageError(f"unknown --backend {backend!r}", hint="known: numpy, tensorflow, torch, jax")
    network = "numpy" if backend == "numpy" else port.ledger.layout.reference
    return _run_side(port, network, backend, probes, tapped, limit, threads)


def _run_side(
    told: Network,
    network: str,
    backend: str,
    probes: tuple[Probe, ...],
    tapped: str,
    limit: float,
    threads: int | None,
) -> Side:
    """All probes in both precisions, one process for each implementation that is needed."""
    started = time.perf_counter()
    plan = plan_side(told, network, backend, probes, tapped, limit, threads)
    exact, single = (plan[precision] for precision in PRECISIONS)
    one_process = exact[0].network == single[0].network
    runs = run_all([*exact, *single]) if one_process else [*run_all(exact), *run_all(single)]
    return side_of(told, plan, runs, tapped, probes, time.perf_counter() - started)


def plan_side(
    told: Network,
    network: str,
    backend: str,
    probes: tuple[Probe, ...],
    tapped: str,
    limit: float = 600.0,
    threads: int | None = None,
) -> dict[Precision, list[Job]]:
    """Precision → the jobs that run a network on every probe.

    Keras computes in float64 on TensorFlow alone; on the other backends, and for software that computes float32 only,
    the float64 evidence is numpy's.
    """
    double = network in (*STEMS, "numpy") or (backend == "tensorflow" and network not in SINGLE)
    exact = network if double else "numpy"
    networks: dict[Precision, str] = {"float64": exact, "float32": network}
    return {
        precision: [
            _job(told, networks[precision], backend, probe, precision, tapped, limit, threads) for probe in probes
        ]
        for precision in PRECISIONS
    }


def side_of(
    told: Network,
    plan: Mapping[Precision, list[Job]],
    runs: Sequence[Run],
    tapped: str,
    probes: tuple[Probe, ...],
    seconds: float,
) -> Side:
    """What the runs of a plan's jobs, float64 first, say together."""
    keys: list[tuple[Precision, str]] = [(precision, probe.name) for precision in PRECISIONS for probe in probes]
    found = dict(zip(keys, runs, strict=True))
    return Side(
        architecture=told.architecture,
        contract=told.contract,
        probes=probes,
        tapped=tapped,
        logits={key: run.logits for key, run in found.items()},
        taps={precision: found[precision, tapped].taps for precision in PRECISIONS},
        computed={precision: _computed(precision, found) for precision in PRECISIONS},
        told={
            "name": _title(plan["float32"][0]),
            "float64": _title(plan["float64"][0]),
            "versions": {name: number for run in runs for name, number in run.versions.items()},
            "seconds": seconds,
            **_file_told(told),
        },
    )


def _title(job: Job) -> str:
    if job.network == "onnxruntime" and job.dtype == "float64":
        return "onnx.reference"  # which is what runs it in double
    return f"{job.network} on {job.backend}" if job.network.startswith("keras") else job.network


def _computed(precision: Precision, found: Mapping[tuple[Precision, str], Run]) -> str:
    """What the runs of a precision were really computed in: the least precise of them."""
    return min(
        (run.computed_in for (kind, _), run in found.items() if kind == precision), key=lambda kind: int(kind[5:])
    )


def _job(
    told: Network,
    network: str,
    backend: str,
    probe: Probe,
    dtype: Precision,
    tapped: str,
    limit: float,
    threads: int | None,
) -> Job:
    """One run of one probe."""
    followed = told.ledger.layout.spell_units(told.architecture) if probe.name == tapped else {}
    return Job(
        network=cast("Any", network),
        images=probe.images,
        path=told.checkpoint.path,
        table=told.ledger.layout.path,
        kernels=told.ledger.kernels,
        within=told.within,
        architecture=told.architecture,
        contract=told.contract,
        prefix=told.ledger.prefix,
        head=told.ledger.unit_name("head.dense"),
        ignored=tuple(told.ledger.ignored),
        backend=cast("Any", "tensorflow" if backend == "numpy" else backend),
        dtype=dtype,
        taps={unit: unit if network == "numpy" else name for unit, name in followed.items()},
        limit=limit,
        threads=threads,
    )


def _file_told(told: Network) -> dict[str, Any]:
    """A file and its ledger, for the result."""
    ledger = told.ledger
    return {
        "path": str(told.checkpoint.path),
        "sha256": file_digest(told.checkpoint.path),
        "layout": told.layout,
        "container": told.checkpoint.container,
        "architecture": {"name": told.architecture.name, **told.architecture.to_json()},
        "contract": told.contract.to_json(),
        "ledger": {"used": len(ledger.claims), "ignored": len(ledger.ignored), "slots": len(told.architecture.slots)},
        "kernels": ledger.kernels,
        "mapping": {"layout": ledger.layout.name, "sha256": ledger.layout.digest},
    }


# -- saving ------------------------------------------------------------------------------------------------------------


def save_side(side: Side, path: Path) -> None:
    """Write a side's inputs, logits and taps, with what it was, as one `.npz`; it appears whole or not at all."""
    plain = {
        "schema": SAVED,
        "architecture": side.architecture.to_json(),
        "contract": side.contract.to_json(),
        "tapped": side.tapped,
        "computed": dict(side.computed),
        "told": dict(side.told),
        "probes": [{"name": probe.name, "labels": list(probe.labels)} for probe in side.probes],
    }
    arrays = {f"images|{probe.name}": probe.images for probe in side.probes}
    arrays |= {f"pictures|{probe.name}": probe.pictures for probe in side.probes if probe.pictures is not None}
    arrays |= {f"logits|{precision}|{name}": logits for (precision, name), logits in side.logits.items()}
    arrays |= {f"tap|{kind}|{unit}": tap for kind, taps in side.taps.items() for unit, tap in taps.items()}
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, told=np.array(json.dumps(plain)), **cast("Any", arrays))


def load_side(path: Path) -> Side:
    """A side that `save_side` wrote. Raises DiskError, CorruptError or MisfitError; nothing in the file runs."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            plain = json.loads(str(file["told"]))
            arrays = {tuple(name.split("|")): file[name] for name in file.files if name != "told"}
        if plain["schema"] != SAVED:
            raise MisfitError(f"{path}: expected a saved reference of schema {SAVED}, found {plain['schema']}")
        return _side_of(plain, arrays)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptError(f"{path}: not a saved reference: {error}", hint="made by check --save-reference") from error


def _side_of(plain: Mapping[str, Any], arrays: Mapping[tuple[str, ...], Array]) -> Side:
    """The side that a file's parts make."""
    probes = tuple(
        Probe(
            name=entry["name"],
            images=arrays["images", entry["name"]],
            labels=tuple(entry["labels"]),
            pictures=arrays.get(("pictures", entry["name"])),
        )
        for entry in plain["probes"]
    )
    logits = {
        (precision, probe.name): arrays["logits", precision, probe.name] for precision in PRECISIONS for probe in probes
    }
    taps = {kind: {name[2]: tap for name, tap in arrays.items() if name[:2] == ("tap", kind)} for kind in PRECISIONS}
    return Side(
        architecture=Architecture.from_json(plain["architecture"]),
        contract=Contract.from_json(plain["contract"]),
        probes=probes,
        tapped=plain["tapped"],
        logits=logits,
        taps=taps,
        computed=plain["computed"],
        told=plain["told"],
    )
