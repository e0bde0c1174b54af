"""Writes `docs/statistics.md`: what trained files' own statistics say, of every file that is there, and planted faults.

    python -m tests.record.statistics

The embedded sample is always there; real files where `tests.support.real` finds them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.network.architecture import Architecture
from densenet_port.network.exchanges import assign, exchanged
from densenet_port.network.explanations import Explanation, explain
from densenet_port.network.graph import Graph, graph
from densenet_port.network.inheritance import inherit, statistics_of
from densenet_port.network.moments import Moments, Reading
from densenet_port.network.units import Slot
from tests.support.trained import readable, swapped, turned, weights_of

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
TRIALS = 20
FACTOR = 999.98  # Caffe's
LEFT = (0.99, 0.5, 0.2, 0.1, 0.01)  # of the beginning of moving averages
VECTORS = ("scale", "shift", "mean", "variance")
HEAD = """# What a trained file's statistics say

A norm keeps the mean and the variance of each channel that it reads, over the pictures of the training. Nobody looks
at them again, and they say what the file's tensors are.

**Inheritance.** In a dense block every norm reads all channels before it. The statistics of a channel are worked out
anew in each later norm of the block, from the same map, over the same batches: they are the same bits. So the order
in which maps are joined, the order of layers, and a single changed bit show in the file alone. A number that several
channels of a norm have tells nothing, and where no norm has the numbers of another (random or fresh statistics) there
is no evidence. Variances may differ by one constant (an epsilon that a converted file has absorbed), all numbers by
rounding (several devices), and a block may have others from one norm on (training that went on): none of it is a
contradiction. Norms that stand among those that agree and do not are one, and single numbers are.

**Moments.** A norm puts out a mean and a deviation that are its own shift and scale. Taken as Gaussian, they give the
mean behind a ReLU, and through a convolution's kernel the mean that the next norm has stored. The *residual* is how
far off that is, in deviations, the median over channels and steps. Another explanation (another activation, vectors
exchanged, a maximum for an average) gives another residual. An explanation is *supported* where its residual is at
most 0.15 and every other's twice as large, *contradicted* where it is 0.1 or more and another's good and half of it,
*open* otherwise. It is evidence, never a proof: `check` proves.

Statistics that do not inherit leave everything open, and so do those of a few steps. A moving average begins at 0 for
a mean and at 1 for a variance; what is left of that is in every channel, and so no more than the smallest variance.
Where that is above 0.15 the means may be as far from what they average, and say nothing of the function.

Neither tells an epsilon, a leaky slope of 0.1 from none, a blur behind a maximum, or a padding.

`python -m tests.record.statistics` writes this page. `densenet-port inspect FILE --evidence` shows a file's own.

