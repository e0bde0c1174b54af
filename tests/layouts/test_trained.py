"""Trained networks put together from unnamed, unordered bags of modules; untrained ones are not."""

import numpy as np
import pytest

import densenet_port as dp
from densenet_port.errors import MisfitError
from densenet_port.files import resource
from tests.support.bags import bag, bag_of, slots_of
from tests.support.random_weights import random_weights
from tests.support.real import REAL

SAMPLE = resource("weights") / "sample" / "digits.pth"
FILES = {
    "bc100-andreasveit-names.pth.tar": {},
    "bc100-torchvision-names.pth": {},
    "bc100-stem-norm.pth": {},
    "bc-6-12-24-own-names.pth": {},
    "kuangliu-names-new-first-flat-head.pth": {"no_top": True},
    "two-blocks-conv-bias.pth": {},
}


@pytest.mark.parametrize("seed", range(3))
def test_the_embedded_network_is_put_together_from_a_bag(seed, tmp_path):
    """Every tensor in its slot, bit by bit, by its statistics alone."""
    whole = dp.read(SAMPLE)

    network = dp.read(bag_of(SAMPLE, tmp_path / "bag.npz", seed))

    assert network.layout == "structure"
    assert slots_of(network) == slots_of(whole)


@pytest.mark.skipif(REAL is None, reason="needs trained files")
@pytest.mark.parametrize("name", FILES)
def test_every_trained_file_is_put_together_from_a_bag(name, tmp_path):
    """Strangers' networks, new channels first and biases included."""
    words = FILES[name]
    whole = dp.read(REAL / name, **words)

    network = dp.read(bag_of(REAL / name, tmp_path / "bag.npz", 1, **words), **words)

    assert slots_of(network) == slots_of(whole)


def test_an_untrained_bag_is_refused_with_what_stays_open(tmp_path):
    """Random statistics repeat nothing: which module is which is not guessed."""
    whole = dp.read(SAMPLE)
    tensors = {str(slot): array for slot, array in random_weights(whole.architecture).items()}
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # as torch has them
    tensors = {name: np.ascontiguousarray(array.transpose(axes[array.ndim])) for name, array in tensors.items()}

    with pytest.raises(MisfitError, match="stays open which is which"):
        dp.read(bag(tensors, tmp_path / "bag.npz"))
