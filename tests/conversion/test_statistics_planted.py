"""Mean and variance of each norm of a trained file exchanged: refused by name, whichever norm it is."""

import numpy as np
import pytest
import torch

import densenet_port as dp
from densenet_port.errors import MisfitError
from densenet_port.files import resource
from tests.support.real import REAL

SAMPLE = resource("weights") / "sample" / "digits.pth"
FILES = [(SAMPLE, 1), *([(REAL / "bc-6-12-24-own-names.pth", 7)] if REAL else [])]  # every so many of its norms


@pytest.mark.parametrize(("path", "every"), FILES, ids=[path.name for path, _ in FILES])
def test_mean_and_variance_exchanged_are_caught_in_every_norm(path, every, tmp_path):
    """The first norms of blocks, which have no kin before them, and the stem's too."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    means = [name for name in state if name.endswith("running_mean")][::every]

    passed = []
    for mean in means:
        variance = mean.replace("running_mean", "running_var")
        torch.save({**state, mean: state[variance], variance: state[mean]}, tmp_path / "exchanged.pth")
        try:
            dp.read(tmp_path / "exchanged.pth")
        except MisfitError:
            continue
        passed.append(mean)

    assert len(means) > 10
    assert passed == []


def test_what_is_exchanged_is_named(tmp_path):
    """By our unit, with whose the numbers are."""
    state = torch.load(SAMPLE, map_location="cpu", weights_only=True)
    name = "features.denseblock2.denselayer1.norm1.running_{}"
    mean, variance = name.format("mean"), name.format("var")
    torch.save({**state, mean: state[variance], variance: state[mean]}, tmp_path / "exchanged.pth")

    text = "block2.layer1.norm1: mean and variance are exchanged: its mean is block2.layer2.norm1's variance"
    with pytest.raises(MisfitError, match=text):
        dp.read(tmp_path / "exchanged.pth")
    assert np.isfinite(dp.read(tmp_path / "exchanged.pth", ignore_inheritance=True).weights["final.norm", "mean"]).all()
