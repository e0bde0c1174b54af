"""A reference runs the whole module that a file has; code of somebody's own only where it is trusted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.errors import UsageError
from densenet_port.network.numpy import forward
from densenet_port.prove.recording import job_of
from densenet_port.prove.reference import reference_of
from densenet_port.prove.runners import runner
from tests.support.networks import images, torchvision_network

SMALL = "layers=2-3,growth_rate=8,init_channels=16,classes=7"
PICTURES = images(1, 36)
STREAM = {"_use_new_zipfile_serialization": False}


class Doubled(nn.Module):
    """Somebody's own class around a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Twice the logits."""
        return self.network(x) * 2


class Same(Doubled):
    """A class that adds nothing."""

    def forward(self, x):
        """The logits."""
        return self.network(x)


def network_with(epsilon=1e-5, *behind):
    """A network of torchvision's."""
    network = torchvision_network(SMALL, 0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
    if behind:
        network.classifier = nn.Sequential(network.classifier, *behind)
    return network


def answered(path, thing, *, trust=False, **form):
    """What is in the file, the run of it, and numpy's logits and taps."""
    torch.save(thing, path, **form)
    network = dp.read(path)
    software = reference_of(network, trust=trust).software
    job = job_of(network, software, PICTURES, dtype="float64", follow=True, trust=trust)
    taps = {}
    logits = forward(network.architecture, network.contract, network.weights, PICTURES, tap=taps.__setitem__)
    return runner(software)(job), logits, taps


WHOLE = {
    "another epsilon": lambda: network_with(1e-3),
    "a sigmoid behind the head": lambda: network_with(1e-3, nn.Sigmoid()),
    "in parallel": lambda: nn.DataParallel(network_with(1e-3)),
    "in a dict": lambda: {"model": network_with(1e-3), "epoch": 3},
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE.keys())
def test_a_module_of_known_classes_runs_as_it_is(tmp_path, make):
    """What it puts out, unit by unit, is what was read of it."""
    run, logits, taps = answered(tmp_path / "x.pth", make())

    assert (run.read_by, run.computed_in) == ("file", "float64")
    np.testing.assert_allclose(run.logits, logits, rtol=0, atol=1e-12)
    assert set(run.taps) == {unit for unit in taps if unit in run.taps}
    assert max(np.abs(run.taps[unit] - taps[unit]).max() for unit in run.taps) < 1e-12


def test_the_body_alone_runs_as_it_is(tmp_path):
    """Without a head the last map is compared."""
    torch.save(network_with(1e-3), tmp_path / "x.pth")
    network = dp.read(tmp_path / "x.pth", no_top=True)

    run = runner("torchvision")(job_of(network, "torchvision", PICTURES, dtype="float64"))

    assert run.read_by == "file"
    np.testing.assert_allclose(run.logits, network(PICTURES), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("epsilon", "read_by"), [(1e-5, "class"), (1e-3, "table")])
def test_where_torch_does_not_unpickle_a_module_its_class_stands_in_if_it_is_the_same(tmp_path, epsilon, read_by):
    """Streams hold whole modules in a way that torch reads by running code only."""
    run, logits, _ = answered(tmp_path / "x.pth", network_with(epsilon), **STREAM)

    assert run.read_by == read_by
    np.testing.assert_allclose(run.logits, logits, rtol=0, atol=1e-12)


def test_somebodys_code_does_not_run_and_nothing_is_proven(tmp_path):
    """The reason is said."""
    torch.save(Doubled(network_with()), tmp_path / "x.pth")

    reference = reference_of(dp.read(tmp_path / "x.pth"))

    because = f"what {__name__}.Doubled does around the network is not known; --trust-code runs the file's own code"
    assert reference == ("numpy", because)


@pytest.mark.parametrize(("wrap", "factor"), [(Same, 1), (Doubled, 2)])
def test_trusted_code_has_the_last_word(tmp_path, wrap, factor):
    """What it does behind the network is in its answer."""
    run, logits, _ = answered(tmp_path / "x.pth", wrap(network_with()), trust=True)

    assert run.read_by == "file"
    np.testing.assert_allclose(run.logits, factor * logits, rtol=0, atol=1e-12)


def test_trusted_code_that_is_not_here_is_an_error(tmp_path, monkeypatch):
    """With the way that works."""
    path = tmp_path / "x.pth"
    torch.save(Doubled(network_with()), path)
    job = job_of(dp.read(path), "torchvision", PICTURES, dtype="float64", trust=True)
    monkeypatch.delattr(f"{__name__}.Doubled")

    with pytest.raises(
        UsageError, match="x.pth: its own code does not run here: Can't get attribute 'Doubled'"
    ) as caught:
        runner("torchvision")(replace(job, taps={}))

    assert (
        caught.value.hint == "`densenet-port record package.module:factory --weights FILE` records it where its code is"
    )


def test_a_script_runs_where_it_is_trusted(tmp_path):
    """It is a program."""
    path = tmp_path / "x.pt"
    torch.jit.script(network_with(1e-3)).save(path)
    network = dp.read(path)

    assert reference_of(network).software == "numpy"
    run = runner("torchvision")(job_of(network, "torchvision", PICTURES, dtype="float64", trust=True))
    assert run.read_by == "file"
    np.testing.assert_allclose(run.logits, network(PICTURES), rtol=0, atol=1e-12)
