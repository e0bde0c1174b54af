"""Heads, stems, transitions and orders of channels that are not the usual, out of ONNX graphs that torch exports."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from densenet_port import formats
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.numpy import forward
from tests.record.cards import keras_file
from tests.support.networks import images
from tests.support.onnx_models import FULL, SINGLE, apart, by_numpy, by_onnx, export, randomised, truth
from tests.support.random_weights import random_weights

PICTURES = images(2, 32)
DENSE = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,bottleneck=2,classes=5")  # what `Dense` is


class Layer(nn.Module):
    """A dense layer, which joins what it made with what it read."""

    def __init__(self, channels, new_first):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.new_first = new_first

    def forward(self, x):
        """The channels of both."""
        new = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return torch.cat([new, x] if self.new_first else [x, new], 1)


class Dense(nn.Module):
    """A DenseNet of two, one … layers, 4 channels each, with random norms and any head."""

    def __init__(self, head, stem=(7, 2), widths=(8,), *, final_norm=True, new_first=False, pool=True, stem_norm=True):
        super().__init__()
        side, stride = stem
        body = [nn.Conv2d(3, 8, side, stride, side // 2, bias=False)]
        body += [nn.BatchNorm2d(8), nn.ReLU()] if stem_norm else []
        body += [nn.MaxPool2d(3, 2, 1)] if pool else []
        body += [Layer(8, new_first), Layer(12, new_first)]
        channels = 16
        for width in widths:
            body += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, width, 1, bias=False), nn.AvgPool2d(2)]
            body.append(Layer(width, new_first))
            channels = width + 4
        body += [nn.BatchNorm2d(channels), nn.ReLU()] if final_norm else []
        self.body, self.head = nn.Sequential(*body), head

    def forward(self, x):
        """What the head makes of the last map."""
        return self.head(self.body(x))


def dense(head, **how):
    """A network with random weights and norms, evaluating."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Dense(head(), **how)
    return randomised(network).requires_grad_(False)


class Head(nn.Module):
    """A function of the last map, and layers behind it."""

    def __init__(self, vector, *layers):
        super().__init__()
        self.vector, self.layers = vector, nn.Sequential(*layers)

    def forward(self, x):
        """What the layers make of the vector."""
        return self.layers(self.vector(x))


class FastaiPool(nn.Module):
    """As fastai's AdaptiveConcatPool2d: the maximum, then the mean."""

    def __init__(self):
        super().__init__()
        self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        """Both, n 2c 1 1."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


def usual():
    return Head(lambda x: x.mean((2, 3)), nn.Linear(12, 5))


def two_layers():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))


def fastai():
    norms = nn.BatchNorm1d(24), nn.BatchNorm1d(16)
    first = [nn.Flatten(), norms[0], nn.Dropout(0.25), nn.Linear(24, 16, bias=False), nn.ReLU()]
    return nn.Sequential(FastaiPool(), *first, norms[1], nn.Dropout(), nn.Linear(16, 5, bias=False))


def mean_then_maximum():
    return Head(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1), nn.Linear(24, 5))


def maximum_then_mean():
    """Worked out in the other order."""

    def both(x):
        mean = x.mean(3).mean(2)
        return torch.cat([x.amax((2, 3), keepdim=True).flatten(1), mean], 1)

    return Head(both, nn.Linear(24, 5))


def windows_over_all():
    """The map is of 4 × 4 places, for a picture of 32."""

    def both(x):
        pools = nn.functional.avg_pool2d(x, 4), nn.functional.max_pool2d(x, 4)
        return torch.cat(pools, 1).reshape(x.size(0), -1)

    return Head(both, nn.Linear(24, 5))


def maximum():
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def flattened():
    return nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 5))


def pooled_and_flattened():
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 5)
    )


def reshaped():
    """As networks were written before Flatten was."""
    return Head(lambda x: nn.functional.avg_pool2d(x, 2).reshape(x.size(0), -1), nn.Linear(48, 5))


def channels_last():
    return Head(lambda x: x.permute(0, 2, 3, 1).flatten(1), nn.Linear(12 * 16, 5))


def functions():
    """A function between all of them, and one behind."""
    layers = [nn.Linear(12, 6), nn.Sigmoid(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.LogSoftmax(1)]
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


HEADS = {
    two_layers: "mean/dense:9/relu/dense",
    fastai: "max+mean/norm/dense:16/relu/norm/dense",
    mean_then_maximum: "mean+max/dense",
    maximum_then_mean: "max+mean/dense",
    windows_over_all: "mean+max/dense",
    maximum: "max/dense",
    flattened: "flatten:4/dense",
    pooled_and_flattened: "flatten:2/norm/dense:6/tanh/dense",
    reshaped: "flatten:2/dense",
    channels_last: "flatten:4/dense",
    functions: "mean/dense:6/sigmoid/dense:7/relu/dense",
}
BODIES = {
    "a stem of 7×7 that keeps the size": ({"stem": (7, 1)}, {}, {"stem_stride": 1}),
    "a stem of 5×5 without a pool": ({"stem": (5, 1), "pool": False}, {"stem": "5x5-norm"}, {"stem_pool": "none"}),
    "a stem of 5×5 with a stride": ({"stem": (5, 2)}, {"stem": "5x5-norm"}, {"stem_stride": 2}),
    "a stem of 5×5 without a norm": (
        {"stem": (5, 1), "pool": False, "stem_norm": False},
        {"stem": "5x5"},
        {},
    ),
    "no final norm": ({"final_norm": False}, {"final_norm": False}, {}),
    "new channels first": ({"new_first": True}, {}, {}),
    "new channels first, no final norm": ({"new_first": True, "final_norm": False}, {"final_norm": False}, {}),
    "a transition without compression": (
        {"widths": (16,), "head": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5))},
        {"reduction": 0.0},
        {},
    ),
    "transitions that differ": ({"widths": (4, 8)}, {"layers": (2, 1, 1), "reduction": (0.7, 0.0)}, {}),
}


def logits_of(network, pictures):
    """Torch's logits in float64, without what stands behind them."""
    last = network.head[-1] if isinstance(network.head, nn.Sequential) else None
    if isinstance(last, nn.LogSoftmax):
        network.head[-1] = nn.Identity()
    return truth(network, pictures)


