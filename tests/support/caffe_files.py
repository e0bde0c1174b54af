"""Caffe networks written by Google's Protocol Buffers from a schema of their own, without any code of ours.

`net` makes the complete network of an architecture as `shicai/DenseNet-Caffe` spells it, as one NetParameter: its text
is a `.prototxt`, its bytes with the blobs a `.caffemodel`. The schema has the fields of BVLC's `caffe.proto` that such
files hold. `FORMS` are the ways in which the same network's blobs can be written.
"""

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from densenet_port.network.units import Slot

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


def classes(*, packed=True, blobs="[BlobProto]"):
    """Name → Google's class of each message; `packed` is how numbers are written, `blobs` the type of a layer's."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        proto = file.enum_type.add(name=name)
        for value, number in values.items():
            proto.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        proto = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(proto, field, number, blobs if field == "blobs" else kind, packed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in SCHEMA}


def _add(proto, name, number, kind, packed):
    """One field of a message."""
    bare = kind.strip("[*]")
    label = KIND.LABEL_REPEATED if kind.startswith("[") else KIND.LABEL_OPTIONAL
    field = proto.field.add(name=name, number=number, label=label)
    if bare in TYPES:
        field.type = TYPES[bare]
    else:
        field.type = KIND.TYPE_ENUM if bare in ENUMS else KIND.TYPE_MESSAGE
        field.type_name = f".caffe.{bare}"
    if kind.endswith("*]") and packed:
        field.options.packed = True


CAFFE = classes()


def _data(array):
    """A BlobProto of an array's numbers; parsed, because Google's class would take them one by one otherwise."""
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return CAFFE["BlobProto"].FromString(b"\x2a" + varint(len(data)) + data)  # field 5, length-delimited


def varint(value):
    """Google's encoding of a number: behind the tag of a field."""
    return CAFFE["NetParameter"](input_dim=[value]).SerializeToString()[1:]


