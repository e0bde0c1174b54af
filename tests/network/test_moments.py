"""The mean of each unit's output as the norms before it predict it."""

import math

import numpy as np
import pytest

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.moments import ACTIVATIONS, Moments, cdf, predict, rectified, steps
from densenet_port.network.numpy import forward
from tests.support.trained import readable, weights_of

TRAINED = readable()
DIGITS = TRAINED["digits"]
FUNCTIONS = {
    "relu": lambda z: max(z, 0.0),
    "leaky relu": lambda z: z if z > 0 else 0.1 * z,
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "swish": lambda z: z / (1 + math.exp(-z)),
    "gelu": lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2,
    "none": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
}


def test_the_distribution_function_is_as_exact_as_it_says():
    """Against math.erf, to 7.6e-8 and what float32 rounds."""
    at = np.linspace(-6, 6, 2001)

    exact = np.array([(1 + math.erf(t / math.sqrt(2))) / 2 for t in at])

    assert np.abs(cdf(at) - exact).max() < 7.6e-8
    assert np.abs(cdf(at.astype(np.float32)) - exact).max() < 4e-7


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_mean_behind_an_activation(name):
    """Against a sum over fine steps; Gauss and Hermite's rule is near where a function has a kink."""
    shift, scale = np.array([0.0, -0.5, 1.0, -2.0], np.float32), np.array([1.0, 0.3, -0.8, 0.5], np.float32)
    z = np.linspace(-10, 10, 20001)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()

    exact = [
        sum(weight * FUNCTIONS[name](b + abs(g) * t) for weight, t in zip(weights, z, strict=True))
        for b, g in zip(shift, scale, strict=True)
    ]

    assert np.abs(ACTIVATIONS[name](shift, scale) - exact).max() < (2e-3 if name == "elu" else 1e-4)


def test_a_channel_without_deviation():
    """Is a number: what the activation makes of the shift."""
    zeros = np.zeros(2, np.float32)

    assert rectified(np.array([0.5, -0.5], np.float32), zeros).tolist() == [0.5, 0.0]


def test_steps_follow_from_the_graph():
    """From each norm to the next: what lies between, and which channels of which norm it makes."""
    network = graph(Architecture(layers=(1, 1), growth_rate=4, init_channels=8, classes=3), Contract())

    told = [(step.before, step.operations, step.source, step.norm, step.start, step.stop) for step in steps(network)]

    assert told == [
        ("images", ("conv",), "stem.conv", "stem.norm", 0, 8),
        ("stem.norm", ("relu", "max_pool"), "stem.pool", "block1.layer1.norm1", 0, 8),
        ("block1.layer1.norm1", ("relu", "conv"), "block1.layer1.conv1", "block1.layer1.norm2", 0, 16),
        ("block1.layer1.norm2", ("relu", "conv"), "block1.layer1.conv2", "transition1.norm", 8, 12),
        ("transition1.norm", ("relu", "conv", "average_pool"), "transition1.pool", "block2.layer1.norm1", 0, 6),
        ("block2.layer1.norm1", ("relu", "conv"), "block2.layer1.conv1", "block2.layer1.norm2", 0, 16),
        ("block2.layer1.norm2", ("relu", "conv"), "block2.layer1.conv2", "final.norm", 6, 10),
    ]


@pytest.mark.parametrize("name", TRAINED)
def test_predictions_of_trained_networks(name):
    """Through 1×1 convolutions no step is off by more than 0.17 deviations; the stem is not predicted."""
    network = TRAINED[name]

    predictions = predict(network.graph, weights_of(network))

    residuals = {unit: one.residual for unit, one in predictions.items() if unit.endswith("norm2")}
    assert all(residual < 0.17 for residual in residuals.values())
    first = predictions[next(iter(predictions))]
    assert np.isnan(first.predicted).all()
    assert math.isnan(first.residual)


def test_predictions_are_of_the_norm_s_own_input():
    """A prediction agrees with the mean that the network really has on pictures as the training's."""
    from densenet_port.conversion.demo import prepare, read_held_out
    from tests.support.trained import SAMPLE

    pictures = prepare(read_held_out(SAMPLE.with_name("digits-heldout.npz")).images[:64])
    means = {}
    weights = weights_of(DIGITS)
    forward(
        DIGITS.architecture,
        DIGITS.contract,
        weights,
        pictures,
        tap=lambda unit, x: means.update({unit: x.mean(axis=tuple(range(x.ndim - 1)))}),
    )

    one = predict(DIGITS.graph, weights)["block2.layer3.norm2"]
    real = means["block2.layer3.conv1"]

    assert np.median(np.abs(one.predicted - real) / one.deviation) < 0.1


def test_the_border_is_part_of_a_prediction():
    """Maps of 1 × 1 places, where a 3×3 kernel's centre alone reads the map: the sample's last block."""
    moments = Moments(DIGITS.graph, weights_of(DIGITS))

    assert moments.places[32]["block4.layer3.conv2"] == 1
    assert predict(DIGITS.graph, weights_of(DIGITS))["final.norm"].residual < 0.15


def test_weights_that_are_no_numbers_make_no_noise():
    """NaN and infinity in a file give a residual that is infinite, and no warning."""
    weights = weights_of(DIGITS)
    for slot in weights:
        weights[slot] = np.full_like(weights[slot], np.nan)

    predictions = predict(DIGITS.graph, weights)

    assert math.isnan(predictions["final.norm"].residual)
