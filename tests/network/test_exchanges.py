"""Modules that stand in each other's places, and what belongs together, by moments alone."""

from itertools import pairwise

import numpy as np
import pytest

from densenet_port.network.exchanges import assign, exchanged
from densenet_port.network.moments import Moments, Reading
from densenet_port.network.units import Slot
from tests.support.trained import readable, swapped, turned, weights_of

TRAINED = readable()
DIGITS = TRAINED["digits"]
BOTTLENECKS = [name for name, network in TRAINED.items() if network.architecture.bottleneck]


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_network_has_nothing_exchanged(name):
    """In float32 and in float16."""
    network = TRAINED[name]
    weights = weights_of(network)

    assert exchanged(Moments(network.graph, weights)) == ()
    assert exchanged(Moments(network.graph, {slot: array.astype(np.float16) for slot, array in weights.items()})) == ()


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_each_two_norms_of_a_block_exchanged(name):
    """The norms behind the 1×1 convolutions of layers that follow each other, all of them in turn."""
    network = TRAINED[name]
    weights = weights_of(network)
    norms = [unit for unit in network.graph.units if unit.endswith("norm2")]
    for one, other in list(pairwise(norms))[::5]:
        told = exchanged(Moments(network.graph, swapped(weights, one, other)))
        assert (one, other) in [exchange.units for exchange in told]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_kernel_that_is_no_number_has_nothing_exchanged(number):
    """No exchange makes a number of what it predicts."""
    network = TRAINED["digits"]
    weights = weights_of(network)
    slot = Slot("block1.layer2.conv1", "kernel")

    assert exchanged(Moments(network.graph, weights | {slot: np.full_like(weights[slot], number)})) == ()


def test_an_exchange_is_told_in_words():
    """Both units, and the residual before and after."""
    weights = swapped(weights_of(DIGITS), "block1.layer1.norm2", "block3.layer2.norm2")

    (told,) = map(str, exchanged(Moments(DIGITS.graph, weights)))

    assert told == ("block1.layer1.norm2 and block3.layer2.norm2 are exchanged: residual 0.45 as it is, 0.05 exchanged")


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_layer_exchanged_with_another(name):
    """Norm 2 and convolution 2 of two layers, which have the same sizes in every layer."""
    network = TRAINED[name]
    weights = weights_of(network)
    for part in ("norm2", "conv2"):
        weights = swapped(weights, f"block2.layer1.{part}", f"block2.layer3.{part}")

    told = [exchange.units for exchange in exchanged(Moments(network.graph, weights))]

    assert ("block2.layer1.norm2", "block2.layer3.norm2") in told
    assert ("block2.layer1.conv2", "block2.layer3.conv2") in told


@pytest.mark.parametrize("name", BOTTLENECKS)
@pytest.mark.parametrize(("one", "other"), [("mean", "variance"), ("scale", "shift")])
def test_two_vectors_of_one_norm_exchanged(name, one, other):
    """The norm is named, and which vectors."""
    network = TRAINED[name]
    weights = turned(weights_of(network), "block2.layer3.norm2", one, other)

    (told,) = exchanged(Moments(network.graph, weights))

    assert (told.units, told.what) == (("block2.layer3.norm2",), f"{one} and {other}")


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_two_channels_of_one_norm_exchanged(name):
    """The two of a norm that differ most, with all that belongs to them."""
    network = TRAINED[name]
    weights, unit = weights_of(network), "block2.layer2.norm2"
    means = weights[Slot(unit, "mean")] / np.sqrt(weights[Slot(unit, "variance")])
    one, other = sorted(map(int, (means.argmin(), means.argmax())))
    for role in ("scale", "shift", "mean", "variance"):
        vector = weights[Slot(unit, role)].copy()
        vector[[one, other]] = vector[[other, one]]
        weights[Slot(unit, role)] = vector

    (told,) = exchanged(Moments(network.graph, weights))

    assert (told.units, told.what) == ((unit,), f"channels {one} and {other}")


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_every_norm_finds_its_convolution(name):
    """Among all layers of all blocks, whatever the order that they come in."""
    network = TRAINED[name]
    moments = Moments(network.graph, weights_of(network))
    chosen = [step for step in moments.steps if step.norm.endswith("norm2")]
    predicted = np.stack([moments.predicted(step, Reading())[0] for step in chosen])
    order = np.random.default_rng(0).permutation(len(chosen))
    stored = np.stack([moments.norm(chosen[place].norm).mean for place in order])
    deviation = np.stack([moments.norm(chosen[place].norm).deviation for place in order])

    result = assign(predicted, stored, deviation)

    assert order[result.places].tolist() == list(range(len(chosen)))
    assert result.margin > 1


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_every_second_convolution_finds_its_channels(name):
    """Which convolution 2 made which new channels."""
    network = TRAINED[name]
    moments = Moments(network.graph, weights_of(network))
    chosen = [step for step in moments.steps if step.source.endswith("conv2")]
    parts = [moments.norm(step.norm).part(step.start, step.stop) for step in chosen]
    predicted = np.stack([moments.summed(step, moments.predicted(step, Reading()), moments.side) for step in chosen])
    order = np.random.default_rng(1).permutation(len(chosen))

    result = assign(
        predicted,
        np.stack([parts[place].mean for place in order]),
        np.stack([parts[place].deviation for place in order]),
    )

    assert np.mean(order[result.places] == np.arange(len(chosen))) >= (0.7 if name == "digits" else 1)


def test_assignments_take_the_nearest_pairs_first():
    """Each to one: the second prediction lies nearer to what the first has taken, and gets what is left."""
    predicted, stored = np.array([[1.0], [1.4]]), np.array([[5.0], [1.0]])

    result = assign(predicted, stored, np.ones((2, 1)))

    assert result.places.tolist() == [1, 0]
    assert result.residuals.tolist() == [0.0, pytest.approx(3.6)]
    assert result.next_best.tolist() == [4.0, pytest.approx(0.4)]
