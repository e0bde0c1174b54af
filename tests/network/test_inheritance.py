"""Inherited statistics: what trained files say of their wiring, and what damage and other orders make of it."""

import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch

from densenet_port.layouts.transform import absorb, absorb_in_variance
from densenet_port.network.architecture import Architecture
from densenet_port.network.channels import channel_order
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.inheritance import inherit, sources
from densenet_port.network.units import Slot
from tests.support.trained import SAMPLE, readable, statistics

NETWORK = graph(Architecture(layers=(3, 4, 5, 3), growth_rate=12, init_channels=24, classes=10), Contract())
DIGITS = readable()["digits"]
TRAINED = readable()
KIN = [name for name in statistics(DIGITS) if not name.endswith("norm2") and name != "stem.norm"]


def test_the_sample_inherits_every_number():
    """15 of 15 norms: each channel that a norm inherits has the same statistics, bit for bit."""
    result = inherit(DIGITS.graph, statistics(DIGITS))

    assert asdict(result) == {
        "order": "old-first",
        "norms": 15,
        "inheriting": 15,
        "compared": 1596,
        "equal": 1596,
        "close": 0,
        "absorbed": 0,
        "chance": 0.0,
        "dissents": (),
        "anew": (),
    }
    assert result.verdict == "evidence"


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_network_inherits(name):
    """So do all real files that can be read, as they are and in float16."""
    network = TRAINED[name]
    halves = {unit: (m.astype(np.float16), v.astype(np.float16)) for unit, (m, v) in statistics(network).items()}

    for numbers in (statistics(network), halves):
        result = inherit(network.graph, numbers)
        assert (result.verdict, result.inheriting, result.equal) == ("evidence", result.norms, result.compared)
        assert result.anew == ()


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32])
def test_numbers_of_few_bits_are_nothing_new(steps):
    """Where many channels have the same numbers, none may tell: nothing differs all the same."""
    coarse = {
        unit: (np.round(mean * steps) / steps, np.round(variance * steps) / steps)
        for unit, (mean, variance) in statistics(DIGITS).items()
    }

    result = inherit(DIGITS.graph, coarse)

    assert (result.anew, result.dissents) == ((), ())


def test_the_other_order_is_found():
    """The sample, as a network that joins new channels first would have it."""
    orders = channel_order(DIGITS.graph, "new-first", "h w c")
    numbers = statistics(DIGITS)
    for unit in orders.keys() & numbers.keys():
        back = np.argsort(orders[unit])
        numbers[unit] = (numbers[unit][0][back], numbers[unit][1][back])

    result = inherit(DIGITS.graph, numbers)

    assert (result.order, result.verdict, result.inheriting, result.equal) == ("new-first", "evidence", 15, 1596)


def test_fresh_and_random_statistics_are_no_evidence():
    """All 0 and all 1 are equal everywhere, and random numbers nowhere; neither is an error."""
    sizes = {unit: len(mean) for unit, (mean, _) in statistics(DIGITS).items()}
    random = np.random.default_rng(0)
    fresh = {unit: (np.zeros(size, np.float32), np.ones(size, np.float32)) for unit, size in sizes.items()}
    anyhow = {unit: (random.normal(size=size), random.uniform(0.1, 2, size)) for unit, size in sizes.items()}
    halves = {unit: (m.astype(np.float16), v.astype(np.float16)) for unit, (m, v) in anyhow.items()}

    for numbers, least in ((fresh, 1596), (anyhow, 0), (halves, 0)):
        result = inherit(DIGITS.graph, numbers)
        assert (result.order, result.verdict, result.dissents) == (None, "none", ())
        assert result.equal - result.chance <= 3
        assert result.chance >= least


@pytest.mark.parametrize("unit", [KIN[1], KIN[2], KIN[6], KIN[-2], KIN[-1]])
@pytest.mark.parametrize("part", [0, 1])
def test_each_bit_of_an_inherited_number_is_seen(unit, part):
    """A single changed bit, wherever in a float32, contradicts all the rest, and its norm and channel are named."""
    channel = 5
    for bit in range(32):
        numbers = statistics(DIGITS)
        numbers[unit][part].view(np.uint32)[channel] ^= np.uint32(1 << bit)

        result = inherit(DIGITS.graph, numbers)

        assert result.verdict == "contradiction", bit
        assert [(one.norm, one.channels) for one in result.dissents] == [(unit, (channel,))]


