"""The numbers of a DenseNet follow from its kernels' sizes, in whatever order; and where they break off is known."""

from collections import Counter

import pytest

from densenet_port.layouts.chain import Size, chains, furthest
from densenet_port.network.architecture import NAMED, Architecture


def kernels(architecture):
    """How many kernels there are of each size."""
    convs = [unit.sizes for unit in architecture.units.values() if unit.kind == "conv"]
    return Counter(Size(sizes["h"], sizes["i"], sizes["o"]) for sizes in convs)


@pytest.mark.parametrize("name", NAMED)
def test_a_published_network_is_among_the_chains(name):
    """Of several chains that use every kernel its norms decide; growth, width and stem are the same."""
    architecture = NAMED[name]

    whole = chains(kernels(architecture))

    assert architecture.layers in [chain.layers for chain in whole]
    assert {(chain.growth, chain.width) for chain in whole} == {
        (architecture.growth_rate, architecture.bottleneck * architecture.growth_rate)
    }
    assert all(not chain.left for chain in whole)


def test_a_kernel_too_many_or_too_few_makes_no_chain():
    """Unless it may be left."""
    sizes = kernels(NAMED["cifar-bc-100-12"])
    more, fewer = sizes + Counter([Size(1, 342, 10)]), sizes - Counter([Size(1, 60, 48)])

    assert (chains(more), chains(fewer)) == ([], [])
    assert [dict(chain.left) for chain in chains(more, spare=1)] == [{Size(1, 342, 10): 1}]


def test_the_furthest_chain_stops_where_the_network_does():
    architecture = Architecture(layers=(6,), growth_rate=4, init_channels=8)
    sizes = kernels(architecture) - Counter([Size(1, 20, 16)])

    chain = furthest(sizes)

    assert (chain.layers, chain.channels) == ((3,), 20)


def test_no_convolutions_have_no_chain():
    assert (chains(Counter()), furthest(Counter())) == ([], None)


def test_a_file_that_was_made_to_take_long_is_left():
    """Transitions everywhere: the search gives up, and does not run on."""
    sizes = Counter({Size(3, 3, 8): 1, Size(3, 16, 4): 4000})
    for channels in range(8, 4000, 4):
        sizes[Size(1, channels, 16)] = 3
        sizes[Size(1, channels, 8)] = 2

    assert chains(sizes) == []
