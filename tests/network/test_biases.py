"""Biases of convolutions go to the norms that read them, or to the head; where nothing takes one up, it is refused."""

import pytest

from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from densenet_port.network.biases import offsets
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph

NUMBERS = {"layers": (1, 1), "growth_rate": 2, "init_channels": 4, "bottleneck": 0, "stem": "cifar", "classes": 3}
BIASED = ("stem.conv", "transition1.conv")


def taken(**changes):
    """Which unit takes up which pieces, in a network of other numbers."""
    return offsets(graph(Architecture(**NUMBERS | changes), Contract()), BIASED)


def test_norms_take_up_the_biases_of_what_they_read():
    assert taken() == {
        "block1.layer1.norm1": (("stem.conv", 4),),
        "transition1.norm": (("stem.conv", 4), (None, 2)),
        "block2.layer1.norm1": (("transition1.conv", 3),),
        "final.norm": (("transition1.conv", 3), (None, 2)),
    }


@pytest.mark.parametrize(("head", "places"), [("mean/dense", 1), ("max+mean/dense", 2), ("flatten:2/dense", 4)])
def test_without_a_final_norm_the_head_s_dense_layer_does(head, places):
    """Means, maxima and places of the map all have what a bias added."""
    assert taken(final_norm=False, head=head)["head.dense"] == (("transition1.conv", 3), (None, 2)) * places


def test_a_norm_in_the_head_does_too():
    assert taken(final_norm=False, head="mean/norm/dense")["head.norm1"] == (("transition1.conv", 3), (None, 2))


@pytest.mark.parametrize(
    ("changes", "where"), [({"classes": None}, "the last map"), ({"head": "mean/relu/dense"}, "head.relu1")]
)
def test_a_bias_that_nothing_takes_up_is_refused(changes, where):
    with pytest.raises(MisfitError, match=f"transition1.conv has a bias that reaches {where}"):
        taken(final_norm=False, **changes)
