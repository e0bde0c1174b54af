"""ONNX models are read by their graph, whoever wrote them, and their own software agrees with numpy."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from tests.support.networks import images
from tests.support.onnx_models import (
    FOLDED,
    FORMS,
    FULL,
    LIGHT,
    PICTURES,
    SINGLE,
    SMALL,
    WHOLE,
    apart,
    by_numpy,
    by_onnx,
    export,
    node_of,
    random_model,
    randomised,
    small_network,
    tensor_of,
    truth,
    zoo_model,
)
from tests.support.random_weights import random_weights


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Form → what torch's exporters write of the small network."""
    folder, network = tmp_path_factory.mktemp("exports"), small_network()
    return {form: export(network, folder / f"{form}.onnx", form) for form in FORMS}


# -- what torch's exporters write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_export_has_the_network_s_own_tensors(form, exports):
    """Bit by bit, in our order, whatever stands around them in the graph."""
    state = {k: v.numpy() for k, v in small_network().state_dict().items() if not k.endswith("num_batches_tracked")}

    checkpoint = formats.read(exports[form])

    assert {key: t.load().tobytes() for key, t in checkpoint.tensors.items()} == {
        key: array.tobytes() for key, array in zip(checkpoint.tensors, state.values(), strict=True)
    }
    assert [t.shape for t in checkpoint.tensors.values()] == [array.shape for array in state.values()]


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_export_is_torch_s_network_in_float64(form, exports):
    """Numpy on what was read against torch on what was exported."""
    logits = by_numpy(read(exports[form]))

    assert apart(logits, truth(small_network(), PICTURES)) <= FULL


@pytest.mark.parametrize("form", FOLDED)
def test_a_folded_export_is_the_file_s_own_function_in_float64(form, exports):
    """The norms that stand for what was folded change nothing; the exporter's own rounding is the file's."""
    logits = by_numpy(read(exports[form]))

    assert apart(logits, by_onnx(exports[form]).logits) <= FULL


@pytest.mark.parametrize("form", FOLDED)
def test_a_folded_export_is_torch_s_network_but_for_the_exporter_s_rounding(form, exports):
    """Which is that of float32; and it is there, or nothing would have been folded."""
    logits = by_numpy(read(exports[form]))

    assert FULL < apart(logits, truth(small_network(), PICTURES)) <= SINGLE


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_found_out_without_options(form, exports):
    """Layout, architecture and contract."""
    network = read(exports[form])

    assert (network.layout, network.architecture, network.contract) == ("onnx", SMALL, Contract())


@pytest.mark.parametrize("form", FOLDED)
def test_the_result_says_which_units_lost_their_statistics(form, exports):
    """How many, and which."""
    notes = convert(exports[form], out=None).notes

    assert notes[0] == (
        "4 of 9 norms were folded into the convolutions before them when the file was exported, and their statistics "
        "are lost: stem.norm, every block*.layer*.norm2; scale 1, mean 0 and variance 1 − epsilon stand for them"
    )


def test_the_result_says_that_tensors_stand_in_another_file(exports):
    """Since the digest of the source is that of the model alone."""
    note = convert(exports["dynamo"], out=None).notes[-1]

    assert note == "tensors stand in dynamo.onnx.data beside the model, which its digest does not cover"


def test_a_folded_norm_is_rounded_once_and_parity_says_so(exports, tmp_path):
    """The two steps: the unrounded mapping meets the bound, and every written tensor is within half an ULP."""
    from densenet_port.prove.parity import check

    convert(exports["folded"], out=tmp_path / "x.weights.h5")

    result = check(tmp_path / "x.weights.h5", against=exports["folded"], backend="numpy", sizes=(32,))
    passed = {(c.kind, c.name.rpartition(", ")[2]) for c in result.checks if c.passed}
    assert result.passed, [c for c in result.checks if not c.passed]
    assert {("float64", "unrounded"), ("weights", "in ULP of the exact ones")} <= passed