OTHER_FORMS = {  # the older exporter spells every head; the newer one takes ten times as long
    "dynamo": [fastai, windows_over_all, pooled_and_flattened, channels_last],
    "unoptimised": [fastai, mean_then_maximum, reshaped],
}
SPELLED = [
    *((head, form) for head in HEADS for form in ("folded", "unfolded")),
    *((head, form) for form, heads in OTHER_FORMS.items() for head in heads),
]


@pytest.mark.parametrize(("head", "form"), SPELLED, ids=lambda case: case if isinstance(case, str) else case.__name__)
def test_a_head_is_read_as_it_is(head, form, tmp_path):
    """Its own function in float64 by ONNX's reference, in float32 by ONNX Runtime, and torch's."""
    path = export(dense(head), tmp_path / "x.onnx", form, dynamic_axes={"x": {0: "n"}}, input_names=["x"])

    network = read(path)

    assert network.architecture == replace(DENSE, head=HEADS[head])
    logits = by_numpy(network, PICTURES)
    assert apart(logits, by_onnx(path, PICTURES, architecture=network.architecture).logits) <= FULL
    assert apart(logits, by_onnx(path, PICTURES, "float32", architecture=network.architecture).logits) <= SINGLE
    whole = form in ("unfolded", "unoptimised")
    assert apart(logits, logits_of(dense(head), PICTURES)) <= (FULL if whole else SINGLE)


NEWLY_SPELLED = ("new channels first, no final norm", "transitions that differ")


@pytest.mark.parametrize(
    ("case", "form"), [*((case, "unfolded") for case in BODIES), *((case, "dynamo") for case in NEWLY_SPELLED)]
)
def test_a_body_is_read_as_it_is(case, form, tmp_path):
    """With its stem, its transitions, its end and its order."""
    how, numbers, contract = BODIES[case]
    how = {"head": usual, **how}
    path = export(dense(**how), tmp_path / "x.onnx", form)

    network = read(path)

    assert network.architecture == replace(DENSE, **numbers)
    assert network.contract == replace(network.contract, **contract)
    logits = by_numpy(network, PICTURES)
    assert apart(logits, by_onnx(path, PICTURES, architecture=network.architecture).logits) <= FULL
    assert apart(logits, by_onnx(path, PICTURES, "float32", architecture=network.architecture).logits) <= SINGLE
    whole = form == "unfolded"
    assert apart(logits, truth(dense(**how), PICTURES)) <= (FULL if whole else SINGLE)


@pytest.mark.parametrize("how", [{"new_first": True}, {"head": pooled_and_flattened}], ids=["new first", "flattened"])
def test_units_are_looked_at_in_the_graph_s_order_of_channels(how, tmp_path):
    """Whatever order they have in the file."""
    path = export(dense(**{"head": usual, **how}), tmp_path / "x.onnx", "unfolded")
    network, taps = read(path), {}
    forward(network.architecture, network.contract, network.weights, PICTURES, tap=taps.__setitem__)

    units = {unit: unit for unit in network.architecture.units}
    run = by_onnx(path, PICTURES, architecture=network.architecture, taps=units)

    assert set(run.taps) == set(units)
    assert max(apart(tap, taps[unit]) for unit, tap in run.taps.items()) <= FULL


@pytest.mark.parametrize("how", [{"new_first": True, "final_norm": False}, {"new_first": True}, {"final_norm": False}])
def test_the_last_map_stands_for_the_logits_in_the_graph_s_order(how, tmp_path):
    """With its ReLU where it has one."""
    path = export(dense(usual, **how), tmp_path / "x.onnx", "unfolded")
    network = read(path, no_top=True)

    logits = by_onnx(path, PICTURES, architecture=network.architecture).logits

    assert apart(logits, by_numpy(network, PICTURES)) <= FULL


