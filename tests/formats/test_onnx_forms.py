"""What exporters leave around a DenseNet in an ONNX graph: other axes, prepared pictures, outputs and heads."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.contract import Contract, Input
from densenet_port.network.units import Slot
from densenet_port.prove.job import Reading
from tests.support.onnx_models import (
    FOLDED,
    FULL,
    PICTURES,
    SINGLE,
    SMALL,
    apart,
    by_numpy,
    by_onnx,
    channels_last_model,
    export,
    node_of,
    small_network,
    truth,
)
from tests.support.random_weights import random_weights

# -- every opset that an exporter writes -------------------------------------------------------------------------------

OPSETS = [
    *(("folded", opset) for opset in (7, 9, 11, 13, 20, 23)),
    *(("unfolded", opset) for opset in (7, 8, 9, 15, 18, 23)),
    *(("dynamo", opset) for opset in (18, 23)),
]


@pytest.mark.parametrize(("form", "opset"), OPSETS)
def test_an_export_of_any_opset_is_read(form, opset, tmp_path):
    """The file's own function in float64, and torch's but for what the exporter rounded."""
    path = export(small_network(), tmp_path / "x.onnx", form, opset_version=opset)

    logits = by_numpy(read(path))

    assert apart(logits, by_onnx(path).logits) <= FULL
    assert apart(logits, truth(small_network(), PICTURES)) <= (SINGLE if form in FOLDED else FULL)


@pytest.mark.parametrize("form", FOLDED)
def test_a_graph_that_onnx_runtime_optimised_is_read(form, tmp_path):
    """Convolutions that it joined with the ReLU behind are two operators again, for the reader and for a check."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    onnxruntime.InferenceSession(export(small_network(), tmp_path / "x.onnx", form), options)

    kinds = {node.op_type for node in onnx.load(tmp_path / "fast.onnx").graph.node}
    logits = by_numpy(read(tmp_path / "fast.onnx"))

    assert "FusedConv" in kinds
    assert apart(logits, by_onnx(tmp_path / "fast.onnx").logits) <= FULL
    assert apart(logits, by_numpy(read(tmp_path / "x.onnx"))) <= FULL


def test_a_graph_that_onnx_runtime_laid_out_anew_is_refused(model, tmp_path):
    """By what it is, and with what leads on."""
    node_of(model, "Conv").domain = "com.microsoft.nchwc"
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError, match="ONNX Runtime laid the graph out anew for one processor") as caught:
        read(path)
    assert "ORT_ENABLE_EXTENDED" in caught.value.hint


@pytest.mark.parametrize("opset", [9, 17])
def test_pools_that_round_up_are_read_in_every_way_to_write_them(opset, tmp_path):
    """As ceil_mode, or before it as a place below and right that does not count."""
    import torch

    network = small_network()
    network.features.transition1.pool = torch.nn.AvgPool2d(2, 2, ceil_mode=True)
    path = export(network, tmp_path / "x.onnx", "unfolded", opset_version=opset)

    loaded = read(path)

    assert loaded.contract.pool_rounding == "ceil"
    assert apart(by_numpy(loaded), truth(network, PICTURES)) <= FULL


def test_a_fresh_network_whose_folded_biases_are_gone_is_read(tmp_path):
    """Norms of ones and zeros leave a bias of zeros, which the dynamo exporter takes out."""
    from torchvision.models.densenet import DenseNet

    network = DenseNet(4, (2, 1), 8, num_classes=7)
    path = export(network, tmp_path / "x.onnx", "dynamo")
    assert len(node_of(onnx.load(path), "Conv").input) == 2

    assert apart(by_numpy(read(path)), truth(network, PICTURES)) <= SINGLE


# -- Keras's networks, whose pictures have their channels last ---------------------------------------------------------


@pytest.mark.parametrize("islands", [False, True], ids=["turned once", "turned around every window"])
def test_a_graph_of_channels_last_is_read(islands, tmp_path):
    """As tf2onnx writes Keras's networks, and as torch writes those that Keras runs on it."""
    path = channels_last_model(SMALL, random_weights(SMALL), tmp_path / "x.onnx", islands=islands)

    network = read(path)

    assert (network.architecture, network.contract) == (SMALL, Contract())
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL
    assert apart(by_numpy(network), by_onnx(path, dtype="float32").logits) <= SINGLE


