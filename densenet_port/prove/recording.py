"""A recording: what a network answers to the probes in both precisions; run, saved and read again."""

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from densenet_port.checkpoint import Array, digest
from densenet_port.conversion.load import Network
from densenet_port.errors import CorruptError, DiskError, MisfitError, UsageError
from densenet_port.extras import BACKENDS, MODULE, SOFTWARE, ReadBy
from densenet_port.files import whole
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.network.units import HEAD
from densenet_port.prove.figures import rms
from densenet_port.prove.images import Probe
from densenet_port.prove.job import PRECISIONS, Job, Precision, Reading, Run, title
from densenet_port.prove.reference import Reference, read_by, reference_of, runs_whole
from densenet_port.prove.worker import LIMIT, Processes, run_all

SCHEMA = "densenet-port/reference/1"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One network's answers, which can be saved and used in place of the software that gave them.

    `logits` are (precision, probe) → `n classes`; `taps` precision → unit → `n h w c`, on the first probe, which is
    followed through the network. `computed` says for each precision what the run was really computed in. `metadata`
    describes the implementation (name, versions, seconds, how it came by the network) and the file (path, layout,
    digest).
    """

    architecture: Architecture
    contract: Contract
    probes: tuple[Probe, ...]
    logits: Mapping[tuple[Precision, str], Array]
    taps: Mapping[Precision, Mapping[str, Array]]
    computed: Mapping[Precision, str]
    metadata: Mapping[str, Any]

    @property
    def followed(self) -> Probe:
        """The probe on which the units' outputs are known."""
        return self.probes[0]

    @property
    def read_by(self) -> ReadBy:
        """How what ran came by the network (`extras.ReadBy`)."""
        return read_by(self.metadata)

    @property
    def independent(self) -> bool:
        """Whether what ran read the network with other code than this project's."""
        return self.read_by != "table"

    def save(self, path: Path) -> None:
        """Write inputs, logits and taps, with what they are of, as one `.npz`; it appears whole or not at all."""
        plain = {
            "schema": SCHEMA,
            "architecture": self.architecture.to_json(),
            "contract": self.contract.to_json(),
            "tapped": self.followed.name,
            "computed": dict(self.computed),
            "told": dict(self.metadata),
            "probes": [{"name": probe.name, "labels": list(probe.labels)} for probe in self.probes],
        }
        arrays = {f"images|{probe.name}": probe.images for probe in self.probes}
        arrays |= {f"pictures|{probe.name}": probe.pictures for probe in self.probes if probe.pictures is not None}
        arrays |= {f"logits|{precision}|{name}": logits for (precision, name), logits in self.logits.items()}
        for precision, taps in self.taps.items():
            arrays |= {f"tap|{precision}|{unit}": tap for unit, tap in taps.items()}
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, told=np.array(json.dumps(plain)), **cast("Any", arrays))

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """A recording that `save` wrote. Raises DiskError, CorruptError or MisfitError; nothing in the file runs."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                plain = json.loads(str(file["told"]))
                arrays = {tuple(name.split("|")): file[name] for name in file.files if name != "told"}
            if plain["schema"] != SCHEMA:
                message = f"{path}: expected a saved reference of schema {SCHEMA}, found {plain['schema']}"
                raise MisfitError(message)
            return cls._of_parts(plain, arrays)
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            hint = "made by check --save-reference"
            raise CorruptError(f"{path}: not a saved reference: {error}", hint=hint) from error

    @classmethod
    def _of_parts(cls, plain: Mapping[str, Any], arrays: Mapping[tuple[str, ...], Array]) -> "Recording":
        """The recording that a file's JSON and arrays make."""
        probes = [
            Probe(
                name=entry["name"],
                images=arrays["images", entry["name"]],
                labels=tuple(entry["labels"]),
                pictures=arrays.get(("pictures", entry["name"])),
            )
            for entry in plain["probes"]
        ]
        probes.sort(key=lambda probe: probe.name != plain["tapped"])  # the one that is followed first
        taps: dict[Precision, dict[str, Array]] = {precision: {} for precision in PRECISIONS}
        for (kind, *rest), array in arrays.items():
            if kind == "tap":
                precision, unit = rest
                taps[cast("Precision", precision)][unit] = array
        return cls(
            architecture=Architecture.from_json(plain["architecture"]),
            contract=Contract.from_json(plain["contract"]),
            probes=tuple(probes),
            logits={(p, probe.name): arrays["logits", p, probe.name] for p in PRECISIONS for probe in probes},
            taps=taps,
            computed=plain["computed"],
            metadata=plain["told"],
        )


