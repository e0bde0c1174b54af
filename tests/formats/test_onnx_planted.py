"""Planted: whatever is changed in an ONNX graph, what is read is the graph's own function, or it is refused.

A script changes exports of small networks, one thing at a time: every attribute of every node, given or not, and
every number of the small tensors that say shapes; each node taken out, and others put in at every place; inputs turned
round. ONNX Runtime says what the changed file computes.
"""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import defs, helper, numpy_helper

from densenet_port.conversion.load import read
from densenet_port.errors import PortError
from densenet_port.formats.onnx import checkpoint
from densenet_port.formats.onnx.densenet import densenet
from densenet_port.formats.onnx.model import read_model
from densenet_port.network.architecture import Architecture
from densenet_port.network.numpy import forward
from tests.support.networks import torchvision_network
from tests.support.onnx_models import export, randomised
from tests.support.sweep import at_least, swept

# conv, pool and transition each see an even side and an odd one, and no map is square
PICTURES = np.random.default_rng(0).uniform(0, 2, (2, 3, 34, 36)).astype("f4")
SMALLER = np.random.default_rng(0).uniform(0, 2, (2, 3, 16, 19)).astype("f4")  # of which a head reads every place
CLOSE = 1e-4  # of the output's deviation: float32's rounding of a network of this size is a hundredth of it
NETWORK = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=7")
BODY = Architecture.named("layers=1,growth_rate=4,init_channels=8,classes=5")
TEXTS = {
    "auto_pad": ["VALID", "SAME_UPPER", "SAME_LOWER"],
    "mode": ["constant", "reflect", "edge"],
}
STRIDE = 5  # in the sweep over the changes
SMALL_TENSOR = 16  # elements of a tensor that says a shape, an axis or how a picture is prepared


def plain(folder):
    """Norms whole, opset 17."""
    return export(torchvision_network(NETWORK, 0), folder / "plain.onnx", "unfolded", opset_version=17, **OPEN)


def old(folder):
    """Norms folded, opset 9, a Pad in front of the average pool."""
    return export(torchvision_network(NETWORK, 0), folder / "old.onnx", "folded", opset_version=9, **OPEN)


def prepared(folder):
    """Pictures n h w c, blue first, prepared in the graph; a softmax behind; opset 18."""

    class Prepared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torchvision_network(NETWORK, 0)
            self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]))
            self.register_buffer("std", torch.tensor([0.3, 0.2, 0.25])[:, None, None])

        def forward(self, x):
            x = ((x[..., [2, 1, 0]] - self.mean) * 2).permute(0, 3, 1, 2) / self.std
            x = torch.relu(self.inner.features(x)).mean((2, 3))
            return torch.softmax(self.inner.classifier(x), 1)

    axes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n", 1: "h", 2: "w"}}}
    path = folder / "prepared.onnx"
    return export(Prepared(), path, "unfolded", shape=(1, 32, 32, 3), opset_version=18, **axes)


class Head(torch.nn.Module):
    """A network of one dense layer, which joins new channels first, and a head."""

    def __init__(self, pool, *layers):
        super().__init__()
        self.inner = torchvision_network(BODY, 0).features
        self.layer, self.pool, self.layers = self.inner.denseblock1.denselayer1, pool, torch.nn.Sequential(*layers)

    def forward(self, x):
        """What the head makes of a picture n c h w."""
        x = self.inner.pool0(self.inner.relu0(self.inner.norm0(self.inner.conv0(x))))
        x = self.inner.norm5(torch.cat([self.layer(x), x], 1))
        return self.layers(self.pool(torch.relu(x)))


def joined(folder):
    """Maximum and mean, norms, two matrices, as fastai has them; new channels first."""
    nn, norms = torch.nn, [torch.nn.BatchNorm1d(24), torch.nn.BatchNorm1d(4)]
    layers = [norms[0], nn.Linear(24, 4), nn.ReLU(), norms[1], nn.Linear(4, 5, bias=False)]
    head = Head(lambda x: torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1), *layers)
    return export(randomised(head), folder / "joined.onnx", "unfolded", opset_version=18, **OPEN)


