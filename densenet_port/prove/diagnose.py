"""Which known fault explains a failed parity, and on which units.

Each unit is judged alone. What enters it is worked out from the reference's own activations, the port's unit runs on
that in numpy float64, and the result is compared with what the reference made of it: a fault shows where it is, never
behind it. On a faulty unit the known faults are undone, one at a time and in pairs, and the one that closes the gap
names what happened. Neither a framework nor the original weights are needed.

A fault is named only when undoing it leaves rounding. Where nothing does, the diagnosis says which channels differ, and
whether other numbers in the same place could mend them: a place, not a cause. Two limits are in the nature of the
evidence. A norm shows its slope and its offset, two numbers for each channel where it holds four: a wrong scale looks
like a wrong variance, a wrong shift like a wrong mean. And a kernel is pinned down only by more places than it has
inputs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.errors import UsageError
from densenet_port.network.contract import Contract
from densenet_port.network.graph import IMAGES, Graph, Operation, graph
from densenet_port.network.numpy import Map, cast_weights, evaluate, forward, padded, run
from densenet_port.network.units import ROLES, Role, Unit
from densenet_port.prove.faults import (
    BOUND,
    FREE,
    KNOWN,
    PREDICATES,
    SENTENCES,
    Evidence,
    Fault,
    Repair,
    Suspect,
    Variant,
    any_norm,
    other_pools,
    stem_pool,
    unit_from,
    variants,
)

CLOSER = 1e-2  # a fault undone must also leave at most this share of the gap
SURPLUS = 64  # places beyond a kernel's inputs that prove it: by chance none of them would fit
LARGEST_PROOF = 1300  # places in a proof, which takes a fraction of a second
FLOAT32_SLACK = 10.0  # a float32 run may be this many times as far from the truth as numpy's own
MOST = 9  # norms of ten that must agree before the tenth is counted with them
NEAR = 0.6  # deviations: means of strange norms are some 1 apart, of the right ones 0.1 to 0.6
TRIED = 2  # images on which a network's graph is guessed at
SHOWN = 3  # units named in a sentence
APPLIES = {fault.name: fault.applies for fault in (*KNOWN, *FREE)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault on all the units that have it.

    `fault` is a stable name, `sentence` tells it. `before` is the largest local error among the units, in deviations of
    the reference's output (infinite where the port gives no number); `after` is what is left with the fault undone,
    together with the others on the same unit, and equals `before` where nothing could be undone. `detail` holds what
    was solved for, and under "units" what differs from unit to unit.
    """

    fault: str
    sentence: str
    units: tuple[str, ...]
    before: float
    after: float
    detail: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes null."""
        return {
            "mistake": self.fault,
            "says": self.sentence,
            "units": list(self.units),
            "before": self.before if isfinite(self.before) else None,
            "after": self.after if isfinite(self.after) else None,
            "detail": dict(self.detail),
        }


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The findings, and the `faulty` units, whose error is more than rounding, of `examined` units.

    The units in `rounded` differ by what rounding their numbers to float32 makes (an absorbed epsilon, a fold) and are
    not faulty. `errors` holds every examined unit's largest local error, in deviations of the reference's output.
    """

    findings: tuple[Finding, ...]
    faulty: tuple[str, ...]
    rounded: tuple[str, ...]
    examined: int
    errors: Mapping[str, float]


