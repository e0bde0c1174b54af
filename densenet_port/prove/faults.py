"""The mistakes that ports are known to make, each with the way to undo it on one unit of the port.

A `Case` is one unit with the evidence on it: what the reference fed into it and what came out. A mistake is a row of a
table: its name, the units that can have it, and a function that gives the case with the mistake undone, in every way
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
The smallest known mistake, an epsilon off by 1e-8, moves a norm's slope by 5e-9 / variance.
"""
SIGNATURE = 256  # places that are enough to tell channels apart
SIGMAS = 4.0  # the chance that statistics fit strange activations so well is below 1e-4
EPSILONS = (1e-5, 1.001e-5, 1.1e-5, 1e-3, 1e-6)  # of the layouts that are known, and of Keras's defaults
OUTPUTS: tuple[Literal["softmax", "sigmoid"], ...] = ("softmax", "sigmoid")  # what may stand behind the logits


class Sight(NamedTuple):
    """What enters a unit, and what the reference makes of it."""

    x: Map
    truth: Map


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One unit of the port and the evidence on it.

    `steps` run one after the other: the unit's own operation, and for the head the ReLU and the mean in front of it.
    `full` is all of the evidence, `few` enough to refuse a wrong guess: for a norm each channel's smallest and largest
    input (`2 c`; the error of an affine map is largest at one of them), for a convolution the first image.
    """

    steps: tuple[Operation, ...]
    weights: Mapping[Role, Map]
    full: Sight
    few: Sight
    deviation: float

    @classmethod
    def of(cls, steps: tuple[Operation, ...], weights: Mapping[Role, Map], full: Sight) -> "Case":
        """A unit with its evidence."""
        deviation = float(full.truth.std()) or 1.0
        return cls(steps=steps, weights=weights, full=full, few=_few(steps[-1], full), deviation=deviation)

    @property
    def operation(self) -> Operation:
        """The unit's own."""
        return next(step for step in self.steps if step.unit)

    def having(self, weights: Mapping[Role, Map]) -> "Case":
        """The case with other tensors in some roles."""
        return replace(self, weights={**self.weights, **weights})

    def edited(self, **changes: Any) -> "Case":
        """The case with other attributes of the unit's own operation."""
        own = replace(self.operation, **changes)
        return replace(self, steps=tuple(own if step.unit else step for step in self.steps))

    def run(self, x: Map) -> Map:
        """The port's unit on some input."""
        weights = {Slot(self.operation.name, role): array for role, array in self.weights.items()}
        for step in self.steps:
            x = apply(step, weights, x)
        return x

    def errors(self, sight: Sight) -> Map:
        """Each channel's largest local error `c`, in deviations of the whole output; infinite for NaN."""
        apart = np.abs(self.run(sight.x) - sight.truth).reshape(-1, sight.truth.shape[-1]).max(axis=0) / self.deviation
        return np.where(np.isnan(apart), np.inf, apart)


def _few(operation: Operation, full: Sight) -> Sight:
    """The part of the evidence that guesses are tried on."""
    if operation.kind == "norm":
        x, truth = (array.reshape(-1, array.shape[-1]) for array in full)
        places = np.stack([x.argmin(axis=0), x.argmax(axis=0)])
        return Sight(np.take_along_axis(x, places, 0), np.take_along_axis(truth, places, 0))
    return Sight(full.x[:1], full.truth[:1]) if operation.kind == "conv" else full


def padding_rule(operation: Operation) -> StemPadding:
    """How a contract calls an operation's padding."""
    return "same" if operation.padding == "same" else "symmetric"


def other_padding(operation: Operation) -> Padding:
    """An operation's padding by the other of the two rules."""
    return operation.kernel // 2 if operation.padding == "same" else "same"


class Undone(NamedTuple):
    """A case with one mistake undone; `fixed` is what all units with this mistake share, `own` what they do not."""

    case: Case
    fixed: Mapping[str, Any] = {}
    own: Mapping[str, Any] = {}


class Mistake(NamedTuple):
    """A mistake: its stable name, the units that can have it, and how it is undone (in no way, if it cannot be)."""

    slug: str
    applies: Callable[[Operation], bool]
    undo: Callable[[Case], Iterable[Undone]]


# -- kernels -----------------------------------------------------------------------------------------------------------