class Net:
    """A network in the making, layer by layer; `weights` are in our axes, None for a network without blobs."""

    def __init__(self, weights, factor, size, channels, epsilon):
        """Begin with the input, `size` pixels wide and high."""
        self.proto = CAFFE["NetParameter"](name="DENSENET")
        self.weights, self.factor, self.epsilon = weights, factor, epsilon
        self.add("data", "Input", []).input_param.shape.add(dim=[1, channels, size, size])

    def add(self, name, kind, bottoms, top=None):
        """Append a layer, which is given back."""
        return self.proto.layer.add(name=name, type=kind, bottom=bottoms, top=[top or name])

    def blobs(self, layer, *arrays):
        """Give a layer its blobs."""
        for array in arrays:
            layer.blobs.add(shape=CAFFE["BlobShape"](dim=array.shape)).MergeFrom(_data(array))

    def conv(self, unit, name, bottom, outputs, size, stride=1, *, bias=False):
        """Append a convolution, with the bias of the head where asked for."""
        layer = self.add(name, "Convolution", [bottom])
        proto = layer.convolution_param
        proto.num_output, proto.bias_term = outputs, bias
        proto.kernel_size.append(size)
        proto.stride.append(stride)
        proto.pad.append(size // 2)
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
            factor = np.float32(self.factor.get(unit, 1.0) if isinstance(self.factor, dict) else self.factor)
            self.blobs(layer, mean * factor, variance * factor, np.array([factor]))
            self.blobs(scale, gamma, beta)
        self.add(relu, "ReLU", [f"{name}/bn"], f"{name}/bn")
        return f"{name}/bn"

    def pool(self, name, bottom, method, size, stride, pad=0):
        """Append a pool."""
        layer = self.add(name, "Pooling", [bottom])
        proto = layer.pooling_param
        proto.pool, proto.kernel_size, proto.stride, proto.pad = method, size, stride, pad
        return name


def net(arch, weights=None, *, factor=1.0, size=224, long=False, epsilon=1e-5, floor=False):
    """The NetParameter of an architecture; `long` spells transitions and the last norm as the 201 has them.

    BatchNorm's blobs are mean and variance times `factor` (one, or one a unit), and `factor`. `floor` says of the
    transitions' pools too what is always said of the stem's: that they round down (`round_mode: FLOOR`).
    """
    network = Net(weights, factor, size, arch.channels, epsilon)
    x = network.conv("stem.conv", "conv1", "data", arch.init_channels, 7, 2)
    x = network.norm("stem.norm", "conv1", "relu1", x)
    x = network.pool("pool1", x, 0, 3, 2, 1)
    network.proto.layer[-1].pooling_param.round_mode = 1
    width = arch.init_channels
    for stage, count in enumerate(arch.layers, start=2):
        for branch in range(1, count + 1):
            unit, name = f"block{stage - 1}.layer{branch}", f"{stage}_{branch}"
            y = network.norm(f"{unit}.norm1", f"conv{name}/x1", f"relu{name}/x1", x)
            y = network.conv(f"{unit}.conv1", f"conv{name}/x1", y, arch.bottleneck * arch.growth_rate, 1)
            y = network.norm(f"{unit}.norm2", f"conv{name}/x2", f"relu{name}/x2", y)
            y = network.conv(f"{unit}.conv2", f"conv{name}/x2", y, arch.growth_rate, 3)
            network.add(f"concat_{name}", "Concat", [x, y])
            x, width = f"concat_{name}", width + arch.growth_rate
        last = stage == len(arch.layers) + 1
        number = 5 if last else stage  # a network of fewer blocks skips numbers
        place = f"{number}_{count}/blk" if long else f"{number}_blk"
        x = network.norm("final.norm" if last else f"transition{stage - 1}.norm", f"conv{place}", f"relu{place}", x)
        if not last:
            width //= 2
            x = network.conv(f"transition{stage - 1}.conv", f"conv{place}", x, width, 1)
            x = network.pool(f"pool{stage}_{count}" if long else f"pool{stage}", x, 1, 2, 2)
            if floor:
                network.proto.layer[-1].pooling_param.round_mode = 1
    layer = network.add("pool5", "Pooling", [x])
    layer.pooling_param.pool, layer.pooling_param.global_pooling = 1, True
    network.conv("head.dense", "fc6", layer.name, arch.classes, 1, bias=True)
    return network.proto


def without_blobs(proto):
    """The same network as a `.prototxt` has it: a copy without blobs."""
    bare = type(proto)(name=proto.name)
    bare.layer.extend(map(without_blobs_of, proto.layer))
    return bare


def prototxt(proto, *, rounding="round_mode"):
    """The network's text, the pools' rounding in BVLC's words or the fork's (`ceil_mode: false`)."""
    text = text_format.MessageToString(without_blobs(proto))
    return text.replace("round_mode: FLOOR", "ceil_mode: false") if rounding == "ceil_mode" else text


def blobs_of(proto):
    """Name → array of every blob, as Google's classes give them; an old vector is 1×1×1×N."""
    blobs = {}
    for layer in [*proto.layer, *proto.layers]:
        for number, blob in enumerate(layer.blobs):
            data = np.array(blob.double_data or blob.data, "f8" if blob.double_data else "f4")
            old = (blob.num, blob.channels, blob.height, blob.width)
            blobs[f"{layer.name}#{number}"] = data.reshape(old if blob.HasField("num") else tuple(blob.shape.dim))
    return blobs


# -- the same network in every form ------------------------------------------------------------------------------------


def as_saved(proto):
    """As a running Caffe saves it: Split layers, settings of learning, gradients beside the numbers."""
    proto.layer.add(name="pool1_pool1_0_split", type="Split", bottom=["pool1"], top=["a", "b"])
    for layer in proto.layer:
        for blob in layer.blobs:
            layer.param.add(lr_mult=0.5)
            blob.diff.extend([7.0] * len(blob.data))
    return proto


def with_old_shapes(proto):
    """With four sizes to each blob: a vector is 1×1×1×N, and what has four axes keeps them."""
    for layer in proto.layer:
        for blob in layer.blobs:
            dims = list(blob.shape.dim)
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = [1] * (4 - len(dims)) + dims
    return proto


def with_inner_product(proto):
    """With a head that is an InnerProduct, whose matrix has two axes."""
    layer = proto.layer[-1]
    layer.type = "InnerProduct"
    del layer.blobs[0].shape.dim[2:]
    return proto


def in_doubles(proto):
    """With numbers that float32 cannot hold."""
    for layer in proto.layer:
        for blob in layer.blobs:
            blob.double_data.extend(value + 1e-12 for value in blob.data)
            blob.ClearField("data")
    return proto


def as_old_layers(proto):
    """With the layers of Caffe's first form, types by number."""
    old = CAFFE["NetParameter"](name=proto.name)
    for layer in with_old_shapes(proto).layer:
        old.layers.add(name=layer.name, bottom=layer.bottom, top=layer.top, blobs=layer.blobs)
    old.layers[0].type = 4
    return old


def unpacked(proto):
    """Bytes with a tag before every number."""
    return classes(packed=False)["NetParameter"].FromString(proto.SerializeToString()).SerializeToString()


UNKNOWN = b"\xc2\x3e\x05never\xcd\x3e\x00\x00\x80\x3f\xc8\x3e\x07"  # fields 1000 and 1001 of three wire types


def in_pieces(proto):
    """Bytes with each blob's numbers in three pieces, unknown fields everywhere, and the shape given last."""
    raw = classes(blobs="[bytes]")
    pieces = raw["NetParameter"](name=proto.name)
    for layer in proto.layer:
        bare = raw["LayerParameter"].FromString(without_blobs_of(layer).SerializeToString() + UNKNOWN)
        for blob in layer.blobs:
            cuts = np.array_split(np.array(blob.data, "f4"), 3)
            parts = [CAFFE["BlobProto"](data=cut).SerializeToString() for cut in cuts]
            shape = CAFFE["BlobProto"](shape=blob.shape).SerializeToString()
            bare.blobs.append(parts[0] + UNKNOWN + parts[1] + parts[2] + shape)
        pieces.layer.append(bare)
    return UNKNOWN + pieces.SerializeToString() + UNKNOWN


def without_blobs_of(layer):
    """A copy of a layer without its blobs."""
    bare = type(layer).FromString(layer.SerializeToString())
    del bare.blobs[:]
    return bare


FORMS = {
    "plain": lambda proto: (proto, proto.SerializeToString()),
    "as saved by a running Caffe": lambda proto: (as_saved(proto), proto.SerializeToString()),
    "old shapes": lambda proto: (with_old_shapes(proto), proto.SerializeToString()),
    "a head that is an InnerProduct": lambda proto: (with_inner_product(proto), proto.SerializeToString()),
    "an old InnerProduct": lambda proto: (with_old_shapes(with_inner_product(proto)), proto.SerializeToString()),
    "doubles": lambda proto: (in_doubles(proto), proto.SerializeToString()),
    "old layers": lambda proto: (old := as_old_layers(proto), old.SerializeToString()),
    "unpacked": lambda proto: (proto, unpacked(proto)),
    "in pieces": lambda proto: (proto, in_pieces(proto)),
}
