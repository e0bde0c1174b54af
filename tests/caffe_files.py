"""Caffe networks written by Google's Protocol Buffers from a schema of their own, without any code of ours.

`net` makes the complete network of an architecture as `shicai/DenseNet-Caffe` spells it, as one NetParameter: its text
is a `.prototxt`, its bytes with the blobs a `.caffemodel`. The schema has the fields of BVLC's `caffe.proto` that such
files hold, and `ceil_mode`, which a fork added and the published files have.
"""

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from densenet_port.arch import Slot

KIND = descriptor_pb2.FieldDescriptorProto
TYPES = {
    "string": KIND.TYPE_STRING,
    "int32": KIND.TYPE_INT32,
    "int64": KIND.TYPE_INT64,
    "uint32": KIND.TYPE_UINT32,
    "bool": KIND.TYPE_BOOL,
    "float": KIND.TYPE_FLOAT,
    "double": KIND.TYPE_DOUBLE,
    "bytes": KIND.TYPE_BYTES,
}
ENUMS = {
    "PoolMethod": {"MAX": 0, "AVE": 1},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "V1Type": {"CONCAT": 3, "CONVOLUTION": 4, "POOLING": 17, "RELU": 18, "SPLIT": 22},
}
SCHEMA = {  # message → name: (number, type), a type in brackets is repeated, and with a star packed
    "BlobShape": {"dim": (1, "[int64*]")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "[float*]"),
        "diff": (6, "[float*]"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "[double*]"),
        "double_diff": (9, "[double*]"),
    },
    "ParamSpec": {"name": (1, "string"), "lr_mult": (3, "float")},
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool"),
        "pad": (3, "[uint32]"),
        "kernel_size": (4, "[uint32]"),
        "stride": (6, "[uint32]"),
    },
    "PoolingParameter": {
        "pool": (1, "PoolMethod"),
        "kernel_size": (2, "uint32"),
        "stride": (3, "uint32"),
        "pad": (4, "uint32"),
        "global_pooling": (12, "bool"),
        "round_mode": (13, "RoundMode"),
    },
    "BatchNormParameter": {"use_global_stats": (1, "bool"), "eps": (3, "float")},
    "ScaleParameter": {"bias_term": (4, "bool")},
    "InputParameter": {"shape": (1, "[BlobShape]")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "[string]"),
        "top": (4, "[string]"),
        "param": (6, "[ParamSpec]"),
        "blobs": (7, "[BlobProto]"),
        "convolution_param": (106, "ConvolutionParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "batch_norm_param": (139, "BatchNormParameter"),
        "scale_param": (142, "ScaleParameter"),
        "input_param": (143, "InputParameter"),
    },
    "V1LayerParameter": {
        "bottom": (2, "[string]"),
        "top": (3, "[string]"),
        "name": (4, "string"),
        "type": (5, "V1Type"),
        "blobs": (6, "[BlobProto]"),
    },
    "NetParameter": {
        "name": (1, "string"),
        "layers": (2, "[V1LayerParameter]"),
        "input": (3, "[string]"),
        "input_dim": (4, "[int32]"),
        "layer": (100, "[LayerParameter]"),
    },
}
CEIL_MODE = (13, "bool")  # what forks have in the place of round_mode


