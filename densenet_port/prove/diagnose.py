"""Which known mistake explains a failed parity, and on which units.

Each unit is judged alone. What enters it is rebuilt from the reference's own activations, the port's unit runs on that
in numpy float64, and the result is compared with what the reference made of it: a fault shows where it is, never behind
it. On a faulty unit the known mistakes are undone, one at a time and in pairs, and the one that closes the gap names
what happened. Neither a framework nor the original weights are needed.

A mistake is named only when undoing it leaves rounding. Where nothing does, the diagnosis says which channels differ,
and whether other numbers in the same place could mend them: a place, not a cause. Two limits are in the nature of the
evidence. A norm shows its slope and its offset, two numbers for each channel where it holds four: a wrong scale looks
like a wrong variance, a wrong shift like a wrong mean. And a kernel is pinned down only by more places than it has
inputs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import IMAGES, Graph, Operation, graph
from densenet_port.network.numpy import Map, evaluate, forward, padded, run
from densenet_port.network.units import ROLES, Role, Slot, Unit
from densenet_port.prove.faults import (
    BOUND,
    FREE,
    GRAPHS,
    KNOWN,
    SAYS,
    Case,
    Mistake,
    Sight,
    Undone,
    Variant,
    any_norm,
    other_pools,
    stem_pool,
    unit_from,
)

CLOSER = 1e-2  # an undone mistake must also leave at most this share of the gap
SURPLUS = 64  # places beyond a kernel's inputs that prove it: by chance none of them would fit
LARGEST_PROOF = 1300  # places in a proof, which takes a fraction of a second
FLOAT32_SLACK = 10.0  # a float32 run may be this many times as far from the truth as numpy's own
MOST = 9  # norms of ten that must agree before the tenth is counted with them
NEAR = 0.6  # deviations: means of strange norms are some 1 apart, of the right ones 0.1 to 0.6
TRIED = 2  # images on which a network's graph is guessed at
SHOWN = 3  # units named in a sentence


class Port(Protocol):
    """The network in question: `conversion.load.Network` is one."""

    @property
    def architecture(self) -> Architecture:
        """Its numbers."""

    @property
    def contract(self) -> Contract:
        """What holds beside its weights."""

    @property
    def weights(self) -> Mapping[Slot, Array]:
        """Slot → the tensor in our axes."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mistake on all the units that have it.

    `mistake` is a stable name, `says` a sentence. `before` is the largest local error among the units, in deviations of
    the reference's output (infinite where the port gives no number); `after` is what is left with the mistake undone,
    together with the others found on the same unit, and equals `before` where nothing could be undone. `detail` holds
    what was solved for, and under "units" what differs from unit to unit.
    """

    mistake: str
    says: str
    units: tuple[str, ...]
    before: float
    after: float
    detail: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes null."""
        return {
            "mistake": self.mistake,
            "says": self.says,
            "units": list(self.units),
            "before": self.before if isfinite(self.before) else None,
            "after": self.after if isfinite(self.after) else None,
            "detail": dict(self.detail),
        }


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found: the `faulty` units are off by more than rounding, of `examined` units.

    The units in `rounded` differ by what rounding their numbers to float32 makes (an absorbed epsilon, a fold) and are
    not faulty. `errors` holds every examined unit's largest local error, in deviations of the reference's output.
    """

    findings: tuple[Finding, ...]
    faulty: tuple[str, ...]
    rounded: tuple[str, ...]
    examined: int
    errors: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "faulty": list(self.faulty),
            "rounded": list(self.rounded),
            "examined": self.examined,
        }


def diagnose(
    port: Port, images: Array, taps: Mapping[str, Array], logits: Array, *, port_logits: Array | None = None
) -> Diagnosis:
    """Which known mistakes tell the port from the reference.

    `images` are `n h w c`. `taps` holds the reference's float64 activations on them, unit → `n h w c`: a norm's before
    its ReLU, a convolution's own channels; `logits` its float64 logits `n classes`, or without a head its last map. A
    unit whose tap is missing, or whose input's is, is not examined. `port_logits` are what the port's own framework
    made of the same images, in the dtype that they were computed in: where they are not what its weights and contract
    say, its graph is asked too. One unit is in memory at a time, beside the taps. Raises UsageError for activations of
    another dtype or shape, MisfitError for weights that do not fit the architecture.
    """
    with np.errstate(all="ignore"):
        reference = _reference(port, images, taps, logits)
        first = [_examined(port, reference, unit) for unit in reference.visible]
        pending = [outcome for outcome in first if not outcome.made and outcome.before > BOUND]
        samples = _samples(port, [outcome.unit for outcome in pending])
        second = {outcome.unit: _placed(port, reference, outcome, samples) for outcome in pending}
        outcomes = _joined([second.get(outcome.unit, outcome) for outcome in first])
        outcomes += [*_pool(port, reference), *_last_map(reference)]
        graphs = [] if port_logits is None else list(_graph(port, np.asarray(images), port_logits))
    errors = {outcome.unit: outcome.before for outcome in first}
    return _told(_network(port), outcomes, graphs, errors)


# -- the evidence ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference's activations, and what they say enters each unit.

    `known` holds the images and the outputs of units. `network` is the port's, but for the stem's pool, which is as the
    reference has it, and as `contract` tells.
    """

    known: Mapping[str, Map]
    network: Graph
    contract: Contract

    @property
    def visible(self) -> list[str]:
        """The units whose output and input are known."""
        return [name for name in self.network.units if {name, *_sources(self.network, name)} <= self.known.keys()]

    def case(self, unit: str, port: Port) -> Case:
        """The port's unit with the evidence on it."""
        (source,) = _steps(self.network, unit)[0].inputs
        evidence = Sight(evaluate(self.network, source, self.known, {}), self.known[unit])
        return Case.of(_steps(_network(port), unit), _read(port, unit), evidence)


