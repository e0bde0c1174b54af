"""Numbers beside a network that normalise its pictures become its input, and what only looks like them does not."""

import numpy as np
import pytest
import torch
from torch import nn

from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Input
from tests.support.networks import images, torchvision_network
from tests.support.torch_networks import logits, saved

SMALL = Architecture.named("layers=2-2,growth_rate=8,init_channels=16,classes=7")
GREY = Architecture.named("layers=2-2,growth_rate=8,init_channels=16,classes=7,channels=1")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def file(tmp_path, beside, numbers=SMALL):
    """A state dict with tensors beside the network, which stands in `net`."""
    state = {f"net.{name}": value for name, value in torchvision_network(numbers, 0).state_dict().items()}
    return saved(tmp_path / "x.pth", {**state, **beside})


NAMES = {
    "a module of its own": ("normalize.mean", "normalize.std", (3,)),
    "of robustness": ("normalizer.new_mean", "normalizer.new_std", (3, 1, 1)),
    "at the top": ("mean", "std", (1, 3, 1, 1)),
    "of RobustBench": ("mu", "sigma", (1, 3, 1, 1)),
    "of pixels": ("pixel_mean", "pixel_std", (3, 1, 1)),
}


@pytest.mark.parametrize(("mean", "std", "shape"), NAMES.values(), ids=NAMES.keys())
def test_means_and_deviations_are_the_input(mean, std, shape, tmp_path):
    """By the decimals that were meant; where they stand is assumed, and said."""
    beside = {mean: torch.tensor(MEAN).reshape(shape), std: torch.tensor(STD).reshape(shape)}

    port = read(file(tmp_path, beside))

    assert port.contract.input == Input(order="rgb", scale=1.0, mean=tuple(MEAN), std=tuple(STD))
    assert port.origins["input"] == "assumed"
    assert port.ledger.notes == (
        f"{mean} and {std} are taken for the normalisation of pictures in front of the network",
        "that prepares pictures of values from 0 to 1: divide pixels by 255 before they are prepared",
    )


def test_the_port_of_a_class_that_normalises_is_torch_s_network(tmp_path):
    """On pictures that its input prepares."""
    beside = {"mean": torch.tensor(MEAN)[:, None, None], "std": torch.tensor(STD)[:, None, None]}
    pictures = images(2)

    port = read(file(tmp_path, beside))

    truth = logits(torchvision_network(SMALL, 0), ((pictures - MEAN) / STD).astype(np.float64))
    factors, offsets = port.contract.input.linear(3)
    assert np.abs(port(pictures * np.array(factors) + np.array(offsets)) - truth).max() <= 1e-9 * truth.std()


def test_variances_are_squares(tmp_path):
    """As Keras keeps them."""
    beside = {"norm.mean": torch.full((3,), 120.0), "norm.variance": torch.full((3,), 3600.0)}

    assert read(file(tmp_path, beside)).contract.input == Input(scale=1.0, mean=(120.0,) * 3, std=(60.0,) * 3)


def test_a_grey_picture_has_one_number_in_the_shape_of_a_picture(tmp_path):
    """A plain single number may be a training's."""
    beside = {"mean": torch.full((1, 1, 1), 0.5), "std": torch.full((1, 1, 1), 0.25)}

    grey = read(file(tmp_path, beside, GREY)).contract.input

    assert grey == Input(order="grey", scale=1.0, mean=(0.5,), std=(0.25,))


THREE = torch.ones(3)
NO_PAIRS = {
    "means alone": {"mean": THREE},
    "two pairs": {"mean": THREE, "std": THREE, "a.mean": THREE, "a.std": THREE},
    "of a norm": {"running_mean": THREE, "running_var": THREE},
    "of what comes out": {"target_mean": THREE, "target_std": THREE},
    "other lengths": {"mean": THREE, "std": torch.ones(4)},
    "matrices": {"mean": torch.ones(3, 3), "std": torch.ones(3, 3)},
    "of many channels": {"mean": torch.ones(1000), "std": torch.ones(1000)},
}


@pytest.mark.parametrize("beside", NO_PAIRS.values(), ids=NO_PAIRS.keys())
def test_what_is_no_pair_is_left_over(beside, tmp_path):
    """And refused, as anything else that nothing names."""
    with pytest.raises(MisfitError) as caught:
        read(file(tmp_path, beside))

    assert next(iter(beside)) in str(caught.value)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"mean": torch.ones(4), "std": torch.ones(4)}, "4 numbers in mean for a network of 3 channels"),
        ({"mean": THREE, "std": torch.zeros(3)}, r"std holds no deviations: \[0.0, 0.0, 0.0\]"),
        ({"mean": THREE, "var": -THREE}, r"var holds no deviations: \[0.0, 0.0, 0.0\]"),
        ({"mean": THREE, "std": THREE * torch.nan}, "std holds no deviations: "),
    ],
    ids=["other channels", "zero", "a negative variance", "not numbers"],
)
def test_numbers_that_prepare_nothing_are_refused(beside, message, tmp_path):
    """By what they are."""
    with pytest.raises(MisfitError, match=message):
        read(file(tmp_path, beside))


class Unused(nn.Module):
    """A network with means and deviations that nothing reads."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("mean", THREE)
        self.register_buffer("std", THREE)

    def forward(self, x):
        """Logits of `n c h w`."""
        return self.net(x)


def test_a_graph_knows_better(tmp_path):
    """A program that does not read the numbers has no normalisation."""
    program = torch.export.export(Unused(torchvision_network(SMALL, 0)), (torch.zeros(1, 3, 64, 64),))
    torch.export.save(program, tmp_path / "x.pt2")

    with pytest.raises(MisfitError, match=r"the body fits; beside it"):
        read(tmp_path / "x.pt2")