"""


class Case(NamedTuple):
    """An assumption changed: its question, how the graph or the weights look then."""

    question: str
    change: str
    graph: Graph
    weights: dict[Slot, Array]


def main() -> None:
    """Write the page."""
    networks = readable()
    lines = [*inheritance(networks), *questions(networks), *ways(networks), *places(networks), *faults(networks)]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


# -- inheritance -------------------------------------------------------------------------------------------------------


def inheritance(networks: dict[str, Network]) -> Iterator[str]:
    """What inherits in each file."""
    yield "## Inherited statistics\n"
    yield "| file | norms that inherit | numbers that are equal | equal by chance | order |"
    yield "| --- | --- | --- | --- | --- |"
    for name, network in networks.items():
        assert network.witness
        one = network.witness.inheritance
        numbers = f"{one.equal:,} of {one.compared:,}"
        yield f"| {name} | {one.inheriting} of {one.norms} | {numbers} | {one.chance:.1f} | {one.order} |"
    yield ""


# -- assumptions -------------------------------------------------------------------------------------------------------


def questions(networks: dict[str, Network]) -> Iterator[str]:
    """Each assumption of each file, as it is and changed."""
    yield "## Assumptions, unchanged and changed\n"
    yield "| file | question | residual | next best | verdict | changed to | residual | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, network in networks.items():
        told = {one.question: one for one in explained(network.graph, weights_of(network))}
        changed = {case.question: case for case in cases(network)}
        for question in sorted(told.keys() | changed.keys()):
            yield f"| {name} | {question} | {_unchanged(told.get(question))} | {_changed(changed.get(question))} |"
    yield ""


def explained(network: Graph, weights: dict[Slot, Array]) -> tuple[Explanation, ...]:
    """The explanations of a network."""
    return explain(Moments(network, weights), trained=True)


def _unchanged(one: Explanation | None) -> str:
    if one is None:
        return "– | – | –"
    best = f"{one.best} {one.alternatives[one.best]:.3f} ({one.margin:.1f}×)" if one.best else ""
    return f"{one.residual:.3f} | {best} | {one.verdict}"


def _changed(case: Case | None) -> str:
    if case is None:
        return " | | "
    told = next((one for one in explained(case.graph, case.weights) if one.question == case.question), None)
    return f"{case.change} | – | not asked" if told is None else f"{case.change} | {told.residual:.3f} | {told.verdict}"


def cases(network: Network) -> Iterator[Case]:
    """Each assumption, changed to what it is not: by the weights as another table would read them, or by the graph."""
    weights, plain = weights_of(network), network.graph
    yield Case("activation", "gelu in the file", plain, activated(plain, weights, "gelu"))
    yield Case("scale and shift", "exchanged", plain, exchange(weights, "scale", "shift"))
    yield Case("mean and variance", "exchanged", plain, exchange(weights, "mean", "variance"))
    scaled = {
        slot: array * np.float32(FACTOR) if slot.role in VECTORS[2:] else array for slot, array in weights.items()
    }
    yield Case("factor on mean and variance", "left in", plain, scaled)
    bare = {"scale": 1, "shift": 0}
    left = {slot: np.full_like(a, bare[slot.role]) if slot.role in bare else a for slot, a in weights.items()}
    yield Case("affine map", "left out", plain, left)
    if any(step.kind == "max_pool" for step in plain.operations.values()):
        other = graph(network.architecture, replace(network.contract, stem_pool="none"))
        yield Case("stem pool", "none", other, weights)
    elif "stem.norm" in plain.units:
        other = graph(network.architecture, replace(network.contract, stem_pool="max"))
        yield Case("stem pool", "max", other, weights)
    if "stem.norm" in plain.units:
        yield Case("stem", "its norm left out", *without_norm(network.architecture, network, weights))


def activated(network: Graph, weights: dict[Slot, Array], name: str) -> dict[Slot, Array]:
    """The weights with the means that another activation gives behind the convolutions that are looked at."""
    changed, moments = dict(weights), Moments(network, weights)
    for step in moments.sample(1) or moments.sample(3):
        mean = np.array(changed[Slot(step.norm, "mean")], np.float32)
        products = moments.predicted(step, Reading(activation=name))
        mean[step.start : step.stop] = moments.summed(step, products, moments.side)
        changed[Slot(step.norm, "mean")] = mean
    return changed


def exchange(weights: dict[Slot, Array], one: str, other: str) -> dict[Slot, Array]:
    """The weights with two vectors of every norm exchanged."""
    names = {one: other, other: one}
    return {slot: weights[Slot(slot.unit, names.get(slot.role, slot.role))] for slot in weights}


def without_norm(
    numbers: Architecture, network: Network, weights: dict[Slot, Array]
) -> tuple[Graph, dict[Slot, Array]]:
    """The network as a table reads it that ignores the norm behind the stem."""
    side = network.graph.units["stem.conv"].sizes["h"]
    bare = graph(replace(numbers, stem=f"{side}x{side}" if side != 3 else "cifar"), network.contract)
    return bare, {slot: array for slot, array in weights.items() if slot.unit != "stem.norm"}


# -- moving averages on their way --------------------------------------------------------------------------------------


def ways(networks: dict[str, Network]) -> Iterator[str]:
    """What is said of each file while something is left of its averages' beginning."""
    yield "## Moving averages on their way\n"
    yield "| file | smallest variance | " + " | ".join(f"{left:g} left" for left in LEFT) + " |"
    yield "| --- | --- | " + " | ".join("---" for _ in LEFT) + " |"
    for name, network in networks.items():
        weights = weights_of(network)
        lowest = Moments(network.graph, weights).lowest
        said = [_said(network.graph, on_its_way(weights, left)) for left in LEFT]
        yield f"| {name} | {lowest:.4f} | " + " | ".join(said) + " |"
    yield ""