def diagnose(
    port: Network, images: Array, taps: Mapping[str, Array], logits: Array, *, port_logits: Array | None = None
) -> Diagnosis:
    """Which known faults tell the port from the reference.

    `images` are `n h w c`. `taps` holds the reference's float64 activations on them, unit → `n h w c`: a norm's before
    its ReLU, a convolution's own channels; `logits` its float64 logits `n classes`, or without a head its last map. A
    unit whose tap is missing, or whose input's is, is not examined. `port_logits` are what the port's own framework
    made of the same images, in the dtype that they were computed in: where they are not what its weights and contract
    say, its graph is asked too. One unit is in memory at a time, beside the taps. Raises UsageError for activations of
    another dtype or shape, MisfitError for weights that do not fit the architecture.
    """
    with np.errstate(all="ignore"):
        comparison = _compared(port, images, taps, logits)
        units = [_examined(comparison, unit) for unit in comparison.visible]
        errors = {unit.name: unit.before for unit in units}
        units = _joined(_placed(comparison, units))
        units += [*_pool(comparison), *_last_map(comparison)]
        graphs = [] if port_logits is None else [*_graph_findings(port, comparison.known[IMAGES], port_logits)]
    return _diagnosis(comparison.network, units, graphs, errors)


# -- the evidence ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A port beside the activations of its reference.

    `known` holds the images and what the reference's units put out. `network` is the port's graph up to its logits, and
    `reference` the same with the stem's pool as the reference has it, which `contract` tells.
    """

    port: Network
    known: Mapping[str, Map]
    network: Graph
    reference: Graph
    contract: Contract

    @cached_property
    def visible(self) -> list[str]:
        """The units whose output and input are known."""
        return [name for name in self.network.units if {name, *_sources(self.network, name)} <= self.known.keys()]

    def suspect(self, name: str) -> Suspect:
        """The port's unit with the evidence on it."""
        (source,) = _steps(self.reference, name)[0].inputs
        evidence = Evidence(evaluate(self.reference, source, self.known, {}), self.known[name])
        return Suspect.of(_steps(self.network, name), self.weights(name), evidence)

    def weights(self, name: str) -> dict[Role, Map]:
        """The port's tensors of one unit, in float64. Raises MisfitError when they are missing or of another shape."""
        alone = replace(self.network, operations={name: self.network.operations[name]})
        weights = cast_weights(alone, self.port.weights, np.float64)
        return {slot.role: array for slot, array in weights.items()}


def _steps(network: Graph, unit: str) -> tuple[Operation, ...]:
    """A unit's own operation; for a dense layer with those in front of it, from the ReLU on, or from another unit's."""
    steps = [network.operations[unit]]
    while steps[0].kind in ("dense", "mean", "max", "flatten", "average_pool"):
        before = network.operations[steps[0].inputs[0]]
        if before.unit or before.kind == "concat":
            break
        steps.insert(0, before)
    return tuple(steps)


def _sources(network: Graph, name: str) -> Iterator[str]:
    """The units whose outputs enter an operation, or the images."""
    for source in network.operations[name].inputs:
        if source == IMAGES or source in network.units:
            yield source
        else:
            yield from _sources(network, source)


def _compared(port: Network, images: Array, taps: Mapping[str, Array], logits: Array) -> Comparison:
    """The evidence, with the stem's pool read from the first norm behind it."""
    contract, channels = replace(port.contract, output="logits"), port.architecture.channels
    network = graph(port.architecture, contract)
    images = np.asarray(images, np.float64)
    if images.ndim != 4 or images.shape[-1] != channels or not len(images):  # n h w c
        raise UsageError(f"images must have the axes n h w c with c={channels}, found shape {images.shape}")
    shapes = network.shapes(images.shape)
    outputs = {unit: np.asarray(taps[unit]) for unit in network.units if unit in taps}
    outputs[network.logits] = np.asarray(logits)
    for name, output in outputs.items():
        _check_output(name, output, shapes[name])
    known = {IMAGES: images, **outputs}
    comparison = Comparison(port=port, known=known, network=network, reference=network, contract=contract)
    for pool in (contract, *other_pools(contract)):
        other = replace(comparison, reference=graph(port.architecture, pool), contract=pool)
        if _pool_gap(other) <= BOUND:
            return other
    return comparison