@pytest.mark.parametrize("islands", [False, True], ids=["turned once", "turned around every window"])
def test_the_units_of_a_graph_of_channels_last_can_be_looked_at(islands, tmp_path):
    """Whatever axes they have in the file."""
    path = channels_last_model(SMALL, random_weights(SMALL), tmp_path / "x.onnx", islands=islands)
    network, taps = read(path), {}
    from densenet_port.network.numpy import forward

    forward(SMALL, network.contract, network.weights, PICTURES, tap=taps.__setitem__)

    run = by_onnx(path, taps={unit: unit for unit in SMALL.units})

    assert max(apart(tap, taps[unit]) for unit, tap in run.taps.items()) <= FULL


def test_a_picture_that_is_turned_on_its_side_is_refused(model, tmp_path):
    """It would be another function of it."""
    put_in_front(model, ("Transpose", [], {"perm": [0, 1, 3, 2]}))
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message == (
        f"{path}: Conv '/features/conv0/Conv' reads a picture whose axes are turned to n c w h, expected n h w c made "
        "n c h w, or none turned"
    )


# -- prepared pictures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The small network, with all norms."""
    return export(small_network(), tmp_path_factory.mktemp("exported") / "x.onnx", "unfolded")


@pytest.fixture
def model(exported):
    """The same, to be changed."""
    return onnx.load(exported)


def saved(model, tmp_path):
    onnx.save(model, tmp_path / "x.onnx")
    return tmp_path / "x.onnx"


def replaced(model, node, *others):
    """The model with nodes in the place of one."""
    nodes = list(model.graph.node)
    place = nodes.index(node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *others, *nodes[place + 1 :]])


