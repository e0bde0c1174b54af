"""The network as data: its operations, their sizes, and edits of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.conversion.load import read
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import IMAGES, STEMS, graph
from densenet_port.network.numpy import forward, run
from tests.record.cards import keras_file
from tests.support.networks import images
from tests.support.random_weights import random_weights

SMALL = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=5")
CIFAR = replace(SMALL, stem="cifar", bottleneck=0)
DEEP = replace(SMALL, stem="deep")


def lines(architecture, contract=None):
    """Each operation with what it reads."""
    steps = graph(architecture, contract or Contract()).operations.values()
    return [f"{step.name} {step.kind} ← {' '.join(step.inputs)}" for step in steps]


def test_a_small_network_is_these_operations():
    """In order of execution, each with its kind and what it reads."""
    assert lines(CIFAR, Contract(output="softmax")) == [
        "stem.conv conv ← images",
        "block1.layer1.norm1 norm ← stem.conv",
        "block1.layer1.relu1 relu ← block1.layer1.norm1",
        "block1.layer1.conv1 conv ← block1.layer1.relu1",
        "block1.layer1.concat concat ← stem.conv block1.layer1.conv1",
        "transition1.norm norm ← block1.layer1.concat",
        "transition1.relu relu ← transition1.norm",
        "transition1.conv conv ← transition1.relu",
        "transition1.pool average_pool ← transition1.conv",
        "block2.layer1.norm1 norm ← transition1.pool",
        "block2.layer1.relu1 relu ← block2.layer1.norm1",
        "block2.layer1.conv1 conv ← block2.layer1.relu1",
        "block2.layer1.concat concat ← transition1.pool block2.layer1.conv1",
        "final.norm norm ← block2.layer1.concat",
        "final.relu relu ← final.norm",
        "final.pool mean ← final.relu",
        "head.dense dense ← final.pool",
        "head.softmax activation ← head.dense",
    ]


@pytest.mark.parametrize(
    ("architecture", "contract", "expected"),
    [
        (SMALL, Contract(), [("stem.conv", 7, 2, 3), ("stem.pool", 3, 2, 1)]),
        (SMALL, Contract(stem_padding="same"), [("stem.conv", 7, 2, "same"), ("stem.pool", 3, 2, "same")]),
        (
            DEEP,
            Contract(stem_pool="blur"),
            [
                ("stem.conv1", 3, 2, 1),
                ("stem.conv2", 3, 1, 1),
                ("stem.conv3", 3, 1, 1),
                ("stem.pool", 3, 1, 1),
                ("stem.pad", 1, 1, 0),
                ("stem.blur", 3, 2, 0),
            ],
        ),
        (CIFAR, Contract(stem_padding="same"), [("stem.conv", 3, 1, 1)]),
    ],
    ids=["imagenet", "same padding", "deep, blur", "cifar"],
)
def test_a_stem_is_padded_as_its_contract_says(architecture, contract, expected):
    """Kernel, stride and padding of what is no norm or ReLU."""
    steps = graph(architecture, contract).operations.values()
    found = [(s.name, s.kernel, s.stride, s.padding) for s in steps if s.name.startswith("stem.")]

    assert [step for step in found if "norm" not in step[0] and "relu" not in step[0]] == expected


def test_without_a_head_the_last_map_is_the_output():
    network = graph(SMALL.without_head(), Contract(output="softmax"))

    assert (network.output, network.logits) == ("final.relu", "final.relu")
    assert (graph(SMALL, Contract(output="sigmoid")).output, graph(SMALL, Contract()).logits) == (
        "head.sigmoid",
        "head.dense",
    )


@pytest.mark.parametrize("name", NAMED)
def test_every_operation_reads_what_stands_before_it(name):
    """The order is one of execution, and every output but the last is read."""
    network = graph(NAMED[name], Contract())
    known = {IMAGES}

    for step in network.operations.values():
        assert known.issuperset(step.inputs), step
        known.add(step.name)
    assert [read for read, readers in network.readers.items() if not readers] == [network.output]


@given(
    st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple),
    st.sampled_from(sorted(STEMS)),
    st.sampled_from([0, 2]),
    st.sampled_from(["symmetric", "same"]),
    st.sampled_from(["max", "blur"]),
    st.sampled_from(["floor", "ceil"]),
    st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_the_shapes_are_those_of_the_maps(layers, stem, bottleneck, padding, pool, rounding, more):
    """What numpy computes has the shapes that the graph says, at any size from the smallest on."""
    architecture = Architecture(
        layers=layers, growth_rate=2, init_channels=4, stem=stem, bottleneck=bottleneck, classes=3
    )
    contract = Contract(stem_padding=padding, stem_pool=pool, pool_rounding=rounding)
    network = graph(architecture, contract)
    pictures = images(2, network.smallest_side + more)
    maps = {}

    logits = run(network, random_weights(architecture), pictures, tap=maps.__setitem__)

    shapes = network.shapes(pictures.shape)
    assert {name: array.shape for name, array in maps.items()} == {name: shapes[name] for name in network.units}
    assert logits.shape == shapes[network.output]


def test_an_edited_operation_is_another_function():
    """A planted fault: the same weights, one epsilon changed."""
    network, weights, pictures = graph(SMALL, Contract()), random_weights(SMALL), images(1, 32)

    changed = run(network.edited("final.norm", epsilon=1e-2), weights, pictures)

    assert np.abs(changed - run(network, weights, pictures)).max() > 1e-3
    assert np.array_equal(run(network, weights, pictures), forward(SMALL, Contract(), weights, pictures))


def test_an_operation_can_be_left_out():
    """What read it reads what it read."""
    network = graph(SMALL, Contract()).without("final.relu")

    assert network.operations["final.pool"].inputs == ("final.norm",)
    assert "final.relu" not in network.operations
    assert list(network.units) == list(SMALL.units)


@pytest.mark.parametrize("stem", ["5x5-norm", "5x5", "1x1", "cifar-norm"])
@pytest.mark.parametrize(("layout", "ending"), [("keras", ".weights.h5"), ("keras", ".keras"), ("onnx", ".onnx")])
def test_a_stem_of_another_size_needs_no_code(stem, layout, ending, tmp_path):
    """By its kind alone it runs, is written, found out, and runs in torch."""
    architecture = replace(SMALL, stem=stem)
    weights, pictures = random_weights(architecture), images(1, 32)
    path = keras_file(tmp_path / "start.safetensors", architecture, Contract(), weights)

    network = read(read(path).write(tmp_path / f"out{ending}", layout=layout).out)
    inferred = read(replace(network.checkpoint, record=None), src=layout)

    assert inferred.architecture == architecture
    truth = forward(architecture, Contract(), weights, pictures)
    assert np.array_equal(network(pictures), truth)
    double = network.torch().double()(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).detach().numpy()
    assert np.abs(double - truth).max() <= 1e-10 * truth.std()
