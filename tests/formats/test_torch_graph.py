"""Whole modules are read by their own graph: every change of their function is read rightly, or refused, or told."""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from tests.support.networks import images, torchvision_network
from tests.support.sweep import at_least, swept
from tests.support.torch_networks import monai_network, timm_network, torchxrayvision_network

SMALL = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=3")
GREY = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=3,channels=1")
DEEP = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=3,stem=deep")
STRIDE = 7  # in the sweeps over the changes
SIDE = 20  # the map in front of the transition has an odd side
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
    "timm": ("timm-blur", lambda: timm_network(DEEP, "blur")),
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
    """What was changed, and what makes the network with it."""

    what: str
    network: Callable[[], nn.Module]


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
                yield Change(f"{path}.{key} = {other!r}", partial(with_setting, network, path, key, other))


def with_setting(network: nn.Module, path: str, key: str, value: object) -> nn.Module:
    """A copy with another value of a module's attribute."""
    changed = copy.deepcopy(network)
    setattr(changed.get_submodule(path), key, value)
    return changed


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


FEW = ("LeakyReLU", "Identity", "Dropout", "Swish")  # for classes that have more places


def put_in(network: nn.Module, names: Iterable[str]) -> Iterator[Change]:
    """The network with a module behind a part of a sequence, in the place of one without tensors, and beside it."""
    for path, module in network.named_modules():
        for key, part in list(module.named_children()):
            for name, make in ((name, PUT_IN[name]) for name in names):
                pair = nn.Sequential(part, make())  # copied with the network
                if isinstance(module, nn.Sequential):
                    yield Change(f"{name} behind {path}.{key}", partial(behind, network, path, key, make()))
                if not list(part.parameters()):
                    yield Change(f"{name} for {path}.{key}", partial(replaced, network, path, key, make()))
                if not list(part.parameters()) or isinstance(part, nn.Linear):
                    yield Change(f"{name} with {path}.{key}", partial(replaced, network, path, key, pair))


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
    changed.get_submodule(path)._modules[key] = copy.deepcopy(module)
    return changed


# -- the verdict -----------------------------------------------------------------------------------------------------


def verdict(change: Change, layout: str, path, save=torch.save) -> str:
    """Whether a changed network is read rightly, refused, assumed, none at all, or silently another."""
    changed = change.network()
    save(changed, path)
    try:
        network = dp.read(path, src=layout)
    except MisfitError:
        return "refused"
    if network.evidence.assumed:
        return "assumed"
    pixels = PIXELS[network.architecture.channels]
    try:
        with torch.inference_mode():
            truth = changed.eval()(pixels).numpy()
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
    verdicts = {change.what: verdict(change, layout, tmp_path / "x.pth") for change in swept(settings(network), STRIDE)}

    counts = Counter(verdicts.values())
    assert [what for what, kind in verdicts.items() if kind in ("another", "assumed")] == []
    assert counts["refused"] >= at_least(50, STRIDE)
    assert counts["right"] >= at_least(30, STRIDE)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_no_module_that_is_put_in_makes_another_function_unseen(tmp_path, name):
    """One at a time, at every place; somebody's own class is an assumption, if the rest fits."""
    layout, make = NETWORKS[name]
    names = FEW if name == "timm" else PUT_IN
    network = make().double()
    changes = swept(put_in(network, names), STRIDE)
    verdicts = {change.what: verdict(change, layout, tmp_path / "x.pth") for change in changes}

    counts = Counter(verdicts.values())
    assert [what for what, kind in verdicts.items() if kind == "another"] == []
    assert {what.split()[0] for what, kind in verdicts.items() if kind == "assumed"} == {"Swish"}
    assert [what for what, kind in verdicts.items() if kind == "right" and what.startswith("Swish")] == []
    assert counts["refused"] >= at_least(90, STRIDE)
    assert counts["right"] >= at_least(20, STRIDE)


# -- what must not be refused ----------------------------------------------------------------------------------------


class Layer(nn.Sequential):
    """A dense layer of torchvision before 0.3."""

    __module__, __qualname__ = "torchvision.models.densenet", "_DenseLayer"


class Block(nn.Sequential):
    """A dense block of that time."""

    __module__, __qualname__ = "torchvision.models.densenet", "_DenseBlock"


def aged(network: nn.Module, *, dotted: bool) -> nn.Module:
    """A network of torchvision's as its releases before 0.3 pickled it, the oldest with dots in the names."""
    for path, module in list(network.named_modules()):
        for key in ("_non_persistent_buffers_set", "padding_mode", "_reversed_padding_repeated_twice"):
            vars(module).pop(key, None)
        name = type(module).__name__
        if name in ("_DenseLayer", "_DenseBlock"):
            old = Layer() if name == "_DenseLayer" else Block()
            vars(old).pop("_non_persistent_buffers_set")
            spelled = {
                key: f"{key[:-1]}.{key[-1]}" if dotted and name == "_DenseLayer" else key for key in module._modules
            }
            old._modules = OrderedDict((spelled[key], part) for key, part in module._modules.items())
            old.drop_rate = 0
            parent, _, own = path.rpartition(".")
            network.get_submodule(parent)._modules[own] = old
    return network


