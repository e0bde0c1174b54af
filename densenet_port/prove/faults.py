"""The known faults of ports, each with the way to undo it: on one unit of the port, or in its framework's graph.

A `Suspect` is one unit with the evidence on it: what the reference fed into it and what came out. A fault is a row of a
table: its name, the units that can have it, and a function that gives the suspect with the fault undone, in every way
that there is. Some only move numbers (a flipped kernel); others solve for what the evidence says (an epsilon, a factor,
an order of channels). Whether undoing one closes the gap is for `diagnose` to see.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, StemPadding
from densenet_port.network.graph import IMAGES, Graph, Operation, Padding, graph
from densenet_port.network.numpy import Map, apply
from densenet_port.network.units import ROLES, Role, Slot

BOUND = 1e-10
"""What two right units may differ by, in deviations of the reference's output.

A sum of K products is off by at most K · 1.1e-16 · Σ|w·x|. The widest has K = 4032 (the head of 264), and Σ|w·x| stays
below some fifty deviations: 2e-11. A norm whose mean is a thousand deviations from zero reaches 1e-12. Measured: 1e-14.
The smallest known fault, an epsilon off by 1e-8, moves a norm's slope by 5e-9 / variance.
"""
SIGNATURE = 256  # places that are enough to tell channels apart
SIGMAS = 4.0  # the chance that statistics fit strange activations so well is below 1e-4
EPSILONS = (1e-5, 1.001e-5, 1.1e-5, 1e-3, 1e-6)  # of the layouts that are known, and of Keras's defaults
OUTPUTS: tuple[Literal["softmax", "sigmoid"], ...] = ("softmax", "sigmoid")  # what may stand behind the logits


class Evidence(NamedTuple):
    """What enters a unit, and what the reference makes of it."""

    x: Map
    expected: Map


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One unit of the port and the evidence on it.

    `steps` run one after the other: the unit's own operation, and for the head the ReLU and the mean in front of it.
    `sample` is enough of the evidence to refuse a wrong guess: for a norm each channel's smallest and largest input
    (`2 c`; the error of an affine map is largest at one of them), for a convolution the first image.
    """

    steps: tuple[Operation, ...]
    weights: Mapping[Role, Map]
    evidence: Evidence
    sample: Evidence
    deviation: float

    @classmethod
    def of(cls, steps: tuple[Operation, ...], weights: Mapping[Role, Map], evidence: Evidence) -> "Suspect":
        """A unit with its evidence."""
        sample, deviation = _sample(steps[-1], evidence), float(evidence.expected.std()) or 1.0
        return cls(steps=steps, weights=weights, evidence=evidence, sample=sample, deviation=deviation)

    @property
    def operation(self) -> Operation:
        """The unit's own."""
        return next(step for step in self.steps if step.unit)

    def having(self, weights: Mapping[Role, Map]) -> "Suspect":
        """The same with other tensors in some roles."""
        return replace(self, weights={**self.weights, **weights})

    def edited(self, **changes: Any) -> "Suspect":
        """The same with other attributes of the unit's own operation."""
        own = replace(self.operation, **changes)
        return replace(self, steps=tuple(own if step.unit else step for step in self.steps))

    def run(self, x: Map) -> Map:
        """What the port's unit puts out for some input."""
        weights = {Slot(self.operation.name, role): array for role, array in self.weights.items()}
        for step in self.steps:
            x = apply(step, weights, x)
        return x

    @property
    def error(self) -> float:
        """The largest local error."""
        return float(self.errors(self.evidence).max())

    def errors(self, evidence: Evidence) -> Map:
        """Each channel's largest local error `c`, in deviations of the whole output; infinite for NaN."""
        apart = np.abs(self.run(evidence.x) - evidence.expected)
        largest = apart.reshape(-1, apart.shape[-1]).max(axis=0) / self.deviation
        return np.where(np.isnan(largest), np.inf, largest)