def put_in_front(model, *nodes):
    """Nodes in front of the first convolution, one behind the other: operator, constants, attributes."""
    conv = node_of(model, "Conv")
    made, x = [], conv.input[0]
    for number, (op, constants, attributes) in enumerate(nodes):
        names = [f"front{number}.{place}" for place in range(len(constants))]
        for name, array in zip(names, constants, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        made.append(helper.make_node(op, [x, *names], [f"front{number}"], **attributes))
        x = f"front{number}"
    conv.input[0] = x
    replaced(model, conv, *made, conv)


def channels_last(model):
    """The picture of a model with its channels last."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for size, value in zip(sizes, (1, 32, 32, 3), strict=True):
        size.dim_value = value


MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
FORTH = ("Transpose", [], {"perm": [0, 3, 1, 2]})
TORCH, PLAIN = Input(), {"std": (1.0, 1.0, 1.0)}
CAFFE = Input(order="bgr", scale=1.0, mean=(103.939, 116.779, 123.68), **PLAIN)
BLUE_FIRST = np.array([103.939, 116.779, 123.68], "f4")
LITERAL = replace(TORCH, scale=1.0)
HALVES = Input(scale=255.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FRONTS = {
    "Normalize": (LITERAL, False, [("Sub", [MEAN[:, None, None]], {}), ("Div", [STD[:, None, None]], {})]),
    "of 255": (
        TORCH,
        False,
        [("Div", [np.float32(255)], {}), ("Sub", [MEAN[None, :, None, None]], {}), ("Div", [STD[:, None, None]], {})],
    ),
    "inverse numbers": (
        TORCH,
        False,
        [
            ("Mul", [np.float32(1 / 255)], {}),
            ("Add", [-MEAN[:, None, None]], {}),
            ("Mul", [1 / STD[:, None, None]], {}),
        ],
    ),
    "pixels": (
        TORCH,
        False,
        [
            ("Sub", [np.array([123.675, 116.28, 103.53], "f4")[:, None, None]], {}),
            ("Div", [np.array([58.395, 57.12, 57.375], "f4")[:, None, None]], {}),
        ],
    ),
    "halves": (HALVES, False, [("Mul", [np.float32(1 / 127.5)], {}), ("Add", [np.float32(-1)], {})]),
    "channels last": (LITERAL, True, [("Sub", [MEAN], {}), ("Div", [STD], {}), FORTH]),
    "channels last, then first": (LITERAL, True, [("Sub", [MEAN], {}), FORTH, ("Div", [STD[:, None, None]], {})]),
    "Caffe, gathered": (
        CAFFE,
        True,
        [("Gather", [np.array([2, 1, 0])], {"axis": 3}), ("Sub", [BLUE_FIRST], {}), FORTH],
    ),
    "Caffe, sliced": (
        CAFFE,
        False,
        [
            ("Slice", [np.array([-1]), np.array([-(2**63) + 1]), np.array([1]), np.array([-1])], {}),
            ("Sub", [BLUE_FIRST[:, None, None]], {}),
        ],
    ),
    "Caffe, turned behind": (
        CAFFE,
        False,
        [("Sub", [BLUE_FIRST[::-1, None, None]], {}), ("Gather", [np.array([2, 1, 0])], {"axis": 1})],
    ),
    "Caffe's factor": (
        Input(order="bgr", scale=1.0, mean=(103.94, 116.78, 123.68), std=(58.8235294117647,) * 3),
        False,
        [("Sub", [np.array([103.94, 116.78, 123.68], "f4")[:, None, None]], {}), ("Mul", [np.float32(0.017)], {})],
    ),
}


@pytest.mark.parametrize("front", FRONTS)
def test_a_prepared_picture_is_the_contract_s_input(front, model, tmp_path):
    """With the decimals that its float32 numbers mean; the file's own software, given pixels, agrees."""
    expected, last, nodes = FRONTS[front]
    if last:
        channels_last(model)
    put_in_front(model, *nodes)
    path = saved(model, tmp_path)

    network = read(path)

    assert network.origins["input"] == "graph"
    assert network.contract.input.order == expected.order
    assert network.contract.input.scale == expected.scale
    np.testing.assert_allclose(network.contract.input.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(network.contract.input.std, expected.std, rtol=1e-12)
    assert apart(by_numpy(network), truth(small_network(), PICTURES)) <= FULL
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL
    assert apart(by_numpy(network), by_onnx(path, dtype="float32").logits) <= SINGLE


def test_channels_that_are_taken_out_and_joined_are_channels_turned_round(model, tmp_path):
    """As tf2onnx has it, with Slice, and torch's exporter, with Gather and Unsqueeze."""
    channels_last(model)
    conv = node_of(model, "Conv")
    x, made = conv.input[0], []
    for place in range(3):
        model.graph.initializer.append(numpy_helper.from_array(np.array(place), f"place{place}"))
        made.append(helper.make_node("Gather", [x, f"place{place}"], [f"flat{place}"], axis=3))
        made.append(helper.make_node("Unsqueeze", [f"flat{place}", "last"], [f"channel{place}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    model.graph.initializer.append(numpy_helper.from_array(BLUE_FIRST, "mean"))
    made += [
        helper.make_node("Concat", ["channel2", "channel1", "channel0"], ["turned"], axis=-1),
        helper.make_node("Sub", ["turned", "mean"], ["prepared"]),
        helper.make_node("Transpose", ["prepared"], ["forth"], perm=[0, 3, 1, 2]),
    ]
    conv.input[0] = "forth"
    replaced(model, conv, *made, conv)
    path = saved(model, tmp_path)

    network = read(path)

    assert network.contract.input == CAFFE
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL


def test_whole_pixels_are_pixels(model, tmp_path):
    """A picture of uint8 that is only cast is prepared by nothing, and that is known."""
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    put_in_front(model, ("Cast", [], {"to": TensorProto.FLOAT}))
    path = saved(model, tmp_path)

    network = read(path)

    assert (network.origins["input"], network.contract.input) == (
        "graph",
        Input(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL


def test_a_graph_that_prepares_nothing_says_nothing_of_it(model, tmp_path):
    """The input is the layout's, an assumption."""
    network = read(saved(model, tmp_path))

    assert ("input" in network.checkpoint.metadata, network.origins["input"]) == (False, "assumed")


NOTES = {
    "Normalize": ["the graph prepares pictures of values from 0 to 1: divide pixels by 255 before they are prepared"],
    "of 255": [],
    "halves": [
        (
            "the graph prepares its pictures itself and does not say in which order their colours come; red first is "
            "assumed, as it is: the network's own order is rgb"
        )
    ],
}


@pytest.mark.parametrize("front", NOTES)
def test_what_a_preparation_leaves_open_is_said(front, model, tmp_path):
    """The order of colours, where the means do not tell; and that pixels have to be divided before."""
    put_in_front(model, *FRONTS[front][2])

    notes = formats.read(saved(model, tmp_path)).metadata["notes"]

    assert notes == NOTES[front]


def test_a_word_against_the_graph_s_preparation_is_an_error(model, tmp_path):
    """The file knows what it is."""
    put_in_front(model, *FRONTS["of 255"][2])

    with pytest.raises(UsageError, match="the input is .* by the file's own graph, and .* by your word"):
        read(saved(model, tmp_path), contract={"input": CAFFE})


def test_another_preparation_than_the_graph_s_would_be_seen(model, tmp_path, monkeypatch):
    """The runner undoes what was read, and the graph does what it does."""
    from densenet_port.prove.runners import onnxruntime

    put_in_front(model, *FRONTS["of 255"][2])
    path = saved(model, tmp_path)
    logits = by_numpy(read(path))
    reading = onnxruntime._reading(path, None, body=False)
    wrong = reading.preparation._replace(input=replace(TORCH, mean=(0.485, 0.456, 0.407)))
    monkeypatch.setattr(onnxruntime, "_reading", lambda *_, **__: reading._replace(preparation=wrong))

    assert apart(by_onnx(path).logits, logits) > FULL


FOREIGN = {
    "Neg": (("Neg", [], {}), "in stem.conv expected Conv, found Neg 'front0'"),
    "Clip": (("Clip", [np.float32(0), np.float32(1)], {}), "in stem.conv expected Conv, found Clip 'front0'"),
    "whole numbers": (("Cast", [], {"to": TensorProto.INT32}), "in stem.conv expected Conv, found Cast 'front0'"),
    "Resize": (
        ("Resize", [np.zeros(0, "f4"), np.ones(4, "f4")], {}),
        "in stem.conv expected Conv, found Resize 'front0'",
    ),
}


@pytest.mark.parametrize("front", FOREIGN)
def test_anything_else_in_front_is_refused(front, model, tmp_path):
    """By its name, with what is read there."""
    node, message = FOREIGN[front]
    put_in_front(model, node)
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message == f"{path}: no DenseNet: {message}"
    assert caught.value.hint == (
        "in front of the network are read: Sub, Div, Mul and Add of one number a channel, channels turned round, a "
        "Cast, and a Transpose of n h w c; export the network without the rest"
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (("Mul", [np.zeros(1, "f4")], {}), "expected a preparation that can be undone, found a picture times"),
        (
            ("Mul", [np.ones((1, 1, 32, 32), "f4")], {}),
            "expected a number, or one for each channel, found Mul 'front0'",
        ),
        (("Gather", [np.array([0, 2, 1])], {"axis": 1}), "in stem.conv expected Conv that reads"),
    ],
    ids=["by zero", "a mask", "another order"],
)
def test_a_preparation_that_is_none_is_refused(node, message, model, tmp_path):
    """Nothing is guessed."""
    put_in_front(model, node)

    with pytest.raises(MisfitError) as caught:
        formats.read(saved(model, tmp_path))
    assert message in caught.value.message


# -- several outputs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two(model, tmp_path):
    """Logits, and what the head reads."""
    gemm = node_of(model, "Gemm")
    gemm.output[0] = "logits"
    features = gemm.input[0]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("logits", features))
    return saved(model, tmp_path), features


def test_of_several_outputs_one_must_be_named(two):
    """The hint names the head's."""
    path, features = two

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert (caught.value.message, caught.value.hint) == (
        f"{path}: a graph with 2 outputs, logits, {features}: one must be named",
        "--output-name logits",
    )


def test_an_output_that_is_named_is_taken(two):
    """The logits, with a head; or what it reads, without."""
    path, features = two

    networks = [read(path, output_name=name) for name in ("logits", features)]

    assert [network.architecture.classes for network in networks] == [7, None]
    assert apart(by_numpy(networks[0]), truth(small_network(), PICTURES)) <= FULL
    assert apart(by_numpy(networks[0]), by_onnx(path, reading=Reading(output="logits")).logits) <= FULL


def test_an_output_that_is_not_there_is_a_mistake_of_the_user_s(two):
    """The others are listed."""
    path, features = two

    with pytest.raises(UsageError) as caught:
        read(path, output_name="x")
    assert (caught.value.message, caught.value.hint) == (
        f"{path}: no output is called 'x'",
        f"known: logits, {features}",
    )


def test_only_onnx_has_outputs_by_name(small):
    """A word that nothing takes is an error."""
    with pytest.raises(UsageError) as caught:
        read(small, output_name="x")
    assert (caught.value.message, caught.value.hint) == (
        f"{small}: has no output 'x'",
        "only ONNX models have outputs by name",
    )


def test_a_check_runs_the_output_that_is_named(two, tmp_path):
    """From the conversion to the reference."""
    from densenet_port.prove.parity import check

    path, _ = two
    convert(path, out=tmp_path / "x.weights.h5", output_name="logits")

    result = check(tmp_path / "x.weights.h5", against=path, output_name="logits", backend="numpy", sizes=(32,))

    assert result.proven


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_the_command_line_takes_the_name_of_an_output(command, two, tmp_path):
    """And says it where it is needed."""
    import subprocess
    import sys

    words = [sys.executable, "-m", "densenet_port", command, str(two[0])]
    words += ["--out", str(tmp_path / "x.weights.h5")] if command == "convert" else []

    without, named = (
        subprocess.run([*words, *more], capture_output=True, text=True, timeout=120, check=False)
        for more in ([], ["--output-name", "logits"])
    )

    assert (without.returncode, without.stderr.splitlines()[-1]) == (3, "  --output-name logits")
    assert (named.returncode, named.stderr, "7 classes" in named.stdout) == (0, "", True)


def test_inputs_that_nothing_reads_are_no_inputs(model, tmp_path):
    """Converters leave some."""
    model.graph.input.append(helper.make_tensor_value_info("left", 1, [1]))
    path = saved(model, tmp_path)

    assert apart(by_numpy(read(path)), by_onnx(path).logits) <= FULL


def test_an_output_of_two_inputs_is_refused(model, tmp_path):
    """They are named."""
    model.graph.input.append(helper.make_tensor_value_info("mean", 1, [3, 1, 1]))
    conv = node_of(model, "Conv")
    sub = helper.make_node("Sub", [conv.input[0], "mean"], ["prepared"])
    first, conv.input[0] = conv.input[0], "prepared"
    replaced(model, conv, sub, conv)
    path, output = saved(model, tmp_path), model.graph.output[0].name

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message == f"{path}: {output!r} depends on 2 inputs '{first}' 'mean', expected one"


# -- heads that are others ---------------------------------------------------------------------------------------------


def an_elu_between():
    """A head of two matrices, and a function that no head of ours has."""
    from torch import nn

    network = small_network()
    network.classifier = nn.Sequential(nn.Linear(12, 9), nn.ELU(), nn.Linear(9, 5))
    return network


def a_map_of_classes():
    """A convolution and a larger picture, as for segmentation."""
    from torch import nn

    return nn.Sequential(small_network().features, nn.ReLU(), nn.Conv2d(12, 5, 1), nn.Upsample(scale_factor=2))


def three_pools():
    """Mean, maximum and the last map's corner side by side."""
    import torch

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = small_network(), torch.nn.Linear(36, 5)

        def forward(self, x):
            x = torch.relu(self.inner.features(x))
            return self.last(torch.cat([x.mean((2, 3)), x.amax((2, 3)), x[:, :, 0, 0]], 1))

    return Both()


LEFT = {an_elu_between: "GlobalAveragePool, Flatten, 2 Gemm, Elu", a_map_of_classes: "Conv, Resize"}
HEADS = [an_elu_between, a_map_of_classes, three_pools]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_a_head_that_is_another_is_refused_with_the_way_that_works(head, tmp_path):
    """The body alone can be taken."""
    path = export(head(), tmp_path / "x.onnx", "unfolded")

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.hint.startswith("--no-top leaves the head out, and takes the body, which is a DenseNet's; ")


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_the_body_is_taken_whatever_the_head_is(head, tmp_path):
    """Bit by bit, and what was left out is said."""
    path = export(head(), tmp_path / "x.onnx", "unfolded")

    network = read(path, no_top=True)

    assert network.architecture == SMALL.without_head()
    assert (
        apart(by_numpy(network), by_numpy(read(export(small_network(), tmp_path / "y.onnx", "unfolded"), no_top=True)))
        == 0
    )
    assert apart(by_numpy(network), by_onnx(path, architecture=SMALL.without_head()).logits) <= FULL
    if head in LEFT:
        assert network.checkpoint.metadata["notes"] == [f"left out by --no-top, behind the last ReLU: {LEFT[head]}"]


def test_a_body_that_is_another_is_no_body_up_to_where_it_differs(model, tmp_path):
    """A network of one block less would be one, too."""
    node_of(model, "Relu", 6).op_type = "Elu"
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path, body=True)
    assert caught.value.message.endswith("expected Relu, found Elu '/features/denseblock2/denselayer1/relu1/Relu'")
    assert "--no-top" not in caught.value.hint


def test_a_usual_head_is_left_out_as_ever(model, tmp_path):
    """Its tensors are accounted for."""
    network = read(saved(model, tmp_path), no_top=True)

    assert set(network.ledger.ignored.values()) == {"--no-top"}
    assert Slot("head.dense", "kernel") not in network.weights


# -- means -------------------------------------------------------------------------------------------------------------


def pooled(model, side, strides=1):
    """The mean as a pool over so many places."""
    mean = node_of(model, "GlobalAveragePool")
    settings = {"kernel_shape": [side, side], "strides": [strides, strides]}
    replaced(model, mean, helper.make_node("AveragePool", mean.input, mean.output, **settings))


@pytest.mark.parametrize("strides", [1, 4])
def test_a_pool_over_the_whole_map_is_the_mean(strides, model, tmp_path):
    """Of a picture of a fixed size; a check runs it on others, too."""
    pooled(model, 4, strides)
    path = saved(model, tmp_path)

    network = read(path)

    assert apart(by_numpy(network), truth(small_network(), PICTURES)) <= FULL
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL


def test_a_pool_over_a_part_of_the_map_is_refused(model, tmp_path):
    """The map is of 4 × 4 places for a picture of 32."""
    pooled(model, 3)
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message.endswith(
        "in final.pool expected AveragePool '/GlobalAveragePool_output_0' to have kernel_shape [4, 4], found [3, 3]"
    )


def opened(model, strides):
    """A pool of 4 × 4 places in the mean's place, of a map of any size."""
    pooled(model, 4, strides)
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.ClearField("dim_value")


def test_a_pool_of_a_map_of_any_size_is_one_in_front_of_a_flattened_map(model, tmp_path):
    """Of maps of 4 × 4 to 7 × 7 places it leaves one, and a matrix of so many columns takes no other."""
    opened(model, 4)
    path = saved(model, tmp_path)

    network = read(path)

    assert (network.architecture.head, network.contract.head_pool) == ("flatten:1/dense", 4)
    assert apart(by_numpy(network), by_onnx(path, architecture=network.architecture).logits) <= FULL


def test_a_pool_that_takes_every_place_of_a_map_of_any_size_is_refused(model, tmp_path):
    """It is the mean of some."""
    opened(model, 1)
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message.endswith(
        "in final.pool expected AveragePool '/GlobalAveragePool_output_0' to have strides [4, 4], found [1, 1]"
    )


@pytest.mark.parametrize("opset", [17, 18])
def test_means_over_one_axis_after_the_other_are_the_mean(opset, model, tmp_path):
    """With axes as an attribute or an input, kept or not."""
    import torch

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_network()

        def forward(self, x):
            return self.inner.classifier(torch.relu(self.inner.features(x)).mean(3).mean(2))

    path = export(Twice(), tmp_path / "x.onnx", "unfolded", opset_version=opset)

    assert apart(by_numpy(read(path)), truth(small_network(), PICTURES)) <= FULL


def test_a_head_behind_no_relu_is_read_as_it_is(model, tmp_path):
    """The same weights without the last ReLU are another function, which the graph says."""
    whole = by_numpy(read(saved(model, tmp_path)))
    relu = node_of(model, "Relu", 8)
    replaced(model, relu, helper.make_node("Identity", relu.input, relu.output))
    path = saved(model, tmp_path)

    network = read(path)

    assert network.architecture.head == "no-relu/mean/dense"
    answer = by_onnx(path, architecture=network.architecture).logits
    assert apart(by_numpy(network), answer) <= FULL < apart(whole, answer)


def test_dropout_in_training_is_said(model, tmp_path):
    """What it would do then is not read."""
    gemm = node_of(model, "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    drop = helper.make_node("Dropout", [gemm.input[0], "", "training"], ["dropped"])
    gemm.input[0] = "dropped"
    replaced(model, gemm, drop, gemm)

    notes = formats.read(saved(model, tmp_path)).metadata["notes"]

    assert notes == ["the graph was exported for training: as it stands it normalises each batch by itself"]
