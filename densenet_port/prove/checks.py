"""What is judged of two recordings: the evidence itself, the written tensors, and the logits in either precision."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.layouts.layout import TensorKey
from densenet_port.layouts.transform import absorb_in_scale, absorb_in_variance, rounded
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.figures import Figures, largest, least_noise, rms
from densenet_port.prove.recording import Recording

BOUND64 = 1e-10  # of the logits' deviation: a right port measures 1e-14, the smallest known mistake 1e-6
FACTOR32 = 8.0  # of the reference's own float32 distance: twice the largest of 600 right ports, see docs/parity.md
HALF_ULP = 0.5 + 1e-6  # of a written tensor; the slack is float64's own rounding of the exact value
_FEWER = 2**16  # units in the last place of a float32 that are one of a bfloat16
CONSTANT = 1e-9  # of the largest logit: float64's rounding through a deep network, and far below any float32 step
NEAR = 1e-6  # of the largest logit: how close two constants must be not to be two networks
GROSS = 1e-3  # of the logits' deviation: a hundred times what float32 makes of a deep network
SAMENESS = 1e3  # logits that differ a thousand times more between classes than between images answer nothing

MUTE = "the reference's logits do not depend on the picture"
PROBABILITIES = "these are probabilities, not logits"

Kind = Literal["evidence", "float64", "float32", "weights", "preparation"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was judged: whether `measured <= bound`, and what that says.

    `kind` is its family; `name` is unique in a result.
    """

    kind: Kind
    name: str
    passed: bool
    measured: float | None
    bound: float | None
    says: str


def bounded(kind: Kind, name: str, measured: float, bound: float, says: str) -> Check:
    """A check that NaN does not pass."""
    return Check(kind=kind, name=name, passed=bool(measured <= bound), measured=measured, bound=bound, says=says)


def all_checks(
    port: Network, source: Network | None, reference: Recording, answers: Recording, figures: Iterable[Figures]
) -> list[Check]:
    """All that is judged of the port's answers beside the reference's, and of its tensors where there is a source."""
    figures = list(figures)
    checks = [*_evidence(reference, answers)]
    exact = _unrounded(port, source) if source else {}
    if exact:
        checks.append(_weight_check(port, exact))
    if is_rounded(checks):
        checks += _rounded_checks(port, exact, reference, answers)
    else:
        checks += _direct_checks(figures)
    if is_rounded(checks) and _halves(port):
        return [*checks, *_own_float32_checks(reference, answers, figures)]
    return [*checks, *_float32_checks(reference, figures)]


def is_rounded(checks: Iterable[Check]) -> bool:
    """Whether written tensors are the exact ones, rounded; what is wrong has not been rounded."""
    return any(check.kind == "weights" and check.passed and check.measured for check in checks)


# -- evidence ----------------------------------------------------------------------------------------------------------


def _evidence(reference: Recording, answers: Recording) -> Iterator[Check]:
    """What the runs must be before they can show anything."""
    yield from _side_evidence("reference", reference)
    yield from _side_evidence("port", answers)
    for probe in reference.probes:
        yield _responsive(probe.name, reference.logits["float64", probe.name])
        if reference.metadata["float64"] != reference.metadata["name"]:
            yield _tied(reference, probe.name)


def _side_evidence(side: str, recording: Recording) -> Iterator[Check]:
    """Whether one side computed in float64, and gave numbers."""
    computed = recording.computed["float64"]
    yield Check(
        kind="evidence",
        name=f"{side} computed in float64",
        passed=computed == "float64",
        measured=None,
        bound=None,
        says=f"{recording.metadata['float64']} computed in {computed}",
    )
    for (precision, probe), logits in recording.logits.items():
        if lost := int(np.sum(~np.isfinite(logits))):
            says = f"{lost} logits of the {side} are NaN or infinite"
            yield bounded("evidence", f"{side} finite, {probe}, {precision}", float(lost), 0.0, says)


def _responsive(probe: str, logits: Array) -> Check:
    """Whether logits say anything: not constant, not the same for every image, not probabilities."""
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    sameness = float("inf") if _is_constant(logits) else float(np.std(flat) / np.max(np.std(flat, axis=0)))
    says = "deviation / deviation between images"
    check = bounded("evidence", f"logits answer, {probe}", sameness, SAMENESS, says)
    if is_probabilities(logits):
        return replace(check, passed=False, says=PROBABILITIES)
    return check if check.passed else replace(check, says=f"{MUTE}: {says}")


def is_probabilities(logits: Array) -> bool:
    """Whether an output is of shares that make 1 for each picture."""
    flat = logits.reshape(len(logits), -1).astype(np.float64)
    return bool(np.all(flat >= 0) and np.allclose(flat.sum(axis=1), 1, atol=1e-3))


def _tied(reference: Recording, probe: str) -> Check:
    """Whether float64 evidence that other software computed belongs to the reference.

    Two right implementations of one network are about as far from its float64 logits in float32: each unit's sums are
    rounded in another order, which changes the size of the error by a small factor. The factor is the one that holds
    for ports (`FACTOR32`), and the measure is the float32 distance of the software that computed the evidence.
    """
    truth, metadata = reference.logits["float64", probe], reference.metadata
    noise = metadata.get("rounding", {}).get(probe, float("nan"))
    return bounded(
        "evidence",
        f"{metadata['name']} in float32 is {metadata['float64']} in float64, {probe}",
        rms(reference.logits["float32", probe], truth),
        float32_bound(noise, truth),
        "RMS distance / deviation; one network, rounded otherwise",
    )