def test_what_the_graph_says_is_known_from_the_graph(tmp_path):
    """The stride of the stem and the pool before the head."""
    network = read(export(dense(pooled_and_flattened, stem=(7, 1)), tmp_path / "x.onnx", "unfolded", size=16))

    contract = network.contract
    assert (contract.stem_stride, contract.head_pool) == (1, 2)
    assert {origin for entry, origin in network.origins.items() if entry != "input"} == {"graph"}


# -- what we write -----------------------------------------------------------------------------------------------------

WRITTEN = {
    "flatten:2/norm/dense:6/relu/dense": Contract(head_pool=2),
    "flatten:3/dense": Contract(output="softmax"),
    "max+mean/norm/dense:6/relu/norm/dense": Contract(),
    "mean+max/dense": Contract(output="sigmoid"),
    "max/relu/dense:3/dense": Contract(),
    "mean/dense": Contract(stem_stride=1),
}


@pytest.mark.parametrize("layout", ["onnx", "onnx-caffe2"])
@pytest.mark.parametrize("head", WRITTEN)
def test_there_and_back_is_bit_identical(head, layout, tmp_path):
    """And ONNX Runtime computes what numpy does, whatever order the flattened map has in the file."""
    architecture, contract = replace(DENSE, head=head), WRITTEN[head]
    weights = random_weights(architecture)
    source = read(keras_file(tmp_path / "a.safetensors", architecture, contract, weights))
    path = source.write(tmp_path / "x.onnx", layout=layout).out

    network = read(replace(formats.read(path), record=None))

    assert (network.layout, network.architecture) == (layout, architecture)
    assert replace(network.contract, input=contract.input) == contract
    assert {s: network.weights[s].tobytes() for s in weights} == {s: a.tobytes() for s, a in weights.items()}
    least = graph(architecture, contract).smallest_side
    pictures = images(2, least if head.startswith("flatten") else 32)
    logits = forward(architecture, contract, weights, pictures)
    assert apart(by_onnx(path, pictures, architecture=architecture).logits, logits) <= FULL
    assert apart(by_onnx(path, pictures, "float32", architecture=architecture).logits, logits) <= SINGLE


def test_a_flattened_map_in_another_order_would_be_seen(tmp_path):
    """The tests above fail for one that is written as it is kept."""
    architecture = replace(DENSE, head="flatten:2/dense")
    source = read(keras_file(tmp_path / "a.safetensors", architecture, Contract(), random_weights(architecture)))
    checkpoint = formats.read(source.write(tmp_path / "x.onnx", layout="onnx").out)
    pictures = images(1, graph(architecture, Contract()).smallest_side)

    network = read(replace(checkpoint, metadata={**checkpoint.metadata, "flatten": "h w c"}))

    assert apart(by_numpy(network, pictures), by_numpy(source, pictures)) > SINGLE


# -- what is no head of ours -------------------------------------------------------------------------------------------


def sum_of_pools():
    return Head(lambda x: x.mean((2, 3)) + x.amax((2, 3)), nn.Linear(12, 5))


def flattened_by_columns():
    return Head(lambda x: x.permute(0, 1, 3, 2).flatten(1), nn.Linear(12 * 16, 5))


def a_part_of_the_map():
    return Head(lambda x: x[:, :, :2, :2].flatten(1), nn.Linear(48, 5))


def overlapping():
    return nn.Sequential(nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(48, 5))


def maximum_of_windows():
    return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5))


def other_epsilon():
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.BatchNorm1d(6, eps=1e-3), nn.Linear(6, 5)
    )


def function_of_its_own():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 5))


OTHERS = {
    sum_of_pools: (
        "no DenseNet: in head.norm1 expected Add of one map, found Add '/head/Add' of several, "
        "as residual networks have it"
    ),
    flattened_by_columns: (
        "no DenseNet: in head.flatten expected n c h w or n h w c to be flattened, found Flatten "
        "'/head/Flatten' of n c w h"
    ),
    a_part_of_the_map: ("no DenseNet: in head.flatten expected Flatten or Reshape, found Slice '/head/Slice'"),
    overlapping: (
        "no DenseNet: in final.pool expected AveragePool '/head/head.0/AveragePool' to have strides [3, 3], "
        "found [1, 1]"
    ),
    maximum_of_windows: (
        "no DenseNet: in final.pool expected MaxPool '/head/head.0/MaxPool' to have kernel_shape [4, 4], found [2, 2]"
    ),
    other_epsilon: "its layers differ in epsilon: 1e-05 and 0.001",
    function_of_its_own: ("no DenseNet: in head.dense expected Gemm or MatMul or Conv, found Gelu '/head/head.3/Gelu'"),
}


@pytest.mark.parametrize("head", OTHERS, ids=lambda head: head.__name__)
def test_another_head_is_refused_by_place_and_name(head, tmp_path):
    """In terms of our operations and the file's nodes."""
    path = export(dense(head), tmp_path / "x.onnx", "unfolded")

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message == f"{path}: {OTHERS[head]}"