def flattened(folder):
    """A pool, every place of what it leaves, a matrix, a norm and a function; new channels first."""
    nn = torch.nn
    layers = [nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 5), nn.Softmax(1)]
    head = Head(nn.AvgPool2d(2), *layers)
    return export(randomised(head), folder / "flattened.onnx", "unfolded", size=16, opset_version=17, **OPEN)


OPEN = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}


# -- what is changed ---------------------------------------------------------------------------------------------------


def changed(model, places):
    """A name and a copy of the model for each single change; others are put in front of the nodes of `places`."""
    plans = [attributes(model), shapes(model), removals(model), insertions(model, places), orders(model)]
    for name, change in swept(chain(*plans), STRIDE):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        change(copy)
        yield name, copy


def other_values(name, value):
    """Values unlike this one, of its kind."""
    if isinstance(value, bytes | str):
        own = value.decode() if isinstance(value, bytes) else value
        return [text for text in TEXTS.get(name, []) if text != own]
    if isinstance(value, float):
        return [value + 0.1, value * 3]
    if isinstance(value, int):
        return [value + 1, value - 1, 1 - value]
    if isinstance(value, list) and value and isinstance(value[0], int):
        one_more = [[*value[:i], entry + step, *value[i + 1 :]] for i, entry in enumerate(value) for step in (1, -1)]
        return [*one_more, [entry + 1 for entry in value], value[::-1]]
    return []


USUAL = {  # of attributes whose default ONNX does not say, by their name, for windows of two axes and maps of four
    "pads": [0, 0, 0, 0],
    "strides": [1, 1],
    "dilations": [1, 1],
    "axes": [2, 3],
    "perm": [0, 1, 2, 3],
}


def attributes(model):
    """Every attribute of every node, those that are not given included."""
    opset = model.opset_import[0].version
    for place, node in enumerate(model.graph.node):
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        schema = defs.get_schema(node.op_type, opset).attributes
        for name, about in schema.items():
            default = helper.get_attribute_value(about.default_value) if about.default_value.name else USUAL.get(name)
            value = given.get(name, default)
            for other in other_values(name, value):
                if other == value:
                    continue

                def change(copy, place=place, name=name, other=other):
                    set_attribute(copy.graph.node[place], name, other)

                yield f"{node.op_type} {place}: {name} {other}", change


def set_attribute(node, name, value):
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def shapes(model):
    """Every number of the small tensors, whether initialisers or constants in the graph."""
    for place, tensor in enumerate(model.graph.initializer):
        for name, other in other_tensors(tensor):

            def change(copy, place=place, other=other):
                copy.graph.initializer[place].CopyFrom(other)

            yield f"initialiser {tensor.name}: {name}", change
    for place, node in enumerate(model.graph.node):
        for entry in node.attribute:
            if not entry.HasField("t"):
                continue
            for name, other in other_tensors(entry.t):

                def change(copy, place=place, attribute=entry.name, other=other):
                    set_attribute(copy.graph.node[place], attribute, other)

                yield f"{node.op_type} {place}: {name}", change


def other_tensors(tensor):
    """A tensor with one number changed, or turned round; a kernel, which is larger, with its axes moved.

    Of weights the first number stands for all.
    """
    array = numpy_helper.to_array(tensor)
    if array.ndim == 4 and array.shape[2] == array.shape[3]:
        for name, other in (("turned", array.transpose(0, 1, 3, 2)), ("mirrored", array[:, :, ::-1, ::-1])):
            yield name, numpy_helper.from_array(np.ascontiguousarray(other), tensor.name)
    if array.ndim == 2:
        yield "turned", numpy_helper.from_array(np.ascontiguousarray(array.T), tensor.name)
    if array.size > SMALL_TENSOR:
        return
    for number in range(array.size if array.dtype == np.int64 or array.size <= 3 else 1):
        other = array.copy()
        other.reshape(-1)[number] += 1
        yield f"number {number}", numpy_helper.from_array(other, tensor.name)
    yield "backwards", numpy_helper.from_array(np.ascontiguousarray(array[::-1]) if array.ndim else -array, tensor.name)
    yield "one axis more", numpy_helper.from_array(array[..., None], tensor.name)
    yield "one axis before", numpy_helper.from_array(array[None], tensor.name)