@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "stream"])
@pytest.mark.parametrize("dotted", [False, True], ids=["plain", "dotted"])
def test_modules_of_old_releases_are_read(tmp_path, monkeypatch, dotted, form):
    """Their dense layers are sequences, and lack what later releases have."""
    network = torchvision_network(SMALL, 0).double()
    with torch.inference_mode():
        truth = network(PIXELS[3]).numpy()
    monkeypatch.setattr("torchvision.models.densenet._DenseLayer", Layer)
    monkeypatch.setattr("torchvision.models.densenet._DenseBlock", Block)
    torch.save(aged(network, dotted=dotted), tmp_path / "x.pth", **form)

    answer = dp.read(tmp_path / "x.pth")

    assert (answer.evidence.assumed, answer.evidence.notes) == ((), ())
    np.testing.assert_allclose(answer(PIXELS[3].permute(0, 2, 3, 1).numpy()), truth, rtol=1e-9, atol=1e-12)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "a sequence": nn.Sequential,
    "a dict": lambda network: {"model": network, "epoch": 3},
    "compiled": torch.compile,
    "synchronised": nn.SyncBatchNorm.convert_sync_batchnorm,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_what_torch_wraps_around_a_network_is_no_part_of_it(tmp_path, wrap):
    """Nothing is refused, and nothing assumed."""
    torch.save(wrap(torchvision_network(SMALL, 0)), tmp_path / "x.pth")

    evidence = dp.read(tmp_path / "x.pth").evidence

    assert (evidence.assumed, evidence.facts["epsilon"], evidence.facts["output"]) == ((), 1e-5, "logits")


# -- somebody's own code ---------------------------------------------------------------------------------------------


def test_somebodys_own_class_is_an_assumption(tmp_path):
    """What stands inside of it is read."""
    network = torchvision_network(SMALL, 0)
    network.classifier = nn.Sequential(network.classifier, nn.Sigmoid())
    torch.save(Around(network), tmp_path / "x.pth")

    answer = dp.read(tmp_path / "x.pth")

    assert answer.evidence.assumed == (f"what {__name__}.Around does around the network",)
    assert (answer.contract.output, answer.origins["output"], answer.origins["epsilon"]) == (
        "sigmoid",
        "assumed",
        "graph",
    )


def test_a_hook_is_an_assumption(tmp_path):
    """Its code is not in the file."""
    network = torchvision_network(SMALL, 0)
    network.features.norm0.register_forward_hook(print)
    torch.save(network, tmp_path / "x.pth")

    evidence = dp.read(tmp_path / "x.pth").evidence

    assert evidence.assumed == ("what a hook of features.norm0 (BatchNorm2d) does behind stem.norm",)


def test_a_forward_that_was_replaced_is_refused(tmp_path):
    """It is called in the place of the class's."""
    network = torchvision_network(SMALL, 0)
    network.features.relu0.forward = torch.sigmoid
    torch.save(network, tmp_path / "x.pth")

    with pytest.raises(MisfitError) as caught:
        dp.read(tmp_path / "x.pth")

    assert str(caught.value) == (
        f"{tmp_path / 'x.pth'}: module 'features.relu0' (torch.nn.modules.activation.ReLU): its forward was replaced "
        "by code that is not in the file\n"
        "  in PyTorch, save `model.state_dict()` where the network is a plain DenseNet all the same"
    )


def test_pieces_in_somebodys_class_are_looked_at_one_by_one(tmp_path):
    """Nothing connects them, but each says what it does."""
    network = torchvision_network(SMALL, 0)
    network.features.transition1.conv.stride = (2, 2)
    network.__class__ = Around
    torch.save(network, tmp_path / "x.pth")

    with pytest.raises(MisfitError, match=r"in transition1.conv expected stride 1×1, found 2×2"):
        dp.read(tmp_path / "x.pth")


def test_the_module_beside_a_state_dict_says_nothing_of_that(tmp_path):
    """The network that was asked for has no graph."""
    network = torchvision_network(SMALL, 0)
    network.features.relu0 = nn.SiLU()
    torch.save({"state": network.state_dict(), "module": network}, tmp_path / "x.pth")

    assert dp.read(tmp_path / "x.pth", within="state").evidence is None


def test_a_normalisation_in_front_is_the_input(tmp_path):
    """As it stands: torchvision's is usually given pixels divided by 255, which a note says."""
    from torchvision.transforms import Normalize

    network = nn.Sequential(Normalize([0.5, 0.25, 0.125], [0.5, 0.25, 0.2]), torchvision_network(SMALL, 0))
    torch.save(network, tmp_path / "x.pth")

    answer = dp.read(tmp_path / "x.pth")

    picture = answer.contract.input
    assert (picture.scale, picture.mean, picture.std) == (1.0, (0.5, 0.25, 0.125), (0.5, 0.25, 0.2))
    assert answer.evidence.notes == (
        "the graph prepares pictures of values from 0 to 1: divide pixels by 255 before they are prepared",
    )
    assert answer.origins["input"] == "graph"