def _is_spatial(operation: Operation) -> bool:
    return operation.kind == "conv" and operation.kernel > 1


def _is_strided(operation: Operation) -> bool:
    return operation.kind == "conv" and operation.stride > 1


def _sees_colours(operation: Operation) -> bool:
    """Whether images of several channels enter."""
    unit = operation.unit
    return IMAGES in operation.inputs and unit is not None and unit.sizes["i"] > 1


def _flipped(case: Case) -> Iterator[Undone]:
    yield Undone(case.having({"kernel": case.weights["kernel"][::-1, ::-1]}))


def _transposed(case: Case) -> Iterator[Undone]:
    yield Undone(case.having({"kernel": case.weights["kernel"].swapaxes(0, 1)}))


def _mirrored(case: Case) -> Iterator[Undone]:
    for axis, name in enumerate(("height", "width")):
        yield Undone(case.having({"kernel": np.flip(case.weights["kernel"], axis)}), {"axis": name})


def _reversed_inputs(case: Case) -> Iterator[Undone]:
    yield Undone(case.having({"kernel": case.weights["kernel"][:, :, ::-1]}))


def _repadded(case: Case) -> Iterator[Undone]:
    repadded = case.edited(padding=other_padding(case.operation))
    expected, found = padding_rule(repadded.operation), padding_rule(case.operation)
    yield Undone(repadded, {"expected": expected, "found": found})


def _reordered(case: Case) -> Iterator[Undone]:
    """The channels that are off, in the order in which they give the reference's, if there is one."""
    off = np.flatnonzero(case.errors(case.few) > BOUND)
    wanted, found = (signature[off] for signature in _signatures(case))
    ranks, source = np.argsort(wanted), np.argsort(found)
    if off.size > 1 and np.allclose(wanted[ranks], found[source], rtol=0, atol=1e-6 * wanted.std()):
        order = np.arange(case.few.truth.shape[-1])
        order[off[ranks]] = off[source]
        moved = {role: array[..., order] for role, array in case.weights.items()}
        yield Undone(case.having(moved), own={"order": np.stack([off, order[off]], axis=1).tolist()})


def _signatures(case: Case) -> tuple[Map, Map]:
    """A number `c` that tells output channels apart, of the reference and of the port: a random sum over each."""
    if case.operation.kind == "norm":
        slope = _own_slope(case)
        pair = np.stack(_affine(case)), np.stack([slope, case.weights["shift"] - case.weights["mean"] * slope])
    else:
        pair = case.few.truth, case.run(case.few.x)
    truth, found = (array.reshape(-1, array.shape[-1])[:SIGNATURE] for array in pair)
    share = np.random.default_rng(0).standard_normal(len(truth))
    return share @ truth, share @ found


# -- the head ----------------------------------------------------------------------------------------------------------


def _is_head(operation: Operation) -> bool:
    return operation.kind == "dense"


def _without_last_relu(case: Case) -> Iterator[Undone]:
    steps = tuple(step for step in case.steps if step.kind != "relu")
    yield Undone(replace(case, steps=steps), {"side": "reference"})


def _turned_head(case: Case) -> Iterator[Undone]:
    kernel = case.weights["kernel"]
    if kernel.shape[0] == kernel.shape[1]:
        yield Undone(case.having({"kernel": kernel.T}))


def _dropped_bias(case: Case) -> Iterator[Undone]:
    if not case.weights["bias"].any():
        yield from _other_bias(case)


def _other_bias(case: Case) -> Iterator[Undone]:
    """Any bias; as evidence it needs two images, which must agree on it."""
    if len(case.full.x) > 1:
        yield Undone(
            case.having({"bias": case.weights["bias"] + (case.full.truth - case.run(case.full.x)).mean(axis=0)})
        )


def _with_output(case: Case) -> Iterator[Undone]:
    head = case.operation
    for output in OUTPUTS:
        activation = Operation(
            name=output, kind="activation", inputs=(head.name,), channels=head.channels, function=output
        )
        yield Undone(replace(case, steps=(*case.steps, activation)), {"side": "reference", "output": output})


# -- norms: what the reference shows of one is its slope and its offset ------------------------------------------------


def _is_norm(operation: Operation) -> bool:
    return operation.kind == "norm"