def removals(model):
    """Each node of one picture taken out."""
    for place, node in enumerate(model.graph.node):
        if not node.input or node.op_type == "Constant":
            continue

        def change(copy, place=place):
            replace(
                copy,
                place,
                helper.make_node("Identity", copy.graph.node[place].input[:1], copy.graph.node[place].output),
            )

        yield f"without {node.op_type} {place}", change


def replace(model, place, *others):
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *others, *nodes[place + 1 :]])


PLANTED = {
    **{op: (op, {}) for op in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Elu", "HardSigmoid")},
    "Softmax": ("Softmax", {}),
    "Softmax of pictures": ("Softmax", {"axis": 0}),
    "Identity": ("Identity", {}),
    "Dropout": ("Dropout", {}),
    "Flatten": ("Flatten", {}),
    "Flatten all": ("Flatten", {"axis": 0}),
    "Max 3": ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}),
    "Mean 3": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}),
    "Max 2": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "Mean 2": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "GlobalAveragePool": ("GlobalAveragePool", {}),
    "GlobalMaxPool": ("GlobalMaxPool", {}),
    "places turned": ("Transpose", {"perm": [0, 1, 3, 2]}),
    "channels behind": ("Transpose", {"perm": [0, 2, 3, 1]}),
    "channels forth": ("Transpose", {"perm": [0, 3, 1, 2]}),
    "pictures and channels": ("Transpose", {"perm": [1, 0, 2, 3]}),
    "LRN": ("LRN", {"size": 3}),
    "LpNormalization": ("LpNormalization", {"axis": 1}),
    "InstanceNormalization": ("InstanceNormalization", {}),
}
WITH_NUMBER = {
    "half": ("Mul", 0.5),
    "a tenth more": ("Add", 0.1),
    "a tenth less": ("Sub", 0.1),
    "a third": ("Div", 3.0),
    "squared": ("Pow", 2.0),
    "slope": ("PRelu", 0.3),
    "at least": ("Max", 0.2),
    "at most": ("Min", 0.2),
}


def insertions(model, places):
    """Each of the planted nodes in front of a node's first input."""
    for place, node in enumerate(model.graph.node):
        if not node.input or node.op_type in ("Constant", "Shape") or not places(node):
            continue
        for name, (op, settings) in PLANTED.items():

            def change(copy, place=place, op=op, settings=settings):
                put_in_front(copy, place, op, [], settings)

            yield f"{name} in front of {node.op_type} {place}", change
        for name, (op, number) in WITH_NUMBER.items():
            for backwards in (False, True):

                def change(copy, place=place, op=op, number=number, backwards=backwards):
                    copy.graph.initializer.append(numpy_helper.from_array(np.array(number, "f4"), "number"))
                    put_in_front(copy, place, op, ["number"], {}, backwards=backwards)

                yield f"{name}{' of it' if backwards else ''} in front of {node.op_type} {place}", change
        for numbers in ("whole", "cast"):

            def change(copy, place=place, numbers=numbers):
                whole = [helper.make_node("Cast", [copy.graph.node[place].input[0]], ["whole"], to=7)]
                whole.append(helper.make_node("Cast", ["whole"], ["planted"], to=1))
                half = [helper.make_node("Cast", [copy.graph.node[place].input[0]], ["planted"], to=1)]
                copy.graph.node[place].input[0] = "planted"
                replace(copy, place, *(whole if numbers == "whole" else half), copy.graph.node[place])

            yield f"{numbers} in front of {node.op_type} {place}", change


def put_in_front(copy, place, op, more, settings, *, backwards=False):
    """A node between another and its first input."""
    node = copy.graph.node[place]
    inputs = [node.input[0], *more]
    planted = helper.make_node(op, inputs[::-1] if backwards else inputs, ["planted"], **settings)
    node.input[0] = "planted"
    replace(copy, place, planted, node)


def orders(model):
    """Each node's inputs turned round, each two neighbours changed, and each input replaced by the one before."""
    for place, node in enumerate(model.graph.node):
        for first, second in pairwise(range(len(node.input))):

            def change(copy, place=place, first=first, second=second):
                inputs = copy.graph.node[place].input
                inputs[first], inputs[second] = inputs[second], inputs[first]

            yield f"inputs {first} and {second} of {node.op_type} {place} changed", change

            def change(copy, place=place, first=first, second=second):
                inputs = copy.graph.node[place].input
                inputs[second] = inputs[first]

            yield f"input {first} of {node.op_type} {place} twice", change