def on_its_way(weights: dict[Slot, Array], left: float) -> dict[Slot, Array]:
    """The weights with moving averages of which so much is left of their beginning, 0 and 1."""
    began = {"mean": np.float32(0), "variance": np.float32(left)}
    return {
        slot: array * np.float32(1 - left) + began[slot.role] if slot.role in began else array
        for slot, array in weights.items()
    }


def _said(network: Graph, weights: dict[Slot, Array]) -> str:
    """How many explanations have which verdict."""
    counts = Counter(one.verdict for one in explained(network, weights))
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


# -- what belongs together ---------------------------------------------------------------------------------------------


def places(networks: dict[str, Network]) -> Iterator[str]:
    """How many modules find their neighbours among all of the network."""
    yield "## What belongs together, by the nearest prediction alone\n"
    yield "| file | norm 2 behind each conv 1 | new channels of each last convolution of a layer |"
    yield "| --- | --- | --- |"
    for name, network in networks.items():
        moments = Moments(network.graph, weights_of(network))
        last = "conv2" if network.architecture.bottleneck else "conv1"
        yield f"| {name} | {_right(moments, 'conv1') if last == 'conv2' else '–'} | {_right(moments, last)} |"
    yield ""


def _right(moments: Moments, kind: str) -> str:
    """How many of the steps through a kind of convolution find what they lead to."""
    chosen = [step for step in moments.steps if step.source.startswith("block") and step.source.endswith(kind)]
    ends = [moments.norm(step.norm).part(step.start, step.stop) for step in chosen]
    predicted = [moments.summed(step, moments.predicted(step, Reading()), moments.side) for step in chosen]
    result = assign(
        np.stack(predicted), np.stack([end.mean for end in ends]), np.stack([end.deviation for end in ends])
    )
    return f"{int(np.sum(result.places == np.arange(len(chosen))))} of {len(chosen)}"


# -- planted faults ----------------------------------------------------------------------------------------------------

Plant = Callable[[np.random.Generator, Network, dict[Slot, Array]], tuple[dict[Slot, Array], set[str]] | None]


def faults(networks: dict[str, Network]) -> Iterator[str]:
    """How many of each kind of planted fault are seen, and named by one of its units."""
    yield f"## Planted faults: how many of {TRIALS} are seen, and their units named\n"
    yield "| file | unharmed | " + " | ".join(PLANTS) + " |"
    yield "| --- | --- | " + " | ".join("---" for _ in PLANTS) + " |"
    for name, network in networks.items():
        weights = weights_of(network)
        clean = "none" if not list(named(network, weights)) else "**a false alarm**"
        yield f"| {name} | {clean} | " + " | ".join(_seen(plant, network, weights) for plant in PLANTS.values()) + " |"
    yield ""
    yield "An exchange of two convolutions, or of two channels, that make nearly the same means is not seen, nor is a"
    yield "bit of a number that no norm inherits."


def named(network: Network, weights: dict[Slot, Array]) -> Iterator[str]:
    """The units that something is said of."""
    result = inherit(network.graph, statistics_of(network.graph, weights))
    for dissent in result.dissents:
        yield dissent.norm
        yield dissent.kin
    for exchange_of in exchanged(Moments(network.graph, weights)):
        yield from exchange_of.units


