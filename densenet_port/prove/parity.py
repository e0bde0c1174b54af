"""Parity: what is compared, against which noise floor, the verdict, and the first place where two networks part.

Two implementations run the same prepared images: the reference that owns the original checkpoint, and the port. In
float64 both must agree to rounding. In float32 the port may be no further from the float64 truth than a stated factor
of the reference's own distance to it. Where a port's tensors had to be rounded (an absorbed epsilon, float64 weights),
the proof has two steps: the unrounded mapping meets the float64 bound, and every written tensor is within half an ULP
of it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network, read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.layouts.layout import Kernels
from densenet_port.layouts.transform import absorb_in_scale, absorb_in_variance
from densenet_port.network.architecture import Architecture
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.diagnose import diagnose
from densenet_port.prove.images import BATCH, SIZES, Probe, make_probes
from densenet_port.prove.recording import (
    PRECISIONS,
    Precision,
    Side,
    load_side,
    rms,
    run_port,
    run_reference,
    save_side,
)

BOUND64 = 1e-10  # of the logits' deviation: a right port measures 1e-14, the smallest known mistake 1e-6
FACTOR32 = 8.0  # of the reference's own float32 distance: twice the largest of 600 right ports, see docs/parity.md
HALF_ULP = 0.5 + 1e-6  # of a written tensor; the slack is float64's own rounding of the exact value
SAMENESS = 1e3  # logits that differ a thousand times more between classes than between images answer nothing


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was judged: whether `measured <= bound`, and what that says.

    `kind` is the family (evidence, float64, float32, weights); `name` is unique in a result.
    """

    kind: Literal["evidence", "float64", "float32", "weights"]
    name: str
    passed: bool
    measured: float | None
    bound: float | None
    says: str


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far the port's logits (`n classes`) are from the reference's, for one probe in one precision.

    Distances are in deviations of the reference's float64 logits. `noise` is the reference's own distance to its
    float64 logits (root mean square; 0 in float64), `distance` the port's to the same. `top1` and `top5` are the share
    of images whose best class, or set of five best, agrees; `first_disagreement` the best rank (from 1) at which any
    image's order differs, or None. `ulps` counts logits by distance from the reference in the same precision: exponent
    of two → count, with key -1 for equal bits. `tolerance` is the smallest absolute tolerance that would have passed.
    """

    probe: str
    precision: Precision
    largest: float
    distance: float
    noise: float
    cosine: float
    top1: float
    top5: float
    first_disagreement: int | None
    ulps: Mapping[int, int]
    tolerance: float


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
    port, None where it is. `where` is the first unit whose local error passes the bound, `off` which side the third
    opinion contradicts ("port", "reference", "both" or None). `source` and `port` describe the two files (path, layout,
    digest, architecture, contract, ledger counts), `sides` the two implementations (name → versions and seconds).
    `logits` holds, for each probe, the float64 logits of the reference and the float32 logits of both sides, for
    scatter plots and top-5 lists.
    """

    passed: bool
    independent: bool
    dependence: str | None
    checks: tuple[Check, ...]
    figures: tuple[Figures, ...]
    units: tuple[UnitError, ...]
    where: str | None
    off: Literal["port", "reference", "both"] | None
    probes: tuple[Probe, ...]
    logits: Mapping[str, Mapping[str, Array]]
    source: Mapping[str, Any]
    port: Mapping[str, Any]
    sides: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    diagnosis: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    seconds: float = 0.0

    @property
    def proven(self) -> bool:
        """Whether the port is proven to be the same network."""
        return self.passed and self.independent


# -- the check ---------------------------------------------------------------------------------------------------------


