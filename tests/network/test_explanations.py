"""What a trained file's moments say of what a graph assumes, unchanged and with each assumption changed."""

from dataclasses import replace

import numpy as np
import pytest

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.explanations import Explanation, epsilons, explain, pictures, stem_pool
from densenet_port.network.graph import graph
from densenet_port.network.moments import Moments
from densenet_port.network.units import ROLES, Slot
from tests.record.statistics import on_its_way
from tests.support.trained import readable, weights_of

TRAINED = readable()
DIGITS = TRAINED["digits"]
WITHOUT_BOTTLENECK = {name for name, network in TRAINED.items() if not network.architecture.bottleneck}


def verdicts(network, weights, *, trained=True, biases=None):
    """Question → verdict."""
    return {one.question: one.verdict for one in explain(Moments(network, weights), trained=trained, biases=biases)}


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - WITHOUT_BOTTLENECK))
def test_a_trained_network_supports_what_is_assumed(name):
    """Question by question, in float32 and in float16."""
    network = TRAINED[name]
    weights = weights_of(network)
    halves = {slot: array.astype(np.float16) for slot, array in weights.items()}

    assert set(verdicts(network.graph, weights).values()) == {"supported"}
    assert set(verdicts(network.graph, halves).values()) == {"supported"}


@pytest.mark.parametrize("name", TRAINED)
def test_no_trained_network_is_contradicted(name):
    """Nor are those without 1×1 convolutions, of which less is told."""
    network = TRAINED[name]

    assert "contradicted" not in verdicts(network.graph, weights_of(network)).values()


def test_statistics_of_no_training_leave_everything_open():
    """What moments say of random numbers is nothing."""
    assert set(verdicts(DIGITS.graph, weights_of(DIGITS), trained=False).values()) == {"open"}


@pytest.mark.parametrize("left", [0.9999, 0.99, 0.9, 0.7, 0.5, 0.3, 0.2])
@pytest.mark.parametrize("name", TRAINED)
def test_averages_on_their_way_leave_everything_open(name, left):
    """Whatever the graph assumes, the stem's pool too."""
    network = TRAINED[name]
    moments = Moments(network.graph, on_its_way(weights_of(network), left))

    assert {one.verdict for one in explain(moments, trained=True)} == {"open"}
    assert (pool := stem_pool(moments)) is None or pool.verdict == "open"


@pytest.mark.parametrize("left", [0.2, 0.15, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("name", TRAINED)
def test_what_little_is_left_of_the_beginning_contradicts_nothing(name, left):
    """Near the end of the way, where statistics speak."""
    network = TRAINED[name]

    assert "contradicted" not in verdicts(network.graph, on_its_way(weights_of(network), left)).values()


def exchange(weights, one, other):
    """The weights with two roles of every norm exchanged."""
    names = {one: other, other: one}
    return {slot: weights[Slot(slot.unit, names.get(slot.role, slot.role))] for slot in weights}


@pytest.mark.parametrize(
    ("question", "one", "other"), [("scale and shift", "scale", "shift"), ("mean and variance", "mean", "variance")]
)
@pytest.mark.parametrize("name", sorted(TRAINED.keys() - WITHOUT_BOTTLENECK))
def test_exchanged_roles_are_contradicted(name, question, one, other):
    """A table that takes one vector of each norm for another."""
    network = TRAINED[name]

    told = {
        e.question: e for e in explain(Moments(network.graph, exchange(weights_of(network), one, other)), trained=True)
    }

    assert (told[question].verdict, told[question].best) == ("contradicted", "exchanged")


@pytest.mark.parametrize("factor", [999.98, 1 / 999.98])
@pytest.mark.parametrize("name", sorted(TRAINED.keys() - WITHOUT_BOTTLENECK))
def test_a_missing_or_surplus_factor_is_contradicted(name, factor):
    """Means and variances that a fold left multiplied, or divided twice; the factor is found."""
    network = TRAINED[name]
    weights = {
        slot: array * np.float32(factor) if slot.role in ("mean", "variance") else array
        for slot, array in weights_of(network).items()
    }

    told = {e.question: e for e in explain(Moments(network.graph, weights), trained=True)}[
        "factor on mean and variance"
    ]

    assert told.verdict == "contradicted"
    assert float(told.best) == pytest.approx(factor, rel=0.2)


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - WITHOUT_BOTTLENECK - {"digits"}))
def test_a_second_scale_left_out_is_contradicted(name):
    """Norms of scale 1 and shift 0, whose own stood in a layer behind them."""
    network = TRAINED[name]
    values = {"scale": 1, "shift": 0}
    weights = {
        slot: np.full_like(array, values[slot.role]) if slot.role in values else array
        for slot, array in weights_of(network).items()
    }

    assert verdicts(network.graph, weights)["affine map"] == "contradicted"