def _network(port: Port) -> Graph:
    """The port's graph, which is compared before softmax or sigmoid."""
    return graph(port.architecture, replace(port.contract, output="logits"))


def _steps(network: Graph, unit: str) -> tuple[Operation, ...]:
    """A unit's own operation; for the head with those in front of it, from the ReLU on."""
    steps = [network.operations[unit]]
    while steps[0].kind in ("dense", "mean"):
        steps.insert(0, network.operations[steps[0].inputs[0]])
    return tuple(steps)


def _sources(network: Graph, name: str) -> Iterator[str]:
    """The units whose outputs enter an operation, or the images."""
    for read in network.operations[name].inputs:
        if read == IMAGES or read in network.units:
            yield read
        else:
            yield from _sources(network, read)


def _reference(port: Port, images: Array, taps: Mapping[str, Array], logits: Array) -> Reference:
    """The evidence, with the stem's pool read from the first norm behind it."""
    architecture = port.architecture
    images = np.asarray(images, np.float64)
    if images.ndim != 4 or images.shape[-1] != architecture.channels or not len(images):  # noqa: PLR2004 (n h w c)
        raise UsageError(
            f"images must have the axes n h w c with c={architecture.channels}, found shape {images.shape}"
        )
    network = _network(port)
    known = _known(network, images, {**taps, network.logits: logits})
    reference = Reference(known=known, network=network, contract=port.contract)
    if _pool_gap(port, reference) <= BOUND:
        return reference
    for contract in other_pools(port.contract):
        other = replace(reference, network=graph(architecture, replace(contract, output="logits")), contract=contract)
        if _pool_gap(port, other) <= BOUND:
            return other
    return reference


def _known(network: Graph, images: Map, taps: Mapping[str, Array]) -> dict[str, Map]:
    """Images and outputs by operation. Raises UsageError for another dtype or shape than an output must have."""
    known: dict[str, Map] = {IMAGES: images}
    for name, shape in network.shapes(images.shape).items():
        if name in taps:
            output = known[name] = np.asarray(taps[name])
            if output.dtype != np.float64:
                raise UsageError(
                    f"diagnosis needs the reference's activations in float64, found {output.dtype} for {name}"
                )
            if output.shape != shape:
                raise UsageError(
                    f"the reference's {name} has shape {output.shape}, expected {shape}",
                    hint="axes are n h w c; where the contract's pool_rounding is another, only even sizes agree",
                )
    return known


def _pool_gap(port: Port, reference: Reference) -> float:
    """How far the first norm behind the stem's pool is from any norm at all of what enters it."""
    pool = stem_pool(reference.network)
    unit = unit_from(reference.network, pool.name) if pool else ""
    if unit not in reference.visible:
        return 0.0
    case = reference.case(unit, port)
    return float(any_norm(case).errors(case.full).max())