def check(
    converted: Path,
    *,
    against: Path | None = None,
    src: str | Path | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    reference: Path | None = None,
    backend: str = "tensorflow",
    sizes: tuple[int, ...] = SIZES,
    batch: int = BATCH,
    images: Path | None = None,
    seed: int = 0,
    save_reference: Path | None = None,
    limit: float = 600.0,
    threads: int | None = None,
) -> Parity:
    """Whether a converted file is the same network as the checkpoint it came from.

    The reference is the framework that owns the layout of `against`, or a run of it saved before (`reference`); `src`,
    `kernels` and `within` say of `against` what `read` cannot find out. The port is Keras on `backend` (tensorflow,
    torch, jax) or the forward pass in numpy; float64 evidence comes from TensorFlow or numpy alone, since Keras
    computes float32 elsewhere. `sizes` are of the noise, `batch` images of each; `images` is a folder of the user's own
    pictures, without it scikit-learn's two photographs are taken where they are installed. `limit` is each side's time
    in seconds, `threads` bounds its threads: on one, figures do not depend on the number of cores; without it two sides
    that run at once take half of the cores each. Raises UsageError for options that do not go together, MisfitError for
    networks with different numbers, and what reading and running raise.
    """
    started = time.perf_counter()
    port = read(converted)
    if (against is None) == (reference is None):
        raise UsageError("a port is compared with --against CHECKPOINT or with --reference FILE")
    if reference is not None:
        side, source = load_side(reference), None
        _same_numbers(port, side.architecture, str(reference))
        other = run_port(port, backend, side.probes, side.tapped, limit, threads)
    else:
        source = read(cast("Path", against), src=src, kernels=kernels, within=within)
        _same_numbers(port, source.architecture, str(against))
        probes = make_probes(source, sizes, batch, images, seed)
        share = threads or max(1, _cores() // 2)
        side, other = _side_by_side(
            partial(run_reference, source, probes, limit=limit, threads=share),
            partial(run_port, port, backend, probes, probes[0].name, limit, share),
        )
    if save_reference is not None:
        save_side(side, save_reference)
    return replace(judged(port, source, side, other), seconds=time.perf_counter() - started)


def _side_by_side(first: Callable[[], Side], second: Callable[[], Side]) -> tuple[Side, Side]:
    """Both at once: each waits for a process of its own."""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(first), pool.submit(second)]
        return running[0].result(), running[1].result()


def _cores() -> int:
    """The cores that this process may run on: threads beyond them wait for one another, and spin while they do."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _same_numbers(port: Network, architecture: Architecture, against: str) -> None:
    """Refuse to compare networks that cannot be the same."""
    if port.architecture != architecture:
        wanted, found = architecture.to_json(), port.architecture.to_json()
        apart = ", ".join(f"{key} {wanted[key]} and {found[key]}" for key in wanted if wanted[key] != found[key])
        raise MisfitError(
            f"{port.checkpoint.path} and {against} are networks of different numbers: expected and found {apart}",
            hint="compare a port with the very checkpoint it was made from",
        )


# -- the verdict -------------------------------------------------------------------------------------------------------


def judged(port: Network, source: Network | None, reference: Side, other: Side) -> Parity:
    """The verdict on two sides that ran the same probes, and what follows from it.

    Without `source` (a saved reference) the port's tensors cannot be compared with the original's.
    """
    with np.errstate(all="ignore"):  # NaN and infinity are judged, not warned of
        return _judged(port, source, reference, other)


def _judged(port: Network, source: Network | None, reference: Side, other: Side) -> Parity:
    exact = _unrounded(port, source) if source else None
    weights = list(_weight_checks(port, exact)) if exact else []
    rounded = any(check.passed and check.measured for check in weights)  # what is wrong has not been rounded
    figures = tuple(_figures(reference, other))
    checks = [*_evidence(reference, other), *weights]
    checks += _rounded_checks(port, exact, reference, other) if rounded else _direct_checks(figures)
    checks += _float32_checks(reference, figures)
    passed = all(check.passed for check in checks)
    findings = diagnose(port, *_followed(reference), port_logits=other.logits["float64", reference.tapped])
    units = tuple(_units(reference, other, findings.errors))
    return Parity(
        passed=passed,
        independent=reference.independent,
        dependence=None if reference.independent else _dependence(reference),
        checks=tuple(checks),
        figures=figures,
        units=units,
        where=None if passed else _where(units, findings.faulty),
        off=None if passed else _third_opinion(port, source, reference, other),
        probes=reference.probes,
        logits=_shown_logits(reference, other),
        source=reference.told,
        port=other.told,
        sides={"reference": _told_side(reference), "port": _told_side(other)},
        notes=tuple(_notes(reference, other, rounded=rounded)),
        diagnosis=() if passed else tuple(finding.to_json() for finding in findings.findings),
    )


def _dependence(reference: Side) -> str:
    """Why a reference that this project's own table read proves nothing, and what would."""
    return (
        f"the reference ({reference.told['name']}) read the original by {reference.told['layout']}, the table that the "
        "port was made by; what would prove the port: logits that the original's own software gives for the same images"
    )


def _told_side(side: Side) -> dict[str, Any]:
    return {key: side.told[key] for key in ("name", "float64", "versions", "seconds")}


def _shown_logits(reference: Side, other: Side) -> dict[str, dict[str, Array]]:
    """Probe → the logits a report draws."""
    return {
        probe.name: {
            "reference64": reference.logits["float64", probe.name],
            "reference32": reference.logits["float32", probe.name],
            "port64": other.logits["float64", probe.name],
            "port32": other.logits["float32", probe.name],
        }
        for probe in reference.probes
    }


