"""Networks with the names of Keras's DenseNets, built of Keras's own layers in a process of its own.

    python family_script.py save FOLDER        every file of `save`; NAME.npz has weights, and float64 logits by size
    python family_script.py transfer FOLDER    keras.applications' own 121 within a model of a user's
    python family_script.py load NAME=FILE …   what the network NAME holds after loading FILE, in FILE.npz

Keras computes in float64 on TensorFlow alone, so that `save` needs it; `load` is fastest on numpy.
"""

import sys
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from tests.support import titu1994
from tests.support.keras_script import stem

SIZES = (64, 65)  # "same" and symmetric padding differ at 64 pixels, and agree at 65
NUMBERS = {
    "titu1994": "layers=2-3-2,growth_rate=8,init_channels=16,classes=7",
    "cifar": "layers=2-2,growth_rate=4,init_channels=8,classes=5,bottleneck=0,reduction=0.0,stem=cifar",
    "applications": "layers=2-1-1,growth_rate=32,init_channels=64,classes=7",
    "chexnet": "layers=1-1-1,growth_rate=32,init_channels=64,classes=14",
    "transfer": "layers=1-2-1,growth_rate=32,init_channels=64,classes=3",
    "hub": "layers=2-3-2,growth_rate=8,init_channels=64,classes=7",
    "kimm": "layers=2-3-2,growth_rate=8,init_channels=16,classes=7",
}
NAMES = {  # stem, norms and convolutions of a layer, transition, last norm, head; of block b, stage s = b + 1, layer i
    "applications": (
        *("conv1_conv", "conv1_bn"),
        *("conv{s}_block{i}_0_bn", "conv{s}_block{i}_1_conv", "conv{s}_block{i}_1_bn", "conv{s}_block{i}_2_conv"),
        *("pool{s}_bn", "pool{s}_conv", "bn", "predictions"),
    ),
    "hub": (
        *("conv1_conv", "conv1_bn"),
        *("stack{b}_block{i}_1_bn", "stack{b}_block{i}_1_conv", "stack{b}_block{i}_2_bn", "stack{b}_block{i}_2_conv"),
        *("transition{b}_bn", "transition{b}_conv", "bn", "predictions"),
    ),
    "kimm": (
        *("features_conv0_conv2d", "features_conv0_bn"),
        "features_denseblock{b}_denselayer{i}_norm1",
        "features_denseblock{b}_denselayer{i}_conv1_conv2d",
        "features_denseblock{b}_denselayer{i}_conv1_bn",
        "features_denseblock{b}_denselayer{i}_conv2",
        *("features_transition{b}_norm", "features_transition{b}_conv", "features_norm5", "classifier"),
    ),
}
NAMES["chexnet"] = NAMES["applications"]
NAMES["transfer"] = (*NAMES["applications"][:-1], "dense_4")
CONTRACTS = {
    "applications": Contract(epsilon=1.001e-5),
    "chexnet": Contract(epsilon=1.001e-5),
    "transfer": Contract(epsilon=1.001e-5),
    "hub": Contract(epsilon=1.001e-5, stem_padding="same"),
    "kimm": Contract(epsilon=1e-5),
}


class DenseNetBackbone(keras.Model):
    """A model of the class that KerasHub's files name."""


def numbers(name):
    return Architecture.named(NUMBERS[name])


def pictures(size, channels=3):
    """Two random pictures."""
    return np.random.default_rng(size).standard_normal((2, size, size, channels)).astype(np.float32)


def layer_names(name):
    """The names of the layers with weights, in order of execution."""
    first, norm, *layer, pooled, thin, last, head = NAMES[name]
    found, count = [first, norm], len(numbers(name).layers)
    for b, many in enumerate(numbers(name).layers, start=1):
        found += [pattern.format(b=b, s=b + 1, i=i) for i in range(1, many + 1) for pattern in layer]
        found += [pattern.format(b=b, s=b + 1) for pattern in (pooled, thin) if b < count]
    return [*found, last, head]