def _own_slope(case: Case) -> Map:
    """The port's slope `c`."""
    slope: Map = case.weights["scale"] / np.sqrt(case.weights["variance"] + case.operation.epsilon)
    return slope


def _affine(case: Case) -> tuple[Map, Map]:
    """Slope and offset `c` of the reference's norm; where a channel's input is constant, the port's own slope."""
    (low, high), (bottom, top) = case.few
    slope = np.where(high > low, (top - bottom) / (high - low), _own_slope(case))
    return slope, bottom - slope * low


def _spreads(case: Case) -> tuple[Map, Map, Map]:
    """Of the channels that tell: variance; the reference's variance + epsilon, if the port's scale is right; and trust.

    Trust is the inverse of the second's rounding error: a slope read from outputs t is off by |t| / (their range), and
    the square doubles it.
    """
    (low, high), (bottom, top) = case.few
    squared = (case.weights["scale"] / _affine(case)[0]) ** 2
    trust = (high > low) * np.abs(top - bottom) / (np.abs(top) + np.abs(bottom)) / squared
    tells = np.isfinite(squared) & np.isfinite(trust) & (case.weights["variance"] > 0)
    return case.weights["variance"][tells], squared[tells], trust[tells]


def _median(values: Map, trust: Map) -> float:
    """The median with trust as weight, which one strange channel does not move; NaN of nothing."""
    order = np.argsort(values)
    total = np.cumsum(trust[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)]) if values.size else float("nan")


def _swapped(first: Role, second: Role, case: Case) -> Iterator[Undone]:
    yield Undone(case.having({first: case.weights[second], second: case.weights[first]}))


def _divided(case: Case) -> Iterator[Undone]:
    """Mean and variance by the one factor that gives the reference's slopes."""
    variance, squared, trust = _spreads(case)
    share = _median((squared - case.operation.epsilon) / variance, trust * variance)
    if isfinite(share) and share > 0:
        mean, spread = (case.weights[role] * share for role in ("mean", "variance"))
        yield Undone(case.having({"mean": mean, "variance": spread}), {"factor": float(f"{1 / share:.6g}")})


def _other_epsilon(case: Case) -> Iterator[Undone]:
    """The epsilon that gives the reference's slopes: to four digits, as people write one, or else as solved for."""
    variance, squared, trust = _spreads(case)
    solved = _median(squared - variance, trust)
    if isfinite(solved):
        for value in dict.fromkeys((float(f"{solved:.4g}"), solved)):
            fixed = {"expected": float(f"{value:.6g}"), "found": case.operation.epsilon}
            yield Undone(case.edited(epsilon=value), fixed)


def _started_statistics(case: Case) -> Iterator[Undone]:
    """Mean and variance solved for, where the port's are exactly 0 and 1 and the reference's can be a variance."""
    scale, shift, mean, variance = (case.weights[role] for role in ROLES["norm"])
    slope, offset = _affine(case)
    solved = np.where(slope == 0, 1.0, (scale / slope) ** 2 - case.operation.epsilon)
    if not mean.any() and (variance == 1).all() and (slope * scale >= 0).all() and (solved > -BOUND).all():
        yield Undone(case.having({"mean": np.where(slope == 0, 0.0, (shift - offset) / slope), "variance": solved}))


def _started_affine(case: Case) -> Iterator[Undone]:
    """Scale and shift solved for, where the port's are exactly 1 and 0."""
    if (case.weights["scale"] == 1).all() and not case.weights["shift"].any():
        yield _with_affine_solved(case)


def _with_affine_solved(case: Case) -> Undone:
    """Scale and shift with which the port's mean and variance give the reference's slope and offset."""
    slope, offset = _affine(case)
    spread = np.sqrt(case.weights["variance"] + case.operation.epsilon)
    return Undone(case.having({"scale": slope * spread, "shift": offset + case.weights["mean"] * slope}))


def _other_offset(case: Case) -> Iterator[Undone]:
    """Any shift, with the port's slope: closes the gap only where scale and variance are right."""
    x, truth = case.few
    yield Undone(case.having({"shift": case.weights["shift"] + (truth - case.run(x))[0]}))


def _other_slope(case: Case) -> Iterator[Undone]:
    """Any scale, with the port's shift and mean: closes the gap only where these are right."""
    yield Undone(case.having({"scale": _with_affine_solved(case).case.weights["scale"]}))