def test_tensors_that_the_exporter_merged_are_told_apart(tmp_path):
    """A fresh network's norms are all ones and zeros: one of each is kept, and Identity stands for the others."""
    from torchvision.models.densenet import DenseNet

    network = DenseNet(4, (2, 1), 8, num_classes=7).eval()
    export(network, tmp_path / "x.onnx", "unfolded")
    assert any(node.op_type == "Identity" for node in onnx.load(tmp_path / "x.onnx").graph.node)

    loaded = read(tmp_path / "x.onnx")

    assert apart(by_numpy(loaded), truth(network, PICTURES)) <= FULL


def test_a_fine_tuned_head_with_a_sigmoid_keeps_its_logits(tmp_path):
    """The graph ends in Sigmoid, or Softmax: that is the contract's, not the weights'."""
    from torch import nn

    network = small_network()
    export(nn.Sequential(network, nn.Sigmoid()).eval(), tmp_path / "x.onnx", "unfolded")

    loaded = read(tmp_path / "x.onnx")

    assert (loaded.contract.output, apart(by_numpy(loaded), truth(network, PICTURES)) <= FULL) == ("sigmoid", True)


@pytest.mark.parametrize("form", ["folded", "unoptimised"])
def test_timm_s_deep_stem_and_blur_are_read(form, tmp_path):
    """The pads of the blur are worked out in the graph."""
    from timm.layers import BlurPool2d
    from timm.models.densenet import DenseNet

    network = DenseNet(4, (2, 1), 7, stem_type="deep", aa_layer=BlurPool2d)
    path = export(randomised(network), tmp_path / "x.onnx", form)

    loaded = read(path)

    assert (loaded.architecture, loaded.contract.stem_pool) == (replace(SMALL, stem="deep"), "blur")
    assert apart(by_numpy(loaded), by_onnx(path, architecture=loaded.architecture).logits) <= FULL
    assert apart(by_numpy(loaded), truth(network, PICTURES)) <= (FULL if form == "unoptimised" else SINGLE)


def test_a_head_that_was_written_before_flatten_was_is_read(tmp_path):
    """`x.view(x.size(0), -1)` leaves a handful of nodes that work out the batch."""
    import torch
    from torch import nn

    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_network()

        def forward(self, x):
            features = torch.relu(self.inner.features(x))
            return self.inner.classifier(features.mean((2, 3)).view(x.size(0), -1))

    path = export(Old(), tmp_path / "x.onnx", "unfolded", input_names=["x"], dynamic_axes={"x": {0: "n"}})
    assert {"Shape", "Gather", "Reshape"} <= {node.op_type for node in onnx.load(path).graph.node}

    logits = by_numpy(read(path))

    assert apart(logits, truth(small_network(), PICTURES)) <= FULL


def test_a_full_121_folded_by_the_exporter(tmp_path):
    """59 of its 121 norms are gone; the function is the file's to float64's rounding."""
    from tests.support.networks import torchvision_network

    export(torchvision_network("121", 0), tmp_path / "x.onnx", "folded")
    pictures = images(1, 64)

    network = read(tmp_path / "x.onnx")

    assert network.architecture == Architecture.named("121")
    assert convert(tmp_path / "x.onnx", out=None).notes[0].startswith("59 of 121 norms were folded")
    expected = by_onnx(tmp_path / "x.onnx", pictures, architecture=network.architecture).logits
    assert apart(by_numpy(network, pictures), expected) <= FULL


# -- the model zoo's form ----------------------------------------------------------------------------------------------


def zoo_weights(architecture=SMALL):
    """Random weights with a Scale behind every norm, so that a fold that takes one for the other is seen."""
    random, weights = np.random.default_rng(1), random_weights(architecture)
    for unit in architecture.units.values():
        if unit.kind == "norm":
            weights[Slot(unit.name, "second_scale")] = random.uniform(0.5, 1.5, unit.sizes["c"]).astype("f4")
            weights[Slot(unit.name, "second_shift")] = random.normal(0, 0.2, unit.sizes["c"]).astype("f4")
    return weights


def test_the_zoo_s_form_is_folded_as_onnx_computes_it(tmp_path):
    """Both scales and both shifts, in float64."""
    path = zoo_model(SMALL, zoo_weights(), tmp_path / "x.onnx")

    network = read(path)

    assert (network.layout, network.architecture, network.contract.input.order) == ("onnx-caffe2", SMALL, "bgr")
    assert apart(by_numpy(network), by_onnx(path).logits) <= FULL


