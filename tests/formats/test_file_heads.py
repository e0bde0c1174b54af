"""Heads, stems and orders of channels that a file's own graph has, each read rightly or refused; torch's files."""

import sys
import types
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from tests.support.networks import images, torchvision_network

SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=3")
CHANNELS = 12  # of the last map
SIDE = 32  # its last map has 4 × 4 places
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
FUNCTIONS = {"logits": lambda x: x, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


class AdaptiveConcatPool2d(nn.Module):
    """Fastai's, by the name that its pickle has."""

    __module__ = "fastai.layers"

    def __init__(self):
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        """The maxima of a map, then its means."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


class Flatten(nn.Module):
    """Fastai's, likewise."""

    __module__ = "fastai.layers"

    def __init__(self):
        super().__init__()
        self.full = False

    def forward(self, x):
        """One axis behind the picture's."""
        return x.view(x.size(0), -1)


def whole(*behind, last=nn.ReLU):
    """A body, and what stands behind it."""
    features = torchvision_network(SMALL, 0).features
    parts = OrderedDict(features=features) | ({"relu": last()} if last else {})
    return nn.Sequential(parts | {str(place): module for place, module in enumerate(behind)})


def mean():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classified(*modules):
    """Torchvision's network with another classifier."""
    network = torchvision_network(SMALL, 0)
    network.classifier = nn.Sequential(*modules)
    return network


def without_the_last_norm():
    network = torchvision_network(SMALL, 0)
    network.features.norm5 = nn.Identity()
    return nn.Sequential(OrderedDict(features=network.features, pool=mean(), classifier=network.classifier))


def of_strides(strides, *, pool=True):
    network = torchvision_network(SMALL, 0)
    network.features.conv0.stride = strides
    if not pool:
        network.features.pool0 = nn.Identity()
    return network


def fast_ai():
    """Fastai's learner: no ReLU behind the body, and no biases in front of norms."""
    return whole(
        *(AdaptiveConcatPool2d(), Flatten(), nn.BatchNorm1d(2 * CHANNELS), nn.Dropout(0.2)),
        *(
            nn.Linear(2 * CHANNELS, 6, bias=False),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(6),
            nn.Linear(6, 3, bias=False),
        ),
        last=None,
    )


def norms_of(epsilon):
    """A head whose norm has another epsilon than the body's, and small variances."""
    norm = nn.BatchNorm1d(CHANNELS, eps=epsilon)
    norm.running_var.fill_(1e-3)
    return classified(norm, nn.Linear(CHANNELS, 3))


FORMS = {  # the network, its head, and what else is not usual
    "two dense layers": (
        lambda: classified(nn.Dropout(), nn.Linear(CHANNELS, 6), nn.ReLU(), nn.Linear(6, 3)),
        "mean/dense:6/relu/dense",
    ),
    "tanh between, sigmoid behind": (
        lambda: classified(nn.Linear(CHANNELS, 6), nn.Tanh(), nn.Linear(6, 3), nn.Sigmoid()),
        "mean/dense:6/tanh/dense",
    ),
    "nothing between": (
        lambda: classified(nn.Linear(CHANNELS, 6), nn.Linear(6, 3)),
        "mean/dense:6/dense",
    ),
    "a norm": (lambda: norms_of(1e-5), "mean/norm/dense"),
    "a norm of another epsilon": (lambda: norms_of(1e-2), "mean/norm/dense"),
    "the maximum": (
        lambda: whole(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)),
        "max/dense",
    ),
    "fastai's": (fast_ai, "no-relu/max+mean/norm/dense:6/relu/norm/dense"),
    "a flattened map": (lambda: whole(nn.Flatten(), nn.Linear(16 * CHANNELS, 3)), "flatten:4/dense"),
    "a flattened map behind a pool": (
        lambda: whole(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 3)),
        "flatten:2/dense",
    ),
    "one place behind a pool": (
        lambda: whole(nn.AvgPool2d(4, stride=1), nn.Flatten(), nn.Linear(CHANNELS, 3)),
        "flatten:1/dense",
    ),
    "no norm at the end": (without_the_last_norm, "mean/dense"),
    "stride 1": (lambda: of_strides((1, 1)), "mean/dense"),
    "stride 1 and no pool": (lambda: of_strides((1, 1), pool=False), "mean/dense"),
}
CONTRACTS = {  # what else the graph says
    "a flattened map": {"head_pool": 1, "stem_stride": None},
    "a flattened map behind a pool": {"head_pool": 2},
    "one place behind a pool": {"head_pool": 4},
    "stride 1": {"stem_stride": 1, "stem_pool": "max"},
    "stride 1 and no pool": {"stem_stride": 1, "stem_pool": "none"},
    "tanh between, sigmoid behind": {"output": "sigmoid"},
}


