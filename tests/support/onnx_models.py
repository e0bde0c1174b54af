"""ONNX models for the tests: what torch's exporters write of a random network, and the zoo's form built by hand.

folded        the TorchScript exporter as it is called by default: a norm behind a convolution is folded into it
unfolded      the same with do_constant_folding=False
preserved     the same with training=PRESERVE
training      the same with training=TRAINING
dynamo        the dynamo exporter as it is called by default: folded, weights in another file
unoptimised   the same with optimize=False: biases of zeros, worked out in the graph
"""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from densenet_port import formats
from densenet_port.layouts.layout import Layout
from densenet_port.layouts.transform import move
from densenet_port.network.architecture import Architecture
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.job import Job
from densenet_port.prove.runners import runner
from tests.support.containers import tensor
from tests.support.networks import images, torchvision_network
from tests.support.random_weights import random_weights

SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=7")
FORMS = {
    "folded": {"dynamo": False},
    "unfolded": {"dynamo": False, "do_constant_folding": False},
    "preserved": {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE},
    "training": {"dynamo": False, "training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False},
    "dynamo": {"dynamo": True, "verbose": False},
    "unoptimised": {"dynamo": True, "optimize": False, "verbose": False},
}
WHOLE = [form for form in FORMS if form not in ("folded", "dynamo")]
FOLDED = ["folded", "dynamo"]
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
SINGLE = 1e-5  # and two float32 passes of networks of this size, or an exporter's folding in float32
PICTURES = images(2, 33)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"  # the model zoo's, with most weights made constant


def export(network, path, form, size=32, shape=None, **how):
    """Write a network in one of `FORMS`, of pictures of a size, or of a whole shape.

    With a momentum of zero an export for training leaves the statistics.
    """
    network.eval()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(shape or (1, 3, size, size)),), path, **FORMS[form], **how)
    network.eval()
    return path


def small_network(seed=0):
    """The network that `FORMS` are exports of."""
    return torchvision_network(SMALL, seed)