# -- running -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How networks are run: `backend` is what runs a port, `limit` the seconds a run may take, `threads` as in Job.

    `trust_code` lets code of the original's file run, where that has any. `processes` are those that run them.
    """

    backend: str = "tensorflow"
    limit: float = LIMIT
    threads: int | None = None
    trust_code: bool = False
    processes: Processes | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs that make a recording of a network: precision → a job for each probe, the first of them followed.

    `because` says why it is not the layout's own software that runs, where it is not.
    """

    network: Network
    probes: tuple[Probe, ...]
    jobs: Mapping[Precision, Sequence[Job]]
    because: str | None = None

    def recording(self, runs: Sequence[Run], seconds: float) -> Recording:
        """What the runs of all jobs, float64 first, say together."""
        keys = [(precision, probe.name) for precision in PRECISIONS for probe in self.probes]
        answers = dict(zip(keys, runs, strict=True))
        followed, computed = self.probes[0].name, {}
        for precision in PRECISIONS:
            kinds = [run.computed_in for (asked, _), run in answers.items() if asked == precision]
            computed[precision] = min(kinds, key=_bytes)
        return Recording(
            architecture=self.network.architecture,
            contract=self.network.contract,
            probes=self.probes,
            logits={key: run.logits for key, run in answers.items()},
            taps={precision: answers[precision, followed].taps for precision in PRECISIONS},
            computed=computed,
            metadata={
                "name": _title(self.jobs["float32"][0]),
                "float64": _title(self.jobs["float64"][0]),
                "versions": {name: version for run in runs for name, version in run.versions.items()},
                "seconds": seconds,
                "read_by": _weakest([answers["float32", probe.name].read_by for probe in self.probes]),
                **({"because": self.because} if self.because else {}),
                **file_metadata(self.network),
            },
        )


def plan(
    network: Network, software: str, probes: tuple[Probe, ...], settings: Settings, because: str | None = None
) -> Plan:
    """The runs of a network by a software, and why it is not the layout's own.

    Where it does not compute in float64, on that backend or at all, numpy gives the float64 evidence.
    """
    exact = software if SOFTWARE[software].computes_float64(settings.backend) else "numpy"
    backend = settings.backend if settings.backend in BACKENDS else "tensorflow"
    softwares: dict[Precision, str] = {"float64": exact, "float32": software}
    jobs: dict[Precision, list[Job]] = {}
    for precision, name in softwares.items():
        run_by = partial(
            job_of,
            network,
            name,
            dtype=precision,
            backend=backend,
            threads=settings.threads,
            trust=settings.trust_code,
        )
        jobs[precision] = [run_by(probe.images, follow=probe is probes[0]) for probe in probes]
    return Plan(network=network, probes=probes, jobs=jobs, because=because)


def _names(network: Network) -> dict[str, str]:
    """Unit → its name in the network's software; in its file, where that software does not have such networks."""
    layout, ledger = network.ledger.layout, network.ledger
    if layout.refusal(network.architecture) is None:
        return layout.spell_units(network.architecture)
    return {unit: ledger.unit_name(unit) or unit for unit in network.architecture.units}