def test_a_stem_s_pool_is_told():
    """The sample has a maximum in its stem: a graph without is contradicted, and one with a blur is as good."""
    weights = weights_of(DIGITS)
    without = graph(DIGITS.architecture, replace(DIGITS.contract, stem_pool="none"))
    blurred = graph(DIGITS.architecture, replace(DIGITS.contract, stem_pool="blur"))

    assert verdicts(DIGITS.graph, weights)["stem pool"] == "supported"
    assert verdicts(without, weights)["stem pool"] == "contradicted"
    assert verdicts(blurred, weights)["stem pool"] == "supported"


def test_a_norm_left_out_behind_the_stem_is_contradicted():
    """Read as a network whose first block follows the convolution, no pictures explain what the block's norm stores."""
    numbers = replace(DIGITS.architecture, stem="7x7")
    weights = {slot: array for slot, array in weights_of(DIGITS).items() if slot.unit != "stem.norm"}

    told = {e.question: e for e in explain(Moments(graph(numbers, DIGITS.contract), weights), trained=True)}["stem"]

    assert told.verdict == "contradicted"
    assert told.residual > 0.4


def test_another_activation_is_contradicted():
    """A network trained with another one: its statistics, as the norms and kernels of the sample predict them."""
    for name in ("elu", "swish", "gelu", "none"):
        told = {e.question: e for e in explain(Moments(DIGITS.graph, activated(name)), trained=True)}["activation"]

        assert (told.assumed, told.verdict, told.best) == ("relu", "contradicted", name)


def activated(name):
    """The sample's weights with the means behind its 1×1 convolutions that another activation gives."""
    from densenet_port.network.moments import Reading

    weights = weights_of(DIGITS)
    moments = Moments(DIGITS.graph, weights)
    for step in moments.sample(1):
        weights[Slot(step.norm, "mean")] = moments.predicted(step, Reading(activation=name))[0]
    return weights


def test_pools_of_transitions_are_told():
    """Means raised by a deviation, as a maximum over 2×2 places raises them."""
    weights = weights_of(DIGITS)
    for block, width in ((2, 30), (3, 39), (4, 49)):
        unit = f"block{block}.layer1.norm1"
        mean, variance = weights[Slot(unit, "mean")].copy(), weights[Slot(unit, "variance")]
        mean[:width] += 0.9 * np.sqrt(variance[:width])
        weights[Slot(unit, "mean")] = mean

    told = {e.question: e for e in explain(Moments(DIGITS.graph, weights), trained=True)}["transition pool"]

    assert (told.verdict, told.best) == ("contradicted", "maximum")


def test_biases_that_are_left_out_are_contradicted():
    """Convolutions with biases whose norms' means contain them."""
    weights, biases = weights_of(DIGITS), {}
    random = np.random.default_rng(0)
    for unit in DIGITS.graph.units:
        if unit.endswith("conv1") and unit != "stem.conv1":
            norm = unit.replace("conv1", "norm2")
            biases[unit] = random.normal(size=weights[Slot(norm, "mean")].size).astype(np.float32)
            weights[Slot(norm, "mean")] = weights[Slot(norm, "mean")] + biases[unit]

    without = {e.question: e for e in explain(Moments(DIGITS.graph, weights), trained=True)}
    added = {e.question: e for e in explain(Moments(DIGITS.graph, weights), trained=True, biases=biases)}

    assert without["activation"].verdict == "open"
    assert added["biases of convolutions"].verdict == "supported"
    assert added["activation"].verdict == "supported"


def test_the_pictures_of_the_training():
    """Digits on black ground, normalised: below zero in every colour, and explained to 0.03 deviations."""
    fit = pictures(Moments(DIGITS.graph, weights_of(DIGITS)))

    assert fit.residual < 0.03
    assert np.all((fit.mean > -2.2) & (fit.mean < 0))


def test_a_network_of_few_channels_says_nothing_of_its_pictures():
    """As many channels behind the stem as two a colour are needed."""
    network = graph(Architecture(layers=(2,), growth_rate=4, init_channels=4, classes=3), Contract())
    random = np.random.default_rng(0)
    weights = {
        Slot(unit.name, role): random.uniform(0.5, 1, unit.shape(role)).astype(np.float32)
        for unit in network.units.values()
        for role in ROLES[unit.kind]
    }

    assert pictures(Moments(network, weights)) is None
    assert "stem" not in verdicts(network, weights)


def test_margin_and_best():
    """The best alternative is the smallest that decides; a leaky slope does not."""
    one = Explanation(
        question="activation",
        assumed="relu",
        residual=0.02,
        alternatives={"leaky relu": 0.03, "gelu": 0.2, "none": 0.5},
        verdict="supported",
    )

    assert (one.best, one.margin) == ("gelu", 10.0)


def test_what_another_epsilon_would_change():
    """Nothing tells it; the sample's smallest variance is 0.014: Keras's would change a slope by 3 % at most."""
    variance = min(float(array.min()) for slot, array in weights_of(DIGITS).items() if slot.role == "variance")

    changes = epsilons(Moments(DIGITS.graph, weights_of(DIGITS)))

    assert set(changes) == {1.001e-5, 1.1e-5, 2e-5, 1e-3}
    assert changes[1e-3] == pytest.approx(1 - ((variance + 1e-5) / (variance + 1e-3)) ** 0.5, rel=1e-6)