def _check_output(name: str, output: Array, shape: tuple[int, ...]) -> None:
    """Raises UsageError where an output of the reference has another dtype or shape than it must."""
    if output.dtype != np.float64:
        raise UsageError(f"diagnosis needs the reference's activations in float64, found {output.dtype} for {name}")
    if output.shape != shape:
        raise UsageError(
            f"the reference's {name} has shape {output.shape}, expected {shape}",
            hint="axes are n h w c; where the contract's pool_rounding is another, only even sizes agree",
        )


def _pool_gap(comparison: Comparison) -> float:
    """How far the first norm behind the stem's pool is from any norm at all of what enters it."""
    unit = _behind_pool(comparison.reference)
    if unit is None or unit not in comparison.visible:
        return 0.0
    return any_norm(comparison.suspect(unit)).error


def _behind_pool(network: Graph) -> str | None:
    """The first unit that reads the stem's pool."""
    pool = stem_pool(network)
    return unit_from(network, pool.name) if pool else None


# -- one unit, by its own numbers --------------------------------------------------------------------------------------


class UnitFault(NamedTuple):
    """A fault that a unit has: its name, the detail that every unit with it shares, and this unit's own."""

    name: str
    shared: Mapping[str, Any] = {}
    own: Mapping[str, Any] = {}