def test_the_fold_of_the_zoo_s_form_is_looked_at(tmp_path):
    """The test above fails for a Scale that is left out."""
    path = zoo_model(SMALL, zoo_weights(), tmp_path / "x.onnx")
    network = read(path)

    plain = dict(network.weights) | {Slot("final.norm", "scale"): np.ones(12, "f4")}

    logits = forward(SMALL, network.contract, plain, PICTURES)
    assert apart(logits, by_onnx(path).logits) > FULL


def test_the_zoo_s_older_files_say_the_same(tmp_path):
    """In opset 6 a vector's axis is an attribute of Mul and Add; ONNX Runtime runs none that is so old."""
    checkpoints = [formats.read(zoo_model(SMALL, zoo_weights(), tmp_path / f"{opset}.onnx", opset)) for opset in (6, 9)]

    first, second = ({name: t.load().tobytes() for name, t in file.tensors.items()} for file in checkpoints)
    assert first == second


@pytest.fixture(scope="module")
def light():
    """The zoo's 121 in ONNX's own test data: norms of two units as trained, every other number 0.02."""
    return read(LIGHT / "light_densenet121.onnx")


def test_the_zoo_s_light_model_is_a_121_of_caffe(light):
    """836 of its tensors are made by the graph, of shapes that stand in initialisers."""
    assert (light.layout, light.architecture) == ("onnx-caffe2", Architecture.named("121"))


def test_the_zoo_s_light_model_has_the_trained_norms(light):
    """The first values of the two units that were left; the Scale's own, since the norm's are ones and zeros."""
    slots = [("stem.norm", "scale"), ("stem.norm", "shift"), ("stem.norm", "mean"), ("stem.norm", "variance")]
    slots += [("block1.layer1.norm1", "scale"), ("block1.layer1.norm1", "variance")]

    values = [light.weights[Slot(*slot)][:3].astype("f4") for slot in slots]

    expected = [
        (0.02341641, 0.02280306, 0.0244258),
        (0.09552304, 0.04007933, 0.0339276),
        (0.01151119, -0.00437252, -0.001313),
        (33.792652, 1.1074815, 0.73810667),
        (0.28197813, 0.1298655, 0.23176852),
        (0.00057191, 0.00080955, 0.00097222),
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_zoo_s_light_model_gives_the_recorded_output(light):
    """Through every fold and the head; it says nothing of kernels' axes, since all of them are constant."""
    recorded = numpy_helper.to_array(onnx.load_tensor(LIGHT / "light_densenet121_output_0.pb"))

    logits = forward(light.architecture, light.contract, light.weights, images(1, 224), dtype=np.float32)

    np.testing.assert_allclose(logits[:, :, None, None], recorded, rtol=1e-5)


# -- how else a graph may have it --------------------------------------------------------------------------------------


@pytest.fixture
def model(exports):
    """The unfolded export, to be changed."""
    return onnx.load(exports["unfolded"])


def saved(model, tmp_path):
    onnx.save(model, tmp_path / "x.onnx")
    return tmp_path / "x.onnx"


def replaced(model, node, *others):
    """The model with nodes in the place of one."""
    place = list(model.graph.node).index(node)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *others, *nodes[place + 1 :]])


def attribute(node, name, value):
    """Give a node an attribute, in place of the one it has."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def head_of_matmul(model):
    """MatMul and Add, with the weight's axes the other way."""
    gemm = node_of(model, "Gemm")
    weight = tensor_of(model, gemm.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    nodes = [
        helper.make_node("MatMul", [gemm.input[0], gemm.input[1]], ["product"]),
        helper.make_node("Add", ["product", gemm.input[2]], [gemm.output[0]]),
    ]
    replaced(model, gemm, *nodes)


def gemm_as_it_comes(model):
    """A weight that is not turned."""
    gemm = node_of(model, "Gemm")
    weight = tensor_of(model, gemm.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    attribute(gemm, "transB", 0)


def kernel_turned_in_the_graph(model):
    """Stored h w i o, and a Transpose in front of the convolution."""
    conv = node_of(model, "Conv")
    weight = tensor_of(model, conv.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).transpose(2, 3, 1, 0).copy(), weight.name))
    turn = helper.make_node("Transpose", [conv.input[1]], ["turned"], perm=[3, 2, 0, 1])
    conv.input[1] = "turned"
    replaced(model, conv, turn, conv)