def no_evidence(reference: Recording, answers: Recording, checks: Iterable[Check]) -> str | None:
    """Why two runs whose checks do not all pass give no evidence either way; None where they part."""
    failed = [check for check in checks if not check.passed]
    truths = [reference.logits["float64", probe.name] for probe in reference.probes]
    logits = [answers.logits["float64", probe.name] for probe in reference.probes]
    if not all(np.isfinite(truth).all() for truth in truths):
        return "the reference gives no numbers: its logits are NaN or infinite"
    if PROBABILITIES in {check.says for check in failed}:
        return "the reference gives probabilities, not logits"
    if all(map(_is_constant, truths)) and all(map(_is_near, logits, truths)):
        return f"{MUTE}, and a constant tells nothing of a network"
    for side, recording in (("reference", reference), ("port", answers)):
        computed = recording.computed["float64"]
        if computed != "float64" and all(largest(*pair) <= GROSS for pair in zip(logits, truths, strict=True)):
            return f"the {side} computed in {computed}, which cannot tell a right port from a nearly right one"
    return MUTE if all(check.says.startswith(MUTE) for check in failed) else None


def _is_constant(logits: Array) -> bool:
    """Whether the logits are the same for every picture, to rounding."""
    flat = logits.reshape(len(logits), -1)
    return bool(np.max(np.ptp(flat, axis=0)) <= CONSTANT * np.max(np.abs(flat)))


def _is_near(logits: Array, truth: Array) -> bool:
    """Whether logits are the truth as far as a constant shows: in shares of its own size, not of its deviation."""
    return bool(np.max(np.abs(logits - truth)) <= NEAR * np.max(np.abs(truth)))


# -- logits ------------------------------------------------------------------------------------------------------------


def _direct_checks(figures: Iterable[Figures]) -> Iterator[Check]:
    """Float64 against float64, to rounding."""
    for figure in figures:
        if figure.precision == "float64":
            yield _to_rounding(figure.probe, figure.largest)


def _to_rounding(title: str, difference: float) -> Check:
    return bounded("float64", f"float64, {title}", difference, BOUND64, "max |Δ| / deviation")


def _rounded_checks(
    port: Network, exact: Mapping[Slot, Array], reference: Recording, answers: Recording
) -> Iterator[Check]:
    """Where tensors were rounded: the unrounded mapping against the reference, and the port against its own tensors."""
    for probe in reference.probes:
        unrounded = forward(port.architecture, port.contract, exact, probe.images)
        truth = reference.logits["float64", probe.name]
        yield _to_rounding(f"{probe.name}, unrounded", largest(unrounded, truth))
        written = forward(port.architecture, port.contract, port.weights, probe.images)
        yield _to_rounding(f"{probe.name}, as written", largest(answers.logits["float64", probe.name], written))


def _float32_checks(reference: Recording, figures: Iterable[Figures]) -> Iterator[Check]:
    """Float32 against the truth, by the reference's own rounding."""
    for figure in figures:
        if figure.precision == "float32":
            bound = float32_bound(figure.noise, reference.logits["float64", figure.probe])
            says = "RMS distance to the float64 truth / deviation"
            yield bounded("float32", f"float32, {figure.probe}", figure.distance, bound, says)


def _own_float32_checks(reference: Recording, answers: Recording, figures: Iterable[Figures]) -> Iterator[Check]:
    """Float32 of a port in half precision against its own float64 logits: its tensors' rounding was judged before."""
    for figure in figures:
        if figure.precision == "float32":
            truth = answers.logits["float64", figure.probe].astype(np.float64)
            distance = rms(answers.logits["float32", figure.probe], truth)
            bound = float32_bound(figure.noise, reference.logits["float64", figure.probe])
            says = "RMS distance to the port's own float64 logits / deviation"
            yield bounded("float32", f"float32, {figure.probe}", distance, bound, says)


def float32_bound(noise: float, truth: Array) -> float:
    """How far from the float64 truth float32 logits may be, by the reference's own distance (`noise`)."""
    return FACTOR32 * max(noise, least_noise(truth))


# -- written tensors ---------------------------------------------------------------------------------------------------


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
            written = port.weights[variance]
            if np.array_equal(written, rounded(exact[variance], _stored(port, variance))):
                exact[scale] = absorb_in_scale(exact[scale], exact[variance], old, new)
            else:
                exact[variance] = absorb_in_variance(exact[variance], old, new)
    return exact


def _stored(port: Network, slot: Slot) -> str:
    """The type in which a port's file holds a slot's tensor; of one that was folded, that of the result."""
    claim = port.ledger.claims.get(TensorKey(slot.unit, slot.role))
    return claim.tensor.dtype if claim else port.weights[slot].dtype.name


def _halves(port: Network) -> bool:
    """Whether a port's file holds half precision."""
    return any(claim.tensor.dtype in ("float16", "bfloat16") for claim in port.ledger.claims.values())


def _weight_check(port: Network, exact: Mapping[Slot, Array]) -> Check:
    """Every written tensor against its exact value, in units of its last place: at most one half."""
    worst, where, changed = 0.0, "", 0
    for slot, expected in exact.items():
        written = port.weights[slot]
        last = np.spacing(np.abs(written)).astype(np.float64) * (_FEWER if _stored(port, slot) == "bfloat16" else 1)
        steps = np.abs(written.astype(np.float64) - expected) / last
        most = float(np.max(np.nan_to_num(steps, nan=np.inf), initial=0.0))
        changed += most > 0
        if most > worst:
            worst, where = most, str(slot)
    says = f"{changed} of {len(exact)} tensors rounded" + (f", most in {where}" if where else "")
    return bounded("weights", "written tensors, in ULP of the exact ones", worst, HALF_ULP, says)