def test_a_dissent_is_told_in_words():
    """Norms, channels, and how many were compared."""
    numbers = statistics(DIGITS)
    numbers["block3.layer4.norm1"][0][[3, 40]] += 1

    told = [str(one) for one in inherit(DIGITS.graph, numbers).dissents]

    assert told == ["block3.layer4.norm1: 2 of 63 channels differ from block3.layer3.norm1's: 3, 40"]


@pytest.mark.parametrize("name", TRAINED)
def test_two_channels_of_a_norm_exchanged(name):
    """Are both named."""
    network = TRAINED[name]
    numbers = statistics(network)
    for vector in numbers["block1.layer3.norm1"]:
        vector[[4, 11]] = vector[[11, 4]]

    (dissent,) = inherit(network.graph, numbers).dissents

    assert (dissent.norm, dissent.channels) == ("block1.layer3.norm1", (4, 11))


def test_mean_and_variance_of_a_norm_exchanged():
    """It has the numbers of those around it, the other way round."""
    numbers = statistics(DIGITS)
    numbers["block3.layer3.norm1"] = numbers["block3.layer3.norm1"][::-1]

    told = [str(one) for one in inherit(DIGITS.graph, numbers).dissents]

    text = "block3.layer3.norm1: mean and variance are exchanged: its mean is block3.layer2.norm1's variance"
    assert told == [text]


def test_constant_statistics_are_not_exchanged_ones():
    """Means and variances of a network that nobody trained may all be one number."""
    network = graph(Architecture(layers=(4, 4), growth_rate=12, init_channels=24), Contract())
    zeros = {name: tuple(np.zeros_like(one) for one in pair) for name, pair in inherited(network).items()}

    assert inherit(network, zeros).verdict == "none"


def test_norms_of_two_blocks_exchanged():
    """Two norms of one size in different blocks: both are strangers among those around them."""
    network = graph(Architecture(layers=(4, 4), growth_rate=12, init_channels=24), Contract())
    numbers = inherited(network)
    one, other = "block1.layer3.norm1", "block2.layer2.norm1"
    numbers[one], numbers[other] = numbers[other], numbers[one]

    told = [str(one) for one in inherit(network, numbers).dissents]

    assert told == [
        f"{one}: none of 36 channels has the statistics that block1.layer2.norm1 has for it",
        f"{other}: none of 36 channels has the statistics that block2.layer1.norm1 has for it",
    ]


def inherited(network):
    """Statistics of a network as training leaves them: each map's the same, whatever reads it."""
    random, carried = np.random.default_rng(0), sources(network)
    maps = {
        name: (random.normal(size=step.channels), random.uniform(0.1, 2, step.channels))
        for name, step in network.operations.items()
    }
    norms = [unit.name for unit in network.units.values() if unit.kind == "norm"]
    read = {unit: [maps[source] for source, _ in carried[network.operations[unit].inputs[0]]] for unit in norms}
    return {unit: tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True)) for unit, pieces in read.items()}


@pytest.mark.parametrize(("source", "target"), [(1e-5, 1e-3), (1e-3, 1e-5), (1e-5, 1.1e-5), (1e-5, 1.001e-5)])
@pytest.mark.parametrize("name", TRAINED)
def test_an_absorbed_epsilon_is_no_damage(name, source, target):
    """Whatever norms took a difference of epsilons into the variance, and whichever gave it back."""
    network = TRAINED[name]
    there, back = statistics(network), statistics(network)
    for place, (unit, (mean, variance)) in enumerate(statistics(network).items()):
        scale = np.asarray(network.weights[Slot(unit, "scale")])
        _, scale, changed = absorb(scale, variance, source, target, np.float32)
        there[unit] = (mean, changed if place % 3 else absorb_in_variance(variance, source, target))
        back[unit] = (mean, absorb(scale, changed, target, source, np.float32)[2] if place % 2 else variance)
        if (there[unit][1] < 0).any():
            there[unit] = (mean, variance)

    for numbers in (there, back):
        result = inherit(network.graph, numbers)
        assert (result.verdict, result.inheriting) == ("evidence", result.norms)


