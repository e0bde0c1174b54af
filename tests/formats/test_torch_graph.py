"""Whole modules are read by their own graph: every change of their function is read rightly, or refused, or told."""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from tests.support.networks import images, torchvision_network
from tests.support.torch_networks import monai_network, timm_network, torchxrayvision_network

SMALL = Architecture.named("layers=1-1,growth_rate=8,init_channels=16,classes=3")
GREY = Architecture.named("layers=1-1,growth_rate=8,init_channels=16,classes=3,channels=1")
DEEP = Architecture.named("layers=1-1,growth_rate=8,init_channels=16,classes=3,stem=deep")
SIDE = 28  # the map in front of the transition has an odd side
FUNCTIONS = {
    "logits": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(1, keepdims=True)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
NETWORKS = {  # layout, and a network of it
    "torchvision": ("torchvision", lambda: torchvision_network(replace(SMALL, layers=(2, 1)), 0)),
    "timm": ("torchvision", lambda: timm_network(SMALL, "max")),
    "timm's with a deep stem and a blur": ("timm-blur", lambda: timm_network(DEEP, "blur")),
    "MONAI": ("monai", lambda: owned("monai", monai_network, SMALL)),
    "torchxrayvision": ("torchxrayvision", lambda: owned("torchxrayvision", torchxrayvision_network, GREY)),
}


def owned(package, make, numbers):
    """A network of software that is not always installed."""
    pytest.importorskip(package)
    return make(numbers)


class Swish(nn.Module):
    """Somebody's own activation."""

    def forward(self, x):
        """Swish of x."""
        return x * torch.sigmoid(x)


class Around(nn.Module):
    """Somebody's own class around a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Twice the logits."""
        return self.network(x) * 2


class Change(NamedTuple):
    """What was changed, and the network with it."""

    what: str
    network: nn.Module


# -- every setting of every module -----------------------------------------------------------------------------------


PAIRS = ("kernel_size", "stride", "padding", "dilation", "output_size")


def other_values(key: str, value: object) -> list[object]:
    """Other values of an attribute."""
    texts = {"padding": ["same", "valid"], "pad_mode": ["constant", "replicate"], "padding_mode": ["reflect"]}
    others: list[object] = texts.get(key, []) if isinstance(value, int | tuple | list | str) else []
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, *([(value, value + 1)] if key in PAIRS else []), *others]
    if isinstance(value, float):
        return [value * 100 + 0.5]
    if isinstance(value, tuple | list):
        whole = type(value)(part + 1 for part in value)
        return [whole, type(value)([value[0] + 1, *value[1:]]), type(value)([*value[:-1], value[-1] + 1]), *others]
    return [3] if value is None else others


def settings(network: nn.Module) -> Iterator[Change]:
    """The network with one attribute of one module changed, for each of them."""
    for path, module in network.named_modules():
        for key, value in list(vars(module).items()):
            if key.startswith("_") or key in ("training", "feature_info", "feature_ends"):
                continue
            for other in other_values(key, value):
                changed = copy.deepcopy(network)
                setattr(changed.get_submodule(path), key, other)
                yield Change(f"{path}.{key} = {other!r}", changed)


# -- a module put in at every place, or in another's place -----------------------------------------------------------

PUT_IN: dict[str, Callable[[], nn.Module]] = {
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "SiLU": nn.SiLU,
    "ReLU": nn.ReLU,
    "Identity": nn.Identity,
    "Dropout": nn.Dropout,
    "Softmax": lambda: nn.Softmax(dim=1),
    "AvgPool2d": lambda: nn.AvgPool2d(2, 2),
    "ZeroPad2d": lambda: nn.ZeroPad2d(1),
    "Flatten": nn.Flatten,
    "Swish": Swish,
}


def put_in(network: nn.Module) -> Iterator[Change]:
    """The network with a module behind a part of a sequence, in the place of one without tensors, and beside it."""
    for path, module in network.named_modules():
        for key, part in list(module.named_children()):
            for name, make in PUT_IN.items():
                if isinstance(module, nn.Sequential):
                    yield Change(f"{name} behind {path}.{key}", behind(network, path, key, make()))
                if not list(part.parameters()):
                    yield Change(f"{name} for {path}.{key}", replaced(network, path, key, make()))
                    pair = nn.Sequential(copy.deepcopy(part), make())
                    yield Change(f"{name} with {path}.{key}", replaced(network, path, key, pair))
                if isinstance(part, nn.Linear):
                    pair = nn.Sequential(copy.deepcopy(part), make())
                    yield Change(f"{name} with {path}.{key}", replaced(network, path, key, pair))


def behind(network: nn.Module, path: str, key: str, module: nn.Module) -> nn.Module:
    """A copy with another module behind a part."""
    changed = copy.deepcopy(network)
    parent = changed.get_submodule(path)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for own, part in parent._modules.items():
        parts[own] = part
        if own == key:
            parts["put_in"] = module
    parent._modules = parts
    return changed


def replaced(network: nn.Module, path: str, key: str, module: nn.Module) -> nn.Module:
    """A copy with another module in the place of a part."""
    changed = copy.deepcopy(network)
    changed.get_submodule(path)._modules[key] = module
    return changed


# -- the verdict -----------------------------------------------------------------------------------------------------


def verdict(change: Change, layout: str, path, save=torch.save) -> str:
    """Whether a changed network is read rightly, refused, assumed, none at all, or silently another."""
    save(change.network, path)
    try:
        network = dp.read(path, src=layout)
    except MisfitError:
        return "refused"
    if network.evidence.assumed:
        return "assumed"
    pixels = PIXELS[network.architecture.channels]
    try:
        with torch.inference_mode():
            truth = change.network.eval()(pixels).numpy()
    except (RuntimeError, TypeError, ValueError):
        return "no function"
    answer = FUNCTIONS[network.contract.output](network(pixels.permute(0, 2, 3, 1).numpy()))
    same = truth.shape == answer.shape and np.allclose(answer, truth, rtol=1e-9, atol=1e-9 * truth.std())
    return "right" if same else "another"


PIXELS = {
    channels: torch.from_numpy(images(1, SIDE, channels, 3).astype(np.float64)).permute(0, 3, 1, 2)
    for channels in (1, 3)
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_no_change_of_a_setting_makes_another_function_unseen(tmp_path, name):
    """Each attribute that a module has is changed, one at a time."""
    layout, make = NETWORKS[name]
    network = make().double()
    verdicts = {change.what: verdict(change, layout, tmp_path / "x.pth") for change in settings(network)}

    counts = Counter(verdicts.values())
    assert [what for what, kind in verdicts.items() if kind in ("another", "assumed")] == []
    assert counts["refused"] > 50
    assert counts["right"] > 30


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_no_module_that_is_put_in_makes_another_function_unseen(tmp_path, name):
    """One at a time, at every place; somebody's own class is an assumption, if the rest fits."""
    layout, make = NETWORKS[name]
    network = make().double()
    verdicts = {change.what: verdict(change, layout, tmp_path / "x.pth") for change in put_in(network)}

    counts = Counter(verdicts.values())
    assert [what for what, kind in verdicts.items() if kind == "another"] == []
    assert {what.split()[0] for what, kind in verdicts.items() if kind == "assumed"} == {"Swish"}
    assert [what for what, kind in verdicts.items() if kind == "right" and what.startswith("Swish")] == []
    assert counts["refused"] > 200
    assert counts["right"] > 20