def randomised(network):
    """A network of torch with random norms, evaluating."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
                norm.running_mean.normal_(0, 0.2)
                norm.running_var.uniform_(0.5, 1.5)
    return network.eval()


def truth(network, images):
    """What torch makes of images `n h w c` in float64."""
    with torch.inference_mode():
        return network.double()(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()


def zoo_model(architecture, weights, path, opset=9):
    """Write a network in the form of the zoo's densenet-121.

    Opset 9, IR 3, every initialiser an input as well, a Scale of its own behind every norm, the head a convolution.
    In opset 6 Mul and Add say with `axis` what their vectors stand for. `weights` is slot → array, in our axes, and has
    two more roles for norms: second_scale and second_shift.
    """
    return _Zoo(architecture, weights, opset).save(path)


class _Zoo:
    def __init__(self, architecture, weights, opset):
        self.arch, self.weights, self.opset = architecture, weights, opset
        self.nodes, self.held, self.count = [], {}, 0

    def add(self, op, *inputs, **attributes):
        self.count += 1
        self.nodes.append(helper.make_node(op, list(inputs), [f"r{self.count}"], **attributes))
        return f"r{self.count}"

    def hold(self, name, array):
        self.held[name] = np.ascontiguousarray(array)
        return name

    def conv(self, unit, x, stride=1):
        kernel = self.weights[Slot(unit, "kernel")].transpose(3, 2, 0, 1)
        side = kernel.shape[-1]
        settings = {"strides": [stride] * 2, "pads": [side // 2] * 4, "kernel_shape": [side, side]}
        return self.add("Conv", x, self.hold(f"{unit}_w_0", kernel), **settings)

    def norm(self, unit, x):
        roles = {"scale": "scale", "bias": "shift", "mean": "mean", "var": "variance", "w": "second_scale"}
        roles["b"] = "second_shift"
        names = {k: self.hold(f"{unit}_{k}_0", self.weights[Slot(unit, role)]) for k, role in roles.items()}
        x = self.add("BatchNormalization", x, *(names[k] for k in ("scale", "bias", "mean", "var")), epsilon=1e-5)
        for op, name in (("Mul", names["w"]), ("Add", names["b"])):
            if self.opset == 6:
                x = self.add(op, x, name, axis=1, broadcast=1)
            else:
                x = self.add(op, x, self.add("Unsqueeze", name, axes=[1, 2]))
        return self.add("Relu", x)

    def network(self):
        x = self.norm("stem.norm", self.conv("stem.conv", "data_0", 2))
        x = self.add("MaxPool", x, strides=[2, 2], pads=[1] * 4, kernel_shape=[3, 3])
        for b, count in enumerate(self.arch.layers, start=1):
            for n in range(1, count + 1):
                name = f"block{b}.layer{n}"
                new = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x))
                new = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", new))
                x = self.add("Concat", x, new, axis=1)
            if b < len(self.arch.layers):
                x = self.conv(f"transition{b}.conv", self.norm(f"transition{b}.norm", x))
                x = self.add("AveragePool", x, strides=[2, 2], pads=[0] * 4, kernel_shape=[2, 2])
        x = self.add("GlobalAveragePool", self.norm("final.norm", x))
        kernel = self.hold("fc6_w_0", self.weights[Slot("head.dense", "kernel")].T[:, :, None, None])
        bias = self.hold("fc6_b_0", self.weights[Slot("head.dense", "bias")])
        return self.add("Conv", x, kernel, bias, strides=[1, 1], pads=[0] * 4, kernel_shape=[1, 1])

    def save(self, path):
        output = self.network()
        tensors = [numpy_helper.from_array(array, name) for name, array in self.held.items()]
        given = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        given.append(helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224]))
        shown = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, self.arch.classes, 1, 1])]
        graph = helper.make_graph(self.nodes, "densenet", given, shown, tensors)
        opset = [helper.make_opsetid("", self.opset)]
        onnx.save(helper.make_model(graph, producer_name="onnx-caffe2", ir_version=3, opset_imports=opset), path)
        return path


def channels_last_model(architecture, weights, path, *, islands):
    """Write a network of pictures n h w c, as converters write Keras's; the norms are arithmetic.

    Without `islands` the picture is turned once, and what follows has its channels second (tf2onnx). With them each
    convolution and pool is turned into and back (torch's exporter, of Keras on torch). `weights` is slot → array, in
    our axes.
    """
    return _ChannelsLast(architecture, weights, islands=islands).save(path)


class _ChannelsLast:
    def __init__(self, architecture, weights, *, islands):
        self.arch, self.weights, self.islands = architecture, weights, islands
        self.nodes, self.held = [], {}

    def add(self, op, *inputs, **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def hold(self, array):
        name = f"const_{len(self.held)}"
        self.held[name] = np.ascontiguousarray(array)
        return name

    def window(self, op, x, *inputs, **attributes):
        """An operator that needs the channels second."""
        if not self.islands:
            return self.add(op, x, *inputs, **attributes)
        x = self.add(op, self.add("Transpose", x, perm=[0, 3, 1, 2]), *inputs, **attributes)
        return self.add("Transpose", x, perm=[0, 2, 3, 1])

    def conv(self, unit, x, stride=1):
        kernel = self.weights[Slot(unit, "kernel")].transpose(3, 2, 0, 1)
        side = kernel.shape[-1]
        if stride > 1:
            x = self.pad(x, side // 2)
        pads = [0 if stride > 1 else side // 2] * 4
        return self.window("Conv", x, self.hold(kernel), strides=[stride] * 2, pads=pads, kernel_shape=[side] * 2)

    def pad(self, x, count):
        ends = [0, count, count, 0] if self.islands else [0, 0, count, count]
        return self.add("Pad", x, self.hold(np.array(ends * 2)))

    def norm(self, unit, x):
        scale, shift, mean, variance = (
            self.weights[Slot(unit, role)].astype("f8") for role in ("scale", "shift", "mean", "variance")
        )
        factor = scale / np.sqrt(variance + 1.001e-5)
        if self.islands:
            x = self.add("Sub", x, self.vector(mean))
            mean = np.zeros_like(mean)
        x = self.add("Mul", x, self.vector(factor))
        return self.add("Relu", self.add("Add", x, self.vector(shift - mean * factor)))

    def vector(self, values):
        return self.hold(values.astype("f4").reshape((1, 1, 1, -1) if self.islands else (1, -1, 1, 1)))

    def network(self):
        x = "picture" if self.islands else self.add("Transpose", "picture", perm=[0, 3, 1, 2])
        x = self.pad(self.norm("stem.norm", self.conv("stem.conv", x, 2)), 1)
        x = self.window("MaxPool", x, strides=[2, 2], kernel_shape=[3, 3])
        for b, count in enumerate(self.arch.layers, start=1):
            for n in range(1, count + 1):
                name = f"block{b}.layer{n}"
                new = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x))
                new = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", new))
                x = self.add("Concat", x, new, axis=-1 if self.islands else 1)
            if b < len(self.arch.layers):
                x = self.conv(f"transition{b}.conv", self.norm(f"transition{b}.norm", x))
                x = self.window("AveragePool", x, strides=[2, 2], kernel_shape=[2, 2])
        x = self.norm("final.norm", x)
        if self.islands:
            x = self.add("ReduceMean", x, self.hold(np.array([1, 2])), keepdims=0)
        else:
            x = self.add("Squeeze", self.add("GlobalAveragePool", x), self.hold(np.array([2, 3])))
        x = self.add("MatMul", x, self.hold(self.weights[Slot("head.dense", "kernel")]))
        return self.add("Add", x, self.hold(self.weights[Slot("head.dense", "bias")]))

    def save(self, path):
        output = self.network()
        tensors = [numpy_helper.from_array(array, name) for name, array in self.held.items()]
        given = [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 64, 64, self.arch.channels])]
        shown = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", self.arch.classes])]
        graph = helper.make_graph(self.nodes, "densenet", given, shown, tensors)
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), path)
        return path


def random_model(architecture, contract, path, layout="onnx", dtype="float32", record=None):
    """Write random weights in a layout of ours, as a conversion would; give the weights, slot → array in our axes.

    `record` is what to write of it instead of what is so.
    """
    table, weights = Layout.load(layout), random_weights(architecture, dtype=dtype)
    tensors = {}
    for place, rule in table.spell(architecture).items():
        what, sizes = table.content(place), architecture.units[place.unit].sizes
        array = weights[Slot(place.unit, what)] if isinstance(what, str) else np.full(sizes["c"], what, dtype)
        tensors[rule.name] = tensor(move(array, table.canonical_axes(place), rule.axes))
    if record is None:
        record = {"layout": layout, "architecture": architecture.to_json(), "contract": contract.to_json()}
    formats.write(path, tensors, json.dumps(record).encode, table.blueprint(architecture, contract))
    return weights


def by_numpy(network, pictures=PICTURES):
    """What numpy makes of a file, in float64."""
    return forward(network.architecture, network.contract, network.weights, pictures)


def by_onnx(path, pictures=PICTURES, dtype="float64", architecture=SMALL, **how):
    """What ONNX's own software makes of it: its reference in float64, ONNX Runtime in float32."""
    job = Job(network="onnxruntime", images=pictures, path=path, architecture=architecture, dtype=dtype, **how)
    return runner("onnxruntime")(job)


def apart(measured, expected):
    """The largest difference, in deviations of what is expected."""
    assert measured.shape == expected.shape
    return float(np.abs(measured - expected).max() / expected.std())


def node_of(model, op, number=0):
    """A model's node, by its operator and number among those."""
    return [node for node in model.graph.node if node.op_type == op][number]


def tensor_of(model, name):
    """A model's initialiser."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)