def bias_before_a_norm(model):
    """A bias that is not zero, and a mean that is as much larger."""
    conv, norm = node_of(model, "Conv"), node_of(model, "BatchNormalization")
    mean = tensor_of(model, norm.input[3])
    bias = np.arange(8, dtype="f4") / 4
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + bias, mean.name))
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    conv.input.append("bias")


def padding_of_its_own(model):
    """A Pad in front of the stem's convolution, as Keras's layers have it."""
    conv = node_of(model, "Conv")
    pads = numpy_helper.from_array(np.array([0, 0, 3, 3, 0, 0, 3, 3]), "pads")
    model.graph.initializer.append(pads)
    pad = helper.make_node("Pad", [conv.input[0], "pads"], ["padded"])
    conv.input[0] = "padded"
    attribute(conv, "pads", [0, 0, 0, 0])
    replaced(model, conv, pad, conv)


def norm_of_mul_and_add(model):
    """A norm that is no BatchNormalization any more."""
    norm = node_of(model, "BatchNormalization", 1)
    scale, shift, mean, variance = (numpy_helper.to_array(tensor_of(model, name)) for name in norm.input[1:])
    factor = scale / np.sqrt(variance + 1e-5)
    for name, array in (("factor", factor), ("offset", shift - mean * factor)):
        model.graph.initializer.append(numpy_helper.from_array(array.astype("f4").reshape(1, -1, 1, 1), name))
    nodes = [
        helper.make_node("Mul", ["factor", norm.input[0]], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], list(norm.output)),
    ]
    replaced(model, norm, *nodes)


def elements_of_their_type(model):
    """`float_data` in the place of `raw_data`."""
    for held in model.graph.initializer:
        array = numpy_helper.to_array(held)
        held.CopyFrom(helper.make_tensor(held.name, held.data_type, array.shape, array.ravel().tolist()))


def dropout_and_identity(model):
    """Behind the mean over the picture."""
    gemm = node_of(model, "Gemm")
    nodes = [
        helper.make_node("Dropout", [gemm.input[0]], ["dropped"]),
        helper.make_node("Identity", ["dropped"], ["same"]),
    ]
    gemm.input[0] = "same"
    replaced(model, gemm, *nodes, gemm)


WAYS = [
    head_of_matmul,
    gemm_as_it_comes,
    kernel_turned_in_the_graph,
    bias_before_a_norm,
    padding_of_its_own,
    norm_of_mul_and_add,
    elements_of_their_type,
    dropout_and_identity,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_other_ways_to_write_the_same_network_are_read(way, model, tmp_path):
    """The file's own function in float64, and torch's but for what the change itself rounded."""
    way(model)
    path = saved(model, tmp_path)
    onnx.checker.check_model(path, full_check=True)

    logits = by_numpy(read(path))

    assert apart(logits, by_onnx(path).logits) <= FULL
    assert apart(logits, truth(small_network(), PICTURES)) <= SINGLE


def test_half_types_are_read_from_their_bits(tmp_path):
    """float16 in `int32_data`, and bfloat16, which comes widened."""
    array = random_weights(SMALL)[Slot("head.dense", "bias")]
    random_model(SMALL, Contract(), tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    held = tensor_of(model, "head.dense.bias")
    halves = {}
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        held.CopyFrom(helper.make_tensor(held.name, kind, array.shape, array.tolist()))
        halves[kind] = numpy_helper.to_array(held).astype("f4")
        path = saved(model, tmp_path)

        read_back = formats.read(path).tensors["head.dense.bias"].load().astype("f4")

        np.testing.assert_array_equal(read_back, halves[kind])
    assert not np.array_equal(halves[TensorProto.FLOAT16], halves[TensorProto.BFLOAT16])


# -- near misses -------------------------------------------------------------------------------------------------------


def new_channels_first(model):
    node = node_of(model, "Concat", 1)
    node.input[:] = reversed(node.input)


def a_layer_left_out_of_a_concat(model):
    del node_of(model, "Concat", 1).input[0]


def added_instead_of_joined(model):
    node_of(model, "Concat", 1).op_type = "Add"
    del node_of(model, "Add").attribute[:]


def two_strides(model):
    attribute(node_of(model, "Conv"), "strides", [1, 2])


def no_padding(model):
    attribute(node_of(model, "Conv"), "pads", [0, 0, 0, 0])


def grouped(model):
    attribute(node_of(model, "Conv", 1), "group", 2)


def other_pool(model):
    node_of(model, "AveragePool").op_type = "MaxPool"


def other_activation(model):
    node_of(model, "Relu", 2).op_type = "Elu"


def two_epsilons(model):
    attribute(node_of(model, "BatchNormalization", 2), "epsilon", 1e-3)


def no_norm(model):
    norm = node_of(model, "BatchNormalization", 1)
    replaced(model, norm, helper.make_node("Identity", norm.input[:1], norm.output[:1]))


def bias_without_norm(model):
    conv = node_of(model, "Conv", 2)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, "f4"), "bias"))
    conv.input.append("bias")


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info(node_of(model, "Relu").output[0], 1, None))