def _followed(side: Side) -> tuple[Array, Mapping[str, Array], Array]:
    """Images, float64 activations and logits of the probe that was followed."""
    images = next(probe.images for probe in side.probes if probe.name == side.tapped)
    return images, side.taps["float64"], side.logits["float64", side.tapped]


def _evidence(reference: Side, other: Side) -> Iterator[Check]:
    """What the runs must be before they can show anything."""
    for name, side in (("reference", reference), ("port", other)):
        really = side.computed["float64"]
        yield Check(
            kind="evidence",
            name=f"{name} computed in float64",
            passed=really == "float64",
            measured=None,
            bound=None,
            says=f"{side.told['float64']} computed in {really}",
        )
        for (precision, probe), logits in side.logits.items():
            wrong = int(np.sum(~np.isfinite(logits)))
            if wrong:
                says = f"{wrong} logits of the {name} are NaN or infinite"
                yield Check(
                    kind="evidence",
                    name=f"{name} finite, {probe}, {precision}",
                    passed=False,
                    measured=float(wrong),
                    bound=0.0,
                    says=says,
                )
    for seen in reference.probes:
        yield _responsive(seen.name, reference.logits["float64", seen.name])
        if reference.told["float64"] != reference.told["name"]:
            yield _tied(reference, seen.name)


def _tied(reference: Side, probe: str) -> Check:
    """Whether float64 evidence that other software computed belongs to the reference.

    Two right implementations of one network are about as far from its float64 logits in float32: each unit's sums are
    rounded in another order, which changes the size of the error by a small factor. The factor is the one that holds
    for ports (`FACTOR32`), and the measure is the float32 distance of the software that computed the evidence.
    """
    truth = reference.logits["float64", probe]
    bound = FACTOR32 * max(reference.told.get("rounding", {}).get(probe, float("nan")), _least_noise(truth))
    return _bounded(
        "evidence",
        f"{reference.told['name']} in float32 is {reference.told['float64']} in float64, {probe}",
        rms(reference.logits["float32", probe], truth),
        bound,
        "RMS distance / deviation; one network, rounded otherwise",
    )


def _responsive(probe: str, logits: Array) -> Check:
    """Whether logits say anything: not constant, not the same for every image, not probabilities."""
    with np.errstate(all="ignore"):
        flat = logits.reshape(len(logits), -1).astype(np.float64)
        sameness = float(np.std(flat) / np.max(np.std(flat, axis=0)))
    probabilities = bool(np.all(flat >= 0) and np.allclose(flat.sum(axis=1), 1, atol=1e-3))
    return Check(
        kind="evidence",
        name=f"logits answer, {probe}",
        passed=bool(sameness <= SAMENESS) and not probabilities,
        measured=sameness,
        bound=SAMENESS,
        says="these are probabilities, not logits" if probabilities else "deviation / deviation between images",
    )


def _direct_checks(figures: tuple[Figures, ...]) -> Iterator[Check]:
    """Float64 against float64, to rounding."""
    for figure in figures:
        if figure.precision == "float64":
            yield _bounded("float64", f"float64, {figure.probe}", figure.largest, BOUND64, "max |Δ| / deviation")


def _bounded(
    kind: Literal["evidence", "float64", "float32", "weights"], name: str, measured: float, bound: float, says: str
) -> Check:
    """A check that NaN does not pass."""
    return Check(kind=kind, name=name, passed=bool(measured <= bound), measured=measured, bound=bound, says=says)


def _rounded_checks(port: Network, exact: Mapping[Slot, Array] | None, reference: Side, other: Side) -> Iterator[Check]:
    """Where tensors were rounded: the unrounded mapping against the reference, and the port against its own tensors."""
    for probe in reference.probes:
        truth = reference.logits["float64", probe.name]
        unrounded = forward(port.architecture, port.contract, cast("Mapping[Slot, Array]", exact), probe.images)
        yield _bounded(
            "float64", f"float64, {probe.name}, unrounded", _apart(unrounded, truth), BOUND64, "max |Δ| / deviation"
        )
        written = forward(port.architecture, port.contract, port.weights, probe.images)
        found = other.logits["float64", probe.name]
        yield _bounded(
            "float64", f"float64, {probe.name}, as written", _apart(found, written), BOUND64, "max |Δ| / deviation"
        )