def network(name, activation):
    """A network with the names of its family."""
    arch = numbers(name)
    if name not in NAMES:
        return titu1994.network(keras, arch, activation)
    names, contract = iter(layer_names(name)), CONTRACTS[name]

    def conv(x, channels, size, **settings):
        return keras.layers.Conv2D(channels, size, use_bias=False, name=next(names), **settings)(x)

    def norm(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization(epsilon=contract.epsilon, name=next(names))(x))

    inputs = keras.Input((None, None, arch.channels))
    x = stem(inputs, arch, contract, conv, norm)
    for block, many in enumerate(arch.layers, start=1):
        for _ in range(many):
            y = norm(conv(norm(x), arch.bottleneck * arch.growth_rate, 1))
            x = keras.layers.Concatenate()([x, conv(y, arch.growth_rate, 3, padding="same")])
        if block < len(arch.layers):
            x = keras.layers.AveragePooling2D(2)(conv(norm(x), int(x.shape[-1] * (1 - arch.reduction)), 1))
    x = norm_out = norm(x)
    if name == "hub":
        x = DenseNetBackbone(inputs, norm_out, name="dense_net_backbone")(inputs)
    if name == "transfer":
        body, inputs = keras.Model(inputs, norm_out, name="densenet121"), keras.Input((None, None, arch.channels))
        x = body(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(arch.classes, activation=activation, name=next(names))(x))


def randomised(model):
    """Random weights that keep activations of order one."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name == "kernel":
            value = random.standard_normal(weight.shape) * np.sqrt(2 / np.prod(weight.shape[:-1]))
        elif weight.name in ("gamma", "moving_variance"):
            value = random.uniform(0.5, 1.5, weight.shape)
        else:
            value = random.normal(0, 0.2, weight.shape)
        weight.assign(value)
    return model


def exact(model, name):
    """The float64 logits of the same weights, by size."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    twin = network(name, None)
    for theirs, ours in zip(twin.weights, model.weights, strict=True):
        theirs.assign(np.array(ours, np.float64))
    logits = {str(size): np.array(twin(pictures(size).astype(np.float64), training=False)) for size in SIZES}
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    return logits


def legacy(model, path):
    """The weights alone as a legacy file, which `save_weights` no longer offers."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def save(folder):
    for name in NUMBERS:
        if name == "cifar":
            keras.backend.clear_session()
        model = randomised(network(name, "sigmoid" if name == "chexnet" else "softmax"))
        legacy(model, folder / f"{name}.h5")
        last = model.layers[-2].input if name == "transfer" else model.layers[-3].output
        legacy(keras.Model(model.input, last), folder / f"{name}-notop.h5")
        model.save(folder / f"{name}-whole.h5")
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        np.savez(folder / f"{name}.npz", **exact(model, name), **weights(model))


def transfer(folder):
    """As most people build one: Sequential, with a dropout before the head."""
    body = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    layers = [keras.Input((64, 64, 3)), body, keras.layers.Dropout(0.5), keras.layers.Dense(4, activation="sigmoid")]
    model = randomised(keras.Sequential(layers))
    for ending in ("h5", "keras"):
        model.save(folder / f"transfer.{ending}")
    model.save_weights(folder / "transfer.weights.h5")


def weights(model):
    return {variable.path: np.array(variable) for variable in model.variables}


def load(cases):
    for case in cases:
        name, _, file = case.partition("=")
        model = network(name.removesuffix("-notop"), None)
        if name.endswith("-notop"):
            model = keras.Model(model.input, model.layers[-3].output)
        model.load_weights(file)
        np.savez(f"{file}.npz", **weights(model))


if __name__ == "__main__":
    keras.layers.BatchNormalization()(keras.layers.Conv2D(1, 1)(keras.Input((1, 1, 1))))  # the session goes on
    if sys.argv[1] in ("save", "transfer"):
        {"save": save, "transfer": transfer}[sys.argv[1]](Path(sys.argv[2]))
    else:
        load(sys.argv[2:])