def quantised(model):
    relu = node_of(model, "Relu")
    relu.op_type = "QLinearConv"


def something_behind(model):
    gemm = node_of(model, "Gemm")
    last = helper.make_node("Softplus", ["inner"], list(gemm.output))
    gemm.output[0] = "inner"
    replaced(model, gemm, gemm, last)


def something_before(model):
    conv = node_of(model, "Conv")
    scaled = helper.make_node("Neg", [conv.input[0]], ["negative"])
    conv.input[0] = "negative"
    replaced(model, conv, scaled, conv)


def a_wider_kernel(model):
    kernel = tensor_of(model, node_of(model, "Conv", 2).input[1])
    kernel.CopyFrom(numpy_helper.from_array(np.zeros((4, 16, 5, 5), "f4"), kernel.name))


def a_lost_convolution(model):
    conv = node_of(model, "Conv", 4)
    replaced(model, conv, helper.make_node("Identity", conv.input[:1], conv.output[:1]))


def other_channels(model):
    kernel = tensor_of(model, node_of(model, "Conv", 4).input[1])
    kernel.CopyFrom(numpy_helper.from_array(np.zeros((5, 16, 3, 3), "f4"), kernel.name))


def a_kernel_that_is_worked_out(model):
    conv = node_of(model, "Conv", 2)
    negative = helper.make_node("Neg", [conv.input[1]], ["turned"])
    conv.input[1] = "turned"
    replaced(model, conv, negative, conv)


def other_norm(model):
    mean = tensor_of(model, node_of(model, "BatchNormalization", 1).input[3])
    mean.CopyFrom(numpy_helper.from_array(np.zeros(1, "f4"), mean.name))


def another_head(model):
    gemm = node_of(model, "Gemm")
    hidden = helper.make_node("Elu", gemm.input[:1], ["hidden"])
    gemm.input[0] = "hidden"
    replaced(model, gemm, hidden, gemm)