def _seen(plant: Plant, network: Network, weights: dict[Slot, Array]) -> str:
    random, count = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        planted = plant(random, network, weights)
        if planted is None:
            return "–"
        changed, units = planted
        count += bool(units & set(named(network, changed)))
    return str(count)


def _two(random: np.random.Generator, names: list[str]) -> tuple[str, str]:
    one, other = random.choice(len(names), 2, replace=False)
    return names[one], names[other]


def _units(network: Network, ending: str) -> list[str]:
    return [unit for unit in network.graph.units if unit.endswith(ending)]


def _exchanged_units(ending: str) -> Plant:
    """Two modules of a kind exchanged."""

    def plant(
        random: np.random.Generator, network: Network, weights: dict[Slot, Array]
    ) -> tuple[dict[Slot, Array], set[str]] | None:
        names = _units(network, ending)
        if len(names) < 2:
            return None
        one, other = _two(random, names)
        return swapped(weights, one, other), {one, other}

    return plant


def _layers(
    random: np.random.Generator, network: Network, weights: dict[Slot, Array]
) -> tuple[dict[Slot, Array], set[str]] | None:
    """The second half of two layers exchanged."""
    names = _units(network, ".conv2")
    if len(names) < 2:
        return None
    pairs = [[name, name.replace("conv2", "norm2")] for name in _two(random, names)]
    for one, other in zip(*pairs, strict=True):
        weights = swapped(weights, one, other)
    return weights, {unit for pair in pairs for unit in pair}


def _vectors(one: str, other: str) -> Plant:
    """Two vectors of one norm exchanged."""

    def plant(
        random: np.random.Generator, network: Network, weights: dict[Slot, Array]
    ) -> tuple[dict[Slot, Array], set[str]] | None:
        norms = _units(network, ".norm2") or _units(network, ".norm1")[1:]
        unit = norms[random.integers(len(norms))]
        return turned(weights, unit, one, other), {unit}

    return plant


def _channels(
    random: np.random.Generator, network: Network, weights: dict[Slot, Array]
) -> tuple[dict[Slot, Array], set[str]] | None:
    """Two channels of one norm exchanged, in all its vectors."""
    norms = [
        name for name in _units(network, ".norm2") + _units(network, ".norm1") if not name.endswith("layer1.norm1")
    ]
    unit, changed = norms[random.integers(len(norms))], dict(weights)
    pair = random.choice(len(weights[Slot(unit, "mean")]), 2, replace=False)
    for role in VECTORS:
        vector = np.array(weights[Slot(unit, role)])
        vector[pair] = vector[pair[::-1]]
        changed[Slot(unit, role)] = vector
    return changed, {unit}


def _bit(
    random: np.random.Generator, network: Network, weights: dict[Slot, Array]
) -> tuple[dict[Slot, Array], set[str]] | None:
    """A bit of a mean or a variance that a norm has inherited."""
    norms = [name for name in _units(network, ".norm1") if not name.endswith("layer1.norm1")]
    unit, role = norms[random.integers(len(norms))], VECTORS[2 + random.integers(2)]
    vector = np.array(weights[Slot(unit, role)], np.float32)
    inherited = len(vector) - network.architecture.growth_rate
    vector.view(np.uint32)[random.integers(inherited)] ^= np.uint32(1 << int(random.integers(32)))
    return {**weights, Slot(unit, role): vector}, {unit}


PLANTS: dict[str, Plant] = {
    "two norms exchanged": _exchanged_units(".norm2"),
    "two convolutions exchanged": _exchanged_units(".conv2"),
    "a layer with another": _layers,
    "mean and variance of a norm": _vectors("mean", "variance"),
    "scale and shift of a norm": _vectors("scale", "shift"),
    "two channels of a norm": _channels,
    "a changed bit": _bit,
}


if __name__ == "__main__":
    main()