# -- what comes of it --------------------------------------------------------------------------------------------------


def by_runtime(path, pictures):
    """What ONNX Runtime makes of the file; None where it does not run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: pictures})
    except Exception:  # noqa: BLE001 (ONNX Runtime's own errors are of many kinds)
        return None
    return output


ENDS = {
    "logits": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
    "log_softmax": lambda x: np.log(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
}


def by_us(path, pictures, monkeypatch):
    """What the network that is read makes of the same: prepared by its contract, with its output."""
    model = read_model(path)
    reading = densenet(model)
    monkeypatch.setattr(checkpoint, "read_model", lambda _path: model)  # half of the time
    network = read(path, src="onnx" if reading.facts["norms"] == "batchnorm" else "onnx-caffe2")
    x = pictures.transpose([reading.given.axes.index(axis) for axis in "nhwc"]).astype("f8")
    if reading.preparation.turned:
        x = x[..., ::-1]
    if network.origins["input"] == "graph":
        picture = network.contract.input
        x = (x / picture.scale - np.array(picture.mean)) / np.array(picture.std)
    with np.errstate(all="ignore"):
        if "output" not in reading.facts:  # the mean over the picture, as is noted
            return forward(network.architecture, network.contract, network.weights, x).mean((1, 2))
        return ENDS[network.contract.output](forward(network.architecture, network.contract, network.weights, x))


def outcome(path, pictures, monkeypatch):
    """`refused`, `read`, `does not run`; or `DIFFERENT` for another function that is read without a word."""
    try:
        measured = by_us(path, pictures, monkeypatch).reshape(-1)
    except PortError:
        return "refused"
    expected = by_runtime(path, pictures)
    if expected is None:
        return "does not run"
    within = CLOSE * float(np.nan_to_num(expected).std())
    same = expected.size == measured.size and np.allclose(measured, expected.reshape(-1), 0, within, equal_nan=True)
    return "read" if same else "DIFFERENT"


BASES = {  # what is changed, where others are put in, and how many of all changes are read and refused at least
    plain: (lambda _node: True, 230, 1500),
    old: (lambda node: node.op_type in ("Pad", "AveragePool"), 100, 380),
    prepared: (lambda node: node.op_type in ("Gather", "Sub", "Mul", "Transpose", "Div", "ReduceMean"), 200, 580),
    joined: (lambda node: node.op_type in ("ReduceMax", "ReduceMean", "Concat", "Gemm", "MatMul"), 140, 480),
    flattened: (lambda node: node.op_type in ("AveragePool", "Flatten", "Gemm", "Tanh", "Softmax"), 125, 450),
}
GIVEN = {prepared: PICTURES.transpose(0, 2, 3, 1), flattened: SMALLER}


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_no_change_of_a_graph_is_read_as_another_function(base, tmp_path, monkeypatch):
    """Each of some hundred changes is read rightly, or refused; the usual run takes every fifth."""
    path, (places, read_least, refused_least) = base(tmp_path), BASES[base]
    pictures = GIVEN.get(base, PICTURES)
    assert outcome(path, pictures, monkeypatch) == "read"

    outcomes = {}
    for name, model in changed(onnx.load(path), places):
        (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
        outcomes[name] = outcome(tmp_path / "changed.onnx", pictures, monkeypatch)

    counts = Counter(outcomes.values())
    assert [name for name, how in outcomes.items() if how == "DIFFERENT"] == []
    assert counts["read"] >= at_least(read_least, STRIDE), counts
    assert counts["refused"] >= at_least(refused_least, STRIDE), counts


def test_another_function_would_be_seen(tmp_path, monkeypatch):
    """The test above fails for a reader that took the changed file for the first."""
    path = plain(tmp_path)
    network = read(path)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            set_attribute(node, "epsilon", 0.1)
    onnx.save(model, path)
    monkeypatch.setattr("tests.formats.test_onnx_planted.read", lambda *_, **__: network)

    assert outcome(path, PICTURES, monkeypatch) == "DIFFERENT"