LAYER = "/features/denseblock1/denselayer"
NEAR = {
    new_channels_first: (
        f"no DenseNet: in transition1.norm expected BatchNormalization that reads ({LAYER}2/conv2/Conv_output_0, "
        f"{LAYER}1/conv2/Conv_output_0, /features/pool0/MaxPool_output_0), found BatchNormalization "
        "'/features/transition1/norm/BatchNormalization', which reads (/features/pool0/MaxPool_output_0, "
        f"{LAYER}1/conv2/Conv_output_0, {LAYER}2/conv2/Conv_output_0)"
    ),
    a_layer_left_out_of_a_concat: (
        "no DenseNet: in block1.layer2.norm1 expected BatchNormalization that reads (/features/pool0/MaxPool_output_0, "
        f"{LAYER}1/conv2/Conv_output_0), found BatchNormalization '{LAYER}2/norm1/BatchNormalization', which reads "
        f"({LAYER}1/conv2/Conv_output_0)"
    ),
    added_instead_of_joined: (
        f"no DenseNet: in block1.layer2.norm1 expected Add of one map, found Add '{LAYER}2/Concat' of several, as "
        "residual networks have it"
    ),
    two_strides: (
        "no DenseNet: in stem.conv expected Conv '/features/conv0/Conv' to have strides [1, 1], found [1, 2]"
    ),
    no_padding: (
        "no DenseNet: in stem.conv expected padding by 3 on every side, found Conv '/features/conv0/Conv' with "
        "[0, 0, 0, 0]"
    ),
    grouped: f"no DenseNet: in block1.layer1.conv1 expected Conv '{LAYER}1/conv1/Conv' to have group 1, found 2",
    other_pool: (
        "no DenseNet: in transition1.pool expected AveragePool, found MaxPool '/features/transition1/pool/AveragePool'"
    ),
    other_activation: f"no DenseNet: in block1.layer1.relu2 expected Relu, found Elu '{LAYER}1/relu2/Relu'",
    two_epsilons: "its layers differ in epsilon: 1e-05 and 0.001",
    no_norm: f"no DenseNet: in block1.layer1.norm1 expected BatchNormalization, found Relu '{LAYER}1/relu1/Relu'",
    bias_without_norm: (
        "no DenseNet: in block1.layer1.conv2 expected no bias, found one that is not zero, and no norm behind it"
    ),
    a_wider_kernel: (
        f"no DenseNet: in block1.layer1.conv2 expected Conv '{LAYER}1/conv2/Conv' to have a tensor of the shape "
        "(4, 16, 3, 3), found one of the shape (4, 16, 5, 5); of its kernels: convolution 3 of 8 has a 5x5 kernel; "
        "DenseNets have 1x1 and 3x3"
    ),
    a_lost_convolution: (
        "no DenseNet: in block1.layer2.conv2 expected Conv, found BatchNormalization "
        "'/features/transition1/norm/BatchNormalization'; of its kernels: no DenseNet without block2"
    ),
    other_channels: (
        f"no DenseNet: in block1.layer2.conv2 expected Conv '{LAYER}2/conv2/Conv' to have a tensor of the shape "
        "(4, 16, 3, 3), found one of the shape (5, 16, 3, 3)"
    ),
    a_kernel_that_is_worked_out: (
        f"no DenseNet: in block1.layer1.conv2 expected Conv '{LAYER}1/conv2/Conv' to have a tensor of the shape "
        "(1, 16, 3, 3), found what Neg gives; of its kernels: convolution 3 of 8 has a 0x0 kernel; "
        "DenseNets have 1x1 and 3x3"
    ),
    other_norm: (
        f"no DenseNet: in block1.layer1.norm1 expected BatchNormalization '{LAYER}1/norm1/BatchNormalization' to have "
        "a tensor of the shape (8,), found one of the shape (1,)"
    ),
    another_head: "no DenseNet: in head.dense expected Gemm or MatMul or Conv, found Elu 'hidden'",
    two_outputs: "a graph with 2 outputs, 91, /features/relu0/Relu_output_0: one must be named",
    quantised: "QLinearConv '/features/relu0/Relu': the network is quantised, which cannot be undone",
    something_behind: "no DenseNet: in head.dense expected the end at (91), found Softplus '91'",
    something_before: "no DenseNet: in stem.conv expected Conv, found Neg 'negative'",
}


@pytest.mark.parametrize("change", NEAR, ids=lambda change: change.__name__)
def test_a_graph_that_is_no_densenet_is_refused_by_what_it_has(change, model, tmp_path):
    """In terms of our operations and the file's nodes."""
    change(model)
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert caught.value.message == f"{path}: {NEAR[change]}"


OF_THE_ZOO = {
    "resnet50": (
        "in block1.layer1.norm1 expected BatchNormalization, found Conv 'n4'; "
        "of its kernels: no DenseNet without block2"
    ),
    "vgg19": "in stem.conv1 expected Conv 'n0' to have strides [2, 2], found [1, 1]",
    "squeezenet": (
        "in stem.conv expected padding by 1 on every side, found Conv 'n0' with [0, 0, 0, 0]; "
        "of its kernels: no DenseNet without block1"
    ),
}


@pytest.mark.parametrize("name", OF_THE_ZOO)
def test_other_networks_of_the_zoo_are_refused(name):
    """With what their graphs consist of."""
    path = LIGHT / f"light_{name}.onnx"

    with pytest.raises(MisfitError) as caught:
        formats.read(path)
    assert (caught.value.message, caught.value.hint[:10]) == (f"{path}: no DenseNet: {OF_THE_ZOO[name]}", "its graph:")