def _sample(operation: Operation, evidence: Evidence) -> Evidence:
    """The part of the evidence that guesses are tried on."""
    if operation.kind == "norm":
        x, expected = (array.reshape(-1, array.shape[-1]) for array in evidence)
        places = np.stack([x.argmin(axis=0), x.argmax(axis=0)])
        return Evidence(np.take_along_axis(x, places, 0), np.take_along_axis(expected, places, 0))
    if operation.kind == "conv":
        return Evidence(evidence.x[:1], evidence.expected[:1])
    return evidence


class Repair(NamedTuple):
    """A suspect with one fault undone; `shared` is what all units with this fault have in common, `own` the rest."""

    suspect: Suspect
    shared: Mapping[str, Any] = {}
    own: Mapping[str, Any] = {}


class Fault(NamedTuple):
    """A fault of a unit: its stable name, the units that can have it, and the repairs, none if it cannot be there."""

    name: str
    applies: Callable[[Operation], bool]
    repairs: Callable[[Suspect], Iterable[Repair]]


# -- kernels -----------------------------------------------------------------------------------------------------------


def _is_spatial(operation: Operation) -> bool:
    return operation.kind == "conv" and operation.kernel > 1


def _is_strided(operation: Operation) -> bool:
    return operation.kind == "conv" and operation.stride > 1


def _sees_images(operation: Operation) -> bool:
    return IMAGES in operation.inputs


def _moved(move: Callable[[Map], Map], suspect: Suspect) -> Iterator[Repair]:
    yield Repair(suspect.having({"kernel": move(suspect.weights["kernel"])}))


def _mirrored(suspect: Suspect) -> Iterator[Repair]:
    for axis, name in enumerate(("height", "width")):
        yield Repair(suspect.having({"kernel": np.flip(suspect.weights["kernel"], axis)}), {"axis": name})


def _repadded(suspect: Suspect) -> Iterator[Repair]:
    repaired = suspect.edited(padding=_other_padding(suspect.operation))
    rules = {"expected": _rule(repaired.operation), "found": _rule(suspect.operation)}
    yield Repair(repaired, rules)


def _rule(operation: Operation) -> StemPadding:
    """An operation's padding, as a contract calls it."""
    return "same" if operation.padding == "same" else "symmetric"


def _other_padding(operation: Operation) -> Padding:
    """An operation's padding by the other of the two rules."""
    return operation.kernel // 2 if operation.padding == "same" else "same"


def _reordered(suspect: Suspect) -> Iterator[Repair]:
    """The channels that differ, in the order in which they give the reference's, if there is one."""
    wrong = np.flatnonzero(suspect.errors(suspect.sample) > BOUND)
    expected, actual = (signature[wrong] for signature in _signatures(suspect))
    ranks, source = np.argsort(expected), np.argsort(actual)
    if wrong.size > 1 and np.allclose(expected[ranks], actual[source], rtol=0, atol=1e-6 * expected.std()):
        order = np.arange(suspect.sample.expected.shape[-1])
        order[wrong[ranks]] = wrong[source]
        moved = {role: array[..., order] for role, array in suspect.weights.items()}
        yield Repair(suspect.having(moved), own={"order": np.stack([wrong, order[wrong]], axis=1).tolist()})


def _signatures(suspect: Suspect) -> tuple[Map, Map]:
    """A number `c` that tells output channels apart, of the reference and of the port: a random sum over each."""
    if suspect.operation.kind == "norm":
        slope = _own_slope(suspect)
        offset = suspect.weights["shift"] - suspect.weights["mean"] * slope
        pair = np.stack(_affine(suspect)), np.stack([slope, offset])
    else:
        pair = suspect.sample.expected, suspect.run(suspect.sample.x)
    expected, actual = (array.reshape(-1, array.shape[-1])[:SIGNATURE] for array in pair)
    share = np.random.default_rng(0).standard_normal(len(expected))
    return share @ expected, share @ actual


# -- the head ----------------------------------------------------------------------------------------------------------


def _is_head(operation: Operation) -> bool:
    return operation.kind == "dense"


def _without_relu(suspect: Suspect) -> Iterator[Repair]:
    steps = tuple(step for step in suspect.steps if step.kind != "relu")
    yield Repair(replace(suspect, steps=steps), {"side": "reference"})