def _overwritten_scale(case: Case) -> Iterator[Undone]:
    """Any scale and shift, where mean and variance fit what the reference's activations show."""
    sigmas, _ = _fit_of_statistics(case)
    if sigmas > SIGMAS:
        yield _with_affine_solved(case)._replace(own={"sigmas": round(sigmas, 1)})


def _another_norm(case: Case) -> Iterator[Undone]:
    sigmas, apart = _fit_of_statistics(case)
    yield Undone(
        any_norm(case), own={"sigmas": round(sigmas, 1), "apart": round(apart, 2) if isfinite(apart) else None}
    )


def _fit_of_statistics(case: Case) -> tuple[float, float]:
    """How surely the port's mean and variance belong to the reference's activations, and how far apart they are.

    The first is in standard errors: means and logarithms of variances are correlated over the channels with those of
    the activations; Fisher's transformation makes a correlation normal with a deviation of 1 / √(c − 3); the two are
    added. The second is the median over the channels of the means' distance, in the port's deviations.
    """
    x = case.full.x.reshape(-1, case.full.x.shape[-1])
    tells = (x.std(axis=0) > 0) & (case.weights["variance"] > 0)
    x, mean, variance = x[:, tells], case.weights["mean"][tells], case.weights["variance"][tells]
    if len(mean) <= 3:  # noqa: PLR2004 (Fisher's)
        return 0.0, float("inf")
    means = x.mean(axis=0) / np.sqrt(variance), mean / np.sqrt(variance)
    pairs = means, (np.log(x.var(axis=0)), np.log(variance))
    normal = [np.arctanh(np.clip(np.corrcoef(*pair)[0, 1], -1 + 1e-6, 1 - 1e-6)) for pair in pairs]
    sigmas = float(sum(normal) * sqrt((len(mean) - 3) / 2)) if min(normal) > 0 else 0.0
    return sigmas, float(np.median(np.abs(means[0] - means[1])))


def any_norm(case: Case) -> Case:
    """Any slope and offset: closes the gap wherever the reference has a norm at all."""
    slope, offset = _affine(case)
    unit = np.ones_like(slope) - case.operation.epsilon
    return case.having({"scale": slope, "shift": offset, "mean": np.zeros_like(slope), "variance": unit})


# -- what a framework does otherwise with the right weights ------------------------------------------------------------


class Variant(NamedTuple):
    """Another graph than the contract's, the detail to tell of it, and the units where it differs.

    `is_reversed` where it sees the channels of its images in reverse order.
    """

    network: Graph
    detail: Mapping[str, Any] = {}
    units: tuple[str, ...] = ()
    is_reversed: bool = False


class GraphMistake(NamedTuple):
    """A mistake of a framework: its stable name, the variants that have it, and what is said of the network then."""

    slug: str
    variants: Callable[[Architecture, Contract], Iterator[Variant]]
    says: str


def stem_pool(network: Graph) -> Operation | None:
    """The maximum that ends the stem, if there is one."""
    return next((step for step in network.operations.values() if step.kind == "max_pool"), None)


def last_relu(network: Graph) -> str:
    """The ReLU behind the last norm."""
    return [name for name, step in network.operations.items() if step.kind == "relu"][-1]


def unit_from(network: Graph, name: str) -> str:
    """The first unit from an operation on, which may be its own; the last unit where none follows."""
    names = list(network.operations)
    following = [later for later in names[names.index(name) :] if later in network.units]
    return following[0] if following else list(network.units)[-1]


def other_pools(contract: Contract) -> Iterator[Contract]:
    """The contract with each other pool that a stem can end with: the maximum, padded by either rule, or the blur."""
    padded = replace(contract, stem_padding="symmetric" if contract.stem_padding == "same" else "same")
    if contract.stem_pool == "blur":  # which pads in its own way
        yield replace(contract, stem_pool="max")
        yield replace(padded, stem_pool="max")
    else:
        yield padded
        yield replace(contract, stem_pool="blur")