def _float32_checks(reference: Side, figures: tuple[Figures, ...]) -> Iterator[Check]:
    """Float32 against the truth, by the reference's own rounding."""
    for figure in figures:
        if figure.precision == "float32":
            bound = FACTOR32 * max(figure.noise, _least_noise(reference.logits["float64", figure.probe]))
            says = "RMS distance to the float64 truth / deviation"
            yield _bounded("float32", f"float32, {figure.probe}", figure.distance, bound, says)


def _least_noise(truth: Array) -> float:
    """What rounding the logits themselves to float32 costs: uniform within half an ULP, so ULP / √12."""
    return float(np.sqrt(np.mean(np.spacing(truth.astype(np.float32)).astype(np.float64) ** 2) / 12) / np.std(truth))


def _apart(found: Array, truth: Array) -> float:
    """Largest difference in deviations of the truth; NaN stays NaN."""
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(found.astype(np.float64) - truth)) / np.std(truth))


def _figures(reference: Side, other: Side) -> Iterator[Figures]:
    """Every probe in both precisions."""
    for probe in reference.probes:
        truth = reference.logits["float64", probe.name].astype(np.float64)
        for precision in PRECISIONS:
            own, found = reference.logits[precision, probe.name], other.logits[precision, probe.name]
            yield Figures(
                probe=probe.name,
                precision=precision,
                largest=_apart(found, truth),
                distance=rms(found, truth),
                noise=rms(own, truth),
                cosine=_cosine(found, truth),
                **_ranks(own, found),
                ulps=_ulps(own, found),
                tolerance=float(np.max(np.abs(found.astype(np.float64) - own))),
            )


def _cosine(found: Array, truth: Array) -> float:
    with np.errstate(all="ignore"):
        a, b = found.astype(np.float64).ravel(), truth.ravel()
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _ranks(own: Array, found: Array) -> dict[str, Any]:
    """Agreement of the best class, of the best five, and the first rank at which any image's order differs."""
    first, second = (np.argsort(-side.reshape(len(side), -1), axis=1, kind="stable") for side in (own, found))
    differs = np.any(first != second, axis=0)
    fives = [set(a) == set(b) for a, b in zip(first[:, :5].tolist(), second[:, :5].tolist(), strict=True)]
    return {
        "top1": float(np.mean(first[:, 0] == second[:, 0])),
        "top5": float(np.mean(fives)),
        "first_disagreement": int(np.argmax(differs)) + 1 if differs.any() else None,
    }


def _ulps(own: Array, found: Array) -> dict[int, int]:
    """Logits by their distance from the reference's in units of its last place.

    Exponent of two → count; -1 is equality.
    """
    with np.errstate(all="ignore"):
        steps = np.abs(found.astype(np.float64) - own) / np.spacing(np.abs(own)).astype(np.float64)
        finite = steps[np.isfinite(steps)]
        exponents = np.where(finite == 0, -1, np.ceil(np.log2(np.maximum(finite, 1)))).astype(int)
    return {int(key): int(count) for key, count in zip(*np.unique(exponents, return_counts=True), strict=True)}


# -- rounded tensors ---------------------------------------------------------------------------------------------------


def _unrounded(port: Network, source: Network) -> dict[Slot, Array]:
    """Every tensor that the port should hold, in float64, before its one rounding.

    Another epsilon was absorbed by the variance or by the scale: by the variance, if that is not the source's, rounded.
    """
    exact = {slot: array.astype(np.float64) for slot, array in source.weights.items()}
    old, new = source.contract.epsilon, port.contract.epsilon
    if old == new:
        return exact
    for unit in port.architecture.units.values():
        if unit.kind == "norm":
            scale, variance = Slot(unit.name, "scale"), Slot(unit.name, "variance")
            found = port.weights[variance]
            if np.array_equal(found, exact[variance].astype(found.dtype)):
                exact[scale] = absorb_in_scale(exact[scale], exact[variance], old, new)
            else:
                exact[variance] = absorb_in_variance(exact[variance], old, new)
    return exact


def _weight_checks(port: Network, exact: Mapping[Slot, Array]) -> Iterator[Check]:
    """Every written tensor against its exact value, in units of its last place: at most one half."""
    worst, where, changed = 0.0, "", 0
    for slot, wanted in exact.items():
        found = port.weights[slot]
        steps = np.abs(found.astype(np.float64) - wanted) / np.spacing(np.abs(found)).astype(np.float64)
        largest = float(np.max(np.nan_to_num(steps, nan=np.inf), initial=0.0))
        changed += largest > 0
        if largest > worst:
            worst, where = largest, str(slot)
    says = f"{changed} of {len(exact)} tensors rounded" + (f", most in {where}" if where else "")
    yield _bounded("weights", "written tensors, in ULP of the exact ones", worst, HALF_ULP, says)