SOURCES = {"no norm at the end": "torchvision"}  # whose other tensors another layout names alike


@pytest.fixture(autouse=True)
def _fastai(monkeypatch):
    """Its module, where pickles look for its classes."""
    layers = types.ModuleType("fastai.layers")
    vars(layers).update(AdaptiveConcatPool2d=AdaptiveConcatPool2d, Flatten=Flatten)
    monkeypatch.setitem(sys.modules, "fastai", types.ModuleType("fastai"))
    monkeypatch.setitem(sys.modules, "fastai.layers", layers)


def shaken(network):
    """The network in float64, evaluating, its head's norms with numbers of their own."""
    torch.manual_seed(3)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean, 0, 0.2)
            part.running_var.uniform_(0.5, 1.5) if part.eps == 1e-5 else part.running_var.uniform_(1e-3, 2e-3)
    return network.double().eval()


def traced(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, SIDE, SIDE).double()), path)


def exported(network, path):
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, SIDE, SIDE).double(),)), path)


SAVED = {"module": (torch.save, "pth"), "trace": (traced, "pt"), "export": (exported, "pt2")}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", FORMS)
def test_a_graph_says_what_stands_around_the_body(name, form, tmp_path):
    """By the same steps in every container; logits are torch's own, and nothing of the head is assumed."""
    (make, head), (save, ending) = FORMS[name], SAVED[form]
    network, pictures = shaken(make()), images(2, SIDE, seed=4)
    save(network, tmp_path / f"x.{ending}")
    with torch.inference_mode():
        truth = network(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).numpy()

    port = dp.read(tmp_path / f"x.{ending}", src=SOURCES.get(name))

    answer = FUNCTIONS[port.contract.output](port(pictures))
    assert (port.architecture.head, port.architecture.final_norm) == (head, name != "no norm at the end")
    assert (port.ledger.assumed, port.evidence.assumed) == ((), ())
    assert np.abs(answer - truth).max() <= FULL * truth.std()
    assert {key: getattr(port.contract, key) for key in CONTRACTS.get(name, {})} == CONTRACTS.get(name, {})
    assert {port.origins[key] for key in CONTRACTS.get(name, {})} <= {"graph"}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_graph_says_is_written_into_our_own_layout(name, tmp_path):
    """And read back from it: the same function, to the rounding of what was worked out in float64."""
    network, pictures = shaken(FORMS[name][0]()), images(2, SIDE, seed=4)
    torch.save(network, tmp_path / "x.pth")
    port = dp.read(tmp_path / "x.pth", src=SOURCES.get(name))

    back = dp.read(port.write(tmp_path / "x.keras", dtype="float64").out)

    logits = port(pictures)
    assert back.architecture == port.architecture
    assert np.abs(back(pictures) - logits).max() <= FULL * logits.std()


REFUSED = {
    "another activation": lambda: classified(nn.Linear(CHANNELS, 6), nn.LeakyReLU(), nn.Linear(6, 3)),
    "an average and a half": lambda: whole(nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(9 * CHANNELS, 3)),
    "a norm that measures": lambda: classified(nn.InstanceNorm1d(CHANNELS), nn.Linear(CHANNELS, 3)),
    "a stem of two strides": lambda: of_strides((1, 2)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_head_is_refused(name, tmp_path):
    """In the words that say where."""
    torch.save(shaken(REFUSED[name]()), tmp_path / "x.pth")

    with pytest.raises(MisfitError, match="its own graph is another network"):
        dp.read(tmp_path / "x.pth")