def _padded_otherwise(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    """The other padding of the stem's convolution, of its pool, and of both."""
    network = graph(architecture, contract)
    conv, pool = next(iter(network.operations.values())), stem_pool(network)
    if pool is None:
        return
    for steps in ((conv,), (pool,), (conv, pool)) if pool.stride > 1 else ((conv,),):
        variant = network
        for step in steps:
            variant = variant.edited(step.name, padding=other_padding(step))
        rules = [padding_rule(variant.operations[step.name]) for step in (conv, pool)]
        units = tuple(unit_from(network, step.name) for step in steps)
        yield Variant(variant, {"convolution": rules[0], "pool": rules[1]}, units)


def _pooled_otherwise(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    """The other kind of pool; the other padding has been tried."""
    network = graph(architecture, contract)
    conv, pool = next(iter(network.operations.values())), stem_pool(network)
    for other in other_pools(contract) if pool else ():
        if pool and other.stem_pool != contract.stem_pool:
            variant = graph(architecture, other).edited(conv.name, padding=conv.padding)
            yield Variant(variant, {"pool": other.stem_pool}, (unit_from(network, pool.name),))


def _without_any_last_relu(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    network = graph(architecture, contract)
    relu = last_relu(network)
    yield Variant(network.without(relu), units=(unit_from(network, relu),))


def _reversed_images(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    network = graph(architecture, contract)
    yield Variant(network, units=(next(iter(network.units)),), is_reversed=True)


def _with_epsilon(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    for epsilon in EPSILONS:
        yield Variant(graph(architecture, replace(contract, epsilon=epsilon)), {"epsilon": epsilon})


def _with_activation(architecture: Architecture, contract: Contract) -> Iterator[Variant]:
    for output in OUTPUTS:
        network = graph(architecture, replace(contract, output=output))
        yield Variant(network, {"output": output}, (unit_from(network, network.logits),))


# -- the tables --------------------------------------------------------------------------------------------------------

KNOWN = (  # tried one at a time and in pairs, in this order; what is solved for comes last
    Mistake("kernel-flipped", _is_spatial, _flipped),
    Mistake("kernel-transposed", _is_spatial, _transposed),
    Mistake("kernel-mirrored", _is_spatial, _mirrored),
    Mistake("channels-reversed", _sees_colours, _reversed_inputs),
    Mistake("stem-padding", _is_strided, _repadded),
    Mistake("scale-shift-swapped", _is_norm, partial(_swapped, "scale", "shift")),
    Mistake("mean-variance-swapped", _is_norm, partial(_swapped, "mean", "variance")),
    Mistake("caffe-factor", _is_norm, _divided),
    Mistake("epsilon", _is_norm, _other_epsilon),
    Mistake("no-last-relu", _is_head, _without_last_relu),
    Mistake("head-transposed", _is_head, _turned_head),
    Mistake("bias-dropped", _is_head, _dropped_bias),
    Mistake("output", _is_head, _with_output),
    Mistake("channels-permuted", lambda operation: operation.kind != "dense", _reordered),
    Mistake("classes-permuted", _is_head, _reordered),
)
FREE = (  # tried alone and last: each solves for a number of every channel, and the first that fits assumes least
    Mistake("statistics-at-start", _is_norm, _started_statistics),
    Mistake("affine-at-start", _is_norm, _started_affine),
    Mistake("offset-wrong", _is_norm, _other_offset),
    Mistake("slope-wrong", _is_norm, _other_slope),
    Mistake("scale-overwritten", _is_norm, _overwritten_scale),
    Mistake("norm-wrong", _is_norm, _another_norm),
    Mistake("bias-wrong", _is_head, _other_bias),
)

GRAPHS = (  # tried in this order
    GraphMistake(
        "stem-padding",
        _padded_otherwise,
        "pads the stem by “{convolution}”, its pool by “{pool}”; its contract differs",
    ),
    GraphMistake("stem-pool", _pooled_otherwise, "ends its stem with the pool “{pool}”; its contract differs"),
    GraphMistake("no-last-relu", _without_any_last_relu, "has no ReLU before the head"),
    GraphMistake("channels-reversed", _reversed_images, "sees the image's channels in reverse order (RGB for BGR)"),
    GraphMistake("epsilon", _with_epsilon, "has an epsilon of {epsilon}; its contract differs"),
    GraphMistake("output", _with_activation, "puts out {output}, not logits"),
)

SAYS = {  # what a person is told, with the detail that all units share and `where`
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
    "unexplained": "No known mistake, and no other numbers in the same place, explain {where}.",
}