def test_rounding_is_close_and_no_contradiction():
    """Kin that summed in another order, as on several devices, agree but for rounding: that is told."""
    random = np.random.default_rng(0)
    numbers = {
        unit: tuple(part * (1 + random.integers(-2, 3, len(part)) * np.float32(2**-23)) for part in parts)
        for unit, parts in statistics(DIGITS).items()
    }

    result = inherit(DIGITS.graph, {unit: (m.astype("f4"), v.astype("f4")) for unit, (m, v) in numbers.items()})

    assert (result.verdict, result.inheriting, result.dissents) == ("evidence", 15, ())
    assert result.equal + result.close == 1596
    assert result.close > 800


def test_training_that_went_on_within_a_block_is_told():
    """Where the norms from one on have other statistics, all of them, nobody made a mistake."""
    numbers = statistics(DIGITS)
    for unit in ("block3.layer4.norm1", "block3.layer5.norm1", "transition3.norm"):
        numbers[unit] = (numbers[unit][0] * np.float32(1.1), numbers[unit][1] * np.float32(0.9))

    result = inherit(DIGITS.graph, numbers)

    assert (result.verdict, result.anew, result.dissents) == ("evidence", ("block3.layer4.norm1",), ())
    assert (result.inheriting, result.norms) == (14, 15)


def test_a_fine_tune_of_the_last_block_is_no_contradiction():
    """All but the last block frozen and evaluating, the rest trained on a little: everything still inherits."""
    tuned = fine_tuned()
    numbers = {}
    for unit in statistics(DIGITS):
        module = MODULES[unit]
        numbers[unit] = (tuned[f"{module}.running_mean"].numpy(), tuned[f"{module}.running_var"].numpy())
    before = statistics(DIGITS)

    result = inherit(DIGITS.graph, numbers)

    assert not np.array_equal(numbers["block4.layer2.norm1"][0], before["block4.layer2.norm1"][0])
    assert (result.verdict, result.inheriting, result.equal, result.anew) == ("evidence", 15, 1596, ())


MODULES = {
    unit: holder for unit, holder in DIGITS.holders.items() if unit in statistics(DIGITS)
}  # unit → the module of torchvision's class


def fine_tuned():
    """The sample's state after a few steps on noise in which only its last block and head were trained."""
    from torchvision.models.densenet import DenseNet

    torch.manual_seed(0)
    network = DenseNet(12, (3, 4, 5, 3), 24, 4, num_classes=10)
    network.load_state_dict(copy.deepcopy(torch.load(SAMPLE, weights_only=True)))
    network.eval().requires_grad_(requires_grad=False)
    trained = [network.features.denseblock4, network.features.norm5, network.classifier]
    for part in trained:
        part.train().requires_grad_(requires_grad=True)
    rule = torch.optim.SGD([weight for part in trained for weight in part.parameters()], 0.05)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network(torch.randn(16, 3, 64, 64)), torch.randint(10, (16,)))
        rule.zero_grad()
        loss.backward()
        rule.step()
    return network.state_dict()


def test_sources_follow_from_the_graph():
    """A norm reads what was joined, old channels first; a transition's pool is a map of its own."""
    carried = sources(NETWORK)

    assert carried[NETWORK.operations["block2.layer2.norm1"].inputs[0]] == (
        ("transition1.pool", 30),
        ("block2.layer1.conv2", 12),
    )


def test_norms_that_are_not_given_are_left_out():
    """As for a file of which a part can be read."""
    numbers = {unit: parts for unit, parts in statistics(DIGITS).items() if unit.startswith("block3")}

    result = inherit(DIGITS.graph, numbers)

    assert (result.norms, result.inheriting, result.verdict) == (4, 4, "evidence")