# -- where, and which side ---------------------------------------------------------------------------------------------


def _units(reference: Side, other: Side, local: Mapping[str, float]) -> Iterator[UnitError]:
    """Error along the network, unit by unit."""
    truth, rough = reference.taps["float64"], reference.taps["float32"]
    for unit in reference.architecture.units:
        if unit in truth and unit in other.taps["float64"]:
            yield UnitError(
                unit=unit,
                free=_apart(other.taps["float64"][unit], truth[unit]),
                local=local.get(unit, float("nan")),
                noise=_apart(rough[unit], truth[unit]) if _alike(rough, truth, unit) else float("nan"),
            )


def _alike(rough: Mapping[str, Array], truth: Mapping[str, Array], unit: str) -> bool:
    """Whether a unit was followed in float32 too, and is as large there: other software may pool otherwise."""
    return unit in rough and rough[unit].shape == truth[unit].shape


def _where(units: tuple[UnitError, ...], faulty: tuple[str, ...]) -> str | None:
    """The first unit that is off by itself; else the first at which the free runs part."""
    if faulty:
        return faulty[0]
    return next((row.unit for row in units if not row.free <= BOUND64), None)


def _third_opinion(
    port: Network, source: Network | None, reference: Side, other: Side
) -> Literal["port", "reference", "both"] | None:
    """Which side numpy contradicts, each on its own weights; a side whose weights are wrong is off too."""
    images, _, truth = _followed(reference)
    found = other.logits["float64", reference.tapped]

    def contradicted(told: Network, logits: Array) -> bool:
        third = forward(told.architecture, told.contract, told.weights, images)
        return not _apart(logits, third) <= BOUND64

    reference_off = source is not None and contradicted(source, truth)
    port_off = contradicted(port, found) or (not reference_off and not _apart(found, truth) <= BOUND64)
    return "both" if reference_off and port_off else "reference" if reference_off else "port" if port_off else None


def _notes(reference: Side, other: Side, *, rounded: bool) -> Iterator[str]:
    """What a reader of the verdict should know."""
    if rounded:
        yield "tensors had to be rounded: the proof has two steps, the unrounded mapping and each tensor's half ULP"
    rounding = [side.contract.pool_rounding for side in (reference, other)]
    if rounding[0] != rounding[1]:
        yield f"average pools round odd sizes {rounding[0]} in the reference and {rounding[1]} in the port, by contract"
    if not any(probe.labels for probe in reference.probes):
        yield "no photographs were compared: give --images DIR, or install scikit-learn and Pillow for two"


# -- golden files ------------------------------------------------------------------------------------------------------


def replay(converted: Path, golden: Path) -> list[Check]:
    """A converted file's logits and activations in numpy, against those that the reference framework computed before.

    `golden` is a saved reference; the checks' names say so where it was not independent. No framework runs. A file
    whose tensors were rounded is held to the reference's own float32 distance, every other to the float64 bound. Raises
    as `check` does.
    """
    port, side = read(converted), load_side(golden)
    _same_numbers(port, side.architecture, str(golden))
    rounded = bool((port.checkpoint.record or {}).get("fold")) or port.contract != side.contract
    doubt = "" if side.independent else f" (recorded by {side.told['name']}, not independent)"
    checks: list[Check] = []
    for probe in side.probes:
        taps: dict[str, float] = {}
        truth, known = side.logits["float64", probe.name], side.taps["float64"] if probe.name == side.tapped else {}

        def tap(unit: str, output: Array, known: Mapping[str, Array] = known, taps: dict[str, float] = taps) -> None:
            if unit in known:
                taps[unit] = _apart(output, known[unit])

        logits = forward(
            port.architecture,
            port.contract,
            port.weights,
            probe.images,
            tap=tap if known else None,
        )
        own = rms(side.logits["float32", probe.name], truth)
        bound = FACTOR32 * max(own, _least_noise(truth)) if rounded else BOUND64
        checks.append(
            _bounded(
                "float64", f"golden logits, {probe.name}{doubt}", _apart(logits, truth), bound, "max |Δ| / deviation"
            )
        )
        if taps:
            worst = max(taps, key=lambda unit: np.nan_to_num(taps[unit], nan=np.inf))
            checks.append(
                _bounded("float64", f"golden activations, {probe.name}{doubt}", taps[worst], bound, f"worst in {worst}")
            )
    return checks
