"""Parity: the verdict on a port, and the first place where two networks part.

Two implementations run the same prepared images: the reference that owns the original checkpoint, and the port. In
float64 both must agree to rounding. In float32 the port may be no further from the float64 truth than a stated factor
of the reference's own distance to it. Where a port's tensors had to be rounded (an absorbed epsilon, float64 weights),
the proof has two steps: the unrounded mapping meets the float64 bound, and every written tensor is within half an ULP
of it.
"""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densenet_port.checkpoint import Array, digest
from densenet_port.conversion.load import Network, read
from densenet_port.conversion.opening import Object
from densenet_port.errors import ComparisonError, MisfitError, UsageError
from densenet_port.extras import BACKENDS
from densenet_port.layouts.layout import Kernels
from densenet_port.network.architecture import Architecture
from densenet_port.network.graph import graph
from densenet_port.network.numpy import forward
from densenet_port.prove import present
from densenet_port.prove.checks import BOUND64, Check, all_checks, bounded, float32_bound, is_rounded, no_evidence
from densenet_port.prove.diagnose import Diagnosis
from densenet_port.prove.diagnose import diagnose as diagnose_units
from densenet_port.prove.figures import Figures, figures_of, largest, rms
from densenet_port.prove.images import BATCH, SIZES, Probe, make_probes
from densenet_port.prove.job import PRECISIONS
from densenet_port.prove.preparation import Difference, differences
from densenet_port.prove.recording import Recording, Settings
from densenet_port.prove.reference import dependence
from densenet_port.prove.worker import LIMIT, Processes

ROUNDED = (
    "the port's tensors had to be rounded, which a recording alone cannot tell from a small mistake: name the original "
    "with --against, too, for a proof in two steps"
)
KERAS = (".h5", ".hdf5", ".keras")  # how files end that Keras runs, most of them
UNJUDGED = ("output", "input")  # what of a contract no logits of prepared images depend on

Port = str | PathLike[str] | Object
Suspect = Literal["port", "reference", "both"]
Grade = Literal["proven", "agrees", "differs", "cannot be judged"]
"""What a comparison is worth:

    proven            the numbers agree, and the reference read the original by other code than ours and ran it
    agrees            they agree, but both sides were read by the same table, guess or assumption
    differs           they do not agree
    cannot be judged  the runs give no evidence either way
"""