def _turned(suspect: Suspect) -> Iterator[Repair]:
    kernel = suspect.weights["kernel"]
    if kernel.shape[0] == kernel.shape[1]:
        yield Repair(suspect.having({"kernel": kernel.T}))


def _dropped_bias(suspect: Suspect) -> Iterator[Repair]:
    if not suspect.weights["bias"].any():
        yield from _other_bias(suspect)


def _other_bias(suspect: Suspect) -> Iterator[Repair]:
    """Any bias; as evidence it needs two images, which must agree on it."""
    x, expected = suspect.evidence
    if len(x) > 1:
        bias = suspect.weights["bias"] + (expected - suspect.run(x)).mean(axis=0)
        yield Repair(suspect.having({"bias": bias}))


def _activated(suspect: Suspect) -> Iterator[Repair]:
    head = suspect.operation
    for output in OUTPUTS:
        step = Operation(name=output, kind="activation", inputs=(head.name,), channels=head.channels, function=output)
        yield Repair(replace(suspect, steps=(*suspect.steps, step)), {"side": "reference", "output": output})


# -- norms: what the reference shows of one is its slope and its offset ------------------------------------------------


def _is_norm(operation: Operation) -> bool:
    return operation.kind == "norm"


def _own_slope(suspect: Suspect) -> Map:
    """The port's slope `c`."""
    slope: Map = suspect.weights["scale"] / np.sqrt(suspect.weights["variance"] + suspect.operation.epsilon)
    return slope


def _affine(suspect: Suspect) -> tuple[Map, Map]:
    """Slope and offset `c` of the reference's norm; where a channel's input is constant, the port's own slope."""
    (low, high), (bottom, top) = suspect.sample
    slope = np.where(high > low, (top - bottom) / (high - low), _own_slope(suspect))
    return slope, bottom - slope * low


def _spreads(suspect: Suspect) -> tuple[Map, Map, Map]:
    """Of the channels that tell: variance; the reference's variance + epsilon, if the port's scale is right; and trust.

    Trust is the inverse of the second's rounding error: a slope read from outputs t is off by |t| / (their range), and
    the square doubles it.
    """
    (low, high), (bottom, top) = suspect.sample
    variance = suspect.weights["variance"]
    squared = (suspect.weights["scale"] / _affine(suspect)[0]) ** 2
    trust = (high > low) * np.abs(top - bottom) / (np.abs(top) + np.abs(bottom)) / squared
    tells = np.isfinite(squared) & np.isfinite(trust) & (variance > 0)
    return variance[tells], squared[tells], trust[tells]