# -- the runner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_unit_can_be_looked_at(form, exports):
    """The runner's taps are numpy's, in both precisions; a convolution that holds its norm has no output of its own."""
    network, taps = read(exports[form]), {}
    forward(SMALL, network.contract, network.weights, PICTURES, tap=taps.__setitem__)

    runs = {
        d: by_onnx(exports[form], dtype=d, taps={unit: unit for unit in SMALL.units}) for d in ("float64", "float32")
    }

    folded = {unit.replace("norm", "conv") for unit in SMALL.units if unit.endswith(("stem.norm", "norm2"))}
    folded = {unit.replace("conv2", "conv1") for unit in folded} if form in FOLDED else set()
    assert [set(run.taps) for run in runs.values()] == [set(SMALL.units) - folded] * 2
    assert max(apart(tap, taps[unit]) for unit, tap in runs["float64"].taps.items()) <= FULL
    assert max(apart(tap, taps[unit]) for unit, tap in runs["float32"].taps.items()) <= SINGLE


def test_runs_say_what_they_were_computed_in(exports):
    """ONNX Runtime in float32, ONNX's reference in float64."""
    runs = [by_onnx(exports["unfolded"], dtype=dtype) for dtype in ("float32", "float64")]

    assert [run.computed_in for run in runs] == ["float32", "float64"]
    assert FULL < apart(runs[0].logits, runs[1].logits) <= SINGLE


def test_a_graph_that_is_fixed_to_its_batch_and_size_runs_on_others(exports):
    """The dynamo exporter writes one image's shape into the graph."""
    one, two = images(1, 40), images(2, 40)

    runs = [by_onnx(exports["dynamo"], pictures).logits for pictures in (one, two, two[1:])]

    assert [run.shape for run in runs] == [(1, 7), (2, 7), (1, 7)]
    np.testing.assert_array_equal(runs[1][1:], runs[2])


def test_without_a_head_the_last_map_stands_for_the_logits(exports):
    """After its ReLU, whatever the file has behind it."""
    logits = by_onnx(exports["unfolded"], architecture=SMALL.without_head()).logits
    network = read(exports["unfolded"], no_top=True)

    assert apart(logits, by_numpy(network)) <= FULL


def test_a_small_variance_needs_the_epsilon_that_is_meant(model, tmp_path):
    """An attribute is a float32, 2.5e-13 from 1e-5: seen where the variance is as small as trained networks' are."""
    for norm in (node for node in model.graph.node if node.op_type == "BatchNormalization"):
        held = tensor_of(model, norm.input[4])
        held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float32(1e-6), held.name))
    path = saved(model, tmp_path)
    network = read(path)

    meant, stored = (
        forward(SMALL, replace(network.contract, epsilon=e), network.weights, PICTURES)
        for e in (1e-5, float(np.float32(1e-5)))
    )

    logits = by_onnx(path).logits
    assert (apart(logits, meant) <= FULL, apart(logits, stored) <= FULL) == (True, False)


def test_what_onnx_refuses_is_an_error_of_ours(exports, tmp_path):
    """With its own first line."""
    model = onnx.load(exports["unfolded"])
    model.ir_version = 60
    path = saved(model, tmp_path)

    with pytest.raises(MisfitError, match="ONNX does not take it"):
        by_onnx(path, dtype="float32")


def test_a_unit_that_is_not_there_cannot_be_looked_at(exports):
    """It is named."""
    with pytest.raises(UsageError, match="has no unit stem.norm3"):
        by_onnx(exports["unfolded"], taps={"stem.norm3": "stem.norm3"})


def test_a_torch_checkpoint_becomes_a_model_that_is_the_same_network(small, tmp_path):
    """Both steps of a port: torch's float64 on the checkpoint, ONNX's on the model."""
    from tests.support.networks import torchvision_network

    convert(small, dst="onnx", out=tmp_path / "x.onnx")

    logits = by_onnx(tmp_path / "x.onnx", architecture=read(small).architecture).logits

    spec = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
    assert apart(logits, truth(torchvision_network(spec, 0), PICTURES)) <= FULL