@dataclass(frozen=True, kw_only=True)
class UnitError:
    """One unit of the network on the probe that was followed, in float64.

    Each number is the largest difference in deviations of the unit's output. `free` runs both networks from the images;
    `local` feeds the port's unit with the reference's own activations, so that a local fault is told from an inherited
    one. `noise` is the reference's float32 run against its float64 run.
    """

    unit: str
    free: float
    local: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The evidence that two networks agree, or where they do not.

    `passed` says that the numbers agree, `independent` that the reference read the original by other code than ours;
    only both together prove the port. `dependence` says why the reference is not independent and what would prove the
    port, None where it is; `undecided` why the runs give no evidence either way, None where they do. `where` is the
    first unit whose local error passes the bound, `off` which side the third opinion contradicts. `source` and `port`
    describe the two files (path, layout, digest, architecture, contract, ledger counts), `sides` the two
    implementations (name → versions, seconds, and how it came by the network). `logits` holds, for each probe, both
    sides' logits in both precisions (`reference64` …, `n classes`), for scatter plots and top-5 lists.
    """

    passed: bool
    independent: bool
    dependence: str | None
    checks: tuple[Check, ...]
    figures: tuple[Figures, ...]
    units: tuple[UnitError, ...]
    where: str | None
    off: Suspect | None
    probes: tuple[Probe, ...]
    logits: Mapping[str, Mapping[str, Array]]
    source: Mapping[str, Any]
    port: Mapping[str, Any]
    sides: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    diagnosis: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    seconds: float = 0.0
    undecided: str | None = None

    @property
    def grade(self) -> Grade:
        """What the evidence is worth."""
        if self.undecided is not None:
            return "cannot be judged"
        if not self.passed:
            return "differs"
        return "proven" if self.independent else "agrees"

    @property
    def proven(self) -> bool:
        """Whether the port is proven to be the same network."""
        return self.grade == "proven"


# -- the check ---------------------------------------------------------------------------------------------------------


def check(
    converted: Port,
    against: Port | None = None,
    *,
    src: str | PathLike[str] | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    contract: Mapping[str, Any] | None = None,
    output_name: str | None = None,
    ignore_inheritance: bool = False,
    reference: str | PathLike[str] | None = None,
    backend: str = "tensorflow",
    sizes: tuple[int, ...] = SIZES,
    batch: int = BATCH,
    images: str | PathLike[str] | None = None,
    seed: int = 0,
    save_reference: str | PathLike[str] | None = None,
    limit: float = LIMIT,
    threads: int | None = None,
    trust_code: bool = False,
    processes: Processes | None = None,
) -> Parity:
    """Whether a port is the same network as the original it came from: files, or objects in memory.

    A torch module or a Keras model runs as it is (`prove.present`). For a file, and a state dict, the reference is the
    software that owns the layout of `against`, or what it, or a class of the user's own, answered before (`reference`;
    with `against`, too, where the port's tensors had to be rounded: the proof then has two steps); `src`, `kernels`,
    `within`, `contract`, `output_name` and `ignore_inheritance` say of `against` what `read` cannot find out; of a port
    without a head it is the body alone. A port that is a file is run by Keras on `backend` (tensorflow, torch, jax) or
    the forward pass in numpy; where Keras computes float32 alone (on torch and JAX), numpy gives the float64 evidence.
    `sizes` are of the noise, `batch` images of each; `images` is a folder of the user's own pictures, without it
    scikit-learn's two photographs are taken where they are installed. `limit` is each run's time in seconds, `threads`
    bounds each side's threads: on one, figures do not depend on the number of cores; without it two sides that run at
    once take half of the cores each. `trust_code` lets code run that `against` holds or names (a class of
    somebody's own in a pickled module): only for files whose source is trusted. `processes` are kept from one check to
    the next by who makes many (`prove.worker.Processes`). Raises UsageError for options that do
    not go together, MisfitError for networks with different numbers, and what reading and running raise.
    """
    started = time.perf_counter()
    settings = Settings(backend=backend, limit=limit, threads=threads, trust_code=trust_code)
    if reference is None:
        settings = _shared(settings)
    with nullcontext(processes) if processes else Processes() as running:
        settings = replace(settings, processes=running)
        if _is_for_keras(converted, backend):
            running.begin(backend, settings.threads)
        port, source = read(converted, ignore_inheritance=True), None  # its logits are judged
        if against is not None:
            source = read(
                against,
                src=src,
                kernels=kernels,
                within=within,
                no_top=port.architecture.classes is None,
                contract=contract,
                output_name=output_name,
                ignore_inheritance=ignore_inheritance,
            )
            _require_same_numbers(port, source.architecture, source.checkpoint.path)
        elif contract:
            message = f"{', '.join(contract)}: the contract is that of --against, and a recording has its own"
            raise UsageError(message, hint="leave it out, or name the checkpoint with --against")
        if reference is not None:
            original = Recording.load(Path(reference))
            _require_same_numbers(port, original.architecture, reference)
            _require_same_source(original, source, reference)
            answers = present.port(_object(converted), port, original.probes, settings)
        elif source is not None:
            probes = make_probes(source, sizes, batch, Path(images) if images is not None else None, seed)
            sides = (_object(against), source), (_object(converted), port)
            original, answers = _run_both(*sides, probes, settings)
        else:
            raise UsageError("a port is compared with --against CHECKPOINT or with --reference FILE")
    if save_reference is not None:
        original.save(Path(save_reference))
    return replace(judge(port, source, original, answers), seconds=time.perf_counter() - started)


def diagnose(
    converted: Port,
    against: Port | None = None,
    *,
    src: str | PathLike[str] | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    contract: Mapping[str, Any] | None = None,
    output_name: str | None = None,
    ignore_inheritance: bool = False,
    reference: str | PathLike[str] | None = None,
    backend: str = "numpy",
    trust_code: bool = False,
) -> Parity:
    """Which known fault tells a converted file from the checkpoint it came from, and on which units.

    As `check`, on the one small probe that is followed through the network: `diagnosis` has the findings, `where` the
    first unit that is off.
    """
    return check(
        converted,
        against=against,
        src=src,
        kernels=kernels,
        within=within,
        contract=contract,
        output_name=output_name,
        ignore_inheritance=ignore_inheritance,
        reference=reference,
        backend=backend,
        sizes=(),
        trust_code=trust_code,
    )


def _object(thing: Port | None) -> Object | None:
    """The object that a side is; None for a file."""
    return None if isinstance(thing, str | PathLike) else thing


def _shared(settings: Settings) -> Settings:
    """Half of the cores for each of two sides that run at once: more would wait, and spin meanwhile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return replace(settings, threads=settings.threads or max(1, cores // 2))


def _is_for_keras(converted: Port, backend: str) -> bool:
    """Whether a port's name says that Keras will run it, and Keras is there."""
    is_keras = isinstance(converted, str | PathLike) and os.fspath(converted).endswith(KERAS)
    return is_keras and backend in BACKENDS and find_spec("keras") is not None


def _run_both(
    original: tuple[Object | None, Network],
    port: tuple[Object | None, Network],
    probes: tuple[Probe, ...],
    settings: Settings,
) -> tuple[Recording, Recording]:
    """The reference and the port, both at once where they wait for processes of their own; what runs here runs here."""
    runs = partial(present.reference, *original, probes, settings), partial(present.port, *port, probes, settings)
    here = [present.is_here(*side, is_port=side is port) for side in (original, port)]
    with ThreadPoolExecutor(2) as pool:
        elsewhere = {side: pool.submit(run) for side, run in enumerate(runs) if not here[side]}
        answers = {side: run() for side, run in enumerate(runs) if here[side]}
        answers |= {side: future.result() for side, future in elsewhere.items()}
    return answers[0], answers[1]


def _require_same_numbers(port: Network, architecture: Architecture, against: str | PathLike[str]) -> None:
    """Refuse to compare networks that cannot be the same."""
    if port.architecture == architecture:
        return
    shown = ", ".join(f"{key} {both}" for key, both in architecture.differing(port.architecture).items())
    path = port.checkpoint.path
    message = f"{path} and {against} are networks of different numbers: expected and found {shown}"
    raise MisfitError(message, hint="compare a port with the very checkpoint it was made from")


def _require_same_source(recording: Recording, source: Network | None, reference: str | PathLike[str]) -> None:
    """Refuse a recording that was made of another file than the one that stands beside it."""
    if source is None or source.checkpoint.is_live:
        return
    if recording.metadata["sha256"] in (None, digest(source.checkpoint)):
        return
    message = f"{reference} was recorded for {recording.metadata['path']}, which is another file than"
    hint = "name the checkpoint that it was recorded for, or none"
    raise MisfitError(f"{message} {source.checkpoint.path}", hint=hint)


# -- the verdict -------------------------------------------------------------------------------------------------------


def judge(port: Network, source: Network | None, reference: Recording, answers: Recording) -> Parity:
    """The verdict on the port's answers beside the reference's to the same probes, and what follows from it.

    Without `source` (a saved reference) the port's tensors cannot be compared with the original's. Raises
    ComparisonError for last maps of two sizes.
    """
    _require_same_shapes(reference, answers)
    with np.errstate(all="ignore"):  # NaN and infinity are judged, not warned of
        figures = tuple(_figures(reference, answers))
        checks = tuple(all_checks(port, source, reference, answers, figures))
        agree = all(check.passed for check in checks)
        undecided = None if agree else no_evidence(reference, answers, checks) or _rounded_alone(port, source, checks)
        wrong = not agree and undecided is None
        prepared = tuple(differences(reference, answers))
        misprepared = [difference for difference in prepared if difference.is_judged]
        diagnosis = _diagnosis(port, reference, answers)
        units = tuple(_units(reference, answers, diagnosis.errors))
        return Parity(
            passed=agree and not misprepared,
            independent=reference.independent,
            dependence=None if reference.independent else dependence(reference.metadata),
            checks=(*checks, *(difference.check() for difference in misprepared)),
            figures=figures,
            units=units,
            where=_first_divergence(units, diagnosis.faulty) if wrong else None,
            off=_suspect(port, source, reference, answers) if wrong else None,
            probes=reference.probes,
            logits=_logits(reference, answers),
            source=reference.metadata,
            port=answers.metadata,
            sides={"reference": _implementation(reference), "port": _implementation(answers)},
            notes=tuple(_notes(reference, answers, prepared, rounded=is_rounded(checks))),
            diagnosis=(
                *(finding.to_json() for finding in diagnosis.findings if wrong),
                *(difference.finding() for difference in misprepared),
            ),
            undecided=undecided,
        )


def _require_same_shapes(reference: Recording, answers: Recording) -> None:
    """Refuse to compare last maps of two sizes: they are two networks'. Raises ComparisonError."""
    for (precision, probe), truth in reference.logits.items():
        logits = answers.logits[precision, probe]
        if logits.shape != truth.shape:
            message = f"two networks: on {probe} the reference puts out {truth.shape}, the port {logits.shape}"
            raise ComparisonError(message, hint="their stems or their pools differ: inspect shows both contracts")


def _implementation(recording: Recording) -> dict[str, Any]:
    facts = {key: recording.metadata[key] for key in ("name", "float64", "versions", "seconds")}
    return {**facts, "read_by": recording.read_by}


def _logits(reference: Recording, answers: Recording) -> dict[str, dict[str, Array]]:
    """Probe → the logits that a report draws."""
    return {
        probe.name: {
            "reference64": reference.logits["float64", probe.name],
            "reference32": reference.logits["float32", probe.name],
            "port64": answers.logits["float64", probe.name],
            "port32": answers.logits["float32", probe.name],
        }
        for probe in reference.probes
    }


def _figures(reference: Recording, answers: Recording) -> Iterator[Figures]:
    """Every probe in both precisions."""
    for probe in reference.probes:
        truth = reference.logits["float64", probe.name]
        for precision in PRECISIONS:
            key = precision, probe.name
            yield figures_of(probe.name, precision, answers.logits[key], reference.logits[key], truth)


# -- where, and which side ---------------------------------------------------------------------------------------------


def _diagnosis(port: Network, reference: Recording, answers: Recording) -> Diagnosis:
    """The known faults that tell the port from the reference on the probe that was followed."""
    followed = reference.followed
    shapes = graph(port.architecture, port.contract).shapes(followed.images.shape)
    taps = {unit: tap for unit, tap in reference.taps["float64"].items() if tap.shape == shapes[unit]}
    return diagnose_units(
        port,
        followed.images,
        taps,
        reference.logits["float64", followed.name],
        port_logits=answers.logits["float64", followed.name],
    )


def _units(reference: Recording, answers: Recording, local: Mapping[str, float]) -> Iterator[UnitError]:
    """Error along the network, unit by unit."""
    exact, rough, port = reference.taps["float64"], reference.taps["float32"], answers.taps["float64"]
    for unit in reference.architecture.units:
        if unit in exact and unit in port:
            truth, noise = exact[unit], float("nan")
            if unit in rough and rough[unit].shape == truth.shape:  # other software may pool otherwise
                noise = largest(rough[unit], truth)
            free = largest(port[unit], truth) if port[unit].shape == truth.shape else float("inf")
            yield UnitError(unit=unit, free=free, local=local.get(unit, float("nan")), noise=noise)


def _first_divergence(units: tuple[UnitError, ...], faulty: tuple[str, ...]) -> str | None:
    """The first unit that is off by itself; else the first at which the free runs part."""
    if faulty:
        return faulty[0]
    return next((row.unit for row in units if not row.free <= BOUND64), None)


def _suspect(port: Network, source: Network | None, reference: Recording, answers: Recording) -> Suspect | None:
    """Which side numpy contradicts, each on its own weights; a side whose weights are wrong is suspect, too."""
    followed = reference.followed
    truth, logits = (side.logits["float64", followed.name] for side in (reference, answers))
    reference_suspect = source is not None and _contradicted(source, followed, truth)
    port_suspect = _contradicted(port, followed, logits)
    if not reference_suspect and not largest(logits, truth) <= BOUND64:
        port_suspect = True
    if reference_suspect:
        return "both" if port_suspect else "reference"
    return "port" if port_suspect else None


def _contradicted(network: Network, probe: Probe, logits: Array) -> bool:
    """Whether numpy, on the network's own weights, gives other logits."""
    third = forward(network.architecture, network.contract, network.weights, probe.images)
    return not largest(logits, third) <= BOUND64


def _notes(
    reference: Recording, answers: Recording, prepared: tuple[Difference, ...], *, rounded: bool
) -> Iterator[str]:
    """What a reader of the verdict should know."""
    if rounded:
        yield "tensors had to be rounded: the proof has two steps, the unrounded mapping and each tensor's half ULP"
    if reference.read_by == "class":
        yield (
            f"the reference is {reference.metadata['name']}'s own class with the file's tensors; weights alone do not "
            "tell whether another class wrote them: densenet-port record runs yours"
        )
    if reference.metadata.get("in_process"):
        yield f"the reference is {reference.metadata['name']} itself, as it answers in this process"
    elif reference.read_by == "model":
        yield f"the reference was recorded from {reference.metadata['name']}"
    if assumed := [key for key in UNJUDGED if reference.metadata.get("origins", {}).get(key) == "assumed"]:
        yield f"assumed, and not judged by logits of prepared images: {', '.join(assumed)}"
    yield from (f"not judged, {one.entry}: {one.says}" for one in prepared if not one.is_judged)
    first, second = reference.contract.pool_rounding, answers.contract.pool_rounding
    if first != second:
        yield f"average pools round odd sizes {first} in the reference and {second} in the port, by contract"
    if not any(probe.labels for probe in reference.probes):
        yield "no photographs were compared: give --images DIR, or install scikit-learn and Pillow for two"


def _rounded_alone(port: Network, source: Network | None, checks: tuple[Check, ...]) -> str | None:
    """Why a recording alone does not judge a port whose tensors had to be rounded, and which float32 finds right."""
    record = port.checkpoint.record or {}
    near = all(check.passed or check.kind == "float64" for check in checks)
    return ROUNDED if source is None and (record.get("fold") or record.get("absorbed")) and near else None


# -- golden files ------------------------------------------------------------------------------------------------------


def replay(converted: str | PathLike[str], golden: str | PathLike[str]) -> list[Check]:
    """A converted file's logits and activations in numpy, against those that the reference's software computed before.

    `golden` is a saved reference; the checks' names say so where it was not independent. No framework runs. A file
    whose tensors were rounded is held to the reference's own float32 distance, every other to the float64 bound. Raises
    as `check` does.
    """
    port, recording = read(converted, ignore_inheritance=True), Recording.load(Path(golden))
    _require_same_numbers(port, recording.architecture, golden)
    rounded = bool((port.checkpoint.record or {}).get("fold")) or port.contract != recording.contract
    checks: list[Check] = []
    for probe in recording.probes:
        checks += _replayed(port, recording, probe, rounded=rounded)
    return checks


def _replayed(port: Network, recording: Recording, probe: Probe, *, rounded: bool) -> Iterator[Check]:
    """The checks of one probe: its logits, and its activations where it was followed."""
    known = recording.taps["float64"] if probe is recording.followed else {}
    errors: dict[str, float] = {}

    def tap(unit: str, output: Array) -> None:
        if unit in known:
            errors[unit] = largest(output, known[unit])

    logits = forward(port.architecture, port.contract, port.weights, probe.images, tap=tap if known else None)
    truth, bound = recording.logits["float64", probe.name], BOUND64
    if rounded:
        bound = float32_bound(rms(recording.logits["float32", probe.name], truth), truth)
    title = probe.name
    if not recording.independent:
        title += f" (recorded by {recording.metadata['name']}, not independent)"
    yield bounded("float64", f"golden logits, {title}", largest(logits, truth), bound, "max |Δ| / deviation")
    if errors:
        worst = max(errors, key=lambda unit: np.nan_to_num(errors[unit], nan=np.inf))
        yield bounded("float64", f"golden activations, {title}", errors[worst], bound, f"worst in {worst}")