def classes(*, packed=True, rounding="round_mode"):
    """Name → Google's class of each message; `packed` is how numbers are written, `rounding` the pools' field 13."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        told = file.enum_type.add(name=name)
        for value, number in values.items():
            told.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        told = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if field == "round_mode" and rounding == "ceil_mode":
                field, (number, kind) = "ceil_mode", CEIL_MODE  # noqa: PLW2901 (the fork's)
            _add(told, field, number, kind, packed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in SCHEMA}


def _add(told, name, number, kind, packed):
    """One field of a message."""
    bare = kind.strip("[*]")
    label = KIND.LABEL_REPEATED if kind.startswith("[") else KIND.LABEL_OPTIONAL
    field = told.field.add(name=name, number=number, label=label)
    if bare in TYPES:
        field.type = TYPES[bare]
    else:
        field.type = KIND.TYPE_ENUM if bare in ENUMS else KIND.TYPE_MESSAGE
        field.type_name = f".caffe.{bare}"
    if kind.endswith("*]") and packed:
        field.options.packed = True


CAFFE = classes()


class Net:
    """A network in the making, layer by layer; `weights` are in our axes, None for a network without blobs."""

    def __init__(self, weights, factor, size, channels, epsilon):
        """Begin with the input, `size` pixels wide and high."""
        self.told = CAFFE["NetParameter"](name="DENSENET")
        self.weights, self.factor, self.epsilon = weights, factor, epsilon
        self.add("data", "Input", []).input_param.shape.add(dim=[1, channels, size, size])

    def add(self, name, kind, bottoms, top=None):
        """Append a layer, which is given back."""
        return self.told.layer.add(name=name, type=kind, bottom=bottoms, top=[top or name])

    def blobs(self, layer, *arrays):
        """Give a layer its blobs."""
        for array in arrays:
            layer.blobs.add(data=array.astype("f4").ravel(), shape=CAFFE["BlobShape"](dim=array.shape))

    def conv(self, unit, name, bottom, outputs, size, stride=1, *, bias=False):
        """Append a convolution, with the bias of the head where asked for."""
        layer = self.add(name, "Convolution", [bottom])
        told = layer.convolution_param
        told.num_output, told.bias_term = outputs, bias
        told.kernel_size.append(size)
        told.stride.append(stride)
        told.pad.append(size // 2)
        if self.weights and bias:
            kernel, shift = (self.weights[Slot(unit, role)] for role in ("kernel", "bias"))
            self.blobs(layer, kernel.T[:, :, None, None], shift)
        elif self.weights:
            self.blobs(layer, self.weights[Slot(unit, "kernel")].transpose(3, 2, 0, 1))
        return name

    def norm(self, unit, name, relu, bottom):
        """Append BatchNorm, Scale and ReLU, the latter two in place."""
        layer = self.add(f"{name}/bn", "BatchNorm", [bottom])
        if self.epsilon is not None:
            layer.batch_norm_param.eps = self.epsilon
        scale = self.add(f"{name}/scale", "Scale", [f"{name}/bn"], f"{name}/bn")
        scale.scale_param.bias_term = True
        if self.weights:
            mean, variance, gamma, beta = (
                self.weights[Slot(unit, role)] for role in ("mean", "variance", "scale", "shift")
            )
            self.blobs(layer, mean * self.factor, variance * self.factor, np.array([self.factor]))
            self.blobs(scale, gamma, beta)
        self.add(relu, "ReLU", [f"{name}/bn"], f"{name}/bn")
        return f"{name}/bn"

    def pool(self, name, bottom, method, size, stride, pad=0):
        """Append a pool."""
        layer = self.add(name, "Pooling", [bottom])
        told = layer.pooling_param
        told.pool, told.kernel_size, told.stride, told.pad = method, size, stride, pad
        return name


def net(arch, weights=None, *, factor=1.0, size=224, long=False, epsilon=1e-5, floor=False):
    """The NetParameter of an architecture; `long` spells transitions and the last norm as the 201 has them.

    BatchNorm's blobs are mean and variance times `factor`, and `factor`. `floor` says of the transitions' pools too
    what is always said of the stem's: that they round down (`round_mode: FLOOR`).
    """
    made = Net(weights, np.float32(factor), size, arch.channels, epsilon)
    x = made.conv("stem.conv", "conv1", "data", arch.init_channels, 7, 2)
    x = made.norm("stem.norm", "conv1", "relu1", x)
    x = made.pool("pool1", x, 0, 3, 2, 1)
    made.told.layer[-1].pooling_param.round_mode = 1
    width = arch.init_channels
    for stage, count in enumerate(arch.layers, start=2):
        for branch in range(1, count + 1):
            unit, name = f"block{stage - 1}.layer{branch}", f"{stage}_{branch}"
            y = made.norm(f"{unit}.norm1", f"conv{name}/x1", f"relu{name}/x1", x)
            y = made.conv(f"{unit}.conv1", f"conv{name}/x1", y, arch.bottleneck * arch.growth_rate, 1)
            y = made.norm(f"{unit}.norm2", f"conv{name}/x2", f"relu{name}/x2", y)
            y = made.conv(f"{unit}.conv2", f"conv{name}/x2", y, arch.growth_rate, 3)
            made.add(f"concat_{name}", "Concat", [x, y])
            x, width = f"concat_{name}", width + arch.growth_rate
        last = stage == len(arch.layers) + 1
        number = 5 if last else stage  # a network of fewer blocks skips numbers
        place = f"{number}_{count}/blk" if long else f"{number}_blk"
        x = made.norm("final.norm" if last else f"transition{stage - 1}.norm", f"conv{place}", f"relu{place}", x)
        if not last:
            width //= 2
            x = made.conv(f"transition{stage - 1}.conv", f"conv{place}", x, width, 1)
            x = made.pool(f"pool{stage}_{count}" if long else f"pool{stage}", x, 1, 2, 2)
            if floor:
                made.told.layer[-1].pooling_param.round_mode = 1
    layer = made.add("pool5", "Pooling", [x])
    layer.pooling_param.pool, layer.pooling_param.global_pooling = 1, True
    made.conv("head.dense", "fc6", layer.name, arch.classes, 1, bias=True)
    return made.told


def without_blobs(told):
    """The same network as a `.prototxt` has it: a copy without blobs."""
    bare = type(told).FromString(told.SerializeToString())
    for layer in bare.layer:
        del layer.blobs[:]
    return bare


def prototxt(told, *, rounding="round_mode"):
    """The network's text, the pools' rounding in BVLC's words or the fork's (`ceil_mode: false`)."""
    text = text_format.MessageToString(without_blobs(told))
    return text.replace("round_mode: FLOOR", "ceil_mode: false") if rounding == "ceil_mode" else text