def job_of(
    network: Network,
    software: str,
    images: Array,
    *,
    dtype: Precision,
    backend: str = "tensorflow",
    follow: bool = False,
    threads: int | None = None,
    trust: bool = False,
) -> Job:
    """A run of a checkpoint by a software, with an output for every unit where the network is to be followed."""
    ledger, taps = network.ledger, {}
    whole = runs_whole(network, SOFTWARE[software], trust=trust)
    if follow:
        units = _names(network)
        taps = dict(zip(units, units, strict=True)) if software == "numpy" else units
        if whole and SOFTWARE[software].whole == MODULE:
            taps = {unit: f"{ledger.prefix}{ledger.unit_name(unit)}" for unit in units}
    last = HEAD if HEAD in network.architecture.units else [*network.architecture.units][-1]
    return Job(
        network=software,
        images=images,
        path=network.checkpoint.path,
        reading=Reading(
            table=ledger.layout.path,
            kernels=ledger.kernels,
            within=network.within,
            prefix=ledger.place.prefix,
            root=ledger.place.root,
            head=ledger.holder(HEAD),
            ignored=tuple(ledger.ignored),
            module=str(network.checkpoint.metadata.get(MODULE, "")),
            last=f"{ledger.prefix}{ledger.unit_name(last)}" if whole else None,
            output=network.checkpoint.metadata.get("output_name"),
            prepares=network.origins.get("input") == "graph",
        ),
        architecture=network.architecture,
        contract=network.contract,
        backend=backend,
        dtype=dtype,
        taps=taps,
        threads=threads,
        whole=whole,
        trust=trust,
    )


def run_reference(source: Network, probes: tuple[Probe, ...], settings: Settings = Settings()) -> Recording:
    """The original network by the software that owns its layout; by numpy where none does, or where none can.

    Where numpy computes the float64 evidence for it, numpy's own float32 distance to that goes along, as the measure of
    how far the software's float32 may be from it.
    """
    settings = replace(settings, backend="tensorflow")
    recording = run_by(source, reference_of(source, trust=settings.trust_code), probes, settings)
    if recording.metadata["float64"] == recording.metadata["name"]:
        return recording
    rounding = {}
    for probe in probes:
        rough = forward(source.architecture, source.contract, source.weights, probe.images, dtype=np.float32)
        rounding[probe.name] = rms(rough, recording.logits["float64", probe.name])
    return replace(recording, metadata={**recording.metadata, "rounding": rounding})


def run_port(port: Network, probes: tuple[Probe, ...], settings: Settings = Settings()) -> Recording:
    """The converted network by its layout's software, on the backend where that is Keras; or by numpy, as above."""
    if settings.backend not in ("numpy", *BACKENDS):
        raise UsageError(f"unknown --backend {settings.backend!r}", hint=f"known: {', '.join(('numpy', *BACKENDS))}")
    settings = replace(settings, trust_code=False)
    return run_by(port, Reference("numpy") if settings.backend == "numpy" else reference_of(port), probes, settings)


def run_by(network: Network, reference: Reference, probes: tuple[Probe, ...], settings: Settings) -> Recording:
    """All probes in both precisions, one process for each software that is needed."""
    started = time.perf_counter()
    planned = plan(network, reference.software, probes, settings, reference.because)
    exact, single = (planned.jobs[precision] for precision in PRECISIONS)
    in_process = partial(run_all, limit=settings.limit, processes=settings.processes)
    if exact[0].network == single[0].network:
        runs = in_process([*exact, *single])
    else:
        runs = [*in_process(exact), *in_process(single)]
    return planned.recording(runs, time.perf_counter() - started)


def _title(job: Job) -> str:
    """What runs a job, as results call it."""
    own = SOFTWARE[job.network].float64_name if job.dtype == "float64" else None
    return own or title(job.network, job.backend)


def _weakest(ways: Sequence[ReadBy]) -> ReadBy:
    """Of how several runs came by the network, the one that proves least."""
    return max(ways, key=get_args(ReadBy).index)


def _bytes(dtype: str) -> int:
    """The size of a number, by which the least precise of several is found."""
    return np.dtype(dtype).itemsize


def file_metadata(network: Network) -> dict[str, Any]:
    """A network's file and its ledger, for the result."""
    ledger, path = network.ledger, network.checkpoint.path
    return {
        "path": str(path),
        "sha256": digest(network.checkpoint) if not network.checkpoint.is_live else None,
        "layout": network.layout,
        "container": network.checkpoint.container,
        "architecture": {"name": network.architecture.name, **network.architecture.to_json()},
        "contract": network.contract.to_json(),
        "origins": dict(network.origins),
        **({"wiring": network.witness.line} if network.witness and network.witness.line else {}),
        "ledger": {
            "used": len(ledger.claims),
            "ignored": len(ledger.ignored),
            "slots": len(network.architecture.slots),
        },
        "kernels": ledger.kernels,
        "mapping": {"layout": ledger.layout.name, "sha256": ledger.layout.digest},
    }