def _median(values: Map, trust: Map) -> float:
    """The median with trust as weight, which one strange channel does not move; NaN of nothing."""
    if not values.size:
        return float("nan")
    order = np.argsort(values)
    total = np.cumsum(trust[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _swapped(first: Role, second: Role, suspect: Suspect) -> Iterator[Repair]:
    yield Repair(suspect.having({first: suspect.weights[second], second: suspect.weights[first]}))


def _divided(suspect: Suspect) -> Iterator[Repair]:
    """Mean and variance by the one factor that gives the reference's slopes."""
    variance, squared, trust = _spreads(suspect)
    share = _median((squared - suspect.operation.epsilon) / variance, trust * variance)
    if isfinite(share) and share > 0:
        mean, spread = (suspect.weights[role] * share for role in ("mean", "variance"))
        yield Repair(suspect.having({"mean": mean, "variance": spread}), {"factor": float(f"{1 / share:.6g}")})


def _other_epsilon(suspect: Suspect) -> Iterator[Repair]:
    """The epsilon that gives the reference's slopes: to four digits, as people write one, or else as solved for."""
    variance, squared, trust = _spreads(suspect)
    solved = _median(squared - variance, trust)
    if isfinite(solved):
        for epsilon in dict.fromkeys((float(f"{solved:.4g}"), solved)):
            shared = {"expected": float(f"{epsilon:.6g}"), "found": suspect.operation.epsilon}
            yield Repair(suspect.edited(epsilon=epsilon), shared)


def _started_statistics(suspect: Suspect) -> Iterator[Repair]:
    """Mean and variance solved for, where the port's are exactly 0 and 1 and the reference's can be a variance."""
    scale, shift, mean, variance = (suspect.weights[role] for role in ROLES["norm"])
    slope, offset = _affine(suspect)
    solved = np.where(slope == 0, 1.0, (scale / slope) ** 2 - suspect.operation.epsilon)
    if not mean.any() and (variance == 1).all() and (slope * scale >= 0).all() and (solved > -BOUND).all():
        mean = np.where(slope == 0, 0.0, (shift - offset) / slope)
        yield Repair(suspect.having({"mean": mean, "variance": solved}))


def _started_affine(suspect: Suspect) -> Iterator[Repair]:
    """Scale and shift solved for, where the port's are exactly 1 and 0."""
    if (suspect.weights["scale"] == 1).all() and not suspect.weights["shift"].any():
        yield Repair(suspect.having(_solved_affine(suspect)))


def _solved_affine(suspect: Suspect) -> dict[Role, Map]:
    """Scale and shift with which the port's mean and variance give the reference's slope and offset."""
    slope, offset = _affine(suspect)
    spread = np.sqrt(suspect.weights["variance"] + suspect.operation.epsilon)
    return {"scale": slope * spread, "shift": offset + suspect.weights["mean"] * slope}


def _other_offset(suspect: Suspect) -> Iterator[Repair]:
    """Any shift, with the port's slope: closes the gap only where scale and variance are right."""
    x, expected = suspect.sample
    yield Repair(suspect.having({"shift": suspect.weights["shift"] + (expected - suspect.run(x))[0]}))


def _other_slope(suspect: Suspect) -> Iterator[Repair]:
    """Any scale, with the port's shift and mean: closes the gap only where these are right."""
    yield Repair(suspect.having({"scale": _solved_affine(suspect)["scale"]}))


def _overwritten_scale(suspect: Suspect) -> Iterator[Repair]:
    """Any scale and shift, where mean and variance fit what the reference's activations show."""
    sigmas, _ = _fit_of_statistics(suspect)
    if sigmas > SIGMAS:
        yield Repair(suspect.having(_solved_affine(suspect)), own={"sigmas": round(sigmas, 1)})


def _another_norm(suspect: Suspect) -> Iterator[Repair]:
    sigmas, apart = _fit_of_statistics(suspect)
    own = {"sigmas": round(sigmas, 1), "apart": round(apart, 2) if isfinite(apart) else None}
    yield Repair(any_norm(suspect), own=own)


def any_norm(suspect: Suspect) -> Suspect:
    """Any slope and offset: closes the gap wherever the reference has a norm at all."""
    slope, offset = _affine(suspect)
    one = np.ones_like(slope)
    return suspect.having(
        {"scale": slope, "shift": offset, "mean": 0 * one, "variance": one - suspect.operation.epsilon}
    )


def _fit_of_statistics(suspect: Suspect) -> tuple[float, float]:
    """How surely the port's mean and variance belong to the reference's activations, and how far apart they are.

    The first is in standard errors: means and logarithms of variances are correlated over the channels with those of
    the activations; Fisher's transformation makes a correlation normal with a deviation of 1 / √(c − 3); the two are
    added. The second is the median over the channels of the means' distance, in the port's deviations.
    """
    x = suspect.evidence.x.reshape(-1, suspect.operation.channels)
    tells = (x.std(axis=0) > 0) & (suspect.weights["variance"] > 0)
    x, mean, variance = x[:, tells], suspect.weights["mean"][tells], suspect.weights["variance"][tells]
    if len(mean) <= 3:  # Fisher's
        return 0.0, float("inf")
    means = x.mean(axis=0) / np.sqrt(variance), mean / np.sqrt(variance)
    pairs = means, (np.log(x.var(axis=0)), np.log(variance))
    normal = [np.arctanh(np.clip(np.corrcoef(*pair)[0, 1], -1 + 1e-6, 1 - 1e-6)) for pair in pairs]
    sigmas = float(sum(normal) * sqrt((len(mean) - 3) / 2)) if min(normal) > 0 else 0.0
    return sigmas, float(np.median(np.abs(means[0] - means[1])))


# -- graphs: what a framework does otherwise with the right weights ----------------------------------------------------


class Variant(NamedTuple):
    """Another graph than the contract's: the name of its fault, the detail to tell, and the units where it differs.

    `is_reversed` where it sees the channels of its images in reverse order.
    """

    fault: str
    network: Graph
    detail: Mapping[str, Any]
    units: tuple[str, ...]
    is_reversed: bool = False


def variants(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    """The graphs that a framework may run in place of the contract's, in the order in which they are tried."""
    network = graph(architecture, contract)
    yield from _other_stems(architecture, contract)
    relu = [name for name, step in network.operations.items() if step.kind == "relu"][-1]
    yield Variant("no-last-relu", network.without(relu), {}, (unit_from(network, relu),))
    yield Variant("channels-reversed", network, {}, (next(iter(network.units)),), is_reversed=True)
    for epsilon in EPSILONS:
        other = graph(architecture, replace(contract, epsilon=epsilon))
        yield Variant("epsilon", other, {"epsilon": epsilon}, ())
    for output in OUTPUTS:
        other = graph(architecture, replace(contract, output=output))
        yield Variant("output", other, {"output": output}, (unit_from(network, network.logits),))


def _other_stems(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    """The other padding of the stem's convolution, of its pool and of both; then the other kind of pool."""
    network = graph(architecture, contract)
    conv, pool = next(iter(network.operations.values())), stem_pool(network)
    if pool is None:
        return
    for steps in ((conv,), (pool,), (conv, pool)) if pool.stride > 1 else ((conv,),):
        other = network
        for step in steps:
            other = other.edited(step.name, padding=_other_padding(step))
        rules = [_rule(other.operations[step.name]) for step in (conv, pool)]
        units = tuple(unit_from(network, step.name) for step in steps)
        yield Variant("stem-padding", other, {"convolution": rules[0], "pool": rules[1]}, units)
    for changed in other_pools(contract):
        if changed.stem_pool != contract.stem_pool:
            other = graph(architecture, changed).edited(conv.name, padding=conv.padding)
            yield Variant("stem-pool", other, {"pool": changed.stem_pool}, (unit_from(network, pool.name),))


def stem_pool(network: Graph) -> Operation | None:
    """The maximum that ends the stem, if there is one."""
    return next((step for step in network.operations.values() if step.kind == "max_pool"), None)


def unit_from(network: Graph, name: str) -> str:
    """The first unit from an operation on, which may be its own; the last unit where none follows."""
    names = list(network.operations)
    following = [later for later in names[names.index(name) :] if later in network.units]
    return following[0] if following else list(network.units)[-1]


def other_pools(contract: Contract) -> list[Contract]:
    """The contract with each other pool that a stem can end with: the maximum, padded by either rule, or the blur."""
    padded = replace(contract, stem_padding="symmetric" if contract.stem_padding == "same" else "same")
    if contract.stem_pool == "blur":  # which pads in its own way
        return [replace(contract, stem_pool="max"), replace(padded, stem_pool="max")]
    return [padded, replace(contract, stem_pool="blur")]


# -- the tables --------------------------------------------------------------------------------------------------------

KNOWN = (  # tried one at a time and in pairs, in this order; what is solved for comes last
    Fault("kernel-flipped", _is_spatial, partial(_moved, lambda kernel: kernel[::-1, ::-1])),
    Fault("kernel-transposed", _is_spatial, partial(_moved, lambda kernel: kernel.swapaxes(0, 1))),
    Fault("kernel-mirrored", _is_spatial, _mirrored),
    Fault("channels-reversed", _sees_images, partial(_moved, lambda kernel: kernel[:, :, ::-1])),
    Fault("stem-padding", _is_strided, _repadded),
    Fault("scale-shift-swapped", _is_norm, partial(_swapped, "scale", "shift")),
    Fault("mean-variance-swapped", _is_norm, partial(_swapped, "mean", "variance")),
    Fault("caffe-factor", _is_norm, _divided),
    Fault("epsilon", _is_norm, _other_epsilon),
    Fault("no-last-relu", _is_head, _without_relu),
    Fault("head-transposed", _is_head, _turned),
    Fault("bias-dropped", _is_head, _dropped_bias),
    Fault("output", _is_head, _activated),
    Fault("channels-permuted", lambda operation: not _is_head(operation), _reordered),
    Fault("classes-permuted", _is_head, _reordered),
)
FREE = (  # tried alone and last: each solves for a number of every channel, and the first that fits assumes least
    Fault("statistics-at-start", _is_norm, _started_statistics),
    Fault("affine-at-start", _is_norm, _started_affine),
    Fault("offset-wrong", _is_norm, _other_offset),
    Fault("slope-wrong", _is_norm, _other_slope),
    Fault("scale-overwritten", _is_norm, _overwritten_scale),
    Fault("norm-wrong", _is_norm, _another_norm),
    Fault("bias-wrong", _is_head, _other_bias),
)
SENTENCES = {  # what a person is told, with the detail that all units share and `where`
    "kernel-flipped": "The port's kernel is turned by 180° in {where}.",
    "kernel-transposed": "Height and width of the port's kernel are swapped in {where}.",
    "kernel-mirrored": "The port's kernel is mirrored along its {axis} in {where}.",
    "channels-reversed": "The port's kernel takes the image's channels in reverse order (RGB for BGR) in {where}.",
    "stem-padding": "The port pads by the rule “{found}”, the reference by “{expected}”, in {where}.",
    "stem-pool": "The port's stem ends with the pool “{found}”, the reference's with “{expected}”, before {where}.",
    "scale-shift-swapped": "Scale and shift are swapped in {where}.",
    "mean-variance-swapped": "Mean and variance are swapped in {where}.",
    "caffe-factor": "Mean and variance are {factor} times the reference's in {where}: Caffe's factor was not "
    "divided out, or (below 1) divided out twice.",
    "epsilon": "Epsilon is {found} in the port and {expected} in the reference, in {where}.",
    "no-last-relu": "The reference has no ReLU before {where}.",
    "head-transposed": "The port's kernel is transposed in {where}.",
    "bias-dropped": "The port's bias is zero and the reference's is not, in {where}.",
    "output": "The reference puts out {output}, not logits, in {where}.",
    "channels-permuted": "The port's output channels are in another order in {where}.",
    "classes-permuted": "The port's classes are in another order in {where}.",
    "statistics-at-start": "Mean and variance still have the values that training starts from, 0 and 1, in {where}.",
    "affine-at-start": "Scale and shift still have the values that training starts from, 1 and 0, in {where}.",
    "offset-wrong": "The shift (or the mean) is wrong, scale and variance are right, in {where}.",
    "scale-overwritten": "Scale and shift are wrong, mean and variance fit the activations, in {where}: so it looks "
    "when a Scale layer's numbers replace a BatchNorm's own instead of being folded with them.",
    "slope-wrong": "The scale (or the variance) is wrong, shift and mean are right, in {where}: so it also looks when "
    "a Scale layer's factor replaces its product with a BatchNorm's that has no shift.",
    "norm-wrong": "The numbers are those of another norm in {where}.",
    "bias-wrong": "The bias is wrong, the kernel right, in {where}.",
    "rounded-to-half": "The port's numbers were rounded to {type} in {where}.",
    "channel-wrong": "Some output channels are wrong, the others right, in {where}.",
    "misplaced": "The port holds another unit's tensors in {where}.",
    "kernel-wrong": "The port's kernel is wrong, in no known way, in {where}.",
    "head-wrong": "The port's kernel or bias is wrong, in no known way, in {where}.",
    "no-numbers": "The reference itself gives NaN or infinity in {where}.",
    "unexplained": "No known fault, and no other numbers in the same place, explain {where}.",
}
PREDICATES = {  # what the port's network does, with a variant's detail
    "stem-padding": "pads the stem by “{convolution}”, its pool by “{pool}”; its contract differs",
    "stem-pool": "ends its stem with the pool “{pool}”; its contract differs",
    "no-last-relu": "has no ReLU before the head",
    "channels-reversed": "sees the image's channels in reverse order (RGB for BGR)",
    "epsilon": "has an epsilon of {epsilon}; its contract differs",
    "output": "puts out {output}, not logits",
}