def _read(port: Port, unit: str) -> dict[Role, Map]:
    """The port's tensors of one unit, in float64. Raises MisfitError when they are missing or of another shape."""
    weights: dict[Role, Map] = {}
    for role in ROLES[port.architecture.units[unit].kind]:
        slot = Slot(unit, role)
        if slot not in port.weights:
            raise MisfitError(f"the weights lack {slot}")
        weights[role] = np.asarray(port.weights[slot], np.float64)
        if weights[role].shape != port.architecture.slots[slot]:
            raise MisfitError(f"{slot}: expected shape {port.architecture.slots[slot]}, found {weights[role].shape}")
    return weights


# -- one unit, by its own numbers --------------------------------------------------------------------------------------


class Made(NamedTuple):
    """A mistake that was made on a unit; `fixed` is what every unit with it shares, `own` what they do not."""

    slug: str
    fixed: Mapping[str, Any] = {}
    own: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Trial:
    """A case with some mistakes undone."""

    case: Case
    made: tuple[Made, ...] = ()

    @cached_property
    def errors(self) -> Map:
        """The local errors `c` on the part of the evidence that guesses are tried on."""
        return self.case.errors(self.case.few)


class Outcome(NamedTuple):
    """What became of a unit: its local error, what is left of it, and why."""

    unit: str
    before: float
    after: float
    made: tuple[Made, ...] = ()


def _examined(port: Port, reference: Reference, unit: str) -> Outcome:
    """One unit judged, and explained by the known mistakes if it is faulty and they can."""
    case = reference.case(unit, port)
    before = float(case.errors(case.full).max())
    if not all(np.isfinite(array).all() for array in case.full):
        return Outcome(unit, before, before, (Made("no-numbers"),))
    if before <= BOUND:
        return Outcome(unit, before, before)
    return _explained(case, before) or Outcome(unit, before, before)


def _explained(case: Case, before: float) -> Outcome | None:
    """By one known mistake, by rounding, by two, by one and rounding, or by the channels that are wrong."""
    start = Trial(case)
    singles = list(_undone(start, KNOWN))
    outcome = _first_closing(singles, before) or _first_rounded([start], case.weights, before)
    if outcome:
        return outcome
    pairs = list(_pairs(singles))
    return (
        _first_closing(pairs, before)
        or _first_rounded(singles, case.weights, before)
        or _all_but_some_channels([start, *singles, *pairs], before)
    )


def _undone(trial: Trial, mistakes: Iterable[Mistake]) -> Iterator[Trial]:
    """A trial with one more mistake undone: each of these, in every way that there is."""
    for mistake in mistakes:
        if mistake.applies(trial.case.operation):
            for undone in mistake.undo(trial.case):
                yield Trial(undone.case, (*trial.made, Made(mistake.slug, undone.fixed, undone.own)))


def _pairs(singles: Iterable[Trial]) -> Iterator[Trial]:
    """The trials with one more known mistake undone, of those that come later in the table."""
    slugs = [mistake.slug for mistake in KNOWN]
    for trial in singles:
        yield from _undone(trial, KNOWN[slugs.index(trial.made[0].slug) + 1 :])


def _first_closing(trials: Iterable[Trial], before: float) -> Outcome | None:
    """The first trial that closes the gap, on a little of the evidence and then on all of it."""
    for trial in trials:
        if trial.errors.max() <= BOUND:
            after = float(trial.case.errors(trial.case.full).max())
            if _closed(before, after):
                return Outcome(trial.case.operation.name, before, after, trial.made)
    return None


def _closed(before: float, after: float) -> bool:
    """Whether nothing but rounding is left, and orders of magnitude less than there was."""
    return after <= min(BOUND, CLOSER * before)


def _all_but_some_channels(trials: Sequence[Trial], before: float) -> Outcome | None:
    """The fewest mistakes that leave at most half of the channels wrong."""
    best = min(trials, key=lambda trial: (int((trial.errors > BOUND).sum()), len(trial.made)))
    errors = best.case.errors(best.case.full)
    wrong = errors > BOUND
    if not 0 < 2 * wrong.sum() <= wrong.size:
        return None
    after = float(errors[~wrong].max())
    return Outcome(best.case.operation.name, before, after, (*best.made, Made("channel-wrong", {}, _counted(wrong))))