class Examined(NamedTuple):
    """A unit, its local error, and what is left of it with its faults undone."""

    name: str
    before: float
    after: float
    faults: tuple[UnitFault, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A suspect with some faults undone."""

    suspect: Suspect
    faults: tuple[UnitFault, ...] = ()

    @cached_property
    def errors(self) -> Map:
        """The local errors `c` on the part of the evidence that guesses are tried on."""
        return self.suspect.errors(self.suspect.sample)

    def examined(self, before: float, after: float, *further: UnitFault) -> Examined:
        """The unit, explained by the faults that are undone here, and further ones."""
        return Examined(self.suspect.operation.name, before, after, (*self.faults, *further))


def _examined(comparison: Comparison, unit: str) -> Examined:
    """One unit judged, and explained by the known faults if it is faulty and they can."""
    suspect = comparison.suspect(unit)
    before = suspect.error
    unexplained = Examined(unit, before, before)
    if not all(np.isfinite(array).all() for array in suspect.evidence):
        return Examined(unit, before, before, (UnitFault("no-numbers"),))
    if before <= BOUND:
        return unexplained
    return _explained(suspect, before) or unexplained


def _explained(suspect: Suspect, before: float) -> Examined | None:
    """By one known fault, by rounding, by two, by one and rounding, or by the channels that are wrong."""
    start, types = Trial(suspect), _types(suspect.weights)
    singles = list(_repaired(start, KNOWN))
    explained = _first_closing(singles, before) or _first_rounded([start], types, before)
    if explained:
        return explained
    pairs = list(_pairs(singles))
    return (
        _first_closing(pairs, before)
        or _first_rounded(singles, types, before)
        or _all_but_some_channels([start, *singles, *pairs], before)
    )


def _repaired(trial: Trial, faults: Iterable[Fault]) -> Iterator[Trial]:
    """A trial with one more fault undone: each of these, in every way that there is."""
    for fault in faults:
        if fault.applies(trial.suspect.operation):
            for suspect, shared, own in fault.repairs(trial.suspect):
                yield Trial(suspect, (*trial.faults, UnitFault(fault.name, shared, own)))


def _pairs(singles: Iterable[Trial]) -> Iterator[Trial]:
    """The trials with one more known fault undone, of those that come later in the table."""
    names = [fault.name for fault in KNOWN]
    for trial in singles:
        yield from _repaired(trial, KNOWN[names.index(trial.faults[0].name) + 1 :])


def _first_closing(trials: Iterable[Trial], before: float) -> Examined | None:
    """The first trial that closes the gap, on a little of the evidence and then on all of it."""
    for trial in trials:
        if trial.errors.max() <= BOUND:
            after = trial.suspect.error
            if _closed(before, after):
                return trial.examined(before, after)
    return None


def _closed(before: float, after: float) -> bool:
    """Whether nothing but rounding is left, and orders of magnitude less than there was."""
    return after <= min(BOUND, CLOSER * before)


def _all_but_some_channels(trials: Sequence[Trial], before: float) -> Examined | None:
    """The fewest faults that leave at most half of the channels wrong."""
    best = min(trials, key=lambda trial: (int((trial.errors > BOUND).sum()), len(trial.faults)))
    errors = best.suspect.errors(best.suspect.evidence)
    wrong = errors > BOUND
    if not 0 < 2 * wrong.sum() <= wrong.size:
        return None
    return best.examined(before, float(errors[~wrong].max()), UnitFault("channel-wrong", own=_counted(wrong)))


def _counted(wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """Which channels differ, the first few, and of how many."""
    channels = np.flatnonzero(wrong).tolist()
    return {"channels": channels[:8], "differing": len(channels), "of": wrong.size}


# -- rounding ----------------------------------------------------------------------------------------------------------


def _first_rounded(trials: Iterable[Trial], types: Sequence[str], before: float) -> Examined | None:
    """The first trial that leaves no more than what rounding the port's numbers, or the reference's, makes."""
    for trial in trials:
        for kind in types:
            if _closed(before, _excess(trial.suspect, trial.suspect.sample, kind)):
                after = _excess(trial.suspect, trial.suspect.evidence, kind)
                if _closed(before, after):
                    name = "rounded-to-float32" if kind == "float32" else "rounded-to-half"
                    return trial.examined(before, after, UnitFault(name, {"type": kind}))
    return None


def _excess(suspect: Suspect, evidence: Evidence, kind: str) -> float:
    """The largest local error beyond what rounding to a type can make, in deviations."""
    apart = np.abs(suspect.run(evidence.x) - evidence.expected)
    return float(np.maximum(apart - _reach(suspect, evidence.x, kind), 0).max()) / suspect.deviation


def _types(weights: Mapping[Role, Map]) -> list[str]:
    """The floating types that hold every number of a unit exactly: float32, then those of half the width."""
    singles = [array.astype(np.float32) for array in weights.values()]
    if not all(map(np.array_equal, singles, weights.values())):
        return []
    half = all(np.array_equal(array.astype(np.float16), array) for array in singles)
    brain = not any((array.view(np.uint32) & 0xFFFF).any() for array in singles)
    return ["float32", *["bfloat16"] * brain, *["float16"] * half]


def _gap_in(kind: str, array: Map) -> Map:
    """The distance of two neighbouring numbers of a type: half of it for each side's rounding."""
    narrow = np.abs(array).astype(np.float16 if kind == "float16" else np.float32)
    gap: Map = np.spacing(narrow).astype(np.float64)
    return gap * 2**16 if kind == "bfloat16" else gap


def _reach(suspect: Suspect, x: Map, kind: str) -> Map:
    """How far the output can move when every number moves to its neighbour in a type.

    Softmax and sigmoid move by no more than the logits that they are given.
    """
    gaps = {role: _gap_in(kind, array) for role, array in suspect.weights.items()}
    if suspect.operation.kind != "norm":
        steps = tuple(step for step in suspect.steps if step.kind != "activation")
        return replace(suspect, steps=steps, weights=gaps).run(np.abs(x))
    scale, _, mean, variance = (suspect.weights[role] for role in ROLES["norm"])
    epsilon = suspect.operation.epsilon
    slope = np.abs(scale) / np.sqrt(variance + epsilon)
    steepest = (np.abs(scale) + gaps["scale"]) / np.sqrt(np.maximum(variance - gaps["variance"], 0) + epsilon)
    reach: Map = np.abs(x - mean) * (steepest - slope) + gaps["mean"] * steepest + gaps["shift"]
    return reach


# -- one unit, by what else could be there -----------------------------------------------------------------------------


def _placed(comparison: Comparison, units: Sequence[Examined]) -> list[Examined]:
    """The units, with what can be said of those that no known fault on their own numbers explains."""
    pending = [unit.name for unit in units if not unit.faults and unit.before > BOUND]
    samples = _samples(comparison, pending)
    misplaced = Fault("misplaced", lambda _: True, partial(_held_elsewhere, comparison, samples))
    return [_place(comparison, unit, misplaced) if unit.name in pending else unit for unit in units]


def _place(comparison: Comparison, unit: Examined, misplaced: Fault) -> Examined:
    """A unit, explained by other numbers in its place, or as far as the evidence goes."""
    suspect = comparison.suspect(unit.name)
    explained = _first_closing(_repaired(Trial(suspect), (misplaced, *FREE)), unit.before)
    if explained:
        return explained
    proved = _has_a_kernel(suspect)
    name = "kernel-wrong" if suspect.operation.kind == "conv" else "head-wrong"
    if proved is False:
        name = "unexplained"
    own = {**_counted(suspect.errors(suspect.evidence) > BOUND), "proved": bool(proved)}
    return unit._replace(faults=(UnitFault(name, own=own),))


def _samples(comparison: Comparison, pending: Sequence[str]) -> dict[str, dict[Role, Map]]:
    """Of every unit like a pending one: a kernel's first output channel, or a norm's numbers, to recognise it by."""
    units = comparison.network.units
    samples: dict[str, dict[Role, Map]] = {}
    for name, unit in units.items():
        if unit.kind != "dense" and any(_alike(unit, units[other]) for other in pending):
            samples[name] = comparison.weights(name)
            if unit.kind == "conv":
                samples[name] = {"kernel": samples[name]["kernel"][..., :1].copy()}
    return samples


def _alike(unit: Unit, other: Unit) -> bool:
    """Whether each could hold the other's tensors."""
    return (unit.kind, unit.sizes) == (other.kind, other.sizes)


def _held_elsewhere(
    comparison: Comparison, samples: Mapping[str, Mapping[Role, Map]], suspect: Suspect
) -> Iterator[Repair]:
    """The tensors of another unit of the port, where its sample gives what the reference has here."""
    units, operation, sample = comparison.network.units, suspect.operation, suspect.sample
    if operation.kind == "conv":
        sample = Evidence(sample.x, sample.expected[..., :1])
    candidates = {name: weights for name, weights in samples.items() if _alike(units[name], units[operation.name])}
    for name, weights in candidates.items():
        if replace(suspect, weights=weights).errors(sample).max() <= BOUND:
            yield Repair(suspect.having(comparison.weights(name)), own={"in": name})


def _has_a_kernel(suspect: Suspect) -> bool | None:
    """Whether some kernel gives the reference's output; None where the evidence cannot tell.

    What a convolution gives at more places than it has inputs lies in the space that its windows there span; what
    anything else gives does not. A norm without one that fits has been found out before.
    """
    if suspect.operation.kind != "conv":
        return None if suspect.operation.kind == "dense" else False
    expected = suspect.evidence.expected
    count = suspect.weights["kernel"][..., 0].size + SURPLUS
    total = expected[..., 0].size
    if count > min(total, LARGEST_PROOF):
        return None
    places = np.unravel_index(np.random.default_rng(0).choice(total, count, replace=False), expected.shape[:3])
    basis, _ = np.linalg.qr(_windows(suspect)[places].reshape(count, -1))
    rest = expected[places] - basis @ (basis.T @ expected[places])
    return bool(np.abs(rest).max() <= BOUND * suspect.deviation)


def _windows(suspect: Suspect) -> Map:
    """What a convolution's kernel lies on at every place: a view `n h w i` and the kernel's height and width."""
    conv = suspect.operation
    around = padded(suspect.evidence.x, conv.kernel, conv.stride, conv.padding)
    windows = np.lib.stride_tricks.sliding_window_view(around, (conv.kernel, conv.kernel), (1, 2))
    return windows[:, :: conv.stride, :: conv.stride]


def _joined(units: list[Examined]) -> list[Examined]:
    """Norms whose statistics tell too little by themselves, counted with the others if nearly all of these agree.

    Scale layers are misread throughout a network, not here and there. A norm whose own mean is far from that of the
    activations stays what it is.
    """
    names = [unit.faults[0].name for unit in units if unit.faults]
    if names.count("scale-overwritten") < MOST * names.count("norm-wrong"):
        return units
    joined = []
    for unit in units:
        apart = unit.faults[0].own.get("apart") if unit.faults else None  # which a wrong norm has
        if apart is not None and apart < NEAR:
            joined.append(unit._replace(faults=(unit.faults[0]._replace(name="scale-overwritten"),)))
        else:
            joined.append(unit)
    return joined


# -- places without weights --------------------------------------------------------------------------------------------


def _pool(comparison: Comparison) -> Iterator[Examined]:
    """The stem's pool, where the reference's is another or pads by another rule."""
    expected, own = comparison.contract, comparison.port.contract
    unit = _behind_pool(comparison.network)
    if unit is None or (expected.stem_pool, expected.stem_padding) == (own.stem_pool, own.stem_padding):
        return
    if expected.stem_pool == own.stem_pool:
        rules = {"expected": expected.stem_padding, "found": own.stem_padding}
        fault = UnitFault("stem-padding", rules, {"part": "pool"})
    else:
        fault = UnitFault("stem-pool", {"expected": expected.stem_pool, "found": own.stem_pool})
    suspect = replace(comparison, reference=comparison.network).suspect(unit)
    yield Examined(unit, suspect.error, _pool_gap(comparison), (fault,))


def _last_map(comparison: Comparison) -> Iterator[Examined]:
    """Without a head, the ReLU that ends the network."""
    network, known = comparison.network, comparison.known
    unit = list(network.units)[-1]
    if network.logits in network.units or unit not in comparison.visible:
        return
    last, expected = known[unit], known[network.logits]
    deviation = float(last.std()) or 1.0
    before, after = (float(np.abs(x - expected).max()) / deviation for x in (np.maximum(last, 0), last))
    if before <= BOUND:
        return
    if _closed(before, after):
        yield Examined(unit, before, after, (UnitFault("no-last-relu", {"side": "reference"}),))
    else:
        yield Examined(unit, before, before, (UnitFault("unexplained"),))


# -- the port's own graph ----------------------------------------------------------------------------------------------


def _graph_findings(port: Network, images: Map, port_logits: Array) -> Iterator[Finding]:
    """What the port's framework does otherwise than its weights and contract say, if anything."""
    own = forward(port.architecture, port.contract, port.weights, images)
    before, bound = _gap(own, port_logits), BOUND
    if port_logits.dtype != np.float64:
        narrow = forward(port.architecture, port.contract, port.weights, images, dtype=np.float32)
        bound = FLOAT32_SLACK * float(np.abs(narrow - own).max() / own.std())
    if before <= bound:
        return
    for variant in variants(port.architecture, replace(port.contract, output="logits")):
        if _gap(_run(port, variant, images[:TRIED]), port_logits[:TRIED]) <= bound:
            yield Finding(
                fault=variant.fault,
                sentence=f"The port's network {PREDICATES[variant.fault].format(**variant.detail)}.",
                units=variant.units,
                before=before,
                after=_gap(_run(port, variant, images), port_logits),
                detail={**variant.detail, "side": "port"},
            )
            return
    sentence = "The port's network computes something else than its weights and contract say, in no known way."
    detail = {"side": "port"}
    yield Finding(fault="unexplained", sentence=sentence, units=(), before=before, after=before, detail=detail)


def _run(port: Network, variant: Variant, images: Map) -> Map:
    """What the port's weights give in another graph."""
    return run(variant.network, port.weights, images[..., ::-1] if variant.is_reversed else images)


def _gap(logits: Map, port_logits: Array) -> float:
    """The largest difference of the port's logits from these, in their deviations; infinite without a number."""
    apart = float(np.abs(logits - port_logits).max() / (logits.std() or 1.0))
    return apart if isfinite(apart) else float("inf")


# -- findings in words -------------------------------------------------------------------------------------------------


def _diagnosis(
    network: Graph, units: Sequence[Examined], graphs: Sequence[Finding], errors: Mapping[str, float]
) -> Diagnosis:
    """The units' faults, those with the same detail as one finding."""
    order = list(network.units)
    groups: dict[tuple[str, str], list[tuple[Examined, UnitFault]]] = {}
    for unit in sorted(units, key=lambda unit: order.index(unit.name)):
        for fault in unit.faults:
            if fault.name != "rounded-to-float32":
                groups.setdefault((fault.name, str(fault.shared)), []).append((unit, fault))
    faulty = {unit.name for group in groups.values() for unit, _ in group}
    rounded = {unit.name for unit in units if unit.faults} - faulty
    return Diagnosis(
        findings=(*(_finding(network, group) for group in groups.values()), *graphs),
        faulty=tuple(name for name in order if name in faulty),
        rounded=tuple(name for name in order if name in rounded),
        examined=len(errors),
        errors=errors,
    )


def _finding(network: Graph, group: Sequence[tuple[Examined, UnitFault]]) -> Finding:
    """One fault of several units."""
    _, first = group[0]
    own = {unit.name: fault.own for unit, fault in group}
    special = {name: dict(detail) for name, detail in own.items() if detail}
    return Finding(
        fault=first.name,
        sentence=SENTENCES[first.name].format(**first.shared, where=_where(network, first.name, own)),
        units=tuple(own),
        before=max(unit.before for unit, _ in group),
        after=max(unit.after for unit, _ in group),
        detail={**first.shared, **({"units": special} if special else {})},
    )


def _where(network: Graph, fault: str, own: Mapping[str, Mapping[str, Any]]) -> str:
    """The units of a finding in words: all of a kind, or by name, the first few."""
    named = [f"{name}{_remark(detail)}" for name, detail in list(own.items())[:SHOWN]]
    if len(own) <= SHOWN:
        return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    kinds = {network.operations[name].kind for name in own}
    candidates = [step for step in network.operations.values() if step.kind in kinds]
    if fault in APPLIES:
        candidates = [step for step in candidates if APPLIES[fault](step)]
    noun = _noun(candidates)
    if len(own) == len(candidates):
        return f"every {noun}"
    return f"{len(own)} of {len(candidates)} {noun}s ({', '.join(named)} and {len(own) - SHOWN} more)"


def _noun(operations: Sequence[Operation]) -> str:
    """What these are: `norm`, `3×3 and 7×7 convolution`, or `unit` where they differ in kind."""
    kinds = {operation.kind for operation in operations}
    if len(kinds) > 1:
        return "unit"
    sizes = sorted({operation.kernel for operation in operations})
    if kinds == {"conv"}:
        return "convolution" if 1 in sizes else f"{' and '.join(f'{size}×{size}' for size in sizes)} convolution"
    return "norm" if kinds == {"norm"} else "head"


def _remark(own: Mapping[str, Any]) -> str:
    """What differs from unit to unit, behind a unit's name."""
    if "in" in own:
        return f" (its own are in {own['in']})"
    if "differing" in own:
        some = ", ".join(map(str, own["channels"][:SHOWN])) + (", …" if own["differing"] > SHOWN else "")
        return f" ({own['differing']} of {own['of']} channels: {some})"
    return f" ({own['part']})" if "part" in own else ""
