"""The order of channels in software that joins new channels first, or flattens a map channel by channel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import densenet_port as dp
from densenet_port.errors import UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.channels import channel_order
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.head import head_of
from tests.support.networks import images

NUMBERS = Architecture(layers=(2, 3), growth_rate=3, init_channels=4, stem="cifar", classes=5)
TABLE = """
layout        = "mine"
about         = "a class of one's own"
containers    = [".pth", ".safetensors"]
concatenation = "{concatenation}"
flatten       = "c h w"
only          = {{ stem = "cifar", head = ["mean/dense", "flatten:*/dense"] }}

[contract]
epsilon      = 1e-5
stem_padding = "symmetric"
head_pool    = 2
output       = "logits"
input        = {{ order = "rgb", scale = 255.0, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}

[units]
"stem.conv"               = "conv1"
"block{{b}}.layer{{l}}.norm1" = "dense{{b}}.{{l}}.bn1"
"block{{b}}.layer{{l}}.conv1" = "dense{{b}}.{{l}}.conv1"
"block{{b}}.layer{{l}}.norm2" = "dense{{b}}.{{l}}.bn2"
"block{{b}}.layer{{l}}.conv2" = "dense{{b}}.{{l}}.conv2"
"transition{{b}}.norm"      = "trans{{b}}.bn"
"transition{{b}}.conv"      = "trans{{b}}.conv"
"final.norm"              = "bn"
"head.dense"              = "linear"

[tensors]
conv.kernel  = {{ name = "{{unit}}.weight", axes = "o i h w" }}
dense.kernel = {{ name = "{{unit}}.weight", axes = "o i" }}
dense.bias   = "{{unit}}.bias"

[tensors.norm]
scale    = "{{unit}}.weight"
shift    = "{{unit}}.bias"
mean     = "{{unit}}.running_mean"
variance = "{{unit}}.running_var"
"""


class NewFirst(torch.nn.Module):
    """A network that joins new channels first, and whose head reads every place of a pooled map."""

    def __init__(self, layers, growth, channels, side, classes):
        super().__init__()
        nn = torch.nn
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.layers, self.side = layers, side
        for block, count in enumerate(layers, start=1):
            members = nn.ModuleDict()
            for layer in range(1, count + 1):
                parts = {"bn1": nn.BatchNorm2d(channels), "conv1": nn.Conv2d(channels, 4 * growth, 1, bias=False)}
                parts |= {
                    "bn2": nn.BatchNorm2d(4 * growth),
                    "conv2": nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
                }
                members[str(layer)], channels = nn.ModuleDict(parts), channels + growth
            setattr(self, f"dense{block}", members)
            if block < len(layers):
                parts = {"bn": nn.BatchNorm2d(channels), "conv": nn.Conv2d(channels, channels // 2, 1, bias=False)}
                setattr(self, f"trans{block}", nn.ModuleDict(parts))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels * side * side, classes)

    def forward(self, x):
        """Logits of pictures `n c h w`."""
        relu, functional = torch.relu, torch.nn.functional
        x = self.conv1(x)
        for block in range(1, len(self.layers) + 1):
            for layer in getattr(self, f"dense{block}").values():
                new = layer["conv2"](relu(layer["bn2"](layer["conv1"](relu(layer["bn1"](x))))))
                x = torch.cat([new, x], 1)
            if block < len(self.layers):
                transition = getattr(self, f"trans{block}")
                x = functional.avg_pool2d(transition["conv"](relu(transition["bn"](x))), 2)
        x = functional.avg_pool2d(relu(self.bn(x)), 2 if self.side > 1 else x.shape[2])
        return self.linear(x.flatten(1))


def new_first(side):
    """Such a network, with random statistics, in float64, and logits of it for a picture that fits."""
    torch.manual_seed(side)
    module = NewFirst(NUMBERS.layers, NUMBERS.growth_rate, NUMBERS.init_channels, side, 5).double().eval()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_()
    pictures = images(2, 4 * side if side > 1 else 12)
    with torch.no_grad():
        logits = module(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).numpy()
    return module, pictures, logits


def table(folder, concatenation):
    """The table of such networks."""
    path = folder / f"{concatenation}.toml"
    path.write_text(TABLE.format(concatenation=concatenation), encoding="utf-8")
    return path


@pytest.mark.parametrize("side", [1, 2, 3])
def test_channels_of_another_order_are_the_same_function(side, tmp_path):
    """Read by a table that says the order, written by it again, and through a file of the usual order."""
    module, pictures, logits = new_first(side)
    torch.save(module.state_dict(), tmp_path / "new.pth")
    mine = table(tmp_path, "new-first")

    network = dp.read(tmp_path / "new.pth", src=mine)
    ported = network.write(tmp_path / "ported.safetensors", dtype="float64").out
    back = dp.read(ported).write(tmp_path / "back.pth", layout=mine, dtype="float64").out

    assert network.architecture.head == ("mean/dense" if side == 1 else f"flatten:{side}/dense")
    bound = 1e-10 * logits.std()
    assert np.abs(network(pictures) - logits).max() <= bound
    assert np.abs(dp.read(ported)(pictures) - logits).max() <= bound
    again = torch.load(back)
    state = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("tracked")}
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_the_wrong_order_is_another_function(tmp_path):
    """A planted fault: what the table says is what decides."""
    module, pictures, logits = new_first(1)
    torch.save(module.state_dict(), tmp_path / "new.pth")

    wrong = dp.read(tmp_path / "new.pth", src=table(tmp_path, "old-first"))(pictures)

    assert np.abs(wrong - logits).max() > logits.std() / 10


@pytest.mark.parametrize("flatten", ["h w c", "c h w"])
@pytest.mark.parametrize("head", ["mean/dense", "flatten:2/norm/dense", "max+mean/dense:4/relu/dense"])
def test_an_order_is_one_of_all_channels(head, flatten):
    """Each channel of ours is one of the file's, and none twice."""
    network = graph(replace(NUMBERS, head=head), Contract())

    order = channel_order(network, "new-first", flatten)

    for unit, places in order.items():
        sizes = network.units[unit].sizes
        assert sorted(places) == list(range(sizes.get("i", sizes.get("c"))))
    assert "block1.layer1.norm1" not in order
    assert {"block1.layer2.norm1", "transition1.conv", "final.norm"} <= order.keys()


def test_the_usual_orders_change_nothing():
    """No unit of the usual network is in another order."""
    assert not channel_order(graph(NUMBERS, Contract()), "old-first", "c h w")


def test_pictures_that_a_flattened_head_cannot_read_are_refused():
    """The map must have exactly the places that it reads."""
    network = graph(replace(NUMBERS, head="flatten:2/dense"), Contract(head_pool=2))

    assert [side for side in range(20) if network.takes(side)] == [8, 9, 10, 11]
    assert network.smallest_side == 8


@pytest.mark.parametrize(
    "text", ["", "mean", "dense", "mean/norm", "mean/dense/dense", "mean+mean/dense", "flatten/dense"]
)
def test_a_text_that_is_no_head_is_refused(text):
    """With the word that is not understood, and examples."""
    with pytest.raises(UsageError, match="no head is") as caught:
        head_of(text)

    assert "flatten:3/dense" in caught.value.hint