def _counted(wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """Which channels differ, the first few, and of how many."""
    channels = np.flatnonzero(wrong).tolist()
    return {"channels": channels[:8], "differing": len(channels), "of": wrong.size}


# -- rounding ----------------------------------------------------------------------------------------------------------


def _first_rounded(trials: Iterable[Trial], weights: Mapping[Role, Map], before: float) -> Outcome | None:
    """The first trial that leaves no more than what rounding the port's numbers, or the reference's, makes."""
    kinds = _types(weights)
    for trial in trials:
        case = trial.case
        for kind in kinds:
            if _closed(before, _excess(case, case.few, kind)):
                after = _excess(case, case.full, kind)
                if _closed(before, after):
                    slug = "rounded-to-float32" if kind == "float32" else "rounded-to-half"
                    return Outcome(case.operation.name, before, after, (*trial.made, Made(slug, {"type": kind})))
    return None


def _excess(case: Case, sight: Sight, kind: str) -> float:
    """The largest local error beyond what rounding to a type can make, in deviations."""
    apart = np.abs(case.run(sight.x) - sight.truth)
    return float(np.maximum(apart - _reach(case, sight.x, kind), 0).max()) / case.deviation


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


def _reach(case: Case, x: Map, kind: str) -> Map:
    """How far the output can move when every number moves to its neighbour in a type.

    Softmax and sigmoid move by no more than the logits that they are given.
    """
    gaps = {role: _gap_in(kind, array) for role, array in case.weights.items()}
    if case.operation.kind != "norm":
        steps = tuple(step for step in case.steps if step.kind != "activation")
        return replace(case, steps=steps, weights=gaps).run(np.abs(x))
    scale, _, mean, variance = (case.weights[role] for role in ROLES["norm"])
    epsilon = case.operation.epsilon
    slope = np.abs(scale) / np.sqrt(variance + epsilon)
    steepest = (np.abs(scale) + gaps["scale"]) / np.sqrt(np.maximum(variance - gaps["variance"], 0) + epsilon)
    reach: Map = np.abs(x - mean) * (steepest - slope) + gaps["mean"] * steepest + gaps["shift"]
    return reach


# -- one unit, by what else could be there -----------------------------------------------------------------------------


def _placed(port: Port, reference: Reference, outcome: Outcome, samples: Mapping[str, Mapping[Role, Map]]) -> Outcome:
    """What can be said of a unit that no known mistake on its own numbers explains."""
    case, before = reference.case(outcome.unit, port), outcome.before
    misplaced = Mistake("misplaced", lambda _: True, partial(_held_elsewhere, port, samples))
    closing = _first_closing(_undone(Trial(case), (misplaced, *FREE)), before)
    if closing:
        return closing
    proved = _has_a_kernel(case)
    slug = "kernel-wrong" if case.operation.kind == "conv" else "head-wrong"
    if proved is False:
        slug = "unexplained"
    channels = _counted(case.errors(case.full) > BOUND)
    return outcome._replace(made=(Made(slug, {}, {**channels, "proved": bool(proved)}),))


def _samples(port: Port, pending: Sequence[str]) -> dict[str, dict[Role, Map]]:
    """Of every unit like a pending one: a kernel's first output channel, or a norm's numbers, to recognise it by."""
    units = _network(port).units
    found: dict[str, dict[Role, Map]] = {}
    for unit in units.values():
        if unit.kind != "dense" and any(_alike(unit, units[name]) for name in pending):
            weights = _read(port, unit.name)
            found[unit.name] = weights if unit.kind == "norm" else {"kernel": weights["kernel"][..., :1].copy()}
    return found


def _alike(unit: Unit, other: Unit) -> bool:
    return (unit.kind, unit.sizes) == (other.kind, other.sizes)


def _held_elsewhere(port: Port, samples: Mapping[str, Mapping[Role, Map]], case: Case) -> Iterator[Undone]:
    """The tensors of another unit of the port, where its sample gives what the reference has here."""
    few = Sight(case.few.x, case.few.truth if case.operation.kind == "norm" else case.few.truth[..., :1])
    units = _network(port).units
    alike = [name for name in samples if _alike(units[name], units[case.operation.name])]
    for name in alike:
        if replace(case, weights=samples[name]).errors(few).max() <= BOUND:
            yield Undone(replace(case, weights=_read(port, name)), own={"in": name})


def _has_a_kernel(case: Case) -> bool | None:
    """Whether some kernel gives the reference's output; None where the evidence cannot tell.

    What a convolution gives at more places than it has inputs lies in the space that its windows there span; what
    anything else gives does not. A norm without one that fits has been found out before.
    """
    if case.operation.kind != "conv":
        return None if case.operation.kind == "dense" else False
    truth = case.full.truth
    count = case.weights["kernel"][..., 0].size + SURPLUS
    total = truth[..., 0].size
    if count > min(total, LARGEST_PROOF):
        return None
    places = np.unravel_index(np.random.default_rng(0).choice(total, count, replace=False), truth.shape[:3])
    basis, _ = np.linalg.qr(_windows(case)[places].reshape(count, -1))
    rest = truth[places] - basis @ (basis.T @ truth[places])
    return bool(np.abs(rest).max() <= BOUND * case.deviation)


def _windows(case: Case) -> Map:
    """What a convolution's kernel lies on at every place: a view `n h w i` and the kernel's height and width."""
    step = case.operation
    around = padded(case.full.x, step.kernel, step.stride, step.padding)
    windows = np.lib.stride_tricks.sliding_window_view(around, (step.kernel, step.kernel), (1, 2))
    return windows[:, :: step.stride, :: step.stride]


def _joined(outcomes: list[Outcome]) -> list[Outcome]:
    """Norms whose statistics tell too little by themselves, counted with the others if nearly all of these agree.

    Scale layers are misread throughout a network, not here and there. A norm whose own mean is far from that of the
    activations stays what it is.
    """
    slugs = [outcome.made[0].slug for outcome in outcomes if outcome.made]
    if slugs.count("scale-overwritten") < MOST * slugs.count("norm-wrong"):
        return outcomes
    return [
        outcome._replace(made=(outcome.made[0]._replace(slug="scale-overwritten"),))
        if [made.slug for made in outcome.made if (made.own.get("apart") or 1) < NEAR] == ["norm-wrong"]
        else outcome
        for outcome in outcomes
    ]


# -- places without weights --------------------------------------------------------------------------------------------


def _pool(port: Port, reference: Reference) -> Iterator[Outcome]:
    """The stem's pool, where the reference's is another or pads by another rule."""
    expected, found, pool = reference.contract, port.contract, stem_pool(reference.network)
    if pool is None or expected is found:
        return
    unit = unit_from(reference.network, pool.name)
    case = replace(reference, network=_network(port)).case(unit, port)
    before = float(case.errors(case.full).max())
    if expected.stem_pool == found.stem_pool:
        fixed = {"expected": expected.stem_padding, "found": found.stem_padding}
        made = Made("stem-padding", fixed, {"part": "pool"})
    else:
        made = Made("stem-pool", {"expected": expected.stem_pool, "found": found.stem_pool})
    yield Outcome(unit, before, _pool_gap(port, reference), (made,))


def _last_map(reference: Reference) -> Iterator[Outcome]:
    """Without a head, the ReLU that ends the network."""
    network, known = reference.network, reference.known
    name = list(network.units)[-1]
    if network.logits in network.units or name not in reference.visible:
        return
    last, expected = known[name], known[network.logits]
    deviation = float(last.std()) or 1.0
    before, after = (float(np.abs(x - expected).max()) / deviation for x in (np.maximum(last, 0), last))
    if not before <= BOUND:
        made = Made("no-last-relu", {"side": "reference"}) if _closed(before, after) else Made("unexplained")
        yield Outcome(name, before, after if _closed(before, after) else before, (made,))


# -- the port's own graph ----------------------------------------------------------------------------------------------


def _graph(port: Port, images: Array, port_logits: Array) -> Iterator[Finding]:
    """What the port's framework does otherwise than its weights and contract say, if anything."""
    images = images.astype(np.float64)
    own = forward(port.architecture, port.contract, port.weights, images)
    bound, before = _noise(port, images, own, port_logits), _gap(own, port_logits)
    if before <= bound:
        return
    for mistake in GRAPHS:
        for variant in mistake.variants(port.architecture, replace(port.contract, output="logits")):
            if _gap(_logits(port, variant, images[:TRIED]), port_logits[:TRIED]) <= bound:
                after = _gap(_logits(port, variant, images), port_logits)
                says = f"The port's network {mistake.says.format(**variant.detail)}."
                yield _finding(mistake.slug, says, variant.units, before, after, {**variant.detail, "side": "port"})
                return
    says = "The port's network computes something else than its weights and contract say, in no known way."
    yield _finding("unexplained", says, (), before, before, {"side": "port"})


def _noise(port: Port, images: Map, own: Map, port_logits: Array) -> float:
    """How far the port's logits may be from the float64 truth: as numpy's own float32, times a slack; or the bound."""
    if port_logits.dtype == np.float64:
        return BOUND
    narrow = forward(port.architecture, port.contract, port.weights, images, dtype=np.float32)
    return FLOAT32_SLACK * float(np.abs(narrow - own).max() / own.std())


def _logits(port: Port, variant: Variant, images: Map) -> Map:
    """What the port's weights give in another graph."""
    return run(variant.network, port.weights, images[..., ::-1] if variant.is_reversed else images)


def _gap(logits: Map, port_logits: Array) -> float:
    """The largest difference of the port's logits from these, in their deviations; infinite without a number."""
    apart = float(np.abs(logits - port_logits).max() / (logits.std() or 1.0))
    return apart if isfinite(apart) else float("inf")


# -- telling -----------------------------------------------------------------------------------------------------------

APPLIES = {mistake.slug: mistake.applies for mistake in (*KNOWN, *FREE)}


def _told(network: Graph, outcomes: list[Outcome], graphs: list[Finding], errors: Mapping[str, float]) -> Diagnosis:
    """The outcomes of all units, those with the same mistake told as one finding."""
    fine = ["rounded-to-float32"]
    rounded = {outcome.unit for outcome in outcomes if [made.slug for made in outcome.made] == fine}
    off = {outcome.unit for outcome in outcomes if outcome.made} - rounded
    groups: dict[tuple[str, str], list[tuple[Outcome, Made]]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: list(network.units).index(outcome.unit)):
        for made in outcome.made:
            if made.slug not in fine:
                groups.setdefault((made.slug, str(made.fixed)), []).append((outcome, made))
    return Diagnosis(
        findings=(*(_grouped(network, group) for group in groups.values()), *graphs),
        faulty=tuple(unit for unit in network.units if unit in off),
        rounded=tuple(unit for unit in network.units if unit in rounded),
        examined=len(errors),
        errors=errors,
    )


def _grouped(network: Graph, group: Sequence[tuple[Outcome, Made]]) -> Finding:
    """One mistake of several units."""
    _, first = group[0]
    own = {outcome.unit: dict(made.own) for outcome, made in group if made.own}
    where = _where(network, first.slug, {outcome.unit: made.own for outcome, made in group})
    return _finding(
        first.slug,
        SAYS[first.slug].format(**first.fixed, where=where),
        tuple(outcome.unit for outcome, _ in group),
        max(outcome.before for outcome, _ in group),
        max(outcome.after for outcome, _ in group),
        {**first.fixed, **({"units": own} if own else {})},
    )


def _finding(
    slug: str, says: str, units: tuple[str, ...], before: float, after: float, detail: Mapping[str, Any]
) -> Finding:
    return Finding(mistake=slug, says=says, units=units, before=before, after=after, detail=detail)


def _where(network: Graph, slug: str, own: Mapping[str, Mapping[str, Any]]) -> str:
    """The units of a finding in words: all of a kind, or by name, the first few."""
    kinds = {network.operations[unit].kind for unit in own}
    could = [step for step in network.operations.values() if step.kind in kinds]
    if slug in APPLIES:
        could = [step for step in could if APPLIES[slug](step)]
    named = [f"{unit}{_remark(given)}" for unit, given in list(own.items())[:SHOWN]]
    if len(own) <= SHOWN:
        return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    noun = _noun(could)
    if len(own) == len(could):
        return f"every {noun}"
    return f"{len(own)} of {len(could)} {noun}s ({', '.join(named)} and {len(own) - SHOWN} more)"


def _noun(units: Sequence[Operation]) -> str:
    """What these units are: `norm`, `3×3 and 7×7 convolution`, or `unit` where they differ in kind."""
    kinds = {unit.kind for unit in units}
    sizes = sorted({unit.kernel for unit in units if unit.kind == "conv"})
    if kinds == {"conv"} and 1 not in sizes:
        return f"{' and '.join(f'{size}×{size}' for size in sizes)} convolution"
    return {"conv": "convolution", "norm": "norm", "dense": "head"}[kinds.pop()] if len(kinds) == 1 else "unit"


def _remark(own: Mapping[str, Any]) -> str:
    """What differs from unit to unit, behind a unit's name."""
    if "in" in own:
        return f" (its own are in {own['in']})"
    if "differing" in own:
        some = ", ".join(map(str, own["channels"][:SHOWN])) + (", …" if own["differing"] > SHOWN else "")
        return f" ({own['differing']} of {own['of']} channels: {some})"
    return f" ({own['part']})" if "part" in own else ""
